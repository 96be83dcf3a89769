//! Reads a backup's stream back, whole and proven, or fails and names the object at fault.
//!
//! Two threads fetch every other part each, compare the stored bytes with their digest before anything looks into them,
//! and decompress. Each hands over through a channel of one, so the order is fixed and memory is bounded: per thread one
//! part waiting and one in both forms, and one part being read: 56 MiB.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, Part};
use super::{Repository, hex, layout, sha256_hex};
use crate::domain::id::{BackupId, InstanceId};
use crate::error::error_of;
use crate::error::{Error, ErrorKind};

const THREADS: usize = 2;
const WAITING_PARTS_MAX: usize = 1;

/// The stream of a backup. See the module. Its failures can be had by `error::error_of`.
pub(crate) struct BackupReader {
    /// One of each thread, in turn.
    arrivals: Vec<Receiver<Result<Vec<u8>, Error>>>,
    threads: Vec<JoinHandle<()>>,
    parts_count: usize,
    parts_taken: usize,
    part: Vec<u8>,
    part_read: usize,
    hash: Sha256,
    sha256: String,
    location: String,
    stopped: Arc<AtomicBool>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reading,
    Complete,
    Failed,
}

struct Fetcher {
    repository: Repository,
    parts: Arc<[Part]>,
    first: usize,
    cancelled: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    departures: Sender<Result<Vec<u8>, Error>>,
}

impl BackupReader {
    /// Begins to read the backup of `manifest`. Once `cancelled` is set, reading fails with `Interrupted`.
    pub(crate) fn begin(
        repository: &Repository,
        manifest: &Manifest,
        cancelled: Arc<AtomicBool>,
    ) -> Result<BackupReader, Error> {
        let parts: Arc<[Part]> = manifest.parts.clone().into();
        let mut reader = BackupReader {
            arrivals: Vec::new(),
            threads: Vec::new(),
            parts_count: parts.len(),
            parts_taken: 0,
            part: Vec::new(),
            part_read: 0,
            hash: Sha256::new(),
            sha256: manifest.sha256.clone(),
            location: repository.location(&layout::manifest(manifest.instance, manifest.backup)),
            stopped: Arc::new(AtomicBool::new(false)),
            outcome: Outcome::Reading,
        };
        for first in 0..THREADS {
            let (departures, arrivals) = bounded(WAITING_PARTS_MAX);
            let fetcher = Fetcher {
                repository: repository.clone(),
                parts: Arc::clone(&parts),
                first,
                cancelled: Arc::clone(&cancelled),
                stopped: Arc::clone(&reader.stopped),
                departures,
            };
            let thread = thread::Builder::new().name(format!("fetch-{first}")).spawn(move || fetcher.run());
            // On failure the reader is dropped, which ends those that started.
            let thread =
                thread.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
            reader.threads.push(thread);
            reader.arrivals.push(arrivals);
        }
        Ok(reader)
    }

    /// Takes the next part; false at the proven end.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.parts_taken == self.parts_count {
            if hex(&self.hash.finalize_reset()) != self.sha256 {
                return Err(super::corrupt(&self.location, "the stream of its parts does not have its digest"));
            }
            return Ok(false);
        }
        let ended = || Error::new(ErrorKind::Internal, "a thread that fetches parts ended early");
        let arrivals = self.arrivals.get(self.parts_taken % THREADS).ok_or_else(ended)?;
        self.part = Vec::new(); // Freed before the next is there.
        self.part = arrivals.recv().map_err(|_| ended())??;
        self.part_read = 0;
        self.parts_taken += 1;
        self.hash.update(&self.part);
        Ok(true)
    }
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
            let read = self.part.get(self.part_read..).unwrap_or_default().read(buf)?;
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
        self.stopped.store(true, Ordering::SeqCst);
        self.arrivals.clear(); // A thread that waits to hand over wakes up.
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // A panic has already been told as a thread that ended early.
        }
    }
}

impl Fetcher {
    fn run(self) {
        for part in self.parts.iter().skip(self.first).step_by(THREADS) {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let fetched = if self.cancelled.load(Ordering::SeqCst) {
                Err(Error::new(ErrorKind::Interrupted, "reading the backup was cancelled"))
            } else {
                fetch_part(&self.repository, part)
            };
            let failed = fetched.is_err();
            if self.departures.send(fetched).is_err() || failed {
                return;
            }
        }
    }
}

/// The raw bytes of a part. Nothing is decompressed whose digest is not right.
pub(super) fn fetch_part(repository: &Repository, part: &Part) -> Result<Vec<u8>, Error> {
    let too_large = || repository.corrupt(&part.key, "its sizes in the manifest cannot be");
    let stored_bytes = usize::try_from(part.stored_bytes).map_err(|_| too_large())?;
    let raw_bytes = usize::try_from(part.raw_bytes).map_err(|_| too_large())?;
    let object = repository.store.get(&part.key).map_err(|err| match err.kind() {
        ErrorKind::NotFound => repository.corrupt(&part.key, "the part is missing"),
        _ => err,
    })?;
    // One byte more than there may be, so that a longer object is seen.
    let mut stored = Vec::with_capacity(stored_bytes + 1);
    object
        .take(part.stored_bytes + 1)
        .read_to_end(&mut stored)
        .map_err(|err| error_of(err, &format!("unable to read `{}`", repository.location(&part.key))))?;
    if stored.len() != stored_bytes {
        let has = if stored.len() > stored_bytes { "more".to_owned() } else { stored.len().to_string() };
        return Err(repository.corrupt(&part.key, format_args!("it has {has} bytes, not {stored_bytes}")));
    }
    if sha256_hex(&stored) != part.sha256 {
        return Err(repository.corrupt(&part.key, "its bytes do not have the digest in the manifest"));
    }
    let name = layout::name_of_part(&part.key);
    repository.codec.unpack(name, &stored, raw_bytes).map_err(|err| match err.kind() {
        ErrorKind::Corrupt => repository.corrupt(&part.key, err.message()),
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
