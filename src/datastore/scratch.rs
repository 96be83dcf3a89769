//! The scratch server: a private mariadbd on staged data, which replays exactly the planned transactions with the
//! server's own replication applier.
//!
//! It is quarantined by construction: no network, no binlog of its own (so that no GTID is used up), the event
//! scheduler off from the start, another server id than any event's (an applier skips events of its own id), durability
//! relaxed because a killed replay starts over. The relay logs lie outside the data directory and hold exactly the
//! planned transactions, so there is nothing to stop at: the applier runs to their end.
//!
//! The order of statements is MariaDB's trap (measured on 10.11): `CHANGE MASTER TO` without `RELAY_LOG_FILE` deletes
//! the relay logs on disk, and with an empty master log name the applier crashes. So: a `CHANGE MASTER TO` with a master
//! log name first, stop, place the relay logs and their index, start, and then only `CHANGE MASTER TO RELAY_LOG_FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::Tools;
use crate::datastore::mysqld::{self, START_TIMEOUT, STOP_TIMEOUT, last_lines};
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::sql::{Access, Secret, Sql};
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::GtidPosition;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, ProcessHandle};

/// The account with which coffer works on a scratch server; gone before the data is used for anything else.
const ACCOUNT: &str = "coffer_replay";
/// How often the applier is asked how far it is.
const POLL: Duration = Duration::from_millis(25);
/// One statement may rebuild a large table; what is watched beside this is the applier's own state.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the applier may claim to have read everything without standing where the plan ends.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const RELAY_STEM: &str = "relay-bin";

/// What a scratch server works on.
#[derive(Debug, Clone)]
pub(crate) struct ScratchSettings {
    pub(crate) data_dir: PathBuf,
    /// For socket, option file, log and relay logs; on the same file system as the data directory.
    pub(crate) run_dir: PathBuf,
    /// InnoDB's page size and file layout, from the backup.
    pub(crate) layout: Vec<(String, String)>,
    /// Not the id of any event.
    pub(crate) server_id: u32,
}

/// What shall be replayed.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    /// Relay logs in order, complete files in the run directory named by `relay_log_path`.
    pub(crate) relay_logs: Vec<PathBuf>,
    /// The last transaction of each domain that the data holds already.
    pub(crate) begin: GtidPosition,
    /// The same when everything has been applied.
    pub(crate) end: GtidPosition,
}

/// An event of the server's scheduler, as it was before the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScheduledEvent {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// As in `mysql.event`: `ENABLED`, `DISABLED`, `SLAVESIDE_DISABLED`.
    pub(crate) status: String,
}

/// The path of the n-th relay log (from 1).
pub(crate) fn relay_log_path(run_dir: &Path, number: usize) -> PathBuf {
    run_dir.join("relay").join(format!("{RELAY_STEM}.{number:06}"))
}

/// A running scratch server.
pub(crate) struct Scratch {
    handle: ProcessHandle,
    access: Access,
    log: PathBuf,
}

impl Scratch {
    /// Starts it with an account of its own; the account's password is made for this start and lies in a 0600 file until
    /// the server has read it.
    pub(crate) fn start(tools: &Tools, settings: &ScratchSettings) -> Result<Scratch, Error> {
        let owner = Owner::of_user(&tools.server_user)?;
        let password = random_password()?;
        let init_file = settings.run_dir.join("init.sql");
        let statements = format!(
            "CREATE OR REPLACE USER {ACCOUNT}@localhost IDENTIFIED BY '{password}';\n\
             GRANT ALL PRIVILEGES ON *.* TO {ACCOUNT}@localhost WITH GRANT OPTION;\n"
        );
        durable::write(&init_file, statements.as_bytes(), 0o600)?;
        owner.give(&init_file)?;
        let relay_dir = settings.run_dir.join("relay");
        std::fs::create_dir_all(&relay_dir).map_err(|err| io_error("unable to create", &relay_dir, err))?;
        owner.give_tree(&relay_dir)?;
        let options = replay_options(tools, settings, &init_file);
        let socket = socket_path(&settings.run_dir);
        let access = Access { socket, user: ACCOUNT.to_owned(), password: Some(Secret::new(password)) };
        let scratch = spawn(tools, settings, &options, access);
        // Whether it started or not, the password has done its work.
        std::fs::remove_file(&init_file).map_err(|err| io_error("unable to remove", &init_file, err))?;
        scratch
    }

    /// Starts it for people to look at, with the accounts of the data itself, read-only. Its socket is returned.
    pub(crate) fn start_for_inspection(tools: &Tools, settings: &ScratchSettings) -> Result<PathBuf, Error> {
        let socket = socket_path(&settings.run_dir);
        // What somebody looks at is what is switched in, so it must not change. `read_only` alone binds no administrator,
        // and whoever looks is one; the other two hold for everybody, InnoDB's to the last.
        let options = common_options(tools, settings)
            .flag("read_only")
            .flag("innodb_read_only")
            .flag("transaction_read_only")
            .render("mariadbd");
        let (handle, log) = launch(tools, settings, &options)?;
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

    /// Stops it cleanly: everything it knows is in its files afterwards.
    pub(crate) fn stop(self) -> Result<(), Error> {
        self.handle.terminate()?;
        if self.handle.wait(STOP_TIMEOUT) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Tool, "the scratch server does not stop").hint("The serving database is untouched."))
    }

    /// Ends it at once; for data that is thrown away.
    fn kill(self) {
        // It may be dead already, which is all we want.
        let _ = self.handle.kill();
        self.handle.wait(STOP_TIMEOUT);
    }
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

/// What is done on the replayed server before it stops; it is told which events there were before the replay.
pub(crate) type Finish<'a> = dyn Fn(&mut Sql, &[ScheduledEvent]) -> Result<(), Error> + 'a;

/// Replays and returns what the applier reached, which equals `replay.end` or it is an error. Afterwards the server is
/// stopped cleanly and nothing of the replay is left in the data. `finish` runs on the server before that.
pub(crate) fn replay(
    tools: &Tools,
    settings: &ScratchSettings,
    replay: &Replay,
    progress: &dyn Fn(u64),
    cancelled: &Arc<AtomicBool>,
    finish: &Finish<'_>,
) -> Result<GtidPosition, Error> {
    if !replay.relay_logs.is_empty() {
        place_relay_logs(tools, settings, replay)?;
    }
    let scratch = Scratch::start(tools, settings)?;
    let outcome = (|| {
        let mut sql = scratch.sql()?;
        let events = scheduled_events(&mut sql)?;
        if replay.relay_logs.is_empty() {
            set_applier_position(&mut sql, &replay.begin)?;
        } else {
            sql.execute(&format!("CHANGE MASTER TO RELAY_LOG_FILE='{RELAY_STEM}.000001', RELAY_LOG_POS=4"))?;
            sql.execute("START SLAVE SQL_THREAD")?;
            follow(&scratch, &mut sql, replay, progress, cancelled)?;
            sql.execute("STOP SLAVE")?;
        }
        let reached = sql.applier_position()?;
        finish(&mut sql, &events)?;
        if !replay.relay_logs.is_empty() {
            sql.execute("RESET SLAVE ALL")?;
        }
        sql.execute(&format!("DROP USER {ACCOUNT}@localhost"))?;
        Ok(reached)
    })();
    match outcome {
        Ok(reached) => {
            scratch.stop()?;
            if reached == replay.end {
                return Ok(reached);
            }
            Err(mismatch(&reached, &replay.end))
        }
        Err(err) => {
            scratch.kill();
            Err(err)
        }
    }
}

fn scheduled_events(sql: &mut Sql) -> Result<Vec<ScheduledEvent>, Error> {
    let rows = sql.rows("SELECT db, name, status FROM mysql.event")?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match <[String; 3]>::try_from(row) {
            Ok([schema, name, status]) => Some(ScheduledEvent { schema, name, status }),
            Err(_) => None,
        })
        .collect())
}

/// Starts and stops a scratch server so that the applier has its records: where it stands, and a source it never calls.
/// Comes before `replay` of relay logs, which are placed between the two starts.
pub(crate) fn announce(
    tools: &Tools,
    settings: &ScratchSettings,
    source: &Coordinate,
    begin: &GtidPosition,
) -> Result<(), Error> {
    // CHANGE MASTER takes no parameters; a binlog's name is checked to hold nothing that needs quoting.
    if !source.file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err(Error::new(ErrorKind::Unsupported, format!("the binlog name `{}` needs quoting", source.file))
            .hint("Choose a log_bin name of letters, digits, dots, dashes and underscores."));
    }
    let scratch = Scratch::start(tools, settings)?;
    let announced = scratch.sql().and_then(|mut sql| {
        set_applier_position(&mut sql, begin)?;
        sql.execute(&format!(
            "CHANGE MASTER TO MASTER_HOST='none', MASTER_USER='none', MASTER_LOG_FILE='{}', MASTER_LOG_POS={}, \
             MASTER_USE_GTID=no",
            source.file, source.position
        ))
    });
    match announced {
        Ok(()) => scratch.stop(),
        Err(err) => {
            scratch.kill();
            Err(err)
        }
    }
}

fn set_applier_position(sql: &mut Sql, position: &GtidPosition) -> Result<(), Error> {
    sql.execute(&format!("SET GLOBAL gtid_slave_pos='{position}'"))
}

/// Puts the index in place; the relay logs themselves lie there already under a name the server did not know of.
fn place_relay_logs(tools: &Tools, settings: &ScratchSettings, replay: &Replay) -> Result<(), Error> {
    let owner = Owner::of_user(&tools.server_user)?;
    let mut index = String::new();
    for (number, source) in (1..).zip(&replay.relay_logs) {
        let target = relay_log_path(&settings.run_dir, number);
        std::fs::rename(source, &target)
            .map_err(|err| io_error(format!("unable to rename `{}` to", source.display()), &target, err))?;
        owner.give(&target)?;
        index.push_str(&format!("{}\n", target.display()));
    }
    let index_path = settings.run_dir.join("relay").join(format!("{RELAY_STEM}.index"));
    durable::write(&index_path, index.as_bytes(), 0o660)?;
    owner.give(&index_path)
}

/// Watches the applier until it stands where the plan ends.
fn follow(
    scratch: &Scratch,
    sql: &mut Sql,
    replay: &Replay,
    progress: &dyn Fn(u64),
    cancelled: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let sizes: Vec<u64> = (1..=replay.relay_logs.len())
        .map(|number| relay_log_path(scratch.log.parent().unwrap_or(Path::new("/")), number))
        .map(|path| std::fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0))
        .collect();
    let deadline = Deadline::after(REPLAY_TIMEOUT);
    let mut settling: Option<Deadline> = None;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "the replay was interrupted"));
        }
        if !scratch.handle.is_alive() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the scratch server ended during the replay; its log ends: {}", last_lines(&scratch.log, 4)),
            ));
        }
        let status = sql.record("SHOW SLAVE STATUS")?;
        let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
        if field("Slave_SQL_Running") != "Yes" {
            return Err(Error::new(
                ErrorKind::Tool,
                format!(
                    "the server's applier stopped at {} with error {}: {}",
                    sql.applier_position()?,
                    field("Last_SQL_Errno"),
                    field("Last_SQL_Error")
                ),
            )
            .hint("The serving database is untouched. Choose an earlier target, or skip the transaction that fails."));
        }
        progress(bytes_done(&sizes, field("Relay_Log_File"), field("Relay_Log_Pos")));
        if field("Slave_SQL_Running_State").starts_with("Slave has read all relay log") {
            let reached = sql.applier_position()?;
            if reached == replay.end {
                progress(sizes.iter().sum());
                return Ok(());
            }
            if settling.get_or_insert_with(|| Deadline::after(SETTLE_TIMEOUT)).has_passed() {
                return Err(mismatch(&reached, &replay.end));
            }
        } else {
            settling = None;
        }
        if deadline.has_passed() {
            return Err(Error::new(ErrorKind::Tool, "the replay did not end within a week"));
        }
        std::thread::sleep(POLL);
    }
}

fn bytes_done(sizes: &[u64], file: &str, position: &str) -> u64 {
    let number: usize = file.rsplit('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let before: u64 = sizes.iter().take(number.saturating_sub(1)).sum();
    let total: u64 = sizes.iter().sum();
    (before + position.parse::<u64>().unwrap_or(0)).min(total)
}

fn mismatch(reached: &GtidPosition, planned: &GtidPosition) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the replay reached `{reached}` and not `{planned}` as planned; the recovery is given up"),
    )
    .hint("The serving database is untouched. Please report this with the plan; an earlier target may work.")
}

/// Starts the program and returns it with the path of its log.
fn launch(tools: &Tools, settings: &ScratchSettings, options: &str) -> Result<(ProcessHandle, PathBuf), Error> {
    let option_file = settings.run_dir.join("scratch.cnf");
    durable::write(&option_file, options.as_bytes(), 0o644)?;
    make_tmpdir(tools, settings)?;
    let handle = Cmd::new(&tools.server)
        .arg(format!("--defaults-file={}", option_file.display()))
        .spawn_detached(&settings.run_dir.join("scratch.out"))?;
    Ok((handle, settings.run_dir.join("scratch.log")))
}

fn spawn(tools: &Tools, settings: &ScratchSettings, options: &str, access: Access) -> Result<Scratch, Error> {
    let (handle, log) = launch(tools, settings, options)?;
    let deadline = Deadline::after(START_TIMEOUT);
    loop {
        match Sql::connect(&access) {
            Ok(_) => return Ok(Scratch { handle, access, log }),
            Err(err) if !handle.is_alive() || deadline.has_passed() => {
                let _ = handle.kill(); // It is dead or useless; the error below says so.
                return Err(start_error(&log).with_source(err));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// A starting server removes every other server's temporary tables in its tmpdir: each has its own.
fn make_tmpdir(tools: &Tools, settings: &ScratchSettings) -> Result<(), Error> {
    let dir = settings.run_dir.join("tmp");
    std::fs::create_dir_all(&dir).map_err(|err| io_error("unable to create", &dir, err))?;
    Owner::of_user(&tools.server_user)?.give(&dir)
}

fn start_error(log: &Path) -> Error {
    Error::new(ErrorKind::Tool, format!("the scratch server does not start; its log ends: {}", last_lines(log, 4)))
        .hint("The serving database is untouched.")
}

fn socket_path(run_dir: &Path) -> PathBuf {
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
        .flag("skip_log_bin")
        .flag("skip_slave_start")
        // Off from the start: SET GLOBAL would be too late, restored events fire within seconds.
        .set("event_scheduler", "OFF")
        .set("server_id", settings.server_id)
        .set("innodb_buffer_pool_size", tools.replay_buffer_pool_bytes)
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("innodb_buffer_pool_load_at_startup", "OFF")
        .set("performance_schema", "OFF");
    for (name, value) in &settings.layout {
        group = group.set(name, value);
    }
    group
}

fn replay_options(tools: &Tools, settings: &ScratchSettings, init_file: &Path) -> String {
    let relay_dir = settings.run_dir.join("relay");
    common_options(tools, settings)
        .path("init_file", init_file)
        .path("relay_log", &relay_dir.join(RELAY_STEM))
        .path("relay_log_index", &relay_dir.join(format!("{RELAY_STEM}.index")))
        .path("relay_log_info_file", &relay_dir.join("relay-log.info"))
        .path("master_info_file", &relay_dir.join("master.info"))
        .path("slave_load_tmpdir", &relay_dir)
        .set("relay_log_purge", 0)
        .set("slave_parallel_threads", 0)
        .set("slave_exec_mode", "STRICT")
        .set("gtid_strict_mode", "OFF")
        .set("max_allowed_packet", 1024 * 1024 * 1024)
        .set("slave_max_allowed_packet", 1024 * 1024 * 1024)
        .set("innodb_flush_log_at_trx_commit", 0)
        .set("innodb_doublewrite", "OFF")
        .render("mariadbd")
}

/// 256 random bits in hex: nothing in it needs quoting.
fn random_password() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
