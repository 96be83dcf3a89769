//! A catalog is made as an appliance makes it, kept by the keeper, and rebuilt elsewhere from the repository alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::agent::keeper::{Keeper, settings_without_files};
use crate::agent::{Context, Settings};
use crate::datastore::Toolbox;
use crate::domain::backup::BackupEnd;
use crate::domain::backup::Strategy;
use crate::domain::chunk::{Chunk, ChunkFacts, GtidRange};
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::{BinlogState, GtidPosition, GtidStream};
use crate::domain::id::TimelineId;
use crate::domain::instance::{Control, InstanceSettings, InstanceStatus};
use crate::domain::recovery::{RecoveryOutcome, RecoveryPlan};
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::timeline::{Branch, Origin, Timeline};
use crate::queue::Bell;
use crate::repository::bench::sample;
use crate::repository::chunk::ChunkBody;
use crate::repository::manifest::{Manifest, Part};
use crate::repository::{self, sha256_hex};
use crate::testing::TempDir;

const CHUNK: u64 = 1000;

struct Bench {
    dir: TempDir,
    context: Arc<Context>,
    keeper: Keeper,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::new(seconds, 123_456_789).unwrap()
}

impl Bench {
    fn new() -> Bench {
        let dir = TempDir::new();
        let url = format!("file://{}", dir.join("repository").display());
        let repository = Repository::open(&url, &repository::Settings::default()).unwrap().with_scratch_dir(&dir);
        let context = Arc::new(Context {
            store: Bench::store(&dir, "a"),
            repository: Arc::new(repository),
            tools: Toolbox::unused(),
            settings: Settings {
                state_dir: dir.join("state"),
                poll: Duration::from_millis(10),
                chunk_bytes_max: 1 << 20,
                undo_window: Duration::from_secs(3600),
                verification: None,
            },
            bell: Bell::new(),
            stopping: Arc::new(AtomicBool::new(false)),
        });
        let keeper = Keeper::new(&context);
        Bench { dir, context, keeper }
    }

    fn store(dir: &Path, name: &str) -> Store {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        Store::open(&dir.join(name)).unwrap()
    }

    fn write<T>(&self, change: impl FnOnce(&crate::store::Tx<'_>) -> Result<T, Error>) -> T {
        self.context.store.write(change).unwrap()
    }

    /// An instance with its settings, timelines 1 and 2 of three chunks each, a backup and two recoveries.
    fn instance(&self, name: &str, control: Control, seconds: i64) -> Instance {
        let id = InstanceId::random();
        let server = match control {
            Control::Created => Server::created(&self.dir.join("state"), id, 3307).unwrap(),
            control => Server {
                control,
                socket: format!("/nowhere/{name}.sock").into(),
                data_dir: format!("/nowhere/{name}").into(),
                binlog_base: format!("/nowhere/{name}/binlog").into(),
                work_dir: format!("/nowhere/.coffer-{name}").into(),
                defaults_file: format!("/nowhere/{name}.cnf").into(),
                port: 0,
            },
        };
        if server.control == Control::Created {
            std::fs::create_dir_all(server.defaults_file.parent().unwrap()).unwrap();
            let options =
                format!("[mariadbd]\ndatadir = \"{}\"\n[client]\npassword = hush\n", server.data_dir.display());
            crate::durable::write(&server.defaults_file, options.as_bytes(), 0o600).unwrap();
        }
        let instance = Instance {
            id,
            name: name.to_owned(),
            status: InstanceStatus::Active,
            fault: None,
            server,
            datastore: Datastore::Mariadb,
            version: "10.11.6".to_owned(),
            created_at: at(seconds),
            updated_at: at(seconds),
        };
        self.write(|tx| tx.insert_instance(&instance));
        let first = self.timeline(id, 1, None);
        let chunks: Vec<Chunk> = (1..=3).map(|n| self.chunk(&first, n, 2)).collect();
        let branch = chunks[1].facts.ends_at();
        self.backup(&instance, &chunks[0], "nightly", seconds + 100);
        let second = self.timeline(id, 2, Some(branch));
        self.chunk(&second, 1, 1);
        let last = self.chunk(&second, 2, 1);
        let backup = self.backup(&instance, &last, "after", seconds + 200);
        self.recovery(&instance, &backup, RecoveryState::Released, seconds + 150);
        self.recovery(&instance, &backup, RecoveryState::Failed, seconds + 160);
        self.write(|tx| tx.set_ship_after(second.id, "binlog.000003"));
        instance
    }

    fn timeline(&self, instance: InstanceId, number: u32, branch: Option<Coordinate>) -> Timeline {
        let branch =
            branch.map(|at| Branch { at, position: "0-1-20".parse().unwrap(), clock: 17, skipped: Vec::new() });
        let timeline = Timeline {
            id: TimelineId::random(),
            instance,
            number,
            origin: if number == 1 { Origin::Initial } else { Origin::Recovery(RecoveryId::random()) },
            branch,
            state_at_begin: format!("0-1-{}", number * 10).parse().unwrap(),
            begun_at: at(i64::from(number)),
        };
        self.write(|tx| tx.insert_timeline(&timeline));
        timeline
    }

    /// The facts of what comes behind the last chunk of the timeline: `pieces` times a thousand bytes.
    fn facts(&self, timeline: &Timeline, pieces: u64, raw: &[u8]) -> ChunkFacts {
        let last = self.context.store.read(|db| db.last_chunk(timeline.id)).unwrap();
        let begin = last.as_ref().map_or(0, |last| last.facts.end);
        ChunkFacts {
            instance: timeline.instance,
            timeline: timeline.id,
            ordinal: 1,
            file: "binlog.000001".to_owned(),
            begin,
            end: begin + pieces * CHUNK,
            sha256: sha256_hex(raw),
            follows: last.map(|last| last.facts.sha256),
            gap_before: None,
            transactions: pieces,
            first_gtid: None,
            last_gtid: None,
            ranges: vec![GtidRange {
                stream: GtidStream::Mariadb { domain: 0, server_id: 1 },
                first: begin,
                last: begin + pieces * CHUNK - 1,
            }],
            position_after: GtidPosition::default(),
            state_after: "0-1-30".parse::<BinlogState>().unwrap(),
            clock_before: 5,
            first_commit: Some(6),
            last_commit: Some(7),
            observed_at: at(8),
        }
    }

    /// Stores a chunk without noting it, as a kill leaves it.
    fn put(&self, timeline: &Timeline, pieces: u64, seed: u64) -> Chunk {
        let raw = sample(usize::try_from(pieces * CHUNK).unwrap(), seed);
        let facts = self.facts(timeline, pieces, &raw);
        self.context.repository.put_chunk(&facts, b"description", ChunkBody::Bytes(&raw)).unwrap()
    }

    fn chunk(&self, timeline: &Timeline, seed: u64, pieces: u64) -> Chunk {
        let chunk = self.put(timeline, pieces, seed);
        self.write(|tx| tx.insert_chunk(&chunk));
        chunk
    }

    fn backup(&self, owner: &Instance, ends_in: &Chunk, name: &str, seconds: i64) -> Backup {
        let id = BackupId::random();
        let sha256 = sha256_hex(name.as_bytes());
        let part = Part {
            key: format!("instances/{}/backups/{id}/part-000001-{}.zst", owner.id, &sha256[..16]),
            raw_bytes: 77,
            stored_bytes: 33,
            sha256: sha256.clone(),
        };
        let end = BackupEnd { at: ends_in.facts.ends_at(), position: "0-1-5".parse().unwrap(), clock: 7 };
        let manifest = Manifest {
            format: repository::FORMAT,
            backup: id,
            instance: owner.id,
            timeline: end.at.timeline,
            name: name.to_owned(),
            description: "before the release".to_owned(),
            datastore: owner.datastore,
            strategy: Strategy::Mariabackup,
            server_version: owner.version.clone(),
            tool: "mariadb-backup".to_owned(),
            tool_version: owner.version.clone(),
            compression: "zstd".to_owned(),
            encrypted_to: Vec::new(),
            raw_bytes: 77,
            sha256,
            parts: vec![part],
            begin: None,
            end: end.clone(),
            created_at: at(seconds),
            completed_at: at(seconds + 9),
        };
        let (location, checksum) = self.context.repository.put_manifest(&manifest).unwrap();
        let backup = Backup {
            id,
            description: manifest.description,
            status: BackupStatus::Completed,
            server_version: owner.version.clone(),
            raw_bytes: 77,
            stored_bytes: 33,
            location: Some(location),
            checksum: Some(checksum),
            end: Some(end),
            updated_at: at(seconds + 9),
            ..Backup::of(owner, name.to_owned(), at(seconds))
        };
        self.write(|tx| tx.insert_backup(&backup));
        backup
    }

    fn recovery(&self, owner: &Instance, base: &Backup, state: RecoveryState, seconds: i64) -> Recovery {
        let end = base.end.clone().unwrap();
        let plan = RecoveryPlan {
            instance: owner.id,
            target: RecoveryTarget::new(Point::Latest),
            base: base.id,
            base_strategy: Strategy::Mariabackup,
            base_version: base.server_version.clone(),
            base_raw_bytes: 77,
            base_stored_bytes: 33,
            chunks: Vec::new(),
            stop: end.at.clone(),
            stop_clock: 7,
            position: end.position.clone(),
            base_end: end,
            transactions: 3,
            last_included: None,
            first_excluded: None,
            skipped: Vec::new(),
            given_up_transactions: 0,
            download_bytes: 1,
            replay_bytes: 2,
            disk_bytes: 3,
            estimate_seconds: 4,
            warnings: vec!["mind the step".to_owned()],
        };
        let is_kept = state == RecoveryState::Retained;
        let recovery = Recovery {
            id: RecoveryId::random(),
            instance: owner.id,
            state,
            plan,
            pause: true,
            paused: false,
            abort_asked: false,
            fault: None,
            outcome: RecoveryOutcome {
                old_data_kept: is_kept,
                undo_until: is_kept.then(|| at(seconds + 1000)),
                ..RecoveryOutcome::default()
            },
            created_at: at(seconds),
            updated_at: at(seconds + 5),
        };
        self.write(|tx| tx.insert_recovery(&recovery));
        recovery
    }

    /// What `coffer rebuild` does, into a state of its own.
    fn rebuild(&self, name: &str) -> (Store, Rebuilt) {
        let store = Bench::store(&self.dir, name);
        let rebuilt = self.rebuild_into(&store, &self.dir.join("state")).unwrap();
        (store, rebuilt)
    }

    fn rebuild_into(&self, store: &Store, state_dir: &Path) -> Result<Rebuilt, Error> {
        let tools = Toolbox::unused();
        let host = Host { store, repository: &self.context.repository, tools: &tools, state_dir };
        rebuild(&host, &mut |_| {})
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join("repository").join(key)
    }

    /// The objects below `part` of an instance, by key.
    fn objects(&self, instance: InstanceId, part: &str) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.path().is_dir() { below(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        below(&self.path(&format!("instances/{instance}")), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part));
        found.sort();
        found
    }

    fn flip(path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        crate::durable::write(path, &bytes, 0o600).unwrap();
    }
}

type Rows = Vec<BTreeMap<String, String>>;

/// The tables without what is true of one host only, in an order of their own.
fn comparable(store: &Store) -> BTreeMap<String, Rows> {
    let mut tables = store.dump();
    let key_of: BTreeMap<String, String> =
        tables["chunks"].iter().map(|row| (row["sequence"].clone(), row["key"].clone())).collect();
    for row in tables.get_mut("chunk_ranges").unwrap() {
        let chunk = key_of[&row["chunk"]].clone();
        row.insert("chunk".to_owned(), chunk);
    }
    for (table, columns) in
        [("chunks", &["sequence"][..]), ("instances", &["status", "fault", "updated_at"]), ("tasks", &["sequence"])]
    {
        tables
            .get_mut(table)
            .unwrap()
            .iter_mut()
            .for_each(|row| row.retain(|name, _| !columns.contains(&name.as_str())));
    }
    tables.retain(|name, _| !["tokens", "tasks", "shipping"].contains(&name.as_str()) && !name.starts_with("verif"));
    let is_shared = |row: &BTreeMap<String, String>| row["key"].contains("ship_after:");
    tables.get_mut("meta").unwrap().retain(is_shared);
    tables.values_mut().for_each(|rows| rows.sort());
    tables
}

#[track_caller]
fn assert_same(found: &Store, expected: &Store) {
    let (found, expected) = (comparable(found), comparable(expected));
    assert!(found.keys().eq(expected.keys()));
    for (table, rows) in &found {
        let missing: Rows = expected[table].iter().filter(|row| !rows.contains(row)).cloned().collect();
        let extra: Rows = rows.iter().filter(|row| !expected[table].contains(row)).cloned().collect();
        assert_eq!((missing, extra), (Vec::new(), Vec::new()), "table {table}");
        assert_eq!(rows.len(), expected[table].len(), "table {table}");
    }
}

#[test]
fn a_rebuilt_catalog_equals_the_one_that_was_lost() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    let unit = Control::Systemd { unit: "mariadb.service".to_owned() };
    let blog = bench.instance("blog", unit, 500);
    let gone = bench.instance("gone", Control::Created, 700);
    bench.keeper.keep().unwrap();
    let last_word = InstanceSettings { deleted_at: Some(at(900)), ..settings_without_files(&gone) };
    bench.write(|tx| {
        tx.set_untold_deletion(&last_word)?;
        tx.remove_instance(gone.id)
    });
    bench.keeper.keep().unwrap();
    assert!(bench.context.store.read(|db| db.untold_deletions()).unwrap().is_empty());

    let (store, rebuilt) = bench.rebuild("b");
    assert_eq!(rebuilt.problems.told, []);
    assert_eq!((rebuilt.instances.len(), rebuilt.deleted), (2, 1));
    assert_eq!((rebuilt.timelines, rebuilt.chunks, rebuilt.backups, rebuilt.recoveries), (6, 15, 6, 6));
    assert_same(&store, &bench.context.store);
    for id in [shop.id, blog.id] {
        let instance = store.read(|db| db.instance(id)).unwrap();
        let fault = instance.fault.unwrap();
        assert!(instance.status == InstanceStatus::Error && fault.message.contains("no data at"), "{fault:?}");
        assert!(fault.hint.contains("coffer recover"), "{fault:?}");
        assert!(store.read(|db| db.is_unproven(id)).unwrap());
    }
    assert_eq!(rebuilt.instances[0].instance.name, "shop", "the newest comes first");

    // Once more, on the same state: nothing is missing, nothing is there twice.
    let again = bench.rebuild_into(&store, &bench.dir.join("state")).unwrap();
    assert_eq!((again.problems.count, again.chunks), (0, 15));
    assert_same(&store, &bench.context.store);
    // What the rebuilt appliance keeps is what is kept already.
    let before = bench.objects(shop.id, "");
    let elsewhere = Context {
        store,
        repository: Arc::clone(&bench.context.repository),
        tools: Toolbox::unused(),
        settings: bench.context.settings.clone(),
        bell: Bell::new(),
        stopping: Arc::clone(&bench.context.stopping),
    };
    Keeper::new(&Arc::new(elsewhere)).keep().unwrap();
    assert_eq!(bench.objects(shop.id, ""), before);
}

#[test]
fn a_created_server_moves_to_the_new_state_directory_without_its_secrets() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    bench.keeper.keep().unwrap();
    let store = Bench::store(&bench.dir, "b");
    let elsewhere = bench.dir.join("elsewhere");
    bench.rebuild_into(&store, &elsewhere).unwrap();
    let server = store.read(|db| db.instance(shop.id)).unwrap().server;
    assert!(server.data_dir.starts_with(&elsewhere) && server.port == 3307, "{server:?}");
    let options = std::fs::read_to_string(&server.defaults_file).unwrap();
    assert!(options.contains(&format!("datadir = \"{}\"", server.data_dir.display())), "{options}");
    assert!(!options.contains("hush"), "{options}");
    for object in bench.objects(shop.id, "settings-") {
        assert!(!std::fs::read_to_string(object).unwrap().contains("hush"));
    }
}

#[test]
fn data_kept_for_an_undo_is_on_the_other_host() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    let base = bench.context.store.read(|db| db.newest_completed_backup(shop.id)).unwrap().unwrap();
    let retained = bench.recovery(&shop, &base, RecoveryState::Retained, 2000);
    bench.keeper.keep().unwrap();
    let (store, _) = bench.rebuild("b");
    let found = store.read(|db| db.recovery(retained.id)).unwrap();
    assert_eq!(found.state, RecoveryState::Released);
    assert!(!found.outcome.old_data_kept && found.outcome.undo_until.is_none());
    assert_eq!(found.plan, retained.plan);
    // A recovery under way is not in the repository, and neither is one that went on.
    let undone = Recovery { state: RecoveryState::Undone, updated_at: at(3000), ..retained.clone() };
    bench.write(|tx| tx.update_recovery(&undone));
    bench.recovery(&shop, &base, RecoveryState::Staged, 4000);
    bench.keeper.keep().unwrap();
    bench.keeper.keep().unwrap();
    assert_eq!(bench.objects(shop.id, &retained.id.to_string()).len(), 2, "each settled state is kept once");
    let (store, _) = bench.rebuild("c");
    assert_eq!(store.read(|db| db.recovery(retained.id)).unwrap(), undone);
    assert_eq!(store.read(|db| db.unsettled_recovery(shop.id)).unwrap(), None);
    Bench::flip(&bench.objects(shop.id, &retained.id.to_string())[1]);
    let (store, rebuilt) = bench.rebuild("d");
    assert_eq!(rebuilt.problems.count, 1);
    assert_eq!(
        store.read(|db| db.recovery(retained.id)).unwrap().state,
        RecoveryState::Released,
        "by the older record"
    );
}

#[test]
fn what_is_damaged_is_told_by_name_and_the_rest_is_rebuilt() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    bench.instance("blog", Control::Systemd { unit: "b.service".to_owned() }, 500);
    bench.keeper.keep().unwrap();
    let timelines = bench.context.store.read(|db| db.timelines(shop.id)).unwrap();
    let chunk = bench.objects(shop.id, &format!("binlog/{}", timelines[0].id))[1].clone();
    let manifest = bench.objects(shop.id, "manifest.json")[0].clone();
    let whole = std::fs::read(&chunk).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 4;
    crate::durable::write(&chunk, &bytes, 0o600).unwrap();
    Bench::flip(&manifest);
    let (store, rebuilt) = bench.rebuild("b");
    let told: Vec<&str> = rebuilt.problems.told.iter().map(|problem| problem.what.as_str()).collect();
    let name = |path: &Path| path.strip_prefix(bench.dir.join("repository")).unwrap().display().to_string();
    assert!(told.iter().any(|what| what.contains(&name(&chunk))), "{told:?}");
    assert!(told.iter().any(|what| what.contains(&name(&manifest))), "{told:?}");
    assert!(told.iter().any(|what| what.contains("between binlog.000001:2000 and binlog.000001:4000")), "{told:?}");
    assert_eq!((rebuilt.problems.count, rebuilt.chunks, rebuilt.backups), (3, 9, 3));
    assert_eq!(store.read(|db| db.instances()).unwrap().len(), 2);
    // Another copy of the chunk turns up: a second run takes it in, in its place.
    crate::durable::write(&chunk, &whole, 0o600).unwrap();
    let again = bench.rebuild_into(&store, &bench.dir.join("state")).unwrap();
    assert_eq!((again.problems.count, again.chunks), (1, 10));
    let chunks = |store: &Store| store.read(|db| db.chunks_from(timelines[0].id, 0, 0, 100)).unwrap();
    assert_eq!(chunks(&store), chunks(&bench.context.store));
}

#[test]
fn what_is_missing_shows_by_what_rests_on_it() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    bench.keeper.keep().unwrap();
    let current = bench.context.store.read(|db| db.current_timeline(shop.id)).unwrap().unwrap();
    std::fs::remove_file(bench.objects(shop.id, &format!("binlog/{}", current.id)).pop().unwrap()).unwrap();
    let (_, rebuilt) = bench.rebuild("b");
    assert_eq!(rebuilt.problems.count, 1, "{:?}", rebuilt.problems);
    assert!(rebuilt.problems.told[0].what.contains("up to binlog.000001:2000"), "{:?}", rebuilt.problems);
}

#[test]
fn a_lost_timeline_has_a_stand_in_that_its_backups_can_be_used_on() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    bench.keeper.keep().unwrap();
    let timelines = bench.context.store.read(|db| db.timelines(shop.id)).unwrap();
    let second = timelines[1].clone();
    for damage in [Bench::flip as fn(&Path), |path| std::fs::remove_file(path).unwrap()] {
        damage(&bench.objects(shop.id, &format!("timelines/{}", second.id))[0]);
        let (store, rebuilt) = bench.rebuild(&format!("b{}", rebuilt_dirs(&bench)));
        assert_eq!(rebuilt.problems.count, 1);
        assert!(rebuilt.problems.told[0].what.contains(&second.id.to_string()), "{:?}", rebuilt.problems);
        let found = store.read(|db| db.timelines(shop.id)).unwrap();
        assert_eq!((found[0].clone(), found.len()), (timelines[0].clone(), 2));
        assert_eq!((found[1].id, found[1].number, found[1].branch.is_none()), (second.id, 2, true));
        assert_eq!(found[1].state_at_begin, "0-1-30".parse().unwrap());
    }
}

fn rebuilt_dirs(bench: &Bench) -> usize {
    std::fs::read_dir(&*bench.dir).unwrap().count()
}

#[test]
fn of_two_objects_that_hold_the_same_bytes_the_followed_one_is_taken() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    let current = bench.context.store.read(|db| db.current_timeline(shop.id)).unwrap().unwrap();
    // Stored and not noted, twice over; then shipping went on with a chunk that reaches further, and two more.
    bench.put(&current, 1, 91);
    bench.put(&current, 2, 92);
    bench.chunk(&current, 93, 3);
    bench.chunk(&current, 94, 1);
    bench.put(&current, 1, 95);
    bench.chunk(&current, 96, 2);
    bench.keeper.keep().unwrap();
    let (store, rebuilt) = bench.rebuild("b");
    assert_eq!(rebuilt.problems.told, []);
    assert_same(&store, &bench.context.store);
}

#[test]
fn settings_that_cannot_be_read_give_way_to_older_ones_or_to_a_server_of_coffers_own() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Systemd { unit: "x".to_owned() }, 1000);
    bench.keeper.keep().unwrap();
    bench.write(|tx| tx.update_instance(&Instance { version: "10.11.7".to_owned(), ..shop.clone() }));
    bench.keeper.keep().unwrap();
    let objects = bench.objects(shop.id, "settings-");
    assert_eq!(objects.len(), 2);
    Bench::flip(&objects[1]);
    let (store, rebuilt) = bench.rebuild("b");
    assert_eq!(rebuilt.problems.count, 1);
    assert_eq!(store.read(|db| db.instance(shop.id)).unwrap().version, "10.11.6");
    for object in &objects {
        std::fs::remove_file(object).unwrap();
    }
    let (store, rebuilt) = bench.rebuild("c");
    assert_eq!(rebuilt.problems.count, 1);
    let found = store.read(|db| db.instance(shop.id)).unwrap();
    assert!(found.name.starts_with("rebuilt-") && found.server.control == Control::Created, "{found:?}");
    assert!(found.server.defaults_file.exists() && found.version == "10.11.6");
}

#[test]
fn a_rebuild_that_breaks_off_is_marked_and_goes_on() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    bench.keeper.keep().unwrap();
    let store = Bench::store(&bench.dir, "b");
    let away = bench.dir.join("away");
    std::fs::rename(bench.dir.join("repository"), &away).unwrap();
    assert_eq!(bench.rebuild_into(&store, &bench.dir.join("state")).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(store.read(|db| db.is_half_rebuilt()).unwrap());
    std::fs::rename(&away, bench.dir.join("repository")).unwrap();
    bench.rebuild_into(&store, &bench.dir.join("state")).unwrap();
    assert!(!store.read(|db| db.is_half_rebuilt()).unwrap());
    assert_same(&store, &bench.context.store);
    assert_eq!(forgotten(&store, &bench.context.repository).unwrap(), 0);
    let empty = Bench::store(&bench.dir, "c");
    assert_eq!(forgotten(&empty, &bench.context.repository).unwrap(), 1);
    assert_eq!(newest_backup(&store, shop.id).unwrap(), Some(at(1200)));
}

#[test]
fn a_store_that_is_away_delays_the_word_and_loses_nothing() {
    let mut bench = Bench::new();
    let shop = bench.instance("shop", Control::Created, 1000);
    let away = bench.dir.join("away");
    std::fs::rename(bench.dir.join("repository"), &away).unwrap();
    bench.keeper.keep().unwrap_err();
    std::fs::rename(&away, bench.dir.join("repository")).unwrap();
    bench.keeper.keep().unwrap();
    let (store, _) = bench.rebuild("b");
    assert_same(&store, &bench.context.store);
    // An option file that is gone says nothing new.
    std::fs::remove_file(&shop.server.defaults_file).unwrap();
    bench.keeper.keep().unwrap();
    let found = bench.context.repository.settings(shop.id).unwrap().settings.unwrap();
    assert!(found.options.is_some());
}
