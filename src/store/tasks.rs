//! Rows of the queue.

use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::clock;
use crate::domain::id::{InstanceId, TaskId};
use crate::domain::task::{Progress, Task, TaskKind, TaskState};
use crate::error::{Error, ErrorKind};

/// Tasks kept per instance once they are done or failed.
const KEPT_PER_INSTANCE: i64 = 200;

pub(super) const NEXT: &str = "SELECT * FROM tasks AS task WHERE state = 'QUEUED'
    AND NOT EXISTS (SELECT 1 FROM tasks AS other WHERE other.state = 'RUNNING' AND other.instance = task.instance)
    ORDER BY sequence LIMIT 1";

impl Db<'_> {
    pub(crate) fn task(&self, id: TaskId) -> Result<Task, Error> {
        self.first("SELECT * FROM tasks WHERE id = ?1", [id.to_string()], read)?
            .ok_or_else(|| sql::not_found("task", id))
    }

    /// The tasks of an instance, the newest first, at most `limit`.
    #[cfg(test)]
    pub(crate) fn tasks(&self, instance: InstanceId, limit: usize) -> Result<Vec<Task>, Error> {
        let query = "SELECT * FROM tasks WHERE instance = ?1 ORDER BY sequence DESC LIMIT ?2";
        self.list(query, params![instance.to_string(), sql::limit(limit)], read)
    }

    /// The tasks of an instance that wait or run, the oldest first.
    pub(crate) fn unfinished_tasks(&self, instance: InstanceId) -> Result<Vec<Task>, Error> {
        let query = "SELECT * FROM tasks WHERE instance = ?1 AND state IN ('QUEUED', 'RUNNING') ORDER BY sequence";
        self.list(query, [instance.to_string()], read)
    }

    /// The tasks that wait, of all instances, the oldest first.
    pub(crate) fn queued_tasks(&self) -> Result<Vec<Task>, Error> {
        self.list("SELECT * FROM tasks WHERE state = 'QUEUED' ORDER BY sequence", [], read)
    }

    /// Whether `claim_task` would find one. A look costs no write transaction.
    pub(crate) fn has_claimable_task(&self) -> Result<bool, Error> {
        Ok(self.first(NEXT, [], |_| Ok(()))?.is_some())
    }
}

impl Tx<'_> {
    /// Puts a task at the end of the queue.
    pub(crate) fn insert_task(&self, instance: InstanceId, kind: &TaskKind) -> Result<Task, Error> {
        let now = clock::now();
        let task = Task {
            id: TaskId::random(),
            instance,
            kind: kind.clone(),
            state: TaskState::Queued,
            attempts: 0,
            progress: Progress::default(),
            error: None,
            created_at: now,
            updated_at: now,
        };
        self.execute(
            "INSERT INTO tasks (id, instance, kind, state, attempts, progress, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?6)",
            params![
                task.id.to_string(),
                task.instance.to_string(),
                sql::to_json(&task.kind)?,
                sql::word(&task.state)?,
                sql::to_json(&task.progress)?,
                sql::nanoseconds(now),
            ],
        )?;
        Ok(task)
    }

    /// Takes the oldest waiting task whose instance has none running, and counts the attempt.
    pub(crate) fn claim_task(&self) -> Result<Option<Task>, Error> {
        let Some(task) = self.first(NEXT, [], read)? else { return Ok(None) };
        self.execute(
            "UPDATE tasks SET state = 'RUNNING', attempts = attempts + 1, updated_at = ?2 WHERE id = ?1",
            params![task.id.to_string(), sql::nanoseconds(clock::now())],
        )?;
        self.task(task.id).map(Some)
    }

    /// Tells how far a running task has come. Each call is a durable write: a few a second are plenty.
    pub(crate) fn set_progress(&self, id: TaskId, progress: &Progress) -> Result<(), Error> {
        let changed = self.execute(
            "UPDATE tasks SET progress = ?2, updated_at = ?3 WHERE id = ?1",
            params![id.to_string(), sql::to_json(progress)?, sql::nanoseconds(clock::now())],
        )?;
        sql::must_exist(changed, "task", id)
    }

    /// Ends a running task, with message and hint if it failed. `Conflict` if it is not running.
    pub(crate) fn finish_task(&self, id: TaskId, result: Result<(), String>) -> Result<(), Error> {
        let (state, error) = match result {
            Ok(()) => (TaskState::Done, None),
            Err(error) => (TaskState::Failed, Some(error)),
        };
        self.leave_running(id, state, error)?;
        let task = self.task(id)?;
        self.execute(
            "DELETE FROM tasks WHERE instance = ?1 AND state IN ('DONE', 'FAILED') AND sequence <=
             (SELECT sequence FROM tasks WHERE instance = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)",
            params![task.instance.to_string(), KEPT_PER_INSTANCE],
        )?;
        Ok(())
    }

    /// Puts a running task that was interrupted back into its place in the queue.
    pub(crate) fn requeue(&self, id: TaskId) -> Result<(), Error> {
        self.leave_running(id, TaskState::Queued, None)
    }

    /// Puts a running task that gives way behind all that wait.
    pub(crate) fn defer(&self, id: TaskId) -> Result<(), Error> {
        self.leave_running(id, TaskState::Queued, None)?;
        let statement = "UPDATE tasks SET sequence = (SELECT max(sequence) + 1 FROM tasks) WHERE id = ?1";
        self.execute(statement, [id.to_string()]).map(drop)
    }

    /// At the start: what was running when coffer ended waits again, in its old place. How many there were.
    /// The attempt is counted when such a task is claimed.
    pub(crate) fn settle_tasks(&self) -> Result<usize, Error> {
        self.execute(
            "UPDATE tasks SET state = 'QUEUED', updated_at = ?1 WHERE state = 'RUNNING'",
            [sql::nanoseconds(clock::now())],
        )
    }

    fn leave_running(&self, id: TaskId, state: TaskState, error: Option<String>) -> Result<(), Error> {
        let changed = self.execute(
            "UPDATE tasks SET state = ?2, error = ?3, updated_at = ?4 WHERE id = ?1 AND state = 'RUNNING'",
            params![id.to_string(), sql::word(&state)?, error, sql::nanoseconds(clock::now())],
        )?;
        if changed == 0 {
            let task = self.task(id)?;
            let message = format!("task {id} is {} and not RUNNING", sql::word(&task.state)?);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> Result<Task, Error> {
    Ok(Task {
        id: sql::parsed(row, "id")?,
        instance: sql::parsed(row, "instance")?,
        kind: sql::json(row, "kind")?,
        state: sql::named(row, "state")?,
        attempts: u32::try_from(sql::unsigned(row, "attempts")?).unwrap_or(u32::MAX),
        progress: sql::json(row, "progress")?,
        error: sql::column(row, "error")?,
        created_at: sql::time(row, "created_at")?,
        updated_at: sql::time(row, "updated_at")?,
    })
}
