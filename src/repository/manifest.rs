//! Manifests: what makes stored parts a backup.

use std::collections::HashSet;
use std::io::Read;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::codec::Form;
use super::{FORMAT, Repository, layout, sealed, sha256_hex};
use crate::block::Block;
use crate::domain::backup::{BackupEnd, Strategy};
use crate::domain::compression::Compression;
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, ErrorKind};
use crate::storage::Body;

/// Raw bytes of every part but the last.
pub(crate) const PART_BYTES: usize = 8 * 1024 * 1024;
/// A part that cannot be compressed grows by less than this.
pub(super) const PART_OVERHEAD_MAX: usize = 64 * 1024;
/// A million parts, 8 TiB of data, need about as much.
const MANIFEST_BYTES_MAX: u64 = 400 * 1024 * 1024;
const LIST_PAGE: usize = 10_000;

/// Room for one part in any form.
pub(super) fn new_part() -> Result<Block, Error> {
    // One byte more than there may be, so that an object that is too long is seen.
    Block::new(PART_BYTES + PART_OVERHEAD_MAX + 1)
}

/// A backup's commit record. Written last; immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) backup: BackupId,
    pub(crate) instance: InstanceId,
    /// The timeline the backup was taken on.
    pub(crate) timeline: crate::domain::id::TimelineId,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) datastore: Datastore,
    pub(crate) strategy: Strategy,
    pub(crate) server_version: String,
    /// The program that made the stream, and can read it.
    pub(crate) tool: String,
    pub(crate) tool_version: String,
    pub(crate) compression: String,
    /// The public keys that the parts are encrypted to; none: they are not.
    pub(crate) encrypted_to: Vec<String>,
    /// Bytes of the stream, all parts together.
    pub(crate) raw_bytes: u64,
    /// SHA-256 of the whole stream.
    pub(crate) sha256: String,
    /// In the order of the stream.
    pub(crate) parts: Vec<Part>,
    /// Where the server's binlog was when the backup began.
    pub(crate) begin: Option<Coordinate>,
    pub(crate) end: BackupEnd,
    pub(crate) created_at: Timestamp,
    pub(crate) completed_at: Timestamp,
}

/// A piece of the stream, compressed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    pub(crate) key: String,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// Of the stored bytes.
    pub(crate) sha256: String,
}

impl Manifest {
    /// Bytes in the repository, all parts together.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.stored_bytes).sum()
    }

    /// What the parts are made with; `None` when it is nothing that is known here.
    fn form(&self) -> Option<Form> {
        let compression = Compression::named(&self.compression)?;
        Some(Form { compression, encrypted: !self.encrypted_to.is_empty() })
    }

    /// Why the manifest cannot be true, if it cannot.
    fn fault(&self) -> Option<String> {
        let Some(form) = self.form() else { return Some(format!("its compression is `{}`", self.compression)) };
        let (mut raw_bytes, mut number) = (0_u64, 0);
        for (part, nth) in self.parts.iter().zip(1_u32..) {
            if let Some(why) = part.fault() {
                return Some(format!("part {nth} {why}"));
            }
            let own = layout::number_of_part(self.instance, self.backup, &part.key, &part.sha256, form);
            match own {
                Some(own) if own > number => number = own,
                _ => return Some(format!("part {nth} has the name of another")),
            }
            raw_bytes += part.raw_bytes;
        }
        if raw_bytes != self.raw_bytes {
            return Some(format!("its parts hold {raw_bytes} bytes, not {}", self.raw_bytes));
        }
        (!is_digest(&self.sha256)).then(|| "its digest is none".to_owned())
    }
}

impl Part {
    fn fault(&self) -> Option<&'static str> {
        if !is_digest(&self.sha256) {
            return Some("has no digest");
        }
        // Bounds what a reader allocates.
        if self.raw_bytes == 0 || self.raw_bytes > PART_BYTES as u64 {
            return Some("is empty or too large");
        }
        if self.stored_bytes == 0 || self.stored_bytes > (PART_BYTES + PART_OVERHEAD_MAX) as u64 {
            return Some("is stored as nothing or as too much");
        }
        None
    }
}

impl Repository {
    /// Makes the stored parts a backup. Returns the manifest's address and its SHA-256.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<(String, String), Error> {
        let key = layout::manifest(manifest.instance, manifest.backup);
        if manifest.format != FORMAT {
            return Err(Error::new(ErrorKind::Internal, format!("`{key}` would have a wrong format")));
        }
        if let Some(why) = manifest.fault() {
            return Err(Error::new(ErrorKind::Internal, format!("`{key}` would be wrong: {why}")));
        }
        let text = sealed::render(manifest)?;
        self.store.put(&key, Body::Bytes(&text))?;
        if !self.reads_back(&key, &text)? {
            return Err(self.corrupt(&key, "it reads back different"));
        }
        Ok((self.location(&key), sha256_hex(&text)))
    }

    /// The manifest of a backup; `NotFound` when there is no such backup.
    pub(crate) fn read_manifest(&self, instance: InstanceId, backup: BackupId) -> Result<Manifest, Error> {
        self.parse_manifest(instance, backup, self.fetch_manifest(instance, backup)?)
    }

    /// The manifest of a backup with its address and its SHA-256, as `put_manifest` returned them.
    pub(crate) fn found_manifest(
        &self,
        instance: InstanceId,
        backup: BackupId,
    ) -> Result<(Manifest, String, String), Error> {
        let text = self.fetch_manifest(instance, backup)?;
        let sha256 = sha256_hex(&text);
        let manifest = self.parse_manifest(instance, backup, text)?;
        Ok((manifest, self.location(&layout::manifest(instance, backup)), sha256))
    }

    /// Whatever lies in the place of the instance's backups, with the size of the manifest: none was never completed,
    /// or is half deleted.
    pub(crate) fn manifest_sizes(&self, instance: InstanceId) -> Result<Vec<(BackupId, Option<u64>)>, Error> {
        let mut sizes = Vec::new();
        for folder in self.folders(&layout::backups_prefix(instance))? {
            let Ok(backup) = folder.parse() else { continue };
            sizes.push((backup, self.store.size(&layout::manifest(instance, backup))?));
        }
        Ok(sizes)
    }

    /// Deletes a backup, or what an unfinished one has left: the manifest first, so that at no moment there is a backup
    /// with parts missing. May be repeated.
    pub(crate) fn delete_backup(&self, instance: InstanceId, backup: BackupId) -> Result<(), Error> {
        self.store.delete(&layout::manifest(instance, backup))?;
        let prefix = layout::backup_prefix(instance, backup);
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(&prefix, after.as_deref(), LIST_PAGE)?;
            let is_last = page.len() < LIST_PAGE;
            let keys: Vec<String> = page.into_iter().map(|object| object.key).collect();
            self.store.delete_many(&keys)?;
            after = keys.into_iter().next_back();
            if is_last {
                return Ok(());
            }
        }
    }

    /// Deletes what lies beside the parts of a backup: what earlier tries had stored and the last one did not use.
    /// Returns how many objects those were.
    pub(crate) fn delete_orphans(&self, manifest: &Manifest) -> Result<usize, Error> {
        let own: HashSet<&str> = manifest.parts.iter().map(|part| part.key.as_str()).collect();
        let commit = layout::manifest(manifest.instance, manifest.backup);
        let all = self.keys(&layout::backup_prefix(manifest.instance, manifest.backup))?;
        let orphans: Vec<String> =
            all.into_iter().filter(|key| *key != commit && !own.contains(key.as_str())).collect();
        self.store.delete_many(&orphans)?;
        Ok(orphans.len())
    }

    fn fetch_manifest(&self, instance: InstanceId, backup: BackupId) -> Result<Vec<u8>, Error> {
        let key = layout::manifest(instance, backup);
        self.fetch(&key, MANIFEST_BYTES_MAX).map_err(|err| match err.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("the repository holds no backup {backup}: there is no `{}`", self.location(&key)),
            )
            .hint("A backup without a manifest was never completed, or was deleted."),
            _ => err,
        })
    }

    fn parse_manifest(&self, instance: InstanceId, backup: BackupId, text: Vec<u8>) -> Result<Manifest, Error> {
        let key = layout::manifest(instance, backup);
        let manifest: Manifest = sealed::parse(text, &self.location(&key))?;
        if (manifest.instance, manifest.backup) != (instance, backup) {
            return Err(self.corrupt(&key, "the manifest of another backup lies in its place"));
        }
        if manifest.form().is_none() {
            let what =
                format!("`{}` has compression `{}`, which is not known", self.location(&key), manifest.compression);
            return Err(Error::new(ErrorKind::Unsupported, what).hint("Use a newer version of coffer."));
        }
        match manifest.fault() {
            Some(why) => Err(self.corrupt(&key, why)),
            None => Ok(manifest),
        }
    }

    /// Compares without holding a second copy of a large text.
    fn reads_back(&self, key: &str, text: &[u8]) -> Result<bool, Error> {
        let mut reader = self.store.get(key)?;
        let mut buffer = vec![0; 256 * 1024];
        let mut rest = text;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(read) => read,
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(crate::error::error_of(err, &format!("unable to read `{key}` back"))),
            };
            if read == 0 {
                return Ok(rest.is_empty());
            }
            match rest.strip_prefix(buffer.get(..read).unwrap_or_default()) {
                Some(behind) => rest = behind,
                None => return Ok(false),
            }
        }
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "for verification"))]
impl Repository {
    /// The manifest of a backup, which must have the SHA-256 that was noted when it was made.
    pub(crate) fn read_manifest_verified(
        &self,
        instance: InstanceId,
        backup: BackupId,
        sha256: &str,
    ) -> Result<Manifest, Error> {
        let text = self.fetch_manifest(instance, backup)?;
        if sha256_hex(&text) != sha256 {
            let key = layout::manifest(instance, backup);
            return Err(self.corrupt(&key, "it is not the manifest that was written for this backup"));
        }
        self.parse_manifest(instance, backup, text)
    }

    /// The ids of the instance's backups: of all that have a manifest, readable or not.
    pub(crate) fn backup_ids(&self, instance: InstanceId) -> Result<Vec<BackupId>, Error> {
        let sizes = self.manifest_sizes(instance)?;
        Ok(sizes.into_iter().filter_map(|(backup, size)| size.map(|_| backup)).collect())
    }

    /// All manifests of the instance, oldest first. Fails when one cannot be read; see `backup_ids` to go on without it.
    pub(crate) fn backups(&self, instance: InstanceId) -> Result<Vec<Manifest>, Error> {
        let mut manifests = self
            .backup_ids(instance)?
            .into_iter()
            .map(|backup| self.read_manifest(instance, backup))
            .collect::<Result<Vec<Manifest>, Error>>()?;
        manifests.sort_by_key(|manifest| manifest.created_at);
        Ok(manifests)
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
