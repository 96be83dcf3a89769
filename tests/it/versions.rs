//! Servers of another version than a backup's: what does not fit is refused in the plan, by name, and nothing is touched.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::appliance::{Appliance, said};
use crate::harness::cell::Cell;
use crate::harness::instance::Instance;
use crate::harness::sql;

#[test]
fn a_backup_of_the_series_before_is_refused_by_the_one_that_is_configured() {
    refused(Cell::mariadb(), Cell::mariadb_next());
}

#[test]
fn a_backup_of_a_later_series_is_refused_by_the_one_that_is_configured() {
    refused(Cell::mariadb_next(), Cell::mariadb());
}

fn refused(taken: Cell, configured: Cell) {
    let mut appliance = Appliance::start_with(taken, "versions");
    let instance = Instance::create(&appliance, "versions");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    let backup = instance.backup("base");
    assert_eq!(
        backup["datastore"]["version"],
        version(taken).rsplit_once('.').unwrap().0,
        "the backup states it: {backup}"
    );
    let gone = sql::commit(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY)");
    instance.wait_shipped(&gone);
    let server = instance.server_pid();

    let right = fs::read_to_string(&appliance.config).unwrap();
    configure(&mut appliance, taken, configured);
    instance.wait_active();
    for members in [json!({"before_gtid": gone}), json!({"latest": true, "plan_only": true})] {
        let message = instance.ask_recovery(&members).fault(409);
        for word in [backup["id"].as_str().unwrap(), &version(taken), &version(configured)] {
            assert!(message.contains(word), "`{word}` is named: {message}");
        }
    }
    assert_eq!(instance.server_pid(), server, "the server was not touched");

    appliance.stop();
    fs::write(&appliance.config, right).unwrap();
    appliance.resume(&[]);
    instance.recover(&json!({"before_gtid": gone}));
    assert!(!sql::contents(&mut instance.conn(), "shop").contains_key("shop.t"));
}

/// Statements are understood by a later server: the recovery is the step up.
#[test]
fn a_dump_of_the_series_before_is_taken_by_the_one_that_is_configured() {
    let (taken, configured) = (Cell::mariadb_dump(), Cell::mariadb_next_dump());
    let mut appliance = Appliance::start_with(taken, "step-up");
    let instance = Instance::create(&appliance, "step-up");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY, x VARCHAR(20))");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (1, 'in the base')");
    instance.backup("base");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (2, 'after it')");
    let expected = sql::contents(&mut conn, "shop");
    let gone = sql::commit(&mut conn, "DROP TABLE shop.t");
    instance.wait_shipped(&gone);

    configure(&mut appliance, taken, configured);
    instance.wait_active();
    let plan = instance.plan(&json!({"before_gtid": gone}));
    let warnings = plan["warnings"].to_string();
    assert!(
        warnings.contains(&version(taken)) && warnings.contains(&version(configured)),
        "both are named: {warnings}"
    );
    assert!(warnings.contains(&format!("an undo needs the server program of version {} again", version(taken))));
    let recovery = instance.recover(&json!({"before_gtid": gone}));
    let recovery = recovery["recovery_id"].as_str().unwrap();
    sql::assert_same(&sql::contents(&mut instance.conn(), "shop"), &expected, "on the next series");
    let runs = || sql::ask(&mut instance.conn(), "SELECT VERSION()");
    assert!(runs().starts_with(&version(configured)), "{}", runs());
    let onward = instance.plan(&json!({"latest": true}));
    assert!(!onward["warnings"].to_string().contains("version"), "from here on it is one of its own series: {onward}");

    // What the step left behind is the former series' data, and stays it.
    let server = instance.server_pid();
    let refusal = instance.act(recovery, "undo").fault(409);
    for word in [version(taken), version(configured), "must not be started on it".to_owned()] {
        assert!(refusal.contains(&word), "`{word}`: {refusal}");
    }
    assert_eq!(instance.server_pid(), server, "the server was not touched");
    configure(&mut appliance, configured, taken);
    instance.wait_active();
    instance.undo(recovery);
    assert!(runs().starts_with(&version(taken)), "{}", runs());
    assert!(!sql::contents(&mut instance.conn(), "shop").contains_key("shop.t"), "undone");
    instance.ship();
}

/// Starts the appliance again with the programs of another cell.
fn configure(appliance: &mut Appliance, now: Cell, then: Cell) {
    let text = fs::read_to_string(&appliance.config).unwrap();
    let (ours, others) = (now.configuration(), then.configuration());
    appliance.stop();
    fs::write(&appliance.config, if ours.is_empty() { text + &others } else { text.replace(&ours, &others) }).unwrap();
    appliance.resume(&[]);
}

/// As the server's program states it.
fn version(cell: Cell) -> String {
    let mut command = Command::new(cell.datastore.program("mariadbd"));
    let said = said(command.args(["--no-defaults", "--version"])).stdout;
    said.split("Ver ").nth(1).unwrap().split('-').next().unwrap().to_owned()
}
