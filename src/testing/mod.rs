//! What unit tests of several modules share.

pub(crate) mod fuzz;
#[allow(clippy::disallowed_methods, reason = "shared with tests/it, whose rules are others")]
#[allow(dead_code, reason = "shared with tests/it, which uses the rest")]
pub(crate) mod proxy;
#[allow(clippy::disallowed_methods, reason = "shared with tests/it, whose rules are others")]
#[allow(dead_code, reason = "shared with tests/it, which uses the rest")]
pub(crate) mod stores;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A directory of one test, removed at its end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        let dir = std::env::temp_dir().join(format!("coffer-test-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).unwrap();
        TempDir(dir)
    }
}

impl Deref for TempDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
