//! The stores and the proxy themselves: a fault that does not happen proves nothing.

use std::time::Duration;

use super::proxy::{Change, Cut, How, Proxy, Rule, Way};
use super::stores::{Garage, S3, Swift};
use crate::clock::Stopwatch;

fn objects_come_and_go(s3: &S3) {
    s3.replace("a/b-c.d", b"hello");
    s3.replace("a/x", b"");
    assert_eq!(s3.object("a/b-c.d").unwrap(), b"hello");
    assert_eq!(s3.object("a/none"), None);
    assert_eq!(s3.keys("a/"), ["a/b-c.d", "a/x"]);
    s3.remove("a/x");
    assert_eq!(s3.keys(""), ["a/b-c.d"]);
}

#[test]
fn every_store_starts_and_holds_objects() {
    let (garage, other) = (Garage::start(), Garage::start());
    objects_come_and_go(&garage);
    assert_eq!(other.keys(""), [""; 0], "each has its own");
    let swift = Swift::start(&[("tls", "ca")]);
    objects_come_and_go(&swift.s3);
    assert!(swift.url("p").starts_with("swift://coffer/p?auth_url=https://127.0.0.1:"));
    assert!(swift.ca_file.as_ref().unwrap().is_file());
}

fn agent() -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(20)));
    config.build().into()
}

/// What a client of Swift's sees of one object.
struct Client {
    agent: ureq::Agent,
    token: String,
    url: String,
}

impl Client {
    fn new(swift: &Swift, endpoint: &str) -> Client {
        let agent = agent();
        let request = agent.get(swift.auth_url.replace(&swift.endpoint, endpoint));
        let request = request.header("X-Auth-User", swift.fact("SWIFT_USER"));
        let reply = request.header("X-Auth-Key", swift.fact("SWIFT_KEY")).call().unwrap();
        let header = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
        let url = format!("{}/coffer/o", header("X-Storage-Url"));
        assert!(url.starts_with(endpoint), "TempAuth sends back where it was asked: {url}");
        Client { agent, token: header("X-Auth-Token"), url }
    }

    fn get(&self) -> Result<(u16, Vec<u8>), ureq::Error> {
        let mut reply = self.agent.get(&self.url).header("X-Auth-Token", &self.token).call()?;
        Ok((reply.status().as_u16(), reply.body_mut().read_to_vec()?))
    }

    fn put(&self, body: &[u8]) -> Result<u16, ureq::Error> {
        let request = self.agent.put(&self.url).header("X-Auth-Token", &self.token).header("Expect", "100-continue");
        Ok(request.send(body)?.status().as_u16())
    }
}

#[test]
fn the_proxy_does_what_it_is_told_and_nothing_else() {
    let swift = Swift::start(&[]);
    let proxy = Proxy::start(&swift.endpoint);
    let client = Client::new(&swift, &proxy.endpoint());
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let intact = || {
        proxy.mend();
        assert_eq!(client.put(&body).unwrap(), 201);
        assert_eq!(client.get().unwrap(), (200, body.clone()));
    };
    intact();

    for (way, how) in [(Way::Up, How::Reset), (Way::Down, How::Reset), (Way::Up, How::Eof), (Way::Down, How::Eof)] {
        let fired = proxy.fired();
        proxy.cut(Cut { how, way, after: 1 << 20, times: 1 });
        let failed = match way {
            Way::Up => client.put(&body).map(drop),
            Way::Down => client.get().map(drop),
        };
        assert!(failed.is_err(), "{way:?} {how:?}");
        assert_eq!(proxy.fired(), fired + 1, "{way:?} {how:?}");
        intact();
    }

    proxy.take_exchanges();
    proxy.rule(Rule::new(Change::status(503)).method("PUT").skip(1).times(2));
    assert_eq!([(); 4].map(|()| client.put(b"x").unwrap()), [201, 503, 503, 201]);
    let seen: Vec<u16> = proxy.take_exchanges().iter().map(|it| it.status).collect();
    assert_eq!(seen, [201, 503, 503, 201]);
    intact();

    proxy.rule(Rule::new(Change::flip(-1)).target("/o"));
    let (_, flipped) = client.get().unwrap();
    assert_eq!((flipped.len(), flipped.last().unwrap() ^ 1), (body.len(), *body.last().unwrap()));
    proxy.mend();
    proxy.rule(Rule::new(Change::truncate(10)));
    assert_eq!(client.get().unwrap().1, body[..10]);
    proxy.mend();
    proxy.rule(Rule::new(Change::LoseAnswer).method("PUT").times(1));
    assert!(client.put(b"done").is_err());
    assert_eq!(client.get().unwrap().1, b"done");
    intact();

    proxy.go_down();
    std::thread::sleep(Duration::from_millis(50));
    assert!(client.get().is_err());
    proxy.come_up();
    std::thread::sleep(Duration::from_millis(50));
    intact();

    proxy.cut(Cut { how: How::Stall, way: Way::Down, after: 1 << 20, times: 1 });
    let begin = Stopwatch::start();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            proxy.mend();
        });
        assert!(client.get().is_err());
    });
    assert!(begin.elapsed() > Duration::from_millis(400), "nothing came meanwhile");
    intact();
}
