//! A process of which only the number was kept: found again after a restart of coffer, and never mistaken.
//!
//! A number alone may belong to somebody else by now. With the start time of the process beside it, it names one process
//! for ever; a pidfd then holds on to that process, so that a signal can't hit another.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::watch;
use crate::clock::Deadline;
use crate::error::{Error, ErrorKind};

/// A process that may have been started by an earlier coffer.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// The process with this number and start time; none if it has ended, whoever has the number now.
    pub(crate) fn open(pid: u32, start_time: u64) -> Result<Option<ProcessHandle>, Error> {
        let found = ProcessHandle::of_pid(pid)?;
        Ok(found.filter(|handle| handle.start_time == start_time && handle.is_alive()))
    }

    /// The process that has this number now.
    pub(crate) fn of_pid(pid: u32) -> Result<Option<ProcessHandle>, Error> {
        let Ok(number) = watch::pid(pid) else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(err) => {
                let message = format!("unable to look at process {pid}");
                return Err(Error::new(ErrorKind::Unavailable, message).with_source(err));
            }
        };
        // In this order: what /proc says of a number that the pidfd still holds is said of this very process.
        let Some(start_time) = start_time(pid) else { return Ok(None) };
        let handle = ProcessHandle { pid, start_time, pidfd };
        Ok(Some(handle).filter(ProcessHandle::is_alive))
    }

    /// A child that was just started and that nobody has waited for, even if it has ended already.
    pub(super) fn of_child(pid: u32) -> Result<ProcessHandle, Error> {
        let unable = || Error::new(ErrorKind::Unavailable, format!("unable to look at the new process {pid}"));
        let number = watch::pid(pid).map_err(|err| unable().with_source(err))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|err| unable().with_source(err))?;
        let start_time = start_time(pid).ok_or_else(unable)?;
        Ok(ProcessHandle { pid, start_time, pidfd })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.wait(Duration::ZERO)
    }

    /// Waits for the end of the process, at most `limit`. Whether it has ended.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let deadline = Deadline::after(limit);
        loop {
            let left = deadline.remaining();
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::from(i32::MAX)).min(i64::from(i32::MAX)),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            if matches!(poll(&mut fds, Some(&timeout)), Ok(count) if count > 0) {
                self.reap();
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
        }
    }

    /// Asks the process to end (SIGTERM). One that has ended already is fine.
    pub(crate) fn terminate(&self) -> Result<(), Error> {
        self.signal(Signal::TERM)
    }

    /// Ends the process at once (SIGKILL). One that has ended already is fine.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(err) => {
                let message = format!("unable to end process {}", self.pid);
                Err(Error::new(ErrorKind::Refused, message)
                    .hint("Run coffer as root, or as the user the server runs as.")
                    .with_source(err))
            }
        }
    }

    /// Clears the zombie away if the process was a child of this coffer; it is not after a restart.
    fn reap(&self) {
        use std::os::fd::AsFd;
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// When the process began, as a number that no other process with the same id shares, not even after a reboot:
/// clock ticks since the boot, below a few bits of the boot's own id. None if there is no such process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    const TICK_BITS: u32 = 40;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = start_ticks(&stat)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // 23 bits, so that the whole fits a signed column too.
    let boot_bits = boot.get(..8).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0) & 0x7f_ffff;
    Some(boot_bits << TICK_BITS | ticks & ((1 << TICK_BITS) - 1))
}

/// Field 22 of /proc/PID/stat. The name, field 2, may hold blanks and parentheses, so counting begins behind the last.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_start_time() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 10 18446744073709551615";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert_eq!(start_ticks("42"), None);
    }

    #[test]
    fn a_reused_pid_is_not_taken_for_ours() {
        let own = std::process::id();
        let began = start_time(own).unwrap();
        assert!(ProcessHandle::open(own, began).unwrap().is_some());
        assert!(ProcessHandle::open(own, began + 1).unwrap().is_none());
        assert!(ProcessHandle::open(0, began).unwrap().is_none());
        assert!(ProcessHandle::open(u32::MAX, began).unwrap().is_none());
    }
}
