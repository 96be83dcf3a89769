//! Where the repository's objects lie: a flat store of immutable objects under names.
//!
//! Drivers know bytes and names and nothing of what the objects mean; that is `repository`'s. Nothing here is ever
//! overwritten: a name holds what makes it unique, so the same name with other bytes is a fault and is told as one.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use self::url::Address;
use crate::error::{Error, ErrorKind};

#[cfg(test)]
pub(crate) mod canned;
mod credentials;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
pub(crate) mod faulty;
mod http;
pub(crate) mod local;
pub(crate) mod patience;
pub(crate) mod probe;
mod resume;
mod retry;
mod s3;
#[cfg(test)]
pub(crate) mod suite;
mod swift;
mod throttle;
mod url;

/// Longest key; S3 allows 1024 bytes, and a prefix has to fit too.
const KEY_BYTES_MAX: usize = 512;

/// How a store is reached, besides its address. Nothing of it is secret but what lies in the credentials file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// TOML, readable by its owner only. `None`: a store that asks for credentials cannot be opened.
    pub(crate) credentials_file: Option<PathBuf>,
    /// PEM certificates to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Bytes a second, all transfers of this store together, each way.
    /// A folder is not limited.
    pub(crate) bandwidth: Option<u64>,
}

/// A flat store of immutable objects. Contract, checked for every driver by `storage::suite`:
///
/// - `put` is atomic and durable: a key is absent or complete, whatever happens.
/// - `put` on a key that exists is Ok when the content is the same and `Conflict` when it is not; nothing is replaced.
/// - `get` of a missing key is `NotFound`, never an empty reader. What its reader fails with can be had by `error::error_of`.
/// - `list` is in byte order of the keys, begins behind `after`, and never shows an incomplete object.
/// - `delete` of a missing key is Ok.
/// - A store that is not there is `Unavailable`, with the place and the remedy; it is never made anew in silence.
pub(crate) trait ObjectStore: Send + Sync {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error>;
    fn get(&self, key: &str) -> Result<Box<dyn Read + Send>, Error> {
        self.get_range(key, 0, None)
    }
    /// The object from byte `from` on, at most `bytes` of it. Nothing when it ends before.
    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error>;
    /// The object's size, `None` when there is none.
    fn size(&self, key: &str) -> Result<Option<u64>, Error>;
    /// At most `limit` objects whose key begins with `prefix` and is greater than `after`.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error>;
    fn delete(&self, key: &str) -> Result<(), Error>;
    /// Deletes all of `keys`; with a failure some of them may be deleted.
    fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.delete(key))
    }
    /// The store's clock, `None` when it has none of its own.
    fn clock(&self) -> Result<Option<Timestamp>, Error> {
        Ok(None)
    }
    /// Whether the store was seen to refuse overwriting when asked to, by a try at `scratch_key`, which is gone
    /// afterwards. If it does, `put` asks from then on, as a second guard; never as a lock. `None`: no such feature.
    fn creates_conditionally(&self, _scratch_key: &str) -> Result<Option<bool>, Error> {
        Ok(None)
    }
    /// Removes what unfinished writes of long ago have left behind, and returns how much of it.
    fn sweep(&self) -> Result<usize, Error> {
        Ok(0)
    }
    /// The address of the store, without credentials.
    fn url(&self) -> String;
}

/// What `put` stores. Both forms can be read again from the start, which a retry needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    Bytes(&'a [u8]),
    /// With their SHA-256 in hex, so that nobody has to hash them again.
    Hashed {
        bytes: &'a [u8],
        sha256: &'a str,
    },
    File(&'a Path),
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredObject {
    pub(crate) key: String,
    pub(crate) bytes: u64,
}

/// Opens the store at `url`; a folder that does not exist yet is made, a bucket or container is not.
pub(crate) fn open(url: &str, access: &Access) -> Result<Arc<dyn ObjectStore>, Error> {
    match url::parse(url)? {
        Address::Folder(folder) => Ok(Arc::new(local::LocalStore::create(&folder)?)),
        address => open_remote(address, access),
    }
}

/// Opens the store at `url`, which must exist; anything else is `Unavailable`.
pub(crate) fn open_existing(url: &str, access: &Access) -> Result<Arc<dyn ObjectStore>, Error> {
    match url::parse(url)? {
        Address::Folder(folder) => Ok(Arc::new(local::LocalStore::open(&folder)?)),
        address => open_remote(address, access),
    }
}

/// Opens a store that is reached by HTTP, after a look whether bucket or container are there and may be used.
fn open_remote(address: Address, access: &Access) -> Result<Arc<dyn ObjectStore>, Error> {
    match address {
        Address::S3(address) => Ok(Arc::new(s3::S3Store::open(address, access)?)),
        Address::Swift(address) => Ok(Arc::new(swift::SwiftStore::open(address, access)?)),
        Address::Folder(folder) => Ok(Arc::new(local::LocalStore::open(&folder)?)),
    }
}

/// How far this host's clock is from a store's, in words for people; `None` when it is less than `tolerance`.
pub(crate) fn clock_difference(ours: Timestamp, theirs: Timestamp, tolerance: SignedDuration) -> Option<String> {
    let ahead = ours.duration_since(theirs);
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    let minutes = (ahead.abs().as_secs() + 30) / 60;
    (ahead.abs() > tolerance).then(|| format!("this host's clock is {minutes} minutes {direction} the store's"))
}

/// Refuses keys that a driver could take for anything but a name below its root.
fn check_key(key: &str) -> Result<(), Error> {
    let good_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good_segment = |s: &str| !s.is_empty() && !s.starts_with('.') && s.bytes().all(good_byte);
    if key.len() <= KEY_BYTES_MAX && key.split('/').all(good_segment) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not an object key", key.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let told = |ours| clock_difference(at(ours), at(10_000), SignedDuration::from_mins(2));
        assert_eq!(told(10_120), None);
        assert_eq!(told(11_199).unwrap(), "this host's clock is 20 minutes ahead of the store's");
        assert_eq!(told(8_801).unwrap(), "this host's clock is 20 minutes behind the store's");
    }

    #[test]
    fn keys_cannot_leave_the_store() {
        for bad in
            ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0", ".hidden", "a/.b", "ä", &"x".repeat(600)]
        {
            assert_eq!(check_key(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        for good in ["coffer.json", "a/b-c_d.zst"] {
            check_key(good).unwrap();
        }
    }
}
