//! `tidemark reindex`: a new generation of an index from the records of the open one, in the segment format of this release, with the
//! same seqs.
//!
//! The log is not read. The open generation is written and searched meanwhile; its writer waits only while the last records are
//! copied. A process may end at any step: the next one of the same task goes on with the generation that was begun.

use tidemark_catalog::{
    CatalogError, EndReason, FIRST_SEQ, GenerationSwitch, IndexChain, Manifest, TransactionRejected, WriterLease,
};
use tracing::info;

use crate::{
    error::IngestError,
    generation_copy::GenerationCopier,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, give_up_after, log_wait},
    mutants,
};

/// With so few records to copy the writer of the open generation may wait for it.
const MAX_LAST_RECORDS: u64 = 5_000;
/// How often the open generation's new records are copied beside its writer at most: one that writes as fast as they are copied has to
/// wait.
const MAX_ROUNDS: u32 = 20;

/// Makes a new generation from the records of the open one, and switches the index to it.
///
/// Stores that fail are tried for about a minute. The future may be dropped at any time; that is no different from a crash.
pub async fn reindex(task: &GenerationTask) -> Result<SwitchReport, IngestError> {
    // Callers hold it: it takes twenty kilobytes.
    Box::pin(reindex_and_switch(task)).await
}

async fn reindex_and_switch(task: &GenerationTask) -> Result<SwitchReport, IngestError> {
    let switch = task.switch("reindex").await?;
    let (open, latest) = switch.open_generation().await?;
    if switch.has_made(&latest.state, task.name.is_some()).await? {
        switch.repair(open.generation()).await?;
        info!(generation = %open.generation(), "this task has switched the index before");
        return task.report(&switch).await;
    }
    let companions = task.accompany();
    info!(generation = %open.generation(), records = latest.state.totals.records, "rebuilding the index");
    let made = Box::pin(switch.begin(&open, log_wait)).await?;
    let generation = made.manifest().state.generation.clone();
    if let Err(failure) = Box::pin(rebuild(task, &switch, &open, made, &companions)).await {
        give_up_after(&failure, &switch, &generation, open.generation()).await;
        return Err(failure);
    }
    info!(%generation, "the index has switched to the new generation");
    task.report_keeps(&switch).await;
    task.report(&switch).await
}

async fn rebuild(
    task: &GenerationTask,
    switch: &GenerationSwitch,
    open: &IndexChain,
    made: WriterLease,
    companions: &TaskCompanions,
) -> Result<(), IngestError> {
    let generation = made.manifest().state.generation.clone();
    let pin = async |name: String, owner: String| switch.pins().pin(open, &name, &owner).await;
    let held = switch.hold_source(&generation, pin).await?;
    let mut source = held.clone();
    let limits = (task.options.batch_records, task.options.segment_memory);
    let uploader = task.uploader(&made, companions);
    let mut copier = GenerationCopier::new(made, &task.engine, uploader, limits).await?;
    for _ in 0..MAX_ROUNDS {
        copier.copy(&source, task.progress_of(records_of(&source))).await?;
        source = open.latest().await?.ok_or(CatalogError::from(TransactionRejected::Empty))?.state;
        if source.next_seq.saturating_sub(copier.manifest().next_seq) <= MAX_LAST_RECORDS {
            break;
        }
    }
    let role = switch.seize(open, log_wait).await?;
    info!(generation = %open.generation(), "the writer waits while the last records are copied");
    let last = role.manifest().state.clone();
    let last = mutants::last_copied(&last, &held);
    copier.copy(last, task.progress_of(records_of(last))).await?;
    copier.complete(last).await?;
    Box::pin(switch.close(role, copier.into_lease(), EndReason::Reindex)).await?;
    Ok(())
}

fn records_of(manifest: &Manifest) -> u64 {
    manifest.next_seq - FIRST_SEQ
}
