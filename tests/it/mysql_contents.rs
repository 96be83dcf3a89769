//! The pitfalls of replaying MySQL's binlogs that come with what stands in the files: XA, transactions of any size,
//! statements instead of rows.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::server::{Server, dump_binlogs};
use crate::harness::sql;
use crate::mysql_pitfalls::Scene;

/// 16: a file's list of GTIDs may lack an XA that was committed while files were changed, and one that is prepared lives
/// in two files.
#[test]
fn xa_transactions_cross_files_leave_no_gap_and_those_still_prepared_are_named() {
    let mut scene = Scene::new("my-p16");
    scene.instance.backup("base");
    let prepare = |scene: &Scene, name: &str| {
        let insert = format!("INSERT INTO shop.t (x) VALUES ('{name}')");
        scene.run(&[
            &format!("XA START '{name}'"),
            &insert,
            &format!("XA END '{name}'"),
            &format!("XA PREPARE '{name}'"),
        ]);
    };
    let end = |scene: &Scene, how: &str, name: &str| scene.run(&[&format!("XA {how} '{name}'")]);
    prepare(&scene, "committed in the next file");
    prepare(&scene, "rolled back in the next file");
    scene.run(&["FLUSH BINARY LOGS"]);
    end(&scene, "COMMIT", "committed in the next file");
    end(&scene, "ROLLBACK", "rolled back in the next file");
    // Many, while the file is changed all the time.
    std::thread::scope(|scope| {
        for client in 0..3 {
            let scene = &scene;
            scope.spawn(move || {
                for number in 0..15 {
                    let name = format!("{client}-{number}");
                    prepare(scene, &name);
                    end(scene, "COMMIT", &name);
                }
            });
        }
        (0..12).for_each(|_| scene.run(&["FLUSH BINARY LOGS"]));
    });
    prepare(&scene, "across the stop");
    let stop = scene.insert("the last");
    let (expected, executed) = (scene.contents(), scene.executed());
    end(&scene, "COMMIT", "across the stop");
    // From the files alone.
    scene.appliance.stop();
    scene.run(&["FLUSH BINARY LOGS"]);
    prepare(&scene, "while nobody looked");
    end(&scene, "COMMIT", "while nobody looked");
    scene.appliance.resume(&[]);
    scene.instance.ship();
    assert_eq!(scene.instance.timelines().len(), 1, "one unbroken history");
    assert!(!scene.appliance.log_text().contains("GAP"), "{}", scene.appliance.log_text());

    let plan = scene.instance.plan(&json!({ "gtid": stop }));
    assert!(plan["warnings"].to_string().contains("XA RECOVER"), "{plan}");
    let recovery = scene.instance.recover(&json!({ "gtid": stop }));
    sql::assert_same(&scene.contents(), &expected, "what was committed");
    scene.assert_executed(&executed);
    assert_eq!(recovery["outcome"]["prepared_xa"], json!(["across the stop"]), "{recovery}");
    assert_eq!(sql::row(&mut scene.conn(), "XA RECOVER")["data"], "across the stop");
    end(&scene, "COMMIT", "across the stop");
    assert!(scene.contents()["shop.t"].iter().any(|row| row.ends_with("across the stop")), "and can be committed");
    assert_eq!(scene.ask("SELECT COUNT(*) FROM shop.t WHERE x LIKE 'rolled back%'"), "0");
}

/// 18: one row larger than a client may send, and a transaction of more than 100 MB beside it.
#[test]
fn a_huge_row_and_a_transaction_of_more_than_100_mb_come_back() {
    let scene = Scene::new("my-p18");
    scene.run(&[
        "CREATE TABLE shop.large (id INT PRIMARY KEY, x LONGBLOB)",
        "CREATE TABLE shop.many (id INT PRIMARY KEY, x BLOB)",
        "SET GLOBAL max_allowed_packet = 134217728",
    ]);
    scene.instance.backup("base");
    let base = scene.appliance.bed.path("base");
    scene.run(&[&format!("CLONE LOCAL DATA DIRECTORY = '{}'", base.display())]);
    let many = format!("INSERT INTO shop.many SELECT seq, REPEAT(UNHEX('00FF27'), 3600) FROM {}", sql::numbers(10_000));
    scene.run(&["INSERT INTO shop.large VALUES (1, REPEAT(UNHEX('00FF275C'), 16000000))", &many]);
    let digest = "SELECT CONCAT(SHA2(x, 256), ' ', LENGTH(x), ' ', (SELECT SUM(CRC32(x) + id) FROM shop.many), ' ', \
                  (SELECT SUM(LENGTH(x)) FROM shop.many)) FROM shop.large";
    let expected = scene.ask(digest);
    assert!(expected.ends_with(" 108000000"), "{expected}");

    let server = Server::without_data(&scene.appliance.bed, "naive", scene.appliance.bed.datastore().good());
    let mut naive = server;
    naive.take_copy_of(&base);
    naive.start(&[]);
    let script: PathBuf = scene.appliance.bed.path("replay.sql");
    dump_binlogs(naive.datastore, &sql::binlogs(&mut scene.conn()), &[], &script);
    let piped = naive.client(&script, &[]);
    assert!(piped.code != 0, "the naive way can't send the row: {piped:?}");
    drop(naive);
    std::fs::remove_file(&script).unwrap();

    let gone = sql::commit(&mut scene.conn(), "DROP DATABASE shop");
    scene.instance.wait_shipped(&gone);
    let recovery = scene.instance.recover(&json!({ "before_gtid": gone }));
    assert_eq!(scene.ask(digest), expected);
    assert_eq!(recovery["outcome"]["replayed_transactions"], recovery["plan"]["transactions"]);
}

/// 22: statements in the binlog instead of rows: what they say of themselves (random seeds, user variables, the time,
/// last ids) is replayed with them, and the plan says that there are some.
#[test]
fn statements_are_replayed_with_what_they_depend_on_and_the_plan_says_so() {
    let scene = Scene::new("my-p22");
    scene.instance.backup("base");
    let warned = |gtid: &str| {
        let plan = scene.instance.plan(&json!({ "gtid": gtid }));
        plan["warnings"].to_string().contains("logged as statements")
    };
    let rows = scene.insert("as a row");
    scene.instance.wait_shipped(&rows);
    assert!(!warned(&rows), "rows are rows");
    scene.run(&[
        "SET SESSION binlog_format = STATEMENT",
        "CREATE TABLE shop.s (id BIGINT AUTO_INCREMENT PRIMARY KEY, a DOUBLE, b VARCHAR(200), at DATETIME(6))",
        "SET @said = 'a user''s variable'",
        "INSERT INTO shop.s (a, b, at) VALUES (RAND(), @said, NOW(6))",
        "INSERT INTO shop.s (a, b) SELECT RAND(), CONCAT('of the last ', LAST_INSERT_ID()) FROM shop.s",
        "SET TIMESTAMP = 1000000000.5",
        "INSERT INTO shop.s (a, b, at) VALUES (1, 'long ago', NOW(6))",
        "SET TIMESTAMP = DEFAULT",
        "UPDATE shop.s SET b = CONCAT(b, '!') WHERE id > 1",
        "CREATE TEMPORARY TABLE shop.some AS SELECT id, b FROM shop.s",
        "FLUSH BINARY LOGS",
        "INSERT INTO shop.s (b) SELECT CONCAT('by a temporary table: ', b) FROM shop.some",
        "DROP TEMPORARY TABLE shop.some",
    ]);
    scene.run(&[
        "SET SESSION binlog_format = MIXED",
        "INSERT INTO shop.s (b) VALUES (UUID())",
        "INSERT INTO shop.s (b) VALUES ('as a statement')",
    ]);
    let last = scene.insert("as a row again");
    scene.instance.wait_shipped(&last);
    assert!(warned(&last), "{:?}", scene.instance.plan(&json!({ "gtid": last })));
    // Chunks away from the last one as well.
    scene.run(&["FLUSH BINARY LOGS"]);
    let later = scene.insert("as rows from here on");
    scene.instance.wait_shipped(&later);
    assert!(warned(&later), "{:?}", scene.instance.plan(&json!({ "gtid": later })));
    assert!(!warned(&rows), "and not before");
    let expected = scene.contents();
    assert!(expected["shop.s"].len() > 7);
    scene.assert_recovers(&expected);
}
