//! What the use cases ask of the agent: a plan from an instance's history, and a look at its transactions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::agent::Context;
use crate::agent::crew::Crew;
use crate::agent::history::{free_bytes, transactions};
use crate::agent::recovery::check_undo;
use crate::agent::supervisor::note_version;
use crate::clock::{self, Deadline};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::version::version_of;
use crate::datastore::xtrabackup;
use crate::domain::backup::Strategy;
use crate::domain::chunk::Chunk;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::Gtid;
use crate::domain::id::{InstanceId, RecoveryId, TimelineId};
use crate::domain::instance::Instance;
use crate::domain::recovery::RecoveryPlan;
use crate::domain::target::RecoveryTarget;
use crate::domain::transaction::Transaction;
use crate::domain::verification::Damage;
use crate::error::{Error, ErrorKind};
use crate::recovery::plan::Resolution;
use crate::recovery::plan::{ChunkSource, Facts, Rates, plan_recovery};
use crate::recovery::transactions::list_transactions;
use crate::recovery::{Planning, TransactionFilter, TransactionSummary};

/// Chunks asked of the catalog at once.
const PAGE: usize = 1000;
/// Chunks whose transactions are kept in memory between questions of one plan.
const CHUNKS_KEPT: usize = 16;
/// How long the shipper may take to ship what is readable before a plan is made.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// The planner's view of one instance's history.
struct Source<'a> {
    context: &'a Context,
    instance: InstanceId,
    /// A plan asks for the same few chunks again.
    kept: Mutex<VecDeque<(String, Vec<Transaction>)>>,
}

impl ChunkSource for Source<'_> {
    fn chunks(&self, timeline: TimelineId, ordinal: u32, position: u64) -> Result<Vec<Chunk>, Error> {
        let mut found = Vec::new();
        let mut from = (ordinal, position);
        loop {
            let page = self.context.store.read(|db| db.chunks_from(timeline, from.0, from.1, PAGE))?;
            let full = page.len() == PAGE;
            if let Some(last) = page.last() {
                from = (last.facts.ordinal, last.facts.end);
            }
            found.extend(page);
            if !full {
                return Ok(found);
            }
        }
    }

    fn transactions(&self, chunk: &Chunk) -> Result<Vec<Transaction>, Error> {
        if let Ok(kept) = self.kept.lock()
            && let Some((_, transactions)) = kept.iter().find(|(key, _)| *key == chunk.key)
        {
            return Ok(transactions.clone());
        }
        let found = transactions(self.context, chunk)?;
        if let Ok(mut kept) = self.kept.lock() {
            kept.push_back((chunk.key.clone(), found.clone()));
            if kept.len() > CHUNKS_KEPT {
                kept.pop_front();
            }
        }
        Ok(found)
    }

    fn has_statements(&self, timeline: TimelineId, after: (u32, u64), to: (u32, u64)) -> Result<bool, Error> {
        self.context.store.read(|db| db.has_statements(timeline, after, to))
    }

    fn holding(&self, gtid: &Gtid) -> Result<Vec<Chunk>, Error> {
        self.context.store.read(|db| db.chunks_holding_gtid(self.instance, gtid))
    }
}

/// Plans for the use cases; see `recovery::Planning`.
pub(crate) struct AgentPlanning {
    context: Arc<Context>,
    crew: Arc<Crew>,
}

impl AgentPlanning {
    pub(crate) fn new(context: Arc<Context>, crew: Arc<Crew>) -> AgentPlanning {
        AgentPlanning { context, crew }
    }
}

/// Refuses a plan whose base nothing here can bring back, before anything has begun.
fn check_tools(context: &Context, instance: &Instance, plan: &RecoveryPlan) -> Result<(), Error> {
    let tools = context.tools.of(instance.datastore);
    let found = match plan.base_strategy {
        Strategy::Mariabackup | Strategy::Clone => Ok(()),
        Strategy::Dump => DumpTools::of(tools, &plan.base_version).map(drop),
        Strategy::Xtrabackup => xtrabackup::installed_version(tools).map(drop),
    };
    found.map_err(|err| {
        let what = format!("backup {} was made by `{}`: {}", plan.base, plan.base_strategy.name(), err.message());
        Error::new(ErrorKind::Refused, what).hint(err.hint_text().unwrap_or("Choose another backup with --backup."))
    })
}

impl AgentPlanning {
    /// Refuses a plan whose base or binlog is encrypted and cannot be opened here, before anything has begun.
    fn check_opens(&self, plan: &mut RecoveryPlan) -> Result<(), Error> {
        let repository = &self.context.repository;
        let checked = repository.read_manifest(plan.instance, plan.base).and_then(|manifest| {
            repository.check_opens(&manifest)?;
            // Recipients change with time: if the first and the last can be opened, those between can.
            let ends = [plan.chunks.first(), plan.chunks.last()];
            ends.into_iter().flatten().try_for_each(|chunk| repository.check_chunk_opens(&chunk.key))
        });
        match checked {
            Err(err) if err.kind() == ErrorKind::NotFound => Err(Error::new(ErrorKind::Refused, err.message())
                .hint("Choose another backup with --backup; `coffer backup list` shows them.")),
            // A recovery waits for a store that is away; so it may be planned.
            Err(err) if err.kind() == ErrorKind::Unavailable => {
                plan.warnings.push(format!("Whether the base backup can be read was not checked: {err}"));
                Ok(())
            }
            checked => checked,
        }
    }
}

/// MySQL stamps commits in microseconds.
fn resolution(instance: &Instance) -> Resolution {
    if instance.datastore == Datastore::Mysql { Resolution::Microsecond } else { Resolution::Second }
}

impl Planning for AgentPlanning {
    fn plan(&self, id: InstanceId, target: &RecoveryTarget) -> Result<RecoveryPlan, Error> {
        let shipper = self.crew.shipper(id)?;
        // What cannot be shipped now (a dead store) limits the plan; it says so by where the history ends.
        let shipped_as_of = clock::now();
        let drained = shipper.drain(Deadline::after(DRAIN_TIMEOUT));
        let mut instance = self.context.store.read(|db| db.instance(id))?;
        // Somebody may have put another server in its place; one that does not answer is what it was last.
        let _ = note_version(&self.context, &mut instance);
        let timelines = self.context.store.read(|db| db.timelines(id))?;
        let backups = self.context.store.read(|db| db.backups(None))?;
        let damage = Damage::of(&self.context.store.read(|db| db.bad_objects(id, usize::MAX))?);
        let source = Source { context: &self.context, instance: id, kept: Mutex::default() };
        // A program that can't be asked can't replay either, and then the recovery says so.
        let datastore = instance.datastore;
        let program_version = version_of(datastore, &self.context.tools.of(datastore).server).unwrap_or_default();
        let facts = Facts {
            instance: id,
            now: clock::now(),
            timelines: &timelines,
            backups: &backups,
            source: &source,
            damage: &damage,
            server_version: &instance.version,
            program_version: &program_version,
            free_disk_bytes: free_bytes(&instance.server.work_dir),
            busy: None,
            rates: Rates::default(),
            resolution: resolution(&instance),
            shipped_as_of: drained.is_ok().then_some(shipped_as_of),
        };
        let mut plan = plan_recovery(&facts, target).map_err(Error::from)?;
        check_tools(&self.context, &instance, &plan)?;
        self.check_opens(&mut plan)?;
        if let Err(err) = drained {
            plan.warnings.push(format!("The newest transactions may not be shipped yet: {err}"));
        }
        Ok(plan)
    }

    fn check_undo(&self, id: InstanceId, recovery: RecoveryId) -> Result<(), Error> {
        let instance = self.context.store.read(|db| db.instance(id))?;
        check_undo(&self.context, &instance, recovery)
    }

    fn transactions(&self, id: InstanceId, filter: &TransactionFilter) -> Result<Vec<TransactionSummary>, Error> {
        if let Ok(shipper) = self.crew.shipper(id) {
            // An answer without the last second is still an answer; the status says what stands in the way.
            let _ = shipper.drain(Deadline::after(std::time::Duration::from_secs(5)));
        }
        let timelines = self.context.store.read(|db| db.timelines(id))?;
        let before = |timeline: TimelineId, ordinal: u32, position: u64| {
            self.context.store.read(|db| db.chunks_back_from(timeline, ordinal, position, PAGE))
        };
        list_transactions(&timelines, filter, before, |chunk| transactions(&self.context, chunk))
    }
}
