//! What a chunk holds, from the transactions in it: the counts and ends of `ChunkFacts`.

use std::collections::BTreeMap;

use crate::domain::chunk::GtidRange;
use crate::domain::gtid::Gtid;
use crate::domain::transaction::Transaction;

/// Filled by `add`, one transaction of the chunk after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChunkSummary {
    pub(crate) transactions: u64,
    pub(crate) first_gtid: Option<Gtid>,
    pub(crate) last_gtid: Option<Gtid>,
    /// Commit time of the first transaction, seconds since 1970.
    pub(crate) first_commit: Option<i64>,
    /// Commit time of the last transaction, seconds since 1970.
    pub(crate) last_commit: Option<i64>,
    /// Lowest and highest sequence number by domain and server.
    sequences: BTreeMap<(u32, u32), (u64, u64)>,
}

impl ChunkSummary {
    pub(crate) fn add(&mut self, transaction: &Transaction) {
        let gtid = transaction.gtid;
        self.transactions += 1;
        self.first_gtid.get_or_insert(gtid);
        self.last_gtid = Some(gtid);
        self.first_commit.get_or_insert(transaction.committed_at);
        self.last_commit = Some(transaction.committed_at);
        let (lowest, highest) =
            self.sequences.entry((gtid.domain, gtid.server_id)).or_insert((gtid.sequence, gtid.sequence));
        // A session may set its sequence number, so the last is not always the highest.
        *lowest = gtid.sequence.min(*lowest);
        *highest = gtid.sequence.max(*highest);
    }

    pub(crate) fn ranges(&self) -> Vec<GtidRange> {
        self.sequences
            .iter()
            .map(|((domain, server_id), (first, last))| GtidRange {
                domain: *domain,
                server_id: *server_id,
                first: *first,
                last: *last,
            })
            .collect()
    }
}
