//! The bytes behind a chunk's head: made, measured, and read back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::head::Payload;
use super::{COPY_BYTES, ChunkBody};
use crate::domain::chunk::ChunkFacts;
use crate::error::{Error, ErrorKind, error_of, io_error};
use crate::repository::codec::{Decoder, Packer, is_of_the_store};
use crate::repository::{corrupt, hex, layout};

/// Writes what is to be stored of the raw bytes to `out`, checking that they are those of `facts`.
pub(super) fn encode(
    packer: &mut Packer,
    facts: &ChunkFacts,
    raw: ChunkBody<'_>,
    out: impl Write,
) -> Result<Payload, Error> {
    let raw_bytes = facts.end - facts.begin;
    let fault = |err| error_of(err, "unable to compress a binlog chunk");
    let mut encoder = packer.encoder(&layout::chunk_name(facts), raw_bytes, Measured::new(out))?;
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
    Ok(encoder.finish().map_err(fault)?.payload())
}

/// Passes bytes on, and knows afterwards how many and which they were. Reads and writes alike.
pub(in crate::repository) struct Measured<T> {
    inner: T,
    bytes: u64,
    hash: Sha256,
}

impl<T> Measured<T> {
    pub(in crate::repository) fn new(inner: T) -> Measured<T> {
        Measured { inner, bytes: 0, hash: Sha256::new() }
    }

    fn count(&mut self, passed: &[u8]) {
        self.bytes += passed.len() as u64;
        self.hash.update(passed);
    }

    /// What has passed.
    pub(in crate::repository) fn payload(self) -> Payload {
        Payload { bytes: self.bytes, sha256: hex(&self.hash.finalize()) }
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.count(buf.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: BufRead> Read for Measured<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.count(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Measured<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed was filled before, so this reads nothing and cannot fail.
        if let Ok(filled) = self.inner.fill_buf() {
            let passed = filled.get(..amount).unwrap_or(filled);
            self.bytes += passed.len() as u64;
            self.hash.update(passed);
        }
        self.inner.consume(amount);
    }
}

/// Yields the raw bytes of a chunk and fails unless they are the right ones; see `Repository::read_chunk`.
pub(crate) struct ChunkReader<R: BufRead> {
    decoder: Decoder<R>,
    hash: Sha256,
    /// Bytes that have to come yet.
    left: u64,
    sha256: String,
    location: String,
    /// Once the end was reached: why the bytes are bad, or nothing.
    outcome: Option<Option<String>>,
}

impl<R: BufRead> ChunkReader<R> {
    pub(in crate::repository) fn new(decoder: Decoder<R>, facts: &ChunkFacts, location: String) -> ChunkReader<R> {
        ChunkReader {
            decoder,
            hash: Sha256::new(),
            left: facts.end - facts.begin,
            sha256: facts.sha256.clone(),
            location,
            outcome: None,
        }
    }

    fn fail(&mut self, why: String) -> io::Error {
        let err = io::Error::other(corrupt(&self.location, &why));
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

impl<R: BufRead> Read for ChunkReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.outcome {
            None if buf.is_empty() => return Ok(0),
            None => {}
            Some(None) => return Ok(0),
            Some(Some(why)) => return Err(io::Error::other(corrupt(&self.location, why))),
        }
        let read = match self.decoder.read(buf) {
            Ok(0) => return self.end(),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted || is_of_the_store(&err) => return Err(err),
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

/// A private file that goes when it is dropped.
pub(super) struct Spill {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Spill {
    pub(super) fn create(path: PathBuf) -> Result<Spill, Error> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok(Spill { file: file.map_err(|err| io_error("unable to create", &path, err))?, path })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
