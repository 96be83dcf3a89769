//! Transactions in MySQL's binlogs: what opens one, and where it ends.

use crate::binlog::body::Query;
use crate::binlog::event::{Event, FIRST_POSITION, event_type as common};
use crate::binlog::group::{Group, Step};
use crate::binlog::mysql::event::{GtidEvent, event_type};
use crate::error::{Error, ErrorKind};

/// What an event is to the transaction it stands in.
pub(in crate::binlog) fn inside(mut group: Group, event: &Event<'_>) -> Result<Step, Error> {
    let event_type = event.header.event_type;
    Ok(match event_type {
        common::XID | event_type::TRANSACTION_PAYLOAD => Step::Ended(group),
        common::XA_PREPARE => {
            group.head.is_xa = true;
            Step::Ended(group)
        }
        common::QUERY => inside_query(group, &Query::parse(event)?),
        common::INCIDENT if !group.is_explicit => Step::Incident(group.head.gtid),
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
                    group.begin, event.position
                ),
            ));
        }
        _ => Step::Inside(group),
    })
}

fn inside_query(mut group: Group, query: &Query<'_>) -> Step {
    group.head.is_xa |= query.text.starts_with(b"XA ");
    if group.is_explicit {
        return if query.ends_transaction() { Step::Ended(group) } else { Step::Inside(group) };
    }
    if &*query.text == b"BEGIN" || query.text.starts_with(b"XA START ") {
        group.is_explicit = true;
        return Step::Inside(group);
    }
    group.head.is_standalone = true;
    Step::Ended(group)
}

/// What an event between two transactions is.
pub(in crate::binlog) fn between(event: &Event<'_>) -> Result<Step, Error> {
    Ok(match event.header.event_type {
        common::FORMAT_DESCRIPTION if event.position == FIRST_POSITION => Step::Header,
        event_type::PREVIOUS_GTIDS => Step::Header,
        event_type::GTID | event_type::ANONYMOUS_GTID | event_type::GTID_TAGGED => {
            Step::Begun(Group::begin(GtidEvent::parse(event)?.head(event), event))
        }
        common::ROTATE => Step::Rotated,
        common::STOP => Step::Stopped,
        common::INCIDENT => Step::Incident(None),
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
