//! The way to the appliance: finds its address and token, sends requests, and turns answers into values or errors.
//!
//! Nothing here follows a redirect or uses a proxy: the token goes to the appliance and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, Uri};

use crate::cli::Connection;
use crate::error::{Error, ErrorKind, io_error};

/// The state directory of an appliance that was not told another.
const STATE_DIR_DEFAULT: &str = "./coffer-data";
/// The tenant an appliance serves unless it was told another.
const TENANT_DEFAULT: &str = "appliance";
/// An answer larger than this is not one of ours.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// `plan` reads what is left of the binlog first, which may take a while.
const ANSWER_SECONDS_MAX: u64 = 300;
const CONNECT_SECONDS_MAX: u64 = 5;
/// Pages of a list that are read; far more than anybody has.
const PAGES_MAX: usize = 1000;
/// A token or an address is one short line.
const SMALL_FILE_BYTES_MAX: u64 = 4096;

/// A running appliance.
#[derive(Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    /// `http://127.0.0.1:8779`, without a slash at the end.
    origin: String,
    /// `/v1.0/appliance`.
    prefix: String,
    token: String,
}

impl Api {
    /// The appliance that `connection` names. Nothing is sent yet.
    pub(crate) fn find(connection: &Connection) -> Result<Api, Error> {
        let state_dir = state_dir(connection)?;
        let url = match &connection.url {
            Some(url) => url.clone(),
            None => read_line(&state_dir.join("url")).map_err(|err| not_found(&state_dir, err))?,
        };
        let token_file = connection.token_file.clone().unwrap_or_else(|| state_dir.join("token"));
        let token = read_line(&token_file).map_err(|err| {
            Error::new(ErrorKind::Unauthorized, "no token to show to the appliance")
                .hint("Name the file that holds it with --token-file, or the state directory with --state-dir.")
                .with_source(err)
        })?;
        Api::new(&url, &token)
    }

    /// The appliance at `url`, which may end in `/v1.0/{tenant}`.
    pub(crate) fn new(url: &str, token: &str) -> Result<Api, Error> {
        let bad = |why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("`{url}` is not the address of an appliance: {why}"))
                .hint("Write it as http://127.0.0.1:8779.")
        };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        let scheme = uri.scheme_str().ok_or_else(|| bad("it has no scheme"))?;
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        if scheme != "http" && scheme != "https" {
            return Err(bad("its scheme is neither http nor https"));
        }
        if scheme == "http" && !is_loopback(authority.host()) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{url}` would carry the token over a network in the clear"),
            )
            .hint("Use https, or a tunnel to the appliance's loopback address."));
        }
        let path = uri.path().trim_end_matches('/');
        let prefix = if path.is_empty() { format!("/v1.0/{TENANT_DEFAULT}") } else { path.to_owned() };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(CONNECT_SECONDS_MAX)))
            .timeout_global(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))
            .build()
            .new_agent();
        Ok(Api { agent, origin: format!("{scheme}://{authority}"), prefix, token: token.to_owned() })
    }

    /// Where a browser finds the status page.
    pub(crate) fn page(&self) -> String {
        format!("{}/", self.origin)
    }

    /// Whether the appliance answers at all; needs no token.
    pub(crate) fn is_healthy(&self) -> bool {
        let answer = self.agent.get(format!("{}/healthz", self.origin)).call();
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// What is at `path`, which begins with a slash and stands under the tenant.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Error> {
        let request = self.agent.get(self.address(path)).header("X-Auth-Token", &self.token);
        self.read(request.header("Accept", "application/json").call())
    }

    /// The members of the list `name` at `path`, from all of its pages.
    pub(crate) fn get_all(&self, path: &str, name: &str) -> Result<Value, Error> {
        let mut all: Vec<Value> = Vec::new();
        let mut next = Some(path.to_owned());
        for _ in 0..PAGES_MAX {
            let Some(path) = next.take() else { break };
            let answer = self.get(&path)?;
            all.extend(member(&answer, name)?.as_array().cloned().unwrap_or_default());
            next = next_page(&answer).and_then(|href| href.strip_prefix(&self.prefix)).map(str::to_owned);
        }
        Ok(serde_json::json!({ name: all }))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let request = self.agent.post(self.address(path)).header("X-Auth-Token", &self.token);
        self.read(request.header("Accept", "application/json").send_json(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, Error> {
        let request = self.agent.delete(self.address(path)).header("X-Auth-Token", &self.token);
        self.read(request.header("Accept", "application/json").call())
    }

    fn address(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.prefix)
    }

    fn read(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Error> {
        let mut answer = answer.map_err(|err| self.unreachable(err))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|err| self.unreachable(err))?;
        if !(200..300).contains(&status) {
            return Err(parse_fault(status, &body));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|err| {
            Error::new(ErrorKind::Corrupt, format!("the answer of {} is not JSON", self.origin))
                .hint("Look whether that address belongs to a coffer appliance.")
                .with_source(err)
        })
    }

    fn unreachable(&self, err: ureq::Error) -> Error {
        Error::new(ErrorKind::Unavailable, format!("the appliance at {} does not answer", self.origin))
            .hint("Look whether `coffer serve` runs, or name another address with --url.")
            .with_source(err)
    }
}

/// The member `name` of an answer, or what is wrong with the answer.
pub(crate) fn member<'a>(answer: &'a Value, name: &str) -> Result<&'a Value, Error> {
    answer.get(name).ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the appliance's answer has no `{name}`")))
}

/// The path of the page behind an answer, if there is one.
fn next_page(answer: &Value) -> Option<&str> {
    let links = answer.get("links")?.as_array()?;
    let next = links.iter().find(|link| link.get("rel").and_then(Value::as_str) == Some("next"))?;
    next.get("href")?.as_str()
}

/// Text as it may stand in a query: everything but letters, digits and `-._~` escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The error in an answer of Trove's shape: one member, named after the kind, with code and message.
fn parse_fault(status: u16, body: &[u8]) -> Error {
    let kind = match status {
        400 | 405 | 411 | 413 | 415 => ErrorKind::InvalidInput,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Refused,
        422 => ErrorKind::Conflict,
        501 => ErrorKind::Unsupported,
        502..=504 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|value| {
        let fault = value.as_object().and_then(|members| members.values().next())?;
        fault.get("message").or_else(|| value.get("message")).and_then(Value::as_str)
    });
    let message = message.map(|text| text.trim().trim_end_matches('.').to_owned());
    match message.filter(|text| !text.is_empty()) {
        Some(message) => Error::new(kind, message),
        None => Error::new(kind, format!("the appliance answered with HTTP status {status} and no message")),
    }
}

/// The state directory: named, or what the configuration says, or the default.
fn state_dir(connection: &Connection) -> Result<PathBuf, Error> {
    if let Some(dir) = &connection.state_dir {
        return Ok(dir.clone());
    }
    let Some(path) = &connection.config else {
        return Ok(PathBuf::from(STATE_DIR_DEFAULT));
    };
    let text = fs::read_to_string(path).map_err(|err| io_error("unable to read configuration", path, err))?;
    // Only this key: a client has no say in whether the rest is right.
    let table: toml::Table = text.parse().map_err(|err: toml::de::Error| {
        Error::new(ErrorKind::InvalidInput, format!("configuration `{}` is not TOML", path.display())).with_source(err)
    })?;
    let dir = table.get("state_dir").and_then(toml::Value::as_str).unwrap_or(STATE_DIR_DEFAULT);
    Ok(PathBuf::from(dir))
}

fn read_line(path: &Path) -> Result<String, Error> {
    let size = fs::metadata(path).map_err(|err| io_error("unable to read", path, err))?.len();
    if size > SMALL_FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` holds more than one line", path.display())));
    }
    let text = fs::read_to_string(path).map_err(|err| io_error("unable to read", path, err))?;
    match text.trim() {
        "" => Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is empty", path.display()))),
        line if line.contains(char::is_whitespace) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("`{}` holds more than one line", path.display())))
        }
        line => Ok(line.to_owned()),
    }
}

fn not_found(state_dir: &Path, err: Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("no appliance has `{}` as its state directory", state_dir.display()))
        .hint("Start one with `coffer serve`, or name it with --state-dir, or with --url and --token-file.")
        .with_source(err)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Api, escape, is_loopback, parse_fault};
    use crate::client::canned::Canned;
    use crate::error::ErrorKind;

    #[test]
    fn a_fault_of_troves_shape_keeps_its_message_and_its_kind() {
        for (status, kind, exit_code) in [
            (400, ErrorKind::InvalidInput, 2),
            (401, ErrorKind::Unauthorized, 3),
            (404, ErrorKind::NotFound, 1),
            (409, ErrorKind::Refused, 3),
            (422, ErrorKind::Conflict, 3),
            (501, ErrorKind::Unsupported, 1),
            (503, ErrorKind::Unavailable, 4),
            (500, ErrorKind::Internal, 1),
        ] {
            let err = parse_fault(status, br#"{"conflict":{"code":409,"message":"It is busy. Wait."}}"#);
            assert_eq!((err.kind(), err.kind().exit_code()), (kind, exit_code));
            assert_eq!(err.to_string(), "It is busy. Wait");
        }
        assert!(parse_fault(500, b"<html>").message().contains("500"));
        assert_eq!(parse_fault(400, br#"{"message":"flat"}"#).message(), "flat");
    }

    #[test]
    fn the_token_never_crosses_a_network_in_the_clear() {
        assert!(Api::new("http://127.0.0.1:8779", "t").is_ok());
        assert!(Api::new("http://[::1]:8779", "t").is_ok());
        assert!(Api::new("https://db.example.org", "t").is_ok());
        for url in ["http://db.example.org:8779", "ftp://127.0.0.1", "127.0.0.1:8779", "", "http://"] {
            let err = Api::new(url, "t").err().map(|err| err.kind());
            assert_eq!(err, Some(ErrorKind::InvalidInput), "{url}");
        }
        assert!(!is_loopback("10.0.0.1"));
    }

    #[test]
    fn requests_go_below_the_tenant_with_the_token() {
        let canned = Canned::new(&[("GET /v1.0/appliance/instances", 200, r#"{"instances":[]}"#)]);
        let answer = canned.api().get("/instances").unwrap();
        assert_eq!(answer, serde_json::json!({"instances": []}));
        assert_eq!(canned.seen(), ["GET /v1.0/appliance/instances token=secret"]);
    }

    #[test]
    fn a_list_is_read_page_by_page() {
        let canned = Canned::new(&[
            (
                "GET /v1.0/appliance/backups",
                200,
                r#"{"backups":[1,2],"links":[{"rel":"next","href":"/v1.0/appliance/backups?marker=2"}]}"#,
            ),
            ("GET /v1.0/appliance/backups?marker=2", 200, r#"{"backups":[3]}"#),
        ]);
        let all = canned.api().get_all("/backups", "backups").unwrap();
        assert_eq!(all, serde_json::json!({"backups": [1, 2, 3]}));
    }

    #[test]
    fn a_server_that_is_not_there_is_unavailable_and_says_what_to_do() {
        // Port 9 of loopback: nobody listens there.
        let err = Api::new("http://127.0.0.1:9", "t").unwrap().get("/instances").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(err.to_string().contains("coffer serve"), "{err}");
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(escape("shop.a b&c=d/é"), "shop.a%20b%26c%3Dd%2F%C3%A9");
    }
}
