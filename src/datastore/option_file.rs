//! Option files: those coffer writes for servers it runs, and the `[client]` login of one it is given.
//!
//! Source of the syntax: MariaDB documentation, "Configuring MariaDB with Option Files".

use std::path::Path;

use crate::datastore::sql::{Access, Secret};
use crate::error::{Error, ErrorKind, io_error};
use crate::process::User;

/// An option file is small; anything larger is not one.
const OPTION_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// One group of an option file, in the order written.
#[derive(Debug, Default)]
pub(crate) struct OptionGroup {
    lines: Vec<String>,
}

impl OptionGroup {
    /// `name = "value"`, quoted so that spaces and `#` in paths survive.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> OptionGroup {
        self.lines.push(format!("{name} = \"{}\"", escaped(&value.to_string())));
        self
    }

    pub(crate) fn path(self, name: &str, path: &Path) -> OptionGroup {
        self.set(name, path.display())
    }

    /// An option without a value.
    pub(crate) fn flag(mut self, name: &str) -> OptionGroup {
        self.lines.push(name.to_owned());
        self
    }

    pub(crate) fn render(&self, group: &str) -> String {
        format!("[{group}]\n{}\n", self.lines.join("\n"))
    }
}

/// The text of an option file without the lines that may hold a secret. A note in their place says so.
pub(crate) fn without_secrets(text: &str) -> String {
    let kept = text.lines().map(|line| {
        let name =
            line.trim_start().split('=').next().unwrap_or_default().trim().to_ascii_lowercase().replace('-', "_");
        let is_secret = !name.starts_with(['#', ';'])
            && ["password", "passwd", "passphrase", "filekey", "secret", "token"].iter().any(|end| name.ends_with(end));
        if is_secret { "# A line that may hold a secret was left out of the repository here." } else { line }
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The text of a created server's option file for a server with its home elsewhere.
pub(crate) fn relocated(text: &str, from: &Path, to: &Path) -> String {
    text.replace(&escaped(&from.display().to_string()), &escaped(&to.display().to_string()))
}

/// Files that an option file has the server read too.
pub(crate) fn included(text: &str) -> Vec<&str> {
    let words = ["!includedir", "!include"];
    let named = text.lines().map(str::trim).filter_map(|line| words.iter().find_map(|word| line.strip_prefix(word)));
    named.map(str::trim).filter(|path| !path.is_empty()).collect()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Reads how to log in from the `[client]` groups of an option file; `socket` is the server's.
pub(crate) fn read_client_access(file: &Path, socket: &Path) -> Result<Access, Error> {
    let size = std::fs::metadata(file).map_err(|err| io_error("unable to read defaults file", file, err))?.len();
    if size > OPTION_FILE_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` is too large for an option file", file.display()),
        ));
    }
    let text = std::fs::read_to_string(file).map_err(|err| io_error("unable to read defaults file", file, err))?;
    let (user, password) = parse_client_login(&text);
    Ok(Access {
        socket: socket.to_owned(),
        user: user.unwrap_or_else(|| User::own().name),
        password: password.map(Secret::new),
    })
}

/// The user that an option file has clients log in as.
pub(crate) fn client_user(text: &str) -> Option<String> {
    parse_client_login(text).0
}

fn parse_client_login(text: &str) -> (Option<String>, Option<String>) {
    let (mut user, mut password) = (None, None);
    let mut in_client = false;
    for line in text.lines().map(str::trim) {
        if let Some(group) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            in_client = matches!(group.trim(), "client" | "client-server" | "client-mariadb");
        } else if in_client && !line.starts_with(['#', ';', '!']) {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            match name.trim() {
                "user" => user = Some(unquote(value)),
                "password" => password = Some(unquote(value)),
                _ => {}
            }
        }
    }
    (user, password)
}

fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner.replace("\\\"", "\"").replace("\\\\", "\\");
        }
    }
    value.split(" #").next().unwrap_or(value).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_is_read_from_the_client_group_only() {
        let text =
            "[mariadbd]\nuser=mysql\n[client]\n# note\nuser = backup\npassword=\"p#w \\\"x\"\n[other]\nuser=no\n";
        assert_eq!(parse_client_login(text), (Some("backup".into()), Some("p#w \"x".into())));
        assert_eq!(parse_client_login("[client]\nuser=a # who\n"), (Some("a".into()), None));
    }

    #[test]
    fn what_may_be_a_secret_stays_at_home_and_the_rest_moves_along() {
        let text = "[mariadbd]\ndatadir = \"/old/x/data\"\n!include /etc/shop.cnf\n[client]\nuser=a\npassword = x1\n\
                    master-password=x2\nfile_key_management_filekey = x3\n# password=mine\nskip-networking\n";
        let kept = without_secrets(text);
        assert!(!kept.contains("x1") && !kept.contains("x2") && !kept.contains("x3"), "{kept}");
        assert_eq!(kept.lines().count(), text.lines().count());
        assert!(kept.contains("user=a\n") && kept.ends_with("# password=mine\nskip-networking\n"), "{kept}");
        assert_eq!(without_secrets(&kept), kept);
        let moved = relocated(&kept, Path::new("/old/x"), Path::new("/new \"dir\""));
        assert!(moved.contains("datadir = \"/new \\\"dir\\\"/data\"\n"), "{moved}");
        assert_eq!(included(&kept), ["/etc/shop.cnf"]);
    }

    #[test]
    fn values_are_quoted() {
        let text = OptionGroup::default().set("datadir", "/a b/\"c\"").flag("skip-networking").render("mariadbd");
        assert_eq!(text, "[mariadbd]\ndatadir = \"/a b/\\\"c\\\"\"\nskip-networking\n");
    }
}
