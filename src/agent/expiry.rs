//! What time brings: the backup a new timeline needs, until there is one, and the end of an undo window.
//!
//! The end of an undo window: when the data from before a recovery, or from before its undo, may go.
//!
//! Two things must hold: the window is over, and a backup of the timeline that goes on exists. The window alone frees
//! nothing, and low space never does.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::Context;
use crate::agent::recovery::journal::Journal;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::instance::InstanceStatus;
use crate::domain::recovery::{Recovery, RecoveryState};
use crate::domain::task::TaskKind;
use crate::domain::timeline::Origin;
use crate::error::Error;

/// A backup that failed is not tried again at once: what made it fail needs time, or somebody.
const RETRY_BACKUP_AFTER: Duration = Duration::from_secs(600);

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

/// Takes the full backup again that a timeline begins with, if it has failed: without it the way back to that timeline
/// only grows longer, and no undo window ends. A server that does not serve waits for its recovery, not for a backup.
pub(crate) fn retry_first_backup(context: &Context, instance: InstanceId, now: Timestamp) -> Result<(), Error> {
    let Some(timeline) = context.store.read(|db| db.current_timeline(instance))? else { return Ok(()) };
    if timeline.origin == Origin::Initial {
        return Ok(());
    }
    let backups = context.store.read(|db| db.backups(Some(instance)))?;
    if context.store.read(|db| db.instance(instance))?.status != InstanceStatus::Active {
        return Ok(());
    }
    let is_busy = !context.store.read(|db| db.unfinished_tasks(instance))?.is_empty();
    if !is_busy && wants_backup(timeline.id, timeline.begun_at, &backups, now) {
        context.cast_backup(instance, "again")?;
    }
    Ok(())
}

fn wants_backup(timeline: TimelineId, begun_at: Timestamp, backups: &[Backup], now: Timestamp) -> bool {
    let since = backups.iter().filter(|backup| backup.created_at >= begun_at);
    let has_one = since.clone().any(|backup| {
        backup.status.is_running()
            || (backup.status == BackupStatus::Completed
                && backup.end.as_ref().is_some_and(|end| end.at.timeline == timeline))
    });
    let last_try = since.map(|backup| backup.updated_at).max().unwrap_or(begun_at);
    !has_one && last_try.checked_add(RETRY_BACKUP_AFTER).is_ok_and(|due| due <= now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backup::BackupEnd;
    use crate::domain::backup::Strategy;
    use crate::domain::coordinate::Coordinate;
    use crate::domain::datastore::Datastore;
    use crate::domain::gtid::GtidPosition;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn backup(status: BackupStatus, timeline: TimelineId, seconds: i64) -> Backup {
        let place = Coordinate { timeline, ordinal: 1, file: "b.000001".to_owned(), position: 4 };
        Backup {
            id: crate::domain::id::BackupId::random(),
            instance: InstanceId::random(),
            name: String::new(),
            description: String::new(),
            status,
            fault: None,
            datastore: Datastore::Mariadb,
            strategy: Strategy::Mariabackup,
            server_version: String::new(),
            raw_bytes: 0,
            stored_bytes: 0,
            location: None,
            checksum: None,
            end: Some(BackupEnd { at: place, position: GtidPosition::default(), clock: 0 }),
            created_at: at(seconds),
            updated_at: at(seconds),
        }
    }

    #[test]
    fn a_new_timeline_gets_its_backup_again_ten_minutes_after_it_failed() {
        let timeline = TimelineId::random();
        let wants = |backups: &[Backup], now| wants_backup(timeline, at(1000), backups, at(now));
        let failed = backup(BackupStatus::Failed, timeline, 1100);
        assert!(!wants(std::slice::from_ref(&failed), 1699));
        assert!(wants(std::slice::from_ref(&failed), 1700));
        assert!(!wants(&[failed.clone(), backup(BackupStatus::New, timeline, 1700)], 5000), "one waits");
        assert!(!wants(&[failed.clone(), backup(BackupStatus::Completed, timeline, 1200)], 5000));
        let of_another = backup(BackupStatus::Completed, TimelineId::random(), 1200);
        assert!(wants(&[failed, of_another], 5000), "it leads to another timeline");
        assert!(wants(&[], 1600), "none was ever taken");
    }
}
