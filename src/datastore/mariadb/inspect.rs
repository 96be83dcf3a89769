//! A look at a MariaDB server: what stands in the way of backing it up, shipping its binlog and recovering it.

use std::path::Path;

use crate::datastore::inspect::{Findings, check_places, check_privileges, lies_in};
use crate::datastore::sql::Sql;
use crate::domain::backup::Strategy;
use crate::error::Error;

/// Privileges without which something of coffer's work fails, as `SHOW GRANTS` spells them.
const PRIVILEGES: [&str; 4] = ["RELOAD", "PROCESS", "BINLOG MONITOR", "SELECT"];
/// What a dump reads besides rows.
const PRIVILEGES_OF_DUMP: [&str; 3] = ["SHOW VIEW", "TRIGGER", "EVENT"];

/// Asks the server, changes nothing.
pub(crate) fn inspect(sql: &mut Sql, strategy: Strategy) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    check_binlog(sql, &mut findings)?;
    let of_dump = PRIVILEGES_OF_DUMP.into_iter().filter(|_| strategy == Strategy::Dump);
    check_privileges(sql, PRIVILEGES.into_iter().chain(of_dump), &mut findings)?;
    let data_dir = sql.variable("datadir")?;
    let data_dir = Path::new(data_dir.trim_end_matches('/'));
    let places = ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"];
    check_places(sql, &places, data_dir, &mut findings)?;
    check_tablespaces(sql, data_dir, &mut findings);
    Ok(findings)
}

fn check_binlog(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    if sql.variable("log_bin")? != "ON" {
        findings.add(
            "the server writes no binlog (log_bin is off), so nothing after a backup could be recovered",
            "Add `log_bin = binlog` to the [mariadbd] section of its option file and restart the server.",
        );
        return Ok(());
    }
    let format = sql.variable("binlog_format")?;
    if format == "STATEMENT" {
        findings.add(
            "binlog_format is STATEMENT: replaying statements may give other rows than the server had",
            "Add `binlog_format = ROW` to the [mariadbd] section (or SET GLOBAL binlog_format=ROW and reconnect clients).",
        );
    }
    if sql.variable("encrypt_binlog")? == "ON" {
        findings.add(
            "the binlogs are encrypted (encrypt_binlog is on): read from disk they are useless without the server's keys",
            "Add `encrypt_binlog = OFF` to the [mariadbd] section and restart the server; coffer can encrypt what it stores.",
        );
    }
    Ok(())
}

fn check_tablespaces(sql: &mut Sql, data_dir: &Path, findings: &mut Findings) {
    // Without the privilege for it, which is named as a problem of its own, there is no answer.
    let outside = sql
        .rows("SELECT NAME, FILENAME FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '/%' LIMIT 20")
        .unwrap_or_default();
    for row in outside {
        if let [name, file] = row.as_slice()
            && !lies_in(Path::new(file), data_dir)
        {
            findings.add(
                format!("table `{name}` lies outside the data directory, in `{file}`"),
                format!("Run ALTER TABLE on `{name}` without DATA DIRECTORY to bring it back."),
            );
        }
    }
}
