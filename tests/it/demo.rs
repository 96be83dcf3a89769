//! The demo of the quick start as it stands: with its repository in real stores, and on MySQL.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::harness::appliance::BINARY;
use crate::harness::bed::Bed;
use crate::harness::cell::Cell;
use crate::harness::stores::{Garage, Swift};
use crate::harness::wait_for;

/// The demo takes the first free port; two that look at the same time find the same.
static STARTING: Mutex<()> = Mutex::new(());

/// Plays it to its end; what it said.
#[track_caller]
fn play(bed: &Bed, arguments: &[&str]) -> String {
    let state_dir = bed.path("demo");
    let mut command = Command::new(BINARY);
    command.args(["demo", "--once", "--rows", "2000"]).args(arguments);
    command.arg("--state-dir").arg(&state_dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _alone = STARTING.lock().unwrap();
        let child = command.spawn().unwrap();
        wait_for("the demo to begin", Duration::from_secs(60), || state_dir.join("url").exists().then_some(()));
        child
    };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}:\n{said}\n{complaint}", output.status);
    assert!(said.contains("Every proof held. Everything is stopped."), "{said}");
    assert_eq!(said.matches("=> It holds.").count(), 6, "{said}");
    said
}

#[track_caller]
fn play_with_store(bed: &Bed, url: &str, credentials: &Path) {
    let said = play(bed, &["--repository", url, "--credentials", &credentials.to_string_lossy()]);
    let place = url.split('?').next().unwrap();
    assert!(said.contains(&format!("Its repository is {place}.")), "{said}");
}

#[test]
fn the_demo_holds_on_mysql() {
    let bed = Bed::new("demo-my");
    let config = bed.path("servers.toml");
    std::fs::write(&config, Cell::mysql().configuration()).unwrap();
    let said = play(&bed, &["--datastore", "mysql", "--config", &config.to_string_lossy()]);
    assert!(said.contains("MySQL 9.") && !said.contains("MariaDB"), "{said}");
}

#[test]
fn the_demo_holds_with_its_repository_in_s3() {
    let (bed, garage) = (Bed::new("demo-s3"), Garage::start());
    play_with_store(&bed, &garage.url("demo"), &garage.credentials(bed.dir(), "credentials.toml"));
    let kept = garage.keys("demo/");
    assert!(kept.contains(&"demo/coffer.json".to_owned()), "{kept:?}");
    assert!(kept.iter().any(|key| key.ends_with("manifest.json")), "{kept:?}");
}

#[test]
fn the_demo_holds_with_its_repository_in_swift() {
    let (bed, swift) = (Bed::new("demo-swift"), Swift::start(&[]));
    play_with_store(&bed, &swift.url("demo"), &swift.credentials(bed.dir(), "credentials.toml"));
    let kept = swift.s3.keys("demo/");
    assert!(kept.contains(&"demo/coffer.json".to_owned()), "{kept:?}");
}
