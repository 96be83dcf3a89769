//! What is to be read next: one file after the other, each in pieces.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::PIECE_BYTES;
use super::walk::{Found, Walk};
use crate::datastore::innodb::{HEAD_BYTES, Layout};
use crate::datastore::xbstream::beneath::{fault, open_beneath};
use crate::error::{Error, ErrorKind, io_error};

/// A file that is being packed.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) file: File,
    /// The same, read past the system's cache; none where that can't be, or isn't worth it.
    pub(super) direct: Option<File>,
    pub(super) bytes: u64,
    pub(super) may_have_holes: bool,
    pub(super) pages: Pages,
}

/// What the pages of a file are.
#[derive(Clone, Copy)]
pub(super) enum Pages {
    /// It is no tablespace.
    None,
    /// It is one, and does not say of which size they are.
    Unknown,
    Of(Layout),
}

/// A piece that is to be read.
pub(super) struct Planned {
    pub(super) source: Arc<Source>,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) is_last: bool,
}

/// Shared by the threads that read.
pub(super) struct Plan {
    dir: PathBuf,
    root: Arc<OwnedFd>,
    walk: Walk,
    /// The file that is being read, and up to where it was given out.
    current: Option<(Arc<Source>, u64)>,
    next: u64,
    has_ended: bool,
    /// The layout of the system tablespace, whose later files do not say it again.
    system: Option<Layout>,
}

impl Plan {
    pub(super) fn new(dir: &Path, root: Arc<OwnedFd>, walk: Walk) -> Plan {
        Plan { dir: dir.to_owned(), root, walk, current: None, next: 0, has_ended: false, system: None }
    }

    /// The next piece and its number in the stream; `None` at the end.
    pub(super) fn take(&mut self) -> Option<(u64, Result<Planned, Error>)> {
        if self.has_ended {
            return None;
        }
        let planned = self.plan().transpose();
        if !matches!(planned, Some(Ok(_))) {
            self.has_ended = true;
        }
        let number = self.next;
        self.next += u64::from(planned.is_some());
        planned.map(|planned| (number, planned))
    }

    /// Nothing more is to be read.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether everything was given out and so many pieces were all.
    pub(super) fn is_complete(&self, pieces: u64) -> bool {
        self.has_ended && self.next == pieces
    }

    fn plan(&mut self) -> Result<Option<Planned>, Error> {
        let (source, offset) = match self.current.take() {
            Some(current) => current,
            None => match self.open_next()? {
                Some(source) => (Arc::new(source), 0),
                None => return Ok(None),
            },
        };
        let left = source.bytes.saturating_sub(offset);
        let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let is_last = left <= PIECE_BYTES as u64;
        if !is_last {
            self.current = Some((Arc::clone(&source), offset + length as u64));
        }
        Ok(Some(Planned { source, offset, length, is_last }))
    }

    fn open_next(&mut self) -> Result<Option<Source>, Error> {
        loop {
            match self.walk.next()? {
                None => return Ok(None),
                Some(Found::File { path, .. }) => return self.open(path).map(Some),
                Some(Found::EmptyDirectory { .. }) => {}
            }
        }
    }

    fn open(&mut self, path: String) -> Result<Source, Error> {
        // NONBLOCK: should a pipe have taken the file's place, nobody waits for its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open_beneath(&self.root, &path, flags, Mode::empty())
            .map_err(|err| fault("unable to open", &self.dir, &path, err))?;
        let file = File::from(file);
        let direct = || open_beneath(&self.root, &path, flags | OFlags::DIRECT, Mode::empty()).ok().map(File::from);
        let full = self.dir.join(&path);
        let metadata = file.metadata().map_err(|err| io_error("unable to look at", &full, err))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Corrupt, format!("`{}` is a file no more", full.display())));
        }
        let bytes = metadata.len();
        let pages = match kind_of(&path) {
            Kind::Other => Pages::None,
            Kind::Tablespace => self.layout(&full, &file, bytes, false)?.map_or(Pages::Unknown, Pages::Of),
            Kind::System => {
                let layout = self.layout(&full, &file, bytes, true)?.or(self.system);
                self.system = layout;
                layout.map_or(Pages::Unknown, Pages::Of)
            }
        };
        // A file system that cannot do so says so.
        let direct = if bytes >= PIECE_BYTES as u64 { direct() } else { None };
        Ok(Source { path, file, direct, bytes, may_have_holes: metadata.blocks().saturating_mul(512) < bytes, pages })
    }

    fn layout(&self, full: &Path, file: &File, bytes: u64, is_system: bool) -> Result<Option<Layout>, Error> {
        let mut head = [0; HEAD_BYTES];
        if bytes < HEAD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0).map_err(|err| io_error("unable to read", full, err))?;
        Layout::of_head(&head, is_system).map_err(|damage| super::reading::damaged(full, 0, damage))
    }
}

/// The plan, also after another thread has panicked: what it did not give out is missing in the count then.
pub(super) fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Kind {
    System,
    Tablespace,
    Other,
}

/// By the names that MySQL gives, or asks for in CREATE TABLESPACE and innodb_data_file_path's default.
fn kind_of(path: &str) -> Kind {
    let ends = |end: &str| path.ends_with(end);
    match path {
        _ if path.starts_with("ibdata") && !path.contains('/') => Kind::System,
        _ if ends(".ibd") || ends(".ibu") || (path.starts_with("undo_") && !path.contains('/')) => Kind::Tablespace,
        _ => Kind::Other,
    }
}
