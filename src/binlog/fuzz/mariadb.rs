//! Binlog files of MariaDB.

use std::collections::BTreeSet;
use std::io::Write;

use super::events::{BinlogFile, changed, with_statement};
use super::{Stop, Trickle, for_each_event};
use crate::binlog::event::{FIRST_POSITION, event_type};
use crate::binlog::reader::EventReader;
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::binlog::summary::ChunkSummary;
use crate::domain::transaction::Transaction;
use crate::error::ErrorKind;
use crate::fuzz::{Dice, Target, golden, mutate};

const LATER_THAN_ALL: i64 = 4_000_000_000_000_000;

const TYPES: [u8; 24] = [
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

/// Reader, scanner, summary and relay logs.
pub(super) struct MariadbBinlog {
    corpus: Vec<BinlogFile>,
}

impl MariadbBinlog {
    pub(super) fn new() -> MariadbBinlog {
        MariadbBinlog { corpus: golden("binlog", ".binlog").iter().map(|file| BinlogFile::of(file)).collect() }
    }
}

impl Target for MariadbBinlog {
    fn name(&self) -> &'static str {
        "binlog-mariadb"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        changed(dice, &self.corpus, &TYPES, change_body)
    }

    fn read(&mut self, input: &[u8]) {
        let scanned = scan(Scanner::begin(0), EventReader::begin(input));
        scanned.check(0, input.len() as u64);
        assert_eq!(scanned, scan(Scanner::begin(0), EventReader::begin(Trickle::new(input))), "read in small pieces");
        let Some(middle) = scanned.points.get(scanned.points.len() / 2).cloned() else { return };
        let at = middle.position;
        let rest = &input[usize::try_from(at).unwrap()..];
        let rest = scan(Scanner::resume(middle.clone()), EventReader::resume(rest, at, &middle.format));
        rest.check(at, input.len() as u64);
        let behind = scanned.transactions.iter().filter(|it| it.begin >= at);
        assert!(rest.transactions.iter().eq(behind) && rest.stop == scanned.stop, "resumed at {at}");
        write_relay_logs(input, &scanned);
    }

    /// The buffer doubles; a statement that is packed unpacks to 1 MiB, of which names are made, two copies for a moment.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (24 << 20) + 24 * input_bytes
    }
}

#[derive(Debug, PartialEq)]
struct Scanned {
    transactions: Vec<Transaction>,
    points: Vec<ScanPoint>,
    has_incident: bool,
    stop: Stop,
    boundary: u64,
}

fn scan<R: std::io::Read>(mut scanner: Scanner, reader: EventReader<R>) -> Scanned {
    let (mut transactions, mut points, mut has_incident) = (Vec::new(), Vec::new(), false);
    let mut boundary = scanner.boundary();
    let mut summary = ChunkSummary::default();
    let stop = for_each_event(reader, |event| {
        has_incident |= event.header.event_type == event_type::INCIDENT;
        if let Pushed::Transaction(transaction) = scanner.push(event, LATER_THAN_ALL)? {
            summary.add(&transaction);
            transactions.push(transaction);
        }
        assert!(scanner.boundary() >= boundary && scanner.boundary() <= event.end(), "the boundary goes astray");
        if scanner.boundary() > boundary {
            boundary = scanner.boundary();
            // A few of them will do: each holds a copy of the state.
            if points.len() < 64 {
                points.extend(scanner.scan_point());
            }
        }
        Ok(())
    });
    assert_eq!(summary.transactions, transactions.len() as u64);
    Scanned { transactions, points, has_incident, stop, boundary }
}

impl Scanned {
    fn check(&self, begin: u64, end: u64) {
        let mut at = begin;
        let mut clock = i64::MIN;
        for transaction in &self.transactions {
            assert!(at <= transaction.begin && transaction.begin < transaction.end, "transactions overlap");
            assert!(transaction.committed_at >= clock, "a commit before the one before it");
            assert!(transaction.tables.len() <= Transaction::TABLES_MAX);
            assert!(transaction.statement.as_ref().is_none_or(|text| text.len() <= Transaction::STATEMENT_MAX));
            (at, clock) = (transaction.end, transaction.committed_at);
        }
        assert!(at <= self.boundary.max(begin) && self.boundary <= end.max(begin), "the boundary lies outside");
    }
}

/// What was scanned can be replayed, all of it.
fn write_relay_logs(input: &[u8], scanned: &Scanned) {
    let Some(format) = scanned.points.first().map(|point| &point.format) else { return };
    // What is stored of a file ends with its last whole transaction.
    let stored = &input[..usize::try_from(scanned.boundary).unwrap()];
    let nothing = BTreeSet::new();
    let write = |merging: bool, from: u64| {
        let mut out = Vec::new();
        let mut writer = RelayWriter::begin(&mut out, format).unwrap();
        if merging {
            writer = writer.merging();
        }
        let written = writer.piece(stored, 0, from, scanned.boundary, &nothing);
        let written = written.and_then(|()| writer.finish());
        (written, out)
    };
    for merging in [false, true] {
        let (written, out) = write(merging, 0);
        let stats = match written {
            Ok(stats) => stats,
            Err(err) => {
                assert!(err.kind() == ErrorKind::Refused && scanned.has_incident, "{err}");
                continue;
            }
        };
        assert_eq!(stats.transactions, scanned.transactions.len() as u64);
        assert_eq!(stats.bytes, out.len() as u64);
        if format.has_checksums() && !merging {
            let again = scan(Scanner::begin(0), EventReader::begin(&out[..]));
            assert_eq!(again.stop, Stop::End);
            let gtids =
                |transactions: &[Transaction]| transactions.iter().map(|it| it.gtid.clone()).collect::<Vec<_>>();
            assert!(gtids(&again.transactions) == gtids(&scanned.transactions), "a relay log of other transactions");
        }
    }
    // A border that is none is told, and not taken for one.
    let from = scanned.transactions.last().map_or(FIRST_POSITION, |last| last.begin + 1);
    let (written, _): (Result<RelayStats, _>, _) = write(true, from);
    assert!(written.is_err() || from >= scanned.boundary || scanned.transactions.is_empty());
}

fn change_body(dice: &mut Dice, event_type: u8, body: Vec<u8>) -> Vec<u8> {
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
