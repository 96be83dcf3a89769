//! The demo's own appliance: a state directory nobody else uses, this very program with `serve`, and its end.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Connection;
use crate::client::http::Api;
use crate::clock::Deadline;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, ProcessHandle, User};
use crate::{cli, durable};

/// Where the demo keeps its state, in the working directory.
const DIR_DEFAULT: &str = "coffer-demo";
/// Where root keeps it when the server's user can't get into the working directory.
const DIR_OF_ROOT: &str = "/var/lib/coffer-demo";
/// Demos left running beside each other.
const DIRS_MAX: u32 = 99;
const PORT_FIRST: u16 = 8779;
const PORTS_MAX: u16 = 100;
const START_SECONDS_MAX: u64 = 60;
const STOP_SECONDS_MAX: u64 = 30;

/// An appliance that serves.
pub(super) struct Appliance {
    pub(super) api: Api,
    pub(super) state_dir: PathBuf,
    process: ProcessHandle,
}

impl Appliance {
    /// Starts one in `state_dir` and waits until it answers.
    pub(super) fn start(state_dir: &Path, wanted: &cli::Demo) -> Result<Appliance, Error> {
        let config = state_dir.join("demo.toml");
        let log = state_dir.join("demo.log");
        let listen = format!("127.0.0.1:{}", free_port()?);
        durable::write(&config, configuration(state_dir, &listen, wanted)?.to_string().as_bytes(), 0o600)?;
        let program = std::env::current_exe()
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to find this program itself").with_source(err))?;
        let process = Cmd::new(program).arg("serve").arg("--config").arg(&config).spawn_detached(&log)?;
        let api = wait_until_serving(state_dir, &process, &log)?;
        Ok(Appliance { api, state_dir: state_dir.to_owned(), process })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the appliance, not the servers it looks after.
    pub(super) fn stop(&self) -> Result<(), Error> {
        self.process.terminate()?;
        if self.process.wait(Duration::from_secs(STOP_SECONDS_MAX)) {
            return Ok(());
        }
        self.process.kill()?;
        Err(Error::new(
            ErrorKind::Internal,
            format!("the appliance did not stop in {STOP_SECONDS_MAX} s; it was killed"),
        ))
    }
}

/// What the demo's appliance is told; credentials stay in the file they are in.
fn configuration(state_dir: &Path, listen: &str, wanted: &cli::Demo) -> Result<toml::Table, Error> {
    let text = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
    let mut http = toml::Table::new();
    http.insert("listen".to_owned(), listen.into());
    let mut repository = toml::Table::new();
    for (key, file) in [("credentials_file", &wanted.credentials), ("ca_file", &wanted.ca_file)] {
        if let Some(file) = file {
            repository.insert(key.to_owned(), text(&absolute(file)?));
        }
    }
    let mut table = wanted.config.as_deref().map(servers_of).transpose()?.unwrap_or_default();
    table.insert("state_dir".to_owned(), text(state_dir));
    if let Some(url) = &wanted.repository {
        table.insert("repository_url".to_owned(), url.as_str().into());
    }
    table.insert("http".to_owned(), http.into());
    table.insert("repository".to_owned(), repository.into());
    Ok(table)
}

/// What a configuration says of servers.
fn servers_of(config: &Path) -> Result<toml::Table, Error> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, format!("`{}` {what}", config.display()));
    let text = fs::read_to_string(config).map_err(|err| io_error("unable to read configuration", config, err))?;
    let whole: toml::Table = text.parse().map_err(|err: toml::de::Error| invalid("is not TOML").with_source(err))?;
    let servers: toml::Table =
        whole.into_iter().filter(|(section, _)| ["mariadb", "mysql"].contains(&&**section)).collect();
    if servers.is_empty() {
        return Err(invalid("says nothing of servers").hint("Name their programs in [mariadb] or [mysql]."));
    }
    Ok(servers)
}

/// An empty directory for the demo: the one named, or the first free one beside the working directory's others.
pub(super) fn make_state_dir(wanted: &cli::Demo) -> Result<PathBuf, Error> {
    if let Some(dir) = &wanted.state_dir {
        make_dir(dir)?;
        if !is_empty(dir)? {
            let path = dir.display();
            return Err(Error::new(ErrorKind::Refused, format!("`{path}` is not empty"))
                .hint("Name an empty or new directory with --state-dir; an earlier demo may still run there."));
        }
        return absolute(dir);
    }
    let first = default_dir()?;
    for number in 1..=DIRS_MAX {
        let dir = if number == 1 { first.clone() } else { PathBuf::from(format!("{}-{number}", first.display())) };
        if dir.exists() && !is_empty(&dir)? {
            continue;
        }
        make_dir(&dir)?;
        return absolute(&dir);
    }
    Err(Error::new(ErrorKind::Refused, format!("there are {DIRS_MAX} demos beside `{}`", first.display()))
        .hint("Remove those that are not needed any more, or name a directory with --state-dir."))
}

/// Below the working directory; but a server that root starts runs as a user of its own, who must get in there.
fn default_dir() -> Result<PathBuf, Error> {
    let here = std::env::current_dir()
        .map_err(|err| Error::new(ErrorKind::Io, "unable to tell the working directory").with_source(err))?;
    let is_open = |dir: &Path| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if User::own().is_root() && !here.ancestors().all(is_open) {
        return Ok(PathBuf::from(DIR_OF_ROOT));
    }
    Ok(here.join(DIR_DEFAULT))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|err| io_error("unable to make directory", dir, err))
}

fn is_empty(dir: &Path) -> Result<bool, Error> {
    let mut entries = fs::read_dir(dir).map_err(|err| io_error("unable to look into directory", dir, err))?;
    Ok(entries.next().is_none())
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|err| io_error("unable to find", path, err))
}

fn free_port() -> Result<u16, Error> {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (PORT_FIRST..PORT_FIRST + PORTS_MAX).find(is_free).ok_or_else(|| {
        let last = PORT_FIRST + PORTS_MAX - 1;
        Error::new(ErrorKind::Refused, format!("every port from {PORT_FIRST} to {last} is in use on 127.0.0.1"))
            .hint("End what listens there and does not need to.")
    })
}

fn wait_until_serving(state_dir: &Path, process: &ProcessHandle, log: &Path) -> Result<Api, Error> {
    let deadline = Deadline::after(Duration::from_secs(START_SECONDS_MAX));
    let connection = Connection { state_dir: Some(state_dir.to_owned()), ..Connection::default() };
    loop {
        if let Ok(api) = Api::find(&connection)
            && api.is_healthy()
        {
            return Ok(api);
        }
        if !process.is_alive() || deadline.has_passed() {
            let said = if process.is_alive() { "does not answer" } else { "ended at once" };
            // It serves nobody; whatever it still holds is given back.
            let _ = process.terminate();
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the appliance {said}; its log ends:\n{}", log_end(log)),
            )
            .hint(format!("The whole log is in {}.", log.display())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn log_end(log: &Path) -> String {
    const LINES: usize = 8;
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|err: io::Error| err.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(LINES)).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{configuration, make_state_dir};
    use crate::cli::Demo;
    use crate::error::ErrorKind;
    use crate::testing::TempDir;

    fn demo(state_dir: std::path::PathBuf) -> Demo {
        Demo {
            once: false,
            state_dir: Some(state_dir),
            rows: 0,
            datastore: None,
            config: None,
            repository: None,
            credentials: None,
            ca_file: None,
        }
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = TempDir::new();
        assert!(make_state_dir(&demo(dir.join("new/er"))).is_ok());
        assert!(make_state_dir(&demo(dir.join("new/er"))).is_ok(), "empty still");
        assert_eq!(make_state_dir(&demo(dir.join("new"))).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn the_store_is_named_in_the_configuration_and_its_credentials_are_not() {
        let dir = TempDir::new();
        let file = dir.join("keys");
        crate::durable::write(&file, b"secret", 0o600).unwrap();
        let repository = Some("s3://bucket/demo?region=garage".to_owned());
        let wanted = Demo { repository, credentials: Some(file.clone()), ..demo(dir.join("state")) };
        let table = configuration(&dir, "127.0.0.1:1", &wanted).unwrap();
        assert_eq!(table["repository_url"].as_str(), Some("s3://bucket/demo?region=garage"));
        let canonical = file.canonicalize().unwrap();
        assert_eq!(table["repository"]["credentials_file"].as_str(), canonical.to_str());
        assert!(!table.to_string().contains("secret"));
        assert!(!table.contains_key("mysql"));
        let own = dir.join("own.toml");
        crate::durable::write(&own, b"workers = 1\n[mysql]\nserver = \"/opt/mysqld\"\n", 0o600).unwrap();
        let table =
            configuration(&dir, "127.0.0.1:1", &Demo { config: Some(own.clone()), ..demo(dir.join("state")) }).unwrap();
        assert_eq!(table["mysql"]["server"].as_str(), Some("/opt/mysqld"));
        assert!(!table.contains_key("workers"), "only what is said of servers");
        crate::durable::write(&own, b"workers = 1\n", 0o600).unwrap();
        assert!(configuration(&dir, "127.0.0.1:1", &Demo { config: Some(own), ..demo(dir.join("state")) }).is_err());
        let missing = Demo { credentials: Some(dir.join("none")), ..wanted };
        assert!(configuration(&dir, "127.0.0.1:1", &missing).unwrap_err().message().contains("none"));
    }
}
