//! The credentials of object stores: a TOML file that only its owner may read.
//!
//! Nothing here can be displayed, and no error quotes a value, so a secret cannot get into a log or an answer. The file is
//! read again when a store refuses what it said before: session tokens are rotated while coffer runs.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use toml::{Table, Value};

use crate::error::{Error, ErrorKind, io_error};

const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Text that must not be seen. Its `Debug` shows nothing; `reveal` is for the request that needs it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The `[s3]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct S3Keys {
    pub(super) access_key_id: Secret,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Option<Secret>,
}

/// The `[swift]` section: which keys stand there tells which way of logging in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SwiftLogin {
    /// `user` and `key`, for TempAuth and its like (auth v1).
    V1 { user: Secret, key: Secret },
    /// Keystone v3, method `password`, scoped to a project.
    Password { username: Secret, password: Secret, user_domain: Secret, project: Secret, project_domain: Secret },
    /// Keystone v3, method `application_credential`.
    ApplicationCredential { id: Secret, secret: Secret },
}

/// The keys for S3 in `file`.
pub(super) fn s3(file: Option<&Path>) -> Result<S3Keys, Error> {
    let mut section = Section::read(file, "s3", "access_key_id and secret_access_key")?;
    let keys = S3Keys {
        access_key_id: section.required("access_key_id")?,
        secret_access_key: section.required("secret_access_key")?,
        session_token: section.optional("session_token")?,
    };
    section.end()?;
    Ok(keys)
}

/// The login for Swift in `file`.
pub(super) fn swift(file: Option<&Path>) -> Result<SwiftLogin, Error> {
    const WANTED: &str = "user and key (auth v1), or username, password and project, or application_credential_id and \
                          application_credential_secret (Keystone v3)";
    let mut section = Section::read(file, "swift", WANTED)?;
    let login = if section.has("application_credential_id") || section.has("application_credential_secret") {
        SwiftLogin::ApplicationCredential {
            id: section.required("application_credential_id")?,
            secret: section.required("application_credential_secret")?,
        }
    } else if section.has("username") || section.has("password") {
        let default = || Secret("Default".to_owned());
        SwiftLogin::Password {
            username: section.required("username")?,
            password: section.required("password")?,
            user_domain: section.optional("user_domain")?.unwrap_or_else(default),
            project: section.required("project")?,
            project_domain: section.optional("project_domain")?.unwrap_or_else(default),
        }
    } else {
        SwiftLogin::V1 { user: section.required("user")?, key: section.required("key")? }
    };
    section.end()?;
    Ok(login)
}

/// A section of the file, from which keys are taken until none may be left.
struct Section<'a> {
    path: &'a Path,
    name: &'static str,
    wanted: &'static str,
    table: Table,
}

impl<'a> Section<'a> {
    fn read(file: Option<&'a Path>, name: &'static str, wanted: &'static str) -> Result<Section<'a>, Error> {
        let Some(path) = file else {
            return Err(Error::new(ErrorKind::Unauthorized, "there are no credentials for the repository").hint(
                format!(
                    "Write them to `credentials.toml` in the state directory, with mode 0600: [{name}] with {wanted}."
                ),
            ));
        };
        let text = read_private(path)?;
        let mut sections: Table = text.parse().map_err(|err: toml::de::Error| {
            // The parser's own message would quote the line, and with it the secret.
            let line = err.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            wrong(path, format!("line {line} is not TOML")).hint("Write each as key = \"value\" under [s3] or [swift].")
        })?;
        if let Some(other) = sections.keys().find(|key| !["s3", "swift"].contains(&key.as_str())) {
            return Err(wrong(path, format!("`{}` is not known", other.escape_debug()))
                .hint("It has two sections, [s3] and [swift]."));
        }
        match sections.remove(name) {
            Some(Value::Table(table)) => Ok(Section { path, name, wanted, table }),
            Some(_) => Err(wrong(path, format!("`{name}` is not a section")).hint(format!("Write [{name}]."))),
            None => Err(Error::new(ErrorKind::Unauthorized, format!("`{}` has no section [{name}]", path.display()))
                .hint(format!("Add [{name}] with {wanted}."))),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn required(&mut self, key: &str) -> Result<Secret, Error> {
        let found = self.optional(key)?;
        found.ok_or_else(|| {
            wrong(self.path, format!("[{}] has no `{key}`", self.name)).hint(format!("It takes {}.", self.wanted))
        })
    }

    fn optional(&mut self, key: &str) -> Result<Option<Secret>, Error> {
        match self.table.remove(key) {
            None => Ok(None),
            // A line break in a header or a control character in a key is never meant.
            Some(Value::String(text)) if !text.is_empty() && !text.contains(char::is_control) => Ok(Some(Secret(text))),
            Some(_) => Err(wrong(self.path, format!("`{key}` in [{}] is not one line of text", self.name))
                .hint(format!("Write {key} = \"value\"."))),
        }
    }

    fn end(&self) -> Result<(), Error> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        Err(wrong(self.path, format!("`{}` in [{}] is not known here", key.escape_debug(), self.name))
            .hint(format!("It takes {}.", self.wanted)))
    }
}

fn wrong(path: &Path, what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("in the credentials `{}`, {what}", path.display()))
}

fn read_private(path: &Path) -> Result<String, Error> {
    let failed = |err| io_error("unable to read the credentials", path, err);
    // Opened first and looked at then: the file that is judged is the one that is read. A named pipe must not block.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(i32::from_ne_bytes(flags.to_ne_bytes())).open(path);
    let file = file.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the credentials `{}` are not a file", path.display()),
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        let what = format!(
            "others than its owner can read the credentials `{}` (mode {:04o})",
            path.display(),
            metadata.mode() & 0o7777
        );
        return Err(Error::new(ErrorKind::Refused, what).hint(format!("Run `chmod 600 {}`.", path.display())));
    }
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= FILE_BYTES_MAX) => Ok(text),
        Ok(_) => Err(wrong(path, format!("there are more than {FILE_BYTES_MAX} bytes"))),
        Err(err) if err.kind() == std::io::ErrorKind::InvalidData => Err(wrong(path, "the text is not UTF-8")),
        Err(err) => Err(failed(err)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::testing::TempDir;

    fn file(dir: &TempDir, text: &str, mode: u32) -> PathBuf {
        let path = dir.join("credentials.toml");
        crate::durable::write(&path, text.as_bytes(), mode).unwrap();
        path
    }

    #[test]
    fn each_way_to_log_in_is_read() {
        let dir = TempDir::new();
        let text = "[s3]\naccess_key_id = 'AK'\nsecret_access_key = 'SK'\nsession_token = 'ST'\n\
                    [swift]\nuser = 'test:tester'\nkey = 'testing'\n";
        let path = file(&dir, text, 0o600);
        let keys = s3(Some(&path)).unwrap();
        assert_eq!(keys.secret_access_key.reveal(), "SK");
        assert_eq!(keys.session_token.as_ref().map(Secret::reveal), Some("ST"));
        assert!(!format!("{keys:?}").contains("SK") && !format!("{keys:?}").contains("ST"), "{keys:?}");
        assert_eq!(
            swift(Some(&path)).unwrap(),
            SwiftLogin::V1 { user: Secret::new("test:tester"), key: Secret::new("testing") }
        );
        let path = file(&dir, "[swift]\nusername = 'demo'\npassword = 'p'\nproject = 'demo'\n", 0o600);
        let SwiftLogin::Password { user_domain, .. } = swift(Some(&path)).unwrap() else { panic!() };
        assert_eq!(user_domain.reveal(), "Default");
        let path = file(&dir, "[swift]\napplication_credential_id = 'i'\napplication_credential_secret = 's'\n", 0o400);
        assert!(matches!(swift(Some(&path)).unwrap(), SwiftLogin::ApplicationCredential { .. }));
    }

    #[test]
    fn each_mistake_is_named_and_no_secret_is_quoted() {
        let dir = TempDir::new();
        for (text, named) in [
            ("[s3]\naccess_key_id = 'AK'\n", "no `secret_access_key`"),
            ("[s3]\naccess_key_id = 'AK'\nsecret_access_key = 'hush'\nregion = 'hush'\n", "`region`"),
            ("[s3]\naccess_key_id = 'AK'\nsecret_access_key = ['hush']\n", "`secret_access_key`"),
            ("[s3]\naccess_key_id = 'AK'\nsecret_access_key = ''\n", "`secret_access_key`"),
            ("[s3]\naccess_key_id = \"A\\nK\"\nsecret_access_key = 'hush'\n", "`access_key_id`"),
            ("s3 = 'hush'\n", "`s3`"),
            ("[aws]\nkey = 'hush'\n", "`aws`"),
            ("[swift]\nuser = 'hush'\n", "[s3]"),
            ("\n[s3]\nsecret_access_key = hush\n", "line 3"),
            ("", "[s3]"),
        ] {
            let err = s3(Some(&file(&dir, text, 0o600))).unwrap_err();
            assert!(err.to_string().contains(named), "{text}: {err}");
            assert!(!format!("{err} {err:?}").contains("hush"), "{text}: {err:?}");
        }
        let err = s3(None).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unauthorized);
        assert!(err.to_string().contains("credentials.toml"));
        assert_eq!(s3(Some(&dir.join("none"))).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(s3(Some(&dir)).is_err());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = TempDir::new();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            let err = s3(Some(&file(&dir, "[s3]\n", mode))).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Refused);
            assert!(err.to_string().contains("chmod 600"), "{err}");
        }
    }
}
