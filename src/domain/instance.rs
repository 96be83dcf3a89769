//! Instances: the servers coffer looks after.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::id::InstanceId;

/// A managed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) status: InstanceStatus,
    /// What went wrong last, while `status` is `Error`.
    pub(crate) fault: Option<Fault>,
    pub(crate) server: Server,
    /// `mariadb` or `mysql`.
    pub(crate) datastore: String,
    /// The server's exact version, for example `10.11.19`; empty until it first ran.
    pub(crate) version: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// Trove's instance states, as far as coffer uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum InstanceStatus {
    /// Being created, or being recovered in place.
    Build,
    Active,
    /// A backup is running.
    Backup,
    /// Being deleted.
    Shutdown,
    Error,
}

/// A failure as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// What the operator can do next.
    pub(crate) hint: String,
    pub(crate) at: Timestamp,
}

/// How coffer reaches the server and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) socket: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// The path of the binlog files without their number: `<data_dir>/binlog` for `binlog.000001`.
    pub(crate) binlog_base: PathBuf,
    /// On the same file system as the data directory: staging, journal, what is kept for an undo.
    pub(crate) work_dir: PathBuf,
    /// The option file given to the server (created), or the one with the client credentials (adopted).
    pub(crate) defaults_file: PathBuf,
    /// TCP port, 0 when the server listens on its socket only.
    pub(crate) port: u16,
}

/// Who starts and stops the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Control {
    /// Coffer made it and supervises it.
    Created,
    /// An existing server, run by systemd.
    Systemd { unit: String },
    /// An existing server, started and stopped by these argument vectors; no shell is involved.
    Argv { start: Vec<String>, stop: Vec<String> },
}
