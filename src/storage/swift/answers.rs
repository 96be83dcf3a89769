//! What a refusal of the store means, in a sentence.

use serde_json::Value;

use crate::error::{Error, ErrorKind};

/// How much of a store's own words is shown.
const EXCERPT_CHARS_MAX: usize = 200;

/// Names an answer of `status`, which is no success. What was being done is for the caller to say.
pub(super) fn refused(container: &str, status: u16, body: &[u8]) -> Error {
    let said = excerpt(body);
    let error = |kind, what: &str| Error::new(kind, format!("{what} ({status}{said})"));
    match status {
        401 => error(ErrorKind::Unauthorized, "the store does not accept the login"),
        403 => error(ErrorKind::Forbidden, "the store forbids it to this user").hint(format!(
            "Give the user a role in the project, or read and write on the container: \
             `swift post -r PROJECT:USER -w PROJECT:USER {container}`."
        )),
        404 => missing_container(container),
        413 if said.contains("quota") => error(
            ErrorKind::NoSpace,
            "it would go beyond the quota of the container or the account",
        )
        .hint(format!(
            "Have the quota raised, or delete old backups; `openstack container show {container}` tells what is used. \
                 Nothing was stored."
        )),
        413 => error(ErrorKind::NoSpace, "the store does not take an object of this size")
            .hint("Have `max_file_size` or the quota of the store raised. Nothing was stored."),
        422 => error(ErrorKind::Corrupt, "what arrived at the store is not what was sent").hint(
            "Nothing was stored. The bytes were changed on the way or on this host: look for faulty memory or network.",
        ),
        429 | 498 => error(ErrorKind::Unavailable, "the store limits the rate of requests")
            .hint("Have the limit raised, or lower `transfers` under [repository]."),
        503 | 507 => error(ErrorKind::Unavailable, "the store cannot do it now")
            .hint("It restarts, has too much to do, or its disks are full: ask its operator."),
        500..=599 => error(ErrorKind::Unavailable, "the store failed").hint("Look at the log of the store's proxy."),
        _ => error(ErrorKind::Refused, "the store refuses it").hint("Look at the log of the store's proxy."),
    }
}

/// The container is not there: it is named, with the command that makes it.
fn missing_container(container: &str) -> Error {
    let plain = container.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let argument = if plain { container.to_owned() } else { format!("'{}'", container.replace('\'', "'\\''")) };
    Error::new(ErrorKind::Unavailable, format!("there is no container `{container}` in the store"))
        .hint(format!("Check the repository's address, or make it: `openstack container create {argument}`."))
}

/// What the errors inside an answer with status 200 (or the 400 of a manifest) say: each an object and its status.
pub(super) fn inner_errors(body: &[u8]) -> Option<Inner> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let errors = answer.get("Errors").and_then(Value::as_array)?;
    let errors =
        errors.iter().filter_map(|pair| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())));
    Some(Inner {
        status: answer.get("Response Status").and_then(Value::as_str).unwrap_or_default().to_owned(),
        not_found: answer.get("Number Not Found").and_then(Value::as_u64).unwrap_or(0),
        errors: errors.collect(),
    })
}

/// What stands inside the answer of a bulk request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inner {
    /// `200 OK`, or the status that the answer had, had the store known it before it began to answer.
    pub(super) status: String,
    pub(super) not_found: u64,
    pub(super) errors: Vec<(String, String)>,
}

/// A page for people without its markup, short, on one line; begins with `: ` when there is anything.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let (mut plain, mut in_tag) = (String::new(), false);
    for c in text.chars().take(EXCERPT_CHARS_MAX * 8) {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                plain.push(' ');
            }
            c if in_tag || c.is_control() => plain.push_str(if in_tag { "" } else { " " }),
            c => plain.push(c),
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    let short: String = words.join(" ").chars().take(EXCERPT_CHARS_MAX).collect();
    if short.is_empty() { short } else { format!(": {short}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_kind_and_its_remedy() {
        let named = |status, body: &str| refused("backups", status, body.as_bytes());
        for (status, body, kind, said) in [
            (401, "", ErrorKind::Unauthorized, "login"),
            (403, "<html><h1>Forbidden</h1></html>", ErrorKind::Forbidden, "(403: Forbidden)"),
            (404, "", ErrorKind::Unavailable, "openstack container create backups"),
            (413, "Upload exceeds quota.", ErrorKind::NoSpace, "quota"),
            (413, "<html><h1>Request Entity Too Large</h1></html>", ErrorKind::NoSpace, "max_file_size"),
            (422, "", ErrorKind::Corrupt, "what arrived"),
            (498, "Slow down", ErrorKind::Unavailable, "rate"),
            (503, "", ErrorKind::Unavailable, "full"),
            (507, "", ErrorKind::Unavailable, "full"),
            (500, "Traceback", ErrorKind::Unavailable, "500: Traceback"),
            (400, "bad\n\tname", ErrorKind::Refused, "(400: bad name)"),
        ] {
            let error = named(status, body);
            assert_eq!(error.kind(), kind, "{status}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn errors_inside_an_answer_are_seen() {
        let body = b"   \n{\"Response Status\": \"400 Bad Request\", \"Response Body\": \"\", \"Number Deleted\": 1, \
                     \"Number Not Found\": 2, \"Errors\": [[\"/c/a\", \"403 Forbidden\"]]}";
        let inner = inner_errors(body).unwrap();
        assert_eq!((inner.status.as_str(), inner.not_found), ("400 Bad Request", 2));
        assert_eq!(inner.errors, [("/c/a".to_owned(), "403 Forbidden".to_owned())]);
        assert_eq!(inner_errors(b""), None);
        assert_eq!(inner_errors(b"<html>"), None);
    }
}
