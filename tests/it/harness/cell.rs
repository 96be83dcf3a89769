//! Which server and which kind of backup a test runs on: one cell of the matrix.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::appliance::said;

/// A server and its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datastore {
    /// The one that is installed on the machine.
    Mariadb,
    /// The next series, in a folder of its own.
    MariadbNext,
    /// In a folder of its own too.
    Mysql,
}

/// How backups are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The files: by `mariadb-backup` or by the server's clone plugin.
    Physical,
    /// Statements: by `mariadb-dump` or `mysqldump`.
    Dump,
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) datastore: Datastore,
    pub(crate) strategy: Strategy,
}

/// The six of the matrix, by the names that `tests/it/matrix.rs` lists.
#[allow(dead_code, reason = "a cell is there before coffer has the driver that lets it be listed")]
impl Cell {
    pub(crate) fn mariadb() -> Cell {
        Cell { datastore: Datastore::Mariadb, strategy: Strategy::Physical }
    }

    pub(crate) fn mariadb_dump() -> Cell {
        Cell { strategy: Strategy::Dump, ..Cell::mariadb() }
    }

    pub(crate) fn mariadb_next() -> Cell {
        Cell { datastore: Datastore::MariadbNext, strategy: Strategy::Physical }
    }

    pub(crate) fn mariadb_next_dump() -> Cell {
        Cell { strategy: Strategy::Dump, ..Cell::mariadb_next() }
    }

    pub(crate) fn mysql() -> Cell {
        Cell { datastore: Datastore::Mysql, strategy: Strategy::Physical }
    }

    pub(crate) fn mysql_dump() -> Cell {
        Cell { strategy: Strategy::Dump, ..Cell::mysql() }
    }
}

impl Cell {
    /// The section of coffer's configuration; empty where everything is found by itself.
    pub(crate) fn configuration(self) -> String {
        let tools: &[(&str, &str)] = match self.datastore {
            Datastore::Mariadb => &[],
            Datastore::MariadbNext => &[
                ("server", "mariadbd"),
                ("backup", "mariadb-backup"),
                ("install_db", "mariadb-install-db"),
                ("client", "mariadb"),
                ("binlog", "mariadb-binlog"),
                ("dump", "mariadb-dump"),
            ],
            Datastore::Mysql => {
                &[("server", "mysqld"), ("client", "mysql"), ("binlog", "mysqlbinlog"), ("dump", "mysqldump")]
            }
        };
        let program = |(key, name): &(&str, &str)| format!("{key} = \"{}\"\n", self.datastore.program(name).display());
        let mut lines: Vec<String> = tools.iter().map(program).collect();
        if self.datastore.is_mysql() {
            lines.push(format!("server_user = \"{}\"\n", self.datastore.account()));
        }
        if self.strategy == Strategy::Dump {
            lines.push("strategy = \"dump\"\n".to_owned());
        }
        if lines.is_empty() { String::new() } else { format!("\n[{}]\n{}", self.datastore.name(), lines.concat()) }
    }

    /// What a run is about, and what a test runs on that names no cell: MariaDB, or what the test binary is named after
    /// (`scripts/test --test it-mariadb-next`).
    pub(crate) fn of_this_run() -> Cell {
        match env!("CARGO_CRATE_NAME") {
            "it_mariadb_next" => Cell::mariadb_next(),
            _ => Cell::mariadb(),
        }
    }
}

impl Datastore {
    pub(crate) fn is_mysql(self) -> bool {
        self == Datastore::Mysql
    }

    /// Its word in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Datastore::Mariadb | Datastore::MariadbNext => "mariadb",
            Datastore::Mysql => "mysql",
        }
    }

    /// The name of the server's program, and of its group in an option file.
    pub(crate) fn server(self) -> &'static str {
        match self {
            Datastore::Mariadb | Datastore::MariadbNext => "mariadbd",
            Datastore::Mysql => "mysqld",
        }
    }

    /// The program that runs a script of SQL.
    pub(crate) fn client(self) -> PathBuf {
        self.program(if self.is_mysql() { "mysql" } else { "mariadb" })
    }

    /// The program that tells what a binlog holds.
    pub(crate) fn binlog_reader(self) -> PathBuf {
        self.program(if self.is_mysql() { "mysqlbinlog" } else { "mariadb-binlog" })
    }

    /// The program that stops a server, among others.
    pub(crate) fn admin(self) -> PathBuf {
        self.program(if self.is_mysql() { "mysqladmin" } else { "mariadb-admin" })
    }

    /// The full path of a program of its installation.
    #[track_caller]
    pub(crate) fn program(self, name: &str) -> PathBuf {
        let Some((folder, option)) = self.private_folder() else {
            // An ordinary user's PATH does not hold the servers.
            let places = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
            let found = places.split(':').map(|place| Path::new(place).join(name)).find(|path| path.is_file());
            return found.unwrap_or_else(|| panic!("{name} is missing: run scripts/setup"));
        };
        let path = folder.join("bin").join(name);
        assert!(path.is_file(), "{} is missing: run `scripts/setup {option}`", path.display());
        path
    }

    /// Where `scripts/lib/install-server` puts it, and the option of `scripts/setup` that does.
    pub(crate) fn private_folder(self) -> Option<(PathBuf, &'static str)> {
        let (name, option) = match self {
            Datastore::Mariadb => return None,
            Datastore::MariadbNext => ("mariadb-next", "--with-mariadb-next"),
            Datastore::Mysql => ("mysql", "--with-mysql"),
        };
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let cache =
            cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"));
        Some((cache.join("coffer-test-servers").join(name), option))
    }

    /// The account its servers run as.
    pub(crate) fn account(self) -> &'static str {
        // What lies in root's home can be read by root alone, and mysqld looks there once it is somebody else.
        if rustix::process::geteuid().is_root() && !self.is_mysql() {
            return "mysql";
        }
        static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        NAME.get_or_init(|| said(Command::new("id").arg("-un")).stdout.trim().to_owned())
    }

    /// What makes a server of a test small.
    pub(crate) fn small(self) -> &'static str {
        match self {
            Datastore::Mariadb | Datastore::MariadbNext => "innodb-buffer-pool-size=32M\ninnodb-log-file-size=16M\n",
            // The compiled-in directory for files does not exist in a private folder, and then the server does not start.
            Datastore::Mysql => {
                "innodb-buffer-pool-size=32M\ninnodb-redo-log-capacity=8M\nmax-connections=40\nmysqlx=OFF\n\
                 secure-file-priv=\nplugin-load-add=auth_socket.so\nplugin-load-add=mysql_clone.so\n"
            }
        }
    }

    /// The settings a server needs to be looked after; a test adds or replaces what it is about.
    pub(crate) fn good(self) -> &'static str {
        match self {
            Datastore::Mariadb | Datastore::MariadbNext => super::server::GOOD,
            Datastore::Mysql => {
                "log-bin=binlog\nserver-id=4711\nsync-binlog=1\ninnodb-flush-log-at-trx-commit=1\n\
                 gtid-mode=ON\nenforce-gtid-consistency=ON\n"
            }
        }
    }
}
