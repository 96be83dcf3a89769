//! The host is gone: a new one has the repository and nothing else. `coffer rebuild` brings back what is known of every
//! instance, `coffer recover` its data, as far as it was shipped; and from there it goes on like any other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::adopt;
use crate::harness::api::text;
use crate::harness::appliance::{Appliance, BINARY, Said, said};
use crate::harness::bed::{files_below, kill_and_wait};
use crate::harness::history::History;
use crate::harness::instance::{Instance, ROOT};
use crate::harness::load::{self, Ddl, Load};
use crate::harness::remote::Remote;
use crate::harness::server::{GOOD, Server};
use crate::harness::{Random, sql, wait_for};

/// The address of the repository, as the configuration has it.
fn repository_url(appliance: &Appliance) -> String {
    let config = fs::read_to_string(&appliance.config).unwrap();
    let line = config.lines().find_map(|line| line.strip_prefix("repository_url = \"")).unwrap();
    line.trim_end_matches('"').to_owned()
}

/// Waits until the repository holds objects whose keys have all of these words in them, `count` of them.
fn wait_stored(appliance: &Appliance, words: &[&str], count: usize) {
    wait_for(&format!("{count} objects of {words:?} in the repository"), Duration::from_secs(30), || {
        let found = files_below(&appliance.repository);
        let matching = found.iter().filter(|path| words.iter().all(|word| path.to_string_lossy().contains(word)));
        (matching.count() >= count).then_some(())
    });
}

/// The end of the host: coffer is killed, the server is, and everything they had on disk is gone.
fn lose(appliance: &mut Appliance, server_pid: i32, gone: &[&Path]) {
    appliance.crash();
    kill_and_wait(server_pid);
    let state_dir = appliance.state_dir.clone();
    for dir in gone.iter().copied().chain([state_dir.as_path()]) {
        fs::remove_dir_all(dir).unwrap();
    }
}

/// Another host: the same repository, and a state directory that does not exist yet.
pub(crate) fn move_to(appliance: &mut Appliance, state: &str) {
    let old = format!("state_dir = \"{}\"", appliance.state_dir.display());
    appliance.state_dir = appliance.bed.path(state);
    let config = fs::read_to_string(&appliance.config).unwrap();
    let new = format!("state_dir = \"{}\"", appliance.state_dir.display());
    fs::write(&appliance.config, config.replace(&old, &new)).unwrap();
}

pub(crate) fn rebuild(appliance: &Appliance, more: &[&str]) -> Said {
    let mut command = Command::new(BINARY);
    command.arg("rebuild").arg(repository_url(appliance)).arg("--config").arg(&appliance.config).args(more);
    said(&mut command)
}

/// The instance as the rebuilt appliance has it.
pub(crate) fn found_again(appliance: &Appliance, id: &str) -> Instance {
    let api = appliance.api.clone();
    let mut instance = Instance { api, id: id.to_owned(), socket: PathBuf::new(), data_dir: PathBuf::new() };
    let view = instance.view();
    instance.socket = text(&view, "socket").into();
    instance.data_dir = text(&view, "data_dir").into();
    instance
}

#[track_caller]
fn recover_latest(appliance: &Appliance, instance: &Instance, name: &str) -> Value {
    let done = appliance.cli(&["recover", name, "--latest"]);
    assert_eq!(done.code, 0, "coffer recover --latest: {done:?}\n{}", appliance.log_text());
    instance.wait_active();
    let recoveries = instance.api.get(&instance.path("/recoveries")).expect(200);
    recoveries["recoveries"][0].clone()
}

/// What the API says of an instance's past, without what is true of one host only.
fn past(instance: &Instance) -> (Vec<Value>, Value, Vec<Value>) {
    let backups = instance.api.get(&instance.path("/backups")).expect(200)["backups"].clone();
    let recoveries = instance.api.get(&instance.path("/recoveries")).expect(200);
    let recoveries = recoveries["recoveries"].as_array().unwrap().iter();
    let kept = ["recovery_id", "plan", "created", "recovered_from_backup", "target"];
    let recoveries = recoveries.map(|view| kept.iter().map(|name| view[*name].clone()).collect()).collect();
    (instance.timelines(), backups, recoveries)
}

#[test]
fn a_created_instance_comes_back_on_a_bare_host_and_again_on_the_next() {
    let mut random = Random::seeded("rebuild");
    let mut appliance = Appliance::start("rebuild");
    let instance = Instance::create(&appliance, "shop");
    let gone = Instance::create(&appliance, "gone");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    instance.backup("base");
    let load = Load::start(&instance.socket, 2, Ddl::Yes, 0, &mut random);
    load.wait_commits(80);
    history.record(0, load.end_clean());
    let gtids = history.gtids(0);
    let middle = gtids[gtids.len() / 2].clone();
    instance.wait_shipped(gtids.last().unwrap());
    let recovery = text(&instance.recover(&json!({"gtid": middle})), "recovery_id");
    let line = history.branch(0, sql::sequence(&middle));
    let load = Load::start(&instance.socket, 2, Ddl::No, 100_000, &mut random);
    load.wait_commits(60);
    history.record(line, load.end_clean());
    let shipped = sql::sequence(&instance.ship());
    wait_for("the backup after the recovery", Duration::from_secs(60), || {
        let view = instance.view();
        (view["status"] == "ACTIVE" && view.get("task").is_none()).then_some(())
    });
    gone.backup("of the deleted one");
    appliance.api.delete(&gone.path("")).expect(202);
    wait_stored(&appliance, &["recoveries", &recovery], 1);
    wait_stored(&appliance, &[&gone.id, "settings-"], 2);
    let before = past(&instance);
    let deleted_ones = appliance.api.get(&format!("{ROOT}/backups?instance_id={}", gone.id)).expect(200);
    lose(&mut appliance, instance.server_pid(), &[]);

    // Whoever starts anew there is told before anything is begun.
    move_to(&mut appliance, "s2");
    appliance.resume(&[]);
    let status = appliance.cli(&["status"]);
    assert!(status.stdout.contains("holds 1 instance") && status.stdout.contains("coffer rebuild"), "{status:?}");
    assert!(appliance.log_text().contains("coffer rebuild"));
    let taken = rebuild(&appliance, &[]);
    assert!(taken.code == 3 && taken.stderr.contains("in use by coffer with pid"), "{taken:?}");
    appliance.stop();

    for _ in 0..2 {
        let done = rebuild(&appliance, &[]);
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.contains("coffer recover shop --latest"), "{done:?}");
        assert!(!done.stdout.contains("repository_url"), "the configuration is right as it is: {done:?}");
    }
    appliance.resume(&[]);
    let instance = found_again(&appliance, &instance.id);
    assert!(instance.data_dir.starts_with(&appliance.state_dir), "{}", instance.data_dir.display());
    assert_eq!(past(&instance), before, "the past as it was");
    assert_eq!(appliance.api.get(&format!("{ROOT}/backups?instance_id={}", gone.id)).expect(200), deleted_ones);
    assert_eq!(appliance.api.get(&gone.path("")).status, 404, "a deleted instance does not come back");
    let view = instance.view();
    assert_eq!(view["status"], "ERROR", "{view}");
    let status = appliance.cli(&["status"]).stdout;
    assert!(status.contains("no data at") && status.contains("coffer recover shop --latest"), "{status}");
    let refused = instance.act(&recovery, "undo").fault(409);
    assert!(refused.contains("keeps no old data"), "{refused}");

    let done = recover_latest(&appliance, &instance, "shop");
    assert_eq!(text(&done["outcome"], "tail"), "files_gone", "{done}");
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(line, shipped), "every shipped commit, and no other");
    let refused = instance.act(&text(&done, "recovery_id"), "undo").fault(409);
    assert!(refused.contains("no data left before it"), "{refused}");
    assert_eq!(instance.timelines().len(), 3, "a timeline of its own");

    // It goes on; and the second loss is like the first.
    let second = history.branch(line, u64::MAX);
    let load = Load::start(&instance.socket, 2, Ddl::No, 200_000, &mut random);
    load.wait_commits(40);
    history.record(second, load.end_clean());
    instance.ship();
    instance.backup("afterwards");
    let before = past(&instance);
    wait_stored(&appliance, &["recoveries", &text(&done, "recovery_id")], 1);
    lose(&mut appliance, instance.server_pid(), &[]);
    move_to(&mut appliance, "s3");
    let done = rebuild(&appliance, &["--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said: Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(said["recoveries"] == 2 && said["problem_count"] == 0 && said["deleted"] == 1, "{said}");
    appliance.resume(&[]);
    let instance = found_again(&appliance, &instance.id);
    assert_eq!(past(&instance), before);
    recover_latest(&appliance, &instance, "shop");
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(second, u64::MAX), "after the second loss");
    instance.ship();
    instance.backup("and on");
}

#[test]
fn an_adopted_instance_comes_back_and_a_stranger_in_its_place_is_not_taken_for_it() {
    let mut appliance = Appliance::start("readopt");
    let mut server = Server::create(&appliance.bed, "own", GOOD);
    server.start(&[]);
    let mut conn = server.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY, x VARCHAR(20)) ENGINE=InnoDB");
    let instance = adopt::adopt(&appliance, &mut server, "own");
    instance.backup("base");
    for id in 1..=20 {
        sql::run(&mut conn, &format!("INSERT INTO shop.t VALUES ({id}, 'row {id}')"));
    }
    let expected = sql::contents(&mut conn, "shop");
    instance.ship();
    wait_stored(&appliance, &[&instance.id, "settings-"], 1);
    drop(conn);
    let work_dir = server.data_dir.with_file_name(".coffer-data");
    lose(&mut appliance, instance.server_pid(), &[&server.data_dir, &work_dir]);

    // The packages of the new host have made a server of their own in the same place, and it writes a binlog.
    let mut stranger = Server::create(&appliance.bed, "own", GOOD);
    stranger.start(&[]);
    sql::run(&mut stranger.conn(), "CREATE DATABASE stranger");
    stranger.hand_over();
    move_to(&mut appliance, "s2");
    let done = rebuild(&appliance, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    for said in [&server.data_dir, &server.socket, &server.options] {
        assert!(done.stdout.contains(said.to_str().unwrap()), "{} in {done:?}", said.display());
    }
    appliance.resume(&[]);
    let instance = found_again(&appliance, &instance.id);
    wait_for("the shipper to refuse the stranger's binlog", Duration::from_secs(20), || {
        let message = instance.view()["shipping"]["message"].as_str().unwrap_or_default().to_owned();
        message.contains("does not go on with the history").then_some(())
    });
    assert_eq!(instance.timelines().len(), 1, "nothing of the stranger's is history");
    let backup = instance.begin_backup("of the stranger");
    wait_for("a backup of the stranger to be refused", Duration::from_secs(30), || {
        let view = instance.api.get(&format!("{ROOT}/backups/{backup}")).expect(200)["backup"].clone();
        (view["status"] == "FAILED").then_some(())
    });
    let recovery = recover_latest(&appliance, &instance, "own");
    sql::assert_same(&sql::contents(&mut instance.conn(), "shop"), &expected, "every shipped row");
    assert!(sql::contents(&mut instance.conn(), "stranger").is_empty());
    let refused = instance.act(&text(&recovery, "recovery_id"), "undo").fault(409);
    assert!(refused.contains("kept for inspection only"), "{refused}");
    instance.ship();
    instance.backup("on the new host");
    assert_eq!(instance.timelines().len(), 2);
}

#[test]
fn a_lost_state_beside_a_living_server_is_rebuilt_and_shipping_goes_on() {
    let mut appliance = Appliance::start("beside");
    let mut server = Server::create(&appliance.bed, "own", GOOD);
    server.start(&[]);
    let instance = adopt::adopt(&appliance, &mut server, "own");
    instance.backup("base");
    instance.ship();
    wait_stored(&appliance, &[&instance.id, "settings-"], 1);
    appliance.crash();
    fs::remove_dir_all(&appliance.state_dir).unwrap();
    sql::run(&mut instance.conn(), "CREATE DATABASE meanwhile");
    let done = rebuild(&appliance, &[]);
    assert!(done.code == 0 && done.stdout.contains("goes on shipping"), "{done:?}");
    appliance.resume(&[]);
    let instance = found_again(&appliance, &instance.id);
    instance.wait_active();
    instance.ship();
    let view = instance.view();
    assert!(view["recoverable"]["gaps"].as_array().is_none_or(Vec::is_empty), "{view}");
    assert_eq!(instance.timelines().len(), 1, "the same history");
    instance.backup("goes on");
}

#[test]
fn an_object_store_is_all_a_bare_host_needs() {
    let mut random = Random::seeded("rebuild on s3");
    let mut remote = Remote::on_s3("rebuilds3");
    let appliance = &mut remote.appliance;
    let instance = Instance::create(appliance, "shop");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    instance.backup("base");
    let load = Load::start(&instance.socket, 2, Ddl::Yes, 0, &mut random);
    load.wait_commits(80);
    history.record(0, load.end_clean());
    let shipped = sql::sequence(&instance.ship());
    let before = past(&instance);
    let pid = instance.server_pid();
    wait_for("the settings in the store", Duration::from_secs(30), || {
        (!remote.objects(&[&instance.id, "settings-"]).is_empty()).then_some(())
    });
    let appliance = &mut remote.appliance;
    lose(appliance, pid, &[]);
    move_to(appliance, "s2");
    for _ in 0..2 {
        let done = rebuild(appliance, &[]);
        assert_eq!(done.code, 0, "{done:?}");
    }
    appliance.resume(&[]);
    let instance = found_again(appliance, &instance.id);
    assert_eq!(past(&instance), before);
    recover_latest(appliance, &instance, "shop");
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, shipped), "every shipped commit, from the store alone");
    instance.ship();
    instance.backup("on the new host");
}

#[test]
fn a_rebuild_that_can_not_be_right_is_refused_and_damage_is_told() {
    let mut appliance = Appliance::start("norebuild");
    let instance = Instance::create(&appliance, "shop");
    instance.backup("base");
    instance.ship();
    instance.backup("second");
    wait_stored(&appliance, &[&instance.id, "settings-"], 1);
    appliance.stop();
    let refused = rebuild(&appliance, &[]);
    assert!(refused.code == 3 && refused.stderr.contains("looks after instances already"), "{refused:?}");
    let nowhere = format!("file://{}", appliance.bed.path("nowhere").display());
    let mut command = Command::new(BINARY);
    let absent = said(command.args(["rebuild", &nowhere]).arg("--config").arg(&appliance.config));
    assert!(absent.code != 0 && absent.stderr.contains("nowhere"), "{absent:?}");

    let manifests: Vec<PathBuf> =
        files_below(&appliance.repository).into_iter().filter(|path| path.ends_with("manifest.json")).collect();
    let mut bytes = fs::read(&manifests[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&manifests[0], bytes).unwrap();
    // Without a configuration it says what must stand in one.
    let elsewhere = appliance.bed.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut command = Command::new(BINARY);
    let told = said(command.args(["rebuild", &repository_url(&appliance)]).current_dir(&elsewhere));
    assert_eq!(told.code, 1, "{told:?}");
    let key = manifests[0].strip_prefix(&appliance.repository).unwrap();
    assert!(told.stdout.contains(&format!("{}", key.display())) && told.stdout.contains("LOST"), "{told:?}");
    assert!(told.stdout.contains("1 backup, ") && told.stderr.contains("the rest is rebuilt"), "{told:?}");
    assert!(told.stdout.contains(&format!("repository_url = \"{}\"", repository_url(&appliance))), "{told:?}");
    assert!(elsewhere.join("coffer-data/coffer.sqlite").is_file());
}
