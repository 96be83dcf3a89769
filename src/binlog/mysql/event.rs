//! What MySQL's own events hold. Every decoder takes an event whose checksum was right and still believes none of its lengths.

use std::collections::BTreeMap;
use std::str;

use uuid::Uuid;

use crate::binlog::event::{Event, Fields};
use crate::binlog::group::Head;
use crate::domain::gtid::Gtid;
use crate::domain::gtid_set::{GtidSet, GtidSource, Interval, MysqlGtid, Tag};
use crate::domain::transaction::MICROSECONDS;
use crate::error::{Error, ErrorKind};

/// The first four bytes of an encrypted binlog file.
const ENCRYPTED_MAGIC: [u8; 4] = [0xfd, b'b', b'i', b'n'];

/// Event types that MariaDB does not have, by the names of MySQL's sources.
pub(crate) mod event_type {
    pub(crate) const HEARTBEAT: u8 = 27;
    pub(crate) const IGNORABLE: u8 = 28;
    pub(crate) const ROWS_QUERY: u8 = 29;
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const PREVIOUS_GTIDS: u8 = 35;
    pub(crate) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(crate) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(crate) const HEARTBEAT_V2: u8 = 41;
    pub(crate) const GTID_TAGGED: u8 = 42;
}

/// Refuses a file that begins as an encrypted one does, by the name of the setting.
pub(crate) fn refuse_encrypted(file: &[u8]) -> Result<(), Error> {
    if !file.starts_with(&ENCRYPTED_MAGIC) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, "the binlog is encrypted (binlog_encryption=ON)").hint(
        "Run SET PERSIST binlog_encryption=OFF and PURGE BINARY LOGS up to the first file that is not encrypted, then take a new \
         backup: what the encrypted ones hold is a gap. Coffer can encrypt what it stores.",
    ))
}

/// A transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GtidEvent {
    /// None under `gtid_mode=OFF`.
    pub(crate) gtid: Option<MysqlGtid>,
    /// When this server committed it, microseconds since 1970; none before MySQL 8.0.1.
    pub(crate) committed_at: Option<u64>,
}

impl GtidEvent {
    /// What stands before the two logical timestamps that follow.
    const LOGICAL_TIMESTAMPS: u8 = 2;
    /// Bit of the commit time: the original server's follows.
    const HAS_ORIGINAL: u64 = 1 << 55;

    pub(crate) fn parse(event: &Event<'_>) -> Result<GtidEvent, Error> {
        let parsed = match event.header.event_type {
            event_type::GTID_TAGGED => GtidEvent::parse_tagged(event.body),
            _ => GtidEvent::parse_plain(event.body, event.header.event_type == event_type::ANONYMOUS_GTID),
        };
        parsed.ok_or_else(|| event.malformed("the GTID event"))
    }

    /// What it says of its transaction; servers before MySQL 8.0.1 give whole seconds only.
    pub(in crate::binlog) fn head(self, event: &Event<'_>) -> Head {
        let seconds = i64::from(event.header.timestamp) * MICROSECONDS;
        Head {
            gtid: self.gtid.map(Gtid::Mysql),
            stamped_at: self.committed_at.and_then(|micros| i64::try_from(micros).ok()).unwrap_or(seconds),
            is_standalone: false,
            is_xa: false,
            is_unfinished_alter: false,
        }
    }

    fn parse_plain(body: &[u8], is_anonymous: bool) -> Option<GtidEvent> {
        let mut fields = Fields::new(body);
        let _flags = fields.u8()?;
        let uuid = uuid(&mut fields)?;
        let number = fields.u64()?;
        let gtid = match is_anonymous {
            true => None,
            false => Some(MysqlGtid::new(GtidSource { uuid, tag: Tag::default() }, number)?),
        };
        let committed_at = (fields.u8() == Some(Self::LOGICAL_TIMESTAMPS)).then(|| {
            fields.take(16)?;
            let time = fields.take(7)?;
            let time = time.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            Some(time & !Self::HAS_ORIGINAL)
        });
        Some(GtidEvent { gtid, committed_at: committed_at.flatten() })
    }

    /// A message of MySQL's serialization library: version, size and the last field that must be understood, then
    /// fields, each behind its number. Fields that are not written have the value 0.
    fn parse_tagged(body: &[u8]) -> Option<GtidEvent> {
        let mut fields = Fields::new(body);
        let version = varint(&mut fields)?;
        let size = varint(&mut fields)?;
        let last_needed = varint(&mut fields)?;
        if version != 1 || size > body.len() as u64 {
            return None;
        }
        let (mut id, mut number, mut tag, mut committed_at) = (None, 0, None, None);
        while !fields.rest().is_empty() {
            match varint(&mut fields)? {
                1 => {
                    let mut bytes = [0; 16];
                    for byte in &mut bytes {
                        *byte = varint(&mut fields)?.try_into().ok()?;
                    }
                    id = Some(Uuid::from_bytes(bytes));
                }
                // The lowest bit is the sign; a number is never below zero.
                2 => number = varint(&mut fields).filter(|value| value & 1 == 0)? >> 1,
                3 => tag = Some(read_tag(&mut fields)?),
                6 => committed_at = Some(varint(&mut fields)?),
                // Flags, logical timestamps, the original commit time, length, versions, commit group ticket.
                0 | 4 | 5 | 7..=11 => {
                    varint(&mut fields)?;
                }
                unknown if unknown <= last_needed => return None,
                // How long it is only its writer knows; what is needed stands before it.
                _ => break,
            }
        }
        let gtid = MysqlGtid::new(GtidSource { uuid: id?, tag: tag? }, number)?;
        Some(GtidEvent { gtid: Some(gtid), committed_at })
    }
}

/// Everything that was committed before the file that holds this event.
pub(crate) fn previous_gtids(event: &Event<'_>) -> Result<GtidSet, Error> {
    let parsed = (|| {
        let mut fields = Fields::new(event.body);
        let head = fields.u64()?;
        // The highest byte is the format: with tags the lowest repeats it, and the count stands between the two.
        let (sources, has_tags) = match head >> 56 {
            0 => (head, false),
            1 => ((head >> 8) & 0xffff_ffff_ffff, true),
            _ => return None,
        };
        let mut runs: BTreeMap<GtidSource, Vec<Interval>> = BTreeMap::new();
        for _ in 0..sources {
            let uuid = uuid(&mut fields)?;
            let tag = if has_tags { read_tag(&mut fields)? } else { Tag::default() };
            let intervals = runs.entry(GtidSource { uuid, tag }).or_default();
            for _ in 0..fields.u64()? {
                let (first, behind_last) = (fields.u64()?, fields.u64()?);
                intervals.push(Interval::new(first, behind_last.checked_sub(1)?)?);
            }
        }
        Some(GtidSet::of(runs))
    })();
    parsed.ok_or_else(|| event.malformed("the Previous_gtids event"))
}

/// The statement in a Rows_query event; the byte before it holds its length modulo 256.
pub(crate) fn rows_query<'a>(event: &Event<'a>) -> &'a [u8] {
    event.body.get(1..).unwrap_or_default()
}

fn uuid(fields: &mut Fields<'_>) -> Option<Uuid> {
    fields.take(16).and_then(|bytes| Uuid::from_slice(bytes).ok())
}

fn read_tag(fields: &mut Fields<'_>) -> Option<Tag> {
    let length = varint(fields)?.try_into().ok()?;
    Tag::new(str::from_utf8(fields.take(length)?).ok()?)
}

/// An integer of MySQL's serialization library: as many ones as there are further bytes, a zero, then the value.
fn varint(fields: &mut Fields<'_>) -> Option<u64> {
    let first = fields.u8()?;
    let more = first.trailing_ones();
    let rest =
        fields.take(usize::try_from(more).ok()?)?.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    if more >= 7 {
        return Some(rest);
    }
    Some(rest << (7 - more) | u64::from(first >> (more + 1)))
}

/// A length-encoded integer of the client protocol.
pub(super) fn lenenc(fields: &mut Fields<'_>) -> Option<u64> {
    let bytes = match fields.u8()? {
        value @ 0..=250 => return Some(value.into()),
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return None,
    };
    Some(fields.take(bytes)?.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_file_is_refused_by_the_name_of_the_setting() {
        assert!(refuse_encrypted(b"\xfebin").is_ok() && refuse_encrypted(b"").is_ok());
        assert!(refuse_encrypted(b"\xfdbin\x01").unwrap_err().to_string().contains("binlog_encryption=OFF"));
    }

    #[test]
    fn integers_of_every_length_are_read() {
        for (bytes, expected) in [
            (&[0b0000_0000][..], Some(0)),
            (&[0b1111_1110], Some(127)),
            (&[0b0000_0001, 0b0000_0010], Some(128)),
            (&[0xfd, 0xff], Some((1 << 14) - 1)),
            (&[0x7f, 1, 0, 0, 0, 0, 0, 0], Some(1)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(u64::MAX)),
            (&[0x01], None),
            (&[], None),
        ] {
            assert_eq!(varint(&mut Fields::new(bytes)), expected, "{bytes:x?}");
        }
        for (bytes, expected) in [
            (&[250][..], Some(250)),
            (&[252, 1, 1], Some(257)),
            (&[253, 0, 0, 1], Some(65536)),
            (&[254, 1, 0, 0, 0, 0, 0, 0, 1], Some((1 << 56) + 1)),
            (&[251], None),
            (&[255], None),
            (&[252, 1], None),
        ] {
            assert_eq!(lenenc(&mut Fields::new(bytes)), expected, "{bytes:x?}");
        }
    }
}
