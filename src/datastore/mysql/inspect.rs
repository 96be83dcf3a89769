//! A look at a MySQL server: what stands in the way of backing it up, shipping its binlog and recovering it.

use std::path::Path;

use crate::datastore::dump::named;
use crate::datastore::inspect::{Findings, Problem, check_places, check_privileges, lies_in};
use crate::datastore::mysql::engines::{self, other_tables};
use crate::datastore::sql::Sql;
use crate::domain::backup::{OtherEngines, Strategy};
use crate::error::Error;

/// The first version with the clone plugin.
const VERSION_MIN: (u32, u32, u32) = (8, 0, 17);
/// Privileges without which something of coffer's work fails, as `SHOW GRANTS` spells them: without these two it does not
/// see what there is.
const PRIVILEGES: [&str; 2] = ["PROCESS", "SELECT"];
const PRIVILEGES_OF_CLONE: [&str; 1] = ["BACKUP_ADMIN"];
/// What else is needed to hold some tables still and to dump them.
const PRIVILEGES_BESIDE_CLONE: [&str; 5] = ["BACKUP_ADMIN", "LOCK TABLES", "RELOAD", "REPLICATION CLIENT", "TRIGGER"];
/// A dump locks for a moment, asks where the binlog stands and reads more than rows.
const PRIVILEGES_OF_DUMP: [&str; 5] = ["RELOAD", "REPLICATION CLIENT", "SHOW VIEW", "TRIGGER", "EVENT"];
/// How many things of one kind are named.
const NAMED_MAX: usize = 20;
/// Settings that a server must share with the one that wrote its data files, or it can't open them, or it writes another
/// selection of words into their full-text indexes.
const LAYOUT: [&str; 8] = [
    "innodb_page_size",
    "innodb_data_file_path",
    "lower_case_table_names",
    "innodb_ft_min_token_size",
    "innodb_ft_max_token_size",
    "ngram_token_size",
    "ft_min_word_len",
    "ft_max_word_len",
];
/// Settings that name places for data.
const PLACES: [&str; 4] =
    ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "innodb_doublewrite_dir"];
/// The settings that a server needs to open this one's files, as option lines.
pub(crate) fn layout(sql: &mut Sql) -> Result<Vec<(String, String)>, Error> {
    LAYOUT.into_iter().map(|name| Ok((name.to_owned(), sql.variable(name)?))).collect()
}

/// Asks the server, changes nothing.
pub(crate) fn inspect(sql: &mut Sql, strategy: Strategy, other_engines: OtherEngines) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    check_version(sql, &mut findings)?;
    check_binlog(sql, &mut findings)?;
    if strategy == Strategy::Clone {
        check_plugin(sql, &mut findings)?;
    }
    let of_strategy: &[&str] = match strategy {
        Strategy::Clone if other_engines == OtherEngines::Dump => &PRIVILEGES_BESIDE_CLONE,
        Strategy::Clone => &PRIVILEGES_OF_CLONE,
        Strategy::Dump => &PRIVILEGES_OF_DUMP,
        // Of these two one is MariaDB's and one only restores.
        Strategy::Mariabackup | Strategy::Xtrabackup => &[],
    };
    if !check_privileges(sql, PRIVILEGES.into_iter().chain(of_strategy.iter().copied()), &mut findings)? {
        // The rest can be seen once they are granted.
        return Ok(findings);
    }
    if strategy == Strategy::Clone {
        check_engines(sql, other_engines, &mut findings)?;
    }
    let data_dir = sql.variable("datadir")?;
    let data_dir = Path::new(data_dir.trim_end_matches('/'));
    check_places(sql, &PLACES, data_dir, &mut findings)?;
    check_tablespaces(sql, data_dir, &mut findings)?;
    check_keys(sql, &mut findings)?;
    check_persisted(sql, &mut findings);
    check_source(sql, &mut findings)?;
    check_confinement(sql, &mut findings)?;
    Ok(findings)
}

fn check_version(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let text = sql.value("SELECT VERSION()")?;
    let mut fields = text.split(|c: char| !c.is_ascii_digit()).map(|field| field.parse().unwrap_or(0));
    let mut next = || fields.next().unwrap_or(0);
    let version = (next(), next(), next());
    if version < VERSION_MIN {
        findings
            .add(format!("the server is MySQL {text}, and coffer looks after 8.0.17 and later"), "Upgrade the server.");
    }
    Ok(())
}

fn check_binlog(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    if sql.variable("log_bin")? != "ON" {
        findings.add(
            "the server writes no binlog (log_bin is off), so nothing after a backup could be recovered",
            "Remove skip_log_bin from the [mysqld] section of its option file and restart the server.",
        );
        return Ok(());
    }
    // Gone in later versions, where every binlog is in row format.
    let format = sql.variable("binlog_format")?;
    if format == "STATEMENT" {
        findings.add(
            "binlog_format is STATEMENT: replaying statements may give other rows than the server had",
            "Run SET PERSIST binlog_format=ROW and let clients reconnect.",
        );
    }
    if sql.variable("binlog_encryption")? == "ON" {
        findings.add(
            "the binlogs are encrypted (binlog_encryption is on): read from disk they are useless without the server's keys",
            "Run SET PERSIST binlog_encryption=OFF and FLUSH BINARY LOGS; coffer can encrypt what it stores.",
        );
    }
    let mode = sql.variable("gtid_mode")?;
    if mode != "ON" {
        findings.warn(format!("gtid_mode is {mode}: transactions are known by their place in the binlog only"));
    }
    Ok(())
}

fn check_plugin(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    findings.problems.extend(missing_plugin(sql)?);
    Ok(())
}

/// What is to be done before the server can clone itself, if anything.
pub(crate) fn missing_plugin(sql: &mut Sql) -> Result<Option<Problem>, Error> {
    let status = sql.rows("SELECT plugin_status FROM information_schema.plugins WHERE plugin_name = 'clone'")?;
    if status.iter().flatten().any(|status| status == "ACTIVE") {
        return Ok(None);
    }
    let library = Path::new(&sql.variable("plugin_dir")?).join("mysql_clone.so");
    let (what, mend) = if library.exists() {
        (
            "the clone plugin is not installed".to_owned(),
            "Run as an administrator: INSTALL PLUGIN clone SONAME 'mysql_clone.so';",
        )
    } else {
        (
            format!("the clone plugin is not installed, and `{}` does not exist", library.display()),
            "Install the package of the server that holds mysql_clone.so, or set mysql.strategy to \"dump\".",
        )
    };
    Ok(Some(Problem { what, mend: mend.to_owned() }))
}

/// A clone holds InnoDB's tables; those of other engines come back empty unless they are dumped beside it.
fn check_engines(sql: &mut Sql, other_engines: OtherEngines, findings: &mut Findings) -> Result<(), Error> {
    let tables = other_tables(sql)?;
    let (dumped, left_empty): (Vec<_>, Vec<_>) =
        tables.iter().partition(|it| other_engines == OtherEngines::Dump && it.can_be_dumped());
    for it in left_empty.into_iter().take(NAMED_MAX) {
        let what =
            format!("table `{}` is of engine {}: a clone would hold it without its rows", it.table.full(), it.engine);
        findings.add(what, engines::remedy(it));
    }
    if !dumped.is_empty() {
        let names: Vec<String> = dumped.iter().map(|it| it.table.full()).collect();
        findings.warn(format!("not InnoDB's, so that {}: {}", engines::WHO_WAITS, named(&names)));
    }
    Ok(())
}

/// A tablespace is made anywhere by its statement.
fn check_tablespaces(sql: &mut Sql, data_dir: &Path, findings: &mut Findings) -> Result<(), Error> {
    let outside = sql.rows(&format!(
        "SELECT TABLESPACE_NAME, FILE_NAME FROM information_schema.FILES WHERE FILE_NAME LIKE '/%' \
         AND FILE_TYPE <> 'TEMPORARY' LIMIT {NAMED_MAX}"
    ))?;
    for row in outside {
        if let [name, file] = row.as_slice()
            && !lies_in(Path::new(file), data_dir)
        {
            findings.add(
                format!("tablespace `{name}` lies outside the data directory, in `{file}`"),
                "Move its tables with ALTER TABLE ... TABLESPACE innodb_file_per_table, then drop it.",
            );
        }
    }
    Ok(())
}

/// The keyring is not in a clone, and without it what is encrypted with it is lost.
fn check_keys(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let spaces = sql.rows(&format!(
        "SELECT NAME FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y' ORDER BY NAME LIMIT {NAMED_MAX}"
    ))?;
    let mut encrypted: Vec<String> = spaces.into_iter().flatten().map(|name| format!("tablespace `{name}`")).collect();
    for name in ["innodb_redo_log_encrypt", "innodb_undo_log_encrypt"] {
        if sql.variable(name)? == "ON" {
            encrypted.push(format!("what {name} covers"));
        }
    }
    if !encrypted.is_empty() {
        findings.add(
            format!("{} encrypted with the server's keyring, which is in no backup", listed(&encrypted)),
            "Turn the encryption off (ALTER TABLE ... ENCRYPTION='N'); coffer can encrypt what it stores.",
        );
    }
    Ok(())
}

fn listed(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Settings made with SET PERSIST lie in a file of the data directory that no clone holds.
fn check_persisted(sql: &mut Sql, findings: &mut Findings) {
    // Without performance_schema there is no such table, and nothing to warn of that could be named.
    let names =
        sql.rows("SELECT variable_name FROM performance_schema.persisted_variables ORDER BY 1").unwrap_or_default();
    let names: Vec<String> = names.into_iter().flatten().collect();
    if !names.is_empty() {
        findings.warn(format!("settings made with SET PERSIST are in no clone: {}", names.join(", ")));
    }
}

/// A recovery takes a replica away from its source: the source would send it what was given up.
fn check_source(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    if sql.value("SELECT COUNT(*) FROM mysql.slave_master_info")? == "0" {
        return Ok(());
    }
    findings.warn("the server is a replica: a recovery makes it forget its source");
    // Before 8.0.26 it had another name.
    if [sql.variable("log_replica_updates")?, sql.variable("log_slave_updates")?].contains(&"OFF".to_owned()) {
        findings.add(
            "the server is a replica that does not write to its binlog what it gets (log_replica_updates is off)",
            "Remove skip_log_replica_updates from the [mysqld] section of its option file and restart the server.",
        );
    }
    Ok(())
}

/// A confined server may write to the places of its profile only, and a clone lies beside the data directory.
fn check_confinement(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let data_dir = sql.variable("datadir")?;
    let pid_file = Path::new(&data_dir).join(sql.variable("pid_file")?);
    let profile = std::fs::read_to_string(pid_file)
        .and_then(|pid| std::fs::read_to_string(format!("/proc/{}/attr/current", pid.trim())));
    // Without AppArmor there is no such file, or nothing in it.
    if let Some(name) = profile.ok().as_deref().and_then(enforced) {
        findings.warn(format!(
            "AppArmor confines the server by the profile `{name}`: it must let the server read and write the work directory \
             `.coffer-...` beside the data directory"
        ));
    }
    Ok(())
}

/// The name of a profile that is enforced: `/usr/sbin/mysqld (enforce)`.
fn enforced(current: &str) -> Option<&str> {
    current.trim_end_matches(['\n', '\0']).strip_suffix(" (enforce)")
}

#[cfg(test)]
mod tests;
