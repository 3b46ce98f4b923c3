//! The order of a verification.

use std::sync::Arc;

use serde::Serialize;
use tidemark_catalog::{
    CatalogError, GarbageCounts, GarbageSurvey, Generation, IndexChain, LogCursor, LogId, Manifest, PinChain, RootChain,
};
use tidemark_crds::Reason;
use tidemark_store::{ChainRecord, Entropy, Store, error_chain};
use tidemark_wal::Log;

use super::{
    archive_check::{ArchiveCheck, ArchiveFigures},
    chain_check::ChainCheck,
    finding::{FindingLog, FindingSeverity, VerifyCheck, VerifyObserver, message_parts},
    garbage_check::check_garbage,
    object_check::ObjectCheck,
    outcome_check::{OutcomeCheck, OutcomeFigures, OutcomeSelection},
};
use crate::{
    cause::{FailureCause, ToCause},
    engine::IndexEngine,
    snapshot::LogArchive,
};

/// Opens the archive that a log has in the store of an index, and touches nothing.
pub type ArchiveOpener = Box<dyn Fn(&Store, &LogId) -> Arc<dyn LogArchive> + Send + Sync>;

/// What a verification checks, and what it may take.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Which outcomes are decided again.
    pub outcomes: OutcomeSelection,
    /// Entries that are read at once.
    pub fetches: usize,
    /// Bytes that entries take in memory while they are read.
    pub entry_memory: u64,
}

/// The folder of all archives, below the index's URL.
const ARCHIVE_FOLDER: &str = "archive";

/// Verifies one index of one log. Writes nothing, anywhere; other processes may write, compact and collect meanwhile.
pub struct IndexVerifier {
    /// The log.
    pub log: Log,
    /// Its root.
    pub root: RootChain,
    /// The store of the index.
    pub index: Store,
    /// Reads the objects of the index.
    pub engine: Arc<dyn IndexEngine>,
    /// Gives the log's archive.
    pub archive: ArchiveOpener,
    /// For the chains, which draw their pauses from it.
    pub entropy: Entropy,
    /// What to check.
    pub options: VerifyOptions,
}

/// What a verification read, and how much of it is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySummary {
    /// The generation that was verified; absent where the root is too damaged to find it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The number of its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<u64>,
    /// Every entry below this second is in the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<LogCursor>,
    /// The log's floor; absent where nothing was cleaned up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<LogCursor>,
    /// Records of the index, corrected ones included.
    pub records: u64,
    /// Records of chains that were read.
    pub chain_records: u64,
    /// Segments and sidecars that were read.
    pub objects: u64,
    /// Bytes of chains and objects that were read.
    pub bytes: u64,
    /// Pins of the index.
    pub snapshots: u64,
    /// Objects that were replaced and deleted meanwhile.
    pub replaced: u64,
    /// What came of the archive; absent where there is none or its latest version cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveFigures>,
    /// Findings of damage that are about the archive.
    pub archive_damage: u64,
    /// What came of the outcomes; absent where the index cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<OutcomeFigures>,
    /// What nothing names; absent where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub garbage: Option<GarbageCounts>,
    /// Findings of damage.
    pub damage: u64,
    /// What could not be read.
    pub unverified: u64,
    /// Findings that are no fault of the index.
    pub notices: u64,
}

/// Why there is nothing to verify. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The log has no root.
    #[error("\"{log}\" is no log that was ever indexed; nothing was verified; correct --log")]
    NeverIndexed {
        /// The log.
        log: String,
    },
    /// The prefix holds no index.
    #[error("\"{index}\" holds no index; nothing was verified; correct --index")]
    NoIndex {
        /// The index.
        index: String,
    },
    /// The index is not this log's, or cannot be opened.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl VerifySummary {
    /// Whether nothing of what the index holds was compared with log or archive, and the log was looked at nowhere, though there are
    /// records: it says nothing then but that objects are whole.
    pub fn looked_at_nothing(&self) -> bool {
        let OutcomeFigures { operations, entries, .. } = self.outcomes.unwrap_or_default();
        let compared = self.archive.map_or(0, |archive| archive.compared);
        self.records > 0 && operations + entries + compared == 0
    }
}

impl ToCause for VerifyError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::NeverIndexed { log } => FailureCause::at(Reason::InvalidURL, log),
            Self::NoIndex { index } => FailureCause::at(Reason::InvalidURL, index),
            Self::Catalog(error) => error.to_cause(),
        }
    }
}

impl IndexVerifier {
    /// Verifies chains, objects, pins, the archive, outcomes, and looks for leaks, in this order. What is wrong is reported to `observer`, and does not
    /// end it: what cannot be checked without a damaged object is reported as unverified.
    ///
    /// # Errors
    ///
    /// Where there is nothing to verify, and where the index is refused to this log.
    pub async fn run(&self, observer: &dyn VerifyObserver) -> Result<VerifySummary, VerifyError> {
        let findings = FindingLog::new(observer);
        let mut summary = VerifySummary::default();
        self.check(&findings, &mut summary).await?;
        let of_archive = [VerifyCheck::Archive, VerifyCheck::ArchivedOutcomes];
        summary.archive_damage =
            of_archive.into_iter().map(|check| findings.count_of(FindingSeverity::Damage, check)).sum();
        summary.damage = findings.count(FindingSeverity::Damage);
        summary.unverified = findings.count(FindingSeverity::Unverified);
        summary.notices = findings.count(FindingSeverity::Notice);
        Ok(summary)
    }

    async fn check(&self, findings: &FindingLog<'_>, summary: &mut VerifySummary) -> Result<(), VerifyError> {
        let mut chains = ChainCheck { findings, records: 0, bytes: 0 };
        chains.check_root(&self.root).await;
        let root = match self.root.state().await {
            Ok(root) => root,
            // The check of the chain has named what is damaged, and where it is.
            Err(error @ (CatalogError::Corrupt { .. } | CatalogError::NewerFormat { .. })) => {
                self.report_unverified(findings, VerifyCheck::Objects, &error);
                (summary.chain_records, summary.bytes) = (chains.records, chains.bytes);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let Some(log) = root.id.clone() else {
            return Err(VerifyError::NeverIndexed { log: self.log.entries.url().to_string() });
        };
        summary.floor = root.floor.as_ref().map(|floor| floor.second);
        chains.check_index(&self.index, &log, &self.entropy).await;
        (summary.chain_records, summary.bytes) = (chains.records, chains.bytes);
        let start = root.generation_of(self.index.url().as_str());
        let Some((chain, latest)) = self.open(start, findings).await? else { return Ok(()) };
        summary.generation = Some(chain.generation().clone());
        summary.manifest = Some(latest.number);
        summary.cursor = Some(latest.state.cursor);
        summary.records = latest.state.totals.records;

        let pins = PinChain::open(&self.index, &log, self.entropy.clone());
        let mut objects = ObjectCheck::new((&chain, &pins), &*self.engine, &latest, findings);
        let corrected = objects.check_latest().await;
        objects.check_pins().await;
        summary.objects = objects.figures.objects;
        summary.bytes += objects.figures.bytes;
        (summary.replaced, summary.snapshots) = (objects.figures.replaced, objects.figures.pins);

        let (archive, schedule) = ((self.archive)(&self.index, &log), root.schedule());
        let check = ArchiveCheck {
            index: &self.index,
            location: self.index.url_of(&format!("{ARCHIVE_FOLDER}/{log}")),
            archive: &*archive,
            pins: &pins,
            engine: &self.engine,
            manifest: &latest.state,
            floor: root.floor.as_ref(),
            schedule: schedule.as_ref(),
            findings,
        };
        summary.archive = check.run(self.options.outcomes).await;
        summary.bytes += summary.archive.map_or(0, |figures| figures.bytes);

        match (corrected, &schedule) {
            (Some(corrected), Some(schedule)) => {
                let check = OutcomeCheck {
                    log: &self.log,
                    root: &self.root,
                    engine: &*self.engine,
                    manifest: &latest.state,
                    corrected: &corrected,
                    schedule,
                    fetches: self.options.fetches,
                    entry_memory: self.options.entry_memory,
                    findings,
                };
                match check.run(self.options.outcomes).await {
                    Ok(figures) => {
                        summary.outcomes = Some(figures);
                        self.report_unlooked(findings, summary);
                    }
                    Err(error) => self.report_uncompared(findings, &error_chain(&error)),
                }
            }
            (None, _) => self.report_uncompared(findings, "which records were corrected is not known"),
            (_, None) => self.report_uncompared(findings, "the log has no parameters"),
        }
        let survey = GarbageSurvey::new(&self.index, &log, self.entropy.clone());
        summary.garbage = check_garbage(&self.index, &survey, findings).await;
        Ok(())
    }

    /// The open generation with its latest manifest; `None` where a record is damaged on the way.
    async fn open(
        &self,
        start: Generation,
        findings: &FindingLog<'_>,
    ) -> Result<Option<(IndexChain, ChainRecord<Manifest>)>, VerifyError> {
        let opened = async {
            let chain = IndexChain::open(&self.index, start, self.entropy.clone()).for_log(&self.root);
            let chain = chain.follow().await?;
            let latest = chain.latest().await?;
            Ok::<_, CatalogError>((chain, latest))
        };
        match opened.await {
            Ok((chain, Some(latest))) => Ok(Some((chain, latest))),
            Ok((_, None)) => Err(VerifyError::NoIndex { index: self.index.url().to_string() }),
            Err(error @ (CatalogError::Corrupt { .. } | CatalogError::NewerFormat { .. })) => {
                self.report_unverified(findings, VerifyCheck::Objects, &error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A run that looked at no entry ends well, and must not be taken for one that did.
    fn report_unlooked(&self, findings: &FindingLog<'_>, summary: &VerifySummary) {
        if !summary.looked_at_nothing() {
            return;
        }
        let (records, why) = (
            summary.records,
            match (self.options.outcomes, summary.floor) {
                (OutcomeSelection::Sample { count: 0, .. }, _) => "the sample is empty".to_owned(),
                (_, Some(floor)) => {
                    format!("the log was cleaned up to {floor}, and no archive that was read has what lies below")
                }
                (_, None) => "neither the log nor an archive that was read has one that is settled".to_owned(),
            },
        );
        let what = format!("no entry was looked at, though the index has {records} records: {why}");
        let effect = "the run says of objects alone whether they are whole, and nothing of whether search says what log and archive say".to_owned();
        let remedy =
            "verify with a larger sample, or take a snapshot, which extends the archive, and verify again".to_owned();
        let (severity, check) = (FindingSeverity::Notice, VerifyCheck::Outcomes);
        findings.report(severity, check, self.index.url().as_str(), [what, effect, remedy]);
    }

    fn report_uncompared(&self, findings: &FindingLog<'_>, why: &str) {
        let [why, ..] = message_parts(why);
        let what = format!("outcomes were not compared with the log: {why}");
        let effect = "whether search says what the log says is not known".to_owned();
        let remedy = "mend what is damaged or cannot be read, and verify again".to_owned();
        let (severity, check) = (FindingSeverity::Unverified, VerifyCheck::Outcomes);
        findings.report(severity, check, self.index.url().as_str(), [what, effect, remedy]);
    }

    fn report_unverified(&self, findings: &FindingLog<'_>, check: VerifyCheck, error: &CatalogError) {
        let [why, ..] = message_parts(&error_chain(error));
        let what = format!("the objects of the index were not verified: {why}");
        let effect = "whether they are there and whole is not known".to_owned();
        let remedy = "mend the chain first, and verify again".to_owned();
        findings.report(FindingSeverity::Unverified, check, self.index.url().as_str(), [what, effect, remedy]);
    }
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::TransactionRejected;

    use super::*;

    #[test]
    fn what_there_is_nothing_to_verify_of_names_the_remedy() {
        let error = VerifyError::NeverIndexed { log: "s3://log".to_owned() };
        assert!(error.to_string().contains("correct --log"));
        assert_eq!(error.to_cause().reason, Reason::InvalidURL);
        let moved =
            TransactionRejected::LogMoved { url: String::new(), log: String::new(), claimed: "s3://old".to_owned() };
        assert_eq!(VerifyError::from(CatalogError::from(moved)).to_cause().reason, Reason::LogMoved);
    }
}
