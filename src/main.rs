//! Coffer: backups, continuous binlog shipping and in-place recovery for a lone MariaDB or MySQL server.
//!
//! `main` decides nothing: it parses the command line and turns the one error type into an exit code.

#![allow(dead_code, reason = "the skeleton; removed once every part is wired")]

mod clock;
mod datastore;
mod domain;
mod durable;
mod error;
mod recovery;
mod repository;
#[cfg(test)]
mod scratch;
mod storage;

fn main() {}
