//! The chain of chunks along a lineage, and the proof that nothing is missing in it.
//!
//! Continuity is proven by content, never by names or upload times: each chunk begins where the one before it ends,
//! names the digest of the one before it, and says so itself when binlog in front of it was lost.

use crate::domain::chunk::{Chunk, ChunkFacts, Gap, GtidRange};
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::BinlogState;
use crate::domain::timeline::Branch;
use crate::domain::transaction::Transaction;
use crate::domain::verification::Damage;
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::ChunkSource;
use crate::recovery::plan::base::Base;
use crate::recovery::plan::lineage::{Lineage, Place};
use crate::recovery::plan::refusal::{BinlogGap, ChunkDamage, PlanError, Reachable};

/// The part of a chunk that belongs to a lineage, or to a replay.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) segment: usize,
    pub(super) chunk: Chunk,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Piece {
    pub(super) fn is_whole(&self) -> bool {
        self.from == self.chunk.facts.begin && self.to == self.chunk.facts.end
    }

    pub(super) fn begins_at(&self) -> Place {
        Place { segment: self.segment, ordinal: self.chunk.facts.ordinal, position: self.from }
    }

    pub(super) fn ends_at(&self) -> Place {
        Place { segment: self.segment, ordinal: self.chunk.facts.ordinal, position: self.to }
    }

    pub(super) fn holds(&self, transaction: &Transaction) -> bool {
        transaction.begin >= self.from && transaction.end <= self.to
    }

    /// Whether an end of the piece lies inside the transaction.
    pub(super) fn cuts(&self, transaction: &Transaction) -> bool {
        let inside = |offset| transaction.begin < offset && offset < transaction.end;
        inside(self.from) || inside(self.to)
    }

    pub(super) fn coordinate(&self, position: u64) -> Coordinate {
        coordinate(&self.chunk.facts, position)
    }
}

/// A place in the file of a chunk.
pub(super) fn coordinate(facts: &ChunkFacts, position: u64) -> Coordinate {
    Coordinate { timeline: facts.timeline, ordinal: facts.ordinal, file: facts.file.clone(), position }
}

/// How far a walk has come.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub(super) place: Place,
    /// The same for people; absent only before the first chunk of a history.
    pub(super) at: Option<Coordinate>,
    pub(super) clock: i64,
}

/// A hole between what was reached and what comes next.
#[derive(Debug)]
pub(super) struct Break {
    pub(super) reached: Reached,
    gap: BinlogGap,
}

impl From<Break> for PlanError {
    fn from(hole: Break) -> PlanError {
        PlanError::BinlogGap(Box::new(hole.gap))
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, never kept: a box would be paid for every chunk")]
pub(super) enum Step {
    Piece(Piece),
    /// Something is missing in front of the piece that comes next.
    Break(Break),
}

/// Walks the chunks of a lineage in order, a page of the catalog at a time.
pub(super) struct Walk<'w> {
    source: &'w dyn ChunkSource,
    lineage: &'w Lineage<'w>,
    page: std::vec::IntoIter<Chunk>,
    /// Chunks of the segment ending at or before this place have been seen.
    seen: (u32, u64),
    previous: Option<Previous>,
    reached: Reached,
    /// The piece behind a break that was just told.
    pending: Option<Piece>,
}

struct Previous {
    sha256: String,
    state_after: BinlogState,
}

impl<'w> Walk<'w> {
    /// A walk that begins at `begin`, which must be a boundary between transactions.
    pub(super) fn new(source: &'w dyn ChunkSource, lineage: &'w Lineage<'w>, begin: Reached) -> Walk<'w> {
        // The chunk that ends right here is read too: it proves that the next one follows.
        let seen = (begin.place.ordinal, begin.place.position.saturating_sub(1));
        let page = Vec::new().into_iter();
        Walk { source, lineage, page, seen, previous: None, reached: begin, pending: None }
    }

    pub(super) fn reached(&self) -> &Reached {
        &self.reached
    }

    /// The next piece or break; absent at the end of the shipped lineage.
    pub(super) fn step(&mut self) -> Result<Option<Step>, PlanError> {
        if let Some(piece) = self.pending.take() {
            return Ok(Some(Step::Piece(self.take(piece))));
        }
        loop {
            let segment = self.reached.place.segment;
            let Some(cut) = self.lineage.segment(segment).map(|segment| segment.cut) else { return Ok(None) };
            let chunk = self.fetch()?.filter(|chunk| cut.is_none_or(|cut| chunk.facts.begins_at().order() < cut));
            let Some(chunk) = chunk else {
                if let Some(hole) = self.short_of(cut) {
                    return Ok(Some(Step::Break(hole)));
                }
                if !self.cross() {
                    return Ok(None);
                }
                continue;
            };
            let facts = &chunk.facts;
            if facts.ends_at().order() <= self.expected() {
                self.previous = Some(Previous::of(facts));
                continue;
            }
            let hole = self.hole_before(facts);
            let (ordinal, position) = self.expected();
            let from = if facts.ordinal == ordinal { facts.begin.max(position) } else { facts.begin };
            let to = cut.filter(|cut| cut.0 == facts.ordinal).map_or(facts.end, |cut| cut.1.min(facts.end));
            let piece = Piece { segment, from, to, chunk };
            let Some(hole) = hole else {
                return Ok(Some(Step::Piece(self.take(piece))));
            };
            self.pending = Some(piece);
            return Ok(Some(Step::Break(hole)));
        }
    }

    fn fetch(&mut self) -> Result<Option<Chunk>, PlanError> {
        if self.page.len() == 0 {
            let segment = self.reached.place.segment;
            let Some(segment) = self.lineage.segment(segment) else { return Ok(None) };
            self.page = self.source.chunks(segment.timeline.id, self.seen.0, self.seen.1)?.into_iter();
        }
        let Some(chunk) = self.page.next() else { return Ok(None) };
        let end = chunk.facts.ends_at().order();
        if end <= self.seen {
            let message = format!("the catalog lists chunk `{}` out of order", chunk.key);
            return Err(Error::new(ErrorKind::Corrupt, message)
                .hint("Rebuild the catalog from the repository.")
                .into());
        }
        self.seen = end;
        Ok(Some(chunk))
    }

    /// Where the next chunk must begin, as ordinal and position.
    fn expected(&self) -> (u32, u64) {
        let order = self.reached.place.order();
        if order == (0, 0) { (1, 0) } else { order }
    }

    fn take(&mut self, piece: Piece) -> Piece {
        self.previous = Some(Previous::of(&piece.chunk.facts));
        let branch = self.branch_of(piece.segment + 1);
        let clock = match branch {
            Some(branch) if piece.to < piece.chunk.facts.end => branch.clock,
            Some(_) | None => piece.chunk.facts.clock_after(),
        };
        self.reached = Reached { place: piece.ends_at(), at: Some(piece.coordinate(piece.to)), clock };
        piece
    }

    fn branch_of(&self, segment: usize) -> Option<&'w Branch> {
        self.lineage.segment(segment).and_then(|segment| segment.timeline.branch.as_ref())
    }

    /// A break when the segment's chunks end before the point where the next one leaves it. Told once.
    fn short_of(&mut self, cut: Option<(u32, u64)>) -> Option<Break> {
        let cut = cut?;
        let here = self.expected();
        // Position 0 of a file is where the file before it ends.
        if here >= cut || (cut.1 == 0 && here.0.checked_add(1) == Some(cut.0)) {
            return None;
        }
        let hole = self.hole(None, "binlog up to the branch is not in the repository".to_owned(), Vec::new());
        self.reached.place = Place { segment: self.reached.place.segment, ordinal: cut.0, position: cut.1 };
        Some(hole)
    }

    /// Goes on to the next segment, if there is one.
    fn cross(&mut self) -> bool {
        let segment = self.reached.place.segment + 1;
        let Some(branch) = self.branch_of(segment) else { return false };
        self.reached = Reached { place: Place::begin_of(segment), at: Some(branch.at.clone()), clock: branch.clock };
        self.seen = (0, 0);
        self.previous = None;
        self.page = Vec::new().into_iter();
        true
    }

    fn hole_before(&self, facts: &ChunkFacts) -> Option<Break> {
        let (ordinal, position) = self.expected();
        let at_begin = self.reached.place.order() == (0, 0);
        if self.previous.is_none() && facts.ordinal == ordinal && facts.begin < position {
            return None; // The walk begins inside this chunk.
        }
        if let Some(gap) = &facts.gap_before {
            return Some(self.hole(Some(gap), gap.reason.clone(), self.missing_in(gap)));
        }
        let goes_on = facts.ordinal == ordinal && facts.begin == position;
        let next_file = self.previous.is_some() && facts.begin == 0 && ordinal.checked_add(1) == Some(facts.ordinal);
        let follows = match (&self.previous, &facts.follows) {
            (Some(previous), Some(follows)) => previous.sha256 == *follows,
            (Some(_), None) => false,
            (None, Some(_)) => !at_begin,
            (None, None) => true,
        };
        let reason = match (goes_on || next_file, follows) {
            (true, true) => return None,
            (true, false) => format!("{}:{} does not follow what lies before it", facts.file, facts.begin),
            (false, _) => format!("nothing is known of what lies before {}:{}", facts.file, facts.begin),
        };
        Some(self.hole(None, reason, self.missing_before(facts)))
    }

    fn hole(&self, gap: Option<&Gap>, reason: String, missing: Vec<GtidRange>) -> Break {
        let after = gap.and_then(|gap| gap.after.clone()).or_else(|| self.reached.at.clone());
        let reachable = Reachable { at: self.reached.at.clone(), clock: self.reached.clock };
        Break { reached: self.reached.clone(), gap: BinlogGap { after, missing, reason, reachable } }
    }

    /// By stream: from the last shipped before the gap to the last written before what is shipped again.
    fn missing_in(&self, gap: &Gap) -> Vec<GtidRange> {
        match &self.previous {
            Some(previous) => GtidRange::between(&previous.state_after, &gap.state_behind),
            None => GtidRange::between(&gap.position_before.clone().into(), &gap.state_behind),
        }
    }

    fn missing_before(&self, facts: &ChunkFacts) -> Vec<GtidRange> {
        let Some(previous) = &self.previous else { return Vec::new() };
        let up_to_first =
            |range: &GtidRange| GtidRange::up_to(&previous.state_after, range.stream, range.first.saturating_sub(1));
        facts.ranges.iter().filter_map(up_to_first).collect()
    }
}

impl Previous {
    fn of(facts: &ChunkFacts) -> Previous {
        Previous { sha256: facts.sha256.clone(), state_after: facts.state_after.clone() }
    }
}

/// The pieces from `begin` to `stop`, proven to be without a hole.
pub(super) fn collect(
    source: &dyn ChunkSource,
    lineage: &Lineage<'_>,
    begin: Reached,
    stop: Place,
) -> Result<Vec<Piece>, PlanError> {
    let mut walk = Walk::new(source, lineage, begin);
    let mut pieces = Vec::new();
    while walk.reached().place < stop {
        match walk.step()? {
            Some(Step::Break(hole)) if hole.reached.place < stop => return Err(hole.into()),
            Some(Step::Break(_)) => break,
            Some(Step::Piece(piece)) if piece.begins_at() >= stop => break,
            Some(Step::Piece(mut piece)) => {
                if piece.segment == stop.segment && piece.chunk.facts.ordinal == stop.ordinal {
                    piece.to = piece.to.min(stop.position);
                }
                pieces.push(piece);
            }
            None if walk.reached().place >= stop => break,
            None => {
                let reason = "binlog up to the target is not in the repository".to_owned();
                return Err(walk.hole(None, reason, Vec::new()).into());
            }
        }
    }
    Ok(pieces)
}

/// Refuses a chain with a damaged chunk in it, and says how far the chain is good.
pub(super) fn refuse_damaged(damage: &Damage, base: &Base<'_>, pieces: &[Piece]) -> Result<(), PlanError> {
    let mut good = Reachable { at: Some(base.end.at.clone()), clock: base.end.clock };
    for piece in pieces {
        let facts = &piece.chunk.facts;
        if let Some(why) = damage.of_chunk(&piece.chunk.key) {
            let (key, why) = (piece.chunk.key.clone(), why.to_owned());
            return Err(PlanError::ChunkDamaged(Box::new(ChunkDamage { key, why, reachable: good })));
        }
        good = Reachable { at: Some(piece.coordinate(piece.to)), clock: facts.clock_after() };
    }
    Ok(())
}
