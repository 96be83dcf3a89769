//! The only place that reads a clock.
//!
//! Decisions take `now` as an argument, so that they can be tested; whatever waits takes a `Deadline`.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The wall clock, for records and for people.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Measures spans by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub(crate) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A moment by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    started: Stopwatch,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Deadline {
        Deadline { started: Stopwatch::start(), limit }
    }

    /// What is left; zero once the deadline has passed.
    pub(crate) fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }
}
