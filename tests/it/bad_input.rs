//! What an operator can get wrong, and what a disk or a repository can do: each is a clear error in Trove's shape that
//! names the thing and the remedy, and the serving database stays as it is.

use std::path::Path;

use mysql::prelude::Queryable;
use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::instance::{Instance, ROOT, TASK_MAX};
use crate::harness::sql::{self, Contents};
use crate::harness::wait_for;

const NOBODY: &str = "11111111-2222-4333-8444-555555555555";

/// An instance with some rows and a backup; remembers what it holds.
struct Scene {
    appliance: Appliance,
    instance: Instance,
    backup: String,
    before: Contents,
    pid: i32,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let appliance = Appliance::start(name);
        let instance = Instance::create(&appliance, name);
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(200)) ENGINE=InnoDB");
        sql::run(&mut conn, "INSERT INTO shop.t (y) SELECT MD5(seq) FROM shop.seq_1_to_2000");
        let backup = instance.backup("base")["id"].as_str().unwrap().to_owned();
        sql::run(&mut conn, "INSERT INTO shop.t (y) VALUES ('after the backup')");
        instance.ship();
        let before = sql::contents(&mut conn, "shop");
        let pid = instance.server_pid();
        Scene { appliance, instance, backup, before, pid }
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        sql::assert_same(&sql::contents(&mut self.instance.conn(), "shop"), &self.before, what);
        assert_eq!(self.instance.server_pid(), self.pid, "{what}: the server was restarted");
    }
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    let lower = message.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "`{word}` is not in: {message}");
    }
}

#[test]
fn a_wrong_request_is_refused_by_name() {
    let scene = Scene::new("requests");
    let other = Instance::create(&scene.appliance, "other");
    let foreign = other.backup("foreign")["id"].as_str().unwrap().to_owned();
    let (id, backup) = (&scene.instance.id, &scene.backup);
    let recover = |inside: &str| format!("{{\"recovery\":{{\"instance\":\"{id}\",{inside}}}}}");
    // What is asked, the statuses that fit, and words the message must hold.
    let cases: Vec<(String, &[u16], Vec<&str>)> = vec![
        ("{\"recovery\":".to_owned(), &[400], vec!["json"]),
        ("[]".to_owned(), &[400], vec!["object"]),
        ("{}".to_owned(), &[400], vec!["recovery"]),
        ("{\"recovery\":{}}".to_owned(), &[400], vec!["target"]),
        ("{\"recovery\":{},\"and\":1}".to_owned(), &[400], vec!["and"]),
        (recover("\"backup\":17"), &[400], vec!["backup"]),
        (recover("\"backup\":\"17\""), &[400], vec!["17"]),
        (recover("\"latest\":\"yes\""), &[400], vec!["latest"]),
        (recover("\"skip\":\"0-1-1\",\"latest\":true"), &[400], vec!["skip"]),
        (recover("\"undo\":true,\"latest\":true"), &[400], vec!["undo"]),
        (recover("\"gtid\":\"0-1-1\",\"latest\":true"), &[400], vec!["gtid", "latest"]),
        (recover("\"gtid\":\"0-1-1\",\"before_gtid\":\"0-1-2\""), &[400], vec!["gtid", "before_gtid"]),
        (recover("\"gtid\":\"one\""), &[400], vec!["one"]),
        (recover("\"position\":\"binlog.000001\""), &[400], vec!["binlog.000001", "file:offset"]),
        (recover("\"position\":\"../../etc/passwd.1:4\""), &[400], vec!["position"]),
        (recover("\"point_in_time\":\"2026-01-01T10:00:00\""), &[400], vec!["zone"]),
        (recover("\"point_in_time\":\"yesterday\""), &[400], vec!["yesterday"]),
        (recover("\"point_in_time\":\"2199-01-01T10:00:00Z\""), &[400, 409], vec!["future"]),
        (recover("\"point_in_time\":\"2001-01-01T10:00:00Z\""), &[404, 409], vec!["backup"]),
        (recover("\"gtid\":\"7-7-777777\""), &[404, 409], vec!["7-7-777777"]),
        (recover("\"position\":\"binlog.000077:4711\""), &[404, 409], vec!["binlog.000077"]),
        (recover(&format!("\"backup\":\"{NOBODY}\"")), &[404], vec![NOBODY]),
        (recover(&format!("\"latest\":true,\"timeline\":\"{NOBODY}\"")), &[404, 409], vec![NOBODY]),
        (recover(&format!("\"backup\":\"{foreign}\"")), &[400], vec![&foreign]),
        (
            format!("{{\"recovery\":{{\"instance\":\"{}\",\"backup\":\"{backup}\"}}}}", other.id),
            &[400],
            vec!["instance"],
        ),
    ];
    for (body, statuses, words) in cases {
        for action in ["/recover", "/restore"] {
            let reply = scene.instance.api.post_text(&scene.instance.path(action), &body);
            assert!(statuses.contains(&reply.status), "{body}: {} {}", reply.status, reply.text);
            assert_says(&reply.fault(reply.status), &words);
        }
    }
    scene.assert_untouched("after requests that were refused");
    let recoveries = scene.instance.api.get(&scene.instance.path("/recoveries")).expect(200);
    assert_eq!(recoveries["recoveries"], json!([]), "none was begun");
}

#[test]
fn other_wrong_requests_are_refused_by_name_too() {
    let scene = Scene::new("others");
    let api = &scene.instance.api;
    assert_says(&api.get(&format!("{ROOT}/instances/{NOBODY}")).fault(404), &[NOBODY]);
    assert_says(&api.get(&format!("{ROOT}/backups/{NOBODY}")).fault(404), &[NOBODY]);
    assert_says(&api.delete(&format!("{ROOT}/backups/{NOBODY}")).fault(404), &[NOBODY]);
    api.get(&format!("{ROOT}/instances/others")).fault(404);
    api.get("/v1.0/somebody-else/instances").fault(404);
    api.get(&format!("{ROOT}/nothing")).fault(404);
    assert_says(&scene.instance.act(NOBODY, "undo").fault(404), &[NOBODY]);
    let post = |path: &str, body: Value| api.post(&format!("{ROOT}{path}"), &body);
    assert_says(&post("/instances", json!({"instance": {}})).fault(400), &["name"]);
    assert_says(&post("/instances", json!({"instance": {"name": "others"}})).fault(409), &["others"]);
    assert_says(&post("/instances", json!({"instance": {"name": "x", "port": "many"}})).fault(400), &["port"]);
    assert_says(&post("/backups", json!({"backup": {"name": "x"}})).fault(400), &["instance"]);
    assert_says(&post("/backups", json!({"backup": {"name": "x", "instance": NOBODY}})).fault(404), &[NOBODY]);

    let mut stranger = api.clone();
    stranger.token = "0123456789abcdef".to_owned();
    stranger.get(&format!("{ROOT}/instances")).fault(401);
    stranger.post(&scene.instance.path("/recover"), &json!({"recovery": {"latest": true}})).fault(401);
    assert_eq!(stranger.get("/healthz").status, 200, "health needs no token");
    let huge = "x".repeat(1 << 17);
    let reply = api.post_text(&scene.instance.path("/recover"), &huge);
    assert!([400, 413].contains(&reply.status), "{} {}", reply.status, reply.text);
    scene.assert_untouched("after requests that were refused");
}

#[test]
fn a_second_recovery_waits_for_the_first_to_be_settled() {
    let scene = Scene::new("second");
    let first = scene.instance.begin_recovery(&json!({"backup": scene.backup, "pause": true}));
    let busy = scene.instance.ask_recovery(&json!({"latest": true}));
    assert_says(&busy.fault(409), &[&first]);
    scene.instance.wait_recovery(&first, "PAUSED");
    let busy = scene.instance.ask_recovery(&json!({"latest": true}));
    assert_says(&busy.fault(409), &[&first]);
    scene.assert_untouched("while a recovery waits for a promote");
    scene.instance.act(&first, "undo").fault(409);
    scene.instance.act(&first, "abort").expect(202);
    scene.instance.wait_recovery(&first, "ABORTED");
    scene.instance.wait_active();
    scene.assert_untouched("after an abort");
    scene.instance.act(&first, "promote").fault(409);
    let left = scene.appliance.bed.servers();
    assert_eq!(left, [scene.pid], "no scratch server is left");

    // Paused again and promoted: the operator's word is all it waits for.
    let second = scene.instance.begin_recovery(&json!({"backup": scene.backup, "pause": true}));
    let paused = scene.instance.wait_recovery(&second, "PAUSED");
    let socket = paused["outcome"]["inspect_socket"].as_str().expect("where to look at the recovered data");
    let mut look = sql::connect(Path::new(socket)).unwrap();
    assert_eq!(sql::ask(&mut look, "SELECT COUNT(*) FROM shop.t"), "2000");
    // What is looked at is what is switched in: not even an administrator who tries hard changes it.
    look.query_drop("SET GLOBAL read_only = 0; SET SESSION TRANSACTION READ WRITE").unwrap();
    assert!(look.query_drop("DELETE FROM shop.t").is_err(), "the recovered data was changed");
    drop(look);
    scene.instance.act(&second, "promote").expect(202);
    scene.instance.wait_recovery(&second, "COMPLETED");
    scene.instance.wait_active();
    let rows = sql::ask(&mut scene.instance.conn(), "SELECT COUNT(*) FROM shop.t");
    assert_eq!(rows, "2000");
}

#[test]
fn deleted_instances_leave_every_worker_free() {
    let scene = Scene::new("deleted");
    // More of them than there are workers.
    for number in 0..3 {
        let other = Instance::create(&scene.appliance, &format!("other{number}"));
        other.api.delete(&other.path("")).expect(202);
        wait_for(&format!("instance {number} to be gone"), TASK_MAX, || {
            (other.api.get(&other.path("")).status == 404).then_some(())
        });
    }
    scene.instance.backup("after the deletions");
}

#[test]
fn the_command_line_says_what_is_wrong_by_its_exit_code() {
    let scene = Scene::new("exits");
    let exit = |arguments: &[&str]| {
        let said = scene.appliance.cli(arguments);
        (said.code, said.stderr)
    };
    assert_eq!(exit(&["status"]).0, 0);
    assert_eq!(exit(&["recover", "exits"]).0, 2, "no target");
    assert_eq!(exit(&["recover", "exits", "--latest", "--to-gtid", "0-1-1"]).0, 2, "two targets");
    assert_eq!(exit(&["recover", "exits", "--to", "2026-01-01 10:00"]).0, 2, "no zone");
    assert_eq!(exit(&["recover", "nobody", "--latest"]).0, 1, "no such instance");
    let (code, said) = exit(&["recover", "exits", "--to", "2001-01-01T00:00:00Z"]);
    assert_eq!(code, 3, "refused: {said}");
    assert_says(&said, &["backup"]);
    let plan = scene.appliance.cli_json(&["recover", "exits", "--latest", "--plan"]);
    assert!(plan["plan"]["base"].is_string(), "a plan runs nothing, and says what it would: {plan}");
    let gone = std::process::Command::new(crate::harness::appliance::BINARY)
        .args(["status", "--url", "http://127.0.0.1:1", "--token-file"])
        .arg(scene.appliance.token_file())
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(4), "{}", String::from_utf8_lossy(&gone.stderr));
    scene.assert_untouched("after commands that were refused");
}
