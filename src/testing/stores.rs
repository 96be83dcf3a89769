//! Real object stores for tests, started by `scripts/stores` and ended with the value that stands for them.
//!
//! `src/testing` and `tests/it/harness` share this file. A store that can't be had is a failed test, never a skipped one.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::TcpListener;
use std::ops::{Deref, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a script ends with when a port is taken, or a process of the store ended at its start.
const TAKEN: i32 = 75;
const TRIES: usize = 8;
/// Below the ports that Linux hands out itself.
const PORTS: Range<u16> = 20_000..32_000;

/// A store's processes and what the script said about them.
#[derive(Debug)]
struct Running {
    dir: PathBuf,
    facts: BTreeMap<String, String>,
}

impl Running {
    fn fact(&self, name: &str) -> String {
        self.facts
            .get(name)
            .unwrap_or_else(|| panic!("{} says no {name}: {:?}", self.dir.display(), self.facts))
            .clone()
    }

    /// Runs a script of `scripts/stores`; `None` if another port may help.
    fn start(script: &str, port: u16, options: &[(&str, &str)]) -> Option<Running> {
        let mut running = Running { dir: scratch(script), facts: BTreeMap::new() };
        let mut command = Command::new(scripts().join(script));
        command.arg(&running.dir).arg(port.to_string());
        command.args(options.iter().map(|(key, value)| format!("{key}={value}")));
        command.arg(format!("owner={}", std::process::id()));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {}
            Some(TAKEN) => {
                eprintln!("{script} on port {port}: {complaint}");
                return None;
            }
            _ => panic!("scripts/stores/{script}: {}: {complaint}", output.status),
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let facts = text.lines().filter_map(|line| line.split_once('='));
        running.facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.dir.join("etc").is_dir() {
            return;
        }
        // Also behind a failed test: what it leaves would stay in memory. COFFER_TEST_KEEP=1 keeps it.
        let mut command = Command::new(scripts().join("stop"));
        command.arg(&self.dir).arg("--wipe");
        match command.status() {
            Ok(status) if status.success() => {}
            other => eprintln!("unable to end the store in {}: {other:?}", self.dir.display()),
        }
    }
}

/// An account of a store that speaks S3, and its bucket.
#[derive(Debug, Clone)]
pub(crate) struct S3 {
    /// `http://127.0.0.1:PORT`; tests put a proxy's here.
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    /// Where to go by hand, whatever stands in `endpoint`.
    direct: Direct,
}

#[derive(Debug, Clone)]
enum Direct {
    /// `http://127.0.0.1:PORT`
    S3(String),
    /// TempAuth's address and the one of the objects: curl takes no key id with a colon in it.
    Swift { auth: String, storage: String },
}

impl S3 {
    fn of(store: &Running, account: &Running) -> S3 {
        let endpoint = store.fact("S3_ENDPOINT");
        let access_key = account.fact("S3_ACCESS_KEY_ID");
        let direct = if access_key.contains(':') {
            Direct::Swift { auth: store.fact("SWIFT_AUTH_URL"), storage: store.fact("SWIFT_STORAGE_URL") }
        } else {
            Direct::S3(endpoint.clone())
        };
        S3 {
            region: store.fact("S3_REGION"),
            bucket: store.fact("S3_BUCKET"),
            secret_key: account.fact("S3_SECRET_ACCESS_KEY"),
            endpoint,
            access_key,
            direct,
        }
    }

    /// The same account through a proxy.
    pub(crate) fn through(&self, endpoint: &str) -> S3 {
        S3 { endpoint: endpoint.to_owned(), ..self.clone() }
    }

    /// The address of a repository under `prefix`.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}?endpoint={}&region={}", self.bucket, self.endpoint, self.region)
    }

    /// Writes `name` into `dir`, readable by its owner only.
    pub(crate) fn credentials(&self, dir: &Path, name: &str) -> PathBuf {
        let (key, secret) = (&self.access_key, &self.secret_key);
        write_secret(dir, name, &format!("[s3]\naccess_key_id = \"{key}\"\nsecret_access_key = \"{secret}\"\n"))
    }

    /// An object as it lies there; `None` when there is none.
    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        let (status, body) = self.by_hand("GET", key, None);
        assert!([200, 404].contains(&status), "GET {key}: {status}: {}", String::from_utf8_lossy(&body));
        (status == 200).then_some(body)
    }

    /// Puts an object behind coffer's back, in place of what is there.
    pub(crate) fn replace(&self, key: &str, body: &[u8]) {
        let (status, answer) = self.by_hand("PUT", key, Some(body));
        assert!([200, 201].contains(&status), "PUT {key}: {status}: {}", String::from_utf8_lossy(&answer));
    }

    pub(crate) fn remove(&self, key: &str) {
        let (status, answer) = self.by_hand("DELETE", key, None);
        assert!([200, 204].contains(&status), "DELETE {key}: {status}: {}", String::from_utf8_lossy(&answer));
    }

    /// The names of all objects that begin with `prefix`, in order; a thousand at most.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = prefix.replace('/', "%2F");
        let between = |text: &str| {
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
            keys.map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        };
        let (status, body) = match &self.direct {
            Direct::S3(_) => self.by_hand("GET", &format!("?list-type=2&prefix={prefix}"), None),
            Direct::Swift { .. } => self.by_hand("GET", &format!("?prefix={prefix}"), None),
        };
        let text = String::from_utf8(body).unwrap();
        assert!([200, 204].contains(&status), "listing {prefix}: {status}: {text}");
        match &self.direct {
            Direct::S3(_) => between(&text),
            Direct::Swift { .. } => text.lines().map(str::to_owned).collect(),
        }
    }

    fn by_hand(&self, method: &str, key: &str, body: Option<&[u8]>) -> (u16, Vec<u8>) {
        let slash = if key.starts_with('?') { "" } else { "/" };
        let mut arguments = vec!["-X".to_owned(), method.to_owned()];
        let (base, config) = match &self.direct {
            Direct::S3(endpoint) => {
                arguments.push("--aws-sigv4".to_owned());
                arguments.push(format!("aws:amz:{}:s3", self.region));
                let hash = "header = \"x-amz-content-sha256: UNSIGNED-PAYLOAD\"";
                (endpoint.clone(), format!("user = \"{}:{}\"\n{hash}\n", self.access_key, self.secret_key))
            }
            Direct::Swift { auth, storage } => {
                (storage.clone(), format!("header = \"X-Auth-Token: {}\"\n", self.token(auth)))
            }
        };
        let file = body.map(|body| {
            let file = scratch("body");
            fs::write(&file, body).unwrap();
            arguments.push("--data-binary".to_owned());
            arguments.push(format!("@{}", file.display()));
            file
        });
        arguments.push(format!("{base}/{}{slash}{key}", self.bucket));
        let answer = curl(&arguments, &config);
        if let Some(file) = file {
            fs::remove_file(file).unwrap();
        }
        answer
    }

    fn token(&self, auth: &str) -> String {
        let config =
            format!("header = \"X-Auth-User: {}\"\nheader = \"X-Auth-Key: {}\"\n", self.access_key, self.secret_key);
        let (status, head) = curl(&["-i".to_owned(), auth.to_owned()], &config);
        let head = String::from_utf8_lossy(&head).into_owned();
        let token = head.lines().find_map(|line| line.strip_prefix("X-Auth-Token: "));
        token.unwrap_or_else(|| panic!("no token: {status}: {head}")).trim().to_owned()
    }
}

/// Garage: S3, a thousand puts a second, started in 0.2 s.
#[derive(Debug)]
pub(crate) struct Garage {
    pub(crate) s3: S3,
    _running: Running,
}

impl Garage {
    pub(crate) fn start() -> Garage {
        Garage::start_with(&[])
    }

    /// With options of `scripts/stores/garage`.
    pub(crate) fn start_with(options: &[(&str, &str)]) -> Garage {
        let running = try_ports(3, |port| Running::start("garage", port, options));
        Garage { s3: S3::of(&running, &running), _running: running }
    }
}

impl Deref for Garage {
    type Target = S3;

    fn deref(&self) -> &S3 {
        &self.s3
    }
}

/// OpenStack Swift with an account of TempAuth's or Keystone's, and the same objects by S3.
#[derive(Debug)]
pub(crate) struct Swift {
    /// `http://127.0.0.1:PORT`, without a path.
    pub(crate) endpoint: String,
    /// What stands in an address as `auth_url`.
    pub(crate) auth_url: String,
    pub(crate) container: String,
    /// The certificate of the CA, with `tls=ca`.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) s3: S3,
    // Ended in this order.
    running: Running,
    keystone: Option<Running>,
}

impl Swift {
    /// With TempAuth; `options` are those of `scripts/stores/swift`.
    pub(crate) fn start(options: &[(&str, &str)]) -> Swift {
        let running = try_ports(5, |port| Running::start("swift", port, options));
        Swift::of(running, None)
    }

    /// With Keystone, for which `options` are too. Its catalog's public address is at `public`, which leads to the
    /// port handed to it, or is Swift itself.
    pub(crate) fn start_with_keystone(options: &[(&str, &str)], public: impl Fn(u16) -> u16) -> Swift {
        let (running, keystone) = try_ports(6, |port| {
            let (swift, public) = (port.to_string(), public(port).to_string());
            let of_keystone = [&[("swift", &*swift), ("public", &*public)], options].concat();
            let keystone = Running::start("keystone", port + 5, &of_keystone)?;
            let dir = keystone.dir.display().to_string();
            Some((Running::start("swift", port, &[("keystone", &*dir)])?, keystone))
        });
        Swift::of(running, Some(keystone))
    }

    fn of(running: Running, keystone: Option<Running>) -> Swift {
        let account = keystone.as_ref().unwrap_or(&running);
        Swift {
            endpoint: running.fact("SWIFT_ENDPOINT"),
            auth_url: account.fact(if keystone.is_some() { "OS_AUTH_URL" } else { "SWIFT_AUTH_URL" }),
            container: running.fact("SWIFT_CONTAINER"),
            ca_file: running.facts.get("CA_FILE").map(PathBuf::from),
            s3: S3::of(&running, account),
            running,
            keystone,
        }
    }

    /// The address of a repository under `prefix`.
    pub(crate) fn url(&self, prefix: &str) -> String {
        self.url_by(&self.auth_url, prefix)
    }

    /// The same through a proxy before TempAuth, which sends to the objects where it was asked itself.
    pub(crate) fn url_through(&self, endpoint: &str, prefix: &str) -> String {
        self.url_by(&self.auth_url.replace(&self.endpoint, endpoint), prefix)
    }

    fn url_by(&self, auth_url: &str, prefix: &str) -> String {
        format!("swift://{}/{prefix}?auth_url={auth_url}", self.container)
    }

    /// A line the scripts printed of the account.
    pub(crate) fn fact(&self, name: &str) -> String {
        let account = self.keystone.as_ref().unwrap_or(&self.running);
        account.fact(name)
    }

    /// Writes `name` into `dir`, readable by its owner only: a key of TempAuth's or a password of Keystone's.
    pub(crate) fn credentials(&self, dir: &Path, name: &str) -> PathBuf {
        let text = match &self.keystone {
            None => format!("user = \"{}\"\nkey = \"{}\"\n", self.fact("SWIFT_USER"), self.fact("SWIFT_KEY")),
            Some(_) => {
                let (user, password) = (self.fact("OS_USERNAME"), self.fact("OS_PASSWORD"));
                let project = self.fact("OS_PROJECT_NAME");
                format!("username = \"{user}\"\npassword = \"{password}\"\nproject = \"{project}\"\n")
            }
        };
        write_secret(dir, name, &format!("[swift]\n{text}"))
    }

    /// The same with an application credential of Keystone's.
    pub(crate) fn application_credential(&self, dir: &Path, name: &str) -> PathBuf {
        let id = self.fact("OS_APPLICATION_CREDENTIAL_ID");
        let secret = self.fact("OS_APPLICATION_CREDENTIAL_SECRET");
        let text =
            format!("[swift]\napplication_credential_id = \"{id}\"\napplication_credential_secret = \"{secret}\"\n");
        write_secret(dir, name, &text)
    }
}

/// Writes `text` into `dir/name`, readable by its owner only.
pub(crate) fn write_secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stores")
}

/// A number that no other thread or process comes to at the same time.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A name of its own for a folder or file, in memory where there is room: a store's metadata and fsyncs cost nothing there.
fn scratch(what: &str) -> PathBuf {
    const ROOM_MIN: u64 = 1 << 30;
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |it| it.f_bavail * it.f_frsize);
    let base = match std::env::var_os("COFFER_TEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None if room >= ROOM_MIN => memory.to_owned(),
        None => std::env::temp_dir(),
    };
    base.join(format!("coffer-store-{what}-{:016x}", random()))
}

/// Calls `start` with the first of `count` free ports in a row, again and again while they turn out to be taken.
fn try_ports<T>(count: u16, start: impl Fn(u16) -> Option<T>) -> T {
    for _ in 0..TRIES {
        let places = u64::from((PORTS.end - PORTS.start) / count);
        let Ok(place) = u16::try_from(random() % places) else { continue };
        let first = PORTS.start + place * count;
        let free = (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if let Some(started) = free.then(|| start(first)).flatten() {
            return started;
        }
    }
    panic!("no store could be started in {TRIES} tries")
}

/// Status and body; what is secret stands in `config`, which goes by stdin.
fn curl(arguments: &[String], config: &str) -> (u16, Vec<u8>) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-k", "-m", "60", "-K", "-", "-w", "%{stderr}\n%{http_code}"]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = said.lines().last().and_then(|line| line.parse().ok());
    (status.unwrap_or_else(|| panic!("curl {arguments:?}: {said}")), output.stdout)
}
