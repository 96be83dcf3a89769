//! The data is the operator's without coffer: the section "Recovery by hand" of the README, followed word by word with
//! stock tools on a repository that coffer wrote, leads to the rows that were there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::encrypted::key_pair;
use crate::harness::appliance::{Appliance, tail};
use crate::harness::bed::{Bed, files_below};
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

fn blocks() -> Vec<Block> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once(SECTION).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks
        .map(|block| {
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
        } else if line.contains("\tGTID ") {
            begin = at;
        } else if line.starts_with("DROP TABLE `shop`") {
            return begin;
        }
    }
    panic!("no DROP in:\n{statements}");
}

/// Backs up, destroys, follows the README, and compares. All objects' names must end in `end`.
fn recover_by_hand(name: &str, settings: impl Fn(&Bed) -> String, end: &str) {
    let bed = Bed::new(name);
    let more = settings(&bed);
    let mut appliance = Appliance::start_in(bed, &more);
    let instance = Instance::create(&appliance, "shop");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT) ENGINE=InnoDB");
    sql::run(&mut conn, "INSERT INTO shop.orders (what) SELECT REPEAT(MD5(seq), 20) FROM shop.seq_1_to_20000");
    let backup = instance.backup("base")["id"].as_str().unwrap().to_owned();
    for number in 0..20 {
        if number == 10 {
            sql::run(&mut conn, "FLUSH BINARY LOGS");
        }
        sql::run(&mut conn, &format!("INSERT INTO shop.orders (what) VALUES ('after {number}')"));
        sql::run(&mut conn, &format!("DELETE FROM shop.orders WHERE id = {number} * 7"));
    }
    let before = sql::contents(&mut conn, "shop");
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
    let find = |name: &str| match name {
        "REPOSITORY" => repository.display().to_string(),
        "INSTANCE" => instance.id.clone(),
        "BACKUP" => backup.clone(),
        "IDENTITY" => bed.path("identity.txt").display().to_string(),
        "NEW" => new.display().to_string(),
        "SERVER_USER" => bed.datastore().account().to_owned(),
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
    for block in blocks() {
        match block {
            Block::Given(names) => given.extend(names.into_iter().map(|name| (name.clone(), find(&name)))),
            Block::Commands(block) => type_in(&block, &given, &repository, bed),
        }
    }
    let mut recovered = sql::connect(&new.join("data/s.sock")).unwrap();
    sql::assert_same(&sql::contents(&mut recovered, "shop"), &before, "what the README leads to");
}

#[test]
fn the_readme_leads_to_the_rows_of_an_encrypted_repository() {
    recover_by_hand(
        "hand-age",
        |bed| format!("[repository]\nencrypt_to = [\"{}\"]\n", key_pair(bed).public),
        ".zst.age",
    );
}

#[test]
fn the_readme_leads_to_the_rows_of_a_plain_repository_of_gzip() {
    recover_by_hand("hand-gzip", |_| "[repository]\ncompression = \"gzip\"\n".to_owned(), ".gz");
}
