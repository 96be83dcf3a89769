//! Global transaction ids, as the servers write them.
//!
//! A `Gtid` names one transaction: `0-11-4711` on MariaDB (domain, server id, sequence number), `uuid:4711` on MySQL. A
//! `GtidPosition` is what an applier has reached: on MariaDB the last transaction of each domain (`gtid_slave_pos`), on
//! MySQL a set (`gtid_executed`). A `BinlogState` is what binlogs hold up to a place: on MariaDB the last sequence
//! number of each server in each domain (a file's Gtid_list event, `gtid_binlog_state`), on MySQL a set again
//! (Previous_gtids). Sets are in `gtid_set`.
//! Source: MariaDB documentation, "Global Transaction ID", and `sql/rpl_gtid.h`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::gtid_set::{GtidSet, GtidSource, MysqlGtid, text_form};
use crate::error::{Error, ErrorKind};

/// One transaction's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Gtid {
    Mariadb(MariadbGtid),
    Mysql(MysqlGtid),
}

impl Gtid {
    /// Whose counter it is from.
    pub(crate) fn stream(&self) -> GtidStream {
        match self {
            Gtid::Mariadb(gtid) => gtid.stream(),
            Gtid::Mysql(gtid) => GtidStream::Mysql(gtid.source),
        }
    }

    /// Whether the two are ordered by their numbers: on MariaDB those of one domain, on MySQL those of one counter.
    pub(crate) fn is_comparable(&self, other: &Gtid) -> bool {
        match (self, other) {
            (Gtid::Mariadb(one), Gtid::Mariadb(other)) => one.domain == other.domain,
            (one, other) => one.stream() == other.stream(),
        }
    }

    /// What it is in that counter.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Gtid::Mariadb(gtid) => gtid.sequence,
            Gtid::Mysql(gtid) => gtid.number,
        }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtid::Mariadb(gtid) => gtid.fmt(f),
            Gtid::Mysql(gtid) => gtid.fmt(f),
        }
    }
}

impl FromStr for Gtid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Gtid, Error> {
        let parsed = match text.contains(':') {
            true => text.parse().map(Gtid::Mysql).ok(),
            false => MariadbGtid::parse(text).map(Gtid::Mariadb),
        };
        parsed.ok_or_else(|| {
            if text.parse::<GtidSet>().is_ok_and(|set| !set.is_empty()) {
                return Error::new(ErrorKind::InvalidInput, format!("`{text}` is a set of GTIDs and not a single one"))
                    .hint("Name one transaction, the last that shall come back: uuid:number, or uuid:tag:number.");
            }
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a GTID")).hint(
                "Write a GTID as the server does: domain-server-sequence on MariaDB (0-11-4711), \
                 uuid:number on MySQL (3e11fa47-71ca-11e1-9e33-c80aa9429562:4711).",
            )
        })
    }
}

text_form!(Gtid);

/// A counter of transactions: MariaDB has one for each server in each domain, MySQL one for each server and tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum GtidStream {
    Mariadb { domain: u32, server_id: u32 },
    Mysql(GtidSource),
}

impl fmt::Display for GtidStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GtidStream::Mariadb { domain, server_id } => write!(f, "{domain}-{server_id}"),
            GtidStream::Mysql(source) => source.fmt(f),
        }
    }
}

impl FromStr for GtidStream {
    type Err = Error;

    /// A GTID of the stream without its number: `0-11`, `uuid`, `uuid:tag`.
    fn from_str(text: &str) -> Result<GtidStream, Error> {
        let gtid = if text.contains('-') && text.len() < 36 { format!("{text}-1") } else { format!("{text}:1") };
        Ok(gtid.parse::<Gtid>()?.stream())
    }
}

text_form!(GtidStream);

/// One transaction's id on MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MariadbGtid {
    pub(crate) domain: u32,
    pub(crate) server_id: u32,
    pub(crate) sequence: u64,
}

impl fmt::Display for MariadbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server_id, self.sequence)
    }
}

impl MariadbGtid {
    fn parse(text: &str) -> Option<MariadbGtid> {
        let mut fields = text.trim().split('-');
        let gtid = MariadbGtid {
            domain: parse_digits(fields.next()?)?.try_into().ok()?,
            server_id: parse_digits(fields.next()?)?.try_into().ok()?,
            sequence: parse_digits(fields.next()?)?,
        };
        fields.next().is_none().then_some(gtid)
    }

    fn stream(&self) -> GtidStream {
        GtidStream::Mariadb { domain: self.domain, server_id: self.server_id }
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// What an applier has reached: on MariaDB the last transaction of each domain, on MySQL every transaction it has.
///
/// A server has one of the two; the other half is empty, so that "nothing yet" is the same on both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct GtidPosition {
    domains: BTreeMap<u32, MariadbGtid>,
    executed: GtidSet,
}

impl GtidPosition {
    /// The position after `gtid` was applied.
    pub(crate) fn apply(&mut self, gtid: Gtid) {
        match gtid {
            Gtid::Mariadb(gtid) => {
                self.domains.insert(gtid.domain, gtid);
            }
            Gtid::Mysql(gtid) => self.executed.add(&gtid),
        }
    }

    /// The position after `gtid` was left out on purpose: MySQL gets an empty transaction in its place.
    pub(crate) fn pass_over(&mut self, gtid: Gtid) {
        if let Gtid::Mysql(gtid) = gtid {
            self.executed.add(&gtid);
        }
    }

    /// The position after everything was applied that leads to `later`.
    pub(crate) fn merge(&mut self, later: &GtidPosition) {
        self.domains.extend(later.domains.iter().map(|(domain, gtid)| (*domain, *gtid)));
        self.executed.unite(&later.executed);
    }

    /// Whether an applier that stands here has applied `gtid`; on MariaDB by its number, and not known of a domain that
    /// is not in the position.
    pub(crate) fn includes(&self, gtid: &Gtid) -> Option<bool> {
        match gtid {
            Gtid::Mariadb(gtid) => self.domains.get(&gtid.domain).map(|last| gtid.sequence <= last.sequence),
            Gtid::Mysql(gtid) => Some(self.executed.contains(gtid)),
        }
    }

    /// The last transaction of `domain`, on MariaDB.
    pub(crate) fn last(&self, domain: u32) -> Option<Gtid> {
        self.domains.get(&domain).copied().map(Gtid::Mariadb)
    }

    /// The last transaction of each domain, on MariaDB.
    pub(crate) fn domains(&self) -> impl Iterator<Item = MariadbGtid> + '_ {
        self.domains.values().copied()
    }

    /// Every transaction, on MySQL.
    pub(crate) fn executed(&self) -> &GtidSet {
        &self.executed
    }

    /// Adds runs of transactions, on MySQL.
    pub(crate) fn unite(&mut self, executed: &GtidSet) {
        self.executed.unite(executed);
    }
}

impl From<GtidSet> for GtidPosition {
    fn from(executed: GtidSet) -> GtidPosition {
        GtidPosition { executed, ..GtidPosition::default() }
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.domains())?;
        self.executed.fmt(f)
    }
}

impl FromStr for GtidPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<GtidPosition, Error> {
        if text.contains(':') {
            return Ok(text.parse::<GtidSet>()?.into());
        }
        let mut position = GtidPosition::default();
        for gtid in parse_list(text)? {
            position.apply(gtid);
        }
        Ok(position)
    }
}

text_form!(GtidPosition);

/// What a server's binlogs hold up to a place: on MariaDB the highest sequence number of each server in each domain, and
/// which server wrote last in a domain; on MySQL every transaction that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct BinlogState {
    sequences: BTreeMap<(u32, u32), u64>,
    last_writer: BTreeMap<u32, u32>,
    executed: GtidSet,
}

impl BinlogState {
    /// The state after `gtid` was written to the binlog.
    pub(crate) fn apply(&mut self, gtid: Gtid) {
        match gtid {
            Gtid::Mariadb(gtid) => {
                self.sequences.insert((gtid.domain, gtid.server_id), gtid.sequence);
                self.last_writer.insert(gtid.domain, gtid.server_id);
            }
            Gtid::Mysql(gtid) => self.executed.add(&gtid),
        }
    }

    /// What is in either, so that nothing written from here on repeats a GTID of one of them.
    pub(crate) fn merge(&mut self, other: &BinlogState) {
        for gtid in other.iter() {
            let highest = self.highest(gtid.domain).unwrap_or(0);
            let own = self.sequences.entry((gtid.domain, gtid.server_id)).or_insert(0);
            *own = (*own).max(gtid.sequence);
            if gtid.sequence > highest {
                self.last_writer.insert(gtid.domain, gtid.server_id);
            }
        }
        self.executed.unite(&other.executed);
    }

    /// Adds transactions, on MySQL.
    pub(crate) fn unite(&mut self, executed: &GtidSet) {
        self.executed.unite(executed);
    }

    /// The highest sequence number in `domain`, whoever wrote it; on MariaDB.
    pub(crate) fn highest(&self, domain: u32) -> Option<u64> {
        self.sequences.iter().filter(|((d, _), _)| *d == domain).map(|(_, sequence)| *sequence).max()
    }

    /// The highest number of a stream; absent when it has none.
    pub(crate) fn last_of(&self, stream: &GtidStream) -> Option<u64> {
        match stream {
            GtidStream::Mariadb { domain, server_id } => self.sequences.get(&(*domain, *server_id)).copied(),
            GtidStream::Mysql(source) => self.executed.last_of(source),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.executed.is_empty()
    }

    /// Every entry, on MariaDB; within a domain the last writer's comes last, as the server itself orders them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MariadbGtid> + '_ {
        let mut gtids: Vec<MariadbGtid> = self
            .sequences
            .iter()
            .map(|((domain, server_id), sequence)| MariadbGtid {
                domain: *domain,
                server_id: *server_id,
                sequence: *sequence,
            })
            .collect();
        gtids.sort_by_key(|gtid| {
            (gtid.domain, self.last_writer.get(&gtid.domain) == Some(&gtid.server_id), gtid.server_id)
        });
        gtids.into_iter()
    }

    /// Every transaction, on MySQL.
    pub(crate) fn executed(&self) -> &GtidSet {
        &self.executed
    }

    /// What an applier that has everything up to here has reached.
    pub(crate) fn position(&self) -> GtidPosition {
        let mut position = GtidPosition::from(self.executed.clone());
        for gtid in self.iter() {
            position.apply(Gtid::Mariadb(gtid));
        }
        position
    }
}

impl From<GtidPosition> for BinlogState {
    fn from(position: GtidPosition) -> BinlogState {
        let mut state = BinlogState::from(position.executed.clone());
        for gtid in position.domains() {
            state.apply(Gtid::Mariadb(gtid));
        }
        state
    }
}

impl From<GtidSet> for BinlogState {
    fn from(executed: GtidSet) -> BinlogState {
        BinlogState { executed, ..BinlogState::default() }
    }
}

impl fmt::Display for BinlogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.iter())?;
        self.executed.fmt(f)
    }
}

impl FromStr for BinlogState {
    type Err = Error;

    fn from_str(text: &str) -> Result<BinlogState, Error> {
        if text.contains(':') {
            return Ok(text.parse::<GtidSet>()?.into());
        }
        let mut state = BinlogState::default();
        for gtid in parse_list(text)? {
            state.apply(gtid);
        }
        Ok(state)
    }
}

text_form!(BinlogState);

fn write_list(f: &mut fmt::Formatter<'_>, gtids: impl Iterator<Item = MariadbGtid>) -> fmt::Result {
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
        assert_eq!(gtid, Gtid::Mariadb(MariadbGtid { domain: 0, server_id: 11, sequence: 4711 }));
        for text in ["0-11-4711", "3e11fa47-71ca-11e1-9e33-c80aa9429562:7", "3e11fa47-71ca-11e1-9e33-c80aa9429562:a:7"]
        {
            let gtid: Gtid = text.parse().unwrap();
            assert_eq!(gtid.to_string(), text);
            let stream = gtid.stream();
            assert_eq!(stream.to_string().parse::<GtidStream>().unwrap(), stream);
        }
        for bad in ["", "1-2", "1-2-3-4", "a-b-c", "0-11-+5", "0--5", "4294967296-1-1"] {
            assert!(bad.parse::<Gtid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_is_told_apart_from_what_is_no_gtid() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        for set in
            [format!("{uuid}:1-5"), format!("{uuid}:1:3"), format!("{uuid}:a:1-5"), format!("{uuid}:1,{uuid}:a:2")]
        {
            let err = set.parse::<Gtid>().unwrap_err();
            assert!(err.message().contains("is a set of GTIDs"), "{set}: {err}");
        }
        assert!(format!("{uuid}:x").parse::<Gtid>().unwrap_err().message().ends_with("is not a GTID"));
    }

    #[test]
    fn merging_states_continues_above_both() {
        let mut state: BinlogState = "0-11-200,1-11-5".parse().unwrap();
        state.merge(&"0-11-150,0-12-300".parse().unwrap());
        assert_eq!(state.to_string(), "0-11-200,0-12-300,1-11-5");
        assert_eq!(state.position().to_string(), "0-12-300,1-11-5");
    }
}
