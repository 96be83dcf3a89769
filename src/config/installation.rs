//! The sections `[mariadb]` and `[mysql]`: where a server's programs are, and how servers run and are backed up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{BUFFER_POOL_BYTES, BUFFER_POOL_BYTES_DEFAULT, Source, find_program};
use crate::domain::backup::{OtherEngines, Strategy};
use crate::domain::datastore::Datastore;
use crate::error::Error;
use crate::process::User;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMariadb {
    server: Option<PathBuf>,
    backup: Option<PathBuf>,
    install_db: Option<PathBuf>,
    client: Option<PathBuf>,
    binlog: Option<PathBuf>,
    dump: Option<PathBuf>,
    strategy: Option<String>,
    dump_locks_tables: Option<bool>,
    server_user: Option<String>,
    buffer_pool_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMysql {
    server: Option<PathBuf>,
    client: Option<PathBuf>,
    binlog: Option<PathBuf>,
    dump: Option<PathBuf>,
    xtrabackup: Option<PathBuf>,
    strategy: Option<String>,
    other_engines: Option<String>,
    dump_locks_tables: Option<bool>,
    server_user: Option<String>,
    buffer_pool_bytes: Option<u64>,
}

/// The server's programs (absolute if they were found, else the bare name, so that the first use says which is missing)
/// and how created servers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installation {
    pub(crate) server: PathBuf,
    /// `mariadb-backup`; for MySQL Percona's `xtrabackup`, which restores only.
    pub(crate) backup: PathBuf,
    /// MariaDB's only.
    pub(crate) install_db: PathBuf,
    pub(crate) client: PathBuf,
    pub(crate) binlog: PathBuf,
    pub(crate) dump: PathBuf,
    /// How backups are taken.
    pub(crate) strategy: Strategy,
    /// MySQL's only.
    pub(crate) other_engines: OtherEngines,
    pub(crate) dump_locks_tables: bool,
    /// Name of the user created servers run as. Only looked up when needed: a client of the appliance runs on hosts
    /// without one.
    pub(crate) server_user: String,
    pub(crate) buffer_pool_bytes: u64,
}

pub(super) fn mariadb(source: &Source<'_>, raw: RawMariadb) -> Result<Installation, Error> {
    let section = Section { source, name: "mariadb", datastore: Datastore::Mariadb };
    Ok(Installation {
        server: section.program(raw.server, "server", "mariadbd")?,
        backup: section.program(raw.backup, "backup", "mariadb-backup")?,
        install_db: section.program(raw.install_db, "install_db", "mariadb-install-db")?,
        client: section.program(raw.client, "client", "mariadb")?,
        binlog: section.program(raw.binlog, "binlog", "mariadb-binlog")?,
        dump: section.program(raw.dump, "dump", "mariadb-dump")?,
        strategy: section.strategy(raw.strategy)?,
        other_engines: OtherEngines::Refuse,
        dump_locks_tables: raw.dump_locks_tables.unwrap_or(false),
        server_user: server_user(raw.server_user),
        buffer_pool_bytes: section.buffer_pool(raw.buffer_pool_bytes)?,
    })
}

pub(super) fn mysql(source: &Source<'_>, raw: RawMysql) -> Result<Installation, Error> {
    let section = Section { source, name: "mysql", datastore: Datastore::Mysql };
    Ok(Installation {
        server: section.program(raw.server, "server", "mysqld")?,
        backup: section.program(raw.xtrabackup, "xtrabackup", "xtrabackup")?,
        install_db: PathBuf::new(),
        client: section.program(raw.client, "client", "mysql")?,
        binlog: section.program(raw.binlog, "binlog", "mysqlbinlog")?,
        dump: section.program(raw.dump, "dump", "mysqldump")?,
        strategy: section.strategy(raw.strategy)?,
        other_engines: section.other_engines(raw.other_engines)?,
        dump_locks_tables: raw.dump_locks_tables.unwrap_or(false),
        server_user: server_user(raw.server_user),
        buffer_pool_bytes: section.buffer_pool(raw.buffer_pool_bytes)?,
    })
}

/// Servers refuse to run as root, and so do we.
fn server_user(given: Option<String>) -> String {
    let own = User::own();
    given.unwrap_or_else(|| if own.is_root() { "mysql".to_owned() } else { own.name })
}

struct Section<'a> {
    source: &'a Source<'a>,
    name: &'static str,
    datastore: Datastore,
}

impl Section<'_> {
    fn program(&self, given: Option<PathBuf>, key: &str, name: &str) -> Result<PathBuf, Error> {
        match given {
            Some(given) => self.source.absolute(self.name, key, given),
            None => Ok(find_program(name, &std::env::var_os("PATH").unwrap_or_default())),
        }
    }

    fn strategy(&self, given: Option<String>) -> Result<Strategy, Error> {
        let offered = [Strategy::physical(self.datastore), Strategy::Dump];
        let Some(given) = given else { return Ok(offered[0]) };
        offered.into_iter().find(|strategy| strategy.name() == given).ok_or_else(|| {
            self.source
                .wrong(self.name, "strategy", format!("`{given}` is not a way to take backups of this datastore"))
                .hint(format!("Write \"{}\" (the server's files) or \"dump\" (statements).", offered[0].name()))
        })
    }

    fn other_engines(&self, given: Option<String>) -> Result<OtherEngines, Error> {
        match given.as_deref() {
            None | Some("refuse") => Ok(OtherEngines::Refuse),
            Some("dump") => Ok(OtherEngines::Dump),
            Some(other) => Err(self
                .source
                .wrong(self.name, "other_engines", format!("`{other}` is nothing that is done with tables"))
                .hint("Write \"refuse\" (no backup while there are such tables) or \"dump\" (beside the clone).")),
        }
    }

    fn buffer_pool(&self, given: Option<u64>) -> Result<u64, Error> {
        self.source.number(self.name, "buffer_pool_bytes", given, BUFFER_POOL_BYTES_DEFAULT, BUFFER_POOL_BYTES)
    }
}
