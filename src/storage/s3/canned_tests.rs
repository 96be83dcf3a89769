//! The driver against answers that no real store can be made to give.

use super::super::canned::{Act, Canned, Seen, answer};
use super::*;
use crate::testing::TempDir;
use crate::testing::stores::write_secret;

const KEYS: &str = "[s3]\naccess_key_id = 'AK'\nsecret_access_key = 'SK'\n";

struct Bench {
    store: S3Store,
    server: Canned,
    dir: TempDir,
}

impl Bench {
    /// A store that answers by `script`; trouble is over soon.
    fn new(script: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Bench {
        let (dir, server) = (TempDir::new(), Canned::start(script));
        let access =
            Access { credentials_file: Some(write_secret(&dir, "credentials.toml", KEYS)), ..Access::default() };
        let address = address(&format!("s3://bucket/p?endpoint={}&region=here", server.url()));
        let mut store = S3Store::new(address, &access, Client::new(&access).unwrap()).unwrap();
        store.policy = Policy {
            attempts_max: 4,
            total_max: Duration::from_secs(20),
            pause_first: Duration::from_millis(1),
            pause_max: Duration::from_millis(2),
        };
        Bench { store, server, dir }
    }

    /// The request lines without their signatures.
    fn asked(&self) -> Vec<String> {
        let shown = |seen: &Seen| {
            let mut words = seen.head.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let query: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-")).collect();
            format!("{method} {path} {}", query.join("&")).trim_end().to_owned()
        };
        self.server.seen().iter().map(shown).collect()
    }
}

fn address(url: &str) -> S3Address {
    match super::super::url::parse(url).unwrap() {
        super::super::url::Address::S3(address) => address,
        other => panic!("{other:?}"),
    }
}

fn ok(body: &str) -> Act {
    Act::Send(answer("200 OK", "", body.as_bytes()))
}

fn complaint(status: &str, headers: &str, code: &str, rest: &str) -> Act {
    Act::Send(answer(status, headers, format!("<Error><Code>{code}</Code>{rest}</Error>").as_bytes()))
}

fn page(keys: &[&str], rest: &str) -> String {
    let keys: String = keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
    format!(
        "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{keys}{rest}</ListBucketResult>"
    )
}

#[test]
fn requests_are_signed_with_what_the_file_says() {
    let bench = Bench::new(|_, _| ok(&page(&[], "<IsTruncated>false</IsTruncated>")));
    bench.store.list("", None, 10).unwrap();
    let token = format!("{KEYS}session_token = 'a token'\n");
    let path = write_secret(&bench.dir, "credentials.toml", &token);
    *bench.store.keys.write().unwrap() = Arc::new(credentials::s3(Some(&path)).unwrap());
    bench.store.list("", None, 10).unwrap();
    let seen = bench.server.seen();
    assert!(seen[0].head.contains("X-Amz-Credential=AK%2F") && seen[0].head.contains("%2Fhere%2Fs3%2F"), "{seen:?}");
    assert!(!seen[0].head.contains("X-Amz-Security-Token"));
    assert!(seen[1].head.contains("X-Amz-Security-Token=a%20token&"), "{seen:?}");
    assert!(seen.iter().all(|seen| !seen.head.contains("SK")));
}

#[test]
fn a_bucket_stands_in_the_path_or_in_the_host() {
    let access = |dir: &TempDir| Access {
        credentials_file: Some(write_secret(dir, "credentials.toml", KEYS)),
        ..Access::default()
    };
    let dir = TempDir::new();
    for (url, named) in [
        ("s3://bucket/p?region=eu-west-3", "https://bucket.s3.eu-west-3.amazonaws.com/p/k"),
        ("s3://bucket?endpoint=http://h:9000", "http://h:9000/bucket/p/k"),
        ("s3://bucket?endpoint=https://h&path_style=false", "https://bucket.h/p/k"),
        ("s3://b.u-c?endpoint=https://h:444&path_style=false", "https://b.u-c.h:444/p/k"),
    ] {
        let access = access(&dir);
        let store = S3Store::new(address(url), &access, Client::new(&access).unwrap()).unwrap();
        assert_eq!(store.bucket.object_url("p/k").as_str(), named);
    }
}

#[test]
fn an_error_under_status_200_is_no_success() {
    // Completing an upload: the second answer is one.
    let bench = Bench::new(|nth, seen| match (nth, seen.head.split(' ').next().unwrap()) {
        (0, _) => Act::Send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        (1, _) => ok("<InitiateMultipartUploadResult><UploadId>u 1</UploadId></InitiateMultipartUploadResult>"),
        (_, "PUT") => Act::Send(answer("200 OK", "ETag: \"tag\"\r\n", b"")),
        (4, _) => ok("<?xml version=\"1.0\"?>   \n  <Error><Code>InternalError</Code><Message>Sorry</Message></Error>"),
        (5, _) => ok("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"),
        (_, "HEAD") => Act::Send(
            format!("HTTP/1.1 200 OK\r\nContent-Length: 200\r\nx-amz-meta-sha256: {}\r\n\r\n", hash_of_200())
                .into_bytes(),
        ),
        _ => Act::Close,
    });
    let path = bench.dir.join("large");
    crate::durable::write(&path, &[7; 200], 0o600).unwrap();
    let mut store = bench.store.clone();
    store.parts = multipart::Parts { whole_bytes_max: 100, part_bytes: 100, in_flight: 1, ..multipart::Parts::USUAL };
    store.put("large", Body::File(&path)).unwrap();
    assert_eq!(
        bench.asked(),
        [
            "HEAD /bucket/p/large",
            "POST /bucket/p/large uploads=",
            "PUT /bucket/p/large partNumber=1&uploadId=u%201",
            "PUT /bucket/p/large partNumber=2&uploadId=u%201",
            "POST /bucket/p/large uploadId=u%201",
            "POST /bucket/p/large uploadId=u%201",
            "HEAD /bucket/p/large",
        ]
    );
    let xml = String::from_utf8(bench.server.seen()[4].body.clone()).unwrap();
    assert!(xml.contains("<PartNumber>2</PartNumber><ETag>&quot;tag&quot;</ETag>"), "{xml}");

    // Listing and deleting.
    let bench = Bench::new(|_, _| ok("<Error><Code>InternalError</Code></Error>"));
    assert_eq!(bench.store.list("", None, 1).unwrap_err().kind(), ErrorKind::Unavailable);
    let err = bench.store.delete_many(&["a".to_owned()]).unwrap_err();
    assert!(err.message().contains("says 200 and then that it failed"), "{err}");
    assert_eq!(bench.server.seen().len(), 8);
}

fn hash_of_200() -> String {
    format!("{:x}", Sha256::digest([7; 200]))
}

#[test]
fn a_failed_upload_is_discarded_and_told() {
    let bench = Bench::new(|nth, seen| match (nth, seen.head.split(' ').next().unwrap()) {
        (1, _) => ok("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"),
        (_, "PUT") => complaint("403 Forbidden", "", "AccessDenied", ""),
        (_, "DELETE") => Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        _ => Act::Send(answer("404 Not Found", "", b"")),
    });
    let path = bench.dir.join("large");
    crate::durable::write(&path, &[7; 900], 0o600).unwrap();
    let mut store = bench.store.clone();
    store.parts = multipart::Parts { whole_bytes_max: 100, part_bytes: 100, in_flight: 1, ..multipart::Parts::USUAL };
    let err = store.put("large", Body::File(&path)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Forbidden);
    assert!(err.message().contains("part 1"), "{err}");
    assert!(bench.asked().contains(&"DELETE /bucket/p/large uploadId=u".to_owned()), "{:?}", bench.asked());
    assert_eq!(bench.asked().iter().filter(|line| line.starts_with("PUT")).count(), 1);
}

#[test]
fn half_a_listing_is_never_believed() {
    const WHOLE: &str = "<IsTruncated>false</IsTruncated>";
    let whole = page(&["p/a", "p/b"], WHOLE);
    for (body, named) in [
        (page(&["p/b", "p/a"], WHOLE), "not in order"),
        (page(&["p/a", "p/a"], WHOLE), "not in order"),
        (page(&["p/a", "q/b"], WHOLE), "not asked for"),
        (page(&["p/a"], ""), "no word on whether"),
        (page(&["p/a"], "<IsTruncated>true</IsTruncated>"), "but not where"),
        (page(&["p/a"], "<KeyCount>2</KeyCount><IsTruncated>false</IsTruncated>"), "number of keys"),
        (page(&["p/a", "p/b", "p/c"], WHOLE), "number of keys"),
        (page(&["p/%zz"], "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"), "well-formed"),
        (whole[..whole.len() - 8].to_owned(), "something else"),
        (whole[..whole.len() / 2].to_owned(), "something else"),
        ("<html>hello</html>".to_owned(), "something else"),
        (String::new(), "something else"),
    ] {
        let sent = body.clone();
        let bench = Bench::new(move |_, _| ok(&sent));
        let err = bench.store.list("", None, 2).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{body}");
        assert!(err.message().contains(named), "{body}: {err}");
    }
    // Trouble that passes.
    let bench = Bench::new(move |nth, _| ok(if nth == 0 { "" } else { &whole }));
    assert_eq!(bench.store.list("", None, 2).unwrap().len(), 2);
}

#[test]
fn pages_follow_each_other_until_the_store_says_so() {
    let token =
        |token: &str| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
    let (first, second) = (
        page(&["p/a%20+b"], &format!("<EncodingType>url</EncodingType>{}", token("t&amp;1"))),
        page(&[], &token("t2")),
    );
    let last = page(&["p/b", "p/c"], "<IsTruncated>false</IsTruncated>");
    let bench = Bench::new(move |nth, _| ok([&first, &second, &last][nth]));
    let listed = bench.store.list("", Some("0"), 100).unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a  b", "b", "c"]);
    assert_eq!(
        bench.asked(),
        [
            "GET /bucket/ encoding-type=url&list-type=2&max-keys=100&prefix=p%2F&start-after=p%2F0",
            "GET /bucket/ continuation-token=t%261&encoding-type=url&list-type=2&max-keys=99&prefix=p%2F",
            "GET /bucket/ continuation-token=t2&encoding-type=url&list-type=2&max-keys=99&prefix=p%2F",
        ]
    );
    // A second page that repeats the first is refused, and so is one that leads nowhere.
    let again = page(&["p/a"], &token("t"));
    let bench = Bench::new(move |_, _| ok(&again));
    assert!(bench.store.list("", None, 100).unwrap_err().message().contains("not in order"));
    let circle = page(&[], &token("t"));
    let bench = Bench::new(move |_, _| ok(&circle));
    assert!(bench.store.list("", None, 100).unwrap_err().message().contains("leads back"));
}

#[test]
fn each_deletion_is_confirmed() {
    let keys = ["a".to_owned(), "b".to_owned()];
    for (body, outcome) in [
        ("<Deleted><Key>p/a</Key></Deleted><Deleted><Key>p/b</Key></Deleted>", None),
        (
            "<Deleted><Key>p/a</Key></Deleted><Error><Key>p/b</Key><Code>NoSuchKey</Code></Error><Deleted><Key>p/b</Key></Deleted>",
            None,
        ),
        ("<Deleted><Key>p/a</Key></Deleted>", Some("no word on whether `p/b`")),
        ("<Error><Key>p/a</Key><Code>AccessDenied</Code><Message>no</Message></Error>", Some("`p/a`: ")),
    ] {
        let bench = Bench::new(move |_, _| ok(&format!("<DeleteResult>{body}</DeleteResult>")));
        match (bench.store.delete_many(&keys), outcome) {
            (Ok(()), None) => {}
            (Err(err), Some(named)) => assert!(err.message().contains(named), "{err}"),
            (got, _) => panic!("{body}: {got:?}"),
        }
        let seen = bench.server.seen().remove(0);
        assert_eq!(seen.header("content-md5"), Some(BASE64.encode(Md5::digest(&seen.body)).as_str()));
    }
    // One after the other where there is no such thing as many.
    let bench = Bench::new(|nth, _| match nth {
        0 => complaint("501 Not Implemented", "", "NotImplemented", ""),
        _ => Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
    });
    bench.store.delete_many(&keys).unwrap();
    assert_eq!(bench.asked()[1..], ["DELETE /bucket/p/a", "DELETE /bucket/p/b"]);
}

#[test]
fn a_read_goes_on_with_the_same_object_or_fails() {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let whole = bytes.clone();
    let bench = Bench::new(move |nth, seen| {
        let from: usize =
            seen.header("range").map_or(0, |range| range["bytes=".len()..].split('-').next().unwrap().parse().unwrap());
        let status = if nth == 0 {
            "200 OK".to_owned()
        } else {
            format!("206 Partial\r\nContent-Range: bytes {from}-299999/300000")
        };
        let mut sent = format!("HTTP/1.1 {status}\r\nETag: \"one\"\r\nContent-Length: {}\r\n\r\n", whole.len() - from)
            .into_bytes();
        sent.extend_from_slice(&whole[from..whole.len().min(from + 120_000)]);
        Act::SendAndClose(sent)
    });
    let mut read = Vec::new();
    bench.store.get("k").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let seen = bench.server.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[1].header("range"), seen[1].header("if-match")), (Some("bytes=120000-299999"), Some("\"one\"")));

    for (second, kind) in [
        (answer("412 Precondition Failed", "", b""), ErrorKind::Corrupt),
        (answer("404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"), ErrorKind::NotFound),
        (answer("206 Partial", "Content-Range: bytes 0-9/10\r\n", b"0123456789"), ErrorKind::Corrupt),
        (answer("200 OK", "", b"0123456789"), ErrorKind::Unsupported),
    ] {
        let bench = Bench::new(move |nth, _| match nth {
            0 => Act::SendAndClose(b"HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: 10\r\n\r\n01234".to_vec()),
            _ => Act::Send(second.clone()),
        });
        let err = bench.store.get("k").unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error_of(err, "").kind(), kind);
    }
}

#[test]
fn what_the_store_complains_of_is_told_with_the_remedy() {
    let aws = "<Message>The authorization header is malformed; the region 'here' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region>";
    for (status, headers, code, rest, kind, named) in [
        ("400 Bad Request", "", "AuthorizationHeaderMalformed", aws, ErrorKind::InvalidInput, "region=eu-west-1"),
        (
            "301 Moved",
            "x-amz-bucket-region: eu-west-3\r\n",
            "PermanentRedirect",
            "",
            ErrorKind::InvalidInput,
            "region=eu-west-3",
        ),
        ("403 Forbidden", "", "RequestTimeTooSkewed", "", ErrorKind::Refused, "NTP"),
        ("403 Forbidden", "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "AccessDenied", "", ErrorKind::Refused, "NTP"),
        ("403 Forbidden", "", "AccessDenied", "", ErrorKind::Forbidden, "list the bucket"),
        ("403 Forbidden", "", "InvalidAccessKeyId", "", ErrorKind::Unauthorized, "access_key_id"),
        ("400 Bad Request", "", "ExpiredToken", "", ErrorKind::Unauthorized, "session_token"),
        ("404 Not Found", "", "NoSuchBucket", "", ErrorKind::Unavailable, "coffer never makes a bucket"),
        ("404 Not Found", "", "", "", ErrorKind::Unavailable, "endpoint and bucket"),
        ("503 Busy", "", "SlowDown", "", ErrorKind::Unavailable, "overloaded"),
        ("400 Bad Request", "", "RequestTimeout", "", ErrorKind::Unavailable, "tried 3 times"),
        ("400 Bad Request", "", "<Oops", "", ErrorKind::InvalidInput, "HTTP 400"),
    ] {
        let dir = TempDir::new();
        let server = Canned::start(move |_, _| complaint(status, headers, code, rest));
        let access =
            Access { credentials_file: Some(write_secret(&dir, "credentials.toml", KEYS)), ..Access::default() };
        let url = format!("s3://bucket/p?endpoint={}&region=here", server.url());
        let err = S3Store::open(address(&url), &access).err().unwrap();
        assert_eq!(err.kind(), kind, "{code}: {err}");
        assert!(err.to_string().contains(named), "{code}: {err}");
    }
}

#[test]
fn a_store_that_refuses_to_overwrite_is_asked_to() {
    let bench = Bench::new(|nth, seen| match nth {
        1 => {
            assert_eq!(seen.header("if-none-match"), Some("*"));
            ok("")
        }
        2 => complaint("412 Precondition Failed", "", "PreconditionFailed", ""),
        0 | 3 => Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        // A put of what somebody else stores at the same moment.
        4 => Act::Send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        5 => complaint("412 Precondition Failed", "", "PreconditionFailed", ""),
        _ => Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-amz-meta-sha256: 00\r\n\r\n".to_vec()),
    });
    assert_eq!(bench.store.creates_conditionally("scratch").unwrap(), Some(true));
    assert_eq!(bench.store.put("k", Body::Bytes(b"hello")).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(bench.server.seen()[5].header("if-none-match"), Some("*"));
}
