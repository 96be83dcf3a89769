//! What a recovery costs: disk and time.

use crate::domain::backup::Strategy;

/// Head room for the server's own files beside the data: redo log, temporary tables, journal.
const DISK_MARGIN_BYTES: u64 = 64 * 1024 * 1024;

/// How fast this host is, from its earlier recoveries or from defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Raw bytes of a backup fetched, checked and unpacked.
    pub(crate) stage_bytes_per_second: u64,
    /// Raw bytes of a backup made consistent.
    pub(crate) prepare_bytes_per_second: u64,
    /// Binlog bytes replayed.
    pub(crate) replay_bytes_per_second: u64,
    /// Starts, stops and the exchange, whatever the size.
    pub(crate) fixed_seconds: u64,
}

impl Default for Rates {
    /// Two slow cores and a plain disk: better to be early than late.
    fn default() -> Rates {
        Rates {
            stage_bytes_per_second: 150_000_000,
            prepare_bytes_per_second: 400_000_000,
            replay_bytes_per_second: 25_000_000,
            fixed_seconds: 8,
        }
    }
}

/// Free space needed beside the data directory: the base and what preparing adds to it, the relay logs and the growth
/// of the data by their replay.
pub(super) fn disk_bytes(strategy: Strategy, base_raw_bytes: u64, replay_bytes: u64) -> u64 {
    // The statements stay until all are loaded; as rows with their indexes they may take as much again.
    let loaded_bytes = if strategy == Strategy::Dump { base_raw_bytes.saturating_mul(2) } else { 0 };
    base_raw_bytes
        .saturating_add(loaded_bytes)
        .saturating_add(base_raw_bytes.div_ceil(10))
        .saturating_add(replay_bytes.saturating_mul(2))
        .saturating_add(DISK_MARGIN_BYTES)
}

pub(super) fn estimate_seconds(rates: &Rates, base_raw_bytes: u64, replay_bytes: u64) -> u64 {
    let seconds = |bytes: u64, rate: u64| bytes.div_ceil(rate.max(1));
    rates
        .fixed_seconds
        .saturating_add(seconds(base_raw_bytes, rates.stage_bytes_per_second))
        .saturating_add(seconds(base_raw_bytes, rates.prepare_bytes_per_second))
        .saturating_add(seconds(replay_bytes, rates.replay_bytes_per_second))
}
