//! MariaDB's replication applier.
//!
//! The order of statements is its trap (measured on 10.11): `CHANGE MASTER TO` without `RELAY_LOG_FILE` deletes the relay
//! logs on disk, and with an empty master log name the applier crashes. So: a `CHANGE MASTER TO` with a master log name
//! first, stop, place the relay logs and their index, start, and then only `CHANGE MASTER TO RELAY_LOG_FILE`.

use std::path::Path;

use crate::datastore::option_file::OptionGroup;
use crate::datastore::replay::{Applier, RELAY_STEM, Replay, ScheduledEvent, Status};
use crate::datastore::scratch::Scratch;
use crate::datastore::sql::Sql;
use crate::domain::backup::BackupEnd;
use crate::domain::gtid::GtidPosition;
use crate::error::{Error, ErrorKind};

pub(crate) struct MariadbApplier;

impl Applier for MariadbApplier {
    fn options(&self, group: OptionGroup, relay_dir: &Path) -> OptionGroup {
        group
            .path("relay_log_info_file", &relay_dir.join("relay-log.info"))
            .path("master_info_file", &relay_dir.join("master.info"))
            .path("slave_load_tmpdir", relay_dir)
            .set("relay_log_purge", 0)
            .set("slave_parallel_threads", 0)
            .set("slave_exec_mode", "STRICT")
            .set("gtid_strict_mode", "OFF")
            .set("slave_max_allowed_packet", 1024 * 1024 * 1024)
    }

    fn announces(&self, _is_first: bool) -> bool {
        true
    }

    /// Where the applier stands, and a source it never calls.
    fn announce(&self, sql: &mut Sql, begin: &BackupEnd, _is_first: bool) -> Result<(), Error> {
        let source = &begin.at;
        // CHANGE MASTER takes no parameters; a binlog's name is checked to hold nothing that needs quoting.
        if !source.file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(Error::new(ErrorKind::Unsupported, format!("the binlog name `{}` needs quoting", source.file))
                .hint("Choose a log_bin name of letters, digits, dots, dashes and underscores."));
        }
        set_position(sql, &begin.position)?;
        sql.execute(&format!(
            "CHANGE MASTER TO MASTER_HOST='none', MASTER_USER='none', MASTER_LOG_FILE='{}', MASTER_LOG_POS={}, \
             MASTER_USE_GTID=no",
            source.file, source.position
        ))
    }

    fn begin(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error> {
        if replay.relay_logs.is_empty() {
            return set_position(sql, &replay.begin);
        }
        sql.execute(&format!("CHANGE MASTER TO RELAY_LOG_FILE='{RELAY_STEM}.000001', RELAY_LOG_POS=4"))?;
        sql.execute("START SLAVE SQL_THREAD")
    }

    fn status(&self, sql: &mut Sql, _scratch: &Scratch, _replay: &Replay) -> Result<Status, Error> {
        let status = sql.record("SHOW SLAVE STATUS")?;
        let field = |name: &str| status.get(name).cloned().unwrap_or_default();
        Ok(Status {
            is_running: field("Slave_SQL_Running") == "Yes",
            error: format!("error {}: {}", field("Last_SQL_Errno"), field("Last_SQL_Error")),
            relay_log: field("Relay_Log_File"),
            relay_log_position: field("Relay_Log_Pos"),
            is_idle: field("Slave_SQL_Running_State").starts_with("Slave has read all relay log"),
            // Every transaction has a GTID.
            is_at_end: true,
        })
    }

    fn position(&self, sql: &mut Sql) -> Result<GtidPosition, Error> {
        sql.value("SELECT @@GLOBAL.gtid_slave_pos")?.parse()
    }

    fn stand_at(&self, sql: &mut Sql, position: &GtidPosition) -> Result<(), Error> {
        set_position(sql, position)
    }

    fn complete(&self, sql: &mut Sql, replay: &Replay) -> Result<(), Error> {
        if replay.relay_logs.is_empty() { Ok(()) } else { sql.execute("STOP SLAVE") }
    }

    fn forget(&self, sql: &mut Sql) -> Result<(), Error> {
        sql.execute("RESET SLAVE ALL")
    }

    fn scheduled_events(&self, sql: &mut Sql) -> Result<Vec<ScheduledEvent>, Error> {
        let rows = sql.rows("SELECT db, name, status FROM mysql.event")?;
        let events = rows.into_iter().filter_map(|row| <[String; 3]>::try_from(row).ok());
        Ok(events.map(|[schema, name, status]| ScheduledEvent { schema, name, status }).collect())
    }

    fn set_event_status(&self, sql: &mut Sql, event: &ScheduledEvent) -> Result<(), Error> {
        // By the table: ALTER EVENT would make coffer's account the definer.
        sql.execute_with(
            "UPDATE mysql.event SET status=? WHERE db=? AND name=? AND status='SLAVESIDE_DISABLED'",
            vec![event.status.as_str().into(), event.schema.as_str().into(), event.name.as_str().into()],
        )
    }
}

fn set_position(sql: &mut Sql, position: &GtidPosition) -> Result<(), Error> {
    sql.execute(&format!("SET GLOBAL gtid_slave_pos='{position}'"))
}
