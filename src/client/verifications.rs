//! `coffer backup verify`.

use serde_json::{Value, json};

use crate::cli;
use crate::client::http;
use crate::client::progress::{self, Settled};
use crate::client::view::{self, BadObject, Instance, Progress, VerificationRun};
use crate::client::{Client, backups, instances, render};
use crate::error::{Error, ErrorKind};

/// What is verified: where it is asked for, and where the answer is found.
struct Subject {
    path: String,
    /// The member of an answer that holds the subject.
    member: &'static str,
    instance: String,
    name: String,
}

pub(super) fn verify(client: &Client, wanted: &cli::BackupVerify) -> Result<(), Error> {
    let subject = subject(client, wanted)?;
    let mut verify = json!({});
    if let Some(slice) = &wanted.slice {
        verify["slice"] = json!(slice);
    }
    let answer = client.api.post(&format!("{}/action", subject.path), &json!({ "verify": verify }))?;
    let begun: VerificationRun = view::read(http::member(&answer, "verification")?)?;
    if wanted.no_wait {
        return client.print(&answer, || {
            Ok(vec![format!("{} is being verified; `coffer status` tells what is found.", subject.name)])
        });
    }
    let answer = progress::follow(&client.api, &subject.path, client.show(), |answer| {
        judge(http::member(answer, subject.member)?, &begun.task)
    })?;
    let run = run_of(http::member(&answer, subject.member)?)?;
    let ended: VerificationRun = view::read(&run)?;
    let bad = bad_objects(client, &subject.instance, &ended)?;
    let answer = json!({"verification": run, "bad": bad});
    let bad: Vec<BadObject> = view::read(http::member(&answer, "bad")?)?;
    client.print(&answer, || Ok(lines(&subject.name, &ended, &bad)))?;
    match ended.bad_objects {
        0 => Ok(()),
        count => Err(Error::new(ErrorKind::Corrupt, format!("{} bad", render::counted(count, "stored object")))
            .hint("Above stands what depends on each and what to do.")),
    }
}

fn subject(client: &Client, wanted: &cli::BackupVerify) -> Result<Subject, Error> {
    match (&wanted.backup, &wanted.instance) {
        (Some(backup), None) => {
            let backup = backups::find(&client.api, backup)?;
            Ok(Subject {
                path: format!("/backups/{}", backup.id),
                member: "backup",
                instance: backup.instance_id,
                name: format!("Backup {}", backup.name),
            })
        }
        (None, Some(instance)) => {
            let instance = instances::find(&client.api, instance)?;
            Ok(Subject {
                path: format!("/instances/{}", instance.id),
                member: "instance",
                name: format!("Instance {}", instance.name),
                instance: instance.id,
            })
        }
        (None, None) | (Some(_), Some(_)) => Err(Error::new(ErrorKind::InvalidInput, "what to verify is not clear")
            .hint("Name either a backup, or an instance with --instance.")),
    }
}

/// The last verification of a backup or an instance.
fn run_of(subject: &Value) -> Result<Value, Error> {
    let run = subject.get("verification_run").or_else(|| subject.get("verification")?.get("run"));
    run.cloned().ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the appliance's answer tells of no verification")
            .hint("Use a client of the appliance's own version.")
    })
}

fn judge(subject: &Value, task: &str) -> Result<Settled, Error> {
    let run: VerificationRun = view::read(&run_of(subject)?)?;
    // A later one of the same subject only begins once this one has ended.
    if run.task != task || run.ended.is_some() {
        return Ok(Settled::Done);
    }
    if run.fault.is_some() {
        return Ok(Settled::Failed(progress::fault_error(run.fault.as_ref(), "the verification failed")));
    }
    let running: Option<view::Task> = subject.get("task").map(view::read).transpose()?;
    let own = running.filter(|running| running.id == task).map(|running| running.progress);
    Ok(Settled::Running(own.unwrap_or_else(|| Progress { step: "waiting".to_owned(), ..Progress::default() })))
}

/// What the API says of the bad objects that this verification has found.
fn bad_objects(client: &Client, instance: &str, run: &VerificationRun) -> Result<Vec<Value>, Error> {
    if run.bad_objects == 0 {
        return Ok(Vec::new());
    }
    let answer = client.api.get(&format!("/instances/{instance}"))?;
    let view: Instance = view::read(http::member(&answer, "instance")?)?;
    let told = view.verification.bad;
    let of = |key: &String| match told.iter().find(|bad| bad.object == *key) {
        Some(bad) => {
            json!({"object": key, "kind": bad.kind, "reason": bad.reason, "depends": bad.depends, "remedy": bad.remedy})
        }
        None => json!({ "object": key }),
    };
    Ok(run.bad.iter().map(of).collect())
}

fn lines(name: &str, run: &VerificationRun, bad: &[BadObject]) -> Vec<String> {
    let mut lines: Vec<String> = bad.iter().map(line).collect();
    let more = run.bad_objects.saturating_sub(bad.len() as u64);
    if more > 0 {
        lines.push(format!("BAD  {} more", render::count(more)));
    }
    let share = if run.slice == "1/1" { String::new() } else { format!(", slice {}", run.slice) };
    let read = format!(
        "{name}{share}: {} ({}) read again",
        render::counted(run.objects, "object"),
        render::bytes(run.stored_bytes)
    );
    lines.push(match run.bad_objects {
        0 => format!("{read}, each is what was stored."),
        bad => format!("{read}, {} bad.", render::count(bad)),
    });
    if run.closed_objects > 0 {
        lines.push(format!(
            "{} encrypted, and no identity is here that opens them: proven are the stored bytes.",
            render::counted(run.closed_objects, "object")
        ));
    }
    lines
}

fn line(bad: &BadObject) -> String {
    if bad.depends.is_empty() {
        return format!("BAD  {}", bad.object);
    }
    format!("BAD  {}\n     {} On it depends {}. {}", bad.object, render::sentence(&bad.reason), bad.depends, bad.remedy)
}

#[cfg(test)]
mod tests {
    use super::verify;
    use crate::cli::{BackupAction, Command, Parsed, parse};
    use crate::client::Client;
    use crate::client::canned::Canned;
    use crate::error::{Error, ErrorKind};

    fn run(line: &str, canned: &Canned) -> Result<(), Error> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let Parsed::Run(command) = parse(&words) else { panic!("{line}") };
        let Command::Backup(backup) = *command else { panic!("{line}") };
        let BackupAction::Verify(wanted) = backup.action else { panic!("{line}") };
        verify(&Client::of(canned), &wanted)
    }

    const BACKUPS: (&str, u16, &str) =
        ("GET /v1.0/appliance/backups", 200, r#"{"backups":[{"id":"b1234","name":"base","instance_id":"i1"}]}"#);
    const CAST: (&str, u16, &str) =
        ("POST /v1.0/appliance/backups/b1234/action", 202, r#"{"verification":{"task":"t1","slice":"2/7"}}"#);
    const PATH: &str = "GET /v1.0/appliance/backups/b1234";

    #[test]
    fn a_verification_is_awaited_to_its_own_end() {
        let canned = Canned::new(&[
            BACKUPS,
            CAST,
            (
                PATH,
                200,
                r#"{"backup":{"verification_run":{"task":"t1"},"task":{"id":"t1","step":"verifying","done":1,"total":2}}}"#,
            ),
            (PATH, 200, r#"{"backup":{"verification_run":{"task":"t1","ended":"2026-01-01T00:00:00Z","objects":3}}}"#),
        ]);
        run("backup verify base --slice 2/7", &canned).unwrap();
        assert_eq!(canned.bodies()[1], serde_json::json!({"verify": {"slice": "2/7"}}));
        assert_eq!(canned.seen().len(), 4);
    }

    #[test]
    fn what_is_bad_is_named_and_a_failure() {
        let canned = Canned::new(&[
            BACKUPS,
            CAST,
            (
                PATH,
                200,
                r#"{"backup":{"verification_run":{"task":"t1","ended":"2026-01-01T00:00:00Z","bad_objects":1,"bad":["k"]}}}"#,
            ),
            ("GET /v1.0/appliance/instances/i1", 200, r#"{"instance":{"verification":{"bad":[{"object":"k"}]}}}"#),
        ]);
        let err = run("backup verify base", &canned).unwrap_err();
        assert_eq!((err.kind().exit_code(), err.message().as_str()), (1, "1 stored object bad"));
        let failed = r#"{"backup":{"verification_run":{"task":"t1","fault":{"message":"the store is away"}}}}"#;
        let canned = Canned::new(&[BACKUPS, CAST, (PATH, 200, failed)]);
        assert_eq!(run("backup verify base", &canned).unwrap_err().message(), "the store is away");
    }

    #[test]
    fn one_thing_is_verified_at_a_time() {
        let canned = Canned::new(&[]);
        for line in ["backup verify", "backup verify b --instance i"] {
            assert_eq!(run(line, &canned).unwrap_err().kind(), ErrorKind::InvalidInput, "{line}");
        }
    }
}
