//! The archive: its objects, whether it is the one that snapshots and the log's floor rest on, and its rows beside the index.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use futures::TryStreamExt as _;
use serde::Serialize;
use tidemark_catalog::{ArchiveExtent, CatalogError, LogCursor, LogFloor, Manifest, PinChain};
use tidemark_crds::Reason;
use tidemark_store::{Entropy, Store, error_chain, urls_overlap};
use tidemark_wal::{ParameterSchedule, Token};

use super::{
    archived_outcomes::{ArchivedOutcomes, ArchivedVerdict},
    finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts},
    outcome_check::OutcomeSelection,
    sample_draw::ShuffledSeqs,
};
use crate::{
    cause::ToCause as _,
    engine::{EngineError, IndexEngine},
    record::OperationRecord,
    snapshot::{
        ArchiveComparison, ArchiveDifference, ArchiveFault, ArchiveReport, ArchiveVersion, ArchiveWindow, LogArchive,
        SettledRecords, SnapshotError,
    },
};

/// How many windows a sample of rows has at most, if they have enough operations.
const MAX_SAMPLE_WINDOWS: u64 = 8;

const DAMAGE_EFFECT: &str =
    "what is in it can be neither restored nor queried, and the log must not be cleaned up by this archive";
const DAMAGE_REMEDY: &str = "turn cleanup off, and restore the object from the bucket's versions, a copy of the bucket or a copy of the snapshots";

/// What was read of an archive, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveFigures {
    /// The number of its latest version.
    pub version: u64,
    /// Every settled operation of the seconds below is in.
    pub end: LogCursor,
    /// How many operations it says that it holds.
    pub operations: u64,
    /// Versions that were read.
    pub versions: u64,
    /// Data files that are there and whole.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Operations of archive or index that were compared with the other one.
    pub compared: u64,
    /// Those that only one of them has, or that they have differently.
    pub differ: u64,
    /// Operations below the log's floor, of those, that were decided again from the body and the store times that the archive has.
    pub decided: u64,
    /// Those that are archived as something else.
    pub decided_otherwise: u64,
    /// Entries below the floor that were not decided again: this release reads something else in their bodies than the one that decided them.
    pub parsed_otherwise: u64,
    /// Objects that no version names and none ever will.
    pub leaks: u64,
    /// Their bytes.
    pub leak_bytes: u64,
}

/// Checks the archive beside one manifest of the index.
pub(super) struct ArchiveCheck<'a> {
    pub(super) index: &'a Store,
    /// The URL of the archive's folder.
    pub(super) location: String,
    pub(super) archive: &'a dyn LogArchive,
    pub(super) pins: &'a PinChain,
    pub(super) engine: &'a Arc<dyn IndexEngine>,
    pub(super) manifest: &'a Manifest,
    /// The log's floor, read before the archive.
    pub(super) floor: Option<&'a LogFloor>,
    /// Without it no outcome is decided again.
    pub(super) schedule: Option<&'a ParameterSchedule>,
    pub(super) findings: &'a FindingLog<'a>,
}

impl ArchiveCheck<'_> {
    /// Checks everything of the archive. `None` where there is none, or its latest version cannot be told.
    pub(super) async fn run(&self, selection: OutcomeSelection) -> Option<ArchiveFigures> {
        // Before the latest version is read: what they name is committed by then.
        let proven = match self.proven_extents().await {
            Ok(proven) => proven,
            Err(error) => {
                self.report_unverified(message_parts(&error_chain(&error)));
                BTreeMap::new()
            }
        };
        let latest = match self.archive.latest().await {
            Ok(latest) => latest,
            Err(error) => {
                self.report_error(&error);
                return None;
            }
        };
        self.check_extents(&proven, latest.as_ref()).await;
        self.check_floor(latest.as_ref());
        let latest = latest?;
        let mut figures = ArchiveFigures {
            version: latest.number,
            end: latest.end,
            operations: latest.operations,
            ..ArchiveFigures::default()
        };
        self.check_objects(&latest, &mut figures).await;
        self.compare(&latest, selection, &mut figures).await;
        self.count_leaks(&latest, &mut figures).await;
        Some(figures)
    }

    /// The archive as each verified snapshot has proven it, by the number of the version, with the name of one such snapshot.
    async fn proven_extents(&self) -> Result<BTreeMap<u64, (ArchiveExtent, String)>, CatalogError> {
        let register = self.pins.register().await?;
        let extents = register.pins.into_iter().filter_map(|(name, pin)| {
            let extent = pin.verified?.archive?;
            Some((extent.version, (extent, name)))
        });
        Ok(extents.collect())
    }

    /// Whether the archive still is the one that these snapshots were verified with.
    async fn check_extents(&self, proven: &BTreeMap<u64, (ArchiveExtent, String)>, latest: Option<&ArchiveVersion>) {
        let end = latest.map_or(0, |latest| latest.number);
        for (number, (extent, name)) in proven {
            let why = match self.archive.version(*number).await {
                Ok(Some(version)) if version.hash == extent.hash && version.end == extent.end => continue,
                Ok(Some(_)) => "is not the one",
                Ok(None) if *number > end => "is gone",
                // The check of all versions reports what became of this one.
                Ok(None) => continue,
                Err(SnapshotError::ArchiveDamaged { .. }) if *number <= end => continue,
                Err(error) => {
                    self.report_error(&error);
                    continue;
                }
            };
            let what = format!("version {number} of the archive {why} that snapshot \"{name}\" was verified with");
            let effect = format!(
                "what was settled before {} may be missing, and a restore from that snapshot and the archive lacks it",
                extent.end
            );
            self.report_damage(self.location.clone(), [what, effect, DAMAGE_REMEDY.to_owned()]);
        }
    }

    /// Whether the archive has what may be gone from the log, if the log's floor names this one.
    fn check_floor(&self, latest: Option<&ArchiveVersion>) {
        let end = latest.map(|latest| latest.end).unwrap_or_default();
        let is_here = |floor: &&LogFloor| urls_overlap(&floor.archive, self.index.url().as_str());
        let Some(floor) = self.floor.filter(is_here).filter(|floor| end < floor.second) else { return };
        let what = format!("the archive ends at {end}, and the log was cleaned up to {}", floor.second);
        let effect = "entries between them may be neither in the log nor in the archive".to_owned();
        self.report_damage(self.location.clone(), [what, effect, DAMAGE_REMEDY.to_owned()]);
    }

    async fn check_objects(&self, latest: &ArchiveVersion, figures: &mut ArchiveFigures) {
        let ArchiveReport { versions, files, bytes, damaged, damaged_count } = match self.archive.verify(latest).await {
            Ok(report) => report,
            Err(error) => return self.report_error(&error),
        };
        (figures.versions, figures.files, figures.bytes) = (versions, files, bytes);
        let hidden = damaged_count - damaged.len() as u64;
        let parts = |what: String| [what, DAMAGE_EFFECT.to_owned(), DAMAGE_REMEDY.to_owned()];
        for ArchiveFault { location, why } in damaged {
            self.report_damage(location, parts(why));
        }
        if hidden > 0 {
            self.report_damage(
                self.location.clone(),
                parts(format!("{hidden} more of its objects are missing or damaged")),
            );
        }
    }

    /// Compares rows with the index, of a sample or all that both must have.
    async fn compare(&self, latest: &ArchiveVersion, selection: OutcomeSelection, figures: &mut ArchiveFigures) {
        let end = latest.end.min(LogCursor(self.manifest.audited));
        let settled = match SettledRecords::open(self.engine, self.manifest, self.schedule.cloned()).await {
            Ok(settled) => settled,
            Err(error) => return self.report_uncompared(&error_chain(&error)),
        };
        let comparison = ArchiveComparison { archive: self.archive, version: latest, settled };
        let all = LogCursor::default()..end;
        let compared = match selection {
            OutcomeSelection::All => self.compare_seconds(&comparison, all, figures).await,
            OutcomeSelection::Sample { count, seed } => {
                self.compare_sample(&comparison, all, (count, seed), figures).await
            }
        };
        if let Err(error) = compared {
            self.report_uncompared(&error_chain(&error));
        }
    }

    /// Compares windows that begin at records of the index, each of which is chosen as likely as any other, and if they are too few what
    /// lies between them: `count` operations in all, if there are as many, and the rest of each window's last second.
    async fn compare_sample(
        &self,
        comparison: &ArchiveComparison<'_>,
        all: Range<LogCursor>,
        (count, seed): (u64, u64),
        figures: &mut ArchiveFigures,
    ) -> Result<(), SnapshotError> {
        let starts = self.window_starts(all.end, count, &Entropy::seeded(seed)).await?;
        let (mut compared, mut wanted) = (Vec::new(), count);
        for (windows, start) in (1..=starts.len() as u64).rev().zip(&starts) {
            let past = compared.last().map_or(all.start, |last: &Range<LogCursor>| last.end);
            let seconds = past.max(*start)..all.end;
            let found = self.compare_window(comparison, seconds, wanted.div_ceil(windows), figures).await?;
            wanted = wanted.saturating_sub(found.operations);
            compared.push(found.seconds);
        }
        for seconds in gaps_between(&compared, all) {
            wanted -= self.compare_window(comparison, seconds, wanted, figures).await?.operations.min(wanted);
        }
        Ok(())
    }

    /// Compares the first of `seconds`: to the end of the one in which `wanted` operations are reached.
    async fn compare_window(
        &self,
        comparison: &ArchiveComparison<'_>,
        seconds: Range<LogCursor>,
        wanted: u64,
        figures: &mut ArchiveFigures,
    ) -> Result<ArchiveWindow, SnapshotError> {
        if wanted == 0 || seconds.is_empty() {
            return Ok(ArchiveWindow { seconds: seconds.start..seconds.start, operations: 0 });
        }
        let window = comparison.window(seconds, wanted).await?;
        self.compare_seconds(comparison, window.seconds.clone(), figures).await?;
        Ok(window)
    }

    async fn compare_seconds(
        &self,
        comparison: &ArchiveComparison<'_>,
        seconds: Range<LogCursor>,
        figures: &mut ArchiveFigures,
    ) -> Result<(), SnapshotError> {
        let mut outcomes = self.schedule.map(|schedule| {
            let floor = self.floor.map_or(LogCursor::default(), |floor| floor.second);
            ArchivedOutcomes::new(schedule, floor)
        });
        let on_pair = |(token, op), row: Option<&OperationRecord>, difference| {
            if let (Some(outcomes), Some(row)) = (&mut outcomes, row) {
                self.judge(outcomes.push(row), figures);
            }
            figures.compared += 1;
            if figures.compared.is_multiple_of(1000) {
                self.findings.progress(VerifyCheck::Archive, figures.compared, 0);
            }
            if let Some(difference) = difference {
                figures.differ += 1;
                self.report_difference(token, op, difference);
            }
        };
        comparison.compare(seconds, on_pair).await?;
        self.judge(outcomes.and_then(|mut outcomes| outcomes.finish()), figures);
        Ok(())
    }

    /// Counts and reports what came of an entry below the floor.
    fn judge(&self, verdict: Option<ArchivedVerdict>, figures: &mut ArchiveFigures) {
        let Some(ArchivedVerdict { token, decided, differ, parsed_otherwise }) = verdict else { return };
        figures.decided += decided;
        if let Some(why) = parsed_otherwise {
            figures.parsed_otherwise += 1;
            self.report_parsed_otherwise(token, &why);
        }
        figures.decided_otherwise += differ.len() as u64;
        for (op, why) in differ {
            let what = format!("operation {op} of {token} is not what its row says: {why}");
            let effect =
                "search and archive contradict the body and the store times that are archived with it".to_owned();
            let remedy =
                "find out what changed the row and the record, and restore both from a copy of the bucket".to_owned();
            let (severity, check) = (FindingSeverity::Damage, VerifyCheck::ArchivedOutcomes);
            self.findings.report(severity, check, self.location.clone(), [what, effect, remedy]);
        }
    }

    fn report_parsed_otherwise(&self, token: Token, why: &str) {
        let what = format!("the outcome of {token} was not decided again: {why}");
        let effect = "it stays as it was recorded; whether it is what the rule says is not known".to_owned();
        let remedy = "nothing is to be done where another release recorded it, whose parser differs; else compare row and record with a copy of the bucket";
        let parts = [what, effect, remedy.to_owned()];
        self.findings.report(FindingSeverity::Notice, VerifyCheck::Archive, self.location.clone(), parts);
    }

    /// Where the windows of a sample begin, the first one first.
    async fn window_starts(
        &self,
        end: LogCursor,
        count: u64,
        entropy: &Entropy,
    ) -> Result<BTreeSet<LogCursor>, EngineError> {
        let (wanted, segments) = (MAX_SAMPLE_WINDOWS.min(count), &self.manifest.segments);
        let mut starts = BTreeSet::new();
        // More draws than windows: what is younger than the archive's end begins none.
        for seq in ShuffledSeqs::of(segments, entropy).take(20 * usize::try_from(wanted).unwrap_or_default()) {
            if starts.len() as u64 >= wanted {
                break;
            }
            let Some(segment) = segments.iter().find(|segment| segment.seq.contains(&seq)) else { continue };
            let places = self.engine.places(segment, seq..seq + 1).await?;
            let seconds = places.iter().map(|place| LogCursor(place.token.second()));
            starts.extend(seconds.filter(|second| *second < end));
        }
        Ok(starts)
    }

    async fn count_leaks(&self, latest: &ArchiveVersion, figures: &mut ArchiveFigures) {
        let mut leaks = self.archive.leaks(latest);
        loop {
            let leak = match leaks.try_next().await {
                Ok(Some(leak)) => leak,
                Ok(None) => return,
                Err(error) => return self.report_error(&error),
            };
            figures.leaks += 1;
            figures.leak_bytes += leak.size;
            let what = format!("no version of the archive names it, nor ever will, and it has {} bytes", leak.size);
            let remedy = "nothing is to be done: `tidemark gc` deletes it once it is a day old".to_owned();
            let parts = [what, "it takes room".to_owned(), remedy];
            let location = format!("{}/{}", self.location, leak.key);
            self.findings.report(FindingSeverity::Notice, VerifyCheck::Archive, location, parts);
        }
    }

    fn report_difference(&self, token: Token, op: u32, difference: ArchiveDifference) {
        let [what, effect, remedy] = match difference {
            ArchiveDifference::NotArchived => [
                format!("operation {op} of {token} is in the index and not in the archive, which is past its second"),
                "a restore from the archive lacks it".to_owned(),
                "turn cleanup off, so that the entry stays in the log, and restore the archive from a copy of the bucket".to_owned(),
            ],
            ArchiveDifference::NotIndexed => [
                format!("operation {op} of {token} is in the archive and not in the index"),
                "no search finds it".to_owned(),
                "restore the index from a copy of the bucket, or rebuild it from archive and log".to_owned(),
            ],
            ArchiveDifference::Differs(of_what) => [
                format!("operation {op} of {token} has another {of_what} in the archive than in the index"),
                "search and archive contradict each other, and one of them was changed".to_owned(),
                "compare both with the entry in the log, or with a copy of the buckets, and restore the one that was changed".to_owned(),
            ],
        };
        self.report_damage(self.location.clone(), [what, effect, remedy]);
    }

    /// What is damaged of the archive is damage; what cannot be read or understood is not verified.
    fn report_error(&self, error: &SnapshotError) {
        match error {
            SnapshotError::ArchiveDamaged { key, why } => {
                let parts = [why.clone(), DAMAGE_EFFECT.to_owned(), DAMAGE_REMEDY.to_owned()];
                self.report_damage(key.clone(), parts);
            }
            error if error.to_cause().reason == Reason::OwnedByAnother => {
                let [what, _, _] = message_parts(&error_chain(error));
                let parts = [what, DAMAGE_EFFECT.to_owned(), DAMAGE_REMEDY.to_owned()];
                self.report_damage(self.location.clone(), parts);
            }
            error => self.report_unverified(message_parts(&error_chain(error))),
        }
    }

    fn report_damage(&self, location: String, parts: [String; 3]) {
        self.findings.report(FindingSeverity::Damage, VerifyCheck::Archive, location, parts);
    }

    fn report_unverified(&self, parts: [String; 3]) {
        self.findings.report(FindingSeverity::Unverified, VerifyCheck::Archive, self.location.clone(), parts);
    }

    fn report_uncompared(&self, why: &str) {
        let [why, ..] = message_parts(why);
        let what = format!("the rows of the archive were not all compared with the index: {why}");
        let effect = "whether both say the same is not known".to_owned();
        self.report_unverified([what, effect, "mend what is damaged or cannot be read, and verify again".to_owned()]);
    }
}

/// What of `all` lies in none of these ranges, which ascend and do not overlap.
fn gaps_between(ranges: &[Range<LogCursor>], all: Range<LogCursor>) -> Vec<Range<LogCursor>> {
    let starts = std::iter::once(all.start).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([all.end]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use tidemark_store::StoreSecond;

    use super::*;

    #[test]
    fn gaps_and_ranges_are_all_there_is() {
        let cursor = |second| LogCursor(StoreSecond::from_unix(second));
        let gaps = |ranges: &[(u64, u64)]| {
            let ranges: Vec<_> = ranges.iter().map(|(start, end)| cursor(*start)..cursor(*end)).collect();
            let gaps = gaps_between(&ranges, cursor(0)..cursor(10));
            gaps.iter().map(|gap| (gap.start.second().unix(), gap.end.second().unix())).collect::<Vec<_>>()
        };
        assert_eq!(gaps(&[]), [(0, 10)]);
        assert_eq!(gaps(&[(0, 3), (5, 6), (6, 8)]), [(3, 5), (8, 10)]);
        assert_eq!(gaps(&[(2, 2), (4, 10)]), [(0, 2), (2, 4)]);
        assert_eq!(gaps(&[(0, 10)]), []);
    }
}
