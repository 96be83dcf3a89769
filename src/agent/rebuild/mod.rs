//! Rebuilds the catalog from the repository alone, on a host that has nothing else.
//!
//! What comes back is what the catalog held: every instance that was not deleted, the timelines, chunks and completed
//! backups of all of them, and the recoveries that have settled. What does not come back is true of the former host only,
//! or would be of no use:
//!
//! - tasks and recoveries that were under way: their journals lie beside the data, and ended with it;
//! - backups that were not completed: without a manifest there is no backup;
//! - an instance's status and fault, what its shipper last said, when its row last changed: looked at anew;
//! - whether a recovery's old data is still kept: it is not, unless it is found here, and then it says RELEASED;
//! - what verifications have found: damage is found anew, and told here as far as it is seen;
//! - tokens: only their digests were kept; the first start makes a new one;
//! - paths of created servers and the addresses of manifests: made for this state directory and this address;
//! - the order in which chunks of different instances were shipped, and where the shipping of former timelines began.
//!
//! The repository is only read. A rebuild writes in many small transactions and marks the state until it has ended, so it
//! may be killed and repeated, and `coffer serve` refuses the half of a catalog. Repeating a whole one adds what was
//! missing then. Damaged objects are told by name, with what cannot be recovered for their sake; the rest is rebuilt.

mod chunks;
mod instances;
mod overlap;
mod parallel;
#[cfg(test)]
mod tests;
mod timelines;

use std::path::Path;

use jiff::Timestamp;

use crate::agent::rebuild::parallel::{batches, in_parallel};
use crate::agent::recovery::journal::Journal;
use crate::datastore::Toolbox;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{BackupId, InstanceId, RecoveryId};
use crate::domain::instance::{Instance, Server};
use crate::domain::recovery::{Recovery, RecoveryState};
use crate::error::{Error, ErrorKind};
use crate::repository::recoveries::RecoveryRecord;
use crate::repository::{FoundSettings, Repository};
use crate::store::Store;

/// Problems that are told one by one; of more only their number is.
const PROBLEMS_TOLD_MAX: usize = 100;
/// A manifest parsed takes about as much memory as its text.
const MANIFEST_FACTOR: u64 = 2;

/// Where the catalog is rebuilt, and from what.
pub(crate) struct Host<'a> {
    pub(crate) store: &'a Store,
    pub(crate) repository: &'a Repository,
    pub(crate) tools: &'a Toolbox,
    /// Absolute; created servers come to live below it.
    pub(crate) state_dir: &'a Path,
}

/// What there is after a rebuild.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    pub(crate) instances: Vec<RebuiltInstance>,
    /// Instances that were deleted; their backups are in the catalog.
    pub(crate) deleted: u64,
    pub(crate) timelines: u64,
    pub(crate) chunks: u64,
    pub(crate) backups: u64,
    pub(crate) recoveries: u64,
    pub(crate) problems: Problems,
}

/// An instance that can be brought back, and what it needs.
#[derive(Debug)]
pub(crate) struct RebuiltInstance {
    pub(crate) instance: Instance,
    pub(crate) backups: u64,
    /// Its server answers on this host.
    pub(crate) answers: bool,
    pub(crate) has_data: bool,
    /// Files that a created server's option file includes.
    pub(crate) includes: Vec<String>,
    /// The user of the operating system whom a created server's root account knows.
    pub(crate) login: Option<String>,
}

/// What could not be rebuilt.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) told: Vec<Problem>,
    pub(crate) count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The object, and what is wrong with it.
    pub(crate) what: String,
    /// What follows from it, as a sentence without its beginning and end.
    pub(crate) affected: String,
}

impl Problems {
    fn add(&mut self, what: impl Into<String>, affected: impl Into<String>) {
        self.count += 1;
        if self.told.len() < PROBLEMS_TOLD_MAX {
            self.told.push(Problem { what: what.into(), affected: affected.into() });
        }
    }
}

/// Whether it is the object that is at fault, and not the way to it.
fn is_damage(err: &Error) -> bool {
    matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported)
}

/// Brings everything into the catalog that the repository knows and the catalog does not. `tell` hears how far it is.
pub(crate) fn rebuild(host: &Host<'_>, tell: &mut dyn FnMut(String)) -> Result<Rebuilt, Error> {
    host.store.write(|tx| tx.begin_rebuild())?;
    let mut all: Vec<(InstanceId, FoundSettings)> = Vec::new();
    for id in host.repository.instances()? {
        all.push((id, host.repository.settings(id)?));
    }
    // Should two have one name, the newer one keeps it.
    all.sort_by_key(|(_, found)| std::cmp::Reverse(found.settings.as_ref().map(|settings| settings.created_at)));
    let mut rebuilt = Rebuilt::default();
    let total = all.len();
    for (number, (id, found)) in all.into_iter().enumerate() {
        let name = found.settings.as_ref().map_or_else(|| id.to_string(), |settings| settings.name.clone());
        tell(format!("Instance {} of {total}: {name}", number + 1));
        One { host, id, name, rebuilt: &mut rebuilt }.rebuild(found, tell)?;
    }
    host.store.write(|tx| tx.end_rebuild())?;
    Ok(rebuilt)
}

/// One instance on its way into the catalog.
struct One<'a> {
    host: &'a Host<'a>,
    id: InstanceId,
    name: String,
    rebuilt: &'a mut Rebuilt,
}

impl One<'_> {
    fn rebuild(&mut self, found: FoundSettings, tell: &mut dyn FnMut(String)) -> Result<(), Error> {
        let backups = self.backups(tell)?;
        let timelines = self.timelines(&backups)?;
        for timeline in &timelines.order {
            let problems = &mut self.rebuilt.problems;
            self.rebuilt.chunks += chunks::rebuild(self.host, &self.name, self.id, *timeline, problems, tell)?;
        }
        self.stand_in(&timelines, &backups)?;
        self.check_ends(&backups)?;
        let server = self.instance(found, &backups)?;
        self.recoveries(server.as_ref())?;
        Ok(())
    }

    /// The completed backups, the oldest first.
    fn backups(&mut self, tell: &mut dyn FnMut(String)) -> Result<Vec<Backup>, Error> {
        let sizes = self.host.repository.manifest_sizes(self.id)?;
        let whole: Vec<(BackupId, u64)> = sizes.iter().filter_map(|(id, size)| Some((*id, (*size)?))).collect();
        if whole.len() < sizes.len() {
            tell(format!(
                "{}: left out {} backups without a manifest: not completed, or half deleted",
                self.name,
                sizes.len() - whole.len()
            ));
        }
        let mut backups = Vec::new();
        for batch in batches(&whole, |(_, bytes)| bytes.saturating_mul(MANIFEST_FACTOR)) {
            let read = in_parallel(batch, |(backup, _)| backup_from_manifest(self.host.repository, self.id, *backup))?;
            for found in read {
                match found {
                    Ok(backup) => backups.push(backup),
                    Err(err) if is_damage(&err) => {
                        let affected = format!("this backup of instance {} cannot be used", self.name);
                        self.rebuilt.problems.add(err.message(), affected);
                    }
                    Err(err) => return Err(err),
                }
            }
        }
        backups.sort_by_key(|backup| (backup.created_at, backup.id));
        self.host.store.write(|tx| {
            for backup in &backups {
                match tx.backup(backup.id) {
                    Err(err) if err.kind() == ErrorKind::NotFound => tx.insert_backup(backup)?,
                    known => drop(known?),
                }
            }
            Ok(())
        })?;
        self.rebuilt.backups += backups.len() as u64;
        Ok(backups)
    }

    /// The newest readable record of each recovery.
    fn recoveries(&mut self, server: Option<&Server>) -> Result<(), Error> {
        let mut records = self.host.repository.recovery_records(self.id)?;
        // The newest of each first; what is not needed any more is not read.
        records.sort_by_key(|record| (record.recovery, std::cmp::Reverse(record.updated_at)));
        let mut locked = Vec::new();
        while !records.is_empty() {
            let (first, older) = first_of_each(records);
            let mut unread = Vec::new();
            for batch in batches(&first, |record| record.object.bytes.saturating_add(record.bytes as u64)) {
                let read = in_parallel(batch, |record| self.host.repository.recovery(record))?;
                for (record, found) in batch.iter().zip(read) {
                    match found {
                        Ok(recovery) => self.insert_recovery(recovery, server)?,
                        Err(err) if is_damage(&err) => {
                            let affected =
                                "what this recovery did is known only as far as older records say".to_owned();
                            self.rebuilt.problems.add(err.message(), affected);
                            unread.push(record.recovery);
                        }
                        Err(err) if err.kind() == ErrorKind::Refused => locked.push(err),
                        Err(err) => return Err(err),
                    }
                }
            }
            records = older.into_iter().filter(|record| unread.contains(&record.recovery)).collect();
        }
        if let Some(first) = locked.first() {
            let what = format!("{} records of recoveries are encrypted: {}", locked.len(), first.message());
            let affected = "they are left out; name the identity in the configuration and run this again";
            self.rebuilt.problems.add(what, affected);
        }
        Ok(())
    }

    fn insert_recovery(&mut self, mut recovery: Recovery, server: Option<&Server>) -> Result<(), Error> {
        if recovery.state == RecoveryState::Retained && !server.is_some_and(|server| is_kept(server, &recovery)) {
            recovery.state = RecoveryState::Released;
            recovery.outcome.old_data_kept = false;
            recovery.outcome.undo_until = None;
            recovery.updated_at = crate::clock::now();
        }
        self.rebuilt.recoveries += 1;
        self.host.store.write(|tx| match tx.recovery(recovery.id) {
            Err(err) if err.kind() == ErrorKind::NotFound && recovery.state.is_settled() => {
                tx.insert_recovery(&recovery)
            }
            known => known.map(drop),
        })
    }

    /// Binlog that must be there, since something rests on it, and is not: nobody follows the last chunk of a timeline.
    fn check_ends(&mut self, backups: &[Backup]) -> Result<(), Error> {
        let mut wanted: Vec<(crate::domain::coordinate::Coordinate, String)> = Vec::new();
        for backup in backups {
            wanted.extend(backup.end.as_ref().map(|end| (end.at.clone(), format!("backup {}", backup.id))));
        }
        for timeline in self.host.store.read(|db| db.timelines(self.id))? {
            let branch = timeline.branch.as_ref();
            wanted.extend(branch.map(|branch| (branch.at.clone(), format!("timeline {}", timeline.number))));
        }
        for (at, what) in wanted {
            let last = self.host.store.read(|db| db.last_chunk(at.timeline))?;
            let reached = last.map_or((0, 0), |last| last.facts.ends_at().order());
            // Position 0 of a file is where the file before it ends.
            if reached < at.order() && !(at.position == 0 && reached.0 + 1 == at.ordinal) {
                let missing =
                    format!("the binlog of instance {} up to {at}, where {what} rests, is not whole", self.name);
                let affected = "only the end of a backup itself can be recovered there, and nothing behind it";
                self.rebuilt.problems.add(missing, affected);
            }
        }
        Ok(())
    }
}

fn backup_from_manifest(repository: &Repository, instance: InstanceId, id: BackupId) -> Result<Backup, Error> {
    let (manifest, location, checksum) = repository.found_manifest(instance, id)?;
    Ok(Backup {
        id,
        instance,
        stored_bytes: manifest.stored_bytes(),
        name: manifest.name,
        description: manifest.description,
        status: BackupStatus::Completed,
        fault: None,
        datastore: manifest.datastore,
        strategy: manifest.strategy,
        server_version: manifest.server_version,
        raw_bytes: manifest.raw_bytes,
        location: Some(location),
        checksum: Some(checksum),
        end: Some(manifest.end),
        created_at: manifest.created_at,
        updated_at: manifest.completed_at,
    })
}

/// The first record of each recovery, and the others.
fn first_of_each(records: Vec<RecoveryRecord>) -> (Vec<RecoveryRecord>, Vec<RecoveryRecord>) {
    let mut seen: Option<RecoveryId> = None;
    records.into_iter().partition(|record| seen.replace(record.recovery) != Some(record.recovery))
}

/// Whether the data from before a recovery lies on this host, with the journal that an undo needs.
fn is_kept(server: &Server, recovery: &Recovery) -> bool {
    let has_journal = matches!(Journal::load(server, recovery.id), Ok(Some(_)));
    let has_data = Journal::dir(server, recovery.id).join("old").is_dir();
    has_journal && (has_data || !recovery.outcome.old_data_kept)
}

/// How many instances the repository holds that this state knows nothing of: those not deleted, if the state is empty.
pub(crate) fn forgotten(store: &Store, repository: &Repository) -> Result<u64, Error> {
    if !store.read(|db| db.instances())?.is_empty() || store.read(|db| db.is_rebuilt())? {
        return Ok(0);
    }
    let mut forgotten = 0;
    for id in repository.instances()? {
        let is_deleted = repository.settings(id)?.settings.is_some_and(|settings| settings.deleted_at.is_some());
        forgotten += u64::from(!is_deleted);
    }
    Ok(forgotten)
}

/// When an instance's newest backup was made.
pub(crate) fn newest_backup(store: &Store, instance: InstanceId) -> Result<Option<Timestamp>, Error> {
    Ok(store.read(|db| db.newest_completed_backup(instance))?.map(|backup| backup.created_at))
}
