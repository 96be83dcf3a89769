//! A private mysqld on data that is nobody's yet: to learn where a clone ends, and to replay.
//!
//! Quarantined by construction: no network, no binlog of its own, the event scheduler off from the start, no replication
//! by itself, no settings but those given here. `gtid_mode=OFF_PERMISSIVE` takes transactions with a GTID and without one,
//! whatever the source's mode was and however it changed, and gives none to coffer's own statements.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::Tools;
use crate::datastore::mysqld::{START_TIMEOUT, STOP_TIMEOUT, last_lines};
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::sql::{Access, Sql};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, ProcessHandle};

const POLL: Duration = Duration::from_millis(25);

/// What a scratch server works on.
#[derive(Debug, Clone)]
pub(crate) struct ScratchSettings {
    pub(crate) data_dir: PathBuf,
    /// For socket, option file, log and relay logs. Nobody but the server's user may enter it.
    pub(crate) run_dir: PathBuf,
    /// What a server needs to open these files, from the server they come from (see `inspect::layout`).
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
        let option_file = settings.run_dir.join("scratch.cnf");
        let options = more(common_options(tools, settings)).render("mysqld");
        durable::write(&option_file, options.as_bytes(), 0o644)?;
        let log = settings.run_dir.join("scratch.log");
        let handle = Cmd::new(&tools.server)
            .arg(format!("--defaults-file={}", option_file.display()))
            .spawn_detached(&settings.run_dir.join("scratch.out"))?;
        let deadline = Deadline::after(START_TIMEOUT);
        loop {
            match Sql::connect(&access) {
                Ok(_) => return Ok(Scratch { handle, access, log }),
                Err(err) if !handle.is_alive() || deadline.has_passed() => {
                    let _ = handle.kill(); // It is dead or useless; the error below says so.
                    handle.wait(STOP_TIMEOUT);
                    let said = last_lines(&log, 4);
                    return Err(Error::new(
                        ErrorKind::Tool,
                        format!("the scratch server does not start; its log ends: {said}"),
                    )
                    .hint("The serving database is untouched.")
                    .with_source(err));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    pub(crate) fn sql(&self) -> Result<Sql, Error> {
        Sql::connect(&self.access)
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
}

/// Makes the directory for a scratch server's own files, closed to all but the server's user.
pub(crate) fn make_run_dir(tools: &Tools, run_dir: &Path) -> Result<(), Error> {
    let owner = Owner::of_user(&tools.server_user)?;
    for dir in [run_dir.to_owned(), run_dir.join("tmp"), run_dir.join("relay")] {
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io_error("unable to create", &dir, err));
            }
            _ => {}
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&dir, private).map_err(|err| io_error("unable to close", &dir, err))?;
        owner.give(&dir)?;
    }
    Ok(())
}

pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("s.sock")
}

fn common_options(tools: &Tools, settings: &ScratchSettings) -> OptionGroup {
    let run_dir = &settings.run_dir;
    let mut group = OptionGroup::default()
        .set("user", &tools.server_user)
        .path("datadir", &settings.data_dir)
        .path("socket", &socket_path(run_dir))
        .path("tmpdir", &run_dir.join("tmp"))
        .path("pid_file", &run_dir.join("scratch.pid"))
        .path("log_error", &run_dir.join("scratch.log"))
        .flag("skip_networking")
        .set("mysqlx", "OFF")
        .set("secure_file_priv", "NULL")
        .set("persisted_globals_load", "OFF")
        .flag("skip_log_bin")
        .flag("skip_replica_start")
        // Off from the start: SET GLOBAL would be too late, restored events fire within seconds.
        .set("event_scheduler", "OFF")
        .set("server_id", settings.server_id)
        .set("gtid_mode", "OFF_PERMISSIVE")
        .set("innodb_buffer_pool_size", tools.replay_buffer_pool_bytes)
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("innodb_buffer_pool_load_at_startup", "OFF")
        .path("relay_log", &run_dir.join("relay/relay-bin"))
        .path("relay_log_index", &run_dir.join("relay/relay-bin.index"));
    for (name, value) in &settings.layout {
        group = group.set(name, value);
    }
    group
}
