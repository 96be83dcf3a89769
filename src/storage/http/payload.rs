//! Bodies on their way: exactly as long as announced, within the bandwidth, and never at a standstill.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use super::super::throttle::Throttle;
use crate::clock::Stopwatch;
use crate::error::{Error, ErrorKind, io_error};

/// What a request carries. Each form can be sent again from its start.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) enum Payload<'a> {
    /// No body, and no `Content-Length` either.
    None,
    Bytes(&'a [u8]),
    /// `bytes` of a file from `from` on; a file that does not have them any more fails the request.
    File {
        path: &'a Path,
        from: u64,
        bytes: u64,
    },
}

impl Payload<'_> {
    pub(in crate::storage) fn bytes(&self) -> u64 {
        match self {
            Payload::None => 0,
            Payload::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Payload::File { bytes, .. } => *bytes,
        }
    }

    pub(super) fn open(&self) -> Result<Box<dyn Read + '_>, Error> {
        match self {
            Payload::None => Ok(Box::new(io::empty())),
            Payload::Bytes(bytes) => Ok(Box::new(*bytes)),
            Payload::File { path, from, bytes } => {
                let failed = |err| io_error("unable to read", path, err);
                let mut file = File::open(path).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                if length < from.saturating_add(*bytes) {
                    return Err(changed(path, length));
                }
                file.seek(SeekFrom::Start(*from)).map_err(failed)?;
                // Taken one byte beyond: `Sending` sees a body that is longer than announced, too. A range of a larger
                // file ends where it was told to.
                let whole = *from == 0 && length == *bytes;
                Ok(Box::new(file.take(if whole { bytes.saturating_add(1) } else { *bytes })))
            }
        }
    }
}

fn changed(path: &Path, length: u64) -> Error {
    let what = format!("`{}` was changed while it was being stored: it has {length} bytes now", path.display());
    Error::new(ErrorKind::Corrupt, what)
}

/// How slow a transfer may become before it counts as one that stands still.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct Watchdog {
    /// The span that is looked at.
    pub(in crate::storage) span: Duration,
    /// What has to pass within it, waits of our own not counted.
    pub(in crate::storage) bytes_min: u64,
}

/// Counts what passes and fails when it is next to nothing. Time in which nobody waited for the store is left out.
#[derive(Debug)]
struct Pulse {
    watchdog: Watchdog,
    waited: Duration,
    passed: u64,
}

impl Pulse {
    fn beat(&mut self, waited: Duration, bytes: usize) -> io::Result<()> {
        self.waited += waited;
        self.passed += u64::try_from(bytes).unwrap_or(0);
        if self.waited < self.watchdog.span {
            return Ok(());
        }
        if self.passed < self.watchdog.bytes_min {
            let what = format!("only {} bytes moved in {:.0} s", self.passed, self.waited.as_secs_f64());
            return Err(io::Error::other(Error::new(ErrorKind::Unavailable, what)));
        }
        (self.waited, self.passed) = (Duration::ZERO, 0);
        Ok(())
    }
}

/// The reader that ureq sends. It fails where ureq would not end: at a body shorter than announced (ureq would ask
/// for ever) and at a longer one (ureq would cut it in silence).
pub(super) struct Sending<'a> {
    body: Box<dyn Read + 'a>,
    left: u64,
    throttle: Option<&'a Throttle>,
    pulse: Pulse,
    /// Since ureq last got bytes: the time it took to send them.
    sending: Option<Stopwatch>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        body: Box<dyn Read + 'a>,
        bytes: u64,
        throttle: Option<&'a Throttle>,
        watchdog: Watchdog,
    ) -> Self {
        let pulse = Pulse { watchdog, waited: Duration::ZERO, passed: 0 };
        Sending { body, left: bytes, throttle, pulse, sending: None }
    }
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(sending) = self.sending.take() {
            // The bytes were counted when they were handed out.
            self.pulse.beat(sending.elapsed(), 0)?;
        }
        if self.left == 0 {
            return Ok(0);
        }
        let piece = self.throttle.map_or(usize::MAX, Throttle::piece);
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len()).min(piece);
        let read = match self.body.read(&mut buffer[..most])? {
            0 => return Err(io::Error::other(Error::new(ErrorKind::Corrupt, "the body ended before its length"))),
            read => read,
        };
        self.left -= u64::try_from(read).unwrap_or(0);
        if self.left == 0 && self.body.read(&mut [0])? != 0 {
            return Err(io::Error::other(Error::new(ErrorKind::Corrupt, "the body is longer than its length")));
        }
        if let Some(throttle) = self.throttle {
            throttle.take(read);
        }
        self.pulse.passed += u64::try_from(read).unwrap_or(0);
        self.sending = Some(Stopwatch::start());
        Ok(read)
    }
}

/// The body of an answer. It fails when it ends before its length; errors can be had by `error::error_of`.
pub(in crate::storage) struct Receiving {
    /// Boxed, since it is large and what holds a body should not be.
    body: Box<ureq::BodyReader<'static>>,
    place: String,
    left: Option<u64>,
    throttle: Option<std::sync::Arc<Throttle>>,
    pulse: Pulse,
}

impl Receiving {
    pub(super) fn new(
        body: ureq::BodyReader<'static>,
        place: String,
        length: Option<u64>,
        throttle: Option<std::sync::Arc<Throttle>>,
        watchdog: Watchdog,
    ) -> Receiving {
        let pulse = Pulse { watchdog, waited: Duration::ZERO, passed: 0 };
        Receiving { body: Box::new(body), place, left: length, throttle, pulse }
    }

    fn failed(&self, err: io::Error) -> io::Error {
        io::Error::other(super::failure::of_io(&self.place, err).error)
    }
}

impl Read for Receiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = self.throttle.as_ref().map_or(usize::MAX, |throttle| throttle.piece()).min(buffer.len());
        let waiting = Stopwatch::start();
        let read = self.body.read(&mut buffer[..most]).map_err(|err| self.failed(err))?;
        self.pulse.beat(waiting.elapsed(), read)?;
        if let Some(left) = &mut self.left {
            if read == 0 && *left != 0 {
                let what = format!("{} ended an answer {left} bytes before its length", self.place);
                return Err(io::Error::other(Error::new(ErrorKind::Unavailable, what)));
            }
            *left = left.saturating_sub(u64::try_from(read).unwrap_or(0));
        }
        if let Some(throttle) = &self.throttle {
            throttle.take(read);
        }
        Ok(read)
    }
}
