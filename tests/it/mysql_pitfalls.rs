//! The pitfalls of replaying MySQL's binlogs that come with names and places: relay logs, GTIDs and files, each on a
//! real server. Those that come with what stands in the files are in `mysql_contents`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mysql::Conn;
use serde_json::{Value, json};

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::{files_below, free_port};
use crate::harness::cell::Cell;
use crate::harness::events;
use crate::harness::history::History;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::Server;
use crate::harness::sql::{self, Contents};
use crate::harness::{Random, wait_for};

/// An instance of MySQL with a table in it.
pub(crate) struct Scene {
    pub(crate) instance: Instance,
    pub(crate) appliance: Appliance,
}

impl Scene {
    pub(crate) fn new(name: &str) -> Scene {
        Scene::on(Appliance::start_with(Cell::mysql(), name))
    }

    /// Without the table.
    pub(crate) fn empty(appliance: Appliance) -> Scene {
        Scene { instance: Instance::create(&appliance, "shop"), appliance }
    }

    pub(crate) fn on(appliance: Appliance) -> Scene {
        let scene = Scene::empty(appliance);
        scene.run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(100))",
        ]);
        scene
    }

    pub(crate) fn conn(&self) -> Conn {
        self.instance.conn()
    }

    /// In one session.
    pub(crate) fn run(&self, statements: &[&str]) {
        let mut conn = self.conn();
        statements.iter().for_each(|statement| sql::run(&mut conn, statement));
    }

    pub(crate) fn ask(&self, query: &str) -> String {
        sql::ask(&mut self.conn(), query)
    }

    pub(crate) fn insert(&self, what: &str) -> String {
        sql::commit(&mut self.conn(), &format!("INSERT INTO shop.t (x) VALUES ('{what}')"))
    }

    pub(crate) fn contents(&self) -> Contents {
        sql::contents(&mut self.conn(), "shop")
    }

    pub(crate) fn executed(&self) -> String {
        self.ask("SELECT @@GLOBAL.gtid_executed").replace('\n', "")
    }

    /// Loses everything, recovers to just before that, and compares rows and GTIDs; returns the recovery.
    #[track_caller]
    pub(crate) fn assert_recovers(&self, expected: &Contents) -> Value {
        let executed = self.executed();
        let gone = sql::commit(&mut self.conn(), "DROP DATABASE shop");
        self.instance.wait_shipped(&gone);
        let recovery = self.instance.recover(&json!({ "before_gtid": gone }));
        sql::assert_same(&self.contents(), expected, "recovered to just before the DROP");
        self.assert_executed(&executed);
        assert_eq!(recovery["plan"]["transactions"], recovery["outcome"]["replayed_transactions"], "{recovery}");
        recovery
    }

    /// The server holds exactly this set.
    #[track_caller]
    pub(crate) fn assert_executed(&self, expected: &str) {
        let found = self.executed();
        for (more, less) in [(found.as_str(), expected), (expected, found.as_str())] {
            let rest = self.ask(&format!("SELECT GTID_SUBTRACT('{more}', '{less}')"));
            assert_eq!(rest, "", "`{found}` is not `{expected}`");
        }
    }
}

/// A server of the test's own that replicas can reach, with an account for them; the port it listens on.
fn source_server(scene: &Scene) -> (Server, u16) {
    let port = free_port();
    let bed = &scene.appliance.bed;
    let settings =
        format!("{}skip-networking=0\nbind-address=127.0.0.1\nport={port}\nserver-id=815", bed.datastore().good());
    let mut server = Server::create(bed, "source", &settings);
    server.start(&[]);
    let mut conn = server.conn();
    for statement in [
        "SET sql_log_bin = 0",
        "CREATE USER repl IDENTIFIED BY 'a pass'",
        "GRANT REPLICATION SLAVE ON *.* TO repl",
        "SET sql_log_bin = 1",
        "CREATE DATABASE shop_far",
        "CREATE TABLE shop_far.t (id INT PRIMARY KEY, x VARCHAR(100))",
    ] {
        sql::run(&mut conn, statement);
    }
    (server, port)
}

/// 11: data that was a replica's knows relay logs, sets it has retrieved and an account to apply them with.
#[test]
fn data_that_was_a_replicas_is_replayed_from_the_planned_relay_logs_alone() {
    let scene = Scene::new("my-p11");
    let (source, port) = source_server(&scene);
    let far = |first: usize, last: usize| {
        let mut conn = source.conn();
        (first..=last).for_each(|id| sql::run(&mut conn, &format!("INSERT INTO shop_far.t VALUES ({id}, 'far')")));
    };
    far(1, 5);
    scene.run(&[
        "CREATE USER applier@localhost",
        "GRANT REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN ON *.* TO applier@localhost",
        "GRANT ALL ON shop_far.* TO applier@localhost",
        &format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='repl', \
             SOURCE_PASSWORD='a pass', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, \
             PRIVILEGE_CHECKS_USER='applier'@'localhost'"
        ),
        "START REPLICA",
    ]);
    let arrived = |count: &str| {
        wait_for("the replica to have it all", Duration::from_secs(30), || {
            let query = format!("SELECT COUNT(*) = {count} FROM shop_far.t");
            let state = sql::row(&mut scene.conn(), "SHOW REPLICA STATUS");
            assert_eq!(state["Last_Errno"], "0", "{state:?}");
            let there = scene.ask("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'shop_far'");
            (there == "1" && scene.ask(&query) == "1").then_some(())
        });
    };
    arrived("5");
    // The base is of a replica that runs: its tables say so.
    let known = sql::row(&mut scene.conn(), "SELECT * FROM mysql.slave_relay_log_info");
    assert_eq!(known["Privilege_checks_username"], "applier", "{known:?}");
    let state = sql::row(&mut scene.conn(), "SHOW REPLICA STATUS");
    assert!(state["Retrieved_Gtid_Set"].contains(":1-"), "{state:?}");
    let base = scene.instance.backup("base");
    far(6, 40);
    // What the applier's account may not do.
    scene.run(&["CREATE DATABASE shop_own", "CREATE TABLE shop_own.t (id INT PRIMARY KEY)"]);
    (1..20).for_each(|_| drop(scene.insert("here")));
    scene.run(&["FLUSH BINARY LOGS"]);
    arrived("40");
    far(41, 50);
    arrived("50");
    let expected = scene.contents();
    assert!(expected.contains_key("shop_far.t") && expected.contains_key("shop_own.t"));

    scene.run(&["STOP REPLICA"]);
    let recovery = scene.assert_recovers(&expected);
    assert!(scene.executed().contains(','), "both servers' transactions: {}", scene.executed());
    assert_eq!(scene.ask("SELECT COUNT(*) FROM mysql.slave_relay_log_info"), "0", "no replica any more");
    let left = files_below(&scene.instance.data_dir).into_iter().map(|path| path.display().to_string());
    let left: Vec<String> = left.filter(|path| path.contains("relay")).collect();
    assert!(left.is_empty(), "relay logs are left: {left:?}");

    scene.instance.undo(&text(&recovery, "recovery_id"));
    let state = sql::row(&mut scene.conn(), "SHOW REPLICA STATUS");
    assert_eq!(state["Source_Port"], port.to_string(), "undone, it is a replica again: {state:?}");

    // With nothing to replay as well: a source that it still knew would send it what was given up.
    scene.instance.recover(&json!({ "backup": text(&base, "id") }));
    assert_eq!(scene.ask("SELECT COUNT(*) FROM mysql.slave_master_info"), "0", "no replica any more");
    assert_eq!(scene.ask("SELECT COUNT(*) FROM shop_far.t"), "5", "the end of the backup and no more");
}

/// 12: a stop within a file costs nothing: the relay logs end there, no `UNTIL` slows the applier down, and what it is
/// given are few large transactions.
#[test]
fn a_stop_in_the_midst_of_a_file_is_exact_and_the_replay_still_merges() {
    let mut random = Random::seeded("my-p12");
    let scene = Scene::empty(Appliance::start_with(Cell::mysql(), "my-p12"));
    let instance = &scene.instance;
    let mut history = History::new();
    history.record(0, load::prepare(&mut scene.conn()));
    instance.backup("base");
    scene.run(&["FLUSH BINARY LOGS"]);
    let load = Load::start_paced(&instance.socket, 4, Ddl::No, 0, &mut random, Duration::from_millis(1));
    load.wait_commits(1500);
    history.record(0, load.end_clean());
    instance.ship();
    let gtids = history.gtids(0);
    let stop = &gtids[gtids.len() * 2 / 3];
    let placed = events::place_transactions(&sql::binlogs(&mut scene.conn()), &scene.appliance.bed);
    let at = placed.iter().position(|one| one.gtid == *stop).unwrap();
    assert_eq!(placed[at].file, placed[at + 1].file, "in the midst of a file");

    let recovery = instance.begin_recovery(&json!({ "gtid": stop }));
    let relay_logs = caught_relay_logs(&scene, &recovery);
    let view = instance.wait_recovery(&recovery, "COMPLETED");
    instance.wait_active();
    let found = sql::contents(&mut scene.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, sql::sequence(stop)), "in the midst of a file");
    let (uuid, number) = stop.rsplit_once(':').unwrap();
    assert_eq!(scene.executed(), format!("{uuid}:1-{number}"), "nothing is missing, nothing too much");

    let replayed = view["outcome"]["replayed_transactions"].as_u64().unwrap();
    let given = events::place_transactions(&relay_logs, &scene.appliance.bed);
    println!("my-p12: {replayed} transactions were replayed as {}", given.len());
    assert!(replayed >= 900 && given.len() as u64 * 20 < replayed, "{replayed} replayed as {}", given.len());
    assert_eq!(given.last().map(|one| &one.gtid), Some(stop), "the last one bears the stop's GTID");
}

/// The relay logs of a recovery, kept while it is on its way.
fn caught_relay_logs(scene: &Scene, recovery: &str) -> Vec<PathBuf> {
    let dir = scene.appliance.bed.dir();
    let kept = scene.appliance.bed.path("kept");
    fs::create_dir_all(&kept).unwrap();
    wait_for("the relay logs to be gone again", Duration::from_secs(60), || {
        for path in files_below(dir).iter().filter(|path| path.parent().is_some_and(|dir| dir.ends_with("pieces"))) {
            // A second name for it, so that it is there, whole, once the recovery has removed the first.
            let _ = fs::hard_link(path, kept.join(path.file_name().unwrap()));
        }
        let status = scene.instance.recovery(recovery)["status"].clone();
        assert_ne!(status, "FAILED");
        (status == "COMPLETED").then_some(())
    });
    files_below(&kept)
}

/// 13: transactions of several servers, with holes between the numbers, and with tags.
#[test]
fn transactions_of_any_server_with_holes_and_tags_are_targets_and_can_be_skipped() {
    const ELSEWHERE: &str = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";
    const THIRD: &str = "bbbbbbbb-71ca-11e1-9e33-c80aa9429562";
    let scene = Scene::new("my-p13");
    let instance = &scene.instance;
    // In the base already: a set of more than one server, with a hole and a tag.
    let uuid = scene.ask("SELECT @@server_uuid");
    let given = |next: &str, what: &str| {
        let mut conn = scene.conn();
        sql::run(&mut conn, &format!("SET GTID_NEXT = '{next}'"));
        sql::commit(&mut conn, &format!("INSERT INTO shop.t (x) VALUES ('{what}')"))
    };
    given(&format!("{ELSEWHERE}:2"), "before the base");
    given("AUTOMATIC:batch", "before the base, tagged");
    instance.backup("base");
    let mut states = Vec::new();
    let wanted = [
        format!("{ELSEWHERE}:7"),
        "AUTOMATIC:batch".to_owned(),
        format!("{THIRD}:far_tag:1"),
        format!("{ELSEWHERE}:4"),
        "AUTOMATIC".to_owned(),
        "AUTOMATIC:batch".to_owned(),
        "AUTOMATIC:other".to_owned(),
    ];
    for (number, next) in wanted.iter().enumerate() {
        let gtid = given(next, &format!("row {number}"));
        states.push((gtid, scene.contents(), scene.executed()));
    }
    let gtids: Vec<&str> = states.iter().map(|(gtid, ..)| gtid.as_str()).collect();
    assert_eq!(gtids[0], format!("{ELSEWHERE}:7"));
    assert_eq!(
        [gtids[1], gtids[5], gtids[6]],
        [format!("{uuid}:batch:2"), format!("{uuid}:batch:3"), format!("{uuid}:other:1")]
    );
    instance.ship();
    for (at, gtid) in gtids.iter().enumerate().skip(1) {
        let plan = instance.plan(&json!({ "gtid": gtid }));
        assert_eq!(plan["last_included"]["gtid"], **gtid, "{plan}");
        let plan = instance.plan(&json!({ "before_gtid": gtid }));
        assert_eq!(
            (&plan["last_included"]["gtid"], &plan["first_excluded"]["gtid"]),
            (&json!(gtids[at - 1]), &json!(gtid))
        );
    }
    let refused = [format!("{uuid}:1-3"), format!("{uuid}:batch:1-2"), format!("{ELSEWHERE}:4,{THIRD}:far_tag:1")];
    for set in &refused {
        let message = instance.ask_recovery(&json!({ "gtid": set })).fault(400);
        assert!(message.contains(set) && message.contains("is a set of GTIDs"), "{message}");
        for option in ["--to-gtid", "--before-gtid"] {
            let said = scene.appliance.cli(&["recover", "shop", option, set]);
            assert!(said.code != 0 && said.stderr.contains("is a set of GTIDs"), "{said:?}");
        }
    }

    let recovery = instance.recover(&json!({ "gtid": gtids[2] }));
    sql::assert_same(&scene.contents(), &states[2].1, "to another server's, with a tag");
    scene.assert_executed(&states[2].2);
    scene.assert_executed(&text(&recovery["outcome"], "reached"));

    let said = scene.appliance.cli(&["recover", "shop", "--before-gtid", gtids[5], "--timeline", "1"]);
    assert_eq!(said.code, 0, "{said:?}");
    sql::assert_same(&scene.contents(), &states[4].1, "just before one with a tag");
    scene.assert_executed(&states[4].2);

    let skipping = ["recover", "shop", "--to-gtid", gtids[6], "--skip-gtid", gtids[5], "--timeline", "1"];
    let said = scene.appliance.cli(&skipping);
    assert_eq!(said.code, 0, "{said:?}");
    let mut expected = states[6].1.clone();
    expected.get_mut("shop.t").unwrap().retain(|row| !row.ends_with("row 5"));
    sql::assert_same(&scene.contents(), &expected, "without the one with a tag");
    scene.assert_executed(&states[6].2);
}

/// GTID and end of a transaction, and what there was after it.
type Step = (String, String, Contents);

/// 15: names of files and numbers of transactions begin anew: neither is enough to name a place.
#[test]
fn the_same_file_name_and_the_same_gtid_lead_to_two_histories() {
    let scene = Scene::new("my-p15");
    let instance = &scene.instance;
    // One history after the other, each of the same GTIDs in a file of the same name.
    let mut histories: Vec<(String, Vec<Step>)> = Vec::new();
    for name in ["one", "other"] {
        if let Some((before, _)) = histories.last() {
            scene.run(&["RESET BINARY LOGS AND GTIDS", "TRUNCATE TABLE shop.t"]);
            // The numbers that come now were shipped once before: waiting for them would wait for nothing.
            wait_for("another timeline", Duration::from_secs(30), || (instance.timeline() != *before).then_some(()));
        }
        scene.insert(name);
        instance.ship();
        // Behind the gap that a reset is, coffer takes a backup by itself.
        instance.wait_active();
        if histories.is_empty() {
            instance.backup("base");
        }
        let step = |number: usize| {
            let gtid = scene.insert(&format!("{name} {number}"));
            let end = sql::row(&mut scene.conn(), "SHOW BINARY LOG STATUS");
            (gtid, format!("{}:{}", end["File"], end["Position"]), scene.contents())
        };
        let steps: Vec<_> = (0..6).map(step).collect();
        instance.ship();
        histories.push((instance.timeline(), steps));
        // A transaction more, so that the numbers are not the same everywhere.
        scene.insert("more");
        instance.ship();
    }
    let same = |at: usize| histories.iter().map(|(_, steps)| steps[at].0.clone()).collect::<Vec<_>>();
    let both = (0..6).flat_map(same).fold(std::collections::BTreeMap::new(), |mut count, gtid| {
        *count.entry(gtid).or_insert(0) += 1;
        count
    });
    let gtid = both.iter().find(|(_, count)| **count == 2).map(|(gtid, _)| gtid.clone()).unwrap();
    let file = |(_, steps): &(String, Vec<Step>)| steps[2].1.split_once(':').unwrap().0.to_owned();
    assert_eq!(file(&histories[0]), file(&histories[1]), "the same name");
    let log = scene.appliance.log_text();
    assert!(log.contains("the server's GTIDs began anew"), "{log}");
    for (timeline, steps) in &histories {
        let (_, _, expected) = steps.iter().find(|(name, ..)| *name == gtid).unwrap();
        instance.recover(&json!({ "gtid": gtid, "timeline": timeline }));
        sql::assert_same(&scene.contents(), expected, &format!("{gtid} of one of two"));
        let (name, place, _) = &steps[2];
        let plan = instance.plan(&json!({ "position": place, "timeline": timeline }));
        assert_eq!(plan["last_included"]["gtid"], **name, "{place} of one of two: {plan}");
    }
}

/// 15: what lies under the name of a file is another server's.
#[test]
fn another_servers_file_of_the_same_name_is_never_taken_for_the_rest_of_ours() {
    let mut scene = Scene::new("my-p15b");
    let other = Instance::create(&scene.appliance, "other");
    let mut conn = other.conn();
    sql::run(&mut conn, "CREATE DATABASE shop_of_others");
    sql::run(&mut conn, "CREATE TABLE shop_of_others.t (id INT PRIMARY KEY, x VARCHAR(2000))");
    scene.instance.backup("base");
    let last = scene.insert("ours");
    scene.instance.wait_shipped(&last);
    let expected = scene.contents();
    let line = scene.instance.timeline();
    let ours = sql::binlogs(&mut scene.conn()).pop().unwrap();
    while sql::binlogs(&mut conn).pop().unwrap().file_name() < ours.file_name() {
        sql::run(&mut conn, "FLUSH BINARY LOGS");
    }
    // Longer than ours, so that there is something behind the place where ours ends.
    (0..30)
        .for_each(|id| sql::run(&mut conn, &format!("INSERT INTO shop_of_others.t VALUES ({id}, REPEAT('x', 1500))")));
    let others = sql::binlogs(&mut conn).pop().unwrap();
    assert_eq!(others.file_name(), ours.file_name());

    scene.appliance.stop();
    let pid = scene.instance.server_pid();
    sql::run(&mut scene.conn(), "SHUTDOWN");
    wait_for("the end of the server", Duration::from_secs(30), || {
        (!crate::harness::bed::is_running(pid)).then_some(())
    });
    fs::copy(&others, &ours).unwrap();
    scene.appliance.resume(&[]);
    scene.instance.wait_conn();
    let next = scene.insert("ours again");
    scene.instance.wait_shipped(&next);
    let log = scene.appliance.log_text();
    assert!(log.contains("GAP after") && log.contains("began anew"), "{log}");
    assert_ne!(scene.instance.timeline(), line, "what lies there is another history");
    let latest = json!({ "latest": true, "timeline": line });
    assert_eq!(scene.instance.plan(&latest)["last_included"]["gtid"], last, "nothing of the other's is behind ours");
    // The server was on its way when the gap was seen; a base behind the gap is there all the same.
    wait_for("a base behind the gap", Duration::from_secs(60), || {
        let backups = scene.instance.api.get(&scene.instance.path("/backups")).expect(200)["backups"].clone();
        let newest = backups.as_array().unwrap().iter().find(|backup| backup["name"] == "shop-after-gap").cloned()?;
        assert_ne!(newest["status"], "FAILED", "{newest}");
        (newest["status"] == "COMPLETED").then_some(())
    });

    scene.instance.recover(&latest);
    sql::assert_same(&scene.contents(), &expected, "ours, as far as it went");
}
