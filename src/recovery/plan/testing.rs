//! A small notation for catalogs, so that a planner's test can be read at a glance.
//!
//! ```text
//! timeline 1
//! file b.000001: 1@10 2@10 | 3@12! (4@13) 0-2-5@14x     transactions as [domain-server-]sequence@seconds
//! backup full-1 after 2
//! timeline 2 from 1 after 3 skipping 2
//! backup full-2 begin
//! ```
//!
//! `bad backup full-1` and `bad chunk with 3` are what a verification has found. `|` ends a chunk, `(...)` was never shipped, `!` drops a table, `x` is XA, `s` was logged as a
//! statement. A file's header takes 256 bytes, each
//! transaction 100, a rotation 44. Seconds count from 2026-07-01T12:00:00Z. While it is read, the notation also tells
//! what the server's data held after each transaction, for tests that compare a plan with the naive truth.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::domain::backup::Strategy;
use crate::domain::backup::{Backup, BackupEnd, BackupStatus};
use crate::domain::chunk::{Chunk, ChunkFacts, Gap, GtidRange};
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::{BinlogState, Gtid, GtidPosition, GtidStream, MariadbGtid};
use crate::domain::id::{BackupId, InstanceId, TimelineId};
use crate::domain::recovery::RecoveryPlan;
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::timeline::{Branch, Origin, Timeline};
use crate::domain::transaction::{MICROSECONDS, Transaction, TransactionKind};
use crate::domain::verification::{BadObject, Damage, ObjectPlace};
use crate::error::Error;
use crate::recovery::plan::{ChunkSource, Facts, PlanError, Rates, Resolution, plan_recovery};

pub(in crate::recovery) const HEADER_BYTES: u64 = 256;
pub(in crate::recovery) const TRANSACTION_BYTES: u64 = 100;
pub(in crate::recovery) const ROTATION_BYTES: u64 = 44;
const EPOCH: i64 = 1_782_907_200; // 2026-07-01T12:00:00Z
/// Chunks per answer: small, so that every walk crosses pages.
const PAGE: usize = 2;

/// What the server's data held after a transaction, or at the beginning of a timeline.
#[derive(Debug, Clone)]
pub(in crate::recovery) struct State {
    pub(in crate::recovery) timeline: usize,
    pub(in crate::recovery) gtid: Option<Gtid>,
    pub(in crate::recovery) clock: i64,
    pub(in crate::recovery) data: Vec<Gtid>,
    pub(in crate::recovery) lost: bool,
    pub(in crate::recovery) begin: u64,
    pub(in crate::recovery) at: Coordinate,
}

pub(in crate::recovery) struct Catalog {
    pub(in crate::recovery) instance: InstanceId,
    pub(in crate::recovery) timelines: Vec<Timeline>,
    pub(in crate::recovery) backups: Vec<Backup>,
    pub(in crate::recovery) chunks: Vec<Chunk>,
    transactions: BTreeMap<String, Vec<Transaction>>,
    /// States of all timelines, in the order they were written.
    pub(in crate::recovery) states: Vec<State>,
    /// Index into `states` of what each backup holds.
    pub(in crate::recovery) backup_states: Vec<usize>,
    names: BTreeMap<String, String>,
    pub(in crate::recovery) now: i64,
    pub(in crate::recovery) shipped_as_of: Option<i64>,
    pub(in crate::recovery) server_version: String,
    pub(in crate::recovery) program_version: String,
    pub(in crate::recovery) free_disk_bytes: Option<u64>,
    pub(in crate::recovery) busy: Option<String>,
    pub(in crate::recovery) bad: Vec<BadObject>,
    damage: Damage,
    /// Chunks whose transactions a plan has read.
    pub(in crate::recovery) reads: Cell<usize>,
    writer: Writer,
}

/// Where the notation's reader stands.
#[derive(Default)]
struct Writer {
    ordinal: u32,
    file: String,
    offset: u64,
    open: Vec<Transaction>,
    chunk_begin: u64,
    lost: bool,
    state: BinlogState,
    clock: i64,
    chunk_clock: i64,
    last_shipped: Option<Coordinate>,
}

impl Catalog {
    pub(in crate::recovery) fn clock(seconds: i64) -> i64 {
        (EPOCH + seconds) * MICROSECONDS
    }

    pub(in crate::recovery) fn parse(text: &str) -> Catalog {
        let mut catalog = Catalog {
            instance: "10000000-0000-4000-8000-000000000000".parse().unwrap(),
            timelines: Vec::new(),
            backups: Vec::new(),
            chunks: Vec::new(),
            transactions: BTreeMap::new(),
            states: Vec::new(),
            backup_states: Vec::new(),
            names: BTreeMap::new(),
            now: EPOCH + 1_000_000,
            shipped_as_of: Some(EPOCH + 1_000_000),
            server_version: "10.11.19-MariaDB".to_owned(),
            program_version: String::new(),
            free_disk_bytes: None,
            busy: None,
            bad: Vec::new(),
            damage: Damage::default(),
            reads: Cell::new(0),
            writer: Writer::default(),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["timeline", number] => catalog.timeline(number, None),
                ["timeline", number, "from", rest @ ..] => catalog.timeline(number, Some(rest)),
                ["file", name, rest @ ..] => catalog.file(name.trim_end_matches(':'), rest),
                ["backup", name, rest @ ..] => catalog.backup(name, rest),
                ["now", seconds] => catalog.now = EPOCH + seconds.parse::<i64>().unwrap(),
                ["shipped", "as", "of", seconds] => {
                    catalog.shipped_as_of = seconds.parse::<i64>().ok().map(|seconds| EPOCH + seconds);
                }
                ["server", version] => catalog.server_version = (*version).to_owned(),
                ["program", version] => catalog.program_version = (*version).to_owned(),
                ["free", bytes] => catalog.free_disk_bytes = Some(bytes.parse().unwrap()),
                ["bad", "backup", name] => catalog.spoil_backup(name),
                ["bad", "chunk", "with", gtid] => catalog.spoil_chunk(gtid),
                ["busy", what] => catalog.busy = Some((*what).to_owned()),
                _ => panic!("not in the notation: {line}"),
            }
        }
        catalog.end_file(false);
        catalog.damage = Damage::of(&catalog.bad);
        catalog
    }

    fn spoil_backup(&mut self, name: &str) {
        let place = ObjectPlace::Part { backup: self.backup_named(name) };
        self.spoil(format!("part of {name}"), place);
    }

    fn spoil_chunk(&mut self, gtid: &str) {
        self.end_chunk();
        let gtid = parse_gtid(gtid);
        let holds =
            |chunk: &&Chunk| self.transactions[&chunk.key].iter().any(|transaction| transaction.gtid == Some(gtid));
        let chunk = self.chunks.iter().rfind(holds).unwrap().clone();
        let (timeline, ordinal, end) = (chunk.facts.timeline, chunk.facts.ordinal, chunk.facts.end);
        self.spoil(chunk.key, ObjectPlace::Chunk { timeline, ordinal, end });
    }

    fn spoil(&mut self, key: String, place: ObjectPlace) {
        let found_at = Timestamp::from_second(EPOCH).unwrap();
        self.bad.push(BadObject { key, place, reason: "a bit flipped".to_owned(), found_at, replacement: None });
    }

    fn timeline_id(number: u32) -> TimelineId {
        format!("20000000-0000-4000-8000-{number:012}").parse().unwrap()
    }

    fn state_index(&self, timeline: usize, gtid: &str) -> usize {
        let gtid = parse_gtid(gtid);
        self.states.iter().position(|state| state.timeline == timeline && state.gtid == Some(gtid)).unwrap()
    }

    fn timeline(&mut self, number: &str, from: Option<&[&str]>) {
        self.end_file(false);
        let number: u32 = number.parse().unwrap();
        let (branch, data, clock) = match from {
            None => (None, Vec::new(), 0),
            Some(words) => self.branch(words),
        };
        let used = self.writer.state.clone();
        let id = Self::timeline_id(number);
        self.names.insert(id.to_string(), format!("T{number}"));
        let at = Coordinate { timeline: id, ordinal: 1, file: "b.000001".to_owned(), position: HEADER_BYTES };
        let index = self.timelines.len();
        self.states.push(State { timeline: index, gtid: None, clock, data, lost: false, begin: HEADER_BYTES, at });
        self.timelines.push(Timeline {
            id,
            instance: self.instance,
            number,
            origin: Origin::Initial,
            branch,
            state_at_begin: used.clone(),
            begun_at: Timestamp::from_second(EPOCH).unwrap(),
        });
        // The state goes on above whatever was used: a position taken from it would name what was given up.
        self.writer = Writer { state: used, clock, chunk_clock: clock, ..Writer::default() };
    }

    fn branch(&self, words: &[&str]) -> (Option<Branch>, Vec<Gtid>, i64) {
        let (words, mut skipped) = match words.iter().position(|word| *word == "skipping") {
            Some(at) => (&words[..at], words[at + 1].split(',').map(parse_gtid).collect::<Vec<_>>()),
            None => (words, Vec::new()),
        };
        let parent: usize = words[0].parse::<usize>().unwrap() - 1;
        let (state, at) = match words[1..] {
            ["after", gtid] => {
                let state = &self.states[self.state_index(parent, gtid)];
                (state, state.at.clone())
            }
            ["begin"] => {
                let state = self.states.iter().find(|state| state.timeline == parent).unwrap();
                let branch = self.timelines[parent].branch.as_ref().unwrap();
                skipped.extend(branch.skipped.iter().copied());
                (state, branch.at.clone())
            }
            ["end"] => {
                let state = self.states.iter().rfind(|state| state.timeline == parent).unwrap();
                let id = self.timelines[parent].id;
                let last = self.chunks.iter().rfind(|chunk| chunk.facts.timeline == id).unwrap();
                (state, last.facts.ends_at())
            }
            _ => panic!("not a branch: {words:?}"),
        };
        let data: Vec<Gtid> = state.data.iter().copied().filter(|gtid| !skipped.contains(gtid)).collect();
        let branch = Branch { at, position: fold(&data), clock: state.clock, skipped };
        (Some(branch), data, state.clock)
    }

    fn file(&mut self, name: &str, items: &[&str]) {
        self.end_file(true);
        self.writer.ordinal += 1;
        self.writer.file = name.to_owned();
        self.writer.offset = HEADER_BYTES;
        self.writer.chunk_begin = 0;
        let mut in_hole = false;
        for item in items {
            if *item == "|" {
                self.end_chunk();
                continue;
            }
            if item.starts_with('(') {
                // A hole at the beginning of a file takes the header with it.
                if !self.writer.open.is_empty() {
                    self.end_chunk();
                }
                in_hole = true;
            }
            self.transaction(item.trim_matches(['(', ')']), in_hole);
            if item.ends_with(')') {
                in_hole = false;
            }
        }
    }

    fn transaction(&mut self, item: &str, lost: bool) {
        let destructive = item.ends_with('!');
        let is_xa = item.ends_with('x');
        let as_statements = item.ends_with('s');
        let (gtid, seconds) = item.trim_end_matches(['!', 'x', 's']).split_once('@').unwrap();
        let gtid = parse_gtid(gtid);
        let clock = Catalog::clock(seconds.parse().unwrap());
        let begin = self.writer.offset;
        let end = begin + TRANSACTION_BYTES;
        self.writer.offset = end;
        self.writer.clock = clock;
        self.writer.state.apply(gtid);
        let timeline = self.timelines.len() - 1;
        let mut data = self.states.iter().rfind(|state| state.timeline == timeline).unwrap().data.clone();
        data.push(gtid);
        let at = self.here();
        self.states.push(State { timeline, gtid: Some(gtid), clock, data, lost, begin, at });
        if lost {
            self.writer.lost = true;
            self.writer.chunk_begin = end;
            self.writer.chunk_clock = clock;
            return;
        }
        let table = if destructive { "orders" } else { "items" };
        self.writer.open.push(Transaction {
            gtid: Some(gtid),
            begin,
            end,
            stamped_at: clock,
            committed_at: clock,
            kind: match (is_xa, destructive) {
                (true, _) => TransactionKind::Xa,
                (false, true) => TransactionKind::Ddl,
                (false, false) => TransactionKind::Dml,
            },
            statement: destructive.then(|| format!("DROP TABLE {table}")),
            default_schema: "shop".to_owned(),
            tables: vec![format!("shop.{table}")],
            row_events: 1,
            as_statements,
            destructive,
        });
    }

    fn here(&self) -> Coordinate {
        Coordinate {
            timeline: self.timelines.last().unwrap().id,
            ordinal: self.writer.ordinal,
            file: self.writer.file.clone(),
            position: self.writer.offset,
        }
    }

    fn end_file(&mut self, rotated: bool) {
        if self.writer.file.is_empty() {
            return;
        }
        if rotated {
            self.writer.offset += ROTATION_BYTES;
        }
        // The rotation behind a hole is lost with it.
        if !self.writer.lost || !self.writer.open.is_empty() {
            self.end_chunk();
        }
    }

    fn end_chunk(&mut self) {
        let (begin, end) = (self.writer.chunk_begin, self.writer.offset);
        if begin == end {
            return;
        }
        let timeline = self.timelines.last().unwrap().id;
        let transactions = std::mem::take(&mut self.writer.open);
        let previous = self.chunks.last().filter(|chunk| chunk.facts.timeline == timeline);
        let key = format!("{timeline}/{:08}-{begin:012}-{end:012}", self.writer.ordinal);
        let lost = std::mem::take(&mut self.writer.lost);
        let gap_before = lost.then(|| Gap {
            after: self.writer.last_shipped.clone(),
            position_before: previous.map(|chunk| chunk.facts.position_after.clone()).unwrap_or_default(),
            state_behind: self.state_before(&transactions),
            reason: "purged before it was shipped".to_owned(),
        });
        let facts = ChunkFacts {
            instance: self.instance,
            timeline,
            ordinal: self.writer.ordinal,
            file: self.writer.file.clone(),
            begin,
            end,
            sha256: format!("digest of {key}"),
            follows: previous.map(|chunk| chunk.facts.sha256.clone()),
            gap_before,
            transactions: transactions.len() as u64,
            first_gtid: transactions.first().and_then(|transaction| transaction.gtid),
            last_gtid: transactions.last().and_then(|transaction| transaction.gtid),
            ranges: ranges(&transactions),
            position_after: self.writer.state.position(),
            state_after: self.writer.state.clone(),
            clock_before: self.writer.chunk_clock,
            first_commit: transactions.first().map(|transaction| transaction.committed_at),
            last_commit: transactions.last().map(|transaction| transaction.committed_at),
            observed_at: Timestamp::from_microsecond(self.writer.clock).unwrap(),
        };
        self.writer.last_shipped = Some(facts.ends_at());
        self.writer.chunk_begin = end;
        self.writer.chunk_clock = facts.clock_after();
        self.transactions.insert(key.clone(), transactions);
        self.chunks.push(Chunk { facts, key, stored_bytes: (end - begin) / 2 });
    }

    /// The binlog state before the open transactions; sequence numbers of a server grow by one in the notation.
    fn state_before(&self, open: &[Transaction]) -> BinlogState {
        let mut state = self.writer.state.clone();
        for transaction in open.iter().rev() {
            let Some(Gtid::Mariadb(gtid)) = transaction.gtid else { continue };
            state.apply(Gtid::Mariadb(MariadbGtid { sequence: gtid.sequence - 1, ..gtid }));
        }
        state
    }

    fn backup(&mut self, name: &str, words: &[&str]) {
        let timeline = self.timelines.len() - 1;
        let (state, rest) = match words {
            ["after", gtid, rest @ ..] => (self.state_index(timeline, gtid), rest),
            ["begin", rest @ ..] => (self.states.iter().position(|state| state.timeline == timeline).unwrap(), rest),
            _ => panic!("not a backup: {words:?}"),
        };
        let id: BackupId = format!("30000000-0000-4000-8000-{:012}", self.backups.len()).parse().unwrap();
        self.names.insert(id.to_string(), name.to_owned());
        let held = &self.states[state];
        let mut backup = Backup {
            id,
            instance: self.instance,
            name: name.to_owned(),
            description: String::new(),
            status: BackupStatus::Completed,
            fault: None,
            datastore: Datastore::Mariadb,
            strategy: Strategy::Mariabackup,
            server_version: "10.11.19-MariaDB".to_owned(),
            raw_bytes: 1000,
            stored_bytes: 500,
            location: None,
            checksum: None,
            end: Some(BackupEnd { at: held.at.clone(), position: fold(&held.data), clock: held.clock }),
            created_at: Timestamp::from_microsecond(held.clock).unwrap(),
            updated_at: Timestamp::from_microsecond(held.clock).unwrap(),
        };
        for word in rest {
            match *word {
                "FAILED" => backup.status = BackupStatus::Failed,
                "SAVING" => backup.status = BackupStatus::Saving,
                "foreign" => backup.instance = "19999999-0000-4000-8000-000000000000".parse().unwrap(),
                version => backup.server_version = version.to_owned(),
            }
        }
        self.backups.push(backup);
        self.backup_states.push(state);
    }

    pub(in crate::recovery) fn backup_named(&self, name: &str) -> BackupId {
        let found = self.backups.iter().find(|backup| backup.name == name);
        found.map_or_else(|| "39999999-0000-4000-8000-000000000000".parse().unwrap(), |backup| backup.id)
    }

    /// Reads `time 12.5`, `gtid 3`, `before-gtid 3`, `position F:P`, `before-position F:P`, `latest`, `backup NAME`,
    /// each with `timeline N`, `base NAME`, `skip 2,3` behind it.
    pub(in crate::recovery) fn target(&self, text: &str) -> RecoveryTarget {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (point, mut rest) = match words.as_slice() {
            ["time", seconds, rest @ ..] => {
                let millis = (seconds.parse::<f64>().unwrap() * 1000.0).round();
                #[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
                let time = Timestamp::from_millisecond(EPOCH * 1000 + millis as i64).unwrap();
                (Point::PointInTime(time), rest)
            }
            ["gtid", gtid, rest @ ..] => (Point::Gtid(parse_gtid(gtid)), rest),
            ["before-gtid", gtid, rest @ ..] => (Point::BeforeGtid(parse_gtid(gtid)), rest),
            ["position", position, rest @ ..] => (Point::Position(position.parse().unwrap()), rest),
            ["before-position", position, rest @ ..] => (Point::BeforePosition(position.parse().unwrap()), rest),
            ["backup", name, rest @ ..] => (Point::Backup(self.backup_named(name)), rest),
            ["latest", rest @ ..] => (Point::Latest, rest),
            _ => panic!("not a target: {text}"),
        };
        let mut target = RecoveryTarget::new(point);
        while let [option, value, more @ ..] = rest {
            match *option {
                "timeline" => target.timeline = Some(Self::timeline_id(value.parse().unwrap())),
                "base" => target.base = Some(self.backup_named(value)),
                "skip" => target.skip = value.split(',').map(parse_gtid).collect(),
                _ => panic!("not an option: {option}"),
            }
            rest = more;
        }
        target
    }

    pub(in crate::recovery) fn plan(&self, target: &RecoveryTarget) -> Result<RecoveryPlan, PlanError> {
        let seconds = |seconds| Timestamp::from_second(seconds).unwrap();
        plan_recovery(
            &Facts {
                instance: self.instance,
                now: seconds(self.now),
                timelines: &self.timelines,
                backups: &self.backups,
                source: self,
                damage: &self.damage,
                resolution: Resolution::Second,
                shipped_as_of: self.shipped_as_of.map(seconds),
                server_version: &self.server_version,
                program_version: &self.program_version,
                free_disk_bytes: self.free_disk_bytes,
                busy: self.busy.as_deref(),
                rates: Rates::default(),
            },
            target,
        )
    }

    /// What an agent that carries the plan out replays.
    pub(in crate::recovery) fn replayed(&self, plan: &RecoveryPlan) -> Vec<Gtid> {
        let skipped: BTreeSet<Gtid> = plan.skipped.iter().copied().collect();
        let mut replayed = Vec::new();
        for piece in &plan.chunks {
            let within =
                |t: &&Transaction| t.begin >= piece.from && t.end <= piece.to && !skipped.contains(&t.gtid.unwrap());
            replayed.extend(self.transactions[&piece.key].iter().filter(within).filter_map(|t| t.gtid));
        }
        replayed
    }

    pub(in crate::recovery) fn render(&self, plan: &RecoveryPlan) -> String {
        let name = |id: String| self.names.get(&id).cloned().unwrap_or(id);
        let replayed: Vec<String> = self.replayed(plan).iter().map(short).collect();
        let gtid = |t: &Option<crate::domain::recovery::PlannedTransaction>| {
            t.as_ref().map_or_else(|| "none".to_owned(), |t| short(&t.gtid.unwrap()))
        };
        format!(
            "{} + {}; stop {} {} +{}; last {}, next {}; gives up {}",
            name(plan.base.to_string()),
            if replayed.is_empty() { "nothing".to_owned() } else { replayed.join(" ") },
            name(plan.stop.timeline.to_string()),
            plan.stop,
            plan.stop_clock / MICROSECONDS - EPOCH,
            gtid(&plan.last_included),
            gtid(&plan.first_excluded),
            plan.given_up_transactions,
        )
    }

    /// The refusal as people read it, ids replaced by the notation's names.
    pub(in crate::recovery) fn render_refusal(&self, refusal: PlanError) -> String {
        let mut text = Error::from(refusal).message();
        for (id, name) in &self.names {
            text = text.replace(id, name);
        }
        text
    }

    pub(in crate::recovery) fn chunks_before(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Vec<Chunk> {
        let before = |chunk: &&Chunk| {
            chunk.facts.timeline == timeline && (chunk.facts.ordinal, chunk.facts.begin) < (ordinal, position)
        };
        self.chunks.iter().rev().filter(before).take(PAGE).cloned().collect()
    }

    pub(in crate::recovery) fn transactions_of(&self, chunk: &Chunk) -> Vec<Transaction> {
        self.transactions[&chunk.key].clone()
    }
}

impl ChunkSource for Catalog {
    fn chunks(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Result<Vec<Chunk>, Error> {
        assert!(i64::try_from(position).is_ok());
        let after = |chunk: &&Chunk| {
            chunk.facts.timeline == timeline && (chunk.facts.ordinal, chunk.facts.end) > (ordinal, position)
        };
        Ok(self.chunks.iter().filter(after).take(PAGE).cloned().collect())
    }

    fn transactions(&self, chunk: &Chunk) -> Result<Vec<Transaction>, Error> {
        self.reads.set(self.reads.get() + 1);
        Ok(self.transactions_of(chunk))
    }

    fn has_statements(&self, timeline: TimelineId, after: (u32, u64), to: (u32, u64)) -> Result<bool, Error> {
        let within = |facts: &ChunkFacts| {
            let end = (facts.ordinal, facts.end);
            facts.timeline == timeline && end > after && end <= to
        };
        let chunks = self.chunks.iter().filter(|chunk| within(&chunk.facts));
        Ok(chunks.flat_map(|chunk| &self.transactions[&chunk.key]).any(|transaction| transaction.as_statements))
    }

    fn holding(&self, gtid: &Gtid) -> Result<Vec<Chunk>, Error> {
        let holds = |range: &GtidRange| range.holds(gtid);
        Ok(self.chunks.iter().filter(|chunk| chunk.facts.ranges.iter().any(holds)).cloned().collect())
    }
}

/// `7` is `0-1-7`.
fn parse_gtid(text: &str) -> Gtid {
    if text.contains('-') { text.parse().unwrap() } else { format!("0-1-{text}").parse().unwrap() }
}

fn short(gtid: &Gtid) -> String {
    if gtid.stream().to_string() == "0-1" { gtid.number().to_string() } else { gtid.to_string() }
}

/// The position that a server has reached which holds exactly this.
pub(in crate::recovery) fn fold(data: &[Gtid]) -> GtidPosition {
    let mut position = GtidPosition::default();
    for gtid in data {
        position.apply(*gtid);
    }
    position
}

fn ranges(transactions: &[Transaction]) -> Vec<GtidRange> {
    let mut ranges: BTreeMap<GtidStream, (u64, u64)> = BTreeMap::new();
    for gtid in transactions.iter().filter_map(|transaction| transaction.gtid) {
        let range = ranges.entry(gtid.stream()).or_insert((gtid.number(), gtid.number()));
        range.1 = gtid.number();
    }
    let range = |(stream, (first, last))| GtidRange { stream, first, last };
    ranges.into_iter().map(range).collect()
}
