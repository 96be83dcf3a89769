//! Backups.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::GtidPosition;
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::instance::{Fault, Instance};

/// What a clone does with tables that it can only hold without their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherEngines {
    /// There is no backup as long as there is such a table.
    Refuse,
    /// They are held still and dumped; the dump goes beside the clone.
    Dump,
}

/// A backup, as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) id: BackupId,
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) status: BackupStatus,
    pub(crate) fault: Option<Fault>,
    pub(crate) datastore: Datastore,
    /// How it is made; the physical one until it has begun.
    pub(crate) strategy: Strategy,
    /// The exact version of the server it was taken from; empty until known.
    pub(crate) server_version: String,
    /// Bytes of the backup before compression; grows while it runs.
    pub(crate) raw_bytes: u64,
    /// Bytes in the repository; grows while it runs.
    pub(crate) stored_bytes: u64,
    /// URL of the manifest, once there is one.
    pub(crate) location: Option<String>,
    /// SHA-256 of the manifest, lower-case hex, once there is one.
    pub(crate) checksum: Option<String>,
    /// What the data of the backup holds, once known.
    pub(crate) end: Option<BackupEnd>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Backup {
    /// A backup of `owner` that nobody has begun yet.
    pub(crate) fn of(owner: &Instance, name: String, now: Timestamp) -> Backup {
        Backup {
            id: BackupId::random(),
            instance: owner.id,
            name,
            description: String::new(),
            status: BackupStatus::New,
            fault: None,
            datastore: owner.datastore,
            strategy: Strategy::physical(owner.datastore),
            server_version: String::new(),
            raw_bytes: 0,
            stored_bytes: 0,
            location: None,
            checksum: None,
            end: None,
            created_at: now,
            updated_at: now,
        }
    }
}

/// How a backup is made; Trove's word. What restores it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// MariaDB's files, by `mariadb-backup`.
    Mariabackup,
    /// MySQL's files, by the server's own CLONE plugin.
    Clone,
    /// MySQL's files, by Percona's `xtrabackup`: only restored.
    Xtrabackup,
    /// Statements, by `mariadb-dump` or `mysqldump`.
    Dump,
}

impl Strategy {
    /// The one that copies files.
    pub(crate) fn physical(datastore: Datastore) -> Strategy {
        match datastore {
            Datastore::Mariadb => Strategy::Mariabackup,
            Datastore::Mysql => Strategy::Clone,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Strategy::Mariabackup => "mariabackup",
            Strategy::Clone => "clone",
            Strategy::Xtrabackup => "xtrabackup",
            Strategy::Dump => "dump",
        }
    }
}

/// The point a backup leads to: every transaction up to it is in the backup, none after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupEnd {
    pub(crate) at: Coordinate,
    pub(crate) position: GtidPosition,
    /// The commit clock there, microseconds since 1970.
    pub(crate) clock: i64,
}

/// Trove's backup states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum BackupStatus {
    New,
    Building,
    /// The data is stored; waiting for the binlog up to its end.
    Saving,
    Completed,
    Failed,
    DeleteFailed,
}

impl BackupStatus {
    pub(crate) const ALL: [BackupStatus; 6] = [
        BackupStatus::New,
        BackupStatus::Building,
        BackupStatus::Saving,
        BackupStatus::Completed,
        BackupStatus::Failed,
        BackupStatus::DeleteFailed,
    ];

    /// Trove's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BackupStatus::New => "NEW",
            BackupStatus::Building => "BUILDING",
            BackupStatus::Saving => "SAVING",
            BackupStatus::Completed => "COMPLETED",
            BackupStatus::Failed => "FAILED",
            BackupStatus::DeleteFailed => "DELETE_FAILED",
        }
    }

    pub(crate) fn is_running(self) -> bool {
        matches!(self, BackupStatus::New | BackupStatus::Building | BackupStatus::Saving)
    }
}
