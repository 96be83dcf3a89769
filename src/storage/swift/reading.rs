//! Objects on their way back: a download goes on where it broke off, or fails, and never merely ends.

use std::io::{self, Read};

use super::super::http::{Answer, Method, Payload, Receiving};
use super::super::resume::Resuming;
use super::super::retry::Failure;
use super::SwiftStore;
use super::container::Container;
use crate::error::{Error, ErrorKind};

/// The start of a download: the bytes from `at` to `end`, of an object with this ETag.
struct Opened {
    body: Receiving,
    at: u64,
    end: u64,
    etag: Option<String>,
}

enum Begun {
    At(Box<Opened>),
    /// The object ends before.
    Nothing,
    /// There is no object, or no container.
    Absent,
}

/// A reader of the object `name` from byte `from` on, at most `bytes` of it.
pub(super) fn open(
    store: &SwiftStore,
    name: &str,
    from: u64,
    bytes: Option<u64>,
) -> Result<Box<dyn Read + Send>, Error> {
    let doing = format!("reading `{name}`");
    let range = match (from, bytes) {
        (0, None) => None,
        (from, None) => Some(format!("bytes={from}-")),
        // No range means nothing; there has to be an object all the same.
        (_, Some(0)) => {
            return match store.container.run(&doing, || store.container.head(name))? {
                Some(_) => Ok(Box::new(io::empty())),
                None => Err(store.absent(name)),
            };
        }
        (from, Some(bytes)) => Some(format!("bytes={from}-{}", from.saturating_add(bytes - 1))),
    };
    let opened = store.container.run(&doing, || {
        let answer = request(&store.container, name, range.as_deref(), None)?;
        match answer.status() {
            404 => Ok(Begun::Absent),
            416 => Ok(Begun::Nothing),
            _ => begin(&store.container, answer, name, range.is_some().then_some(from))
                .map(|opened| Begun::At(Box::new(opened))),
        }
    })?;
    let Opened { body, at, end, etag } = match opened {
        Begun::At(opened) => *opened,
        Begun::Nothing => return Ok(Box::new(io::empty())),
        Begun::Absent => return Err(store.absent(name)),
    };
    let (container, name) = (store.container.clone(), name.to_owned());
    let reopen = move |at: u64| {
        let range = format!("bytes={at}-{}", end.saturating_sub(1));
        let answer = request(&container, &name, Some(&range), etag.as_deref())?;
        match answer.status() {
            404 => Err(Error::new(ErrorKind::NotFound, format!("`{name}` was deleted while it was read")).into()),
            412 => Err(Error::new(ErrorKind::Corrupt, format!("`{name}` was replaced while it was read"))
                .hint("Look what else writes into the container.")
                .into()),
            _ => begin(&container, answer, &name, Some(at)).map(|opened| opened.body),
        }
    };
    Ok(Box::new(Resuming::new(store.container.policy, doing, body, at, end, reopen)))
}

fn request(container: &Container, name: &str, range: Option<&str>, etag: Option<&str>) -> Result<Answer, Failure> {
    let headers = [range.map(|range| ("range", range)), etag.map(|etag| ("if-match", etag))];
    let headers: Vec<(&str, &str)> = headers.into_iter().flatten().collect();
    container.send(Method::GET, &container.path(name), &headers, Payload::None)
}

/// Looks whether the answer brings what was asked for: the whole, or the bytes from `from` on.
fn begin(container: &Container, answer: Answer, name: &str, from: Option<u64>) -> Result<Opened, Failure> {
    if answer.status() == 409 {
        let what = format!("`{name}` is a large object, and a segment of it is missing");
        return Err(Error::new(ErrorKind::Corrupt, what).hint("The store or somebody in it has lost a part.").into());
    }
    if !answer.is_success() {
        return Err(container.refusal(answer));
    }
    let wrong = |what: &str| {
        let error = Error::new(ErrorKind::Corrupt, what);
        Failure::lasting(error.hint("Look whether something between coffer and the store alters its answers."))
    };
    let (at, end) = match (from, answer.status()) {
        (None, 200) => (0, answer.length().ok_or_else(|| wrong("the store does not tell its size"))?),
        (Some(from), 206) => {
            let range = answer.header("content-range").and_then(parse_range);
            range.filter(|(at, _)| *at == from).ok_or_else(|| wrong("the store sends another part than asked for"))?
        }
        _ => return Err(wrong("the store does not send the part that was asked for")),
    };
    let etag =
        answer.header("etag").map(|etag| if etag.starts_with('"') { etag.to_owned() } else { format!("\"{etag}\"") });
    Ok(Opened { body: answer.into_body(), at, end, etag })
}

/// `bytes 8-12/30` is 8 and 13.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then(|| (first, last.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(parse_range("bytes 8-12/30"), Some((8, 13)));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, 1)));
        for bad in ["bytes */30", "bytes 9-8/30", "8-12/30", "bytes 8-12", "bytes a-b/c"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
