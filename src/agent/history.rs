//! The history of an instance, read from catalog and repository for whoever plans with it or looks at it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::agent::Context;
use crate::agent::crew::Crew;
use crate::binlog::event::FormatDescription;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::clock::{self, Deadline};
use crate::domain::backup::BackupEnd;
use crate::domain::chunk::Chunk;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{BinlogState, Gtid};
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::recovery::RecoveryPlan;
use crate::domain::target::RecoveryTarget;
use crate::domain::transaction::Transaction;
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::{ChunkSource, Facts, Rates, plan_recovery};
use crate::recovery::transactions::list_transactions;
use crate::recovery::{Planning, TransactionFilter, TransactionSummary};
use crate::repository::chunk::ChunkHead;
use crate::repository::unhex;

/// Chunks asked of the catalog at once.
const PAGE: usize = 1000;
/// Chunks whose transactions are kept in memory between questions of one plan.
const CHUNKS_KEPT: usize = 16;
/// How long the shipper may take to ship what is readable before a plan is made.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Reads one chunk's transactions from the repository; every byte is checked on the way.
pub(crate) fn transactions(context: &Context, chunk: &Chunk) -> Result<Vec<Transaction>, Error> {
    let facts = &chunk.facts;
    let (head, raw) = context.repository.read_chunk(&chunk.key, &facts.sha256)?;
    let description = format_of(&head)?;
    let (mut events, mut scanner) = if facts.begin == 0 {
        (EventReader::begin(raw), Scanner::begin(facts.clock_before))
    } else {
        let point = ScanPoint {
            position: facts.begin,
            format: description.clone(),
            clock: facts.clock_before,
            state: BinlogState::default(),
        };
        (EventReader::resume(raw, facts.begin, &description), Scanner::resume(point))
    };
    let observed_at = facts.observed_at.as_second();
    let mut found = Vec::new();
    loop {
        match events.next_event()? {
            Next::Event(event) => {
                if let Pushed::Transaction(transaction) = scanner.push(&event, observed_at)? {
                    found.push(transaction);
                }
            }
            Next::End => break,
            Next::Incomplete { at } => return Err(damaged(chunk, at, "it ends within an event")),
            Next::Corrupt { at, reason } => return Err(damaged(chunk, at, &reason)),
        }
    }
    if found.len() as u64 != facts.transactions {
        return Err(damaged(
            chunk,
            facts.end,
            &format!("it holds {} transactions and not {} as it says", found.len(), facts.transactions),
        ));
    }
    Ok(found)
}

/// The format description of the file a chunk is a piece of.
pub(crate) fn format_of(head: &ChunkHead) -> Result<FormatDescription, Error> {
    let raw = unhex(&head.description)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a chunk's format description is not hex"))?;
    FormatDescription::parse(&raw)
}

fn damaged(chunk: &Chunk, at: u64, reason: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("chunk `{}` is damaged at {at}: {reason}", chunk.key))
        .hint("Choose a target before this chunk, or one after a newer backup.")
}

/// The exact end of everything up to `position`, which lies in `chunk` or at its end: the last place between two
/// transactions at or before it.
pub(crate) fn place_in_chunk(context: &Context, chunk: &Chunk, position: u64) -> Result<BackupEnd, Error> {
    let facts = &chunk.facts;
    let before = context.store.read(|db| db.chunk_before(facts.timeline, facts.ordinal, facts.begin))?;
    let (mut reached, mut clock) = match (&facts.gap_before, before) {
        (Some(gap), _) => (gap.state_behind.position(), facts.clock_before),
        (None, Some(before)) => (before.facts.position_after.clone(), before.facts.clock_after()),
        (None, None) => {
            let timelines = context.store.read(|db| db.timelines(facts.instance))?;
            let timeline = timelines.iter().find(|timeline| timeline.id == facts.timeline);
            match timeline.and_then(|timeline| timeline.branch.as_ref()) {
                Some(branch) => (branch.position.clone(), branch.clock),
                None => (
                    timeline.map(|timeline| timeline.state_at_begin.position()).unwrap_or_default(),
                    facts.clock_before,
                ),
            }
        }
    };
    let mut place = position;
    for transaction in transactions(context, chunk)? {
        if transaction.end > position {
            // A position inside a transaction is no place: the one before it is.
            place = place.min(transaction.begin);
            break;
        }
        reached.apply(transaction.gtid);
        clock = transaction.committed_at;
    }
    let position = place;
    let at = Coordinate { timeline: facts.timeline, ordinal: facts.ordinal, file: facts.file.clone(), position };
    Ok(BackupEnd { at, position: reached, clock })
}

/// The planner's view of one instance's history.
struct Source<'a> {
    context: &'a Context,
    instance: InstanceId,
    /// A plan asks for the same few chunks again.
    kept: Mutex<VecDeque<(String, Vec<Transaction>)>>,
}

impl ChunkSource for Source<'_> {
    fn chunks(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Result<Vec<Chunk>, Error> {
        let mut found = Vec::new();
        let mut from = (ordinal, position);
        loop {
            let page = self.context.store.read(|db| db.chunks_from(timeline, from.0, from.1, PAGE))?;
            let full = page.len() == PAGE;
            if let Some(last) = page.last() {
                from = (last.facts.ordinal, last.facts.end);
            }
            found.extend(page);
            if !full {
                return Ok(found);
            }
        }
    }

    fn transactions(&self, chunk: &Chunk) -> Result<Vec<Transaction>, Error> {
        if let Ok(kept) = self.kept.lock()
            && let Some((_, transactions)) = kept.iter().find(|(key, _)| *key == chunk.key)
        {
            return Ok(transactions.clone());
        }
        let found = transactions(self.context, chunk)?;
        if let Ok(mut kept) = self.kept.lock() {
            kept.push_back((chunk.key.clone(), found.clone()));
            if kept.len() > CHUNKS_KEPT {
                kept.pop_front();
            }
        }
        Ok(found)
    }

    fn holding(&self, gtid: &Gtid) -> Result<Vec<Chunk>, Error> {
        self.context.store.read(|db| db.chunks_holding_gtid(self.instance, gtid))
    }
}

/// Plans for the use cases; see `recovery::Planning`.
pub(crate) struct HistoryPlanning {
    context: Arc<Context>,
    crew: Arc<Crew>,
}

impl HistoryPlanning {
    pub(crate) fn new(context: Arc<Context>, crew: Arc<Crew>) -> HistoryPlanning {
        HistoryPlanning { context, crew }
    }
}

impl Planning for HistoryPlanning {
    fn plan(&self, id: InstanceId, target: &RecoveryTarget) -> Result<RecoveryPlan, Error> {
        let shipper = self.crew.shipper(id)?;
        // What cannot be shipped now (a dead store) limits the plan; it says so by where the history ends.
        let shipped_as_of = clock::now();
        let drained = shipper.drain(Deadline::after(DRAIN_TIMEOUT));
        let instance = self.context.store.read(|db| db.instance(id))?;
        let timelines = self.context.store.read(|db| db.timelines(id))?;
        let backups = self.context.store.read(|db| db.backups(None))?;
        let source = Source { context: &self.context, instance: id, kept: Mutex::default() };
        let facts = Facts {
            instance: id,
            now: clock::now(),
            timelines: &timelines,
            backups: &backups,
            source: &source,
            server_version: &instance.version,
            free_disk_bytes: free_bytes(&instance.server.work_dir),
            busy: None,
            rates: Rates::default(),
            shipped_as_of: drained.is_ok().then_some(shipped_as_of),
        };
        let mut plan = plan_recovery(&facts, target).map_err(Error::from)?;
        if let Err(err) = drained {
            plan.warnings.push(format!("The newest transactions may not be shipped yet: {err}"));
        }
        Ok(plan)
    }

    fn transactions(&self, id: InstanceId, filter: &TransactionFilter) -> Result<Vec<TransactionSummary>, Error> {
        if let Ok(shipper) = self.crew.shipper(id) {
            // An answer without the last second is still an answer; the status says what stands in the way.
            let _ = shipper.drain(Deadline::after(std::time::Duration::from_secs(5)));
        }
        let timelines = self.context.store.read(|db| db.timelines(id))?;
        let before = |timeline: TimelineId, ordinal: u32, position: u64| {
            self.context.store.read(|db| db.chunks_back_from(timeline, ordinal, position, PAGE))
        };
        list_transactions(&timelines, filter, before, |chunk| transactions(&self.context, chunk))
    }
}

/// Free bytes on the file system of `dir` or of its nearest existing parent; `None` when that cannot be told.
pub(crate) fn free_bytes(dir: &std::path::Path) -> Option<u64> {
    dir.ancestors()
        .find_map(|dir| rustix::fs::statvfs(dir).ok())
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
