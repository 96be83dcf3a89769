//! What a chunk holds, from the transactions in it: the counts and ends of `ChunkFacts`.

use std::collections::BTreeMap;

use crate::domain::chunk::GtidRange;
use crate::domain::gtid::{Gtid, GtidStream};
use crate::domain::gtid_set::GtidSet;
use crate::domain::transaction::Transaction;

/// Filled by `add`, one transaction of the chunk after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChunkSummary {
    pub(crate) transactions: u64,
    pub(crate) first_gtid: Option<Gtid>,
    pub(crate) last_gtid: Option<Gtid>,
    /// Commit time of the first transaction, microseconds since 1970.
    pub(crate) first_commit: Option<i64>,
    /// Commit time of the last transaction, microseconds since 1970.
    pub(crate) last_commit: Option<i64>,
    /// Some of them changed rows by statements that were logged as such.
    pub(crate) as_statements: bool,
    /// MariaDB: lowest and highest sequence number of each stream.
    sequences: BTreeMap<GtidStream, (u64, u64)>,
    /// MySQL: exactly what is in it.
    executed: GtidSet,
}

impl ChunkSummary {
    pub(crate) fn add(&mut self, transaction: &Transaction) {
        self.transactions += 1;
        self.as_statements |= transaction.as_statements;
        self.first_commit.get_or_insert(transaction.committed_at);
        self.last_commit = Some(transaction.committed_at);
        let Some(gtid) = transaction.gtid else { return };
        self.first_gtid.get_or_insert(gtid);
        self.last_gtid = Some(gtid);
        match gtid {
            Gtid::Mysql(gtid) => self.executed.add(&gtid),
            Gtid::Mariadb(own) => {
                let (lowest, highest) = self.sequences.entry(gtid.stream()).or_insert((own.sequence, own.sequence));
                // A session may set its sequence number, so the last is not always the highest.
                *lowest = own.sequence.min(*lowest);
                *highest = own.sequence.max(*highest);
            }
        }
    }

    pub(crate) fn ranges(&self) -> Vec<GtidRange> {
        let own = self.sequences.iter().map(|(stream, (first, last))| GtidRange {
            stream: *stream,
            first: *first,
            last: *last,
        });
        own.chain(GtidRange::of_set(&self.executed)).collect()
    }
}
