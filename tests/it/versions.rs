//! Servers of another version than a backup's: what does not fit is refused in the plan, by name, and nothing is touched.

use std::fs;

use serde_json::json;

use crate::harness::appliance::Appliance;
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
    let version = |cell: Cell| {
        let mut command = std::process::Command::new(cell.datastore.program("mariadbd"));
        let said = crate::harness::appliance::said(command.args(["--no-defaults", "--version"])).stdout;
        said.split("Ver ").nth(1).unwrap().split('-').next().unwrap().to_owned()
    };
    assert_eq!(
        backup["datastore"]["version"],
        version(taken).rsplit_once('.').unwrap().0,
        "the backup states it: {backup}"
    );
    let gone = sql::commit(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY)");
    instance.wait_shipped(&gone);
    let server = instance.server_pid();

    let right = fs::read_to_string(&appliance.config).unwrap();
    let ours = taken.configuration();
    let others = configured.configuration();
    let wrong = if ours.is_empty() { right.clone() + &others } else { right.replace(&ours, &others) };
    appliance.stop();
    fs::write(&appliance.config, wrong).unwrap();
    appliance.resume(&[]);
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
