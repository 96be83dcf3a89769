//! The stream format of mariadb-backup (`--stream=mbstream`, elsewhere called xbstream), little-endian:
//!
//! ```text
//! chunk   = "XBSTCK01" flags:u8 type:u8 path_length:u32 path [payload]
//! payload = length:u64 offset:u64 crc32:u32 bytes             not in a chunk of type E
//! ```
//!
//! Type `P` holds a piece of a file, at the place where its last piece ended; `E` ends a file, also one that is empty.
//! Files are interleaved. A type that is not known may be skipped if bit 0 of the flags is set, and looks like `P`.
//!
//! `mbstream -x` itself can be led outside its directory (CVE-2026-44171), so streams are unpacked here (`unpack`). While
//! a backup is made, `StreamTap` follows the stream: it proves that the stream can be unpacked later, and keeps the few
//! small files that say what the backup is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, ErrorKind};

mod ledger;
mod unpack;

pub(crate) use ledger::{Checkpoint, last_checkpoint};
pub(crate) use unpack::{Target, Unpacked, unpack};

const MAGIC: &[u8; 8] = b"XBSTCK01";
const FLAG_IGNORABLE: u8 = 1;
/// Up to and with the length of the path.
const FIXED_BYTES: usize = 14;
const PAYLOAD_HEAD_BYTES: usize = 20;
/// The server's own limit (`FN_REFLEN` with its final zero).
const PATH_BYTES_MAX: usize = 511;
const NAME_BYTES_MAX: usize = 255;
/// How deep a file may lie. A server's lie two deep; a few more for tablespaces in folders of somebody's own.
const DEPTH_MAX: usize = 16;
/// The tool has one file open for each of its threads, and a few more.
const OPEN_FILES_MAX: usize = 512;
/// More files than any server could have open tables.
const FILES_MAX: u64 = 4_000_000;
/// How far apart good places for a cut are, about.
const CUT_BYTES: u64 = 16 * 1024 * 1024;
const CAPTURED_BYTES_MAX: usize = 1024 * 1024;

/// Follows a stream that passes and keeps some of its small files.
pub(crate) struct StreamTap {
    parser: Parser,
    capture: Capture,
}

impl StreamTap {
    /// Will keep the files of these names.
    pub(crate) fn new(names: &[&str]) -> StreamTap {
        let wanted = names.iter().map(|name| (*name).to_owned()).collect();
        StreamTap { parser: Parser::default(), capture: Capture { is_cut: false, wanted, files: BTreeMap::new() } }
    }

    /// Takes the next bytes of the stream, up to a good place for a cut, and says how many. Fails when they could not be
    /// unpacked; the backup is then worth nothing.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Passed, Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.parser.push_chunk(rest, &mut self.capture)?;
            if self.parser.at_boundary() && self.capture.is_cut {
                break;
            }
        }
        Ok(Passed { bytes: bytes.len() - rest.len(), is_cut: std::mem::take(&mut self.capture.is_cut) })
    }

    /// The files that were kept, by name. Fails when the stream is not complete.
    pub(crate) fn finish(self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.parser.finish()?;
        Ok(self.capture.files)
    }
}

/// What a tap took of the bytes it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) bytes: usize,
    /// Behind them is a place that another backup of much the same data will have too, wherever in its stream. It is
    /// chosen by the name and the place of the piece before it alone.
    pub(crate) is_cut: bool,
}

struct Capture {
    is_cut: bool,
    wanted: BTreeSet<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Sink for Capture {
    fn begin(&mut self, path: &str) -> Result<(), Error> {
        if self.wanted.contains(path) && self.files.insert(path.to_owned(), Vec::new()).is_some() {
            return Err(Error::new(ErrorKind::Corrupt, format!("the backup stream holds `{path}` twice")));
        }
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = self.files.get_mut(path) else { return Ok(()) };
        if file.len() + bytes.len() > CAPTURED_BYTES_MAX {
            let what = format!("`{path}` in the backup stream is larger than {CAPTURED_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    /// A piece is followed by a cut with a chance that grows with its length, so that cuts are about as far apart
    /// whatever the length of pieces.
    fn piece_ended(&mut self, path: &str, offset: u64, length: u64) {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(path.as_bytes());
        hasher.update(&offset.to_le_bytes());
        self.is_cut |= u64::from(hasher.finalize()) < length.saturating_mul((1 << 32) / CUT_BYTES);
    }
}

/// What a parser does with what it finds. Calls for one path come as `begin`, any number of `bytes`, `end`.
trait Sink {
    fn begin(&mut self, path: &str) -> Result<(), Error>;
    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error>;
    fn end(&mut self, path: &str) -> Result<(), Error>;

    /// A piece of a file has come, whole.
    fn piece_ended(&mut self, _path: &str, _offset: u64, _length: u64) {}

    /// Everything before this place, where a chunk ends, was passed on.
    fn boundary(&mut self, _: &Boundary<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The place between two chunks.
struct Boundary<'a> {
    offset: u64,
    files: u64,
    /// Files that have not ended, and how much of each has come.
    open: &'a HashMap<String, u64>,
}

/// Takes a stream in pieces of any size. Pure but for its sink.
#[derive(Default)]
struct Parser {
    /// Bytes of the stream before the current chunk's first.
    chunk_at: u64,
    chunk_bytes: u64,
    /// The head of the current chunk, as far as it has come.
    head: Vec<u8>,
    payload: Option<Payload>,
    /// Files that were begun and have not ended, and how much of each has come.
    open: HashMap<String, u64>,
    files: u64,
    has_failed: bool,
}

struct Payload {
    path: String,
    /// Where in its file.
    offset: u64,
    length: u64,
    left: u64,
    crc: u32,
    hasher: crc32fast::Hasher,
    is_ignored: bool,
}

impl Parser {
    /// Goes on behind a checkpoint.
    fn behind(from: &Checkpoint) -> Parser {
        let open = from.open.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect();
        Parser { chunk_at: from.offset, files: from.files, open, ..Parser::default() }
    }

    /// Takes the next bytes. After a failure it takes no more.
    fn push(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.push_chunk(rest, sink)?;
        }
        Ok(())
    }

    /// Takes the next bytes up to the end of a chunk, and returns the rest.
    fn push_chunk<'a>(&mut self, bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Error> {
        if self.has_failed {
            return Err(Error::new(ErrorKind::Corrupt, "the backup stream was found damaged before"));
        }
        let rest = self.take(bytes, sink);
        self.has_failed = rest.is_err();
        rest
    }

    /// Whether it stands between two chunks.
    fn at_boundary(&self) -> bool {
        self.head.is_empty() && self.payload.is_none()
    }

    /// Fails unless the stream may end here.
    fn finish(&self) -> Result<(), Error> {
        if self.has_failed {
            return Err(Error::new(ErrorKind::Corrupt, "the backup stream was found damaged before"));
        }
        if !self.head.is_empty() || self.payload.is_some() {
            return Err(self.corrupt("the stream ends within a chunk"));
        }
        if let Some(path) = self.open.keys().min() {
            return Err(self.corrupt(&format!("the stream ends before `{path}` does")));
        }
        if self.files == 0 {
            return Err(self.corrupt("the stream is empty"));
        }
        Ok(())
    }

    fn take<'a>(&mut self, mut bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Error> {
        while !bytes.is_empty() {
            bytes = if self.payload.is_some() { self.take_payload(bytes, sink)? } else { self.take_head(bytes, sink)? };
            if self.at_boundary() {
                sink.boundary(&Boundary { offset: self.chunk_at, files: self.files, open: &self.open })?;
                break;
            }
        }
        Ok(bytes)
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Error> {
        let missing = self.head_length()?.saturating_sub(self.head.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.head.extend_from_slice(taken);
        self.chunk_bytes += taken.len() as u64;
        // The length grows as more of the head is known.
        if self.head.len() >= FIXED_BYTES && self.head.len() == self.head_length()? {
            self.enter_chunk(sink)?;
        }
        Ok(rest)
    }

    fn take_payload<'a>(&mut self, bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Error> {
        let Some(payload) = &mut self.payload else { return Ok(bytes) };
        let length = usize::try_from(payload.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (taken, rest) = bytes.split_at(length);
        payload.hasher.update(taken);
        payload.left -= taken.len() as u64;
        self.chunk_bytes += taken.len() as u64;
        if !payload.is_ignored {
            sink.bytes(&payload.path, taken)?;
        }
        if payload.left == 0 {
            self.leave_payload(sink)?;
        }
        Ok(rest)
    }

    /// How long the head is, as far as can be said by now.
    fn head_length(&self) -> Result<usize, Error> {
        let Some((fixed, _)) = self.head.split_first_chunk::<FIXED_BYTES>() else { return Ok(FIXED_BYTES) };
        let [magic @ .., flags, kind, l0, l1, l2, l3] = fixed;
        if magic != MAGIC {
            return Err(self.corrupt("no chunk begins where one must"));
        }
        if !matches!(kind, b'P' | b'E') && flags & FLAG_IGNORABLE == 0 {
            let what = format!("the backup stream has a chunk of type `{}`, which is not known", kind.escape_ascii());
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint("The backup tool is newer than this version of coffer, or was told to write sparse chunks."));
        }
        let path_length = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).unwrap_or(usize::MAX);
        if path_length == 0 || path_length > PATH_BYTES_MAX {
            return Err(self.corrupt(&format!("a path of {path_length} bytes")));
        }
        let payload_head = if *kind == b'E' { 0 } else { PAYLOAD_HEAD_BYTES };
        Ok(FIXED_BYTES + path_length + payload_head)
    }

    /// The head is complete.
    fn enter_chunk(&mut self, sink: &mut impl Sink) -> Result<(), Error> {
        let kind = self.head.get(9).copied().unwrap_or_default();
        let behind_fixed = self.head.get(FIXED_BYTES..).unwrap_or_default();
        if kind == b'E' {
            let path = self.check_path(behind_fixed)?;
            if self.open.remove(&path).is_none() {
                self.count_file()?;
                sink.begin(&path)?;
            }
            sink.end(&path)?;
            self.leave_chunk();
            return Ok(());
        }
        let malformed = || self.corrupt("a malformed head");
        let (path, numbers) = behind_fixed.split_last_chunk::<PAYLOAD_HEAD_BYTES>().ok_or_else(malformed)?;
        let (length, numbers) = numbers.split_first_chunk::<8>().ok_or_else(malformed)?;
        let (offset, crc) = numbers.split_first_chunk::<8>().ok_or_else(malformed)?;
        let crc = crc.first_chunk::<4>().ok_or_else(malformed)?;
        let (length, offset) = (u64::from_le_bytes(*length), u64::from_le_bytes(*offset));
        let crc = u32::from_le_bytes(*crc);
        let path = self.check_path(path)?;
        if kind == b'P' {
            self.begin_piece(&path, offset, length, sink)?;
        }
        let hasher = crc32fast::Hasher::new();
        self.payload = Some(Payload { path, offset, length, left: length, crc, hasher, is_ignored: kind != b'P' });
        if length == 0 { self.leave_payload(sink) } else { Ok(()) }
    }

    fn begin_piece(&mut self, path: &str, offset: u64, length: u64, sink: &mut impl Sink) -> Result<(), Error> {
        if !self.open.contains_key(path) {
            if self.open.len() >= OPEN_FILES_MAX {
                return Err(self.corrupt(&format!("more than {OPEN_FILES_MAX} files at a time")));
            }
            self.count_file()?;
            sink.begin(path)?;
        }
        let end = self.open.get(path).copied().unwrap_or(0);
        let new_end = end.checked_add(length).filter(|_| offset == end);
        let Some(new_end) = new_end else {
            return Err(self.corrupt(&format!("a piece of `{path}` at {offset}, which has come up to {end}")));
        };
        self.open.insert(path.to_owned(), new_end);
        Ok(())
    }

    fn count_file(&mut self) -> Result<(), Error> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(self.corrupt(&format!("more than {FILES_MAX} files")));
        }
        Ok(())
    }

    fn leave_payload(&mut self, sink: &mut impl Sink) -> Result<(), Error> {
        if let Some(payload) = self.payload.take() {
            let Payload { path, offset, length, crc, hasher, .. } = payload;
            if hasher.finalize() != crc {
                return Err(self.corrupt(&format!("a piece of `{path}` does not have its checksum")));
            }
            sink.piece_ended(&path, offset, length);
        }
        self.leave_chunk();
        Ok(())
    }

    fn leave_chunk(&mut self) {
        self.head.clear();
        self.chunk_at += self.chunk_bytes;
        self.chunk_bytes = 0;
    }

    /// Names a server's files can have below its data directory, and nothing else.
    fn check_path(&self, path: &[u8]) -> Result<String, Error> {
        let good_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX;
        let good = |text: &str| {
            let mut names = text.split('/');
            names.by_ref().take(DEPTH_MAX).all(good_name)
                && names.next().is_none()
                && !text.chars().any(|c| c.is_control() || c == '\\')
        };
        match std::str::from_utf8(path) {
            Ok(text) if good(text) => Ok(text.to_owned()),
            _ => Err(self.corrupt(&format!("the path `{}` is none a backup may hold", path.escape_ascii()))),
        }
    }

    fn corrupt(&self, why: &str) -> Error {
        let what = format!("the backup stream is damaged in the chunk at byte {}: {why}", self.chunk_at);
        Error::new(ErrorKind::Corrupt, what)
    }
}

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
