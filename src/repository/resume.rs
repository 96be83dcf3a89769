//! What a backup has stored so far, on the local disk, so that a backup that goes on after a restart of coffer stores
//! only what it has not stored yet.
//!
//! One file a backup, JSON lines: a head, then a line for each part that is in the repository. A line counts once it
//! is synced; one that is torn, and all behind it, does not. The journal is a hint and never a proof: whoever finds a
//! part in it asks the store whether it is there.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;
use uuid::Uuid;

use super::Repository;
use super::manifest::Part;
use crate::domain::id::BackupId;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};

const FORMAT: u32 = 1;

/// What must be the same for a stored part to be of use.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    backup: BackupId,
    repository: Uuid,
    /// How parts are packed, and for whom.
    packed_as: String,
    /// Of the fingerprints. Random, so that data made to collide does not do so by rote. That is no proof against somebody
    /// who knows it: what a backup holds is proven by the digest of its whole stream, when it is read.
    seed: u64,
}

impl Head {
    fn fits(&self, other: &Head) -> bool {
        let Head { format, backup, repository, packed_as, seed: _ } = other;
        self.format == *format
            && self.backup == *backup
            && self.repository == *repository
            && self.packed_as == *packed_as
    }
}

/// Tells the raw bytes of one part from those of another: 128 bits of XXH3, at a tenth of the cost of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Fingerprint(u64, u64);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u32,
    raw: Fingerprint,
    part: Part,
}

type Known = HashMap<Fingerprint, BTreeMap<u32, Part>>;

/// The parts that an earlier try has stored, and those that this one stores.
pub(crate) struct PartJournal {
    /// By the fingerprint of the raw bytes: the parts made of them, by number.
    known: Known,
    /// The greatest number.
    last: u32,
    has_predecessor: bool,
    seed: u64,
    file: Mutex<File>,
    path: PathBuf,
}

impl PartJournal {
    /// Goes on with the journal of `backup` at `path`, or begins it. One that cannot be read, or that tells of parts which
    /// would be packed differently today, begins anew.
    pub(crate) fn open(path: &Path, repository: &Repository, backup: BackupId) -> Result<PartJournal, Error> {
        let packed_as = repository.codec.describe();
        let mut head = Head { format: FORMAT, backup, repository: repository.id(), packed_as, seed: random_seed()? };
        let failed = |err| io_error("unable to open", path, err);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let has_predecessor = file.metadata().map_err(failed)?.len() > 0;
        let (known, length) = read(&file, &mut head).map_err(failed)?;
        file.set_len(length).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let journal = PartJournal {
            last: last_of(&known),
            known,
            has_predecessor,
            seed: head.seed,
            file: Mutex::new(file),
            path: path.to_owned(),
        };
        if length == 0 {
            journal.append(&head)?;
            durable::sync_parent(path)?;
        }
        Ok(journal)
    }

    /// Whether there was an earlier try, of whatever use.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    /// How many parts an earlier try has stored.
    pub(crate) fn known(&self) -> usize {
        self.known.values().map(BTreeMap::len).sum()
    }

    pub(super) fn fingerprint(&self, raw: &[u8]) -> Fingerprint {
        let both = XxHash3_128::oneshot_with_seed(self.seed, raw).to_le_bytes();
        let (one, other) = both.split_at(8);
        let number = |half: &[u8]| half.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Fingerprint(number(one), number(other))
    }

    /// The first part behind number `last` that was made of bytes with this fingerprint.
    pub(super) fn find(&self, raw: Fingerprint, last: u32) -> Option<(u32, &Part)> {
        let (number, part) = self.known.get(&raw)?.range(last + 1..).next()?;
        Some((*number, part))
    }

    /// Whether there are parts behind number `last`.
    pub(super) fn goes_beyond(&self, last: u32) -> bool {
        self.last > last
    }

    /// The part is in the repository; durable when this returns.
    pub(super) fn note(&self, number: u32, raw: Fingerprint, part: &Part) -> Result<(), Error> {
        self.append(&Line { number, raw, part: part.clone() })
    }

    fn append(&self, line: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line)
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to write JSON").with_source(err))?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text).map_err(|err| io_error("unable to write", &self.path, err))?;
        file.sync_data().map_err(|err| io_error("unable to sync", &self.path, err))
    }
}

fn last_of(known: &Known) -> u32 {
    known.values().filter_map(|parts| parts.keys().next_back().copied()).max().unwrap_or(0)
}

fn random_seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The parts of a journal with this head, whose seed is taken over, and how many of its bytes are whole lines. Nothing
/// when it has another head.
fn read(file: &File, head: &mut Head) -> std::io::Result<(Known, u64)> {
    let mut known = Known::new();
    let mut reader = BufReader::new(file);
    let mut length = 0;
    let mut text = Vec::new();
    loop {
        text.clear();
        let bytes = reader.read_until(b'\n', &mut text)?;
        if bytes == 0 || text.last() != Some(&b'\n') {
            return Ok((known, length));
        }
        if length == 0 {
            match serde_json::from_slice::<Head>(&text) {
                Ok(found) if found.fits(head) => *head = found,
                _ => return Ok((known, 0)),
            }
        } else if let Ok(line) = serde_json::from_slice::<Line>(&text) {
            known.entry(line.raw).or_default().insert(line.number, line.part);
        } else {
            return Ok((known, length));
        }
        length += bytes as u64;
    }
}
