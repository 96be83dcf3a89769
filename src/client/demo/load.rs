//! The demo's clients: a real write load that goes on whatever happens, and a probe that measures when nobody answered.
//!
//! Every transaction touches several tables and carries a serial number in all of them. A client writes down what it
//! is about to do, what the server acknowledged, and the GTID it gave. When a table is gone the client is told so and
//! goes on with the others; when the server is gone it tries again, for a bounded time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use crate::client::demo::proof::{self, ID_OFFSET};
use crate::client::demo::record::{Attempt, Boots, Content, Fate, Item, Method, Records};
use crate::client::demo::shop::{Door, Size};
use crate::clock::{Deadline, Stopwatch};
use crate::error::{Error, ErrorKind};

/// Clients that write.
pub(super) const CLIENTS: usize = 4;
/// A client rests this long between transactions: a busy shop, not a benchmark.
const REST: Duration = Duration::from_millis(4);
/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client goes on looking for a server that is gone.
const GONE_MAX: Duration = Duration::from_secs(180);
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How often the probe asks.
const PROBE_EVERY: Duration = Duration::from_millis(5);
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// ER_NO_SUCH_TABLE.
const NO_SUCH_TABLE: u16 = 1146;

/// What the threads of the load share.
struct Shared {
    door: Door,
    size: Size,
    records: Records,
    boots: Boots,
    serial: AtomicU64,
    /// Statements refused because the table was gone.
    refused: AtomicU64,
    is_dropped: AtomicBool,
    is_over: AtomicBool,
    /// Why a thread gave up.
    trouble: Mutex<Vec<String>>,
    gap: Mutex<Gap>,
}

/// The longest time without an answered query, and where the present one began.
struct Gap {
    last_answer: Option<Stopwatch>,
    longest: Duration,
}

/// Clients and probe at work. Dropping it ends them.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(door: &Door, size: Size) -> Result<Load, Error> {
        let shared = Arc::new(Shared {
            door: door.clone(),
            size,
            records: Records::new(CLIENTS),
            boots: Boots::default(),
            serial: AtomicU64::new(1),
            refused: AtomicU64::new(0),
            is_dropped: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            trouble: Mutex::new(Vec::new()),
            gap: Mutex::new(Gap { last_answer: None, longest: Duration::ZERO }),
        });
        let mut load = Load { shared, threads: Vec::new() };
        for client in 0..CLIENTS {
            load.spawn(format!("client-{client}"), move |shared| shared.run_client(client))?;
        }
        load.spawn("probe".to_owned(), |shared| shared.run_probe())?;
        Ok(load)
    }

    /// Every attempt so far.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.shared.records.snapshot()
    }

    /// Transactions each client had acknowledged by runs of the server from `boot` on.
    pub(super) fn acknowledged_since(&self, boot: usize) -> Vec<usize> {
        self.shared.records.acknowledged_since(boot)
    }

    /// Statements refused so far because their table was gone.
    pub(super) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Runs of the server met so far.
    pub(super) fn boots(&self) -> usize {
        self.shared.boots.len()
    }

    /// Says that the DROP was acknowledged: whatever begins from here on came after it.
    pub(super) fn mark_dropped(&self) {
        self.shared.is_dropped.store(true, Ordering::SeqCst);
    }

    /// Waits until every client had `count` transactions acknowledged by a run of the server from `boot` on.
    pub(super) fn wait_for(&self, boot: usize, count: usize, limit: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(limit);
        loop {
            self.check()?;
            if self.acknowledged_since(boot).iter().all(|acknowledged| *acknowledged >= count) {
                return Ok(());
            }
            if deadline.has_passed() {
                let message = format!("the clients did not get {count} transactions through in {} s", limit.as_secs());
                return Err(Error::new(ErrorKind::Internal, message));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails when a client or the probe gave up.
    pub(super) fn check(&self) -> Result<(), Error> {
        match lock(&self.shared.trouble).first() {
            Some(text) => Err(Error::new(ErrorKind::Unavailable, text.clone())),
            None => Ok(()),
        }
    }

    /// Forgets the longest gap, to measure the next one.
    pub(super) fn begin_gap(&self) {
        lock(&self.shared.gap).longest = Duration::ZERO;
    }

    /// The longest time from one answered query of the probe to the next, since `begin_gap`.
    pub(super) fn longest_gap(&self) -> Duration {
        lock(&self.shared.gap).longest
    }

    fn spawn(&mut self, name: String, body: impl FnOnce(&Shared) + Send + 'static) -> Result<(), Error> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || body(&shared));
        self.threads.push(thread.map_err(|err| {
            Error::new(ErrorKind::Internal, "unable to start a thread for the load").with_source(err)
        })?);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // A client that panicked has nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn give_up(&self, text: String) {
        lock(&self.trouble).push(text);
    }

    fn run_client(&self, client: usize) {
        let mut dice = Dice::new(client as u64 + 1);
        while !self.is_over() {
            let Some((mut conn, boot)) = self.reach(client) else { return };
            while !self.is_over() {
                if self.run_transaction(&mut conn, client, boot, &mut dice).is_err() {
                    break; // The connection is gone; find the server again.
                }
                std::thread::sleep(REST);
            }
        }
    }

    /// A connection and the run of the server behind it; none when the load is over or the server stays away.
    fn reach(&self, client: usize) -> Option<(Conn, usize)> {
        let deadline = Deadline::after(GONE_MAX);
        loop {
            let reached = self.door.connect(PATIENCE).and_then(|mut conn| {
                let started = self.door.started(&mut conn)?;
                Ok((conn, started))
            });
            match reached {
                Ok((conn, Some(started))) => return Some((conn, self.boots.number_of(started))),
                Ok((_, None)) => self.give_up(format!("client {client}: the server does not tell its uptime")),
                Err(err) if deadline.has_passed() => {
                    self.give_up(format!("client {client} found no server for {} s: {err}", GONE_MAX.as_secs()));
                }
                Err(_) if !self.is_over() => {
                    std::thread::sleep(RETRY_EVERY);
                    continue;
                }
                Err(_) => {}
            }
            return None;
        }
    }

    /// Runs one transaction and writes down what became of it. An error is a connection that cannot be used any more.
    fn run_transaction(
        &self,
        conn: &mut Conn,
        client: usize,
        boot: usize,
        dice: &mut Dice,
    ) -> Result<(), mysql::Error> {
        let attempt = Attempt {
            serial: self.serial.fetch_add(1, Ordering::Relaxed),
            client,
            boot,
            after_drop: self.is_dropped.load(Ordering::SeqCst),
            content: dice.content(self.size),
            fate: Fate::Open,
        };
        self.records.announce(attempt.clone());
        let is_abandoned = dice.below(30) == 0;
        for statement in statements(&attempt) {
            if let Err(err) = conn.query_drop(statement) {
                self.records.settle(client, Fate::RolledBack);
                return self.after_refusal(conn, err);
            }
        }
        if is_abandoned {
            let rolled_back = conn.query_drop("ROLLBACK");
            self.records.settle(client, Fate::RolledBack);
            return rolled_back;
        }
        if let Err(err) = conn.query_drop("COMMIT") {
            self.records.settle(client, Fate::InDoubt);
            return Err(err);
        }
        // From here on it counts, whether its GTID can still be asked for or not.
        self.records.settle(client, Fate::Acknowledged { gtid: None });
        let gtid = self.door.committed(conn)?;
        self.records.settle(client, Fate::Acknowledged { gtid });
        Ok(())
    }

    /// A statement was refused: the connection is still good unless even a rollback fails.
    fn after_refusal(&self, conn: &mut Conn, err: mysql::Error) -> Result<(), mysql::Error> {
        let mysql::Error::MySqlError(refusal) = &err else { return Err(err) };
        if refusal.code == NO_SUCH_TABLE {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        conn.query_drop("ROLLBACK")
    }

    fn run_probe(&self) {
        let mut conn: Option<Conn> = None;
        while !self.is_over() {
            let answered = match conn.as_mut() {
                Some(conn) => conn.query_drop("SELECT 1").is_ok(),
                None => match self.door.connect(PROBE_PATIENCE) {
                    Ok(opened) => {
                        conn = Some(opened);
                        continue;
                    }
                    Err(_) => false,
                },
            };
            if answered {
                let mut gap = lock(&self.gap);
                if let Some(last) = gap.last_answer.replace(Stopwatch::start()) {
                    gap.longest = gap.longest.max(last.elapsed());
                }
            } else {
                conn = None;
            }
            std::thread::sleep(PROBE_EVERY);
        }
    }
}

/// What a transaction sends, up to but not with its end. Numbers and names of our own, so nothing needs quoting.
fn statements(attempt: &Attempt) -> Vec<String> {
    let (serial, id, total) = (attempt.serial, ID_OFFSET + attempt.serial, attempt.content.total_cents());
    let mut statements = vec!["START TRANSACTION".to_owned()];
    let pay = |customer: u64, method: Method| {
        let method = method.name();
        format!("INSERT INTO shop.payments VALUES ({id}, {customer}, {total}, '{method}', {serial})")
    };
    match &attempt.content {
        Content::Sale { customer, method, items } => {
            statements.push(format!("INSERT INTO shop.orders VALUES ({id}, {customer}, {total}, 'paid', {serial})"));
            let rows: Vec<String> = items
                .iter()
                .enumerate()
                .map(|(line, item)| {
                    format!("({id}, {}, {}, {}, {}, {serial})", line + 1, item.product, item.quantity, item.price_cents)
                })
                .collect();
            statements.push(format!("INSERT INTO shop.order_items VALUES {}", rows.join(", ")));
            statements.push(pay(*customer, *method));
            statements.extend(items.iter().map(|item| move_stock(item, '-')));
        }
        Content::Deposit { customer, method, amount_cents } => {
            statements.push(pay(*customer, *method));
            statements
                .push(format!("UPDATE shop.customers SET points = points + {amount_cents} WHERE id = {customer}"));
        }
        Content::Delivery { items } => statements.extend(items.iter().map(|item| move_stock(item, '+'))),
    }
    let (client, kind, note) = (attempt.client, attempt.content.kind(), proof::note_of(attempt));
    statements.push(format!("INSERT INTO shop.ledger VALUES ({serial}, {client}, '{kind}', '{note}')"));
    statements
}

fn move_stock(item: &Item, sign: char) -> String {
    format!("UPDATE shop.stock SET on_hand = on_hand {sign} {} WHERE product_id = {}", item.quantity, item.product)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chance enough for a shop (xorshift), and the same each time.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    fn content(&mut self, size: Size) -> Content {
        let customer = 1 + self.below(size.customers);
        let method = match self.below(3) {
            0 => Method::Card,
            1 => Method::Transfer,
            _ => Method::Cash,
        };
        match self.below(10) {
            0..6 => Content::Sale { customer, method, items: self.items(size) },
            6..9 => Content::Deposit { customer, method, amount_cents: 100 + self.below(100_000) },
            _ => Content::Delivery { items: self.items(size) },
        }
    }

    /// One to four products, each once and in order, so that clients never wait for each other in a circle.
    fn items(&mut self, size: Size) -> Vec<Item> {
        let mut products: Vec<u64> = (0..=self.below(4)).map(|_| 1 + self.below(size.products)).collect();
        products.sort_unstable();
        products.dedup();
        let item = |product| Item { product, quantity: 1 + self.below(5), price_cents: 100 + self.below(9900) };
        products.into_iter().map(item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Dice, statements};
    use crate::client::demo::record::{Attempt, Content, Fate, Item, Method};
    use crate::client::demo::shop::Size;

    #[test]
    fn a_sale_writes_its_serial_number_into_every_table() {
        let content = Content::Sale {
            customer: 7,
            method: Method::Card,
            items: vec![Item { product: 3, quantity: 2, price_cents: 500 }],
        };
        let attempt = Attempt { serial: 42, client: 1, boot: 0, after_drop: false, content, fate: Fate::Open };
        assert_eq!(
            statements(&attempt),
            [
                "START TRANSACTION",
                "INSERT INTO shop.orders VALUES (1000000042, 7, 1000, 'paid', 42)",
                "INSERT INTO shop.order_items VALUES (1000000042, 1, 3, 2, 500, 42)",
                "INSERT INTO shop.payments VALUES (1000000042, 7, 1000, 'card', 42)",
                "UPDATE shop.stock SET on_hand = on_hand - 2 WHERE product_id = 3",
                "INSERT INTO shop.ledger VALUES (42, 1, 'sale', '2x3@500')",
            ]
        );
    }

    #[test]
    fn the_dice_make_every_kind_and_stay_in_the_shop() {
        let size = Size::of(1_000);
        let mut dice = Dice::new(3);
        let contents: Vec<Content> = (0..500).map(|_| dice.content(size)).collect();
        for kind in ["sale", "deposit", "delivery"] {
            assert!(contents.iter().any(|content| content.kind() == kind), "{kind}");
        }
        for content in &contents {
            if let Content::Sale { customer, items, .. } = content {
                assert!((1..=size.customers).contains(customer) && !items.is_empty());
                assert!(items.is_sorted_by_key(|item| item.product));
                assert!(items.iter().all(|item| (1..=size.products).contains(&item.product)));
            }
        }
    }
}
