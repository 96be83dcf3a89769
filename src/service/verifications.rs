//! Verifications: asked for, and what they have found.

use std::collections::BTreeSet;

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::chunk::Chunk;
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::instance::{Instance, InstanceStatus};
use crate::domain::task::{Task, TaskKind};
use crate::domain::verification::{BadObject, ObjectPlace, Slice, VerificationRun, VerificationSummary};
use crate::error::{Error, ErrorKind};
use crate::recovery::damage::{Consequence, Ground};
use crate::service::{Service, busy};
use crate::store::{Db, Tx};

/// Bad objects that are shown one by one. More are counted.
const BAD_SHOWN: usize = VerificationRun::BAD_KEYS_MAX;

/// How the stored objects of an instance stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerificationView {
    pub(crate) summary: VerificationSummary,
    /// The first of what is bad.
    pub(crate) bad: Vec<BadView>,
}

/// A bad object, what depends on it and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadView {
    pub(crate) object: BadObject,
    pub(crate) consequence: Consequence,
}

impl Service {
    /// CAST: read a backup again, and the binlog that a recovery from it may need. Waits for whatever else is done with
    /// the instance, and gives way to it.
    pub(crate) fn verify_backup(&self, id: BackupId, slice: Slice) -> Result<VerificationRun, Error> {
        let run = self.store.write(|tx| {
            let backup = tx.backup(id)?;
            let instance = tx.instance(backup.instance)?;
            if backup.status != BackupStatus::Completed {
                let message = format!("backup {id} is {}, not COMPLETED", backup.status.name());
                return Err(Error::new(ErrorKind::Conflict, message)
                    .hint("There is nothing to verify before a backup is COMPLETED."));
            }
            cast(tx, &instance, &id.to_string(), &TaskKind::VerifyBackup { backup: id, slice }, slice)
        })?;
        self.bell.ring();
        Ok(run)
    }

    /// CAST: read everything again that the instance has stored.
    pub(crate) fn verify_instance(&self, id: InstanceId, slice: Slice) -> Result<VerificationRun, Error> {
        let run = self.store.write(|tx| {
            let instance = tx.instance(id)?;
            let kind = TaskKind::VerifyInstance { slice, is_scheduled: false };
            cast(tx, &instance, &id.to_string(), &kind, slice)
        })?;
        self.bell.ring();
        Ok(run)
    }
}

/// Queues a verification, unless the same one waits or runs already.
fn cast(
    tx: &Tx<'_>,
    instance: &Instance,
    subject: &str,
    kind: &TaskKind,
    slice: Slice,
) -> Result<VerificationRun, Error> {
    if instance.status == InstanceStatus::Shutdown {
        return Err(busy(instance, "instance status was SHUTDOWN").hint("It is being deleted."));
    }
    let is_alike = |task: &&Task| match (&task.kind, kind) {
        (TaskKind::VerifyBackup { backup: one, .. }, TaskKind::VerifyBackup { backup: other, .. }) => one == other,
        (TaskKind::VerifyInstance { is_scheduled: one, .. }, TaskKind::VerifyInstance { is_scheduled: other, .. }) => {
            one == other
        }
        _ => false,
    };
    let unfinished = tx.unfinished_tasks(instance.id)?;
    let alike = unfinished.iter().find(is_alike);
    let kept = tx.verification_run(subject, false)?;
    match (alike, kept) {
        (Some(task), Some(run)) if task.kind == *kind && run.task == task.id => Ok(run),
        (Some(task), _) => {
            let message = format!("a task to {} waits or runs already", task.kind);
            Err(Error::new(ErrorKind::Busy, message).hint("Wait until it has ended."))
        }
        (None, _) => {
            let task = tx.insert_task(instance.id, kind)?;
            let run = VerificationRun::begun(task.id, slice, task.created_at);
            tx.set_verification_run(subject, false, &run)?;
            Ok(run)
        }
    }
}

/// How the stored objects of the instance stand, with what is bad among them.
pub(super) fn view(db: &Db<'_>, instance: &Instance) -> Result<VerificationView, Error> {
    let summary = db.verification(instance.id)?;
    if summary.bad_objects == 0 {
        return Ok(VerificationView { summary, bad: Vec::new() });
    }
    let timelines = db.timelines(instance.id)?;
    let backups = db.backups(Some(instance.id))?;
    let bad = db.bad_objects(instance.id, usize::MAX)?;
    let ground = Ground { instance_name: &instance.name, timelines: &timelines, backups: &backups, bad: &bad };
    let shown = bad.iter().take(BAD_SHOWN).map(|object| {
        let chunk = chunk_of(db, &object.place)?;
        let consequence = ground.consequence(object, chunk.as_ref().map(|chunk| &chunk.facts));
        Ok(BadView { object: object.clone(), consequence })
    });
    Ok(VerificationView { bad: shown.collect::<Result<_, Error>>()?, summary })
}

/// The oldest and the newest completed backup of the instance that are not bad.
pub(super) fn good_backups(db: &Db<'_>, instance: InstanceId) -> Result<Option<(Backup, Backup)>, Error> {
    if db.verification(instance)?.bad_objects == 0 {
        let ends = (db.oldest_completed_backup(instance)?, db.newest_completed_backup(instance)?);
        return Ok(ends.0.zip(ends.1));
    }
    let bad = bad_backups(db, instance)?;
    // The newest first.
    let mut good = db.backups(Some(instance))?;
    good.retain(|backup| backup.status == BackupStatus::Completed && !bad.contains(&backup.id));
    Ok(good.last().cloned().zip(good.first().cloned()))
}

/// The instance's chunks that are bad, as the catalog knows them.
pub(super) fn bad_chunks(db: &Db<'_>, instance: InstanceId) -> Result<Vec<Chunk>, Error> {
    let mut chunks = Vec::new();
    for object in db.bad_objects(instance, usize::MAX)? {
        chunks.extend(chunk_of(db, &object.place)?);
    }
    Ok(chunks)
}

fn chunk_of(db: &Db<'_>, place: &ObjectPlace) -> Result<Option<Chunk>, Error> {
    match place {
        ObjectPlace::Chunk { timeline, ordinal, end } => db.chunk_before(*timeline, *ordinal, *end),
        ObjectPlace::Manifest { .. }
        | ObjectPlace::Part { .. }
        | ObjectPlace::Timeline { .. }
        | ObjectPlace::Settings
        | ObjectPlace::Recovery { .. } => Ok(None),
    }
}

fn bad_backups(db: &Db<'_>, instance: InstanceId) -> Result<BTreeSet<BackupId>, Error> {
    let bad = db.bad_objects(instance, usize::MAX)?;
    Ok(bad.iter().filter_map(|object| object.place.backup()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::domain::verification::Finding;
    use crate::service::NewBackup;
    use crate::service::bench::Bench;

    fn note(bench: &Bench, backup: &Backup, fault: Option<&str>) {
        let finding = Finding {
            key: format!("instances/{}/backups/{}/manifest.json", backup.instance, backup.id),
            instance: backup.instance,
            place: ObjectPlace::Manifest { backup: backup.id },
            stored_bytes: 10,
            verified_at: clock::now(),
            fault: fault.map(str::to_owned),
        };
        bench
            .store
            .write(|tx| {
                tx.set_backup_objects(backup.id, 1)?;
                tx.note_findings(std::slice::from_ref(&finding))
            })
            .unwrap();
    }

    #[test]
    fn a_verification_is_cast_once_and_stands_in_nobodys_way() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let backup = bench.completed(id, "b1");
        let run = bench.service.verify_backup(backup.id, Slice::WHOLE).unwrap();
        assert_eq!(bench.service.verify_backup(backup.id, Slice::WHOLE).unwrap().task, run.task);
        let other = bench.service.verify_backup(backup.id, Slice::new(1, 2).unwrap()).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Busy);
        bench.service.verify_instance(id, Slice::WHOLE).unwrap();
        assert_eq!(bench.tasks(id).len(), 2);
        let new = NewBackup { instance: id, name: "b2".to_owned(), description: String::new() };
        let running = bench.service.create_backup(&new).unwrap().backup;
        assert_eq!(bench.service.verify_backup(running.id, Slice::WHOLE).unwrap_err().kind(), ErrorKind::Conflict);
        let nobody = bench.service.verify_backup(Bench::nobody(), Slice::WHOLE).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_bad_backup_is_an_alarm_and_no_longer_what_the_past_begins_with() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let (first, second) = (bench.completed(id, "b1"), bench.completed(id, "b2"));
        note(&bench, &first, None);
        let view = bench.service.instance(id).unwrap();
        assert_eq!((view.verification.summary.objects, view.verification.bad.len()), (1, 0));
        note(&bench, &first, Some("its seal does not match"));
        note(&bench, &second, None);
        let view = bench.service.instance(id).unwrap();
        let bad = view.verification.bad.first().unwrap();
        assert!(bad.consequence.depends.contains("backup `b1`"), "{bad:?}");
        assert_eq!(bench.service.backup(first.id).unwrap().health.name(), "BAD");
        assert_eq!(bench.service.backup(second.id).unwrap().health.name(), "OK");
        bench.store.read(|db| good_backups(db, id)).map(|ends| assert_eq!(ends.unwrap().0.id, second.id)).unwrap();
        note(&bench, &second, Some("it is gone"));
        assert_eq!(bench.service.instance(id).unwrap().recoverable, None);
        // What is well again is no alarm.
        note(&bench, &first, None);
        note(&bench, &second, None);
        let view = bench.service.instance(id).unwrap();
        assert!(view.verification.bad.is_empty() && view.recoverable.is_some());
    }
}
