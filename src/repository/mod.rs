//! What lies in object storage, byte by byte. This page is its specification (format 1).
//!
//! Objects are immutable and never overwritten; a name holds what makes it unique. Times are UTC, digests SHA-256 in
//! lower-case hex, `sha16` the first 16 digits of one. Below the repository's address there are:
//!
//! | key | what |
//! |---|---|
//! | `coffer.json` | the marker: `{"format":1,"id":UUID}` |
//! | `instances/<instance>/timelines/<timeline>.json` | a timeline (sealed JSON) |
//! | `instances/<instance>/settings-<yyyymmddThhmmss.mmmZ>-<sha16>.json` | the instance's settings; the last by name counts (sealed JSON) |
//! | `instances/<instance>/recoveries/<recovery>/<yyyymmddThhmmss.nnnnnnnnnZ>-<bytes>-<sha16>.json.<form>` | the record of a recovery that has settled; each recovery's last by name counts |
//! | `instances/<instance>/binlog/<timeline>/<ordinal>-<begin>-<end>-<sha16>.binlog.<form>` | a chunk of binlog; `sha16` of its raw bytes |
//! | `instances/<instance>/backups/<backup>/part-<number>-<sha16>.<form>` | a part of a backup; `sha16` of the stored bytes |
//! | `instances/<instance>/backups/<backup>/manifest.json` | the backup's manifest (sealed JSON) |
//!
//! `ordinal` has 8 digits, `begin` and `end` (offsets in the binlog file) 12, a part's number 8. `form` is `zst` or
//! `gz`, with `.age` behind it when the object is encrypted. What stands in front of `-<sha16>` is the object's *name*.
//!
//! **Sealed JSON** is an object whose last member is `seal`, the digest of the text with that member and its comma cut
//! out and the final newline left off: what a bit flipped on a disk would change unseen is seen (`sealed`).
//!
//! **Settings** are stored whenever they change: name, datastore, version, paths, how the server is started, the option file
//! of a server that coffer made. Lines of it that may hold a secret, and the option files of servers that others made, are
//! not part of them. `deleted_at` says that the instance was deleted; its backups and its history stay.
//!
//! **A record of a recovery** is sealed JSON of `bytes` bytes, stored as the payload of a part is, because the plan in it
//! may name tables; `sha16` is of the stored bytes, the time is that of the state it tells.
//!
//! **The payload** of a part or a chunk is made from its raw bytes in two steps.
//! - *Compressed*, with the object's name inside, so that the bytes are bound to their place: an object under the name of
//!   another is told even when its name and all digests were made to fit. `zst`: a skippable frame (magic `0x184D2A51`,
//!   length u32 little-endian, the name), then one zstd frame with content size and checksum. `gz`: one gzip member whose
//!   FNAME is the name.
//! - *Encrypted*, if there are recipients: an age file (`age-encryption.org/v1`, binary) to all of them, X25519 only.
//!
//! Nothing follows behind a payload's end.
//!
//! **A part** is its payload. The output of the backup tool is cut into pieces of up to 8 MiB; each is a part, and
//! their numbers grow. The manifest names the
//! parts in order, with sizes and the digests of what is stored, and says how they are made and whose identities open
//! them (`compression`, `encrypted_to`). It is written last: without it there is no backup, and deleting a backup deletes
//! it first.
//!
//! **A chunk** is its head and its payload. The head is a zstd skippable frame (magic `0x184D2A50`, length u32 little-endian,
//! then `ChunkHead` as JSON, spaces to fill the room that was kept for it, a newline, the digest of all that up to the
//! newline). The raw bytes are whole transactions only. The head is never encrypted: it holds all the catalog knows, so
//! that the catalog can be rebuilt from the heads, and how long the payload is and its digest, so that a chunk is proven
//! by whoever cannot read it. It holds GTIDs, times and file names, and nothing of tables or rows.
//!
//! The same chunk may lie there twice under names that differ in their form: a life of coffer that was cut off between
//! storing and noting it, and a later one with other settings. Either is good.
//!
//! By hand (README has it whole, and a test follows it): parts through `age -d` if they are encrypted, then through
//! `zstd -dc` (which reads gzip too) into `mbstream -x`. Chunks likewise behind their heads; those that are not encrypted
//! as they are, since decoders skip a skippable frame.
//!
//! Whoever finds a greater `format` number anywhere refuses and names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::repository::awaited::Awaited;
use crate::repository::codec::{Codec, IdentitySource};
use crate::repository::manifest::Manifest;
use crate::storage::{self, Access, Body, ObjectStore, probe};

mod awaited;
#[cfg(test)]
mod backup_tests;
#[cfg(test)]
pub(crate) mod bench;
pub(crate) mod chunk;
pub(crate) mod codec;
#[cfg(test)]
mod encryption_tests;
#[cfg(test)]
pub(crate) mod fuzz;
mod heads;
mod history;
mod layout;
pub(crate) mod manifest;
pub(crate) mod reader;
pub(crate) mod recoveries;
pub(crate) mod resume;
mod sealed;
#[cfg(test)]
mod transfer_tests;
pub(crate) mod verify;
mod verify_history;
pub(crate) mod writer;

pub(crate) use history::FoundSettings;

/// The format this version writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

const MARKER: &str = "coffer.json";
const MARKER_BYTES_MAX: u64 = 64 * 1024;

/// How a repository is reached and what is made of what is put into it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) access: Access,
    pub(crate) compression: Compression,
    /// Public keys that everything is encrypted to; none: nothing is.
    pub(crate) encrypt_to: Vec<String>,
    pub(crate) identity: IdentitySource,
    pub(crate) transfers: Transfers,
}

/// How many objects one backup or one restore has on their way at a time; each costs memory for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfers(usize);

impl Transfers {
    pub(crate) const DEFAULT: usize = 4;

    pub(crate) fn new(count: usize) -> Transfers {
        Transfers(count.max(1))
    }

    pub(crate) fn get(self) -> usize {
        self.0
    }
}

impl Default for Transfers {
    fn default() -> Transfers {
        Transfers::new(Transfers::DEFAULT)
    }
}

/// A repository that was found to be one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Repository {
    store: Arc<dyn ObjectStore>,
    codec: Codec,
    transfers: Transfers,
    id: Uuid,
    /// Where an object too large for memory is built before it is stored.
    scratch_dir: PathBuf,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: u32,
    id: Uuid,
}

/// The one member every object of ours has, read before anything else of it.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl Repository {
    /// Opens the repository at `url`. An absent or empty folder becomes a repository; a folder with other things in it,
    /// or a repository of a newer format, is refused.
    pub(crate) fn open(url: &str, settings: &Settings) -> Result<Repository, Error> {
        Repository::on_store(storage::open(url, &settings.access)?, settings)
    }

    /// Opens the repository at `url`, which must be one already: `NotFound` or `Unavailable` when it is not.
    pub(crate) fn open_existing(url: &str, settings: &Settings) -> Result<Repository, Error> {
        let store = storage::open_existing(url, &settings.access)?;
        match read_marker(store.as_ref())? {
            Some(marker) => Repository::with_marker(store, settings, &marker),
            None => Err(Error::new(ErrorKind::NotFound, format!("`{}` holds no repository of coffer", store.url()))
                .hint("Check the address, and that its disk is mounted.")),
        }
    }

    /// Opens the repository `id` at `url`. When its store is away, it is opened all the same: whatever is asked of it
    /// looks for the store again, and fails as `Unavailable` until it is back. Another repository is `Refused`.
    pub(crate) fn open_known(url: &str, settings: &Settings, id: Uuid) -> Result<Repository, Error> {
        match Repository::open_existing(url, settings) {
            Ok(repository) if repository.id == id => Ok(repository),
            Ok(repository) => Err(other_repository(&repository.url())),
            Err(err) if err.kind() == ErrorKind::Unavailable => {
                logging::warn("repository", format_args!("{err} Until it is back, nothing is shipped or backed up."));
                let store = Arc::new(Awaited::new(url, settings, id));
                Repository::with_marker(store, settings, &Marker { format: FORMAT, id })
            }
            Err(err) => Err(err),
        }
    }

    /// The repository in a store that is open already, `None` when one could be begun there. Changes nothing.
    pub(crate) fn look(store: Arc<dyn ObjectStore>, settings: &Settings) -> Result<Option<Repository>, Error> {
        match read_marker(store.as_ref())? {
            Some(marker) => Repository::with_marker(store, settings, &marker).map(Some),
            None => refuse_foreign(store.as_ref()).map(|()| None),
        }
    }

    /// Makes the store ready for long use: compares the clocks, removes what unfinished writes of long ago have left, and
    /// tries whether the store guards what exists by itself. It is no reason to stop when that fails.
    pub(crate) fn make_ready(&self) {
        if let Ok(Some(fault)) = probe::clock_fault(self.store.as_ref()) {
            logging::warn("repository", fault);
        }
        match self.store.sweep() {
            Ok(0) => {}
            Ok(count) => logging::info("repository", format_args!("{count} unfinished uploads of long ago are gone")),
            Err(err) => logging::warn("repository", format_args!("old unfinished uploads were not looked for: {err}")),
        }
        let key = format!("{}{}", probe::PREFIX, Uuid::new_v4().simple());
        if let Err(err) = self.store.creates_conditionally(&key) {
            logging::warn("repository", format_args!("conditional creates could not be tried: {err}"));
        }
    }

    /// As `open`, on a store that is open already.
    fn on_store(store: Arc<dyn ObjectStore>, settings: &Settings) -> Result<Repository, Error> {
        if let Some(repository) = Repository::look(Arc::clone(&store), settings)? {
            return Ok(repository);
        }
        let marker = Marker { format: FORMAT, id: Uuid::new_v4() };
        match store.put(MARKER, Body::Bytes(&to_json(&marker)?)) {
            Ok(()) => {}
            // Another appliance was faster; its marker counts.
            Err(err) if err.kind() == ErrorKind::Conflict => {}
            Err(err) => return Err(err.context("unable to begin a repository")),
        }
        match read_marker(store.as_ref())? {
            Some(marker) => Repository::with_marker(store, settings, &marker),
            None => Err(Error::new(ErrorKind::Unavailable, format!("`{}` forgot what was just stored", store.url()))),
        }
    }

    fn with_marker(store: Arc<dyn ObjectStore>, settings: &Settings, marker: &Marker) -> Result<Repository, Error> {
        let codec = Codec::new(settings)?;
        let transfers = settings.transfers;
        Ok(Repository { store, codec, transfers, id: marker.id, scratch_dir: std::env::temp_dir() })
    }

    /// Builds large objects in `dir` instead of the system's temporary directory.
    pub(crate) fn with_scratch_dir(mut self, dir: &Path) -> Repository {
        dir.clone_into(&mut self.scratch_dir);
        self
    }

    /// What tells this repository from any other, wherever it is moved.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn url(&self) -> String {
        self.store.url()
    }

    /// Fails, mostly as `Unavailable`, unless the store answers and still holds this repository.
    pub(crate) fn check_answers(&self) -> Result<(), Error> {
        match self.store.size(MARKER)? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Unavailable, format!("`{}` has lost its `{MARKER}`", self.url()))
                .hint("Check that the address leads to the same store as before.")),
        }
    }

    /// The address of an object, for people and for `locationRef`.
    pub(crate) fn location(&self, key: &str) -> String {
        format!("{}/{key}", self.store.url().trim_end_matches('/'))
    }

    /// The whole object; `Corrupt` when it is larger than anything that could be meant.
    fn fetch(&self, key: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        fetch(self.store.as_ref(), key, bytes_max)
    }

    /// How what is stored now is compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.codec.form().compression
    }

    /// The public keys that what is stored now is encrypted to; none: it is not.
    pub(crate) fn recipients(&self) -> &[String] {
        self.codec.recipients()
    }

    /// Refuses when the parts of this backup are encrypted and nothing here opens them. Reads none of them.
    pub(crate) fn check_opens(&self, manifest: &Manifest) -> Result<(), Error> {
        let to = &manifest.encrypted_to;
        if to.is_empty() {
            return Ok(());
        }
        self.codec.check_opens(to).map_err(|why| locked(&format!("backup {}", manifest.backup), to, &why))
    }

    /// As `check_opens`, for a chunk. Reads its head.
    pub(crate) fn check_chunk_opens(&self, key: &str) -> Result<(), Error> {
        if !layout::is_encrypted(key) {
            return Ok(());
        }
        let to = self.chunk_head(key)?.encrypted_to;
        self.codec.check_opens(&to).map_err(|why| self.locked(key, &to, &why))
    }

    /// `recipients` are those the object is encrypted to, if that is known.
    fn locked(&self, key: &str, recipients: &[String], why: &str) -> Error {
        locked(&format!("`{}`", self.location(key)), recipients, why)
    }

    fn corrupt(&self, key: &str, why: impl fmt::Display) -> Error {
        corrupt(&self.location(key), why)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("url", &self.url()).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a repository of another id than the state's is not used.
pub(crate) fn other_repository(url: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("the repository `{url}` is not the one this state directory belongs to"))
        .hint("Set repository_url to the former one, or begin with a new state_dir.")
}

/// Refuses a place that holds anything but what a `coffer check` has left behind.
fn refuse_foreign(store: &dyn ObjectStore) -> Result<(), Error> {
    let mut found = store.list("", None, 1)?.pop();
    if found.as_ref().is_some_and(|object| object.key.starts_with(probe::PREFIX)) {
        found = store.list("", Some(&layout::behind(probe::PREFIX)), 1)?.pop();
    }
    let Some(found) = found else { return Ok(()) };
    let what = format!("`{}` is not a repository of coffer and is not empty: it holds `{}`", store.url(), found.key);
    Err(Error::new(ErrorKind::Refused, what)
        .hint("Name an empty place (a folder or a prefix), or one that does not exist yet."))
}

fn read_marker(store: &dyn ObjectStore) -> Result<Option<Marker>, Error> {
    let bytes = match fetch(store, MARKER, MARKER_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let location = format!("{}/{MARKER}", store.url());
    check_format(&bytes, &location)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|err| corrupt(&location, err))
}

fn fetch(store: &dyn ObjectStore, key: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let location = format!("{}/{key}", store.url());
    let reader = store.get(key)?;
    reader
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|err| crate::error::error_of(err, &format!("unable to read `{location}`")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(corrupt(&location, format_args!("is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Refuses JSON whose `format` number is newer than ours, whatever else it says.
fn check_format(json: &[u8], location: &str) -> Result<(), Error> {
    let FormatOnly { format } = serde_json::from_slice(json).map_err(|err| corrupt(location, err))?;
    match format {
        0 => Err(corrupt(location, "has format 0, which there never was")),
        format if format <= u64::from(FORMAT) => Ok(()),
        format => Err(Error::new(
            ErrorKind::Unsupported,
            format!("`{location}` has format {format}; this coffer reads up to {FORMAT}"),
        )
        .hint("Use the newer version of coffer that wrote it.")),
    }
}

fn corrupt(location: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("`{location}` is damaged: {why}"))
        .hint("Nothing of it was used. Look for another copy of this object, or use another backup.")
}

fn locked(what: &str, recipients: &[String], why: &str) -> Error {
    let to = if recipients.is_empty() { String::new() } else { format!(" to {}", recipients.join(", ")) };
    Error::new(ErrorKind::Refused, format!("{what} is encrypted{to} and cannot be read here: {why}")).hint(
        "Put the identity of one of its recipients where repository.identity_file says (or let repository.identity_command \
         print it) and try again; a change of the configuration needs a restart. Nothing was changed.",
    )
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|err| Error::new(ErrorKind::Internal, "unable to write JSON").with_source(err))
}

/// The digest of `bytes` in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 15)).copied().map_or('0', char::from);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// The bytes of lower-case hex; `None` when it is none.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some((nibble(*pair.first()?)? << 4) | nibble(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn url(dir: &Path) -> String {
        format!("file://{}", dir.display())
    }

    fn open(dir: &Path) -> Result<Repository, Error> {
        Repository::open(&url(dir), &Settings::default())
    }

    #[test]
    fn an_absent_or_empty_folder_becomes_a_repository_and_stays_the_same_one() {
        let scratch = TempDir::new();
        for dir in [scratch.join("absent/deeper"), scratch.join("empty")] {
            std::fs::create_dir_all(scratch.join("empty/lost+found")).unwrap();
            assert!(Repository::open_existing(&url(&dir), &Settings::default()).is_err());
            let first = open(&dir).unwrap();
            assert_eq!(open(&dir).unwrap().id(), first.id());
            assert_eq!(Repository::open_existing(&url(&dir), &Settings::default()).unwrap().id(), first.id());
            assert_eq!(first.location("a/b"), format!("{}/a/b", url(&dir)));
        }
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let scratch = TempDir::new();
        crate::durable::write(&scratch.join("holiday photo.jpg"), b"x", 0o600).unwrap();
        let err = open(&scratch).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Refused);
        assert!(err.message().contains("holiday photo.jpg"), "{err}");
        assert!(!scratch.join(MARKER).exists());
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number_whatever_else_it_says() {
        let scratch = TempDir::new();
        let marker = scratch.join(MARKER);
        crate::durable::write(&marker, br#"{"format":7,"id":12,"and":"more"}"#, 0o600).unwrap();
        let err = open(&scratch).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.message().contains("format 7"), "{err}");
        for bad in [&b"{\"format\":1}"[..], b"", b"{\"format\":0}", b"\0\0\0", b"[]", &[b' '; 70_000]] {
            crate::durable::write(&marker, bad, 0o600).unwrap();
            assert_eq!(open(&scratch).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn hex_goes_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)).unwrap(), bytes);
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
        for bad in ["0", "0g", "AB", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
