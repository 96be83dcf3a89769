//! Chunks: pieces of binlog, whole transactions only, under the timeline that wrote them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{BinlogState, Gtid, GtidPosition, GtidStream};
use crate::domain::gtid_set::{GtidSet, Interval};
use crate::domain::id::{InstanceId, TimelineId};

/// What a chunk holds. Stands in the object itself, so that the catalog can be rebuilt from the repository.
///
/// The chunks of a binlog file, decompressed and put one after the other, are that file. Chunks of one timeline follow
/// each other without a hole unless `gap_before` says so; `follows` makes that provable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChunkFacts {
    pub(crate) instance: InstanceId,
    pub(crate) timeline: TimelineId,
    /// The n-th binlog file of the timeline, from 1.
    pub(crate) ordinal: u32,
    /// The file's name on the server.
    pub(crate) file: String,
    /// First byte of the chunk in that file; 0 for the chunk that holds the file's header.
    pub(crate) begin: u64,
    /// One past the last byte.
    pub(crate) end: u64,
    /// SHA-256 of the raw bytes, lower-case hex.
    pub(crate) sha256: String,
    /// `sha256` of the chunk before this one in the timeline; absent in a timeline's first.
    pub(crate) follows: Option<String>,
    /// Set when binlog between the chunk before and this one was never shipped.
    pub(crate) gap_before: Option<Gap>,
    /// Number of transactions; 0 for a chunk with only a header or a rotation.
    pub(crate) transactions: u64,
    pub(crate) first_gtid: Option<Gtid>,
    pub(crate) last_gtid: Option<Gtid>,
    /// The transactions that have a GTID. On MariaDB the lowest and the highest number of each stream, with holes between
    /// them; on MySQL exact runs.
    pub(crate) ranges: Vec<GtidRange>,
    /// What an applier has reached behind this chunk.
    pub(crate) position_after: GtidPosition,
    /// The binlog state after this chunk.
    pub(crate) state_after: BinlogState,
    /// The commit clock before the chunk, microseconds since 1970 (0 before anything was committed).
    ///
    /// A transaction's commit time is the greatest of its own stamp and of all stamps before it in the timeline, none
    /// of them later than the moment it was seen: commits are ordered, stamps (`SET TIMESTAMP`, a clock set back,
    /// statements that began earlier) are not.
    pub(crate) clock_before: i64,
    /// Commit time of the first transaction, microseconds since 1970.
    pub(crate) first_commit: Option<i64>,
    /// Commit time of the last transaction: the commit clock after the chunk.
    pub(crate) last_commit: Option<i64>,
    /// When the bytes were read from the server: no transaction in it was committed later.
    pub(crate) observed_at: Timestamp,
}

impl ChunkFacts {
    /// The commit clock after the chunk.
    pub(crate) fn clock_after(&self) -> i64 {
        self.last_commit.unwrap_or(self.clock_before)
    }

    /// The position after everything of the chunk was applied behind `position`.
    ///
    /// Not simply `position_after`: a recovered server's state may name sequence numbers that were given up.
    pub(crate) fn apply_to(&self, position: &mut GtidPosition) {
        let mut executed: BTreeMap<_, Vec<Interval>> = BTreeMap::new();
        for range in &self.ranges {
            match range.stream {
                GtidStream::Mariadb { domain, .. } => {
                    // For each domain with a transaction in the chunk, the last one after it is from it.
                    if let Some(last) = self.position_after.last(domain) {
                        position.apply(last);
                    }
                }
                GtidStream::Mysql(source) => {
                    executed.entry(source).or_default().extend(Interval::new(range.first, range.last));
                }
            }
        }
        position.unite(&GtidSet::of(executed));
    }

    pub(crate) fn begins_at(&self) -> Coordinate {
        self.coordinate(self.begin)
    }

    pub(crate) fn ends_at(&self) -> Coordinate {
        self.coordinate(self.end)
    }

    fn coordinate(&self, position: u64) -> Coordinate {
        Coordinate { timeline: self.timeline, ordinal: self.ordinal, file: self.file.clone(), position }
    }
}

/// A run of transactions of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GtidRange {
    pub(crate) stream: GtidStream,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl GtidRange {
    pub(crate) fn holds(&self, gtid: &Gtid) -> bool {
        self.stream == gtid.stream() && (self.first..=self.last).contains(&gtid.number())
    }

    /// Runs of a set, one range each.
    pub(crate) fn of_set(set: &GtidSet) -> impl Iterator<Item = GtidRange> {
        set.iter().flat_map(|(source, intervals)| {
            intervals.iter().map(|run| GtidRange {
                stream: GtidStream::Mysql(*source),
                first: run.first,
                last: run.last,
            })
        })
    }

    /// What `behind` has written since `before`: for each stream that both know the numbers between; on MySQL
    /// everything that is in one and not in the other.
    pub(crate) fn between(before: &BinlogState, behind: &BinlogState) -> Vec<GtidRange> {
        let own = behind.iter().map(Gtid::Mariadb);
        let own = own.filter_map(|last| GtidRange::up_to(before, last.stream(), last.number()));
        let missing = behind.executed().without(before.executed());
        own.chain(GtidRange::of_set(&missing)).collect()
    }

    /// The numbers of `stream` behind those in `before`, up to `last`; none when `before` does not know it.
    pub(crate) fn up_to(before: &BinlogState, stream: GtidStream, last: u64) -> Option<GtidRange> {
        let first = before.last_of(&stream)?.saturating_add(1);
        (first <= last).then_some(GtidRange { stream, first, last })
    }
}

/// Binlog that was never shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gap {
    /// The last shipped place before the hole; absent when nothing had been shipped.
    pub(crate) after: Option<Coordinate>,
    /// What an applier of everything in the repository before the hole has reached.
    pub(crate) position_before: GtidPosition,
    /// The server's binlog state behind the hole.
    pub(crate) state_behind: BinlogState,
    /// What happened, for people: `purged before it was shipped`, `RESET MASTER`, ...
    pub(crate) reason: String,
}

/// A chunk in the repository, as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) facts: ChunkFacts,
    /// The object's key.
    pub(crate) key: String,
    /// The object's size in bytes.
    pub(crate) stored_bytes: u64,
}
