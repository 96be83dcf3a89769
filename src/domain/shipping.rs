//! How far an instance's binlog has reached the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::GtidPosition;

/// The shipper's own word on where it stands; never derived from "the job succeeded".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShippingStatus {
    pub(crate) state: ShippingState,
    /// Everything before this place is in the repository.
    pub(crate) shipped_to: Option<Coordinate>,
    pub(crate) position: GtidPosition,
    /// Commit time of the last shipped transaction, microseconds since 1970; 0 before the first.
    pub(crate) last_commit: i64,
    /// Bytes of binlog on the server that are not in the repository yet.
    pub(crate) behind_bytes: u64,
    /// Since when something waits to be shipped; absent when everything is.
    pub(crate) behind_since: Option<Timestamp>,
    /// What is wrong, in a sentence with the remedy; empty when nothing is.
    pub(crate) message: String,
    /// When the shipper last looked.
    pub(crate) looked_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShippingState {
    /// Looking at the server's binlog, shipping what comes.
    Shipping,
    /// Held while a recovery switches the data.
    Held,
    /// Something stands in the way; it is tried again.
    Failing,
}
