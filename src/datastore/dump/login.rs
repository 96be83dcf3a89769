//! The option file with which the tools log in. No password stands in an argument.

use std::path::{Path, PathBuf};

use crate::datastore::dump::tools::Program;
use crate::datastore::option_file::OptionGroup;
use crate::datastore::sql::Access;
use crate::durable;
use crate::error::Error;
use crate::process::Cmd;

/// Lies there as long as this value lives. It is the only option file the tools read, so that settings people made for
/// their own dumps change nothing.
#[derive(Debug)]
pub(super) struct OptionFile {
    path: PathBuf,
}

impl OptionFile {
    pub(super) fn write(path: &Path, access: &Access) -> Result<OptionFile, Error> {
        let group = OptionGroup::default().path("socket", &access.socket).set("user", &access.user);
        let group = match &access.password {
            Some(password) => group.set("password", password.reveal()),
            None => group,
        };
        durable::write(path, group.render("client").as_bytes(), 0o600)?;
        Ok(OptionFile { path: path.to_owned() })
    }

    /// Adds what has the program read it; these must be the first arguments.
    pub(super) fn given_to(&self, cmd: Cmd, program: &Program) -> Cmd {
        let cmd = cmd.arg(format!("--defaults-file={}", self.path.display()));
        // A login stored in the home directory would come before ours.
        if program.knows("no-login-paths") { cmd.arg("--no-login-paths") } else { cmd }
    }
}

impl Drop for OptionFile {
    fn drop(&mut self) {
        // It lies in a directory that is thrown away, and only its owner can read it.
        let _ = std::fs::remove_file(&self.path);
    }
}
