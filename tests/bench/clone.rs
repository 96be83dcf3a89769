//! A backup of MySQL: how long it takes beside the server's own clone of itself, and what the server's clients notice.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use mysql::Conn;
use serde_json::json;

use crate::backups::{Pairs, RESIDENT_BUDGET, back_up, delete, fill, peak, reset_peak, sizes};
use crate::harness::appliance::Appliance;
use crate::harness::bed::files_below;
use crate::harness::cell::Cell;
use crate::harness::instance::Instance;
use crate::harness::sql;
use crate::load::{Load, Window};

/// A server that starts and stops once takes two seconds of a backup, whatever its size.
const MIB: u64 = 3000;
const BUDGET: f64 = 1.3;
/// How much of their throughput the clients keep, at least.
const THROUGHPUT_BUDGET: f64 = 0.8;
/// Before the first window, so that the server has what it needs in memory.
const WARM_UP: Duration = Duration::from_secs(5);

pub(crate) fn run(arguments: &[u64]) {
    let (mib, runs) = sizes(arguments, MIB);
    let appliance = Appliance::start_with(Cell::mysql(), "bench-clone");
    let instance = Instance::create(&appliance, "backup");
    fill(&instance, mib);
    Load::prepare(&instance);

    let mut backups = Pairs::default();
    reset_peak(appliance.pid());
    for run in 0..runs {
        let target = appliance.bed.path("by-hand");
        rest(&instance);
        let begin = Instant::now();
        by_hand(&instance, &target);
        let cloned = begin.elapsed();
        read_all(&target);
        let hand = begin.elapsed();
        std::fs::remove_dir_all(&target).unwrap();
        rest(&instance);
        let (ours, backup) = back_up(&instance, &format!("run-{run}"));
        println!(
            "backup {run}: CLONE {:6.2} s, and read {:6.2} s, ours {:6.2} s",
            cloned.as_secs_f64(),
            hand.as_secs_f64(),
            ours.as_secs_f64()
        );
        backups.add(hand, ours);
        delete(&instance, &backup, true);
    }
    let pairs = under_load(&instance, runs);
    let resident = peak(appliance.pid());

    let (hand, ours) = backups.medians();
    let (without, during) = (median(&pairs, |pair| pair.0.rate()), median(&pairs, |pair| pair.1.rate()));
    let (ratio, kept) = (backups.ratio(), median(&pairs, |pair| pair.1.rate() / pair.0.rate()));
    println!("\nmedians of {runs} alternating runs, {mib} MiB of rows");
    println!("{:44} {:>7.2} s", "CLONE LOCAL, and its files read once", hand.as_secs_f64());
    println!("{:44} {:>7.2} s, ratio {ratio:.3}, {} MiB resident", "backup", ours.as_secs_f64(), resident >> 20);
    println!("{:44} {without:>7.0} a second", "transactions without a backup");
    println!("{:44} {during:>7.0} a second, {kept:.3} of without", "transactions during one");
    let within = ratio <= BUDGET && resident <= RESIDENT_BUDGET && kept >= THROUGHPUT_BUDGET;
    let verdict = if within { "kept" } else { "NOT KEPT" };
    println!("budget {BUDGET}, 128 MiB, {THROUGHPUT_BUDGET} of the throughput: {verdict}\n");
    let windows: Vec<_> = pairs.iter().map(|(without, during)| [without.figures(), during.figures()]).collect();
    let figures = json!({
        "benchmark": "backup", "datastore": "mysql", "mib": mib, "runs": runs, "backup": backups.figures(),
        "resident_bytes": resident, "windows": windows, "throughput_ratio": kept, "within_budget": within, "ratio": ratio,
    });
    println!("{figures}");
}

/// Windows of one length without and during a backup, in turns. A window during one is as long as the backup takes.
fn under_load(instance: &Instance, runs: u64) -> Vec<(Window, Window)> {
    let load = Load::start(instance);
    std::thread::sleep(WARM_UP);
    let mut pairs = Vec::new();
    for run in 0..runs {
        let begin = load.window();
        let (_, backup) = back_up(instance, &format!("load-{run}"));
        let during = begin.end();
        delete(instance, &backup, true);
        rest(instance);
        let begin = load.window();
        std::thread::sleep(during.length);
        let without = begin.end();
        println!("window {run}: without {}, during {}", without.describe(), during.describe());
        pairs.push((without, during));
    }
    load.end();
    pairs
}

/// What was written so far is on the disk, and what is read next is in memory: the same for both ways.
fn rest(instance: &Instance) {
    rustix::fs::sync();
    read_all(&instance.data_dir);
}

/// Lets the server clone itself into a new directory.
pub(crate) fn by_hand(instance: &Instance, dir: &Path) {
    sql::run(&mut instance.conn(), &format!("CLONE LOCAL DATA DIRECTORY = '{}'", dir.display()));
}

/// Where the binlog ends.
pub(crate) fn place(conn: &mut Conn) -> (String, u64) {
    let end = sql::row(conn, "SHOW BINARY LOG STATUS");
    (end["File"].clone(), end["Position"].parse().unwrap())
}

fn read_all(dir: &Path) {
    let mut buffer = vec![0; 1 << 20];
    for path in files_below(dir) {
        // A server that runs makes and removes files.
        let Ok(mut file) = File::open(&path) else { continue };
        while file.read(&mut buffer).unwrap() > 0 {}
    }
}

fn median(pairs: &[(Window, Window)], figure: impl Fn(&(Window, Window)) -> f64) -> f64 {
    let mut figures: Vec<f64> = pairs.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}
