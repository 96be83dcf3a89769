//! The servers themselves: running mariadbd or mysqld, their tools, its option files, questions in SQL.
//!
//! Nothing here knows of the repository, the store or a recovery's journal; the agent puts the pieces together.

pub(crate) mod dump;
#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod innodb;
pub(crate) mod inspect;
pub(crate) mod mariadb;
pub(crate) mod mysql;
pub(crate) mod mysqld;
pub(crate) mod option_file;
pub(crate) mod owner;
pub(crate) mod replay;
pub(crate) mod scratch;
pub(crate) mod sql;
pub(crate) mod version;
pub(crate) mod xbstream;
#[cfg_attr(not(test), expect(dead_code, reason = "for the import of backups"))]
pub(crate) mod xtrabackup;

use std::path::{Path, PathBuf};

use crate::domain::backup::{OtherEngines, Strategy};
use crate::domain::datastore::Datastore;
use crate::error::Error;

/// The installations of both datastores.
#[derive(Debug, Clone)]
pub(crate) struct Toolbox {
    pub(crate) mariadb: Tools,
    pub(crate) mysql: Tools,
}

impl Toolbox {
    pub(crate) fn of(&self, datastore: Datastore) -> &Tools {
        match datastore {
            Datastore::Mariadb => &self.mariadb,
            Datastore::Mysql => &self.mysql,
        }
    }
}

/// The programs of one installation, and how servers are run.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) datastore: Datastore,
    /// How backups are taken.
    pub(crate) strategy: Strategy,
    /// What a clone does with tables of which it holds no rows.
    pub(crate) other_engines: OtherEngines,
    /// A dump locks all tables, so that rows of every engine are of one moment.
    pub(crate) dump_locks_tables: bool,
    pub(crate) server: PathBuf,
    /// MariaDB's; MySQL's server makes its data directories itself.
    pub(crate) install_db: PathBuf,
    /// `mariadb-backup`, or Percona's `xtrabackup`, which only restores what others have made with it.
    pub(crate) backup: PathBuf,
    /// The command line client.
    pub(crate) client: PathBuf,
    /// `mariadb-dump` or `mysqldump`.
    pub(crate) dump: PathBuf,
    /// The operating system's user that servers run as; data directories belong to it.
    pub(crate) server_user: String,
    /// InnoDB buffer pool of servers that coffer creates, bytes.
    pub(crate) buffer_pool_bytes: u64,
    /// InnoDB buffer pool of the scratch server that replays, bytes.
    pub(crate) replay_buffer_pool_bytes: u64,
}

impl Tools {
    /// Whether backups may need the server's dump tool.
    pub(crate) fn dumps(&self) -> bool {
        self.strategy == Strategy::Dump || self.other_engines == OtherEngines::Dump
    }
}

/// Makes a new data directory, into which one account logs in, over the socket, as the user coffer runs as.
/// `tmpdir` is the server's own.
pub(crate) fn install(tools: &Tools, data_dir: &Path, tmpdir: &Path) -> Result<(), Error> {
    match tools.datastore {
        Datastore::Mariadb => mariadb::install(tools, data_dir, tmpdir),
        Datastore::Mysql => mysql::install::install(tools, data_dir, tmpdir),
    }
}

#[cfg(test)]
impl Toolbox {
    /// Programs by their names, for tests that run none.
    pub(crate) fn unused() -> Toolbox {
        let of = |datastore, server: &str, backup: &str, client: &str, dump: &str| Tools {
            datastore,
            strategy: Strategy::physical(datastore),
            other_engines: OtherEngines::Refuse,
            dump_locks_tables: false,
            server: server.into(),
            install_db: "mariadb-install-db".into(),
            backup: backup.into(),
            client: client.into(),
            dump: dump.into(),
            server_user: "mysql".to_owned(),
            buffer_pool_bytes: 1 << 27,
            replay_buffer_pool_bytes: 1 << 27,
        };
        Toolbox {
            mariadb: of(Datastore::Mariadb, "mariadbd", "mariadb-backup", "mariadb", "mariadb-dump"),
            mysql: of(Datastore::Mysql, "mysqld", "xtrabackup", "mysql", "mysqldump"),
        }
    }
}
