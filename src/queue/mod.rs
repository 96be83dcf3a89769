//! The task queue. The table is the queue; the channel is only a bell.
//!
//! Whoever casts a task writes its row, in one transaction with the state it will change, and rings. Workers claim rows
//! until none is left; a ring that gets lost costs at most one poll. What was running when coffer ended is settled at the
//! next start: it waits again, in its old place.

mod workers;

use crossbeam_channel::{Receiver, Sender, bounded};

pub(crate) use workers::{Run, Workers};

/// Wakes a worker. Clones ring the same bell.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    ring: Sender<()>,
    heard: Receiver<()>,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        // One ring is enough: a worker that wakes looks at the whole table.
        let (ring, heard) = bounded(1);
        Bell { ring, heard }
    }

    /// Says that there is a task; never blocks. A bell that rings already loses nothing.
    pub(crate) fn ring(&self) {
        let _ = self.ring.try_send(());
    }
}
