//! The same data into and out of a real S3 server: the recipe with stock tools against a backup and a recovery of ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backups::{Pairs, RESIDENT_BUDGET, RUN_MAX, back_up, delete, fill, peak, reset_peak, sizes};
use crate::harness::appliance::Appliance;
use crate::harness::bed::Bed;
use crate::harness::instance::Instance;
use crate::harness::stores::Garage;
use crate::harness::wait_for;

const BUDGET: f64 = 0.9;
const BUDGET_LOCAL: f64 = 1.2;

/// Into and out of a Garage of its own.
pub(crate) fn run(arguments: &[u64]) {
    let (mib, runs) = sizes(arguments, 1200);
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
    let (mib, runs) = sizes(arguments, 1200);
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

fn number(view: &Value, name: &str) -> u64 {
    view[name].as_u64().unwrap_or(0)
}
