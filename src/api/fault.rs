//! Faults as Trove words them: one key that names the fault, with `code` and `message` in it.

use serde_json::json;

use crate::error::{Error, ErrorKind};

/// The HTTP status of an error; its kind alone decides.
pub(super) fn status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::InvalidInput => 400,
        ErrorKind::Unauthorized => 401,
        ErrorKind::Forbidden => 403,
        ErrorKind::NotFound => 404,
        ErrorKind::Conflict | ErrorKind::Refused | ErrorKind::NoSpace => 409,
        ErrorKind::Busy => 422,
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Tool | ErrorKind::Internal => 500,
        ErrorKind::Unsupported => 501,
        ErrorKind::Unavailable | ErrorKind::Interrupted => 503,
    }
}

/// What a client reads: the message, and the hint as a sentence behind it.
pub(super) fn message(error: &Error) -> String {
    error.to_string()
}

/// The fault's JSON.
pub(super) fn body(status: u16, message: &str) -> String {
    json!({ name(status): { "code": status, "message": message } }).to_string()
}

/// Trove's name of a fault.
fn name(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflict",
        413 | 414 | 431 => "overLimit",
        415 => "badMediaType",
        422 => "unprocessableEntity",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        400..=499 => "badRequest",
        _ => "instanceFault",
    }
}

/// The words of the status line.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_worded_as_trove_does_with_the_remedy_in_the_message() {
        let error = Error::new(ErrorKind::Conflict, "backup b1 is not completed").hint("Wait until it is COMPLETED.");
        assert_eq!(
            body(status(error.kind()), &message(&error)),
            r#"{"conflict":{"code":409,"message":"backup b1 is not completed. Wait until it is COMPLETED."}}"#
        );
    }
}
