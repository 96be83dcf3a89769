//! Requests to one container: with a token that is good, at the right address, and with their refusals named.

use std::sync::OnceLock;

use jiff::Timestamp;
use serde_json::Value;

use super::super::http::{Answer, Client, Method, Payload, Request};
use super::super::retry::{self, Again, Failure, Policy};
use super::super::url::SwiftAddress;
use super::answers;
use super::large::LargeSizes;
use super::listing::{Entry, parse_page};
use super::session::Tokens;
use crate::error::{Error, ErrorKind};

/// The SHA-256 of an object's content, kept with it: the ETag of a large object says nothing about its content.
pub(super) const SHA256: &str = "x-object-meta-sha256";
/// Which upload a large object is of; tells whether a manifest whose answer was lost has arrived.
pub(super) const UPLOAD: &str = "x-object-meta-upload";

pub(super) struct Container {
    pub(super) client: Client,
    pub(super) tokens: Tokens,
    pub(super) address: SwiftAddress,
    pub(super) policy: Policy,
    pub(super) large: LargeSizes,
    pub(super) offers: OnceLock<Offers>,
}

/// What a HEAD tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) bytes: u64,
    pub(super) sha256: Option<String>,
    pub(super) upload: Option<String>,
    /// It is put together from segments.
    pub(super) is_large: bool,
}

/// What the cluster has beside plain objects, as its `/info` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offers {
    /// Names in one bulk delete; `None` when there is none.
    pub(super) bulk_deletes_max: Option<usize>,
    /// Segments of one large object; `None` when there are none.
    pub(super) segments_max: Option<u64>,
    /// Bytes of one object or segment.
    pub(super) object_bytes_max: u64,
    pub(super) list_max: usize,
}

/// A cluster that does not tell gets what every Swift has.
const OFFERS_UNKNOWN: Offers =
    Offers { bulk_deletes_max: None, segments_max: None, object_bytes_max: 5 << 30, list_max: LIST_MAX };
/// Names in a page. Swift gives 10 000 unless it is set to less; this many fit into what is read as one answer, however
/// long they are.
const LIST_MAX: usize = 5000;
/// More in one request would only take longer than anyone wants to wait for an answer.
const BULK_DELETES_MAX: usize = 1000;

impl Offers {
    pub(super) fn parse(info: &[u8]) -> Offers {
        let info: Value = serde_json::from_slice(info).unwrap_or_default();
        let number = |path: &str| info.pointer(path).and_then(Value::as_u64).filter(|number| *number > 0);
        let small = |number: u64, most: usize| usize::try_from(number).unwrap_or(most).min(most);
        // The sections stand there when the middleware does, whatever they hold.
        let has = |path: &str| info.pointer(path).is_some();
        Offers {
            bulk_deletes_max: has("/bulk_delete")
                .then(|| small(number("/bulk_delete/max_deletes_per_request").unwrap_or(u64::MAX), BULK_DELETES_MAX)),
            segments_max: has("/slo").then(|| number("/slo/max_manifest_segments").unwrap_or(1000)),
            object_bytes_max: number("/swift/max_file_size").unwrap_or(OFFERS_UNKNOWN.object_bytes_max),
            list_max: number("/swift/container_listing_limit").map_or(LIST_MAX, |number| small(number, LIST_MAX)),
        }
    }
}

impl Container {
    /// The name of `key`'s object in the container.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.address.prefix)
    }

    /// The path of the object `name` below the account, as it stands in a URL.
    pub(super) fn path(&self, name: &str) -> String {
        let mut path = String::from("/");
        escape_into(&mut path, &self.address.container);
        path.push('/');
        escape_into(&mut path, name);
        path
    }

    /// The path of the container itself.
    pub(super) fn own_path(&self) -> String {
        let mut path = String::from("/");
        escape_into(&mut path, &self.address.container);
        path
    }

    /// Sends a request below the account. A token that is refused is renewed once.
    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Payload<'_>,
    ) -> Result<Answer, Failure> {
        let mut refused = None;
        loop {
            let session = self.tokens.session(refused.as_ref())?;
            let url = format!("{}{path}", session.storage_url);
            let mut request = Request::new(method.clone(), &url).header("x-auth-token", session.token.as_str());
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let answer = self.client.send(&request.body(body))?;
            if answer.status() != 401 {
                return Ok(answer);
            }
            if refused.is_some() {
                return Err(self.tokens.refused_for_good(&session.storage_url).into());
            }
            answer.small_body()?;
            refused = Some(session);
        }
    }

    /// Repeats `attempt` as long as that can help. What it was for, `doing`, stands in front of an error.
    pub(super) fn run<T>(&self, doing: &str, attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
        retry::run(self.policy, doing, attempt).map_err(|err| err.context(doing))
    }

    /// The failure that an answer is which nobody expected.
    pub(super) fn refusal(&self, answer: Answer) -> Failure {
        // Not by `Answer::refusal`: tokens do not depend on this host's clock, so a wrong one explains nothing here.
        let (status, again) = (answer.status(), answer.again());
        let body = answer.small_body().unwrap_or_default();
        Failure { error: answers::refused(&self.address.container, status, &body), again }
    }

    /// Fails unless the container is there and may be looked at. Returns the store's clock.
    pub(super) fn confirm(&self) -> Result<Option<Timestamp>, Failure> {
        let answer = self.send(Method::HEAD, &self.own_path(), &[], Payload::None)?;
        if !answer.is_success() {
            return Err(self.refusal(answer));
        }
        let date = answer.date();
        answer.small_body()?;
        Ok(date)
    }

    /// What is stored under `name`; nothing when the container is missing, too: whoever needs to know asks `confirm`.
    pub(super) fn head(&self, name: &str) -> Result<Option<Head>, Failure> {
        let answer = self.send(Method::HEAD, &self.path(name), &[], Payload::None)?;
        if answer.status() == 404 {
            answer.small_body()?;
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.refusal(answer));
        }
        let Some(bytes) = answer.length() else {
            return Err(Failure::passing(Error::new(ErrorKind::Unavailable, "the store does not tell the size")));
        };
        let header = |name: &str| answer.header(name).map(str::to_owned);
        let head = Head {
            bytes,
            sha256: header(SHA256),
            upload: header(UPLOAD),
            is_large: header("x-static-large-object").is_some_and(|value| value.eq_ignore_ascii_case("true")),
        };
        answer.small_body()?;
        Ok(Some(head))
    }

    /// Removes `name` alone: of a large object the manifest. What is absent is removed already.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        let answer = self.send(Method::DELETE, &self.path(name), &[], Payload::None)?;
        let status = answer.status();
        if answer.is_success() || status == 404 {
            answer.small_body()?;
            return Ok(());
        }
        let failure = self.refusal(answer);
        // The object is younger than this request by the clocks of the store, which has several.
        Err(if status == 409 { Failure::passing(failure.error) } else { failure })
    }

    /// At most `limit` of the objects whose names begin with `prefix` and are greater than `marker`. Fewer do not mean
    /// that there are no more; none do.
    pub(super) fn page(&self, prefix: &str, marker: &str, limit: usize) -> Result<Vec<Entry>, Failure> {
        let limit = limit.min(self.offers()?.list_max);
        let mut path = format!("{}?format=json&limit={limit}&prefix=", self.own_path());
        escape_into(&mut path, prefix);
        path.push_str("&marker=");
        escape_into(&mut path, marker);
        let answer = self.send(Method::GET, &path, &[("accept", "application/json")], Payload::None)?;
        if !answer.is_success() {
            return Err(self.refusal(answer));
        }
        // Some stores say so for none. Nothing at all in another answer is an answer that was lost.
        let is_none = answer.status() == 204;
        let body = answer.small_body()?;
        if is_none { Ok(Vec::new()) } else { Ok(parse_page(&body, prefix, marker)?) }
    }

    /// What the cluster offers; asked once.
    pub(super) fn offers(&self) -> Result<Offers, Failure> {
        if let Some(offers) = self.offers.get() {
            return Ok(*offers);
        }
        let session = self.tokens.session(None)?;
        let root = session.storage_url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let answer = self.client.send(&Request::new(Method::GET, &format!("{root}/info")))?;
        let offers = match (answer.is_success(), answer.again()) {
            (true, _) => Offers::parse(&answer.small_body()?),
            // It is switched off, or something in front hides it.
            (false, Again::Never) => {
                answer.small_body()?;
                OFFERS_UNKNOWN
            }
            (false, _) => return Err(self.refusal(answer)),
        };
        Ok(*self.offers.get_or_init(|| offers))
    }
}

/// Escapes everything but what stands for itself everywhere, and `/`.
pub(super) fn escape_into(url: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/.-_~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_offers_is_read() {
        let info = br#"{"swift": {"max_file_size": 5368709122, "container_listing_limit": 400},
            "slo": {"max_manifest_segments": 900}, "bulk_delete": {"max_deletes_per_request": 10000}}"#;
        let expected = Offers {
            bulk_deletes_max: Some(1000),
            segments_max: Some(900),
            object_bytes_max: 5_368_709_122,
            list_max: 400,
        };
        assert_eq!(Offers::parse(info), expected);
        // Ceph names the middleware and few of its limits.
        let ceph = Offers::parse(br#"{"slo":{},"bulk_delete":{},"swift":{"max_file_size":0}}"#);
        assert_eq!((ceph.bulk_deletes_max, ceph.segments_max), (Some(1000), Some(1000)));
        assert_eq!(ceph.object_bytes_max, 5 << 30);
        for none in [&b""[..], b"<html>", b"{}"] {
            assert_eq!(Offers::parse(none), OFFERS_UNKNOWN);
        }
    }

    #[test]
    fn names_are_escaped() {
        let mut url = String::new();
        escape_into(&mut url, "a b/\u{fc}?#%.zst");
        assert_eq!(url, "a%20b/%C3%BC%3F%23%25.zst");
    }
}
