//! A directory of a test's own, and the end of every process that belongs to it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::cell::{Cell, Datastore};
use super::wait_for;

/// Where one test keeps everything. Dropping it ends, by pid, every process that names the directory in its arguments.
#[derive(Debug)]
pub(crate) struct Bed {
    dir: PathBuf,
    cell: Cell,
}

impl Bed {
    /// For a test that names no cell.
    pub(crate) fn new(name: &str) -> Bed {
        Bed::on(Cell::of_this_run(), name)
    }

    pub(crate) fn on(cell: Cell, name: &str) -> Bed {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket has 107 bytes; open to all, because the server runs as `mysql`.
        let dir = base().join(format!("coffer-it-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Bed { dir, cell }
    }

    pub(crate) fn cell(&self) -> Cell {
        self.cell
    }

    /// What its servers are.
    pub(crate) fn datastore(&self) -> Datastore {
        self.cell.datastore
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Processes that name this directory in their arguments and hold `part` there too.
    pub(crate) fn processes(&self, part: &str) -> Vec<i32> {
        let needle = self.dir.to_string_lossy().into_owned();
        all_processes()
            .into_iter()
            .filter(|pid| {
                let line = command_line(*pid);
                line.contains(&needle) && line.contains(part)
            })
            .collect()
    }

    /// The servers that run on it.
    pub(crate) fn servers(&self) -> Vec<i32> {
        self.processes(self.datastore().server())
    }

    /// Small file systems that a test mounted below its directory.
    fn unmount(&self) {
        let place = format!(" {}/", self.dir.display());
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for line in mounts.lines().filter(|line| line.contains(&place)) {
            let target = line.split(' ').nth(1).unwrap_or_default();
            // A large server that was killed still closes its files for a moment.
            let _ = std::process::Command::new("umount").args(["--lazy", target]).status();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for _ in 0..50 {
            let left = self.processes("");
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|pid| kill(*pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(20));
        }
        let keep = std::thread::panicking() || std::env::var_os("COFFER_TEST_KEEP").is_some();
        if !keep {
            self.unmount();
        }
        if keep {
            eprintln!("kept for a look: {}", self.dir.display());
        } else if let Err(err) = fs::remove_dir_all(&self.dir) {
            eprintln!("unable to remove {}: {err}", self.dir.display());
        }
    }
}

fn base() -> PathBuf {
    std::env::var_os("COFFER_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A port that nobody listens on right now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The pids of all processes but our own.
pub(crate) fn all_processes() -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(|pid| *pid != own).collect()
}

/// The arguments of a process, with spaces between them; empty once it is gone.
pub(crate) fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Whether the process runs; a zombie does not.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself meanwhile, which is what was wanted.
        let _ = kill_process(pid, signal);
    }
}

/// Kills at once and waits until it is gone.
pub(crate) fn kill_and_wait(pid: i32) {
    kill(pid, Signal::KILL);
    wait_for(&format!("end of process {pid}"), Duration::from_secs(20), || (!is_running(pid)).then_some(()));
}

/// Every file below `dir`, however deep; links are not followed.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
