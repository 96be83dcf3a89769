//! Transactions merged for a replay: many small commits become one.
//!
//! A replayed server is looked at only once everything is applied, so where its own commits fall is of no concern, and
//! each costs as much as several row changes (the applier writes its position with it). Only what cannot tell the
//! difference is merged: transactions of one domain in a row that consist of nothing but row changes and end with an
//! Xid. Whatever else comes, a statement, DDL, XA, a table without transactions, stands as it was, and nothing is
//! merged across it. The merged transaction bears the GTID of its last one, so the applier's position ends the same.
//! The statements' texts (Annotate_rows), which an applier only shows, are left out.

use crate::binlog::body::GtidEvent;
use crate::binlog::event::{Event, event_type};

/// Transactions merged into one at most: beyond this little is gained.
const TRANSACTIONS_MAX: u32 = 100;
/// Bytes of row changes merged into one transaction at most.
const BYTES_MAX: usize = 4 << 20;
/// A transaction with more row changes than this is not worth a merge.
const CANDIDATE_BYTES_MAX: usize = 256 << 10;

/// A transaction that consists of row changes so far.
#[derive(Debug)]
pub(super) struct Candidate {
    head: GtidEvent,
    gtid: Vec<u8>,
    rows: Vec<u8>,
}

/// What became of a candidate with its next event.
pub(super) enum Verdict {
    /// It still is one, and holds the event.
    Kept,
    /// It is none; these bytes come before the event.
    Ordinary(Vec<u8>),
}

impl Candidate {
    /// `None` when the transaction is of a kind that is never merged.
    pub(super) fn begin(head: GtidEvent, event: &Event<'_>) -> Option<Candidate> {
        let is_fit = !head.is_standalone() && !head.is_xa();
        is_fit.then(|| Candidate { head, gtid: event.raw.to_vec(), rows: Vec::new() })
    }

    /// Takes the next event inside of the transaction.
    pub(super) fn take(&mut self, event: &Event<'_>) -> Verdict {
        match event.header.event_type {
            event_type::ANNOTATE_ROWS => Verdict::Kept,
            kind if (kind == event_type::TABLE_MAP || event_type::is_rows(kind))
                && self.rows.len() + event.raw.len() <= CANDIDATE_BYTES_MAX =>
            {
                self.rows.extend_from_slice(event.raw);
                Verdict::Kept
            }
            _ => Verdict::Ordinary(self.give_up()),
        }
    }

    /// The events so far, in their order.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.gtid);
        bytes.append(&mut self.rows);
        bytes
    }
}

/// The transactions merged so far.
#[derive(Debug, Default)]
pub(super) struct Merge {
    domain: u32,
    transactions: u32,
    gtid: Vec<u8>,
    rows: Vec<u8>,
    commit: Vec<u8>,
}

impl Merge {
    /// Whether a candidate can join those that are here.
    pub(super) fn takes(&self, candidate: &Candidate) -> bool {
        self.transactions == 0
            || (self.domain == candidate.head.gtid.domain
                && self.transactions < TRANSACTIONS_MAX
                && self.rows.len() + candidate.rows.len() <= BYTES_MAX)
    }

    /// Adds a whole transaction; `commit` is its Xid event.
    pub(super) fn add(&mut self, mut candidate: Candidate, commit: &Event<'_>) {
        self.domain = candidate.head.gtid.domain;
        self.transactions += 1;
        self.gtid = candidate.gtid;
        self.rows.append(&mut candidate.rows);
        self.commit.clear();
        self.commit.extend_from_slice(commit.raw);
    }

    /// The merged transaction, in the pieces that are to be written one after the other; nothing is here afterwards.
    pub(super) fn take(&mut self) -> [Vec<u8>; 3] {
        self.transactions = 0;
        [std::mem::take(&mut self.gtid), std::mem::take(&mut self.rows), std::mem::take(&mut self.commit)]
    }
}
