//! The same base and the same binlogs, replayed by hand and by a recovery.
//!
//! The hand recipe runs with the durability that a server has by default and without a binlog of its own, which is the
//! faster way of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::clone;
use crate::harness::appliance::Appliance;
use crate::harness::cell::{Cell, Datastore};
use crate::harness::instance::Instance;
use crate::harness::server::{Server, copy_by_hand, end_of_copy};
use crate::harness::sql;

const CLIENTS: u32 = 3;
const TABLES: &str = "shop.orders, shop.items, shop.accounts, shop.stock";
/// Transactions per call of the load, between looks at the size of the binlog.
const CALL: u32 = 2000;

pub(crate) fn run(cell: Cell, sizes: &[u64]) {
    let wanted = sizes.first().copied().unwrap_or(500) << 20;
    let budget = if cell.datastore.is_mysql() { 0.10 } else { 0.05 };
    let appliance = Appliance::start_with(cell, "bench-replay");
    let instance = Instance::create(&appliance, "replay");
    prepare(&instance);
    instance.backup("base");
    let base = appliance.bed.path("base");
    let (first, from) = copy(cell.datastore, &instance, &base);
    let transactions = fill(&instance, wanted);
    let expected = checksums(&instance.socket);
    let last = instance.ship();
    let files: Vec<PathBuf> =
        sql::binlogs(&mut instance.conn()).into_iter().skip_while(|path| !path.ends_with(&first)).collect();
    // The recovery exchanges the data directory, binlogs and all: by hand they are read from links of their own.
    let kept = appliance.bed.path("binlogs");
    std::fs::create_dir(&kept).unwrap();
    let files: Vec<PathBuf> = files
        .iter()
        .map(|file| {
            let link = kept.join(file.file_name().unwrap());
            std::fs::hard_link(file, &link).unwrap();
            link
        })
        .collect();
    let bytes = binlog_bytes(&files) - from;
    println!("{} MiB of row binlogs, {transactions} transactions of 4 row changes", bytes >> 20);

    let begin = Instant::now();
    let recovery = instance.recover(&json!({ "gtid": last }));
    let whole = begin.elapsed();
    let steps = recovery["outcome"]["steps"].as_array().cloned().unwrap_or_default();
    let replayed =
        steps.iter().find(|step| step["step"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("REPLAYED")));
    let ours = replayed.or(steps.iter().find(|step| step["step"].as_str().is_some_and(|name| name.contains("replay"))));
    let ours = ours.and_then(|step| step["milliseconds"].as_u64()).expect("no replay step in the outcome");
    let ours_equal = checksums(&instance.socket) == expected;
    for step in &steps {
        println!("  {:>10} {:>8} ms", step["step"].as_str().unwrap_or_default(), step["milliseconds"]);
    }

    let mut server = Server::without_data(&appliance.bed, "hand", hand_settings(cell.datastore));
    server.take_copy_of(&base);
    server.start(&[]);
    let begin = Instant::now();
    pipe(&server, &files, from);
    let hand = begin.elapsed();
    let hand_equal = checksums(&server.socket) == expected;

    let ratio = ours as f64 / hand.as_millis() as f64;
    let by_hand = if cell.datastore.is_mysql() { "mysqlbinlog | mysql" } else { "mariadb-binlog | mariadb" };
    println!("\n{:34} {:>10} {:>10}", "", "wall", "checksums");
    println!("{:34} {:>8.1} s {:>10}", by_hand, hand.as_secs_f64(), equal(hand_equal));
    println!("{:34} {:>8.1} s {:>10}", "replay of the recovery", ours as f64 / 1000.0, equal(ours_equal));
    println!("{:34} {:>8.1} s", "(the whole recovery and a backup)", whole.as_secs_f64());
    println!("ratio {ratio:.3}, budget {budget:.2}\n");
    let figures = json!({
        "benchmark": "replay", "datastore": cell.datastore.name(), "binlog_bytes": bytes, "transactions": transactions, "hand_ms": hand.as_millis() as u64,
        "ours_ms": ours, "whole_recovery_ms": whole.as_millis() as u64,
        "checksums_equal": hand_equal && ours_equal, "ratio": ratio, "budget": budget,
    });
    println!("{figures}");
}

fn equal(is: bool) -> &'static str {
    if is { "equal" } else { "DIFFERENT" }
}

/// The base of the hand recipe, and where in the binlog it ends.
fn copy(datastore: Datastore, instance: &Instance, base: &Path) -> (String, u64) {
    if datastore.is_mysql() {
        let place = clone::place(&mut instance.conn());
        clone::by_hand(instance, base);
        assert_eq!(clone::place(&mut instance.conn()), place, "nobody writes meanwhile");
        return place;
    }
    copy_by_hand(datastore, &instance.socket, &instance.data_dir, base);
    let (first, from, _) = end_of_copy(base);
    (first, from)
}

fn hand_settings(datastore: Datastore) -> &'static str {
    match datastore {
        Datastore::Mariadb | Datastore::MariadbNext => "innodb-buffer-pool-size=128M\nskip-log-bin",
        // The redo log of a test's server is much smaller than the default.
        Datastore::Mysql => {
            "innodb-buffer-pool-size=128M\ninnodb-redo-log-capacity=100M\nskip-log-bin\ngtid-mode=ON\n\
             enforce-gtid-consistency=ON"
        }
    }
}

fn prepare(instance: &Instance) {
    let mut conn = instance.conn();
    // 32 characters that nobody guesses; MySQL has no `MD5` any more.
    let rows = format!("SELECT seq, 0, LEFT(SHA2(seq, 256), 32) FROM {} WHERE seq <= 20000", sql::numbers(100_000));
    for statement in [
        // What is measured is the replay; the load shall be over soon.
        "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
        "SET GLOBAL sync_binlog = 0",
        "CREATE DATABASE shop",
        "CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, note VARCHAR(500), KEY (client)) ENGINE=InnoDB",
        "CREATE TABLE shop.items (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, note VARCHAR(500)) ENGINE=InnoDB",
        "CREATE TABLE shop.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL, note CHAR(100) NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE shop.stock (id INT PRIMARY KEY, amount BIGINT NOT NULL, note CHAR(100) NOT NULL) ENGINE=InnoDB",
        &format!("INSERT INTO shop.accounts {rows}"),
        &format!("INSERT INTO shop.stock {rows}"),
        "CREATE PROCEDURE shop.work(IN me INT, IN n INT) BEGIN
           DECLARE i INT DEFAULT 0;
           DECLARE k INT;
           WHILE i < n DO
             -- Chosen once: RAND() in a WHERE is asked anew for every row of the table.
             SET k = 1 + me + 3 * FLOOR(RAND() * 6000);
             START TRANSACTION;
             INSERT INTO shop.orders (client, note) VALUES (me, REPEAT(LEFT(SHA2(RAND(), 256), 32), 10));
             INSERT INTO shop.items (client, note) VALUES (me, REPEAT(LEFT(SHA2(RAND(), 256), 32), 10));
             UPDATE shop.accounts SET balance = balance + 1 WHERE id = k;
             UPDATE shop.stock SET amount = amount - 1 WHERE id = k;
             COMMIT;
             SET i = i + 1;
           END WHILE;
         END",
    ] {
        sql::run(&mut conn, statement);
    }
}

/// Lets the clients work until the binlog has grown by this much; returns the number of transactions.
fn fill(instance: &Instance, bytes: u64) -> u64 {
    let begin = binlog_bytes(&sql::binlogs(&mut instance.conn()));
    let mut transactions = 0;
    while binlog_bytes(&sql::binlogs(&mut instance.conn())) - begin < bytes {
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || sql::run(&mut instance.conn(), &format!("CALL shop.work({client}, {CALL})")));
            }
        });
        transactions += u64::from(CLIENTS * CALL);
    }
    transactions
}

fn binlog_bytes(files: &[PathBuf]) -> u64 {
    files.iter().map(|path| std::fs::metadata(path).map_or(0, |file| file.len())).sum()
}

fn checksums(socket: &Path) -> Vec<String> {
    let mut conn = sql::connect(socket).unwrap();
    TABLES
        .split(", ")
        .map(|table| sql::row(&mut conn, &format!("CHECKSUM TABLE {table}"))["Checksum"].clone())
        .collect()
}

/// `mariadb-binlog FILES | mariadb`, or the same by MySQL's names.
fn pipe(server: &Server, files: &[PathBuf], from: u64) {
    let mut reader = Command::new(server.datastore.binlog_reader());
    reader.args(["--no-defaults", &format!("--start-position={from}")]).args(files);
    let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    let mut client = Command::new(server.datastore.client());
    client.args(["--no-defaults", "-uroot", "-S"]).arg(&server.socket).stdin(reader.stdout.take().unwrap());
    let status = client.status().unwrap();
    assert!(status.success() && reader.wait().unwrap().success(), "the hand recipe failed");
}
