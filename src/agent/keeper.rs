//! Keeps in the repository what else is known only here: instances' settings, timelines, settled recoveries, deletions.
//!
//! One thread compares the catalog with what it knows to be stored, so nothing that changes a setting has to wait for
//! the repository or to think of it, and a store that is away delays the word without losing it. At a start nothing is
//! known to be stored: the first look asks the repository. Every object is put under a name that says what it is, so
//! telling the same twice does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Timestamp;

use crate::agent::Context;
use crate::datastore::option_file::without_secrets;
use crate::domain::id::{InstanceId, RecoveryId, TimelineId};
use crate::domain::instance::{Control, Instance, InstanceSettings};
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;

/// How often catalog and memory are compared; a few small reads of the state.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest pause between two tries while the repository cannot be reached.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// An option file is small; whatever is larger is not one.
const OPTION_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Tells the repository what it does not know yet.
pub(crate) struct Keeper {
    context: Arc<Context>,
    known: Known,
}

/// What the repository is known to hold.
#[derive(Default)]
struct Known {
    settings: BTreeMap<InstanceId, InstanceSettings>,
    timelines: BTreeSet<TimelineId>,
    recoveries: BTreeMap<RecoveryId, Timestamp>,
    /// Instances whose stored timelines and recoveries have been listed.
    listed: BTreeSet<InstanceId>,
}

impl Keeper {
    pub(crate) fn new(context: &Arc<Context>) -> Keeper {
        Keeper { context: Arc::clone(context), known: Known::default() }
    }

    /// The thread's body: ends when `stop` is dropped.
    pub(crate) fn run(mut self, stop: &Receiver<()>) {
        let mut failures = 0_u32;
        loop {
            match self.keep() {
                Ok(()) => failures = 0,
                Err(err) => {
                    if failures == 0 {
                        logging::warn("keep", format!("settings or history are not in the repository yet: {err}"));
                    }
                    failures = failures.saturating_add(1);
                }
            }
            let pause = LOOK_EVERY.saturating_mul(2_u32.saturating_pow(failures.min(6))).min(RETRY_MAX);
            match stop.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Stores everything that is not stored yet. What cannot be stored keeps nothing else back; the first failure is told.
    pub(crate) fn keep(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        let mut note = |kept: Result<(), Error>| {
            if first.is_ok() {
                first = kept;
            }
        };
        for deleted in self.context.store.read(|db| db.untold_deletions())? {
            note(self.keep_deletion(&deleted));
        }
        for instance in self.context.store.read(|db| db.instances())? {
            note(self.keep_settings(&instance));
        }
        for id in self.context.store.read(|db| db.timeline_ids())? {
            if !self.known.timelines.contains(&id) {
                note(self.keep_timeline(id));
            }
        }
        for (id, updated_at) in self.context.store.read(|db| db.settled_recoveries())? {
            if self.known.recoveries.get(&id) != Some(&updated_at) {
                note(self.keep_recovery(id));
            }
        }
        first
    }

    fn keep_deletion(&mut self, settings: &InstanceSettings) -> Result<(), Error> {
        self.context.repository.put_settings(settings)?;
        self.known.settings.remove(&settings.instance);
        self.context.store.write(|tx| tx.remove_untold_deletion(settings.instance))
    }

    fn keep_settings(&mut self, instance: &Instance) -> Result<(), Error> {
        let Some(settings) = settings_of(&self.context, instance)? else { return Ok(()) };
        if self.known.settings.get(&instance.id) != Some(&settings) {
            self.context.repository.put_settings(&settings)?;
            self.known.settings.insert(instance.id, settings);
        }
        Ok(())
    }

    fn keep_timeline(&mut self, id: TimelineId) -> Result<(), Error> {
        let timeline = self.context.store.read(|db| db.timeline(id))?;
        self.list(timeline.instance)?;
        if !self.known.timelines.contains(&id) {
            self.context.repository.put_timeline(&timeline)?;
            self.known.timelines.insert(id);
        }
        Ok(())
    }

    fn keep_recovery(&mut self, id: RecoveryId) -> Result<(), Error> {
        let recovery = self.context.store.read(|db| db.recovery(id))?;
        self.list(recovery.instance)?;
        if self.known.recoveries.get(&id) != Some(&recovery.updated_at) && recovery.state.is_settled() {
            self.context.repository.put_recovery(&recovery)?;
            self.known.recoveries.insert(id, recovery.updated_at);
        }
        Ok(())
    }

    /// Asks the repository, once an instance, what it holds.
    fn list(&mut self, instance: InstanceId) -> Result<(), Error> {
        if self.known.listed.contains(&instance) {
            return Ok(());
        }
        self.known.timelines.extend(self.context.repository.timeline_ids(instance)?);
        for record in self.context.repository.recovery_records(instance)? {
            // Each recovery's newest record comes last.
            self.known.recoveries.insert(record.recovery, record.updated_at);
        }
        self.known.listed.insert(instance);
        Ok(())
    }
}

/// What the repository shall know of an instance; nothing of one that has no history yet, and nothing new of a created
/// one whose option file is gone: what was last known of it is worth more.
fn settings_of(context: &Context, instance: &Instance) -> Result<Option<InstanceSettings>, Error> {
    let Some(timeline) = context.store.read(|db| db.current_timeline(instance.id))? else { return Ok(None) };
    let ship_after = context.store.read(|db| db.ship_after(timeline.id))?.map(|file| (timeline.id, file));
    let options = match instance.server.control {
        Control::Created => match read_options(&instance.server.defaults_file)? {
            Some(text) => Some(without_secrets(&text)),
            None => return Ok(None),
        },
        Control::Systemd { .. } | Control::Argv { .. } => None,
    };
    Ok(Some(InstanceSettings { options, ship_after, ..settings_without_files(instance) }))
}

/// The part of an instance's settings that stands in its row.
pub(crate) fn settings_without_files(instance: &Instance) -> InstanceSettings {
    InstanceSettings {
        instance: instance.id,
        name: instance.name.clone(),
        datastore: instance.datastore,
        version: instance.version.clone(),
        server: instance.server.clone(),
        options: None,
        ship_after: None,
        created_at: instance.created_at,
        deleted_at: None,
    }
}

fn read_options(path: &std::path::Path) -> Result<Option<String>, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(io_error("unable to read", path, err)),
    };
    let mut bytes = Vec::new();
    file.take(OPTION_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| io_error("unable to read", path, err))?;
    if bytes.len() as u64 > OPTION_FILE_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` is too large for an option file", path.display()),
        ));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
