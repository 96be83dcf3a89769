//! What a recovery costs: disk, time, and whether the base fits the server's version.

use crate::domain::backup::Backup;
use crate::recovery::plan::refusal::PlanError;
use crate::recovery::plan::warning::Warning;

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
pub(super) fn disk_bytes(base_raw_bytes: u64, replay_bytes: u64) -> u64 {
    base_raw_bytes
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

/// Refuses a base of another release series: its files are not this server's. A warning for another patch level.
pub(super) fn check_version(base: &Backup, server_version: &str) -> Result<Option<Warning>, PlanError> {
    let (Some(taken), Some(runs)) = (numbers(&base.server_version), numbers(server_version)) else {
        return Ok(None); // One of them was never seen; the datastore's own tool has the last word.
    };
    if (taken.0, taken.1) != (runs.0, runs.1) {
        return Err(PlanError::VersionMismatch {
            base: base.id,
            base_version: base.server_version.clone(),
            server_version: server_version.to_owned(),
        });
    }
    Ok((taken.2 != runs.2).then(|| Warning::PatchLevel {
        base_version: base.server_version.clone(),
        server_version: server_version.to_owned(),
    }))
}

/// Major, minor and patch of `10.11.19-MariaDB-deb12`.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let plain = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut fields = plain.split('.').map(|field| field.parse::<u32>().ok());
    Some((fields.next()??, fields.next()??, fields.next().flatten().unwrap_or(0)))
}
