//! Lineages: a timeline and the part of each ancestor that is its past, as one ordered history.

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::Gtid;
use crate::domain::id::TimelineId;
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::refusal::PlanError;

/// A place along a lineage; places of one lineage are ordered.
///
/// Ordinal and position 0 are the beginning of a segment: for all but the first the very point where it leaves its
/// parent, but on the new timeline's side, so that whatever the branch left out is left out there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::recovery) struct Place {
    pub(in crate::recovery) segment: usize,
    pub(in crate::recovery) ordinal: u32,
    pub(in crate::recovery) position: u64,
}

impl Place {
    pub(in crate::recovery) fn begin_of(segment: usize) -> Place {
        Place { segment, ordinal: 0, position: 0 }
    }

    pub(in crate::recovery) fn order(self) -> (u32, u64) {
        (self.ordinal, self.position)
    }
}

/// One timeline of a lineage.
#[derive(Debug, Clone, Copy)]
pub(in crate::recovery) struct Segment<'a> {
    pub(in crate::recovery) timeline: &'a Timeline,
    /// Where the next segment leaves this one, as ordinal and position; absent in the last.
    pub(in crate::recovery) cut: Option<(u32, u64)>,
}

/// The segments, oldest first; never empty.
#[derive(Debug, Clone)]
pub(in crate::recovery) struct Lineage<'a> {
    segments: Vec<Segment<'a>>,
}

impl<'a> Lineage<'a> {
    /// The lineage of `tip`. Fails when `tip` or an ancestor is not among `timelines`.
    pub(in crate::recovery) fn of(timelines: &'a [Timeline], tip: TimelineId) -> Result<Lineage<'a>, PlanError> {
        let mut segments = Vec::new();
        let mut next = Some((tip, None));
        while let Some((id, cut)) = next {
            if segments.len() >= timelines.len() && timelines.iter().any(|timeline| timeline.id == id) {
                let message = format!("timeline {tip} is its own ancestor");
                return Err(Error::new(ErrorKind::Corrupt, message)
                    .hint("Rebuild the catalog from the repository.")
                    .into());
            }
            let timeline = timelines
                .iter()
                .find(|timeline| timeline.id == id)
                .ok_or(PlanError::UnknownTimeline { timeline: id })?;
            segments.push(Segment { timeline, cut });
            next = timeline.branch.as_ref().map(|branch| (branch.at.timeline, Some(branch.at.order())));
        }
        segments.reverse();
        Ok(Lineage { segments })
    }

    pub(in crate::recovery) fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    pub(in crate::recovery) fn segment(&self, index: usize) -> Option<&Segment<'a>> {
        self.segments.get(index)
    }

    pub(in crate::recovery) fn tip(&self) -> Option<&'a Timeline> {
        self.segments.last().map(|segment| segment.timeline)
    }

    pub(in crate::recovery) fn index_of(&self, timeline: TimelineId) -> Option<usize> {
        self.segments.iter().position(|segment| segment.timeline.id == timeline)
    }

    /// The place of a coordinate, absent when it lies on another timeline or behind the point where the lineage left.
    pub(in crate::recovery) fn place(&self, at: &Coordinate) -> Option<Place> {
        let segment = self.index_of(at.timeline)?;
        let within = self.segment(segment)?.cut.is_none_or(|cut| at.order() <= cut);
        within.then_some(Place { segment, ordinal: at.ordinal, position: at.position })
    }

    /// The lineage of the timeline at `segment`: that one whole, its ancestors as they are here.
    pub(in crate::recovery) fn up_to(&self, segment: usize) -> Lineage<'a> {
        let mut segments: Vec<Segment<'a>> = self.segments.iter().take(segment + 1).copied().collect();
        if let Some(last) = segments.last_mut() {
            last.cut = None;
        }
        Lineage { segments }
    }

    /// What the branches left out, each with the index of the segment that begins with that branch.
    pub(in crate::recovery) fn left_out(&self) -> impl Iterator<Item = (usize, Gtid)> + '_ {
        self.segments.iter().enumerate().flat_map(|(index, segment)| {
            let skipped = segment.timeline.branch.iter().flat_map(|branch| branch.skipped.iter());
            skipped.map(move |gtid| (index, *gtid))
        })
    }
}

/// The timeline the server is on: the one with the highest number.
pub(in crate::recovery) fn current(timelines: &[Timeline]) -> Option<&Timeline> {
    timelines.iter().max_by_key(|timeline| timeline.number)
}
