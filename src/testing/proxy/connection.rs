//! One connection through the proxy: a request from the client, its answer from the store, and so on.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::{Change, Cut, Exchange, How, POLL, Shared, Way};

const HEAD_BYTES_MAX: usize = 64 << 10;
const CHUNK_BYTES: usize = 64 << 10;

/// What the first lines of a message say.
#[derive(Debug, Clone)]
pub(super) struct Head {
    text: String,
    pub(super) method: String,
    pub(super) target: String,
    status: u16,
}

impl Head {
    fn parse(text: String) -> io::Result<Head> {
        let mut words = text.split_whitespace().map(str::to_owned);
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let status = if first.starts_with("HTTP/") { second.parse().map_err(io::Error::other)? } else { 0 };
        Ok(Head { method: first, target: second, status, text })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.text.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    fn says(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// Without the header, or with it set anew.
    fn with(&self, name: &str, value: Option<&str>) -> Head {
        let same = |line: &&str| !line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
        let mut text = self.text.trim_end().lines().filter(same).collect::<Vec<_>>().join("\r\n");
        if let Some(value) = value {
            text += &format!("\r\n{name}: {value}");
        }
        Head { text: text + "\r\n\r\n", ..self.clone() }
    }

    fn length(&self) -> Length {
        if self.says("Transfer-Encoding", "chunked") {
            return Length::Chunked;
        }
        Length::Known(self.header("Content-Length").and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Known(u64),
    Chunked,
}

/// One side of a connection, with what was read too far.
struct Side {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Side {
    fn new(stream: TcpStream) -> io::Result<Side> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        Ok(Side { stream, ahead: Vec::new() })
    }

    /// At most `limit` bytes; none at the end of the stream.
    fn read(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            let mut buffer = vec![0; CHUNK_BYTES];
            let count = self.stream.read(&mut buffer)?;
            buffer.truncate(count);
            self.ahead = buffer;
        }
        let rest = self.ahead.split_off(limit.min(self.ahead.len()));
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    fn read_until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut all = Vec::new();
        loop {
            let more = self.read(CHUNK_BYTES)?;
            if more.is_empty() {
                return if all.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            all.extend(more);
            if let Some(at) = all.windows(end.len()).position(|part| part == end) {
                let rest = all.split_off(at + end.len());
                self.ahead.splice(..0, rest);
                return Ok(Some(all));
            }
            if all.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("a head without an end"));
            }
        }
    }

    fn read_head(&mut self) -> io::Result<Option<Head>> {
        let Some(bytes) = self.read_until(b"\r\n\r\n")? else { return Ok(None) };
        Head::parse(String::from_utf8_lossy(&bytes).into_owned()).map(Some)
    }
}

pub(super) struct Connection<'a> {
    id: u64,
    shared: &'a Shared,
    client: Side,
    store: Option<Side>,
    /// Of the exchange that is going on: up, down.
    passed: [u64; 2],
}

impl<'a> Connection<'a> {
    pub(super) fn new(client: TcpStream, id: u64, shared: &'a Shared) -> io::Result<Connection<'a>> {
        shared.lock().live.insert(id, client.try_clone()?);
        Ok(Connection { id, shared, client: Side::new(client)?, store: None, passed: [0, 0] })
    }

    pub(super) fn serve(&mut self) -> io::Result<()> {
        while let Some(request) = self.client.read_head()? {
            self.passed = [0, 0];
            let change = {
                let mut state = self.shared.lock();
                state.rules.iter_mut().find_map(|rule| rule.takes(&request).then(|| rule.change.clone()))
            };
            let go_on = match &change {
                Some(Change::Answer { status, headers, body }) => self.answer(&request, *status, headers, body)?,
                _ => self.pass(&request, change.as_ref())?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// Answers in the store's place; returns whether the connection goes on.
    fn answer(&mut self, request: &Head, status: u16, headers: &[(String, String)], body: &[u8]) -> io::Result<bool> {
        let expects = request.says("Expect", "100-continue");
        if !expects {
            self.client_body(request.length())?;
        }
        self.record(request, status);
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let end = if expects { "Connection: close\r\n" } else { "" };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} By proxy\r\n{headers}Content-Length: {length}\r\n{end}\r\n");
        self.client.stream.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            self.client.stream.write_all(body)?;
        }
        Ok(!expects)
    }

    fn client_body(&mut self, length: Length) -> io::Result<()> {
        let Length::Known(mut left) = length else { return Err(io::Error::other("a chunked request")) };
        while left > 0 {
            let part = self.client.read(usize::try_from(left).unwrap_or(CHUNK_BYTES))?;
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// Before the client can know of it.
    fn record(&self, request: &Head, status: u16) {
        let (method, target) = (request.method.clone(), request.target.clone());
        self.shared.lock().exchanges.push(Exchange { method, target, status });
    }

    /// Passes request and answer on; returns whether the connection goes on.
    fn pass(&mut self, request: &Head, change: Option<&Change>) -> io::Result<bool> {
        let expects = request.says("Expect", "100-continue");
        let has_body = !matches!(request.length(), Length::Known(0));
        let mut first = None;
        // A store may have closed an idle connection; what it has not seen can be sent once more.
        for fresh in [self.store.is_none(), true] {
            if fresh {
                let upstream = self.shared.lock().upstream;
                self.store = Some(Side::new(TcpStream::connect(("127.0.0.1", upstream))?)?);
            }
            self.passed = [0, 0];
            let sent = self.send(Way::Up, request.text.as_bytes());
            match &sent {
                Err(err) if is_cut(err) => return sent.map(|()| false),
                Ok(()) if has_body && !expects => break,
                _ => {}
            }
            first = sent.and_then(|()| self.store()?.read_head()).ok().flatten();
            if first.is_some() || fresh {
                break;
            }
        }
        if let Some(head) = first.take_if(|head| head.status == 100) {
            self.send(Way::Down, head.text.as_bytes())?;
        }
        if first.is_none() && has_body {
            // An answer may come before the store has read everything.
            let _ = self.copy(Way::Up, request.length())?;
        }
        let answer = match first {
            Some(head) => head,
            None => self.store()?.read_head()?.ok_or(io::ErrorKind::UnexpectedEof)?,
        };
        // An answer in place of `100 Continue`: whether the body still comes is the client's choice.
        let ends = (expects && answer.status >= 300) || answer.says("Connection", "close");
        self.record(request, answer.status);
        self.reply(request, &answer, change)?;
        Ok(!ends)
    }

    fn reply(&mut self, request: &Head, answer: &Head, change: Option<&Change>) -> io::Result<()> {
        let bare = request.method == "HEAD" || [204, 304].contains(&answer.status);
        let length = if bare { Length::Known(0) } else { answer.length() };
        match change {
            Some(Change::LoseAnswer) => return Err(self.end(How::Reset)),
            Some(Change::Delay(time)) => thread::sleep(*time),
            Some(Change::Header(name, value)) => {
                let head = answer.with(name, Some(value));
                self.send(Way::Down, head.text.as_bytes())?;
                return self.copy(Way::Down, length).map(drop);
            }
            Some(Change::Body(change)) if !bare => {
                let body = change(self.whole_body(length)?);
                let head = answer.with("Transfer-Encoding", None);
                let head = head.with("Content-Length", Some(&body.len().to_string()));
                self.send(Way::Down, head.text.as_bytes())?;
                return self.send(Way::Down, &body);
            }
            _ => {}
        }
        self.send(Way::Down, answer.text.as_bytes())?;
        self.copy(Way::Down, length).map(drop)
    }

    fn store(&mut self) -> io::Result<&mut Side> {
        self.store.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn source(&mut self, way: Way) -> io::Result<&mut Side> {
        match way {
            Way::Up => Ok(&mut self.client),
            Way::Down => self.store(),
        }
    }

    /// Sends as much as the cut allows.
    fn send(&mut self, way: Way, bytes: &[u8]) -> io::Result<()> {
        let passed = self.passed[way as usize];
        let cut = {
            let mut state = self.shared.lock();
            let reached = |cut: &&mut Cut| cut.way == way && cut.times > 0 && passed + bytes.len() as u64 > cut.after;
            let cut = state.cut.as_mut().filter(reached);
            let cut = cut.map(|cut| {
                if cut.times != u32::MAX {
                    cut.times -= 1;
                }
                *cut
            });
            state.fired += u32::from(cut.is_some());
            cut
        };
        let allowed = cut.map_or(Ok(bytes.len()), |cut| usize::try_from(cut.after.saturating_sub(passed)));
        let allowed = allowed.unwrap_or(usize::MAX).min(bytes.len());
        self.passed[way as usize] += allowed as u64;
        let target = match way {
            Way::Up => self.store()?,
            Way::Down => &mut self.client,
        };
        target.stream.write_all(&bytes[..allowed])?;
        match cut {
            Some(cut) => Err(self.end(cut.how)),
            None => Ok(()),
        }
    }

    /// Ends the connection for both sides; returns the error that ends its thread.
    fn end(&mut self, how: How) -> io::Error {
        match how {
            How::Reset => {
                let _ = rustix::net::sockopt::set_socket_linger(&self.client.stream, Some(Duration::ZERO));
            }
            How::Eof => {}
            How::Stall => loop {
                let state = self.shared.lock();
                if state.ended || state.down || state.cut.is_none() {
                    break;
                }
                drop(state);
                thread::sleep(POLL);
            },
        }
        self.shared.lock().live.remove(&self.id);
        io::ErrorKind::ConnectionAborted.into()
    }

    /// Copies a body; `false` if whom it is for takes no more of it.
    fn copy(&mut self, way: Way, length: Length) -> io::Result<bool> {
        match length {
            Length::Known(bytes) => self.copy_bytes(way, bytes),
            Length::Chunked => {
                while let Some(line) = self.source(way)?.read_until(b"\r\n")? {
                    let bytes = chunk_bytes(&line)?;
                    self.send(way, &line)?;
                    self.copy_bytes(way, bytes + 2)?;
                    if bytes == 0 {
                        return Ok(true);
                    }
                }
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    fn copy_bytes(&mut self, way: Way, bytes: u64) -> io::Result<bool> {
        let mut left = bytes;
        while left > 0 {
            let part = self.source(way)?.read(usize::try_from(left).unwrap_or(CHUNK_BYTES))?;
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.send(way, &part) {
                Ok(()) => left -= part.len() as u64,
                Err(err) if is_cut(&err) => return Err(err),
                Err(_) if way == Way::Up => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        Ok(true)
    }

    fn whole_body(&mut self, length: Length) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let take = |side: &mut Side, mut left: u64, into: &mut Vec<u8>| {
            while left > 0 {
                let part = side.read(usize::try_from(left).unwrap_or(CHUNK_BYTES))?;
                if part.is_empty() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                left -= part.len() as u64;
                into.extend(part);
            }
            Ok(())
        };
        let store = self.store()?;
        match length {
            Length::Known(bytes) => take(store, bytes, &mut body)?,
            Length::Chunked => loop {
                let line = store.read_until(b"\r\n")?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let bytes = chunk_bytes(&line)?;
                take(store, bytes, &mut body)?;
                take(store, 2, &mut Vec::new())?;
                if bytes == 0 {
                    break;
                }
            },
        }
        Ok(body)
    }
}

/// Whether it was our doing.
fn is_cut(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::ConnectionAborted
}

fn chunk_bytes(line: &[u8]) -> io::Result<u64> {
    let text = String::from_utf8_lossy(line);
    let digits = text.trim().split(';').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(io::Error::other)
}
