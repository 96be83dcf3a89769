//! Large files, in parts that travel side by side.
//!
//! The object appears when the upload is completed, whole or not at all. A completion is not believed: the object is
//! looked at afterwards. An upload that fails is aborted, and one that could not even be aborted is swept later.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusty_s3::Method;

use super::super::Body;
use super::super::http::Payload;
use super::super::retry::Failure;
use super::{Ask, DIGEST_HEADER, S3Store, answer, md5_of, sha256_of};
use crate::error::{Error, ErrorKind};
use crate::logging;

const MIB: u64 = 1 << 20;

/// How large files are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    /// Up to here an object is stored in one piece.
    pub(super) whole_bytes_max: u64,
    pub(super) part_bytes: u64,
    /// Stores take 10 000 parts, Swift's s3api 1000.
    pub(super) count_max: u64,
    pub(super) in_flight: usize,
    /// Of a listing; smaller in tests.
    pub(super) page_keys_max: usize,
}

impl Parts {
    pub(super) const USUAL: Parts = Parts {
        whole_bytes_max: 64 * MIB,
        part_bytes: 16 * MIB,
        count_max: 1000,
        in_flight: 4,
        page_keys_max: usize::MAX,
    };

    /// Begin and length of each part of `bytes`.
    fn cut(&self, bytes: u64) -> Vec<(u64, u64)> {
        let part = self.part_bytes.max(bytes.div_ceil(self.count_max));
        let mut parts = Vec::new();
        let mut from = 0;
        while from < bytes {
            parts.push((from, part.min(bytes - from)));
            from += part;
        }
        parts
    }
}

impl S3Store {
    pub(super) fn put_parts(&self, key: &str, path: &Path, bytes: u64) -> Result<(), Error> {
        let sha256 = sha256_of(Body::File(path))?;
        let id = self.request("beginning an upload", |store| {
            let ask = Ask::new(Method::Post, Some(key))
                .query(&[("uploads", "")])
                .header("content-type", "application/octet-stream")
                .header(DIGEST_HEADER, sha256.as_str())
                .body(Payload::Bytes(b""));
            answer::parse_upload_id(&store.send(&ask)?.small_body()?)
        })?;
        let stored = self
            .send_parts(key, path, &id, &self.parts.cut(bytes))
            .and_then(|tags| self.complete(key, path, &id, &tags, &sha256));
        let Err(failed) = stored else { return Ok(()) };
        if let Err(err) = self.abort(key, &id) {
            // The first error is the one to tell, and the sweep comes again.
            logging::warn("storage", format_args!("an upload of `{key}` could not be discarded: {err}"));
        }
        // Another upload of the same object may have been faster, and some stores then drop the slower ones.
        match self.head(key) {
            Ok(Some(found)) => self.settle(key, &found, Body::File(path), Some(&sha256)),
            _ => Err(failed),
        }
    }

    /// Sends the parts, several at a time, and returns their tags in order. The first failure ends them all.
    fn send_parts(&self, key: &str, path: &Path, id: &str, parts: &[(u64, u64)]) -> Result<Vec<String>, Error> {
        let next = AtomicUsize::new(0);
        let has_failed = AtomicBool::new(false);
        let outcome: Mutex<Result<Vec<String>, Error>> = Mutex::new(Ok(vec![String::new(); parts.len()]));
        let send = || {
            while !has_failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(from, bytes)) = parts.get(index) else { return };
                let sent = self.send_part(key, path, id, index, from, bytes);
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *outcome, sent) {
                    (Ok(tags), Ok(tag)) => tags[index] = tag,
                    (Ok(_), Err(err)) => {
                        has_failed.store(true, Ordering::Relaxed);
                        *outcome = Err(err);
                    }
                    (Err(_), _) => {}
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.parts.in_flight.min(parts.len()) {
                // With fewer threads it merely takes longer.
                let _ = std::thread::Builder::new().name("upload".to_owned()).spawn_scoped(scope, send);
            }
            send();
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_part(
        &self,
        key: &str,
        path: &Path,
        id: &str,
        index: usize,
        from: u64,
        bytes: u64,
    ) -> Result<String, Error> {
        let number = (index + 1).to_string();
        let md5 = md5_of(Body::File(path), from, bytes)?;
        self.request("storing a part", |store| {
            let ask = Ask::new(Method::Put, Some(key))
                .query(&[("partNumber", number.as_str()), ("uploadId", id)])
                .header("content-md5", md5.as_str())
                .body(Payload::File { path, from, bytes });
            let answer = store.send(&ask)?;
            let tag = answer.header("etag").map(str::to_owned);
            answer.small_body()?;
            tag.ok_or_else(|| {
                Failure::lasting(Error::new(ErrorKind::Corrupt, "the store took a part and gave no tag for it"))
            })
        })
        .map_err(|err| err.context(format_args!("part {number}")))
    }

    /// Makes the parts one object and looks whether it is there.
    fn complete(&self, key: &str, path: &Path, id: &str, tags: &[String], sha256: &str) -> Result<(), Error> {
        let xml = answer::render_completion(tags);
        let is_guarded = self.creates_conditionally.load(Ordering::Relaxed);
        let completed = self.request("completing an upload", |store| {
            let mut ask = Ask::new(Method::Post, Some(key))
                .query(&[("uploadId", id)])
                .header("content-type", "application/xml")
                .body(Payload::Bytes(xml.as_bytes()));
            if is_guarded {
                ask = ask.header("if-none-match", "*");
            }
            answer::confirm_completion(&store.send(&ask)?.small_body()?)
        });
        // Whatever was answered, the object tells: an answer that was lost on the way may have been a success (the second
        // try then finds no such upload), and a success may be the store's error.
        match (self.head(key)?, completed) {
            (Some(found), _) => self.settle(key, &found, Body::File(path), Some(sha256)),
            (None, Err(err)) => Err(err),
            (None, Ok(())) => {
                Err(Error::new(ErrorKind::Corrupt, "the store completed the upload, and the object is not there"))
            }
        }
    }

    /// Discards an upload; one that does not exist is discarded already.
    pub(super) fn abort(&self, key: &str, id: &str) -> Result<(), Error> {
        self.request("discarding an upload", |store| {
            let ask = Ask::new(Method::Delete, Some(key)).query(&[("uploadId", id)]);
            store.send_expecting(&ask, &[404])?.small_body().map(|_| ())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_file_without_gap() {
        for bytes in [64 * MIB + 1, 16 * MIB * 5, 16 * MIB * 1000 + 1, 5_000 * 1024 * MIB] {
            let parts = Parts::USUAL.cut(bytes);
            assert!(parts.len() <= 1000, "{bytes}: {}", parts.len());
            let mut at = 0;
            for (from, length) in parts {
                assert_eq!(from, at);
                assert!(length > 0);
                at += length;
            }
            assert_eq!(at, bytes);
        }
    }
}
