//! The server's binlog files, as its index lists them.
//!
//! Read from the file and not by `SHOW BINARY LOGS`, which takes a mutex that commits wait for, and which a dead server
//! cannot answer.

use std::path::{Path, PathBuf};

use crate::error::{Error, io_error};

/// An index names at most this many bytes of files; a server with more is not one coffer can look after.
const INDEX_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The binlog files in order. An empty list when there is neither an index nor a file.
///
/// Without an index (a damaged data directory) the files found under the base name are listed by their number.
pub(crate) fn binlog_files(base: &Path) -> Result<Vec<PathBuf>, Error> {
    let dir = base.parent().unwrap_or(Path::new("/"));
    let index = PathBuf::from(format!("{}.index", base.display()));
    match std::fs::metadata(&index) {
        Ok(metadata) if metadata.len() <= INDEX_BYTES_MAX => {
            let text = std::fs::read_to_string(&index).map_err(|err| io_error("unable to read", &index, err))?;
            Ok(text.lines().filter(|line| !line.is_empty()).map(|line| dir.join(file_name(line))).collect())
        }
        _ => files_by_number(dir, base),
    }
}

/// Entries may be relative to the data directory; the files lie beside the index.
fn file_name(entry: &str) -> &str {
    entry.rsplit('/').next().unwrap_or(entry)
}

fn files_by_number(dir: &Path, base: &Path) -> Result<Vec<PathBuf>, Error> {
    let stem = base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(io_error("unable to list", dir, err)),
    };
    let mut numbered: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(&stem)?.strip_prefix('.')?;
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| Some((number.parse().ok()?, entry.path())))?
        })
        .collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// The name of a binlog file without its directory.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_the_index_or_of_their_numbers() {
        let dir = std::env::temp_dir().join(format!("coffer-index-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["binlog.000010", "binlog.000009", "binlog.state", "other.000001"] {
            crate::durable::write(&dir.join(name), b"", 0o600).unwrap();
        }
        let names =
            |base: &Path| -> Vec<String> { binlog_files(base).unwrap().iter().map(|path| name_of(path)).collect() };
        assert_eq!(names(&dir.join("binlog")), ["binlog.000009", "binlog.000010"]);
        crate::durable::write(&dir.join("binlog.index"), b"./binlog.000010\n", 0o600).unwrap();
        assert_eq!(names(&dir.join("binlog")), ["binlog.000010"]);
        assert!(names(&dir.join("gone").join("binlog")).is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
