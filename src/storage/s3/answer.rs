//! What S3 answers: XML, and the sentences its error codes stand for.
//!
//! Every parser here looks at the root element first, since a store may say 200 and send an `<Error>`; and it insists on
//! what the caller relies on, since a listing that lacks its end reads like one that is complete.

use jiff::Timestamp;
use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::retry::Failure;
use super::super::url::S3Address;
use crate::error::{Error, ErrorKind};

/// What of a foreign message is repeated.
const MESSAGE_CHARS_MAX: usize = 300;

/// An `<Error>`, or what could be made of an answer that should have been one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Complaint {
    pub(super) code: String,
    message: String,
    region: String,
}

impl Complaint {
    pub(super) fn parse(body: &[u8]) -> Complaint {
        read_as(body, "Error").unwrap_or_default()
    }

    /// Whether the code says that it may pass, whatever the status is.
    pub(super) fn passes(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InternalError"
                | "OperationAborted"
                | "RequestTimeout"
                | "ServiceUnavailable"
                | "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "BandwidthLimitExceeded"
        )
    }

    /// Whether the code of an `<Error>` under status 200 says that a repeat is in vain.
    fn lasts(&self) -> bool {
        const IN_VAIN: [&str; 6] =
            ["AccessDenied", "EntityTooSmall", "InvalidPart", "InvalidPartOrder", "InvalidRequest", "NoSuchUpload"];
        IN_VAIN.contains(&self.code.as_str())
    }

    /// The error to tell. `region` is what a header of the answer said about where the bucket is.
    pub(super) fn error(&self, status: u16, region: Option<&str>, address: &S3Address) -> Error {
        let S3Address { bucket, endpoint, region: ours, .. } = address;
        let (kind, what, hint) = match (self.code.as_str(), status) {
            ("NoSuchBucket", _) => (
                ErrorKind::Unavailable,
                format!("there is no bucket `{bucket}` at {endpoint}"),
                "Create it with the store's own tools, or correct the name; coffer never makes a bucket.".to_owned(),
            ),
            ("InvalidAccessKeyId", _) => (
                ErrorKind::Unauthorized,
                format!("{endpoint} does not know the access key"),
                "Check access_key_id under [s3] in the credentials file.".to_owned(),
            ),
            ("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken", _) => (
                ErrorKind::Unauthorized,
                format!("{endpoint} says that the session token is no longer good"),
                "Write a fresh session_token into the credentials file; it is read again at the next try.".to_owned(),
            ),
            (
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IncorrectEndpoint"
                | "IllegalLocationConstraintException" | "AuthorizationQueryParametersError",
                _,
            )
            | (_, 301 | 302 | 307 | 308) => return self.wrong_region(status, region, address),
            ("SignatureDoesNotMatch", _) => (
                ErrorKind::Unauthorized,
                format!("{endpoint} finds the signature wrong"),
                format!(
                    "Check access_key_id and secret_access_key under [s3] in the credentials file, and the region (`{ours}` now)."
                ),
            ),
            ("RequestTimeTooSkewed" | "RequestExpired" | "RequestNotYetValid" | "ExpiredPresignedUrlRequest", _) => (
                ErrorKind::Refused,
                format!("{endpoint} says that this host's clock is too far from its own"),
                "Set the clocks right, with NTP on both hosts.".to_owned(),
            ),
            ("QuotaExceeded" | "ServiceQuotaExceededException" | "XMinioStorageFull", _) | (_, 507) => (
                ErrorKind::NoSpace,
                format!("bucket `{bucket}` at {endpoint} is full"),
                "Raise its quota or delete backups; nothing that is stored was touched.".to_owned(),
            ),
            ("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch", _) => (
                ErrorKind::Corrupt,
                "the store got other bytes than were sent".to_owned(),
                "Look for what changes data on the way; nothing was stored.".to_owned(),
            ),
            ("NoSuchUpload", _) => (
                ErrorKind::Unavailable,
                format!("{endpoint} does not know the upload any more"),
                "It was discarded, or overtaken by another of the same object; try again.".to_owned(),
            ),
            ("NoSuchKey", _) => {
                (ErrorKind::NotFound, "there is no such object".to_owned(), "Check the address.".to_owned())
            }
            ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => (
                ErrorKind::Unsupported,
                format!("{endpoint} does not offer this"),
                "Coffer needs an S3 store with multipart uploads and list version 2.".to_owned(),
            ),
            (_, 401 | 403) => (
                ErrorKind::Forbidden,
                format!("{endpoint} denies access to bucket `{bucket}`"),
                "Check the keys in the credentials file and what they may do: list the bucket, and get, put and delete \
                 objects in it."
                    .to_owned(),
            ),
            (_, 404) => (
                ErrorKind::Unavailable,
                format!("{endpoint} has nothing at `{bucket}`"),
                "Check endpoint and bucket of the address.".to_owned(),
            ),
            ("RequestTimeout" | "OperationAborted", _) | (_, 408 | 425 | 429 | 500..) => (
                ErrorKind::Unavailable,
                format!("{endpoint} is out of order or overloaded (HTTP {status})"),
                "Look at the store's own log.".to_owned(),
            ),
            _ => (
                ErrorKind::InvalidInput,
                format!("{endpoint} refuses the request (HTTP {status})"),
                "Check endpoint, region and bucket of the address.".to_owned(),
            ),
        };
        Error::new(kind, format!("{what}{}", self.quoted())).hint(hint)
    }

    fn wrong_region(&self, status: u16, region: Option<&str>, address: &S3Address) -> Error {
        let right = region.map(str::to_owned).or_else(|| self.region_meant()).filter(|right| *right != address.region);
        let S3Address { bucket, endpoint, region: ours, .. } = address;
        let (what, hint) = match right {
            Some(right) => (
                format!("bucket `{bucket}` is in region `{right}` and not in `{ours}`"),
                format!("Write region={right} into the address."),
            ),
            None if self.code == "AuthorizationQueryParametersError" || status < 400 => (
                format!("{endpoint} wants bucket `{bucket}` to be asked for elsewhere"),
                "Check endpoint and region of the address.".to_owned(),
            ),
            None => (
                format!("`{ours}` is not the region of {endpoint}"),
                "Write the store's own region into the address: region=…".to_owned(),
            ),
        };
        Error::new(ErrorKind::InvalidInput, format!("{what}{}", self.quoted())).hint(hint)
    }

    /// The region, from its own element or from the sentence: AWS says `expecting 'eu-west-1'`, others name the scope
    /// they expect, `20260102/garage/s3/aws4_request`.
    fn region_meant(&self) -> Option<String> {
        let is_name =
            |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if is_name(&self.region.as_str()) {
            return Some(self.region.clone());
        }
        if let Some((_, rest)) = self.message.split_once("expecting '") {
            return rest.split('\'').next().filter(is_name).map(str::to_owned);
        }
        let (_, rest) = self.message.split_once("xpected: ")?;
        rest.split('/').nth(1).filter(is_name).map(str::to_owned)
    }

    fn quoted(&self) -> String {
        let text: String = self.message.trim().chars().take(MESSAGE_CHARS_MAX).collect();
        match (self.code.as_str(), text.trim_end_matches('.')) {
            ("", "") => String::new(),
            (code, "") => format!(" ({})", code.escape_debug()),
            (code, text) => format!(" ({}: {})", code.escape_debug(), text.escape_debug()),
        }
    }
}

/// A page of `ListObjectsV2`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListBucketResult {
    is_truncated: Option<bool>,
    key_count: Option<usize>,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    contents: Vec<Contents>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
}

/// A page that was found to be whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Full keys with their sizes, in ascending order.
    pub(super) objects: Vec<(String, u64)>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

impl Page {
    /// Reads a page that was asked for with `prefix`, behind `after`, of at most `keys_max`. What is not whole or not in
    /// order fails for now: a store that is asked again may do better, and a listing is never believed half.
    pub(super) fn parse(body: &[u8], prefix: &str, after: &str, keys_max: usize) -> Result<Page, Failure> {
        let listed: ListBucketResult = parse(body, "ListBucketResult")?;
        let is_encoded = listed.encoding_type.as_deref() == Some("url");
        let mut objects: Vec<(String, u64)> = Vec::with_capacity(listed.contents.len());
        for Contents { key, size } in listed.contents {
            let key =
                if is_encoded { decode(&key).ok_or_else(|| broken("a key that is not well-formed"))? } else { key };
            let last = objects.last().map_or(after, |(last, _)| last.as_str());
            if key.as_str() <= last && !(last.is_empty() && objects.is_empty()) {
                return Err(broken("keys that are not in order"));
            }
            if !key.starts_with(prefix) {
                return Err(broken("keys that were not asked for"));
            }
            objects.push((key, size));
        }
        if listed.key_count.is_some_and(|count| count != objects.len()) || objects.len() > keys_max {
            return Err(broken("another number of keys than it says"));
        }
        let next = match (listed.is_truncated, listed.next_continuation_token) {
            (Some(false), _) => None,
            (Some(true), Some(token)) if !token.is_empty() => Some(token),
            (Some(true), _) => return Err(broken("an end that says there is more, but not where")),
            (None, _) => return Err(broken("no word on whether that is all")),
        };
        Ok(Page { objects, next })
    }
}

fn broken(what: &str) -> Failure {
    let error = Error::new(ErrorKind::Corrupt, format!("the store's listing has {what}"));
    Failure::passing(error.hint("Look at the store: what it lists cannot be relied upon."))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InitiateMultipartUploadResult {
    upload_id: String,
}

/// The id of the upload that was begun.
pub(super) fn parse_upload_id(body: &[u8]) -> Result<String, Failure> {
    let InitiateMultipartUploadResult { upload_id } = parse(body, "InitiateMultipartUploadResult")?;
    if upload_id.is_empty() {
        return Err(incomprehensible("an upload without an id"));
    }
    Ok(upload_id)
}

#[derive(Debug, Deserialize)]
struct CompleteMultipartUploadResult {}

/// Confirms that an upload was completed: a store may say 200 before it knows.
pub(super) fn confirm_completion(body: &[u8]) -> Result<(), Failure> {
    parse::<CompleteMultipartUploadResult>(body, "CompleteMultipartUploadResult").map(|_| ())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ListMultipartUploadsResult {
    is_truncated: Option<bool>,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    upload: Vec<Upload>,
}

/// An upload that was begun and not ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) initiated: Timestamp,
}

/// A page of uploads.
pub(super) struct Uploads {
    pub(super) uploads: Vec<Upload>,
    /// Behind which key and upload the next page begins.
    pub(super) next: Option<(String, String)>,
}

pub(super) fn parse_uploads(body: &[u8]) -> Result<Uploads, Failure> {
    let listed: ListMultipartUploadsResult = parse(body, "ListMultipartUploadsResult")?;
    let next = listed.next_key_marker.zip(listed.next_upload_id_marker);
    Ok(Uploads { uploads: listed.upload, next: next.filter(|_| listed.is_truncated == Some(true)) })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeleteResult {
    deleted: Vec<Deleted>,
    error: Vec<NotDeleted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NotDeleted {
    key: String,
    code: String,
    message: String,
}

/// Confirms that each of `keys` (full keys) is gone.
pub(super) fn confirm_deletion(body: &[u8], keys: &[String], address: &S3Address) -> Result<(), Failure> {
    let mut result: DeleteResult = parse(body, "DeleteResult")?;
    result.error.retain(|error| error.code != "NoSuchKey");
    if let Some(NotDeleted { key, code, message }) = result.error.first() {
        let complaint = Complaint { code: code.clone(), message: message.clone(), region: String::new() };
        let more = result.error.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let status = if complaint.passes() { 503 } else { 403 };
        let error = complaint.error(status, None, address).context(format_args!("`{}`{more}", key.escape_debug()));
        return Err(if complaint.passes() { Failure::passing(error) } else { Failure::lasting(error) });
    }
    let deleted: std::collections::HashSet<&str> = result.deleted.iter().map(|deleted| deleted.key.as_str()).collect();
    match keys.iter().find(|key| !deleted.contains(key.as_str())) {
        None => Ok(()),
        Some(key) => Err(incomprehensible(&format!("no word on whether `{key}` was deleted"))),
    }
}

/// The body of `DeleteObjects`.
pub(super) fn render_deletion(keys: &[String]) -> String {
    let mut xml = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for key in keys {
        xml.push_str("<Object><Key>");
        xml.push_str(&quick_xml::escape::escape(key.as_str()));
        xml.push_str("</Key></Object>");
    }
    xml.push_str("</Delete>");
    xml
}

/// The body of `CompleteMultipartUpload`; the parts' tags in order.
pub(super) fn render_completion(tags: &[String]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (index, tag) in tags.iter().enumerate() {
        let tag = quick_xml::escape::escape(tag.as_str());
        xml.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", index + 1));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

/// Reads an answer whose root is `root`; an `<Error>` in its place is told as what it says. A store that answers with
/// anything else is in trouble, which may pass.
fn parse<T: DeserializeOwned>(body: &[u8], root: &str) -> Result<T, Failure> {
    if root_of(body).as_deref() == Some("Error") {
        let complaint = Complaint::parse(body);
        let what = format!("the store says 200 and then that it failed{}", complaint.quoted());
        let error = Error::new(ErrorKind::Unavailable, what).hint("Look at the store's own log.");
        return Err(if complaint.lasts() { Failure::lasting(error) } else { Failure::passing(error) });
    }
    read_as(body, root).ok_or_else(|| incomprehensible(&format!("something else than a {root}")))
}

fn incomprehensible(what: &str) -> Failure {
    let error = Error::new(ErrorKind::Corrupt, format!("the store's answer holds {what}"));
    Failure::passing(error.hint("Check that the endpoint of the address is an S3 store, and no page in front of one."))
}

fn read_as<T: DeserializeOwned>(body: &[u8], root: &str) -> Option<T> {
    if root_of(body)? != root {
        return None;
    }
    quick_xml::de::from_str(std::str::from_utf8(body).ok()?.trim()).ok()
}

/// The name of the outermost element, if the bytes begin like XML and end with that element's end.
fn root_of(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let mut reader = quick_xml::Reader::from_str(text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let name = start.local_name();
                let name = std::str::from_utf8(name.as_ref()).ok()?.to_owned();
                // What was cut off at its end is no answer, however well the rest reads.
                return text.ends_with(&format!("{name}>")).then_some(name);
            }
            Event::Empty(start) => return std::str::from_utf8(start.local_name().as_ref()).ok().map(str::to_owned),
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// Undoes `encoding-type=url`, where `+` is a space as in a form.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
