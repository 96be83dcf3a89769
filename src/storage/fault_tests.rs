//! The drivers, each before a real store, with a proxy between them that breaks what passes.

use std::io::Read;
use std::time::Duration;

use super::http::{Client, Limits};
use super::s3::S3Store;
use super::swift::SwiftStore;
use super::url::{self, Address};
use super::{Access, Body, ObjectStore, open};
use crate::error::{Error, ErrorKind, error_of};
use crate::testing::TempDir;
use crate::testing::proxy::{Change, Cut, How, Proxy, Rule, Way};
use crate::testing::stores::{Garage, Swift};

const MEBIBYTE: u64 = 1 << 20;

fn read(store: &dyn ObjectStore, key: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    store.get(key)?.read_to_end(&mut bytes).map_err(|err| error_of(err, "reading"))?;
    Ok(bytes)
}

/// `listing`: what stands in the target of a listing and of nothing else.
fn survives_what_may_pass(store: &dyn ObjectStore, proxy: &Proxy, listing: &str) {
    let object: Vec<u8> = (0..4_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    store.put("base", Body::Bytes(&object)).unwrap();

    // Out, broken off once at each megabyte of it; and both ends of the same thing.
    for mebibytes in 0..4 {
        for how in [How::Reset, How::Eof] {
            let (key, fired) = (format!("cut/{mebibytes}-{how:?}"), proxy.fired());
            proxy.cut(Cut { how, way: Way::Up, after: mebibytes * MEBIBYTE + 5_000, times: 1 });
            store.put(&key, Body::Bytes(&object)).unwrap();
            assert_eq!(proxy.fired(), fired + 1, "{key}");
            proxy.mend();
            assert_eq!(store.size(&key).unwrap(), Some(object.len() as u64), "{key}");
        }
    }
    // Back: broken off after each megabyte, for ever.
    for how in [How::Reset, How::Eof] {
        let fired = proxy.fired();
        proxy.cut(Cut { how, way: Way::Down, after: MEBIBYTE, times: u32::MAX });
        assert!(read(store, "base").unwrap() == object, "{how:?}");
        assert!(proxy.fired() >= fired + 3, "{how:?}");
        proxy.mend();
    }

    for (status, times) in [(500, 2), (503, 3), (429, 2)] {
        proxy.take_exchanges();
        proxy.rule(Rule::new(Change::status(status)).times(times));
        store.put(&format!("storm/{status}"), Body::Bytes(b"calm")).unwrap();
        proxy.rule(Rule::new(Change::status(status)).times(times));
        assert_eq!(read(store, &format!("storm/{status}")).unwrap(), b"calm");
        let refused = proxy.take_exchanges().iter().filter(|it| it.status == status).count();
        assert_eq!(refused, 2 * times as usize, "{status}");
        proxy.mend();
    }
    // Done, but nobody heard of it: the second try finds it there.
    proxy.rule(Rule::new(Change::LoseAnswer).method("PUT").times(1));
    store.put("unheard", Body::Bytes(b"of")).unwrap();
    proxy.mend();
    assert_eq!(read(store, "unheard").unwrap(), b"of");

    // What is refused for good is refused once.
    proxy.take_exchanges();
    proxy.rule(Rule::new(Change::status(403)).method("PUT"));
    let err = store.put("refused", Body::Bytes(b"x")).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Forbidden | ErrorKind::Unauthorized), "{err}");
    let refused = proxy.take_exchanges().iter().filter(|it| it.status == 403).count();
    assert!(refused <= 2, "{refused}: once more at most, with what stands in the credentials file now");
    proxy.mend();

    // A listing that ends too early is no short listing.
    assert_eq!(store.list("cut/", None, 100).unwrap().len(), 8);
    for bytes in [0, 1, 40, 300] {
        proxy.rule(Rule::new(Change::truncate(bytes)).method("GET").target(listing).times(1));
        // Whether it is asked for once more is the driver's choice.
        let listed = store.list("cut/", None, 100).map(|listed| listed.len());
        assert!(listed.as_ref().map_or(true, |count| *count == 8), "{bytes} bytes of a listing: {listed:?}");
        proxy.mend();
        assert_eq!(store.list("cut/", None, 100).unwrap().len(), 8);
    }
}

#[test]
fn s3_survives_what_may_pass() {
    let (dir, garage) = (TempDir::new(), Garage::start());
    let proxy = Proxy::start(&garage.endpoint);
    let access = Access { credentials_file: Some(garage.credentials(&dir, "keys.toml")), ..Access::default() };
    let store = open(&garage.through(&proxy.endpoint()).url("faults"), &access).unwrap();
    survives_what_may_pass(store.as_ref(), &proxy, "list-type");
}

#[test]
fn swift_survives_what_may_pass() {
    let (dir, swift) = (TempDir::new(), Swift::start(&[]));
    let proxy = Proxy::start(&swift.endpoint);
    let access = Access { credentials_file: Some(swift.credentials(&dir, "keys.toml")), ..Access::default() };
    let store = open(&swift.url_through(&proxy.endpoint(), "faults"), &access).unwrap();
    survives_what_may_pass(store.as_ref(), &proxy, "prefix=");
}

/// A store that falls silent in the middle of a body, once each way, and answers the next try.
fn rides_out_a_stall(store: &dyn ObjectStore, proxy: &Proxy) {
    let object: Vec<u8> = (0..2_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for (way, key) in [(Way::Up, "stalled"), (Way::Down, "whole")] {
        let fired = proxy.fired();
        if way == Way::Down {
            store.put(key, Body::Bytes(&object)).unwrap();
        }
        proxy.cut(Cut { how: How::Stall, way, after: MEBIBYTE, times: 1 });
        if way == Way::Up {
            store.put(key, Body::Bytes(&object)).unwrap();
        }
        assert!(read(store, key).unwrap() == object, "{way:?}");
        assert_eq!(proxy.fired(), fired + 1, "{way:?}");
        proxy.mend();
    }
}

/// As patient as a test can be.
fn impatient(access: &Access) -> Client {
    Client::with_limits(access, Limits { silence: Duration::from_secs(3), ..Limits::USUAL }).unwrap()
}

#[test]
fn a_store_that_falls_silent_is_asked_again() {
    let (dir, garage) = (TempDir::new(), Garage::start());
    let proxy = Proxy::start(&garage.endpoint);
    let access = Access { credentials_file: Some(garage.credentials(&dir, "keys.toml")), ..Access::default() };
    let Address::S3(address) = url::parse(&garage.through(&proxy.endpoint()).url("stall")).unwrap() else { panic!() };
    rides_out_a_stall(&S3Store::open_by(impatient(&access), address, &access).unwrap(), &proxy);

    let swift = Swift::start(&[]);
    let proxy = Proxy::start(&swift.endpoint);
    let access = Access { credentials_file: Some(swift.credentials(&dir, "swift.toml")), ..Access::default() };
    let Address::Swift(address) = url::parse(&swift.url_through(&proxy.endpoint(), "stall")).unwrap() else { panic!() };
    rides_out_a_stall(&SwiftStore::open_by(impatient(&access), address, &access).unwrap(), &proxy);
}
