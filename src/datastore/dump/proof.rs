//! The proof that what was dumped is there: every table, with as many rows as were counted in the dump's text, and as much
//! stored code. An exit code of the client is not taken for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::datastore::dump::manifest::{Code, Entry, Kind, named};
use crate::datastore::dump::split::quoted;
use crate::datastore::dump::survey;
use crate::datastore::sql::{Access, Sql};
use crate::error::{Error, ErrorKind};

/// To count the rows of a large table is to read it.
const COUNT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Fails unless everything that is listed exists and holds as many rows as it did.
pub(super) fn check_entries(
    access: &Access,
    entries: &[Entry],
    connections: usize,
    cancelled: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let entries: Vec<&Entry> = entries.iter().filter(|entry| entry.kind != Kind::Account).collect();
    let mut sql = Sql::connect_with(access, COUNT_TIMEOUT)?;
    let rows = sql.rows("SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES")?;
    let there: BTreeSet<(String, String)> =
        rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok()).map(|[a, b]| (a, b)).collect();
    let is_missing = |entry: &&&Entry| !there.contains(&(entry.schema.clone(), entry.name.clone()));
    let missing: Vec<String> = entries.iter().filter(is_missing).map(|entry| full_name(entry)).collect();
    if !missing.is_empty() {
        return Err(unlike(format!("after loading, these are not there: {}", named(&missing))));
    }
    let next = AtomicUsize::new(0);
    let count = || -> Result<(), Error> {
        let mut sql = Sql::connect_with(access, COUNT_TIMEOUT)?;
        while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the count was stopped"));
            }
            check_rows(&mut sql, entry)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for slot in 1..connections {
            let builder = std::thread::Builder::new().name(format!("count {slot}"));
            let worker = builder.spawn_scoped(scope, count);
            workers.push(
                worker
                    .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err))?,
            );
        }
        let mut outcome = count();
        for worker in workers {
            let counted = worker.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a count panicked")));
            outcome = outcome.and(counted);
        }
        outcome
    })
}

/// The same for the server's tables of accounts.
pub(super) fn check_accounts(access: &Access, entries: &[Entry]) -> Result<(), Error> {
    let mut sql = Sql::connect_with(access, COUNT_TIMEOUT)?;
    entries.iter().filter(|entry| entry.kind == Kind::Account).try_for_each(|entry| check_rows(&mut sql, entry))
}

/// How much stored code there is.
pub(super) fn code_now(access: &Access) -> Result<Code, Error> {
    survey::code(&mut Sql::connect_with(access, COUNT_TIMEOUT)?)
}

/// Fails unless there is as much stored code.
pub(super) fn check_code(access: &Access, expected: Code) -> Result<(), Error> {
    let found = code_now(access)?;
    if found == expected {
        return Ok(());
    }
    let say = |code: Code| format!("{} routines, {} triggers, {} events", code.routines, code.triggers, code.events);
    Err(unlike(format!("after loading there are {} and not {}", say(found), say(expected))))
}

fn check_rows(sql: &mut Sql, entry: &Entry) -> Result<(), Error> {
    if entry.data.is_none() {
        return Ok(());
    }
    let of_all_times = if entry.has_history { " FOR SYSTEM_TIME ALL" } else { "" };
    let table = format!("{}.{}", quoted(&entry.schema), quoted(&entry.name));
    let found = sql.value(&format!("SELECT COUNT(*) FROM {table}{of_all_times}"))?;
    if found == entry.rows.to_string() {
        return Ok(());
    }
    Err(unlike(format!("after loading, {table} holds {found} rows and not {} as in the dump", entry.rows)))
}

fn full_name(entry: &Entry) -> String {
    format!("{}.{}", entry.schema, entry.name)
}

fn unlike(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, what).hint("The serving database is untouched. Choose another backup.")
}
