//! Recoveries, plans and history as JSON.

use serde_json::{Value, json};

use crate::api::views::{self, Object, plain, rfc3339};
use crate::domain::recovery::{PlannedTransaction, RecoveryPlan, RecoveryState};
use crate::domain::target::RecoveryTarget;
use crate::domain::task::TaskKind;
use crate::recovery::TransactionSummary;
use crate::service::{RecoveryView, TimelineView};

/// A recovery, with what `id` shall say: its own id where it is listed, the instance's in the answer that begins it (as
/// Trove's blueprint has it). `recovery_id` says the same in both.
pub(super) fn recovery(view: &RecoveryView, id: String) -> Value {
    let recovery = &view.recovery;
    Object::default()
        .with("id", id)
        .with("recovery_id", recovery.id.to_string())
        .with("instance_id", recovery.instance.to_string())
        .with("name", view.instance.name.as_str())
        .with("status", status(view))
        .with("state", recovery.state.name())
        .with("datastore", view.instance.datastore.name())
        .with("recovered_from_backup", recovery.plan.base.to_string())
        .with("point_in_time", rfc3339(recovery.plan.stop_clock))
        .with("target", target(&recovery.plan.target))
        .with("plan", plan(&recovery.plan))
        .with("pause", recovery.pause || recovery.paused)
        .with("abort_asked", recovery.abort_asked)
        .with_some("progress", view.task.as_ref().map(|task| views::progress(&task.progress)))
        .with("can_undo", view.can_undo)
        .with("outcome", plain(&recovery.outcome))
        .with_some("fault", recovery.fault.as_ref().map(views::fault))
        .with("created", views::trove_time(recovery.created_at))
        .with("updated", views::trove_time(recovery.updated_at))
        .into()
}

/// The status a client polls: `BUILDING` until it is something else. It is something else only when whatever follows can
/// be asked for, so not before the task has ended as well.
fn status(view: &RecoveryView) -> &'static str {
    let recovery = &view.recovery;
    let is_carried_on = view
        .task
        .as_ref()
        .is_some_and(|task| matches!(task.kind, TaskKind::Recover { .. } | TaskKind::UndoRecovery { .. }));
    match recovery.state {
        RecoveryState::Retained | RecoveryState::Undone | RecoveryState::Aborted | RecoveryState::Failed
            if is_carried_on =>
        {
            "BUILDING"
        }
        RecoveryState::Planned
        | RecoveryState::Staged
        | RecoveryState::Prepared
        | RecoveryState::Replayed
        | RecoveryState::Fenced
        | RecoveryState::Switched
        | RecoveryState::Promoted
        | RecoveryState::UndoFenced
        | RecoveryState::UndoSwitched => {
            if recovery.paused {
                "PAUSED"
            } else {
                "BUILDING"
            }
        }
        RecoveryState::Retained | RecoveryState::Released => "COMPLETED",
        RecoveryState::Undone => "UNDONE",
        RecoveryState::Aborted => "ABORTED",
        RecoveryState::Failed => "FAILED",
    }
}

/// The target in words.
fn target(target: &RecoveryTarget) -> String {
    match target.skip.as_slice() {
        [] => target.point.to_string(),
        skip => {
            let skip: Vec<String> = skip.iter().map(ToString::to_string).collect();
            format!("{}, without {}", target.point, skip.join(", "))
        }
    }
}

pub(super) fn plan(plan: &RecoveryPlan) -> Value {
    let skipped: Vec<String> = plan.skipped.iter().map(ToString::to_string).collect();
    Object::default()
        .with("target", target(&plan.target))
        .with("base", plan.base.to_string())
        .with(
            "base_end",
            json!({
                "timeline": plan.base_end.at.timeline,
                "position": plan.base_end.at.to_string(),
                "gtid": plan.base_end.position.to_string(),
                "commit_time": rfc3339(plan.base_end.clock),
            }),
        )
        .with("base_version", plan.base_version.as_str())
        .with(
            "stop",
            json!({
                "timeline": plan.stop.timeline,
                "position": plan.stop.to_string(),
                "gtid": plan.position.to_string(),
                "commit_time": rfc3339(plan.stop_clock),
            }),
        )
        .with_some("last_included", plan.last_included.as_ref().map(planned_transaction))
        .with_some("first_excluded", plan.first_excluded.as_ref().map(planned_transaction))
        .with("transactions", plan.transactions)
        .with("skipped", skipped)
        .with("given_up_transactions", plan.given_up_transactions)
        .with("download_bytes", plan.download_bytes)
        .with("replay_bytes", plan.replay_bytes)
        .with("disk_bytes", plan.disk_bytes)
        .with("estimate_seconds", plan.estimate_seconds)
        .with("warnings", plan.warnings.as_slice())
        .with("chunks", plan.chunks.len())
        .into()
}

fn planned_transaction(transaction: &PlannedTransaction) -> Value {
    Object::default()
        .with_some("gtid", transaction.gtid.map(|gtid| gtid.to_string()))
        .with("begins_at", transaction.begins_at.to_string())
        .with("ends_at", transaction.ends_at.to_string())
        .with("commit_time", rfc3339(transaction.committed_at))
        .with("what", transaction.what.as_str())
        .into()
}

pub(super) fn transaction(summary: &TransactionSummary) -> Value {
    // A transaction of MySQL without a GTID has its place as its only name.
    Object::default()
        .with_some("gtid", summary.gtid.map(|gtid| gtid.to_string()))
        .with("begins_at", summary.begins_at.to_string())
        .with("ends_at", summary.ends_at.to_string())
        .with("commit_time", rfc3339(summary.committed_at))
        .with("tables", summary.tables.as_slice())
        .with("statement", summary.statement.as_str())
        .with("destructive", summary.destructive)
        .into()
}

pub(super) fn timeline(view: &TimelineView) -> Value {
    let timeline = &view.timeline;
    let branch = timeline.branch.as_ref().map(|branch| {
        json!({
            "position": branch.at.to_string(),
            "gtid": branch.position.to_string(),
            "commit_time": rfc3339(branch.clock),
        })
    });
    let last = view.last_chunk.as_ref();
    Object::default()
        .with("id", timeline.id.to_string())
        .with("number", timeline.number)
        .with_some("parent", view.parent)
        .with_some("parent_id", timeline.branch.as_ref().map(|branch| branch.at.timeline.to_string()))
        .with_some("branch", branch)
        .with("origin", plain(&timeline.origin))
        .with("begun", timeline.begun_at.to_string())
        .with("current", view.is_current)
        .with_some("shipped_to", last.map(|facts| facts.ends_at().to_string()))
        .with_some("last_commit", last.map(|facts| facts.clock_after()).filter(|clock| *clock != 0).map(rfc3339))
        .into()
}
