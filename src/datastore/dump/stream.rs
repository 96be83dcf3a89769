//! Taking a dump: the tool's runs one after the other, read as one stream of files.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Deadline;
use crate::datastore::dump::events;
use crate::datastore::dump::login::OptionFile;
use crate::datastore::dump::manifest::{END, End, FORMAT, Library, render};
use crate::datastore::dump::split::{COMPLETED, HeadFacts, Splitter, quoted};
use crate::datastore::dump::survey::{self, LOOK_TIMEOUT, Survey};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::dump::{EVENTS, ROUTINES, TRIGGERS};
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
/// Tables that one run is told by name: arguments have a limit.
const NAMED_TABLES_MAX: usize = 500;

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
    of: Of,
    run: Option<(Running, Text)>,
    /// Those that are still to come.
    runs: VecDeque<Planned>,
    splitter: Splitter,
    /// The end of what the run has written.
    tail: Vec<u8>,
    out: Vec<u8>,
    out_at: usize,
    has_failed: bool,
    dumped: Option<Dumped>,
}

/// What is dumped.
enum Of {
    /// The server, and what it was like before.
    Server(Survey),
    /// These tables, which somebody holds still.
    Held(Vec<TableName>),
}

/// A table, by its schema and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableName {
    pub(crate) schema: String,
    pub(crate) name: String,
}

impl TableName {
    /// For people.
    pub(crate) fn full(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// What becomes of the text of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// It is cut into files.
    Tables,
    /// It goes into this file as it is.
    Code(&'static str),
}

/// A run that is to come.
struct Planned {
    cmd: Cmd,
    text: Text,
    /// The schema that the text is of, when it does not say so itself.
    schema: Option<String>,
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
    check_flavour(tools, before.flavour)?;
    let mut warnings = match settings.stillness {
        Stillness::Snapshot => before.warnings(),
        Stillness::Locked => before.warnings_when_locked(),
    };
    if tools.flavour == Datastore::Mariadb && !tools.dump.knows("dump-history") {
        warnings.push(format!("the tool, {}, leaves out the history of system-versioned tables", tools.dump.version));
    }
    let engines = std::mem::take(&mut before.engines);
    let head = head_facts(tools, before.server_version.clone(), engines, warnings);
    let splitter = Splitter::new(head.clone());
    let mut stream = DumpStream::new(tools, access, settings, cancelled, Of::Server(before), splitter)?;
    stream.runs = CODE.iter().map(|(path, options)| stream.code_run(path, options)).collect();
    for tries_left in (0..settings.lock.tries.max(1)).rev() {
        stream.splitter = Splitter::new(head.clone());
        stream.start(stream.rows_run(settings))?;
        match stream.pump_head() {
            Err(err) if is_lock_wait(&err) && tries_left > 0 => stream.pause(settings.lock.pause)?,
            Err(err) => return Err(err),
            Ok(()) => break,
        }
    }
    Ok(stream)
}

/// Begins a dump of tables that nobody can write to or change until it has ended: the caller holds them still. `tables`
/// are sorted. What else the server has is not in it, and it goes on changing.
pub(crate) fn begin_of_held(
    tools: &DumpTools,
    access: &Access,
    settings: &DumpSettings,
    tables: &[TableName],
    cancelled: &Arc<AtomicBool>,
) -> Result<DumpStream, Error> {
    let mut sql = Sql::connect_with(access, LOOK_TIMEOUT)?;
    let server_version = sql.value("SELECT VERSION()")?;
    check_flavour(tools, Datastore::of_version(&server_version))?;
    let names: BTreeSet<String> = tables.iter().map(TableName::full).collect();
    let rounded = survey::rounded(&mut sql)?.into_iter().filter(|name| names.contains(name)).collect::<Vec<_>>();
    let warnings = survey::rounding(&rounded).into_iter().collect();
    let head = head_facts(tools, server_version, survey::engines(&mut sql)?, warnings);
    let splitter = Splitter::of_held(head, binlog_position(&mut sql)?);
    let mut stream = DumpStream::new(tools, access, settings, cancelled, Of::Held(tables.to_vec()), splitter)?;
    let of_runs = || {
        let schemas = tables.chunk_by(|one, other| one.schema == other.schema);
        schemas.flat_map(|tables| tables.chunks(NAMED_TABLES_MAX))
    };
    let rows = of_runs().map(|tables| stream.held_run(settings, tables));
    // The tables are made anew where they are loaded, so their triggers are to be as well.
    let triggers = of_runs().map(|tables| stream.held_triggers_run(tables));
    stream.runs = rows.chain(triggers).flatten().collect();
    Ok(stream)
}

fn check_flavour(tools: &DumpTools, flavour: Datastore) -> Result<(), Error> {
    if flavour == tools.flavour {
        return Ok(());
    }
    let what = format!("the tools are {}'s and the server is {}", tools.flavour.title(), flavour.title());
    Err(Error::new(ErrorKind::InvalidInput, what).hint("Find the tools again for this server."))
}

fn head_facts(tools: &DumpTools, server_version: String, engines: Vec<Library>, warnings: Vec<String>) -> HeadFacts {
    HeadFacts {
        flavour: tools.flavour,
        server_version,
        tool: tools.dump.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        tool_version: tools.dump.version.clone(),
        engines,
        warnings,
    }
}

/// The lock was not to be had in time; nothing has been read by then.
fn is_lock_wait(err: &Error) -> bool {
    err.message().contains("(1205)")
}

impl DumpStream {
    fn new(
        tools: &DumpTools,
        access: &Access,
        settings: &DumpSettings,
        cancelled: &Arc<AtomicBool>,
        of: Of,
        splitter: Splitter,
    ) -> Result<DumpStream, Error> {
        Ok(DumpStream {
            tools: tools.clone(),
            access: access.clone(),
            login: OptionFile::write(&settings.dir.join("dump.cnf"), access)?,
            log: settings.log.clone(),
            cancelled: Arc::clone(cancelled),
            of,
            run: None,
            runs: VecDeque::new(),
            splitter,
            tail: Vec::new(),
            out: Vec::new(),
            out_at: 0,
            has_failed: false,
            dumped: None,
        })
    }

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
        while self.splitter.position().is_none() && matches!(self.run, Some((_, Text::Tables))) {
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
    fn rows_run(&self, settings: &DumpSettings) -> Planned {
        let dump = &self.tools.dump;
        let position = if dump.knows("source-data") { "--source-data=2" } else { "--master-data=2" };
        let mut cmd = self.any_run().arg("--all-databases").arg(position);
        cmd = match settings.stillness {
            Stillness::Snapshot => cmd.arg("--single-transaction"),
            Stillness::Locked => cmd.arg("--lock-all-tables"),
        };
        if dump.knows("dump-history") {
            cmd = cmd.arg("--dump-history");
        }
        // The tool gives up at the first view it cannot read.
        for view in self.broken_views() {
            cmd = cmd.arg(format!("--ignore-table={view}"));
        }
        Planned { cmd: self.with_rows(cmd, settings), text: Text::Tables, schema: None }
    }

    /// Rows of tables that are all of one schema; none for no tables.
    fn held_run(&self, settings: &DumpSettings, tables: &[TableName]) -> Option<Planned> {
        let schema = &tables.first()?.schema;
        let cmd = self.with_rows(self.any_run().arg("--skip-lock-tables"), settings);
        Some(Planned { cmd: by_name(cmd, tables), text: Text::Tables, schema: Some(schema.clone()) })
    }

    fn with_rows(&self, cmd: Cmd, settings: &DumpSettings) -> Cmd {
        let dump = &self.tools.dump;
        let options = ["--hex-blob", "--complete-insert", "--skip-add-locks", "--skip-triggers"];
        let mut cmd = options.iter().fold(cmd, Cmd::arg);
        if dump.knows("init-command") {
            let seconds = settings.lock.wait_seconds;
            // A store that is slow or away for a while must not end the dump.
            let set = format!("SET SESSION lock_wait_timeout={seconds}, net_write_timeout={STORE_PATIENCE_SECONDS}");
            cmd = cmd.arg(format!("--init-command={set}"));
        }
        cmd
    }

    fn code_run(&self, path: &'static str, options: &[&str]) -> Planned {
        let cmd = self
            .broken_views()
            .iter()
            .fold(self.any_run().arg("--all-databases"), |cmd, view| cmd.arg(format!("--ignore-table={view}")));
        Planned { cmd: with_code(cmd, options), text: Text::Code(path), schema: None }
    }

    fn held_triggers_run(&self, tables: &[TableName]) -> Option<Planned> {
        let schema = &tables.first()?.schema;
        let cmd = with_code(self.any_run(), &["--triggers"]);
        Some(Planned { cmd: by_name(cmd, tables), text: Text::Code(TRIGGERS), schema: Some(schema.clone()) })
    }

    fn broken_views(&self) -> &[String] {
        match &self.of {
            Of::Server(before) => &before.broken,
            Of::Held(_) => &[],
        }
    }

    fn start(&mut self, planned: Planned) -> Result<(), Error> {
        match (planned.text, &planned.schema) {
            (Text::Tables, Some(schema)) => self.splitter.begin_text(schema),
            (Text::Code(path), Some(schema)) => {
                self.splitter.members().write(path, format!("USE {};\n", quoted(schema)).as_bytes());
            }
            (_, None) => {}
        }
        self.run = Some((planned.cmd.stream()?, planned.text));
        Ok(())
    }

    fn any_run(&self) -> Cmd {
        let dump = &self.tools.dump;
        let mut cmd = self.login.given_to(Cmd::new(&dump.path), dump);
        for option in ["--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--quick"] {
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
        cmd.stderr_log(&self.log).cancel(Arc::clone(&self.cancelled))
    }

    /// Takes the next bytes of the run, or goes on to the next run, or ends.
    fn step(&mut self) -> Result<(), Error> {
        let Some((run, text)) = &mut self.run else { return self.next_run() };
        let text = *text;
        let mut buffer = vec![0; BUFFER_BYTES];
        let length = run
            .stdout
            .read(&mut buffer)
            .map_err(|err| Error::new(ErrorKind::Io, "unable to read what the dump tool writes").with_source(err))?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            self.end_run()?;
            return self.next_run();
        }
        match text {
            Text::Tables => self.splitter.push(bytes),
            Text::Code(path) => {
                self.splitter.members().write(path, bytes);
                self.tail.extend_from_slice(bytes);
                let excess = self.tail.len().saturating_sub(TAIL_BYTES);
                self.tail.drain(..excess);
                Ok(())
            }
        }
    }

    fn end_run(&mut self) -> Result<(), Error> {
        let Some((run, text)) = self.run.take() else { return Ok(()) };
        run.wait().map_err(|err| self.explained(err))?;
        match text {
            Text::Tables => self.splitter.finish(),
            Text::Code(path) => {
                let last = String::from_utf8_lossy(&self.tail);
                if !last.lines().any(|line| line.starts_with(COMPLETED)) {
                    let what = format!("the text for `{path}` ends without saying that it is complete");
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
                self.tail.clear();
                Ok(())
            }
        }
    }

    fn next_run(&mut self) -> Result<(), Error> {
        match self.runs.pop_front() {
            Some(planned) => self.start(planned),
            None => self.end(),
        }
    }

    /// Every run has ended well: the last file is written if the server was left in peace.
    fn end(&mut self) -> Result<(), Error> {
        let mut sql = Sql::connect_with(&self.access, LOOK_TIMEOUT)?;
        let (code, found_on_the_way) = match &self.of {
            Of::Server(before) => {
                events::write(&mut sql, before.at, self.splitter.members())?;
                let later = Survey::take(&mut sql)?;
                (Some(survey::code(&mut sql)?), before.compare(&later, &self.splitter.counts().names)?)
            }
            Of::Held(tables) => {
                let dumped: BTreeSet<&String> = self.splitter.counts().names.iter().collect();
                if let Some(missing) = tables.iter().find(|table| !dumped.contains(&table.full())) {
                    let what = format!("the tool has left out the table `{}`", missing.full());
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
                // So that the layout is that of every dump.
                for path in [ROUTINES, TRIGGERS, EVENTS] {
                    self.splitter.members().write(path, b"");
                }
                (None, Vec::new())
            }
        };
        let counts = self.splitter.counts();
        let (entries, rows) = (counts.entries, counts.rows);
        let mut warnings = self.splitter.head().warnings.clone();
        warnings.extend(found_on_the_way);
        let lost = || Error::new(ErrorKind::Internal, "a dump without a position");
        let position = self.splitter.position().cloned().ok_or_else(lost)?;
        let read_until = binlog_position(&mut sql)?;
        let end =
            End { format: FORMAT, entries, rows, code, read_until: read_until.clone(), warnings: warnings.clone() };
        let members = self.splitter.members();
        members.write(END, &render(&end)?);
        members.finish();
        self.dumped = Some(Dumped {
            position,
            read_until,
            entries,
            rows,
            server_version: self.splitter.head().server_version.clone(),
            tool: self.splitter.head().tool.clone(),
            tool_version: self.tools.dump.version.clone(),
            warnings,
        });
        Ok(())
    }

    /// What the tool says, with what to do.
    fn explained(&self, err: Error) -> Error {
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
            let (what, hint) = match self.of {
                Of::Server(_) => (
                    "the lock to read the binlog's place under was not to be had",
                    "Statements on the server ran or waited too long each time: take the backup at a quieter time.",
                ),
                Of::Held(_) => (
                    "a table could not be read behind a statement that waits to change it",
                    "Take the backup again at a time without changes of tables.",
                ),
            };
            return Error::new(ErrorKind::Unavailable, format!("{what}: {message}")).hint(hint);
        }
        if message.contains("(1227)") || message.contains("(1044)") || message.contains("(1142)") {
            let hint = "Give coffer's account SELECT, RELOAD, PROCESS, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT and what \
                        reads the binlog's place (REPLICATION CLIENT or BINLOG MONITOR) on *.*.";
            return Error::new(ErrorKind::Forbidden, message).hint(hint);
        }
        err
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

fn by_name(cmd: Cmd, tables: &[TableName]) -> Cmd {
    // Whatever a schema is called, it is no option.
    let cmd = cmd.arg("--").arg(tables.first().map_or("", |table| table.schema.as_str()));
    tables.iter().fold(cmd, |cmd, table| cmd.arg(&table.name))
}

fn with_code(cmd: Cmd, options: &[&str]) -> Cmd {
    let code = ["--no-data", "--no-create-info", "--no-create-db", "--skip-lock-tables"];
    code.iter().chain(options).fold(cmd, Cmd::arg)
}
