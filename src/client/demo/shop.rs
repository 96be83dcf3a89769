//! The demo's shop: its schema, the rows loaded before the clients begin, the connection, and what a proof reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::prelude::Queryable;
use mysql::session_state_change::SessionStateChange;
use mysql::{Conn, OptsBuilder, Value};

use crate::client::demo::proof::{Beginning, Found, Row, Rows};
use crate::domain::datastore::Datastore;
use crate::domain::gtid::Gtid;
use crate::error::{Error, ErrorKind};

/// Longer than any statement of the demo takes on a slow disk.
const STATEMENT_SECONDS_MAX: u64 = 120;
/// Rows a statement loads at once, so that no transaction is huge.
const LOAD_ROWS_MAX: u64 = 20_000;
/// Pieces of each product at the beginning.
const STOCK_BEGIN: u64 = 100_000;

const SCHEMA: &[&str] = &[
    "CREATE DATABASE shop CHARACTER SET utf8mb4",
    "CREATE TABLE shop.customers (id BIGINT PRIMARY KEY, name VARCHAR(60) NOT NULL, email VARCHAR(80) NOT NULL,
     city VARCHAR(40) NOT NULL, points BIGINT NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE shop.products (id BIGINT PRIMARY KEY, name VARCHAR(60) NOT NULL, price_cents BIGINT NOT NULL)
     ENGINE=InnoDB",
    "CREATE TABLE shop.stock (product_id BIGINT PRIMARY KEY, on_hand BIGINT NOT NULL,
     FOREIGN KEY (product_id) REFERENCES shop.products (id)) ENGINE=InnoDB",
    "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, customer_id BIGINT NOT NULL, total_cents BIGINT NOT NULL,
     state VARCHAR(10) NOT NULL, serial BIGINT NOT NULL DEFAULT 0, KEY (serial), KEY (customer_id),
     FOREIGN KEY (customer_id) REFERENCES shop.customers (id)) ENGINE=InnoDB",
    "CREATE TABLE shop.order_items (order_id BIGINT, line INT, product_id BIGINT NOT NULL, quantity BIGINT NOT NULL,
     price_cents BIGINT NOT NULL, serial BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (order_id, line), KEY (serial)) ENGINE=InnoDB",
    "CREATE TABLE shop.payments (id BIGINT PRIMARY KEY, customer_id BIGINT NOT NULL, amount_cents BIGINT NOT NULL,
     method VARCHAR(10) NOT NULL, serial BIGINT NOT NULL DEFAULT 0, KEY (serial)) ENGINE=InnoDB",
    "CREATE TABLE shop.ledger (serial BIGINT PRIMARY KEY, client INT NOT NULL, kind VARCHAR(10) NOT NULL,
     note VARCHAR(250) NOT NULL) ENGINE=InnoDB",
];

/// Tables whose rows carry a serial number, and their other columns in the order of `proof::rows_of`.
const SERIAL_TABLES: &[(&str, &str)] = &[
    ("orders", "id, customer_id, total_cents, state"),
    ("order_items", "order_id, line, product_id, quantity, price_cents"),
    ("payments", "id, customer_id, amount_cents, method"),
    ("ledger", "client, kind, note"),
];

/// Tables with rows from before the clients began, the columns that never change, and which rows those are.
const BASE_TABLES: &[(&str, &str, &str)] = &[
    ("customers", "id, name, email, city", "1"),
    ("products", "id, name, price_cents", "1"),
    ("orders", "id, customer_id, total_cents, state", "serial = 0"),
    ("order_items", "order_id, line, product_id, quantity, price_cents", "serial = 0"),
    ("payments", "id, customer_id, amount_cents, method", "serial = 0"),
];

/// How many rows of each kind there are at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) customers: u64,
    pub(super) products: u64,
    orders: u64,
    order_items: u64,
    payments: u64,
}

impl Size {
    /// At least `rows` rows altogether.
    pub(super) fn of(rows: u64) -> Size {
        let orders = (rows * 28 / 100).max(100);
        let (customers, products) = ((rows / 10).max(50), (rows / 100).max(50));
        let order_items = orders * 2;
        let rest = customers + 2 * products + orders + order_items;
        Size { customers, products, orders, order_items, payments: rows.saturating_sub(rest).max(100) }
    }

    /// Of all tables; each product has a row in `stock`.
    pub(super) fn rows(self) -> u64 {
        self.customers + 2 * self.products + self.orders + self.order_items + self.payments
    }
}

/// The way to the server: its socket and the operating system's user, whom the server knows without a password.
#[derive(Debug, Clone)]
pub(super) struct Door {
    socket: PathBuf,
    user: String,
    datastore: Datastore,
}

impl Door {
    pub(super) fn new(socket: &Path, datastore: Datastore) -> Door {
        Door { socket: socket.to_owned(), user: crate::process::User::own().name, datastore }
    }

    /// A connection; `patience` bounds each answer.
    pub(super) fn connect(&self, patience: Duration) -> Result<Conn, mysql::Error> {
        let options = OptsBuilder::new()
            .socket(Some(self.socket.to_string_lossy()))
            .user(Some(self.user.as_str()))
            .prefer_socket(false)
            .read_timeout(Some(patience))
            .write_timeout(Some(patience));
        match self.datastore {
            Datastore::Mariadb => Conn::new(options),
            Datastore::Mysql => {
                // It tells the GTID of a commit in the answer to it, to whom has asked for that.
                let mut conn = Conn::new(options.additional_capabilities(CapabilityFlags::CLIENT_SESSION_TRACK))?;
                conn.query_drop("SET SESSION session_track_gtids = OWN_GTID")?;
                Ok(conn)
            }
        }
    }

    /// The GTID of the transaction that the last statement on this connection committed.
    pub(super) fn committed(&self, conn: &mut Conn) -> Result<Option<Gtid>, mysql::Error> {
        let told: Option<String> = match self.datastore {
            Datastore::Mariadb => conn.query_first("SELECT @@last_gtid")?,
            Datastore::Mysql => {
                let changes = conn.session_state_changes().unwrap_or_default();
                changes.into_iter().find_map(|change| match change.decode() {
                    // How it is encoded and how long it is stand before it, a byte each.
                    Ok(SessionStateChange::Gtids(gtid)) => {
                        Some(String::from_utf8_lossy(gtid.as_bytes().get(2..)?).into_owned())
                    }
                    _ => None,
                })
            }
        };
        Ok(told.and_then(|gtid| gtid.parse().ok()))
    }

    /// The second in which the server behind a connection was started.
    pub(super) fn started(&self, conn: &mut Conn) -> Result<Option<i64>, mysql::Error> {
        let schema = match self.datastore {
            Datastore::Mariadb => "information_schema",
            Datastore::Mysql => "performance_schema",
        };
        conn.query_first(format!(
            "SELECT UNIX_TIMESTAMP() - CAST(VARIABLE_VALUE AS SIGNED) FROM {schema}.global_status WHERE VARIABLE_NAME = 'UPTIME'"
        ))
    }

    /// A connection for work that may take long.
    pub(super) fn open(&self) -> Result<Conn, Error> {
        self.connect(Duration::from_secs(STATEMENT_SECONDS_MAX)).map_err(|err| {
            Error::new(
                ErrorKind::Unavailable,
                format!("unable to connect to the server at `{}` as {}", self.socket.display(), self.user),
            )
            .with_source(err)
        })
    }
}

/// Makes the shop and fills it.
pub(super) fn load(door: &Door, size: Size) -> Result<(), Error> {
    let conn = &mut door.open()?;
    if door.datastore == Datastore::Mysql {
        let deep = format!("SET SESSION cte_max_recursion_depth = {LOAD_ROWS_MAX}");
        conn.query_drop(deep).map_err(|err| sql_error("unable to prepare the load", err))?;
    }
    for statement in SCHEMA {
        conn.query_drop(statement).map_err(|err| sql_error("unable to make the shop's tables", err))?;
    }
    let (customers, products) = (size.customers, size.products);
    // What is made of the numbers looks like a shop and is the same each time.
    let parts: [(&str, u64, String); 6] = [
        ("customers", customers, "SELECT seq, CONCAT('Customer ', seq), CONCAT('customer', seq, '@example.org'), ELT(1 + seq % 5, 'Lisbon', 'Oslo', 'Quito', 'Kyoto', 'Accra'), 0".into()),
        ("products", products, "SELECT seq, CONCAT('Product ', seq), 100 + seq * 7919 % 9900".into()),
        ("stock", products, format!("SELECT seq, {STOCK_BEGIN}")),
        ("orders", size.orders, format!("SELECT seq, 1 + seq * 7919 % {customers}, 500 + seq * 104729 % 50000, ELT(1 + seq % 3, 'open', 'paid', 'sent'), 0")),
        ("order_items", size.order_items, format!("SELECT 1 + (seq - 1) DIV 2, 1 + (seq - 1) % 2, 1 + seq * 7907 % {products}, 1 + seq % 4, 100 + seq * 7919 % 9900, 0")),
        ("payments", size.payments, format!("SELECT seq, 1 + seq * 7919 % {customers}, 500 + seq * 104729 % 50000, ELT(1 + seq % 3, 'card', 'transfer', 'cash'), 0")),
    ];
    for (table, count, select) in parts {
        let mut first = 1;
        while first <= count {
            let last = (first + LOAD_ROWS_MAX - 1).min(count);
            let numbers = numbers(door.datastore, first, last);
            let statement = format!("INSERT INTO shop.{table} {select} FROM {numbers}");
            conn.query_drop(statement).map_err(|err| sql_error(&format!("unable to load {table}"), err))?;
            first = last + 1;
        }
    }
    Ok(())
}

/// A table with the column `seq`, from `first` to `last`.
fn numbers(datastore: Datastore, first: u64, last: u64) -> String {
    match datastore {
        // Such tables are there without being made.
        Datastore::Mariadb => format!("shop.seq_{first}_to_{last}"),
        Datastore::Mysql => format!(
            "(WITH RECURSIVE numbers (seq) AS (SELECT {first} UNION ALL SELECT seq + 1 FROM numbers WHERE seq < {last}) \
             SELECT seq FROM numbers) AS numbers"
        ),
    }
}

/// What is there before the clients begin.
pub(super) fn read_beginning(conn: &mut Conn) -> Result<Beginning, Error> {
    let found = read(conn)?;
    Ok(Beginning { stock: found.stock, points: found.points, base: found.base })
}

/// Reads everything a proof compares, in one snapshot, while others write.
pub(super) fn read(conn: &mut Conn) -> Result<Found, Error> {
    let begin =
        ["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT"];
    for statement in begin {
        conn.query_drop(statement).map_err(|err| sql_error("unable to begin reading", err))?;
    }
    let exists = |name: &str, tables: &[String]| tables.iter().any(|table| table == name);
    let tables: Vec<String> = query(conn, "SHOW TABLES FROM shop")?.into_iter().flatten().collect();
    let mut found = Found::default();
    for (table, columns) in SERIAL_TABLES.iter().filter(|(table, _)| exists(table, &tables)) {
        let mut rows: Rows = BTreeMap::new();
        for mut row in query(conn, &format!("SELECT serial, {columns} FROM shop.{table} WHERE serial > 0"))? {
            let cells = row.split_off(1);
            rows.entry(number(row.first())?).or_default().push(cells);
        }
        found.tables.insert(table, rows);
    }
    for (table, columns, which) in BASE_TABLES.iter().filter(|(table, _, _)| exists(table, &tables)) {
        let digest = format!("COALESCE(SUM(CRC32(CONCAT_WS('|', {columns}))), 0)");
        let rows = query(conn, &format!("SELECT COUNT(*), {digest} FROM shop.{table} WHERE {which}"))?;
        found.base.insert(table, rows.into_iter().flatten().collect::<Vec<_>>().join(" rows, digest "));
    }
    found.stock = sums(query(conn, "SELECT product_id, on_hand FROM shop.stock")?)?;
    found.points = sums(query(conn, "SELECT id, points FROM shop.customers")?)?;
    conn.query_drop("COMMIT").map_err(|err| sql_error("unable to end reading", err))?;
    Ok(found)
}

pub(super) fn sql_error(doing: &str, err: mysql::Error) -> Error {
    Error::new(ErrorKind::Tool, doing).with_source(err)
}

fn sums(rows: Vec<Row>) -> Result<BTreeMap<u64, i64>, Error> {
    rows.iter().map(|row| Ok((number(row.first())?, number(row.get(1))?))).collect()
}

fn number<T: std::str::FromStr>(cell: Option<&String>) -> Result<T, Error> {
    cell.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the server gave {cell:?} for a number")))
}

/// All rows of a query, every cell as text.
fn query(conn: &mut Conn, statement: &str) -> Result<Vec<Row>, Error> {
    let rows: Vec<mysql::Row> = conn.query(statement).map_err(|err| sql_error("unable to read the shop", err))?;
    Ok(rows.into_iter().map(|row| row.unwrap_raw().into_iter().map(|cell| text(&cell)).collect()).collect())
}

fn text(cell: &Option<Value>) -> String {
    match cell {
        Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::UInt(number)) => number.to_string(),
        Some(other) => other.as_sql(true),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn the_shop_has_at_least_the_rows_asked_for() {
        for rows in [0, 1, 1_000, 200_000, 220_000, 5_000_000] {
            assert!(Size::of(rows).rows() >= rows, "{rows}");
        }
        assert!(Size::of(220_000).rows() < 230_000);
    }
}
