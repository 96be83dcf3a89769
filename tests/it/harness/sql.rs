//! Plain SQL over a server's socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Row, Value};

/// What a server holds: per `schema.table` the sorted lines of its rows, the column names first.
pub(crate) type Contents = BTreeMap<String, Vec<String>>;

/// Connects as the server's root, who needs no password on the socket, or as the operating system's user.
pub(crate) fn connect(socket: &Path) -> Result<Conn, mysql::Error> {
    let as_user = |name: &str| {
        let options = OptsBuilder::new().socket(Some(socket.to_string_lossy().into_owned())).user(Some(name));
        Conn::new(options.prefer_socket(true))
    };
    match as_user("root") {
        Err(mysql::Error::MySqlError(_)) if !rustix::process::geteuid().is_root() => as_user(super::server::account()),
        answer => answer,
    }
}

/// One column of one row, as text.
#[track_caller]
pub(crate) fn ask(conn: &mut Conn, query: &str) -> String {
    let row: Option<Row> = conn.query_first(query).unwrap_or_else(|err| panic!("{query}: {err}"));
    let row = row.unwrap_or_else(|| panic!("no row: {query}"));
    render(&row[0])
}

/// One row by its column names.
#[track_caller]
pub(crate) fn row(conn: &mut Conn, query: &str) -> BTreeMap<String, String> {
    let row: Option<Row> = conn.query_first(query).unwrap_or_else(|err| panic!("{query}: {err}"));
    let row = row.unwrap_or_else(|| panic!("no row: {query}"));
    let names = row.columns_ref().iter().map(|column| column.name_str().into_owned());
    names.enumerate().map(|(at, name)| (name, render(&row[at]))).collect()
}

#[track_caller]
pub(crate) fn run(conn: &mut Conn, statement: &str) {
    conn.query_drop(statement).unwrap_or_else(|err| panic!("{}: {err}", shortened(statement)));
}

/// Runs a statement and returns the id of the transaction it committed.
#[track_caller]
pub(crate) fn commit(conn: &mut Conn, statement: &str) -> String {
    run(conn, statement);
    ask(conn, "SELECT @@last_gtid")
}

/// Everything in the schemas whose name begins with `prefix`.
pub(crate) fn contents(conn: &mut Conn, prefix: &str) -> Contents {
    let tables: Vec<(String, String)> = conn
        .query(format!(
            "SELECT table_schema, table_name FROM information_schema.tables \
             WHERE table_schema LIKE '{prefix}%' AND table_type = 'BASE TABLE'"
        ))
        .unwrap();
    let mut found = Contents::new();
    for (schema, table) in tables {
        let columns: Vec<String> = conn
            .query(format!(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = '{schema}' \
                 AND table_name = '{table}' ORDER BY ordinal_position"
            ))
            .unwrap();
        let rows: Vec<Row> = conn.query(format!("SELECT * FROM `{schema}`.`{table}`")).unwrap();
        let mut lines: Vec<String> =
            rows.iter().map(|row| (0..row.len()).map(|n| render(&row[n])).collect::<Vec<_>>().join("\t")).collect();
        lines.sort();
        lines.insert(0, columns.join("\t"));
        found.insert(format!("{schema}.{table}"), lines);
    }
    found
}

/// The server's binlog files, oldest first.
pub(crate) fn binlogs(conn: &mut Conn) -> Vec<PathBuf> {
    let base = PathBuf::from(ask(conn, "SELECT @@log_bin_basename"));
    let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").unwrap();
    rows.iter().map(|row| base.with_file_name(render(&row[0]))).collect()
}

/// Panics with the first few differences.
#[track_caller]
pub(crate) fn assert_same(found: &Contents, expected: &Contents, what: &str) {
    if found == expected {
        return;
    }
    let mut report = Vec::new();
    for name in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (Some(left), Some(right)) = (found.get(name), expected.get(name)) else {
            let there = if found.contains_key(name) { "too much" } else { "missing" };
            report.push(format!("table {name}: {there}"));
            continue;
        };
        let extra: Vec<_> =
            left.iter().filter(|line| right.binary_search(line).is_err() && !right.contains(line)).collect();
        let missing: Vec<_> =
            right.iter().filter(|line| left.binary_search(line).is_err() && !left.contains(line)).collect();
        if left != right {
            let few =
                |lines: &[&String]| lines.iter().take(3).map(|line| shortened(line)).collect::<Vec<_>>().join(" | ");
            report.push(format!(
                "table {name}: {} rows, expected {}; {} too much: {}; {} missing: {}",
                left.len() - 1,
                right.len() - 1,
                extra.len(),
                few(&extra),
                missing.len(),
                few(&missing)
            ));
        }
    }
    panic!("{what}:\n  {}", report.join("\n  "));
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

fn render(value: &Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}

/// Domain, server id and sequence number of `0-11-4711`.
#[track_caller]
pub(crate) fn gtid_parts(gtid: &str) -> (u32, u32, u64) {
    let parts: Vec<u64> =
        gtid.split('-').map(|part| part.parse().unwrap_or_else(|_| panic!("GTID `{gtid}`"))).collect();
    assert_eq!(parts.len(), 3, "GTID `{gtid}`");
    (parts[0] as u32, parts[1] as u32, parts[2])
}

pub(crate) fn sequence(gtid: &str) -> u64 {
    gtid_parts(gtid).2
}

/// Whether a position such as `0-11-20,1-12-3` has come as far as `gtid`.
pub(crate) fn covers(position: &str, gtid: &str) -> bool {
    let (domain, _, sequence) = gtid_parts(gtid);
    position.split(',').filter(|part| !part.is_empty()).any(|part| {
        let (its_domain, _, reached) = gtid_parts(part.trim());
        its_domain == domain && reached >= sequence
    })
}
