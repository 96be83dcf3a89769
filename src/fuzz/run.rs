//! Runs the targets, and watches over them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::{Dice, Target, targets};
use crate::clock::Stopwatch;

/// All targets together, in the tests.
const SHORT_RUN: Duration = Duration::from_secs(5);
/// Nothing computes longer in a long run, where this crate is optimized.
const READ_MAX: Duration = Duration::from_secs(10);
/// Nothing ever takes longer.
const HANG: Duration = Duration::from_secs(180);
/// By how much more than its own bound a reader may let the process grow: what C libraries hold is seen here, of which
/// the largest window of a decompressor is the greatest, 128 MiB.
const RESIDENT_MORE_MAX: u64 = 256 << 20;
/// Looking at it takes as long as reading many an input.
const RESIDENT_EVERY: u64 = 16;

/// What is to be run, as the environment says.
struct Plan {
    limit: Duration,
    /// This process does nothing else, so that time and memory can be looked at.
    is_alone: bool,
    only: Option<String>,
    seed: u64,
    is_single: bool,
}

impl Plan {
    /// `COFFER_FUZZ_SECONDS=N` makes a long run, `COFFER_FUZZ_ONLY=TARGET` runs but that one, `COFFER_FUZZ_SEED=N` repeats one input.
    fn of_environment() -> Plan {
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let seconds = number("COFFER_FUZZ_SECONDS");
        let seed = number("COFFER_FUZZ_SEED");
        Plan {
            limit: seconds.map_or(SHORT_RUN, Duration::from_secs),
            is_alone: seconds.is_some(),
            only: std::env::var("COFFER_FUZZ_ONLY").ok(),
            seed: seed.unwrap_or_else(|| getrandom::u64().unwrap()),
            is_single: seed.is_some(),
        }
    }
}

#[test]
fn no_bytes_make_a_reader_panic_hang_or_take_memory_without_bound() {
    if let Some(file) = std::env::var_os("COFFER_FUZZ_INPUT") {
        return repeat(Path::new(&file));
    }
    let plan = Plan::of_environment();
    let mut all = targets();
    all.retain(|target| plan.only.as_deref().is_none_or(|only| only == target.name()));
    assert!(!all.is_empty(), "there is no target of that name");
    let watch = Watch::begin();
    let share = plan.limit / u32::try_from(all.len()).unwrap();
    let mut failures = Vec::new();
    for target in &mut all {
        let tally = run(target.as_mut(), &plan, share, &watch);
        let (name, mib, share) = (target.name(), tally.bytes >> 20, tally.memory * 100.0);
        eprintln!("fuzz: {name:18} {:>9} inputs, {mib:>6} MiB; {share:>3.0} % of its memory at most", tally.inputs);
        failures.extend(tally.failure);
    }
    watch.end();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Reads an input that was kept; the name of the file begins with that of its target.
fn repeat(file: &Path) {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let input = fs::read(file).unwrap();
    let mut all = targets();
    let target =
        all.iter_mut().find(|target| name.strip_prefix(target.name()).is_some_and(|rest| rest.starts_with('.')));
    let target = target.expect("the name of the file begins with that of no target");
    let outcome = read(target.as_mut(), &input, true);
    assert!(outcome.is_ok(), "{outcome:?}");
}

struct Tally {
    inputs: u64,
    bytes: u64,
    /// The greatest part of what it may hold that was held.
    memory: f64,
    failure: Option<String>,
}

/// Feeds a target until its time is over or something is found.
fn run(target: &mut dyn Target, plan: &Plan, share: Duration, watch: &Watch) -> Tally {
    let mut tally = Tally { inputs: 0, bytes: 0, memory: 0.0, failure: None };
    let mut seeds = Dice::new(plan.seed);
    let time = Stopwatch::start();
    while tally.inputs == 0 || (!plan.is_single && time.elapsed() < share) {
        let seed = if plan.is_single { plan.seed } else { seeds.next() };
        watch.note(target.name(), seed);
        let input = target.input(&mut Dice::new(seed));
        tally.inputs += 1;
        tally.bytes += input.len() as u64;
        let is_watched = plan.is_alone && tally.inputs % RESIDENT_EVERY == 1;
        let before = is_watched.then(resident_before);
        let mut outcome = read(target, &input, plan.is_alone);
        if let Ok(memory) = outcome {
            tally.memory = tally.memory.max(memory);
            outcome =
                before.map_or(Ok(()), |before| check_resident(before, target.memory_max(input.len()))).map(|()| memory);
        }
        if let Err(why) = outcome {
            let kept = folder().join(format!("{}.{seed}", target.name()));
            #[expect(clippy::disallowed_methods, reason = "nobody relies on it after a crash")]
            fs::write(&kept, &input).unwrap();
            let kept = kept.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&kept).display();
            let how = format!("scripts/fuzz --input {kept}, or scripts/fuzz --seed {} {seed}", target.name());
            tally.failure = Some(format!("{}: {why}\n  once more: {how}", target.name()));
            return tally;
        }
    }
    tally
}

/// Reads one input; the part of what it may hold that was held, or what is wrong.
fn read(target: &mut dyn Target, input: &[u8], is_timed: bool) -> Result<f64, String> {
    let begun = if is_timed { computed() } else { Duration::ZERO };
    let mut outcome = Ok(());
    let held = allocation_counter::measure(|| {
        outcome = panic::catch_unwind(AssertUnwindSafe(|| target.read(input)));
    });
    let took = if is_timed { computed().saturating_sub(begun) } else { Duration::ZERO };
    let most = target.memory_max(input.len()) as u64;
    match outcome {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        }
        Ok(()) if held.bytes_max > most => {
            Err(format!("held {} bytes for an input of {}, more than {most}", held.bytes_max, input.len()))
        }
        Ok(()) if took > READ_MAX => Err(format!("took {took:?} for an input of {} bytes", input.len())),
        Ok(()) => Ok(held.bytes_max as f64 / most as f64),
    }
}

/// How long this thread has computed, whoever else had the processor meanwhile.
fn computed() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

/// A line of what the kernel says of this process's memory, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel tells it") << 10
}

/// What the process has resident; from here on the kernel looks for the most anew.
fn resident_before() -> u64 {
    let clear = OpenOptions::new().write(true).open("/proc/self/clear_refs").unwrap();
    clear.write_all_at(b"5", 0).unwrap();
    status("VmRSS:")
}

fn check_resident(before: u64, most: usize) -> Result<(), String> {
    let grown = status("VmHWM:").saturating_sub(before);
    let most = most as u64 + RESIDENT_MORE_MAX;
    if grown <= most { Ok(()) } else { Err(format!("let the process grow by {grown} bytes, more than {most}")) }
}

/// Where inputs that failed are kept.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Ends the process when a reader hangs, and has noted which seed it was when the process ends otherwise.
struct Watch {
    noted: File,
    count: Arc<AtomicU64>,
    running: crossbeam_channel::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin() -> Watch {
        let path = folder().join(format!("running.{}", std::process::id()));
        let noted = OpenOptions::new().create(true).write(true).truncate(true).open(&path).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let (running, ended) = bounded::<()>(0);
        let seen = Arc::clone(&count);
        let watching = move || {
            let mut before = None;
            while ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                let now = seen.load(Ordering::Relaxed);
                if before == Some(now) {
                    let what = fs::read_to_string(&path).unwrap_or_default();
                    eprintln!("fuzz: an input takes longer than {HANG:?}; target and seed: {what}");
                    std::process::abort();
                }
                before = Some(now);
            }
            let _ = fs::remove_file(&path);
        };
        let thread = thread::Builder::new().name("fuzz-watch".to_owned()).spawn(watching).unwrap();
        Watch { noted, count, running, thread }
    }

    fn note(&self, target: &str, seed: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.noted.write_all_at(format!("{target:<20} {seed:<20}\n").as_bytes(), 0).unwrap();
    }

    fn end(self) {
        drop(self.running);
        self.thread.join().unwrap();
    }
}
