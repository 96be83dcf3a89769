//! Relay logs that hold exactly the planned transactions, for a server's replication applier.
//!
//! One relay log is built for each binlog file of the source: the magic, the file's format description with its in-use
//! flag cleared, and the events of the chosen transactions, byte for byte unless they are merged. Rotations, checkpoints and
//! lists of GTIDs stay out: they say nothing to an applier. MySQL wants a Previous_gtids event in front of the first GTID, or
//! it calls the file corrupted; an empty one will do. The format description says whether the source was started with that file, and
//! by that the applier ends temporary tables exactly where the source did.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};

use crate::binlog::body::Query;
use crate::binlog::event::{
    CHECKSUM_BYTES, Event, FIRST_POSITION, Flavour, FormatDescription, HEADER_BYTES, MAGIC, event_type,
};
use crate::binlog::group::{Group, Groups, Step};
use crate::binlog::merge::{Candidate, Merge, Verdict};
use crate::binlog::mysql;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::scheduled::EventStatuses;
use crate::domain::gtid::{Gtid, GtidPosition};
use crate::error::{Error, ErrorKind, error_of};

const BUFFER_BYTES: usize = 256 << 10;

/// What a relay log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RelayStats {
    pub(crate) transactions: u64,
    /// What the transactions of this relay log add to an applier's position.
    pub(crate) position: GtidPosition,
    /// What the applier itself will say of that: on MySQL it knows only those that bear a GTID in the relay log.
    pub(crate) applied: GtidPosition,
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
    /// Absent when every transaction stands as it was written.
    merge: Option<Merge>,
    candidate: Option<Candidate>,
}

impl<W: Write> RelayWriter<W> {
    /// Begins the relay log for the binlog file that `format` heads.
    pub(crate) fn begin(out: W, format: &FormatDescription) -> Result<RelayWriter<W>, Error> {
        let mut writer = RelayWriter {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            format: format.clone(),
            stats: RelayStats::default(),
            merge: None,
            candidate: None,
        };
        writer.write(&MAGIC)?;
        writer.write(format.raw())?;
        if format.flavour() == Flavour::Mysql {
            writer.write(&empty_previous_gtids(format))?;
        }
        Ok(writer)
    }

    /// Goes on with the scheduled events that the relay log before this one ended with.
    pub(crate) fn carrying(mut self, scheduled_events: EventStatuses) -> RelayWriter<W> {
        self.stats.scheduled_events = scheduled_events;
        self
    }

    /// Merges small transactions that consist of row changes only (see `merge`).
    pub(crate) fn merging(mut self) -> RelayWriter<W> {
        self.merge = Some(Merge::default());
        self
    }

    /// Copies the transactions that stand in `[from, to)` of the source file, but for those in `skip`.
    ///
    /// `reader` gives the bytes of the source file from `chunk_begin` on, whole transactions only, at least up to `to`;
    /// it is read to its end, so that a reader that verifies can do so. Fails with `Corrupt` when `from` or `to` do not
    /// stand between transactions, and with `Refused` when the server noted there that it had lost events.
    pub(crate) fn piece(
        &mut self,
        mut reader: impl io::Read,
        chunk_begin: u64,
        from: u64,
        to: u64,
        skip: &BTreeSet<Gtid>,
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
        let mut groups = Groups::resume(first, &self.format);
        let mut is_copied = false;
        loop {
            let event = match events.next_event()? {
                Next::Event(event) => event,
                Next::End if !groups.is_open() => {
                    return if cut.is_over(groups.boundary())? { Ok(()) } else { Err(cut.error(groups.boundary())) };
                }
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
                Step::Begun(group) => {
                    is_copied = cut.is_begun && !group.head.gtid.is_some_and(|gtid| skip.contains(&gtid));
                    if is_copied {
                        self.begin_transaction(&event, group)?;
                    }
                }
                Step::Inside(_) if is_copied => self.copy(&event)?,
                Step::Ended(group) if is_copied => {
                    self.end_transaction(&event)?;
                    self.note(&event, group)?;
                }
                Step::Inside(_) | Step::Ended(_) => {}
                Step::Header if event.header.event_type == event_type::FORMAT_DESCRIPTION => {
                    if FormatDescription::parse(event.raw)? != self.format {
                        return Err(corrupt("the binlog chunk is of another binlog file".to_owned()));
                    }
                }
                Step::Incident(_) if cut.is_begun => {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!("the server noted at {} that it lost events of its binlog", event.position),
                    )
                    .hint("Recover to a place before it, or from a backup that was made after it."));
                }
                Step::Header | Step::Between | Step::Incident(_) | Step::Rotated | Step::Stopped => {}
            }
        }
    }

    /// Ends the relay log; whoever handed in the file makes it durable.
    pub(crate) fn finish(mut self) -> Result<RelayStats, Error> {
        self.write_merged()?;
        self.out.flush().map_err(write_error)?;
        Ok(self.stats)
    }

    fn begin_transaction(&mut self, event: &Event<'_>, group: Group) -> Result<(), Error> {
        self.candidate = self.merge.as_ref().and_then(|_| Candidate::begin(group.head, event));
        if self.candidate.is_some() {
            return Ok(());
        }
        self.write_merged()?;
        self.bear(group.head.gtid);
        self.write(event.raw)
    }

    fn copy(&mut self, event: &Event<'_>) -> Result<(), Error> {
        match self.candidate.as_mut().map(|candidate| candidate.take(event)) {
            Some(Verdict::Kept) => Ok(()),
            Some(Verdict::Ordinary(before)) => {
                let gtid = self.candidate.take().and_then(|candidate| candidate.gtid());
                self.write_merged()?;
                self.bear(gtid);
                self.write(&before)?;
                self.write(event.raw)
            }
            None => self.write(event.raw),
        }
    }

    fn end_transaction(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let Some(mut candidate) = self.candidate.take() else { return self.write(event.raw) };
        if event.header.event_type != event_type::XID {
            // Tables without transactions: each commit stays where it was.
            self.write_merged()?;
            self.bear(candidate.gtid());
            self.write(&candidate.give_up())?;
            return self.write(event.raw);
        }
        if !self.merge.as_ref().is_some_and(|merge| merge.takes(&candidate)) {
            self.write_merged()?;
        }
        if let Some(merge) = self.merge.as_mut() {
            merge.add(candidate, event);
        }
        Ok(())
    }

    fn write_merged(&mut self) -> Result<(), Error> {
        let Some(merge) = self.merge.as_mut() else { return Ok(()) };
        let (pieces, gtid) = merge.take();
        self.bear(gtid);
        pieces.iter().try_for_each(|piece| self.write(piece))
    }

    /// Takes note that the relay log holds a transaction with this GTID.
    fn bear(&mut self, gtid: Option<Gtid>) {
        gtid.inspect(|gtid| self.stats.applied.apply(*gtid));
    }

    /// Takes note of a whole transaction that was copied, from its last event.
    fn note(&mut self, event: &Event<'_>, group: Group) -> Result<(), Error> {
        self.stats.transactions += 1;
        self.stats.source_end = event.header.end_position;
        group.head.gtid.inspect(|gtid| self.stats.position.apply(*gtid));
        let is_query = matches!(event.header.event_type, event_type::QUERY | event_type::QUERY_COMPRESSED);
        if group.head.is_standalone && is_query {
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
    let mut event = [
        &time[..],
        &[mysql::event::event_type::PREVIOUS_GTIDS],
        server_id,
        &field(size),
        &field(end),
        &flags,
        &NO_SOURCES,
    ]
    .concat();
    if format.has_checksums() {
        event.extend(crc32fast::hash(&event).to_le_bytes());
    }
    event
}

/// The part of a file that is wanted.
struct Cut {
    from: u64,
    to: u64,
    is_begun: bool,
}

impl Cut {
    /// Whether the part ends at `boundary`. Fails when a border of the part was passed within a transaction.
    fn is_over(&mut self, boundary: u64) -> Result<bool, Error> {
        self.is_begun |= boundary == self.from;
        if boundary > self.to || (boundary > self.from && !self.is_begun) {
            return Err(self.error(boundary));
        }
        Ok(boundary == self.to)
    }

    fn error(&self, near: u64) -> Error {
        let (from, to) = (self.from, self.to);
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "the part {from}..{to} of the binlog file does not begin and end between transactions (near {near})"
            ),
        )
    }
}

/// Reads the rest, so that a reader that verifies its bytes at their end does.
fn drain(mut reader: impl io::Read) -> Result<(), Error> {
    let read = io::copy(&mut reader, &mut io::sink());
    read.map(drop).map_err(|err| error_of(err, "reading the rest of a binlog chunk"))
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn write_error(err: io::Error) -> Error {
    let kind = match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "unable to write a relay log").with_source(err)
}
