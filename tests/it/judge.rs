//! The judge judged: the model of the load and the reader of `mariadb-binlog`'s text against a plain server, no appliance
//! in sight, whether coffer has a driver for it or not. If one of these fails, a failure elsewhere proves nothing.

use std::time::Duration;

use crate::harness::bed::Bed;
use crate::harness::cell::Cell;
use crate::harness::history::History;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::{Server, dump_binlogs};
use crate::harness::{Random, events, sql};
use crate::matrix::on_cells;

on_cells!(the_model_equals_what_a_plain_server_holds: mariadb, mariadb_next, mysql);

fn the_model_equals_what_a_plain_server_holds(cell: Cell) {
    judge(cell, "");
}

on_cells!(the_model_needs_no_gtids: mysql);

fn the_model_needs_no_gtids(cell: Cell) {
    judge(cell, "gtid-mode=OFF\nenforce-gtid-consistency=OFF\n");
}

fn judge(cell: Cell, more: &str) {
    let bed = Bed::on(cell, "judge");
    let mut server = Server::create(&bed, "plain", &format!("{}{more}", cell.datastore.good()));
    server.start(&[]);
    let mut random = Random::seeded("judge");
    let mut history = History::new();
    history.record(0, load::prepare(&mut server.conn()));
    let load = Load::start_paced(&server.socket, 4, Ddl::Yes, 0, &mut random, Duration::from_millis(1));
    load.wait_commits(300);
    load.pause();
    sql::run(&mut server.conn(), "FLUSH BINARY LOGS");
    server.stop();
    server.start(&[]);
    load.go_on();
    load.wait_commits(500);
    history.record(0, load.end_clean());

    let found = sql::contents(&mut server.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, u64::MAX), "the model after all transactions");

    let files = sql::binlogs(&mut server.conn());
    let placed = events::place_transactions(&files, &bed);
    let gtids: Vec<String> = placed.iter().map(|one| one.gtid.clone()).collect();
    assert_eq!(gtids, history.gtids(0), "the transactions in the files are those acknowledged, in their order");
    for pair in placed.windows(2) {
        assert!(pair[0].begin < pair[0].end, "{pair:?}");
        assert!(pair[0].committed_at <= pair[1].committed_at, "{pair:?}");
        assert!(pair[0].file != pair[1].file || pair[0].end <= pair[1].begin, "{pair:?}");
    }

    // And the binlog leads another server to the same rows, by the server's own tools.
    let mut other = Server::create(&bed, "other", &format!("{}{more}server-id=4712\n", cell.datastore.good()));
    other.start(&[]);
    let script = bed.path("replay.sql");
    dump_binlogs(cell.datastore, &files, &[], &script);
    let said = other.client(&script, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    let found = sql::contents(&mut other.conn(), load::SCHEMA);
    sql::assert_same(&found, &history.contents(0, u64::MAX), "replayed by hand on another server");
}

#[test]
fn a_difference_of_one_row_is_found() {
    let mut found = sql::Contents::new();
    found.insert("shop.orders".to_owned(), vec!["id".to_owned(), "1".to_owned()]);
    let mut expected = found.clone();
    expected.get_mut("shop.orders").unwrap().push("2".to_owned());
    assert!(std::panic::catch_unwind(|| sql::assert_same(&found, &expected, "one row")).is_err());
}
