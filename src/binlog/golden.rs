//! Tests on files that a real MariaDB wrote: `tests/data/binlog`.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::binlog::event::{CHECKSUM_BYTES, Event, FormatDescription, HEADER_BYTES, event_type};
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::binlog::summary::ChunkSummary;
use crate::domain::gtid::Gtid;
use crate::domain::transaction::Transaction;
use crate::error::{Error, ErrorKind};

struct Golden {
    name: &'static str,
    bytes: &'static [u8],
    /// Begin, end, GTID and last event of each transaction, as `mariadb-binlog` has them.
    oracle: &'static str,
    /// What coffer makes of it, looked over by hand.
    facts: &'static str,
}

macro_rules! golden {
    ($name:literal) => {
        Golden {
            name: $name,
            bytes: include_bytes!(concat!("../../tests/data/binlog/", $name, ".binlog")),
            oracle: include_str!(concat!("../../tests/data/binlog/", $name, ".txt")),
            facts: include_str!(concat!("../../tests/data/binlog/", $name, ".facts")),
        }
    };
}

const ROW: Golden = golden!("row");
const DDL: Golden = golden!("ddl");
const STATEMENT: Golden = golden!("statement");
const XA: Golden = golden!("xa");
const EVENTS: Golden = golden!("events");
const PLAIN: Golden = golden!("plain");
const COMPRESSED: Golden = golden!("compressed");
const TORN_EVENT: Golden = golden!("torn_event");
const TORN_GROUP: Golden = golden!("torn_group");
const STOPPED: Golden = golden!("stopped");
const FILES: [Golden; 11] =
    [ROW, DDL, STATEMENT, golden!("mixed"), XA, EVENTS, PLAIN, COMPRESSED, TORN_EVENT, TORN_GROUP, STOPPED];
const ENCRYPTED: &[u8] = include_bytes!("../../tests/data/binlog/encrypted.binlog");
const LATER_THAN_ALL: i64 = 4_000_000_000_000_000;

#[derive(Debug, PartialEq)]
enum Stop {
    End,
    Incomplete(u64),
    Corrupt(u64),
    Failed(ErrorKind),
}

struct Scanned {
    transactions: Vec<Transaction>,
    last: Option<Pushed>,
    stop: Stop,
    scanner: Scanner,
}

fn scan(mut scanner: Scanner, mut reader: EventReader<&[u8]>) -> Scanned {
    let (mut transactions, mut last, mut boundary) = (Vec::new(), None, scanner.boundary());
    let stop = loop {
        match reader.next_event().unwrap() {
            Next::Event(event) => match scanner.push(&event, LATER_THAN_ALL) {
                Ok(Pushed::Transaction(transaction)) => transactions.push(transaction),
                Ok(other) => last = Some(other),
                Err(err) => break Stop::Failed(err.kind()),
            },
            Next::End => break Stop::End,
            Next::Incomplete { at } => break Stop::Incomplete(at),
            Next::Corrupt { at, .. } => break Stop::Corrupt(at),
        }
        assert!(scanner.boundary() >= boundary, "the boundary went back");
        boundary = scanner.boundary();
    };
    Scanned { transactions, last, stop, scanner }
}

fn scan_file(bytes: &[u8]) -> Scanned {
    scan(Scanner::begin(0), EventReader::begin(bytes))
}

fn format_of(bytes: &[u8]) -> FormatDescription {
    scan_file(bytes).scanner.format().unwrap().clone()
}

fn render(transactions: &[Transaction]) -> String {
    let mut text = String::new();
    for t in transactions {
        let destructive = if t.destructive { " DESTRUCTIVE" } else { "" };
        let statement = t.statement.as_deref().unwrap_or("-").replace('\n', " ");
        writeln!(
            text,
            "{} {:?}{destructive} [{}] rows={} db={} | {statement}",
            t.gtid.unwrap(),
            t.kind,
            t.tables.join(" "),
            t.row_events,
            t.default_schema
        )
        .unwrap();
    }
    text
}

#[test]
fn transactions_begin_and_end_where_mariadb_binlog_says() {
    for file in FILES {
        let scanned = scan_file(file.bytes);
        let expected: Vec<String> =
            file.oracle.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        let found: Vec<String> =
            scanned.transactions.iter().map(|t| format!("{} {} {}", t.begin, t.end, t.gtid.unwrap())).collect();
        assert_eq!(found, expected, "{}", file.name);
    }
}

#[test]
fn facts_of_transactions_are_as_looked_over() {
    for file in FILES {
        let found = render(&scan_file(file.bytes).transactions);
        assert!(found == file.facts, "{} is told otherwise now:\n{found}", file.name);
    }
}

#[test]
fn a_closed_file_ends_with_rotation_or_stop() {
    for file in FILES {
        let scanned = scan_file(file.bytes);
        let length = file.bytes.len() as u64;
        match file.name {
            "torn_event" => {
                assert!(matches!(scanned.stop, Stop::Incomplete(_)));
                assert_eq!(scanned.scanner.boundary(), 1029);
            }
            "torn_group" => {
                assert_eq!(scanned.stop, Stop::End);
                assert!(scanned.scanner.boundary() < length);
            }
            "stopped" => assert_eq!((scanned.last, scanned.scanner.boundary()), (Some(Pushed::Stopped), length)),
            name => {
                assert!(
                    matches!(&scanned.last, Some(Pushed::Rotated { next }) if next.starts_with("binlog.")),
                    "{name}"
                );
                assert_eq!((scanned.stop, scanned.scanner.boundary()), (Stop::End, length), "{name}");
            }
        }
    }
}

#[test]
fn a_crashed_server_uses_the_torn_gtid_again() {
    let (torn, next) = (scan_file(TORN_GROUP.bytes), scan_file(STOPPED.bytes));
    assert_eq!(torn.scanner.state().to_string(), "0-11-6");
    assert_eq!(next.transactions.first().unwrap().gtid.unwrap().to_string(), "0-11-7");
}

#[test]
fn every_prefix_gives_a_prefix_of_the_transactions() {
    for file in FILES {
        let whole = scan_file(file.bytes);
        // In a debug build all prefixes of the larger files take too long; a prime step meets every kind of place.
        let step = if file.bytes.len() > 2_000 { 23 } else { 1 };
        let mut boundary = 0;
        for length in (0..file.bytes.len()).step_by(step) {
            let scanned = scan_file(&file.bytes[..length]);
            assert!(matches!(scanned.stop, Stop::End | Stop::Incomplete(_)), "{} {length}", file.name);
            assert!(scanned.scanner.boundary() >= boundary && scanned.scanner.boundary() <= length as u64);
            boundary = scanned.scanner.boundary();
            assert_eq!(scanned.transactions[..], whole.transactions[..scanned.transactions.len()]);
        }
    }
}

#[test]
fn a_scan_resumed_at_any_boundary_finds_the_rest() {
    for file in FILES {
        let whole = scan_file(file.bytes);
        for (index, transaction) in whole.transactions.iter().enumerate() {
            let before = scan_file(&file.bytes[..usize::try_from(transaction.end).unwrap()]);
            let point: ScanPoint = before.scanner.scan_point().unwrap();
            assert_eq!(point.position, transaction.end);
            let rest = &file.bytes[usize::try_from(point.position).unwrap()..];
            let reader = EventReader::resume(rest, point.position, &point.format);
            let resumed = scan(Scanner::resume(point), reader);
            assert_eq!(resumed.transactions, whole.transactions[index + 1..], "{} {index}", file.name);
            assert_eq!(resumed.scanner.scan_point(), whole.scanner.scan_point());
        }
    }
}

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

fn events_of(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut reader = EventReader::begin(bytes);
    let mut found = Vec::new();
    while let Next::Event(event) = reader.next_event().unwrap() {
        found.push((usize::try_from(event.position).unwrap(), event.raw.len()));
    }
    found
}

#[test]
fn flipped_bytes_are_noticed() {
    let mut dice = Dice(1);
    for file in FILES {
        if file.name == "plain" {
            continue;
        }
        let whole = scan_file(file.bytes);
        for _ in 0..200 {
            let mut bytes = file.bytes.to_vec();
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
            let scanned = scan_file(&bytes);
            let unharmed = scanned.transactions.iter().take_while(|t| t.end <= at as u64).count();
            assert_eq!(scanned.transactions[..unharmed], whole.transactions[..unharmed]);
            // The in-use flag may change, and no checksum reaches a torn tail.
            if at != 21 && (at as u64) < whole.scanner.boundary() {
                assert!(matches!(scanned.stop, Stop::Corrupt(_) | Stop::Incomplete(_)), "{} {at}", file.name);
                assert_eq!(scanned.transactions.len(), unharmed);
            }
        }
    }
}

/// Bytes that are wrong under a right checksum reach every decoder.
#[test]
fn events_with_wrong_bodies_and_right_checksums_do_no_harm() {
    let mut dice = Dice(2);
    for file in FILES {
        let events = events_of(file.bytes);
        let format = format_of(file.bytes);
        for _ in 0..400 {
            let mut bytes = file.bytes.to_vec();
            for _ in 0..1 + dice.below(3) {
                let (begin, size) = events[dice.below(events.len())];
                let sum_at = begin + size - CHECKSUM_BYTES;
                // The type and everything behind the header; early bytes, where lengths are, more often.
                let offset = match dice.below(4) {
                    0 => 4,
                    1 => HEADER_BYTES + dice.below(size - HEADER_BYTES),
                    _ => HEADER_BYTES + dice.below(20.min(size - HEADER_BYTES)),
                };
                bytes[begin + offset] = u8::try_from(dice.below(256)).unwrap();
                if file.name != "plain" || begin == 4 {
                    let sum = crc32fast::hash(&bytes[begin..sum_at]).to_le_bytes();
                    bytes[sum_at..begin + size].copy_from_slice(&sum);
                }
            }
            let _ = scan_file(&bytes);
            let mut writer = RelayWriter::begin(Vec::new(), &format).unwrap();
            let _ = writer.piece(&bytes[..], 0, 0, bytes.len() as u64, &BTreeSet::new());
        }
    }
}

#[test]
fn an_encrypted_binlog_is_refused_by_the_name_of_the_setting() {
    let mut reader = EventReader::begin(ENCRYPTED);
    let mut scanner = Scanner::begin(0);
    let err: Error = loop {
        match reader.next_event().unwrap() {
            Next::Event(event) => {
                if let Err(err) = scanner.push(&event, 0) {
                    break err;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(err.kind(), ErrorKind::Refused);
    assert!(err.to_string().contains("encrypt_binlog=OFF"));
}

#[test]
fn the_in_use_flag_is_cleared_and_not_summed() {
    let format = format_of(TORN_EVENT.bytes);
    assert_eq!(TORN_EVENT.bytes[21], 1);
    assert_eq!(format.raw()[17], 0);
    assert!(format.has_checksums() && !format_of(PLAIN.bytes).has_checksums());
    assert_eq!(FormatDescription::parse(format.raw()).unwrap(), format);
}

#[test]
fn commit_times_never_go_back_and_never_lie_beyond_the_observation() {
    let mut reader = EventReader::begin(PLAIN.bytes);
    let mut scanner = Scanner::begin(1_699_999_999_000_000);
    let mut commits = Vec::new();
    while let Next::Event(event) = reader.next_event().unwrap() {
        if let Pushed::Transaction(t) = scanner.push(&event, 1_700_000_005_000_000).unwrap() {
            commits.push((t.stamped_at, t.committed_at));
        }
    }
    assert_eq!(commits.first(), Some(&(1_700_000_000_000_000, 1_700_000_000_000_000)));
    assert_eq!(commits.last(), Some(&(1_700_000_010_000_000, 1_700_000_005_000_000)));
    let late = scan(Scanner::begin(1_800_000_000_000_000), EventReader::begin(PLAIN.bytes));
    assert!(late.transactions.iter().all(|t| t.committed_at == 1_800_000_000_000_000));
    assert_eq!(late.scanner.clock(), 1_800_000_000_000_000);
}

#[test]
fn a_summary_tells_counts_and_ranges() {
    let mut summary = ChunkSummary::default();
    for transaction in &scan_file(ROW.bytes).transactions {
        summary.add(transaction);
    }
    let ranges: Vec<String> =
        summary.ranges().iter().map(|r| format!("{}:{}..{}", r.stream, r.first, r.last)).collect();
    assert_eq!(summary.transactions, ROW.oracle.lines().count() as u64);
    assert_eq!(ranges.first().unwrap().split("..").next(), Some("0-11:1"));
    assert_eq!(ranges[1..], ["0-77:1000..1000", "3-11:1..1", "3-77:2..2"]);
    assert_eq!(summary.first_commit, Some(1_700_000_000_000_000));
}

#[test]
fn the_state_is_that_of_the_last_boundary() {
    let scanner = scan_file(ROW.bytes).scanner;
    assert!(scanner.state().to_string().starts_with("0-77-1000,0-11-10"), "{}", scanner.state());
    assert!(scanner.state().position().to_string().ends_with(",3-77-2"), "{}", scanner.state());
    assert_eq!(scan_file(STOPPED.bytes).scanner.state().to_string(), "0-11-7");
}

fn relay(file: &Golden, pieces: &[(u64, u64, u64)], skip: &BTreeSet<Gtid>) -> Result<(Vec<u8>, RelayStats), Error> {
    let mut out = Vec::new();
    let mut writer = RelayWriter::begin(&mut out, &format_of(file.bytes))?;
    for (chunk_begin, from, to) in pieces {
        writer.piece(&file.bytes[usize::try_from(*chunk_begin).unwrap()..], *chunk_begin, *from, *to, skip)?;
    }
    let stats = writer.finish()?;
    assert_eq!(stats.bytes, out.len() as u64);
    Ok((out, stats))
}

/// The events of transactions, in one row.
fn transaction_bytes(bytes: &[u8], transactions: &[&Transaction]) -> Vec<u8> {
    let range = |t: &Transaction| usize::try_from(t.begin).unwrap()..usize::try_from(t.end).unwrap();
    transactions.iter().flat_map(|t| bytes[range(t)].to_vec()).collect()
}

#[test]
fn a_relay_log_holds_exactly_the_transactions_of_the_part() {
    for file in FILES {
        let whole = scan_file(file.bytes);
        let transactions: Vec<&Transaction> = whole.transactions.iter().collect();
        let end = whole.scanner.boundary();
        let head = [&b"\xfebin"[..], format_of(file.bytes).raw()].concat();
        let shipped = Golden { bytes: &file.bytes[..usize::try_from(end).unwrap()], ..file };

        let (out, stats) = relay(&shipped, &[(0, 0, end)], &BTreeSet::new()).unwrap();
        assert_eq!(out, [&head[..], &transaction_bytes(file.bytes, &transactions)].concat(), "{}", file.name);
        assert_eq!(stats.transactions, transactions.len() as u64);

        let middle = transactions[transactions.len() / 2];
        let pieces = [(0, 0, middle.begin), (middle.begin, middle.begin, middle.end), (0, middle.end, end)];
        let (in_pieces, stats_of_pieces) = relay(&shipped, &pieces, &BTreeSet::new()).unwrap();
        assert!(in_pieces == out && stats_of_pieces == stats, "{}", file.name);

        let rest: Vec<&Transaction> = transactions.iter().copied().filter(|t| t.gtid != middle.gtid).collect();
        let (skipped, _) = relay(&shipped, &[(0, 0, end)], &BTreeSet::from([middle.gtid.unwrap()])).unwrap();
        assert_eq!(skipped, [&head[..], &transaction_bytes(file.bytes, &rest)].concat(), "{}", file.name);

        let (none, stats) = relay(&shipped, &[(0, middle.begin, middle.begin)], &BTreeSet::new()).unwrap();
        assert_eq!((none, stats.transactions), (head, 0));
    }
}

#[test]
fn a_merged_relay_log_changes_the_same_rows_in_the_same_order() {
    /// Everything that an applier carries out, but for where transactions begin and end.
    fn carried_out(relay_log: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let (mut events, mut begun) = (Vec::new(), 0);
        let mut reader = EventReader::begin(relay_log);
        while let Next::Event(event) = reader.next_event().unwrap() {
            match event.header.event_type {
                event_type::GTID => begun += 1,
                event_type::XID | event_type::ANNOTATE_ROWS => {}
                _ => events.push(event.raw.to_vec()),
            }
        }
        (events, begun)
    }
    let mut merged_somewhere = false;
    for file in FILES {
        let end = scan_file(file.bytes).scanner.boundary();
        let shipped = Golden { bytes: &file.bytes[..usize::try_from(end).unwrap()], ..file };
        let (plain, plain_stats) = relay(&shipped, &[(0, 0, end)], &BTreeSet::new()).unwrap();
        let mut out = Vec::new();
        let mut writer = RelayWriter::begin(&mut out, &format_of(file.bytes)).unwrap().merging();
        writer.piece(shipped.bytes, 0, 0, end, &BTreeSet::new()).unwrap();
        let stats = writer.finish().unwrap();
        let ((events, begun), (plain_events, plain_begun)) = (carried_out(&out), carried_out(&plain));
        assert!(events == plain_events, "{}", file.name);
        assert!(begun <= plain_begun, "{}", file.name);
        merged_somewhere |= begun < plain_begun;
        assert_eq!(stats.transactions, plain_stats.transactions, "those of the source are counted");
        assert_eq!(stats.position, plain_stats.position);
        assert_eq!(stats.scheduled_events, plain_stats.scheduled_events);
    }
    assert!(merged_somewhere);
}

#[test]
fn a_part_that_cuts_a_transaction_is_refused() {
    let t = scan_file(ROW.bytes).transactions[5].clone();
    let end = ROW.bytes.len() as u64;
    for (chunk_begin, from, to) in [
        (0, t.begin + 42, end),
        (0, 0, t.begin + 42),
        (0, t.begin, t.end - 1),
        (t.begin, t.begin, end + 1),
        (t.end, t.begin, end),
        (0, t.end, t.begin),
    ] {
        let err = relay(&ROW, &[(chunk_begin, from, to)], &BTreeSet::new()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{chunk_begin} {from} {to}: {err}");
    }
    let torn = relay(&TORN_GROUP, &[(0, 0, TORN_GROUP.bytes.len() as u64)], &BTreeSet::new()).unwrap_err();
    assert_eq!(torn.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_chunk_of_another_file_is_not_mixed_in() {
    let mut writer = RelayWriter::begin(Vec::new(), &format_of(ROW.bytes)).unwrap();
    let err = writer.piece(PLAIN.bytes, 0, 0, PLAIN.bytes.len() as u64, &BTreeSet::new()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_reader_that_verifies_at_its_end_is_read_to_its_end() {
    struct Verifying<'a>(&'a [u8]);
    impl std::io::Read for Verifying<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other(Error::new(ErrorKind::Corrupt, "the hash differs"))),
                read => Ok(read),
            }
        }
    }
    let first = &scan_file(ROW.bytes).transactions[0];
    for to in [first.end, ROW.bytes.len() as u64] {
        let mut writer = RelayWriter::begin(Vec::new(), &format_of(ROW.bytes)).unwrap();
        let err = writer.piece(Verifying(ROW.bytes), 0, 0, to, &BTreeSet::new()).unwrap_err();
        assert_eq!((err.kind(), err.message().as_str()), (ErrorKind::Corrupt, "the hash differs"));
    }
}

#[test]
fn the_sources_scheduled_events_are_known_after_a_replay() {
    let (_, stats) = relay(&EVENTS, &[(0, 0, EVENTS.bytes.len() as u64)], &BTreeSet::new()).unwrap();
    let found: Vec<String> =
        stats.scheduled_events.iter().map(|(e, status)| format!("{}.{} {status:?}", e.schema, e.name)).collect();
    // As `select db, name, status from mysql.event` said on the source.
    assert_eq!(found, ["shop.e 2 Enabled", "shop.e1 Enabled", "shop.e5 Enabled", "shop.o2 Disabled"]);
}

#[test]
fn a_reader_goes_on_when_more_bytes_come() {
    struct Growing {
        bytes: &'static [u8],
        is_dry: bool,
    }
    impl std::io::Read for Growing {
        /// Gives one byte, then none, then one, ...
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.is_dry = !self.is_dry;
            if self.is_dry { Ok(0) } else { self.bytes.read(&mut buffer[..1]) }
        }
    }
    let mut reader = EventReader::begin(Growing { bytes: STOPPED.bytes, is_dry: false });
    let mut events = 0;
    for _ in 0..4 * STOPPED.bytes.len() {
        match reader.next_event().unwrap() {
            Next::Event(_) => events += 1,
            Next::End | Next::Incomplete { .. } => {}
            Next::Corrupt { at, reason } => panic!("{at} {reason}"),
        }
    }
    assert_eq!(events, events_of(STOPPED.bytes).len());
}

#[test]
fn bytes_that_are_no_binlog_are_corrupt_and_a_claimed_size_allocates_nothing() {
    for (bytes, stop) in [
        (&b""[..], Stop::End),
        (b"\xfebi", Stop::Incomplete(0)),
        (b"\xfdbin\0\0\0\0", Stop::Corrupt(0)),
        (b"\xfebin", Stop::End),
        (&[&b"\xfebin"[..], &[0; 100]].concat(), Stop::Corrupt(4)),
        (&[&b"\xfebin"[..], &[0xff; 100]].concat(), Stop::Corrupt(4)),
    ] {
        assert_eq!(scan_file(bytes).stop, stop, "{bytes:?}");
    }
    // A head that claims a gigabyte which is not there.
    let mut claim = STOPPED.bytes.to_vec();
    claim[4 + 9..4 + 13].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert_eq!(scan_file(&claim).stop, Stop::Incomplete(4));
    // A file whose tail is zeros, as some file systems leave it after a power cut.
    let zeros = [STOPPED.bytes, &[0; 64]].concat();
    assert_eq!(scan_file(&zeros).stop, Stop::Corrupt(STOPPED.bytes.len() as u64));
}

#[test]
fn events_larger_than_the_buffer_are_read_whole() {
    let mut bytes = STOPPED.bytes.to_vec();
    let position = bytes.len() as u64;
    let body = vec![7u8; 9 << 20];
    let size = u32::try_from(HEADER_BYTES + body.len() + CHECKSUM_BYTES).unwrap();
    let mut event = [&[0; 4][..], &[event_type::ANNOTATE_ROWS], &[0; 4], &size.to_le_bytes(), &[0; 6], &body].concat();
    event.extend_from_slice(&crc32fast::hash(&event).to_le_bytes());
    bytes.extend_from_slice(&event);
    bytes.extend_from_slice(&STOPPED.bytes[256..]);
    let mut reader = EventReader::begin(&bytes[..]);
    let mut seen = Vec::new();
    while let Next::Event(Event { position, body, .. }) = reader.next_event().unwrap() {
        seen.push((position, body.len()));
    }
    assert!(seen.contains(&(position, 9 << 20)));
    assert_eq!(seen.len(), 2 * events_of(STOPPED.bytes).len());
}
