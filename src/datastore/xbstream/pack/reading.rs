//! Reads a piece of a file, without its holes, and checks its pages.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::PageCounts;
use super::plan::{Pages, Source};
use crate::block::Block;
use crate::datastore::innodb::{Damage, Page};
use crate::datastore::xbstream::parser::Zeros;
use crate::error::{Error, ErrorKind, io_error};

/// Puts `length` bytes from `offset` on into `buffer`, and says whether there were holes among them.
pub(super) fn read_piece(
    dir: &Path,
    source: &Source,
    offset: u64,
    length: usize,
    buffer: &mut Block,
) -> Result<Zeros, Error> {
    let failed = |err: std::io::Error| {
        let full = dir.join(&source.path);
        if err.kind() == std::io::ErrorKind::UnexpectedEof {
            let what = format!("`{}` became shorter while it was packed", full.display());
            return Error::new(ErrorKind::Corrupt, what).hint("Nothing may write to the directory of a clone.");
        }
        io_error("unable to read", &full, err)
    };
    let mut zeros = Zeros::Written;
    let mut rest = buffer.reset(length);
    let mut at = offset;
    while !rest.is_empty() {
        let run = if source.may_have_holes { next_run(&source.file, at) } else { Ok(Run::Data(u64::MAX)) };
        let run = run.map_err(|err| failed(err.into()))?;
        let (Run::Hole(bytes) | Run::Data(bytes)) = run;
        let length = usize::try_from(bytes).map_or(rest.len(), |bytes| bytes.min(rest.len()));
        let (now, later) = rest.split_at_mut(length);
        match run {
            Run::Hole(_) => {
                zeros = Zeros::Holes;
                now.fill(0);
            }
            Run::Data(_) => read_run(source, now, at).map_err(failed)?,
        }
        at += length as u64;
        rest = later;
    }
    Ok(zeros)
}

/// Past the system's cache where that can be: what is read once would only push out what the server needs, and the copy
/// costs more than all that is done with the bytes.
fn read_run(source: &Source, into: &mut [u8], at: u64) -> std::io::Result<()> {
    if let Some(direct) = &source.direct {
        match direct.read_exact_at(into, at) {
            // Not in whole blocks of the disk, as at the end of a file.
            Err(err) if err.kind() == std::io::ErrorKind::InvalidInput => {}
            read => return read,
        }
    }
    source.file.read_exact_at(into, at)
}

/// Bytes of one kind, at least one.
enum Run {
    Hole(u64),
    Data(u64),
}

/// What begins at this place. The file's own position is moved and means nothing.
fn next_run(file: &File, at: u64) -> Result<Run, Errno> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => Ok(Run::Hole(data - at)),
        Ok(_) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?;
            Ok(Run::Data(hole.saturating_sub(at).max(1)))
        }
        // No data up to the end.
        Err(Errno::NXIO) => Ok(Run::Hole(u64::MAX)),
        // A file system that does not know.
        Err(Errno::INVAL) => Ok(Run::Data(u64::MAX)),
        Err(err) => Err(err),
    }
}

/// Checks the pages in these bytes of a file, which begin where a page does.
pub(super) fn check_pages(dir: &Path, source: &Source, offset: u64, bytes: &[u8]) -> Result<PageCounts, Error> {
    let mut counts = PageCounts::default();
    let layout = match source.pages {
        Pages::None => return Ok(counts),
        Pages::Unknown => {
            counts.unchecked += u64::from(!bytes.is_empty());
            return Ok(counts);
        }
        Pages::Of(layout) => layout,
    };
    let first = offset / layout.page_bytes as u64;
    for (number, page) in (first..).zip(bytes.chunks(layout.page_bytes)) {
        match layout.check(number, page).map_err(|damage| damaged(&dir.join(&source.path), number, damage))? {
            Page::Sound => counts.sound += 1,
            Page::Empty => counts.empty += 1,
            Page::Unchecked => counts.unchecked += 1,
        }
    }
    Ok(counts)
}

pub(super) fn damaged(path: &Path, number: u64, damage: Damage) -> Error {
    Error::new(ErrorKind::Corrupt, format!("page {number} of `{}` {damage}", path.display())).hint(
        "No backup was made; the server and earlier backups are untouched. Run CHECK TABLE on the server: if it finds the \
         damage too, recover from an earlier backup or rebuild that table; if not, look at the disk and memory of this host.",
    )
}
