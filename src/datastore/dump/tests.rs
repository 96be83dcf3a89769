//! Real servers: what is dumped and loaded is what was there.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::load::{LoadSettings, Loaded, load, load_bytes};
use super::manifest::{END, HEAD, parse_end, parse_head};
use super::stream::{DumpSettings, DumpStream, Dumped, LockPatience, Stillness, begin, binlog_position};
use super::survey;
use super::testing::{TestMariadb, TestServer, everything, nasty};
use crate::clock::Stopwatch;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::sql::{Access, Secret};
use crate::datastore::xbstream::{Checkpoint, StreamTap, Target, unpack};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind, error_of};
use crate::process::Cmd;
use crate::testing::TempDir;

const QUIET: &str = "event_scheduler=OFF\nmax_allowed_packet=1G\n";

fn server(flavour: Datastore, options: &str) -> TestServer {
    match flavour {
        Datastore::Mariadb => TestServer::MariaDb(TestMariadb::start(options)),
        Datastore::Mysql => TestServer::MySql(TestMysql::start(options)),
    }
}

fn nasty_server(flavour: Datastore) -> TestServer {
    let server = server(flavour, QUIET);
    let (first, more) = match flavour {
        Datastore::Mariadb => (nasty::MARIADB_FIRST, nasty::MARIADB),
        Datastore::Mysql => (&[][..], nasty::MYSQL),
    };
    server.run(first);
    server.run(nasty::COMMON);
    server.run(more);
    server
}

fn settings(stillness: Stillness, dir: &Path) -> DumpSettings {
    let lock = LockPatience { wait_seconds: 2, tries: 2, pause: Duration::from_millis(300) };
    DumpSettings { stillness, lock, dir: dir.to_owned(), log: dir.join("log") }
}

fn begin_on(server: &TestServer, dir: &Path, stillness: Stillness) -> Result<DumpStream, Error> {
    let settings = settings(stillness, dir);
    begin(&server.dump_tools(), &server.access(), &settings, &Arc::default())
}

/// Reads it to its end as the pipeline would, and unpacks it.
fn take(mut stream: DumpStream, into: &Path) -> Result<Dumped, Error> {
    let elsewhere = TempDir::new();
    let (mut tap, mut bytes, mut buffer) = (StreamTap::new(&[HEAD, END]), Vec::new(), vec![0; 70_001]);
    loop {
        let length = stream.read(&mut buffer).map_err(|err| error_of(err, "reading"))?;
        if length == 0 {
            break;
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            rest = &rest[tap.push(rest)?.bytes..];
        }
        bytes.extend_from_slice(&buffer[..length]);
    }
    let dumped = stream.finish()?;
    let kept = tap.finish()?;
    assert_eq!(parse_head(&kept[HEAD])?.position, dumped.position);
    let end = parse_end(&kept[END])?;
    assert_eq!((end.entries, end.rows, &end.warnings), (dumped.entries, dumped.rows, &dumped.warnings));
    std::fs::create_dir(into).unwrap();
    let ledger = elsewhere.join("ledger");
    let target = Target { dir: into, ledger: &ledger, stream: "s", checkpoint_bytes: u64::MAX };
    unpack(&bytes[..], &target, &Checkpoint::default(), &AtomicU64::new(0), &AtomicBool::new(false))?;
    Ok(dumped)
}

fn load_into(server: &TestServer, dump: &Path) -> Result<Loaded, Error> {
    let settings = LoadSettings::new(server.dir().to_path_buf(), server.dir().join("load.log"));
    let progress = AtomicU64::new(0);
    let loaded = load(&server.dump_tools(), &server.access(), dump, &settings, &progress, &Arc::default())?;
    assert_eq!(progress.load(Ordering::Relaxed), load_bytes(dump)?, "progress ends at its total");
    Ok(loaded)
}

const WRITERS: usize = 3;

/// Makes what `while_busy` writes to.
fn make_busy(server: &TestServer) {
    server.run(&[
        "CREATE DATABASE busy",
        "CREATE TABLE busy.counter (writer INT PRIMARY KEY, n INT)",
        "CREATE TABLE busy.log (n INT AUTO_INCREMENT PRIMARY KEY, writer INT)",
        "INSERT INTO busy.counter VALUES (0, 0), (1, 0), (2, 0)",
    ]);
}

/// Writes while something is done. Every transaction adds one to a counter, which may be one for all writers.
fn while_busy<T>(server: &TestServer, counters: usize, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let stop = &stop;
            scope.spawn(move || {
                let mut sql = server.sql();
                while !stop.load(Ordering::Relaxed) {
                    for statement in [
                        "BEGIN",
                        &format!("UPDATE busy.counter SET n = n + 1 WHERE writer = {}", writer % counters),
                        &format!("INSERT INTO busy.log (writer) VALUES ({writer})"),
                        "COMMIT",
                    ] {
                        sql.execute(statement).unwrap();
                    }
                }
            });
        }
        let result = during();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Transactions that the binlog holds before a place.
fn transactions(server: &TestServer, before: &BinlogPosition) -> usize {
    let events = server.sql().rows(&format!("SHOW BINLOG EVENTS IN '{}'", before.file)).unwrap();
    let ends_before = |row: &&Vec<String>| row[2] == "Xid" && row[4].parse::<u64>().unwrap() <= before.position;
    events.iter().filter(ends_before).count()
}

fn comes_back_as_it_was(flavour: Datastore) {
    let source = nasty_server(flavour);
    make_busy(&source);
    let quiet = transactions(&source, &binlog_position(&mut source.sql()).unwrap());
    let warnings = survey::warnings(&mut source.sql(), false).unwrap();
    let work = TempDir::new();
    let dump = work.join("dump");
    let dumped = while_busy(&source, WRITERS, || {
        std::thread::sleep(Duration::from_millis(300));
        take(begin_on(&source, &work, Stillness::Snapshot).unwrap(), &dump).unwrap()
    });
    let committed = transactions(&source, &dumped.position) - quiet;
    let later = transactions(&source, &dumped.read_until) - quiet;
    assert!(committed > 10 && later > committed + 10, "{committed} {later}: nothing was written meanwhile");
    // An event's time comes between dump and load.
    std::thread::sleep(Duration::from_secs(4));
    let target = server(flavour, &format!("{QUIET}skip_log_bin\n"));
    let loaded = load_into(&target, &dump).unwrap();
    assert_eq!((loaded.entries, loaded.rows), (dumped.entries, dumped.rows));
    target.restart();
    let facts = target.sql().rows("SELECT (SELECT SUM(n) FROM busy.counter), COUNT(*) FROM busy.log").unwrap();
    assert_eq!(facts, [[(); 2].map(|()| committed.to_string())], "the rows are not those of the place in the binlog");
    let (expected, found) = (everything(&mut source.sql()), everything(&mut target.sql()));
    let mut differences = Vec::new();
    for question in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(question), found.get(question));
        if expected != found && !differences.iter().any(|text: &String| text.contains(question)) {
            differences.push(format!("{question}\n   was {expected:?}\n   is  {found:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(expected.len() > 80, "{}", expected.len());
    assert!(dumped.warnings.iter().any(|text| text.contains("`plain.my`")), "{:?}", dumped.warnings);
    assert!(dumped.warnings.iter().any(|text| text.contains("`plain.broken`")), "{:?}", dumped.warnings);
    assert!(
        dumped.warnings.iter().any(|text| text.contains("rounds those of `plain.floats`")),
        "{:?}",
        dumped.warnings
    );
    assert!(dumped.warnings.starts_with(&warnings), "they are known without a dump: {warnings:?}");
    assert!(!work.join("dump.cnf").exists());
}

#[test]
fn mariadb_comes_back_as_it_was() {
    comes_back_as_it_was(Datastore::Mariadb);
}

#[test]
fn mysql_comes_back_as_it_was() {
    comes_back_as_it_was(Datastore::Mysql);
}

/// What a dump that is given up leaves behind, and says.
fn fails(outcome: Result<Dumped, Error>, kind: ErrorKind, says: &str) {
    let err = outcome.unwrap_err();
    assert_eq!(err.kind(), kind, "{err}");
    assert!(err.message().contains(says), "{err}");
}

/// The schema comes last: MariaDB keeps definitions of tables that have been read as they are until the dump ends.
fn changes_while_dumping_are_refused(flavour: Datastore) {
    let server = server(flavour, QUIET);
    server.run(&[
        "CREATE DATABASE zz",
        "CREATE TABLE zz.t (a INT)",
        "INSERT INTO zz.t VALUES (1)",
        "CREATE USER u@localhost",
    ]);
    let work = TempDir::new();
    let dump = |change: &str, back: &str, nth: u32| {
        let stream = begin_on(&server, &work, Stillness::Snapshot).unwrap();
        server.run(&[change]);
        let taken = take(stream, &work.join(nth.to_string()));
        server.run(&[back]);
        taken
    };
    let changes = [
        ("CREATE TABLE zz.n (a INT)", "DROP TABLE zz.n", "n`"),
        ("CREATE VIEW zz.v AS SELECT 1", "DROP VIEW zz.v", "zz.v"),
        ("CREATE PROCEDURE zz.p() SELECT 1", "DROP PROCEDURE zz.p", "zz.p"),
        ("CREATE TRIGGER zz.r BEFORE INSERT ON zz.t FOR EACH ROW SET @a = 1", "DROP TRIGGER zz.r", "zz.r"),
        ("CREATE EVENT zz.e ON SCHEDULE EVERY 1 DAY DO SET @a = 1", "DROP EVENT zz.e", "zz.e"),
    ];
    for (nth, (change, back, name)) in (0..).zip(changes) {
        fails(dump(change, back, nth), ErrorKind::Conflict, name);
    }
    // MySQL keeps its accounts in transactional tables.
    let account = dump("CREATE USER w@localhost", "DROP USER w@localhost", 10);
    match flavour {
        Datastore::Mariadb => fails(account, ErrorKind::Conflict, "mysql.global_priv"),
        Datastore::Mysql => drop(account.unwrap()),
    }
    // Rows may come and go, and sessions have tables of their own.
    dump("INSERT INTO zz.t VALUES (2)", "DELETE FROM zz.t", 11).unwrap();
    dump("CREATE TEMPORARY TABLE zz.own (a INT)", "SELECT 1", 12).unwrap();
}

#[test]
fn mariadb_definitions_that_change_meanwhile_end_the_dump() {
    changes_while_dumping_are_refused(Datastore::Mariadb);
}

#[test]
fn mysql_definitions_that_change_meanwhile_end_the_dump() {
    changes_while_dumping_are_refused(Datastore::Mysql);
}

fn locked_tables_are_of_one_moment(flavour: Datastore) {
    let server = server(flavour, QUIET);
    server.run(&["CREATE DATABASE d", "CREATE TABLE d.t (a INT) ENGINE = MyISAM", "INSERT INTO d.t VALUES (1)"]);
    let work = TempDir::new();
    let stream = begin_on(&server, &work, Stillness::Locked).unwrap();
    let mut sql = server.sql();
    sql.execute("SET SESSION lock_wait_timeout = 1").unwrap();
    assert!(sql.execute("INSERT INTO d.t VALUES (2)").is_err(), "it is locked");
    let dumped = take(stream, &work.join("locked")).unwrap();
    assert_eq!(dumped.warnings, [""; 0]);
    sql.execute("INSERT INTO d.t VALUES (3)").unwrap();
    // With a snapshot it is said that a table was written meanwhile.
    let stream = begin_on(&server, &work, Stillness::Snapshot).unwrap();
    std::thread::sleep(Duration::from_millis(1100)); // The server knows the second.
    server.run(&["INSERT INTO d.t VALUES (4)"]);
    let dumped = take(stream, &work.join("snapshot")).unwrap();
    assert!(dumped.warnings.iter().any(|text| text.contains("written while") && text.contains("`d.t`")), "{dumped:?}");
}

#[test]
fn mariadb_locked_tables_are_of_one_moment() {
    locked_tables_are_of_one_moment(Datastore::Mariadb);
}

#[test]
fn mysql_locked_tables_are_of_one_moment() {
    locked_tables_are_of_one_moment(Datastore::Mysql);
}

#[test]
fn a_dump_that_is_not_whole_is_not_loaded_and_an_error_names_file_and_reason() {
    let source = server(Datastore::Mariadb, QUIET);
    source.run(&["CREATE DATABASE d", "CREATE TABLE d.t (a INT PRIMARY KEY)", "INSERT INTO d.t VALUES (1), (2)"]);
    source.run(&["CREATE TABLE d.u (a INT)", "INSERT INTO d.u VALUES (1)", "CREATE VIEW d.v AS SELECT a FROM d.t"]);
    let work = TempDir::new();
    let dump = work.join("dump");
    take(begin_on(&source, &work, Stillness::Snapshot).unwrap(), &dump).unwrap();
    let target = server(Datastore::Mariadb, &format!("{QUIET}skip_log_bin\n"));
    let file = |dir: &str, end: &str| -> PathBuf {
        let mut files = std::fs::read_dir(dump.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.to_str().unwrap().ends_with(end)).unwrap()
    };
    let rows = file("data", "d.t.sql");
    let refused = |path: &Path, change: &dyn Fn(String) -> Option<String>, kind: ErrorKind, says: &[&str]| {
        let whole = std::fs::read(path).unwrap();
        match change(String::from_utf8(whole.clone()).unwrap()) {
            Some(text) => crate::durable::write(path, text.as_bytes(), 0o600).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let err = load_into(&target, &dump).unwrap_err();
        crate::durable::write(path, &whole, 0o600).unwrap();
        target.run(&["DROP DATABASE IF EXISTS d"]);
        assert_eq!(err.kind(), kind, "{err}");
        assert!(says.iter().all(|says| err.message().contains(says)), "{err}");
    };
    let replaced = |from: &'static str, to: &'static str| {
        move |text: String| {
            assert!(text.contains(from), "{text}");
            Some(text.replace(from, to))
        }
    };
    refused(&dump.join(END), &|_| None, ErrorKind::NotFound, &[END]);
    refused(&rows, &|_| None, ErrorKind::Corrupt, &["d.t.sql", "not there"]);
    refused(&rows, &replaced("(1),", ""), ErrorKind::Corrupt, &["`d`.`t` holds 1 rows and not 2"]);
    refused(&rows, &replaced("INTO `t`", "INTO `x`"), ErrorKind::Tool, &["d.t.sql", "ERROR 1146"]);
    refused(
        &file("tables", "d.u.sql"),
        &replaced("CREATE TABLE", "CREATE TABEL"),
        ErrorKind::Tool,
        &["d.u.sql", "ERROR 1064"],
    );
    refused(
        &file("views", "d.v.sql"),
        &replaced("VIEW `v` AS", "VIEW `w` AS"),
        ErrorKind::Corrupt,
        &["not there: `d.v`"],
    );
    refused(
        &dump.join("coffer-dump-list.jsonl"),
        &replaced("\"rows\":2", "\"rows\":3"),
        ErrorKind::Corrupt,
        &["do not agree"],
    );
    assert_eq!(load_into(&target, &dump).unwrap().head.flavour, Datastore::Mariadb);
    let left: Vec<_> =
        std::fs::read_dir(target.dir().to_path_buf()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "load.cnf" || name.to_str().unwrap().contains("batch")), "{left:?}");
}

#[test]
fn a_dump_can_be_stopped_and_so_can_a_load() {
    let source = server(Datastore::Mariadb, QUIET);
    source.run(&["CREATE DATABASE d", "CREATE TABLE d.t (a LONGBLOB)"]);
    source.run(&[
        "INSERT INTO d.t SELECT REPEAT('x', 4000000) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4) x",
    ]);
    let work = TempDir::new();
    let settings = settings(Stillness::Snapshot, &work);
    let cancelled = Arc::new(AtomicBool::new(false));
    let stream = begin(&source.dump_tools(), &source.access(), &settings, &cancelled).unwrap();
    assert!(stream.position().is_some());
    cancelled.store(true, Ordering::Relaxed);
    fails(take(stream, &work.join("stopped")), ErrorKind::Interrupted, "was stopped");
    take(begin_on(&source, &work, Stillness::Snapshot).unwrap(), &work.join("dump")).unwrap();
    let settings = LoadSettings::new(work.to_path_buf(), work.join("log"));
    let loaded =
        load(&source.dump_tools(), &source.access(), &work.join("dump"), &settings, &AtomicU64::new(0), &cancelled);
    assert_eq!(loaded.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn a_password_stands_in_no_argument_and_by_hand_the_files_are_the_same() {
    let password = "ge'h;\"e\\im #x";
    let source = server(Datastore::Mariadb, QUIET);
    source.run(&[
        "CREATE USER b@localhost IDENTIFIED BY 'ge''h;\"e\\\\im #x'",
        "GRANT ALL ON *.* TO b@localhost",
        "CREATE DATABASE d",
        "CREATE TABLE d.t (a INT)",
        "INSERT INTO d.t VALUES (1)",
    ]);
    let access = Access { user: "b".to_owned(), password: Some(Secret::new(password.to_owned())), ..source.access() };
    let work = TempDir::new();
    let settings = settings(Stillness::Snapshot, &work);
    let mut stream = begin(&source.dump_tools(), &access, &settings, &Arc::default()).unwrap();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(work.join("dump.cnf")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.finish().unwrap();
    assert!(!work.join("dump.cnf").exists());
    let by_hand = work.join("by-hand");
    std::fs::create_dir(&by_hand).unwrap();
    crate::durable::write(&work.join("stream"), &bytes, 0o600).unwrap();
    let stream = std::fs::File::open(work.join("stream")).unwrap();
    Cmd::new("mbstream").arg("-x").arg("-C").arg(&by_hand).stdin(stream).run().unwrap();
    let ours = work.join("ours");
    std::fs::create_dir(&ours).unwrap();
    let target = Target { dir: &ours, ledger: &work.join("l"), stream: "s", checkpoint_bytes: u64::MAX };
    unpack(&bytes[..], &target, &Checkpoint::default(), &AtomicU64::new(0), &AtomicBool::new(false)).unwrap();
    Cmd::new("diff").arg("-r").arg(&by_hand).arg(&ours).run().unwrap();
    let rows = std::fs::read_dir(ours.join("data")).unwrap().count();
    assert_eq!(rows, 1);
}

#[test]
fn on_mysql_a_lock_that_is_not_to_be_had_is_not_waited_for_long() {
    let server = server(Datastore::Mysql, QUIET);
    make_busy(&server);
    let work = TempDir::new();
    // All write to one row, in transactions of several statements.
    while_busy(&server, 1, || {
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..3 {
            let begun = Stopwatch::start();
            let outcome = begin_on(&server, &work, Stillness::Snapshot);
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            // It may have been given between two transactions.
            if let Err(err) = outcome {
                assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
                assert!(err.message().contains("the lock to read the binlog's place under"), "{err}");
            }
        }
    });
}
