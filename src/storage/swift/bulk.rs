//! Many deletions in one request, by Swift's bulk middleware.

use std::collections::HashSet;

use super::super::http::{Method, Payload};
use super::super::retry::Failure;
use super::container::{Container, escape_into};
use super::{answers, large};
use crate::error::{Error, ErrorKind};

/// Deletes the plain ones among `keys`, `at_once` in a request, and returns those that have to be deleted one by one:
/// large objects, whose segments have to go too, and what the store could not delete in the bulk, which then tells why.
pub(super) fn delete(container: &Container, keys: &[String], at_once: usize) -> Result<Vec<String>, Error> {
    let large: HashSet<String> = large::keys_with_segments(container, common_prefix(keys))?.into_iter().collect();
    let (mut left, plain): (Vec<String>, Vec<&String>) = {
        let (large, plain): (Vec<_>, Vec<_>) = keys.iter().partition(|key| large.contains(*key));
        (large.into_iter().cloned().collect(), plain)
    };
    for batch in plain.chunks(at_once.max(1)) {
        let refused = container.run("deleting objects", || delete_batch(container, batch))?;
        let path_of = |key: &str| format!("/{}/{}", container.address.container, container.name(key));
        left.extend(batch.iter().filter(|key| refused.contains(&path_of(key))).map(|key| (*key).clone()));
    }
    Ok(left)
}

/// Returns what was not deleted, by its path.
fn delete_batch(container: &Container, keys: &[&String]) -> Result<HashSet<String>, Failure> {
    let mut body = String::new();
    for key in keys {
        body.push('/');
        escape_into(&mut body, &format!("{}/{}", container.address.container, container.name(key)));
        body.push('\n');
    }
    let headers = [("content-type", "text/plain"), ("accept", "application/json")];
    let answer = container.send(Method::POST, "?bulk-delete", &headers, Payload::Bytes(body.as_bytes()))?;
    if !answer.is_success() {
        return Err(container.refusal(answer));
    }
    // The answer begins with 200 before the first deletion, to keep the connection alive: it is its text that counts.
    let inner = answers::inner_errors(&answer.small_body()?).ok_or_else(|| {
        Failure::passing(Error::new(ErrorKind::Unavailable, "the store's answer to a bulk delete has no outcome"))
    })?;
    if inner.not_found > 0 {
        container.confirm()?;
    }
    if inner.errors.is_empty() && !inner.status.starts_with('2') {
        let what = format!("the store failed within a bulk delete: {}", inner.status);
        return Err(Failure::passing(Error::new(ErrorKind::Unavailable, what)));
    }
    Ok(inner.errors.into_iter().map(|(path, _)| percent_decoded(&path)).collect())
}

/// Paths come back as they were sent or decoded, by the version of Swift.
fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn common_prefix(keys: &[String]) -> &str {
    let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return "" };
    let alike = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    // Keys are ASCII, so every place is between characters.
    first.get(..alike).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_a_prefix() {
        let common = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            common_prefix(&keys).to_owned()
        };
        assert_eq!(common(&["a/c/2", "a/b/1", "a/c/3"]), "a/");
        assert_eq!(common(&["a/1", "a/1"]), "a/1");
        assert_eq!(common(&["a", "b"]), "");
        assert_eq!(common(&[]), "");
    }

    #[test]
    fn paths_are_decoded_where_they_are_encoded() {
        assert_eq!(percent_decoded("/my%20box/a"), "/my box/a");
        assert_eq!(percent_decoded("/my box/100%"), "/my box/100%");
        assert_eq!(percent_decoded("/%C3%BC%zz%"), "/ü%zz%");
    }
}
