//! Logical backups: the server's own dump tool and client, for every server and every engine.
//!
//! **What it is.** One run of `mariadb-dump` or `mysqldump` reads all rows in one snapshot; its text is cut, as it
//! comes, into a file for each table's structure and one for its rows (`split`), two more runs bring routines and
//! triggers, and events are asked for (`events`). All of it is one stream in the format of mariadb-backup's (`members`), so that it is stored and
//! unpacked like any other backup. By hand: `mbstream -x`, then feed each file to `mariadb --binary-mode --comments` in
//! this order: `schemas.sql`, `sequences/`, `tables/`, `data/`, `routines.sql`, `views/` (again, until none fails),
//! `triggers.sql`, `events.sql`, `accounts/`.
//!
//! **Where it is from.** The place in the binlog that the tool states at its head, never a set of GTIDs: MySQL's tool
//! reads that without the lock (MySQL bug 84478).
//!
//! **Who waits.** On MariaDB the snapshot knows its own place (`binlog_snapshot_position`) and no lock is taken; but a table
//! that has been read keeps its definition until the dump ends, so that an `ALTER` of it waits, and whoever uses that table
//! behind the `ALTER`. On MySQL the tool runs FLUSH TABLES, takes FLUSH TABLES WITH READ LOCK, makes the snapshot, asks for
//! the place and unlocks: 0.2 to 1.8 ms on 9.7 with nobody writing. To be given the lock may take longer, and whoever writes
//! waits meanwhile; where transactions of several statements fight for one row it is never given (measured: all stood still
//! for `innodb_lock_wait_timeout`, 50 s). So it is asked for with a time limit, several times (`stream::LockPatience`).
//!
//! **Of some tables only** (`stream::begin_of_held`): those of which a clone holds no rows, while somebody holds them still.
//! The layout is the same, without stored code but the tables' triggers; it is loaded into a server that has everything
//! else.
//!
//! **What a snapshot does not hold still**: tables without transactions and definitions; see `survey`.
//!
//! **What a dump lacks**, beside what `survey` refuses or warns of: optimizer statistics of MySQL, its spatial reference
//! systems, settings made by SET PERSIST, `DATA DIRECTORY` (files go where the new server keeps its own), history of
//! MariaDB's tables versioned by transaction. Values of type FLOAT are rounded to six digits: so the servers print them.
//! A pause of more than an hour of whoever reads the stream ends the dump.

mod events;
#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod load;
mod login;
pub(crate) mod manifest;
mod members;
mod proof;
mod scan;
mod split;
pub(crate) mod stream;
pub(crate) mod survey;
mod system;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod tools;

pub(crate) use manifest::named;
pub(crate) use split::quoted;

/// The directory beside the files of a clone with a dump of what the clone does not hold. A schema's directory never has a
/// `-` in its name; still, no server is to be started while this one is there.
pub(crate) const BESIDE: &str = "coffer-dump";

const ROUTINES: &str = "routines.sql";
const TRIGGERS: &str = "triggers.sql";
const EVENTS: &str = "events.sql";
