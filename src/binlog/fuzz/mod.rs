//! Binlog files of both servers, changed event by event: see `crate::fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod events;
mod mariadb;
mod mysql;
mod sql;

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::binlog::event::{Event, FIRST_POSITION, event_type};
use crate::binlog::mysql::event::refuse_encrypted;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::binlog::summary::ChunkSummary;
use crate::domain::transaction::Transaction;
use crate::error::{Error, ErrorKind};
use crate::testing::fuzz::{Dice, Target, golden};
use events::{BinlogFile, changed};

const LATER_THAN_ALL: i64 = 4_000_000_000_000_000;

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    let corpus = |folder| golden(folder, ".binlog").iter().map(|file| BinlogFile::of(file)).collect();
    let mariadb = BinlogFiles {
        name: "binlog-mariadb",
        corpus: corpus("binlog"),
        types: &mariadb::TYPES,
        change_body: mariadb::change_body,
    };
    let mysql = BinlogFiles {
        name: "binlog-mysql",
        corpus: corpus("binlog-mysql"),
        types: &mysql::TYPES,
        change_body: mysql::change_body,
    };
    vec![Box::new(mariadb), Box::new(mysql), Box::new(sql::Statements)]
}

/// Reader, scanner, summary and relay logs, on files of one server.
struct BinlogFiles {
    name: &'static str,
    corpus: Vec<BinlogFile>,
    types: &'static [u8],
    change_body: fn(&mut Dice, u8, Vec<u8>) -> Vec<u8>,
}

impl Target for BinlogFiles {
    fn name(&self) -> &'static str {
        self.name
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        changed(dice, &self.corpus, self.types, self.change_body)
    }

    fn read(&mut self, input: &[u8]) {
        let _ = refuse_encrypted(input);
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

fn scan<R: Read>(mut scanner: Scanner, reader: EventReader<R>) -> Scanned {
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
            assert!(transaction.tables.iter().all(|name| name.len() <= 2 * 3 * 256 + 1), "no table has such a name");
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
            let gtids = |transactions: &[Transaction]| transactions.iter().map(|it| it.gtid).collect::<Vec<_>>();
            assert!(gtids(&again.transactions) == gtids(&scanned.transactions), "a relay log of other transactions");
        }
    }
    // A border that is none is told, and not taken for one.
    let from = scanned.transactions.last().map_or(FIRST_POSITION, |last| last.begin + 1);
    let (written, _): (Result<RelayStats, _>, _) = write(true, from);
    assert!(written.is_err() || from >= scanned.boundary || scanned.transactions.is_empty());
}

/// Gives its bytes in small pieces, with interruptions.
struct Trickle<'a> {
    bytes: &'a [u8],
    reads: usize,
}

impl<'a> Trickle<'a> {
    fn new(bytes: &'a [u8]) -> Trickle<'a> {
        Trickle { bytes, reads: 0 }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buf.len().min(1 + (self.reads * 37) % 700);
        self.bytes.read(&mut buf[..length])
    }
}

/// What ended the reading of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    End,
    Incomplete(u64),
    Corrupt(u64, String),
    Failed(String),
}

/// Shows every event until one is not taken, and says why no more came.
fn for_each_event<R: Read>(mut reader: EventReader<R>, mut show: impl FnMut(&Event<'_>) -> Result<(), Error>) -> Stop {
    loop {
        match reader.next_event().unwrap() {
            Next::Event(event) => {
                if let Err(err) = show(&event) {
                    return Stop::Failed(err.to_string());
                }
            }
            Next::End => return Stop::End,
            Next::Incomplete { at } => return Stop::Incomplete(at),
            Next::Corrupt { at, reason } => return Stop::Corrupt(at, reason),
        }
    }
}
