//! Clients that do what those of sysbench's `oltp_read_write` do: short transactions that read points and change rows,
//! with the durability that a server has by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use mysql::Conn;
use mysql::prelude::Queryable;
use serde_json::{Value, json};

use crate::harness::instance::Instance;
use crate::harness::{Random, sql};

const CLIENTS: u64 = 4;
const ROWS: usize = 100_000;
const READS: usize = 10;

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    committed: AtomicU64,
    /// The longest transaction since it was last asked for, in microseconds.
    longest: AtomicU64,
}

/// A window that has begun.
pub(crate) struct Open<'a> {
    shared: &'a Shared,
    begin: Instant,
    committed: u64,
}

/// How much was done in some time.
pub(crate) struct Window {
    pub(crate) length: Duration,
    transactions: u64,
    longest: Duration,
}

impl Load {
    /// Makes the table and sets the server's durability.
    pub(crate) fn prepare(instance: &Instance) {
        let mut conn = instance.conn();
        for statement in [
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
            "SET GLOBAL sync_binlog = 1",
            "SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT",
            "SET GLOBAL innodb_max_dirty_pages_pct_lwm = DEFAULT",
            "CREATE TABLE shop.sbtest (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL,
               pad CHAR(60) NOT NULL, KEY (k)) ENGINE=InnoDB",
            &format!(
                "INSERT INTO shop.sbtest (k, c, pad) SELECT seq, REPEAT(seq, 10), 'a pad of sixty' FROM {}",
                sql::numbers(ROWS)
            ),
        ] {
            sql::run(&mut conn, statement);
        }
    }

    pub(crate) fn start(instance: &Instance) -> Load {
        let shared = Arc::new(Shared::default());
        let mut load = Load { shared: Arc::clone(&shared), clients: Vec::new() };
        for client in 0..CLIENTS {
            let (shared, conn) = (Arc::clone(&shared), instance.conn());
            let work = move || work(conn, &shared, Random::from_seed(client));
            load.clients.push(Builder::new().name(format!("client-{client}")).spawn(work).unwrap());
        }
        load
    }

    pub(crate) fn window(&self) -> Open<'_> {
        self.shared.longest.store(0, Ordering::SeqCst);
        let committed = self.shared.committed.load(Ordering::SeqCst);
        Open { shared: &self.shared, begin: Instant::now(), committed }
    }

    pub(crate) fn end(self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

impl Open<'_> {
    pub(crate) fn end(self) -> Window {
        Window {
            length: self.begin.elapsed(),
            transactions: self.shared.committed.load(Ordering::SeqCst) - self.committed,
            longest: Duration::from_micros(self.shared.longest.load(Ordering::SeqCst)),
        }
    }
}

impl Window {
    /// Transactions a second.
    pub(crate) fn rate(&self) -> f64 {
        self.transactions as f64 / self.length.as_secs_f64()
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:.0} a second, longest {} ms", self.rate(), self.longest.as_millis())
    }

    pub(crate) fn figures(&self) -> Value {
        let (length, longest) = (self.length.as_millis() as u64, self.longest.as_millis() as u64);
        json!({"ms": length, "transactions": self.transactions, "longest_ms": longest})
    }
}

/// A client's life. Two that wait for each other are told to begin again, as in every application.
fn work(mut conn: Conn, shared: &Shared, mut random: Random) {
    while !shared.ended.load(Ordering::SeqCst) {
        let begin = Instant::now();
        match transaction(&mut conn, &mut random) {
            Ok(()) => {
                shared.committed.fetch_add(1, Ordering::SeqCst);
                shared.longest.fetch_max(begin.elapsed().as_micros() as u64, Ordering::SeqCst);
            }
            Err(mysql::Error::MySqlError(err)) if matches!(err.code, 1213 | 1205) => {
                conn.query_drop("ROLLBACK").unwrap();
            }
            Err(err) => panic!("the load: {err}"),
        }
    }
}

fn transaction(conn: &mut Conn, random: &mut Random) -> Result<(), mysql::Error> {
    let mut id = || 1 + random.below(ROWS);
    conn.query_drop("BEGIN")?;
    for _ in 0..READS {
        conn.exec_drop("SELECT c FROM shop.sbtest WHERE id = ?", (id(),))?;
    }
    conn.exec_drop("UPDATE shop.sbtest SET k = k + 1 WHERE id = ?", (id(),))?;
    conn.exec_drop("UPDATE shop.sbtest SET c = ? WHERE id = ?", (id().to_string().repeat(10), id()))?;
    let moved = id();
    conn.exec_drop("DELETE FROM shop.sbtest WHERE id = ?", (moved,))?;
    conn.exec_drop("INSERT INTO shop.sbtest (id, k, c, pad) VALUES (?, ?, 'new', 'a pad of sixty')", (moved, id()))?;
    conn.query_drop("COMMIT")
}
