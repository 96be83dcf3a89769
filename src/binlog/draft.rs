//! What is known of a transaction before its end, whichever server wrote it.

use crate::binlog::body::Query;
use crate::binlog::statement::{StatementFacts, TableName, without_secrets};
use crate::domain::transaction::Transaction;

/// What stands between the statements of one transaction.
const STATEMENT_SEPARATOR: &str = ";\n";

/// The longest name a server gives: 64 characters of up to four bytes.
const NAME_BYTES_MAX: usize = 256;

/// What is known of a transaction before its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) statement: String,
    statement_is_full: bool,
    pub(super) default_schema: String,
    pub(super) tables: Vec<String>,
    pub(super) row_events: u32,
    pub(super) as_statements: bool,
    pub(super) destructive: bool,
    pub(super) definition: bool,
    pub(super) is_xa: bool,
}

impl Draft {
    /// Takes note of a statement; says what it is.
    pub(super) fn add_query(&mut self, query: &Query<'_>) -> StatementFacts {
        let facts = StatementFacts::of(&query.text, query.sql_mode);
        if self.default_schema.is_empty() {
            self.default_schema = String::from_utf8_lossy(query.schema).into_owned();
        }
        if facts.secret {
            self.add_text(&without_secrets(&query.text, query.sql_mode));
        } else {
            self.add_text(&query.text);
        }
        self.definition |= facts.definition;
        for TableName { schema, table } in &facts.tables {
            self.add_table(schema.as_deref().map_or(query.schema, str::as_bytes), table.as_bytes());
        }
        facts
    }

    pub(super) fn add_table(&mut self, schema: &[u8], table: &[u8]) {
        let is_same = |known: &String| {
            let known = known.as_bytes();
            known.len() == schema.len() + 1 + table.len()
                && known.starts_with(schema)
                && known.ends_with(table)
                && known.get(schema.len()) == Some(&b'.')
        };
        // A statement may be a gigabyte of one name that no table has.
        if schema.len() > NAME_BYTES_MAX || table.len() > NAME_BYTES_MAX {
            return;
        }
        // A transaction touches the same few tables again and again: the last one first.
        if self.tables.len() >= Transaction::TABLES_MAX || self.tables.iter().rev().any(is_same) {
            return;
        }
        let name = format!("{}.{}", String::from_utf8_lossy(schema), String::from_utf8_lossy(table));
        // A name that is not UTF-8 is known by its replacement only.
        if !self.tables.contains(&name) {
            self.tables.push(name);
        }
    }

    /// Adds a statement's text, as far as there is room for it.
    pub(super) fn add_text(&mut self, text: &[u8]) {
        if self.statement_is_full {
            return;
        }
        if !self.statement.is_empty() {
            self.statement.push_str(STATEMENT_SEPARATOR);
        }
        // Cut by bytes before the conversion: a statement may have a gigabyte.
        let room = Transaction::STATEMENT_MAX.saturating_sub(self.statement.len());
        let text = text.trim_ascii();
        self.statement_is_full = text.len() >= room;
        self.statement.push_str(&String::from_utf8_lossy(text.get(..room).unwrap_or(text)));
        // The conversion may have lengthened it, and the cut may have gone through a character.
        while self.statement.len() > Transaction::STATEMENT_MAX
            || (self.statement_is_full && self.statement.ends_with(char::REPLACEMENT_CHARACTER))
        {
            self.statement.pop();
        }
    }
}

/// Statements that stand in a transaction and say nothing about it.
pub(super) fn is_transaction_control(text: &[u8]) -> bool {
    let starts: [&[u8]; 7] =
        [b"COMMIT", b"ROLLBACK", b"BEGIN", b"SAVEPOINT ", b"XA START ", b"XA END ", b"RELEASE SAVEPOINT "];
    starts.iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::binlog::body::SqlMode;

    #[test]
    fn a_name_that_is_longer_than_any_table_has_is_left_out() {
        let longest = "\u{4e00}".repeat(64);
        let text = format!("DROP TABLE a, `{longest}`, `{}`, b", "n".repeat(1 << 20));
        let text = Cow::Borrowed(text.as_bytes());
        let mut draft = Draft::default();
        assert!(draft.add_query(&Query { schema: b"shop", text, sql_mode: SqlMode::default() }).destructive);
        assert_eq!(draft.tables, ["shop.a".to_owned(), format!("shop.{longest}"), "shop.b".to_owned()]);
    }
}
