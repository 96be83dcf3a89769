//! The end of an undo window: when the data from before a recovery, or from before its undo, may go.
//!
//! Two things must hold: the window is over, and a backup of the timeline that goes on exists. The window alone frees
//! nothing, and low space never does.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::Context;
use crate::agent::recovery::journal::Journal;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::InstanceId;
use crate::domain::recovery::{Recovery, RecoveryState};
use crate::domain::task::TaskKind;
use crate::error::Error;

/// Queues the release of every recovery of the instance whose undo window has ended.
pub(crate) fn release_expired(context: &Context, instance: InstanceId, now: Timestamp) -> Result<(), Error> {
    let recoveries = context.store.read(|db| db.recoveries(instance))?;
    if !recoveries.iter().any(|recovery| keeps_data(recovery.state)) {
        return Ok(());
    }
    let server = context.store.read(|db| db.instance(instance))?.server;
    let backups = context.store.read(|db| db.backups(Some(instance)))?;
    let unfinished = context.store.read(|db| db.unfinished_tasks(instance))?;
    let window = context.settings.undo_window;
    for recovery in recoveries.iter().filter(|recovery| has_expired(recovery, &backups, window, now)) {
        let dir = Journal::dir(&server, recovery.id);
        if !["old", "new"].iter().any(|name| dir.join(name).exists()) {
            continue;
        }
        let release = TaskKind::ReleaseRecovery { recovery: recovery.id };
        if !unfinished.iter().any(|task| task.kind == release) {
            context.store.write(|tx| tx.insert_task(instance, &release))?;
            context.bell.ring();
        }
    }
    Ok(())
}

fn keeps_data(state: RecoveryState) -> bool {
    matches!(state, RecoveryState::Retained | RecoveryState::Undone)
}

fn has_expired(recovery: &Recovery, backups: &[Backup], window: Duration, now: Timestamp) -> bool {
    let outcome = &recovery.outcome;
    let (goes_on, until) = if recovery.state == RecoveryState::Undone {
        (outcome.undo_timeline, recovery.updated_at.checked_add(window).ok())
    } else {
        (outcome.timeline, outcome.undo_until)
    };
    let is_backed_up = backups.iter().any(|backup| {
        backup.status == BackupStatus::Completed
            && backup.end.as_ref().is_some_and(|end| Some(end.at.timeline) == goes_on)
    });
    keeps_data(recovery.state) && is_backed_up && until.is_some_and(|until| until <= now)
}
