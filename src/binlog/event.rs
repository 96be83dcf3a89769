//! One event: its header, its checksum, and the format description that says how to read the others.

use crate::error::{Error, ErrorKind};

/// The first four bytes of a binlog file.
pub(crate) const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// Offset of the format description event.
pub(crate) const FIRST_POSITION: u64 = 4;
pub(crate) const HEADER_BYTES: usize = 19;
pub(crate) const CHECKSUM_BYTES: usize = 4;
/// The largest event that is read: the server's largest packet, 1 GiB, and what an event puts around it.
pub(crate) const EVENT_BYTES_MAX: usize = (1 << 30) + (64 << 10);

/// Header flag of a format description event: the file was not closed (yet).
const FLAG_IN_USE: u8 = 0x01;
/// Header flag: whoever does not know the event's type may pass over it.
const FLAG_IGNORABLE: u16 = 0x80;
/// Offset of the low byte of the flags in a header.
const FLAGS_OFFSET: usize = 17;

/// Event types, by the names `mariadb-binlog` and the server's sources use.
pub(crate) mod event_type {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const STOP: u8 = 3;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const FORMAT_DESCRIPTION: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const EXECUTE_LOAD_QUERY: u8 = 18;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_ROWS_V1: u8 = 23;
    pub(crate) const DELETE_ROWS_V1: u8 = 25;
    pub(crate) const INCIDENT: u8 = 26;
    pub(crate) const WRITE_ROWS: u8 = 30;
    pub(crate) const DELETE_ROWS: u8 = 32;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const ANNOTATE_ROWS: u8 = 160;
    pub(crate) const BINLOG_CHECKPOINT: u8 = 161;
    pub(crate) const GTID: u8 = 162;
    pub(crate) const GTID_LIST: u8 = 163;
    pub(crate) const START_ENCRYPTION: u8 = 164;
    pub(crate) const QUERY_COMPRESSED: u8 = 165;
    pub(crate) const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub(crate) const DELETE_ROWS_COMPRESSED: u8 = 171;

    /// Whether events of this type hold row images.
    pub(crate) fn is_rows(event_type: u8) -> bool {
        matches!(
            event_type,
            WRITE_ROWS_V1..=DELETE_ROWS_V1
                | WRITE_ROWS..=DELETE_ROWS
                | WRITE_ROWS_COMPRESSED_V1..=DELETE_ROWS_COMPRESSED
        )
    }
}

/// An event's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Seconds since 1970, as the session said.
    pub(crate) timestamp: u32,
    pub(crate) event_type: u8,
    pub(crate) server_id: u32,
    /// Size of the whole event: header, body and checksum.
    pub(crate) size: u32,
    /// Where the event ends in its file, modulo 2^32.
    pub(crate) end_position: u32,
    pub(crate) flags: u16,
}

impl Header {
    /// Reads a header; `None` when there are fewer than 19 bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields::new(bytes);
        Some(Header {
            timestamp: fields.u32()?,
            event_type: fields.u8()?,
            server_id: fields.u32()?,
            size: fields.u32()?,
            end_position: fields.u32()?,
            flags: fields.u16()?,
        })
    }

    pub(crate) fn is_ignorable(&self) -> bool {
        self.flags & FLAG_IGNORABLE != 0
    }
}

/// A whole event whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    /// Offset of its first byte in the binlog file.
    pub(crate) position: u64,
    pub(crate) header: Header,
    /// The event as it stands in the file.
    pub(crate) raw: &'a [u8],
    /// Between header and checksum.
    pub(crate) body: &'a [u8],
}

impl Event<'_> {
    /// One past its last byte in the binlog file.
    pub(crate) fn end(&self) -> u64 {
        self.position.saturating_add(self.raw.len() as u64)
    }

    /// The error for a body that is not what its type demands.
    pub(crate) fn malformed(&self, what: &str) -> Error {
        let event_type = self.header.event_type;
        Error::new(ErrorKind::Corrupt, format!("{what} at {} (event type {event_type}) is malformed", self.position))
    }
}

/// How the events of a file are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormatDescription {
    raw: Vec<u8>,
    checksum: bool,
    flavour: Flavour,
}

/// Which server wrote a binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Mariadb,
    Mysql,
}

impl FormatDescription {
    /// Bytes of the format before the post-header lengths: version, server version, time, header length.
    const FIXED_BYTES: usize = 2 + 50 + 4 + 1;

    /// Reads a whole format description event, header and checksum included.
    ///
    /// Fails with `Corrupt` when it is malformed or its checksum is wrong, with `Unsupported` for another binlog version.
    pub(crate) fn parse(raw: &[u8]) -> Result<FormatDescription, Error> {
        let malformed = || Error::new(ErrorKind::Corrupt, "the format description of the binlog file is malformed");
        let header = Header::parse(raw).ok_or_else(malformed)?;
        if header.event_type != event_type::FORMAT_DESCRIPTION || header.size as usize != raw.len() {
            return Err(malformed());
        }
        let body = raw.get(HEADER_BYTES..raw.len().saturating_sub(CHECKSUM_BYTES)).ok_or_else(malformed)?;
        let (checksum, body) = body.split_last().ok_or_else(malformed)?;
        if body.len() < Self::FIXED_BYTES {
            return Err(malformed());
        }
        let mut fields = Fields::new(body);
        let version = fields.u16().ok_or_else(malformed)?;
        let server_version = fields.take(50).ok_or_else(malformed)?;
        let _created = fields.u32();
        let header_bytes = fields.u8().ok_or_else(malformed)?;
        if version != 4 || usize::from(header_bytes) != HEADER_BYTES || *checksum > 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("binlog version {version}, header of {header_bytes} bytes, checksum algorithm {checksum}"),
            )
            .hint("Only binlogs of MariaDB 10.2 and MySQL 8.0 and later can be read."));
        }
        if !checksum_is_right(raw) {
            return Err(Error::new(ErrorKind::Corrupt, "the checksum of the binlog's format description is wrong"));
        }
        // MariaDB's version always holds its name; MySQL's is a number and perhaps the word of who built it.
        let is_mariadb = server_version.windows(7).any(|word| word.eq_ignore_ascii_case(b"mariadb"));
        let flavour = if is_mariadb { Flavour::Mariadb } else { Flavour::Mysql };
        let mut raw = raw.to_vec();
        clear_in_use(&mut raw);
        Ok(FormatDescription { raw, checksum: *checksum == 1, flavour })
    }

    /// The event's bytes with `LOG_EVENT_BINLOG_IN_USE` cleared, as they stand in a closed file.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The server that wrote the file.
    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Whether events end with a CRC-32. The format description itself always does.
    pub(crate) fn has_checksums(&self) -> bool {
        self.checksum
    }
}

/// Clears the in-use flag of a format description event, which changes when its file is closed and is not part of its checksum.
pub(crate) fn clear_in_use(event: &mut [u8]) {
    if let Some(flags) = event.get_mut(FLAGS_OFFSET) {
        *flags &= !FLAG_IN_USE;
    }
}

/// Whether the last four bytes are the CRC-32 of those before. A format description is summed with its in-use flag cleared.
pub(crate) fn checksum_is_right(raw: &[u8]) -> bool {
    let Some((summed, Ok(stored))) =
        raw.len().checked_sub(CHECKSUM_BYTES).map(|end| raw.split_at(end)).map(|(s, c)| (s, <[u8; 4]>::try_from(c)))
    else {
        return false;
    };
    let in_use = summed.get(FLAGS_OFFSET).is_some_and(|flags| flags & FLAG_IN_USE != 0);
    let computed = if in_use && summed.get(4) == Some(&event_type::FORMAT_DESCRIPTION) {
        let mut cleared = summed.to_vec();
        clear_in_use(&mut cleared);
        crc32fast::hash(&cleared)
    } else {
        crc32fast::hash(summed)
    };
    computed == u32::from_le_bytes(stored)
}

/// Little-endian fields one after the other; every getter is `None` beyond the end.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
