//! Stores a stream of unknown length as the parts of a backup.
//!
//! The caller writes; the stream is cut into parts, which two threads pack and as many as the repository's settings say
//! put. Buffers go round: a full one waits for a packer, a packed one for a transfer, and each comes back empty, so memory
//! is bounded by their number, whatever the size of the backup and however slow the store: three parts as they are
//! and, for each thread, one as it is stored. Nothing is a backup until its manifest is written, so whatever fails here
//! leaves only orphans.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sha2::{Digest, Sha256};

use super::codec::Packer;
use super::manifest::{PART_BYTES, Part, new_part};
use super::resume::{Fingerprint, PartJournal};
use super::{Repository, hex, layout, sha256_hex};
use crate::block::Block;
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, ErrorKind};
use crate::storage::{Body, patience};

const PACKERS: usize = 2;
/// One that is filled and one for each packer.
const RAW_BUFFERS: usize = PACKERS + 1;
/// A part that ends early has at least so many bytes.
const PART_BYTES_MIN: usize = 1024 * 1024;
/// What lies between the numbers of parts, so that a later try can put new ones between those it finds again.
const NUMBER_STEP: u32 = 100;
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
    /// The part that is being filled; gone once writing has failed.
    buffer: Option<Block>,
    hash: Sha256,
    sha256: Option<String>,
    raw_bytes: u64,
    parts_sent: usize,
    last_number: u32,
    pipeline: Option<Pipeline>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    cancelled: Arc<AtomicBool>,
}

/// The writer's end of the pipeline.
struct Pipeline {
    full: Sender<RawPart>,
    empty: Receiver<Block>,
}

struct RawPart {
    number: u32,
    bytes: Block,
    /// Where it was looked up in the journal already.
    fingerprint: Option<Fingerprint>,
    /// As an earlier try has stored it.
    stored_before: Option<Part>,
}

/// A part as it is to be stored.
struct PackedPart {
    number: u32,
    fingerprint: Option<Fingerprint>,
    part: Part,
    bytes: Block,
}

struct Shared {
    repository: Repository,
    instance: InstanceId,
    backup: BackupId,
    journal: Option<PartJournal>,
    parts: Mutex<Vec<(u32, Part)>>,
    failure: Mutex<Option<Error>>,
    /// Set with `failure`, or when the writer is dropped.
    stopped: Arc<AtomicBool>,
    transferred: Arc<Transferred>,
}

impl BackupWriter {
    /// Begins to store the parts of `backup`. A part that `journal` knows from an earlier try is not stored again.
    /// Once `cancelled` is set, writing fails with `Interrupted`.
    pub(crate) fn begin(
        repository: &Repository,
        instance: InstanceId,
        backup: BackupId,
        journal: Option<PartJournal>,
        cancelled: Arc<AtomicBool>,
    ) -> Result<BackupWriter, Error> {
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            instance,
            backup,
            journal,
            parts: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            stopped: Arc::new(AtomicBool::new(false)),
            transferred: Arc::new(Transferred::default()),
        });
        let mut writer = BackupWriter {
            buffer: Some(new_part()?),
            hash: Sha256::new(),
            sha256: None,
            raw_bytes: 0,
            parts_sent: 0,
            last_number: 0,
            pipeline: None,
            threads: Vec::new(),
            shared,
            cancelled,
        };
        // On failure the writer is dropped, which ends those threads that were started.
        writer.start_threads()?;
        Ok(writer)
    }

    fn start_threads(&mut self) -> Result<(), Error> {
        let transfers = self.shared.repository.transfers.get();
        let stored_buffers = PACKERS + transfers;
        let (full, to_pack) = bounded(RAW_BUFFERS);
        let (raw_back, empty) = bounded(RAW_BUFFERS);
        let (packed, to_put) = bounded(stored_buffers);
        let (stored_back, stored_empty) = bounded(stored_buffers);
        for _ in 1..RAW_BUFFERS {
            // One more is the writer's own.
            let _ = raw_back.send(new_part()?);
        }
        for _ in 0..stored_buffers {
            let _ = stored_back.send(new_part()?);
        }
        self.pipeline = Some(Pipeline { full, empty });
        for nth in 0..PACKERS {
            let station = Packing {
                to_pack: to_pack.clone(),
                raw_back: raw_back.clone(),
                stored_empty: stored_empty.clone(),
                packed: packed.clone(),
                shared: Arc::clone(&self.shared),
            };
            self.spawn(format!("pack-{nth}"), move || station.run())?;
        }
        for nth in 0..transfers {
            let (to_put, stored_back) = (to_put.clone(), stored_back.clone());
            let shared = Arc::clone(&self.shared);
            self.spawn(format!("put-{nth}"), move || put_parts(&to_put, &stored_back, &shared))?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let stopped = Arc::clone(&self.shared.stopped);
        let thread = thread::Builder::new().name(name).spawn(move || patience::unless(&stopped, body));
        let thread = thread.map_err(|err| Error::new(ErrorKind::Io, "unable to start a thread").with_source(err))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Counters that grow while the stream passes.
    pub(crate) fn progress(&self) -> Arc<Transferred> {
        Arc::clone(&self.shared.transferred)
    }

    /// Stores what is left and returns all parts in order. Afterwards `raw_bytes` and `sha256` are final.
    pub(crate) fn finish(&mut self) -> Result<Vec<Part>, Error> {
        if self.pipeline.is_none() {
            return Err(self.failure());
        }
        if self.buffered() > 0 {
            self.send_part()?;
        }
        self.check()?;
        self.join();
        if self.shared.stopped.load(Ordering::SeqCst) {
            return Err(self.failure());
        }
        let mut parts = std::mem::take(&mut *lock(&self.shared.parts));
        parts.sort_unstable_by_key(|(number, _)| *number);
        if parts.len() != self.parts_sent {
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

    /// Ends a part here, unless it would be a small one. Another try of the same backup can find again what it has
    /// stored only if it cuts its stream, which begins with other bytes, at the same places.
    pub(crate) fn cut(&mut self) -> Result<(), Error> {
        if self.buffered() < PART_BYTES_MIN { Ok(()) } else { self.send_part() }
    }

    /// Hands the full buffer over and waits for an empty one.
    fn send_part(&mut self) -> Result<(), Error> {
        let Some(buffer) = self.buffer.take() else { return Err(self.failure()) };
        let raw = self.shared.place(buffer, self.last_number)?;
        self.last_number = raw.number;
        self.parts_sent += 1;
        let Some(pipeline) = &self.pipeline else { return Err(self.failure()) };
        // There is room for every buffer there is, so this does not wait.
        pipeline.full.send(raw).map_err(|_| self.failure())?;
        loop {
            self.check()?;
            match pipeline.empty.recv_timeout(NOTICE_AFTER) {
                Ok(buffer) => {
                    self.buffer = Some(buffer);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
    }

    fn buffered(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
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

    /// The threads end one kind after the other, as nothing comes to them any more.
    fn join(&mut self) {
        self.pipeline = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(Error::new(ErrorKind::Internal, "a thread that stores parts panicked"));
            }
        }
    }
}

impl Write for BackupWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let free = PART_BYTES.saturating_sub(self.buffered());
        let taken = buf.get(..free).unwrap_or(buf);
        self.hash.update(taken);
        match &mut self.buffer {
            Some(buffer) => buffer.write_all(taken)?,
            None => return Err(io::Error::other(self.failure())),
        }
        self.raw_bytes += taken.len() as u64;
        self.shared.transferred.raw.fetch_add(taken.len() as u64, Ordering::Relaxed);
        if self.buffered() >= PART_BYTES {
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

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Gives the part behind the one with number `last` its own: that of the same bytes in an earlier try, if there are
    /// any further on, else a new one, with room for more between it and the last, or without when earlier ones follow.
    fn place(&self, bytes: Block, last: u32) -> Result<RawPart, Error> {
        let too_many = || Error::new(ErrorKind::Internal, "a backup of more parts than there are numbers");
        let far = || (last / NUMBER_STEP + 1).checked_mul(NUMBER_STEP).ok_or_else(too_many);
        let Some(journal) = self.journal.as_ref().filter(|journal| journal.known() > 0) else {
            return Ok(RawPart { number: far()?, bytes, fingerprint: None, stored_before: None });
        };
        let fingerprint = journal.fingerprint(&bytes);
        let (number, stored_before) = match journal.find(fingerprint, last) {
            Some((number, part)) => (number, Some(part.clone())),
            None if journal.goes_beyond(last) => (last.checked_add(1).ok_or_else(too_many)?, None),
            None => (far()?, None),
        };
        Ok(RawPart { number, bytes, fingerprint: Some(fingerprint), stored_before })
    }

    fn put_part(&self, packed: PackedPart) -> Result<Block, Error> {
        let PackedPart { number, fingerprint, part, bytes } = packed;
        self.repository.store.put(&part.key, Body::Hashed { bytes: &bytes, sha256: &part.sha256 })?;
        let size = self.repository.store.size(&part.key)?;
        if size != Some(part.stored_bytes) {
            let why = format!("{} bytes were stored, it has {size:?}", part.stored_bytes);
            return Err(self.repository.corrupt(&part.key, why));
        }
        if let (Some(journal), Some(fingerprint)) = (&self.journal, fingerprint) {
            journal.note(number, fingerprint, &part)?;
        }
        self.count(number, part);
        Ok(bytes)
    }

    fn count(&self, number: u32, part: Part) {
        self.transferred.stored.fetch_add(part.stored_bytes, Ordering::Relaxed);
        lock(&self.parts).push((number, part));
    }
}

/// What a packing thread works with.
struct Packing {
    to_pack: Receiver<RawPart>,
    raw_back: Sender<Block>,
    stored_empty: Receiver<Block>,
    packed: Sender<PackedPart>,
    shared: Arc<Shared>,
}

impl Packing {
    /// A thread's life: parts until there are no more, or until something fails.
    fn run(self) {
        let mut packer = match self.shared.repository.codec.packer() {
            Ok(packer) => packer,
            Err(err) => return self.shared.fail(err),
        };
        for mut raw in &self.to_pack {
            if self.shared.is_stopped() {
                return;
            }
            match self.pack(&mut packer, &mut raw) {
                Ok(true) => {}
                // Nobody puts any more, and whoever failed has said why.
                Ok(false) => return,
                Err(err) => return self.shared.fail(err),
            }
            raw.bytes.clear();
            // Behind the last part nobody waits for a buffer.
            let _ = self.raw_back.send(raw.bytes);
        }
    }

    fn pack(&self, packer: &mut Packer, raw: &mut RawPart) -> Result<bool, Error> {
        let shared = &self.shared;
        if let Some(part) = raw.stored_before.take()
            && shared.repository.store.size(&part.key)? == Some(part.stored_bytes)
        {
            shared.count(raw.number, part);
            return Ok(true);
        }
        let fresh = || shared.journal.as_ref().map(|journal| journal.fingerprint(&raw.bytes));
        let fingerprint = raw.fingerprint.or_else(fresh);
        let Ok(mut bytes) = self.stored_empty.recv() else { return Ok(false) };
        let name = layout::part_name(shared.instance, shared.backup, raw.number);
        packer.pack_into(&name, &raw.bytes, &mut bytes)?;
        let sha256 = sha256_hex(&bytes);
        let part = Part {
            key: layout::part(&name, &sha256, shared.repository.codec.form()),
            raw_bytes: raw.bytes.len() as u64,
            stored_bytes: bytes.len() as u64,
            sha256,
        };
        Ok(self.packed.send(PackedPart { number: raw.number, fingerprint, part, bytes }).is_ok())
    }
}

/// A putting thread's life.
fn put_parts(to_put: &Receiver<PackedPart>, stored_back: &Sender<Block>, shared: &Shared) {
    for packed in to_put {
        if shared.is_stopped() {
            return;
        }
        match shared.put_part(packed) {
            // Behind the last part nobody waits for a buffer.
            Ok(bytes) => drop(stored_back.send(bytes)),
            Err(err) => return shared.fail(err),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at every moment; a holder's panic is told by its join.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
