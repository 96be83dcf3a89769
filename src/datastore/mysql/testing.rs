//! A real `mysqld` for tests, as `scripts/lib/install-server mysql` puts it into a private folder.
//!
//! Where it was not put, the tests of MySQL fail and say how to have it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::datastore::Tools;
use crate::datastore::mysql::install::install;
use crate::datastore::mysqld::{self, created_options};
use crate::datastore::sql::{Access, Sql};
use crate::domain::backup::{OtherEngines, Strategy};
use crate::domain::datastore::Datastore;
use crate::domain::instance::{Control, Server};
use crate::durable;
use crate::process::{Cmd, User};
use crate::testing::TempDir;

/// A server with a directory of its own, ended with the test.
pub(crate) struct TestMysql {
    pub(crate) tools: Tools,
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

/// A program of the installation.
fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .expect("HOME is set");
    cache.join("coffer-test-servers/mysql/bin").join(name)
}

fn tools() -> Tools {
    let server = program("mysqld");
    assert!(server.is_file(), "no MySQL to test with: run `scripts/setup --with-mysql`");
    let beside = |name: &str| server.with_file_name(name);
    Tools {
        datastore: Datastore::Mysql,
        strategy: Strategy::Clone,
        other_engines: OtherEngines::Refuse,
        dump_locks_tables: false,
        client: beside("mysql"),
        dump: beside("mysqldump"),
        server,
        install_db: PathBuf::new(),
        backup: PathBuf::new(),
        server_user: User::own().name,
        buffer_pool_bytes: 32 << 20,
        replay_buffer_pool_bytes: 32 << 20,
    }
}

/// A data directory made once and kept from run to run beside the programs; making one takes seconds.
fn template(tools: &Tools) -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = tools.server.parent().and_then(Path::parent).unwrap().join("template");
        if !folder.exists() {
            let dir = TempDir::new();
            install(tools, &dir.join("data"), &dir.join("tmp")).unwrap();
            // Once started with a small redo log it is half as large.
            let server = TestMysql { tools: tools.clone(), server: server_in(tools, &dir, ""), dir };
            server.start_again();
            server.stop();
            for name in ["auto.cnf", "binlog.index", "binlog.000001"] {
                std::fs::remove_file(server.server.data_dir.join(name)).unwrap();
            }
            let new = folder.with_file_name(format!("template-{}", uuid::Uuid::new_v4().simple()));
            copy(&server.server.data_dir, &new);
            // Another run may have been faster.
            if std::fs::rename(&new, &folder).is_err() {
                std::fs::remove_dir_all(&new).unwrap();
            }
        }
        folder
    })
}

/// A server whose files all lie in `dir`; writes its option file.
fn server_in(tools: &Tools, dir: &Path, options: &str) -> Server {
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
    let own = "skip_networking\ninnodb_redo_log_capacity=8M\ninnodb_flush_log_at_trx_commit=0\nsync_binlog=0\n\
               innodb_doublewrite=OFF\nmax_connections=20\n";
    let text = created_options(tools, &server, 11).replace("[client]", &format!("{own}{options}\n[client]"));
    durable::write(&server.defaults_file, text.as_bytes(), 0o644).unwrap();
    server
}

fn copy(from: &Path, to: &Path) {
    Cmd::new("cp").arg("-a").arg(from).arg(to).run().unwrap();
}

impl TestMysql {
    /// One of the server's other tools.
    pub(crate) fn program(name: &str) -> PathBuf {
        program(name)
    }

    /// Starts a new server; `options` are more lines of its option file.
    pub(crate) fn start(options: &str) -> TestMysql {
        let tools = tools();
        let dir = TempDir::new();
        std::fs::create_dir(dir.join("tmp")).unwrap();
        copy(template(&tools), &dir.join("data"));
        let server = TestMysql { server: server_in(&tools, &dir, options), tools, dir };
        server.start_again();
        server
    }

    /// Starts a new server that has a keyring, as a file in `keys`. A keyring is told of in a file beside the program, so
    /// this one seems to lie elsewhere.
    pub(crate) fn start_with_keyring(options: &str) -> TestMysql {
        let mut tools = tools();
        let dir = TempDir::new();
        let folder = tools.server.parent().and_then(Path::parent).unwrap().join("root/usr");
        let plugins = dir.join("plugins");
        for name in ["tmp", "keys", "plugins"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        for name in ["component_keyring_file.so", "auth_socket.so", "mysql_clone.so"] {
            std::os::unix::fs::symlink(folder.join("lib/mysql/plugin").join(name), plugins.join(name)).unwrap();
        }
        let write = |path: PathBuf, text: &str, mode| durable::write(&path, text.as_bytes(), mode).unwrap();
        let ring = format!("{{\"path\": \"{}\", \"read_only\": false}}", dir.join("keys/ring").display());
        write(plugins.join("component_keyring_file.cnf"), &ring, 0o644);
        write(dir.join("mysqld.my"), "{\"components\": \"file://component_keyring_file\"}", 0o644);
        let script = std::fs::read_to_string(&tools.server).unwrap();
        let (before, rest) = script.split_once("--argv0 '").unwrap();
        let (_, after) = rest.split_once('\'').unwrap();
        let moved = dir.join("mysqld");
        write(moved.clone(), &format!("{before}--argv0 '{}'{after}", moved.display()), 0o755);
        tools.server = moved;
        copy(template(&self::tools()), &dir.join("data"));
        let own = format!("basedir={}\nplugin_dir={}\n{options}", folder.display(), plugins.display());
        let server = TestMysql { server: server_in(&tools, &dir, &own), tools, dir };
        server.start_again();
        server
    }

    pub(crate) fn start_again(&self) {
        mysqld::start(&self.tools, &self.server).unwrap();
    }

    pub(crate) fn stop(&self) {
        mysqld::stop(&self.server).unwrap();
    }

    pub(crate) fn kill(&self) {
        if let Some(handle) = mysqld::find(&self.server.defaults_file).unwrap() {
            handle.kill().unwrap();
            assert!(handle.wait(mysqld::STOP_TIMEOUT));
        }
    }

    pub(crate) fn access(&self) -> Access {
        mysqld::access(&self.server).unwrap()
    }

    pub(crate) fn sql(&self) -> Sql {
        Sql::connect(&self.access()).unwrap()
    }

    /// Runs statements one after the other.
    pub(crate) fn run(&self, statements: &[&str]) {
        let mut sql = self.sql();
        for statement in statements {
            sql.execute(statement).unwrap_or_else(|err| panic!("{statement}: {err}"));
        }
    }
}

impl Drop for TestMysql {
    fn drop(&mut self) {
        self.kill();
    }
}
