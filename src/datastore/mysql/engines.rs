//! Tables of other engines than InnoDB: a clone holds them without their rows.
//!
//! Either there is no clone as long as there are such tables, or they are held still from before it until it has ended and
//! dumped meanwhile: then the dump is of the very place in the binlog where the clone ends. `LOCK TABLES ... READ` does
//! that to those tables alone. Whoever writes to one waits, with all that its transaction has locked elsewhere; reading
//! them, and all that is InnoDB's, goes on. A lock ends with its connection, so nothing stays held when coffer is killed.

use std::time::Duration;

use crate::clock::{Deadline, Stopwatch};
use crate::datastore::dump::stream::{LockPatience, TableName};
use crate::datastore::dump::{named, quoted};
use crate::datastore::sql::{Access, Sql};
use crate::error::{Error, ErrorKind};

/// Schemas of the server itself, as SQL has them.
const OWN_SCHEMAS: &str = "('mysql', 'sys', 'performance_schema', 'information_schema')";
/// For the statement that locks: each table is waited for by itself.
const LOCK_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a pause looks whether it shall end.
const POLL: Duration = Duration::from_millis(100);
/// Of MEMORY nothing is in any file: not even a dump that was loaded would outlive the server it was loaded into, and
/// transactions behind it would not find the rows that they change.
const WITHOUT_FILES: &str = "MEMORY";

/// What that means for a server, behind "so that" and before the tables' names.
pub(crate) const WHO_WAITS: &str =
    "they are dumped beside a clone, and whoever writes to them waits until it has ended";

/// A table of which a clone holds no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherTable {
    pub(crate) table: TableName,
    pub(crate) engine: String,
}

impl OtherTable {
    /// Whether a dump can stand in for what the clone does not hold.
    pub(crate) fn can_be_dumped(&self) -> bool {
        self.engine != WITHOUT_FILES
    }
}

/// Tables that are not InnoDB's, sorted. Two engines keep no rows on this server.
pub(crate) fn other_tables(sql: &mut Sql) -> Result<Vec<OtherTable>, Error> {
    let rows = sql.rows(&format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
         AND ENGINE NOT IN ('InnoDB', 'BLACKHOLE', 'FEDERATED') AND TABLE_SCHEMA NOT IN {OWN_SCHEMAS}"
    ))?;
    let tables = rows.into_iter().filter_map(|row| <[String; 3]>::try_from(row).ok());
    let mut tables: Vec<OtherTable> =
        tables.map(|[schema, name, engine]| OtherTable { table: TableName { schema, name }, engine }).collect();
    tables.sort_by(|one, other| one.table.cmp(&other.table));
    Ok(tables)
}

/// Refuses a clone that would hold one of these tables without its rows, and names it.
pub(crate) fn refuse<'a>(tables: impl IntoIterator<Item = &'a OtherTable>) -> Result<(), Error> {
    let mut tables = tables.into_iter();
    let Some(first) = tables.next() else { return Ok(()) };
    let others = match tables.count() {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    let OtherTable { table, engine } = first;
    let what =
        format!("table `{}` is of engine {engine}{others}: a clone would hold it without its rows", table.full());
    Err(Error::new(ErrorKind::Refused, what).hint(remedy(first)))
}

/// What to do about such a table.
pub(crate) fn remedy(table: &OtherTable) -> String {
    let full = table.table.full();
    let settings = "strategy = \"dump\" in [mysql] of the configuration";
    if table.can_be_dumped() {
        format!("Run ALTER TABLE {full} ENGINE=InnoDB, or set other_engines = \"dump\" or {settings}.")
    } else {
        format!("Run ALTER TABLE {full} ENGINE=InnoDB, or set {settings}.")
    }
}

/// Tables that nobody can write to or change as long as this lives.
pub(crate) struct Held {
    sql: Sql,
    connection: String,
    since: Stopwatch,
    pub(crate) tables: Vec<TableName>,
}

impl Held {
    /// Holds all tables still whose rows a clone leaves out; `None` when there is none. `look` is asked from time to time
    /// whether to go on.
    ///
    /// Fails with `Refused` when there is one that cannot be dumped, with `Unavailable` when the lock is not to be had.
    pub(crate) fn take(
        access: &Access,
        patience: &LockPatience,
        look: &dyn Fn() -> Result<(), Error>,
    ) -> Result<Option<Held>, Error> {
        let mut sql = Sql::connect_with(access, LOCK_TIMEOUT)?;
        // It waits for a clone of hours without a word.
        let (wait, idle) = (patience.wait_seconds, 31_536_000);
        sql.execute(&format!("SET SESSION lock_wait_timeout = {wait}, wait_timeout = {idle}"))?;
        let connection = sql.value("SELECT CONNECTION_ID()")?;
        let tries = patience.tries.max(1);
        for number in 0..tries {
            let found = other_tables(&mut sql)?;
            refuse(found.iter().filter(|it| !it.can_be_dumped()))?;
            let tables: Vec<TableName> = found.into_iter().map(|it| it.table).collect();
            if tables.is_empty() {
                return Ok(None);
            }
            let since = Stopwatch::start();
            match sql.execute(&lock_statement(&tables, number)) {
                Ok(()) => return Ok(Some(Held { sql, connection, since, tables })),
                Err(err) if is_wait(&err) && number + 1 < tries => {
                    // Nobody has waited for the gentle one, so nobody needs a rest from it.
                    pause(if is_gentle(number) { Duration::ZERO } else { patience.pause }, look)?;
                }
                Err(err) if is_wait(&err) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "the lock on the tables to be dumped was not to be had",
                    )
                    .with_source(err)
                    .hint("Statements on them ran or waited too long each time: take the backup at a quieter time."));
                }
                Err(err) => return Err(err),
            }
        }
        Err(Error::new(ErrorKind::Internal, "no lock was asked for"))
    }

    /// For people.
    pub(crate) fn names(&self) -> String {
        named(&self.tables.iter().map(TableName::full).collect::<Vec<_>>())
    }

    /// Lets them go and says how long they were held. Fails when they were not held all the time.
    pub(crate) fn release(mut self) -> Result<Duration, Error> {
        let lost = |err: Option<Error>| {
            let lost =
                Error::new(ErrorKind::Unavailable, "the lock on the dumped tables was lost before the clone ended")
                    .hint("Somebody ended the connection that held it: take another backup.");
            match err {
                Some(err) => lost.with_source(err),
                None => lost,
            }
        };
        // The same connection has the same locks.
        match self.sql.value("SELECT CONNECTION_ID()") {
            Ok(connection) if connection == self.connection => {}
            Ok(_) => return Err(lost(None)),
            Err(err) => return Err(lost(Some(err))),
        }
        self.sql.execute("UNLOCK TABLES")?;
        Ok(self.since.elapsed())
    }
}

/// The gentle way makes nobody wait before the lock is given, so it is never given while writers follow each other without
/// a gap; the other is, and waits for those who read as well. Each is tried in turn.
fn lock_statement(tables: &[TableName], number: u32) -> String {
    let all = |mode: &str| {
        let each = tables.iter().map(|table| format!("{}.{}{mode}", quoted(&table.schema), quoted(&table.name)));
        each.collect::<Vec<_>>().join(", ")
    };
    if is_gentle(number) {
        format!("LOCK TABLES {}", all(" READ"))
    } else {
        format!("FLUSH TABLES {} WITH READ LOCK", all(""))
    }
}

fn is_gentle(number: u32) -> bool {
    number.is_multiple_of(2)
}

/// Somebody else has the lock, or the table is gone, which the next look shows.
fn is_wait(err: &Error) -> bool {
    let text = err.message();
    ["ERROR 1205", "ERROR 1146"].iter().any(|code| text.contains(code))
}

fn pause(limit: Duration, look: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
    let deadline = Deadline::after(limit);
    loop {
        look()?;
        if deadline.has_passed() {
            return Ok(());
        }
        std::thread::sleep(POLL.min(deadline.remaining()));
    }
}

#[cfg(test)]
mod tests;
