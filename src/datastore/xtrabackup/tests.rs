use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::datastore::Toolbox;
use crate::datastore::xbstream::StreamTap;
use crate::testing::TempDir;

/// As XtraBackup 8.0.35-31 writes it of a server 8.0.36: the fields and their order of `get_xtrabackup_info`.
const INFO: &str = "\
uuid = 8f3c1a72-4d5e-4b91-9c2a-1e7d6b0c4f88
name = 
tool_name = xtrabackup
tool_command = --defaults-file=/etc/my.cnf --backup --stream=xbstream --target-dir=/tmp/x = y
tool_version = 8.0.35-31
ibbackup_version = 8.0.35-31
server_version = 8.0.36-28-log
start_time = 2024-03-18 03:20:11
end_time = 2024-03-18 03:34:52
lock_time = 0
binlog_pos = filename 'binlog.000042', position '18422910', GTID of the last change 'a:1-5,
b:1-2'
innodb_from_lsn = 0
innodb_to_lsn = 884210442188
partial = N
incremental = N
format = xbstream
compressed = N
encrypted = N
";
/// As XtraBackup 8.0 writes it.
const FULL: &str = "\
backup_type = full-backuped
from_lsn = 0
to_lsn = 884210442188
last_lsn = 884210442198
flushed_lsn = 884210442188
redo_memory = 0
redo_frames = 0
";
/// Of a server with more than one source: `gtid_executed` as the server gives it, with a line for each.
const BINLOG: &str = "binlog.000042\t18422910\t3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:8,
5c3ddc6e-72a4-11e1-b0c4-0800200c9a66:1-2,
6a1f5c2e-72a4-11e1-b0c4-0800200c9a66:blue:7
";

fn files(info: &str, binlog: &str, checkpoints: &str) -> BTreeMap<String, Vec<u8>> {
    [(BACKUP_INFO, info), (BINLOG_INFO, binlog), (CHECKPOINTS, checkpoints)]
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .into()
}

#[test]
fn a_backup_says_what_it_is() {
    let facts = read_facts(&files(INFO, BINLOG, FULL)).unwrap();
    assert_eq!(facts.end.to_string(), "binlog.000042:18422910");
    let executed = facts.executed.as_ref().unwrap();
    assert_eq!(executed.count(), 6 + 2 + 1);
    assert_eq!((facts.server_version.as_str(), facts.tool_version.as_str()), ("8.0.36", "8.0.35-31"));
    assert_eq!(facts.last_lsn, 884_210_442_198);
    // Without GTIDs there is no third field; of a server 5.7 the name had a path.
    for text in ["binlog.000042\t157\n", "./binlog.000042\t157", "binlog.000042\t157\t\n"] {
        let facts = read_facts(&files(INFO, text, FULL)).unwrap();
        assert_eq!((facts.end.to_string().as_str(), facts.executed), ("binlog.000042:157", None), "{text:?}");
    }
    let dir = TempDir::new();
    for (name, bytes) in files(INFO, BINLOG, FULL) {
        crate::durable::write(&dir.join(name), &bytes, 0o600).unwrap();
    }
    assert_eq!(read_facts_in(&dir).unwrap(), facts);
    std::fs::remove_file(dir.join(CHECKPOINTS)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join(CHECKPOINTS)).unwrap();
    assert_eq!(read_facts_in(&dir).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn what_is_no_full_backup_is_refused() {
    let check = |info: &str, binlog: &str, checkpoints: &str, kind: ErrorKind, says: &str| {
        let err = read_facts(&files(info, binlog, checkpoints)).unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
        assert!(err.to_string().contains(says), "{err}");
    };
    let incremental = FULL.replace("full-backuped", "incremental");
    check(INFO, BINLOG, &incremental, ErrorKind::Unsupported, "full backup it was made upon");
    check(&INFO.replace("partial = N", "partial = Y"), BINLOG, FULL, ErrorKind::Unsupported, "some of the tables");
    check(INFO, BINLOG, &FULL.replace("backuped", "prepared"), ErrorKind::Unsupported, "`full-prepared`");
    check(INFO, BINLOG, "", ErrorKind::Unsupported, "kind ``");
    check(INFO, "", FULL, ErrorKind::Corrupt, "where in the binlog");
    check(INFO, "\t0\ta:1-5\n", FULL, ErrorKind::Corrupt, "where in the binlog");
    check(INFO, "binlog.000042\t157\tnonsense\n", FULL, ErrorKind::InvalidInput, "xtrabackup_binlog_info");
    check(&INFO.replace("server_version", "x"), BINLOG, FULL, ErrorKind::Corrupt, "`server_version`");
    let missing = read_facts(&BTreeMap::new()).unwrap_err();
    assert!(missing.to_string().contains("`xtrabackup_info`"), "{missing}");
}

/// A stream of empty files.
fn stream(names: &[&str]) -> Vec<u8> {
    let end = |name: &&str| {
        let length = u32::try_from(name.len()).unwrap().to_le_bytes();
        [&b"XBSTCK01\0E"[..], &length, name.as_bytes()].concat()
    };
    names.iter().flat_map(end).collect()
}

/// An executable file that does this.
fn script(path: &Path, text: &str) {
    crate::durable::write(path, format!("#!/bin/sh\n{text}\n").as_bytes(), 0o755).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn members_that_are_wrapped_are_refused_by_name_unless_it_can_be_undone() {
    let noted = |names: &[&str]| {
        let mut tap = StreamTap::new(&FACTS).noting(&WRAPPED);
        let stream = stream(names);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            rest = &rest[tap.push(rest).unwrap().bytes..];
        }
        tap.noted().clone()
    };
    let programs = TempDir::new();
    let path = programs.as_os_str();
    check_wrapped(&noted(&["ibdata1", "db/t.ibd", "db/zst.ibd"]), path).unwrap();
    for (member, program) in [("db/t.ibd.zst", "zstd"), ("ibdata1.lz4", "lz4"), ("db/t.frm.qp", "qpress")] {
        let noted = noted(&["plain", member, &format!("other-{}", member.replace('/', "-"))]);
        let err = check_wrapped(&noted, path).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.to_string().contains(&format!("`{member}`")) && err.to_string().contains(program), "{err}");
        script(&programs.join(program), "exit 0");
        check_wrapped(&noted, path).unwrap();
    }
    let err = check_wrapped(&noted(&["db/t.ibd.zst.xbcrypt"]), path).unwrap_err();
    assert!(err.to_string().contains("`db/t.ibd.zst.xbcrypt`") && err.to_string().contains("--decrypt"), "{err}");
    assert_eq!(find_program("zstd", OsStr::new("/nowhere")), None);
}

fn tools(program: &Path) -> Tools {
    Tools { backup: program.to_owned(), ..Toolbox::unused().mysql }
}

fn not_cancelled() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// The line that XtraBackup 8.0.35 answers `--version` with, on stderr.
const VERSION: &str =
    "echo 'xtrabackup version 8.0.35-31 based on MySQL server 8.0.35 Linux (x86_64) (revision id: 55ec21d7)' >&2";

#[test]
fn a_backup_is_prepared_when_the_tool_says_so_and_the_backup_too() {
    let dir = TempDir::new();
    let (program, log, target) = (dir.join("xtrabackup"), dir.join("log"), dir.join("target"));
    std::fs::create_dir(&target).unwrap();
    let run = |prepare: &str| {
        crate::durable::write(&target.join(CHECKPOINTS), FULL.as_bytes(), 0o600).unwrap();
        script(&program, &format!("if [ \"$1\" = --version ]; then {VERSION}; exit 0; fi\necho \"$@\" >&2\n{prepare}"));
        prepare_with(&program, &target, &log)
    };
    let marks = "for last; do :; done; sed -i s/backuped/prepared/ \"${last#--target-dir=}/xtrabackup_checkpoints\"";
    let says = "echo '2024-03-18T03:40:00.1-00:00 0 [Note] [MY-011825] [Xtrabackup] completed OK!' >&2";
    run(&format!("{marks}\n{says}")).unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    let expected = format!("--prepare --use-memory={} --target-dir={}", 1 << 27, target.display());
    assert!(text.contains(&expected), "{text}");

    let err = run(says).unwrap_err();
    assert!(err.kind() == ErrorKind::Tool && err.to_string().contains("`full-backuped`"), "{err}");
    let err = run(marks).unwrap_err();
    assert!(err.kind() == ErrorKind::Tool && err.to_string().contains("did not say that it completed"), "{err}");
    let err = run(&format!("{marks}\n{says}\necho '[ERROR] no space' >&2; exit 1")).unwrap_err();
    assert!(err.kind() == ErrorKind::Tool && err.to_string().contains("no space"), "{err}");
}

fn prepare_with(program: &Path, target: &Path, log: &Path) -> Result<(), Error> {
    prepare(&tools(program), target, log, &not_cancelled())
}

#[test]
fn a_missing_or_unfit_tool_is_told_before_anything_starts() {
    let dir = TempDir::new();
    let program = dir.join("xtrabackup");
    let err = prepare_with(&program, &dir, &dir.join("log")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    for says in ["only it can restore it", "untouched", "percona-xtrabackup-80", "[mysql]"] {
        assert!(err.to_string().contains(says), "{err}");
    }
    script(&program, VERSION);
    let installed = installed_version(&tools(&program)).unwrap();
    assert_eq!(installed, "8.0.35");
    for (made, fits) in
        [("8.0.35-31", true), ("8.0.28-21", true), ("8.0.36-1", false), ("8.4.0-1", false), ("2.4.29", false)]
    {
        let facts = BackupFacts { tool_version: made.to_owned(), ..read_facts(&files(INFO, BINLOG, FULL)).unwrap() };
        let outcome = check_fits(&installed, &facts);
        assert_eq!(outcome.is_ok(), fits, "{made}");
        assert!(fits || outcome.unwrap_err().to_string().contains(made));
    }
}

#[test]
fn compression_is_undone_and_the_files_of_the_tool_go() {
    let dir = TempDir::new();
    let (program, log, target) = (dir.join("xtrabackup"), dir.join("log"), dir.join("target"));
    std::fs::create_dir(&target).unwrap();
    script(&program, "echo \"$@\" >&2; echo 'completed OK!' >&2");
    decompress(&tools(&program), &target, &log, &not_cancelled()).unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("--decompress --remove-original --parallel=2 --target-dir="), "{text}");
    for name in TOOL_FILES.iter().chain(&["ibdata1", "binlog.000042"]) {
        crate::durable::write(&target.join(name), b"x", 0o600).unwrap();
    }
    remove_tool_files(&target).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["binlog.000042", "ibdata1"]);
}
