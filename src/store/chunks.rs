//! Rows of binlog chunks: which bytes of which timeline are in the repository, and what is in them.
//!
//! Built for a million rows. Every query is one index range, which a test holds by asking SQLite for its plan.

use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::domain::chunk::{Chunk, ChunkFacts, GtidRange};
use crate::domain::gtid::Gtid;
use crate::domain::id::{InstanceId, TimelineId};
use crate::error::{Error, ErrorKind};

const FROM: &str = "SELECT * FROM chunks WHERE timeline = ?1 AND (ordinal, end_position) > (?2, ?3)
    ORDER BY ordinal, end_position LIMIT ?4";
const KEYS_FROM: &str = "SELECT key, ordinal, end_position, stored_bytes FROM chunks
    WHERE timeline = ?1 AND (ordinal, end_position) > (?2, ?3) ORDER BY ordinal, end_position LIMIT ?4";
const BYTES_FROM: &str = "SELECT coalesce(sum(stored_bytes), 0) AS stored_bytes FROM chunks
    WHERE timeline = ?1 AND (ordinal, end_position) > (?2, ?3)";
const BEFORE: &str = "SELECT * FROM chunks WHERE timeline = ?1 AND (ordinal, end_position) <= (?2, ?3)
    ORDER BY ordinal DESC, end_position DESC LIMIT ?4";
const LAST: &str = "SELECT * FROM chunks WHERE timeline = ?1 ORDER BY ordinal DESC, end_position DESC LIMIT 1";
const GAPS: &str = "SELECT * FROM chunks WHERE instance = ?1 AND has_gap = 1 ORDER BY sequence";
const AS_STATEMENTS: &str = "SELECT end_position FROM chunks WHERE timeline = ?1 AND as_statements = 1
    AND (ordinal, end_position) > (?2, ?3) AND (ordinal, end_position) <= (?4, ?5) LIMIT 1";
const HOLDING: &str = "SELECT chunk FROM chunk_ranges WHERE instance = ?1 AND stream = ?2 AND width = ?3
    AND first BETWEEN ?4 AND ?5 AND last >= ?5";
const BY_SEQUENCE: &str = "SELECT * FROM chunks WHERE sequence = ?1";
const TOTALS: &str =
    "SELECT sum(chunks) AS chunks, sum(stored_bytes) AS stored_bytes, sum(transactions) AS transactions,
    min(first_commit) AS first_commit, max(last_commit) AS last_commit FROM chunk_totals WHERE instance = ?1";

/// A chunk as far as reading it again needs: all of a million of them are gone through, and facts are long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkKey {
    pub(crate) key: String,
    pub(crate) ordinal: u32,
    /// Where it ends in its binlog file.
    pub(crate) end: u64,
    pub(crate) stored_bytes: u64,
}

/// The sum of an instance's chunks, over all its timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChunkTotals {
    pub(crate) chunks: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) transactions: u64,
    /// Commit times, microseconds since 1970; none before the first transaction.
    pub(crate) first_commit: Option<i64>,
    pub(crate) last_commit: Option<i64>,
}

impl Db<'_> {
    /// The chunks of a timeline that end behind this place, in order, at most `limit`. The first may begin before it.
    pub(crate) fn chunks_from(
        &self,
        timeline: TimelineId,
        ordinal: u32,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Chunk>, Error> {
        self.list(FROM, params![timeline.to_string(), ordinal, sql::signed(position), sql::limit(limit)], read)
    }

    /// As `chunks_from`, without the facts.
    pub(crate) fn chunk_keys_from(
        &self,
        timeline: TimelineId,
        ordinal: u32,
        position: u64,
        limit: usize,
    ) -> Result<Vec<ChunkKey>, Error> {
        let place = params![timeline.to_string(), ordinal, sql::signed(position), sql::limit(limit)];
        self.list(KEYS_FROM, place, |row| {
            Ok(ChunkKey {
                key: sql::column(row, "key")?,
                ordinal: sql::column(row, "ordinal")?,
                end: sql::unsigned(row, "end_position")?,
                stored_bytes: sql::unsigned(row, "stored_bytes")?,
            })
        })
    }

    /// The size of the chunks of a timeline that end behind this place.
    pub(crate) fn chunk_bytes_from(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Result<u64, Error> {
        let place = params![timeline.to_string(), ordinal, sql::signed(position)];
        Ok(self.first(BYTES_FROM, place, |row| sql::unsigned(row, "stored_bytes"))?.unwrap_or(0))
    }

    /// The last chunk of a timeline that ends at this place or before it.
    pub(crate) fn chunk_before(
        &self,
        timeline: TimelineId,
        ordinal: u32,
        position: u64,
    ) -> Result<Option<Chunk>, Error> {
        self.first(BEFORE, params![timeline.to_string(), ordinal, sql::signed(position), 1], read)
    }

    /// The chunks of a timeline that end at this place or before it, the last one first, at most `limit`: the way back
    /// through history, page by page (the next page ends where the last chunk of this one begins).
    pub(crate) fn chunks_back_from(
        &self,
        timeline: TimelineId,
        ordinal: u32,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Chunk>, Error> {
        self.list(BEFORE, params![timeline.to_string(), ordinal, sql::signed(position), sql::limit(limit)], read)
    }

    /// The last chunk of a timeline.
    pub(crate) fn last_chunk(&self, timeline: TimelineId) -> Result<Option<Chunk>, Error> {
        self.first(LAST, [timeline.to_string()], read)
    }

    /// The chunks of an instance that lie behind a gap, in the order they were shipped.
    pub(crate) fn gaps(&self, instance: InstanceId) -> Result<Vec<Chunk>, Error> {
        self.list(GAPS, [instance.to_string()], read)
    }

    /// Whether changes are known to be logged as statements in a chunk of a timeline that ends behind `after`, and not
    /// behind `to`; both are the number of a file and a position in it.
    pub(crate) fn has_statements(
        &self,
        timeline: TimelineId,
        after: (u32, u64),
        to: (u32, u64),
    ) -> Result<bool, Error> {
        let (after_position, to_position) = (sql::signed(after.1), sql::signed(to.1));
        let range = params![timeline.to_string(), after.0, after_position, to.0, to_position];
        Ok(self.first(AS_STATEMENTS, range, |row| sql::unsigned(row, "end_position"))?.is_some())
    }

    /// The sum of an instance's chunks.
    pub(crate) fn chunk_totals(&self, instance: InstanceId) -> Result<ChunkTotals, Error> {
        let count = |row: &Row<'_>, name| -> Result<Option<u64>, Error> {
            Ok(sql::column::<Option<i64>>(row, name)?.and_then(|n| u64::try_from(n).ok()))
        };
        let totals = self.first(TOTALS, [instance.to_string()], |row| {
            Ok(ChunkTotals {
                chunks: count(row, "chunks")?.unwrap_or(0),
                stored_bytes: count(row, "stored_bytes")?.unwrap_or(0),
                transactions: count(row, "transactions")?.unwrap_or(0),
                first_commit: sql::column(row, "first_commit")?,
                last_commit: sql::column(row, "last_commit")?,
            })
        })?;
        Ok(totals.unwrap_or_default())
    }

    /// The chunks of an instance whose ranges include this GTID, in the order they were shipped. A range may have holes,
    /// so only reading a chunk says whether the transaction is in it.
    pub(crate) fn chunks_holding_gtid(&self, instance: InstanceId, gtid: &Gtid) -> Result<Vec<Chunk>, Error> {
        let instance = instance.to_string();
        let (stream, sequence) = (gtid.stream().to_string(), sql::signed(gtid.number()));
        let mut found: Vec<i64> = Vec::new();
        for width in 0..=u64::BITS {
            let span = 1_i64.checked_shl(width).filter(|span| *span > 0).unwrap_or(i64::MAX);
            let first = sequence.saturating_sub(span);
            let key = params![instance, stream, width, first, sequence];
            found.extend(self.list(HOLDING, key, |row| sql::column::<i64>(row, "chunk"))?);
        }
        found.sort_unstable();
        found.dedup();
        let mut chunks = Vec::new();
        for sequence in found {
            chunks.extend(self.first(BY_SEQUENCE, [sequence], read)?);
        }
        // Numbers past 2^63 look alike in the index.
        chunks.retain(|chunk| chunk.facts.ranges.iter().any(|range| range.holds(gtid)));
        Ok(chunks)
    }
}

impl Tx<'_> {
    /// Adds a chunk. The same one again is fine; `Conflict` if another one holds some of its bytes already.
    pub(crate) fn insert_chunk(&self, chunk: &Chunk) -> Result<(), Error> {
        let facts = &chunk.facts;
        let neighbour = self.chunks_from(facts.timeline, facts.ordinal, facts.begin, 1)?.pop();
        if let Some(known) = neighbour
            && known.facts.ordinal == facts.ordinal
            && known.facts.begin < facts.end
        {
            if known.key == chunk.key {
                return Ok(());
            }
            let message = format!("chunk `{}` holds bytes that chunk `{}` holds already", chunk.key, known.key);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.execute(
            "INSERT INTO chunks (instance, timeline, ordinal, begin_position, end_position, first_commit, last_commit,
             has_gap, stored_bytes, key, facts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                facts.instance.to_string(),
                facts.timeline.to_string(),
                facts.ordinal,
                sql::signed(facts.begin),
                sql::signed(facts.end),
                facts.first_commit,
                facts.last_commit,
                facts.gap_before.is_some(),
                sql::signed(chunk.stored_bytes),
                chunk.key,
                sql::to_json(facts)?,
            ],
        )?;
        let sequence = self.connection.last_insert_rowid();
        for range in &facts.ranges {
            self.insert_range(facts.instance, sequence, range)?;
        }
        self.add_to_totals(chunk)
    }

    /// Adds a chunk of which somebody has seen whether changes in it were logged as statements.
    pub(crate) fn insert_seen_chunk(&self, chunk: &Chunk, as_statements: bool) -> Result<(), Error> {
        self.insert_chunk(chunk)?;
        if as_statements { self.note_statements(&chunk.facts) } else { Ok(()) }
    }

    fn note_statements(&self, facts: &ChunkFacts) -> Result<(), Error> {
        self.execute(
            "UPDATE chunks SET as_statements = 1 WHERE timeline = ?1 AND ordinal = ?2 AND end_position = ?3",
            params![facts.timeline.to_string(), facts.ordinal, sql::signed(facts.end)],
        )
        .map(drop)
    }

    fn insert_range(&self, instance: InstanceId, chunk: i64, range: &GtidRange) -> Result<(), Error> {
        let (first, last) = (sql::signed(range.first), sql::signed(range.last));
        let width = u64::BITS - range.last.saturating_sub(range.first).leading_zeros();
        self.execute(
            "INSERT OR REPLACE INTO chunk_ranges (instance, stream, width, first, chunk, last)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![instance.to_string(), range.stream.to_string(), width, first, chunk, last],
        )
        .map(drop)
    }

    fn add_to_totals(&self, chunk: &Chunk) -> Result<(), Error> {
        let facts = &chunk.facts;
        self.execute(
            "INSERT INTO chunk_totals (timeline, instance, chunks, stored_bytes, transactions, first_commit, last_commit)
             VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET chunks = chunks + 1,
                 stored_bytes = stored_bytes + excluded.stored_bytes,
                 transactions = transactions + excluded.transactions,
                 first_commit = min(coalesce(first_commit, excluded.first_commit),
                                    coalesce(excluded.first_commit, first_commit)),
                 last_commit = max(coalesce(last_commit, excluded.last_commit),
                                   coalesce(excluded.last_commit, last_commit))",
            params![
                facts.timeline.to_string(),
                facts.instance.to_string(),
                sql::signed(chunk.stored_bytes),
                sql::signed(facts.transactions),
                facts.first_commit,
                facts.last_commit,
            ],
        )
        .map(drop)
    }
}

fn read(row: &Row<'_>) -> Result<Chunk, Error> {
    Ok(Chunk {
        facts: sql::json(row, "facts")?,
        key: sql::column(row, "key")?,
        stored_bytes: sql::unsigned(row, "stored_bytes")?,
    })
}

#[cfg(test)]
mod tests;
