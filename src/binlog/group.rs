//! Events to transactions: where one begins and where it ends.

use crate::binlog::body::{GtidEvent, Query};
use crate::binlog::event::{Event, FIRST_POSITION, event_type};
use crate::error::{Error, ErrorKind};

/// The transaction an event belongs to, and where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) head: GtidEvent,
    /// Offset of its GTID event.
    pub(crate) begin: u64,
}

/// What an event is to the transactions around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Format description or Gtid_list.
    Header,
    /// Between two transactions and of no consequence to data.
    Between,
    /// The server notes that it lost events.
    Incident,
    /// The GTID event of a transaction.
    Begun(Group),
    Inside(Group),
    /// The last event of a transaction.
    Ended(Group),
    Rotated,
    Stopped,
}

/// Follows the events of one file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Groups {
    open: Option<Group>,
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

    /// Takes the next event. Fails on an order of events that no server writes, and on what cannot be read: encryption,
    /// other servers' events.
    pub(crate) fn step(&mut self, event: &Event<'_>) -> Result<Step, Error> {
        let event_type = event.header.event_type;
        if event_type == event_type::START_ENCRYPTION {
            return Err(Error::new(ErrorKind::Refused, "the binlog is encrypted (encrypt_binlog=ON)")
                .hint("Set encrypt_binlog=OFF in the server's option file and restart it, then take a new backup."));
        }
        let step = match self.open {
            Some(group) => self.step_inside(group, event)?,
            None => self.step_between(event)?,
        };
        match step {
            Step::Begun(group) => self.open = Some(group),
            Step::Inside(_) => {}
            Step::Header | Step::Between | Step::Incident | Step::Ended(_) | Step::Rotated | Step::Stopped => {
                self.open = None;
                self.boundary = event.end();
            }
        }
        Ok(step)
    }

    fn step_between(&self, event: &Event<'_>) -> Result<Step, Error> {
        Ok(match event.header.event_type {
            event_type::FORMAT_DESCRIPTION if event.position == FIRST_POSITION => Step::Header,
            event_type::GTID_LIST => Step::Header,
            event_type::GTID => Step::Begun(Group { head: GtidEvent::parse(event)?, begin: event.position }),
            event_type::BINLOG_CHECKPOINT => Step::Between,
            event_type::ROTATE => Step::Rotated,
            event_type::STOP => Step::Stopped,
            event_type::INCIDENT => Step::Incident,
            _ if event.header.is_ignorable() => Step::Between,
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("an event of type {other} stands outside of any transaction at {}", event.position),
                )
                .hint("Only binlogs that MariaDB 10.2 and later wrote themselves can be read."));
            }
        })
    }

    fn step_inside(&self, group: Group, event: &Event<'_>) -> Result<Step, Error> {
        let ended = match event.header.event_type {
            event_type::XID | event_type::XA_PREPARE => true,
            event_type::QUERY => group.head.is_standalone() || Query::parse(event)?.ends_transaction(),
            event_type::QUERY_COMPRESSED => group.head.is_standalone(),
            event_type::FORMAT_DESCRIPTION
            | event_type::GTID
            | event_type::GTID_LIST
            | event_type::ROTATE
            | event_type::STOP
            | event_type::INCIDENT => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "transaction {} at {} has no end before the event of type {} at {}",
                        group.head.gtid, group.begin, event.header.event_type, event.position
                    ),
                ));
            }
            _ => false,
        };
        Ok(if ended { Step::Ended(group) } else { Step::Inside(group) })
    }
}
