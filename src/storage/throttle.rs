//! The bandwidth limit: so many bytes a second over all transfers of one direction.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;

/// What may pass at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(250);

/// Grants bytes one after the other: each taker books the next free span of the line and waits for it to come, so many
/// takers share the line fairly and nobody holds a lock while waiting.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    since: Stopwatch,
    /// When the line is free again, counted from `since`.
    free_at: Mutex<Duration>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64) -> Throttle {
        let bytes_per_second = bytes_per_second.max(1);
        Throttle { bytes_per_second, since: Stopwatch::start(), free_at: Mutex::new(Duration::ZERO) }
    }

    /// The most that should be taken at once, so that waits stay short.
    pub(super) fn piece(&self) -> usize {
        usize::try_from(self.bytes_per_second / 8).unwrap_or(usize::MAX).clamp(1024, 256 * 1024)
    }

    /// Waits until `bytes` more may pass.
    pub(super) fn take(&self, bytes: usize) {
        let wait = self.book(bytes, self.since.elapsed());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    /// How long the next `bytes` have to wait at `now`.
    fn book(&self, bytes: usize, now: Duration) -> Duration {
        let nanos = u128::try_from(bytes).unwrap_or(0) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let span = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free_at).max(now.saturating_sub(BURST));
        *free_at = begin.saturating_add(span);
        free_at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_rate_wait_their_turn() {
        let throttle = Throttle::new(1000);
        let at = Duration::from_secs;
        assert_eq!(throttle.book(1000, at(0)), at(1));
        // A second taker waits behind the first.
        assert_eq!(throttle.book(500, at(0)), Duration::from_millis(1500));
        // What was booked in time costs nothing later, and a long pause saves up a quarter of a second only.
        assert_eq!(throttle.book(250, at(100)), Duration::ZERO);
        assert_eq!(throttle.book(1000, at(100)), at(1));
    }

    #[test]
    fn a_taker_is_held_back() {
        let throttle = Throttle::new(100_000);
        let watch = Stopwatch::start();
        for _ in 0..10 {
            throttle.take(1000);
        }
        assert!(watch.elapsed() >= Duration::from_millis(90));
    }
}
