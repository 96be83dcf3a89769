//! Figures for monitoring.

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::recovery::RecoveryState;
use crate::error::Error;
use crate::service::Service;
use crate::service::instances::{InstanceView, view};
use crate::store::ChunkTotals;

/// What is measured of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceFigures {
    pub(crate) view: InstanceView,
    pub(crate) totals: ChunkTotals,
    pub(crate) newest_backup: Option<Backup>,
    pub(crate) backups: Vec<(BackupStatus, u64)>,
    pub(crate) recoveries: Vec<(RecoveryState, u64)>,
    pub(crate) gaps: usize,
}

impl Service {
    /// The figures of every instance, of one snapshot.
    pub(crate) fn figures(&self) -> Result<Vec<InstanceFigures>, Error> {
        self.store.read(|db| {
            let instances = db.instances()?.into_iter();
            instances
                .map(|instance| {
                    let id = instance.id;
                    Ok(InstanceFigures {
                        view: view(db, instance)?,
                        totals: db.chunk_totals(id)?,
                        newest_backup: db.newest_completed_backup(id)?,
                        backups: db.backup_counts(id)?,
                        recoveries: db.recovery_counts(id)?,
                        gaps: db.gaps(id)?.len(),
                    })
                })
                .collect()
        })
    }
}
