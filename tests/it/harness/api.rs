//! The HTTP interface as a client sees it.

use std::time::Duration;

use serde_json::Value;

/// Speaks to one appliance.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    pub(crate) url: String,
    pub(crate) token: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Api {
    pub(crate) fn new(url: &str, token: &str) -> Api {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Api { agent: config.into(), url: url.to_owned(), token: token.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.try_get(path).unwrap_or_else(|err| panic!("GET {path}: {err}"))
    }

    pub(crate) fn try_get(&self, path: &str) -> Result<Reply, ureq::Error> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("X-Auth-Token", &self.token);
        read(request.call()?)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string())
    }

    /// A body as it is, JSON or not.
    pub(crate) fn post_text(&self, path: &str, body: &str) -> Reply {
        let request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("X-Auth-Token", &self.token)
            .header("Content-Type", "application/json");
        request.send(body).and_then(read).unwrap_or_else(|err| panic!("POST {path}: {err}"))
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        let request = self.agent.delete(format!("{}{path}", self.url)).header("X-Auth-Token", &self.token);
        request.call().and_then(read).unwrap_or_else(|err| panic!("DELETE {path}: {err}"))
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Reply, ureq::Error> {
    let status = response.status().as_u16();
    Ok(Reply { status, text: response.body_mut().read_to_string()? })
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|err| panic!("not JSON ({err}): {} {}", self.status, self.text))
    }

    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "answer: {}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// The message of an error in Trove's shape: one member, `{"code": N, "message": "..."}` in it.
    #[track_caller]
    pub(crate) fn fault(&self, status: u16) -> String {
        let body = self.expect(status);
        let members = body.as_object().unwrap_or_else(|| panic!("not an object: {}", self.text));
        assert_eq!(members.len(), 1, "an error has one member: {}", self.text);
        let (name, fault) = members.iter().next().unwrap();
        assert_eq!(fault["code"], u64::from(status), "code in {}", self.text);
        let expected = match status {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            409 => "conflict",
            422 => "unprocessableEntity",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => name,
        };
        assert_eq!(name, expected, "name of the error in {}", self.text);
        let message = fault["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty(), "an error says what is wrong: {}", self.text);
        message
    }
}

/// The text of a member, which must be there.
#[track_caller]
pub(crate) fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) => text.clone(),
        other => panic!("`{member}` is {other}, not a text, in {value}"),
    }
}
