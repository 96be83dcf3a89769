//! Makes files of a stream, below one directory and nowhere else, whatever the stream says.
//!
//! Every name is opened by `openat2`, which the kernel keeps beneath the directory and away from symbolic links, and only
//! regular files that did not exist are made. Everything is on disk when `unpack` returns: files are synced by a thread of
//! their own while the next ones are written, directories at the end.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Parser, Sink};
use crate::error::{Error, ErrorKind, error_of, io_error};

const BUFFER_BYTES: usize = 1024 * 1024;
/// Ended files that wait to be synced; each holds a descriptor.
const UNSYNCED_FILES_MAX: usize = 64;
/// The kernel may ask to try again when names change elsewhere while it looks.
const OPEN_ATTEMPTS_MAX: u32 = 16;
const FILE_MODE: u32 = 0o660;
const DIR_MODE: u32 = 0o770;

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) files: u64,
    /// Bytes in those files.
    pub(crate) bytes: u64,
}

/// Unpacks the stream into `dir`, which must exist; no file of it may. `progress` counts bytes of the stream.
///
/// The stream must be complete. On failure what was unpacked so far is left and is worth nothing. Once `cancelled` is set
/// it fails with `Interrupted`. What `reader` fails with is passed on as it is.
pub(crate) fn unpack(
    mut reader: impl Read,
    dir: &Path,
    progress: &AtomicU64,
    cancelled: &AtomicBool,
) -> Result<Unpacked, Error> {
    let mut parser = Parser::default();
    let mut tree = Tree::open(dir)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if cancelled.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Interrupted, "unpacking the backup was cancelled"));
        }
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(error_of(err, "unable to read the backup stream")),
        };
        parser.push(buffer.get(..read).unwrap_or_default(), &mut tree)?;
        progress.fetch_add(read as u64, Ordering::Relaxed);
    }
    parser.finish()?;
    tree.finish()
}

/// The directory that is being filled.
struct Tree<'a> {
    dir: &'a Path,
    root: OwnedFd,
    open: HashMap<String, File>,
    made_dirs: BTreeSet<String>,
    made: Unpacked,
    ended: Option<Sender<(String, File)>>,
    syncer: Option<JoinHandle<Result<(), Error>>>,
}

impl<'a> Tree<'a> {
    fn open(dir: &'a Path) -> Result<Tree<'a>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|err| io_error("unable to open directory", dir, err.into()))?;
        let (ended, queue) = bounded::<(String, File)>(UNSYNCED_FILES_MAX);
        let base = dir.to_owned();
        let sync_all = move || {
            for (path, file) in queue {
                // A failed sync is final: the kernel forgets the pages it could not write.
                file.sync_all().map_err(|err| io_error("unable to sync", &base.join(path), err))?;
            }
            Ok(())
        };
        let syncer = thread::Builder::new().name("unpack-sync".to_owned()).spawn(sync_all);
        let syncer = syncer.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
        Ok(Tree {
            dir,
            root,
            open: HashMap::new(),
            made_dirs: BTreeSet::new(),
            made: Unpacked { files: 0, bytes: 0 },
            ended: Some(ended),
            syncer: Some(syncer),
        })
    }

    /// Everything is on disk when this returns.
    fn finish(mut self) -> Result<Unpacked, Error> {
        self.join_syncer()?;
        // Deeper ones first: a name that is durable then never leads to one that is not.
        for path in self.made_dirs.iter().rev() {
            let dir = self.open_dir(path)?;
            rustix::fs::fsync(&dir).map_err(|err| self.fault("unable to sync directory", path, err))?;
        }
        rustix::fs::fsync(&self.root).map_err(|err| self.fault("unable to sync directory", "", err))?;
        Ok(self.made)
    }

    fn join_syncer(&mut self) -> Result<(), Error> {
        self.ended = None;
        let panicked = |_| Error::new(ErrorKind::Internal, "the thread that syncs files panicked");
        self.syncer.take().map_or(Ok(()), |syncer| syncer.join().map_err(panicked)?)
    }

    fn create(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_beneath(&self.root, path, flags, Mode::from_raw_mode(FILE_MODE))
    }

    /// Makes the directories that lead to `path`.
    fn make_parents(&mut self, path: &str) -> Result<(), Error> {
        for (at, _) in path.match_indices('/') {
            let Some(dir) = path.get(..at) else { continue };
            let (parent, name) = dir.rsplit_once('/').unwrap_or((".", dir));
            let parent = self.open_dir(parent)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIR_MODE)) {
                Ok(()) => {
                    let made = self.open_dir(dir)?;
                    // The umask does not decide.
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(DIR_MODE))
                        .map_err(|err| self.fault("unable to set the mode of", dir, err))?;
                    self.made_dirs.insert(dir.to_owned());
                }
                Err(Errno::EXIST) => {}
                Err(err) => return Err(self.fault("unable to create directory", dir, err)),
            }
        }
        Ok(())
    }

    fn open_dir(&self, path: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_beneath(&self.root, path, flags, Mode::empty())
            .map_err(|err| self.fault("unable to open directory", path, err))
    }

    fn fault(&self, doing: &str, path: &str, err: Errno) -> Error {
        let full = self.dir.join(path);
        match err {
            Errno::EXIST => {
                let what = format!("the backup stream holds `{path}` twice, or `{}` existed before", full.display());
                Error::new(ErrorKind::Corrupt, what).hint("Nothing was overwritten. Unpack into an empty directory.")
            }
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
                let what =
                    format!("the path `{path}` of the backup stream does not stay within `{}`", self.dir.display());
                Error::new(ErrorKind::Corrupt, what).with_source(io::Error::from(err))
            }
            Errno::NOSYS => Error::new(ErrorKind::Unsupported, "this kernel has no openat2, so nothing is unpacked")
                .hint("Use Linux 5.6 or newer, or let the container's seccomp profile allow openat2."),
            err => io_error(doing, &full, err.into()),
        }
    }
}

impl Sink for Tree<'_> {
    fn begin(&mut self, path: &str) -> Result<(), Error> {
        let created = match self.create(path) {
            Err(Errno::NOENT) => {
                self.make_parents(path)?;
                self.create(path)
            }
            created => created,
        };
        let file = created.map_err(|err| self.fault("unable to create", path, err))?;
        // The umask does not decide.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(FILE_MODE))
            .map_err(|err| self.fault("unable to set the mode of", path, err))?;
        self.made.files += 1;
        self.open.insert(path.to_owned(), File::from(file));
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let not_open = || Error::new(ErrorKind::Internal, format!("`{path}` is not open"));
        let file = self.open.get_mut(path).ok_or_else(not_open)?;
        file.write_all(bytes).map_err(|err| io_error("unable to write", &self.dir.join(path), err))?;
        self.made.bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self, path: &str) -> Result<(), Error> {
        let Some(file) = self.open.remove(path) else { return Ok(()) };
        let is_sent = self.ended.as_ref().is_some_and(|ended| ended.send((path.to_owned(), file)).is_ok());
        if is_sent {
            return Ok(());
        }
        // It hung up: because a sync failed.
        self.join_syncer()?;
        Err(Error::new(ErrorKind::Internal, "the thread that syncs files ended early"))
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        // The error that led here is the one to tell.
        let _ = self.join_syncer();
    }
}

fn open_beneath(root: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..OPEN_ATTEMPTS_MAX {
        match rustix::fs::openat2(root, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    rustix::fs::openat2(root, path, flags, mode, resolve)
}
