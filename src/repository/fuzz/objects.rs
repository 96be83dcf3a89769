//! The objects that are JSON: manifests, timelines, settings, records of recoveries, the marker.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Shelf, repository, time};
use crate::domain::backup::Strategy;
use crate::domain::compression::Compression;
use crate::domain::datastore::Datastore;
use crate::domain::id::{BackupId, InstanceId};
use crate::domain::instance::{InstanceSettings, Server};
use crate::domain::recovery::Recovery;
use crate::domain::timeline::{Origin, Timeline};
use crate::repository::manifest::{Manifest, Part};
use crate::repository::recoveries::RecoveryRecord;
use crate::repository::{FORMAT, MARKER, Repository, layout, read_marker, sealed, sha256_hex, to_json};
use crate::storage::StoredObject;
use crate::testing::fuzz::{Dice, Target, json, mutate};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Manifest,
    Timeline,
    Settings,
    Recovery,
    Marker,
}

const KINDS: [Kind; 5] = [Kind::Manifest, Kind::Timeline, Kind::Settings, Kind::Recovery, Kind::Marker];

pub(super) struct SmallObjects {
    /// As our own writer makes them, in the order of `KINDS`, without their seals.
    corpus: Vec<Vec<Value>>,
    manifest: Manifest,
    timeline: Timeline,
    recovery: Recovery,
    reader: Repository,
    shelf: Arc<Shelf>,
}

impl SmallObjects {
    pub(super) fn new() -> SmallObjects {
        let (reader, shelf) = repository(Compression::Zstd, false);
        let instance: InstanceId = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        let recovery = recovery();
        let timeline = timeline(instance, &recovery);
        let manifest = manifest(instance, &timeline, &recovery);
        reader.put_manifest(&manifest).unwrap();
        reader.put_timeline(&timeline).unwrap();
        for name in ["a", "b"] {
            reader.put_settings(&instance_settings(instance, &timeline, name)).unwrap();
        }
        let mut corpus = vec![Vec::new(); KINDS.len()];
        for (key, object) in shelf.0.lock().unwrap().iter() {
            let kind = match key {
                key if key == MARKER => Kind::Marker,
                key if key.contains("/timelines/") => Kind::Timeline,
                key if key.contains("/settings-") => Kind::Settings,
                _ => Kind::Manifest,
            };
            corpus[kind as usize].push(unsealed(object));
        }
        let record = sealed::render(&serde_json::json!({"format": FORMAT, "recovery": &recovery})).unwrap();
        corpus[Kind::Recovery as usize].push(unsealed(&record));
        assert!(corpus.iter().all(|kind| !kind.is_empty()));
        SmallObjects { corpus, manifest, timeline, recovery, reader, shelf }
    }
}

fn recovery() -> Recovery {
    let wanted = crate::service::bench::Bench::new();
    let instance = wanted.active("shop").id;
    wanted.completed(instance, "base");
    wanted.begin(instance, false).recovery
}

fn timeline(instance: InstanceId, recovery: &Recovery) -> Timeline {
    let at = recovery.plan.stop.clone();
    let branch = crate::domain::timeline::Branch {
        at,
        position: recovery.plan.position.clone(),
        clock: recovery.plan.stop_clock,
        skipped: vec!["0-11-3".parse().unwrap(), "0-11-4".parse().unwrap()],
    };
    Timeline {
        id: recovery.plan.stop.timeline,
        instance,
        number: 2,
        origin: Origin::Recovery(recovery.id),
        branch: Some(branch),
        state_at_begin: "0-11-200,0-12-300,1-11-5".parse().unwrap(),
        begun_at: time(0),
    }
}

fn manifest(instance: InstanceId, timeline: &Timeline, recovery: &Recovery) -> Manifest {
    let backup: BackupId = "00000000-0000-4000-8000-000000000002".parse().unwrap();
    let form = super::super::codec::Form { compression: Compression::Zstd, encrypted: false };
    let part = |number| {
        let sha256 = sha256_hex(&u32::to_le_bytes(number));
        let key = layout::part(&layout::part_name(instance, backup, number), &sha256, form);
        Part { key, raw_bytes: 8 << 20, stored_bytes: 1 << 20, sha256 }
    };
    Manifest {
        format: FORMAT,
        backup,
        instance,
        timeline: timeline.id,
        name: "nightly".to_owned(),
        description: "a \"description\"\n".to_owned(),
        datastore: Datastore::Mariadb,
        server_version: "10.11.19".to_owned(),
        strategy: Strategy::Mariabackup,
        tool: "mariadb-backup".to_owned(),
        tool_version: "10.11.19".to_owned(),
        compression: "zstd".to_owned(),
        encrypted_to: Vec::new(),
        raw_bytes: 3 * (8 << 20),
        sha256: sha256_hex(b"all"),
        parts: (1..=3).map(part).collect(),
        begin: Some(recovery.plan.stop.clone()),
        end: recovery.plan.base_end.clone(),
        created_at: time(1),
        completed_at: time(2),
    }
}

fn instance_settings(instance: InstanceId, timeline: &Timeline, name: &str) -> InstanceSettings {
    InstanceSettings {
        instance,
        name: name.to_owned(),
        datastore: Datastore::Mariadb,
        version: "10.11.19".to_owned(),
        server: Server::created(std::path::Path::new("/srv/x"), instance, 3306).unwrap(),
        options: Some("[mariadbd]\n".to_owned()),
        ship_after: Some((timeline.id, "binlog.000003".to_owned())),
        created_at: time(0),
        deleted_at: None,
    }
}

fn unsealed(object: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(object).unwrap();
    value.as_object_mut().unwrap().remove("seal");
    value
}

/// As `sealed::render` seals.
fn seal(mut text: Vec<u8>) -> Vec<u8> {
    if !text.ends_with(sealed::BODY_END) {
        text.extend_from_slice(sealed::BODY_END);
    }
    let digest = sha256_hex(&text);
    text.truncate(text.len() - sealed::BODY_END.len());
    [&text, sealed::SEAL_BEFORE, digest.as_bytes(), sealed::SEAL_BEHIND].concat()
}

impl Target for SmallObjects {
    fn name(&self) -> &'static str {
        "object"
    }

    /// The first byte says what it is to be.
    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let kind = dice.below(KINDS.len());
        let mut value = dice.pick(&self.corpus[kind]).clone();
        if !dice.one_in(5) {
            json::change(dice, &mut value);
        }
        if dice.one_in(400) {
            crowd(dice, &mut value);
        }
        let mut text = serde_json::to_vec_pretty(&value).unwrap();
        if dice.one_in(4) {
            mutate::change(dice, &mut text, b"\"seal\": [[[{}]]],\n}");
        }
        let mut text = if dice.one_in(10) { text } else { seal(text) };
        if dice.one_in(10) {
            mutate::change(dice, &mut text, b"}");
        }
        [&[kind as u8][..], &text].concat()
    }

    fn read(&mut self, input: &[u8]) {
        let Some((kind, text)) = input.split_first() else { return };
        let Some(kind) = KINDS.get(usize::from(*kind)) else { return };
        self.shelf.keep_only(MARKER);
        match kind {
            Kind::Manifest => {
                let (instance, backup) = (self.manifest.instance, self.manifest.backup);
                self.shelf.replace(&layout::manifest(instance, backup), text);
                let Ok(manifest) = self.reader.read_manifest(instance, backup) else { return };
                reads_back(&manifest);
                assert!(manifest.stored_bytes() <= manifest.parts.len() as u64 * (9 << 20));
                assert_eq!(manifest.parts.iter().map(|part| part.raw_bytes).sum::<u64>(), manifest.raw_bytes);
                let _ = self.reader.check_opens(&manifest);
            }
            Kind::Timeline => {
                let (instance, id) = (self.timeline.instance, self.timeline.id);
                self.shelf.replace(&layout::timeline(instance, id), text);
                if let Ok(timeline) = self.reader.timeline(instance, id) {
                    reads_back(&timeline);
                }
            }
            Kind::Settings => self.read_settings(text),
            Kind::Recovery => self.read_recovery(text),
            Kind::Marker => {
                let shelf = Shelf::default();
                shelf.replace(MARKER, text);
                let _ = read_marker(&shelf);
            }
        }
    }

    /// JSON that is not known yet as a value in memory: 32 bytes for what two bytes say, twice while it grows.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (2 << 20) + 128 * input_bytes
    }
}

impl SmallObjects {
    fn read_settings(&self, text: &[u8]) {
        let instance = self.manifest.instance;
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let created_at = value["created_at"].as_str().and_then(|time| time.parse().ok()).unwrap_or_else(|| time(0));
        let key = layout::settings(instance, created_at, &sha256_hex(&to_json(&value["settings"]).unwrap()));
        drop(value);
        self.shelf.replace(&key, text);
        let _ = layout::time_of_settings(&key, instance);
        if let Ok(settings) = self.reader.read_settings(instance, &key) {
            reads_back(&settings);
        }
        let _ = self.reader.settings(instance);
    }

    /// The text is packed here: what is packed otherwise is for the target `part`.
    fn read_recovery(&self, text: &[u8]) {
        let name = layout::recovery_name(&self.recovery, text.len());
        let mut packed = Vec::new();
        let codec = &self.reader.codec;
        codec.packer().unwrap().pack(&name, text, &mut packed).unwrap();
        let key = layout::recovery(&name, &sha256_hex(&packed), codec.form());
        self.shelf.replace(&key, &packed);
        let (recovery, updated_at, bytes) = layout::recovery_of(&key, self.recovery.instance).unwrap();
        let object = StoredObject { key, bytes: packed.len() as u64 };
        let record = RecoveryRecord { recovery, updated_at, bytes, object };
        if let Ok(recovery) = self.reader.recovery(&record) {
            reads_back(&recovery);
        }
    }
}

/// What was understood says the same again.
fn reads_back<T: Serialize + DeserializeOwned + PartialEq>(value: &T) {
    let text = serde_json::to_vec(value).unwrap();
    assert!(serde_json::from_slice::<T>(&text).unwrap() == *value, "it reads back different");
}

/// Makes one list or text somewhere very long.
fn crowd(dice: &mut Dice, value: &mut Value) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let item = items[0].clone();
            let times = dice.below(20_000);
            items.extend(std::iter::repeat_n(item, times));
        }
        Value::Array(items) => {
            let times = dice.below(200_000);
            items.extend(std::iter::repeat_n(Value::from(0), times));
        }
        Value::Object(members) => {
            let at = dice.below(members.len());
            if let Some(member) = members.values_mut().nth(at) {
                crowd(dice, member);
            }
        }
        Value::String(text) => {
            // A state of very many servers, or nothing that makes sense.
            *text = (0..dice.below(20_000)).map(|nth| format!("{}-{nth}-1,", nth % 7)).collect();
        }
        other => *other = Value::Array(vec![Value::Null; dice.below(100_000)]),
    }
}
