//! MySQL's replication applier.
//!
//! Traps that decide the order of steps. Data that was a replica's still knows its source, and `RESET REPLICA` deletes
//! the relay logs it finds, so it comes first, before ours are placed. A transaction whose GTID the server has is passed
//! over by the applier: so one that shall be skipped is committed empty beforehand, and the set has no hole. A GTID that
//! is missing in the logs makes `START REPLICA UNTIL` wait for ever, so there is no UNTIL: the logs simply end.
//! `gtid_mode=OFF_PERMISSIVE` takes transactions with a GTID and without one, whatever the source's mode was and however it
//! changed, and gives none to coffer's own statements.

use std::path::Path;

use crate::datastore::mysqld::last_lines;
use crate::datastore::option_file::OptionGroup;
use crate::datastore::replay::{Applier, RELAY_STEM, Replay, ScheduledEvent, Status};
use crate::datastore::scratch::Scratch;
use crate::datastore::sql::Sql;
use crate::domain::backup::BackupEnd;
use crate::domain::gtid::{Gtid, GtidPosition};
use crate::domain::gtid_set::GtidSet;
use crate::error::{Error, ErrorKind};

pub(crate) struct MysqlApplier;

impl Applier for MysqlApplier {
    fn options(&self, group: OptionGroup, relay_dir: &Path) -> OptionGroup {
        group
            .set("relay_log_recovery", "OFF")
            .set("relay_log_purge", "OFF")
            .path("replica_load_tmpdir", relay_dir)
            // Merged transactions leave nothing to gain by more (measured: none on two cores).
            .set("replica_parallel_workers", 1)
            .set("replica_preserve_commit_order", "ON")
            // Whatever servers wrote the events: none is passed over for its id.
            .flag("replicate_same_server_id")
            .set("replica_exec_mode", "STRICT")
            .set("replica_max_allowed_packet", 1024 * 1024 * 1024)
            .set("performance_schema", "OFF")
    }

    fn announces(&self, is_first: bool) -> bool {
        is_first
    }

    fn announce(&self, sql: &mut Sql, begin: &BackupEnd, _is_first: bool) -> Result<(), Error> {
        let held = executed(sql)?;
        if held != *begin.position.executed() {
            let recorded = begin.position.executed();
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the base holds transactions `{held}` and not `{recorded}` as recorded"),
            )
            .hint("The serving database is untouched. Choose another backup with --backup."));
        }
        let known = sql.value(
            "SELECT (SELECT COUNT(*) FROM mysql.slave_master_info) + (SELECT COUNT(*) FROM mysql.slave_relay_log_info)",
        )?;
        if known == "0" { Ok(()) } else { sql.execute("RESET REPLICA ALL") }
    }

    fn begin(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error> {
        for gtid in &replay.skip {
            commit_empty(sql, gtid)?;
        }
        if replay.relay_logs.is_empty() {
            return Ok(());
        }
        sql.execute(&format!(
            "CHANGE REPLICATION SOURCE TO RELAY_LOG_FILE='{RELAY_STEM}.000001', RELAY_LOG_POS=4, SOURCE_HOST='none'"
        ))?;
        sql.execute("START REPLICA SQL_THREAD")
    }

    fn status(&self, sql: &mut Sql, scratch: &Scratch, replay: &Replay) -> Result<Status, Error> {
        let status = sql.record("SHOW REPLICA STATUS")?;
        let field = |name: &str| status.get(name).cloned().unwrap_or_default();
        let is_running = field("Replica_SQL_Running") == "Yes";
        // What a worker failed at stands in the log only.
        let error = match is_running {
            true => String::new(),
            false => format!("error {}: {}", field("Last_SQL_Errno"), last_lines(&scratch.log, 2)),
        };
        Ok(Status {
            is_running,
            error,
            relay_log: field("Relay_Log_File"),
            relay_log_position: field("Relay_Log_Pos"),
            is_idle: is_idle(sql)?,
            is_at_end: field("Exec_Source_Log_Pos") == replay.source_end.to_string(),
        })
    }

    fn position(&self, sql: &mut Sql) -> Result<GtidPosition, Error> {
        Ok(executed(sql)?.into())
    }

    fn stand_at(&self, sql: &mut Sql, position: &GtidPosition) -> Result<(), Error> {
        let more = position.executed().without(&executed(sql)?);
        if more.is_empty() { Ok(()) } else { sql.execute(&format!("SET GLOBAL gtid_purged='+{more}'")) }
    }

    fn complete(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error> {
        if !replay.relay_logs.is_empty() {
            sql.execute("STOP REPLICA")?;
        }
        // The transactions that were applied as part of those that bear a GTID.
        let merged = replay.end.executed().without(&executed(sql)?);
        if merged.is_empty() {
            return Ok(());
        }
        sql.execute(&format!("SET GLOBAL gtid_purged='+{merged}'"))
    }

    fn forget(&self, sql: &mut Sql) -> Result<(), Error> {
        sql.execute("RESET REPLICA ALL")
    }

    fn scheduled_events(&self, sql: &mut Sql) -> Result<Vec<ScheduledEvent>, Error> {
        let rows = sql.rows("SELECT EVENT_SCHEMA, EVENT_NAME, STATUS FROM information_schema.EVENTS")?;
        let events = rows.into_iter().filter_map(|row| <[String; 3]>::try_from(row).ok());
        Ok(events.map(|[schema, name, status]| ScheduledEvent { schema, name, status }).collect())
    }

    /// `ALTER EVENT` takes definer, sql_mode, time zone and character set from the session unless they are given: the
    /// event keeps its own.
    fn set_event_status(&self, sql: &mut Sql, event: &ScheduledEvent) -> Result<(), Error> {
        let found = sql.rows_with(
            "SELECT DEFINER, SQL_MODE, TIME_ZONE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION, STATUS \
             FROM information_schema.EVENTS WHERE EVENT_SCHEMA=? AND EVENT_NAME=?",
            vec![event.schema.as_str().into(), event.name.as_str().into()],
        )?;
        let Some(Ok([definer, mode, zone, charset, collation, status])) =
            found.into_iter().next().map(<[String; 6]>::try_from)
        else {
            return Ok(()); // Dropped since.
        };
        if !matches!(status.as_str(), "REPLICA_SIDE_DISABLED" | "SLAVESIDE_DISABLED") {
            return Ok(());
        }
        let word = match event.status.as_str() {
            "ENABLED" => "ENABLE",
            "DISABLED" => "DISABLE",
            _ => return Ok(()),
        };
        let values = [mode, zone, charset, collation].map(mysql::Value::from).to_vec();
        sql.execute_with(
            "SET SESSION sql_mode=?, time_zone=?, character_set_client=?, collation_connection=?",
            values,
        )?;
        let (user, host) = definer.rsplit_once('@').unwrap_or((&definer, "%"));
        let altered = sql.execute(&format!(
            "ALTER DEFINER={}@{} EVENT {}.{} {word}",
            quoted(user),
            quoted(host),
            quoted(&event.schema),
            quoted(&event.name)
        ));
        sql.execute("SET SESSION sql_mode=DEFAULT, time_zone=DEFAULT, character_set_client=utf8mb4, collation_connection=DEFAULT")?;
        altered
    }
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn commit_empty(sql: &mut Sql, gtid: &Gtid) -> Result<(), Error> {
    // SET takes no parameters here; a GTID is hexadecimal digits, a tag of letters, digits and underscores, a number.
    for statement in [&format!("SET GTID_NEXT='{gtid}'"), "BEGIN", "COMMIT", "SET GTID_NEXT='AUTOMATIC'"] {
        sql.execute(statement)?;
    }
    Ok(())
}

pub(super) fn executed(sql: &mut Sql) -> Result<GtidSet, Error> {
    sql.value("SELECT @@GLOBAL.gtid_executed")?.parse()
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

#[cfg(test)]
mod tests;
