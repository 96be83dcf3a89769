//! Following one server's binlog: which file, how far, and what comes after it.
//!
//! Files are identified by what they are, never by name alone: names repeat after `RESET MASTER` and in a new data
//! directory. An open file keeps its bytes readable after the server has deleted it, so a rotation or a reset while
//! coffer watches loses nothing.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::agent::ship::index::name_of;
use crate::binlog::event::{FormatDescription, MAGIC, event_type};
use crate::binlog::mysql::event::event_type::PREVIOUS_GTIDS;
use crate::binlog::mysql::event::refuse_encrypted;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::scanner::{Pushed, ScanPoint, Scanner};
use crate::binlog::summary::ChunkSummary;
use crate::domain::chunk::{ChunkFacts, Gap};
use crate::domain::gtid::{BinlogState, GtidPosition};
use crate::domain::gtid_set::GtidSet;
use crate::domain::id::TimelineId;
use crate::error::{Error, ErrorKind, io_error};
use crate::repository::hex;

/// Where the shipper stands: everything before `position` of the open file is in the repository.
pub(crate) struct Tail {
    pub(crate) timeline: TimelineId,
    /// The n-th binlog file of the timeline, from 1.
    pub(crate) ordinal: u32,
    pub(crate) path: PathBuf,
    file: File,
    /// How far the file is shipped.
    pub(crate) position: u64,
    pub(crate) format: Option<FormatDescription>,
    /// The commit clock, microseconds since 1970.
    pub(crate) clock: i64,
    pub(crate) reached: GtidPosition,
    pub(crate) state: BinlogState,
    /// MySQL: what was committed before this file. Its own list may lack some of it.
    pub(crate) carried: GtidSet,
    /// Digest of the last chunk shipped in this timeline.
    pub(crate) follows: Option<String>,
    /// A hole in front of the next chunk.
    pub(crate) gap: Option<Gap>,
    /// The file has said that it is complete: nothing more will be written to it.
    pub(crate) ended: bool,
    /// The file is gone, and with it what may have stood behind the last chunk.
    pub(crate) lost: bool,
}

/// New whole transactions (or a header, a rotation) that are ready to be shipped.
pub(crate) struct Piece {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) summary: ChunkSummary,
    pub(crate) clock: i64,
    pub(crate) reached: GtidPosition,
    pub(crate) state: BinlogState,
    pub(crate) format: FormatDescription,
    pub(crate) ended: bool,
}

/// What scanning to the end of the file found.
pub(crate) enum Scan {
    /// Something to ship.
    Piece(Box<Piece>),
    /// Nothing new that is whole.
    Nothing,
    /// The bytes at this offset are no event, though more follow.
    Damaged { at: u64, reason: String },
}

/// What a binlog file's head says.
pub(crate) struct Head {
    pub(crate) format: FormatDescription,
    /// The Gtid_list or Previous_gtids: what had been written before this file.
    pub(crate) state: BinlogState,
}

impl Tail {
    /// Stands at the start of a file.
    pub(crate) fn at_start(
        timeline: TimelineId,
        ordinal: u32,
        path: &Path,
        clock: i64,
        reached: GtidPosition,
        follows: Option<String>,
    ) -> Result<Tail, Error> {
        let file = File::open(path).map_err(|err| io_error("unable to open binlog", path, err))?;
        Ok(Tail {
            timeline,
            ordinal,
            path: path.to_owned(),
            file,
            position: 0,
            format: None,
            clock,
            reached,
            state: BinlogState::default(),
            carried: GtidSet::default(),
            follows,
            gap: None,
            ended: false,
            lost: false,
        })
    }

    /// Stands behind the last chunk that was shipped, if the file still holds that very chunk. `None` if it does not.
    pub(crate) fn behind(facts: &ChunkFacts, path: &Path) -> Result<Option<Tail>, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(io_error("unable to open binlog", path, err)),
        };
        let mut tail = Tail {
            timeline: facts.timeline,
            ordinal: facts.ordinal,
            path: path.to_owned(),
            file,
            position: facts.end,
            format: None,
            clock: facts.clock_after(),
            reached: facts.position_after.clone(),
            state: facts.state_after.clone(),
            carried: GtidSet::default(),
            follows: Some(facts.sha256.clone()),
            gap: None,
            ended: false,
            lost: false,
        };
        let Some(head) = tail.head()? else { return Ok(None) };
        tail.format = Some(head.format);
        if tail.length()? < facts.end {
            return Ok(None);
        }
        let mut digest = Sha256::new();
        let mut left = facts.end - facts.begin;
        let mut reader = tail.raw(facts.begin, facts.end)?;
        let mut buffer = vec![0_u8; 256 * 1024];
        while left > 0 {
            let count = reader.read(&mut buffer).map_err(|err| io_error("unable to read binlog", path, err))?;
            if count == 0 {
                return Ok(None);
            }
            digest.update(&buffer[..count]);
            left -= count as u64;
        }
        drop(reader);
        Ok((hex(&digest.finalize()) == facts.sha256).then_some(tail))
    }

    /// The head of the file; `None` while the server has not written it completely.
    pub(crate) fn head(&self) -> Result<Option<Head>, Error> {
        read_head(&self.file, &self.path)
    }

    /// The open file, which stays readable after the server has deleted it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn name(&self) -> String {
        name_of(&self.path)
    }

    /// The file's length now.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        Ok(self.metadata()?.len())
    }

    /// Whether `path` is the file that is open here.
    pub(crate) fn is(&self, path: &Path) -> Result<bool, Error> {
        let own = self.metadata()?;
        match std::fs::metadata(path) {
            Ok(other) => Ok(own.nlink() > 0 && own.ino() == other.ino() && own.dev() == other.dev()),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(io_error("unable to look at", path, err)),
        }
    }

    fn metadata(&self) -> Result<std::fs::Metadata, Error> {
        self.file.metadata().map_err(|err| io_error("unable to look at", &self.path, err))
    }

    /// Reads on from `position`, at most until `bytes_max` are found (one transaction may be larger).
    pub(crate) fn scan(&self, bytes_max: u64, observed_at: i64) -> Result<Scan, Error> {
        let format = self.format.as_ref().filter(|_| self.position > 0);
        let mut scanner = match format {
            None => Scanner::begin(self.clock),
            Some(format) => Scanner::resume(ScanPoint {
                position: self.position,
                format: format.clone(),
                clock: self.clock,
                state: self.state.clone(),
            }),
        };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.position)).map_err(|err| io_error("unable to read binlog", &self.path, err))?;
        let buffered = BufReader::with_capacity(256 * 1024, file);
        let mut events = match format {
            None => EventReader::begin(buffered),
            Some(format) => EventReader::resume(buffered, self.position, format),
        };
        let mut summary = ChunkSummary::default();
        let mut reached = self.reached.clone();
        let mut ended = self.ended;
        let damage = loop {
            match events.next_event()? {
                Next::Event(event) => match scanner.push(&event, observed_at)? {
                    Pushed::Transaction(transaction) => {
                        transaction.gtid.inspect(|gtid| reached.apply(*gtid));
                        summary.add(&transaction);
                    }
                    Pushed::Rotated { .. } | Pushed::Stopped => ended = true,
                    // The head is a chunk of its own: its bytes are cleaned, and it proves how files follow each other.
                    Pushed::Inside if format.is_none() && scanner.boundary() > 0 => break None,
                    Pushed::Header | Pushed::Inside | Pushed::Between => {}
                },
                Next::End | Next::Incomplete { .. } => break None,
                Next::Corrupt { at, reason } => break Some((at, reason)),
            }
            if scanner.boundary().saturating_sub(self.position) >= bytes_max {
                break None;
            }
        };
        let end = scanner.boundary();
        // The head is worth a chunk only once it is complete: a list of GTIDs follows the format description.
        let has_head = format.is_some() || self.head()?.is_some();
        if let (true, true, Some(format)) = (end > self.position, has_head, scanner.format()) {
            let mut state = scanner.state().clone();
            state.unite(&self.carried);
            return Ok(Scan::Piece(Box::new(Piece {
                begin: self.position,
                end,
                summary,
                clock: scanner.clock(),
                reached,
                state,
                format: format.clone(),
                ended,
            })));
        }
        Ok(match damage {
            Some((at, reason)) => Scan::Damaged { at, reason },
            None => Scan::Nothing,
        })
    }

    /// The bytes `begin..end` as they are shipped: the mark "in use" of an active file's head is taken out, which its
    /// checksum never covered.
    pub(crate) fn raw(&self, begin: u64, end: u64) -> Result<Box<dyn Read + Send + '_>, Error> {
        let mut file = self.file.try_clone().map_err(|err| io_error("unable to read binlog", &self.path, err))?;
        let failed = |err| io_error("unable to read binlog", &self.path, err);
        let Some(format) = self.format.clone().filter(|_| begin == 0) else {
            file.seek(SeekFrom::Start(begin)).map_err(failed)?;
            return Ok(Box::new(file.take(end - begin)));
        };
        let mut clean_head = MAGIC.to_vec();
        clean_head.extend_from_slice(format.raw());
        let head_bytes = clean_head.len() as u64;
        file.seek(SeekFrom::Start(head_bytes)).map_err(failed)?;
        Ok(Box::new(std::io::Cursor::new(clean_head).chain(file.take(end.saturating_sub(head_bytes)))))
    }

    /// Everything before `piece.end` is in the repository now, as a chunk with this digest.
    pub(crate) fn shipped(&mut self, piece: &Piece, sha256: &str) {
        self.position = piece.end;
        self.format = Some(piece.format.clone());
        self.clock = piece.clock;
        self.reached = piece.reached.clone();
        self.state = piece.state.clone();
        self.follows = Some(sha256.to_owned());
        self.gap = None;
        self.ended = piece.ended;
    }
}

/// Reads a binlog file's head; `None` while it is incomplete.
pub(crate) fn read_head(file: &File, path: &Path) -> Result<Option<Head>, Error> {
    /// The head's events are small but for a list of very many GTIDs.
    const HEAD_EVENTS_MAX: usize = 16;
    let mut file = file;
    let failed = |err| io_error("unable to read binlog", path, err);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut magic = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
    refuse_encrypted(&magic).map_err(|err| err.context(format!("binlog `{}`", path.display())))?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut events = EventReader::begin(BufReader::with_capacity(4096, file));
    let mut scanner = Scanner::begin(0);
    for _ in 0..HEAD_EVENTS_MAX {
        let Next::Event(event) = events.next_event()? else { return Ok(None) };
        let is_list = matches!(event.header.event_type, event_type::GTID_LIST | PREVIOUS_GTIDS);
        scanner.push(&event, 0).map_err(|err| err.context(format!("binlog `{}`", path.display())))?;
        if is_list {
            return Ok(scanner.format().map(|format| Head { format: format.clone(), state: scanner.state().clone() }));
        }
    }
    Err(Error::new(ErrorKind::Unsupported, format!("binlog `{}` has no list of GTIDs in its head", path.display()))
        .hint("Coffer needs MariaDB 10.2 or MySQL 8.0, or later."))
}
