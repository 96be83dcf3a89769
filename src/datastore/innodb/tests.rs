//! Pages that a real server wrote, and what becomes of them when something happens to them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::*;
use crate::datastore::mysql::testing::TestMysql;
use crate::process::Cmd;
use crate::testing::TempDir;

/// A server that was stopped, with tables of every kind; tests that run at the same time share it.
fn stopped() -> Arc<TestMysql> {
    static SHARED: Mutex<Weak<TestMysql>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = TestMysql::start("");
        let numbers = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 900)";
        server.run(&[
            "CREATE DATABASE shop",
            "USE shop",
            "CREATE TABLE plain (id INT PRIMARY KEY AUTO_INCREMENT, t TEXT, b LONGBLOB)",
            &format!("INSERT INTO plain (t) {numbers} SELECT REPEAT(SHA2(n, 256), 15) FROM s"),
            "INSERT INTO plain (b) VALUES (REPEAT('blob', 100000))",
            "CREATE TABLE zlib (id INT PRIMARY KEY, t TEXT, b LONGBLOB) COMPRESSION='zlib'",
            "INSERT INTO zlib SELECT * FROM plain",
            "CREATE TABLE lz4 (id INT PRIMARY KEY, t TEXT, b LONGBLOB) COMPRESSION='lz4'",
            "INSERT INTO lz4 SELECT * FROM plain",
            "CREATE TABLE zip1 (id INT PRIMARY KEY, t VARCHAR(200)) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=1",
            "INSERT INTO zip1 SELECT id, LEFT(t, 200) FROM plain",
            "CREATE TABLE zip8 (id INT PRIMARY KEY, t TEXT, b LONGBLOB) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
            "INSERT INTO zip8 SELECT * FROM plain",
            "CREATE TABLE point (id INT PRIMARY KEY, p POINT NOT NULL SRID 0, SPATIAL INDEX (p))",
            &format!("INSERT INTO point {numbers} SELECT n, POINT(n, n) FROM s"),
            "DELETE FROM plain WHERE id % 3 = 0",
            "CREATE UNDO TABLESPACE more ADD DATAFILE 'more.ibu'",
            "CREATE TABLESPACE general ADD DATAFILE 'general.ibd'",
            "CREATE TABLE g (a INT PRIMARY KEY) TABLESPACE general",
            "FLUSH TABLES zlib, lz4 FOR EXPORT",
            "UNLOCK TABLES",
        ]);
        server.stop();
        let server = Arc::new(server);
        *shared = Arc::downgrade(&server);
        server
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    sound: u64,
    empty: u64,
    unchecked: u64,
}

fn check_bytes(bytes: &[u8], is_system: bool) -> Result<Count, (u64, Damage)> {
    let layout = Layout::of_head(&bytes[..HEAD_BYTES], is_system).map_err(|damage| (0, damage))?.expect("a layout");
    let mut count = Count::default();
    for (number, page) in (0..).zip(bytes.chunks(layout.page_bytes)) {
        match layout.check(number, page).map_err(|damage| (number, damage))? {
            Page::Sound => count.sound += 1,
            Page::Empty => count.empty += 1,
            Page::Unchecked => count.unchecked += 1,
        }
    }
    Ok(count)
}

fn read(server: &TestMysql, name: &str) -> Vec<u8> {
    std::fs::read(server.server.data_dir.join(name)).unwrap()
}

#[test]
fn every_page_of_a_real_server_is_sound() {
    let server = stopped();
    for name in [
        "ibdata1",
        "mysql.ibd",
        "undo_001",
        "undo_002",
        "more.ibu",
        "general.ibd",
        "sys/sys_config.ibd",
        "shop/plain.ibd",
        "shop/zlib.ibd",
        "shop/lz4.ibd",
        "shop/zip1.ibd",
        "shop/zip8.ibd",
        "shop/point.ibd",
    ] {
        let count =
            check_bytes(&read(&server, name), name == "ibdata1").unwrap_or_else(|err| panic!("{name}: {err:?}"));
        assert!(count.sound >= 1 && count.sound + count.unchecked >= 4, "{name}: {count:?}");
        assert_eq!(count.unchecked > 0, name == "shop/lz4.ibd", "{name}: {count:?}");
    }
    let page_bytes = |name| Layout::of_head(&read(&server, name), false).unwrap().unwrap().page_bytes;
    assert_eq!(
        [page_bytes("shop/plain.ibd"), page_bytes("shop/zip1.ibd"), page_bytes("shop/zip8.ibd")],
        [16384, 1024, 8192]
    );
}

#[test]
fn a_flipped_bit_is_found_wherever_it_counts() {
    let server = stopped();
    // Page by page, the bytes that a checksum leaves out.
    let plain: &[(usize, usize)] = &[(FLUSH_AT, DATA_AT)];
    let zipped: &[(usize, usize)] = &[(LSN_AT, TYPE_AT), (FLUSH_AT, SPACE_AT)];
    for (name, number, ignored) in [
        ("shop/plain.ibd", 5, plain),
        ("shop/zip8.ibd", 5, zipped),
        ("shop/zip1.ibd", 30, zipped),
        ("ibdata1", 7, plain),
    ] {
        let bytes = read(&server, name);
        let is_system = name == "ibdata1";
        let layout = Layout::of_head(&bytes, is_system).unwrap().unwrap();
        let page = &bytes[number * layout.page_bytes..(number + 1) * layout.page_bytes];
        assert_eq!(layout.check(number as u64, page), Ok(Page::Sound), "{name}");
        for at in (0..150).chain((150..layout.page_bytes).step_by(97)).chain(layout.page_bytes - 9..layout.page_bytes) {
            let mut bad = page.to_vec();
            bad[at] ^= 1 << (at % 8);
            let found = layout.check(number as u64, &bad).is_err();
            let counts = !ignored.iter().any(|(begin, end)| (*begin..*end).contains(&at));
            assert_eq!(found, counts, "{name}, byte {at}");
        }
    }
}

fn inflate(page: &[u8]) -> Option<Vec<u8>> {
    let (mut data, mut decoder) = (Vec::new(), ZlibDecoder::new(&page[DATA_AT..]));
    decoder.read_to_end(&mut data).ok().map(|_| data)
}

#[test]
fn a_flipped_bit_in_a_compressed_page_is_found() {
    let server = stopped();
    let bytes = read(&server, "shop/zlib.ibd");
    let layout = Layout::of_head(&bytes, false).unwrap().unwrap();
    let (number, page) = (0..)
        .zip(bytes.chunks(layout.page_bytes))
        .find(|(_, page)| u16_at(page, TYPE_AT) == TYPE_COMPRESSED)
        .expect("a compressed page");
    let stored = usize::from(u16_at(page, 32));
    assert_eq!(layout.check(number, page), Ok(Page::Sound));
    for at in (0..FLUSH_AT).chain(27..34).chain((DATA_AT..DATA_AT + stored).step_by(13)) {
        let mut bad = page.to_vec();
        bad[at] ^= 0x10;
        // A code that is used nowhere may change: what comes out is the same.
        let harmless = at >= DATA_AT && inflate(&bad) == inflate(page);
        assert!(layout.check(number, &bad).is_err() || harmless, "byte {at}");
    }
    // Behind it is a hole, and what stands there matters to nobody.
    let mut other = page.to_vec();
    other[DATA_AT + stored + 1] ^= 1;
    assert_eq!(layout.check(number, &other), Ok(Page::Sound));
}

/// Rewrites a file's checksums with the server's own tool.
fn rewrite(server: &TestMysql, dir: &TempDir, name: &str, algorithm: &str) -> PathBuf {
    let path = dir.join(format!("{algorithm}-{}", name.replace('/', "-")));
    std::fs::copy(server.server.data_dir.join(name), &path).unwrap();
    let tool = TestMysql::program("innochecksum");
    Cmd::new(tool).arg("--no-check").arg(format!("--write={algorithm}")).arg(&path).run().unwrap();
    path
}

#[test]
fn checksums_of_other_algorithms_are_known() {
    let server = stopped();
    let dir = TempDir::new();
    for name in ["shop/plain.ibd", "shop/zip8.ibd", "shop/zip1.ibd"] {
        let usual = check_bytes(&read(&server, name), false).unwrap();
        let bytes = std::fs::read(rewrite(&server, &dir, name, "innodb")).unwrap();
        assert_ne!(bytes, read(&server, name));
        assert_eq!(check_bytes(&bytes, false).unwrap(), usual, "{name}");
        let mut bad = bytes;
        let at = bad.len() - 100_000;
        let number = (0..at).rev().find(|at| bad[*at] != 0).unwrap();
        bad[number] ^= 1;
        assert!(check_bytes(&bad, false).is_err(), "{name}");
        let none = check_bytes(&std::fs::read(rewrite(&server, &dir, name, "none")).unwrap(), false).unwrap();
        assert_eq!((none.sound, none.unchecked), (0, usual.sound), "{name}");
    }
}

#[test]
fn a_page_in_the_wrong_place_and_a_torn_one_are_damaged() {
    let server = stopped();
    let mut bytes = read(&server, "shop/plain.ibd");
    bytes.copy_within(16384 * 6..16384 * 7, 16384 * 5);
    assert_eq!(check_bytes(&bytes, false), Err((5, Damage::Misplaced { number: 6 })));
    let mut bytes = read(&server, "shop/plain.ibd");
    bytes[16384 * 6 - 1] ^= 1;
    assert_eq!(check_bytes(&bytes, false), Err((5, Damage::Torn)));
    bytes[16384 * 5..16384 * 6].fill(0);
    assert_eq!(check_bytes(&bytes, false).unwrap().unchecked, 0);
}

#[test]
fn what_was_written_twice_before_8_0_20_is_passed() {
    let server = stopped();
    let mut bytes = read(&server, "ibdata1");
    let plain = read(&server, "shop/plain.ibd");
    bytes[64 * 16384..65 * 16384].copy_from_slice(&plain[5 * 16384..6 * 16384]);
    bytes[191 * 16384..191 * 16384 + 8000].fill(3);
    assert_eq!(check_bytes(&bytes, true).unwrap().unchecked, 1);
    bytes[192 * 16384..192 * 16384 + 8000].fill(3);
    assert_eq!(check_bytes(&bytes, true).unwrap_err().0, 192);
}

#[test]
fn a_layout_is_what_the_flags_say() {
    let head = |flags: u32, number: u32| {
        let mut head = vec![1_u8; HEAD_BYTES];
        head[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&number.to_be_bytes());
        head[FLAGS_AT..].copy_from_slice(&flags.to_be_bytes());
        head
    };
    for (flags, page_bytes, is_zipped) in [
        (0x4021, 16384, false),
        (0x40E1, 4096, false),
        (0x4121, 8192, false),
        (0x41A1, 32768, false),
        (0x41E1, 65536, false),
        (0x4023, 1024, true),
        (0x402B, 16384, true),
        (0x6021, 16384, false), // Encrypted.
    ] {
        let layout = Layout::of_head(&head(flags, 0), false).unwrap().unwrap();
        assert_eq!((layout.page_bytes, layout.is_zipped), (page_bytes, is_zipped), "{flags:#x}");
    }
    for flags in [0x4061, 0x40A1, 0x4221, 0x402D] {
        assert_eq!(Layout::of_head(&head(flags, 0), false), Err(Damage::Flags { flags }));
    }
    assert_eq!(Layout::of_head(&head(0x4021, 768), true), Ok(None));
    assert_eq!(Layout::of_head(&[0; HEAD_BYTES], true), Ok(None));
    assert_eq!(Layout::of_head(b"short", true), Ok(None));
}

#[test]
fn encrypted_pages_are_passed_unchecked() {
    let server = stopped();
    let layout = Layout::of_head(&read(&server, "shop/plain.ibd"), false).unwrap().unwrap();
    for kind in TYPES_ENCRYPTED {
        let mut page = vec![9; layout.page_bytes];
        page[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&5_u32.to_be_bytes());
        page[TYPE_AT..TYPE_AT + 2].copy_from_slice(&kind.to_be_bytes());
        assert_eq!(layout.check(5, &page), Ok(Page::Unchecked));
        assert_eq!(layout.check(6, &page), Err(Damage::Misplaced { number: 5 }));
    }
}
