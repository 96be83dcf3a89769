//! The store as its callers see it: every row goes in and comes out the same.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::clock;
use crate::domain::backup::Strategy;
use crate::domain::backup::{Backup, BackupEnd, BackupStatus};
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::id::{BackupId, InstanceId, RecoveryId, TimelineId};
use crate::domain::instance::{Control, Fault, Instance, InstanceStatus, Server};
use crate::domain::recovery::{Recovery, RecoveryOutcome, RecoveryPlan, RecoveryState};
use crate::domain::shipping::{ShippingState, ShippingStatus};
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::task::{Progress, ProgressUnit, TaskKind, TaskState};
use crate::domain::timeline::{Branch, Origin, Timeline};
use crate::testing::TempDir;

fn fault() -> Fault {
    Fault { message: "it broke".to_owned(), hint: "Mend it.".to_owned(), at: clock::now() }
}

fn an_instance(name: &str) -> Instance {
    Instance {
        id: InstanceId::random(),
        name: name.to_owned(),
        status: InstanceStatus::Build,
        fault: None,
        server: Server {
            control: Control::Argv { start: vec!["a b".to_owned()], stop: vec![] },
            socket: "/run/it's.sock".into(),
            data_dir: "/data".into(),
            binlog_base: "/data/binlog".into(),
            work_dir: "/work".into(),
            defaults_file: "/my.cnf".into(),
            port: 3306,
        },
        datastore: Datastore::Mariadb,
        version: "10.11.6".to_owned(),
        created_at: clock::now(),
        updated_at: clock::now(),
    }
}

fn coordinate(timeline: TimelineId, position: u64) -> Coordinate {
    Coordinate { timeline, ordinal: 1, file: "binlog.000001".to_owned(), position }
}

fn a_backup_end() -> BackupEnd {
    BackupEnd { at: coordinate(TimelineId::random(), 4711), position: "0-1-7".parse().unwrap(), clock: 1_700_000_000 }
}

fn a_backup(instance: InstanceId) -> Backup {
    Backup {
        id: BackupId::random(),
        instance,
        name: "nightly".to_owned(),
        description: String::new(),
        status: BackupStatus::New,
        fault: None,
        datastore: Datastore::Mariadb,
        strategy: Strategy::Mariabackup,
        server_version: String::new(),
        raw_bytes: 1 << 40,
        stored_bytes: 0,
        location: None,
        checksum: None,
        end: None,
        created_at: clock::now(),
        updated_at: clock::now(),
    }
}

fn a_recovery(instance: InstanceId) -> Recovery {
    let base_end = a_backup_end();
    Recovery {
        id: RecoveryId::random(),
        instance,
        state: RecoveryState::Planned,
        plan: RecoveryPlan {
            instance,
            target: RecoveryTarget::new(Point::Latest),
            base: BackupId::random(),
            base_strategy: Strategy::Mariabackup,
            base_version: "10.11.6".to_owned(),
            base_raw_bytes: 1,
            base_stored_bytes: 1,
            chunks: Vec::new(),
            stop: base_end.at.clone(),
            stop_clock: base_end.clock,
            position: base_end.position.clone(),
            base_end,
            transactions: 0,
            last_included: None,
            first_excluded: None,
            skipped: Vec::new(),
            given_up_transactions: 0,
            download_bytes: 1,
            replay_bytes: 0,
            disk_bytes: 1,
            estimate_seconds: 1,
            warnings: Vec::new(),
        },
        pause: true,
        paused: false,
        abort_asked: false,
        fault: None,
        outcome: RecoveryOutcome::default(),
        created_at: clock::now(),
        updated_at: clock::now(),
    }
}

fn open() -> (TempDir, Store) {
    let dir = TempDir::new();
    let store = Store::open(&dir).unwrap();
    (dir, store)
}

#[test]
fn a_fact_is_looked_up_from_outside_without_making_a_state() {
    let dir = TempDir::new();
    assert_eq!(Store::peek_repository_id(&dir).unwrap(), None);
    assert_eq!(std::fs::read_dir(&*dir).unwrap().count(), 0);
    let store = Store::open(&dir).unwrap();
    assert_eq!(Store::peek_repository_id(&dir).unwrap(), None);
    store.write(|tx| tx.set_repository_id("b")).unwrap();
    assert_eq!(Store::peek_repository_id(&dir).unwrap().as_deref(), Some("b"));
}

#[test]
fn the_file_is_private_and_synchronous() {
    let (dir, store) = open();
    store.write(|tx| tx.set_meta("a", "b")).unwrap();
    for name in ["coffer.sqlite", "coffer.sqlite-wal"] {
        let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let pragma = |name: &str| -> i64 {
        lock(&store.shared.writer).query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(pragma("synchronous"), 2);
    assert_eq!(pragma("foreign_keys"), 1);
    assert!(rusqlite::version_number() >= SQLITE_VERSION_MIN);
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (dir, store) = open();
    store.write(|tx| tx.set_meta("key", "one")).unwrap();
    store.write(|tx| tx.set_meta("key", "two")).unwrap();
    drop(store);
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.read(|db| db.meta("key")).unwrap().as_deref(), Some("two"));
    assert_eq!(store.read(|db| db.meta("other")).unwrap(), None);
}

#[test]
fn a_write_that_fails_or_panics_leaves_nothing_behind() {
    let (_dir, store) = open();
    let failed: Result<(), Error> = store.write(|tx| {
        tx.set_meta("key", "half")?;
        Err(Error::new(ErrorKind::Conflict, "no"))
    });
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Conflict);
    let shared = store.clone();
    let panicked = std::thread::Builder::new()
        .spawn(move || {
            shared.write(|tx| -> Result<(), Error> {
                tx.set_meta("key", "half").unwrap();
                panic!("on purpose");
            })
        })
        .unwrap();
    assert!(panicked.join().is_err());
    assert_eq!(store.read(|db| db.meta("key")).unwrap(), None);
    store.write(|tx| tx.set_meta("key", "whole")).unwrap();
}

#[test]
fn more_readers_than_connections_all_get_their_turn() {
    let (_dir, store) = open();
    store.write(|tx| tx.set_meta("key", "0")).unwrap();
    std::thread::scope(|scope| {
        for reader in 0..READERS_MAX * 3 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..50 {
                    assert!(store.read(|db| db.meta("key")).unwrap().is_some(), "reader {reader}");
                }
            });
        }
        for round in 0..20 {
            store.write(|tx| tx.set_meta("key", &round.to_string())).unwrap();
        }
    });
    let readers = lock(&store.shared.readers);
    assert_eq!(readers.lent, 0);
    assert!(readers.idle.len() <= READERS_MAX);
}

#[test]
fn a_reader_sees_one_moment() {
    let (_dir, store) = open();
    store
        .read(|db| {
            assert_eq!(db.meta("key")?, None);
            store.write(|tx| tx.set_meta("key", "later"))?;
            assert_eq!(db.meta("key")?, None);
            Ok(())
        })
        .unwrap();
    assert_eq!(store.read(|db| db.meta("key")).unwrap().as_deref(), Some("later"));
}

#[test]
fn a_file_that_is_no_database_is_named_with_the_remedy() {
    let dir = TempDir::new();
    crate::durable::write(&dir.join(FILE_NAME), &[0x55; 8192], 0o600).unwrap();
    let Err(err) = Store::open(&dir) else { panic!("opened") };
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert!(err.to_string().contains(FILE_NAME) && err.to_string().contains("rebuilt"), "{err}");
}

#[test]
fn an_instance_comes_back_as_it_was_written() {
    let (_dir, store) = open();
    let mut instance = an_instance("shop");
    store.write(|tx| tx.insert_instance(&instance)).unwrap();
    assert_eq!(store.read(|db| db.instance(instance.id)).unwrap(), instance);
    instance.status = InstanceStatus::Error;
    instance.fault = Some(fault());
    instance.version = "11.4.2".to_owned();
    store.write(|tx| tx.update_instance(&instance)).unwrap();
    assert_eq!(store.read(|db| db.instances()).unwrap(), [instance.clone()]);
    store.write(|tx| tx.set_instance_status(instance.id, InstanceStatus::Active, None)).unwrap();
    let shown = store.read(|db| db.instance(instance.id)).unwrap();
    assert_eq!((shown.status, shown.fault), (InstanceStatus::Active, None));
    store.write(|tx| tx.remove_instance(instance.id)).unwrap();
    let err = store.read(|db| db.instance(instance.id)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert_eq!(err.message(), format!("instance {} cannot be found", instance.id));
    assert_eq!(store.write(|tx| tx.update_instance(&instance)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_name_belongs_to_one_instance() {
    let (_dir, store) = open();
    let (first, mut second) = (an_instance("shop"), an_instance("shop"));
    store.write(|tx| tx.insert_instance(&first)).unwrap();
    let err = store.write(|tx| tx.insert_instance(&second)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    assert!(err.message().contains("`shop`"), "{err}");
    second.name = "other".to_owned();
    store.write(|tx| tx.insert_instance(&second)).unwrap();
    second.name = "shop".to_owned();
    assert_eq!(store.write(|tx| tx.update_instance(&second)).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn backups_come_back_newest_first_and_by_pages() {
    let (_dir, store) = open();
    let (shop, other) = (InstanceId::random(), InstanceId::random());
    let mut backups: Vec<Backup> = (0..7).map(|_| a_backup(shop)).collect();
    // Written in one instant: the id decides, and no page loses or repeats one.
    let at = clock::now();
    backups.iter_mut().for_each(|backup| backup.created_at = at);
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.id.to_string()));
    store.write(|tx| backups.iter().try_for_each(|backup| tx.insert_backup(backup))).unwrap();
    let foreign = a_backup(other);
    store.write(|tx| tx.insert_backup(&foreign)).unwrap();
    assert_eq!(store.read(|db| db.backups(Some(shop))).unwrap(), backups);
    let all = store.read(|db| db.backups(None)).unwrap();
    assert_eq!((all.len(), &all[0]), (8, &foreign));
    for instance in [Some(shop), None] {
        let whole = store.read(|db| db.backups(instance)).unwrap();
        let mut paged = Vec::new();
        loop {
            let after = paged.last().map(|backup: &Backup| backup.id);
            let page = store.read(|db| db.backups_page(instance, after, 3)).unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, whole);
    }
    let backup = &mut backups[0];
    backup.status = BackupStatus::Completed;
    backup.end = Some(a_backup_end());
    backup.location = Some("file:///r/m".to_owned());
    backup.checksum = Some("ab".to_owned());
    backup.fault = Some(fault());
    store.write(|tx| tx.update_backup(backup)).unwrap();
    assert_eq!(store.read(|db| db.backup(backup.id)).unwrap(), *backup);
    store.write(|tx| tx.remove_backup(backup.id)).unwrap();
    assert_eq!(store.read(|db| db.backup(backup.id)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn tasks_are_claimed_in_order_and_one_per_instance() {
    let (_dir, store) = open();
    let (shop, other) = (InstanceId::random(), InstanceId::random());
    let insert = |instance, kind: TaskKind| store.write(|tx| tx.insert_task(instance, &kind)).unwrap();
    let claim = || store.write(|tx| tx.claim_task()).unwrap();
    let first = insert(shop, TaskKind::CreateInstance);
    let second = insert(shop, TaskKind::CreateBackup { backup: BackupId::random() });
    let third = insert(other, TaskKind::RestartInstance);
    assert_eq!((first.state, first.attempts), (TaskState::Queued, 0));

    let claimed = claim().unwrap();
    assert_eq!((claimed.id, claimed.state, claimed.attempts), (first.id, TaskState::Running, 1));
    assert_eq!(claim().unwrap().id, third.id, "the second waits for the first, the third does not");
    assert!(claim().is_none());
    assert!(!store.read(|db| db.has_claimable_task()).unwrap());

    let progress = Progress { step: "copying".to_owned(), done: 7, total: 9, unit: ProgressUnit::Transactions };
    store.write(|tx| tx.set_progress(first.id, &progress)).unwrap();
    store.write(|tx| tx.finish_task(first.id, Err("it broke. Mend it.".to_owned()))).unwrap();
    let finished = store.read(|db| db.task(first.id)).unwrap();
    assert_eq!((finished.state, finished.progress), (TaskState::Failed, progress));
    assert_eq!(finished.error.as_deref(), Some("it broke. Mend it."));
    assert_eq!(
        store.write(|tx| tx.finish_task(first.id, Ok(()))).unwrap_err().message(),
        format!("task {} is FAILED and not RUNNING", first.id)
    );

    assert_eq!(claim().unwrap().id, second.id);
    store.write(|tx| tx.requeue(second.id)).unwrap();
    let again = claim().unwrap();
    assert_eq!((again.id, again.kind, again.attempts), (second.id, second.kind, 2));
    let listed: Vec<_> = store.read(|db| db.tasks(shop, 10)).unwrap().iter().map(|task| task.id).collect();
    assert_eq!(listed, [second.id, first.id]);
    assert_eq!(store.read(|db| db.unfinished_tasks(shop)).unwrap().len(), 1);
}

#[test]
fn two_running_tasks_of_an_instance_cannot_be_written() {
    let (_dir, store) = open();
    let shop = InstanceId::random();
    let statement = "UPDATE tasks SET state = 'RUNNING'";
    store.write(|tx| tx.insert_task(shop, &TaskKind::CreateInstance)).unwrap();
    store.write(|tx| tx.insert_task(shop, &TaskKind::DeleteInstance)).unwrap();
    let err = store.write(|tx| tx.execute(statement, [])).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    assert!(err.message().contains("UNIQUE"), "{err}");
}

#[test]
fn what_ran_at_the_end_waits_at_the_next_start_in_its_old_place() {
    let (dir, store) = open();
    let shop = InstanceId::random();
    let first = store.write(|tx| tx.insert_task(shop, &TaskKind::CreateInstance)).unwrap();
    store.write(|tx| tx.insert_task(shop, &TaskKind::RestartInstance)).unwrap();
    store.write(|tx| tx.claim_task()).unwrap().unwrap();
    drop(store);
    let store = Store::open(&dir).unwrap();
    assert!(store.write(|tx| tx.claim_task()).unwrap().is_none());
    assert_eq!(store.write(|tx| tx.settle_tasks()).unwrap(), 1);
    assert_eq!(store.write(|tx| tx.settle_tasks()).unwrap(), 0);
    let again = store.write(|tx| tx.claim_task()).unwrap().unwrap();
    assert_eq!((again.id, again.attempts), (first.id, 2));
}

#[test]
fn old_finished_tasks_are_forgotten_and_unfinished_ones_never() {
    let (_dir, store) = open();
    let shop = InstanceId::random();
    store
        .write(|tx| {
            for _ in 0..230 {
                let task = tx.insert_task(shop, &TaskKind::RestartInstance)?;
                tx.claim_task()?;
                tx.finish_task(task.id, Ok(()))?;
            }
            for _ in 0..300 {
                tx.insert_task(shop, &TaskKind::RestartInstance)?;
            }
            let task = tx.claim_task()?.unwrap();
            tx.finish_task(task.id, Ok(()))
        })
        .unwrap();
    let left = store.read(|db| db.tasks(shop, 1000)).unwrap();
    assert_eq!(left.iter().filter(|task| task.state == TaskState::Queued).count(), 299);
    assert!(left.len() < 500, "{}", left.len());
}

#[test]
fn a_timeline_never_changes() {
    let (_dir, store) = open();
    let instance = InstanceId::random();
    let first = Timeline {
        id: TimelineId::random(),
        instance,
        number: 1,
        origin: Origin::Initial,
        branch: None,
        state_at_begin: Default::default(),
        begun_at: clock::now(),
    };
    let second = Timeline {
        id: TimelineId::random(),
        number: 2,
        origin: Origin::Recovery(RecoveryId::random()),
        branch: Some(Branch {
            at: coordinate(first.id, 99),
            position: "0-1-5,1-1-3".parse().unwrap(),
            clock: 5,
            skipped: vec!["0-1-4".parse().unwrap()],
        }),
        state_at_begin: "0-1-9,0-2-7".parse().unwrap(),
        ..first.clone()
    };
    assert_eq!(store.read(|db| db.current_timeline(instance)).unwrap(), None);
    for timeline in [&second, &first, &second] {
        store.write(|tx| tx.insert_timeline(timeline)).unwrap();
    }
    assert_eq!(store.read(|db| db.timelines(instance)).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.read(|db| db.current_timeline(instance)).unwrap(), Some(second.clone()));
    assert_eq!(store.read(|db| db.timeline(first.id)).unwrap(), first);
    let same_id = Timeline { origin: Origin::Reset, ..second.clone() };
    let same_number = Timeline { id: TimelineId::random(), ..second };
    for other in [same_id, same_number] {
        assert_eq!(store.write(|tx| tx.insert_timeline(&other)).unwrap_err().kind(), ErrorKind::Conflict);
    }
}

#[test]
fn a_recovery_comes_back_as_it_was_written_and_an_abort_once_asked_stays() {
    let (_dir, store) = open();
    let mut recovery = a_recovery(InstanceId::random());
    store.write(|tx| tx.insert_recovery(&recovery)).unwrap();
    assert_eq!(store.read(|db| db.recovery(recovery.id)).unwrap(), recovery);
    let mut asked = recovery.clone();
    asked.abort_asked = true;
    store.write(|tx| tx.update_recovery(&asked)).unwrap();
    recovery.state = RecoveryState::Replayed;
    recovery.paused = true;
    recovery.outcome.replayed_transactions = 7;
    recovery.plan.warnings.push("the tail is gone".to_owned());
    store.write(|tx| tx.update_recovery(&recovery)).unwrap();
    recovery.abort_asked = true;
    assert_eq!(store.read(|db| db.unsettled_recovery(recovery.instance)).unwrap(), Some(recovery.clone()));
    recovery.state = RecoveryState::Aborted;
    recovery.fault = Some(fault());
    store.write(|tx| tx.update_recovery(&recovery)).unwrap();
    assert_eq!(store.read(|db| db.recoveries(recovery.instance)).unwrap(), [recovery.clone()]);
    assert_eq!(store.read(|db| db.unsettled_recovery(recovery.instance)).unwrap(), None);
}

#[test]
fn one_recovery_of_an_instance_is_under_way() {
    let (_dir, store) = open();
    let mut first = a_recovery(InstanceId::random());
    let second = a_recovery(first.instance);
    store.write(|tx| tx.insert_recovery(&first)).unwrap();
    let err = store.write(|tx| tx.insert_recovery(&second)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    assert!(err.message().contains(&first.id.to_string()), "{err}");
    first.state = RecoveryState::Retained;
    store.write(|tx| tx.update_recovery(&first)).unwrap();
    store.write(|tx| tx.insert_recovery(&second)).unwrap();
    let listed: Vec<_> = store.read(|db| db.recoveries(first.instance)).unwrap().iter().map(|r| r.id).collect();
    assert_eq!(listed, [second.id, first.id]);
    first.state = RecoveryState::UndoFenced;
    assert_eq!(store.write(|tx| tx.update_recovery(&first)).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn shipping_tokens_and_meta_are_kept() {
    let (_dir, store) = open();
    let instance = InstanceId::random();
    let mut status = ShippingStatus {
        state: ShippingState::Shipping,
        shipped_to: Some(coordinate(TimelineId::random(), 4)),
        position: "0-1-5".parse().unwrap(),
        last_commit: 5,
        behind_bytes: 0,
        behind_since: None,
        message: String::new(),
        looked_at: clock::now(),
    };
    assert_eq!(store.read(|db| db.shipping(instance)).unwrap(), None);
    store.write(|tx| tx.set_shipping(instance, &status)).unwrap();
    status.state = ShippingState::Failing;
    store.write(|tx| tx.set_shipping(instance, &status)).unwrap();
    assert_eq!(store.read(|db| db.shipping(instance)).unwrap(), Some(status));

    let digest = "0a".repeat(32);
    store.write(|tx| tx.insert_token(&digest, "first")).unwrap();
    let tokens = store.read(|db| db.tokens()).unwrap();
    assert_eq!(
        tokens.iter().map(|token| (&token.sha256, token.name.as_str())).collect::<Vec<_>>(),
        [(&digest, "first")]
    );
    let err = store.write(|tx| tx.insert_token("a-plain-token", "no")).unwrap_err();
    assert!(!err.to_string().contains("a-plain-token"), "{err}");
}

#[test]
fn the_lists_an_idle_appliance_asks_for_use_their_indexes() {
    let (_dir, store) = open();
    let plan = |query| store.read(|db| db.plan_of(query)).unwrap();
    let next = plan(tasks::NEXT);
    assert!(next.contains("tasks_queued") && next.contains("tasks_running"), "{next}");
    for query in [backups::OF_ALL, backups::OF_INSTANCE, backups::PAGE_OF_ALL, backups::PAGE_OF_INSTANCE] {
        let plan = plan(query);
        assert!(plan.contains("USING INDEX backups_") && !plan.contains("TEMP B-TREE"), "{query}: {plan}");
    }
}
