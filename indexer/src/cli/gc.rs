//! `tidemark gc`: one pass over the garbage of an index.

use clap::Args;
use serde::Serialize;
use tidemark_archive::{ArchiveError, ArchiveTable, DeletedLeaks};
use tidemark_catalog::{CatalogError, GARBAGE_GRACE, GarbageCollector, GarbageReport};
use tidemark_crds::{Reason, TaskFigures, TaskResult};
use tidemark_ingest::ToCause as _;
use tidemark_store::{Entropy, StoreError, error_chain};

use super::{
    args::{ExistingIndexArgs, OutputArgs},
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

impl GcCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, job } = self;
        let collected = collect(places).await;
        job.report(&result(&collected));
        print(&collected?, job.output)
    }
}

async fn collect(ExistingIndexArgs { log, index, moved }: ExistingIndexArgs) -> anyhow::Result<CollectedGarbage> {
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

fn result(collected: &anyhow::Result<CollectedGarbage>) -> TaskResult {
    match collected {
        Ok(CollectedGarbage { index, archive_deleted, archive_deleted_bytes }) => {
            let GarbageReport { listed, deleted, deleted_bytes, .. } = index;
            let bytes = deleted_bytes + archive_deleted_bytes;
            let message = format!(
                "{deleted} of {listed} objects were deleted, and {archive_deleted} of the archive, {bytes} bytes in all"
            );
            TaskResult::succeeded(message).with(TaskFigures { bytes: Some(bytes), ..TaskFigures::default() })
        }
        Err(error) => {
            let message = error_chain(error.as_ref());
            if let Some(error) = error.downcast_ref::<IndexLookupError>() {
                let reason = error.to_cause().reason;
                return if error.is_refusal() {
                    TaskResult::refused(reason, message)
                } else {
                    TaskResult::failed(reason, message)
                };
            }
            let of_catalog = error.downcast_ref::<CatalogError>().map(|error| error.to_cause().reason);
            let of_archive = || error.downcast_ref::<ArchiveError>().map(|error| error.to_cause().reason);
            let of_store = || error.downcast_ref::<StoreError>().map(|error| error.to_cause().reason);
            TaskResult::failed(of_catalog.or_else(of_archive).or_else(of_store).unwrap_or(Reason::Internal), message)
        }
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
