//! Streams of backups, the ledger of their unpacking, and the small files of the tools: see `crate::fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod files;
mod ledger;
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::datastore::xbstream::{Checkpoint, Target as Place, Unpacked, unpack};
use crate::error::Error;
use crate::fuzz::Target;

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    vec![
        Box::new(stream::Tap::new()),
        Box::new(stream::Unpack::new()),
        Box::new(ledger::Ledger::new()),
        Box::new(files::ToolFiles),
    ]
}

/// A directory of one target in memory, if there is such a place: nothing here is to survive anything.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = above.join(format!("coffer-fuzz-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    /// An empty directory to unpack into, with nothing beside it.
    fn fresh(&self) -> PathBuf {
        let above = self.0.join("above");
        if above.exists() {
            fs::remove_dir_all(&above).unwrap();
        }
        let dir = above.join("new");
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    fn unpack(&self, stream: &[u8], dir: &Path, from: &Checkpoint, every: u64) -> Result<Unpacked, Error> {
        let place = Place { dir, ledger: &self.ledger(), stream: "fuzz", checkpoint_bytes: every };
        unpack(stream, &place, from, &AtomicU64::new(0), &AtomicBool::new(false))
    }

    /// Nothing was made but below `dir`.
    fn check_beside(&self, dir: &Path) {
        for (above, own) in [(dir.parent().unwrap(), "new"), (&self.0, "above")] {
            for entry in fs::read_dir(above).unwrap() {
                let name = entry.unwrap().file_name();
                assert!(name == own || name == "ledger", "`{}` was made beside the target", name.display());
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file, by its length and a sum of its bytes; there is none when most of a long one are gaps.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Made {
    length: u64,
    sum: Option<u32>,
}

/// Every file below `dir`.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Made> {
    const SUMMED_MAX: u64 = 1 << 20;
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if metadata.is_dir() {
                left.push(path);
                continue;
            }
            assert!(metadata.is_file(), "`{}` is no regular file", path.display());
            let length = metadata.len();
            let sum = (length <= SUMMED_MAX).then(|| crc32fast::hash(&fs::read(&path).unwrap()));
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), Made { length, sum });
        }
    }
    found
}
