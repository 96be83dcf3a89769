//! Facts of transactions: pushes every event through, one file, in order; gives a `MysqlTransaction` at each one's end.

use crate::binlog::body::{Query, rotate, table_map};
use crate::binlog::draft::{Draft, is_transaction_control};
use crate::binlog::event::{Event, FormatDescription, event_type as common};
use crate::binlog::mysql::event::{GtidEvent, event_type, previous_gtids, rows_query};
use crate::binlog::mysql::group::{Groups, Step};
use crate::binlog::mysql::payload;
use crate::binlog::scanner::Pushed;
use crate::domain::gtid_set::{GtidSet, MysqlGtid};
use crate::domain::transaction::TransactionKind;
use crate::error::{Error, ErrorKind};

/// A committed transaction, as `domain::transaction::Transaction` has it, but for the GTID and the unit of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MysqlTransaction {
    /// None under `gtid_mode=OFF`.
    pub(crate) gtid: Option<MysqlGtid>,
    /// Offset of its GTID event.
    pub(crate) begin: u64,
    /// One past its last event.
    pub(crate) end: u64,
    /// When the server says it committed it, microseconds since 1970.
    pub(crate) stamped_at: i64,
    /// The commit time, microseconds since 1970, by the rule of `domain::chunk::ChunkFacts::clock_before`.
    pub(crate) committed_at: i64,
    pub(crate) kind: TransactionKind,
    pub(crate) statement: Option<String>,
    pub(crate) default_schema: String,
    pub(crate) tables: Vec<String>,
    pub(crate) row_events: u32,
    pub(crate) destructive: bool,
}

/// Where and with what knowledge to go on in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPoint {
    /// A boundary: offset behind a whole transaction or an event between transactions.
    pub(crate) position: u64,
    pub(crate) format: FormatDescription,
    /// Commit time of the last transaction of the timeline up to here, microseconds since 1970; 0 when there is none.
    pub(crate) clock: i64,
    pub(crate) executed: GtidSet,
}

/// Follows one binlog file.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    groups: Groups,
    format: Option<FormatDescription>,
    clock: i64,
    executed: GtidSet,
    open: Option<Open>,
}

/// A transaction that is not over.
#[derive(Debug, Clone)]
struct Open {
    gtid: Option<MysqlGtid>,
    begin: u64,
    is_xa: bool,
    /// One statement without a commit event behind it.
    is_standalone: bool,
    draft: Draft,
}

impl Scanner {
    /// Begins a file. `clock` is the commit time of the timeline's last transaction before it, 0 when there is none.
    pub(crate) fn begin(clock: i64) -> Scanner {
        Scanner { groups: Groups::default(), format: None, clock, executed: GtidSet::default(), open: None }
    }

    pub(crate) fn resume(point: ScanPoint) -> Scanner {
        Scanner {
            groups: Groups::resume(point.position),
            format: Some(point.format),
            clock: point.clock,
            executed: point.executed,
            open: None,
        }
    }

    /// Takes the next event, read from the server at `observed_at`, microseconds since 1970.
    ///
    /// Fails with `Unsupported` on events that are not MySQL's, `Corrupt` on bodies and orders of events that no server
    /// writes. After a failure the scanner is of no more use.
    pub(crate) fn push(&mut self, event: &Event<'_>, observed_at: i64) -> Result<Pushed<MysqlTransaction>, Error> {
        if self.format.is_none() && event.header.event_type != common::FORMAT_DESCRIPTION {
            return Err(Error::new(ErrorKind::Corrupt, "the binlog file does not begin with a format description"));
        }
        match self.groups.step(event)? {
            Step::Header if event.header.event_type == common::FORMAT_DESCRIPTION => {
                self.format = Some(FormatDescription::parse(event.raw)?);
                Ok(Pushed::Header)
            }
            Step::Header => {
                self.executed = previous_gtids(event)?;
                Ok(Pushed::Header)
            }
            Step::Between => Ok(Pushed::Between),
            // An incident is shipped like everything else; whoever replays it refuses.
            Step::Incident => {
                if let Some(gtid) = self.open.take().and_then(|open| open.gtid) {
                    self.executed.add(&gtid);
                }
                Ok(Pushed::Between)
            }
            Step::Begun => {
                let head = GtidEvent::parse(event)?;
                let seconds = i64::from(event.header.timestamp);
                let stamp =
                    head.committed_at.and_then(|micros| i64::try_from(micros).ok()).unwrap_or(seconds * 1_000_000);
                let draft = Draft::begin(stamp);
                self.open =
                    Some(Open { gtid: head.gtid, begin: event.position, is_xa: false, is_standalone: false, draft });
                Ok(Pushed::Inside)
            }
            Step::Inside => {
                if let Some(open) = &mut self.open {
                    open.add(event)?;
                }
                Ok(Pushed::Inside)
            }
            Step::Ended => {
                // The groups have seen its GTID event, so it is open.
                let Some(mut open) = self.open.take() else { return Err(event.malformed("the transaction that ends")) };
                open.add(event)?;
                open.is_standalone =
                    event.header.event_type == common::QUERY && !Query::parse(event)?.ends_transaction();
                Ok(Pushed::Transaction(self.commit(open, event, observed_at)))
            }
            Step::Rotated => Ok(Pushed::Rotated { next: rotate(event)? }),
            Step::Stopped => Ok(Pushed::Stopped),
        }
    }

    fn commit(&mut self, open: Open, event: &Event<'_>, observed_at: i64) -> MysqlTransaction {
        let Open { gtid, begin, is_xa, is_standalone, draft } = open;
        self.clock = self.clock.max(draft.stamped_at.min(observed_at));
        if let Some(gtid) = &gtid {
            self.executed.add(gtid);
        }
        let kind = if is_xa {
            TransactionKind::Xa
        } else if is_standalone || draft.definition {
            TransactionKind::Ddl
        } else {
            TransactionKind::Dml
        };
        MysqlTransaction {
            gtid,
            begin,
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

    /// Offset in the file behind the last whole transaction or event between transactions.
    pub(crate) fn boundary(&self) -> u64 {
        self.groups.boundary()
    }

    /// Known after the file's first event.
    pub(crate) fn format(&self) -> Option<&FormatDescription> {
        self.format.as_ref()
    }

    /// Everything committed up to `boundary`; known after the file's header.
    ///
    /// What a Previous_gtids event says can lack a transaction that was committed while the file was changed (MySQL bug
    /// 118797), so whoever follows more than one file unites the sets.
    pub(crate) fn executed(&self) -> &GtidSet {
        &self.executed
    }

    /// Commit time of the last transaction, microseconds since 1970.
    pub(crate) fn clock(&self) -> i64 {
        self.clock
    }

    /// What it takes to go on at `boundary` later; `None` before the file's first event.
    pub(crate) fn scan_point(&self) -> Option<ScanPoint> {
        Some(ScanPoint {
            position: self.boundary(),
            format: self.format.clone()?,
            clock: self.clock,
            executed: self.executed.clone(),
        })
    }
}

impl Open {
    fn add(&mut self, event: &Event<'_>) -> Result<(), Error> {
        match event.header.event_type {
            event_type::TRANSACTION_PAYLOAD => payload::for_each_event(event, |inner| self.add_single(inner)),
            _ => self.add_single(event),
        }
    }

    fn add_single(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let draft = &mut self.draft;
        match event.header.event_type {
            common::TABLE_MAP => {
                let (schema, table) = table_map(event)?;
                draft.add_table(schema, table);
            }
            event_type::ROWS_QUERY => draft.add_text(rows_query(event)),
            common::XA_PREPARE => self.is_xa = true,
            common::QUERY | common::EXECUTE_LOAD_QUERY => {
                let query = Query::parse(event)?;
                self.is_xa |= query.text.starts_with(b"XA ");
                if !is_transaction_control(&query.text) {
                    let is_destructive = draft.add_query(&query);
                    draft.destructive |= is_destructive;
                }
            }
            event_type::PARTIAL_UPDATE_ROWS => draft.row_events = draft.row_events.saturating_add(1),
            other if common::is_rows(other) => draft.row_events = draft.row_events.saturating_add(1),
            _ => {}
        }
        Ok(())
    }
}
