//! Fence and switch: the server stops, its last transactions are saved, the data directories change places.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::fs::{CWD, RenameFlags};

use crate::agent::recovery::Walk;
use crate::agent::recovery::identity::{ever_used, make_another};
use crate::agent::recovery::journal::Fence;
use crate::agent::recovery::outage::Outage;
use crate::agent::recovery::replay::replay_more;
use crate::agent::ship::index::binlog_files;
use crate::agent::supervisor::{place_guard, remove_guard};
use crate::clock::{self, Deadline};
use crate::datastore::mysqld::{self, DataDirLock};
use crate::domain::backup::BackupEnd;
use crate::domain::recovery::{PlannedChunk, RecoveryState, Tail};
use crate::domain::target::Point;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::recovery::state::Event;
use crate::storage::patience;

/// What the step is called, once it goes on.
const STEP: &str = "fencing";
/// How long the last binlog may take to reach the repository while the server is down. Little of it is left by then.
const TAIL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long shipping may take to catch up while the server still serves.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// Ends writes: guard, clean stop, proof that nobody has the data open, the tail of the binlog shipped.
///
/// A repository that does not answer is waited for while the server serves: before the stop, and if it goes away between
/// the stop and the end of the tail, the server comes back up first.
pub(super) fn fence(walk: &mut Walk<'_>) -> Result<(), Error> {
    let mut outage = Outage::default();
    loop {
        let was_running = match make_ready(walk) {
            Ok(was_running) => was_running,
            Err(err) => {
                outage.wait(walk, STEP, err)?;
                continue;
            }
        };
        stop(walk)?;
        let err = match end_history(walk, was_running)? {
            Ended::Saved => return walk.enter(Event::Fenced),
            Ended::StoreAway(err) => err,
        };
        let id = walk.journal.id;
        logging::warn("recovery", format!("{id}: {err}; the server serves again until the repository answers"));
        serve_again(walk, was_running)?;
        outage.wait(walk, STEP, err)?;
    }
}

/// Whether the end of the history is in the repository.
pub(super) enum Ended {
    Saved,
    /// Nothing was changed; the same can be done again.
    StoreAway(Error),
}

/// Ships what can be shipped while the server serves, and asks the store whether it is there for the rest. Returns
/// whether the server runs; `Unavailable` when the store is away.
fn make_ready(walk: &mut Walk<'_>) -> Result<bool, Error> {
    // An earlier life of coffer may have stopped it already; then its journal knows what it found.
    if let Some(fence) = &walk.journal.fence {
        return Ok(fence.was_running);
    }
    let was_running = mysqld::is_in_use(&walk.instance.server.data_dir)?;
    if was_running {
        // The less is left to ship, the shorter the server is down.
        patience::unless(&walk.cancelled, || walk.shipper.drain(Deadline::after(CATCH_UP_TIMEOUT)))?;
    }
    patience::unless(&walk.cancelled, || walk.context.repository.check_answers())?;
    walk.journal.outcome.stopped_at = Some(clock::now());
    walk.journal.fence = Some(Fence::begun(was_running));
    walk.save()?;
    Ok(was_running)
}

fn stop(walk: &mut Walk<'_>) -> Result<(), Error> {
    let server = &walk.instance.server;
    place_guard(server, &format!("recovery {} exchanges the data; coffer starts the server\n", walk.journal.id))?;
    mysqld::stop(server)?;
    hold_data(walk)
}

/// The server is down: ships what it wrote last and, if the target is the latest, replays it.
fn end_history(walk: &mut Walk<'_>, was_running: bool) -> Result<Ended, Error> {
    let files_there = !binlog_files(&walk.instance.server.binlog_base)?.is_empty();
    let fence = match save_tail(walk, was_running) {
        Ok(fence) => fence,
        Err(err) if err.kind() == ErrorKind::Unavailable => return Ok(Ended::StoreAway(err)),
        Err(err) => return Err(err),
    };
    if walk.journal.plan.target.point == Point::Latest
        && let Ended::StoreAway(err) = include_tail(walk, &fence)?
    {
        return Ok(Ended::StoreAway(err));
    }
    let is_another = walk.context.store.read(|db| db.is_unproven(walk.instance.id))?;
    walk.journal.outcome.fenced_at = fence.at.clone();
    walk.journal.outcome.fence_position = Some(fence.position.clone());
    walk.journal.outcome.tail = Some(match (was_running, files_there) {
        // What runs on a host set up anew is not the instance's past, and nothing an undo could go back to.
        _ if is_another => Tail::FilesGone,
        (true, _) => Tail::Running,
        (false, true) => Tail::FilesSurvived,
        (false, false) => Tail::FilesGone,
    });
    walk.journal.fence = Some(fence);
    Ok(Ended::Saved)
}

/// Takes the fence down again: nothing was exchanged, and the server goes on with what it has.
fn serve_again(walk: &mut Walk<'_>, was_running: bool) -> Result<(), Error> {
    bring_back(walk, was_running)?;
    walk.journal.outcome.stopped_at = None;
    walk.journal.fence = None;
    walk.save()?;
    walk.shipper.resume();
    Ok(())
}

/// Starts the server on the data it had, if it ran before.
pub(super) fn bring_back(walk: &mut Walk<'_>, was_running: bool) -> Result<(), Error> {
    walk.lock = None;
    let server = &walk.instance.server;
    if was_running && !mysqld::is_in_use(&server.data_dir)? {
        mysqld::start(walk.tools(), server)?;
    }
    remove_guard(server)
}

/// Takes the locks a server would take.
pub(super) fn hold_data(walk: &mut Walk<'_>) -> Result<(), Error> {
    let data_dir = &walk.instance.server.data_dir;
    walk.lock = Some(DataDirLock::take(data_dir)?.ok_or_else(|| {
        Error::new(ErrorKind::Conflict, format!("a server runs on `{}` though it was stopped", data_dir.display()))
            .hint("Something else starts it; stop that, then start the recovery again. Nothing was exchanged.")
    })?);
    Ok(())
}

/// Ships the end of the binlog and holds the shipper. `Unavailable` when the repository does not take it in time; what
/// was not shipped is then still in the server's files, and the server runs again if it ran before.
pub(super) fn save_tail(walk: &mut Walk<'_>, was_running: bool) -> Result<Fence, Error> {
    let shipper = walk.shipper;
    shipper.hold();
    // A server that was dead anyway is not kept down by a store that is slow.
    let limit = if was_running { TAIL_TIMEOUT } else { CATCH_UP_TIMEOUT };
    let drained = std::thread::scope(|scope| {
        let (done, outcome) = bounded(1);
        let deadline = Deadline::after(limit);
        let drain = move || drop(done.send(patience::until(deadline, || shipper.drain(deadline))));
        std::thread::Builder::new()
            .name("ship-tail".to_owned())
            .spawn_scoped(scope, drain)
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err))?;
        match outcome.recv_timeout(limit) {
            Ok(drained) => drained,
            Err(RecvTimeoutError::Timeout) => {
                // Whatever the store's driver still waits for: the server does not wait with it.
                bring_back(walk, was_running)?;
                Err(Error::new(ErrorKind::Unavailable, "the repository does not take the end of the binlog"))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::new(ErrorKind::Internal, "the thread that ships the tail has ended"))
            }
        }
    });
    let drained = match drained {
        // A dead server's files may be damaged too: what can be read of them has been shipped by then.
        Err(err) if !was_running && err.kind() != ErrorKind::Unavailable && err.kind() != ErrorKind::NoSpace => {
            logging::warn("recovery", format!("{}: the end of the binlog is not readable: {err}", walk.journal.id));
            shipper.shipped()?
        }
        drained => drained?,
    };
    Ok(Fence {
        at: drained.to,
        position: drained.position,
        clock: drained.clock,
        state: ever_used(walk.context, walk.instance.id)?,
        was_running,
    })
}

/// "Latest" means everything: what the server wrote while the recovery ran is replayed too, before the switch.
fn include_tail(walk: &mut Walk<'_>, fence: &Fence) -> Result<Ended, Error> {
    let plan = &walk.journal.plan;
    let Some(at) = fence.at.clone() else { return Ok(Ended::Saved) };
    if at.timeline != plan.stop.timeline || at.order() <= plan.stop.order() {
        return Ok(Ended::Saved);
    }
    let (ordinal, position) = plan.stop.order();
    let begin = BackupEnd { at: plan.stop.clone(), position: plan.position.clone(), clock: plan.stop_clock };
    let chunks = walk.context.store.read(|db| db.chunks_from(at.timeline, ordinal, position, 100_000))?;
    if chunks.iter().any(|chunk| chunk.facts.gap_before.is_some()) {
        return Err(Error::new(ErrorKind::Refused, "binlog was lost while the recovery ran")
            .hint("The serving database is untouched. Start the recovery again."));
    }
    let more: Vec<PlannedChunk> = chunks
        .iter()
        .map(|chunk| PlannedChunk {
            key: chunk.key.clone(),
            timeline: chunk.facts.timeline,
            ordinal: chunk.facts.ordinal,
            file: chunk.facts.file.clone(),
            begin: chunk.facts.begin,
            end: chunk.facts.end,
            sha256: chunk.facts.sha256.clone(),
            from: if chunk.facts.ordinal == ordinal { chunk.facts.begin.max(position) } else { chunk.facts.begin },
            to: chunk.facts.end,
        })
        .collect();
    if begin.position != fence.position {
        logging::info("recovery", format!("{}: replaying what came in meanwhile", walk.journal.id));
        if let Ended::StoreAway(err) = replay_more(walk, &begin, &more)? {
            return Ok(Ended::StoreAway(err));
        }
        if walk.journal.outcome.reached.as_ref() != Some(&fence.position) {
            return Err(Error::new(ErrorKind::Corrupt, "the replay of the tail did not reach its end"));
        }
    }
    let plan = &mut walk.journal.plan;
    plan.stop = at;
    plan.position = fence.position.clone();
    plan.stop_clock = fence.clock;
    Ok(Ended::Saved)
}

/// Exchanges the directories, atomically. The recovered data is made that of another server first.
pub(super) fn switch(walk: &mut Walk<'_>) -> Result<(), Error> {
    let server = walk.instance.server.clone();
    if walk.lock.is_none() {
        hold_data(walk)?;
    }
    walk.shipper.hold();
    let state = ever_used(walk.context, walk.instance.id)?;
    make_another(walk, &walk.new_dir(), &state)?;
    if walk.journal.new_inode.is_none() {
        walk.journal.old_inode = inode(&server.data_dir)?;
        walk.journal.new_inode = inode(&walk.new_dir())?;
        walk.save()?;
    }
    exchange(&server.data_dir, &walk.new_dir(), walk.journal.new_inode)?;
    walk.enter(Event::Switched)
}

/// Brings the directory with inode `wanted`, which lies at `other`, to `data_dir`; what lay there comes to `other`.
/// Does nothing when it is there already: an inode stays with its directory.
pub(super) fn exchange(data_dir: &Path, other: &Path, wanted: Option<u64>) -> Result<(), Error> {
    let here = inode(data_dir)?;
    if here.is_some() && here == wanted {
        return Ok(());
    }
    if wanted.is_none() || inode(other)? != wanted {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the directory to bring to `{}` is not at `{}`", data_dir.display(), other.display()),
        )
        .hint("Somebody moved it while the recovery ran. Nothing was exchanged; see README, \"Recovery by hand\"."));
    }
    let flags = if here.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    rustix::fs::renameat_with(CWD, other, CWD, data_dir, flags)
        .map_err(|errno| io_error(format!("unable to exchange `{}` with", other.display()), data_dir, errno.into()))?;
    durable::sync_parent(data_dir)?;
    durable::sync_parent(other)?;
    if inode(data_dir)? == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, format!("`{}` is not what it was exchanged for", data_dir.display())))
}

/// Journals an exchange that was made and not journaled: coffer was killed between the two, or the disk did not take it
/// for sure. From there on the data in place is not what the server had, and what the server had is not to be removed.
pub(super) fn note_exchange(walk: &mut Walk<'_>) -> Result<(), Error> {
    let (brought, event) = if walk.journal.state == RecoveryState::Fenced {
        (walk.journal.new_inode, Event::Switched)
    } else if walk.journal.state == RecoveryState::UndoFenced {
        (walk.journal.old_inode, Event::UndoSwitched)
    } else {
        return Ok(());
    };
    let data_dir = &walk.instance.server.data_dir;
    if brought.is_none() || inode(data_dir)? != brought {
        return Ok(());
    }
    durable::sync_parent(data_dir)?;
    durable::sync_parent(&walk.new_dir())?;
    walk.shipper.hold();
    walk.enter(event)
}

/// A directory's inode; `None` when there is none.
pub(super) fn inode(dir: &Path) -> Result<Option<u64>, Error> {
    match std::fs::symlink_metadata(dir) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(io_error("unable to look at", dir, err)),
    }
}
