//! The operating system's user that servers run as, and files that must belong to it.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use crate::error::{Error, io_error};
use crate::process::User;

/// A user's numeric ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// The ids of the user with this name.
    pub(crate) fn of_user(name: &str) -> Result<Owner, Error> {
        User::named(name).map(|user| Owner { uid: user.uid, gid: user.gid })
    }

    /// Whom an existing file or directory belongs to.
    pub(crate) fn of_path(path: &Path) -> Result<Owner, Error> {
        let metadata = std::fs::symlink_metadata(path).map_err(|err| io_error("unable to look at", path, err))?;
        Ok(Owner { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Gives one file or directory to this user.
    pub(crate) fn give(self, path: &Path) -> Result<(), Error> {
        if Owner::of_path(path)? == self {
            return Ok(());
        }
        lchown(path, Some(self.uid), Some(self.gid)).map_err(|err| io_error("unable to change the owner of", path, err))
    }

    /// Gives a directory and everything in it to this user.
    pub(crate) fn give_tree(self, dir: &Path) -> Result<(), Error> {
        self.give(dir)?;
        let entries = std::fs::read_dir(dir).map_err(|err| io_error("unable to list", dir, err))?;
        for entry in entries {
            let entry = entry.map_err(|err| io_error("unable to list", dir, err))?;
            let kind = entry.file_type().map_err(|err| io_error("unable to look at", &entry.path(), err))?;
            if kind.is_dir() {
                self.give_tree(&entry.path())?;
            } else {
                self.give(&entry.path())?;
            }
        }
        Ok(())
    }
}
