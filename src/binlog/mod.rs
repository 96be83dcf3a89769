//! Binlog files: bytes → events → transactions and facts about them.
//!
//! Pure: no clock, no disk, no network. Bytes come through an `io::Read` that is handed in, times as arguments.
//!
//! A file is the magic `fe 62 69 6e` and events. An event is a header of 19 bytes (time, type, server id, size, end
//! position, flags; little endian), a body, and a CRC-32 of both unless `binlog_checksum=NONE`. The first event, the
//! format description, says whether there are checksums; then come the Gtid_list (the binlog state when the file was
//! begun) and binlog checkpoints. A transaction is a *group* of events that a GTID event opens; `group` knows where one
//! ends. A closed file ends with a Rotate or a Stop event. After a crash there is neither: the file may end within a
//! group or within an event, the server leaves that tail as it is, begins a new file and uses the GTID of the torn group
//! again. So what lies behind `Scanner::boundary` of a file that has a successor was never committed.
//!
//! Read in this order: `event` (header, checksum, format description), `body` (what events hold), `reader` (bytes to
//! events), `group` (events to transactions), `statement` (what a statement does), `scanner` (facts of transactions),
//! `summary` (facts of a chunk), `scheduled` (the event scheduler's events), `relay` (relay logs with exactly the planned transactions).

pub(crate) mod body;
mod draft;
pub(crate) mod event;
mod group;
mod mariadb;
mod merge;
pub(crate) mod mysql;
pub(crate) mod reader;
pub(crate) mod relay;
pub(crate) mod scanner;
pub(crate) mod scheduled;
mod statement;
pub(crate) mod summary;

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod golden;
