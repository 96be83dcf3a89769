//! Loading an unpacked dump into a new server.
//!
//! It goes through the server's own client, not through a parser of ours: the client knows `DELIMITER`, character sets
//! and the settings under which a stored routine was written, and the tool writes for it. It stops at the first error.
//! Rows are loaded several tables at a time, the largest first; whatever may depend on something comes after it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::datastore::dump::login::OptionFile;
use crate::datastore::dump::manifest::{END, End, Entry, HEAD, Head, Kind, LIST, Library, parse};
use crate::datastore::dump::proof;
use crate::datastore::dump::split::{SCHEMAS, quoted};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::dump::{EVENTS, ROUTINES, TRIGGERS};
use crate::datastore::sql::{Access, Sql};
use crate::error::{Error, ErrorKind, io_error};
use crate::process::Cmd;

/// One file may hold the rows of a table of terabytes; it is the watch for a client that hangs.
const FILE_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Files that are smaller go through one client together: to start one takes longer than to load them.
const SMALL_BYTES: u64 = 256 * 1024;
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;
const BATCH_FILES_MAX: usize = 500;
const CONNECTIONS_MAX: usize = 16;
const HEAD_BYTES_MAX: u64 = 1024 * 1024;
const LINE_BYTES_MAX: usize = 64 * 1024;
const POLL: Duration = Duration::from_millis(10);

/// How to load.
#[derive(Debug, Clone)]
pub(crate) struct LoadSettings {
    /// Tables at a time.
    pub(crate) connections: usize,
    /// For coffer's own short-lived files, up to 4 MiB for each connection; nobody else may enter it.
    pub(crate) dir: PathBuf,
    /// Gets what the client has to say.
    pub(crate) log: PathBuf,
}

impl LoadSettings {
    /// As many tables at a time as there are cores.
    pub(crate) fn new(dir: PathBuf, log: PathBuf) -> LoadSettings {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        LoadSettings { connections: cores.clamp(2, CONNECTIONS_MAX), dir, log }
    }
}

/// What was loaded, and counted afterwards on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) head: Head,
    pub(crate) entries: u64,
    pub(crate) rows: u64,
}

/// Bytes that `load` will go through, for its progress.
pub(crate) fn load_bytes(dir: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for path in Listed::read(dir)?.files() {
        bytes += size(&dir.join(path))?;
    }
    Ok(bytes)
}

/// Loads the dump in `dir` into the new server at `access`, whose account may do everything, and proves that what was
/// dumped is there; one of some tables only into the server whose tables they are. `progress` counts bytes of files. The server must not run events and should write no binlog.
///
/// Accounts come last: who may log in is known to the running server as before, and from its next start as in the dump.
/// So the server should be stopped next, and no privileges be flushed before.
pub(crate) fn load(
    tools: &DumpTools,
    access: &Access,
    dir: &Path,
    settings: &LoadSettings,
    progress: &AtomicU64,
    cancelled: &Arc<AtomicBool>,
) -> Result<Loaded, Error> {
    let listed = Listed::read(dir)?;
    if listed.head.flavour != tools.flavour {
        let what =
            format!("a dump of {} goes into no server of {}", listed.head.flavour.title(), tools.flavour.title());
        return Err(Error::new(ErrorKind::InvalidInput, what).hint("Restore it to a server of its own kind."));
    }
    let loader = Loader {
        tools,
        dir,
        login: OptionFile::write(&settings.dir.join("load.cnf"), access)?,
        settings,
        progress,
        done: AtomicU64::new(0),
        batches: AtomicUsize::new(0),
        cancelled,
    };
    let connections = settings.connections.clamp(1, CONNECTIONS_MAX);
    install_engines(access, &listed.head.engines)?;
    // Tables that are made anew lose their triggers on the way, and have them again at the end.
    let code = listed.end.code.map_or_else(|| proof::code_now(access), Ok)?;
    loader.load(&[SCHEMAS.to_owned()], 1)?;
    loader.load(&listed.structures(Kind::Sequence), 1)?;
    loader.load(&listed.structures(Kind::Table), 1)?;
    loader.load(&listed.rows(Kind::Table), connections)?;
    loader.load(&[ROUTINES.to_owned()], 1)?;
    loader.load_views(listed.structures(Kind::View))?;
    loader.load(&[TRIGGERS.to_owned()], 1)?;
    loader.load(&[EVENTS.to_owned()], 1)?;
    proof::check_code(access, code)?;
    proof::check_entries(access, &listed.entries, connections, cancelled)?;
    loader.load(&listed.rows(Kind::Account), 1)?;
    proof::check_accounts(access, &listed.entries)?;
    Ok(Loaded { head: listed.head, entries: listed.end.entries, rows: listed.end.rows })
}

/// What a dump says it holds.
struct Listed {
    head: Head,
    end: End,
    entries: Vec<Entry>,
}

impl Listed {
    fn read(dir: &Path) -> Result<Listed, Error> {
        let head: Head = parse(HEAD, &small_file(&dir.join(HEAD))?)?;
        let end: End = parse(END, &small_file(&dir.join(END))?)?;
        let path = dir.join(LIST);
        let file = File::open(&path).map_err(|err| io_error("unable to read", &path, err))?;
        let (mut reader, mut entries, mut line) = (BufReader::new(file), Vec::new(), Vec::new());
        loop {
            line.clear();
            let limit = LINE_BYTES_MAX as u64;
            let length = reader
                .by_ref()
                .take(limit)
                .read_until(b'\n', &mut line)
                .map_err(|err| io_error("unable to read", &path, err))?;
            if length == 0 {
                break;
            }
            let entry: Entry = serde_json::from_slice(&line).map_err(|err| damaged("its list").with_source(err))?;
            entries.push(entry);
        }
        let rows = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.rows));
        if (entries.len() as u64, rows) != (end.entries, Some(end.rows)) {
            return Err(damaged("its list and its end do not agree"));
        }
        let listed = Listed { head, end, entries };
        let mut seen = BTreeSet::new();
        for path in listed.files() {
            check_path(&path)?;
            if !dir.join(&path).is_file() || !seen.insert(path.clone()) {
                return Err(damaged(&format!("`{path}` is not there, or there twice")));
            }
        }
        Ok(listed)
    }

    fn structures(&self, kind: Kind) -> Vec<String> {
        self.entries.iter().filter(|entry| entry.kind == kind).filter_map(|entry| entry.structure.clone()).collect()
    }

    fn rows(&self, kind: Kind) -> Vec<String> {
        self.entries.iter().filter(|entry| entry.kind == kind).filter_map(|entry| entry.data.clone()).collect()
    }

    fn files(&self) -> Vec<String> {
        let of_entries = self.entries.iter().flat_map(|entry| [&entry.structure, &entry.data]).flatten().cloned();
        let others = [SCHEMAS, ROUTINES, TRIGGERS, EVENTS].map(str::to_owned);
        others.into_iter().chain(of_entries).collect()
    }
}

/// Files that go through one client.
struct Batch {
    paths: Vec<String>,
    bytes: u64,
}

struct Loader<'a> {
    tools: &'a DumpTools,
    dir: &'a Path,
    login: OptionFile,
    settings: &'a LoadSettings,
    progress: &'a AtomicU64,
    /// Bytes of batches that have ended.
    done: AtomicU64,
    batches: AtomicUsize,
    cancelled: &'a Arc<AtomicBool>,
}

/// What is being read now, one for each connection: a clone of the client's stdin tells how far it is.
type Reading = Mutex<Vec<Option<File>>>;

impl Loader<'_> {
    /// Loads these files, in order if over one connection.
    fn load(&self, paths: &[String], connections: usize) -> Result<(), Error> {
        let mut batches = self.batches_of(paths)?;
        if connections > 1 {
            batches.sort_by_key(|batch| std::cmp::Reverse(batch.bytes));
        }
        let connections = connections.min(batches.len());
        let (next, stop) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let reading: Reading = Mutex::new((0..connections).map(|_| None).collect());
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = |slot: usize| {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(err) = self.load_batch(batch, slot, &reading, &stop) {
                    // The others are stopped by this one's failure: the first says why.
                    lock(&failed).get_or_insert(err);
                    stop.store(true, Ordering::Relaxed);
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for slot in 0..connections {
                let work = &work;
                let builder = std::thread::Builder::new().name(format!("load {slot}"));
                match builder.spawn_scoped(scope, move || work(slot)) {
                    Ok(worker) => workers.push(worker),
                    Err(err) => {
                        let err = Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err);
                        lock(&failed).get_or_insert(err);
                        stop.store(true, Ordering::Relaxed);
                        break;
                    }
                }
            }
            while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                if self.cancelled.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                self.report(&reading);
                std::thread::sleep(POLL);
            }
        });
        self.report(&reading);
        if let Some(err) = lock(&failed).take() {
            return Err(err);
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "the loading was stopped"));
        }
        Ok(())
    }

    /// Loads views, those first that others are made of. In what order that is shows: one that comes too early fails.
    /// The tool's own way, tables in their place first, fails at views WITH CHECK OPTION on other views.
    fn load_views(&self, mut left: Vec<String>) -> Result<(), Error> {
        loop {
            let (before, mut first) = (left.len(), None);
            let mut failed = Vec::new();
            for path in left {
                match self.load(std::slice::from_ref(&path), 1) {
                    Ok(()) => {}
                    Err(err) if err.kind() == ErrorKind::Tool => {
                        first.get_or_insert(err);
                        failed.push(path);
                    }
                    Err(err) => return Err(err),
                }
            }
            match first {
                None => return Ok(()),
                Some(err) if failed.len() == before => return Err(err),
                Some(_) => left = failed,
            }
        }
    }

    fn report(&self, reading: &Reading) {
        let places = lock(reading);
        let now: u64 = places.iter().flatten().map(|mut file| file.stream_position().unwrap_or(0)).sum();
        self.progress.store(self.done.load(Ordering::Relaxed) + now, Ordering::Relaxed);
    }

    /// Small files that follow each other are put together.
    fn batches_of(&self, paths: &[String]) -> Result<Vec<Batch>, Error> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut is_open = false;
        for path in paths {
            let bytes = size(&self.dir.join(path))?;
            let is_small = bytes < SMALL_BYTES;
            match batches.last_mut() {
                Some(last)
                    if is_open
                        && is_small
                        && last.bytes + bytes <= BATCH_BYTES_MAX
                        && last.paths.len() < BATCH_FILES_MAX =>
                {
                    last.paths.push(path.clone());
                    last.bytes += bytes;
                }
                _ => batches.push(Batch { paths: vec![path.clone()], bytes }),
            }
            is_open = is_small;
        }
        Ok(batches)
    }

    fn load_batch(&self, batch: &Batch, slot: usize, reading: &Reading, stop: &Arc<AtomicBool>) -> Result<(), Error> {
        let together = self.settings.dir.join(format!("batch-{}.sql", self.batches.fetch_add(1, Ordering::Relaxed)));
        let (file, lines) = match batch.paths.as_slice() {
            [path] => (open(&self.dir.join(path))?, Vec::new()),
            paths => self.put_together(&together, paths)?,
        };
        let watched = file.try_clone().map_err(|err| io_error("unable to read", self.dir, err))?;
        let put = |place: Option<File>| {
            if let Some(it) = lock(reading).get_mut(slot) {
                *it = place;
            }
        };
        put(Some(watched));
        let outcome = self.client().stdin(file).cancel(Arc::clone(stop)).run();
        if outcome.is_ok() {
            self.done.fetch_add(batch.bytes, Ordering::Relaxed);
        }
        put(None);
        if !lines.is_empty() {
            std::fs::remove_file(&together).map_err(|err| io_error("unable to remove", &together, err))?;
        }
        outcome.map(drop).map_err(|err| {
            let path = batch.paths.first().filter(|_| lines.is_empty()).or_else(|| path_at(&lines, &err.message()));
            err.context(format!("unable to load `{}`", path.map_or("the dump", String::as_str)))
        })
    }

    /// Writes the files into one, and says behind which line each ends.
    fn put_together(&self, into: &Path, paths: &[String]) -> Result<(File, Vec<(u64, String)>), Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let unable = |err: io::Error| io_error("unable to write", into, err);
        let mut options = File::options();
        let mut file =
            options.write(true).read(true).create(true).truncate(true).mode(0o600).open(into).map_err(unable)?;
        let (mut lines, mut line) = (Vec::new(), 0);
        for path in paths {
            let mut bytes = Vec::new();
            let limit = BATCH_BYTES_MAX;
            let path_of = self.dir.join(path);
            open(&path_of)?
                .take(limit)
                .read_to_end(&mut bytes)
                .map_err(|err| io_error("unable to read", &path_of, err))?;
            line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            lines.push((line, path.clone()));
            file.write_all(&bytes).map_err(unable)?;
        }
        file.rewind().map_err(unable)?;
        Ok((file, lines))
    }

    fn client(&self) -> Cmd {
        let client = &self.tools.client;
        let mut cmd = self.login.given_to(Cmd::new(&client.path), client);
        // Bytes as they are, no commands but DELIMITER; comments within routines stay; what a session was set to is
        // never lost unseen.
        for option in ["--batch", "--binary-mode", "--comments", "--skip-reconnect", "--skip-auto-rehash"] {
            cmd = cmd.arg(option);
        }
        cmd = cmd.arg("--default-character-set=utf8mb4").arg("--max-allowed-packet=1G");
        if client.knows("print-query-on-error") {
            // A statement holds rows, which belong into no log.
            cmd = cmd.arg("--skip-print-query-on-error");
        }
        cmd.stderr_log(&self.settings.log).deadline(FILE_TIMEOUT)
    }
}

/// `ERROR 1064 (42000) at line 27: ...`: the file which that line is of.
fn path_at<'a>(lines: &'a [(u64, String)], message: &str) -> Option<&'a String> {
    // The server's own message may name a line of the statement.
    let (_, rest) = message.split_once(") at line ")?;
    let line: u64 = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    lines.iter().find(|(last, _)| line <= *last).map(|(_, path)| path)
}

/// Tables of engines from libraries can only be made once those are there.
fn install_engines(access: &Access, engines: &[Library]) -> Result<(), Error> {
    if engines.is_empty() {
        return Ok(());
    }
    let mut sql = Sql::connect(access)?;
    let there = sql.rows("SELECT PLUGIN_NAME FROM information_schema.PLUGINS")?;
    for Library { plugin, library } in engines {
        if there.iter().flatten().any(|name| name.eq_ignore_ascii_case(plugin)) {
            continue;
        }
        if !library.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(damaged(&format!("a library `{library}`")));
        }
        sql.execute(&format!("INSTALL PLUGIN {} SONAME '{library}'", quoted(plugin))).map_err(|err| {
            err.hint(format!("Install the package that brings the storage engine {plugin}, as on the server before."))
        })?;
    }
    Ok(())
}

/// Files of a dump lie at its top or in one directory below.
fn check_path(path: &str) -> Result<(), Error> {
    let good = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('\0');
    if path.split('/').count() <= 2 && path.split('/').all(good) {
        return Ok(());
    }
    Err(damaged(&format!("a file `{}`", path.escape_debug())))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|err| io_error("unable to read", path, err))
}

fn size(path: &Path) -> Result<u64, Error> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(|err| io_error("unable to look at", path, err))
}

fn small_file(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?.take(HEAD_BYTES_MAX).read_to_end(&mut bytes).map_err(|err| io_error("unable to read", path, err))?;
    Ok(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the dump is damaged: {what}")).hint("Choose another backup.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_error_leads_to_its_file() {
        let lines = [(10, "a".to_owned()), (11, "b".to_owned()), (30, "c".to_owned())];
        let at = |line: u32| {
            path_at(&lines, &format!("exited with 1: ERROR 1064 (42000) at line {line}: near ';' at line 1"))
        };
        assert_eq!([1, 10, 11, 12, 30].map(|line| at(line).unwrap().as_str()), ["a", "a", "b", "c", "c"]);
        assert_eq!((at(31), path_at(&lines, "no line")), (None, None));
    }

    #[test]
    fn a_list_leads_to_no_file_outside_the_dump() {
        for path in ["../x", "a/../b", "/etc/x", "a/b/c", "", "a/", ".x", "a/\0"] {
            assert_eq!(check_path(path).unwrap_err().kind(), ErrorKind::Corrupt, "{path:?}");
        }
        check_path("data/000001-a.b.sql").unwrap();
    }
}
