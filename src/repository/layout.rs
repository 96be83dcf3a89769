//! Names of objects. See the module above for what they mean.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::codec::Form;
use crate::domain::chunk::ChunkFacts;
use crate::domain::id::{BackupId, InstanceId, RecoveryId, TimelineId};
use crate::domain::recovery::Recovery;

pub(super) const INSTANCES: &str = "instances/";

/// How much of a digest stands in a name.
const DIGEST_DIGITS: usize = 16;

pub(super) fn instance_prefix(instance: InstanceId) -> String {
    format!("{INSTANCES}{instance}/")
}

pub(super) fn timelines_prefix(instance: InstanceId) -> String {
    format!("{}timelines/", instance_prefix(instance))
}

pub(super) fn timeline(instance: InstanceId, timeline: TimelineId) -> String {
    format!("{}{timeline}.json", timelines_prefix(instance))
}

pub(super) fn settings_prefix(instance: InstanceId) -> String {
    format!("{}settings-", instance_prefix(instance))
}

pub(super) fn settings(instance: InstanceId, created_at: Timestamp, sha256: &str) -> String {
    let created = created_at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    format!("{}{created}-{}.json", settings_prefix(instance), short(sha256))
}

/// When the settings with this key were stored.
pub(super) fn time_of_settings(key: &str, instance: InstanceId) -> Option<Timestamp> {
    let (time, _) = key.strip_prefix(&settings_prefix(instance))?.split_once('-')?;
    time.parse().ok()
}

pub(super) fn recoveries_prefix(instance: InstanceId) -> String {
    format!("{}recoveries/", instance_prefix(instance))
}

/// What the record of a settled recovery is called before its bytes are known; `bytes` is the length of its text.
pub(super) fn recovery_name(recovery: &Recovery, bytes: usize) -> String {
    let time = recovery.updated_at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S%.9fZ").to_string();
    format!("{}{}/{time}-{bytes}", recoveries_prefix(recovery.instance), recovery.id)
}

/// The key of the record of `name`.
pub(super) fn recovery(name: &str, sha256: &str, form: Form) -> String {
    format!("{name}-{}.json.{}", short(sha256), form.suffix())
}

/// Whether the key has the digest of these stored bytes in it.
pub(super) fn is_named_by(key: &str, sha256: &str) -> bool {
    let digest = key.rsplit_once('-').and_then(|(_, end)| end.split_once('.')).map(|(digest, _)| digest);
    digest == Some(short(sha256))
}

/// What the key of a recovery's record says: the recovery, when it changed, and how long its text is.
pub(super) fn recovery_of(key: &str, instance: InstanceId) -> Option<(RecoveryId, Timestamp, usize)> {
    let (id, name) = key.strip_prefix(&recoveries_prefix(instance))?.split_once('/')?;
    let mut fields = name.split('-');
    let (time, bytes) = (fields.next()?, fields.next()?);
    Some((id.parse().ok()?, time.parse().ok()?, bytes.parse().ok()?))
}

pub(super) fn binlog_prefix(instance: InstanceId, timeline: TimelineId) -> String {
    format!("{}{timeline}/", binlogs_prefix(instance))
}

pub(super) fn is_encrypted(key: &str) -> bool {
    key.ends_with(".age")
}

/// What a chunk is called up to its digest.
pub(super) fn chunk_name(facts: &ChunkFacts) -> String {
    let prefix = binlog_prefix(facts.instance, facts.timeline);
    format!("{prefix}{:08}-{:012}-{:012}", facts.ordinal, facts.begin, facts.end)
}

pub(super) fn chunk(facts: &ChunkFacts, form: Form) -> String {
    format!("{}-{}.binlog.{}", chunk_name(facts), short(&facts.sha256), form.suffix())
}

/// Where a chunk lies, read from its key: ordinal and first byte.
pub(super) fn place_of_chunk(key: &str) -> Option<(u32, u64)> {
    let mut fields = key.rsplit('/').next()?.split('.').next()?.split('-');
    let place = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    fields.nth(1).map(|_| place)
}

pub(super) fn binlogs_prefix(instance: InstanceId) -> String {
    format!("{}binlog/", instance_prefix(instance))
}

pub(super) fn backups_prefix(instance: InstanceId) -> String {
    format!("{}backups/", instance_prefix(instance))
}

pub(super) fn backup_prefix(instance: InstanceId, backup: BackupId) -> String {
    format!("{}{backup}/", backups_prefix(instance))
}

pub(super) fn manifest(instance: InstanceId, backup: BackupId) -> String {
    format!("{}manifest.json", backup_prefix(instance, backup))
}

/// What a part is called before its bytes are known. Numbers grow along the stream.
pub(super) fn part_name(instance: InstanceId, backup: BackupId, number: u32) -> String {
    format!("{}part-{number:08}", backup_prefix(instance, backup))
}

/// The key of the part of `name`.
pub(super) fn part(name: &str, sha256: &str, form: Form) -> String {
    format!("{name}-{}.{}", short(sha256), form.suffix())
}

/// The number of the part with this key, if it is one of this backup, with this digest and in this form.
pub(super) fn number_of_part(
    instance: InstanceId,
    backup: BackupId,
    key: &str,
    sha256: &str,
    form: Form,
) -> Option<u32> {
    let name = key.strip_prefix(&backup_prefix(instance, backup))?.strip_prefix("part-")?;
    let (number, _) = name.split_once('-')?;
    let number = number.bytes().all(|digit| digit.is_ascii_digit()).then(|| number.parse().ok()).flatten()?;
    (key == part(name_of_part(key), sha256, form)).then_some(number)
}

/// The name of the part or record with this key, see `part_name` and `recovery_name`.
pub(super) fn name_of_part(key: &str) -> &str {
    key.rsplit_once('-').map_or(key, |(name, _)| name)
}

/// A key greater than all that begin with `prefix` (which ends in `/`) and less than all other greater ones.
pub(super) fn behind(prefix: &str) -> String {
    // `0` is the byte after `/`.
    format!("{}0", prefix.trim_end_matches('/'))
}

/// What stands between `prefix` and the next `/` of `key`.
pub(super) fn segment<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.split_once('/').map(|(segment, _)| segment)
}

fn short(sha256: &str) -> &str {
    sha256.get(..DIGEST_DIGITS).unwrap_or(sha256)
}
