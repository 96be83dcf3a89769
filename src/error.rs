//! The one error type of the crate.
//!
//! An error says what happened (`message`), what to do about it (`hint`) and what kind it is, for the program.
//! The kind alone decides the exit code of the command line and the status of an HTTP answer, so no caller ever has to
//! read the message. Errors whose facts a caller needs (a refused plan) are enums of their own, see `recovery::plan`.

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure this is, for whoever has to react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    /// The request or the configuration is wrong; repeating it cannot help.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The thing exists but is in a state that forbids the request.
    Conflict,
    /// Something else is being done with the thing; a repeat helps once that has ended.
    Busy,
    /// A precondition outside the request does not hold: a plan that cannot be made, a setting in the way.
    Refused,
    /// No credentials, or wrong ones.
    Unauthorized,
    /// The credentials do not reach this far.
    Forbidden,
    /// Not offered by this datastore or by this version.
    Unsupported,
    /// A repeat may help: a time-out, a server that is down, a store that does not answer.
    Unavailable,
    /// Bytes that are not what they must be.
    Corrupt,
    /// The disk is full or would be.
    NoSpace,
    /// Reading or writing failed.
    Io,
    /// A program that coffer runs failed.
    Tool,
    /// The appliance is shutting down; the task goes on at the next start.
    Interrupted,
    /// A fault of coffer's own.
    Internal,
}

impl ErrorKind {
    /// The exit code of the command line: 1 failed, 2 usage, 3 refused, 4 not reachable.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            ErrorKind::InvalidInput => 2,
            ErrorKind::Conflict
            | ErrorKind::Busy
            | ErrorKind::Refused
            | ErrorKind::Unauthorized
            | ErrorKind::Forbidden => 3,
            ErrorKind::Unavailable => 4,
            ErrorKind::NotFound
            | ErrorKind::Unsupported
            | ErrorKind::Corrupt
            | ErrorKind::NoSpace
            | ErrorKind::Io
            | ErrorKind::Tool
            | ErrorKind::Interrupted
            | ErrorKind::Internal => 1,
        }
    }
}

/// An error with the evidence an operator needs.
#[derive(Debug)]
pub(crate) struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what happened, in lower case and without a full stop.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds the sentence that tells the operator what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the error below this one.
    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Says in front of the message what was being done; kind, hint and source stay.
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Error {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message with the chain of causes behind it, on one line, without the hint.
    pub(crate) fn message(&self) -> String {
        let mut text = self.message.clone();
        let mut below: Option<&(dyn StdError + 'static)> =
            self.source.as_deref().map(|e| e as &(dyn StdError + 'static));
        while let Some(err) = below {
            text.push_str(": ");
            text.push_str(&err.to_string());
            below = err.source();
        }
        text
    }

    /// What the operator can do next, if there is something to say.
    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        match &self.hint {
            Some(hint) => write!(f, ". {hint}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

/// Turns an I/O error into one that names the path and what was being done.
pub(crate) fn io_error(doing: impl fmt::Display, path: &std::path::Path, err: std::io::Error) -> Error {
    let kind = match err.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    let error = Error::new(kind, format!("{doing} `{}`", path.display())).with_source(err);
    match kind {
        ErrorKind::NoSpace => error.hint("Free space on that file system and try again; nothing was replaced."),
        _ => error,
    }
}

/// The error that a reader or writer of ours put into `err`, or one that says what was being done.
pub(crate) fn error_of(err: std::io::Error, doing: &str) -> Error {
    match err.downcast::<Error>() {
        Ok(error) => error,
        Err(err) if matches!(err.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
            Error::new(ErrorKind::NoSpace, doing).with_source(err).hint("Free space on that file system and try again.")
        }
        Err(err) => Error::new(ErrorKind::Io, doing).with_source(err),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_of_ours_survives_the_way_through_io() {
        let err = io::Error::other(Error::new(ErrorKind::Corrupt, "bad part"));
        assert_eq!(error_of(err, "reading").kind(), ErrorKind::Corrupt);
        assert_eq!(error_of(io::Error::from_raw_os_error(5), "reading").kind(), ErrorKind::Io);
        assert_eq!(error_of(io::Error::from_raw_os_error(28), "writing").kind(), ErrorKind::NoSpace);
    }
}
