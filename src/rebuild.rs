//! `coffer rebuild`: a catalog from the repository alone, on a host that has nothing else.
//!
//! Takes the state directory as `serve` does, has the agent rebuild the catalog in it, and tells for each instance what to
//! do next.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::agent::rebuild::{Host, Rebuilt, RebuiltInstance, newest_backup, rebuild};
use crate::appliance::{repository_settings, tools};
use crate::cli;
use crate::config::Config;
use crate::datastore::Toolbox;
use crate::datastore::version::version_of;
use crate::domain::datastore::Datastore;
use crate::domain::instance::Control;
use crate::error::{Error, ErrorKind, io_error};
use crate::lock::StateLock;
use crate::process::User;
use crate::repository::Repository;
use crate::store::Store;

/// Rebuilds, prints what there is and what to do next; fails when something is damaged or missing.
pub(crate) fn run(wanted: &cli::Rebuild) -> Result<(), Error> {
    let config = Config::load(wanted.config.as_deref())?;
    // First the repository: a wrong address leaves no trace on this host.
    let repository = Repository::open_existing(&wanted.repository_url, &repository_settings(&config))?;
    let _lock = StateLock::acquire(&config.state_dir)?;
    let store = Store::open(&config.state_dir)?;
    take_state(&store, &repository, &config.state_dir)?;
    let tools = tools(&config);
    let host = Host { store: &store, repository: &repository, tools: &tools, state_dir: &config.state_dir };
    let rebuilt = rebuild(&host, &mut |line| note(&line))?;
    let mut lines = summary(&rebuilt, &repository);
    for found in &rebuilt.instances {
        let newest = newest_backup(&store, found.instance.id)?;
        lines.push(String::new());
        lines.extend(next_steps(found, newest, &tools));
    }
    lines.extend(configuration(wanted, &config));
    if wanted.json {
        print(&[format!("{:#}", as_json(&rebuilt, &repository))])?;
    } else {
        print(&lines)?;
    }
    match rebuilt.problems.count {
        0 => Ok(()),
        count => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the repository is not whole ({count} LOST above); the rest is rebuilt and can be used"),
        )
        .hint("What cannot be recovered for their sake stands above. Should another copy of them turn up, put it in its place and run this again.")),
    }
}

/// The state must be empty or come from this very repository by a rebuild.
fn take_state(store: &Store, repository: &Repository, state_dir: &Path) -> Result<(), Error> {
    let refused = |what: &str| {
        Error::new(ErrorKind::Refused, format!("the state directory `{}` {what}", state_dir.display()))
            .hint("Set `state_dir` in the configuration to a new directory; nothing was changed.")
    };
    let id = repository.id().to_string();
    if store.read(|db| db.repository_id())?.is_some_and(|known| known != id) {
        return Err(refused("belongs to another repository"));
    }
    if !store.read(|db| db.is_rebuilt())? && !store.read(|db| db.instances())?.is_empty() {
        return Err(refused("looks after instances already"));
    }
    store.write(|tx| tx.set_repository_id(&id))
}

fn summary(rebuilt: &Rebuilt, repository: &Repository) -> Vec<String> {
    let mut lines = Vec::new();
    for problem in &rebuilt.problems.told {
        lines.push(format!("LOST  {}.", problem.what));
        lines.push(format!("      So {}.", problem.affected));
    }
    let untold = rebuilt.problems.count.saturating_sub(rebuilt.problems.told.len() as u64);
    if untold > 0 {
        lines.push(format!("LOST  {untold} more."));
    }
    lines.push(format!(
        "Rebuilt from {}: {}, {}, {}, {}, {}.",
        repository.url(),
        counted(rebuilt.instances.len() as u64, "instance"),
        counted(rebuilt.timelines, "timeline"),
        counted(rebuilt.chunks, "binlog chunk"),
        counted(rebuilt.backups, "backup"),
        if rebuilt.recoveries == 1 { "1 recovery".to_owned() } else { format!("{} recoveries", rebuilt.recoveries) },
    ));
    if rebuilt.deleted > 0 {
        let were = counted(rebuilt.deleted, "more instance");
        lines.push(format!("Of {were} only the backups are in the catalog: it was deleted."));
    }
    lines
}

/// What an operator does to have an instance back.
fn next_steps(found: &RebuiltInstance, newest: Option<Timestamp>, tools: &Toolbox) -> Vec<String> {
    let instance = &found.instance;
    let (name, server) = (&instance.name, &instance.server);
    let backups = match newest {
        Some(newest) => format!("{}, the newest of {newest:.0}", counted(found.backups, "backup")),
        None => "no backup, so nothing can be brought back".to_owned(),
    };
    let mut lines =
        vec![format!("{name}: {backups}; its server was {} {}.", instance.datastore.title(), instance.version)];
    if found.answers {
        lines.push(
            "  A server answers in its place here: `coffer serve` goes on shipping if it is the same one.".to_owned(),
        );
    }
    let installed = version_of(instance.datastore, &tools.of(instance.datastore).server).ok();
    if installed.as_deref() != Some(instance.version.as_str()) {
        let here = installed.map_or_else(|| "There is none here".to_owned(), |version| format!("Here is {version}"));
        let packages = match instance.datastore {
            Datastore::Mariadb => "mariadb-server and mariadb-backup",
            Datastore::Mysql => "MySQL's server",
        };
        lines.push(format!("  {here}: install {packages} {} first.", instance.version));
    }
    match &server.control {
        Control::Created => {
            let own = User::own().name;
            if let Some(login) = found.login.as_ref().filter(|login| **login != own) {
                lines
                    .push(format!("  Its server lets the user `{login}` in: run coffer as that user, not as `{own}`."));
            }
            if !found.includes.is_empty() {
                lines.push(format!("  Its option file includes {}: put that back first.", found.includes.join(", ")));
            }
            lines.push(format!(
                "  Run `coffer serve`, then `coffer recover {name} --latest`: its data comes to {}.",
                server.data_dir.display()
            ));
        }
        Control::Systemd { .. } | Control::Argv { .. } => {
            let start = match &server.control {
                Control::Systemd { unit } => format!("systemd's unit {unit}"),
                Control::Argv { start, .. } => format!("`{}`", start.join(" ")),
                Control::Created => String::new(),
            };
            lines.push(format!(
                "  Its server is yours: put its option files back, so that {start} starts it with datadir {}, socket {} and \
                 log_bin {}; {} must hold the login in [client] again.",
                server.data_dir.display(),
                server.socket.display(),
                server.binlog_base.display(),
                server.defaults_file.display(),
            ));
            lines.push(format!(
                "  Then run `coffer serve` and `coffer recover {name} --latest`{}.",
                if found.has_data { "; what is in the data directory now is put aside" } else { "" }
            ));
        }
    }
    lines
}

/// What the configuration must say for `serve` to find the same repository.
fn configuration(wanted: &cli::Rebuild, config: &Config) -> Vec<String> {
    if config.repository_url == wanted.repository_url {
        return Vec::new();
    }
    let file = match &wanted.config {
        Some(file) => format!("Write into {}, in place of another repository_url:", file.display()),
        None => "Write into a configuration file, and name it with `coffer serve --config FILE`:".to_owned(),
    };
    let quoted = |text: &str| Value::from(text).to_string();
    let mut lines = vec![String::new(), file];
    if wanted.config.is_none() {
        lines.push(format!("  state_dir = {}", quoted(&config.state_dir.to_string_lossy())));
    }
    lines.push(format!("  repository_url = {}", quoted(&wanted.repository_url)));
    lines
}

fn as_json(rebuilt: &Rebuilt, repository: &Repository) -> Value {
    let instances: Vec<Value> = rebuilt
        .instances
        .iter()
        .map(|found| {
            json!({
                "id": found.instance.id.to_string(),
                "name": found.instance.name,
                "version": found.instance.version,
                "backups": found.backups,
                "data_dir": found.instance.server.data_dir,
                "has_data": found.has_data,
            })
        })
        .collect();
    let problems: Vec<Value> = rebuilt
        .problems
        .told
        .iter()
        .map(|problem| json!({"what": problem.what, "affected": problem.affected}))
        .collect();
    json!({
        "repository": repository.url(),
        "instances": instances,
        "deleted": rebuilt.deleted,
        "timelines": rebuilt.timelines,
        "chunks": rebuilt.chunks,
        "backups": rebuilt.backups,
        "recoveries": rebuilt.recoveries,
        "problem_count": rebuilt.problems.count,
        "problems": problems,
    })
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A line of progress, beside the answer.
fn note(line: &str) {
    // There is nobody to tell when the reader is gone.
    let _ = writeln!(std::io::stderr().lock(), "{}", clean(line));
}

fn print(lines: &[String]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    lines
        .iter()
        .try_for_each(|line| writeln!(out, "{}", clean(line)))
        .map_err(|err| io_error("unable to write to", Path::new("standard output"), err))
}

/// Names come from the repository, and a terminal obeys control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
