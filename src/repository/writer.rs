//! Stores a stream of unknown length as the parts of a backup.
//!
//! The caller writes; the stream is cut into parts, which two threads compress, hash and put. Memory is bounded by the
//! number of parts on their way: one being filled, one waiting, two being compressed with room for their result, which
//! is 48 MiB. Nothing is a backup until its manifest is written, so whatever fails here leaves only orphans.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use sha2::{Digest, Sha256};

use super::codec::Packer;
use super::manifest::{PART_BYTES, Part};
use super::{Repository, hex, layout, sha256_hex};
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, ErrorKind};
use crate::storage::Body;

const THREADS: u32 = 2;
const WAITING_PARTS_MAX: usize = 1;
/// How long a cancelled or failed writer may go on waiting for a busy thread before it notices.
const NOTICE_AFTER: Duration = Duration::from_millis(100);

/// Bytes that have passed so far.
#[derive(Debug, Default)]
pub(crate) struct Transferred {
    /// Before compression.
    pub(crate) raw: AtomicU64,
    /// In the repository.
    pub(crate) stored: AtomicU64,
}

/// Takes the stream of a backup. See the module.
///
/// Dropped without `finish` it ends its threads and leaves the parts that were stored.
pub(crate) struct BackupWriter {
    buffer: Vec<u8>,
    hash: Sha256,
    sha256: Option<String>,
    raw_bytes: u64,
    parts_sent: u32,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    cancelled: Arc<AtomicBool>,
}

struct Job {
    number: u32,
    raw: Vec<u8>,
}

struct Shared {
    repository: Repository,
    instance: InstanceId,
    backup: BackupId,
    parts: Mutex<Vec<(u32, Part)>>,
    failure: Mutex<Option<Error>>,
    /// Set with `failure`, or when the writer is dropped.
    stopped: AtomicBool,
    transferred: Arc<Transferred>,
}

impl BackupWriter {
    /// Begins to store the parts of `backup`. Once `cancelled` is set, writing fails with `Interrupted`.
    pub(crate) fn begin(
        repository: &Repository,
        instance: InstanceId,
        backup: BackupId,
        cancelled: Arc<AtomicBool>,
    ) -> Result<BackupWriter, Error> {
        let (jobs, queue) = bounded(WAITING_PARTS_MAX);
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            instance,
            backup,
            parts: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            stopped: AtomicBool::new(false),
            transferred: Arc::new(Transferred::default()),
        });
        let mut writer = BackupWriter {
            buffer: Vec::with_capacity(PART_BYTES),
            hash: Sha256::new(),
            sha256: None,
            raw_bytes: 0,
            parts_sent: 0,
            jobs: Some(jobs),
            threads: Vec::new(),
            shared,
            cancelled,
        };
        for nth in 0..THREADS {
            let (queue, shared) = (queue.clone(), Arc::clone(&writer.shared));
            let thread =
                thread::Builder::new().name(format!("compress-{nth}")).spawn(move || store_parts(&queue, &shared));
            // On failure the writer is dropped, which ends those that started.
            let thread =
                thread.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
            writer.threads.push(thread);
        }
        Ok(writer)
    }

    /// Counters that grow while the stream passes.
    pub(crate) fn progress(&self) -> Arc<Transferred> {
        Arc::clone(&self.shared.transferred)
    }

    /// Stores what is left and returns all parts in order. Afterwards `raw_bytes` and `sha256` are final.
    pub(crate) fn finish(&mut self) -> Result<Vec<Part>, Error> {
        if self.jobs.is_none() {
            return Err(self.failure());
        }
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        self.check()?;
        self.join();
        if self.shared.stopped.load(Ordering::SeqCst) {
            return Err(self.failure());
        }
        let mut parts = std::mem::take(&mut *lock(&self.shared.parts));
        parts.sort_unstable_by_key(|(number, _)| *number);
        if !parts.iter().map(|(number, _)| *number).eq(1..=self.parts_sent) {
            return Err(Error::new(ErrorKind::Internal, "a thread that stores parts ended early"));
        }
        self.sha256 = Some(hex(&self.hash.finalize_reset()));
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }

    /// Bytes of the stream so far.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// SHA-256 of the whole stream; empty before `finish`.
    pub(crate) fn sha256(&self) -> &str {
        self.sha256.as_deref().unwrap_or_default()
    }

    fn send_part(&mut self) -> Result<(), Error> {
        let raw = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART_BYTES));
        self.parts_sent =
            self.parts_sent.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Internal, "too many parts"))?;
        let mut job = Job { number: self.parts_sent, raw };
        loop {
            self.check()?;
            let Some(jobs) = &self.jobs else { return Err(self.failure()) };
            job = match jobs.send_timeout(job, NOTICE_AFTER) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(job)) => job,
                Err(SendTimeoutError::Disconnected(_)) => return Err(self.failure()),
            };
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.shared.stopped.load(Ordering::SeqCst) {
            return Err(self.failure());
        }
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Interrupted, "the backup was cancelled"));
        }
        Ok(())
    }

    /// The error of the thread that failed; it is told in full once.
    fn failure(&self) -> Error {
        let told = || Error::new(ErrorKind::Internal, "the backup can not be written any further");
        lock(&self.shared.failure).take().unwrap_or_else(told)
    }

    fn join(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(Error::new(ErrorKind::Internal, "a thread that stores parts panicked"));
            }
        }
    }
}

impl Write for BackupWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let free = PART_BYTES.saturating_sub(self.buffer.len());
        let taken = buf.get(..free).unwrap_or(buf);
        self.hash.update(taken);
        self.buffer.extend_from_slice(taken);
        self.raw_bytes += taken.len() as u64;
        self.shared.transferred.raw.fetch_add(taken.len() as u64, Ordering::Relaxed);
        if self.buffer.len() >= PART_BYTES {
            self.send_part().map_err(io::Error::other)?;
        }
        Ok(taken.len())
    }

    /// Does nothing: only a whole part or the end can be stored.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.join();
    }
}

impl Shared {
    /// Keeps the first failure and stops everyone.
    fn fail(&self, err: Error) {
        lock(&self.failure).get_or_insert(err);
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn store_part(&self, packer: &mut Packer, job: &Job, stored: &mut Vec<u8>) -> Result<(), Error> {
        let name = layout::part_name(self.instance, self.backup, job.number);
        packer.pack(&name, &job.raw, stored)?;
        let sha256 = sha256_hex(stored);
        let key = layout::part(&name, &sha256, self.repository.codec.form());
        self.repository.store.put(&key, Body::Bytes(stored))?;
        let stored_bytes = stored.len() as u64;
        let size = self.repository.store.size(&key)?;
        if size != Some(stored_bytes) {
            return Err(self
                .repository
                .corrupt(&key, format_args!("{stored_bytes} bytes were stored, it has {size:?}")));
        }
        self.transferred.stored.fetch_add(stored_bytes, Ordering::Relaxed);
        lock(&self.parts).push((job.number, Part { key, raw_bytes: job.raw.len() as u64, stored_bytes, sha256 }));
        Ok(())
    }
}

/// A thread's life: parts until there are no more, or until something fails.
fn store_parts(queue: &Receiver<Job>, shared: &Shared) {
    let mut packer = match shared.repository.codec.packer() {
        Ok(packer) => packer,
        Err(err) => return shared.fail(err),
    };
    let mut stored = Vec::new();
    for job in queue {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        if let Err(err) = shared.store_part(&mut packer, &job, &mut stored) {
            return shared.fail(err);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at every moment; a holder's panic is told by its join.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
