//! Single values, and the tokens that open the API.

use jiff::Timestamp;
use rusqlite::params;

use super::{Db, Tx, sql};
use crate::clock;
use crate::error::{Error, ErrorKind};

/// An API token. Only its digest is kept, so the state opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the token, lower-case hex.
    pub(crate) sha256: String,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
}

impl Db<'_> {
    /// The value kept under `key`.
    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>, Error> {
        self.first("SELECT value FROM meta WHERE key = ?1", [key], |row| sql::column(row, "value"))
    }

    /// All tokens, the oldest first. There are a handful, so that a caller can compare each in constant time.
    pub(crate) fn tokens(&self) -> Result<Vec<Token>, Error> {
        self.list("SELECT * FROM tokens ORDER BY created_at, sha256", [], |row| {
            Ok(Token {
                sha256: sql::column(row, "sha256")?,
                name: sql::column(row, "name")?,
                created_at: sql::time(row, "created_at")?,
            })
        })
    }
}

impl Tx<'_> {
    /// Keeps `value` under `key`, in place of what was there.
    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<(), Error> {
        let statement =
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.execute(statement, [key, value]).map(drop)
    }

    /// Keeps the digest of a new token.
    pub(crate) fn insert_token(&self, sha256: &str, name: &str) -> Result<(), Error> {
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            // Whatever it is, it may be the token itself: it is not repeated here.
            return Err(Error::new(ErrorKind::Internal, "a token is kept as its SHA-256 in hex, and as nothing else"));
        }
        let statement = "INSERT INTO tokens (sha256, name, created_at) VALUES (?1, ?2, ?3)";
        self.execute(statement, params![sha256, name, sql::nanoseconds(clock::now())]).map(drop)
    }
}
