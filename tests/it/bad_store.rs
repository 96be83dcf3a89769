//! What an operator can get wrong about a store: each mistake is named, by `coffer check` and at the start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::appliance::{Appliance, BINARY, Said};
use crate::harness::bed::{Bed, free_port, kill_and_wait};
use crate::harness::stores::{Garage, S3, Swift, write_secret};
use crate::harness::wait_for;

/// What a start and a check with one configuration say.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    bed: &'a Bed,
    /// In the environment: a library that shifts the clock.
    clock: Option<&'a str>,
    state: &'a str,
}

impl Attempt<'_> {
    /// Until it ends or, with code 0, serves.
    fn run(&self, word: &str, config: &Path) -> Said {
        let mut command = Command::new(self.clock.map_or(BINARY, |_| "faketime"));
        if let Some(shift) = self.clock {
            command.args(["-f", shift, BINARY]);
        }
        command.arg(word).arg("--config").arg(config).stdin(Stdio::null());
        let (out, err) = (self.bed.path("said.out"), self.bed.path("said.err"));
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        let read = |path| fs::read_to_string(path).unwrap();
        let code = wait_for(&format!("coffer {word} to end"), Duration::from_secs(60), || {
            if read(&err).contains("serving on") {
                self.bed.processes("attempt.toml").into_iter().for_each(kill_and_wait);
                child.wait().unwrap();
                return Some(0);
            }
            child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
        });
        Said { code, stdout: read(&out), stderr: read(&err) }
    }

    /// Both must fail, and tell each of `words`.
    #[track_caller]
    fn assert_says(&self, url: &str, repository: &str, words: &[&str]) {
        let config = self.write(url, repository);
        for command in ["check", "serve"] {
            let said = self.run(command, &config);
            assert_ne!(said.code, 0, "coffer {command} with {url}: {said:?}");
            let text = said.stdout + &said.stderr;
            for word in words {
                assert!(text.contains(word), "coffer {command} with {url}: `{word}` is not in: {text}");
            }
        }
    }

    /// The check must fail, and the appliance serve; both tell `word`.
    #[track_caller]
    fn assert_warns(&self, url: &str, repository: &str, word: &str) {
        let config = self.write(url, repository);
        let (check, serve) = (self.run("check", &config), self.run("serve", &config));
        assert!(check.code != 0 && serve.code == 0, "{check:?} {serve:?}");
        assert!(check.stdout.contains(word) && serve.stderr.contains(word), "{check:?} {serve:?}");
    }

    fn write(&self, url: &str, repository: &str) -> PathBuf {
        let config = self.bed.path("attempt.toml");
        let (state, port) = (self.bed.path(self.state), free_port());
        let text = format!(
            "state_dir = \"{}\"\nrepository_url = \"{url}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[repository]\n{repository}",
            state.display()
        );
        fs::write(&config, text).unwrap();
        config
    }
}

fn credentials(account: &S3, bed: &Bed) -> String {
    format!("credentials_file = \"{}\"\n", account.credentials(bed.dir(), "credentials.toml").display())
}

#[test]
fn mistakes_about_a_bucket_are_named() {
    let (bed, garage) = (Bed::new("bad-s3"), Garage::start());
    let attempt = Attempt { bed: &bed, clock: None, state: "state" };
    let (url, good) = (garage.url("repo"), credentials(&garage, &bed));
    attempt.assert_says("ftp://bucket/repo", "", &["ftp", "unknown scheme"]);
    attempt.assert_says(&url.replace("s3://coffer/", "s3://no-such-bucket/"), &good, &["no-such-bucket"]);
    attempt.assert_says(&url.replace("region=garage", "region=eu-nowhere-7"), &good, &["region", "garage"]);
    attempt.assert_says(&format!("{url}&regoin=x"), &good, &["regoin"]);
    attempt.assert_says(&url, "", &["credentials.toml"]);
    let mut other = garage.s3.clone();
    other.secret_key = "wrong".repeat(8);
    let wrong = format!("credentials_file = \"{}\"\n", other.credentials(bed.dir(), "other.toml").display());
    attempt.assert_says(&url, &wrong, &["key"]);
    let open = bed.path("open.toml");
    fs::copy(bed.path("credentials.toml"), &open).unwrap();
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    attempt.assert_says(&url, &format!("credentials_file = \"{}\"\n", open.display()), &["open.toml", "600"]);
    let nobody = format!("s3://coffer/repo?endpoint=http://127.0.0.1:{}&region=garage", free_port());
    attempt.assert_says(&nobody, &good, &["refuses connections"]);
    attempt.assert_says("s3://coffer/repo?endpoint=http://169.254.169.254&region=x", &good, &["169.254.169.254"]);

    // Somebody else's objects, a future repository, and another one than this state's.
    garage.replace("photos/cat.jpeg", b"meow");
    attempt.assert_says(&garage.url("photos"), &good, &["photos", "cat.jpeg", "not a repository"]);
    garage.replace("future/coffer.json", br#"{"format":999,"id":"3f1f6f0e-5c1c-4d8e-9f0e-000000000000"}"#);
    attempt.assert_says(&garage.url("future"), &good, &["999"]);
    let own = Bed::new("bad-s3-own");
    for (prefix, state) in [("one", "first"), ("two", "second")] {
        let more = format!("\n[repository]\n{good}");
        Appliance::start_on(Bed::new(prefix), &garage.url(prefix), &more, own.path(state)).stop();
    }
    let crossed = Attempt { bed: &own, clock: None, state: "first" };
    crossed.assert_says(&garage.url("two"), &good, &["/two", "not the one this state directory belongs to"]);
}

#[test]
fn certificates_and_clocks_that_are_wrong_are_named() {
    let (bed, swift) = (Bed::new("bad-tls"), Swift::start(&[("tls", "ca")]));
    let attempt = Attempt { bed: &bed, clock: None, state: "state" };
    let ca = format!("ca_file = \"{}\"\n", swift.ca_file.as_ref().unwrap().display());
    let of_s3 = credentials(&swift.s3, &bed);
    let of_swift = format!("credentials_file = \"{}\"\n", swift.credentials(bed.dir(), "swift.toml").display());
    attempt.assert_says(&swift.s3.url("repo"), &of_s3, &["certificate", "authority", "ca_file"]);
    attempt.assert_says(&swift.url("repo"), &of_swift, &["certificate", "authority", "ca_file"]);
    attempt.assert_says(
        &swift.url("repo").replace("swift://coffer", "swift://nowhere"),
        &(of_swift.clone() + &ca),
        &["nowhere"],
    );
    let wrong = write_secret(bed.dir(), "wrong.toml", "[swift]\nuser = \"test:tester\"\nkey = \"wrong\"\n");
    let wrong = format!("credentials_file = \"{}\"\n{ca}", wrong.display());
    attempt.assert_says(&swift.url("repo"), &wrong, &["wrong.toml"]);
    // Behind the store's time the signatures have run out; ahead of it some stores take them, and it is told still.
    let good = of_s3 + &ca;
    let early = Attempt { clock: Some("-20m"), ..attempt };
    early.assert_says(&swift.s3.url("repo"), &good, &["clock"]);
    let late = Attempt { clock: Some("+20m"), ..attempt };
    late.assert_warns(&swift.s3.url("repo"), &good, "clock is 1");
    drop(swift);

    let expired = Swift::start(&[("tls", "expired")]);
    let ca = format!("ca_file = \"{}\"\n", expired.ca_file.as_ref().unwrap().display());
    let attempt = Attempt { bed: &bed, clock: None, state: "state" };
    attempt.assert_says(&expired.s3.url("repo"), &(credentials(&expired.s3, &bed) + &ca), &["certificate", "expired"]);
}
