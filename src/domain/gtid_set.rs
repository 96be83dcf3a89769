//! MySQL's global transaction ids and sets of them, as the server reads and writes them.
//!
//! A `MysqlGtid` names one transaction: whose counter (`GtidSource`: the UUID of the server it was first committed on,
//! and since MySQL 8.3 a tag) and its number. A `GtidSet` is what `gtid_executed` and a Previous_gtids event hold:
//! runs of numbers of each source. Its text is the server's own, so that equal sets are equal texts.
//! Source: MySQL Reference Manual, "GTID Format and Storage"; checked against GTID_SUBTRACT and GTID_SUBSET.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};

/// The highest number a transaction can have.
const NUMBER_MAX: u64 = i64::MAX as u64 - 1;
const TAG_BYTES_MAX: usize = 32;

/// The tag of a GTID: empty, or a letter or underscore and up to 31 letters, digits and underscores, in lower case.
///
/// Padded with zeros, so that a GTID is a plain value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Tag([u8; TAG_BYTES_MAX]);

impl Tag {
    /// The tag with this name; `None` when no tag can be named so.
    pub(crate) fn new(name: &str) -> Option<Tag> {
        let begins_well = name.bytes().next().is_none_or(|first| !first.is_ascii_digit());
        let is_tag = begins_well
            && name.len() <= TAG_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let mut tag = Tag::default();
        tag.0.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        tag.0.make_ascii_lowercase();
        is_tag.then_some(tag)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; TAG_BYTES_MAX]
    }

    fn name(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(TAG_BYTES_MAX);
        // Nothing but ASCII was ever put in.
        self.0.get(..length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

/// Whose numbers: `uuid` or `uuid:tag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct GtidSource {
    pub(crate) uuid: Uuid,
    pub(crate) tag: Tag,
}

impl fmt::Display for GtidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uuid)?;
        if self.tag.is_empty() { Ok(()) } else { write!(f, ":{}", self.tag.name()) }
    }
}

/// One transaction's id: `uuid:number` or `uuid:tag:number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MysqlGtid {
    pub(crate) source: GtidSource,
    /// From 1 to 2^63 - 2.
    pub(crate) number: u64,
}

impl MysqlGtid {
    /// `None` when the number is none that a server gives.
    pub(crate) fn new(source: GtidSource, number: u64) -> Option<MysqlGtid> {
        (1..=NUMBER_MAX).contains(&number).then_some(MysqlGtid { source, number })
    }
}

impl fmt::Display for MysqlGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.number)
    }
}

impl FromStr for MysqlGtid {
    type Err = Error;

    fn from_str(text: &str) -> Result<MysqlGtid, Error> {
        let parsed = (|| {
            let (source, number) = text.trim().rsplit_once(':')?;
            let (uuid, tag) = source.split_once(':').unwrap_or((source, ""));
            let source = GtidSource { uuid: parse_uuid(uuid)?, tag: Tag::new(tag)? };
            MysqlGtid::new(source, parse_number(number)?)
        })();
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a GTID of MySQL"))
                .hint("Write a GTID as uuid:number, for example 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711.")
        })
    }
}

/// A run of numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Interval {
    /// `None` when it is empty or holds numbers that no server gives.
    pub(crate) fn new(first: u64, last: u64) -> Option<Interval> {
        (1 <= first && first <= last && last <= NUMBER_MAX).then_some(Interval { first, last })
    }
}

/// A set of transactions. In each source's list the intervals ascend and neither overlap nor touch; no list is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct GtidSet(BTreeMap<GtidSource, Vec<Interval>>);

impl GtidSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many transactions it holds.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u128 {
        self.0.values().flatten().map(|interval| u128::from(interval.last - interval.first) + 1).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GtidSource, &[Interval])> {
        self.0.iter().map(|(source, intervals)| (source, intervals.as_slice()))
    }

    /// The highest number of a source; absent when it has none.
    pub(crate) fn last_of(&self, source: &GtidSource) -> Option<u64> {
        self.0.get(source)?.last().map(|interval| interval.last)
    }

    pub(crate) fn contains(&self, gtid: &MysqlGtid) -> bool {
        let Some(intervals) = self.0.get(&gtid.source) else { return false };
        let at = intervals.partition_point(|interval| interval.last < gtid.number);
        intervals.get(at).is_some_and(|interval| interval.first <= gtid.number)
    }

    pub(crate) fn add(&mut self, gtid: &MysqlGtid) {
        let interval = Interval { first: gtid.number, last: gtid.number };
        // Nearly every GTID goes on where the last one ended: no list is moved and no name copied for it.
        match self.0.get_mut(&gtid.source) {
            Some(intervals) => insert(intervals, interval),
            None => drop(self.0.insert(gtid.source, vec![interval])),
        }
    }

    /// The set of all these runs, in whatever order they come.
    pub(crate) fn of(runs: BTreeMap<GtidSource, Vec<Interval>>) -> GtidSet {
        let runs = runs.into_iter().filter(|(_, intervals)| !intervals.is_empty());
        GtidSet(runs.map(|(source, intervals)| (source, in_order(intervals))).collect())
    }

    /// Adds everything of `other`.
    pub(crate) fn unite(&mut self, other: &GtidSet) {
        for (source, intervals) in &other.0 {
            let known = self.0.entry(*source).or_default();
            match intervals.as_slice() {
                [one] => insert(known, *one),
                more => {
                    known.extend_from_slice(more);
                    *known = in_order(std::mem::take(known));
                }
            }
        }
    }

    /// What is in this set and not in `other`.
    pub(crate) fn without(&self, other: &GtidSet) -> GtidSet {
        let mut rest = BTreeMap::new();
        for (source, intervals) in &self.0 {
            let left = match other.0.get(source) {
                Some(taken) => subtract(intervals, taken),
                None => intervals.clone(),
            };
            if !left.is_empty() {
                rest.insert(*source, left);
            }
        }
        GtidSet(rest)
    }

    #[cfg(test)]
    pub(crate) fn is_subset_of(&self, other: &GtidSet) -> bool {
        self.without(other).is_empty()
    }
}

/// Puts `interval` into an ordered list of intervals that do not touch, and keeps it so.
fn insert(intervals: &mut Vec<Interval>, interval: Interval) {
    // Those that overlap it or touch it become one with it. Numbers end below the type's end: adding one is safe.
    let begin = intervals.partition_point(|known| known.last + 1 < interval.first);
    let end = intervals.partition_point(|known| known.first <= interval.last + 1);
    let mut merged = interval;
    for known in intervals.get(begin..end).unwrap_or_default() {
        merged.first = merged.first.min(known.first);
        merged.last = merged.last.max(known.last);
    }
    intervals.splice(begin..end.max(begin), [merged]);
}

/// Puts intervals in order and makes one of those that overlap or touch.
fn in_order(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable_by_key(|interval| interval.first);
    intervals.dedup_by(|next, known| {
        let is_one = next.first <= known.last + 1;
        known.last = if is_one { known.last.max(next.last) } else { known.last };
        is_one
    });
    intervals
}

fn subtract(intervals: &[Interval], taken: &[Interval]) -> Vec<Interval> {
    let mut left = Vec::new();
    let mut taken = taken.iter().copied().peekable();
    for interval in intervals {
        let mut first = interval.first;
        while taken.next_if(|taken| taken.last < first).is_some() {}
        // The last one that reaches into this interval may reach into the next too, so it is only looked at.
        while let Some(next) = taken.peek().filter(|next| next.first <= interval.last).copied() {
            left.extend(Interval::new(first, next.first - 1));
            first = next.last + 1;
            if next.last >= interval.last {
                break;
            }
            taken.next();
        }
        left.extend(Interval::new(first, interval.last));
    }
    left
}

/// As the server writes it: `uuid:1-5:8:tag:1-2,` and the next UUID on a line of its own.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut uuid = None;
        for (source, intervals) in &self.0 {
            if uuid != Some(source.uuid) {
                let separator = if uuid.is_some() { ",\n" } else { "" };
                write!(f, "{separator}{}", source.uuid)?;
                uuid = Some(source.uuid);
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag.name())?;
            }
            for Interval { first, last } in intervals {
                if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = Error;

    /// Reads what the server reads: intervals and tags in any order, repeated, with spaces between.
    fn from_str(text: &str) -> Result<GtidSet, Error> {
        let mut runs = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            parse_uuid_part(part, &mut runs).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, format!("`{part}` is not a set of GTIDs"))
                    .hint("Write a set as uuid:first-last, for example 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:8.")
            })?;
        }
        Ok(GtidSet::of(runs))
    }
}

fn parse_uuid_part(part: &str, runs: &mut BTreeMap<GtidSource, Vec<Interval>>) -> Option<()> {
    let mut fields = part.split(':').map(str::trim);
    let mut source = GtidSource { uuid: parse_uuid(fields.next()?)?, tag: Tag::default() };
    for field in fields {
        if let Some(tag) = Tag::new(field).filter(|tag| !tag.is_empty()) {
            source.tag = tag;
            continue;
        }
        let (first, last) = field.split_once('-').unwrap_or((field, field));
        let (first, last) = (parse_number(first)?, parse_number(last)?);
        if first == 0 || last > NUMBER_MAX {
            return None;
        }
        // An interval that ends before it begins is empty to the server, and no error.
        if let Some(interval) = Interval::new(first, last) {
            runs.entry(source).or_default().push(interval);
        }
    }
    Some(())
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let text = text.trim();
    // The crate also reads `urn:uuid:`, the server does not.
    text.bytes().next().filter(|first| first.is_ascii_hexdigit() || *first == b'{').and_then(|_| text.parse().ok())
}

fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Serde by text.
macro_rules! text_form {
    ($type:ty) => {
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<$type, Error> {
                text.parse()
            }
        }
    };
}

text_form!(GtidSet);
pub(crate) use text_form;

#[cfg(test)]
mod tests;
