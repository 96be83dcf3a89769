//! Servers to dump and to load, and what to compare.

pub(crate) mod nasty;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::datastore::dump::split::quoted;
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::sql::{Access, Sql};
use crate::datastore::{Tools, mariadb, mysqld};
use crate::domain::backup::{OtherEngines, Strategy};
use crate::domain::datastore::Datastore;
use crate::domain::instance::{Control, Server};
use crate::durable;
use crate::process::User;
use crate::testing::TempDir;

/// A real mariadbd with a directory of its own, ended with the test.
pub(crate) struct TestMariadb {
    pub(crate) tools: Tools,
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

impl TestMariadb {
    /// Starts a new server; `options` are more lines of its option file.
    pub(crate) fn start(options: &str) -> TestMariadb {
        let dir = TempDir::new();
        let tools = Tools {
            datastore: Datastore::Mariadb,
            strategy: Strategy::Dump,
            other_engines: OtherEngines::Refuse,
            dump_locks_tables: false,
            client: PathBuf::from("mariadb"),
            dump: PathBuf::from("mariadb-dump"),
            server: PathBuf::from("/usr/sbin/mariadbd"),
            install_db: PathBuf::from("mariadb-install-db"),
            backup: PathBuf::new(),
            server_user: User::own().name,
            buffer_pool_bytes: 32 << 20,
            replay_buffer_pool_bytes: 32 << 20,
        };
        let data_dir = dir.join("data");
        let server = Server {
            control: Control::Created,
            socket: dir.join("s"),
            binlog_base: data_dir.join("binlog"),
            data_dir,
            work_dir: dir.join("work"),
            defaults_file: dir.join("my.cnf"),
            port: 0,
        };
        std::fs::create_dir(dir.join("tmp")).unwrap();
        mariadb::install(&tools, &server.data_dir, &dir.join("tmp")).unwrap();
        let own = "skip_networking\ninnodb_flush_log_at_trx_commit=0\nsync_binlog=0\ninnodb_doublewrite=OFF\n";
        let text =
            mysqld::created_options(&tools, &server, 11).replace("[client]", &format!("{own}{options}\n[client]"));
        durable::write(&server.defaults_file, text.as_bytes(), 0o644).unwrap();
        let server = TestMariadb { tools, server, dir };
        mysqld::start(&server.tools, &server.server).unwrap();
        server
    }
}

impl Drop for TestMariadb {
    fn drop(&mut self) {
        if let Ok(Some(handle)) = mysqld::find(&self.server.defaults_file) {
            handle.kill().unwrap();
            assert!(handle.wait(mysqld::STOP_TIMEOUT));
        }
    }
}

/// One of both.
pub(crate) enum TestServer {
    MariaDb(TestMariadb),
    MySql(TestMysql),
}

impl TestServer {
    fn parts(&self) -> (&Tools, &Server, &TempDir) {
        match self {
            TestServer::MariaDb(it) => (&it.tools, &it.server, &it.dir),
            TestServer::MySql(it) => (&it.tools, &it.server, &it.dir),
        }
    }

    pub(crate) fn access(&self) -> Access {
        mysqld::access(self.parts().1).unwrap()
    }

    pub(crate) fn sql(&self) -> Sql {
        Sql::connect(&self.access()).unwrap()
    }

    pub(crate) fn dir(&self) -> &TempDir {
        self.parts().2
    }

    pub(crate) fn dump_tools(&self) -> DumpTools {
        DumpTools::of(self.parts().0, &self.sql().value("SELECT VERSION()").unwrap()).unwrap()
    }

    pub(crate) fn restart(&self) {
        let (tools, server, _) = self.parts();
        mysqld::stop(server).unwrap();
        mysqld::start(tools, server).unwrap();
    }

    /// Runs statements one after the other over one connection.
    pub(crate) fn run(&self, statements: &[&str]) {
        let mut sql = self.sql();
        for statement in statements {
            sql.execute(statement).unwrap_or_else(|err| panic!("{statement}: {}", err.message()));
        }
    }
}

const NOT_SERVERS: &str = "NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'busy')";

/// Everything there is to compare, by what it is of. The schema `busy` is left out.
pub(crate) fn everything(sql: &mut Sql) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let list = |sql: &mut Sql, question: &str| -> Vec<(String, String, String)> {
        let rows = sql.rows(question).unwrap_or_else(|err| panic!("{question}: {}", err.message()));
        rows.into_iter()
            .map(|row| {
                let mut fields = row.into_iter();
                let mut next = || fields.next().unwrap_or_default();
                (next(), next(), next())
            })
            .collect()
    };
    let mut note = |sql: &mut Sql, question: String| {
        // A view whose definer is gone answers with that.
        let mut rows = sql
            .rows(&question)
            .unwrap_or_else(|err| vec![vec![err.message().split("did not").last().unwrap_or_default().to_owned()]]);
        // When a trigger was made is of no use to anybody.
        if question.starts_with("SHOW CREATE TRIGGER") {
            rows.iter_mut().for_each(|row| row.truncate(6));
        }
        found.insert(question, format!("{rows:#?}"));
    };
    for (schema, ..) in
        list(sql, &format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME {NOT_SERVERS}"))
    {
        note(sql, format!("SHOW CREATE DATABASE {}", quoted(&schema)));
    }
    let tables = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA {NOT_SERVERS} OR TABLE_NAME = 'ours'"
    );
    for (schema, name, kind) in list(sql, &tables) {
        let table = format!("{}.{}", quoted(&schema), quoted(&name));
        match kind.as_str() {
            "VIEW" if name == "broken" => {}
            "VIEW" => {
                note(sql, format!("SHOW CREATE VIEW {table}"));
                note(sql, format!("SELECT * FROM {table}"));
            }
            _ => {
                note(sql, format!("SHOW CREATE TABLE {table}"));
                // Rows that are gone with every start of a server, and those that a dump rounds.
                if name == "mem" || name == "floats" {
                    continue;
                }
                note(sql, format!("CHECKSUM TABLE {table} EXTENDED"));
                if kind == "SEQUENCE" || kind == "SYSTEM VERSIONED" {
                    let all = if kind == "SEQUENCE" { "" } else { " FOR SYSTEM_TIME ALL ORDER BY id, 2" };
                    note(sql, format!("SELECT * FROM {table}{all}"));
                }
            }
        }
    }
    let routines = format!(
        "SELECT ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA {NOT_SERVERS}"
    );
    for (kind, schema, name) in list(sql, &routines) {
        note(sql, format!("SHOW CREATE {kind} {}.{}", quoted(&schema), quoted(&name)));
    }
    let triggers = format!(
        "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, ACTION_ORDER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA {NOT_SERVERS}"
    );
    for (schema, name, order) in list(sql, &triggers) {
        note(sql, format!("SHOW CREATE TRIGGER {}.{}", quoted(&schema), quoted(&name)));
        note(sql, format!("SELECT '{name}', {order}"));
    }
    let events =
        format!("SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA {NOT_SERVERS}");
    for (schema, name, _) in list(sql, &events) {
        note(sql, format!("SHOW CREATE EVENT {}.{}", quoted(&schema), quoted(&name)));
    }
    note(sql, "SELECT EVENT_SCHEMA, EVENT_NAME, STATUS, DEFINER, TIME_ZONE, SQL_MODE, STARTS, EXECUTE_AT FROM information_schema.EVENTS ORDER BY 1, 2".to_owned());
    for (user, host, _) in list(sql, "SELECT User, Host FROM mysql.user") {
        let (user, host) = (user.replace('\'', "''"), host.replace('\'', "''"));
        let of = if host.is_empty() { format!("'{user}'") } else { format!("'{user}'@'{host}'") };
        note(sql, format!("SHOW GRANTS FOR {of}"));
    }
    for table in [
        "columns_priv",
        "db",
        "tables_priv",
        "procs_priv",
        "proxies_priv",
        "servers",
        "func",
        "plugin",
        "user",
        "global_priv",
        "roles_mapping",
        "role_edges",
        "default_roles",
        "global_grants",
        "password_history",
    ] {
        if !list(
            sql,
            &format!("SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = '{table}'"),
        )
        .is_empty()
        {
            note(sql, format!("SELECT * FROM mysql.{table} ORDER BY 1, 2"));
        }
    }
    found
}
