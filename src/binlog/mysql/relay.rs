//! Relay logs that hold exactly the planned transactions, for MySQL's replication applier.
//!
//! As `binlog::relay` makes them for MariaDB; but between the format description and the first GTID MySQL wants a
//! Previous_gtids event, or it calls the file corrupted. What it says is of no consequence to the applier. A transaction that is skipped is left out here; whoever replays commits an
//! empty one under its GTID, so that the recovered server's set has no hole.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};

use crate::binlog::body::Query;
use crate::binlog::event::{
    CHECKSUM_BYTES, Event, FIRST_POSITION, FormatDescription, HEADER_BYTES, MAGIC, event_type as common,
};
use crate::binlog::mysql::event::{GtidEvent, event_type};
use crate::binlog::mysql::group::{Groups, Step};
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{BUFFER_BYTES, Cut, corrupt, drain, write_error};
use crate::binlog::scheduled::EventStatuses;
use crate::domain::gtid_set::{GtidSet, MysqlGtid};
use crate::error::{Error, ErrorKind};

/// What a relay log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RelayStats {
    pub(crate) transactions: u64,
    /// The transactions with a GTID.
    pub(crate) gtids: GtidSet,
    pub(crate) bytes: u64,
    /// Where the last transaction ends in the source's file, modulo 2^32 as its events say; 0 without one.
    pub(crate) source_end: u32,
    /// What the source's scheduled events were after these transactions (and those carried over, see `carrying`).
    pub(crate) scheduled_events: EventStatuses,
}

/// Builds one relay log. After a failure what was written is of no use.
pub(crate) struct RelayWriter<W: Write> {
    out: BufWriter<W>,
    format: FormatDescription,
    stats: RelayStats,
}

impl<W: Write> RelayWriter<W> {
    /// Begins the relay log for the binlog file that `format` heads.
    pub(crate) fn begin(out: W, format: &FormatDescription) -> Result<RelayWriter<W>, Error> {
        let out = BufWriter::with_capacity(BUFFER_BYTES, out);
        let mut writer = RelayWriter { out, format: format.clone(), stats: RelayStats::default() };
        writer.write(&MAGIC)?;
        writer.write(format.raw())?;
        writer.write(&empty_previous_gtids(format))?;
        Ok(writer)
    }

    /// Goes on with the scheduled events that the relay log before this one ended with.
    pub(crate) fn carrying(mut self, scheduled_events: EventStatuses) -> RelayWriter<W> {
        self.stats.scheduled_events = scheduled_events;
        self
    }

    /// Copies the transactions that stand in `[from, to)` of the source file, but for those in `skip`.
    /// The contract is that of `binlog::relay::RelayWriter::piece`.
    pub(crate) fn piece(
        &mut self,
        mut reader: impl io::Read,
        chunk_begin: u64,
        from: u64,
        to: u64,
        skip: &BTreeSet<MysqlGtid>,
    ) -> Result<(), Error> {
        let mut events = if chunk_begin == 0 {
            EventReader::begin(&mut reader)
        } else {
            EventReader::resume(&mut reader, chunk_begin, &self.format)
        };
        let first = chunk_begin.max(FIRST_POSITION);
        let mut cut = Cut { from: from.max(first), to: to.max(first), is_begun: false };
        if chunk_begin > from || from > to {
            return Err(cut.error(chunk_begin));
        }
        let mut groups = Groups::resume(first);
        // The transaction being copied.
        let mut copied: Option<GtidEvent> = None;
        loop {
            let event = match events.next_event()? {
                Next::Event(event) => event,
                Next::End if !groups.is_open() && cut.is_over(groups.boundary())? => return Ok(()),
                Next::End => return Err(cut.error(groups.boundary())),
                Next::Incomplete { at } => {
                    return Err(corrupt(format!("the binlog chunk ends within the event at {at}")));
                }
                Next::Corrupt { at, reason } => {
                    return Err(corrupt(format!("the binlog chunk is damaged at {at}: {reason}")));
                }
            };
            if groups.boundary() == event.position && cut.is_over(event.position)? {
                drop(events);
                return drain(reader);
            }
            match groups.step(&event)? {
                Step::Begun => {
                    let head = GtidEvent::parse(&event)?;
                    let is_skipped = head.gtid.as_ref().is_some_and(|gtid| skip.contains(gtid));
                    copied = (cut.is_begun && !is_skipped).then_some(head);
                    if copied.is_some() {
                        self.write(event.raw)?;
                    }
                }
                Step::Inside if copied.is_some() => self.write(event.raw)?,
                Step::Ended => {
                    if let Some(head) = copied.take() {
                        self.write(event.raw)?;
                        self.note(&event, head)?;
                    }
                }
                Step::Header if event.header.event_type == common::FORMAT_DESCRIPTION => {
                    if FormatDescription::parse(event.raw)? != self.format {
                        return Err(corrupt("the binlog chunk is of another binlog file".to_owned()));
                    }
                }
                Step::Incident if cut.is_begun => {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!("the server noted at {} that it lost events of its binlog", event.position),
                    )
                    .hint("Recover to a place before it, or from a backup that was made after it."));
                }
                Step::Inside | Step::Header | Step::Between | Step::Incident | Step::Rotated | Step::Stopped => {}
            }
        }
    }

    /// Ends the relay log; whoever handed in the file makes it durable.
    pub(crate) fn finish(mut self) -> Result<RelayStats, Error> {
        self.out.flush().map_err(write_error)?;
        Ok(self.stats)
    }

    /// Takes note of a whole transaction that was copied, from its last event.
    fn note(&mut self, event: &Event<'_>, head: GtidEvent) -> Result<(), Error> {
        self.stats.transactions += 1;
        self.stats.source_end = event.header.end_position;
        if let Some(gtid) = &head.gtid {
            self.stats.gtids.add(gtid);
        }
        if event.header.event_type == common::QUERY {
            let query = Query::parse(event)?;
            self.stats.scheduled_events.apply(&query.text, query.schema, query.sql_mode);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(write_error)?;
        self.stats.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// A Previous_gtids event that holds no GTID, as it stands behind the format description.
fn empty_previous_gtids(format: &FormatDescription) -> Vec<u8> {
    const NO_SOURCES: [u8; 8] = [0; 8];
    let sum_bytes = if format.has_checksums() { CHECKSUM_BYTES } else { 0 };
    let size = HEADER_BYTES + NO_SOURCES.len() + sum_bytes;
    let end = MAGIC.len() + format.raw().len() + size;
    let server_id = format.raw().get(5..9).unwrap_or(&[0; 4]);
    let field = |value: usize| u32::try_from(value).unwrap_or(0).to_le_bytes();
    let (time, flags) = ([0; 4], [0; 2]);
    let mut event =
        [&time[..], &[event_type::PREVIOUS_GTIDS], server_id, &field(size), &field(end), &flags, &NO_SOURCES].concat();
    if format.has_checksums() {
        event.extend(crc32fast::hash(&event).to_le_bytes());
    }
    event
}
