//! `tidemark promote`: a restored index takes publications again.
//!
//! What comes after the time that it was restored to was decided before: the outcomes that the generations have recorded which it took
//! the place of are taken from them, and those that none of them has from the archive, all in one publication. Only what nothing has is
//! decided by the writer afterwards.

use std::{collections::BTreeSet, sync::Arc};

use tidemark_catalog::{
    CatalogError, CopyRequest, LogCursor, Manifest, PublishError, TransactionRejected, WriterLease,
};
use tidemark_store::StoreSecond;
use tracing::{info, warn};

use crate::{
    archived_operations::ArchivedOperations,
    engine::{EngineError, IndexLookup},
    error::IngestError,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, log_wait},
    mutants,
    record::OperationRecord,
    retry::RetryBackoff,
    snapshot::{ArchiveVersion, LogArchive},
    standing_copy::{StandingCopier, StandingOperations},
};

/// Attempts to publish while the store fails: about a minute in all.
const PUBLISH_ATTEMPTS: u32 = 8;

/// How far a promoted generation has come.
#[derive(Clone, Copy, Debug)]
struct PromotedReach {
    cursor: LogCursor,
    horizon: StoreSecond,
    audited: StoreSecond,
}

/// What has recorded outcomes after the time of a restore.
enum RecordedSource {
    /// A generation that the restored one took the place of.
    Replaced(Box<Manifest>),
    /// The archive.
    Archived(ArchiveVersion),
}

/// Promotes the index, which was restored. Refused ([`TransactionRejected::NotRestored`]) if it was not, or was promoted before.
///
/// A crash before the one publication leaves the index as it was.
pub async fn promote(task: &GenerationTask, archive: &dyn LogArchive) -> Result<SwitchReport, IngestError> {
    let switch = task.switch("promote").await?;
    let (open, latest) = switch.open_generation().await?;
    restored_to(&latest.state)?;
    let companions = task.accompany();
    let replaced = mutants::replaced(switch.replaced(open.generation()).await?);
    let mut sources: Vec<_> =
        replaced.into_iter().map(|manifest| RecordedSource::Replaced(Box::new(manifest))).collect();
    sources.extend(archive.latest().await?.map(RecordedSource::Archived));
    let mut role = switch.seize(&open, log_wait).await.map_err(IngestError::from)?;
    let promoted = publish_recorded(task, archive, &mut role, sources, &companions).await;
    // After a failure, too: the next process need not wait until this one is silent.
    let released = role.release().await;
    promoted?;
    released?;
    task.report(&switch).await
}

/// Adds what the sources have recorded to the generation of `role`.
async fn publish_recorded(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    role: &mut WriterLease,
    mut sources: Vec<RecordedSource>,
    companions: &TaskCompanions,
) -> Result<(), IngestError> {
    let recorded = recorded_since(task, archive, role, &sources, companions).await;
    let copied = match recorded {
        // What is settled is in the archive as well, so what is read of the damaged generation begins at its end.
        Err(failure) if failure.is_damage() && matches!(&sources[..], [_, .., RecordedSource::Archived(_)]) => {
            warn!(error = %failure, "a replaced generation is damaged; taking from the archive first what that has");
            sources.rotate_right(1);
            recorded_since(task, archive, role, &sources, companions).await
        }
        recorded => recorded,
    }?;
    let generation = &role.manifest().state.generation;
    info!(%generation, operations = copied.records, cursor = %copied.cursor, "promoting the index");
    publish(role, copied).await
}

/// The time that a generation was restored to.
fn restored_to(manifest: &Manifest) -> Result<StoreSecond, CatalogError> {
    let generation = manifest.generation.clone();
    manifest.until.ok_or(CatalogError::from(TransactionRejected::NotRestored { generation }))
}

/// What the `sources` have recorded after the time that the index was restored to, uploaded for the generation of `role`. Of two that have
/// a second the first one counts.
async fn recorded_since(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    role: &WriterLease,
    sources: &[RecordedSource],
    companions: &TaskCompanions,
) -> Result<CopyRequest, IngestError> {
    let manifest = &role.manifest().state;
    let until = restored_to(manifest)?;
    let uploader = task.uploader(role, companions);
    let copier = StandingCopier::new(&task.engine, uploader, &task.options, manifest).await?;
    let mut promoted = PromotedOperations { restored: task.engine.open(manifest).await?, until, copier };
    let mut reach = PromotedReach { cursor: manifest.cursor, horizon: manifest.horizon, audited: manifest.audited };
    for source in sources {
        match source {
            RecordedSource::Replaced(source) if source.cursor > reach.cursor => {
                promoted.add_replaced(task, source, reach.cursor).await?;
                reach = reach.extended_to(source.cursor, source.horizon, source.audited);
            }
            RecordedSource::Archived(version) if version.end > reach.cursor => {
                promoted.add_archived(task, archive, version, reach.cursor).await?;
                reach = reach.extended_to(version.end, version.end.second(), version.end.second());
            }
            RecordedSource::Replaced(_) | RecordedSource::Archived(_) => {}
        }
    }
    promoted.copier.flush().await?;
    let PromotedReach { cursor, horizon, audited } = reach;
    Ok(CopyRequest { cursor, horizon, audited, until: None, ..promoted.copier.take() })
}

/// Operations that are added to a restored index.
struct PromotedOperations {
    /// The index as it was restored.
    restored: Arc<dyn IndexLookup>,
    /// The second that it was restored to: of that it may have a part.
    until: StoreSecond,
    copier: StandingCopier,
}

impl PromotedOperations {
    /// Adds the operations of `source` from the cursor `from` on.
    async fn add_replaced(
        &mut self,
        task: &GenerationTask,
        source: &Manifest,
        from: LogCursor,
    ) -> Result<(), EngineError> {
        let seconds = from.second()..=source.cursor.second();
        let mut operations = StandingOperations::open(&task.engine, source, &seconds).await?;
        while let Some(mut chunk) = operations.next_chunk().await? {
            chunk.retain(|operation| !from.covers(operation.token) && source.cursor.covers(operation.token));
            self.add(chunk).await?;
        }
        Ok(())
    }

    /// Adds the operations that are archived from the cursor `from` on.
    async fn add_archived(
        &mut self,
        task: &GenerationTask,
        archive: &dyn LogArchive,
        version: &ArchiveVersion,
        from: LogCursor,
    ) -> Result<(), IngestError> {
        let mut operations = ArchivedOperations::new(archive, version, &task.log, from..version.end, None);
        while let Some(chunk) = operations.next_chunk().await? {
            self.add(chunk).await?;
        }
        Ok(())
    }

    /// Adds those that the restored index does not have.
    async fn add(&mut self, mut operations: Vec<OperationRecord>) -> Result<(), EngineError> {
        let tokens = operations.iter().map(|operation| operation.token);
        let tokens: Vec<_> = tokens.filter(|token| token.second() <= self.until).collect();
        if !tokens.is_empty() {
            let recorded = self.restored.recorded_outcomes(&tokens).await?;
            let known = tokens.into_iter().zip(recorded).filter(|(_, recorded)| !recorded.is_empty());
            let known: BTreeSet<_> = known.map(|(token, _)| token).collect();
            operations.retain(|operation| !known.contains(&operation.token));
        }
        self.copier.add(operations).await?;
        if self.copier.is_full() {
            self.copier.flush().await?;
        }
        Ok(())
    }
}

impl PromotedReach {
    /// With the seconds up to the cursor `to`, recorded at the horizon `horizon` by what the audit had looked at up to `audited`.
    fn extended_to(self, to: LogCursor, horizon: StoreSecond, audited: StoreSecond) -> Self {
        // A gap in what the audit has looked at for the last time ends it.
        let audited = if self.audited == self.cursor.second() { audited.max(self.audited) } else { self.audited };
        Self { cursor: to, horizon: self.horizon.max(horizon), audited }
    }
}

/// Only failures after which nothing was written are retried.
async fn publish(role: &mut WriterLease, copied: CopyRequest) -> Result<(), IngestError> {
    let mut backoff = RetryBackoff::new();
    for _ in 1..PUBLISH_ATTEMPTS {
        match role.promote(copied.clone()).await {
            Ok(_) => return Ok(()),
            Err(PublishError::Chain(error)) => {
                warn!(%error, "the promotion cannot be published; retrying");
                backoff.sleep().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    role.promote(copied).await?;
    Ok(())
}
