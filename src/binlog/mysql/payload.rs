//! A whole transaction packed into one event (`binlog_transaction_compression`).

use std::io::{self, Read};

use crate::binlog::event::{EVENT_BYTES_MAX, Event, Fields, HEADER_BYTES, Header};
use crate::binlog::mysql::event::lenenc;
use crate::error::Error;

/// Bytes of a packed event's body that are looked at: names of tables and the beginning of a statement stand there.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The largest window a compressor may have used; the library's own limit, about what the server's highest level needs.
const WINDOW_LOG_MAX: u32 = 27;

/// How a payload is packed.
enum Packing {
    Zstd,
    Plain,
}

/// Shows every event in the payload, its body cut off behind `BODY_BYTES_MAX`, in order.
///
/// Memory is bounded whatever the payload says of itself. Of a payload that unpacks to more than the largest event the
/// rest is not looked at, nor is one that is packed in a way not known: the server that replays it judges it.
pub(in crate::binlog) fn for_each_event(
    event: &Event<'_>,
    show: impl FnMut(&Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for_each_event_within(EVENT_BYTES_MAX as u64, event, show)
}

fn for_each_event_within(
    limit: u64,
    event: &Event<'_>,
    mut show: impl FnMut(&Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let malformed = || event.malformed("the Transaction_payload event");
    let Some((packing, packed)) = open(event.body).ok_or_else(malformed)? else { return Ok(()) };
    let reader: Box<dyn Read + '_> = match packing {
        Packing::Plain => Box::new(packed),
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(packed).map_err(|_| malformed())?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(|_| malformed())?;
            Box::new(decoder)
        }
    };
    let mut reader = reader.take(limit);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        read_up_to(&mut reader, HEADER_BYTES as u64, &mut bytes).map_err(|_| malformed())?;
        if bytes.is_empty() || reader.limit() == 0 {
            return Ok(());
        }
        let header = Header::parse(&bytes).ok_or_else(malformed)?;
        let body = u64::from(header.size).checked_sub(HEADER_BYTES as u64).ok_or_else(malformed)?;
        let looked_at = body.min(BODY_BYTES_MAX as u64);
        read_up_to(&mut reader, looked_at, &mut bytes).map_err(|_| malformed())?;
        let passed = io::copy(&mut (&mut reader).take(body - looked_at), &mut io::sink()).map_err(|_| malformed())?;
        let whole = bytes.len() as u64 == HEADER_BYTES as u64 + looked_at && passed == body - looked_at;
        if !whole && reader.limit() > 0 {
            return Err(malformed());
        }
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        show(&Event { position: event.position, header, raw: &bytes, body })?;
    }
}

fn read_up_to(reader: &mut impl Read, limit: u64, bytes: &mut Vec<u8>) -> io::Result<usize> {
    reader.take(limit).read_to_end(bytes)
}

/// The packed bytes; none when they are packed in a way that is not known.
fn open(body: &[u8]) -> Option<Option<(Packing, &[u8])>> {
    let mut fields = Fields::new(body);
    let (mut size, mut packing) = (None, None);
    loop {
        let field = lenenc(&mut fields)?;
        if field == 0 {
            break;
        }
        let length = usize::try_from(lenenc(&mut fields)?).ok()?;
        let mut value = Fields::new(fields.take(length)?);
        match field {
            1 => size = Some(usize::try_from(lenenc(&mut value)?).ok()?),
            2 => packing = Some(lenenc(&mut value)?),
            // The unpacked size, and what later servers may add.
            _ => {}
        }
    }
    let packed = fields.take(size?)?;
    Some(match packing? {
        0 => Some((Packing::Zstd, packed)),
        255 => Some((Packing::Plain, packed)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::mysql::event::event_type;

    /// An event with these packed bytes.
    fn body(packing: &[u8], packed: &[u8]) -> Vec<u8> {
        let size = u32::try_from(packed.len()).unwrap().to_le_bytes();
        [&[2, u8::try_from(packing.len()).unwrap()], packing, &[1, 4, 253], &size[..3], &[0], packed].concat()
    }

    const LIMIT: u64 = 8 << 20;

    fn look(body: &[u8]) -> Result<Vec<(u8, usize)>, Error> {
        let header = Header {
            timestamp: 0,
            event_type: event_type::TRANSACTION_PAYLOAD,
            server_id: 1,
            size: 0,
            end_position: 0,
            flags: 0,
        };
        let mut seen = Vec::new();
        for_each_event_within(LIMIT, &Event { position: 4, header, raw: &[], body }, |event| {
            seen.push((event.header.event_type, event.body.len()));
            Ok(())
        })?;
        Ok(seen)
    }

    /// Packed bytes of an event with a body of zeros.
    fn event(event_type: u8, body_bytes: usize) -> Vec<u8> {
        let size = u32::try_from(HEADER_BYTES + body_bytes).unwrap().to_le_bytes();
        [&[0; 4][..], &[event_type], &[0; 4], &size, &[0; 6], &vec![0; body_bytes]].concat()
    }

    #[test]
    fn events_are_shown_in_order_and_their_bodies_cut_off() {
        let events = [event(2, 10), event(30, 1 << 20), event(16, 8)].concat();
        let expected = [(2, 10), (30, BODY_BYTES_MAX), (16, 8)];
        assert_eq!(look(&body(&[252, 255, 0], &events)).unwrap(), expected);
        assert_eq!(look(&body(&[0], &zstd::encode_all(&events[..], 3).unwrap())).unwrap(), expected);
        assert_eq!(look(&body(&[7], &events)).unwrap(), [], "packed in a way nobody knows");
    }

    #[test]
    fn a_payload_that_unpacks_to_more_than_any_event_is_looked_at_no_further() {
        let zeros = zstd::encode_all(io::repeat(0).take(3 * LIMIT), 1).unwrap();
        let mut bomb = zstd::encode_all(&event(30, 100)[..], 1).unwrap();
        bomb.extend(zstd::encode_all(&[&[0; 4][..], &[30], &[0; 4], &[0xff; 4], &[0; 6]].concat()[..], 1).unwrap());
        bomb.extend(zeros);
        assert_eq!(look(&body(&[0], &bomb)).unwrap(), [(30, 100), (30, BODY_BYTES_MAX)]);
    }

    #[test]
    fn what_ends_within_an_event_or_does_not_unpack_is_malformed() {
        let events = event(2, 10);
        for packed in [&events[..20], &events[..28], &[0; 19]] {
            assert!(look(&body(&[252, 255, 0], packed)).is_err());
        }
        assert!(look(&body(&[0], &events)).is_err());
        let sound = body(&[0], &zstd::encode_all(&events[..], 3).unwrap());
        for length in 0..sound.len() {
            assert!(look(&sound[..length]).is_err(), "{length}");
        }
    }
}
