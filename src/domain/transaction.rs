//! One transaction of a binlog, as reading the file tells it.

use crate::domain::gtid::Gtid;

/// Microseconds in a second: commit times are in microseconds, MariaDB's stamps in seconds.
pub(crate) const MICROSECONDS: i64 = 1_000_000;

/// A committed transaction. Offsets are in its binlog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// None on MySQL under `gtid_mode=OFF`: its place in the binlog is its only name.
    pub(crate) gtid: Option<Gtid>,
    /// Offset of its GTID event.
    pub(crate) begin: u64,
    /// One past its last event.
    pub(crate) end: u64,
    /// The stamp in the GTID event, microseconds since 1970. On MariaDB whatever the session said, in whole seconds; on
    /// MySQL when the server says it committed it.
    pub(crate) stamped_at: i64,
    /// The commit time, microseconds since 1970, by the rule of `chunk::ChunkFacts::clock_before`.
    pub(crate) committed_at: i64,
    pub(crate) kind: TransactionKind,
    /// The statement's text, shortened; absent when the server did not log it.
    pub(crate) statement: Option<String>,
    pub(crate) default_schema: String,
    /// `schema.table` of each table it changes, each once, at most `TABLES_MAX`.
    pub(crate) tables: Vec<String>,
    pub(crate) row_events: u32,
    /// Rows of it were logged as the statements that changed them, which may do something else when they run again.
    pub(crate) as_statements: bool,
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
