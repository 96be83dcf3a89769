//! Which backup a recovery starts from.

use crate::domain::backup::{Backup, BackupEnd, BackupStatus};
use crate::domain::id::BackupId;
use crate::recovery::plan::Facts;
use crate::recovery::plan::chain::Reached;
use crate::recovery::plan::lineage::{Lineage, Place};
use crate::recovery::plan::refusal::{BaseFault, OldestBackup, PlanError, SkipFault};
use crate::recovery::plan::skip::Skip;
use crate::recovery::plan::stop::Stop;

/// A completed backup and where it ends in a lineage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) backup: &'a Backup,
    pub(super) end: &'a BackupEnd,
    pub(super) place: Place,
}

impl Base<'_> {
    /// Where a walk that starts at this base begins.
    pub(super) fn reached(&self) -> Reached {
        Reached { place: self.place, at: Some(self.end.at.clone()), clock: self.end.clock }
    }
}

/// The completed backups of the lineage that are not known to be damaged, newest first.
pub(super) fn in_lineage<'a>(facts: &Facts<'a>, lineage: &Lineage<'_>) -> Vec<Base<'a>> {
    let mut bases = all_in_lineage(facts, lineage);
    bases.retain(|base| facts.damage.of_backup(base.backup.id).is_none());
    bases
}

fn all_in_lineage<'a>(facts: &Facts<'a>, lineage: &Lineage<'_>) -> Vec<Base<'a>> {
    let mut bases: Vec<Base<'a>> = facts
        .backups
        .iter()
        .filter(|backup| backup.instance == facts.instance && backup.status == BackupStatus::Completed)
        .filter_map(|backup| {
            let end = backup.end.as_ref()?;
            Some(Base { backup, end, place: lineage.place(&end.at)? })
        })
        .collect();
    bases.sort_by_key(|base| std::cmp::Reverse((base.place, base.backup.created_at)));
    bases
}

/// The backup named in a request, when it can be used at all.
pub(super) fn named<'a>(facts: &Facts<'a>, id: BackupId) -> Result<(&'a Backup, &'a BackupEnd), PlanError> {
    let Some(backup) = facts.backups.iter().find(|backup| backup.id == id) else {
        return Err(PlanError::UnknownBackup { backup: id });
    };
    if backup.instance != facts.instance {
        return Err(PlanError::BackupOfOtherInstance { backup: id });
    }
    match (&backup.end, backup.status) {
        (Some(end), BackupStatus::Completed) => Ok((backup, end)),
        (_, status) => Err(PlanError::BackupNotCompleted { backup: id, status }),
    }
}

/// The damaged backup that would have been a better base for this stop.
pub(super) fn damaged_behind(
    facts: &Facts<'_>,
    lineage: &Lineage<'_>,
    base: &Base<'_>,
    stop: Place,
) -> Option<BackupId> {
    let behind = all_in_lineage(facts, &lineage.up_to(stop.segment));
    let better = |other: &&Base<'_>| other.place > base.place && other.place <= stop;
    let mut better = behind.iter().filter(better);
    better.find(|other| facts.damage.of_backup(other.backup.id).is_some()).map(|other| other.backup.id)
}

/// Why no backup leads to the target: the newest that `fits` is damaged, or there is none.
pub(super) fn no_good_one(
    facts: &Facts<'_>,
    lineage: &Lineage<'_>,
    target: String,
    fits: impl Fn(&Base<'_>) -> bool,
) -> PlanError {
    let all = all_in_lineage(facts, lineage);
    let damage_of = |base: &Base<'_>| facts.damage.of_backup(base.backup.id);
    match all.iter().filter(|base| fits(base)).find_map(|base| Some((base, damage_of(base)?))) {
        Some((base, why)) => damaged(base.backup, why),
        None => none_before(target, &all),
    }
}

fn damaged(backup: &Backup, why: &str) -> PlanError {
    let end = backup.end.as_ref().map(|end| end.at.binlog_position());
    PlanError::BaseNotUsable { backup: backup.id, why: BaseFault::Damaged { why: why.to_owned(), end } }
}

pub(super) fn none_before(target: String, bases: &[Base<'_>]) -> PlanError {
    let oldest = bases.last().map(|base| OldestBackup { backup: base.backup.id, clock: base.end.clock });
    PlanError::NoBackupBefore { target, oldest }
}

/// The backups that lead to the stop, best first; never empty. `forced` leaves only that one.
///
/// A base may end behind the stop as long as no transaction lies between (`limit`): the same data, a later place.
pub(super) fn candidates<'a>(
    facts: &Facts<'a>,
    lineage: &Lineage<'_>,
    stop: &Stop,
    limit: Place,
    skips: &[Skip],
    forced: Option<BackupId>,
    target: String,
) -> Result<Vec<Base<'a>>, PlanError> {
    let to_stop = lineage.up_to(stop.place.segment);
    if let Some(id) = forced {
        let (backup, end) = named(facts, id)?;
        if let Some(why) = facts.damage.of_backup(id) {
            return Err(damaged(backup, why));
        }
        return Ok(vec![usable(backup, end, lineage, &to_stop, stop, limit, skips)?]);
    }
    let bases = in_lineage(facts, &to_stop);
    let before: Vec<Base<'a>> = bases.iter().filter(|base| base.place <= limit).copied().collect();
    if before.is_empty() {
        return Err(no_good_one(facts, &to_stop, target, |base| base.place <= limit));
    }
    let mut without: Vec<Base<'a>> = before;
    for skip in skips {
        without.retain(|base| !skip.is_in(base.place, skips));
        if without.is_empty() {
            return Err(PlanError::SkipNotInRange { gtid: skip.gtid, why: SkipFault::InEveryBackup });
        }
    }
    Ok(without)
}

fn usable<'a>(
    backup: &'a Backup,
    end: &'a BackupEnd,
    lineage: &Lineage<'_>,
    to_stop: &Lineage<'_>,
    stop: &Stop,
    limit: Place,
    skips: &[Skip],
) -> Result<Base<'a>, PlanError> {
    let refuse = |why| PlanError::BaseNotUsable { backup: backup.id, why };
    let place =
        to_stop.place(&end.at).or_else(|| lineage.place(&end.at)).ok_or_else(|| refuse(BaseFault::OffTimeline))?;
    if place > limit {
        let (end, stop) = (end.at.binlog_position(), stop.at.binlog_position());
        return Err(refuse(BaseFault::AfterTarget { end, stop }));
    }
    if let Some(skip) = skips.iter().find(|skip| skip.is_in(place, skips)) {
        return Err(refuse(BaseFault::HoldsSkipped(skip.gtid)));
    }
    Ok(Base { backup, end, place })
}
