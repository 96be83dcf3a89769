//! Takes a stream apart, in pieces of any size, and trusts nothing in it: names, lengths, order and checksums.

use std::collections::{HashMap, VecDeque};

use super::{FLAG_HOLES, FLAG_IGNORABLE, MAGIC};
use crate::error::{Error, ErrorKind};

/// Up to and with the length of the path.
const FIXED_BYTES: usize = 14;
const PAYLOAD_HEAD_BYTES: usize = 20;
const SPARSE_HEAD_BYTES: usize = 24;
/// As much behind the path tells a sparse piece from a seek of MariaDB's.
const SEEK_KNOWN_BYTES: usize = 16;
const SPARSE_ENTRY_BYTES: usize = 8;
/// The tool's pieces have 10 MiB, and no page is smaller than 1 KiB.
const SPARSE_ENTRIES_MAX: usize = 256 * 1024;
/// The server's own limit (`FN_REFLEN` with its final zero).
pub(super) const PATH_BYTES_MAX: usize = 511;
const NAME_BYTES_MAX: usize = 255;
/// How deep a file may lie. A server's lie two deep; a few more for tablespaces in folders of somebody's own.
pub(super) const DEPTH_MAX: usize = 16;
/// The tool has one file open for each of its threads, and a few more.
pub(super) const OPEN_FILES_MAX: usize = 512;
/// More files than any server could have open tables.
pub(super) const FILES_MAX: u64 = 4_000_000;
/// The largest tablespace: 2^32 pages of 64 KiB.
const FILE_BYTES_MAX: u64 = 1 << 48;

/// What blocks of zeros among the bytes of a file were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeros {
    Written,
    Holes,
}

/// What a parser does with what it finds. Calls for one path come as `begin`, any number of `bytes`
/// and `gap`, `end`.
pub(super) trait Sink {
    fn begin(&mut self, path: &str) -> Result<(), Error>;
    fn bytes(&mut self, path: &str, bytes: &[u8], zeros: Zeros) -> Result<(), Error>;
    /// So many bytes of the file, all zeros, which are not in the stream.
    fn gap(&mut self, path: &str, length: u64) -> Result<(), Error>;
    fn end(&mut self, path: &str) -> Result<(), Error>;

    /// A piece of a file has come, whole.
    fn piece_ended(&mut self, _path: &str, _offset: u64, _length: u64) {}

    /// Everything before this place, where a chunk ends, was passed on.
    fn boundary(&mut self, _: &Boundary<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The place between two chunks.
pub(super) struct Boundary<'a> {
    pub(super) offset: u64,
    pub(super) files: u64,
    /// Files that have not ended, and how much of each has come.
    pub(super) open: &'a HashMap<String, u64>,
}

/// Takes a stream in pieces of any size. Pure but for its sink.
#[derive(Default)]
pub(super) struct Parser {
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
    /// Bytes in the stream, behind a map of gaps.
    length: u64,
    left: u64,
    crc: u32,
    hasher: crc32fast::Hasher,
    zeros: Zeros,
    is_ignored: bool,
    gaps: Gaps,
}

/// Where the bytes of a piece go; a piece without gaps has an empty map.
#[derive(Default)]
struct Gaps {
    /// Bytes of the map that have not come.
    map_left: usize,
    map: Vec<u8>,
    /// What the map says, as far as it was not followed yet: bytes of gap, bytes of payload.
    entries: VecDeque<(u32, u32)>,
    /// Bytes of payload up to the next gap.
    run_left: u64,
}

impl Parser {
    /// Goes on behind so many bytes of the stream, in which so many files were begun.
    pub(super) fn behind(offset: u64, files: u64, open: HashMap<String, u64>) -> Parser {
        Parser { chunk_at: offset, files, open, ..Parser::default() }
    }

    /// Takes the next bytes. After a failure it takes no more.
    pub(super) fn push(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.push_chunk(rest, sink)?;
        }
        Ok(())
    }

    /// Takes the next bytes up to the end of a chunk, and returns the rest.
    pub(super) fn push_chunk<'a>(&mut self, bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Error> {
        if self.has_failed {
            return Err(Error::new(ErrorKind::Corrupt, "the backup stream was found damaged before"));
        }
        let rest = self.take(bytes, sink);
        self.has_failed = rest.is_err();
        rest
    }

    /// Whether it stands between two chunks.
    pub(super) fn at_boundary(&self) -> bool {
        self.head.is_empty() && self.payload.is_none()
    }

    /// Fails unless the stream may end here.
    pub(super) fn finish(&self) -> Result<(), Error> {
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
        let wanted = match payload.gaps.map_left {
            0 => payload.run(sink)?,
            map_left => map_left as u64,
        };
        let length = usize::try_from(wanted).map_or(bytes.len(), |wanted| wanted.min(bytes.len()));
        let (taken, rest) = bytes.split_at(length);
        payload.hasher.update(taken);
        self.chunk_bytes += taken.len() as u64;
        if payload.gaps.map_left > 0 {
            payload.gaps.map.extend_from_slice(taken);
            payload.gaps.map_left -= taken.len();
            if payload.gaps.map_left == 0 {
                self.enter_map()?;
            }
        } else {
            payload.left -= taken.len() as u64;
            payload.gaps.run_left = payload.gaps.run_left.saturating_sub(taken.len() as u64);
            if !payload.is_ignored {
                sink.bytes(&payload.path, taken, payload.zeros)?;
            }
        }
        self.leave_payload_if_complete(sink)?;
        Ok(rest)
    }

    /// How long the head is, as far as can be said by now.
    fn head_length(&self) -> Result<usize, Error> {
        let Some((fixed, _)) = self.head.split_first_chunk::<FIXED_BYTES>() else { return Ok(FIXED_BYTES) };
        let [magic @ .., flags, kind, l0, l1, l2, l3] = fixed;
        if magic != MAGIC {
            return Err(self.corrupt("no chunk begins where one must"));
        }
        if !matches!(kind, b'P' | b'S' | b'E') && flags & FLAG_IGNORABLE == 0 {
            return Err(unknown_chunk(*kind));
        }
        let path_length = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).unwrap_or(usize::MAX);
        if path_length == 0 || path_length > PATH_BYTES_MAX {
            return Err(self.corrupt(&format!("a path of {path_length} bytes")));
        }
        let behind_path = self.head.get(FIXED_BYTES + path_length..).unwrap_or_default();
        let payload_head = match kind {
            b'E' => 0,
            b'S' if behind_path.len() < SEEK_KNOWN_BYTES => SEEK_KNOWN_BYTES,
            // The next chunk begins behind eight bytes: no piece is as long as its magic would say.
            b'S' if behind_path.get(8..SEEK_KNOWN_BYTES) == Some(MAGIC) => return Err(unknown_chunk(*kind)),
            b'S' => SPARSE_HEAD_BYTES,
            _ => PAYLOAD_HEAD_BYTES,
        };
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
        let flags = self.head.get(8).copied().unwrap_or_default();
        let malformed = || self.corrupt("a malformed head");
        let (path, numbers) = behind_fixed.split_last_chunk::<PAYLOAD_HEAD_BYTES>().ok_or_else(malformed)?;
        let (length, numbers) = numbers.split_first_chunk::<8>().ok_or_else(malformed)?;
        let (offset, crc) = numbers.split_first_chunk::<8>().ok_or_else(malformed)?;
        let crc = crc.first_chunk::<4>().ok_or_else(malformed)?;
        let (length, offset) = (u64::from_le_bytes(*length), u64::from_le_bytes(*offset));
        let crc = u32::from_le_bytes(*crc);
        let (path, entries) = match kind {
            b'S' => path.split_last_chunk::<4>().ok_or_else(malformed)?,
            _ => (path, &[0; 4]),
        };
        let entries = usize::try_from(u32::from_le_bytes(*entries)).unwrap_or(usize::MAX);
        let path = self.check_path(path)?;
        if entries > SPARSE_ENTRIES_MAX || (kind == b'S' && entries == 0 && length > 0) {
            return Err(self.corrupt(&format!("a map of {entries} gaps in a piece of {length} bytes")));
        }
        let is_ignored = !matches!(kind, b'P' | b'S');
        if !is_ignored {
            self.begin_piece(&path, offset, sink)?;
            // How far a piece with gaps goes, its map will tell.
            self.extend(&path, if entries == 0 { length } else { 0 })?;
        }
        self.payload = Some(Payload {
            path,
            offset,
            length,
            left: length,
            crc,
            hasher: crc32fast::Hasher::new(),
            zeros: if flags & FLAG_HOLES == 0 { Zeros::Written } else { Zeros::Holes },
            is_ignored,
            gaps: Gaps { map_left: entries * SPARSE_ENTRY_BYTES, ..Gaps::default() },
        });
        self.leave_payload_if_complete(sink)
    }

    fn begin_piece(&mut self, path: &str, offset: u64, sink: &mut impl Sink) -> Result<(), Error> {
        if !self.open.contains_key(path) {
            if self.open.len() >= OPEN_FILES_MAX {
                return Err(self.corrupt(&format!("more than {OPEN_FILES_MAX} files at a time")));
            }
            self.count_file()?;
            sink.begin(path)?;
            self.open.insert(path.to_owned(), 0);
        }
        let end = self.open.get(path).copied().unwrap_or(0);
        if offset != end {
            return Err(self.corrupt(&format!("a piece of `{path}` at {offset}, which has come up to {end}")));
        }
        Ok(())
    }

    /// So much more of the file comes.
    fn extend(&mut self, path: &str, length: u64) -> Result<(), Error> {
        let end = self.open.get(path).copied().unwrap_or(0);
        let Some(new_end) = end.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX) else {
            return Err(self.corrupt(&format!("a piece of {length} bytes of `{path}`, which has come up to {end}")));
        };
        self.open.insert(path.to_owned(), new_end);
        Ok(())
    }

    /// The map of a piece with gaps is complete.
    fn enter_map(&mut self) -> Result<(), Error> {
        let Some(payload) = &mut self.payload else { return Ok(()) };
        let (mut gaps, mut bytes) = (0_u64, 0_u64);
        for entry in payload.gaps.map.chunks_exact(SPARSE_ENTRY_BYTES) {
            let [s0, s1, s2, s3, l0, l1, l2, l3] = *entry else { continue };
            let (skip, length) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([l0, l1, l2, l3]));
            gaps += u64::from(skip);
            bytes += u64::from(length);
            payload.gaps.entries.push_back((skip, length));
        }
        payload.gaps.map = Vec::new();
        let (path, length, is_ignored) = (payload.path.clone(), payload.length, payload.is_ignored);
        if bytes != length {
            return Err(self.corrupt(&format!("gaps around {bytes} bytes in a piece of {length} bytes of `{path}`")));
        }
        if is_ignored { Ok(()) } else { self.extend(&path, gaps + bytes) }
    }

    fn count_file(&mut self) -> Result<(), Error> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(self.corrupt(&format!("more than {FILES_MAX} files")));
        }
        Ok(())
    }

    fn leave_payload_if_complete(&mut self, sink: &mut impl Sink) -> Result<(), Error> {
        if !self.payload.as_ref().is_some_and(Payload::is_complete) {
            return Ok(());
        }
        let Some(mut payload) = self.payload.take() else { return Ok(()) };
        // The last gaps, behind the last of the bytes.
        payload.run(sink)?;
        let Payload { path, offset, length, crc, hasher, .. } = payload;
        if hasher.finalize() != crc {
            return Err(self.corrupt(&format!("a piece of `{path}` does not have its checksum")));
        }
        sink.piece_ended(&path, offset, length);
        self.leave_chunk();
        Ok(())
    }

    fn leave_chunk(&mut self) {
        self.head.clear();
        self.chunk_at += self.chunk_bytes;
        self.chunk_bytes = 0;
    }

    fn check_path(&self, path: &[u8]) -> Result<String, Error> {
        match std::str::from_utf8(path) {
            Ok(text) if is_sane_path(text) => Ok(text.to_owned()),
            _ => Err(self.corrupt(&format!("the path `{}` is none a backup may hold", path.escape_ascii()))),
        }
    }

    fn corrupt(&self, why: &str) -> Error {
        let what = format!("the backup stream is damaged in the chunk at byte {}: {why}", self.chunk_at);
        Error::new(ErrorKind::Corrupt, what)
    }
}

impl Payload {
    fn is_complete(&self) -> bool {
        self.left == 0 && self.gaps.map_left == 0
    }

    /// Passes the gaps before the next bytes on, and says how many bytes come before the next gap.
    fn run(&mut self, sink: &mut impl Sink) -> Result<u64, Error> {
        while self.gaps.run_left == 0 {
            let Some((skip, length)) = self.gaps.entries.pop_front() else { return Ok(self.left) };
            self.gaps.run_left = u64::from(length);
            if skip > 0 && !self.is_ignored {
                sink.gap(&self.path, u64::from(skip))?;
            }
        }
        Ok(self.gaps.run_left.min(self.left))
    }
}

fn unknown_chunk(kind: u8) -> Error {
    let what = format!("the backup stream has a chunk of type `{}`, which is not known", kind.escape_ascii());
    Error::new(ErrorKind::Unsupported, what).hint(
        "The backup tool is newer than this version of coffer. What it made so far is untouched; unpack the stream with \
         the tool itself.",
    )
}

/// Whether it is a name that a server's file can have below its data directory.
pub(super) fn is_sane_path(path: &str) -> bool {
    let good_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX;
    path.len() <= PATH_BYTES_MAX
        && path.split('/').all(good_name)
        && path.split('/').count() <= DEPTH_MAX
        && !path.chars().any(|c| c.is_control() || c == '\\')
}
