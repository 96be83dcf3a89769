//! Facts of transactions: pushes every event through, one file, in order; gives a `Transaction` at each one's end.

use crate::binlog::body::{Query, gtid_list, rotate, table_map};
use crate::binlog::draft::{Draft, is_transaction_control};
use crate::binlog::event::{Event, FormatDescription, event_type};
use crate::binlog::group::{Group, Groups, Step};
use crate::domain::gtid::BinlogState;
use crate::domain::transaction::{Transaction, TransactionKind};
use crate::error::{Error, ErrorKind};

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
pub(crate) enum Pushed<T = Transaction> {
    /// Format description or Gtid_list: `format` and `state` are known now.
    Header,
    /// Part of a transaction that is not over.
    Inside,
    /// Nothing that changes data.
    Between,
    /// A transaction is over.
    Transaction(T),
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
                self.draft = Draft::begin(event.header.timestamp.into());
                Ok(Pushed::Inside)
            }
            Step::Inside(group) => {
                self.add(event, group)?;
                Ok(Pushed::Inside)
            }
            Step::Ended(group) => {
                self.add(event, group)?;
                Ok(Pushed::Transaction(self.commit(event, group, observed_at)))
            }
            Step::Rotated => Ok(Pushed::Rotated { next: rotate(event)? }),
            Step::Stopped => Ok(Pushed::Stopped),
        }
    }

    fn add(&mut self, event: &Event<'_>, group: Group) -> Result<(), Error> {
        let draft = &mut self.draft;
        match event.header.event_type {
            event_type::TABLE_MAP => {
                let (schema, table) = table_map(event)?;
                draft.add_table(schema, table);
            }
            event_type::ANNOTATE_ROWS => draft.add_text(event.body),
            event_type::QUERY | event_type::QUERY_COMPRESSED | event_type::EXECUTE_LOAD_QUERY => {
                let query = Query::parse(event)?;
                if group.head.is_standalone() || !is_transaction_control(&query.text) {
                    let is_destructive = draft.add_query(&query);
                    draft.destructive |= is_destructive && !group.head.is_unfinished_alter();
                }
            }
            other if event_type::is_rows(other) => draft.row_events = draft.row_events.saturating_add(1),
            _ => {}
        }
        Ok(())
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
