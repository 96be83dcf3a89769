//! Backups: cast, list, delete.

use crate::clock;
use crate::domain::backup::Backup;
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::instance::InstanceStatus;
use crate::domain::task::{Task, TaskKind};
use crate::domain::verification::{BackupHealth, VerificationRun};
use crate::error::{Error, ErrorKind};
use crate::service::{Service, check_name, refuse_busy};
use crate::store::Db;

/// A backup to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewBackup {
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) description: String,
}

/// A backup, the task that makes or verifies it, and what was found when it was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupView {
    pub(crate) backup: Backup,
    pub(crate) task: Option<Task>,
    pub(crate) health: BackupHealth,
    /// The last time somebody had it verified.
    pub(crate) verification: Option<VerificationRun>,
}

/// Some of the backups, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupPage {
    pub(crate) backups: Vec<BackupView>,
    /// Where the next page begins; none on the last.
    pub(crate) next: Option<BackupId>,
}

impl Service {
    /// CAST: a full backup. Refused while anything else is being done with the instance.
    pub(crate) fn create_backup(&self, new: &NewBackup) -> Result<BackupView, Error> {
        check_name(&new.name)?;
        let view = self.store.write(|tx| {
            let instance = tx.instance(new.instance)?;
            refuse_busy(tx, &instance, &[InstanceStatus::Active])?;
            let backup = Backup {
                description: new.description.clone(),
                server_version: instance.version.clone(),
                ..Backup::of(&instance, new.name.clone(), clock::now())
            };
            tx.insert_backup(&backup)?;
            tx.set_instance_status(instance.id, InstanceStatus::Backup, None)?;
            tx.insert_task(instance.id, &TaskKind::CreateBackup { backup: backup.id })?;
            view(tx, backup)
        })?;
        self.bell.ring();
        Ok(view)
    }

    /// CAST: forget the backup and free its objects. Refused while it is being made or a recovery reads it.
    pub(crate) fn delete_backup(&self, id: BackupId) -> Result<(), Error> {
        self.store.write(|tx| {
            let backup = tx.backup(id)?;
            let unfinished = tx.unfinished_tasks(backup.instance)?;
            let is_made = unfinished.iter().any(|task| task.kind == TaskKind::CreateBackup { backup: id });
            if backup.status.is_running() || is_made {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("Backup {id} cannot be deleted because it is running"),
                )
                .hint("Wait until it is COMPLETED or FAILED; if nothing makes it, reset the instance's status."));
            }
            if let Some(recovery) = tx.unsettled_recovery(backup.instance)?
                && recovery.plan.base == id
            {
                return Err(Error::new(ErrorKind::Conflict, format!("recovery {} reads backup {id}", recovery.id))
                    .hint("Wait until the recovery has ended, or abort it."));
            }
            if is_being_deleted(tx, &backup)? {
                return Ok(());
            }
            tx.insert_task(backup.instance, &TaskKind::DeleteBackup { backup: id }).map(drop)
        })?;
        self.bell.ring();
        Ok(())
    }

    pub(crate) fn backup(&self, id: BackupId) -> Result<BackupView, Error> {
        self.store.read(|db| view(db, db.backup(id)?))
    }

    /// At most `limit` backups of one instance or of all, beginning behind `after`.
    pub(crate) fn backups(
        &self,
        instance: Option<InstanceId>,
        after: Option<BackupId>,
        limit: usize,
    ) -> Result<BackupPage, Error> {
        self.store.read(|db| {
            let mut found = db.backups_page(instance, after, limit.saturating_add(1))?;
            let has_more = found.len() > limit;
            found.truncate(limit);
            let next = found.last().filter(|_| has_more).map(|last| last.id);
            let backups = found.into_iter().map(|backup| view(db, backup)).collect::<Result<_, _>>()?;
            Ok(BackupPage { backups, next })
        })
    }

    /// Like `backups`, of an instance that must exist.
    pub(crate) fn backups_of(
        &self,
        instance: InstanceId,
        after: Option<BackupId>,
        limit: usize,
    ) -> Result<BackupPage, Error> {
        self.store.read(|db| db.instance(instance))?;
        self.backups(Some(instance), after, limit)
    }
}

/// Whether a task to delete it waits or runs.
pub(super) fn is_being_deleted(db: &Db<'_>, backup: &Backup) -> Result<bool, Error> {
    let deletion = TaskKind::DeleteBackup { backup: backup.id };
    Ok(db.unfinished_tasks(backup.instance)?.iter().any(|task| task.kind == deletion))
}

fn view(db: &Db<'_>, backup: Backup) -> Result<BackupView, Error> {
    let id = backup.id;
    let is_of_it = |kind: &TaskKind| match kind {
        TaskKind::CreateBackup { backup } | TaskKind::VerifyBackup { backup, .. } => *backup == id,
        _ => false,
    };
    let task = db.unfinished_tasks(backup.instance)?.into_iter().find(|task| is_of_it(&task.kind));
    let verification = db.verification_run(&id.to_string(), false)?;
    Ok(BackupView { task, health: db.backup_health(id)?, verification, backup })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backup::BackupStatus;
    use crate::service::bench::Bench;

    fn new(instance: InstanceId) -> NewBackup {
        NewBackup { instance, name: "nightly".to_owned(), description: String::new() }
    }

    #[test]
    fn one_backup_at_a_time_and_only_of_an_active_instance() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let backup = bench.service.create_backup(&new(id)).unwrap();
        assert_eq!(backup.backup.status, BackupStatus::New);
        assert_eq!(bench.status(id), InstanceStatus::Backup);
        assert_eq!(bench.tasks(id), [TaskKind::CreateBackup { backup: backup.backup.id }]);
        let error = bench.service.create_backup(&new(id)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.message().contains("is not currently available for an action"), "{error}");
        assert_eq!(bench.service.backups(None, None, 10).unwrap().backups.len(), 1);
        assert_eq!(bench.service.create_backup(&new(InstanceId::random())).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_backup_that_is_made_or_read_is_not_deleted() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let running = bench.service.create_backup(&new(id)).unwrap().backup;
        assert_eq!(bench.service.delete_backup(running.id).unwrap_err().kind(), ErrorKind::Busy);
        bench.end_tasks(id);
        bench.service.reset_instance_status(id).unwrap();
        bench.store.write(|tx| tx.set_instance_status(id, InstanceStatus::Active, None)).unwrap();
        let base = bench.completed(id, "base");
        bench.begin(id, true);
        assert_eq!(bench.service.delete_backup(base.id).unwrap_err().kind(), ErrorKind::Conflict);
        bench.service.delete_backup(running.id).unwrap();
        bench.service.delete_backup(running.id).unwrap();
        let deletions = bench.tasks(id).iter().filter(|task| matches!(task, TaskKind::DeleteBackup { .. })).count();
        assert_eq!(deletions, 1);
    }

    #[test]
    fn pages_follow_each_other_without_a_hole() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let mut made: Vec<BackupId> = (0..5).map(|n| bench.completed(id, &format!("b{n}")).id).collect();
        made.reverse();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = bench.service.backups_of(id, after, 2).unwrap();
            seen.extend(page.backups.iter().map(|view| view.backup.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, made);
    }
}
