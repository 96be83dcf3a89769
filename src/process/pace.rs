//! Work that can wait goes at the pace the rest of the machine leaves it.
//!
//! A low priority is not enough: it counts only among the threads of one session or service, and says nothing of the
//! disk. So whoever can wait looks at how much of the processors everybody else takes, from `/proc/stat` less its own
//! time, and rests until its own share is small. Where the kernel does not tell, it goes at full speed.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::clock::Stopwatch;

/// Others that take less of the processors are not disturbed; the kernel's own work for us is among it.
const QUIET_SHARE: f64 = 0.25;
/// What is always taken, so that the work comes to its end.
const OWN_SHARE_MIN: f64 = 0.05;
/// The kernel counts hundredths of seconds.
const WINDOW: Duration = Duration::from_millis(200);
/// Windows that are rested at most behind one. What else the process does counts as its own too, and goes on meanwhile:
/// without an end to it, a rest would be the reason for a longer one.
const RESTS_MAX: f64 = 15.0;
/// The longest rest before the caller may look around again.
const REST_MAX: Duration = Duration::from_millis(500);

/// Watches the machine from `begin` on.
pub(crate) struct Pace {
    window: Stopwatch,
    before: Option<Sample>,
    /// The own seconds for which was rested: other threads go on for a while with what they were given.
    paid: f64,
    /// What is to be rested yet.
    owed: Duration,
}

/// Seconds of processor time since the machine, and the process, began.
#[derive(Debug, Clone, Copy)]
struct Sample {
    all: f64,
    busy: f64,
    own: f64,
}

impl Pace {
    pub(crate) fn begin() -> Pace {
        let before = sample();
        let paid = before.map_or(0.0, |sample| sample.own);
        Pace { window: Stopwatch::start(), before, paid, owed: Duration::ZERO }
    }

    /// To be called again and again between small pieces of work: rests as long as the others need, half a second at
    /// most.
    pub(crate) fn keep(&mut self) {
        let length = self.window.elapsed();
        if length >= WINDOW {
            let now = sample();
            if let Some((before, now)) = self.before.zip(now) {
                if let Some(shares) = shares(before, now, self.paid) {
                    self.owed = rest_owed(length, shares);
                }
                self.paid = now.own;
            }
            (self.window, self.before) = (Stopwatch::start(), now);
        }
        let rest = self.owed.min(REST_MAX);
        if !rest.is_zero() {
            std::thread::sleep(rest);
            self.owed -= rest;
            // A rest is no window: others that wait for nothing meanwhile are not what is asked for.
            (self.window, self.before) = (Stopwatch::start(), sample());
        }
    }
}

/// What was taken of all processors in a window, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shares {
    others: f64,
    own: f64,
    /// Of the process, also before the window.
    unpaid: f64,
}

fn shares(before: Sample, now: Sample, paid: f64) -> Option<Shares> {
    let all = now.all - before.all;
    if all <= 0.0 {
        return None;
    }
    let own = ((now.own - before.own) / all).clamp(0.0, 1.0);
    let others = ((now.busy - before.busy) / all - own).clamp(0.0, 1.0);
    Some(Shares { others, own, unpaid: ((now.own - paid) / all).max(own) })
}

/// How long to rest behind a window, so that the own share of both together is half of what nobody took in it.
fn rest_owed(window: Duration, shares: Shares) -> Duration {
    let Shares { others, own, unpaid } = shares;
    if others < QUIET_SHARE {
        return Duration::ZERO;
    }
    let allowed = ((1.0 - others - own).max(0.0) / 2.0).max(OWN_SHARE_MIN);
    window.mul_f64((unpaid / allowed - 1.0).clamp(0.0, RESTS_MAX))
}

fn sample() -> Option<Sample> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let (all, busy) = ticks(&text)?;
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let second = rustix::param::clock_ticks_per_second() as f64;
    Some(Sample {
        all: all as f64 / second,
        busy: busy as f64 / second,
        own: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
    })
}

/// All ticks and the busy ones, from the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq,
/// softirq, steal. Guests' time is among user's.
fn ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4)?;
    let all: u64 = fields.iter().sum();
    Some((all, all - idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_the_kernels_words() {
        let text = "cpu  100 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(ticks(text), Some((621, 171)));
        assert_eq!(ticks("cpu  1 2 3"), None);
        assert_eq!(ticks("intr 5"), None);
        let here = sample().unwrap();
        assert!(here.busy > 0.0 && here.all > here.busy);
    }

    #[test]
    fn shares_are_told_apart() {
        let sample = |all, busy, own| Sample { all, busy, own };
        let told = shares(sample(10.0, 5.0, 1.0), sample(14.0, 8.0, 2.0), 1.0);
        assert_eq!(told, Some(Shares { others: 0.5, own: 0.25, unpaid: 0.25 }));
        // What was taken during the last rest counts too.
        let told = shares(sample(10.0, 5.0, 1.0), sample(14.0, 8.0, 2.0), 0.0);
        assert_eq!(told, Some(Shares { others: 0.5, own: 0.25, unpaid: 0.5 }));
        assert_eq!(shares(sample(10.0, 5.0, 1.0), sample(10.0, 5.0, 1.0), 1.0), None);
    }

    #[test]
    fn whoever_is_alone_does_not_rest_and_a_busy_machine_is_left_to_the_others() {
        let window = Duration::from_secs(1);
        let owed = |others, own, unpaid| rest_owed(window, Shares { others, own, unpaid }).as_secs_f64();
        assert_eq!(owed(0.1, 0.9, 0.9), 0.0);
        // Nothing was left: what was taken is spread until it is the least share.
        for unpaid in [0.4, 0.5] {
            let rest = owed(0.6, 0.4, unpaid);
            assert!((unpaid / (1.0 + rest) - OWN_SHARE_MIN).abs() < 1e-9, "{rest}");
        }
        // Half of what is left over may be taken without a rest.
        assert_eq!(owed(0.4, 0.2, 0.2), 0.0);
        assert_eq!(owed(0.9, 0.1, 1e9), RESTS_MAX);
    }
}
