//! An encrypted repository: the host that fills it holds public keys only, knows what it lacks, and recovers once the
//! identity is there. Keys are made by age's own tool.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::api::text;
use crate::harness::appliance::{Appliance, BINARY, Said, said};
use crate::harness::bed::{Bed, files_below};
use crate::harness::instance::Instance;
use crate::harness::sql;

/// A recipient and the file with its identity.
pub(crate) struct KeyPair {
    pub(crate) public: String,
    pub(crate) file: PathBuf,
    pub(crate) secret: String,
}

/// `identity.txt` in the test's directory.
pub(crate) fn key_pair(bed: &Bed) -> KeyPair {
    key_pair_at(&bed.path("identity.txt"))
}

fn key_pair_at(file: &Path) -> KeyPair {
    let made = said(Command::new("age-keygen").arg("-o").arg(file));
    assert_eq!(made.code, 0, "age-keygen: {made:?}");
    let public = made.stderr.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    let text = fs::read_to_string(file).unwrap();
    let secret = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap().to_owned();
    KeyPair { public, file: file.to_owned(), secret }
}

fn configure(appliance: &Appliance, settings: &str) {
    let text = fs::read_to_string(&appliance.config).unwrap();
    let (before, _) = text.split_once("[repository]").unwrap();
    fs::write(&appliance.config, format!("{before}[repository]\n{settings}")).unwrap();
}

fn check(appliance: &Appliance) -> Said {
    said(Command::new(BINARY).args(["check", "--config"]).arg(&appliance.config))
}

#[test]
fn a_host_without_the_identity_backs_up_and_ships_and_recovers_once_it_has_it() {
    let bed = Bed::new("encrypted");
    let key = key_pair(&bed);
    let other = key_pair_at(&bed.path("other.txt"));
    let encrypt_to = format!("encrypt_to = [\"{}\"]\n", key.public);
    let mut appliance = Appliance::start_in(bed, &format!("[repository]\n{encrypt_to}"));
    let instance = Instance::create(&appliance, "secret");
    let mut conn = instance.conn();
    sql::run(&mut conn, "CREATE DATABASE shop");
    sql::run(
        &mut conn,
        "CREATE TABLE shop.secret_customers (id INT AUTO_INCREMENT PRIMARY KEY, who TEXT) ENGINE=InnoDB",
    );
    sql::run(&mut conn, "INSERT INTO shop.secret_customers (who) SELECT CONCAT('Eve', seq) FROM shop.seq_1_to_3000");
    instance.backup("base");
    sql::run(&mut conn, "INSERT INTO shop.secret_customers (who) VALUES ('Mallory')");
    let before = sql::contents(&mut conn, "shop");
    let drop = sql::commit(&mut conn, "DROP TABLE shop.secret_customers");
    instance.wait_shipped(&drop);

    assert_bucket_tells_nothing(&appliance.repository);
    let said = check(&appliance);
    assert!(said.code == 0 && said.stdout.contains("No identity is on this host"), "{said:?}");

    // Transactions are listed as long as the server's own files hold them; a plan is refused in any case.
    let listed = instance.api.get(&instance.path("/transactions")).expect(200);
    assert!(listed.to_string().contains(&drop), "{listed}");
    let target = json!({"before_gtid": drop});
    let message = instance.ask_recovery(&target).fault(409);
    assert!(message.contains(&key.public) && message.contains("identity_file"), "{message}");
    sql::run(&mut conn, "FLUSH BINARY LOGS");
    sql::run(&mut conn, "FLUSH BINARY LOGS");
    instance.ship();
    let newest = sql::binlogs(&mut conn).pop().unwrap();
    let newest = newest.file_name().unwrap().to_string_lossy().into_owned();
    sql::run(&mut conn, &format!("PURGE BINARY LOGS TO '{newest}'"));
    for message in
        [instance.ask_recovery(&target).fault(409), instance.api.get(&instance.path("/transactions")).fault(409)]
    {
        assert!(message.contains(&key.public) && message.contains("identity_file"), "{message}");
    }

    // The wrong identity is as good as none, and is named by check.
    appliance.stop();
    configure(&appliance, &format!("{encrypt_to}identity_file = \"{}\"\n", other.file.display()));
    let said = check(&appliance);
    assert!(said.code == 3 && said.stdout.contains(&other.public), "{said:?}");
    appliance.resume(&[]);
    instance.wait_active();
    let message = instance.ask_recovery(&target).fault(409);
    assert!(message.contains(&key.public) && message.contains(&other.public), "{message}");

    // The right one, from a command.
    appliance.stop();
    configure(&appliance, &format!("{encrypt_to}identity_command = [\"cat\", \"{}\"]\n", key.file.display()));
    let said = check(&appliance);
    assert!(said.code == 0 && said.stdout.contains(&format!("The identity of {}", key.public)), "{said:?}");
    appliance.resume(&[]);
    instance.wait_active();
    let recovery = instance.recover(&target);
    sql::assert_same(&sql::contents(&mut instance.conn(), "shop"), &before, "recovered from what is encrypted");
    instance.undo(&text(&recovery, "recovery_id"));
    instance.recover(&target);
    sql::assert_same(&sql::contents(&mut instance.conn(), "shop"), &before, "recovered again");
    assert_bucket_tells_nothing(&appliance.repository);

    for path in files_below(appliance.bed.dir()) {
        let bytes = fs::read(&path).unwrap_or_default();
        let shows =
            |key: &KeyPair| path != key.file && bytes.windows(40).any(|part| part == &key.secret.as_bytes()[..40]);
        assert!(!shows(&key) && !shows(&other), "{} shows an identity", path.display());
    }
}

/// Whoever has the bucket sees no table and no row.
fn assert_bucket_tells_nothing(repository: &Path) {
    for path in files_below(repository) {
        let Ok(bytes) = fs::read(&path) else { continue }; // Written to its end meanwhile, and under its name.
        // A short word comes up by chance in some megabytes of what is encrypted.
        let is_encrypted = path.extension().is_some_and(|end| end == "age");
        for word in ["secret_customers", "Mallory", "shop", "Eve"].iter().filter(|word| word.len() > 6 || !is_encrypted)
        {
            let found = bytes.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(!found, "{} shows `{word}`", path.display());
        }
        let name = path.to_string_lossy();
        // What is just being written has no name yet.
        assert!(
            name.contains("/.incoming/") || name.ends_with(".json") || name.ends_with(".zst.age"),
            "{name} is not encrypted"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_refused_at_the_start_and_at_check() {
    let bed = Bed::new("badkeys");
    let key = key_pair(&bed);
    let open = bed.path("open.txt");
    fs::copy(&key.file, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let empty = bed.path("empty.txt");
    fs::write(&empty, "# nothing\n").unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o600)).unwrap();
    let mut appliance = Appliance::start_in(bed, "[repository]\n");
    appliance.stop();
    let secret = &key.secret;
    let cases = [
        ("encrypt_to = [\"age1nobody\"]\n".to_owned(), "age1nobody"),
        (format!("encrypt_to = [\"{secret}\"]\n"), "encrypt_to"),
        ("compression = \"lzma\"\n".to_owned(), "lzma"),
        (format!("identity_file = \"{}\"\n", open.display()), "chmod 600"),
        (format!("identity_file = \"{}\"\n", empty.display()), "holds no identity"),
        (format!("identity_file = \"{}\"\nidentity_command = [\"x\"]\n", open.display()), "identity_command"),
    ];
    for (settings, words) in cases {
        configure(&appliance, &settings);
        let serve = said(Command::new(BINARY).args(["serve", "--config"]).arg(&appliance.config));
        for said in [serve, check(&appliance)] {
            let told = format!("{}{}", said.stdout, said.stderr);
            assert!(said.code != 0 && told.contains(words), "{settings}: {said:?}");
            assert!(!told.contains(&secret[20..]), "{settings}: {said:?}");
        }
    }
    // One that is not there yet stands in nobody's way.
    configure(&appliance, &format!("encrypt_to = [\"{}\"]\nidentity_file = \"/no/such/file\"\n", key.public));
    assert_eq!(check(&appliance).code, 0);
    appliance.resume(&[]);
}
