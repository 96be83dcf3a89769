//! A physical backup: the server copies its own InnoDB files into a directory while it serves.
//!
//! Writes go on the whole time; sessions were seen to wait up to about 0.1 s. Definitions are not blocked. A clone that
//! was broken off is marked as such, and no server starts on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::datastore::Tools;

use crate::datastore::mysql::engines::{OtherTable, other_tables};
use crate::datastore::mysql::{SERVER_FILES, UUID_FILE, inspect};
use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{Scratch, ScratchSettings, make_run_dir, socket_path};
use crate::datastore::sql::{Access, Sql};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid_set::GtidSet;
use crate::error::{Error, ErrorKind, io_error};

/// It is the watch for a server that hangs; a clone of terabytes takes hours.
const CLONE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const POLL: Duration = Duration::from_millis(100);

/// Where a clone ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloneEnd {
    /// In the binlog of the server that was cloned.
    pub(crate) position: BinlogPosition,
    pub(crate) executed: GtidSet,
    /// The exact version that started on it.
    pub(crate) server_version: String,
    /// Tables that it holds without their rows.
    pub(crate) without_rows: Vec<OtherTable>,
}

/// Bytes that a clone will take on disk, at most as much as the files have now.
pub(crate) fn disk_need(sql: &mut Sql) -> Result<u64, Error> {
    let tablespaces = sql.value("SELECT COALESCE(SUM(FILE_SIZE), 0) FROM information_schema.INNODB_TABLESPACES")?;
    // The system tablespace is not listed there; what is written to the redo log meanwhile is copied too.
    let system = sql.value(
        "SELECT COALESCE(SUM(TOTAL_EXTENTS * EXTENT_SIZE), 0) FROM information_schema.FILES WHERE TABLESPACE_NAME = 'innodb_system'",
    )?;
    let redo = sql.variable("innodb_redo_log_capacity")?;
    let bytes = |text: &str| text.parse::<u64>().unwrap_or(0);
    Ok(bytes(&tablespaces).saturating_add(bytes(&system)).saturating_add(bytes(&redo)))
}

/// Whether a clone runs on the server.
pub(crate) fn is_running(sql: &mut Sql) -> Result<bool, Error> {
    let running = sql
        .value("SELECT COUNT(*) FROM performance_schema.clone_status WHERE STATE IN ('Not Started', 'In Progress')")?;
    Ok(running != "0")
}

/// Refuses when the server has no clone plugin, without which it does not even tell of clones.
pub(crate) fn refuse_missing_plugin(sql: &mut Sql) -> Result<(), Error> {
    match inspect::missing_plugin(sql)? {
        None => Ok(()),
        Some(problem) => Err(Error::new(ErrorKind::Refused, problem.what).hint(problem.mend)),
    }
}

/// Lets the server at `access` clone itself into `dir`, which must not exist. `owner` is whom the server runs as; the
/// directory around `dir` is given to it. `progress` is told bytes done and bytes estimated.
///
/// Fails with `Interrupted` when cancelled, `NoSpace` when the disk is too small, `Busy` while another clone runs;
/// nothing is left of the directory then.
pub(crate) fn make(
    access: &Access,
    owner: Owner,
    dir: &Path,
    progress: &dyn Fn(u64, u64),
    cancelled: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let statement = format!("CLONE LOCAL DATA DIRECTORY = '{}'", unquoted(dir)?);
    let parent = dir.parent().unwrap_or(Path::new("/"));
    owner.give(parent)?;
    let mut watch = Sql::connect(access)?;
    check_space(disk_need(&mut watch)?, parent)?;
    let mut sql = Sql::connect_with(access, CLONE_TIMEOUT)?;
    let connection = sql.value("SELECT CONNECTION_ID()")?;
    let worker = std::thread::Builder::new()
        .name("clone".to_owned())
        .spawn(move || sql.execute(&statement))
        .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start a thread").with_source(err))?;
    let mut is_killed = false;
    while !worker.is_finished() {
        if cancelled.load(Ordering::Relaxed) && !is_killed {
            // The statement may have ended by itself: then there is nothing to kill.
            let _ = watch.execute(&format!("KILL QUERY {connection}"));
            is_killed = true;
        }
        if let Ok(Some((done, total))) = clone_progress(&mut watch) {
            progress(done, total);
        }
        std::thread::sleep(POLL);
    }
    let cloned = worker.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the clone's thread panicked")));
    let outcome = match cloned {
        Err(_) if is_killed => Err(Error::new(ErrorKind::Interrupted, "the clone was stopped")),
        Err(err) => Err(explained(err)),
        Ok(()) => check_whole(dir),
    };
    if outcome.is_err() && dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|err| io_error("unable to remove the broken-off clone", dir, err))?;
    }
    outcome
}

/// `CLONE` takes no parameters.
fn unquoted(dir: &Path) -> Result<&str, Error> {
    dir.to_str().filter(|text| dir.is_absolute() && !text.contains(['\'', '\\', '"', '\n'])).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("the path `{}` cannot be given to CLONE", dir.display()))
            .hint("Choose a work directory whose path has no quotes and no backslashes.")
    })
}

/// `NoSpace` when a clone of so many bytes does not fit beside what lies on the file system of `dir`.
pub(crate) fn check_space(need: u64, dir: &Path) -> Result<(), Error> {
    let fs = rustix::fs::statvfs(dir).map_err(|errno| io_error("unable to look at", dir, errno.into()))?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if need <= free {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NoSpace,
        format!("a clone takes up to {need} bytes in `{}`, {free} are free", dir.display()),
    )
    .hint("Free space on that file system, or set mysql.strategy to \"dump\"."))
}

/// Bytes done and estimated over all stages; none before it has begun.
fn clone_progress(sql: &mut Sql) -> Result<Option<(u64, u64)>, Error> {
    let rows = sql.rows("SELECT SUM(DATA), SUM(ESTIMATE) FROM performance_schema.clone_progress")?;
    Ok(rows.first().and_then(|row| match row.as_slice() {
        [done, total] => Some((done.parse().ok()?, total.parse().ok()?)),
        _ => None,
    }))
}

/// The server's refusals, each with what to do.
fn explained(err: Error) -> Error {
    if err.kind() == ErrorKind::Unavailable {
        return Error::new(ErrorKind::Unavailable, "the server ended, or cut the connection, while it cloned itself")
            .with_source(err)
            .hint("Look into the error log of the server for why, then take another backup.");
    }
    let message = err.message();
    let says = |code: &str| message.contains(code);
    let (kind, hint) = if says("ERROR 3634") {
        (ErrorKind::Busy, "Another clone runs on the server; wait for its end.")
    } else if says("ERROR 1227") {
        (ErrorKind::Forbidden, "Run as an administrator: GRANT BACKUP_ADMIN ON *.* TO coffer's account.")
    } else if says("ERROR 1524") {
        (ErrorKind::Refused, "Run as an administrator: INSTALL PLUGIN clone SONAME 'mysql_clone.so'.")
    } else if says("No space left") || says("errno: 28") || says("OS errno 28") {
        (ErrorKind::NoSpace, "Free space on that file system and try again.")
    } else if says("errno: 13") || says("OS errno 13") {
        (
            ErrorKind::Refused,
            "The server may not write there: let its user enter the work directory, and look at AppArmor's profile of mysqld.",
        )
    } else {
        return err;
    };
    Error::new(kind, message).hint(hint)
}

/// The server marks a clone that is not whole, and one that is.
fn check_whole(dir: &Path) -> Result<(), Error> {
    let marks = dir.join("#clone");
    if marks.join("#status_in_progress").exists() || !marks.join("#status_fix").exists() {
        return Err(Error::new(ErrorKind::Corrupt, format!("the clone in `{}` is not whole", dir.display()))
            .hint("Look into the error log of the server, then take another backup."));
    }
    Ok(())
}

/// Starts a server on the clone, which proves that it can be, asks where it ends, and stops it: what is left is a data
/// directory whose crash recovery is done. `settings.run_dir` is made.
pub(crate) fn settle(tools: &Tools, settings: &ScratchSettings) -> Result<CloneEnd, Error> {
    make_run_dir(tools, &settings.run_dir)?;
    // No account of the data's own is needed: whoever can enter the run directory could read the files as well.
    let access = Access { socket: socket_path(&settings.run_dir), user: "root".to_owned(), password: None };
    let relay_log = settings.run_dir.join("relay-bin");
    // Should the host fail meanwhile, the clone is made again: what is written need not reach the disk, only the files.
    let options = |group: OptionGroup| {
        group
            .flag("skip_grant_tables")
            .set("performance_schema", "ON")
            .set("plugin_load_add", "mysql_clone.so")
            .set("innodb_doublewrite", "OFF")
            .set("innodb_flush_method", "O_DIRECT_NO_FSYNC")
            .set("innodb_flush_log_at_trx_commit", 0)
            // A replica's data makes the server begin a relay log, which is not the data's.
            .path("relay_log", &relay_log)
            .path("relay_log_index", &relay_log.with_extension("index"))
    };
    let scratch = Scratch::start(tools, settings, options, access)?;
    let asked = scratch.sql().and_then(|mut sql| ask_end(&mut sql));
    let end = match asked {
        Ok(end) => end,
        Err(err) => {
            scratch.kill();
            return Err(err);
        }
    };
    scratch.stop()?;
    for name in SERVER_FILES.into_iter().chain([UUID_FILE]) {
        let path: PathBuf = settings.data_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error("unable to remove", &path, err));
            }
            _ => {}
        }
    }
    Ok(end)
}

fn ask_end(sql: &mut Sql) -> Result<CloneEnd, Error> {
    let status = sql.record(
        "SELECT STATE, BINLOG_FILE, BINLOG_POSITION, GTID_EXECUTED, @@GLOBAL.gtid_executed, VERSION() \
         FROM performance_schema.clone_status",
    )?;
    let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
    let (file, position) = (field("BINLOG_FILE"), field("BINLOG_POSITION"));
    let file = file.rsplit('/').next().unwrap_or(file);
    let position = format!("{file}:{position}").parse().map_err(|_| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the clone does not say where in the binlog it ends: `{file}:{position}`"),
        )
        .hint("Turn on log_bin on the server and take a new backup.")
    })?;
    let executed: GtidSet = field("GTID_EXECUTED").parse()?;
    let found: GtidSet = field("@@GLOBAL.gtid_executed").parse()?;
    if executed != found {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the clone says it ends at `{executed}`, but the server on it has executed `{found}`"),
        ));
    }
    let server_version = field("VERSION()").to_owned();
    Ok(CloneEnd { position, executed, server_version, without_rows: other_tables(sql)? })
}

#[cfg(test)]
mod tests;
