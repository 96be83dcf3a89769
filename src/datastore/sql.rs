//! Typed questions to a running server, over its Unix socket.
//!
//! The only place with SQL text for managed servers. Every value that goes into a statement is a parameter or one of
//! coffer's own literals; nothing of a request is ever pasted into SQL.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql::prelude::Queryable;

use crate::domain::datastore::Datastore;
use crate::domain::gtid::BinlogState;
use crate::domain::gtid_set::GtidSet;
use crate::error::{Error, ErrorKind};

/// Text that must never be shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Secret {
        Secret(text)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How to log in. Without a password the server knows the operating system's user (unix_socket authentication).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) socket: PathBuf,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
}

/// How long a statement may take unless it is told otherwise.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a managed server.
pub(crate) struct Sql {
    connection: mysql::Conn,
    socket: PathBuf,
    datastore: Option<Datastore>,
}

impl Sql {
    /// Connects; `Unavailable` when nothing answers on the socket, `Unauthorized` when the login is refused.
    pub(crate) fn connect(access: &Access) -> Result<Sql, Error> {
        Sql::connect_with(access, STATEMENT_TIMEOUT)
    }

    /// As `connect`, with another limit for each statement.
    pub(crate) fn connect_with(access: &Access, statement_timeout: Duration) -> Result<Sql, Error> {
        let options = mysql::OptsBuilder::new()
            .socket(Some(access.socket.to_string_lossy().into_owned()))
            .user(Some(access.user.clone()))
            .pass(access.password.as_ref().map(|password| password.reveal().to_owned()))
            .read_timeout(Some(statement_timeout))
            .write_timeout(Some(statement_timeout))
            .prefer_socket(false);
        match mysql::Conn::new(options) {
            Ok(connection) => Ok(Sql { connection, socket: access.socket.clone(), datastore: None }),
            Err(err) => Err(connect_error(&access.socket, &access.user, err)),
        }
    }

    /// Runs a statement that returns nothing of interest.
    pub(crate) fn execute(&mut self, statement: &str) -> Result<(), Error> {
        self.connection.query_drop(statement).map_err(|err| self.statement_error(statement, err))
    }

    /// Runs a statement with parameters.
    pub(crate) fn execute_with(&mut self, statement: &str, parameters: Vec<mysql::Value>) -> Result<(), Error> {
        self.connection.exec_drop(statement, parameters).map_err(|err| self.statement_error(statement, err))
    }

    /// All rows, each column as text; NULL becomes the empty string.
    pub(crate) fn rows(&mut self, statement: &str) -> Result<Vec<Vec<String>>, Error> {
        let rows: Vec<mysql::Row> =
            self.connection.query(statement).map_err(|err| self.statement_error(statement, err))?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(value_text).collect()).collect())
    }

    /// As `rows`, with parameters.
    pub(crate) fn rows_with(
        &mut self,
        statement: &str,
        parameters: Vec<mysql::Value>,
    ) -> Result<Vec<Vec<String>>, Error> {
        let rows: Vec<mysql::Row> =
            self.connection.exec(statement, parameters).map_err(|err| self.statement_error(statement, err))?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(value_text).collect()).collect())
    }

    /// All rows by column name, each value as the bytes the server sent; NULL becomes empty. For text in any character set.
    pub(crate) fn raw_records(&mut self, statement: &str) -> Result<Vec<BTreeMap<String, Vec<u8>>>, Error> {
        let rows: Vec<mysql::Row> =
            self.connection.query(statement).map_err(|err| self.statement_error(statement, err))?;
        let bytes = |value| match value {
            mysql::Value::Bytes(bytes) => bytes,
            other => value_text(other).into_bytes(),
        };
        let record = |row: mysql::Row| {
            let names: Vec<String> = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
            names.into_iter().zip(row.unwrap().into_iter().map(bytes)).collect()
        };
        Ok(rows.into_iter().map(record).collect())
    }

    /// The first row by column name; empty when there is none.
    pub(crate) fn record(&mut self, statement: &str) -> Result<BTreeMap<String, String>, Error> {
        let row: Option<mysql::Row> =
            self.connection.query_first(statement).map_err(|err| self.statement_error(statement, err))?;
        let Some(row) = row else { return Ok(BTreeMap::new()) };
        let names: Vec<String> = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        Ok(names.into_iter().zip(row.unwrap().into_iter().map(value_text)).collect())
    }

    /// The first column of the first row.
    pub(crate) fn value(&mut self, statement: &str) -> Result<String, Error> {
        let rows = self.rows(statement)?;
        rows.into_iter().next().and_then(|row| row.into_iter().next()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the server answered nothing to `{}`", shorten(statement)))
        })
    }

    /// A global variable; the empty string when the server does not know it.
    pub(crate) fn variable(&mut self, name: &'static str) -> Result<String, Error> {
        let rows = self.rows(&format!("SHOW GLOBAL VARIABLES LIKE '{name}'"))?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).unwrap_or_default())
    }

    /// Which server this is, as it says itself.
    pub(crate) fn datastore(&mut self) -> Result<Datastore, Error> {
        if let Some(datastore) = self.datastore {
            return Ok(datastore);
        }
        let datastore = Datastore::of_version(&self.value("SELECT VERSION()")?);
        self.datastore = Some(datastore);
        Ok(datastore)
    }

    /// What the server's own binlog holds: `gtid_binlog_state`, or on MySQL everything that was ever committed.
    pub(crate) fn binlog_state(&mut self) -> Result<BinlogState, Error> {
        match self.datastore()? {
            Datastore::Mariadb => self.value("SELECT @@GLOBAL.gtid_binlog_state")?.parse(),
            Datastore::Mysql => Ok(self.value("SELECT @@GLOBAL.gtid_executed")?.parse::<GtidSet>()?.into()),
        }
    }

    fn statement_error(&self, statement: &str, err: mysql::Error) -> Error {
        let kind = match &err {
            mysql::Error::MySqlError(_) => ErrorKind::Tool,
            _ => ErrorKind::Unavailable,
        };
        Error::new(
            kind,
            format!("the server on `{}` did not carry out `{}`", self.socket.display(), shorten(statement)),
        )
        .with_source(err)
    }
}

fn connect_error(socket: &Path, user: &str, err: mysql::Error) -> Error {
    match &err {
        // 1045 ER_ACCESS_DENIED_ERROR, 1698 ER_ACCESS_DENIED_NO_PASSWORD_ERROR
        mysql::Error::MySqlError(server) if matches!(server.code, 1045 | 1698) => Error::new(
            ErrorKind::Unauthorized,
            format!("the server on `{}` refuses the login of `{user}`", socket.display()),
        )
        .hint("Put a user and password that may log in into the [client] section of the defaults file."),
        _ => {
            Error::new(ErrorKind::Unavailable, format!("no server answers on `{}`", socket.display())).with_source(err)
        }
    }
}

fn value_text(value: mysql::Value) -> String {
    match value {
        mysql::Value::NULL => String::new(),
        mysql::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        mysql::Value::Int(number) => number.to_string(),
        mysql::Value::UInt(number) => number.to_string(),
        mysql::Value::Float(number) => number.to_string(),
        mysql::Value::Double(number) => number.to_string(),
        other @ (mysql::Value::Date(..) | mysql::Value::Time(..)) => other.as_sql(true),
    }
}

/// Statements in errors are shortened, and those that carry a secret are never shown.
fn shorten(statement: &str) -> String {
    if statement.contains("IDENTIFIED") || statement.contains("PASSWORD") {
        return "(a statement with credentials)".to_owned();
    }
    statement.chars().take(200).collect()
}
