//! `coffer backup`.

use serde_json::{Value, json};

use crate::cli;
use crate::client::http::{self, Api, escape};
use crate::client::progress::{self, Settled};
use crate::client::view::{self, Backup, Instance};
use crate::client::{Client, instances, pick, render};
use crate::error::Error;

pub(super) fn list(client: &Client, wanted: &cli::BackupList) -> Result<(), Error> {
    let instance = wanted.instance.as_ref().map(|name| instances::find(&client.api, name)).transpose()?;
    let path = match &instance {
        Some(instance) => format!("/backups?instance_id={}", escape(&instance.id)),
        None => "/backups".to_owned(),
    };
    let answer = client.api.get_all(&path, "backups")?;
    client.print(&answer, || {
        let backups: Vec<Backup> = view::read(http::member(&answer, "backups")?)?;
        if backups.is_empty() {
            return Ok(vec!["No backups yet. `coffer backup create INSTANCE` makes one.".to_owned()]);
        }
        let names = instance_names(&client.api)?;
        let mut table =
            render::Table::new(&["ID", "NAME", "INSTANCE", "STATUS", "VERIFIED", "DATA", "STORED", "HOLDS ALL UP TO"]);
        for backup in &backups {
            let name = names.iter().find(|instance| instance.id == backup.instance_id);
            table.row([
                render::short(&backup.id),
                render::shorten(&backup.name, 30),
                name.map_or_else(|| render::short(&backup.instance_id), |instance| instance.name.clone()),
                backup.status.clone(),
                backup.verification.clone(),
                render::bytes(backup.raw_bytes),
                render::bytes(backup.stored_bytes),
                client.time(backup.end.as_ref().and_then(|end| end.commit_time)),
            ]);
        }
        Ok(table.lines())
    })
}

pub(super) fn show(client: &Client, wanted: &cli::BackupShow) -> Result<(), Error> {
    let backup = find(&client.api, &wanted.backup)?;
    let answer = client.api.get(&format!("/backups/{}", backup.id))?;
    print(client, &answer)
}

pub(super) fn create(client: &Client, wanted: &cli::BackupCreate) -> Result<(), Error> {
    let instance = instances::find(&client.api, &wanted.instance)?;
    let name = wanted
        .name
        .clone()
        .unwrap_or_else(|| format!("{}-{}", instance.name, crate::clock::now().strftime("%Y%m%d-%H%M%S")));
    let mut backup = json!({"name": name, "instance": instance.id});
    if let Some(description) = &wanted.description {
        backup["description"] = json!(description);
    }
    let answer = client.api.post("/backups", &json!({"backup": backup}))?;
    let answer = if wanted.no_wait { answer } else { settle(client, &answer)? };
    print(client, &answer)
}

pub(super) fn delete(client: &Client, wanted: &cli::BackupDelete) -> Result<(), Error> {
    let backup = find(&client.api, &wanted.backup)?;
    let path = format!("/backups/{}", backup.id);
    let mut answer = client.api.delete(&path)?;
    if !wanted.no_wait {
        answer = progress::follow_to_its_end(&client.api, &path, client.show(), |answer| {
            let backup: Backup = view::read(http::member(answer, "backup")?)?;
            Ok(match backup.status.as_str() {
                "DELETE_FAILED" => Settled::Failed(progress::fault_error(backup.fault.as_ref(), "it was not deleted")),
                _ => Settled::Running(backup.task.map(|task| task.progress).unwrap_or_default()),
            })
        })?;
    }
    client.print(&answer, || {
        let told = if wanted.no_wait { "is being deleted" } else { "is deleted" };
        Ok(vec![format!("Backup {} {told}.", backup.name)])
    })
}

/// Waits until the backup of `answer` is complete; the last answer is returned.
pub(super) fn settle(client: &Client, answer: &Value) -> Result<Value, Error> {
    let backup: Backup = view::read(http::member(answer, "backup")?)?;
    progress::follow(&client.api, &format!("/backups/{}", backup.id), client.show(), |answer| {
        let backup: Backup = view::read(http::member(answer, "backup")?)?;
        Ok(match backup.status.as_str() {
            "COMPLETED" | "RESTORED" => Settled::Done,
            "FAILED" | "DELETE_FAILED" => {
                Settled::Failed(progress::fault_error(backup.fault.as_ref(), "the backup failed"))
            }
            _ => Settled::Running(backup.task.map(|task| task.progress).unwrap_or_default()),
        })
    })
}

/// The backup that `wanted` names.
pub(super) fn find(api: &Api, wanted: &str) -> Result<Backup, Error> {
    let answer = api.get_all("/backups", "backups")?;
    let backups: Vec<Backup> = view::read(http::member(&answer, "backups")?)?;
    pick(&backups, wanted, "backup", |backup| &backup.id, |backup| &backup.name).cloned()
}

fn instance_names(api: &Api) -> Result<Vec<Instance>, Error> {
    view::read(http::member(&api.get("/instances")?, "instances")?)
}

fn print(client: &Client, answer: &Value) -> Result<(), Error> {
    client.print(answer, || {
        let backup: Backup = view::read(http::member(answer, "backup")?)?;
        let end = backup.end.clone().unwrap_or_default();
        let mut lines = render::facts(&[
            ("backup", backup.name.clone()),
            ("id", backup.id.clone()),
            ("description", backup.description.clone().unwrap_or_default()),
            ("instance", backup.instance_id.clone()),
            ("status", backup.status.clone()),
            ("data", render::bytes(backup.raw_bytes)),
            ("stored", render::bytes(backup.stored_bytes)),
            ("holds all up to", end.commit_time.map(|time| client.time(Some(time))).unwrap_or_default()),
            ("position", end.position),
            ("GTID", end.gtid.unwrap_or_default()),
            ("manifest", backup.location.clone().unwrap_or_default()),
            ("SHA-256", backup.checksum.clone().unwrap_or_default()),
            ("verified", verified_text(client, &backup)),
            ("running", backup.task.as_ref().map(instances::task_text).unwrap_or_default()),
            ("created", backup.created.map(|time| client.time(Some(time))).unwrap_or_default()),
        ]);
        if let Some(fault) = &backup.fault {
            lines.push(format!("\n! {}", progress::fault_error(Some(fault), "")));
        }
        Ok(lines)
    })
}

fn verified_text(client: &Client, backup: &Backup) -> String {
    match backup.verified_at {
        Some(at) => format!("{}, each object since {}", backup.verification, client.time(Some(at))),
        None => backup.verification.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{create, list, settle};
    use crate::cli::{BackupAction, Command, Parsed, parse};
    use crate::client::Client;
    use crate::client::canned::Canned;

    const INSTANCES: (&str, u16, &str) =
        ("GET /v1.0/appliance/instances", 200, r#"{"instances":[{"id":"i1","name":"shop"}]}"#);

    fn action(line: &str) -> BackupAction {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let Parsed::Run(command) = parse(&words) else { panic!("{line}") };
        let Command::Backup(backup) = *command else { panic!("{line}") };
        backup.action
    }

    #[test]
    fn a_backup_is_asked_for_as_trove_does_and_awaited() {
        let canned = Canned::new(&[
            INSTANCES,
            ("POST /v1.0/appliance/backups", 202, r#"{"backup":{"id":"b1","status":"NEW"}}"#),
            (
                "GET /v1.0/appliance/backups/b1",
                200,
                r#"{"backup":{"id":"b1","status":"BUILDING","task":{"step":"copying","done":1,"total":2,"unit":"bytes"}}}"#,
            ),
            ("GET /v1.0/appliance/backups/b1", 200, r#"{"backup":{"id":"b1","status":"COMPLETED"}}"#),
        ]);
        let BackupAction::Create(wanted) = action("backup create shop --name nightly") else { panic!() };
        create(&Client::of(&canned), &wanted).unwrap();
        let wanted = json!({"backup": {"name": "nightly", "instance": "i1"}});
        assert_eq!(canned.bodies().get(1), Some(&wanted));
        assert_eq!(canned.seen().len(), 4);
    }

    #[test]
    fn a_failed_backup_is_a_failure() {
        let canned = Canned::new(&[(
            "GET /v1.0/appliance/backups/b1",
            200,
            r#"{"backup":{"id":"b1","status":"FAILED","fault":{"message":"the disk is full"}}}"#,
        )]);
        let err = settle(&Client::of(&canned), &json!({"backup": {"id": "b1"}})).unwrap_err();
        assert_eq!(err.to_string(), "the disk is full");
    }

    #[test]
    fn a_list_can_be_of_one_instance() {
        let canned = Canned::new(&[
            INSTANCES,
            ("GET /v1.0/appliance/backups?instance_id=i1", 200, r#"{"backups":[{"id":"b1"}]}"#),
        ]);
        let BackupAction::List(wanted) = action("backup list shop") else { panic!() };
        list(&Client::of(&canned), &wanted).unwrap();
    }
}
