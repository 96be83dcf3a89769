//! Records of recoveries that have settled: what was done to an instance, when, and why.
//!
//! A record holds the whole plan, so it may name tables: it is packed like a part, and encrypted where parts are. Each
//! settled state is an object of its own; the newest by name counts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
        let name = layout::recovery_name(recovery, text.len(), &sha256_hex(&text));
        let mut packed = Vec::new();
        self.codec.packer()?.pack(&name, &text, &mut packed)?;
        match self.store.put(&layout::recovery(&name, self.codec.form()), Body::Bytes(&packed)) {
            // The name holds the digest of the text; packed a second time it may look different.
            Err(err) if err.kind() == ErrorKind::Conflict => Ok(()),
            put => put,
        }
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

    /// The recovery as a record has it. `Refused` when it is encrypted and nothing here opens it.
    pub(crate) fn recovery(&self, instance: InstanceId, record: &RecoveryRecord) -> Result<Recovery, Error> {
        let key = record.object.key.as_str();
        let bytes = record.bytes;
        if bytes == 0 || bytes > RECORD_BYTES_MAX {
            return Err(self.corrupt(key, "its name claims an impossible length"));
        }
        let packed = self.fetch(key, RECORD_BYTES_MAX as u64)?;
        let name = layout::name_of_recovery(key);
        let text = self.codec.unpack(name, &packed, bytes).map_err(|err| match err.kind() {
            ErrorKind::Corrupt => self.corrupt(key, err.message()),
            _ => err.context(format!("unable to read `{}`", self.location(key))),
        })?;
        let digest = sha256_hex(&text);
        let object: RecoveryObject = sealed::parse(text, &self.location(key))?;
        let recovery = object.recovery;
        let is_it = (recovery.id, recovery.instance) == (record.recovery, instance)
            && layout::recovery_name(&recovery, bytes, &digest) == name;
        if is_it { Ok(recovery) } else { Err(self.corrupt(key, "another record lies in its place")) }
    }
}
