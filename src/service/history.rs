//! The history of an instance: its timelines and its transactions.

use crate::domain::chunk::ChunkFacts;
use crate::domain::id::InstanceId;
use crate::domain::timeline::Timeline;
use crate::error::Error;
use crate::recovery::{TransactionFilter, TransactionSummary};
use crate::service::Service;

/// A timeline and how far it was shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimelineView {
    pub(crate) timeline: Timeline,
    /// The number of the timeline it branches off.
    pub(crate) parent: Option<u32>,
    pub(crate) is_current: bool,
    /// What its last chunk says.
    pub(crate) last_chunk: Option<ChunkFacts>,
}

impl Service {
    /// The timelines of an instance, by number.
    pub(crate) fn timelines(&self, instance: InstanceId) -> Result<Vec<TimelineView>, Error> {
        self.store.read(|db| {
            db.instance(instance)?;
            let timelines = db.timelines(instance)?;
            let current = timelines.iter().map(|timeline| timeline.number).max();
            let number_of = |id| timelines.iter().find(|timeline| timeline.id == id).map(|timeline| timeline.number);
            timelines
                .iter()
                .map(|timeline| {
                    Ok(TimelineView {
                        parent: timeline.branch.as_ref().and_then(|branch| number_of(branch.at.timeline)),
                        is_current: current == Some(timeline.number),
                        last_chunk: db.last_chunk(timeline.id)?.map(|chunk| chunk.facts),
                        timeline: timeline.clone(),
                    })
                })
                .collect()
        })
    }

    /// Transactions of the current timeline and its past, the newest first.
    pub(crate) fn transactions(
        &self,
        instance: InstanceId,
        filter: &TransactionFilter,
    ) -> Result<Vec<TransactionSummary>, Error> {
        self.store.read(|db| db.instance(instance))?;
        self.planning.transactions(instance, filter)
    }
}
