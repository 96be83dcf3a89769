//! Death at every step: coffer killed in each state of a recovery and of an undo, the scratch server killed while it
//! replays. Whatever happens, either the old or the new data is whole and can be started, and the end is the same.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::api::text;
use crate::harness::appliance::{Appliance, said, tail};
use crate::harness::bed::{free_port, is_running, kill_and_wait};
use crate::harness::cell::Cell;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::Server;
use crate::harness::sql::{self, Contents};
use crate::harness::{Random, wait_for};
use crate::matrix::{on_cells, on_every_cell, on_every_server};

const DO: [&str; 8] = ["PLANNED", "STAGED", "PREPARED", "REPLAYED", "FENCED", "SWITCHED", "PROMOTED", "RETAINED"];
const UNDO: [&str; 4] = ["RETAINED", "UNDO_FENCED", "UNDO_SWITCHED", "UNDONE"];

/// An instance with a backup, a target in its past and what the tables held there.
struct Scene {
    appliance: Appliance,
    instance: Instance,
    target: String,
    at_target: Contents,
    serial: u64,
}

impl Scene {
    fn new(cell: Cell, name: &str) -> Scene {
        let mut random = Random::seeded(name);
        let appliance = Appliance::start_with(cell, name);
        let instance = Instance::create(&appliance, name);
        load::prepare(&mut instance.conn());
        instance.backup("base");
        let mut write = |serial| {
            let load = Load::start(&instance.socket, 2, Ddl::No, serial, &mut random);
            load.wait_commits(40);
            load.end_clean();
        };
        write(0);
        let target =
            sql::commit(&mut instance.conn(), "INSERT INTO shop.orders (client, serial, note) VALUES (99, 0, 't')");
        let at_target = sql::contents(&mut instance.conn(), load::SCHEMA);
        write(1000);
        Scene { appliance, instance, target, at_target, serial: 1 }
    }

    /// Commits one more row, which a recovery gives up and its undo must bring back; returns what there is then.
    fn write(&mut self) -> Contents {
        self.serial += 1;
        let mut conn = self.instance.conn();
        sql::run(
            &mut conn,
            &format!("INSERT INTO shop.orders (client, serial, note) VALUES (99, {}, 'late')", self.serial),
        );
        self.contents()
    }

    fn contents(&self) -> Contents {
        sql::contents(&mut self.instance.wait_conn(), load::SCHEMA)
    }

    fn begin(&self) -> String {
        self.instance.begin_recovery(&json!({ "gtid": self.target }))
    }

    /// Lets the appliance run with a crash point, does `act`, and waits for the crash.
    fn crash_at(&mut self, point: &str, act: impl FnOnce(&Scene)) {
        self.appliance.stop();
        self.appliance.resume(&[("COFFER_CRASH_AT", point)]);
        self.instance.wait_active();
        act(self);
        let status = self.appliance.wait_end(Duration::from_secs(120));
        assert!(!status.success(), "{point}: it ended in good order instead of crashing");
        assert!(
            status.code().is_none(),
            "{point}: ended with {status}, not by a signal:\n{}",
            tail(&self.appliance.log)
        );
    }

    /// What is left while coffer is dead: a server that serves one of the two, or a directory that can be started and
    /// holds one of the two.
    fn assert_one_is_whole(&self, point: &str, old: &Contents) {
        if let Ok(mut conn) = sql::connect(&self.instance.socket) {
            let found = sql::contents(&mut conn, load::SCHEMA);
            assert!(found == *old || found == self.at_target, "{point}: the server serves neither the old nor the new");
            return;
        }
        let found = start_copy(&self.appliance, &self.instance.data_dir);
        assert!(
            found == *old || found == self.at_target,
            "{point}: the data directory holds neither the old nor the new"
        );
    }
}

/// Starts a copy of a data directory on a server of the test's own and reads it.
fn start_copy(appliance: &Appliance, data_dir: &Path) -> Contents {
    let mut server = Server::without_data(&appliance.bed, "copy", appliance.bed.datastore().good());
    let copied = said(Command::new("cp").args(["-a", "--reflink=auto"]).arg(data_dir).arg(&server.data_dir));
    assert_eq!(copied.code, 0, "{copied:?}");
    server.start(&["--event-scheduler=OFF"]);
    let found = sql::contents(&mut server.conn(), load::SCHEMA);
    server.stop();
    std::fs::remove_dir_all(&server.dir).unwrap();
    found
}

on_every_cell!(killed_right_after_any_state_is_journaled_the_recovery_ends_the_same);

fn killed_right_after_any_state_is_journaled_the_recovery_ends_the_same(cell: Cell) {
    every_state(cell, "crash-after", "", &DO, &UNDO[1..]);
}

on_cells!(killed_when_a_step_is_done_but_not_journaled_the_recovery_ends_the_same: mariadb, mysql);

fn killed_when_a_step_is_done_but_not_journaled_the_recovery_ends_the_same(cell: Cell) {
    // `STATE:before` is right before the next state is journaled: the effect is there, the word is not.
    every_state(cell, "crash-before", ":before", &DO[..7], &UNDO[..3]);
}

/// The states in which servers and strategies differ, for the cells that are not the default one: a kill in all of them
/// takes minutes a cell. `COFFER_TEST_ALL=1` kills in every state on every cell.
const TELLING: [&str; 4] = ["STAGED", "PREPARED", "FENCED", "SWITCHED"];

fn every_state(cell: Cell, name: &str, suffix: &str, forward: &[&str], backward: &[&str]) {
    let all = cell == Cell::of_this_run() || std::env::var_os("COFFER_TEST_ALL").is_some();
    let forward: Vec<&str> = forward.iter().copied().filter(|state| all || TELLING.contains(state)).collect();
    let mut scene = Scene::new(cell, name);
    let server = scene.instance.server_pid();
    for (round, state) in forward.iter().enumerate() {
        let point = format!("{state}{suffix}");
        println!("{name}: {point}");
        let old = scene.write();
        let mut recovery = String::new();
        scene.crash_at(&point, |scene| recovery = scene.begin());
        scene.assert_one_is_whole(&point, &old);
        if ["PLANNED", "STAGED", "PREPARED", "REPLAYED"].contains(state) {
            assert!(round > 0 || is_running(server), "{point}: the old server serves on");
        }
        scene.appliance.resume(&[]);
        scene.instance.wait_recovery(&recovery, "COMPLETED");
        scene.instance.wait_active();
        sql::assert_same(&scene.contents(), &scene.at_target, &format!("after a crash at {point}"));

        let undo_point = backward.get(round % (backward.len() + 1)).map(|state| format!("{state}{suffix}"));
        match undo_point {
            Some(point) => {
                println!("{name}: {point}");
                scene.crash_at(&point, |scene| {
                    scene.instance.act(&recovery, "undo").expect(202);
                });
                scene.assert_one_is_whole(&point, &old);
                scene.appliance.resume(&[]);
                scene.instance.wait_recovery(&recovery, "UNDONE");
                scene.instance.wait_active();
            }
            None => {
                scene.instance.undo(&recovery);
            }
        }
        sql::assert_same(&scene.contents(), &old, &format!("undone after a crash at {point}"));
    }
    let left = scene.appliance.bed.servers();
    assert_eq!(left, [scene.instance.server_pid()], "no scratch server is left behind");
}

/// Somebody finds the server down and coffer dead, and starts the server: on the recovered data, as it turns out.
#[test]
fn a_server_started_by_hand_right_behind_the_exchange_costs_neither_the_old_data_nor_the_new() {
    let mut scene = Scene::new(Cell::of_this_run(), "crash-hand");
    let old = scene.write();
    let datastore = scene.appliance.bed.datastore();
    let options = format!("--defaults-file={}", scene.instance.socket.with_file_name("my.cnf").display());
    let start = || {
        let mut server = Command::new(datastore.program(datastore.server())).arg(&options).spawn().unwrap();
        // Somebody has to collect it once it ends, or it looks alive for ever.
        std::thread::spawn(move || server.wait());
    };
    let mut recovery = String::new();
    scene.crash_at("FENCED:before", |scene| recovery = scene.begin());
    start();
    sql::assert_same(&scene.contents(), &scene.at_target, "what was exchanged");
    scene.appliance.resume(&[]);
    scene.instance.wait_recovery(&recovery, "COMPLETED");
    scene.instance.wait_active();
    sql::assert_same(&scene.contents(), &scene.at_target, "recovered");
    scene.crash_at("UNDO_FENCED:before", |scene| {
        scene.instance.act(&recovery, "undo").expect(202);
    });
    start();
    sql::assert_same(&scene.contents(), &old, "what was exchanged back");
    scene.appliance.resume(&[]);
    scene.instance.wait_recovery(&recovery, "UNDONE");
    scene.instance.wait_active();
    sql::assert_same(&scene.contents(), &old, "undone");
}

on_cells!(killed_at_any_moment_and_again_while_it_resumes: mariadb, mysql);

fn killed_at_any_moment_and_again_while_it_resumes(cell: Cell) {
    let mut random = Random::seeded("crash-any");
    let mut scene = Scene::new(cell, "crash-any");
    for round in 0..4 {
        let old = scene.write();
        let recovery = scene.begin();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
            scene.appliance.crash();
            scene.assert_one_is_whole(&format!("round {round}"), &old);
            scene.appliance.resume(&[]);
        }
        scene.instance.wait_recovery(&recovery, "COMPLETED");
        scene.instance.wait_active();
        sql::assert_same(&scene.contents(), &scene.at_target, "after three kills");
        scene.instance.undo(&recovery);
        sql::assert_same(&scene.contents(), &old, "undone after three kills");
    }
}

on_every_server!(a_killed_scratch_server_changes_nothing);

fn a_killed_scratch_server_changes_nothing(cell: Cell) {
    let appliance = Appliance::start_with(cell, "scratch");
    let instance = Instance::create(&appliance, "scratch");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, x INT, y VARCHAR(40)) ENGINE=InnoDB");
    instance.backup("base");
    // Enough rows that the replay lasts some seconds.
    let insert = format!("INSERT INTO shop.t (x, y) SELECT seq, REPEAT('y', 30) FROM {}", sql::numbers(10_000));
    for _ in 0..50 {
        sql::run(&mut conn, &insert);
    }
    let sum = |conn: &mut mysql::Conn| {
        sql::ask(conn, "SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT(id, x, y)))) FROM shop.t")
    };
    let expected = sum(&mut conn);
    let dropped = sql::commit(&mut conn, "DROP TABLE shop.t");
    instance.wait_shipped(&dropped);
    let server = instance.server_pid();
    let recovery = instance.begin_recovery(&json!({ "before_gtid": dropped }));
    let mut killed = 0;
    let begin = Instant::now();
    while killed < 2 && begin.elapsed() < Duration::from_secs(60) {
        let view = instance.recovery(&recovery);
        assert_ne!(view["status"], "FAILED", "{view}");
        let replaying =
            text(&view, "state") == "PREPARED" && view["progress"]["done"].as_u64().is_some_and(|done| done > 0);
        let scratch: Vec<i32> = appliance.bed.servers().into_iter().filter(|pid| *pid != server).collect();
        if let (true, Some(pid)) = (replaying, scratch.first()) {
            kill_and_wait(*pid);
            killed += 1;
        }
        if view["status"] == "COMPLETED" {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(killed > 0, "the replay was over before it could be disturbed");
    instance.wait_recovery(&recovery, "COMPLETED");
    instance.wait_active();
    assert_eq!(sum(&mut instance.conn()), expected, "every row once, killed {killed} times");
}

#[test]
fn coffer_killed_leaves_the_server_serving_and_finds_it_again() {
    let mut appliance = Appliance::start("leave");
    let instance = Instance::create(&appliance, "leave");
    let pid = instance.server_pid();
    appliance.crash();
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE while_away");
    let gtid = sql::commit(&mut conn, "CREATE TABLE while_away.t (id INT PRIMARY KEY)");
    appliance.resume(&[]);
    instance.wait_active();
    assert_eq!(instance.server_pid(), pid, "the same process, found again");
    instance.wait_shipped(&gtid);
    // And a server that died is started again.
    kill_and_wait(pid);
    wait_for("the supervised server to come back", Duration::from_secs(60), || sql::connect(&instance.socket).ok());
    assert_ne!(instance.server_pid(), pid);
    instance.ship();
}

#[test]
fn an_ordered_stop_is_quick_and_loses_no_task() {
    let mut appliance = Appliance::start("stop");
    let instance = Instance::create(&appliance, "stop");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(2000)) ENGINE=InnoDB");
    for _ in 0..10 {
        sql::run(&mut conn, "INSERT INTO shop.t (y) SELECT REPEAT(MD5(RAND()), 50) FROM shop.seq_1_to_2000");
    }
    let backup = instance.begin_backup("interrupted");
    let took = appliance.stop();
    assert!(took < Duration::from_secs(3), "two seconds are promised, it took {took:?}");
    appliance.resume(&[]);
    instance.wait_backup(&backup);
    instance.wait_active();
    let recovery = instance.begin_recovery(&json!({ "backup": backup }));
    std::thread::sleep(Duration::from_millis(700));
    let took = appliance.stop();
    assert!(took < Duration::from_secs(3), "two seconds are promised, it took {took:?}");
    appliance.resume(&[]);
    instance.wait_recovery(&recovery, "COMPLETED");
}

#[test]
fn a_second_appliance_is_told_who_holds_the_state_directory() {
    let appliance = Appliance::start("lock");
    let config = appliance.bed.path("second.toml");
    let text = std::fs::read_to_string(&appliance.config).unwrap();
    let other = free_port();
    std::fs::write(&config, text.replace(&format!(":{}", appliance.port), &format!(":{other}"))).unwrap();
    let second = said(Command::new(crate::harness::appliance::BINARY).args(["serve", "--config"]).arg(&config));
    assert_ne!(second.code, 0, "{second:?}");
    assert!(second.stderr.contains(&appliance.pid().to_string()), "it names the holder's pid: {}", second.stderr);
}
