use super::*;
use crate::datastore::mysql::inspect;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::mysqld;

fn cloned(server: &TestMysql) -> PathBuf {
    let around = server.dir.join("work");
    std::fs::create_dir_all(&around).unwrap();
    around.join("clone")
}

fn make_clone(server: &TestMysql, dir: &Path, cancelled: &Arc<AtomicBool>) -> Result<(), Error> {
    let owner = Owner::of_path(&server.server.data_dir)?;
    make(&server.access(), owner, dir, &|_, _| {}, cancelled)
}

fn settings(server: &TestMysql, dir: &Path) -> ScratchSettings {
    ScratchSettings {
        data_dir: dir.to_owned(),
        run_dir: server.dir.join("scratch"),
        layout: inspect::layout(&mut server.sql()).unwrap(),
        server_id: 4242,
    }
}

fn not_cancelled() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// A process that closes a file gives up its locks on it, and a clone opens and closes them all.
#[test]
fn a_server_that_was_cloned_is_still_seen_to_use_its_data() {
    let server = TestMysql::start("");
    let data_dir = server.server.data_dir.clone();
    assert!(mysqld::is_in_use(&data_dir).unwrap());
    make_clone(&server, &cloned(&server), &not_cancelled()).unwrap();
    assert!(mysqld::is_in_use(&data_dir).unwrap(), "cloned");
    server.stop();
    assert!(!mysqld::is_in_use(&data_dir).unwrap(), "stopped");
}

#[test]
fn a_clone_knows_where_it_ends_and_is_a_data_directory() {
    let server = TestMysql::start("");
    server.run(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, customer VARCHAR(200))",
        "INSERT INTO shop.orders (customer) VALUES ('ann'), ('bob')",
        "FLUSH BINARY LOGS",
        "INSERT INTO shop.orders (customer) VALUES ('cy')",
    ]);
    let status = server.sql().record("SHOW BINARY LOG STATUS").unwrap();
    let dir = cloned(&server);
    assert!(disk_need(&mut server.sql()).unwrap() > 30 << 20);
    make_clone(&server, &dir, &not_cancelled()).unwrap();
    server.run(&["INSERT INTO shop.orders (customer) VALUES ('later')"]);

    let end = settle(&server.tools, &settings(&server, &dir)).unwrap();
    assert_eq!(end.position.to_string(), format!("{}:{}", status["File"], status["Position"]));
    assert_eq!(end.executed.to_string(), status["Executed_Gtid_Set"]);
    assert!(!dir.join("auto.cnf").exists() && !dir.join("ca.pem").exists());

    // Once more: a settled clone says the same, and its rows are those of its end. What a killed server leaves there is
    // the pid of somebody who lives.
    crate::durable::write(&server.dir.join("scratch/s.sock.lock"), b"1\n", 0o600).unwrap();
    let again = settle(&server.tools, &settings(&server, &dir)).unwrap();
    assert_eq!(again, end);
    let here = make_clone(&server, &dir, &not_cancelled());
    assert!(here.is_err(), "a directory that exists");
}

#[test]
fn a_cancelled_clone_leaves_nothing() {
    let server = TestMysql::start("clone_max_data_bandwidth=1\nclone_autotune_concurrency=OFF\n");
    let dir = cloned(&server);
    let cancelled = not_cancelled();
    let begun = std::thread::scope(|scope| {
        let clone = scope.spawn(|| make_clone(&server, &dir, &cancelled));
        while !dir.join("#clone/#status_in_progress").exists() && !clone.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancelled.store(true, Ordering::Relaxed);
        clone.join().unwrap()
    });
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(!dir.exists());
}

#[test]
fn a_server_killed_in_mid_clone_leaves_nothing_that_counts() {
    let server = TestMysql::start("clone_max_data_bandwidth=1\nclone_autotune_concurrency=OFF\n");
    let dir = cloned(&server);
    let cancelled = not_cancelled();
    let outcome = std::thread::scope(|scope| {
        let clone = scope.spawn(|| make_clone(&server, &dir, &cancelled));
        while !dir.join("#clone/#status_in_progress").exists() && !clone.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.kill();
        clone.join().unwrap()
    });
    let err = outcome.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.message().starts_with("the server ended") && err.to_string().contains("another backup"), "{err}");
    assert!(!dir.exists());
}

#[test]
fn a_clone_that_is_not_whole_does_not_count() {
    let server = TestMysql::start("");
    let dir = cloned(&server);
    make_clone(&server, &dir, &not_cancelled()).unwrap();
    std::fs::rename(dir.join("#clone/#status_fix"), dir.join("#clone/#status_in_progress")).unwrap();
    assert_eq!(check_whole(&dir).unwrap_err().kind(), ErrorKind::Corrupt);
    let refused = settle(&server.tools, &settings(&server, &dir)).unwrap_err().to_string();
    assert!(refused.contains("ncomplete"), "{refused}");
}

#[test]
fn refusals_say_what_to_do() {
    let server = TestMysql::start("");
    server.run(&["UNINSTALL PLUGIN clone"]);
    let dir = cloned(&server);
    let missing = make_clone(&server, &dir, &not_cancelled()).unwrap_err();
    assert!(missing.to_string().contains("INSTALL PLUGIN clone"), "{missing}");
    assert_eq!(unquoted(Path::new("/a'b")).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(unquoted(Path::new("a")).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(check_space(u64::MAX, &server.dir).unwrap_err().kind(), ErrorKind::NoSpace);
}
