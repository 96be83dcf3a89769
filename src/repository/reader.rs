//! Reads a backup's stream back, whole and proven, or fails and names the object at fault.
//!
//! As many threads as the repository's settings say fetch a part each, compare the stored bytes with their digest before
//! anything looks into them, and unpack. They begin parts in order, and none is unpacked that lies more than a few
//! before the one that is being read: so memory is bounded, by one stored part for each thread and a few raw ones, and the
//! part that is waited for is always on its way.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::manifest::{Manifest, Part, new_part};
use super::{Repository, hex, layout, sha256_hex};
use crate::block::Block;
use crate::domain::id::{BackupId, InstanceId};
use crate::error::error_of;
use crate::error::{Error, ErrorKind};
use crate::storage::patience;

/// Unpacked parts that wait to be read, beside the one that is.
const UNPACKED_MAX: usize = 3;
/// How long somebody who waits may go on before a cancellation is noticed.
const NOTICE_AFTER: Duration = Duration::from_millis(100);

/// The stream of a backup. See the module. Its failures can be had by `error::error_of`.
pub(crate) struct BackupReader {
    line: Arc<Line>,
    threads: Vec<JoinHandle<()>>,
    /// The part that is taken next.
    next: usize,
    part: Option<Block>,
    part_read: usize,
    /// Of the whole stream; `None` when it is not read from its start.
    hash: Option<Sha256>,
    sha256: String,
    location: String,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reading,
    Complete,
    Failed,
}

/// What the threads and the reader share.
struct Line {
    repository: Repository,
    parts: Vec<Part>,
    cancelled: Arc<AtomicBool>,
    places: Mutex<Places>,
    moved: Condvar,
    /// Nobody reads any more.
    given_up: Arc<AtomicBool>,
}

struct Places {
    /// The part that is begun next, ...
    begin: usize,
    /// ... and the one that is read next: everything before it has been taken.
    taken: usize,
    fetched: BTreeMap<usize, Result<Block, Error>>,
    /// Memory of parts that have been read. It goes round: asked for anew each time, it would be kept by each thread's
    /// allocator beside the others.
    spare: Vec<Block>,
    /// Nothing more is wanted.
    stopped: bool,
}

impl BackupReader {
    /// Begins to read the backup of `manifest`. Once `cancelled` is set, reading fails with `Interrupted`.
    pub(crate) fn begin(
        repository: &Repository,
        manifest: &Manifest,
        cancelled: Arc<AtomicBool>,
    ) -> Result<BackupReader, Error> {
        BackupReader::begin_at(repository, manifest, 0, cancelled)
    }

    /// As `begin`, from this byte of the stream on; parts before it are not fetched. Each part that is read is proven by
    /// its own digest; that of the whole stream is not looked at.
    pub(crate) fn begin_at(
        repository: &Repository,
        manifest: &Manifest,
        offset: u64,
        cancelled: Arc<AtomicBool>,
    ) -> Result<BackupReader, Error> {
        let (first, skipped) = place_of(&manifest.parts, offset)?;
        let line = Arc::new(Line {
            repository: repository.clone(),
            parts: manifest.parts.clone(),
            cancelled,
            places: Mutex::new(Places {
                begin: first,
                taken: first,
                fetched: BTreeMap::new(),
                spare: Vec::new(),
                stopped: false,
            }),
            moved: Condvar::new(),
            given_up: Arc::new(AtomicBool::new(false)),
        });
        let mut reader = BackupReader {
            line: Arc::clone(&line),
            threads: Vec::new(),
            next: first,
            part: None,
            part_read: 0,
            hash: (offset == 0).then(Sha256::new),
            sha256: manifest.sha256.clone(),
            location: repository.location(&layout::manifest(manifest.instance, manifest.backup)),
            outcome: Outcome::Reading,
        };
        let threads = repository.transfers.get().min(manifest.parts.len().saturating_sub(first));
        for nth in 0..threads {
            let line = Arc::clone(&line);
            let thread = thread::Builder::new().name(format!("fetch-{nth}")).spawn(move || line.fetch_parts());
            // On failure the reader is dropped, which ends those that started.
            let thread =
                thread.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
            reader.threads.push(thread);
        }
        if skipped > 0 && reader.advance()? {
            reader.part_read = skipped;
        }
        Ok(reader)
    }

    /// Takes the next part; false at the proven end.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.next == self.line.parts.len() {
            let digest = self.hash.take().map(|hash| hex(&hash.finalize()));
            if digest.is_some_and(|digest| digest != self.sha256) {
                return Err(super::corrupt(&self.location, "the stream of its parts does not have its digest"));
            }
            return Ok(false);
        }
        let part = self.line.take(self.next, self.part.take())?;
        self.part_read = 0;
        self.next += 1;
        if let Some(hash) = &mut self.hash {
            hash.update(&part[..]);
        }
        self.part = Some(part);
        Ok(true)
    }
}

/// The part that holds this byte of the stream, and where in it.
fn place_of(parts: &[Part], offset: u64) -> Result<(usize, usize), Error> {
    let outside = || Error::new(ErrorKind::Internal, format!("the backup has no byte {offset}"));
    let mut begin = 0_u64;
    for (index, part) in parts.iter().enumerate() {
        let end = begin + part.raw_bytes;
        if offset < end {
            return Ok((index, usize::try_from(offset - begin).map_err(|_| outside())?));
        }
        begin = end;
    }
    if offset == begin { Ok((parts.len(), 0)) } else { Err(outside()) }
}

impl Read for BackupReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.outcome {
                Outcome::Reading => {}
                Outcome::Complete => return Ok(0),
                Outcome::Failed => {
                    let what = format!("reading the backup of `{}` has failed before", self.location);
                    return Err(io::Error::other(Error::new(ErrorKind::Internal, what)));
                }
            }
            let read =
                self.part.as_deref().and_then(|part| part.get(self.part_read..)).unwrap_or_default().read(buf)?;
            if read > 0 {
                self.part_read += read;
                return Ok(read);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => self.outcome = Outcome::Complete,
                Err(err) => {
                    self.outcome = Outcome::Failed;
                    return Err(io::Error::other(err));
                }
            }
        }
    }
}

impl Drop for BackupReader {
    fn drop(&mut self) {
        self.line.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // A panic has already been told as a part that did not come.
        }
    }
}

impl Line {
    /// A thread's life: one part after the other until there are no more, or until one fails.
    fn fetch_parts(&self) {
        let _watch = PanicWatch(self);
        let mut stored = new_part();
        while let Some(index) = self.begin() {
            let Some(part) = self.parts.get(index) else { return };
            let fetched = match &mut stored {
                Ok(stored) => patience::unless(&self.given_up, || fetch_stored(&self.repository, part, stored))
                    .map(|()| &stored[..]),
                Err(err) => Err(Error::new(err.kind(), err.message())),
            };
            let fetched = fetched.and_then(|stored| {
                // Until it is this part's turn, its stored form is the smaller one to keep.
                let mut raw = self.wait_for_room(index)?;
                unpack(&self.repository, part, stored, &mut raw).map(|()| raw)
            });
            let has_failed = fetched.is_err();
            self.lock().fetched.insert(index, fetched);
            self.moved.notify_all();
            if has_failed {
                return;
            }
        }
    }

    /// The part to fetch next; `None` when there is none or nobody wants it.
    fn begin(&self) -> Option<usize> {
        let mut places = self.lock();
        if places.stopped || places.begin == self.parts.len() || self.cancelled.load(Ordering::SeqCst) {
            return None;
        }
        places.begin += 1;
        Some(places.begin - 1)
    }

    /// Waits until the part may have the memory for its raw form. Fails when nobody wants it any more.
    fn wait_for_room(&self, index: usize) -> Result<Block, Error> {
        let mut places = self.lock();
        while !places.stopped && index >= places.taken + UNPACKED_MAX {
            places = self.moved.wait(places).unwrap_or_else(PoisonError::into_inner);
        }
        if places.stopped {
            return Err(given_up());
        }
        places.spare.pop().map_or_else(new_part, Ok)
    }

    /// The raw bytes of a part, which is the one that is read next; `read` are those of the one before it.
    fn take(&self, index: usize, read: Option<Block>) -> Result<Block, Error> {
        let mut places = self.lock();
        places.spare.extend(read);
        loop {
            if let Some(fetched) = places.fetched.remove(&index) {
                // Taken, and being read: one more may be unpacked meanwhile.
                places.taken = index + 1;
                self.moved.notify_all();
                return fetched;
            }
            if self.cancelled.load(Ordering::SeqCst) {
                return Err(given_up());
            }
            if places.stopped {
                return Err(Error::new(ErrorKind::Internal, "a thread that fetches parts ended early"));
            }
            let waited = self.moved.wait_timeout(places, NOTICE_AFTER);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn stop(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        self.lock().stopped = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // What is inside is whole at every moment.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that panics owes a part that others would wait for.
struct PanicWatch<'a>(&'a Line);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Interrupted, "reading the backup was cancelled")
}

/// Replaces `stored` by the part as it lies in the store, once that has its digest.
pub(super) fn fetch_stored(repository: &Repository, part: &Part, stored: &mut Block) -> Result<(), Error> {
    let stored_bytes = usize::try_from(part.stored_bytes)
        .map_err(|_| repository.corrupt(&part.key, "its sizes in the manifest cannot be"))?;
    let object = repository.store.get(&part.key).map_err(|err| match err.kind() {
        ErrorKind::NotFound => repository.corrupt(&part.key, "the part is missing"),
        _ => err,
    })?;
    // One byte more than there may be, so that a longer object is seen.
    stored
        .fill(object.take(part.stored_bytes + 1))
        .map_err(|err| error_of(err, &format!("unable to read `{}`", repository.location(&part.key))))?;
    if stored.len() != stored_bytes {
        let has = if stored.len() > stored_bytes { "more".to_owned() } else { stored.len().to_string() };
        return Err(repository.corrupt(&part.key, format_args!("it has {has} bytes, not {stored_bytes}")));
    }
    if sha256_hex(stored) != part.sha256 {
        return Err(repository.corrupt(&part.key, "its bytes do not have the digest in the manifest"));
    }
    Ok(())
}

/// Replaces `raw` by the raw bytes of a part whose stored bytes have their digest. `Refused` when nothing here opens it.
pub(super) fn unpack(repository: &Repository, part: &Part, stored: &[u8], raw: &mut Block) -> Result<(), Error> {
    let raw_bytes = usize::try_from(part.raw_bytes)
        .map_err(|_| repository.corrupt(&part.key, "its sizes in the manifest cannot be"))?;
    let name = layout::name_of_part(&part.key);
    repository.codec.unpack_into(name, stored, raw.reset(raw_bytes)).map_err(|err| match err.kind() {
        ErrorKind::Corrupt => repository.corrupt(&part.key, err.message()),
        ErrorKind::Refused => repository.locked(&part.key, &[], &err.message()),
        _ => err,
    })
}

#[cfg_attr(not(test), expect(dead_code, reason = "for verification: proves a whole backup before it is needed"))]
impl Repository {
    /// Reads the whole backup and proves every digest. Returns the manifest that was proven.
    pub(crate) fn verify_backup(
        &self,
        instance: InstanceId,
        backup: BackupId,
        cancelled: Arc<AtomicBool>,
    ) -> Result<Manifest, Error> {
        let manifest = self.read_manifest(instance, backup)?;
        let mut reader = BackupReader::begin(self, &manifest, cancelled)?;
        let raw_bytes = io::copy(&mut reader, &mut io::sink()).map_err(|err| {
            error_of(err, "unable to verify the backup").context(format_args!("backup {backup} is not whole"))
        })?;
        if raw_bytes != manifest.raw_bytes {
            let key = layout::manifest(instance, backup);
            return Err(self.corrupt(&key, format_args!("its parts hold {raw_bytes} bytes")));
        }
        Ok(manifest)
    }
}
