//! Servers that were there before: adopted by socket and option file, started and stopped as the operator says; and
//! `coffer check`, which names each setting that stands in the way and the line that mends it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::harness::appliance::{Appliance, BINARY, Said, said};
use crate::harness::bed::Bed;
use crate::harness::cell::Cell;
use crate::harness::instance::{Instance, ROOT};
use crate::harness::server::{GOOD, Server, give_to_server};
use crate::harness::sql;

/// A script that starts the server and returns, as init scripts do.
fn start_script(server: &Server) -> PathBuf {
    let path = server.dir.join("start");
    let text = format!(
        "#!/bin/sh\nsetsid {} --defaults-file={} </dev/null >/dev/null 2>&1 &\n",
        server.datastore.program(server.datastore.server()).display(),
        server.options.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Adopts a running server of the test's own, to be started and stopped by commands.
pub(crate) fn adopt(appliance: &Appliance, server: &mut Server, name: &str) -> Instance {
    let defaults = server.options.to_string_lossy().into_owned();
    let adopt = json!({
        "socket": server.socket,
        "defaults_file": server.options,
        "start": [start_script(server)],
        "stop": [server.datastore.admin(), format!("--defaults-file={defaults}"), "shutdown"],
    });
    let body = json!({"instance": {"name": name, "adopt": adopt}});
    let answer = appliance.api.post(&format!("{ROOT}/instances"), &body).expect(200);
    server.hand_over();
    Instance::begun(&appliance.api, &answer)
}

#[test]
fn an_adopted_server_is_recovered_in_place() {
    let appliance = Appliance::start("adopt");
    let mut server = Server::create(&appliance.bed, "own", GOOD);
    server.start(&[]);
    let mut conn = server.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(&mut conn, "CREATE TABLE shop.t (id INT PRIMARY KEY, x VARCHAR(20)) ENGINE=InnoDB");
    let options = fs::read_to_string(&server.options).unwrap();
    let instance = adopt(&appliance, &mut server, "own");
    assert_eq!(instance.data_dir, server.data_dir);
    instance.backup("base");
    sql::run(&mut conn, "INSERT INTO shop.t VALUES (1, 'one')");
    let expected = sql::contents(&mut conn, "shop");
    let gone = sql::commit(&mut conn, "DROP TABLE shop.t");
    instance.wait_shipped(&gone);
    let recovery = instance.recover(&json!({"before_gtid": gone}));
    sql::assert_same(&sql::contents(&mut server.conn(), "shop"), &expected, "the adopted server's table is back");
    instance.undo(recovery["recovery_id"].as_str().unwrap());
    assert!(!sql::contents(&mut server.conn(), "shop").contains_key("shop.t"), "and gone again by the undo");
    assert_eq!(fs::read_to_string(&server.options).unwrap(), options, "the operator's option file is the operator's");

    // Deleting an adopted instance only ends the looking after.
    appliance.api.delete(&instance.path("")).expect(202);
    crate::harness::wait_for("the instance to be gone", std::time::Duration::from_secs(30), || {
        (appliance.api.get(&instance.path("")).status == 404).then_some(())
    });
    assert!(server.is_up() && server.data_dir.exists(), "the server and its data stay");
}

#[test]
fn an_adoption_that_can_not_work_is_refused_by_name() {
    let appliance = Appliance::start("refuse");
    let socket = appliance.bed.path("nobody.sock");
    let ask = |adopt: serde_json::Value| {
        let body = json!({"instance": {"name": "x", "adopt": adopt}});
        let reply = appliance.api.post(&format!("{ROOT}/instances"), &body);
        (reply.status, reply.fault(reply.status))
    };
    let (status, message) = ask(json!({"socket": socket}));
    assert!(status == 400 && message.contains("defaults_file"), "{status} {message}");
    let (status, message) = ask(json!({"socket": "relative.sock", "defaults_file": "/nowhere", "systemd_unit": "x"}));
    assert!(status == 400 && message.contains("socket"), "{status} {message}");
    let (status, message) = ask(json!({"socket": socket, "defaults_file": "/nowhere", "start": ["true"]}));
    assert!(status == 400 && message.contains("stop"), "{status} {message}");
    let everything =
        json!({"socket": socket, "defaults_file": "/nowhere", "systemd_unit": "x", "start": ["a"], "stop": ["b"]});
    let (status, message) = ask(everything);
    assert!(status == 400 && message.contains("systemd_unit"), "{status} {message}");
}

/// `coffer check` for a server, with the credentials in its option file or in another one.
fn check(server: &Server, defaults: Option<&PathBuf>) -> Said {
    // Only what the server's own programs are.
    let config = server.dir.join("coffer.toml");
    fs::write(&config, Cell::of_this_run().configuration()).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["check", "--config"]).arg(config).arg("--socket").arg(&server.socket);
    said(command.arg("--defaults-file").arg(defaults.unwrap_or(&server.options)))
}

#[test]
fn check_names_each_setting_that_stands_in_the_way() {
    let bed = Bed::new("check");
    let mut server = Server::create(&bed, "own", GOOD);
    server.start(&[]);
    let good = check(&server, None);
    assert_eq!(good.code, 0, "a good server passes: {good:?}");

    let weak = bed.path("weak.cnf");
    sql::run(&mut server.conn(), "CREATE USER weak@localhost IDENTIFIED BY 'few-rights'");
    let text = format!("[client]\nsocket={}\nuser=weak\npassword=few-rights\n", server.socket.display());
    fs::write(&weak, text).unwrap();
    fs::set_permissions(&weak, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = check(&server, Some(&weak));
    let words = refused.stdout.clone() + &refused.stderr;
    assert!(
        refused.code != 0 && words.contains("GRANT"),
        "a missing privilege, and the line that gives it: {refused:?}"
    );
    assert!(!words.contains("few-rights"), "and no password");
    server.stop();

    let keys = bed.path("keys");
    fs::write(&keys, "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    give_to_server(&keys);
    let encrypted = format!(
        "{GOOD}plugin-load-add=file_key_management\nfile-key-management-filename={}\nencrypt-binlog=ON\n",
        keys.display()
    );
    let elsewhere = bed.path("own").join("redo");
    fs::create_dir(&elsewhere).unwrap();
    give_to_server(&elsewhere);
    let redo = format!("{GOOD}innodb-log-group-home-dir={}\n", elsewhere.display());
    let cases: [(&str, String, &str); 4] = [
        ("no binlog", "server-id=1".to_owned(), "log_bin"),
        ("statements", GOOD.replace("ROW", "STATEMENT"), "binlog_format"),
        ("encrypted", encrypted, "encrypt_binlog"),
        ("redo elsewhere", redo, "innodb_log_group_home_dir"),
    ];
    for (what, settings, word) in cases {
        server.write_options(&settings);
        // The redo log moves with its setting; a server with an encrypted binlog may not start on every machine.
        if what == "redo elsewhere" {
            let log = server.data_dir.join("ib_logfile0");
            fs::copy(&log, elsewhere.join("ib_logfile0")).unwrap();
            give_to_server(&elsewhere.join("ib_logfile0"));
        }
        if server.try_start(&[]).is_none() {
            println!("check: {what}: not tried, the server does not start so as {}", bed.datastore().account());
            continue;
        }
        let refused = check(&server, None);
        let words = (refused.stdout.clone() + &refused.stderr).to_lowercase().replace('-', "_");
        assert!(refused.code != 0 && words.contains(word), "{what}: {refused:?}");
        server.stop();
    }
}

#[test]
fn a_configuration_with_an_unknown_key_does_not_start() {
    let bed = Bed::new("config");
    let run = |text: String| {
        let config = bed.path("coffer.toml");
        fs::write(&config, text).unwrap();
        said(Command::new(BINARY).args(["serve", "--config"]).arg(config))
    };
    let state = format!("state_dir = \"{}\"\n", bed.path("state").display());
    let unknown = run(format!("{state}shiping = true\n"));
    assert!(unknown.code != 0 && unknown.stderr.contains("shiping"), "the key is named: {unknown:?}");
    let open = run(format!("{state}[http]\nlisten = \"0.0.0.0:1\"\n"));
    assert!(open.code != 0 && open.stderr.to_lowercase().contains("tls"), "no plain HTTP to a network: {open:?}");
    let store = run(format!("{state}repository_url = \"s3://bucket/x\"\n"));
    assert!(store.code != 0 && store.stderr.contains("s3"), "a store that is not offered yet: {store:?}");
    let broken = run("state_dir = \n".to_owned());
    assert!(broken.code != 0 && broken.stderr.contains("line 1"), "the line is named: {broken:?}");
}
