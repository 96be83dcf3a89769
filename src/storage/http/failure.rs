//! What went wrong on the way to a store, in a sentence each, and whether it may pass.

use std::io;

use ureq::Timeout;
use ureq::http::HeaderMap;

use super::super::retry::{Again, Failure};
use crate::error::{Error, ErrorKind};

/// Names the failure of a request to `place`, which is scheme, host and port only: the rest of a URL holds signatures.
pub(super) fn of_request(place: &str, err: ureq::Error) -> Failure {
    match err {
        ureq::Error::Io(err) => of_io(place, err),
        ureq::Error::Timeout(which) => Failure::passing(stalled(place, which)),
        ureq::Error::Rustls(err) => of_tls(place, &err),
        ureq::Error::HostNotFound => Failure::passing(
            Error::new(ErrorKind::Unavailable, format!("{place}: the host has no address"))
                .hint("Check the host in the repository's address."),
        ),
        ureq::Error::Other(err) => match err.downcast::<Error>() {
            Ok(error) if error.kind() == ErrorKind::Unavailable => Failure::passing(*error),
            Ok(error) => Failure::lasting(*error),
            Err(err) => Failure::passing(unreachable(place).with_source(err)),
        },
        ureq::Error::Protocol(err) => Failure::lasting(
            Error::new(ErrorKind::Unavailable, format!("{place} does not speak HTTP"))
                .hint("Check scheme (http or https) and port of the address.")
                .with_source(err),
        ),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Failure::lasting(Error::new(ErrorKind::InvalidInput, format!("{place} is not an address")).with_source(err))
        }
        err => Failure::passing(unreachable(place).with_source(err)),
    }
}

/// Names a failure of the connection to `place`, while a request was sent or a body read.
pub(super) fn of_io(place: &str, err: io::Error) -> Failure {
    let err = match err.downcast::<Error>() {
        // A body's own reader failed, or the watchdog barked.
        Ok(error) if error.kind() == ErrorKind::Unavailable => return Failure::passing(error),
        Ok(error) => return Failure::lasting(error),
        Err(err) => err,
    };
    let err = match err.downcast::<ureq::Error>() {
        Ok(ureq::Error::Io(err)) => err,
        Ok(err) => return of_request(place, err),
        Err(err) => err,
    };
    if let Some(tls) = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return of_tls(place, tls);
    }
    let error = match err.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Unavailable, format!("{place} refuses connections: nothing listens there"))
                .hint("Look whether the store runs, and check host and port of its address.")
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            Error::new(ErrorKind::Unavailable, format!("there is no route to {place}"))
                .hint("Check this host's network and the address of the store.")
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Unavailable, format!("{place} closed the connection in the middle"))
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => stalled(place, Timeout::PerRead),
        _ => unreachable(place),
    };
    Failure::passing(error.with_source(err))
}

fn unreachable(place: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{place} cannot be reached"))
        .hint("Look whether the store runs and this host's network is up.")
}

fn stalled(place: &str, which: Timeout) -> Error {
    let what = match which {
        Timeout::Resolve => "the name service does not answer for",
        Timeout::Connect => "no connection comes about with",
        _ => "nothing moves any more on the connection with",
    };
    Error::new(ErrorKind::Unavailable, format!("{what} {place}"))
        .hint("Look whether the store and the network between are up.")
}

fn of_tls(place: &str, err: &rustls::Error) -> Failure {
    use rustls::CertificateError as Bad;
    use rustls::Error as Tls;
    const CLOCK: &str = "Renew the store's certificate; if it is in date, set this host's clock right.";
    let (what, hint) = match err {
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => ("has expired", CLOCK),
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => ("is not valid yet", CLOCK),
        Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => (
            "is signed by an authority that is not trusted here",
            "If the store has a certificate authority of its own, name its PEM file as `ca_file` under [repository].",
        ),
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            ("is for another host name", "Use the name that stands in the certificate as the store's address.")
        }
        Tls::InvalidCertificate(Bad::Revoked) => ("has been revoked", "Give the store a new certificate."),
        Tls::InvalidCertificate(Bad::Other(_)) => (
            "is not acceptable",
            "A server's certificate must not be an authority's own: have one signed, and name the authority's PEM file \
             as `ca_file` under [repository].",
        ),
        Tls::InvalidCertificate(_) => ("is not acceptable", "Give the store a proper certificate."),
        Tls::InvalidMessage(_) => {
            let error = Error::new(ErrorKind::Unavailable, format!("{place} does not speak TLS"))
                .hint("Check scheme (http or https) and port of the address.");
            return Failure::lasting(error.with_source(err.clone()));
        }
        Tls::General(text) => {
            let error = Error::new(ErrorKind::Unavailable, format!("no TLS with {place}: {text}")).hint(
                "Install the system's certificates (package ca-certificates), or name a PEM file as `ca_file` under \
                 [repository].",
            );
            return Failure::lasting(error);
        }
        _ => {
            let error = Error::new(ErrorKind::Unavailable, format!("no TLS with {place}"));
            return Failure::lasting(error.with_source(err.clone()));
        }
    };
    let error = Error::new(ErrorKind::Refused, format!("the certificate of {place} {what}")).hint(hint);
    Failure::lasting(error.with_source(err.clone()))
}

/// Whether an answer of this status may be another one next time: overload, a restart, a rate limit (498 is Swift's).
pub(super) fn status_passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 498 | 500 | 502..=504 | 507 | 509)
}

/// When to come back, as far as the store says.
pub(super) fn again_of(status: u16, headers: &HeaderMap) -> Again {
    if !status_passes(status) {
        return Again::Never;
    }
    let asked = headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    asked.map_or(Again::Later, |seconds| Again::After(std::time::Duration::from_secs(seconds)))
}
