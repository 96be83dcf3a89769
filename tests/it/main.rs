//! The contract, proven from outside: the real binary, real servers, HTTP, the command line and plain SQL.
//!
//! Each test has a directory, a state directory and servers of its own and ends them by pid. `COFFER_TEST_SEED` repeats
//! a run of the random tests, `COFFER_TEST_KEEP=1` keeps what passed; what failed is always kept and its place printed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests fail by panicking, and look at the binary from outside: its rules for the inside are not theirs"
)]

mod harness;

mod adopt;
mod bad_input;
mod bad_store;
mod by_hand;
mod crash;
mod damage;
mod demo;
mod destroyed;
mod encrypted;
mod giving_way;
mod judge;
mod matrix;
mod mysql_bad_input;
mod mysql_contents;
mod mysql_engines;
mod mysql_instance;
mod mysql_modes;
mod mysql_outer_binlog;
mod mysql_pitfalls;
mod oracle;
mod outage;
mod pitfalls;
mod rebuild;
mod remote;
mod remote_outage;
mod resume;
mod secrets;
mod shipping;
mod tidy;
mod verify;
mod versions;
