//! What the events of MariaDB's binlogs hold, changed.

use std::io::Write;

use super::events::with_statement;
use crate::binlog::event::event_type;
use crate::testing::fuzz::{Dice, mutate};

/// Types a server knows, and some it does not.
pub(super) const TYPES: [u8; 24] = [
    event_type::QUERY,
    event_type::STOP,
    event_type::ROTATE,
    event_type::FORMAT_DESCRIPTION,
    event_type::XID,
    event_type::EXECUTE_LOAD_QUERY,
    event_type::TABLE_MAP,
    event_type::WRITE_ROWS_V1,
    event_type::DELETE_ROWS_V1,
    event_type::INCIDENT,
    event_type::WRITE_ROWS,
    event_type::XA_PREPARE,
    event_type::ANNOTATE_ROWS,
    event_type::BINLOG_CHECKPOINT,
    event_type::GTID,
    event_type::GTID_LIST,
    event_type::START_ENCRYPTION,
    event_type::QUERY_COMPRESSED,
    event_type::WRITE_ROWS_COMPRESSED_V1,
    event_type::DELETE_ROWS_COMPRESSED,
    event_type::DELETE_ROWS,
    0,
    33,
    40,
];

pub(super) fn change_body(dice: &mut Dice, event_type: u8, body: Vec<u8>) -> Vec<u8> {
    let plain = |_: &mut Dice, text: &[u8]| text.to_vec();
    match event_type {
        event_type::QUERY => with_statement(dice, &body, plain),
        event_type::QUERY_COMPRESSED => with_statement(dice, &body, packed),
        event_type::ANNOTATE_ROWS => super::sql::statement(dice),
        _ => {
            let mut body = body;
            mutate::change(dice, &mut body, b"COMMIT");
            body
        }
    }
}

/// As `log_bin_compress` packs a statement, or as an enemy does.
fn packed(dice: &mut Dice, text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut length = text.len();
    encoder.write_all(text).unwrap();
    if dice.one_in(40) {
        let zeros = 1 << (10 + dice.below(16));
        encoder.write_all(&vec![b'`'; zeros]).unwrap();
        length += zeros;
    }
    let mut stream = encoder.finish().unwrap();
    if dice.one_in(8) {
        length = dice.number() as usize;
    }
    if dice.one_in(8) {
        mutate::change(dice, &mut stream, text);
    }
    let head = if dice.one_in(8) { dice.byte() } else { 0x84 };
    [&[head][..], &(length as u32).to_be_bytes(), &stream].concat()
}
