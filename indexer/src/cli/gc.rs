//! `tidemark gc`: one pass over the garbage of an index.

use clap::Args;
use tidemark_catalog::{CatalogError, GarbageCollector, GarbageReport, Generation, IndexChain, RootChain};
use tidemark_crds::{Reason, TaskFigures, TaskResult};
use tidemark_ingest::ToCause as _;
use tidemark_store::{Entropy, StoreError, error_chain};

use super::{
    args::{ExistingIndexArgs, OutputArgs},
    job_report::JobReportArgs,
    output::{print_json, print_line},
};
use crate::service::{AccessMode, PodStores};

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

/// There is no index to look through.
#[derive(Debug, thiserror::Error)]
enum MissingIndexError {
    #[error("\"{0}\" is no log that was ever indexed; nothing was deleted; correct --log")]
    Log(String),
    #[error("\"{0}\" holds no index; nothing was deleted; correct --index")]
    Index(String),
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
    let settings = log.settings();
    let log = log.open()?;
    let index = PodStores::at(None, index, &settings, AccessMode::ReadWrite).open()?.index;
    let entropy = Entropy::from_os();
    let root = RootChain::open(&log, entropy.clone()).moved_from(moved.url().as_deref());
    let id = root.id().await?.ok_or_else(|| MissingIndexError::Log(log.entries.url().to_string()))?;
    // Before anything is written there: an index of another log is refused here.
    let chain = IndexChain::open(&index, Generation::first(), entropy.clone()).for_log(&root).follow().await?;
    if chain.latest().await?.is_none() {
        return Err(MissingIndexError::Index(index.url().to_string()).into());
    }
    Ok(GarbageCollector::new(&index, &id, entropy).collect_everywhere("tidemark gc").await?)
}

fn result(collected: &anyhow::Result<GarbageReport>) -> TaskResult {
    match collected {
        Ok(GarbageReport { listed, deleted, deleted_bytes, .. }) => {
            let message = format!("{deleted} of {listed} objects were deleted, {deleted_bytes} bytes");
            TaskResult::succeeded(message).with(TaskFigures { bytes: Some(*deleted_bytes), ..TaskFigures::default() })
        }
        Err(error) => {
            let message = error_chain(error.as_ref());
            if error.is::<MissingIndexError>() {
                return TaskResult::refused(Reason::SpecInvalid, message);
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
