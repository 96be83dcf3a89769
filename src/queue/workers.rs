//! The threads that carry tasks out.
//!
//! A task that returns `Interrupted` waits again in its old place, one that returns `Busy` behind all others: it gives
//! way. One that fails or panics is failed, and the worker lives on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};

use super::Bell;
use crate::domain::task::Task;
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::store::Store;

/// How often the table is looked at without a ring.
const POLL: Duration = Duration::from_secs(1);
const AREA: &str = "queue";

/// What carries a task out; made by the appliance from the agent.
pub(crate) type Run = Arc<dyn Fn(&Task) -> Result<(), Error> + Send + Sync>;

/// The running workers. Dropping them without `stop` waits for their tasks.
pub(crate) struct Workers {
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Workers {
    /// Starts `count` workers. Tasks a former coffer left running are to be settled before (`Tx::settle_tasks`).
    pub(crate) fn start(store: &Store, bell: &Bell, count: usize, run: Run) -> Result<Workers, Error> {
        let (stop, stopped) = bounded(0);
        let (alive, ended) = bounded(0);
        let mut workers = Workers { stop: Some(stop), threads: Vec::new(), ended };
        for number in 1..=count.max(1) {
            let worker =
                Worker { store: store.clone(), bell: bell.clone(), stopped: stopped.clone(), run: Arc::clone(&run) };
            let alive: Sender<()> = alive.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn(move || {
                    worker.work();
                    // The last one that is dropped tells `stop` that all have ended.
                    drop(alive);
                })
                .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a worker").with_source(err))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// No task is claimed any more; waits for the running ones, at most `limit`. Whether all have ended.
    ///
    /// The caller tells the running tasks first, by whatever flag they look at; a task that can't end in time stays
    /// RUNNING in the table and is settled at the next start.
    pub(crate) fn stop(mut self, limit: Duration) -> bool {
        self.stop = None;
        let all_ended = matches!(self.ended.recv_timeout(limit), Err(RecvTimeoutError::Disconnected));
        let threads = std::mem::take(&mut self.threads);
        if all_ended {
            for thread in threads {
                let _ = thread.join();
            }
        }
        all_ended
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Worker {
    store: Store,
    bell: Bell,
    stopped: Receiver<()>,
    run: Run,
}

impl Worker {
    fn work(&self) {
        // The last error that kept tasks from being claimed: said once, not every second.
        let mut said = String::new();
        while !self.is_stopped() {
            match self.claim() {
                Ok(Some(task)) => {
                    // There may be more for the others; they wake while this one works.
                    self.bell.ring();
                    self.carry_out(&task);
                }
                Ok(None) => {
                    said.clear();
                    self.wait(&self.bell.heard);
                }
                Err(err) => {
                    let message = err.to_string();
                    if message != said {
                        logging::error(AREA, format!("no task can be claimed: {message}"));
                        said = message;
                    }
                    self.wait(&never());
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Sleeps until the bell rings, the workers are stopped or a poll is due.
    fn wait(&self, bell: &Receiver<()>) {
        select! {
            recv(bell) -> _ => {}
            recv(self.stopped) -> _ => {}
            default(POLL) => {}
        }
    }

    fn claim(&self) -> Result<Option<Task>, Error> {
        // An idle appliance only reads.
        if !self.store.read(|db| db.has_claimable_task())? {
            return Ok(None);
        }
        self.store.write(|tx| tx.claim_task())
    }

    fn carry_out(&self, task: &Task) {
        let _instance = logging::id("instance", task.instance);
        let _task = logging::id("task", task.id);
        logging::info(AREA, format!("begins to {}, attempt {}", task.kind, task.attempts));
        let result = catch_unwind(AssertUnwindSafe(|| (self.run)(task))).unwrap_or_else(|panic| {
            Err(Error::new(ErrorKind::Internal, format!("the task panicked: {}", panic_text(panic.as_ref())))
                .hint("This is a fault of coffer's: please report it with the log."))
        });
        match &result {
            Ok(()) => logging::info(AREA, "done"),
            Err(err) if err.kind() == ErrorKind::Interrupted => logging::info(AREA, format!("interrupted: {err}")),
            Err(err) if err.kind() == ErrorKind::Busy => logging::info(AREA, format!("gives way: {err}")),
            Err(err) => logging::error(AREA, format!("failed: {err}")),
        }
        self.record(task, &result);
        if matches!(&result, Err(err) if err.kind() == ErrorKind::Interrupted) {
            // Coffer is ending, so `stop` is about to be called; claiming the task again till then would be a busy loop.
            self.wait(&never());
        }
    }

    /// Writes how a task ended, again and again while the state can't be written: until then its instance is blocked,
    /// and a task that is done must not be begun a second time.
    fn record(&self, task: &Task, result: &Result<(), Error>) {
        let mut said = false;
        loop {
            let written = self.store.write(|tx| match result {
                Ok(()) => tx.finish_task(task.id, Ok(())),
                Err(err) if err.kind() == ErrorKind::Interrupted => tx.requeue(task.id),
                Err(err) if err.kind() == ErrorKind::Busy => tx.defer(task.id),
                Err(err) => tx.finish_task(task.id, Err(err.to_string())),
            });
            match written {
                Ok(()) => return,
                // Somebody else has settled it, or it is gone; a repeat can't help.
                Err(err) if matches!(err.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                    logging::warn(AREA, format!("the end of the task was not recorded: {err}"));
                    return;
                }
                Err(err) => {
                    if !said {
                        logging::error(AREA, format!("the end of the task can't be recorded yet: {err}"));
                        said = true;
                    }
                }
            }
            if self.is_stopped() {
                return;
            }
            self.wait(&never());
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::Deadline;
    use crate::domain::id::InstanceId;
    use crate::domain::task::{TaskKind, TaskState};
    use crate::testing::TempDir;

    fn open() -> (TempDir, Store, Bell) {
        let dir = TempDir::new();
        let store = Store::open(&dir).unwrap();
        (dir, store, Bell::new())
    }

    fn cast(store: &Store, bell: &Bell, instance: InstanceId) -> Task {
        let task = store.write(|tx| tx.insert_task(instance, &TaskKind::RestartInstance)).unwrap();
        bell.ring();
        task
    }

    fn wait_for(store: &Store, task: &Task, state: TaskState) -> Task {
        let deadline = Deadline::after(Duration::from_secs(20));
        loop {
            let now = store.read(|db| db.task(task.id)).unwrap();
            if now.state == state {
                return now;
            }
            assert!(!deadline.has_passed(), "{now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn tasks_of_an_instance_run_one_by_one_in_order_and_those_of_others_beside_them() {
        let (_dir, store, bell) = open();
        let (shop, other) = (InstanceId::random(), InstanceId::random());
        let ran = Arc::new(Mutex::new(Vec::new()));
        let (go, gate) = bounded::<()>(0);
        let run: Run = {
            let ran = Arc::clone(&ran);
            Arc::new(move |task: &Task| {
                if task.instance == shop {
                    gate.recv().unwrap();
                }
                ran.lock().unwrap().push(task.id);
                Ok(())
            })
        };
        let first = cast(&store, &bell, shop);
        let second = cast(&store, &bell, shop);
        let beside = cast(&store, &bell, other);
        let workers = Workers::start(&store, &bell, 2, run).unwrap();
        wait_for(&store, &beside, TaskState::Done);
        assert_eq!(store.read(|db| db.task(second.id)).unwrap().state, TaskState::Queued);
        go.send(()).unwrap();
        go.send(()).unwrap();
        wait_for(&store, &second, TaskState::Done);
        assert_eq!(*ran.lock().unwrap(), [beside.id, first.id, second.id]);
        assert!(workers.stop(Duration::from_secs(10)));
    }

    #[test]
    fn a_task_that_gives_way_goes_on_behind_those_that_wait() {
        let (_dir, store, bell) = open();
        let shop = InstanceId::random();
        let ran = Arc::new(Mutex::new(Vec::new()));
        let run: Run = {
            let ran = Arc::clone(&ran);
            Arc::new(move |task: &Task| {
                let mut ran = ran.lock().unwrap();
                ran.push(task.id);
                match ran.len() {
                    1 => Err(Error::new(ErrorKind::Busy, "something else waits")),
                    _ => Ok(()),
                }
            })
        };
        let tasks: Vec<Task> = (0..3).map(|_| cast(&store, &bell, shop)).collect();
        let workers = Workers::start(&store, &bell, 1, run).unwrap();
        wait_for(&store, &tasks[0], TaskState::Done);
        assert_eq!(*ran.lock().unwrap(), [tasks[0].id, tasks[1].id, tasks[2].id, tasks[0].id]);
        let later = cast(&store, &bell, shop);
        wait_for(&store, &later, TaskState::Done);
        drop(workers);
    }

    #[test]
    fn a_panicking_task_fails_and_the_worker_lives_on() {
        let (_dir, store, bell) = open();
        let first = AtomicBool::new(true);
        let run: Run = Arc::new(move |_| {
            assert!(!first.swap(false, Ordering::Relaxed), "boom {}", 7);
            Ok(())
        });
        let workers = Workers::start(&store, &bell, 1, run).unwrap();
        let shop = InstanceId::random();
        let bad = cast(&store, &bell, shop);
        let good = cast(&store, &bell, shop);
        let failed = wait_for(&store, &bad, TaskState::Failed);
        let error = failed.error.unwrap();
        assert!(error.starts_with("the task panicked: boom 7. This is a fault"), "{error}");
        wait_for(&store, &good, TaskState::Done);
        assert!(workers.stop(Duration::from_secs(10)));
    }

    #[test]
    fn a_failure_is_kept_with_its_hint() {
        let (_dir, store, bell) = open();
        let run: Run = Arc::new(|_| Err(Error::new(ErrorKind::NoSpace, "no room").hint("Make some.")));
        let workers = Workers::start(&store, &bell, 1, run).unwrap();
        let task = cast(&store, &bell, InstanceId::random());
        assert_eq!(wait_for(&store, &task, TaskState::Failed).error.as_deref(), Some("no room. Make some."));
        drop(workers);
    }

    #[test]
    fn an_interrupted_task_waits_for_the_next_start_and_nothing_new_begins() {
        let (_dir, store, bell) = open();
        let stopping = Arc::new(AtomicBool::new(false));
        let run: Run = {
            let stopping = Arc::clone(&stopping);
            Arc::new(move |_| {
                while !stopping.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Error::new(ErrorKind::Interrupted, "coffer is ending"))
            })
        };
        let shop = InstanceId::random();
        let first = cast(&store, &bell, shop);
        let second = cast(&store, &bell, shop);
        let workers = Workers::start(&store, &bell, 2, run).unwrap();
        wait_for(&store, &first, TaskState::Running);
        stopping.store(true, Ordering::Release);
        assert!(workers.stop(Duration::from_secs(10)));
        let left = store.read(|db| db.task(second.id)).unwrap();
        assert_eq!((left.state, left.attempts), (TaskState::Queued, 0), "the first came back before it");
        assert_eq!(store.read(|db| db.task(first.id)).unwrap().state, TaskState::Queued);

        let workers = Workers::start(&store, &bell, 2, Arc::new(|_| Ok(()))).unwrap();
        wait_for(&store, &second, TaskState::Done);
        drop(workers);
        assert_eq!(store.read(|db| db.task(first.id)).unwrap().attempts, 2);
    }

    #[test]
    fn stop_does_not_wait_for_ever() {
        let (_dir, store, bell) = open();
        let (go, gate) = bounded::<()>(0);
        let run: Run = Arc::new(move |_| {
            let _ = gate.recv();
            Ok(())
        });
        let task = cast(&store, &bell, InstanceId::random());
        let workers = Workers::start(&store, &bell, 1, run).unwrap();
        wait_for(&store, &task, TaskState::Running);
        assert!(!workers.stop(Duration::from_millis(50)));
        go.send(()).unwrap();
        wait_for(&store, &task, TaskState::Done);
    }
}
