//! What a dump says of itself: its first file, its last, and a list of what it holds.
//!
//! The list is lines of JSON, one for each table, sequence and view, so that neither side ever has all of it in memory
//! as text. Both other files are small enough to be captured while the stream passes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::coordinate::BinlogPosition;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};

/// The first file: what was known when the dump began.
pub(crate) const HEAD: &str = "coffer-dump.json";
/// The last file. A dump without it is not whole.
pub(crate) const END: &str = "coffer-dump-end.json";
/// One line for each table, sequence and view.
pub(crate) const LIST: &str = "coffer-dump-list.jsonl";
/// Of this layout. A newer one is refused by its number.
pub(super) const FORMAT: u32 = 1;

/// The first file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    pub(crate) format: u32,
    pub(crate) flavour: Datastore,
    pub(crate) server_version: String,
    pub(crate) tool: String,
    pub(crate) tool_version: String,
    /// Where in the server's binlog the rows are from: what was committed before it is in the dump, nothing after it is.
    pub(crate) position: BinlogPosition,
    /// Libraries of storage engines that tables need and the server does not bring by itself.
    pub(crate) engines: Vec<Library>,
    pub(crate) warnings: Vec<String>,
}

/// A plugin and the file it is loaded from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Library {
    pub(crate) plugin: String,
    pub(crate) library: String,
}

/// What a line of the list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Table,
    Sequence,
    View,
    /// A table of the server itself that holds accounts and the like: its rows replace those of a new server.
    Account,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// The file that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) structure: Option<String>,
    /// The file with its rows; tables that only show others' rows have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
    pub(crate) rows: u64,
    /// Whether the rows are those of all times (a table WITH SYSTEM VERSIONING).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_history: bool,
}

/// How much stored code there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    pub(crate) routines: u64,
    pub(crate) triggers: u64,
    pub(crate) events: u64,
}

/// The last file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    pub(crate) format: u32,
    /// Lines of the list.
    pub(crate) entries: u64,
    pub(crate) rows: u64,
    /// All of the server's; none when the dump is of some tables only, with nothing but their triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Code>,
    /// Where the binlog stood when everything had been read.
    pub(crate) read_until: BinlogPosition,
    /// All there are, those found on the way too.
    pub(crate) warnings: Vec<String>,
}

/// Reads one of the two small files.
pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |err: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("`{name}` of the dump is not what coffer writes")).with_source(err)
    };
    let format = serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format;
    if format > FORMAT {
        return Err(Error::new(ErrorKind::Unsupported, format!("the dump has format {format}, known is {FORMAT}"))
            .hint("It was made by a newer coffer; use that one."));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// What the dump's first file says.
#[cfg(test)]
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Head, Error> {
    parse(HEAD, bytes)
}

/// What the dump's last file says.
#[cfg(test)]
pub(crate) fn parse_end(bytes: &[u8]) -> Result<End, Error> {
    parse(END, bytes)
}

/// As JSON. What is written here can always be.
pub(super) fn render(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|err| Error::new(ErrorKind::Internal, "unable to write JSON").with_source(err))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Names for a message: the first twenty, and how many more there are.
pub(crate) fn named(names: &[String]) -> String {
    const NAMED_MAX: usize = 20;
    let more = names.len().saturating_sub(NAMED_MAX);
    let first = names.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_are_named_and_the_rest_counted() {
        let names: Vec<String> = (0..23).map(|n| format!("t{n}")).collect();
        assert_eq!(named(&names[..2]), "`t0`, `t1`");
        assert!(named(&names).ends_with("`t19` and 3 more"));
        assert!(named(&names[..20]).ends_with("`t19`"));
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number_and_other_text_is_damaged() {
        let err = parse_end(b"{\"format\":2,\"else\":1}").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.message().contains("format 2"));
        for text in ["", "{}", "{\"format\":1}", "[1]", "{\"format\":1,\"entries\":0,\"rows\":0,\"more\":1}"] {
            assert_eq!(parse_end(text.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
    }
}
