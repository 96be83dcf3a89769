//! What stands in the way of a MySQL server's backups and recoveries, each named with its remedy, nothing lost. What a
//! look at the server finds is in `mysql_instance` and beside the code that looks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::{Bed, files_below, kill_and_wait};
use crate::harness::cell::Cell;
use crate::harness::instance::{Instance, ROOT, TASK_MAX};
use crate::harness::{sql, wait_for};
use crate::mysql_instance::with_keyring;
use crate::mysql_pitfalls::Scene;
use crate::rebuild;

/// Waits until a backup has failed; returns what it says.
#[track_caller]
fn wait_failed(instance: &Instance, id: &str) -> String {
    let view = wait_for("the backup to fail", TASK_MAX, || {
        let view = instance.api.get(&format!("{ROOT}/backups/{id}")).expect(200)["backup"].clone();
        assert_ne!(view["status"], "COMPLETED", "{view}");
        (view["status"] == "FAILED").then_some(view)
    });
    instance.wait_active();
    format!("{} {}", text(&view["fault"], "message"), text(&view["fault"], "details"))
}

/// No file of a backup is left beside the data.
#[track_caller]
fn assert_nothing_left(instance: &Instance) {
    let home = instance.data_dir.parent().unwrap();
    let is_of_backup = |path: &PathBuf| {
        let mut names = path.components().map(|part| part.as_os_str().to_string_lossy());
        names.any(|name| name.starts_with("b-"))
    };
    let left: Vec<PathBuf> = files_below(home).into_iter().filter(is_of_backup).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Waits until a clone is under way.
/// From now on a clone takes many seconds: the server's brake does not hold what fits into its first.
fn slow_down_clones(scene: &Scene) {
    let mut statements = vec!["SET SESSION sql_log_bin = 0", "CREATE DATABASE pad", "CREATE TABLE pad.t (a LONGBLOB)"];
    statements.extend(["INSERT INTO pad.t VALUES (REPEAT(RANDOM_BYTES(1024), 4096))"; 16]);
    statements.extend(["SET GLOBAL clone_autotune_concurrency = OFF", "SET GLOBAL clone_max_data_bandwidth = 1"]);
    scene.run(&statements);
}

fn wait_cloning(scene: &Scene) {
    wait_for("a clone to be under way", Duration::from_secs(30), || {
        let query = "SELECT COUNT(*) > 0 FROM performance_schema.clone_status WHERE state = 'In Progress'";
        (scene.ask(query) == "1").then_some(())
    });
}

#[test]
fn what_no_clone_can_hold_fails_the_backup_by_name_and_the_next_one_works() {
    let scene = Scene::new("my-bad");
    scene.run(&["CREATE TABLE shop.old (a INT) ENGINE = MyISAM", "INSERT INTO shop.old VALUES (7)"]);
    let message = wait_failed(&scene.instance, &scene.instance.begin_backup("with a table of MyISAM"));
    assert!(
        message.contains("`shop.old`") && message.contains("MyISAM") && message.contains("ENGINE=InnoDB"),
        "{message}"
    );
    scene.run(&["ALTER TABLE shop.old ENGINE = InnoDB"]);

    scene.run(&["UNINSTALL PLUGIN clone"]);
    let message = wait_failed(&scene.instance, &scene.instance.begin_backup("without the plugin"));
    assert!(message.to_lowercase().contains("clone") && message.contains("INSTALL PLUGIN clone"), "{message}");
    scene.run(&["INSTALL PLUGIN clone SONAME 'mysql_clone.so'"]);
    assert_nothing_left(&scene.instance);

    scene.instance.backup("sound");
    let expected = scene.contents();
    assert_eq!(expected["shop.old"], ["a", "7"]);
    scene.assert_recovers(&expected);
}

#[test]
fn a_server_killed_in_mid_clone_fails_the_backup_in_a_sentence_and_the_next_one_works() {
    let scene = Scene::new("my-killed");
    scene.insert("before");
    let expected = scene.contents();
    // For this life of the server only.
    slow_down_clones(&scene);
    let backup = scene.instance.begin_backup("broken off");
    wait_cloning(&scene);
    kill_and_wait(scene.instance.server_pid());
    let message = wait_failed(&scene.instance, &backup);
    assert!(message.starts_with("the server ended") && message.contains("take another backup"), "{message}");
    scene.instance.wait_conn();
    assert_nothing_left(&scene.instance);
    sql::assert_same(&scene.contents(), &expected, "the server came back");
    scene.instance.backup("sound");
    scene.assert_recovers(&expected);
}

#[test]
fn coffer_killed_in_mid_clone_goes_on_and_completes_the_backup() {
    let mut scene = Scene::new("my-cofferkill");
    scene.insert("before");
    slow_down_clones(&scene);
    let backup = scene.instance.begin_backup("of two lives");
    wait_cloning(&scene);
    scene.appliance.crash();
    scene.run(&["SET GLOBAL clone_max_data_bandwidth = 0"]);
    scene.appliance.resume(&[]);
    scene.instance.wait_backup(&backup);
    scene.instance.wait_active();
    assert_nothing_left(&scene.instance);
    let expected = scene.contents();
    scene.assert_recovers(&expected);
}

#[test]
fn data_whose_keyring_is_gone_fails_to_come_back_by_name_and_the_server_serves_on() {
    let bed = Bed::on(Cell::mysql(), "my-ring");
    let program = with_keyring(&bed.path("keyring"));
    let plain = Cell::mysql().datastore.program("mysqld");
    let mut appliance = Appliance::start_in(bed, "");
    appliance.stop();
    let right = fs::read_to_string(&appliance.config).unwrap();
    let ring =
        right.replace(&format!("server = \"{}\"", plain.display()), &format!("server = \"{}\"", program.display()));
    assert_ne!(ring, right);
    fs::write(&appliance.config, &ring).unwrap();
    appliance.resume(&[]);
    let mut scene = Scene::on(appliance);
    scene.run(&["CREATE TABLE shop.secret (a INT) ENCRYPTION = 'Y'", "INSERT INTO shop.secret VALUES (7)"]);
    scene.instance.backup("with a table of the keyring");
    scene.run(&["INSERT INTO shop.secret VALUES (8)"]);
    let expected = scene.contents();
    let last = scene.insert("last");
    scene.instance.wait_shipped(&last);
    let (pid, with_last) = (scene.instance.server_pid(), scene.contents());

    scene.appliance.stop();
    fs::write(&scene.appliance.config, &right).unwrap();
    scene.appliance.resume(&[]);
    scene.instance.wait_active();
    let recovery = scene.instance.begin_recovery(&json!({ "before_gtid": last }));
    let view = scene.instance.wait_recovery(&recovery, "FAILED");
    let message = text(&view["fault"], "message");
    assert!(message.to_lowercase().contains("keyring"), "{message}");
    scene.instance.wait_active();
    assert_eq!(scene.instance.server_pid(), pid, "the server was not touched");
    sql::assert_same(&scene.contents(), &with_last, "it serves on");

    scene.appliance.stop();
    fs::write(&scene.appliance.config, &ring).unwrap();
    scene.appliance.resume(&[]);
    scene.instance.wait_active();
    scene.instance.recover(&json!({ "before_gtid": last }));
    sql::assert_same(&scene.contents(), &expected, "with the keyring it comes back");
}

/// Writes something else into a manifest, and the seal that fits.
fn reseal(manifest: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(manifest).unwrap();
    let (body, _) = text.rsplit_once(",\n  \"seal\": \"").unwrap();
    assert_eq!(body.matches(from).count(), 1, "{from} in {body}");
    let body = body.replace(from, to);
    let digest = Sha256::digest(format!("{body}\n}}"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::set_permissions(manifest, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(manifest, format!("{body},\n  \"seal\": \"{digest}\"\n}}\n")).unwrap();
}

#[test]
fn a_backup_of_a_newer_server_or_of_a_missing_tool_is_refused_in_the_plan() {
    let mut scene = Scene::new("my-foreign");
    let [newer, percona, sound] = ["newer", "by xtrabackup", "sound"].map(|name| {
        let backup = scene.instance.backup(name);
        scene.instance.ship();
        text(&backup, "id")
    });
    let version = text(&scene.instance.view()["datastore"], "version_number");
    let before = scene.contents();
    let pid = scene.instance.server_pid();
    scene.appliance.stop();
    // The host is gone; on the next one nothing is known but what the repository holds.
    kill_and_wait(pid);
    let manifests = files_below(&scene.appliance.repository);
    let manifest = |id: &str| {
        let of_it = |path: &&PathBuf| path.to_string_lossy().contains(id) && path.ends_with("manifest.json");
        manifests.iter().find(of_it).unwrap().clone()
    };
    reseal(&manifest(&newer), &format!("\"server_version\": \"{version}\""), "\"server_version\": \"99.1.0\"");
    reseal(&manifest(&percona), "\"strategy\": \"clone\"", "\"strategy\": \"xtrabackup\"");
    rebuild::move_to(&mut scene.appliance, "state2");
    let rebuilt = rebuild::rebuild(&scene.appliance, &[]);
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    scene.appliance.resume(&[]);
    scene.instance = rebuild::found_again(&scene.appliance, &scene.instance.id);

    let refused = |members: &Value, words: &[&str]| {
        for plan_only in [true, false] {
            let mut members = members.clone();
            members["plan_only"] = json!(plan_only);
            let message = scene.instance.ask_recovery(&members).fault(409);
            words.iter().for_each(|word| assert!(message.contains(word), "`{word}`: {message}"));
        }
    };
    refused(&json!({ "backup": newer }), &[&newer, "99.1.0", &version]);
    refused(&json!({ "backup": percona }), &[&percona, "`xtrabackup` was not found", "Install Percona XtraBackup"]);
    refused(&json!({ "latest": true, "backup": percona }), &[&percona, "xtrabackup"]);
    scene.instance.recover(&json!({ "backup": sound }));
    sql::assert_same(&scene.contents(), &before, "from a backup that fits");
}
