//! The same data into and out of a real S3 server: the recipe with stock tools against a backup and a recovery of ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::bed::Bed;
use crate::harness::instance::{Instance, ROOT};
use crate::harness::stores::Garage;
use crate::harness::{sql, wait_for};

const BUDGET: f64 = 0.9;
const BUDGET_LOCAL: f64 = 1.2;
const RESIDENT_BUDGET: u64 = 128 << 20;
/// How long one run may take on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(900);

/// Into and out of a Garage of its own.
pub(crate) fn run(arguments: &[u64]) {
    let (mib, runs) = sizes(arguments);
    let garage = Garage::start();
    let bed = Bed::new("bench-store");
    let credentials = garage.credentials(bed.dir(), "credentials.toml");
    let more = format!("\n[repository]\ncredentials_file = \"{}\"\n", credentials.display());
    let state_dir = bed.path("state");
    let appliance = Appliance::start_on(bed, &garage.url("coffer"), &more, state_dir);
    let instance = Instance::create(&appliance, "store");
    fill(&instance, mib);
    let recipe = Recipe { garage: &garage, instance: &instance, dir: appliance.bed.path("by-hand") };

    let (mut backups, mut restores) = (Pairs::default(), Pairs::default());
    let mut bytes = (0, 0);
    reset_peak(appliance.pid());
    for run in 0..runs {
        let hand = recipe.back_up();
        let (ours, backup) = back_up(&instance, &format!("run-{run}"));
        println!("backup  {run}: by hand {:6.2} s, ours {:6.2} s", hand.as_secs_f64(), ours.as_secs_f64());
        backups.add(hand, ours);
        bytes = (number(&backup, "raw_bytes"), number(&backup, "stored_bytes"));
        delete(&instance, &backup, run + 1 < runs);
    }
    let backup_peak = peak(appliance.pid());
    reset_peak(appliance.pid());
    for run in 0..runs {
        let hand = recipe.restore();
        let ours = restore(&instance);
        println!("restore {run}: by hand {:6.2} s, ours {:6.2} s", hand.as_secs_f64(), ours.as_secs_f64());
        restores.add(hand, ours);
    }
    let restore_peak = peak(appliance.pid());

    let resident = backup_peak.max(restore_peak);
    println!("\n{} MiB of stream, {} MiB stored; medians of {runs} alternating runs", bytes.0 >> 20, bytes.1 >> 20);
    println!("{:44} {:>9} {:>9} {:>7} {:>9}", "", "by hand", "ours", "ratio", "resident");
    let row = |what: &str, pairs: &Pairs, peak: u64| {
        let (hand, ours) = pairs.medians();
        let (hand, ours, ratio) = (hand.as_secs_f64(), ours.as_secs_f64(), pairs.ratio());
        println!("{what:44} {hand:>7.2} s {ours:>7.2} s {ratio:>7.3} {:>5} MiB", peak >> 20);
    };
    row("backup  (mariadb-backup | zstd -T2 | aws)", &backups, backup_peak);
    row("restore (aws | zstd -d | mbstream, prepare)", &restores, restore_peak);
    let within = backups.ratio() <= BUDGET && restores.ratio() <= BUDGET && resident <= RESIDENT_BUDGET;
    println!("budget {BUDGET}, 128 MiB: {}\n", if within { "kept" } else { "NOT KEPT" });
    let figures = json!({
        "benchmark": "store", "raw_bytes": bytes.0, "stored_bytes": bytes.1, "runs": runs,
        "backup": backups.figures(), "restore": restores.figures(),
        "resident_bytes": resident, "within_budget": within, "ratio": backups.ratio(), "restore_ratio": restores.ratio(),
    });
    println!("{figures}");
}

/// Into a folder on the same disk.
pub(crate) fn run_local(arguments: &[u64]) {
    let (mib, runs) = sizes(arguments);
    let appliance = Appliance::start("bench-backup");
    let instance = Instance::create(&appliance, "backup");
    fill(&instance, mib);
    let target = appliance.bed.path("by-hand");
    let mut backups = Pairs::default();
    reset_peak(appliance.pid());
    for run in 0..runs {
        let begin = Instant::now();
        let tool = stream(&instance, &target).stdout(Stdio::null()).spawn().unwrap();
        succeed(vec![("mariadb-backup", tool)]);
        let hand = begin.elapsed();
        let (ours, backup) = back_up(&instance, &format!("run-{run}"));
        println!("backup {run}: to /dev/null {:6.2} s, ours {:6.2} s", hand.as_secs_f64(), ours.as_secs_f64());
        backups.add(hand, ours);
        delete(&instance, &backup, true);
    }
    let (resident, ratio) = (peak(appliance.pid()), backups.ratio());
    let (hand, ours) = backups.medians();
    println!("\nmedians of {runs} alternating runs, {mib} MiB of rows");
    println!("{:44} {:>7.2} s", "mariadb-backup --stream=mbstream > /dev/null", hand.as_secs_f64());
    println!("{:44} {:>7.2} s, ratio {ratio:.3}, {} MiB resident", "backup", ours.as_secs_f64(), resident >> 20);
    let within = ratio <= BUDGET_LOCAL && resident <= RESIDENT_BUDGET;
    println!("budget {BUDGET_LOCAL}, 128 MiB: {}\n", if within { "kept" } else { "NOT KEPT" });
    let figures = json!({
        "benchmark": "backup", "runs": runs, "backup": backups.figures(), "resident_bytes": resident,
        "within_budget": within, "ratio": ratio,
    });
    println!("{figures}");
}

fn sizes(arguments: &[u64]) -> (u64, u64) {
    (arguments.first().copied().unwrap_or(1200), arguments.get(1).copied().unwrap_or(3).max(1))
}

/// Rows of which about half is chance, as in most databases; kept out of the binlog.
fn fill(instance: &Instance, mib: u64) {
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
    for _ in 0..mib.div_ceil(10) {
        // About 10 MiB a statement.
        sql::run(
            &mut conn,
            "INSERT INTO shop.large (customer, address, note, token)
             SELECT RAND() * 100000, CONCAT('Street ', MD5(RAND()), ', house ', seq), CONCAT('The order of ', MD5(RAND()),
               ' was taken with the remark: please ring twice and leave it with the neighbour at number ', seq, '; ', MD5(seq),
               ' The customer was told that it may take a few days until the parcel comes, and agreed to that. ', SHA2(RAND(), 512)),
               RANDOM_BYTES(300)
             FROM shop.seq_1_to_10000",
        );
    }
    // What the server still has to write is not part of what is measured.
    sql::run(&mut conn, "SET GLOBAL innodb_max_dirty_pages_pct = 0");
    wait_for("the server to have written everything", RUN_MAX, || {
        let dirty = sql::row(&mut conn, "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'");
        (dirty["Value"].parse::<u64>().unwrap() < 100).then_some(())
    });
}

/// `mariadb-backup` that streams to its standard output.
fn stream(instance: &Instance, target: &Path) -> Command {
    let mut command = Command::new("mariadb-backup");
    command.args(["--no-defaults", "--backup", "--stream=mbstream", "--user=root"]);
    command.arg(format!("--socket={}", instance.socket.display()));
    command.arg(format!("--datadir={}", instance.data_dir.display()));
    command.arg(format!("--target-dir={}", target.display()));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The recipe of the manuals, with what a Debian system installs.
struct Recipe<'a> {
    garage: &'a Garage,
    instance: &'a Instance,
    dir: PathBuf,
}

impl Recipe<'_> {
    fn back_up(&self) -> Duration {
        let begin = Instant::now();
        let mut tool = stream(self.instance, &self.dir).stdout(Stdio::piped()).spawn().unwrap();
        let mut zstd = Command::new("zstd");
        zstd.args(["-T2", "-1", "-q", "-c"]).stdin(tool.stdout.take().unwrap()).stdout(Stdio::piped());
        let mut zstd = zstd.spawn().unwrap();
        let aws = self.aws(&["-", &self.object()]).stdin(zstd.stdout.take().unwrap()).spawn().unwrap();
        succeed(vec![("mariadb-backup", tool), ("zstd", zstd), ("aws", aws)]);
        begin.elapsed()
    }

    fn restore(&self) -> Duration {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir(&self.dir).unwrap();
        let begin = Instant::now();
        let mut aws = self.aws(&[&self.object(), "-"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut zstd = Command::new("zstd");
        zstd.args(["-d", "-q", "-c"]).stdin(aws.stdout.take().unwrap()).stdout(Stdio::piped());
        let mut zstd = zstd.spawn().unwrap();
        let mut mbstream = Command::new("mbstream");
        mbstream.args(["-x", "-C"]).arg(&self.dir).stdin(zstd.stdout.take().unwrap());
        let mbstream = mbstream.spawn().unwrap();
        succeed(vec![("aws", aws), ("zstd", zstd), ("mbstream", mbstream)]);
        let mut prepare = Command::new("mariadb-backup");
        prepare.args(["--no-defaults", "--prepare", "--use-memory=256M"]);
        prepare.arg(format!("--target-dir={}", self.dir.display())).stdin(Stdio::null()).stderr(Stdio::null());
        succeed(vec![("mariadb-backup --prepare", prepare.spawn().unwrap())]);
        let took = begin.elapsed();
        std::fs::remove_dir_all(&self.dir).unwrap();
        took
    }

    fn object(&self) -> String {
        format!("s3://{}/by-hand.xb.zst", self.garage.bucket)
    }

    /// Debian's client, whatever else is installed.
    fn aws(&self, arguments: &[&str]) -> Command {
        let program = Path::new("/usr/bin/aws");
        assert!(program.exists(), "the stock S3 client is missing: apt-get install awscli");
        let mut command = Command::new(program);
        command.args(["s3", "cp", "--only-show-errors", "--endpoint-url", &self.garage.endpoint]).args(arguments);
        command.env("AWS_ACCESS_KEY_ID", &self.garage.access_key).env("AWS_SECRET_ACCESS_KEY", &self.garage.secret_key);
        command.env("AWS_DEFAULT_REGION", &self.garage.region).env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }
}

fn succeed(children: Vec<(&str, Child)>) {
    for (name, mut child) in children {
        let status = child.wait().unwrap();
        assert!(status.success(), "{name}: {status}");
    }
}

/// From the request to the backup being COMPLETED.
fn back_up(instance: &Instance, name: &str) -> (Duration, Value) {
    let begin = Instant::now();
    let id = instance.begin_backup(name);
    let view = instance.wait_backup(&id);
    let took = begin.elapsed();
    instance.wait_active();
    (took, view)
}

fn delete(instance: &Instance, backup: &Value, is_wanted: bool) {
    let path = format!("{ROOT}/backups/{}", backup["id"].as_str().unwrap());
    if is_wanted {
        instance.api.delete(&path).expect(202);
        wait_for("the backup to be deleted", RUN_MAX, || (instance.api.get(&path).status == 404).then_some(()));
    }
}

/// Stage and prepare of a recovery, which is then given up.
fn restore(instance: &Instance) -> Duration {
    let recovery = instance.begin_recovery(&json!({ "latest": true, "pause": true }));
    let view = wait_for("the recovery to pause", RUN_MAX, || {
        let view = instance.recovery(&recovery);
        assert_ne!(view["status"], "FAILED", "{view}");
        (view["status"] == "PAUSED").then_some(view)
    });
    let steps = view["outcome"]["steps"].as_array().unwrap();
    let milliseconds = |name: &str| {
        let step = steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {view}"));
        step["milliseconds"].as_u64().unwrap()
    };
    let took = Duration::from_millis(milliseconds("staging") + milliseconds("preparing"));
    instance.act(&recovery, "abort").expect(202);
    instance.wait_recovery(&recovery, "ABORTED");
    instance.wait_active();
    took
}

/// What both ways took, run by run.
#[derive(Default)]
struct Pairs {
    hand: Vec<Duration>,
    ours: Vec<Duration>,
}

impl Pairs {
    fn add(&mut self, hand: Duration, ours: Duration) {
        self.hand.push(hand);
        self.ours.push(ours);
    }

    fn medians(&self) -> (Duration, Duration) {
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[times.len() / 2]
        };
        (median(&self.hand), median(&self.ours))
    }

    fn ratio(&self) -> f64 {
        let (hand, ours) = self.medians();
        ours.as_secs_f64() / hand.as_secs_f64()
    }

    fn figures(&self) -> Value {
        let ms = |times: &[Duration]| times.iter().map(|time| time.as_millis() as u64).collect::<Vec<_>>();
        json!({"hand_ms": ms(&self.hand), "ours_ms": ms(&self.ours), "ratio": self.ratio()})
    }
}

fn number(view: &Value, name: &str) -> u64 {
    view[name].as_u64().unwrap_or(0)
}

/// The most memory the process has had, in bytes.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// Begins to count anew.
fn reset_peak(pid: i32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
