//! Records of recoveries that have settled: what was done to an instance, when, and why.
//!
//! A record holds the whole plan, so it may name tables: it is packed like a part, and encrypted where parts are. Each
//! settled state is an object of its own; the newest by name counts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::verify::Proof;
use super::{FORMAT, Repository, layout, sealed, sha256_hex};
use crate::domain::id::{InstanceId, RecoveryId};
use crate::domain::recovery::Recovery;
use crate::error::{Error, ErrorKind};
use crate::storage::{Body, StoredObject};

/// A plan may name a hundred thousand chunks.
const RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoveryObject {
    format: u32,
    recovery: Recovery,
}

/// A settled recovery's record, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecoveryRecord {
    pub(crate) recovery: RecoveryId,
    /// When the recovery came to be as the record has it.
    pub(crate) updated_at: Timestamp,
    /// Bytes of the record unpacked.
    pub(crate) bytes: usize,
    pub(crate) object: StoredObject,
}

impl Repository {
    /// Stores the record of a settled recovery; the same one again is fine.
    pub(crate) fn put_recovery(&self, recovery: &Recovery) -> Result<(), Error> {
        let text = sealed::render(&RecoveryObject { format: FORMAT, recovery: recovery.clone() })?;
        if text.len() > RECORD_BYTES_MAX {
            let message = format!("the record of recovery {} would have {} bytes", recovery.id, text.len());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let name = layout::recovery_name(recovery, text.len());
        let mut packed = Vec::new();
        self.codec.packer()?.pack(&name, &text, &mut packed)?;
        let key = layout::recovery(&name, &sha256_hex(&packed), self.codec.form());
        self.store.put(&key, Body::Bytes(&packed))
    }

    /// The records of an instance's recoveries, each recovery's oldest first.
    pub(crate) fn recovery_records(&self, instance: InstanceId) -> Result<Vec<RecoveryRecord>, Error> {
        let objects = self.objects(&layout::recoveries_prefix(instance))?;
        let record = |object: StoredObject| {
            let (recovery, updated_at, bytes) = layout::recovery_of(&object.key, instance)?;
            Some(RecoveryRecord { recovery, updated_at, bytes, object })
        };
        Ok(objects.into_iter().filter_map(record).collect())
    }

    /// The recovery as a record has it. `Refused` when it is encrypted and nothing here opens it; its stored bytes are
    /// proven all the same.
    pub(crate) fn recovery(&self, record: &RecoveryRecord) -> Result<Recovery, Error> {
        let (key, bytes) = (record.object.key.as_str(), record.bytes);
        if bytes == 0 || bytes > RECORD_BYTES_MAX {
            return Err(self.corrupt(key, "its name claims an impossible length"));
        }
        let packed = self.fetch(key, RECORD_BYTES_MAX as u64)?;
        if !layout::is_named_by(key, &sha256_hex(&packed)) {
            return Err(self.corrupt(key, "its stored bytes do not have the digest in its name"));
        }
        let name = layout::name_of_part(key);
        let text = self.codec.unpack(name, &packed, bytes).map_err(|err| match err.kind() {
            ErrorKind::Corrupt => self.corrupt(key, err.message()),
            _ => err.context(format!("unable to read `{}`", self.location(key))),
        })?;
        let object: RecoveryObject = sealed::parse(text, &self.location(key))?;
        let recovery = object.recovery;
        let is_it = recovery.id == record.recovery && layout::recovery_name(&recovery, bytes) == name;
        if is_it { Ok(recovery) } else { Err(self.corrupt(key, "another record lies in its place")) }
    }

    /// Proves a record, as far as this host can look into it.
    pub(crate) fn verify_recovery(&self, record: &RecoveryRecord) -> Result<Proof, Error> {
        match self.recovery(record) {
            Ok(_) => Ok(Proof::Contents),
            Err(err) if err.kind() == ErrorKind::Refused => Ok(Proof::Stored),
            Err(err) => Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::bench::{Bench, Key};
    use crate::service::bench as service;

    #[test]
    fn a_record_comes_back_encrypted_or_not_and_any_change_is_seen() {
        let key = Key::new();
        let wanted = service::Bench::new();
        let instance = wanted.active("shop").id;
        wanted.completed(instance, "base");
        let recovery = wanted.begin(instance, false).recovery;
        for settings in [crate::repository::Settings::default(), key.settings()] {
            let bench = Bench::with(&settings);
            bench.repository.put_recovery(&recovery).unwrap();
            let record = bench.repository.recovery_records(instance).unwrap().remove(0);
            assert_eq!((record.recovery, record.updated_at), (recovery.id, recovery.updated_at));
            let is_open = settings.encrypt_to.is_empty();
            let proof = bench.repository.verify_recovery(&record).unwrap();
            assert_eq!(proof, if is_open { Proof::Contents } else { Proof::Stored });
            let reader = bench.reopened(&key.settings_with_identity());
            assert_eq!(reader.recovery(&record).unwrap(), recovery);
            let stored = bench.bytes(&record.object.key);
            let shows = |word: &str| stored.windows(word.len()).any(|found| found == word.as_bytes());
            assert!(is_open || !shows("orders"), "no table names in what is encrypted");
            for bit in (0..stored.len() * 8).step_by(997) {
                bench.flip_bit(&record.object.key, bit);
                let err = bench.repository.verify_recovery(&record).unwrap_err();
                assert!(err.kind() == ErrorKind::Corrupt && err.message().contains(&record.object.key), "{err}");
                bench.overwrite(&record.object.key, &stored);
            }
        }
    }
}
