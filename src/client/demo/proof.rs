//! The proof: what the server holds against what its clients know, row by row. Pure.
//!
//! A transaction must be there whole, with exact contents in all its tables, or not at all. Which of the two is decided
//! from the clients' records alone: by the GTID each acknowledged commit was given, and by the run of the server it was
//! sent to. What runs while the proof reads, and what a server that stopped never answered, may be either.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::demo::record::{Attempt, Content, Fate};
use crate::domain::gtid::Gtid;

/// The cells of a row, as text.
pub(super) type Row = Vec<String>;

/// The rows of one table that carry a serial number, by that number.
pub(super) type Rows = BTreeMap<u64, Vec<Row>>;

/// Added to a serial number for the primary key of the rows it writes, so that they never meet those loaded before.
pub(super) const ID_OFFSET: u64 = 1_000_000_000;

/// What was read from the server, all in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// By table; `orders` is absent when the server has no such table.
    pub(super) tables: BTreeMap<&'static str, Rows>,
    /// Pieces on hand, by product.
    pub(super) stock: BTreeMap<u64, i64>,
    /// Points, by customer.
    pub(super) points: BTreeMap<u64, i64>,
    /// Number and digest of the rows loaded before the clients began, by table.
    pub(super) base: BTreeMap<&'static str, String>,
}

/// What was there when the clients began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) stock: BTreeMap<u64, i64>,
    pub(super) points: BTreeMap<u64, i64>,
    pub(super) base: BTreeMap<&'static str, String>,
}

/// What a server must hold of the transactions sent to one phase of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Every one that was acknowledged.
    All,
    /// Those before this transaction, and none from it on.
    Before(Gtid),
    Nothing,
    /// It is being written now.
    Current,
}

/// Whether the table that was dropped must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orders {
    There,
    Dropped,
}

/// What the server must hold now.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The first run of the server of each phase, and the rule for the phase.
    pub(super) phases: Vec<(usize, Rule)>,
    pub(super) orders: Orders,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// Acknowledged by an earlier run of the server, must be there, and are.
    pub(super) kept: u64,
    /// Acknowledged by the present run before the proof began, must be there, and are.
    pub(super) current: u64,
    /// Sent for COMMIT, must not be there, and are not.
    pub(super) given_up: u64,
    /// Never came to a COMMIT, and are not there.
    pub(super) rolled_back: u64,
    /// Might be either, since their COMMIT was under way or never answered; whole if there.
    pub(super) either: u64,
    pub(super) rows_compared: u64,
    pub(super) differences_count: u64,
    /// The first few differences, for people.
    pub(super) differences: Vec<String>,
}

impl Proof {
    /// Differences kept as text.
    const DIFFERENCES_MAX: usize = 10;

    pub(super) fn holds(&self) -> bool {
        self.differences_count == 0
    }

    fn differ(&mut self, text: String) {
        self.differences_count += 1;
        if self.differences.len() < Proof::DIFFERENCES_MAX {
            self.differences.push(text);
        }
    }
}

/// Compares. `before` are the clients' records from before the server was read, `after` those from after it was.
pub(super) fn prove(
    claim: &Claim,
    beginning: &Beginning,
    before: &[Attempt],
    after: &[Attempt],
    found: &Found,
) -> Proof {
    let fates_before: BTreeMap<u64, Fate> = before.iter().map(|attempt| (attempt.serial, attempt.fate)).collect();
    let mut proof = Proof::default();
    let mut present: Vec<&Attempt> = Vec::new();
    let mut known: BTreeSet<u64> = BTreeSet::new();
    for attempt in after {
        known.insert(attempt.serial);
        let fate_before = fates_before.get(&attempt.serial).copied();
        if compare(&mut proof, claim, attempt, fate_before, found) {
            present.push(attempt);
        }
    }
    for (table, rows) in &found.tables {
        for serial in rows.keys().filter(|serial| !known.contains(serial)) {
            proof.differ(format!("{table} holds serial {serial}, which no client ever wrote"));
        }
    }
    compare_tables(&mut proof, claim.orders, beginning, found);
    let (stock, points) = sums(beginning, &present);
    compare_sums(&mut proof, "stock of product", &stock, &found.stock);
    compare_sums(&mut proof, "points of customer", &points, &found.points);
    proof
}

/// Checks that no GTID was given twice and that every phase's are above those of the phases before it: what is written
/// after a recovery is a history of its own. Says what is wrong.
pub(super) fn prove_histories_apart(phases: &[usize], attempts: &[Attempt]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(String, u64), u64> = BTreeMap::new();
    let mut spans: Vec<Option<(Gtid, Gtid)>> = vec![None; phases.len()];
    for attempt in attempts {
        let Fate::Acknowledged { gtid: Some(gtid) } = attempt.fate else { continue };
        if let Some(other) = seen.insert((counter(&gtid), gtid.number()), attempt.serial) {
            wrong.push(format!("GTID {gtid} was given to serial {other} and to serial {}", attempt.serial));
        }
        let phase = phases.iter().rposition(|first| attempt.boot >= *first);
        if let Some(span) = phase.and_then(|phase| spans.get_mut(phase)) {
            let (low, high) = span.unwrap_or((gtid, gtid));
            let lower = if gtid.number() < low.number() { gtid } else { low };
            let higher = if gtid.number() > high.number() { gtid } else { high };
            *span = Some((lower, higher));
        }
    }
    let spans: Vec<(Gtid, Gtid)> = spans.into_iter().flatten().collect();
    for (earlier, later) in spans.iter().zip(spans.iter().skip(1)) {
        if later.0.is_comparable(&earlier.1) && later.0.number() <= earlier.1.number() {
            wrong.push(format!("GTID {} came after the switch, but {} before it", later.0, earlier.1));
        }
    }
    wrong.truncate(Proof::DIFFERENCES_MAX);
    wrong
}

/// Where a number may be used once only: MariaDB's domain, MySQL's server.
fn counter(gtid: &Gtid) -> String {
    match gtid {
        Gtid::Mariadb(gtid) => gtid.domain.to_string(),
        Gtid::Mysql(gtid) => gtid.source.to_string(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    There,
    Absent,
    Either,
}

/// The rule for the phase an attempt belongs to.
fn rule_of(claim: &Claim, attempt: &Attempt) -> Rule {
    let phase = claim.phases.iter().rev().find(|(first, _)| attempt.boot >= *first);
    phase.map_or(Rule::Nothing, |(_, rule)| *rule)
}

fn expect(rule: Rule, attempt: &Attempt, fate_before: Option<Fate>) -> Expected {
    match (rule, attempt.fate) {
        (_, Fate::RolledBack) | (Rule::Nothing, _) => Expected::Absent,
        (Rule::All, Fate::Acknowledged { .. }) => Expected::There,
        (Rule::All, Fate::Open | Fate::InDoubt) => Expected::Either,
        (Rule::Before(cut), Fate::Acknowledged { gtid: Some(gtid) }) => {
            let is_before = gtid.is_comparable(&cut) && gtid.number() < cut.number();
            if is_before { Expected::There } else { Expected::Absent }
        }
        (Rule::Before(_), _) if attempt.after_drop => Expected::Absent,
        (Rule::Before(_), _) => Expected::Either,
        (Rule::Current, _) if matches!(fate_before, Some(Fate::Acknowledged { .. })) => Expected::There,
        (Rule::Current, _) => Expected::Either,
    }
}

/// Compares one transaction in all tables; whether it is there.
fn compare(proof: &mut Proof, claim: &Claim, attempt: &Attempt, fate_before: Option<Fate>, found: &Found) -> bool {
    let rule = rule_of(claim, attempt);
    let wanted = expect(rule, attempt, fate_before);
    let rows_wanted = rows_of(attempt, claim.orders);
    let rows_found: Vec<(&'static str, Vec<Row>)> = found
        .tables
        .iter()
        .filter_map(|(table, rows)| rows.get(&attempt.serial).map(|rows| (*table, rows.clone())))
        .collect();
    proof.rows_compared += rows_found.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>();
    let serial = attempt.serial;
    let name = match attempt.fate {
        Fate::Acknowledged { gtid: Some(gtid) } => format!("serial {serial} ({gtid})"),
        _ => format!("serial {serial}"),
    };
    match (wanted, rows_found.is_empty()) {
        (Expected::There, true) => proof.differ(format!("{name} was acknowledged and is missing")),
        (Expected::Absent, false) => {
            let tables: Vec<&str> = rows_found.iter().map(|(table, _)| *table).collect();
            proof.differ(format!("{name} must not be there and has rows in {}", tables.join(", ")));
        }
        (Expected::Absent, true) if attempt.fate == Fate::RolledBack => proof.rolled_back += 1,
        (Expected::Absent, true) => proof.given_up += 1,
        // What was announced only after the proof had begun says nothing by not being there.
        (Expected::Either, true) => proof.either += u64::from(fate_before.is_some()),
        (Expected::There | Expected::Either, false) => match difference(&rows_wanted, &rows_found) {
            Some(text) => proof.differ(format!("{name} is there in part: {text}")),
            None if wanted == Expected::There && rule == Rule::Current => proof.current += 1,
            None if wanted == Expected::There => proof.kept += 1,
            None => proof.either += 1,
        },
    }
    !rows_found.is_empty()
}

/// The first table in which the rows differ.
fn difference(wanted: &BTreeMap<&'static str, Vec<Row>>, found: &[(&'static str, Vec<Row>)]) -> Option<String> {
    let found: BTreeMap<&str, &Vec<Row>> = found.iter().map(|(table, rows)| (*table, rows)).collect();
    for (table, rows) in wanted {
        let mut wanted_sorted = rows.clone();
        wanted_sorted.sort();
        let mut found_sorted = found.get(table).map(|rows| (*rows).clone()).unwrap_or_default();
        found_sorted.sort();
        if wanted_sorted != found_sorted {
            return Some(format!("{table} holds {found_sorted:?} instead of {wanted_sorted:?}"));
        }
    }
    found.keys().find(|table| !wanted.contains_key(*table)).map(|table| format!("{table} holds rows it never wrote"))
}

/// Every row a transaction writes, by table, serial number left out.
pub(super) fn rows_of(attempt: &Attempt, orders: Orders) -> BTreeMap<&'static str, Vec<Row>> {
    let id = (ID_OFFSET + attempt.serial).to_string();
    let total = attempt.content.total_cents().to_string();
    let mut rows: BTreeMap<&'static str, Vec<Row>> = BTreeMap::new();
    match &attempt.content {
        Content::Sale { customer, method, items } => {
            if orders == Orders::There {
                rows.insert("orders", vec![vec![id.clone(), customer.to_string(), total.clone(), "paid".to_owned()]]);
            }
            let lines = items.iter().enumerate().map(|(line, item)| {
                let cells = [line as u64 + 1, item.product, item.quantity, item.price_cents];
                let mut row = vec![id.clone()];
                row.extend(cells.iter().map(u64::to_string));
                row
            });
            rows.insert("order_items", lines.collect());
            rows.insert("payments", vec![vec![id, customer.to_string(), total, method.name().to_owned()]]);
        }
        Content::Deposit { customer, method, .. } => {
            rows.insert("payments", vec![vec![id, customer.to_string(), total, method.name().to_owned()]]);
        }
        Content::Delivery { .. } => {}
    }
    rows.insert("ledger", vec![vec![attempt.client.to_string(), attempt.content.kind().to_owned(), note_of(attempt)]]);
    rows
}

/// What the ledger says of a transaction: enough to tell one from another.
pub(super) fn note_of(attempt: &Attempt) -> String {
    match &attempt.content {
        Content::Sale { items, .. } | Content::Delivery { items } => {
            let items: Vec<String> =
                items.iter().map(|item| format!("{}x{}@{}", item.quantity, item.product, item.price_cents)).collect();
            items.join(" ")
        }
        Content::Deposit { customer, amount_cents, .. } => format!("{amount_cents} by {customer}"),
    }
}

/// Stock and points as they follow from the beginning and the transactions that are there.
fn sums(beginning: &Beginning, present: &[&Attempt]) -> (BTreeMap<u64, i64>, BTreeMap<u64, i64>) {
    let (mut stock, mut points) = (beginning.stock.clone(), beginning.points.clone());
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for attempt in present {
        match &attempt.content {
            Content::Sale { items, .. } => {
                items.iter().for_each(|item| *stock.entry(item.product).or_default() -= signed(item.quantity));
            }
            Content::Delivery { items } => {
                items.iter().for_each(|item| *stock.entry(item.product).or_default() += signed(item.quantity));
            }
            Content::Deposit { customer, amount_cents, .. } => {
                *points.entry(*customer).or_default() += signed(*amount_cents);
            }
        }
    }
    (stock, points)
}

fn compare_sums(proof: &mut Proof, what: &str, wanted: &BTreeMap<u64, i64>, found: &BTreeMap<u64, i64>) {
    proof.rows_compared += found.len() as u64;
    for id in wanted.keys().chain(found.keys().filter(|id| !wanted.contains_key(id))) {
        if wanted.get(id) != found.get(id) {
            let show = |value: Option<&i64>| value.map_or_else(|| "nothing".to_owned(), i64::to_string);
            proof.differ(format!("{what} {id} is {} instead of {}", show(found.get(id)), show(wanted.get(id))));
        }
    }
}

fn compare_tables(proof: &mut Proof, orders: Orders, beginning: &Beginning, found: &Found) {
    match (orders, found.tables.contains_key("orders")) {
        (Orders::There, false) => proof.differ("table orders is missing".to_owned()),
        (Orders::Dropped, true) => proof.differ("table orders is there, but was dropped".to_owned()),
        _ => {}
    }
    for (table, wanted) in &beginning.base {
        if *table == "orders" && orders == Orders::Dropped {
            continue;
        }
        match found.base.get(table) {
            Some(digest) if digest == wanted => {}
            Some(digest) => proof.differ(format!("the rows loaded into {table} changed: {digest} instead of {wanted}")),
            None => proof.differ(format!("the rows loaded into {table} are missing")),
        }
    }
}

#[cfg(test)]
mod tests;
