//! `coffer check`: reads a server's real settings and names each that stands in the way, with the line that mends it.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::datastore::sql::Sql;
use crate::datastore::{Toolbox, Tools, mariadb, mysqld};
use crate::domain::datastore::Datastore;
use crate::domain::instance::Server;
use crate::error::{Error, ErrorKind, io_error};

/// Something that stands in the way of backing up, shipping or recovering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What was found.
    pub(crate) what: String,
    /// The line or command that mends it.
    pub(crate) mend: String,
}

/// What a look at a server found.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) datastore: Datastore,
    /// The server with the places that were read from it.
    pub(crate) server: Server,
    pub(crate) version: String,
    pub(crate) problems: Vec<Problem>,
}

/// Privileges without which something of coffer's work fails, as `SHOW GRANTS` spells them.
const PRIVILEGES: [&str; 4] = ["RELOAD", "PROCESS", "BINLOG MONITOR", "SELECT"];

/// Connects, reads the settings, tries what must work on the file system. Changes nothing that stays.
pub(crate) fn inspect(toolbox: &Toolbox, server: &Server) -> Result<Report, Error> {
    let mut sql = Sql::connect(&mysqld::access(server)?)?;
    let mut problems = Vec::new();
    let version_text = sql.value("SELECT VERSION()")?;
    let datastore = Datastore::of_version(&version_text);
    let tools = toolbox.of(datastore);
    if datastore != Datastore::Mariadb {
        return Err(Error::new(ErrorKind::Unsupported, format!("the server is no MariaDB: it says `{version_text}`"))
            .hint("This version of coffer looks after MariaDB servers only."));
    }
    let version = mariadb::plain_version(&version_text).unwrap_or_default();
    let data_dir = PathBuf::from(sql.variable("datadir")?.trim_end_matches('/'));
    let mut server = server.clone();
    server.data_dir = data_dir.clone();
    if server.work_dir.as_os_str().is_empty() {
        let name = data_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        server.work_dir = data_dir.with_file_name(format!(".coffer-{name}"));
    }
    server.port = sql.variable("port")?.parse().unwrap_or(0);
    check_binlog(&mut sql, &mut server, &mut problems)?;
    check_privileges(&mut sql, &mut problems)?;
    check_places(&mut sql, &data_dir, &mut problems)?;
    check_tool(tools, &version, &mut problems);
    check_file_system(&server, &mut problems);
    Ok(Report { datastore, server, version, problems })
}

fn check_binlog(sql: &mut Sql, server: &mut Server, problems: &mut Vec<Problem>) -> Result<(), Error> {
    if sql.variable("log_bin")? != "ON" {
        problems.push(problem(
            "the server writes no binlog (log_bin is off), so nothing after a backup could be recovered",
            "Add `log_bin = binlog` to the [mariadbd] section of its option file and restart the server.",
        ));
        return Ok(());
    }
    server.binlog_base = PathBuf::from(sql.variable("log_bin_basename")?);
    let format = sql.variable("binlog_format")?;
    if format == "STATEMENT" {
        problems.push(problem(
            "binlog_format is STATEMENT: replaying statements may give other rows than the server had",
            "Add `binlog_format = ROW` to the [mariadbd] section (or SET GLOBAL binlog_format=ROW and reconnect clients).",
        ));
    }
    if sql.variable("encrypt_binlog")? == "ON" {
        problems.push(problem(
            "the binlogs are encrypted (encrypt_binlog is on): read from disk they are useless without the server's keys",
            "Add `encrypt_binlog = OFF` to the [mariadbd] section and restart the server; coffer can encrypt what it stores.",
        ));
    }
    if !server.binlog_base.starts_with(&server.data_dir)
        && std::fs::metadata(server.binlog_base.with_extension("index")).is_err()
    {
        problems.push(problem(
            format!("the binlog index of `{}` cannot be read", server.binlog_base.display()),
            "Run coffer as root or as the server's user.",
        ));
    }
    Ok(())
}

/// Data outside the data directory would be left behind by an exchange of directories.
fn check_places(sql: &mut Sql, data_dir: &Path, problems: &mut Vec<Problem>) -> Result<(), Error> {
    for name in ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"] {
        let value = sql.variable(name)?;
        let place = data_dir.join(value.trim_end_matches('/'));
        if !value.is_empty() && !lies_in(&place, data_dir) {
            problems.push(problem(
                format!("{name} is `{value}`, outside the data directory: a recovery could not exchange it"),
                format!("Move it into the data directory and remove `{name}` from the option file."),
            ));
        }
    }
    // Without the privilege for it, which is named as a problem of its own, there is no answer.
    let outside = sql
        .rows("SELECT NAME, FILENAME FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '/%' LIMIT 20")
        .unwrap_or_default();
    for row in outside {
        if let [name, file] = row.as_slice()
            && !lies_in(Path::new(file), data_dir)
        {
            problems.push(problem(
                format!("table `{name}` lies outside the data directory, in `{file}`"),
                format!("Run ALTER TABLE on `{name}` without DATA DIRECTORY to bring it back."),
            ));
        }
    }
    let links = std::fs::read_dir(data_dir).map_err(|err| io_error("unable to list", data_dir, err))?;
    for entry in links.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            problems.push(problem(
                format!("`{}` is a symbolic link: what it points to would not be exchanged", entry.path().display()),
                "Move what it points to into the data directory.",
            ));
        }
    }
    Ok(())
}

fn lies_in(place: &Path, dir: &Path) -> bool {
    let resolve = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolve(place).starts_with(resolve(dir))
}

fn check_privileges(sql: &mut Sql, problems: &mut Vec<Problem>) -> Result<(), Error> {
    let grants: Vec<String> = sql.rows("SHOW GRANTS")?.into_iter().flatten().collect();
    let global: String = grants.iter().filter(|grant| grant.contains(" ON *.* ")).cloned().collect();
    if global.contains("ALL PRIVILEGES") {
        return Ok(());
    }
    let user = sql.value("SELECT CURRENT_USER()")?;
    for privilege in PRIVILEGES {
        if !global.contains(privilege) {
            problems.push(problem(
                format!("{user} lacks the privilege {privilege}"),
                format!("Run as an administrator: GRANT {privilege} ON *.* TO {};", quoted_account(&user)),
            ));
        }
    }
    Ok(())
}

/// `backup@localhost` as SQL wants it: `'backup'@'localhost'`.
fn quoted_account(account: &str) -> String {
    match account.rsplit_once('@') {
        Some((user, host)) => format!("'{user}'@'{host}'"),
        None => format!("'{account}'"),
    }
}

fn check_tool(tools: &Tools, version: &str, problems: &mut Vec<Problem>) {
    match mariadb::program_version(&tools.backup) {
        Ok(tool) if tool == version => {}
        Ok(tool) => problems.push(problem(
            format!(
                "mariadb-backup is of version {tool} but the server of {version}: its backups may not be restorable"
            ),
            "Install the mariadb-backup package of the server's own version.",
        )),
        Err(err) => problems.push(problem(err.message(), "Install the package mariadb-backup.")),
    }
    match mariadb::program_version(&tools.server) {
        Ok(tool) if tool == version => {}
        Ok(tool) => problems.push(problem(
            format!("`{}` is of version {tool} but the running server of {version}", tools.server.display()),
            "Name the running server's program in mariadb.server of coffer's configuration.",
        )),
        Err(err) => problems.push(problem(err.message(), "Install the package mariadb-server.")),
    }
}

fn check_file_system(server: &Server, problems: &mut Vec<Problem>) {
    if let Err(err) = try_exchange(&server.work_dir, &server.data_dir) {
        problems.push(problem(err.message(), err.hint_text().unwrap_or_default()));
    }
}

/// Tries on two empty directories what a recovery does with the data directories.
pub(crate) fn try_exchange(work_dir: &Path, data_dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    std::fs::create_dir_all(work_dir).map_err(|err| {
        io_error("unable to create the work directory", work_dir, err)
            .hint("Run coffer as a user who may write beside the data directory.")
    })?;
    let device = |path: &Path| {
        std::fs::metadata(path).map(|metadata| metadata.dev()).map_err(|err| io_error("unable to look at", path, err))
    };
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    if data_dir.exists() && device(data_dir)? != device(work_dir)? {
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "the data directory `{}` is on another file system than the work directory `{}`",
                data_dir.display(),
                work_dir.display()
            ),
        )
        .hint("Put the data directory into a subdirectory of its file system, so that coffer can work beside it."));
    }
    if device(parent)? != device(work_dir)? {
        return Err(Error::new(
            ErrorKind::Refused,
            format!("the data directory `{}` is a mount point: it cannot be exchanged", data_dir.display()),
        )
        .hint("Put the data into a subdirectory of the mount and point datadir there."));
    }
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let (one, other) = (work_dir.join(format!("probe-{mark}-a")), parent.join(format!(".coffer-probe-{mark}-b")));
    let tried = (|| {
        for dir in [&one, &other] {
            std::fs::create_dir(dir).map_err(|err| io_error("unable to create", dir, err))?;
        }
        rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).map_err(|errno| {
            Error::new(
                ErrorKind::Refused,
                format!("the file system of `{}` cannot exchange two directories ({errno})", parent.display()),
            )
            .hint("Move the data directory to ext4, XFS or Btrfs on a current kernel.")
        })
    })();
    for dir in [&one, &other] {
        let _ = std::fs::remove_dir(dir); // Empty, and named so that nobody misses or takes it.
    }
    tried
}

fn problem(what: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem { what: what.into(), mend: mend.into() }
}
