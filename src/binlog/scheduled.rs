//! What state the event scheduler's events have on the server that wrote a binlog.
//!
//! A replication applier turns every event that it creates or alters into SLAVESIDE_DISABLED, so after a replay the
//! recovered server's events would all stand still. This fold over the replayed statements says what the source had.
//! Whoever mends the recovered server asks it only for events that are SLAVESIDE_DISABLED there: `CREATE EVENT IF NOT
//! EXISTS` is logged even when the event existed, and then leaves it as it was.

use std::collections::BTreeMap;

use crate::binlog::body::SqlMode;
use crate::binlog::statement::{Parser, Token};

/// Schema and name of an event; the name in lower case, because names of events are compared without case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventName {
    pub(crate) schema: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventStatus {
    Enabled,
    Disabled,
    SlavesideDisabled,
    /// As the event of that name was before the first statement: it was altered, but not in this.
    Unchanged(EventName),
}

/// The events that statements created or altered and that still exist after them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct EventStatuses(BTreeMap<EventName, EventStatus>);

impl EventStatuses {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&EventName, &EventStatus)> {
        self.0.iter()
    }

    /// Takes the next statement; most are of no concern here.
    pub(crate) fn apply(&mut self, text: &[u8], schema: &[u8], sql_mode: SqlMode) {
        let mut parser = Parser::new(text, sql_mode);
        parser.pass_set_statement();
        let schema = String::from_utf8_lossy(schema);
        if parser.accept(b"CREATE") {
            let replace = parser.pass_create_options();
            if parser.accept(b"EVENT") {
                self.create(parser, &schema);
            } else if replace {
                self.drop_schema(parser);
            }
        } else if parser.accept(b"ALTER") {
            parser.pass_definer();
            if parser.accept(b"EVENT") {
                self.alter(parser, &schema);
            }
        } else if parser.accept(b"DROP") {
            if parser.accept(b"EVENT") {
                parser.accept_if_exists();
                if let Some(name) = event_name(&mut parser, &schema) {
                    self.0.remove(&name);
                }
            } else {
                self.drop_schema(parser);
            }
        }
    }

    fn create(&mut self, mut parser: Parser<'_>, schema: &str) {
        let if_not_exists = parser.accept_if_exists();
        let Some(name) = event_name(&mut parser, schema) else { return };
        if if_not_exists && self.0.contains_key(&name) {
            return;
        }
        let status = clauses(parser, schema).status.unwrap_or(EventStatus::Enabled);
        self.0.insert(name, status);
    }

    fn alter(&mut self, mut parser: Parser<'_>, schema: &str) {
        let Some(name) = event_name(&mut parser, schema) else { return };
        let clauses = clauses(parser, schema);
        let before = self.0.remove(&name).unwrap_or_else(|| EventStatus::Unchanged(name.clone()));
        self.0.insert(clauses.renamed.unwrap_or(name), clauses.status.unwrap_or(before));
    }

    fn drop_schema(&mut self, mut parser: Parser<'_>) {
        if !parser.accept(b"DATABASE") && !parser.accept(b"SCHEMA") {
            return;
        }
        parser.accept_if_exists();
        if let Some(schema) = parser.name() {
            self.0.retain(|event, _| event.schema != schema);
        }
    }
}

fn event_name(parser: &mut Parser<'_>, default_schema: &str) -> Option<EventName> {
    let name = parser.table_name()?;
    Some(EventName {
        schema: name.schema.unwrap_or_else(|| default_schema.to_owned()),
        name: name.table.to_lowercase(),
    })
}

/// What CREATE and ALTER EVENT say before their body.
#[derive(Default)]
struct Clauses {
    status: Option<EventStatus>,
    renamed: Option<EventName>,
}

fn clauses(mut parser: Parser<'_>, schema: &str) -> Clauses {
    let mut clauses = Clauses::default();
    let mut depth = 0usize;
    loop {
        if depth == 0 {
            if parser.accept(b"DO") {
                return clauses;
            }
            if parser.accept(b"ENABLE") {
                clauses.status = Some(EventStatus::Enabled);
                continue;
            }
            if parser.accept(b"DISABLE") {
                let on_replica = parser.accept(b"ON") && (parser.accept(b"SLAVE") || parser.accept(b"REPLICA"));
                clauses.status = Some(if on_replica { EventStatus::SlavesideDisabled } else { EventStatus::Disabled });
                continue;
            }
            if parser.accept(b"RENAME") && parser.accept(b"TO") {
                clauses.renamed = event_name(&mut parser, schema);
                continue;
            }
        }
        match parser.token() {
            None => return clauses,
            Some(Token::Mark(b'(')) => depth += 1,
            Some(Token::Mark(b')')) => depth = depth.saturating_sub(1),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(statements: &[&str], expected: &str) {
        let mut statuses = EventStatuses::default();
        for statement in statements {
            statuses.apply(statement.as_bytes(), b"shop", SqlMode::default());
        }
        let found: Vec<String> = statuses
            .iter()
            .map(|(event, status)| match status {
                EventStatus::Unchanged(of) => format!("{}.{}=as {}.{}", event.schema, event.name, of.schema, of.name),
                other => format!("{}.{}={other:?}", event.schema, event.name),
            })
            .collect();
        assert_eq!(found.join(" "), expected, "{statements:?}");
    }

    const DAILY: &str = "CREATE DEFINER=`root`@`localhost` event E1 on schedule every 1 day do delete from t";

    #[test]
    fn a_created_event_is_enabled_unless_it_says_otherwise() {
        check(&[DAILY], "shop.e1=Enabled");
        check(&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 'enable'"], "shop.e=Disabled");
        check(
            &[
                "create event `x y`.e on schedule at now() + interval 1 day comment 'do enable' disable on slave do set @enable = 1",
            ],
            "x y.e=SlavesideDisabled",
        );
        check(
            &["/*!50106 CREATE */ /*!50117 DEFINER=`u`@`%` */ /*!50106 EVENT e ON SCHEDULE EVERY 1 DAY DO DO 1 */"],
            "shop.e=Enabled",
        );
    }

    #[test]
    fn an_altered_event_keeps_what_the_statement_does_not_name() {
        check(&[DAILY, "ALTER EVENT e1 DISABLE"], "shop.e1=Disabled");
        check(&[DAILY, "ALTER EVENT e1 DISABLE", "alter event shop.e1 do set @a = 'enable'"], "shop.e1=Disabled");
        check(&["ALTER DEFINER=CURRENT_USER() EVENT e1 COMMENT 'x'"], "shop.e1=as shop.e1");
        check(&["ALTER EVENT e1 RENAME TO other.e2", "ALTER EVENT other.e2 RENAME TO e3"], "shop.e3=as shop.e1");
        check(&["ALTER EVENT e1 RENAME TO e2 ENABLE"], "shop.e2=Enabled");
    }

    #[test]
    fn an_event_that_exists_already_stays_as_it_was() {
        check(
            &[DAILY, "ALTER EVENT e1 DISABLE", "CREATE EVENT IF NOT EXISTS e1 ON SCHEDULE EVERY 2 DAY DO SELECT 1"],
            "shop.e1=Disabled",
        );
        check(
            &[DAILY, "ALTER EVENT e1 DISABLE", "CREATE OR REPLACE EVENT e1 ON SCHEDULE EVERY 2 DAY DO SELECT 1"],
            "shop.e1=Enabled",
        );
    }

    #[test]
    fn dropped_events_and_schemas_are_forgotten() {
        check(&[DAILY, "DROP EVENT IF EXISTS E1"], "");
        check(&[DAILY, "DROP DATABASE IF EXISTS `shop`"], "");
        check(&[DAILY, "CREATE OR REPLACE DATABASE shop"], "");
        check(&[DAILY, "DROP TABLE shop"], "shop.e1=Enabled");
        check(&[DAILY, "DROP EVENT"], "shop.e1=Enabled");
    }
}
