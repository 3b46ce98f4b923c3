//! What the commands share that make a generation of an index and switch to it.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tidemark_catalog::RootChain;
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{
    CopyProgress, DecideAgainReport, GenerationTask, IngestError, IngestOptions, RestoreOrigin, SwitchReport,
    snapshot::LogArchive,
};
use tidemark_search::TantivyEngine;
use tidemark_store::{Entropy, StoreClock};
use tokio::sync::watch;
use url::Url;

use super::{
    args::{CacheArgs, ExistingIndexArgs},
    failure_verdict::{ended, failed_result},
    job_report::JobReportArgs,
    output::{print_json, print_line, show_progress},
};
use crate::service::{AccessMode, OpenStores, PodStores, ServiceError, cache_options, log_archive, open_origin};

/// Records of one publication to a generation that is being made: what a crash loses, and about the size of its segments.
const BATCH_RECORDS: u64 = 500_000;

/// An index, and the task that makes a generation of it.
#[derive(Debug, Args)]
pub(super) struct GenerationTaskArgs {
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Name of this task. A command that is started again under the name goes on with what the first one began, and does nothing if
    /// that was done.
    #[arg(long, env = "TIDEMARK_TASK", value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    job: JobReportArgs,
}

/// What a command works with.
pub(super) struct GenerationTaskParts {
    pub(super) task: GenerationTask,
    /// The archive of the index.
    pub(super) archive: Arc<dyn LogArchive>,
    /// The other place that was named.
    pub(super) origin: Option<RestoreOrigin>,
}

/// What was done, as a line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SwitchLine {
    generation: String,
    manifest: u64,
    cursor: String,
    records: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_again: Option<DecideAgainLine>,
}

/// What was recorded, is lost, and is decided again.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DecideAgainLine {
    first: String,
    last: String,
    why: String,
}

impl DecideAgainLine {
    fn new(report: &DecideAgainReport) -> Self {
        let DecideAgainReport { first, last, why } = report;
        Self { first: first.to_string(), last: last.to_string(), why: why.clone() }
    }
}

impl GenerationTaskArgs {
    /// Runs `work`, which may read the place `from`, prints what it did, `done` in a few words, and writes the result.
    pub(super) async fn run(
        self,
        done: &str,
        from: Option<&Url>,
        work: impl AsyncFnOnce(&GenerationTaskParts) -> Result<SwitchReport, IngestError>,
    ) -> anyhow::Result<()> {
        let Self { places, cache, task, job } = self;
        let ran = run(places, cache, task, from, work).await;
        job.report(&match &ran {
            Ok(report) => TaskResult::succeeded(summary(done, report)).with(figures(report)),
            Err(error) => failed_result(error),
        });
        let report = ended(ran)?;
        if job.output.json {
            return print_json(&SwitchLine {
                generation: report.generation.to_string(),
                manifest: report.manifest,
                cursor: report.cursor.to_string(),
                records: report.records,
                bytes: report.bytes,
                decided_again: report.decided_again.as_ref().map(DecideAgainLine::new),
            });
        }
        print_line(&summary(done, &report))
    }
}

async fn run(
    ExistingIndexArgs { log, index, moved }: ExistingIndexArgs,
    CacheArgs { cache_dir, cache_mib }: CacheArgs,
    name: Option<String>,
    from: Option<&Url>,
    work: impl AsyncFnOnce(&GenerationTaskParts) -> Result<SwitchReport, IngestError>,
) -> Result<SwitchReport, ServiceError> {
    let settings = log.settings();
    let overlap =
        from.and_then(|from| Some((from, settings.overlap_of_origin(from, &log.log, &log.metadata, &index)?)));
    if let Some((from, other)) = overlap {
        return Err(IngestError::OriginOverlaps { url: from.to_string(), other: other.to_string() }.into());
    }
    let stores = PodStores::at(Some((log.log, log.metadata)), index, &settings, AccessMode::ReadWrite);
    let OpenStores { log, index } = stores.open()?;
    let log = log.ok_or_else(|| ServiceError::Ended { task: "command", why: "no log was named".to_owned() })?;
    let entropy = Entropy::from_os();
    let root = RootChain::open(&log, entropy.clone()).moved_from(moved.url().as_deref());
    let never_indexed = || IngestError::NothingRecorded { url: index.url().to_string() };
    let id = root.id().await?.ok_or_else(never_indexed)?;
    let (options, folder) = cache_options(cache_dir, cache_mib << 20)?;
    let origin = from.map(|from| open_origin(&settings, from, &id, &options, &entropy)).transpose()?;
    let archive = log_archive(&index, &id, &entropy);
    let (progress, watched) = watch::channel(CopyProgress::default());
    let task = GenerationTask {
        clock: StoreClock::new(log.stores(), &format!("task-{}", entropy.nonce())),
        root,
        engine: Arc::new(TantivyEngine::open(index.clone(), &options)?),
        log,
        index,
        name,
        options: IngestOptions { batch_records: BATCH_RECORDS, ..IngestOptions::default() },
        entropy,
        progress,
    };
    let shown = show_progress(watched, |CopyProgress { copied, total }| Some(("records", *copied, *total)));
    let report = work(&GenerationTaskParts { task, archive, origin }).await;
    drop((shown, folder));
    Ok(report?)
}

fn summary(done: &str, report: &SwitchReport) -> String {
    let SwitchReport { generation, manifest, cursor, records, bytes, decided_again } = report;
    let lost = |DecideAgainReport { first, last, why }: &DecideAgainReport| {
        format!(
            "; outcomes of {first} to {last} were recorded and are lost ({why}): the log decides those seconds again"
        )
    };
    let lost = decided_again.as_ref().map(lost).unwrap_or_default();
    format!(
        "{done}: generation {generation}, manifest {manifest}, {records} records, {bytes} bytes, the log up to {cursor}{lost}"
    )
}

fn figures(report: &SwitchReport) -> TaskFigures {
    TaskFigures {
        generation: Some(report.generation.to_string()),
        manifest: Some(report.manifest),
        cursor: Some(report.cursor.second().timestamp()),
        entries: Some(report.records),
        bytes: Some(report.bytes),
        ..TaskFigures::default()
    }
}
