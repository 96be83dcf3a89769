//! A server process: its option file, start, clean stop, and proof that nobody has its data directory open.
//!
//! A created server is a process of its own: it outlives coffer, and a started coffer finds it again by the option file
//! in its command line. An adopted one is started and stopped by systemd or by argument vectors.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::clock::Deadline;
use crate::datastore::option_file::{OptionGroup, read_client_access};
use crate::datastore::sql::{Access, Sql};
use crate::datastore::{Tools, mariadb, mysql};
use crate::domain::datastore::Datastore;
use crate::domain::instance::{Control, Server};
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, ProcessHandle, User};

/// A server may need long to come up when it has to recover from a crash.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(600);
/// A server may need long to write its dirty pages.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// A file that every server of either datastore has open as long as it runs.
const SYSTEM_TABLESPACE: &str = "ibdata1";
/// How often a state that is waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How to log in to `server`.
pub(crate) fn access(server: &Server) -> Result<Access, Error> {
    match server.control {
        // One account knows the operating system's user: there is no password to keep.
        Control::Created => Ok(Access { socket: server.socket.clone(), user: User::own().name, password: None }),
        Control::Systemd { .. } | Control::Argv { .. } => read_client_access(&server.defaults_file, &server.socket),
    }
}

/// The option file of a server that coffer creates. It holds no secret.
pub(crate) fn created_options(tools: &Tools, server: &Server, server_id: u32) -> String {
    let group = match tools.datastore {
        Datastore::Mariadb => mariadb::created_options(tools, server, server_id).render("mariadbd"),
        Datastore::Mysql => mysql::install::created_options(tools, server, server_id).render("mysqld"),
    };
    // MariaDB's backup tool reads the same file; this group tells it how to log in.
    let client = OptionGroup::default().path("socket", &server.socket).set("user", User::own().name);
    format!(
        "# Written by coffer; put your own settings into a file of your own and name it here with !include.\n{group}\n{}",
        client.render("client")
    )
}

/// Finds the running process of a created server by the option file in its command line.
pub(crate) fn find(defaults_file: &Path) -> Result<Option<ProcessHandle>, Error> {
    let argument = format!("--defaults-file={}", defaults_file.display());
    // The backup tool and clients are given the same file. Every program takes it as its first argument only.
    find_process(&argument, |program| program.ends_with("mariadbd") || program.ends_with("mysqld"))
}

/// Finds a process by one of its arguments, which must name something that only one process works on.
pub(crate) fn find_by_argument(wanted: &str) -> Result<Option<ProcessHandle>, Error> {
    find_process(wanted, |_| true)
}

fn find_process(wanted: &str, is_program: impl Fn(&str) -> bool) -> Result<Option<ProcessHandle>, Error> {
    let entries = std::fs::read_dir("/proc").map_err(|err| io_error("unable to list", Path::new("/proc"), err))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look; then it is not the one.
        let Ok(command_line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        // The program is not always the first word: a loader may have been told which to run. It stands before its arguments.
        let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
        let program = words.iter().position(|argument| *argument == wanted.as_bytes()).and_then(|at| at.checked_sub(1));
        if program.and_then(|at| words.get(at)).is_some_and(|word| is_program(&String::from_utf8_lossy(word)))
            && let Ok(Some(handle)) = ProcessHandle::of_pid(pid)
            && handle.is_alive()
        {
            return Ok(Some(handle));
        }
    }
    Ok(None)
}

/// Starts the server and returns once it answers. `log` gets what a created server prints before its own log is open.
pub(crate) fn start(tools: &Tools, server: &Server) -> Result<(), Error> {
    let run_dir = run_dir(server);
    let log = run_dir.join("start.log");
    let command = match &server.control {
        Control::Created => Cmd::new(&tools.server).arg(format!("--defaults-file={}", server.defaults_file.display())),
        Control::Systemd { unit } => Cmd::new("systemctl").arg("start").arg(unit),
        Control::Argv { start, .. } => from_argv(start, "start")?,
    };
    if server.control == Control::Created && tools.datastore == Datastore::Mysql {
        remove_stale_lock(&server.socket, &server.data_dir)?;
    }
    let handle = command.spawn_detached(&log)?;
    let access = access(server)?;
    let deadline = Deadline::after(START_TIMEOUT);
    let mut ended_at: Option<Deadline> = None;
    loop {
        match Sql::connect(&access) {
            Ok(_) => return Ok(()),
            Err(err) if err.kind() == ErrorKind::Unavailable => {}
            // It refuses us, but it runs.
            Err(err) => return Err(err),
        }
        if !handle.is_alive() {
            // A start command of an adopted server may end at once, well before the server answers.
            let patience = match server.control {
                Control::Created => Duration::ZERO,
                Control::Systemd { .. } | Control::Argv { .. } => Duration::from_secs(60),
            };
            if ended_at.get_or_insert_with(|| Deadline::after(patience)).has_passed() {
                return Err(start_error(server, &run_dir, "it ended before it answered"));
            }
        }
        if deadline.has_passed() {
            return Err(start_error(server, &run_dir, "it does not answer"));
        }
        std::thread::sleep(POLL);
    }
}

/// MySQL keeps its pid in a file beside the socket and does not start while a process has that pid. After a reboot it may
/// be any process, and right after a kill the dead one, until somebody has asked how it ended.
pub(crate) fn remove_stale_lock(socket: &Path, data_dir: &Path) -> Result<(), Error> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    if !path.exists() || is_in_use(data_dir)? {
        return Ok(());
    }
    std::fs::remove_file(&path).map_err(|err| io_error("unable to remove", &path, err))
}

fn start_error(server: &Server, run_dir: &Path, what: &str) -> Error {
    let logs = ["mariadbd.log", "mysqld.log", "start.log"].map(|name| run_dir.join(name));
    let said = logs.iter().find_map(|log| {
        // MySQL's parts give up one after the other, each with an error of its own.
        let lines = last_lines(log, 8);
        let cause = lines.split(" | ").next().map(bare_line).filter(|line| !line.is_empty())?;
        Some(format!(": {cause} (more in `{}`)", log.display()))
    });
    let said = said.unwrap_or_default();
    Error::new(ErrorKind::Tool, format!("the server on `{}` does not start, {what}{said}", server.data_dir.display()))
        .hint("Read the server's error log; the data directory was not changed by coffer.")
}

/// A line of the server's log without its date, thread and level, and without MySQL's `[MY-010119] [Server]`.
fn bare_line(line: &str) -> &str {
    let mut text = line.split_once("[ERROR]").map_or(line, |(_, text)| text).trim();
    while let Some((_, rest)) = text.strip_prefix('[').and_then(|tag| tag.split_once("] ")) {
        text = rest.trim_start();
    }
    text.trim_end_matches('.')
}

/// The end of a log, on one line, for an error's evidence.
pub(crate) fn last_lines(path: &Path, count: usize) -> String {
    const TAIL_BYTES: u64 = 8 * 1024;
    let read = || -> std::io::Result<String> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // Either server begins with the process it is; what stands before that is of another time.
    if let Some(begin) = lines.iter().rposition(|line| line.contains(" as process ")) {
        lines.drain(..begin);
    }
    // What the server calls an error says most; a log without one has its last words.
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.contains("[ERROR]")).collect();
    let chosen = if errors.is_empty() { lines } else { errors };
    chosen[chosen.len().saturating_sub(count)..].join(" | ")
}

/// Stops the server cleanly and proves that nobody has its data directory open any more. A stopped server is fine.
pub(crate) fn stop(server: &Server) -> Result<(), Error> {
    match &server.control {
        Control::Created => {
            if let Some(handle) = find(&server.defaults_file)? {
                handle.terminate()?;
                if !handle.wait(STOP_TIMEOUT) {
                    return Err(stop_error(server));
                }
            }
        }
        Control::Systemd { unit } => {
            Cmd::new("systemctl").arg("stop").arg(unit).deadline(STOP_TIMEOUT).run()?;
        }
        Control::Argv { stop, .. } => {
            if is_in_use(&server.data_dir)? {
                from_argv(stop, "stop")?.deadline(STOP_TIMEOUT).run()?;
            }
        }
    }
    let deadline = Deadline::after(STOP_TIMEOUT);
    while is_in_use(&server.data_dir)? {
        if deadline.has_passed() {
            return Err(stop_error(server));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn stop_error(server: &Server) -> Error {
    Error::new(
        ErrorKind::Tool,
        format!("the server on `{}` did not stop within {} s", server.data_dir.display(), STOP_TIMEOUT.as_secs()),
    )
    .hint("Nothing was exchanged; look at the server's error log, then try again.")
}

fn from_argv(argv: &[String], what: &str) -> Result<Cmd, Error> {
    let (program, arguments) = argv.split_first().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("the {what} command of the server is empty"))
            .hint("Name the program and its arguments, for example [\"systemctl\", \"start\", \"mariadb\"].")
    })?;
    Ok(arguments.iter().fold(Cmd::new(program), |command, argument| command.arg(argument)))
}

/// Whether a server has the data directory open: InnoDB of either server, and Aria, hold a lock on some of its files as long as
/// they run. A directory or a file that is missing is not in use.
///
/// MySQL loses its locks when it clones itself: a process's locks on a file go with whichever of its descriptors is closed
/// first. So files that a clone leaves out are looked at too, and processes.
pub(crate) fn is_in_use(data_dir: &Path) -> Result<bool, Error> {
    Ok(DataDirLock::take(data_dir)?.is_none())
}

/// Holds the locks a server would take, so that none can start on the data directory meanwhile.
pub(crate) struct DataDirLock {
    _files: Vec<File>,
}

impl DataDirLock {
    /// `None` when a server runs on the directory.
    pub(crate) fn take(data_dir: &Path) -> Result<Option<DataDirLock>, Error> {
        if is_open_elsewhere(&data_dir.join(SYSTEM_TABLESPACE))? {
            return Ok(None);
        }
        let mut files = Vec::new();
        for path in locked_files(data_dir) {
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => continue,
                Err(err) => return Err(io_error("unable to open", &path, err)),
            };
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => files.push(file),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => return Ok(None),
                Err(errno) => return Err(io_error("unable to lock", &path, errno.into())),
            }
        }
        Ok(Some(DataDirLock { _files: files }))
    }
}

/// Whether another process has the file open for writing, as far as coffer may look: at its own user's processes, as root
/// at all.
fn is_open_elsewhere(file: &Path) -> Result<bool, Error> {
    let wanted = match std::fs::metadata(file) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(io_error("unable to look at", file, err)),
    };
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").map_err(|err| io_error("unable to list", Path::new("/proc"), err))?;
    for process in processes.flatten() {
        let is_process = process.file_name().to_str().is_some_and(|pid| pid != own && pid.parse::<u32>().is_ok());
        // A process may end while we look; then it has nothing open.
        let Some(descriptors) = is_process.then(|| std::fs::read_dir(process.path().join("fd")).ok()).flatten() else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let link = std::fs::read_link(descriptor.path()).unwrap_or_default();
            // Only what may be it is looked at closer.
            if !link.to_string_lossy().contains(SYSTEM_TABLESPACE) {
                continue;
            }
            let is_it = std::fs::metadata(descriptor.path()).is_ok_and(|found| (found.dev(), found.ino()) == wanted);
            let info = std::fs::read_to_string(process.path().join("fdinfo").join(descriptor.file_name()));
            if is_it && info.is_ok_and(|info| is_writable(&info)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether the flags of a descriptor (octal, `/proc/PID/fdinfo`) let it write.
fn is_writable(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    flags & 0o3 != 0
}

/// The files a running server holds a lock on. MySQL loses its lock on every file that it has cloned, since a process
/// that closes a file gives up all its locks on it; so those are looked at too that a clone leaves out.
fn locked_files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        ["ibdata1", "aria_log_control", "ibtmp1", "#innodb_temp/temp_1.ibt"].map(|name| data_dir.join(name)).into();
    // The doublewrite buffer; the page size is part of the name.
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    files.extend(entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "dblwr")));
    files
}

/// Where coffer keeps the server's log of starting.
pub(crate) fn run_dir(server: &Server) -> PathBuf {
    match server.control {
        Control::Created => server.defaults_file.parent().unwrap_or(&server.work_dir).to_owned(),
        Control::Systemd { .. } | Control::Argv { .. } => server.work_dir.clone(),
    }
}

/// The directory for a created server's temporary tables.
pub(crate) fn tmp_dir(server: &Server) -> PathBuf {
    run_dir(server).join("tmp")
}

/// Whether the server answers now.
pub(crate) fn answers(server: &Server) -> bool {
    access(server).and_then(|access| Sql::connect(&access)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::mysql::testing::TestMysql;

    #[test]
    fn a_line_of_either_servers_log_is_shown_without_its_head() {
        for (line, bare) in [
            ("2026-11-21 16:00:00 0 [ERROR] Aborting", "Aborting"),
            ("2026-11-21T16:00:00.1Z 0 [ERROR] [MY-010119] [Server] Aborting.", "Aborting"),
            ("mysqld: no such option", "mysqld: no such option"),
            ("[odd", "[odd"),
        ] {
            assert_eq!(bare_line(line), bare);
        }
    }

    #[test]
    fn mysql_holds_its_data_directory_as_long_as_it_runs_and_cannot_start_while_coffer_does() {
        let server = TestMysql::start("");
        assert!(is_in_use(&server.server.data_dir).unwrap());
        assert!(find(&server.server.defaults_file).unwrap().is_some());
        server.kill();
        assert!(!is_in_use(&server.server.data_dir).unwrap(), "not even after a crash");
        server.start_again();
        assert!(is_in_use(&server.server.data_dir).unwrap());
        server.stop();
        assert!(find(&server.server.defaults_file).unwrap().is_none());
        assert!(DataDirLock::take(&server.server.data_dir).unwrap().is_some());
    }

    #[test]
    fn mysql_starts_beside_a_lock_file_that_names_a_process_of_somebody_else() {
        let server = TestMysql::start("");
        server.kill();
        let lock = server.dir.join("s.lock");
        crate::durable::write(&lock, format!("{}\n", std::process::id()).as_bytes(), 0o600).unwrap();
        server.start_again();
    }

    #[test]
    fn what_keeps_mysql_from_starting_is_said() {
        let server = TestMysql::start("");
        server.stop();
        let options = std::fs::read_to_string(&server.server.defaults_file).unwrap();
        let broken = options.replace("[client]", "innodb_page_size=4096\n[client]");
        crate::durable::write(&server.server.defaults_file, broken.as_bytes(), 0o644).unwrap();
        let error = start(&server.tools, &server.server).unwrap_err();
        let said = "it ended before it answered: Data file './ibdata1' uses page size 16384";
        assert!(error.message().contains(said), "{error}");
    }
}
