//! `tidemark gc`: one pass over the garbage of an index.

use clap::Args;
use serde::Serialize;
use tidemark_archive::{ArchiveError, ArchiveTable, DeletedLeaks};
use tidemark_catalog::{
    CatalogError, GARBAGE_GRACE, GarbageCollector, GarbageReport, Generation, GenerationSwitch, SwitchError, heartbeat,
};
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{FailureCause, IngestError, ToCause};
use tidemark_store::{Entropy, Store, StoreClock, StoreError, error_chain};
use tokio_util::task::AbortOnDropHandle;

use super::{
    args::{ExistingIndexArgs, OutputArgs},
    failure_verdict::{CommandError, ended, failed_result},
    job_report::JobReportArgs,
    output::{print_json, print_line},
};
use crate::service::{AccessMode, IndexLookupError, IndexOfLog, PodStores};

/// Delete the objects of an index that nothing has named for a day.
///
/// Makes one pass: what no manifest and no snapshot names becomes a candidate, and what has been one for 24 hours by the
/// store's clock is deleted. So the first pass of all deletes nothing. The indexer makes a pass every hour, over every generation once
/// a day; this command makes one over every generation, for an index whose indexer is stopped. It may be killed at any moment
/// and run twice at once. Of the archive it deletes what was written a day ago for a version that another process committed.
///
/// First it gives up the generations that a reindex or a restore began and left, if nothing has moved there for 24 hours: what they hold
/// becomes a candidate. The indexer waits for that, and goes on.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark gc --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Only segments and sidecars of this log's generations are deleted, and files of its archive that no version can name, by\n\
    their exact names. Nothing else below the index's URL is even listed.")]
pub(super) struct GcCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    job: JobReportArgs,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectedGarbage {
    #[serde(flatten)]
    index: GarbageReport,
    /// Files of the archive that no version can name.
    archive_deleted: u64,
    /// Their bytes.
    archive_deleted_bytes: u64,
    /// Generations that a task began and left, and that were given up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    given_up: Vec<String>,
}

/// Why a pass did not end well. What it has deleted was garbage.
#[derive(Debug, thiserror::Error)]
enum GarbageError {
    /// The log has no index there.
    #[error(transparent)]
    Lookup(#[from] IndexLookupError),
    /// A chain fails or refuses: the index's, the collectors'.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The outcome of giving a generation up is unknown.
    #[error(transparent)]
    GivingUp(IngestError),
    /// The archive cannot be read, or is another log's.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ToCause for GarbageError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Lookup(error) => error.to_cause(),
            Self::Chain(error) => error.to_cause(),
            Self::GivingUp(error) => error.to_cause(),
            Self::Archive(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
        }
    }
}

impl CommandError for GarbageError {
    fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::GivingUp(_)
                | Self::Chain(CatalogError::Unknown { .. })
                | Self::Lookup(IndexLookupError::Chain(CatalogError::Unknown { .. }))
                | Self::Archive(ArchiveError::Unknown { .. })
        )
    }
}

impl GcCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, job } = self;
        let collected = collect(places).await;
        job.report(&result(&collected));
        print(&ended(collected)?, job.output)
    }
}

async fn collect(ExistingIndexArgs { log, index, moved }: ExistingIndexArgs) -> Result<CollectedGarbage, GarbageError> {
    let index = PodStores::at(None, index, &log.settings(), AccessMode::ReadWrite).open()?.index;
    // Before anything is written there: an index of another log is refused here.
    let found = IndexOfLog::find(&log.open()?, &index, moved.url().as_deref(), Entropy::from_os()).await?;
    let given_up = give_up(&found, &index).await?;
    let IndexOfLog { id, entropy, .. } = found;
    let collector = GarbageCollector::new(&index, &id, entropy.clone());
    let report = collector.collect_everywhere("tidemark gc").await?;
    let pass = collector.chain().latest().await?;
    let before = pass.map(|pass| pass.time.before(GARBAGE_GRACE)).unwrap_or_default();
    let DeletedLeaks { objects, bytes } = ArchiveTable::open(&index, &id, entropy).delete_leaks(before).await?;
    Ok(CollectedGarbage { index: report, archive_deleted: objects, archive_deleted_bytes: bytes, given_up })
}

/// Gives up what tasks began and left. What fails is left to the next pass.
async fn give_up(found: &IndexOfLog, index: &Store) -> Result<Vec<String>, GarbageError> {
    match Box::pin(give_up_silent(found, index)).await.map_err(IngestError::from) {
        Ok(generations) => Ok(generations.iter().map(ToString::to_string).collect()),
        Err(error) if error.is_unknown() => Err(GarbageError::GivingUp(error)),
        Err(error) => {
            tracing::warn!(
                error = error_chain(&error),
                "what a task began and left was not given up; it takes room; the next pass tries again"
            );
            Ok(Vec::new())
        }
    }
}

async fn give_up_silent(
    IndexOfLog { log, id, root, chain, entropy }: &IndexOfLog,
    index: &Store,
) -> Result<Vec<Generation>, SwitchError> {
    let clock = StoreClock::new(log.stores(), &format!("gc-{}", entropy.nonce()));
    let switch = GenerationSwitch::new((root, id), index, (&log.entries, &clock), "gc", entropy);
    if switch.silent_generations(chain).await?.is_empty() {
        return Ok(Vec::new());
    }
    let beating = clock.clone();
    let _heartbeat = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&beating).await }));
    switch.give_up_silent(chain, |why| tracing::debug!(?why, "waiting for another process")).await
}

fn result(collected: &Result<CollectedGarbage, GarbageError>) -> TaskResult {
    match collected {
        Ok(CollectedGarbage { index, archive_deleted, archive_deleted_bytes, given_up }) => {
            let GarbageReport { listed, deleted, deleted_bytes, .. } = index;
            let bytes = deleted_bytes + archive_deleted_bytes;
            let mut message = format!(
                "{deleted} of {listed} objects were deleted, and {archive_deleted} of the archive, {bytes} bytes in all"
            );
            if !given_up.is_empty() {
                let left = given_up.join(", ");
                message = format!("{message}; what a task began and left was given up: {left}");
            }
            TaskResult::succeeded(message).with(TaskFigures { bytes: Some(bytes), ..TaskFigures::default() })
        }
        Err(error) => failed_result(error),
    }
}

fn print(collected: &CollectedGarbage, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(collected);
    }
    let CollectedGarbage { index, archive_deleted, archive_deleted_bytes, given_up } = collected;
    let GarbageReport { listed, named, deleted, deleted_bytes, candidates, waiting, others } = index;
    if !given_up.is_empty() {
        print_line(&format!("given up    {}, which a task began and left", given_up.join(", ")))?;
    }
    print_line(&format!("deleted     {deleted} objects, {deleted_bytes} bytes"))?;
    print_line(&format!(
        "archive     {archive_deleted} files that no version can name were deleted, {archive_deleted_bytes} bytes"
    ))?;
    print_line(&format!(
        "candidates  {}, deleted by the first pass after 24 hours if nothing names them by then",
        candidates + waiting
    ))?;
    print_line(&format!("kept        {named} that a manifest or a snapshot names"))?;
    print_line(&format!("others      {others} of {listed} objects have names that are not Tidemark's; they stay"))
}
