//! tiny_http behind the gate: a private socket and the workers that answer.
//!
//! tiny_http's accept thread ends for good at its first error (or panics for want of descriptors), so a watching thread
//! begins anew on a socket of another name when the gate or a worker finds nobody there.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tiny_http::{Header, Response, Server, StatusCode};

use crate::api::call::{Reply, Request};
use crate::api::gate::Upstream;
use crate::api::router::Router;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;

/// The kernel's limit on a Unix socket's path, its closing zero not counted.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What the gate lets through at most.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// How long requests may be worked on once `stop` was called.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The running workers. Ended by `stop`.
pub(super) struct Engine {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Disconnected once every worker has ended.
    all_ended: Receiver<()>,
    watching: JoinHandle<()>,
}

pub(super) struct Shared {
    dir: PathBuf,
    current: Mutex<Current>,
    /// Dropped to end the watching thread.
    renew: Mutex<Option<Sender<u64>>>,
    is_stopping: AtomicBool,
}

/// The server of now.
struct Current {
    server: Arc<Server>,
    socket: PathBuf,
    generation: u64,
}

impl Engine {
    /// Begins to answer on a socket in `dir`, which only this user can reach.
    pub(super) fn start(dir: &Path, workers: usize, router: Arc<Router>) -> Result<Engine, Error> {
        remove_leftovers(dir);
        let (renew, asked) = bounded(1);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            current: Mutex::new(listen(dir, 1)?),
            renew: Mutex::new(Some(renew)),
            is_stopping: AtomicBool::new(false),
        });
        let unable = |err| Error::new(ErrorKind::Unavailable, "unable to start the API's threads").with_source(err);
        let watching = Builder::new()
            .name("api-watch".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.renew_when_asked(&asked, workers)
            })
            .map_err(unable)?;
        let (alive, all_ended) = bounded::<()>(0);
        let workers = (1..=workers)
            .map(|n| {
                let (shared, router, alive) = (shared.clone(), router.clone(), alive.clone());
                Builder::new().name(format!("api-{n}")).spawn(move || {
                    shared.work(&router);
                    drop(alive);
                })
            })
            .collect::<Result<_, _>>()
            .map_err(unable)?;
        Ok(Engine { shared, workers, all_ended, watching })
    }

    /// What the gate hands requests to.
    pub(super) fn upstream(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Lets requests under way end for a moment and joins the threads. The gate is closed by then, so no new ones come.
    pub(super) fn stop(self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        *self.shared.renew.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // The watcher first: it may be about to put another server in place.
        join(self.watching);
        let server = self.shared.current().server.clone();
        for _ in &self.workers {
            server.unblock();
        }
        match self.all_ended.recv_timeout(STOP_GRACE) {
            // A plan may read for minutes and changes nothing: whoever stops coffer does not wait for it.
            Err(RecvTimeoutError::Timeout) => {
                logging::warn("api", "a request is still being worked on; ending without its answer");
                self.workers.into_iter().filter(JoinHandle::is_finished).for_each(join);
            }
            _ => self.workers.into_iter().for_each(join),
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        logging::error("api", "a thread of the API had panicked");
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Current> {
        // Replaced as a whole: a panic cannot leave it half-done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, router: &Router) {
        while !self.is_stopping.load(Ordering::SeqCst) {
            let (server, generation) = {
                let current = self.current();
                (current.server.clone(), current.generation)
            };
            match server.recv() {
                Ok(request) => answer(router, request),
                Err(_) if self.is_stopping.load(Ordering::SeqCst) => return,
                // Woken because there is a new server, or the accept thread's last word.
                Err(_) => self.ask_to_renew(generation),
            }
        }
    }

    fn ask_to_renew(&self, generation: u64) {
        if let Some(renew) = &*self.renew.lock().unwrap_or_else(PoisonError::into_inner) {
            // A full channel means that it is being done.
            let _ = renew.try_send(generation);
        }
    }

    fn renew_when_asked(&self, asked: &Receiver<u64>, workers: usize) {
        while let Ok(generation) = asked.recv() {
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
            let old = {
                let mut current = self.current();
                if current.generation != generation {
                    continue;
                }
                match listen(&self.dir, generation + 1) {
                    Ok(new) => std::mem::replace(&mut *current, new),
                    Err(error) => {
                        logging::error("api", format_args!("unable to begin anew behind the gate: {error}"));
                        continue;
                    }
                }
            };
            logging::warn("api", "the HTTP server behind the gate had ended; it was begun anew");
            for _ in 0..workers {
                old.server.unblock();
            }
        }
    }
}

impl Upstream for Shared {
    fn socket(&self) -> PathBuf {
        self.current().socket.clone()
    }

    fn refused(&self) {
        let generation = self.current().generation;
        self.ask_to_renew(generation);
    }
}

fn listen(dir: &Path, generation: u64) -> Result<Current, Error> {
    // A name of its own: tiny_http removes the file when the old server is dropped.
    let socket = dir.join(format!("api-{}-{generation}.sock", std::process::id()));
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("the socket's path `{}` is too long", socket.display());
        return Err(Error::new(ErrorKind::Refused, message)
            .hint("Set a `state_dir` with a shorter path; a socket's path has at most 107 bytes."));
    }
    // What an earlier process of the same number left.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(|err| io_error("unable to listen on", &socket, err))?;
    fs::set_permissions(&socket, Permissions::from_mode(0o600))
        .map_err(|err| io_error("unable to protect", &socket, err))?;
    let server = Server::from_listener(listener, None)
        .map_err(|err| Error::new(ErrorKind::Internal, "unable to start the HTTP server").with_source(err))?;
    Ok(Current { server: Arc::new(server), socket, generation })
}

/// Sockets of processes that were killed. Whoever holds the state directory's lock is alone in it.
fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("api-") && name.ends_with(".sock") {
            // Should it stay, it harms nobody.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn answer(router: &Router, mut request: tiny_http::Request) {
    let mut body = Vec::new();
    let read = request.as_reader().take(BODY_BYTES_MAX).read_to_end(&mut body);
    let header = |name: &'static str| {
        request.headers().iter().find(|header| header.field.equiv(name)).map(|header| header.value.to_string())
    };
    let reply = match read {
        Ok(_) => router.answer(&Request {
            method: request.method().to_string(),
            target: request.url().to_owned(),
            content_type: header("Content-Type"),
            accept: header("Accept"),
            token: header("X-Auth-Token"),
            authorization: header("Authorization"),
            body,
        }),
        Err(_) => Reply::fault(400, "the body could not be read"),
    };
    let mut response = Response::from_data(reply.body)
        .with_status_code(StatusCode(reply.status))
        // Never chunked: the gate relays the length, and the client can tell a cut answer from a whole one.
        .with_chunked_threshold(usize::MAX);
    let fixed = [("Content-Type", reply.content_type), ("X-Content-Type-Options", "nosniff")];
    for (name, value) in fixed.into_iter().chain(reply.headers) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    // A client that has gone is no error.
    let _ = request.respond(response);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stopwatch;
    use crate::service::bench::Bench;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn get(path: &Path) -> Option<String> {
        let mut stream = UnixStream::connect(path).ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    #[test]
    fn a_server_that_ended_is_begun_anew() {
        let bench = Bench::new();
        let router = Arc::new(Router::new(bench.service.clone(), "appliance".to_owned()));
        let engine = Engine::start(&bench.dir, 2, router).unwrap();
        let upstream = engine.upstream();
        let first = upstream.socket();
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(get(&first).unwrap().starts_with("HTTP/1.1 200"));
        // As if its accept thread had died: nobody can be reached there any more.
        fs::remove_file(&first).unwrap();
        assert!(get(&first).is_none());
        upstream.refused();
        let watch = Stopwatch::start();
        while upstream.socket() == first {
            assert!(watch.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(get(&upstream.socket()).unwrap().starts_with("HTTP/1.1 200"));
        let second = upstream.socket();
        drop(upstream);
        engine.stop();
        assert!(!second.exists(), "nothing is left behind");
    }
}
