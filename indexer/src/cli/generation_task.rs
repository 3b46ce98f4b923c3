//! What the commands share that make a generation of an index and switch to it.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tidemark_catalog::RootChain;
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{CopyProgress, GenerationTask, IngestError, IngestOptions, SwitchReport, snapshot::LogArchive};
use tidemark_search::TantivyEngine;
use tidemark_store::{Entropy, StoreClock};
use tokio::sync::watch;

use super::{
    args::{CacheArgs, ExistingIndexArgs},
    failure_verdict::{ended, failed_result},
    job_report::JobReportArgs,
    output::{print_json, print_line, show_progress},
};
use crate::service::{AccessMode, OpenStores, PodStores, ServiceError, cache_options, log_archive};

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

/// What was done, as a line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SwitchLine {
    generation: String,
    manifest: u64,
    cursor: String,
    records: u64,
    bytes: u64,
}

impl GenerationTaskArgs {
    /// Runs `work`, prints what it did, `done` in a few words, and writes the result.
    pub(super) async fn run(
        self,
        done: &str,
        work: impl AsyncFnOnce(&GenerationTask, &dyn LogArchive) -> Result<SwitchReport, IngestError>,
    ) -> anyhow::Result<()> {
        let Self { places, cache, task, job } = self;
        let ran = run(places, cache, task, work).await;
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
            });
        }
        print_line(&summary(done, &report))
    }
}

async fn run(
    ExistingIndexArgs { log, index, moved }: ExistingIndexArgs,
    CacheArgs { cache_dir, cache_mib }: CacheArgs,
    name: Option<String>,
    work: impl AsyncFnOnce(&GenerationTask, &dyn LogArchive) -> Result<SwitchReport, IngestError>,
) -> Result<SwitchReport, ServiceError> {
    let settings = log.settings();
    let stores = PodStores::at(Some((log.log, log.metadata)), index, &settings, AccessMode::ReadWrite);
    let OpenStores { log, index } = stores.open()?;
    let log = log.ok_or_else(|| ServiceError::Ended { task: "command", why: "no log was named".to_owned() })?;
    let entropy = Entropy::from_os();
    let root = RootChain::open(&log, entropy.clone()).moved_from(moved.url().as_deref());
    let never_indexed = || IngestError::NothingRecorded { url: index.url().to_string() };
    let archive = log_archive(&index, &root.id().await?.ok_or_else(never_indexed)?, &entropy);
    let (options, folder) = cache_options(cache_dir, cache_mib << 20)?;
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
    let report = work(&task, &*archive).await;
    drop((shown, folder));
    Ok(report?)
}

fn summary(done: &str, report: &SwitchReport) -> String {
    let SwitchReport { generation, manifest, cursor, records, bytes } = report;
    format!(
        "{done}: generation {generation}, manifest {manifest}, {records} records, {bytes} bytes, the log up to {cursor}"
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
