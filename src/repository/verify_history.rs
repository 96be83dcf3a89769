//! The small objects beside backups and binlog, proven, and whether the repository is there at all.

use super::history::{TIMELINE_BYTES_MAX, TimelineObject};
use super::{Repository, layout, read_marker, sealed};
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};

impl Repository {
    /// Proves that the stored timeline is this one.
    pub(crate) fn verify_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        let key = self.timeline_key(timeline);
        let stored: TimelineObject = sealed::parse(self.fetch(&key, TIMELINE_BYTES_MAX)?, &self.location(&key))?;
        if stored.timeline != *timeline {
            return Err(self.corrupt(&key, "another timeline lies in its place"));
        }
        Ok(())
    }

    /// Fails with `Unavailable` unless this is still the repository that was opened: what is missing in another one, or
    /// in a folder whose disk is not mounted, is not lost.
    pub(crate) fn verify_presence(&self) -> Result<(), Error> {
        match read_marker(self.store.as_ref())? {
            Some(marker) if marker.id == self.id => Ok(()),
            Some(_) | None => {
                Err(Error::new(ErrorKind::Unavailable, format!("`{}` is not the repository it was", self.url()))
                    .hint("Look whether its disk is mounted, and where its address leads now."))
            }
        }
    }

    /// The key of a backup's manifest.
    pub(crate) fn manifest_key(&self, instance: InstanceId, backup: BackupId) -> String {
        layout::manifest(instance, backup)
    }

    /// The key of a timeline.
    pub(crate) fn timeline_key(&self, timeline: &Timeline) -> String {
        layout::timeline(timeline.instance, timeline.id)
    }

    /// What the keys of an instance's settings begin with.
    pub(crate) fn settings_prefix(&self, instance: InstanceId) -> String {
        layout::settings_prefix(instance)
    }

    /// The keys of all settings of an instance that are stored, the newest last.
    pub(crate) fn settings_keys(&self, instance: InstanceId) -> Result<Vec<String>, Error> {
        self.keys(&layout::settings_prefix(instance))
    }
}
