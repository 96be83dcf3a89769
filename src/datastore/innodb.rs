//! The checksums of InnoDB's pages, as MySQL writes them. Pure.
//!
//! What a page must hold depends on its tablespace (`Layout`, from the flags in its first page) and on which algorithm
//! was set when it was last written, of which the page says nothing: as the server does, all of them are tried.
//!
//! ```text
//! page       = checksum:u32 number:u32 .. lsn:u64 (at 16) type:u16 (at 24) .. space:u32 (at 34) data (at 38) trailer
//! trailer    = checksum:u32 lsn:u32 (the lower half), the last 8 bytes
//! compressed = version:u8 (at 26) algorithm:u8 type:u16 length:u16 stored:u16, the data deflated at 38, then a hole
//! ```
//!
//! All numbers are big-endian. A page of a table with ROW_FORMAT=COMPRESSED has no trailer and its checksum leaves out
//! other fields. Pages that are encrypted, or compressed by LZ4, are passed unchecked. Source: MySQL's manual of
//! innochecksum and the server's `BlockReporter`; checked against files of MySQL 9.7.

use std::io::Read;

use flate2::read::ZlibDecoder;

const NUMBER_AT: usize = 4;
const LSN_AT: usize = 16;
const TYPE_AT: usize = 24;
const FLUSH_AT: usize = 26;
const SPACE_AT: usize = 34;
const DATA_AT: usize = 38;
const FLAGS_AT: usize = 54;
const TRAILER_BYTES: usize = 8;
/// As much of a file tells its layout.
pub(crate) const HEAD_BYTES: usize = FLAGS_AT + 4;

const PAGE_BYTES_DEFAULT: usize = 16 * 1024;
/// As large as the largest page: comparing with it is faster than looking at each byte.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// What stands in the place of a checksum under `innodb_checksum_algorithm=none`.
const NO_CHECKSUM: u32 = 0xDEAD_BEEF;

const TYPE_COMPRESSED: u16 = 14;
/// Encrypted; compressed and encrypted; an encrypted page of a spatial index.
const TYPES_ENCRYPTED: [u16; 3] = [15, 16, 17];
const ALGORITHM_ZLIB: u8 = 1;
const ALGORITHM_LZ4: u8 = 2;

/// How the pages of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// On disk.
    pub(crate) page_bytes: usize,
    /// By ROW_FORMAT=COMPRESSED.
    is_zipped: bool,
    /// Of the system tablespace, which may have several files and holds pages that are no pages of it.
    is_system: bool,
}

/// What is known of a page that is not damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// It has its checksum.
    Sound,
    /// Nothing but zeros: space that was never used.
    Empty,
    /// Encrypted, or without a checksum.
    Unchecked,
}

/// Why a page is damaged, in words that go behind "page 7 of `t.ibd`".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    Checksum,
    Torn,
    Compression,
    Misplaced { number: u32 },
    Flags { flags: u32 },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Checksum => f.write_str("does not have its checksum"),
            Damage::Torn => f.write_str("is torn: its begin and its end are not of the same write"),
            Damage::Compression => f.write_str("is compressed and can't be decompressed"),
            Damage::Misplaced { number } => write!(f, "is page {number}, written to the wrong place"),
            Damage::Flags { flags } => write!(f, "has flags that no tablespace has ({flags:#x})"),
        }
    }
}

impl Layout {
    /// The layout of a file that begins with `head`, the first `HEAD_BYTES` of it. `None` when the file does not tell: its
    /// first page is empty, or it goes on with a tablespace that begins in another file.
    pub(crate) fn of_head(head: &[u8], is_system: bool) -> Result<Option<Layout>, Damage> {
        if head.len() < HEAD_BYTES || head.iter().all(|byte| *byte == 0) || u32_at(head, NUMBER_AT) != 0 {
            return Ok(None);
        }
        let flags = u32_at(head, FLAGS_AT);
        // Both as 512 << n; 0 for none, and for the size that was once the only one.
        let (zip, page) = (flags >> 1 & 0xF, flags >> 6 & 0xF);
        if zip > 5 || page > 7 || page == 1 || page == 2 {
            return Err(Damage::Flags { flags });
        }
        let page_bytes = match (zip, page) {
            (0, 0) => PAGE_BYTES_DEFAULT,
            (0, page) => 512 << page,
            (zip, _) => 512 << zip,
        };
        Ok(Some(Layout { page_bytes, is_zipped: zip != 0, is_system }))
    }

    /// Checks one page, the `number`th of its file.
    pub(crate) fn check(self, number: u64, page: &[u8]) -> Result<Page, Damage> {
        if page.len() != self.page_bytes {
            return Ok(Page::Unchecked); // The end of a file that is no multiple.
        }
        if ZEROS.get(..page.len()) == Some(page) {
            return Ok(Page::Empty);
        }
        let found = match u16_at(page, TYPE_AT) {
            kind if TYPES_ENCRYPTED.contains(&kind) => Ok(Page::Unchecked),
            _ if self.is_zipped => check_zipped(page),
            TYPE_COMPRESSED => check_compressed(page),
            _ => check_plain(page, self.is_system),
        };
        let stated = u32_at(page, NUMBER_AT);
        match found {
            // What servers before 8.0.20 wrote twice: anybody's pages, torn ones too.
            Err(_) if self.is_doublewrite(number) => Ok(Page::Unchecked),
            // A system tablespace counts through its files.
            Ok(_) if !self.is_system && u64::from(stated) != number => Err(Damage::Misplaced { number: stated }),
            found => found,
        }
    }

    /// The second and third extent of the system tablespace.
    fn is_doublewrite(self, number: u64) -> bool {
        let extent = (1024 * 1024 / self.page_bytes).max(64) as u64;
        self.is_system && (extent..3 * extent).contains(&number)
    }
}

fn check_plain(page: &[u8], may_be_ancient: bool) -> Result<Page, Damage> {
    let trailer_at = page.len().saturating_sub(TRAILER_BYTES);
    if u32_at(page, LSN_AT + 4) != u32_at(page, trailer_at + 4) {
        return Err(Damage::Torn);
    }
    let (first, last) = (u32_at(page, 0), u32_at(page, trailer_at));
    if first == NO_CHECKSUM && last == NO_CHECKSUM {
        return Ok(Page::Unchecked);
    }
    let (head, data) = (part(page, NUMBER_AT, FLUSH_AT), part(page, DATA_AT, trailer_at));
    if first == last && first == crc32c::crc32c(head) ^ crc32c::crc32c(data) {
        return Ok(Page::Sound);
    }
    // The older algorithm, `innodb`: the trailer has a sum of the head, the first field with it.
    let sum = fold(head).wrapping_add(fold(data));
    if first == sum && last == fold(part(page, 0, FLUSH_AT)) {
        return Ok(Page::Sound);
    }
    // Before MySQL 4.0.14, when the system tablespace was the only one: the whole lsn at both ends, and nothing else.
    if may_be_ancient && last == u32_at(page, LSN_AT) && (first == 0 || first == sum) {
        return Ok(if first == 0 { Page::Unchecked } else { Page::Sound });
    }
    // An empty page in which the compression of pages has left a mark.
    if first == 0 && part(page, 0, FLUSH_AT).iter().chain(part(page, SPACE_AT, page.len())).all(|byte| *byte == 0) {
        return Ok(Page::Empty);
    }
    Err(Damage::Checksum)
}

/// The checksum is that of the page before it was compressed.
fn check_compressed(page: &[u8]) -> Result<Page, Damage> {
    let (length, stored) = (usize::from(u16_at(page, 30)), usize::from(u16_at(page, 32)));
    match page.get(27).copied().unwrap_or_default() {
        ALGORITHM_ZLIB => {}
        ALGORITHM_LZ4 => return Ok(Page::Unchecked),
        _ => return Err(Damage::Compression),
    }
    if length != page.len() - DATA_AT || stored > page.len() - DATA_AT {
        return Err(Damage::Compression);
    }
    let mut whole = part(page, 0, DATA_AT).to_vec();
    whole.reserve(length);
    let mut decoder = ZlibDecoder::new(part(page, DATA_AT, DATA_AT + stored));
    // One byte more: only at its end the decoder compares its own checksum.
    let inflated = (&mut decoder).take(length as u64 + 1).read_to_end(&mut whole);
    if inflated.is_err() || whole.len() != page.len() || decoder.total_in() != stored as u64 {
        return Err(Damage::Compression);
    }
    // The kind that it was before.
    whole.copy_within(28..30, TYPE_AT);
    check_plain(&whole, false)
}

fn check_zipped(page: &[u8]) -> Result<Page, Damage> {
    let stated = u32_at(page, 0);
    let parts = [part(page, NUMBER_AT, LSN_AT), part(page, TYPE_AT, FLUSH_AT), part(page, SPACE_AT, page.len())];
    if stated == NO_CHECKSUM {
        return Ok(Page::Unchecked);
    }
    let is_sound = stated == parts.iter().fold(0, |sum, part| sum ^ crc32c::crc32c(part))
        || stated == parts.iter().fold(0, |sum, part| adler32(sum, part));
    if is_sound { Ok(Page::Sound) } else { Err(Damage::Checksum) }
}

/// The sum of the algorithm `innodb`.
fn fold(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0_u32, |sum, byte| {
        let byte = u32::from(*byte);
        (((sum ^ byte ^ 1_653_893_711) << 8).wrapping_add(sum) ^ 1_463_735_687).wrapping_add(byte)
    })
}

/// zlib's, which InnoDB begins at 0 and not at 1 as everybody else.
fn adler32(sum: u32, bytes: &[u8]) -> u32 {
    const PRIME: u32 = 65_521;
    let (mut low, mut high) = (sum & 0xFFFF, sum >> 16);
    for byte in bytes {
        low = (low + u32::from(*byte)) % PRIME;
        high = (high + low) % PRIME;
    }
    high << 16 | low
}

fn part(page: &[u8], begin: usize, end: usize) -> &[u8] {
    page.get(begin..end).unwrap_or_default()
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
