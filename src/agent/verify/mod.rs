//! `do_verify`: stored objects read again to their last byte, one after the other.
//!
//! Nobody waits for a verification: it leaves off as soon as another task wants the instance or a worker, and goes on
//! behind it. What it has found is in the store, object by object, and an object that was read since the verification
//! was begun is not read again: neither giving way, nor a restart, nor a store that was away costs more than that.

pub(crate) mod schedule;
mod walk;

use crate::agent::verify::walk::Walk;
use crate::agent::{Context, fault_of};
use crate::clock;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::task::{Task, TaskKind};
use crate::domain::timeline::Timeline;
use crate::domain::verification::{Slice, VerificationRun};
use crate::error::{Error, ErrorKind};
use crate::logging;

/// What a verification reads.
struct Extent {
    backups: Vec<Backup>,
    histories: Vec<History>,
    settings: bool,
}

/// A timeline, and from where on its chunks are read.
struct History {
    timeline: Timeline,
    from: (u32, u64),
}

/// What is verified, as its last run is kept.
struct Subject {
    id: String,
    is_scheduled: bool,
    slice: Slice,
}

/// Verifies what the task says and keeps how it ended.
pub(crate) fn do_verify(context: &Context, task: &Task) -> Result<(), Error> {
    let Some((subject, extent)) = plan(context, task)? else { return Ok(()) };
    let kept = context.store.read(|db| db.verification_run(&subject.id, subject.is_scheduled))?;
    let begun = match kept.filter(|run| run.task == task.id) {
        // What was read since the first attempt need not be read again.
        Some(run) => VerificationRun { closed: run.closed, ..VerificationRun::begun(task.id, run.slice, run.begun_at) },
        None => VerificationRun::begun(task.id, subject.slice, task.created_at),
    };
    let mut walk = Walk::new(context, task, subject, begun);
    let outcome = walk.read(&extent);
    let mut run = walk.finish()?;
    match &outcome {
        Ok(()) => run.run.ended_at = Some(clock::now()),
        Err(err) if matches!(err.kind(), ErrorKind::Busy | ErrorKind::Interrupted) => {}
        Err(err) => run.run.fault = Some(fault_of(err)),
    }
    context.store.write(|tx| tx.set_verification_run(&run.subject.id, run.subject.is_scheduled, &run.run))?;
    if outcome.is_ok() {
        let VerificationRun { objects, bad, .. } = run.run;
        match bad {
            0 => logging::info("verify", format!("{objects} objects are what was stored")),
            bad => logging::error("verify", format!("{bad} of {objects} objects are bad; see `coffer status`")),
        }
    }
    outcome
}

/// What the task is about; none when it is gone.
fn plan(context: &Context, task: &Task) -> Result<Option<(Subject, Extent)>, Error> {
    match task.kind {
        TaskKind::VerifyBackup { backup, slice } => {
            let Some(extent) = extent_of_backup(context, task.instance, backup)? else { return Ok(None) };
            Ok(Some((Subject { id: backup.to_string(), is_scheduled: false, slice }, extent)))
        }
        TaskKind::VerifyInstance { slice, is_scheduled } => {
            let extent = extent_of_instance(context, task.instance)?;
            Ok(Some((Subject { id: task.instance.to_string(), is_scheduled, slice }, extent)))
        }
        TaskKind::CreateInstance
        | TaskKind::AdoptInstance
        | TaskKind::DeleteInstance
        | TaskKind::RestartInstance
        | TaskKind::CreateBackup { .. }
        | TaskKind::DeleteBackup { .. }
        | TaskKind::Recover { .. }
        | TaskKind::UndoRecovery { .. }
        | TaskKind::ReleaseRecovery { .. } => {
            Err(Error::new(ErrorKind::Internal, format!("to {} is no verification", task.kind)))
        }
    }
}

/// The backup, and all binlog that a recovery from it can come to need: that of its timeline behind its end, and that of
/// every timeline that branches off there.
fn extent_of_backup(context: &Context, instance: InstanceId, id: BackupId) -> Result<Option<Extent>, Error> {
    let backup = match context.store.read(|db| db.backup(id)) {
        Ok(backup) if backup.status == BackupStatus::Completed => backup,
        Ok(_) => return Ok(None),
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None), // Deleted since it was asked for.
        Err(err) => return Err(err),
    };
    let timelines = context.store.read(|db| db.timelines(instance))?;
    let histories = histories_behind(&backup, &timelines);
    Ok(Some(Extent { backups: vec![backup], histories, settings: false }))
}

fn extent_of_instance(context: &Context, instance: InstanceId) -> Result<Extent, Error> {
    let mut backups = context.store.read(|db| db.backups(Some(instance)))?;
    backups.retain(|backup| backup.status == BackupStatus::Completed);
    let timelines = context.store.read(|db| db.timelines(instance))?;
    let histories = timelines.into_iter().map(|timeline| History { timeline, from: (0, 0) }).collect();
    Ok(Extent { backups, histories, settings: true })
}

/// By number a timeline comes behind the one it branches off.
fn histories_behind(backup: &Backup, timelines: &[Timeline]) -> Vec<History> {
    let mut histories: Vec<History> = Vec::new();
    let Some(end) = &backup.end else { return histories };
    for timeline in timelines {
        let parent = timeline.branch.as_ref().and_then(|branch| {
            let parent = histories.iter().find(|history| history.timeline.id == branch.at.timeline)?;
            (branch.at.order() >= parent.from).then_some(())
        });
        if timeline.id == end.at.timeline {
            histories.push(History { timeline: timeline.clone(), from: end.at.order() });
        } else if parent.is_some() {
            histories.push(History { timeline: timeline.clone(), from: (0, 0) });
        }
    }
    histories
}

#[cfg(test)]
mod tests;
