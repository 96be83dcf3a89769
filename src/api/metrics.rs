//! Health, and figures in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use crate::api::call::{Call, Reply};
use crate::api::router::Router;
use crate::api::views::lag_seconds;
use crate::clock;
use crate::domain::backup::BackupStatus;
use crate::domain::instance::InstanceStatus;
use crate::domain::recovery::RecoveryState;
use crate::domain::shipping::{ShippingState, ShippingStatus};
use crate::error::Error;
use crate::service::InstanceFigures;

/// Answers given so far, by status.
#[derive(Default)]
pub(super) struct Counts(Mutex<BTreeMap<u16, u64>>);

impl Counts {
    pub(super) fn add(&self, status: u16) {
        // A count is whole whatever panicked beside it.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }
}

pub(super) fn health(router: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    match router.service.check_health() {
        Ok(()) => Ok(Reply::json(200, &json!({"status": "ok"}))),
        // Nobody had to show a token, so nothing is told but that.
        Err(_) => Ok(Reply::fault(503, "the appliance cannot read its state; its log tells why")),
    }
}

pub(super) fn show(router: &Router, _: &Call<'_>) -> Result<Reply, Error> {
    let figures = router.service.figures()?;
    let counts = router.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Reply::new(200, "text/plain; version=0.0.4; charset=utf-8", render(&figures, &counts)))
}

/// Microseconds as seconds, as Prometheus wants them.
fn seconds(microseconds: i64) -> String {
    let (whole, part) = (microseconds.div_euclid(1_000_000), microseconds.rem_euclid(1_000_000));
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:06}") }
}

fn render(figures: &[InstanceFigures], counts: &BTreeMap<u16, u64>) -> String {
    let mut text = Text::default();
    text.family("coffer_build_info", "gauge", "The version that runs.");
    text.line("coffer_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("coffer_http_answers_total", "counter", "Answers of the API, by status.");
    for (status, count) in counts {
        text.line("coffer_http_answers_total", &[("status", &status.to_string())], count);
    }
    let now = clock::now();
    let age = |seconds: i64| now.as_second().saturating_sub(seconds).max(0);
    let mut family = |name: &str, help: &str, value: &dyn Fn(&InstanceFigures) -> Option<String>| {
        text.family(name, "gauge", help);
        for instance in figures {
            if let Some(value) = value(instance) {
                let labels = [("instance", instance.view.instance.name.as_str())];
                text.line(name, &labels, value);
            }
        }
    };
    let flag = |is_so: bool| Some(u8::from(is_so).to_string());
    family(
        "coffer_instance_up",
        "Whether the server serves and nothing but a backup is going on (ACTIVE or BACKUP).",
        &|i| flag(matches!(i.view.instance.status, InstanceStatus::Active | InstanceStatus::Backup)),
    );
    family("coffer_instance_error", "Whether the instance is in ERROR.", &|i| {
        flag(i.view.instance.status == InstanceStatus::Error)
    });
    family("coffer_recovery_running", "Whether a recovery of the instance is under way.", &|i| {
        flag(i.view.recovery.is_some())
    });
    family("coffer_shipping_up", "Whether the binlog is being shipped; 0 while anything stands in the way.", &|i| {
        let is_up =
            |shipping: &ShippingStatus| shipping.state == ShippingState::Shipping && shipping.message.is_empty();
        flag(i.view.shipping.as_ref().is_some_and(is_up))
    });
    family("coffer_shipping_lag_seconds", "How long something has been waiting to be shipped.", &|i| {
        i.view.shipping.as_ref().map(|shipping| lag_seconds(shipping, now).to_string())
    });
    family("coffer_shipping_behind_bytes", "Binlog that is not in the repository yet.", &|i| {
        i.view.shipping.as_ref().map(|shipping| shipping.behind_bytes.to_string())
    });
    family("coffer_shipping_last_commit_seconds", "Commit time of the last shipped transaction, since 1970.", &|i| {
        let committed = i.view.shipping.as_ref().map(|shipping| shipping.last_commit).filter(|at| *at != 0);
        committed.or(i.totals.last_commit).map(seconds)
    });
    family("coffer_recoverable_earliest_seconds", "The earliest point in time to recover to, since 1970.", &|i| {
        i.view.recoverable.as_ref().map(|recoverable| seconds(recoverable.earliest))
    });
    family("coffer_recoverable_latest_seconds", "The latest point in time to recover to, since 1970.", &|i| {
        i.view.recoverable.as_ref().map(|recoverable| seconds(recoverable.latest))
    });
    family("coffer_gaps", "Holes in the shipped binlog.", &|i| Some(i.gaps.to_string()));
    family("coffer_backup_age_seconds", "Seconds since the newest completed backup was begun.", &|i| {
        i.newest_backup.as_ref().map(|backup| age(backup.created_at.as_second()).to_string())
    });
    family("coffer_backup_stored_bytes", "The newest completed backup in the repository.", &|i| {
        i.newest_backup.as_ref().map(|backup| backup.stored_bytes.to_string())
    });
    family("coffer_binlog_chunks", "Chunks of binlog in the repository.", &|i| Some(i.totals.chunks.to_string()));
    family("coffer_binlog_stored_bytes", "Their size.", &|i| Some(i.totals.stored_bytes.to_string()));
    family("coffer_binlog_transactions", "Transactions in them.", &|i| Some(i.totals.transactions.to_string()));
    family(
        "coffer_verification_last_success_timestamp_seconds",
        "When stored objects were last read again and none of them was bad, since 1970.",
        &|i| i.view.verification.summary.last_success_at().map(|at| at.as_second().to_string()),
    );
    family("coffer_verification_oldest_seconds", "When the object read longest ago was read, since 1970.", &|i| {
        i.view.verification.summary.oldest_verified_at.map(|at| at.as_second().to_string())
    });
    family("coffer_verified_objects", "Stored objects that were read again at least once.", &|i| {
        Some(i.view.verification.summary.objects.to_string())
    });
    family("coffer_bad_objects", "Stored objects that are damaged or gone.", &|i| {
        Some(i.view.verification.summary.bad_objects.to_string())
    });
    text.family("coffer_backups", "gauge", "Backups, by status.");
    for instance in figures {
        let name = instance.view.instance.name.as_str();
        for status in BackupStatus::ALL {
            let labels = [("instance", name), ("status", status.name())];
            text.line("coffer_backups", &labels, count_of(&instance.backups, &status));
        }
    }
    text.family("coffer_recoveries", "gauge", "Recoveries, by state.");
    for instance in figures {
        let name = instance.view.instance.name.as_str();
        for state in RecoveryState::ALL {
            let labels = [("instance", name), ("state", state.name())];
            text.line("coffer_recoveries", &labels, count_of(&instance.recoveries, &state));
        }
    }
    text.0
}

fn count_of<T: PartialEq>(counts: &[(T, u64)], wanted: &T) -> u64 {
    counts.iter().find(|(key, _)| key == wanted).map_or(0, |(_, count)| *count)
}

/// Prometheus' text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::bench::Bench;

    #[test]
    fn figures_are_lines_with_escaped_labels() {
        let bench = Bench::new();
        let id = bench.active("shop \"main\"").id;
        bench.completed(id, "b");
        let text = render(&bench.service.figures().unwrap(), &BTreeMap::from([(200, 3)]));
        assert!(text.contains("coffer_instance_up{instance=\"shop \\\"main\\\"\"} 1\n"), "{text}");
        let of_status = |status: &str| format!("coffer_backups{{instance=\"shop \\\"main\\\"\",status=\"{status}\"}}");
        assert!(text.contains(&format!("{} 1\n", of_status("COMPLETED"))), "{text}");
        assert!(text.contains(&format!("{} 0\n", of_status("FAILED"))), "{text}");
        assert!(text.contains("state=\"RETAINED\"} 0\n"), "{text}");
        assert!(text.contains("coffer_http_answers_total{status=\"200\"} 3\n"), "{text}");
        assert!(text.lines().all(|line| line.starts_with("# ") || line.split_once("} ").is_some()), "{text}");
    }
}
