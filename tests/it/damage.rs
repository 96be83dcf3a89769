//! A repository that vanished, changed or comes from the future, and a disk that is full: the recovery says what it is,
//! by name, and the serving database stays as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::appliance::{Appliance, said};
use crate::harness::bed::{Bed, files_below};
use crate::harness::instance::{Instance, ROOT};
use crate::harness::sql::{self, Contents};
use crate::harness::wait_for;

struct Scene {
    appliance: Appliance,
    instance: Instance,
    backup: String,
    before: Contents,
}

impl Scene {
    fn new(appliance: Appliance) -> Scene {
        let instance = Instance::create(&appliance, "damage");
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(2000)) ENGINE=InnoDB");
        let backup = instance.backup("base")["id"].as_str().unwrap().to_owned();
        sql::run(&mut conn, "INSERT INTO shop.t (y) SELECT MD5(seq) FROM shop.seq_1_to_2000");
        instance.ship();
        let before = sql::contents(&mut conn, "shop");
        Scene { appliance, instance, backup, before }
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        sql::assert_same(&sql::contents(&mut self.instance.conn(), "shop"), &self.before, what);
    }

    /// Asks for a recovery that must fail, now or later; its message must hold the words.
    #[track_caller]
    fn assert_fails(&self, members: &Value, words: &[&str]) {
        let reply = self.instance.ask_recovery(members);
        let message = if reply.status == 202 {
            let id = reply.json()["recovery"]["recovery_id"].as_str().unwrap().to_owned();
            self.assert_failed(&id)
        } else {
            reply.fault(reply.status)
        };
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
        self.assert_untouched(&message);
    }

    /// The message of a recovery that must have failed.
    #[track_caller]
    fn assert_failed(&self, recovery: &str) -> String {
        let view = self.instance.wait_recovery(recovery, "FAILED");
        let view_after = self.instance.wait_active();
        assert!(view_after.get("task").is_none());
        format!("{} {}", view["fault"]["message"], view["fault"]["details"])
    }

    fn objects(&self, folder: &str, end: &str) -> Vec<PathBuf> {
        let found = files_below(&self.appliance.repository).into_iter();
        found.filter(|path| path.to_string_lossy().contains(folder) && path.to_string_lossy().ends_with(end)).collect()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Changes an object, tries, and puts the object back as it was.
fn with_changed(path: &Path, change: impl FnOnce(&mut Vec<u8>), attempt: impl FnOnce()) {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    change(&mut bad);
    let mode = fs::metadata(path).unwrap().permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bad).unwrap();
    attempt();
    fs::write(path, good).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_changed_object_is_named_and_nothing_is_replaced() {
    let scene = Scene::new(Appliance::start("changed"));
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    };
    let latest = json!({"latest": true});
    let parts = scene.objects(&format!("/backups/{}/part-", scene.backup), ".zst");
    with_changed(parts.first().unwrap(), flip, || scene.assert_fails(&latest, &[&file_name(&parts[0])]));
    let chunks = scene.objects("/binlog/", ".zst");
    let largest = chunks.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    with_changed(largest, flip, || scene.assert_fails(&latest, &[&file_name(largest)]));
    with_changed(
        largest,
        |bytes| bytes.truncate(bytes.len() / 2),
        || {
            scene.assert_fails(&latest, &[&file_name(largest)]);
        },
    );

    let manifests = scene.objects(&format!("/backups/{}/", scene.backup), "manifest.json");
    let future = |bytes: &mut Vec<u8>| {
        let mut manifest: Value = serde_json::from_slice(bytes).unwrap();
        manifest["format"] = json!(999);
        *bytes = serde_json::to_vec(&manifest).unwrap();
    };
    with_changed(manifests.first().unwrap(), future, || scene.assert_fails(&latest, &["999"]));

    let moved = scene.appliance.bed.path("part");
    fs::rename(&parts[0], &moved).unwrap();
    scene.assert_fails(&latest, &[&file_name(&parts[0])]);
    fs::rename(&moved, &parts[0]).unwrap();

    // Everything is as it was: the same recovery succeeds now, and its result is the same data.
    scene.instance.recover(&latest);
    scene.assert_untouched("recovered to the latest point");
}

#[test]
fn a_repository_that_vanished_is_named_and_not_made_anew() {
    let scene = Scene::new(Appliance::start("vanished"));
    let (repository, aside) = (&scene.appliance.repository, scene.appliance.bed.path("aside"));
    fs::rename(repository, &aside).unwrap();
    let place = repository.to_string_lossy().into_owned();
    // The server's own binlog files say what the target is; a recovery would wait for the repository.
    let plan = scene.instance.plan(&json!({"latest": true}));
    assert!(plan["warnings"].to_string().contains(&place), "{plan}");
    let mut conn = scene.instance.conn();
    let gtid = sql::commit(&mut conn, "CREATE TABLE shop.meanwhile (id INT PRIMARY KEY)");
    let failed = scene.instance.begin_backup("into nothing");
    let view = wait_for("the backup to fail", Duration::from_secs(60), || {
        let view = scene.instance.api.get(&format!("{ROOT}/backups/{failed}")).expect(200)["backup"].clone();
        (view["status"] == "FAILED").then_some(view)
    });
    assert!(view["fault"]["message"].to_string().contains(&place), "{view}");
    wait_for("the shipper to say so", Duration::from_secs(30), || {
        let shipping = scene.instance.view()["shipping"].clone();
        (shipping["state"] == "failing" && shipping["message"].to_string().contains(&place)).then_some(())
    });
    assert!(!repository.exists(), "an empty repository in its place would look like a loss of all backups");

    fs::rename(&aside, repository).unwrap();
    scene.instance.wait_shipped(&gtid);
    scene.instance.wait_active();
    let reply = scene.instance.ask_recovery(&json!({"backup": failed}));
    let message = reply.fault(409);
    assert!(message.contains(&failed) && message.contains("FAILED"), "{message}");
    scene.instance.backup("as before");
}

#[test]
fn a_full_disk_stops_the_recovery_and_nothing_else() {
    let bed = Bed::new("full");
    let small = bed.path("small");
    fs::create_dir(&small).unwrap();
    let mount = |arguments: &[&str]| said(Command::new("mount").args(arguments).arg(&small)).code == 0;
    if !mount(&["-t", "tmpfs", "-o", "size=1200m,mode=0755", "tmpfs"]) {
        // A test that was not made is no test that passed: where every one must be, this fails.
        assert!(std::env::var_os("CI").is_none(), "the full disk needs an account that may mount a small file system");
        println!("FULL DISK: NOT TRIED, this account may not mount a small file system");
        return;
    }
    let mut scene = Scene::new(Appliance::start_at(bed, "", Some(small.join("state"))));
    let mut conn = scene.instance.conn();
    sql::run(&mut conn, "INSERT INTO shop.t (y) SELECT REPEAT(MD5(seq), 50) FROM shop.seq_1_to_30000");
    scene.before = sql::contents(&mut conn, "shop");
    let backup = scene.instance.backup("larger");
    let latest = json!({"latest": true, "backup": backup["id"]});
    let needed = scene.instance.plan(&latest)["disk_bytes"].as_u64().unwrap();

    // Full before it begins: refused with the number of bytes.
    let filler = small.join("filler");
    fill(&small, &filler, 40 << 20);
    let message = scene.instance.ask_recovery(&latest).fault(409);
    assert!(message.contains("bytes") || message.contains("MiB"), "it says how much is missing of {needed}: {message}");
    fs::remove_file(&filler).unwrap();

    // Full while it is staging: planned with room, which is gone when the work begins.
    scene.appliance.stop();
    scene.appliance.resume(&[("COFFER_CRASH_AT", "PLANNED")]);
    scene.instance.wait_active();
    let recovery = scene.instance.begin_recovery(&latest);
    scene.appliance.wait_end(Duration::from_secs(60));
    fill(&small, &filler, 40 << 20);
    scene.appliance.resume(&[]);
    let message = scene.assert_failed(&recovery);
    assert!(message.to_lowercase().contains("space"), "{message}");
    scene.assert_untouched("after the disk was full");
    let free = free_bytes(&small);
    assert!(free > 30 << 20, "what was staged is removed again: {free} bytes are free");
    fs::remove_file(&filler).unwrap();
    scene.instance.recover(&latest);
    scene.assert_untouched("recovered once there was room");
}

fn free_bytes(dir: &Path) -> u64 {
    let state = rustix::fs::statvfs(dir).unwrap();
    state.f_bavail * state.f_frsize
}

/// Leaves only `rest` bytes free.
fn fill(dir: &Path, filler: &Path, rest: u64) {
    let file = fs::File::create(filler).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free_bytes(dir) - rest).unwrap();
}
