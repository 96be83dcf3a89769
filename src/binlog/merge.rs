//! Transactions merged for a replay: many small commits become one.
//!
//! A replayed server is looked at only once everything is applied, so where its own commits fall is of no concern, and
//! each costs as much as several row changes (the applier writes its position with it). Only what cannot tell the
//! difference is merged: transactions in a row (on MariaDB of one domain) that consist of nothing but row changes and end
//! with an Xid. Whatever else comes, a statement, DDL, XA, a table without transactions, stands as it was, and nothing is
//! merged across it. The merged transaction bears the GTID of its last one: on MariaDB the applier's position ends the
//! same by that, on MySQL the others are added to the set once all of those that bear one are proven to be there.
//! The statements' texts (Annotate_rows, Rows_query), which an applier only shows, are left out.

use crate::binlog::body::Query;
use crate::binlog::event::{Event, event_type};
use crate::binlog::group::Head;
use crate::binlog::mysql::event::event_type as mysql;
use crate::domain::gtid::Gtid;

/// Transactions merged into one at most: beyond this little is gained.
const TRANSACTIONS_MAX: u32 = 100;
/// Bytes of row changes merged into one transaction at most.
const BYTES_MAX: usize = 4 << 20;
/// A transaction with more row changes than this is not worth a merge.
const CANDIDATE_BYTES_MAX: usize = 256 << 10;

/// A transaction that consists of row changes so far.
#[derive(Debug)]
pub(super) struct Candidate {
    head: Head,
    gtid: Vec<u8>,
    /// MySQL's `BEGIN`.
    begin: Vec<u8>,
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
    pub(super) fn begin(head: Head, event: &Event<'_>) -> Option<Candidate> {
        let is_fit = !head.is_standalone && !head.is_xa;
        is_fit.then(|| Candidate { head, gtid: event.raw.to_vec(), begin: Vec::new(), rows: Vec::new() })
    }

    /// Takes the next event inside of the transaction.
    pub(super) fn take(&mut self, event: &Event<'_>) -> Verdict {
        match event.header.event_type {
            event_type::ANNOTATE_ROWS | mysql::ROWS_QUERY => Verdict::Kept,
            // What is no `BEGIN` ends the transaction or is an XA's: MariaDB has no Query in one of rows.
            event_type::QUERY if self.begin.is_empty() && self.rows.is_empty() && begins(event) => {
                self.begin.extend_from_slice(event.raw);
                Verdict::Kept
            }
            kind if (kind == event_type::TABLE_MAP
                || kind == mysql::PARTIAL_UPDATE_ROWS
                || event_type::is_rows(kind))
                && self.rows.len() + event.raw.len() <= CANDIDATE_BYTES_MAX =>
            {
                self.rows.extend_from_slice(event.raw);
                Verdict::Kept
            }
            _ => Verdict::Ordinary(self.give_up()),
        }
    }

    pub(super) fn gtid(&self) -> Option<Gtid> {
        self.head.gtid
    }

    /// The events so far, in their order.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.gtid);
        bytes.append(&mut self.begin);
        bytes.append(&mut self.rows);
        bytes
    }
}

fn begins(event: &Event<'_>) -> bool {
    Query::parse(event).is_ok_and(|query| &*query.text == b"BEGIN")
}

/// Whether a transaction may stand for one before it.
fn stands_for(later: Option<Gtid>, earlier: Option<Gtid>) -> bool {
    match (later, earlier) {
        (Some(Gtid::Mariadb(later)), Some(Gtid::Mariadb(earlier))) => later.domain == earlier.domain,
        (Some(Gtid::Mysql(_)), Some(Gtid::Mysql(_))) | (None, None) => true,
        _ => false,
    }
}

/// The transactions merged so far.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// The last one's.
    bears: Option<Gtid>,
    transactions: u32,
    gtid: Vec<u8>,
    begin: Vec<u8>,
    rows: Vec<u8>,
    commit: Vec<u8>,
}

impl Merge {
    /// Whether a candidate can join those that are here.
    pub(super) fn takes(&self, candidate: &Candidate) -> bool {
        self.transactions == 0
            || (stands_for(candidate.head.gtid, self.bears)
                && self.transactions < TRANSACTIONS_MAX
                && self.rows.len() + candidate.rows.len() <= BYTES_MAX)
    }

    /// Adds a whole transaction; `commit` is its Xid event.
    pub(super) fn add(&mut self, mut candidate: Candidate, commit: &Event<'_>) {
        self.bears = candidate.head.gtid;
        self.transactions += 1;
        self.gtid = candidate.gtid;
        self.begin = candidate.begin;
        self.rows.append(&mut candidate.rows);
        self.commit.clear();
        self.commit.extend_from_slice(commit.raw);
    }

    /// The merged transaction, in the pieces that are to be written one after the other, and the GTID it bears; nothing is
    /// here afterwards.
    pub(super) fn take(&mut self) -> ([Vec<u8>; 4], Option<Gtid>) {
        self.transactions = 0;
        let pieces = [&mut self.gtid, &mut self.begin, &mut self.rows, &mut self.commit].map(std::mem::take);
        (pieces, self.bears.take())
    }
}
