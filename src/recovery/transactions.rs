//! Transactions as people look for them: which ones a filter lets through, and how one is told in a line.

use crate::domain::chunk::{Chunk, ChunkFacts};
use crate::domain::coordinate::Coordinate;
use crate::domain::id::TimelineId;
use crate::domain::timeline::Timeline;
use crate::domain::transaction::{Transaction, TransactionKind};
use crate::error::Error;
use crate::recovery::plan::lineage::{Lineage, current};
use crate::recovery::{TransactionFilter, TransactionSummary};

/// Characters of `describe`.
const DESCRIPTION_MAX: usize = 120;

/// Tables named in `describe`.
const TABLES_NAMED: usize = 4;

/// A place behind every chunk of a timeline. Positions stay below 2^63, where SQLite's integers end.
const BEHIND_ALL: (u32, u64) = (u32::MAX, i64::MAX.unsigned_abs());

/// Transactions of the current timeline and its past that the filter lets through, newest first.
///
/// `before(timeline, ordinal, position)` gives chunks of the timeline that begin before that place, newest first; it may
/// be only the newest few, none means there are none. `read` gives a chunk's transactions in order. What a branch left
/// out is not in the current data and not listed.
pub(crate) fn list_transactions(
    timelines: &[Timeline],
    filter: &TransactionFilter,
    before: impl Fn(TimelineId, u32, u64) -> Result<Vec<Chunk>, Error>,
    read: impl Fn(&Chunk) -> Result<Vec<Transaction>, Error>,
) -> Result<Vec<TransactionSummary>, Error> {
    let mut found = Vec::new();
    let Some(current) = current(timelines) else { return Ok(found) };
    let lineage = Lineage::of(timelines, current.id)?;
    for (index, segment) in lineage.segments().iter().enumerate().rev() {
        let mut place = segment.cut.unwrap_or(BEHIND_ALL);
        loop {
            let page = before(segment.timeline.id, place.0, place.1)?;
            let Some(last) = page.last().map(|chunk| (chunk.facts.ordinal, chunk.facts.begin)) else { break };
            if last >= place {
                break; // No progress: better a short list than a loop without end.
            }
            place = last;
            for chunk in &page {
                if filter.since.is_some_and(|since| chunk.facts.clock_after() < since) {
                    return Ok(found); // Commit times never increase from here on.
                }
                if !may_match(&chunk.facts, filter) {
                    continue;
                }
                let cut = segment.cut.filter(|cut| cut.0 == chunk.facts.ordinal).map_or(u64::MAX, |cut| cut.1);
                for transaction in read(chunk)?.iter().rev().filter(|transaction| transaction.end <= cut) {
                    let left_out = lineage.left_out().any(|(at, gtid)| at > index && Some(gtid) == transaction.gtid);
                    if left_out || !matches(transaction, filter) {
                        continue;
                    }
                    if found.len() >= filter.limit {
                        return Ok(found);
                    }
                    found.push(summarize(&chunk.facts, transaction));
                }
                if found.len() >= filter.limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// Whether the chunk can hold a transaction that the filter lets through, by its facts alone.
pub(crate) fn may_match(facts: &ChunkFacts, filter: &TransactionFilter) -> bool {
    let (Some(first), Some(last)) = (facts.first_commit, facts.last_commit) else { return false };
    filter.since.is_none_or(|since| last >= since) && filter.until.is_none_or(|until| first <= until)
}

/// Whether the filter lets the transaction through.
pub(crate) fn matches(transaction: &Transaction, filter: &TransactionFilter) -> bool {
    filter.since.is_none_or(|since| transaction.committed_at >= since)
        && filter.until.is_none_or(|until| transaction.committed_at <= until)
        && (!filter.destructive || transaction.destructive)
        && filter.table.as_ref().is_none_or(|wanted| names(&transaction.tables, wanted))
}

/// `wanted` is `schema.table` or `table`; upper and lower case are one, as people type them.
fn names(tables: &[String], wanted: &str) -> bool {
    tables.iter().any(|table| {
        let plain = table.split_once('.').map_or(table.as_str(), |(_, plain)| plain);
        table.eq_ignore_ascii_case(wanted) || plain.eq_ignore_ascii_case(wanted)
    })
}

fn summarize(facts: &ChunkFacts, transaction: &Transaction) -> TransactionSummary {
    let place =
        |position| Coordinate { timeline: facts.timeline, ordinal: facts.ordinal, file: facts.file.clone(), position };
    TransactionSummary {
        gtid: transaction.gtid,
        begins_at: place(transaction.begin),
        ends_at: place(transaction.end),
        committed_at: transaction.committed_at,
        tables: transaction.tables.clone(),
        statement: transaction.statement.as_deref().map(without_secrets).unwrap_or_default(),
        destructive: transaction.destructive,
    }
}

/// The transaction in a few words: its statement when that is the transaction, else the tables it changes.
pub(crate) fn describe(transaction: &Transaction) -> String {
    let statement = transaction.statement.as_deref().map(without_secrets).filter(|text| !text.is_empty());
    let whole = match (transaction.kind, statement) {
        (TransactionKind::Ddl, Some(statement)) => statement,
        (TransactionKind::Ddl | TransactionKind::Dml, statement) if transaction.tables.is_empty() => {
            statement.unwrap_or_else(|| "no rows named".to_owned())
        }
        (TransactionKind::Ddl | TransactionKind::Dml, _) => tables(&transaction.tables),
        (TransactionKind::Xa, _) if transaction.tables.is_empty() => "XA".to_owned(),
        (TransactionKind::Xa, _) => format!("XA {}", tables(&transaction.tables)),
    };
    shortened(&whole)
}

fn tables(tables: &[String]) -> String {
    let named: Vec<&str> = tables.iter().take(TABLES_NAMED).map(String::as_str).collect();
    match tables.len().saturating_sub(TABLES_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The statement on one line, cut before what may be a password or its hash.
fn without_secrets(statement: &str) -> String {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let is_secret = |index: usize, word: &str| {
        let word = word.to_ascii_lowercase();
        let quoted = || words.iter().skip(index).any(|word| word.contains(['\'', '"']));
        (word.contains("identified") || word.contains("password")) && quoted()
    };
    match words.iter().enumerate().find(|(index, word)| is_secret(*index, word)) {
        Some((index, _)) => format!("{} ...", words.iter().take(index).copied().collect::<Vec<_>>().join(" ")),
        None => words.join(" "),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= DESCRIPTION_MAX {
        return text.to_owned();
    }
    let kept: String = text.chars().take(DESCRIPTION_MAX.saturating_sub(3)).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::plan::testing::Catalog;

    fn everything() -> TransactionFilter {
        TransactionFilter { since: None, until: None, table: None, destructive: false, limit: 100 }
    }

    fn check(catalog: &str, filter: &TransactionFilter, expected: &str) {
        let catalog = Catalog::parse(catalog);
        let found = list_transactions(
            &catalog.timelines,
            filter,
            |timeline, ordinal, position| Ok(catalog.chunks_before(timeline, ordinal, position)),
            |chunk| Ok(catalog.transactions_of(chunk)),
        );
        let gtids: Vec<String> = found.unwrap().iter().map(|found| found.gtid.unwrap().number().to_string()).collect();
        assert_eq!(gtids.join(" "), expected);
    }

    const HISTORY: &str = "timeline 1
         file b.000001: 1@10 2@11 | 3@12! | 4@13
         file b.000002: 5@14 6@15
         timeline 2 from 1 after 4 skipping 2
         file b.000001: 7@20 | 8@21!";

    #[test]
    fn transactions_of_the_current_timeline_and_its_past_are_listed_newest_first() {
        check(HISTORY, &everything(), "8 7 4 3 1");
    }

    #[test]
    fn a_listing_is_cut_at_its_limit_and_at_its_times() {
        check(HISTORY, &TransactionFilter { limit: 3, ..everything() }, "8 7 4");
        check(HISTORY, &TransactionFilter { limit: 0, ..everything() }, "");
        let (since, until) = (Some(Catalog::clock(12)), Some(Catalog::clock(20)));
        check(HISTORY, &TransactionFilter { since, until, ..everything() }, "7 4 3");
    }

    #[test]
    fn a_listing_can_be_of_destructive_statements_or_of_one_table() {
        check(HISTORY, &TransactionFilter { destructive: true, ..everything() }, "8 3");
        check(HISTORY, &TransactionFilter { table: Some("shop.ORDERS".to_owned()), ..everything() }, "8 3");
        check(HISTORY, &TransactionFilter { table: Some("items".to_owned()), ..everything() }, "7 4 1");
        check(HISTORY, &TransactionFilter { table: Some("other.items".to_owned()), ..everything() }, "");
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = without_secrets("CREATE USER a@b  IDENTIFIED BY 'hunter2'");
        assert_eq!(shown, "CREATE USER a@b ...");
        assert_eq!(without_secrets("SET PASSWORD FOR a = '*94BD'"), "SET ...");
        assert_eq!(
            without_secrets("ALTER TABLE users\n DROP COLUMN password"),
            "ALTER TABLE users DROP COLUMN password"
        );
    }
}
