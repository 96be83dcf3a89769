//! Oracle's MySQL, with nothing but its own `mysqld`: a backup is a clone that the server makes of itself, a restore is
//! its files put back, a replay is the server's own applier. 8.0.17 is the first version with the clone plugin.
//!
//! What a clone lacks, and what is done about it: other engines' tables come back empty, without a word (`engines` refuses
//! them, or holds them still for a dump); where in the binlog it ends is known only to a server started on it (`clone` starts one, which also proves
//! that the backup starts); settings made by SET PERSIST and keyring files stay behind (`inspect` names them).

pub(crate) mod applier;
pub(crate) mod clone;
pub(crate) mod engines;
pub(crate) mod inspect;
pub(crate) mod install;
#[cfg(test)]
pub(crate) mod testing;

use crate::datastore::option_file::OptionGroup;

/// The file with a server's UUID.
pub(crate) const UUID_FILE: &str = "auto.cnf";
/// What a server keeps in its data directory that is the server's and not the data's: settings made with SET PERSIST, and
/// the keys by which clients know it.
pub(crate) const SERVER_FILES: [&str; 9] = [
    "mysqld-auto.cnf",
    "ca.pem",
    "ca-key.pem",
    "server-cert.pem",
    "server-key.pem",
    "client-cert.pem",
    "client-key.pem",
    "private_key.pem",
    "public_key.pem",
];

/// What a scratch server needs beside the options that both datastores have.
pub(crate) fn scratch_options(group: OptionGroup) -> OptionGroup {
    group
        .set("mysqlx", "OFF")
        .set("secure_file_priv", "NULL")
        .set("persisted_globals_load", "OFF")
        .flag("skip_replica_start")
        .set("gtid_mode", "OFF_PERMISSIVE")
        // Nobody comes over the network, and making keys takes as long as half of the start.
        .set("auto_generate_certs", "OFF")
        .set("caching_sha2_password_auto_generate_rsa_keys", "OFF")
}
