//! Bytes to events: walks a binlog, checks every event's size and checksum, and never trusts either.

use std::io;

use crate::binlog::event::{
    CHECKSUM_BYTES, EVENT_BYTES_MAX, Event, FIRST_POSITION, FormatDescription, HEADER_BYTES, Header, MAGIC,
    checksum_is_right, event_type,
};
use crate::error::{Error, error_of};

/// What the buffer holds as long as events are small. It grows with the bytes that are really there, never to a size that a header claims.
const BUFFER_BYTES: usize = 256 << 10;
/// A buffer that one large event made greater than this is given back after it.
const BUFFER_KEPT_MAX: usize = 4 << 20;

/// What follows in the binlog.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    Event(Event<'a>),
    /// The bytes end between two events. More may follow: ask again.
    End,
    /// The bytes end within the event (or the magic) at this offset: normal at the end of an active file. More may follow: ask again.
    Incomplete {
        at: u64,
    },
    /// The bytes at this offset are no event. The reader stays there; who wants to try again reads the bytes again.
    Corrupt {
        at: u64,
        reason: String,
    },
}

/// Reads events one after the other. Only an error of the reader below is an error.
#[derive(Debug)]
pub(crate) struct EventReader<R> {
    reader: R,
    buffer: Vec<u8>,
    /// The unread bytes of the buffer.
    begin: usize,
    end: usize,
    /// Offset in the binlog file of the next byte to be given out.
    position: u64,
    checksums: bool,
}

impl<R: io::Read> EventReader<R> {
    /// Reads a binlog file from its first byte.
    pub(crate) fn begin(reader: R) -> EventReader<R> {
        EventReader::new(reader, 0, true)
    }

    /// Reads on from `position`, where an event begins, in the file that `format` heads.
    pub(crate) fn resume(reader: R, position: u64, format: &FormatDescription) -> EventReader<R> {
        EventReader::new(reader, position, format.has_checksums())
    }

    fn new(reader: R, position: u64, checksums: bool) -> EventReader<R> {
        EventReader { reader, buffer: Vec::new(), begin: 0, end: 0, position, checksums }
    }

    /// The next event, or why there is none. Fails only when reading fails.
    pub(crate) fn next_event(&mut self) -> Result<Next<'_>, Error> {
        if self.position < FIRST_POSITION
            && let Some(stop) = self.pass_magic()?
        {
            return Ok(stop);
        }
        let at = self.position;
        if !self.fill(HEADER_BYTES)? {
            return Ok(if self.begin == self.end { Next::End } else { Next::Incomplete { at } });
        }
        let Some(header) = Header::parse(self.unread()) else {
            return Ok(Next::Incomplete { at });
        };
        let size = header.size as usize;
        let is_format = header.event_type == event_type::FORMAT_DESCRIPTION;
        let checksum_bytes = if self.checksums || is_format { CHECKSUM_BYTES } else { 0 };
        if size < HEADER_BYTES + checksum_bytes || size > EVENT_BYTES_MAX {
            return Ok(Next::Corrupt { at, reason: format!("an event of {size} bytes") });
        }
        if !self.fill(size)? {
            return Ok(Next::Incomplete { at });
        }
        let Some(raw) = self.buffer.get(self.begin..self.begin + size) else {
            return Ok(Next::Incomplete { at });
        };
        if checksum_bytes > 0 && !checksum_is_right(raw) {
            return Ok(Next::Corrupt { at, reason: "the checksum of the event is wrong".to_owned() });
        }
        // Without checksums this is the only proof that an event begins here.
        #[allow(clippy::cast_possible_truncation, reason = "the header holds the end modulo 2^32")]
        let end_position = at.wrapping_add(size as u64) as u32;
        if checksum_bytes == 0 && header.end_position != end_position {
            return Ok(Next::Corrupt { at, reason: format!("an event that says it ends at {}", header.end_position) });
        }
        if is_format {
            match FormatDescription::parse(raw) {
                Ok(format) => self.checksums = format.has_checksums(),
                Err(err) => return Ok(Next::Corrupt { at, reason: err.message() }),
            }
        }
        let body = raw.get(HEADER_BYTES..size - checksum_bytes).unwrap_or_default();
        self.begin += size;
        self.position = at.saturating_add(size as u64);
        Ok(Next::Event(Event { position: at, header, raw, body }))
    }

    fn pass_magic(&mut self) -> Result<Option<Next<'static>>, Error> {
        let at = self.position;
        if at > 0 {
            return Ok(Some(Next::Corrupt { at, reason: "no event begins within the magic".to_owned() }));
        }
        if !self.fill(MAGIC.len())? {
            return Ok(Some(if self.begin == self.end { Next::End } else { Next::Incomplete { at } }));
        }
        if !self.unread().starts_with(&MAGIC) {
            return Ok(Some(Next::Corrupt { at, reason: "not a binlog file: the magic is missing".to_owned() }));
        }
        self.begin += MAGIC.len();
        self.position = FIRST_POSITION;
        Ok(None)
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    /// Reads until `bytes` are there; whether they are.
    fn fill(&mut self, bytes: usize) -> Result<bool, Error> {
        if self.end - self.begin >= bytes {
            return Ok(true);
        }
        self.make_room(bytes);
        while self.end < bytes {
            if self.end == self.buffer.len() {
                let larger = self.buffer.len().saturating_mul(2).clamp(BUFFER_BYTES, bytes.max(BUFFER_BYTES));
                self.buffer.resize(larger, 0);
            }
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.reader.read(free) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read.min(free.len()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    // An error of our own below (a chunk that is not what it must be) keeps its kind and its hint.
                    let at = self.position;
                    return Err(error_of(err, &format!("reading the binlog at {at}")));
                }
            }
        }
        Ok(true)
    }

    /// Moves the unread bytes to the front, into a smaller buffer when a large event is over.
    fn make_room(&mut self, bytes: usize) {
        let unread = self.end - self.begin;
        if self.buffer.len() > BUFFER_KEPT_MAX && bytes.max(unread) <= BUFFER_BYTES {
            let mut smaller = self.unread().to_vec();
            smaller.resize(BUFFER_BYTES, 0);
            self.buffer = smaller;
        } else if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
        }
        self.begin = 0;
        self.end = unread;
    }
}
