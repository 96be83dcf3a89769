//! The stream format of mariadb-backup (`--stream=mbstream`) and xtrabackup (`--stream=xbstream`), little-endian:
//!
//! ```text
//! chunk   = "XBSTCK01" flags:u8 type:u8 path_length:u32 path [payload]
//! payload = length:u64 offset:u64 crc32:u32 bytes                          not in a chunk of type E
//! payload = entries:u32 length:u64 offset:u64 crc32:u32 map bytes          in a chunk of type S
//! map     = entries times (skip:u32 length:u32)
//! ```
//!
//! Type `P` holds a piece of a file, at the place where its last piece ended; `E` ends a file, also one that is empty.
//! Files are interleaved. A type that is not known may be skipped if bit 0 of the flags is set, and looks like `P`.
//! Type `S` is Percona's: a piece with gaps, for each entry `skip` bytes of gap and then `length` bytes of the payload;
//! its checksum covers the map too. Source: `xbstream_file_format` in the manual of Percona XtraBackup. MariaDB's tools
//! have a type `S` of their own, a seek (offset:u64 and nothing else), which no backup was seen to hold: it is refused.
//!
//! Streams that coffer itself makes (`pack`) say by `FLAG_HOLES` in which pieces blocks of zeros were holes. Other tools
//! pass over that bit. A directory that holds no file is no member of a stream: those stand in the file
//! `EMPTY_DIRECTORIES`, a path a line, and are made again by `unpack`.
//!
//! `mbstream -x` itself can be led outside its directory (CVE-2026-44171), so streams are unpacked here (`unpack`). While
//! a backup is made, `StreamTap` follows the stream: it proves that the stream can be unpacked later, and keeps the few
//! small files that say what the backup is.

use std::collections::{BTreeMap, BTreeSet};

use twox_hash::XxHash3_128;

use crate::error::{Error, ErrorKind};

mod beneath;
mod ledger;
pub(crate) mod pack;
mod parser;
mod sparse;
mod unpack;

pub(crate) use ledger::{Checkpoint, last_checkpoint};
pub(crate) use unpack::{Target, Unpacked, unpack};

use parser::{Parser, Sink, Zeros};

const MAGIC: &[u8; 8] = b"XBSTCK01";
const FLAG_IGNORABLE: u8 = 1;
/// Blocks of zeros in this piece were holes in the file, and are to be holes again.
const FLAG_HOLES: u8 = 0x80;
/// The member that lists directories without files.
const EMPTY_DIRECTORIES: &str = "coffer_empty_directories";
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
        StreamTap { parser: Parser::default(), capture: Capture { is_cut: false, wanted, ..Capture::default() } }
    }

    /// Will note the first file of each of these ends of names.
    #[cfg_attr(not(test), expect(dead_code, reason = "for streams that xtrabackup has made"))]
    pub(crate) fn noting(mut self, ends: &'static [&'static str]) -> StreamTap {
        self.capture.ends = ends;
        self
    }

    /// For each of the ends asked for that was there, the first file with it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for streams that xtrabackup has made"))]
    pub(crate) fn noted(&self) -> &BTreeMap<&'static str, String> {
        &self.capture.noted
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

#[derive(Default)]
struct Capture {
    is_cut: bool,
    wanted: BTreeSet<String>,
    ends: &'static [&'static str],
    noted: BTreeMap<&'static str, String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Capture {
    fn append(&mut self, path: &str, length: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let Some(file) = self.files.get_mut(path) else { return Ok(()) };
        if length > CAPTURED_BYTES_MAX.saturating_sub(file.len()) as u64 {
            let what = format!("`{path}` in the backup stream is larger than {CAPTURED_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        fill(file);
        Ok(())
    }
}

impl Sink for Capture {
    fn begin(&mut self, path: &str) -> Result<(), Error> {
        for end in self.ends.iter().filter(|end| path.ends_with(**end)) {
            self.noted.entry(end).or_insert_with(|| path.to_owned());
        }
        if self.wanted.contains(path) && self.files.insert(path.to_owned(), Vec::new()).is_some() {
            return Err(Error::new(ErrorKind::Corrupt, format!("the backup stream holds `{path}` twice")));
        }
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8], _: Zeros) -> Result<(), Error> {
        self.append(path, bytes.len() as u64, |file| file.extend_from_slice(bytes))
    }

    fn gap(&mut self, path: &str, length: u64) -> Result<(), Error> {
        let fits = usize::try_from(length).unwrap_or(0); // What does not fit is refused.
        self.append(path, length, |file| file.resize(file.len() + fits, 0))
    }

    fn end(&mut self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    /// A piece is followed by a cut with a chance that grows with its length, so that cuts are about as far apart
    /// whatever the length of pieces.
    fn piece_ended(&mut self, path: &str, offset: u64, length: u64) {
        // One that spreads places which differ in few bits; a checksum puts many cuts side by side, and none far on.
        let place = [path.as_bytes(), &offset.to_le_bytes()].concat();
        let chance = XxHash3_128::oneshot(&place) & u128::from(u32::MAX);
        self.is_cut |= chance < u128::from(length.saturating_mul((1 << 32) / CUT_BYTES));
    }
}

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
