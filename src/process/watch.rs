//! Keeps watch over one child until it has ended: drains what it writes, kills its group in time.
//!
//! One loop over `poll`, no thread per pipe: a pipe that a grandchild holds open can then never block a join.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::clock::Deadline;

/// How often flags and deadline are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long pipes are drained after the child has ended; a grandchild may hold them open for ever.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Itself,
    Deadline,
    /// The caller cancelled, killed or dropped it.
    Stopped,
    /// It wrote more than it may.
    Overflow,
}

/// A child's end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) why: Why,
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr_tail: String,
}

/// The last bytes written to it, and optionally a file that gets them all.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    bytes_max: usize,
    log: Option<File>,
}

impl Tail {
    pub(super) fn new(bytes_max: usize, log: Option<File>) -> Tail {
        Tail { bytes: VecDeque::new(), bytes_max, log }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            // The tail still has the evidence when the log's disk is full.
            let _ = log.write_all(bytes);
        }
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(self.bytes_max);
        self.bytes.drain(..excess);
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&Vec::from(self.bytes)).into_owned()
    }
}

/// A child and everything its end depends on.
pub(super) struct Watch {
    child: Child,
    pidfd: OwnedFd,
    group: Pid,
    stdout: Option<ChildStdout>,
    stdout_bytes_max: usize,
    stderr: Option<ChildStderr>,
    tail: Tail,
    deadline: Deadline,
    cancelled: Option<Arc<AtomicBool>>,
    stopped: Arc<AtomicBool>,
}

impl Watch {
    /// Takes the child over. If that fails the child is killed.
    pub(super) fn new(
        mut child: Child,
        stdout: Option<ChildStdout>,
        stdout_bytes_max: usize,
        tail: Tail,
    ) -> io::Result<Watch> {
        let stderr = child.stderr.take();
        let prepared = (|| {
            let group = pid(child.id())?;
            let pidfd = pidfd_open(group, PidfdFlags::empty())?;
            for fd in [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
                rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK)?;
            }
            Ok((group, pidfd))
        })();
        let (group, pidfd) = match prepared {
            Ok(prepared) => prepared,
            Err(err) => {
                kill_unwatched(child);
                return Err(err);
            }
        };
        Ok(Watch {
            child,
            pidfd,
            group,
            stdout,
            stdout_bytes_max,
            stderr,
            tail,
            deadline: Deadline::after(Duration::MAX),
            cancelled: None,
            stopped: Arc::new(AtomicBool::new(false)),
        })
    }

    pub(super) fn with_limits(mut self, deadline: Deadline, cancelled: Option<Arc<AtomicBool>>) -> Watch {
        self.deadline = deadline;
        self.cancelled = cancelled;
        self
    }

    /// The flag that kills the child's group.
    pub(super) fn stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    pub(super) fn until_ended(mut self) -> Ended {
        let mut why = Why::Itself;
        let mut stdout = Vec::new();
        let mut draining: Option<Deadline> = None;
        loop {
            if why == Why::Itself && draining.is_none() {
                why = self.reason_to_kill(&stdout);
                if why != Why::Itself {
                    // The leader is not reaped yet, so the group's number can't have gone to somebody else.
                    let _ = kill_process_group(self.group, Signal::KILL);
                }
            }
            let exited = self.wait_for_something(draining.is_some());
            self.drain(&mut stdout);
            if exited && draining.is_none() {
                draining = Some(Deadline::after(DRAIN));
            }
            if let Some(draining) = &draining
                && (draining.has_passed() || (self.stdout.is_none() && self.stderr.is_none()))
            {
                break;
            }
        }
        let status = self.child.wait().ok();
        Ended { why, status, stdout, stderr_tail: self.tail.into_text() }
    }

    fn reason_to_kill(&self, stdout: &[u8]) -> Why {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        if is_set(&self.stopped) || self.cancelled.as_deref().is_some_and(is_set) {
            Why::Stopped
        } else if self.deadline.has_passed() {
            Why::Deadline
        } else if stdout.len() > self.stdout_bytes_max {
            Why::Overflow
        } else {
            Why::Itself
        }
    }

    /// Sleeps until a pipe or the child needs attention, at most a tick. Whether the child has ended.
    fn wait_for_something(&self, draining: bool) -> bool {
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        // An ended child's pidfd stays readable and would turn the drain into a spin.
        let watched = if draining { fds.get_mut(1..) } else { fds.get_mut(..) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        if let Some(watched) = watched {
            // An interrupted poll is as good as a tick.
            let _ = poll(watched, Some(&timeout));
        }
        draining || fds.first().is_some_and(|fd| !fd.revents().is_empty())
    }

    fn drain(&mut self, stdout: &mut Vec<u8>) {
        let keep_max = self.stdout_bytes_max;
        drain_pipe(&mut self.stdout, |bytes| {
            // One byte more than allowed says that there was too much; the rest is thrown away.
            let room = (keep_max + 1).saturating_sub(stdout.len()).min(bytes.len());
            stdout.extend(bytes.iter().take(room));
        });
        let tail = &mut self.tail;
        drain_pipe(&mut self.stderr, |bytes| tail.push(bytes));
    }
}

/// Kills a child nobody could begin to watch.
pub(super) fn kill_unwatched(mut child: Child) {
    if let Ok(group) = pid(child.id()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

pub(super) fn pid(number: u32) -> io::Result<Pid> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{number} is no process id"));
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(invalid)
}

/// Reads what is there, a bounded amount at a time so that one loud pipe can't starve the deadline; closes it at its end.
fn drain_pipe(pipe: &mut Option<impl Read>, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 64 << 10];
    for _ in 0..16 {
        let Some(open) = pipe else { return };
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => keep(buffer.get(..count).unwrap_or_default()),
            Err(err) if is_later(&err) => return,
            Err(_) => *pipe = None,
        }
    }
}

fn is_later(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
