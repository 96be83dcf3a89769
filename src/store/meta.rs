//! Single values, and the tokens that open the API.

use jiff::Timestamp;
use rusqlite::params;

use super::{Db, Tx, sql};
use crate::clock;
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::instance::InstanceSettings;
use crate::error::{Error, ErrorKind};

/// Instances whose catalog was rebuilt and of which it is not known yet whether the server here is theirs.
const UNPROVEN: &str = "unproven:";
/// What the repository does not know yet of instances that were deleted.
const DELETED: &str = "deleted:";
const SHIP_AFTER: &str = "ship_after:";
const REPOSITORY: &str = "repository";
const REBUILD: &str = "rebuild";
const REBUILD_BEGUN: &str = "begun";
const REBUILD_DONE: &str = "done";

/// An API token. Only its digest is kept, so the state opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the token, lower-case hex.
    pub(crate) sha256: String,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
}

impl Db<'_> {
    /// The value kept under `key`.
    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>, Error> {
        self.first("SELECT value FROM meta WHERE key = ?1", [key], |row| sql::column(row, "value"))
    }

    /// The id of the repository that the state belongs to; none before it was opened first.
    pub(crate) fn repository_id(&self) -> Result<Option<String>, Error> {
        self.meta(REPOSITORY)
    }

    /// Whether the catalog came, wholly or in part, from the repository.
    pub(crate) fn is_rebuilt(&self) -> Result<bool, Error> {
        Ok(self.meta(REBUILD)?.is_some())
    }

    /// Whether a rebuild of the catalog has begun and not come to its end.
    pub(crate) fn is_half_rebuilt(&self) -> Result<bool, Error> {
        Ok(self.meta(REBUILD)?.as_deref() == Some(REBUILD_BEGUN))
    }

    /// The name of the binlog file after which the timeline's first file comes; none when it begins with the oldest.
    pub(crate) fn ship_after(&self, timeline: TimelineId) -> Result<Option<String>, Error> {
        Ok(self.meta(&format!("{SHIP_AFTER}{timeline}"))?.filter(|name| !name.is_empty()))
    }

    /// Whether the instance was rebuilt from the repository and nothing has shown since that the server on this host
    /// goes on with the history that lies there.
    pub(crate) fn is_unproven(&self, instance: InstanceId) -> Result<bool, Error> {
        Ok(self.meta(&format!("{UNPROVEN}{instance}"))?.is_some())
    }

    /// The last word on deleted instances that the repository has still to be told.
    pub(crate) fn untold_deletions(&self) -> Result<Vec<InstanceSettings>, Error> {
        let query = "SELECT value FROM meta WHERE key >= ?1 AND key < ?2 ORDER BY key";
        // `;` is the byte after `:`.
        self.list(query, [DELETED, &DELETED.replace(':', ";")], |row| sql::json(row, "value"))
    }

    /// All tokens, the oldest first. There are a handful, so that a caller can compare each in constant time.
    pub(crate) fn tokens(&self) -> Result<Vec<Token>, Error> {
        self.list("SELECT * FROM tokens ORDER BY created_at, sha256", [], |row| {
            Ok(Token {
                sha256: sql::column(row, "sha256")?,
                name: sql::column(row, "name")?,
                created_at: sql::time(row, "created_at")?,
            })
        })
    }
}

impl Tx<'_> {
    /// Keeps `value` under `key`, in place of what was there.
    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<(), Error> {
        let statement =
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.execute(statement, [key, value]).map(drop)
    }

    pub(crate) fn set_repository_id(&self, id: &str) -> Result<(), Error> {
        self.set_meta(REPOSITORY, id)
    }

    pub(crate) fn begin_rebuild(&self) -> Result<(), Error> {
        self.set_meta(REBUILD, REBUILD_BEGUN)
    }

    pub(crate) fn end_rebuild(&self) -> Result<(), Error> {
        self.set_meta(REBUILD, REBUILD_DONE)
    }

    pub(crate) fn set_ship_after(&self, timeline: TimelineId, file: &str) -> Result<(), Error> {
        self.set_meta(&format!("{SHIP_AFTER}{timeline}"), file)
    }

    /// See `Db::is_unproven`.
    pub(crate) fn set_unproven(&self, instance: InstanceId) -> Result<(), Error> {
        self.set_meta(&format!("{UNPROVEN}{instance}"), &clock::now().to_string())
    }

    /// The server on this host goes on with the instance's history.
    pub(crate) fn set_proven(&self, instance: InstanceId) -> Result<(), Error> {
        self.remove_meta(&format!("{UNPROVEN}{instance}"))
    }

    /// Keeps the last word on an instance until the repository has it.
    pub(crate) fn set_untold_deletion(&self, settings: &InstanceSettings) -> Result<(), Error> {
        self.set_meta(&format!("{DELETED}{}", settings.instance), &sql::to_json(settings)?)
    }

    /// The repository knows that the instance was deleted.
    pub(crate) fn remove_untold_deletion(&self, instance: InstanceId) -> Result<(), Error> {
        self.remove_meta(&format!("{DELETED}{instance}"))
    }

    /// Forgets what is kept here of an instance that is looked after no more.
    pub(super) fn forget_meta_of(&self, instance: InstanceId) -> Result<(), Error> {
        for timeline in self.timelines(instance)? {
            self.remove_meta(&format!("{SHIP_AFTER}{}", timeline.id))?;
        }
        self.set_proven(instance)
    }

    fn remove_meta(&self, key: &str) -> Result<(), Error> {
        self.execute("DELETE FROM meta WHERE key = ?1", [key]).map(drop)
    }

    /// Keeps the digest of a new token.
    pub(crate) fn insert_token(&self, sha256: &str, name: &str) -> Result<(), Error> {
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            // Whatever it is, it may be the token itself: it is not repeated here.
            return Err(Error::new(ErrorKind::Internal, "a token is kept as its SHA-256 in hex, and as nothing else"));
        }
        let statement = "INSERT INTO tokens (sha256, name, created_at) VALUES (?1, ?2, ?3)";
        self.execute(statement, params![sha256, name, sql::nanoseconds(clock::now())]).map(drop)
    }
}
