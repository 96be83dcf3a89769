use std::collections::BTreeSet;
use std::fs::File;

use super::*;
use crate::binlog::event::FormatDescription;
use crate::binlog::reader::{EventReader, Next};
use crate::binlog::relay::{RelayStats, RelayWriter};
use crate::binlog::scanner::Scanner;
use crate::datastore::mysql::clone::{self, CloneEnd};
use crate::datastore::mysql::inspect;
use crate::datastore::mysql::testing::TestMysql;
use crate::domain::gtid::Gtid;

/// A server, a settled clone of it, and the binlogs from the clone's end on as relay logs.
struct Bench {
    server: TestMysql,
    settings: ScratchSettings,
    end: CloneEnd,
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
        Bench { server, settings, end }
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
            writer.piece(&bytes[..], 0, from, length, skip).unwrap();
            let stats = writer.finish().unwrap();
            all.transactions += stats.transactions;
            all.position.merge(&stats.position);
            if stats.transactions > 0 {
                all.source_end = stats.source_end;
                paths.push(path);
            }
            all.scheduled_events = stats.scheduled_events;
        }
        (paths, all)
    }

    fn plan(&self, skip: &[MysqlGtid], workers: u32) -> Replay {
        let (relay_logs, stats) = self.relay_logs(&skip.iter().copied().map(Gtid::Mysql).collect());
        let mut end = self.end.executed.clone();
        end.unite(stats.position.executed());
        for gtid in skip {
            end.add(gtid);
        }
        Replay { relay_logs, skip: skip.to_vec(), end, source_end: stats.source_end, workers }
    }

    fn replay(&self, plan: &Replay, finish: &Finish<'_>) -> Result<GtidSet, Error> {
        replay(&self.server.tools, &self.settings, plan, &|_| {}, &Arc::new(AtomicBool::new(false)), finish)
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
fn a_replay_reaches_exactly_what_was_planned_with_one_worker_and_with_several() {
    for workers in [1, 4] {
        let server = TestMysql::start("");
        server.run(&BEFORE);
        let bench = Bench::clone_of(server);
        run_in_one_session(&bench.server, &BEHIND);
        run_in_one_session(
            &bench.server,
            &["SET GTID_NEXT = 'AUTOMATIC:nightly'", "INSERT INTO shop.orders (customer) VALUES ('tagged')"],
        );
        let plan = bench.plan(&[], workers);
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
    let dropped = MysqlGtid::new(source.clone(), intervals.last().unwrap().last).unwrap();
    let plan = bench.plan(&[dropped], 1);
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
    let plan = bench.plan(&[], 1);
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
    let whole = bench.plan(&[], 1);
    let missing: MysqlGtid = {
        let (source, intervals) = whole.end.iter().next().unwrap();
        MysqlGtid::new(source.clone(), intervals[0].last - 1).unwrap()
    };
    // The server itself notices nothing.
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
    let plan = bench.plan(&[], 1);
    let spoil = |sql: &mut Sql, _: &[ScheduledEvent]| sql.execute("INSERT INTO shop.orders (id) VALUES (77)");
    let nothing_yet = Replay { relay_logs: Vec::new(), end: bench.end.executed.clone(), ..plan.clone() };
    bench.replay(&nothing_yet, &spoil).unwrap();
    let err = bench.replay(&plan, NOTHING).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Tool);
    assert!(err.to_string().contains("Duplicate entry '77'"), "{err}");
}

#[test]
fn events_of_the_scheduler_do_not_run_and_are_told() {
    let server = TestMysql::start("");
    server.run(&BEFORE);
    server.run(&[
        "CREATE EVENT shop.before ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.orders (customer) VALUES ('event')",
    ]);
    server.run(&["SET GLOBAL event_scheduler = OFF"]);
    let bench = Bench::clone_of(server);
    bench.server.run(&[
        "CREATE EVENT shop.behind ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.orders (customer) VALUES ('event')",
        "ALTER EVENT shop.before COMMENT 'altered'",
    ]);
    let (_, stats) = bench.relay_logs(&BTreeSet::new());
    let plan = bench.plan(&[], 1);
    let told = std::sync::Mutex::new(Vec::new());
    let finish = |sql: &mut Sql, events: &[ScheduledEvent]| {
        let now = scheduled_events(sql)?.into_iter().map(|event| (event.name, event.status));
        told.lock().unwrap().extend(events.iter().map(|event| (event.name.clone(), event.status.clone())).chain(now));
        Ok(())
    };
    bench.replay(&plan, &finish).unwrap();
    let mut told = told.into_inner().unwrap();
    told[1..].sort();
    let expected = [("before", "ENABLED"), ("before", "REPLICA_SIDE_DISABLED"), ("behind", "REPLICA_SIDE_DISABLED")];
    assert_eq!(told, expected.map(|(name, status)| (name.to_owned(), status.to_owned())));
    let source: Vec<String> =
        stats.scheduled_events.iter().map(|(event, status)| format!("{} {status:?}", event.name)).collect();
    assert_eq!(source.last().unwrap(), "behind Enabled");
}
