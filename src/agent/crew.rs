//! Who looks after the instances: for each an agent thread, a shipper thread and, if coffer runs the server, a
//! supervisor thread; for all of them a keeper. Threads are named, owned here, and end when their channel does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::agent::keeper::Keeper;
use crate::agent::ship::Shipper;
use crate::agent::supervisor::{Supervisor, guard_path};
use crate::agent::{Context, backup, instances, recovery, verify};
use crate::domain::id::InstanceId;
use crate::domain::recovery::RecoveryState;
use crate::domain::task::{Task, TaskKind};
use crate::error::{Error, ErrorKind};
use crate::logging;

/// How often a worker that waits for an agent looks whether the appliance stops.
const POLL: Duration = Duration::from_millis(100);

/// A task cast to an agent, and where its outcome goes.
struct Call {
    task: Task,
    answer: Sender<Result<(), Error>>,
}

/// What stands behind one instance.
struct Post {
    shipper: Arc<Shipper>,
    calls: Sender<Call>,
    /// Dropping these ends shipper and supervisor.
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// All agents.
pub(crate) struct Crew {
    context: Arc<Context>,
    posts: Mutex<BTreeMap<InstanceId, Post>>,
    keeper: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Crew {
    pub(crate) fn new(context: Arc<Context>) -> Crew {
        Crew { context, posts: Mutex::new(BTreeMap::new()), keeper: Mutex::new(None) }
    }

    /// Posts an agent to every instance in the store.
    pub(crate) fn start(&self) -> Result<(), Error> {
        for instance in self.context.store.read(|db| db.instances())? {
            self.post(instance.id)?;
            self.carry_on_recovery(instance.id)?;
        }
        let keeper = Keeper::new(&self.context);
        let (stop, stopped) = bounded::<()>(0);
        let thread = spawn("keep".to_owned(), move || keeper.run(&stopped))?;
        *self.keeper.lock().map_err(|_| gone())? = Some((stop, thread));
        Ok(())
    }

    /// A recovery whose task has failed between two states has no task any more; a start of coffer tries it again.
    fn carry_on_recovery(&self, id: InstanceId) -> Result<(), Error> {
        let Some(recovery) = self.context.store.read(|db| db.unsettled_recovery(id))? else { return Ok(()) };
        let kind = match recovery.state {
            RecoveryState::UndoFenced | RecoveryState::UndoSwitched => TaskKind::UndoRecovery { recovery: recovery.id },
            _ => TaskKind::Recover { recovery: recovery.id },
        };
        let unfinished = self.context.store.read(|db| db.unfinished_tasks(id))?;
        if recovery.paused || unfinished.iter().any(|task| task.kind == kind) {
            return Ok(());
        }
        self.context.store.write(|tx| tx.insert_task(id, &kind).map(drop))
    }

    /// The shipper of an instance, posting its agent if it is new.
    pub(crate) fn shipper(&self, id: InstanceId) -> Result<Arc<Shipper>, Error> {
        self.post(id)?;
        self.with_post(id, |post| Arc::clone(&post.shipper))
    }

    /// Hands the task to its instance's agent and waits for the outcome. `Interrupted` when the appliance stops first.
    pub(crate) fn carry_out(&self, task: &Task) -> Result<(), Error> {
        match self.post(task.instance) {
            // Deleted in an earlier life, which did not live to say so, or while this task gave way to that.
            Err(err) if err.kind() == ErrorKind::NotFound && is_done_by_a_deletion(&task.kind) => return Ok(()),
            posted => posted?,
        }
        let calls = self.with_post(task.instance, |post| post.calls.clone())?;
        let (answer, outcome) = bounded(1);
        calls.send(Call { task: task.clone(), answer }).map_err(|_| gone())?;
        // The agent ends when nobody can cast to it any more; whoever dismisses it waits for that.
        drop(calls);
        let outcome = loop {
            match outcome.recv_timeout(POLL) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(Error::new(ErrorKind::Internal, "the agent failed without a word; see the log"));
                }
            }
        };
        if outcome.is_ok() && task.kind == TaskKind::DeleteInstance {
            self.dismiss(task.instance);
        }
        outcome
    }

    /// Ends every agent. Running tasks notice `stopping` and return.
    pub(crate) fn stop(&self) {
        let keeper = self.keeper.lock().ok().and_then(|mut keeper| keeper.take());
        if let Some((stop, thread)) = keeper {
            drop(stop);
            join(thread);
        }
        let posts = match self.posts.lock() {
            Ok(mut posts) => std::mem::take(&mut *posts),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        for (_, post) in posts {
            end(post);
        }
    }

    fn dismiss(&self, id: InstanceId) {
        let post = self.posts.lock().ok().and_then(|mut posts| posts.remove(&id));
        if let Some(post) = post {
            end(post);
        }
    }

    fn with_post<T>(&self, id: InstanceId, read: impl FnOnce(&Post) -> T) -> Result<T, Error> {
        let posts = self.posts.lock().map_err(|_| gone())?;
        posts.get(&id).map(read).ok_or_else(gone)
    }

    fn post(&self, id: InstanceId) -> Result<(), Error> {
        // The row must exist: an agent without an instance would ship nothing for ever.
        let instance = self.context.store.read(|db| db.instance(id))?;
        let mut posts = self.posts.lock().map_err(|_| gone())?;
        if posts.contains_key(&id) {
            return Ok(());
        }
        let shipper = Arc::new(Shipper::new(&self.context, id));
        if guard_path(&instance.server).exists() {
            // A recovery was interrupted between two histories; it lets the shipper go when it has settled which.
            shipper.hold();
        }
        let supervisor = Arc::new(Supervisor::new(&self.context, id));
        let (calls, inbox) = bounded::<Call>(4);
        let (stop_shipper, shipper_stopped) = bounded::<()>(0);
        let (stop_watch, watch_stopped) = bounded::<()>(0);
        let (stop_supervisor, supervisor_stopped) = bounded::<()>(0);
        let short = id.to_string().chars().take(8).collect::<String>();
        let threads = vec![
            spawn(format!("agent-{short}"), {
                let agent = Agent {
                    context: Arc::clone(&self.context),
                    shipper: Arc::clone(&shipper),
                    supervisor: Arc::clone(&supervisor),
                };
                move || agent.run(&inbox)
            })?,
            spawn(format!("ship-{short}"), {
                let shipper = Arc::clone(&shipper);
                move || shipper.run(&shipper_stopped)
            })?,
            spawn(format!("lag-{short}"), {
                let shipper = Arc::clone(&shipper);
                move || shipper.watch(&watch_stopped)
            })?,
            spawn(format!("watch-{short}"), {
                let supervisor = Arc::clone(&supervisor);
                move || supervisor.run(&supervisor_stopped)
            })?,
        ];
        posts.insert(id, Post { shipper, calls, stops: vec![stop_shipper, stop_watch, stop_supervisor], threads });
        Ok(())
    }
}

fn is_done_by_a_deletion(kind: &TaskKind) -> bool {
    *kind == TaskKind::DeleteInstance || kind.gives_way()
}

fn end(post: Post) {
    let Post { calls, stops, threads, .. } = post;
    drop(calls);
    drop(stops);
    threads.into_iter().for_each(join);
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or("thread").to_owned();
    if thread.join().is_err() {
        logging::error("agent", format!("{name} panicked"));
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|err| Error::new(ErrorKind::Internal, "unable to start a thread").with_source(err))
}

fn gone() -> Error {
    Error::new(ErrorKind::Interrupted, "the appliance is stopping; the task goes on at its next start")
}

/// The guest agent of one instance.
struct Agent {
    context: Arc<Context>,
    shipper: Arc<Shipper>,
    supervisor: Arc<Supervisor>,
}

impl Agent {
    fn run(&self, inbox: &Receiver<Call>) {
        while let Ok(call) = inbox.recv() {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.carry_out(&call.task)))
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the agent panicked; see the log")));
            // A worker that no longer listens finds the outcome in the rows.
            let _ = call.answer.send(outcome);
        }
    }

    fn carry_out(&self, task: &Task) -> Result<(), Error> {
        let context = &self.context;
        match &task.kind {
            TaskKind::CreateInstance => instances::create(context, &self.supervisor, &self.shipper, task),
            TaskKind::AdoptInstance => instances::adopt(context, &self.shipper, task),
            TaskKind::DeleteInstance => instances::delete(context, &self.supervisor, &self.shipper, task),
            TaskKind::RestartInstance => instances::restart(context, &self.supervisor, task),
            TaskKind::CreateBackup { backup } => backup::do_backup(context, &self.shipper, task.id, *backup),
            TaskKind::DeleteBackup { backup } => backup::delete_backup(context, *backup),
            TaskKind::Recover { recovery } => {
                recovery::do_recovery(context, &self.shipper, &self.supervisor, task, *recovery)
            }
            TaskKind::UndoRecovery { recovery } => {
                recovery::do_undo(context, &self.shipper, &self.supervisor, task, *recovery)
            }
            TaskKind::ReleaseRecovery { recovery } => recovery::do_release(context, *recovery),
            TaskKind::VerifyBackup { .. } | TaskKind::VerifyInstance { .. } => verify::do_verify(context, task),
        }
    }
}
