//! Recoveries: the plan that was made, and how far it was carried out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::backup::{BackupEnd, Strategy};
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{Gtid, GtidPosition};
use crate::domain::id::{BackupId, InstanceId, RecoveryId, TimelineId};
use crate::domain::instance::Fault;
use crate::domain::target::RecoveryTarget;

/// The states of a recovery, in the order it walks them (see README, "Architecture").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RecoveryState {
    /// The plan is journaled; nothing was done yet.
    Planned,
    /// The base backup lies unpacked in the work directory.
    Staged,
    /// The staged data is consistent.
    Prepared,
    /// The staged data holds exactly the planned transactions. A paused recovery waits here.
    Replayed,
    /// The server is stopped and guarded; its last binlog is shipped or kept.
    Fenced,
    /// The data directories are exchanged.
    Switched,
    /// The server runs on the recovered data, in a timeline of its own.
    Promoted,
    /// Done; the old data is kept for an undo.
    Retained,
    /// The undo has stopped and guarded the server.
    UndoFenced,
    /// The undo has exchanged the data directories back.
    UndoSwitched,
    /// Undone; the server runs on the data it had before the recovery.
    Undone,
    /// Given up before the switch; the server was never touched.
    Aborted,
    /// Failed before the switch; the server serves the data it had.
    Failed,
    /// Done, and the old data is freed: it cannot be undone any more.
    Released,
}

impl RecoveryState {
    pub(crate) const ALL: [RecoveryState; 14] = [
        RecoveryState::Planned,
        RecoveryState::Staged,
        RecoveryState::Prepared,
        RecoveryState::Replayed,
        RecoveryState::Fenced,
        RecoveryState::Switched,
        RecoveryState::Promoted,
        RecoveryState::Retained,
        RecoveryState::UndoFenced,
        RecoveryState::UndoSwitched,
        RecoveryState::Undone,
        RecoveryState::Aborted,
        RecoveryState::Failed,
        RecoveryState::Released,
    ];

    /// The name as journal, API and page show it: `REPLAYED`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RecoveryState::Planned => "PLANNED",
            RecoveryState::Staged => "STAGED",
            RecoveryState::Prepared => "PREPARED",
            RecoveryState::Replayed => "REPLAYED",
            RecoveryState::Fenced => "FENCED",
            RecoveryState::Switched => "SWITCHED",
            RecoveryState::Promoted => "PROMOTED",
            RecoveryState::Retained => "RETAINED",
            RecoveryState::UndoFenced => "UNDO_FENCED",
            RecoveryState::UndoSwitched => "UNDO_SWITCHED",
            RecoveryState::Undone => "UNDONE",
            RecoveryState::Aborted => "ABORTED",
            RecoveryState::Failed => "FAILED",
            RecoveryState::Released => "RELEASED",
        }
    }

    /// Whether nothing more happens by itself.
    pub(crate) fn is_settled(self) -> bool {
        matches!(
            self,
            RecoveryState::Retained
                | RecoveryState::Undone
                | RecoveryState::Aborted
                | RecoveryState::Failed
                | RecoveryState::Released
        )
    }
}

/// A recovery, as the store mirrors it; the journal on disk is the authority. A settled one is kept in the repository too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recovery {
    pub(crate) id: RecoveryId,
    pub(crate) instance: InstanceId,
    pub(crate) state: RecoveryState,
    pub(crate) plan: RecoveryPlan,
    /// Stop at `Replayed` until somebody promotes or aborts it.
    pub(crate) pause: bool,
    /// It waits at `Replayed` for a promote or an abort.
    pub(crate) paused: bool,
    /// Somebody asked for an abort.
    pub(crate) abort_asked: bool,
    pub(crate) fault: Option<Fault>,
    /// What was done and found, for people and for the proofs.
    pub(crate) outcome: RecoveryOutcome,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// What a recovery found and reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecoveryOutcome {
    /// What the applier had reached when it stopped; equal to the plan's position, or the recovery failed.
    pub(crate) reached: Option<GtidPosition>,
    /// Transactions the applier was given.
    pub(crate) replayed_transactions: u64,
    /// Where the server's own history ended when it was fenced.
    pub(crate) fenced_at: Option<Coordinate>,
    pub(crate) fence_position: Option<GtidPosition>,
    /// Unix microseconds; when the server was told to stop, and when it answered again.
    pub(crate) stopped_at: Option<Timestamp>,
    pub(crate) answered_at: Option<Timestamp>,
    /// The timeline that began with the promotion, and the one that began with the undo.
    pub(crate) timeline: Option<TimelineId>,
    pub(crate) undo_timeline: Option<TimelineId>,
    /// Seconds each step took, in the order they ran.
    pub(crate) steps: Vec<StepTime>,
    /// Whether the data from before the recovery is still kept.
    pub(crate) old_data_kept: bool,
    /// The undo window's end.
    pub(crate) undo_until: Option<Timestamp>,
    /// Whether the old server was running, dead with binlog files still readable, or dead without.
    pub(crate) tail: Option<Tail>,
    /// While the recovery is paused: the socket of a read-only server on the recovered data, for people to look at.
    pub(crate) inspect_socket: Option<String>,
    /// Ids of XA transactions that are prepared in the recovered data: somebody has to commit or roll them back.
    pub(crate) prepared_xa: Vec<String>,
    /// The full backup cast after the promotion.
    pub(crate) backup: Option<BackupId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepTime {
    pub(crate) step: String,
    pub(crate) milliseconds: u64,
}

/// What became of the newest transactions, those not yet shipped when the recovery began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tail {
    /// The server was running: shipped by itself, the rest when it was fenced.
    Running,
    /// The server was dead, its binlog files were readable: taken from them.
    FilesSurvived,
    /// The server was dead and its binlog files were gone: only what had been shipped before.
    FilesGone,
}

/// A recovery decided upon: every object it reads, the exact place it stops, what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryPlan {
    pub(crate) instance: InstanceId,
    pub(crate) target: RecoveryTarget,
    pub(crate) base: BackupId,
    pub(crate) base_end: BackupEnd,
    /// How the base was made, which decides how it is brought back.
    pub(crate) base_strategy: Strategy,
    /// Exact server version the base was taken from.
    pub(crate) base_version: String,
    pub(crate) base_raw_bytes: u64,
    pub(crate) base_stored_bytes: u64,
    /// Every chunk that is replayed, in order.
    pub(crate) chunks: Vec<PlannedChunk>,
    /// Where the replay ends.
    pub(crate) stop: Coordinate,
    /// The commit clock there, microseconds since 1970.
    pub(crate) stop_clock: i64,
    /// What the applier must have reached at the end.
    pub(crate) position: GtidPosition,
    /// Transactions to replay, those skipped not counted.
    pub(crate) transactions: u64,
    /// The last transaction that comes back by replay; absent when the base alone leads to the target.
    pub(crate) last_included: Option<PlannedTransaction>,
    /// The first transaction that does not come back; absent at the end of the shipped history.
    pub(crate) first_excluded: Option<PlannedTransaction>,
    pub(crate) skipped: Vec<Gtid>,
    /// Transactions of the current timeline after the stop, as far as they are shipped.
    pub(crate) given_up_transactions: u64,
    /// Bytes read from the repository.
    pub(crate) download_bytes: u64,
    /// Binlog bytes replayed.
    pub(crate) replay_bytes: u64,
    /// Free space needed beside the data directory.
    pub(crate) disk_bytes: u64,
    /// A guess from this host's earlier recoveries or from defaults, in seconds.
    pub(crate) estimate_seconds: u64,
    /// Things the operator should know before confirming.
    pub(crate) warnings: Vec<String>,
}

/// A chunk, or the part of one, that is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedChunk {
    pub(crate) key: String,
    pub(crate) timeline: TimelineId,
    pub(crate) ordinal: u32,
    pub(crate) file: String,
    /// The whole chunk's bytes in its file.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// SHA-256 of the raw chunk.
    pub(crate) sha256: String,
    /// Replay from here (inside the chunk at the base's end, else `begin`) ...
    pub(crate) from: u64,
    /// ... up to here (inside the chunk at the stop or at a branch, else `end`).
    pub(crate) to: u64,
}

/// A transaction in a plan, as people look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedTransaction {
    #[serde(default)]
    pub(crate) gtid: Option<Gtid>,
    pub(crate) begins_at: Coordinate,
    pub(crate) ends_at: Coordinate,
    /// Commit time, microseconds since 1970.
    pub(crate) committed_at: i64,
    /// The statement or the tables, shortened: `DROP TABLE shop.orders`, `shop.orders, shop.items`.
    pub(crate) what: String,
}

impl PlannedTransaction {
    /// What names it: its GTID, or its place in the binlog where it has none.
    pub(crate) fn name(&self) -> String {
        self.gtid.map_or_else(|| self.begins_at.to_string(), |gtid| gtid.to_string())
    }
}
