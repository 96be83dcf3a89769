//! The relay logs of a recovery: one for each binlog file of its plan, written from the repository's chunks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use crossbeam_channel::{Receiver, bounded};

use crate::agent::history::format_of;
use crate::agent::recovery::Walk;
use crate::binlog::relay::RelayWriter;
use crate::binlog::scheduled::EventStatuses;
use crate::datastore::replay::Replay;
use crate::domain::backup::BackupEnd;
use crate::domain::gtid::Gtid;
use crate::domain::recovery::PlannedChunk;
use crate::error::{Error, ErrorKind, error_of, io_error};
use crate::repository::Repository;
use crate::repository::chunk::ChunkHead;
use crate::storage::patience;

/// Chunks that wait, unpacked and checked, to be written.
const WAITING_MAX: usize = 2;
/// A larger chunk (one transaction larger than a chunk should be) is unpacked while it is written.
const UNPACKED_AHEAD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What was written.
pub(super) struct RelayLogs {
    pub(super) replay: Replay,
    pub(super) transactions: u64,
    pub(super) bytes: u64,
    /// What the source's scheduled events were at the end.
    pub(super) events: EventStatuses,
}

/// A chunk on its way, in the plan's order.
type Fetched = Result<(ChunkHead, Box<dyn Read + Send>), Error>;

/// Writes the relay logs. Every byte is checked against its chunk's digest; the next chunks are unpacked meanwhile.
pub(super) fn write_relay_logs(
    walk: &Walk<'_>,
    begin: &BackupEnd,
    chunks: &[PlannedChunk],
) -> Result<RelayLogs, Error> {
    let skip: BTreeSet<Gtid> = walk.journal.plan.skipped.iter().copied().collect();
    let pieces_dir = walk.dir().join("pieces");
    if pieces_dir.exists() {
        std::fs::remove_dir_all(&pieces_dir).map_err(|err| io_error("unable to remove", &pieces_dir, err))?;
    }
    std::fs::create_dir(&pieces_dir).map_err(|err| io_error("unable to create", &pieces_dir, err))?;
    let mut logs = RelayLogs {
        replay: Replay {
            relay_logs: Vec::new(),
            skip: walk.journal.plan.skipped.clone(),
            begin: begin.position.clone(),
            applied: begin.position.clone(),
            end: begin.position.clone(),
            source_end: 0,
        },
        transactions: 0,
        bytes: 0,
        events: EventStatuses::default(),
    };
    let mut last_with_any = 0;
    std::thread::scope(|scope| {
        let (departures, arrivals) = bounded::<Fetched>(WAITING_MAX);
        let (repository, cancelled) = (&walk.context.repository, &walk.cancelled);
        std::thread::Builder::new()
            .name("replay-fetch".to_owned())
            .spawn_scoped(scope, move || {
                for chunk in chunks {
                    // Nobody receives any more once writing has failed.
                    let fetched = patience::unless(cancelled, || fetch(repository, chunk));
                    if departures.send(fetched).is_err() {
                        return;
                    }
                }
            })
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err))?;
        for file in chunks.chunk_by(|one, next| (one.timeline, one.ordinal) == (next.timeline, next.ordinal)) {
            walk.context.check_stopping()?;
            let path = pieces_dir.join(format!("{:06}", logs.replay.relay_logs.len() + 1));
            let transactions = write_relay_log(&arrivals, file, &path, &skip, &mut logs)?;
            logs.replay.relay_logs.push(path);
            if transactions > 0 {
                last_with_any = logs.replay.relay_logs.len();
            }
        }
        // What holds nothing at the end would only blur where the applier has come to.
        logs.replay.relay_logs.truncate(last_with_any);
        for gtid in &skip {
            logs.replay.applied.pass_over(*gtid);
            logs.replay.end.pass_over(*gtid);
        }
        Ok(logs)
    })
}

fn fetch(repository: &Repository, chunk: &PlannedChunk) -> Fetched {
    let (head, mut raw) = repository.read_chunk(&chunk.key, &chunk.sha256)?;
    if chunk.end - chunk.begin > UNPACKED_AHEAD_BYTES_MAX {
        return Ok((head, Box::new(raw)));
    }
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).map_err(|err| error_of(err, "unable to read a binlog chunk"))?;
    Ok((head, Box::new(Cursor::new(bytes))))
}

fn write_relay_log(
    arrivals: &Receiver<Fetched>,
    chunks: &[PlannedChunk],
    path: &Path,
    skip: &BTreeSet<Gtid>,
    logs: &mut RelayLogs,
) -> Result<u64, Error> {
    let file = File::create_new(path).map_err(|err| io_error("unable to create", path, err))?;
    let mut relay: Option<RelayWriter<File>> = None;
    let mut out = Some(file);
    for chunk in chunks {
        let (head, raw) = arrivals
            .recv()
            .map_err(|_| Error::new(ErrorKind::Internal, "the thread that fetches chunks has ended"))??;
        if relay.is_none() {
            let Some(out) = out.take() else { break };
            let begun = RelayWriter::begin(out, &format_of(&head)?)?;
            relay = Some(begun.merging().carrying(std::mem::take(&mut logs.events)));
        }
        let Some(relay) = relay.as_mut() else { break };
        // It reads the chunk to its end, where the digest is checked, even if the piece stops earlier.
        relay.piece(raw, chunk.begin, chunk.from, chunk.to, skip)?;
    }
    let Some(relay) = relay else { return Ok(0) };
    let stats = relay.finish()?;
    logs.transactions += stats.transactions;
    logs.bytes += stats.bytes;
    logs.events = stats.scheduled_events;
    logs.replay.end.merge(&stats.position);
    logs.replay.applied.merge(&stats.applied);
    if stats.transactions > 0 {
        logs.replay.source_end = stats.source_end;
    }
    Ok(stats.transactions)
}
