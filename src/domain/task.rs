//! Tasks: what the queue holds. A task row and the state it will change are written in one transaction.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::id::{BackupId, InstanceId, RecoveryId, TaskId};
use crate::domain::verification::Slice;

/// The wish. Kept as JSON in the task row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum TaskKind {
    /// Make the data directory and start the server.
    CreateInstance,
    /// Connect to an adopted server and begin to ship.
    AdoptInstance,
    /// Stop looking after the instance; a created one's server is stopped and its data directory removed.
    DeleteInstance,
    CreateBackup {
        backup: BackupId,
    },
    DeleteBackup {
        backup: BackupId,
    },
    /// `do_instance_recovery`: carry on from wherever the recovery's journal stands.
    Recover {
        recovery: RecoveryId,
    },
    /// Undo a promoted recovery.
    UndoRecovery {
        recovery: RecoveryId,
    },
    /// Free the old data that a recovery keeps, and end its undo window.
    ReleaseRecovery {
        recovery: RecoveryId,
    },
    RestartInstance,
    /// Read a backup again, and the binlog that a recovery from it may need.
    VerifyBackup {
        backup: BackupId,
        slice: Slice,
    },
    /// Read everything again that the instance has stored.
    VerifyInstance {
        slice: Slice,
        /// By schedule, not because somebody asked.
        is_scheduled: bool,
    },
}

impl TaskKind {
    /// Whether it leaves off as soon as another task wants the instance or a worker, and goes on behind it.
    pub(crate) fn gives_way(&self) -> bool {
        matches!(self, TaskKind::VerifyBackup { .. } | TaskKind::VerifyInstance { .. })
    }
}

/// In words, for the log.
impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskKind::CreateInstance => f.write_str("create the instance"),
            TaskKind::AdoptInstance => f.write_str("adopt the instance"),
            TaskKind::DeleteInstance => f.write_str("delete the instance"),
            TaskKind::CreateBackup { backup } => write!(f, "take backup {backup}"),
            TaskKind::DeleteBackup { backup } => write!(f, "delete backup {backup}"),
            TaskKind::Recover { recovery } => write!(f, "carry on recovery {recovery}"),
            TaskKind::UndoRecovery { recovery } => write!(f, "undo recovery {recovery}"),
            TaskKind::ReleaseRecovery { recovery } => write!(f, "release recovery {recovery}"),
            TaskKind::RestartInstance => f.write_str("restart the server"),
            TaskKind::VerifyBackup { backup, slice } => write!(f, "verify backup {backup} (slice {slice})"),
            TaskKind::VerifyInstance { slice, .. } => write!(f, "verify the instance's objects (slice {slice})"),
        }
    }
}

/// A row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: TaskKind,
    pub(crate) state: TaskState,
    /// How often it was begun; grows by one at each start that finds it unfinished.
    pub(crate) attempts: u32,
    pub(crate) progress: Progress,
    /// Message and hint, once it failed.
    pub(crate) error: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TaskState {
    Queued,
    Running,
    Done,
    Failed,
}

/// How far a long step has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What is being done, in a few words for people: `staging`, `replaying`.
    pub(crate) step: String,
    pub(crate) done: u64,
    /// 0 when the end is not known.
    pub(crate) total: u64,
    pub(crate) unit: ProgressUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProgressUnit {
    #[default]
    Bytes,
    Transactions,
}
