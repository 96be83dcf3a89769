//! Trove's JSON. The only place that spells instances, backups and what belongs to them as Trove does.
//!
//! An optional object that is absent is left out: `null` in its place crashes Trove's clients. Trove's own times are UTC
//! in whole seconds without a zone; times that coffer adds are RFC 3339.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::datastores;
use crate::clock;
use crate::domain::backup::Backup;
use crate::domain::instance::{Fault, Instance, InstanceStatus};
use crate::domain::shipping::ShippingStatus;
use crate::domain::task::{Progress, Task};
use crate::domain::verification::VerificationRun;
use crate::service::{
    BackupView, BadView, Hole, InstanceView, Recoverable, VerificationView, status_name, task_name, time,
};

/// An object under construction.
#[derive(Default)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Object {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves the member out when there is no value.
    pub(super) fn with_some<V: Into<Value>>(self, name: &str, value: Option<V>) -> Object {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Value::Object(object.0)
    }
}

pub(super) fn instance(view: &InstanceView) -> Value {
    let instance = &view.instance;
    let created = trove_time(instance.created_at);
    let updated = trove_time(instance.updated_at);
    let timeline = view.timeline.as_ref().map(|timeline| json!({"id": timeline.id, "number": timeline.number}));
    Object::default()
        .with("id", instance.id.to_string())
        .with("name", instance.name.as_str())
        .with("status", status_name(instance.status))
        .with("operating_status", operating_status(view))
        .with("links", json!([]))
        .with("flavor", json!({"id": datastores::FLAVOR, "links": []}))
        .with("datastore", instance_datastore(instance))
        .with("region", "RegionOne")
        .with("access", json!({"is_public": false, "allowed_cidrs": []}))
        .with("created", created)
        .with("updated", updated.as_str())
        .with("service_status_updated", updated.as_str())
        .with("control", plain(&instance.server.control))
        .with("socket", instance.server.socket.to_string_lossy())
        .with_some("port", Some(instance.server.port).filter(|port| *port > 0))
        .with("data_dir", instance.server.data_dir.to_string_lossy())
        .with_some("timeline", timeline)
        .with_some("recoverable", view.recoverable.as_ref().map(recoverable))
        .with_some("shipping", view.shipping.as_ref().map(shipping))
        .with_some("task", view.task.as_ref().map(task))
        .with_some("recovery", view.recovery.as_ref().map(|r| json!({"id": r.id, "state": r.state.name()})))
        .with("verification", verification(&view.verification))
        .with_some("fault", instance.fault.as_ref().map(fault))
        .into()
}

/// Trove's word for the server itself: empty while a task runs or the server is not known to be well.
fn operating_status(view: &InstanceView) -> &'static str {
    match view.instance.status {
        InstanceStatus::Active if view.task.as_ref().is_none_or(|task| task.kind.gives_way()) => "HEALTHY",
        InstanceStatus::Error => "ERROR",
        InstanceStatus::Active | InstanceStatus::Build | InstanceStatus::Backup | InstanceStatus::Shutdown => "",
    }
}

fn instance_datastore(instance: &Instance) -> Value {
    let version = datastores::series(&instance.version);
    json!({"type": instance.datastore, "version": version, "version_number": instance.version})
}

fn recoverable(recoverable: &Recoverable) -> Value {
    let gaps: Vec<Value> = recoverable.gaps.iter().filter_map(gap).collect();
    Object::default()
        .with("earliest", rfc3339(recoverable.earliest))
        .with("latest", rfc3339(recoverable.latest))
        .with("gaps", gaps)
        .into()
}

fn gap(hole: &Hole) -> Option<Value> {
    let chunk = &hole.chunk;
    let gap = chunk.facts.gap_before.as_ref()?;
    let object = Object::default()
        .with_some("after", gap.after.as_ref().map(ToString::to_string))
        .with("gtid", gap.position_before.to_string())
        .with("until", chunk.facts.begins_at().to_string())
        .with("reason", gap.reason.as_str())
        .with("open", hole.is_open);
    Some(object.into())
}

fn shipping(status: &ShippingStatus) -> Value {
    Object::default()
        .with("state", plain(&status.state))
        .with_some("shipped_to", status.shipped_to.as_ref().map(ToString::to_string))
        .with("gtid", status.position.to_string())
        .with_some("last_commit", (status.last_commit != 0).then(|| rfc3339(status.last_commit)))
        .with("behind_bytes", status.behind_bytes)
        .with("lag_seconds", lag_seconds(status, clock::now()))
        .with("message", status.message.as_str())
        .with("looked_at", status.looked_at.to_string())
        .into()
}

fn verification(view: &VerificationView) -> Value {
    let summary = &view.summary;
    let bad: Vec<Value> = view.bad.iter().map(bad_object).collect();
    Object::default()
        .with_some("last_verified", summary.last_ended_at().map(|at| at.to_string()))
        .with_some("oldest_verified", summary.oldest_verified_at.map(|at| at.to_string()))
        .with("objects", summary.objects)
        .with("stored_bytes", summary.stored_bytes)
        .with("bad_objects", summary.bad_objects)
        .with("bad", bad)
        .with_some("run", summary.asked.as_ref().map(verification_run))
        .with_some("scheduled_run", summary.scheduled.as_ref().map(verification_run))
        .into()
}

fn bad_object(bad: &BadView) -> Value {
    let object = &bad.object;
    Object::default()
        .with("object", object.key.as_str())
        .with("kind", object.place.noun())
        .with("reason", object.reason.as_str())
        .with("found", object.found_at.to_string())
        .with("depends", bad.consequence.depends.as_str())
        .with("remedy", bad.consequence.remedy.as_str())
        .with_some("replacement", object.replacement.map(|backup| backup.to_string()))
        .into()
}

pub(super) fn verification_run(run: &VerificationRun) -> Value {
    Object::default()
        .with("task", run.task.to_string())
        .with("slice", run.slice.to_string())
        .with("begun", run.begun_at.to_string())
        .with_some("ended", run.ended_at.map(|at| at.to_string()))
        .with("objects", run.objects)
        .with("stored_bytes", run.stored_bytes)
        .with("closed_objects", run.closed)
        .with("bad_objects", run.bad)
        .with("bad", run.bad_keys.as_slice())
        .with_some("fault", run.fault.as_ref().map(fault))
        .into()
}

/// How long something has been waiting to be shipped; 0 when nothing is.
pub(super) fn lag_seconds(status: &ShippingStatus, now: Timestamp) -> f64 {
    status.behind_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0))
}

pub(super) fn task(task: &Task) -> Value {
    let progress = progress_members(Object::default(), &task.progress);
    progress
        .with("id", task.id.to_string())
        .with("kind", task_name(&task.kind))
        .with("state", plain(&task.state))
        .with("attempts", task.attempts)
        .with("started", task.created_at.to_string())
        .into()
}

pub(super) fn progress(progress: &Progress) -> Value {
    progress_members(Object::default(), progress).into()
}

fn progress_members(object: Object, progress: &Progress) -> Object {
    object
        .with("step", progress.step.as_str())
        .with("done", progress.done)
        .with("total", progress.total)
        .with("unit", plain(&progress.unit))
}

pub(super) fn fault(fault: &Fault) -> Value {
    json!({"message": fault.message, "details": fault.hint, "created": trove_time(fault.at)})
}

pub(super) fn backup(view: &BackupView, tenant: &str) -> Value {
    let backup = &view.backup;
    let end = backup.end.as_ref().map(|end| {
        json!({
            "timeline": end.at.timeline,
            "position": end.at.to_string(),
            "gtid": end.position.to_string(),
            "commit_time": rfc3339(end.clock),
        })
    });
    Object::default()
        .with("id", backup.id.to_string())
        .with("name", backup.name.as_str())
        .with("description", backup.description.as_str())
        .with("instance_id", backup.instance.to_string())
        .with("project_id", tenant)
        // Plain strings, which clients print as they come; without the members they would ask again for each backup.
        .with("parent_id", Value::Null)
        .with("locationRef", backup.location.as_deref())
        .with("created", trove_time(backup.created_at))
        .with("updated", trove_time(backup.updated_at))
        .with("size", gigabytes(backup.raw_bytes))
        .with("status", backup.status.name())
        .with_some("datastore", backup_datastore(backup))
        .with("raw_bytes", backup.raw_bytes)
        .with("stored_bytes", backup.stored_bytes)
        .with_some("end", end)
        .with_some("checksum", backup.checksum.as_deref())
        .with("verification", view.health.name())
        .with_some("verified_at", view.health.verified_at().map(|at| at.to_string()))
        .with_some("verification_run", view.verification.as_ref().map(verification_run))
        .with_some("fault", backup.fault.as_ref().map(fault))
        .with_some("task", view.task.as_ref().map(task))
        .into()
}

fn backup_datastore(backup: &Backup) -> Option<Value> {
    if backup.server_version.is_empty() {
        return None;
    }
    let version = datastores::series(&backup.server_version);
    let id = datastores::version_id(backup.datastore.name(), version);
    Some(json!({"type": backup.datastore, "version": version, "version_id": id}))
}

/// In Trove's unit, to two places.
#[expect(clippy::cast_precision_loss, reason = "two places are shown")]
fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1_u32 << 30) * 100.0).round() / 100.0
}

/// UTC in whole seconds, and it does not say so.
pub(super) fn trove_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A commit time.
pub(super) fn rfc3339(microseconds: i64) -> String {
    time(microseconds).to_string()
}

/// A value in its own spelling, what is absent left out.
pub(super) fn plain(value: &impl Serialize) -> Value {
    // Only fails for maps whose keys are no strings; there is none.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    drop_nulls(&mut value);
    value
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_written_as_trove_does() {
        let at: Timestamp = "2026-01-01T00:00:59.999Z".parse().unwrap();
        assert_eq!(trove_time(at), "2026-01-01T00:00:59");
        assert_eq!(rfc3339(1_738_147_200_000_000), "2025-01-29T10:40:00Z");
        assert_eq!(gigabytes(3 << 30), 3.0);
        assert_eq!(gigabytes(1_000_000_000), 0.93);
        assert_eq!(rfc3339(i64::MAX), Timestamp::MAX.to_string());
    }
}
