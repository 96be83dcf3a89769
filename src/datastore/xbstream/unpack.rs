//! Makes files of a stream, below one directory and nowhere else, whatever the stream says.
//!
//! Every name is opened by `openat2`, which the kernel keeps beneath the directory and away from symbolic links, and only
//! regular files that did not exist are made. Everything is on disk when `unpack` returns: files are synced by a thread of
//! their own while the next ones are written, directories at the end. Every so often that thread notes in a ledger how
//! far everything is on disk, see `ledger`.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::EMPTY_DIRECTORIES;
use super::beneath::{self, open_beneath, open_dir, open_root, parent_of};
use super::ledger::{Checkpoint, Ledger};
use super::parser::{Boundary, PATH_BYTES_MAX, Parser, Sink, Zeros, is_sane_path};
use super::sparse::Growing;
use crate::error::{Error, ErrorKind, error_of, io_error};

const BUFFER_BYTES: usize = 1024 * 1024;
/// Ended files that wait to be synced; each holds a descriptor.
const UNSYNCED_FILES_MAX: usize = 64;
/// So many directories at most have something new in them and are not synced: their names are kept.
const UNSYNCED_DIRS_MAX: usize = 1_000;
const FILE_MODE: u32 = 0o660;
const DIR_MODE: u32 = 0o770;

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) files: u64,
    /// Bytes in those files.
    pub(crate) bytes: u64,
}

/// Where a stream is unpacked to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Must exist; no file of the stream may, but those of a checkpoint.
    pub(crate) dir: &'a Path,
    /// The file that says how far it has come, outside `dir`.
    pub(crate) ledger: &'a Path,
    /// What tells this stream from any other.
    pub(crate) stream: &'a str,
    /// So many bytes of the stream lie between two checkpoints.
    pub(crate) checkpoint_bytes: u64,
}

/// Unpacks the stream, whose first byte is the one behind `from`. `progress` counts bytes of the stream.
///
/// The stream must be complete. On failure what was unpacked up to the last checkpoint is left and can be gone on with.
/// Once `cancelled` is set it fails with `Interrupted`. What `reader` fails with is passed on as it is.
pub(crate) fn unpack(
    mut reader: impl Read,
    target: &Target<'_>,
    from: &Checkpoint,
    progress: &AtomicU64,
    cancelled: &AtomicBool,
) -> Result<Unpacked, Error> {
    let open = from.open.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect();
    let mut parser = Parser::behind(from.offset, from.files, open);
    let mut tree = Tree::open(target, from)?;
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
    open: HashMap<String, Growing>,
    /// Directories in which something was made since the last checkpoint.
    changed_dirs: BTreeSet<String>,
    made: Unpacked,
    checkpoint_bytes: u64,
    checkpoint_at: u64,
    to_sync: Option<Sender<ToSync>>,
    syncer: Option<JoinHandle<Result<(), Error>>>,
}

/// What the syncing thread is given, in the order of the stream.
enum ToSync {
    Ended { path: String, file: File },
    Checkpoint { checkpoint: Checkpoint, open: Vec<(String, File)>, dirs: BTreeSet<String> },
}

/// Brings to disk what was written, and notes it.
struct Syncer {
    dir: PathBuf,
    root: OwnedFd,
    ledger: Ledger,
}

impl Syncer {
    fn run(mut self, queue: &Receiver<ToSync>) -> Result<(), Error> {
        for item in queue {
            match item {
                ToSync::Ended { path, file } => {
                    self.sync(&path, &file)?;
                    let metadata = file.metadata();
                    let metadata = metadata.map_err(|err| io_error("unable to look at", &self.dir.join(&path), err))?;
                    self.ledger.ended(path, metadata.len())?;
                }
                ToSync::Checkpoint { checkpoint, open, dirs } => {
                    for (path, file) in &open {
                        self.sync(path, file)?;
                    }
                    // Deeper ones first: a name that is durable then never leads to one that is not.
                    for path in dirs.iter().rev() {
                        let dir = open_dir(&self.root, path).and_then(rustix::fs::fsync);
                        dir.map_err(|err| io_error("unable to sync directory", &self.dir.join(path), err.into()))?;
                    }
                    self.ledger.checkpoint(checkpoint)?;
                }
            }
        }
        Ok(())
    }

    /// A failed sync is final: the kernel forgets the pages it could not write.
    fn sync(&self, path: &str, file: &File) -> Result<(), Error> {
        file.sync_all().map_err(|err| io_error("unable to sync", &self.dir.join(path), err))
    }
}

impl<'a> Tree<'a> {
    fn open(target: &Target<'a>, from: &Checkpoint) -> Result<Tree<'a>, Error> {
        let Target { dir, ledger, stream, checkpoint_bytes } = *target;
        let root = open_root(dir)?;
        let failed = |err| io_error("unable to open directory", dir, err);
        let syncer = Syncer {
            dir: dir.to_owned(),
            root: root.try_clone().map_err(failed)?,
            ledger: Ledger::open(ledger, stream, from)?,
        };
        let (to_sync, queue) = bounded(UNSYNCED_FILES_MAX);
        let syncer = thread::Builder::new().name("unpack-sync".to_owned()).spawn(move || syncer.run(&queue));
        let syncer = syncer.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
        let mut tree = Tree {
            dir,
            root,
            open: HashMap::new(),
            changed_dirs: BTreeSet::new(),
            made: Unpacked { files: from.files, bytes: from.bytes },
            checkpoint_bytes,
            checkpoint_at: from.offset,
            to_sync: Some(to_sync),
            syncer: Some(syncer),
        };
        for (path, bytes) in &from.open {
            tree.reopen(path, *bytes)?;
        }
        Ok(tree)
    }

    /// A file that had come this far at the checkpoint; what was written behind it is cut off.
    fn reopen(&mut self, path: &str, bytes: u64) -> Result<(), Error> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open_beneath(&self.root, path, flags, Mode::empty());
        let file = File::from(file.map_err(|err| self.fault("unable to open", path, err))?);
        let file = Growing::go_on(file, path, bytes);
        let file = file.map_err(|err| io_error("unable to go on with", &self.dir.join(path), err))?;
        self.open.insert(path.to_owned(), file);
        Ok(())
    }

    /// Everything is on disk when this returns.
    fn finish(mut self) -> Result<Unpacked, Error> {
        self.join_syncer()?;
        self.make_empty_directories()?;
        self.sync_dirs()?;
        Ok(self.made)
    }

    fn sync_dirs(&mut self) -> Result<(), Error> {
        // Deeper ones first: a name that is durable then never leads to one that is not.
        for path in self.changed_dirs.iter().rev() {
            let dir = self.open_dir(path)?;
            rustix::fs::fsync(&dir).map_err(|err| self.fault("unable to sync directory", path, err))?;
        }
        self.changed_dirs.clear();
        Ok(())
    }

    /// Makes the directories that no file of the stream lies in.
    fn make_empty_directories(&mut self) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let list = match open_beneath(&self.root, EMPTY_DIRECTORIES, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|err| self.fault("unable to open", EMPTY_DIRECTORIES, err))?,
        };
        let (mut lines, mut line, mut bytes) = (BufReader::new(File::from(list)), Vec::new(), 0);
        loop {
            line.clear();
            let read = lines.by_ref().take(PATH_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line);
            match read.map_err(|err| io_error("unable to read", &self.dir.join(EMPTY_DIRECTORIES), err))? {
                0 => break,
                read => bytes += read as u64,
            }
            let path = std::str::from_utf8(line.strip_suffix(b"\n").unwrap_or(&line)).ok();
            let Some(path) = path.filter(|path| is_sane_path(path)) else {
                let what = format!("the backup stream lists a directory `{}`, which is none", line.escape_ascii());
                return Err(Error::new(ErrorKind::Corrupt, what));
            };
            self.make_parents(&format!("{path}/"))?;
            if self.changed_dirs.len() >= UNSYNCED_DIRS_MAX {
                self.sync_dirs()?;
            }
        }
        let removed = beneath::remove(&self.root, EMPTY_DIRECTORIES);
        removed.map_err(|err| self.fault("unable to remove", EMPTY_DIRECTORIES, err))?;
        self.changed_dirs.insert(parent_of(EMPTY_DIRECTORIES).to_owned());
        self.made.files = self.made.files.saturating_sub(1);
        self.made.bytes = self.made.bytes.saturating_sub(bytes);
        Ok(())
    }

    fn join_syncer(&mut self) -> Result<(), Error> {
        self.to_sync = None;
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
            let name = dir.rsplit_once('/').map_or(dir, |(_, name)| name);
            let parent = self.open_dir(parent_of(dir))?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIR_MODE)) {
                Ok(()) => {
                    let made = self.open_dir(dir)?;
                    // The umask does not decide.
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(DIR_MODE))
                        .map_err(|err| self.fault("unable to set the mode of", dir, err))?;
                    self.changed_dirs.insert(parent_of(dir).to_owned());
                }
                Err(Errno::EXIST) => {}
                Err(err) => return Err(self.fault("unable to create directory", dir, err)),
            }
        }
        Ok(())
    }

    fn open_dir(&self, path: &str) -> Result<OwnedFd, Error> {
        open_dir(&self.root, path).map_err(|err| self.fault("unable to open directory", path, err))
    }

    /// Hands something to the syncing thread.
    fn send(&mut self, item: ToSync) -> Result<(), Error> {
        if self.to_sync.as_ref().is_some_and(|to_sync| to_sync.send(item).is_ok()) {
            return Ok(());
        }
        // It hung up: because a sync failed.
        self.join_syncer()?;
        Err(Error::new(ErrorKind::Internal, "the thread that syncs files ended early"))
    }

    fn fault(&self, doing: &str, path: &str, err: Errno) -> Error {
        match err {
            Errno::EXIST => {
                let full = self.dir.join(path);
                let what = format!("the backup stream holds `{path}` twice, or `{}` existed before", full.display());
                Error::new(ErrorKind::Corrupt, what).hint("Nothing was overwritten. Unpack into an empty directory.")
            }
            err => beneath::fault(doing, self.dir, path, err),
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
        self.changed_dirs.insert(parent_of(path).to_owned());
        self.open.insert(path.to_owned(), Growing::new(File::from(file), path));
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8], zeros: Zeros) -> Result<(), Error> {
        let file = self.open.get_mut(path).ok_or_else(|| not_open(path))?;
        file.write(bytes, zeros).map_err(|err| io_error("unable to write", &self.dir.join(path), err))?;
        self.made.bytes = self.made.bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn gap(&mut self, path: &str, length: u64) -> Result<(), Error> {
        self.open.get_mut(path).ok_or_else(|| not_open(path))?.gap(length);
        // Gaps cost nothing in a stream: very many files may claim to be very long.
        self.made.bytes = self.made.bytes.saturating_add(length);
        Ok(())
    }

    fn end(&mut self, path: &str) -> Result<(), Error> {
        let Some(mut file) = self.open.remove(path) else { return Ok(()) };
        file.settle_length().map_err(|err| io_error("unable to set the length of", &self.dir.join(path), err))?;
        self.send(ToSync::Ended { path: path.to_owned(), file: file.into_file() })
    }

    fn boundary(&mut self, place: &Boundary<'_>) -> Result<(), Error> {
        let is_due = place.offset - self.checkpoint_at >= self.checkpoint_bytes;
        if !is_due && self.changed_dirs.len() < UNSYNCED_DIRS_MAX {
            return Ok(());
        }
        self.checkpoint_at = place.offset;
        let checkpoint = Checkpoint {
            offset: place.offset,
            files: place.files,
            bytes: self.made.bytes,
            open: place.open.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect(),
        };
        let open = self.open.iter_mut().map(|(path, growing)| {
            growing.settle_length()?;
            Ok((path.clone(), growing.file().try_clone()?))
        });
        let open = open.collect::<io::Result<_>>().map_err(|err| io_error("unable to sync files in", self.dir, err))?;
        let dirs = std::mem::take(&mut self.changed_dirs);
        self.send(ToSync::Checkpoint { checkpoint, open, dirs })
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        // The error that led here is the one to tell.
        let _ = self.join_syncer();
    }
}

fn not_open(path: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("`{path}` is not open"))
}
