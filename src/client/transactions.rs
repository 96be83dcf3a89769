//! `coffer transactions`: what was committed, to find the place to recover to.

use crate::cli;
use crate::client::http::{self, Api, escape};
use crate::client::view::{self, Transaction};
use crate::client::{Client, instances, render};
use crate::error::Error;

pub(super) fn list(client: &Client, wanted: &cli::Transactions) -> Result<(), Error> {
    let query = query(wanted, &client.zone)?;
    let instance = instances::find(&client.api, &wanted.instance)?;
    let answer = client.api.get(&format!("/instances/{}/transactions?{query}", instance.id))?;
    client.print(&answer, || {
        let transactions: Vec<Transaction> = view::read(http::member(&answer, "transactions")?)?;
        if transactions.is_empty() {
            return Ok(vec!["No such transactions in what was shipped so far.".to_owned()]);
        }
        let mut lines = render_lines(client, &transactions);
        if let Some(transaction) = transactions.iter().find(|transaction| transaction.destructive) {
            lines.push(String::new());
            lines.push(format!(
                "To see what a recovery to just before {} would do: coffer recover {} {} --plan",
                transaction.gtid.as_ref().unwrap_or(&transaction.begins_at),
                instance.name,
                transaction.target_before()
            ));
        }
        Ok(lines)
    })
}

/// The newest transactions that destroy something, of `instance`.
pub(super) fn destructive(api: &Api, instance: &str) -> Result<Vec<Transaction>, Error> {
    let answer = api.get(&format!("/instances/{instance}/transactions?destructive=true&limit=50"))?;
    view::read(http::member(&answer, "transactions")?)
}

fn render_lines(client: &Client, transactions: &[Transaction]) -> Vec<String> {
    let mut table = render::Table::new(&["COMMITTED", "GTID", "BEGINS AT", "WHAT"]);
    for transaction in transactions {
        table.row([
            client.time(transaction.commit_time),
            transaction.gtid.clone().unwrap_or_else(|| "-".to_owned()),
            transaction.begins_at.clone(),
            what(transaction),
        ]);
    }
    table.lines()
}

/// The statement, or the tables when rows were logged instead; what destroys is marked.
fn what(transaction: &Transaction) -> String {
    let statement = transaction.statement.as_deref().filter(|statement| !statement.is_empty());
    let text = statement.map_or_else(|| transaction.tables.join(", "), str::to_owned);
    format!("{}{}", if transaction.destructive { "! " } else { "" }, render::shorten(&text, 80))
}

fn query(wanted: &cli::Transactions, zone: &jiff::tz::TimeZone) -> Result<String, Error> {
    let mut query = format!("limit={}", wanted.limit);
    for (name, time) in [("since", &wanted.since), ("until", &wanted.until)] {
        if let Some(text) = time {
            query.push_str(&format!("&{name}={}", escape(&render::parse_time(text, zone)?.to_string())));
        }
    }
    if let Some(table) = &wanted.table {
        query.push_str(&format!("&table={}", escape(table)));
    }
    if wanted.destructive {
        query.push_str("&destructive=true");
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::{query, render_lines};
    use crate::cli::{Command, Parsed, Transactions, parse};
    use crate::client::Client;
    use crate::client::canned::Canned;
    use crate::client::view;

    fn wanted(line: &str) -> Transactions {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let Parsed::Run(command) = parse(&words) else { panic!("{line}") };
        let Command::Transactions(wanted) = *command else { panic!("{line}") };
        wanted
    }

    #[test]
    fn what_is_wanted_becomes_a_query() {
        let line = "transactions shop --since 2026-01-01T02:00:00+02:00 --table shop.orders --destructive --limit 5";
        assert_eq!(
            query(&wanted(line), &TimeZone::UTC).unwrap(),
            "limit=5&since=2026-01-01T00%3A00%3A00Z&table=shop.orders&destructive=true"
        );
        assert!(query(&wanted("transactions shop --until 2026-01-01"), &TimeZone::UTC).is_err());
    }

    #[test]
    fn a_statement_that_destroys_is_marked() {
        let canned = Canned::new(&[]);
        let transactions: Vec<view::Transaction> = view::read(&json!([
            {"gtid": "0-1-9", "begins_at": "b.000001:4", "statement": "DROP TABLE orders", "destructive": true},
            {"gtid": "0-1-8", "begins_at": "b.000001:2", "tables": ["shop.orders", "shop.stock"], "statement": null}
        ]))
        .unwrap();
        let lines = render_lines(&Client::of(&canned), &transactions);
        assert!(lines.get(1).is_some_and(|line| line.ends_with("! DROP TABLE orders")), "{lines:?}");
        assert!(lines.get(2).is_some_and(|line| line.ends_with("shop.orders, shop.stock")), "{lines:?}");
    }
}
