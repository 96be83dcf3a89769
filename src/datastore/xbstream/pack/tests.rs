use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;

use super::*;
use crate::datastore::mysql::testing::TestMysql;
use crate::datastore::mysql::{clone, inspect};
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{Scratch, ScratchSettings, socket_path};
use crate::datastore::sql::Access;
use crate::datastore::xbstream::tests::tree;
use crate::datastore::xbstream::{Checkpoint, StreamTap, Target, Unpacked, unpack};
use crate::testing::TempDir;

const MIB: usize = 1024 * 1024;

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    crate::durable::write(&path, bytes, 0o640).unwrap();
}

/// What is done to a path.
type Change<'a> = &'a dyn Fn(&Path);

/// Bytes that do not repeat every few.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A directory with files of every size, with holes, and without files.
fn sample() -> TempDir {
    let dir = TempDir::new();
    write(&dir, "large", &noise(3 * MIB + 17, 1));
    write(&dir, "exact", &noise(2 * MIB, 2));
    write(&dir, "empty", b"");
    for number in 0..40 {
        write(&dir, &format!("db{}/small{number}", number % 3), &noise(number * 777, 3));
    }
    write(&dir, "#innodb_redo/#ib_redo7", b"redo");
    write(&dir, "#clone/#status_fix", b"mark");
    write(&dir, "auto.cnf", b"[auto]");
    fs::create_dir_all(dir.join("hollow/deeper")).unwrap();
    let holes = fs::File::create(dir.join("holes")).unwrap();
    for at in [0, 70_000, 3 * MIB as u64 + 5] {
        holes.write_all_at(&noise(5000, at), at).unwrap();
    }
    holes.set_len(5 * MIB as u64).unwrap();
    dir
}

const LEAVE_OUT: &[&str] = &["#clone", "auto.cnf"];

fn not_cancelled() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

fn options() -> PackOptions<'static> {
    PackOptions { leave_out: LEAVE_OUT, ..PackOptions::default() }
}

fn pack(dir: &Path, options: PackOptions<'_>) -> Result<(Vec<u8>, Packed), Error> {
    let mut packing = begin(dir, options, &not_cancelled())?;
    let mut stream = Vec::new();
    packing.read_to_end(&mut stream).map_err(|err| crate::error::error_of(err, "unable to read"))?;
    Ok((stream, packing.finish()?))
}

fn unpack_all(stream: &[u8], dir: &Path) -> Result<Unpacked, Error> {
    let elsewhere = TempDir::new();
    let target = Target { dir, ledger: &elsewhere.join("ledger"), stream: "a stream", checkpoint_bytes: 1 << 20 };
    unpack(stream, &target, &Checkpoint::default(), &AtomicU64::new(0), &AtomicBool::new(false))
}

fn without_left_out(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = tree(dir);
    files.retain(|path, _| !path.starts_with("#clone") && path != "auto.cnf");
    files
}

/// Bytes that a file takes on disk.
fn on_disk(path: &Path) -> u64 {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

fn mbstream(stream: &[u8], dir: &Path) {
    #[expect(clippy::disallowed_methods, reason = "a test starts real tools")]
    let mut tool = Command::new("mbstream");
    let mut tool = tool.arg("-x").current_dir(dir).stdin(Stdio::piped()).spawn().expect("mbstream starts");
    io::Write::write_all(&mut tool.stdin.take().unwrap(), stream).unwrap();
    assert!(tool.wait().unwrap().success());
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let (dir, back) = (sample(), TempDir::new());
    let (stream, packed) = pack(&dir, options()).unwrap();
    let made = unpack_all(&stream, &back).unwrap();
    let expected = without_left_out(&dir);
    assert!(tree(&back) == expected);
    let files = expected.keys().filter(|path| !path.ends_with('/')).count() as u64;
    let bytes = expected.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!((packed.files, packed.bytes), (files, bytes));
    assert_eq!((made.files, made.bytes), (files, bytes));
    assert_eq!(begin(&dir, options(), &not_cancelled()).unwrap().total_bytes(), bytes);
    assert_eq!(on_disk(&back.join("holes")), on_disk(&dir.join("holes")));
    assert!(on_disk(&back.join("holes")) < 100_000);
}

#[test]
fn the_tool_of_the_server_reads_it() {
    let (dir, back) = (sample(), TempDir::new());
    let (stream, _) = pack(&dir, options()).unwrap();
    mbstream(&stream, &back);
    let mut expected = without_left_out(&dir);
    expected.retain(|path, _| !path.starts_with("hollow"));
    expected.insert(EMPTY_DIRECTORIES.to_owned(), b"hollow/deeper\n".to_vec());
    assert!(tree(&back) == expected);
}

#[test]
fn the_same_files_make_the_same_stream_however_it_is_read() {
    let dir = sample();
    let (stream, _) = pack(&dir, options()).unwrap();
    for size in [1, 999, MIB] {
        let mut packing = begin(&dir, options(), &not_cancelled()).unwrap();
        let (mut again, mut buffer) = (Vec::new(), vec![0; size]);
        loop {
            let count = packing.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            again.extend_from_slice(&buffer[..count]);
        }
        packing.finish().unwrap();
        assert!(again == stream, "{size}");
    }
}

#[test]
fn extra_files_come_first() {
    let (dir, back) = (sample(), TempDir::new());
    let large = noise(MIB + 5, 9);
    let extra = vec![("coffer_end".to_owned(), b"binlog.000007:4711".to_vec()), ("more".to_owned(), large.clone())];
    let (stream, _) = pack(&dir, PackOptions { extra, ..options() }).unwrap();
    assert_eq!(&stream[14..24], b"coffer_end");
    let mut tap = StreamTap::new(&["coffer_end"]);
    let mut rest = &stream[..];
    while !rest.is_empty() {
        rest = &rest[tap.push(rest).unwrap().bytes..];
    }
    assert_eq!(tap.finish().unwrap()["coffer_end"], b"binlog.000007:4711");
    unpack_all(&stream, &back).unwrap();
    assert!(fs::read(back.join("more")).unwrap() == large);
    let extra = vec![("large".to_owned(), Vec::new())];
    let err = pack(&dir, PackOptions { extra, ..options() }).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    let nothing = TempDir::new();
    assert_eq!(pack(&nothing, options()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(pack(&nothing.join("none"), options()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_no_file_is_refused_by_name_before_anything_is_read() {
    let special: [(&str, Change<'_>); 5] = [
        ("out.ibd", &|path| symlink("/etc/passwd", path).unwrap()),
        ("dangling", &|path| symlink("nowhere", path).unwrap()),
        ("linked", &|path| symlink(".", path).unwrap()),
        ("socket", &|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
        ("back\\slash", &|path| write(path.parent().unwrap(), "back\\slash", b"")),
    ];
    for (name, make) in special {
        let dir = sample();
        make(&dir.join("db1").join(name));
        let err = begin(&dir, PackOptions { remove: true, ..options() }, &not_cancelled()).map(|_| ()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{name}");
        assert!(err.message().contains(&format!("`db1/{}`", name.escape_debug())), "{err}");
        assert!(dir.join("#innodb_redo/#ib_redo7").exists());
        pack(&dir, PackOptions { leave_out: &["db1"], ..PackOptions::default() }).unwrap();
    }
}

#[test]
fn files_go_once_they_were_handed_out() {
    let dir = sample();
    let (expected, _) = pack(&dir, options()).unwrap();
    let mut packing = begin(&dir, PackOptions { remove: true, ..options() }, &not_cancelled()).unwrap();
    let names: Vec<String> = without_left_out(&dir).into_keys().filter(|path| !path.ends_with('/')).collect();
    let (mut stream, mut buffer) = (Vec::new(), vec![0; 5000]);
    loop {
        let before = stream.len();
        let count = packing.read(&mut buffer).unwrap();
        // What was not handed out before this call is there, all of it.
        for name in &names {
            let handed_out = expected[..before].windows(name.len() + 5).any(|bytes| {
                bytes[0] == b'E'
                    && bytes[1..5] == u32::try_from(name.len()).unwrap().to_le_bytes()
                    && &bytes[5..] == name.as_bytes()
            });
            assert_eq!(dir.join(name).exists(), !handed_out, "{name} at {before}");
            if stream.len() > 200_000 {
                break; // The rest is the same.
            }
        }
        if count == 0 {
            break;
        }
        stream.extend_from_slice(&buffer[..count]);
    }
    packing.finish().unwrap();
    assert!(stream == expected);
    let left: Vec<String> = tree(&dir).into_keys().filter(|path| !path.ends_with('/')).collect();
    assert_eq!(left, ["#clone/#status_fix", "auto.cnf"]);
}

#[test]
fn a_cancelled_packing_says_so_and_one_that_is_dropped_ends() {
    let dir = sample();
    let cancelled = not_cancelled();
    let mut packing = begin(&dir, PackOptions { remove: true, ..options() }, &cancelled).unwrap();
    let mut buffer = vec![0; 1000];
    packing.read_exact(&mut buffer).unwrap();
    cancelled.store(true, Ordering::SeqCst);
    let err = crate::error::error_of(packing.read(&mut buffer).unwrap_err(), "unable to read");
    assert_eq!(err.kind(), ErrorKind::Interrupted);
    assert_eq!(packing.finish().unwrap_err().kind(), ErrorKind::Internal);
    let mut packing = begin(&dir, options(), &not_cancelled()).unwrap();
    packing.read_exact(&mut buffer).unwrap();
    drop(packing);
    let packing = begin(&dir, options(), &not_cancelled()).unwrap();
    assert_eq!(packing.finish().unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_packed() {
    let changes: [(&str, Change<'_>, ErrorKind); 3] = [
        (
            "shorter",
            &|path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap(),
            ErrorKind::Corrupt,
        ),
        ("gone", &|path| fs::remove_file(path).unwrap(), ErrorKind::NotFound),
        (
            "a link",
            &|path| {
                fs::remove_file(path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            },
            ErrorKind::Unsupported,
        ),
    ];
    for (what, change, kind) in changes {
        let dir = TempDir::new();
        // Enough before it that no reader has come as far.
        write(&dir, "a", &noise(20 * MIB, 1));
        write(&dir, "b", &noise(16 * MIB, 1));
        let mut packing = begin(&dir, options(), &not_cancelled()).unwrap();
        if what == "shorter" {
            // It is open by then, and its last pieces were not read.
            let mut buffer = vec![0; 21 * MIB];
            packing.read_exact(&mut buffer).unwrap();
        }
        change(&dir.join("b"));
        let err = packing.read_to_end(&mut Vec::new()).unwrap_err();
        let err = crate::error::error_of(err, "unable to read");
        assert_eq!(err.kind(), kind, "{what}: {err}");
        assert!(err.message().contains("/b`") || err.message().contains("`b`"), "{err}");
    }
}

/// A server with tables that are stored in every way, and where its clone goes.
fn server_with_tables() -> (TestMysql, PathBuf) {
    let server = TestMysql::start("");
    let numbers = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 990)";
    server.run(&[
        "CREATE DATABASE shop",
        "CREATE DATABASE hollow",
        "CREATE DATABASE `ä ö`",
        "USE shop",
        "CREATE TABLE plain (id INT PRIMARY KEY AUTO_INCREMENT, t TEXT)",
        &format!("INSERT INTO plain (t) {numbers} SELECT REPEAT(SHA2(n, 256), 15) FROM s"),
        "INSERT INTO plain (t) SELECT t FROM plain",
        "CREATE TABLE zlib (id INT PRIMARY KEY, t TEXT) COMPRESSION='zlib'",
        "INSERT INTO zlib SELECT * FROM plain",
        "CREATE TABLE lz4 (id INT PRIMARY KEY, t TEXT) COMPRESSION='lz4'",
        "INSERT INTO lz4 SELECT * FROM plain",
        "CREATE TABLE zip (id INT PRIMARY KEY, t TEXT) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4",
        "INSERT INTO zip SELECT * FROM plain",
        "CREATE TABLE `part #1` (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3",
        "CREATE TABLE `ä ö`.`t-1 #/../x` (a INT PRIMARY KEY)",
        "CREATE TABLE gone (id INT PRIMARY KEY, t TEXT)",
        "INSERT INTO gone SELECT * FROM plain",
        "DROP TABLE gone",
        "DELETE FROM plain WHERE id % 2 = 0",
        "CREATE UNDO TABLESPACE more ADD DATAFILE 'more.ibu'",
        "CREATE TABLESPACE general ADD DATAFILE 'general.ibd'",
        "CREATE TABLE g (a INT PRIMARY KEY) TABLESPACE general",
        "FLUSH TABLES zlib, lz4 FOR EXPORT",
        "UNLOCK TABLES",
    ]);
    let around = server.dir.join("work");
    fs::create_dir_all(&around).unwrap();
    (server, around.join("clone"))
}

fn make_clone(server: &TestMysql, dir: &Path) {
    let owner = Owner::of_path(&server.server.data_dir).unwrap();
    clone::make(&server.access(), owner, dir, &|_, _| {}, &not_cancelled()).unwrap();
}

fn settings(server: &TestMysql, dir: &Path) -> ScratchSettings {
    ScratchSettings {
        data_dir: dir.to_owned(),
        run_dir: server.dir.join("scratch"),
        layout: inspect::layout(&mut server.sql()).unwrap(),
        server_id: 4242,
    }
}

/// What a server does not need of a clone that it has started on.
const OF_NO_USE: &[&str] = &["#clone", "#innodb_temp", "#ib_*.dblwr", "#innodb_redo/*_tmp"];

#[test]
fn a_clone_of_a_real_server_comes_back_and_a_server_starts_on_it() {
    let (server, dir) = server_with_tables();
    make_clone(&server, &dir);
    let end = clone::settle(&server.tools, &settings(&server, &dir)).unwrap();

    let (whole, packed) = pack(&dir, PackOptions::default()).unwrap();
    assert!(packed.pages.sound > 1000 && packed.pages.empty > 500, "{packed:?}");
    assert!((50..500).contains(&packed.pages.unchecked), "those of lz4: {packed:?}");
    let (back, theirs) = (server.dir.join("back"), server.dir.join("theirs"));
    for dir in [&back, &theirs] {
        fs::create_dir(dir).unwrap();
    }
    unpack_all(&whole, &back).unwrap();
    let expected = tree(&dir);
    assert!(expected.contains_key("hollow/") && expected.contains_key("#innodb_redo/"));
    assert!(tree(&back) == expected);
    for name in ["shop/zlib.ibd", "shop/lz4.ibd"] {
        let (length, was) = (fs::metadata(dir.join(name)).unwrap().len(), on_disk(&dir.join(name)));
        // What is allocated and was never written may become a hole too.
        assert!(was < length && on_disk(&back.join(name)) <= was, "{name}: {was} of {length}");
    }
    // Others have none: a server counts upon the space that it has.
    assert!(on_disk(&back.join("shop/plain.ibd")) >= fs::metadata(dir.join("shop/plain.ibd")).unwrap().len());
    mbstream(&whole, &theirs);
    let mut theirs = tree(&theirs);
    theirs.remove(EMPTY_DIRECTORIES);
    assert!(theirs.iter().all(|(path, bytes)| expected.get(path) == Some(bytes)));

    let lean = server.dir.join("lean");
    fs::create_dir(&lean).unwrap();
    let (stream, _) = pack(&dir, PackOptions { leave_out: OF_NO_USE, remove: true, ..PackOptions::default() }).unwrap();
    unpack_all(&stream, &lean).unwrap();
    assert!(!lean.join("#ib_16384_0.dblwr").exists() && !dir.join("ibdata1").exists());
    assert_eq!(clone::settle(&server.tools, &settings(&server, &back)).unwrap(), end);
    for dir in [back, lean] {
        let settings = settings(&server, &dir);
        let access = Access { socket: socket_path(&settings.run_dir), user: "root".to_owned(), password: None };
        let scratch =
            Scratch::start(&server.tools, &settings, |group| group.flag("skip_grant_tables"), access).unwrap();
        let mut sql = scratch.sql().unwrap();
        let sums =
            "CHECKSUM TABLE shop.plain, shop.zlib, shop.lz4, shop.zip, shop.`part #1`, shop.g, `ä ö`.`t-1 #/../x`";
        assert_eq!(sql.rows(sums).unwrap(), server.sql().rows(sums).unwrap());
        sql.execute("DROP DATABASE hollow").unwrap();
        drop(sql);
        scratch.stop().unwrap();
    }
}

#[test]
fn a_damaged_page_ends_the_packing_and_is_named() {
    let (server, dir) = server_with_tables();
    make_clone(&server, &dir);
    for (name, page_bytes, number) in [("shop/plain.ibd", 16384, 70), ("shop/zip.ibd", 4096, 9), ("undo_002", 16384, 3)]
    {
        let path = dir.join(name);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        let at = number * page_bytes + 100;
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let err = pack(&dir, PackOptions::default()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
        let expected = format!("page {number} of `{}` does not have its checksum", path.display());
        assert!(err.message().contains(&expected), "{err}");
        assert!(err.hint_text().unwrap().contains("CHECK TABLE"), "{err}");
        file.write_all_at(&byte, at).unwrap();
    }
    pack(&dir, PackOptions::default()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.join("shop/plain.ibd")).unwrap();
    file.write_all_at(&[0xFF; 4], 54).unwrap();
    let err = pack(&dir, PackOptions::default()).unwrap_err();
    assert!(err.message().contains("page 0") && err.message().contains("flags"), "{err}");
}
