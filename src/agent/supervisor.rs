//! Keeps a created server running, unless a recovery says otherwise.
//!
//! A guard file in the work directory forbids every start but the recovery's own: it is written before the server is
//! stopped for a switch and removed after the switch is proven, so a restarted coffer cannot bring a server up on data
//! that is neither the old nor the new. Adopted servers are watched only by whoever runs them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::agent::expiry::{release_expired, retry_first_backup};
use crate::agent::verify::schedule::cast_scheduled;
use crate::agent::{Context, fault_of};
use crate::clock::{self, Stopwatch};
use crate::datastore::mysqld;
use crate::datastore::sql::Sql;
use crate::datastore::version::plain_version;
use crate::domain::id::InstanceId;
use crate::domain::instance::{Control, Instance, InstanceStatus, Server};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::process::ProcessHandle;

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is asked what time has brought.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// A server that fails to start is tried again after this, and after twice as long each time ...
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// ... up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);

pub(crate) struct Supervisor {
    context: Arc<Context>,
    instance: InstanceId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    handle: Option<ProcessHandle>,
    failures: u32,
    failed: Option<Stopwatch>,
}

impl Supervisor {
    pub(crate) fn new(context: &Arc<Context>, instance: InstanceId) -> Supervisor {
        Supervisor { context: Arc::clone(context), instance, inner: Mutex::new(Inner::default()) }
    }

    /// The thread's body: ends when `stop` is dropped.
    pub(crate) fn run(&self, stop: &Receiver<()>) {
        let mut looked_for_expired: Option<Stopwatch> = None;
        loop {
            self.look();
            if looked_for_expired.is_none_or(|looked| looked.elapsed() >= EXPIRE_EVERY) {
                looked_for_expired = Some(Stopwatch::start());
                let now = clock::now();
                let tended = release_expired(&self.context, self.instance, now)
                    .and_then(|()| retry_first_backup(&self.context, self.instance, now))
                    .and_then(|()| cast_scheduled(&self.context, self.instance, now));
                if let Err(err) = tended {
                    logging::warn("watch", format!("instance {}: {err}", self.instance));
                }
            }
            match stop.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// While the returned guard lives, nobody but its holder starts or stops the server.
    pub(crate) fn take_over(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn look(&self) {
        // A task that starts or stops the server holds this; then there is nothing to do here.
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let Ok(instance) = self.context.store.read(|db| db.instance(self.instance)) else { return };
        let unmade = instance.server.data_dir.as_os_str().is_empty() || !instance.server.defaults_file.exists();
        let leaving = instance.status == InstanceStatus::Shutdown;
        if instance.server.control != Control::Created || unmade || leaving || guard_path(&instance.server).exists() {
            inner.handle = None;
            return;
        }
        if inner.handle.as_ref().is_some_and(ProcessHandle::is_alive) {
            return;
        }
        match mysqld::find(&instance.server.defaults_file) {
            Ok(Some(handle)) => inner.handle = Some(handle),
            Ok(None) => self.restart(&mut inner, &instance),
            Err(err) => logging::warn("watch", format!("instance {}: {err}", self.instance)),
        }
    }

    fn restart(&self, inner: &mut Inner, instance: &Instance) {
        let pause = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(inner.failures.saturating_sub(1))).min(RETRY_MAX);
        if inner.failed.is_some_and(|since| since.elapsed() < pause) || !instance.server.data_dir.is_dir() {
            if !instance.server.data_dir.is_dir() && instance.status == InstanceStatus::Active {
                let message = format!("the data directory `{}` is gone", instance.server.data_dir.display());
                self.fail(instance, &Error::new(ErrorKind::NotFound, message), "Bring it back");
            }
            return;
        }
        if self.context.check_stopping().is_err() {
            return;
        }
        logging::warn("watch", format!("instance {}: the server is not running; starting it", self.instance));
        match mysqld::start(self.context.tools.of(instance.datastore), &instance.server) {
            Ok(()) => {
                inner.failures = 0;
                inner.failed = None;
                inner.handle = mysqld::find(&instance.server.defaults_file).ok().flatten();
                if instance.status == InstanceStatus::Error {
                    self.set_status(InstanceStatus::Active, None);
                }
            }
            Err(err) => {
                inner.failures = inner.failures.saturating_add(1);
                inner.failed = Some(Stopwatch::start());
                if instance.status != InstanceStatus::Build {
                    self.fail(instance, &err, "Mend what its error log names, or bring the data back");
                }
            }
        }
    }

    fn fail(&self, instance: &Instance, err: &Error, remedy: &str) {
        logging::error("watch", format!("instance {}: {err}", self.instance));
        let mut fault = fault_of(err);
        fault.hint = format!("{remedy} with `coffer recover {} --latest`.", instance.name);
        self.set_status(InstanceStatus::Error, Some(&fault));
    }

    fn set_status(&self, status: InstanceStatus, fault: Option<&crate::domain::instance::Fault>) {
        if let Err(err) = self.context.store.write(|tx| tx.set_instance_status(self.instance, status, fault)) {
            logging::warn("watch", format!("instance {}: {err}", self.instance));
        }
    }
}

/// The file that forbids every start of the server but a recovery's own.
pub(crate) fn guard_path(server: &Server) -> PathBuf {
    server.work_dir.join("GUARD")
}

/// Forbids starts, durably.
pub(crate) fn place_guard(server: &Server, why: &str) -> Result<(), Error> {
    durable::write(&guard_path(server), why.as_bytes(), 0o644)
}

/// Allows starts again, durably.
pub(crate) fn remove_guard(server: &Server) -> Result<(), Error> {
    let path = guard_path(server);
    match std::fs::remove_file(&path) {
        Ok(()) => durable::sync_parent(&path),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(io_error("unable to remove", &path, err)),
    }
}

/// Reads the server's exact version and keeps it with the instance.
pub(crate) fn note_version(context: &Context, instance: &mut Instance) -> Result<(), Error> {
    let mut sql = Sql::connect(&mysqld::access(&instance.server)?)?;
    let text = sql.value("SELECT VERSION()")?;
    let version = plain_version(&text).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("the server states the version `{text}`, which coffer cannot read"))
    })?;
    instance.version.clone_from(&version);
    context.store.write(|tx| {
        // Whatever else of the row has changed meanwhile stays.
        let row = tx.instance(instance.id)?;
        if row.version == version { Ok(()) } else { tx.update_instance(&Instance { version, ..row }) }
    })
}
