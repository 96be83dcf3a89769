//! Recoveries in place: plan, begin, and what an operator may ask of one under way.

use crate::clock;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{BackupId, InstanceId, RecoveryId};
use crate::domain::instance::{Instance, InstanceStatus};
use crate::domain::recovery::{Recovery, RecoveryOutcome, RecoveryPlan, RecoveryState, Tail};
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::task::{Task, TaskKind, TaskState};
use crate::error::{Error, ErrorKind};
use crate::service::backups::is_being_deleted;
use crate::service::{Service, refuse_busy_but_for_backups};
use crate::store::{Db, Tx};

/// A recovery to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRecovery {
    pub(crate) instance: InstanceId,
    pub(crate) target: RecoveryTarget,
    /// Stop before the switch until somebody has looked.
    pub(crate) pause: bool,
}

/// A recovery and what is shown beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecoveryView {
    pub(crate) recovery: Recovery,
    pub(crate) instance: Instance,
    /// The task that carries it on now or next.
    pub(crate) task: Option<Task>,
    /// Whether an undo would be taken on.
    pub(crate) can_undo: bool,
}

impl Service {
    /// What a recovery would do. Changes nothing, so it is answered whatever else is going on.
    pub(crate) fn plan_recovery(&self, instance: InstanceId, target: &RecoveryTarget) -> Result<RecoveryPlan, Error> {
        self.store.read(|db| {
            let instance = db.instance(instance)?;
            check_backups(db, &instance, target)
        })?;
        self.planning.plan(instance, target)
    }

    /// CAST: plans, then begins. `Conflict` while another recovery of the instance is under way.
    pub(crate) fn begin_recovery(&self, new: &NewRecovery) -> Result<RecoveryView, Error> {
        self.store.read(|db| {
            let instance = db.instance(new.instance)?;
            refuse_second(db, &instance)?;
            check_backups(db, &instance, &new.target)
        })?;
        // Reads catalog and repository and may take a while: outside of a transaction, so it is checked again below.
        let plan = self.planning.plan(new.instance, &new.target)?;
        let view = self.store.write(|tx| {
            let instance = tx.instance(new.instance)?;
            refuse_second(tx, &instance)?;
            check_backup(tx, &instance, plan.base)?;
            let now = clock::now();
            let recovery = Recovery {
                id: RecoveryId::random(),
                instance: instance.id,
                state: RecoveryState::Planned,
                plan,
                pause: new.pause,
                paused: false,
                abort_asked: false,
                fault: None,
                outcome: RecoveryOutcome::default(),
                created_at: now,
                updated_at: now,
            };
            tx.insert_recovery(&recovery)?;
            tx.set_instance_status(instance.id, InstanceStatus::Build, None)?;
            tx.insert_task(instance.id, &TaskKind::Recover { recovery: recovery.id })?;
            view(tx, recovery)
        })?;
        self.bell.ring();
        Ok(view)
    }

    /// Lets a paused recovery go on to the switch, and one that a fault stopped behind it go on where it stands.
    pub(crate) fn promote_recovery(&self, instance: InstanceId, id: RecoveryId) -> Result<RecoveryView, Error> {
        self.change_recovery(instance, id, |tx, recovery| {
            if is_stuck(tx, recovery)? {
                return carry_on(tx, recovery);
            }
            if !recovery.paused {
                return Err(forbidden(recovery, "does not wait for a promotion").hint(match recovery.state {
                    RecoveryState::Planned | RecoveryState::Staged | RecoveryState::Prepared if recovery.pause => {
                        "Wait until its status is PAUSED."
                    }
                    _ => "Only a recovery begun with `pause` waits, at REPLAYED.",
                }));
            }
            recovery.pause = false;
            recovery.paused = false;
            carry_on(tx, recovery)
        })
    }

    /// Gives a recovery up before the switch; the server is never touched.
    pub(crate) fn abort_recovery(&self, instance: InstanceId, id: RecoveryId) -> Result<RecoveryView, Error> {
        self.change_recovery(instance, id, |tx, recovery| match recovery.state {
            RecoveryState::Planned | RecoveryState::Staged | RecoveryState::Prepared | RecoveryState::Replayed => {
                recovery.abort_asked = true;
                recovery.paused = false;
                carry_on(tx, recovery)
            }
            RecoveryState::Fenced
            | RecoveryState::Switched
            | RecoveryState::Promoted
            | RecoveryState::UndoFenced
            | RecoveryState::UndoSwitched => Err(forbidden(recovery, "is past the point where it can be aborted")
                .hint("Let it end; a recovery that is RETAINED can be undone.")),
            RecoveryState::Retained => {
                Err(forbidden(recovery, "has ended").hint("Undo it to have the data from before the recovery back."))
            }
            RecoveryState::Undone | RecoveryState::Aborted | RecoveryState::Failed | RecoveryState::Released => {
                Err(forbidden(recovery, "has ended").hint("There is nothing to abort."))
            }
        })
    }

    /// CAST: the data from before the recovery back in place. The newer history is kept as a timeline of its own.
    pub(crate) fn undo_recovery(&self, instance: InstanceId, id: RecoveryId) -> Result<RecoveryView, Error> {
        self.planning.check_undo(instance, id)?;
        self.change_recovery(instance, id, |tx, recovery| {
            require_undoable(recovery, &tx.recoveries(recovery.instance)?, &tx.unfinished_tasks(recovery.instance)?)?;
            let instance = tx.instance(recovery.instance)?;
            refuse_busy_but_for_backups(tx, &instance)?;
            tx.set_instance_status(instance.id, InstanceStatus::Build, None)?;
            tx.insert_task(instance.id, &TaskKind::UndoRecovery { recovery: recovery.id }).map(drop)
        })
    }

    /// CAST: frees the data from before the recovery; it cannot be undone any more.
    pub(crate) fn release_recovery(&self, instance: InstanceId, id: RecoveryId) -> Result<RecoveryView, Error> {
        self.change_recovery(instance, id, |tx, recovery| {
            require_kept(recovery, &tx.unfinished_tasks(recovery.instance)?)?;
            let undo = TaskKind::UndoRecovery { recovery: recovery.id };
            if tx.unfinished_tasks(recovery.instance)?.iter().any(|task| task.kind == undo) {
                return Err(forbidden(recovery, "is being undone").hint("Wait until it is UNDONE."));
            }
            tx.insert_task(recovery.instance, &TaskKind::ReleaseRecovery { recovery: recovery.id }).map(drop)
        })
    }

    pub(crate) fn recovery(&self, instance: InstanceId, id: RecoveryId) -> Result<RecoveryView, Error> {
        self.store.read(|db| {
            db.instance(instance)?;
            view(db, recovery_of(db, instance, id)?)
        })
    }

    /// The recoveries of an instance, the newest first.
    pub(crate) fn recoveries(&self, instance: InstanceId) -> Result<Vec<RecoveryView>, Error> {
        self.store.read(|db| {
            let instance = db.instance(instance)?;
            let (all, tasks) = (db.recoveries(instance.id)?, db.unfinished_tasks(instance.id)?);
            Ok(all.iter().map(|recovery| view_among(recovery.clone(), &instance, &all, &tasks)).collect())
        })
    }

    /// Looks at a recovery, changes it and casts what follows, all in one transaction.
    fn change_recovery(
        &self,
        instance: InstanceId,
        id: RecoveryId,
        change: impl FnOnce(&Tx<'_>, &mut Recovery) -> Result<(), Error>,
    ) -> Result<RecoveryView, Error> {
        let view = self.store.write(|tx| {
            tx.instance(instance)?;
            let before = recovery_of(tx, instance, id)?;
            let mut recovery = before.clone();
            change(tx, &mut recovery)?;
            if recovery != before {
                recovery.updated_at = clock::now();
                tx.update_recovery(&recovery)?;
            }
            view(tx, recovery)
        })?;
        self.bell.ring();
        Ok(view)
    }
}

/// A recovery that belongs to the instance of the path.
fn recovery_of(db: &Db<'_>, instance: InstanceId, id: RecoveryId) -> Result<Recovery, Error> {
    let recovery = db.recovery(id)?;
    if recovery.instance != instance {
        return Err(Error::new(ErrorKind::NotFound, format!("recovery {id} of instance {instance} cannot be found")));
    }
    Ok(recovery)
}

/// Whether the recovery is past its fence and no task works on it: its last one has failed.
fn is_stuck(db: &Db<'_>, recovery: &Recovery) -> Result<bool, Error> {
    let is_past_the_fence =
        matches!(recovery.state, RecoveryState::Fenced | RecoveryState::Switched | RecoveryState::Promoted);
    let kind = TaskKind::Recover { recovery: recovery.id };
    let has_task = db.unfinished_tasks(recovery.instance)?.iter().any(|task| task.kind == kind);
    Ok(is_past_the_fence && !has_task)
}

/// Sees to it that a task looks at the recovery again. One that runs may be about to end, past its last look, so only
/// one that still waits is enough; a task that finds its recovery settled has nothing to do.
fn carry_on(tx: &Tx<'_>, recovery: &Recovery) -> Result<(), Error> {
    let kind = TaskKind::Recover { recovery: recovery.id };
    let waits = |task: &Task| task.kind == kind && task.state == TaskState::Queued;
    if tx.unfinished_tasks(recovery.instance)?.iter().any(waits) {
        return Ok(());
    }
    tx.insert_task(recovery.instance, &kind).map(drop)
}

/// An undo needs data that a clean stop left, and no recovery after it. `all` are the instance's, the newest first.
fn require_undoable(recovery: &Recovery, all: &[Recovery], tasks: &[Task]) -> Result<(), Error> {
    require_kept(recovery, tasks)?;
    let dead = match (recovery.outcome.tail, recovery.outcome.old_data_kept) {
        (Some(Tail::Running) | None, true) => None,
        (Some(Tail::FilesSurvived | Tail::FilesGone), true) => {
            Some("the server was dead before it, and what it left is kept for inspection only")
        }
        (_, false) => Some("the server had no data left before it"),
    };
    if let Some(dead) = dead {
        let message = format!("recovery {} cannot be undone: {dead}", recovery.id);
        return Err(Error::new(ErrorKind::Conflict, message).hint("Recover to the point you want instead."));
    }
    // The exchange is undone with the data directory of now, so only the last one can be.
    let mut later = all.iter().take_while(|other| other.id != recovery.id);
    match later.find(|other| matches!(other.state, RecoveryState::Retained | RecoveryState::Released)) {
        None => Ok(()),
        Some(other) => {
            let message = format!("recovery {} came after recovery {}", other.id, recovery.id);
            Err(Error::new(ErrorKind::Conflict, message)
                .hint("Undo the later one first, or recover to the point you want."))
        }
    }
}

/// Undo and release need the old data, and nobody who is about to free it.
fn require_kept(recovery: &Recovery, tasks: &[Task]) -> Result<(), Error> {
    let kind = TaskKind::ReleaseRecovery { recovery: recovery.id };
    let is_released = tasks.iter().any(|task| task.kind == kind);
    match recovery.state {
        RecoveryState::Retained if is_released => Err(forbidden(recovery, "is being released")
            .hint("The data from before the recovery is being freed; recover to the point you want.")),
        RecoveryState::Retained => Ok(()),
        RecoveryState::Released => Err(forbidden(recovery, "keeps no old data any more")
            .hint("Its undo window is over or it was released; recover to the point you want.")),
        RecoveryState::Undone | RecoveryState::Aborted | RecoveryState::Failed => {
            Err(forbidden(recovery, "keeps no old data").hint("The server serves the data it had before it."))
        }
        RecoveryState::Planned
        | RecoveryState::Staged
        | RecoveryState::Prepared
        | RecoveryState::Replayed
        | RecoveryState::Fenced
        | RecoveryState::Switched
        | RecoveryState::Promoted
        | RecoveryState::UndoFenced
        | RecoveryState::UndoSwitched => {
            Err(forbidden(recovery, "has not ended").hint("Wait until its state is RETAINED."))
        }
    }
}

fn forbidden(recovery: &Recovery, why: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("recovery {} is {} and {why}", recovery.id, recovery.state.name()))
}

/// One recovery at a time: `Conflict` for a second one, `Busy` for whatever else is going on.
fn refuse_second(db: &Db<'_>, instance: &Instance) -> Result<(), Error> {
    if let Some(recovery) = db.unsettled_recovery(instance.id)? {
        if recovery.paused {
            return Err(forbidden(&recovery, "waits for somebody to decide").hint(format!(
                "Look at it, then `coffer recovery promote {0}` or `coffer recovery abort {0}`.",
                recovery.id
            )));
        }
        return Err(forbidden(&recovery, "has not ended")
            .hint("Wait until it has ended, or abort it if its state is REPLAYED or earlier."));
    }
    // A server that is down or damaged is recovered like any other.
    refuse_busy_but_for_backups(db, instance)
}

/// The backups that a target names.
fn check_backups(db: &Db<'_>, instance: &Instance, target: &RecoveryTarget) -> Result<(), Error> {
    if let Point::Backup(id) = target.point {
        check_backup(db, instance, id)?;
    }
    target.base.map_or(Ok(()), |id| check_backup(db, instance, id))
}

fn check_backup(db: &Db<'_>, instance: &Instance, id: BackupId) -> Result<(), Error> {
    let backup: Backup = db.backup(id)?;
    if backup.instance != instance.id {
        let message = format!("`backup` {id} is of instance {}, not of {}", backup.instance, instance.id);
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("A recovery in place takes a backup of the same instance."));
    }
    if backup.status != BackupStatus::Completed {
        let message =
            format!("unable to recover because backup {id} is not completed; its status is {}", backup.status.name());
        return Err(Error::new(ErrorKind::Conflict, message).hint(
            "Wait until it is COMPLETED, or leave `backup` out to take the newest one that leads to the target.",
        ));
    }
    if is_being_deleted(db, &backup)? {
        return Err(Error::new(ErrorKind::Conflict, format!("backup {id} is being deleted"))
            .hint("Choose another one, or leave `backup` out."));
    }
    Ok(())
}

fn view(db: &Db<'_>, recovery: Recovery) -> Result<RecoveryView, Error> {
    let instance = db.instance(recovery.instance)?;
    let tasks = db.unfinished_tasks(instance.id)?;
    // The others matter to a retained one only.
    let all = if recovery.state == RecoveryState::Retained { db.recoveries(instance.id)? } else { Vec::new() };
    Ok(view_among(recovery, &instance, &all, &tasks))
}

fn view_among(recovery: Recovery, instance: &Instance, all: &[Recovery], tasks: &[Task]) -> RecoveryView {
    let task = tasks.iter().find(|task| match task.kind {
        TaskKind::Recover { recovery: id }
        | TaskKind::UndoRecovery { recovery: id }
        | TaskKind::ReleaseRecovery { recovery: id } => id == recovery.id,
        _ => false,
    });
    let can_undo = require_undoable(&recovery, all, tasks).is_ok();
    RecoveryView { task: task.cloned(), instance: instance.clone(), can_undo, recovery }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::bench::Bench;

    fn new(instance: InstanceId, point: Point) -> NewRecovery {
        NewRecovery { instance, target: RecoveryTarget::new(point), pause: false }
    }

    #[test]
    fn beginning_writes_recovery_status_and_task_together() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        bench.completed(id, "b1");
        let view = bench.begin(id, true);
        assert_eq!(view.recovery.state, RecoveryState::Planned);
        assert_eq!(bench.status(id), InstanceStatus::Build);
        assert_eq!(bench.tasks(id), [TaskKind::Recover { recovery: view.recovery.id }]);
        let error = bench.service.begin_recovery(&new(id, Point::Latest)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains("PLANNED"), "{error}");
        // Planning changes nothing and is answered all the same.
        bench.service.plan_recovery(id, &RecoveryTarget::new(Point::Latest)).unwrap();
    }

    #[test]
    fn a_plan_that_cannot_be_made_leaves_nothing_behind() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        *bench.planning.refusal.lock().unwrap() = Some("binlog is missing after binlog.000003:4711");
        let error = bench.service.begin_recovery(&new(id, Point::Latest)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.message().contains("binlog.000003:4711"), "{error}");
        assert!(bench.service.recoveries(id).unwrap().is_empty());
        assert_eq!(bench.status(id), InstanceStatus::Active);
        assert!(bench.tasks(id).is_empty());
    }

    #[test]
    fn only_a_completed_backup_of_the_same_instance_is_recovered_from() {
        let bench = Bench::new();
        let (one, other) = (bench.active("db1").id, bench.active("db2").id);
        let foreign = bench.completed(other, "b");
        let begin = |point| bench.service.begin_recovery(&new(one, point)).unwrap_err().kind();
        assert_eq!(begin(Point::Backup(Bench::nobody())), ErrorKind::NotFound);
        assert_eq!(begin(Point::Backup(foreign.id)), ErrorKind::InvalidInput);
        let mut failed = bench.completed(one, "b");
        failed.status = BackupStatus::Failed;
        bench.store.write(|tx| tx.update_backup(&failed)).unwrap();
        assert_eq!(begin(Point::Backup(failed.id)), ErrorKind::Conflict);
        let deleted = bench.completed(one, "c");
        bench.service.delete_backup(deleted.id).unwrap();
        assert_eq!(begin(Point::Backup(deleted.id)), ErrorKind::Conflict);
        let mut target = RecoveryTarget::new(Point::Latest);
        target.base = Some(foreign.id);
        assert_eq!(bench.service.plan_recovery(one, &target).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn an_instance_in_error_is_recovered_and_one_with_a_backup_running_too_but_not_one_being_built() {
        for (status, is_let_in) in
            [(InstanceStatus::Backup, true), (InstanceStatus::Error, true), (InstanceStatus::Build, false)]
        {
            let bench = Bench::new();
            let id = bench.active("db1").id;
            bench.completed(id, "b1");
            bench.store.write(|tx| tx.set_instance_status(id, status, None)).unwrap();
            let begun = bench.service.begin_recovery(&new(id, Point::Latest));
            assert_eq!(begun.as_ref().err().map(Error::kind), (!is_let_in).then_some(ErrorKind::Busy), "{status:?}");
        }
    }

    /// What may be asked of a recovery in each state: promote (paused), abort, undo, release.
    #[test]
    fn each_state_allows_what_it_can_bear_and_tells_itself_otherwise() {
        for state in RecoveryState::ALL {
            let before_the_fence = matches!(
                state,
                RecoveryState::Planned | RecoveryState::Staged | RecoveryState::Prepared | RecoveryState::Replayed
            );
            let is_kept = state == RecoveryState::Retained;
            let allowed = |act: &dyn Fn(&Service, InstanceId, RecoveryId) -> Result<RecoveryView, Error>| {
                let bench = Bench::new();
                let id = bench.active("db1").id;
                bench.completed(id, "b1");
                let view = bench.begin(id, true);
                bench.bring(&view, state, state == RecoveryState::Replayed);
                match act(&bench.service, id, view.recovery.id) {
                    Ok(_) => {
                        assert_eq!(bench.tasks(id).len(), 1, "{state:?}: somebody carries it on");
                        true
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict);
                        assert!(error.message().contains(state.name()) && error.hint_text().is_some(), "{error}");
                        assert!(bench.tasks(id).is_empty());
                        false
                    }
                }
            };
            // Behind the fence without a task: the last one has failed, and this tries again.
            let is_stuck = matches!(state, RecoveryState::Fenced | RecoveryState::Switched | RecoveryState::Promoted);
            let may_go_on = is_stuck || state == RecoveryState::Replayed;
            assert_eq!(allowed(&|s, i, r| s.promote_recovery(i, r)), may_go_on, "{state:?}");
            assert_eq!(allowed(&|s, i, r| s.abort_recovery(i, r)), before_the_fence, "{state:?}");
            assert_eq!(allowed(&|s, i, r| s.undo_recovery(i, r)), is_kept, "{state:?}");
            assert_eq!(allowed(&|s, i, r| s.release_recovery(i, r)), is_kept, "{state:?}");
        }
    }

    #[test]
    fn an_abort_is_seen_even_if_the_running_task_is_past_its_last_look() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        bench.completed(id, "b1");
        let view = bench.begin(id, false);
        bench.store.write(|tx| tx.claim_task()).unwrap();
        for _ in 0..2 {
            let view = bench.service.abort_recovery(id, view.recovery.id).unwrap();
            assert!(view.recovery.abort_asked);
            assert_eq!(bench.tasks(id).len(), 2, "the one that runs, and one that will look");
        }
    }

    #[test]
    fn only_the_last_recovery_is_undone() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        bench.completed(id, "b1");
        let first = bench.begin(id, false);
        bench.bring(&first, RecoveryState::Retained, false);
        let second = bench.begin(id, false);
        bench.bring(&second, RecoveryState::Retained, false);
        let error = bench.service.undo_recovery(id, first.recovery.id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains(&second.recovery.id.to_string()), "{error}");
        bench.service.undo_recovery(id, second.recovery.id).unwrap();
        assert_eq!(bench.status(id), InstanceStatus::Build);
        assert_eq!(bench.service.release_recovery(id, second.recovery.id).unwrap_err().kind(), ErrorKind::Conflict);
        bench.bring(&second, RecoveryState::Undone, false);
        bench.service.undo_recovery(id, first.recovery.id).unwrap();
    }

    #[test]
    fn what_is_being_released_is_not_undone() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        bench.completed(id, "b1");
        let view = bench.begin(id, false);
        bench.bring(&view, RecoveryState::Retained, false);
        bench.service.release_recovery(id, view.recovery.id).unwrap();
        assert_eq!(bench.service.undo_recovery(id, view.recovery.id).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_recovery_belongs_to_its_instance() {
        let bench = Bench::new();
        let (one, other) = (bench.active("db1").id, bench.active("db2").id);
        bench.completed(one, "b1");
        let view = bench.begin(one, true);
        assert_eq!(bench.service.recovery(other, view.recovery.id).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bench.service.abort_recovery(other, view.recovery.id).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bench.service.recoveries(one).unwrap().len(), 1);
    }
}
