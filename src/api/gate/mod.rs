//! The gate: the only thing on the public socket.
//!
//! tiny_http must not face a network (no deadlines, unbounded heads, request smuggling), so it listens on a private Unix
//! socket, and the gate hands it one clean, whole request per connection and relays the answer. The gate bounds
//! connections, times and sizes, refuses what could be read in two ways, answers to its own names only, and
//! ends TLS. It knows nothing of the API but the shape of a fault.

mod connection;
mod head;
mod hosts;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ServerConfig;

use crate::api::gate::connection::Connection;
use crate::api::gate::hosts::Hosts;
use crate::api::gate::wire::Socket;
use crate::clock::Deadline;
use crate::error::{Error, ErrorKind};
use crate::logging;

pub(crate) use crate::api::gate::tls::TlsFiles;

/// How long running requests may go on once `stop` was called.
const STOP_GRACE: Duration = Duration::from_millis(600);
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const STACK_BYTES: usize = 256 * 1024;

/// What a client may take of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Each has a thread of its own while it lasts.
    pub(crate) connections_max: usize,
    /// From the accept to the end of the head, the TLS handshake included.
    pub(crate) head_within: Duration,
    pub(crate) body_within: Duration,
    /// Until the API begins to answer; planning a recovery may read a lot.
    pub(crate) answer_within: Duration,
    /// For the whole answer.
    pub(crate) write_within: Duration,
    pub(crate) head_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 64,
            head_within: Duration::from_secs(5),
            body_within: Duration::from_secs(15),
            answer_within: Duration::from_secs(120),
            write_within: Duration::from_secs(10),
            head_bytes_max: 16 * 1024,
            body_bytes_max: 64 * 1024,
        }
    }
}

/// What stands behind the gate.
pub(super) trait Upstream: Send + Sync {
    /// Where it listens now.
    fn socket(&self) -> PathBuf;
    /// Nobody listened there: whoever is responsible should begin anew.
    fn refused(&self);
}

/// The gate's settings.
pub(super) struct GateSettings {
    pub(super) listen: SocketAddr,
    /// Host names it answers to besides the loopback ones.
    pub(super) hosts: Vec<String>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) limits: Limits,
}

/// An open gate. Closed by `stop`.
pub(super) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Closing it ends the accept thread.
    wake: UnixStream,
    accepting: JoinHandle<()>,
}

struct Shared {
    limits: Limits,
    hosts: Hosts,
    tls: Option<Arc<ServerConfig>>,
    upstream: Arc<dyn Upstream>,
    open: Mutex<Open>,
    one_ended: Condvar,
    refused: AtomicU64,
}

/// The connections there are.
#[derive(Default)]
struct Open {
    next: u64,
    threads: HashMap<u64, Option<JoinHandle<()>>>,
    /// The sockets of each, to cut them at the end.
    sockets: HashMap<u64, Vec<Arc<dyn Socket>>>,
}

impl Gate {
    /// Binds and begins to accept. Fails when the address is taken, TLS is not usable, or it is missing where it must be.
    pub(super) fn start(settings: GateSettings, upstream: Arc<dyn Upstream>) -> Result<Gate, Error> {
        if !settings.listen.ip().is_loopback() && settings.tls.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{}` is not a loopback address", settings.listen),
            )
            .hint("Listen on 127.0.0.1, or set `tls_certificate` and `tls_key` in [http]."));
        }
        let tls = settings.tls.as_ref().map(tls::load).transpose()?;
        let bound = TcpListener::bind(settings.listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address, UnixStream::pair()?))
        });
        let (listener, address, (wake, woken)) = bound.map_err(|err| {
            Error::new(ErrorKind::Unavailable, format!("unable to listen on `{}`", settings.listen))
                .with_source(err)
                .hint("Set another `listen` in [http], or stop what uses that port.")
        })?;
        let mut hosts = settings.hosts;
        if !address.ip().is_unspecified() {
            hosts.push(match address {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            });
        }
        let shared = Arc::new(Shared {
            limits: settings.limits,
            hosts: Hosts::new(address.port(), &hosts),
            tls,
            upstream,
            open: Mutex::default(),
            one_ended: Condvar::new(),
            refused: AtomicU64::new(0),
        });
        let accepted = shared.clone();
        let accepting = Builder::new()
            .name("gate".to_owned())
            .spawn(move || accepted.accept_until(&listener, &woken))
            .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to start the gate's thread").with_source(err))?;
        Ok(Gate { address, shared, wake, accepting })
    }

    /// Where it listens; tells the port when it was asked for port 0.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_tls(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// Accepts no more, lets running requests end for a moment, cuts the rest and joins every thread.
    pub(super) fn stop(self) {
        drop(self.wake);
        if self.accepting.join().is_err() {
            logging::error("gate", "the accept thread had panicked");
        }
        self.shared.end_all(Deadline::after(STOP_GRACE));
    }
}

impl Shared {
    fn accept_until(self: &Arc<Shared>, listener: &TcpListener, woken: &UnixStream) {
        let mut failing = false;
        loop {
            let mut fds = [PollFd::new(woken, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
            if let Err(err) = poll(&mut fds, None)
                && err != rustix::io::Errno::INTR
            {
                logging::warn("gate", format_args!("unable to wait for connections: {err}"));
            }
            let [stop, _] = fds;
            if !stop.revents().is_empty() {
                return;
            }
            match listener.accept() {
                Ok((socket, _)) => {
                    failing = false;
                    self.admit(socket);
                }
                Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(err) => {
                    // Nothing that a client or a full descriptor table does ends this loop. Logged once per spell.
                    if !failing {
                        logging::warn("gate", format_args!("unable to accept a connection: {err}"));
                    }
                    failing = true;
                    let mut fds = [PollFd::new(woken, PollFlags::IN)];
                    let _ = poll(&mut fds, Some(&ACCEPT_PAUSE));
                }
            }
        }
    }

    /// Gives the connection a thread of its own, or turns it away.
    fn admit(self: &Arc<Shared>, socket: TcpStream) {
        let socket = Arc::new(socket);
        let Some(number) = self.register(socket.clone()) else {
            self.turn_away(&socket);
            return;
        };
        let registered = Registered { shared: self.clone(), number };
        let spawned = Builder::new().name(format!("gate-{number}")).stack_size(STACK_BYTES).spawn({
            let socket = socket.clone();
            move || Connection::new(&registered.shared, registered.number, socket).serve()
        });
        match spawned {
            Ok(thread) => {
                // Already gone from the map when the thread was quicker than this line.
                if let Some(slot) = self.open().threads.get_mut(&number) {
                    *slot = Some(thread);
                }
            }
            // The closure was dropped, and with it the registration.
            Err(err) => {
                logging::warn("gate", format_args!("unable to start a thread for a connection: {err}"));
                self.turn_away(&socket);
            }
        }
    }

    /// `None` when there are as many connections as may be.
    fn register(&self, socket: Arc<TcpStream>) -> Option<u64> {
        let mut open = self.open();
        if open.threads.len() >= self.limits.connections_max {
            return None;
        }
        open.next += 1;
        let number = open.next;
        open.threads.insert(number, None);
        open.sockets.insert(number, vec![socket]);
        Some(number)
    }

    /// Remembers another socket of a connection, to be cut with it.
    fn attach(&self, number: u64, socket: Arc<dyn Socket>) {
        if let Some(sockets) = self.open().sockets.get_mut(&number) {
            sockets.push(socket);
        }
    }

    /// Answers 503 without waiting for anything: this is the accept thread.
    fn turn_away(&self, socket: &TcpStream) {
        if self.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            logging::warn("gate", "there are as many connections as may be; turning new ones away");
        }
        // Each of these may fail, as the client pleases. What it has sent is read, else closing would reset the answer.
        let _ = socket.set_nonblocking(true);
        if self.tls.is_none() {
            let _ = (&mut &*socket).read(&mut [0; 4096]);
            let answer = connection::fault(503, "too many connections; try again in a moment");
            let _ = (&mut &*socket).write(&answer);
        }
        let _ = socket.shutdown(Shutdown::Write);
    }

    fn end_all(&self, grace: Deadline) {
        let mut open = self.open();
        while !open.threads.is_empty() && !grace.has_passed() {
            open = self.one_ended.wait_timeout(open, grace.remaining()).unwrap_or_else(PoisonError::into_inner).0;
        }
        let threads: Vec<JoinHandle<()>> = open.threads.values_mut().filter_map(Option::take).collect();
        for socket in open.sockets.values().flatten() {
            socket.shut(Shutdown::Both);
        }
        drop(open);
        for thread in threads {
            // Its panic was logged where it happened.
            let _ = thread.join();
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Only inserts and removals happen under it: a panic cannot leave it half-done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the open ones; given back when dropped, also by a panic.
struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        open.threads.remove(&self.number);
        open.sockets.remove(&self.number);
        if open.threads.is_empty() {
            self.shared.refused.store(0, Ordering::Relaxed);
        }
        drop(open);
        self.shared.one_ended.notify_all();
    }
}
