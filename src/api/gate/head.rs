//! The head of a request: bytes in, a clean head or a refusal out. Pure, so that a corpus can be thrown at it.
//!
//! What two parsers could read in two ways is refused, not repaired: line ends other than CR LF, control characters,
//! bytes above ASCII, folded lines, a length said twice, a length beside a transfer coding. Only the few headers the API
//! reads are kept, and the head that goes on to it is written anew from them.

use std::fmt::Write as _;

use crate::api::gate::hosts::Hosts;

/// Headers of one request; a browser sends about 15.
const HEADERS_MAX: usize = 64;
const TARGET_BYTES_MAX: usize = 4096;

/// The methods of the API; whatever else is asked is answered 405 here.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// The headers that go on to the API. Each may stand once.
const PASSED: [&str; 5] = ["Host", "Content-Type", "Accept", "X-Auth-Token", "Authorization"];

/// A head that means one thing only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) body_bytes: usize,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// Those of `PASSED` that were there.
    passed: Vec<(&'static str, String)>,
}

/// An answer that the gate gives by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }
}

/// Where the head in `bytes` ends (one past its empty line), or `None` while more must be read. `seen` bytes were
/// looked at before and found harmless.
pub(super) fn find_end(bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
    // A CR or LF at the border is looked at again, together with what follows it.
    let from = seen.saturating_sub(3);
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\n' if at == 0 || bytes.get(at - 1) != Some(&b'\r') => {
                return Err(Refusal::new(400, "a line of the request's head ends in LF alone; lines end in CR LF"));
            }
            b'\n' if at == 1 => return Err(Refusal::new(400, "the request begins with an empty line")),
            b'\n' if at >= 3 && bytes.get(at - 3..=at) == Some(b"\r\n\r\n") => return Ok(Some(at + 1)),
            b'\n' => {}
            b'\r' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => {
                return Err(Refusal::new(400, "a CR without its LF stands in the request's head"));
            }
            b'\r' | b'\t' | 0x20..=0x7e => {}
            _ => return Err(Refusal::new(400, "the request's head holds a byte that is not printable ASCII")),
        }
    }
    Ok(None)
}

/// Reads a whole head, as `find_end` has delimited it.
pub(super) fn parse(bytes: &[u8], hosts: &Hosts, body_bytes_max: usize) -> Result<Head, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(read)) if read == bytes.len() => {}
        Ok(_) => return Err(Refusal::new(400, "the request's head is not complete")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, format!("the request has more than {HEADERS_MAX} headers")));
        }
        Err(httparse::Error::Version) => return Err(Refusal::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
        Err(err) => return Err(Refusal::new(400, format!("the request's head is malformed: {err}"))),
    }
    let method = request.method.unwrap_or_default();
    let Some(method) = METHODS.into_iter().find(|known| *known == method) else {
        return Err(Refusal::new(405, "this method is not known here"));
    };
    let target = request.path.unwrap_or_default();
    if !target.starts_with('/') || target.starts_with("//") || target.contains('#') {
        return Err(Refusal::new(400, "the request's target must be a path, such as /v1.0/appliance/instances"));
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal::new(414, format!("the request's target is longer than {TARGET_BYTES_MAX} bytes")));
    }
    let fields = Fields::read(request.headers)?;
    fields.check_origin(method, hosts)?;
    let body_bytes = fields.body_bytes(body_bytes_max)?;
    let expects_continue = match &fields.expect {
        None => false,
        Some(value) if value.eq_ignore_ascii_case("100-continue") => true,
        Some(_) => return Err(Refusal::new(417, "the only expectation that can be met is 100-continue")),
    };
    Ok(Head { method, target: target.to_owned(), body_bytes, expects_continue, passed: fields.passed })
}

impl Head {
    /// The head as it goes on to the API: nothing in it but what was checked.
    pub(super) fn render(&self) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.passed {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\nConnection: close\r\n\r\n", self.body_bytes);
        text
    }
}

/// The headers the gate looks at, each at most once.
#[derive(Default)]
struct Fields {
    passed: Vec<(&'static str, String)>,
    length: Option<String>,
    coding: Option<String>,
    expect: Option<String>,
    origin: Option<String>,
    fetch_site: Option<String>,
    fetch_mode: Option<String>,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Fields, Refusal> {
        let mut fields = Fields::default();
        for header in headers {
            // `find_end` let through printable ASCII and tabs only.
            let value = std::str::from_utf8(header.value).unwrap_or_default().trim_matches([' ', '\t']).to_owned();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let twice = if let Some(name) = PASSED.into_iter().find(|name| is(name)) {
                let twice = fields.passed.iter().any(|(known, _)| *known == name);
                fields.passed.push((name, value));
                twice
            } else if is("Content-Length") {
                fields.length.replace(value).is_some()
            } else if is("Transfer-Encoding") {
                fields.coding.replace(value).is_some()
            } else if is("Expect") {
                fields.expect.replace(value).is_some()
            } else if is("Origin") {
                fields.origin.replace(value).is_some()
            } else if is("Sec-Fetch-Site") {
                fields.fetch_site.replace(value).is_some()
            } else if is("Sec-Fetch-Mode") {
                fields.fetch_mode.replace(value).is_some()
            } else {
                false
            };
            if twice {
                return Err(Refusal::new(400, format!("the header {} stands twice in the request", header.name)));
            }
        }
        Ok(fields)
    }

    /// Refuses names that are not this appliance's (a name of the attacker's may resolve to this host), and requests
    /// that a page of another site makes a browser send.
    fn check_origin(&self, method: &str, hosts: &Hosts) -> Result<(), Refusal> {
        let Some((_, host)) = self.passed.iter().find(|(name, _)| *name == "Host") else {
            return Err(Refusal::new(400, "the request has no Host header"));
        };
        if !hosts.has(host) {
            return Err(Refusal::new(
                421,
                "this appliance does not answer to the host name of the request. \
                 Use 127.0.0.1 or localhost, or add the name to `hosts` in [http].",
            ));
        }
        if self.origin.as_deref().is_some_and(|origin| !hosts.has_origin(origin)) {
            return Err(Refusal::new(403, "requests from pages of other sites are not answered"));
        }
        // Following a link to the status page is fine: nothing there acts without the token.
        let follows_a_link = method == "GET" && self.fetch_mode.as_deref() == Some("navigate");
        if matches!(self.fetch_site.as_deref(), Some("cross-site" | "same-site")) && !follows_a_link {
            return Err(Refusal::new(403, "requests from pages of other sites are not answered"));
        }
        Ok(())
    }

    fn body_bytes(&self, body_bytes_max: usize) -> Result<usize, Refusal> {
        if let Some(coding) = &self.coding {
            if self.length.is_some() {
                return Err(Refusal::new(400, "the request has both a Content-Length and a Transfer-Encoding"));
            }
            return Err(if coding.eq_ignore_ascii_case("chunked") {
                Refusal::new(411, "send the body with a Content-Length; chunked bodies are not taken")
            } else {
                Refusal::new(400, "the only transfer coding known here is chunked")
            });
        }
        let Some(length) = &self.length else { return Ok(0) };
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::new(400, "the request's Content-Length is not a number"));
        }
        // Digits only, so what does not parse is too long to be counted.
        match length.parse::<usize>() {
            Ok(bytes) if bytes <= body_bytes_max => Ok(bytes),
            _ => Err(Refusal::new(413, format!("the request's body is larger than {body_bytes_max} bytes"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, Refusal> {
        let bytes = text.as_bytes();
        match find_end(bytes, 0)? {
            Some(end) => parse(bytes.get(..end).unwrap(), &Hosts::new(8779, &[]), 65_536),
            None => Err(Refusal::new(0, "more is needed")),
        }
    }

    fn status(text: &str) -> u16 {
        match read(text) {
            Ok(_) => 200,
            Err(refusal) => refusal.status,
        }
    }

    /// A request with these lines after its Host header.
    fn with(lines: &str) -> String {
        format!("POST /x HTTP/1.1\r\nHost: localhost:8779\r\n{lines}\r\n")
    }

    #[test]
    fn a_clean_head_goes_on_with_what_the_api_reads_and_nothing_else() {
        let head = read(
            "POST /v1.0/appliance/backups?limit=1 HTTP/1.1\r\nhost: LOCALHOST:8779\r\nUser-Agent: x\r\n\
             x-auth-token:  secret\t\r\nContent-Type: application/json\r\nCookie: a=b\r\nUpgrade: h2c\r\n\
             Connection: keep-alive, X-Auth-Token\r\nX-Forwarded-Host: evil\r\nContent-Length: 17\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            head.render(),
            "POST /v1.0/appliance/backups?limit=1 HTTP/1.1\r\nHost: LOCALHOST:8779\r\nX-Auth-Token: secret\r\n\
             Content-Type: application/json\r\nContent-Length: 17\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        for (lines, expected) in [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("Content-Length: 5\r\ncontent-length: 6\r\n", 400),
            ("Content-Length: 5, 5\r\n", 400),
            ("Content-Length: +5\r\n", 400),
            ("Content-Length: -1\r\n", 400),
            ("Content-Length: 0x5\r\n", 400),
            ("Content-Length: 5 5\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 5;\r\n", 400),
            ("Content-Length: 65537\r\n", 413),
            ("Content-Length: 99999999999999999999999999\r\n", 413),
            ("Content-Length : 5\r\n", 400),
            ("Content-Length\t: 5\r\n", 400),
            (" Content-Length: 5\r\n", 400),
            ("X: a\r\n Content-Length: 5\r\n", 400),
            ("X: a\r\n\tTransfer-Encoding: chunked\r\n", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            ("Transfer-Encoding: chunked\r\n", 411),
            ("Transfer-Encoding: CHUNKED\r\n", 411),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
            ("Transfer-Encoding: xchunked\r\n", 400),
            ("Transfer-Encoding: gzip, chunked\r\n", 400),
            ("Transfer-Encoding: chunked, identity\r\n", 400),
            ("Transfer-Encoding: identity\r\n", 400),
            ("Transfer-Encoding:\x0bchunked\r\n", 400),
            ("Transfer-Encoding : chunked\r\n", 400),
            ("Transfer-Encoding\r\n", 400),
            ("Transfer-Encoding: chunked\n", 400),
            ("X: a\rContent-Length: 5\r\n", 400),
            ("X: a\nContent-Length: 5\r\n", 400),
            ("X: a\0b\r\n", 400),
            ("X\u{e9}: a\r\n", 400),
            ("X: \u{e9}\r\n", 400),
            (": a\r\n", 400),
            ("Host: localhost:8779\r\n", 400),
            ("Host: evil.example\r\n", 400),
            ("X-Auth-Token: a\r\nX-Auth-Token: b\r\n", 400),
            ("Authorization: a\r\nAuthorization: b\r\n", 400),
            ("Expect: 200-ok\r\n", 417),
            ("Expect: 100-continue\r\n", 200),
            ("Content_Length: 5\r\nTransfer_Encoding: chunked\r\n", 200),
        ] {
            assert_eq!(status(&with(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn request_lines_are_read_strictly() {
        for (line, expected) in [
            ("GET / HTTP/1.1", 200),
            ("GET / HTTP/1.0", 200),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/1.2", 505),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 505),
            ("GET\t/ HTTP/1.1", 400),
            ("get / HTTP/1.1", 405),
            ("CONNECT localhost:8779 HTTP/1.1", 405),
            ("TRACE / HTTP/1.1", 405),
            ("OPTIONS * HTTP/1.1", 405),
            ("GET http://localhost:8779/ HTTP/1.1", 400),
            ("GET //evil.example/ HTTP/1.1", 400),
            ("GET /a#b HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
        ] {
            let got = status(&format!("{line}\r\nHost: localhost:8779\r\n\r\n"));
            assert!(got == expected || (expected == 505 && got == 400), "{line:?}: {got}");
        }
        assert_eq!(status("\r\nGET / HTTP/1.1\r\nHost: localhost:8779\r\n\r\n"), 400);
        assert_eq!(status("\n\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
        let long = format!("GET /{} HTTP/1.1\r\nHost: localhost:8779\r\n\r\n", "a".repeat(5000));
        assert_eq!(status(&long), 414);
        assert_eq!(status(&with(&"X: a\r\n".repeat(100))), 431);
    }

    #[test]
    fn only_the_appliances_own_names_are_answered_to() {
        for (host, expected) in [
            ("127.0.0.1:8779", 200),
            ("[::1]:8779", 200),
            ("LocalHost:8779", 200),
            ("localhost", 421),
            ("localhost:80", 421),
            ("localhost:8779.evil.example", 421),
            ("evil.example", 421),
            ("evil.example:8779", 421),
            ("127.0.0.1:8779, evil.example", 421),
            ("user@localhost:8779", 421),
            ("", 421),
        ] {
            assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), expected, "{host:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_cannot_send_requests() {
        for (lines, expected) in [
            ("Origin: http://localhost:8779\r\n", 200),
            ("Origin: http://evil.example\r\n", 403),
            ("Origin: null\r\n", 403),
            ("Origin: http://localhost:8780\r\n", 403),
            ("Sec-Fetch-Site: same-origin\r\n", 200),
            ("Sec-Fetch-Site: none\r\n", 200),
            ("Sec-Fetch-Site: cross-site\r\n", 403),
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", 403),
        ] {
            assert_eq!(status(&with(lines)), expected, "{lines:?}");
        }
        let link =
            "GET / HTTP/1.1\r\nHost: localhost:8779\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n\r\n";
        assert_eq!(status(link), 200);
    }

    #[test]
    fn a_head_in_single_bytes_is_found_at_the_same_place() {
        let text = with("Content-Length: 5\r\n") + "hello\r\n\r\n";
        let whole = find_end(text.as_bytes(), 0).unwrap();
        let by_bytes =
            (1..=text.len()).find_map(|end| find_end(text.as_bytes().get(..end).unwrap(), end - 1).unwrap()).unwrap();
        assert_eq!(whole, Some(by_bytes));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let base = with("Content-Length: 5\r\nX-Auth-Token: secret\r\nTransfer-Encoding: chunked\r\n").into_bytes();
        // A fixed generator: the same bytes in every run.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 65_536).unwrap()
        };
        for _ in 0..20_000 {
            let mut bytes = base.clone();
            for _ in 0..=random() % 4 {
                let at = random() % bytes.len();
                match random() % 3 {
                    0 => bytes[at] = u8::try_from(random() % 256).unwrap(),
                    1 => bytes.insert(at, u8::try_from(random() % 256).unwrap()),
                    _ => drop(bytes.remove(at)),
                }
            }
            if let Ok(Some(end)) = find_end(&bytes, 0) {
                let _ = parse(&bytes[..end], &Hosts::new(8779, &[]), 65_536);
            }
        }
    }
}
