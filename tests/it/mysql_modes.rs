//! With and without GTIDs, and as a source: what a recovered MySQL is to others.

use std::time::Duration;

use mysql::prelude::Queryable;
use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::cell::Cell;
use crate::harness::events;
use crate::harness::history::{Change, Committed, History};
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::Server;
use crate::harness::{Random, sql, wait_for};
use crate::mysql_pitfalls::Scene;

/// Transactions of the recorded load.
const TRANSACTIONS: usize = 60;

/// The statements that change what a client of the load has changed.
fn statement(change: &Change) -> String {
    let listed = |row: &[String]| row.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(",");
    match change {
        Change::Insert { table, row, .. } => format!("INSERT INTO {table} VALUES ({})", listed(row)),
        Change::Add { table, key, amount, then, .. } => format!(
            "UPDATE {table} SET balance = balance + ({amount}), last_client = {}, last_serial = {} WHERE id = {key}",
            then[0], then[1]
        ),
        Change::Delete { table, key } => {
            let columns = if table.ends_with("items") { "(client, serial, part)" } else { "(client, serial)" };
            format!("DELETE FROM {table} WHERE {columns} = ({})", key.replace('/', ","))
        }
        other => panic!("the load changes no schema: {other:?}"),
    }
}

/// Takes away what makes the server give GTIDs, for this start and all others.
fn turn_gtids_off(instance: &Instance) {
    let options = instance.socket.with_file_name("my.cnf");
    let text = std::fs::read_to_string(&options).unwrap();
    let lines = text.lines().filter(|line| !line.replace('-', "_").starts_with("gtid_mode"));
    std::fs::write(&options, lines.collect::<Vec<_>>().join("\n") + "\n[mysqld]\ngtid_mode=OFF\n").unwrap();
    set_mode(instance, &["ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF"]);
}

fn set_mode(instance: &Instance, modes: &[&str]) {
    modes.iter().for_each(|mode| sql::run(&mut instance.conn(), &format!("SET GLOBAL gtid_mode = {mode}")));
}

/// What is committed there under each number, as the instance names it.
fn apply(instance: &Instance, recorded: &[Committed]) -> Vec<String> {
    // A session keeps something of the mode it began in.
    let mut conn = instance.conn();
    let mut commit = |one: &Committed| {
        sql::run(&mut conn, "BEGIN");
        one.changes.iter().for_each(|change| sql::run(&mut conn, &statement(change)));
        sql::commit(&mut conn, "COMMIT")
    };
    recorded.iter().map(&mut commit).collect()
}

fn up_to(name: &str) -> Value {
    if sql::is_place(name) { json!({ "position": name }) } else { json!({ "gtid": name }) }
}

#[test]
fn the_same_load_recovered_with_gtids_without_and_with_changes_between_gives_the_same_rows() {
    let mut random = Random::seeded("my-modes");
    let appliance = Appliance::start_with(Cell::mysql(), "my-modes");
    let [on, off, mixed] = ["on", "off", "mixed"].map(|name| Instance::create(&appliance, name));
    turn_gtids_off(&off);
    let mut history = History::new();
    history.record(0, load::prepare(&mut on.conn()));
    load::prepare(&mut off.conn());
    load::prepare(&mut mixed.conn());
    for instance in [&on, &off, &mixed] {
        instance.begin_backup("base");
    }
    for instance in [&on, &off, &mixed] {
        wait_for("the base", Duration::from_secs(90), || {
            let backups = instance.api.get(&instance.path("/backups")).expect(200);
            (backups["backups"][0]["status"] == "COMPLETED").then_some(())
        });
        instance.wait_active();
    }

    // One client: the order of the commits is that of its serial numbers.
    let load = Load::start_paced(&on.socket, 1, Ddl::No, 0, &mut random, Duration::ZERO);
    load.wait_commits(TRANSACTIONS);
    let mut recorded = load.end_clean();
    recorded.truncate(TRANSACTIONS);
    history.record(0, recorded.iter().cloned());
    let names: Vec<String> = recorded.iter().map(|one| one.gtid.clone()).collect();
    let names_off = apply(&off, &recorded);
    assert!(names_off.iter().all(|name| sql::is_place(name)), "{names_off:?}");
    let parts: Vec<&[Committed]> = recorded.chunks(TRANSACTIONS / 3).collect();
    let mut names_mixed = apply(&mixed, parts[0]);
    set_mode(&mixed, &["ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF"]);
    names_mixed.extend(apply(&mixed, parts[1]));
    let is_split = names_mixed.iter().filter(|name| sql::is_place(name)).count() == TRANSACTIONS / 3;
    set_mode(&mixed, &["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]);
    names_mixed.extend(apply(&mixed, parts[2]));
    assert!(is_split, "with, without, with again: {names_mixed:?}");
    for (instance, names) in [(&on, &names), (&off, &names_off), (&mixed, &names_mixed)] {
        instance.wait_shipped(names.last().unwrap());
    }
    let listed = off.api.get(&off.path("/transactions?limit=1000")).expect(200);
    let listed = listed["transactions"].as_array().unwrap();
    assert!(listed.len() >= TRANSACTIONS && listed.iter().all(|one| one.get("gtid").is_none()), "{listed:?}");

    let check = |instance: &Instance, members: &Value, at: usize| {
        let mut members = members.clone();
        members["timeline"] = instance.timelines().iter().find(|line| line["number"] == 1).unwrap()["id"].clone();
        let recovery = instance.recover(&members);
        let expected = history.contents(0, sql::sequence(&names[at]));
        let found = sql::contents(&mut instance.conn(), load::SCHEMA);
        sql::assert_same(&found, &expected, &format!("{members} ({recovery})"));
    };
    let places = events::place_transactions(&sql::binlogs(&mut off.conn()), &appliance.bed);
    // In the last part, which on the one with changes comes behind two of them; and in its part without GTIDs.
    let (last, middle) = (TRANSACTIONS * 5 / 6, TRANSACTIONS / 2);
    check(&on, &up_to(&names[last]), last);
    check(&off, &up_to(&names_off[last]), last);
    check(&mixed, &up_to(&names_mixed[last]), last);
    check(&mixed, &up_to(&names_mixed[middle]), middle);
    let at = TRANSACTIONS / 5;
    let place = places.iter().find(|one| one.gtid == names_off[at]).unwrap();
    let time = jiff::Timestamp::from_microsecond(place.committed_at).unwrap().to_string();
    check(&off, &json!({ "point_in_time": time }), at);
    assert_eq!(sql::ask(&mut off.conn(), "SELECT @@GLOBAL.gtid_mode"), "OFF");
    assert_eq!(sql::ask(&mut off.conn(), "SELECT @@GLOBAL.gtid_executed"), "", "it never gave one");
}

#[test]
fn a_recovered_server_is_at_once_the_source_of_a_real_replica() {
    let mut random = Random::seeded("my-source");
    let scene = Scene::empty(Appliance::start_with(Cell::mysql(), "my-source"));
    let instance = &scene.instance;
    load::prepare(&mut scene.conn());
    instance.backup("base");
    let load = Load::start(&instance.socket, 2, Ddl::Yes, 0, &mut random);
    load.wait_commits(100);
    let committed = load.end_clean();
    instance.ship();
    instance.recover(&json!({ "gtid": committed[committed.len() / 2].gtid }));

    // At once: what the replica begins with is a clone of what was recovered.
    let bed = &scene.appliance.bed;
    let mut replica = Server::without_data(bed, "replica", &format!("{}server-id=816", bed.datastore().good()));
    scene.run(&[
        "CREATE USER repl IDENTIFIED BY 'a pass'",
        "GRANT REPLICATION SLAVE ON *.* TO repl",
        &format!("CLONE LOCAL DATA DIRECTORY = '{}'", replica.data_dir.display()),
    ]);
    let load = Load::start(&instance.socket, 3, Ddl::Yes, 100_000, &mut random);
    load.wait_commits(60);
    replica.start(&[]);
    let mut conn = replica.conn();
    let port = scene.ask("SELECT @@port");
    sql::run(
        &mut conn,
        &format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='repl', \
             SOURCE_PASSWORD='a pass', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
        ),
    );
    sql::run(&mut conn, "START REPLICA");
    load.wait_commits(160);
    load.end_clean();
    let executed = scene.executed();
    assert!(executed.contains(','), "of before the recovery and after it: {executed}");
    wait_for("the replica to catch up", Duration::from_secs(60), || {
        let state = sql::row(&mut conn, "SHOW REPLICA STATUS");
        let errors = [&state["Last_IO_Error"], &state["Last_SQL_Error"]];
        assert!(errors.iter().all(|error| error.is_empty()), "{errors:?}");
        let caught_up = sql::ask(&mut conn, &format!("SELECT GTID_SUBSET('{executed}', @@GLOBAL.gtid_executed)"));
        (caught_up == "1").then_some(())
    });
    let tables: Vec<String> = sql::contents(&mut scene.conn(), load::SCHEMA).into_keys().collect();
    assert!(tables.len() > 3, "{tables:?}");
    let checksums = |conn: &mut mysql::Conn| -> Vec<(String, Option<u64>)> {
        conn.query(format!("CHECKSUM TABLE {}", tables.join(", "))).unwrap()
    };
    assert_eq!(checksums(&mut conn), checksums(&mut scene.conn()), "CHECKSUM TABLE");
    let found = sql::contents(&mut conn, load::SCHEMA);
    sql::assert_same(&found, &sql::contents(&mut scene.conn(), load::SCHEMA), "the replica");
}
