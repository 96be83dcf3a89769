//! Servers that coffer creates: a new data directory and the option file to run it with.

use std::path::Path;
use std::time::Duration;

use crate::datastore::option_file::OptionGroup;
use crate::datastore::owner::Owner;
use crate::datastore::{Tools, mysqld};
use crate::domain::instance::Server;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::process::{Cmd, User};

const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);
/// The account that `--initialize-insecure` makes.
const ROOT: &str = "root";

/// Makes a new data directory. One account can log in, over the socket, as the user coffer runs as.
/// `tmpdir` is the installation's own.
pub(crate) fn install(tools: &Tools, data_dir: &Path, tmpdir: &Path) -> Result<(), Error> {
    let owner = Owner::of_user(&tools.server_user)?;
    for dir in [data_dir, tmpdir] {
        std::fs::create_dir_all(dir).map_err(|err| io_error("unable to create", dir, err))?;
        owner.give(dir)?;
    }
    let init_file = tmpdir.join("init.sql");
    durable::write(&init_file, accounts(&User::own().name)?.as_bytes(), 0o600)?;
    owner.give(&init_file)?;
    let made = Cmd::new(&tools.server)
        .arg("--no-defaults")
        .arg("--initialize-insecure")
        .arg(format!("--user={}", tools.server_user))
        .arg(format!("--datadir={}", data_dir.display()))
        .arg(format!("--tmpdir={}", tmpdir.display()))
        .arg(format!("--init-file={}", init_file.display()))
        // The compiled-in directory may not exist, and then the server refuses to start.
        .arg("--secure-file-priv=NULL")
        .deadline(INSTALL_TIMEOUT)
        .run();
    std::fs::remove_file(&init_file).map_err(|err| io_error("unable to remove", &init_file, err))?;
    made?;
    if !data_dir.join("mysql.ibd").is_file() {
        return Err(Error::new(
            ErrorKind::Tool,
            format!("`mysqld --initialize` ended well but `{}` holds no system tables", data_dir.display()),
        ));
    }
    Ok(())
}

/// The statements that leave one account, which knows the operating system's user. While a data directory is made no
/// plugin is loaded, so the account can't be told its own in any other way than in the table.
fn accounts(user: &str) -> Result<String, Error> {
    if user.is_empty() || !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err(Error::new(ErrorKind::Unsupported, format!("the user name `{user}` needs quoting"))
            .hint("Run coffer as a user whose name holds letters, digits, dots, dashes and underscores only."));
    }
    let mut statements = String::new();
    if user != ROOT {
        statements.push_str(&format!(
            "CREATE USER '{user}'@localhost;\nGRANT ALL ON *.* TO '{user}'@localhost WITH GRANT OPTION;\n\
             ALTER USER {ROOT}@localhost ACCOUNT LOCK;\n"
        ));
    }
    statements.push_str(&format!(
        "UPDATE mysql.user SET plugin='auth_socket', authentication_string='' WHERE User IN ('{user}','{ROOT}');\n"
    ));
    Ok(statements)
}

/// The group of the server itself in the option file of a server that coffer creates.
pub(crate) fn created_options(tools: &Tools, server: &Server, server_id: u32) -> OptionGroup {
    let run_dir = mysqld::run_dir(server);
    OptionGroup::default()
        .set("user", &tools.server_user)
        .path("datadir", &server.data_dir)
        .path("socket", &server.socket)
        .path("tmpdir", &mysqld::tmp_dir(server))
        .path("pid_file", &run_dir.join("mysqld.pid"))
        .path("log_error", &run_dir.join("mysqld.log"))
        .set("bind_address", "127.0.0.1")
        .set("port", server.port)
        .set("mysqlx", "OFF")
        .set("plugin_load_add", "auth_socket.so")
        .set("plugin_load_add", "mysql_clone.so")
        .set("secure_file_priv", "NULL")
        .set("server_id", server_id)
        .path("log_bin", &server.binlog_base)
        .set("gtid_mode", "ON")
        .set("enforce_gtid_consistency", "ON")
        // Row events alone do not say which statement they come from, and people look for the statement.
        .set("binlog_rows_query_log_events", "ON")
        .set("sync_binlog", 1)
        .set("innodb_flush_log_at_trx_commit", 1)
        .set("innodb_buffer_pool_size", tools.buffer_pool_bytes)
        .set("max_binlog_size", 256 * 1024 * 1024)
}

#[cfg(test)]
mod tests {
    use crate::datastore::mysql::testing::TestMysql;

    use super::*;

    #[test]
    fn an_account_that_would_need_quoting_is_refused() {
        for name in ["", "a'b", "a b", "a\\"] {
            assert_eq!(accounts(name).unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        }
        assert!(accounts("coffer").unwrap().contains("ALTER USER root@localhost ACCOUNT LOCK"));
        assert!(!accounts(ROOT).unwrap().contains("LOCK"));
    }

    #[test]
    fn a_new_server_lets_nobody_in_but_the_user_it_was_made_for_and_has_used_no_gtid() {
        let server = TestMysql::start("");
        let mut sql = server.sql();
        let accounts =
            sql.rows("SELECT user, plugin FROM mysql.user WHERE account_locked = 'N' ORDER BY user").unwrap();
        assert_eq!(accounts, [[User::own().name, "auth_socket".to_owned()]]);
        assert_eq!(sql.value("SELECT @@GLOBAL.gtid_executed").unwrap(), "");
        assert_eq!(sql.variable("gtid_mode").unwrap(), "ON");
        let clone = "SELECT plugin_status FROM information_schema.plugins WHERE plugin_name = 'clone'";
        assert_eq!(sql.value(clone).unwrap(), "ACTIVE");
    }
}
