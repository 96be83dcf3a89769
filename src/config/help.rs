//! Every key of the configuration, with its default and its purpose: `coffer serve --help-config`.

/// A key as people read of it.
pub(super) struct Key {
    /// Empty for the top of the file.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) value: Value,
    pub(super) help: &'static str,
}

/// A value in TOML.
pub(super) enum Value {
    Default(&'static str),
    /// What one might write; the default depends on the host or is nothing.
    Example(&'static str),
}

const fn key(section: &'static str, name: &'static str, value: Value, help: &'static str) -> Key {
    Key { section, name, value, help }
}

pub(super) const KEYS: &[Key] = &[
    key(
        "",
        "state_dir",
        Value::Default("\"./coffer-data\""),
        "Coffer's state, its token and the servers it creates. Relative to the directory coffer is started in.",
    ),
    key(
        "",
        "repository_url",
        Value::Example("\"file:///var/backups/coffer\""),
        "Where backups and binlogs go: file:///folder, or\ns3://bucket/prefix?endpoint=https://host:port&region=name&path_style=true (without endpoint it is AWS; region is\nus-east-1 unless named; path_style is for when the default, true with an endpoint, is wrong), or\nswift://container/prefix?auth_url=https://host:port/v3&region=name&interface=public (/auth/v1.0 in place of /v3 for\nauth v1). Default: the folder repository in state_dir, which is on the same disk as the data it protects: good for\na try, not for the day the disk dies.",
    ),
    key(
        "",
        "workers",
        Value::Default("2"),
        "Tasks that run at the same time, 1 to 32; one instance runs one at a time.",
    ),
    key(
        "repository",
        "credentials_file",
        Value::Example("\"/etc/coffer/credentials.toml\""),
        "What opens an object store: a TOML file that only its owner may read. It has [s3] with access_key_id,\nsecret_access_key and, if there is one, session_token; or [swift] with user and key (auth v1), or with username,\npassword, project, user_domain and project_domain, or with application_credential_id and\napplication_credential_secret (Keystone). It is read again when the store does not accept it any more.\nDefault: credentials.toml in state_dir.",
    ),
    key(
        "repository",
        "ca_file",
        Value::Example("\"/etc/coffer/ca.pem\""),
        "Certificates in PEM to trust instead of the system's, for a store with a certificate of one's own.",
    ),
    key(
        "repository",
        "bandwidth_bytes_per_second",
        Value::Example("10485760"),
        "The most that goes to an object store, and the most that comes from it, 64 KiB to 1 TiB a second. Default: no limit.\nA folder is not limited.",
    ),
    key(
        "repository",
        "verify_hours",
        Value::Default("24"),
        "How often stored objects are read again and compared with their digests, up to 8784; 0 for never.",
    ),
    key(
        "repository",
        "verify_slices",
        Value::Default("7"),
        "Each time one of so many slices is read, 1 to 1000: with 24 hours and 7 slices every object once a week.",
    ),
    key(
        "repository",
        "compression",
        Value::Default("\"zstd\""),
        "zstd or gzip, for what is stored from now on. Gzip takes several times the processor time.",
    ),
    key(
        "repository",
        "encrypt_to",
        Value::Default("[]"),
        "Recipients (age's public keys, age1...) that everything stored from now on is encrypted to; any one of their\nidentities opens it. Empty: it is not encrypted.",
    ),
    key(
        "repository",
        "identity_file",
        Value::Example("\"/etc/coffer/identity.txt\""),
        "Where the identities are that open what is encrypted, as age-keygen makes them; only its owner may read it. It is\nneeded to recover and not to back up, so it may be kept elsewhere and put there when it is needed.",
    ),
    key(
        "repository",
        "identity_command",
        Value::Default("[]"),
        "Program and arguments that print what would stand in identity_file. Run only when something must be decrypted; the\nanswer stays in memory until coffer ends.",
    ),
    key(
        "repository",
        "transfers",
        Value::Default("4"),
        "Objects that a backup or a restore has on their way at a time, 1 to 16. More help with a store that is far away;\neach may take 8 MiB of memory.",
    ),
    key(
        "http",
        "listen",
        Value::Default("\"127.0.0.1:8779\""),
        "Address and port of the API and the status page. An address that other hosts can reach needs TLS.",
    ),
    key("http", "tenant", Value::Default("\"appliance\""), "The project in the API's paths: /v1.0/{tenant}/instances."),
    key(
        "http",
        "hosts",
        Value::Default("[]"),
        "Names by which clients call this host, besides 127.0.0.1, ::1 and localhost. Requests to other names are refused,\nso that no web page can reach coffer through a name of its own.",
    ),
    key(
        "http",
        "tls_certificate",
        Value::Example("\"/etc/coffer/cert.pem\""),
        "Certificate chain in PEM. Default: no TLS.",
    ),
    key("http", "tls_key", Value::Example("\"/etc/coffer/key.pem\""), "Private key in PEM."),
    key(
        "mariadb",
        "server",
        Value::Example("\"/usr/sbin/mariadbd\""),
        "The server. Default of all programs: looked up in PATH, /usr/sbin, /usr/local/sbin and /usr/bin.",
    ),
    key(
        "mariadb",
        "backup",
        Value::Example("\"/usr/bin/mariadb-backup\""),
        "Takes and prepares backups. Must be of the server's version.",
    ),
    key(
        "mariadb",
        "install_db",
        Value::Example("\"/usr/bin/mariadb-install-db\""),
        "Makes the data directory of a new server.",
    ),
    key("mariadb", "client", Value::Example("\"/usr/bin/mariadb\""), "The command line client."),
    key("mariadb", "binlog", Value::Example("\"/usr/bin/mariadb-binlog\""), "Shows binlogs; used to compare only."),
    key(
        "mariadb",
        "server_user",
        Value::Example("\"mysql\""),
        "User the servers run as that coffer creates. Default: mysql if coffer runs as root, else coffer's own user.",
    ),
    key(
        "mariadb",
        "buffer_pool_bytes",
        Value::Default("134217728"),
        "innodb_buffer_pool_size of the servers coffer creates, 8 MiB to 1 TiB.",
    ),
    key("mariadb", "dump", Value::Example("\"/usr/bin/mariadb-dump\""), "Takes logical backups."),
    key(
        "mariadb",
        "strategy",
        Value::Default("\"mariabackup\""),
        "How backups are taken: \"mariabackup\" (the server's files, by mariadb-backup) or \"dump\" (statements, by\nmariadb-dump: slower, for small servers and for those without mariadb-backup).",
    ),
    key(
        "mariadb",
        "dump_locks_tables",
        Value::Default("false"),
        "Lock all tables while a dump is taken: rows of tables without transactions (MyISAM, MEMORY) are of the same moment\nas the rest, and nobody writes until all are read.",
    ),
    key(
        "mysql",
        "server",
        Value::Example("\"/usr/sbin/mysqld\""),
        "The server, 8.0.23 or later. Programs are looked up as those of MariaDB.",
    ),
    key("mysql", "client", Value::Example("\"/usr/bin/mysql\""), "The command line client."),
    key("mysql", "binlog", Value::Example("\"/usr/bin/mysqlbinlog\""), "Shows binlogs; used to compare only."),
    key("mysql", "dump", Value::Example("\"/usr/bin/mysqldump\""), "Takes logical backups."),
    key(
        "mysql",
        "xtrabackup",
        Value::Example("\"/usr/bin/xtrabackup\""),
        "Percona XtraBackup, needed only to restore backups that were made with it.",
    ),
    key(
        "mysql",
        "strategy",
        Value::Default("\"clone\""),
        "How backups are taken: \"clone\" (the server's files, by its own CLONE plugin) or \"dump\" (statements, by mysqldump).",
    ),
    key(
        "mysql",
        "other_engines",
        Value::Default("\"refuse\""),
        "What a clone does when there are tables of other engines than InnoDB (MyISAM, ARCHIVE, CSV), of which it holds no\nrows: \"refuse\" (no backup) or \"dump\": they are taken by mysqldump beside the clone, and whoever writes to them waits\nuntil the clone has ended.",
    ),
    key(
        "mysql",
        "dump_locks_tables",
        Value::Default("false"),
        "Lock all tables while a dump is taken: rows of tables without transactions (MyISAM, MEMORY) are of the same moment\nas the rest, and nobody writes until all are read.",
    ),
    key(
        "mysql",
        "server_user",
        Value::Example("\"mysql\""),
        "User the servers run as that coffer creates. Default: mysql if coffer runs as root, else coffer's own user.",
    ),
    key(
        "mysql",
        "buffer_pool_bytes",
        Value::Default("134217728"),
        "innodb_buffer_pool_size of the servers coffer creates, 8 MiB to 1 TiB.",
    ),
    key(
        "recovery",
        "undo_window_hours",
        Value::Default("72"),
        "How long the data from before a recovery is kept beside the new, 1 to 8784.",
    ),
    key(
        "recovery",
        "replay_buffer_pool_bytes",
        Value::Default("268435456"),
        "innodb_buffer_pool_size of the scratch server of a recovery, which runs beside the serving one.",
    ),
    key(
        "shipping",
        "poll_milliseconds",
        Value::Default("100"),
        "How often the end of the binlog is looked at, 10 to 10000. A commit is in the repository about that much later.",
    ),
    key(
        "shipping",
        "chunk_bytes_max",
        Value::Default("16777216"),
        "Bytes of binlog after which a chunk ends at the next transaction, 64 KiB to 256 MiB.",
    ),
];

/// The documentation of every key, itself a file with all the defaults.
pub(crate) fn help_config() -> String {
    let mut text = String::from(
        "# Coffer's configuration. Every key may be left out; an unknown one refuses to start.\n# Values shown are the defaults; lines that begin with `#` and a key are examples.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push('\n');
        for line in key.help.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        match key.value {
            Value::Default(value) => text.push_str(&format!("{} = {value}\n", key.name)),
            Value::Example(value) => text.push_str(&format!("#{} = {value}\n", key.name)),
        }
    }
    text
}
