//! Objects as files in a folder.
//!
//! An object is written under a temporary name in `.incoming`, synced, and moved to its name by a rename that refuses to
//! replace; then the directory is synced. The folder is known by its device and inode: when a disk is unmounted, the
//! empty mount point that is left must not fill up with backups that vanish again behind the next mount.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{CWD, OFlags, RenameFlags};

use super::{Body, ObjectStore, StoredObject, check_key, url};
use crate::clock;
use crate::durable::sync_dir;
use crate::error::{Error, ErrorKind, io_error};

/// Holds objects that are being written. Its name can be no key, so no listing shows it.
const INCOMING: &str = ".incoming";
/// No disk's blocks are larger.
const BLOCK_BYTES: usize = 4096;
/// What is smaller is sooner copied.
const DIRECT_BYTES_MIN: usize = 256 * 1024;
/// A file left there by a writer that was killed is removed once nobody can be writing it any more.
const INCOMING_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A put may meet another process's delete that removes the directory it needs; it makes it again, but not for ever.
const PUT_ATTEMPTS_MAX: u32 = 5;
/// Directories remembered as durable; beyond it the memory starts over.
const DURABLE_DIRS_MAX: usize = 4096;
const COPY_BYTES: usize = 256 * 1024;
/// Deeper folders are not ours.
const DEPTH_MAX: usize = 16;

/// A folder on a file system of this host.
#[derive(Debug)]
pub(crate) struct LocalStore {
    root: PathBuf,
    /// Device and inode of the folder that was opened.
    identity: (u64, u64),
    /// Directories whose own names are known to be on disk.
    durable_dirs: Mutex<HashSet<PathBuf>>,
    /// Held for writing while empty directories are removed, for reading while one is relied upon.
    pruning: RwLock<()>,
}

impl LocalStore {
    /// Opens the folder, making it when it does not exist.
    pub(crate) fn create(root: &Path) -> Result<LocalStore, Error> {
        if !root.exists() {
            make_durable_dirs(root)?;
        }
        LocalStore::open(root)
    }

    /// Opens the folder; `Unavailable` when there is none.
    pub(crate) fn open(root: &Path) -> Result<LocalStore, Error> {
        let metadata = fs::metadata(root).map_err(|err| vanished(root).with_source(err))?;
        if !metadata.is_dir() {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a folder", root.display())));
        }
        let store = LocalStore {
            root: root.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            durable_dirs: Mutex::new(HashSet::new()),
            pruning: RwLock::new(()),
        };
        store.sweep_incoming();
        Ok(store)
    }

    fn path(&self, key: &str) -> Result<PathBuf, Error> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// Fails unless the folder is there and is the one that was opened.
    fn confirm_root(&self) -> Result<(), Error> {
        let metadata = fs::metadata(&self.root).map_err(|err| vanished(&self.root).with_source(err))?;
        if (metadata.dev(), metadata.ino()) == self.identity {
            return Ok(());
        }
        let what = format!("the repository folder `{}` is no longer the folder it was", self.root.display());
        Err(Error::new(ErrorKind::Unavailable, what).hint(
            "If its disk was unmounted, mount it again and nothing else is needed; if another folder is meant to be there, restart coffer.",
        ))
    }

    /// A failure of the folder itself says more than the failure of the one operation.
    fn explain(&self, err: Error) -> Error {
        match self.confirm_root() {
            Ok(()) => err,
            Err(root_err) => root_err,
        }
    }

    fn put_once(&self, path: &Path, body: Body<'_>) -> Result<Placed, Error> {
        if fs::symlink_metadata(path).is_ok() {
            return settle_existing(path, body);
        }
        let incoming = self.root.join(INCOMING);
        self.ensure_dir(&incoming)?;
        let temporary = incoming.join(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        let placed = write_synced(&temporary, body).and_then(|()| {
            let Some(parent) = path.parent() else { return Ok(Placed::TryAgain) };
            let _no_pruning = self.pruning.read().unwrap_or_else(PoisonError::into_inner);
            self.ensure_dir(parent)?;
            match rename_to_free_name(&temporary, path) {
                Ok(()) => sync_dir(parent).map(|()| Placed::Stored),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => settle_existing(path, body),
                // Another process removed the directory between the two lines above.
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Placed::TryAgain),
                Err(err) => Err(io_error("unable to store", path, err)),
            }
        });
        if !matches!(placed, Ok(Placed::Stored)) {
            // Harmless when it stays: the next start sweeps.
            let _ = fs::remove_file(&temporary);
        }
        placed
    }

    /// Makes `dir` and what leads to it below the root, each name durable. Never makes the root.
    fn ensure_dir(&self, dir: &Path) -> Result<(), Error> {
        if self.durable_dirs().contains(dir) && dir.is_dir() {
            return Ok(());
        }
        let below = dir.strip_prefix(&self.root).map_err(|_| {
            Error::new(ErrorKind::Internal, format!("`{}` is outside `{}`", dir.display(), self.root.display()))
        })?;
        let mut at = self.root.clone();
        for part in below.components() {
            let parent = at.clone();
            at.push(part);
            match DirBuilder::new().mode(0o700).create(&at) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("unable to create directory", &at, err));
                }
                _ => {}
            }
            // Also when it existed: whoever made it may have been killed before the sync.
            sync_dir(&parent)?;
        }
        let mut known = self.durable_dirs();
        if known.len() >= DURABLE_DIRS_MAX {
            known.clear();
        }
        known.insert(dir.to_owned());
        Ok(())
    }

    fn durable_dirs(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // The set is right whatever a panicking holder was doing.
        self.durable_dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what writers that were killed long ago have left behind. Best effort: leftovers only take space.
    fn sweep_incoming(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(INCOMING)) else { return };
        let now = clock::now().as_second();
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let age = now.saturating_sub(metadata.mtime());
            if metadata.is_file() && u64::try_from(age).is_ok_and(|age| age > INCOMING_AGE_MAX.as_secs()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Adds to `found` the objects in `dir`, whose keys begin with `at`, in byte order of the keys.
    fn walk(&self, dir: &Path, at: &str, wanted: &Wanted<'_>, found: &mut Vec<StoredObject>) -> Result<(), Error> {
        if at.split('/').count() > DEPTH_MAX {
            return Ok(());
        }
        for key in self.entries(dir, at, wanted)? {
            if found.len() >= wanted.limit {
                return Ok(());
            }
            if let Some(name) = key.strip_suffix('/') {
                self.walk(&self.root.join(name), &key, wanted, found)?;
                continue;
            }
            let path = self.root.join(&key);
            match fs::symlink_metadata(&path) {
                Ok(metadata) => found.push(StoredObject { key, bytes: metadata.len() }),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {} // Deleted meanwhile.
                Err(err) => return Err(io_error("unable to look at", &path, err)),
            }
        }
        Ok(())
    }

    /// The wanted keys right below `at`, sorted; those of directories end in `/`, which sorts them as their contents do.
    fn entries(&self, dir: &Path, at: &str, wanted: &Wanted<'_>) -> Result<Vec<String>, Error> {
        let fault = |err| io_error("unable to list", dir, err);
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(err) if is_absence(&err) && !at.is_empty() => return Ok(Vec::new()),
            Err(err) => return Err(fault(err)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name();
            // A file system's own directory, which only root may read, is not content; nor is anything hidden.
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.') && *name != "lost+found") else {
                continue;
            };
            let kind = entry.file_type().map_err(fault)?;
            let key = format!("{at}{name}{}", if kind.is_dir() { "/" } else { "" });
            if wanted.may_hold(&key) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }
}

impl ObjectStore for LocalStore {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        let path = self.path(key)?;
        self.confirm_root()?;
        for _ in 0..PUT_ATTEMPTS_MAX {
            match self.put_once(&path, body) {
                Ok(Placed::Stored) => return Ok(()),
                Ok(Placed::TryAgain) => self.confirm_root()?,
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    // Nearly always the root; else the body's file, and then a repeat changes nothing.
                    return Err(self.explain(err));
                }
                Err(err) => return Err(self.explain(err)),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the directory of `{}` keeps vanishing", path.display()))
            .hint("See what else deletes files in the repository folder."))
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        let path = self.path(key)?;
        match open_object(&path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(from)).map_err(|err| io_error("unable to read", &path, err))?;
                Ok(Box::new(ObjectReader { file, path }.take(bytes.unwrap_or(u64::MAX))))
            }
            Err(err) if is_absence(&err) => {
                Err(self.explain(Error::new(ErrorKind::NotFound, format!("there is no object `{}`", path.display()))))
            }
            Err(err) => Err(self.explain(io_error("unable to open", &path, err))),
        }
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        let path = self.path(key)?;
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(err) if is_absence(&err) => self.confirm_root().map(|()| None),
            Err(err) => Err(self.explain(io_error("unable to look at", &path, err))),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        self.confirm_root()?;
        let mut found = Vec::new();
        let wanted = Wanted { prefix, after, limit };
        self.walk(&self.root, "", &wanted, &mut found).map_err(|err| self.explain(err))?;
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key)?;
        let Some(mut dir) = path.parent() else { return Ok(()) };
        {
            let _no_pruning = self.pruning.read().unwrap_or_else(PoisonError::into_inner);
            match fs::remove_file(&path) {
                Ok(()) => sync_dir(dir).map_err(|err| self.explain(err))?,
                Err(err) if is_absence(&err) => return self.confirm_root(),
                Err(err) => return Err(self.explain(io_error("unable to delete", &path, err))),
            }
        }
        // An empty directory has no meaning in a flat store. One that is not empty stays.
        let _pruning = self.pruning.write().unwrap_or_else(PoisonError::into_inner);
        while dir != self.root && fs::remove_dir(dir).is_ok() {
            self.durable_dirs().remove(dir);
            let Some(parent) = dir.parent() else { break };
            dir = parent;
        }
        Ok(())
    }

    fn url(&self) -> String {
        url::render(&self.root)
    }
}

/// What became of one attempt to store.
enum Placed {
    Stored,
    TryAgain,
}

/// What a listing asks for.
struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
}

impl Wanted<'_> {
    /// Whether `key`, or something below it when it ends in `/`, is asked for.
    fn may_hold(&self, key: &str) -> bool {
        let is_dir = key.ends_with('/');
        let in_prefix = key.starts_with(self.prefix) || (is_dir && self.prefix.starts_with(key));
        let behind = self.after.is_none_or(|after| key > after || (is_dir && after.starts_with(key)));
        in_prefix && behind
    }
}

/// Reads a file; its errors name it.
struct ObjectReader {
    file: File,
    path: PathBuf,
}

impl Read for ObjectReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buf) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => {
                Err(io::Error::other(io_error("unable to read", &self.path, err)))
            }
            read => read,
        }
    }
}

/// The object exists: the same content is as good as stored, other content is a fault that must not be hidden.
fn settle_existing(path: &Path, body: Body<'_>) -> Result<Placed, Error> {
    let conflict = || {
        Error::new(ErrorKind::Conflict, format!("the object `{}` exists already with other content", path.display()))
            .hint("Something else writes to this repository; find it before it does harm. Nothing was overwritten.")
    };
    let stored = match open_object(path) {
        Ok(stored) => stored,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Placed::TryAgain), // Deleted meanwhile.
        Err(err) => return Err(conflict().with_source(err)),
    };
    let same = match body {
        Body::Bytes(bytes) | Body::Hashed { bytes, .. } => same_content(&stored, bytes),
        Body::File(source) => {
            same_content(&stored, File::open(source).map_err(|err| io_error("unable to open", source, err))?)
        }
    };
    if !same.map_err(|err| io_error("unable to compare with", path, err))? {
        return Err(conflict());
    }
    // Whoever wrote it may have been killed before these.
    stored.sync_all().map_err(|err| io_error("unable to sync", path, err))?;
    path.parent().map_or(Ok(()), sync_dir).map(|()| Placed::Stored)
}

fn same_content(mut one: impl Read, mut other: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    loop {
        let read = read_full(&mut one, &mut left)?;
        if read != read_full(&mut other, &mut right)? || left.get(..read) != right.get(..read) {
            return Ok(false);
        }
        if read < COPY_BYTES {
            return Ok(true);
        }
    }
}

/// Fills `buf` unless the source ends before.
fn read_full(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(free) = buf.get_mut(filled..).filter(|free| !free.is_empty()) {
        match source.read(free) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}

fn write_synced(temporary: &Path, body: Body<'_>) -> Result<(), Error> {
    let fault = |err| io_error("unable to write", temporary, err);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary).map_err(fault)?;
    match body {
        Body::Bytes(bytes) | Body::Hashed { bytes, .. } => {
            let done = write_blocks(temporary, bytes).map_err(fault)?;
            file.write_all_at(bytes.get(done..).unwrap_or_default(), done as u64).map_err(fault)?;
        }
        Body::File(source) => {
            let mut source_file = File::open(source).map_err(|err| io_error("unable to open", source, err))?;
            io::copy(&mut source_file, &mut file).map_err(fault)?;
        }
    }
    // A failed sync is final: the pages count as clean afterwards, so a second sync would lie.
    file.sync_all().map_err(fault)
}

/// Writes the whole blocks of a large object past the system's cache, and says how many bytes those are; none where the
/// file system or the place of the bytes in memory does not allow it. Nobody is about to read them, so a copy of them in
/// memory would cost more than their compression, and push out what the server needs.
fn write_blocks(path: &Path, bytes: &[u8]) -> io::Result<usize> {
    let whole = bytes.len() - bytes.len() % BLOCK_BYTES;
    if whole < DIRECT_BYTES_MIN {
        return Ok(0);
    }
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let written = OpenOptions::new().write(true).custom_flags(flags).open(path);
    let written = written.and_then(|file| file.write_all_at(bytes.get(..whole).unwrap_or_default(), 0));
    match written {
        Ok(()) => Ok(whole),
        // All of it is written again, the other way.
        Err(err) if err.kind() == io::ErrorKind::InvalidInput => Ok(0),
        Err(err) => Err(err),
    }
}

/// Moves `from` to `to` unless `to` exists.
fn rename_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network file systems know no conditional rename; a hard link is as good.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// Opens a regular file; nothing that stands in its place (a link, a pipe) is followed or waited for.
fn open_object(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

fn is_absence(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes the root and what leads to it.
fn make_durable_dirs(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a folder", dir.display())));
    };
    make_durable_dirs(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(io_error("unable to create directory", dir, err)),
        _ => sync_dir(parent),
    }
}

fn vanished(root: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the repository folder `{}` is not there", root.display())).hint(
        "Mount its disk or bring the folder back; coffer does not make it anew, so that backups cannot land on the wrong disk.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::suite;
    use crate::testing::TempDir;

    #[test]
    fn a_folder_keeps_the_contract() {
        let scratch = TempDir::new();
        suite::check_contract(&LocalStore::create(&scratch.join("a/b")).unwrap());
    }

    #[test]
    fn a_large_object_is_whole_wherever_its_bytes_lie() {
        let scratch = TempDir::new();
        let store = LocalStore::create(&scratch).unwrap();
        let bytes: Vec<u8> = (0..DIRECT_BYTES_MIN + 3 * BLOCK_BYTES + 17).map(|at| at.to_le_bytes()[at % 3]).collect();
        let block = crate::block::Block::of(&bytes).unwrap();
        // In whole blocks, with a rest, and from a place in memory that no disk reads from.
        for (key, bytes) in [("a", &block[..DIRECT_BYTES_MIN]), ("b", &block[..]), ("c", &block[1..])] {
            store.put(key, Body::Bytes(bytes)).unwrap();
            assert!(fs::read(scratch.join(key)).unwrap() == bytes, "{key}");
        }
    }

    #[test]
    fn a_vanished_folder_is_unavailable_and_is_not_made_again() {
        let scratch = TempDir::new();
        let root = scratch.join("repository");
        let store = LocalStore::create(&root).unwrap();
        store.put("a/b", Body::Bytes(b"1")).unwrap();
        let away = scratch.join("away");
        fs::rename(&root, &away).unwrap();
        let check = |what: &str| {
            let errors = [
                store.put("a/c", Body::Bytes(b"2")).err(),
                store.get("a/b").err(),
                store.size("a/b").err(),
                store.list("", None, 10).err(),
                store.delete("a/b").err(),
            ];
            for (nth, err) in errors.into_iter().enumerate() {
                let err = err.unwrap_or_else(|| panic!("{what}: operation {nth} went through"));
                assert_eq!(err.kind(), ErrorKind::Unavailable, "{what}: operation {nth}: {err}");
                assert!(err.message().contains("repository`") && err.hint_text().is_some(), "{err}");
            }
        };
        check("gone");
        assert!(!root.exists());
        // What an unmounted disk leaves: the empty mount point.
        fs::create_dir(&root).unwrap();
        check("empty mount point");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        assert_eq!(store.size("a/b").unwrap(), Some(1));
        assert_eq!(LocalStore::open(&scratch.join("nowhere")).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn links_and_leftovers_are_no_objects() {
        let scratch = TempDir::new();
        let store = LocalStore::create(&scratch).unwrap();
        store.put("a/b", Body::Bytes(b"1")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.join("a/link")).unwrap();
        assert_ne!(store.get("a/link").err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(store.put("a/link", Body::Bytes(b"x")).unwrap_err().kind(), ErrorKind::Conflict);
        let old = scratch.join(".incoming/old.tmp");
        let young = scratch.join(".incoming/young.tmp");
        File::create(&young).unwrap();
        File::create(&old).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        LocalStore::open(&scratch).unwrap();
        assert!(!old.exists() && young.exists());
        assert!(store.list("", None, 10).unwrap().iter().all(|object| !object.key.contains(".tmp")));
    }

    #[test]
    fn puts_and_deletes_in_one_directory_do_not_disturb_each_other() {
        let scratch = TempDir::new();
        let store = LocalStore::create(&scratch).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..60 {
                        let key = format!("x/y/{thread}-{n}");
                        store.put(&key, Body::Bytes(b"1")).unwrap();
                        assert_eq!(store.size(&key).unwrap(), Some(1));
                        store.delete(&key).unwrap();
                    }
                });
            }
        });
        assert!(store.list("", None, 10).unwrap().is_empty());
    }
}
