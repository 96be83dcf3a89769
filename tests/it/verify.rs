//! Verification: whatever happens to a stored object is found and told by name, with what depends on it; what is well is
//! said to be well; and nobody ever waits for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::appliance::{Appliance, Said};
use crate::harness::bed::files_below;
use crate::harness::instance::{Instance, ROOT, TASK_MAX};
use crate::harness::sql;
use crate::harness::wait_for;

/// An instance with an older backup, binlog behind it, a newer backup and binlog behind that.
struct Scene {
    appliance: Appliance,
    instance: Instance,
    old: String,
    new: String,
    /// Committed between the backups.
    between: String,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let appliance = Appliance::start(name);
        let instance = Instance::create(&appliance, "shop");
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(2000)) ENGINE=InnoDB");
        let old = instance.backup("old")["id"].as_str().unwrap().to_owned();
        let between = sql::commit(&mut conn, "INSERT INTO shop.t (y) SELECT MD5(seq) FROM shop.seq_1_to_3000");
        instance.ship();
        let new = instance.backup("new")["id"].as_str().unwrap().to_owned();
        sql::run(&mut conn, "INSERT INTO shop.t (y) VALUES ('later')");
        instance.ship();
        Scene { appliance, instance, old, new, between }
    }

    fn verify(&self, arguments: &[&str]) -> Said {
        self.appliance.cli(&[&["backup", "verify"], arguments].concat())
    }

    fn verify_all(&self) -> Said {
        self.verify(&["--instance", "shop"])
    }

    fn object(&self, folder: &str, end: &str) -> PathBuf {
        self.objects(folder, end).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    }

    fn objects(&self, folder: &str, end: &str) -> Vec<PathBuf> {
        let found = files_below(&self.appliance.repository).into_iter();
        found.filter(|path| path.to_string_lossy().contains(folder) && path.to_string_lossy().ends_with(end)).collect()
    }

    /// Verifies everything; exactly this object must be bad, and told with what depends on it.
    #[track_caller]
    fn assert_only_bad(&self, path: &Path, depends: &str) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let said = self.verify_all();
        assert_eq!(said.code, 1, "{said:?}");
        assert_eq!(said.stdout.lines().filter(|line| line.starts_with("BAD")).count(), 1, "{said:?}");
        assert!(said.stdout.contains(&name) && said.stdout.contains(depends), "{name}, {depends}: {said:?}");
        let verification = self.instance.view()["verification"].clone();
        assert_eq!(
            (&verification["bad_objects"], &verification["bad"][1]),
            (&json!(1), &Value::Null),
            "{verification}"
        );
        let bad = &verification["bad"][0];
        assert!(path.ends_with(bad["object"].as_str().unwrap()), "{} is not {bad}", path.display());
        assert!(bad["depends"].as_str().unwrap().contains(depends), "{bad}");
        let metrics = self.appliance.api.get("/metrics").text;
        assert!(metrics.contains("coffer_bad_objects{instance=\"shop\"} 1\n"), "{metrics}");
        let status = self.appliance.cli(&["status"]).stdout;
        assert!(status.contains("! The stored") && status.contains(&name), "{status}");
    }

    fn backups(&self) -> Vec<Value> {
        let path = self.instance.path("/backups");
        self.appliance.api.get(&path).expect(200)["backups"].as_array().unwrap().clone()
    }
}

/// Changes an object, lets somebody look, and puts it back as it was.
fn with_changed(path: &Path, change: impl FnOnce(&mut Vec<u8>), look: impl FnOnce()) {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    change(&mut bad);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bad).unwrap();
    look();
    fs::write(path, good).unwrap();
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
}

#[test]
fn every_kind_of_damage_is_found_and_named_with_what_depends_on_it() {
    let scene = Scene::new("verify-damage");
    let well = scene.verify_all();
    assert!(well.code == 0 && well.stdout.contains("each is what was stored"), "{well:?}");
    assert!(scene.appliance.cli(&["backup", "show", &scene.old]).stdout.contains("OK, each object since"));

    let of_old = format!("/backups/{}/", scene.old);
    let (manifest, part) = (scene.object(&of_old, "manifest.json"), scene.object(&of_old, ".zst"));
    let chunk = scene.object("/binlog/", ".zst");
    let (timeline, settings) = (scene.object("/timelines/", ".json"), scene.object("/settings-", ".json"));
    let on_old = "backup `old`";
    let cases: [(&Path, &str); 5] = [
        (&manifest, on_old),
        (&part, on_old),
        (&chunk, "recovery to any point between"),
        (&timeline, "the history of timeline 1"),
        (&settings, "the instance's settings"),
    ];
    for (path, depends) in cases {
        with_changed(path, |bytes| flip(bytes), || scene.assert_only_bad(path, depends));
        assert_eq!(scene.verify_all().code, 0, "{} is well again", path.display());
    }
    // Valid in its own place, wrong in this one.
    let other = fs::read(scene.object(&format!("/backups/{}/", scene.new), ".zst")).unwrap();
    with_changed(&part, |bytes| *bytes = other, || scene.assert_only_bad(&part, on_old));
    assert_eq!(scene.verify_all().code, 0);
    // Gone.
    let aside = scene.appliance.bed.path("aside");
    for (path, depends) in cases {
        fs::rename(path, &aside).unwrap();
        scene.assert_only_bad(path, depends);
        fs::rename(&aside, path).unwrap();
        assert_eq!(scene.verify_all().code, 0, "{} is back", path.display());
    }
    let well = scene.verify_all();
    assert!(well.code == 0 && well.stdout.contains("each is what was stored"), "{well:?}");
    let verification = scene.instance.view()["verification"].clone();
    assert_eq!(verification["bad"], json!([]), "what is well again is no alarm: {verification}");
    assert!(verification["last_verified"].is_string() && verification["oldest_verified"].is_string());
    assert_eq!(scene.backups().len(), 2, "a newer backup made up for everything");
}

#[test]
fn a_bad_base_is_not_built_on_and_made_up_for_once() {
    let scene = Scene::new("verify-base");
    let part = scene.object(&format!("/backups/{}/", scene.new), ".zst");
    let chunk = scene.object("/binlog/", ".zst");
    let name_of = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let latest = json!({"latest": true});
    with_changed(
        &part,
        |bytes| flip(bytes),
        || {
            let said = scene.verify(&[&scene.new]);
            assert!(said.code == 1 && said.stdout.contains(&name_of(&part)), "{said:?}");
            let in_place = wait_for("the backup in its place", TASK_MAX, || {
                let backups = scene.backups();
                assert!(backups.len() <= 3, "one is enough: {backups:?}");
                backups.into_iter().find(|it| it["name"] == "shop-in-place-of-bad" && it["status"] == "COMPLETED")
            });
            scene.instance.wait_active();
            assert!(scene.appliance.log_text().contains("is bad ("), "the log says it");
            let view = scene.appliance.api.get(&format!("{ROOT}/backups/{}", scene.new)).expect(200);
            assert_eq!(view["backup"]["verification"], "BAD");
            let refused = scene.instance.ask_recovery(&json!({"backup": scene.new})).fault(409);
            assert!(refused.contains("damaged") && refused.contains(&scene.new), "{refused}");
            assert_eq!(scene.instance.plan(&latest)["base"], in_place["id"]);
            assert_eq!(scene.verify_all().code, 1);
            scene.instance.wait_active();
            assert_eq!(scene.backups().len(), 3, "cast once");
        },
    );
    // A target whose way leads through a bad chunk is refused before anything is fetched; one before it is not.
    with_changed(
        &chunk,
        |bytes| flip(bytes),
        || {
            scene.assert_only_bad(&chunk, "recovery to any point between");
            let refused = scene.instance.ask_recovery(&json!({"gtid": scene.between})).fault(409);
            assert!(refused.contains(&name_of(&chunk)) && refused.contains("last reachable"), "{refused}");
            let position =
                refused.split("Recover to position ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            assert_eq!(scene.instance.plan(&json!({"position": position}))["base"], json!(scene.old), "as it advises");
            scene.instance.plan(&latest);
        },
    );
    assert_eq!(scene.verify_all().code, 0);
    scene.instance.recover(&json!({"gtid": scene.between}));
    assert_eq!(sql::ask(&mut scene.instance.conn(), "SELECT COUNT(*) FROM shop.t"), "3000");
}

#[test]
fn slices_cover_everything_once_and_a_verification_gives_way_and_outlives_a_crash() {
    let mut scene = Scene::new("verify-slices");
    let mut conn = scene.instance.conn();
    sql::run(&mut conn, "CREATE TABLE shop.large (id INT AUTO_INCREMENT PRIMARY KEY, y LONGBLOB) ENGINE=InnoDB");
    sql::run(&mut conn, "INSERT INTO shop.large (y) SELECT RANDOM_BYTES(1024) FROM shop.seq_1_to_160000");
    scene.instance.ship();
    scene.instance.backup("large");
    let verify = |slice: &str| {
        let answer = scene.appliance.cli_json(&["backup", "verify", "--instance", "shop", "--slice", slice]);
        answer["verification"]["objects"].as_u64().unwrap()
    };
    let whole = verify("1/1");
    let slices: Vec<u64> = ["1/3", "2/3", "3/3"].into_iter().map(verify).collect();
    assert_eq!(slices.iter().sum::<u64>(), whole, "{slices:?}");
    assert!(slices.iter().all(|slice| *slice > 0), "{slices:?}");

    // A backup that is asked for in the middle of a verification is taken at once.
    for _ in 0..20 {
        let task = in_the_middle(&scene);
        scene.instance.backup("meanwhile");
        let done = wait_ended(&scene, &task);
        assert!(done["objects"].as_u64().unwrap() >= whole && done["bad_objects"] == 0, "{done}");
        if scene.appliance.log_text().contains("gives way: to take backup") {
            break;
        }
    }
    assert!(scene.appliance.log_text().contains("gives way: to take backup"), "it left off");

    // The same verification goes on after a crash.
    let task = in_the_middle(&scene);
    scene.appliance.crash();
    scene.appliance.resume(&[]);
    let done = wait_ended(&scene, &task);
    assert!(done["objects"].as_u64().unwrap() > whole && done["bad_objects"] == 0, "{done}");
}

/// Begins to verify everything and returns while that runs; the task's id.
fn in_the_middle(scene: &Scene) -> String {
    for _ in 0..20 {
        scene.instance.wait_active();
        let said = scene.appliance.cli_json(&["backup", "verify", "--instance", "shop", "--no-wait"]);
        let task = said["verification"]["task"].as_str().unwrap().to_owned();
        let is_in_the_middle = wait_for("the verification to run", TASK_MAX, || {
            let view = scene.instance.view();
            let is_under_way = view["task"]["id"] == task.as_str() && view["task"]["state"] == "RUNNING";
            let has_ended = view["verification"]["run"]["ended"].is_string();
            (is_under_way || has_ended).then_some(!has_ended)
        });
        if is_in_the_middle {
            return task;
        }
    }
    panic!("every verification was over before it could be looked at");
}

fn wait_ended(scene: &Scene, task: &str) -> Value {
    wait_for("the verification to end", TASK_MAX, || {
        let run = scene.instance.view()["verification"]["run"].clone();
        (run["task"] == task && run["ended"].is_string()).then_some(run)
    })
}
