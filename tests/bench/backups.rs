//! What the benchmarks of backups share: the data, a backup from request to end, and what two ways took.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::instance::{Instance, ROOT};
use crate::harness::{sql, wait_for};

/// How much memory coffer may take, whatever the size of the data.
pub(crate) const RESIDENT_BUDGET: u64 = 128 << 20;
/// How long one run may take on a busy machine.
pub(crate) const RUN_MAX: Duration = Duration::from_secs(900);

/// MiB of rows and how many runs, as asked for or by default.
pub(crate) fn sizes(arguments: &[u64], mib: u64) -> (u64, u64) {
    (arguments.first().copied().unwrap_or(mib), arguments.get(1).copied().unwrap_or(3).max(1))
}

/// Rows of which about half is chance, as in most databases; kept out of the binlog.
pub(crate) fn fill(instance: &Instance, mib: u64) {
    let mut conn = instance.conn();
    for statement in [
        "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
        "SET SESSION sql_log_bin = 0",
        "CREATE DATABASE shop",
        "CREATE TABLE shop.large (id BIGINT AUTO_INCREMENT PRIMARY KEY, customer INT, address VARCHAR(200), note VARCHAR(700),
           token VARBINARY(300)) ENGINE=InnoDB",
    ] {
        sql::run(&mut conn, statement);
    }
    // What `MD5` gives, which MySQL no longer has.
    let some = |what: &str| format!("LEFT(SHA2({what}, 256), 32)");
    let (chance, known) = (some("RAND()"), some("seq"));
    let rows = format!(
        "INSERT INTO shop.large (customer, address, note, token)
         SELECT RAND() * 100000, CONCAT('Street ', {chance}, ', house ', seq), CONCAT('The order of ', {chance},
           ' was taken with the remark: please ring twice and leave it with the neighbour at number ', seq, '; ', {known},
           ' The customer was told that it may take a few days until the parcel comes, and agreed to that. ', SHA2(RAND(), 512)),
           RANDOM_BYTES(300)
         FROM {}",
        sql::numbers(10_000)
    );
    for _ in 0..mib.div_ceil(10) {
        // About 10 MiB a statement.
        sql::run(&mut conn, &rows);
    }
    // What the server still has to write is not part of what is measured.
    sql::run(&mut conn, "SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0");
    sql::run(&mut conn, "SET GLOBAL innodb_max_dirty_pages_pct = 0");
    wait_for("the server to have written everything", RUN_MAX, || {
        let dirty = sql::row(&mut conn, "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'");
        (dirty["Value"].parse::<u64>().unwrap() < 100).then_some(())
    });
}

/// From the request to the backup being COMPLETED.
pub(crate) fn back_up(instance: &Instance, name: &str) -> (Duration, Value) {
    let begin = Instant::now();
    let id = instance.begin_backup(name);
    let view = instance.wait_backup(&id);
    let took = begin.elapsed();
    instance.wait_active();
    (took, view)
}

pub(crate) fn delete(instance: &Instance, backup: &Value, is_wanted: bool) {
    let path = format!("{ROOT}/backups/{}", backup["id"].as_str().unwrap());
    if is_wanted {
        instance.api.delete(&path).expect(202);
        wait_for("the backup to be deleted", RUN_MAX, || (instance.api.get(&path).status == 404).then_some(()));
    }
}

/// What both ways took, run by run.
#[derive(Default)]
pub(crate) struct Pairs {
    hand: Vec<Duration>,
    ours: Vec<Duration>,
}

impl Pairs {
    pub(crate) fn add(&mut self, hand: Duration, ours: Duration) {
        self.hand.push(hand);
        self.ours.push(ours);
    }

    pub(crate) fn medians(&self) -> (Duration, Duration) {
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[times.len() / 2]
        };
        (median(&self.hand), median(&self.ours))
    }

    pub(crate) fn ratio(&self) -> f64 {
        let (hand, ours) = self.medians();
        ours.as_secs_f64() / hand.as_secs_f64()
    }

    pub(crate) fn figures(&self) -> Value {
        let ms = |times: &[Duration]| times.iter().map(|time| time.as_millis() as u64).collect::<Vec<_>>();
        json!({"hand_ms": ms(&self.hand), "ours_ms": ms(&self.ours), "ratio": self.ratio()})
    }
}

/// The most memory the process has had, in bytes.
pub(crate) fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// Begins to count anew.
pub(crate) fn reset_peak(pid: i32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
