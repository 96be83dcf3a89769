//! One client: read one request, whole; hand it on; relay the answer; close.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::api::fault;
use crate::api::gate::Shared;
use crate::api::gate::head::{self, Head, Refusal};
use crate::api::gate::wire::{Client, Socket, Timed};
use crate::clock::Deadline;
use crate::logging;

/// Read at once from a client.
const READ_BYTES: usize = 4096;
/// An answer is taken off the API up to here before the client gets it, so that a slow client holds up no worker of it.
const ANSWER_BYTES_BUFFERED: u64 = 1024 * 1024;
const ANSWER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// What a refused client still sends is read for so long and so far: closing earlier would reset the answer away.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: u64 = 256 * 1024;

/// A connection under way.
pub(super) struct Connection<'a> {
    shared: &'a Shared,
    number: u64,
    socket: Arc<TcpStream>,
}

/// Why a request was not read.
enum Unread {
    /// The client gets this answer.
    Refused(Refusal),
    /// The client is gone, or never said anything.
    Gone,
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Unread {
        Unread::Refused(refusal)
    }
}

/// A request as it came: its head, its body, and whether bytes followed it.
struct Request {
    head: Head,
    body: Vec<u8>,
    has_more_behind: bool,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, number: u64, socket: Arc<TcpStream>) -> Connection<'a> {
        Connection { shared, number, socket }
    }

    pub(super) fn serve(self) {
        let head_by = Deadline::after(self.shared.limits.head_within);
        let timed = Timed { socket: self.socket.clone(), read_by: head_by, write_by: head_by };
        let Ok(mut client) = Client::new(timed, self.shared.tls.as_ref()) else { return };
        let (outcome, must_linger) = match self.read_request(&mut client) {
            Ok(request) => (self.exchange(&request, &mut client), request.has_more_behind),
            Err(Unread::Refused(refusal)) => (Err(refusal), true),
            Err(Unread::Gone) => return,
        };
        if let Err(refusal) = outcome {
            client.timed().write_by = Deadline::after(self.shared.limits.write_within);
            // A client that does not take its answer gets none.
            let _ = client.write_all(&fault(refusal.status, &refusal.message)).and_then(|()| client.flush());
        }
        client.finish();
        if must_linger {
            client.timed().read_by = Deadline::after(LINGER);
            let _ = io::copy(&mut client.take(LINGER_BYTES_MAX), &mut io::sink());
        }
    }

    fn read_request(&self, client: &mut Client) -> Result<Request, Unread> {
        let limits = &self.shared.limits;
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let mut seen = 0;
        let end = loop {
            if let Some(end) = head::find_end(&bytes, seen)? {
                break end;
            }
            seen = bytes.len();
            if seen >= limits.head_bytes_max {
                return Err(
                    Refusal::new(431, format!("the head is larger than {} bytes", limits.head_bytes_max)).into()
                );
            }
            let room = limits.head_bytes_max - seen;
            match read_some(client, &mut bytes, room.min(READ_BYTES)) {
                Ok(0) => return Err(Unread::Gone),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::TimedOut && seen > 0 => {
                    return Err(Refusal::new(408, "the request's head did not come in time").into());
                }
                Err(_) => return Err(Unread::Gone),
            }
        };
        let mut body = bytes.split_off(end);
        let head = head::parse(&bytes, &self.shared.hosts, limits.body_bytes_max)?;
        client.timed().read_by = Deadline::after(limits.body_within);
        if head.expects_continue && body.len() < head.body_bytes {
            client.timed().write_by = Deadline::after(limits.write_within);
            let told = client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| client.flush());
            told.map_err(|_| Unread::Gone)?;
        }
        while body.len() < head.body_bytes {
            let room = head.body_bytes - body.len();
            match read_some(client, &mut body, room.min(READ_BYTES)) {
                Ok(0) => return Err(Refusal::new(400, "the body is shorter than its Content-Length").into()),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                    return Err(Refusal::new(408, "the request's body did not come in time").into());
                }
                Err(_) => return Err(Unread::Gone),
            }
        }
        // One request per connection: what follows it is never looked at.
        let has_more_behind = body.len() > head.body_bytes;
        body.truncate(head.body_bytes);
        Ok(Request { head, body, has_more_behind })
    }

    /// Hands the request on and relays the answer. Fails as long as nothing has been sent to the client.
    fn exchange(&self, request: &Request, client: &mut Client) -> Result<(), Refusal> {
        let unavailable = |_| Refusal::new(503, "the API does not answer; try again in a moment");
        let upstream = self.connect()?;
        let limits = &self.shared.limits;
        let answer_by = Deadline::after(limits.answer_within);
        let mut upstream = Timed { socket: upstream, read_by: answer_by, write_by: answer_by };
        upstream.write_all(request.head.render().as_bytes()).map_err(unavailable)?;
        upstream.write_all(&request.body).map_err(unavailable)?;
        let (head, mut body) = read_answer_head(&mut upstream).map_err(|err| {
            logging::error("gate", format_args!("the API's answer broke off: {err}"));
            Refusal::new(503, "the API broke off its answer; try again in a moment")
        })?;
        (&mut upstream).take(ANSWER_BYTES_BUFFERED).read_to_end(&mut body).map_err(unavailable)?;
        client.timed().write_by = Deadline::after(limits.write_within);
        upstream.read_by = client.timed().write_by;
        // From here on the client has part of an answer, whose length tells it whether it has all.
        let _ = client
            .write_all(head.as_bytes())
            .and_then(|()| client.write_all(&body))
            .and_then(|()| io::copy(&mut upstream, client))
            .and_then(|_| client.flush());
        Ok(())
    }

    fn connect(&self) -> Result<Arc<dyn Socket>, Refusal> {
        match UnixStream::connect(self.shared.upstream.socket()) {
            Ok(stream) => {
                let stream = Arc::new(stream);
                self.shared.attach(self.number, stream.clone());
                Ok(stream)
            }
            Err(err) => {
                logging::error("gate", format_args!("unable to reach the API behind the gate: {err}"));
                // For want of descriptors it would be no help to begin anew.
                if matches!(err.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
                    self.shared.upstream.refused();
                }
                Err(Refusal::new(503, "the API is not ready; try again in a moment"))
            }
        }
    }
}

/// Appends at most `bytes_max` bytes; 0 at the end of what the client sends.
fn read_some(client: &mut Client, bytes: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    let mut buffer = [0; READ_BYTES];
    let buffer = buffer.get_mut(..bytes_max).unwrap_or_default();
    let read = loop {
        match client.read(buffer) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
    Ok(read)
}

/// The answer's head as the client gets it, and what was read of the body.
fn read_answer_head(upstream: &mut Timed) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    let mut buffer = [0; READ_BYTES];
    loop {
        let read = upstream.read(&mut buffer)?;
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes).map_err(io::Error::other)? {
            httparse::Status::Complete(end) => {
                let head = render_answer_head(&response);
                return Ok((head, bytes.split_off(end)));
            }
            httparse::Status::Partial if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            httparse::Status::Partial if bytes.len() > ANSWER_HEAD_BYTES_MAX => {
                return Err(io::Error::other("its head is too large"));
            }
            httparse::Status::Partial => {}
        }
    }
}

fn render_answer_head(response: &httparse::Response<'_, '_>) -> String {
    let status = response.code.unwrap_or(500);
    let mut text = status_line(status);
    for header in &*response.headers {
        if !header.name.eq_ignore_ascii_case("Connection") && !header.name.eq_ignore_ascii_case("Server") {
            text.push_str(&format!("{}: {}\r\n", header.name, String::from_utf8_lossy(header.value)));
        }
    }
    text.push_str("Connection: close\r\n\r\n");
    text
}

fn status_line(status: u16) -> String {
    format!("HTTP/1.1 {status} {}\r\n", fault::reason(status))
}

/// A whole answer with a fault in it.
pub(super) fn fault(status: u16, message: &str) -> Vec<u8> {
    let body = fault::body(status, message);
    let head = format!(
        "{}Content-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        status_line(status),
        body.len()
    );
    (head + &body).into_bytes()
}
