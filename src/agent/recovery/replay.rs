//! Replay: relay logs with exactly the planned transactions, run by the server's own applier, the reached place compared
//! with the planned one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use crate::agent::history::place_in_chunk;
use crate::agent::recovery::Walk;
use crate::agent::recovery::outage::patiently;
use crate::agent::recovery::relay_logs::{RelayLogs, write_relay_logs};
use crate::agent::recovery::stage::{REPLAY_BEGUN, begins_anew};
use crate::agent::recovery::switch::Ended;
use crate::binlog::scheduled::{EventStatus, EventStatuses};
use crate::datastore::mariadb::{self, remove_tool_files};
use crate::datastore::replay::{self as applier, Replayed, ScheduledEvent};
use crate::datastore::scratch::{self, ScratchSettings};
use crate::domain::backup::{BackupEnd, Strategy};
use crate::domain::chunk::Chunk;
use crate::domain::coordinate::BinlogPosition;
use crate::domain::recovery::PlannedChunk;
use crate::domain::task::ProgressUnit;
use crate::error::{Error, ErrorKind, io_error};
use crate::recovery::state::Event;

/// What the step is called, once it goes on.
const STEP: &str = "replaying";

/// Replays the plan on the prepared data.
pub(super) fn replay(walk: &mut Walk<'_>) -> Result<(), Error> {
    scratch::discard_leftover(&walk.dir())?;
    if walk.dir().join(REPLAY_BEGUN).exists() {
        return walk.enter(Event::StartedOver);
    }
    // A store that is away is waited for before anything is changed that a restart of coffer would begin anew.
    patiently(walk, STEP, || walk.context.repository.check_answers())?;
    let begin = patiently(walk, STEP, || real_begin(walk))?;
    begins_anew(walk, REPLAY_BEGUN)?;
    let plan = walk.journal.plan.clone();
    let chunks: Vec<PlannedChunk> = plan.chunks.iter().filter_map(|chunk| behind(chunk, &begin)).collect();
    let relay =
        make_ready(walk, &begin, &chunks, true, || patiently(walk, STEP, || write_relay_logs(walk, &begin, &chunks)))?;
    if relay.replay.end != plan.position {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the planned chunks lead to `{}` and not to `{}` as planned", relay.replay.end, plan.position),
        )
        .hint("The serving database is untouched. Make a new plan."));
    }
    if begin == plan.base_end && relay.transactions != plan.transactions {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "the planned chunks hold {} transactions and not {} as planned",
                relay.transactions, plan.transactions
            ),
        )
        .hint("The serving database is untouched. Make a new plan."));
    }
    walk.journal.outcome.replayed_transactions = 0;
    run(walk, &relay)?;
    clean_up(walk)?;
    walk.enter(Event::Replayed)
}

/// Replays more transactions onto data that was replayed before (what the server wrote while the recovery ran). The
/// server is down meanwhile, so a repository that does not answer is not waited for.
pub(super) fn replay_more(walk: &mut Walk<'_>, begin: &BackupEnd, chunks: &[PlannedChunk]) -> Result<Ended, Error> {
    let mut store_away = None;
    let relay = make_ready(walk, begin, chunks, false, || {
        write_relay_logs(walk, begin, chunks).inspect_err(|err| {
            // Told apart here from a scratch server that does not answer.
            store_away = (err.kind() == ErrorKind::Unavailable).then(|| Error::new(err.kind(), err.message()));
        })
    });
    let relay = match (relay, store_away) {
        (Err(_), Some(err)) => return Ok(Ended::StoreAway(err)),
        (relay, _) => relay?,
    };
    run(walk, &relay)?;
    clean_up(walk)?;
    Ok(Ended::Saved)
}

/// Writes the relay logs while the scratch server makes its applier's records.
fn make_ready(
    walk: &Walk<'_>,
    begin: &BackupEnd,
    chunks: &[PlannedChunk],
    is_first: bool,
    write: impl FnOnce() -> Result<RelayLogs, Error>,
) -> Result<RelayLogs, Error> {
    if chunks.is_empty() {
        return write();
    }
    let settings = settings(walk)?;
    std::thread::scope(|scope| {
        let announced = std::thread::Builder::new()
            .name("replay-announce".to_owned())
            .spawn_scoped(scope, || applier::announce(walk.tools(), &settings, begin, is_first))
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err))?;
        let relay = write();
        announced.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a thread panicked; see the log")))?;
        relay
    })
}

/// Runs the relay logs and notes what was reached.
fn run(walk: &mut Walk<'_>, relay: &RelayLogs) -> Result<(), Error> {
    let settings = settings(walk)?;
    let prepared = RefCell::new(Vec::new());
    let reached = {
        let progress = |done: u64| walk.reporter.report("replaying", done, relay.bytes, ProgressUnit::Bytes);
        let finish = |replayed: &mut Replayed<'_>, before: &[ScheduledEvent]| {
            restore_events(replayed, &relay.events, before)?;
            *prepared.borrow_mut() = replayed.prepared_xa()?;
            Ok(())
        };
        applier::replay(walk.tools(), &settings, &relay.replay, &progress, &walk.cancelled, &finish)?
    };
    walk.journal.outcome.replayed_transactions += relay.transactions;
    walk.journal.outcome.reached = Some(reached);
    note_prepared_xa(walk, prepared.into_inner());
    Ok(())
}

/// How the scratch server of this recovery is set up.
pub(super) fn settings(walk: &Walk<'_>) -> Result<ScratchSettings, Error> {
    Ok(ScratchSettings {
        data_dir: walk.new_dir(),
        run_dir: walk.dir(),
        layout: walk.journal.layout.clone(),
        server_id: unused_server_id(walk)?,
    })
}

/// An applier skips, silently, events of its own server id: ours must be no event's.
fn unused_server_id(walk: &Walk<'_>) -> Result<u32, Error> {
    let mut used: BTreeSet<u32> = walk.journal.plan.position.domains().map(|gtid| gtid.server_id).collect();
    for timeline in walk.context.store.read(|db| db.timelines(walk.instance.id))? {
        used.extend(timeline.state_at_begin.iter().map(|gtid| gtid.server_id));
        if let Some(last) = walk.context.store.read(|db| db.last_chunk(timeline.id))? {
            used.extend(last.facts.state_after.iter().map(|gtid| gtid.server_id));
        }
    }
    (1..=u32::MAX)
        .rev()
        .find(|id| !used.contains(id))
        .ok_or_else(|| Error::new(ErrorKind::Internal, "every server id is used"))
}

/// Where the prepared data really ends. `--prepare` may roll InnoDB forward past the place recorded with the backup; a
/// replay from the recorded place would then apply transactions twice.
fn real_begin(walk: &Walk<'_>) -> Result<BackupEnd, Error> {
    let plan = &walk.journal.plan;
    let recorded = &plan.base_end;
    if plan.base_strategy != Strategy::Mariabackup {
        return Ok(recorded.clone());
    }
    let Some(found) = mariadb::innodb_binlog_position(&walk.new_dir())? else { return Ok(recorded.clone()) };
    if found.file == recorded.at.file && found.position <= recorded.at.position {
        return Ok(recorded.clone());
    }
    let timeline = recorded.at.timeline;
    let (ordinal, position) = recorded.at.order();
    let chunks = walk.context.store.read(|db| db.chunks_from(timeline, ordinal, position, 10_000))?;
    let holder = chunks.iter().find(|chunk| {
        let facts = &chunk.facts;
        facts.file == found.file && facts.begin <= found.position && found.position <= facts.end
    });
    // A name that is not among the chunks behind the backup's end is one from before it: InnoDB saw no commit since.
    let Some(chunk) = holder else { return Ok(recorded.clone()) };
    let real = place_in_chunk(walk.context, chunk, found.position)?;
    if is_stale(walk, &found, &real)? {
        return Ok(recorded.clone());
    }
    let past_stop = real.at.timeline == plan.stop.timeline && real.at.order() > plan.stop.order();
    if past_stop {
        return Err(Error::new(
            ErrorKind::Refused,
            format!("the prepared backup holds transactions up to {}, past the target {}", real.at, plan.stop),
        )
        .hint("Choose an older backup with --backup, or a target after this one's end. The server is untouched."));
    }
    crate::logging::info(
        "recovery",
        format!("{}: the prepared data ends at {}, not at {} as recorded", walk.journal.id, real.at, recorded.at),
    );
    Ok(real)
}

/// Whether InnoDB's record tells of an earlier history. It is written with each commit and stays in the data across a
/// recovery, while the file names begin again: until the first commit of a new timeline it still names a place in an
/// older one. A record that could be one of those is not believed, nor one of a commit after the backup had ended.
fn is_stale(walk: &Walk<'_>, found: &BinlogPosition, real: &BackupEnd) -> Result<bool, Error> {
    let plan = &walk.journal.plan;
    let manifest = walk.context.repository.read_manifest(plan.instance, plan.base)?;
    if real.at.position != found.position || real.clock > manifest.completed_at.as_microsecond() {
        return Ok(true);
    }
    for timeline in walk.context.store.read(|db| db.timelines(plan.instance))? {
        if timeline.id == real.at.timeline {
            continue;
        }
        let reaches = |chunk: &Chunk| chunk.facts.file == found.file && chunk.facts.end >= found.position;
        let mut from = (0, 0);
        loop {
            let page = walk.context.store.read(|db| db.chunks_from(timeline.id, from.0, from.1, 1000))?;
            if page.iter().any(reaches) {
                return Ok(true);
            }
            let Some(last) = page.last() else { break };
            from = (last.facts.ordinal, last.facts.end);
        }
    }
    Ok(false)
}

/// The part of a planned chunk that lies behind what the data holds already.
fn behind(chunk: &PlannedChunk, begin: &BackupEnd) -> Option<PlannedChunk> {
    if chunk.timeline != begin.at.timeline {
        return Some(chunk.clone());
    }
    if (chunk.ordinal, chunk.to) <= begin.at.order() {
        return None;
    }
    let mut chunk = chunk.clone();
    if chunk.ordinal == begin.at.ordinal {
        chunk.from = chunk.from.max(begin.at.position);
    }
    Some(chunk)
}

/// An applier disables every event that it creates or alters; they get back what they were on the server.
fn restore_events(replayed: &mut Replayed<'_>, events: &EventStatuses, before: &[ScheduledEvent]) -> Result<(), Error> {
    for (event, status) in events.iter() {
        let status = match status {
            EventStatus::Enabled => "ENABLED",
            EventStatus::Disabled => "DISABLED",
            EventStatus::SlavesideDisabled => continue,
            // Altered without a word on its status: it has the one it had before the replay.
            EventStatus::Unchanged(was) => {
                let known = before.iter().find(|event| event.schema == was.schema && event.name == was.name);
                known.map_or("ENABLED", |event| event.status.as_str())
            }
        };
        let (schema, name) = (event.schema.clone(), event.name.clone());
        replayed.set_event_status(&ScheduledEvent { schema, name, status: status.to_owned() })?;
    }
    Ok(())
}

/// A prepared XA transaction waits for its coordinator, and holds locks as long.
fn note_prepared_xa(walk: &mut Walk<'_>, prepared: Vec<String>) {
    if !prepared.is_empty() {
        let (id, count, ids) = (walk.journal.id, prepared.len(), prepared.join(", "));
        crate::logging::warn("recovery", format!("{id}: {count} XA transactions are prepared: {ids}"));
    }
    walk.journal.outcome.prepared_xa = prepared;
}

/// Leaves nothing of tools and replay in the data, and everything of it on disk.
fn clean_up(walk: &Walk<'_>) -> Result<(), Error> {
    let new_dir = walk.new_dir();
    remove_tool_files(&new_dir)?;
    for name in ["multi-master.info", "master.info", "relay-log.info"] {
        match std::fs::remove_file(new_dir.join(name)) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to remove", &new_dir.join(name), err)),
        }
    }
    for name in ["pieces", "relay"] {
        let path = walk.dir().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|err| io_error("unable to remove", &path, err))?;
        }
    }
    sync_data(&new_dir)
}

/// A scratch server ran with relaxed durability; its clean stop wrote everything, this makes it last.
pub(super) fn sync_data(dir: &Path) -> Result<(), Error> {
    let file = File::open(dir).map_err(|err| io_error("unable to open", dir, err))?;
    rustix::fs::syncfs(&file).map_err(|errno| io_error("unable to sync the file system of", dir, errno.into()))
}
