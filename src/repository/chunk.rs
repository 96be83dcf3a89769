//! Chunks of binlog: putting and reading them.
//!
//! A chunk is checked while it is written (the bytes must be those the facts describe) and while it is read (the bytes,
//! the head and the name must belong together), so neither a bad disk nor a mixed-up object can become history.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{FORMAT, Repository, check_format, hex, layout, sha256_hex, to_json};
use crate::domain::chunk::{Chunk, ChunkFacts};
use crate::error::{Error, ErrorKind, error_of, io_error};
use crate::storage::Body;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// A head holds GTIDs of every server and domain; even thousands of them fit.
const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;
const DIGEST_LINE_BYTES: usize = 1 + 64;
/// Chunks with more raw bytes (one huge transaction) are built on disk.
const MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The window a decoder may be asked to hold; ours never exceed 8 MiB.
const WINDOW_LOG_MAX: u32 = 25;
/// Shipping shares the host with the server: speed before size.
const LEVEL: i32 = 1;
const COPY_BYTES: usize = 256 * 1024;

type StoredReader = BufReader<Box<dyn Read + Send>>;

/// What stands in front of the bytes in the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChunkHead {
    pub(crate) format: u32,
    pub(crate) facts: ChunkFacts,
    /// The format description event of the binlog file, in hex, so that a chunk can be read without the file's first.
    pub(crate) description: String,
}

impl ChunkHead {
    pub(crate) fn new(facts: ChunkFacts, description: &[u8]) -> ChunkHead {
        ChunkHead { format: FORMAT, facts, description: hex(description) }
    }
}

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
    ///
    /// May be repeated after a crash: when the chunk is there already, the facts it was stored with are returned; they
    /// differ from `head`'s at most in the times that depend on when the bytes were seen. Anything else is a `Conflict`.
    pub(crate) fn put_chunk(&self, head: &ChunkHead, raw: ChunkBody<'_>) -> Result<Chunk, Error> {
        let facts = &head.facts;
        let key = layout::chunk(facts);
        let raw_bytes = facts.end.checked_sub(facts.begin).filter(|bytes| *bytes > 0);
        let raw_bytes = raw_bytes.ok_or_else(|| internal(&key, "ends where it begins"))?;
        if head.format != FORMAT || facts.sha256.len() != 64 {
            return Err(internal(&key, "has a bad head"));
        }
        let frame = head_frame(head)?;
        let put = if raw_bytes <= MEMORY_BYTES_MAX {
            let mut object = frame;
            encode(facts, raw_bytes, raw, &mut object)?;
            self.store.put(&key, Body::Bytes(&object)).map(|()| object.len() as u64)
        } else {
            let spill = Spill::create(self.scratch_dir.join(format!("chunk-{}.tmp", uuid::Uuid::new_v4().simple())))?;
            let mut file = &spill.file;
            file.write_all(&frame).map_err(|err| io_error("unable to write", &spill.path, err))?;
            encode(facts, raw_bytes, raw, &mut file)?;
            let bytes = spill.file.metadata().map_err(|err| io_error("unable to look at", &spill.path, err))?.len();
            self.store.put(&key, Body::File(&spill.path)).map(|()| bytes)
        };
        match put {
            Ok(stored_bytes) => {
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
    /// to be believed before the end was reached.
    pub(crate) fn read_chunk(&self, key: &str, sha256: &str) -> Result<(ChunkHead, ChunkReader), Error> {
        let (head, reader) = self.open_chunk(key)?;
        if head.facts.sha256 != sha256 {
            return Err(self.corrupt(key, "another chunk lies in its place"));
        }
        Ok((head, reader))
    }

    fn open_head(&self, key: &str) -> Result<(ChunkHead, StoredReader), Error> {
        let mut object = BufReader::with_capacity(COPY_BYTES, self.store.get(key)?);
        let head = read_head(&mut object, &self.location(key))?;
        if layout::chunk(&head.facts) != key || head.facts.end <= head.facts.begin {
            return Err(self.corrupt(key, "its head belongs to another name"));
        }
        Ok((head, object))
    }

    fn open_chunk(&self, key: &str) -> Result<(ChunkHead, ChunkReader), Error> {
        let (head, object) = self.open_head(key)?;
        let facts = &head.facts;
        let unusable = |err| Error::new(ErrorKind::Internal, "unable to start zstd").with_source(err);
        let mut decoder = zstd::Decoder::with_buffer(object).map_err(unusable)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(unusable)?;
        let reader = ChunkReader {
            decoder,
            hash: Sha256::new(),
            left: facts.end - facts.begin,
            sha256: facts.sha256.clone(),
            location: self.location(key),
            outcome: None,
        };
        Ok((head, reader))
    }

    fn confirm_size(&self, key: &str, bytes: u64) -> Result<(), Error> {
        match self.store.size(key)? {
            Some(stored) if stored == bytes => Ok(()),
            Some(stored) => Err(self.corrupt(key, format_args!("{bytes} bytes were stored, it has {stored}"))),
            None => Err(self.corrupt(key, "it was stored and is not there")),
        }
    }

    /// The object exists with other bytes: fine if it is this very chunk, stored by an attempt that was cut off before
    /// anyone noted it.
    fn settle_chunk(&self, facts: &ChunkFacts, key: &str, conflict: Error) -> Result<Chunk, Error> {
        let (head, mut reader) = self.open_chunk(key)?;
        io::copy(&mut reader, &mut io::sink())
            .map_err(|err| error_of(err, &format!("unable to read `{}`", self.location(key))))?;
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
        reader
            .read_to_end(&mut raw)
            .map_err(|err| error_of(err, &format!("unable to read `{}`", self.location(key))))?;
        Ok((head, raw))
    }
}

/// Yields the raw bytes of a chunk and fails unless they are the right ones; see `Repository::read_chunk`.
pub(crate) struct ChunkReader {
    decoder: zstd::Decoder<'static, StoredReader>,
    hash: Sha256,
    /// Bytes that have to come yet.
    left: u64,
    sha256: String,
    location: String,
    /// Once the end was reached: why the bytes are bad, or nothing.
    outcome: Option<Option<String>>,
}

impl ChunkReader {
    fn fail(&mut self, why: String) -> io::Error {
        let err = io::Error::other(super::corrupt(&self.location, &why));
        self.outcome = Some(Some(why));
        err
    }

    fn end(&mut self) -> io::Result<usize> {
        if self.left > 0 {
            let left = self.left;
            return Err(self.fail(format!("it ends {left} bytes early")));
        }
        if hex(&self.hash.finalize_reset()) != self.sha256 {
            return Err(self.fail("its bytes do not have their digest".to_owned()));
        }
        self.outcome = Some(None);
        Ok(0)
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.outcome {
            None if buf.is_empty() => return Ok(0),
            None => {}
            Some(None) => return Ok(0),
            Some(Some(why)) => return Err(io::Error::other(super::corrupt(&self.location, why))),
        }
        let read = match self.decoder.read(buf) {
            Ok(0) => return self.end(),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => return Err(err),
            // A failure of the store, not of the bytes.
            Err(err) if err.get_ref().is_some_and(|inner| inner.is::<Error>()) || err.raw_os_error().is_some() => {
                return Err(err);
            }
            Err(err) => return Err(self.fail(err.to_string())),
        };
        let Some(left) = self.left.checked_sub(read as u64) else {
            return Err(self.fail("it holds more bytes than its name says".to_owned()));
        };
        self.left = left;
        self.hash.update(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// The skippable frame.
fn head_frame(head: &ChunkHead) -> Result<Vec<u8>, Error> {
    let json = to_json(head)?;
    let length = u32::try_from(json.len() + DIGEST_LINE_BYTES).ok().filter(|_| json.len() <= HEAD_BYTES_MAX);
    let length = length.ok_or_else(|| internal(&layout::chunk(&head.facts), "has a head of more than 4 MiB"))?;
    let digest = sha256_hex(&json);
    let mut frame = Vec::new();
    for piece in [&SKIPPABLE_MAGIC.to_le_bytes()[..], &length.to_le_bytes(), &json, b"\n", digest.as_bytes()] {
        frame.extend_from_slice(piece);
    }
    Ok(frame)
}

pub(super) fn read_head(object: &mut impl Read, location: &str) -> Result<ChunkHead, Error> {
    let corrupt = |why: &str| super::corrupt(location, why);
    let fault = |err: io::Error| match err.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("it ends within its head"),
        _ => error_of(err, &format!("unable to read `{location}`")),
    };
    let mut magic = [0; 4];
    let mut length = [0; 4];
    object.read_exact(&mut magic).map_err(fault)?;
    object.read_exact(&mut length).map_err(fault)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if u32::from_le_bytes(magic) != SKIPPABLE_MAGIC || length > HEAD_BYTES_MAX + DIGEST_LINE_BYTES {
        return Err(corrupt("it does not begin as a chunk does"));
    }
    let json_length = length.checked_sub(DIGEST_LINE_BYTES).ok_or_else(|| corrupt("its head is too short"))?;
    let mut json = vec![0; length];
    object.read_exact(&mut json).map_err(fault)?;
    let digest = json.split_off(json_length);
    check_format(&json, location)?;
    if digest.strip_prefix(b"\n") != Some(sha256_hex(&json).as_bytes()) {
        return Err(corrupt("its head does not have its digest"));
    }
    serde_json::from_slice(&json).map_err(|err| super::corrupt(location, err))
}

/// Compresses the raw bytes to `out`, checking that they are those of `facts`.
fn encode(facts: &ChunkFacts, raw_bytes: u64, raw: ChunkBody<'_>, out: &mut impl Write) -> Result<(), Error> {
    let fault = |err| error_of(err, "unable to compress a binlog chunk");
    let mut encoder = zstd::Encoder::new(out, LEVEL).map_err(fault)?;
    encoder.include_checksum(true).map_err(fault)?;
    encoder.set_pledged_src_size(Some(raw_bytes)).map_err(fault)?;
    let mismatch = |why: &str| {
        let what = format!("the bytes of `{}` from {} to {} {why}", facts.file, facts.begin, facts.end);
        Error::new(ErrorKind::Corrupt, what).hint("Nothing was stored; the binlog is read again.")
    };
    let mut hash = Sha256::new();
    match raw {
        ChunkBody::Bytes(bytes) => {
            if bytes.len() as u64 != raw_bytes {
                return Err(mismatch("are not as many as they should be"));
            }
            hash.update(bytes);
            encoder.write_all(bytes).map_err(fault)?;
        }
        ChunkBody::Range { file, begin, end } => {
            if end.checked_sub(begin) != Some(raw_bytes) {
                return Err(mismatch("are not as many as they should be"));
            }
            let mut buffer = vec![0; COPY_BYTES];
            let mut at = begin;
            while at < end {
                let want = usize::try_from(end - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
                let Some(piece) = buffer.get_mut(..want) else { break };
                file.read_exact_at(piece, at).map_err(|err| mismatch("cannot be read").with_source(err))?;
                hash.update(&*piece);
                encoder.write_all(piece).map_err(fault)?;
                at += want as u64;
            }
        }
    }
    if hex(&hash.finalize()) != facts.sha256 {
        return Err(mismatch("do not have the digest they had when they were examined"));
    }
    encoder.finish().map_err(fault)?;
    Ok(())
}

/// A private file that goes when it is dropped.
struct Spill {
    file: File,
    path: PathBuf,
}

impl Spill {
    fn create(path: PathBuf) -> Result<Spill, Error> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok(Spill { file: file.map_err(|err| io_error("unable to create", &path, err))?, path })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn internal(key: &str, why: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("the chunk `{key}` {why}"))
}

#[cfg(test)]
pub(super) mod tests;
