//! Backups that Percona XtraBackup has made of MySQL: what they are, and their way to a data directory.
//!
//! coffer makes none: MySQL clones itself. It restores them where `xtrabackup` is installed, and says so before anything
//! starts where it is not. The files in which the tool says what a backup is are those of mariadb-backup, its descendant,
//! with more in them. Their form: manual of Percona XtraBackup, "Index of files created by Percona XtraBackup".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::datastore::Tools;
use crate::datastore::mariadb::{
    PREPARE_TIMEOUT, check_completed, info_field, info_gtids, parse_binlog_info, remove_files,
};
use crate::datastore::version::{plain_version, program_version};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid_set::GtidSet;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::Cmd;

/// Where in the binlog the backup ends.
pub(crate) const BINLOG_INFO: &str = "xtrabackup_binlog_info";
/// What it was taken from and with.
pub(crate) const BACKUP_INFO: &str = "xtrabackup_info";
/// What kind of backup it is and up to which place of InnoDB's log.
pub(crate) const CHECKPOINTS: &str = "xtrabackup_checkpoints";
/// The files that say what a backup is; small ones.
pub(crate) const FACTS: [&str; 3] = [BACKUP_INFO, BINLOG_INFO, CHECKPOINTS];
const FACTS_BYTES_MAX: u64 = 1024 * 1024;
/// How the names of members end that the tool has compressed or encrypted. No server's file is named so.
pub(crate) const WRAPPED: [&str; 4] = [".qp", ".lz4", ".zst", ENCRYPTED];
const ENCRYPTED: &str = ".xbcrypt";
/// Files of the tool in a prepared backup that a data directory does not need.
const TOOL_FILES: [&str; 10] = [
    BACKUP_INFO,
    BINLOG_INFO,
    CHECKPOINTS,
    "backup-my.cnf",
    "backup_meta.json",
    "xtrabackup_logfile",
    "xtrabackup_tablespaces",
    "xtrabackup_slave_info",
    "xtrabackup_galera_info",
    "xtrabackup_master_key_id",
];

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupFacts {
    /// Where in the binlog it ends.
    pub(crate) end: BinlogPosition,
    /// Every transaction in it; `None` of a server without GTIDs.
    pub(crate) executed: Option<GtidSet>,
    /// `8.0.35`
    pub(crate) server_version: String,
    /// `8.0.35-31`
    pub(crate) tool_version: String,
    /// Where in InnoDB's log it ends.
    pub(crate) last_lsn: u64,
}

/// Reads the small files of a backup, by name. Fails when one is missing or the backup is not a full one.
pub(crate) fn read_facts(files: &BTreeMap<String, Vec<u8>>) -> Result<BackupFacts, Error> {
    let text = |name: &str| {
        files.get(name).map(|bytes| String::from_utf8_lossy(bytes)).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the backup holds no `{name}`, so it does not say what it is"))
                .hint("Is it a backup of xtrabackup, of a server with log_bin on, and has it come to its end?")
        })
    };
    let (info, checkpoints) = (text(BACKUP_INFO)?, text(CHECKPOINTS)?);
    let kind = info_field(&checkpoints, "backup_type").unwrap_or_default();
    let is_set = |name: &str| info_field(&info, name) == Some("Y");
    if kind == "incremental" || is_set("incremental") {
        return Err(refused("holds only what changed since another one", "Give the full backup it was made upon."));
    }
    if is_set("partial") {
        return Err(refused("holds some of the tables only", "Give a full backup, or import its tables by hand."));
    }
    if kind != "full-backuped" {
        return Err(refused(
            &format!("is of the kind `{kind}`, not `full-backuped`"),
            "Give it as the tool has made it, before anything else was done with it.",
        ));
    }
    let end = text(BINLOG_INFO)?;
    let field = |text: &str, name: &str| {
        info_field(text, name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the backup does not say its `{name}`")))
    };
    let server_version = field(&info, "server_version")?;
    Ok(BackupFacts {
        end: parse_binlog_info(&end)?,
        executed: parse_executed(&end)?,
        server_version: plain_version(&server_version).unwrap_or(server_version),
        tool_version: field(&info, "tool_version")?,
        last_lsn: field(&checkpoints, "last_lsn")?.parse().unwrap_or_default(),
    })
}

/// Reads them where the backup was unpacked.
pub(crate) fn read_facts_in(dir: &Path) -> Result<BackupFacts, Error> {
    let mut files = BTreeMap::new();
    for name in FACTS {
        let path = dir.join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= FACTS_BYTES_MAX => {
                let bytes = std::fs::read(&path).map_err(|err| io_error("unable to read", &path, err))?;
                files.insert(name.to_owned(), bytes);
            }
            Ok(_) => return Err(Error::new(ErrorKind::Corrupt, format!("`{}` is no small file", path.display()))),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to look at", &path, err)),
        }
    }
    read_facts(&files)
}

/// The set of GTIDs behind file and position; it may go on over several lines.
fn parse_executed(text: &str) -> Result<Option<GtidSet>, Error> {
    let set = info_gtids(text);
    if set.is_empty() {
        return Ok(None);
    }
    set.parse().map(Some).map_err(|err: Error| err.context(format!("`{BINLOG_INFO}` of the backup")))
}

fn refused(what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the backup {what}; nothing was begun")).hint(hint)
}

/// Fails when members are compressed or encrypted and nothing here can undo it. `noted` has for each end of `WRAPPED` that
/// was seen a member with it; `path` is where programs are looked for.
pub(crate) fn check_wrapped(noted: &BTreeMap<&'static str, String>, path: &std::ffi::OsStr) -> Result<(), Error> {
    if let Some(member) = noted.get(ENCRYPTED) {
        return Err(refused(
            &format!("is encrypted by xtrabackup (`{member}`), and coffer has no key"),
            "Unpack it with xbstream, decrypt it with `xtrabackup --decrypt`, pack it again with `xbstream -c`, and give that.",
        ));
    }
    for (end, member) in noted {
        let Some(program) = undoes(end) else { continue };
        if find_program(program, path).is_none() {
            return Err(refused(
                &format!("is compressed (`{member}`), and the program `{program}` was not found"),
                &format!("Install the package that holds `{program}`, then try again."),
            ));
        }
    }
    Ok(())
}

/// The program that the tool calls to undo a compression.
fn undoes(end: &str) -> Option<&'static str> {
    match end {
        ".qp" => Some("qpress"),
        ".lz4" => Some("lz4"),
        ".zst" => Some("zstd"),
        _ => None,
    }
}

fn find_program(name: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The version of the tool that is installed here, `8.0.35`. Fails with what to do when there is none.
pub(crate) fn installed_version(tools: &Tools) -> Result<String, Error> {
    program_version(&tools.backup).map_err(|err| match err.kind() {
        ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!(
                "the backup was made by Percona XtraBackup and only it can restore it, but `{}` was not found",
                tools.backup.display()
            ),
        )
        .hint(
            "Nothing was begun; server and backup are untouched. Install Percona XtraBackup of the server's own series \
             (percona-xtrabackup-80 for MySQL 8.0), or name its path in the configuration: `xtrabackup` in the section \
             [mysql].",
        ),
        _ => err,
    })
}

/// Fails unless the tool installed here can prepare a backup that another version of it has made.
pub(crate) fn check_fits(installed: &str, facts: &BackupFacts) -> Result<(), Error> {
    let numbers =
        |text: &str| -> Vec<u32> { text.split(['.', '-']).take(3).map(|field| field.parse().unwrap_or(0)).collect() };
    let (here, made) = (numbers(installed), numbers(&facts.tool_version));
    if here.get(..2) == made.get(..2) && here >= made {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the backup was made by XtraBackup {} of MySQL {}, and XtraBackup {installed} is installed here",
            facts.tool_version, facts.server_version
        ),
    )
    .hint("Nothing was begun. Install the same series of Percona XtraBackup, in that version or a later one."))
}

/// Undoes the tool's compression of an unpacked backup. Each file takes its full size beside the compressed one for a while.
pub(crate) fn decompress(tools: &Tools, dir: &Path, log: &Path, cancelled: &Arc<AtomicBool>) -> Result<(), Error> {
    run(tools, dir, &["--decompress", "--remove-original", "--parallel=2"], log, cancelled)
}

/// Makes an unpacked backup consistent. That it did, the tool's last words and its own file say, and both must.
pub(crate) fn prepare(tools: &Tools, dir: &Path, log: &Path, cancelled: &Arc<AtomicBool>) -> Result<(), Error> {
    installed_version(tools)?;
    run(tools, dir, &["--prepare", &format!("--use-memory={}", tools.replay_buffer_pool_bytes)], log, cancelled)?;
    let path = dir.join(CHECKPOINTS);
    let text = std::fs::read_to_string(&path).map_err(|err| io_error("unable to read", &path, err))?;
    let kind = info_field(&text, "backup_type").unwrap_or_default();
    if kind != "full-prepared" {
        return Err(Error::new(
            ErrorKind::Tool,
            format!("`xtrabackup --prepare` said that it completed, but the backup is still of the kind `{kind}`"),
        )
        .hint(format!("The serving database is untouched. See what the tool wrote to `{}`.", log.display())));
    }
    Ok(())
}

fn run(tools: &Tools, dir: &Path, args: &[&str], log: &Path, cancelled: &Arc<AtomicBool>) -> Result<(), Error> {
    // No `--no-defaults`: it would keep the tool from reading the backup's own backup-my.cnf.
    let mut command = Cmd::new(&tools.backup);
    for arg in args {
        command = command.arg(arg);
    }
    let output = command
        .arg(format!("--target-dir={}", dir.display()))
        .deadline(PREPARE_TIMEOUT)
        .stderr_log(log)
        .cancel(Arc::clone(cancelled))
        .run()?;
    check_completed(&format!("xtrabackup {}", args.first().copied().unwrap_or_default()), &output.stderr_tail)
}

/// Takes the tool's own files out of a prepared backup. The binlog that it has copied along stays: from it a starting
/// server learns GTIDs that are in none of its tables yet.
pub(crate) fn remove_tool_files(dir: &Path) -> Result<(), Error> {
    remove_files(dir, &TOOL_FILES)
}

#[cfg(test)]
mod tests;
