//! Which servers a base is for.
//!
//! Files are read by the series that wrote them, and by no older patch level of it: a server converts what it finds when
//! it starts, and says so only once it is too late to refuse. A step from one series to the next is an upgrade, which is
//! made by the operator and on purpose. Statements are understood by every later server too.

use crate::domain::backup::Backup;
use crate::recovery::plan::refusal::PlanError;
use crate::recovery::plan::warning::Warning;

/// What a base consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The server's own files.
    Physical,
    /// Statements.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the dump driver"))]
    Dump,
}

/// A program of which a base must be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// The instance's server, as it ran last.
    Server,
    /// The server program that coffer is configured with: it replays, and it starts the servers that coffer created.
    Program,
}

/// How well a base fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The very version, or one of them is not known: then the datastore's own tools have the last word.
    Exact,
    /// A supported step; worth a warning.
    Step,
    Refused,
}

/// Refuses a base that the server or the configured program can't take; a warning for every supported step.
pub(super) fn check(base: &Backup, driver: Driver, runners: &[(Runner, &str)]) -> Result<Option<Warning>, PlanError> {
    let mut warning = None;
    for (runner, version) in runners {
        match fit(driver, &base.datastore, &base.server_version, &base.datastore, version) {
            Fit::Exact => {}
            Fit::Step => {
                warning.get_or_insert_with(|| Warning::PatchLevel {
                    base_version: base.server_version.clone(),
                    server_version: (*version).to_owned(),
                });
            }
            Fit::Refused => {
                return Err(PlanError::VersionMismatch {
                    base: base.id,
                    base_version: base.server_version.clone(),
                    server_version: (*version).to_owned(),
                    runner: *runner,
                });
            }
        }
    }
    Ok(warning)
}

/// Whether a server takes a base, by what both say of themselves.
fn fit(driver: Driver, base_datastore: &str, base_version: &str, datastore: &str, version: &str) -> Fit {
    // The two grew apart at MySQL 5.5; neither reads the other's files, nor all of its statements.
    if base_datastore != datastore {
        return Fit::Refused;
    }
    let (Some(taken), Some(runs)) = (numbers(base_version), numbers(version)) else { return Fit::Exact };
    let same_series = taken[..2] == runs[..2];
    match driver {
        _ if taken == runs => Fit::Exact,
        Driver::Physical if same_series && runs > taken => Fit::Step,
        // Within a series the statements are the same, older patch level or not.
        Driver::Dump if same_series || runs > taken => Fit::Step,
        Driver::Physical | Driver::Dump => Fit::Refused,
    }
}

/// Major, minor and patch of `10.11.19-MariaDB-deb12` or `8.4.3`. The first two are the series, MySQL's as MariaDB's.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let plain = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut fields = plain.split('.').map(|field| field.parse::<u32>().ok());
    Some([fields.next()??, fields.next()??, fields.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cases: &str) {
        for line in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [datastore, base, "on", version, physical, dump] = words[..] else { panic!("not a case: {line}") };
            let found = [Driver::Physical, Driver::Dump].map(|driver| fit(driver, datastore, base, datastore, version));
            assert_eq!(format!("{:?} {:?}", found[0], found[1]), format!("{physical} {dump}"), "{line}");
        }
    }

    #[test]
    fn files_fit_their_series_from_their_patch_level_on_and_statements_every_later_server() {
        check(
            "mariadb 10.11.19 on 10.11.19                Exact   Exact
             mariadb 10.11.19 on 10.11.20                Step    Step
             mariadb 10.11.19 on 10.11.18                Refused Step
             mariadb 10.11.19 on 11.8.6                  Refused Step
             mariadb 11.8.6   on 10.11.19                Refused Refused
             mariadb 11.4.2   on 11.8.1                  Refused Step
             mariadb 10.11.9  on 10.11.10-MariaDB-deb12  Step    Step
             mysql   8.0.36   on 8.0.44                  Step    Step
             mysql   8.0.44   on 8.0.36                  Refused Step
             mysql   8.0.44   on 8.4.3                   Refused Step
             mysql   8.4.3    on 9.7.4                   Refused Step
             mysql   9.7.4    on 9.7.5-2                 Step    Step
             mysql   9.6.0    on 9.7.0                   Refused Step
             mysql   9.7.4    on 9.6.9                   Refused Refused",
        );
    }

    #[test]
    fn a_version_that_was_never_seen_refuses_nothing() {
        for version in ["", "unknown", "11"] {
            assert_eq!(fit(Driver::Physical, "mariadb", "10.11.19", "mariadb", version), Fit::Exact, "{version}");
            assert_eq!(fit(Driver::Physical, "mariadb", version, "mariadb", "10.11.19"), Fit::Exact, "{version}");
        }
    }

    #[test]
    fn neither_of_the_two_takes_a_base_of_the_other() {
        for driver in [Driver::Physical, Driver::Dump] {
            assert_eq!(fit(driver, "mariadb", "10.11.19", "mysql", "9.7.4"), Fit::Refused);
            assert_eq!(fit(driver, "mysql", "8.0.44", "mariadb", "10.11.19"), Fit::Refused);
        }
    }
}
