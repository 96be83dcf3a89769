//! `coffer check`: a command like `serve` and `rebuild` that looks at things itself instead of asking the appliance.
//!
//! Without a server it tells whether configuration, tools, state directory and repository are fit for use; with one it
//! also reads that server's real settings. What stands in the way is named with the line that mends it.

mod programs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::agent::check::inspect;
use crate::appliance::{repository_settings, tools};
use crate::cli;
use crate::config::Config;
use crate::datastore::inspect::Problem;
use crate::domain::instance::{Control, Server};
use crate::error::{Error, ErrorKind, io_error};
use crate::repository::codec::Codec;
use crate::repository::{Repository, other_repository};
use crate::storage::{self, probe};
use crate::store::Store;

/// Prints what was found; `Refused` when something stands in the way.
pub(crate) fn run(check: &cli::Check) -> Result<(), Error> {
    let config = Config::load(check.config.as_deref())?;
    let mut fine = Vec::new();
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    check_host(&config, &mut fine, &mut problems);
    match (&check.socket, &check.defaults_file) {
        (Some(socket), Some(defaults_file)) => {
            let report = inspect(&tools(&config), &candidate(socket, defaults_file)?)?;
            fine.push(format!(
                "The server on {} answers: {} {}, data in {}.",
                socket.display(),
                report.datastore.title(),
                report.version,
                report.server.data_dir.display()
            ));
            problems.extend(report.problems);
            warnings = report.warnings;
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::new(ErrorKind::InvalidInput, "a server is named by both --socket and --defaults-file")
                .hint("The option file's [client] section holds user and password."));
        }
    }
    print(check.json, &fine, &warnings, &problems)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("{} things stand in the way", problems.len()))
        .hint("Mend them in the order above and check again; nothing was changed."))
}

fn candidate(socket: &Path, defaults_file: &Path) -> Result<Server, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|err| io_error("unable to find", path, err));
    Ok(Server {
        // Only how it would be started is not known, and not needed to look at it.
        control: Control::Argv { start: Vec::new(), stop: Vec::new() },
        socket: absolute(socket)?,
        data_dir: PathBuf::new(),
        binlog_base: PathBuf::new(),
        work_dir: PathBuf::new(),
        defaults_file: absolute(defaults_file)?,
        port: 0,
    })
}

fn check_host(config: &Config, fine: &mut Vec<String>, problems: &mut Vec<Problem>) {
    match Store::peek_datastores(&config.state_dir) {
        Ok(needed) => programs::check(config, &needed, fine, problems),
        Err(err) => problems.push(problem_of(&err)),
    }
    check_encryption(config, fine, problems);
    check_repository(config, fine, problems);
}

/// Looks into the repository and tries what it needs of its store. A folder that is not there is not made by a check.
fn check_repository(config: &Config, fine: &mut Vec<String>, problems: &mut Vec<Problem>) {
    let (url, settings) = (&config.repository_url, repository_settings(config));
    let store = match storage::open_existing(url, &settings.access) {
        Ok(store) => store,
        Err(err) if err.kind() == ErrorKind::Unavailable && url.starts_with("file:") => {
            fine.push(format!("The repository {url} is made at the first start."));
            return;
        }
        Err(err) => return problems.push(problem_of(&err)),
    };
    let looked = Repository::look(Arc::clone(&store), &settings).and_then(|found| {
        let id = Store::peek_repository_id(&config.state_dir)?;
        match (&found, id) {
            (Some(repository), Some(id)) if repository.id().to_string() != id => {
                Err(other_repository(&repository.url()))
            }
            (None, Some(_)) => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "`{}` is empty, but the state in `{}` belongs to a repository",
                    store.url(),
                    config.state_dir.display()
                ),
            )
            .hint("Set repository_url to the former one, or begin with a new state_dir.")),
            _ => Ok(found),
        }
    });
    match looked {
        Ok(Some(repository)) => fine.push(format!("The repository {} can be read.", repository.url())),
        Ok(None) => {
            fine.push(format!("There is no repository in {} yet; it is begun at the first start.", store.url()))
        }
        Err(err) => problems.push(problem_of(&err)),
    }
    let findings = probe::probe(store.as_ref());
    fine.extend(findings.fine);
    problems.extend(findings.faults.iter().map(problem_of));
}

fn problem_of(err: &Error) -> Problem {
    Problem { what: err.message(), mend: err.hint_text().unwrap_or("Set repository_url.").to_owned() }
}

/// Whether what is stored is encrypted, and whether it can be read again on this host.
fn check_encryption(config: &Config, fine: &mut Vec<String>, problems: &mut Vec<Problem>) {
    let found = Codec::new(&repository_settings(config)).and_then(|codec| Ok((codec.identities()?, codec)));
    let (identities, codec) = match found {
        Ok(found) => found,
        Err(err) => return problems.push(problem_of(&err)),
    };
    let recipients = codec.recipients();
    fine.push(match recipients.len() {
        0 => "What is stored from now on is not encrypted (repository.encrypt_to is empty).".to_owned(),
        count => format!("What is stored from now on is encrypted to {count} recipients."),
    });
    if identities.is_empty() {
        if !recipients.is_empty() {
            let what = "No identity is on this host: it backs up and ships, and cannot recover without \
                        repository.identity_file.";
            fine.push(what.to_owned());
        }
    } else if recipients.is_empty() || identities.iter().any(|identity| recipients.contains(identity)) {
        fine.push(format!("The identity of {} is on this host.", identities.join(", ")));
    } else {
        problems.push(Problem {
            what: format!(
                "the identity on this host is that of {} and opens nothing that is stored from now on",
                identities.join(", ")
            ),
            mend: "Add its public key to repository.encrypt_to, or the identity of a recipient to identity_file."
                .to_owned(),
        });
    }
}

fn print(as_json: bool, fine: &[String], warnings: &[String], problems: &[Problem]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let written = if as_json {
        let problems: Vec<_> = problems.iter().map(|p| json!({"what": p.what, "mend": p.mend})).collect();
        writeln!(out, "{:#}", json!({"fine": fine, "warnings": warnings, "problems": problems}))
    } else {
        fine.iter()
            .try_for_each(|line| writeln!(out, "ok    {line}"))
            .and_then(|()| warnings.iter().try_for_each(|line| writeln!(out, "NOTE  {line}.")))
            .and_then(|()| problems.iter().try_for_each(|p| writeln!(out, "MEND  {}.\n      {}", p.what, p.mend)))
    };
    written.map_err(|err| io_error("unable to write to", Path::new("standard output"), err))
}
