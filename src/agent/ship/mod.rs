//! Shipping: every committed transaction of an instance, out to the repository within seconds.
//!
//! One thread an instance tails the *active* binlog file at transaction boundaries. It needs no running server: a dead
//! server's files are read just the same, which is how the tail of a crashed one is saved. All state is in the catalog
//! (the last chunk) and in the files, so a restart goes on where it stopped, and proves by the chunk's digest that it
//! stands in the same file. Whatever cannot be had is a recorded gap; shipping goes on behind it.

mod continuity;
pub(crate) mod index;
mod report;
pub(crate) mod tail;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::agent::Context;
use crate::agent::ship::continuity::{Continuity, Link};
use crate::agent::ship::index::{binlog_files, name_of};
use crate::agent::ship::report::Told;
use crate::agent::ship::tail::{Head, Piece, Scan, Tail};
use crate::binlog::event::Flavour;
use crate::clock::{self, Deadline};
use crate::domain::chunk::{Chunk, ChunkFacts, Gap};
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::{BinlogState, GtidPosition};
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::instance::Instance;
use crate::domain::shipping::ShippingState;
use crate::domain::timeline::{Branch, Origin, Timeline};
use crate::error::{Error, ErrorKind};
use crate::logging;
use crate::repository::chunk::ChunkBody;
use crate::repository::hex;
use crate::storage::patience;

/// The longest pause between two tries while something stands in the way.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long one look lets a store's driver try again by itself; then the look has failed, and says so.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// Chunks larger than this are read from the file while they are stored, instead of being held in memory.
const IN_MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Damage at the end of an active file may be a write that is under way; after this long it is damage.
const DAMAGE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the thread, which under a steady load always has something to do, lets those go first who wait for it.
const GIVE_WAY: Duration = Duration::from_millis(5);
/// What stands in the way of shipping after a rebuild, with the remedies.
const NOT_PROVEN: &str = "The binlog on this host does not go on with the history in the repository, so nothing of it is shipped. \
     Bring the instance back with `coffer recover`; or, if the server here is right, delete the instance (its backups stay) and adopt it anew.";

/// Ships one instance's binlog.
pub(crate) struct Shipper {
    context: Arc<Context>,
    instance: InstanceId,
    inner: Mutex<Inner>,
    told: Mutex<Told>,
    /// How many wait for `inner`: the thread, which would take it again at once, lets them go first.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    tail: Option<Tail>,
    held: bool,
    failures: u32,
    binlog_base: PathBuf,
    damaged_since: Option<clock::Stopwatch>,
}

/// What one look at the binlog did.
enum Step {
    /// Something was shipped or a new file was opened: look again at once.
    Moved,
    /// Everything readable is shipped.
    CaughtUp,
    /// There are no binlog files.
    NoFiles,
    /// There are some, and nothing shows that they go on with the history that was rebuilt from the repository.
    NotProven,
}

/// Where everything that could be read has been shipped to.
#[derive(Debug, Clone)]
pub(crate) struct Drained {
    pub(crate) to: Option<Coordinate>,
    pub(crate) position: GtidPosition,
    pub(crate) clock: i64,
}

impl Shipper {
    pub(crate) fn new(context: &Arc<Context>, instance: InstanceId) -> Shipper {
        Shipper {
            context: Arc::clone(context),
            instance,
            inner: Mutex::default(),
            told: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The thread's body: ends when `stop` is dropped.
    pub(crate) fn run(&self, stop: &Receiver<()>) {
        loop {
            let pause = self.look();
            match stop.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Ships what there is and returns how long to wait before the next look.
    fn look(&self) -> Duration {
        let mut inner = self.lock();
        if inner.held {
            return self.context.settings.poll;
        }
        match patience::until(Deadline::after(STORE_PATIENCE), || self.step(&mut inner)) {
            Ok(step) => {
                inner.failures = 0;
                let message = match step {
                    Step::NoFiles => "There are no binlog files to ship; is the server running?",
                    Step::NotProven => NOT_PROVEN,
                    Step::Moved | Step::CaughtUp => "",
                };
                self.report(&inner, ShippingState::Shipping, message);
                match step {
                    Step::Moved if self.waiting.load(Ordering::SeqCst) > 0 => GIVE_WAY,
                    Step::Moved => Duration::ZERO,
                    Step::CaughtUp | Step::NoFiles | Step::NotProven => self.context.settings.poll,
                }
            }
            Err(err) => {
                if inner.failures == 0 {
                    logging::warn("ship", format!("instance {}: {err}", self.instance));
                }
                inner.failures = inner.failures.saturating_add(1);
                self.report(&inner, ShippingState::Failing, &err.to_string());
                let factor = 2_u32.saturating_pow(inner.failures.min(8));
                self.context.settings.poll.saturating_mul(factor).min(RETRY_MAX)
            }
        }
    }

    /// Ships everything that can be read now, and says where that leads. What the server writes meanwhile is not waited
    /// for: with a store that answers slowly that would never end.
    pub(crate) fn drain(&self, deadline: Deadline) -> Result<Drained, Error> {
        let mut inner = self.lock();
        let goal = self.newest()?;
        loop {
            match self.step(&mut inner)? {
                Step::Moved if is_reached(&inner, goal.as_ref()) => break,
                Step::Moved if deadline.has_passed() => {
                    return Err(Error::new(ErrorKind::Unavailable, "the binlog is not shipped completely yet")
                        .hint("Shipping goes on; try again in a moment."));
                }
                Step::Moved => {}
                Step::CaughtUp | Step::NoFiles | Step::NotProven => break,
            }
        }
        let state = if inner.held { ShippingState::Held } else { ShippingState::Shipping };
        self.report_soon();
        self.report(&inner, state, "");
        self.drained(&inner)
    }

    /// The binlog file the server writes to, and its length.
    fn newest(&self) -> Result<Option<(PathBuf, u64)>, Error> {
        let instance = self.context.store.read(|db| db.instance(self.instance))?;
        let Some(newest) = binlog_files(&instance.server.binlog_base)?.pop() else { return Ok(None) };
        let length =
            std::fs::metadata(&newest).map_err(|err| crate::error::io_error("unable to look at", &newest, err))?;
        Ok(Some((newest, length.len())))
    }

    fn drained(&self, inner: &Inner) -> Result<Drained, Error> {
        if let Some(tail) = &inner.tail {
            let to = (tail.position > 0).then(|| coordinate(tail));
            // A file that was just opened and holds nothing yet: the last chunk says where we are.
            if to.is_some() {
                return Ok(Drained { to, position: tail.reached.clone(), clock: tail.clock });
            }
        }
        let Some(timeline) = self.context.store.read(|db| db.current_timeline(self.instance))? else {
            return Ok(Drained { to: None, position: GtidPosition::default(), clock: 0 });
        };
        let last = self.context.store.read(|db| db.last_chunk(timeline.id))?;
        Ok(match last {
            Some(chunk) => Drained {
                to: Some(chunk.facts.ends_at()),
                position: chunk.facts.position_after.clone(),
                clock: chunk.facts.clock_after(),
            },
            None => Drained {
                to: timeline.branch.as_ref().map(|branch| branch.at.clone()),
                position: timeline.branch.as_ref().map(|branch| branch.position.clone()).unwrap_or_default(),
                clock: timeline.branch.as_ref().map_or(0, |branch| branch.clock),
            },
        })
    }

    /// Where the shipped history ends, without another look at the server's files.
    pub(crate) fn shipped(&self) -> Result<Drained, Error> {
        self.drained(&self.lock())
    }

    /// Ships nothing by itself until `resume`; whoever holds it may still `drain`.
    pub(crate) fn hold(&self) {
        let mut inner = self.lock();
        inner.held = true;
        self.report_soon();
        self.report(&inner, ShippingState::Held, "Held while a recovery exchanges the data.");
    }

    /// Goes on, in whatever timeline is the current one now.
    pub(crate) fn resume(&self) {
        let mut inner = self.lock();
        inner.held = false;
        inner.tail = None;
        self.report_soon();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let locked = self.inner.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // A panic in a step leaves nothing half-done: all state is rebuilt from catalog and files.
        locked.unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            inner.tail = None;
            inner
        })
    }

    fn step(&self, inner: &mut Inner) -> Result<Step, Error> {
        let observed_at = clock::now();
        let instance = self.context.store.read(|db| db.instance(self.instance))?;
        inner.binlog_base.clone_from(&instance.server.binlog_base);
        if inner.tail.is_none() {
            if let Some(step) = self.prove(&instance)? {
                return Ok(step);
            }
            inner.tail = self.open(&instance)?;
        }
        if self.ship_new(inner)? {
            return Ok(Step::Moved);
        }
        let Some(tail) = inner.tail.as_mut() else { return Ok(Step::NoFiles) };
        let files = binlog_files(&inner.binlog_base)?;
        let place = files.iter().position(|path| tail.is(path).unwrap_or(false));
        match place {
            Some(at) if at + 1 == files.len() => {
                self.caught_up(observed_at);
                Ok(Step::CaughtUp)
            }
            Some(at) => {
                // The server opened another file after our last read: what it wrote to this one is complete now.
                if self.ship_new(inner)? {
                    return Ok(Step::Moved);
                }
                self.advance(inner, &files[at + 1], true)
            }
            None if files.is_empty() => {
                // The bytes of a deleted file that is still open have all been read above.
                Ok(Step::NoFiles)
            }
            None => {
                if self.ship_new(inner)? {
                    return Ok(Step::Moved);
                }
                self.advance(inner, &files[0], false)
            }
        }
    }

    /// What stands in the way of taking the server here for the one whose history the repository holds. After a rebuild of the catalog that is not
    /// taken on trust: a host set up anew may run another server in the same place, and its binlog would become the
    /// newest history. The file that holds the last shipped chunk proves it, once and for all; so does a recovery.
    fn prove(&self, instance: &Instance) -> Result<Option<Step>, Error> {
        let store = &self.context.store;
        if !store.read(|db| db.is_unproven(self.instance))? {
            return Ok(None);
        }
        let files = binlog_files(&instance.server.binlog_base)?;
        if files.is_empty() {
            return Ok(Some(Step::NoFiles));
        }
        let timeline = store.read(|db| db.current_timeline(self.instance))?;
        let last = timeline.map(|timeline| store.read(|db| db.last_chunk(timeline.id))).transpose()?.flatten();
        let Some(last) = last else { return Ok(Some(Step::NotProven)) };
        for path in files.iter().filter(|path| name_of(path) == last.facts.file) {
            if Tail::behind(&last.facts, path)?.is_some() {
                store.write(|tx| tx.set_proven(self.instance))?;
                logging::info("ship", format!("instance {}: the server here goes on with its history", self.instance));
                return Ok(None);
            }
        }
        Ok(Some(Step::NotProven))
    }

    /// Opens the file in which shipping goes on after a start of coffer or a switch of data.
    fn open(&self, instance: &Instance) -> Result<Option<Tail>, Error> {
        let Some(timeline) = self.context.store.read(|db| db.current_timeline(self.instance))? else {
            return Ok(None);
        };
        self.context.repository.put_timeline(&timeline)?;
        let files = binlog_files(&instance.server.binlog_base)?;
        if files.is_empty() {
            return Ok(None);
        }
        let Some(last) = self.context.store.read(|db| db.last_chunk(timeline.id))? else {
            return self.open_first(&timeline, &files);
        };
        for path in files.iter().filter(|path| name_of(path) == last.facts.file) {
            if let Some(tail) = Tail::behind(&last.facts, path)? {
                return Ok(Some(tail));
            }
        }
        // The file is gone or another one has its name: what the oldest file's head lists decides.
        let mut inner = Inner { tail: Some(self.lost_tail(&last, &files[0])?), ..Inner::default() };
        match self.advance(&mut inner, &files[0], false)? {
            Step::Moved => Ok(inner.tail),
            // The stand-in must not be read: its bytes are another file's. The oldest file's head is still being written.
            Step::CaughtUp | Step::NoFiles | Step::NotProven => Ok(None),
        }
    }

    /// The first file of a timeline that has no chunk yet.
    fn open_first(&self, timeline: &Timeline, files: &[PathBuf]) -> Result<Option<Tail>, Error> {
        let after = self.context.store.read(|db| db.ship_after(timeline.id))?.unwrap_or_default();
        let at = files.iter().position(|path| name_of(path) == after).map_or(0, |found| found + 1);
        let Some(path) = files.get(at) else { return Ok(None) };
        let (clock, reached) = match &timeline.branch {
            Some(branch) => (branch.clock, branch.position.clone()),
            None => (0, timeline.state_at_begin.position()),
        };
        let mut tail = Tail::at_start(timeline.id, 1, path, clock, reached, None)?;
        tail.carried.clone_from(timeline.state_at_begin.executed());
        Ok(Some(tail))
    }

    /// A stand-in for a file that cannot be opened any more, behind its last shipped chunk.
    fn lost_tail(&self, last: &Chunk, any_file: &std::path::Path) -> Result<Tail, Error> {
        let facts = &last.facts;
        let mut tail = Tail::at_start(
            facts.timeline,
            facts.ordinal,
            any_file,
            facts.clock_after(),
            facts.position_after.clone(),
            Some(facts.sha256.clone()),
        )?;
        // Its name goes into the record of the gap, which people are pointed to.
        tail.path = any_file.with_file_name(&facts.file);
        tail.position = facts.end;
        tail.state = facts.state_after.clone();
        // Whether it was complete is not known, so a reset behind it may have lost something.
        tail.ended = true;
        tail.lost = true;
        Ok(tail)
    }

    /// Ships what is new in the open file. `false` when there is nothing.
    fn ship_new(&self, inner: &mut Inner) -> Result<bool, Error> {
        let Inner { tail: Some(tail), damaged_since, binlog_base, .. } = inner else { return Ok(false) };
        let observed_at = clock::now();
        let bytes_max = self.context.settings.chunk_bytes_max;
        match tail.scan(bytes_max, observed_at.as_microsecond())? {
            Scan::Piece(piece) => {
                *damaged_since = None;
                {
                    let _busy = self.busy_with(binlog_base, tail);
                    self.ship(tail, &piece, observed_at)?;
                }
                // It was everything there was, unless it was cut for its length or the server has gone on elsewhere.
                if piece.end - piece.begin < bytes_max && !piece.ended {
                    self.caught_up(observed_at);
                }
                Ok(true)
            }
            Scan::Nothing => {
                *damaged_since = None;
                Ok(false)
            }
            Scan::Damaged { at, reason } => {
                let since = damaged_since.get_or_insert_with(clock::Stopwatch::start);
                if since.elapsed() < DAMAGE_PATIENCE {
                    return Ok(false);
                }
                Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("binlog `{}` is damaged at {at}: {reason}", tail.path.display()),
                )
                .hint("Everything before that is shipped. Run FLUSH BINARY LOGS, then take a full backup."))
            }
        }
    }

    fn ship(&self, tail: &mut Tail, piece: &Piece, observed_at: jiff::Timestamp) -> Result<(), Error> {
        if tail.format.is_none() {
            // From here on `raw` knows the head it has to clean.
            tail.format = Some(piece.format.clone());
        }
        let bytes = if piece.end - piece.begin <= IN_MEMORY_BYTES_MAX {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut tail.raw(piece.begin, piece.end)?, &mut bytes)
                .map_err(|err| crate::error::io_error("unable to read binlog", &tail.path, err))?;
            if bytes.len() as u64 != piece.end - piece.begin {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("binlog `{}` shrank while it was read", tail.path.display()),
                ));
            }
            Some(bytes)
        } else {
            None
        };
        let sha256 = match &bytes {
            Some(bytes) => hex(&<sha2::Sha256 as sha2::Digest>::digest(bytes)),
            None => digest_of(&mut tail.raw(piece.begin, piece.end)?, &tail.path)?,
        };
        let facts = self.facts(tail, piece, observed_at, sha256);
        let body = match &bytes {
            Some(bytes) => ChunkBody::Bytes(bytes),
            None => ChunkBody::Range { file: tail.file(), begin: piece.begin, end: piece.end },
        };
        let chunk = self.context.repository.put_chunk(&facts, piece.format.raw(), body)?;
        self.context.store.write(|tx| tx.insert_seen_chunk(&chunk, piece.summary.as_statements))?;
        tail.shipped(piece, &chunk.facts.sha256);
        Ok(())
    }

    fn facts(&self, tail: &Tail, piece: &Piece, observed_at: jiff::Timestamp, sha256: String) -> ChunkFacts {
        let summary = &piece.summary;
        ChunkFacts {
            instance: self.instance,
            timeline: tail.timeline,
            ordinal: tail.ordinal,
            file: tail.name(),
            begin: piece.begin,
            end: piece.end,
            sha256,
            follows: tail.follows.clone(),
            gap_before: tail.gap.clone(),
            transactions: summary.transactions,
            first_gtid: summary.first_gtid,
            last_gtid: summary.last_gtid,
            ranges: summary.ranges(),
            position_after: piece.reached.clone(),
            state_after: piece.state.clone(),
            clock_before: tail.clock,
            first_commit: summary.first_commit,
            last_commit: summary.last_commit,
            observed_at,
        }
    }

    /// Goes on to the next file. `expected` says that the index lists it right behind the one that is open.
    fn advance(&self, inner: &mut Inner, path: &std::path::Path, expected: bool) -> Result<Step, Error> {
        let Some(tail) = inner.tail.as_mut() else { return Ok(Step::NoFiles) };
        let mut next = Tail::at_start(
            tail.timeline,
            tail.ordinal.saturating_add(1),
            path,
            tail.clock,
            tail.reached.clone(),
            tail.follows.clone(),
        )?;
        let Some(head) = next.head()? else { return Ok(Step::CaughtUp) };
        let torn = tail.length()?.saturating_sub(tail.position);
        if expected && torn > 0 {
            logging::warn(
                "ship",
                format!(
                    "instance {}: binlog {} ends with {torn} bytes of a transaction that was never committed; left out",
                    self.instance,
                    tail.name()
                ),
            );
        }
        match self.continuity(tail, &head, path, expected)? {
            Continuity::Unbroken => next.carried.clone_from(tail.state.executed()),
            Continuity::Hole => {
                let gap = self.gap(tail, &head.state, "binlog files were purged before they were shipped");
                self.announce_gap(&gap);
                next.reached = head.state.position();
                next.gap = Some(gap);
            }
            Continuity::Anew => next = self.begin_anew(tail, path, &head.state)?,
        }
        let has_gap = next.gap.is_some();
        inner.tail = Some(next);
        if has_gap {
            self.context.cast_backup(self.instance, "after-gap")?;
        }
        Ok(Step::Moved)
    }

    fn continuity(&self, tail: &Tail, head: &Head, path: &std::path::Path, listed: bool) -> Result<Continuity, Error> {
        if head.format.flavour() == Flavour::Mariadb {
            return Ok(continuity::of_mariadb(&tail.state, &head.state));
        }
        let timelines = self.context.store.read(|db| db.timelines(self.instance))?;
        let own = timelines.into_iter().find(|timeline| timeline.id == tail.timeline);
        let before = own.map(|timeline| timeline.state_at_begin).unwrap_or_default();
        let link = Link::between(&tail.name(), &name_of(path), listed, !tail.lost);
        Ok(continuity::of_mysql(&tail.state, &before, &head.state, link))
    }

    /// The server's binlog began anew (`RESET MASTER`, or another history): so does a timeline, because GTIDs and file
    /// names repeat from here on.
    fn begin_anew(&self, tail: &Tail, path: &std::path::Path, state: &BinlogState) -> Result<Tail, Error> {
        let timelines = self.context.store.read(|db| db.timelines(self.instance))?;
        // A file that was being written to when the server deleted it has been read to its end: nothing is missing.
        let has_all = !tail.ended && state.is_empty();
        // MySQL's numbers come again, and an applier passes over those it has applied: no replay leads through.
        let unbroken = has_all && tail.state.executed().is_empty();
        let branch = unbroken.then(|| Branch {
            at: coordinate(tail),
            position: tail.reached.clone(),
            clock: tail.clock,
            skipped: Vec::new(),
        });
        let timeline = Timeline {
            id: TimelineId::random(),
            instance: self.instance,
            number: timelines.iter().map(|timeline| timeline.number).max().unwrap_or(0) + 1,
            origin: Origin::Reset,
            branch: branch.clone(),
            state_at_begin: state.clone(),
            begun_at: clock::now(),
        };
        self.context.repository.put_timeline(&timeline)?;
        self.context.store.write(|tx| tx.insert_timeline(&timeline))?;
        logging::warn(
            "ship",
            format!(
                "instance {}: the server's binlog began anew ({}); timeline {} begins{}",
                self.instance,
                name_of(path),
                timeline.number,
                if unbroken { ", nothing is missing" } else { " behind a gap; a full backup is taken" }
            ),
        );
        let reached = branch.map_or_else(|| state.position(), |branch| branch.position);
        let mut next = Tail::at_start(timeline.id, 1, path, tail.clock, reached, None)?;
        if !unbroken {
            let reason = match has_all {
                true => "the server's GTIDs began anew (RESET BINARY LOGS AND GTIDS): no replay leads across",
                false => "the server's binlog began anew (RESET MASTER, or another data directory)",
            };
            let gap = self.gap(tail, state, reason);
            self.announce_gap(&gap);
            next.gap = Some(gap);
        }
        Ok(next)
    }

    fn gap(&self, tail: &Tail, behind: &BinlogState, reason: &str) -> Gap {
        Gap {
            after: Some(coordinate(tail)),
            position_before: tail.reached.clone(),
            state_behind: behind.clone(),
            reason: reason.to_owned(),
        }
    }

    fn announce_gap(&self, gap: &Gap) {
        let after = gap.after.as_ref().map(ToString::to_string).unwrap_or_else(|| "nothing".to_owned());
        logging::error(
            "ship",
            format!(
                "instance {}: GAP after {after} (`{}` to `{}`): {}; no target between them can be recovered",
                self.instance, gap.position_before, gap.state_behind, gap.reason
            ),
        );
    }
}

/// Whether everything is shipped that the server had written when `goal` was noted.
fn is_reached(inner: &Inner, goal: Option<&(PathBuf, u64)>) -> bool {
    let (Some(tail), Some((newest, length))) = (&inner.tail, goal) else { return false };
    tail.name() > name_of(newest) || (tail.path == *newest && tail.position >= *length)
}

fn coordinate(tail: &Tail) -> Coordinate {
    Coordinate { timeline: tail.timeline, ordinal: tail.ordinal, file: tail.name(), position: tail.position }
}

fn digest_of(reader: &mut dyn std::io::Read, path: &std::path::Path) -> Result<String, Error> {
    let mut digest = <sha2::Sha256 as sha2::Digest>::new();
    std::io::copy(reader, &mut digest).map_err(|err| crate::error::io_error("unable to read binlog", path, err))?;
    Ok(hex(&sha2::Digest::finalize(digest)))
}
