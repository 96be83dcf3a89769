//! The command line: what can be typed, and nothing of what it means.
//!
//! Every subcommand but `serve`, `check` and `rebuild` is an HTTP client of a running appliance. They all take the options that
//! say where it is, so that those may stand behind the subcommand, where people type them.

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};

use crate::domain::datastore::Datastore;

/// Backups, continuous binlog shipping and in-place point-in-time recovery for a lone MariaDB or MySQL server.
#[derive(FromArgs, Debug)]
#[argh(
    note = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused (with the reason and the remedy), 4 not reachable.",
    example = "coffer demo\ncoffer transactions shop --destructive\ncoffer recover shop --before-gtid 0-11-4711 --plan"
)]
pub(crate) struct Arguments {
    #[argh(subcommand)]
    pub(crate) command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    Check(Check),
    Rebuild(Rebuild),
    Demo(Demo),
    Status(Status),
    Instance(Instance),
    Backup(Backup),
    Recover(Recover),
    Recovery(Recovery),
    Transactions(Transactions),
    Timeline(Timeline),
}

/// run the appliance
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "serve")]
pub(crate) struct Serve {
    /// configuration file; without one the defaults hold
    #[argh(option, arg_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// explain every key of the configuration file
    #[argh(switch)]
    pub(crate) help_config: bool,
}

/// tell which settings of a server stand in the way, and the line that mends each
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
pub(crate) struct Check {
    /// the server's socket
    #[argh(option, arg_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// option file with the credentials to connect with
    #[argh(option, arg_name = "FILE")]
    pub(crate) defaults_file: Option<PathBuf>,
    /// configuration file of the appliance; without one the defaults hold
    #[argh(option, arg_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// print the findings as JSON
    #[argh(switch)]
    pub(crate) json: bool,
}

/// rebuild the catalog on a bare host, from the repository alone
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "rebuild")]
#[argh(
    note = "It is told what to do next for each instance. The repository is only read. May be repeated: it goes on where it was, or finds that nothing is missing. Exit code 1: something in the repository is damaged or missing; the rest is rebuilt."
)]
#[argh(example = "coffer rebuild file:///mnt/backups/coffer --config /etc/coffer.toml")]
pub(crate) struct Rebuild {
    /// address of the repository
    #[argh(positional)]
    pub(crate) repository_url: String,
    /// configuration file of the appliance; without one the defaults hold
    #[argh(option, arg_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// print what was rebuilt as JSON
    #[argh(switch)]
    pub(crate) json: bool,
}

/// watch a dropped table come back, on a server made for the purpose
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "demo")]
pub(crate) struct Demo {
    /// stop everything at the end; exit with 0 only if every proof held
    #[argh(switch)]
    pub(crate) once: bool,
    /// directory for the demo's state, which must be empty or absent (default: ./coffer-demo)
    #[argh(option, arg_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// rows to load before the demo begins (default: 220000)
    #[argh(option, arg_name = "N", default = "220_000")]
    pub(crate) rows: u64,
    /// what the server shall be, mariadb or mysql (default: what is installed, mariadb if both are)
    #[argh(option, arg_name = "NAME")]
    pub(crate) datastore: Option<Datastore>,
    /// configuration file that names the servers' programs; of it [mariadb] and [mysql] are taken
    #[argh(option, arg_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// where backups and binlogs go: file://, s3:// or swift:// (default: a folder in the demo's state)
    #[argh(option, arg_name = "URL")]
    pub(crate) repository: Option<String>,
    /// file with the credentials of an object store, readable by its owner only
    #[argh(option, arg_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// certificates in PEM to trust instead of the system's, for an object store
    #[argh(option, arg_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where the appliance is and how to answer; part of every client command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    pub(crate) url: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Defines a client command: its own arguments, and those of `Connection` behind them.
///
/// A type is matched as a word with at most one parameter, since argh looks at the words of a type.
macro_rules! client_command {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ident $(<$inner:ident>)?,)* }) => {
        #[derive(FromArgs, Debug)]
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type $(<$inner>)?,)*
            /// print the API's answer as JSON
            #[argh(switch)]
            json: bool,
            /// address of the appliance (default: what its state directory says)
            #[argh(option, arg_name = "URL")]
            url: Option<String>,
            /// file that holds the token (default: the one in the state directory)
            #[argh(option, arg_name = "FILE")]
            token_file: Option<PathBuf>,
            /// state directory of the appliance (default: ./coffer-data)
            #[argh(option, arg_name = "DIR")]
            state_dir: Option<PathBuf>,
            /// configuration file of the appliance, to find its state directory
            #[argh(option, arg_name = "FILE")]
            config: Option<PathBuf>,
        }

        impl $name {
            pub(crate) fn connection(&self) -> Connection {
                Connection {
                    url: self.url.clone(),
                    token_file: self.token_file.clone(),
                    state_dir: self.state_dir.clone(),
                    config: self.config.clone(),
                    json: self.json,
                }
            }
        }
    };
}

client_command! {
    /// instances, what runs, and what needs you
    #[argh(subcommand, name = "status")]
    struct Status {}
}

/// list, show, create, adopt or delete instances
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "instance")]
pub(crate) struct Instance {
    #[argh(subcommand)]
    pub(crate) action: InstanceAction,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum InstanceAction {
    List(InstanceList),
    Show(InstanceShow),
    Create(InstanceCreate),
    Adopt(InstanceAdopt),
    Delete(InstanceDelete),
}

client_command! {
    /// list the instances
    #[argh(subcommand, name = "list")]
    struct InstanceList {}
}

client_command! {
    /// show an instance
    #[argh(subcommand, name = "show")]
    struct InstanceShow {
        /// name or id
        #[argh(positional)]
        instance: String,
    }
}

client_command! {
    /// make a data directory and run a server on it
    #[argh(subcommand, name = "create")]
    struct InstanceCreate {
        /// name of the new instance
        #[argh(positional)]
        name: String,
        /// TCP port of the server (default: a free one)
        #[argh(option, arg_name = "PORT")]
        port: Option<u16>,
        /// what it shall be, mariadb or mysql (default: what is installed, mariadb if both are)
        #[argh(option, arg_name = "NAME")]
        datastore: Option<String>,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// look after a server that already runs
    #[argh(subcommand, name = "adopt")]
    #[argh(note = "Say how to stop and start it: by --systemd-unit, or by --start and --stop, each given once per word of its command. No shell is involved.")]
    struct InstanceAdopt {
        /// name for the instance
        #[argh(positional)]
        name: String,
        /// the server's socket
        #[argh(option, arg_name = "PATH")]
        socket: PathBuf,
        /// option file with the credentials to connect with
        #[argh(option, arg_name = "FILE")]
        defaults_file: PathBuf,
        /// the systemd unit that runs the server
        #[argh(option, arg_name = "UNIT")]
        systemd_unit: Option<String>,
        /// a word of the command that starts the server
        #[argh(option, arg_name = "WORD")]
        start: Vec<String>,
        /// a word of the command that stops the server
        #[argh(option, arg_name = "WORD")]
        stop: Vec<String>,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// stop looking after an instance; the server and data directory of a created one are removed
    #[argh(subcommand, name = "delete")]
    struct InstanceDelete {
        /// name or id
        #[argh(positional)]
        instance: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

/// list, show, create, verify or delete backups
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "backup")]
pub(crate) struct Backup {
    #[argh(subcommand)]
    pub(crate) action: BackupAction,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum BackupAction {
    List(BackupList),
    Show(BackupShow),
    Create(BackupCreate),
    Verify(BackupVerify),
    Delete(BackupDelete),
}

client_command! {
    /// list the backups, newest first
    #[argh(subcommand, name = "list")]
    struct BackupList {
        /// only those of this instance
        #[argh(positional)]
        instance: Option<String>,
    }
}

client_command! {
    /// show a backup
    #[argh(subcommand, name = "show")]
    struct BackupShow {
        /// id, its first characters, or name
        #[argh(positional)]
        backup: String,
    }
}

client_command! {
    /// back an instance up, while it serves
    #[argh(subcommand, name = "create")]
    struct BackupCreate {
        /// name or id of the instance
        #[argh(positional)]
        instance: String,
        /// name for the backup
        #[argh(option, arg_name = "NAME")]
        name: Option<String>,
        /// words to find it again by
        #[argh(option, arg_name = "TEXT")]
        description: Option<String>,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// read stored objects again, every byte, and say which are not what was stored
    #[argh(subcommand, name = "verify")]
    #[argh(note = "A backup is verified with the binlog that a recovery from it may need. Exits with 1 when anything is bad, and names it and what depends on it. Nobody waits for it: it leaves off while the instance is backed up or recovered.")]
    struct BackupVerify {
        /// id of a backup, its first characters, or name
        #[argh(positional)]
        backup: Option<String>,
        /// instead of one backup everything that this instance has stored
        #[argh(option, arg_name = "NAME")]
        instance: Option<String>,
        /// only a share of the objects: 2/7 is the second of seven
        #[argh(option, arg_name = "N/T")]
        slice: Option<String>,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// delete a backup
    #[argh(subcommand, name = "delete")]
    struct BackupDelete {
        /// id, its first characters, or name
        #[argh(positional)]
        backup: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// bring an instance back, in place, to a point of its past
    #[argh(subcommand, name = "recover")]
    #[argh(note = "Name exactly one point. --backup beside another point is the backup to start from. The server serves until the switch, and what it holds now is kept: `coffer recovery undo` brings it back.")]
    #[argh(example = "coffer recover shop --before-gtid 0-11-4711 --plan\ncoffer recover shop --to 2026-08-01T14:03:06Z")]
    struct Recover {
        /// name or id of the instance
        #[argh(positional)]
        instance: String,
        /// the end of this backup
        #[argh(option, arg_name = "ID")]
        backup: Option<String>,
        /// every transaction committed at or before this time, with its zone: 2026-08-01T14:03:06Z
        #[argh(option, arg_name = "TIME")]
        to: Option<String>,
        /// up to this transaction, which is included
        #[argh(option, arg_name = "GTID")]
        to_gtid: Option<String>,
        /// up to this transaction, which is left out
        #[argh(option, arg_name = "GTID")]
        before_gtid: Option<String>,
        /// up to this place in the binlog: binlog.000012:4711
        #[argh(option, arg_name = "FILE:OFFSET")]
        to_position: Option<String>,
        /// up to the transaction that begins at this place, which is left out
        #[argh(option, arg_name = "FILE:OFFSET")]
        before_position: Option<String>,
        /// everything that was ever committed and can still be read
        #[argh(switch)]
        latest: bool,
        /// leave this transaction out; may be given more than once
        #[argh(option, arg_name = "GTID")]
        skip_gtid: Vec<String>,
        /// the timeline that holds the point (default: the current one and its past)
        #[argh(option, arg_name = "NUMBER")]
        timeline: Option<String>,
        /// only show the plan
        #[argh(switch)]
        plan: bool,
        /// stop before the switch, until `coffer recovery promote` or `abort`
        #[argh(switch)]
        pause: bool,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

/// list, show, promote, abort, undo or release recoveries
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "recovery")]
pub(crate) struct Recovery {
    #[argh(subcommand)]
    pub(crate) action: RecoveryAction,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum RecoveryAction {
    List(RecoveryList),
    Show(RecoveryShow),
    Promote(RecoveryPromote),
    Abort(RecoveryAbort),
    Undo(RecoveryUndo),
    Release(RecoveryRelease),
}

client_command! {
    /// list the recoveries, newest first
    #[argh(subcommand, name = "list")]
    struct RecoveryList {
        /// only those of this instance
        #[argh(positional)]
        instance: Option<String>,
    }
}

client_command! {
    /// show a recovery
    #[argh(subcommand, name = "show")]
    struct RecoveryShow {
        /// id, its first characters, or an instance for its newest recovery
        #[argh(positional)]
        recovery: String,
    }
}

client_command! {
    /// switch a paused recovery in
    #[argh(subcommand, name = "promote")]
    struct RecoveryPromote {
        /// id, its first characters, or an instance for its newest recovery
        #[argh(positional)]
        recovery: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// give a recovery up before the switch; the server is not touched
    #[argh(subcommand, name = "abort")]
    struct RecoveryAbort {
        /// id, its first characters, or an instance for its newest recovery
        #[argh(positional)]
        recovery: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// bring back what the server held before the recovery
    #[argh(subcommand, name = "undo")]
    struct RecoveryUndo {
        /// id, its first characters, or an instance for its newest recovery
        #[argh(positional)]
        recovery: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// free the old data that a recovery keeps; it cannot be undone afterwards
    #[argh(subcommand, name = "release")]
    struct RecoveryRelease {
        /// id, its first characters, or an instance for its newest recovery
        #[argh(positional)]
        recovery: String,
        /// return at once
        #[argh(switch)]
        no_wait: bool,
    }
}

client_command! {
    /// list what was committed, newest first
    #[argh(subcommand, name = "transactions")]
    struct Transactions {
        /// name or id of the instance
        #[argh(positional)]
        instance: String,
        /// committed at or after this time, with its zone
        #[argh(option, arg_name = "TIME")]
        since: Option<String>,
        /// committed at or before this time, with its zone
        #[argh(option, arg_name = "TIME")]
        until: Option<String>,
        /// only those that change this table: `table` or `schema.table`
        #[argh(option, arg_name = "TABLE")]
        table: Option<String>,
        /// only DROP, TRUNCATE and what else removes tables, columns or partitions
        #[argh(switch)]
        destructive: bool,
        /// at most so many (default: 50)
        #[argh(option, arg_name = "N", default = "50")]
        limit: u32,
    }
}

client_command! {
    /// show the histories of an instance and where each left the one before
    #[argh(subcommand, name = "timeline")]
    struct Timeline {
        /// name or id of the instance
        #[argh(positional)]
        instance: String,
    }
}

/// What came of reading the command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    Run(Box<Command>),
    /// Help or version, which was asked for.
    Print(String),
    /// What is wrong with it.
    Wrong(String),
}

/// Reads the words behind the program's name.
pub(crate) fn parse(words: &[String]) -> Parsed {
    if words.iter().any(|word| word == "--version") && words.len() == 1 {
        return Parsed::Print(format!("coffer {}\n", env!("CARGO_PKG_VERSION")));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Arguments::from_args(&["coffer"], &words) {
        Ok(arguments) => Parsed::Run(Box::new(arguments.command)),
        Err(EarlyExit { output, status: Ok(()) }) => Parsed::Print(output),
        Err(EarlyExit { output, status: Err(()) }) => Parsed::Wrong(output),
    }
}

#[cfg(test)]
mod tests;
