//! A look at a MySQL server: what stands in the way of backing it up, shipping its binlog and recovering it.

use std::path::Path;

use crate::datastore::sql::Sql;
use crate::error::Error;

/// Something in the way, and the line or command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) what: String,
    pub(crate) mend: String,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    pub(crate) obstacles: Vec<Obstacle>,
    /// What coffer can't keep from getting lost, and works all the same.
    pub(crate) warnings: Vec<String>,
}

/// The first version with the clone plugin.
const VERSION_MIN: (u32, u32, u32) = (8, 0, 17);
/// Privileges without which something of coffer's work fails, as `SHOW GRANTS` spells them.
const PRIVILEGES: [&str; 6] =
    ["BACKUP_ADMIN", "RELOAD", "PROCESS", "REPLICATION CLIENT", "REPLICATION SLAVE", "SELECT"];
/// How many things of one kind are named.
const NAMED_MAX: usize = 20;
/// Settings that a server must share with the one that wrote its data files, or it can't open them.
const LAYOUT: [&str; 3] = ["innodb_page_size", "innodb_data_file_path", "lower_case_table_names"];
/// Schemas of the server itself, as SQL has them.
const OWN_SCHEMAS: &str = "('mysql', 'sys', 'performance_schema', 'information_schema')";

/// The settings that a server needs to open this one's files, as option lines.
pub(crate) fn layout(sql: &mut Sql) -> Result<Vec<(String, String)>, Error> {
    LAYOUT.into_iter().map(|name| Ok((name.to_owned(), sql.variable(name)?))).collect()
}

/// Asks the server, changes nothing.
pub(crate) fn inspect(sql: &mut Sql) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    check_version(sql, &mut findings)?;
    check_binlog(sql, &mut findings)?;
    check_plugin(sql, &mut findings)?;
    check_privileges(sql, &mut findings)?;
    check_engines(sql, &mut findings)?;
    check_places(sql, &mut findings)?;
    check_keys(sql, &mut findings)?;
    check_persisted(sql, &mut findings);
    check_source(sql, &mut findings)?;
    Ok(findings)
}

impl Findings {
    fn add(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.obstacles.push(Obstacle { what: what.into(), mend: mend.into() });
    }
}

fn check_version(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let text = sql.value("SELECT VERSION()")?;
    let mut fields = text.split(|c: char| !c.is_ascii_digit()).map(|field| field.parse().unwrap_or(0));
    let mut next = || fields.next().unwrap_or(0);
    let version = (next(), next(), next());
    if version < VERSION_MIN {
        findings.add(
            format!("the server is MySQL {text}, and only 8.0.17 and later can clone themselves"),
            "Upgrade the server, or take logical backups.",
        );
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
        findings
            .warnings
            .push(format!("gtid_mode is {mode}: transactions are known by their place in the binlog only"));
    }
    Ok(())
}

fn check_plugin(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let status = sql.rows("SELECT plugin_status FROM information_schema.plugins WHERE plugin_name = 'clone'")?;
    if status.iter().flatten().any(|status| status == "ACTIVE") {
        return Ok(());
    }
    let library = Path::new(&sql.variable("plugin_dir")?).join("mysql_clone.so");
    if library.exists() {
        findings.add(
            "the clone plugin is not installed",
            "Run as an administrator: INSTALL PLUGIN clone SONAME 'mysql_clone.so';",
        );
    } else {
        findings.add(
            format!("the clone plugin is not installed, and `{}` does not exist", library.display()),
            "Install the package of the server that holds mysql_clone.so, or take logical backups.",
        );
    }
    Ok(())
}

fn check_privileges(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let grants: Vec<String> = sql.rows("SHOW GRANTS")?.into_iter().flatten().collect();
    let global: String = grants.iter().filter(|grant| grant.contains(" ON *.* ")).cloned().collect();
    let user = sql.value("SELECT CURRENT_USER()")?;
    let account = match user.rsplit_once('@') {
        Some((name, host)) => format!("'{name}'@'{host}'"),
        None => format!("'{user}'"),
    };
    for privilege in PRIVILEGES.into_iter().filter(|privilege| !global.contains(privilege)) {
        findings.add(
            format!("{user} lacks the privilege {privilege}"),
            format!("Run as an administrator: GRANT {privilege} ON *.* TO {account};"),
        );
    }
    Ok(())
}

/// A clone holds InnoDB's tables; those of other engines come back empty.
fn check_engines(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    for (table, engine) in tables_of_other_engines(sql)? {
        findings.add(
            format!("table `{table}` is of engine {engine}: a clone would hold it without its rows"),
            format!("Run ALTER TABLE {table} ENGINE=InnoDB, or take logical backups."),
        );
    }
    Ok(())
}

/// Tables that are not InnoDB's, with their engines; at most `NAMED_MAX`.
pub(crate) fn tables_of_other_engines(sql: &mut Sql) -> Result<Vec<(String, String)>, Error> {
    let rows = sql.rows(&format!(
        "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), ENGINE FROM information_schema.TABLES \
         WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB' AND TABLE_SCHEMA NOT IN {OWN_SCHEMAS} \
         ORDER BY 1 LIMIT {NAMED_MAX}"
    ))?;
    let tables = rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok());
    Ok(tables.map(|[table, engine]| (table, engine)).collect())
}

/// Data outside the data directory would be left behind by an exchange of directories.
fn check_places(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let data_dir = sql.variable("datadir")?;
    let data_dir = Path::new(data_dir.trim_end_matches('/'));
    for name in ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "innodb_doublewrite_dir"]
    {
        let value = sql.variable(name)?;
        let place = data_dir.join(value.trim_start_matches('#').trim_end_matches('/'));
        if !value.is_empty() && !lies_in(&place, data_dir) {
            findings.add(
                format!("{name} is `{value}`, outside the data directory: a recovery could not exchange it"),
                format!("Move it into the data directory and remove `{name}` from the option file."),
            );
        }
    }
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

fn lies_in(place: &Path, dir: &Path) -> bool {
    let resolve = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolve(place).starts_with(resolve(dir))
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
        findings.warnings.push(format!("settings made with SET PERSIST are in no clone: {}", names.join(", ")));
    }
}

/// A recovery takes a replica away from its source: the source would send it what was given up.
fn check_source(sql: &mut Sql, findings: &mut Findings) -> Result<(), Error> {
    let sources = sql.value("SELECT COUNT(*) FROM mysql.slave_master_info")?;
    if sources != "0" {
        findings.warnings.push("the server is a replica: a recovery makes it forget its source".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::mysql::testing::TestMysql;

    fn found(server: &TestMysql) -> String {
        let findings = inspect(&mut server.sql()).unwrap();
        let obstacles = findings.obstacles.into_iter().map(|obstacle| obstacle.what);
        obstacles
            .chain(findings.warnings.into_iter().map(|warning| format!("({warning})")))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn nothing_stands_in_the_way_on_a_server_that_was_created() {
        let server = TestMysql::start("");
        assert_eq!(found(&server), "");
        let layout = layout(&mut server.sql()).unwrap();
        assert_eq!(layout.first(), Some(&("innodb_page_size".to_owned(), "16384".to_owned())));
    }

    #[test]
    fn everything_in_the_way_is_named() {
        let server = TestMysql::start("binlog_format=STATEMENT\ngtid_mode=OFF\nenforce_gtid_consistency=OFF\n");
        let undo = server.dir.join("undo");
        std::fs::create_dir(&undo).unwrap();
        server.stop();
        let options = std::fs::read_to_string(&server.server.defaults_file).unwrap();
        let more = format!("innodb_directories={}\n[client]", undo.display());
        crate::durable::write(&server.server.defaults_file, options.replace("[client]", &more).as_bytes(), 0o644)
            .unwrap();
        server.start_again();
        server.run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.old (a INT) ENGINE=MyISAM",
            &format!("CREATE TABLESPACE far ADD DATAFILE '{}/far.ibd'", undo.display()),
            "SET PERSIST max_connections = 21",
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'elsewhere'",
            "UNINSTALL PLUGIN clone",
            "CREATE USER weak@localhost IDENTIFIED WITH auth_socket AS 'nobody'",
        ]);
        assert_eq!(
            found(&server),
            format!(
                "binlog_format is STATEMENT: replaying statements may give other rows than the server had\n\
                 the clone plugin is not installed\n\
                 table `shop.old` is of engine MyISAM: a clone would hold it without its rows\n\
                 tablespace `far` lies outside the data directory, in `{}/far.ibd`\n\
                 (gtid_mode is OFF: transactions are known by their place in the binlog only)\n\
                 (settings made with SET PERSIST are in no clone: max_connections)\n\
                 (the server is a replica: a recovery makes it forget its source)",
                undo.display()
            )
        );
    }

    #[test]
    fn a_server_without_a_binlog_and_an_account_without_rights_are_named() {
        let server = TestMysql::start("skip_log_bin\nskip_name_resolve\n");
        server.run(&["CREATE USER weak@localhost IDENTIFIED BY 'a pass'"]);
        let access = crate::datastore::sql::Access {
            user: "weak".to_owned(),
            password: Some(crate::datastore::sql::Secret::new("a pass".to_owned())),
            ..server.access()
        };
        let mut sql = Sql::connect(&access).unwrap();
        let mut findings = Findings::default();
        check_privileges(&mut sql, &mut findings).unwrap();
        assert_eq!(findings.obstacles.len(), PRIVILEGES.len());
        assert_eq!(
            findings.obstacles.first().unwrap().mend,
            "Run as an administrator: GRANT BACKUP_ADMIN ON *.* TO 'weak'@'localhost';"
        );
        assert!(found(&server).starts_with("the server writes no binlog"), "{}", found(&server));
    }
}
