//! What else is known of an instance: that it exists, its timelines, its settings.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FORMAT, Repository, layout, sealed, sha256_hex, to_json};
use crate::clock;
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::instance::InstanceSettings;
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};
use crate::storage::{Body, StoredObject};

pub(super) const TIMELINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const SETTINGS_BYTES_MAX: u64 = 16 * 1024 * 1024;
const LIST_PAGE: usize = 1000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimelineObject {
    format: u32,
    pub(super) timeline: Timeline,
}

/// The settings stay JSON until their digest is compared: it is that of what was written, not of what is understood.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsObject {
    format: u32,
    created_at: Timestamp,
    settings: Value,
}

/// An instance's settings as far as they can be read.
#[derive(Debug)]
pub(crate) struct FoundSettings {
    /// The newest readable ones, if there are any.
    pub(crate) settings: Option<InstanceSettings>,
    /// Why newer ones than these cannot be read.
    pub(crate) damaged: Vec<Error>,
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

    /// The timelines of an instance that are stored, readable or not.
    pub(crate) fn timeline_ids(&self, instance: InstanceId) -> Result<Vec<TimelineId>, Error> {
        let prefix = layout::timelines_prefix(instance);
        let names = self.keys(&prefix)?;
        let id = |key: &String| key.strip_prefix(&prefix)?.strip_suffix(".json")?.parse().ok();
        Ok(names.iter().filter_map(id).collect())
    }

    /// The timelines of an instance under which binlog lies, whether they are stored themselves or not.
    pub(crate) fn binlog_timelines(&self, instance: InstanceId) -> Result<Vec<TimelineId>, Error> {
        let names = self.folders(&layout::binlogs_prefix(instance))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn timeline(&self, instance: InstanceId, id: TimelineId) -> Result<Timeline, Error> {
        let key = layout::timeline(instance, id);
        let text = self.fetch(&key, TIMELINE_BYTES_MAX)?;
        let TimelineObject { timeline, .. } = sealed::parse(text, &self.location(&key))?;
        if (timeline.id, timeline.instance) != (id, instance) {
            return Err(self.corrupt(&key, "another timeline lies in its place"));
        }
        Ok(timeline)
    }

    /// Stores the instance's settings, unless the newest stored ones are the same. Damaged ones are best answered by
    /// good ones.
    pub(crate) fn put_settings(&self, settings: &InstanceSettings) -> Result<(), Error> {
        let instance = settings.instance;
        let found = self.settings(instance)?;
        if found.damaged.is_empty() && found.settings.as_ref() == Some(settings) {
            return Ok(());
        }
        let value = serde_json::to_value(settings)
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to write JSON").with_source(err))?;
        let created_at = self.time_for_settings(instance)?;
        let key = layout::settings(instance, created_at, &sha256_hex(&to_json(&value)?));
        let text = sealed::render(&SettingsObject { format: FORMAT, created_at, settings: value })?;
        self.store.put(&key, Body::Bytes(&text))
    }

    /// Now, but behind all that is stored: the last by name count, also when the clock was set back.
    fn time_for_settings(&self, instance: InstanceId) -> Result<Timestamp, Error> {
        let now = clock::now();
        let newest = self.keys(&layout::settings_prefix(instance))?.pop();
        let newest = newest.and_then(|key| layout::time_of_settings(&key, instance));
        let behind = newest.and_then(|newest| newest.checked_add(SignedDuration::from_millis(1)).ok());
        Ok(behind.map_or(now, |behind| behind.max(now)))
    }

    /// The newest settings that can be read.
    pub(crate) fn settings(&self, instance: InstanceId) -> Result<FoundSettings, Error> {
        let mut found = FoundSettings { settings: None, damaged: Vec::new() };
        for key in self.keys(&layout::settings_prefix(instance))?.iter().rev() {
            match self.read_settings(instance, key) {
                Ok(settings) => {
                    found.settings = Some(settings);
                    break;
                }
                Err(err) if matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) => {
                    found.damaged.push(err);
                }
                Err(err) => return Err(err),
            }
        }
        Ok(found)
    }

    /// The settings of this key, proven to be what was stored under it.
    pub(crate) fn read_settings(&self, instance: InstanceId, key: &str) -> Result<InstanceSettings, Error> {
        let object: SettingsObject = sealed::parse(self.fetch(key, SETTINGS_BYTES_MAX)?, &self.location(key))?;
        let expected = layout::settings(instance, object.created_at, &sha256_hex(&to_json(&object.settings)?));
        let settings: InstanceSettings =
            serde_json::from_value(object.settings).map_err(|err| self.corrupt(key, err))?;
        if expected != key || settings.instance != instance {
            return Err(self.corrupt(key, "other settings lie in its place"));
        }
        Ok(settings)
    }

    /// Every instance the repository knows.
    pub(crate) fn instances(&self) -> Result<Vec<InstanceId>, Error> {
        let names = self.folders(layout::INSTANCES)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// All keys that begin with `prefix`, for prefixes under which there are few.
    pub(super) fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.objects(prefix)?.into_iter().map(|object| object.key).collect())
    }

    /// As `keys`, with their sizes.
    pub(super) fn objects(&self, prefix: &str) -> Result<Vec<StoredObject>, Error> {
        let mut objects: Vec<StoredObject> = Vec::new();
        loop {
            let page = self.store.list(prefix, objects.last().map(|object| object.key.as_str()), LIST_PAGE)?;
            let is_last = page.len() < LIST_PAGE;
            objects.extend(page);
            if is_last {
                return Ok(objects);
            }
        }
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
    use crate::domain::datastore::Datastore;
    use crate::domain::gtid::BinlogState;
    use crate::domain::instance::Server;
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

    fn settings(instance: InstanceId, name: &str) -> InstanceSettings {
        InstanceSettings {
            instance,
            name: name.to_owned(),
            datastore: Datastore::Mariadb,
            version: "10.11.6".to_owned(),
            server: Server::created(std::path::Path::new("/srv/x"), instance, 3306).unwrap(),
            options: Some("[mariadbd]\n".to_owned()),
            ship_after: Some((TimelineId::random(), "binlog.000003".to_owned())),
            created_at: Timestamp::from_second(1_700_000_000).unwrap(),
            deleted_at: None,
        }
    }

    #[test]
    fn timelines_come_back_and_another_with_the_same_id_is_refused() {
        let bench = Bench::new();
        let instance = InstanceId::random();
        let timelines: Vec<Timeline> = (1..=5).map(|number| timeline(instance, number)).collect();
        for timeline in timelines.iter().rev() {
            bench.repository.put_timeline(timeline).unwrap();
            bench.repository.put_timeline(timeline).unwrap();
        }
        let ids = bench.repository.timeline_ids(instance).unwrap();
        assert_eq!(ids.len(), 5);
        for timeline in &timelines {
            assert!(ids.contains(&timeline.id));
            assert_eq!(bench.repository.timeline(instance, timeline.id).unwrap(), *timeline);
        }
        assert!(bench.repository.timeline_ids(InstanceId::random()).unwrap().is_empty());
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
        let err = bench.repository.timeline(instance, one.id).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
        assert!(err.message().contains(&key), "{err}");
        let newer = String::from_utf8(good).unwrap().replace("\"format\": 1", "\"format\": 2");
        bench.overwrite(&key, newer.as_bytes());
        assert_eq!(bench.repository.timeline(instance, one.id).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_newest_settings_count_and_the_same_ones_are_stored_once() {
        let bench = Bench::new();
        let instance = InstanceId::random();
        assert_eq!(bench.repository.settings(instance).unwrap().settings, None);
        let all = ["a", "b", "c"].map(|name| settings(instance, name));
        for settings in &all {
            // At once and again: the order is not left to the clock.
            bench.repository.put_settings(settings).unwrap();
            bench.repository.put_settings(settings).unwrap();
            assert_eq!(bench.repository.settings(instance).unwrap().settings.as_ref(), Some(settings));
        }
        let keys = bench.repository.keys(&layout::settings_prefix(instance)).unwrap();
        assert_eq!(keys.len(), 3);
        bench.overwrite(&keys[2], b"{\"format\": 1}");
        let found = bench.repository.settings(instance).unwrap();
        assert_eq!(found.settings.as_ref(), Some(&all[1]), "older ones that can be read are better than none");
        assert!(found.damaged.len() == 1 && found.damaged[0].message().contains(&keys[2]), "{found:?}");
        bench.repository.put_settings(&all[1]).unwrap();
        let found = bench.repository.settings(instance).unwrap();
        assert!(found.damaged.is_empty() && found.settings.as_ref() == Some(&all[1]));
    }

    #[test]
    fn instances_are_found_without_reading_what_lies_below_them() {
        let bench = Bench::new();
        let mut instances: Vec<InstanceId> = (0..4).map(|_| InstanceId::random()).collect();
        for instance in &instances {
            for number in 1..=3 {
                bench.repository.put_timeline(&timeline(*instance, number)).unwrap();
            }
            bench.repository.put_settings(&settings(*instance, "x")).unwrap();
        }
        instances.sort_unstable();
        assert_eq!(bench.repository.instances().unwrap(), instances);
    }
}
