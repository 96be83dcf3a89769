//! What is kept of each object, the sums beside it, and that a million of them cost a status page nothing.

use super::*;
use crate::clock::Stopwatch;
use crate::domain::id::{TaskId, TimelineId};
use crate::domain::verification::Slice;
use crate::store::Store;
use crate::testing::TempDir;

struct Bench {
    _dir: TempDir,
    store: Store,
    instance: InstanceId,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl Bench {
    fn new() -> Bench {
        let dir = TempDir::new();
        let store = Store::open(&dir).unwrap();
        Bench { _dir: dir, store, instance: InstanceId::random() }
    }

    fn finding(&self, key: &str, place: ObjectPlace, second: i64, fault: Option<&str>) -> Finding {
        Finding {
            key: key.to_owned(),
            instance: self.instance,
            place,
            stored_bytes: 100,
            verified_at: at(second),
            fault: fault.map(str::to_owned),
        }
    }

    fn note(&self, findings: &[Finding]) -> News {
        self.store.write(|tx| tx.note_findings(findings)).unwrap()
    }

    fn read<T>(&self, look: impl FnOnce(&Db<'_>) -> Result<T, Error>) -> T {
        self.store.read(look).unwrap()
    }
}

#[test]
fn an_alarm_begins_once_keeps_its_begin_and_ends() {
    let bench = Bench::new();
    let place = ObjectPlace::Settings;
    let note = |second, fault| bench.note(&[bench.finding("s", place.clone(), second, fault)]);
    assert_eq!(bench.read(|db| db.last_finding("s")), None);
    assert_eq!(note(1, None), News::default());
    assert_eq!(note(2, Some("it is gone")).bad, ["s"]);
    let replacement = BackupId::random();
    bench.store.write(|tx| tx.set_replacement("s", replacement)).unwrap();
    assert_eq!(note(3, Some("its seal does not match")), News::default());
    let bad = bench.read(|db| db.bad_object("s")).unwrap();
    assert_eq!((bad.found_at, bad.replacement), (at(2), Some(replacement)));
    assert_eq!(bad.reason, "its seal does not match");
    assert_eq!(bench.read(|db| db.bad_objects(bench.instance, 10)), [bad]);
    assert_eq!(bench.read(|db| db.verification(bench.instance)).bad_objects, 1);
    assert_eq!(note(4, None).good_again, ["s"]);
    let summary = bench.read(|db| db.verification(bench.instance));
    assert_eq!((summary.objects, summary.stored_bytes, summary.bad_objects), (1, 100, 0));
    assert_eq!(summary.oldest_verified_at, Some(at(4)));
    assert_eq!(bench.read(|db| db.bad_objects(bench.instance, 10)), []);
    assert_eq!(bench.read(|db| db.verification(InstanceId::random())), VerificationSummary::default());
}

#[test]
fn a_backup_is_good_once_every_object_of_it_was_read_and_forgotten_with_its_rows() {
    let bench = Bench::new();
    let backup = BackupId::random();
    let health = || bench.read(|db| db.backup_health(backup));
    let part = |n: i64, fault| {
        bench.note(&[bench.finding(&format!("b/part-{n}"), ObjectPlace::Part { backup }, n, fault)]);
    };
    assert_eq!(health(), BackupHealth::Never);
    part(1, None);
    bench.store.write(|tx| tx.set_backup_objects(backup, 3)).unwrap();
    part(2, None);
    assert_eq!(health(), BackupHealth::Never);
    bench.note(&[bench.finding("b/manifest", ObjectPlace::Manifest { backup }, 5, None)]);
    assert_eq!(health(), BackupHealth::Good { verified_at: at(1) });
    part(1, Some("it is gone"));
    assert_eq!(health(), BackupHealth::Bad { verified_at: Some(at(1)) });
    bench.note(&[bench.finding("chunk", ObjectPlace::Timeline { timeline: TimelineId::random() }, 9, None)]);
    assert_eq!(bench.read(|db| db.verified_keys("b/", 10)), ["b/manifest", "b/part-1", "b/part-2"]);

    bench.store.write(|tx| tx.forget_verified(bench.instance, backup)).unwrap();
    assert_eq!(health(), BackupHealth::Never);
    let summary = bench.read(|db| db.verification(bench.instance));
    assert_eq!((summary.objects, summary.stored_bytes, summary.bad_objects), (1, 100, 0));
}

#[test]
fn the_last_run_of_each_subject_is_kept() {
    let bench = Bench::new();
    let id = bench.instance.to_string();
    let asked = VerificationRun::begun(TaskId::random(), Slice::WHOLE, at(1));
    let scheduled =
        VerificationRun { ended_at: Some(at(9)), ..VerificationRun::begun(asked.task, Slice::WHOLE, at(2)) };
    bench
        .store
        .write(|tx| {
            tx.set_verification_run(&id, false, &asked)?;
            tx.set_verification_run(&id, true, &VerificationRun { bad: 1, ..scheduled.clone() })
        })
        .unwrap();
    let summary = bench.read(|db| db.verification(bench.instance));
    assert_eq!((summary.last_ended_at(), summary.last_success_at()), (Some(at(9)), None));
    bench.store.write(|tx| tx.set_verification_run(&id, true, &scheduled)).unwrap();
    let summary = bench.read(|db| db.verification(bench.instance));
    assert_eq!((summary.last_success_at(), summary.asked), (Some(at(9)), Some(asked)));
}

#[test]
fn a_status_page_asks_for_the_ends_of_index_ranges_only() {
    let bench = Bench::new();
    for query in [BY_KEY, BELOW, OLDEST, OLDEST_OF_BACKUP, BAD] {
        let plan = bench.read(|db| db.plan_of(query));
        assert!(plan.starts_with("SEARCH"), "{query}: {plan}");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{query}: {plan}");
    }
    let timeline = TimelineId::random();
    for page in 0..100_i64 {
        let findings: Vec<Finding> = (0..1000)
            .map(|n| {
                let place = ObjectPlace::Chunk { timeline, ordinal: 1, end: n };
                bench.finding(&format!("instances/x/binlog/{page:08}-{n:012}.binlog.zst"), place, page, None)
            })
            .collect();
        bench.note(&findings);
    }
    let watch = Stopwatch::start();
    for _ in 0..100 {
        assert_eq!(bench.read(|db| db.verification(bench.instance)).objects, 100_000);
        assert!(bench.read(|db| db.bad_objects(bench.instance, 100)).is_empty());
    }
    // For people; what must hold is the plans above.
    eprintln!("100 looks at 100 000 objects took {:?}", watch.elapsed());
}
