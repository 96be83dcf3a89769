//! Chunks of binlog: putting, reading, and finding them again without a catalog.
//!
//! A chunk is checked while it is written (the bytes must be those the facts describe) and while it is read (the bytes,
//! the head and the name must belong together), so neither a bad disk nor a mixed-up object can become history.

mod head;
mod payload;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

pub(crate) use head::ChunkHead;

use super::codec::Fault;
use super::{Repository, layout};
use crate::domain::chunk::{Chunk, ChunkFacts};
use crate::error::{Error, ErrorKind, error_of, io_error};
use crate::storage::Body;

pub(super) use payload::{ChunkReader, Measured};

/// Chunks with more raw bytes (one huge transaction) are built on disk.
const MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
pub(super) const COPY_BYTES: usize = 256 * 1024;
/// When only heads are read.
const HEAD_BUFFER_BYTES: usize = 8 * 1024;

/// An object that is being read.
pub(super) type StoredReader = BufReader<Box<dyn Read + Send>>;

/// The raw bytes of a chunk to be stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ChunkBody<'a> {
    Bytes(&'a [u8]),
    /// From `begin` to before `end` in the binlog file; an open one, since the server may purge its name meanwhile.
    Range {
        file: &'a File,
        begin: u64,
        end: u64,
    },
}

impl Repository {
    /// Stores a chunk. Its bytes must be as long as the facts say and have their digest, else nothing is stored.
    /// `description` is the format description event of its binlog file.
    ///
    /// May be repeated after a crash: when the chunk is there already, the facts it was stored with are returned; they
    /// differ from `facts` at most in the times that depend on when the bytes were seen. Anything else is a `Conflict`.
    pub(crate) fn put_chunk(&self, facts: &ChunkFacts, description: &[u8], raw: ChunkBody<'_>) -> Result<Chunk, Error> {
        let form = self.codec.form();
        let key = layout::chunk(facts, form);
        let raw_bytes = facts.end.checked_sub(facts.begin).filter(|bytes| *bytes > 0);
        let raw_bytes = raw_bytes.ok_or_else(|| internal(facts, "ends where it begins"))?;
        if facts.sha256.len() != 64 {
            return Err(internal(facts, "has no digest"));
        }
        // The head stands in front and tells what stands behind it, so its place is kept free until that is known.
        let mut head = ChunkHead::begin(facts, description, form, self.codec.recipients());
        let head_bytes = head.frame_bytes()?;
        let mut packer = self.codec.packer()?;
        let put = if raw_bytes <= MEMORY_BYTES_MAX {
            let mut object = vec![0; head_bytes];
            head.payload = payload::encode(&mut packer, facts, raw, &mut object)?;
            if let Some(place) = object.get_mut(..head_bytes) {
                place.copy_from_slice(&head.frame(head_bytes)?);
            }
            self.store.put(&key, Body::Bytes(&object))
        } else {
            let path = self.scratch_dir.join(format!("chunk-{}.tmp", uuid::Uuid::new_v4().simple()));
            let spill = payload::Spill::create(path)?;
            let fault = |err| io_error("unable to write", &spill.path, err);
            let mut file = &spill.file;
            file.write_all(&vec![0; head_bytes]).map_err(fault)?;
            head.payload = payload::encode(&mut packer, facts, raw, file)?;
            file.write_all_at(&head.frame(head_bytes)?, 0).map_err(fault)?;
            self.store.put(&key, Body::File(&spill.path))
        };
        match put {
            Ok(()) => {
                let stored_bytes = head_bytes as u64 + head.payload.bytes;
                self.confirm_size(&key, stored_bytes)?;
                Ok(Chunk { facts: facts.clone(), key, stored_bytes })
            }
            Err(err) if err.kind() == ErrorKind::Conflict => self.settle_chunk(facts, &key, err),
            Err(err) => Err(err),
        }
    }

    /// The chunk's head and a reader of its raw bytes. `sha256` is what the catalog says its bytes have.
    ///
    /// The reader fails, naming the object, when the bytes are not those: at the latest at their end, so nothing read is
    /// to be believed before the end was reached. `Refused` when it is encrypted and nothing here opens it.
    pub(crate) fn read_chunk(&self, key: &str, sha256: &str) -> Result<(ChunkHead, ChunkReader<StoredReader>), Error> {
        let (head, object) = self.open_chunk(key, sha256)?;
        match self.codec.decoder(&layout::chunk_name(&head.facts), object) {
            Ok(decoder) => {
                let reader = ChunkReader::new(decoder, &head.facts, self.location(key));
                Ok((head, reader))
            }
            Err(Fault::Read(err)) => Err(self.unable_to_read(key, err)),
            Err(Fault::Damaged(why)) => Err(self.corrupt(key, why)),
            Err(Fault::Locked(why)) => {
                // Damage in its first bytes would look like that too.
                let (head, object) = self.open_chunk(key, sha256)?;
                self.prove_payload(key, &head, Measured::new(object))?;
                Err(self.locked(key, &head.encrypted_to, &why))
            }
        }
    }

    /// The chunk's head, and what stands behind it as it is stored.
    pub(super) fn open_chunk(&self, key: &str, sha256: &str) -> Result<(ChunkHead, StoredReader), Error> {
        let (head, object) = self.open_head(key, COPY_BYTES)?;
        if head.facts.sha256 != sha256 {
            return Err(self.corrupt(key, "another chunk lies in its place"));
        }
        Ok((head, object))
    }

    /// Reads what is left of a payload, and proves that it was the one of this head.
    pub(super) fn prove_payload(
        &self,
        key: &str,
        head: &ChunkHead,
        mut payload: Measured<StoredReader>,
    ) -> Result<(), Error> {
        io::copy(&mut payload, &mut io::sink()).map_err(|err| self.unable_to_read(key, err))?;
        if payload.payload() != head.payload {
            return Err(self.corrupt(key, "its stored bytes do not have the digest in its head"));
        }
        Ok(())
    }

    pub(super) fn unable_to_read(&self, key: &str, err: io::Error) -> Error {
        error_of(err, &format!("unable to read `{}`", self.location(key)))
    }

    /// The head alone.
    pub(super) fn chunk_head(&self, key: &str) -> Result<ChunkHead, Error> {
        self.open_head(key, HEAD_BUFFER_BYTES).map(|(head, _)| head)
    }

    fn open_head(&self, key: &str, buffer_bytes: usize) -> Result<(ChunkHead, StoredReader), Error> {
        let mut object = BufReader::with_capacity(buffer_bytes, self.store.get(key)?);
        let head = ChunkHead::read(&mut object, &self.location(key))?;
        if layout::chunk(&head.facts, head.form()) != key || head.facts.end <= head.facts.begin {
            return Err(self.corrupt(key, "its head belongs to another name"));
        }
        Ok((head, object))
    }

    fn confirm_size(&self, key: &str, bytes: u64) -> Result<(), Error> {
        match self.store.size(key)? {
            Some(stored) if stored == bytes => Ok(()),
            Some(stored) => Err(self.corrupt(key, format_args!("{bytes} bytes were stored, it has {stored}"))),
            None => Err(self.corrupt(key, "it was stored and is not there")),
        }
    }

    /// The object exists with other bytes: fine if it is this very chunk, stored by an attempt that was cut off before
    /// anyone noted it. What is encrypted differs each time, so the heads are compared, and the stored bytes proven.
    fn settle_chunk(&self, facts: &ChunkFacts, key: &str, conflict: Error) -> Result<Chunk, Error> {
        let (head, object) = self.open_head(key, COPY_BYTES)?;
        self.prove_payload(key, &head, Measured::new(object))?;
        let as_seen_now = ChunkFacts {
            observed_at: facts.observed_at,
            clock_before: facts.clock_before,
            first_commit: facts.first_commit,
            last_commit: facts.last_commit,
            ..head.facts.clone()
        };
        if as_seen_now != *facts {
            return Err(conflict);
        }
        let Some(stored_bytes) = self.store.size(key)? else { return Err(conflict) };
        Ok(Chunk { facts: head.facts, key: key.to_owned(), stored_bytes })
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "for verification"))]
impl Repository {
    /// The chunk's head and all its raw bytes, checked. More than `bytes_max` of them are refused.
    pub(crate) fn read_chunk_verified(
        &self,
        key: &str,
        sha256: &str,
        bytes_max: u64,
    ) -> Result<(ChunkHead, Vec<u8>), Error> {
        let (head, mut reader) = self.read_chunk(key, sha256)?;
        let bytes = head.facts.end - head.facts.begin;
        if bytes > bytes_max {
            let what = format!("the chunk `{}` has {bytes} bytes, more than {bytes_max}", self.location(key));
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let mut raw = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        reader.read_to_end(&mut raw).map_err(|err| self.unable_to_read(key, err))?;
        Ok((head, raw))
    }
}

fn internal(facts: &ChunkFacts, why: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("the chunk `{}` {why}", layout::chunk_name(facts)))
}

#[cfg(test)]
pub(super) mod tests;
