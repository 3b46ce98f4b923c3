//! `tidemark verify`: reads an index whole, and decides outcomes again.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tidemark_catalog::{GarbageCounts, LogId, PinChain, RootChain};
use tidemark_crds::{Reason, TaskFigures, TaskResult};
use tidemark_ingest::{
    ArchiveFigures, CopyProgress, DrillError, DrillReport, IndexVerifier, IngestOptions, OutcomeFigures,
    OutcomeSelection, RestoreDrill, ToCause as _, VerifyCheck, VerifyFinding, VerifyObserver, VerifyOptions,
    VerifySummary, engine::IndexEngine, message_parts,
};
use tidemark_search::TantivyEngine;
use tidemark_store::{Entropy, Store, error_chain};
use tidemark_wal::Log;
use tokio::sync::watch;

use super::{
    args::{CacheArgs, ExistingIndexArgs, OutputArgs},
    exit::CommandExit,
    failure_verdict::{FailureVerdict, ended, failed_result},
    job_report::JobReportArgs,
    output::{ProgressReporter, print_json, print_line},
};
use crate::service::{AccessMode, LogSize, OpenStores, PodStores, ServiceError, cache_options, log_archive};

/// Entries that are read at once.
const FETCHES: usize = 32;
/// Bytes that entries take in memory while they are read.
const ENTRY_MEMORY: u64 = 64 << 20;

/// Verify an index: its chains, its objects, its snapshots, its archive, and what it says of the log.
///
/// Every record of the chains is read, and every object that the index, its snapshots and its archive consist of, with a sample as with
/// `--all`: whether it is there, has the bytes that were written, and holds the records that the manifest or the table counts, by digests that
/// are computed again from all of them.
///
/// A sample leaves out the rest: it decides the outcomes of so many operations again from the log, compares so many rows of the archive with
/// the index in up to eight stretches, and looks in the index for so many entries of the log. Of all others it does not say that index, archive
/// and log agree. Outcomes of entries that the log was cleaned up of are decided again from the rows of the archive that are compared. `--all` does all of that for every operation, row and entry. What nothing names is counted.
///
/// It writes nothing but the objects of a drill, and works while an indexer writes. An outcome was decided once: a bundle that was deleted later is reported as
/// `unprovable` and is no damage.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark verify --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: tidemark verify --all --json --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Each finding says what is wrong, where, what follows, and what to do. Exit codes: 0 nothing is wrong, 8 something is damaged,\n\
    1 something could not be read. A second run with the printed seed checks the same sample again.")]
pub(super) struct VerifyCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Decide the outcomes of so many operations again, compare as many rows of the archive with the index, and look for as many
    /// entries of the log there; all of them if there are no more.
    #[arg(long, env = "TIDEMARK_SAMPLE", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    sample: u64,
    /// Decide all outcomes again, and compare all rows. It reads every entry of the log, every descriptor and every record.
    #[arg(long, env = "TIDEMARK_ALL")]
    all: bool,
    /// The seed that chooses the sample; a random one if left out.
    #[arg(long, env = "TIDEMARK_SEED", value_name = "N")]
    seed: Option<u64>,
    /// Then restore the latest verified snapshot to a prefix of its own, drill/ below the index's URL, read it and the archive again,
    /// compare the counts and digests with what was proven of the snapshot, and remove what was written. It needs the right to write
    /// and delete there, and writes as much as the snapshot has.
    #[arg(long, env = "TIDEMARK_RESTORE_DRILL")]
    restore_drill: bool,
    #[command(flatten)]
    job: JobReportArgs,
}

impl VerifyCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, cache, sample, all, seed, restore_drill, job } = self;
        let entropy = Entropy::from_os();
        let seed = seed.unwrap_or_else(|| u64::from_be_bytes(entropy.bytes()));
        let outcomes = if all { OutcomeSelection::All } else { OutcomeSelection::Sample { count: sample, seed } };
        let printer = FindingPrinter::new(job.output);
        let mut verified = verify(places, cache, entropy, (outcomes, restore_drill), &printer, &job).await;
        if let Ok(verified) = &mut verified
            && job.is_wanted()
        {
            verified.report_damage(&job);
            verified.log_size = LogSize::count(&verified.log).await;
        }
        printer.progress.finish();
        let result = match &verified {
            Ok(verified) => task_result(verified),
            Err(error) => failed_result(error),
        };
        job.report(&result);
        let VerifiedIndex { summary, drill, .. } = ended(verified)?;
        if job.output.json {
            let drill = drill.as_ref().map(DrillLine::of);
            print_json(&VerificationLine { summary: &summary, looked: LookLine::of(outcomes), drill })?;
        } else {
            print_summary(&summary, outcomes)?;
            if let Some(drill) = &drill {
                print_line(&drill_line(drill))?;
            }
        }
        match (summary, drill) {
            (VerifySummary { damage: 1.., .. }, _) | (_, Some(Err(DrillError::Differs { .. }))) => {
                Err(CommandExit::Damaged.with(anyhow::anyhow!(result.message)))
            }
            (_, Some(Err(error))) => Err(FailureVerdict::of(&error).exit.with(anyhow::anyhow!(result.message))),
            (VerifySummary { unverified: 1.., .. }, _) => Err(anyhow::anyhow!(result.message)),
            _ => Ok(()),
        }
    }
}

/// What a verification found, and the drill after it, if one was asked for.
struct VerifiedIndex {
    summary: VerifySummary,
    drill: Option<Result<DrillReport, DrillError>>,
    log: Log,
    /// What the log holds, once it was counted.
    log_size: Option<LogSize>,
}

impl VerifiedIndex {
    /// Damage is reported before what may still take long: it counts also if the pod is lost, and the next sample may miss it.
    fn report_damage(&self, job: &JobReportArgs) {
        let result = task_result(self);
        if result.figures.damaged.is_some_and(|damaged| damaged > 0) {
            job.report(&result);
        }
    }
}

/// The same as a line of JSON.
#[derive(Serialize)]
struct VerificationLine<'a> {
    #[serde(flatten)]
    summary: &'a VerifySummary,
    #[serde(flatten)]
    looked: LookLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    drill: Option<DrillLine<'a>>,
}

/// Which operations, rows and entries were looked at, as a part of a line of JSON: a sample's size and its seed, or all.
#[derive(Serialize)]
struct LookLine {
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl LookLine {
    fn of(outcomes: OutcomeSelection) -> Self {
        match outcomes {
            OutcomeSelection::All => Self { all: true, sample: None, seed: None },
            OutcomeSelection::Sample { count, seed } => Self { all: false, sample: Some(count), seed: Some(seed) },
        }
    }
}

/// What came of a drill, as a part of a line of JSON.
#[derive(Serialize)]
#[serde(tag = "result", rename_all = "camelCase")]
enum DrillLine<'a> {
    /// It ended well.
    Passed { snapshot: &'a str, last: String, operations: u64, archived: u64, bytes: u64 },
    /// What was restored is not what was proven of the snapshot.
    Differs(DrillFault),
    /// It could not be carried out: what it would have found is not known.
    Failed(DrillFault),
}

/// What is wrong, as findings say it.
#[derive(Serialize)]
struct DrillFault {
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    what: String,
    effect: String,
    remedy: String,
}

impl<'a> DrillLine<'a> {
    fn of(drill: &'a Result<DrillReport, DrillError>) -> Self {
        match drill {
            Ok(DrillReport { snapshot, last, operations, archived, bytes }) => Self::Passed {
                snapshot,
                last: last.to_string(),
                operations: *operations,
                archived: *archived,
                bytes: *bytes,
            },
            Err(error @ DrillError::Differs { from, .. }) => Self::Differs(DrillFault::of(error, Some(from.clone()))),
            Err(error) => Self::Failed(DrillFault::of(error, error.to_cause().url)),
        }
    }
}

impl DrillFault {
    fn of(error: &DrillError, location: Option<String>) -> Self {
        let [what, effect, remedy] = message_parts(&error_chain(error));
        Self { location, what, effect, remedy }
    }
}

async fn verify(
    ExistingIndexArgs { log, index, moved }: ExistingIndexArgs,
    CacheArgs { cache_dir, cache_mib }: CacheArgs,
    entropy: Entropy,
    (outcomes, restore_drill): (OutcomeSelection, bool),
    observer: &dyn VerifyObserver,
    job: &JobReportArgs,
) -> Result<VerifiedIndex, ServiceError> {
    let settings = log.settings();
    let access = if restore_drill { AccessMode::ReadWrite } else { AccessMode::ReadOnly };
    let stores = PodStores::at(Some((log.log, log.metadata)), index, &settings, access);
    let OpenStores { log, index } = stores.open()?;
    let log = log.ok_or_else(|| ServiceError::Ended { task: "command", why: "no log was named".to_owned() })?;
    let (options, _folder) = cache_options(cache_dir, cache_mib << 20)?;
    let engine: Arc<dyn IndexEngine> = Arc::new(TantivyEngine::open(index.clone(), &options)?);
    let moved_from = moved.url();
    let for_archive = entropy.clone();
    let verifier = IndexVerifier {
        archive: Box::new(move |index: &Store, log: &LogId| log_archive(index, log, &for_archive)),
        root: RootChain::open(&log, entropy.clone()).moved_from(moved_from.as_deref()),
        engine: engine.clone(),
        log: log.clone(),
        index: index.clone(),
        entropy: entropy.clone(),
        options: VerifyOptions { outcomes, fetches: FETCHES, entry_memory: ENTRY_MEMORY },
    };
    let summary = verifier.run(observer).await?;
    let verified = VerifiedIndex { summary, drill: None, log, log_size: None };
    if !restore_drill {
        return Ok(verified);
    }
    verified.report_damage(job);
    let id = verifier.root.id().await?;
    let Some(id) = id else { return Ok(verified) };
    let drill = RestoreDrill {
        pins: PinChain::open(&index, &id, entropy.clone()),
        engine,
        archive: log_archive(&index, &id, &entropy),
        drill_engine: Box::new(move |store| Ok(Arc::new(TantivyEngine::open(store, &options)?))),
        options: IngestOptions::default(),
        progress: watch::Sender::new(CopyProgress::default()),
        index,
        entropy,
    };
    Ok(VerifiedIndex { drill: Some(Box::pin(drill.run()).await), ..verified })
}

/// Prints each finding when it is found.
struct FindingPrinter {
    output: OutputArgs,
    progress: ProgressReporter,
}

impl FindingPrinter {
    fn new(output: OutputArgs) -> Self {
        Self { output, progress: ProgressReporter::new("verifying") }
    }
}

impl VerifyObserver for FindingPrinter {
    fn found(&self, finding: &VerifyFinding) {
        let VerifyFinding { severity, check, location, what, effect, remedy } = finding;
        let printed = if self.output.json {
            print_json(finding)
        } else {
            let (severity, check) = (severity.as_str(), check.as_str());
            print_line(&format!("{severity:<10}  {check:<17}  {location}: {what}; {effect}; {remedy}"))
        };
        if let Err(error) = printed {
            tracing::debug!(%error, "a finding was not printed");
        }
    }

    fn progress(&self, check: VerifyCheck, done: u64, total: u64) {
        self.progress.report_part(check.as_str(), done, total);
    }
}

fn print_summary(summary: &VerifySummary, outcomes: OutcomeSelection) -> anyhow::Result<()> {
    let VerifySummary { generation, manifest, cursor, floor, records, chain_records, objects, bytes, .. } = summary;
    if let (Some(generation), Some(manifest), Some(cursor)) = (generation, manifest, cursor) {
        print_line(&format!(
            "index       generation {generation}, manifest {manifest}, the log up to {cursor}, {records} records"
        ))?;
    }
    print_line(&format!("read        {chain_records} records of chains, {objects} objects, {bytes} bytes"))?;
    if let OutcomeSelection::Sample { count, seed } = outcomes {
        print_line(&format!(
            "sample      {count} operations, rows of the archive and entries of the log, chosen by --seed {seed}; nothing is said of the others, \
             but that the objects which hold them are whole"
        ))?;
    }
    if let Some(figures) = &summary.archive {
        print_line(&archive_line(figures))?;
    }
    if let Some(figures) = &summary.outcomes {
        print_line(&outcomes_line(figures))?;
        let OutcomeFigures { entries, missing_entries, below_floor, .. } = figures;
        print_line(&format!("log         {entries} entries looked for, {missing_entries} are not in the index"))?;
        if let Some(floor) = floor {
            let what = match outcomes {
                OutcomeSelection::All => format!("{below_floor} operations of entries"),
                OutcomeSelection::Sample { .. } => "entries".to_owned(),
            };
            print_line(&format!("floor       {what} below {floor} were not looked for: the log was cleaned up"))?;
        }
    }
    if let Some(GarbageCounts { garbage, garbage_bytes, candidates, stray_lists, .. }) = &summary.garbage {
        print_line(&format!(
            "garbage     {garbage} objects, {garbage_bytes} bytes, of which the collectors know {candidates}; {stray_lists} lists without \
             a snapshot"
        ))?;
    }
    let VerifySummary { damage, unverified, notices, .. } = summary;
    print_line(&format!("findings    {damage} of damage, {unverified} not verified, {notices} notices"))
}

fn archive_line(figures: &ArchiveFigures) -> String {
    let ArchiveFigures { version, end, operations, files, bytes, compared, differ, decided, decided_otherwise, .. } =
        figures;
    let ArchiveFigures { parsed_otherwise, leaks, leak_bytes, .. } = figures;
    format!(
        "archive     version {version}, the log up to {end}, {operations} operations in {files} files, {bytes} bytes; {compared} compared \
         with the index, {differ} differ; {decided} below the floor decided again from it, {decided_otherwise} differ, {parsed_otherwise} entries parsed otherwise; {leaks} leaks, {leak_bytes} bytes"
    )
}

fn outcomes_line(figures: &OutcomeFigures) -> String {
    let OutcomeFigures { operations, agree, unprovable, pending, differ, unread, .. } = figures;
    format!(
        "outcomes    {operations} decided again: {agree} agree, {differ} differ, {unprovable} unprovable, {pending} pending, {unread} unread"
    )
}

fn drill_line(drill: &Result<DrillReport, DrillError>) -> String {
    match drill {
        Ok(DrillReport { snapshot, last, operations, archived, bytes }) => format!(
            "drill       snapshot \"{snapshot}\" restored up to {last}: {operations} operations, {bytes} bytes, and {archived} operations of \
             the archive read; removed again"
        ),
        Err(error) => format!("drill       {}", error_chain(error)),
    }
}

/// The result of the whole.
fn task_result(verified: &VerifiedIndex) -> TaskResult {
    let (result, size) = (checks_result(verified), verified.log_size);
    let (log_entries, log_bytes) = (size.map(|size| size.entries), size.map(|size| size.bytes));
    let figures = TaskFigures { log_entries, log_bytes, ..result.figures.clone() };
    result.with(figures)
}

/// The result of its checks and of its drill: damage that was found says more than a drill that failed.
fn checks_result(VerifiedIndex { summary, drill, .. }: &VerifiedIndex) -> TaskResult {
    let verified = verification_result(summary);
    let Some(Err(error)) = drill else { return verified };
    if summary.damage > 0 {
        return verified;
    }
    // A snapshot that restores to something else is damage: nothing is deleted from the log before that is repaired.
    let damaged = if matches!(error, DrillError::Differs { .. }) { Some(1) } else { verified.figures.damaged };
    failed_result(error).with(TaskFigures { damaged, ..verified.figures })
}

fn verification_result(summary: &VerifySummary) -> TaskResult {
    let VerifySummary { generation, manifest, cursor, bytes, damage, unverified, archive, outcomes, garbage, .. } =
        summary;
    let leaks = |counts: &GarbageCounts| counts.garbage - counts.candidates + counts.stray_lists;
    let of_archive = archive.unwrap_or_default();
    let compared = of_archive.compared;
    let figures = TaskFigures {
        generation: generation.as_ref().map(ToString::to_string),
        manifest: *manifest,
        cursor: cursor.map(|cursor| cursor.second().timestamp()),
        entries: outcomes.as_ref().map(|figures| figures.operations + figures.entries + compared),
        bytes: Some(bytes + outcomes.as_ref().map_or(0, |figures| figures.bytes)),
        leaks: garbage.as_ref().map(|counts| leaks(counts) + of_archive.leaks),
        damaged: Some(*damage),
        ..TaskFigures::default()
    };
    let differ = outcomes.as_ref().map_or(0, |figures| figures.differ + figures.missing_entries);
    let result = match (damage, unverified) {
        (0, 0) if summary.looked_at_nothing() => {
            TaskResult::succeeded("everything that was read is whole; no entry was looked at: the finding says why")
        }
        (0, 0) => TaskResult::succeeded("everything that was read is whole, and agrees with the log"),
        (0, _) => TaskResult::failed(
            Reason::Unreachable,
            format!(
                "{unverified} findings: something could not be read, so that nothing is known of it; mend what the findings name, and verify again"
            ),
        ),
        (_, _) => {
            // What is only changed outcomes is no damage of objects.
            let reason = match summary.archive_damage {
                of_archive if of_archive >= *damage => Reason::ArchiveDamaged,
                _ if differ >= *damage => Reason::OutcomesDiffer,
                _ => Reason::IndexDamaged,
            };
            TaskResult::failed(
                reason,
                format!(
                    "{damage} findings of damage; what they name is lost or contradicts the log; each names its remedy"
                ),
            )
        }
    };
    result.with(figures)
}
