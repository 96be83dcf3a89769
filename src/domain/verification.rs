//! Verification: stored objects read again, and what was found.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::id::{BackupId, InstanceId, RecoveryId, TaskId, TimelineId};
use crate::domain::instance::Fault;
use crate::error::{Error, ErrorKind};

/// More slices than this are no slices.
const SLICES_MAX: u32 = 1000;

/// A share of all objects: `2/7` is the second of seven. An object is in exactly one slice of a division, the same one
/// for ever, so that one slice after the other covers everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Slice {
    number: u32,
    of: u32,
}

impl Slice {
    /// Everything.
    pub(crate) const WHOLE: Slice = Slice { number: 1, of: 1 };

    /// `number` counts from 1.
    pub(crate) fn new(number: u32, of: u32) -> Result<Slice, Error> {
        if (1..=SLICES_MAX).contains(&of) && (1..=of).contains(&number) {
            return Ok(Slice { number, of });
        }
        Err(Error::new(ErrorKind::InvalidInput, format!("`{number}/{of}` is not a slice"))
            .hint(format!("Write for example 2/7, the second of seven; there are at most {SLICES_MAX}.")))
    }

    pub(crate) fn number(self) -> u32 {
        self.number
    }

    pub(crate) fn of(self) -> u32 {
        self.of
    }

    /// Whether the object with this key is in the slice.
    pub(crate) fn holds(self, key: &str) -> bool {
        let digest = Sha256::digest(key.as_bytes());
        let first = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        first % u64::from(self.of) == u64::from(self.number - 1)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Slice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Slice, Error> {
        let digits = |s: &str| !s.is_empty() && s.len() <= 4 && s.bytes().all(|b| b.is_ascii_digit());
        let parsed = text.split_once('/').filter(|(number, of)| digits(number) && digits(of));
        match parsed.map(|(number, of)| (number.parse(), of.parse())) {
            Some((Ok(number), Ok(of))) => Slice::new(number, of),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a slice"))
                .hint(format!("Write for example 2/7, the second of seven; there are at most {SLICES_MAX}."))),
        }
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> String {
        slice.to_string()
    }
}

impl TryFrom<String> for Slice {
    type Error = Error;

    fn try_from(text: String) -> Result<Slice, Error> {
        text.parse()
    }
}

/// What an object is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ObjectPlace {
    Manifest {
        backup: BackupId,
    },
    Part {
        backup: BackupId,
    },
    /// The chunk of the timeline that ends there.
    Chunk {
        timeline: TimelineId,
        ordinal: u32,
        end: u64,
    },
    Timeline {
        timeline: TimelineId,
    },
    Settings,
    /// The record of a settled recovery.
    Recovery {
        recovery: RecoveryId,
    },
}

impl ObjectPlace {
    pub(crate) fn backup(&self) -> Option<BackupId> {
        match self {
            ObjectPlace::Manifest { backup } | ObjectPlace::Part { backup } => Some(*backup),
            ObjectPlace::Chunk { .. }
            | ObjectPlace::Timeline { .. }
            | ObjectPlace::Settings
            | ObjectPlace::Recovery { .. } => None,
        }
    }

    /// For people: `part`.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            ObjectPlace::Manifest { .. } => "manifest",
            ObjectPlace::Part { .. } => "part",
            ObjectPlace::Chunk { .. } => "chunk",
            ObjectPlace::Timeline { .. } => "timeline",
            ObjectPlace::Settings => "settings",
            ObjectPlace::Recovery { .. } => "record of a recovery",
        }
    }
}

/// An object that was read again to its last byte, or could not be because it is gone or not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) key: String,
    pub(crate) instance: InstanceId,
    pub(crate) place: ObjectPlace,
    pub(crate) stored_bytes: u64,
    pub(crate) verified_at: Timestamp,
    /// Why it is bad, if it is.
    pub(crate) fault: Option<String>,
}

/// An object that is not what was stored, or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadObject {
    pub(crate) key: String,
    pub(crate) place: ObjectPlace,
    pub(crate) reason: String,
    /// When that was first seen.
    pub(crate) found_at: Timestamp,
    /// The backup that coffer cast because of it.
    pub(crate) replacement: Option<BackupId>,
}

/// What a planner must not build on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// By backup: what is wrong with it.
    backups: BTreeMap<BackupId, String>,
    /// By the key of a chunk: what is wrong with it.
    chunks: BTreeMap<String, String>,
}

impl Damage {
    pub(crate) fn of(bad: &[BadObject]) -> Damage {
        let mut damage = Damage::default();
        for object in bad {
            match &object.place {
                ObjectPlace::Manifest { backup } | ObjectPlace::Part { backup } => {
                    damage.backups.entry(*backup).or_insert_with(|| object.reason.clone());
                }
                ObjectPlace::Chunk { .. } => {
                    damage.chunks.insert(object.key.clone(), object.reason.clone());
                }
                // The catalog knows what stood in them.
                ObjectPlace::Timeline { .. } | ObjectPlace::Settings | ObjectPlace::Recovery { .. } => {}
            }
        }
        damage
    }

    /// What is wrong with the backup, if anything is.
    pub(crate) fn of_backup(&self, backup: BackupId) -> Option<&str> {
        self.backups.get(&backup).map(String::as_str)
    }

    /// What is wrong with the chunk of this key, if anything is.
    pub(crate) fn of_chunk(&self, key: &str) -> Option<&str> {
        self.chunks.get(key).map(String::as_str)
    }
}

/// One verification: of a backup and what a recovery from it reads, or of all an instance has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerificationRun {
    pub(crate) task: TaskId,
    pub(crate) slice: Slice,
    /// Objects that were read since then need not be read again.
    pub(crate) begun_at: Timestamp,
    /// Absent while it runs, waits or has failed.
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) objects: u64,
    pub(crate) stored_bytes: u64,
    /// How many of them are proven as stored bytes only: they are encrypted, and no identity is here that opens them.
    pub(crate) closed: u64,
    /// How many of them are bad.
    pub(crate) bad: u64,
    /// The keys of the first of those.
    pub(crate) bad_keys: Vec<String>,
    /// Why it ended before its end.
    pub(crate) fault: Option<Fault>,
}

impl VerificationRun {
    /// Keys that are kept.
    pub(crate) const BAD_KEYS_MAX: usize = 100;

    pub(crate) fn begun(task: TaskId, slice: Slice, begun_at: Timestamp) -> VerificationRun {
        VerificationRun {
            task,
            slice,
            begun_at,
            ended_at: None,
            objects: 0,
            stored_bytes: 0,
            closed: 0,
            bad: 0,
            bad_keys: Vec::new(),
            fault: None,
        }
    }
}

/// How the stored objects of an instance stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct VerificationSummary {
    /// Objects that were verified, and their bytes.
    pub(crate) objects: u64,
    pub(crate) stored_bytes: u64,
    /// When the one among them was read that has waited longest for the next time.
    pub(crate) oldest_verified_at: Option<Timestamp>,
    pub(crate) bad_objects: u64,
    /// The last one that was asked for, and the last one by schedule.
    pub(crate) asked: Option<VerificationRun>,
    pub(crate) scheduled: Option<VerificationRun>,
}

impl VerificationSummary {
    /// When a verification of the instance last came to its end.
    pub(crate) fn last_ended_at(&self) -> Option<Timestamp> {
        self.runs().filter_map(|run| run.ended_at).max()
    }

    /// When one last came to its end and found nothing bad.
    pub(crate) fn last_success_at(&self) -> Option<Timestamp> {
        self.runs().filter(|run| run.bad == 0).filter_map(|run| run.ended_at).max()
    }

    fn runs(&self) -> impl Iterator<Item = &VerificationRun> {
        self.asked.iter().chain(&self.scheduled)
    }
}

/// How a backup's own objects stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackupHealth {
    /// Not all of them were read again yet.
    Never,
    /// All are what was stored; the one read longest ago was read then.
    Good {
        verified_at: Timestamp,
    },
    Bad {
        verified_at: Option<Timestamp>,
    },
}

impl BackupHealth {
    /// The word of the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BackupHealth::Never => "NEVER",
            BackupHealth::Good { .. } => "OK",
            BackupHealth::Bad { .. } => "BAD",
        }
    }

    pub(crate) fn verified_at(self) -> Option<Timestamp> {
        match self {
            BackupHealth::Never => None,
            BackupHealth::Good { verified_at } => Some(verified_at),
            BackupHealth::Bad { verified_at } => verified_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_exactly_one_slice_and_slices_are_about_even() {
        for of in [1, 2, 3, 7, 1000] {
            let slices: Vec<Slice> = (1..=of).map(|number| Slice::new(number, of).unwrap()).collect();
            let mut sizes = vec![0_u32; slices.len()];
            for n in 0..2000 {
                let key = format!("instances/x/backups/y/part-{n:06}");
                let holders: Vec<usize> = (0..slices.len()).filter(|at| slices[*at].holds(&key)).collect();
                assert_eq!(holders.len(), 1, "{key} of {of}");
                sizes[holders[0]] += 1;
            }
            let even = 2000 / of;
            assert!(of == 1000 || sizes.iter().all(|size| size.abs_diff(even) < even / 4 + 1), "{sizes:?}");
        }
        // What was covered by the slices of last week must not be dealt out anew by another version.
        assert!(Slice::new(4, 7).unwrap().holds("coffer.json"));
    }

    #[test]
    fn slices_are_read_as_they_are_written() {
        let slice: Slice = "2/7".parse().unwrap();
        assert_eq!((slice.number(), slice.of(), slice.to_string().as_str()), (2, 7, "2/7"));
        assert_eq!(serde_json::from_str::<Slice>("\"2/7\"").unwrap(), slice);
        for bad in ["", "2", "0/7", "8/7", "1/0", "1/1001", "-1/7", "+1/7", "1/7/7", "1 / 7", "99999999999/7"] {
            assert_eq!(bad.parse::<Slice>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
