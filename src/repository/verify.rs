//! Proves objects by reading them: every stored byte against the digest that was noted for it, and what the bytes hold
//! as far as this host can look into them. A host without an identity can tell a damaged object all the same.

use std::io;

use super::chunk::{ChunkReader, Measured};
use super::codec::Fault;
use super::manifest::{Manifest, Part, new_part};
use super::reader::{fetch_stored, unpack};
use super::{Repository, layout};
use crate::domain::chunk::Chunk;
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, ErrorKind};

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
        let mut stored = new_part()?;
        fetch_stored(self, part, &mut stored)?;
        match unpack(self, part, &stored, &mut new_part()?) {
            Ok(_) => Ok(Proof::Contents),
            Err(err) if err.kind() == ErrorKind::Refused => Ok(Proof::Stored),
            Err(err) => Err(err),
        }
    }

    /// Reads the whole chunk. `Corrupt`, naming it, when it is not what the catalog and its own head say.
    pub(crate) fn verify_chunk(&self, chunk: &Chunk) -> Result<Proof, Error> {
        let key = &chunk.key;
        let (head, object) = self.open_chunk(key, &chunk.facts.sha256)?;
        let mut payload = Measured::new(object);
        let unpacked = match self.codec.decoder(&layout::chunk_name(&head.facts), &mut payload) {
            Ok(decoder) => {
                let mut reader = ChunkReader::new(decoder, &head.facts, self.location(key));
                io::copy(&mut reader, &mut io::sink())
                    .map(|_| Proof::Contents)
                    .map_err(|err| self.unable_to_read(key, err))
            }
            Err(Fault::Locked(_)) => Ok(Proof::Stored),
            Err(Fault::Damaged(why)) => Err(self.corrupt(key, why)),
            Err(Fault::Read(err)) => Err(self.unable_to_read(key, err)),
        };
        if unpacked.as_ref().is_err_and(|err| err.kind() != ErrorKind::Corrupt) {
            return unpacked;
        }
        self.prove_payload(key, &head, payload)?;
        unpacked
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
