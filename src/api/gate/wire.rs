//! Sockets with deadlines: what a slow or a silent client can hold up is bounded in total, not per read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::clock::Deadline;

/// What the gate needs of a socket. Implemented by the two kinds it has.
pub(super) trait Socket: Send + Sync {
    fn read_within(&self, buffer: &mut [u8], limit: Duration) -> io::Result<usize>;
    fn write_within(&self, bytes: &[u8], limit: Duration) -> io::Result<usize>;
    fn shut(&self, how: Shutdown);
}

macro_rules! socket {
    ($kind:ty) => {
        impl Socket for $kind {
            fn read_within(&self, buffer: &mut [u8], limit: Duration) -> io::Result<usize> {
                self.set_read_timeout(Some(limit))?;
                let mut stream: &$kind = self;
                stream.read(buffer)
            }

            fn write_within(&self, bytes: &[u8], limit: Duration) -> io::Result<usize> {
                self.set_write_timeout(Some(limit))?;
                let mut stream: &$kind = self;
                stream.write(bytes)
            }

            fn shut(&self, how: Shutdown) {
                // It fails only when the other side is gone already.
                let _ = self.shutdown(how);
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

/// A socket whose reads and writes end by a deadline each.
pub(super) struct Timed {
    pub(super) socket: Arc<dyn Socket>,
    pub(super) read_by: Deadline,
    pub(super) write_by: Deadline,
}

/// What is left until `deadline`. A socket cannot take a limit of zero.
fn left(deadline: Deadline) -> io::Result<Duration> {
    let left = deadline.remaining();
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The kernel reports a limit that has passed as `EAGAIN`.
fn timed_out(err: io::Error) -> io::Error {
    if err.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { err }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read_within(buffer, left(self.read_by)?).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write_within(bytes, left(self.write_by)?).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's connection, in clear or under TLS.
pub(super) enum Client {
    Clear(Timed),
    Tls(Box<StreamOwned<ServerConnection, Timed>>),
}

impl Client {
    pub(super) fn new(timed: Timed, tls: Option<&Arc<ServerConfig>>) -> io::Result<Client> {
        let Some(config) = tls else { return Ok(Client::Clear(timed)) };
        let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        Ok(Client::Tls(Box::new(StreamOwned::new(connection, timed))))
    }

    pub(super) fn timed(&mut self) -> &mut Timed {
        match self {
            Client::Clear(timed) => timed,
            Client::Tls(stream) => &mut stream.sock,
        }
    }

    /// Says that nothing more comes: under TLS by its own close, so that a cut answer can be told from a whole one.
    pub(super) fn finish(&mut self) {
        if let Client::Tls(stream) = self {
            stream.conn.send_close_notify();
            // The client may have gone; there is nobody to tell.
            let _ = stream.flush();
        }
        self.timed().socket.shut(Shutdown::Write);
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Clear(timed) => timed.read(buffer),
            Client::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Client::Clear(timed) => timed.write(bytes),
            Client::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Client::Clear(timed) => timed.flush(),
            Client::Tls(stream) => stream.flush(),
        }
    }
}
