//! The small files in which tools say what a backup is.

use std::fs;

use crate::datastore::mariadb;
use crate::datastore::version::plain_version;
use crate::testing::fuzz::{Dice, Target, mutate};

const CORPUS: [&str; 6] = [
    "binlog.000009\t379\t0-11-757\n",
    "/var/log/mysql/binlog.000009\t379\t\n",
    "tool_name = mariadb-backup\nserver_version = 10.11.19-MariaDB-log\nbinlog_pos = filename 'binlog.000002', position '342'\n",
    "[mysqld]\ninnodb_page_size=16384\ninnodb_data_file_path=ibdata1:12M:autoextend\ninnodb_undo_tablespaces=3\n",
    "2026-11-21 10:00:00 0 [Note] x\n[00] 2026-11-21 10:00:00 completed OK!\n",
    "10.11.19-MariaDB-0+deb12u1-log",
];

/// Where a backup ends, what server it is of, and what a server needs to open it.
pub(super) struct ToolFiles;

impl Target for ToolFiles {
    fn name(&self) -> &'static str {
        "tool-files"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let other = *dice.pick(&CORPUS);
        let mut text = dice.pick(&CORPUS).as_bytes().to_vec();
        mutate::change(dice, &mut text, other.as_bytes());
        text
    }

    fn read(&mut self, input: &[u8]) {
        // As the backup does, which holds them in memory.
        let text = String::from_utf8_lossy(input);
        if let Ok(position) = mariadb::parse_binlog_info(&text) {
            assert_eq!(position.to_string().parse::<crate::domain::coordinate::BinlogPosition>().unwrap(), position);
        }
        let _ = mariadb::info_field(&text, "server_version").map(plain_version);
        let _ = (plain_version(&text), mariadb::check_completed("tool", &text));
        // As the recovery does, which finds them on disk.
        let scratch = super::Scratch::new();
        for name in ["xtrabackup_binlog_pos_innodb", "backup-my.cnf"] {
            #[expect(clippy::disallowed_methods, reason = "nobody relies on it after a crash")]
            fs::write(scratch.0.join(name), input).unwrap();
        }
        let _ = mariadb::innodb_binlog_position(&scratch.0);
        let _ = mariadb::innodb_layout(&scratch.0);
    }

    fn memory_max(&self, input_bytes: usize) -> usize {
        (64 << 10) + 64 * input_bytes
    }
}
