//! What the API answers, as far as the clients look into it.
//!
//! Every member is optional: a client shows what it is told and never fails because an appliance says less or more.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

use crate::error::{Error, ErrorKind};

/// Reads an answer or a part of one.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|err| {
        Error::new(ErrorKind::Corrupt, "the appliance's answer has an unexpected shape")
            .hint("Use a client of the appliance's own version.")
            .with_source(err)
    })
}

/// A time in an answer: RFC 3339, or as Trove writes it (UTC, and it does not say so).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) Timestamp);

impl Moment {
    pub(crate) fn parse(text: &str) -> Option<Moment> {
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Some(Moment(timestamp));
        }
        let civil: DateTime = text.parse().ok()?;
        let zoned: Zoned = civil.to_zoned(TimeZone::UTC).ok()?;
        Some(Moment(zoned.timestamp()))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(deserializer)?;
        Moment::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a time")))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) datastore: Datastore,
    pub(crate) control: Value,
    pub(crate) socket: String,
    pub(crate) port: Option<u16>,
    pub(crate) data_dir: String,
    pub(crate) timeline: Option<TimelineName>,
    pub(crate) recoverable: Option<Recoverable>,
    pub(crate) shipping: Option<Shipping>,
    pub(crate) verification: Verification,
    pub(crate) task: Option<Task>,
    pub(crate) fault: Option<Fault>,
    pub(crate) created: Option<Moment>,
}

/// How the stored objects of an instance stand.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Verification {
    pub(crate) last_verified: Option<Moment>,
    pub(crate) oldest_verified: Option<Moment>,
    pub(crate) objects: u64,
    pub(crate) bad_objects: u64,
    pub(crate) bad: Vec<BadObject>,
    pub(crate) run: Option<VerificationRun>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BadObject {
    pub(crate) object: String,
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) depends: String,
    pub(crate) remedy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VerificationRun {
    pub(crate) task: String,
    pub(crate) slice: String,
    pub(crate) ended: Option<Moment>,
    pub(crate) objects: u64,
    pub(crate) stored_bytes: u64,
    /// Of which only the stored bytes could be proven.
    pub(crate) closed_objects: u64,
    pub(crate) bad_objects: u64,
    /// The first of them.
    pub(crate) bad: Vec<String>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Datastore {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) version: String,
    pub(crate) version_number: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TimelineName {
    pub(crate) id: String,
    pub(crate) number: u64,
}

/// From when to when an instance can be brought back.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Recoverable {
    pub(crate) earliest: Option<Moment>,
    pub(crate) latest: Option<Moment>,
    pub(crate) gaps: Vec<Gap>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Gap {
    pub(crate) after: Option<String>,
    pub(crate) reason: String,
    /// No backup lies behind it yet.
    pub(crate) open: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shipping {
    pub(crate) state: String,
    pub(crate) shipped_to: Option<String>,
    pub(crate) gtid: Option<String>,
    pub(crate) last_commit: Option<Moment>,
    pub(crate) behind_bytes: u64,
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) message: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Task {
    pub(crate) id: Value,
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) progress: Progress,
    pub(crate) started: Option<Moment>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) step: String,
    pub(crate) done: u64,
    /// 0 when the end is not known.
    pub(crate) total: u64,
    /// `bytes` or `transactions`.
    pub(crate) unit: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// What to do next.
    pub(crate) details: Option<String>,
    pub(crate) created: Option<Moment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) instance_id: String,
    pub(crate) status: String,
    #[serde(rename = "locationRef")]
    pub(crate) location: Option<String>,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) checksum: Option<String>,
    /// `OK`, `BAD` or `NEVER`.
    pub(crate) verification: String,
    pub(crate) verified_at: Option<Moment>,
    pub(crate) verification_run: Option<VerificationRun>,
    pub(crate) end: Option<BackupEnd>,
    pub(crate) task: Option<Task>,
    pub(crate) fault: Option<Fault>,
    pub(crate) created: Option<Moment>,
    pub(crate) updated: Option<Moment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BackupEnd {
    pub(crate) timeline: Value,
    pub(crate) position: String,
    pub(crate) gtid: Option<String>,
    pub(crate) commit_time: Option<Moment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Recovery {
    pub(crate) id: String,
    pub(crate) datastore: String,
    pub(crate) recovery_id: String,
    pub(crate) instance_id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) state: String,
    pub(crate) recovered_from_backup: Option<String>,
    pub(crate) point_in_time: Option<Moment>,
    pub(crate) target: String,
    pub(crate) plan: Option<Plan>,
    pub(crate) progress: Option<Progress>,
    pub(crate) can_undo: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) fault: Option<Fault>,
    pub(crate) created: Option<Moment>,
    pub(crate) updated: Option<Moment>,
}

/// What a recovery found and reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    pub(crate) reached: Option<String>,
    pub(crate) replayed_transactions: u64,
    pub(crate) fence_position: Option<String>,
    pub(crate) stopped_at: Option<Moment>,
    pub(crate) answered_at: Option<Moment>,
    pub(crate) steps: Vec<StepTime>,
    pub(crate) old_data_kept: bool,
    pub(crate) undo_until: Option<Moment>,
    /// `running`, `files_survived` or `files_gone`.
    pub(crate) tail: Option<String>,
    /// Where the recovered data can be looked at while the recovery is paused.
    pub(crate) inspect_socket: Option<String>,
    /// Absent when a recovery was taken back by itself.
    pub(crate) undo_timeline: Option<Value>,
}

impl Outcome {
    /// Whether the server was dead before the recovery began.
    pub(crate) fn was_dead(&self) -> bool {
        matches!(self.tail.as_deref(), Some("files_survived" | "files_gone"))
    }

    /// Milliseconds between telling the server to stop and its first answer afterwards; none of a server that was dead.
    pub(crate) fn down_milliseconds(&self) -> Option<u64> {
        if self.was_dead() {
            return None;
        }
        let (Some(stopped), Some(answered)) = (self.stopped_at, self.answered_at) else { return None };
        u64::try_from(answered.0.as_millisecond() - stopped.0.as_millisecond()).ok()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StepTime {
    pub(crate) step: String,
    pub(crate) milliseconds: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Plan {
    pub(crate) base: String,
    pub(crate) base_end: Value,
    pub(crate) stop: Option<PlanStop>,
    pub(crate) last_included: Option<PlannedTransaction>,
    pub(crate) first_excluded: Option<PlannedTransaction>,
    pub(crate) transactions: u64,
    pub(crate) skipped: Vec<String>,
    pub(crate) given_up_transactions: u64,
    pub(crate) download_bytes: u64,
    pub(crate) replay_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) estimate_seconds: u64,
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PlanStop {
    pub(crate) position: String,
    pub(crate) gtid: Option<String>,
    pub(crate) commit_time: Option<Moment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PlannedTransaction {
    /// Absent where the server gives none: then the place is its name.
    pub(crate) gtid: Option<String>,
    pub(crate) begins_at: String,
    pub(crate) ends_at: String,
    pub(crate) commit_time: Option<Moment>,
    pub(crate) what: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transaction {
    /// Absent where the server gives none: then the place is its name.
    pub(crate) gtid: Option<String>,
    pub(crate) begins_at: String,
    pub(crate) ends_at: String,
    pub(crate) commit_time: Option<Moment>,
    pub(crate) tables: Vec<String>,
    pub(crate) statement: Option<String>,
    pub(crate) destructive: bool,
}

impl Transaction {
    /// The target just before it, as an option of `coffer recover`.
    pub(crate) fn target_before(&self) -> String {
        match &self.gtid {
            Some(gtid) => format!("--before-gtid {gtid}"),
            None => format!("--before-position {}", self.begins_at),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Timeline {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) branch: Option<Branch>,
    pub(crate) origin: Value,
    pub(crate) begun: Option<Moment>,
    pub(crate) current: bool,
    pub(crate) shipped_to: Option<String>,
    pub(crate) last_commit: Option<Moment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Branch {
    pub(crate) position: String,
    pub(crate) gtid: Option<String>,
    pub(crate) commit_time: Option<Moment>,
}

#[cfg(test)]
mod tests {
    use super::{Instance, Moment, Outcome, read};

    #[test]
    fn troves_times_are_utc() {
        let naive = Moment::parse("2026-01-01T00:00:00").unwrap();
        assert_eq!(naive, Moment::parse("2026-01-01T00:00:00Z").unwrap());
        assert_eq!(naive, Moment::parse("2026-01-01T01:00:00.000+01:00").unwrap());
        assert_eq!(Moment::parse("yesterday"), None);
    }

    #[test]
    fn an_answer_may_say_more_or_less() {
        let instance: Instance = read(&serde_json::json!({
            "id": "i", "surprise": 1, "shipping": {"state": "shipping", "lag_seconds": 0.4},
            "task": {"id": 7, "kind": "recover", "step": "staging", "done": 3, "total": 9, "unit": "bytes"}
        }))
        .unwrap();
        assert_eq!(instance.task.unwrap().progress.total, 9);
        assert_eq!(instance.shipping.unwrap().lag_seconds, Some(0.4));
    }

    #[test]
    fn down_time_is_from_the_stop_to_the_first_answer() {
        let outcome: Outcome = read(&serde_json::json!({
            "stopped_at": "2026-01-01T00:00:00.250Z", "answered_at": "2026-01-01T00:00:01.750Z"
        }))
        .unwrap();
        assert_eq!(outcome.down_milliseconds(), Some(1500));
        // It was down long before anybody told it to stop.
        assert_eq!(Outcome { tail: Some("files_gone".to_owned()), ..outcome }.down_milliseconds(), None);
        assert_eq!(Outcome::default().down_milliseconds(), None);
    }
}
