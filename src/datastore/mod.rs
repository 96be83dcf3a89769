//! The servers themselves: running mariadbd, its tools, its option files, questions in SQL.
//!
//! Nothing here knows of the repository, the store or a recovery's journal; the agent puts the pieces together.

#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod mariadb;
#[cfg_attr(not(test), expect(dead_code, reason = "for the MySQL datastore"))]
pub(crate) mod mysql;
pub(crate) mod mysqld;
pub(crate) mod option_file;
pub(crate) mod owner;
pub(crate) mod scratch;
pub(crate) mod sql;
pub(crate) mod xbstream;

use std::path::PathBuf;

/// The programs of a MariaDB installation, and how servers are run.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) server: PathBuf,
    pub(crate) install_db: PathBuf,
    pub(crate) backup: PathBuf,
    /// The operating system's user that servers run as; data directories belong to it.
    pub(crate) server_user: String,
    /// InnoDB buffer pool of servers that coffer creates, bytes.
    pub(crate) buffer_pool_bytes: u64,
    /// InnoDB buffer pool of the scratch server that replays, bytes.
    pub(crate) replay_buffer_pool_bytes: u64,
}
