//! Where a recovery stops: a target resolved to an exact place between two transactions.

use jiff::Timestamp;

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::Gtid;
use crate::domain::id::{BackupId, TimelineId};
use crate::domain::recovery::PlannedTransaction;
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::timeline::Timeline;
use crate::recovery::plan::base::{self, Base};
use crate::recovery::plan::chain::{Break, Piece, Reached, Step, Walk};
use crate::recovery::plan::lineage::{Lineage, Place, current};
use crate::recovery::plan::position::resolve_position;
use crate::recovery::plan::reader::{Located, Reader};
use crate::recovery::plan::refusal::{BaseFault, PlanError, Reachable, TimelineName};
use crate::recovery::plan::warning::Warning;
use crate::recovery::plan::{Facts, planned_transaction};

/// A place between two transactions. At the beginning of a segment `at` is the branch point, in the parent.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) place: Place,
    pub(super) at: Coordinate,
}

/// A target resolved.
#[derive(Debug)]
pub(super) struct Resolved<'a> {
    /// The history the target was found in; it may go on behind the stop.
    pub(super) lineage: Lineage<'a>,
    pub(super) stop: Stop,
    /// The base that the target itself names.
    pub(super) base: Option<BackupId>,
    pub(super) warnings: Vec<Warning>,
}

/// Resolves the target. Fails with the refusal that says what stands in the way.
pub(super) fn resolve<'a>(
    facts: &Facts<'a>,
    reader: &Reader<'_>,
    target: &RecoveryTarget,
) -> Result<Resolved<'a>, PlanError> {
    let named = match target.timeline {
        Some(id) => Some(timeline(facts, id)?),
        None => None,
    };
    let Some(tip) = named.or_else(|| current(facts.timelines)) else {
        return Err(base::none_before(target.point.to_string(), &[]));
    };
    let lineage = Lineage::of(facts.timelines, tip.id)?;
    match &target.point {
        Point::Backup(id) => resolve_backup(facts, lineage, named, *id, target),
        Point::PointInTime(time) => resolve_time(facts, reader, lineage, *time, target),
        Point::Gtid(gtid) => {
            let (lineage, located) = find_gtid(facts, reader, lineage, named, *gtid)?;
            at(lineage, located.ends_at, Vec::new())
        }
        Point::BeforeGtid(gtid) => {
            let (lineage, located) = find_gtid(facts, reader, lineage, named, *gtid)?;
            at(lineage, located.begins_at, Vec::new())
        }
        Point::Position(position) => {
            let (stop, warnings) =
                resolve_position(facts, reader, &lineage, named, position, |offset, transaction| {
                    transaction.begin >= offset
                })?;
            at(lineage, stop, warnings)
        }
        Point::BeforePosition(position) => {
            let (stop, warnings) =
                resolve_position(facts, reader, &lineage, named, position, |offset, transaction| {
                    transaction.end > offset
                })?;
            at(lineage, stop, warnings)
        }
        Point::Latest => resolve_latest(facts, lineage, target),
    }
}

fn timeline<'a>(facts: &Facts<'a>, id: TimelineId) -> Result<&'a Timeline, PlanError> {
    facts.timelines.iter().find(|timeline| timeline.id == id).ok_or(PlanError::UnknownTimeline { timeline: id })
}

fn at(lineage: Lineage<'_>, at: Coordinate, warnings: Vec<Warning>) -> Result<Resolved<'_>, PlanError> {
    let Some(place) = lineage.place(&at) else {
        return Err(PlanError::UnknownTimeline { timeline: at.timeline });
    };
    Ok(Resolved { lineage, stop: Stop { place, at }, base: None, warnings })
}

/// Where a walk has come to, as a stop.
fn here(reached: &Reached) -> Option<Stop> {
    Some(Stop { place: reached.place, at: reached.at.clone()? })
}

fn resolve_backup<'a>(
    facts: &Facts<'a>,
    lineage: Lineage<'a>,
    named: Option<&Timeline>,
    id: BackupId,
    target: &RecoveryTarget,
) -> Result<Resolved<'a>, PlanError> {
    let (_, end) = base::named(facts, id)?;
    let lineage = match lineage.place(&end.at) {
        Some(_) => lineage,
        None if named.is_some() => {
            return Err(PlanError::BaseNotUsable { backup: id, why: BaseFault::OffTimeline });
        }
        None => Lineage::of(facts.timelines, end.at.timeline)?,
    };
    let mut resolved = at(lineage, end.at.clone(), Vec::new())?;
    // With something to leave out the backup only names the point: it may hold what shall not come back.
    resolved.base = target.skip.is_empty().then_some(id);
    Ok(resolved)
}

fn find_gtid<'a>(
    facts: &Facts<'a>,
    reader: &Reader<'_>,
    lineage: Lineage<'a>,
    named: Option<&Timeline>,
    gtid: Gtid,
) -> Result<(Lineage<'a>, Located), PlanError> {
    let mut found = reader.in_lineage(gtid, &lineage)?;
    if let Some(named) = named
        && found.iter().any(|located| located.begins_at.timeline == named.id)
    {
        // A server whose binlog began anew gives its numbers again: the timeline that was named is meant, not its past.
        found.retain(|located| located.begins_at.timeline == named.id);
    }
    if !found.is_empty() {
        return Ok((lineage, only(facts, gtid, found)?));
    }
    if let Some(named) = named {
        return Err(PlanError::UnknownGtid { gtid, timeline: Some(TimelineName::of(named)) });
    }
    // A point that was given up: its timeline is the history then.
    let found = reader.everywhere(gtid)?;
    if found.is_empty() {
        return Err(PlanError::UnknownGtid { gtid, timeline: None });
    }
    let located = only(facts, gtid, found)?;
    Ok((Lineage::of(facts.timelines, located.begins_at.timeline)?, located))
}

fn only(facts: &Facts<'_>, gtid: Gtid, mut found: Vec<Located>) -> Result<Located, PlanError> {
    if let (1, Some(located)) = (found.len(), found.last()) {
        return Ok(located.clone());
    }
    found.sort_by_key(|located| located.begins_at.order());
    let name = |located: &Located| {
        let timeline = facts.timelines.iter().find(|timeline| timeline.id == located.begins_at.timeline)?;
        Some((TimelineName::of(timeline), located.begins_at.binlog_position()))
    };
    Err(PlanError::AmbiguousGtid { gtid, places: found.iter().filter_map(name).collect() })
}

/// Cuts before the first transaction committed after `time`. Commit times never decrease along a lineage.
fn resolve_time<'a>(
    facts: &Facts<'a>,
    reader: &Reader<'_>,
    lineage: Lineage<'a>,
    time: Timestamp,
    target: &RecoveryTarget,
) -> Result<Resolved<'a>, PlanError> {
    if time > facts.now {
        return Err(PlanError::TargetInFuture { target: time, now: facts.now });
    }
    // A server that stamps whole seconds: a transaction stamped with this very second counts as at or before it.
    let instant = facts.resolution.floor(time);
    let bases = base::in_lineage(facts, &lineage);
    let Some(begin) = bases.iter().find(|base| base.end.clock <= instant) else {
        let fits = |base: &Base<'_>| base.end.clock <= instant;
        return Err(base::no_good_one(facts, &lineage, target.point.to_string(), fits));
    };
    let mut warnings = Vec::new();
    let stop = walk_to(facts, reader, &lineage, begin, instant, target, &mut warnings)?;
    warnings.extend(parent_went_on(facts, reader, &stop, instant)?);
    Ok(Resolved { lineage, stop, base: None, warnings })
}

fn walk_to(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    begin: &Base<'_>,
    instant: i64,
    target: &RecoveryTarget,
    warnings: &mut Vec<Warning>,
) -> Result<Stop, PlanError> {
    let mut walk = Walk::new(facts.source, lineage, begin.reached());
    let mut segment = begin.place.segment;
    // Whether a transaction of the segment that the walk is in comes back.
    let mut begun = true;
    // A hole right behind transactions of this very instant, if it turns out that nothing of the instant lies behind it.
    let mut hole: Option<Break> = None;
    let reached = loop {
        let piece = match walk.step()? {
            None => break hole.as_ref().map_or_else(|| walk.reached().clone(), |hole| hole.reached.clone()),
            Some(Step::Break(found)) if instant > found.reached.clock => return Err(hole.unwrap_or(found).into()),
            Some(Step::Break(found)) => {
                hole.get_or_insert(found);
                continue;
            }
            Some(Step::Piece(piece)) => piece,
        };
        begun &= piece.segment == segment;
        segment = piece.segment;
        if reader.is_damaged(&piece.chunk) && piece.chunk.facts.first_commit.is_some_and(|first| first > instant) {
            // It cannot be read, and nothing of it comes back.
            let Some(hole) = hole else { return Ok(excluded_at(lineage, &piece, piece.from, begun)) };
            warnings.push(Warning::GapFollows { instant });
            return here(&hole.reached).ok_or_else(|| hole.into());
        }
        // Facts first: a chunk is read only where the cut is, and behind a hole.
        let excluded = match piece.chunk.facts.clock_after() > instant {
            true => reader.first(&piece, |transaction| transaction.committed_at > instant)?,
            false => None,
        };
        if excluded.is_some() || hole.is_some() {
            let included = reader.first(&piece, |transaction| transaction.committed_at <= instant)?.is_some();
            match (hole, excluded) {
                (Some(hole), _) if included => return Err(hole.into()),
                (Some(hole), Some(_)) => {
                    warnings.push(Warning::GapFollows { instant });
                    return here(&hole.reached).ok_or_else(|| hole.into());
                }
                (None, Some(excluded)) => {
                    return Ok(excluded_at(lineage, &piece, excluded.begin, begun || included));
                }
                (still, None) => hole = still,
            }
        }
        begun |= piece.chunk.facts.transactions > 0;
    };
    if hole.is_some() {
        warnings.push(Warning::GapFollows { instant });
    }
    let stop = here(&reached).unwrap_or_else(|| Stop { place: begin.place, at: begin.end.at.clone() });
    let is_current = lineage.tip().map(|tip| tip.id) == current(facts.timelines).map(|timeline| timeline.id);
    // Only a look at a later instant (in whole seconds: in a later second) proves that nothing more was committed in this one.
    let looked_after = facts.shipped_as_of.is_some_and(|looked| facts.resolution.floor(looked) > instant);
    if is_current && !looked_after && warnings.is_empty() {
        if instant > reached.clock {
            let reachable = Reachable { at: reached.at.clone(), clock: reached.clock };
            return Err(PlanError::NotShippedYet { target: target.point.to_string(), reachable });
        }
        warnings.push(Warning::InstantStillOpen { instant });
    }
    Ok(stop)
}

/// The stop before a transaction; before the first one of a new timeline that is the branch point.
fn excluded_at(lineage: &Lineage<'_>, piece: &Piece, begin: u64, begun: bool) -> Stop {
    let branch = lineage.segment(piece.segment).and_then(|segment| segment.timeline.branch.as_ref());
    match branch {
        Some(branch) if !begun && piece.segment > 0 => {
            Stop { place: Place::begin_of(piece.segment), at: branch.at.clone() }
        }
        Some(_) | None => Stop { place: Place { position: begin, ..piece.ends_at() }, at: piece.coordinate(begin) },
    }
}

/// A warning when the time lies in a stretch that the lineage left: the parent went on there, and was given up.
fn parent_went_on(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    stop: &Stop,
    instant: i64,
) -> Result<Option<Warning>, PlanError> {
    if stop.place.segment == 0 || stop.place != Place::begin_of(stop.place.segment) {
        return Ok(None);
    }
    let parent = Lineage::of(facts.timelines, stop.at.timeline)?;
    let Some(place) = parent.place(&stop.at) else { return Ok(None) };
    let next = following(facts, reader, &parent, &Stop { place, at: stop.at.clone() })?.first;
    let went_on = next.is_some_and(|next| next.committed_at <= instant);
    let timeline = parent.tip().filter(|_| went_on).map(TimelineName::of);
    Ok(timeline.map(|timeline| Warning::ParentWentOn { timeline }))
}

fn resolve_latest<'a>(
    facts: &Facts<'a>,
    lineage: Lineage<'a>,
    target: &RecoveryTarget,
) -> Result<Resolved<'a>, PlanError> {
    let bases = base::in_lineage(facts, &lineage);
    let Some(begin) = bases.first() else {
        return Err(base::no_good_one(facts, &lineage, target.point.to_string(), |_| true));
    };
    let mut walk = Walk::new(facts.source, &lineage, begin.reached());
    while let Some(step) = walk.step()? {
        if let Step::Break(hole) = step {
            return Err(hole.into());
        }
    }
    let stop = here(walk.reached()).unwrap_or_else(|| Stop { place: begin.place, at: begin.end.at.clone() });
    Ok(Resolved { lineage, stop, base: None, warnings: Vec::new() })
}

/// What comes after a stop.
#[derive(Debug)]
pub(super) struct Following {
    /// The first transaction after the stop; absent at the end of the shipped lineage, before a gap and before binlog
    /// that is damaged.
    pub(super) first: Option<PlannedTransaction>,
    /// The last place of the stop's segment that holds the same data as the stop.
    pub(super) limit: Place,
}

pub(super) fn following(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    stop: &Stop,
) -> Result<Following, PlanError> {
    let begin = Reached { place: stop.place, at: Some(stop.at.clone()), clock: 0 };
    let mut walk = Walk::new(facts.source, lineage, begin);
    let mut limit = stop.place;
    while let Some(Step::Piece(piece)) = walk.step()? {
        let here = piece.segment == stop.place.segment;
        if piece.chunk.facts.transactions > 0 && reader.is_damaged(&piece.chunk) {
            break; // A plan does not fail for what it gives up.
        }
        if let Some(first) = reader.first(&piece, |_| true)? {
            if here {
                limit = Place { position: first.begin, ..piece.ends_at() };
            }
            return Ok(Following { first: Some(planned_transaction(&piece, &first)), limit });
        }
        if here {
            limit = piece.ends_at();
        }
    }
    Ok(Following { first: None, limit })
}
