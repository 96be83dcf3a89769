//! Against a real Swift, with TempAuth and behind a real Keystone; against one that fails on cue in `faults`.

mod fake;
mod faults;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;

use super::super::http::Payload;
use super::super::url::{Address, parse};
use super::container::Offers;
use super::large::{self, LargeSizes};
use super::listing::{SEGMENTS, Upload};
use super::{Method, Policy, SwiftStore};
use crate::error::ErrorKind;
use crate::storage::{self, Access, Body, ObjectStore, http, suite};
use crate::testing::TempDir;
use crate::testing::proxy::{Change, Proxy, Rule};
use crate::testing::stores::{Swift, write_secret};

/// Every file of more than nothing is large.
const SMALL_SIZES: LargeSizes = LargeSizes { above_bytes: 1, segment_bytes: 100_000 };

fn access(file: PathBuf) -> Access {
    Access { credentials_file: Some(file), ..Access::default() }
}

/// A store whose files become large objects.
fn store(url: &str, credentials: PathBuf) -> SwiftStore {
    let Address::Swift(address) = parse(url).unwrap() else { panic!("not Swift's") };
    let access = access(credentials);
    let client = http::Client::new(&access).unwrap();
    SwiftStore::with_sizes(client, address, &access, SMALL_SIZES, Policy::PATIENT).unwrap()
}

fn read(store: &dyn ObjectStore, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.get(key).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// All names below the prefix, those that listings hide too.
fn all_names(store: &SwiftStore) -> Vec<String> {
    let page = store.container.page(&store.container.address.prefix, "", 1000);
    page.map_err(|failure| failure.error).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// A file of `bytes` that differ everywhere, and what is in it.
fn file(dir: &Path, name: &str, bytes: u32) -> (PathBuf, Vec<u8>) {
    let content: Vec<u8> = (0..bytes).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let path = dir.join(name);
    crate::durable::write(&path, &content, 0o600).unwrap();
    (path, content)
}

/// What opening `url` fails with.
fn refusal(url: &str, credentials: &Path) -> crate::error::Error {
    storage::open_existing(url, &access(credentials.to_owned())).err().unwrap()
}

#[test]
fn the_contract_holds_on_swift_with_tempauth() {
    let dir = TempDir::new();
    let swift = Swift::start(&[]);
    let credentials = swift.credentials(&dir, "credentials.toml");
    for prefix in ["", "a/prefix"] {
        let store = storage::open(&swift.url(prefix), &access(credentials.clone())).unwrap();
        suite::check_contract(&*store);
        let url = store.url();
        assert_eq!(url, format!("swift://coffer/{prefix}").trim_end_matches('/'));
    }
    let large = store(&swift.url("large"), credentials.clone());
    suite::check_contract(&large);
    assert!(all_names(&large).is_empty(), "{:?}", all_names(&large));
    a_large_object_lives_and_dies(&large, &dir);
    an_unfinished_upload_is_swept(&large, &dir);
    a_listing_goes_on_beyond_a_page(store(&swift.url("pages"), credentials.clone()));
    the_store_is_probed(&large);
    each_refusal_is_named(&swift, &dir);
}

fn a_large_object_lives_and_dies(store: &SwiftStore, dir: &TempDir) {
    let (path, content) = file(dir, "large", 1_000_001);
    store.put("l/one", Body::File(&path)).unwrap();
    assert_eq!(all_names(store).len(), 12, "a manifest and 11 segments: {:?}", all_names(store));
    assert_eq!(store.size("l/one").unwrap(), Some(1_000_001));
    assert!(read(store, "l/one") == content);
    let mut range = Vec::new();
    store.get_range("l/one", 99_990, Some(200_020)).unwrap().read_to_end(&mut range).unwrap();
    assert!(range == content[99_990..300_010]);
    assert!(store.get_range("l/one", 1_000_001, None).unwrap().read(&mut [0]).unwrap() == 0);

    // The same again is the same; what is stored otherwise is compared by its content.
    store.put("l/one", Body::File(&path)).unwrap();
    store.put("l/one", Body::Bytes(&content)).unwrap();
    assert_eq!(store.put("l/one", Body::Bytes(&content[1..])).unwrap_err().kind(), ErrorKind::Conflict);
    let (other, _) = file(dir, "other", 1_000_002);
    assert_eq!(store.put("l/one", Body::File(&other)).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(all_names(store).len(), 12);

    let listed = store.list("", None, 10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].bytes), ("l/one", 1_000_001));
    assert_eq!(large::keys_with_segments(&store.container, "l/").unwrap(), ["l/one"]);

    store.delete("l/one").unwrap();
    assert!(all_names(store).is_empty(), "{:?}", all_names(store));

    // In one request with plain ones.
    store.put("l/two", Body::File(&path)).unwrap();
    for key in ["l/three", "m"] {
        store.put(key, Body::Bytes(b"plain")).unwrap();
    }
    store.delete_many(&["l/two", "l/three", "l/none", "m"].map(str::to_owned)).unwrap();
    assert!(all_names(store).is_empty(), "{:?}", all_names(store));
}

fn an_unfinished_upload_is_swept(store: &SwiftStore, dir: &TempDir) {
    let (path, content) = file(dir, "swept", 250_000);
    store.put("s/kept", Body::File(&path)).unwrap();
    let left = Upload { key: "s/kept".to_owned(), id: "dead".to_owned() };
    let prefix = &store.container.address.prefix;
    for number in 0..2 {
        let path = store.container.path(&left.segment(prefix, number));
        let answer =
            store.container.send(Method::PUT, &path, &[], Payload::Bytes(b"left")).unwrap_or_else(|_| panic!());
        assert_eq!(answer.status(), 201);
    }
    assert_eq!(store.sweep().unwrap(), 0, "they are young");
    // The clock of an answer is whole seconds, that of an object is not.
    assert_eq!(large::sweep(&store.container, SignedDuration::from_secs(-2)).unwrap(), 2);
    assert!(read(store, "s/kept") == content);

    // A manifest whose removal was cut short.
    store.container.remove(&store.container.name("s/kept")).unwrap_or_else(|_| panic!());
    assert_eq!(all_names(store).len(), 3);
    assert_eq!(large::sweep(&store.container, SignedDuration::from_secs(-2)).unwrap(), 3);
    assert!(all_names(store).is_empty());
}

fn a_listing_goes_on_beyond_a_page(store: SwiftStore) {
    let offers = Offers { list_max: 7, ..store.container.offers().unwrap_or_else(|_| panic!()) };
    assert_eq!(offers.bulk_deletes_max, Some(1000));
    let container =
        super::container::Container { offers: offers.into(), ..std::sync::Arc::into_inner(store.container).unwrap() };
    let store = SwiftStore { container: container.into() };
    let keys: Vec<String> = (0..60).map(|n| format!("k/{n:03}")).collect();
    for key in &keys {
        store.put(key, Body::Bytes(b"x")).unwrap();
    }
    // Folders that tools make, and what is hidden, are none of ours.
    for name in ["", "k/", "k/.hidden", &format!("{SEGMENTS}k/000/u/000000")] {
        let path = store.container.path(&store.container.name(name));
        let answer = store.container.send(Method::PUT, &path, &[], Payload::Bytes(b"")).unwrap_or_else(|_| panic!());
        assert_eq!(answer.status(), 201, "{path}");
    }
    for limit in [60, 61, 1000] {
        let listed: Vec<String> = store.list("", None, limit).unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(listed, keys);
    }
    assert_eq!(store.list("k/", Some("k/010"), 20).unwrap().last().unwrap().key, "k/030");
    store.delete_many(&keys).unwrap();
    assert!(store.list("", None, 1).unwrap().is_empty());
}

fn the_store_is_probed(store: &SwiftStore) {
    let clock = store.clock().unwrap().unwrap();
    assert!(crate::clock::now().duration_since(clock).abs() < SignedDuration::from_secs(60));
    assert_eq!(store.creates_conditionally("probe/x").unwrap(), Some(true));
    assert_eq!(store.size("probe/x").unwrap(), None);
}

fn each_refusal_is_named(swift: &Swift, dir: &TempDir) {
    let credentials = swift.credentials(dir, "credentials.toml");
    let (user, key) = (swift.fact("SWIFT_USER"), swift.fact("SWIFT_KEY"));

    let err = refusal(&swift.url("p").replace("://coffer", "://no%20such"), &credentials);
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.to_string().contains("no container `no such`"), "{err}");
    assert!(err.to_string().contains("`openstack container create 'no such'`"), "{err}");

    let login = format!("[swift]\nuser = '{user}'\nkey = 'wrong-and-secret'\n");
    let err = refusal(&swift.url("p"), &write_secret(dir, "wrong.toml", &login));
    assert_eq!(err.kind(), ErrorKind::Unauthorized);
    assert!(err.to_string().contains(&format!("user `{user}`: user or key is wrong")), "{err}");
    assert!(!format!("{err} {err:?}").contains("wrong-and-secret"), "{err:?}");

    let login = format!("[swift]\nuser = 'test:guest'\nkey = '{key}'\n");
    let err = refusal(&swift.url("p"), &write_secret(dir, "guest.toml", &login));
    assert_eq!(err.kind(), ErrorKind::Forbidden);
    assert!(err.to_string().contains("swift post -r"), "{err}");

    let keystone = write_secret(dir, "keystone.toml", "[swift]\nusername = 'a'\npassword = 'b'\nproject = 'c'\n");
    let err = refusal(&swift.url("p"), &keystone);
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(err.message().contains("auth v1, which takes user and key"), "{err}");

    let err = refusal(&format!("{}&region=RegionOne", swift.url("p")), &credentials);
    assert!(err.message().contains("region"), "{err}");
    let err = refusal(&swift.url("p").replace("/auth/v1.0", "/nothing/v3"), &keystone);
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(err.message().contains("no identity service"), "{err}");

    // Quotas are last: the container keeps it.
    let store = store(&swift.url("quota"), credentials);
    let quota = [("x-container-meta-quota-bytes", "50000")];
    let path = store.container.own_path();
    let answer = store.container.send(Method::POST, &path, &quota, Payload::None).unwrap_or_else(|_| panic!());
    assert_eq!(answer.status(), 204);
    let err = store.put("q", Body::Bytes(&[7; 60_000])).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NoSpace);
    assert!(err.message().contains("quota"), "{err}");
    let (path, _) = file(dir, "quota", 1_000_000);
    let err = store.put("q", Body::File(&path)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NoSpace);
    assert!(all_names(&store).is_empty(), "a failed upload leaves nothing: {:?}", all_names(&store));
}

#[test]
fn dead_tokens_and_rate_limits_do_not_end_a_transfer() {
    let dir = TempDir::new();
    // So many writes a second in a container that is not empty: the others get 498.
    let swift = Swift::start(&[("rate_limit", "10")]);
    let proxy = Proxy::start(&swift.endpoint);
    let store = store(&swift.url_through(&proxy.endpoint(), "t"), swift.credentials(&dir, "credentials.toml"));
    store.put("first", Body::Bytes(b"x")).unwrap();
    let (path, content) = file(&dir, "large", 1_500_000);

    // A right that is lost in the middle is no reason to go on, and what is stored so far is no object.
    proxy.rule(Rule::new(Change::status(403)).method("PUT").target("/000005"));
    let err = store.put("large", Body::File(&path)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Forbidden);
    assert!(err.message().contains("storing the segment `t/.segments/large/"), "{err}");
    assert_eq!(all_names(&store), ["t/first"]);
    proxy.mend();
    proxy.take_exchanges();

    let port: u16 = swift.endpoint.rsplit_once(':').unwrap().1.parse().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // TempAuth keeps its tokens in memcached.
        let forgetful = scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let mut memcached = TcpStream::connect(("127.0.0.1", port + 1)).unwrap();
                memcached.write_all(b"flush_all\r\n").unwrap();
                let mut said = [0; 4];
                memcached.read_exact(&mut said).unwrap();
                assert_eq!(&said, b"OK\r\n");
                // Long enough for a token to be used once: one that dies before is not accepted a second time.
                std::thread::sleep(Duration::from_millis(1500));
            }
        });
        store.put("large", Body::File(&path)).unwrap();
        for n in 0..8 {
            store.put(&format!("k{n}"), Body::Bytes(&content[..100_000])).unwrap();
        }
        assert!(read(&store, "large") == content);
        ended.store(true, Ordering::SeqCst);
        forgetful.join().unwrap();
    });
    assert_eq!(store.list("", None, 100).unwrap().len(), 10);
    let statuses: Vec<u16> = proxy.take_exchanges().iter().map(|exchange| exchange.status).collect();
    assert!(statuses.contains(&401) && statuses.contains(&498), "{statuses:?}");
}

#[test]
fn the_contract_holds_on_swift_behind_keystone() {
    let dir = TempDir::new();
    let swift = Swift::start_with_keystone(&[], |port| port);
    let password = swift.credentials(&dir, "password.toml");
    let application = swift.application_credential(&dir, "application.toml");
    let url = format!("{}&region=RegionOne&interface=internal", swift.url("internal"));
    for (url, credentials) in [(swift.url("password"), &password), (url, &application)] {
        suite::check_contract(&*storage::open(&url, &access(credentials.clone())).unwrap());
    }
    let store = store(&swift.url("large"), application.clone());
    a_large_object_lives_and_dies(&store, &dir);
    each_refusal_of_keystone_is_named(&swift, &dir);
}

fn each_refusal_of_keystone_is_named(swift: &Swift, dir: &TempDir) {
    let [user, password, project] = ["OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"].map(|name| swift.fact(name));
    let secret = swift.fact("OS_APPLICATION_CREDENTIAL_SECRET");
    let id = swift.fact("OS_APPLICATION_CREDENTIAL_ID");
    let by_password = |user: &str, password: &str, project: &str, more: &str| {
        format!("username = '{user}'\npassword = '{password}'\nproject = '{project}'\n{more}")
    };
    let application = |id: &str, secret: &str| {
        format!("application_credential_id = '{id}'\napplication_credential_secret = '{secret}'\n")
    };
    for (login, named) in [
        (by_password(&user, "wrong-secret", &project, ""), "user, domain or password is wrong"),
        (by_password("nobody", &password, &project, ""), "user `nobody` of domain `Default`: user, domain or password"),
        (by_password(&user, &password, &project, "user_domain = 'none'"), "domain `none`: user, domain or password"),
        (by_password(&user, &password, "shop", ""), "project `shop` of domain `Default`: user and password are right"),
        (by_password(&user, &password, &project, "project_domain = 'none'"), "of domain `none`: user and password are"),
        (application(&id, "wrong-secret"), "its secret is another one"),
        (application("00000000000000000000000000000000", &secret), "there is none with this id"),
    ] {
        let file = write_secret(dir, "wrong.toml", &format!("[swift]\n{login}"));
        let err = refusal(&swift.url("p"), &file);
        assert_eq!(err.kind(), ErrorKind::Unauthorized, "{err}");
        assert!(err.message().contains(named), "{err}");
        assert!(err.to_string().contains("wrong.toml"), "{err}");
        for secret in ["wrong-secret", &password, &secret] {
            assert!(!format!("{err} {err:?}").contains(secret), "{err:?}");
        }
    }
    let good = swift.credentials(dir, "good.toml");
    let err = refusal(&format!("{}&region=Mars", swift.url("p")), &good);
    assert_eq!(err.kind(), ErrorKind::Refused);
    assert!(err.message().contains("in region `Mars`; it offers: region=RegionOne&interface="), "{err}");
    let err = refusal(&swift.url("p").replace("://coffer", "://none"), &good);
    assert!(err.to_string().contains("openstack container create none"), "{err}");
    let v1 = write_secret(dir, "v1.toml", "[swift]\nuser = 'a'\nkey = 'b'\n");
    assert!(refusal(&swift.url("p"), &v1).message().contains("Keystone v3, which takes username"));
}
