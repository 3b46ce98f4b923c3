//! `tidemark gc`: one pass over the garbage of an index.

use clap::Args;
use serde::Serialize;
use tidemark_archive::{ArchiveError, ArchiveTable, DeletedLeaks};
use tidemark_catalog::{CatalogError, GARBAGE_GRACE, GarbageCollector, GarbageReport};
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_store::{Entropy, StoreError};

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
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CollectedGarbage {
    #[serde(flatten)]
    index: GarbageReport,
    /// Files of the archive that no version can name.
    archive_deleted: u64,
    /// Their bytes.
    archive_deleted_bytes: u64,
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
            Self::Archive(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
        }
    }
}

impl CommandError for GarbageError {
    fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Chain(CatalogError::Unknown { .. })
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
    let IndexOfLog { id, entropy, .. } =
        IndexOfLog::find(&log.open()?, &index, moved.url().as_deref(), Entropy::from_os()).await?;
    let collector = GarbageCollector::new(&index, &id, entropy.clone());
    let report = collector.collect_everywhere("tidemark gc").await?;
    let pass = collector.chain().latest().await?;
    let before = pass.map(|pass| pass.time.before(GARBAGE_GRACE)).unwrap_or_default();
    let DeletedLeaks { objects, bytes } = ArchiveTable::open(&index, &id, entropy).delete_leaks(before).await?;
    Ok(CollectedGarbage { index: report, archive_deleted: objects, archive_deleted_bytes: bytes })
}

fn result(collected: &Result<CollectedGarbage, GarbageError>) -> TaskResult {
    match collected {
        Ok(CollectedGarbage { index, archive_deleted, archive_deleted_bytes }) => {
            let GarbageReport { listed, deleted, deleted_bytes, .. } = index;
            let bytes = deleted_bytes + archive_deleted_bytes;
            let message = format!(
                "{deleted} of {listed} objects were deleted, and {archive_deleted} of the archive, {bytes} bytes in all"
            );
            TaskResult::succeeded(message).with(TaskFigures { bytes: Some(bytes), ..TaskFigures::default() })
        }
        Err(error) => failed_result(error),
    }
}

fn print(collected: &CollectedGarbage, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(collected);
    }
    let CollectedGarbage { index, archive_deleted, archive_deleted_bytes } = *collected;
    let GarbageReport { listed, named, deleted, deleted_bytes, candidates, waiting, others } = index;
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
