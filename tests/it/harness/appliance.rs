//! The appliance as a child process: started, stopped, killed, started again.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::api::Api;
use super::bed::{Bed, free_port, kill};
use super::cell::Cell;
use super::wait_for;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_coffer");

/// How long a start may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a stop may take: 2 s are promised, the rest is the machine's.
const STOP_MAX: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Appliance {
    child: Option<Child>,
    pub(crate) port: u16,
    pub(crate) config: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) repository: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) api: Api,
    /// Last, so that it is dropped after the child is known to be ended.
    pub(crate) bed: Bed,
}

/// What a command said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Appliance {
    /// A fresh appliance in a bed of its own, serving.
    pub(crate) fn start(name: &str) -> Appliance {
        Appliance::start_in(Bed::new(name), "")
    }

    /// A fresh appliance in a bed of its own on a cell of the matrix.
    pub(crate) fn start_with(cell: Cell, name: &str) -> Appliance {
        Appliance::start_in(Bed::on(cell, name), "")
    }

    /// A fresh appliance; `more` stands at the end of its configuration.
    pub(crate) fn start_in(bed: Bed, more: &str) -> Appliance {
        Appliance::start_at(bed, more, None)
    }

    /// A fresh appliance whose state directory is elsewhere, for example on a small file system.
    pub(crate) fn start_at(bed: Bed, more: &str, state_dir: Option<PathBuf>) -> Appliance {
        let url = format!("file://{}", bed.path("repository").display());
        let state_dir = state_dir.unwrap_or_else(|| bed.path("state"));
        Appliance::start_on(bed, &url, more, state_dir)
    }

    /// A fresh appliance with its repository at `url`.
    pub(crate) fn start_on(bed: Bed, url: &str, more: &str, state_dir: PathBuf) -> Appliance {
        let port = free_port();
        let repository = bed.path("repository");
        let config = bed.path("coffer.toml");
        let text = format!(
            "state_dir = \"{}\"\nrepository_url = \"{url}\"\n{}\n[http]\nlisten = \"127.0.0.1:{port}\"\n{more}",
            state_dir.display(),
            bed.cell().configuration(),
        );
        fs::write(&config, text).unwrap();
        let log = bed.path("coffer.log");
        let api = Api::new(&format!("http://127.0.0.1:{port}"), "");
        let mut appliance = Appliance { child: None, port, config, state_dir, repository, log, api, bed };
        appliance.resume(&[]);
        appliance
    }

    /// Starts the stopped appliance on its state directory and waits until it answers.
    pub(crate) fn resume(&mut self, environment: &[(&str, &str)]) {
        self.launch(environment);
        let (log, api) = (self.log.clone(), self.api.clone());
        let child = self.child.as_mut().unwrap();
        wait_for("the appliance to answer on /healthz", START_MAX, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("coffer serve ended with {status}:\n{}", tail(&log));
            }
            api.try_get("/healthz").ok().filter(|reply| reply.status == 200).map(|_| ())
        });
        self.api.token = fs::read_to_string(self.token_file()).unwrap().trim().to_owned();
    }

    /// Starts the process without waiting for anything.
    pub(crate) fn launch(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs already");
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--config"]).arg(&self.config).stdin(Stdio::null());
        command.stdout(append(&self.bed.path("coffer.out"))).stderr(append(&self.log));
        command.envs(environment.iter().copied());
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// SIGKILL: what a crash of the host's memory killer looks like.
    pub(crate) fn crash(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns how long the ordered end took.
    pub(crate) fn stop(&mut self) -> Duration {
        let begin = Instant::now();
        kill(self.pid(), Signal::TERM);
        let status = self.wait_end(STOP_MAX);
        assert!(status.success(), "an asked-for end is a success, not {status}:\n{}", tail(&self.log));
        begin.elapsed()
    }

    /// Waits until the process has ended by itself, for example at a crash point.
    pub(crate) fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begin.elapsed() > limit {
                self.child = Some(child);
                panic!("coffer did not end within {} s:\n{}", limit.as_secs(), tail(&self.log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.state_dir.join("token")
    }

    /// A client command, pointed at this appliance.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--url").arg(&self.api.url).arg("--token-file").arg(self.token_file());
        said(&mut command)
    }

    /// The JSON that a client command prints with `--json`; it must succeed.
    #[track_caller]
    pub(crate) fn cli_json(&self, arguments: &[&str]) -> Value {
        let said = self.cli(&[arguments, &["--json"]].concat());
        assert_eq!(said.code, 0, "coffer {}: {said:?}", arguments.join(" "));
        serde_json::from_str(&said.stdout).unwrap_or_else(|err| panic!("not JSON ({err}): {}", said.stdout))
    }

    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Ended already or not: the bed ends what is left.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the end of {}:\n{}", self.log.display(), tail(&self.log));
        }
    }
}

/// Runs a program to its end and keeps what it said.
pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
