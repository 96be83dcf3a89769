//! The scratch server: a private server on data that is nobody's yet, to make it what it shall be, to learn what it is, or
//! to look at it.
//!
//! It is quarantined by construction: no network, no binlog of its own (so that no GTID is used up), the event scheduler
//! off from the start, no replication by itself, no settings but those given here.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::mysqld::{self, START_TIMEOUT, STOP_TIMEOUT, last_lines};
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::sql::{Access, Secret, Sql};
use crate::datastore::{Tools, mariadb, mysql};
use crate::domain::datastore::Datastore;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, ProcessHandle};

/// The account with which coffer works on a scratch server; gone before the data is used for anything else.
const ACCOUNT: &str = "coffer_replay";
/// How often a start is looked at.
const POLL: Duration = Duration::from_millis(25);

/// What a scratch server works on.
#[derive(Debug, Clone)]
pub(crate) struct ScratchSettings {
    pub(crate) data_dir: PathBuf,
    /// For socket, option file, log and relay logs; on the same file system as the data directory.
    pub(crate) run_dir: PathBuf,
    /// What a server needs to open these files, from the backup: InnoDB's page size, file layout, case of names.
    pub(crate) layout: Vec<(String, String)>,
    /// Not the id of any event: an applier passes over events of its own id.
    pub(crate) server_id: u32,
}

/// A running scratch server.
pub(crate) struct Scratch {
    handle: ProcessHandle,
    access: Access,
    pub(crate) log: PathBuf,
}

impl Scratch {
    /// Starts it with these options beside those of every scratch server.
    pub(crate) fn start(
        tools: &Tools,
        settings: &ScratchSettings,
        more: impl FnOnce(OptionGroup) -> OptionGroup,
        access: Access,
    ) -> Result<Scratch, Error> {
        let (handle, log) = launch(tools, settings, more(common_options(tools, settings)))?;
        let deadline = Deadline::after(START_TIMEOUT);
        loop {
            match Sql::connect(&access) {
                Ok(_) => return Ok(Scratch { handle, access, log }),
                Err(err) if !handle.is_alive() || deadline.has_passed() => {
                    let _ = handle.kill(); // It is dead or useless; the error below says so.
                    handle.wait(STOP_TIMEOUT);
                    return Err(start_error(&log).with_source(err));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// Starts it with an account of its own; the account's password is made for this start and lies in a 0600 file until
    /// the server has read it. Whoever uses it drops the account with `drop_account`.
    pub(crate) fn start_with_account(
        tools: &Tools,
        settings: &ScratchSettings,
        more: impl FnOnce(OptionGroup) -> OptionGroup,
    ) -> Result<Scratch, Error> {
        let password = random_password()?;
        let init_file = settings.run_dir.join("init.sql");
        let statements = format!(
            "DROP USER IF EXISTS {ACCOUNT}@localhost;\n\
             CREATE USER {ACCOUNT}@localhost IDENTIFIED BY '{password}';\n\
             GRANT ALL ON *.* TO {ACCOUNT}@localhost WITH GRANT OPTION;\n"
        );
        durable::write(&init_file, statements.as_bytes(), 0o600)?;
        Owner::of_user(&tools.server_user)?.give(&init_file)?;
        let access = Access {
            socket: socket_path(&settings.run_dir),
            user: ACCOUNT.to_owned(),
            password: Some(Secret::new(password)),
        };
        let scratch = Scratch::start(tools, settings, |group| more(group.path("init_file", &init_file)), access);
        // Whether it started or not, the password has done its work.
        std::fs::remove_file(&init_file).map_err(|err| io_error("unable to remove", &init_file, err))?;
        scratch
    }

    /// Starts it for people to look at, with the accounts of the data itself, read-only. Its socket is returned.
    pub(crate) fn start_for_inspection(tools: &Tools, settings: &ScratchSettings) -> Result<PathBuf, Error> {
        let socket = socket_path(&settings.run_dir);
        // What somebody looks at is what is switched in, so it must not change. `read_only` alone binds no administrator,
        // and whoever looks is one; the others hold for everybody, InnoDB's to the last.
        let options =
            common_options(tools, settings).flag("read_only").flag("innodb_read_only").flag("transaction_read_only");
        let (handle, log) = launch(tools, settings, options)?;
        // Nobody may be able to log in, and yet it runs: an answered connection is enough.
        let deadline = Deadline::after(START_TIMEOUT);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if !handle.is_alive() || deadline.has_passed() {
                return Err(start_error(&log));
            }
            std::thread::sleep(POLL);
        }
        Ok(socket)
    }

    pub(crate) fn sql(&self) -> Result<Sql, Error> {
        Sql::connect(&self.access)
    }

    /// How others may log in while it runs.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Stops it cleanly: everything it knows is in its files afterwards.
    pub(crate) fn stop(self) -> Result<(), Error> {
        self.handle.terminate()?;
        if self.handle.wait(STOP_TIMEOUT) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Tool, "the scratch server does not stop").hint("The serving database is untouched."))
    }

    /// Ends it at once; for data that is thrown away.
    pub(crate) fn kill(self) {
        // It may be dead already, which is all we want.
        let _ = self.handle.kill();
        self.handle.wait(STOP_TIMEOUT);
    }

    /// Stops it cleanly when all went well, else at once.
    pub(crate) fn end_with<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Ok(value) => self.stop().map(|()| value),
            Err(err) => {
                self.kill();
                Err(err)
            }
        }
    }
}

/// Removes the account that `Scratch::start_with_account` made.
pub(crate) fn drop_account(sql: &mut Sql) -> Result<(), Error> {
    sql.execute(&format!("DROP USER {ACCOUNT}@localhost"))
}

/// Ends at once what an earlier life of coffer left running on this recovery's data, a scratch server or a tool. What it
/// worked on is thrown away, so nothing is gained by a clean stop, which a server in mid-start may put off for long.
pub(crate) fn discard_leftover(run_dir: &Path) -> Result<(), Error> {
    for argument in [option_file_argument(run_dir), format!("--target-dir={}", run_dir.join("new").display())] {
        if let Some(handle) = mysqld::find_by_argument(&argument)? {
            handle.kill()?;
            if !handle.wait(STOP_TIMEOUT) {
                return Err(Error::new(ErrorKind::Tool, format!("process {} does not end", handle.pid()))
                    .hint("The serving database is untouched. Look at what the process waits for."));
            }
        }
    }
    Ok(())
}

/// Stops the server that somebody looked at, cleanly.
pub(crate) fn stop_inspection(run_dir: &Path) -> Result<(), Error> {
    let Some(handle) = mysqld::find_by_argument(&option_file_argument(run_dir))? else { return Ok(()) };
    handle.terminate()?;
    if handle.wait(STOP_TIMEOUT) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Tool, "the scratch server does not stop").hint("The serving database is untouched."))
}

fn option_file_argument(run_dir: &Path) -> String {
    format!("--defaults-file={}", run_dir.join("scratch.cnf").display())
}

/// Makes a directory for a scratch server's own files, closed to all but the server's user.
pub(crate) fn make_run_dir(tools: &Tools, run_dir: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(run_dir) {
        Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io_error("unable to create", run_dir, err));
        }
        _ => {}
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(run_dir, private).map_err(|err| io_error("unable to close", run_dir, err))?;
    Owner::of_user(&tools.server_user)?.give(run_dir)
}

pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("s.sock")
}

/// Starts the program and returns it with the path of its log.
fn launch(tools: &Tools, settings: &ScratchSettings, options: OptionGroup) -> Result<(ProcessHandle, PathBuf), Error> {
    let (option_file, tmp_dir) = (settings.run_dir.join("scratch.cnf"), settings.run_dir.join("tmp"));
    durable::write(&option_file, options.render("mysqld").as_bytes(), 0o644)?;
    // A starting server removes every other server's temporary tables in its tmpdir: each has its own.
    std::fs::create_dir_all(&tmp_dir).map_err(|err| io_error("unable to create", &tmp_dir, err))?;
    Owner::of_user(&tools.server_user)?.give(&tmp_dir)?;
    if tools.datastore == Datastore::Mysql {
        mysqld::remove_stale_lock(&socket_path(&settings.run_dir), &settings.data_dir)?;
    }
    let handle = Cmd::new(&tools.server)
        .arg(format!("--defaults-file={}", option_file.display()))
        .spawn_detached(&settings.run_dir.join("scratch.out"))?;
    Ok((handle, settings.run_dir.join("scratch.log")))
}

fn start_error(log: &Path) -> Error {
    Error::new(ErrorKind::Tool, format!("the scratch server does not start; its log ends: {}", last_lines(log, 4)))
        .hint("The serving database is untouched.")
}

fn common_options(tools: &Tools, settings: &ScratchSettings) -> OptionGroup {
    let run_dir = &settings.run_dir;
    let group = OptionGroup::default()
        .set("user", &tools.server_user)
        .path("datadir", &settings.data_dir)
        .path("socket", &socket_path(run_dir))
        .path("tmpdir", &run_dir.join("tmp"))
        .path("pid_file", &run_dir.join("scratch.pid"))
        .path("log_error", &run_dir.join("scratch.log"))
        .flag("skip_networking")
        .flag("skip_log_bin")
        // Off from the start: SET GLOBAL would be too late, restored events fire within seconds.
        .set("event_scheduler", "OFF")
        .set("server_id", settings.server_id)
        .set("innodb_buffer_pool_size", tools.replay_buffer_pool_bytes)
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("innodb_buffer_pool_load_at_startup", "OFF");
    let group = match tools.datastore {
        Datastore::Mariadb => mariadb::scratch_options(group),
        Datastore::Mysql => mysql::scratch_options(group),
    };
    settings.layout.iter().fold(group, |group, (name, value)| group.set(name, value))
}

/// 256 random bits in hex, which need no quoting; what stands before them satisfies a server that wants several kinds of
/// characters.
fn random_password() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    Ok(bytes.iter().fold("Aa1-".to_owned(), |password, byte| format!("{password}{byte:02x}")))
}
