//! The end of an undo window: when the data from before a recovery may go.
//!
//! Two things must hold, the window is over and a backup of the new timeline exists that could bring it back; the window
//! alone frees nothing, and low space never does.

use jiff::Timestamp;

use crate::agent::Context;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::InstanceId;
use crate::domain::recovery::{Recovery, RecoveryState};
use crate::domain::task::TaskKind;
use crate::error::Error;

/// Queues the release of every recovery of the instance whose undo window has ended.
pub(crate) fn release_expired(context: &Context, instance: InstanceId, now: Timestamp) -> Result<(), Error> {
    let recoveries = context.store.read(|db| db.recoveries(instance))?;
    if !recoveries.iter().any(|recovery| recovery.state == RecoveryState::Retained) {
        return Ok(());
    }
    let backups = context.store.read(|db| db.backups(Some(instance)))?;
    let unfinished = context.store.read(|db| db.unfinished_tasks(instance))?;
    for recovery in recoveries.iter().filter(|recovery| has_expired(recovery, &backups, now)) {
        let release = TaskKind::ReleaseRecovery { recovery: recovery.id };
        if !unfinished.iter().any(|task| task.kind == release) {
            context.store.write(|tx| tx.insert_task(instance, &release))?;
            context.bell.ring();
        }
    }
    Ok(())
}

fn has_expired(recovery: &Recovery, backups: &[Backup], now: Timestamp) -> bool {
    let outcome = &recovery.outcome;
    let is_backed_up = backups.iter().any(|backup| {
        backup.status == BackupStatus::Completed
            && backup.end.as_ref().is_some_and(|end| Some(end.at.timeline) == outcome.timeline)
    });
    recovery.state == RecoveryState::Retained && is_backed_up && outcome.undo_until.is_some_and(|until| until <= now)
}
