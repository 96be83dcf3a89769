//! `coffer status`: what there is, what runs, and what needs somebody.

use serde_json::{Value, json};

use crate::client::http;
use crate::client::recoveries;
use crate::client::view::{self, Backup, Instance, Recovery};
use crate::client::{Client, instances, render};
use crate::error::Error;

pub(super) fn show(client: &Client) -> Result<(), Error> {
    let instances_answer = client.api.get("/instances")?;
    let instances: Vec<Instance> = view::read(http::member(&instances_answer, "instances")?)?;
    let mut lines = vec![format!("Appliance at {}", client.api.page())];
    let mut recoveries_shown: Vec<Value> = Vec::new();
    if instances.is_empty() {
        lines.push(match instances_answer["notice"].as_str() {
            Some(notice) => format!("! {notice}"),
            None => "It looks after no instance yet. `coffer instance create NAME` makes one.".to_owned(),
        });
    }
    for instance in &instances {
        let answer = client.api.get(&format!("/instances/{}/recoveries", instance.id))?;
        let recoveries = http::member(&answer, "recoveries")?;
        lines.push(String::new());
        let newest = client.api.get(&format!("/backups?instance_id={}&limit=1", instance.id))?;
        let newest: Vec<Backup> = view::read(http::member(&newest, "backups")?)?;
        lines.extend(instance_lines(client, instance, &view::read::<Vec<Recovery>>(recoveries)?, newest.first()));
        recoveries_shown.extend(recoveries.as_array().cloned().unwrap_or_default());
    }
    let answer = json!({
        "url": client.api.page(),
        "instances": http::member(&instances_answer, "instances")?,
        "recoveries": recoveries_shown,
        "notice": instances_answer["notice"],
    });
    client.print(&answer, || Ok(lines))
}

fn instance_lines(
    client: &Client,
    instance: &Instance,
    recoveries: &[Recovery],
    newest_backup: Option<&Backup>,
) -> Vec<String> {
    let window = instance.recoverable.clone().unwrap_or_default();
    let mut lines = vec![format!("{}: {}", instance.name, instance.status)];
    if window.earliest.is_some() {
        lines.push(format!(
            "  can be brought back to any transaction from {} to {}, the last one shipped",
            client.time(window.earliest),
            client.time(window.latest)
        ));
    }
    if let Some(shipping) = &instance.shipping {
        lines.push(format!("  shipped {}", instances::shipping_text(shipping, instance)));
    }
    if window.earliest.is_some() || instance.verification.objects > 0 {
        lines.push(format!("  last verified {}", instances::verified_text(client, instance)));
    }
    lines.extend(instance.task.as_ref().map(|task| format!("  running: {}", instances::task_text(task))));
    if let Some(newest) = recoveries.first() {
        lines.push(format!(
            "  newest recovery {}: {}",
            render::short(&newest.recovery_id),
            recoveries::sentence(client, newest)
        ));
    }
    lines.push(match instances::trouble(instance) {
        Some(trouble) => format!("  ! {trouble}"),
        None if recoveries.first().is_some_and(|newest| newest.status == "PAUSED") => {
            "  ! A recovery waits for you to promote or abort it; the server serves meanwhile.".to_owned()
        }
        None if newest_backup.is_some_and(|backup| backup.status == "FAILED") => format!(
            "  ! The newest backup failed, so a recovery starts from an older one. Make another: coffer backup create {}",
            instance.name
        ),
        None if instance.status == "ACTIVE" => "  All is well.".to_owned(),
        None => "  Nothing needs you.".to_owned(),
    });
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{instance_lines, show};
    use crate::client::Client;
    use crate::client::canned::Canned;
    use crate::client::view;

    #[test]
    fn an_instance_in_order_says_so_and_one_in_trouble_says_what_to_do() {
        let canned = Canned::new(&[]);
        let client = Client::of(&canned);
        let well: view::Instance = view::read(&json!({
            "name": "shop", "status": "ACTIVE", "recoverable": {"earliest": "2026-01-01T00:00:00Z"},
            "shipping": {"state": "shipping", "lag_seconds": 0.1, "gtid": "0-1-7"}
        }))
        .unwrap();
        let text = instance_lines(&client, &well, &[], None).join("\n");
        let failed: view::Backup = view::read(&json!({"status": "FAILED"})).unwrap();
        assert!(instance_lines(&client, &well, &[], Some(&failed)).join("\n").contains("! The newest backup failed"));
        assert!(text.contains("All is well.") && text.contains("up to transaction 0-1-7, nothing waits"), "{text}");
        let bare: view::Instance = view::read(&json!({"name": "shop", "status": "ACTIVE"})).unwrap();
        assert!(instance_lines(&client, &bare, &[], None).join("\n").contains("! There is no backup"));
    }

    #[test]
    fn status_reads_instances_and_their_recoveries() {
        let canned = Canned::new(&[
            ("GET /v1.0/appliance/instances", 200, r#"{"instances":[{"id":"i1","name":"shop","status":"ACTIVE"}]}"#),
            (
                "GET /v1.0/appliance/instances/i1/recoveries",
                200,
                r#"{"recoveries":[{"id":"r1","recovery_id":"r1","status":"COMPLETED","state":"RETAINED"}]}"#,
            ),
            ("GET /v1.0/appliance/backups?instance_id=i1&limit=1", 200, r#"{"backups":[]}"#),
        ]);
        show(&Client::of(&canned)).unwrap();
        assert_eq!(canned.seen().len(), 3);
    }
}
