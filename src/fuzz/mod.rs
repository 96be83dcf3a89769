//! Readers of bytes from outside, fed with real files that were damaged on purpose.
//!
//! Every input is made of the files of a corpus (what real servers and tools wrote, or our own writer) by a few changes
//! that know the format: lengths and checksums are mended behind them, so that what stands behind a checksum is reached
//! too. Whatever an input is, its reader must not panic, must come to an end, must hold no more memory than a bound that
//! grows with the input alone, and must keep what each target says of it.
//!
//! An input follows from one number, its seed. The tests do a short run; `scripts/fuzz` does a long one. A failure leaves the
//! input in `target/fuzz` and says how to repeat it. Targets stand beside the readers, in modules of the name `fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod dice;
pub(crate) mod json;
pub(crate) mod mutate;
mod run;

use std::path::{Path, PathBuf};

pub(crate) use dice::Dice;

/// A reader under test.
pub(crate) trait Target {
    fn name(&self) -> &'static str;

    /// An input; dice with the same seed make the same one.
    fn input(&mut self, dice: &mut Dice) -> Vec<u8>;

    /// Reads it. Panics when something does not hold that must.
    fn read(&mut self, input: &[u8]);

    /// What reading an input of so many bytes may hold at a time.
    fn memory_max(&self, input_bytes: usize) -> usize;
}

/// Every target there is.
fn targets() -> Vec<Box<dyn Target>> {
    let mut all = crate::binlog::fuzz::targets();
    all.extend(crate::domain::fuzz::targets());
    all.extend(crate::datastore::fuzz::targets());
    all.extend(crate::repository::fuzz::targets());
    all
}

/// The files in this folder of `tests/data` whose names end so, in the order of their names.
pub(crate) fn golden(folder: &str, end: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    paths.sort_unstable();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
