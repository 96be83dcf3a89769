//! What a chain of pieces brings back: counts, the position it leads to, the last transaction.

use std::collections::BTreeSet;

use crate::domain::gtid::{Gtid, GtidPosition};
use crate::domain::recovery::{PlannedChunk, PlannedTransaction};
use crate::domain::transaction::{Transaction, TransactionKind};
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::base::Base;
use crate::recovery::plan::chain::Piece;
use crate::recovery::plan::planned_transaction;
use crate::recovery::plan::reader::Reader;
use crate::recovery::plan::refusal::{BaseFault, PlanError};
use crate::recovery::plan::skip::Skip;

/// A replay from a base to a stop, added up.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) transactions: u64,
    pub(super) position: GtidPosition,
    /// The commit clock at the end.
    pub(super) clock: i64,
    pub(super) last: Option<PlannedTransaction>,
    /// Left out, in the order of the binlog.
    pub(super) skipped: Vec<Gtid>,
    pub(super) replay_bytes: u64,
    pub(super) chunk_stored_bytes: u64,
    /// The chunk of the last transaction holds XA transactions.
    pub(super) has_xa: bool,
    /// Changes are among it that were logged as statements.
    pub(super) has_statements: bool,
}

/// Adds the pieces up. Reads only chunks that are not replayed whole, and the last one.
pub(super) fn sum(reader: &Reader<'_>, base: &Base<'_>, pieces: &[Piece], skips: &[Skip]) -> Result<Replay, PlanError> {
    let mut replay = Replay {
        transactions: 0,
        position: base.end.position.clone(),
        clock: base.end.clock,
        last: None,
        skipped: Vec::new(),
        replay_bytes: 0,
        chunk_stored_bytes: 0,
        has_xa: false,
        has_statements: false,
    };
    for piece in pieces {
        let skipped = skipped_in(piece, skips);
        if piece.is_whole() && skipped.is_empty() {
            add_whole(&mut replay, piece);
        } else {
            add_read(&mut replay, reader, base, piece, &skipped)?;
        }
        replay.replay_bytes = replay.replay_bytes.saturating_add(piece.to.saturating_sub(piece.from));
        replay.chunk_stored_bytes = replay.chunk_stored_bytes.saturating_add(piece.chunk.stored_bytes);
    }
    let is_whole = |piece: &Piece| piece.is_whole() && skipped_in(piece, skips).is_empty();
    let follows = |one: &Piece, next: &Piece| {
        is_whole(one) && is_whole(next) && one.chunk.facts.timeline == next.chunk.facts.timeline
    };
    for run in pieces.chunk_by(follows).filter(|run| run.first().is_some_and(is_whole)) {
        replay.has_statements |= reader.has_statements(run)?;
    }
    for piece in pieces.iter().rev().filter(|piece| piece.chunk.facts.transactions > 0) {
        let skipped = skipped_in(piece, skips);
        let transactions = reader.transactions(&piece.chunk)?;
        let comes_back = |t: &&Transaction| piece.holds(t) && !t.gtid.is_some_and(|gtid| skipped.contains(&gtid));
        if let Some(last) = transactions.iter().rfind(comes_back) {
            replay.last = Some(planned_transaction(piece, last));
            replay.has_xa = transactions.iter().filter(comes_back).any(|t| t.kind == TransactionKind::Xa);
            // It is read anyway, and a catalog that was rebuilt knows of none.
            replay.has_statements |= transactions.iter().filter(comes_back).any(|t| t.as_statements);
            break;
        }
    }
    Ok(replay)
}

fn skipped_in(piece: &Piece, skips: &[Skip]) -> BTreeSet<Gtid> {
    let within = |skip: &&Skip| skip.place >= piece.begins_at() && skip.place < piece.ends_at();
    skips.iter().filter(within).map(|skip| skip.gtid).collect()
}

/// The facts say enough.
fn add_whole(replay: &mut Replay, piece: &Piece) {
    let facts = &piece.chunk.facts;
    facts.apply_to(&mut replay.position);
    replay.transactions = replay.transactions.saturating_add(facts.transactions);
    replay.clock = replay.clock.max(facts.clock_after());
}

fn add_read(
    replay: &mut Replay,
    reader: &Reader<'_>,
    base: &Base<'_>,
    piece: &Piece,
    skipped: &BTreeSet<Gtid>,
) -> Result<(), PlanError> {
    for transaction in reader.transactions(&piece.chunk)?.iter() {
        if piece.cuts(transaction) {
            return Err(misaligned(base, piece, transaction));
        }
        if !piece.holds(transaction) {
            continue;
        }
        replay.clock = replay.clock.max(transaction.committed_at);
        match transaction.gtid {
            Some(gtid) if skipped.contains(&gtid) => {
                replay.skipped.push(gtid);
                replay.position.pass_over(gtid);
                continue;
            }
            Some(gtid) => replay.position.apply(gtid),
            None => {}
        }
        replay.transactions = replay.transactions.saturating_add(1);
        replay.has_statements |= transaction.as_statements;
    }
    Ok(())
}

fn misaligned(base: &Base<'_>, piece: &Piece, transaction: &Transaction) -> PlanError {
    if piece.begins_at() == base.place {
        return PlanError::BaseNotUsable { backup: base.backup.id, why: BaseFault::Misaligned };
    }
    let message = format!(
        "{} of chunk `{}` lies inside the transaction {}..{}",
        piece.to, piece.chunk.key, transaction.begin, transaction.end
    );
    Error::new(ErrorKind::Corrupt, message).hint("Rebuild the catalog from the repository.").into()
}

pub(super) fn planned_chunk(piece: &Piece) -> PlannedChunk {
    let facts = &piece.chunk.facts;
    PlannedChunk {
        key: piece.chunk.key.clone(),
        timeline: facts.timeline,
        ordinal: facts.ordinal,
        file: facts.file.clone(),
        begin: facts.begin,
        end: facts.end,
        sha256: facts.sha256.clone(),
        from: piece.from,
        to: piece.to,
    }
}
