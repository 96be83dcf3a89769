//! Binlog positions as targets: which file is meant, and where the offset cuts.

use crate::domain::chunk::Chunk;
use crate::domain::coordinate::{BinlogPosition, Coordinate};
use crate::domain::timeline::Timeline;
use crate::domain::transaction::Transaction;
use crate::recovery::plan::Facts;
use crate::recovery::plan::chain::{Piece, coordinate};
use crate::recovery::plan::lineage::Lineage;
use crate::recovery::plan::reader::Reader;
use crate::recovery::plan::refusal::{BinlogGap, PlanError, Reachable, TimelineName};
use crate::recovery::plan::warning::Warning;

/// Behind the last byte of any file. SQLite's integers end here.
const FILE_END: u64 = i64::MAX.unsigned_abs();

/// A binlog file of a timeline.
struct File {
    /// In the lineage.
    segment: usize,
    ordinal: u32,
}

/// The stop that `position` means: before the first transaction of the file that is `excluded(offset, transaction)`.
///
/// File names repeat (`RESET MASTER`, a new data directory). Without a timeline a name that is not unique in the
/// lineage is refused; with one the newest file of that name is meant.
pub(super) fn resolve_position(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    named: Option<&Timeline>,
    position: &BinlogPosition,
    excluded: impl Fn(u64, &Transaction) -> bool,
) -> Result<(Coordinate, Vec<Warning>), PlanError> {
    let mut files = Vec::new();
    for (segment, part) in lineage.segments().iter().enumerate() {
        let ordinals = ordinals_of(facts, part.timeline, &position.file, part.cut)?;
        files.extend(ordinals.into_iter().map(|ordinal| File { segment, ordinal }));
    }
    if files.len() > 1 && named.is_none() {
        let mut timelines: Vec<TimelineName> = Vec::new();
        for name in files.iter().filter_map(|file| lineage.segment(file.segment)).map(|s| TimelineName::of(s.timeline))
        {
            if !timelines.contains(&name) {
                timelines.push(name);
            }
        }
        return Err(PlanError::AmbiguousPosition { position: position.clone(), timelines });
    }
    let mut warnings = Vec::new();
    if files.len() > 1 {
        warnings.push(Warning::NewestFileOfName { file: position.file.clone() });
    }
    let Some(file) = files.last() else {
        return Err(unknown(facts, lineage, position, None));
    };
    let stop = stop_in(facts, reader, lineage, file, position, excluded)?;
    Ok((stop, warnings))
}

/// Ordinals of the timeline's files of that name, up to the cut, in order.
fn ordinals_of(
    facts: &Facts<'_>,
    timeline: &Timeline,
    name: &str,
    cut: Option<(u32, u64)>,
) -> Result<Vec<u32>, PlanError> {
    let mut ordinals: Vec<u32> = Vec::new();
    let mut last = 0;
    loop {
        // One look per page: what is left of the last file of a page holds no other name.
        let page = facts.source.chunks(timeline.id, last, if last == 0 { 0 } else { FILE_END })?;
        let before = last;
        for chunk in &page {
            let chunk = &chunk.facts;
            if cut.is_some_and(|cut| (chunk.ordinal, chunk.begin) >= cut) {
                return Ok(ordinals);
            }
            if chunk.file == name && ordinals.last() != Some(&chunk.ordinal) {
                ordinals.push(chunk.ordinal);
            }
            last = chunk.ordinal;
        }
        if last <= before {
            return Ok(ordinals);
        }
    }
}

fn stop_in(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    file: &File,
    position: &BinlogPosition,
    excluded: impl Fn(u64, &Transaction) -> bool,
) -> Result<Coordinate, PlanError> {
    let Some(segment) = lineage.segment(file.segment) else {
        return Err(unknown(facts, lineage, position, None));
    };
    let cut = segment.cut.filter(|cut| cut.0 == file.ordinal).map(|cut| cut.1);
    if cut.is_some_and(|cut| position.position > cut) {
        return Err(unknown(facts, lineage, position, cut));
    }
    let offset = position.position;
    let mut seen = offset.saturating_sub(1);
    let mut stop = None;
    loop {
        let page = facts.source.chunks(segment.timeline.id, file.ordinal, seen)?;
        if page.is_empty() {
            break;
        }
        for chunk in page {
            if chunk.facts.ordinal != file.ordinal || cut.is_some_and(|cut| chunk.facts.begin >= cut) {
                return stop.ok_or_else(|| beyond(facts, lineage, file, position, Some(&chunk)));
            }
            match stop {
                // The byte before the offset is in no chunk.
                None if chunk.facts.begin > offset.saturating_sub(1) => return Err(hole_at(&chunk)),
                // A hole: the first excluded transaction is in it.
                Some(stop) if chunk.facts.begin != seen => return Ok(stop),
                // Nothing in it comes back, whatever it holds.
                Some(stop) if reader.is_damaged(&chunk) => return Ok(stop),
                Some(_) | None => {}
            }
            seen = chunk.facts.end;
            let to = cut.map_or(chunk.facts.end, |cut| cut.min(chunk.facts.end));
            let piece = Piece { segment: file.segment, from: chunk.facts.begin, to, chunk };
            if let Some(first) = reader.first(&piece, |transaction| excluded(offset, transaction))? {
                return Ok(piece.coordinate(first.begin));
            }
            stop = Some(piece.coordinate(to));
        }
    }
    stop.ok_or_else(|| beyond(facts, lineage, file, position, None))
}

/// The refusal of an offset behind the last shipped byte of its file; `next` is the chunk that follows the file.
fn beyond(
    facts: &Facts<'_>,
    lineage: &Lineage<'_>,
    file: &File,
    position: &BinlogPosition,
    next: Option<&Chunk>,
) -> PlanError {
    let last = match last_chunk(facts, lineage, file) {
        Ok(last) => last,
        Err(err) => return err,
    };
    match next {
        Some(next) if next.facts.gap_before.is_some() => hole_at(next),
        Some(_) => unknown(facts, lineage, position, last.map(|chunk| chunk.facts.end)),
        None => {
            let reachable = Reachable {
                at: last.as_ref().map(|chunk| coordinate(&chunk.facts, chunk.facts.end)),
                clock: last.map_or(0, |chunk| chunk.facts.clock_after()),
            };
            PlanError::NotShippedYet { target: format!("binlog position {position}"), reachable }
        }
    }
}

fn last_chunk(facts: &Facts<'_>, lineage: &Lineage<'_>, file: &File) -> Result<Option<Chunk>, PlanError> {
    let Some(segment) = lineage.segment(file.segment) else { return Ok(None) };
    let mut last: Option<Chunk> = None;
    loop {
        let seen = last.as_ref().map_or(0, |chunk| chunk.facts.end);
        let page = facts.source.chunks(segment.timeline.id, file.ordinal, seen)?;
        let newer = page.into_iter().rfind(|chunk| chunk.facts.ordinal == file.ordinal && chunk.facts.end > seen);
        match newer {
            Some(newer) => last = Some(newer),
            None => return Ok(last),
        }
    }
}

fn hole_at(chunk: &Chunk) -> PlanError {
    let (after, reason) = match &chunk.facts.gap_before {
        Some(gap) => (gap.after.clone(), gap.reason.clone()),
        None => (None, format!("nothing is known of what lies before {}:{}", chunk.facts.file, chunk.facts.begin)),
    };
    let reachable = Reachable { at: after.clone(), clock: chunk.facts.clock_before };
    PlanError::BinlogGap(Box::new(BinlogGap { after, missing: Vec::new(), reason, reachable }))
}

fn unknown(facts: &Facts<'_>, lineage: &Lineage<'_>, position: &BinlogPosition, file_end: Option<u64>) -> PlanError {
    let mut elsewhere = Vec::new();
    for timeline in facts.timelines {
        let is_whole = lineage.tip().map(|tip| tip.id) == Some(timeline.id);
        match ordinals_of(facts, timeline, &position.file, None) {
            Ok(ordinals) if !ordinals.is_empty() && !is_whole => elsewhere.push(TimelineName::of(timeline)),
            Ok(_) => {}
            Err(err) => return err,
        }
    }
    PlanError::UnknownPosition { position: position.clone(), file_end, elsewhere }
}
