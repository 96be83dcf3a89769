//! No token and no password is seen from outside: arguments and environments of every process are watched all the while,
//! then logs, journal, state, repository and answers are searched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::adopt::adopt;
use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::{all_processes, command_line, files_below};
use crate::harness::instance::{Instance, ROOT, TASK_MAX};
use crate::harness::proxy::{Change, Rule};
use crate::harness::remote::Remote;
use crate::harness::server::{GOOD, Server};
use crate::harness::{sql, wait_for};

const PASSWORD: &str = "pass-Word-0f-the-0perator";

/// Looks at every process of the machine again and again.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<(BTreeSet<String>, usize)>,
}

impl Watch {
    /// What stands in the arguments of the store itself, whose own business it is, is left out.
    fn start(secrets: Vec<String>, store: &'static str) -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let look = move || {
            let (mut found, mut rounds) = (BTreeSet::new(), 0);
            while !stop.load(Ordering::SeqCst) {
                for pid in all_processes() {
                    let line = command_line(pid);
                    if !store.is_empty() && line.contains(store) {
                        continue;
                    }
                    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                    let environment = String::from_utf8_lossy(&environment);
                    if secrets.iter().any(|secret| line.contains(secret) || environment.contains(secret)) {
                        found.insert(line.chars().take(300).collect());
                    }
                }
                rounds += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
            (found, rounds)
        };
        Watch { ended, thread: Builder::new().name("watch".to_owned()).spawn(look).unwrap() }
    }

    fn end(self) {
        self.ended.store(true, Ordering::SeqCst);
        let (found, rounds) = self.thread.join().unwrap();
        assert!(rounds > 20, "looked {rounds} times only");
        assert!(found.is_empty(), "a secret in the arguments or the environment of: {found:?}");
    }
}

#[test]
fn no_secret_leaves_its_file() {
    let appliance = Appliance::start("secrets");
    let token = appliance.api.token.clone();
    assert!(token.len() >= 32, "a token is long enough not to be guessed");
    let watch = Watch::start(vec![token.clone(), PASSWORD.to_owned()], "");

    // One of each kind; the adopted server's credentials have a password.
    let created = Instance::create(&appliance, "created");
    let mut server = Server::create(&appliance.bed, "own", GOOD);
    server.start(&[]);
    let mut conn = server.conn();
    sql::run(&mut conn, "SET SESSION sql_log_bin = 0");
    sql::run(&mut conn, &format!("CREATE USER boss@localhost IDENTIFIED BY '{PASSWORD}'"));
    sql::run(&mut conn, "GRANT ALL ON *.* TO boss@localhost WITH GRANT OPTION");
    let options = fs::read_to_string(&server.options).unwrap();
    let with_password = options.replace("user=root", &format!("user=boss\npassword={PASSWORD}"));
    fs::write(&server.options, with_password).unwrap();
    let adopted = adopt(&appliance, &mut server, "adopted");

    for (instance, own) in [(&created, true), (&adopted, false)] {
        instance.backup("base");
        let socket = if own { &instance.socket } else { &server.socket };
        let mut conn = sql::connect(socket).unwrap();
        sql::run(&mut conn, "CREATE DATABASE shop");
        let gtid = sql::commit(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY)");
        instance.wait_shipped(&gtid);
        let recovery = instance.recover(&json!({"before_gtid": gtid}));
        instance.undo(&text(&recovery, "recovery_id"));
    }
    appliance.cli(&["status"]);
    appliance.cli(&["recover", "created", "--latest", "--plan"]);
    watch.end();

    search_files(&appliance, &token);
    search_answers(&appliance, &[&created, &adopted], &token);
}

#[test]
fn no_credential_of_a_store_leaves_its_file() {
    let remote = Remote::on_s3("store-secrets");
    let (appliance, secret) = (&remote.appliance, remote.store.secret_key.clone());
    let watch = Watch::start(vec![secret.clone()], "/garage.toml");
    let instance = Instance::create(appliance, "kept");
    instance.backup("base");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    let gtid = sql::commit(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY)");
    instance.wait_shipped(&gtid);
    let recovery = instance.recover(&json!({"before_gtid": gtid}));
    instance.undo(&text(&recovery, "recovery_id"));
    // What goes wrong is told without it too.
    remote.proxy.rule(Rule::new(Change::status(403)));
    let refused = instance.begin_backup("refused");
    wait_for("the backup to fail", TASK_MAX, || {
        let view = instance.api.get(&format!("{ROOT}/backups/{refused}")).expect(200);
        (view["backup"]["status"] == "FAILED").then_some(())
    });
    remote.proxy.mend();
    instance.wait_active();
    appliance.cli(&["status"]);
    watch.end();

    for path in files_below(appliance.bed.dir()) {
        let bytes = fs::read(&path).unwrap_or_default();
        let holds = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!holds || path.ends_with("credentials.toml"), "a secret in {}", path.display());
    }
    for path in all_paths(&[&instance]) {
        let reply = appliance.api.get(&path);
        assert!(!reply.text.contains(&secret), "GET {path} answers with a secret");
    }
}

/// Every file of the appliance but those that are there to hold a secret, which nobody else may read.
fn search_files(appliance: &Appliance, token: &str) {
    let bed = appliance.bed.dir();
    let mut found = Vec::new();
    for path in files_below(bed) {
        let bytes = fs::read(&path).unwrap_or_default();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        let mode = fs::metadata(&path).map_or(0, |it| it.permissions().mode()) & 0o077;
        let name = path.strip_prefix(bed).unwrap().display().to_string();
        if path == appliance.token_file() {
            assert_eq!(mode, 0, "{name} is for its owner only");
        } else if holds(token) || (holds(PASSWORD) && name != "own/my.cnf") {
            found.push(name);
        } else if name.starts_with("state/") && name.ends_with(".cnf") && holds("password") {
            assert_eq!(mode, 0, "{name} holds a password and is for its owner only");
        } else if ["state/coffer.db", "state/coffer.sqlite"].contains(&name.as_str()) {
            assert_eq!(mode, 0, "{name} is for its owner only");
        }
    }
    // Shown once, on the terminal of the very first start; the log is another stream.
    found.retain(|name| name != "coffer.out");
    assert!(found.is_empty(), "a secret in {found:?}");
    let shown = fs::read_to_string(appliance.bed.path("coffer.out")).unwrap();
    assert!(shown.matches(token).count() <= 1 && !shown.contains(PASSWORD), "shown once: {shown}");
}

/// Everything that can be asked for.
fn all_paths(instances: &[&Instance]) -> Vec<String> {
    let mut paths: Vec<String> = ["/", "/healthz", "/metrics", "/openapi.json"].map(str::to_owned).to_vec();
    paths.extend(["/instances", "/backups", "/datastores", "/flavors", "/limits"].map(|path| format!("{ROOT}{path}")));
    for instance in instances {
        let below = ["", "/backups", "/recoveries", "/timelines", "/transactions"];
        paths.extend(below.map(|path| instance.path(path)));
    }
    paths
}

fn search_answers(appliance: &Appliance, instances: &[&Instance], token: &str) {
    for path in all_paths(instances) {
        let reply = appliance.api.get(&path);
        assert!(reply.status < 500, "GET {path}: {} {}", reply.status, reply.text);
        assert!(!reply.text.contains(token) && !reply.text.contains(PASSWORD), "GET {path} answers with a secret");
    }
}
