//! The words of the field as types: no I/O, no clock, nothing of the wire.

pub(crate) mod backup;
pub(crate) mod chunk;
pub(crate) mod compression;
pub(crate) mod coordinate;
pub(crate) mod datastore;
#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod gtid;
pub(crate) mod gtid_set;
pub(crate) mod id;
pub(crate) mod instance;
pub(crate) mod recovery;
pub(crate) mod shipping;
pub(crate) mod target;
pub(crate) mod task;
pub(crate) mod timeline;
pub(crate) mod transaction;
pub(crate) mod verification;
