//! A place in the history of an instance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::id::TimelineId;
use crate::error::{Error, ErrorKind};

/// A place between two transactions of a timeline.
///
/// Binlog file names repeat (`RESET MASTER`, a new data directory), so a file is named by its ordinal: it is the n-th
/// binlog file of its timeline, counted from 1. Within one timeline coordinates are ordered by `(ordinal, position)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coordinate {
    pub(crate) timeline: TimelineId,
    /// The n-th binlog file of the timeline, from 1.
    pub(crate) ordinal: u32,
    /// The file's name on the server, for people and for `mariadb-binlog`.
    pub(crate) file: String,
    /// Byte offset in that file.
    pub(crate) position: u64,
}

impl Coordinate {
    /// The key by which coordinates of one timeline are ordered.
    pub(crate) fn order(&self) -> (u32, u64) {
        (self.ordinal, self.position)
    }

    pub(crate) fn binlog_position(&self) -> BinlogPosition {
        BinlogPosition { file: self.file.clone(), position: self.position }
    }
}

impl fmt::Display for Coordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// A place as the server and its tools write it: `binlog.000012:4711`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct BinlogPosition {
    pub(crate) file: String,
    pub(crate) position: u64,
}

impl BinlogPosition {
    /// The key by which positions are ordered as long as the server counts its files on.
    pub(crate) fn order(&self) -> (u64, u64) {
        let number = self.file.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        (number.unwrap_or(0), self.position)
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

impl FromStr for BinlogPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<BinlogPosition, Error> {
        let parsed = text.rsplit_once(':').and_then(|(file, position)| {
            let (stem, number) = file.rsplit_once('.')?;
            let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            if stem.is_empty() || file.contains('/') || !digits(number) || !digits(position) {
                return None;
            }
            Some(BinlogPosition { file: file.to_owned(), position: position.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a binlog position"))
                .hint("Write a position as file:offset, for example binlog.000012:4711.")
        })
    }
}

impl From<BinlogPosition> for String {
    fn from(position: BinlogPosition) -> String {
        position.to_string()
    }
}

impl TryFrom<String> for BinlogPosition {
    type Error = Error;

    fn try_from(text: String) -> Result<BinlogPosition, Error> {
        text.parse()
    }
}
