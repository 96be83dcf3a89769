//! Coffer's state: one SQLite file, the only place with SQL text.
//!
//! `Store::read` hands out a snapshot, `Store::write` a transaction that is committed if the closure returns `Ok` and
//! leaves nothing behind if it does not. There is one writer at a time and no wait inside a transaction: closures look
//! and write, whatever takes long happens outside. A write inside a write of the same thread would wait for itself.
//!
//! The catalog (instances, timelines, chunks, completed backups, settled recoveries) can be rebuilt from the repository;
//! tokens and tasks can not, and need not be (see `catalog`).

mod backups;
mod chunks;
mod instances;
mod meta;
mod migrations;
mod recoveries;
mod shipping;
mod sql;
mod tasks;
mod timelines;
mod verifications;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub(crate) use chunks::{ChunkKey, ChunkTotals};
pub(crate) use verifications::News;

use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind, io_error};

/// The file's name in the state directory.
const FILE_NAME: &str = "coffer.sqlite";
/// Connections for reading; more readers than that wait for each other.
const READERS_MAX: usize = 4;
/// Older ones can corrupt a WAL that two connections write and checkpoint at once.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Another process should never hold the file; this bounds the wait if one does.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The open state. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Readers>,
    reader_is_back: Condvar,
}

#[derive(Default)]
struct Readers {
    idle: Vec<Connection>,
    lent: usize,
}

/// A snapshot of the state, for reading.
pub(crate) struct Db<'a> {
    connection: &'a Connection,
}

/// A transaction: everything `Db` can, and writing.
pub(crate) struct Tx<'a> {
    db: Db<'a>,
}

impl<'a> Deref for Tx<'a> {
    type Target = Db<'a>;

    fn deref(&self) -> &Db<'a> {
        &self.db
    }
}

impl Store {
    /// Opens the state in `dir`, makes it if there is none, and brings it up to this version's schema.
    pub(crate) fn open(dir: &Path) -> Result<Store, Error> {
        if rusqlite::version_number() < SQLITE_VERSION_MIN {
            let message = format!("SQLite {} has a bug that can corrupt coffer's state", rusqlite::version());
            return Err(Error::new(ErrorKind::Refused, message).hint("Build coffer with SQLite 3.51.3 or newer."));
        }
        let path = dir.join(FILE_NAME);
        // Made here and not by SQLite, so that nobody else can ever read it; the WAL gets the same mode.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|err| io_error("unable to open the state", &path, err))?;
        let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|err| sql::name_file(err, &path))?;
        prepare_writer(&mut writer).map_err(|err| sql::name_file(err, &path))?;
        let shared = Shared {
            path,
            writer: Mutex::new(writer),
            readers: Mutex::new(Readers::default()),
            reader_is_back: Condvar::new(),
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// The id of the repository that the state in `dir` belongs to; `None` also when there is no state.
    pub(crate) fn peek_repository_id(dir: &Path) -> Result<Option<String>, Error> {
        peek(dir, |db| db.repository_id()).map(Option::flatten)
    }

    /// What the instances are that the state in `dir` looks after; nothing also when there is no state.
    pub(crate) fn peek_datastores(dir: &Path) -> Result<BTreeSet<Datastore>, Error> {
        let instances = peek(dir, |db| db.instances())?.unwrap_or_default();
        Ok(instances.into_iter().map(|instance| instance.datastore).collect())
    }

    /// Looks at one consistent snapshot.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Db<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let reader = self.borrow_reader()?;
        let Some(connection) = &reader.connection else { return Err(lost_connection()) };
        let snapshot = connection.unchecked_transaction().map_err(sql::error)?;
        look(&Db { connection: &snapshot })
    }

    /// Looks and writes in one transaction: all of it happens, durably, or none of it.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&Tx<'_>) -> Result<T, Error>) -> Result<T, Error> {
        // A panic in a closure has rolled its transaction back; the connection itself is as good as before.
        let mut writer = lock(&self.shared.writer);
        let transaction = Transaction::new(&mut writer, TransactionBehavior::Immediate).map_err(sql::error)?;
        let value = change(&Tx { db: Db { connection: &transaction } })?;
        transaction.commit().map_err(sql::error)?;
        Ok(value)
    }

    /// Every row of every table, each column as text, for comparing two states.
    #[cfg(test)]
    pub(crate) fn dump(&self) -> std::collections::BTreeMap<String, Vec<std::collections::BTreeMap<String, String>>> {
        let query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
        let dumped = self.read(|db| {
            let names = db.list(query, [], |row| sql::column::<String>(row, "name"))?;
            let table = |name: String| {
                let rows = db.list(&format!("SELECT * FROM {name}"), [], |row| {
                    let columns: Vec<String> = row.as_ref().column_names().map(str::to_owned).collect();
                    let value = |column: &String| sql::column::<rusqlite::types::Value>(row, column);
                    columns.iter().map(|column| Ok((column.clone(), format!("{:?}", value(column)?)))).collect()
                })?;
                Ok((name, rows))
            };
            names.into_iter().map(table).collect()
        });
        dumped.unwrap()
    }

    fn borrow_reader(&self) -> Result<Reader<'_>, Error> {
        let mut readers = lock(&self.shared.readers);
        loop {
            if let Some(connection) = readers.idle.pop() {
                readers.lent += 1;
                return Ok(Reader { shared: &self.shared, connection: Some(connection) });
            }
            if readers.lent < READERS_MAX {
                readers.lent += 1;
                break;
            }
            readers = self.shared.reader_is_back.wait(readers).unwrap_or_else(PoisonError::into_inner);
        }
        drop(readers);
        let mut reader = Reader { shared: &self.shared, connection: None };
        let opened = connect(&self.shared.path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        reader.connection = Some(opened.map_err(|err| sql::name_file(err, &self.shared.path))?);
        Ok(reader)
    }
}

/// A lent connection that goes back to the pool, whatever happens to its borrower.
struct Reader<'a> {
    shared: &'a Shared,
    connection: Option<Connection>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut readers = lock(&self.shared.readers);
        readers.lent -= 1;
        readers.idle.extend(self.connection.take());
        self.shared.reader_is_back.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A look at the state in `dir` that changes nothing; `None` when there is none. For a look from outside while an
/// appliance may run, perhaps of another version.
fn peek<T>(dir: &Path, look: impl FnOnce(&Db<'_>) -> Result<T, Error>) -> Result<Option<T>, Error> {
    let path = dir.join(FILE_NAME);
    if !path.exists() {
        return Ok(None);
    }
    let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|err| sql::name_file(err, &path))?;
    look(&Db { connection: &connection }).map(Some).map_err(|err| sql::name_file(err, &path))
}

fn lost_connection() -> Error {
    Error::new(ErrorKind::Internal, "a reader of the state without a connection")
}

fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, Error> {
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(sql::error)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql::error)?;
    connection.set_prepared_statement_cache_capacity(64);
    // mmap off: a failing disk is then an error and not a SIGBUS. The cache is small because the kernel has one too.
    let pragmas =
        "PRAGMA mmap_size = 0; PRAGMA cache_size = -1024; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;";
    connection.execute_batch(pragmas).map_err(sql::error)?;
    Ok(connection)
}

fn prepare_writer(writer: &mut Connection) -> Result<(), Error> {
    let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sql::error)?;
    if mode != "wal" {
        return Err(Error::new(ErrorKind::Refused, format!("the state can't be kept in WAL mode, only in `{mode}`"))
            .hint("Put the state directory on a local file system."));
    }
    writer.execute_batch("PRAGMA synchronous = FULL").map_err(sql::error)?;
    migrations::migrate(writer)
}

#[cfg(test)]
mod tests;
