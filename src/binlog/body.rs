//! What events hold. Every decoder takes an event whose checksum was right and still believes none of its lengths.

use std::borrow::Cow;
use std::io::Read;

use crate::binlog::event::{Event, Fields, event_type};
use crate::error::Error;

/// Bytes of a compressed statement that are unpacked: what it does stands at its beginning.
const STATEMENT_BYTES_MAX: u64 = 1 << 20;
/// The servers' own limit on the name of a file (`FN_REFLEN`).
const FILE_NAME_BYTES_MAX: usize = 512;

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
    let name = event.body.get(8..).filter(|name| (1..=FILE_NAME_BYTES_MAX).contains(&name.len()));
    let name = name.ok_or_else(|| event.malformed("the Rotate event"))?;
    Ok(String::from_utf8_lossy(name).into_owned())
}
