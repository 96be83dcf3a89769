//! What can be typed is understood, and what cannot is told.

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_documented_command_is_understood() {
    for line in [
        "serve",
        "serve --config c.toml",
        "serve --help-config",
        "demo",
        "demo --once --state-dir d --rows 300000",
        "status",
        "status --json",
        "instance list",
        "instance show shop",
        "instance create shop --port 3307 --no-wait",
        "instance adopt shop --socket s --defaults-file f --systemd-unit mariadb.service",
        "instance adopt shop --socket s --defaults-file f --start /sbin/db --start --now --stop /sbin/db-stop",
        "instance delete shop",
        "backup list",
        "backup list shop",
        "backup show 1234",
        "backup create shop --name nightly",
        "backup verify 1234 --slice 2/7 --no-wait",
        "backup verify --instance shop",
        "backup delete 1234",
        "recover shop --backup 1234",
        "recover shop --to 2026-01-01T00:00:00Z --plan",
        "recover shop --to-gtid 0-1-2 --pause",
        "recover shop --before-gtid 0-1-2 --skip-gtid 0-1-1 --skip-gtid 0-1-0",
        "recover shop --to-position b.000001:4",
        "recover shop --before-position b.000001:4",
        "recover shop --latest --no-wait --json",
        "recovery list",
        "recovery show shop",
        "recovery promote 12",
        "recovery abort 12",
        "recovery undo shop --url http://127.0.0.1:1 --token-file t",
        "recovery release 12",
        "transactions shop --since 2026-01-01T00:00:00Z --until 2026-01-02T00:00:00Z --table orders --destructive",
        "timeline shop",
        "check --socket s --defaults-file f",
        "rebuild file:///mnt/repository --config c.toml --json",
    ] {
        assert!(matches!(parse(&words(line)), Parsed::Run(_)), "{line}: {:?}", parse(&words(line)));
    }
}

#[test]
fn what_is_wrong_is_told_and_what_was_asked_for_is_printed() {
    assert!(matches!(parse(&words("")), Parsed::Wrong(_)));
    assert!(matches!(parse(&words("recover")), Parsed::Wrong(_)));
    assert!(matches!(parse(&words("status --nonsense")), Parsed::Wrong(_)));
    assert!(matches!(parse(&words("--version")), Parsed::Print(text) if text.starts_with("coffer ")));
    assert!(matches!(parse(&words("recover --help")), Parsed::Print(text) if text.contains("--before-gtid")));
}

#[test]
fn where_the_appliance_is_may_be_said_behind_the_command() {
    let Parsed::Run(command) = parse(&words("status --state-dir /srv/coffer --json")) else { panic!("not a command") };
    let Command::Status(status) = *command else { panic!("not status") };
    let connection = status.connection();
    assert!(connection.json);
    assert_eq!(connection.state_dir.as_deref(), Some(std::path::Path::new("/srv/coffer")));
}
