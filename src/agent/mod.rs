//! The guest agent: carries out tasks on the servers. The only part that touches datastore and repository together.
//!
//! Each instance has an agent thread, which does one task after the other, a shipper thread and a supervisor thread.
//! The agent answers by writing rows; nobody is called back.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod crew;
pub(crate) mod expiry;
pub(crate) mod history;
pub(crate) mod instances;
pub(crate) mod keeper;
pub(crate) mod planning;
pub(crate) mod rebuild;
pub(crate) mod recovery;
pub(crate) mod ship;
pub(crate) mod supervisor;
pub(crate) mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::agent::verify::schedule::Schedule;
use crate::clock;
use crate::datastore::Toolbox;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{BackupId, InstanceId, TaskId};
use crate::domain::instance::Fault;
use crate::domain::task::{Progress, ProgressUnit, TaskKind};
use crate::error::{Error, ErrorKind};
use crate::queue::Bell;
use crate::repository::Repository;
use crate::store::Store;

/// What every agent works with.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) repository: Arc<Repository>,
    pub(crate) tools: Toolbox,
    pub(crate) settings: Settings,
    pub(crate) bell: Bell,
    /// Set when the appliance stops: whatever waits gives up and goes on at the next start.
    pub(crate) stopping: Arc<AtomicBool>,
}

/// The agent's share of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) state_dir: PathBuf,
    /// How often the shipper looks for new binlog.
    pub(crate) poll: Duration,
    /// A chunk is cut at the first transaction boundary behind this many bytes.
    pub(crate) chunk_bytes_max: u64,
    /// How long the data from before a recovery is kept.
    pub(crate) undo_window: Duration,
    /// When stored objects are read again without anybody asking; absent: never.
    pub(crate) verification: Option<Schedule>,
}

impl Context {
    /// `Interrupted` once the appliance stops.
    pub(crate) fn check_stopping(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Interrupted,
                "the appliance is stopping; the task goes on at its next start",
            ));
        }
        Ok(())
    }

    /// Queues a full backup, unless one waits or runs already.
    pub(crate) fn cast_backup(&self, instance: InstanceId, name: &str) -> Result<BackupId, Error> {
        let owner = self.store.read(|db| db.instance(instance))?;
        let waiting = self.store.read(|db| db.backups(Some(instance)))?;
        if let Some(backup) = waiting.iter().find(|backup| backup.status == BackupStatus::New) {
            return Ok(backup.id);
        }
        let backup = Backup::of(&owner, format!("{}-{name}", owner.name), clock::now());
        self.store.write(|tx| {
            tx.insert_backup(&backup)?;
            tx.insert_task(instance, &TaskKind::CreateBackup { backup: backup.id })
        })?;
        self.bell.ring();
        Ok(backup.id)
    }
}

/// Tells the task's row how far it is, not more often than is worth a write.
pub(crate) struct Reporter<'a> {
    store: &'a Store,
    task: TaskId,
    last: std::sync::Mutex<Option<(clock::Stopwatch, Progress)>>,
}

/// People do not read faster.
const REPORT_EVERY: Duration = Duration::from_millis(400);

impl<'a> Reporter<'a> {
    pub(crate) fn new(store: &'a Store, task: TaskId) -> Reporter<'a> {
        Reporter { store, task, last: std::sync::Mutex::new(None) }
    }

    /// Notes the progress of `step`. A row that cannot be written delays nothing: progress is for people only.
    pub(crate) fn report(&self, step: &str, done: u64, total: u64, unit: ProgressUnit) {
        let Ok(mut last) = self.last.lock() else { return };
        let same_step =
            last.as_ref().is_some_and(|(written, before)| before.step == step && written.elapsed() < REPORT_EVERY);
        if same_step {
            return;
        }
        let progress = Progress { step: step.to_owned(), done, total, unit };
        let _ = self.store.write(|tx| tx.set_progress(self.task, &progress));
        *last = Some((clock::Stopwatch::start(), progress));
    }

    /// A step without figures.
    pub(crate) fn step(&self, step: &str) {
        self.report(step, 0, 0, ProgressUnit::Bytes);
    }
}

/// An error as rows and the API keep it.
pub(crate) fn fault_of(err: &Error) -> Fault {
    Fault { message: err.message(), hint: err.hint_text().unwrap_or_default().to_owned(), at: clock::now() }
}
