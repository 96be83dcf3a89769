//! What the fuzz of a reader is made of: chance that can be repeated, changes to bytes, what a target is. See `crate::fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod dice;
pub(crate) mod json;
pub(crate) mod mutate;

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

/// The files in this folder of `tests/data` whose names end so, in the order of their names.
pub(crate) fn golden(folder: &str, end: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    paths.sort_unstable();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
