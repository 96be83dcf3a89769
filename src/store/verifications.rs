//! Rows of what was read again: one for each object, sums beside them, and the last verification of each thing.
//!
//! Built for a million objects: what a status page asks for is a sum or the end of an index range.

use jiff::Timestamp;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{Db, Tx, sql};
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::verification::{
    BackupHealth, BadObject, Finding, ObjectPlace, VerificationRun, VerificationSummary,
};
use crate::error::Error;

const BY_KEY: &str = "SELECT verified_at, bad FROM verified_objects WHERE key = ?1";
const BELOW: &str = "SELECT key FROM verified_objects WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
pub(super) const OLDEST: &str =
    "SELECT verified_at FROM verified_objects WHERE instance = ?1 ORDER BY verified_at LIMIT 1";
pub(super) const OLDEST_OF_BACKUP: &str =
    "SELECT verified_at FROM verified_objects WHERE backup = ?1 ORDER BY verified_at LIMIT 1";
pub(super) const BAD: &str = "SELECT key, bad FROM verified_objects WHERE instance = ?1 AND bad IS NOT NULL
    ORDER BY sequence LIMIT ?2";

/// What `bad` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bad {
    place: ObjectPlace,
    reason: String,
    found_at: Timestamp,
    replacement: Option<BackupId>,
}

impl Bad {
    fn of(self, key: String) -> BadObject {
        let Bad { place, reason, found_at, replacement } = self;
        BadObject { key, place, reason, found_at, replacement }
    }
}

/// What was last found of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastFinding {
    pub(crate) verified_at: Timestamp,
    pub(crate) is_bad: bool,
}

/// The objects of which the last findings say something new. By their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct News {
    pub(crate) bad: Vec<String>,
    pub(crate) good_again: Vec<String>,
}

/// A row as it stood before a finding.
struct Known {
    verified_at: Timestamp,
    bad: Option<Bad>,
}

impl Db<'_> {
    /// What was found when the object was last read again; none before it ever was.
    pub(crate) fn last_finding(&self, key: &str) -> Result<Option<LastFinding>, Error> {
        let known = self.known(key)?;
        Ok(known.map(|known| LastFinding { verified_at: known.verified_at, is_bad: known.bad.is_some() }))
    }

    /// The keys of objects that were ever read again and begin with `prefix`, at most `limit`.
    pub(crate) fn verified_keys(&self, prefix: &str, limit: usize) -> Result<Vec<String>, Error> {
        // Keys are ASCII, so that this is behind all that begin with the prefix.
        let behind = format!("{prefix}\u{7f}");
        self.list(BELOW, params![prefix, behind, sql::limit(limit)], |row| sql::column(row, "key"))
    }

    /// What is bad of all that the instance has stored, in the order it was first read, at most `limit`.
    pub(crate) fn bad_objects(&self, instance: InstanceId, limit: usize) -> Result<Vec<BadObject>, Error> {
        self.list(BAD, params![instance.to_string(), sql::limit(limit)], |row| {
            Ok(sql::json::<Bad>(row, "bad")?.of(sql::column(row, "key")?))
        })
    }

    /// One bad object.
    pub(crate) fn bad_object(&self, key: &str) -> Result<Option<BadObject>, Error> {
        let bad = self.known(key)?.and_then(|known| known.bad);
        Ok(bad.map(|bad| bad.of(key.to_owned())))
    }

    /// How the instance's objects stand.
    pub(crate) fn verification(&self, instance: InstanceId) -> Result<VerificationSummary, Error> {
        let id = instance.to_string();
        let totals = "SELECT objects, stored_bytes, bad FROM verified_totals WHERE instance = ?1";
        let (objects, stored_bytes, bad_objects) = self
            .first(totals, [&id], |row| {
                Ok((sql::unsigned(row, "objects")?, sql::unsigned(row, "stored_bytes")?, sql::unsigned(row, "bad")?))
            })?
            .unwrap_or_default();
        Ok(VerificationSummary {
            objects,
            stored_bytes,
            bad_objects,
            oldest_verified_at: self.first(OLDEST, [&id], |row| sql::time(row, "verified_at"))?,
            asked: self.verification_run(&id, false)?,
            scheduled: self.verification_run(&id, true)?,
        })
    }

    /// How the backup's own objects stand.
    pub(crate) fn backup_health(&self, backup: BackupId) -> Result<BackupHealth, Error> {
        let id = backup.to_string();
        let sums = "SELECT coalesce(verified >= objects, 0) AS is_whole, bad FROM verified_backups WHERE backup = ?1";
        let sums = self.first(sums, [&id], |row| {
            Ok((sql::column::<i64>(row, "is_whole")? != 0, sql::column::<i64>(row, "bad")? > 0))
        })?;
        let Some((is_whole, is_bad)) = sums.filter(|(is_whole, is_bad)| *is_whole || *is_bad) else {
            return Ok(BackupHealth::Never);
        };
        let oldest = self.first(OLDEST_OF_BACKUP, [&id], |row| sql::time(row, "verified_at"))?.filter(|_| is_whole);
        Ok(match (is_bad, oldest) {
            (true, verified_at) => BackupHealth::Bad { verified_at },
            (false, Some(verified_at)) => BackupHealth::Good { verified_at },
            (false, None) => BackupHealth::Never,
        })
    }

    /// The last verification of a backup or an instance, by its id.
    pub(crate) fn verification_run(&self, subject: &str, is_scheduled: bool) -> Result<Option<VerificationRun>, Error> {
        let query = "SELECT run FROM verification_runs WHERE subject = ?1 AND is_scheduled = ?2";
        self.first(query, params![subject, is_scheduled], |row| sql::json(row, "run"))
    }

    fn known(&self, key: &str) -> Result<Option<Known>, Error> {
        self.first(BY_KEY, [key], |row| {
            Ok(Known { verified_at: sql::time(row, "verified_at")?, bad: sql::json_or_none(row, "bad")? })
        })
    }
}

impl Tx<'_> {
    /// Keeps what was found.
    pub(crate) fn note_findings(&self, findings: &[Finding]) -> Result<News, Error> {
        let mut news = News::default();
        for finding in findings {
            let known = self.known(&finding.key)?;
            let before = known.as_ref().and_then(|known| known.bad.as_ref());
            match (before, &finding.fault) {
                (None, Some(_)) => news.bad.push(finding.key.clone()),
                (Some(_), None) => news.good_again.push(finding.key.clone()),
                (None, None) | (Some(_), Some(_)) => {}
            }
            let bad = finding.fault.as_ref().map(|reason| Bad {
                place: finding.place.clone(),
                reason: reason.clone(),
                found_at: before.map_or(finding.verified_at, |before| before.found_at),
                replacement: before.and_then(|before| before.replacement),
            });
            let change = i64::from(bad.is_some()) - i64::from(before.is_some());
            self.write_finding(finding, bad.as_ref())?;
            self.add_to_sums(finding, i64::from(known.is_none()), change)?;
        }
        Ok(news)
    }

    /// Keeps of how many objects a backup consists.
    pub(crate) fn set_backup_objects(&self, backup: BackupId, objects: u64) -> Result<(), Error> {
        self.execute(
            "INSERT INTO verified_backups (backup, objects, verified, bad) VALUES (?1, ?2, 0, 0)
             ON CONFLICT DO UPDATE SET objects = excluded.objects",
            params![backup.to_string(), sql::signed(objects)],
        )
        .map(drop)
    }

    /// Keeps with a bad object which backup was cast because of it.
    pub(crate) fn set_replacement(&self, key: &str, replacement: BackupId) -> Result<(), Error> {
        let Some(mut bad) = self.known(key)?.and_then(|known| known.bad) else { return Ok(()) };
        bad.replacement = Some(replacement);
        self.execute("UPDATE verified_objects SET bad = ?2 WHERE key = ?1", params![key, sql::to_json(&bad)?]).map(drop)
    }

    /// Keeps how the verification of a backup or an instance stands, in place of the one before.
    pub(crate) fn set_verification_run(
        &self,
        subject: &str,
        is_scheduled: bool,
        run: &VerificationRun,
    ) -> Result<(), Error> {
        self.execute(
            "INSERT INTO verification_runs (subject, is_scheduled, run) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET run = excluded.run",
            params![subject, is_scheduled, sql::to_json(run)?],
        )
        .map(drop)
    }

    /// Forgets what was found of a backup's objects.
    pub(super) fn forget_verified(&self, instance: InstanceId, backup: BackupId) -> Result<(), Error> {
        let (instance, backup) = (instance.to_string(), backup.to_string());
        self.execute(
            "UPDATE verified_totals SET
                 objects = objects - (SELECT count(*) FROM verified_objects WHERE backup = ?2),
                 stored_bytes = stored_bytes
                     - (SELECT coalesce(sum(stored_bytes), 0) FROM verified_objects WHERE backup = ?2),
                 bad = bad - (SELECT count(*) FROM verified_objects WHERE backup = ?2 AND bad IS NOT NULL)
             WHERE instance = ?1",
            params![instance, backup],
        )?;
        self.execute("DELETE FROM verified_objects WHERE backup = ?1", [&backup])?;
        self.execute("DELETE FROM verified_backups WHERE backup = ?1", [&backup])?;
        self.execute("DELETE FROM verification_runs WHERE subject = ?1", [&backup]).map(drop)
    }

    fn write_finding(&self, finding: &Finding, bad: Option<&Bad>) -> Result<(), Error> {
        self.execute(
            "INSERT INTO verified_objects (key, instance, backup, stored_bytes, verified_at, bad)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET verified_at = excluded.verified_at, bad = excluded.bad",
            params![
                finding.key,
                finding.instance.to_string(),
                finding.place.backup().map(|backup| backup.to_string()),
                sql::signed(finding.stored_bytes),
                sql::nanoseconds(finding.verified_at),
                sql::to_json_or_none(bad)?,
            ],
        )
        .map(drop)
    }

    fn add_to_sums(&self, finding: &Finding, new: i64, bad: i64) -> Result<(), Error> {
        if new == 0 && bad == 0 {
            return Ok(());
        }
        self.execute(
            "INSERT INTO verified_totals (instance, objects, stored_bytes, bad) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET objects = objects + excluded.objects,
                 stored_bytes = stored_bytes + excluded.stored_bytes, bad = bad + excluded.bad",
            params![finding.instance.to_string(), new, new * sql::signed(finding.stored_bytes), bad],
        )?;
        let Some(backup) = finding.place.backup() else { return Ok(()) };
        self.execute(
            "INSERT INTO verified_backups (backup, verified, bad) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET verified = verified + excluded.verified, bad = bad + excluded.bad",
            params![backup.to_string(), new, bad],
        )
        .map(drop)
    }
}

#[cfg(test)]
mod tests;
