//! The log: one line per event on standard error, for `journalctl` and `grep`.
//!
//! A line is `time level area: message key=value ...`. Time is UTC, RFC 3339. What a thread works on (a task, an instance)
//! is set once with `ids` and stands at the end of each of its lines. Secrets never get here: no type that holds one
//! can be displayed. Line breaks and control characters are escaped, so that no message can forge a second line.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use crate::clock;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

thread_local! {
    static IDS: RefCell<Vec<(&'static str, String)>> = const { RefCell::new(Vec::new()) };
}

/// Something happened that an operator may want to read about later.
pub(crate) fn info(area: &str, message: impl fmt::Display) {
    write(Level::Info, area, &message.to_string());
}

/// Something is wrong and is being dealt with.
pub(crate) fn warn(area: &str, message: impl fmt::Display) {
    write(Level::Warn, area, &message.to_string());
}

/// Something failed and somebody has to look at it.
pub(crate) fn error(area: &str, message: impl fmt::Display) {
    write(Level::Error, area, &message.to_string());
}

/// Puts `key=value` on every line this thread logs until the returned guard is dropped.
#[must_use = "the id is on the lines only as long as the guard lives"]
pub(crate) fn id(key: &'static str, value: impl fmt::Display) -> IdGuard {
    IDS.with_borrow_mut(|ids| ids.push((key, value.to_string())));
    IdGuard { _not_send: std::marker::PhantomData }
}

/// Takes its id off the lines of this thread when dropped. Guards are dropped in the reverse order of their making.
pub(crate) struct IdGuard {
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for IdGuard {
    fn drop(&mut self) {
        IDS.with_borrow_mut(|ids| ids.pop());
    }
}

fn write(level: Level, area: &str, message: &str) {
    let line = IDS.with_borrow(|ids| render(clock::now(), level, area, message, ids));
    // A log nobody can read any more is no reason to stop working.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// The whole line, with its end.
fn render(at: jiff::Timestamp, level: Level, area: &str, message: &str, ids: &[(&'static str, String)]) -> String {
    let mut line = format!("{at:.3} {} {area}: ", level.name());
    escape_into(&mut line, message);
    for (key, value) in ids {
        let _ = write!(line, " {key}=");
        escape_into(&mut line, value);
    }
    line.push('\n');
    line
}

fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_time_level_area_message_and_ids() {
        let at = "2026-05-04T10:00:00.1234Z".parse().unwrap();
        let line = render(at, Level::Warn, "shipper", "binlog.000001 was purged", &[("instance", "7".to_owned())]);
        assert_eq!(line, "2026-05-04T10:00:00.123Z warn shipper: binlog.000001 was purged instance=7\n");
    }

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        let line = render(jiff::Timestamp::UNIX_EPOCH, Level::Info, "a", "x\n2026 error b: y\x1b[31m", &[]);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains(r"x\n2026") && line.contains(r"\u{1b}[31m"), "{line}");
    }

    #[test]
    fn ids_end_with_their_guard() {
        let outer = id("task", 1);
        {
            let _inner = id("instance", 2);
            IDS.with_borrow(|ids| assert_eq!(ids.len(), 2));
        }
        IDS.with_borrow(|ids| assert_eq!(ids.as_slice(), [("task", "1".to_owned())]));
        drop(outer);
        IDS.with_borrow(|ids| assert!(ids.is_empty()));
    }
}
