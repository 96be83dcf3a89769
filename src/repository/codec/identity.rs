//! Whom objects are encrypted to, and what opens them again.
//!
//! A recipient is a public key and may stand anywhere. An identity is a secret: it is read when something has to be
//! decrypted, kept in this process only, and never written or shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use age::x25519::{Identity, Recipient};

use crate::clock::Stopwatch;
use crate::error::{Error, ErrorKind, io_error};

/// Each costs 200 bytes an object, and a part may only grow by so much.
const RECIPIENTS_MAX: usize = 64;
/// An identity file holds a line an identity, and comments.
const IDENTITIES_BYTES_MAX: u64 = 1 << 20;
/// A command that failed, or whose identities open nothing, is not asked again before.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Yields what an identity file would hold.
pub(crate) type Ask = Arc<dyn Fn() -> Result<Vec<u8>, Error> + Send + Sync>;

/// Where identities come from.
#[derive(Clone, Default)]
pub(crate) enum IdentitySource {
    /// This host can write only.
    #[default]
    Nowhere,
    /// Need not be there before something must be decrypted.
    File(PathBuf),
    /// Is called only when something must be decrypted.
    Asked(Ask),
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentitySource::Nowhere => f.write_str("Nowhere"),
            IdentitySource::File(path) => f.debug_tuple("File").field(path).finish(),
            IdentitySource::Asked(_) => f.write_str("Asked"),
        }
    }
}

/// The public keys that everything is encrypted to.
pub(super) struct Recipients {
    keys: Vec<Recipient>,
    names: Vec<String>,
}

impl Recipients {
    pub(super) fn parse(names: &[String]) -> Result<Recipients, Error> {
        let mut keys = Vec::new();
        for name in names {
            let key: Recipient = name.trim().parse().map_err(|why| {
                // Somebody who mixes the two up shall not find the secret in a log.
                let shown = if name.to_ascii_uppercase().contains("SECRET") { "a secret identity" } else { name };
                Error::new(ErrorKind::InvalidInput, format!("repository.encrypt_to: `{shown}` is no recipient: {why}"))
                    .hint("A recipient is the public key `age1...` that age-keygen prints; `age-keygen -y FILE` shows it again.")
            })?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        if keys.len() > RECIPIENTS_MAX {
            let what = format!("repository.encrypt_to names {} recipients, more than {RECIPIENTS_MAX}", keys.len());
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("Any one of their identities opens everything."));
        }
        let names = keys.iter().map(ToString::to_string).collect();
        Ok(Recipients { keys, names })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Encrypts one object to all of them; `None` when there are none.
    pub(super) fn encryptor(&self) -> Result<Option<age::Encryptor>, Error> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let keys = self.keys.iter().map(|key| key as &dyn age::Recipient);
        age::Encryptor::with_recipients(keys)
            .map(Some)
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to begin to encrypt").with_source(err))
    }
}

/// The identities of this host.
pub(super) struct Keyring {
    source: IdentitySource,
    /// What the command has answered.
    answered: Mutex<Option<Answered>>,
}

struct Answered {
    at: Stopwatch,
    /// Why there are none, if they could not be had.
    outcome: Result<Identities, Unable>,
}

impl Answered {
    fn is_old(&self) -> bool {
        self.at.elapsed() >= ASK_AGAIN_AFTER
    }
}

type Identities = Arc<[Identity]>;

/// An error that is told more than once.
struct Unable {
    kind: ErrorKind,
    message: String,
    hint: String,
}

impl Keyring {
    /// Looks at a file at once, so that one that cannot be used is told at the start; a command waits until it is needed.
    pub(super) fn open(source: IdentitySource) -> Result<Keyring, Error> {
        let keyring = Keyring { source, answered: Mutex::new(None) };
        if let IdentitySource::File(_) = keyring.source {
            keyring.identities()?;
        }
        Ok(keyring)
    }

    /// All identities there are; `None` when there is no place to get them from, or nothing in it yet.
    pub(super) fn identities(&self) -> Result<Option<Identities>, Error> {
        match &self.source {
            IdentitySource::Nowhere => Ok(None),
            // Read each time: what is put there counts at once, and what is taken away is not kept.
            IdentitySource::File(path) if !path.exists() => Ok(None),
            IdentitySource::File(path) => read(path).map(Some),
            IdentitySource::Asked(ask) => self.asked(ask).map(Some),
        }
    }

    /// Why `identities` has none.
    pub(super) fn absence(&self) -> String {
        match &self.source {
            IdentitySource::File(path) => format!("the identity file `{}` is not there", path.display()),
            IdentitySource::Nowhere | IdentitySource::Asked(_) => "no identity is configured".to_owned(),
        }
    }

    /// The public keys of the identities; none: there are none.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.identities()?.map(|identities| names_of(&identities)).unwrap_or_default())
    }

    pub(super) fn check_opens(&self, recipients: &[String]) -> Result<(), String> {
        let Some(identities) = self.identities().map_err(|err| err.message())? else { return Err(self.absence()) };
        if names_of(&identities).iter().any(|name| recipients.contains(name)) {
            return Ok(());
        }
        Err(self.misfit(&identities))
    }

    /// Why these identities do not open something. Others may be had by now, so they are asked for again, in a while.
    pub(super) fn misfit(&self, identities: &[Identity]) -> String {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.as_ref().is_some_and(Answered::is_old) {
            *answered = None;
        }
        format!("the identity here is that of {}", names_of(identities).join(", "))
    }

    fn asked(&self, ask: &Ask) -> Result<Identities, Error> {
        // Held meanwhile: whoever else needs them waits instead of asking a second time.
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.as_ref().is_none_or(|answered| answered.outcome.is_err() && answered.is_old()) {
            let outcome = ask().and_then(|text| parse(&text, "what repository.identity_command prints"));
            let outcome = outcome.map_err(|err| Unable {
                kind: err.kind(),
                message: err.message(),
                hint: err.hint_text().unwrap_or_default().to_owned(),
            });
            *answered = Some(Answered { at: Stopwatch::start(), outcome });
        }
        match answered.as_ref().map(|answered| &answered.outcome) {
            Some(Ok(identities)) => Ok(Arc::clone(identities)),
            Some(Err(unable)) => Err(Error::new(unable.kind, unable.message.clone()).hint(unable.hint.clone())),
            None => Err(Error::new(ErrorKind::Internal, "nobody was asked for identities")),
        }
    }
}

fn names_of(identities: &[Identity]) -> Vec<String> {
    identities.iter().map(|identity| identity.to_public().to_string()).collect()
}

/// The identities in a file, which must be its owner's secret.
fn read(path: &Path) -> Result<Identities, Error> {
    let failed = |err| io_error("unable to read the identity file", path, err);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        let what = format!("the identity file `{}` may be read by others than its owner", path.display());
        return Err(Error::new(ErrorKind::Refused, what).hint(format!("Run chmod 600 {}.", path.display())));
    }
    let mut text = Vec::new();
    file.take(IDENTITIES_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    parse(&text, &format!("the identity file `{}`", path.display()))
}

/// A line an identity; empty lines and those that begin with `#` say nothing.
fn parse(text: &[u8], what: &str) -> Result<Identities, Error> {
    let unusable = |why: String| {
        Error::new(ErrorKind::InvalidInput, format!("{what} {why}"))
            .hint("It has to be as age-keygen makes it: a line `AGE-SECRET-KEY-1...` for each identity.")
    };
    if text.len() as u64 > IDENTITIES_BYTES_MAX {
        return Err(unusable(format!("is longer than {IDENTITIES_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(text).map_err(|_| unusable("is not text".to_owned()))?;
    let mut identities = Vec::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // What the line says may be a secret with a slip of the pen.
        identities.push(line.parse::<Identity>().map_err(|_| unusable(format!("has no identity in line {number}")))?);
    }
    if identities.is_empty() {
        return Err(unusable("holds no identity".to_owned()));
    }
    Ok(identities.into())
}
