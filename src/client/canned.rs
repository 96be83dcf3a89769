//! A small HTTP server with canned answers, for the tests of the clients.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::client::http::Api;

/// Answers each request line with the answers given for it, in turn; the last one stays.
pub(crate) struct Canned {
    server: Arc<tiny_http::Server>,
    seen: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Canned {
    pub(crate) fn new(answers: &[(&str, u16, &str)]) -> Canned {
        let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let mut table: BTreeMap<String, VecDeque<(u16, String)>> = BTreeMap::new();
        for (line, status, body) in answers {
            table.entry((*line).to_owned()).or_default().push_back((*status, (*body).to_owned()));
        }
        let thread = {
            let (server, seen, bodies) = (server.clone(), seen.clone(), bodies.clone());
            std::thread::Builder::new()
                .name("canned".to_owned())
                .spawn(move || {
                    for mut request in server.incoming_requests() {
                        let line = format!("{} {}", request.method(), request.url());
                        let token = request.headers().iter().find(|header| header.field.equiv("X-Auth-Token"));
                        let token = token.map_or("none", |header| header.value.as_str());
                        seen.lock().unwrap().push(format!("{line} token={token}"));
                        let mut body = String::new();
                        let _ = request.as_reader().read_to_string(&mut body);
                        bodies.lock().unwrap().push(serde_json::from_str(&body).unwrap_or(Value::Null));
                        let (status, body) = match table.get_mut(&line) {
                            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
                            Some(answers) => answers.front().cloned().unwrap(),
                            None => (404, format!(r#"{{"itemNotFound":{{"code":404,"message":"no canned {line}"}}}}"#)),
                        };
                        let _ = request.respond(tiny_http::Response::from_string(body).with_status_code(status));
                    }
                })
                .unwrap()
        };
        Canned { server, seen, bodies, thread: Some(thread) }
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(&self.url(), "secret").unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.server_addr())
    }

    /// Every request so far: method, path and token.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The body of every request so far; null where there was none.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
