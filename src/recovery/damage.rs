//! What a bad object costs, and what to do about it: the sentences of the alarm, and whether a new backup is due.

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::chunk::ChunkFacts;
use crate::domain::id::{BackupId, TimelineId};
use crate::domain::timeline::Timeline;
use crate::domain::verification::{BadObject, Damage, ObjectPlace};
use crate::recovery::plan::lineage::{Lineage, Place, current};
use crate::recovery::plan::refusal::utc;

/// An instance's history as far as it decides what a bad object costs.
pub(crate) struct Ground<'a> {
    pub(crate) instance_name: &'a str,
    pub(crate) timelines: &'a [Timeline],
    /// Those of the instance.
    pub(crate) backups: &'a [Backup],
    /// All that is bad.
    pub(crate) bad: &'a [BadObject],
}

/// What an alarm says of a bad object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// What cannot be done without it: `backup "b" and every recovery from it`.
    pub(crate) depends: String,
    /// What to do, in sentences.
    pub(crate) remedy: String,
}

const BRING_BACK: &str = "Bring the object back from another copy of the repository";

/// Of what the catalog of this host holds too, so that it can be stored again from there.
fn for_another_host(what: &str) -> Consequence {
    Consequence {
        depends: format!("what another host learns from the repository alone: {what}"),
        remedy: format!(
            "Recoveries on this host do not need it. {BRING_BACK}. If there is none, remove what is left of it and restart \
             coffer, which stores it again."
        ),
    }
}

impl Ground<'_> {
    /// What depends on a bad object. `chunk` is what the catalog knows of it, if it is a chunk.
    pub(crate) fn consequence(&self, object: &BadObject, chunk: Option<&ChunkFacts>) -> Consequence {
        match &object.place {
            ObjectPlace::Manifest { backup } | ObjectPlace::Part { backup } => {
                let name = self.backup(*backup).map(|backup| format!(" `{}`", backup.name)).unwrap_or_default();
                let remedy = self.remedy(object, chunk).unwrap_or_else(|| {
                    format!("Later points are reached from another backup. {BRING_BACK}, or delete this backup.")
                });
                Consequence { depends: format!("backup{name} ({backup}) and every recovery from it"), remedy }
            }
            ObjectPlace::Chunk { timeline, .. } => {
                let remedy = self
                    .remedy(object, chunk)
                    .unwrap_or_else(|| format!("Later points are reached from a newer backup. {BRING_BACK}."));
                Consequence { depends: self.lost_points(*timeline, chunk), remedy }
            }
            ObjectPlace::Timeline { timeline } => {
                for_another_host(&format!("the history of {}", self.timeline_name(*timeline)))
            }
            ObjectPlace::Settings => for_another_host("the instance's settings"),
            ObjectPlace::Recovery { recovery } => for_another_host(&format!("what recovery {recovery} did")),
        }
    }

    /// Whether a backup shall be cast because this object is bad: no good one of the current history lies behind the
    /// damage, and none that was cast for it is still to come or has failed.
    pub(crate) fn wants_replacement(&self, place: &ObjectPlace, chunk: Option<&ChunkFacts>) -> bool {
        let is_cast = |bad: &BadObject| {
            let replacement = bad.replacement.and_then(|id| self.backup(id));
            replacement.is_some_and(|backup| backup.status != BackupStatus::Completed)
        };
        self.wants_backup(place, chunk) && !self.bad.iter().any(is_cast)
    }

    /// Whether the way to the newest points of the current history is longer or lost while no newer backup is taken.
    fn wants_backup(&self, place: &ObjectPlace, chunk: Option<&ChunkFacts>) -> bool {
        let Some(current) = current(self.timelines) else { return false };
        let Ok(lineage) = Lineage::of(self.timelines, current.id) else { return false };
        let Some(damaged_to) = self.damaged_to(place, chunk, &lineage) else { return false };
        let damage = Damage::of(self.bad);
        let bases: Vec<(&Backup, Place)> = self
            .backups
            .iter()
            .filter(|backup| backup.status == BackupStatus::Completed)
            .filter_map(|backup| Some((backup, lineage.place(&backup.end.as_ref()?.at)?)))
            .collect();
        // Without a backup before it a chunk leads nowhere.
        let is_needed = place.backup().is_some() || bases.iter().any(|(_, base)| *base < damaged_to);
        let is_good = |backup: &Backup| damage.of_backup(backup.id).is_none() && Some(backup.id) != place.backup();
        is_needed && !bases.iter().any(|(backup, base)| *base >= damaged_to && is_good(backup))
    }

    /// The place of the current history from which on a base makes up for the damage; none when it is not on it.
    fn damaged_to(&self, place: &ObjectPlace, chunk: Option<&ChunkFacts>, lineage: &Lineage<'_>) -> Option<Place> {
        match place {
            ObjectPlace::Manifest { backup } | ObjectPlace::Part { backup } => {
                lineage.place(&self.backup(*backup)?.end.as_ref()?.at)
            }
            ObjectPlace::Chunk { timeline, ordinal, end } => {
                let segment = lineage.index_of(*timeline)?;
                let (ordinal, position) = match lineage.segment(segment)?.cut {
                    Some(cut) if chunk.is_some_and(|chunk| chunk.begins_at().order() >= cut) => return None,
                    Some(cut) => cut.min((*ordinal, *end)),
                    None => (*ordinal, *end),
                };
                Some(Place { segment, ordinal, position })
            }
            ObjectPlace::Timeline { .. } | ObjectPlace::Settings | ObjectPlace::Recovery { .. } => None,
        }
    }

    /// What to do while nothing makes up for the damage.
    fn remedy(&self, object: &BadObject, chunk: Option<&ChunkFacts>) -> Option<String> {
        if !self.wants_backup(&object.place, chunk) {
            return None;
        }
        let create = format!("`coffer backup create {}`", self.instance_name);
        let replacement = self.bad.iter().filter_map(|bad| self.backup(bad.replacement?)).max_by_key(|b| b.created_at);
        Some(match replacement.map(|backup| (backup.id, backup.status)) {
            Some((id, status)) if status.is_running() => {
                format!("Coffer takes backup {id} in its place; from its end on every point can be reached.")
            }
            Some((_, BackupStatus::Failed)) => {
                format!("The backup that coffer took in its place has failed; take another now: {create}.")
            }
            Some(_) | None => format!("Take a new backup now: {create}."),
        })
    }

    /// The points that a recovery cannot reach without the chunk.
    fn lost_points(&self, timeline: TimelineId, chunk: Option<&ChunkFacts>) -> String {
        let Some(chunk) = chunk else { return "every recovery that replays it".to_owned() };
        let name = self.timeline_name(timeline);
        if !self.backups.iter().any(|backup| self.leads_to(backup, chunk)) {
            return format!("no recovery: no backup lies before it on {name}");
        }
        let after = utc(chunk.clock_before);
        let behind = self.first_base_behind(timeline, chunk.ends_at().order());
        let points = match behind.and_then(|backup| backup.end.as_ref()) {
            Some(end) => format!("between {after} and {}", utc(end.clock)),
            None => format!("after {after}"),
        };
        let mut others = Vec::new();
        self.add_branches(timeline, chunk.begins_at().order(), chunk.ends_at().order(), &mut others);
        others.sort_unstable();
        let others: Vec<String> = others.iter().map(u32::to_string).collect();
        let branches = match others.as_slice() {
            [] => String::new(),
            [one] => format!(", and on timeline {one}, which branches off behind it, up to its first good backup"),
            several => {
                let several = several.join(", ");
                format!(", and on timelines {several}, which branch off behind it, up to their first good backups")
            }
        };
        format!("recovery to any point {points} on {name}{branches}")
    }

    /// Whether a recovery from the backup may replay the chunk.
    fn leads_to(&self, backup: &Backup, chunk: &ChunkFacts) -> bool {
        let Some(end) = backup.end.as_ref().filter(|_| backup.status == BackupStatus::Completed) else { return false };
        let Ok(lineage) = Lineage::of(self.timelines, chunk.timeline) else { return false };
        let chunk_end = lineage.place(&chunk.ends_at());
        lineage.place(&end.at).is_some_and(|base| chunk_end.is_some_and(|chunk_end| base < chunk_end))
    }

    /// The first good backup of the timeline that ends at this place or behind it.
    fn first_base_behind(&self, timeline: TimelineId, place: (u32, u64)) -> Option<&Backup> {
        let damage = Damage::of(self.bad);
        let end_of = |backup: &Backup| {
            let end = backup.end.as_ref().filter(|end| end.at.timeline == timeline)?;
            Some(end.at.order()).filter(|order| *order >= place)
        };
        let good = |backup: &&Backup| {
            backup.status == BackupStatus::Completed
                && damage.of_backup(backup.id).is_none()
                && end_of(backup).is_some()
        };
        self.backups.iter().filter(good).min_by_key(|backup| end_of(backup))
    }

    /// Adds the numbers of timelines whose past holds what lies between `begin` and `end` of this one, without a good
    /// backup between.
    fn add_branches(&self, timeline: TimelineId, begin: (u32, u64), end: (u32, u64), found: &mut Vec<u32>) {
        let base = self.first_base_behind(timeline, end).and_then(|backup| Some(backup.end.as_ref()?.at.order()));
        for child in self.timelines {
            let leaves = child.branch.as_ref().filter(|branch| branch.at.timeline == timeline);
            let Some(leaves) = leaves.map(|branch| branch.at.order()) else { continue };
            if leaves > begin && base.is_none_or(|base| base > leaves) && !found.contains(&child.number) {
                found.push(child.number);
                self.add_branches(child.id, (0, 0), (0, 0), found);
            }
        }
    }

    fn backup(&self, id: BackupId) -> Option<&Backup> {
        self.backups.iter().find(|backup| backup.id == id)
    }

    fn timeline_name(&self, id: TimelineId) -> String {
        match self.timelines.iter().find(|timeline| timeline.id == id) {
            Some(timeline) => format!("timeline {}", timeline.number),
            None => format!("timeline {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::plan::testing::Catalog;

    /// For each bad object: what depends on it, and whether it wants a backup.
    fn told(text: &str) -> Vec<(String, bool)> {
        let catalog = Catalog::parse(text);
        let ground = Ground {
            instance_name: "shop",
            timelines: &catalog.timelines,
            backups: &catalog.backups,
            bad: &catalog.bad,
        };
        let of = |bad: &BadObject| {
            let chunk = catalog.chunks.iter().find(|chunk| chunk.key == bad.key).map(|chunk| &chunk.facts);
            let depends = ground.consequence(bad, chunk).depends.replace("2026-07-01T12:00:", "");
            (depends, ground.wants_replacement(&bad.place, chunk))
        };
        catalog.bad.iter().map(of).collect()
    }

    const PLAIN: &str = "
        timeline 1
        file b.000001: 1@10 2@11 | 3@12 4@13 | 5@14
        backup full-1 after 2
        backup full-2 after 5
        file b.000002: 6@15 | 7@20";

    #[track_caller]
    fn check(more: &str, expected: &[(&str, bool)]) {
        let expected: Vec<(String, bool)> =
            expected.iter().map(|(depends, wants)| ((*depends).to_owned(), *wants)).collect();
        assert_eq!(told(&format!("{PLAIN}\n{more}")), expected);
    }

    const FULL_1: &str = "backup `full-1` (30000000-0000-4000-8000-000000000000) and every recovery from it";
    const FULL_2: &str = "backup `full-2` (30000000-0000-4000-8000-000000000001) and every recovery from it";

    #[test]
    fn only_what_no_newer_good_backup_makes_up_for_wants_a_backup() {
        check("bad backup full-1", &[(FULL_1, false)]);
        check("bad backup full-2", &[(FULL_2, true)]);
        check("bad backup full-1 \n bad backup full-2", &[(FULL_1, true), (FULL_2, true)]);
        check("bad chunk with 3", &[("recovery to any point between 11Z and 14Z on timeline 1", false)]);
        check("bad chunk with 6", &[("recovery to any point after 14Z on timeline 1", true)]);
        check(
            "bad chunk with 3 \n bad backup full-2",
            &[("recovery to any point after 11Z on timeline 1", true), (FULL_2, true)],
        );
        check("bad chunk with 1", &[("no recovery: no backup lies before it on timeline 1", false)]);
    }

    #[test]
    fn timelines_that_branch_off_behind_a_bad_chunk_are_named() {
        let branched = "timeline 2 from 1 after 6 \n file b.000001: 8@30 \n";
        check(
            &format!("{branched} bad chunk with 6"),
            &[(
                "recovery to any point after 14Z on timeline 1, and on timeline 2, which branches off behind it, up to \
                 its first good backup",
                true,
            )],
        );
        // What was given up when the current history left it needs no new backup of that history.
        check(&format!("{branched} bad chunk with 7"), &[("recovery to any point after 15Z on timeline 1", false)]);
        check(&format!("{branched} backup full-3 after 8 \n bad backup full-2"), &[(FULL_2, false)]);
    }
}
