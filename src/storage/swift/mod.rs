//! Objects in a container of OpenStack Swift, or of anything that speaks its API (Ceph's RGW does).
//!
//! What the store offers and this driver relies on: a PUT is atomic; its ETag is checked; what has been put is read back
//! by its name at once. Listings may lag behind in a cluster with broken disks, which no client can mend. `If-None-Match: *`
//! is sent with every PUT, but of several writers at once more than one may pass it, so it is a second guard only.

mod answers;
mod auth;
mod bulk;
mod container;
mod content;
mod large;
mod listing;
mod reading;
mod session;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;

use self::container::{Container, Head, SHA256};
use self::content::Content;
use self::large::LargeSizes;
use self::session::Tokens;
use super::http::{Client, Method};
use super::retry::{self, Failure, Policy};
use super::url::{SwiftAddress, SwiftAuth};
use super::{Access, Body, ObjectStore, StoredObject, check_key};
use crate::error::{Error, ErrorKind, io_error};

/// A put that finds an object looks at it; when it is gone again the put starts over, but not for ever.
const PUT_ROUNDS_MAX: u32 = 3;

/// A container, from a prefix of its names on.
pub(super) struct SwiftStore {
    container: Arc<Container>,
}

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// Somebody else's object is there. What it holds was not looked at.
    Exists,
}

impl SwiftStore {
    /// Opens the container, which must be there and let this login in.
    pub(super) fn open(address: SwiftAddress, access: &Access) -> Result<SwiftStore, Error> {
        SwiftStore::open_by(Client::new(access)?, address, access)
    }

    /// As `open`, with a client that somebody else has set up.
    pub(super) fn open_by(client: Client, address: SwiftAddress, access: &Access) -> Result<SwiftStore, Error> {
        let store = SwiftStore::with_sizes(client, address, access, LargeSizes::USUAL, Policy::PATIENT)?;
        let doing = format!("opening {}", store.url());
        retry::run(Policy::BRIEF, &doing, || store.container.confirm()).map_err(|err| err.context(&doing))?;
        Ok(store)
    }

    fn with_sizes(
        client: Client,
        address: SwiftAddress,
        access: &Access,
        large: LargeSizes,
        policy: Policy,
    ) -> Result<SwiftStore, Error> {
        if address.auth == SwiftAuth::V1 && address.region.is_some() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the repository's address names a region, which auth v1 has not",
            )
            .hint("Leave out region=, or name Keystone's address, which ends in /v3, as `auth_url`."));
        }
        let tokens = Tokens::new(client.clone(), address.clone(), access.credentials_file.clone());
        let offers = OnceLock::new();
        Ok(SwiftStore { container: Arc::new(Container { client, tokens, address, policy, large, offers }) })
    }

    /// Whether what is stored under `key` is `content`, and what it means when it is not.
    fn settle_existing(&self, key: &str, head: &Head, content: &Content<'_>) -> Result<(), Error> {
        let same = head.bytes == content.bytes
            && match &head.sha256 {
                Some(sha256) => *sha256 == content.sha256,
                // Copied here by something that leaves metadata behind.
                None => content::sha256_of(self.get(key)?)? == content.sha256,
            };
        if same {
            return Ok(());
        }
        let name = self.container.name(key);
        Err(Error::new(ErrorKind::Conflict, format!("`{name}` is stored already, with other content"))
            .hint("It was not replaced. Look what else writes into the container."))
    }

    /// Reads what is to be stored, in pieces when it has to be a large object.
    fn content<'a>(&self, body: Body<'a>) -> Result<Content<'a>, Error> {
        let Body::File(path) = body else { return Content::read(body, None) };
        let metadata = std::fs::metadata(path).map_err(|err| io_error("unable to read", path, err))?;
        let (sizes, bytes) = (self.container.large, metadata.len());
        if bytes <= sizes.above_bytes {
            return Content::read(body, None);
        }
        let offers = self.container.run("asking what the store offers", || self.container.offers())?;
        // Without segments it is tried whole: the store says how much it takes.
        Content::read(body, offers.segments_max.map(|most| sizes.segment_bytes(bytes, most)))
    }

    fn put_whole(&self, name: &str, content: &Content<'_>) -> Result<Outcome, Failure> {
        let headers = [
            ("etag", content.md5.as_str()),
            ("if-none-match", "*"),
            ("content-type", "application/octet-stream"),
            (SHA256, content.sha256.as_str()),
        ];
        let answer = self.container.send(Method::PUT, &self.container.path(name), &headers, content.payload())?;
        match answer.status() {
            201 => {
                let etag = answer.header("etag").map(|etag| etag.trim_matches('"').to_ascii_lowercase());
                answer.small_body()?;
                match etag {
                    // A store that did not check: it is told what the check would have told.
                    Some(etag) if etag != content.md5 => {
                        Err(answers::refused(&self.container.address.container, 422, b"").into())
                    }
                    _ => Ok(Outcome::Stored),
                }
            }
            // 202 and 409: another put of the same name is newer.
            202 | 409 | 412 => {
                answer.small_body()?;
                Ok(Outcome::Exists)
            }
            _ => Err(self.container.refusal(answer)),
        }
    }

    /// The error for an object that is not there, unless the container is missing: that is told then.
    fn absent(&self, name: &str) -> Error {
        match self.container.run(&format!("looking for `{name}`"), || self.container.confirm()) {
            Ok(_) => Error::new(ErrorKind::NotFound, format!("there is no object `{name}` in {}", self.url())),
            Err(err) => err,
        }
    }
}

impl ObjectStore for SwiftStore {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        check_key(key)?;
        let content = self.content(body)?;
        let name = self.container.name(key);
        let doing = format!("storing `{name}`");
        for _ in 0..PUT_ROUNDS_MAX {
            if let Some(head) = self.container.run(&doing, || self.container.head(&name))? {
                return self.settle_existing(key, &head, &content);
            }
            let outcome = if content.pieces.is_empty() {
                self.container.run(&doing, || self.put_whole(&name, &content))?
            } else {
                large::put(&self.container, key, &content)?
            };
            if outcome == Outcome::Stored {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, format!("`{name}` comes and goes in the store"))
            .hint("See what else stores and deletes objects in the container."))
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        check_key(key)?;
        reading::open(self, &self.container.name(key), from, bytes)
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        check_key(key)?;
        let name = self.container.name(key);
        self.container.run(&format!("looking at `{name}`"), || match self.container.head(&name)? {
            Some(head) => Ok(Some(head.bytes)),
            None => self.container.confirm().map(|_| None),
        })
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        let container = &self.container;
        let names_prefix = container.name(prefix);
        let mut marker = after.map_or_else(String::new, |after| container.name(after));
        let mut found: Vec<StoredObject> = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let listing = format!("listing `{names_prefix}`");
            let page = container.run(&listing, || container.page(&names_prefix, &marker, wanted))?;
            // A short page is no end: only an empty one is.
            let Some(last) = page.last() else { break };
            marker = listing::marker_behind(&last.name, &container.address.prefix);
            found.extend(page.into_iter().filter_map(|entry| listing::object_of(entry, &container.address.prefix)));
        }
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        let name = self.container.name(key);
        let doing = format!("deleting `{name}`");
        self.container.run(&doing, || match self.container.head(&name)? {
            Some(head) if head.is_large => large::remove(&self.container, &name),
            Some(_) => self.container.remove(&name),
            None => self.container.confirm().map(|_| ()),
        })
    }

    fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let doing = "asking what the store offers";
        let offers = self.container.run(doing, || self.container.offers())?;
        match offers.bulk_deletes_max {
            Some(at_once) if keys.len() > 1 => {
                bulk::delete(&self.container, keys, at_once)?.iter().try_for_each(|key| self.delete(key))
            }
            _ => keys.iter().try_for_each(|key| self.delete(key)),
        }
    }

    fn clock(&self) -> Result<Option<Timestamp>, Error> {
        self.container.run("asking for the store's clock", || self.container.confirm())
    }

    fn creates_conditionally(&self, scratch_key: &str) -> Result<Option<bool>, Error> {
        check_key(scratch_key)?;
        self.delete(scratch_key)?;
        let name = self.container.name(scratch_key);
        let create = |bytes: &'static [u8]| {
            let content = Content::read(Body::Bytes(bytes), None)?;
            self.container.run("trying a conditional put", || self.put_whole(&name, &content))
        };
        let outcomes = (create(b"first")?, create(b"second")?);
        self.delete(scratch_key)?;
        Ok(Some(outcomes == (Outcome::Stored, Outcome::Exists)))
    }

    fn sweep(&self) -> Result<usize, Error> {
        large::sweep(&self.container, large::ABANDONED_AGE_MIN)
    }

    fn url(&self) -> String {
        self.container.address.render()
    }
}
