//! When an instance's objects are verified without anybody asking: a slice each time, one after the other.
//!
//! What was done is in the store, so that a restart neither begins anew nor leaves a slice out.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::Context;
use crate::domain::id::InstanceId;
use crate::domain::instance::InstanceStatus;
use crate::domain::task::TaskKind;
use crate::domain::verification::{Slice, VerificationRun};
use crate::error::Error;
use crate::logging;

/// A store that was away is asked again after this.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What the configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// From the begin of one verification to the begin of the next.
    pub(crate) every: Duration,
    /// Each reads one of so many slices.
    pub(crate) slices: u32,
}

/// Queues the verification that is due, at a time when nothing else is to be done with the instance.
pub(crate) fn cast_scheduled(context: &Context, id: InstanceId, now: Timestamp) -> Result<(), Error> {
    let Some(schedule) = context.settings.verification else { return Ok(()) };
    let instance = context.store.read(|db| db.instance(id))?;
    let last = context.store.read(|db| db.verification_run(&id.to_string(), true))?;
    let Some(run) = schedule.due(last.as_ref(), instance.created_at, now) else { return Ok(()) };
    if instance.status == InstanceStatus::Shutdown {
        return Ok(());
    }
    let kind = TaskKind::VerifyInstance { slice: run.slice, is_scheduled: true };
    let is_cast = context.store.write(|tx| {
        if !tx.unfinished_tasks(id)?.is_empty() {
            return Ok(false);
        }
        let task = tx.insert_task(id, &kind)?;
        let begun_at = run.begun_at.unwrap_or(task.created_at);
        tx.set_verification_run(&id.to_string(), true, &VerificationRun::begun(task.id, run.slice, begun_at))?;
        Ok(true)
    })?;
    if is_cast {
        logging::info("verify", format!("instance {id}: slice {} is verified by schedule", run.slice));
        context.bell.ring();
    }
    Ok(())
}

/// A verification that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    slice: Slice,
    /// Since when objects were read that need not be read again, if it goes on with one that failed.
    begun_at: Option<Timestamp>,
}

impl Schedule {
    /// What is to be verified now, if anything is. `last` is the last one by schedule, whatever became of it.
    fn due(&self, last: Option<&VerificationRun>, created_at: Timestamp, now: Timestamp) -> Option<Due> {
        let has_passed = |since: Timestamp, span: Duration| since.checked_add(span).is_ok_and(|due| due <= now);
        let first = Slice::new(1, self.slices).ok()?;
        let Some(last) = last else {
            return has_passed(created_at, self.every).then_some(Due { slice: first, begun_at: None });
        };
        if last.ended_at.is_some() {
            let next = Slice::new(last.slice.number() + 1, self.slices).unwrap_or(first);
            let slice = if last.slice.of() == self.slices { next } else { first };
            return has_passed(last.begun_at, self.every).then_some(Due { slice, begun_at: None });
        }
        // It has failed, or its task was lost with its instance's queue.
        let failed_at = last.fault.as_ref().map_or(last.begun_at, |fault| fault.at);
        has_passed(failed_at, self.every.min(RETRY_AFTER))
            .then_some(Due { slice: last.slice, begun_at: Some(last.begun_at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::TaskId;
    use crate::domain::instance::Fault;

    const HOUR: i64 = 3600;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * HOUR).unwrap()
    }

    fn run(slice: &str, begun: i64, ended: Option<i64>, failed: Option<i64>) -> VerificationRun {
        let fault = |hours| Fault { message: "the store is away".to_owned(), hint: String::new(), at: at(hours) };
        VerificationRun {
            ended_at: ended.map(at),
            fault: failed.map(fault),
            ..VerificationRun::begun(TaskId::random(), slice.parse().unwrap(), at(begun))
        }
    }

    #[track_caller]
    fn check(last: Option<&VerificationRun>, now: i64, expected: Option<(&str, Option<i64>)>) {
        let schedule = Schedule { every: Duration::from_secs(24 * 3600), slices: 7 };
        let due = schedule.due(last, at(0), at(now));
        let expected = expected.map(|(slice, begun)| Due { slice: slice.parse().unwrap(), begun_at: begun.map(at) });
        assert_eq!(due, expected, "at {now} h");
    }

    #[test]
    fn one_slice_follows_the_other_and_the_last_is_followed_by_the_first() {
        check(None, 23, None);
        check(None, 24, Some(("1/7", None)));
        let first = run("1/7", 24, Some(26), None);
        check(Some(&first), 47, None);
        check(Some(&first), 48, Some(("2/7", None)));
        check(Some(&run("7/7", 200, Some(201), None)), 224, Some(("1/7", None)));
        // A division of another number is begun anew.
        check(Some(&run("3/5", 200, Some(201), None)), 224, Some(("1/7", None)));
    }

    #[test]
    fn one_that_failed_is_tried_again_sooner_and_goes_on_where_it_was() {
        let failed = run("3/7", 100, None, Some(105));
        check(Some(&failed), 105, None);
        check(Some(&failed), 106, Some(("3/7", Some(100))));
        // Its task was lost: what is queued or runs keeps the next from being cast, whatever is due.
        check(Some(&run("3/7", 100, None, None)), 101, Some(("3/7", Some(100))));
    }
}
