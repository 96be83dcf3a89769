//! Timelines, and stand-ins for those whose own object is lost.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::rebuild::{One, is_damage};
use crate::domain::backup::Backup;
use crate::domain::gtid::BinlogState;
use crate::domain::id::TimelineId;
use crate::domain::timeline::{Origin, Timeline};
use crate::error::{Error, ErrorKind};

/// The timelines of an instance.
pub(super) struct Timelines {
    /// Those that can be read by number, then the others: the order in which they were shipped.
    pub(super) order: Vec<TimelineId>,
    /// Those of which there are binlog or backups, but no object that says what they are.
    lost: BTreeSet<TimelineId>,
}

impl One<'_> {
    /// Brings the timelines into the catalog that can be read.
    pub(super) fn timelines(&mut self, backups: &[Backup]) -> Result<Timelines, Error> {
        let repository = self.host.repository;
        let stored = repository.timeline_ids(self.id)?;
        let mut lost: BTreeSet<TimelineId> = repository.binlog_timelines(self.id)?.into_iter().collect();
        lost.extend(backups.iter().filter_map(|backup| Some(backup.end.as_ref()?.at.timeline)));
        let mut found: BTreeMap<u32, Timeline> = BTreeMap::new();
        for id in &stored {
            let timeline = match repository.timeline(self.id, *id) {
                Ok(timeline) if !found.contains_key(&timeline.number) => timeline,
                Ok(timeline) => {
                    let what = format!(
                        "timeline {id} of instance {} has the number {} of another",
                        self.name, timeline.number
                    );
                    self.lose(what, *id);
                    continue;
                }
                Err(err) if is_damage(&err) => {
                    self.lose(err.message(), *id);
                    continue;
                }
                Err(err) => return Err(err),
            };
            lost.remove(id);
            found.insert(timeline.number, timeline);
        }
        for id in lost.iter().filter(|id| !stored.contains(id)) {
            self.lose(format!("timeline {id} of instance {} is not in the repository", self.name), *id);
        }
        self.host.store.write(|tx| {
            for timeline in found.values() {
                match tx.insert_timeline(timeline) {
                    // A stand-in from a time when this one was not there.
                    Err(err) if err.kind() == ErrorKind::Conflict => {}
                    inserted => inserted?,
                }
            }
            Ok(())
        })?;
        self.rebuilt.timelines += found.len() as u64;
        let order = found.values().map(|timeline| timeline.id).chain(lost.iter().copied()).collect();
        Ok(Timelines { order, lost })
    }

    fn lose(&mut self, what: String, id: TimelineId) {
        let affected = format!(
            "how timeline {id} continues another is not known: points on it are reached only from backups taken on it"
        );
        self.rebuilt.problems.add(what, affected);
    }

    /// Makes timelines of their own of those whose object is lost, so that their backups and binlog can be used at least
    /// without what lies before them.
    pub(super) fn stand_in(&mut self, timelines: &Timelines, backups: &[Backup]) -> Result<(), Error> {
        let known = self.host.store.read(|db| db.timelines(self.id))?;
        let mut made: Vec<Timeline> = Vec::new();
        for id in timelines.lost.iter().filter(|id| !known.iter().any(|timeline| timeline.id == **id)) {
            let first = self.host.store.read(|db| db.chunks_from(*id, 0, 0, 1))?.pop();
            let backup = backups.iter().find(|backup| backup.end.as_ref().is_some_and(|end| end.at.timeline == *id));
            let (state, begun_at) = match (first, backup) {
                // The first chunk holds nothing but the file's head, which lists what was written before.
                (Some(first), _) => (first.facts.state_after, first.facts.observed_at),
                (None, Some(backup)) => (state_of(backup), backup.created_at),
                (None, None) => continue,
            };
            made.push(Timeline {
                id: *id,
                instance: self.id,
                number: 0,
                origin: Origin::Reset,
                branch: None,
                state_at_begin: state,
                begun_at,
            });
        }
        made.sort_by_key(|timeline| timeline.begun_at);
        // Most likely theirs: the numbers that are missing, in the order of time.
        let taken: BTreeSet<u32> = known.iter().map(|timeline| timeline.number).collect();
        let mut free = (1..=u32::MAX).filter(|number| !taken.contains(number));
        self.host.store.write(|tx| {
            for timeline in &mut made {
                timeline.number = free.next().unwrap_or(u32::MAX);
                tx.insert_timeline(timeline)?;
            }
            Ok(())
        })?;
        self.rebuilt.timelines += made.len() as u64;
        Ok(())
    }
}

fn state_of(backup: &Backup) -> BinlogState {
    backup.end.as_ref().map(|end| end.position.clone().into()).unwrap_or_default()
}
