//! What a recovery gives up: the transactions of the current history that the target's does not share.

use std::collections::BTreeSet;

use crate::domain::gtid::Gtid;
use crate::recovery::plan::Facts;
use crate::recovery::plan::chain::{Piece, Reached, Step, Walk};
use crate::recovery::plan::lineage::{Lineage, Place, current};
use crate::recovery::plan::reader::Reader;
use crate::recovery::plan::refusal::PlanError;
use crate::recovery::plan::skip::{self, Skip};

/// Counts the shipped transactions of the current lineage that lie behind the point where the way to `stop` leaves it.
pub(super) fn given_up(
    facts: &Facts<'_>,
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    stop: Place,
) -> Result<u64, PlanError> {
    let Some(current) = current(facts.timelines) else { return Ok(0) };
    let current = Lineage::of(facts.timelines, current.id)?;
    let to_stop = lineage.up_to(stop.segment);
    let begin = departure(&current, &to_stop, stop);
    let reached = Reached { place: begin, at: None, clock: 0 };
    let mut walk = Walk::new(facts.source, &current, reached);
    let mut transactions = 0_u64;
    while let Some(step) = walk.step()? {
        if let Step::Piece(piece) = step {
            transactions = transactions.saturating_add(count(reader, &piece, &BTreeSet::new())?);
        }
    }
    // The current data lacks what its own branches left out, so that it cannot be given up.
    let absent_now = skip::left_out(reader, &current)?;
    let absent: BTreeSet<Gtid> = absent_now.iter().filter(|skip| skip.place >= begin).map(|skip| skip.gtid).collect();
    // What branches on the way to the stop leave out is given up where the current data holds it.
    let is_current = |skip: &Skip| {
        let cut = current.segment(skip.place.segment).and_then(|segment| segment.cut);
        skip.place < begin
            && cut.is_none_or(|cut| skip.place.order() < cut)
            && !absent_now.iter().any(|absent| absent.gtid == skip.gtid)
    };
    let left_out = skip::left_out(reader, &to_stop)?;
    let left_out: BTreeSet<Gtid> = left_out.iter().filter(|skip| is_current(skip)).map(|skip| skip.gtid).collect();
    let number = |gtids: BTreeSet<Gtid>| u64::try_from(gtids.len()).unwrap_or(u64::MAX);
    Ok(transactions.saturating_add(number(left_out)).saturating_sub(number(absent)))
}

/// The place of `current` behind which `other`, which ends at `stop`, does not follow it.
fn departure(current: &Lineage<'_>, other: &Lineage<'_>, stop: Place) -> Place {
    let shared = current.segments().iter().zip(other.segments()).take_while(|(a, b)| a.timeline.id == b.timeline.id);
    let Some((segment, (here, there))) = shared.enumerate().last() else { return Place::begin_of(0) };
    let leaves = there.cut.unwrap_or(stop.order());
    match here.cut {
        Some(cut) if cut <= leaves => Place::begin_of(segment + 1),
        Some(_) | None => Place { segment, ordinal: leaves.0, position: leaves.1 },
    }
}

/// The piece's transactions that are not among `skipped`.
pub(super) fn count(reader: &Reader<'_>, piece: &Piece, skipped: &BTreeSet<Gtid>) -> Result<u64, PlanError> {
    if piece.chunk.facts.transactions == 0 || (piece.is_whole() && skipped.is_empty()) {
        return Ok(piece.chunk.facts.transactions);
    }
    let transactions = reader.transactions(&piece.chunk)?;
    let held = transactions.iter().filter(|transaction| piece.holds(transaction));
    let count = held.filter(|transaction| !transaction.gtid.is_some_and(|gtid| skipped.contains(&gtid))).count();
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}
