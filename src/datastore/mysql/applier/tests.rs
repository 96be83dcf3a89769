use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::binlog::event::FormatDescription;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::Scanner;
use crate::datastore::mysql::clone::{self, CloneEnd};
use crate::datastore::mysql::inspect;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::owner::Owner;
use crate::datastore::replay::{Finish, Replayed, announce, replay};
use crate::datastore::scratch::ScratchSettings;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid_set::MysqlGtid;
use crate::domain::id::TimelineId;

/// A server, a settled clone of it, and the binlogs from the clone's end on as relay logs.
struct Bench {
    server: TestMysql,
    settings: ScratchSettings,
    end: CloneEnd,
    merges: bool,
}

impl Bench {
    fn clone_of(server: TestMysql) -> Bench {
        let around = server.dir.join("work");
        std::fs::create_dir_all(&around).unwrap();
        let settings = ScratchSettings {
            data_dir: around.join("clone"),
            run_dir: server.dir.join("scratch"),
            layout: inspect::layout(&mut server.sql()).unwrap(),
            server_id: 4242,
        };
        let owner = Owner::of_path(&server.server.data_dir).unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        clone::make(&server.access(), owner, &settings.data_dir, &|_, _| {}, &cancelled).unwrap();
        let end = clone::settle(&server.tools, &settings).unwrap();
        Bench { server, settings, end, merges: true }
    }

    /// Relay logs of everything behind the clone, and what they hold.
    fn relay_logs(&self, skip: &BTreeSet<Gtid>) -> (Vec<PathBuf>, RelayStats) {
        let names = self.server.sql().rows("SHOW BINARY LOGS").unwrap();
        let names = names.into_iter().map(|row| row[0].clone()).skip_while(|name| *name != self.end.position.file);
        let (mut paths, mut all) = (Vec::new(), RelayStats::default());
        for name in names {
            let bytes = std::fs::read(self.server.server.data_dir.join(&name)).unwrap();
            let (format, length) = scan(&bytes);
            let from = if paths.is_empty() { self.end.position.position } else { 0 };
            let path = self.server.dir.join(format!("built-{name}"));
            let mut writer = RelayWriter::begin(File::create(&path).unwrap(), &format)
                .unwrap()
                .carrying(all.scheduled_events.clone());
            if self.merges {
                writer = writer.merging();
            }
            writer.piece(&bytes[..], 0, from, length, skip).unwrap();
            let stats = writer.finish().unwrap();
            all.transactions += stats.transactions;
            all.position.merge(&stats.position);
            all.applied.merge(&stats.applied);
            if stats.transactions > 0 {
                all.source_end = stats.source_end;
                paths.push(path);
            }
            all.scheduled_events = stats.scheduled_events;
        }
        (paths, all)
    }

    fn plan(&self, skip: &[Gtid]) -> Replay {
        let (relay_logs, stats) = self.relay_logs(&skip.iter().copied().collect());
        let begin = GtidPosition::from(self.end.executed.clone());
        let (mut applied, mut end) = (begin.clone(), begin.clone());
        applied.merge(&stats.applied);
        end.merge(&stats.position);
        for gtid in skip {
            applied.pass_over(*gtid);
            end.pass_over(*gtid);
        }
        Replay { relay_logs, skip: skip.to_vec(), begin, applied, end, source_end: stats.source_end }
    }

    fn replay(&self, plan: &Replay, finish: &Finish<'_>) -> Result<GtidSet, Error> {
        let at = Coordinate {
            timeline: TimelineId::random(),
            ordinal: 1,
            file: self.end.position.file.clone(),
            position: self.end.position.position,
        };
        let begin = BackupEnd { at, position: plan.begin.clone(), clock: 0 };
        announce(&self.server.tools, &self.settings, &begin, true)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let reached = replay(&self.server.tools, &self.settings, plan, &|_| {}, &cancelled, finish)?;
        Ok(reached.executed().clone())
    }

    /// Exchanges the server's data with what was replayed and starts it, as a recovery does.
    fn switch(&self) {
        self.server.stop();
        std::fs::rename(&self.server.server.data_dir, self.server.dir.join("before")).unwrap();
        std::fs::rename(&self.settings.data_dir, &self.server.server.data_dir).unwrap();
        self.server.start_again();
    }
}

fn scan(bytes: &[u8]) -> (FormatDescription, u64) {
    let (mut reader, mut scanner) = (EventReader::begin(bytes), Scanner::begin(0));
    while let Next::Event(event) = reader.next_event().unwrap() {
        scanner.push(&event, i64::MAX).unwrap();
    }
    (scanner.format().unwrap().clone(), scanner.boundary())
}

/// What a user sees: the sums of all tables, and what else was defined.
fn picture(server: &TestMysql) -> Vec<String> {
    let mut sql = server.sql();
    let tables = sql
        .rows("SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' ORDER BY 1")
        .unwrap();
    let mut seen: Vec<String> =
        tables.iter().map(|row| sql.rows(&format!("CHECKSUM TABLE {}", row[0])).unwrap().concat().join(" ")).collect();
    for question in [
        "SELECT user, host, plugin FROM mysql.user ORDER BY 1",
        "SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS ORDER BY 1",
        "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY 1",
    ] {
        seen.extend(sql.rows(question).unwrap().into_iter().map(|row| row.join(" ")));
    }
    seen
}

const NOTHING: &Finish<'_> = &|_, _| Ok(());

const BEFORE: [&str; 3] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, customer VARCHAR(200), note JSON)",
    "INSERT INTO shop.orders (customer) VALUES ('before'), ('the'), ('clone')",
];

/// All kinds of transactions behind the clone.
const BEHIND: [&str; 26] = [
    "INSERT INTO shop.orders (customer) VALUES ('ann'), ('bob')",
    "CREATE USER app@localhost IDENTIFIED BY 'a pass'",
    "GRANT SELECT ON shop.* TO app@localhost",
    "CREATE TABLE shop.copied AS SELECT * FROM shop.orders",
    "UPDATE shop.orders SET note = JSON_OBJECT('a', REPEAT('x', 300), 'b', 1)",
    "SET SESSION binlog_row_value_options = 'PARTIAL_JSON', SESSION binlog_row_image = MINIMAL",
    "UPDATE shop.orders SET note = JSON_SET(note, '$.b', 2) WHERE id = 1",
    "DELETE FROM shop.orders WHERE id = 2",
    "SET SESSION binlog_transaction_compression = ON",
    "INSERT INTO shop.orders (customer) SELECT customer FROM shop.orders",
    "SET SESSION binlog_transaction_compression = OFF",
    "FLUSH BINARY LOGS",
    "FLUSH BINARY LOGS",
    "SET SESSION binlog_format = STATEMENT",
    "SET @u = 'variable'",
    "INSERT INTO shop.orders (customer) VALUES (CONCAT(@u, RAND() * 0))",
    "SET SESSION binlog_format = ROW",
    "CREATE PROCEDURE shop.p() INSERT INTO shop.orders (customer) VALUES ('called')",
    "CALL shop.p()",
    "XA START 'x'",
    "INSERT INTO shop.orders (customer) VALUES ('xa')",
    "XA END 'x'",
    "XA PREPARE 'x'",
    "XA COMMIT 'x'",
    "ALTER TABLE shop.orders ADD COLUMN late INT DEFAULT 7, ADD INDEX (customer)",
    "TRUNCATE TABLE shop.copied",
];

fn run_in_one_session(server: &TestMysql, statements: &[&str]) {
    let mut sql = server.sql();
    for statement in statements {
        sql.execute(statement).unwrap_or_else(|err| panic!("{statement}: {err}"));
    }
}

#[test]
fn a_replay_reaches_exactly_what_was_planned_whether_transactions_are_merged_or_not() {
    for merges in [false, true] {
        let server = TestMysql::start("");
        server.run(&BEFORE);
        let bench = Bench { merges, ..Bench::clone_of(server) };
        run_in_one_session(&bench.server, &BEHIND);
        run_in_one_session(
            &bench.server,
            &["SET GTID_NEXT = 'AUTOMATIC:nightly'", "INSERT INTO shop.orders (customer) VALUES ('tagged')"],
        );
        let plan = bench.plan(&[]);
        assert_eq!(plan.relay_logs.len(), 2, "a binlog without transactions needs no relay log");
        let before = picture(&bench.server);
        let executed: GtidSet = bench.server.sql().value("SELECT @@GLOBAL.gtid_executed").unwrap().parse().unwrap();
        assert_eq!(bench.replay(&plan, NOTHING).unwrap(), executed);
        bench.switch();
        assert_eq!(picture(&bench.server), before);
        let mut sql = bench.server.sql();
        let found = sql.value("SELECT @@GLOBAL.gtid_executed").unwrap();
        assert_eq!(found.parse::<GtidSet>().unwrap(), executed, "the start used no GTID");
        assert_eq!(sql.rows("SHOW REPLICA STATUS").unwrap().len(), 0);
        // New transactions are another server's: they can't be mistaken for those given up.
        sql.execute("INSERT INTO shop.orders (customer) VALUES ('new')").unwrap();
        let now: GtidSet = sql.value("SELECT @@GLOBAL.gtid_executed").unwrap().parse().unwrap();
        let uuid = sql.value("SELECT @@server_uuid").unwrap();
        assert_eq!(now.without(&executed).to_string(), format!("{uuid}:1"));
        assert!(!executed.to_string().contains(&uuid));
    }
}

#[test]
fn a_skipped_transaction_leaves_an_empty_one_in_its_place_even_on_what_was_a_replica() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    server.run(&["CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'elsewhere', SOURCE_AUTO_POSITION = 1"]);
    let bench = Bench::clone_of(server);
    bench.server.run(&[
        "INSERT INTO shop.orders (customer) VALUES ('ann')",
        "CREATE TABLE shop.t (a INT PRIMARY KEY)",
        "INSERT INTO shop.t VALUES (1)",
    ]);
    let before = picture(&bench.server);
    bench.server.run(&["DROP TABLE shop.t"]);
    let executed: GtidSet = bench.server.sql().value("SELECT @@GLOBAL.gtid_executed").unwrap().parse().unwrap();
    let (source, intervals) = executed.iter().next().unwrap();
    let dropped = MysqlGtid::new(*source, intervals.last().unwrap().last).unwrap();
    let plan = bench.plan(&[Gtid::Mysql(dropped)]);
    assert_eq!(bench.replay(&plan, NOTHING).unwrap(), executed);
    bench.switch();
    assert_eq!(picture(&bench.server), before);
}

#[test]
fn transactions_without_gtids_and_changes_of_the_mode_are_replayed() {
    let server = TestMysql::start("gtid_mode=OFF\nenforce_gtid_consistency=OFF\n");
    server.run(&BEFORE);
    let bench = Bench::clone_of(server);
    assert!(bench.end.executed.is_empty());
    bench.server.run(&[
        "INSERT INTO shop.orders (customer) VALUES ('anonymous')",
        "SET GLOBAL enforce_gtid_consistency = ON",
        "SET GLOBAL gtid_mode = OFF_PERMISSIVE",
        "SET GLOBAL gtid_mode = ON_PERMISSIVE",
        "INSERT INTO shop.orders (customer) VALUES ('with a GTID')",
        "SET GLOBAL gtid_mode = OFF_PERMISSIVE",
        "SET GLOBAL gtid_mode = OFF",
        "INSERT INTO shop.orders (customer) VALUES ('anonymous again')",
    ]);
    let before = picture(&bench.server);
    let plan = bench.plan(&[]);
    assert_eq!(bench.replay(&plan, NOTHING).unwrap().count(), 1);
    bench.switch();
    assert_eq!(picture(&bench.server), before);
}

#[test]
fn a_hole_in_what_is_replayed_is_an_error() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    let bench = Bench::clone_of(server);
    bench.server.run(&[
        "INSERT INTO shop.orders (customer) VALUES ('ann')",
        "INSERT INTO shop.orders (customer) VALUES ('bob')",
    ]);
    let whole = bench.plan(&[]);
    let missing: MysqlGtid = {
        let (source, intervals) = whole.end.executed().iter().next().unwrap();
        MysqlGtid::new(*source, intervals[0].last - 1).unwrap()
    };
    // The server itself notices nothing, and of merged transactions nobody would: there the writer counts them.
    let bench = Bench { merges: false, ..bench };
    let whole = bench.plan(&[]);
    let (relay_logs, _) = bench.relay_logs(&BTreeSet::from([Gtid::Mysql(missing)]));
    let err = bench.replay(&Replay { relay_logs, ..whole }, NOTHING).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert!(err.to_string().contains(&format!("missing `{missing}`")), "{err}");
}

#[test]
fn an_applier_that_fails_says_why() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    let bench = Bench::clone_of(server);
    bench.server.run(&["INSERT INTO shop.orders (id, customer) VALUES (77, 'ann')"]);
    let plan = bench.plan(&[]);
    let spoil = |replayed: &mut Replayed<'_>, _: &[ScheduledEvent]| {
        replayed.sql.execute("INSERT INTO shop.orders (id) VALUES (77)")
    };
    let nothing_yet = Replay { relay_logs: Vec::new(), end: plan.begin.clone(), ..plan.clone() };
    bench.replay(&nothing_yet, &spoil).unwrap();
    let err = bench.replay(&plan, NOTHING).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Tool);
    assert!(err.to_string().contains("Duplicate entry '77'"), "{err}");
}

#[test]
fn events_of_the_scheduler_do_not_run_and_get_back_everything_they_were() {
    const EVENTS: &str = "SELECT EVENT_NAME, STATUS, DEFINER, SQL_MODE, TIME_ZONE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION, \
         EVENT_DEFINITION, INTERVAL_VALUE, STARTS, ON_COMPLETION FROM information_schema.EVENTS ORDER BY 1";
    let server = TestMysql::start("event_scheduler=OFF\n");
    server.run(&BEFORE);
    server.run(&["CREATE EVENT shop.old ON SCHEDULE EVERY 1 SECOND DO DELETE FROM shop.orders"]);
    let bench = Bench::clone_of(server);
    let mode = "SET SESSION sql_mode='ANSI_QUOTES', time_zone='+05:00', character_set_client=latin1";
    run_in_one_session(
        &bench.server,
        &[
            mode,
            "CREATE DEFINER=nobody@'10.%' EVENT shop.\"odd `name\" ON SCHEDULE EVERY 1 SECOND DO DELETE FROM \"orders\"",
            "CREATE EVENT shop.off ON SCHEDULE EVERY 1 SECOND DISABLE DO DELETE FROM shop.orders",
            "ALTER EVENT shop.old COMMENT 'altered'",
        ],
    );
    let before = bench.server.sql().rows(EVENTS).unwrap();
    let plan = bench.plan(&[]);
    let finish = |replayed: &mut Replayed<'_>, events: &[ScheduledEvent]| {
        assert_eq!(events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["old"]);
        for event in replayed.scheduled_events()? {
            assert_eq!(event.status, "REPLICA_SIDE_DISABLED", "{}", event.name);
            let status = if event.name == "off" { "DISABLED" } else { "ENABLED" }.to_owned();
            replayed.set_event_status(&ScheduledEvent { status, ..event })?;
        }
        Ok(())
    };
    bench.replay(&plan, &finish).unwrap();
    bench.switch();
    assert_eq!(bench.server.sql().rows(EVENTS).unwrap(), before);
}

#[test]
fn a_prepared_xa_transaction_survives_and_is_told() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    let bench = Bench::clone_of(server);
    run_in_one_session(
        &bench.server,
        &["XA START 'left'", "INSERT INTO shop.orders (customer) VALUES ('xa')", "XA END 'left'", "XA PREPARE 'left'"],
    );
    let told = std::sync::Mutex::new(Vec::new());
    let finish = |replayed: &mut Replayed<'_>, _: &[ScheduledEvent]| {
        *told.lock().unwrap() = replayed.prepared_xa()?;
        Ok(())
    };
    bench.replay(&bench.plan(&[]), &finish).unwrap();
    assert_eq!(told.into_inner().unwrap(), ["left"]);
    bench.switch();
    bench.server.run(&["XA COMMIT 'left'"]);
}

#[test]
fn a_base_that_is_not_what_was_recorded_is_an_error() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    let mut bench = Bench::clone_of(server);
    bench.end.executed = GtidSet::default();
    let err = bench.replay(&bench.plan(&[]), NOTHING).unwrap_err();
    assert!(err.kind() == ErrorKind::Corrupt && err.to_string().contains("as recorded"), "{err}");
}
