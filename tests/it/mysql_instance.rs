//! MySQL as an instance: made through the API, its transactions listed, its server kept alive, its binlog shipped
//! whatever happens to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mysql::Conn;
use serde_json::{Value, json};

use crate::harness::api::text;
use crate::harness::appliance::{Appliance, BINARY, Said, said};
use crate::harness::bed::{Bed, kill_and_wait};
use crate::harness::cell::{Cell, Datastore};
use crate::harness::instance::{Instance, ROOT};
use crate::harness::{sql, wait_for};
use crate::shipping::assert_stored_is_what_the_server_has;

const MYSQL: Datastore = Datastore::Mysql;
/// Bytes of a file's head that differ while it is in use: the magic and MySQL's format description.
const HEAD: usize = 4 + 123;

/// The lines of the configuration for another server program.
fn configuration(server: &Path) -> String {
    format!("\n[mysql]\nserver = \"{}\"\nserver_user = \"{}\"\n", server.display(), MYSQL.account())
}

struct Scene {
    /// Ended before the directory of its socket is removed.
    conn: Conn,
    instance: Instance,
    appliance: Appliance,
}

impl Scene {
    fn new(name: &str) -> Scene {
        Scene::on(Appliance::start_in(Bed::new(name), &Cell::mysql().configuration()))
    }

    fn on(appliance: Appliance) -> Scene {
        let body = json!({"instance": {"name": "shop", "datastore": {"type": "mysql"}}});
        let answer = appliance.api.post(&format!("{ROOT}/instances"), &body).expect(200);
        let instance = Instance::begun(&appliance.api, &answer);
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT)");
        Scene { conn, instance, appliance }
    }

    fn run(&mut self, statements: &[&str]) {
        statements.iter().for_each(|statement| sql::run(&mut self.conn, statement));
    }

    /// A new connection after the server was away.
    fn reconnect(&mut self) {
        self.conn = self.instance.wait_conn();
    }

    fn write(&mut self, rows: usize) {
        (0..rows).for_each(|x| sql::run(&mut self.conn, &format!("INSERT INTO shop.t (x) VALUES ({x})")));
    }

    /// Every transaction that this server gave a GTID of its own.
    fn executed(&mut self) -> String {
        let all = sql::ask(&mut self.conn, "SELECT @@GLOBAL.gtid_executed").replace('\n', "");
        let own = sql::ask(&mut self.conn, "SELECT @@server_uuid");
        all.split(',').find(|set| set.starts_with(&own)).unwrap_or_default().to_owned()
    }

    /// Waits until everything that was committed is in the repository.
    #[track_caller]
    fn ship(&mut self) {
        let executed = self.executed();
        let status = ["SHOW BINARY LOG STATUS"].map(|question| sql::row(&mut self.conn, question));
        let end = format!("{}:{}", status[0]["File"], status[0]["Position"]);
        wait_for(&format!("{executed} at {end} to be shipped"), Duration::from_secs(60), || {
            let shipping = &self.instance.view()["shipping"];
            let has_all = shipping["gtid"].as_str().is_some_and(|gtid| gtid.split(',').any(|set| set == executed));
            (shipping["shipped_to"] == end && (executed.is_empty() || has_all)).then_some(())
        });
    }

    fn transactions(&self, query: &str) -> Vec<Value> {
        let answer = self.instance.api.get(&self.instance.path(&format!("/transactions?{query}"))).expect(200);
        answer["transactions"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn assert_whole(&mut self) {
        self.ship();
        assert_stored_is_what_the_server_has(&self.appliance.repository, &self.instance, HEAD);
        assert_eq!(self.instance.timelines().len(), 1, "one unbroken history");
        assert!(!self.appliance.log_text().contains("GAP"), "{}", self.appliance.log_text());
    }

    /// `coffer check` for its server.
    fn check(&self) -> Said {
        let mut command = Command::new(BINARY);
        command.arg("check").arg("--config").arg(&self.appliance.config).arg("--socket").arg(&self.instance.socket);
        said(command.arg("--defaults-file").arg(self.instance.socket.with_file_name("my.cnf")))
    }
}

#[test]
fn a_created_mysql_shows_what_is_committed_with_gtid_statement_and_microseconds() {
    let mut scene = Scene::new("my-create");
    let view = scene.instance.view();
    assert_eq!(view["datastore"]["type"], "mysql");
    let version = text(&view["datastore"], "version_number");
    assert!(version.split('.').count() == 3 && version.starts_with("9."), "{version}");
    let offered = scene.appliance.api.get(&format!("{ROOT}/datastores/mysql/versions")).expect(200);
    assert_eq!(offered["versions"][0]["name"], version.rsplit_once('.').unwrap().0);

    scene.write(3);
    scene.run(&["DROP TABLE shop.t"]);
    scene.ship();
    let listed = scene.transactions("limit=10");
    let uuid = sql::ask(&mut scene.conn, "SELECT @@server_uuid");
    let gtids: Vec<String> = listed.iter().map(|it| text(it, "gtid")).collect();
    assert_eq!(gtids, [6, 5, 4, 3, 2, 1].map(|number| format!("{uuid}:{number}")));
    assert_eq!((&listed[0]["destructive"], &listed[1]["destructive"]), (&json!(true), &json!(false)));
    assert!(text(&listed[0], "statement").starts_with("DROP TABLE"), "{}", listed[0]);
    assert_eq!(text(&listed[1], "statement"), "INSERT INTO shop.t (x) VALUES (2)");
    assert_eq!(listed[1]["tables"], json!(["shop.t"]));
    let times: Vec<String> = listed.iter().map(|it| text(it, "commit_time")).collect();
    assert!(times.is_sorted_by(|one, other| one > other), "newest first, each of its own: {times:?}");
    assert!(times.iter().filter(|time| time.len() == "2026-01-01T00:00:00.000000Z".len()).count() > 3, "{times:?}");

    let shown = scene.appliance.cli(&["transactions", "shop", "--destructive"]);
    assert!(shown.stdout.contains(&format!("coffer recover shop --before-gtid {uuid}:6 --plan")), "{shown:?}");
    let made = scene.appliance.cli(&["instance", "create", "other", "--datastore", "mysql"]);
    assert!(made.code == 0 && made.stdout.contains("mysql 9."), "{made:?}");
    let listed = scene.appliance.cli(&["instance", "list"]).stdout;
    assert_eq!(listed.matches("mysql 9.").count(), 2, "{listed}");
    let refused = scene.appliance.cli(&["instance", "create", "third", "--datastore", "postgresql"]);
    assert!(refused.code != 0 && refused.stderr.contains("mysql 9."), "what is offered is named: {refused:?}");

    let home = scene.instance.data_dir.parent().unwrap().to_owned();
    let pid = scene.instance.server_pid();
    let deleted = scene.appliance.cli(&["instance", "delete", "shop"]);
    assert!(deleted.code == 0 && !home.exists(), "{deleted:?}");
    assert!(!crate::harness::bed::is_running(pid), "its server is stopped");
}

#[test]
fn mysql_is_brought_back_and_its_binlog_is_shipped_whatever_happens_to_it() {
    let mut scene = Scene::new("my-ship");
    // Transactions of another server that never stood in a binlog of this one: no file's list will have them.
    scene.run(&["SET GLOBAL gtid_purged = '+aaaaaaaa-71ca-11e1-9e33-c80aa9429562:1-5'"]);
    scene.write(20);
    scene.run(&["FLUSH BINARY LOGS", "FLUSH BINARY LOGS"]);
    scene.write(5);
    for _ in 0..2 {
        kill_and_wait(scene.instance.server_pid());
        scene.reconnect();
        scene.write(10);
    }
    scene.ship();
    scene.instance.api.post(&scene.instance.path("/action"), &json!({"restart": {}})).expect(202);
    scene.instance.wait_active();
    scene.reconnect();
    scene.write(10);
    scene.assert_whole();

    // Rotated, killed and restarted while nobody looks.
    scene.appliance.stop();
    scene.write(10);
    scene.run(&["FLUSH BINARY LOGS"]);
    scene.write(10);
    kill_and_wait(scene.instance.server_pid());
    scene.appliance.resume(&[]);
    scene.reconnect();
    scene.write(10);
    scene.assert_whole();
    assert_eq!(scene.transactions("limit=1000").len(), 2 + 85, "each once");
    let status = scene.appliance.cli(&["status"]);
    assert!(status.stdout.contains("shop"), "{status:?}");
}

#[test]
fn changes_of_the_gtid_mode_are_shipped_without_a_gap() {
    let mut scene = Scene::new("my-mode");
    let set = |mode: &str| format!("SET GLOBAL gtid_mode = {mode}");
    for (mode, has_gtid) in [
        ("ON_PERMISSIVE", true),
        ("OFF_PERMISSIVE", false),
        ("OFF", false),
        ("OFF_PERMISSIVE", false),
        ("ON_PERMISSIVE", true),
        ("ON", true),
    ] {
        scene.run(&[&set(mode)]);
        // A session keeps nothing of the mode before.
        scene.reconnect();
        scene.write(3);
        scene.ship();
        let newest = &scene.transactions("limit=1")[0];
        assert_eq!(newest.get("gtid").is_some(), has_gtid, "{mode}: {newest}");
        assert!(!text(newest, "begins_at").is_empty());
    }
    // Without GTIDs the files' names alone show that nothing is missing, also when nobody looked.
    scene.run(&[&set("ON_PERMISSIVE"), &set("OFF_PERMISSIVE"), &set("OFF")]);
    scene.ship();
    scene.appliance.stop();
    scene.write(5);
    scene.run(&["FLUSH BINARY LOGS"]);
    scene.write(5);
    scene.appliance.resume(&[]);
    scene.assert_whole();
    assert_eq!(scene.transactions("limit=1000").len(), 2 + 18 + 10);
    let shown = scene.appliance.cli(&["transactions", "shop"]);
    assert!(shown.code == 0 && shown.stdout.contains("INSERT INTO shop.t"), "{shown:?}");
    scene.run(&["DROP TABLE shop.t"]);
    scene.ship();
    let place = text(&scene.transactions("limit=1")[0], "begins_at");
    let shown = scene.appliance.cli(&["transactions", "shop", "--destructive"]);
    assert!(shown.stdout.contains(&format!("coffer recover shop --before-position {place} --plan")), "{shown:?}");
}

#[test]
fn reset_binary_logs_and_gtids_begins_a_timeline_of_its_own() {
    let mut scene = Scene::new("my-reset");
    scene.write(10);
    scene.ship();
    let old = scene.instance.timeline();
    scene.run(&["RESET BINARY LOGS AND GTIDS"]);
    scene.write(3);
    scene.ship();
    assert_ne!(scene.instance.timeline(), old);
    let lines = scene.instance.timelines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    // An applier would pass over the numbers that come again, so what follows needs a backup of its own.
    let log = scene.appliance.log_text();
    assert!(log.contains("GAP after") && log.contains("the server's GTIDs began anew"), "{log}");
    let uuid = sql::ask(&mut scene.conn, "SELECT @@server_uuid");
    let newest: Vec<String> = scene.transactions("limit=3").iter().map(|it| text(it, "gtid")).collect();
    assert_eq!(newest, [3, 2, 1].map(|number| format!("{uuid}:{number}")), "the numbers come again");
}

#[test]
fn files_purged_before_they_were_shipped_are_a_gap_that_everybody_sees() {
    let mut scene = Scene::new("my-gap");
    scene.write(10);
    scene.ship();
    scene.appliance.stop();
    scene.run(&["FLUSH BINARY LOGS"]);
    scene.write(5);
    scene.run(&["FLUSH BINARY LOGS"]);
    scene.write(5);
    scene.run(&["FLUSH BINARY LOGS"]);
    let newest = sql::row(&mut scene.conn, "SHOW BINARY LOG STATUS")["File"].clone();
    scene.run(&[&format!("PURGE BINARY LOGS TO '{newest}'")]);
    scene.write(5);
    scene.appliance.resume(&[]);
    scene.ship();
    let log = scene.appliance.log_text();
    assert!(log.contains("GAP after") && log.contains("purged before they were shipped"), "{log}");
    assert_eq!(scene.instance.timelines().len(), 1, "the same history behind a hole");
}

#[test]
fn a_mysql_that_was_there_before_is_adopted_for_what_it_is() {
    let mut scene = Scene::new("my-own");
    scene.run(&["CREATE TABLE shop.old (a INT) ENGINE = MyISAM", "SET PERSIST max_connections = 77"]);
    // From here on nobody but its operator looks after the server.
    scene.appliance.stop();
    let options = scene.instance.socket.with_file_name("my.cnf");
    let start = scene.appliance.bed.path("start");
    let program = MYSQL.program("mysqld");
    let script = format!("#!/bin/sh\nsetsid {} --defaults-file={} &\n", program.display(), options.display());
    fs::write(&start, script).unwrap();
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).unwrap();
    let admin = MYSQL.admin();
    let adopt = json!({
        "socket": scene.instance.socket, "defaults_file": options, "start": [start],
        "stop": [admin, format!("--defaults-file={}", options.display()), "shutdown"],
    });

    let appliance = Appliance::start_in(Bed::new("my-adopt"), &Cell::mysql().configuration());
    let adopt = |name: &str| {
        let body = json!({"instance": {"name": name, "adopt": adopt}});
        appliance.api.post(&format!("{ROOT}/instances"), &body).expect(200)
    };
    let path = format!("{ROOT}/instances/{}", text(&adopt("refused")["instance"], "id"));
    let fault = wait_for("the adoption to be refused", Duration::from_secs(30), || {
        appliance.api.get(&path).expect(200)["instance"].get("fault").cloned()
    });
    assert!(text(&fault, "message").contains("table `shop.old` is of engine MyISAM"), "{fault}");
    appliance.cli(&["instance", "delete", "refused"]);

    scene.run(&["DROP TABLE shop.old"]);
    let checked = scene.check();
    assert!(checked.code == 0 && checked.stdout.contains("NOTE  settings made with SET PERSIST"), "{checked:?}");
    let instance = Instance::begun(&appliance.api, &adopt("own"));
    assert_eq!(instance.view()["datastore"]["type"], "mysql");
    assert_eq!(instance.data_dir, scene.instance.data_dir);
    assert!(appliance.log_text().contains("settings made with SET PERSIST are in no clone: max_connections"));
    scene.instance = instance;
    scene.write(5);
    scene.ship();
    scene.instance.api.post(&scene.instance.path("/action"), &json!({"restart": {}})).expect(202);
    scene.instance.wait_active();
    scene.reconnect();
    scene.write(5);
    scene.ship();
    assert_eq!(scene.instance.timelines().len(), 1, "one unbroken history");
    assert!(!appliance.log_text().contains("GAP"), "{}", appliance.log_text());
}

#[test]
fn a_disk_too_small_for_a_clone_is_named_by_the_check() {
    let bed = Bed::new("my-disk");
    let small = bed.path("small");
    fs::create_dir(&small).unwrap();
    let size = ["-t", "tmpfs", "-o", "size=300m,mode=0755", "tmpfs"];
    if said(Command::new("mount").args(size).arg(&small)).code != 0 {
        assert!(std::env::var_os("CI").is_none(), "the small disk needs an account that may mount a file system");
        println!("SMALL DISK: NOT TRIED, this account may not mount a file system");
        return;
    }
    let scene = Scene::on(Appliance::start_at(bed, &Cell::mysql().configuration(), Some(small.join("state"))));
    let refused = scene.check();
    assert!(refused.code == 3 && refused.stdout.contains("a clone takes up to"), "{refused:?}");
}

/// A server program that has a keyring: it is told of it in a file beside the program, so it seems to lie in `dir`.
pub(crate) fn with_keyring(dir: &Path) -> PathBuf {
    let program = MYSQL.program("mysqld");
    let script = fs::read_to_string(&program).unwrap();
    let folder = program.parent().and_then(Path::parent).unwrap();
    let (plugins, usr) = (dir.join("plugins"), folder.join("root/usr"));
    fs::create_dir_all(&plugins).unwrap();
    for entry in fs::read_dir(usr.join("lib/mysql/plugin")).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), plugins.join(entry.file_name())).unwrap();
    }
    let ring = json!({"path": dir.join("ring"), "read_only": false});
    fs::write(plugins.join("component_keyring_file.cnf"), ring.to_string()).unwrap();
    fs::write(dir.join("mysqld.my"), r#"{"components": "file://component_keyring_file"}"#).unwrap();
    let program = dir.join("mysqld");
    let (before, rest) = script.split_once("--argv0 '").unwrap();
    let (_, after) = rest.split_once('\'').unwrap();
    let places = format!("--basedir='{}' --plugin-dir='{}'", usr.display(), plugins.display());
    let after = after.replace("\"$@\"", &format!("\"$@\" {places}"));
    fs::write(&program, format!("{before}--argv0 '{}'{after}", program.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn an_encrypted_binlog_is_refused_by_name_and_a_gap_once_it_is_gone() {
    let bed = Bed::new("my-keys");
    let program = with_keyring(&bed.path("keyring"));
    let mut scene = Scene::on(Appliance::start_in(bed, &configuration(&program)));
    scene.write(5);
    scene.ship();
    assert_eq!(scene.check().code, 0, "{:?}", scene.check());

    scene.run(&["SET GLOBAL binlog_encryption = ON"]);
    scene.write(5);
    let message = wait_for("shipping to fail", Duration::from_secs(30), || {
        let shipping = scene.instance.view()["shipping"].clone();
        (shipping["state"] == "failing").then(|| text(&shipping, "message"))
    });
    assert!(message.contains("binlog_encryption") && message.contains("PURGE BINARY LOGS"), "{message}");
    scene.run(&["CREATE TABLE shop.secret (a INT) ENCRYPTION = 'Y'", "CREATE TABLE shop.old (a INT) ENGINE = MyISAM"]);
    let refused = scene.check();
    for word in ["binlog_encryption is on", "`shop/secret`", "`shop.old` is of engine MyISAM"] {
        assert!(refused.code == 3 && refused.stdout.contains(word), "{word}: {refused:?}");
    }

    scene.run(&["SET GLOBAL binlog_encryption = OFF", "DROP TABLE shop.secret, shop.old", "FLUSH BINARY LOGS"]);
    let newest = sql::row(&mut scene.conn, "SHOW BINARY LOG STATUS")["File"].clone();
    scene.run(&[&format!("PURGE BINARY LOGS TO '{newest}'")]);
    scene.write(5);
    scene.ship();
    let log = scene.appliance.log_text();
    assert!(log.contains("GAP after"), "{log}");
}
