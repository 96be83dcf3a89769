//! Several clients that write all the time and remember, with its GTID, every commit the server acknowledged.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::history::{Change, Committed};
use super::{Random, sql, wait_for};

const ACCOUNTS: usize = 40;
pub(crate) const SCHEMA: &str = "shop";

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    ended: AtomicBool,
    paused: AtomicBool,
    /// The schema shall stay as it is.
    schema_kept: AtomicBool,
    /// Threads that stand still because of the pause.
    standing: AtomicU32,
    committed: Mutex<Vec<Committed>>,
    /// Commits that were sent but never answered: in or not, nobody promised.
    unanswered: Mutex<Vec<String>>,
    pause_between: Duration,
    /// On a server without GTIDs held for a whole transaction, which goes by the place where the binlog ends after it.
    turn: Mutex<()>,
}

/// Makes the tables of the load. Their own transactions are part of the history too.
pub(crate) fn prepare(conn: &mut Conn) -> Vec<Committed> {
    let mut done = Vec::new();
    let mut step = |conn: &mut Conn, statement: &str, changes: Vec<Change>| {
        done.push(Committed { gtid: sql::commit(conn, statement), changes });
    };
    step(conn, "CREATE DATABASE shop", Vec::new());
    let table = |name: &str, columns: &str| Change::CreateTable {
        table: format!("shop.{name}"),
        columns: columns.split(' ').map(str::to_owned).collect(),
    };
    step(
        conn,
        "CREATE TABLE shop.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL, last_client INT NOT NULL, \
         last_serial BIGINT NOT NULL) ENGINE=InnoDB",
        vec![table("accounts", "id balance last_client last_serial")],
    );
    step(
        conn,
        "CREATE TABLE shop.orders (client INT, serial BIGINT, note VARCHAR(4000) NOT NULL, PRIMARY KEY (client, serial)) \
         ENGINE=InnoDB",
        vec![table("orders", "client serial note")],
    );
    step(
        conn,
        "CREATE TABLE shop.items (client INT, serial BIGINT, part INT, amount INT NOT NULL, \
         PRIMARY KEY (client, serial, part)) ENGINE=InnoDB",
        vec![table("items", "client serial part amount")],
    );
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id},1000,0,0)")).collect();
    let changes = (0..ACCOUNTS).map(|id| insert("accounts", &[&id.to_string(), "1000", "0", "0"], 1)).collect();
    step(conn, &format!("INSERT INTO shop.accounts VALUES {}", rows.join(",")), changes);
    done
}

fn insert(table: &str, row: &[&str], key_columns: usize) -> Change {
    Change::Insert {
        table: format!("shop.{table}"),
        key: row[..key_columns].join("/"),
        row: row.iter().map(|text| (*text).to_owned()).collect(),
    }
}

impl Load {
    /// Starts `clients` writers, and one more that changes the schema if `ddl` says so. Serial numbers begin at
    /// `serial`, so that loads one after the other on one server do not meet.
    pub(crate) fn start(socket: &Path, clients: u32, ddl: Ddl, serial: u64, random: &mut Random) -> Load {
        Load::start_paced(socket, clients, ddl, serial, random, Duration::from_millis(4))
    }

    pub(crate) fn start_paced(
        socket: &Path,
        clients: u32,
        ddl: Ddl,
        serial: u64,
        random: &mut Random,
        pause_between: Duration,
    ) -> Load {
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            ended: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            schema_kept: AtomicBool::new(false),
            standing: AtomicU32::new(0),
            committed: Mutex::new(Vec::new()),
            unanswered: Mutex::new(Vec::new()),
            pause_between,
            turn: Mutex::new(()),
        });
        let mut threads = Vec::new();
        let schema_client = (ddl == Ddl::Yes).then_some(0);
        for client in schema_client.into_iter().chain(1..=clients) {
            let mut writer = Writer {
                shared: Arc::clone(&shared),
                random: Random::from_seed(random.next()),
                client,
                serial,
                kept: Vec::new(),
                side_tables: Vec::new(),
            };
            let thread = Builder::new().name(format!("client-{client}")).spawn(move || writer.run());
            threads.push(thread.unwrap());
        }
        Load { shared, threads }
    }

    /// Waits until this many commits were acknowledged.
    pub(crate) fn wait_commits(&self, count: usize) {
        wait_for(&format!("{count} commits"), Duration::from_secs(120), || (self.commits() >= count).then_some(()));
    }

    pub(crate) fn commits(&self) -> usize {
        self.shared.committed.lock().unwrap().len()
    }

    /// Lets every client finish its transaction and stand still.
    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
        let all = self.threads.len() as u32;
        wait_for("the clients to stand still", Duration::from_secs(60), || {
            (self.shared.standing.load(Ordering::SeqCst) == all).then_some(())
        });
    }

    pub(crate) fn go_on(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Runs `act` while the clients write on but change the schema no more.
    pub(crate) fn with_schema_kept(&self, act: impl FnOnce()) {
        self.shared.schema_kept.store(true, Ordering::SeqCst);
        // Its change that is under way ends meanwhile.
        self.pause();
        self.go_on();
        act();
        self.shared.schema_kept.store(false, Ordering::SeqCst);
    }

    /// Ends the clients; returns what they know was committed, and what they do not know of.
    pub(crate) fn end(self) -> (Vec<Committed>, Vec<String>) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let committed = std::mem::take(&mut *self.shared.committed.lock().unwrap());
        let unanswered = std::mem::take(&mut *self.shared.unanswered.lock().unwrap());
        (committed, unanswered)
    }

    /// Ends the clients of a load that nothing disturbed.
    pub(crate) fn end_clean(self) -> Vec<Committed> {
        let (committed, unanswered) = self.end();
        assert!(unanswered.is_empty(), "commits without an answer: {unanswered:?}");
        committed
    }
}

/// Whether a load changes the schema too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ddl {
    Yes,
    No,
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    random: Random,
    client: u32,
    serial: u64,
    /// Own orders that still have their items: serial and number of parts.
    kept: Vec<(u64, usize)>,
    side_tables: Vec<String>,
}

impl Writer {
    fn run(&mut self) {
        let mut conn = None;
        while !self.shared.ended.load(Ordering::SeqCst) {
            if self.shared.paused.load(Ordering::SeqCst) {
                // A restart of the server may end the connection; a new one is made afterwards.
                conn = None;
                self.stand();
                continue;
            }
            if self.client == 0 && self.shared.schema_kept.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let Some(open) = &mut conn else {
                // A recovery may have taken back what was written over the last connection.
                self.kept.clear();
                conn = sql::connect(&self.shared.socket).ok();
                if conn.is_none() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                continue;
            };
            let (statements, changes, ending) = self.next();
            match attempt(open, &statements, ending, &self.shared.turn) {
                Outcome::Acknowledged(gtid) => self.keep(gtid, changes),
                Outcome::Nothing => {}
                Outcome::Unanswered => {
                    let what = format!("client {} serial {}", self.client, self.serial);
                    self.shared.unanswered.lock().unwrap().push(what);
                    conn = None;
                }
                Outcome::Lost => conn = None,
            }
            std::thread::sleep(self.shared.pause_between);
        }
    }

    fn stand(&self) {
        self.shared.standing.fetch_add(1, Ordering::SeqCst);
        while self.shared.paused.load(Ordering::SeqCst) && !self.shared.ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.standing.fetch_sub(1, Ordering::SeqCst);
    }

    fn keep(&mut self, gtid: String, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::CreateTable { table, .. } => self.side_tables.push(table.clone()),
                Change::DropTable { table } => self.side_tables.retain(|name| name != table),
                Change::Delete { table, key } if table == "shop.orders" => {
                    self.kept.retain(|(serial, _)| !key.ends_with(&format!("/{serial}")));
                }
                Change::Insert { table, .. } if table == "shop.orders" => {
                    let parts =
                        changes.iter().filter(|it| matches!(it, Change::Insert { table, .. } if table == "shop.items"));
                    self.kept.push((self.serial, parts.count()));
                }
                _ => {}
            }
        }
        self.shared.committed.lock().unwrap().push(Committed { gtid, changes });
    }

    /// The next transaction: its statements, what they change, and how it ends.
    fn next(&mut self) -> (Vec<String>, Vec<Change>, Ending) {
        self.serial += 1;
        if self.client == 0 {
            return self.next_ddl();
        }
        let ending = match self.random.below(10) {
            0 => Ending::Rollback,
            1 => Ending::Autocommit,
            _ => Ending::Commit,
        };
        if ending == Ending::Commit && self.kept.len() > 8 && self.random.below(4) == 0 {
            let at = self.random.below(self.kept.len());
            return self.delete(self.kept[at]);
        }
        let (client, serial) = (self.client, self.serial);
        let length = if self.random.below(20) == 0 { 3000 } else { 20 + self.random.below(60) };
        let note = format!("{client}-{serial}-{}", "x".repeat(length));
        let mut statements =
            vec![format!("INSERT INTO shop.orders (client, serial, note) VALUES ({client},{serial},'{note}')")];
        let mut changes = vec![insert("orders", &[&client.to_string(), &serial.to_string(), &note], 2)];
        if ending == Ending::Autocommit {
            return (statements, changes, ending);
        }
        for part in 0..=self.random.below(3) {
            let amount = self.random.below(1000);
            statements.push(format!("INSERT INTO shop.items VALUES ({client},{serial},{part},{amount})"));
            let row = [client.to_string(), serial.to_string(), part.to_string(), amount.to_string()];
            changes.push(insert("items", &row.iter().map(String::as_str).collect::<Vec<_>>(), 3));
        }
        let (account, amount) = (self.random.below(ACCOUNTS), self.random.below(200) as i64 - 100);
        statements.push(format!(
            "UPDATE shop.accounts SET balance = balance + ({amount}), last_client = {client}, last_serial = {serial} \
             WHERE id = {account}"
        ));
        changes.push(Change::Add {
            table: "shop.accounts".to_owned(),
            key: account.to_string(),
            column: 1,
            amount,
            then: vec![client.to_string(), serial.to_string()],
        });
        (statements, changes, ending)
    }

    fn delete(&self, (serial, parts): (u64, usize)) -> (Vec<String>, Vec<Change>, Ending) {
        let client = self.client;
        let place = format!("client = {client} AND serial = {serial}");
        let statements =
            vec![format!("DELETE FROM shop.items WHERE {place}"), format!("DELETE FROM shop.orders WHERE {place}")];
        let gone = |table: &str, key: String| Change::Delete { table: format!("shop.{table}"), key };
        let mut changes: Vec<Change> =
            (0..parts).map(|part| gone("items", format!("{client}/{serial}/{part}"))).collect();
        changes.push(gone("orders", format!("{client}/{serial}")));
        (statements, changes, Ending::Commit)
    }

    /// The schema client: makes, fills, empties and drops tables, and now and then adds a column to a busy one.
    fn next_ddl(&mut self) -> (Vec<String>, Vec<Change>, Ending) {
        std::thread::sleep(Duration::from_millis(60));
        let serial = self.serial;
        let known = self.side_tables.len();
        let (statement, change) = match self.random.below(8) {
            0..=2 if known > 0 => {
                let table = self.random.pick(&self.side_tables).clone();
                let row = [serial.to_string(), "side".to_owned()];
                let statement = format!("INSERT INTO {table} VALUES ({serial},'side')");
                (statement, Change::Insert { table, key: serial.to_string(), row: row.to_vec() })
            }
            3 if known > 0 => {
                let table = self.random.pick(&self.side_tables).clone();
                (format!("TRUNCATE TABLE {table}"), Change::TruncateTable { table })
            }
            4 if known > 1 => {
                let table = self.random.pick(&self.side_tables).clone();
                (format!("DROP TABLE {table}"), Change::DropTable { table })
            }
            5 => {
                let (column, default) = (format!("extra_{serial}"), serial.to_string());
                let statement =
                    format!("ALTER TABLE shop.orders ADD COLUMN {column} BIGINT NOT NULL DEFAULT {default}");
                (statement, Change::AddColumn { table: "shop.orders".to_owned(), column, default })
            }
            _ => {
                let table = format!("shop.side_{serial}");
                let statement =
                    format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, what VARCHAR(20) NOT NULL) ENGINE=InnoDB");
                (statement, Change::CreateTable { table, columns: vec!["id".to_owned(), "what".to_owned()] })
            }
        };
        (vec![statement], vec![change], Ending::Autocommit)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Commit,
    Rollback,
    Autocommit,
}

enum Outcome {
    Acknowledged(String),
    /// Rolled back, by us or by the server.
    Nothing,
    /// The commit was sent, the answer never came.
    Unanswered,
    /// The connection broke before the commit.
    Lost,
}

fn attempt(conn: &mut Conn, statements: &[String], ending: Ending, turn: &Mutex<()>) -> Outcome {
    // From the beginning: a change of the schema waits for the transactions that have begun.
    let _turn = (!sql::has_gtids(conn)).then(|| turn.lock().unwrap());
    let mut all: Vec<&str> = statements.iter().map(String::as_str).collect();
    let last = match ending {
        Ending::Autocommit => all.pop().unwrap_or_default(),
        Ending::Commit => "COMMIT",
        Ending::Rollback => "ROLLBACK",
    };
    if ending != Ending::Autocommit {
        all.insert(0, "BEGIN");
    }
    for statement in all {
        match conn.query_drop(statement) {
            Ok(()) if statement != "BEGIN" && conn.affected_rows() == 0 => {
                // Nothing there any more: a commit of nothing has no id.
                return conn.query_drop("ROLLBACK").map_or(Outcome::Lost, |()| Outcome::Nothing);
            }
            Ok(()) => {}
            Err(mysql::Error::MySqlError(_)) => {
                return conn.query_drop("ROLLBACK").map_or(Outcome::Lost, |()| Outcome::Nothing);
            }
            Err(_) => return Outcome::Lost,
        }
    }
    match conn.query_drop(last) {
        Ok(()) if ending == Ending::Rollback => Outcome::Nothing,
        Ok(()) => sql::committed(conn).map_or(Outcome::Unanswered, Outcome::Acknowledged),
        Err(mysql::Error::MySqlError(err)) if ending == Ending::Autocommit && err.code != 1053 => Outcome::Nothing,
        Err(_) if ending == Ending::Rollback => Outcome::Lost,
        Err(_) => Outcome::Unanswered,
    }
}
