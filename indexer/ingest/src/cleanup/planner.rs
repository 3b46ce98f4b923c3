//! What may go now: reads, and changes nothing.

use tidemark_catalog::{
    ArchiveExtent, CatalogError, CleanupPlan, LogCursor, PinChain, RootChain, RootState, TransactionRejected,
};
use tidemark_store::{StoreClock, StoreSecond};
use tidemark_wal::{ListedEntry, LogReader};

use super::{
    error::CleanupError,
    log_survey::{LogSurvey, oldest_within},
    retention_rules::{CleanupRules, RuleVerdict, VouchingSnapshot, vouching_snapshot},
};
use crate::{
    mutants,
    snapshot::{ArchiveVersion, LogArchive},
};

/// Finds out what may go.
pub(super) struct CleanupPlanner<'a> {
    pub(super) reader: &'a LogReader,
    pub(super) root: &'a RootChain,
    /// The name of the index on whose behalf the log is cleaned up.
    pub(super) index: &'a str,
    pub(super) pins: &'a PinChain,
    pub(super) archive: &'a dyn LogArchive,
    pub(super) clock: &'a StoreClock,
}

/// What may go, and why other entries may not.
#[derive(Debug)]
pub(super) struct CleanupOutlook {
    /// Store time.
    pub(super) time: StoreSecond,
    pub(super) rules: Vec<RuleVerdict>,
    pub(super) survey: LogSurvey,
    /// Entries of the seconds below it may go.
    pub(super) to: LogCursor,
    /// The log's floor, as it is.
    pub(super) floor: LogCursor,
    /// What is to be done; `None` where there is nothing to delete.
    pub(super) work: Option<PlannedWork>,
}

/// A plan with the archive's version that it names.
#[derive(Debug)]
pub(super) struct PlannedWork {
    pub(super) plan: CleanupPlan,
    pub(super) version: ArchiveVersion,
}

/// A rule on how much the log may have.
struct SizeRule {
    flag: &'static str,
    unit: &'static str,
    limit: Option<u64>,
    found: u64,
    /// What one entry counts.
    weigh: fn(&ListedEntry) -> u64,
}

impl CleanupPlanner<'_> {
    /// What may go by these rules.
    pub(super) async fn look(&self, rules: &CleanupRules) -> Result<CleanupOutlook, CleanupError> {
        let time = self.clock.probe().await?.now;
        let root = self.root.state().await?;
        if !root.indexes.contains_key(self.index) {
            let rejected = TransactionRejected::NotRegistered { what: "index", name: self.index.to_owned() };
            return Err(CatalogError::from(rejected).into());
        }
        let register = self.pins.register().await?;
        if register.snapshots().is_empty() {
            return Err(CleanupError::NoVerifiedSnapshot { index: self.index.to_owned() });
        }
        let mut verdicts = rules.verdicts(time, &register, &root);
        let unverified = if mutants::is_snapshot_needed() { None } else { self.archive.latest().await? };
        if let (Some(latest), Some(of_snapshots)) = (&unverified, verdicts.get_mut(1)) {
            of_snapshots.to = latest.end;
        }
        let bounds: Vec<_> = verdicts.iter().map(|verdict| verdict.to).collect();
        let survey = LogSurvey::of(self.reader, &bounds).await?;
        for (verdict, held_back) in verdicts.iter_mut().zip(&survey.held_back) {
            verdict.held_back = *held_back;
        }
        let surplus = self.surplus(rules, &survey).await?;
        let of_rules = verdicts.iter().map(|verdict| (verdict.to, survey.entries - verdict.held_back)).min();
        let of_surplus = surplus.iter().map(|verdict| (verdict.to, survey.entries - verdict.held_back)).max();
        let (to, entries_below) = of_rules.into_iter().chain(of_surplus).min().unwrap_or_default();
        verdicts.extend(surplus);
        let floor = root.floor.as_ref().map(|floor| floor.second).unwrap_or_default();
        let work = if entries_below == 0 {
            None
        } else {
            let of_latest = |latest: ArchiveVersion| VouchingSnapshot { name: String::new(), extent: latest.extent() };
            let snapshot = unverified.map(of_latest).or_else(|| vouching_snapshot(&register, to));
            // The bound of the snapshots is that of the first one of them.
            let snapshot = snapshot.ok_or_else(|| CleanupError::NoVerifiedSnapshot { index: self.index.to_owned() })?;
            Some(self.work(to, &root, snapshot).await?)
        };
        Ok(CleanupOutlook { time, rules: verdicts, survey, to, floor, work })
    }

    /// What rules on the size of the log let go.
    async fn surplus(&self, rules: &CleanupRules, survey: &LogSurvey) -> Result<Vec<RuleVerdict>, CleanupError> {
        let mut verdicts = Vec::new();
        let of_entries = SizeRule {
            flag: "--max-entries",
            unit: "entries",
            limit: rules.max_entries,
            found: survey.entries,
            weigh: |_| 1,
        };
        let of_bytes = SizeRule {
            flag: "--max-size",
            unit: "bytes",
            limit: rules.max_bytes,
            found: survey.bytes,
            weigh: |entry| entry.size,
        };
        for SizeRule { flag, unit, limit, found, weigh } in [of_entries, of_bytes] {
            let Some(limit) = limit else { continue };
            let (to, below) = oldest_within(self.reader, found.saturating_sub(limit), weigh).await?;
            let why = format!("the log has {found} {unit}, and {limit} may stay");
            verdicts.push(RuleVerdict {
                rule: flag.to_owned(),
                to,
                held_back: survey.entries.saturating_sub(below),
                why,
            });
        }
        Ok(verdicts)
    }

    /// The plan for the seconds below `to`. Refused where the archive is not the one that the snapshot was made with, or not the one
    /// that holds what lies below the floor.
    async fn work(
        &self,
        to: LogCursor,
        root: &RootState,
        snapshot: VouchingSnapshot,
    ) -> Result<PlannedWork, CleanupError> {
        let (archive, mut extent) = (self.archive.url(), snapshot.extent);
        let by = format!("snapshot \"{}\"", snapshot.name);
        let mut version = self.version(&extent, &by).await?;
        let mut floor = to;
        if let Some(known) = &root.floor {
            if known.archive != archive {
                return Err(CleanupError::OtherArchive { archive, known: known.archive.clone() });
            }
            let of_floor = self.version(&known.extent, "the log's floor").await?;
            floor = floor.max(known.second);
            // The snapshot that the floor was raised with may be gone by now.
            if known.extent.version > extent.version {
                (extent, version) = (known.extent.clone(), of_floor);
            }
        }
        let plan = CleanupPlan { made: None, to, floor, archive, extent, snapshot: snapshot.name };
        Ok(PlannedWork { plan, version })
    }

    async fn version(&self, extent: &ArchiveExtent, by: &str) -> Result<ArchiveVersion, CleanupError> {
        let replaced = || CleanupError::ArchiveReplaced {
            archive: self.archive.url(),
            version: extent.version,
            by: by.to_owned(),
        };
        self.archive.remembered_version(extent).await?.ok_or_else(replaced)
    }
}
