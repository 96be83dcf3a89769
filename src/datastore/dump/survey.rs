//! A look at the server before and after a dump: what a dump can't do, and whether it was left in peace.
//!
//! A snapshot holds still the rows of transactional tables and nothing else. Definitions (and MariaDB's accounts, which
//! lie in tables without transactions) are read as they are when the tool comes to them, up to hours after the place in
//! the binlog that the dump is from: one that changed meanwhile is in the dump and in the binlog behind it, and a replay
//! would stop there. So they are compared, and a dump of a server whose definitions changed is given up.

use std::collections::BTreeMap;

use crate::datastore::dump::manifest::{Code, Library, named};
use crate::datastore::dump::split::quoted;
use crate::datastore::dump::system::{OWN_SCHEMAS, accounts_without_snapshot};
use crate::datastore::sql::Sql;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};

/// What a look found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) flavour: Datastore,
    pub(super) server_version: String,
    /// Seconds since 1970, by the server's clock.
    pub(super) at: u64,
    /// Tables that are not transactional, and when each was last written, as far as the server knows.
    unguarded: BTreeMap<String, String>,
    /// Views that cannot be read, with schema and name.
    pub(super) broken: Vec<String>,
    /// Tables with columns of type FLOAT.
    rounded: Vec<String>,
    pub(super) engines: Vec<Library>,
    definitions: BTreeMap<String, String>,
}

/// How long one look may take: information_schema opens every table.
pub(super) const LOOK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Warnings of a dump of this server taken now, without taking one: tables that are not transactional, first of all.
pub(crate) fn warnings(sql: &mut Sql, is_locked: bool) -> Result<Vec<String>, Error> {
    let survey = Survey::take(sql)?;
    Ok(if is_locked { survey.warnings_when_locked() } else { survey.warnings() })
}

impl Survey {
    pub(super) fn take(sql: &mut Sql) -> Result<Survey, Error> {
        let server_version = sql.value("SELECT VERSION()")?;
        let flavour = Datastore::of_version(&server_version);
        if flavour == Datastore::Mysql {
            // Or it answers with what it knew a day ago.
            sql.execute("SET SESSION information_schema_stats_expiry = 0")?;
        }
        check(sql, flavour)?;
        Ok(Survey {
            flavour,
            at: sql.value("SELECT UNIX_TIMESTAMP()")?.parse().unwrap_or(0),
            unguarded: unguarded(sql)?,
            broken: broken(sql)?,
            rounded: rounded(sql)?,
            engines: engines(sql)?,
            definitions: definitions(sql, flavour)?,
            server_version,
        })
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.unguarded.is_empty() {
            let names: Vec<String> = self.unguarded.keys().cloned().collect();
            warnings.push(format!(
                "not transactional, so that their rows may be of another moment than the rest: {}",
                named(&names)
            ));
        }
        warnings.extend(self.warnings_when_locked());
        warnings
    }

    /// What is to be said when nobody can write meanwhile.
    pub(super) fn warnings_when_locked(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.broken.is_empty() {
            warnings.push(format!("views that refer to what is not there are left out: {}", named(&self.broken)));
        }
        warnings.extend(rounding(&self.rounded));
        warnings
    }

    /// What a later look says of the time between. Fails when definitions have changed; returns warnings.
    /// `dumped` are the tables, sequences and views of the dump.
    pub(super) fn compare(&self, later: &Survey, dumped: &[String]) -> Result<Vec<String>, Error> {
        let mut changed: Vec<String> = Vec::new();
        let all =
            self.definitions.keys().chain(later.definitions.keys().filter(|key| !self.definitions.contains_key(*key)));
        changed.extend(all.filter(|key| self.definitions.get(*key) != later.definitions.get(*key)).cloned());
        // What came and went again meanwhile.
        let known = |name: &&String| !self.definitions.contains_key(&format!("table {name}"));
        changed.extend(dumped.iter().filter(known).map(|name| format!("table {name}")));
        changed.sort();
        changed.dedup();
        if !changed.is_empty() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("definitions changed while the dump was taken: {}", named(&changed)),
            )
            .hint("Take the backup again at a time without changes of tables, routines or accounts."));
        }
        let written = |(name, at): (&String, &String)| (self.unguarded.get(name) != Some(at)).then(|| name.clone());
        let written: Vec<String> = later.unguarded.iter().filter_map(written).collect();
        let mut warnings = Vec::new();
        if !written.is_empty() {
            warnings.push(format!(
                "not transactional and written while the dump was taken, so that a replay from it may stop there: {}",
                named(&written)
            ));
        }
        Ok(warnings)
    }
}

/// How much stored code the server has outside its own schemas.
pub(super) fn code(sql: &mut Sql) -> Result<Code, Error> {
    let own = own_schemas();
    let mut count = |table: &str, column: &str| -> Result<u64, Error> {
        let question = format!("SELECT COUNT(*) FROM information_schema.{table} WHERE {column} NOT IN {own}");
        Ok(sql.value(&question)?.parse().unwrap_or(0))
    };
    Ok(Code {
        routines: count("ROUTINES", "ROUTINE_SCHEMA")?,
        triggers: count("TRIGGERS", "TRIGGER_SCHEMA")?,
        events: count("EVENTS", "EVENT_SCHEMA")?,
    })
}

/// Schemas of the server itself, as SQL has them.
pub(super) fn own_schemas() -> String {
    let quoted = OWN_SCHEMAS.map(|name| format!("'{name}'"));
    format!("({})", quoted.join(", "))
}

fn check(sql: &mut Sql, flavour: Datastore) -> Result<(), Error> {
    if sql.value("SELECT @@GLOBAL.log_bin")? != "1" {
        return Err(Error::new(
            ErrorKind::Refused,
            "the server writes no binlog (log_bin is off), so a dump would lead nowhere",
        )
        .hint("Turn on log_bin, restart the server and take a new backup."));
    }
    if flavour == Datastore::Mariadb {
        return Ok(());
    }
    let rows = sql.rows(
        "SELECT DISTINCT t.NAME FROM information_schema.INNODB_TABLES i JOIN information_schema.INNODB_TABLESPACES t \
         ON t.SPACE = i.SPACE WHERE t.SPACE_TYPE = 'General' AND t.NAME <> 'mysql' ORDER BY 1",
    )?;
    let names: Vec<String> = rows.into_iter().flatten().collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Refused,
        format!("tables lie in tablespaces of their own, which a dump does not make: {}", named(&names)),
    )
    .hint("Take physical backups, or run ALTER TABLE ... TABLESPACE=innodb_file_per_table for them."))
}

fn unguarded(sql: &mut Sql) -> Result<BTreeMap<String, String>, Error> {
    let rows = sql.rows(&format!(
        "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.UPDATE_TIME FROM information_schema.TABLES t \
         LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
         WHERE t.TABLE_TYPE NOT LIKE '%VIEW' AND t.TABLE_TYPE <> 'SEQUENCE' AND t.TABLE_SCHEMA NOT IN {} \
         AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'",
        own_schemas()
    ))?;
    Ok(rows.into_iter().filter_map(three).map(|[schema, name, at]| (format!("{schema}.{name}"), at)).collect())
}

/// What is to be said of tables with columns of type FLOAT.
pub(super) fn rounding(tables: &[String]) -> Option<String> {
    let what = "the server writes values of type FLOAT with six digits, so that a dump rounds those of";
    (!tables.is_empty()).then(|| format!("{what} {}", named(tables)))
}

/// Views at which the tool would give up. It is asked as the tool does.
fn broken(sql: &mut Sql) -> Result<Vec<String>, Error> {
    let views = sql.rows(&format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, '' FROM information_schema.TABLES WHERE TABLE_TYPE = 'VIEW' \
         AND TABLE_SCHEMA NOT IN {} ORDER BY 1, 2",
        own_schemas()
    ))?;
    let mut broken = Vec::new();
    for [schema, name, _] in views.into_iter().filter_map(three) {
        match sql.rows(&format!("SHOW FIELDS FROM {}.{}", quoted(&schema), quoted(&name))) {
            Ok(_) => {}
            // The server answered; it is the view.
            Err(err) if err.kind() == ErrorKind::Tool => broken.push(format!("{schema}.{name}")),
            Err(err) => return Err(err),
        }
    }
    Ok(broken)
}

/// The servers print a FLOAT with six digits, whatever it holds; DOUBLE is exact.
pub(super) fn rounded(sql: &mut Sql) -> Result<Vec<String>, Error> {
    let rows = sql.rows(&format!(
        "SELECT DISTINCT c.TABLE_SCHEMA, c.TABLE_NAME, '' FROM information_schema.COLUMNS c \
         JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME \
         WHERE c.DATA_TYPE = 'float' AND t.TABLE_TYPE NOT LIKE '%VIEW' AND c.TABLE_SCHEMA NOT IN {} ORDER BY 1, 2",
        own_schemas()
    ))?;
    Ok(rows.into_iter().filter_map(three).map(|[schema, name, _]| format!("{schema}.{name}")).collect())
}

/// Engines that come from a library and have tables.
pub(super) fn engines(sql: &mut Sql) -> Result<Vec<Library>, Error> {
    let rows = sql.rows(&format!(
        "SELECT DISTINCT p.PLUGIN_NAME, p.PLUGIN_LIBRARY, '' FROM information_schema.PLUGINS p \
         JOIN information_schema.TABLES t ON t.ENGINE = p.PLUGIN_NAME \
         WHERE p.PLUGIN_TYPE = 'STORAGE ENGINE' AND p.PLUGIN_LIBRARY IS NOT NULL AND t.TABLE_SCHEMA NOT IN {}",
        own_schemas()
    ))?;
    Ok(rows.into_iter().filter_map(three).map(|[plugin, library, _]| Library { plugin, library }).collect())
}

/// Everything that a definition statement changes, each under a name for people, with something that changes with it.
fn definitions(sql: &mut Sql, flavour: Datastore) -> Result<BTreeMap<String, String>, Error> {
    let own = own_schemas();
    let questions = [
        format!(
            "SELECT 'schema', SCHEMA_NAME, CONCAT_WS(' ', DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME) \
             FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN {own}"
        ),
        format!(
            "SELECT 'table', CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), CONCAT_WS(' ', TABLE_TYPE, ENGINE, CREATE_TIME) \
             FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {own} AND TABLE_TYPE <> 'TEMPORARY'"
        ),
        format!(
            "SELECT 'view', CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), SHA2(CONCAT_WS(' ', VIEW_DEFINITION, DEFINER, \
             SECURITY_TYPE, CHECK_OPTION), 256) FROM information_schema.VIEWS WHERE TABLE_SCHEMA NOT IN {own}"
        ),
        format!(
            "SELECT 'routine', CONCAT(ROUTINE_SCHEMA, '.', ROUTINE_NAME), GROUP_CONCAT(CONCAT_WS(' ', ROUTINE_TYPE, \
             LAST_ALTERED) ORDER BY ROUTINE_TYPE) FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA NOT IN {own} GROUP BY 2"
        ),
        format!(
            "SELECT 'trigger', CONCAT(TRIGGER_SCHEMA, '.', TRIGGER_NAME), CONCAT_WS(' ', CREATED, ACTION_ORDER, \
             SHA2(ACTION_STATEMENT, 256)) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA NOT IN {own}"
        ),
        format!(
            "SELECT 'event', CONCAT(EVENT_SCHEMA, '.', EVENT_NAME), CONCAT_WS(' ', LAST_ALTERED, STATUS) \
             FROM information_schema.EVENTS WHERE EVENT_SCHEMA NOT IN {own}"
        ),
    ];
    let mut found = BTreeMap::new();
    for question in questions {
        for [what, name, state] in sql.rows(&question)?.into_iter().filter_map(three) {
            found.insert(format!("{what} {name}"), state);
        }
    }
    for name in accounts_without_snapshot(flavour) {
        let exists = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = ";
        if sql.value(&format!("{exists}'{name}'"))? == "1" {
            let rows = sql.rows(&format!("CHECKSUM TABLE mysql.{}", quoted(&name)))?;
            found.insert(format!("accounts mysql.{name}"), rows.into_iter().flatten().nth(1).unwrap_or_default());
        }
    }
    Ok(found)
}

fn three(row: Vec<String>) -> Option<[String; 3]> {
    row.try_into().ok()
}
