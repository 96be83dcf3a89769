//! The planner: catalog and target in, plan or refusal out. Pure, so that a plan can be tested, shown, journaled and
//! carried out later unchanged.
//!
//! In this order: the target is resolved to an exact place between two transactions (`stop`, `position`), along a
//! timeline and the part of its ancestors that is its past (`lineage`); the newest backup that leads there is chosen
//! (`base`); the chunks from one to the other are proven to be without a hole (`chain`); what is replayed is added up
//! (`replay`), and what it costs (`cost`) and gives up (`loss`).

mod base;
mod chain;
mod cost;
pub(super) mod lineage;
mod loss;
mod position;
mod reader;
pub(crate) mod refusal;
mod replay;
mod skip;
mod stop;
pub(crate) mod version;
mod warning;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub(crate) use self::cost::Rates;
pub(crate) use self::refusal::PlanError;

use self::base::Base;
use self::chain::Piece;
use self::lineage::{Lineage, current};
use self::reader::Reader;
use self::refusal::TimelineName;
use self::replay::Replay;
use self::stop::{Following, Resolved, Stop};
use self::warning::Warning;
use crate::domain::backup::Backup;
use crate::domain::chunk::Chunk;
use crate::domain::gtid::Gtid;
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::recovery::{PlannedTransaction, RecoveryPlan};
use crate::domain::target::{Point, RecoveryTarget};
use crate::domain::timeline::Timeline;
use crate::domain::transaction::{MICROSECONDS, Transaction};
use crate::domain::verification::Damage;
use crate::error::Error;
use crate::recovery::transactions::describe;

/// A base that ends longer before the stop than this is worth a warning.
const REPLAY_SECONDS_NOTED: i64 = 24 * 60 * 60;

/// Where the planner reads chunks and transactions.
pub(crate) trait ChunkSource {
    /// Chunks of `timeline` whose end is after (`ordinal`, `position`), in order. May be only the first of them; none
    /// means there are none. Positions stay below 2^63.
    fn chunks(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Result<Vec<Chunk>, Error>;

    /// The chunk's transactions, in order, read from the repository and checked.
    fn transactions(&self, chunk: &Chunk) -> Result<Vec<Transaction>, Error>;

    /// Whether changes are known to be logged as statements in a chunk of `timeline` whose end is behind `after` and not
    /// behind `to`, both an ordinal and a position. Said without reading a chunk, so what nobody has seen is not told.
    fn has_statements(&self, timeline: TimelineId, after: (u32, u64), to: (u32, u64)) -> Result<bool, Error>;

    /// Chunks of any timeline of the instance whose ranges hold the GTID.
    fn holding(&self, gtid: &Gtid) -> Result<Vec<Chunk>, Error>;
}

/// All the planner knows.
pub(crate) struct Facts<'a> {
    pub(crate) instance: InstanceId,
    pub(crate) now: Timestamp,
    /// All timelines of the instance; the one with the highest number is current.
    pub(crate) timelines: &'a [Timeline],
    /// All backups. Those of other instances are looked at only to name the mistake.
    pub(crate) backups: &'a [Backup],
    pub(crate) source: &'a dyn ChunkSource,
    /// Backups and chunks that a verification has found bad. No plan builds on them.
    pub(crate) damage: &'a Damage,
    /// How fine the server stamps commits.
    pub(crate) resolution: Resolution,
    /// Everything the server had committed by then is in the repository; absent when that was never so.
    pub(crate) shipped_as_of: Option<Timestamp>,
    /// Of the instance's server; empty when not known.
    pub(crate) server_version: &'a str,
    /// Of the server program that coffer is configured with; empty when not known.
    pub(crate) program_version: &'a str,
    /// Free space beside the data directory; absent when not known.
    pub(crate) free_disk_bytes: Option<u64>,
    /// What is being done with the instance that a recovery must not disturb.
    pub(crate) busy: Option<&'a str>,
    pub(crate) rates: Rates,
}

/// How fine a server's stamps of commits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    Second,
    Microsecond,
}

impl Resolution {
    /// The newest stamp at or before `time`, microseconds since 1970.
    fn floor(self, time: Timestamp) -> i64 {
        // Nanoseconds are cut off, before 1970 towards it: nothing was committed then.
        let instant = time.as_microsecond();
        match self {
            Resolution::Second => instant.div_euclid(MICROSECONDS).saturating_mul(MICROSECONDS),
            Resolution::Microsecond => instant,
        }
    }
}

/// Resolves the target and proves the way to it, or says exactly why there is none.
pub(crate) fn plan_recovery(facts: &Facts<'_>, target: &RecoveryTarget) -> Result<RecoveryPlan, PlanError> {
    if let Some(busy) = facts.busy {
        return Err(PlanError::Busy { with: busy.to_owned() });
    }
    if let Some(base) = target.base {
        base::named(facts, base)?;
    }
    let reader = Reader::new(facts.source, facts.damage);
    let resolved = stop::resolve(facts, &reader, target)?;
    let following = stop::following(facts, &reader, &resolved.lineage, &resolved.stop)?;
    let way = choose_way(facts, &reader, target, &resolved, &following)?;
    let given_up = loss::given_up(facts, &reader, &resolved.lineage, way.stop.place)?;
    let mut warnings = resolved.warnings;
    let runners = [(version::Runner::Server, facts.server_version), (version::Runner::Program, facts.program_version)];
    warnings.extend(version::check(way.base.backup, &runners)?);
    if !version::takes_files(facts.program_version, facts.server_version) {
        let (server_version, program_version) = (facts.server_version.to_owned(), facts.program_version.to_owned());
        warnings.push(Warning::UndoNeeds { server_version, program_version });
    }
    warnings.extend(warnings_about(facts, target, &resolved.lineage, &way));
    let plan = assemble(facts, target, &way, following.first, given_up, &warnings);
    match facts.free_disk_bytes {
        Some(free) if free < plan.disk_bytes => Err(PlanError::DiskShort { needed: plan.disk_bytes, free }),
        Some(_) | None => Ok(plan),
    }
}

/// A base, a stop, and the proven chain between.
struct Way<'a> {
    base: Base<'a>,
    stop: Stop,
    pieces: Vec<Piece>,
    replay: Replay,
}

fn choose_way<'a>(
    facts: &Facts<'a>,
    reader: &Reader<'_>,
    target: &RecoveryTarget,
    resolved: &Resolved<'_>,
    following: &Following,
) -> Result<Way<'a>, PlanError> {
    let lineage = &resolved.lineage;
    let skips = skip::gather(reader, lineage, resolved.stop.place, &target.skip)?;
    let forced = target.base.or(resolved.base);
    let point = target.point.to_string();
    let bases = base::candidates(facts, lineage, &resolved.stop, following.limit, &skips, forced, point.clone())?;
    let to_stop = lineage.up_to(resolved.stop.place.segment);
    let mut refusal = None;
    for base in bases {
        let stop = if base.place > resolved.stop.place {
            Stop { place: base.place, at: base.end.at.clone() }
        } else {
            resolved.stop.clone()
        };
        let pieces = chain::collect(facts.source, &to_stop, base.reached(), stop.place)?;
        // An older base leads through the same chunks and more.
        chain::refuse_damaged(facts.damage, &base, &pieces)?;
        match replay::sum(reader, &base, &pieces, &skips) {
            Ok(replay) => return Ok(Way { base, stop, pieces, replay }),
            // An older base has the same gaps in front of it and more, but it may be sound where this one is not.
            Err(PlanError::BaseNotUsable { backup, why }) => {
                refusal.get_or_insert(PlanError::BaseNotUsable { backup, why });
            }
            Err(err) => return Err(err),
        }
    }
    Err(refusal.unwrap_or_else(|| base::none_before(point, &[])))
}

fn warnings_about(facts: &Facts<'_>, target: &RecoveryTarget, lineage: &Lineage<'_>, way: &Way<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let replay = &way.replay;
    if target.base.is_none()
        && let Some(damaged) = base::damaged_behind(facts, lineage, &way.base, way.stop.place)
    {
        warnings.push(Warning::BaseDamaged { backup: damaged });
    }
    if let (Point::PointInTime(time), Some(last)) = (&target.point, &replay.last)
        && facts.resolution == Resolution::Second
        && last.committed_at == facts.resolution.floor(*time)
    {
        let (instant, last, what) = (last.committed_at, last.name(), last.what.clone());
        warnings.push(Warning::WholeSecond { instant, last, what });
    }
    let current = current(facts.timelines).and_then(|current| Lineage::of(facts.timelines, current.id).ok());
    if current.is_some_and(|current| current.place(&way.stop.at).is_none())
        && let Some(segment) = lineage.segment(way.stop.place.segment)
    {
        warnings.push(Warning::Abandoned { timeline: TimelineName::of(segment.timeline) });
    }
    let seconds = replay.clock.saturating_sub(way.base.end.clock) / MICROSECONDS;
    if way.base.end.clock > 0 && seconds > REPLAY_SECONDS_NOTED {
        warnings.push(Warning::LongReplay { hours: seconds / 3600 });
    }
    if replay.has_xa {
        warnings.push(Warning::Xa);
    }
    if replay.has_statements {
        warnings.push(Warning::Statements);
    }
    if !replay.skipped.is_empty() {
        warnings.push(Warning::Skips { count: replay.skipped.len() });
    }
    warnings
}

fn assemble(
    facts: &Facts<'_>,
    target: &RecoveryTarget,
    way: &Way<'_>,
    first_excluded: Option<PlannedTransaction>,
    given_up_transactions: u64,
    warnings: &[Warning],
) -> RecoveryPlan {
    let Way { base, stop, pieces, replay } = way;
    let raw_bytes = base.backup.raw_bytes;
    RecoveryPlan {
        instance: facts.instance,
        target: target.clone(),
        base: base.backup.id,
        base_end: base.end.clone(),
        base_strategy: base.backup.strategy,
        base_version: base.backup.server_version.clone(),
        base_raw_bytes: raw_bytes,
        base_stored_bytes: base.backup.stored_bytes,
        chunks: pieces.iter().map(replay::planned_chunk).collect(),
        stop: stop.at.clone(),
        stop_clock: replay.clock,
        position: replay.position.clone(),
        transactions: replay.transactions,
        last_included: replay.last.clone(),
        first_excluded,
        skipped: replay.skipped.clone(),
        given_up_transactions,
        download_bytes: base.backup.stored_bytes.saturating_add(replay.chunk_stored_bytes),
        replay_bytes: replay.replay_bytes,
        disk_bytes: cost::disk_bytes(base.backup.strategy, raw_bytes, replay.replay_bytes),
        estimate_seconds: cost::estimate_seconds(&facts.rates, raw_bytes, replay.replay_bytes),
        warnings: warnings.iter().map(Warning::to_string).collect(),
    }
}

fn planned_transaction(piece: &Piece, transaction: &Transaction) -> PlannedTransaction {
    PlannedTransaction {
        gtid: transaction.gtid,
        begins_at: piece.coordinate(transaction.begin),
        ends_at: piece.coordinate(transaction.end),
        committed_at: transaction.committed_at,
        what: describe(transaction),
    }
}
