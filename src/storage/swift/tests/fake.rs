//! A server that says what a test tells it to: real stores fail too seldom, and not on cue.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// `PUT /v1/a/c/key`.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is said to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// So much of the body is sent, then the connection is closed.
    cut: Option<usize>,
    /// The connection is closed without a word.
    silent: bool,
}

impl Said {
    pub(super) fn status(status: u16) -> Said {
        Said { status, ..Said::default() }
    }

    pub(super) fn nothing() -> Said {
        Said { silent: true, ..Said::default() }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Said {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Said {
        self.body = body.into();
        self
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    pub(super) fn cut(mut self, at: usize) -> Said {
        self.cut = Some(at);
        self
    }
}

/// Answers on a port of its own until it is dropped.
pub(super) struct Fake {
    pub(super) endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(super) fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, end) = (asked.clone(), ended.clone());
        let accept = move || {
            std::thread::scope(|scope| {
                for stream in listener.incoming() {
                    if end.load(Ordering::SeqCst) {
                        return;
                    }
                    let (log, answer) = (&log, &answer);
                    scope.spawn(move || serve(&stream.unwrap(), log, answer));
                }
            });
        };
        let thread = std::thread::Builder::new().name("fake".to_owned()).spawn(accept).unwrap();
        Fake { endpoint, asked, ended, thread: Some(thread) }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests began like this.
    pub(super) fn count(&self, line: &str) -> usize {
        self.asked().iter().filter(|asked| asked.line().starts_with(line)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.endpoint.trim_start_matches("http://")));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One request on a connection: what ends it is the client or a cut.
fn serve(stream: &TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Said) {
    let mut reader = BufReader::new(stream);
    let Some(asked) = read_request(&mut reader, stream) else { return };
    log.lock().unwrap().push(asked.clone());
    let said = answer(&asked);
    if said.silent {
        return;
    }
    let mut head = format!("HTTP/1.1 {} Said\r\nconnection: close\r\n", said.status);
    if !said.headers.iter().any(|(name, _)| name == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", said.body.len()));
    }
    for (name, value) in &said.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = stream;
    let body = if asked.method == "HEAD" { &[][..] } else { &said.body[..said.cut.unwrap_or(said.body.len())] };
    // A client that has gone is not interested.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn read_request(reader: &mut impl BufRead, mut stream: &TcpStream) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines.first()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let split =
        |line: &String| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers: Vec<(String, String)> = lines[1..].iter().filter_map(split).collect();
    let mut asked = Asked { method, path, headers, body: Vec::new() };
    if asked.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body).ok()?;
    Some(asked)
}
