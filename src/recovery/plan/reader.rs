//! Transactions of chunks, read when a decision needs them: at the base, at cuts, around the stop.

use std::cell::RefCell;
use std::rc::Rc;

use crate::domain::chunk::Chunk;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::Gtid;
use crate::domain::transaction::Transaction;
use crate::domain::verification::Damage;
use crate::recovery::plan::ChunkSource;
use crate::recovery::plan::chain::{Piece, coordinate};
use crate::recovery::plan::lineage::Lineage;
use crate::recovery::plan::refusal::{ChunkDamage, PlanError, Reachable};

/// Chunks whose transactions are kept: the stop's, its neighbours' and the base's are asked for more than once.
const KEPT_MAX: usize = 4;

/// Reads the transactions of chunks, keeping the last few.
pub(super) struct Reader<'a> {
    source: &'a dyn ChunkSource,
    damage: &'a Damage,
    kept: RefCell<Vec<(String, Rc<[Transaction]>)>>,
}

/// Where a transaction lies.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) begins_at: Coordinate,
    pub(super) ends_at: Coordinate,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn ChunkSource, damage: &'a Damage) -> Reader<'a> {
        Reader { source, damage, kept: RefCell::new(Vec::new()) }
    }

    /// Whether the chunk cannot be read.
    pub(super) fn is_damaged(&self, chunk: &Chunk) -> bool {
        self.damage.of_chunk(&chunk.key).is_some()
    }

    /// All transactions of the chunk; a refusal when it is known to be damaged.
    pub(super) fn transactions(&self, chunk: &Chunk) -> Result<Rc<[Transaction]>, PlanError> {
        if let Some(why) = self.damage.of_chunk(&chunk.key) {
            let reachable =
                Reachable { at: Some(coordinate(&chunk.facts, chunk.facts.begin)), clock: chunk.facts.clock_before };
            let (key, why) = (chunk.key.clone(), why.to_owned());
            return Err(PlanError::ChunkDamaged(Box::new(ChunkDamage { key, why, reachable })));
        }
        let mut kept = self.kept.borrow_mut();
        if let Some((_, transactions)) = kept.iter().find(|(key, _)| *key == chunk.key) {
            return Ok(Rc::clone(transactions));
        }
        let transactions: Rc<[Transaction]> = self.source.transactions(chunk)?.into();
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((chunk.key.clone(), Rc::clone(&transactions)));
        Ok(transactions)
    }

    /// Whether changes in these pieces, which follow each other whole in one timeline, are known to be logged as statements.
    pub(super) fn has_statements(&self, pieces: &[Piece]) -> Result<bool, PlanError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(false) };
        let (first, last) = (&first.chunk.facts, &last.chunk.facts);
        let (after, to) = ((first.ordinal, first.begin), (last.ordinal, last.end));
        Ok(self.source.has_statements(first.timeline, after, to)?)
    }

    /// The first transaction of the piece for which `wanted` holds.
    pub(super) fn first(
        &self,
        piece: &Piece,
        wanted: impl Fn(&Transaction) -> bool,
    ) -> Result<Option<Transaction>, PlanError> {
        if piece.chunk.facts.transactions == 0 {
            return Ok(None);
        }
        let transactions = self.transactions(&piece.chunk)?;
        Ok(transactions.iter().find(|transaction| piece.holds(transaction) && wanted(transaction)).cloned())
    }

    /// Every place where the GTID was used, in any timeline.
    pub(super) fn everywhere(&self, gtid: Gtid) -> Result<Vec<Located>, PlanError> {
        let mut found = Vec::new();
        for chunk in self.source.holding(&gtid)? {
            // Ranges have holes, so that only the chunk itself tells.
            let transactions = self.transactions(&chunk)?;
            found.extend(transactions.iter().filter(|transaction| transaction.gtid == Some(gtid)).map(|transaction| {
                Located {
                    begins_at: coordinate(&chunk.facts, transaction.begin),
                    ends_at: coordinate(&chunk.facts, transaction.end),
                }
            }));
        }
        Ok(found)
    }

    /// Every place of the lineage where the GTID was used.
    pub(super) fn in_lineage(&self, gtid: Gtid, lineage: &Lineage<'_>) -> Result<Vec<Located>, PlanError> {
        let mut found = self.everywhere(gtid)?;
        found.retain(|located| lineage.place(&located.ends_at).is_some());
        Ok(found)
    }
}
