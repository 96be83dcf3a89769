//! The servers' own tables: which of them belong to a dump, and which are the new server's business.

use crate::domain::datastore::Datastore;

/// What a dump does with a table, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody's own: structure and rows.
    Own,
    /// The server makes it, people fill it: rows only.
    Account,
    /// Nothing of it: where the server stands, statistics, logs, help texts, what is filled by other statements.
    Server,
}

/// Accounts and rights, time zones, functions and plugins from libraries, and what else people fill.
const FILLED: [&str; 14] = [
    "columns_priv",
    "db",
    "func",
    "plugin",
    "procs_priv",
    "proxies_priv",
    "servers",
    "tables_priv",
    "time_zone",
    "time_zone_leap_second",
    "time_zone_name",
    "time_zone_transition",
    "time_zone_transition_type",
    "user",
];
const FILLED_MARIADB: [&str; 5] = ["column_stats", "global_priv", "index_stats", "roles_mapping", "table_stats"];
const FILLED_MYSQL: [&str; 7] =
    ["component", "default_roles", "engine_cost", "global_grants", "password_history", "role_edges", "server_cost"];

/// Where the server stands, and what belongs to its files; `gtid_slave_pos` has brothers for other engines.
const SERVERS: [&str; 10] = [
    "general_log",
    "help_category",
    "help_keyword",
    "help_relation",
    "help_topic",
    "innodb_index_stats",
    "innodb_table_stats",
    "slow_log",
    "ndb_binlog_index",
    "host",
];
/// Routines and events come as statements; of `user` there is only a view.
const SERVERS_MARIADB: [&str; 4] = ["event", "proc", "transaction_registry", "user"];
const SERVERS_MYSQL: [&str; 9] = [
    "gtid_executed",
    "replication_asynchronous_connection_failover",
    "replication_asynchronous_connection_failover_managed",
    "replication_group_configuration_version",
    "replication_group_member_actions",
    "slave_master_info",
    "slave_relay_log_info",
    "slave_worker_info",
    "innodb_dynamic_metadata",
];

/// Schemas that the server makes itself.
pub(super) const OWN_SCHEMAS: [&str; 4] = ["mysql", "sys", "performance_schema", "information_schema"];

/// Tables people keep in `mysql` or `sys` are theirs: what is not known is dumped.
pub(super) fn role(flavour: Datastore, schema: &str, name: &str) -> Role {
    if schema == "sys" {
        return if name == "sys_config" { Role::Account } else { Role::Own };
    }
    if schema != "mysql" {
        return Role::Own;
    }
    let (filled, servers): (&[&str], &[&str]) = match flavour {
        Datastore::Mariadb => (&FILLED_MARIADB, &SERVERS_MARIADB),
        Datastore::Mysql => (&FILLED_MYSQL, &SERVERS_MYSQL),
    };
    if servers.contains(&name) || SERVERS.contains(&name) || name.starts_with("gtid_slave_pos") {
        Role::Server
    } else if filled.contains(&name) || FILLED.contains(&name) {
        Role::Account
    } else {
        Role::Own
    }
}

/// The tables of accounts that are not transactional, whose rows a snapshot does not hold still.
pub(super) fn accounts_without_snapshot(flavour: Datastore) -> Vec<String> {
    match flavour {
        Datastore::Mysql => Vec::new(),
        Datastore::Mariadb => FILLED
            .iter()
            .chain(&FILLED_MARIADB)
            .filter(|name| role(flavour, "mysql", name) == Role::Account && !name.ends_with("_stats"))
            .map(|name| (*name).to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_taken_and_where_the_server_stands_is_not() {
        for (flavour, name, expected) in [
            (Datastore::Mariadb, "global_priv", Role::Account),
            (Datastore::Mariadb, "user", Role::Server),
            (Datastore::Mysql, "user", Role::Account),
            (Datastore::Mysql, "gtid_executed", Role::Server),
            (Datastore::Mariadb, "gtid_slave_pos_innodb", Role::Server),
            (Datastore::Mariadb, "somebodys", Role::Own),
            (Datastore::Mysql, "slave_master_info", Role::Server),
        ] {
            assert_eq!(role(flavour, "mysql", name), expected, "{name}");
        }
        assert_eq!(role(Datastore::Mysql, "shop", "user"), Role::Own);
    }
}
