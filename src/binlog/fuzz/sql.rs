//! Statements made of what statements are made of.

use crate::binlog::body::SqlMode;
use crate::binlog::scheduled::EventStatuses;
use crate::binlog::statement::{StatementFacts, Tokens, without_secrets};
use crate::testing::fuzz::{Dice, Target, mutate};

const WORDS: [&str; 96] = [
    "DROP",
    "CREATE",
    "ALTER",
    "RENAME",
    "TRUNCATE",
    "GRANT",
    "SET",
    "INSERT",
    "REPLACE",
    "UPDATE",
    "DELETE",
    "LOAD",
    "TABLE",
    "TABLES",
    "TEMPORARY",
    "IF",
    "NOT",
    "EXISTS",
    "DATABASE",
    "SCHEMA",
    "EVENT",
    "USER",
    "SERVER",
    "INDEX",
    "STATEMENT",
    "FOR",
    "PASSWORD",
    "IDENTIFIED",
    "BY",
    "VIA",
    "USING",
    "OR",
    "DEFINER",
    "CURRENT_USER",
    "ON",
    "SCHEDULE",
    "EVERY",
    "DO",
    "ENABLE",
    "DISABLE",
    "SLAVE",
    "REPLICA",
    "TO",
    "COLUMN",
    "PARTITION",
    "DISCARD",
    "TABLESPACE",
    "WAIT",
    "NOWAIT",
    "ONLINE",
    "IGNORE",
    "INTO",
    "FROM",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "XA",
    "START",
    "END",
    "SAVEPOINT",
    "SEQUENCE",
    "UNIQUE",
    "COMMENT",
    "/*",
    "*/",
    "/*!",
    "/*!50106",
    "/*M!100100",
    "/*!999999999999",
    "-- ",
    "--",
    "#",
    "\n",
    ";",
    ",",
    ".",
    "(",
    ")",
    "=",
    "@",
    "@@",
    "`",
    "``",
    "`a b`",
    "\"",
    "\"q\"",
    "'",
    "''",
    "'s'",
    "'\\",
    "\\",
    "x'00'",
    "0x1F",
    "t1",
    "shop.orders",
    "\u{e4}\u{1F600}",
];

/// A statement that may or may not mean anything.
pub(super) fn statement(dice: &mut Dice) -> Vec<u8> {
    let mut text = Vec::new();
    let words = dice.below_or(40, 400, 30_000);
    for _ in 0..words {
        let word = dice.pick(&WORDS).as_bytes();
        if dice.one_in(600) {
            text.extend(word.repeat(dice.below(1 << 12)));
        } else {
            text.extend(word);
        }
        if !dice.one_in(5) {
            text.push(b' ');
        }
    }
    if dice.one_in(4) {
        mutate::change(dice, &mut text, b"\x00\xff\xc0\x80'`\"\\/*!*/");
    }
    text
}

/// What is said of a statement, for both servers.
pub(super) struct Statements;

impl Target for Statements {
    fn name(&self) -> &'static str {
        "statement"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        statement(dice)
    }

    fn read(&mut self, input: &[u8]) {
        for sql_mode in [SqlMode::default(), SqlMode::ANSI_QUOTES] {
            let facts = StatementFacts::of(input, sql_mode);
            for name in &facts.tables {
                let bytes = name.table.len() + name.schema.as_ref().map_or(0, String::len);
                assert!(bytes <= 3 * input.len(), "a name longer than the statement");
            }
            let mut end = 0;
            for (_, span) in Tokens::new(input, sql_mode) {
                assert!(
                    end <= span.start && span.start < span.end && span.end <= input.len(),
                    "tokens overlap: {span:?}"
                );
                end = span.end;
            }
            assert!(without_secrets(input, sql_mode).len() <= 3 * input.len() + 5);
            let mut statuses = EventStatuses::default();
            statuses.apply(input, b"shop", sql_mode);
            assert!(statuses.iter().count() <= 1);
        }
    }

    /// Names are kept, converted, in two copies for a moment.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (64 << 10) + 16 * input_bytes
    }
}
