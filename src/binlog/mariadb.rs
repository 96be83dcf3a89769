//! Transactions in MariaDB's binlogs: what opens one, and where it ends.

use crate::binlog::body::Query;
use crate::binlog::event::{Event, FIRST_POSITION, Fields, event_type};
use crate::binlog::group::{Group, Head, Step};
use crate::domain::gtid::{Gtid, MariadbGtid};
use crate::domain::transaction::MICROSECONDS;
use crate::error::{Error, ErrorKind};

/// A GTID event: a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GtidEvent {
    gtid: MariadbGtid,
    flags: u8,
    flags_extra: u8,
}

impl GtidEvent {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    const START_ALTER: u8 = 2;
    const ROLLBACK_ALTER: u8 = 8;

    fn parse(event: &Event<'_>) -> Result<GtidEvent, Error> {
        let parsed = (|| {
            let mut fields = Fields::new(event.body);
            let sequence = fields.u64()?;
            let domain = fields.u32()?;
            let flags = fields.u8()?;
            if flags & Self::GROUP_COMMIT_ID != 0 {
                fields.u64()?;
            }
            if flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0 {
                fields.u32()?;
                let lengths = [fields.u8()?, fields.u8()?];
                fields.take(lengths.into_iter().map(usize::from).sum())?;
            }
            // Absent, or zero padding, in everything but the two phases of an ALTER TABLE and multi-engine commits.
            let flags_extra = fields.u8().unwrap_or(0);
            let gtid = MariadbGtid { domain, server_id: event.header.server_id, sequence };
            Some(GtidEvent { gtid, flags, flags_extra })
        })();
        parsed.ok_or_else(|| event.malformed("the GTID event"))
    }

    /// What it says of its transaction.
    fn head(self, event: &Event<'_>) -> Head {
        Head {
            gtid: Some(Gtid::Mariadb(self.gtid)),
            stamped_at: i64::from(event.header.timestamp) * MICROSECONDS,
            is_standalone: self.is_standalone(),
            is_xa: self.is_xa(),
            is_unfinished_alter: self.is_unfinished_alter(),
        }
    }

    /// The transaction is one statement without a commit event behind it.
    fn is_standalone(&self) -> bool {
        self.flags & Self::STANDALONE != 0
    }

    /// The prepare, commit or rollback of an XA transaction.
    fn is_xa(&self) -> bool {
        self.flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0
    }

    /// An ALTER TABLE that has only begun, or was given up (`binlog_alter_two_phase`): nothing changes with it.
    fn is_unfinished_alter(&self) -> bool {
        self.flags_extra & (Self::START_ALTER | Self::ROLLBACK_ALTER) != 0
    }
}

/// The GTIDs of a Gtid_list event in the server's order: within a domain the last written comes last.
pub(super) fn gtid_list(event: &Event<'_>) -> Result<Vec<MariadbGtid>, Error> {
    let parsed = (|| {
        let mut fields = Fields::new(event.body);
        // The four high bits are flags.
        let count = fields.u32()? & 0x0fff_ffff;
        let entries = fields.rest();
        if entries.len() / 16 < usize::try_from(count).ok()? {
            return None;
        }
        let mut gtids = Vec::with_capacity(usize::try_from(count).ok()?);
        for _ in 0..count {
            gtids.push(MariadbGtid { domain: fields.u32()?, server_id: fields.u32()?, sequence: fields.u64()? });
        }
        Some(gtids)
    })();
    parsed.ok_or_else(|| event.malformed("the Gtid_list event"))
}

/// What an event between two transactions is.
pub(super) fn between(event: &Event<'_>) -> Result<Step, Error> {
    Ok(match event.header.event_type {
        event_type::FORMAT_DESCRIPTION if event.position == FIRST_POSITION => Step::Header,
        event_type::GTID_LIST => Step::Header,
        event_type::GTID => Step::Begun(Group::begin(GtidEvent::parse(event)?.head(event), event)),
        event_type::BINLOG_CHECKPOINT => Step::Between,
        event_type::START_ENCRYPTION => {
            return Err(Error::new(ErrorKind::Refused, "the binlog is encrypted (encrypt_binlog=ON)")
                .hint("Set encrypt_binlog=OFF in the server's option file and restart it, then take a new backup."));
        }
        event_type::ROTATE => Step::Rotated,
        event_type::STOP => Step::Stopped,
        event_type::INCIDENT => Step::Incident(None),
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

/// What an event is to the transaction it stands in.
pub(super) fn inside(group: Group, event: &Event<'_>) -> Result<Step, Error> {
    let ended = match event.header.event_type {
        event_type::XID | event_type::XA_PREPARE => true,
        event_type::QUERY => group.head.is_standalone || Query::parse(event)?.ends_transaction(),
        event_type::QUERY_COMPRESSED => group.head.is_standalone,
        event_type::FORMAT_DESCRIPTION
        | event_type::GTID
        | event_type::GTID_LIST
        | event_type::ROTATE
        | event_type::STOP
        | event_type::INCIDENT => {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the transaction at {} has no end before the event of type {} at {}",
                    group.begin, event.header.event_type, event.position
                ),
            ));
        }
        _ => false,
    };
    Ok(if ended { Step::Ended(group) } else { Step::Inside(group) })
}
