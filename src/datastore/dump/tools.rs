//! The programs that write a dump and load it: the server's own, found beside it or in `PATH`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::datastore::Tools;
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};
use crate::process::Cmd;

const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// A pair that fits a server.
#[derive(Debug, Clone)]
pub(crate) struct DumpTools {
    pub(crate) flavour: Datastore,
    pub(crate) dump: Program,
    pub(crate) client: Program,
}

/// One program and what it can do.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// `10.11.19`
    pub(crate) version: String,
    help: String,
}

impl DumpTools {
    /// Finds what fits a server of this version (`SELECT VERSION()`), first where the installation's own programs are, then
    /// in `PATH`.
    ///
    /// Fails with `NotFound` when there is none, and says which were passed over and why: one of the other datastore
    /// writes what this one cannot read, and one of an older series does not know all that the server has.
    pub(crate) fn of(tools: &Tools, server_version: &str) -> Result<DumpTools, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = [&tools.dump, &tools.client].into_iter().filter_map(|program| program.parent()).map(Path::to_owned);
        let mut all: Vec<PathBuf> = named.filter(|dir| dir.is_absolute()).collect();
        all.extend(places(&tools.server, &path));
        DumpTools::find_in(&all, tools.datastore, server_version)
    }

    fn find_in(places: &[PathBuf], flavour: Datastore, server_version: &str) -> Result<DumpTools, Error> {
        let (dumps, clients): (&[&str], &[&str]) = match flavour {
            Datastore::Mariadb => (&["mariadb-dump", "mysqldump"], &["mariadb", "mysql"]),
            Datastore::Mysql => (&["mysqldump"], &["mysql"]),
        };
        Ok(DumpTools {
            flavour,
            dump: find_one(places, dumps, flavour, server_version)?,
            client: find_one(places, clients, flavour, server_version)?,
        })
    }
}

impl Program {
    /// Whether its help lists this option, given without dashes.
    pub(crate) fn knows(&self, option: &str) -> bool {
        let wanted = format!("--{option}");
        self.help.split(|c: char| c.is_whitespace() || "=[,".contains(c)).any(|word| word == wanted)
    }

    fn ask(path: &Path) -> Result<(Datastore, Program), Error> {
        let says = |option: &str| -> Result<String, Error> {
            let output = Cmd::new(path).arg(option).deadline(ASK_TIMEOUT).run()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let said = says("--version")?;
        let mut words = said.split(|c: char| c.is_whitespace() || c == ',');
        let version = words.find_map(crate::datastore::version::plain_version).ok_or_else(|| {
            Error::new(ErrorKind::Tool, format!("`{} --version` states no version: {}", path.display(), said.trim()))
        })?;
        let program = Program { path: path.to_owned(), version, help: says("--help")? };
        Ok((Datastore::of_version(&said), program))
    }
}

/// The directory of the server's program, the one beside it for what users call, and those of `PATH`.
fn places(server: &Path, path: &OsStr) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(dir) = server.parent().filter(|dir| dir.is_absolute()) {
        places.push(dir.to_owned());
        places.extend(dir.parent().map(|above| above.join("bin")));
    }
    places.extend(std::env::split_paths(path).filter(|dir| dir.is_absolute()));
    places
}

fn find_one(places: &[PathBuf], names: &[&str], flavour: Datastore, server_version: &str) -> Result<Program, Error> {
    let mut passed_over = Vec::new();
    let candidates = names.iter().flat_map(|name| places.iter().map(move |dir| dir.join(name)));
    for path in candidates.filter(|path| path.is_file()) {
        let found = match Program::ask(&path) {
            Ok((found, program)) if found == flavour => {
                if series(&program.version) >= series(server_version) {
                    return Ok(program);
                }
                format!("`{}` is of version {}", path.display(), program.version)
            }
            Ok((found, _)) => format!("`{}` is {}'s", path.display(), found.title()),
            Err(err) => err.to_string(),
        };
        if !passed_over.contains(&found) {
            passed_over.push(found);
        }
    }
    let but = if passed_over.is_empty() { String::new() } else { format!(": {}", passed_over.join("; ")) };
    let package = match flavour {
        Datastore::Mariadb => "mariadb-client",
        Datastore::Mysql => "mysql-client",
    };
    Err(Error::new(
        ErrorKind::NotFound,
        format!("no `{}` for {} {server_version} was found{but}", names.join("` or `"), flavour.title()),
    )
    .hint(format!("Install the client programs of the server's version (package {package}).")))
}

/// Major and minor number; those of one series understand each other.
fn series(version: &str) -> (u32, u32) {
    let mut fields = version.split(|c: char| !c.is_ascii_digit()).map(|field| field.parse().unwrap_or(0));
    (fields.next().unwrap_or(0), fields.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::TempDir;

    fn program(dir: &Path, name: &str, says: &str) {
        let path = dir.join(name);
        let text = format!("#!/bin/sh\necho '{says}'\n");
        crate::durable::write(&path, text.as_bytes(), 0o755).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    const MARIADB: &str = "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)";
    const MYSQL: &str = "mysqldump  Ver 9.7.4 for Linux on x86_64 ((Debian))";

    #[test]
    fn what_fits_the_server_is_taken_and_the_rest_named() {
        let (one, two) = (TempDir::new(), TempDir::new());
        let places = [one.to_path_buf(), two.to_path_buf()];
        let find = |version: &str| DumpTools::find_in(&places, Datastore::of_version(version), version);
        let err = find("9.7.4").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert!(err.message().contains("no `mysqldump` for MySQL 9.7.4"), "{err}");
        assert!(err.hint_text().unwrap().contains("mysql-client"));

        program(&one, "mysqldump", MARIADB);
        program(&two, "mysqldump", MYSQL);
        program(&two, "mysql", MYSQL);
        let found = find("9.7.1").unwrap();
        assert_eq!((found.dump.path, found.dump.version.as_str()), (two.join("mysqldump"), "9.7.4"));
        let err = find("9.8.0").unwrap_err();
        assert!(err.message().contains("is MariaDB's") && err.message().contains("is of version 9.7.4"), "{err}");

        let err = find("10.11.19-MariaDB-log").unwrap_err();
        assert!(err.message().contains("no `mariadb` or `mysql`"), "{err}");
        program(&one, "mariadb", MARIADB);
        assert_eq!(find("10.6.1-MariaDB").unwrap().dump.path, one.join("mysqldump"));
    }

    #[test]
    fn an_option_is_known_when_the_help_lists_it() {
        let help = "  -x, --single-transaction \n  --master-data[=#]   This\n  --gtid-not-this\n".to_owned();
        let program = Program { path: PathBuf::new(), version: String::new(), help };
        assert!(program.knows("single-transaction") && program.knows("master-data"));
        assert!(!program.knows("gtid") && !program.knows("single"));
    }
}
