//! Events to transactions: where one begins and where it ends, whichever server wrote them.

use crate::binlog::event::{Event, Flavour, FormatDescription, event_type};
use crate::binlog::{mariadb, mysql};
use crate::domain::gtid::Gtid;
use crate::error::Error;

/// What is known of a transaction by its events' order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// None on MySQL under `gtid_mode=OFF`.
    pub(crate) gtid: Option<Gtid>,
    /// The stamp of its GTID event, microseconds since 1970.
    pub(crate) stamped_at: i64,
    /// It is one statement without a commit event behind it. On MySQL known with its last event.
    pub(crate) is_standalone: bool,
    /// The prepare, commit or rollback of an XA transaction. On MySQL known from its first statement on, if not packed.
    pub(crate) is_xa: bool,
    /// An ALTER TABLE that has only begun, or was given up: nothing changes with it.
    pub(crate) is_unfinished_alter: bool,
}

/// The transaction an event belongs to, and where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) head: Head,
    /// Offset of its GTID event.
    pub(crate) begin: u64,
    /// On MySQL: `BEGIN` or `XA START` was seen, more than one event may follow.
    pub(super) is_explicit: bool,
}

impl Group {
    /// The transaction whose GTID event this is.
    pub(super) fn begin(head: Head, event: &Event<'_>) -> Group {
        Group { head, begin: event.position, is_explicit: false }
    }
}

/// What an event is to the transactions around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Format description, Gtid_list or Previous_gtids.
    Header,
    /// Between two transactions and of no consequence to data.
    Between,
    /// The server notes that it lost events; on MySQL that may have a GTID.
    Incident(Option<Gtid>),
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
    /// Known with the file's first event.
    flavour: Option<Flavour>,
    open: Option<Group>,
    boundary: u64,
}

impl Groups {
    /// Goes on at `position`, a boundary.
    pub(crate) fn resume(position: u64, format: &FormatDescription) -> Groups {
        Groups { flavour: Some(format.flavour()), open: None, boundary: position }
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
        let flavour = match self.flavour {
            Some(flavour) => flavour,
            None if event.header.event_type == event_type::FORMAT_DESCRIPTION => {
                *self.flavour.insert(FormatDescription::parse(event.raw)?.flavour())
            }
            None => return Err(event.malformed("the binlog file without a format description")),
        };
        let step = match (flavour, self.open) {
            (Flavour::Mariadb, None) => mariadb::between(event)?,
            (Flavour::Mariadb, Some(group)) => mariadb::inside(group, event)?,
            (Flavour::Mysql, None) => mysql::group::between(event)?,
            (Flavour::Mysql, Some(group)) => mysql::group::inside(group, event)?,
        };
        match step {
            Step::Begun(group) | Step::Inside(group) => self.open = Some(group),
            Step::Header | Step::Between | Step::Incident(_) | Step::Ended(_) | Step::Rotated | Step::Stopped => {
                self.open = None;
                self.boundary = event.end();
            }
        }
        Ok(step)
    }
}
