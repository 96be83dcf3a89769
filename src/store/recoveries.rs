//! Rows of recoveries: a mirror of the journals on disk, for the API. The journal is the authority.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::domain::id::{InstanceId, RecoveryId};
use crate::domain::recovery::{Recovery, RecoveryState};
use crate::error::{Error, ErrorKind};

const BY_ID: &str = "SELECT * FROM recoveries JOIN recovery_plans ON recovery = id WHERE id = ?1";
const OF_INSTANCE: &str = "SELECT * FROM recoveries JOIN recovery_plans ON recovery = id WHERE instance = ?1
    ORDER BY created_at DESC, id DESC";
const UNSETTLED: &str =
    "SELECT * FROM recoveries JOIN recovery_plans ON recovery = id WHERE instance = ?1 AND is_settled = 0";

impl Db<'_> {
    pub(crate) fn recovery(&self, id: RecoveryId) -> Result<Recovery, Error> {
        self.first(BY_ID, [id.to_string()], read)?.ok_or_else(|| sql::not_found("recovery", id))
    }

    /// The recoveries of an instance, the newest first.
    pub(crate) fn recoveries(&self, instance: InstanceId) -> Result<Vec<Recovery>, Error> {
        self.list(OF_INSTANCE, [instance.to_string()], read)
    }

    /// How many recoveries of an instance are in each state that occurs.
    pub(crate) fn recovery_counts(&self, instance: InstanceId) -> Result<Vec<(RecoveryState, u64)>, Error> {
        let query = "SELECT state, count(*) AS count FROM recoveries WHERE instance = ?1 GROUP BY state";
        self.list(query, [instance.to_string()], |row| Ok((sql::named(row, "state")?, sql::unsigned(row, "count")?)))
    }

    /// The settled recoveries of all instances, and when each last changed. Cheap: no plan is read.
    pub(crate) fn settled_recoveries(&self) -> Result<Vec<(RecoveryId, Timestamp)>, Error> {
        let query = "SELECT id, updated_at FROM recoveries WHERE is_settled = 1";
        self.list(query, [], |row| Ok((sql::parsed(row, "id")?, sql::time(row, "updated_at")?)))
    }

    /// The recovery of the instance that is under way; there is never more than one.
    pub(crate) fn unsettled_recovery(&self, instance: InstanceId) -> Result<Option<Recovery>, Error> {
        self.first(UNSETTLED, [instance.to_string()], read)
    }
}

impl Tx<'_> {
    /// Adds a recovery; `Conflict` while another one of the instance is under way.
    pub(crate) fn insert_recovery(&self, recovery: &Recovery) -> Result<(), Error> {
        self.refuse_second(recovery)?;
        let statement = "INSERT INTO recoveries
                         (id, instance, state, is_settled, pause, paused, abort_asked, fault, outcome, created_at, updated_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.write_recovery_row(statement, recovery)?;
        let statement = "INSERT INTO recovery_plans (recovery, plan) VALUES (?1, ?2)";
        self.execute(statement, [recovery.id.to_string(), sql::to_json(&recovery.plan)?]).map(drop)
    }

    /// Writes the whole row, but never takes back that an abort was asked for: whoever carries the recovery out may have
    /// read the row before somebody asked.
    pub(crate) fn update_recovery(&self, recovery: &Recovery) -> Result<(), Error> {
        self.refuse_second(recovery)?;
        let statement = "UPDATE recoveries SET instance = ?2, state = ?3, is_settled = ?4, pause = ?5, paused = ?6,
                         abort_asked = max(abort_asked, ?7), fault = ?8, outcome = ?9, created_at = ?10, updated_at = ?11
                         WHERE id = ?1";
        sql::must_exist(self.write_recovery_row(statement, recovery)?, "recovery", recovery.id)?;
        let statement = "UPDATE recovery_plans SET plan = ?2 WHERE recovery = ?1 AND plan <> ?2";
        self.execute(statement, [recovery.id.to_string(), sql::to_json(&recovery.plan)?]).map(drop)
    }

    fn write_recovery_row(&self, statement: &str, recovery: &Recovery) -> Result<usize, Error> {
        self.execute(
            statement,
            params![
                recovery.id.to_string(),
                recovery.instance.to_string(),
                sql::word(&recovery.state)?,
                recovery.state.is_settled(),
                recovery.pause,
                recovery.paused,
                recovery.abort_asked,
                sql::to_json_or_none(recovery.fault.as_ref())?,
                sql::to_json(&recovery.outcome)?,
                sql::nanoseconds(recovery.created_at),
                sql::nanoseconds(recovery.updated_at),
            ],
        )
    }

    fn refuse_second(&self, recovery: &Recovery) -> Result<(), Error> {
        if recovery.state.is_settled() {
            return Ok(());
        }
        let query = "SELECT id FROM recoveries WHERE instance = ?1 AND is_settled = 0 AND id <> ?2";
        let key = [recovery.instance.to_string(), recovery.id.to_string()];
        match self.first(query, key, |row| sql::column::<String>(row, "id"))? {
            Some(other) => {
                Err(Error::new(ErrorKind::Conflict, format!("recovery {other} of this instance is under way"))
                    .hint("Wait for its end, or abort it."))
            }
            None => Ok(()),
        }
    }
}

fn read(row: &Row<'_>) -> Result<Recovery, Error> {
    Ok(Recovery {
        id: sql::parsed(row, "id")?,
        instance: sql::parsed(row, "instance")?,
        state: sql::named(row, "state")?,
        plan: sql::json(row, "plan")?,
        pause: sql::column(row, "pause")?,
        paused: sql::column(row, "paused")?,
        abort_asked: sql::column(row, "abort_asked")?,
        fault: sql::json_or_none(row, "fault")?,
        outcome: sql::json(row, "outcome")?,
        created_at: sql::time(row, "created_at")?,
        updated_at: sql::time(row, "updated_at")?,
    })
}
