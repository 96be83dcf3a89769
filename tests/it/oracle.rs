//! The oracle: clients remember every acknowledged commit, the server's own reader of binlogs tells where each stands, and
//! after a recovery to any target the tables must equal exactly the acknowledged prefix: nothing missing, nothing too much.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::adopt::adopt;
use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::cell::{Cell, Strategy};
use crate::harness::events::{self, Placed};
use crate::harness::history::History;
use crate::harness::instance::Instance;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::Server;
use crate::harness::{Random, sql};
use crate::matrix::{on_cells, on_every_cell, on_every_server};

/// On the cell a run is about.
const TARGETS: usize = 20;
/// On every other one: each kind of target once.
const TARGETS_ELSEWHERE: usize = 7;

/// A target, and the last transaction that must be in.
struct Aim {
    members: Value,
    what: String,
    /// Index of the last included transaction.
    last: usize,
}

on_every_cell!(every_target_brings_back_exactly_the_acknowledged_prefix);

fn every_target_brings_back_exactly_the_acknowledged_prefix(cell: Cell) {
    let appliance = Appliance::start_with(cell, "oracle");
    let instance = Instance::create(&appliance, "oracle");
    reach_targets(&appliance, &instance);
}

on_cells!(every_target_is_reached_without_gtids: mysql);

/// By place and by time only; and as coffer makes its servers with GTIDs, on one that was there before.
fn every_target_is_reached_without_gtids(cell: Cell) {
    let appliance = Appliance::start_with(cell, "anonymous");
    let settings = format!("{}gtid-mode=OFF\nenforce-gtid-consistency=OFF\n", cell.datastore.good());
    let mut server = Server::create(&appliance.bed, "own", &settings);
    server.start(&[]);
    let instance = adopt(&appliance, &mut server, "anonymous");
    reach_targets(&appliance, &instance);
}

fn reach_targets(appliance: &Appliance, instance: &Instance) {
    let cell = appliance.bed.cell();
    let mut random = Random::seeded("oracle");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    let base = instance.backup("base");

    let load = Load::start(&instance.socket, 3, Ddl::Yes, 0, &mut random);
    load.wait_commits(150);
    // Where a transaction without a GTID ends is asked behind it: no file may begin between the two.
    let has_gtids = sql::has_gtids(&mut instance.conn());
    if !has_gtids {
        load.pause();
    }
    sql::run(&mut instance.conn(), "FLUSH BINARY LOGS");
    if !has_gtids {
        load.go_on();
    }
    load.wait_commits(300);
    load.pause();
    instance.api.post(&instance.path("/action"), &json!({"restart": {}})).expect(202);
    instance.wait_active();
    load.go_on();
    load.wait_commits(450);
    match cell.strategy {
        Strategy::Physical => drop(instance.backup("under load")),
        // A table that is changed while it is dumped fails the dump.
        Strategy::Dump => load.with_schema_kept(|| drop(instance.backup("under load"))),
    }
    load.wait_commits(load.commits() + 250);
    history.record(0, load.end_clean());
    instance.ship();

    let placed = events::place_transactions(&sql::binlogs(&mut instance.conn()), &appliance.bed);
    assert_known(&placed, &history);
    let end = sql::sequence(&text(&base["end"], "position"));
    let first = placed.iter().position(|one| sql::sequence(&format!("{}:{}", one.file, one.begin)) >= end).unwrap();
    let timeline = instance.timeline();
    let mut used: BTreeSet<String> = placed.iter().map(|one| one.gtid.clone()).collect();
    let targets = if cell == Cell::of_this_run() { TARGETS } else { TARGETS_ELSEWHERE };
    for number in 0..targets {
        let mut aim = aim(&placed, first, number, &mut random);
        aim.members["timeline"] = json!(timeline);
        println!("oracle: target {number}: {}", aim.what);
        check(instance, &history, &placed, &aim);
        let new = write_elsewhere(instance, number);
        // A place is another one in another file, whatever that is called.
        if !sql::is_place(&new) {
            assert_unused(&new, &used);
            used.insert(new);
        }
    }
}

/// Recovers to `aim` and compares everything that can be compared.
fn check(instance: &Instance, history: &History, placed: &[Placed], aim: &Aim) {
    let last = &placed[aim.last];
    let plan = instance.plan(&aim.members);
    // By chance a backup under load ends at the very target: then nothing is replayed, and the contents tell.
    if plan["transactions"] != 0 {
        assert_is(&plan["last_included"], last, &format!("last included, {}", aim.what));
    }
    match placed.get(aim.last + 1) {
        Some(next) => assert_is(&plan["first_excluded"], next, &format!("first excluded, {}", aim.what)),
        None => assert!(plan["first_excluded"].is_null(), "nothing comes after the last: {plan}"),
    }
    let recovery = instance.recover(&aim.members);
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, last.sequence()), &format!("{} ({recovery})", aim.what));
    if !sql::is_place(&last.gtid) {
        let reached = text(&recovery["outcome"], "reached");
        assert!(sql::covers(&reached, &last.gtid), "reached {reached}, not {}", last.gtid);
    }
    // The kept copies of a small server would fill a disk in twenty rounds.
    instance.act(&text(&recovery, "recovery_id"), "release").expect(202);
    instance.wait_active();
}

/// Whether a plan means this very transaction.
#[track_caller]
fn assert_is(planned: &Value, placed: &Placed, what: &str) {
    assert_eq!(planned["begins_at"], format!("{}:{}", placed.file, placed.begin), "{what}: {planned}");
    assert_eq!(planned["ends_at"], format!("{}:{}", placed.file, placed.end), "{what}: {planned}");
    let gtid = (!sql::is_place(&placed.gtid)).then_some(placed.gtid.as_str());
    assert_eq!(planned["gtid"].as_str(), gtid, "{what}: {planned}");
}

/// Writes that belong to the new timeline: no later recovery may show them. Returns their GTID.
fn write_elsewhere(instance: &Instance, number: usize) -> String {
    let statement =
        format!("INSERT INTO shop.items VALUES (9000, {number}, 0, 1), (9000, {number}, 1, 1), (9000, {number}, 2, 1)");
    sql::commit(&mut instance.conn(), &statement)
}

/// A GTID must never name two transactions. MariaDB's go on above all that were ever used, MySQL's have another UUID.
#[track_caller]
fn assert_unused(new: &str, used: &BTreeSet<String>) {
    assert!(!used.contains(new), "{new} was used before");
    let stream = |gtid: &str| gtid.rsplit_once(['-', ':']).map(|(stream, _)| stream.to_owned());
    let highest = used.iter().filter(|gtid| stream(gtid) == stream(new)).map(|gtid| sql::sequence(gtid)).max();
    assert!(highest.is_none_or(|highest| sql::sequence(new) > highest), "{new} is not above {highest:?}");
}

/// Every acknowledged commit is in the files, and all else in there is the marker's or the appliance's.
fn assert_known(placed: &[Placed], history: &History) {
    let in_files: std::collections::BTreeSet<&str> = placed.iter().map(|one| one.gtid.as_str()).collect();
    for gtid in history.gtids(0) {
        assert!(in_files.contains(gtid.as_str()), "{gtid} was acknowledged and is not in the binlog");
    }
}

/// A random target behind the base; each kind comes up.
fn aim(placed: &[Placed], first: usize, number: usize, random: &mut Random) -> Aim {
    let at = first + 1 + random.below(placed.len() - first - 1);
    let one = &placed[at];
    let inside = one.begin + 1 + random.below((one.end - one.begin - 1) as usize) as u64;
    let kind = if sql::is_place(&one.gtid) { 2 + number % 5 } else { number % 7 };
    let (member, value, last) = match kind {
        0 => ("gtid", one.gtid.clone(), at),
        1 => ("before_gtid", one.gtid.clone(), at - 1),
        2 => ("position", format!("{}:{}", one.file, one.end), at),
        3 => ("position", format!("{}:{inside}", one.file), at),
        4 => ("before_position", format!("{}:{}", one.file, random.pick(&[one.begin, inside])), at - 1),
        5 => {
            let time = jiff::Timestamp::from_microsecond(one.committed_at).unwrap();
            ("point_in_time", time.to_string(), last_at_or_before(placed, one.committed_at))
        }
        _ => {
            // Just before its moment begins, but not before the base.
            let moment = (one.committed_at - 1).max(placed[first].committed_at);
            let time = jiff::Timestamp::from_microsecond(moment).unwrap();
            ("point_in_time", time.to_string(), last_at_or_before(placed, moment))
        }
    };
    let what = format!("{member} {value}, transaction {}", placed[last].gtid);
    Aim { members: json!({ member: value }), what, last }
}

fn last_at_or_before(placed: &[Placed], moment: i64) -> usize {
    placed.iter().rposition(|one| one.committed_at <= moment).unwrap()
}

on_every_cell!(recoveries_follow_each_other_and_lose_nothing);

/// Recover, write, recover again, recover to the branch given up first, undo that, and go back to what the undo left.
fn recoveries_follow_each_other_and_lose_nothing(cell: Cell) {
    let mut random = Random::seeded("chain");
    let appliance = Appliance::start_with(cell, "chain");
    let instance = Instance::create(&appliance, "chain");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    instance.backup("base");
    history.record(0, write(&instance, 1, &mut random));
    let first_line = instance.timeline();
    let gtids = history.gtids(0);
    let branch = &gtids[gtids.len() / 2];
    let given_up = &gtids[gtids.len() - 10];

    // 1. In the middle of the first timeline.
    instance.recover(&json!({ "gtid": branch }));
    let second = history.branch(0, sql::sequence(branch));
    assert_contents(&instance, &history, second, u64::MAX, "first recovery");
    history.record(second, write(&instance, 2, &mut random));
    assert_contents(&instance, &history, second, u64::MAX, "writes after the first recovery");

    // 2. In the middle of the second, without naming it: it is the current one.
    let gtids = history.gtids(second);
    let again = &gtids[gtids.len() / 2];
    instance.recover(&json!({ "before_gtid": again }));
    let third = history.branch(second, sql::sequence(again) - 1);
    assert_contents(&instance, &history, third, u64::MAX, "second recovery");
    history.record(third, write(&instance, 3, &mut random));

    // 3. Onto the branch that the first recovery gave up.
    let recovery = instance.recover(&json!({ "gtid": given_up, "timeline": first_line }));
    let fourth = history.branch(0, sql::sequence(given_up));
    assert_contents(&instance, &history, fourth, u64::MAX, "recovery to the abandoned timeline");
    history.record(fourth, write(&instance, 4, &mut random));
    let fourth_line = instance.timeline();
    let last_of_fourth = history.gtids(fourth).last().unwrap().clone();

    // 4. Undone: everything of the third timeline is back, to the last row.
    let id = text(&recovery, "recovery_id");
    instance.undo(&id);
    let fifth = history.branch(third, u64::MAX);
    assert_contents(&instance, &history, fifth, u64::MAX, "undo");
    history.record(fifth, write(&instance, 5, &mut random));
    assert_contents(&instance, &history, fifth, u64::MAX, "writes after the undo");

    // 5. What was written between the recovery and its undo is a target too.
    instance.recover(&json!({ "gtid": last_of_fourth, "timeline": fourth_line }));
    assert_contents(&instance, &history, fourth, u64::MAX, "recovery to what the undo gave up");

    let timelines = instance.timelines();
    let mut numbers: Vec<u64> = timelines.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6], "one timeline for each recovery and for the undo: {timelines:?}");
}

on_every_cell!(a_recovery_to_the_end_of_a_backup_needs_no_binlog);

/// A backup that ends where a recovery ended, with no write in between, leads to that very place.
fn a_recovery_to_the_end_of_a_backup_needs_no_binlog(cell: Cell) {
    let mut random = Random::seeded("backup end");
    let appliance = Appliance::start_with(cell, "backup-end");
    let instance = Instance::create(&appliance, "quiet");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    history.record(0, write(&instance, 1, &mut random));
    let backup = instance.backup("quiet");
    let end = sql::sequence(&text(&backup["end"], "gtid"));
    history.record(0, write(&instance, 2, &mut random));
    for round in ["first", "again, at once"] {
        instance.recover(&json!({ "backup": text(&backup, "id") }));
        assert_contents(&instance, &history, 0, end, round);
    }
    let after = instance.backup("after the recoveries");
    instance.recover(&json!({ "backup": text(&after, "id") }));
    assert_contents(&instance, &history, 0, end, "from a backup of the new timeline");
    instance.recover(&json!({ "latest": true }));
    assert_contents(&instance, &history, 0, end, "latest");
}

fn write(instance: &Instance, round: u64, random: &mut Random) -> Vec<crate::harness::history::Committed> {
    let load = Load::start(&instance.socket, 2, Ddl::No, round * 100_000, random);
    load.wait_commits(60);
    let committed = load.end_clean();
    instance.ship();
    committed
}

#[track_caller]
fn assert_contents(instance: &Instance, history: &History, line: usize, last: u64, what: &str) {
    let found = sql::contents(&mut instance.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(line, last), what);
}

on_every_server!(a_dropped_table_comes_back_while_the_load_goes_on);

/// The load goes on while a table is dropped and the recovery runs; what was acknowledged before the DROP is all there.
fn a_dropped_table_comes_back_while_the_load_goes_on(cell: Cell) {
    let mut random = Random::seeded("drop");
    let appliance = Appliance::start_with(cell, "drop");
    let instance = Instance::create(&appliance, "drop");
    let mut history = History::new();
    history.record(0, load::prepare(&mut instance.conn()));
    instance.backup("base");
    let load = Load::start(&instance.socket, 3, Ddl::No, 0, &mut random);
    load.wait_commits(100);
    let dropped = sql::commit(&mut instance.conn(), "DROP TABLE shop.items");
    load.wait_commits(load.commits() + 20);
    instance.wait_shipped(&dropped);

    let query = instance.path("/transactions?destructive=true");
    let found = instance.api.get(&query).expect(200)["transactions"].clone();
    let drops: Vec<&Value> = found.as_array().unwrap().iter().filter(|one| one["gtid"] == dropped.as_str()).collect();
    assert_eq!(drops.len(), 1, "the DROP is in the list of destructive transactions: {found}");
    assert!(text(drops[0], "statement").contains("DROP TABLE"), "{found}");

    let recovery = instance.recover(&json!({ "before_gtid": dropped }));
    load.wait_commits(load.commits() + 20);
    let (acknowledged, _) = load.end();
    let before = sql::sequence(&dropped);
    // What was acknowledged between the DROP and the fence is given up; what comes later belongs to the new timeline.
    let fence = text(&recovery["outcome"], "fence_position");
    let (old, new): (Vec<_>, Vec<_>) = acknowledged.into_iter().partition(|one| sql::covers(&fence, &one.gtid));
    history.record(0, old.into_iter().filter(|one| sql::sequence(&one.gtid) < before));
    let second = history.branch(0, before - 1);
    history.record(second, new);
    assert_contents(&instance, &history, second, u64::MAX, "the load went on after the promotion");
    assert!(history.gtids(second).len() >= 20, "clients wrote after the promotion");

    // And once more without what came after.
    instance.ship();
    instance.recover(&json!({ "before_gtid": dropped, "timeline": timeline_of(&recovery, &instance) }));
    assert_contents(&instance, &history, 0, before - 1, "just before the DROP");
}

/// The timeline a recovery's stop lies in.
fn timeline_of(recovery: &Value, instance: &Instance) -> String {
    let stop = &recovery["plan"]["stop"]["timeline"];
    stop.as_str().map_or_else(|| text(&instance.timelines()[0], "id"), str::to_owned)
}
