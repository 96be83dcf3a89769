//! Servers and tools that the tests run themselves: to be adopted, or to show what the naive way does.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mysql::Conn;
use rustix::process::Signal;

use super::appliance::{Said, said};
use super::bed::{Bed, is_running, kill};
use super::cell::Datastore;
use super::{sql, wait_for};

/// The settings a MariaDB server needs to be looked after; a test adds or replaces what it is about.
pub(crate) const GOOD: &str = "log-bin=binlog\nbinlog-format=ROW\nserver-id=4711\nsync-binlog=1\n\
                               innodb-flush-log-at-trx-commit=1\n";

/// A server with an option file of its own, started and stopped by the test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) options: PathBuf,
    pub(crate) pid_file: PathBuf,
    pub(crate) datastore: Datastore,
    child: Option<Child>,
}

impl Server {
    /// Makes a data directory and an option file; does not start anything.
    pub(crate) fn create(bed: &Bed, name: &str, settings: &str) -> Server {
        let server = Server::without_data(bed, name, settings);
        match server.datastore {
            Datastore::Mariadb | Datastore::MariadbNext => server.install_mariadb(),
            Datastore::Mysql => server.install_mysql(),
        }
        server
    }

    fn install_mariadb(&self) {
        let done = said(
            Command::new(self.datastore.program("mariadb-install-db"))
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .arg(format!("--user={}", self.datastore.account()))
                .arg("--innodb-log-file-size=16M")
                .arg(format!("--tmpdir={}", self.dir.join("tmp").display()))
                .arg(format!("--datadir={}", self.data_dir.display())),
        );
        assert_eq!(done.code, 0, "mariadb-install-db: {done:?}");
    }

    /// A copy of a data directory that is made once, as that takes seconds, and kept beside the programs.
    fn install_mysql(&self) {
        let (folder, _) = self.datastore.private_folder().unwrap();
        let template = folder.join("template-it");
        static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let making = MAKING.lock().unwrap();
        if !template.exists() {
            let new = folder.join(format!("template-it-{}", std::process::id()));
            let mut made = Command::new(self.datastore.program("mysqld"));
            made.args([
                "--no-defaults",
                "--initialize-insecure",
                "--innodb-redo-log-capacity=8M",
                "--secure-file-priv=",
            ]);
            made.arg(format!("--user={}", self.datastore.account())).arg(format!("--datadir={}", new.display()));
            let done = said(&mut made);
            assert_eq!(done.code, 0, "mysqld --initialize-insecure: {done:?}");
            // Two servers with one UUID would take each other's transactions for their own.
            let _ = fs::remove_file(new.join("auto.cnf"));
            // Another run may have been faster; then its template is as good.
            if fs::rename(&new, &template).is_err() {
                fs::remove_dir_all(&new).unwrap();
            }
        }
        drop(making);
        let copied = said(Command::new("cp").arg("-a").arg(&template).arg(&self.data_dir));
        assert_eq!(copied.code, 0, "{copied:?}");
    }

    /// Only the option file; the data directory comes from elsewhere.
    pub(crate) fn without_data(bed: &Bed, name: &str, settings: &str) -> Server {
        let dir = bed.path(name);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        give_to_server(&dir);
        // A starting server removes every other server's temporary tables in its tmpdir: each has its own.
        fs::create_dir_all(dir.join("tmp")).unwrap();
        give_to_server(&dir.join("tmp"));
        let server = Server {
            data_dir: dir.join("data"),
            socket: dir.join("s.sock"),
            options: dir.join("my.cnf"),
            pid_file: dir.join("server.pid"),
            datastore: bed.datastore(),
            dir,
            child: None,
        };
        server.write_options(settings);
        server
    }

    /// Writes the option file anew, with `settings` behind what every test server has.
    pub(crate) fn write_options(&self, settings: &str) {
        let text = format!(
            "[{}]\nuser={}\ndatadir={}\nsocket={}\npid-file={}\nlog-error={}\ntmpdir={}\nskip-networking\n\
             {}{settings}\n[client]\nsocket={}\nuser=root\n",
            self.datastore.server(),
            self.datastore.account(),
            self.data_dir.display(),
            self.socket.display(),
            self.pid_file.display(),
            self.dir.join("error.log").display(),
            self.dir.join("tmp").display(),
            self.datastore.small(),
            self.socket.display(),
        );
        fs::write(&self.options, text).unwrap();
        fs::set_permissions(&self.options, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Starts it with `more` arguments and waits until it answers.
    pub(crate) fn start(&mut self, more: &[&str]) {
        self.try_start(more).unwrap_or_else(|| panic!("no answer; the end of its log:\n{}", self.log_tail()));
    }

    /// Starts it; `None` if it ends instead of answering.
    pub(crate) fn try_start(&mut self, more: &[&str]) -> Option<()> {
        assert!(self.child.is_none(), "it runs already");
        let _ = fs::remove_file(&self.socket);
        let out = OpenOptions::new().create(true).append(true).open(self.dir.join("out.log")).unwrap();
        let mut command = Command::new(self.datastore.program(self.datastore.server()));
        command.arg(format!("--defaults-file={}", self.options.display())).args(more);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut child = command.spawn().unwrap();
        let answered = wait_for("a server of the test's own to answer", Duration::from_secs(60), || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            sql::connect(&self.socket).ok().map(|_| true)
        });
        answered.then(|| self.child = Some(child))
    }

    pub(crate) fn conn(&self) -> Conn {
        sql::connect(&self.socket).unwrap_or_else(|err| panic!("{}: {err}\n{}", self.socket.display(), self.log_tail()))
    }

    pub(crate) fn is_up(&self) -> bool {
        fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse().ok()).is_some_and(is_running)
    }

    /// Puts a copy of a prepared backup in place of the data directory.
    pub(crate) fn take_copy_of(&self, base: &Path) {
        let copied = said(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(&self.data_dir));
        assert_eq!(copied.code, 0, "{copied:?}");
    }

    /// A clean stop.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        kill(child.id() as i32, Signal::TERM);
        wait_for("a clean stop", Duration::from_secs(60), || child.try_wait().unwrap());
    }

    /// Forgets the process: whoever adopts the server starts and stops it from now on.
    pub(crate) fn hand_over(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Somebody has to collect the child once it ends, or it looks alive for ever.
        std::thread::spawn(move || child.wait());
    }

    pub(crate) fn log_tail(&self) -> String {
        super::appliance::tail(&self.dir.join("error.log"))
    }

    /// The server's own client reading a script, as the manual recipes have it.
    pub(crate) fn client(&self, script: &Path, more: &[&str]) -> Said {
        let mut command = Command::new(self.datastore.client());
        command.args(["--no-defaults", "-uroot", "-S"]).arg(&self.socket).args(more);
        let output = command.stdin(fs::File::open(script).unwrap()).output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `mariadb-binlog` or `mysqlbinlog` with the clock of UTC, its text kept in a file.
pub(crate) fn dump_binlogs(datastore: Datastore, files: &[PathBuf], options: &[&str], into: &Path) {
    let mut command = Command::new(datastore.binlog_reader());
    command.env("TZ", "UTC").arg("--no-defaults").args(options).args(files);
    let done = command.stdout(fs::File::create(into).unwrap()).stderr(Stdio::piped()).output().unwrap();
    assert!(
        done.status.success(),
        "{}: {}",
        datastore.binlog_reader().display(),
        String::from_utf8_lossy(&done.stderr)
    );
}

/// A full backup of a running MariaDB, unpacked and prepared in `dir`, as a manual recipe makes it.
pub(crate) fn copy_by_hand(datastore: Datastore, socket: &Path, data_dir: &Path, dir: &Path) {
    for step in ["--backup", "--prepare"] {
        let mut command = Command::new(datastore.program("mariadb-backup"));
        command.arg("--no-defaults").arg(step).arg(format!("--target-dir={}", dir.display()));
        command.arg(format!("--datadir={}", data_dir.display()));
        command.arg(format!("--socket={}", socket.display())).arg("--user=root");
        let done = said(&mut command);
        assert_eq!(done.code, 0, "mariadb-backup {step}: {}", done.stderr);
    }
    give_tree_to_server(dir);
}

/// File, offset and GTID position that a backup made by hand says it leads to.
pub(crate) fn end_of_copy(dir: &Path) -> (String, u64, String) {
    let names = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];
    let text = names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok()).expect("no binlog info");
    let parts: Vec<&str> = text.split_whitespace().collect();
    (parts[0].to_owned(), parts[1].parse().unwrap(), parts.get(2).copied().unwrap_or_default().to_owned())
}

/// How the relay logs are handed to the applier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// CHANGE MASTER names the relay log.
    Right,
    /// CHANGE MASTER names only the source's position, as for a new replica.
    WithoutRelayLogFile,
}

/// Replays binlog files as relay logs on a stopped MariaDB whose data directory holds the base; leaves it running.
/// Returns what is left of the relay logs that were put there.
pub(crate) fn replay_by_hand(server: &mut Server, files: &[PathBuf], from: u64, recipe: Recipe) -> usize {
    let options = ["--skip-log-bin", "--relay-log=relay-bin", "--relay-log-purge=0", "--skip-slave-start"];
    let options = [&options[..], &["--server-id=99999", "--event-scheduler=OFF"]].concat();
    let first = files[0].file_name().unwrap().to_string_lossy().into_owned();
    let source = format!("master_log_file='{first}', master_log_pos={from}");
    server.start(&options);
    let change = format!("CHANGE MASTER TO master_host='dummy', master_user='x', {source}, master_use_gtid=no");
    sql::run(&mut server.conn(), &change);
    server.stop();
    let relay: Vec<PathBuf> =
        (1..=files.len()).map(|number| server.data_dir.join(format!("relay-bin.{number:06}"))).collect();
    for (file, relay) in files.iter().zip(&relay) {
        fs::copy(file, relay).unwrap();
    }
    let index: String = (1..=files.len()).map(|number| format!("./relay-bin.{number:06}\n")).collect();
    fs::write(server.data_dir.join("relay-bin.index"), index).unwrap();
    give_tree_to_server(&server.data_dir);
    server.start(&options);
    let mut conn = server.conn();
    match recipe {
        Recipe::Right => {
            let place = format!("relay_log_file='relay-bin.000001', relay_log_pos={from}");
            sql::run(&mut conn, &format!("CHANGE MASTER TO {place}"));
        }
        Recipe::WithoutRelayLogFile => sql::run(&mut conn, &format!("CHANGE MASTER TO {source}")),
    }
    sql::run(&mut conn, "START SLAVE SQL_THREAD");
    wait_for("the applier to come to rest", Duration::from_secs(60), || {
        let state = sql::row(&mut conn, "SHOW SLAVE STATUS");
        let (running, what) = (&state["Slave_SQL_Running"], &state["Slave_SQL_Running_State"]);
        (running == "No" || what.starts_with("Slave has read all relay log")).then_some(())
    });
    // Equal in size means untouched: what the server writes there itself is a few hundred bytes.
    let same = |(file, relay): &(&PathBuf, &PathBuf)| {
        fs::metadata(relay).is_ok_and(|it| it.len() == fs::metadata(file).unwrap().len())
    };
    files.iter().zip(&relay).filter(same).count()
}

/// Hands a file or directory to the account that servers run as.
pub(crate) fn give_to_server(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let number = |flag| said(Command::new("id").args([flag, "mysql"])).stdout.trim().parse().ok();
    chown(path, number("-u"), number("-g")).unwrap();
}

pub(crate) fn give_tree_to_server(dir: &Path) {
    give_to_server(dir);
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            give_tree_to_server(&entry.path());
        } else {
            give_to_server(&entry.path());
        }
    }
}
