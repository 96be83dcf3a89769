//! Where a recovery shall lead.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::Gtid;
use crate::domain::id::{BackupId, TimelineId};

/// The point a recovery aims at. Cuts fall between transactions only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::enum_variant_names, reason = "the field's own word")]
pub(crate) enum Point {
    /// The end of a backup.
    Backup(BackupId),
    /// Every transaction committed at or before this time, and none after.
    PointInTime(Timestamp),
    /// Up to this transaction, which is included.
    Gtid(Gtid),
    /// Up to this transaction, which is left out.
    BeforeGtid(Gtid),
    /// Up to the transaction that holds the byte before this offset, which is included.
    Position(BinlogPosition),
    /// Up to the transaction that holds this offset, which is left out.
    BeforePosition(BinlogPosition),
    /// Everything that was shipped, and the tail that can still be read.
    Latest,
}

/// A recovery target: the point, and what to take it from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryTarget {
    pub(crate) point: Point,
    /// The timeline the point lies in; without it the current one and its past.
    #[serde(default)]
    pub(crate) timeline: Option<TimelineId>,
    /// Start from this backup; without it from the newest one that leads to the point.
    #[serde(default)]
    pub(crate) base: Option<BackupId>,
    /// Transactions to leave out.
    #[serde(default)]
    pub(crate) skip: Vec<Gtid>,
}

#[cfg(test)]
impl RecoveryTarget {
    pub(crate) fn new(point: Point) -> RecoveryTarget {
        RecoveryTarget { point, timeline: None, base: None, skip: Vec::new() }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Backup(id) => write!(f, "the end of backup {id}"),
            Point::PointInTime(time) => write!(f, "{time}"),
            Point::Gtid(gtid) => write!(f, "transaction {gtid}"),
            Point::BeforeGtid(gtid) => write!(f, "just before transaction {gtid}"),
            Point::Position(position) => write!(f, "binlog position {position}"),
            Point::BeforePosition(position) => write!(f, "just before binlog position {position}"),
            Point::Latest => f.write_str("the latest transaction"),
        }
    }
}
