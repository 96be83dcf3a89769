//! What stores and networks do to a client, against a server that does it on purpose.

use std::io::Read;
use std::time::Duration;

use super::super::canned::{Act, Canned, answer};
use super::super::resume::Resuming;
use super::super::retry::{self, Again, Policy};
use super::*;
use crate::clock::Stopwatch;
use crate::testing::TempDir;

const QUICK: Policy = Policy {
    attempts_max: 5,
    total_max: Duration::from_secs(30),
    pause_first: Duration::from_millis(1),
    pause_max: Duration::from_millis(5),
};

pub(super) fn client() -> Client {
    client_with(Limits::USUAL)
}

fn client_with(limits: Limits) -> Client {
    // The system's certificates may be missing where tests run; none of these speaks TLS.
    Client::with_limits(&Access::default(), limits).unwrap()
}

fn put(url: &str, body: Payload<'_>) -> Result<Answer, Failure> {
    client().send(&Request::new(Method::PUT, url).body(body))
}

fn get(client: &Client, url: &str) -> Result<Answer, Failure> {
    client.send(&Request::new(Method::GET, url))
}

fn refused(answer: Answer) -> Failure {
    answer
        .refusal(|status, body| Error::new(ErrorKind::Forbidden, format!("{status} {}", String::from_utf8_lossy(body))))
}

#[test]
fn a_body_arrives_as_it_was_sent() {
    let server = Canned::start(|_, _| Act::Send(answer("200 OK", "", b"")));
    let dir = TempDir::new();
    let (path, bytes) = (dir.join("body"), vec![7; 300_000]);
    crate::durable::write(&path, &bytes, 0o600).unwrap();
    for body in [
        Payload::Bytes(b""),
        Payload::Bytes(&bytes),
        Payload::File { path: &path, from: 0, bytes: 300_000 },
        Payload::File { path: &path, from: 1000, bytes: 100_000 },
    ] {
        assert!(put(&server.url(), body).unwrap().is_success());
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.body.len() as u64, body.bytes());
        assert_eq!(seen.header("content-length"), Some(body.bytes().to_string().as_str()));
        assert!(seen.header("transfer-encoding").is_none() && seen.header("accept-encoding").is_none());
    }
}

#[test]
fn an_early_refusal_is_heard_before_the_body_is_sent() {
    let server = Canned::start(|_, _| Act::SendEarly(answer("403 Forbidden", "", b"no")));
    let big = vec![1; 8 << 20];
    let answer = put(&server.url(), Payload::Bytes(&big)).unwrap();
    let failure = refused(answer);
    assert_eq!((failure.error.message().as_str(), failure.again), ("403 no", Again::Never));
}

#[test]
fn a_body_of_another_length_than_said_is_not_sent() {
    let server = Canned::start(|_, _| Act::Send(answer("200 OK", "", b"")));
    let dir = TempDir::new();
    let path = dir.join("body");
    crate::durable::write(&path, &[1; 1000], 0o600).unwrap();
    let shorter = put(&server.url(), Payload::File { path: &path, from: 0, bytes: 1001 }).err().unwrap();
    assert_eq!((shorter.error.kind(), shorter.again), (ErrorKind::Corrupt, Again::Never));

    // A reader that ends early or goes on too long, as a file that changes meanwhile would.
    let send = |body: &'static [u8], bytes: u64| {
        let mut sending = payload::Sending::new(Box::new(body), bytes, None, Limits::USUAL.watchdog);
        std::io::copy(&mut sending, &mut std::io::sink()).map_err(|err| error_of(err, "").message())
    };
    assert_eq!(send(b"12345", 5), Ok(5));
    assert!(send(b"1234", 5).unwrap_err().contains("ended before"));
    assert!(send(b"123456", 5).unwrap_err().contains("longer"));
}

#[test]
fn what_passes_is_tried_until_it_has_passed() {
    let server = Canned::start(|nth, _| match nth {
        0 => Act::Send(answer("503 Slow Down", "Retry-After: 0\r\n", b"busy")),
        1 => Act::Send(answer("429 Too Many Requests", "", b"")),
        2 => Act::Close,
        3 => Act::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
        _ => Act::Send(answer("200 OK", "", b"the answer")),
    });
    let client = client();
    let body = retry::run(QUICK, "asking", || {
        let answer = get(&client, &server.url())?;
        if !answer.is_success() {
            return Err(refused(answer));
        }
        answer.small_body()
    });
    assert_eq!(body.unwrap(), b"the answer");
    assert_eq!(server.seen().len(), 5);
}

#[test]
fn what_does_not_pass_is_not_tried_again() {
    for (status, again) in [
        ("400 Bad Request", Again::Never),
        ("401 Unauthorized", Again::Never),
        ("403 Forbidden", Again::Never),
        ("404 Not Found", Again::Never),
        ("408 Request Timeout", Again::Later),
        ("498 Rate Limited", Again::Later),
        ("500 Internal Server Error", Again::Later),
        ("501 Not Implemented", Again::Never),
        ("503 Service Unavailable", Again::Later),
    ] {
        let server = Canned::start(move |_, _| Act::Send(answer(status, "", b"")));
        assert_eq!(get(&client(), &server.url()).unwrap().again(), again, "{status}");
    }
    let server = Canned::start(|_, _| Act::Send(answer("503 Busy", "Retry-After: 7\r\n", b"")));
    assert_eq!(get(&client(), &server.url()).unwrap().again(), Again::After(Duration::from_secs(7)));
}

#[test]
fn a_silent_store_is_given_up() {
    let limits = Limits { silence: Duration::from_millis(200), ..Limits::USUAL };
    for silence in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let server = Canned::start(move |_, _| Act::SendAndStall(silence.to_vec()));
        let outcome = get(&client_with(limits), &server.url()).and_then(Answer::small_body);
        let failure = outcome.err().unwrap();
        assert_eq!((failure.error.kind(), failure.again), (ErrorKind::Unavailable, Again::Later));
        assert!(failure.error.message().contains("nothing moves"), "{}", failure.error);
    }
}

#[test]
fn a_transfer_that_creeps_is_given_up() {
    let watchdog = Watchdog { span: Duration::from_millis(30), bytes_min: 1000 };
    let server = Canned::start(|_, _| Act::Send(answer("200 OK", "", &[1; 500])));
    let client = client_with(Limits { watchdog, ..Limits::USUAL });
    struct Creeping(usize);
    impl Read for Creeping {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            buffer[0] = 0;
            self.0 += 1;
            Ok(1)
        }
    }
    // What our own disk takes is not the store's fault; what the store takes is.
    let mut sending = payload::Sending::new(Box::new(Creeping(0)), 10_000, None, watchdog);
    let mut byte = [0];
    for _ in 0..60 {
        sending.read_exact(&mut byte).unwrap();
    }
    let crept = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(2));
        sending.read_exact(&mut byte).err()
    });
    assert_eq!(error_of(crept.unwrap(), "").kind(), ErrorKind::Unavailable);
    // A body that comes at once is no creeper, however small.
    assert_eq!(get(&client, &server.url()).unwrap().small_body().unwrap().len(), 500);
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let aside = Canned::start(|_, _| Act::Send(answer("200 OK", "", b"stolen")));
    let location = format!("Location: {}/\r\n", aside.url());
    let server = Canned::start(move |_, _| Act::Send(answer("307 Temporary Redirect", &location, b"")));
    let answer = put(&server.url(), Payload::Bytes(b"data")).unwrap();
    assert_eq!(answer.status(), 307);
    assert!(!answer.is_success());
    assert!(aside.seen().is_empty());
}

#[test]
fn metadata_services_are_not_asked() {
    for url in ["http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://[::ffff:169.254.1.1]:80/"] {
        let watch = Stopwatch::start();
        let failure = get(&client(), url).err().unwrap();
        assert_eq!((failure.error.kind(), failure.again), (ErrorKind::Refused, Again::Never), "{url}");
        assert!(watch.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn what_is_not_there_is_named() {
    let failure = get(&client(), "http://127.0.0.1:9/secret?signature=hush").err().unwrap();
    assert_eq!((failure.error.kind(), failure.again), (ErrorKind::Unavailable, Again::Later));
    let text = failure.error.to_string();
    assert!(text.contains("http://127.0.0.1:9 refuses connections") && !text.contains("hush"), "{text}");
    let failure = get(&client(), "http://no-such-host.invalid/").err().unwrap();
    assert!(failure.error.message().contains("`no-such-host.invalid` cannot be resolved"), "{}", failure.error);
    let server = Canned::start(|_, _| Act::SendAndClose(b"SSH-2.0-OpenSSH\r\n".to_vec()));
    let failure = get(&client(), &server.url()).err().unwrap();
    assert!(failure.error.message().contains("does not speak HTTP"), "{}", failure.error);
    let https = server.url().replace("http:", "https:");
    let failure = get(&client(), &https).err().unwrap();
    assert!(failure.error.message().contains("does not speak TLS"), "{}", failure.error);
}

#[test]
fn a_wrong_clock_explains_a_refusal() {
    for (date, named) in [("Thu, 01 Jan 1970 00:00:00 GMT", "ahead of"), ("Fri, 01 Jan 2100 00:00:00 GMT", "behind")] {
        let header = format!("Date: {date}\r\n");
        let server = Canned::start(move |_, _| Act::Send(answer("403 Forbidden", &header, b"denied")));
        let failure = refused(get(&client(), &server.url()).unwrap());
        assert!(failure.error.message().contains(named) && failure.error.to_string().contains("NTP"), "{failure:?}");
    }
}

#[test]
fn an_answer_without_end_is_bounded() {
    let server = Canned::start(|_, _| Act::Send(answer("200 OK", "", &vec![b'x'; 9 << 20])));
    let failure = get(&client(), &server.url()).unwrap().small_body().err().unwrap();
    assert_eq!((failure.error.kind(), failure.again), (ErrorKind::Corrupt, Again::Never));
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let whole = bytes.clone();
    // Each connection brings 100 000 bytes and breaks off.
    let server = Canned::start(move |_, seen| {
        let from: usize = seen.header("range").unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
        let rest = &whole[from..];
        let mut sent = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\r\n", rest.len()).into_bytes();
        sent.extend_from_slice(&rest[..rest.len().min(100_000)]);
        Act::SendAndClose(sent)
    });
    let (client, url) = (client(), server.url());
    let open = move |at: u64| {
        let request = Request::new(Method::GET, &url).header("range", format!("bytes={at}-"));
        client.send(&request).map(Answer::into_body)
    };
    let mut reader = Resuming::new(QUICK, "reading".to_owned(), open(0).unwrap(), 0, 1_000_000, open.clone());
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    // From one connection more than the others it could not be had: the store brings too little each time.
    let server = Canned::start(|_, _| {
        Act::SendAndClose(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\n\r\nx".to_vec())
    });
    let (client, url) = (self::client(), server.url());
    let open = move |_: u64| client.send(&Request::new(Method::GET, &url)).map(Answer::into_body);
    let mut reader = Resuming::new(QUICK, "reading".to_owned(), open(0).unwrap(), 0, 1000, open.clone());
    let err = error_of(reader.read_to_end(&mut Vec::new()).unwrap_err(), "");
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.message().contains("tried 5 times"), "{err}");
}

#[test]
fn a_connection_is_used_again() {
    let server = Canned::start(|nth, _| match nth {
        // Closed while idle: the next request finds another connection.
        1 => Act::SendAndClose(answer("200 OK", "", b"two")),
        _ => Act::Send(answer("200 OK", "", b"one")),
    });
    let client = client();
    for _ in 0..4 {
        let got = retry::run(QUICK, "asking", || get(&client, &server.url())?.small_body());
        assert_eq!(got.unwrap().len(), 3);
    }
}

#[test]
fn the_bandwidth_is_kept_both_ways() {
    let access = Access { bandwidth: Some(1_000_000), ..Access::default() };
    let client = Client::new(&access).unwrap();
    let server = Canned::start(|_, _| Act::Send(answer("200 OK", "", &vec![1; 400_000])));
    let watch = Stopwatch::start();
    let request = |body| client.send(&Request::new(Method::PUT, &server.url()).body(body)).unwrap();
    let bytes = vec![1; 400_000];
    drop(request(Payload::Bytes(&bytes)));
    assert!(watch.elapsed() >= Duration::from_millis(350), "{:?}", watch.elapsed());
    let watch = Stopwatch::start();
    request(Payload::Bytes(b"x")).small_body().unwrap();
    assert!(watch.elapsed() >= Duration::from_millis(100), "{:?}", watch.elapsed());
}
