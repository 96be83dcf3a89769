//! Why a plan cannot be made: an enum of facts, and the sentence and the remedy each becomes.

use std::fmt;

use jiff::Timestamp;

use crate::domain::backup::BackupStatus;
use crate::domain::chunk::GtidRange;
use crate::domain::coordinate::{BinlogPosition, Coordinate};
use crate::domain::gtid::{Gtid, GtidStream};
use crate::domain::id::{BackupId, TimelineId};
use crate::domain::timeline::Timeline;
use crate::domain::transaction::MICROSECONDS;
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::version::Runner;

/// A refused plan. Holds the facts; `Error::from` makes the message and the hint of them.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// Something else is being done with the instance.
    Busy {
        with: String,
    },
    /// No completed backup ends at or before the target.
    NoBackupBefore {
        target: String,
        oldest: Option<OldestBackup>,
    },
    /// Binlog between the base and the target was never shipped.
    BinlogGap(Box<BinlogGap>),
    /// Binlog between the base and the target is damaged or gone from the repository.
    ChunkDamaged(Box<ChunkDamage>),
    TargetInFuture {
        target: Timestamp,
        now: Timestamp,
    },
    /// The target may lie behind what has reached the repository.
    NotShippedYet {
        target: String,
        reachable: Reachable,
    },
    UnknownGtid {
        gtid: Gtid,
        timeline: Option<TimelineName>,
    },
    /// The GTID was used in more than one place.
    AmbiguousGtid {
        gtid: Gtid,
        places: Vec<(TimelineName, BinlogPosition)>,
    },
    /// More than one binlog file of the lineage has that name.
    AmbiguousPosition {
        position: BinlogPosition,
        timelines: Vec<TimelineName>,
    },
    /// No such file in the lineage, or no such offset in it. `elsewhere`: timelines off the lineage that have the file.
    UnknownPosition {
        position: BinlogPosition,
        file_end: Option<u64>,
        elsewhere: Vec<TimelineName>,
    },
    UnknownTimeline {
        timeline: TimelineId,
    },
    UnknownBackup {
        backup: BackupId,
    },
    BackupNotCompleted {
        backup: BackupId,
        status: BackupStatus,
    },
    BackupOfOtherInstance {
        backup: BackupId,
    },
    /// The backup asked for as the base does not lead to the target.
    BaseNotUsable {
        backup: BackupId,
        why: BaseFault,
    },
    SkipNotInRange {
        gtid: Gtid,
        why: SkipFault,
    },
    VersionMismatch {
        base: BackupId,
        base_version: String,
        server_version: String,
        runner: Runner,
    },
    DiskShort {
        needed: u64,
        free: u64,
    },
    /// Reading the catalog or the repository failed.
    Source(Error),
}

/// A hole in the shipped binlog.
#[derive(Debug)]
pub(crate) struct BinlogGap {
    /// The last shipped place before the hole; absent when nothing had been shipped.
    pub(crate) after: Option<Coordinate>,
    /// Transactions known to be missing; empty when nothing tells which.
    pub(crate) missing: Vec<GtidRange>,
    pub(crate) reason: String,
    /// The last point before the hole that a recovery can reach.
    pub(crate) reachable: Reachable,
}

/// A chunk that a verification has found bad.
#[derive(Debug)]
pub(crate) struct ChunkDamage {
    pub(crate) key: String,
    pub(crate) why: String,
    /// The last point before it.
    pub(crate) reachable: Reachable,
}

/// A point that can be reached, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reachable {
    pub(crate) at: Option<Coordinate>,
    /// The commit clock there, microseconds since 1970; 0 before anything was committed.
    pub(crate) clock: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OldestBackup {
    pub(crate) backup: BackupId,
    /// The commit clock at its end.
    pub(crate) clock: i64,
}

/// A timeline as people and requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimelineName {
    pub(crate) number: u32,
    pub(crate) id: TimelineId,
}

impl TimelineName {
    pub(super) fn of(timeline: &Timeline) -> TimelineName {
        TimelineName { number: timeline.number, id: timeline.id }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BaseFault {
    /// It belongs to a timeline that is not in the target's past.
    OffTimeline,
    /// It ends behind the target.
    AfterTarget { end: BinlogPosition, stop: BinlogPosition },
    /// It holds a transaction that shall be left out.
    HoldsSkipped(Gtid),
    /// The catalog says it ends in the middle of a transaction.
    Misaligned,
    /// A verification has found objects of it damaged or gone. `end`: the point it would have led to.
    Damaged { why: String, end: Option<BinlogPosition> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkipFault {
    /// It is not between the oldest backup and the target.
    NotBeforeTarget,
    /// Every backup that leads to the target already holds it.
    InEveryBackup,
    /// It was used more than once before the target.
    Ambiguous,
}

impl From<Error> for PlanError {
    fn from(error: Error) -> PlanError {
        PlanError::Source(error)
    }
}

impl From<PlanError> for Error {
    fn from(refusal: PlanError) -> Error {
        if let PlanError::Source(error) = refusal {
            return error;
        }
        let error = Error::new(refusal.kind(), refusal.message());
        match refusal.remedy() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl PlanError {
    fn kind(&self) -> ErrorKind {
        match self {
            PlanError::Busy { .. } | PlanError::BackupNotCompleted { .. } => ErrorKind::Conflict,
            PlanError::UnknownTimeline { .. } | PlanError::UnknownBackup { .. } => ErrorKind::NotFound,
            PlanError::BackupOfOtherInstance { .. } => ErrorKind::InvalidInput,
            PlanError::NoBackupBefore { .. }
            | PlanError::BinlogGap(_)
            | PlanError::ChunkDamaged(_)
            | PlanError::TargetInFuture { .. }
            | PlanError::NotShippedYet { .. }
            | PlanError::UnknownGtid { .. }
            | PlanError::AmbiguousGtid { .. }
            | PlanError::AmbiguousPosition { .. }
            | PlanError::UnknownPosition { .. }
            | PlanError::BaseNotUsable { .. }
            | PlanError::SkipNotInRange { .. }
            | PlanError::VersionMismatch { .. }
            | PlanError::DiskShort { .. } => ErrorKind::Refused,
            PlanError::Source(error) => error.kind(),
        }
    }

    fn message(&self) -> String {
        match self {
            PlanError::Busy { with } => format!("the instance is busy: {with}"),
            PlanError::NoBackupBefore { target, oldest: None } => {
                format!("no completed backup leads to {target}: there is none in its past")
            }
            PlanError::NoBackupBefore { target, oldest: Some(oldest) } => format!(
                "no completed backup leads to {target}: the oldest, {}, holds everything up to {}",
                oldest.backup,
                utc(oldest.clock)
            ),
            PlanError::BinlogGap(gap) => gap_message(gap),
            PlanError::ChunkDamaged(damage) => format!(
                "the target needs binlog chunk `{}`, and that is damaged, {}; last reachable is {}",
                damage.key, damage.why, damage.reachable
            ),
            PlanError::TargetInFuture { target, now } => {
                format!("{target} is in the future: it is {} now", whole_seconds(*now))
            }
            PlanError::NotShippedYet { target, reachable } => {
                format!("{target} is not in the repository yet: shipped is up to {reachable}")
            }
            PlanError::UnknownGtid { gtid, timeline: None } => {
                format!("no transaction {gtid} is in the repository, in any timeline of the instance")
            }
            PlanError::UnknownGtid { gtid, timeline: Some(timeline) } => {
                format!("no transaction {gtid} is in {timeline} or its past")
            }
            PlanError::AmbiguousGtid { gtid, places } => {
                let places: Vec<String> = places.iter().map(|(timeline, at)| format!("{at} of {timeline}")).collect();
                format!("{gtid} names more than one transaction: {}", places.join(", "))
            }
            PlanError::AmbiguousPosition { position, timelines } => {
                format!("more than one binlog file is named {}: {}", position.file, list(timelines))
            }
            PlanError::UnknownPosition { position, file_end: Some(end), .. } => {
                format!("there is no position {position}: {} ends at {end}", position.file)
            }
            PlanError::UnknownPosition { position, file_end: None, .. } => {
                format!("there is no position {position} in the timeline and its past")
            }
            PlanError::UnknownTimeline { timeline } => format!("timeline {timeline} cannot be found"),
            PlanError::UnknownBackup { backup } => format!("backup {backup} cannot be found"),
            PlanError::BackupNotCompleted { backup, status } => {
                format!("backup {backup} is {}, not COMPLETED", status.name())
            }
            PlanError::BackupOfOtherInstance { backup } => format!("backup {backup} is of another instance"),
            PlanError::BaseNotUsable { backup, why } => format!("backup {backup} does not lead to the target: {why}"),
            PlanError::SkipNotInRange { gtid, why } => match why {
                SkipFault::NotBeforeTarget => format!("{gtid} cannot be left out: it is not before the target"),
                SkipFault::InEveryBackup => {
                    format!("{gtid} cannot be left out: every backup that leads to the target holds it")
                }
                SkipFault::Ambiguous => format!("{gtid} cannot be left out: it names more than one transaction"),
            },
            PlanError::VersionMismatch { base, base_version, server_version, runner } => {
                let what = match runner {
                    Runner::Server => "the server is",
                    Runner::Program => "the server program that coffer is configured with is",
                };
                format!("backup {base} was taken from version {base_version}, {what} {server_version}")
            }
            PlanError::DiskShort { needed, free } => format!(
                "the recovery needs {needed} bytes free beside the data directory, {free} are free: {} bytes short",
                needed.saturating_sub(*free)
            ),
            PlanError::Source(error) => error.message(),
        }
    }

    fn remedy(&self) -> Option<String> {
        let hint = match self {
            PlanError::Busy { .. } => "Wait until that is done, then ask again.".to_owned(),
            PlanError::NoBackupBefore { oldest: None, .. } => {
                "Take a backup; from then on every later point can be reached.".to_owned()
            }
            PlanError::NoBackupBefore { oldest: Some(oldest), .. } => {
                format!("Choose a target at or after {}.", utc(oldest.clock))
            }
            PlanError::BinlogGap(gap) => match &gap.reachable.at {
                Some(at) => format!(
                    "Recover to position {at} (up to {}) at the latest, or to a point after a backup taken behind the gap.",
                    utc(gap.reachable.clock)
                ),
                None => "Choose a point after a backup taken behind the gap.".to_owned(),
            },
            PlanError::ChunkDamaged(damage) => match &damage.reachable.at {
                Some(at) => format!(
                    "Recover to position {at} at the latest, or to a point after a backup taken behind it. Once the object is back from another copy, `coffer backup verify` says so and it is used again."
                ),
                None => "Choose a point after a backup taken behind it.".to_owned(),
            },
            PlanError::TargetInFuture { .. } => {
                "Give a time that has passed, with its zone; `latest` means everything there is.".to_owned()
            }
            PlanError::NotShippedYet { .. } => {
                "Ask again in a moment; if the server is down and its binlog lost, recover to `latest`.".to_owned()
            }
            PlanError::UnknownGtid { .. } => {
                "List what there is with `coffer transactions`; a transaction committed just now is there in a moment."
                    .to_owned()
            }
            PlanError::AmbiguousGtid { .. } => "Name the timeline too, or give the target as a time.".to_owned(),
            PlanError::AmbiguousPosition { .. } => "Name the timeline too, or give the transaction's GTID.".to_owned(),
            PlanError::UnknownPosition { elsewhere, .. } if !elsewhere.is_empty() => {
                format!("A file of that name is in {}; name the timeline to reach it.", list(elsewhere))
            }
            PlanError::UnknownPosition { .. } => {
                "List the transactions and their positions with `coffer transactions`.".to_owned()
            }
            PlanError::UnknownTimeline { .. } => "List them with `coffer timeline`.".to_owned(),
            PlanError::UnknownBackup { .. } => "List them with `coffer backup list`.".to_owned(),
            PlanError::BackupNotCompleted { status, .. } if status.is_running() => {
                "Wait until it is COMPLETED, or choose another one.".to_owned()
            }
            PlanError::BackupNotCompleted { .. } => "Choose another one with `coffer backup list`.".to_owned(),
            PlanError::BackupOfOtherInstance { .. } => {
                "Choose a backup of this instance with `coffer backup list`.".to_owned()
            }
            PlanError::BaseNotUsable { backup, why: BaseFault::Damaged { end, .. } } => {
                let end = end
                    .as_ref()
                    .map(|end| format!("Recover to position {end} to reach where it ends from an older one. "));
                format!(
                    "{}Once its objects are back from another copy, `coffer backup verify {backup}` says so and it is used again.",
                    end.unwrap_or_default()
                )
            }
            PlanError::BaseNotUsable { .. } => {
                "Leave the backup out to let the newest fitting one be chosen.".to_owned()
            }
            PlanError::SkipNotInRange { .. } => {
                "Leave out only transactions between the oldest backup and the target.".to_owned()
            }
            PlanError::VersionMismatch { base_version, .. } => {
                format!(
                    "Install version {base_version} or a later one of its series, or choose a target after a backup of the version that runs."
                )
            }
            PlanError::DiskShort { needed, free } => {
                format!("Free at least {} bytes on that file system.", needed.saturating_sub(*free))
            }
            PlanError::Source(_) => return None,
        };
        Some(hint)
    }
}

fn gap_message(gap: &BinlogGap) -> String {
    let after = match &gap.after {
        Some(at) => format!("after {at}"),
        None => "before the first shipped binlog".to_owned(),
    };
    let missing = if gap.missing.is_empty() {
        "an unknown number of transactions is missing".to_owned()
    } else {
        let ranges: Vec<String> = gap.missing.iter().map(range).collect();
        format!("missing {}", ranges.join(", "))
    };
    format!("the binlog has a gap {after} ({}): {missing}; last reachable is {}", gap.reason, gap.reachable)
}

fn range(range: &GtidRange) -> String {
    let GtidRange { stream, first, last } = range;
    let separator = if matches!(stream, GtidStream::Mariadb { .. }) { '-' } else { ':' };
    if first == last { format!("{stream}{separator}{first}") } else { format!("{stream}{separator}{first}..{last}") }
}

fn list(timelines: &[TimelineName]) -> String {
    timelines.iter().map(TimelineName::to_string).collect::<Vec<_>>().join(", ")
}

/// A commit clock as UTC in RFC 3339.
pub(in crate::recovery) fn utc(clock: i64) -> String {
    if clock == 0 {
        return "before the first transaction".to_owned();
    }
    match Timestamp::from_microsecond(clock) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{clock} microseconds since 1970"),
    }
}

fn whole_seconds(time: Timestamp) -> String {
    utc(time.as_second().saturating_mul(MICROSECONDS))
}

impl fmt::Display for TimelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {} ({})", self.number, self.id)
    }
}

impl fmt::Display for Reachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{} ({at})", utc(self.clock)),
            None => f.write_str(&utc(self.clock)),
        }
    }
}

impl fmt::Display for BaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BaseFault::OffTimeline => f.write_str("its timeline is not in the target's past"),
            BaseFault::AfterTarget { end, stop } => write!(f, "it ends at {end}, the target is {stop}"),
            BaseFault::HoldsSkipped(gtid) => write!(f, "it holds {gtid}, which shall be left out"),
            BaseFault::Misaligned => f.write_str("the catalog has its end inside a transaction"),
            BaseFault::Damaged { why, .. } => write!(f, "it is damaged, {why}"),
        }
    }
}
