//! What the commands share that make a generation of an index and switch to it.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tidemark_catalog::{Generation, RootChain};
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{
    CopyProgress, DecideAgainReport, GenerationTask, IngestError, IngestOptions, RestoreOrigin, SwitchReport,
    UnauditedReport, snapshot::LogArchive,
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

/// How many generations a message names.
const MAX_NAMED_GENERATIONS: usize = 3;

/// How many damaged objects a message names.
const MAX_NAMED_OBJECTS: usize = 3;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    unaudited: Option<UnauditedLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<String>,
}

/// What was restored is promoted only where outcomes may stand as they were seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UnauditedLine {
    audited: String,
    floor: String,
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
                unaudited: report.unaudited.as_ref().map(|UnauditedReport { audited, floor }| UnauditedLine {
                    audited: audited.to_string(),
                    floor: floor.to_string(),
                }),
                missing: report.missing.iter().map(ToString::to_string).collect(),
                damaged: report.damaged.clone(),
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
    let SwitchReport { generation, manifest, cursor, records, bytes, decided_again, unaudited, missing, damaged } =
        report;
    let lost = |DecideAgainReport { first, last, why }: &DecideAgainReport| {
        format!(
            "; outcomes of {first} to {last} were recorded and are lost ({why}): the log decides those seconds again"
        )
    };
    let lost = decided_again.as_ref().map(lost).unwrap_or_default();
    let refused = |UnauditedReport { audited, floor }: &UnauditedReport| {
        format!(
            "; it was audited up to {audited} only, and the log was cleaned up to {floor}: it can be searched, and is promoted only with \
             `tidemark promote --decide-again`; to promote it without, restore it to another target"
        )
    };
    let unaudited = unaudited.as_ref().map(refused).unwrap_or_default();
    let (missing, damaged) = (missing_words(missing), damaged_words(damaged));
    format!(
        "{done}: generation {generation}, manifest {manifest}, {records} records, {bytes} bytes, the log up to {cursor}{lost}{unaudited}{missing}{damaged}"
    )
}

/// What is said of earlier generations of which nothing is left.
fn missing_words(missing: &[Generation]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let named: Vec<_> = missing.iter().take(MAX_NAMED_GENERATIONS).map(ToString::to_string).collect();
    let named = named.join(", ");
    let others = match missing.len().saturating_sub(MAX_NAMED_GENERATIONS) {
        0 => String::new(),
        others => format!(" and {others} others"),
    };
    format!(
        "; of the earlier generations {named}{others} there is neither chain nor pin: the log decides again what they alone had recorded"
    )
}

/// What is said of objects that were gone around.
fn damaged_words(damaged: &[String]) -> String {
    if damaged.is_empty() {
        return String::new();
    }
    let named: Vec<_> = damaged.iter().take(MAX_NAMED_OBJECTS).map(String::as_str).collect();
    let named = named.join(", ");
    let others = match damaged.len().saturating_sub(MAX_NAMED_OBJECTS) {
        0 => String::new(),
        others => format!(" and {others} others"),
    };
    format!(
        "; {named}{others}: what it held was taken from what else is recorded; put it back from a copy of the bucket before the other copies \
         are lost, and find what has damaged it"
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

#[cfg(test)]
mod tests {
    use tidemark_catalog::LogCursor;
    use tidemark_store::StoreSecond;

    use super::*;

    fn report(missing: Vec<Generation>, unaudited: Option<UnauditedReport>) -> SwitchReport {
        let (generation, cursor) = ("g9".parse().unwrap(), LogCursor::default());
        SwitchReport {
            generation,
            manifest: 1,
            cursor,
            records: 2,
            bytes: 3,
            decided_again: None,
            unaudited,
            missing,
            damaged: Vec::new(),
        }
    }

    #[test]
    fn a_result_says_that_a_promotion_would_be_refused_and_how_it_is_not() {
        let second = |second| LogCursor(StoreSecond::from_unix(second));
        let unaudited = UnauditedReport { audited: second(10), floor: second(70) };
        let said = summary("the index was restored", &report(Vec::new(), Some(unaudited)));
        for part in ["audited up to 1970-01-01T00:00:10Z", "cleaned up to 1970-01-01T00:01:10Z", "--decide-again"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!summary("the index was restored", &report(Vec::new(), None)).contains("--decide-again"));
    }

    #[test]
    fn a_result_names_the_objects_that_were_gone_around() {
        let of = |damaged: &[&str]| {
            let damaged = damaged.iter().map(ToString::to_string).collect();
            summary("the index was restored", &SwitchReport { damaged, ..report(Vec::new(), None) })
        };
        assert!(of(&[]).ends_with("the log up to 1970-01-01T00:00:00Z"), "{}", of(&[]));
        let said = of(&["\"a\" is gone", "\"b\" is damaged: x", "c", "d"]);
        assert!(said.contains("; \"a\" is gone, \"b\" is damaged: x, c and 1 others: "), "{said}");
        assert!(said.contains("put it back from a copy of the bucket"), "{said}");
    }

    #[test]
    fn a_result_names_the_generations_of_which_nothing_is_left() {
        let of = |missing: &[&str]| {
            let missing = missing.iter().map(|name| name.parse().unwrap()).collect();
            summary("the index was promoted", &report(missing, None))
        };
        assert!(of(&[]).ends_with("the log up to 1970-01-01T00:00:00Z"), "{}", of(&[]));
        assert!(
            of(&["g2"]).contains("; of the earlier generations g2 there is neither chain nor pin: "),
            "{}",
            of(&["g2"])
        );
        assert!(
            of(&["g8", "g7", "g6", "g2", "g1"]).contains(" g8, g7, g6 and 2 others there is "),
            "{}",
            of(&["g8", "g7", "g6", "g2", "g1"])
        );
    }
}
