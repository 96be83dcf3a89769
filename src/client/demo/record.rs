//! What the demo's clients wrote, as they know it themselves: every transaction with its contents and its fate.
//!
//! An attempt is recorded before its first statement is sent, so whatever the server holds was announced here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::gtid::Gtid;

/// One transaction a client tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Unique in the demo, from 1; carried by every row the transaction writes.
    pub(super) serial: u64,
    pub(super) client: usize,
    /// The run of the server it was sent to, see `Boots`.
    pub(super) boot: usize,
    /// It began when the DROP had been acknowledged.
    pub(super) after_drop: bool,
    pub(super) content: Content,
    pub(super) fate: Fate,
}

/// What the transaction writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// An order with its items, paid at once; takes from the stock.
    Sale { customer: u64, method: Method, items: Vec<Item> },
    /// A payment on account, which earns points.
    Deposit { customer: u64, method: Method, amount_cents: u64 },
    /// Goods arrive; adds to the stock.
    Delivery { items: Vec<Item> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) product: u64,
    pub(super) quantity: u64,
    pub(super) price_cents: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Card,
    Transfer,
    Cash,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Card => "card",
            Method::Transfer => "transfer",
            Method::Cash => "cash",
        }
    }
}

impl Content {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Content::Sale { .. } => "sale",
            Content::Deposit { .. } => "deposit",
            Content::Delivery { .. } => "delivery",
        }
    }

    pub(super) fn total_cents(&self) -> u64 {
        match self {
            Content::Sale { items, .. } | Content::Delivery { items } => {
                items.iter().map(|item| item.quantity * item.price_cents).sum()
            }
            Content::Deposit { amount_cents, .. } => *amount_cents,
        }
    }
}

/// What became of an attempt, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Under way.
    Open,
    /// COMMIT was answered; the GTID is missing when the server went away before it could be asked.
    Acknowledged { gtid: Option<Gtid> },
    /// It never came to a COMMIT.
    RolledBack,
    /// COMMIT was sent and never answered.
    InDoubt,
}

/// Every attempt of every client.
#[derive(Debug, Default)]
pub(super) struct Records {
    attempts: Vec<Mutex<Vec<Attempt>>>,
}

impl Records {
    pub(super) fn new(clients: usize) -> Records {
        Records { attempts: (0..clients).map(|_| Mutex::new(Vec::new())).collect() }
    }

    /// Announces an attempt.
    pub(super) fn announce(&self, attempt: Attempt) {
        if let Some(mut attempts) = self.of(attempt.client) {
            attempts.push(attempt);
        }
    }

    /// Writes down what became of the last attempt of `client`.
    pub(super) fn settle(&self, client: usize, fate: Fate) {
        if let Some(attempt) = self.of(client).as_mut().and_then(|attempts| attempts.last_mut()) {
            attempt.fate = fate;
        }
    }

    /// All attempts so far, in no particular order.
    pub(super) fn snapshot(&self) -> Vec<Attempt> {
        (0..self.attempts.len()).filter_map(|client| self.of(client)).flat_map(|attempts| attempts.clone()).collect()
    }

    /// How many transactions each client had acknowledged in runs of the server from `boot` on.
    pub(super) fn acknowledged_since(&self, boot: usize) -> Vec<usize> {
        let count = |attempts: MutexGuard<'_, Vec<Attempt>>| {
            let acknowledged = |attempt: &&Attempt| matches!(attempt.fate, Fate::Acknowledged { .. });
            // Boots only grow, so what belongs to the newest ones is at the end.
            attempts.iter().rev().take_while(|attempt| attempt.boot >= boot).filter(acknowledged).count()
        };
        (0..self.attempts.len()).filter_map(|client| self.of(client)).map(count).collect()
    }

    fn of(&self, client: usize) -> Option<MutexGuard<'_, Vec<Attempt>>> {
        // A client that panicked leaves its records as they were: whole.
        self.attempts.get(client).map(|attempts| attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The runs of the server that the clients met, numbered from 0 by their start.
///
/// A run is told by the second the server started in, which it works out for every asker from the same two figures.
#[derive(Debug, Default)]
pub(super) struct Boots(Mutex<Vec<i64>>);

impl Boots {
    /// The number of the run that started in this second.
    pub(super) fn number_of(&self, started_at: i64) -> usize {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A second of slack, in case the host's clock is being trimmed.
        if let Some(number) = boots.iter().position(|known| known.abs_diff(started_at) <= 1) {
            return number;
        }
        boots.push(started_at);
        boots.len() - 1
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Boots, Content, Fate, Records};

    #[test]
    fn runs_of_the_server_are_told_apart_by_their_start() {
        let boots = Boots::default();
        assert_eq!([boots.number_of(100), boots.number_of(101), boots.number_of(107)], [0, 0, 1]);
        assert_eq!((boots.number_of(100), boots.len()), (0, 2));
    }

    #[test]
    fn acknowledged_transactions_are_counted_from_a_run_on() {
        let records = Records::new(2);
        for (client, boot, fate) in [
            (0, 0, Fate::Acknowledged { gtid: None }),
            (0, 1, Fate::Acknowledged { gtid: None }),
            (0, 1, Fate::InDoubt),
            (1, 0, Fate::Acknowledged { gtid: None }),
        ] {
            let content = Content::Delivery { items: Vec::new() };
            records.announce(Attempt { serial: 1, client, boot, after_drop: false, content, fate: Fate::Open });
            records.settle(client, fate);
        }
        assert_eq!(records.acknowledged_since(1), [1, 0]);
        assert_eq!(records.acknowledged_since(0), [2, 1]);
        assert_eq!(records.snapshot().len(), 4);
    }
}
