//! Tests on files that a real MySQL wrote: `tests/data/binlog-mysql`.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::binlog::event::{CHECKSUM_BYTES, FormatDescription, HEADER_BYTES};
use crate::binlog::mysql::event::event_type;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::{Pushed, Scanner};
use crate::domain::gtid::Gtid;
use crate::domain::gtid_set::GtidSet;
use crate::domain::transaction::Transaction;
use crate::error::{Error, ErrorKind};

struct Golden {
    name: &'static str,
    bytes: &'static [u8],
    /// Begin, end, GTID, commit time and last event of each transaction, as `mysqlbinlog` has them.
    oracle: &'static str,
    /// What coffer makes of it, looked over by hand.
    facts: &'static str,
}

macro_rules! golden {
    ($name:literal) => {
        Golden {
            name: $name,
            bytes: include_bytes!(concat!("../../../tests/data/binlog-mysql/", $name, ".binlog")),
            oracle: include_str!(concat!("../../../tests/data/binlog-mysql/", $name, ".txt")),
            facts: include_str!(concat!("../../../tests/data/binlog-mysql/", $name, ".facts")),
        }
    };
}

const ROW: Golden = golden!("row");
const COMPRESSED: Golden = golden!("compressed");
const TAGGED: Golden = golden!("tagged");
const TAGGED_NEXT: Golden = golden!("tagged_next");
const PLAIN: Golden = golden!("plain");
const TORN_EVENT: Golden = golden!("torn_event");
const TORN_GROUP: Golden = golden!("torn_group");
const STOPPED: Golden = golden!("stopped");
const FILES: [Golden; 13] = [
    ROW,
    golden!("ddl"),
    golden!("statement"),
    COMPRESSED,
    TAGGED,
    TAGGED_NEXT,
    golden!("xa"),
    golden!("anonymous_off"),
    golden!("anonymous_on"),
    PLAIN,
    TORN_EVENT,
    TORN_GROUP,
    STOPPED,
];
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

fn gtid_text(gtid: Option<&Gtid>) -> String {
    gtid.map_or_else(|| "anonymous".to_owned(), Gtid::to_string)
}

#[test]
fn transactions_begin_end_and_commit_as_mysqlbinlog_says() {
    for file in FILES {
        let expected: Vec<String> =
            file.oracle.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        let found: Vec<String> = scan_file(file.bytes)
            .transactions
            .iter()
            .map(|t| format!("{} {} {} {}", t.begin, t.end, gtid_text(t.gtid.as_ref()), t.stamped_at))
            .collect();
        assert_eq!(found, expected, "{}", file.name);
    }
}

#[test]
fn facts_of_transactions_are_as_looked_over() {
    let mut told = Vec::new();
    for file in FILES {
        let mut text = String::new();
        for t in &scan_file(file.bytes).transactions {
            let destructive = if t.destructive { " DESTRUCTIVE" } else { "" };
            let (gtid, tables) = (gtid_text(t.gtid.as_ref()), t.tables.join(" "));
            // The server's own UUID is another one each time the files are made.
            let gtid = gtid.rsplit(':').next().unwrap_or_default();
            let statement = t.statement.as_deref().unwrap_or("-").replace('\n', " ");
            writeln!(
                text,
                "{gtid} {:?}{destructive} [{tables}] rows={} db={} | {statement}",
                t.kind, t.row_events, t.default_schema
            )
            .unwrap();
        }
        if text != file.facts {
            told.push(format!("{} is told otherwise now:\n{text}", file.name));
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn a_closed_file_ends_with_rotation_or_stop() {
    for file in FILES {
        let scanned = scan_file(file.bytes);
        let length = file.bytes.len() as u64;
        match file.name {
            "torn_event" => {
                assert!(matches!(scanned.stop, Stop::Incomplete(_)));
                assert!(scanned.scanner.boundary() < length);
            }
            "torn_group" => {
                assert_eq!(scanned.stop, Stop::End);
                assert!(scanned.scanner.boundary() < length);
            }
            "stopped" => assert_eq!((scanned.last, scanned.scanner.boundary()), (Some(Pushed::Stopped), length)),
            name => {
                assert!(
                    matches!(&scanned.last, Some(Pushed::Rotated { next }) if next.starts_with("binlog.")),
                    "{name}: {:?}",
                    scanned.last
                );
                assert_eq!((scanned.stop, scanned.scanner.boundary()), (Stop::End, length), "{name}");
            }
        }
    }
}

#[test]
fn a_file_goes_on_with_the_set_the_one_before_ended_with() {
    let (first, next) = (scan_file(TAGGED.bytes).scanner, scan_file(TAGGED_NEXT.bytes));
    let text = first.state().executed().to_string();
    assert!(text.starts_with("11111111-2222-3333-4444-555555555555:7:9,\n11111111-2222-3333-4444-ffffffffffff:a_tag_"));
    assert!(text.ends_with(":1-3:nightly:1-2"), "{text}");
    let mut united = first.state().executed().clone();
    for transaction in &next.transactions {
        let Some(Gtid::Mysql(gtid)) = &transaction.gtid else { panic!("no GTID") };
        united.add(gtid);
    }
    assert_eq!(*next.scanner.state().executed(), united);
    assert_eq!(united.to_string().parse::<GtidSet>().unwrap(), united);
    // A crashed server uses the number of the torn transaction again.
    let (torn, after) = (scan_file(TORN_GROUP.bytes), scan_file(STOPPED.bytes));
    assert!(torn.scanner.state().executed().to_string().ends_with(":1-2"), "{}", torn.scanner.state().executed());
    assert!(after.transactions.first().unwrap().gtid.unwrap().number() == 3);
}

#[test]
fn every_prefix_gives_a_prefix_of_the_transactions() {
    for file in FILES {
        let whole = scan_file(file.bytes);
        let step = if file.bytes.len() > 2_000 { 31 } else { 1 };
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
            let point = before.scanner.scan_point().unwrap();
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
    for file in FILES {
        if file.name == "plain" {
            continue;
        }
        let whole = scan_file(file.bytes);
        // All bits take too long in a debug build; prime steps meet every kind of place.
        let step = if file.bytes.len() > 2_000 { 397 } else { 37 };
        for bit in (0..file.bytes.len() * 8).step_by(step) {
            let (at, mut bytes) = (bit / 8, file.bytes.to_vec());
            bytes[at] ^= 1 << (bit % 8);
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
        for _ in 0..150 {
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
fn the_golden_files_hold_every_kind_of_event() {
    let mut seen = BTreeSet::new();
    for file in FILES {
        for (begin, _) in events_of(file.bytes) {
            seen.insert(file.bytes[begin + 4]);
        }
    }
    for wanted in [
        event_type::ROWS_QUERY,
        event_type::GTID,
        event_type::ANONYMOUS_GTID,
        event_type::PREVIOUS_GTIDS,
        event_type::PARTIAL_UPDATE_ROWS,
        event_type::TRANSACTION_PAYLOAD,
        event_type::GTID_TAGGED,
    ] {
        assert!(seen.contains(&wanted), "{wanted}");
    }
}

#[test]
fn commit_times_never_go_back_and_never_lie_beyond_the_observation() {
    let times = |clock, observed_at| {
        let mut scanner = Scanner::begin(clock);
        let mut reader = EventReader::begin(PLAIN.bytes);
        let mut commits = Vec::new();
        while let Next::Event(event) = reader.next_event().unwrap() {
            if let Pushed::Transaction(t) = scanner.push(&event, observed_at).unwrap() {
                commits.push(t.committed_at);
            }
        }
        assert_eq!(scanner.clock(), *commits.last().unwrap());
        commits
    };
    let stamps: Vec<i64> = scan_file(PLAIN.bytes).transactions.iter().map(|t| t.stamped_at).collect();
    assert!(stamps.is_sorted() && stamps.first() < stamps.last());
    assert_eq!(times(0, LATER_THAN_ALL), stamps);
    assert_eq!(times(0, stamps[1]), [stamps[0], stamps[1], stamps[1], stamps[1]]);
    assert_eq!(times(LATER_THAN_ALL, 0), [LATER_THAN_ALL; 4]);
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
        let (head, _) = relay(&file, &[], &BTreeSet::new()).unwrap();
        assert_eq!(scan_file(&head).stop, Stop::End);
        assert!(head.starts_with(&[&b"\xfebin"[..], format_of(file.bytes).raw()].concat()));
        let shipped = Golden { bytes: &file.bytes[..usize::try_from(end).unwrap()], ..file };

        let (out, stats) = relay(&shipped, &[(0, 0, end)], &BTreeSet::new()).unwrap();
        assert_eq!(out, [&head[..], &transaction_bytes(file.bytes, &transactions)].concat(), "{}", file.name);
        assert_eq!(stats.transactions, transactions.len() as u64);
        assert_eq!(u64::from(stats.source_end), transactions.last().unwrap().end);
        assert!(stats.position.executed().is_subset_of(whole.scanner.state().executed()));

        let middle = transactions[transactions.len() / 2];
        let pieces = [(0, 0, middle.begin), (middle.begin, middle.begin, middle.end), (0, middle.end, end)];
        let (in_pieces, stats_of_pieces) = relay(&shipped, &pieces, &BTreeSet::new()).unwrap();
        assert!(in_pieces == out && stats_of_pieces == stats, "{}", file.name);

        if let Some(gtid) = middle.gtid {
            let rest: Vec<&Transaction> = transactions.iter().copied().filter(|t| t.gtid != middle.gtid).collect();
            let (skipped, stats) = relay(&shipped, &[(0, 0, end)], &BTreeSet::from([gtid])).unwrap();
            assert_eq!(skipped, [&head[..], &transaction_bytes(file.bytes, &rest)].concat(), "{}", file.name);
            assert!(stats.position.includes(&gtid) == Some(false));
        }
        let cut = relay(&shipped, &[(0, 0, middle.end - 1)], &BTreeSet::new()).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn changes_that_were_logged_as_statements_are_told_apart() {
    for file in FILES {
        let found = scan_file(file.bytes).transactions.into_iter().filter(|transaction| transaction.as_statements);
        let told: Vec<String> = found.filter_map(|transaction| transaction.statement).collect();
        // One of those in `compressed` is packed.
        assert_eq!(told.is_empty(), !["statement", "compressed"].contains(&file.name), "{}: {told:?}", file.name);
    }
}
