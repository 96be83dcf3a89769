//! Facts of transactions: pushes every event through, one file, in order; gives a `Transaction` at each one's end.

use crate::binlog::body::{Query, gtid_list, rotate, table_map};
use crate::binlog::event::{Event, FormatDescription, event_type};
use crate::binlog::group::{Group, Groups, Step};
use crate::binlog::statement::{StatementFacts, TableName, without_secrets};
use crate::domain::gtid::BinlogState;
use crate::domain::transaction::{Transaction, TransactionKind};
use crate::error::{Error, ErrorKind};

/// What stands between the statements of one transaction.
const STATEMENT_SEPARATOR: &str = ";\n";

/// Where and with what knowledge to go on in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPoint {
    /// A boundary: offset behind a whole transaction or an event between transactions.
    pub(crate) position: u64,
    pub(crate) format: FormatDescription,
    /// Commit time of the last transaction of the timeline up to here, seconds since 1970; 0 when there is none.
    pub(crate) clock: i64,
    pub(crate) state: BinlogState,
}

/// What an event was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Format description or Gtid_list: `format` and `state` are known now.
    Header,
    /// Part of a transaction that is not over.
    Inside,
    /// Nothing that changes data.
    Between,
    /// A transaction is over.
    Transaction(Transaction),
    /// The file is closed and `next` follows it.
    Rotated { next: String },
    /// The file is closed: the server was shut down.
    Stopped,
}

/// Follows one binlog file.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    groups: Groups,
    format: Option<FormatDescription>,
    clock: i64,
    state: BinlogState,
    draft: Draft,
}

impl Scanner {
    /// Begins a file. `clock` is the commit time of the timeline's last transaction before it, 0 when there is none.
    pub(crate) fn begin(clock: i64) -> Scanner {
        Scanner {
            groups: Groups::default(),
            format: None,
            clock,
            state: BinlogState::default(),
            draft: Draft::default(),
        }
    }

    pub(crate) fn resume(point: ScanPoint) -> Scanner {
        Scanner {
            groups: Groups::resume(point.position),
            format: Some(point.format),
            clock: point.clock,
            state: point.state,
            draft: Draft::default(),
        }
    }

    /// Takes the next event, read from the server at `observed_at`, seconds since 1970.
    ///
    /// Fails with `Refused` on an encrypted binlog, `Unsupported` on events that are not MariaDB's, `Corrupt` on bodies
    /// and orders of events that no server writes. After a failure the scanner is of no more use.
    pub(crate) fn push(&mut self, event: &Event<'_>, observed_at: i64) -> Result<Pushed, Error> {
        if self.format.is_none() && event.header.event_type != event_type::FORMAT_DESCRIPTION {
            return Err(Error::new(ErrorKind::Corrupt, "the binlog file does not begin with a format description"));
        }
        match self.groups.step(event)? {
            Step::Header if event.header.event_type == event_type::FORMAT_DESCRIPTION => {
                self.format = Some(FormatDescription::parse(event.raw)?);
                Ok(Pushed::Header)
            }
            Step::Header => {
                self.state = BinlogState::default();
                for gtid in gtid_list(event)? {
                    self.state.apply(gtid);
                }
                Ok(Pushed::Header)
            }
            // An incident is shipped like everything else; whoever replays it refuses.
            Step::Between | Step::Incident => Ok(Pushed::Between),
            Step::Begun(_) => {
                self.draft = Draft { stamped_at: event.header.timestamp.into(), ..Draft::default() };
                Ok(Pushed::Inside)
            }
            Step::Inside(group) => {
                self.draft.add(event, group)?;
                Ok(Pushed::Inside)
            }
            Step::Ended(group) => {
                self.draft.add(event, group)?;
                Ok(Pushed::Transaction(self.commit(event, group, observed_at)))
            }
            Step::Rotated => Ok(Pushed::Rotated { next: rotate(event)? }),
            Step::Stopped => Ok(Pushed::Stopped),
        }
    }

    fn commit(&mut self, event: &Event<'_>, group: Group, observed_at: i64) -> Transaction {
        let draft = std::mem::take(&mut self.draft);
        let gtid = group.head.gtid;
        self.clock = self.clock.max(draft.stamped_at.min(observed_at));
        self.state.apply(gtid);
        let kind = if group.head.is_xa() {
            TransactionKind::Xa
        } else if group.head.is_standalone() || draft.definition {
            TransactionKind::Ddl
        } else {
            TransactionKind::Dml
        };
        Transaction {
            gtid,
            begin: group.begin,
            end: event.end(),
            stamped_at: draft.stamped_at,
            committed_at: self.clock,
            kind,
            statement: (!draft.statement.is_empty()).then_some(draft.statement),
            default_schema: draft.default_schema,
            tables: draft.tables,
            row_events: draft.row_events,
            destructive: draft.destructive,
        }
    }

    /// Offset in the file behind the last whole transaction or event between transactions. In a file that has a
    /// successor, nothing behind its last boundary was committed.
    pub(crate) fn boundary(&self) -> u64 {
        self.groups.boundary()
    }

    /// Known after the file's first event.
    pub(crate) fn format(&self) -> Option<&FormatDescription> {
        self.format.as_ref()
    }

    /// The binlog state at `boundary`; known after the file's header.
    pub(crate) fn state(&self) -> &BinlogState {
        &self.state
    }

    /// Commit time of the last transaction, seconds since 1970.
    pub(crate) fn clock(&self) -> i64 {
        self.clock
    }

    /// What it takes to go on at `boundary` later; `None` before the file's first event.
    #[cfg(test)]
    pub(crate) fn scan_point(&self) -> Option<ScanPoint> {
        Some(ScanPoint {
            position: self.boundary(),
            format: self.format.clone()?,
            clock: self.clock,
            state: self.state.clone(),
        })
    }
}

/// What is known of a transaction before its end.
#[derive(Debug, Clone, Default)]
struct Draft {
    stamped_at: i64,
    statement: String,
    statement_is_full: bool,
    default_schema: String,
    tables: Vec<String>,
    row_events: u32,
    destructive: bool,
    definition: bool,
}

impl Draft {
    fn add(&mut self, event: &Event<'_>, group: Group) -> Result<(), Error> {
        match event.header.event_type {
            event_type::TABLE_MAP => {
                let (schema, table) = table_map(event)?;
                self.add_table(schema, table);
            }
            event_type::ANNOTATE_ROWS => self.add_text(event.body),
            event_type::QUERY | event_type::QUERY_COMPRESSED | event_type::EXECUTE_LOAD_QUERY => {
                let query = Query::parse(event)?;
                if group.head.is_standalone() || !is_transaction_control(&query.text) {
                    self.add_query(&query, group);
                }
            }
            other if event_type::is_rows(other) => self.row_events = self.row_events.saturating_add(1),
            _ => {}
        }
        Ok(())
    }

    fn add_query(&mut self, query: &Query<'_>, group: Group) {
        let facts = StatementFacts::of(&query.text, query.sql_mode);
        if self.default_schema.is_empty() {
            self.default_schema = String::from_utf8_lossy(query.schema).into_owned();
        }
        if facts.secret {
            self.add_text(&without_secrets(&query.text, query.sql_mode));
        } else {
            self.add_text(&query.text);
        }
        self.destructive |= facts.destructive && !group.head.is_unfinished_alter();
        self.definition |= facts.definition;
        for TableName { schema, table } in &facts.tables {
            self.add_table(schema.as_deref().map_or(query.schema, str::as_bytes), table.as_bytes());
        }
    }

    fn add_table(&mut self, schema: &[u8], table: &[u8]) {
        let is_same = |known: &String| {
            let known = known.as_bytes();
            known.len() == schema.len() + 1 + table.len()
                && known.starts_with(schema)
                && known.ends_with(table)
                && known.get(schema.len()) == Some(&b'.')
        };
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
    fn add_text(&mut self, text: &[u8]) {
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
fn is_transaction_control(text: &[u8]) -> bool {
    let starts: [&[u8]; 7] =
        [b"COMMIT", b"ROLLBACK", b"BEGIN", b"SAVEPOINT ", b"XA START ", b"XA END ", b"RELEASE SAVEPOINT "];
    starts.iter().any(|start| text.starts_with(start))
}
