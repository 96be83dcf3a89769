//! What the operator should know before confirming a plan. Only what is true of this very plan.

use std::fmt;

use crate::domain::id::BackupId;
use crate::recovery::plan::refusal::{TimelineName, utc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Warning {
    /// The target's second holds transactions: all of them come back.
    WholeSecond {
        instant: i64,
        last: String,
        what: String,
    },
    /// The server may have committed more at the target's instant, which is not in the repository.
    InstantStillOpen {
        instant: i64,
    },
    /// Binlog right behind the stop was never shipped.
    GapFollows {
        instant: i64,
    },
    /// The target lies where the parent timeline went on and was given up.
    ParentWentOn {
        timeline: TimelineName,
    },
    /// Two files of that name: the newest was taken.
    NewestFileOfName {
        file: String,
    },
    /// The stop is on a timeline that was given up.
    Abandoned {
        timeline: TimelineName,
    },
    LongReplay {
        hours: i64,
    },
    Xa,
    /// Changes were logged as statements (`binlog_format` STATEMENT or MIXED).
    Statements,
    Skips {
        count: usize,
    },
    /// A newer backup would have been the base, but it is damaged.
    BaseDamaged {
        backup: BackupId,
    },
    PatchLevel {
        base_version: String,
        server_version: String,
    },
    /// The recovery is a step up: what starts on its data must not start on that from before it.
    UndoNeeds {
        server_version: String,
        program_version: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::WholeSecond { instant, last, what } => write!(
                f,
                "commit times are whole seconds: all transactions of {} come back, the last is {last} ({what}); \
                 to cut within the second, name a transaction",
                utc(*instant)
            ),
            Warning::InstantStillOpen { instant } => {
                write!(f, "the server may have committed more at {} than has reached the repository", utc(*instant))
            }
            Warning::GapFollows { instant } => {
                write!(
                    f,
                    "binlog right after the stop was never shipped; it may hold more transactions of {}",
                    utc(*instant)
                )
            }
            Warning::ParentWentOn { timeline } => write!(
                f,
                "at that time {timeline} was current, and its later transactions were given up; \
                 the plan stops where the history of today left it; name that timeline to reach them"
            ),
            Warning::NewestFileOfName { file } => {
                write!(f, "more than one binlog file is named {file}; the newest of them is meant")
            }
            Warning::Abandoned { timeline } => write!(f, "the target is on {timeline}, which was given up earlier"),
            Warning::LongReplay { hours } => write!(
                f,
                "the base backup ends {hours} hours before the target; more frequent backups make recoveries faster"
            ),
            Warning::Xa => f.write_str(
                "XA transactions are among the last ones replayed; look for prepared ones with XA RECOVER afterwards",
            ),
            Warning::Statements => f.write_str(
                "among the transactions replayed are changes that were logged as statements (binlog_format was not ROW); \
                 such a statement may give other rows when it runs again",
            ),
            Warning::Skips { count } => {
                write!(f, "transactions left out: {count}; later ones that build on them may fail to replay")
            }
            Warning::BaseDamaged { backup } => {
                write!(f, "backup {backup} is nearer to the target but damaged, so an older one is the base")
            }
            Warning::PatchLevel { base_version, server_version } => {
                write!(f, "the base was taken from version {base_version}, the server is {server_version}")
            }
            Warning::UndoNeeds { server_version, program_version } => write!(
                f,
                "an undo needs the server program of version {server_version} again: {program_version}, which is \
                 configured, must not be started on the data from before the recovery"
            ),
        }
    }
}
