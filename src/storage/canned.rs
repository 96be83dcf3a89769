//! A server that answers what a test wants, byte by byte: the answers that no real store can be made to give.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What to do with a request.
pub(crate) enum Act {
    /// Take the body (answering `Expect`) and send these bytes.
    Send(Vec<u8>),
    /// Send these bytes without a look at the body, and close.
    SendEarly(Vec<u8>),
    /// Take the body, send these bytes and close.
    SendAndClose(Vec<u8>),
    /// Close at once.
    Close,
    /// Send these bytes and then nothing more, the connection open.
    SendAndStall(Vec<u8>),
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

type Script = dyn Fn(usize, &Seen) -> Act + Send + Sync;

pub(crate) struct Canned {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Canned {
    /// `script` is called for each request, with its number from 0; what it does is decided before the body is read.
    pub(crate) fn start(script: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (script, all, over): (Arc<Script>, _, _) = (Arc::new(script), Arc::clone(&seen), Arc::clone(&is_over));
        let accept = move || {
            let mut connections = Vec::new();
            for connection in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let (script, all, over) = (Arc::clone(&script), Arc::clone(&all), Arc::clone(&over));
                let serve = move || serve(connection.unwrap(), &*script, &all, &over);
                connections.push(std::thread::Builder::new().spawn(serve).unwrap());
            }
            connections.into_iter().for_each(|connection| connection.join().unwrap());
        };
        let acceptor = Some(std::thread::Builder::new().spawn(accept).unwrap());
        Canned { address, seen, is_over, acceptor }
    }

    /// `http://127.0.0.1:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

/// An answer with its length.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn serve(mut connection: TcpStream, script: &Script, all: &Mutex<Vec<Seen>>, over: &AtomicBool) {
    connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while let Some(head) = read_head(&mut connection, over) {
        let mut seen = Seen { head, body: Vec::new() };
        let nth = {
            let mut all = all.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let mut take_body = |connection: &mut TcpStream| {
            if seen.header("expect").is_some() {
                connection.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            }
            let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
            seen.body = vec![0; length];
            let mut at = 0;
            while at < length && !over.load(Ordering::SeqCst) {
                match connection.read(&mut seen.body[at..]) {
                    Ok(0) => return,
                    Ok(read) => at += read,
                    Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            all.lock().unwrap()[nth].body.clone_from(&seen.body);
        };
        let act = script(nth, &all.lock().unwrap()[nth].clone());
        // A client that has gone away is what some tests want.
        match act {
            Act::Send(bytes) => {
                take_body(&mut connection);
                if connection.write_all(&bytes).is_err() {
                    return;
                }
            }
            Act::SendEarly(bytes) => {
                let _ = connection.write_all(&bytes);
                return;
            }
            Act::SendAndClose(bytes) => {
                take_body(&mut connection);
                let _ = connection.write_all(&bytes);
                return;
            }
            Act::Close => return,
            Act::SendAndStall(bytes) => {
                let _ = connection.write_all(&bytes);
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return;
            }
        }
    }
}

fn read_head(connection: &mut TcpStream, over: &AtomicBool) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match connection.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if head.is_empty() && !byte[0].is_ascii_alphabetic() => {
                // A client that wants TLS hears that there is none.
                let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                return None;
            }
            Ok(_) => head.push(byte[0]),
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock && !over.load(Ordering::SeqCst) => {}
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}
