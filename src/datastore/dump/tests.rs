//! Real servers: what is dumped and loaded is what was there.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::load::{LoadSettings, Loaded, load, load_bytes};
use super::manifest::{END, HEAD, parse_end, parse_head};
use super::stream::{DumpSettings, DumpStream, Dumped, Stillness, begin};
use super::testing::{TestMariadb, TestServer, everything, nasty};
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::xbstream::{Checkpoint, StreamTap, Target, unpack};
use crate::domain::datastore::Datastore;
use crate::error::{Error, error_of};
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

fn begin_on(server: &TestServer, dir: &Path, stillness: Stillness) -> Result<DumpStream, Error> {
    let settings = DumpSettings { stillness, dir: dir.to_owned(), log: dir.join("log") };
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

fn comes_back_as_it_was(flavour: Datastore) {
    let source = nasty_server(flavour);
    let work = TempDir::new();
    let dump = work.join("dump");
    let dumped = take(begin_on(&source, &work, Stillness::Snapshot).unwrap(), &dump).unwrap();
    // An event's time comes between dump and load.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let target = server(flavour, &format!("{QUIET}skip_log_bin\n"));
    let loaded = load_into(&target, &dump).unwrap();
    assert_eq!((loaded.entries, loaded.rows), (dumped.entries, dumped.rows));
    target.restart();
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
