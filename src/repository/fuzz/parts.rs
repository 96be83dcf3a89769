//! Parts of backups: compressed and encrypted bytes.

use super::{packed, repository};
use crate::domain::compression::Compression;
use crate::repository::Repository;
use crate::repository::manifest::PART_BYTES;
use crate::testing::fuzz::{Dice, Target, golden};

const NAME: &str = "instances/i/backups/b/part-00000001";
/// In front of an input: how many bytes the manifest says it unpacks to.
const CLAIM_BYTES: usize = 4;

pub(super) struct Parts {
    raw: Vec<Vec<u8>>,
    reader: Repository,
}

impl Parts {
    pub(super) fn new() -> Parts {
        let mut raw = golden("binlog", ".binlog");
        raw.truncate(4);
        raw.push(crate::repository::bench::sample(200_000, 3));
        Parts { raw, reader: repository(Compression::Zstd, false).0 }
    }
}

impl Target for Parts {
    fn name(&self) -> &'static str {
        "part"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let raw = dice.pick(&self.raw);
        let claim = if dice.one_in(4) { dice.below(PART_BYTES + 1) } else { raw.len() };
        let stored = packed(dice, NAME, raw);
        [&(claim as u32).to_le_bytes()[..], &stored].concat()
    }

    fn read(&mut self, input: &[u8]) {
        let Some((claim, stored)) = input.split_first_chunk::<CLAIM_BYTES>() else { return };
        // What a manifest claims beyond this is refused before anything is read.
        let claim = (u32::from_le_bytes(*claim) as usize).min(PART_BYTES);
        if let Ok(raw) = self.reader.codec.unpack(NAME, stored, claim) {
            assert_eq!(raw.len(), claim);
        }
    }

    /// What a part may have, read buffers, and the header of an encrypted one.
    fn memory_max(&self, input_bytes: usize) -> usize {
        PART_BYTES + (2 << 20) + 2 * input_bytes
    }
}
