//! `do_recovery`: carries a recovery from whatever state its journal shows to its end.
//!
//! The steps, each in its own file: stage (fetch and unpack), prepare, replay, fence (stop and save the tail), switch
//! (exchange the directories), promote (start, new timeline), retain. Each may be repeated. Until the switch a failure
//! or an abort leaves the server on the data it had; a recovered server that does not come up where the plan says is
//! exchanged back.

mod identity;
pub(crate) mod journal;
mod load;
mod outage;
mod promote;
mod relay_logs;
mod replay;
mod stage;
mod switch;
mod undo;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

pub(crate) use undo::{check_undo, do_release, do_undo};

use crate::agent::recovery::journal::Journal;
use crate::agent::ship::Shipper;
use crate::agent::ship::index::binlog_files;
use crate::agent::supervisor::{Supervisor, guard_path, note_version, remove_guard};
use crate::agent::{Context, Reporter, fault_of, instances};
use crate::clock::{self, Stopwatch};
use crate::datastore::{Tools, mysqld, scratch};
use crate::domain::id::{RecoveryId, TaskId};
use crate::domain::instance::{Control, Fault, Instance, InstanceStatus};
use crate::domain::recovery::{Recovery, RecoveryState, StepTime};
use crate::domain::task::Task;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::recovery::state::Event;

/// How often a running step looks whether it shall end.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// A replay whose scratch server died starts over at most this often.
const RESTARTS_MAX: u32 = 3;

/// What the steps of one recovery work with.
pub(crate) struct Walk<'a> {
    pub(crate) context: &'a Context,
    pub(crate) shipper: &'a Shipper,
    pub(crate) reporter: Reporter<'a>,
    pub(crate) instance: Instance,
    pub(crate) journal: Journal,
    /// Set when the appliance stops or somebody aborts the recovery.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Held while the server is stopped, so that no other starts on either directory.
    pub(crate) lock: Option<mysqld::DataDirLock>,
}

impl Walk<'_> {
    /// The installation of the instance's datastore.
    pub(crate) fn tools(&self) -> &Tools {
        self.context.tools.of(self.instance.datastore)
    }

    /// The recovery's own directory.
    pub(crate) fn dir(&self) -> PathBuf {
        Journal::dir(&self.instance.server, self.journal.id)
    }

    /// Where the recovered data lies until the switch.
    pub(crate) fn new_dir(&self) -> PathBuf {
        self.dir().join("new")
    }

    /// Where the data from before the recovery lies after the switch.
    pub(crate) fn old_dir(&self) -> PathBuf {
        self.dir().join("old")
    }

    pub(crate) fn enter(&mut self, event: Event) -> Result<(), Error> {
        let Walk { context, instance, journal, .. } = self;
        journal.enter(context, &instance.server, event)
    }

    pub(crate) fn save(&self) -> Result<(), Error> {
        self.journal.save(self.context, &self.instance.server)
    }

    /// Keeps which server it is by now. What is not noted is asked again by the next plan.
    fn note_version(&mut self) {
        if let Err(err) = note_version(self.context, &mut self.instance) {
            logging::warn("recovery", format!("{}: unable to note the server's version: {err}", self.journal.id));
        }
    }

    /// Keeps how long the last step took: it entered its state before its own end. Only a figure, so a failure is no more
    /// than a line in the log.
    fn keep_times(&self) {
        if let Err(err) = self.save() {
            logging::warn("recovery", format!("{}: unable to note how long the steps took: {err}", self.journal.id));
        }
    }

    /// Runs one step and notes how long it took.
    fn timed(&mut self, name: &str, step: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.reporter.step(name);
        logging::info("recovery", format!("{}: {name}", self.journal.id));
        let watch = Stopwatch::start();
        // Noted before the step journals its state, so that the figure is in that journal; the time is filled in after.
        self.journal.outcome.steps.push(StepTime { step: name.to_owned(), milliseconds: 0 });
        let done = step(self);
        let milliseconds = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(last) = self.journal.outcome.steps.iter_mut().rev().find(|time| time.step == name) {
            last.milliseconds = milliseconds;
        }
        done
    }
}

/// Carries the recovery on. `Ok` when it is settled or paused; `Interrupted` when the appliance stops.
pub(crate) fn do_recovery(
    context: &Context,
    shipper: &Shipper,
    supervisor: &Supervisor,
    task: &Task,
    id: RecoveryId,
) -> Result<(), Error> {
    let recovery = context.store.read(|db| db.recovery(id))?;
    if recovery.state.is_settled() {
        return let_go(context, shipper, &recovery);
    }
    with_walk(context, shipper, task.id, &recovery, |walk| {
        context.store.write(|tx| tx.set_instance_status(walk.instance.id, InstanceStatus::Build, None))?;
        let outcome = carry_on(walk, supervisor);
        settle(walk, supervisor, outcome)
    })
}

/// A life of coffer that ended right behind the last journal entry may have left the guard and the status in place.
fn let_go(context: &Context, shipper: &Shipper, recovery: &Recovery) -> Result<(), Error> {
    let instance = context.store.read(|db| db.instance(recovery.instance))?;
    if guard_path(&instance.server).exists() {
        remove_guard(&instance.server)?;
        shipper.resume();
    }
    if instance.status == InstanceStatus::Build {
        show_status(context, &instance, None)?;
    }
    Ok(())
}

/// Loads or begins the journal and runs `body` with a watch over abort and shutdown.
fn with_walk(
    context: &Context,
    shipper: &Shipper,
    task: TaskId,
    recovery: &Recovery,
    body: impl FnOnce(&mut Walk<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let instance = context.store.read(|db| db.instance(recovery.instance))?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let journal = match Journal::load(&instance.server, recovery.id)? {
        Some(journal) => journal,
        None if recovery.state != RecoveryState::Planned => return Err(journal_is_gone(recovery.id)),
        None => match begin_journal(context, &instance, recovery) {
            Err(err) if err.kind() != ErrorKind::Interrupted => {
                // Nothing was done yet, so there is nothing to be carried on.
                let failed = Recovery { state: RecoveryState::Failed, fault: Some(fault_of(&err)), ..recovery.clone() };
                context.store.write(|tx| tx.update_recovery(&Recovery { updated_at: clock::now(), ..failed }))?;
                show_status(context, &instance, None)?;
                return Err(err);
            }
            begun => begun?,
        },
    };
    // The row may lag behind after a crash.
    journal.mirror(context, None)?;
    let mut walk = Walk {
        context,
        shipper,
        reporter: Reporter::new(&context.store, task),
        instance,
        journal,
        cancelled: Arc::clone(&cancelled),
        lock: None,
    };
    let (stop_watch, watch_stopped) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let id = recovery.id;
        let watch = std::thread::Builder::new().name("recovery-watch".to_owned()).spawn_scoped(scope, move || {
            while let Err(RecvTimeoutError::Timeout) = watch_stopped.recv_timeout(WATCH_EVERY) {
                if context.check_stopping().is_err() || abort_asked(context, id) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
        });
        let outcome = match watch {
            Ok(_) => body(&mut walk),
            Err(err) => Err(Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err)),
        };
        drop(stop_watch);
        outcome
    })
}

fn journal_is_gone(id: RecoveryId) -> Error {
    Error::new(ErrorKind::NotFound, format!("the journal of recovery {id} is gone"))
        .hint("Look into the instance's work directory before you remove anything by hand.")
}

fn begin_journal(context: &Context, instance: &Instance, recovery: &Recovery) -> Result<Journal, Error> {
    if instance.server.control == Control::Created {
        instances::make_home(&context.settings.state_dir, context.tools.of(instance.datastore), &instance.server)?;
    }
    refuse_binlogs_of_another(context, instance)?;
    let journal = Journal::new(recovery, instance.version.clone());
    let dir = Journal::dir(&instance.server, recovery.id);
    std::fs::create_dir_all(&dir).map_err(|err| io_error("unable to create", &dir, err))?;
    stage::server_owner(context, instance)?.give(&dir)?;
    stage::server_owner(context, instance)?.give(&instance.server.work_dir)?;
    crate::durable::sync_parent(&dir)?;
    journal.begin(context, &instance.server)?;
    Ok(journal)
}

/// Binlogs outside the data directory are not exchanged with it. Another server's would go on with GTIDs of its own.
fn refuse_binlogs_of_another(context: &Context, instance: &Instance) -> Result<(), Error> {
    let base = &instance.server.binlog_base;
    let is_outside = !base.starts_with(&instance.server.data_dir);
    if is_outside && context.store.read(|db| db.is_unproven(instance.id))? && !binlog_files(base)?.is_empty() {
        let message =
            format!("the binlogs `{}.*` are another server's, and outside the data directory", base.display());
        return Err(Error::new(ErrorKind::Refused, message)
            .hint("Stop that server and move them away, their index too; then recover again."));
    }
    Ok(())
}

fn abort_asked(context: &Context, id: RecoveryId) -> bool {
    context.store.read(|db| db.recovery(id)).is_ok_and(|recovery| recovery.abort_asked)
}

/// One step after the other until the recovery rests.
fn carry_on(walk: &mut Walk<'_>, supervisor: &Supervisor) -> Result<(), Error> {
    let mut mine = None;
    switch::note_exchange(walk)?;
    loop {
        // With the server down, going on is the quickest way to have it back.
        if !matches!(walk.journal.state, RecoveryState::Fenced | RecoveryState::Switched) {
            walk.context.check_stopping()?;
        }
        if walk.journal.state != RecoveryState::Switched
            && walk.journal.state != RecoveryState::Promoted
            && abort_asked(walk.context, walk.journal.id)
        {
            return Err(Error::new(ErrorKind::Conflict, "the recovery was aborted"));
        }
        if mine.is_none()
            && matches!(walk.journal.state, RecoveryState::Fenced | RecoveryState::Switched | RecoveryState::Promoted)
        {
            mine = Some(supervisor.take_over());
        }
        match walk.journal.state {
            RecoveryState::Planned => walk.timed("staging", stage::stage)?,
            RecoveryState::Staged => walk.timed("preparing", stage::prepare)?,
            RecoveryState::Prepared => match walk.timed("replaying", replay::replay) {
                Err(err) if err.kind() == ErrorKind::Unavailable => start_over(walk, &err)?,
                other => other?,
            },
            RecoveryState::Replayed => {
                if pause(walk)? {
                    return Ok(());
                }
                mine.get_or_insert_with(|| supervisor.take_over());
                walk.timed("fencing", switch::fence)?;
            }
            RecoveryState::Fenced => walk.timed("switching", switch::switch)?,
            RecoveryState::Switched => walk.timed("promoting", promote::promote)?,
            RecoveryState::Promoted => walk.timed("retaining", promote::retain)?,
            RecoveryState::Retained
            | RecoveryState::UndoFenced
            | RecoveryState::UndoSwitched
            | RecoveryState::Undone
            | RecoveryState::Aborted
            | RecoveryState::Failed
            | RecoveryState::Released => return Ok(()),
        }
    }
}

/// A scratch server that died leaves data of which nobody knows what it holds: everything is staged anew.
fn start_over(walk: &mut Walk<'_>, err: &Error) -> Result<(), Error> {
    if walk.cancelled.load(Ordering::Relaxed) || walk.journal.restarts >= RESTARTS_MAX {
        return Err(Error::new(ErrorKind::Tool, err.message())
            .context(format!("the replay failed {} times", walk.journal.restarts + 1))
            .hint("The serving database is untouched. Look at the scratch server's log beside the journal."));
    }
    logging::warn("recovery", format!("{}: {err}; starting over", walk.journal.id));
    walk.journal.restarts += 1;
    walk.enter(Event::StartedOver)
}

/// Whether the recovery rests here until somebody promotes or aborts it. A scratch server runs meanwhile, to look at.
fn pause(walk: &mut Walk<'_>) -> Result<bool, Error> {
    let recovery = walk.context.store.read(|db| db.recovery(walk.journal.id))?;
    // The one that somebody looked at works on data that is used from here on.
    scratch::stop_inspection(&walk.dir())?;
    walk.journal.outcome.inspect_socket = None;
    if !recovery.pause {
        return Ok(false);
    }
    let settings = replay::settings(walk)?;
    let socket = scratch::Scratch::start_for_inspection(walk.tools(), &settings)?;
    logging::info(
        "recovery",
        format!("{}: paused; look at the recovered data on {}", walk.journal.id, socket.display()),
    );
    walk.journal.outcome.inspect_socket = Some(socket.display().to_string());
    // Before somebody is told that it waits, the row says where to look and how long each step took.
    walk.save()?;
    walk.context.store.write(|tx| {
        let mut row = tx.recovery(walk.journal.id)?;
        row.paused = true;
        row.updated_at = clock::now();
        tx.update_recovery(&row)
    })?;
    Ok(true)
}

/// Settles rows and server after the steps have ended, well or not.
fn settle(walk: &mut Walk<'_>, supervisor: &Supervisor, outcome: Result<(), Error>) -> Result<(), Error> {
    let Err(err) = outcome else {
        walk.keep_times();
        // A paused recovery leaves the server serving as it was.
        return set_status(walk, None);
    };
    if err.kind() == ErrorKind::Interrupted && walk.context.check_stopping().is_err() {
        return Err(err);
    }
    let noted = switch::note_exchange(walk);
    match walk.journal.state {
        RecoveryState::Planned | RecoveryState::Staged | RecoveryState::Prepared | RecoveryState::Replayed => {
            give_up(walk, supervisor, &err)
        }
        RecoveryState::Fenced if noted.is_ok() => give_up(walk, supervisor, &err),
        // Which data is in place is not known: none of it is removed.
        RecoveryState::Fenced
        | RecoveryState::Switched
        | RecoveryState::Promoted
        | RecoveryState::Retained
        | RecoveryState::UndoFenced
        | RecoveryState::UndoSwitched
        | RecoveryState::Undone
        | RecoveryState::Aborted
        | RecoveryState::Failed
        | RecoveryState::Released => {
            let mut fault = fault_of(&err);
            let again = format!("`coffer recovery promote {}` tries again from where it stands.", walk.journal.id);
            fault.hint = format!("{} {again}", fault.hint).trim().to_owned();
            walk.journal.mirror(walk.context, Some(&fault))?;
            set_status(walk, Some(&err))?;
            Err(err)
        }
    }
}

/// Ends the recovery before its switch: the server gets back what it had, and what was staged is removed.
fn give_up(walk: &mut Walk<'_>, supervisor: &Supervisor, err: &Error) -> Result<(), Error> {
    let aborted = abort_asked(walk.context, walk.journal.id);
    let _mine = supervisor.take_over();
    scratch::discard_leftover(&walk.dir())?;
    walk.lock = None;
    let server = walk.instance.server.clone();
    let mut fault = fault_of(err);
    if guard_path(&server).exists() {
        let was_running = walk.journal.fence.as_ref().is_none_or(|fence| fence.was_running);
        let started = match mysqld::is_in_use(&server.data_dir) {
            Ok(false) if was_running => mysqld::start(walk.tools(), &server),
            Ok(_) => Ok(()),
            Err(err) => Err(err),
        };
        if let Err(err) = started {
            // Its data is as it was when it was stopped; whoever runs it tries again.
            fault.message = format!("{}; and the server does not come up again: {}", fault.message, err.message());
        }
        remove_guard(&server)?;
    }
    walk.shipper.resume();
    walk.journal.outcome.inspect_socket = None;
    if !aborted {
        // Ahead of the state, so that nobody ever sees a failure without its reason.
        walk.journal.mirror(walk.context, Some(&fault))?;
    }
    walk.enter(if aborted { Event::Aborted } else { Event::Failed })?;
    for name in ["new", "pieces", "relay", "dump", "own"] {
        let leftover = walk.dir().join(name);
        if leftover.exists()
            && let Err(err) = std::fs::remove_dir_all(&leftover)
        {
            logging::warn("recovery", format!("unable to remove `{}`: {err}", leftover.display()));
        }
    }
    logging::warn("recovery", format!("{}: {}; the server keeps the data it had", walk.journal.id, err.message()));
    set_status(walk, None)?;
    if aborted {
        return Ok(());
    }
    Err(Error::new(err.kind(), err.message()).hint(err.hint_text().unwrap_or("The serving database is untouched.")))
}

fn set_status(walk: &Walk<'_>, err: Option<&Error>) -> Result<(), Error> {
    show_status(walk.context, &walk.instance, err)
}

/// ACTIVE when the server answers, else ERROR with what is known.
fn show_status(context: &Context, instance: &Instance, err: Option<&Error>) -> Result<(), Error> {
    let fault = match err {
        Some(err) => Some(fault_of(err)),
        None if !mysqld::answers(&instance.server) => Some(Fault {
            message: "the server does not run".to_owned(),
            hint: format!("Bring the data back with `coffer recover {} --latest`.", instance.name),
            at: clock::now(),
        }),
        None => None,
    };
    let status = if fault.is_some() { InstanceStatus::Error } else { InstanceStatus::Active };
    context.store.write(|tx| tx.set_instance_status(instance.id, status, fault.as_ref()))
}
