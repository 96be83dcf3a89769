//! A store that is away, slow, or wants another token: shipping waits and loses nothing, and says so.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::history::History;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::proxy::{Change, Rule};
use crate::harness::remote::Remote;
use crate::harness::{Random, sql, wait_for};

const OUTAGE: Duration = Duration::from_secs(30);

fn lag(shipping: &Value) -> f64 {
    shipping["lag_seconds"].as_f64().unwrap_or(0.0)
}

#[test]
fn half_a_minute_without_the_store_leaves_no_gap() {
    let remote = Remote::on_s3("outage");
    let instance = Instance::create(&remote.appliance, "outage");
    let mut random = Random::seeded("outage");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    instance.backup("base");
    let load = Load::start(&instance.socket, 2, Ddl::No, 0, &mut random);
    load.wait_commits(50);
    instance.ship();

    remote.proxy.go_down();
    let begin = Instant::now();
    let commits = load.commits();
    let mut shown = 0.0_f64;
    while begin.elapsed() < OUTAGE {
        std::thread::sleep(Duration::from_millis(500));
        let shipping = &instance.view()["shipping"];
        if begin.elapsed() > Duration::from_secs(12) {
            assert_eq!(shipping["state"], "failing", "an outage shows: {shipping}");
            let least = begin.elapsed().as_secs_f64() - 6.0;
            assert!(lag(shipping) > least, "after {:?}: {shipping}", begin.elapsed());
            assert!(shipping["behind_bytes"].as_u64().unwrap() > 0, "{shipping}");
            assert!(shipping["message"].as_str().is_some_and(|text| !text.is_empty()), "{shipping}");
            shown = shown.max(lag(shipping));
        }
    }
    let told = remote.appliance.cli(&["status"]).stdout;
    assert!(told.contains("failing since") && told.contains("waiting"), "people see it too: {told}");
    let during = load.commits() - commits;
    assert!(during > 100, "the server serves as if nothing were: {during} commits");
    let last = sql::commit(&mut instance.conn(), "INSERT INTO marks.m (x) VALUES (1)");

    remote.proxy.come_up();
    let back = Instant::now();
    wait_for("what was written meanwhile to be shipped", OUTAGE, || instance.has_shipped(&last).then_some(()));
    let caught_up = back.elapsed();
    wait_for("the lag to be gone", Duration::from_secs(15), || {
        let shipping = &instance.view()["shipping"];
        (shipping["state"] == "shipping" && lag(shipping) < 2.0).then_some(())
    });
    println!("outage: {during} commits meanwhile, lag shown {shown:.1} s, caught up in {caught_up:?}");
    assert!(caught_up < OUTAGE, "faster than it came: {caught_up:?}");

    // Each answer takes its time now: the server has written more before one is there, and still everything comes to an end.
    remote.proxy.rule(Rule::new(Change::Delay(Duration::from_millis(150))));
    instance.plan(&json!({"latest": true}));
    instance.backup("slowly, under load");
    remote.proxy.mend();

    history.record(0, load.end_clean());
    instance.ship();
    let view = instance.view();
    assert!(view["recoverable"].get("gaps").is_none_or(|gaps| gaps == &json!([])), "no gap: {view}");
    instance.recover(&json!({"latest": true}));
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, u64::MAX), "after an outage");
}

#[test]
fn a_token_that_runs_out_is_renewed_in_the_middle_of_a_backup() {
    let remote = Remote::on_swift("token", &[("token_life", "3")]);
    let instance = Instance::create(&remote.appliance, "token");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, y VARCHAR(2000)) ENGINE=InnoDB");
    let fill = "INSERT INTO shop.t (y) SELECT TO_BASE64(RANDOM_BYTES(1000)) FROM shop.seq_1_to_12000";
    sql::run(&mut conn, fill);
    instance.ship();
    // A put takes as long as this makes it: the token is over several times before the last.
    remote.proxy.take_exchanges();
    remote.proxy.rule(Rule::new(Change::Delay(Duration::from_secs(1))).method("PUT"));
    instance.backup("base");
    remote.proxy.mend();
    let exchanges = remote.proxy.take_exchanges();
    let asked = exchanges.iter().filter(|it| it.target.starts_with("/auth/") && it.status == 200).count();
    assert!(asked >= 2, "a token was asked for {asked} times: {exchanges:?}");
    let before = sql::contents(&mut conn, "shop");
    std::thread::sleep(Duration::from_secs(4));
    instance.recover(&json!({"latest": true}));
    sql::assert_same(&sql::contents(&mut instance.conn(), "shop"), &before, "with several tokens");
}
