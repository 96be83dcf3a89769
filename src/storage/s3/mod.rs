//! Objects in a bucket of an S3 store: AWS, Ceph, MinIO, Garage, Swift's s3api.
//!
//! Requests are signed by `rusty-s3` in their query (SigV4, the payload unsigned; what is stored is guarded by a signed
//! `Content-MD5`) right before each attempt, so a retry never carries an old signature. The stores disagree just where
//! a client can lose data, so little is asked of them: nothing relies on conditional requests, checksums of the newer
//! kind, or a listing that is merely well-formed. A `put` looks first and compares by a SHA-256 it keeps in the
//! object's metadata.

mod answer;
#[cfg(test)]
mod canned_tests;
mod list;
mod multipart;
mod reading;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use md5::Md5;
use rusty_s3::{Bucket, Method, UrlStyle};
use sha2::{Digest, Sha256};

use self::answer::Complaint;
use super::credentials::{self, S3Keys, Secret};
use super::http::{self, Answer, Client, Payload, Request};
use super::retry::{self, Failure, Policy};
use super::url::S3Address;
use super::{Access, Body, ObjectStore, StoredObject, check_key};
use crate::clock;
use crate::error::{Error, ErrorKind, error_of, io_error};

/// A signature is good for so long; each attempt has its own.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Where the SHA-256 of an object's bytes stands, in lower-case hex.
const DIGEST_HEADER: &str = "x-amz-meta-sha256";
const COPY_BYTES: usize = 256 * 1024;
/// Most keys that one `DeleteObjects` takes.
const DELETE_KEYS_MAX: usize = 1000;

/// A bucket that was found to be there. Cheap to clone; clones share what they learn.
#[derive(Clone)]
pub(super) struct S3Store {
    client: Client,
    address: S3Address,
    bucket: Bucket,
    keys: Arc<RwLock<Arc<S3Keys>>>,
    credentials_file: Option<PathBuf>,
    policy: Policy,
    parts: multipart::Parts,
    /// Whether a probe has shown that the store refuses to overwrite when asked to. Only then is it asked.
    creates_conditionally: Arc<AtomicBool>,
}

/// One request to the store.
struct Ask<'a> {
    method: Method,
    /// Without the prefix of the address; `None` is the bucket itself.
    key: Option<&'a str>,
    /// Sorted by name, as the signature wants it.
    query: Vec<(&'a str, &'a str)>,
    /// Sorted by name; all of them are signed.
    headers: Vec<(&'a str, String)>,
    body: Payload<'a>,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: Option<&'a str>) -> Ask<'a> {
        Ask { method, key, query: Vec::new(), headers: Vec::new(), body: Payload::None }
    }

    fn query(mut self, query: &[(&'a str, &'a str)]) -> Ask<'a> {
        self.query.extend_from_slice(query);
        self.query.sort_unstable();
        self
    }

    fn header(mut self, name: &'a str, value: impl Into<String>) -> Ask<'a> {
        self.headers.push((name, value.into()));
        self.headers.sort_unstable();
        self
    }

    fn body(mut self, body: Payload<'a>) -> Ask<'a> {
        self.body = body;
        self
    }
}

/// What a HEAD tells of an object.
struct Head {
    bytes: u64,
    digest: Option<String>,
}

impl S3Store {
    /// Opens the bucket, which must be there and let itself be listed: what is wrong with address or keys shows here.
    pub(super) fn open(address: S3Address, access: &Access) -> Result<S3Store, Error> {
        S3Store::open_by(Client::new(access)?, address, access)
    }

    /// As `open`, with a client that somebody else has set up.
    pub(super) fn open_by(client: Client, address: S3Address, access: &Access) -> Result<S3Store, Error> {
        let mut store = S3Store::new(address, access, client)?;
        store.policy = Policy::BRIEF;
        store.confirm_bucket()?;
        store.policy = Policy::PATIENT;
        Ok(store)
    }

    fn new(address: S3Address, access: &Access, client: Client) -> Result<S3Store, Error> {
        let keys = credentials::s3(access.credentials_file.as_deref())?;
        let unfit = |what: String| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` is no endpoint: {what}", address.endpoint))
                .hint("Write endpoint=https://host:port into the repository's address.")
        };
        let endpoint = address.endpoint.parse().map_err(|err| unfit(format!("{err}")))?;
        let style = if address.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(endpoint, style, address.bucket.clone(), address.region.clone())
            .map_err(|err| unfit(err.to_string()))?;
        Ok(S3Store {
            client,
            bucket,
            keys: Arc::new(RwLock::new(Arc::new(keys))),
            credentials_file: access.credentials_file.clone(),
            policy: Policy::PATIENT,
            parts: multipart::Parts::USUAL,
            creates_conditionally: Arc::new(AtomicBool::new(false)),
            address,
        })
    }

    /// Fails with the reason when the bucket is not there or may not be used; returns the store's clock.
    fn confirm_bucket(&self) -> Result<Option<Timestamp>, Error> {
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", self.address.prefix.as_str())];
        self.request("looking at the bucket", |store| {
            let answer = store.send(&Ask::new(Method::Get, None).query(&query))?;
            let date = answer.date();
            answer.small_body()?;
            Ok(date)
        })
        .map_err(|err| err.context(format_args!("unable to use `{}`", self.address.render())))
    }

    fn full_key(&self, key: &str) -> Result<String, Error> {
        check_key(key)?;
        Ok(format!("{}{key}", self.address.prefix))
    }

    /// Signs and sends. A status that is no success is a failure with its name.
    fn send(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        self.send_expecting(ask, &[])
    }

    /// As `send`, where the statuses in `expected` are for the caller, too.
    fn send_expecting(&self, ask: &Ask<'_>, expected: &[u16]) -> Result<Answer, Failure> {
        let keys = self.keys();
        let url = match ask.key {
            Some(key) => self.bucket.object_url(&self.full_key(key)?),
            None => self.bucket.base_url().clone(),
        };
        let signed = rusty_s3::signing::sign(
            &clock::now(),
            ask.method,
            url,
            keys.access_key_id.reveal(),
            keys.secret_access_key.reveal(),
            keys.session_token.as_ref().map(Secret::reveal),
            &self.address.region,
            SIGNED_FOR.as_secs(),
            ask.query.iter().copied(),
            ask.headers.iter().map(|(name, value)| (*name, value.as_str())),
        );
        let method = match ask.method {
            Method::Head => http::Method::HEAD,
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
        };
        let mut request = Request::new(method, signed.as_str()).body(ask.body);
        for (name, value) in &ask.headers {
            request = request.header(name, value.as_str());
        }
        let answer = self.client.send(&request)?;
        if answer.is_success() || expected.contains(&answer.status()) {
            return Ok(answer);
        }
        let region = answer.header("x-amz-bucket-region").map(str::to_owned);
        let mut passes = false;
        let failure = answer.refusal(|status, body| {
            let complaint = Complaint::parse(body);
            passes = complaint.passes();
            complaint.error(status, region.as_deref(), &self.address)
        });
        Err(if passes { Failure::passing(failure.error) } else { failure })
    }

    /// Repeats `attempt` as long as that can help.
    fn request<T>(&self, doing: &str, mut attempt: impl FnMut(&S3Store) -> Result<T, Failure>) -> Result<T, Error> {
        retry::run(self.policy, doing, || self.with_fresh_keys(&mut attempt))
    }

    /// Makes an attempt. When the store does not accept the keys, the credentials are read again, and if they are others
    /// than those that were used, the attempt gets another go with them.
    fn with_fresh_keys<T>(&self, mut attempt: impl FnMut(&S3Store) -> Result<T, Failure>) -> Result<T, Failure> {
        let used = self.keys();
        match attempt(self) {
            Err(failure) if is_about_keys(&failure.error) => {
                // A file that cannot be read leaves things as they are: the store's own complaint says more.
                let Ok(fresh) = credentials::s3(self.credentials_file.as_deref()) else { return Err(failure) };
                if fresh == *used {
                    return Err(failure);
                }
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                attempt(self)
            }
            outcome => outcome,
        }
    }

    fn keys(&self) -> Arc<S3Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is at `key`; `None` when there is nothing.
    fn head(&self, key: &str) -> Result<Option<Head>, Error> {
        let outcome = self.request("looking for an object", |store| {
            let answer = store.send_expecting(&Ask::new(Method::Head, Some(key)), &[404])?;
            if answer.status() == 404 {
                return Ok(None);
            }
            let Some(bytes) = answer.length() else {
                let what = format!("{} tells no size of `{key}`", store.address.endpoint);
                return Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)));
            };
            Ok(Some(Head { bytes, digest: answer.header(DIGEST_HEADER).map(str::to_ascii_lowercase) }))
        });
        match outcome {
            // The answer to a HEAD has no body, so it cannot say why: ask something that can.
            Err(err) if !matches!(err.kind(), ErrorKind::Unavailable | ErrorKind::Refused) => {
                self.confirm_bucket()?;
                Err(err)
            }
            outcome => outcome,
        }
    }

    /// The verdict on a put where an object is already.
    fn settle(&self, key: &str, found: &Head, body: Body<'_>, digest: Option<&str>) -> Result<(), Error> {
        let conflict = || {
            let what = format!("`{key}` exists with other content in `{}`", self.address.render());
            Error::new(ErrorKind::Conflict, what)
        };
        if found.bytes != bytes_of(body)? {
            return Err(conflict());
        }
        let ours = match digest {
            Some(digest) => digest.to_owned(),
            None => sha256_of(body)?,
        };
        let theirs = match &found.digest {
            Some(digest) => digest.clone(),
            // Somebody else's tool put it there; its bytes tell.
            None => {
                let mut hash = Sha256::new();
                copy_into(self.get(key)?, |piece| hash.update(piece))
                    .map_err(|err| error_of(err, "comparing with what is stored"))?;
                format!("{:x}", hash.finalize())
            }
        };
        if ours == theirs { Ok(()) } else { Err(conflict()) }
    }

    fn put_whole(&self, key: &str, body: Body<'_>, bytes: u64) -> Result<(), Error> {
        let (sha256, md5) = (sha256_of(body)?, md5_of(body, 0, bytes)?);
        let payload = match body {
            Body::Bytes(bytes) | Body::Hashed { bytes, .. } => Payload::Bytes(bytes),
            Body::File(path) => Payload::File { path, from: 0, bytes },
        };
        let is_guarded = self.creates_conditionally.load(Ordering::Relaxed);
        let stored = self.request("storing an object", |store| {
            let mut ask = Ask::new(Method::Put, Some(key))
                .header("content-md5", md5.as_str())
                .header("content-type", "application/octet-stream")
                .header(DIGEST_HEADER, sha256.as_str())
                .body(payload);
            if is_guarded {
                ask = ask.header("if-none-match", "*");
            }
            let answer = store.send_expecting(&ask, if is_guarded { &[409, 412] } else { &[] })?;
            let status = answer.status();
            // Read, so that the connection can be used again.
            answer.small_body()?;
            Ok(status)
        })?;
        match stored {
            409 | 412 => match self.head(key)? {
                Some(found) => self.settle(key, &found, body, Some(&sha256)),
                None => Err(Error::new(ErrorKind::Unavailable, format!("`{key}` is being stored by somebody else"))),
            },
            _ => Ok(()),
        }
    }

    fn delete_batch(&self, keys: &[String]) -> Result<(), Error> {
        let full: Vec<String> = keys.iter().map(|key| self.full_key(key)).collect::<Result<_, _>>()?;
        let xml = answer::render_deletion(&full);
        let md5 = BASE64.encode(Md5::digest(xml.as_bytes()));
        self.request("deleting objects", |store| {
            let ask = Ask::new(Method::Post, None)
                .query(&[("delete", "")])
                .header("content-md5", md5.as_str())
                .header("content-type", "application/xml")
                .body(Payload::Bytes(xml.as_bytes()));
            let body = store.send(&ask)?.small_body()?;
            answer::confirm_deletion(&body, &full, &store.address)
        })
    }
}

impl ObjectStore for S3Store {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        check_key(key)?;
        let bytes = bytes_of(body)?;
        let stored = match self.head(key)? {
            Some(found) => self.settle(key, &found, body, None),
            None => match body {
                Body::File(path) if bytes > self.parts.whole_bytes_max => self.put_parts(key, path, bytes),
                body => self.put_whole(key, body, bytes),
            },
        };
        stored.map_err(|err| err.context(format_args!("unable to store `{key}`")))
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        check_key(key)?;
        self.read(key, from, bytes)
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        check_key(key)?;
        match self.head(key)? {
            Some(head) => Ok(Some(head.bytes)),
            None => {
                // A HEAD cannot tell a missing object from a missing bucket.
                self.confirm_bucket()?;
                Ok(None)
            }
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        self.list_pages(prefix, after, limit)
            .map_err(|err| err.context(format_args!("unable to list `{}`", self.address.render())))
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        self.request("deleting an object", |store| {
            let answer = store.send_expecting(&Ask::new(Method::Delete, Some(key)), &[404])?;
            if answer.status() != 404 {
                answer.small_body()?;
                return Ok(());
            }
            let complaint = Complaint::parse(&answer.small_body()?);
            match complaint.code.as_str() {
                "NoSuchKey" | "" => Ok(()),
                _ => Err(Failure::lasting(complaint.error(404, None, &store.address))),
            }
        })
        .map_err(|err| err.context(format_args!("unable to delete `{key}`")))
    }

    fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        for batch in keys.chunks(DELETE_KEYS_MAX) {
            match self.delete_batch(batch) {
                Ok(()) => {}
                // Not every store has it.
                Err(err) if err.kind() == ErrorKind::Unsupported => {
                    batch.iter().try_for_each(|key| self.delete(key))?;
                }
                Err(err) => return Err(err.context(format_args!("unable to delete {} objects", batch.len()))),
            }
        }
        Ok(())
    }

    fn url(&self) -> String {
        self.address.render()
    }

    fn clock(&self) -> Result<Option<Timestamp>, Error> {
        self.confirm_bucket()
    }

    fn creates_conditionally(&self, scratch_key: &str) -> Result<Option<bool>, Error> {
        check_key(scratch_key)?;
        let create = |content: &'static [u8]| {
            self.request("trying a conditional put", |store| {
                let ask =
                    Ask::new(Method::Put, Some(scratch_key)).header("if-none-match", "*").body(Payload::Bytes(content));
                let answer = store.send_expecting(&ask, &[409, 412, 501])?;
                let status = answer.status();
                answer.small_body()?;
                Ok(status)
            })
        };
        self.delete(scratch_key)?;
        // The first must succeed and the second fail; a store that does not know the header says 501 or overwrites.
        let is_honoured = create(b"first")? < 300 && matches!(create(b"second")?, 409 | 412);
        self.delete(scratch_key)?;
        self.creates_conditionally.store(is_honoured, Ordering::Relaxed);
        Ok(Some(is_honoured))
    }

    fn sweep(&self) -> Result<usize, Error> {
        // Nobody waits long for this: it is tried again the next time.
        S3Store { policy: Policy::BRIEF, ..self.clone() }.abort_abandoned(clock::now())
    }
}

/// Whether other keys could change the verdict. Garage says `AccessDenied` to keys it does not know.
fn is_about_keys(err: &Error) -> bool {
    matches!(err.kind(), ErrorKind::Unauthorized | ErrorKind::Forbidden)
}

fn bytes_of(body: Body<'_>) -> Result<u64, Error> {
    match body {
        Body::Bytes(bytes) | Body::Hashed { bytes, .. } => Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        Body::File(path) => Ok(std::fs::metadata(path).map_err(|err| io_error("unable to read", path, err))?.len()),
    }
}

/// The SHA-256 of a whole body, in hex.
fn sha256_of(body: Body<'_>) -> Result<String, Error> {
    match body {
        Body::Hashed { sha256, .. } => Ok(sha256.to_owned()),
        body => Ok(format!("{:x}", digest::<Sha256>(body, 0, u64::MAX)?)),
    }
}

/// The MD5 of `bytes` of a body from `from` on, in base64.
fn md5_of(body: Body<'_>, from: u64, bytes: u64) -> Result<String, Error> {
    Ok(BASE64.encode(digest::<Md5>(body, from, bytes)?))
}

fn digest<D: Digest>(body: Body<'_>, from: u64, bytes: u64) -> Result<sha2::digest::Output<D>, Error> {
    let mut hash = D::new();
    match body {
        Body::Bytes(bytes) | Body::Hashed { bytes, .. } => hash.update(bytes),
        Body::File(path) => {
            let failed = |err| io_error("unable to read", path, err);
            let mut file = File::open(path).map_err(failed)?;
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            copy_into(file.take(bytes), |piece| hash.update(piece)).map_err(failed)?;
        }
    }
    Ok(hash.finalize())
}

fn copy_into(mut from: impl Read, mut into: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => into(&buffer[..read]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}
