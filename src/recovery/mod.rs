//! Decisions of a recovery. Pure: no clock, disk or network; the agent does what is decided here.

pub(crate) mod damage;
pub(crate) mod plan;
pub(crate) mod state;
pub(crate) mod transactions;

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::Gtid;
use crate::domain::id::{InstanceId, RecoveryId};
use crate::domain::recovery::RecoveryPlan;
use crate::domain::target::RecoveryTarget;
use crate::error::Error;

/// What the use cases ask of whoever can read catalog and repository. Implemented by the agent, handed in by the appliance.
pub(crate) trait Planning: Send + Sync {
    /// Ships what can still be read of the server's binlog, then plans. Changes nothing on the server.
    /// A refusal is `ErrorKind::Refused` (or `InvalidInput`, `NotFound`, `Conflict`) with the facts in the message and the remedy as hint.
    fn plan(&self, instance: InstanceId, target: &RecoveryTarget) -> Result<RecoveryPlan, Error>;

    /// Refuses to undo what an undo would spoil, as far as that can be seen beforehand.
    fn check_undo(&self, instance: InstanceId, recovery: RecoveryId) -> Result<(), Error>;

    /// Transactions of the instance's current timeline and its past, newest first, at most `limit`.
    fn transactions(&self, instance: InstanceId, filter: &TransactionFilter) -> Result<Vec<TransactionSummary>, Error>;
}

/// Which transactions to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionFilter {
    /// Commit time at or after, microseconds since 1970.
    pub(crate) since: Option<i64>,
    /// Commit time at or before, microseconds since 1970.
    pub(crate) until: Option<i64>,
    /// `schema.table` or `table`.
    pub(crate) table: Option<String>,
    /// Only DROP, TRUNCATE, ALTER ... DROP and the like.
    pub(crate) destructive: bool,
    pub(crate) limit: usize,
}

/// A transaction as people look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionSummary {
    pub(crate) gtid: Option<Gtid>,
    pub(crate) begins_at: Coordinate,
    pub(crate) ends_at: Coordinate,
    /// Commit time, microseconds since 1970.
    pub(crate) committed_at: i64,
    /// `schema.table` of each table it changes, as far as known.
    pub(crate) tables: Vec<String>,
    /// The statement text, shortened; empty when the server did not log it.
    pub(crate) statement: String,
    pub(crate) destructive: bool,
}
