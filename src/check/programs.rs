//! Which servers can be looked after on this host: the programs of each installation.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::{Config, Installation};
use crate::datastore::inspect::Problem;
use crate::datastore::version::version_of;
use crate::domain::backup::{OtherEngines, Strategy};
use crate::domain::datastore::Datastore;
use crate::error::{Error, ErrorKind};

/// What an installation lacks and has.
struct Look {
    datastore: Datastore,
    fine: Vec<String>,
    missing: Vec<Problem>,
    /// Its server is here, or something of it was named in the configuration.
    is_meant: bool,
}

/// Adds what is here to `fine` and what stands in the way to `problems`. One datastore is enough; what an instance needs,
/// or the configuration names, must be there.
pub(super) fn check(
    config: &Config,
    needed: &BTreeSet<Datastore>,
    fine: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let looks = [look(Datastore::Mariadb, &config.mariadb), look(Datastore::Mysql, &config.mysql)];
    judge(looks, needed, fine, problems);
}

fn judge(looks: [Look; 2], needed: &BTreeSet<Datastore>, fine: &mut Vec<String>, problems: &mut Vec<Problem>) {
    let is_one_complete = looks.iter().any(|look| look.missing.is_empty());
    let is_one_meant = looks.iter().any(|look| look.is_meant);
    for look in looks {
        fine.extend(look.fine);
        let is_needed = needed.contains(&look.datastore) || look.is_meant;
        if is_needed {
            problems.extend(look.missing);
        } else if is_one_complete && !look.missing.is_empty() {
            fine.push(format!("{} is not installed here and not offered.", look.datastore.title()));
        }
    }
    if !is_one_complete && !is_one_meant && needed.is_empty() {
        problems.push(Problem {
            what: "neither MariaDB nor MySQL is installed here".to_owned(),
            mend: "Install the packages mariadb-server and mariadb-backup, or MySQL's server, or name the programs in \
                   [mariadb] or [mysql] of the configuration."
                .to_owned(),
        });
    }
}

fn look(datastore: Datastore, installation: &Installation) -> Look {
    let (server, client) = match datastore {
        Datastore::Mariadb => ("the package mariadb-server", "the package mariadb-client"),
        Datastore::Mysql => ("MySQL's server", "MySQL's client programs"),
    };
    let mut programs: Vec<(&Path, &str)> = vec![(&installation.server, server)];
    if datastore == Datastore::Mariadb {
        programs.push((&installation.install_db, server));
    }
    match installation.strategy {
        Strategy::Mariabackup => programs.push((&installation.backup, "the package mariadb-backup")),
        Strategy::Dump => programs.extend([(&*installation.dump, client), (&*installation.client, client)]),
        Strategy::Clone if installation.other_engines == OtherEngines::Dump => {
            programs.extend([(&*installation.dump, client), (&*installation.client, client)]);
        }
        // The server does it itself; the other one only restores, and a plan that needs it says so.
        Strategy::Clone | Strategy::Xtrabackup => {}
    }
    let mut look = Look { datastore, fine: Vec::new(), missing: Vec::new(), is_meant: false };
    for (program, package) in programs {
        // mariadb-install-db is a script without a version of its own.
        let found = match program == installation.install_db {
            true if program.is_file() => Ok("found".to_owned()),
            true => Err(Error::new(ErrorKind::NotFound, format!("`{}` was not found", program.display()))),
            false => version_of(datastore, program),
        };
        // What was looked for and not found stands there by its name alone.
        let is_named = program.is_absolute() && !program.is_file();
        look.is_meant |= is_named || (program == installation.server && found.is_ok());
        match found {
            Ok(version) => look.fine.push(format!("{}: {version}.", program.display())),
            Err(err) => look.missing.push(Problem {
                what: err.message(),
                mend: format!("Install {package}, or name the program in [{datastore}] of the configuration."),
            }),
        }
    }
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(mariadb: (usize, bool), mysql: (usize, bool), needed: &[Datastore]) -> (Vec<String>, usize) {
        let look = |datastore: Datastore, (missing, is_meant): (usize, bool)| Look {
            datastore,
            fine: Vec::new(),
            missing: vec![Problem { what: datastore.name().to_owned(), mend: String::new() }; missing],
            is_meant,
        };
        let (mut fine, mut problems) = (Vec::new(), Vec::new());
        let looks = [look(Datastore::Mariadb, mariadb), look(Datastore::Mysql, mysql)];
        judge(looks, &needed.iter().copied().collect(), &mut fine, &mut problems);
        (problems.into_iter().map(|problem| problem.what).collect(), fine.len())
    }

    #[test]
    fn one_datastore_is_enough_unless_an_instance_or_the_configuration_asks_for_the_other() {
        let (complete, absent) = ((0, true), (2, false));
        assert_eq!(judged(complete, complete, &[]), (vec![], 0));
        assert_eq!(judged(complete, absent, &[]), (vec![], 1));
        assert_eq!(judged(absent, complete, &[]), (vec![], 1));
        assert_eq!(judged(absent, complete, &[Datastore::Mariadb]).0, ["mariadb", "mariadb"]);
        assert_eq!(judged(complete, (1, true), &[]).0, ["mysql"], "named, and it cannot be run");
        assert_eq!(judged((1, true), absent, &[]).0, ["mariadb"], "a server without its backup tool");
        assert_eq!(judged(absent, absent, &[]).0, ["neither MariaDB nor MySQL is installed here"]);
        assert_eq!(judged(absent, absent, &[Datastore::Mysql]).0, ["mysql", "mysql"]);
    }
}
