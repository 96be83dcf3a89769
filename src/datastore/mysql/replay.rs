//! Replay on MySQL: the server's own applier runs through relay logs that hold exactly the planned transactions.
//!
//! Traps that decide the order of steps. Data that was a replica's still knows its source, and `RESET REPLICA` deletes the
//! relay logs it finds, so ours are placed again after it. A transaction whose GTID the server has is passed over by
//! the applier: so one that shall be skipped is committed empty beforehand, and the set has no hole. A GTID that is
//! missing in the logs makes `START REPLICA UNTIL` wait for ever, so there is no UNTIL: the logs simply end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::Tools;
use crate::datastore::mysql::scratch::{Scratch, ScratchSettings, make_run_dir, socket_path};
use crate::datastore::mysqld::last_lines;
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{Finish, ScheduledEvent};
use crate::datastore::sql::{Access, Secret, Sql};
use crate::domain::gtid_set::{GtidSet, MysqlGtid};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};

/// The account with which coffer works on the server; gone before the data is used for anything else.
const ACCOUNT: &str = "coffer_replay";
const POLL: Duration = Duration::from_millis(25);
/// One statement may rebuild a large table; what is watched beside this is the applier's own state.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the applier may have nothing to do without standing where the plan ends.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const RELAY_STEM: &str = "relay-bin";

/// What shall be replayed.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    /// Relay logs in order, complete files on the run directory's file system; none when the data is the target already.
    pub(crate) relay_logs: Vec<PathBuf>,
    /// Transactions in whose place an empty one is left.
    pub(crate) skip: Vec<MysqlGtid>,
    /// Everything executed when the replay is over, what is skipped included.
    pub(crate) end: GtidSet,
    /// Where the last transaction ends in the source's binlog, as `RelayStats` has it: all there is to compare when
    /// transactions have no GTID.
    pub(crate) source_end: u32,
    /// Threads that apply; commits keep their order.
    pub(crate) workers: u32,
}

/// Where the n-th relay log (from 1) is placed for the server.
fn relay_log_path(run_dir: &Path, number: usize) -> PathBuf {
    run_dir.join("relay").join(format!("{RELAY_STEM}.{number:06}"))
}

/// Replays and returns what the server has executed, which equals `replay.end` or it is an error. Afterwards the server
/// is stopped cleanly and nothing of the replay is left in the data. `finish` runs on the server before that.
pub(crate) fn replay(
    tools: &Tools,
    settings: &ScratchSettings,
    replay: &Replay,
    progress: &dyn Fn(u64),
    cancelled: &Arc<AtomicBool>,
    finish: &Finish<'_>,
) -> Result<GtidSet, Error> {
    make_run_dir(tools, &settings.run_dir)?;
    place_relay_logs(tools, settings, replay)?;
    let mut scratch = start(tools, settings, replay)?;
    if knows_a_source(&scratch)? {
        let forgotten = scratch.sql().and_then(|mut sql| sql.execute("RESET REPLICA ALL"));
        end_with(scratch, forgotten)?;
        place_relay_logs(tools, settings, replay)?;
        scratch = start(tools, settings, replay)?;
    }
    let outcome = (|| {
        let mut sql = scratch.sql()?;
        let events = scheduled_events(&mut sql)?;
        for gtid in &replay.skip {
            commit_empty(&mut sql, gtid)?;
        }
        if !replay.relay_logs.is_empty() {
            sql.execute(&format!(
                "CHANGE REPLICATION SOURCE TO RELAY_LOG_FILE='{RELAY_STEM}.000001', RELAY_LOG_POS=4, SOURCE_HOST='none'"
            ))?;
            sql.execute("START REPLICA SQL_THREAD")?;
            follow(&scratch, &mut sql, settings, replay, progress, cancelled)?;
            sql.execute("STOP REPLICA")?;
        }
        let reached = executed(&mut sql)?;
        if reached != replay.end {
            return Err(mismatch(&reached, replay));
        }
        finish(&mut sql, &events)?;
        if !replay.relay_logs.is_empty() {
            sql.execute("RESET REPLICA ALL")?;
        }
        sql.execute(&format!("DROP USER {ACCOUNT}@localhost"))?;
        Ok(reached)
    })();
    end_with(scratch, outcome)
}

/// Stops the server cleanly when all went well, else at once.
fn end_with<T>(scratch: Scratch, outcome: Result<T, Error>) -> Result<T, Error> {
    match outcome {
        Ok(value) => scratch.stop().map(|()| value),
        Err(err) => {
            scratch.kill();
            Err(err)
        }
    }
}

/// Starts it with an account of its own, whose password is made for this start and lies in a 0600 file until the server
/// has read it. Plugins and components of the data are loaded: statements may need them.
fn start(tools: &Tools, settings: &ScratchSettings, replay: &Replay) -> Result<Scratch, Error> {
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
    let options = |group: OptionGroup| {
        group
            .path("init_file", &init_file)
            .set("relay_log_recovery", "OFF")
            .set("relay_log_purge", "OFF")
            .path("replica_load_tmpdir", &settings.run_dir.join("tmp"))
            .set("replica_parallel_workers", replay.workers)
            .set("replica_preserve_commit_order", "ON")
            .set("replica_exec_mode", "STRICT")
            .set("max_allowed_packet", 1024 * 1024 * 1024)
            .set("replica_max_allowed_packet", 1024 * 1024 * 1024)
            .set("performance_schema", "OFF")
            .set("innodb_flush_log_at_trx_commit", 0)
            .set("innodb_doublewrite", "OFF")
    };
    let scratch = Scratch::start(tools, settings, options, access);
    // Whether it started or not, the password has done its work.
    std::fs::remove_file(&init_file).map_err(|err| io_error("unable to remove", &init_file, err))?;
    scratch
}

/// Whether the data was a replica's.
fn knows_a_source(scratch: &Scratch) -> Result<bool, Error> {
    let known = scratch.sql()?.value(
        "SELECT (SELECT COUNT(*) FROM mysql.slave_master_info) + (SELECT COUNT(*) FROM mysql.slave_relay_log_info)",
    )?;
    Ok(known != "0")
}

/// Puts links to the relay logs where the server looks for them, and the index, which it reads when it starts.
fn place_relay_logs(tools: &Tools, settings: &ScratchSettings, replay: &Replay) -> Result<(), Error> {
    let owner = Owner::of_user(&tools.server_user)?;
    let dir = settings.run_dir.join("relay");
    let left = std::fs::read_dir(&dir).map_err(|err| io_error("unable to list", &dir, err))?;
    for entry in left.flatten() {
        std::fs::remove_file(entry.path()).map_err(|err| io_error("unable to remove", &entry.path(), err))?;
    }
    if replay.relay_logs.is_empty() {
        return Ok(());
    }
    let mut index = String::new();
    for (number, source) in (1..).zip(&replay.relay_logs) {
        let target = relay_log_path(&settings.run_dir, number);
        std::fs::hard_link(source, &target)
            .map_err(|err| io_error(format!("unable to link `{}` as", source.display()), &target, err))?;
        owner.give(&target)?;
        index.push_str(&format!("{}\n", target.display()));
    }
    let index_path = dir.join(format!("{RELAY_STEM}.index"));
    durable::write(&index_path, index.as_bytes(), 0o660)?;
    owner.give(&index_path)
}

fn commit_empty(sql: &mut Sql, gtid: &MysqlGtid) -> Result<(), Error> {
    // SET takes no parameters here; a GTID is hexadecimal digits, a tag of letters, digits and underscores, a number.
    for statement in [&format!("SET GTID_NEXT='{gtid}'"), "BEGIN", "COMMIT", "SET GTID_NEXT='AUTOMATIC'"] {
        sql.execute(statement)?;
    }
    Ok(())
}

fn executed(sql: &mut Sql) -> Result<GtidSet, Error> {
    sql.value("SELECT @@GLOBAL.gtid_executed")?.parse()
}

/// The events of the server's scheduler.
pub(crate) fn scheduled_events(sql: &mut Sql) -> Result<Vec<ScheduledEvent>, Error> {
    let rows = sql.rows("SELECT EVENT_SCHEMA, EVENT_NAME, STATUS FROM information_schema.EVENTS")?;
    let events = rows.into_iter().filter_map(|row| <[String; 3]>::try_from(row).ok());
    Ok(events.map(|[schema, name, status]| ScheduledEvent { schema, name, status }).collect())
}

/// Watches the applier until it stands where the plan ends.
fn follow(
    scratch: &Scratch,
    sql: &mut Sql,
    settings: &ScratchSettings,
    replay: &Replay,
    progress: &dyn Fn(u64),
    cancelled: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let sizes: Vec<u64> = (1..=replay.relay_logs.len())
        .map(|number| std::fs::metadata(relay_log_path(&settings.run_dir, number)).map_or(0, |metadata| metadata.len()))
        .collect();
    let deadline = Deadline::after(REPLAY_TIMEOUT);
    let mut settling: Option<Deadline> = None;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "the replay was interrupted"));
        }
        if !scratch.is_alive() {
            let said = last_lines(&scratch.log, 4);
            let message = format!("the scratch server ended during the replay; its log ends: {said}");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let status = sql.record("SHOW REPLICA STATUS")?;
        let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
        if field("Replica_SQL_Running") != "Yes" {
            return Err(Error::new(
                ErrorKind::Tool,
                format!(
                    "the server's applier stopped at `{}` with error {}: {}",
                    executed(sql)?,
                    field("Last_SQL_Errno"),
                    // What a worker failed at stands in the log only.
                    last_lines(&scratch.log, 2)
                ),
            )
            .hint("The serving database is untouched. Choose an earlier target, or skip the transaction that fails."));
        }
        progress(bytes_done(&sizes, field("Relay_Log_File"), field("Relay_Log_Pos")));
        if is_idle(sql)? {
            let stands_at_end = field("Exec_Source_Log_Pos") == replay.source_end.to_string();
            let reached = executed(sql)?;
            if reached == replay.end && stands_at_end {
                progress(sizes.iter().sum());
                return Ok(());
            }
            if settling.get_or_insert_with(|| Deadline::after(SETTLE_TIMEOUT)).has_passed() {
                return Err(mismatch(&reached, replay).context(format!(
                    "the applier has nothing more to do at {} of {}",
                    field("Exec_Source_Log_Pos"),
                    replay.source_end
                )));
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

/// Whether neither the applier's coordinator nor one of its workers has anything to do.
fn is_idle(sql: &mut Sql) -> Result<bool, Error> {
    let threads = sql.rows("SHOW PROCESSLIST")?;
    let mut states = threads.iter().filter(|row| row.get(1).is_some_and(|user| user == "system user")).peekable();
    let is_waiting = |row: &Vec<String>| {
        row.get(6).is_some_and(|state| {
            state.starts_with("Replica has read all relay log")
                || state.starts_with("Waiting for an event from Coordinator")
        })
    };
    Ok(states.peek().is_some() && states.all(is_waiting))
}

fn bytes_done(sizes: &[u64], file: &str, position: &str) -> u64 {
    let number: usize = file.rsplit('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let before: u64 = sizes.iter().take(number.saturating_sub(1)).sum();
    (before + position.parse::<u64>().unwrap_or(0)).min(sizes.iter().sum())
}

fn mismatch(reached: &GtidSet, replay: &Replay) -> Error {
    let (missing, surplus) = (replay.end.without(reached), reached.without(&replay.end));
    Error::new(
        ErrorKind::Corrupt,
        format!("the replay did not reach what was planned: missing `{missing}`, too much `{surplus}`; the recovery is given up"),
    )
    .hint("The serving database is untouched. Please report this with the plan; an earlier target may work.")
}

/// 256 random bits in hex; what stands before them satisfies a server that wants several kinds of characters.
fn random_password() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    Ok(bytes.iter().fold("Aa1-".to_owned(), |password, byte| format!("{password}{byte:02x}")))
}

#[cfg(test)]
mod tests;
