//! What events hold. Every decoder takes an event whose checksum was right and still believes none of its lengths.

use std::borrow::Cow;
use std::io::Read;

use crate::binlog::event::{Event, Fields, event_type};
use crate::domain::gtid::Gtid;
use crate::error::Error;

/// Bytes of a compressed statement that are unpacked: what it does stands at its beginning.
const STATEMENT_BYTES_MAX: u64 = 1 << 20;

/// A GTID event: a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GtidEvent {
    pub(crate) gtid: Gtid,
    flags: u8,
    flags_extra: u8,
}

impl GtidEvent {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    const START_ALTER: u8 = 2;
    const ROLLBACK_ALTER: u8 = 8;

    pub(crate) fn parse(event: &Event<'_>) -> Result<GtidEvent, Error> {
        let parsed = (|| {
            let mut fields = Fields::new(event.body);
            let sequence = fields.u64()?;
            let domain = fields.u32()?;
            let flags = fields.u8()?;
            if flags & Self::GROUP_COMMIT_ID != 0 {
                fields.u64()?;
            }
            if flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0 {
                fields.u32()?;
                let lengths = [fields.u8()?, fields.u8()?];
                fields.take(lengths.into_iter().map(usize::from).sum())?;
            }
            // Absent, or zero padding, in everything but the two phases of an ALTER TABLE and multi-engine commits.
            let flags_extra = fields.u8().unwrap_or(0);
            let gtid = Gtid { domain, server_id: event.header.server_id, sequence };
            Some(GtidEvent { gtid, flags, flags_extra })
        })();
        parsed.ok_or_else(|| event.malformed("the GTID event"))
    }

    /// The transaction is one statement without a commit event behind it.
    pub(crate) fn is_standalone(&self) -> bool {
        self.flags & Self::STANDALONE != 0
    }

    /// The prepare, commit or rollback of an XA transaction.
    pub(crate) fn is_xa(&self) -> bool {
        self.flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0
    }

    /// An ALTER TABLE that has only begun, or was given up (`binlog_alter_two_phase`): nothing changes with it.
    pub(crate) fn is_unfinished_alter(&self) -> bool {
        self.flags_extra & (Self::START_ALTER | Self::ROLLBACK_ALTER) != 0
    }
}

/// The GTIDs of a Gtid_list event in the server's order: within a domain the last written comes last.
pub(crate) fn gtid_list(event: &Event<'_>) -> Result<Vec<Gtid>, Error> {
    let parsed = (|| {
        let mut fields = Fields::new(event.body);
        // The four high bits are flags.
        let count = fields.u32()? & 0x0fff_ffff;
        let entries = fields.rest();
        if entries.len() / 16 < usize::try_from(count).ok()? {
            return None;
        }
        let mut gtids = Vec::with_capacity(usize::try_from(count).ok()?);
        for _ in 0..count {
            gtids.push(Gtid { domain: fields.u32()?, server_id: fields.u32()?, sequence: fields.u64()? });
        }
        Some(gtids)
    })();
    parsed.ok_or_else(|| event.malformed("the Gtid_list event"))
}

/// A statement: Query, Query_compressed or Execute_load_query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The session's default schema.
    pub(crate) schema: &'a [u8],
    /// As the client sent it, in the client's character set. A compressed one is cut off after 1 MiB.
    pub(crate) text: Cow<'a, [u8]>,
    pub(crate) sql_mode: SqlMode,
}

/// What of `sql_mode` changes how a statement is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SqlMode(u64);

impl SqlMode {
    #[cfg(test)]
    pub(crate) const ANSI_QUOTES: SqlMode = SqlMode(4);

    /// Double quotes enclose names.
    pub(crate) fn has_ansi_quotes(self) -> bool {
        self.0 & 4 != 0
    }

    /// A backslash in a string is a backslash.
    pub(crate) fn has_no_backslash_escapes(self) -> bool {
        self.0 & (1 << 20) != 0
    }
}

impl<'a> Query<'a> {
    /// Bytes that Execute_load_query has between the fixed fields of a Query and its status variables.
    const LOAD_FIELDS_BYTES: usize = 13;

    pub(crate) fn parse(event: &Event<'a>) -> Result<Query<'a>, Error> {
        let parsed = (|| {
            let mut fields = Fields::new(event.body);
            let _thread_and_time = fields.take(8)?;
            let schema_bytes = usize::from(fields.u8()?);
            let _error_code = fields.u16()?;
            let variables_bytes = usize::from(fields.u16()?);
            if event.header.event_type == event_type::EXECUTE_LOAD_QUERY {
                fields.take(Self::LOAD_FIELDS_BYTES)?;
            }
            let sql_mode = sql_mode(fields.take(variables_bytes)?);
            let schema = fields.take(schema_bytes)?;
            let _nul = fields.u8()?;
            let text = if event.header.event_type == event_type::QUERY_COMPRESSED {
                Cow::Owned(decompress(fields.rest())?)
            } else {
                Cow::Borrowed(fields.rest())
            };
            Some(Query { schema, text, sql_mode })
        })();
        parsed.ok_or_else(|| event.malformed("the Query event"))
    }

    /// Whether it ends the transaction it stands in.
    pub(crate) fn ends_transaction(&self) -> bool {
        matches!(&*self.text, b"COMMIT" | b"ROLLBACK")
    }
}

/// The sql_mode among a Query's status variables. It is the second of them, behind the flags, wherever it is written at all.
fn sql_mode(variables: &[u8]) -> SqlMode {
    let mut fields = Fields::new(variables);
    let mode = (|| loop {
        match fields.u8()? {
            0 => fields.u32()?,
            1 => return fields.u64(),
            _ => return None,
        };
    })();
    SqlMode(mode.unwrap_or(0))
}

/// Unpacks what `log_bin_compress` packed: a byte with the algorithm (0, zlib) and the number of length bytes, the
/// length, a zlib stream.
fn decompress(packed: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Fields::new(packed);
    let head = fields.u8()?;
    let algorithm = (head & 0x70) >> 4;
    let length = fields.take(usize::from(head & 0x07))?;
    if head & 0x80 == 0 || algorithm != 0 || !(1..=4).contains(&length.len()) {
        return None;
    }
    let claimed = length.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(fields.rest()).take(STATEMENT_BYTES_MAX).read_to_end(&mut text).ok()?;
    (text.len() as u64 == claimed.min(STATEMENT_BYTES_MAX)).then_some(text)
}

/// Schema and table of a Table_map event.
pub(crate) fn table_map<'a>(event: &Event<'a>) -> Result<(&'a [u8], &'a [u8]), Error> {
    let parsed = (|| {
        let mut fields = Fields::new(event.body);
        let _table_id_and_flags = fields.take(8)?;
        let schema_bytes = usize::from(fields.u8()?);
        let schema = fields.take(schema_bytes)?;
        let _nul = fields.u8()?;
        let table_bytes = usize::from(fields.u8()?);
        Some((schema, fields.take(table_bytes)?))
    })();
    parsed.ok_or_else(|| event.malformed("the Table_map event"))
}

/// The name of the binlog file that follows, from a Rotate event.
pub(crate) fn rotate(event: &Event<'_>) -> Result<String, Error> {
    let name =
        event.body.get(8..).filter(|name| !name.is_empty()).ok_or_else(|| event.malformed("the Rotate event"))?;
    Ok(String::from_utf8_lossy(name).into_owned())
}
