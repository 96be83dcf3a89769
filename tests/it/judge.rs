//! The judge judged: the model of the load and the reader of `mariadb-binlog`'s text against a plain server, no appliance
//! in sight. If one of these fails, a failure elsewhere proves nothing.

use std::time::Duration;

use crate::harness::bed::Bed;
use crate::harness::history::History;
use crate::harness::load::{self, Ddl, Load};
use crate::harness::server::{GOOD, Server};
use crate::harness::{Random, events, sql};

#[test]
fn the_model_equals_what_a_plain_server_holds() {
    let bed = Bed::new("judge");
    let mut server = Server::create(&bed, "plain", GOOD);
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

    let placed = events::place_transactions(&sql::binlogs(&mut server.conn()), bed.dir());
    let gtids: Vec<String> = placed.iter().map(|one| one.gtid.clone()).collect();
    assert_eq!(gtids, history.gtids(0), "the transactions in the files are those acknowledged, in their order");
    for pair in placed.windows(2) {
        assert!(pair[0].begin < pair[0].end, "{pair:?}");
        assert!(pair[0].committed_at <= pair[1].committed_at, "{pair:?}");
        assert!(pair[0].file != pair[1].file || pair[0].end <= pair[1].begin, "{pair:?}");
    }
}

#[test]
fn a_difference_of_one_row_is_found() {
    let mut found = sql::Contents::new();
    found.insert("shop.orders".to_owned(), vec!["id".to_owned(), "1".to_owned()]);
    let mut expected = found.clone();
    expected.get_mut("shop.orders").unwrap().push("2".to_owned());
    assert!(std::panic::catch_unwind(|| sql::assert_same(&found, &expected, "one row")).is_err());
}
