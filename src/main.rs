//! Coffer: backups, continuous binlog shipping and in-place recovery for a lone MariaDB or MySQL server.
//!
//! `main` decides nothing: it parses the command line and turns the one error type into an exit code.

mod agent;
mod api;
mod appliance;
mod binlog;
mod block;
mod check;
mod cli;
mod client;
mod clock;
mod config;
mod datastore;
mod domain;
mod durable;
mod error;
#[cfg(test)]
mod fuzz;
mod lock;
mod logging;
mod process;
mod queue;
mod rebuild;
mod recovery;
mod repository;
mod service;
mod storage;
mod store;
#[cfg(test)]
mod testing;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::{Command, Parsed};
use crate::error::{Error, ErrorKind};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match cli::parse(&words) {
        Parsed::Print(text) => {
            show(&text);
            ExitCode::SUCCESS
        }
        Parsed::Wrong(text) => {
            let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
            ExitCode::from(ErrorKind::InvalidInput.exit_code())
        }
        Parsed::Run(command) => match run(*command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(err) => {
                client::complain(&err);
                ExitCode::from(err.kind().exit_code())
            }
        },
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Serve(serve) => run_serve(serve),
        Command::Check(check) => run_check(check),
        Command::Rebuild(wanted) => rebuild::run(&wanted),
        command => client::run(command),
    }
}

fn run_serve(serve: cli::Serve) -> Result<(), Error> {
    if serve.help_config {
        show(&config::help_config());
        return Ok(());
    }
    appliance::run(serve.config)
}

fn show(text: &str) {
    // Whoever asked for help and went away needs none.
    let _ = write!(std::io::stdout().lock(), "{text}");
}

/// Looks at one server, named by its socket and the option file with the login.
fn run_check(check: cli::Check) -> Result<(), Error> {
    check::run(&check)
}
