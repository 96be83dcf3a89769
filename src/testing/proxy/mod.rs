//! A proxy in front of a store that does to its clients what networks and stores do: connections break off, end early, stall
//! or are refused, answers are others than the store's. What it does can be changed while it runs.
//!
//! It speaks plain HTTP/1.1, one exchange after the other on each connection, and passes heads on as they are, since a
//! signature covers them. `src/testing` and `tests/it/harness` share this file.

mod connection;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use connection::{Connection, Head};

const POLL: Duration = Duration::from_millis(2);

/// How a connection comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// RST: the peer fell over.
    Reset,
    /// FIN in the middle of what was announced.
    Eof,
    /// Nothing comes any more, until `mend`.
    Stall,
}

/// The direction whose bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the store.
    Up,
    /// From the store.
    Down,
}

/// Breaks connections after so many bytes of an exchange, heads included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) how: How,
    pub(crate) way: Way,
    pub(crate) after: u64,
    /// That often; `u32::MAX`: always.
    pub(crate) times: u32,
}

/// What happens to an exchange.
#[derive(Clone)]
pub(crate) enum Change {
    /// The store never sees the request; this is the answer.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// The store's answer with another body, and a `Content-Length` that fits it.
    Body(Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>),
    /// The store's answer with a header set.
    Header(String, String),
    /// The store has done it; the connection breaks before its answer comes.
    LoseAnswer,
    /// The answer comes later.
    Delay(Duration),
}

impl Change {
    pub(crate) fn status(status: u16) -> Change {
        Change::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    /// One bit of the body is another; `at` counts from the end if it is negative.
    pub(crate) fn flip(at: i64) -> Change {
        Change::Body(Arc::new(move |mut body| {
            let place = if at < 0 { body.len() as i64 + at } else { at };
            if let Some(byte) = usize::try_from(place).ok().and_then(|place| body.get_mut(place)) {
                *byte ^= 1;
            }
            body
        }))
    }

    /// Only so much of the body, announced as if it were all.
    pub(crate) fn truncate(bytes: usize) -> Change {
        Change::Body(Arc::new(move |mut body| {
            body.truncate(bytes);
            body
        }))
    }

    pub(crate) fn replace(with: &[u8]) -> Change {
        let with = with.to_vec();
        Change::Body(Arc::new(move |_| with.clone()))
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Answer { status, .. } => write!(f, "Answer({status})"),
            Change::Body(_) => f.write_str("Body"),
            Change::Header(name, value) => write!(f, "Header({name}: {value})"),
            Change::LoseAnswer => f.write_str("LoseAnswer"),
            Change::Delay(time) => write!(f, "Delay({time:?})"),
        }
    }
}

/// Which exchanges a change is for.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    change: Change,
    methods: Vec<String>,
    part: String,
    skip: u32,
    times: u32,
}

impl Rule {
    /// For every exchange, for ever.
    pub(crate) fn new(change: Change) -> Rule {
        Rule { change, methods: Vec::new(), part: String::new(), skip: 0, times: u32::MAX }
    }

    pub(crate) fn method(mut self, method: &str) -> Rule {
        self.methods.push(method.to_owned());
        self
    }

    /// Only targets (path and query) that contain `part`.
    pub(crate) fn target(mut self, part: &str) -> Rule {
        part.clone_into(&mut self.part);
        self
    }

    /// Only behind the first `count` that would match.
    pub(crate) fn skip(mut self, count: u32) -> Rule {
        self.skip = count;
        self
    }

    pub(crate) fn times(mut self, count: u32) -> Rule {
        self.times = count;
        self
    }

    fn takes(&mut self, head: &Head) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(&head.method);
        if !method || !head.target.contains(&self.part) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times != u32::MAX {
            self.times -= 1;
        }
        true
    }
}

/// An exchange that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) status: u16,
}

#[derive(Debug)]
struct State {
    upstream: u16,
    ended: bool,
    down: bool,
    cut: Option<Cut>,
    fired: u32,
    rules: Vec<Rule>,
    exchanges: Vec<Exchange>,
    /// The clients' side of each connection, to be broken from outside.
    live: BTreeMap<u64, TcpStream>,
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// A running proxy; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Shared,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `http://127.0.0.1:PORT`.
    pub(crate) fn start(endpoint: &str) -> Proxy {
        let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let upstream = port.unwrap_or_else(|| panic!("no port in {endpoint}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared(Arc::new(Mutex::new(State {
            upstream,
            ended: false,
            down: false,
            cut: None,
            fired: 0,
            rules: Vec::new(),
            exchanges: Vec::new(),
            live: BTreeMap::new(),
        })));
        let of_thread = shared.clone();
        let run = move || listen(port, listener, &of_thread);
        let thread = thread::Builder::new().name("proxy".to_owned()).spawn(run).unwrap();
        Proxy { port, shared, thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// New connections go to another port from now on.
    pub(crate) fn point_to(&self, upstream: u16) {
        self.shared.lock().upstream = upstream;
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.shared.lock().cut = Some(cut);
    }

    /// One more; the first that matches is taken.
    pub(crate) fn rule(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// Cuts and rules are over; what stalls breaks off.
    pub(crate) fn mend(&self) {
        let mut state = self.shared.lock();
        state.cut = None;
        state.rules.clear();
    }

    /// An outage: connections are refused, those that there are break.
    pub(crate) fn go_down(&self) {
        let mut state = self.shared.lock();
        state.down = true;
        break_all(&mut state);
    }

    pub(crate) fn come_up(&self) {
        self.shared.lock().down = false;
    }

    /// How many connections were cut.
    pub(crate) fn fired(&self) -> u32 {
        self.shared.lock().fired
    }

    /// What was exchanged since the last call.
    pub(crate) fn take_exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.shared.lock().exchanges)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Ok(mut state) = self.shared.0.lock() {
            state.ended = true;
            break_all(&mut state);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn break_all(state: &mut State) {
    for stream in state.live.values() {
        // It may be gone already.
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn listen(port: u16, listener: TcpListener, shared: &Shared) {
    let mut listener = Some(listener);
    let mut number = 0;
    loop {
        {
            let state = shared.lock();
            if state.ended {
                return;
            }
            if state.down {
                // Only a closed port refuses connections.
                listener = None;
            }
        }
        let Some(open) = &listener else {
            if !shared.lock().down {
                listener = TcpListener::bind(("127.0.0.1", port)).ok();
            }
            thread::sleep(POLL);
            continue;
        };
        open.set_nonblocking(true).unwrap();
        let Ok((client, _)) = open.accept() else {
            thread::sleep(POLL);
            continue;
        };
        number += 1;
        let (shared, id) = (shared.clone(), number);
        let serve = move || {
            // However it ends, the client sees it.
            let _ = Connection::new(client, id, &shared).and_then(|mut connection| connection.serve());
            shared.lock().live.remove(&id);
        };
        thread::Builder::new().name(format!("proxy-{number}")).spawn(serve).unwrap();
    }
}
