//! Events to transactions: where one begins and where it ends.

use crate::binlog::body::Query;
use crate::binlog::event::{Event, FIRST_POSITION, event_type as common};
use crate::binlog::mysql::event::event_type;
use crate::error::{Error, ErrorKind};

/// What an event is to the transactions around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Format description or Previous_gtids.
    Header,
    /// Between two transactions and of no consequence to data.
    Between,
    /// The server notes that it lost events; it may have a GTID of its own.
    Incident,
    /// The GTID event of a transaction.
    Begun,
    Inside,
    /// The last event of a transaction.
    Ended,
    Rotated,
    Stopped,
}

/// A transaction that has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    begin: u64,
    /// `BEGIN` or `XA START` was seen: more than one event may follow.
    is_explicit: bool,
}

/// Follows the events of one file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Groups {
    open: Option<Open>,
    boundary: u64,
}

impl Groups {
    /// Goes on at `position`, a boundary.
    pub(crate) fn resume(position: u64) -> Groups {
        Groups { open: None, boundary: position }
    }

    /// Offset behind the last whole transaction or event between transactions.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary
    }

    /// Whether a transaction has begun and not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next event. Fails on an order of events that no server writes, and on other servers' events.
    pub(crate) fn step(&mut self, event: &Event<'_>) -> Result<Step, Error> {
        let step = match self.open {
            Some(open) => self.step_inside(open, event)?,
            None => step_between(event)?,
        };
        match step {
            Step::Begun => self.open = Some(Open { begin: event.position, is_explicit: false }),
            Step::Inside => {}
            Step::Header | Step::Between | Step::Incident | Step::Ended | Step::Rotated | Step::Stopped => {
                self.open = None;
                self.boundary = event.end();
            }
        }
        Ok(step)
    }

    fn step_inside(&mut self, open: Open, event: &Event<'_>) -> Result<Step, Error> {
        let event_type = event.header.event_type;
        Ok(match event_type {
            common::XID | common::XA_PREPARE | event_type::TRANSACTION_PAYLOAD => Step::Ended,
            common::QUERY => {
                let query = Query::parse(event)?;
                let begins = !open.is_explicit && (&*query.text == b"BEGIN" || query.text.starts_with(b"XA START "));
                if begins {
                    self.open = Some(Open { is_explicit: true, ..open });
                    Step::Inside
                } else if !open.is_explicit || query.ends_transaction() {
                    Step::Ended
                } else {
                    Step::Inside
                }
            }
            common::INCIDENT if !open.is_explicit => Step::Incident,
            common::FORMAT_DESCRIPTION
            | event_type::PREVIOUS_GTIDS
            | event_type::GTID
            | event_type::ANONYMOUS_GTID
            | event_type::GTID_TAGGED
            | common::ROTATE
            | common::STOP
            | common::INCIDENT => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the transaction at {} has no end before the event of type {event_type} at {}",
                        open.begin, event.position
                    ),
                ));
            }
            _ => Step::Inside,
        })
    }
}

fn step_between(event: &Event<'_>) -> Result<Step, Error> {
    Ok(match event.header.event_type {
        common::FORMAT_DESCRIPTION if event.position == FIRST_POSITION => Step::Header,
        event_type::PREVIOUS_GTIDS => Step::Header,
        event_type::GTID | event_type::ANONYMOUS_GTID | event_type::GTID_TAGGED => Step::Begun,
        common::ROTATE => Step::Rotated,
        common::STOP => Step::Stopped,
        common::INCIDENT => Step::Incident,
        event_type::HEARTBEAT | event_type::HEARTBEAT_V2 | event_type::IGNORABLE => Step::Between,
        _ if event.header.is_ignorable() => Step::Between,
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("an event of type {other} stands outside of any transaction at {}", event.position),
            )
            .hint("Only binlogs that MySQL 8.0 and later wrote themselves can be read."));
        }
    })
}
