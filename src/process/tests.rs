//! Children are real here: a deadline that is only believed to kill is none.

use super::*;
use crate::clock::Stopwatch;
use crate::testing::TempDir;

fn shell(script: &str) -> Cmd {
    Cmd::new("/bin/sh").arg("-c").arg(script)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(10));
    while !holds() {
        assert!(!deadline.has_passed(), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn stdout_is_returned_and_stdin_is_null() {
    let output = shell("head -c 1048576 /dev/zero").run().unwrap();
    assert_eq!(output.stdout, vec![0; 1 << 20]);
    assert_eq!(Cmd::new("cat").run().unwrap().stdout, b"");
}

#[test]
fn a_file_is_read_as_stdin_and_its_clone_tells_how_far() {
    use std::io::{Seek, Write};
    let dir = TempDir::new();
    let mut file = File::create_new(dir.join("f")).unwrap();
    file.write_all(&[b'x'; 100_000]).unwrap();
    let mut watched = File::open(dir.join("f")).unwrap();
    let output = Cmd::new("cat").stdin(watched.try_clone().unwrap()).run().unwrap();
    assert_eq!((output.stdout.len(), watched.stream_position().unwrap()), (100_000, 100_000));
}

#[test]
fn a_failure_carries_command_line_status_and_the_end_of_stderr() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; echo 'disk on fire' >&2; exit 3";
    let err = shell(script).run().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Tool);
    let message = err.message();
    assert!(message.starts_with("`/bin/sh -c 'i=0;"), "{message}");
    assert!(message.contains("exited with 3") && message.ends_with("disk on fire"), "{message}");
    assert!(message.len() < STDERR_TAIL_BYTES + 400 && !message.contains("line 10\n"), "{message}");
}

#[test]
fn a_signal_is_told() {
    let message = shell("kill -SEGV $$").run().unwrap_err().message();
    assert!(message.contains("was killed by signal 11; it wrote no error"), "{message}");
}

#[test]
fn a_missing_program_is_named_with_the_remedy() {
    let program = Cmd::new("no-such-program-7f3a").run().unwrap_err();
    assert_eq!(program.kind(), ErrorKind::NotFound);
    assert!(program.to_string().contains("the program `no-such-program-7f3a` was not found"), "{program}");
    assert!(program.to_string().contains("[mariadb]"), "{program}");
}

#[test]
fn a_deadline_kills_the_whole_group() {
    let dir = TempDir::new();
    let pids = dir.join("pids");
    let script = format!("sleep 1000 & echo $! > {0}; echo $$ >> {0}; wait", pids.display());
    let begun = Stopwatch::start();
    let err = shell(&script).deadline(Duration::from_millis(1500)).run().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.message().contains("took longer than 1.5 s and was killed"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let written = std::fs::read_to_string(&pids).unwrap();
    assert_eq!(written.lines().count(), 2);
    for pid in written.lines() {
        wait_until("a member of the group survived", || is_gone(pid));
    }
}

/// An orphan of a container without an init stays a zombie for ever: that is gone enough.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_the_caller() {
    let begun = Stopwatch::start();
    let output = shell("sleep 30 & echo $!").run().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let pid = text(&output).parse().unwrap();
    ProcessHandle::of_pid(pid).unwrap().unwrap().kill().unwrap();
}

#[test]
fn a_cancelled_child_is_interrupted() {
    let cancelled = Arc::new(AtomicBool::new(false));
    let running = shell("echo begun; sleep 1000").cancel(Arc::clone(&cancelled)).stream().unwrap();
    let Running { mut stdout, child } = running;
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    cancelled.store(true, Ordering::Release);
    assert_eq!(stdout.read(&mut first).unwrap(), 0, "the pipe ends with the child");
    assert_eq!(child.wait().unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn a_stream_that_ends_early_is_a_failure_all_the_same() {
    let dir = TempDir::new();
    let log = dir.join("stderr.log");
    let mut running = shell("echo half; echo broken >&2; exit 1").stderr_log(&log).stream().unwrap();
    let mut text = String::new();
    running.stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "half\n");
    let message = running.wait().unwrap_err().message();
    assert!(message.ends_with("exited with 1; stderr ends: broken"), "{message}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "broken\n");
}

#[test]
fn a_dropped_stream_leaves_no_child() {
    let mut running = shell("echo $$; exec sleep 1000").stream().unwrap();
    let mut line = [0; 32];
    let count = running.stdout.read(&mut line).unwrap();
    let pid = String::from_utf8_lossy(&line[..count]).trim().to_owned();
    drop(running);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn endless_output_is_stopped() {
    let err = Cmd::new("yes").run().unwrap_err();
    assert!(err.message().contains("wrote more than 4194304 bytes and was killed"), "{err}");
}

#[test]
fn the_environment_is_bare() {
    let output = text(&Cmd::new("env").run().unwrap());
    for line in output.lines() {
        let name = line.split('=').next().unwrap_or_default();
        assert!(["PATH", "HOME", "TZ", "LANG"].contains(&name), "{line}");
    }
    assert!(output.contains("LANG=C"), "{output}");
}

#[test]
fn a_detached_server_survives_and_is_found_again() {
    let dir = TempDir::new();
    let log = dir.join("server.log");
    let handle = shell("echo up; exec sleep 1000").spawn_detached(&log).unwrap();
    let pid = handle.pid();
    let began = start_time(pid).unwrap();
    drop(handle);
    wait_until("the log has its line", || std::fs::read_to_string(&log).unwrap() == "up\n");
    let group = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = group.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    assert_eq!(fields[2], pid.to_string(), "it leads a group of its own, so a Ctrl-C for coffer does not reach it");

    let again = ProcessHandle::open(pid, began).unwrap().expect("found again");
    assert!(again.is_alive() && !again.wait(Duration::from_millis(20)));
    again.terminate().unwrap();
    assert!(again.wait(Duration::from_secs(5)));
    assert!(!again.is_alive());
    assert!(ProcessHandle::open(pid, began).unwrap().is_none());
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "no zombie stays");
    again.kill().unwrap();
}

#[test]
fn who_gives_way_stands_behind_others_with_all_that_he_begins_and_alone() {
    let own = || rustix::process::getpriority_process(None).unwrap();
    let before = own();
    let (at, begun) = giving_way("gives-way", || {
        let begun = std::thread::Builder::new().name("begun".to_owned()).spawn(own).unwrap();
        (own(), begun.join().unwrap())
    })
    .unwrap();
    assert!(at >= NICENESS && begun == at, "{before} {at} {begun}");
    assert_eq!(own(), before);
}
