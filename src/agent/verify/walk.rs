//! The walk over the objects of a verification.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::verify::{Extent, History, Subject};
use crate::agent::{Context, Reporter};
use crate::clock::{self, Stopwatch};
use crate::domain::backup::Backup;
use crate::domain::chunk::Chunk;
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::instance::{Instance, InstanceStatus};
use crate::domain::task::{ProgressUnit, Task, TaskState};
use crate::domain::verification::{Finding, ObjectPlace, VerificationRun};
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::recovery::damage::{Consequence, Ground};
use crate::repository::Repository;
use crate::repository::verify::Proof;
use crate::store::{ChunkKey, News};

/// How often it is asked whether something cannot wait.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A task of another instance that has waited so long finds no free worker.
const PATIENCE_OF_OTHERS: Duration = Duration::from_secs(1);
/// Findings are written together; a kill costs reading so many objects again ...
const FINDINGS_MAX: usize = 200;
/// ... or what was read in this time.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Chunks asked of the catalog at once.
const PAGE: usize = 1000;
/// Bad objects whose consequences are told one by one; whoever lost more has lost a whole folder.
const ALARMS_MAX: usize = 50;
/// Objects that may fail to be read before the way to the repository counts as lost.
const UNREAD_MAX: u64 = 20;

pub(super) struct Walk<'a> {
    context: &'a Context,
    instance: InstanceId,
    reporter: Reporter<'a>,
    pub(super) subject: Subject,
    pub(super) run: VerificationRun,
    total_bytes: u64,
    findings: Vec<Finding>,
    written: Stopwatch,
    looked: Option<Stopwatch>,
    /// Backups whose damage was told.
    told: BTreeSet<BackupId>,
    alarms: usize,
    unread: u64,
    /// Why the first of them could not be read.
    unread_first: Option<Error>,
}

/// What came of an object.
enum Outcome<T> {
    Good(T),
    Bad(String),
    /// It may be good: the way to it failed.
    Unread,
}

impl<'a> Walk<'a> {
    pub(super) fn new(context: &'a Context, task: &Task, subject: Subject, run: VerificationRun) -> Walk<'a> {
        Walk {
            context,
            instance: task.instance,
            reporter: Reporter::new(&context.store, task.id),
            subject,
            run,
            total_bytes: 0,
            findings: Vec::new(),
            written: Stopwatch::start(),
            looked: None,
            told: BTreeSet::new(),
            alarms: 0,
            unread: 0,
            unread_first: None,
        }
    }

    /// Reads everything once, the small things first: they are what a rebuild begins with.
    pub(super) fn read(&mut self, extent: &Extent) -> Result<(), Error> {
        self.total_bytes = self.size_of(extent)? / u64::from(self.run.slice.of());
        for history in &extent.histories {
            self.timeline(history)?;
        }
        if extent.settings {
            self.settings()?;
            self.recoveries()?;
        }
        for backup in &extent.backups {
            self.backup(backup)?;
        }
        for history in &extent.histories {
            self.chunks(history)?;
        }
        match self.unread_first.take() {
            None => Ok(()),
            Some(err) => Err(err.context(format!("{} objects could not be read, the first", self.unread))),
        }
    }

    /// Keeps what was found last.
    pub(super) fn finish(mut self) -> Result<Walk<'a>, Error> {
        self.write()?;
        Ok(self)
    }

    fn size_of(&self, extent: &Extent) -> Result<u64, Error> {
        let mut bytes: u64 = extent.backups.iter().map(|backup| backup.stored_bytes).sum();
        for History { timeline, from } in &extent.histories {
            bytes += self.context.store.read(|db| db.chunk_bytes_from(timeline.id, from.0, from.1))?;
        }
        Ok(bytes)
    }

    fn timeline(&mut self, history: &History) -> Result<(), Error> {
        let timeline = &history.timeline;
        if self.context.store.read(|db| db.last_chunk(timeline.id))?.is_none() {
            return Ok(()); // Its object comes before its first chunk, and may not be there yet.
        }
        let key = self.context.repository.timeline_key(timeline);
        self.look_at(&key, ObjectPlace::Timeline { timeline: timeline.id }, 0, |repository| {
            repository.verify_timeline(timeline).map(|()| Proof::Contents)
        })
    }

    /// Those that are there, and those that were there once.
    fn settings(&mut self) -> Result<(), Error> {
        let repository = &self.context.repository;
        let instance = self.instance;
        let stored = repository.settings_keys(instance)?;
        let prefix = repository.settings_prefix(instance);
        for key in self.context.store.read(|db| db.verified_keys(&prefix, usize::MAX))? {
            if !stored.contains(&key) {
                let gone = |_: &Repository| Err(Error::new(ErrorKind::NotFound, "it is gone"));
                self.look_at(&key, ObjectPlace::Settings, 0, gone)?;
            }
        }
        for key in stored {
            self.look_at(&key, ObjectPlace::Settings, 0, |repository| {
                repository.read_settings(instance, &key).map(|_| Proof::Contents)
            })?;
        }
        Ok(())
    }

    /// Records that are gone are stored again by the keeper, as long as the catalog has what stood in them.
    fn recoveries(&mut self) -> Result<(), Error> {
        let instance = self.instance;
        for record in self.context.repository.recovery_records(instance)? {
            let place = ObjectPlace::Recovery { recovery: record.recovery };
            self.look_at(&record.object.key, place, record.object.bytes, |repository| {
                repository.verify_recovery(&record)
            })?;
        }
        Ok(())
    }

    fn backup(&mut self, backup: &Backup) -> Result<(), Error> {
        let key = self.context.repository.manifest_key(self.instance, backup.id);
        let place = ObjectPlace::Manifest { backup: backup.id };
        self.check_wanted()?;
        // Read in every slice, because it names the parts.
        let checksum = backup.checksum.as_deref();
        let read = self.prove(&key, |repository| repository.verify_manifest(backup.instance, backup.id, checksum))?;
        let known = self.context.store.read(|db| db.last_finding(&key))?;
        let changed = matches!(read, Outcome::Bad(_)) != known.is_some_and(|known| known.is_bad);
        let is_in_slice = self.run.slice.holds(&key);
        let manifest = match read {
            Outcome::Unread => return Ok(()),
            Outcome::Bad(reason) => {
                if is_in_slice || changed {
                    self.found(&key, place, 0, Some(reason))?;
                }
                return Ok(());
            }
            Outcome::Good(manifest) => manifest,
        };
        self.context.store.write(|tx| tx.set_backup_objects(backup.id, manifest.parts.len() as u64 + 1))?;
        if is_in_slice || changed {
            self.found(&key, place, 0, None)?;
        }
        for part in &manifest.parts {
            let place = ObjectPlace::Part { backup: backup.id };
            self.look_at(&part.key, place, part.stored_bytes, |repository| repository.verify_part(part))?;
        }
        Ok(())
    }

    fn chunks(&mut self, history: &History) -> Result<(), Error> {
        let timeline = history.timeline.id;
        let mut from = history.from;
        loop {
            let page = self.context.store.read(|db| db.chunk_keys_from(timeline, from.0, from.1, PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            from = (last.ordinal, last.end);
            for ChunkKey { key, ordinal, end, stored_bytes } in &page {
                if !self.run.slice.holds(key) {
                    continue;
                }
                let Some(chunk) = self.context.store.read(|db| db.chunk_before(timeline, *ordinal, *end))? else {
                    continue;
                };
                let place = ObjectPlace::Chunk { timeline, ordinal: *ordinal, end: *end };
                self.look_at(key, place, *stored_bytes, |repository| repository.verify_chunk(&chunk))?;
            }
        }
    }

    /// Reads the object, if it is in the slice and was not read since the verification was begun.
    fn look_at(
        &mut self,
        key: &str,
        place: ObjectPlace,
        stored_bytes: u64,
        prove: impl Fn(&Repository) -> Result<Proof, Error>,
    ) -> Result<(), Error> {
        if !self.run.slice.holds(key) {
            return Ok(());
        }
        self.check_wanted()?;
        let known = self.context.store.read(|db| db.last_finding(key))?;
        if let Some(known) = known.filter(|known| known.verified_at >= self.run.begun_at) {
            self.count(key, stored_bytes, known.is_bad);
            return Ok(());
        }
        match self.prove(key, prove)? {
            Outcome::Good(proof) => {
                self.run.closed += u64::from(proof == Proof::Stored);
                self.found(key, place, stored_bytes, None)
            }
            Outcome::Bad(reason) => self.found(key, place, stored_bytes, Some(reason)),
            Outcome::Unread => Ok(()),
        }
    }

    /// Tells an object that is bad from a way to it that is.
    fn prove<T>(&mut self, key: &str, prove: impl Fn(&Repository) -> Result<T, Error>) -> Result<Outcome<T>, Error> {
        let repository = &self.context.repository;
        let first = match prove(repository) {
            Ok(proven) => return Ok(Outcome::Good(proven)),
            Err(err) => err,
        };
        if !is_said_of_the_object(&first) {
            return self.unread(first);
        }
        // A bit that flipped on its way here is no damage.
        match prove(repository) {
            Ok(proven) => {
                logging::warn("verify", format!("the second look found nothing wrong where the first did: {first}"));
                Ok(Outcome::Good(proven))
            }
            Err(err) if is_said_of_the_object(&err) => {
                repository.verify_presence()?;
                Ok(Outcome::Bad(reason_of(&err, &repository.location(key))))
            }
            Err(err) => self.unread(err),
        }
    }

    fn unread<T>(&mut self, err: Error) -> Result<Outcome<T>, Error> {
        let ends_it = matches!(err.kind(), ErrorKind::Unavailable | ErrorKind::Interrupted | ErrorKind::Busy);
        self.unread += 1;
        if ends_it || self.unread > UNREAD_MAX {
            return Err(err);
        }
        logging::warn("verify", format!("an object could not be read: {err}"));
        self.unread_first.get_or_insert(err);
        Ok(Outcome::Unread)
    }

    fn count(&mut self, key: &str, stored_bytes: u64, is_bad: bool) {
        let run = &mut self.run;
        run.objects += 1;
        run.stored_bytes += stored_bytes;
        run.bad += u64::from(is_bad);
        if is_bad && run.bad_keys.len() < VerificationRun::BAD_KEYS_MAX {
            run.bad_keys.push(key.to_owned());
        }
        self.reporter.report("verifying", run.stored_bytes, self.total_bytes, ProgressUnit::Bytes);
    }

    fn found(&mut self, key: &str, place: ObjectPlace, stored_bytes: u64, fault: Option<String>) -> Result<(), Error> {
        let is_bad = fault.is_some();
        self.count(key, stored_bytes, is_bad);
        let (key, instance, verified_at) = (key.to_owned(), self.instance, clock::now());
        self.findings.push(Finding { key, instance, place, stored_bytes, verified_at, fault });
        // An alarm does not wait for company.
        if is_bad || self.findings.len() >= FINDINGS_MAX || self.written.elapsed() >= WRITE_EVERY {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        self.written = Stopwatch::start();
        let findings = std::mem::take(&mut self.findings);
        let News { bad, good_again } = self.context.store.write(|tx| {
            tx.set_verification_run(&self.subject.id, self.subject.is_scheduled, &self.run)?;
            tx.note_findings(&findings)
        })?;
        for key in good_again {
            logging::info("verify", format!("`{key}` is what was stored again"));
        }
        for key in bad {
            self.alarm(&key)?;
        }
        Ok(())
    }

    /// Says what depends on an object that was just found to be bad, and casts the backup that makes up for it.
    fn alarm(&mut self, key: &str) -> Result<(), Error> {
        let store = &self.context.store;
        let Some(object) = store.read(|db| db.bad_object(key))? else { return Ok(()) };
        let is_told = object.place.backup().is_some_and(|backup| !self.told.insert(backup));
        self.alarms += usize::from(!is_told);
        if is_told || self.alarms > ALARMS_MAX {
            return Ok(());
        }
        let chunk = self.chunk_of(&object.place)?;
        let chunk = chunk.as_ref().map(|chunk| &chunk.facts);
        let wants_replacement = self.on_ground(|ground, instance| {
            instance.status == InstanceStatus::Active && ground.wants_replacement(&object.place, chunk)
        })?;
        if wants_replacement {
            let backup = self.context.cast_backup(self.instance, "in-place-of-bad")?;
            store.write(|tx| tx.set_replacement(key, backup))?;
        }
        let Consequence { depends, remedy } = self.on_ground(|ground, _| ground.consequence(&object, chunk))?;
        logging::error("verify", format!("`{key}` is bad ({}). On it depends {depends}. {remedy}", object.reason));
        Ok(())
    }

    /// Decides by all that is known of the instance now.
    fn on_ground<T>(&self, decide: impl FnOnce(&Ground<'_>, &Instance) -> T) -> Result<T, Error> {
        self.context.store.read(|db| {
            let instance = db.instance(self.instance)?;
            let timelines = db.timelines(self.instance)?;
            let backups = db.backups(Some(self.instance))?;
            let bad = db.bad_objects(self.instance, usize::MAX)?;
            let ground = Ground { instance_name: &instance.name, timelines: &timelines, backups: &backups, bad: &bad };
            Ok(decide(&ground, &instance))
        })
    }

    fn chunk_of(&self, place: &ObjectPlace) -> Result<Option<Chunk>, Error> {
        let ObjectPlace::Chunk { timeline, ordinal, end } = place else { return Ok(None) };
        self.context.store.read(|db| db.chunk_before(*timeline, *ordinal, *end))
    }

    /// Leaves off for whatever else is to be done, and when the appliance stops.
    fn check_wanted(&mut self) -> Result<(), Error> {
        self.context.check_stopping()?;
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Stopwatch::start());
        let waiting = self.context.store.read(|db| {
            let now = clock::now();
            for task in db.queued_tasks()?.into_iter().filter(|task| !task.kind.gives_way()) {
                if task.instance == self.instance {
                    return Ok(Some(task));
                }
                let has_waited = task.updated_at.checked_add(PATIENCE_OF_OTHERS).is_ok_and(|until| until < now);
                let others = db.unfinished_tasks(task.instance)?;
                if has_waited && !others.iter().any(|other| other.state == TaskState::Running) {
                    return Ok(Some(task));
                }
            }
            Ok(None)
        })?;
        match waiting {
            None => Ok(()),
            Some(task) => Err(Error::new(ErrorKind::Busy, format!("to {} comes first", task.kind))),
        }
    }
}

/// Whether the failure says that the object is not what was stored, and nothing of the way to it.
fn is_said_of_the_object(err: &Error) -> bool {
    matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported)
}

/// What is wrong, without the object's address, which stands beside it.
fn reason_of(err: &Error, location: &str) -> String {
    if err.kind() == ErrorKind::NotFound {
        return "it is gone".to_owned();
    }
    let message = err.message();
    let address = format!("`{location}`");
    let bare = message.strip_prefix(&address).map_or(message.as_str(), |rest| rest.trim_start());
    bare.strip_prefix("is damaged: ").unwrap_or(bare).to_owned()
}
