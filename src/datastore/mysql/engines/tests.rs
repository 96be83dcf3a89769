use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};

use super::*;
use crate::datastore::dump;
use crate::datastore::dump::stream::{DumpSettings, Stillness};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::mysql::clone;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::owner::Owner;
use crate::datastore::xbstream::{Checkpoint, Target, unpack};

fn server() -> TestMysql {
    let server = TestMysql::start("");
    server.run(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.old (a INT AUTO_INCREMENT PRIMARY KEY) ENGINE=MyISAM",
        "CREATE TABLE shop.new (a INT)",
        "INSERT INTO shop.old VALUES (1), (2)",
    ]);
    server
}

fn patience(tries: u32) -> LockPatience {
    LockPatience { wait_seconds: 1, tries, pause: Duration::from_millis(100) }
}

fn hold(server: &TestMysql, tries: u32) -> Result<Held, Error> {
    Held::take(&server.access(), &patience(tries), &|| Ok(())).map(Option::unwrap)
}

/// Whether somebody else can write to the held table; to the other one everybody can.
fn can_write(server: &TestMysql) -> bool {
    let mut sql = server.sql();
    sql.execute("SET SESSION lock_wait_timeout = 1").unwrap();
    sql.execute("INSERT INTO shop.new VALUES (1)").unwrap();
    sql.rows("SELECT * FROM shop.old").unwrap();
    sql.execute("INSERT INTO shop.old VALUES ()").is_ok()
}

/// Dumps the held tables and has a clone made; returns the text with the rows.
fn dump_and_clone(server: &TestMysql, access: &Access, held: &Held) -> String {
    let (own, into, around) = (server.dir.join("own"), server.dir.join("into"), server.dir.join("work"));
    for dir in [&own, &into, &around] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let version = server.sql().value("SELECT VERSION()").unwrap();
    let tools = DumpTools::of(&server.tools, &version).unwrap();
    let log = own.join("log");
    let settings = DumpSettings { stillness: Stillness::Locked, lock: patience(1), dir: own, log };
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut stream = dump::stream::begin_of_held(&tools, access, &settings, &held.tables, &cancelled).unwrap();
    let ledger = server.dir.join("ledger");
    let target = Target { dir: &into, ledger: &ledger, stream: "s", checkpoint_bytes: u64::MAX };
    unpack(&mut stream, &target, &Checkpoint::default(), &AtomicU64::new(0), &cancelled).unwrap();
    let dumped = stream.finish().unwrap();
    assert_eq!((dumped.entries, dumped.rows), (1, 2));
    let owner = Owner::of_path(&server.server.data_dir).unwrap();
    clone::make(access, owner, &around.join("clone"), &|_, _| {}, &cancelled).unwrap();
    rows_in(&into)
}

fn rows_in(dump: &Path) -> String {
    let files = std::fs::read_dir(dump.join("data")).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn what_is_held_still_waits_and_the_rest_goes_on() {
    let server = server();
    let held = hold(&server, 1).unwrap();
    assert_eq!(held.names(), "`shop.old`");
    assert!(!can_write(&server), "held");
    let rows = dump_and_clone(&server, &server.access(), &held);
    assert!(rows.contains("VALUES (1),(2);"), "{rows}");
    assert!(!can_write(&server), "held still");
    held.release().unwrap();
    assert!(can_write(&server));

    let held = hold(&server, 1).unwrap();
    server.run(&[&format!("KILL {}", held.connection)]);
    assert!(can_write(&server), "a lock ends with its connection");
    let lost = held.release().unwrap_err();
    assert!(lost.kind() == ErrorKind::Unavailable && lost.message().contains("was lost"), "{lost}");
}

#[test]
fn a_lock_that_is_not_to_be_had_the_gentle_way_is_asked_for_the_other_way() {
    let server = server();
    let mut writer = server.sql();
    writer.execute("BEGIN").unwrap();
    writer.execute("INSERT INTO shop.old VALUES ()").unwrap();
    let err = hold(&server, 2).map(drop).unwrap_err();
    assert!(err.kind() == ErrorKind::Unavailable && err.message().contains("was not to be had"), "{err}");

    writer.execute("COMMIT").unwrap();
    server.run(&["DELETE FROM shop.old WHERE a > 2"]);
    writer.execute("BEGIN").unwrap();
    writer.execute("DELETE FROM shop.old WHERE a = 9").unwrap();
    let (asked, was_asked) = mpsc::channel();
    let held = std::thread::scope(|scope| {
        scope.spawn(move || {
            was_asked.recv().unwrap();
            writer.execute("COMMIT").unwrap();
        });
        // Behind the first try.
        let look = || {
            let _ = asked.send(());
            Ok(())
        };
        Held::take(&server.access(), &patience(2), &look).unwrap().unwrap()
    });
    assert!(!can_write(&server), "held");
    let rows = dump_and_clone(&server, &server.access(), &held);
    assert!(rows.contains("VALUES (1),(2);"), "{rows}");
    held.release().unwrap();
    assert!(can_write(&server));
}

#[test]
fn an_account_that_lacks_nothing_can_hold_and_dump() {
    use crate::datastore::mysql::inspect::inspect;
    use crate::datastore::sql::Secret;
    use crate::domain::backup::{OtherEngines, Strategy};

    let server = server();
    server.run(&["CREATE USER weak@localhost IDENTIFIED BY 'a pass'"]);
    let access =
        Access { user: "weak".to_owned(), password: Some(Secret::new("a pass".to_owned())), ..server.access() };
    let look = || inspect(&mut Sql::connect(&access).unwrap(), Strategy::Clone, OtherEngines::Dump).unwrap();
    for problem in look().problems {
        server.run(&[problem.mend.strip_prefix("Run as an administrator: ").unwrap()]);
    }
    let found = look();
    assert_eq!(found.problems, []);
    assert_eq!(found.warnings, [format!("not InnoDB's, so that {WHO_WAITS}: `shop.old`")]);
    let held = Held::take(&access, &patience(1), &|| Ok(())).unwrap().unwrap();
    let rows = dump_and_clone(&server, &access, &held);
    assert!(rows.contains("VALUES (1),(2);"), "{rows}");
    held.release().unwrap();
    // The other way to lock.
    Sql::connect(&access).unwrap().execute(&lock_statement(&[table("shop", "old")], 1)).unwrap();
}

fn table(schema: &str, name: &str) -> TableName {
    TableName { schema: schema.to_owned(), name: name.to_owned() }
}

#[test]
fn names_are_quoted_and_refusals_name_the_setting() {
    let tables = [table("a`b", "c"), table("d", "e f")];
    assert_eq!(lock_statement(&tables, 0), "LOCK TABLES `a``b`.`c` READ, `d`.`e f` READ");
    assert_eq!(lock_statement(&tables, 1), "FLUSH TABLES `a``b`.`c`, `d`.`e f` WITH READ LOCK");
    let of = |engine: &str| OtherTable { table: table("shop", "old"), engine: engine.to_owned() };
    let [myisam, memory] = ["MyISAM", "MEMORY"].map(of);
    let refused = refuse([&myisam, &memory]).unwrap_err().to_string();
    assert!(refused.contains("`shop.old` is of engine MyISAM (and 1 more)"), "{refused}");
    assert!(refused.contains("other_engines = \"dump\""), "{refused}");
    assert!(!refuse([&memory]).unwrap_err().to_string().contains("other_engines"));
    refuse([]).unwrap();
}
