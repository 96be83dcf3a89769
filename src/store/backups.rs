//! Rows of backups: the catalog of what the repository holds, and of what is being made.

use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{BackupId, InstanceId};
use crate::error::Error;

pub(super) const OF_ALL: &str = "SELECT * FROM backups ORDER BY created_at DESC, id DESC";
pub(super) const OF_INSTANCE: &str = "SELECT * FROM backups WHERE instance = ?1 ORDER BY created_at DESC, id DESC";
const OLDEST_COMPLETED: &str =
    "SELECT * FROM backups WHERE instance = ?1 AND status = 'COMPLETED' ORDER BY created_at, id LIMIT 1";
const NEWEST_COMPLETED: &str =
    "SELECT * FROM backups WHERE instance = ?1 AND status = 'COMPLETED' ORDER BY created_at DESC, id DESC LIMIT 1";
pub(super) const PAGE_OF_ALL: &str =
    "SELECT * FROM backups WHERE (created_at, id) < (?1, ?2) ORDER BY created_at DESC, id DESC LIMIT ?3";
pub(super) const PAGE_OF_INSTANCE: &str = "SELECT * FROM backups WHERE instance = ?4 AND (created_at, id) < (?1, ?2)
    ORDER BY created_at DESC, id DESC LIMIT ?3";

impl Db<'_> {
    pub(crate) fn backup(&self, id: BackupId) -> Result<Backup, Error> {
        self.first("SELECT * FROM backups WHERE id = ?1", [id.to_string()], read)?
            .ok_or_else(|| sql::not_found("backup", id))
    }

    /// The backups of one instance or of all, the newest first.
    pub(crate) fn backups(&self, instance: Option<InstanceId>) -> Result<Vec<Backup>, Error> {
        match instance {
            Some(instance) => self.list(OF_INSTANCE, [instance.to_string()], read),
            None => self.list(OF_ALL, [], read),
        }
    }

    /// The first completed backup of an instance: what its recoverable past begins with.
    pub(crate) fn oldest_completed_backup(&self, instance: InstanceId) -> Result<Option<Backup>, Error> {
        self.first(OLDEST_COMPLETED, [instance.to_string()], read)
    }

    /// The last completed backup of an instance.
    pub(crate) fn newest_completed_backup(&self, instance: InstanceId) -> Result<Option<Backup>, Error> {
        self.first(NEWEST_COMPLETED, [instance.to_string()], read)
    }

    /// How many backups of an instance are in each status that occurs.
    pub(crate) fn backup_counts(&self, instance: InstanceId) -> Result<Vec<(BackupStatus, u64)>, Error> {
        let query = "SELECT status, count(*) AS count FROM backups WHERE instance = ?1 GROUP BY status";
        self.list(query, [instance.to_string()], |row| Ok((sql::named(row, "status")?, sql::unsigned(row, "count")?)))
    }

    /// At most `limit` backups, the newest first, beginning behind the backup `after`.
    pub(crate) fn backups_page(
        &self,
        instance: Option<InstanceId>,
        after: Option<BackupId>,
        limit: usize,
    ) -> Result<Vec<Backup>, Error> {
        let (created_at, id) = match after {
            Some(after) => (sql::nanoseconds(self.backup(after)?.created_at), after.to_string()),
            None => (i64::MAX, String::new()),
        };
        let limit = sql::limit(limit);
        match instance {
            Some(instance) => self.list(PAGE_OF_INSTANCE, params![created_at, id, limit, instance.to_string()], read),
            None => self.list(PAGE_OF_ALL, params![created_at, id, limit], read),
        }
    }
}

impl Tx<'_> {
    pub(crate) fn insert_backup(&self, backup: &Backup) -> Result<(), Error> {
        let statement = "INSERT INTO backups (id, instance, name, description, status, fault, datastore, strategy,
                         server_version, raw_bytes, stored_bytes, location, checksum, end, created_at, updated_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
        self.write_backup_row(statement, backup).map(drop)
    }

    /// Writes the whole row.
    pub(crate) fn update_backup(&self, backup: &Backup) -> Result<(), Error> {
        let statement = "UPDATE backups SET instance = ?2, name = ?3, description = ?4, status = ?5, fault = ?6,
                         datastore = ?7, strategy = ?8, server_version = ?9, raw_bytes = ?10, stored_bytes = ?11,
                         location = ?12, checksum = ?13, end = ?14, created_at = ?15, updated_at = ?16 WHERE id = ?1";
        sql::must_exist(self.write_backup_row(statement, backup)?, "backup", backup.id)
    }

    /// Forgets the backup, and what was found when its objects were read again.
    pub(crate) fn remove_backup(&self, id: BackupId) -> Result<(), Error> {
        self.forget_verified(self.backup(id)?.instance, id)?;
        sql::must_exist(self.execute("DELETE FROM backups WHERE id = ?1", [id.to_string()])?, "backup", id)
    }

    fn write_backup_row(&self, statement: &str, backup: &Backup) -> Result<usize, Error> {
        self.execute(
            statement,
            params![
                backup.id.to_string(),
                backup.instance.to_string(),
                backup.name,
                backup.description,
                sql::word(&backup.status)?,
                sql::to_json_or_none(backup.fault.as_ref())?,
                sql::word(&backup.datastore)?,
                sql::word(&backup.strategy)?,
                backup.server_version,
                sql::signed(backup.raw_bytes),
                sql::signed(backup.stored_bytes),
                backup.location,
                backup.checksum,
                sql::to_json_or_none(backup.end.as_ref())?,
                sql::nanoseconds(backup.created_at),
                sql::nanoseconds(backup.updated_at),
            ],
        )
    }
}

fn read(row: &Row<'_>) -> Result<Backup, Error> {
    Ok(Backup {
        id: sql::parsed(row, "id")?,
        instance: sql::parsed(row, "instance")?,
        name: sql::column(row, "name")?,
        description: sql::column(row, "description")?,
        status: sql::named(row, "status")?,
        fault: sql::json_or_none(row, "fault")?,
        datastore: sql::named(row, "datastore")?,
        strategy: sql::named(row, "strategy")?,
        server_version: sql::column(row, "server_version")?,
        raw_bytes: sql::unsigned(row, "raw_bytes")?,
        stored_bytes: sql::unsigned(row, "stored_bytes")?,
        location: sql::column(row, "location")?,
        checksum: sql::column(row, "checksum")?,
        end: sql::json_or_none(row, "end")?,
        created_at: sql::time(row, "created_at")?,
        updated_at: sql::time(row, "updated_at")?,
    })
}
