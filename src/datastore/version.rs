//! Versions, as servers and programs state them.

use std::path::Path;
use std::time::Duration;

use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};
use crate::process::Cmd;

/// The version of a program of this datastore: `mariadb-backup based on MariaDB server 10.11.19-MariaDB ...` → `10.11.19`.
///
/// Fails for one of the other datastore: Debian's MariaDB has a link of the name of each of MySQL's programs.
pub(crate) fn version_of(datastore: Datastore, program: &Path) -> Result<String, Error> {
    let text = said(program)?;
    let found = Datastore::of_version(&text);
    if found != datastore {
        let (found, wanted) = (found.title(), datastore.title());
        return Err(Error::new(ErrorKind::NotFound, format!("`{}` is {found}'s, not {wanted}'s", program.display())));
    }
    stated(program, &text)
}

/// The version a program states, whosever it is.
pub(crate) fn program_version(program: &Path) -> Result<String, Error> {
    stated(program, &said(program)?)
}

fn said(program: &Path) -> Result<String, Error> {
    let output = Cmd::new(program).arg("--version").deadline(Duration::from_secs(20)).run()?;
    Ok(format!("{} {}", String::from_utf8_lossy(&output.stdout), output.stderr_tail))
}

fn stated(program: &Path, text: &str) -> Result<String, Error> {
    text.split(|c: char| c.is_whitespace() || c == ',').find_map(plain_version).ok_or_else(|| {
        Error::new(ErrorKind::Tool, format!("`{} --version` states no version: {}", program.display(), text.trim()))
    })
}

/// `10.11.19` of `10.11.19-MariaDB-0+deb12u1-log`, `9.7.4` of `9.7.4-2`; `None` when the text is no version of a server.
pub(crate) fn plain_version(text: &str) -> Option<String> {
    let version: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (version.split('.').count() == 3 && version.split('.').all(|field| !field.is_empty())).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_program_by_mysqls_name_may_be_mariadbs() {
        let dir = TempDir::new();
        let program = |name: &str, says: &str| {
            let path = dir.join(name);
            crate::durable::write(&path, format!("#!/bin/sh\necho '{says}'\n").as_bytes(), 0o755).unwrap();
            path
        };
        let link = program("mysqld", "/usr/sbin/mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64");
        let own = program("own", "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))");
        let refused = version_of(Datastore::Mysql, &link).unwrap_err();
        assert!(refused.message().ends_with("mysqld` is MariaDB's, not MySQL's"), "{refused}");
        assert_eq!(version_of(Datastore::Mariadb, &link).unwrap(), "10.11.19");
        assert_eq!(version_of(Datastore::Mysql, &own).unwrap(), "9.7.4");
        assert!(version_of(Datastore::Mariadb, &own).is_err());
    }

    #[test]
    fn versions_are_compared_without_their_suffix() {
        for (text, version) in [
            ("10.11.19-MariaDB-0+deb12u1-log", Some("10.11.19")),
            ("9.7.4-2", Some("9.7.4")),
            ("8.0.45-0ubuntu0.24.04.1", Some("8.0.45")),
            ("8.4.6-debug", Some("8.4.6")),
            ("based", None),
            ("8.4", None),
        ] {
            assert_eq!(plain_version(text).as_deref(), version, "{text}");
        }
    }
}
