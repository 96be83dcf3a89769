//! What every driver must do, as one test.

use std::io::Read;

use super::{Body, ObjectStore};
use crate::error::ErrorKind;
use crate::testing::TempDir;

/// Checks the contract of `ObjectStore` on an empty store.
pub(crate) fn check_contract(store: &dyn ObjectStore) {
    absent_things_are_told(store);
    a_put_is_whole_and_final(store);
    a_file_is_put_like_bytes(store);
    a_range_is_read_alone(store);
    a_listing_is_ordered_and_paged(store);
    the_same_put_from_many_sides_is_stored_once(store);
    odd_names_and_sizes_are_kept(store);
}

/// What stores behind a network do besides: names are no paths there, and a listing comes in pages of their choice.
pub(crate) fn check_remote_contract(store: &dyn ObjectStore) {
    check_contract(store);
    a_name_may_be_file_and_folder(store);
    a_long_listing_is_whole(store);
}

fn absent_things_are_told(store: &dyn ObjectStore) {
    assert_eq!(store.get("no/such").err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(store.size("no/such").unwrap(), None);
    assert!(store.list("", None, 10).unwrap().is_empty());
    store.delete("no/such").unwrap();
    assert_eq!(store.put("../x", Body::Bytes(b"")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.get("../x").err().unwrap().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.size("/etc/passwd").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.delete("a/../../x").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(store.url().contains("://"));
}

fn a_put_is_whole_and_final(store: &dyn ObjectStore) {
    let big: Vec<u8> = (0..1_000_003_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    for bytes in [&b""[..], b"one", &big] {
        store.put("put/key", Body::Bytes(bytes)).unwrap();
        assert_eq!(read(store, "put/key"), bytes);
        assert_eq!(store.size("put/key").unwrap(), Some(bytes.len() as u64));
        store.put("put/key", Body::Bytes(bytes)).unwrap();
        for other in [&b"other"[..], &big[..500_000], &[&big[..], b"x"].concat()] {
            assert_eq!(store.put("put/key", Body::Bytes(other)).unwrap_err().kind(), ErrorKind::Conflict);
        }
        assert_eq!(read(store, "put/key"), bytes);
        store.delete("put/key").unwrap();
        assert_eq!(store.get("put/key").err().unwrap().kind(), ErrorKind::NotFound);
    }
}

fn a_file_is_put_like_bytes(store: &dyn ObjectStore) {
    let scratch = TempDir::new();
    let path = scratch.join("body");
    crate::durable::write(&path, b"from a file", 0o600).unwrap();
    store.put("file/key", Body::File(&path)).unwrap();
    store.put("file/key", Body::File(&path)).unwrap();
    store.put("file/key", Body::Bytes(b"from a file")).unwrap();
    assert_eq!(read(store, "file/key"), b"from a file");
    assert!(store.put("file/other", Body::File(&scratch.join("none"))).is_err());
    assert_eq!(store.size("file/other").unwrap(), None);
    store.delete("file/key").unwrap();
}

fn a_range_is_read_alone(store: &dyn ObjectStore) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 2 == 0)]).collect();
    store.put("range/key", Body::Bytes(&bytes)).unwrap();
    store.put("range/empty", Body::Bytes(b"")).unwrap();
    let range = |key: &str, from: u64, length: Option<u64>| {
        let mut read = Vec::new();
        store.get_range(key, from, length).unwrap().read_to_end(&mut read).unwrap();
        read
    };
    assert_eq!(range("range/key", 0, Some(1)), bytes[..1]);
    assert_eq!(range("range/key", 0, Some(0)), b"");
    assert_eq!(range("range/key", 100_001, Some(70_000)), bytes[100_001..170_001]);
    assert_eq!(range("range/key", 299_999, None), bytes[299_999..]);
    assert_eq!(range("range/key", 299_999, Some(9)), bytes[299_999..]);
    assert_eq!(range("range/key", 300_000, None), b"");
    assert_eq!(range("range/key", 400_000, Some(9)), b"");
    assert_eq!(range("range/empty", 0, Some(9)), b"");
    assert_eq!(store.get_range("range/none", 1, Some(1)).err().unwrap().kind(), ErrorKind::NotFound);
    store.delete_many(&["range/key".to_owned(), "range/none".to_owned(), "range/empty".to_owned()]).unwrap();
    assert_eq!(store.size("range/key").unwrap(), None);
}

fn a_listing_is_ordered_and_paged(store: &dyn ObjectStore) {
    // `-` and `.` sort before `/`: a walk by directory would get these wrong.
    let mut keys = ["l/a", "l/a-b", "l/a.b", "l/a0", "l/b/c", "l/b/d/e", "l/b-x", "m", "l/bb/z"];
    for key in keys {
        store.put(key, Body::Bytes(key.as_bytes())).unwrap();
    }
    store.put("l/a-dir/x", Body::Bytes(b"x")).unwrap();
    store.delete("l/a-dir/x").unwrap();
    keys.sort_unstable();
    let all = names(store, "", None, 100);
    assert_eq!(all, keys);
    for limit in 1..4 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = names(store, "", after.as_deref(), limit);
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, keys, "{limit} at a time");
    }
    assert_eq!(names(store, "l/b", None, 100), ["l/b-x", "l/b/c", "l/b/d/e", "l/bb/z"]);
    assert_eq!(names(store, "l/b/", None, 100), ["l/b/c", "l/b/d/e"]);
    assert_eq!(names(store, "l/", Some("l/b0"), 100), ["l/bb/z"]);
    assert_eq!(names(store, "l/", Some("l/b/c"), 1), ["l/b/d/e"]);
    assert!(names(store, "none/", None, 100).is_empty());
    assert!(names(store, "", None, 0).is_empty());
    assert_eq!(store.list("m", None, 1).unwrap()[0].bytes, 1);
    for key in keys {
        store.delete(key).unwrap();
    }
}

fn the_same_put_from_many_sides_is_stored_once(store: &dyn ObjectStore) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.put("race/key", Body::Bytes(&[7; 100_000])).unwrap());
        }
    });
    assert_eq!(read(store, "race/key"), [7; 100_000]);
    store.delete("race/key").unwrap();
}

fn odd_names_and_sizes_are_kept(store: &dyn ObjectStore) {
    let long = ["odd".to_owned(), "n".repeat(200), "a".repeat(200), "m".repeat(106)].join("/");
    assert_eq!(long.len(), super::KEY_BYTES_MAX);
    let keys = ["odd/a..b", "odd/a-_.-", "odd/x.json", "odd/CAPITALS", "odd/0", &long];
    for (n, key) in keys.iter().enumerate() {
        // Between 4 and 10 KB one store's answers are slow, which is no reason for them to be wrong.
        let bytes = vec![u8::try_from(n).unwrap(); 4000 + 1200 * n];
        store.put(key, Body::Bytes(&bytes)).unwrap();
        assert_eq!(read(store, key), bytes, "{key}");
        assert_eq!(store.size(key).unwrap(), Some(bytes.len() as u64));
    }
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(names(store, "odd/", None, 100), sorted);
    assert_eq!(store.put(&format!("{long}x"), Body::Bytes(b"")).unwrap_err().kind(), ErrorKind::InvalidInput);
    store.delete_many(&keys.map(str::to_owned)).unwrap();
    assert!(names(store, "", None, 1).is_empty());
}

fn a_name_may_be_file_and_folder(store: &dyn ObjectStore) {
    for key in ["both", "both/inner", "both/inner/most"] {
        store.put(key, Body::Bytes(key.as_bytes())).unwrap();
    }
    assert_eq!(read(store, "both"), b"both");
    assert_eq!(read(store, "both/inner"), b"both/inner");
    store.delete("both/inner").unwrap();
    assert_eq!(names(store, "both", None, 10), ["both", "both/inner/most"]);
    store.delete_many(&["both".to_owned(), "both/inner/most".to_owned()]).unwrap();
}

fn a_long_listing_is_whole(store: &dyn ObjectStore) {
    let keys: Vec<String> = (0..1100).map(|n| format!("many/{n:05}")).collect();
    std::thread::scope(|scope| {
        for some in keys.chunks(keys.len() / 8 + 1) {
            scope.spawn(move || some.iter().for_each(|key| store.put(key, Body::Bytes(key.as_bytes())).unwrap()));
        }
    });
    assert_eq!(names(store, "", None, usize::MAX), keys);
    assert_eq!(names(store, "many/", Some("many/00099"), 1000), keys[100..]);
    assert_eq!(names(store, "many/", Some("many/00500"), 7), keys[501..508]);
    store.delete_many(&keys).unwrap();
    assert!(names(store, "", None, 1).is_empty());
    store.delete_many(&keys).unwrap();
}

fn names(store: &dyn ObjectStore, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    store.list(prefix, after, limit).unwrap().into_iter().map(|object| object.key).collect()
}

fn read(store: &dyn ObjectStore, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.get(key).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}
