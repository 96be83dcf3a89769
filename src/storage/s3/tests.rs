//! The driver against real stores.

use super::super::suite;
use super::*;
use crate::testing::TempDir;
use crate::testing::stores::{self, Garage, Swift};

const KIB: u64 = 1024;

/// Small enough that a test sends several parts. Swift is told to take them; Garage takes all.
const SMALL_PARTS: multipart::Parts = multipart::Parts {
    whole_bytes_max: 300 * KIB,
    part_bytes: 128 * KIB,
    count_max: 1000,
    in_flight: 4,
    page_keys_max: 100,
};

fn access(account: &stores::S3, dir: &TempDir) -> Access {
    Access { credentials_file: Some(account.credentials(dir, "credentials.toml")), ..Access::default() }
}

fn address(url: &str) -> S3Address {
    match super::super::url::parse(url).unwrap() {
        super::super::url::Address::S3(address) => address,
        other => panic!("{other:?}"),
    }
}

fn open(account: &stores::S3, prefix: &str, dir: &TempDir) -> S3Store {
    S3Store::open(address(&account.url(prefix)), &access(account, dir)).unwrap()
}

/// The whole suite, with pages and parts as they are and with small ones.
fn keeps_the_contract(account: &stores::S3, parts: multipart::Parts) {
    let dir = TempDir::new();
    let mut store = open(account, "some/where", &dir);
    assert_eq!(store.url(), format!("s3://{}/some/where", account.bucket));
    suite::check_remote_contract(&store);
    store.parts = parts;
    large_files_are_whole_or_absent(&store, &dir);
    what_is_beside_the_prefix_is_not_seen(account, &store);
    abandoned_uploads_are_swept(account, &dir, parts);
    let skew = clock::now().duration_since(store.clock().unwrap().unwrap()).abs();
    assert!(skew < jiff::SignedDuration::from_secs(5), "{skew:?}");
}

fn large_files_are_whole_or_absent(store: &S3Store, dir: &TempDir) {
    let bytes: Vec<u8> = (0..1_200_003_u32).map(|n| (n >> 7).to_le_bytes()[0] ^ n.to_le_bytes()[0]).collect();
    let path = dir.join("large");
    crate::durable::write(&path, &bytes, 0o600).unwrap();
    store.put("large/file", Body::File(&path)).unwrap();
    store.put("large/file", Body::File(&path)).unwrap();
    store.put("large/file", Body::Bytes(&bytes)).unwrap();
    assert_eq!(store.put("large/file", Body::Bytes(&bytes[1..])).unwrap_err().kind(), ErrorKind::Conflict);
    let mut read = Vec::new();
    store.get("large/file").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    read.clear();
    store.get_range("large/file", 130_000, Some(500_000)).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes[130_000..630_000]);
    assert_eq!(
        store.list("large/", None, 10).unwrap(),
        [StoredObject { key: "large/file".to_owned(), bytes: bytes.len() as u64 }]
    );
    store.delete("large/file").unwrap();
    // Nothing is left in the account of an upload that went well.
    assert_eq!(store.abort_abandoned(in_two_days()).unwrap(), 0);

    // The same file from several sides at once.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| store.put("large/race", Body::File(&path)).unwrap());
        }
    });
    read.clear();
    store.get("large/race").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    store.delete("large/race").unwrap();
}

fn what_is_beside_the_prefix_is_not_seen(account: &stores::S3, store: &S3Store) {
    account.replace("some/whereabouts", b"not ours");
    account.replace("some/where/by-hand", b"by hand");
    assert_eq!(store.list("", None, 10).unwrap().len(), 1);
    // An object of another tool has no digest of ours: its bytes are compared.
    store.put("by-hand", Body::Bytes(b"by hand")).unwrap();
    assert_eq!(store.put("by-hand", Body::Bytes(b"by HAND")).unwrap_err().kind(), ErrorKind::Conflict);
    store.delete("by-hand").unwrap();
    account.remove("some/whereabouts");
}

fn abandoned_uploads_are_swept(account: &stores::S3, dir: &TempDir, parts: multipart::Parts) {
    let mut store = open(account, "sweep", dir);
    store.parts = parts;
    let beside = open(account, "sweeper", dir);
    let begin = |store: &S3Store| {
        let ask = Ask::new(Method::Post, Some("left/behind")).query(&[("uploads", "")]).body(Payload::Bytes(b""));
        answer::parse_upload_id(&store.send(&ask).unwrap().small_body().unwrap()).unwrap()
    };
    let (_, _, foreign) = (begin(&store), begin(&store), begin(&beside));
    assert_eq!(store.sweep().unwrap(), 0);
    assert_eq!(store.abort_abandoned(in_two_days()).unwrap(), 2);
    assert_eq!(store.abort_abandoned(in_two_days()).unwrap(), 0);
    beside.abort("left/behind", &foreign).unwrap();
    beside.abort("left/behind", &foreign).unwrap();
}

fn in_two_days() -> Timestamp {
    clock::now() + jiff::SignedDuration::from_hours(48)
}

/// Each way in which address, keys or bucket can be wrong has a sentence of its own.
fn mistakes_are_named(account: &stores::S3, wrong_region: Option<&str>, unknown_key: &str, wrong_secret: &str) {
    let dir = TempDir::new();
    let told = |url: &str, access: &Access| match S3Store::open(address(url), access) {
        Ok(_) => panic!("{url} was opened"),
        Err(err) => (err.kind(), err.to_string()),
    };
    let good = access(account, &dir);
    let url = account.url("x");
    let (kind, text) = told(&url.replace(&account.bucket, "no-such-bucket"), &good);
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    assert!(text.contains("no bucket `no-such-bucket`"), "{text}");
    if let Some(named) = wrong_region {
        let elsewhere = url.replace(&format!("region={}", account.region), "region=eu-nowhere-7");
        let (kind, text) = told(&elsewhere, &good);
        assert_eq!(kind, ErrorKind::InvalidInput, "{text}");
        assert!(text.contains(named), "{text}");
    }
    let with = |access_key: &str, secret_key: &str| {
        let mut other = account.clone();
        (other.access_key, other.secret_key) = (access_key.to_owned(), secret_key.to_owned());
        told(&url, &Access { credentials_file: Some(other.credentials(&dir, "other.toml")), ..Access::default() })
    };
    let (kind, text) = with("GK000000000000000000000000", &account.secret_key);
    assert!(is_about_keys(&Error::new(kind, "")) && text.contains(unknown_key), "{text}");
    let (kind, text) = with(&account.access_key, "hush");
    assert!(is_about_keys(&Error::new(kind, "")) && text.contains(wrong_secret), "{text}");
    assert!(!text.contains("hush"), "{text}");
    let (kind, text) = told(&url, &Access::default());
    assert_eq!(kind, ErrorKind::Unauthorized, "{text}");
    // A bucket that went away later is no empty bucket.
    let mut store = open(account, "x", &dir);
    store.bucket =
        Bucket::new(account.endpoint.parse().unwrap(), UrlStyle::Path, "gone-bucket", account.region.clone()).unwrap();
    assert_eq!(store.size("key").unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.get("key").err().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(store.list("", None, 1).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.put("key", Body::Bytes(b"x")).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.delete("key").unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn garage_keeps_the_contract() {
    let garage = Garage::start();
    keeps_the_contract(&garage, SMALL_PARTS);
    mistakes_are_named(&garage, Some("`garage`"), "denies access", "denies access");
    let dir = TempDir::new();
    let store = open(&garage, "probe", &dir);
    assert_eq!(store.creates_conditionally("probe/scratch").unwrap(), Some(false));
    assert!(store.list("", None, 1).unwrap().is_empty());
    new_keys_are_found_in_the_file(&garage);
}

fn new_keys_are_found_in_the_file(account: &stores::S3) {
    let dir = TempDir::new();
    let store = open(account, "keys", &dir);
    let mut rotated = account.clone();
    rotated.secret_key = "0".repeat(64);
    // The store refuses these keys, which were put in place of the good ones behind our back.
    *store.keys.write().unwrap() = Arc::new(credentials::s3(Some(&rotated.credentials(&dir, "old.toml"))).unwrap());
    store.put("a", Body::Bytes(b"a")).unwrap();
    store.delete("a").unwrap();
}

#[test]
fn swifts_s3api_keeps_the_contract() {
    let swift = Swift::start(&[("min_segment", "1024")]);
    keeps_the_contract(&swift.s3, SMALL_PARTS);
    mistakes_are_named(&swift.s3, Some("region"), "signature wrong", "signature wrong");
    let dir = TempDir::new();
    let store = open(&swift.s3, "probe", &dir);
    assert_eq!(store.creates_conditionally("probe/scratch").unwrap(), Some(false));
}

#[test]
fn a_store_with_an_authority_of_its_own_needs_its_certificate() {
    let swift = Swift::start(&[("tls", "ca")]);
    let dir = TempDir::new();
    let mut access = access(&swift.s3, &dir);
    let told = S3Store::open(address(&swift.s3.url("tls")), &access).err().unwrap().to_string();
    assert!(told.contains("ca_file"), "{told}");
    access.ca_file = swift.ca_file.clone();
    let store = S3Store::open(address(&swift.s3.url("tls")), &access).unwrap();
    let bytes = vec![5; 1 << 20];
    store.put("key", Body::Bytes(&bytes)).unwrap();
    let mut read = Vec::new();
    store.get("key").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    store.delete("key").unwrap();
}
