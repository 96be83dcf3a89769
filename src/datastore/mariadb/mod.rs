//! MariaDB's own tools: `mariadb-install-db` and `mariadb-backup`.

pub(crate) mod applier;
pub(crate) mod inspect;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::datastore::option_file::OptionGroup;
use crate::datastore::{Tools, mysqld};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::instance::Server;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, Running, User};

/// The file in a backup that says where in the binlog it ends; MariaDB 11 has a name of its own for it.
pub(crate) const BINLOG_INFO: [&str; 2] = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];
/// The file in a backup that says what it was taken from and with.
pub(crate) const BACKUP_INFO: [&str; 2] = ["xtrabackup_info", "mariadb_backup_info"];
/// What `--prepare` writes: where the last transaction in InnoDB stands in the binlog.
const BINLOG_INFO_INNODB: [&str; 2] = ["xtrabackup_binlog_pos_innodb", "mariadb_backup_binlog_pos_innodb"];
/// Other files of the tool in a prepared backup that a data directory does not need.
const TOOL_FILES: [&str; 5] = [
    "xtrabackup_checkpoints",
    "xtrabackup_slave_info",
    "mariadb_backup_checkpoints",
    "mariadb_backup_slave_info",
    "backup-my.cnf",
];
/// The last words of a backup or a prepare that went well.
const COMPLETED: &str = "completed OK!";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Redo of a large and busy server takes long; it is the watch for a tool that hangs.
pub(crate) const PREPARE_TIMEOUT: Duration = Duration::from_secs(12 * 3600);

/// What a scratch server needs beside the options that both datastores have.
pub(crate) fn scratch_options(group: OptionGroup) -> OptionGroup {
    group.flag("skip_slave_start").set("performance_schema", "OFF")
}

/// Makes a new data directory. Its only account is root's, which logs in over the socket as the user coffer runs as.
/// `tmpdir` is the installation's own: a starting server removes every other's temporary tables there.
pub(crate) fn install(tools: &Tools, data_dir: &Path, tmpdir: &Path) -> Result<(), Error> {
    Cmd::new(&tools.install_db)
        .arg("--no-defaults")
        .arg(format!("--user={}", tools.server_user))
        .arg(format!("--datadir={}", data_dir.display()))
        .arg("--auth-root-authentication-method=socket")
        .arg(format!("--auth-root-socket-user={}", User::own().name))
        .arg("--skip-test-db")
        .arg(format!("--tmpdir={}", tmpdir.display()))
        .deadline(INSTALL_TIMEOUT)
        .run()?;
    if !data_dir.join("mysql").is_dir() {
        return Err(Error::new(
            ErrorKind::Tool,
            format!("`mariadb-install-db` ended well but `{}` holds no system tables", data_dir.display()),
        ));
    }
    Ok(())
}

/// The group of the server itself in the option file of a server that coffer creates.
pub(crate) fn created_options(tools: &Tools, server: &Server, server_id: u32) -> OptionGroup {
    let run_dir = mysqld::run_dir(server);
    OptionGroup::default()
        .set("user", &tools.server_user)
        .path("datadir", &server.data_dir)
        .path("socket", &server.socket)
        // A starting server removes every other server's temporary tables in its tmpdir: each has its own.
        .path("tmpdir", &mysqld::tmp_dir(server))
        .path("pid_file", &run_dir.join("mariadbd.pid"))
        .path("log_error", &run_dir.join("mariadbd.log"))
        .set("bind_address", "127.0.0.1")
        .set("port", server.port)
        .set("server_id", server_id)
        .path("log_bin", &server.binlog_base)
        .set("binlog_format", "ROW")
        .set("sync_binlog", 1)
        .set("innodb_flush_log_at_trx_commit", 1)
        .set("innodb_buffer_pool_size", tools.buffer_pool_bytes)
        .set("max_binlog_size", 256 * 1024 * 1024)
        .set("character_set_server", "utf8mb4")
}

/// Begins a backup of the running server; its standard output is the mbstream.
pub(crate) fn begin_backup(
    tools: &Tools,
    server: &Server,
    scratch_dir: &Path,
    log: &Path,
    cancelled: &Arc<AtomicBool>,
) -> Result<Running, Error> {
    Cmd::new(&tools.backup)
        .arg(format!("--defaults-file={}", server.defaults_file.display()))
        .arg("--backup")
        .arg("--stream=mbstream")
        .arg(format!("--socket={}", server.socket.display()))
        .arg(format!("--datadir={}", server.data_dir.display()))
        .arg(format!("--target-dir={}", scratch_dir.display()))
        .arg(format!("--tmpdir={}", scratch_dir.display()))
        .stderr_log(log)
        .cancel(Arc::clone(cancelled))
        .stream()
}

/// Fails unless the tool's last words say that it completed; its exit code alone is not trusted.
pub(crate) fn check_completed(tool: &str, stderr_tail: &str) -> Result<(), Error> {
    let last = stderr_tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    if last.trim_end().ends_with(COMPLETED) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Tool, format!("`{tool}` ended with code 0 but did not say that it completed: {last}")))
}

/// Makes an unpacked backup consistent.
pub(crate) fn prepare(tools: &Tools, dir: &Path, log: &Path, cancelled: &Arc<AtomicBool>) -> Result<(), Error> {
    let output = Cmd::new(&tools.backup)
        .arg("--prepare")
        .arg(format!("--target-dir={}", dir.display()))
        .arg(format!("--use-memory={}", tools.replay_buffer_pool_bytes))
        .deadline(PREPARE_TIMEOUT)
        .stderr_log(log)
        .cancel(Arc::clone(cancelled))
        .run()?;
    check_completed("mariadb-backup --prepare", &output.stderr_tail)
}

/// Where in the binlog a backup ends, by the file the tool put into it: `file<TAB>position[<TAB>gtid]`.
pub(crate) fn parse_binlog_info(text: &str) -> Result<BinlogPosition, Error> {
    let mut fields = text.split_whitespace();
    let (file, position) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
    let file = file.rsplit('/').next().unwrap_or(file);
    format!("{file}:{position}").parse().map_err(|_| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the backup does not say where in the binlog it ends: `{}`", text.trim()),
        )
        .hint("Turn on log_bin on the server and take a new backup.")
    })
}

/// The GTIDs in the same file, behind file and position; empty when there are none.
pub(crate) fn info_gtids(text: &str) -> String {
    text.split_whitespace().skip(2).collect()
}

/// A field of the file that describes a backup: `server_version = 10.11.19-MariaDB-log`.
pub(crate) fn info_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Where the prepared data really ends: `--prepare` may roll InnoDB forward past the place recorded with the backup.
/// `None` when InnoDB knows of no binlog (nothing was ever committed).
pub(crate) fn innodb_binlog_position(dir: &Path) -> Result<Option<BinlogPosition>, Error> {
    for name in BINLOG_INFO_INNODB {
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            // Without a name before the position no transaction has ever been committed with the binlog on.
            Ok(text) if text.starts_with(char::is_whitespace) || text.is_empty() => return Ok(None),
            Ok(text) => return parse_binlog_info(&text).map(Some),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to read", &path, err)),
        }
    }
    Ok(None)
}

/// The settings that a server needs to open this backup (page size, file layout) and to index words in it as before, as
/// option lines.
pub(crate) fn innodb_layout(dir: &Path) -> Result<Vec<(String, String)>, Error> {
    let path = dir.join("backup-my.cnf");
    let text = std::fs::read_to_string(&path).map_err(|err| io_error("unable to read", &path, err))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, _)| {
            matches!(
                name.as_str(),
                "innodb_page_size"
                    | "innodb_data_file_path"
                    | "innodb_undo_tablespaces"
                    | "innodb_checksum_algorithm"
                    | "lower_case_table_names"
                    | "innodb_ft_min_token_size"
                    | "innodb_ft_max_token_size"
                    | "ngram_token_size"
                    | "ft_min_word_len"
                    | "ft_max_word_len"
            )
        })
        .collect())
}

/// Takes the tool's own files out of a prepared backup: what is left is a data directory.
pub(crate) fn remove_tool_files(dir: &Path) -> Result<(), Error> {
    let names = [BINLOG_INFO, BACKUP_INFO, BINLOG_INFO_INNODB].into_iter().flatten().chain(TOOL_FILES);
    remove_files(dir, &names.collect::<Vec<_>>())
}

/// Removes files of these names, as far as they are there.
pub(crate) fn remove_files(dir: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to remove", &path, err)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_backup_is_read_with_or_without_path_and_gtid() {
        for text in
            ["binlog.000009\t379\t0-11-757\n", "./binlog.000009\t379\n", "/var/log/mysql/binlog.000009\t379\t\n"]
        {
            assert_eq!(parse_binlog_info(text).unwrap().to_string(), "binlog.000009:379");
        }
        assert!(parse_binlog_info("").is_err());
    }

    #[test]
    fn a_tool_that_does_not_say_it_completed_has_failed() {
        assert!(check_completed("t", "a\n[00] 2026-11-21 completed OK!\n").is_ok());
        assert!(check_completed("t", "a\n[00] error\n").is_err());
        assert!(check_completed("t", "").is_err());
    }
}
