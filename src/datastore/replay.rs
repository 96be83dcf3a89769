//! Replay: a scratch server's own replication applier runs through relay logs that hold exactly the planned
//! transactions, and is proven to stand where the plan ends.
//!
//! Durability is relaxed, because a killed replay starts over. The relay logs lie outside the data directory and hold
//! nothing but what is planned, so there is nothing to stop at: the applier runs to their end. What a server's applier
//! has to be told, and how it says where it stands, is in `mariadb::applier` and `mysql::applier`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::mysqld::last_lines;
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{Scratch, ScratchSettings, drop_account};
use crate::datastore::sql::Sql;
use crate::datastore::{Tools, mariadb, mysql};
use crate::domain::backup::BackupEnd;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::{Gtid, GtidPosition};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};

/// How often the applier is asked how far it is.
const POLL: Duration = Duration::from_millis(25);
/// One statement may rebuild a large table; what is watched beside this is the applier's own state.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the applier may have nothing to do without standing where the plan ends.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What relay logs are named.
pub(super) const RELAY_STEM: &str = "relay-bin";

/// What shall be replayed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    /// Relay logs in order, complete files on the run directory's file system; none when the data is the target already.
    pub(crate) relay_logs: Vec<PathBuf>,
    /// Transactions that are left out; on MySQL an empty one is left in the place of each.
    pub(crate) skip: Vec<Gtid>,
    /// What the data holds already.
    pub(crate) begin: GtidPosition,
    /// What the applier itself says when everything has been applied. On MySQL it knows only of the transactions that
    /// bear a GTID in the relay logs; the others are added then.
    pub(crate) applied: GtidPosition,
    /// What the data holds when everything has been applied, what is skipped on MySQL included.
    pub(crate) end: GtidPosition,
    /// Where the last transaction ends in the source's binlog, modulo 2^32: all there is to compare when transactions
    /// have no GTID.
    pub(crate) source_end: u32,
}

/// An event of the server's scheduler, as it was before the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScheduledEvent {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// As the server has it: `ENABLED`, `DISABLED`, `SLAVESIDE_DISABLED` or `REPLICA_SIDE_DISABLED`.
    pub(crate) status: String,
}

/// What an applier says of itself.
pub(super) struct Status {
    pub(super) is_running: bool,
    /// Why not.
    pub(super) error: String,
    pub(super) relay_log: String,
    pub(super) relay_log_position: String,
    /// It has nothing more to do.
    pub(super) is_idle: bool,
    /// It stands at the end of the last transaction, as far as it can be told without GTIDs.
    pub(super) is_at_end: bool,
}

/// How a server's applier is handled.
pub(super) trait Applier {
    /// The server's options for a replay.
    fn options(&self, group: OptionGroup, run_dir: &Path) -> OptionGroup;
    /// Makes the applier's records, so that relay logs which are placed after a stop are taken. `is_first` unless relay
    /// logs were replayed on this data before.
    fn announce(&self, sql: &mut Sql, begin: &BackupEnd, is_first: bool) -> Result<(), Error>;
    /// Whether `announce` has anything to do.
    fn announces(&self, is_first: bool) -> bool;
    /// Lets the applier run through the relay logs.
    fn begin(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error>;
    fn status(&self, sql: &mut Sql, scratch: &Scratch, replay: &Replay) -> Result<Status, Error>;
    fn position(&self, sql: &mut Sql) -> Result<GtidPosition, Error>;
    /// Tells a server whose data was not made by transactions that have a GTID what it holds.
    fn stand_at(&self, sql: &mut Sql, position: &GtidPosition) -> Result<(), Error>;
    /// Everything is applied, or there was nothing to apply: completes the server's position.
    fn complete(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error>;
    /// Leaves nothing of the replay in the data.
    fn forget(&self, sql: &mut Sql) -> Result<(), Error>;
    fn scheduled_events(&self, sql: &mut Sql) -> Result<Vec<ScheduledEvent>, Error>;
    /// Gives an event that the applier has disabled its status back.
    fn set_event_status(&self, sql: &mut Sql, event: &ScheduledEvent) -> Result<(), Error>;
}

fn applier_of(tools: &Tools) -> &'static dyn Applier {
    match tools.datastore {
        Datastore::Mariadb => &mariadb::applier::MariadbApplier,
        Datastore::Mysql => &mysql::applier::MysqlApplier,
    }
}

/// What is done on the replayed server before it stops: it is told which events there were before the replay.
pub(crate) type Finish<'a> = dyn Fn(&mut Replayed<'_>, &[ScheduledEvent]) -> Result<(), Error> + 'a;

/// The scratch server on which everything has been replayed.
pub(crate) struct Replayed<'a> {
    pub(crate) sql: &'a mut Sql,
    applier: &'static dyn Applier,
}

impl Replayed<'_> {
    /// The events of the scheduler as they are now.
    #[cfg(test)]
    pub(crate) fn scheduled_events(&mut self) -> Result<Vec<ScheduledEvent>, Error> {
        self.applier.scheduled_events(self.sql)
    }

    pub(crate) fn set_event_status(&mut self, event: &ScheduledEvent) -> Result<(), Error> {
        self.applier.set_event_status(self.sql, event)
    }

    /// XA transactions that are prepared and neither committed nor rolled back, as `XA RECOVER` shows their ids.
    pub(crate) fn prepared_xa(&mut self) -> Result<Vec<String>, Error> {
        // Format, lengths of both parts, and the parts themselves.
        Ok(self.sql.rows("XA RECOVER")?.into_iter().filter_map(|row| row.into_iter().nth(3)).collect())
    }
}

/// Tells a new server, into which data was loaded, what it holds; it says so itself afterwards.
pub(crate) fn stand_at(tools: &Tools, sql: &mut Sql, position: &GtidPosition) -> Result<(), Error> {
    let applier = applier_of(tools);
    applier.stand_at(sql, position)?;
    let found = applier.position(sql)?;
    if found == *position { Ok(()) } else { Err(mismatch(&found, position)) }
}

/// Starts and stops a scratch server so that the applier has its records. Comes before `replay` of relay logs, which
/// are placed between the two starts.
pub(crate) fn announce(
    tools: &Tools,
    settings: &ScratchSettings,
    begin: &BackupEnd,
    is_first: bool,
) -> Result<(), Error> {
    let applier = applier_of(tools);
    if !applier.announces(is_first) {
        return Ok(());
    }
    make_relay_dir(tools, &settings.run_dir)?;
    let scratch = start(tools, settings, applier)?;
    let announced = scratch.sql().and_then(|mut sql| applier.announce(&mut sql, begin, is_first));
    scratch.end_with(announced)
}

/// Replays and returns what was reached, which equals `replay.end` or it is an error. Afterwards the server is stopped
/// cleanly and nothing of the replay is left in the data. `finish` runs on the server before that.
pub(crate) fn replay(
    tools: &Tools,
    settings: &ScratchSettings,
    replay: &Replay,
    progress: &dyn Fn(u64),
    cancelled: &Arc<AtomicBool>,
    finish: &Finish<'_>,
) -> Result<GtidPosition, Error> {
    let applier = applier_of(tools);
    make_relay_dir(tools, &settings.run_dir)?;
    place_relay_logs(tools, settings, replay)?;
    let scratch = start(tools, settings, applier)?;
    let outcome = (|| {
        let mut sql = scratch.sql()?;
        let events = applier.scheduled_events(&mut sql)?;
        applier.begin(&mut sql, replay)?;
        if !replay.relay_logs.is_empty() {
            follow(&scratch, &mut sql, settings, applier, replay, progress, cancelled)?;
        }
        applier.complete(&mut sql, replay)?;
        let reached = applier.position(&mut sql)?;
        if reached != replay.end {
            return Err(mismatch(&reached, &replay.end));
        }
        finish(&mut Replayed { sql: &mut sql, applier }, &events)?;
        // Even when nothing was replayed: data of a replica knows its source, which would send it what was given up.
        applier.forget(&mut sql)?;
        drop_account(&mut sql)?;
        Ok(reached)
    })();
    scratch.end_with(outcome)
}

fn start(tools: &Tools, settings: &ScratchSettings, applier: &dyn Applier) -> Result<Scratch, Error> {
    let relay_dir = relay_dir(&settings.run_dir);
    let options = |group: OptionGroup| {
        let group = group
            .path("relay_log", &relay_dir.join(RELAY_STEM))
            .path("relay_log_index", &relay_dir.join(format!("{RELAY_STEM}.index")))
            .set("max_allowed_packet", 1024 * 1024 * 1024)
            .set("innodb_flush_log_at_trx_commit", 0)
            .set("innodb_doublewrite", "OFF");
        applier.options(group, &relay_dir)
    };
    Scratch::start_with_account(tools, settings, options)
}

fn relay_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("relay")
}

/// Where the n-th relay log (from 1) is placed for the server.
fn relay_log_path(run_dir: &Path, number: usize) -> PathBuf {
    relay_dir(run_dir).join(format!("{RELAY_STEM}.{number:06}"))
}

fn make_relay_dir(tools: &Tools, run_dir: &Path) -> Result<(), Error> {
    let dir = relay_dir(run_dir);
    std::fs::create_dir_all(&dir).map_err(|err| io_error("unable to create", &dir, err))?;
    Owner::of_user(&tools.server_user)?.give_tree(&dir)
}

/// Puts links to the relay logs where the server looks for them, and the index, which it reads when it starts.
fn place_relay_logs(tools: &Tools, settings: &ScratchSettings, replay: &Replay) -> Result<(), Error> {
    if replay.relay_logs.is_empty() {
        return Ok(());
    }
    let owner = Owner::of_user(&tools.server_user)?;
    let dir = relay_dir(&settings.run_dir);
    let mut index = String::new();
    for (number, source) in (1..).zip(&replay.relay_logs) {
        let target = relay_log_path(&settings.run_dir, number);
        // What a start without ours has left there is empty.
        match std::fs::remove_file(&target) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error("unable to remove", &target, err));
            }
            _ => {}
        }
        std::fs::hard_link(source, &target)
            .map_err(|err| io_error(format!("unable to link `{}` as", source.display()), &target, err))?;
        owner.give(&target)?;
        index.push_str(&format!("{}\n", target.display()));
    }
    let index_path = dir.join(format!("{RELAY_STEM}.index"));
    durable::write(&index_path, index.as_bytes(), 0o660)?;
    owner.give(&index_path)
}

/// Watches the applier until it stands where the plan ends.
fn follow(
    scratch: &Scratch,
    sql: &mut Sql,
    settings: &ScratchSettings,
    applier: &dyn Applier,
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
        let status = applier.status(sql, scratch, replay)?;
        if !status.is_running {
            let at = applier.position(sql)?;
            let message = format!("the server's applier stopped at `{at}` with {}", status.error);
            return Err(Error::new(ErrorKind::Tool, message).hint(
                "The serving database is untouched. Choose an earlier target, or skip the transaction that fails.",
            ));
        }
        progress(bytes_done(&sizes, &status));
        if status.is_idle {
            let reached = applier.position(sql)?;
            if reached == replay.applied && status.is_at_end {
                progress(sizes.iter().sum());
                return Ok(());
            }
            if settling.get_or_insert_with(|| Deadline::after(SETTLE_TIMEOUT)).has_passed() {
                return Err(mismatch(&reached, &replay.applied));
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

fn bytes_done(sizes: &[u64], status: &Status) -> u64 {
    let number: usize = status.relay_log.rsplit('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let before: u64 = sizes.iter().take(number.saturating_sub(1)).sum();
    (before + status.relay_log_position.parse::<u64>().unwrap_or(0)).min(sizes.iter().sum())
}

fn mismatch(reached: &GtidPosition, planned: &GtidPosition) -> Error {
    let (missing, surplus) =
        (planned.executed().without(reached.executed()), reached.executed().without(planned.executed()));
    let what = if missing.is_empty() && surplus.is_empty() {
        format!("the replay reached `{reached}` and not `{planned}` as planned")
    } else {
        format!("the replay did not reach what was planned: missing `{missing}`, too much `{surplus}`")
    };
    Error::new(ErrorKind::Corrupt, format!("{what}; the recovery is given up"))
        .hint("The serving database is untouched. Please report this with the plan; an earlier target may work.")
}
