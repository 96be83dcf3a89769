//! What a store's failures mean for the next attempt, and the loop that makes it.
//!
//! Every operation of an object store is repeatable here: objects are immutable and a `put` looks first whether its work
//! is done already. So the only question is whether a repeat can help, which the one who saw the failure answers.

use std::fmt;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::error::Error;
use crate::logging;
use crate::storage::patience;

/// A store may ask for a pause (`Retry-After`), but not for a nap.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(30);

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether the same request can succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After the usual pause.
    Later,
    /// After the pause the store asked for.
    After(Duration),
}

impl Failure {
    /// A failure that a repeat cannot mend.
    pub(super) fn lasting(error: Error) -> Failure {
        Failure { error, again: Again::Never }
    }

    /// A failure that may have passed by the next attempt.
    pub(super) fn passing(error: Error) -> Failure {
        Failure { error, again: Again::Later }
    }
}

/// An error of ours from elsewhere (a file that cannot be read) is not the store's and does not pass.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::lasting(error)
    }
}

/// How often and how long something is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) attempts_max: u32,
    /// No attempt begins later than this after the first.
    pub(super) total_max: Duration,
    /// The pause behind the first attempt; each further one is twice as long, up to `pause_max`.
    pub(super) pause_first: Duration,
    pub(super) pause_max: Duration,
}

impl Policy {
    /// For work: rides out a store's restart.
    pub(super) const PATIENT: Policy = Policy {
        attempts_max: 12,
        total_max: Duration::from_secs(120),
        pause_first: Duration::from_millis(200),
        pause_max: Duration::from_secs(20),
    };

    /// While a store is opened and somebody waits for the answer.
    pub(super) const BRIEF: Policy = Policy {
        attempts_max: 3,
        total_max: Duration::from_secs(15),
        pause_first: Duration::from_millis(200),
        pause_max: Duration::from_secs(2),
    };

    /// The pause behind attempt `nth` (from 1); `lot` in 0..=255 spreads it over its upper half, so that many clients
    /// that failed together do not come back together.
    fn pause(&self, nth: u32, lot: u8) -> Duration {
        let full = self.pause_first.saturating_mul(1 << nth.saturating_sub(1).min(16)).min(self.pause_max);
        full / 2 + (full / 2).mul_f64(f64::from(lot) / 255.0)
    }
}

/// One run of attempts at the same thing. `run` is the whole loop; a reader that goes on where it broke off
/// counts by hand with `pause_after`.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: Policy,
    made: u32,
    since: Stopwatch,
}

impl Attempts {
    pub(super) fn new(policy: Policy) -> Attempts {
        Attempts { policy, made: 0, since: Stopwatch::start() }
    }

    /// Waits until the next attempt may begin, or returns the error when there is none left or none can help.
    pub(super) fn pause_after(&mut self, failure: Failure, doing: &dyn fmt::Display) -> Result<(), Error> {
        self.made += 1;
        let pause = match failure.again {
            Again::Never => return Err(self.told(failure.error)),
            Again::Later => self.policy.pause(self.made, lot()),
            Again::After(asked) => asked.min(PAUSE_ASKED_MAX).max(self.policy.pause(self.made, lot())),
        };
        if self.made >= self.policy.attempts_max || self.since.elapsed() + pause > self.policy.total_max {
            return Err(self.told(failure.error));
        }
        if self.made == 1 {
            logging::warn("storage", format_args!("{doing} is tried again: {}", failure.error.message()));
        }
        if patience::sleep(pause) { Ok(()) } else { Err(self.told(failure.error)) }
    }

    /// Progress was made: the next failure is the first one again.
    pub(super) fn start_over(&mut self) {
        *self = Attempts::new(self.policy);
    }

    fn told(&self, error: Error) -> Error {
        match self.made {
            0 | 1 => error,
            made => error.context(format_args!("tried {made} times in {:.0} s", self.since.elapsed().as_secs_f64())),
        }
    }
}

/// Makes attempts until one succeeds, one fails for good, or `policy` ends it; `doing` is for the log.
pub(super) fn run<T>(
    policy: Policy,
    doing: impl fmt::Display,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Error> {
    let mut attempts = Attempts::new(policy);
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(failure) => attempts.pause_after(failure, &doing)?,
        }
    }
}

fn lot() -> u8 {
    let mut byte = [127];
    // Without randomness the pauses are merely less spread.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const QUICK: Policy = Policy {
        attempts_max: 4,
        total_max: Duration::from_secs(60),
        pause_first: Duration::from_millis(1),
        pause_max: Duration::from_millis(4),
    };

    fn down() -> Error {
        Error::new(ErrorKind::Unavailable, "down")
    }

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_not() {
        let mut made = 0;
        let done = run(QUICK, "a thing", || {
            made += 1;
            if made < 3 { Err(Failure::passing(down())) } else { Ok(made) }
        });
        assert_eq!(done.unwrap(), 3);
        let mut made = 0;
        let err = run(QUICK, "a thing", || -> Result<(), Failure> {
            made += 1;
            Err(Failure::lasting(Error::new(ErrorKind::Forbidden, "no")))
        });
        assert_eq!((err.unwrap_err().kind(), made), (ErrorKind::Forbidden, 1));
    }

    #[test]
    fn attempts_are_bounded_in_number_and_in_time() {
        let mut made = 0;
        let err = run(QUICK, "a thing", || -> Result<(), Failure> {
            made += 1;
            Err(Failure::passing(down()))
        })
        .unwrap_err();
        assert_eq!(made, 4);
        assert!(err.message().starts_with("tried 4 times"), "{err}");
        let mut made = 0;
        let late = Policy { attempts_max: 100, total_max: Duration::from_millis(50), ..QUICK };
        run(late, "a thing", || -> Result<(), Failure> {
            made += 1;
            Err(Failure { error: down(), again: Again::After(Duration::from_millis(20)) })
        })
        .unwrap_err();
        assert!((2..=3).contains(&made), "{made}");
    }

    #[test]
    fn pauses_grow_and_are_spread() {
        let policy = Policy::PATIENT;
        assert_eq!(policy.pause(1, 0), Duration::from_millis(100));
        assert_eq!(policy.pause(1, 255), Duration::from_millis(200));
        assert_eq!(policy.pause(3, 255), Duration::from_millis(800));
        assert_eq!(policy.pause(40, 255), policy.pause_max);
    }
}
