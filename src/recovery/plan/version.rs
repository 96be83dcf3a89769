//! Which servers a base is for.
//!
//! Files are read by the series that wrote them, and by no older patch level of it: a server converts what it finds when
//! it starts, and says so only once it is too late to refuse. A step from one series to the next is an upgrade, which is
//! made by the operator and on purpose. Statements are understood by every later server too.

use crate::domain::backup::{Backup, Strategy};
use crate::recovery::plan::refusal::PlanError;
use crate::recovery::plan::warning::Warning;

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
pub(super) fn check(base: &Backup, runners: &[(Runner, &str)]) -> Result<Option<Warning>, PlanError> {
    let mut warning = None;
    for (runner, version) in runners {
        match fit(base.strategy, &base.server_version, version) {
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

/// Whether a server of this version may be started on data that one of the other version has left.
pub(crate) fn takes_files(version: &str, left_by: &str) -> bool {
    // Whatever copies files: they are all the same in this.
    fit(Strategy::Mariabackup, left_by, version) != Fit::Refused
}

/// Whether a server takes a base, by the versions both state. They are of one datastore, as they are of one instance.
fn fit(strategy: Strategy, base_version: &str, version: &str) -> Fit {
    let (Some(taken), Some(runs)) = (numbers(base_version), numbers(version)) else { return Fit::Exact };
    let same_series = taken[..2] == runs[..2];
    let fits = match strategy {
        _ if taken == runs => return Fit::Exact,
        Strategy::Mariabackup | Strategy::Clone | Strategy::Xtrabackup => same_series && runs > taken,
        // Within a series the statements are the same, older patch level or not.
        Strategy::Dump => same_series || runs > taken,
    };
    if fits { Fit::Step } else { Fit::Refused }
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
    fn check(files: Strategy, cases: &str) {
        for line in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [base, "on", version, physical, dump] = words[..] else { panic!("not a case: {line}") };
            let found = [files, Strategy::Dump].map(|strategy| fit(strategy, base, version));
            assert_eq!(format!("{:?} {:?}", found[0], found[1]), format!("{physical} {dump}"), "{line}");
        }
    }

    #[test]
    fn files_fit_their_series_from_their_patch_level_on_and_statements_every_later_server() {
        check(
            Strategy::Mariabackup,
            "10.11.19 on 10.11.19                Exact   Exact
             10.11.19 on 10.11.20                Step    Step
             10.11.19 on 10.11.18                Refused Step
             10.11.19 on 11.8.6                  Refused Step
             11.8.6   on 10.11.19                Refused Refused
             11.4.2   on 11.8.1                  Refused Step
             10.11.9  on 10.11.10-MariaDB-deb12  Step    Step",
        );
        check(
            Strategy::Clone,
            "8.0.36   on 8.0.44                  Step    Step
             8.0.44   on 8.0.36                  Refused Step
             8.0.44   on 8.4.3                   Refused Step
             8.4.3    on 9.7.4                   Refused Step
             9.7.4    on 9.7.5-2                 Step    Step
             9.6.0    on 9.7.0                   Refused Step
             9.7.4    on 9.6.9                   Refused Refused",
        );
    }

    #[test]
    fn data_is_started_by_its_own_series_only() {
        for (version, left_by, may) in [
            ("10.11.19", "10.11.19", true),
            ("10.11.20", "10.11.19", true),
            ("10.11.18", "10.11.19", false),
            ("11.8.6", "10.11.19", false),
            ("", "10.11.19", true),
            ("11.8.6", "", true),
        ] {
            assert_eq!(takes_files(version, left_by), may, "{version} on what {left_by} left");
        }
    }

    #[test]
    fn a_version_that_was_never_seen_refuses_nothing() {
        for version in ["", "unknown", "11"] {
            assert_eq!(fit(Strategy::Mariabackup, "10.11.19", version), Fit::Exact, "{version}");
            assert_eq!(fit(Strategy::Mariabackup, version, "10.11.19"), Fit::Exact, "{version}");
        }
    }
}
