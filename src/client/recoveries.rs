//! `coffer recover` and `coffer recovery`.

use serde_json::{Map, Value, json};

use crate::cli;
use crate::client::http::{self, Api};
use crate::client::progress::{self, Settled};
use crate::client::view::{self, Fault, Instance, Plan, PlannedTransaction, Recovery};
use crate::client::{Client, backups, instances, output, pick, render, timelines};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::Gtid;
use crate::error::{Error, ErrorKind};

pub(super) fn recover(client: &Client, wanted: &cli::Recover) -> Result<(), Error> {
    let mut members = recovery_members(wanted, &client.zone)?;
    let instance = instances::find(&client.api, &wanted.instance)?;
    if let Some(backup) = &wanted.backup {
        members.insert("backup".to_owned(), json!(backups::find(&client.api, backup)?.id));
    }
    if let Some(timeline) = &wanted.timeline {
        members.insert("timeline".to_owned(), json!(timelines::find(&client.api, &instance.id, timeline)?.id));
    }
    members.insert("instance".to_owned(), json!(instance.id));
    if wanted.plan {
        let answer = plan(&client.api, &instance.id, members)?;
        return client.print(&answer, || {
            let mut lines = plan_lines(&view::read(http::member(&answer, "plan")?)?, &client.zone);
            lines.push("Nothing was changed. The same command without --plan carries it out.".to_owned());
            Ok(lines)
        });
    }
    let answer = begin(&client.api, &instance.id, members)?;
    let begun: Recovery = view::read(http::member(&answer, "recovery")?)?;
    if wanted.no_wait {
        return client.print(&answer, || {
            Ok(vec![
                format!("Recovery {} of {} has begun.", begun.recovery_id, instance.name),
                format!("Follow it with: coffer recovery show {}", begun.recovery_id),
            ])
        });
    }
    if !client.json {
        output::note(format!("Recovery {} of {}; it goes on if you stop watching.", begun.recovery_id, instance.name));
    }
    let answer = settle(client, &instance.id, &begun.recovery_id, Wish::Recovered)?;
    print(client, &answer)
}

pub(super) fn list(client: &Client, wanted: &cli::RecoveryList) -> Result<(), Error> {
    let (answer, recoveries) = read_all(&client.api, wanted.instance.as_deref())?;
    client.print(&answer, || {
        if recoveries.is_empty() {
            return Ok(vec!["No recoveries yet.".to_owned()]);
        }
        let mut table = render::Table::new(&["ID", "INSTANCE", "STATUS", "STATE", "TARGET", "BEGUN", "DOWN"]);
        for recovery in &recoveries {
            let down = recovery.outcome.as_ref().and_then(view::Outcome::down_milliseconds);
            table.row([
                render::short(id(recovery)),
                recovery.name.clone(),
                recovery.status.clone(),
                recovery.state.clone(),
                render::shorten(&recovery.target, 50),
                client.time(recovery.created),
                down.map_or_else(|| "-".to_owned(), render::milliseconds),
            ]);
        }
        Ok(table.lines())
    })
}

pub(super) fn show(client: &Client, wanted: &cli::RecoveryShow) -> Result<(), Error> {
    let recovery = find(&client.api, &wanted.recovery)?;
    print(client, &client.api.get(&path(&recovery.instance_id, id(&recovery)))?)
}

pub(super) fn promote(client: &Client, wanted: &cli::RecoveryPromote) -> Result<(), Error> {
    act(client, &wanted.recovery, "promote", Wish::Recovered, wanted.no_wait)
}

pub(super) fn abort(client: &Client, wanted: &cli::RecoveryAbort) -> Result<(), Error> {
    act(client, &wanted.recovery, "abort", Wish::Aborted, wanted.no_wait)
}

pub(super) fn undo(client: &Client, wanted: &cli::RecoveryUndo) -> Result<(), Error> {
    act(client, &wanted.recovery, "undo", Wish::Undone, wanted.no_wait)
}

pub(super) fn release(client: &Client, wanted: &cli::RecoveryRelease) -> Result<(), Error> {
    act(client, &wanted.recovery, "release", Wish::Released, wanted.no_wait)
}

/// What somebody who waits for a recovery wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Recovered,
    Aborted,
    Undone,
    Released,
}

/// Asks for a plan; nothing is carried out.
pub(super) fn plan(api: &Api, instance: &str, mut members: Map<String, Value>) -> Result<Value, Error> {
    members.insert("plan_only".to_owned(), json!(true));
    api.post(&format!("/instances/{instance}/recover"), &json!({"recovery": members}))
}

/// Begins a recovery.
pub(super) fn begin(api: &Api, instance: &str, members: Map<String, Value>) -> Result<Value, Error> {
    api.post(&format!("/instances/{instance}/recover"), &json!({"recovery": members}))
}

/// Asks for a `promote`, `abort`, `undo` or `release`.
pub(super) fn ask(api: &Api, instance: &str, recovery: &str, action: &str) -> Result<Value, Error> {
    api.post(&format!("{}/{action}", path(instance, recovery)), &json!({}))
}

/// Waits until the wish came true or can't; the last answer is returned.
pub(super) fn settle(client: &Client, instance: &str, recovery: &str, wish: Wish) -> Result<Value, Error> {
    settle_after(client, instance, recovery, wish, None)
}

/// The same for a wish on a recovery that may carry the fault of an earlier attempt.
pub(super) fn settle_after(
    client: &Client,
    instance: &str,
    recovery: &str,
    wish: Wish,
    fault_before: Option<&Fault>,
) -> Result<Value, Error> {
    progress::follow(&client.api, &path(instance, recovery), client.show(), |answer| {
        let recovery: Recovery = view::read(http::member(answer, "recovery")?)?;
        Ok(judge(&recovery, wish, fault_before))
    })
}

/// How a recovery stands and what can be done about it, in one sentence without its stop.
pub(super) fn sentence(client: &Client, recovery: &Recovery) -> String {
    let id = render::short(id(recovery));
    let to = if recovery.target.is_empty() { String::new() } else { format!(" to {}", recovery.target) };
    match recovery.status.as_str() {
        "COMPLETED" => format!("recovered{to}; {}", about_undo(client, recovery, &id)),
        "PAUSED" => {
            let socket = recovery.outcome.as_ref().and_then(|outcome| outcome.inspect_socket.as_deref());
            let program = if recovery.datastore == "mysql" { "mysql" } else { "mariadb" };
            let look = socket.map(|socket| format!(": `{program} --socket={socket}` shows it, read-only"));
            format!(
                "waiting for you, recovered{to} beside the server{}; `coffer recovery promote {id}` switches it in, `coffer recovery abort {id}` gives it up",
                look.unwrap_or_default()
            )
        }
        "FAILED" => {
            let fault = progress::fault_error(recovery.fault.as_ref(), "no reason is known");
            format!("failed, nothing was changed: {}", fault.to_string().trim_end_matches('.'))
        }
        "ABORTED" => "given up, nothing was changed".to_owned(),
        "UNDONE" if recovery.outcome.as_ref().is_some_and(|outcome| outcome.undo_timeline.is_none()) => {
            let fault = progress::fault_error(recovery.fault.as_ref(), "no reason is known");
            format!(
                "taken back by itself, the data from before it is in place: {}",
                fault.to_string().trim_end_matches('.')
            )
        }
        "UNDONE" => "undone, the server holds the data from before it".to_owned(),
        _ => {
            let figures = recovery.progress.as_ref().map(progress::figures).unwrap_or_default();
            let step = recovery.progress.as_ref().map(|progress| progress.step.clone()).unwrap_or_default();
            format!("under way{to} ({} {step} {figures}", recovery.state).trim_end().to_owned() + ")"
        }
    }
}

/// Whether a completed recovery can be taken back; nobody is sent to an undo that would be refused.
fn about_undo(client: &Client, recovery: &Recovery, id: &str) -> String {
    let outcome = recovery.outcome.clone().unwrap_or_default();
    let until = outcome.undo_until.map(|time| format!(" until {}", client.time(Some(time)))).unwrap_or_default();
    if recovery.state == "RELEASED" {
        "the data from before it is freed, so it cannot be undone any more".to_owned()
    } else if recovery.can_undo {
        format!("`coffer recovery undo {id}` takes it back{until}")
    } else if outcome.was_dead() && outcome.old_data_kept {
        format!(
            "it cannot be undone, because the server was dead before it; what that left is kept to look at{until}, `coffer recovery release {id}` frees it"
        )
    } else if outcome.was_dead() {
        "it cannot be undone, because the server had no data left before it".to_owned()
    } else {
        "it cannot be undone now: a later recovery builds on it, or its old data is being freed".to_owned()
    }
}

/// A plan, as somebody reads it before confirming.
pub(super) fn plan_lines(plan: &Plan, zone: &jiff::tz::TimeZone) -> Vec<String> {
    let transaction = |transaction: &Option<PlannedTransaction>, otherwise: &str| match transaction {
        None => otherwise.to_owned(),
        Some(transaction) => format!(
            "{}{}, at {}: {}",
            transaction.gtid.as_ref().map(|gtid| format!("{gtid}, ")).unwrap_or_default(),
            render::time_or_dash(transaction.commit_time, zone),
            transaction.begins_at,
            render::shorten(&transaction.what, 60)
        ),
    };
    let mut lines = render::facts(&[
        ("starts from backup", render::short(&plan.base)),
        (
            "replays",
            format!(
                "{}, {} of binlog",
                render::counted(plan.transactions, "transaction"),
                render::bytes(plan.replay_bytes)
            ),
        ),
        ("last that comes back", transaction(&plan.last_included, "none: the backup alone leads there")),
        ("first that does not", transaction(&plan.first_excluded, "none: everything that was shipped comes back")),
        ("left out on request", plan.skipped.join(", ")),
        (
            "given up",
            match plan.given_up_transactions {
                0 => "nothing".to_owned(),
                count => format!(
                    "{} after that point; the repository keeps them, as a target of another recovery",
                    render::counted(count, "transaction")
                ),
            },
        ),
        ("reads", format!("{} from the repository", render::bytes(plan.download_bytes))),
        ("disk needed", render::bytes(plan.disk_bytes)),
        ("takes about", render::milliseconds(plan.estimate_seconds.saturating_mul(1000))),
    ]);
    lines.extend(plan.warnings.iter().map(|warning| format!("! {warning}")));
    lines
}

/// The members of the request's body that name the point, checked as far as a client can.
fn recovery_members(wanted: &cli::Recover, zone: &jiff::tz::TimeZone) -> Result<Map<String, Value>, Error> {
    let mut members = Map::new();
    if let Some(text) = &wanted.to {
        members.insert("point_in_time".to_owned(), json!(render::parse_time(text, zone)?.to_string()));
    }
    for (name, gtid) in [("gtid", &wanted.to_gtid), ("before_gtid", &wanted.before_gtid)] {
        if let Some(text) = gtid {
            members.insert(name.to_owned(), json!(text.parse::<Gtid>()?));
        }
    }
    for (name, position) in [("position", &wanted.to_position), ("before_position", &wanted.before_position)] {
        if let Some(text) = position {
            members.insert(name.to_owned(), json!(text.parse::<BinlogPosition>()?));
        }
    }
    if wanted.latest {
        members.insert("latest".to_owned(), json!(true));
    }
    let points = members.len();
    if points > 1 || (points == 0 && wanted.backup.is_none()) {
        let said =
            if points == 0 { "no point to recover to is named" } else { "more than one point to recover to is named" };
        return Err(Error::new(ErrorKind::InvalidInput, said).hint(
            "Give exactly one of --to, --to-gtid, --before-gtid, --to-position, --before-position, --latest, or --backup alone.",
        ));
    }
    if !wanted.skip_gtid.is_empty() {
        let skip: Vec<Gtid> = wanted.skip_gtid.iter().map(|text| text.parse()).collect::<Result<_, Error>>()?;
        members.insert("skip".to_owned(), json!(skip));
    }
    if wanted.pause {
        members.insert("pause".to_owned(), json!(true));
    }
    Ok(members)
}

fn judge(recovery: &Recovery, wish: Wish, fault_before: Option<&Fault>) -> Settled {
    let status = recovery.status.as_str();
    let is_granted = match wish {
        Wish::Recovered => status == "COMPLETED" || status == "PAUSED",
        Wish::Aborted => status == "ABORTED",
        Wish::Undone => status == "UNDONE",
        Wish::Released => recovery.state == "RELEASED",
    };
    if is_granted {
        return Settled::Done;
    }
    let fault = recovery.fault.as_ref().filter(|fault| Some(*fault) != fault_before);
    let otherwise = format!("the recovery is now {status}");
    let is_over = match wish {
        Wish::Recovered => matches!(status, "FAILED" | "ABORTED" | "UNDONE"),
        // A recovery that was past its switch when the abort came is completed, not aborted.
        Wish::Aborted => matches!(status, "FAILED" | "COMPLETED" | "UNDONE"),
        Wish::Undone | Wish::Released => matches!(status, "FAILED" | "ABORTED") || fault.is_some(),
    };
    if is_over {
        return Settled::Failed(progress::fault_error(fault, &otherwise));
    }
    let mut progress = recovery.progress.clone().unwrap_or_default();
    if progress.step.is_empty() {
        progress.step = recovery.state.to_lowercase().replace('_', " ");
    }
    Settled::Running(progress)
}

fn act(client: &Client, wanted: &str, action: &str, wish: Wish, no_wait: bool) -> Result<(), Error> {
    let recovery = find(&client.api, wanted)?;
    ask(&client.api, &recovery.instance_id, id(&recovery), action)?;
    if no_wait {
        let answer = client.api.get(&path(&recovery.instance_id, id(&recovery)))?;
        return print(client, &answer);
    }
    let fault = recovery.fault.as_ref();
    let answer = settle_after(client, &recovery.instance_id, id(&recovery), wish, fault)?;
    print(client, &answer)
}

/// The recovery that `wanted` names: by id, by its first characters, or the newest of the instance of that name.
fn find(api: &Api, wanted: &str) -> Result<Recovery, Error> {
    let (_, recoveries) = read_all(api, None)?;
    // They are newest first within an instance, and instance names are unique.
    if let Some(newest) = recoveries.iter().find(|recovery| recovery.name == wanted || recovery.instance_id == wanted) {
        return Ok(newest.clone());
    }
    pick(&recoveries, wanted, "recovery", id, |_| "").cloned()
}

fn read_all(api: &Api, instance: Option<&str>) -> Result<(Value, Vec<Recovery>), Error> {
    let instances: Vec<Instance> = match instance {
        Some(name) => vec![instances::find(api, name)?],
        None => view::read(http::member(&api.get("/instances")?, "instances")?)?,
    };
    let mut all: Vec<Value> = Vec::new();
    for instance in instances {
        let answer = api.get(&format!("/instances/{}/recoveries", instance.id))?;
        all.extend(http::member(&answer, "recoveries")?.as_array().cloned().unwrap_or_default());
    }
    let answer = json!({"recoveries": all});
    let recoveries = view::read(http::member(&answer, "recoveries")?)?;
    Ok((answer, recoveries))
}

fn id(recovery: &Recovery) -> &str {
    if recovery.recovery_id.is_empty() { &recovery.id } else { &recovery.recovery_id }
}

fn path(instance: &str, recovery: &str) -> String {
    format!("/instances/{instance}/recoveries/{recovery}")
}

fn print(client: &Client, answer: &Value) -> Result<(), Error> {
    client.print(answer, || {
        let recovery: Recovery = view::read(http::member(answer, "recovery")?)?;
        Ok(describe(client, &recovery))
    })
}

fn describe(client: &Client, recovery: &Recovery) -> Vec<String> {
    let outcome = recovery.outcome.clone().unwrap_or_default();
    let tail = match outcome.tail.as_deref() {
        Some("files_survived") => "the server was dead; its newest transactions were read from its binlog files",
        Some("files_gone") => "the server was dead and its binlog files were gone; what had been shipped came back",
        _ => "",
    };
    let steps: Vec<String> =
        outcome.steps.iter().map(|step| format!("{} {}", step.step, render::milliseconds(step.milliseconds))).collect();
    let down = match outcome.down_milliseconds() {
        Some(down) => render::milliseconds(down),
        None if outcome.was_dead() && outcome.answered_at.is_some() => {
            format!("since before the recovery; it answered again at {}", client.time(outcome.answered_at))
        }
        None => String::new(),
    };
    let mut lines = render::facts(&[
        ("recovery", id(recovery).to_owned()),
        ("instance", recovery.name.clone()),
        (
            "status",
            if recovery.status == recovery.state {
                recovery.status.clone()
            } else {
                format!("{} ({})", recovery.status, recovery.state)
            },
        ),
        ("target", recovery.target.clone()),
        ("last commit", recovery.point_in_time.map(|time| client.time(Some(time))).unwrap_or_default()),
        ("reached GTID", outcome.reached.clone().unwrap_or_default()),
        ("replayed", render::counted(outcome.replayed_transactions, "transaction")),
        ("tail", tail.to_owned()),
        ("steps", steps.join(", ")),
        ("server down", down),
        ("look at it on", outcome.inspect_socket.clone().unwrap_or_default()),
        ("begun", recovery.created.map(|time| client.time(Some(time))).unwrap_or_default()),
    ]);
    if let Some(plan) =
        recovery.plan.as_ref().filter(|_| !matches!(recovery.status.as_str(), "COMPLETED" | "UNDONE" | "ABORTED"))
    {
        lines.push(String::new());
        lines.extend(plan_lines(plan, &client.zone));
    }
    lines.push(String::new());
    lines.push(render::sentence(&sentence(client, recovery)));
    lines
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::{Value, json};

    use super::{Settled, Wish, judge, plan_lines, recover, recovery_members, undo};
    use crate::cli::{Command, Parsed, Recover, RecoveryAction, parse};
    use crate::client::Client;
    use crate::client::canned::Canned;
    use crate::client::view::{self, Recovery};
    use crate::error::{Error, ErrorKind};

    fn command(line: &str) -> Command {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let Parsed::Run(command) = parse(&words) else { panic!("{line}") };
        *command
    }

    fn wanted(options: &str) -> Recover {
        let Command::Recover(recover) = command(&format!("recover shop {options}")) else { panic!("{options}") };
        recover
    }

    fn members(options: &str) -> Result<Value, Error> {
        recovery_members(&wanted(options), &TimeZone::UTC).map(Value::Object)
    }

    fn recovery(value: Value) -> Recovery {
        view::read(&value).unwrap()
    }

    #[test]
    fn each_point_becomes_its_member() {
        for (options, wanted) in [
            ("--to 2026-01-01T01:00:00+01:00", json!({"point_in_time": "2026-01-01T00:00:00Z"})),
            ("--to-gtid 0-11-5", json!({"gtid": "0-11-5"})),
            ("--before-gtid 0-11-5 --pause", json!({"before_gtid": "0-11-5", "pause": true})),
            ("--to-position binlog.000001:4", json!({"position": "binlog.000001:4"})),
            ("--before-position binlog.000001:4", json!({"before_position": "binlog.000001:4"})),
            ("--latest --skip-gtid 0-1-2 --skip-gtid 0-1-3", json!({"latest": true, "skip": ["0-1-2", "0-1-3"]})),
            ("--backup 1234", json!({})),
            ("--backup 1234 --latest", json!({"latest": true})),
        ] {
            assert_eq!(members(options).unwrap(), wanted, "{options}");
        }
    }

    #[test]
    fn nothing_two_points_and_nonsense_are_usage_errors() {
        for options in [
            "--plan",
            "--latest --to-gtid 0-1-2",
            "--to-gtid 0-1",
            "--to-position binlog:4",
            "--to 2026-01-01T00:00:00",
            "--latest --skip-gtid x",
        ] {
            assert_eq!(members(options).unwrap_err().kind(), ErrorKind::InvalidInput, "{options}");
        }
    }

    #[test]
    fn a_recovery_is_begun_and_followed_to_its_end() {
        let canned = Canned::new(&[
            ("GET /v1.0/appliance/instances", 200, r#"{"instances":[{"id":"i1","name":"shop"}]}"#),
            (
                "POST /v1.0/appliance/instances/i1/recover",
                202,
                r#"{"recovery":{"id":"i1","recovery_id":"r1","status":"BUILDING"}}"#,
            ),
            (
                "GET /v1.0/appliance/instances/i1/recoveries/r1",
                200,
                r#"{"recovery":{"id":"r1","status":"BUILDING","state":"STAGED"}}"#,
            ),
            (
                "GET /v1.0/appliance/instances/i1/recoveries/r1",
                200,
                r#"{"recovery":{"id":"r1","status":"COMPLETED","state":"PROMOTED"}}"#,
            ),
        ]);
        recover(&Client::of(&canned), &wanted("--before-gtid 0-11-5")).unwrap();
        assert_eq!(canned.bodies().get(1), Some(&json!({"recovery": {"instance": "i1", "before_gtid": "0-11-5"}})));
    }

    #[test]
    fn a_refusal_is_exit_code_three_with_its_facts() {
        let canned = Canned::new(&[
            ("GET /v1.0/appliance/instances", 200, r#"{"instances":[{"id":"i1","name":"shop"}]}"#),
            (
                "POST /v1.0/appliance/instances/i1/recover",
                409,
                r#"{"conflict":{"code":409,"message":"no backup before that time"}}"#,
            ),
        ]);
        let err = recover(&Client::of(&canned), &wanted("--latest --plan")).unwrap_err();
        assert_eq!((err.kind().exit_code(), err.message().as_str()), (3, "no backup before that time"));
        assert_eq!(canned.bodies().get(1).map(|body| body["recovery"]["plan_only"].clone()), Some(json!(true)));
    }

    #[test]
    fn an_instances_name_means_its_newest_recovery() {
        let canned = Canned::new(&[
            ("GET /v1.0/appliance/instances", 200, r#"{"instances":[{"id":"i1","name":"shop"}]}"#),
            (
                "GET /v1.0/appliance/instances/i1/recoveries",
                200,
                r#"{"recoveries":[{"id":"r2","recovery_id":"r2","instance_id":"i1","name":"shop"},{"id":"r1","instance_id":"i1","name":"shop"}]}"#,
            ),
            ("POST /v1.0/appliance/instances/i1/recoveries/r2/undo", 202, ""),
            (
                "GET /v1.0/appliance/instances/i1/recoveries/r2",
                200,
                r#"{"recovery":{"id":"r2","status":"UNDONE","state":"UNDONE"}}"#,
            ),
        ]);
        let Command::Recovery(recovery) = command("recovery undo shop") else { panic!() };
        let RecoveryAction::Undo(wanted) = recovery.action else { panic!() };
        undo(&Client::of(&canned), &wanted).unwrap();
    }

    #[test]
    fn a_wish_is_granted_or_fails_with_the_fault() {
        let granted = |value: Value, wish| matches!(judge(&recovery(value), wish, None), Settled::Done);
        let failed = |value: Value, wish| matches!(judge(&recovery(value), wish, None), Settled::Failed(_));
        assert!(granted(json!({"status": "COMPLETED"}), Wish::Recovered));
        assert!(granted(json!({"status": "PAUSED"}), Wish::Recovered));
        assert!(failed(json!({"status": "FAILED"}), Wish::Recovered));
        assert!(failed(json!({"status": "COMPLETED"}), Wish::Aborted));
        assert!(!granted(json!({"status": "COMPLETED", "state": "RETAINED"}), Wish::Undone));
        assert!(!failed(json!({"status": "COMPLETED", "state": "RETAINED"}), Wish::Undone));
        let fault = json!({"status": "COMPLETED", "fault": {"message": "no"}});
        assert!(failed(fault.clone(), Wish::Undone));
        let old = recovery(fault).fault;
        let again = recovery(json!({"status": "COMPLETED", "fault": {"message": "no"}}));
        assert!(matches!(judge(&again, Wish::Undone, old.as_ref()), Settled::Running(_)));
    }

    #[test]
    fn the_plan_says_what_comes_back_and_what_does_not() {
        let plan = view::read(&json!({
            "base": "b1b1b1b1-2222", "transactions": 250_580, "replay_bytes": 534_000_000u64, "given_up_transactions": 412,
            "last_included": {"gtid": "0-11-8", "begins_at": "binlog.000002:100", "commit_time": "2026-08-01T14:03:06Z", "what": "shop.orders"},
            "first_excluded": {"gtid": "0-11-9", "begins_at": "binlog.000002:200", "commit_time": "2026-08-01T14:03:07Z", "what": "DROP TABLE shop.orders"},
            "download_bytes": 1024, "disk_bytes": 2048, "estimate_seconds": 75, "warnings": ["look out"]
        }))
        .unwrap();
        let lines = plan_lines(&plan, &TimeZone::UTC);
        assert_eq!(
            lines,
            [
                "starts from backup    b1b1b1b1",
                "replays               250 580 transactions, 509.3 MiB of binlog",
                "last that comes back  0-11-8, 2026-08-01 14:03:06 UTC, at binlog.000002:100: shop.orders",
                "first that does not   0-11-9, 2026-08-01 14:03:07 UTC, at binlog.000002:200: DROP TABLE shop.orders",
                "given up              412 transactions after that point; the repository keeps them, as a target of another recovery",
                "reads                 1.0 KiB from the repository",
                "disk needed           2.0 KiB",
                "takes about           1 min 15 s",
                "! look out",
            ]
        );
    }

    #[test]
    fn a_sentence_says_how_it_stands_and_what_can_be_done() {
        let canned = Canned::new(&[]);
        let client = Client::of(&canned);
        let sentence = |value| super::sentence(&client, &recovery(value));
        let text = sentence(json!({
            "recovery_id": "r1", "status": "PAUSED", "target": "t", "outcome": {"inspect_socket": "/w/s.sock"}
        }));
        assert!(text.contains("promote r1") && text.contains("abort r1") && text.contains("/w/s.sock"), "{text}");
        let text = sentence(json!({"status": "FAILED", "fault": {"message": "the disk is full"}}));
        assert!(text.contains("the disk is full"), "{text}");
    }

    #[test]
    fn nobody_is_sent_to_an_undo_that_would_be_refused() {
        let canned = Canned::new(&[]);
        let client = Client::of(&canned);
        let done = |can_undo: bool, outcome: Value| {
            let value = json!({
                "recovery_id": "r1", "status": "COMPLETED", "state": "RETAINED", "can_undo": can_undo, "outcome": outcome
            });
            super::sentence(&client, &recovery(value))
        };
        assert!(done(true, json!({"tail": "running", "old_data_kept": true})).contains("recovery undo r1"));
        for outcome in [
            json!({"tail": "files_survived", "old_data_kept": true}),
            json!({"tail": "files_gone", "old_data_kept": false}),
            json!({"tail": "running", "old_data_kept": true}),
        ] {
            let text = done(false, outcome);
            assert!(text.contains("cannot be undone") && !text.contains("recovery undo"), "{text}");
        }
    }
}
