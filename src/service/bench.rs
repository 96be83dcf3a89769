//! What the tests of the use cases and of the API share: a real store in a directory of its own, and a planner with
//! behaviour instead of a repository.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::domain::backup::Strategy;
use crate::domain::backup::{Backup, BackupEnd, BackupStatus};
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::GtidPosition;
use crate::domain::id::{BackupId, InstanceId, RecoveryId, TimelineId};
use crate::domain::instance::{Instance, InstanceStatus};
use crate::domain::recovery::{PlannedTransaction, RecoveryPlan, RecoveryState};
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::task::{TaskKind, TaskState};
use crate::domain::timeline::{Origin, Timeline};
use crate::error::{Error, ErrorKind};
use crate::queue::Bell;
use crate::recovery::{Planning, TransactionFilter, TransactionSummary};
use crate::service::{Installed, NewBackup, NewInstance, NewRecovery, RecoveryView, Service, ServiceSettings};
use crate::store::Store;
use crate::testing::TempDir;

/// The commit time of all that happens here: 2025-01-29T10:40:00Z.
pub(crate) const CLOCK: i64 = 1_738_147_200_000_000;

/// Plans by the store's newest backup, and says no when told to.
pub(crate) struct FakePlanning {
    store: Store,
    pub(crate) refusal: Mutex<Option<&'static str>>,
    pub(crate) filters: Mutex<Vec<TransactionFilter>>,
    pub(crate) targets: Mutex<Vec<RecoveryTarget>>,
}

impl Planning for FakePlanning {
    fn plan(&self, instance: InstanceId, target: &RecoveryTarget) -> Result<RecoveryPlan, Error> {
        self.targets.lock().unwrap().push(target.clone());
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(Error::new(ErrorKind::Refused, refusal).hint("Choose an earlier target."));
        }
        let base = match (target.base, &target.point) {
            (Some(base), _) => Some(self.store.read(|db| db.backup(base))?),
            (None, Point::Backup(base)) => Some(self.store.read(|db| db.backup(*base))?),
            _ => self.store.read(|db| db.newest_completed_backup(instance))?,
        };
        let base = base.ok_or_else(|| Error::new(ErrorKind::Refused, "there is no backup before the target"))?;
        Ok(plan_from(&base, target))
    }

    fn check_undo(&self, _: InstanceId, _: RecoveryId) -> Result<(), Error> {
        Ok(())
    }

    fn transactions(&self, instance: InstanceId, filter: &TransactionFilter) -> Result<Vec<TransactionSummary>, Error> {
        self.filters.lock().unwrap().push(filter.clone());
        let timeline = self.store.read(|db| db.current_timeline(instance))?.unwrap();
        Ok(vec![TransactionSummary {
            gtid: "0-1-5".parse().ok(),
            begins_at: place(timeline.id, 600),
            ends_at: place(timeline.id, 700),
            committed_at: CLOCK,
            tables: vec!["shop.orders".to_owned()],
            statement: "DROP TABLE orders /* <script>alert(1)</script> */".to_owned(),
            destructive: true,
        }])
    }
}

fn place(timeline: TimelineId, position: u64) -> Coordinate {
    Coordinate { timeline, ordinal: 1, file: "binlog.000001".to_owned(), position }
}

fn plan_from(base: &Backup, target: &RecoveryTarget) -> RecoveryPlan {
    let end = base.end.clone().unwrap();
    let transaction = |gtid: &str, at: u64| PlannedTransaction {
        gtid: gtid.parse().ok(),
        begins_at: place(end.at.timeline, at),
        ends_at: place(end.at.timeline, at + 100),
        committed_at: CLOCK + 60_000_000,
        what: "DROP TABLE shop.orders".to_owned(),
    };
    RecoveryPlan {
        instance: base.instance,
        target: target.clone(),
        base: base.id,
        base_strategy: Strategy::Mariabackup,
        base_version: base.server_version.clone(),
        base_raw_bytes: base.raw_bytes,
        base_stored_bytes: base.stored_bytes,
        chunks: Vec::new(),
        stop: place(end.at.timeline, 600),
        stop_clock: CLOCK + 60_000_000,
        position: "0-1-4".parse().unwrap(),
        transactions: 2,
        last_included: Some(transaction("0-1-4", 500)),
        first_excluded: Some(transaction("0-1-5", 600)),
        skipped: target.skip.clone(),
        given_up_transactions: 1,
        download_bytes: 1000,
        replay_bytes: 200,
        disk_bytes: 5000,
        estimate_seconds: 12,
        warnings: vec!["events stay disabled".to_owned()],
        base_end: end,
    }
}

/// A service on a store of its own, with ways to bring about what tasks would.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) service: Arc<Service>,
    pub(crate) planning: Arc<FakePlanning>,
    pub(crate) dir: TempDir,
}

impl Bench {
    /// On a host with both servers.
    pub(crate) fn new() -> Bench {
        Bench::of(&Datastore::ALL)
    }

    /// On a host with these servers.
    pub(crate) fn of(installed: &[Datastore]) -> Bench {
        let dir = TempDir::new();
        let store = Store::open(&dir).unwrap();
        let planning = Arc::new(FakePlanning {
            store: store.clone(),
            refusal: Mutex::default(),
            filters: Mutex::default(),
            targets: Mutex::default(),
        });
        let settings = ServiceSettings {
            state_dir: PathBuf::from("/var/lib/coffer"),
            installed: installed
                .iter()
                .map(|datastore| Installed {
                    datastore: *datastore,
                    version: if *datastore == Datastore::Mariadb { "10.11.6" } else { "9.7.4" }.to_owned(),
                })
                .collect(),
            notice: Some("Rebuild first.".to_owned()),
        };
        let service = Arc::new(Service::new(store.clone(), Bell::new(), planning.clone(), settings));
        Bench { store, service, planning, dir }
    }

    /// An instance whose server runs.
    pub(crate) fn active(&self, name: &str) -> Instance {
        let new = NewInstance { name: name.to_owned(), port: None, datastore: None };
        let instance = self.service.create_instance(&new).unwrap().instance;
        self.end_tasks(instance.id);
        let timeline = Timeline {
            id: TimelineId::random(),
            instance: instance.id,
            number: 1,
            origin: Origin::Initial,
            branch: None,
            state_at_begin: Default::default(),
            begun_at: Timestamp::from_microsecond(CLOCK).unwrap(),
        };
        self.store
            .write(|tx| {
                tx.insert_timeline(&timeline)?;
                let running =
                    Instance { status: InstanceStatus::Active, version: "10.11.6".to_owned(), ..instance.clone() };
                tx.update_instance(&running)?;
                Ok(running)
            })
            .unwrap()
    }

    /// A completed backup of an active instance.
    pub(crate) fn completed(&self, instance: InstanceId, name: &str) -> Backup {
        let new = NewBackup { instance, name: name.to_owned(), description: String::new() };
        let mut backup = self.service.create_backup(&new).unwrap().backup;
        self.end_tasks(instance);
        self.store
            .write(|tx| {
                let timeline = tx.current_timeline(instance)?.unwrap();
                let position: GtidPosition = "0-1-2".parse()?;
                backup.status = BackupStatus::Completed;
                backup.raw_bytes = 3 << 30;
                backup.stored_bytes = 1 << 20;
                backup.location = Some("file:///repository/manifest.json".to_owned());
                backup.checksum = Some("ab".repeat(32));
                backup.end = Some(BackupEnd { at: place(timeline.id, 400), position, clock: CLOCK });
                tx.update_backup(&backup)?;
                tx.set_instance_status(instance, InstanceStatus::Active, None)
            })
            .unwrap();
        backup
    }

    pub(crate) fn begin(&self, instance: InstanceId, pause: bool) -> RecoveryView {
        let target = RecoveryTarget::new(Point::Latest);
        self.service.begin_recovery(&NewRecovery { instance, target, pause }).unwrap()
    }

    /// Brings a recovery into a state, as its task would.
    pub(crate) fn bring(&self, view: &RecoveryView, state: RecoveryState, paused: bool) {
        let mut recovery = view.recovery.clone();
        recovery.state = state;
        recovery.paused = paused;
        recovery.outcome.old_data_kept = state == RecoveryState::Retained;
        self.end_tasks(recovery.instance);
        self.store
            .write(|tx| {
                tx.update_recovery(&recovery)?;
                let status = if state.is_settled() { InstanceStatus::Active } else { InstanceStatus::Build };
                tx.set_instance_status(recovery.instance, status, None)
            })
            .unwrap();
    }

    pub(crate) fn status(&self, instance: InstanceId) -> InstanceStatus {
        self.store.read(|db| db.instance(instance)).unwrap().status
    }

    /// What waits or runs.
    pub(crate) fn tasks(&self, instance: InstanceId) -> Vec<TaskKind> {
        let tasks = self.store.read(|db| db.unfinished_tasks(instance)).unwrap();
        tasks.into_iter().map(|task| task.kind).collect()
    }

    /// Lets all tasks of an instance end well, without doing anything.
    pub(crate) fn end_tasks(&self, instance: InstanceId) {
        while !self.tasks(instance).is_empty() {
            self.store
                .write(|tx| {
                    let running = tx.unfinished_tasks(instance)?.into_iter().find(|t| t.state == TaskState::Running);
                    match running {
                        Some(task) => tx.finish_task(task.id, Ok(())),
                        None => tx.claim_task().map(drop),
                    }
                })
                .unwrap();
        }
    }

    /// An id nothing has.
    pub(crate) fn nobody() -> BackupId {
        BackupId::random()
    }
}
