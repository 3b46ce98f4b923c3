//! `tidemark gc`: one pass over the garbage of an index.

use clap::Args;
use tidemark_catalog::{CatalogError, GarbageCollector, GarbageReport};
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
/// and run twice at once.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark gc --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Only segments and sidecars of this log's generations are deleted, by their exact names. Nothing else below the\n\
    index's URL is even listed.")]
pub(super) struct GcCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    job: JobReportArgs,
}

impl GcCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, job } = self;
        let collected = collect(places).await;
        job.report(&result(&collected));
        print(&collected?, job.output)
    }
}

async fn collect(ExistingIndexArgs { log, index, moved }: ExistingIndexArgs) -> anyhow::Result<GarbageReport> {
    let index = PodStores::at(None, index, &log.settings(), AccessMode::ReadWrite).open()?.index;
    // Before anything is written there: an index of another log is refused here.
    let found = IndexOfLog::find(&log.open()?, &index, moved.url().as_deref(), Entropy::from_os()).await?;
    Ok(GarbageCollector::new(&index, &found.id, found.entropy).collect_everywhere("tidemark gc").await?)
}

fn result(collected: &anyhow::Result<GarbageReport>) -> TaskResult {
    match collected {
        Ok(GarbageReport { listed, deleted, deleted_bytes, .. }) => {
            let message = format!("{deleted} of {listed} objects were deleted, {deleted_bytes} bytes");
            TaskResult::succeeded(message).with(TaskFigures { bytes: Some(*deleted_bytes), ..TaskFigures::default() })
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
            let of_store = || error.downcast_ref::<StoreError>().map(|error| error.to_cause().reason);
            TaskResult::failed(of_catalog.or_else(of_store).unwrap_or(Reason::Internal), message)
        }
    }
}

fn print(report: &GarbageReport, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(report);
    }
    let GarbageReport { listed, named, deleted, deleted_bytes, candidates, waiting, others } = *report;
    print_line(&format!("deleted     {deleted} objects, {deleted_bytes} bytes"))?;
    print_line(&format!(
        "candidates  {}, deleted by the first pass after 24 hours if nothing names them by then",
        candidates + waiting
    ))?;
    print_line(&format!("kept        {named} that a manifest or a snapshot names"))?;
    print_line(&format!("others      {others} of {listed} objects have names that are not Tidemark's; they stay"))
}
