//! Transactions a recovery leaves out: those the operator names, and those that branches on the way left out before.

use std::collections::BTreeSet;

use crate::domain::gtid::Gtid;
use crate::recovery::plan::lineage::{Lineage, Place};
use crate::recovery::plan::reader::Reader;
use crate::recovery::plan::refusal::{PlanError, SkipFault};

/// A transaction to leave out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skip {
    pub(super) gtid: Gtid,
    /// Where it begins.
    pub(super) place: Place,
    /// The segment whose branch left it out; absent when the operator asks for it now.
    pub(super) crossed_at: Option<usize>,
}

impl Skip {
    /// Whether data that ends at `end` holds it. `all` tells what the branches before `end` have left out already.
    pub(super) fn is_in(&self, end: Place, all: &[Skip]) -> bool {
        let left_out_before =
            |skip: &Skip| skip.gtid == self.gtid && skip.crossed_at.is_some_and(|segment| segment <= end.segment);
        self.place < end && !all.iter().any(left_out_before)
    }
}

/// What is left out on the way to `stop`: by the branches crossed, and by the operator's wish.
pub(super) fn gather(
    reader: &Reader<'_>,
    lineage: &Lineage<'_>,
    stop: Place,
    asked: &[Gtid],
) -> Result<Vec<Skip>, PlanError> {
    let to_stop = lineage.up_to(stop.segment);
    let mut skips = left_out(reader, &to_stop)?;
    for (segment, gtid) in to_stop.left_out() {
        if !skips.iter().any(|skip| skip.gtid == gtid) {
            // Not in the catalog any more: any base from before the branch may hold it.
            skips.push(Skip { gtid, place: Place::begin_of(0), crossed_at: Some(segment) });
        }
    }
    let crossed: BTreeSet<Gtid> = skips.iter().map(|skip| skip.gtid).collect();
    let asked: BTreeSet<Gtid> = asked.iter().copied().filter(|gtid| !crossed.contains(gtid)).collect();
    for gtid in asked {
        let mut places = Vec::new();
        for located in reader.in_lineage(gtid, &to_stop)? {
            let end = to_stop.place(&located.ends_at);
            if end.is_some_and(|end| end <= stop) {
                places.extend(to_stop.place(&located.begins_at));
            }
        }
        match places.as_slice() {
            [place] => skips.push(Skip { gtid, place: *place, crossed_at: None }),
            [] => return Err(PlanError::SkipNotInRange { gtid, why: SkipFault::NotBeforeTarget }),
            [_, _, ..] => return Err(PlanError::SkipNotInRange { gtid, why: SkipFault::Ambiguous }),
        }
    }
    Ok(skips)
}

/// What the branches of the lineage left out, as far as it is shipped.
pub(super) fn left_out(reader: &Reader<'_>, lineage: &Lineage<'_>) -> Result<Vec<Skip>, PlanError> {
    let mut skips = Vec::new();
    for (segment, gtid) in lineage.left_out() {
        for located in reader.in_lineage(gtid, lineage)? {
            // Only what lies before the branch was left out by it.
            let place = lineage.place(&located.begins_at).filter(|place| place.segment < segment);
            skips.extend(place.map(|place| Skip { gtid, place, crossed_at: Some(segment) }));
        }
    }
    Ok(skips)
}
