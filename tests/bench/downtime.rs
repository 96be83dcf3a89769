//! How long nobody is answered around a recovery, whatever the size of the data.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::appliance::{Appliance, said};
use crate::harness::bed::{is_running, kill};
use crate::harness::instance::Instance;
use crate::harness::server::give_tree_to_server;
use crate::harness::{sql, wait_for};

/// What a recovery may add to the server's own stop and start.
const BUDGET: Duration = Duration::from_secs(5);

pub(crate) fn run(sizes: &[u64]) {
    let sizes = if sizes.is_empty() { &[200, 2000] } else { sizes };
    let rows: Vec<Value> = sizes.iter().map(|mib| measure(*mib)).collect();
    println!("\n{:>9} {:>14} {:>16} {:>12} {:>16}", "data", "down", "own stop+start", "added", "by hand");
    for row in &rows {
        println!(
            "{:>5} MiB {:>11} ms {:>13} ms {:>9} ms {:>13} ms",
            row["mib"], row["down_ms"], row["own_ms"], row["added_ms"], row["hand_ms"]
        );
    }
    let within =
        rows.iter().all(|row| row["added_ms"].as_i64().is_some_and(|added| added <= BUDGET.as_millis() as i64));
    println!("budget: 5000 ms added, at any size: {}\n", if within { "kept" } else { "NOT KEPT" });
    let last = rows.last().unwrap();
    let ratio = last["down_ms"].as_f64().unwrap() / last["hand_ms"].as_f64().unwrap();
    println!("{}", json!({"benchmark": "downtime", "sizes": rows, "within_budget": within, "ratio": ratio}));
}

fn measure(mib: u64) -> Value {
    let mut appliance = Appliance::start(&format!("bench-down-{mib}"));
    let instance = Instance::create(&appliance, "downtime");
    fill(&instance, mib);
    let base = appliance.bed.path("base");
    instance.backup("base");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE TABLE shop.probe (id BIGINT AUTO_INCREMENT PRIMARY KEY, x INT) ENGINE=InnoDB");
    let target = sql::commit(&mut conn, "INSERT INTO shop.probe (x) VALUES (1)");
    instance.wait_shipped(&target);

    let probe = Probe::start(&instance.socket);
    instance.recover(&json!({ "gtid": target }));
    std::thread::sleep(Duration::from_millis(500));
    let down = probe.end();

    // By hand, in the order of the manuals: stop, prepare, put in place, start.
    copy_raw(&instance, &base);
    let mut server = Bare::take_over(&instance, &appliance);
    appliance.stop();
    let begin = Instant::now();
    server.stop();
    server.start();
    let own = begin.elapsed();
    let hand = by_hand(&mut server, &instance.data_dir, &base);
    let ms = |span: Duration| span.as_millis() as u64;
    println!("{mib} MiB: down {} ms, own stop and start {} ms, by hand {} ms", ms(down), ms(own), ms(hand));
    let added = down.as_millis() as i64 - own.as_millis() as i64;
    json!({"mib": mib, "down_ms": ms(down), "own_ms": ms(own), "added_ms": added, "hand_ms": ms(hand)})
}

/// Rows that nobody can compress, kept out of the binlog: they come back with the base.
fn fill(instance: &Instance, mib: u64) {
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(
        &mut conn,
        "CREATE TABLE shop.large (id BIGINT AUTO_INCREMENT PRIMARY KEY, x VARBINARY(1000)) ENGINE=InnoDB",
    );
    sql::run(&mut conn, "SET SESSION sql_log_bin = 0");
    for _ in 0..mib.div_ceil(10) {
        // About 10 MiB a statement.
        sql::run(&mut conn, "INSERT INTO shop.large (x) SELECT CONCAT(RANDOM_BYTES(900)) FROM shop.seq_1_to_10000");
    }
}

/// A client that asks all the time and knows the longest silence.
struct Probe {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Probe {
    fn start(socket: &Path) -> Probe {
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, socket) = (Arc::clone(&ended), socket.to_owned());
        let ask = move || {
            let mut conn = sql::connect(&socket).ok();
            let (mut answered, mut longest) = (Instant::now(), Duration::ZERO);
            while !stop.load(Ordering::SeqCst) {
                let answer = conn.as_mut().map(|conn| conn.query_drop("INSERT INTO shop.probe (x) VALUES (2)"));
                match answer {
                    Some(Ok(())) => {
                        longest = longest.max(answered.elapsed());
                        answered = Instant::now();
                    }
                    _ => conn = sql::connect(&socket).ok(),
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        };
        Probe { ended, thread: Builder::new().name("probe".to_owned()).spawn(ask).unwrap() }
    }

    fn end(self) -> Duration {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The instance's server under its own command line, without the appliance.
struct Bare {
    words: Vec<String>,
    socket: PathBuf,
    pid: i32,
    child: Option<Child>,
}

impl Bare {
    fn take_over(instance: &Instance, appliance: &Appliance) -> Bare {
        let pid = instance.server_pid();
        assert!(appliance.bed.processes("mariadbd").contains(&pid), "the server names its directory in its arguments");
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words = line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Bare { words, socket: instance.socket.clone(), pid, child: None }
    }

    fn stop(&mut self) {
        kill(self.pid, Signal::TERM);
        let gone = |server: &mut Bare| match &mut server.child {
            Some(child) => child.try_wait().unwrap().is_some(),
            None => !is_running(server.pid),
        };
        wait_for("the server's own stop", Duration::from_secs(120), || gone(self).then_some(()));
    }

    fn start(&mut self) {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        self.pid = child.id() as i32;
        self.child = Some(child);
        wait_for("the server's own start", Duration::from_secs(120), || sql::connect(&self.socket).ok());
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Stop, prepare, empty the data directory, copy back, start: the manual's way, and nobody is answered all the while.
fn by_hand(server: &mut Bare, data_dir: &Path, base: &Path) -> Duration {
    let tool = |arguments: &[String]| {
        let done = said(Command::new("mariadb-backup").arg("--no-defaults").args(arguments));
        assert_eq!(done.code, 0, "mariadb-backup {arguments:?}: {}", done.stderr);
    };
    let target = format!("--target-dir={}", base.display());
    let begin = Instant::now();
    server.stop();
    tool(&["--prepare".to_owned(), target.clone()]);
    for entry in std::fs::read_dir(data_dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    tool(&["--copy-back".to_owned(), target, format!("--datadir={}", data_dir.display())]);
    give_tree_to_server(data_dir);
    server.start();
    begin.elapsed()
}

/// A backup as the tool leaves it, not prepared.
fn copy_raw(instance: &Instance, dir: &Path) {
    let mut command = Command::new("mariadb-backup");
    command.args(["--no-defaults", "--backup", "--user=root"]).arg(format!("--target-dir={}", dir.display()));
    command
        .arg(format!("--socket={}", instance.socket.display()))
        .arg(format!("--datadir={}", instance.data_dir.display()));
    let done = said(&mut command);
    assert_eq!(done.code, 0, "{}", done.stderr);
}
