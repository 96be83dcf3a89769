//! The pitfalls of replaying binlogs, each on a real server: what the naive way does with the same base and the same
//! files, and that a recovery comes out right.

use std::path::PathBuf;
use std::time::Duration;

use mysql::Conn;
use serde_json::json;

use crate::harness::api::text;
use crate::harness::appliance::{Appliance, Said};
use crate::harness::history::History;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::{Recipe, Server, copy_by_hand, dump_binlogs, end_of_copy, replay_by_hand};
use crate::harness::sql::{self, Contents};
use crate::harness::{Random, wait_for};

/// An instance with a base of coffer's and one made by hand, both of the same moment.
struct Scene {
    appliance: Appliance,
    instance: Instance,
    base: PathBuf,
}

impl Scene {
    /// `before` runs before the bases are taken.
    fn new(name: &str, before: &[&str]) -> Scene {
        let appliance = Appliance::start(name);
        let instance = Instance::create(&appliance, name);
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(100)) ENGINE=InnoDB");
        before.iter().for_each(|statement| sql::run(&mut conn, statement));
        instance.backup("base");
        let base = appliance.bed.path("base");
        copy_by_hand(appliance.bed.datastore(), &instance.socket, &instance.data_dir, &base);
        Scene { appliance, instance, base }
    }

    fn conn(&self) -> Conn {
        self.instance.conn()
    }

    fn contents(&self) -> Contents {
        sql::contents(&mut self.conn(), "shop")
    }

    /// A server of the test's own on the base made by hand, not started.
    fn naive(&self, name: &str, settings: &str) -> Server {
        let server = Server::without_data(&self.appliance.bed, name, settings);
        server.take_copy_of(&self.base);
        server
    }

    /// The binlog files from the one in which the base ends, and the offset there.
    fn files(&self) -> (Vec<PathBuf>, u64) {
        let (first, position, _) = end_of_copy(&self.base);
        let files = sql::binlogs(&mut self.conn()).into_iter();
        (files.skip_while(|path| !path.ends_with(&first)).collect(), position)
    }

    /// `mariadb-binlog FILES | mariadb`, the way of most manuals.
    fn pipe(&self, server: &Server, files: &[PathBuf], options: &[&str]) -> Said {
        let script = self.appliance.bed.path("replay.sql");
        dump_binlogs(server.datastore, files, options, &script);
        server.client(&script, &[])
    }

    /// Loses everything, recovers to just before that, and compares.
    #[track_caller]
    fn assert_recovers(&self, expected: &Contents) {
        let gone = sql::commit(&mut self.conn(), "DROP DATABASE shop");
        self.instance.wait_shipped(&gone);
        self.instance.recover(&json!({ "before_gtid": gone }));
        sql::assert_same(&self.contents(), expected, "recovered to just before the DROP");
    }
}

/// 1: what a session knows (a temporary table) is lost when each file gets a client of its own.
#[test]
fn a_temporary_table_lives_across_binlog_files() {
    let scene = Scene::new("p1", &[]);
    let mut conn = scene.conn();
    sql::run(&mut conn, "SET SESSION binlog_format = STATEMENT");
    sql::run(&mut conn, "CREATE TEMPORARY TABLE shop.some (x VARCHAR(100))");
    sql::run(&mut conn, "INSERT INTO shop.some VALUES ('kept in the session')");
    sql::run(&mut scene.conn(), "FLUSH BINARY LOGS");
    sql::run(&mut conn, "INSERT INTO shop.t (x) SELECT x FROM shop.some");
    sql::run(&mut conn, "DROP TEMPORARY TABLE shop.some");
    let expected = scene.contents();

    let (files, from) = scene.files();
    let mut naive = scene.naive("naive", "skip-log-bin");
    naive.start(&[]);
    let from = format!("--start-position={from}");
    assert_eq!(scene.pipe(&naive, &files[..1], &[&from]).code, 0);
    let second = scene.pipe(&naive, &files[1..], &[]);
    assert!(second.code != 0 && second.stderr.contains("some"), "the naive way loses the table: {second:?}");

    scene.assert_recovers(&expected);
}

/// 4: replaying a file from its beginning repeats what the base already holds.
#[test]
fn what_the_base_holds_is_not_replayed_again() {
    let scene = Scene::new("p4", &["INSERT INTO shop.t VALUES (1, 'in the base')"]);
    sql::run(&mut scene.conn(), "INSERT INTO shop.t VALUES (2, 'after it')");
    let expected = scene.contents();

    let (files, _) = scene.files();
    let mut naive = scene.naive("naive", "skip-log-bin");
    naive.start(&[]);
    let replayed = scene.pipe(&naive, &files, &[]);
    assert!(replayed.code != 0, "the naive way repeats statements: {replayed:?}");

    scene.assert_recovers(&expected);
}

/// 5: a base taken under load ends later than the coordinate noted when it began.
#[test]
fn a_base_ends_where_its_data_ends_under_load() {
    let mut random = Random::seeded("p5");
    let appliance = Appliance::start("p5");
    let instance = Instance::create(&appliance, "p5");
    let mut history = History::new();
    sql::run(&mut instance.conn(), "SET GLOBAL gtid_strict_mode = 1");
    history.record(0, load::prepare(&mut instance.conn()));
    let load = Load::start_paced(&instance.socket, 4, Ddl::No, 0, &mut random, Duration::from_millis(1));
    load.wait_commits(100);

    let noted = sql::row(&mut instance.conn(), "SHOW MASTER STATUS");
    let base = appliance.bed.path("base");
    copy_by_hand(appliance.bed.datastore(), &instance.socket, &instance.data_dir, &base);
    let (end_file, end, _) = end_of_copy(&base);
    assert!((&end_file, end) > (&noted["File"], noted["Position"].parse().unwrap()), "the base went on");
    let mut ends = Vec::new();
    for name in ["one", "two", "three"] {
        let backup = instance.backup(name);
        ends.push((text(&backup, "id"), text(&backup["end"], "gtid")));
        load.wait_commits(load.commits() + 50);
    }
    load.pause();
    let mut naive = Server::without_data(&appliance.bed, "naive", "skip-log-bin");
    naive.take_copy_of(&base);
    naive.start(&[]);
    let files = sql::binlogs(&mut instance.conn()).into_iter().skip_while(|path| !path.ends_with(&noted["File"]));
    let script = appliance.bed.path("replay.sql");
    dump_binlogs(
        appliance.bed.datastore(),
        &files.collect::<Vec<_>>(),
        &[&format!("--start-position={}", noted["Position"])],
        &script,
    );
    let replayed = naive.client(&script, &[]);
    assert!(replayed.code != 0, "replaying from the coordinate noted first repeats rows: {replayed:?}");

    history.record(0, load.end_clean());
    instance.ship();
    let timeline = instance.timeline();
    for (id, gtid) in ends {
        let end = sql::sequence(&gtid);
        instance.recover(&json!({ "backup": id }));
        let found = sql::contents(&mut instance.conn(), load::SCHEMA);
        sql::assert_same(&found, &history.contents(0, end), "the end of a backup taken under load");
        let later = history.gtids(0).into_iter().find(|gtid| sql::sequence(gtid) > end + 5).unwrap();
        instance.recover(&json!({ "gtid": later, "backup": id, "timeline": timeline }));
        let found = sql::contents(&mut instance.conn(), load::SCHEMA);
        sql::assert_same(&found, &history.contents(0, sql::sequence(&later)), "some transactions after it");
    }
}

/// 6: a write before the replay uses up sequence numbers that the archive holds too.
#[test]
fn nothing_writes_before_the_replay_ends_and_no_number_comes_twice() {
    let scene = Scene::new("p6", &[]);
    let mut conn = scene.conn();
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (1, 'one')");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (2, 'two')");
    let expected = scene.contents();

    let (files, from) = scene.files();
    let (_, _, gtid) = end_of_copy(&scene.base);
    let settings =
        format!("log-bin=binlog\nbinlog-format=ROW\ngtid-strict-mode=1\nserver-id={}", sql::gtid_parts(&gtid).1);
    let mut naive = scene.naive("naive", &settings);
    naive.start(&[]);
    sql::run(&mut naive.conn(), &format!("SET GLOBAL gtid_binlog_state = '{gtid}'"));
    sql::run(&mut naive.conn(), "CREATE USER operator@localhost");
    let replayed = scene.pipe(&naive, &files, &[&format!("--start-position={from}")]);
    assert!(replayed.code != 0 && replayed.stderr.contains("1950"), "the naive way collides: {replayed:?}");

    scene.assert_recovers(&expected);
    let highest = sql::sequence(&sql::commit(&mut scene.conn(), "INSERT INTO shop.t VALUES (3, 'three')"));
    let mut expected = scene.contents();
    scene.assert_recovers(&expected);
    let next = sql::sequence(&sql::commit(&mut scene.conn(), "INSERT INTO shop.t VALUES (4, 'four')"));
    assert!(next > highest + 1, "{next} follows {highest} and the DROP after it");
    expected = scene.contents();
    scene.assert_recovers(&expected);
}

/// 8: a cut by offset or by the clock must not fall into a transaction.
#[test]
fn a_cut_falls_between_transactions_only() {
    let scene = Scene::new(
        "p8",
        &["CREATE TABLE shop.plain (id INT PRIMARY KEY, x VARCHAR(2000)) ENGINE=Aria TRANSACTIONAL=0"],
    );
    let mut conn = scene.conn();
    let before = scene.contents();
    // One statement, several row events, on a table that can't roll them back.
    let large = "INSERT INTO shop.plain SELECT seq, REPEAT('x', 1900) FROM shop.seq_1_to_20";
    let gtid = sql::commit(&mut conn, large);
    let whole = scene.contents();
    // Begun before the time below, committed after it; and one whose client lied about the time.
    let mut slow = scene.conn();
    sql::run(&mut slow, "BEGIN");
    sql::run(&mut slow, "INSERT INTO shop.t VALUES (1, 'slow')");
    sql::run(&mut conn, "SET TIMESTAMP = UNIX_TIMESTAMP() + 3600");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (2, 'an hour ahead')");
    sql::run(&mut conn, "SET TIMESTAMP = DEFAULT");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (3, 'on time')");
    let at_time = scene.contents();
    // Observed before the second ends: the shipper must not have to guess.
    scene.instance.ship();
    std::thread::sleep(Duration::from_millis(1200));
    let time = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(2200));
    sql::run(&mut slow, "COMMIT");
    scene.instance.ship();

    let (files, from) = scene.files();
    let start = format!("--start-position={from}");
    let placed = crate::harness::events::place_transactions(&files, &scene.appliance.bed);
    let cut = placed.iter().find(|one| one.gtid == gtid).unwrap();
    let inside = inner_event(&scene, &files[0], cut.begin, cut.end);
    let mut naive = scene.naive("by-offset", "skip-log-bin");
    naive.start(&[]);
    scene.pipe(&naive, &files[..1], &[&start, &format!("--stop-position={inside}")]);
    let half = sql::contents(&mut naive.conn(), "shop");
    assert_ne!(half, before, "the naive cut stops before the COMMIT, and the rows are there");
    let mut naive = scene.naive("by-time", "skip-log-bin");
    naive.start(&[]);
    let until = time.strftime("--stop-datetime=%Y-%m-%d %H:%M:%S").to_string();
    scene.pipe(&naive, &files, &[&start, &until]);
    assert_ne!(sql::contents(&mut naive.conn(), "shop"), at_time, "the naive cut believes every clock");

    let timeline = scene.instance.timeline();
    let recover = |member: &str, value: &str, expected: &Contents| {
        scene.instance.recover(&json!({ member: value, "timeline": timeline }));
        sql::assert_same(&scene.contents(), expected, &format!("{member} {value}"));
    };
    let inside = format!("{}:{inside}", cut.file);
    recover("before_position", &inside, &before);
    recover("position", &inside, &whole);
    recover("point_in_time", &time.to_string(), &at_time);
}

/// The offset of a transaction's last event: all its rows stand before it.
fn inner_event(scene: &Scene, file: &PathBuf, begin: u64, end: u64) -> u64 {
    let text = scene.appliance.bed.path("events.txt");
    dump_binlogs(scene.appliance.bed.datastore(), std::slice::from_ref(file), &["--base64-output=decode-rows"], &text);
    let text = String::from_utf8_lossy(&std::fs::read(&text).unwrap()).into_owned();
    // MariaDB 11 leaves the end of an event within a transaction out.
    let begins = text.lines().filter_map(|line| line.strip_prefix("# at ")?.parse().ok());
    let inner: Vec<u64> = begins.filter(|at| *at > begin && *at < end).collect();
    assert!(inner.len() > 3, "several events in the transaction: {inner:?}");
    // Not the last: a part of the rows.
    *inner.last().unwrap()
}

/// 9: an event of the base wakes up on the scratch server and writes rows that the archive holds too.
#[test]
fn events_sleep_while_the_past_is_replayed() {
    let scene = Scene::new(
        "p9",
        &[
            "SET GLOBAL event_scheduler = ON",
            "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.t (x) VALUES ('tick')",
        ],
    );
    let ticks = || sql::ask(&mut scene.conn(), "SELECT COUNT(*) FROM shop.t WHERE x = 'tick'").parse::<u64>().unwrap();
    let so_far = ticks();
    wait_for("some ticks", Duration::from_secs(20), || (ticks() > so_far + 3).then_some(()));
    sql::run(&mut scene.conn(), "SET GLOBAL event_scheduler = OFF");
    std::thread::sleep(Duration::from_millis(1200));
    let expected = scene.contents();

    let (files, from) = scene.files();
    let mut naive = scene.naive("naive", "skip-log-bin\nevent-scheduler=ON");
    naive.start(&[]);
    std::thread::sleep(Duration::from_millis(2500));
    let replayed = scene.pipe(&naive, &files, &[&format!("--start-position={from}")]);
    let found = sql::contents(&mut naive.conn(), "shop");
    assert!(replayed.code != 0 || found != expected, "the naive way has rows of its own");

    scene.assert_recovers(&expected);
    let status = sql::ask(&mut scene.conn(), "SELECT status FROM information_schema.events WHERE event_name = 'tick'");
    assert_eq!(status, "ENABLED", "and it wakes up again when the server says so");
}

/// 10: what an applier creates or alters is SLAVESIDE_DISABLED; and 11: the ways in which relay logs vanish unread.
#[test]
fn events_come_back_as_they_were_and_relay_logs_are_all_read() {
    let scene = Scene::new(
        "p10",
        &[
            "CREATE EVENT shop.altered ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.t WHERE id = -1",
            // A server that once was a replica of another one keeps its position.
            "SET GLOBAL gtid_slave_pos = '77-99-5'",
        ],
    );
    let mut conn = scene.conn();
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (1, 'one')");
    sql::run(&mut conn, "CREATE EVENT shop.made ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.t WHERE id = -2");
    sql::run(&mut conn, "CREATE EVENT shop.idle ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM shop.t WHERE id = -3");
    sql::run(&mut conn, "ALTER EVENT shop.altered ON SCHEDULE EVERY 2 DAY");
    sql::run(&mut conn, "FLUSH BINARY LOGS");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (2, 'two')");
    let expected = scene.contents();
    let statuses = |conn: &mut Conn| {
        let query = "SELECT GROUP_CONCAT(event_name, ' ', status ORDER BY event_name) FROM information_schema.events";
        sql::ask(conn, &format!("{query} WHERE event_schema = 'shop'"))
    };
    let enabled = statuses(&mut conn);
    assert_eq!(enabled, "altered ENABLED,idle DISABLED,made ENABLED");

    let (files, from) = scene.files();
    let mut naive = scene.naive("naive", "");
    assert_eq!(replay_by_hand(&mut naive, &files, from, Recipe::Right), files.len());
    sql::assert_same(&sql::contents(&mut naive.conn(), "shop"), &expected, "the tables are right");
    assert!(statuses(&mut naive.conn()).contains("SLAVESIDE_DISABLED"), "and the events are not");
    let mut naive = scene.naive("unread", "");
    let left = replay_by_hand(&mut naive, &files, from, Recipe::WithoutRelayLogFile);
    assert!(left < files.len(), "the naive order deletes relay logs, and says nothing");
    assert_ne!(sql::contents(&mut naive.conn(), "shop"), expected);

    let gone = sql::commit(&mut conn, "DROP DATABASE shop");
    scene.instance.wait_shipped(&gone);
    let recovery = scene.instance.recover(&json!({ "before_gtid": gone }));
    sql::assert_same(&scene.contents(), &expected, "every relay log was read");
    assert_eq!(statuses(&mut scene.conn()), enabled, "events are as they were");
    let (planned, replayed) = (&recovery["plan"]["transactions"], &recovery["outcome"]["replayed_transactions"]);
    assert_eq!(planned, replayed, "{recovery}");
    let replica = sql::ask(
        &mut scene.conn(),
        "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'system user' AND command LIKE 'Slave%'",
    );
    assert_eq!(replica, "0", "no applier is left");
    assert!(!server_files(&scene).iter().any(|name| name.contains("relay")), "no relay log is left");
}

fn server_files(scene: &Scene) -> Vec<String> {
    let entries = std::fs::read_dir(&scene.instance.data_dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// 18: one row larger than a client may send.
#[test]
fn a_huge_row_and_a_huge_transaction_come_back() {
    let scene = Scene::new(
        "p18",
        &[
            "CREATE TABLE shop.large (id INT PRIMARY KEY, x LONGBLOB) ENGINE=InnoDB",
            "SET GLOBAL max_allowed_packet = 134217728",
        ],
    );
    let mut conn = scene.conn();
    sql::run(&mut conn, "INSERT INTO shop.large VALUES (1, REPEAT(UNHEX('00FF27'), 8000000))");
    sql::run(&mut conn, "INSERT INTO shop.t (x) SELECT MD5(seq) FROM shop.seq_1_to_60000");
    let digest = "SELECT CONCAT(MD5(x), ' ', (SELECT SUM(CRC32(CONCAT(id, x))) FROM shop.t)) FROM shop.large";
    let expected = sql::ask(&mut conn, digest);

    let (files, from) = scene.files();
    let mut naive = scene.naive("naive", "skip-log-bin");
    naive.start(&[]);
    let replayed = scene.pipe(&naive, &files, &[&format!("--start-position={from}")]);
    assert!(replayed.code != 0, "the naive way can't send the row: {replayed:?}");

    let gone = sql::commit(&mut conn, "DROP DATABASE shop");
    scene.instance.wait_shipped(&gone);
    scene.instance.recover(&json!({ "before_gtid": gone }));
    assert_eq!(sql::ask(&mut scene.conn(), digest), expected);
}
