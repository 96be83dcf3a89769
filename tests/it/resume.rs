//! Killed in the middle of a transfer, coffer goes on where it was: what is in its place already is not moved again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::files_below;
use crate::harness::instance::Instance;
use crate::harness::{sql, wait_for};

const SOON: Duration = Duration::from_secs(120);

fn fill(instance: &Instance, mib: u64) -> String {
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(
        &mut conn,
        "CREATE TABLE shop.large (id BIGINT AUTO_INCREMENT PRIMARY KEY, x VARBINARY(1000)) ENGINE=InnoDB",
    );
    sql::run(&mut conn, "SET SESSION sql_log_bin = 0");
    for _ in 0..mib.div_ceil(10) {
        sql::run(&mut conn, "INSERT INTO shop.large (x) SELECT CONCAT(RANDOM_BYTES(900)) FROM shop.seq_1_to_10000");
    }
    sum(instance)
}

fn sum(instance: &Instance) -> String {
    sql::ask(&mut instance.wait_conn(), "SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT(id, x)))) FROM shop.large")
}

/// Kills coffer as soon as `is_time`.
fn crash_when(appliance: &mut Appliance, what: &str, is_time: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_time() {
        assert!(begin.elapsed() < SOON, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    appliance.crash();
}

fn lines_with(path: &Path, word: &str) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(word)).count()
}

/// The objects of a backup by name, each with what tells it from one that was made anew.
fn objects(appliance: &Appliance, backup: &str) -> BTreeMap<PathBuf, u64> {
    let all = files_below(&appliance.repository).into_iter();
    let own = all.filter(|path| path.parent().is_some_and(|dir| dir.ends_with(backup)));
    own.map(|path| (path.clone(), path.metadata().unwrap().ino())).collect()
}

#[test]
fn a_killed_backup_stores_only_what_is_missing() {
    let mut appliance = Appliance::start("resume-backup");
    let instance = Instance::create(&appliance, "resume-backup");
    fill(&instance, 120);
    // A backup begins with the log since the last checkpoint, which is another one each time; let it be a short one.
    sql::run(&mut instance.conn(), "SET GLOBAL innodb_max_dirty_pages_pct = 0");
    wait_for("the server to write what it holds", SOON, || {
        let dirty = sql::row(&mut instance.conn(), "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'");
        (dirty["Value"].parse::<u64>().unwrap() < 50).then_some(())
    });
    let backup = instance.begin_backup("killed");
    let journal = appliance.state_dir.join(format!("backups/{backup}.parts"));
    crash_when(&mut appliance, "some parts to be stored", || lines_with(&journal, "\"part\"") >= 8);
    let noted = lines_with(&journal, "\"part\"");
    let before = objects(&appliance, &backup);
    appliance.resume(&[]);
    let view = instance.wait_backup(&backup);
    instance.wait_active();
    assert_eq!(view["status"], "COMPLETED");
    let after = objects(&appliance, &backup);
    let same = before.iter().filter(|(path, inode)| after.get(*path) == Some(inode)).count();
    println!(
        "{} objects before the kill, {noted} noted, {} after it, {same} of them the same",
        before.len(),
        after.len()
    );
    assert!(same > 0 && same >= noted / 2, "{same} of {noted} are still of use");
    assert!(appliance.log_text().contains("parts are stored already"));
    assert!(!journal.exists());
    // Nothing lies there that the backup does not need.
    let manifest = after.keys().find(|path| path.ends_with("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let wanted = manifest["parts"].as_array().unwrap().iter().map(|part| text(part, "key"));
    let wanted: BTreeSet<PathBuf> = wanted.map(|key| appliance.repository.join(key)).collect();
    let found: BTreeSet<PathBuf> = after.into_keys().filter(|path| !path.ends_with("manifest.json")).collect();
    assert_eq!(found, wanted);
    let sum_before = sum(&instance);
    sql::run(&mut instance.conn(), "DELETE FROM shop.large LIMIT 1000");
    instance.ship();
    instance.recover(&json!({ "backup": backup }));
    assert_eq!(sum(&instance), sum_before);
}

#[test]
fn a_killed_staging_fetches_only_what_is_missing() {
    let mut appliance = Appliance::start("resume-stage");
    let instance = Instance::create(&appliance, "resume-stage");
    let expected = fill(&instance, 450);
    let backup = instance.backup("base")["id"].as_str().unwrap().to_owned();
    sql::run(&mut instance.conn(), "DELETE FROM shop.large LIMIT 1000");
    instance.ship();
    let recovery = instance.begin_recovery(&json!({ "backup": backup }));
    let ledger = instance.data_dir.parent().unwrap().join("work").join(format!("r-{}", &recovery[..8])).join("staged");
    crash_when(&mut appliance, "a checkpoint", || lines_with(&ledger, "\"checkpoint\"") >= 1);
    let view = sql::ask(&mut instance.conn(), "SELECT COUNT(*) FROM shop.large");
    assert!(!view.is_empty(), "the server serves on");
    // Killed again before it has come much further.
    appliance.resume(&[]);
    std::thread::sleep(Duration::from_millis(300));
    appliance.crash();
    appliance.resume(&[]);
    instance.wait_recovery(&recovery, "COMPLETED");
    instance.wait_active();
    assert_eq!(sum(&instance), expected);
    let log = appliance.log_text();
    let went_on: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once("staging goes on at byte ")?.1.split(' ').next()?.parse().ok())
        .collect();
    println!("went on at {went_on:?}");
    assert!(!went_on.is_empty() && went_on.iter().all(|at| *at >= 256 << 20), "{went_on:?}");
    assert!(!ledger.exists());
}
