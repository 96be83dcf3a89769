//! Between rows and types: errors with a kind, columns read by name, and numbers that SQLite has no type for.

use std::path::Path;
use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Db, Tx};
use crate::error::{Error, ErrorKind};

impl Db<'_> {
    /// Every row of a query.
    pub(super) fn list<T>(
        &self,
        query: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut statement = self.connection.prepare_cached(query).map_err(error)?;
        let mut rows = statement.query(params).map_err(error)?;
        let mut values = Vec::new();
        while let Some(row) = rows.next().map_err(error)? {
            values.push(read(row)?);
        }
        Ok(values)
    }

    /// The first row of a query.
    pub(super) fn first<T>(
        &self,
        query: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut statement = self.connection.prepare_cached(query).map_err(error)?;
        let mut rows = statement.query(params).map_err(error)?;
        rows.next().map_err(error)?.map(read).transpose()
    }

    /// How SQLite would go about a query.
    #[cfg(test)]
    pub(super) fn plan_of(&self, query: &str) -> Result<String, Error> {
        let mut statement = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).map_err(error)?;
        let params = rusqlite::params_from_iter(std::iter::repeat_n(1, statement.parameter_count()));
        let rows = statement.query_map(params, |row| row.get::<_, String>("detail")).map_err(error)?;
        Ok(rows.collect::<Result<Vec<_>, _>>().map_err(error)?.join("; "))
    }
}

impl Tx<'_> {
    /// Runs a statement that changes rows; how many it changed.
    pub(super) fn execute(&self, statement: &str, params: impl Params) -> Result<usize, Error> {
        self.connection.prepare_cached(statement).and_then(|mut prepared| prepared.execute(params)).map_err(error)
    }
}

/// Ok if a statement changed a row, else `noun` `id` was not there.
pub(super) fn must_exist(changed: usize, noun: &str, id: impl std::fmt::Display) -> Result<(), Error> {
    if changed == 0 { Err(not_found(noun, id)) } else { Ok(()) }
}

pub(super) fn not_found(noun: &str, id: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("{noun} {id} cannot be found"))
}

/// What went wrong in SQLite, with the kind that fits.
pub(super) fn error(err: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let (kind, hint) = match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ErrorKind::NoSpace, Some("Free space on the state directory's file system.")),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            ErrorKind::Corrupt,
            Some("Move the file away and start again: the catalog can be rebuilt from the repository."),
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, Some("Another program holds the file open; end it."))
        }
        Some(
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly,
        ) => (ErrorKind::Io, Some("Look at the disk and the permissions of the state directory.")),
        Some(ErrorCode::ConstraintViolation) => (ErrorKind::Conflict, None),
        _ => (ErrorKind::Internal, None),
    };
    let error = Error::new(kind, "unable to use the state").with_source(err);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Says which file it was.
pub(super) fn name_file(err: Error, path: &Path) -> Error {
    err.context(format!("`{}`", path.display()))
}

/// A column as SQLite has it.
pub(super) fn column<T: FromSql>(row: &Row<'_>, name: &str) -> Result<T, Error> {
    row.get(name).map_err(error)
}

/// A column that holds an id or another word with a parser.
pub(super) fn parsed<T: FromStr>(row: &Row<'_>, name: &str) -> Result<T, Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = column(row, name)?;
    text.parse().map_err(|err: T::Err| unreadable(name, &text, err))
}

/// A column that holds a word of an enum, as `word` wrote it.
pub(super) fn named<T: DeserializeOwned>(row: &Row<'_>, name: &str) -> Result<T, Error> {
    let text: String = column(row, name)?;
    serde_json::from_value(serde_json::Value::String(text.clone())).map_err(|err| unreadable(name, &text, err))
}

/// A column that holds JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, name: &str) -> Result<T, Error> {
    let text: String = column(row, name)?;
    serde_json::from_str(&text).map_err(|err| unreadable(name, &text, err))
}

/// A column that holds JSON or nothing.
pub(super) fn json_or_none<T: DeserializeOwned>(row: &Row<'_>, name: &str) -> Result<Option<T>, Error> {
    let Some(text) = column::<Option<String>>(row, name)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|err| unreadable(name, &text, err))
}

/// A column that holds a count or a size.
pub(super) fn unsigned(row: &Row<'_>, name: &str) -> Result<u64, Error> {
    Ok(u64::try_from(column::<i64>(row, name)?).unwrap_or(0))
}

/// A column that holds a time.
pub(super) fn time(row: &Row<'_>, name: &str) -> Result<Timestamp, Error> {
    let nanoseconds: i64 = column(row, name)?;
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(|err| unreadable(name, &nanoseconds.to_string(), err))
}

/// A time as a column holds it; past the year 2262 it stays there.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// A number as a column holds it: SQLite's integers end at 2^63, and so do our sizes.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many rows at most, as SQL wants it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The word of an enum without fields, as serde spells it.
pub(super) fn word(value: &impl Serialize) -> Result<String, Error> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(Error::new(ErrorKind::Internal, format!("`{other}` is no word"))),
        Err(err) => Err(unwritable(err)),
    }
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(unwritable)
}

pub(super) fn to_json_or_none(value: Option<&impl Serialize>) -> Result<Option<String>, Error> {
    value.map(to_json).transpose()
}

fn unwritable(err: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "unable to write a value of the state").with_source(err)
}

fn unreadable(name: &str, text: &str, err: impl std::error::Error + Send + Sync + 'static) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(ErrorKind::Corrupt, format!("the state holds an unreadable `{name}`: `{shown}`")).with_source(err)
}
