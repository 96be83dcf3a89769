//! Files that are either absent or whole: temporary name, fsync, rename, fsync of the directory.
//!
//! Everything that must survive a power cut is written through here; `fs::write` is banned by lint.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, ErrorKind, io_error};

/// Writes `bytes` to `path` atomically and durably, with the given permission bits. An existing file is replaced.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = temporary_name(path)?;
    let written = (|| {
        let mut file = create_private(&temporary, mode)?;
        file.write_all(bytes).map_err(|err| io_error("unable to write", &temporary, err))?;
        file.sync_all().map_err(|err| io_error("unable to sync", &temporary, err))?;
        rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one worth telling; a leftover temporary file harms nobody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Renames and makes the rename durable.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|err| io_error(format!("unable to rename `{}` to", from.display()), to, err))?;
    sync_parent(to)?;
    if from.parent() != to.parent() {
        sync_parent(from)?;
    }
    Ok(())
}

/// Makes the names in the directory that holds `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent)
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(|err| io_error("unable to sync directory", dir, err))
}

fn create_private(path: &Path, mode: u32) -> Result<File, Error> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(|err| io_error("unable to create", path, err))
}

/// A name beside `path` that no other writer of this or of another process uses.
fn temporary_name(path: &Path) -> Result<std::path::PathBuf, Error> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("`{}` has no file name", path.display())))?;
    Ok(path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), uuid::Uuid::new_v4().simple())))
}
