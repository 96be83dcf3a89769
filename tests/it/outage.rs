//! The repository goes away and comes back: nothing is lost, the server serves all the while, and everybody can see what
//! is waited for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::sql::{self, Contents};
use crate::harness::{Random, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// An instance with a base, a target in its past and something after it.
struct Scene {
    appliance: Appliance,
    instance: Instance,
    target: String,
    at_target: Contents,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let mut random = Random::seeded(name);
        let appliance = Appliance::start(name);
        let instance = Instance::create(&appliance, name);
        load::prepare(&mut instance.conn());
        instance.backup("base");
        let load = Load::start(&instance.socket, 2, Ddl::No, 0, &mut random);
        load.wait_commits(30);
        load.end_clean();
        let insert = "INSERT INTO shop.orders (client, serial, note) VALUES (99, 0, 't')";
        let target = sql::commit(&mut instance.conn(), insert);
        let at_target = sql::contents(&mut instance.conn(), load::SCHEMA);
        sql::run(&mut instance.conn(), "DELETE FROM shop.orders");
        instance.ship();
        Scene { appliance, instance, target, at_target }
    }

    fn away(&self) -> PathBuf {
        self.appliance.bed.path("repository-away")
    }

    /// As when a disk is unmounted or a store is switched off.
    fn take_away(&self) {
        std::fs::rename(&self.appliance.repository, self.away()).unwrap();
    }

    fn bring_back(&self) {
        std::fs::rename(self.away(), &self.appliance.repository).unwrap();
    }

    fn wait_until_waiting(&self, recovery: &str) -> Value {
        wait_for("the recovery to say that it waits", SOON, || {
            let view = self.instance.recovery(recovery);
            assert_eq!(view["status"], "BUILDING", "{view}");
            let step = view["progress"]["step"].as_str().unwrap_or_default().to_owned();
            step.starts_with("waiting for the repository: ").then_some(view)
        })
    }

    /// The server answers, and takes a write.
    fn assert_serves(&self) {
        let gtid = sql::commit(&mut self.instance.wait_conn(), "INSERT INTO marks.m (x) VALUES (2)");
        assert!(!gtid.is_empty());
    }

    #[track_caller]
    fn assert_recovered(&self, recovery: &str) {
        self.instance.wait_recovery(recovery, "COMPLETED");
        self.instance.wait_active();
        let found = sql::contents(&mut self.instance.wait_conn(), load::SCHEMA);
        sql::assert_same(&found, &self.at_target, "after the outage");
    }
}

#[test]
fn a_recovery_waits_for_its_repository_and_goes_on() {
    let mut scene = Scene::new("outage-stage");
    scene.take_away();
    let recovery = scene.instance.begin_recovery(&json!({ "gtid": scene.target }));
    scene.wait_until_waiting(&recovery);
    scene.assert_serves();
    // A stop of coffer does not end it either, nor does it take long.
    assert!(scene.appliance.stop() < Duration::from_secs(3));
    scene.bring_back();
    scene.appliance.resume(&[]);
    scene.assert_recovered(&recovery);
    scene.instance.undo(&recovery);

    // Waiting, it can be aborted at once; nothing has changed.
    scene.instance.ship();
    scene.take_away();
    let recovery = scene.instance.begin_recovery(&json!({ "gtid": scene.target }));
    scene.wait_until_waiting(&recovery);
    let asked = Instant::now();
    scene.instance.act(&recovery, "abort").expect(202);
    scene.instance.wait_recovery(&recovery, "ABORTED");
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    scene.assert_serves();
    scene.bring_back();
    scene.instance.ship();
}

#[test]
fn a_server_is_not_stopped_for_a_switch_while_the_repository_is_away() {
    let scene = Scene::new("outage-fence");
    let server = scene.instance.server_pid();
    let recovery = scene.instance.begin_recovery(&json!({ "gtid": scene.target, "pause": true }));
    scene.instance.wait_recovery(&recovery, "PAUSED");
    scene.take_away();
    scene.instance.act(&recovery, "promote").expect(202);
    scene.wait_until_waiting(&recovery);
    scene.assert_serves();
    assert_eq!(scene.instance.server_pid(), server, "it was never stopped");
    scene.bring_back();
    scene.assert_recovered(&recovery);
}

#[test]
fn a_repository_that_goes_away_behind_the_fence_does_not_keep_the_server_down() {
    let scene = Scene::new("outage-tail");
    let server = scene.instance.server_pid();
    let recovery = scene.instance.begin_recovery(&json!({ "gtid": scene.target, "pause": true }));
    scene.instance.wait_recovery(&recovery, "PAUSED");
    let guard = scene.instance.data_dir.parent().unwrap().join("work/GUARD");
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| {
            let begin = Instant::now();
            while !guard.exists() && begin.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            scene.take_away();
        });
        scene.instance.act(&recovery, "promote").expect(202);
        taken.join().unwrap();
    });
    scene.wait_until_waiting(&recovery);
    scene.assert_serves();
    assert_ne!(scene.instance.server_pid(), server, "it was stopped, and started again");
    assert!(!guard.exists());
    scene.bring_back();
    scene.assert_recovered(&recovery);
    // What was written between the two fences is saved as well.
    scene.instance.undo(&recovery);
    let kept = sql::ask(&mut scene.instance.wait_conn(), "SELECT COUNT(*) FROM marks.m WHERE x = 2");
    assert_eq!(kept, "1");
}

#[test]
fn shipping_says_that_it_waits_and_loses_nothing() {
    let scene = Scene::new("outage-ship");
    let shipping = || scene.instance.view()["shipping"].clone();
    let number = |view: &Value, name: &str| view[name].as_f64().unwrap_or_else(|| panic!("no {name}: {view}"));
    scene.take_away();
    let away = Instant::now();
    let mut random = Random::seeded("outage-ship");
    let load = Load::start(&scene.instance.socket, 2, Ddl::No, 500_000, &mut random);
    let first = wait_for("shipping to fail", SOON, || {
        let view = shipping();
        (view["state"] == "failing" && number(&view, "behind_bytes") > 0.0).then_some(view)
    });
    assert!(!text(&first, "message").is_empty(), "{first}");
    load.wait_commits(load.commits() + 100);
    // Also what lies in further files counts.
    sql::run(&mut scene.instance.conn(), "FLUSH BINARY LOGS");
    load.wait_commits(load.commits() + 100);
    let later = wait_for("the lag to grow", SOON, || {
        let view = shipping();
        let grew = number(&view, "behind_bytes") > number(&first, "behind_bytes") + 20_000.0;
        (grew && number(&view, "lag_seconds") > number(&first, "lag_seconds") + 5.0).then_some(view)
    });
    let lag = number(&later, "lag_seconds");
    assert!(lag <= away.elapsed().as_secs_f64() + 2.0, "{lag} s, away for {:?}", away.elapsed());
    load.end_clean();
    let expected = sql::contents(&mut scene.instance.conn(), load::SCHEMA);
    scene.bring_back();
    scene.instance.ship();
    let view = wait_for("the lag to be gone", SOON, || {
        let view = shipping();
        (view["state"] == "shipping" && number(&view, "lag_seconds") < 1.0).then_some(view)
    });
    assert_eq!(number(&view, "behind_bytes"), 0.0, "{view}");
    assert!(scene.instance.view()["recoverable"].get("gaps").is_none_or(|gaps| gaps == &json!([])), "no gap");
    scene.instance.recover(&json!({"latest": true}));
    sql::assert_same(&sql::contents(&mut scene.instance.conn(), load::SCHEMA), &expected, "after the outage");
}

#[test]
fn coffer_starts_without_its_repository_and_waits_for_it() {
    let mut scene = Scene::new("begun-without");
    scene.appliance.stop();
    scene.take_away();
    scene.appliance.resume(&[]);
    wait_for("shipping to say what it waits for", SOON, || {
        let shipping = scene.instance.view()["shipping"].clone();
        (shipping["state"] == "failing" && shipping["message"].to_string().contains("repository")).then_some(())
    });
    let gtid = sql::commit(&mut scene.instance.conn(), "CREATE TABLE shop.meanwhile (id INT PRIMARY KEY)");
    assert!(!scene.appliance.repository.exists(), "nothing is begun in its place");
    scene.bring_back();
    scene.instance.wait_shipped(&gtid);
    scene.instance.backup("as before");
}
