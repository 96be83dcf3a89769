//! Binlog files of MySQL: what differs from MariaDB's. Header, checksum, format description and reader are the same.
//!
//! Behind the format description stands a Previous_gtids event: the set of everything committed before the file. Each
//! transaction begins with a GTID event, which also holds the moment of its commit in microseconds; under `gtid_mode=OFF`
//! it is an anonymous one. Then come `BEGIN`, row events and an Xid; or a statement that is a transaction of its own; or,
//! with `binlog_transaction_compression`, one event that holds all of them packed. A torn tail is cut off by the server
//! itself when it recovers from a crash.
//!
//! Read in this order: `event` (what events hold), `payload` (packed transactions), `group` (events to transactions).
//! Source: MySQL's `libs/mysql/binlog/event` and `libs/mysql/serialization`; checked against `mysqlbinlog`.

pub(crate) mod event;
pub(super) mod group;
pub(super) mod payload;

#[cfg(test)]
mod golden;
