//! `tidemark promote`: a restored index takes publications again.
//!
//! What comes after the time that it was restored to was decided before: the outcomes that the generations have recorded which it took
//! the place of are taken from them, all in one publication. Only what none of them has is decided by the writer afterwards.

use tidemark_catalog::{
    CatalogError, CopyRequest, LogCursor, Manifest, PublishError, TransactionRejected, WriterLease,
};
use tidemark_store::StoreSecond;
use tracing::info;

use crate::{
    engine::EngineError,
    error::IngestError,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, log_wait},
    mutants,
    record::OperationRecord,
    retry::RetryBackoff,
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

/// Promotes the index, which was restored. Refused ([`TransactionRejected::NotRestored`]) if it was not, or was promoted before.
///
/// A crash before the one publication leaves the index as it was.
pub async fn promote(task: &GenerationTask) -> Result<SwitchReport, IngestError> {
    let companions = task.accompany();
    let switch = task.switch("promote").await?;
    let (open, latest) = switch.open_generation().await?;
    not_promoted(&latest.state)?;
    let replaced = mutants::replaced(switch.replaced(open.generation()).await?);
    let mut role = switch.seize(&open, log_wait).await.map_err(IngestError::from)?;
    let copied = recorded_since(task, &role, &replaced, &companions).await?;
    info!(generation = %open.generation(), operations = copied.records, cursor = %copied.cursor, "promoting the index");
    publish(&mut role, copied).await?;
    role.release().await?;
    task.report(&switch).await
}

/// The time that a generation was restored to.
fn not_promoted(manifest: &Manifest) -> Result<StoreSecond, CatalogError> {
    let generation = manifest.generation.clone();
    manifest.until.ok_or(CatalogError::from(TransactionRejected::NotRestored { generation }))
}

/// What the `replaced` generations have recorded after the time that the index was restored to, uploaded for the generation of `role`.
async fn recorded_since(
    task: &GenerationTask,
    role: &WriterLease,
    replaced: &[Manifest],
    companions: &TaskCompanions,
) -> Result<CopyRequest, IngestError> {
    let manifest = &role.manifest().state;
    let until = not_promoted(manifest)?;
    let uploader = task.uploader(role, companions);
    let mut copier = StandingCopier::new(&task.engine, uploader, &task.options, manifest).await?;
    let mut reach = PromotedReach { cursor: manifest.cursor, horizon: manifest.horizon, audited: manifest.audited };
    for source in replaced {
        // Of two that have a second the one that was the index later decided it last.
        if source.cursor <= reach.cursor {
            continue;
        }
        let mut operations = StandingOperations::open(&task.engine, source).await?;
        while let Some(mut chunk) = operations.next_chunk().await? {
            chunk.retain(|operation| !reach.cursor.covers(operation.token) && source.cursor.covers(operation.token));
            drop_known(&mut chunk, until, &copier).await?;
            copier.add(chunk).await?;
            if copier.is_full() {
                copier.flush().await?;
            }
        }
        reach = reach.extended_by(source);
    }
    copier.flush().await?;
    let PromotedReach { cursor, horizon, audited } = reach;
    Ok(CopyRequest { cursor, horizon, audited, until: None, ..copier.take() })
}

impl PromotedReach {
    /// With the seconds from the cursor up to that of `source`.
    fn extended_by(self, source: &Manifest) -> Self {
        let Self { cursor, horizon, audited } = self;
        // A gap in what the audit has looked at for the last time ends it.
        let audited = if audited == cursor.second() { source.audited.max(audited) } else { audited };
        Self { cursor: source.cursor, horizon: horizon.max(source.horizon), audited }
    }
}

/// Of the last second of a restore to a token, the index has a part.
async fn drop_known(
    operations: &mut Vec<OperationRecord>,
    until: StoreSecond,
    copier: &StandingCopier,
) -> Result<(), EngineError> {
    let tokens: Vec<_> =
        operations.iter().map(|operation| operation.token).filter(|token| token.second() <= until).collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let recorded = copier.lookup().recorded_outcomes(&tokens).await?;
    let known: Vec<_> = tokens.into_iter().zip(recorded).filter(|(_, recorded)| !recorded.is_empty()).collect();
    operations.retain(|operation| known.iter().all(|(token, _)| *token != operation.token));
    Ok(())
}

/// Only failures after which nothing was written are retried.
async fn publish(role: &mut WriterLease, copied: CopyRequest) -> Result<(), IngestError> {
    let mut backoff = RetryBackoff::new();
    for _ in 1..PUBLISH_ATTEMPTS {
        match role.promote(copied.clone()).await {
            Ok(_) => return Ok(()),
            Err(PublishError::Chain(error)) => {
                tracing::warn!(%error, "the promotion cannot be published; retrying");
                backoff.sleep().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    role.promote(copied).await?;
    Ok(())
}
