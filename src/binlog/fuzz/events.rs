//! Changes to the events of a binlog file, behind which sizes, positions and checksums are right again, mostly.

use crate::binlog::event::{CHECKSUM_BYTES, HEADER_BYTES, Header, MAGIC, event_type};
use crate::binlog::mysql::event::event_type as mysql;
use crate::testing::fuzz::{Dice, mutate};

/// Offset of the type in an event.
const TYPE_AT: usize = 4;
/// Behind a format description's body stands what sums its file has.
const SUM_NONE: u8 = 0;
const SUM_CRC32: u8 = 1;

/// A file in its events, each without its checksum.
#[derive(Debug, Clone)]
pub(super) struct BinlogFile {
    pub(super) events: Vec<Vec<u8>>,
    checksums: bool,
    /// What is left of an event that was torn.
    tail: Vec<u8>,
}

impl BinlogFile {
    pub(super) fn of(bytes: &[u8]) -> BinlogFile {
        let mut file = BinlogFile { events: Vec::new(), checksums: true, tail: Vec::new() };
        let mut rest = &bytes[MAGIC.len()..];
        while let Some(header) = Header::parse(rest) {
            let size = header.size as usize;
            let is_format = header.event_type == event_type::FORMAT_DESCRIPTION;
            let sum = if file.checksums || is_format { CHECKSUM_BYTES } else { 0 };
            let Some((event, behind)) = rest.split_at_checked(size).filter(|_| size >= HEADER_BYTES + sum) else {
                break;
            };
            file.events.push(event[..size - sum].to_vec());
            if is_format {
                file.checksums = event[size - sum - 1] == SUM_CRC32;
            }
            rest = behind;
        }
        file.tail = rest.to_vec();
        file
    }

    /// The file's bytes, with every size, position and checksum made right.
    pub(super) fn sealed(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut checksums = self.checksums;
        for event in &self.events {
            let begin = bytes.len();
            bytes.extend_from_slice(event);
            let is_format = event.get(TYPE_AT) == Some(&event_type::FORMAT_DESCRIPTION);
            let sum = if checksums || is_format { CHECKSUM_BYTES } else { 0 };
            let size = event.len() + sum;
            put(&mut bytes, begin + 9, size);
            put(&mut bytes, begin + 13, begin + size);
            if sum > 0 {
                let mut summed = bytes[begin..].to_vec();
                if is_format {
                    crate::binlog::event::clear_in_use(&mut summed);
                }
                bytes.extend(crc32fast::hash(&summed).to_le_bytes());
            }
            if is_format {
                checksums = event.last() == Some(&SUM_CRC32);
            }
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }

    /// Changes a few events. `types` are those the server knows, `change_body` knows what they hold.
    pub(super) fn change(
        &mut self,
        dice: &mut Dice,
        other: &BinlogFile,
        types: &[u8],
        change_body: fn(&mut Dice, u8, Vec<u8>) -> Vec<u8>,
    ) {
        for _ in 0..=dice.below(4) {
            if dice.one_in(3) || self.events.is_empty() {
                mutate::shuffle(dice, &mut self.events, &other.events);
                continue;
            }
            let at = dice.below(self.events.len());
            // The format description is worth less than what stands behind it.
            let at = if at == 0 { dice.below(self.events.len()) } else { at };
            // What is packed holds events of its own.
            let is_packed = |event: &Vec<u8>| event.get(TYPE_AT) == Some(&mysql::TRANSACTION_PAYLOAD);
            let packed = self.events.iter().position(is_packed).filter(|_| dice.one_in(3));
            let at = packed.unwrap_or(at);
            let event = &mut self.events[at];
            let Some((header, body)) = event.split_at_checked(HEADER_BYTES) else { continue };
            let (mut header, mut body) = (header.to_vec(), body.to_vec());
            match dice.below(10) {
                0 => header[TYPE_AT] = if dice.one_in(4) { dice.byte() } else { *dice.pick(types) },
                1 => header[17] ^= 1 << dice.below(8),
                2 => header[..4].copy_from_slice(&(dice.number() as u32).to_le_bytes()),
                3 => header[5..9].copy_from_slice(&(dice.number() as u32).to_le_bytes()),
                4..=6 => body = change_body(dice, header[TYPE_AT], body),
                _ => {
                    let donor = dice.pick(&other.events).clone();
                    mutate::change(dice, &mut body, &donor);
                }
            }
            header.append(&mut body);
            *event = header;
        }
        if dice.one_in(16)
            && let Some(sum) = self.events.first_mut().and_then(|event| event.last_mut())
        {
            *sum = if self.checksums { SUM_NONE } else { SUM_CRC32 };
        }
        if dice.one_in(4) {
            self.tail.clear();
        }
    }
}

/// A changed file: mostly in its events, now and then in its bytes.
pub(super) fn changed(
    dice: &mut Dice,
    corpus: &[BinlogFile],
    types: &[u8],
    change_body: fn(&mut Dice, u8, Vec<u8>) -> Vec<u8>,
) -> Vec<u8> {
    let other = dice.pick(corpus).clone();
    let mut file = dice.pick(corpus).clone();
    let in_bytes = dice.one_in(6);
    if !in_bytes || dice.one_in(2) {
        file.change(dice, &other, types, change_body);
    }
    let mut bytes = file.sealed();
    if in_bytes {
        let donor = other.sealed();
        mutate::change(dice, &mut bytes, &donor);
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&(value as u32).to_le_bytes());
    }
}

/// The body of a Query event with another statement in it, `packed` as the event has it.
pub(super) fn with_statement(dice: &mut Dice, body: &[u8], pack: fn(&mut Dice, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let schema_bytes = usize::from(body.get(8).copied().unwrap_or(0));
    let variables_bytes = body.get(11..13).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let head = body.get(..13 + variables_bytes + schema_bytes + 1).unwrap_or(body);
    let text = super::sql::statement(dice);
    let packed = pack(dice, &text);
    [head, &packed].concat()
}
