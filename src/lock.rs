//! One appliance per state directory.
//!
//! The kernel's lock on the file `lock` is what counts: it ends with its holder, however that ends. What stands in the
//! file (pid and start time) is only there to tell a second appliance who the first one is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind, io_error};
use crate::process::{ProcessHandle, start_time};

const FILE_NAME: &str = "lock";
/// Longer than any pid and start time.
const CONTENT_BYTES_MAX: u64 = 128;

/// The right to use a state directory; ends when dropped, and with the process.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the state directory, which is made if there is none. `Conflict` with the holder's pid if it is taken.
    pub(crate) fn acquire(state_dir: &Path) -> Result<StateLock, Error> {
        // Others may pass through, since a server of another user has its data below, but not look around.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(state_dir)
            .map_err(|err| io_error("unable to make the state directory", state_dir, err))?;
        let path = state_dir.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|err| io_error("unable to open", &path, err))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(taken(state_dir, &mut file)),
            Err(err) => return Err(io_error("unable to lock", &path, err.into())),
        }
        let pid = std::process::id();
        let content = format!("{pid} {}\n", start_time(pid).unwrap_or(0));
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(content.as_bytes()))
            .map_err(|err| io_error("unable to write", &path, err))?;
        Ok(StateLock { _file: file })
    }
}

/// The holder of a state directory's lock, if a living appliance wrote it there.
fn holder(file: &mut File) -> Option<u32> {
    let mut content = String::new();
    file.take(CONTENT_BYTES_MAX).read_to_string(&mut content).ok()?;
    let (pid, began) = content.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    ProcessHandle::open(pid, began.parse().ok()?).ok()??;
    Some(pid)
}

fn taken(state_dir: &Path, file: &mut File) -> Error {
    let who = match holder(file) {
        Some(pid) => format!("coffer with pid {pid}"),
        None => "another process".to_owned(),
    };
    Error::new(ErrorKind::Conflict, format!("the state directory `{}` is in use by {who}", state_dir.display()))
        .hint("Stop it first, or give this one a state_dir of its own.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_second_appliance_is_told_who_holds_the_directory() {
        let dir = TempDir::new();
        let state_dir = dir.join("a/state");
        let held = StateLock::acquire(&state_dir).unwrap();
        // The lock belongs to the open file and not to the process, so this is as good as a second process.
        let err = StateLock::acquire(&state_dir).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Conflict);
        assert!(err.message().ends_with(&format!("is in use by coffer with pid {}", std::process::id())), "{err}");
        drop(held);
        StateLock::acquire(&state_dir).unwrap();
    }

    #[test]
    fn what_a_dead_holder_left_in_the_file_is_nothing() {
        let dir = TempDir::new();
        for left in ["4194300 1\n", "", "garbage", "1 2 3", "\u{fffd}"] {
            crate::durable::write(&dir.join(FILE_NAME), left.as_bytes(), 0o600).unwrap();
            let held = StateLock::acquire(&dir).unwrap();
            drop(held);
        }
        // Held, but by somebody who wrote something else there.
        let mut file = OpenOptions::new().read(true).write(true).open(dir.join(FILE_NAME)).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file.set_len(0).unwrap();
        file.write_all(b"not a pid").unwrap();
        let err = StateLock::acquire(&dir).unwrap_err();
        assert!(err.message().ends_with("is in use by another process"), "{err}");
    }
}
