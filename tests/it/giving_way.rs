//! Nobody who has just lost a table waits for a backup: it gives way to a recovery and to an undo.

use serde_json::json;

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::instance::{Instance, ROOT};
use crate::harness::sql;

#[test]
fn a_recovery_does_not_wait_for_a_backup_and_neither_does_its_undo() {
    let appliance = Appliance::start("giving-way");
    let instance = Instance::create(&appliance, "giving-way");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY)");
    instance.backup("base");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (1)");
    let gone = sql::commit(&mut conn, "DROP TABLE shop.t");
    instance.wait_shipped(&gone);

    let running = instance.begin_backup("running");
    let recovery = instance.begin_recovery(&json!({"before_gtid": gone}));
    instance.wait_recovery(&recovery, "COMPLETED");
    assert_eq!(sql::ask(&mut instance.wait_conn(), "SELECT id FROM shop.t"), "1");

    // The full backup of the new timeline has just begun.
    instance.undo(&recovery);
    let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA='shop'";
    assert_eq!(sql::ask(&mut instance.wait_conn(), tables), "0", "the DROP is back");
    instance.wait_active();
    let backup = instance.api.get(&format!("{ROOT}/backups/{running}")).expect(200)["backup"].clone();
    assert!(["COMPLETED", "FAILED"].contains(&text(&backup, "status").as_str()), "{backup}");
    if backup["status"] == "FAILED" {
        assert!(text(&backup["fault"], "message").contains("given up"), "{backup}");
    }
}
