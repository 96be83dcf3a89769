//! What else is known of an instance: that it exists, its timelines, its settings.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FORMAT, Repository, layout, sealed, sha256_hex, to_json};
use crate::clock;
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};
use crate::storage::Body;

pub(super) const TIMELINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
pub(super) const SETTINGS_BYTES_MAX: u64 = 16 * 1024 * 1024;
const LIST_PAGE: usize = 1000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimelineObject {
    format: u32,
    pub(super) timeline: Timeline,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettingsObject {
    format: u32,
    pub(super) created_at: Timestamp,
    pub(super) settings: Value,
}

impl Repository {
    /// Stores a timeline; the same one again is fine, another with its id a `Conflict`.
    pub(crate) fn put_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        let key = layout::timeline(timeline.instance, timeline.id);
        let text = sealed::render(&TimelineObject { format: FORMAT, timeline: timeline.clone() })?;
        self.store.put(&key, Body::Bytes(&text))?;
        if self.fetch(&key, TIMELINE_BYTES_MAX)? != text {
            return Err(self.corrupt(&key, "it reads back different"));
        }
        Ok(())
    }

    /// All keys that begin with `prefix`, for prefixes under which there are few.
    pub(super) fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let page = self.store.list(prefix, keys.last().map(String::as_str), LIST_PAGE)?;
            let is_last = page.len() < LIST_PAGE;
            keys.extend(page.into_iter().map(|object| object.key));
            if is_last {
                return Ok(keys);
            }
        }
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "for rebuilding the catalog from the repository alone"))]
impl Repository {
    /// The instance's timelines by number. One that cannot be read fails the call: a history with a hole is none.
    pub(crate) fn timelines(&self, instance: InstanceId) -> Result<Vec<Timeline>, Error> {
        let prefix = layout::timelines_prefix(instance);
        let mut timelines = Vec::new();
        for key in self.keys(&prefix)? {
            let id = key.strip_prefix(&prefix).and_then(|name| name.strip_suffix(".json"));
            let Some(id) = id.and_then(|id| id.parse::<TimelineId>().ok()) else { continue };
            let text = self.fetch(&key, TIMELINE_BYTES_MAX)?;
            let TimelineObject { timeline, .. } = sealed::parse(text, &self.location(&key))?;
            if (timeline.id, timeline.instance) != (id, instance) {
                return Err(self.corrupt(&key, "another timeline lies in its place"));
            }
            timelines.push(timeline);
        }
        timelines.sort_by_key(|timeline| timeline.number);
        Ok(timelines)
    }

    /// Stores the instance's settings, unless the newest stored ones are the same.
    pub(crate) fn put_settings(&self, instance: InstanceId, settings: &Value) -> Result<(), Error> {
        match self.settings(instance) {
            Ok(stored) if stored.as_ref() == Some(settings) => return Ok(()),
            Ok(_) => {}
            // Damaged ones are best answered by good ones.
            Err(err) if matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {}
            Err(err) => return Err(err),
        }
        let created_at = clock::now();
        let key = layout::settings(instance, created_at, &sha256_hex(&to_json(settings)?));
        let text = sealed::render(&SettingsObject { format: FORMAT, created_at, settings: settings.clone() })?;
        self.store.put(&key, Body::Bytes(&text))
    }

    /// The newest settings, if there are any.
    pub(crate) fn settings(&self, instance: InstanceId) -> Result<Option<Value>, Error> {
        let Some(key) = self.keys(&layout::settings_prefix(instance))?.pop() else { return Ok(None) };
        let object: SettingsObject = sealed::parse(self.fetch(&key, SETTINGS_BYTES_MAX)?, &self.location(&key))?;
        let expected = layout::settings(instance, object.created_at, &sha256_hex(&to_json(&object.settings)?));
        if expected != key {
            return Err(self.corrupt(&key, "other settings lie in its place"));
        }
        Ok(Some(object.settings))
    }

    /// Every instance the repository knows.
    pub(crate) fn instances(&self) -> Result<Vec<InstanceId>, Error> {
        let names = self.folders(layout::INSTANCES)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What stands right behind `prefix` (which ends in `/`) with a `/` behind itself; what lies below is jumped over.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut folders = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(prefix, after.as_deref(), 1)?;
            let Some(object) = page.into_iter().next() else { return Ok(folders) };
            if after.as_ref().is_some_and(|after| object.key <= *after) {
                return Err(Error::new(ErrorKind::Io, format!("`{}` lists its objects out of order", self.url())));
            }
            match layout::segment(&object.key, prefix) {
                Some(folder) => {
                    after = Some(layout::behind(&format!("{prefix}{folder}/")));
                    folders.push(folder.to_owned());
                }
                None => after = Some(object.key),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gtid::BinlogState;
    use crate::domain::timeline::Origin;
    use crate::repository::bench::Bench;

    fn timeline(instance: InstanceId, number: u32) -> Timeline {
        Timeline {
            id: TimelineId::random(),
            instance,
            number,
            origin: Origin::Initial,
            branch: None,
            state_at_begin: BinlogState::default(),
            begun_at: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    #[test]
    fn timelines_come_back_in_their_order() {
        let bench = Bench::new();
        let instance = InstanceId::random();
        let timelines: Vec<Timeline> = (1..=5).map(|number| timeline(instance, number)).collect();
        for timeline in timelines.iter().rev() {
            bench.repository.put_timeline(timeline).unwrap();
            bench.repository.put_timeline(timeline).unwrap();
        }
        assert_eq!(bench.repository.timelines(instance).unwrap(), timelines);
        assert!(bench.repository.timelines(InstanceId::random()).unwrap().is_empty());
        let other = Timeline { number: 9, ..timelines[0].clone() };
        assert_eq!(bench.repository.put_timeline(&other).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_damaged_or_swapped_timeline_is_told_by_name() {
        let bench = Bench::new();
        let instance = InstanceId::random();
        let (one, two) = (timeline(instance, 1), timeline(instance, 2));
        bench.repository.put_timeline(&one).unwrap();
        bench.repository.put_timeline(&two).unwrap();
        let (key, other) = (layout::timeline(instance, one.id), layout::timeline(instance, two.id));
        let good = bench.bytes(&key);
        bench.overwrite(&key, &bench.bytes(&other));
        let err = bench.repository.timelines(instance).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
        assert!(err.message().contains(&key), "{err}");
        let newer = String::from_utf8(good).unwrap().replace("\"format\": 1", "\"format\": 2");
        bench.overwrite(&key, newer.as_bytes());
        assert_eq!(bench.repository.timelines(instance).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_newest_settings_count_and_the_same_ones_are_stored_once() {
        let bench = Bench::new();
        let instance = InstanceId::random();
        assert_eq!(bench.repository.settings(instance).unwrap(), None);
        for name in ["a", "a", "b"] {
            let settings = serde_json::json!({ "name": name, "port": 3306 });
            bench.repository.put_settings(instance, &settings).unwrap();
            assert_eq!(bench.repository.settings(instance).unwrap(), Some(settings));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let keys = bench.repository.keys(&layout::settings_prefix(instance)).unwrap();
        assert_eq!(keys.len(), 2);
        bench.overwrite(&keys[1], b"{\"format\": 1}");
        assert_eq!(bench.repository.settings(instance).unwrap_err().kind(), ErrorKind::Corrupt);
        bench.repository.put_settings(instance, &serde_json::json!({ "name": "c" })).unwrap();
        assert_eq!(bench.repository.settings(instance).unwrap(), Some(serde_json::json!({ "name": "c" })));
    }

    #[test]
    fn instances_are_found_without_reading_what_lies_below_them() {
        let bench = Bench::new();
        let mut instances: Vec<InstanceId> = (0..4).map(|_| InstanceId::random()).collect();
        for instance in &instances {
            for number in 1..=3 {
                bench.repository.put_timeline(&timeline(*instance, number)).unwrap();
            }
            bench.repository.put_settings(*instance, &serde_json::json!({})).unwrap();
        }
        instances.sort_unstable();
        assert_eq!(bench.repository.instances().unwrap(), instances);
    }
}
