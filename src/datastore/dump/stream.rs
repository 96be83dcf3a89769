//! Taking a dump: the tool's runs one after the other, read as one stream of files.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::dump::events;
use crate::datastore::dump::login::OptionFile;
use crate::datastore::dump::manifest::{END, End, FORMAT, render};
use crate::datastore::dump::split::{COMPLETED, HeadFacts, Splitter};
use crate::datastore::dump::survey::{self, LOOK_TIMEOUT, Survey};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::dump::{ROUTINES, TRIGGERS};
use crate::datastore::sql::{Access, Sql};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};
use crate::process::{Cmd, Running};

const POLL: Duration = Duration::from_millis(50);
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the server waits for the tool to take more, which waits for the repository.
const STORE_PATIENCE_SECONDS: u32 = 3600;
/// So much of a run's end is looked at for the tool's last words.
const TAIL_BYTES: usize = 512;

/// How rows are held still while they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stillness {
    /// A snapshot of transactional tables; nobody waits but for the moment in which it is made.
    Snapshot,
    /// All tables are locked: of all engines the rows are of one moment, and nobody writes until all are read.
    Locked,
}

/// How the lock is asked for that MySQL's tool takes for a moment. Whoever writes waits behind whoever asks, and a
/// transaction that waits so may hold a row that another waits for, who keeps the lock from being given: nobody goes on
/// until somebody's patience ends. Ours ends first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LockPatience {
    pub(crate) wait_seconds: u32,
    pub(crate) tries: u32,
    /// Between two tries.
    pub(crate) pause: Duration,
}

impl Default for LockPatience {
    fn default() -> LockPatience {
        LockPatience { wait_seconds: 3, tries: 10, pause: Duration::from_secs(10) }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct DumpSettings {
    pub(crate) stillness: Stillness,
    pub(crate) lock: LockPatience,
    /// For coffer's own short-lived files; nobody else may enter it.
    pub(crate) dir: PathBuf,
    /// Gets what the tools have to say.
    pub(crate) log: PathBuf,
}

/// What was taken, once the stream has been read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    /// The place in the binlog that the rows are from.
    pub(crate) position: BinlogPosition,
    /// Where the binlog stood when everything had been read. Between the two there should be no definition statement.
    pub(crate) read_until: BinlogPosition,
    pub(crate) entries: u64,
    pub(crate) rows: u64,
    pub(crate) server_version: String,
    pub(crate) tool: String,
    pub(crate) tool_version: String,
    pub(crate) warnings: Vec<String>,
}

/// The stream of a dump. It is whole only if it was read to its end without an error; `finish` says so.
pub(crate) struct DumpStream {
    tools: DumpTools,
    access: Access,
    login: OptionFile,
    log: PathBuf,
    cancelled: Arc<AtomicBool>,
    before: Survey,
    run: Option<Running>,
    /// Which of the runs it is.
    stage: usize,
    splitter: Splitter,
    /// The end of what the run has written.
    tail: Vec<u8>,
    out: Vec<u8>,
    out_at: usize,
    has_failed: bool,
    dumped: Option<Dumped>,
}

/// The runs for routines and triggers, each of which makes one file. It cannot be held still, and it may hold any text, so it does
/// not pass through what tells tables apart.
const CODE: [(&str, [&str; 3]); 2] = [
    (ROUTINES, ["--routines", "--skip-triggers", "--skip-events"]),
    (TRIGGERS, ["--triggers", "--skip-routines", "--skip-events"]),
];

/// Begins a dump and returns once the place it is from is known. The server is asked for its definitions first, and again
/// at the end.
pub(crate) fn begin(
    tools: &DumpTools,
    access: &Access,
    settings: &DumpSettings,
    cancelled: &Arc<AtomicBool>,
) -> Result<DumpStream, Error> {
    let mut before = Survey::take(&mut Sql::connect_with(access, LOOK_TIMEOUT)?)?;
    if before.flavour != tools.flavour {
        let what = format!("the tools are {}'s and the server is {}", tools.flavour.title(), before.flavour.title());
        return Err(Error::new(ErrorKind::InvalidInput, what).hint("Find the tools again for this server."));
    }
    let mut warnings = match settings.stillness {
        Stillness::Snapshot => before.warnings(),
        Stillness::Locked => before.warnings_when_locked(),
    };
    if tools.flavour == Datastore::Mariadb && !tools.dump.knows("dump-history") {
        warnings.push(format!("the tool, {}, leaves out the history of system-versioned tables", tools.dump.version));
    }
    let name = tools.dump.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let head = HeadFacts {
        flavour: tools.flavour,
        server_version: before.server_version.clone(),
        tool: name,
        tool_version: tools.dump.version.clone(),
        engines: std::mem::take(&mut before.engines),
        warnings,
    };
    let mut stream = DumpStream {
        tools: tools.clone(),
        access: access.clone(),
        login: OptionFile::write(&settings.dir.join("dump.cnf"), access)?,
        log: settings.log.clone(),
        cancelled: Arc::clone(cancelled),
        before,
        run: None,
        stage: 0,
        splitter: Splitter::new(head.clone()),
        tail: Vec::new(),
        out: Vec::new(),
        out_at: 0,
        has_failed: false,
        dumped: None,
    };
    for tries_left in (0..settings.lock.tries.max(1)).rev() {
        stream.splitter = Splitter::new(head.clone());
        stream.run = Some(stream.rows_run(settings).stream()?);
        match stream.pump_head() {
            Err(err) if is_lock_wait(&err) && tries_left > 0 => stream.pause(settings.lock.pause)?,
            Err(err) => return Err(err),
            Ok(()) => break,
        }
    }
    Ok(stream)
}

/// The lock was not to be had in time; nothing has been read by then.
fn is_lock_wait(err: &Error) -> bool {
    err.message().contains("(1205)")
}

impl DumpStream {
    /// The place in the binlog that the rows are from.
    #[cfg(test)]
    pub(crate) fn position(&self) -> Option<&BinlogPosition> {
        self.splitter.position()
    }

    /// What was taken. Fails unless the stream was read to its end.
    pub(crate) fn finish(self) -> Result<Dumped, Error> {
        self.dumped.ok_or_else(|| Error::new(ErrorKind::Internal, "a dump that was not read to its end"))
    }

    /// Goes on until the place is known that the rows are from.
    fn pump_head(&mut self) -> Result<(), Error> {
        while self.splitter.position().is_none() && self.stage == 0 {
            self.step()?;
        }
        Ok(())
    }

    fn pause(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(limit);
        while !deadline.has_passed() {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the dump was stopped"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The one run that reads rows, all of them in one snapshot.
    fn rows_run(&self, settings: &DumpSettings) -> Cmd {
        let dump = &self.tools.dump;
        let position = if dump.knows("source-data") { "--source-data=2" } else { "--master-data=2" };
        let mut cmd = self.any_run().arg(position);
        cmd = match settings.stillness {
            Stillness::Snapshot => cmd.arg("--single-transaction"),
            Stillness::Locked => cmd.arg("--lock-all-tables"),
        };
        for option in ["--hex-blob", "--complete-insert", "--skip-add-locks", "--skip-triggers"] {
            cmd = cmd.arg(option);
        }
        if dump.knows("dump-history") {
            cmd = cmd.arg("--dump-history");
        }
        if dump.knows("init-command") {
            let seconds = settings.lock.wait_seconds;
            // A store that is slow or away for a while must not end the dump.
            let set = format!("SET SESSION lock_wait_timeout={seconds}, net_write_timeout={STORE_PATIENCE_SECONDS}");
            cmd = cmd.arg(format!("--init-command={set}"));
        }
        cmd
    }

    fn code_run(&self, options: &[&str]) -> Cmd {
        let code = ["--no-data", "--no-create-info", "--no-create-db", "--skip-lock-tables"];
        code.iter().chain(options).fold(self.any_run(), Cmd::arg)
    }

    fn any_run(&self) -> Cmd {
        let dump = &self.tools.dump;
        let mut cmd = self.login.given_to(Cmd::new(&dump.path), dump);
        for option in ["--all-databases", "--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--quick"] {
            cmd = cmd.arg(option);
        }
        cmd = cmd.arg("--no-tablespaces").arg("--comments");
        for (option, argument) in
            [("set-gtid-purged", "--set-gtid-purged=OFF"), ("column-statistics", "--skip-column-statistics")]
        {
            if dump.knows(option) {
                cmd = cmd.arg(argument);
            }
        }
        // The tool gives up at the first view it cannot read.
        for view in &self.before.broken {
            cmd = cmd.arg(format!("--ignore-table={view}"));
        }
        cmd.stderr_log(&self.log).cancel(Arc::clone(&self.cancelled))
    }

    /// Takes the next bytes of the run, or goes on to the next run, or ends.
    fn step(&mut self) -> Result<(), Error> {
        let Some(run) = &mut self.run else { return self.end() };
        let mut buffer = vec![0; BUFFER_BYTES];
        let length = run
            .stdout
            .read(&mut buffer)
            .map_err(|err| Error::new(ErrorKind::Io, "unable to read what the dump tool writes").with_source(err))?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return self.next_run();
        }
        match self.stage.checked_sub(1).and_then(|at| CODE.get(at)) {
            None => self.splitter.push(bytes),
            Some((path, _)) => {
                self.splitter.members().write(path, bytes);
                self.tail.extend_from_slice(bytes);
                let excess = self.tail.len().saturating_sub(TAIL_BYTES);
                self.tail.drain(..excess);
                Ok(())
            }
        }
    }

    fn next_run(&mut self) -> Result<(), Error> {
        if let Some(run) = self.run.take() {
            run.wait().map_err(explained)?;
        }
        match self.stage.checked_sub(1).and_then(|at| CODE.get(at)) {
            None => {
                self.splitter.finish()?;
            }
            Some((path, _)) => {
                let last = String::from_utf8_lossy(&self.tail);
                if !last.lines().any(|line| line.starts_with(COMPLETED)) {
                    let what = format!("the text for `{path}` ends without saying that it is complete");
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
                self.splitter.members().end(path);
                self.tail.clear();
            }
        }
        if let Some((_, options)) = CODE.get(self.stage) {
            self.run = Some(self.code_run(options).stream()?);
            self.stage += 1;
        }
        Ok(())
    }

    /// Every run has ended well: the last file is written if the server was left in peace.
    fn end(&mut self) -> Result<(), Error> {
        let mut sql = Sql::connect_with(&self.access, LOOK_TIMEOUT)?;
        events::write(&mut sql, self.before.at, self.splitter.members())?;
        let later = Survey::take(&mut sql)?;
        let counts = self.splitter.counts();
        let (entries, rows) = (counts.entries, counts.rows);
        let found_on_the_way = self.before.compare(&later, &counts.names)?;
        let mut warnings = self.splitter.head().warnings.clone();
        warnings.extend(found_on_the_way);
        let lost = || Error::new(ErrorKind::Internal, "a dump without a position");
        let position = self.splitter.position().cloned().ok_or_else(lost)?;
        let read_until = binlog_position(&mut sql)?;
        let end = End {
            format: FORMAT,
            entries,
            rows,
            code: survey::code(&mut sql)?,
            read_until: read_until.clone(),
            warnings: warnings.clone(),
        };
        let members = self.splitter.members();
        members.write(END, &render(&end)?);
        members.finish();
        self.dumped = Some(Dumped {
            position,
            read_until,
            entries,
            rows,
            server_version: self.before.server_version.clone(),
            tool: self.splitter.head().tool.clone(),
            tool_version: self.tools.dump.version.clone(),
            warnings,
        });
        Ok(())
    }
}

impl Read for DumpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(io::Error::other(Error::new(ErrorKind::Internal, "the dump has failed before")));
        }
        while self.out_at >= self.out.len() {
            self.splitter.members().take(&mut self.out);
            self.out_at = 0;
            if self.out.is_empty() {
                if self.dumped.is_some() {
                    return Ok(0);
                }
                if let Err(err) = self.step() {
                    self.has_failed = true;
                    self.run = None;
                    return Err(io::Error::other(err));
                }
            }
        }
        let rest = self.out.get(self.out_at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        let (Some(into), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) else { return Ok(0) };
        into.copy_from_slice(from);
        self.out_at += length;
        Ok(length)
    }
}

/// Where the server's binlog stands.
pub(super) fn binlog_position(sql: &mut Sql) -> Result<BinlogPosition, Error> {
    // MySQL 8.4 knows only the new words, MariaDB and older ones only the old.
    let row = sql.record("SHOW BINARY LOG STATUS").or_else(|_| sql.record("SHOW MASTER STATUS"))?;
    let field = |name: &str| row.get(name).map(String::as_str).unwrap_or_default();
    format!("{}:{}", field("File"), field("Position")).parse()
}

/// What the tool says, with what to do.
fn explained(err: Error) -> Error {
    let message = err.message();
    if err.kind() != ErrorKind::Tool {
        return err;
    }
    // The last are mysqldump's own words for a table with more columns than it had when it was described.
    let changed = ["(1412)", "Table definition has changed", "(1146)", "Error in field count for table"];
    if changed.iter().any(|words| message.contains(words)) {
        return Error::new(ErrorKind::Conflict, format!("a table was changed while the dump was taken: {message}"))
            .hint("Take the backup again at a time without changes of tables.");
    }
    if is_lock_wait(&err) {
        let what = format!("the lock to read the binlog's place under was not to be had: {message}");
        return Error::new(ErrorKind::Unavailable, what)
            .hint("Statements on the server ran or waited too long each time: take the backup at a quieter time.");
    }
    if message.contains("(1227)") || message.contains("(1044)") || message.contains("(1142)") {
        let hint = "Give coffer's account SELECT, RELOAD, PROCESS, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT and what reads \
                    the binlog's place (REPLICATION CLIENT or BINLOG MONITOR) on *.*.";
        return Error::new(ErrorKind::Forbidden, message).hint(hint);
    }
    err
}
