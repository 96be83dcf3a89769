//! What the shipper tells of itself: how far it is, what waits and since when.
//!
//! It is told also while the shipper is busy with a store that does not answer, by a thread of its own: an outage must
//! show as a lag that grows, and not as the last good word from before it.

use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Timestamp;

use crate::agent::ship::index::{binlog_files, name_of};
use crate::agent::ship::tail::Tail;
use crate::agent::ship::{Inner, Shipper};
use crate::clock;
use crate::domain::shipping::{ShippingState, ShippingStatus};
use crate::logging;

/// How often an unchanged status is written again, so that "looked at" stays fresh.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// A chunk that is on its way for longer is worth a word.
const BUSY_MAX: Duration = Duration::from_secs(3);

/// What was told last, and what keeps the shipper from telling more.
#[derive(Default)]
pub(super) struct Told {
    status: Option<ShippingStatus>,
    written: Option<clock::Stopwatch>,
    /// The status has changed since it was written.
    is_changed: bool,
    /// Everything the server had written by then is in the repository.
    caught_up_at: Option<Timestamp>,
    busy: Option<Busy>,
}

/// A chunk is being stored.
struct Busy {
    since: clock::Stopwatch,
    binlog_base: PathBuf,
    name: String,
    position: u64,
}

impl Shipper {
    /// A thread's body: tells how long a chunk has been on its way. Ends when `stop` is dropped.
    pub(crate) fn watch(&self, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(STATUS_EVERY) {
            self.report_busy();
        }
    }

    /// Notes that this place of the binlog is being stored; the returned mark ends that.
    pub(super) fn busy_with(&self, binlog_base: &Path, tail: &Tail) -> impl Drop + use<'_> {
        let since = clock::Stopwatch::start();
        let binlog_base = binlog_base.to_owned();
        self.told().busy = Some(Busy { since, binlog_base, name: tail.name(), position: tail.position });
        EndOfBusy(self)
    }

    /// Everything the server had written at `at` is in the repository.
    pub(super) fn caught_up(&self, at: Timestamp) {
        self.told().caught_up_at = Some(at);
    }

    /// Lets the next report be written at once.
    pub(super) fn report_soon(&self) {
        self.told().written = None;
    }

    fn report_busy(&self) {
        let mut told = self.told();
        let Some(busy) = &told.busy else { return };
        let seconds = busy.since.elapsed().as_secs();
        if busy.since.elapsed() < BUSY_MAX {
            return;
        }
        let Some(mut status) = told.status.clone() else { return };
        status.state = ShippingState::Failing;
        status.behind_bytes = bytes_behind(&busy.binlog_base, &busy.name, busy.position);
        status.behind_since = told.caught_up_at.or(status.behind_since);
        status.message = format!(
            "The repository has not taken the next chunk for {seconds} s; it is tried again. \
             Nothing is lost: the server keeps its binlog files."
        );
        status.looked_at = clock::now();
        self.write(&mut told, status);
    }

    /// Tells how far shipping is, when that changed or was told long ago.
    pub(super) fn report(&self, inner: &Inner, state: ShippingState, message: &str) {
        let now = clock::now();
        let mut told = self.told();
        if told.caught_up_at.is_none() {
            // An earlier life of coffer may have left something behind.
            let before = self.context.store.read(|db| db.shipping(self.instance)).ok().flatten();
            told.caught_up_at = Some(before.map_or(now, |before| before.behind_since.unwrap_or(before.looked_at)));
        }
        let mut status = ShippingStatus {
            state,
            shipped_to: None,
            position: Default::default(),
            last_commit: 0,
            behind_bytes: 0,
            behind_since: None,
            message: message.to_owned(),
            looked_at: now,
        };
        // Without an open file (a dead server, a file just opened) the catalog says how far shipping has come.
        if let Ok(drained) = self.drained(inner) {
            status.shipped_to = drained.to;
            status.position = drained.position;
            status.last_commit = drained.clock;
        }
        if let Some(tail) = &inner.tail {
            let in_file = tail.length().unwrap_or(0).saturating_sub(tail.position);
            status.behind_bytes = in_file.max(bytes_behind(&inner.binlog_base, &tail.name(), tail.position));
        }
        if status.behind_bytes > 0 || state == ShippingState::Failing {
            status.behind_since = told.caught_up_at;
        }
        told.is_changed |= told.status.as_ref().is_none_or(|before| {
            before.state != status.state || before.shipped_to != status.shipped_to || before.message != status.message
        });
        let is_due = match told.written.map(|written| written.elapsed()) {
            None => true,
            Some(age) => age >= STATUS_EVERY || (told.is_changed && age >= self.context.settings.poll),
        };
        if is_due {
            self.write(&mut told, status);
        } else {
            told.status = Some(status);
        }
    }

    fn write(&self, told: &mut Told, status: ShippingStatus) {
        match self.context.store.write(|tx| tx.set_shipping(self.instance, &status)) {
            Ok(()) => {
                told.written = Some(clock::Stopwatch::start());
                told.is_changed = false;
            }
            Err(err) => logging::warn("ship", format!("instance {}: {err}", self.instance)),
        }
        told.status = Some(status);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // What is inside is whole at every moment.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndOfBusy<'a>(&'a Shipper);

impl Drop for EndOfBusy<'_> {
    fn drop(&mut self) {
        self.0.told().busy = None;
    }
}

/// Bytes of binlog behind this place, in its file and in those after it. 0 when its file is not among the server's.
fn bytes_behind(binlog_base: &Path, name: &str, position: u64) -> u64 {
    let files = binlog_files(binlog_base).unwrap_or_default();
    let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let all: u64 = files.iter().skip_while(|path| name_of(path) != name).map(length).sum();
    all.saturating_sub(position)
}
