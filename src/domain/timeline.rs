//! Timelines: one unbroken history each. Every recovery starts a new one that names its parent and branch point.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{BinlogState, GtidPosition};
use crate::domain::id::{InstanceId, RecoveryId, TimelineId};

/// One unbroken history of an instance. Immutable once written; kept in the repository and in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeline {
    pub(crate) id: TimelineId,
    pub(crate) instance: InstanceId,
    /// 1, 2, 3, ... for people; unique within an instance.
    pub(crate) number: u32,
    pub(crate) origin: Origin,
    /// Where it leaves its parent; absent when it does not continue any history (the first one, or a reset server).
    pub(crate) branch: Option<Branch>,
    /// These GTIDs were used before the timeline began; its first binlog file's Gtid_list or Previous_gtids says the same.
    pub(crate) state_at_begin: BinlogState,
    pub(crate) begun_at: Timestamp,
}

/// Why a timeline began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// The instance was created or adopted.
    Initial,
    /// A recovery was promoted.
    Recovery(RecoveryId),
    /// A recovery was undone.
    Undo(RecoveryId),
    /// The server's binlog began anew (`RESET MASTER`, or a server whose history is not the one shipped).
    Reset,
}

/// The place in the parent at which a timeline begins: everything up to it is the new timeline's past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    /// In the parent timeline.
    pub(crate) at: Coordinate,
    /// What an applier has reached at that place.
    pub(crate) position: GtidPosition,
    /// The commit clock at that place (see `chunk::ChunkFacts::clock_before`), microseconds since 1970.
    pub(crate) clock: i64,
    /// Transactions left out of the new timeline's past, on top of the cut (skipped by the operator).
    #[serde(default)]
    pub(crate) skipped: Vec<crate::domain::gtid::Gtid>,
}
