//! What stands in the way of a MySQL server, each thing on a real one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::datastore::mysql::clone;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::owner::Owner;
use crate::datastore::sql::{Access, Secret};
use crate::durable;

fn found_by(server: &TestMysql, access: &Access, strategy: Strategy) -> Vec<String> {
    let findings = inspect(&mut Sql::connect(access).unwrap(), strategy, OtherEngines::Refuse).unwrap();
    let problems = findings.problems.into_iter().map(|problem| problem.what);
    let all = problems.chain(findings.warnings.into_iter().map(|warning| format!("({warning})")));
    all.map(|line| line.replace(&*server.dir.to_string_lossy(), "DIR")).collect()
}

fn found(server: &TestMysql) -> Vec<String> {
    found_by(server, &server.access(), Strategy::Clone)
}

/// Adds lines to the option file of the stopped server.
fn reconfigure(server: &TestMysql, lines: &str) {
    let options = std::fs::read_to_string(&server.server.defaults_file).unwrap();
    let options = options.replace("[client]", &format!("{lines}\n[client]"));
    durable::write(&server.server.defaults_file, options.as_bytes(), 0o644).unwrap();
}

/// An account of these privileges alone.
fn account(server: &TestMysql, privileges: &[&str]) -> Access {
    server.run(&["CREATE USER weak@localhost IDENTIFIED BY 'a pass'"]);
    if !privileges.is_empty() {
        server.run(&[&format!("GRANT {} ON *.* TO weak@localhost", privileges.join(", "))]);
    }
    Access { user: "weak".to_owned(), password: Some(Secret::new("a pass".to_owned())), ..server.access() }
}

#[test]
fn nothing_stands_in_the_way_on_a_server_that_was_created() {
    let server = TestMysql::start("");
    assert_eq!(found(&server), [""; 0]);
    let layout = layout(&mut server.sql()).unwrap();
    assert_eq!(layout.first(), Some(&("innodb_page_size".to_owned(), "16384".to_owned())));
}

#[test]
fn everything_in_the_way_is_named() {
    let server = TestMysql::start("binlog_format=STATEMENT\ngtid_mode=OFF\nenforce_gtid_consistency=OFF\n");
    let away = server.dir.join("away");
    std::fs::create_dir(&away).unwrap();
    server.stop();
    reconfigure(&server, &format!("innodb_directories={}\nskip_log_replica_updates", away.display()));
    server.start_again();
    server.run(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.old (a INT) ENGINE=MyISAM",
        "CREATE TABLE shop.nowhere (a INT) ENGINE=BLACKHOLE",
        &format!("CREATE TABLESPACE far ADD DATAFILE '{}/far.ibd'", away.display()),
        &format!("CREATE UNDO TABLESPACE more ADD DATAFILE '{}/more.ibu'", away.display()),
        "SET PERSIST max_connections = 21",
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'elsewhere'",
        "UNINSTALL PLUGIN clone",
    ]);
    let common = [
        "tablespace `far` lies outside the data directory, in `DIR/away/far.ibd`",
        "tablespace `more` lies outside the data directory, in `DIR/away/more.ibu`",
        "the server is a replica that does not write to its binlog what it gets (log_replica_updates is off)",
        "(gtid_mode is OFF: transactions are known by their place in the binlog only)",
    ];
    let statement = "binlog_format is STATEMENT: replaying statements may give other rows than the server had";
    let replica = "(the server is a replica: a recovery makes it forget its source)";
    let persisted = "(settings made with SET PERSIST are in no clone: max_connections)";
    let mut of_clone = vec![
        statement,
        "the clone plugin is not installed",
        "table `shop.old` is of engine MyISAM: a clone would hold it without its rows",
    ];
    of_clone.extend(common);
    of_clone.extend([persisted, replica]);
    assert_eq!(found(&server), of_clone);
    let mut of_dump = vec![statement];
    of_dump.extend(common);
    of_dump.extend([persisted, replica]);
    assert_eq!(found_by(&server, &server.access(), Strategy::Dump), of_dump);
}

#[test]
fn a_dump_is_warned_of_tables_without_transactions() {
    let mut server = TestMysql::start("");
    server.run(&["CREATE DATABASE shop", "CREATE TABLE shop.old (a INT) ENGINE=MyISAM"]);
    server.tools.strategy = Strategy::Dump;
    let findings = crate::datastore::inspect::inspect(&server.tools, &mut server.sql()).unwrap();
    assert_eq!(findings.problems, []);
    assert!(
        findings.warnings.iter().any(|it| it.contains("not transactional") && it.contains("shop.old")),
        "{findings:?}"
    );
    server.run(&["CREATE TABLESPACE own ADD DATAFILE 'own.ibd'", "CREATE TABLE shop.o (a INT) TABLESPACE own"]);
    let findings = crate::datastore::inspect::inspect(&server.tools, &mut server.sql()).unwrap();
    assert!(findings.problems.iter().any(|it| it.what.contains("tablespaces of their own")), "{findings:?}");
}

#[test]
fn redo_and_undo_outside_the_data_directory_are_named() {
    let server = TestMysql::start("");
    server.stop();
    for name in ["redo", "undo", "pages"] {
        std::fs::create_dir(server.dir.join(name)).unwrap();
    }
    for (dir, prefix) in [("undo", "undo_"), ("pages", "#ib_")] {
        for file in std::fs::read_dir(&server.server.data_dir).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with(prefix) {
                std::fs::rename(file.path(), server.dir.join(dir).join(file.file_name())).unwrap();
            }
        }
    }
    let redo = "#innodb_redo";
    std::fs::rename(server.server.data_dir.join(redo), server.dir.join("redo").join(redo)).unwrap();
    let dir = server.dir.display();
    let places = format!(
        "innodb_log_group_home_dir={dir}/redo\ninnodb_undo_directory={dir}/undo\ninnodb_doublewrite_dir={dir}/pages"
    );
    reconfigure(&server, &places);
    server.start_again();
    let found = found(&server);
    for (setting, place) in
        [("innodb_log_group_home_dir", "redo"), ("innodb_undo_directory", "undo"), ("innodb_doublewrite_dir", "pages")]
    {
        let line = format!("{setting} is `DIR/{place}`, outside the data directory: a recovery could not exchange it");
        assert!(found.iter().any(|found| found.replace("/`", "`") == line), "{setting}: {found:#?}");
    }
    assert!(found.iter().any(|line| line.starts_with("tablespace `innodb_undo_001` lies outside")), "{found:#?}");
}

#[test]
fn what_is_encrypted_with_a_keyring_is_named() {
    let server = TestMysql::start_with_keyring("");
    server.run(&[
        "CREATE DATABASE safe",
        "CREATE TABLE safe.t (a INT) ENCRYPTION = 'Y'",
        "SET GLOBAL binlog_encryption = ON",
        "SET GLOBAL innodb_redo_log_encrypt = ON",
    ]);
    assert_eq!(
        found(&server),
        [
            "the binlogs are encrypted (binlog_encryption is on): read from disk they are useless without the server's keys",
            "tablespace `safe/t`, what innodb_redo_log_encrypt covers are encrypted with the server's keyring, which is in no \
             backup",
        ]
    );
}

#[test]
fn a_plugin_that_cannot_be_installed_is_named() {
    let server = TestMysql::start_with_keyring("");
    server.run(&["UNINSTALL PLUGIN clone"]);
    std::fs::remove_file(server.dir.join("plugins/mysql_clone.so")).unwrap();
    assert_eq!(found(&server), ["the clone plugin is not installed, and `DIR/plugins/mysql_clone.so` does not exist"]);
}

#[test]
fn a_server_without_a_binlog_and_an_account_without_rights_are_named() {
    let server = TestMysql::start("skip_log_bin\n");
    let access = account(&server, &[]);
    let no_binlog = "the server writes no binlog (log_bin is off), so nothing after a backup could be recovered";
    let lacks = |privilege: &str| format!("weak@localhost lacks the privilege {privilege}");
    assert_eq!(found(&server), [no_binlog]);
    let named: Vec<String> = ["PROCESS", "SELECT", "BACKUP_ADMIN"].map(lacks).into();
    assert_eq!(found_by(&server, &access, Strategy::Clone), [vec![no_binlog.to_owned()], named].concat());
    let findings = inspect(&mut Sql::connect(&access).unwrap(), Strategy::Clone, OtherEngines::Refuse).unwrap();
    assert_eq!(
        findings.problems.last().unwrap().mend,
        "Run as an administrator: GRANT BACKUP_ADMIN ON *.* TO 'weak'@'localhost';"
    );
}

#[test]
fn an_account_that_lacks_nothing_can_look_clone_and_watch() {
    let server = TestMysql::start("");
    let access = account(&server, &["PROCESS", "SELECT", "BACKUP_ADMIN"]);
    assert_eq!(found_by(&server, &access, Strategy::Clone), [""; 0]);
    let mut sql = Sql::connect(&access).unwrap();
    assert!(clone::disk_need(&mut sql).unwrap() > 1 << 20);
    std::fs::create_dir(server.dir.join("work")).unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    let owner = Owner::of_path(&server.server.data_dir).unwrap();
    clone::make(&access, owner, &server.dir.join("work/clone"), &|_, _| {}, &cancelled).unwrap();
    assert!(server.dir.join("work/clone/ibdata1").is_file());
}

#[test]
fn privileges_that_come_by_a_role_count() {
    let server = TestMysql::start("");
    let access = account(&server, &[]);
    server.run(&[
        "CREATE ROLE operator",
        "GRANT PROCESS, SELECT, BACKUP_ADMIN ON *.* TO operator",
        "GRANT operator TO weak@localhost",
        "SET DEFAULT ROLE ALL TO weak@localhost",
    ]);
    assert_eq!(found_by(&server, &access, Strategy::Clone), [""; 0]);
}

#[test]
fn a_profile_that_is_enforced_has_a_name() {
    assert_eq!(enforced("/usr/sbin/mysqld (enforce)\n"), Some("/usr/sbin/mysqld"));
    for other in ["unconfined\n", "/usr/sbin/mysqld (complain)\n", "", "\0"] {
        assert_eq!(enforced(other), None);
    }
}
