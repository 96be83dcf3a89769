//! Answers that a store gives on its bad days.

use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::container::{SHA256, UPLOAD};
use super::super::content::{md5_hex, sha256_of};
use super::super::large::LargeSizes;
use super::super::{Policy, SwiftStore};
use super::fake::{Asked, Fake, Said};
use crate::error::{ErrorKind, error_of};
use crate::storage::url::{Address, parse};
use crate::storage::{Access, Body, ObjectStore, http};
use crate::testing::TempDir;

const QUICK: Policy = Policy {
    attempts_max: 4,
    total_max: Duration::from_secs(20),
    pause_first: Duration::from_millis(2),
    pause_max: Duration::from_millis(10),
};
const SIZES: LargeSizes = LargeSizes { above_bytes: 1000, segment_bytes: 400 };

/// A store that talks to `fake` by auth v1.
fn store(fake: &Fake, dir: &TempDir) -> SwiftStore {
    let file = dir.join("credentials.toml");
    crate::durable::write(&file, b"[swift]\nuser = 'u:u'\nkey = 'hush'\n", 0o600).unwrap();
    let Address::Swift(address) = parse(&format!("swift://c/p?auth_url={}/auth/v1.0", fake.endpoint)).unwrap() else {
        panic!("not Swift's");
    };
    let access = Access { credentials_file: Some(file), ..Access::default() };
    SwiftStore::with_sizes(http::Client::new(&access).unwrap(), address, &access, SIZES, QUICK).unwrap()
}

/// What the identity service says: the address of the account on the host that was asked.
fn granted(asked: &Asked, token: &str) -> Said {
    let url = format!("http://{}/v1/a", asked.header("host").unwrap());
    Said::status(200).header("x-storage-url", url).header("x-auth-token", token)
}

/// Logs everyone in with the token `t`; the rest is `answer`'s.
fn fake(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Fake {
    Fake::start(move |asked| match asked.path.as_str() {
        "/auth/v1.0" => granted(asked, "t"),
        "/info" => Said::status(200).body(r#"{"slo": {}, "bulk_delete": {}, "swift": {}}"#),
        _ => answer(asked),
    })
}

#[test]
fn a_dead_token_is_renewed_once_by_one_of_many() {
    let logins = AtomicUsize::new(0);
    let barrier = Barrier::new(6);
    let fake = Fake::start(move |asked| {
        if asked.path == "/auth/v1.0" {
            std::thread::sleep(Duration::from_millis(100));
            return granted(asked, &format!("t{}", logins.fetch_add(1, Ordering::SeqCst)));
        }
        match asked.header("x-auth-token") {
            Some("t0") => {
                // All are refused at the same time.
                barrier.wait();
                Said::status(401)
            }
            _ => Said::status(200).header("content-length", "5"),
        }
    });
    let dir = TempDir::new();
    let store = store(&fake, &dir);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(store.size("k").unwrap(), Some(5)));
        }
    });
    assert_eq!(fake.count("GET /auth"), 2);
    assert_eq!(fake.count("HEAD /v1/a/c/p/k"), 12);
}

#[test]
fn a_token_that_is_refused_right_after_it_was_issued_is_a_failure_with_a_name() {
    let fake = fake(|_| Said::status(401));
    let dir = TempDir::new();
    let err = store(&fake, &dir).size("k").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthorized);
    assert!(err.message().contains("has just issued"), "{err}");
    assert_eq!((fake.count("GET /auth"), fake.count("HEAD")), (2, 2));
}

#[test]
fn a_wrong_key_is_tried_once_however_many_wait() {
    let fake = Fake::start(|_| {
        std::thread::sleep(Duration::from_millis(200));
        Said::status(401)
    });
    let dir = TempDir::new();
    let (store, barrier) = (store(&fake, &dir), Barrier::new(6));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                barrier.wait();
                let err = store.size("k").unwrap_err();
                assert_eq!(err.kind(), ErrorKind::Unauthorized);
                let told = err.to_string();
                assert!(told.contains("user `u:u`: user or key is wrong") && !told.contains("hush"), "{told}");
                assert!(told.contains("credentials.toml"), "{told}");
            });
        }
    });
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn a_good_token_outlives_an_identity_service_that_is_down() {
    let logins = AtomicUsize::new(0);
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/auth/v1.0" if logins.fetch_add(1, Ordering::SeqCst) == 0 => granted(asked, "t"),
        "/auth/v1.0" => Said::status(503),
        _ => Said::status(200).header("content-length", "5"),
    });
    let dir = TempDir::new();
    let store = store(&fake, &dir);
    assert_eq!(store.size("k").unwrap(), Some(5));
    store.container.tokens.make_due();
    for _ in 0..3 {
        assert_eq!(store.size("k").unwrap(), Some(5));
    }
    // It is not asked again for each request.
    assert_eq!(fake.count("GET /auth"), 2);
}

#[test]
fn what_may_pass_is_tried_again() {
    for status in [498, 429, 500, 503, 507] {
        let puts = AtomicUsize::new(0);
        let fake = fake(move |asked| match asked.method.as_str() {
            "PUT" if puts.fetch_add(1, Ordering::SeqCst) < 2 => Said::status(status),
            "PUT" => Said::status(201).header("etag", md5_hex(b"one")),
            _ => Said::status(404),
        });
        let dir = TempDir::new();
        store(&fake, &dir).put("k", Body::Bytes(b"one")).unwrap();
        assert_eq!(fake.count("PUT"), 3, "{status}");
        let put = fake.asked().pop().unwrap();
        assert_eq!((put.line().as_str(), put.body.as_slice()), ("PUT /v1/a/c/p/k", &b"one"[..]));
        assert_eq!((put.header("if-none-match"), put.header("etag")), (Some("*"), Some(md5_hex(b"one").as_str())));
    }
    for (status, kind) in [
        (403, ErrorKind::Forbidden),
        (404, ErrorKind::Unavailable),
        (413, ErrorKind::NoSpace),
        (422, ErrorKind::Corrupt),
    ] {
        let fake = fake(move |asked| Said::status(if asked.method == "PUT" { status } else { 404 }));
        let dir = TempDir::new();
        assert_eq!(store(&fake, &dir).put("k", Body::Bytes(b"one")).unwrap_err().kind(), kind);
        assert_eq!(fake.count("PUT"), 1, "{status}");
    }
}

#[test]
fn a_put_whose_answer_was_lost_is_found_to_be_done() {
    let puts = AtomicUsize::new(0);
    let stored = std::sync::Arc::new(AtomicUsize::new(0));
    let fake = fake(move |asked| match asked.method.as_str() {
        "PUT" if puts.fetch_add(1, Ordering::SeqCst) == 0 => {
            stored.store(1, Ordering::SeqCst);
            Said::nothing()
        }
        "PUT" => Said::status(412),
        _ if stored.load(Ordering::SeqCst) == 0 => Said::status(404),
        _ => Said::status(200).header("content-length", "3").header(SHA256, sha256_of(&b"one"[..]).unwrap()),
    });
    let dir = TempDir::new();
    store(&fake, &dir).put("k", Body::Bytes(b"one")).unwrap();
    assert_eq!(fake.count("PUT"), 2);
}

#[test]
fn a_put_that_another_has_overtaken_is_compared() {
    // 202: the store has a newer object and did not take this one.
    for status in [202, 409, 412] {
        let heads = AtomicUsize::new(0);
        let fake = fake(move |asked| match asked.method.as_str() {
            "PUT" => Said::status(status),
            _ if heads.fetch_add(1, Ordering::SeqCst) == 0 => Said::status(404),
            _ => Said::status(200).header("content-length", "3").header(SHA256, sha256_of(&b"two"[..]).unwrap()),
        });
        let dir = TempDir::new();
        assert_eq!(store(&fake, &dir).put("k", Body::Bytes(b"one")).unwrap_err().kind(), ErrorKind::Conflict);
    }
}

/// An object of 300 000 bytes whose connection breaks after `cut` bytes, each time; `tags` are its ETags in turn.
fn breaking(cut: usize, tags: &'static [&'static str]) -> (Fake, Vec<u8>) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (content, gets) = (bytes.clone(), AtomicUsize::new(0));
    let fake = fake(move |asked| {
        let tag = tags[gets.fetch_add(1, Ordering::SeqCst).min(tags.len() - 1)];
        if asked.header("if-match").is_some_and(|wanted| wanted.trim_matches('"') != tag) {
            return Said::status(412);
        }
        let said = match asked.header("range") {
            None => Said::status(200).body(content.clone()),
            Some(range) => {
                let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                Said::status(206).header("content-range", format!("bytes {from}-{to}/300000")).body(&content[from..=to])
            }
        };
        let length = said.body_bytes();
        said.header("etag", tag).cut(cut.min(length))
    });
    (fake, bytes)
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let (fake, bytes) = breaking(100_000, &["one"]);
    let dir = TempDir::new();
    let mut read = Vec::new();
    store(&fake, &dir).get("k").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert!(fake.count("GET /v1/a/c/p/k") >= 3);
    let last = fake.asked().pop().unwrap();
    assert_eq!(last.header("if-match"), Some("\"one\""));
}

#[test]
fn a_download_does_not_go_on_with_another_object() {
    let (fake, _) = breaking(100_000, &["one", "two"]);
    let dir = TempDir::new();
    let err = store(&fake, &dir).get("k").unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    let err = error_of(err, "reading");
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert!(err.message().contains("was replaced"), "{err}");
}

#[test]
fn errors_inside_a_bulk_answer_are_not_taken_for_success() {
    let fake = fake(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", _) => Said::status(200).body("[]"),
        ("POST", _) => Said::status(200).body(
            "  {\"Response Status\": \"400 Bad Request\", \"Number Deleted\": 1, \"Number Not Found\": 0, \"Errors\": \
             [[\"/c/p/b\", \"409 Conflict\"]]}",
        ),
        ("HEAD", _) => Said::status(200).header("content-length", "1"),
        (_, "/v1/a/c/p/b") => Said::status(403),
        _ => Said::status(500),
    });
    let dir = TempDir::new();
    let keys = ["a".to_owned(), "b".to_owned()];
    assert_eq!(store(&fake, &dir).delete_many(&keys).unwrap_err().kind(), ErrorKind::Forbidden);
    assert_eq!((fake.count("POST /v1/a?bulk-delete"), fake.count("DELETE")), (1, 1));
    let post = fake.asked().into_iter().find(|asked| asked.method == "POST").unwrap();
    assert_eq!(String::from_utf8(post.body).unwrap(), "/c/p/a\n/c/p/b\n");
}

#[test]
fn a_bulk_delete_that_fails_as_a_whole_is_tried_again() {
    let posts = AtomicUsize::new(0);
    let fake = fake(move |asked| match asked.method.as_str() {
        "GET" => Said::status(200).body("[]"),
        "POST" if posts.fetch_add(1, Ordering::SeqCst) == 0 => {
            Said::status(200).body(r#"{"Response Status": "502 Bad Gateway", "Errors": []}"#)
        }
        _ => Said::status(200).body(r#"{"Response Status": "200 OK", "Errors": [], "Number Not Found": 0}"#),
    });
    let dir = TempDir::new();
    store(&fake, &dir).delete_many(&["a".to_owned(), "b".to_owned()]).unwrap();
    assert_eq!((fake.count("POST"), fake.count("DELETE")), (2, 0));
}

fn page(names: &[&str]) -> String {
    let entries: Vec<String> = names.iter().map(|name| format!(r#"{{"name": "{name}", "bytes": 1}}"#)).collect();
    format!("[{}]", entries.join(","))
}

#[test]
fn a_short_page_is_not_the_end_of_a_listing() {
    let fake = fake(|asked| {
        let marker = asked.path.rsplit_once("marker=").unwrap().1;
        Said::status(200).body(match marker {
            "" => page(&["p/.segments/a/u/000000", "p/.segments/a/u/000001"]),
            "p/.segments0" => page(&["p/a", "p/b"]),
            "p/b" => page(&["p/c"]),
            _ => "[]".to_owned(),
        })
    });
    let dir = TempDir::new();
    let names: Vec<String> =
        store(&fake, &dir).list("", None, 100).unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(fake.count("GET /v1/a/c?format=json&limit=98&prefix=p/&marker=p/b"), 1);
}

#[test]
fn a_cut_or_disordered_listing_is_an_error() {
    for body in [page(&["p/b", "p/a"]), page(&["p/a", "q"]), page(&["p/a", "p/b"])[..30].to_owned()] {
        let fake = fake(move |_| Said::status(200).body(body.clone()));
        let dir = TempDir::new();
        assert_eq!(store(&fake, &dir).list("", None, 100).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let fake = fake(|_| Said::status(200).body(page(&["p/a", "p/b"])).cut(30));
    let dir = TempDir::new();
    assert_eq!(store(&fake, &dir).list("", None, 100).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_object_store_at_a_metadata_address_is_refused() {
    let fake = Fake::start(|_| {
        Said::status(200).header("x-storage-url", "http://169.254.169.254/v1/a").header("x-auth-token", "t")
    });
    let dir = TempDir::new();
    let err = store(&fake, &dir).size("k").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Refused);
    assert!(err.message().contains("169.254.169.254"), "{err}");
}

/// Puts a file of 1500 bytes, which is four segments; `answer` says what happens to the manifest.
fn put_large(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> (Fake, Result<(), crate::error::Error>) {
    let fake = fake(move |asked| match asked.method.as_str() {
        "PUT" if asked.path.contains("/.segments/") => Said::status(201).header("etag", md5_hex(&asked.body)),
        "DELETE" => Said::status(204),
        _ => answer(asked),
    });
    let dir = TempDir::new();
    let path = dir.join("body");
    crate::durable::write(&path, &[7; 1500], 0o600).unwrap();
    let outcome = store(&fake, &dir).put("k", Body::File(&path));
    (fake, outcome)
}

#[test]
fn a_manifest_whose_answer_was_lost_keeps_its_segments() {
    let upload = std::sync::Mutex::new(None);
    let (fake, outcome) = put_large(move |asked| {
        let mut upload = upload.lock().unwrap();
        match (asked.method.as_str(), &*upload) {
            ("PUT", None) => {
                *upload = asked.header(UPLOAD).map(str::to_owned);
                Said::nothing()
            }
            ("PUT", Some(_)) => Said::status(412),
            (_, None) => Said::status(404),
            (_, Some(id)) => Said::status(200).header("content-length", "1500").header(UPLOAD, id),
        }
    });
    outcome.unwrap();
    assert_eq!(
        fake.asked().iter().filter(|asked| asked.method == "PUT" && asked.path.contains("/.segments/k/")).count(),
        4
    );
    assert_eq!(fake.count("DELETE"), 0);
}

#[test]
fn a_manifest_that_may_have_arrived_keeps_its_segments() {
    let (fake, outcome) = put_large(|asked| if asked.method == "PUT" { Said::nothing() } else { Said::status(404) });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(fake.count("DELETE"), 0);
}

#[test]
fn a_refused_manifest_leaves_no_segments() {
    let (fake, outcome) = put_large(|asked| Said::status(if asked.method == "PUT" { 413 } else { 404 }));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(fake.count("DELETE /v1/a/c/p/.segments/k/"), 4);
}
