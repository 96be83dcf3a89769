use std::collections::BTreeMap;

use super::{Beginning, Claim, Found, Orders, Proof, Rule, prove, prove_histories_apart, rows_of};
use crate::client::demo::record::{Attempt, Content, Fate, Item, Method};
use crate::domain::gtid::{Gtid, MariadbGtid};

const DROP_GTID: MariadbGtid = MariadbGtid { domain: 0, server_id: 11, sequence: 100 };
const DROP: Gtid = Gtid::Mariadb(DROP_GTID);

fn acknowledged(sequence: u64) -> Fate {
    Fate::Acknowledged { gtid: Some(Gtid::Mariadb(MariadbGtid { sequence, ..DROP_GTID })) }
}

fn attempt(serial: u64, boot: usize, after_drop: bool, fate: Fate) -> Attempt {
    let items = vec![
        Item { product: 1 + serial % 3, quantity: 2, price_cents: 500 },
        Item { product: 4, quantity: serial, price_cents: 10 },
    ];
    let content = match serial % 3 {
        0 => Content::Delivery { items },
        1 => Content::Sale { customer: 7, method: Method::Card, items },
        _ => Content::Deposit { customer: 8, method: Method::Cash, amount_cents: serial },
    };
    Attempt { serial, client: 1, boot, after_drop, content, fate }
}

fn beginning() -> Beginning {
    Beginning {
        stock: (1..=4).map(|product| (product, 1000)).collect(),
        points: [(7, 0), (8, 5)].into(),
        base: [("orders", "10:abc".to_owned()), ("customers", "2:def".to_owned())].into(),
    }
}

/// A server that holds exactly these transactions.
fn server(held: &[&Attempt], orders: Orders) -> Found {
    let mut found = Found { base: beginning().base, ..Found::default() };
    for table in ["orders", "order_items", "payments", "ledger"] {
        found.tables.insert(table, BTreeMap::new());
    }
    for attempt in held {
        for (table, rows) in rows_of(attempt, orders) {
            found.tables.get_mut(table).unwrap().insert(attempt.serial, rows);
        }
    }
    (found.stock, found.points) = super::sums(&beginning(), held);
    if orders == Orders::Dropped {
        found.tables.remove("orders");
        found.base.remove("orders");
    }
    found
}

/// Three before the DROP, the rest after it or after the recovery.
fn history() -> Vec<Attempt> {
    vec![
        attempt(1, 0, false, acknowledged(97)),
        attempt(2, 0, false, acknowledged(98)),
        attempt(3, 0, false, acknowledged(99)),
        attempt(4, 0, false, Fate::RolledBack),
        attempt(5, 0, false, acknowledged(101)),
        attempt(6, 0, true, acknowledged(102)),
        attempt(7, 0, true, Fate::RolledBack),
        attempt(8, 0, true, Fate::InDoubt),
        attempt(9, 0, true, Fate::Acknowledged { gtid: None }),
        attempt(10, 1, true, acknowledged(110)),
        attempt(11, 1, true, Fate::Open),
    ]
}

fn recovered() -> Claim {
    Claim { phases: vec![(0, Rule::Before(DROP)), (1, Rule::Current)], orders: Orders::There }
}

fn check(claim: &Claim, held: &[u64]) -> Proof {
    let history = history();
    let held: Vec<&Attempt> = history.iter().filter(|attempt| held.contains(&attempt.serial)).collect();
    prove(claim, &beginning(), &history, &history, &server(&held, claim.orders))
}

#[test]
fn the_exact_prefix_and_what_is_written_now_hold() {
    let proof = check(&recovered(), &[1, 2, 3, 10]);
    assert_eq!(proof.differences, Vec::<String>::new());
    assert_eq!((proof.kept, proof.current), (3, 1));
    assert_eq!((proof.given_up, proof.rolled_back, proof.either), (4, 2, 1));
    // 1 and 10 are sales: order, two items, payment, ledger; 2 a deposit; 3 a delivery; then 4 products, 2 customers.
    assert_eq!(proof.rows_compared, 5 + 2 + 1 + 5 + 6);
    // Under way while the server was read: it may have been committed in between.
    assert!(check(&recovered(), &[1, 2, 3, 10, 11]).holds());
}

#[test]
fn a_missing_transaction_is_found() {
    for missing in [1, 2, 3, 10] {
        let held: Vec<u64> = [1, 2, 3, 10].into_iter().filter(|serial| *serial != missing).collect();
        let proof = check(&recovered(), &held);
        assert_eq!(proof.differences_count, 1, "{missing}: {:?}", proof.differences);
        assert!(proof.differences.iter().any(|text| text.contains(&format!("serial {missing} "))), "{proof:?}");
    }
}

#[test]
fn a_transaction_from_after_the_drop_is_found() {
    for extra in [4, 5, 6, 7, 8, 9] {
        let proof = check(&recovered(), &[1, 2, 3, 10, extra]);
        assert_eq!(proof.differences_count, 1, "{extra}: {:?}", proof.differences);
    }
}

#[test]
fn a_row_that_is_missing_extra_or_changed_is_found_in_every_table() {
    let history = history();
    let held: Vec<&Attempt> = history.iter().filter(|attempt| [1, 2, 3, 10].contains(&attempt.serial)).collect();
    let whole = server(&held, Orders::There);
    let differences = |found: &Found| prove(&recovered(), &beginning(), &history, &history, found).differences_count;
    assert_eq!(differences(&whole), 0);
    for table in ["orders", "order_items", "payments", "ledger"] {
        let mut without = whole.clone();
        without.tables.get_mut(table).unwrap().remove(&1);
        assert_eq!(differences(&without), 1, "{table} without a row");
        let mut twice = whole.clone();
        let rows = twice.tables.get_mut(table).unwrap().get_mut(&1).unwrap();
        rows.push(rows.first().unwrap().clone());
        assert_eq!(differences(&twice), 1, "{table} with a row twice");
        let mut changed = whole.clone();
        let rows = changed.tables.get_mut(table).unwrap().get_mut(&1).unwrap();
        rows.first_mut().unwrap().last_mut().unwrap().push('9');
        assert_eq!(differences(&changed), 1, "{table} with a changed cell");
        let mut strange = whole.clone();
        strange.tables.get_mut(table).unwrap().insert(4711, vec![vec!["x".to_owned()]]);
        assert_eq!(differences(&strange), 1, "{table} with a row nobody wrote");
    }
    let mut one_item = whole.clone();
    one_item.tables.get_mut("order_items").unwrap().get_mut(&1).unwrap().pop();
    assert_eq!(differences(&one_item), 1, "an order without its last item");
}

#[test]
fn sums_and_loaded_rows_are_compared_too() {
    let history = history();
    let held: Vec<&Attempt> = history.iter().filter(|attempt| [1, 2, 3, 10].contains(&attempt.serial)).collect();
    let whole = server(&held, Orders::There);
    let differences = |change: &dyn Fn(&mut Found)| {
        let mut found = whole.clone();
        change(&mut found);
        prove(&recovered(), &beginning(), &history, &history, &found).differences_count
    };
    assert_eq!(differences(&|found| *found.stock.get_mut(&4).unwrap() += 1), 1);
    assert_eq!(differences(&|found| assert!(found.stock.remove(&4).is_some())), 1);
    assert_eq!(differences(&|found| assert_eq!(found.points.insert(99, 0), None)), 1);
    assert_eq!(differences(&|found| drop(found.base.insert("customers", "2:xyz".to_owned()))), 1);
    assert_eq!(differences(&|found| drop(found.base.remove("customers"))), 1);
    assert_eq!(differences(&|found| drop(found.tables.remove("orders"))), 3);
}

#[test]
fn after_the_undo_everything_but_the_recoverys_own_history_is_back() {
    let claim = Claim { phases: vec![(0, Rule::All), (1, Rule::Nothing), (2, Rule::Current)], orders: Orders::Dropped };
    assert!(check(&claim, &[1, 2, 3, 5, 6, 9]).holds());
    assert!(check(&claim, &[1, 2, 3, 5, 6, 8, 9]).holds(), "a COMMIT that was never answered may be either");
    assert_eq!(check(&claim, &[1, 2, 3, 5, 6]).differences_count, 1, "acknowledged, its GTID never told");
    assert_eq!(check(&claim, &[1, 2, 3, 5, 6, 9, 10]).differences_count, 1, "written after the recovery");
    assert_eq!(check(&Claim { orders: Orders::There, ..claim.clone() }, &[1, 2, 3, 5, 6, 9]).differences_count, 0);
}

#[test]
fn a_table_that_should_be_gone_is_found() {
    let history = history();
    let claim = Claim { phases: vec![(0, Rule::All), (1, Rule::Nothing)], orders: Orders::Dropped };
    let mut found = server(&[], Orders::Dropped);
    found.tables.insert("orders", BTreeMap::new());
    let proof = prove(&claim, &beginning(), &history, &history, &found);
    assert!(proof.differences.iter().any(|text| text.contains("orders is there")), "{proof:?}");
}

#[test]
fn what_was_acknowledged_only_while_the_server_was_read_may_be_either() {
    let before = vec![attempt(10, 1, true, Fate::Open)];
    let after = vec![attempt(10, 1, true, acknowledged(110))];
    for held in [vec![], after.iter().collect::<Vec<_>>()] {
        let proof = prove(&recovered(), &beginning(), &before, &after, &server(&held, Orders::There));
        assert_eq!((proof.either, proof.differences_count), (1, 0), "{proof:?}");
    }
}

#[test]
fn a_gtid_given_twice_or_out_of_order_is_found() {
    assert_eq!(prove_histories_apart(&[0, 1], &history()), Vec::<String>::new());
    let mut twice = history();
    twice.push(attempt(12, 1, true, acknowledged(102)));
    assert_eq!(prove_histories_apart(&[0, 1], &twice).len(), 2);
    let mut low = history();
    low.push(attempt(12, 1, true, acknowledged(90)));
    assert_eq!(prove_histories_apart(&[0, 1], &low).len(), 1);
}
