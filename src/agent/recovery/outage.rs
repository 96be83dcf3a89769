//! A repository that does not answer: the recovery waits and goes on, as long as the server serves meanwhile.
//!
//! The drivers ride out what is over in two minutes by themselves. What lasts longer comes here as `Unavailable`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::recovery::{WATCH_EVERY, Walk};
use crate::clock::Stopwatch;
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::storage::patience;

/// Who has not mended the store by then is not about to.
const OUTAGE_MAX: Duration = Duration::from_secs(24 * 3600);
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The failures of one step in a row.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Option<Stopwatch>,
    failures: u32,
}

impl Outage {
    /// The step came further: the next failure begins another outage.
    pub(super) fn is_over(&mut self) {
        *self = Outage::default();
    }

    /// Waits until it is worth another try, and tells that the step goes on then. An error that is no outage is returned
    /// at once, the outage's own once it has lasted too long, and `Interrupted` when the recovery shall end.
    pub(super) fn wait(&mut self, walk: &Walk<'_>, step: &str, err: Error) -> Result<(), Error> {
        let pause = self.pause(err)?;
        walk.reporter.step(&format!("waiting for the repository: {}", pause.reason));
        let waited = Stopwatch::start();
        while waited.elapsed() < pause.length {
            if walk.cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the recovery ends while it waits for the repository"));
            }
            std::thread::sleep(WATCH_EVERY.min(pause.length));
        }
        walk.reporter.step(step);
        Ok(())
    }

    fn pause(&mut self, err: Error) -> Result<Pause, Error> {
        if err.kind() != ErrorKind::Unavailable {
            return Err(err);
        }
        let since = *self.since.get_or_insert_with(|| {
            logging::warn("recovery", format!("waiting for the repository: {err}"));
            Stopwatch::start()
        });
        if since.elapsed() >= OUTAGE_MAX {
            // Of another kind, so that nobody above waits again.
            return Err(Error::new(ErrorKind::Io, err.message())
                .context("the repository has not answered for 24 hours")
                .hint("The serving database is untouched. Start the recovery again once the repository answers."));
        }
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32 << (self.failures - 1).min(16);
        Ok(Pause { length: PAUSE_FIRST.saturating_mul(factor).min(PAUSE_MAX), reason: err.message() })
    }
}

struct Pause {
    length: Duration,
    reason: String,
}

/// Does something with the repository as often as it takes.
pub(super) fn patiently<T>(walk: &Walk<'_>, step: &str, mut act: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut outage = Outage::default();
    loop {
        match patience::unless(&walk.cancelled, &mut act) {
            Ok(done) => return Ok(done),
            Err(err) => outage.wait(walk, step, err)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_again_after_progress() {
        let away = || Error::new(ErrorKind::Unavailable, "the store does not answer");
        let mut outage = Outage::default();
        let seconds = |outage: &mut Outage| outage.pause(away()).unwrap().length.as_secs();
        assert_eq!([(); 9].map(|()| seconds(&mut outage)), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        outage.is_over();
        assert_eq!(seconds(&mut outage), 1);
        assert_eq!(outage.pause(away()).unwrap().reason, "the store does not answer");
    }

    #[test]
    fn what_is_no_outage_is_not_waited_for() {
        for kind in [ErrorKind::Corrupt, ErrorKind::Forbidden, ErrorKind::NoSpace, ErrorKind::Interrupted] {
            let err = Outage::default().pause(Error::new(kind, "something else")).err().unwrap();
            assert_eq!(err.kind(), kind);
        }
    }
}
