//! How long whoever asks a store is ready to wait for it.
//!
//! Drivers ride out what passes within two minutes. Some callers cannot wait that long: a database server that is down
//! meanwhile, somebody who wants the task to end. What they set holds for their thread while they ask, so that it need
//! not be handed through every call of every driver.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::{Deadline, Stopwatch};

/// How soon somebody is heard who wants the waiting to end.
const NOTICE_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
enum Patience {
    Until(Deadline),
    Unless(Arc<AtomicBool>),
}

thread_local! {
    static CURRENT: RefCell<Option<Patience>> = const { RefCell::new(None) };
}

/// Does `act`; no store is tried again once the deadline has passed.
pub(crate) fn until<T>(deadline: Deadline, act: impl FnOnce() -> T) -> T {
    with(Patience::Until(deadline), act)
}

/// Does `act`; no store is tried again once `given_up` is set.
pub(crate) fn unless<T>(given_up: &Arc<AtomicBool>, act: impl FnOnce() -> T) -> T {
    with(Patience::Unless(Arc::clone(given_up)), act)
}

fn with<T>(patience: Patience, act: impl FnOnce() -> T) -> T {
    /// Puts back what was set before, also behind a panic.
    struct Former(Option<Patience>);
    impl Drop for Former {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _former = Former(CURRENT.replace(Some(patience)));
    act()
}

/// Sleeps between two attempts. False, and at once, when there shall not be another one.
pub(super) fn sleep(pause: Duration) -> bool {
    match CURRENT.with_borrow(Clone::clone) {
        None => std::thread::sleep(pause),
        Some(Patience::Until(deadline)) => {
            if deadline.remaining() <= pause {
                return false;
            }
            std::thread::sleep(pause);
        }
        Some(Patience::Unless(given_up)) => {
            let slept = Stopwatch::start();
            while slept.elapsed() < pause {
                if given_up.load(Ordering::SeqCst) {
                    return false;
                }
                std::thread::sleep(NOTICE_AFTER.min(pause.saturating_sub(slept.elapsed())));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_whoever_asked_wants_to() {
        let short = Duration::from_millis(5);
        let long = Duration::from_secs(600);
        assert!(sleep(short));
        assert!(until(Deadline::after(long), || sleep(short)));
        assert!(!until(Deadline::after(short), || sleep(long)));
        let given_up = Arc::new(AtomicBool::new(false));
        assert!(unless(&given_up, || sleep(short)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| unless(&given_up, || sleep(long)));
            std::thread::sleep(short);
            given_up.store(true, Ordering::SeqCst);
            assert!(!waiting.join().unwrap());
        });
        // What was set before holds again.
        until(Deadline::after(short), || {
            until(Deadline::after(long), || assert!(sleep(short)));
            assert!(!sleep(long));
        });
        assert!(sleep(short));
    }
}
