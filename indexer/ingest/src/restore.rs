//! `tidemark restore`: a generation of an index with every operation up to a time, each with the outcome that was recorded last.
//!
//! The records come from the open generation; from a pinned manifest if that reaches further; or from the archive, if neither does or what
//! they name is damaged. The log is not read, and nothing is decided again. The restored generation takes publications only once it is
//! promoted.

use tidemark_catalog::{
    CatalogError, CopyRequest, EndReason, FIRST_SEQ, GenerationSwitch, IndexChain, IndexOwner, IndexPin,
    IndexRegistration, LogCursor, Manifest, TransactionRejected, WriterLease,
};
use tracing::{info, warn};

use crate::{
    archived_operations::ArchivedOperations,
    engine::EngineError,
    error::IngestError,
    generation_copy::publish_copy,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, give_up_after, log_wait},
    mutants,
    record::OperationRecord,
    recorded_operations::RecordedOperations,
    restore_source::{RestoreBound, RestorePlace, RestoreSources, RestoreTarget, last_second},
    snapshot::{ArchiveVersion, LogArchive},
    standing_copy::{StandingCopier, StandingOperations},
};

/// What is restored, and for whom.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// To what.
    pub target: RestoreTarget,
    /// The owner for whom the index is registered if it is on no register.
    pub owner: IndexOwner,
}

/// Makes a generation of the operations up to the target, and switches the index to it. Refused before anything is written if nothing holds
/// them. An index that nobody has begun, or that was purged, is begun with what the `archive` of its log holds.
///
/// Stores that fail are tried for about a minute. The future may be dropped at any time; that is no different from a crash.
pub async fn restore(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    request: &RestoreRequest,
) -> Result<SwitchReport, IngestError> {
    let RestoreRequest { target, owner } = request;
    let switch = task.switch(&format!("restore to {target}")).await?;
    let (open, latest) = switch.open_chain().await?;
    let latest = latest.map(|latest| latest.state);
    if let Some(latest) = &latest
        && switch.has_made(latest, task.name.is_some()).await?
    {
        switch.repair(open.generation()).await?;
        info!(generation = %open.generation(), "this task has restored the index before");
        return task.report(&switch).await;
    }
    let sources = RestoreSources::find(&switch, archive, latest.as_ref(), target).await?;
    // Only now: it writes a heartbeat, and what is refused changes nothing.
    let companions = task.accompany();
    register(task, &open, owner, sources.end()).await?;
    if latest.is_none() {
        switch.begin_index(&open, log_wait).await?;
    }
    info!(generation = %open.generation(), %target, "restoring the index");
    let mut run = RestoreRun { task, archive, switch: &switch, open: &open, companions: &companions, role: None };
    let restored = Box::pin(run.until_switched(sources)).await;
    if restored.is_err() {
        run.release().await;
    }
    restored?;
    info!("the index has switched to the restored generation, which takes no publications before `tidemark promote`");
    task.report(&switch).await
}

/// Registers the index of `open` for `owner`, if it is on no register; what is recorded of the log reaches up to `end`.
async fn register(
    task: &GenerationTask,
    open: &IndexChain,
    owner: &IndexOwner,
    end: LogCursor,
) -> Result<(), CatalogError> {
    let url = task.index.url().to_string();
    let head = task.root.head().await?;
    let state = head.as_ref().map(|head| head.state.clone()).unwrap_or_default();
    if state.indexes.contains_key(&url) {
        return Ok(());
    }
    let parameters = state.schedule().ok_or(TransactionRejected::NoParameters)?.newest().parameters;
    let registration = IndexRegistration::new(url.clone(), owner.clone(), open.generation().clone());
    task.root.register(head, &parameters, &url, &registration, end, None).await.map(drop)
}

/// How an attempt ended.
enum AttemptEnd {
    /// The index has switched to what was made.
    Switched,
    /// Operations up to the target were corrected meanwhile, and what was made is given up. The role of the open generation is held
    /// now, so that it does not happen again.
    Corrected,
    /// What it was made from is damaged, and what was made is given up.
    Damaged(IngestError),
}

/// What the operations are read from.
enum OperationSource {
    Manifest(Box<Manifest>),
    Archive(ArchiveVersion),
}

/// The operations of a source.
enum OperationReader {
    Standing(Box<StandingOperations>),
    Archived(Box<ArchivedOperations>),
}

impl OperationReader {
    async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        match self {
            Self::Standing(operations) => Ok(operations.next_chunk().await?),
            Self::Archived(operations) => operations.next_chunk().await,
        }
    }
}

/// One process that restores.
struct RestoreRun<'a> {
    task: &'a GenerationTask,
    archive: &'a dyn LogArchive,
    switch: &'a GenerationSwitch,
    open: &'a IndexChain,
    companions: &'a TaskCompanions,
    /// The role of the open generation, once it is held.
    role: Option<WriterLease>,
}

impl RestoreRun<'_> {
    async fn until_switched(&mut self, mut sources: RestoreSources) -> Result<(), IngestError> {
        loop {
            let place = sources.choose()?.place.clone();
            match Box::pin(self.attempt(&place, &sources)).await? {
                AttemptEnd::Switched => return Ok(()),
                AttemptEnd::Corrected => {
                    info!("outcomes were corrected meanwhile; restoring once more, while the writer waits");
                }
                AttemptEnd::Damaged(failure) => {
                    if !sources.leave_out(&place) {
                        return Err(failure);
                    }
                    warn!(error = %failure, ?place, "what the index was restored from is damaged; restoring from what else is recorded");
                }
            }
        }
    }

    /// Makes a generation, or goes on with the one that this task began, and switches to it.
    async fn attempt(&mut self, place: &RestorePlace, sources: &RestoreSources) -> Result<AttemptEnd, IngestError> {
        let mut made = self.switch.begin(self.open, log_wait).await?;
        let generation = made.manifest().state.generation.clone();
        let filled = match self.fill(&mut made, place, sources).await {
            Ok((source, bound)) => self.is_current(place, &source, bound).await.map(|current| (current, bound)),
            Err(failure) => Err(failure),
        };
        let ended = match filled {
            Ok((true, bound)) => Box::pin(self.switch_to(made, bound)).await,
            Ok((false, _)) => self.discard(made).await.map(|()| AttemptEnd::Corrected),
            Err(failure) if failure.is_damage() => self.discard(made).await.map(|()| AttemptEnd::Damaged(failure)),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &ended {
            give_up_after(failure, self.switch, &generation, self.open.generation()).await;
        }
        ended
    }

    /// What the generation of `made` is made from. One that has records goes on with what these came from.
    async fn source_of(&self, made: &Manifest, place: &RestorePlace) -> Result<OperationSource, IngestError> {
        let generation = &made.generation;
        if let Some(held) = self.switch.held_source(generation).await? {
            return Ok(OperationSource::Manifest(Box::new(held)));
        }
        // A pin comes before the first record.
        let began_with_archive = made.next_seq > FIRST_SEQ;
        let pin = match place {
            RestorePlace::Archive(version) => return Ok(OperationSource::Archive(version.clone())),
            _ if began_with_archive => {
                let version = self.archive.latest().await?.ok_or(CatalogError::from(TransactionRejected::Empty))?;
                return Ok(OperationSource::Archive(version));
            }
            RestorePlace::Open => None,
            RestorePlace::Pin(name) => Some(name),
        };
        let hold = async |name: String, owner: String| hold(self.switch, self.open, pin, &name, &owner).await;
        Ok(OperationSource::Manifest(Box::new(self.switch.hold_source(generation, hold).await?)))
    }

    /// Copies the operations up to the target to the generation of `made`.
    async fn fill(
        &self,
        made: &mut WriterLease,
        place: &RestorePlace,
        sources: &RestoreSources,
    ) -> Result<(OperationSource, RestoreBound), IngestError> {
        let source = self.source_of(&made.manifest().state, place).await?;
        let (bound, horizon, audited) = match &source {
            OperationSource::Manifest(held) => (sources.bound(last_second(held.cursor)), held.horizon, held.audited),
            // What is archived is settled.
            OperationSource::Archive(version) => {
                (sources.bound(last_second(version.end)), version.end.second(), version.end.second())
            }
        };
        let mut copied = self.copy_operations(made, &source, bound).await?;
        copied.cursor = bound.cursor();
        copied.horizon = horizon;
        copied.audited = audited.min(bound.cursor().second());
        copied.until = Some(bound.second);
        publish_copy(made, copied).await?;
        Ok((source, bound))
    }

    /// Publishes all operations but the last ones, and gives these.
    async fn copy_operations(
        &self,
        made: &mut WriterLease,
        source: &OperationSource,
        bound: RestoreBound,
    ) -> Result<CopyRequest, IngestError> {
        let engine = &self.task.engine;
        let (mut operations, total) = match source {
            OperationSource::Manifest(held) => {
                let standing = StandingOperations::open(engine, held, &bound.seconds()).await?;
                (OperationReader::Standing(Box::new(standing)), held.next_seq - FIRST_SEQ)
            }
            OperationSource::Archive(version) => {
                let seconds = LogCursor::default()..LogCursor(bound.second.next()).min(version.end);
                // What a process before this one has restored. Entries may come to the log between them.
                let after = made.manifest().state.segments.iter().map(|segment| segment.last).max();
                let archived = ArchivedOperations::new(self.archive, version, &self.task.log, seconds, after);
                (OperationReader::Archived(Box::new(archived)), version.operations)
            }
        };
        let progress = self.task.progress_of(total);
        let uploader = self.task.uploader(made, self.companions);
        let mut copier = StandingCopier::new(engine, uploader, &self.task.options, &made.manifest().state).await?;
        // What a process before this one has restored of a manifest: it comes in the same order.
        let mut restored = match source {
            OperationSource::Manifest(_) => made.manifest().state.next_seq - FIRST_SEQ,
            OperationSource::Archive(_) => 0,
        };
        let mut read = 0;
        while let Some(mut chunk) = operations.next_chunk().await? {
            read += chunk.len() as u64;
            chunk.retain(|operation| bound.includes(operation.token));
            let known = usize::try_from(restored).map_or(chunk.len(), |restored| restored.min(chunk.len()));
            restored -= known as u64;
            copier.add(chunk.split_off(known).into_iter().map(as_recorded).collect()).await?;
            if copier.is_full() {
                copier.flush().await?;
                publish_copy(made, copier.take()).await?;
                progress(read);
            }
        }
        copier.flush().await?;
        Ok(copier.take())
    }

    /// Whether what was copied from `source` is still all that is recorded up to the target. With the role of the open generation: it stays
    /// so while that is held.
    async fn is_current(
        &mut self,
        place: &RestorePlace,
        source: &OperationSource,
        bound: RestoreBound,
    ) -> Result<bool, IngestError> {
        let role = self.take_role().await?;
        let corrected = match source {
            OperationSource::Manifest(held) => is_corrected(self.task, held, &role.manifest().state, bound).await,
            OperationSource::Archive(_) => Ok(false),
        };
        let corrected = match corrected.map_err(IngestError::from) {
            // A snapshot is whole: that what came after it is lost is no reason to leave it out.
            Err(damage) if damage.is_damage() && !matches!(place, RestorePlace::Open) => {
                warn!(error = %damage, ?place, "whether outcomes were corrected after the snapshot cannot be read; restoring it as it is");
                Ok(false)
            }
            corrected => corrected,
        };
        self.role = Some(role);
        Ok(!corrected?)
    }

    async fn switch_to(&mut self, made: WriterLease, bound: RestoreBound) -> Result<AttemptEnd, IngestError> {
        let role = self.take_role().await?;
        Box::pin(self.switch.close(role, made, EndReason::Restore { to: bound.second })).await?;
        Ok(AttemptEnd::Switched)
    }

    /// Gives up what was made.
    async fn discard(&mut self, made: WriterLease) -> Result<(), IngestError> {
        let role = self.take_role().await?;
        let discarded = self.switch.discard(made, &role).await;
        self.role = Some(role);
        Ok(discarded?)
    }

    async fn take_role(&mut self) -> Result<WriterLease, IngestError> {
        match self.role.take() {
            Some(role) => Ok(role),
            None => Ok(self.switch.seize(self.open, log_wait).await?),
        }
    }

    /// The writer need not wait until this process is silent.
    async fn release(&mut self) {
        let Some(role) = self.role.take() else { return };
        if let Err(error) = role.release().await {
            warn!(%error, "the writer was not told to go on; it takes the lease by itself");
        }
    }
}

/// Whether `now` has records up to the target that `held`, an earlier manifest of the same generation, does not have.
async fn is_corrected(
    task: &GenerationTask,
    held: &Manifest,
    now: &Manifest,
    bound: RestoreBound,
) -> Result<bool, EngineError> {
    if held.generation != now.generation {
        return Ok(false);
    }
    let mut since = RecordedOperations::new(&task.engine, now, held.next_seq).of_seconds(&bound.seconds());
    loop {
        let chunk = since.next_chunk().await?;
        if chunk.is_empty() || chunk.iter().any(|record| bound.includes(record.token)) {
            return Ok(!chunk.is_empty());
        }
    }
}

fn as_recorded(mut operation: OperationRecord) -> OperationRecord {
    operation.decision.outcome = mutants::restored_outcome(operation.decision.outcome);
    operation
}

/// Holds the source back from deletion under another name: what the pin `source` holds, or the open generation.
async fn hold(
    switch: &GenerationSwitch,
    open: &IndexChain,
    source: Option<&String>,
    name: &str,
    owner: &str,
) -> Result<IndexPin, CatalogError> {
    let Some(source) = source else { return switch.pins().pin(open, name, owner).await };
    let copied = switch.pins().pin_again(source, name, owner).await?.pins.remove(name);
    copied.ok_or_else(|| TransactionRejected::Empty.into())
}
