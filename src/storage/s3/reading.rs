//! Reading, from wherever, and on from where it broke off.

use std::io::{self, Read};

use rusty_s3::Method;

use super::super::http::Receiving;
use super::super::resume::Resuming;
use super::super::retry::Failure;
use super::answer::Complaint;
use super::{Ask, S3Store};
use crate::error::{Error, ErrorKind};

/// An answer to a GET, or the finding that there is nothing in the range.
enum Got {
    Body { body: Receiving, bytes: u64, tag: Option<String> },
    Nothing,
}

impl S3Store {
    /// The object from byte `from` on, at most `bytes` of it.
    pub(super) fn read(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        if bytes == Some(0) {
            return match self.head(key)? {
                Some(_) => Ok(Box::new(io::empty())),
                None => Err(self.absent(key)),
            };
        }
        let got = self.request("reading an object", |store| store.get_once(key, from, bytes, None));
        let got = got.map_err(|err| match err.kind() {
            ErrorKind::NotFound => err,
            _ => err.context(format_args!("unable to read `{key}`")),
        })?;
        let Got::Body { body, bytes: length, tag } = got else {
            return Ok(Box::new(io::empty()));
        };
        let end = from.saturating_add(length);
        let (store, key) = (self.clone(), key.to_owned());
        let reopen = move |at: u64| {
            let got = store.with_fresh_keys(|store| store.get_once(&key, at, Some(end - at), tag.as_deref()))?;
            match got {
                Got::Body { body, .. } => Ok(body),
                Got::Nothing => {
                    let what = format!("`{key}` is shorter than it was when it was begun");
                    Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)))
                }
            }
        };
        Ok(Box::new(Resuming::new(self.policy, "reading an object".to_owned(), body, from, end, reopen)))
    }

    /// One GET. `tag` makes sure that it is the object that was begun.
    fn get_once(&self, key: &str, from: u64, bytes: Option<u64>, tag: Option<&str>) -> Result<Got, Failure> {
        let mut ask = Ask::new(Method::Get, Some(key));
        let is_ranged = from > 0 || bytes.is_some();
        if is_ranged {
            let end = bytes.map(|bytes| from.saturating_add(bytes).saturating_sub(1).to_string()).unwrap_or_default();
            ask = ask.header("range", format!("bytes={from}-{end}"));
        }
        if let Some(tag) = tag {
            ask = ask.header("if-match", tag);
        }
        let answer = self.send_expecting(&ask, &[404, 412, 416])?;
        let status = answer.status();
        match status {
            404 => {
                let complaint = Complaint::parse(&answer.small_body()?);
                return Err(Failure::lasting(match complaint.code.as_str() {
                    "NoSuchKey" | "" => self.absent(key),
                    _ => complaint.error(404, None, &self.address),
                }));
            }
            412 => {
                let what = format!("`{key}` was replaced while it was being read");
                return Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)));
            }
            416 => {
                answer.small_body()?;
                return Ok(Got::Nothing);
            }
            206 if !is_ranged || answer.header("content-range").and_then(range_begin) != Some(from) => {
                let what = format!("{} sent another range of `{key}` than was asked for", self.address.endpoint);
                return Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)));
            }
            206 => {}
            _ if from > 0 => {
                let what = format!("{} does not send ranges of objects", self.address.endpoint);
                return Err(Failure::lasting(Error::new(ErrorKind::Unsupported, what)));
            }
            _ => {}
        }
        let Some(length) = answer.length() else {
            let what = format!("{} tells no length of `{key}`", self.address.endpoint);
            return Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)));
        };
        let length = bytes.map_or(length, |bytes| length.min(bytes));
        let tag = answer.header("etag").map(str::to_owned);
        Ok(Got::Body { body: answer.into_body(), bytes: length, tag })
    }

    fn absent(&self, key: &str) -> Error {
        Error::new(ErrorKind::NotFound, format!("there is no `{key}` in `{}`", self.address.render()))
    }
}

/// The 5 of `bytes 5-9/10`.
fn range_begin(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
