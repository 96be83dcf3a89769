//! A MySQL that keeps its binlogs outside of the data directory: they are not exchanged with it, and a starting server
//! takes what they hold for executed. So their index is put aside behind the switch, and never before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::adopt::adopt;
use crate::harness::api::text;
use crate::harness::appliance::Appliance;
use crate::harness::bed::files_below;
use crate::harness::cell::Cell;
use crate::harness::instance::Instance;
use crate::harness::server::{Server, give_to_server};
use crate::harness::sql;

/// Files beside the binlogs that are none, by their names, with what they hold.
fn indexes(logs: &Path) -> Vec<(String, String)> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let files = files_below(logs).into_iter().filter(|path| name(path).contains("index"));
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// Lets the journal say that the recovered data is another directory than the one that is there, as if somebody had
/// moved it: the very exchange fails.
fn forge_new_inode(server: &Server) {
    let journals = files_below(&server.dir).into_iter().filter(|path| path.ends_with("journal.json"));
    for path in journals {
        let sealed: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut journal: Value = serde_json::from_str(&text(&sealed, "journal")).unwrap();
        journal["new_inode"] = json!(1);
        let journal = journal.to_string();
        let digest: String = Sha256::digest(journal.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&path, json!({ "sha256": digest, "journal": journal }).to_string()).unwrap();
    }
}

#[test]
fn binlogs_outside_of_the_data_directory_follow_a_recovery_and_its_undo_and_nothing_else() {
    let mut appliance = Appliance::start_with(Cell::mysql(), "my-outer");
    let logs = appliance.bed.path("logs");
    fs::create_dir(&logs).unwrap();
    give_to_server(&logs);
    let outside = format!("log-bin={}/binlog\n", logs.display());
    let settings = appliance.bed.datastore().good().replace("log-bin=binlog\n", &outside);
    let mut server = Server::create(&appliance.bed, "own", &settings);
    server.start(&[]);
    let instance = adopt(&appliance, &mut server, "own");
    let ask = |query: &str| sql::ask(&mut instance.wait_conn(), query);
    let write =
        |what: &str| sql::commit(&mut instance.wait_conn(), &format!("INSERT INTO shop.t (x) VALUES ('{what}')"));
    let contents = || sql::contents(&mut instance.wait_conn(), "shop");
    let executed = || ask("SELECT @@GLOBAL.gtid_executed").replace('\n', "");
    sql::run(&mut instance.conn(), "CREATE DATABASE shop");
    sql::run(&mut instance.conn(), "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(20))");
    instance.backup("base");
    (0..5).for_each(|_| drop(write("kept")));
    let target = write("the last one");
    let (at_target, executed_at_target) = (contents(), executed());
    write("given up");
    sql::run(&mut instance.conn(), "FLUSH BINARY LOGS");
    instance.wait_shipped(&write("given up too"));
    let (before, executed_before, listed) = (contents(), executed(), indexes(&logs));
    assert!(listed.len() == 1 && listed[0].1.lines().count() >= 2, "{listed:?}");

    // Given up with the server down, at the exchange itself.
    appliance.stop();
    appliance.resume(&[("COFFER_CRASH_AT", "FENCED")]);
    let failing = instance.begin_recovery(&json!({ "gtid": target }));
    assert!(!appliance.wait_end(Duration::from_secs(60)).success());
    assert_eq!(indexes(&logs), listed, "fenced, and its server down");
    forge_new_inode(&server);
    appliance.resume(&[]);
    let failed = instance.wait_recovery(&failing, "FAILED");
    assert!(failed.to_string().contains("Nothing was exchanged"), "{failed}");
    instance.wait_active();
    assert_eq!((contents(), executed()), (before.clone(), executed_before.clone()), "the server runs on as it was");
    let (name, again) = &indexes(&logs)[0];
    assert!(*name == listed[0].0 && again.starts_with(&listed[0].1), "one file more, begun by the start: {again}");
    let listed = indexes(&logs);
    assert_eq!(instance.timelines().len(), 1, "nothing began");

    let recovery = text(&instance.recover(&json!({ "gtid": target })), "recovery_id");
    assert_eq!(contents(), at_target);
    assert_eq!(executed(), executed_at_target, "and of what lies in the binlogs no more");
    let now = indexes(&logs);
    let (mine, aside) = (&now[0].1, &now[1]);
    assert_eq!((aside.0.as_str(), &aside.1), (format!("binlog.index.before-{recovery}").as_str(), &listed[0].1));
    assert!(mine.lines().min() > listed[0].1.lines().max(), "the newer files have the higher numbers: {now:?}");
    let newer = write("of the new timeline");
    assert_continues(&instance, &newer, 2);
    instance.undo(&recovery);
    assert_eq!(contents(), before, "undone");
    assert_eq!(executed(), executed_before);
    let now = indexes(&logs);
    assert!(now.len() == 1 && now[0].1.starts_with(&listed[0].1), "its own binlogs again: {now:?}");
    assert!(now[0].1.lines().max() > mine.lines().max(), "no name comes twice: {now:?}");
    assert_continues(&instance, &write("after the undo"), 3);
    // What the undo gave up is in the repository, and can be had again.
    instance.api.post(&instance.path("/action"), &json!({"restart": {}})).expect(202);
    instance.wait_active();
    assert!(instance.plan(&json!({ "gtid": newer }))["last_included"].to_string().contains(&newer));
}

/// The transaction reaches the repository, on the newest of that many timelines.
fn assert_continues(instance: &Instance, gtid: &str, timelines: usize) {
    instance.wait_shipped(gtid);
    let lines = instance.timelines();
    assert_eq!(lines.len(), timelines, "{lines:?}");
    let newest = instance.api.get(&instance.path("/transactions?limit=1")).expect(200)["transactions"][0].clone();
    assert_eq!(text(&newest, "gtid"), gtid);
    let number = lines.iter().find(|line| line["current"] == true).unwrap()["number"].clone();
    assert_eq!(number, json!(timelines), "{lines:?}");
}
