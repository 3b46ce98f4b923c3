//! `tidemark snapshot`: one snapshot of an index.

use std::num::NonZeroUsize;

use clap::Args;
use serde::Serialize;
use tidemark_catalog::{SnapshotName, SnapshotProof};
use tidemark_crds::{RecoveryWindow, TaskFigures, TaskResult};
use tidemark_ingest::snapshot::{SnapshotError, SnapshotProgress, SnapshotReport, SnapshotRequest, SnapshotStep};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Log;
use tokio::sync::watch;
use url::Url;

use super::{
    args::{CacheArgs, ExistingIndexArgs},
    failure_verdict::{ended, failed_result},
    job_report::JobReportArgs,
    output::{print_json, print_line, show_progress},
};
use crate::service::{
    AccessMode, IndexOfLog, LogSize, OpenStores, PodStores, SnapshotService, cache_options, recovery_window,
};

/// Make a snapshot of an index: a state to restore from, and everything that is settled in the archive.
///
/// Pins the newest state of the index, so that nothing of it is deleted; adds to the archive what is old enough never to change any
/// more; then reads all of it again, and only then marks the snapshot as verified. Indexer and search go on meanwhile. Pinning copies
/// nothing: a snapshot takes room as the index drops what it holds.
///
/// What is old enough and was not audited yet is waited for, as long as the indexer gets on with it; otherwise the command says what is
/// not archived.
///
/// The command may be killed at any moment and run twice at once: whatever was archived stays, and with the same --name it goes on
/// with the same snapshot. One that was left half made is removed by a later run after a day.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark snapshot --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: tidemark snapshot --name before-upgrade --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    The archive is a table below the index's URL, in archive/, which Spark, DuckDB and pyiceberg read by its path.\n\
    `tidemark snapshots` lists what there is and to which times the log can be restored."
)]
pub(super) struct SnapshotCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    /// Its name: up to 63 lower-case letters, digits and hyphens. Left out, it is made of the store's time, as in
    /// `snapshot-2026-11-29t20-18-00z`.
    #[arg(long, env = "TIDEMARK_NAME", value_name = "NAME")]
    name: Option<SnapshotName>,
    /// How many verified snapshots stay, the latest ones, from 1 on. Left out, none is removed that is verified.
    #[arg(long, env = "TIDEMARK_KEEP_LAST", value_name = "N")]
    keep_last: Option<NonZeroUsize>,
    /// A second store to which the snapshot and the archive are copied, of another provider too: a prefix of its own. What is there
    /// already is compared and not copied again. Endpoint and credentials are those of `copy` in --stores.
    #[arg(long, env = "TIDEMARK_COPY_TO", value_name = "URL")]
    copy_to: Option<Url>,
    /// Leave the archive as it is: the snapshot holds the index alone, and the log cannot be cleaned up by it.
    #[arg(long, env = "TIDEMARK_NO_ARCHIVE")]
    no_archive: bool,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    job: JobReportArgs,
}

/// What was made, as a line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotOutput<'a> {
    name: &'a str,
    generation: String,
    manifest: u64,
    cursor: String,
    operations: u64,
    bytes: u64,
    archived: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive_end: Option<String>,
    /// Up to where the indexer's audit should have come, where it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_overdue: Option<String>,
    dropped: &'a [String],
}

/// A snapshot that was made, and what is known after it.
struct MadeSnapshot {
    report: SnapshotReport,
    /// What can be restored.
    recovery_window: Option<RecoveryWindow>,
    log: Log,
    /// What the log holds, once it was counted.
    log_size: Option<LogSize>,
}

impl SnapshotCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, name, keep_last, copy_to, no_archive, cache, job } = self;
        let request = SnapshotRequest { name, keep_last, without_archive: no_archive };
        let mut made = Box::pin(make(places, cache, &request, copy_to.as_ref())).await;
        job.report(&task_result(&made));
        if let Ok(counted) = &mut made
            && job.is_wanted()
        {
            // A long log is listed for minutes: what was made is reported before.
            counted.log_size = LogSize::count(&counted.log).await;
            job.report(&task_result(&made));
        }
        let report = ended(made)?.report;
        if job.output.json {
            return print_json(&output(&report));
        }
        print_line(&summary(&report))?;
        for name in &report.dropped {
            print_line(&format!("{name} was removed"))?;
        }
        Ok(())
    }
}

async fn make(
    ExistingIndexArgs { log, index, moved }: ExistingIndexArgs,
    CacheArgs { cache_dir, cache_mib }: CacheArgs,
    request: &SnapshotRequest,
    copy_to: Option<&Url>,
) -> Result<MadeSnapshot, SnapshotError> {
    let settings = log.settings();
    if let Some(copy_to) = copy_to
        && let Some(other) = settings.overlap_of_copies(copy_to, &log.log, &log.metadata, &index)
    {
        return Err(SnapshotError::CopyOverlaps { url: copy_to.to_string(), other: other.to_string() });
    }
    let copies = copy_to.map(|url| settings.snapshot_copies(url)).transpose()?;
    let OpenStores { index, .. } = PodStores::at(None, index, &settings, AccessMode::ReadWrite).open()?;
    let found = IndexOfLog::find(&log.open()?, &index, moved.url().as_deref(), Entropy::from_os()).await?;
    let cache = cache_options(cache_dir, cache_mib << 20);
    let (options, folder) = cache.map_err(|error| SnapshotError::Other(Box::new(error)))?;
    let (progress, watched) = watch::channel(SnapshotProgress::default());
    let counted = |progress: &SnapshotProgress| Some((words(progress.step)?, progress.done, progress.total));
    let shown = show_progress(watched, counted);
    let service = SnapshotService::new(&found, &options, progress)?;
    let made = service.make(request).await?;
    if let Some(copies) = &copies {
        service.copy(&found, copies, &made, request.keep_last).await?;
    }
    drop((shown, folder));
    let recovery_window = recovery_window(&found.pins().register().await?);
    Ok(MadeSnapshot { report: made, recovery_window, log: found.log, log_size: None })
}

/// What a step counts.
fn words(step: SnapshotStep) -> Option<&'static str> {
    match step {
        SnapshotStep::Pinning => None,
        SnapshotStep::AwaitingAudit => Some("waiting for the indexer's audit: seconds of the log"),
        SnapshotStep::Archiving => Some("operations archived"),
        SnapshotStep::ReadingObjects => Some("bytes of the index read again"),
        SnapshotStep::ReadingArchive => Some("operations of the archive read again"),
        SnapshotStep::CopyingObjects => Some("bytes of the index copied"),
        SnapshotStep::CopyingArchive => Some("operations of the archive copied"),
    }
}

fn summary(SnapshotReport { name, pin, proof, archived, audit_overdue, .. }: &SnapshotReport) -> String {
    let SnapshotProof { cursor, bytes, counts, archive, audited, .. } = proof;
    let (operations, generation, manifest) = (counts.total(), &pin.generation, pin.manifest);
    let archive = match archive {
        Some(archive) => format!("{archived} operations archived, the archive reaches up to {}", archive.end),
        None if *audited == StoreSecond::default() => "nothing is old enough to be archived yet".to_owned(),
        None => "it was made without the archive".to_owned(),
    };
    let overdue = audit_overdue.map_or(String::new(), |due| {
        format!(
            "; operations before {due} are old enough to be archived, and are not: the indexer has looked for the last time only at those \
             before {audited}; let `tidemark index` run, and make another snapshot"
        )
    });
    format!(
        "snapshot {name} is verified: generation {generation}, manifest {manifest}, {operations} operations, {bytes} bytes, the log up \
         to {cursor}; {archive}{overdue}"
    )
}

fn output(report: &SnapshotReport) -> SnapshotOutput<'_> {
    let SnapshotReport { name, pin, proof, archived, audit_overdue, dropped } = report;
    SnapshotOutput {
        name,
        generation: pin.generation.to_string(),
        manifest: pin.manifest,
        cursor: proof.cursor.to_string(),
        operations: proof.counts.total(),
        bytes: proof.bytes,
        archived: *archived,
        archive_end: proof.archive.as_ref().map(|archive| archive.end.to_string()),
        audit_overdue: audit_overdue.map(|due| due.to_string()),
        dropped,
    }
}

fn task_result(made: &Result<MadeSnapshot, SnapshotError>) -> TaskResult {
    match made {
        Ok(made) => TaskResult::succeeded(summary(&made.report)).with(figures(made)),
        Err(error) => failed_result(error),
    }
}

fn figures(MadeSnapshot { report, recovery_window, log_size, .. }: &MadeSnapshot) -> TaskFigures {
    let SnapshotReport { name, pin, proof, .. } = report;
    TaskFigures {
        generation: Some(pin.generation.to_string()),
        snapshot: Some(name.clone()),
        snapshot_time: proof.time.map(StoreSecond::timestamp),
        manifest: Some(pin.manifest),
        cursor: Some(proof.cursor.second().timestamp()),
        entries: Some(proof.counts.total()),
        bytes: Some(proof.bytes),
        log_entries: log_size.map(|size| size.entries),
        log_bytes: log_size.map(|size| size.bytes),
        recovery_window: *recovery_window,
        ..TaskFigures::default()
    }
}
