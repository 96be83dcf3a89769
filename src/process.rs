//! The only spawner of children.
//!
//! A `Cmd` is an argument vector, never a shell line. Each child leads a process group of its own, reads `/dev/null`
//! or a file it is given, and sees no environment but `PATH`, `HOME`, `TZ` and `LANG=C`. What it writes is held in
//! bounded memory. A failure is an error that carries its evidence: the command line, how it ended, the last of its
//! stderr. At a deadline or on cancel the whole group is killed. Arguments stand in `/proc`, in logs and in errors: a
//! secret goes into an option file of mode 0600, never here.

mod handle;
mod pace;
mod user;
mod watch;

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use handle::{ProcessHandle, start_time};
pub(crate) use pace::Pace;
pub(crate) use user::User;

use crate::clock::Deadline;
use crate::error::{Error, ErrorKind, io_error};
use watch::{Ended, Tail, Watch, Why};

/// A stream comes in large pieces: with the usual 64 KiB both sides would wake up sixteen times as often.
const PIPE_BYTES: usize = 1024 * 1024;
/// How long `run` lets a child live that was given no deadline.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
/// Bytes of stdout `run` keeps; a child that writes more has gone mad.
const STDOUT_BYTES_MAX: usize = 4 << 20;
/// Bytes of stderr kept as evidence.
const STDERR_TAIL_BYTES: usize = 4 << 10;
/// What children get when coffer itself has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How far behind others stands who gives way: it gets about a tenth of what each of them gets.
const NICENESS: i32 = 10;

/// Does `act` on a thread that gives way to whoever else wants the processor, as do all threads and children that it
/// begins. A system that weighs services or sessions against each other first does so behind that.
pub(crate) fn giving_way<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let slow = || {
            // On Linux the priority is the thread's own. Who already stands further behind stays there.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            act()
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, slow);
        let thread =
            thread.map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err))?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A child to be: program and arguments, and what it may do.
#[derive(Debug)]
pub(crate) struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    stdin: Option<File>,
    stderr_log: Option<PathBuf>,
    deadline: Option<Duration>,
    cancelled: Option<Arc<AtomicBool>>,
}

/// What a child that ended well has written.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    /// The last 4 KiB of stderr, for warnings.
    pub(crate) stderr_tail: String,
}

impl Cmd {
    /// `program` is a path, or a name that is looked up in `PATH`.
    pub(crate) fn new(program: impl AsRef<Path>) -> Cmd {
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            stdin: None,
            stderr_log: None,
            deadline: None,
            cancelled: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Lets the child read this file. A clone of it shares its place: whoever holds one sees how far the child has read.
    pub(crate) fn stdin(mut self, file: File) -> Cmd {
        self.stdin = Some(file);
        self
    }

    /// Appends the child's whole stderr to `path`, besides keeping its tail.
    pub(crate) fn stderr_log(mut self, path: impl AsRef<Path>) -> Cmd {
        self.stderr_log = Some(path.as_ref().to_owned());
        self
    }

    /// Kills the child's group after `limit`. Without one `run` gives a minute, `stream` all the time in the world.
    pub(crate) fn deadline(mut self, limit: Duration) -> Cmd {
        self.deadline = Some(limit);
        self
    }

    /// Kills the child's group soon after `cancelled` becomes true; the error is then `Interrupted`.
    pub(crate) fn cancel(mut self, cancelled: Arc<AtomicBool>) -> Cmd {
        self.cancelled = Some(cancelled);
        self
    }

    /// Runs the child to its end. Anything but exit status 0 is an error with the evidence in it.
    pub(crate) fn run(mut self) -> Result<Output, Error> {
        let limit = self.deadline.unwrap_or(DEADLINE_DEFAULT);
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let stdout = child.stdout.take();
        let ended = self.watch(child, stdout, limit)?.until_ended();
        self.judge(&ended, limit)?;
        Ok(Output { stdout: ended.stdout, stderr_tail: ended.stderr_tail })
    }

    /// Starts the child and hands out its stdout while a thread keeps its stderr, the deadline and the cancel flag.
    pub(crate) fn stream(mut self) -> Result<Running, Error> {
        let limit = self.deadline.unwrap_or(Duration::MAX);
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let stdout = child.stdout.take();
        if let Some(stdout) = &stdout {
            // A refusal (the user's limit on pipes) only costs some speed.
            let _ = rustix::pipe::fcntl_setpipe_size(stdout, PIPE_BYTES);
        }
        let stdout = stdout.map(Stdout);
        let watch = self.watch(child, None, limit)?;
        let stopped = watch.stopped();
        let keeper = std::thread::Builder::new()
            .name(format!("child {}", self.name()))
            .spawn(move || watch.until_ended())
            .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err))?;
        let stdout = stdout.ok_or_else(|| Error::new(ErrorKind::Internal, "a child without the stdout asked for"))?;
        Ok(Running { stdout, child: Streaming { cmd: self, limit, stopped, keeper: Some(keeper) } })
    }

    /// Starts a server that outlives coffer: a process group of its own, stdin null, stdout and stderr at the end of
    /// `log_file`. Nobody waits for it; whoever looks at the handle after its end also clears the zombie away.
    pub(crate) fn spawn_detached(mut self, log_file: &Path) -> Result<ProcessHandle, Error> {
        let log = open_log(log_file)?;
        let child = self.spawn_logged(&log)?;
        ProcessHandle::of_child(child.id())
    }

    /// The command line as an operator would type it.
    pub(crate) fn line(&self) -> String {
        let mut line = quote(self.program.as_os_str());
        for arg in &self.args {
            line.push(' ');
            line.push_str(&quote(arg));
        }
        line
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    fn spawn_logged(&mut self, log: &File) -> Result<Child, Error> {
        let duplicate = || log.try_clone().map(Stdio::from).map_err(|err| self.unable_to_start(err));
        let (stdout, stderr) = (duplicate()?, duplicate()?);
        self.spawn(stdout, stderr)
    }

    fn spawn(&mut self, stdout: Stdio, stderr: Stdio) -> Result<Child, Error> {
        #[expect(clippy::disallowed_methods, reason = "this is the one spawner")]
        let mut command = Command::new(&self.program);
        let stdin = self.stdin.take().map_or_else(Stdio::null, Stdio::from);
        command.args(&self.args).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into())).env("LANG", "C");
        for name in ["HOME", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.spawn().map_err(|err| self.unable_to_start(err))
    }

    fn watch(&mut self, child: Child, stdout: Option<ChildStdout>, limit: Duration) -> Result<Watch, Error> {
        let log = match &self.stderr_log {
            Some(path) => match open_log(path) {
                Ok(log) => Some(log),
                Err(err) => {
                    watch::kill_unwatched(child);
                    return Err(err);
                }
            },
            None => None,
        };
        Watch::new(child, stdout, STDOUT_BYTES_MAX, Tail::new(STDERR_TAIL_BYTES, log))
            .map(|watch| watch.with_limits(Deadline::after(limit), self.cancelled.clone()))
            .map_err(|err| self.unable_to_start(err))
    }

    /// Says which of the things that had to be there was not: to `spawn` they all are "No such file or directory".
    fn unable_to_start(&self, err: io::Error) -> Error {
        let (kind, what, hint) = match err.kind() {
            io::ErrorKind::NotFound if self.program.exists() => (
                ErrorKind::Tool,
                "exists, but the interpreter its first line names does not",
                "Install the package again.",
            ),
            io::ErrorKind::NotFound => (
                ErrorKind::NotFound,
                "was not found",
                "Install the package that holds it, or name its path in the configuration, section [mariadb] or [mysql].",
            ),
            io::ErrorKind::PermissionDenied => (ErrorKind::Tool, "may not be executed", "Look at its permissions."),
            _ => (ErrorKind::Unavailable, "could not be started", "Look at the limits on processes and memory."),
        };
        Error::new(kind, format!("the program `{}` {what}", self.program.display())).hint(hint).with_source(err)
    }

    /// Ok if the child ended by itself with exit status 0, else the error with the evidence.
    fn judge(&self, ended: &Ended, limit: Duration) -> Result<(), Error> {
        let (kind, how) = match (ended.why, ended.status) {
            (Why::Itself, Some(status)) if status.success() => return Ok(()),
            (Why::Itself, Some(status)) => (ErrorKind::Tool, describe(status)),
            (Why::Itself, None) => (ErrorKind::Internal, "ended, and nobody knows how".to_owned()),
            (Why::Deadline, _) => {
                (ErrorKind::Unavailable, format!("took longer than {} s and was killed", limit.as_secs_f64()))
            }
            (Why::Stopped, _) => (ErrorKind::Interrupted, "was stopped".to_owned()),
            (Why::Overflow, _) => (ErrorKind::Tool, format!("wrote more than {STDOUT_BYTES_MAX} bytes and was killed")),
        };
        let tail = ended.stderr_tail.trim();
        let evidence =
            if tail.is_empty() { "; it wrote no error".to_owned() } else { format!("; stderr ends: {tail}") };
        Err(Error::new(kind, format!("`{}` {how}{evidence}", self.line())))
    }
}

/// A child whose stdout is being read.
///
/// Read `stdout` to its end, then ask `wait` whether the child ended well: an end of file alone says nothing.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) stdout: Stdout,
    pub(crate) child: Streaming,
}

impl Running {
    /// Closes stdout, waits for the child and judges it.
    pub(crate) fn wait(self) -> Result<String, Error> {
        drop(self.stdout);
        self.child.wait()
    }
}

/// The reading end of a child's stdout; may go to another thread than the child.
#[derive(Debug)]
pub(crate) struct Stdout(ChildStdout);

impl Read for Stdout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// The child behind a `Running`. Dropping it kills the child's group and waits for its end.
#[derive(Debug)]
pub(crate) struct Streaming {
    cmd: Cmd,
    limit: Duration,
    stopped: Arc<AtomicBool>,
    keeper: Option<JoinHandle<Ended>>,
}

impl Streaming {
    /// Waits for the child's end; the last of its stderr if it ended well, else an error with the evidence.
    /// The child can only end once somebody reads or closes its stdout.
    pub(crate) fn wait(mut self) -> Result<String, Error> {
        let ended = self.join()?;
        self.cmd.judge(&ended, self.limit)?;
        Ok(ended.stderr_tail)
    }

    fn join(&mut self) -> Result<Ended, Error> {
        let lost = || Error::new(ErrorKind::Internal, format!("nobody kept watch over `{}`", self.cmd.name()));
        let keeper = self.keeper.take().ok_or_else(lost)?;
        keeper.join().map_err(|_| lost())
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended, and nobody knows how".to_owned(),
    }
}

/// Opens a log to append to, for its owner only.
fn open_log(path: &Path) -> Result<File, Error> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    log.map_err(|err| io_error("unable to open the log", path, err))
}

/// As it would be typed: quoted when it holds anything a shell would look at.
fn quote(arg: &OsStr) -> String {
    let text = arg.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
