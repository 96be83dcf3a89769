//! Proves objects by reading them: every stored byte against the digest that was noted for it, and what the bytes hold
//! as far as this host can look into them. A host without an identity can tell a damaged object all the same.

use super::Repository;
use super::manifest::{Manifest, Part};
use super::reader::fetch_part;
use crate::domain::chunk::Chunk;
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, error_of};

/// How far an object is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Every stored byte is the one that was stored. What they hold is encrypted, and no identity is here that opens it.
    Stored,
    /// Besides, it was unpacked, and is what it should be.
    Contents,
}

impl Repository {
    /// Reads the whole part. `Corrupt`, naming it, when it is not what the manifest says.
    pub(crate) fn verify_part(&self, part: &Part) -> Result<Proof, Error> {
        fetch_part(self, part).map(|_| Proof::Contents)
    }

    /// Reads the whole chunk. `Corrupt`, naming it, when it is not what the catalog says.
    pub(crate) fn verify_chunk(&self, chunk: &Chunk) -> Result<Proof, Error> {
        let (_, mut reader) = self.read_chunk(&chunk.key, &chunk.facts.sha256)?;
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|err| error_of(err, &format!("unable to read `{}`", self.location(&chunk.key))))?;
        Ok(Proof::Contents)
    }

    /// Reads the manifest, which is never encrypted. `checksum` is the SHA-256 that the catalog has noted, if it has.
    pub(crate) fn verify_manifest(
        &self,
        instance: InstanceId,
        backup: BackupId,
        checksum: Option<&str>,
    ) -> Result<Manifest, Error> {
        match checksum {
            Some(sha256) => self.read_manifest_verified(instance, backup, sha256),
            None => self.read_manifest(instance, backup),
        }
    }
}
