//! Promote and retain: the server starts on the recovered data, a new timeline begins, the old data is put away.

use crate::agent::recovery::Walk;
use crate::agent::recovery::identity::{ever_used, list_own_binlogs, prove_position, prove_unused, set_binlogs_aside};
use crate::agent::recovery::stage::server_owner;
use crate::agent::recovery::switch::{exchange, inode};
use crate::agent::supervisor::{guard_path, remove_guard};
use crate::clock;
use crate::datastore::mysqld;
use crate::datastore::sql::Sql;
use crate::domain::gtid::BinlogState;
use crate::domain::id::TimelineId;
use crate::domain::timeline::{Branch, Origin, Timeline};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::recovery::state::Event;

/// Starts the server, proves that it stands where the plan says, begins the new timeline.
pub(super) fn promote(walk: &mut Walk<'_>) -> Result<(), Error> {
    let state = ever_used(walk.context, walk.instance.id)?;
    let timeline = match walk.journal.timeline.clone() {
        Some(timeline) => timeline,
        None => {
            let plan = &walk.journal.plan;
            let branch = Branch {
                at: plan.stop.clone(),
                position: plan.position.clone(),
                clock: plan.stop_clock,
                skipped: plan.skipped.clone(),
            };
            let timeline = new_timeline(walk, Origin::Recovery(walk.journal.id), branch, state.clone())?;
            walk.journal.timeline = Some(timeline.clone());
            walk.save()?;
            timeline
        }
    };
    walk.lock = None;
    if let Err(err) = start_and_prove(walk, &timeline.state_at_begin) {
        if err.kind() == ErrorKind::Interrupted {
            return Err(err);
        }
        return exchange_back(walk, &err);
    }
    walk.journal.outcome.answered_at = Some(clock::now());
    walk.note_version();
    begin_timeline(walk, &timeline)?;
    walk.journal.outcome.timeline = Some(timeline.id);
    walk.shipper.resume();
    walk.enter(Event::Promoted)?;
    remove_guard(&walk.instance.server)
}

fn start_and_prove(walk: &Walk<'_>, state: &BinlogState) -> Result<(), Error> {
    let server = &walk.instance.server;
    // A killed exchange back leaves the old data in place, which may stand at the planned position too.
    if inode(&server.data_dir)? != walk.journal.new_inode {
        return Err(Error::new(ErrorKind::Corrupt, "the data directory does not hold the recovered data"));
    }
    server_owner(walk.context, &walk.instance)?.give(&server.data_dir)?;
    if !mysqld::is_in_use(&server.data_dir)? {
        set_binlogs_aside(walk)?;
        mysqld::start(walk.tools(), server)?;
    }
    let mut sql = Sql::connect(&mysqld::access(server)?)?;
    prove_position(&mut sql, &walk.journal.plan.position)?;
    prove_unused(&mut sql, walk.instance.datastore, state)
}

/// The recovered data does not come up as planned: the server gets back what it had.
fn exchange_back(walk: &mut Walk<'_>, cause: &Error) -> Result<(), Error> {
    logging::error("recovery", format!("{}: {cause}; exchanging back", walk.journal.id));
    let server = walk.instance.server.clone();
    mysqld::stop(&server)?;
    if walk.journal.old_inode.is_none() {
        return Err(Error::new(cause.kind(), cause.message())
            .context("the recovered server does not come up, and there was no data before it")
            .hint("Look at the server's error log; the recovered data is in place."));
    }
    exchange(&server.data_dir, &walk.new_dir(), walk.journal.old_inode)?;
    list_own_binlogs(walk)?;
    walk.enter(Event::UndoSwitched)?;
    let was_running = walk.journal.fence.as_ref().is_some_and(|fence| fence.was_running);
    if was_running {
        mysqld::start(walk.tools(), &server)?;
    }
    walk.shipper.resume();
    walk.enter(Event::Undone)?;
    remove_guard(&server)?;
    Err(Error::new(cause.kind(), cause.message())
        .context("the recovered data was exchanged back")
        .hint("The server runs on the data it had. The recovered data is kept beside it; choose an earlier target."))
}

/// A timeline that continues a history at `branch`.
pub(super) fn new_timeline(
    walk: &Walk<'_>,
    origin: Origin,
    branch: Branch,
    state: BinlogState,
) -> Result<Timeline, Error> {
    let timelines = walk.context.store.read(|db| db.timelines(walk.instance.id))?;
    Ok(Timeline {
        id: TimelineId::random(),
        instance: walk.instance.id,
        number: timelines.iter().map(|timeline| timeline.number).max().unwrap_or(0) + 1,
        origin,
        branch: Some(branch),
        state_at_begin: state,
        begun_at: clock::now(),
    })
}

/// Makes the timeline the current one. Its object follows as soon as the repository takes it: the shipper sees to that
/// before its first chunk, so that a store that is away does not keep a server down.
pub(super) fn begin_timeline(walk: &Walk<'_>, timeline: &Timeline) -> Result<(), Error> {
    let server = &walk.instance.server;
    let outside = !server.binlog_base.starts_with(&server.data_dir);
    let after = match (&walk.journal.undo_fence, &walk.journal.fence) {
        // Back on the old data, whose binlog files were shipped up to the fence.
        (Some(_), Some(fence)) => fence.at.as_ref().map(|at| at.file.clone()),
        (None, Some(fence)) if outside => fence.at.as_ref().map(|at| at.file.clone()),
        _ => None,
    };
    walk.context.store.write(|tx| {
        tx.insert_timeline(timeline)?;
        if let Some(after) = &after {
            tx.set_ship_after(timeline.id, after)?;
        }
        // The server runs on data that coffer has put there itself.
        tx.set_proven(walk.instance.id)
    })
}

/// Puts the old data away and casts the full backup that the new timeline needs.
pub(super) fn retain(walk: &mut Walk<'_>) -> Result<(), Error> {
    if guard_path(&walk.instance.server).exists() {
        // Only after a crash right behind the promotion: shipping is still held.
        remove_guard(&walk.instance.server)?;
        walk.shipper.resume();
    }
    let (new_dir, old_dir) = (walk.new_dir(), walk.old_dir());
    if walk.journal.old_inode.is_some() && new_dir.exists() && !old_dir.exists() {
        durable::rename(&new_dir, &old_dir)?;
    }
    for name in ["init.sql", "scratch.cnf", "scratch.out"] {
        let path = walk.dir().join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to remove", &path, err)),
        }
    }
    walk.journal.outcome.old_data_kept = old_dir.exists();
    let window = i64::try_from(walk.context.settings.undo_window.as_secs()).unwrap_or(i64::MAX);
    walk.journal.outcome.undo_until =
        clock::now().checked_add(jiff::SignedDuration::from_secs(window)).ok().filter(|_| old_dir.exists());
    if walk.journal.outcome.backup.is_none() {
        walk.journal.outcome.backup = Some(walk.context.cast_backup(walk.instance.id, "after-recovery")?);
    }
    walk.enter(Event::Retained)
}
