//! Large objects: static large objects of Swift, which are a manifest and segments.
//!
//! Segments lie below `.segments/KEY/UPLOAD/` in the same container, where no key can be and listings do not look; every
//! upload has a name of its own, so two of them cannot mix. The manifest is put last and is the object: before it there is
//! none, and it is removed first, so there is never an object whose segments are going. What a killed upload or removal
//! leaves is swept later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::http::{Method, Payload};
use super::super::retry::{self, Failure, Policy};
use super::container::{Container, SHA256, UPLOAD};
use super::content::{Content, Piece, md5_hex};
use super::listing::{SEGMENTS, Upload};
use super::{Outcome, answers};
use crate::error::{Error, ErrorKind};
use crate::logging;

/// Segments of one object in flight at once.
const SEGMENTS_IN_FLIGHT: usize = 4;
/// Segments without a manifest that are older belong to an upload that is dead.
pub(super) const ABANDONED_AGE_MIN: SignedDuration = SignedDuration::from_hours(24);

/// When an object is put in segments, and of which size.
#[derive(Debug, Clone, Copy)]
pub(super) struct LargeSizes {
    /// A file of more bytes than this is cut.
    pub(super) above_bytes: u64,
    /// A segment's size, unless the file would have too many of them.
    pub(super) segment_bytes: u64,
}

impl LargeSizes {
    pub(super) const USUAL: LargeSizes = LargeSizes { above_bytes: 64 << 20, segment_bytes: 32 << 20 };

    /// The size of the segments of an object of `bytes`, of which there may be `segments_max`.
    pub(super) fn segment_bytes(&self, bytes: u64, segments_max: u64) -> u64 {
        self.segment_bytes.max(bytes.div_ceil(segments_max.max(1)))
    }
}

/// Stores `content`, whose pieces become the segments. `Exists` when somebody else's manifest is there.
pub(super) fn put(container: &Container, key: &str, content: &Content<'_>) -> Result<Outcome, Error> {
    let upload = Upload { key: key.to_owned(), id: uuid::Uuid::new_v4().simple().to_string() };
    let names: Vec<String> =
        (0..content.pieces.len()).map(|number| upload.segment(&container.address.prefix, number)).collect();
    if let Err(err) = put_segments(container, &names, content) {
        remove_segments(container, &names);
        return Err(err);
    }
    let outcome = put_manifest(container, key, &upload, &names, content);
    match &outcome {
        Ok(Outcome::Stored) => {}
        // The manifest may have arrived, or may be about to: what it would be made of stays. The sweep decides tomorrow.
        Err(err) if err.kind() == ErrorKind::Unavailable => {}
        Ok(Outcome::Exists) | Err(_) => remove_segments(container, &names),
    }
    outcome
}

fn put_segments(container: &Container, names: &[String], content: &Content<'_>) -> Result<(), Error> {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        while !stopped.load(Ordering::SeqCst) {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let (Some(name), Some(piece)) = (names.get(number), content.pieces.get(number)) else { return };
            if let Err(err) = put_segment(container, name, piece, content) {
                stopped.store(true, Ordering::SeqCst);
                // The first failure tells most; those after it are often only its echo.
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 1..SEGMENTS_IN_FLIGHT.min(names.len()) {
            let thread = std::thread::Builder::new().name(format!("segment-{number}"));
            // With fewer threads it takes longer, no more.
            let _ = thread.spawn_scoped(scope, work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(err) => Err(err),
        None => Ok(()),
    }
}

fn put_segment(container: &Container, name: &str, piece: &Piece, content: &Content<'_>) -> Result<(), Error> {
    let doing = format!("storing the segment `{name}`");
    container.run(&doing, || {
        let headers = [("etag", piece.md5.as_str()), ("content-type", "application/octet-stream")];
        let answer = container.send(Method::PUT, &container.path(name), &headers, content.piece(piece))?;
        // 202: an attempt before this one has arrived after all. The manifest is checked against what is there.
        if !answer.is_success() {
            return Err(container.refusal(answer));
        }
        answer.small_body()?;
        Ok(())
    })
}

fn put_manifest(
    container: &Container,
    key: &str,
    upload: &Upload,
    names: &[String],
    content: &Content<'_>,
) -> Result<Outcome, Error> {
    let segments = names.iter().zip(&content.pieces).map(|(name, piece)| {
        let path = format!("/{}/{name}", container.address.container);
        json!({"path": path, "etag": piece.md5, "size_bytes": piece.bytes})
    });
    let manifest = Value::Array(segments.collect()).to_string();
    // The ETag of a large object is the MD5 of those of its segments.
    let etag = md5_hex(content.pieces.iter().map(|piece| piece.md5.as_str()).collect::<String>().as_bytes());
    let name = container.name(key);
    let path = format!("{}?multipart-manifest=put", container.path(&name));
    let doing = format!("storing the manifest of `{name}`");
    container.run(&doing, || {
        let headers = [
            ("etag", etag.as_str()),
            ("if-none-match", "*"),
            ("content-type", "application/octet-stream"),
            ("accept", "application/json"),
            (SHA256, content.sha256.as_str()),
            (UPLOAD, upload.id.as_str()),
        ];
        let answer = container.send(Method::PUT, &path, &headers, Payload::Bytes(manifest.as_bytes()))?;
        match answer.status() {
            201 => {
                answer.small_body()?;
                Ok(Outcome::Stored)
            }
            202 | 409 | 412 => {
                answer.small_body()?;
                match container.head(&name)? {
                    // An attempt before this one, whose answer was lost.
                    Some(head) if head.upload.as_ref() == Some(&upload.id) => Ok(Outcome::Stored),
                    Some(_) => Ok(Outcome::Exists),
                    None => Err(Failure::passing(Error::new(
                        ErrorKind::Unavailable,
                        "the store says that it exists, and does not have it",
                    ))),
                }
            }
            400 => Err(bad_manifest(&answer.small_body()?)),
            _ => Err(container.refusal(answer)),
        }
    })
}

/// The store looked at every segment before it took the manifest, and did not like one.
fn bad_manifest(body: &[u8]) -> Failure {
    let errors = answers::inner_errors(body).map(|inner| inner.errors).unwrap_or_default();
    let told = errors.iter().take(3).map(|(name, status)| format!("{name}: {status}")).collect::<Vec<_>>().join(", ");
    let error = Error::new(ErrorKind::Corrupt, format!("the store refuses its segments ({told})"))
        .hint("Nothing was stored. Look whether something else writes below .segments/ in the container.");
    // A segment that is not seen yet on the disk that was asked may be seen a moment later.
    let passes = !errors.is_empty() && errors.iter().all(|(_, status)| status.starts_with("404"));
    if passes { Failure::passing(error) } else { Failure::lasting(error) }
}

/// Removes segments that no manifest needs. Best effort: what stays only takes space until the sweep.
pub(super) fn remove_segments(container: &Container, names: &[String]) {
    for name in names {
        if let Err(err) = retry::run(Policy::BRIEF, "removing a segment", || container.remove(name)) {
            // Were the store down, each of them would wait as long again.
            logging::warn("storage", format_args!("segments of a large object are left for the sweep: {err}"));
            return;
        }
    }
}

/// Removes the large object `name` and then its segments.
pub(super) fn remove(container: &Container, name: &str) -> Result<(), Failure> {
    let segments = segments_of(container, name)?;
    container.remove(name)?;
    remove_segments(container, &segments);
    Ok(())
}

/// The segments that the manifest of `name` names, as far as they are ours; none when there is no manifest.
fn segments_of(container: &Container, name: &str) -> Result<Vec<String>, Failure> {
    let path = format!("{}?multipart-manifest=get", container.path(name));
    let answer = container.send(Method::GET, &path, &[], Payload::None)?;
    if answer.status() == 404 || (answer.is_success() && answer.header("x-static-large-object").is_none()) {
        return Ok(Vec::new());
    }
    if !answer.is_success() {
        return Err(container.refusal(answer));
    }
    let manifest: Value = serde_json::from_slice(&answer.small_body()?).unwrap_or_default();
    let ours = format!("/{}/{}{SEGMENTS}", container.address.container, container.address.prefix);
    let own_container = format!("/{}/", container.address.container);
    let names = manifest.as_array().into_iter().flatten().filter_map(|segment| segment.get("name")?.as_str());
    Ok(names
        .filter(|name| name.starts_with(&ours))
        .filter_map(|name| Some(name.strip_prefix(&own_container)?.to_owned()))
        .collect())
}

/// Removes segments that belong to no object and are older than `age_min` by the store's own clock. Returns how many.
pub(super) fn sweep(container: &Container, age_min: SignedDuration) -> Result<usize, Error> {
    let looking = "looking for abandoned segments";
    let Some(now) = container.run(looking, || container.confirm())? else { return Ok(0) };
    let mut uploads: BTreeMap<Upload, (Timestamp, Vec<String>)> = BTreeMap::new();
    let prefix = container.name(SEGMENTS);
    let mut marker = String::new();
    loop {
        let page = container.run(looking, || container.page(&prefix, &marker, usize::MAX))?;
        let Some(last) = page.last() else { break };
        marker.clone_from(&last.name);
        for entry in page {
            let upload = Upload::of(&entry.name, &container.address.prefix);
            let (Some(upload), Some(modified)) = (upload, entry.modified) else { continue };
            let (newest, names) = uploads.entry(upload).or_insert((modified, Vec::new()));
            *newest = (*newest).max(modified);
            names.push(entry.name);
        }
    }
    let mut removed = 0;
    for (upload, (newest, names)) in uploads {
        if now.duration_since(newest) < age_min {
            continue;
        }
        let name = container.name(&upload.key);
        let used = container.run(looking, || segments_of(container, &name))?;
        if used.iter().any(|segment| Upload::of(segment, &container.address.prefix).as_ref() == Some(&upload)) {
            continue;
        }
        for name in &names {
            container.run("removing an abandoned segment", || container.remove(name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The keys below `prefix` that have segments.
pub(super) fn keys_with_segments(container: &Container, prefix: &str) -> Result<Vec<String>, Error> {
    let below = container.name(&format!("{SEGMENTS}{prefix}"));
    let (mut keys, mut marker) = (Vec::new(), String::new());
    loop {
        let looking = "looking for large objects";
        let page = container.run(looking, || container.page(&below, &marker, usize::MAX))?;
        let Some(last) = page.last() else { return Ok(keys) };
        marker.clone_from(&last.name);
        for entry in &page {
            if let Some(upload) = Upload::of(&entry.name, &container.address.prefix)
                && keys.last() != Some(&upload.key)
            {
                keys.push(upload.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_object_never_has_too_many_segments() {
        let sizes = LargeSizes::USUAL;
        assert_eq!(sizes.segment_bytes(100 << 20, 1000), 32 << 20);
        let bytes = (1 << 40) + 1;
        let segment = sizes.segment_bytes(bytes, 1000);
        assert!(bytes.div_ceil(segment) <= 1000 && segment < 5 << 30, "{segment}");
        assert_eq!(sizes.segment_bytes(1, 0), 32 << 20);
    }

    #[test]
    fn a_segment_that_is_not_there_yet_is_waited_for() {
        let failure = |body: &str| bad_manifest(body.as_bytes());
        assert_ne!(failure(r#"{"Errors": [["/c/s", "404 Not Found"]]}"#).again, retry::Again::Never);
        let bad = failure(r#"{"Errors": [["/c/r", "Etag Mismatch"], ["/c/s", "404 Not Found"]]}"#);
        assert_eq!((bad.again, bad.error.kind()), (retry::Again::Never, ErrorKind::Corrupt));
        assert!(bad.error.message().contains("/c/r: Etag Mismatch"));
        assert_eq!(failure("").again, retry::Again::Never);
    }
}
