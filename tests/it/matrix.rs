//! The matrix: tests that run on several servers and kinds of backup.
//!
//! A test that names no cell runs on MariaDB's. `on_every_cell!` makes one test of a function for each cell that coffer
//! has a driver for, `on_every_server!` one for each server, with backups of its files. Those lists stand here and
//! nowhere else.

/// Makes a test of a function that takes a `Cell`, for each cell whose driver exists.
macro_rules! on_every_cell {
    ($test:ident) => {
        $crate::matrix::on_cells!($test: mariadb, mariadb_dump, mariadb_next, mariadb_next_dump, mysql, mysql_dump);
    };
}

/// The same where it does not matter how backups are taken, or not enough for the time it takes.
macro_rules! on_every_server {
    ($test:ident) => {
        $crate::matrix::on_cells!($test: mariadb, mariadb_next, mysql);
    };
}

/// Makes a test of a function that takes a `Cell`, for each cell that is named.
macro_rules! on_cells {
    ($test:ident: $($cell:ident),+) => {
        mod $test {
            $(
                #[test]
                fn $cell() {
                    super::$test($crate::harness::cell::Cell::$cell());
                }
            )+
        }
    };
}

pub(crate) use {on_cells, on_every_cell, on_every_server};
