//! `tidemark cleanup`: deletes entries from a log that the archive has.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use clap::Args;
use serde::Serialize;
use tidemark_catalog::LogCursor;
use tidemark_crds::{Reason, RecoveryWindow, TaskFigures, TaskResult, parse_byte_size};
use tidemark_ingest::{
    cleanup::{
        CleanupError, CleanupReport, CleanupRequest, CleanupRules, DeletionReport, HeldEntry, HoldReason, RuleVerdict,
    },
    snapshot::SnapshotError,
};
use tidemark_store::Entropy;
use tokio::sync::watch;

use super::{
    args::{ExistingIndexArgs, span},
    failure_verdict::{ended, failed_result},
    job_report::JobReportArgs,
    log::CLOCK_NAME,
    output::{print_json, print_line, show_progress},
};
use crate::service::{AccessMode, IndexOfLog, PodStores, cleanup_executor, recovery_window};

/// The shortest age at which entries may go.
const MIN_AGE: Duration = Duration::from_secs(1);

/// Delete entries from the log that the archive has, byte for byte.
///
/// Only entries go that every rule lets go: they are older than --min-age, verified snapshots have them in the archive, and every index
/// that is registered in the log has had its last look at them. Each one is read in the archive and in the log before it goes, and stays if
/// anything differs. Descriptors are never deleted. Before the first entry goes, the log's root says up to which second the log may have holes and
/// which archive has what lies below; an index that would need it is refused from then on.
///
/// The command may be killed at any moment and run again: it looks at what is left. Of two at once the one that began first stops.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark cleanup --dry-run --min-age 720h --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: tidemark cleanup --min-age 720h --keep-snapshots 3 --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    What is deleted cannot be indexed from the log again: keep the archive below the index's URL, in archive/.\n\
    `tidemark snapshot` extends the archive; without a verified snapshot nothing is deleted."
)]
pub(super) struct CleanupCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    /// Show what would be deleted and why other entries stay. It reads as much as a clean-up does and changes nothing; it writes one
    /// empty object in each store to read its clock.
    #[arg(long, env = "TIDEMARK_DRY_RUN")]
    dry_run: bool,
    /// Entries that are younger than this stay, from 1s, by the store's clock.
    #[arg(long, env = "TIDEMARK_MIN_AGE", value_name = "SPAN", value_parser = min_age)]
    min_age: Duration,
    /// How many entries may stay in the log: of those that may go only as many go, oldest first, as are too many. Left out, all go.
    #[arg(long, env = "TIDEMARK_MAX_ENTRIES", value_name = "N")]
    max_entries: Option<u64>,
    /// How many bytes of entries may stay in the log, with Ki, Mi, Gi or Ti: as with --max-entries.
    #[arg(long, env = "TIDEMARK_MAX_SIZE", value_name = "SIZE", value_parser = max_size)]
    max_size: Option<u64>,
    /// Entries stay that so many of the newest verified snapshots do not have in the archive, from 1.
    #[arg(long, env = "TIDEMARK_KEEP_SNAPSHOTS", value_name = "N", default_value = "1")]
    keep_snapshots: NonZeroUsize,
    #[command(flatten)]
    job: JobReportArgs,
}

/// What was done, as a line of JSON. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CleanupOutput<'a> {
    dry_run: bool,
    time: String,
    /// Entries of the seconds before it could go; left out where the rules let nothing go.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
    entries: u64,
    bytes: u64,
    deleted: u64,
    deleted_bytes: u64,
    left: u64,
    rules: Vec<RuleOutput<'a>>,
    held: &'a BTreeMap<HoldReason, u64>,
    held_entries: Vec<HeldOutput<'a>>,
    foreign: u64,
    foreign_keys: &'a [String],
    keeps_versions: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleOutput<'a> {
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    held_back: u64,
    why: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldOutput<'a> {
    key: &'a str,
    reason: HoldReason,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'a str>,
}

/// A clean-up that ended, and what can be restored afterwards.
type CleanupEnd = Result<(CleanupReport, Option<RecoveryWindow>), CleanupError>;

impl CleanupCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, dry_run, min_age, max_entries, max_size, keep_snapshots, job } = self;
        let rules = CleanupRules { min_age, max_entries, max_bytes: max_size, keep_snapshots };
        let progress = watch::Sender::new(DeletionReport::default());
        let cleaned = clean(places, &CleanupRequest { rules, dry_run }, progress.clone()).await;
        let result = task_result(&cleaned, &progress.borrow(), dry_run);
        job.report(&result);
        let (report, _) = ended(cleaned)?;
        if job.output.json {
            print_json(&output(&report, dry_run))?;
        } else {
            print_report(&report, dry_run)?;
        }
        match failure(&report.deletion) {
            None => Ok(()),
            Some(_) => Err(anyhow::anyhow!(result.message)),
        }
    }
}

async fn clean(
    ExistingIndexArgs { log, index, moved }: ExistingIndexArgs,
    request: &CleanupRequest,
    progress: watch::Sender<DeletionReport>,
) -> CleanupEnd {
    let index = PodStores::at(None, index, &log.settings(), AccessMode::ReadWrite).open()?.index;
    let entropy = Entropy::from_os();
    let cleaner = format!("cleanup-{}", entropy.nonce());
    let found = IndexOfLog::find(&log.open()?, &index, moved.url().as_deref(), entropy).await;
    let found = found.map_err(SnapshotError::from)?;
    let counted = |report: &DeletionReport| Some(("entries cleaned up", report.deleted + report.held_back(), 0));
    let shown = show_progress(progress.subscribe(), counted);
    let report = cleanup_executor(&found, cleaner, CLOCK_NAME, progress).run(request).await?;
    drop(shown);
    Ok((report, recovery_window(&found.pins().register().await?)))
}

/// Why the clean-up did not do all that it was to do.
fn failure(DeletionReport { held, stopped, .. }: &DeletionReport) -> Option<Reason> {
    let has = |reason| held.contains_key(&reason);
    match () {
        () if has(HoldReason::Denied) || has(HoldReason::Locked) => Some(Reason::DeletionRefused),
        () if held.keys().any(|reason| reason.is_failure()) || stopped.is_some() => Some(Reason::Unreachable),
        () => None,
    }
}

fn task_result(cleaned: &CleanupEnd, progress: &DeletionReport, dry_run: bool) -> TaskResult {
    match cleaned {
        Ok((report, window)) => {
            let message = summary(report, dry_run);
            let result = match failure(&report.deletion) {
                None => TaskResult::succeeded(message),
                Some(reason) => TaskResult::failed(reason, format!("{message}; {}", remedies(&report.deletion))),
            };
            result.with(TaskFigures {
                snapshot: report.snapshot.clone(),
                cursor: Some(report.floor).filter(|floor| *floor > LogCursor::default()).map(timestamp),
                entries: Some(report.entries),
                bytes: Some(report.bytes),
                deleted_entries: Some(report.deletion.deleted),
                deleted_bytes: Some(report.deletion.deleted_bytes),
                held_back: Some(report.left()),
                log_entries: Some(if dry_run { report.entries } else { report.left() }),
                // How large those were that others had deleted meanwhile is not known.
                log_bytes: Some(if dry_run {
                    report.bytes
                } else {
                    report.bytes.saturating_sub(report.deletion.deleted_bytes)
                }),
                recovery_window: *window,
                ..TaskFigures::default()
            })
        }
        Err(error) => {
            let (deleted_entries, deleted_bytes) = (Some(progress.deleted), Some(progress.deleted_bytes));
            failed_result(error).with(TaskFigures { deleted_entries, deleted_bytes, ..TaskFigures::default() })
        }
    }
}

fn timestamp(at: LogCursor) -> jiff::Timestamp {
    at.second().timestamp()
}

fn summary(report: &CleanupReport, dry_run: bool) -> String {
    let CleanupReport { to, entries, bytes, deletion, .. } = report;
    let DeletionReport { deleted, deleted_bytes, .. } = deletion;
    let did = if dry_run { "would be deleted" } else { "were deleted" };
    let left = report.left();
    let to = bound(*to).map_or_else(|| ": the rules let nothing go".to_owned(), |to| format!(", up to {to}"));
    let mut text = format!("{deleted} of {entries} entries {did}, {deleted_bytes} of {bytes} bytes{to}; {left} stay");
    if deletion.held_back() > 0 {
        text = format!("{text}, {} of them although the rules let them go", deletion.held_back());
    }
    if deletion.keeps_versions && !dry_run {
        text = format!(
            "{text}; the bucket keeps them as older versions, which take as much room: let a lifecycle rule of the bucket remove noncurrent \
             versions below the log; one that a lock or a retention holds stays until its end"
        );
    }
    text
}

/// Up to where something may go or is gone; `None` where that is nothing.
fn bound(to: LogCursor) -> Option<String> {
    (to > LogCursor::default()).then(|| to.to_string())
}

/// Why entries stay that were to go.
fn remedies(DeletionReport { held, stopped, .. }: &DeletionReport) -> String {
    let failures = held.iter().filter(|(reason, _)| reason.is_failure());
    let words = failures.map(|(reason, count)| format!("{count}: {}", reason.words()));
    let stopped = stopped.iter().map(|why| format!("it stopped early: {why}"));
    stopped.chain(words).collect::<Vec<_>>().join("; ")
}

fn print_report(report: &CleanupReport, dry_run: bool) -> anyhow::Result<()> {
    let CleanupReport { time, floor, snapshot, foreign, foreign_names, rules, deletion, .. } = report;
    print_line(&summary(report, dry_run))?;
    let floor = bound(*floor).unwrap_or_else(|| "none".to_owned());
    let snapshot = snapshot.as_deref().unwrap_or("-");
    print_line(&format!("store time {time}, floor {floor}, snapshot {snapshot}"))?;
    print_line("")?;
    print_line(&format!("{:<22}  {:<20}  {:>10}  {}", "RULE", "LETS GO BEFORE", "KEEPS", "WHY"))?;
    for RuleVerdict { rule, to, held_back, why } in rules {
        let to = bound(*to).unwrap_or_else(|| "nothing".to_owned());
        print_line(&format!("{rule:<22}  {to:<20}  {held_back:>10}  {why}"))?;
    }
    if !deletion.held.is_empty() {
        print_line("")?;
        print_line(&format!("{:<22}  {:>10}  {}", "STAYS", "ENTRIES", "WHY"))?;
        for (reason, count) in &deletion.held {
            print_line(&format!("{:<22}  {count:>10}  {}", format!("{reason:?}"), reason.words()))?;
        }
        for HeldEntry { key, reason, words } in &deletion.named {
            let words = words.as_deref().unwrap_or_default();
            print_line(&format!("{key}  {reason:?}  {words}"))?;
        }
    }
    if *foreign > 0 {
        print_line("")?;
        print_line(&format!("{foreign} keys in the log are not entries and stay: {}", foreign_names.join(", ")))?;
    }
    if let Some(stopped) = &deletion.stopped {
        print_line(&format!("stopped early: {stopped}"))?;
    }
    Ok(())
}

fn output(report: &CleanupReport, dry_run: bool) -> CleanupOutput<'_> {
    let CleanupReport { time, rules, to, floor, snapshot, entries, bytes, foreign, foreign_names, deletion } = report;
    let DeletionReport { deleted, deleted_bytes, gone: _, held, named, keeps_versions, stopped } = deletion;
    CleanupOutput {
        dry_run,
        time: time.to_string(),
        to: bound(*to),
        floor: bound(*floor),
        snapshot: snapshot.as_deref(),
        entries: *entries,
        bytes: *bytes,
        deleted: *deleted,
        deleted_bytes: *deleted_bytes,
        left: report.left(),
        rules: rules.iter().map(rule_output).collect(),
        held,
        held_entries: named.iter().map(held_output).collect(),
        foreign: *foreign,
        foreign_keys: foreign_names,
        keeps_versions: *keeps_versions,
        stopped: stopped.as_deref(),
    }
}

fn rule_output(RuleVerdict { rule, to, held_back, why }: &RuleVerdict) -> RuleOutput<'_> {
    RuleOutput { rule, to: bound(*to), held_back: *held_back, why }
}

fn held_output(HeldEntry { key, reason, words }: &HeldEntry) -> HeldOutput<'_> {
    HeldOutput { key, reason: *reason, why: reason.words(), store: words.as_deref() }
}

fn min_age(text: &str) -> Result<Duration, String> {
    let age = span(text)?;
    if age < MIN_AGE {
        return Err(
            "an age below 1s would delete what is being written; give the age that entries have at least".to_owned()
        );
    }
    Ok(age)
}

fn max_size(text: &str) -> Result<u64, String> {
    parse_byte_size(text)
        .map_err(|_| format!("invalid size \"{text}\": expected a number of bytes, such as 1048576 or 10Gi"))
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::TransactionRejected;
    use tidemark_store::StoreSecond;

    use super::*;

    #[test]
    fn a_retention_that_would_delete_everything_is_refused() {
        assert_eq!(min_age("720h"), Ok(Duration::from_hours(720)));
        for text in ["0s", "500ms", "-1h", "soon"] {
            assert!(min_age(text).is_err(), "{text}");
        }
        assert_eq!((max_size("10Gi"), max_size("0")), (Ok(10 << 30), Ok(0)));
        assert!(max_size("much").is_err());
    }

    /// As long as there are fewer snapshots than asked for.
    #[test]
    fn a_rehearsal_that_lets_nothing_go_names_no_time() {
        let (second, nothing) = (StoreSecond::from_unix(1_800_000_000), LogCursor::default());
        let rule = RuleVerdict { rule: "--keep-snapshots".to_owned(), to: nothing, held_back: 9, why: String::new() };
        let mut report = CleanupReport {
            time: second,
            rules: vec![rule],
            to: nothing,
            floor: nothing,
            snapshot: None,
            entries: 9,
            bytes: 90,
            foreign: 0,
            foreign_names: Vec::new(),
            deletion: DeletionReport::default(),
        };
        let said = summary(&report, true);
        assert_eq!(said, "0 of 9 entries would be deleted, 0 of 90 bytes: the rules let nothing go; 9 stay");
        let json = serde_json::to_string(&output(&report, true)).unwrap();
        assert!(!json.contains("1970"), "{json}");
        report.to = LogCursor(second);
        let said = summary(&report, true);
        assert_eq!(said, format!("0 of 9 entries would be deleted, 0 of 90 bytes, up to {second}; 9 stay"));
    }

    #[test]
    fn what_could_not_be_deleted_is_a_failure_and_what_is_kept_on_purpose_is_none() {
        let held = |reason| DeletionReport { held: [(reason, 1)].into(), ..DeletionReport::default() };
        for reason in [HoldReason::NotArchived, HoldReason::NotWhole, HoldReason::Differs] {
            assert_eq!(failure(&held(reason)), None, "{reason:?}");
        }
        for reason in [HoldReason::Denied, HoldReason::Locked] {
            assert_eq!(failure(&held(reason)), Some(Reason::DeletionRefused), "{reason:?}");
        }
        for reason in [HoldReason::Unread, HoldReason::NotDeleted, HoldReason::Unknown] {
            assert_eq!(failure(&held(reason)), Some(Reason::Unreachable), "{reason:?}");
        }
    }

    #[test]
    fn a_fenced_cleanup_may_be_tried_again_and_a_refused_one_not() {
        let chain = |rejected: TransactionRejected| CleanupError::Chain(rejected.into());
        let fenced = Err(chain(TransactionRejected::Fenced { epoch: 1, by: 2 }));
        let result = task_result(&fenced, &DeletionReport { deleted: 7, ..DeletionReport::default() }, false);
        assert_eq!((result.state, result.figures.deleted_entries), (tidemark_crds::TaskState::Failed, Some(7)));
        let refused = Err(chain(TransactionRejected::SecondCleaner { cleaner: "x".to_owned() }));
        let result = task_result(&refused, &DeletionReport::default(), false);
        assert_eq!(result.state, tidemark_crds::TaskState::Refused);
    }
}
