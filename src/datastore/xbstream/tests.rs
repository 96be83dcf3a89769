use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::Deadline;
use crate::datastore::xbstream::parser::{DEPTH_MAX, OPEN_FILES_MAX};
use crate::datastore::xbstream::unpack::Unpacked;
use crate::testing::TempDir;

pub(super) fn chunk(flags: u8, kind: u8, path: &[u8], payload: Option<(u64, &[u8])>) -> Vec<u8> {
    let mut chunk = MAGIC.to_vec();
    chunk.extend([flags, kind]);
    chunk.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
    chunk.extend(path);
    if let Some((offset, bytes)) = payload {
        chunk.extend((bytes.len() as u64).to_le_bytes());
        chunk.extend(offset.to_le_bytes());
        chunk.extend(crc32fast::hash(bytes).to_le_bytes());
        chunk.extend(bytes);
    }
    chunk
}

pub(super) fn piece(path: &str, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(0, b'P', path.as_bytes(), Some((offset, bytes)))
}

pub(super) fn end(path: &str) -> Vec<u8> {
    chunk(0, b'E', path.as_bytes(), None)
}

pub(super) fn file(path: &str, bytes: &[u8]) -> Vec<u8> {
    [piece(path, 0, bytes), end(path)].concat()
}

fn sample() -> Vec<u8> {
    [
        piece("ibdata1", 0, b"abc"),
        piece("db/t.ibd", 0, &[7; 3000]),
        piece("ibdata1", 3, b"defg"),
        chunk(1, b'X', b"future", Some((99, b"skipped"))),
        end("db/t.ibd"),
        piece("ibdata1", 7, b""),
        end("ibdata1"),
        end("db/empty"),
        file("info", b"binlog.000001\t42"),
    ]
    .concat()
}

fn unpack_all(stream: impl Read, dir: &Path) -> Result<Unpacked, Error> {
    unpack_with(stream, dir, &AtomicU64::new(0), &AtomicBool::new(false))
}

fn unpack_with(stream: impl Read, dir: &Path, progress: &AtomicU64, cancelled: &AtomicBool) -> Result<Unpacked, Error> {
    let elsewhere = TempDir::new();
    let target = Target { dir, ledger: &elsewhere.join("ledger"), stream: "a stream", checkpoint_bytes: u64::MAX };
    unpack(stream, &target, &Checkpoint::default(), progress, cancelled)
}

fn push(tap: &mut StreamTap, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        bytes = &bytes[tap.push(bytes)?.bytes..];
    }
    Ok(())
}

fn tap_all(stream: &[u8], names: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut tap = StreamTap::new(names);
    push(&mut tap, stream)?;
    tap.finish()
}

/// Every file below `dir` with its content; directories end in `/`.
pub(super) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(dir.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                found.insert(format!("{}/", path.display()), Vec::new());
                todo.push(path);
            } else {
                found.insert(path.display().to_string(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_stream_becomes_its_files() {
    let scratch = TempDir::new();
    let progress = AtomicU64::new(0);
    let made = unpack_with(&sample()[..], &scratch, &progress, &AtomicBool::new(false)).unwrap();
    assert_eq!(made, Unpacked { files: 4, bytes: 7 + 3000 + 16 });
    assert_eq!(progress.load(Ordering::SeqCst), sample().len() as u64);
    let expected: BTreeMap<String, Vec<u8>> = [
        ("db/", &b""[..]),
        ("db/empty", b""),
        ("db/t.ibd", &[7; 3000]),
        ("ibdata1", b"abcdefg"),
        ("info", b"binlog.000001\t42"),
    ]
    .map(|(path, bytes)| (path.to_owned(), bytes.to_vec()))
    .into();
    assert_eq!(tree(&scratch), expected);
    let mode = |path: &str| fs::metadata(scratch.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("db"), mode("db/t.ibd"), mode("info")), (0o770, 0o660, 0o660));
}

#[test]
fn a_tap_sees_the_same_however_the_stream_is_cut() {
    let stream = sample();
    for size in (1..60).chain([1000, stream.len()]) {
        let mut tap = StreamTap::new(&["info", "db/empty", "absent"]);
        for bytes in stream.chunks(size) {
            push(&mut tap, bytes).unwrap();
        }
        let kept = tap.finish().unwrap();
        assert_eq!(kept.len(), 2, "{size}");
        assert_eq!((&kept["info"][..], &kept["db/empty"][..]), (&b"binlog.000001\t42"[..], &b""[..]));
    }
}

#[test]
fn good_places_for_a_cut_are_the_same_wherever_in_a_stream() {
    const PIECE_BYTES: usize = 100_000;
    let table = |name: &str| {
        let pieces = (0..200_u8).flat_map(|nth| piece(name, u64::from(nth) * PIECE_BYTES as u64, &[nth; PIECE_BYTES]));
        pieces.chain(end(name)).collect::<Vec<u8>>()
    };
    let (one, two) = (table("db/one.ibd"), ["a", "b", "c", "d"].map(table).concat());
    let cuts = |stream: &[u8], size: usize| {
        let (mut tap, mut at, mut found) = (StreamTap::new(&[]), 0, Vec::new());
        for mut bytes in stream.chunks(size) {
            while !bytes.is_empty() {
                let passed = tap.push(bytes).unwrap();
                at += passed.bytes;
                bytes = &bytes[passed.bytes..];
                found.extend(passed.is_cut.then_some(at));
            }
        }
        found
    };
    let log = file("ib_logfile0", &[1; 33_333]);
    let plain = [&one[..], &two].concat();
    let shifted = [&log[..], &one, &two].concat();
    let expected = cuts(&plain, 1 << 20);
    assert!((2..=20).contains(&expected.len()), "of 100 MB: {expected:?}");
    for size in [777, 1 << 20, usize::MAX] {
        assert_eq!(cuts(&plain, size), expected);
        let back: Vec<usize> = cuts(&shifted, size).iter().map(|at| at - log.len()).collect();
        assert_eq!(back, expected, "{size}");
    }
    // Each lies between two chunks.
    assert!(expected.iter().all(|at| plain[*at..].starts_with(MAGIC)));
}

#[test]
fn a_stream_cut_anywhere_is_incomplete() {
    let stream = sample();
    // The places at which no file is open: what is cut off there only the backup's digest can tell.
    let whole = [
        stream.len() - file("info", b"binlog.000001\t42").len() - end("db/empty").len(),
        stream.len() - file("info", b"binlog.000001\t42").len(),
    ];
    for cut in 0..stream.len() {
        let outcome = tap_all(&stream[..cut], &[]);
        assert_eq!(outcome.is_ok(), whole.contains(&cut), "cut at {cut}");
        if let Err(err) = outcome {
            assert_eq!(err.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn no_flipped_bit_makes_a_panic_or_leads_outside() {
    let stream = sample();
    let scratch = TempDir::new();
    for bit in 0..stream.len() * 8 {
        let in_large_payload = (150..3000).contains(&(bit / 8));
        if in_large_payload && bit % 301 != 0 {
            continue;
        }
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let seen = tap_all(&bad, &[]).is_err();
        assert!(seen || !in_large_payload, "bit {bit} of a payload went unseen");
        let dir = scratch.join(format!("{bit}"));
        fs::create_dir(&dir).unwrap();
        let _ = unpack_all(&bad[..], &dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 0, "bit {bit}");
    }
}

#[test]
fn malicious_names_are_refused_before_anything_is_made() {
    let long_name = "n".repeat(256);
    let deep_path = format!("{}x", "d/".repeat(DEPTH_MAX));
    let long_path = format!("{}/x", ["d".repeat(200), "d".repeat(200), "d".repeat(200)].join("/"));
    for name in [
        "../evil",
        "db/../../evil",
        "/etc/evil",
        "/",
        "",
        ".",
        "..",
        "db/",
        "db//x",
        "./x",
        "db/./x",
        "a\\..\\b",
        "a\nb",
        "nul\0",
        &long_name,
        &deep_path,
        &long_path,
    ] {
        let scratch = TempDir::new();
        let dir = scratch.join("in");
        fs::create_dir(&dir).unwrap();
        for stream in [file(name, b"evil"), end(name), chunk(1, b'X', name.as_bytes(), Some((0, b"x")))] {
            let err = unpack_all(&stream[..], &dir).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Corrupt, "{name:?}: {err}");
            assert_eq!(tap_all(&stream, &[]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(tree(&scratch).len(), 1, "{name:?}");
    }
    tap_all(&end(&deep_path[2..]), &[]).unwrap();
    assert_eq!(tap_all(&chunk(0, b'E', b"\xff\xfe", None), &[]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    let scratch = TempDir::new();
    let (dir, outside) = (scratch.join("in"), scratch.join("outside"));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink("../outside", dir.join("link")).unwrap();
    symlink("../outside/new", dir.join("dangling")).unwrap();
    symlink("/proc/self/cwd", dir.join("magic")).unwrap();
    for name in ["link/x", "link/deeper/x", "dangling", "magic/x", "link"] {
        let err = unpack_all(&file(name, b"evil")[..], &dir).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{name}: {err}");
        assert!(fs::read_dir(&outside).unwrap().next().is_none(), "{name}");
    }
}

#[test]
fn the_same_file_twice_is_refused_and_the_first_stays() {
    let names: [(&str, &[Vec<u8>]); 4] = [
        ("again", &[file("x", b"one"), file("x", b"two")]),
        ("again empty", &[file("x", b"one"), end("x")]),
        ("as a directory", &[file("x", b"one"), file("x/y", b"two")]),
        ("a directory as a file", &[file("x/y", b"one"), file("x", b"two")]),
    ];
    for (what, chunks) in names {
        let scratch = TempDir::new();
        let err = unpack_all(&chunks.concat()[..], &scratch).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{what}: {err}");
        assert!(tree(&scratch).values().all(|bytes| bytes == b"one" || bytes.is_empty()), "{what}");
    }
    let twice = [file("info", b"one"), file("info", b"two")].concat();
    assert_eq!(tap_all(&twice, &["info"]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn pieces_out_of_place_and_unknown_types_are_refused() {
    let huge = {
        let mut huge = piece("x", 0, b"");
        let at = huge.len() - 20;
        huge[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        huge
    };
    let many: Vec<u8> = (0..=OPEN_FILES_MAX).flat_map(|n| piece(&n.to_string(), 0, b"x")).collect();
    for (what, stream) in [
        ("hole", [piece("x", 0, b"ab"), piece("x", 3, b"c"), end("x")].concat()),
        ("overlap", [piece("x", 0, b"ab"), piece("x", 1, b"c"), end("x")].concat()),
        ("late begin", [piece("x", 1 << 40, b"c"), end("x")].concat()),
        ("never ended", piece("x", 0, b"ab")),
        ("endless", [huge, vec![0; 100]].concat()),
        ("too many at a time", many),
        ("empty", Vec::new()),
        ("something else", b"\x1f\x8b\x08 not a stream of this kind".to_vec()),
    ] {
        let scratch = TempDir::new();
        assert_eq!(tap_all(&stream, &[]).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
        assert_eq!(unpack_all(&stream[..], &scratch).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
    let unknown = chunk(0, b'R', b"x", Some((0, b"ab")));
    // MariaDB's seek: an offset, and then the next chunk.
    let seek = [chunk(0, b'S', b"x", None), 7_u64.to_le_bytes().to_vec(), end("x")].concat();
    for (kind, stream) in [("`R`", unknown), ("`S`", seek)] {
        let err = tap_all(&stream, &[]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.message().contains(kind), "{err}");
    }
    let large = file("info", &vec![0; CAPTURED_BYTES_MAX + 1]);
    assert_eq!(tap_all(&large, &["info"]).unwrap_err().kind(), ErrorKind::Corrupt);
    tap_all(&large, &[]).unwrap();
    let mut tap = StreamTap::new(&[]);
    assert!(tap.push(b"something else, long enough").is_err());
    assert!(tap.push(&sample()).is_err() && tap.finish().is_err());
}

#[test]
fn a_reader_that_fails_and_a_cancelled_unpacking_say_so() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::new(ErrorKind::Unavailable, "part 7 is out of reach")))
        }
    }
    let scratch = TempDir::new();
    let err = unpack_all(piece("x", 0, b"ab").chain(Failing), &scratch).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.message().contains("part 7"));
    let err = unpack_with(&sample()[..], &scratch, &AtomicU64::new(0), &AtomicBool::new(true)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Interrupted);
    assert_eq!(unpack_all(&sample()[..], &scratch.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A piece with gaps, as xtrabackup writes them.
fn sparse(path: &str, offset: u64, entries: &[(u32, u32)], bytes: &[u8]) -> Vec<u8> {
    let mut chunk = MAGIC.to_vec();
    chunk.extend([0, b'S']);
    chunk.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
    chunk.extend(path.as_bytes());
    chunk.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
    chunk.extend((bytes.len() as u64).to_le_bytes());
    chunk.extend(offset.to_le_bytes());
    let map: Vec<u8> =
        entries.iter().flat_map(|(skip, length)| [skip.to_le_bytes(), length.to_le_bytes()].concat()).collect();
    let covered = [&map[..], bytes].concat();
    chunk.extend(crc32fast::hash(&covered).to_le_bytes());
    chunk.extend(covered);
    chunk
}

#[test]
fn pieces_with_gaps_become_files_with_holes() {
    let stream = [
        sparse("db/t.ibd", 0, &[(0, 3), (100_000, 2)], b"abcde"),
        piece("ibdata1", 0, b"x"),
        sparse("db/t.ibd", 100_005, &[(7, 1), (50_000, 0)], b"f"),
        sparse("db/t.ibd", 150_013, &[(10, 0)], b""),
        sparse("db/t.ibd", 150_023, &[], b""),
        piece("db/t.ibd", 150_023, b"g"),
        sparse("db/t.ibd", 150_024, &[(20_000, 0)], b""),
        end("db/t.ibd"),
        end("ibdata1"),
    ]
    .concat();
    let mut expected = vec![0_u8; 170_024];
    for (at, byte) in
        [(0, b'a'), (1, b'b'), (2, b'c'), (100_003, b'd'), (100_004, b'e'), (100_012, b'f'), (150_023, b'g')]
    {
        expected[at] = byte;
    }
    let scratch = TempDir::new();
    let made = unpack_all(&stream[..], &scratch).unwrap();
    assert_eq!(made, Unpacked { files: 2, bytes: 170_025 });
    assert!(tree(&scratch)["db/t.ibd"] == expected);
    assert!(fs::metadata(scratch.join("db/t.ibd")).unwrap().blocks() * 512 < 40_000);
    for size in [1, 7, 50] {
        let mut tap = StreamTap::new(&["db/t.ibd"]);
        for bytes in stream.chunks(size) {
            push(&mut tap, bytes).unwrap();
        }
        assert!(tap.finish().unwrap()["db/t.ibd"] == expected, "{size}");
    }
    for (what, bad) in [
        ("more than the payload", sparse("x", 0, &[(0, 3)], b"ab")),
        ("less than the payload", sparse("x", 0, &[(0, 1)], b"ab")),
        ("no map", sparse("x", 0, &[], b"ab")),
        ("another place", sparse("x", 4, &[(0, 2)], b"ab")),
        ("too far", sparse("x", 0, &vec![(u32::MAX, 0); 256 * 1024], b"")),
        ("too many", sparse("x", 0, &vec![(0, 0); 256 * 1024 + 1], b"")),
    ] {
        let scratch = TempDir::new();
        let stream = [bad, end("x")].concat();
        assert_eq!(tap_all(&stream, &[]).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
        assert_eq!(unpack_all(&stream[..], &scratch).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
    for bit in 0..stream.len() * 8 {
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let _ = tap_all(&bad, &["db/t.ibd"]);
    }
    let gap = sparse("info", 0, &[(2_000_000, 0)], b"");
    assert_eq!(tap_all(&gap, &["info"]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn names_that_mysql_gives_its_files_pass() {
    for name in
        ["#innodb_redo/#ib_redo20", "#ib_16384_0.dblwr", "@00e4@0020x/t@002d1#p#p0.ibd", "undo_001", "ä ö/t.ibd"]
    {
        let scratch = TempDir::new();
        unpack_all(&file(name, b"x")[..], &scratch).unwrap();
        assert_eq!(tree(&scratch)[name], b"x");
    }
}

#[test]
fn directories_without_files_are_made_again() {
    let scratch = TempDir::new();
    let stream = [file("db/t.ibd", b"x"), file(EMPTY_DIRECTORIES, b"hollow\na/b\ndb\n")].concat();
    let made = unpack_all(&stream[..], &scratch).unwrap();
    assert_eq!(made, Unpacked { files: 1, bytes: 1 });
    assert_eq!(tree(&scratch).into_keys().collect::<Vec<_>>(), ["a/", "a/b/", "db/", "db/t.ibd", "hollow/"]);
    for bad in ["../out", "/abs", "a//b", "a\\b"] {
        let scratch = TempDir::new();
        let (dir, list) = (scratch.join("in"), file(EMPTY_DIRECTORIES, bad.as_bytes()));
        fs::create_dir(&dir).unwrap();
        assert_eq!(unpack_all(&list[..], &dir).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 1);
    }
}

#[test]
fn a_list_of_directories_that_is_one_long_gap_is_not_read_into_memory() {
    let gap = [sparse(EMPTY_DIRECTORIES, 0, &[(u32::MAX, 1)], b"x"), end(EMPTY_DIRECTORIES)].concat();
    for list in [gap, file(EMPTY_DIRECTORIES, &[b'd'; 1 << 20])] {
        let scratch = TempDir::new();
        let mut failed = None;
        let held = allocation_counter::measure(|| failed = unpack_all(&list[..], &scratch).err());
        let failed = failed.unwrap();
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        assert!(failed.message().len() < 4096 && held.bytes_max < 2 << 20, "{} bytes were held", held.bytes_max);
    }
}

/// A server of this test alone.
struct Server {
    process: Child,
    data_dir: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let data_dir = dir.join("data");
        let as_user = server_user();
        // A starting server removes every other server's temporary tables in its tmpdir: each has its own.
        let tmpdir = dir.join("tmp");
        fs::create_dir(&tmpdir).unwrap();
        fs::set_permissions(&tmpdir, fs::Permissions::from_mode(0o777)).unwrap();
        let tmpdir = format!("--tmpdir={}", tmpdir.display());
        let mut install = tool("mariadb-install-db");
        install.arg("--no-defaults").args(&as_user).arg(format!("--datadir={}", data_dir.display()));
        run(install.args(["--auth-root-authentication-method=normal", "--skip-test-db", &tmpdir]));
        let mut server = tool("mariadbd");
        server.arg("--no-defaults").args(&as_user).arg(format!("--datadir={}", data_dir.display()));
        server.args([
            &tmpdir,
            "--socket=s.sock",
            "--skip-networking",
            "--log-bin=binlog",
            "--innodb-buffer-pool-size=16M",
        ]);
        let log = fs::File::create(dir.join("server.log")).unwrap();
        let process = server.stdout(Stdio::null()).stderr(log).spawn().expect("mariadbd starts");
        let server = Server { process, data_dir };
        let deadline = Deadline::after(Duration::from_secs(60));
        while !server.client().args(["-e", "SELECT 1"]).output().unwrap().status.success() {
            let log = || fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            assert!(!deadline.has_passed(), "the server does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn socket_option(&self) -> String {
        format!("--socket={}", self.data_dir.join("s.sock").display())
    }

    fn client(&self) -> Command {
        let mut client = tool("mariadb");
        client.args(["--no-defaults", "--user=root"]).arg(self.socket_option());
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test starts real tools")]
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    // The server's user may not write to the temporary directory of the test's user.
    command.stdin(Stdio::null()).env_remove("TMPDIR");
    command
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}; is MariaDB installed?"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    output.stdout
}

/// A server does not run as root.
fn server_user() -> Vec<String> {
    if rustix::process::geteuid().is_root() { vec!["--user=mysql".to_owned()] } else { Vec::new() }
}

#[test]
fn a_real_backup_unpacks_as_the_tool_of_the_server_unpacks_it() {
    let scratch = TempDir::new();
    let server = Server::start(&scratch);
    let sql = "CREATE DATABASE shop; USE shop; CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(200)); \
               INSERT INTO t SELECT seq, REPEAT('x', 100) FROM seq_1_to_20000; \
               CREATE TABLE p (a INT) PARTITION BY HASH (a) PARTITIONS 2; \
               CREATE TABLE c (a INT PRIMARY KEY, b TEXT) page_compressed=1; \
               INSERT INTO c SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000; FLUSH TABLES c FOR EXPORT; UNLOCK TABLES; \
               CREATE DATABASE `ä ö`; CREATE TABLE `ä ö`.`t-1 #/../x` (a INT) ENGINE=Aria;";
    run(server.client().args(["-e", sql]));
    let mut backup = tool("mariadb-backup");
    backup.args(["--no-defaults", "--backup", "--stream=mbstream", "--parallel=3", "--user=root"]);
    backup.arg(server.socket_option()).arg(format!("--datadir={}", server.data_dir.display()));
    backup.arg(format!("--target-dir={}", scratch.join("target").display()));
    let stream = run(&mut backup);

    let mut tap = StreamTap::new(&["xtrabackup_binlog_info", "xtrabackup_checkpoints", "xtrabackup_info"]);
    for bytes in stream.chunks(65_536) {
        push(&mut tap, bytes).unwrap();
    }
    let kept = tap.finish().unwrap();
    let binlog_info = String::from_utf8(kept["xtrabackup_binlog_info"].clone()).unwrap();
    assert!(binlog_info.starts_with("binlog.00000"), "{binlog_info}");
    assert!(kept["xtrabackup_checkpoints"].starts_with(b"backup_type = full"));
    assert_eq!(kept.len(), 3);

    let (ours, theirs) = (scratch.join("ours"), scratch.join("theirs"));
    fs::create_dir(&ours).unwrap();
    fs::create_dir(&theirs).unwrap();
    let made = unpack_all(&stream[..], &ours).unwrap();
    let mut mbstream = tool("mbstream");
    let mut mbstream = mbstream.arg("-x").current_dir(&theirs).stdin(Stdio::piped()).spawn().expect("mbstream starts");
    mbstream.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(mbstream.wait().unwrap().success());
    let (ours, theirs) = (tree(&ours), tree(&theirs));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, bytes) in &ours {
        assert!(*bytes == theirs[path], "`{path}` differs");
    }
    let compressed = fs::metadata(scratch.join("ours/shop/c.ibd")).unwrap();
    assert!(compressed.blocks() * 512 < compressed.len() / 2, "compressed pages take their full size");
    let files = ours.keys().filter(|path| !path.ends_with('/')).count() as u64;
    assert_eq!(made, Unpacked { files, bytes: ours.values().map(|bytes| bytes.len() as u64).sum() });
    for cut in [stream.len() - 1, stream.len() / 2, 100] {
        let dir = scratch.join(format!("cut-{cut}"));
        fs::create_dir(&dir).unwrap();
        assert_eq!(unpack_all(&stream[..cut], &dir).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
