//! What the events of MySQL's binlogs hold, changed: packed transactions too.

use super::events::with_statement;
use crate::binlog::event::{HEADER_BYTES, event_type as common};
use crate::binlog::mysql::event::event_type;
use crate::testing::fuzz::{Dice, mutate};

/// Types a server knows, and some it does not.
pub(super) const TYPES: [u8; 24] = [
    common::QUERY,
    common::STOP,
    common::ROTATE,
    common::FORMAT_DESCRIPTION,
    common::XID,
    common::EXECUTE_LOAD_QUERY,
    common::TABLE_MAP,
    common::INCIDENT,
    common::WRITE_ROWS,
    common::DELETE_ROWS,
    common::XA_PREPARE,
    event_type::HEARTBEAT,
    event_type::IGNORABLE,
    event_type::ROWS_QUERY,
    event_type::GTID,
    event_type::ANONYMOUS_GTID,
    event_type::PREVIOUS_GTIDS,
    event_type::PARTIAL_UPDATE_ROWS,
    event_type::TRANSACTION_PAYLOAD,
    event_type::HEARTBEAT_V2,
    event_type::GTID_TAGGED,
    0,
    36,
    162,
];

pub(super) fn change_body(dice: &mut Dice, event_type: u8, mut body: Vec<u8>) -> Vec<u8> {
    match event_type {
        common::QUERY => with_statement(dice, &body, |_, text| text.to_vec()),
        event_type::ROWS_QUERY => [&[dice.byte()][..], &super::sql::statement(dice)].concat(),
        event_type::TRANSACTION_PAYLOAD => changed_payload(dice, &body),
        _ => {
            mutate::change(dice, &mut body, b"COMMIT");
            body
        }
    }
}

/// Unpacks the payload, changes the events in it, packs it again: by the book, or as an enemy does.
fn changed_payload(dice: &mut Dice, body: &[u8]) -> Vec<u8> {
    const FRAME: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
    let begin = body.windows(4).position(|window| window == FRAME).unwrap_or(0);
    let mut events = zstd::decode_all(&body[begin..]).unwrap_or_default();
    for _ in 0..=dice.below(3) {
        match dice.below(8) {
            0 => {
                let begin = begin_of_some_event(dice, &events);
                if let Some(size) = events.get_mut(begin + 9..begin + 13) {
                    let number = if dice.one_in(2) { dice.below(40) as u32 } else { dice.number() as u32 };
                    size.copy_from_slice(&number.to_le_bytes());
                }
            }
            1 => {
                let text = super::sql::statement(dice);
                let head = [0; 13 + 1];
                events.extend(inner(common::QUERY, &[&head[..], &text].concat()));
            }
            2 => {
                let bytes = 1 << (6 + dice.below(15));
                let event_type = *dice.pick(&TYPES);
                events.extend(inner(event_type, &vec![b'`'; bytes]));
            }
            3 => {
                let event_type = *dice.pick(&TYPES);
                let length = dice.range(100).len();
                let event = inner(event_type, &dice.bytes(length));
                events.extend(event.repeat(1 + dice.below_or(20, 20, 2_000)));
            }
            _ => mutate::change(dice, &mut events, body),
        }
    }
    let packed = match dice.below(60) {
        0 => bomb(dice, &events),
        1 => {
            let at = dice.below(events.len());
            let (one, two) = events.split_at(at);
            [pack(one), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), pack(two)].concat()
        }
        2 => events.clone(),
        _ => pack(&events),
    };
    let packing = if dice.one_in(12) { u64::from(dice.byte()) } else { 0 };
    let size = if dice.one_in(12) { dice.number() } else { packed.len() as u64 };
    let unpacked = if dice.one_in(4) { dice.number() } else { events.len() as u64 };
    let mut made = [field(2, packing), field(3, unpacked), field(1, size), vec![0], packed].concat();
    if dice.one_in(8) {
        mutate::change(dice, &mut made, body);
    }
    made
}

fn begin_of_some_event(dice: &mut Dice, events: &[u8]) -> usize {
    let mut begins = vec![0];
    while let Some(size) = begins.last().and_then(|begin| events.get(begin + 9..begin + 13)) {
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        if size < HEADER_BYTES || begins.len() == 100 {
            break;
        }
        begins.push(begins.last().unwrap_or(&0) + size);
    }
    *dice.pick(&begins)
}

/// A payload that unpacks to a great deal.
fn bomb(dice: &mut Dice, events: &[u8]) -> Vec<u8> {
    // The largest takes a second to read, so it is rare.
    let bytes = 1_usize << (20 + dice.below_or(6, 20, 12));
    let length = 1 + dice.below(200);
    let unit = match dice.below(3) {
        0 => inner(common::QUERY, &dice.bytes(length)),
        1 => inner(common::XID, &[]),
        _ => vec![0; HEADER_BYTES],
    };
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(*dice.pick(&[10, 20, 27, 30])).unwrap();
    std::io::Write::write_all(&mut encoder, events).unwrap();
    if dice.one_in(2) {
        // One event that says it is as long.
        let mut head = inner(common::WRITE_ROWS, &[]);
        head[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        std::io::Write::write_all(&mut encoder, &head).unwrap();
    }
    let piece = unit.repeat((64 << 10) / unit.len());
    for _ in 0..bytes / piece.len() {
        std::io::Write::write_all(&mut encoder, &piece).unwrap();
    }
    encoder.finish().unwrap()
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An event as it stands in a payload: without a checksum.
fn inner(event_type: u8, body: &[u8]) -> Vec<u8> {
    let size = ((HEADER_BYTES + body.len()) as u32).to_le_bytes();
    [&[0; 4][..], &[event_type], &[1, 0, 0, 0], &size, &[0; 6], body].concat()
}

/// A field of a payload's head.
fn field(number: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![number];
    let long = [&[254][..], &value.to_le_bytes()].concat();
    let value = if value < 251 { vec![value as u8] } else { long };
    bytes.push(value.len() as u8);
    bytes.extend(value);
    bytes
}
