//! Makes a stream of a directory: the files of a server that does not run on them, such as MySQL's clone of itself.
//!
//! Files come in the order of their names and in pieces of a fixed size, so that the same files make the same stream,
//! however fast the disk is: a backup that begins anew finds the parts it has stored before. Several threads read, of
//! several files where they are small; what they read is put into order again here. Holes cost no reads and are said to be
//! holes (`FLAG_HOLES`). Pages of tablespaces are checked on the way: a damaged one ends the packing.
//!
//! With `PackOptions::remove` each file is removed when all of it was handed out and the reader has come back for more: the
//! directory shrinks while the backup grows.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::beneath::{self, open_root};
use super::parser::{FILES_MAX, Zeros, is_sane_path};
use super::{EMPTY_DIRECTORIES, FLAG_HOLES, MAGIC};
use crate::block::Block;
use crate::error::{Error, ErrorKind};
use plan::{Plan, Planned};
use reading::read_piece;
use walk::{Found, Walk};

mod plan;
mod reading;
mod walk;

/// Bytes of a piece: a multiple of every page's size.
const PIECE_BYTES: usize = 1024 * 1024;
/// Pieces that are read or wait to be handed out, at most.
const PIECES_MAX: usize = 8;
const READERS: usize = 2;

/// What is to be packed, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackOptions<'a> {
    /// Paths below the directory that are not packed, nor anything below them; a `*` stands for any part of a name.
    pub(crate) leave_out: &'a [&'a str],
    /// Files go as they are handed out. What is left out stays, and so do directories.
    pub(crate) remove: bool,
    /// Small files that come first in the stream and are not in the directory.
    pub(crate) extra: Vec<(String, Vec<u8>)>,
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Packed {
    pub(crate) files: u64,
    /// Bytes in those files.
    pub(crate) bytes: u64,
    pub(crate) pages: PageCounts,
}

/// Pages of tablespaces by what was found of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageCounts {
    pub(crate) sound: u64,
    pub(crate) empty: u64,
    /// Encrypted, compressed by LZ4, written without a checksum, or of an unknown size.
    pub(crate) unchecked: u64,
}

impl PageCounts {
    fn add(&mut self, other: PageCounts) {
        self.sound += other.sound;
        self.empty += other.empty;
        self.unchecked += other.unchecked;
    }
}

/// Begins to pack the files below `dir`, which nobody may write to meanwhile. Nothing is read before the whole of it was
/// looked over: a file that can't be packed (a link, a socket, a name no server gives) is refused by name.
pub(crate) fn begin(dir: &Path, options: PackOptions<'_>, cancelled: &Arc<AtomicBool>) -> Result<Packing, Error> {
    let root = Arc::new(open_root(dir)?);
    let survey = survey(dir, &root, &options)?;
    let lead = lead(&options, &survey)?;
    if survey.files == 0 && lead.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("`{}` holds no files to pack", dir.display())));
    }
    let (free, buffers) = bounded(PIECES_MAX);
    let (to_order, pieces) = bounded(PIECES_MAX);
    for _ in 0..PIECES_MAX {
        // They fit: the channel has as many places.
        let _ = free.send(Block::new(PIECE_BYTES)?);
    }
    let walk = Walk::begin(dir, root.try_clone().map_err(no_descriptor)?, options.leave_out)?;
    let plan = Arc::new(Mutex::new(Plan::new(dir, Arc::clone(&root), walk)));
    let mut packing = Packing {
        dir: dir.to_owned(),
        root,
        total_bytes: survey.bytes,
        current: None,
        lead,
        readers_ends: Some(ReadersEnds { free, pieces }),
        out_of_order: BTreeMap::new(),
        next: 0,
        removes: options.remove,
        to_remove: Vec::new(),
        packed: Packed::default(),
        plan: Arc::clone(&plan),
        cancelled: Arc::clone(cancelled),
        readers: Vec::new(),
        stage: Stage::Reading,
    };
    for _ in 0..READERS {
        let (plan, cancelled, dir) = (Arc::clone(&plan), Arc::clone(cancelled), dir.to_owned());
        let (buffers, to_order) = (buffers.clone(), to_order.clone());
        let reader = thread::Builder::new()
            .name("pack-read".to_owned())
            .spawn(move || read_pieces(&dir, &plan, &buffers, &to_order, &cancelled))
            .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err))?;
        packing.readers.push(reader);
    }
    Ok(packing)
}

/// The stream, to be read to its end. What goes wrong comes out of `read` as an `Error` within the `io::Error`.
pub(crate) struct Packing {
    dir: PathBuf,
    root: Arc<OwnedFd>,
    total_bytes: u64,
    /// The piece that is being handed out.
    current: Option<Handing>,
    lead: VecDeque<Piece>,
    /// None once they are needed no more.
    readers_ends: Option<ReadersEnds>,
    out_of_order: BTreeMap<u64, Result<Piece, Error>>,
    next: u64,
    removes: bool,
    /// Files that were handed out in the last `read`.
    to_remove: Vec<String>,
    packed: Packed,
    plan: Arc<Mutex<Plan>>,
    cancelled: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
    stage: Stage,
}

/// What leads to the readers: they end when it is gone.
struct ReadersEnds {
    /// Buffers to use again.
    free: Sender<Block>,
    /// Pieces in any order.
    pieces: Receiver<Numbered>,
}

/// A piece and its number in the stream, from 0.
type Numbered = (u64, Result<Piece, Error>);

enum Stage {
    Reading,
    /// To be told by the next `read`: bytes come first.
    Failing(Error),
    Failed,
    Ended,
}

/// A piece of the stream: chunks around bytes of a file.
struct Piece {
    head: Vec<u8>,
    body: Block,
    tail: Vec<u8>,
    pages: PageCounts,
    /// The file that ends with it.
    ended: Option<String>,
    origin: Origin,
}

/// Where a piece comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Directory,
    Extra,
    /// The list of directories, which is no file once it was unpacked.
    List,
}

/// A piece, and how much of it was handed out.
struct Handing {
    piece: Piece,
    done: usize,
}

impl Packing {
    /// Bytes in the files that were found; the stream is a little longer.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// To be called at the end of the stream: everything is packed, and removed if that was asked for.
    pub(crate) fn finish(mut self) -> Result<Packed, Error> {
        if !matches!(self.stage, Stage::Ended) {
            let what = format!("the packing of `{}` was not read to its end", self.dir.display());
            return Err(Error::new(ErrorKind::Internal, what));
        }
        self.remove_handed_out()?;
        self.readers_ends = None;
        for reader in self.readers.drain(..) {
            reader.join().map_err(|_| Error::new(ErrorKind::Internal, "a thread that packs files panicked"))?;
        }
        Ok(self.packed)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(interrupted());
        }
        self.remove_handed_out()?;
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if self.current.is_none() {
                self.current = match self.next_piece() {
                    Ok(None) => break,
                    Ok(Some(piece)) => Some(Handing { piece, done: 0 }),
                    Err(err) if filled == 0 => return Err(err),
                    Err(err) => {
                        self.stage = Stage::Failing(err);
                        return Ok(filled);
                    }
                };
            }
            let Some(handing) = &mut self.current else { break };
            let count = handing.copy(rest);
            filled += count;
            if count == 0 {
                self.leave_piece();
            }
        }
        if filled == 0 && !out.is_empty() {
            self.stage = Stage::Ended;
        }
        Ok(filled)
    }

    /// The next piece in order; `None` at the end.
    fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        if let Some(piece) = self.lead.pop_front() {
            return Ok(Some(piece));
        }
        let Some(ReadersEnds { pieces, .. }) = &self.readers_ends else { return Ok(None) };
        loop {
            if let Some(piece) = self.out_of_order.remove(&self.next) {
                self.next += 1;
                return piece.map(Some);
            }
            match pieces.recv() {
                Ok((number, piece)) => self.out_of_order.insert(number, piece),
                Err(_) if self.cancelled.load(Ordering::SeqCst) => return Err(interrupted()),
                Err(_) if plan::lock(&self.plan).is_complete(self.next) => return Ok(None),
                Err(_) => return Err(Error::new(ErrorKind::Internal, "a thread that packs files ended early")),
            };
        }
    }

    /// The current piece was handed out.
    fn leave_piece(&mut self) {
        let Some(Handing { piece, .. }) = self.current.take() else { return };
        if piece.origin != Origin::List {
            self.packed.bytes += piece.body.len() as u64;
            self.packed.files += u64::from(piece.ended.is_some());
        }
        self.packed.pages.add(piece.pages);
        if piece.origin != Origin::Directory {
            return;
        }
        if self.removes {
            self.to_remove.extend(piece.ended);
        }
        if let Some(ReadersEnds { free, .. }) = &self.readers_ends {
            // When the readers have ended nobody needs it.
            let _ = free.send(piece.body);
        }
    }

    fn remove_handed_out(&mut self) -> Result<(), Error> {
        for path in self.to_remove.drain(..) {
            beneath::remove(&self.root, &path)
                .map_err(|err| beneath::fault("unable to remove", &self.dir, &path, err))?;
        }
        Ok(())
    }
}

impl Read for Packing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Ended => {
                self.stage = Stage::Ended;
                return Ok(0);
            }
            Stage::Reading => self.stage = Stage::Reading,
            Stage::Failing(err) => return Err(io::Error::other(err)),
            Stage::Failed => {
                return Err(io::Error::other(Error::new(ErrorKind::Internal, "the packing has failed before")));
            }
        }
        self.fill(out).map_err(|err| {
            self.stage = Stage::Failed;
            io::Error::other(err)
        })
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        // The readers end when nobody takes their pieces.
        self.readers_ends = None;
        for reader in self.readers.drain(..) {
            // One that panicked has said so already.
            let _ = reader.join();
        }
    }
}

impl Handing {
    /// Copies as much as fits, and says how much; 0 when nothing is left.
    fn copy(&mut self, out: &mut [u8]) -> usize {
        let mut begin = 0;
        for part in [&self.piece.head[..], &self.piece.body, &self.piece.tail] {
            let rest = part.get(self.done.saturating_sub(begin).min(part.len())..).unwrap_or_default();
            begin += part.len();
            if rest.is_empty() {
                continue;
            }
            let count = rest.len().min(out.len());
            if let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) {
                to.copy_from_slice(from);
            }
            self.done += count;
            return count;
        }
        0
    }
}

/// What one thread does: takes what is to be read next, and reads it.
fn read_pieces(
    dir: &Path,
    plan: &Mutex<Plan>,
    buffers: &Receiver<Block>,
    to_order: &Sender<Numbered>,
    cancelled: &AtomicBool,
) {
    // First the buffer and then the piece: the one that comes next in the stream always has a buffer.
    for buffer in buffers {
        if cancelled.load(Ordering::SeqCst) {
            return;
        }
        let Some((number, planned)) = plan::lock(plan).take() else { return };
        let piece = planned.and_then(|planned| pack_piece(dir, planned, buffer));
        if piece.is_err() {
            plan::lock(plan).end();
        }
        if to_order.send((number, piece)).is_err() {
            return;
        }
    }
}

fn pack_piece(dir: &Path, planned: Planned, mut buffer: Block) -> Result<Piece, Error> {
    let Planned { source, offset, length, is_last } = planned;
    let zeros = read_piece(dir, &source, offset, length, &mut buffer)?;
    let pages = reading::check_pages(dir, &source, offset, &buffer)?;
    let path = &source.path;
    let head = if length == 0 { Vec::new() } else { piece_head(path, zeros, offset, &buffer) };
    let tail = if is_last { file_end(path) } else { Vec::new() };
    Ok(Piece { head, body: buffer, tail, pages, ended: is_last.then(|| path.clone()), origin: Origin::Directory })
}

fn piece_head(path: &str, zeros: Zeros, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let flags = if zeros == Zeros::Holes { FLAG_HOLES } else { 0 };
    let mut head = chunk_head(flags, b'P', path);
    head.extend((bytes.len() as u64).to_le_bytes());
    head.extend(offset.to_le_bytes());
    head.extend(crc32fast::hash(bytes).to_le_bytes());
    head
}

fn file_end(path: &str) -> Vec<u8> {
    chunk_head(0, b'E', path)
}

fn chunk_head(flags: u8, kind: u8, path: &str) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend([flags, kind]);
    // A sane path is no longer than a few hundred bytes.
    head.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    head.extend(path.as_bytes());
    head
}

/// What a first look at the directory found.
#[derive(Default)]
struct Survey {
    files: u64,
    bytes: u64,
    empty_directories: String,
}

/// Looks the whole directory over, so that what can't be packed is known before anything was done.
fn survey(dir: &Path, root: &OwnedFd, options: &PackOptions<'_>) -> Result<Survey, Error> {
    let mut survey = Survey::default();
    let mut walk = Walk::begin(dir, root.try_clone().map_err(no_descriptor)?, options.leave_out)?;
    while let Some(found) = walk.next()? {
        match found {
            Found::File { path, bytes } => {
                if path == EMPTY_DIRECTORIES || options.extra.iter().any(|(name, _)| *name == path) {
                    let what =
                        format!("`{}` is there, and the stream has a file of that name", dir.join(path).display());
                    return Err(Error::new(ErrorKind::Conflict, what).hint("Move it away; no server makes it."));
                }
                survey.files += 1;
                survey.bytes += bytes;
                if survey.files > FILES_MAX {
                    let what = format!("`{}` holds more than {FILES_MAX} files", dir.display());
                    return Err(Error::new(ErrorKind::Unsupported, what));
                }
            }
            Found::EmptyDirectory { path } => {
                survey.empty_directories.push_str(&path);
                survey.empty_directories.push('\n');
            }
        }
    }
    Ok(survey)
}

/// The pieces that come before those of the directory's files.
fn lead(options: &PackOptions<'_>, survey: &Survey) -> Result<VecDeque<Piece>, Error> {
    let mut lead = VecDeque::new();
    for (path, bytes) in &options.extra {
        if !is_sane_path(path) {
            return Err(Error::new(ErrorKind::Internal, format!("`{}` is no name for a file", path.escape_debug())));
        }
        extra_pieces(&mut lead, path, bytes, Origin::Extra)?;
    }
    if !survey.empty_directories.is_empty() {
        extra_pieces(&mut lead, EMPTY_DIRECTORIES, survey.empty_directories.as_bytes(), Origin::List)?;
    }
    Ok(lead)
}

fn extra_pieces(lead: &mut VecDeque<Piece>, path: &str, bytes: &[u8], origin: Origin) -> Result<(), Error> {
    let mut add = |head, body: &[u8], tail, ended| -> Result<(), Error> {
        let (body, pages) = (Block::of(body)?, PageCounts::default());
        lead.push_back(Piece { head, body, tail, pages, ended, origin });
        Ok(())
    };
    let offsets = (0_u64..).step_by(PIECE_BYTES);
    for (body, at) in bytes.chunks(PIECE_BYTES).zip(offsets) {
        add(piece_head(path, Zeros::Written, at, body), body, Vec::new(), None)?;
    }
    add(Vec::new(), b"", file_end(path), Some(path.to_owned()))
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "packing the files was cancelled")
}

fn no_descriptor(err: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "unable to open one file more").with_source(err)
}

#[cfg(test)]
mod tests;
