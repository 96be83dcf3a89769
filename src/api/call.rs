//! A request as handlers see it, and the answer they give. No socket here, so that the whole API can be tested as values.

use serde_json::Value;

use crate::api::fault;
use crate::error::{Error, ErrorKind};

/// A request, whole, as the gate has let it through.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query, as sent.
    pub(super) target: String,
    pub(super) content_type: Option<String>,
    pub(super) accept: Option<String>,
    pub(super) token: Option<String>,
    pub(super) authorization: Option<String>,
    pub(super) body: Vec<u8>,
}

/// A request that a route was found for.
pub(super) struct Call<'a> {
    pub(super) request: &'a Request,
    pub(super) query: Query,
    /// What stands in the path for each `{name}` of the route.
    pub(super) params: Vec<(&'static str, String)>,
}

impl Call<'_> {
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// An id in the path. One that is none names nothing, so it is `NotFound`: clients try names there.
    pub(super) fn id<T: std::str::FromStr>(&self, name: &str, noun: &str) -> Result<T, Error> {
        let text = self.param(name);
        text.parse().map_err(|_| {
            Error::new(ErrorKind::NotFound, format!("{noun} `{}` cannot be found", shorten(text)))
                .hint(format!("Use the {noun}'s UUID; the list shows it."))
        })
    }
}

/// The parameters behind the `?`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Query, Error> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(&name.replace('+', " "))?;
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(invalid(&name, "stands twice in the query", "Say it once."));
            }
            pairs.push((name, decode(&value.replace('+', " "))?));
        }
        Ok(Query(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that mean nothing: a misspelt filter would show everything.
    pub(super) fn allow(&self, names: &[&str]) -> Result<(), Error> {
        match self.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => {
                Err(invalid(name, "is not known here", &format!("The parameters are {}.", names.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// `true` and `false`; the bare name means `true`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(invalid(name, "is neither true nor false", "Write true or false.")),
        }
    }

    pub(super) fn number(&self, name: &str, default: usize, max: usize) -> Result<usize, Error> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse::<usize>() {
            Ok(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(invalid(name, "is not usable", &format!("Write a number from 1 to {max}."))),
        }
    }

    /// A time with a zone. A `+` that nobody encoded arrives as a blank, so one in front of an offset is taken as meant.
    pub(super) fn time(&self, name: &str) -> Result<Option<jiff::Timestamp>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let mended = text.rsplit_once(' ').map(|(time, offset)| format!("{time}+{offset}"));
        text.parse().or_else(|err| mended.ok_or(err)?.parse()).map(Some).map_err(|_| {
            invalid(name, &format!("is not a time with a zone: `{}`", shorten(text)), super::body::TIME_HINT)
        })
    }
}

fn invalid(name: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("parameter `{}` {why}", shorten(name))).hint(hint)
}

/// Splits a target into the decoded segments of its path and its query.
pub(super) fn split_target(target: &str) -> Result<(Vec<String>, Query), Error> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix('/').unwrap_or(path);
    // Clients end endpoints in a slash, or do not.
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments = path.split('/').map(decode).collect::<Result<_, _>>()?;
    Ok((segments, Query::parse(query)?))
}

fn decode(text: &str) -> Result<String, Error> {
    let malformed = || {
        Error::new(ErrorKind::InvalidInput, format!("`{}` is not percent-encoded UTF-8", shorten(text)))
            .hint("Write each byte that is not a letter or digit as % and two hexadecimal digits.")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or_else(malformed)?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(malformed)
}

/// What somebody sent, short enough to be said back.
pub(super) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX).chain("...".chars()).collect()
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Fixed texts only: nothing a client sent ever gets into a header.
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, content_type, headers: vec![("Cache-Control", "no-store")], body: body.into() }
    }

    pub(super) fn json(status: u16, value: &Value) -> Reply {
        Reply::new(status, "application/json", value.to_string())
    }

    /// Accepted; there is nothing to tell.
    pub(super) fn accepted() -> Reply {
        Reply::new(202, "application/json", "")
    }

    pub(super) fn error(error: &Error) -> Reply {
        Reply::fault(fault::status(error.kind()), &fault::message(error))
    }

    pub(super) fn fault(status: u16, message: &str) -> Reply {
        let mut reply = Reply::new(status, "application/json", fault::body(status, message));
        if status == 401 {
            // Not `Basic`: a browser would ask for a password on top of the page's own field.
            reply.headers.push(("WWW-Authenticate", "X-Auth-Token realm=\"coffer\""));
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_and_decoded_once() {
        let (path, query) = split_target("/v1.0/a%20b/x%252f/?since=2026-01-01T00:00:00%2B02:00&destructive").unwrap();
        assert_eq!(path, ["v1.0", "a b", "x%2f"]);
        assert_eq!(query.time("since").unwrap(), Some("2025-12-31T22:00:00Z".parse().unwrap()));
        assert!(query.flag("destructive").unwrap());
        assert_eq!(
            Query::parse("since=2026-01-01T00:00:00+02:00").unwrap().time("since").unwrap(),
            query.time("since").unwrap()
        );
        assert_eq!(split_target("/").unwrap().0, [""]);
    }

    #[test]
    fn malformed_queries_are_refused_by_name() {
        for (query, name) in
            [("a=1&a=2", "`a`"), ("%zz=1", "`%zz`"), ("a=%f", "`%f`"), ("a=%ff", "`%ff`"), ("a=%00", "`%00`")]
        {
            let error = Query::parse(query).unwrap_err();
            assert!(error.message().contains(name), "{error}");
        }
        let query = Query::parse("limit=0&since=yesterday&destructive=maybe").unwrap();
        assert!(query.number("limit", 10, 100).unwrap_err().to_string().contains("`limit`"));
        assert!(query.time("since").unwrap_err().to_string().contains("`since`"));
        assert!(query.flag("destructive").unwrap_err().to_string().contains("`destructive`"));
        assert!(query.allow(&["limit", "since"]).unwrap_err().to_string().contains("`destructive`"));
    }
}
