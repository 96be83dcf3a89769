//! A look at a server: what stands in the way of backing it up, shipping its binlog and recovering it. Each server has
//! its own questions; here is what they share.

use std::path::Path;

use crate::datastore::dump::survey;
use crate::datastore::sql::Sql;
use crate::datastore::{Tools, mariadb, mysql};
use crate::domain::backup::Strategy;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};

/// Something that stands in the way of backing up, shipping or recovering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What was found.
    pub(crate) what: String,
    /// The line or command that mends it.
    pub(crate) mend: String,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    /// What coffer can't keep from getting lost, and works all the same.
    pub(crate) warnings: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.problems.push(Problem { what: what.into(), mend: mend.into() });
    }

    pub(crate) fn warn(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

/// Asks the server, changes nothing.
pub(crate) fn inspect(tools: &Tools, sql: &mut Sql) -> Result<Findings, Error> {
    let mut findings = match tools.datastore {
        Datastore::Mariadb => mariadb::inspect::inspect(sql, tools.strategy)?,
        Datastore::Mysql => mysql::inspect::inspect(sql, tools.strategy, tools.other_engines)?,
    };
    // It needs the privileges that would have been named.
    if tools.strategy == Strategy::Dump && findings.problems.is_empty() {
        match survey::warnings(sql, tools.dump_locks_tables) {
            Ok(warnings) => findings.warnings.extend(warnings),
            Err(err) if err.kind() == ErrorKind::Refused => {
                findings.add(err.message(), err.hint_text().unwrap_or_default());
            }
            Err(err) => return Err(err),
        }
    }
    Ok(findings)
}

/// Names each privilege that the account lacks. `false` when there is one: then not everything can be looked at.
pub(super) fn check_privileges(
    sql: &mut Sql,
    wanted: impl Iterator<Item = &'static str>,
    findings: &mut Findings,
) -> Result<bool, Error> {
    let grants: Vec<String> = sql.rows("SHOW GRANTS")?.into_iter().flatten().collect();
    let global: String = grants.iter().filter(|grant| grant.contains(" ON *.* ")).cloned().collect();
    if global.contains("ALL PRIVILEGES") {
        return Ok(true);
    }
    let user = sql.value("SELECT CURRENT_USER()")?;
    let mut has_all = true;
    for privilege in wanted.filter(|privilege| !global.contains(privilege)) {
        has_all = false;
        findings.add(
            format!("{user} lacks the privilege {privilege}"),
            format!("Run as an administrator: GRANT {privilege} ON *.* TO {};", quoted_account(&user)),
        );
    }
    Ok(has_all)
}

/// `backup@localhost` as SQL wants it: `'backup'@'localhost'`.
fn quoted_account(account: &str) -> String {
    let quoted = |name: &str| format!("'{}'", name.replace('\'', "''"));
    match account.rsplit_once('@') {
        Some((user, host)) => format!("{}@{}", quoted(user), quoted(host)),
        None => quoted(account),
    }
}

/// Data outside the data directory would be left behind by an exchange of directories. `variables` name places that are
/// relative to it.
pub(super) fn check_places(
    sql: &mut Sql,
    variables: &[&'static str],
    data_dir: &Path,
    findings: &mut Findings,
) -> Result<(), Error> {
    for name in variables {
        let value = sql.variable(name)?;
        // MySQL: a place for files of its own that are not under a schema's name.
        let place = data_dir.join(value.trim_start_matches('#').trim_end_matches('/'));
        if !value.is_empty() && !lies_in(&place, data_dir) {
            findings.add(
                format!("{name} is `{value}`, outside the data directory: a recovery could not exchange it"),
                format!("Move it into the data directory and remove `{name}` from the option file."),
            );
        }
    }
    Ok(())
}

pub(super) fn lies_in(place: &Path, dir: &Path) -> bool {
    let resolve = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolve(place).starts_with(resolve(dir))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_account_is_quoted_as_sql_wants_it() {
        assert_eq!(super::quoted_account("backup@localhost"), "'backup'@'localhost'");
        assert_eq!(super::quoted_account("o'neil@%"), "'o''neil'@'%'");
    }
}
