//! What the tests and the benchmarks share: a directory that cleans up after itself, the appliance as a child process,
//! its HTTP interface and command line, plain SQL, a load whose outcome is known, and the server's own tools as the judge.

pub(crate) mod api;
pub(crate) mod appliance;
pub(crate) mod bed;
pub(crate) mod cell;
pub(crate) mod events;
pub(crate) mod history;
pub(crate) mod instance;
pub(crate) mod load;
#[path = "../../../src/testing/proxy/mod.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
pub(crate) mod proxy;
pub(crate) mod remote;
pub(crate) mod server;
pub(crate) mod sql;
#[path = "../../../src/testing/stores.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
pub(crate) mod stores;

use std::time::{Duration, Instant};

/// Looks again and again until `look` finds something; panics with `what` once `limit` has passed.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < limit, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A small generator of our own, so that a printed seed repeats a run on any version of anything.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `COFFER_TEST_SEED` or by the clock; prints the seed.
    pub(crate) fn seeded(test: &str) -> Random {
        let seed = std::env::var("COFFER_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64
        });
        println!("{test}: COFFER_TEST_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
