//! Tables of other engines than InnoDB, dumped beside a clone: they come back with the rows that they had at the very
//! transaction that was asked for, as InnoDB's do.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::appliance::{Appliance, BINARY, Said, said, tail};
use crate::harness::cell::Cell;
use crate::harness::instance::TASK_MAX;
use crate::harness::{sql, wait_for};
use crate::mysql_pitfalls::Scene;

/// Slow enough that the writers meet the clone.
const SLOWLY: [&str; 2] = ["SET GLOBAL clone_autotune_concurrency = OFF", "SET GLOBAL clone_max_data_bandwidth = 12"];

fn scene(name: &str) -> Scene {
    let mut appliance = Appliance::start_with(Cell::mysql(), name);
    appliance.stop();
    let text = fs::read_to_string(&appliance.config).unwrap();
    fs::write(&appliance.config, text.replace("[mysql]\n", "[mysql]\nother_engines = \"dump\"\n")).unwrap();
    appliance.resume(&[]);
    let scene = Scene::on(appliance);
    scene.run(&[
        "CREATE TABLE shop.log (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(100)) ENGINE = MyISAM",
        "CREATE TRIGGER shop.tr BEFORE INSERT ON shop.log FOR EACH ROW SET NEW.x = CONCAT(NEW.x, '!')",
        "INSERT INTO shop.log (x) VALUES ('one'), ('two'), ('three')",
        "DELETE FROM shop.log WHERE id = 3",
        "CREATE TABLE shop.old (a INT) ENGINE = ARCHIVE",
        "INSERT INTO shop.old VALUES (1), (1)",
        "CREATE TABLE shop.second LIKE shop.log",
        "INSERT INTO shop.second (x) VALUES ('of two')",
        "CREATE TABLE shop.logs (id INT NOT NULL, x VARCHAR(100), KEY (id)) ENGINE = MERGE UNION = (shop.second)",
        "ALTER TABLE shop.second MODIFY id INT NOT NULL, DROP PRIMARY KEY, ADD KEY (id)",
        "CREATE DATABASE `shop -x`",
        "CREATE TABLE `shop -x`.`-t %_` (a INT, b BLOB) ENGINE = MyISAM",
        "INSERT INTO `shop -x`.`-t %_` VALUES (1, x'00ff27'), (NULL, NULL)",
    ]);
    scene
}

/// Writes to one table until told to stop; returns the GTIDs, in order.
fn write(scene: &Scene, table: &str, stop: &AtomicBool) -> Vec<String> {
    let mut conn = scene.conn();
    let mut gtids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        gtids.push(sql::commit(&mut conn, &format!("INSERT INTO shop.{table} (x) VALUES ('written')")));
        std::thread::sleep(Duration::from_millis(3));
    }
    gtids
}

fn check(scene: &Scene) -> Said {
    let mut command = Command::new(BINARY);
    command.arg("check").arg("--config").arg(&scene.appliance.config).arg("--socket").arg(&scene.instance.socket);
    said(command.arg("--defaults-file").arg(scene.instance.socket.with_file_name("my.cnf")))
}

#[test]
fn tables_of_other_engines_are_dumped_beside_the_clone_and_come_back_to_the_exact_transaction() {
    let mut scene = scene("my-beside");
    let checked = check(&scene);
    let note = "they are dumped beside a clone, and whoever writes to them waits until it has ended: `shop.log`, ";
    assert!(
        checked.code == 0 && checked.stdout.contains(note) && checked.stdout.contains("`shop -x.-t %_`"),
        "{checked:?}"
    );

    scene.run(&SLOWLY);
    let stop = AtomicBool::new(false);
    let (to_other, to_innodb) = std::thread::scope(|scope| {
        let writers = ["log", "t"].map(|table| {
            scope.spawn({
                let (scene, stop) = (&scene, &stop);
                move || write(scene, table, stop)
            })
        });
        std::thread::sleep(Duration::from_millis(200));
        scene.instance.backup("while both are written to");
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let [other, innodb] = writers.map(|writer| writer.join().unwrap());
        (other, innodb)
    });
    let log = scene.appliance.log_text();
    assert!(log.contains("waits until it has ended: ") && log.contains(" rows were dumped"), "{log}");
    // Whoever wrote to InnoDB went on meanwhile.
    let most_between = to_other.windows(2).map(|pair| sql::sequence(&pair[1]) - sql::sequence(&pair[0])).max();
    assert!(most_between.unwrap() > 20 && to_innodb.len() > 20, "{most_between:?} of {}", to_innodb.len());

    // What the rows were after some more, changed and removed ones among them.
    scene.run(&[
        "UPDATE shop.log SET x = 'changed' WHERE id = 1",
        "DELETE FROM shop.log WHERE id = 2",
        "INSERT INTO shop.old VALUES (3)",
        "UPDATE `shop -x`.`-t %_` SET a = 7 WHERE a = 1",
    ]);
    let target = sql::commit(&mut scene.conn(), "INSERT INTO shop.log (x) VALUES ('the target')");
    let expected = scene.contents();
    let executed = scene.executed();
    assert!(expected["shop.log"].len() > to_other.len() && expected["shop -x.-t %_"].len() == 3);
    scene.run(&["DELETE FROM shop.log", "DROP TABLE shop.old", "TRUNCATE TABLE shop.t"]);
    let last = scene.insert("after");
    scene.instance.wait_shipped(&last);
    let given_up = scene.contents();

    // The first try ends when everything is loaded and nobody has noted it.
    scene.appliance.stop();
    scene.appliance.resume(&[("COFFER_CRASH_AT", "STAGED:before")]);
    scene.instance.wait_active();
    let recovery = scene.instance.begin_recovery(&json!({ "gtid": target }));
    let status = scene.appliance.wait_end(TASK_MAX);
    assert!(status.code().is_none(), "{status}: {}", tail(&scene.appliance.log));
    scene.appliance.resume(&[]);
    scene.instance.wait_recovery(&recovery, "COMPLETED");
    scene.instance.wait_active();
    sql::assert_same(&scene.contents(), &expected, "recovered to the target");
    scene.assert_executed(&executed);
    let names = "SELECT GROUP_CONCAT(TRIGGER_NAME) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop'";
    assert_eq!(scene.ask(names), "tr");
    let left: Vec<_> = fs::read_dir(&scene.instance.data_dir).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name == "coffer-dump"), "{left:?}");

    scene.instance.undo(&recovery);
    sql::assert_same(&scene.contents(), &given_up, "undone");
}

#[test]
fn a_dump_beside_a_clone_ends_where_the_clone_does_when_nothing_else_is_written() {
    let scene = scene("my-beside-idle");
    // Words of two letters are found in an index that was made by a server which looks for them.
    scene.run(&[
        "CREATE TABLE shop.words (x VARCHAR(100), FULLTEXT (x)) ENGINE = MyISAM",
        "SET PERSIST_ONLY ft_min_word_len = 2",
    ]);
    scene.instance.api.post(&scene.instance.path("/action"), &json!({"restart": {}})).expect(202);
    scene.instance.wait_active();
    scene.run(&["INSERT INTO shop.words VALUES ('of no'), ('ox yes'), ('ok yes'), ('so yes')"]);
    // The last transactions before the backup are of the other engine.
    scene.run(&["INSERT INTO shop.log (x) VALUES ('four')", "INSERT INTO shop.log (x) VALUES ('five')"]);
    scene.instance.backup("of an idle server");
    let expected = scene.contents();
    let log = "INSERT INTO shop.log (x) VALUES ('six')";
    let last = sql::commit(&mut scene.conn(), log);
    scene.instance.wait_shipped(&last);
    scene.instance.recover(&json!({ "before_gtid": last }));
    sql::assert_same(&scene.contents(), &expected, "recovered to the end of the backup");
    assert_eq!(scene.ask("SELECT x FROM shop.words WHERE MATCH (x) AGAINST ('ox')"), "ox yes");
    // Numbers go on where they were.
    scene.run(&[log]);
    assert_eq!(scene.ask("SELECT MAX(id) FROM shop.log"), "6");
}

/// Without GTIDs a transaction may change tables of both kinds.
#[test]
fn transactions_over_both_kinds_of_tables_come_back_without_gtids() {
    let scene = scene("my-beside-off");
    let off = ["ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF"].map(|mode| format!("SET GLOBAL gtid_mode = {mode}"));
    scene.run(&off.each_ref().map(String::as_str));
    scene.run(&["SET GLOBAL enforce_gtid_consistency = OFF"]);
    scene.run(&SLOWLY);
    let stop = AtomicBool::new(false);
    let transactions = std::thread::scope(|scope| {
        let writers = [0, 1].map(|writer| {
            let (scene, stop) = (&scene, &stop);
            scope.spawn(move || {
                let mut conn = scene.conn();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    for statement in [
                        "BEGIN",
                        &format!("INSERT INTO shop.t (x) VALUES ('{writer} {count}')"),
                        &format!("INSERT INTO shop.log (x) VALUES ('{writer} {count}')"),
                        "COMMIT",
                    ] {
                        sql::run(&mut conn, statement);
                    }
                    count += 1;
                }
                count
            })
        });
        std::thread::sleep(Duration::from_millis(200));
        scene.instance.backup("while both are written to");
        stop.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().unwrap()).iter().sum::<usize>()
    });
    let target = sql::commit(&mut scene.conn(), "INSERT INTO shop.log (x) VALUES ('the target')");
    let expected = scene.contents();
    assert_eq!((expected["shop.t"].len(), expected["shop.log"].len()), (transactions + 1, transactions + 4));
    let last = sql::commit(&mut scene.conn(), "DELETE FROM shop.log");
    scene.instance.wait_shipped(&last);
    scene.instance.recover(&json!({ "position": target }));
    sql::assert_same(&scene.contents(), &expected, "recovered to the target");
}

#[test]
fn a_table_that_cannot_be_dumped_or_came_too_late_fails_the_backup_by_name() {
    let mut scene = scene("my-beside-bad");
    let instance = scene.instance.clone();
    let failed = |id: &str| {
        let view = wait_for("the backup to fail", TASK_MAX, || {
            let view = instance.api.get(&format!("/v1.0/appliance/backups/{id}")).expect(200)["backup"].clone();
            assert_ne!(view["status"], "COMPLETED", "{view}");
            (view["status"] == "FAILED").then_some(view)
        });
        instance.wait_active();
        view["fault"].to_string()
    };
    scene.run(&["CREATE TABLE shop.mem (a INT) ENGINE = MEMORY"]);
    let message = failed(&scene.instance.begin_backup("with a table of MEMORY"));
    assert!(message.contains("`shop.mem` is of engine MEMORY"), "{message}");
    let checked = check(&scene);
    assert!(checked.code == 3 && checked.stdout.contains("`shop.mem` is of engine MEMORY"), "{checked:?}");
    scene.run(&["DROP TABLE shop.mem"]);

    scene.run(&SLOWLY);
    let cloning = "SELECT COUNT(*) > 0 FROM performance_schema.clone_status WHERE STATE = 'In Progress'";
    let wait_cloning = || wait_for("a clone", TASK_MAX, || (scene.ask(cloning) == "1").then_some(()));
    let backup = scene.instance.begin_backup("with a table made meanwhile");
    wait_cloning();
    scene.run(&["CREATE TABLE shop.late (a INT) ENGINE = MyISAM"]);
    let message = failed(&backup);
    assert!(message.contains("`shop.late` is of engine MyISAM"), "{message}");

    let backup = scene.instance.begin_backup("with a lock that is lost");
    wait_cloning();
    let holder = "SELECT DISTINCT t.PROCESSLIST_ID FROM performance_schema.metadata_locks l JOIN performance_schema.threads t \
                  ON t.THREAD_ID = l.OWNER_THREAD_ID WHERE l.LOCK_TYPE = 'SHARED_READ_ONLY' AND l.OBJECT_NAME = 'log'";
    scene.run(&[&format!("KILL {}", scene.ask(holder))]);
    let message = failed(&backup);
    assert!(message.contains("the lock on the dumped tables was lost"), "{message}");

    // Nothing stays locked when coffer is killed, and its next life begins with what a life before has left.
    let backup = scene.instance.begin_backup("of two lives");
    wait_cloning();
    scene.appliance.crash();
    scene.run(&["INSERT INTO shop.log (x) VALUES ('between')", "SET GLOBAL clone_max_data_bandwidth = 0"]);
    scene.appliance.resume(&[]);
    scene.instance.wait_backup(&backup);
    scene.instance.wait_active();
    let expected = scene.contents();
    let gone = sql::commit(&mut scene.conn(), "DROP TABLE shop.t");
    scene.instance.wait_shipped(&gone);
    scene.instance.recover(&json!({ "before_gtid": gone }));
    sql::assert_same(&scene.contents(), &expected, "recovered to just before the DROP");
}
