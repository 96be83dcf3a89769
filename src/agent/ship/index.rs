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
            let bytes = std::fs::read(&index).map_err(|err| io_error("unable to read", &index, err))?;
            let text = String::from_utf8_lossy(&bytes);
            let names: Vec<&str> = text.lines().filter(|line| !line.is_empty()).map(file_name).collect();
            // A damaged index is worth no more than none.
            if names.iter().all(|name| number_of(name, &stem_of(base)).is_some()) {
                return Ok(names.into_iter().map(|name| dir.join(name)).collect());
            }
            files_by_number(dir, base)
        }
        _ => files_by_number(dir, base),
    }
}

/// Entries may be relative to the data directory; the files lie beside the index.
fn file_name(entry: &str) -> &str {
    entry.rsplit('/').next().unwrap_or(entry)
}

fn files_by_number(dir: &Path, base: &Path) -> Result<Vec<PathBuf>, Error> {
    let stem = stem_of(base);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(io_error("unable to list", dir, err)),
    };
    let mut numbered: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((number_of(&name, &stem)?, entry.path()))
        })
        .collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn stem_of(base: &Path) -> String {
    base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// 12 of `binlog.000012`; `None` for what is no binlog file of this stem.
fn number_of(name: &str, stem: &str) -> Option<u64> {
    let number = name.strip_prefix(stem)?.strip_prefix('.')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse().ok()
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
        crate::durable::write(&dir.join("binlog.index"), &[0; 40], 0o600).unwrap();
        assert_eq!(names(&dir.join("binlog")), ["binlog.000009", "binlog.000010"], "a damaged index");
        assert!(names(&dir.join("gone").join("binlog")).is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
