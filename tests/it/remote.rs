//! Faults between coffer and a real store, and in what lies there: what may pass is survived, what may not is named, and
//! the serving database is as it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::appliance::{BINARY, Said, said};
use crate::harness::instance::{Instance, ROOT, TASK_MAX};
use crate::harness::proxy::{Change, Cut, How, Rule, Way};
use crate::harness::remote::{PREFIX, Remote};
use crate::harness::sql::{self, Contents};
use crate::harness::stores::Garage;
use crate::harness::wait_for;

struct Scene {
    remote: Remote<Garage>,
    instance: Instance,
    before: Contents,
}

impl Scene {
    /// With data that does not get smaller, in several parts of some megabytes.
    fn new(name: &str, rows: u32) -> Scene {
        let remote = Remote::on_s3(name);
        let instance = Instance::create(&remote.appliance, name);
        let mut conn = instance.conn();
        sql::run(&mut conn, "CREATE DATABASE shop");
        sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(2000)) ENGINE=InnoDB");
        let fill = "INSERT INTO shop.t (y) SELECT TO_BASE64(RANDOM_BYTES(1000)) FROM shop.seq_1_to_";
        sql::run(&mut conn, &format!("{fill}{rows}"));
        let before = sql::contents(&mut conn, "shop");
        Scene { remote, instance, before }
    }

    /// `coffer rebuild` with a state directory that is new each time.
    fn rebuild_elsewhere(&self) -> Said {
        let (bed, store) = (&self.remote.appliance.bed, &self.remote.store);
        let (state, config) = (bed.path("bare"), bed.path("bare.toml"));
        let _ = fs::remove_dir_all(&state);
        let credentials = bed.path("credentials.toml");
        let (url, at) = (store.url(PREFIX), |path: &Path| path.display().to_string());
        let text = format!(
            "state_dir = \"{}\"\nrepository_url = \"{url}\"\n[repository]\ncredentials_file = \"{}\"\n",
            at(&state),
            at(&credentials)
        );
        fs::write(&config, text).unwrap();
        said(Command::new(BINARY).args(["rebuild", &url]).arg("--config").arg(&config))
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        sql::assert_same(&sql::contents(&mut self.instance.conn(), "shop"), &self.before, what);
    }

    /// The fault of a backup that must fail.
    #[track_caller]
    fn failed_backup(&self, name: &str) -> String {
        let id = self.instance.begin_backup(name);
        let view = wait_for("the backup to fail", TASK_MAX, || {
            let view = self.instance.api.get(&format!("{ROOT}/backups/{id}")).expect(200)["backup"].clone();
            assert_ne!(view["status"], "COMPLETED", "{view}");
            (view["status"] == "FAILED").then_some(view)
        });
        view["fault"].to_string()
    }

    /// Asks for a recovery that must fail, now or later; the message must name `key`.
    #[track_caller]
    fn assert_recovery_names(&self, key: &str, what: &str) {
        let reply = self.instance.ask_recovery(&json!({"latest": true}));
        let message = if reply.status == 202 {
            let id = reply.json()["recovery"]["recovery_id"].as_str().unwrap().to_owned();
            let view = self.instance.wait_recovery(&id, "FAILED");
            self.instance.wait_active();
            assert!(view["fault"].is_object(), "{what}: {view}");
            view["fault"].to_string()
        } else {
            reply.fault(reply.status)
        };
        let name = key.rsplit('/').next().unwrap();
        assert!(message.contains(name), "{what}: `{name}` is not in: {message}");
        self.assert_untouched(what);
    }
}

#[test]
fn a_bad_network_and_a_store_under_strain_are_survived() {
    let scene = Scene::new("strain", 12_000);
    let proxy = &scene.remote.proxy;
    let denied = b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no more</Message></Error>";
    let told = |status: u16| Change::Answer { status, headers: Vec::new(), body: denied.to_vec() };

    // Out: broken off at each megabyte of an object, answers that get lost, a store that is overloaded.
    for (how, mebibytes) in [(How::Reset, 1), (How::Eof, 2), (How::Reset, 3)] {
        let fired = proxy.fired();
        proxy.cut(Cut { how, way: Way::Up, after: mebibytes << 20, times: 2 });
        scene.instance.backup("through cuts");
        assert_eq!(proxy.fired(), fired + 2, "{how:?} after {mebibytes} MiB");
    }
    proxy.mend();
    proxy.take_exchanges();
    for (status, times) in [(503, 6), (500, 3), (429, 3)] {
        proxy.rule(Rule::new(Change::status(status)).method("PUT").skip(1).times(times));
    }
    proxy.rule(Rule::new(Change::LoseAnswer).method("PUT").target("/part-").skip(1).times(1));
    scene.instance.backup("through storms");
    let refused = proxy.take_exchanges().iter().filter(|it| [500, 503, 429].contains(&it.status)).count();
    assert_eq!(refused, 12, "each was tried again");
    proxy.mend();

    // What is refused for good is not tried again, and named.
    proxy.rule(Rule::new(told(403)).method("PUT").target("/backups/").skip(1));
    let fault = scene.failed_backup("refused");
    assert!(fault.contains("AccessDenied") || fault.contains("403") || fault.contains("refuse"), "{fault}");
    let refused = proxy.take_exchanges().iter().filter(|it| it.status == 403).count();
    assert!((1..=4).contains(&refused), "one for each transfer that was going on: {refused}");
    proxy.mend();
    scene.instance.wait_active();

    // Back: each read breaks off after each megabyte, for ever, and goes on from there.
    scene.instance.backup("to recover from");
    for how in [How::Reset, How::Eof] {
        let fired = proxy.fired();
        proxy.cut(Cut { how, way: Way::Down, after: 1 << 20, times: u32::MAX });
        scene.instance.recover(&json!({"latest": true}));
        assert!(proxy.fired() > fired + 5, "{how:?}: {} cuts", proxy.fired() - fired);
        proxy.mend();
        scene.assert_untouched("recovered through cuts");
    }
    // A bit that falls over on the way is no damage in the store: what is read does not fit, and is told.
    let base = scene.instance.plan(&json!({"latest": true}))["base"].as_str().unwrap().to_owned();
    let part = scene.remote.objects(&[&base, "/part-"]).pop().unwrap();
    let (_, name) = part.rsplit_once('/').unwrap();
    proxy.rule(Rule::new(Change::flip(-1)).method("GET").target(name));
    scene.assert_recovery_names(&part, "a bit that fell over");
    proxy.mend();
    scene.instance.recover(&json!({"latest": true}));
    scene.assert_untouched("recovered at last");
}

#[test]
fn what_is_wrong_in_the_bucket_is_named_and_nothing_is_replaced() {
    let mut scene = Scene::new("bucket", 12_000);
    let backup = scene.instance.backup("base")["id"].as_str().unwrap().to_owned();
    let shipped_before = scene.remote.objects(&["/binlog/"]);
    for _ in 0..2 {
        sql::run(&mut scene.instance.conn(), "INSERT INTO shop.t (y) SELECT MD5(seq) FROM shop.seq_1_to_500");
        scene.instance.ship();
    }
    scene.before = sql::contents(&mut scene.instance.conn(), "shop");
    let store = &scene.remote.store;
    let (folder, flip) = (format!("/backups/{backup}/"), |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    });
    let parts = scene.remote.objects(&[&folder, "/part-"]);
    let mut chunks = scene.remote.objects(&["/binlog/"]);
    chunks.retain(|key| !shipped_before.contains(key));
    let manifest = scene.remote.objects(&[&folder, "manifest.json"]).remove(0);
    assert!(parts.len() > 1 && chunks.len() > 1, "{parts:?} {chunks:?}");
    let largest = |keys: &[String]| keys.iter().max_by_key(|key| store.object(key).unwrap().len()).unwrap().clone();
    let (part, chunk) = (largest(&parts), largest(&chunks));

    let with = |key: &str, change: Option<&[u8]>, what: &str| {
        let good = store.object(key).unwrap();
        match change {
            Some(bytes) => store.replace(key, bytes),
            None => store.remove(key),
        }
        scene.assert_recovery_names(key, what);
        store.replace(key, &good);
    };
    for key in [&part, &chunk, &manifest] {
        let mut flipped = store.object(key).unwrap();
        flip(&mut flipped);
        with(key, Some(&flipped), &format!("one bit of {key}"));
    }
    let other = |keys: &[String], than: &str| store.object(keys.iter().find(|key| *key != than).unwrap()).unwrap();
    with(&part, Some(&other(&parts, &part)), "a part in place of another");
    with(&chunk, Some(&other(&chunks, &chunk)), "a chunk in place of another");
    for key in [&part, &chunk, &manifest] {
        with(key, None, &format!("{key} is gone"));
    }
    scene.instance.recover(&json!({"latest": true}));
    scene.assert_untouched("everything is back");

    // What names the repository is looked at before anything else.
    let marker = format!("{PREFIX}/coffer.json");
    let good = store.object(&marker).unwrap();
    let mut flipped = good.clone();
    flip(&mut flipped);
    scene.remote.appliance.stop();
    for (bytes, what) in [(Some(flipped), "flipped"), (None, "gone")] {
        match &bytes {
            Some(bytes) => scene.remote.store.replace(&marker, bytes),
            None => scene.remote.store.remove(&marker),
        }
        scene.remote.appliance.launch(&[]);
        let status = scene.remote.appliance.wait_end(TASK_MAX);
        assert!(!status.success(), "a marker that is {what}");
        assert!(scene.remote.appliance.log_text().contains("coffer.json"), "{}", scene.remote.appliance.log_text());
    }
    scene.remote.store.replace(&marker, &good);

    // A bare host looks at everything else.
    for kind in ["/timelines/", "/settings-", "/recoveries/"] {
        let key = scene.remote.objects(&[kind]).pop().unwrap_or_else(|| panic!("no object {kind}"));
        let good = scene.remote.store.object(&key).unwrap();
        let mut flipped = good.clone();
        flip(&mut flipped);
        scene.remote.store.replace(&key, &flipped);
        let told = scene.rebuild_elsewhere();
        scene.remote.store.replace(&key, &good);
        let name = key.rsplit('/').next().unwrap();
        assert!(told.code == 1 && (told.stdout.clone() + &told.stderr).contains(name), "one bit of {key}: {told:?}");
    }
    let told = scene.rebuild_elsewhere();
    assert_eq!(told.code, 0, "{told:?}");

    scene.remote.appliance.resume(&[]);
    scene.instance.wait_active();
    scene.assert_untouched("at the end");
}
