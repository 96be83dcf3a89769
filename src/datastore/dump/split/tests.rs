use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::datastore::dump::manifest::parse_head;
use crate::datastore::xbstream::{Checkpoint, Target, unpack};
use crate::testing::TempDir;

const BEGIN: &str = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\n\n/*!40101 SET NAMES utf8mb4 */;\n\
    /*!50606 SET GLOBAL INNODB_STATS_AUTO_RECALC=OFF */;\n--\n\
    -- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000007', MASTER_LOG_POS=4711;\n\n";
const END: &str = "/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed on 2026-11-21\n";

fn schema(name: &str) -> String {
    format!("--\n-- Current Database: x\n--\n\nCREATE DATABASE `{name}`;\n\nUSE `{name}`;\n\n")
}

fn table(name: &str) -> String {
    format!(
        "--\n-- Table structure for table x\n--\n\nDROP TABLE IF EXISTS `{name}`;\n/*!40101 SET @saved = 1 */;\n\
         CREATE TABLE `{name}` (\n  `a` int\n);\n\n"
    )
}

fn rows(name: &str, rows: &str) -> String {
    format!(
        "--\n-- Dumping data for table x\n--\n\n/*!40000 ALTER TABLE `{name}` DISABLE KEYS */;\n\
         INSERT INTO `{name}` (`a`) VALUES {rows};\n"
    )
}

fn split(text: &str, size: usize) -> Result<BTreeMap<String, String>, Error> {
    let mut splitter = Splitter::new(HeadFacts {
        flavour: Datastore::Mariadb,
        server_version: "v".to_owned(),
        tool: "t".to_owned(),
        tool_version: "tv".to_owned(),
        engines: Vec::new(),
        warnings: Vec::new(),
    });
    for piece in text.as_bytes().chunks(size) {
        splitter.push(piece)?;
    }
    splitter.finish()?;
    splitter.members().finish();
    let mut stream = Vec::new();
    splitter.members().take(&mut stream);
    unpacked(&stream)
}

/// The files of a stream, by their names.
fn unpacked(stream: &[u8]) -> Result<BTreeMap<String, String>, Error> {
    let (dir, elsewhere) = (TempDir::new(), TempDir::new());
    let target = Target { dir: &dir, ledger: &elsewhere.join("l"), stream: "s", checkpoint_bytes: u64::MAX };
    unpack(stream, &target, &Checkpoint::default(), &AtomicU64::new(0), &AtomicBool::new(false))?;
    let mut files = BTreeMap::new();
    for below in ["", "tables", "data", "accounts", "views", "sequences"] {
        let Ok(entries) = std::fs::read_dir(dir.join(below)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let name = path.strip_prefix(&*dir).unwrap().display().to_string();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    Ok(files)
}

#[test]
fn each_file_stands_alone_however_the_text_comes() {
    let text = [
        BEGIN,
        &schema("a`b".replace('`', "``").as_str()),
        &table("t"),
        &rows("t", "(1,'-- Dump completed'),\n('; -- Table structure for table `x`',2)"),
        &table("u"),
        &schema("mysql"),
        &table("global_priv"),
        &rows("global_priv", "('x')"),
        &table("gtid_slave_pos"),
        &rows("gtid_slave_pos", "(1)"),
        END,
    ]
    .concat();
    let files = split(&text, usize::MAX).unwrap();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        "accounts/000003-mysql.global_priv.sql",
        "coffer-dump-list.jsonl",
        "coffer-dump.json",
        "data/000001-a_b.t.sql",
        "schemas.sql",
        "tables/000001-a_b.t.sql",
        "tables/000002-a_b.u.sql",
    ];
    assert_eq!(names, expected);
    let settings = "/*M!999999\\- enable the sandbox mode */ \n/*!40101 SET NAMES utf8mb4 */;\n";
    assert_eq!(
        files["data/000001-a_b.t.sql"],
        format!(
            "{settings}USE `a``b`;\n/*!40000 ALTER TABLE `t` DISABLE KEYS */;\n\
             INSERT INTO `t` (`a`) VALUES (1,'-- Dump completed'),\n('; -- Table structure for table `x`',2);\n"
        )
    );
    assert!(files["accounts/000003-mysql.global_priv.sql"].contains("USE `mysql`;\nDELETE FROM `global_priv`;\n"));
    assert_eq!(files["schemas.sql"], format!("{settings}CREATE DATABASE `a``b`;\n"));
    assert!(files["tables/000002-a_b.u.sql"].ends_with("CREATE TABLE `u` (\n  `a` int\n);\n"));
    assert_eq!(parse_head(files[HEAD].as_bytes()).unwrap().position.to_string(), "binlog.000007:4711");
    let list: Vec<Entry> = files[LIST].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let facts: Vec<_> = list.iter().map(|it| (it.kind, it.name.as_str(), it.rows, it.data.is_some())).collect();
    assert_eq!(
        facts,
        [(Kind::Table, "t", 2, true), (Kind::Table, "u", 0, false), (Kind::Account, "global_priv", 1, true)]
    );
    for size in [1, 7, 100] {
        assert!(split(&text, size).unwrap() == files, "in pieces of {size}");
    }
}

#[test]
fn what_is_not_as_a_dump_is_is_refused() {
    let good = [BEGIN, &schema("d"), &table("t"), &rows("t", "(1)"), END].concat();
    split(&good, usize::MAX).unwrap();
    let refused = |text: &str, says: &str| {
        let err = split(text, usize::MAX).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{err}");
        assert!(err.message().contains(says), "{err}");
    };
    refused(&good.replace("-- Dump completed", "-- Dump"), "without saying that it is complete");
    refused(&good.replace("-- CHANGE MASTER", "-- MASTER"), "where in the binlog");
    refused(&good.replace("MASTER_LOG_POS=", "MASTER_LOG_POS=x"), "no place in the binlog");
    refused(&good.replace("INSERT INTO `t`", "INSERT INTO `u`"), "rows of `u` among those of `t`");
    refused(&good.replace("INSERT INTO", "DROP TABLE"), "does not belong there");
    refused(&good.replace("VALUES (1)", "SELECT 1"), "without rows");
    refused(&good.replace(&table("t"), ""), "without the table");
    refused(&good.replace("CREATE DATABASE", "DROP DATABASE"), "outside every table");
    refused(&good.replace("CREATE TABLE", "INSERT INTO"), "does not belong there");
    refused(&good.replace("DROP TABLE IF EXISTS `t`", "DROP TABLE IF EXISTS `t"), "");
    refused(&format!("{good}--\n-- Table structure for table `t`\n"), "behind its end");
    for cut in (BEGIN.len()..good.len() - 20).step_by(13) {
        assert!(split(&good[..cut], usize::MAX).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_statement_that_is_not_looked_at_whole_is_not_written_in_part() {
    let with = |setting: usize, comment: usize| {
        let begin = BEGIN.replace("SET NAMES utf8mb4", &format!("SET x='{}'", "s".repeat(setting)));
        let schema = schema("d").replace("`d`;", &format!("`d` COMMENT '{}';", "\u{1F600}".repeat(comment)));
        [&begin, &schema, &table("t"), &rows("t", "(1)"), END].concat()
    };
    for (setting, comment) in [(5_000, 1), (1, 1024)] {
        let text = with(setting, comment);
        let files = split(&text, usize::MAX).unwrap();
        let written = files["schemas.sql"].len();
        assert!(written > setting + 4 * comment, "{written} bytes of a setting and a comment");
        assert!(split(&text, 100).unwrap() == files);
    }
    for (setting, comment) in [(20_000, 1), (1, 5_000)] {
        for size in [100, 4096, usize::MAX] {
            let err = split(&with(setting, comment), size).unwrap_err();
            assert!(err.message().contains("more than 16384 bytes"), "{err}");
        }
    }
}

#[test]
fn names_and_settings_are_not_taken_for_the_end() {
    assert!(is_of_foot(b"/*!50606 SET GLOBAL INNODB_STATS_AUTO_RECALC=@OLD_INNODB_STATS_AUTO_RECALC */;"));
    assert!(!is_of_foot(b"/*!50001 DROP VIEW IF EXISTS `x SET =@OLD_`*/;"));
    assert!(!is_of_foot(b"INSERT INTO t VALUES ('/*!40101 SET x=@OLD_x */');"));
    assert_eq!(first_name(b"DROP TABLE IF EXISTS `a``b`, `c`").unwrap().as_deref(), Some("a`b"));
    assert_eq!(first_name(b"SET x = 1").unwrap(), None);
    assert!(first_name(b"USE `a``").is_err() && first_name(b"USE `\xff`").is_err());
    assert_eq!(quoted("a`b"), "`a``b`");
}

/// As the tool writes it when it is given one schema and its tables by name.
fn named_text(tables: &[(&str, &str)], end: &str) -> String {
    let begin = "-- MySQL dump\n\n/*!50503 SET NAMES utf8mb4 */;\n\n";
    let parts: String = tables.iter().map(|(name, values)| table(name) + &rows(name, values)).collect();
    format!("{begin}{parts}{end}")
}

#[test]
fn texts_of_several_runs_make_one_dump_of_tables_that_are_held_still() {
    let facts = HeadFacts {
        flavour: Datastore::Mysql,
        server_version: "v".to_owned(),
        tool: "t".to_owned(),
        tool_version: "tv".to_owned(),
        engines: Vec::new(),
        warnings: Vec::new(),
    };
    let mut splitter = Splitter::of_held(facts, "binlog.000009:157".parse().unwrap());
    splitter.begin_text("one");
    splitter.push(named_text(&[("t", "(1)"), ("u", "(1),(2)")], END).as_bytes()).unwrap();
    splitter.finish().unwrap();
    splitter.begin_text("t`wo");
    splitter.push(named_text(&[("t", "(3)")], END).as_bytes()).unwrap();
    splitter.finish().unwrap();
    assert_eq!(splitter.counts().names, ["one.t", "one.u", "t`wo.t"]);
    assert_eq!((splitter.counts().entries, splitter.counts().rows), (3, 4));
    splitter.members().finish();
    let mut stream = Vec::new();
    splitter.members().take(&mut stream);
    let files = unpacked(&stream).unwrap();
    assert_eq!(parse_head(files[HEAD].as_bytes()).unwrap().position.to_string(), "binlog.000009:157");
    assert_eq!(files[LIST].lines().count(), 3);
    let last = &files["data/000003-t_wo.t.sql"];
    assert!(last.starts_with("/*!50503 SET NAMES utf8mb4 */;\nUSE `t``wo`;\n") && last.contains("(3);"), "{last}");

    splitter.begin_text("three");
    splitter.push(named_text(&[("t", "(1)")], "").as_bytes()).unwrap();
    assert_eq!(splitter.finish().unwrap_err().kind(), ErrorKind::Corrupt, "this run has not ended");
}
