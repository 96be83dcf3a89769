//! Names that lead nowhere but below one directory: the kernel sees to it, whatever else is done there meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, io_error};

/// The kernel may ask to try again when names change elsewhere while it looks.
const OPEN_ATTEMPTS_MAX: u32 = 16;

/// Opens the directory below which everything stays.
pub(super) fn open_root(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_err(|err| io_error("unable to open directory", dir, err.into()))
}

/// Opens a name below `root`. It fails with `LOOP` at a symbolic link, with `XDEV` at whatever else would lead outside.
pub(super) fn open_beneath(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..OPEN_ATTEMPTS_MAX {
        match rustix::fs::openat2(&root, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    rustix::fs::openat2(&root, path, flags, mode, resolve)
}

pub(super) fn open_dir(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_beneath(root, path, flags, Mode::empty())
}

/// Removes the file `path` below `root`.
pub(super) fn remove(root: impl AsFd, path: &str) -> Result<(), Errno> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let parent = open_dir(root, parent_of(path))?;
    rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty())
}

/// The directory that holds `path`.
pub(super) fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

/// What an operator is told when `path` below `dir` could not be opened.
pub(super) fn fault(doing: &str, dir: &Path, path: &str, err: Errno) -> Error {
    match err {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            let what = format!("the path `{path}` does not stay within `{}`", dir.display());
            Error::new(ErrorKind::Corrupt, what).with_source(io::Error::from(err))
        }
        Errno::NOSYS => Error::new(ErrorKind::Unsupported, "this kernel has no openat2, so nothing is done")
            .hint("Use Linux 5.6 or newer, or let the container's seccomp profile allow openat2."),
        err => io_error(doing, &dir.join(path), err.into()),
    }
}
