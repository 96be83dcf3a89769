//! Plain SQL over a server's socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mysql::consts::CapabilityFlags;
use mysql::prelude::Queryable;
use mysql::session_state_change::SessionStateChange;
use mysql::{Conn, OptsBuilder, Row, Value};

use super::cell::Datastore;

/// What a server holds: per `schema.table` the sorted lines of its rows, the column names first.
pub(crate) type Contents = BTreeMap<String, Vec<String>>;

/// Connects as the server's root, who needs no password on the socket, or as the operating system's user.
pub(crate) fn connect(socket: &Path) -> Result<Conn, mysql::Error> {
    let as_user = |name: &str| {
        let options = OptsBuilder::new().socket(Some(socket.to_string_lossy().into_owned())).user(Some(name));
        // MySQL tells the GTID of a commit to clients that can track it.
        Conn::new(options.prefer_socket(true).additional_capabilities(CapabilityFlags::CLIENT_SESSION_TRACK))
    };
    let own_account = || Datastore::Mysql.account();
    let mut conn = match as_user("root") {
        Err(mysql::Error::MySqlError(_)) if !rustix::process::geteuid().is_root() => as_user(own_account()),
        answer => answer,
    }?;
    if is_mysql(&conn) {
        conn.query_drop("SET SESSION session_track_gtids = OWN_GTID")?;
    }
    Ok(conn)
}

/// MariaDB's versions begin at 10, and some of them say 5.5.5 before that, for clients that know no such number.
pub(crate) fn is_mysql(conn: &Conn) -> bool {
    matches!(conn.server_version().0, 8 | 9)
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
    committed(conn).unwrap_or_else(|| panic!("no transaction was committed by: {}", shortened(statement)))
}

/// The id of the transaction that the last statement committed: its GTID, or where it ends if the server gives none.
/// Without GTIDs nobody else may commit meanwhile.
pub(crate) fn committed(conn: &mut Conn) -> Option<String> {
    if !is_mysql(conn) {
        return conn.query_first("SELECT @@last_gtid").ok()?;
    }
    let tracked = conn.session_state_changes().ok()?.into_iter().find_map(|state| match state.decode() {
        // How it is encoded and how long it is stand before it, a byte each.
        Ok(SessionStateChange::Gtids(gtid)) => Some(String::from_utf8_lossy(gtid.as_bytes().get(2..)?).into_owned()),
        _ => None,
    });
    if tracked.is_some() || has_gtids(conn) {
        return tracked;
    }
    let end: Row = conn.query_first("SHOW BINARY LOG STATUS").ok()??;
    Some(format!("{}:{}", render(&end[0]), render(&end[1])))
}

/// Whether the server gives its transactions GTIDs.
pub(crate) fn has_gtids(conn: &mut Conn) -> bool {
    !is_mysql(conn) || conn.query_first("SELECT @@GLOBAL.gtid_mode").is_ok_and(|mode| mode == Some("ON".to_owned()))
}

/// A table of the numbers from 1 on, for `INSERT ... SELECT seq FROM`; `count` is a power of ten. MySQL has no sequences.
pub(crate) fn numbers(count: usize) -> String {
    let digits = "SELECT 0 AS d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
                  UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9";
    let places = count.ilog10();
    let sum: Vec<String> = (0..places).map(|place| format!("{} * d{place}.d", 10_u64.pow(place))).collect();
    let tables: Vec<String> = (0..places).map(|place| format!("({digits}) AS d{place}")).collect();
    format!("(SELECT 1 + {} AS seq FROM {}) AS numbers", sum.join(" + "), tables.join(", "))
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

/// What orders the transactions of one timeline: the last number of a GTID (`0-11-4711`, `uuid:4711`, `uuid:tag:4711`),
/// or file and offset where there is none (`binlog.000012:4711`).
#[track_caller]
pub(crate) fn sequence(id: &str) -> u64 {
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("transaction `{id}`"));
    match id.rsplit_once(':') {
        None => gtid_parts(id).2,
        Some((stream, last)) => match stream.rsplit_once('.') {
            // Of a set that is one run: where it ends.
            None => number(last.rsplit('-').next().unwrap_or_default()),
            Some((_, file)) => (number(file) << 40) + number(last),
        },
    }
}

/// Whether a transaction goes by the place where it ends, having no GTID.
pub(crate) fn is_place(id: &str) -> bool {
    id.rsplit_once(':').is_some_and(|(stream, _)| stream.contains('.'))
}

/// Whether a position such as `0-11-20,1-12-3` or a set such as `uuid:1-5:7,uuid2:1-3` has come as far as `gtid`, which
/// has no tag.
pub(crate) fn covers(position: &str, gtid: &str) -> bool {
    let parts = position.split(',').map(str::trim).filter(|part| !part.is_empty());
    if let Some((stream, number)) = gtid.rsplit_once(':') {
        let number: u64 = number.parse().unwrap();
        let mut intervals =
            parts.filter_map(|part| part.strip_prefix(stream)?.strip_prefix(':')).flat_map(|intervals| {
                // What follows a tag is of another stream.
                intervals.split(':').take_while(|interval| interval.starts_with(|c: char| c.is_ascii_digit()))
            });
        return intervals.any(|interval| {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&number)
        });
    }
    let (domain, _, sequence) = gtid_parts(gtid);
    parts.map(gtid_parts).any(|(its_domain, _, reached)| its_domain == domain && reached >= sequence)
}
