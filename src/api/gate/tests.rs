//! The gate on real sockets, before a real tiny_http that counts and echoes what reaches it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::api::gate::{Gate, GateSettings, Limits, TlsFiles, Upstream};
use crate::clock::Stopwatch;
use crate::error::ErrorKind;
use crate::testing::TempDir;

/// Long enough for two busy cores, short enough for a test.
const SHORT: Duration = Duration::from_millis(300);
/// More than socket buffers hold.
const BIG: usize = 32 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

struct Echo {
    socket: PathBuf,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Upstream for Echo {
    fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    gate: Gate,
    echo: Arc<Echo>,
    server: Option<(Arc<tiny_http::Server>, JoinHandle<()>)>,
    _dir: TempDir,
}

fn limits() -> Limits {
    Limits { head_within: PATIENCE, body_within: PATIENCE, write_within: PATIENCE, ..Limits::default() }
}

fn start(limits: Limits, tls: Option<TlsFiles>) -> Bench {
    let dir = TempDir::new();
    let echo = Arc::new(Echo { socket: dir.join("s"), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) });
    let server = Arc::new(tiny_http::Server::http_unix(&echo.socket).unwrap());
    let thread = std::thread::Builder::new()
        .spawn({
            let (server, echo) = (server.clone(), echo.clone());
            move || {
                while let Ok(mut request) = server.recv() {
                    echo.answered.fetch_add(1, Ordering::SeqCst);
                    let mut body = String::new();
                    request.as_reader().read_to_string(&mut body).unwrap();
                    let text = match request.url() {
                        "/big" => "b".repeat(BIG),
                        "/hang" => {
                            // Never answered: it is dropped when the test ends.
                            std::mem::forget(request);
                            continue;
                        }
                        url => format!("{} {url} [{body}]", request.method()),
                    };
                    let _ = request.respond(tiny_http::Response::from_string(text).with_chunked_threshold(usize::MAX));
                }
            }
        })
        .unwrap();
    let settings = GateSettings { listen: (Ipv4Addr::LOCALHOST, 0).into(), hosts: Vec::new(), tls, limits };
    let gate = Gate::start(settings, echo.clone()).unwrap();
    Bench { gate, echo, server: Some((server, thread)), _dir: dir }
}

impl Bench {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.gate.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends `bytes` and returns all that comes back.
    fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        // The gate may close before it has read everything.
        let _ = stream.write_all(bytes.as_ref());
        read_all(&mut stream)
    }

    fn request(&self, line: &str, rest: &str) -> String {
        self.send(self.text(line, rest))
    }

    fn text(&self, line: &str, rest: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {}\r\n{rest}", self.gate.address())
    }

    fn end_echo(&mut self) {
        if let Some((server, thread)) = self.server.take() {
            server.unblock();
            thread.join().unwrap();
        }
    }

    fn stop(mut self) -> usize {
        self.end_echo();
        self.gate.stop();
        self.echo.answered.load(Ordering::SeqCst)
    }
}

fn read_all(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn a_request_and_its_answer_pass_and_the_connection_ends() {
    let bench = start(limits(), None);
    let answer = bench.request("POST /a?b=c", "Content-Length: 5\r\n\r\nhello");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("\r\nConnection: close\r\n") && answer.ends_with("\r\n\r\nPOST /a?b=c [hello]"),
        "{answer}"
    );
    assert!(!answer.contains("tiny-http"), "{answer}");
    let answer = bench.request("HEAD /a", "\r\n");
    assert!(answer.contains("Content-Length: 10\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = bench.request("GET /big", "\r\n");
    assert_eq!(answer.split_once("\r\n\r\n").map(|(_, body)| body.len()), Some(BIG));
    assert_eq!(bench.stop(), 3);
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let bench = start(limits(), None);
    let mut stream = bench.connect();
    stream.write_all(bench.text("POST /a", "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    assert!(read_all(&mut stream).ends_with("POST /a [hello]"));
    assert_eq!(bench.stop(), 1);
}

#[test]
fn nothing_smuggled_behind_or_into_a_request_reaches_the_api() {
    let bench = start(limits(), None);
    let inner = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = [
        format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("Content-Length: 0, {}\r\n\r\n{inner}", inner.len()),
        format!("Content-Length: +0\r\n\r\n{inner}"),
        format!("X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("X: y\r\n\nContent-Length: 5\r\n\r\n{inner}"),
        format!("X: y\0\r\n\r\n{inner}"),
    ];
    for rest in &refused {
        let answer = bench.request("POST /a", rest);
        assert!(matches!(status(&answer), 400 | 411), "{rest:?}: {answer}");
        assert!(answer.contains("{\"badRequest\":{\"code\":4"), "{answer}");
        assert!(!answer.contains("smuggled"), "{rest:?}: {answer}");
    }
    assert_eq!(bench.echo.answered.load(Ordering::SeqCst), 0);
    // A second request on the same connection is not an error, but it is never looked at.
    let answer = bench.request("POST /a", &format!("Content-Length: 2\r\n\r\nhi{inner}"));
    assert!(answer.ends_with("POST /a [hi]"), "{answer}");
    assert_eq!(bench.stop(), 1);
}

#[test]
fn what_is_too_large_or_too_short_is_refused() {
    let bench = start(limits(), None);
    let header = format!("X: {}\r\n", "a".repeat(17 * 1024));
    assert_eq!(status(&bench.request("GET /a", &header)), 431);
    assert_eq!(status(&bench.request("POST /a", "Content-Length: 65537\r\n\r\n")), 413);
    let mut stream = bench.connect();
    stream.write_all(bench.text("POST /a", "Content-Length: 5\r\n\r\nhel").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(status(&read_all(&mut stream)), 400);
    assert_eq!(status(&bench.send("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")), 421);
    assert_eq!(bench.stop(), 0);
}

#[test]
fn slow_clients_are_answered_408_whatever_they_drip() {
    let bench = start(Limits { head_within: SHORT, body_within: SHORT, ..limits() }, None);
    let watch = Stopwatch::start();
    let mut stream = bench.connect();
    stream.write_all(b"GET / HT").unwrap();
    assert_eq!(status(&read_all(&mut stream)), 408);

    // One byte at a time never resets the deadline.
    let mut stream = bench.connect();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut answer = Vec::new();
    while watch.elapsed() < PATIENCE && !answer.ends_with(b"}") {
        let _ = stream.write_all(b"a");
        let mut buffer = [0; 512];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(_) => {}
        }
    }
    assert_eq!(status(&String::from_utf8_lossy(&answer)), 408);

    let mut stream = bench.connect();
    stream.write_all(bench.text("POST /a", "Content-Length: 5\r\n\r\nhe").as_bytes()).unwrap();
    assert_eq!(status(&read_all(&mut stream)), 408);
    // A client that never says anything is just let go.
    assert_eq!(read_all(&mut bench.connect()), "");
    assert!(watch.elapsed() < PATIENCE);
    assert_eq!(bench.stop(), 0);
}

#[test]
fn a_client_that_does_not_take_its_answer_is_let_go() {
    let bench = start(Limits { write_within: SHORT, ..limits() }, None);
    let mut stream = bench.connect();
    stream.write_all(bench.text("GET /big", "\r\n").as_bytes()).unwrap();
    let watch = Stopwatch::start();
    while bench.echo.answered.load(Ordering::SeqCst) == 0 || !bench.gate.shared.open().threads.is_empty() {
        assert!(watch.elapsed() < PATIENCE, "still held");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its length tells the client that this is not all.
    assert!(read_all(&mut stream).len() < BIG);
    bench.stop();
}

#[test]
fn one_connection_too_many_is_turned_away_and_the_next_one_served() {
    let bench = start(Limits { connections_max: 2, ..limits() }, None);
    let held = [bench.connect(), bench.connect()];
    let watch = Stopwatch::start();
    while bench.gate.shared.open().threads.len() < 2 {
        assert!(watch.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = bench.request("GET /a", "\r\n");
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(answer.contains("{\"serviceUnavailable\":"), "{answer}");
    drop(held);
    while !bench.gate.shared.open().threads.is_empty() {
        assert!(watch.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status(&bench.request("GET /a", "\r\n")), 200);
    assert_eq!(bench.stop(), 1);
}

#[test]
fn an_api_that_is_gone_is_a_503_and_somebody_is_told() {
    let mut bench = start(limits(), None);
    bench.end_echo();
    let watch = Stopwatch::start();
    // tiny_http's accept thread ends a moment after its server.
    while bench.echo.refused.load(Ordering::SeqCst) == 0 {
        assert_eq!(status(&bench.request("GET /a", "\r\n")), 503);
        assert!(watch.elapsed() < PATIENCE);
    }
    bench.stop();
}

#[test]
fn stopping_takes_less_than_a_second_whoever_is_connected() {
    let bench = start(limits(), None);
    let silent = bench.connect();
    let mut waiting = bench.connect();
    waiting.write_all(bench.text("GET /hang", "\r\n").as_bytes()).unwrap();
    let watch = Stopwatch::start();
    while bench.echo.answered.load(Ordering::SeqCst) == 0 {
        assert!(watch.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let watch = Stopwatch::start();
    let address = bench.gate.address();
    bench.stop();
    assert!(watch.elapsed() < Duration::from_secs(1), "{:?}", watch.elapsed());
    assert!(TcpStream::connect(address).is_err());
    drop((silent, waiting));
}

#[test]
fn tls_is_ended_here_and_clear_text_gets_nothing() {
    let dir = TempDir::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    crate::durable::write(&files.certificate, made.cert.pem().as_bytes(), 0o600).unwrap();
    crate::durable::write(&files.key, made.signing_key.serialize_pem().as_bytes(), 0o600).unwrap();
    let bench = start(limits(), Some(files));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, bench.connect());
    stream.write_all(bench.text("POST /a", "Content-Length: 5\r\n\r\nhello").as_bytes()).unwrap();
    let mut answer = String::new();
    // Fails when the answer ends without TLS's own close.
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("POST /a [hello]"), "{answer}");

    assert_ne!(status(&bench.request("GET /a", "\r\n")), 200);
    assert_eq!(bench.stop(), 1);
}

#[test]
fn a_public_address_needs_tls_and_tls_needs_its_files() {
    let dir = TempDir::new();
    let echo = || Arc::new(Echo { socket: dir.join("s"), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) });
    let settings = |listen, tls| GateSettings { listen, hosts: Vec::new(), tls, limits: limits() };
    let error = Gate::start(settings((Ipv4Addr::UNSPECIFIED, 0).into(), None), echo()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let files = TlsFiles { certificate: dir.join("none.pem"), key: dir.join("none.pem") };
    let error = Gate::start(settings((Ipv4Addr::LOCALHOST, 0).into(), Some(files)), echo()).err().unwrap();
    assert!(error.to_string().contains("none.pem"), "{error}");
}
