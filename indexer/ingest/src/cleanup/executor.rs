//! Cleans a log up: plans, records the plan, raises the floor, and only then deletes.

use std::sync::Arc;

use tidemark_catalog::{CatalogError, CleanupChain, PinChain, RootChain, TransactionRejected};
use tidemark_store::StoreClock;
use tidemark_wal::{Log, LogReader};
use tokio::sync::watch;

use super::{
    archived_entries::ArchivedEntries,
    entry_deleter::{DeletionFence, DeletionMode, EntryDeleter},
    error::CleanupError,
    left_guards::LeftGuardDeleter,
    planner::{CleanupOutlook, CleanupPlanner, PlannedWork},
    report::{CleanupReport, DeletionReport},
    retention_rules::CleanupRules,
};
use crate::{mutants, snapshot::LogArchive};

/// How often a clean-up plans again because the log's register has changed under it.
const MAX_PLANS: u32 = 8;

/// Cleans up one log on behalf of one index. Any number of processes may do so at once; of two the one that began first stops.
pub struct CleanupExecutor {
    /// The log.
    pub log: Log,
    /// Its root.
    pub root: RootChain,
    /// The name by which the index is registered: its URL.
    pub index: String,
    /// The pins that the log has in the index.
    pub pins: PinChain,
    /// The log's clean-ups, recorded in the index.
    pub cleanups: CleanupChain,
    /// The log's archive.
    pub archive: Arc<dyn LogArchive>,
    /// The clock of the log's stores.
    pub clock: StoreClock,
    /// Who cleans up: for people.
    pub cleaner: String,
    /// What was deleted so far.
    pub progress: watch::Sender<DeletionReport>,
}

/// What clean-up is wanted.
#[derive(Clone, Debug)]
pub struct CleanupRequest {
    /// What stays.
    pub rules: CleanupRules,
    /// Whether it only counts what it would delete. It reads all of it and writes nothing but the clock's probe.
    pub dry_run: bool,
}

impl CleanupExecutor {
    /// Deletes the entries of the log that the rules let go and that the archive has, byte for byte.
    ///
    /// It may end at any step, and a later run goes on: it looks at what the log has. The order makes it safe:
    ///
    /// 1. The plan is recorded: up to which second, and in which version of the archive each entry is read.
    /// 2. The log's floor is raised to that second, in a record of the root that every registered index allows. From then on no index is
    ///    built over the hole.
    /// 3. Each entry is read in that version and in the log. One that is the same in both is deleted, then its guard; every other one stays.
    /// 4. Guards that an earlier clean-up left are deleted, if their entry is gone and that version has it.
    ///
    /// # Errors
    ///
    /// What was deleted before an error is in the archive. Single entries that fail are no error: the report names them. After an unknown
    /// outcome ([`CleanupError::is_unknown`]) the process has to end.
    pub async fn run(&self, request: &CleanupRequest) -> Result<CleanupReport, CleanupError> {
        let reader = LogReader::new(&self.log);
        for plans_left in (0..MAX_PLANS).rev() {
            let outlook = self.planner(&reader).look(&request.rules).await?;
            let Some(work) = &outlook.work else { return Ok(report(&reader, outlook, DeletionReport::default())) };
            if request.dry_run {
                let deletion = self.delete(&reader, work, DeletionMode::Rehearsal).await?;
                return Ok(report(&reader, outlook, deletion));
            }
            match self.execute(&reader, work).await {
                Ok(deletion) => {
                    let floor = work.plan.floor;
                    return Ok(CleanupReport { floor, ..report(&reader, outlook, deletion) });
                }
                Err(CleanupError::Chain(CatalogError::Rejected(rejected)))
                    if plans_left > 0 && is_outdated(&rejected) =>
                {
                    tracing::debug!(%rejected, "the log's register has changed; planning again");
                }
                Err(error) => return Err(error),
            }
        }
        let (chain, attempts) = (self.cleanups.chain().store().url().to_string(), MAX_PLANS);
        Err(CatalogError::Conflicts { chain, attempts }.into())
    }

    fn planner<'a>(&'a self, reader: &'a LogReader) -> CleanupPlanner<'a> {
        CleanupPlanner {
            reader,
            root: &self.root,
            index: &self.index,
            pins: &self.pins,
            archive: &*self.archive,
            clock: &self.clock,
        }
    }

    async fn execute(&self, reader: &LogReader, work: &PlannedWork) -> Result<DeletionReport, CleanupError> {
        let plan = &work.plan;
        let mut begun = None;
        if mutants::is_plan_first() {
            begun = Some(self.cleanups.begin(&self.cleaner, plan).await?);
        }
        if mutants::is_floor_first() {
            self.raise_floor(work).await?;
        }
        let fence = begun.as_ref().map(|begun| DeletionFence { cleanups: &self.cleanups, begun });
        let deletion = self.delete(reader, work, DeletionMode::Deletion(fence.as_ref())).await?;
        if !mutants::is_floor_first() {
            self.raise_floor(work).await?;
        }
        match &begun {
            Some(begun) => self.cleanups.end(begun).await?,
            None => drop(self.cleanups.begin(&self.cleaner, plan).await?),
        }
        Ok(deletion)
    }

    async fn raise_floor(&self, work: &PlannedWork) -> Result<(), CleanupError> {
        let plan = &work.plan;
        self.root.begin_cleanup(&self.index, plan.floor, &plan.archive, &plan.extent).await?;
        Ok(())
    }

    async fn delete(
        &self,
        reader: &LogReader,
        work: &PlannedWork,
        mode: DeletionMode<'_>,
    ) -> Result<DeletionReport, CleanupError> {
        self.progress.send_replace(DeletionReport::default());
        let (log, to) = (&self.log.entries, work.plan.to);
        let archived = || ArchivedEntries::new(&*self.archive, &work.version, to);
        let deletion = EntryDeleter::new(log, archived(), mode, &self.progress).run(reader, to).await?;
        if let DeletionMode::Deletion(fence) = mode
            && deletion.stopped.is_none()
        {
            LeftGuardDeleter { log, archived: archived(), fence }.run(to).await?;
        }
        Ok(deletion)
    }
}

/// Whether another plan may be admitted: since this one was made, an index registered, or another clean-up went further.
fn is_outdated(rejected: &TransactionRejected) -> bool {
    matches!(
        rejected,
        TransactionRejected::FloorAboveIndex { .. }
            | TransactionRejected::FloorBack { .. }
            | TransactionRejected::FloorOfAnotherArchive { .. }
    )
}

fn report(reader: &LogReader, outlook: CleanupOutlook, deletion: DeletionReport) -> CleanupReport {
    let CleanupOutlook { time, rules, survey, to, floor, work } = outlook;
    CleanupReport {
        time,
        rules,
        to,
        floor,
        snapshot: work.map(|work| work.plan.snapshot),
        entries: survey.entries,
        bytes: survey.bytes,
        foreign: reader.unrecognized_keys(),
        foreign_names: reader.unrecognized_names(),
        deletion,
    }
}
