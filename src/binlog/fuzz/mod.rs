//! Binlog files of both servers, changed event by event: see `crate::fuzz`.

mod events;
mod mariadb;
mod mysql;
mod sql;

use std::io::{self, Read};

use crate::binlog::reader::{EventReader, Next};
use crate::fuzz::Target;

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    vec![Box::new(mariadb::MariadbBinlog::new()), Box::new(mysql::MysqlBinlog::new()), Box::new(sql::Statements)]
}

/// Gives its bytes in small pieces, with interruptions.
struct Trickle<'a> {
    bytes: &'a [u8],
    reads: usize,
}

impl<'a> Trickle<'a> {
    fn new(bytes: &'a [u8]) -> Trickle<'a> {
        Trickle { bytes, reads: 0 }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads % 5 == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buf.len().min(1 + (self.reads * 37) % 700);
        self.bytes.read(&mut buf[..length])
    }
}

/// What ended the reading of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    End,
    Incomplete(u64),
    Corrupt(u64, String),
    Failed(String),
}

/// Shows every event until one is not taken, and says why no more came.
fn for_each_event<R: Read>(
    mut reader: EventReader<R>,
    mut show: impl FnMut(&crate::binlog::event::Event<'_>) -> Result<(), crate::error::Error>,
) -> Stop {
    loop {
        match reader.next_event().unwrap() {
            Next::Event(event) => {
                if let Err(err) = show(&event) {
                    return Stop::Failed(err.to_string());
                }
            }
            Next::End => return Stop::End,
            Next::Incomplete { at } => return Stop::Incomplete(at),
            Next::Corrupt { at, reason } => return Stop::Corrupt(at, reason),
        }
    }
}
