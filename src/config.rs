//! The configuration: one TOML file, read and checked once, at the start.
//!
//! `RawConfig` is what may be typed, `Config` what it means: paths absolute, defaults filled in, nothing left to check.
//! A key that is not known refuses to start, since a setting that is silently ignored is worse than none. Defaults serve
//! with no file at all. The keys are documented in one table (`config::help`), which a test compares with the struct.

mod help;
mod installation;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use help::help_config;

pub(crate) use self::installation::Installation;
use self::installation::{RawMariadb, RawMysql};
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, io_error};

const FILE_BYTES_MAX: u64 = 1 << 20;
const STATE_DIR_DEFAULT: &str = "./coffer-data";
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8779);
const TENANT_DEFAULT: &str = "appliance";
const CREDENTIALS_FILE: &str = "credentials.toml";
const BANDWIDTH: RangeInclusive<u64> = 64 << 10..=1 << 40;
const VERIFY_HOURS_DEFAULT: u64 = 24;
const VERIFY_HOURS: RangeInclusive<u64> = 0..=24 * 366;
const VERIFY_SLICES_DEFAULT: u64 = 7;
const VERIFY_SLICES: RangeInclusive<u64> = 1..=1000;
const TRANSFERS_DEFAULT: u64 = 4;
const TRANSFERS: RangeInclusive<u64> = 1..=16;
const WORKERS_DEFAULT: u64 = 2;
const WORKERS: RangeInclusive<u64> = 1..=32;
const BUFFER_POOL_BYTES_DEFAULT: u64 = 128 << 20;
const REPLAY_BUFFER_POOL_BYTES_DEFAULT: u64 = 256 << 20;
const BUFFER_POOL_BYTES: RangeInclusive<u64> = 8 << 20..=1 << 40;
const UNDO_WINDOW_HOURS_DEFAULT: u64 = 72;
const UNDO_WINDOW_HOURS: RangeInclusive<u64> = 1..=24 * 366;
const POLL_MILLISECONDS_DEFAULT: u64 = 100;
const POLL_MILLISECONDS: RangeInclusive<u64> = 10..=10_000;
const CHUNK_BYTES_DEFAULT: u64 = 16 << 20;
const CHUNK_BYTES: RangeInclusive<u64> = 64 << 10..=256 << 20;

/// The file as typed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    state_dir: Option<PathBuf>,
    repository_url: Option<String>,
    workers: Option<u64>,
    repository: RawRepository,
    http: RawHttp,
    mariadb: RawMariadb,
    mysql: RawMysql,
    recovery: RawRecovery,
    shipping: RawShipping,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawRepository {
    credentials_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    bandwidth_bytes_per_second: Option<u64>,
    verify_hours: Option<u64>,
    verify_slices: Option<u64>,
    compression: Option<String>,
    encrypt_to: Vec<String>,
    identity_file: Option<PathBuf>,
    identity_command: Vec<String>,
    transfers: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    listen: Option<String>,
    tenant: Option<String>,
    hosts: Vec<String>,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawRecovery {
    undo_window_hours: Option<u64>,
    replay_buffer_pool_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawShipping {
    poll_milliseconds: Option<u64>,
    chunk_bytes_max: Option<u64>,
}

/// What the configuration means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Absolute; need not exist yet.
    pub(crate) state_dir: PathBuf,
    pub(crate) repository_url: String,
    /// Tasks that run at the same time.
    pub(crate) workers: usize,
    pub(crate) repository: Repository,
    pub(crate) http: Http,
    pub(crate) mariadb: Installation,
    pub(crate) mysql: Installation,
    pub(crate) recovery: Recovery,
    pub(crate) shipping: Shipping,
}

/// How the repository is reached and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// Default: `credentials.toml` in the state directory, if it is there.
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) bandwidth: Option<u64>,
    /// Absent: only when somebody asks.
    pub(crate) verification: Option<Verification>,
    pub(crate) compression: Compression,
    /// Public keys, as typed.
    pub(crate) encrypt_to: Vec<String>,
    pub(crate) identity: Identity,
    /// Objects that one backup or one restore has on their way at a time.
    pub(crate) transfers: usize,
}

/// How often stored objects are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verification {
    pub(crate) every: Duration,
    /// Each time one of so many slices is read.
    pub(crate) slices: u32,
}

/// Where the secret is that opens what is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Nowhere,
    File(PathBuf),
    /// Prints it; program and arguments.
    Command(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http {
    pub(crate) listen: SocketAddr,
    /// The project in the paths of the API.
    pub(crate) tenant: String,
    /// Host names a request may carry besides those of the loopback.
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: Option<Tls>,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// How long the data from before a recovery is kept.
    pub(crate) undo_window: Duration,
    pub(crate) replay_buffer_pool_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shipping {
    pub(crate) poll: Duration,
    pub(crate) chunk_bytes_max: u64,
}

impl Config {
    /// Reads the file, or takes the defaults if none is named.
    pub(crate) fn load(file: Option<&Path>) -> Result<Config, Error> {
        let Some(path) = file else { return Config::parse("", Path::new("the defaults")) };
        let bytes = (|| {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path)?;
            std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX + 1), &mut bytes)?;
            Ok(bytes)
        })()
        .map_err(|err| io_error("unable to read the configuration", path, err))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            let message = format!("`{}` is longer than {FILE_BYTES_MAX} bytes", path.display());
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("Name the configuration file with --config."));
        }
        let text = String::from_utf8(bytes).map_err(|err| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` is not UTF-8 text", path.display())).with_source(err)
        })?;
        Config::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let source = Source { text, path };
        let raw: RawConfig = toml::from_str(text).map_err(|err| source.unreadable(&err))?;
        let state_dir = source.absolute("", "state_dir", raw.state_dir.unwrap_or_else(|| STATE_DIR_DEFAULT.into()))?;
        let repository_url = match raw.repository_url {
            Some(url) if url.contains("://") => url,
            Some(url) => {
                return Err(source
                    .wrong("", "repository_url", format!("`{url}` is not a URL"))
                    .hint("Write file:///directory for a folder, or s3://bucket/prefix or swift://container/prefix."));
            }
            None => format!("file://{}/repository", state_dir.display()),
        };
        let workers = source.number("", "workers", raw.workers, WORKERS_DEFAULT, WORKERS)?;
        Ok(Config {
            repository: repository(&source, raw.repository, &state_dir)?,
            http: http(&source, raw.http)?,
            mariadb: installation::mariadb(&source, raw.mariadb)?,
            mysql: installation::mysql(&source, raw.mysql)?,
            recovery: recovery(&source, &raw.recovery)?,
            shipping: shipping(&source, &raw.shipping)?,
            workers: usize::try_from(workers).unwrap_or(1),
            repository_url,
            state_dir,
        })
    }
}

fn repository(source: &Source<'_>, raw: RawRepository, state_dir: &Path) -> Result<Repository, Error> {
    const SECTION: &str = "repository";
    let credentials_file = match raw.credentials_file {
        Some(path) => Some(source.absolute(SECTION, "credentials_file", path)?),
        None => Some(state_dir.join(CREDENTIALS_FILE)).filter(|path| path.exists()),
    };
    let ca_file = raw.ca_file.map(|path| source.absolute(SECTION, "ca_file", path)).transpose()?;
    let bandwidth = raw.bandwidth_bytes_per_second;
    let bandwidth = bandwidth
        .map(|bytes| source.number(SECTION, "bandwidth_bytes_per_second", Some(bytes), bytes, BANDWIDTH))
        .transpose()?;
    let hours = source.number(SECTION, "verify_hours", raw.verify_hours, VERIFY_HOURS_DEFAULT, VERIFY_HOURS)?;
    let slices = source.number(SECTION, "verify_slices", raw.verify_slices, VERIFY_SLICES_DEFAULT, VERIFY_SLICES)?;
    let verification = (hours > 0)
        .then(|| Verification { every: Duration::from_secs(hours * 3600), slices: u32::try_from(slices).unwrap_or(1) });
    let transfers = source.number(SECTION, "transfers", raw.transfers, TRANSFERS_DEFAULT, TRANSFERS)?;
    let compression = match raw.compression.as_deref() {
        None => Compression::default(),
        Some(name) => Compression::named(name).ok_or_else(|| {
            source.wrong(SECTION, "compression", format!("`{name}` is not known")).hint("Write zstd or gzip.")
        })?,
    };
    let identity = match (raw.identity_file, raw.identity_command) {
        (None, command) if command.is_empty() => Identity::Nowhere,
        (None, command) => Identity::Command(command),
        (Some(path), command) if command.is_empty() => {
            Identity::File(source.absolute(SECTION, "identity_file", path)?)
        }
        (Some(_), _) => {
            let what = "is given together with identity_file";
            return Err(source.wrong(SECTION, "identity_command", what).hint("Leave one of the two out."));
        }
    };
    let encrypt_to = raw.encrypt_to;
    Ok(Repository {
        credentials_file,
        ca_file,
        bandwidth,
        compression,
        encrypt_to,
        identity,
        verification,
        transfers: usize::try_from(transfers).unwrap_or(1),
    })
}

fn http(source: &Source<'_>, raw: RawHttp) -> Result<Http, Error> {
    const SECTION: &str = "http";
    let listen = match raw.listen.as_deref() {
        None => LISTEN_DEFAULT,
        Some(text) => text.replace("localhost:", "127.0.0.1:").parse().map_err(|_| {
            source
                .wrong(SECTION, "listen", format!("`{text}` is not an address and a port"))
                .hint("Write for example 127.0.0.1:8779 or [::1]:8779.")
        })?,
    };
    let tls = match (raw.tls_certificate, raw.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: source.absolute(SECTION, "tls_certificate", certificate)?,
            key: source.absolute(SECTION, "tls_key", key)?,
        }),
        (None, None) => None,
        (Some(_), None) => return Err(source.wrong(SECTION, "tls_certificate", "is given without tls_key")),
        (None, Some(_)) => return Err(source.wrong(SECTION, "tls_key", "is given without tls_certificate")),
    };
    if !listen.ip().is_loopback() && tls.is_none() {
        // A token that crosses a network in the clear is everybody's.
        return Err(source
            .wrong(SECTION, "listen", format!("{listen} can be reached from other hosts, and there is no TLS"))
            .hint("Set http.tls_certificate and http.tls_key, or listen on 127.0.0.1."));
    }
    let tenant = raw.tenant.unwrap_or_else(|| TENANT_DEFAULT.to_owned());
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if tenant.is_empty() || tenant.len() > 64 || !tenant.bytes().all(is_plain) {
        return Err(source.wrong(SECTION, "tenant", format!("`{tenant}` is not 1 to 64 letters, digits, - _ .")));
    }
    if let Some(host) =
        raw.hosts.iter().find(|host| host.is_empty() || !host.bytes().all(|c| is_plain(c) || b"[]:".contains(&c)))
    {
        return Err(source.wrong(SECTION, "hosts", format!("`{host}` is not a host name")));
    }
    Ok(Http { listen, tenant, hosts: raw.hosts, tls })
}

fn recovery(source: &Source<'_>, raw: &RawRecovery) -> Result<Recovery, Error> {
    const SECTION: &str = "recovery";
    let hours = source.number(
        SECTION,
        "undo_window_hours",
        raw.undo_window_hours,
        UNDO_WINDOW_HOURS_DEFAULT,
        UNDO_WINDOW_HOURS,
    )?;
    let replay_buffer_pool_bytes = source.number(
        SECTION,
        "replay_buffer_pool_bytes",
        raw.replay_buffer_pool_bytes,
        REPLAY_BUFFER_POOL_BYTES_DEFAULT,
        BUFFER_POOL_BYTES,
    )?;
    Ok(Recovery { undo_window: Duration::from_secs(hours * 3600), replay_buffer_pool_bytes })
}

fn shipping(source: &Source<'_>, raw: &RawShipping) -> Result<Shipping, Error> {
    const SECTION: &str = "shipping";
    let milliseconds = source.number(
        SECTION,
        "poll_milliseconds",
        raw.poll_milliseconds,
        POLL_MILLISECONDS_DEFAULT,
        POLL_MILLISECONDS,
    )?;
    let chunk_bytes_max =
        source.number(SECTION, "chunk_bytes_max", raw.chunk_bytes_max, CHUNK_BYTES_DEFAULT, CHUNK_BYTES)?;
    Ok(Shipping { poll: Duration::from_millis(milliseconds), chunk_bytes_max })
}

/// The program's path, looked up as a shell would, and where servers are kept that a shell does not look.
fn find_program(name: &str, path: &std::ffi::OsStr) -> PathBuf {
    std::env::split_paths(path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/usr/bin".into()])
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| name.into())
}

/// The file, for errors that name the line and the key.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    fn absolute(&self, section: &str, key: &str, path: PathBuf) -> Result<PathBuf, Error> {
        // Collecting the components again takes the `.` of `./coffer-data` out.
        std::path::absolute(&path)
            .map(|path| path.components().collect())
            .map_err(|err| self.wrong(section, key, format!("`{}` is not a path", path.display())).with_source(err))
    }

    fn number(
        &self,
        section: &str,
        key: &str,
        given: Option<u64>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        let number = given.unwrap_or(default);
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.wrong(section, key, format!("{number} is not within {} to {}", range.start(), range.end())))
    }

    /// A value that can be read and can't be meant.
    fn wrong(&self, section: &str, key: &str, what: impl std::fmt::Display) -> Error {
        let name = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let line = self.line_of(section, key).map(|line| format!(" line {line}")).unwrap_or_default();
        Error::new(ErrorKind::InvalidInput, format!("`{}`{line}: {name}: {what}", self.path.display()))
    }

    /// What the TOML reader found.
    fn unreadable(&self, err: &toml::de::Error) -> Error {
        let before = err.span().and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let key = self.text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map(|(key, _)| key.trim());
        let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
        let what = err.message().trim_end().replace('\n', ", ");
        let message = format!("`{}` line {line}: {key}{what}", self.path.display());
        Error::new(ErrorKind::InvalidInput, message).hint("See `coffer serve --help-config` for every key.")
    }

    /// The line, from 1, on which a key is set.
    fn line_of(&self, section: &str, key: &str) -> Option<usize> {
        let mut current = "";
        for (index, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                current = header.split(']').next().unwrap_or_default().trim();
            } else if let Some((name, _)) = line.split_once('=') {
                let name = name.trim();
                let here = current == section && name == key;
                let dotted = current.is_empty() && name.split_once('.') == Some((section, key));
                if here || dotted {
                    return Some(index + 1);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
