//! `coffer check`: reads a server's real settings and names each that stands in the way, with the line that mends it.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::datastore::inspect::{self, Findings, Problem};
use crate::datastore::mysql::clone;
use crate::datastore::sql::Sql;
use crate::datastore::version::{plain_version, version_of};
use crate::datastore::{Toolbox, Tools, mysqld};
use crate::domain::backup::Strategy;
use crate::domain::datastore::Datastore;
use crate::domain::instance::Server;
use crate::error::{Error, ErrorKind, io_error};

/// What a look at a server found.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) datastore: Datastore,
    /// The server with the places that were read from it.
    pub(crate) server: Server,
    pub(crate) version: String,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<String>,
}

/// Connects, reads the settings, tries what must work on the file system. Changes nothing that stays.
pub(crate) fn inspect(toolbox: &Toolbox, server: &Server) -> Result<Report, Error> {
    let mut sql = Sql::connect(&mysqld::access(server)?)?;
    let datastore = sql.datastore()?;
    let tools = toolbox.of(datastore);
    let version = plain_version(&sql.value("SELECT VERSION()")?).unwrap_or_default();
    let server = places(&mut sql, server)?;
    let mut findings = inspect::inspect(tools, &mut sql)?;
    check_files(&server, &mut findings)?;
    check_programs(tools, &version, &mut findings);
    match try_exchange(&server.work_dir, &server.data_dir) {
        Err(err) => findings.problems.push(problem_of(&err)),
        Ok(()) if tools.strategy == Strategy::Clone => check_disk(&mut sql, &server, &mut findings),
        Ok(()) => {}
    }
    Ok(Report { datastore, server, version, problems: findings.problems, warnings: findings.warnings })
}

/// The server with the places that it names itself.
fn places(sql: &mut Sql, server: &Server) -> Result<Server, Error> {
    let mut server = server.clone();
    server.data_dir = PathBuf::from(sql.variable("datadir")?.trim_end_matches('/'));
    server.binlog_base = PathBuf::from(sql.variable("log_bin_basename")?);
    server.port = sql.variable("port")?.parse().unwrap_or(0);
    if server.work_dir.as_os_str().is_empty() {
        let name = server.data_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        server.work_dir = server.data_dir.with_file_name(format!(".coffer-{name}"));
    }
    Ok(server)
}

/// What only the file system knows.
fn check_files(server: &Server, findings: &mut Findings) -> Result<(), Error> {
    let (data_dir, binlog_base) = (&server.data_dir, &server.binlog_base);
    let has_binlog = !binlog_base.as_os_str().is_empty();
    if has_binlog
        && !binlog_base.starts_with(data_dir)
        && std::fs::metadata(binlog_base.with_extension("index")).is_err()
    {
        findings.add(
            format!("the binlog index of `{}` cannot be read", binlog_base.display()),
            "Run coffer as root or as the server's user.",
        );
    }
    let entries = std::fs::read_dir(data_dir).map_err(|err| io_error("unable to list", data_dir, err))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            findings.add(
                format!("`{}` is a symbolic link: what it points to would not be exchanged", entry.path().display()),
                "Move what it points to into the data directory.",
            );
        }
    }
    Ok(())
}

/// The programs must be of the running server's version.
fn check_programs(tools: &Tools, version: &str, findings: &mut Findings) {
    let section = tools.datastore.name();
    let package = |program: &str| match (tools.datastore, program) {
        (Datastore::Mariadb, "backup") => "Install the package mariadb-backup of the server's own version.".to_owned(),
        (Datastore::Mariadb, "dump") => "Install the package mariadb-client.".to_owned(),
        (Datastore::Mariadb, _) => "Install the package mariadb-server.".to_owned(),
        (Datastore::Mysql, "dump") => "Install the package of MySQL's client programs.".to_owned(),
        (Datastore::Mysql, _) => "Install the package of MySQL's server.".to_owned(),
    };
    if tools.strategy == Strategy::Mariabackup {
        match version_of(tools.datastore, &tools.backup) {
            Ok(tool) if tool == version => {}
            Ok(tool) => findings.add(
                format!(
                    "mariadb-backup is of version {tool} but the server of {version}: its backups may not be restorable"
                ),
                package("backup"),
            ),
            Err(err) => findings.add(err.message(), package("backup")),
        }
    }
    match version_of(tools.datastore, &tools.server) {
        Ok(tool) if tool == version => {}
        Ok(tool) => findings.add(
            format!("`{}` is of version {tool} but the running server of {version}", tools.server.display()),
            format!("Name the running server's program in {section}.server of coffer's configuration."),
        ),
        Err(err) => findings.add(
            err.message(),
            format!("{} Or name it in {section}.server of coffer's configuration.", package("server")),
        ),
    }
    if tools.dumps() {
        for program in [&tools.dump, &tools.client] {
            if let Err(err) = version_of(tools.datastore, program) {
                findings.add(err.message(), package("dump"));
            }
        }
    }
}

/// A clone is a whole copy, made beside the data before it goes anywhere else.
fn check_disk(sql: &mut Sql, server: &Server, findings: &mut Findings) {
    // Without the privilege for it, which is named as a problem of its own, the server does not tell its sizes.
    let Ok(need) = clone::disk_need(sql) else { return };
    if let Err(err) = clone::check_space(need, &server.work_dir) {
        findings.problems.push(problem_of(&err));
    }
}

fn problem_of(err: &Error) -> Problem {
    Problem { what: err.message(), mend: err.hint_text().unwrap_or_default().to_owned() }
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
