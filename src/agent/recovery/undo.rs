//! Undo: the same walk backwards. The newer history is saved as a timeline of its own first, so an undo loses nothing.

use crate::agent::Context;
use crate::agent::recovery::identity::{ever_used, list_own_binlogs, make_fit_again, prove_unused};
use crate::agent::recovery::journal::{Fence, Journal};
use crate::agent::recovery::promote::{begin_timeline, new_timeline};
use crate::agent::recovery::switch::{bring_back, exchange, hold_data, inode, note_exchange, save_tail};
use crate::agent::recovery::{Walk, journal_is_gone, let_go, set_status, with_walk};
use crate::agent::ship::Shipper;
use crate::agent::supervisor::{Supervisor, place_guard, remove_guard};
use crate::clock::Deadline;
use crate::datastore::mysqld;
use crate::datastore::sql::Sql;
use crate::datastore::version::version_of;
use crate::domain::id::RecoveryId;
use crate::domain::instance::{Instance, InstanceStatus, Server};
use crate::domain::recovery::{RecoveryState, Tail};
use crate::domain::task::Task;
use crate::domain::timeline::{Branch, Origin};
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::recovery::plan::version::takes_files;
use crate::recovery::state::Event;

/// How long shipping may take to catch up while the server still serves.
const CATCH_UP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// Carries an undo on from whatever state the journal shows.
pub(crate) fn do_undo(
    context: &Context,
    shipper: &Shipper,
    supervisor: &Supervisor,
    task: &Task,
    id: RecoveryId,
) -> Result<(), Error> {
    let recovery = context.store.read(|db| db.recovery(id))?;
    if recovery.state == RecoveryState::Undone {
        return let_go(context, shipper, &recovery);
    }
    with_walk(context, shipper, task.id, &recovery, |walk| {
        context.store.write(|tx| tx.set_instance_status(walk.instance.id, InstanceStatus::Build, None))?;
        let mine = supervisor.take_over();
        let outcome = carry_on(walk);
        drop(mine);
        match &outcome {
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => {
                walk.journal.mirror(context, Some(&crate::agent::fault_of(err)))?;
                set_status(walk, None)?;
            }
            Ok(()) => {
                walk.keep_times();
                set_status(walk, None)?;
            }
        }
        outcome
    })
}

fn carry_on(walk: &mut Walk<'_>) -> Result<(), Error> {
    note_exchange(walk)?;
    loop {
        walk.context.check_stopping()?;
        match walk.journal.state {
            RecoveryState::Retained => walk.timed("fencing for the undo", fence)?,
            RecoveryState::UndoFenced => {
                if let Err(err) = walk.timed("switching back", switch_back) {
                    if err.kind() == ErrorKind::Interrupted {
                        return Err(err);
                    }
                    note_exchange(walk)?;
                    if walk.journal.state == RecoveryState::UndoFenced {
                        return give_up(walk, err);
                    }
                    logging::warn("recovery", format!("{}: {err}; the data is exchanged", walk.journal.id));
                }
            }
            RecoveryState::UndoSwitched => walk.timed("starting on the data from before", finish)?,
            RecoveryState::Planned
            | RecoveryState::Staged
            | RecoveryState::Prepared
            | RecoveryState::Replayed
            | RecoveryState::Fenced
            | RecoveryState::Switched
            | RecoveryState::Promoted
            | RecoveryState::Undone
            | RecoveryState::Aborted
            | RecoveryState::Failed
            | RecoveryState::Released => return Ok(()),
        }
    }
}

/// Stops the server and saves the end of the newer history. A failure here starts it again.
fn fence(walk: &mut Walk<'_>) -> Result<(), Error> {
    let server = walk.instance.server.clone();
    check_old_data(walk)?;
    // An earlier life of coffer may have stopped it already; then its journal knows what it found.
    let was_running = match &walk.journal.undo_fence {
        Some(fence) => fence.was_running,
        None => mysqld::is_in_use(&server.data_dir)?,
    };
    if walk.journal.undo_fence.is_none() {
        if was_running {
            walk.shipper.drain(Deadline::after(CATCH_UP_TIMEOUT))?;
        }
        // The newer history must be saved before anything is exchanged: without a store the server is not even stopped.
        walk.context.repository.check_answers()?;
        walk.journal.undo_fence = Some(Fence::begun(was_running));
        walk.save()?;
    }
    place_guard(&server, &format!("the undo of recovery {} exchanges the data\n", walk.journal.id))?;
    let fenced = (|| {
        mysqld::stop(&server)?;
        hold_data(walk)?;
        walk.journal.undo_fence = Some(save_tail(walk, was_running)?);
        walk.enter(Event::UndoFenced)
    })();
    if let Err(err) = fenced {
        if walk.context.check_stopping().is_err() {
            return Err(err);
        }
        walk.journal.undo_fence = None;
        serve_again(walk, was_running)?;
        walk.save()?;
        return Err(err);
    }
    Ok(())
}

/// What the undo brings back must be there, and must have been left by a clean stop.
fn check_old_data(walk: &Walk<'_>) -> Result<(), Error> {
    let old_dir = walk.old_dir();
    if walk.journal.old_inode.is_none() || inode(&old_dir)? != walk.journal.old_inode {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the data from before the recovery is not kept at `{}` any more", old_dir.display()),
        )
        .hint("Recover to a point on the former timeline instead; `coffer timeline` lists them."));
    }
    if walk.journal.outcome.tail != Some(Tail::Running) {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the server was dead before this recovery: its data was not left by a clean stop and cannot be brought back",
        )
        .hint(format!("It is kept for inspection at `{}` until it is released.", old_dir.display())));
    }
    check_program(walk.context, &walk.instance, &walk.journal)
}

/// Refuses an undo that can be seen to be none, before anything is queued or stopped.
pub(crate) fn check_undo(context: &Context, instance: &Instance, id: RecoveryId) -> Result<(), Error> {
    // What else may be wrong with the journal is told by whoever needs all of it.
    match Journal::load(&instance.server, id) {
        Ok(Some(journal)) => check_program(context, instance, &journal),
        _ => Ok(()),
    }
}

/// A server of another series changes the data it starts on for good, if it starts at all.
fn check_program(context: &Context, instance: &Instance, journal: &Journal) -> Result<(), Error> {
    // A program that can't be asked can't be started either, and then the start says so.
    let program = version_of(instance.datastore, &context.tools.of(instance.datastore).server).unwrap_or_default();
    let old = &journal.old_version;
    if takes_files(&program, old) {
        return Ok(());
    }
    let (id, title) = (journal.id, instance.datastore.title());
    let what = format!(
        "recovery {id} cannot be undone: the data from before it is that of {title} {old}, and the configured server \
         program is {program}, which must not be started on it"
    );
    Err(Error::new(ErrorKind::Conflict, what).hint(format!(
        "Configure the programs of {title} {old} again and restart coffer, then undo it; or recover to a point on the \
         former timeline, which `coffer timeline` lists."
    )))
}

/// Exchanges the directories back. The old data is told first which GTIDs were used since.
fn switch_back(walk: &mut Walk<'_>) -> Result<(), Error> {
    if walk.lock.is_none() {
        hold_data(walk)?;
    }
    walk.shipper.hold();
    let data_dir = walk.instance.server.data_dir.clone();
    let old_dir = walk.old_dir();
    if inode(&data_dir)? != walk.journal.old_inode {
        make_fit_again(walk, &old_dir, &ever_used(walk.context, walk.instance.id)?)?;
    }
    exchange(&data_dir, &old_dir, walk.journal.old_inode)?;
    walk.enter(Event::UndoSwitched)
}

/// Starts the server on its old data, in a timeline that continues the one the recovery left.
fn finish(walk: &mut Walk<'_>) -> Result<(), Error> {
    let server = walk.instance.server.clone();
    list_own_binlogs(walk)?;
    if walk.journal.undo_fence.is_none() {
        // An exchange back after a failed promotion: no newer history exists.
        walk.lock = None;
        if !mysqld::is_in_use(&server.data_dir)? {
            mysqld::start(walk.tools(), &server)?;
        }
        walk.shipper.resume();
        walk.enter(Event::Undone)?;
        return remove_guard(&server);
    }
    let state = ever_used(walk.context, walk.instance.id)?;
    let timeline = match walk.journal.undo_timeline.clone() {
        Some(timeline) => timeline,
        None => {
            let fence = walk.journal.fence.as_ref();
            let branch = fence.and_then(|fence| {
                Some(Branch {
                    at: fence.at.clone()?,
                    position: fence.position.clone(),
                    clock: fence.clock,
                    skipped: Vec::new(),
                })
            });
            let branch = branch.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "the journal does not say where the former history ended")
            })?;
            let timeline = new_timeline(walk, Origin::Undo(walk.journal.id), branch, state)?;
            walk.journal.undo_timeline = Some(timeline.clone());
            walk.save()?;
            timeline
        }
    };
    walk.lock = None;
    if !mysqld::is_in_use(&server.data_dir)? {
        mysqld::start(walk.tools(), &server)?;
    }
    let mut sql = Sql::connect(&mysqld::access(&server)?)?;
    prove_unused(&mut sql, walk.instance.datastore, &timeline.state_at_begin)?;
    walk.note_version();
    begin_timeline(walk, &timeline)?;
    walk.journal.outcome.undo_timeline = Some(timeline.id);
    walk.journal.outcome.undo_until = None;
    walk.shipper.resume();
    walk.context.cast_backup(walk.instance.id, "after-undo")?;
    walk.enter(Event::Undone)?;
    remove_guard(&server)
}

/// The undo failed before it exchanged anything: the server serves the recovered data again.
fn give_up(walk: &mut Walk<'_>, err: Error) -> Result<(), Error> {
    let was_running = walk.journal.undo_fence.as_ref().is_none_or(|fence| fence.was_running);
    walk.journal.undo_fence = None;
    serve_again(walk, was_running)?;
    walk.enter(Event::UndoFailed)?;
    Err(err)
}

fn serve_again(walk: &mut Walk<'_>, was_running: bool) -> Result<(), Error> {
    bring_back(walk, was_running)?;
    walk.shipper.resume();
    Ok(())
}

/// Frees the old data of a recovery: it cannot be undone any more.
pub(crate) fn do_release(context: &Context, id: RecoveryId) -> Result<(), Error> {
    let recovery = context.store.read(|db| db.recovery(id))?;
    if recovery.state == RecoveryState::Released {
        return Ok(());
    }
    let instance = context.store.read(|db| db.instance(recovery.instance))?;
    if recovery.state == RecoveryState::Undone {
        // What the undo put aside is in the repository, timeline and all.
        return remove_data(&instance.server, id);
    }
    let Some(mut journal) = Journal::load(&instance.server, id)? else {
        return Err(journal_is_gone(id));
    };
    // First the word, then the deed: data that is half removed must not look as if it could be brought back.
    journal.outcome.old_data_kept = false;
    journal.outcome.undo_until = None;
    journal.enter(context, &instance.server, Event::Released)?;
    remove_data(&instance.server, id)
}

/// Removes the data directory that a recovery or its undo put aside.
fn remove_data(server: &Server, id: RecoveryId) -> Result<(), Error> {
    for name in ["old", "new"] {
        let dir = Journal::dir(server, id).join(name);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => logging::info("recovery", format!("{id}: removed `{}`", dir.display())),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to remove", &dir, err)),
        }
    }
    Ok(())
}
