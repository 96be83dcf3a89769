//! MariaDB's global transaction ids, as the server writes them.
//!
//! A `Gtid` names one transaction (`0-11-4711`: domain, server id, sequence number). A `GtidPosition` is the last
//! transaction of each domain, which is what `gtid_slave_pos` says of an applier. A `BinlogState` is the last sequence
//! number of each server in each domain, which is what a binlog file's Gtid_list event and `gtid_binlog_state` say.
//! Source: MariaDB documentation, "Global Transaction ID", and `sql/rpl_gtid.h`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// One transaction's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Gtid {
    pub(crate) domain: u32,
    pub(crate) server_id: u32,
    pub(crate) sequence: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server_id, self.sequence)
    }
}

impl FromStr for Gtid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Gtid, Error> {
        let parsed = (|| {
            let mut fields = text.trim().split('-');
            let gtid = Gtid {
                domain: parse_digits(fields.next()?)?.try_into().ok()?,
                server_id: parse_digits(fields.next()?)?.try_into().ok()?,
                sequence: parse_digits(fields.next()?)?,
            };
            fields.next().is_none().then_some(gtid)
        })();
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a GTID"))
                .hint("Write a GTID as domain-server-sequence, for example 0-11-4711.")
        })
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl From<Gtid> for String {
    fn from(gtid: Gtid) -> String {
        gtid.to_string()
    }
}

impl TryFrom<String> for Gtid {
    type Error = Error;

    fn try_from(text: String) -> Result<Gtid, Error> {
        text.parse()
    }
}

/// The last transaction of each domain; what an applier has reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct GtidPosition(BTreeMap<u32, Gtid>);

impl GtidPosition {
    /// The position after `gtid` was applied: it is now the last of its domain.
    pub(crate) fn apply(&mut self, gtid: Gtid) {
        self.0.insert(gtid.domain, gtid);
    }

    /// The last transaction of `domain`.
    pub(crate) fn last(&self, domain: u32) -> Option<Gtid> {
        self.0.get(&domain).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.0.values().copied()
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.iter())
    }
}

impl FromStr for GtidPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<GtidPosition, Error> {
        let mut position = GtidPosition::default();
        for gtid in parse_list(text)? {
            position.apply(gtid);
        }
        Ok(position)
    }
}

impl From<GtidPosition> for String {
    fn from(position: GtidPosition) -> String {
        position.to_string()
    }
}

impl TryFrom<String> for GtidPosition {
    type Error = Error;

    fn try_from(text: String) -> Result<GtidPosition, Error> {
        text.parse()
    }
}

/// The highest sequence number of each server in each domain, and which server wrote last in a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct BinlogState {
    sequences: BTreeMap<(u32, u32), u64>,
    last_writer: BTreeMap<u32, u32>,
}

impl BinlogState {
    /// The state after `gtid` was written to the binlog.
    pub(crate) fn apply(&mut self, gtid: Gtid) {
        self.sequences.insert((gtid.domain, gtid.server_id), gtid.sequence);
        self.last_writer.insert(gtid.domain, gtid.server_id);
    }

    /// Keeps the higher sequence number of each server, so that nothing written from here on repeats a GTID of either.
    pub(crate) fn merge(&mut self, other: &BinlogState) {
        for gtid in other.iter() {
            let highest = self.highest(gtid.domain).unwrap_or(0);
            let own = self.sequences.entry((gtid.domain, gtid.server_id)).or_insert(0);
            *own = (*own).max(gtid.sequence);
            if gtid.sequence > highest {
                self.last_writer.insert(gtid.domain, gtid.server_id);
            }
        }
    }

    /// The highest sequence number in `domain`, whoever wrote it.
    pub(crate) fn highest(&self, domain: u32) -> Option<u64> {
        self.sequences.iter().filter(|((d, _), _)| *d == domain).map(|(_, sequence)| *sequence).max()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Every entry; within a domain the last writer's comes last, as the server itself orders them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Gtid> + '_ {
        let mut gtids: Vec<Gtid> = self
            .sequences
            .iter()
            .map(|((domain, server_id), sequence)| Gtid { domain: *domain, server_id: *server_id, sequence: *sequence })
            .collect();
        gtids.sort_by_key(|gtid| {
            (gtid.domain, self.last_writer.get(&gtid.domain) == Some(&gtid.server_id), gtid.server_id)
        });
        gtids.into_iter()
    }

    /// The last transaction of each domain.
    pub(crate) fn position(&self) -> GtidPosition {
        let mut position = GtidPosition::default();
        for gtid in self.iter() {
            position.apply(gtid);
        }
        position
    }
}

impl fmt::Display for BinlogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.iter())
    }
}

impl FromStr for BinlogState {
    type Err = Error;

    fn from_str(text: &str) -> Result<BinlogState, Error> {
        let mut state = BinlogState::default();
        for gtid in parse_list(text)? {
            state.apply(gtid);
        }
        Ok(state)
    }
}

impl From<BinlogState> for String {
    fn from(state: BinlogState) -> String {
        state.to_string()
    }
}

impl TryFrom<String> for BinlogState {
    type Error = Error;

    fn try_from(text: String) -> Result<BinlogState, Error> {
        text.parse()
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, gtids: impl Iterator<Item = Gtid>) -> fmt::Result {
    for (index, gtid) in gtids.enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{gtid}")?;
    }
    Ok(())
}

fn parse_list(text: &str) -> Result<Vec<Gtid>, Error> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|field| !field.is_empty()).map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gtid_reads_back_as_it_was_written() {
        let gtid: Gtid = "0-11-4711".parse().unwrap();
        assert_eq!(gtid, Gtid { domain: 0, server_id: 11, sequence: 4711 });
        assert_eq!(gtid.to_string(), "0-11-4711");
        for bad in ["", "1-2", "1-2-3-4", "a-b-c", "0-11-+5", "0--5", "4294967296-1-1"] {
            assert!(bad.parse::<Gtid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn merging_states_continues_above_both() {
        let mut state: BinlogState = "0-11-200,1-11-5".parse().unwrap();
        state.merge(&"0-11-150,0-12-300".parse().unwrap());
        assert_eq!(state.to_string(), "0-11-200,0-12-300,1-11-5");
        assert_eq!(state.position().to_string(), "0-12-300,1-11-5");
    }
}
