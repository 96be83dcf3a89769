//! What a file may say, and what it is told when it says something else.

use std::collections::BTreeSet;

use super::*;
use crate::domain::backup::OtherEngines;
use crate::testing::TempDir;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/coffer.toml"))
}

/// The error a file gets, without the hint.
#[track_caller]
fn refused(text: &str) -> String {
    let err = parse(text).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    err.message()
}

#[test]
fn defaults_serve_with_no_file() {
    let config = Config::load(None).unwrap();
    let state_dir = std::env::current_dir().unwrap().join("coffer-data");
    assert_eq!(config.repository_url, format!("file://{}/repository", state_dir.display()));
    assert_eq!(config.state_dir, state_dir);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8779");
    assert_eq!((config.workers, config.http.tenant.as_str(), config.http.tls), (2, "appliance", None));
    assert_eq!(config.recovery.undo_window, Duration::from_secs(72 * 3600));
    assert_eq!(config.shipping.poll, Duration::from_millis(100));
}

#[test]
fn what_is_set_counts() {
    let dir = TempDir::new();
    let path = dir.join("coffer.toml");
    let text = r#"
        state_dir = "/var/lib/coffer"
        repository_url = "file:///backups"
        workers = 4
        [http]
        listen = "0.0.0.0:443"
        hosts = ["db1.example.org"]
        tls_certificate = "/etc/cert.pem"
        tls_key = "/etc/key.pem"
        [mariadb]
        server = "/opt/mariadbd"
        server_user = "maria"
        [shipping]
        poll_milliseconds = 250
    "#;
    crate::durable::write(&path, text.as_bytes(), 0o600).unwrap();
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!((config.state_dir, config.repository_url), ("/var/lib/coffer".into(), "file:///backups".to_owned()));
    assert_eq!(
        config.http,
        Http {
            listen: "0.0.0.0:443".parse().unwrap(),
            tenant: "appliance".to_owned(),
            hosts: vec!["db1.example.org".to_owned()],
            tls: Some(Tls { certificate: "/etc/cert.pem".into(), key: "/etc/key.pem".into() }),
        }
    );
    assert_eq!((config.mariadb.server, config.mariadb.server_user), ("/opt/mariadbd".into(), "maria".to_owned()));
    assert_eq!(config.shipping.poll, Duration::from_millis(250));
}

#[test]
fn an_unknown_key_is_refused_with_line_and_name() {
    let message = refused("state_dir = \"/x\"\n\n[http]\nlisten_on = 1\n");
    assert!(
        message.starts_with("`/etc/coffer.toml` line 4: listen_on: unknown field `listen_on`, expected"),
        "{message}"
    );
    let message = refused("[htp]\n");
    assert!(message.contains("line 1: unknown field `htp`"), "{message}");
    let err = parse("worker = 1").unwrap_err();
    assert!(err.to_string().contains("--help-config"), "{err}");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_line_and_name() {
    let message = refused("# a comment\nworkers = \"two\"\n");
    assert!(message.starts_with("`/etc/coffer.toml` line 2: workers: invalid type: string \"two\""), "{message}");
    assert!(refused("a = \n").contains("line 1"));
    assert!(refused("workers = 1\nworkers = 2\n").contains("line 2: workers: duplicate key"));
    assert!(refused("workers = -1\n").contains("line 1: workers: "));
}

#[test]
fn a_value_out_of_range_is_refused_with_line_and_name() {
    assert_eq!(refused("workers = 0"), "`/etc/coffer.toml` line 1: workers: 0 is not within 1 to 32");
    let message = refused("[http]\n[recovery]\n undo_window_hours=0");
    assert_eq!(message, "`/etc/coffer.toml` line 3: recovery.undo_window_hours: 0 is not within 1 to 8784");
    let message = refused("shipping.poll_milliseconds = 1\n");
    assert!(message.contains("line 1: shipping.poll_milliseconds: 1 is not within"), "{message}");
    for text in
        ["http.tenant = \"a/b\"", "http.hosts = [\"a b\"]", "repository_url = \"/backups\"", "http.listen = \"x\""]
    {
        assert!(refused(text).contains("line 1: "), "{text}");
    }
}

#[test]
fn what_is_done_with_tables_of_other_engines_is_one_of_two_words() {
    let of = |text: &str| parse(text).unwrap().mysql.other_engines;
    assert_eq!(of(""), OtherEngines::Refuse);
    assert_eq!(of("mysql.other_engines = \"refuse\""), OtherEngines::Refuse);
    assert_eq!(of("[mysql]\nother_engines = \"dump\""), OtherEngines::Dump);
    let message = refused("[mysql]\nother_engines = \"skip\"");
    assert!(message.contains("line 2: mysql.other_engines: `skip`"), "{message}");
    let message = refused("[mariadb]\nother_engines = \"dump\"");
    assert!(message.contains("other_engines"), "a clone is MySQL's: {message}");
}

#[test]
fn a_listener_others_can_reach_needs_tls() {
    for listen in ["0.0.0.0:8779", "192.168.1.5:8779", "[::]:8779"] {
        let message = refused(&format!("[http]\nlisten = \"{listen}\""));
        assert!(message.contains("line 2: http.listen") && message.contains("no TLS"), "{message}");
    }
    for listen in ["127.0.0.1:1", "[::1]:8779", "localhost:8779"] {
        parse(&format!("[http]\nlisten = \"{listen}\"")).unwrap();
    }
    assert!(refused("http.tls_key = \"/k\"").contains("without tls_certificate"));
}

#[test]
fn a_missing_file_is_named() {
    let err = Config::load(Some(Path::new("/no/such/coffer.toml"))).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(err.message().contains("/no/such/coffer.toml"), "{err}");
}

#[test]
fn the_help_documents_every_key_and_nothing_else() {
    let serde_json::Value::Object(top) = serde_json::to_value(RawConfig::default()).unwrap() else { panic!() };
    let mut known = BTreeSet::new();
    for (name, value) in top {
        match value {
            serde_json::Value::Object(section) => known.extend(section.keys().map(|key| (name.clone(), key.clone()))),
            _ => drop(known.insert((String::new(), name))),
        }
    }
    let documented: BTreeSet<_> = help::KEYS.iter().map(|key| (key.section.to_owned(), key.name.to_owned())).collect();
    assert_eq!(documented, known);
    assert_eq!(help::KEYS.len(), known.len());
}

#[test]
fn the_help_is_a_file_with_the_defaults() {
    let help = help_config();
    assert_eq!(parse(&help).unwrap(), Config::load(None).unwrap());
    let with_examples: Vec<&str> =
        help.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)).collect();
    let config = parse(&with_examples.join("\n")).unwrap();
    assert!(config.http.tls.is_some() && config.repository_url == "file:///var/backups/coffer");
    assert!(help.lines().all(|line| line.len() <= 120), "{help}");
}

#[test]
fn programs_are_found_where_a_shell_does_not_look() {
    assert_eq!(find_program("no-such-program", "/bin".as_ref()), Path::new("no-such-program"));
    let dir = TempDir::new();
    crate::durable::write(&dir.join("mariadbd"), b"", 0o700).unwrap();
    assert_eq!(find_program("mariadbd", dir.as_os_str()), dir.join("mariadbd"));
    assert_eq!(find_program("mariadbd-of-nobody", "relative".as_ref()), Path::new("mariadbd-of-nobody"));
}
