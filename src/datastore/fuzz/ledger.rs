//! The ledger of an unpacking that was cut off.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{Scratch, tree};
use crate::datastore::xbstream::{Checkpoint, last_checkpoint};
use crate::fuzz::{Dice, Target, golden, json, mutate};

/// A ledger, the directory as it was when it was written, and the stream.
struct CutOff {
    lines: Vec<Value>,
    files: Vec<(PathBuf, Vec<u8>)>,
    stream: Vec<u8>,
}

/// The checkpoint that is found in a ledger, and the unpacking that goes on behind it.
pub(super) struct Ledger {
    corpus: Vec<CutOff>,
    scratch: Scratch,
}

impl Ledger {
    pub(super) fn new() -> Ledger {
        let scratch = Scratch::new();
        let mut cut_off = Vec::new();
        for stream in golden("xbstream", ".xbstream") {
            let dir = scratch.fresh();
            let _ = scratch.unpack(&stream[..stream.len() * 3 / 4], &dir, &Checkpoint::default(), 300);
            let text = fs::read_to_string(scratch.ledger()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            cut_off.push(CutOff {
                lines,
                files: tree(&dir).into_keys().map(|path| (path.clone(), fs::read(dir.join(path)).unwrap())).collect(),
                stream,
            });
        }
        Ledger { corpus: cut_off, scratch }
    }
}

impl Target for Ledger {
    fn name(&self) -> &'static str {
        "unpack-ledger"
    }

    /// The first byte says which directory lies beside the ledger.
    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let nth = dice.below(self.corpus.len());
        let mut lines = self.corpus[nth].lines.clone();
        let others = &dice.pick(&self.corpus).lines;
        for _ in 0..=dice.below(3) {
            let at = dice.below(lines.len());
            match lines.get_mut(at) {
                Some(line) if !dice.one_in(3) => json::change(dice, line),
                _ => mutate::shuffle(dice, &mut lines, others),
            }
        }
        let mut text = vec![nth as u8];
        for line in lines {
            text.extend(line.to_string().into_bytes());
            text.push(b'\n');
        }
        if dice.one_in(4) {
            mutate::change(dice, &mut text, b"\n{\"checkpoint\":{\"offset\":0,\"files\":1,\"bytes\":0,\"open\":{}}}\n");
        }
        text
    }

    fn read(&mut self, input: &[u8]) {
        let Some((nth, text)) = input.split_first() else { return };
        let CutOff { files, stream, .. } = &self.corpus[usize::from(*nth) % self.corpus.len()];
        let dir = self.scratch.fresh();
        for (path, bytes) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            put(&path, bytes);
        }
        put(&self.scratch.ledger(), text);
        let before = tree(&dir);
        let found = last_checkpoint(&dir, &self.scratch.ledger(), "fuzz").unwrap();
        self.scratch.check_beside(&dir);
        let Some(from) = found else {
            assert!(tree(&dir) == before, "nothing can be gone on with, and files are gone");
            return;
        };
        let at = usize::try_from(from.offset).unwrap_or(usize::MAX).min(stream.len());
        let _ = self.scratch.unpack(&stream[at..], &dir, &from, 300);
        self.scratch.check_beside(&dir);
    }

    /// A line may be one string of any length; the rest is copies of the files and the buffers.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (4 << 20) + 48 * input_bytes
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody relies on it after a crash")]
fn put(path: &std::path::Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}
