//! One transaction of a binlog, as reading the file tells it.

use crate::domain::gtid::Gtid;

/// A committed transaction. Offsets are in its binlog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) gtid: Gtid,
    /// Offset of its GTID event.
    pub(crate) begin: u64,
    /// One past its last event.
    pub(crate) end: u64,
    /// The stamp in the GTID event, seconds since 1970: whatever the session said.
    pub(crate) stamped_at: i64,
    /// The commit time, seconds since 1970, by the rule of `chunk::ChunkFacts::clock_before`.
    pub(crate) committed_at: i64,
    pub(crate) kind: TransactionKind,
    /// The statement's text, shortened; absent when the server did not log it.
    pub(crate) statement: Option<String>,
    pub(crate) default_schema: String,
    /// `schema.table` of each table it changes, each once, at most `TABLES_MAX`.
    pub(crate) tables: Vec<String>,
    pub(crate) row_events: u32,
    /// It drops, truncates or removes columns or partitions.
    pub(crate) destructive: bool,
}

impl Transaction {
    /// Tables kept per transaction.
    pub(crate) const TABLES_MAX: usize = 64;
    /// Bytes of statement text kept.
    pub(crate) const STATEMENT_MAX: usize = 2048;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionKind {
    /// Rows changed, or statements that change rows.
    Dml,
    /// A statement that is a transaction of its own.
    Ddl,
    /// The prepare, commit or rollback of an XA transaction.
    Xa,
}
