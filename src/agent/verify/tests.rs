//! What a verification reaches, and that nothing but damage counts as damage.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::schedule::{Schedule, cast_scheduled};
use super::*;
use crate::agent::Settings;
use crate::datastore::Toolbox;
use crate::domain::backup::BackupEnd;
use crate::domain::backup::Strategy;
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::GtidPosition;
use crate::domain::id::TimelineId;
use crate::domain::instance::{Control, Instance, InstanceStatus, Server};
use crate::domain::timeline::{Branch, Origin};
use crate::queue::Bell;
use crate::repository::Repository;
use crate::repository::manifest::{Manifest, PART_BYTES};
use crate::repository::writer::BackupWriter;
use crate::store::Store;
use crate::testing::TempDir;

fn place(timeline: TimelineId, ordinal: u32, position: u64) -> Coordinate {
    Coordinate { timeline, ordinal, file: format!("b.{ordinal:06}"), position }
}

#[test]
fn a_recovery_from_a_backup_can_need_its_timeline_behind_it_and_whatever_branches_off_there() {
    let instance = InstanceId::random();
    let ids: Vec<TimelineId> = (0..5).map(|_| TimelineId::random()).collect();
    // 2 leaves 1 before the backup's end, 3 behind it, 4 leaves 3 and 5 leaves 2.
    let branches = [None, Some((0, 1, 100)), Some((0, 2, 50)), Some((2, 1, 1)), Some((1, 9, 9))];
    let timelines: Vec<Timeline> = ids
        .iter()
        .zip(branches)
        .zip(1..)
        .map(|((id, branch), number)| Timeline {
            id: *id,
            instance,
            number,
            origin: Origin::Initial,
            branch: branch.map(|(parent, ordinal, position): (usize, u32, u64)| Branch {
                at: place(ids[parent], ordinal, position),
                position: GtidPosition::default(),
                clock: 0,
                skipped: Vec::new(),
            }),
            state_at_begin: Default::default(),
            begun_at: Timestamp::UNIX_EPOCH,
        })
        .collect();
    let end = BackupEnd { at: place(ids[0], 1, 200), position: GtidPosition::default(), clock: 0 };
    let backup = Backup {
        id: BackupId::random(),
        instance,
        name: String::new(),
        description: String::new(),
        status: BackupStatus::Completed,
        fault: None,
        datastore: Datastore::Mariadb,
        strategy: Strategy::Mariabackup,
        server_version: String::new(),
        raw_bytes: 0,
        stored_bytes: 0,
        location: None,
        checksum: None,
        end: Some(end),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let found: Vec<(u32, (u32, u64))> =
        histories_behind(&backup, &timelines).iter().map(|it| (it.timeline.number, it.from)).collect();
    assert_eq!(found, [(1, (1, 200)), (3, (0, 0)), (4, (0, 0))]);
}

/// An instance with a backup of three parts in a folder, and an agent's context to verify it with.
struct Bench {
    dir: TempDir,
    context: Context,
    instance: InstanceId,
    backup: BackupId,
}

impl Bench {
    fn new() -> Bench {
        let dir = TempDir::new();
        let store = Store::open(&dir).unwrap();
        let url = format!("file://{}", dir.join("repository").display());
        let repository = Repository::open(&url, &Default::default()).unwrap();
        let server = Server {
            control: Control::Created,
            socket: PathBuf::from("/s"),
            data_dir: PathBuf::new(),
            binlog_base: PathBuf::new(),
            work_dir: PathBuf::new(),
            defaults_file: PathBuf::new(),
            port: 0,
        };
        let now = clock::now();
        let instance = Instance {
            id: InstanceId::random(),
            name: "shop".to_owned(),
            status: InstanceStatus::Active,
            fault: None,
            server,
            datastore: Datastore::Mariadb,
            version: String::new(),
            created_at: now,
            updated_at: now,
        };
        let mut backup = Backup::of(&instance, "base".to_owned(), now);
        let timeline = Timeline {
            id: TimelineId::random(),
            instance: instance.id,
            number: 1,
            origin: Origin::Initial,
            branch: None,
            state_at_begin: Default::default(),
            begun_at: now,
        };
        let end = BackupEnd { at: place(timeline.id, 1, 4), position: GtidPosition::default(), clock: 0 };
        let mut writer = BackupWriter::begin(&repository, instance.id, backup.id, None, Default::default()).unwrap();
        writer.write_all(&vec![7; 2 * PART_BYTES + 1]).unwrap();
        let parts = writer.finish().unwrap();
        let manifest = Manifest {
            format: crate::repository::FORMAT,
            backup: backup.id,
            instance: instance.id,
            timeline: timeline.id,
            name: backup.name.clone(),
            description: String::new(),
            datastore: Datastore::Mariadb,
            strategy: Strategy::Mariabackup,
            server_version: String::new(),
            tool: String::new(),
            tool_version: String::new(),
            compression: repository.compression().name().to_owned(),
            encrypted_to: Vec::new(),
            raw_bytes: writer.raw_bytes(),
            sha256: writer.sha256().to_owned(),
            parts,
            begin: None,
            end: end.clone(),
            created_at: now,
            completed_at: now,
        };
        let (location, checksum) = repository.put_manifest(&manifest).unwrap();
        backup.status = BackupStatus::Completed;
        (backup.location, backup.checksum, backup.end) = (Some(location), Some(checksum), Some(end));
        store
            .write(|tx| {
                tx.insert_instance(&instance)?;
                tx.insert_timeline(&timeline)?;
                tx.insert_backup(&backup)
            })
            .unwrap();
        let tools = Toolbox::unused();
        let settings = Settings {
            state_dir: dir.to_path_buf(),
            poll: Duration::from_millis(10),
            chunk_bytes_max: 1,
            undo_window: Duration::from_secs(1),
            verification: Some(Schedule { every: Duration::from_secs(3600), slices: 2 }),
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let repository = Arc::new(repository);
        let context = Context { store, repository, tools, settings, bell: Bell::new(), stopping };
        Bench { dir, context, instance: instance.id, backup: backup.id }
    }

    /// Runs what waits, as a worker would.
    fn work(&self) -> Result<(), Error> {
        let task = self.context.store.write(|tx| tx.claim_task()).unwrap().unwrap();
        let outcome = do_verify(&self.context, &task);
        let end = outcome.as_ref().copied().map_err(ToString::to_string);
        self.context
            .store
            .write(|tx| match &outcome {
                Err(err) if err.kind() == ErrorKind::Busy => tx.defer(task.id),
                _ => tx.finish_task(task.id, end),
            })
            .unwrap();
        outcome
    }

    fn cast(&self, kind: &TaskKind) -> Task {
        self.context.store.write(|tx| tx.insert_task(self.instance, kind)).unwrap()
    }

    fn run(&self, subject: &str, is_scheduled: bool) -> VerificationRun {
        self.context.store.read(|db| db.verification_run(subject, is_scheduled)).unwrap().unwrap()
    }

    fn bad(&self) -> Vec<String> {
        let bad = self.context.store.read(|db| db.bad_objects(self.instance, 10)).unwrap();
        bad.into_iter().map(|object| object.reason).collect()
    }
}

#[test]
fn a_store_that_is_away_is_no_damage_and_what_was_read_before_is_not_read_again() {
    let bench = Bench::new();
    let verify = TaskKind::VerifyBackup { backup: bench.backup, slice: Slice::WHOLE };
    let (here, aside) = (bench.dir.join("repository"), bench.dir.join("aside"));
    std::fs::rename(&here, &aside).unwrap();
    bench.cast(&verify);
    assert_eq!(bench.work().unwrap_err().kind(), ErrorKind::Unavailable);
    let run = bench.run(&bench.backup.to_string(), false);
    assert!(run.fault.is_some() && run.ended_at.is_none() && bench.bad().is_empty(), "{run:?}");
    // Another repository in its place has none of the objects, and that says nothing of ours.
    Repository::open(&format!("file://{}", here.display()), &Default::default()).unwrap();
    bench.cast(&verify);
    assert_eq!(bench.work().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(bench.bad().is_empty());
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(&aside, &here).unwrap();

    let task = bench.cast(&verify);
    bench.context.store.write(|tx| tx.insert_task(bench.instance, &TaskKind::RestartInstance)).unwrap();
    let err = bench.work().unwrap_err();
    assert_eq!((err.kind(), err.message().as_str()), (ErrorKind::Busy, "to restart the server comes first"));
    let other = bench.context.store.write(|tx| tx.claim_task()).unwrap().unwrap();
    assert_eq!(other.kind, TaskKind::RestartInstance);
    bench.context.store.write(|tx| tx.finish_task(other.id, Ok(()))).unwrap();
    bench.work().unwrap();
    let run = bench.run(&bench.backup.to_string(), false);
    assert_eq!((run.task, run.objects, run.bad, run.fault), (task.id, 4, 0, None));
    let health = bench.context.store.read(|db| db.backup_health(bench.backup)).unwrap();
    assert_eq!(health.name(), "OK");
}

#[test]
fn what_was_read_since_a_verification_was_begun_is_not_read_again_and_a_bad_object_is_an_alarm_at_once() {
    let bench = Bench::new();
    let verify = TaskKind::VerifyBackup { backup: bench.backup, slice: Slice::WHOLE };
    let first = bench.cast(&verify);
    bench.work().unwrap();
    let repository = &bench.context.repository;
    let checksum = bench.context.store.read(|db| db.backup(bench.backup)).unwrap().checksum;
    let manifest = repository.verify_manifest(bench.instance, bench.backup, checksum.as_deref()).unwrap();
    let part = bench.dir.join("repository").join(&manifest.parts[1].key);
    std::fs::remove_file(&part).unwrap();
    // As a restart finds it: the task again, and the run as the first attempt has left it.
    let again = bench.cast(&verify);
    let left = VerificationRun::begun(again.id, Slice::WHOLE, first.created_at);
    bench.context.store.write(|tx| tx.set_verification_run(&bench.backup.to_string(), false, &left)).unwrap();
    bench.work().unwrap();
    let run = bench.run(&bench.backup.to_string(), false);
    assert_eq!((run.objects, run.bad, bench.bad().len()), (4, 0, 0));

    bench.cast(&verify);
    bench.work().unwrap();
    let run = bench.run(&bench.backup.to_string(), false);
    assert_eq!((run.objects, run.bad, &run.bad_keys), (4, 1, &vec![manifest.parts[1].key.clone()]));
    assert_eq!(bench.bad(), ["the part is missing"]);
    // It was the only base, so another backup was cast, and only one.
    let casts = || {
        let tasks = bench.context.store.read(|db| db.unfinished_tasks(bench.instance)).unwrap();
        tasks.iter().filter(|task| matches!(task.kind, TaskKind::CreateBackup { .. })).count()
    };
    assert_eq!(casts(), 1);
    let other = bench.context.store.write(|tx| tx.claim_task()).unwrap().unwrap();
    bench.context.store.write(|tx| tx.finish_task(other.id, Err("it failed".to_owned()))).unwrap();
    std::fs::remove_file(bench.dir.join("repository").join(&manifest.parts[0].key)).unwrap();
    bench.cast(&verify);
    bench.work().unwrap();
    assert_eq!((bench.bad().len(), casts()), (2, 0));
}

#[test]
fn the_schedule_reads_everything_once_slice_by_slice_and_a_stop_loses_nothing() {
    let bench = Bench::new();
    let created_at = bench.context.store.read(|db| db.instance(bench.instance)).unwrap().created_at;
    let at = |hours: i64| created_at.checked_add(jiff::SignedDuration::from_hours(hours)).unwrap();
    let cast = |hours| cast_scheduled(&bench.context, bench.instance, at(hours)).unwrap();
    let tasks = || bench.context.store.read(|db| db.unfinished_tasks(bench.instance)).unwrap();
    cast(0);
    assert!(tasks().is_empty(), "the first is due an hour after the instance was made");
    bench.cast(&TaskKind::RestartInstance);
    cast(1);
    assert_eq!(tasks().len(), 1, "not while anything else is to be done");
    let other = bench.context.store.write(|tx| tx.claim_task()).unwrap().unwrap();
    bench.context.store.write(|tx| tx.finish_task(other.id, Ok(()))).unwrap();
    cast(1);
    cast(1);
    assert_eq!(tasks().len(), 1);
    bench.context.stopping.store(true, Ordering::Relaxed);
    assert_eq!(bench.work().unwrap_err().kind(), ErrorKind::Interrupted);
    bench.context.stopping.store(false, Ordering::Relaxed);
    let mut objects = 0;
    let id = bench.instance.to_string();
    for (hours, slice) in [(200, "1/2"), (400, "2/2")] {
        if tasks().is_empty() {
            cast(hours);
        }
        bench.work().unwrap();
        let run = bench.run(&id, true);
        assert_eq!((run.slice.to_string().as_str(), run.ended_at.is_some()), (slice, true));
        objects += run.objects;
    }
    assert_eq!(objects, 4, "each object in one slice");
    cast(1);
    assert!(tasks().is_empty());
    let summary = bench.context.store.read(|db| db.verification(bench.instance)).unwrap();
    assert_eq!((summary.objects, summary.bad_objects, summary.last_success_at().is_some()), (4, 0, true));
}
