//! A catalog of a size that shows a missing index, and the plans SQLite makes for every query of it.

use super::*;
use crate::clock::{self, Stopwatch};
use crate::domain::chunk::{ChunkFacts, Gap};
use crate::domain::gtid::{BinlogState, GtidPosition, GtidStream, MariadbGtid};
use crate::store::Store;
use crate::testing::TempDir;

const CHUNKS_PER_FILE: u64 = 100;
const CHUNK_BYTES: u64 = 1000;

/// The n-th chunk of a timeline: ten transactions, a second each, every hundredth chunk begins a file.
fn chunk(instance: InstanceId, timeline: TimelineId, n: u64) -> Chunk {
    let ordinal = u32::try_from(n / CHUNKS_PER_FILE).unwrap() + 1;
    let begin = n % CHUNKS_PER_FILE * CHUNK_BYTES;
    let (first, last) = (n * 10 + 1, n * 10 + 10);
    let gtid = |sequence| Gtid::Mariadb(MariadbGtid { domain: 0, server_id: 1, sequence });
    let mut position_after = GtidPosition::default();
    position_after.apply(gtid(last));
    let mut state_after = BinlogState::default();
    state_after.apply(gtid(last));
    let seconds = |sequence: u64| i64::try_from(sequence).unwrap();
    Chunk {
        facts: ChunkFacts {
            instance,
            timeline,
            ordinal,
            file: format!("binlog.{ordinal:06}"),
            begin,
            end: begin + CHUNK_BYTES,
            sha256: format!("{n:064x}"),
            follows: n.checked_sub(1).map(|before| format!("{before:064x}")),
            gap_before: None,
            transactions: 10,
            first_gtid: Some(gtid(first)),
            last_gtid: Some(gtid(last)),
            ranges: vec![GtidRange { stream: GtidStream::Mariadb { domain: 0, server_id: 1 }, first, last }],
            position_after,
            state_after,
            clock_before: seconds(first) - 1,
            first_commit: Some(seconds(first)),
            last_commit: Some(seconds(last)),
            observed_at: clock::now(),
        },
        key: format!("instances/{instance}/binlog/{timeline}/{ordinal:08}-{begin:012}.binlog.zst"),
        stored_bytes: 7,
    }
}

struct Bench {
    _dir: TempDir,
    store: Store,
    instance: InstanceId,
    timeline: TimelineId,
}

impl Bench {
    fn new(chunks: u64) -> Bench {
        let dir = TempDir::new();
        let store = Store::open(&dir).unwrap();
        let bench = Bench { _dir: dir, store, instance: InstanceId::random(), timeline: TimelineId::random() };
        // Another timeline of the instance beside it, so that a query that forgets the timeline is seen.
        let other = TimelineId::random();
        bench
            .store
            .write(|tx| {
                (0..chunks).try_for_each(|n| tx.insert_chunk(&bench.chunk(n)))?;
                tx.insert_chunk(&chunk(InstanceId::random(), other, 0))
            })
            .unwrap();
        bench
    }

    fn chunk(&self, n: u64) -> Chunk {
        chunk(self.instance, self.timeline, n)
    }

    fn read<T>(&self, look: impl FnOnce(&Db<'_>) -> Result<T, Error>) -> T {
        self.store.read(look).unwrap()
    }
}

fn keys(chunks: &[Chunk]) -> Vec<&str> {
    chunks.iter().map(|chunk| chunk.key.as_str()).collect()
}

#[test]
fn a_chunk_goes_in_once_and_never_over_another() {
    let bench = Bench::new(3);
    bench.store.write(|tx| tx.insert_chunk(&bench.chunk(1))).unwrap();
    assert_eq!(bench.read(|db| db.chunk_totals(bench.instance)).chunks, 3);
    let mut over = bench.chunk(3);
    over.facts.begin -= 1;
    over.key.push_str(".other");
    let mut inside = bench.chunk(1);
    inside.facts.begin += 10;
    inside.facts.end -= 10;
    inside.key.push_str(".other");
    for chunk in [over, inside] {
        let err = bench.store.write(|tx| tx.insert_chunk(&chunk)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Conflict, "{err}");
    }
    let whole = bench.read(|db| db.chunks_from(bench.timeline, 0, 0, 10));
    assert_eq!(keys(&whole), keys(&[bench.chunk(0), bench.chunk(1), bench.chunk(2)]));
    assert_eq!(whole[1].facts.ranges, bench.chunk(1).facts.ranges);
}

#[test]
fn places_between_chunks_and_inside_them_lead_to_the_right_ones() {
    let bench = Bench::new(250);
    let from = |ordinal, position| bench.read(|db| db.chunks_from(bench.timeline, ordinal, position, 1)).pop();
    let before = |ordinal, position| bench.read(|db| db.chunk_before(bench.timeline, ordinal, position));
    let key = |n| Some(bench.chunk(n).key);
    // A place at a chunk's end belongs to the next, one inside it to the chunk itself.
    assert_eq!(from(1, 0).map(|c| c.key), key(0));
    assert_eq!(from(1, 999).map(|c| c.key), key(0));
    assert_eq!(from(1, 1000).map(|c| c.key), key(1));
    assert_eq!(from(1, 100_000).map(|c| c.key), key(100), "the next file follows");
    assert_eq!(from(3, 50_000), None);
    assert_eq!(before(1, 999), None);
    assert_eq!(before(1, 1000).map(|c| c.key), key(0));
    assert_eq!(before(2, 0).map(|c| c.key), key(99));
    assert_eq!(before(9, 0).map(|c| c.key), key(249));
    assert_eq!(bench.read(|db| db.last_chunk(bench.timeline)).map(|c| c.key), key(249));
    assert_eq!(bench.read(|db| db.last_chunk(TimelineId::random())), None);
    let light = bench.read(|db| db.chunk_keys_from(bench.timeline, 1, 1500, 2));
    let chunk = bench.chunk(2);
    let expected = ChunkKey { key: chunk.key, ordinal: 1, end: 3000, stored_bytes: 7 };
    assert_eq!((light.len(), &light[1]), (2, &expected));
    assert_eq!(bench.read(|db| db.chunk_bytes_from(bench.timeline, 3, 40_000)), 70);
    let back = bench.read(|db| db.chunks_back_from(bench.timeline, 2, 1000, 3));
    assert_eq!(keys(&back), keys(&[bench.chunk(100), bench.chunk(99), bench.chunk(98)]));
}

#[test]
fn every_gtid_leads_to_its_chunks_whatever_the_widths_of_the_ranges() {
    let bench = Bench::new(0);
    let ranges: [&[(u32, u64, u64)]; 6] = [
        &[(1, 1, 1)],
        &[(1, 2, 1000), (2, 7, 7)],
        &[(1, 1001, 1001), (2, 1, 2000)],
        &[(1, 500, 1500)], // Out of order: without strict mode a session may set what it likes.
        &[(1, u64::MAX - 1, u64::MAX)],
        &[(3, 0, u64::MAX)],
    ];
    bench
        .store
        .write(|tx| {
            for (n, ranges) in (0..).zip(ranges) {
                let mut chunk = bench.chunk(n);
                chunk.facts.ranges = ranges
                    .iter()
                    .map(|(server_id, first, last)| GtidRange {
                        stream: GtidStream::Mariadb { domain: 0, server_id: *server_id },
                        first: *first,
                        last: *last,
                    })
                    .collect();
                tx.insert_chunk(&chunk)?;
            }
            Ok(())
        })
        .unwrap();
    for server_id in 0..5 {
        for sequence in [0, 1, 2, 3, 7, 499, 500, 999, 1000, 1001, 1500, 1501, 1 << 40, u64::MAX - 2, u64::MAX] {
            let gtid = Gtid::Mariadb(MariadbGtid { domain: 0, server_id, sequence });
            let expected: Vec<String> = (0..)
                .zip(ranges)
                .filter(|(_, ranges)| {
                    ranges
                        .iter()
                        .any(|(server, first, last)| *server == server_id && (first..=last).contains(&&sequence))
                })
                .map(|(n, _)| bench.chunk(n).key)
                .collect();
            let found = bench.read(|db| db.chunks_holding_gtid(bench.instance, &gtid));
            assert_eq!(keys(&found), expected, "{gtid}");
        }
    }
    let elsewhere = Gtid::Mariadb(MariadbGtid { domain: 1, server_id: 1, sequence: 1 });
    assert_eq!(bench.read(|db| db.chunks_holding_gtid(bench.instance, &elsewhere)), []);
}

#[test]
fn gaps_and_totals_are_told_per_instance() {
    let bench = Bench::new(2);
    assert_eq!(bench.read(|db| db.chunk_totals(InstanceId::random())), ChunkTotals::default());
    let mut behind = bench.chunk(5);
    behind.facts.gap_before = Some(Gap {
        after: Some(bench.chunk(1).facts.ends_at()),
        position_before: "0-1-20".parse().unwrap(),
        state_behind: "0-1-50".parse().unwrap(),
        reason: "purged before it was shipped".to_owned(),
    });
    // Only a rotation: no transaction, no commit time.
    let mut empty = bench.chunk(6);
    empty.facts.transactions = 0;
    (empty.facts.first_commit, empty.facts.last_commit) = (None, None);
    empty.facts.ranges.clear();
    bench.store.write(|tx| tx.insert_chunk(&behind).and_then(|()| tx.insert_chunk(&empty))).unwrap();
    assert_eq!(bench.read(|db| db.gaps(bench.instance)), [behind]);
    assert_eq!(
        bench.read(|db| db.chunk_totals(bench.instance)),
        ChunkTotals { chunks: 4, stored_bytes: 28, transactions: 30, first_commit: Some(1), last_commit: Some(60) }
    );
}

#[test]
fn changes_logged_as_statements_are_known_by_their_place() {
    let bench = Bench::new(20);
    let (first, second) = (bench.chunk(3).facts, bench.chunk(12).facts);
    let place = |facts: &ChunkFacts, position: u64| (facts.ordinal, position);
    let found = |after, to| bench.read(|db| db.has_statements(bench.timeline, after, to));
    assert!(!found((0, 0), (u32::MAX, 0)), "nobody has noted any");
    bench.store.write(|tx| tx.note_statements(&first).and_then(|()| tx.note_statements(&second))).unwrap();
    for facts in [&first, &second] {
        assert!(found(place(facts, facts.begin), place(facts, facts.end)), "the chunk alone");
        assert!(!found(place(facts, facts.end), place(facts, facts.end + CHUNK_BYTES)), "and not the one behind it");
    }
    assert!(!found(place(&first, first.end), place(&second, second.begin)), "between the two");
    assert!(found((0, 0), (u32::MAX, 0)));
    assert!(!bench.read(|db| db.has_statements(TimelineId::random(), (0, 0), (u32::MAX, 0))), "another timeline's");
}

#[test]
fn every_query_is_one_index_range() {
    let bench = Bench::new(1);
    for query in [FROM, KEYS_FROM, BYTES_FROM, BEFORE, LAST, GAPS, AS_STATEMENTS, HOLDING, BY_SEQUENCE, TOTALS] {
        let plan = bench.read(|db| db.plan_of(query));
        assert!(plan.starts_with("SEARCH"), "{query}: {plan}");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{query}: {plan}");
        let by = ["USING INDEX", "USING COVERING INDEX", "PRIMARY KEY"];
        assert!(by.iter().any(|by| plan.contains(by)), "{query}: {plan}");
    }
}

#[test]
fn every_query_finds_its_own_among_a_hundred_thousand_chunks() {
    let bench = Bench::new(100_000);
    let (instance, timeline) = (bench.instance, bench.timeline);
    let watch = Stopwatch::start();
    for n in (0..100_000_u64).step_by(1000) {
        let ordinal = u32::try_from(n / CHUNKS_PER_FILE).unwrap() + 1;
        bench.read(|db| {
            assert_eq!(db.chunks_from(timeline, ordinal, 500, 10)?.len(), 10);
            assert!(db.chunk_before(timeline, ordinal, 5000)?.is_some());
            assert!(db.last_chunk(timeline)?.is_some());
            let gtid = Gtid::Mariadb(MariadbGtid { domain: 0, server_id: 1, sequence: n * 10 + 5 });
            assert_eq!(db.chunks_holding_gtid(instance, &gtid)?.len(), 1);
            assert_eq!(db.chunk_totals(instance)?.chunks, 100_000);
            assert_eq!(db.gaps(instance)?.len(), 0);
            Ok(())
        });
    }
    // For people; what must hold is the test of the plans.
    eprintln!("600 queries over 100 000 chunks took {:?}", watch.elapsed());
}
