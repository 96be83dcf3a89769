//! Instances: the servers coffer looks after.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::datastore::Datastore;
use crate::domain::id::{InstanceId, TimelineId};
use crate::error::{Error, ErrorKind};

/// The kernel's limit on a Unix socket's path, its closing zero not counted.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A managed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) status: InstanceStatus,
    /// What went wrong last, while `status` is `Error`.
    pub(crate) fault: Option<Fault>,
    pub(crate) server: Server,
    pub(crate) datastore: Datastore,
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

impl Server {
    /// The server that coffer makes for an instance, with everything of it in one directory below its own state's.
    pub(crate) fn created(state_dir: &Path, id: InstanceId, port: u16) -> Result<Server, Error> {
        // Short, because a Unix socket's path must be: eight digits of the id tell a host's instances apart.
        let short: String = id.to_string().chars().take(8).collect();
        let home = state_dir.join("instances").join(short);
        let server = Server {
            control: Control::Created,
            socket: home.join("mysqld.sock"),
            data_dir: home.join("data"),
            binlog_base: home.join("data").join("binlog"),
            work_dir: home.join("work"),
            defaults_file: home.join("my.cnf"),
            port,
        };
        // The longest one is the scratch server's of a recovery.
        let longest = server.work_dir.join("r-12345678").join("s.sock");
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let message = format!("the socket's path `{}` would be too long", longest.display());
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("Set a `state_dir` with a shorter path; a socket's path has at most 107 bytes."));
        }
        Ok(server)
    }
}

/// What must be known of an instance to look after it on another host. Kept in the repository, in clear: no secret is
/// ever part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstanceSettings {
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) datastore: Datastore,
    pub(crate) version: String,
    pub(crate) server: Server,
    /// The option file of a created server, without what may be a password in it. An adopted server's is its operator's
    /// and may be nothing but a password: only its path is kept, in `server`.
    pub(crate) options: Option<String>,
    /// The timeline written now, and the binlog file after which its first one comes, if that is not the oldest.
    pub(crate) ship_after: Option<(TimelineId, String)>,
    pub(crate) created_at: Timestamp,
    /// Set once the instance was deleted. Its backups and its history stay.
    pub(crate) deleted_at: Option<Timestamp>,
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
