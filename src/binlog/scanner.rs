//! Facts of transactions: pushes every event through, one file, in order; gives a `Transaction` at each one's end.

use crate::binlog::body::{Query, rotate, table_map};
use crate::binlog::draft::{Draft, is_transaction_control};
use crate::binlog::event::{Event, FormatDescription, event_type};
use crate::binlog::group::{Group, Groups, Head, Step};
use crate::binlog::mariadb::gtid_list;
use crate::binlog::mysql::event::{event_type as mysql, previous_gtids, rows_query};
use crate::binlog::mysql::payload;
use crate::domain::gtid::{BinlogState, Gtid};
use crate::domain::transaction::{Transaction, TransactionKind};
use crate::error::{Error, ErrorKind};

/// Where and with what knowledge to go on in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPoint {
    /// A boundary: offset behind a whole transaction or an event between transactions.
    pub(crate) position: u64,
    pub(crate) format: FormatDescription,
    /// Commit time of the last transaction of the timeline up to here, microseconds since 1970; 0 when there is none.
    pub(crate) clock: i64,
    pub(crate) state: BinlogState,
}

/// What an event was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Format description, Gtid_list or Previous_gtids: `format` and `state` are known now.
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
            groups: Groups::resume(point.position, &point.format),
            format: Some(point.format),
            clock: point.clock,
            state: point.state,
            draft: Draft::default(),
        }
    }

    /// Takes the next event, read from the server at `observed_at`, microseconds since 1970.
    ///
    /// Fails with `Refused` on an encrypted binlog, `Unsupported` on events that its server does not write, `Corrupt` on bodies
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
                self.state = listed(event)?;
                Ok(Pushed::Header)
            }
            Step::Between => Ok(Pushed::Between),
            // An incident is shipped like everything else; whoever replays it refuses.
            Step::Incident(gtid) => {
                gtid.inspect(|gtid| self.state.apply(*gtid));
                Ok(Pushed::Between)
            }
            Step::Begun(_) => {
                self.draft = Draft::default();
                Ok(Pushed::Inside)
            }
            Step::Inside(group) => {
                add(&mut self.draft, event, group)?;
                Ok(Pushed::Inside)
            }
            Step::Ended(group) => {
                add(&mut self.draft, event, group)?;
                Ok(Pushed::Transaction(self.commit(event, group, observed_at)))
            }
            Step::Rotated => Ok(Pushed::Rotated { next: rotate(event)? }),
            Step::Stopped => Ok(Pushed::Stopped),
        }
    }

    fn commit(&mut self, event: &Event<'_>, group: Group, observed_at: i64) -> Transaction {
        let draft = std::mem::take(&mut self.draft);
        let Head { gtid, stamped_at, .. } = group.head;
        self.clock = self.clock.max(stamped_at.min(observed_at));
        gtid.inspect(|gtid| self.state.apply(*gtid));
        let kind = if group.head.is_xa || draft.is_xa {
            TransactionKind::Xa
        } else if group.head.is_standalone || draft.definition {
            TransactionKind::Ddl
        } else {
            TransactionKind::Dml
        };
        Transaction {
            gtid,
            begin: group.begin,
            end: event.end(),
            stamped_at,
            committed_at: self.clock,
            kind,
            statement: (!draft.statement.is_empty()).then_some(draft.statement),
            default_schema: draft.default_schema,
            tables: draft.tables,
            row_events: draft.row_events,
            as_statements: draft.as_statements,
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
    ///
    /// What a Previous_gtids event says can lack a transaction that was committed while the file was changed (MySQL bug
    /// 118797), so whoever follows more than one file merges the states.
    pub(crate) fn state(&self) -> &BinlogState {
        &self.state
    }

    /// Commit time of the last transaction, microseconds since 1970.
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

/// What had been written before the file, by its Gtid_list or Previous_gtids event.
fn listed(event: &Event<'_>) -> Result<BinlogState, Error> {
    if event.header.event_type == mysql::PREVIOUS_GTIDS {
        return Ok(previous_gtids(event)?.into());
    }
    let mut state = BinlogState::default();
    for gtid in gtid_list(event)? {
        state.apply(Gtid::Mariadb(gtid));
    }
    Ok(state)
}

fn add(draft: &mut Draft, event: &Event<'_>, group: Group) -> Result<(), Error> {
    match event.header.event_type {
        mysql::TRANSACTION_PAYLOAD => payload::for_each_event(event, |inner| add_single(draft, inner, group)),
        _ => add_single(draft, event, group),
    }
}

fn add_single(draft: &mut Draft, event: &Event<'_>, group: Group) -> Result<(), Error> {
    match event.header.event_type {
        event_type::TABLE_MAP => {
            let (schema, table) = table_map(event)?;
            draft.add_table(schema, table);
        }
        event_type::ANNOTATE_ROWS => draft.add_text(event.body),
        mysql::ROWS_QUERY => draft.add_text(rows_query(event)),
        // Packed, it is known here first.
        event_type::XA_PREPARE => draft.is_xa = true,
        event_type::QUERY | event_type::QUERY_COMPRESSED | event_type::EXECUTE_LOAD_QUERY => {
            let query = Query::parse(event)?;
            if group.head.is_standalone || !is_transaction_control(&query.text) {
                let facts = draft.add_query(&query);
                draft.destructive |= facts.destructive && !group.head.is_unfinished_alter;
                draft.as_statements |=
                    !group.head.is_standalone && !facts.definition && !query.text.starts_with(b"XA ");
            }
        }
        mysql::PARTIAL_UPDATE_ROWS => draft.row_events = draft.row_events.saturating_add(1),
        other if event_type::is_rows(other) => draft.row_events = draft.row_events.saturating_add(1),
        _ => {}
    }
    Ok(())
}
