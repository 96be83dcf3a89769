//! Listing, page by page, and the sweep of uploads that nobody will end.

use jiff::{SignedDuration, Timestamp};
use rusty_s3::Method;

use super::super::StoredObject;
use super::answer::{self, Page, Uploads};
use super::{Ask, S3Store};
use crate::error::{Error, ErrorKind};
use crate::logging;

/// What a page holds at most, by the protocol.
const PAGE_KEYS_MAX: usize = 1000;
/// An upload this old belongs to nobody who is still at it.
const ABANDONED_AGE_MIN: SignedDuration = SignedDuration::from_hours(24);
/// Pages of uploads that one sweep looks at; the next one goes on.
const SWEEP_PAGES_MAX: usize = 20;

impl S3Store {
    pub(super) fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredObject>, Error> {
        let own = &self.address.prefix;
        let full_prefix = format!("{own}{prefix}");
        let mut last = after.map(|after| format!("{own}{after}")).unwrap_or_default();
        let start_after = last.clone();
        let mut token: Option<String> = None;
        let mut listed: Vec<StoredObject> = Vec::new();
        while listed.len() < limit {
            let keys_max = (limit - listed.len()).min(self.parts.page_keys_max.min(PAGE_KEYS_MAX));
            let page = self.request("listing objects", |store| {
                let keys_max_text = keys_max.to_string();
                let mut query = vec![
                    ("encoding-type", "url"),
                    ("list-type", "2"),
                    ("max-keys", keys_max_text.as_str()),
                    ("prefix", full_prefix.as_str()),
                ];
                match &token {
                    Some(token) => query.push(("continuation-token", token.as_str())),
                    None if !start_after.is_empty() => query.push(("start-after", start_after.as_str())),
                    None => {}
                }
                let body = store.send(&Ask::new(Method::Get, None).query(&query))?.small_body()?;
                Page::parse(&body, &full_prefix, &last, keys_max)
            })?;
            for (key, bytes) in page.objects {
                let shown = key.get(own.len()..).unwrap_or_default().to_owned();
                last = key;
                listed.push(StoredObject { key: shown, bytes });
            }
            match page.next {
                None => break,
                // A store that leads around in a circle would be asked for ever.
                next if next == token => {
                    let what = "the store's listing leads back to where it was";
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
                next => token = next,
            }
        }
        Ok(listed)
    }

    /// Ends uploads below our prefix that were begun more than a day before `now`, and returns how many. Their parts are
    /// in no listing, but they are paid for.
    pub(super) fn abort_abandoned(&self, now: Timestamp) -> Result<usize, Error> {
        let mut markers: Option<(String, String)> = None;
        let mut aborted = 0;
        for _ in 0..SWEEP_PAGES_MAX {
            let Uploads { uploads, next } = self.request("listing uploads", |store| {
                let mut query = vec![("prefix", store.address.prefix.as_str()), ("uploads", "")];
                if let Some((key, id)) = &markers {
                    query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
                }
                let body = store.send(&Ask::new(Method::Get, None).query(&query))?.small_body()?;
                answer::parse_uploads(&body)
            })?;
            for upload in uploads {
                // Only what is surely ours: below the prefix, under a name we would give.
                let Some(key) = upload.key.strip_prefix(&self.address.prefix) else { continue };
                if super::check_key(key).is_err() || now.duration_since(upload.initiated) < ABANDONED_AGE_MIN {
                    continue;
                }
                self.abort(key, &upload.upload_id)?;
                logging::info("storage", format_args!("an upload of `{key}` that was never finished is discarded"));
                aborted += 1;
            }
            match next {
                None => break,
                next if next == markers => break,
                next => markers = next,
            }
        }
        Ok(aborted)
    }
}
