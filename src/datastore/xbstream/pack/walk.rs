//! Goes through a directory in the order of names, and refuses what is neither a file nor a directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::datastore::xbstream::beneath::{fault, open_dir};
use crate::datastore::xbstream::parser::is_sane_path;
use crate::error::{Error, ErrorKind};

/// A server's directories lie two deep.
const DEPTH_MAX: usize = 32;

/// What lies below the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    File {
        path: String,
        bytes: u64,
    },
    /// Without anything that is packed.
    EmptyDirectory {
        path: String,
    },
}

/// Holds the names of one directory at a time, and of those around it.
pub(super) struct Walk {
    dir: PathBuf,
    root: OwnedFd,
    leave_out: Vec<String>,
    /// The directory that is gone through last.
    levels: Vec<Level>,
}

struct Level {
    /// Below the root, which has none.
    path: Option<String>,
    fd: OwnedFd,
    names: std::vec::IntoIter<String>,
    is_empty: bool,
}

impl Walk {
    pub(super) fn begin(dir: &Path, root: OwnedFd, leave_out: &[&str]) -> Result<Walk, Error> {
        let leave_out = leave_out.iter().map(|&pattern| pattern.to_owned()).collect();
        let mut walk = Walk { dir: dir.to_owned(), root, leave_out, levels: Vec::new() };
        walk.enter(None)?;
        Ok(walk)
    }

    /// The next file, or directory without files; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Found>, Error> {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                let level = self.levels.pop();
                if let Some(Level { path: Some(path), is_empty: true, .. }) = level {
                    return Ok(Some(Found::EmptyDirectory { path }));
                }
                continue;
            };
            let path = level.path.as_ref().map_or_else(|| name.clone(), |parent| format!("{parent}/{name}"));
            if self.leave_out.iter().any(|pattern| matches(pattern, &path)) {
                continue;
            }
            level.is_empty = false;
            if !is_sane_path(&path) {
                return Err(self.refused(&path, "has a name that no server gives its files"));
            }
            let stat = rustix::fs::statat(&level.fd, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|err| fault("unable to look at", &self.dir, &path, err))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    return Ok(Some(Found::File { path, bytes: u64::try_from(stat.st_size).unwrap_or(0) }));
                }
                FileType::Directory => self.enter(Some(path))?,
                FileType::Symlink => return Err(self.refused(&path, "is a symbolic link")),
                _ => return Err(self.refused(&path, "is neither a file nor a directory")),
            }
        }
        Ok(None)
    }

    fn enter(&mut self, path: Option<String>) -> Result<(), Error> {
        let shown = path.as_deref().unwrap_or(".");
        let failed = |err: Errno| fault("unable to list", &self.dir, shown, err);
        if self.levels.len() >= DEPTH_MAX {
            return Err(self.refused(shown, "lies deeper than any server's directory"));
        }
        let fd = open_dir(&self.root, shown).map_err(failed)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match std::str::from_utf8(name) {
                Ok(name) => names.push(name.to_owned()),
                Err(_) => {
                    let path = format!("{shown}/{}", name.escape_ascii());
                    return Err(self.refused(&path, "has a name that no server gives its files"));
                }
            }
        }
        names.sort_unstable();
        self.levels.push(Level { path, fd, names: names.into_iter(), is_empty: true });
        Ok(())
    }

    fn refused(&self, path: &str, what: &str) -> Error {
        let path = path.escape_debug();
        Error::new(ErrorKind::Unsupported, format!("`{path}` in `{}` {what}, and can't be packed", self.dir.display())).hint(
            "A backup holds files that lie inside the data directory only: move that tablespace there (ALTER TABLE .. \
             TABLESPACE, or drop and create it), or take a logical backup.",
        )
    }
}

/// Whether a path is meant; one `*` in the pattern stands for a part of a name.
fn matches(pattern: &str, path: &str) -> bool {
    let Some((begin, end)) = pattern.split_once('*') else { return pattern == path };
    path.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).is_some_and(|between| !between.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_part_of_a_name() {
        for (pattern, path, expected) in [
            ("auto.cnf", "auto.cnf", true),
            ("auto.cnf", "db/auto.cnf", false),
            ("#ib_*.dblwr", "#ib_16384_0.dblwr", true),
            ("#ib_*.dblwr", "#ib_x/y.dblwr", false),
            ("#innodb_redo/*_tmp", "#innodb_redo/#ib_redo7_tmp", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
