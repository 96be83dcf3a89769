//! Versions, as servers and programs state them.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::process::Cmd;

/// The version a program states: `mariadb-backup based on MariaDB server 10.11.19-MariaDB ...` → `10.11.19`.
pub(crate) fn program_version(program: &Path) -> Result<String, Error> {
    let output = Cmd::new(program).arg("--version").deadline(Duration::from_secs(20)).run()?;
    let text = format!("{} {}", String::from_utf8_lossy(&output.stdout), output.stderr_tail);
    text.split(|c: char| c.is_whitespace() || c == ',').find_map(plain_version).ok_or_else(|| {
        Error::new(ErrorKind::Tool, format!("`{} --version` states no version: {}", program.display(), text.trim()))
    })
}

/// `10.11.19` of `10.11.19-MariaDB-0+deb12u1-log`, `9.7.4` of `9.7.4-2`; `None` when the text is no version of a server.
pub(crate) fn plain_version(text: &str) -> Option<String> {
    let version: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (version.split('.').count() == 3 && version.split('.').all(|field| !field.is_empty())).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_without_their_suffix() {
        for (text, version) in [
            ("10.11.19-MariaDB-0+deb12u1-log", Some("10.11.19")),
            ("9.7.4-2", Some("9.7.4")),
            ("8.0.45-0ubuntu0.24.04.1", Some("8.0.45")),
            ("8.4.6-debug", Some("8.4.6")),
            ("based", None),
            ("8.4", None),
        ] {
            assert_eq!(plain_version(text).as_deref(), version, "{text}");
        }
    }
}
