//! Pages of a container's listing. Nothing here touches the network.

use jiff::Timestamp;
use serde::Deserialize;

use super::super::StoredObject;
use crate::error::{Error, ErrorKind};

/// Where the segments of large objects lie, below the prefix. No key has a segment that begins with a dot.
pub(super) const SEGMENTS: &str = ".segments/";

/// An object of a container, by its whole name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified: Option<Timestamp>,
}

#[derive(Deserialize)]
struct RawEntry {
    name: String,
    bytes: u64,
    /// UTC without saying so.
    last_modified: Option<String>,
}

/// Reads a page that was asked for with `prefix` and `marker`. Names that were not asked for or stand in no order are an
/// error: a reader that went on from such a page would leave objects out in silence.
pub(super) fn parse_page(body: &[u8], prefix: &str, marker: &str) -> Result<Vec<Entry>, Error> {
    let bad = |what: String| {
        Error::new(ErrorKind::Corrupt, format!("the store's listing is wrong: {what}"))
            .hint("Nothing was changed. Look whether something between coffer and the store alters its answers.")
    };
    let raw: Vec<RawEntry> =
        serde_json::from_slice(body).map_err(|err| bad("it is not what was asked for".to_owned()).with_source(err))?;
    let mut before = marker;
    for entry in &raw {
        let name = entry.name.as_str();
        if !name.starts_with(prefix) {
            return Err(bad(format!("`{}` does not begin with `{prefix}`", name.escape_debug())));
        }
        if name <= before {
            return Err(bad(format!("`{}` comes behind `{}`", name.escape_debug(), before.escape_debug())));
        }
        before = name;
    }
    Ok(raw.into_iter().map(Entry::from).collect())
}

impl From<RawEntry> for Entry {
    fn from(raw: RawEntry) -> Entry {
        let modified = raw.last_modified.and_then(|text| {
            let text = text.trim_end_matches('Z');
            text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()
        });
        Entry { name: raw.name, bytes: raw.bytes, modified: modified.map(|zoned| zoned.timestamp()) }
    }
}

/// The object behind an entry, when it is one: what is hidden is no content, nor are the empty objects that end in `/`,
/// which tools make as folders.
pub(super) fn object_of(entry: Entry, prefix: &str) -> Option<StoredObject> {
    let key = entry.name.strip_prefix(prefix)?;
    let hidden = key.is_empty() || key.ends_with('/') || key.split('/').any(|segment| segment.starts_with('.'));
    (!hidden).then(|| StoredObject { key: key.to_owned(), bytes: entry.bytes })
}

/// The marker behind a page whose last name is `last`: all segments are passed over at once.
pub(super) fn marker_behind(last: &str, prefix: &str) -> String {
    match last.strip_prefix(prefix) {
        // `0` is the next byte after `/`, and the shorter name is no key.
        Some(rest) if rest.starts_with(SEGMENTS) => format!("{prefix}.segments0"),
        _ => last.to_owned(),
    }
}

/// What a segment's name says: whose it is, and of which upload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) id: String,
}

impl Upload {
    /// Of a name below `prefix`; `None` when it is no segment's.
    pub(super) fn of(name: &str, prefix: &str) -> Option<Upload> {
        let rest = name.strip_prefix(prefix)?.strip_prefix(SEGMENTS)?;
        let (rest, number) = rest.rsplit_once('/')?;
        let (key, id) = rest.rsplit_once('/')?;
        let whole = !key.is_empty() && !id.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        whole.then(|| Upload { key: key.to_owned(), id: id.to_owned() })
    }

    /// The name of its segment `number`, below `prefix`.
    pub(super) fn segment(&self, prefix: &str, number: usize) -> String {
        format!("{prefix}{SEGMENTS}{}/{}/{number:06}", self.key, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let body = br#"[{"bytes": 30, "hash": "4e", "name": "p/big", "content_type": "application/octet-stream",
            "last_modified": "2026-11-21T13:13:30.302240", "slo_etag": "\"13\""}, {"name": "p/c", "bytes": 0}]"#;
        let entries = parse_page(body, "p/", "p/a").unwrap();
        assert_eq!(
            entries[0],
            Entry {
                name: "p/big".to_owned(),
                bytes: 30,
                modified: Some("2026-11-21T13:13:30.302240Z".parse().unwrap())
            }
        );
        assert_eq!((entries[1].name.as_str(), entries[1].modified), ("p/c", None));
        assert!(parse_page(b"[]", "", "").unwrap().is_empty());
    }

    #[test]
    fn a_page_that_would_hide_objects_is_refused() {
        let page = |names: &[&str]| {
            let entries: Vec<String> = names.iter().map(|name| format!(r#"{{"name":"{name}","bytes":1}}"#)).collect();
            format!("[{}]", entries.join(",")).into_bytes()
        };
        for names in [&["p/b", "p/a"][..], &["p/b", "p/b"], &["q/a"], &["p/0"], &["p/1"]] {
            assert_eq!(parse_page(&page(names), "p/", "p/1").unwrap_err().kind(), ErrorKind::Corrupt, "{names:?}");
        }
        let cut = &page(&["p/2", "p/3"])[..20];
        for body in [cut, b"", b"<html>", b"{}", br#"[{"subdir":"p/"}]"#] {
            assert_eq!(parse_page(body, "p/", "p/1").unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn what_is_hidden_is_not_listed() {
        let shown = |name: &str| {
            let entry = Entry { name: name.to_owned(), bytes: 1, modified: None };
            object_of(entry, "p/").map(|object| object.key)
        };
        assert_eq!(shown("p/a/b.zst").as_deref(), Some("a/b.zst"));
        assert_eq!(shown("p/not a key").as_deref(), Some("not a key"));
        for hidden in ["p/.segments/a/u/000000", "p/", "p/folder/", "p/.hidden", "p/a/.b/c", "q/a"] {
            assert_eq!(shown(hidden), None, "{hidden}");
        }
        assert_eq!(marker_behind("p/a", "p/"), "p/a");
        let behind = marker_behind("p/.segments/a/u/000000", "p/");
        assert!(behind.as_str() > "p/.segments/\u{10ffff}" && behind.as_str() < "p/0", "{behind}");
    }

    #[test]
    fn a_segment_tells_whose_it_is() {
        let upload = Upload { key: "a/b.zst".to_owned(), id: "0f".to_owned() };
        let name = upload.segment("p/", 12);
        assert_eq!(name, "p/.segments/a/b.zst/0f/000012");
        assert_eq!(Upload::of(&name, "p/"), Some(upload));
        for other in ["p/a/b/1", "p/.segments/a/1", "p/.segments/a/u/x", ".segments/a/u/1"] {
            assert_eq!(Upload::of(other, "p/"), None, "{other}");
        }
    }
}
