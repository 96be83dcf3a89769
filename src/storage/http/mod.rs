//! The one HTTP client of the drivers of object stores.
//!
//! How a driver uses it:
//!
//! ```text
//! let client = Client::new(access)?;                        // once per store; cheap to clone, connections are pooled
//! let answer = retry::run(Policy::PATIENT, "storing `key`", || {
//!     let url = sign(…);                                    // inside the loop: a signature or token may have aged
//!     let request = Request::new(Method::PUT, &url).header("content-md5", &md5).body(Payload::Bytes(bytes));
//!     let answer = client.send(&request)?;                  // Err: it never got an answer
//!     if !answer.is_success() {
//!         return Err(answer.refusal(|status, body| name_it(status, body)));   // retried if the status may pass
//!     }
//!     answer.small_body()                                   // or `answer.into_body()`: a checked, throttled reader
//! })?;
//! ```
//!
//! What holds for every request: no redirect is followed (a redirect would carry data or a token somewhere nobody named);
//! no environment variable sends it through a proxy; link-local and metadata addresses are refused after the name was
//! resolved (`guard`); connecting, each read and each write have a limit, and a transfer that creeps is ended
//! (`Watchdog`); nothing is decompressed; a request's body is exactly as long as announced, and so is an answer's.
//! Bodies are announced with `Expect: 100-continue`, so that a store can refuse them before they are sent.

mod failure;
mod guard;
mod payload;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, SendBody};

pub(super) use payload::{Payload, Receiving, Watchdog};
pub(super) use ureq::http::Method;

use super::Access;
use super::retry::{Again, Failure};
use super::throttle::Throttle;
use crate::clock;
use crate::error::{Error, ErrorKind, error_of, io_error};

/// Bodies up to this size are sent without asking first: the question would cost more than the answer saves.
const UNASKED_BYTES_MAX: u64 = 64 * 1024;
/// Answers that are read whole are lists and messages; a page of 1000 names of 1 KiB fits several times.
const SMALL_BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;
const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const IDLE_CONNECTIONS_MAX: usize = 16;
/// Stores that sign by time tolerate a quarter of an hour between the clocks.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(14);

/// How long a store may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connect: Duration,
    /// For each single read and write.
    pub(super) silence: Duration,
    pub(super) watchdog: Watchdog,
}

impl Limits {
    pub(super) const USUAL: Limits = Limits {
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(60),
        watchdog: Watchdog { span: Duration::from_secs(120), bytes_min: 32 * 1024 },
    };
}

/// A pool of connections with everything about them decided.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    limits: Limits,
    up: Option<Arc<Throttle>>,
    down: Option<Arc<Throttle>>,
}

/// One request; `url` is complete, with its query. It may hold a signature, so it is never shown.
pub(super) struct Request<'a> {
    method: Method,
    url: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Payload<'a>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, url: &'a str) -> Request<'a> {
        Request { method, url, headers: Vec::new(), body: Payload::None }
    }

    /// `name` in lower case. `Content-Length` and `Expect` are added by `send`.
    pub(super) fn header(mut self, name: &'a str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Payload<'a>) -> Request<'a> {
        self.body = body;
        self
    }
}

/// An answer whose body has not been read yet. Whatever its status: only the driver knows what a 404 means.
pub(super) struct Answer {
    place: String,
    status: u16,
    headers: HeaderMap,
    body: Receiving,
}

impl Client {
    /// A client that trusts and throttles as `access` says. No request is made.
    pub(super) fn new(access: &Access) -> Result<Client, Error> {
        Client::with_limits(access, Limits::USUAL)
    }

    pub(super) fn with_limits(access: &Access, limits: Limits) -> Result<Client, Error> {
        let roots = match &access.ca_file {
            Some(path) => RootCerts::new_with_certs(&read_certificates(path)?),
            None => RootCerts::PlatformVerifier,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_per_read(Some(limits.silence))
            .timeout_per_write(Some(limits.silence))
            .max_idle_connections(IDLE_CONNECTIONS_MAX)
            .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("coffer/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), guard::GuardedResolver);
        let throttle = || access.bandwidth.map(|bytes| Arc::new(Throttle::new(bytes)));
        Ok(Client { agent, limits, up: throttle(), down: throttle() })
    }

    /// Sends a request and reads the head of its answer. Every status is an answer; `Err` means that there was none.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let place = place_of(request.url);
        let mut head = ureq::http::Request::builder().method(request.method.clone()).uri(request.url);
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        let length = request.body.bytes();
        if length > UNASKED_BYTES_MAX {
            head = head.header("expect", "100-continue");
        }
        let unfit = |err: ureq::http::Error| failure::of_request(&place, err.into());
        let outcome = match request.body {
            Payload::None => self.agent.run(head.body(()).map_err(unfit)?),
            // ureq knows the length of a slice, and says 0 where there is nothing.
            _ if length == 0 => self.agent.run(head.body(&[][..]).map_err(unfit)?),
            body => {
                let body = body.open()?;
                let mut sending = payload::Sending::new(body, length, self.up.as_deref(), self.limits.watchdog);
                let head = head.header("content-length", length);
                self.agent.run(head.body(SendBody::from_reader(&mut sending)).map_err(unfit)?)
            }
        };
        let answer = outcome.map_err(|err| failure::of_request(&place, err))?;
        let (head, body) = answer.into_parts();
        let length = body.content_length().filter(|_| request.method != Method::HEAD);
        let body = body.into_with_config().limit(u64::MAX).reader();
        let body = Receiving::new(body, place.clone(), length, self.down.clone(), self.limits.watchdog);
        Ok(Answer { place, status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header, by its name in lower case; `None` when it is absent or not ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Content-Length`: of a HEAD's answer the object's size.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The server's clock when it answered.
    pub(super) fn date(&self) -> Option<Timestamp> {
        date_of(&self.headers)
    }

    /// The body as it comes. It fails, and never merely ends, when the connection breaks off; it is `Unavailable` then,
    /// by `error::error_of`, and can be had from where it was with a `Range` (see `resume`).
    pub(super) fn into_body(self) -> Receiving {
        self.body
    }

    /// The whole of a small body: a list, a receipt, a message.
    pub(super) fn small_body(self) -> Result<Vec<u8>, Failure> {
        let (place, mut bytes) = (self.place, Vec::new());
        match self.body.take(SMALL_BODY_BYTES_MAX + 1).read_to_end(&mut bytes) {
            Ok(length) if u64::try_from(length).is_ok_and(|length| length <= SMALL_BODY_BYTES_MAX) => Ok(bytes),
            Ok(_) => {
                let what = format!("{place} answered with more than {SMALL_BODY_BYTES_MAX} bytes where a list belongs");
                Err(Failure::lasting(Error::new(ErrorKind::Corrupt, what)))
            }
            Err(err) => Err(Failure::passing(error_of(err, "reading an answer"))),
        }
    }

    /// Turns an answer that is no success into the failure it stands for. `name` makes the error from the status and
    /// the (bounded) body; whether it is tried again is decided here, by the status. A failure that a wrong clock
    /// explains (400 and 403; a password is no matter of time) says so.
    pub(super) fn refusal(self, name: impl FnOnce(u16, &[u8]) -> Error) -> Failure {
        let (status, again, skew) = (self.status, self.again(), self.clock_error());
        // Without the message the status still tells something.
        let body = self.small_body().unwrap_or_default();
        match skew {
            Some(skew) if matches!(status, 400 | 403) => Failure::lasting(skew),
            _ => Failure { error: name(status, &body), again },
        }
    }

    /// Whether this status may be another one next time, and when.
    pub(super) fn again(&self) -> Again {
        failure::again_of(self.status, &self.headers)
    }

    /// The error to tell instead when this host's clock and the store's are too far apart for credentials to work.
    fn clock_error(&self) -> Option<Error> {
        let told = super::clock_difference(clock::now(), self.date()?, CLOCK_SKEW_MAX)?;
        let what = format!("{} refuses the request, and {told}", self.place);
        Some(Error::new(ErrorKind::Refused, what).hint("Set the clocks right, with NTP on both hosts."))
    }
}

/// Scheme, host and port of a URL, for people.
pub(super) fn place_of(url: &str) -> String {
    match url.parse::<Uri>().ok().as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?))) {
        Some((scheme, authority)) => {
            let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{}{port}", authority.host())
        }
        None => "the store".to_owned(),
    }
}

fn date_of(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get("date")?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let failed = |err| io_error("unable to read the certificates in `ca_file`", path, err);
    let mut pem = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(CA_FILE_BYTES_MAX).read_to_end(&mut pem).map_err(failed)?;
    let items = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = items.collect();
    if certificates.is_empty() {
        let what = format!("`{}`, the `ca_file`, holds no certificate in PEM", path.display());
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .hint("It begins with -----BEGIN CERTIFICATE-----; name the certificate of the authority."));
    }
    Ok(certificates)
}
