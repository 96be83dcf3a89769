//! A download that goes on where it broke off.

use std::io::{self, Read};

use super::http::Receiving;
use super::retry::{Attempts, Failure, Policy};
use crate::error::{Error, ErrorKind, error_of};

/// Progress that makes up for a failure. Less might be an endless sequence of connections that bring a byte each.
const PROGRESS_BYTES_MIN: u64 = 64 * 1024;

/// Reads bytes `at..end` of an object. When the connection breaks off, `reopen` is asked for the object from where it was;
/// it has to make sure that it is the same object still (`If-Match`). Bounded by the policy between two bits of progress.
pub(super) struct Resuming<O> {
    /// For people: "reading `key`".
    doing: String,
    body: Option<Receiving>,
    at: u64,
    end: u64,
    reopen: O,
    attempts: Attempts,
    since_failure: u64,
}

impl<O> Resuming<O>
where
    O: FnMut(u64) -> Result<Receiving, Failure> + Send,
{
    /// Goes on from `body`, which brings the bytes from `at` to `end`.
    pub(super) fn new(policy: Policy, doing: String, body: Receiving, at: u64, end: u64, reopen: O) -> Resuming<O> {
        Resuming { doing, body: Some(body), at, end, reopen, attempts: Attempts::new(policy), since_failure: 0 }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let body = match &mut self.body {
            Some(body) => body,
            None => self.body.insert((self.reopen)(self.at)?),
        };
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        match body.read(&mut buffer[..most]) {
            Ok(0) if most > 0 => {
                let what = format!("the store ended the body {} bytes too early", self.end - self.at);
                Err(Failure::passing(Error::new(ErrorKind::Unavailable, what)))
            }
            Ok(read) => Ok(read),
            Err(err) => Err(match error_of(err, "reading a body") {
                error if error.kind() == ErrorKind::Unavailable => Failure::passing(error),
                error => Failure::lasting(error),
            }),
        }
    }
}

impl<O> Read for Resuming<O>
where
    O: FnMut(u64) -> Result<Receiving, Failure> + Send,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.at >= self.end {
            // A body that was read to its very end gives its connection back.
            let _ = self.body.take().map(|mut body| body.read(&mut [0]));
            return Ok(0);
        }
        loop {
            match self.try_read(buffer) {
                Ok(read) => {
                    let bytes = u64::try_from(read).unwrap_or(0);
                    self.at += bytes;
                    self.since_failure = self.since_failure.saturating_add(bytes);
                    return Ok(read);
                }
                Err(failure) => {
                    self.body = None;
                    if self.since_failure >= PROGRESS_BYTES_MIN {
                        self.attempts.start_over();
                    }
                    self.since_failure = 0;
                    self.attempts
                        .pause_after(failure, &self.doing)
                        .map_err(|err| io::Error::other(err.context(&self.doing)))?;
                }
            }
        }
    }
}
