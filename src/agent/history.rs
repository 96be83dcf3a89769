//! The history of an instance, read chunk by chunk from catalog and repository.

use std::io::Read;

use crate::agent::Context;
use crate::agent::ship::index::{binlog_files, name_of};
use crate::agent::ship::tail::Tail;
use crate::binlog::event::FormatDescription;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::domain::backup::BackupEnd;
use crate::domain::chunk::Chunk;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::BinlogState;
use crate::domain::transaction::Transaction;
use crate::error::{Error, ErrorKind};
use crate::repository::chunk::ChunkHead;
use crate::repository::unhex;

/// One chunk's transactions; every byte is checked on the way.
///
/// As long as the server's own file holds the very bytes they are read there: that costs no transfer, and a host that
/// cannot decrypt what it has shipped still knows where a backup ends.
pub(crate) fn transactions(context: &Context, chunk: &Chunk) -> Result<Vec<Transaction>, Error> {
    if let Some(found) = in_own_file(context, chunk) {
        return Ok(found);
    }
    let (head, raw) = context.repository.read_chunk(&chunk.key, &chunk.facts.sha256)?;
    scan(chunk, raw, &format_of(&head)?)
}

/// `None` when the server has no such file any more, or has other bytes in it.
fn in_own_file(context: &Context, chunk: &Chunk) -> Option<Vec<Transaction>> {
    let facts = &chunk.facts;
    let instance = context.store.read(|db| db.instance(facts.instance)).ok()?;
    let files = binlog_files(&instance.server.binlog_base).ok()?;
    let path = files.iter().find(|path| name_of(path) == facts.file)?;
    let tail = Tail::behind(facts, path).ok()??;
    scan(chunk, tail.raw(facts.begin, facts.end).ok()?, tail.format.as_ref()?).ok()
}

/// Finds the transactions in a chunk's raw bytes.
fn scan(chunk: &Chunk, raw: impl Read, description: &FormatDescription) -> Result<Vec<Transaction>, Error> {
    let facts = &chunk.facts;
    let (mut events, mut scanner) = if facts.begin == 0 {
        (EventReader::begin(raw), Scanner::begin(facts.clock_before))
    } else {
        let point = ScanPoint {
            position: facts.begin,
            format: description.clone(),
            clock: facts.clock_before,
            state: BinlogState::default(),
        };
        (EventReader::resume(raw, facts.begin, description), Scanner::resume(point))
    };
    let observed_at = facts.observed_at.as_microsecond();
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
        transaction.gtid.inspect(|gtid| reached.apply(*gtid));
        clock = transaction.committed_at;
    }
    let position = place;
    let at = Coordinate { timeline: facts.timeline, ordinal: facts.ordinal, file: facts.file.clone(), position };
    Ok(BackupEnd { at, position: reached, clock })
}

/// Free bytes on the file system of `dir` or of its nearest existing parent; `None` when that cannot be told.
pub(crate) fn free_bytes(dir: &std::path::Path) -> Option<u64> {
    dir.ancestors()
        .find_map(|dir| rustix::fs::statvfs(dir).ok())
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
