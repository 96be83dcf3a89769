//! `coffer instance`: the servers an appliance looks after.

use serde_json::{Value, json};

use crate::cli;
use crate::client::http::{self, Api};
use crate::client::progress::{self, Settled};
use crate::client::view::{self, Instance, Shipping, Task};
use crate::client::{Client, pick, render};
use crate::error::{Error, ErrorKind};

pub(super) fn list(client: &Client) -> Result<(), Error> {
    let answer = client.api.get("/instances")?;
    client.print(&answer, || {
        let instances: Vec<Instance> = view::read(http::member(&answer, "instances")?)?;
        if instances.is_empty() {
            return Ok(vec!["No instances yet. `coffer instance create NAME` makes one.".to_owned()]);
        }
        let mut table = render::Table::new(&["ID", "NAME", "STATUS", "SERVER", "PORT", "RECOVERABLE UP TO", "LAG"]);
        for instance in &instances {
            let latest = instance.recoverable.as_ref().and_then(|window| window.latest);
            table.row([
                render::short(&instance.id),
                instance.name.clone(),
                instance.status.clone(),
                server(instance),
                port(instance),
                client.time(latest),
                lag(instance),
            ]);
        }
        Ok(table.lines())
    })
}

pub(super) fn show(client: &Client, wanted: &cli::InstanceShow) -> Result<(), Error> {
    let instance = find(&client.api, &wanted.instance)?;
    let answer = client.api.get(&format!("/instances/{}", instance.id))?;
    client.print(&answer, || {
        let instance: Instance = view::read(http::member(&answer, "instance")?)?;
        Ok(describe(client, &instance))
    })
}

pub(super) fn create(client: &Client, wanted: &cli::InstanceCreate) -> Result<(), Error> {
    let mut instance = json!({"name": wanted.name});
    if let Some(port) = wanted.port {
        instance["port"] = json!(port);
    }
    if let Some(datastore) = &wanted.datastore {
        instance["datastore"] = json!({"type": datastore});
    }
    let answer = client.api.post("/instances", &json!({"instance": instance}))?;
    settle_and_print(client, answer, wanted.no_wait)
}

pub(super) fn adopt(client: &Client, wanted: &cli::InstanceAdopt) -> Result<(), Error> {
    let body = adopt_body(wanted)?;
    let answer = client.api.post("/instances", &body)?;
    settle_and_print(client, answer, wanted.no_wait)
}

pub(super) fn delete(client: &Client, wanted: &cli::InstanceDelete) -> Result<(), Error> {
    let instance = find(&client.api, &wanted.instance)?;
    let path = format!("/instances/{}", instance.id);
    let mut answer = client.api.delete(&path)?;
    if !wanted.no_wait {
        answer = progress::follow_to_its_end(&client.api, &path, client.show(), |answer| judge(answer, &[]))?;
    }
    client.print(&answer, || {
        let told = if wanted.no_wait { "is being deleted" } else { "is deleted. Its backups are kept" };
        Ok(vec![format!("Instance {} {told}.", instance.name)])
    })
}

/// Waits until the instance of `answer` serves; the last answer is returned.
pub(super) fn settle(client: &Client, answer: &Value) -> Result<Value, Error> {
    let instance: Instance = view::read(http::member(answer, "instance")?)?;
    let path = format!("/instances/{}", instance.id);
    progress::follow(&client.api, &path, client.show(), |answer| judge(answer, &["ACTIVE", "BACKUP"]))
}

/// The instance that `wanted` names.
pub(super) fn find(api: &Api, wanted: &str) -> Result<Instance, Error> {
    let answer = api.get("/instances")?;
    let instances: Vec<Instance> = view::read(http::member(&answer, "instances")?)?;
    pick(&instances, wanted, "instance", |instance| &instance.id, |instance| &instance.name).cloned()
}

/// What stands in the way of an instance's safety, as one sentence with the remedy; nothing when all is well.
pub(super) fn trouble(instance: &Instance) -> Option<String> {
    let sentence = render::sentence;
    if let Some(fault) = &instance.fault {
        let remedy = fault.details.as_deref().filter(|details| !details.is_empty());
        let remedy = remedy.map(|details| format!(" {}", sentence(details))).unwrap_or_default();
        return Some(format!("{}{remedy}", sentence(&fault.message)));
    }
    if instance.status == "ERROR" {
        return Some("The server does not serve. Look into its error log, then recover it.".to_owned());
    }
    // While something is under way, shipping may rest and a new instance has nothing to ship yet.
    let shipping = instance.shipping.as_ref().filter(|_| matches!(instance.status.as_str(), "ACTIVE" | "BACKUP"));
    if let Some(message) = shipping.and_then(|shipping| shipping.message.as_deref()).filter(|text| !text.is_empty()) {
        return Some(sentence(message));
    }
    if let Some(bad) = instance.verification.bad.first() {
        let others = match instance.verification.bad_objects {
            0 | 1 => String::new(),
            count => format!(" (and {} more)", render::count(count - 1)),
        };
        let what = format!("the stored {} `{}` is bad{others}: {}", bad.kind, bad.object, bad.reason);
        return Some(format!("{} On it depends {}. {}", sentence(&what), bad.depends, sentence(&bad.remedy)));
    }
    if instance.status == "ACTIVE" && instance.recoverable.as_ref().is_none_or(|window| window.earliest.is_none()) {
        return Some(format!(
            "There is no backup, so nothing can be brought back. Make one: coffer backup create {}.",
            instance.name
        ));
    }
    let gap = instance.recoverable.as_ref().and_then(|window| window.gaps.iter().rfind(|gap| gap.open));
    gap.map(|gap| {
        let after = gap.after.as_deref().map(|after| format!(" after {after}")).unwrap_or_default();
        format!(
            "Binlog was never shipped{after} ({}). Make a new backup, so that what follows can be reached: coffer backup create {}.",
            gap.reason, instance.name
        )
    })
}

/// When what is stored was last read again.
pub(super) fn verified_text(client: &Client, instance: &Instance) -> String {
    let verification = &instance.verification;
    let Some(last) = verification.last_verified else {
        return match verification.objects {
            0 => "never".to_owned(),
            objects => format!("in part: {}", render::counted(objects, "object")),
        };
    };
    let oldest = verification.oldest_verified.map(|oldest| format!(", each since {}", client.time(Some(oldest))));
    let objects = render::counted(verification.objects, "object");
    format!("{}; {objects}{}", client.time(Some(last)), oldest.unwrap_or_default())
}

/// `replaying 12 000 of 250 580 transactions`.
pub(super) fn task_text(task: &Task) -> String {
    let step = if task.progress.step.is_empty() { "queued" } else { &task.progress.step };
    format!("{}: {step} {}", task.kind.replace('_', " "), progress::figures(&task.progress)).trim_end().to_owned()
}

/// `0.4 s`, or how much waits when no time is known.
pub(super) fn lag(instance: &Instance) -> String {
    let Some(shipping) = &instance.shipping else { return "-".to_owned() };
    if shipping.message.as_deref().is_some_and(|message| !message.is_empty()) && shipping.behind_bytes == 0 {
        // Nothing can be read that could wait.
        return "-".to_owned();
    }
    match shipping.lag_seconds {
        Some(seconds) => format!("{seconds:.1} s"),
        None if shipping.behind_bytes > 0 => render::bytes(shipping.behind_bytes),
        None => "0.0 s".to_owned(),
    }
}

/// How far the binlog has reached the repository: `up to transaction 0-1-7, nothing waits`.
pub(super) fn shipping_text(shipping: &Shipping, instance: &Instance) -> String {
    let to = match shipping.gtid.as_deref().filter(|gtid| !gtid.is_empty()) {
        Some(gtid) => format!("up to transaction {gtid}"),
        // A server may give its transactions no GTIDs.
        None if shipping.last_commit.is_some() => {
            format!("up to {}", shipping.shipped_to.as_deref().unwrap_or("there"))
        }
        None => "no transaction yet".to_owned(),
    };
    let has_message = shipping.message.as_deref().is_some_and(|message| !message.is_empty());
    let rest = match shipping.state.as_str() {
        "failing" => format!("failing since {} with {} waiting", lag(instance), render::bytes(shipping.behind_bytes)),
        "held" => "held while a recovery exchanges the data".to_owned(),
        _ if shipping.behind_bytes > 0 => {
            format!("{} behind, {} wait", lag(instance), render::bytes(shipping.behind_bytes))
        }
        _ if has_message => "there is no binlog to read on".to_owned(),
        _ => "nothing waits".to_owned(),
    };
    format!("{to}, {rest}")
}

fn settle_and_print(client: &Client, answer: Value, no_wait: bool) -> Result<(), Error> {
    let answer = if no_wait { answer } else { settle(client, &answer)? };
    client.print(&answer, || {
        let instance: Instance = view::read(http::member(&answer, "instance")?)?;
        Ok(describe(client, &instance))
    })
}

fn judge(answer: &Value, wanted: &[&str]) -> Result<Settled, Error> {
    let instance: Instance = view::read(http::member(answer, "instance")?)?;
    if wanted.contains(&instance.status.as_str()) {
        return Ok(Settled::Done);
    }
    if instance.status == "ERROR" {
        let otherwise = format!("instance {} is in status ERROR", instance.name);
        return Ok(Settled::Failed(progress::fault_error(instance.fault.as_ref(), &otherwise)));
    }
    Ok(Settled::Running(instance.task.map(|task| task.progress).unwrap_or_default()))
}

fn adopt_body(wanted: &cli::InstanceAdopt) -> Result<Value, Error> {
    let mut adopt = json!({"socket": wanted.socket, "defaults_file": wanted.defaults_file});
    match (&wanted.systemd_unit, wanted.start.is_empty(), wanted.stop.is_empty()) {
        (Some(unit), true, true) => adopt["systemd_unit"] = json!(unit),
        (None, false, false) => {
            adopt["start"] = json!(wanted.start);
            adopt["stop"] = json!(wanted.stop);
        }
        _ => {
            return Err(Error::new(ErrorKind::InvalidInput, "how the server is stopped and started is not clear")
                .hint("Give either --systemd-unit, or both --start and --stop."));
        }
    }
    Ok(json!({"instance": {"name": wanted.name, "adopt": adopt}}))
}

fn describe(client: &Client, instance: &Instance) -> Vec<String> {
    let window = instance.recoverable.clone().unwrap_or_default();
    let shipping = instance.shipping.clone().unwrap_or_default();
    let window_text = match (window.earliest, window.latest) {
        (None, _) => "nothing yet: there is no backup".to_owned(),
        (Some(_), latest) => format!("from {} to {}", client.time(window.earliest), client.time(latest)),
    };
    let shipped = instance.shipping.as_ref().map(|shipping| shipping_text(shipping, instance));
    let mut lines = render::facts(&[
        ("instance", instance.name.clone()),
        ("id", instance.id.clone()),
        ("status", instance.status.clone()),
        ("server", server(instance)),
        ("socket", instance.socket.clone()),
        ("port", instance.port.filter(|port| *port > 0).map(|port| port.to_string()).unwrap_or_default()),
        ("data directory", instance.data_dir.clone()),
        ("control", control(&instance.control)),
        ("timeline", instance.timeline.as_ref().map(|timeline| timeline.number.to_string()).unwrap_or_default()),
        ("recoverable", window_text),
        ("shipped", shipped.unwrap_or_default()),
        ("last verified", verified_text(client, instance)),
        ("binlog position", shipping.shipped_to.unwrap_or_default()),
        ("running", instance.task.as_ref().map(task_text).unwrap_or_default()),
        ("created", instance.created.map(|created| client.time(Some(created))).unwrap_or_default()),
    ]);
    lines.extend(trouble(instance).map(|text| format!("\n! {text}")));
    lines
}

fn server(instance: &Instance) -> String {
    let datastore = &instance.datastore;
    format!("{} {}", datastore.kind, datastore.version_number.as_ref().unwrap_or(&datastore.version)).trim().to_owned()
}

fn port(instance: &Instance) -> String {
    instance.port.filter(|port| *port > 0).map_or_else(|| "-".to_owned(), |port| port.to_string())
}

/// `created`, or the one word or object the API has for it.
fn control(control: &Value) -> String {
    match control {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(members) => match members.iter().next() {
            Some((kind, Value::Object(inner))) => match inner.get("unit").and_then(Value::as_str) {
                Some(unit) => format!("{kind} {unit}"),
                None => kind.clone(),
            },
            Some((kind, _)) => kind.clone(),
            None => String::new(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{adopt_body, describe, find, list, settle, trouble};
    use crate::cli::{Command, InstanceAction, Parsed, parse};
    use crate::client::Client;
    use crate::client::canned::Canned;
    use crate::client::view::{self, Instance};
    use crate::error::ErrorKind;

    const LIST: &str = r#"{"instances":[{"id":"6f8f1c2e-0000","name":"shop","status":"ACTIVE",
        "datastore":{"type":"mariadb","version":"10.11","version_number":"10.11.19"},"port":3307,"socket":"/s",
        "recoverable":{"earliest":"2026-01-01T00:00:00Z","latest":"2026-01-01T01:00:00Z","gaps":[]},
        "shipping":{"state":"shipping","shipped_to":"binlog.000002:4711","gtid":"0-11-9","lag_seconds":0.25,"behind_bytes":0}}]}"#;

    fn instance(value: serde_json::Value) -> Instance {
        view::read(&value).unwrap()
    }

    #[test]
    fn an_instance_is_found_by_name_and_described() {
        let canned = Canned::new(&[("GET /v1.0/appliance/instances", 200, LIST)]);
        let found = find(&canned.api(), "shop").unwrap();
        let text = describe(&Client::of(&canned), &found).join("\n");
        for part in [
            "mariadb 10.11.19",
            "from 2026-01-01 00:00:00 UTC to 2026-01-01 01:00:00 UTC",
            "up to transaction 0-11-9, nothing waits",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('!'), "{text}");
        assert_eq!(find(&canned.api(), "blog").unwrap_err().kind(), ErrorKind::NotFound);
        list(&Client::of(&canned)).unwrap();
    }

    #[test]
    fn what_is_wrong_is_one_sentence_with_the_remedy() {
        let well = json!({"name": "shop", "status": "ACTIVE", "recoverable": {"earliest": "2026-01-01T00:00:00Z"}});
        assert_eq!(trouble(&instance(well.clone())), None);
        let mut bare = well.clone();
        bare["recoverable"] = json!(null);
        assert!(trouble(&instance(bare)).unwrap().contains("coffer backup create shop"));
        let mut failing = well.clone();
        failing["shipping"] = json!({"message": "The folder is gone. Mount it"});
        assert_eq!(trouble(&instance(failing)).unwrap(), "The folder is gone. Mount it.");
        let mut broken = well.clone();
        broken["fault"] = json!({"message": "the server crashed", "details": "Recover it."});
        assert_eq!(trouble(&instance(broken)).unwrap(), "The server crashed. Recover it.");
        let mut holed = well;
        holed["recoverable"]["gaps"] =
            json!([{"after": "b.000003:9", "reason": "purged before it was shipped", "open": true}]);
        assert!(trouble(&instance(holed.clone())).unwrap().contains("b.000003:9"));
        // A backup behind it has mended what could be mended.
        holed["recoverable"]["gaps"][0]["open"] = json!(false);
        assert_eq!(trouble(&instance(holed)), None);
        let begun = json!({"status": "BUILD", "shipping": {"message": "There are no binlog files to ship"}});
        assert_eq!(trouble(&instance(begun)), None);
    }

    #[test]
    fn a_bad_object_is_told_with_what_depends_on_it_before_anything_that_follows_from_it() {
        let bad = json!({"object": "a/part-1", "kind": "part", "reason": "it is gone",
            "depends": "backup `b` and every recovery from it", "remedy": "Take a new backup now."});
        let view = json!({"name": "shop", "status": "ACTIVE", "verification": {"bad_objects": 3, "bad": [bad]}});
        assert_eq!(
            trouble(&instance(view)).unwrap(),
            "The stored part `a/part-1` is bad (and 2 more): it is gone. On it depends backup `b` and every recovery \
             from it. Take a new backup now."
        );
    }

    #[test]
    fn creating_ends_with_the_instances_fault_when_it_fails() {
        let canned = Canned::new(&[
            ("GET /v1.0/appliance/instances/i1", 200, r#"{"instance":{"id":"i1","status":"BUILD"}}"#),
            (
                "GET /v1.0/appliance/instances/i1",
                200,
                r#"{"instance":{"id":"i1","status":"ERROR","fault":{"message":"no port","details":"Choose one."}}}"#,
            ),
        ]);
        let err = settle(&Client::of(&canned), &json!({"instance": {"id": "i1"}})).unwrap_err();
        assert_eq!(err.to_string(), "no port. Choose one.");
    }

    #[test]
    fn adopting_wants_exactly_one_way_to_stop_and_start() {
        let body = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let Parsed::Run(command) = parse(&words) else { panic!("{line}") };
            let Command::Instance(instance) = *command else { panic!("{line}") };
            let InstanceAction::Adopt(adopt) = instance.action else { panic!("{line}") };
            adopt_body(&adopt)
        };
        let base = "instance adopt shop --socket /s --defaults-file /f";
        assert_eq!(
            body(&format!("{base} --systemd-unit m")).unwrap(),
            json!({"instance": {"name": "shop", "adopt": {"socket": "/s", "defaults_file": "/f", "systemd_unit": "m"}}})
        );
        assert_eq!(
            body(&format!("{base} --start /db --start --now --stop /stop")).unwrap()["instance"]["adopt"]["start"],
            json!(["/db", "--now"])
        );
        assert!(body(base).is_err());
        assert!(body(&format!("{base} --start /db")).is_err());
        assert!(body(&format!("{base} --start /db --stop /x --systemd-unit m")).is_err());
    }
}
