//! A recovery's journal: one file beside the data directory, the authority on how far it is.
//!
//! Every change is one durable write (temporary file, fsync, rename, fsync of the directory) with a digest over its
//! content; the row in the store only mirrors it. An unreadable journal stops the recovery instead of letting it guess.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::Context;
use crate::clock;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{BinlogState, GtidPosition};
use crate::domain::id::{InstanceId, RecoveryId};
use crate::domain::instance::{Fault, Server};
use crate::domain::recovery::{Recovery, RecoveryOutcome, RecoveryPlan, RecoveryState};
use crate::domain::timeline::Timeline;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::recovery::state::{Event, next};
use crate::repository::sha256_hex;

/// The journal's own version; another one is refused, never guessed at.
const FORMAT: u32 = 1;
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Everything that must survive a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    pub(crate) format: u32,
    pub(crate) id: RecoveryId,
    pub(crate) instance: InstanceId,
    pub(crate) state: RecoveryState,
    pub(crate) plan: RecoveryPlan,
    pub(crate) outcome: RecoveryOutcome,
    /// The version of the server that left the data from before the recovery; empty in a journal that does not know it.
    #[serde(default)]
    pub(crate) old_version: String,
    /// InnoDB's layout in the base backup, for the scratch server.
    pub(crate) layout: Vec<(String, String)>,
    /// How often the replay had to start over.
    pub(crate) restarts: u32,
    /// Where the history ended that the recovery leaves.
    pub(crate) fence: Option<Fence>,
    /// The directories that are exchanged, by inode: an inode stays with its directory across renames and reboots.
    pub(crate) old_inode: Option<u64>,
    pub(crate) new_inode: Option<u64>,
    /// The timeline that the promotion begins.
    pub(crate) timeline: Option<Timeline>,
    /// The same for the undo.
    pub(crate) undo_fence: Option<Fence>,
    pub(crate) undo_timeline: Option<Timeline>,
}

/// The end of a history at the moment its server was stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fence {
    pub(crate) at: Option<Coordinate>,
    pub(crate) position: GtidPosition,
    pub(crate) clock: i64,
    /// The highest sequence numbers of everything ever shipped: new GTIDs continue above.
    pub(crate) state: BinlogState,
    /// Whether a server was running, so that it is started again if the recovery is given up.
    pub(crate) was_running: bool,
}

impl Fence {
    /// What is known before the server is stopped.
    pub(crate) fn begun(was_running: bool) -> Fence {
        Fence { at: None, position: GtidPosition::default(), clock: 0, state: BinlogState::default(), was_running }
    }
}

/// The file's shape: the journal as text, and its digest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    sha256: String,
    journal: String,
}

impl Journal {
    pub(crate) fn new(recovery: &Recovery, old_version: String) -> Journal {
        Journal {
            format: FORMAT,
            id: recovery.id,
            instance: recovery.instance,
            state: RecoveryState::Planned,
            plan: recovery.plan.clone(),
            outcome: RecoveryOutcome::default(),
            old_version,
            layout: Vec::new(),
            restarts: 0,
            fence: None,
            old_inode: None,
            new_inode: None,
            timeline: None,
            undo_fence: None,
            undo_timeline: None,
        }
    }

    /// The directory of a recovery's own files. Short, because a socket lies in it.
    pub(crate) fn dir(server: &Server, id: RecoveryId) -> PathBuf {
        let short: String = id.to_string().chars().take(8).collect();
        server.work_dir.join(format!("r-{short}"))
    }

    fn path(server: &Server, id: RecoveryId) -> PathBuf {
        Journal::dir(server, id).join("journal.json")
    }

    /// Reads the journal; `None` when the recovery has not begun.
    pub(crate) fn load(server: &Server, id: RecoveryId) -> Result<Option<Journal>, Error> {
        let path = Journal::path(server, id);
        let text = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > JOURNAL_BYTES_MAX => return Err(unreadable(&path, "it is too large")),
            Ok(_) => std::fs::read_to_string(&path).map_err(|err| io_error("unable to read", &path, err))?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(io_error("unable to read", &path, err)),
        };
        let sealed: Sealed = serde_json::from_str(&text).map_err(|err| unreadable(&path, &err.to_string()))?;
        if sha256_hex(sealed.journal.as_bytes()) != sealed.sha256 {
            return Err(unreadable(&path, "its digest does not match"));
        }
        let value: serde_json::Value =
            serde_json::from_str(&sealed.journal).map_err(|err| unreadable(&path, &err.to_string()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format != u64::from(FORMAT) {
            return Err(unreadable(&path, &format!("it has format {format}, this coffer knows {FORMAT}")));
        }
        let journal: Journal = serde_json::from_value(value).map_err(|err| unreadable(&path, &err.to_string()))?;
        if journal.id != id {
            return Err(unreadable(&path, "it belongs to another recovery"));
        }
        Ok(Some(journal))
    }

    /// Makes the journal durable as it is, without a change of state, and mirrors it.
    pub(crate) fn save(&self, context: &Context, server: &Server) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|err| internal(&err))?;
        let sealed = Sealed { sha256: sha256_hex(text.as_bytes()), journal: text };
        let bytes = serde_json::to_vec(&sealed).map_err(|err| internal(&err))?;
        durable::write(&Journal::path(server, self.id), &bytes, 0o600)?;
        self.mirror(context, None)
    }

    /// Makes the first entry durable.
    pub(crate) fn begin(&self, context: &Context, server: &Server) -> Result<(), Error> {
        self.save(context, server)?;
        crash_point(self.state, false);
        Ok(())
    }

    /// Enters the state that follows from `event`, durably.
    pub(crate) fn enter(&mut self, context: &Context, server: &Server, event: Event) -> Result<(), Error> {
        crash_point(self.state, true);
        let state = next(self.state, event).map_err(|err| Error::new(ErrorKind::Internal, format!("{err:?}")))?;
        self.state = state;
        self.save(context, server)?;
        crash_point(self.state, false);
        Ok(())
    }

    /// Writes the row. What the operator asked for (pause, abort) stays as it is in the row.
    pub(crate) fn mirror(&self, context: &Context, fault: Option<&Fault>) -> Result<(), Error> {
        context.store.write(|tx| {
            let mut recovery = tx.recovery(self.id)?;
            recovery.state = self.state;
            recovery.plan = self.plan.clone();
            recovery.outcome = self.outcome.clone();
            if fault.is_some() {
                recovery.fault = fault.cloned();
            }
            recovery.updated_at = clock::now();
            tx.update_recovery(&recovery)
        })
    }
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the recovery's journal `{}` cannot be read: {why}", path.display())).hint(
        "Nothing more is changed. The data directories are as the last step left them; see README, \"Recovery by hand\".",
    )
}

fn internal(err: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("unable to write the journal: {err}"))
}

/// Ends the process at a named place, for the tests that prove that a killed recovery goes on: `COFFER_CRASH_AT=STAGED`
/// right after that state is durable, `STAGED:before` right before the next one is. Not in release builds.
fn crash_point(state: RecoveryState, before_next: bool) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Ok(wanted) = std::env::var("COFFER_CRASH_AT") else { return };
    let here = if before_next { format!("{}:before", state.name()) } else { state.name().to_owned() };
    if wanted == here {
        if state == RecoveryState::Planned {
            // Whoever asked for the recovery gets the answer that it has begun.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        std::process::abort();
    }
}
