//! The data is the operator's without coffer: the section "Recovery by hand" of the README, followed word by word with
//! stock tools on a repository that coffer wrote, leads to the rows that were there, however the backup was made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mysql::Conn;
use serde_json::Value;

use crate::encrypted::key_pair;
use crate::harness::appliance::{Appliance, tail};
use crate::harness::bed::{Bed, files_below};
use crate::harness::cell::{Cell, Strategy};
use crate::harness::instance::Instance;
use crate::harness::sql;

const SECTION: &str = "\n### Recovery by hand\n";

/// A fenced block of the section.
enum Block {
    /// `NAME=value` lines: what the operator fills in.
    Given(Vec<String>),
    /// What he types.
    Commands(String),
}

/// What this cell's operator reads: a block behind whose `sh` words stand is for those strategies and datastores only, or
/// for who has files to load.
fn blocks(cell: Cell, is_loaded: bool) -> Vec<Block> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once(SECTION).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let strategy = match (cell.strategy, cell.datastore.is_mysql()) {
        (Strategy::Dump, _) => "dump",
        (Strategy::Physical, true) => "clone",
        (Strategy::Physical, false) => "mariabackup",
    };
    let mine = |block: &(&str, &str)| {
        let known = |word: &str| ["mariabackup", "clone", "dump", "load", "mariadb", "mysql"].contains(&word);
        assert!(block.0.split_whitespace().all(known), "a block for `{}`", block.0);
        let fits = |word: &str| [strategy, cell.datastore.name()].contains(&word) || (word == "load" && is_loaded);
        block.0.split_whitespace().all(fits)
    };
    let blocks = section.split("```sh").skip(1).filter_map(|rest| rest.split("\n```").next()?.split_once('\n'));
    blocks
        .filter(mine)
        .map(|(_, block)| {
            let name = |line: &str| {
                let (name, _) = line.split_once('=')?;
                name.chars().all(|c| c.is_ascii_uppercase() || c == '_').then(|| name.to_owned())
            };
            match block.lines().map(name).collect::<Option<Vec<String>>>() {
                Some(names) => Block::Given(names),
                None => Block::Commands(block.to_owned()),
            }
        })
        .collect()
}

/// Types a block into the shell the README asks for.
fn type_in(block: &str, given: &BTreeMap<String, String>, repository: &Path, bed: &Bed) {
    let (script, out) = (bed.path("typed.sh"), bed.path("typed.out"));
    fs::write(&script, block).unwrap();
    // A file and no pipe: the server that is started here keeps it open.
    let file = File::options().create(true).append(true).open(&out).unwrap();
    // The programs of the server that is tested come first.
    let reader = bed.datastore().binlog_reader();
    let own = reader.parent().unwrap().display();
    let path = format!("{own}:{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(["-eux", "-o", "pipefail"]).arg(&script).envs(given).env("PATH", path).current_dir(repository);
    let status = shell.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
    assert!(status.success(), "{status}\n{block}\n{}", tail(&out));
}

/// Where the transaction begins that drops the table, as an operator finds it.
fn begin_of_drop(statements: &str) -> u64 {
    let (mut at, mut begin) = (0, 0);
    for line in statements.lines() {
        if let Some(place) = line.strip_prefix("# at ").and_then(|place| place.parse().ok()) {
            at = place;
        } else if line.contains("\tGTID") {
            begin = at;
        } else if line.starts_with("DROP TABLE `shop`") {
            return begin;
        }
    }
    panic!("no DROP in:\n{statements}");
}

/// What is no table: views that are made of others, and code.
fn others(conn: &mut Conn) -> Vec<String> {
    let count = |what: &str| format!("SELECT COUNT(*) FROM information_schema.{what}_schema = 'shop'");
    [
        "SELECT SUM(id) FROM shop.a",
        "SELECT shop.twice(21)",
        &count("triggers WHERE trigger"),
        &count("events WHERE event"),
    ]
    .map(|query| sql::ask(conn, query))
    .to_vec()
}

/// Backs up, destroys, follows the README, and compares. All objects' names must end in `end`.
fn recover_by_hand(cell: Cell, name: &str, settings: impl Fn(&Bed) -> String, end: &str) {
    recover_with(cell, "InnoDB", name, settings, end);
}

/// With a table of that engine too, which is dumped beside a clone if it is another than InnoDB.
fn recover_with(cell: Cell, engine: &str, name: &str, settings: impl Fn(&Bed) -> String, end: &str) {
    let bed = Bed::on(cell, name);
    let more = settings(&bed);
    let mut appliance = Appliance::start_in(bed, &more);
    if engine != "InnoDB" {
        appliance.stop();
        let text = fs::read_to_string(&appliance.config).unwrap();
        fs::write(&appliance.config, text.replace("[mysql]\n", "[mysql]\nother_engines = \"dump\"\n")).unwrap();
        appliance.resume(&[]);
    }
    let instance = Instance::create(&appliance, "shop");
    let mut conn = instance.conn();
    let filled =
        format!("INSERT INTO shop.orders (what) SELECT REPEAT(SHA2(seq, 256), 20) FROM {}", sql::numbers(10_000));
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT) ENGINE=InnoDB",
        "CREATE TABLE shop.log (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT) ENGINE=InnoDB",
        "CREATE VIEW shop.b AS SELECT id FROM shop.log",
        "CREATE VIEW shop.a AS SELECT id FROM shop.b",
        "CREATE FUNCTION shop.twice(x INT) RETURNS INT DETERMINISTIC RETURN x + x",
        "CREATE TRIGGER shop.t AFTER INSERT ON shop.orders FOR EACH ROW INSERT INTO shop.log (what) VALUES (NEW.id)",
        "CREATE EVENT shop.e ON SCHEDULE EVERY 1 YEAR STARTS '2037-01-01' DO DELETE FROM shop.log",
        &format!("CREATE TABLE shop.old (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT) ENGINE={engine}"),
        "INSERT INTO shop.old (what) VALUES ('before the backup')",
        // A directory without files.
        "CREATE DATABASE shop_empty",
        &filled,
    ] {
        sql::run(&mut conn, statement);
    }
    let backup = instance.backup("base")["id"].as_str().unwrap().to_owned();
    for number in 0..20 {
        if number == 10 {
            sql::run(&mut conn, "FLUSH BINARY LOGS");
        }
        sql::run(&mut conn, &format!("INSERT INTO shop.orders (what) VALUES ('after {number}')"));
        sql::run(&mut conn, &format!("DELETE FROM shop.orders WHERE id = {number} * 7"));
    }
    sql::run(&mut conn, "INSERT INTO shop.old (what) VALUES ('after it')");
    let (before, others_before) = (sql::contents(&mut conn, "shop"), others(&mut conn));
    let executed = cell.datastore.is_mysql().then(|| sql::ask(&mut conn, "SELECT @@GLOBAL.gtid_executed"));
    let drop = sql::commit(&mut conn, "DROP TABLE shop.orders");
    instance.wait_shipped(&drop);
    appliance.stop();

    let repository = appliance.repository.clone();
    let objects = files_below(&repository.join("instances"));
    let made = |path: &Path| !path.to_string_lossy().ends_with(".json");
    assert!(objects.iter().filter(|path| made(path)).all(|path| path.to_string_lossy().ends_with(end)), "{objects:?}");
    let manifest = repository.join(format!("instances/{}/backups/{backup}/manifest.json", instance.id));
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let at = &manifest["end"]["at"];
    let timeline = at["timeline"].as_str().unwrap();
    let bed = &appliance.bed;
    let new = bed.path("new");
    let program = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let find = |name: &str| match name {
        "REPOSITORY" => repository.display().to_string(),
        "INSTANCE" => instance.id.clone(),
        "BACKUP" => backup.clone(),
        "IDENTITY" => bed.path("identity.txt").display().to_string(),
        "NEW" => new.display().to_string(),
        "SERVER_USER" => cell.datastore.account().to_owned(),
        "SERVER" => cell.datastore.server().to_owned(),
        "CLIENT" => program(cell.datastore.client()),
        "ADMIN" => program(cell.datastore.admin()),
        "BINLOG" => program(cell.datastore.binlog_reader()),
        "TIMELINE" => timeline.to_owned(),
        "FILES" => {
            let chunks = files_below(&repository.join(format!("instances/{}/binlog/{timeline}", instance.id)));
            let ordinal = |path: &Path| path.file_name().unwrap().to_string_lossy()[..8].to_owned();
            let mut files: Vec<String> = chunks.iter().map(|path| ordinal(path)).collect();
            files.dedup();
            files.retain(|file| file.parse::<u64>().unwrap() >= at["ordinal"].as_u64().unwrap());
            assert_eq!(files.len(), 2, "the target lies in the second file: {files:?}");
            files.join(" ")
        }
        "START" => at["position"].to_string(),
        "STOP" => begin_of_drop(&String::from_utf8_lossy(&fs::read(new.join("statements.txt")).unwrap())).to_string(),
        other => panic!("the README asks for `{other}`, which nobody knows"),
    };
    let mut given = BTreeMap::new();
    for block in blocks(cell, cell.strategy == Strategy::Dump || engine != "InnoDB") {
        match block {
            Block::Given(names) => given.extend(names.into_iter().map(|name| (name.clone(), find(&name)))),
            Block::Commands(block) => type_in(&block, &given, &repository, bed),
        }
    }
    let mut recovered = sql::connect(&new.join("data/s.sock")).unwrap();
    sql::assert_same(&sql::contents(&mut recovered, "shop"), &before, "what the README leads to");
    assert_eq!(others(&mut recovered), others_before, "views, functions, triggers, events");
    sql::run(&mut recovered, "CREATE TABLE shop_empty.t (id INT)");
    if let Some(executed) = executed {
        assert_eq!(sql::ask(&mut recovered, "SELECT @@GLOBAL.gtid_executed"), executed, "and to its GTIDs");
    }
}

#[test]
fn the_readme_leads_to_the_rows_of_an_encrypted_repository() {
    let encrypt = |bed: &Bed| format!("[repository]\nencrypt_to = [\"{}\"]\n", key_pair(bed).public);
    recover_by_hand(Cell::of_this_run(), "hand-age", encrypt, ".zst.age");
}

#[test]
fn the_readme_leads_to_the_rows_of_a_plain_repository_of_gzip() {
    let gzip = |_: &Bed| "[repository]\ncompression = \"gzip\"\n".to_owned();
    recover_by_hand(Cell::of_this_run(), "hand-gzip", gzip, ".gz");
}

#[test]
fn the_readme_leads_to_the_rows_and_the_gtids_of_a_clone_of_mysql() {
    recover_by_hand(Cell::mysql(), "hand-clone", |_| String::new(), ".zst");
}

#[test]
fn the_readme_leads_to_the_rows_that_were_dumped_beside_a_clone() {
    recover_with(Cell::mysql(), "MyISAM", "hand-beside", |_| String::new(), ".zst");
}

#[test]
fn the_readme_leads_to_the_rows_and_the_gtids_of_a_dump_of_mysql() {
    recover_by_hand(Cell::mysql_dump(), "hand-my-dump", |_| String::new(), ".zst");
}

#[test]
fn the_readme_leads_to_the_rows_of_a_dump_of_mariadb() {
    recover_by_hand(Cell { strategy: Strategy::Dump, ..Cell::of_this_run() }, "hand-dump", |_| String::new(), ".zst");
}
