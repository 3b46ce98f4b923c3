//! Makes one snapshot: pins, archives, reads again, and only then marks the pin as verified.

use std::{collections::BTreeSet, num::NonZeroUsize, ops::Range, sync::Arc};

use futures::StreamExt as _;
use parking_lot::Mutex;
use tidemark_catalog::{
    CatalogError, IndexChain, IndexPin, LogCursor, Manifest, PinChain, RootChain, SNAPSHOT_OWNER, SnapshotName,
    SnapshotProof, SnapshotRetention, TransactionRejected,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Log, ParameterSchedule};
use tokio::sync::watch;

use super::{
    archive_proof::{ArchivePart, RowSums, prove_archive},
    audit_wait::{overdue_audit, wait_for_audit},
    descriptor_source::DescriptorSource,
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive},
    object_proof::prove_objects,
    pin_renewal::keep_renewed,
    progress::{SnapshotProgress, SnapshotStep},
    settled_records::SettledRecords,
};
use crate::{engine::IndexEngine, mutants};

/// How often the archive is extended once more because another process extended it first.
const MAX_EXTENSIONS: u32 = 16;

/// Makes snapshots of one index. Any number of processes may do so at once, beside the writer, the collector and each other.
pub struct SnapshotMaker {
    /// The log.
    pub log: Log,
    /// Its root.
    pub root: RootChain,
    /// The chain of the open generation, on behalf of the log.
    pub chain: IndexChain,
    /// The pins that the log has in the index.
    pub pins: PinChain,
    /// What reads the index's segments.
    pub engine: Arc<dyn IndexEngine>,
    /// The log's archive.
    pub archive: Arc<dyn LogArchive>,
    /// Where the progress is written.
    pub progress: watch::Sender<SnapshotProgress>,
}

/// What snapshot is wanted.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRequest {
    /// Its name; `None`: one that is made of the store time. Where a run that ended early has left a snapshot of this name, this one
    /// goes on with it, and where one is verified, nothing is left to do.
    pub name: Option<SnapshotName>,
    /// How many verified snapshots stay afterwards. `None`: all of them.
    pub keep_last: Option<NonZeroUsize>,
    /// Whether the archive is left as it is: nothing is added to it and nothing of it is read. The snapshot holds the index alone.
    pub without_archive: bool,
}

/// A snapshot that was made.
#[derive(Clone, Debug)]
pub struct SnapshotReport {
    /// Its name.
    pub name: String,
    /// Its pin, which is verified.
    pub pin: IndexPin,
    /// What was proven of it.
    pub proof: SnapshotProof,
    /// Operations that this run has archived.
    pub archived: u64,
    /// Up to which second the indexer's audit should have come, where it has not: operations before it are not archived although they are
    /// old enough.
    pub audit_overdue: Option<StoreSecond>,
    /// The snapshots and pins that were dropped since they had served their time.
    pub dropped: Vec<String>,
}

/// A pin that was proven, by this run or an earlier one.
struct ProvenPin {
    pin: IndexPin,
    /// Store time of the record with the proof, or an earlier one.
    now: StoreSecond,
    archived: u64,
    audit_overdue: Option<StoreSecond>,
}

/// What the archive has after an extension.
#[derive(Default)]
struct ArchiveExtension {
    version: Option<ArchiveVersion>,
    /// Where the last extension began.
    written_from: LogCursor,
    written: RowSums,
    /// What all extensions of this run wrote.
    archived: u64,
}

impl SnapshotMaker {
    /// Makes a snapshot of the latest manifest.
    ///
    /// It may end at any step, and a later run goes on: with the same pin if it has the same name, and with what is archived in any case.
    ///
    /// # Errors
    ///
    /// Whatever fails, no snapshot is verified that cannot be read. After an unknown outcome ([`SnapshotError::is_unknown`]) the process
    /// has to end.
    pub async fn make(&self, request: &SnapshotRequest) -> Result<SnapshotReport, SnapshotError> {
        self.report(SnapshotStep::Pinning, 0, 0);
        if self.chain.latest().await?.is_none() {
            return Err(SnapshotError::NoIndex { url: self.chain.index().url().to_string() });
        }
        let (name, pin) = self.pin(request).await?;
        // Where nothing is made no verified snapshot has to go: it could be the one that is reported.
        let keep_last = request.keep_last.filter(|_| pin.verified.is_none());
        let made = if let Some(proof) = &pin.verified {
            // Earlier than now, so that less is dropped.
            ProvenPin { pin: pin.clone(), now: proof.time.unwrap_or_default(), archived: 0, audit_overdue: None }
        } else {
            tokio::select! {
                biased;
                made = Box::pin(self.prove(&name, &pin, request.without_archive)) => {
                    self.unless_damaged(&name, &pin, made).await?
                }
                lost = keep_renewed(&self.pins, &name, &pin.list) => return Err(lost.into()),
            }
        };
        let ProvenPin { pin, now, archived, audit_overdue } = made;
        let dropped = self.drop_expired(keep_last, now).await?;
        let proof = pin.verified.clone().ok_or(CatalogError::from(TransactionRejected::Empty))?;
        Ok(SnapshotReport { name, pin, proof, archived, audit_overdue, dropped })
    }

    /// The pin of the latest manifest, or the one that an earlier run of this name has left.
    async fn pin(&self, request: &SnapshotRequest) -> Result<(String, IndexPin), CatalogError> {
        let Some(name) = request.name.as_ref().map(SnapshotName::as_str) else {
            self.await_audit(request).await?;
            return self.pins.pin_dated(&self.chain).await;
        };
        let left = self.pins.register().await?.pins.remove(name);
        if let Some(pin) = left.filter(|pin| pin.owner == SNAPSHOT_OWNER && pin.confirmed) {
            match self.pins.renew(name, &pin.list).await {
                Ok(()) => return Ok((name.to_owned(), pin)),
                // Dropped meanwhile.
                Err(CatalogError::Rejected(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.await_audit(request).await?;
        Ok((name.to_owned(), self.pins.pin(&self.chain, name, SNAPSHOT_OWNER).await?))
    }

    /// Waits, before the index is pinned, until what is old enough can be archived.
    async fn await_audit(&self, request: &SnapshotRequest) -> Result<(), CatalogError> {
        if request.without_archive {
            return Ok(());
        }
        wait_for_audit(&self.chain, &self.root, |done, total| self.report(SnapshotStep::AwaitingAudit, done, total))
            .await
    }

    /// What was made. A pin of what cannot be read is dropped: the next run pins the index as it is then.
    async fn unless_damaged<T>(
        &self,
        name: &str,
        pin: &IndexPin,
        made: Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        if made.as_ref().is_err_and(SnapshotError::is_damage)
            && let Err(error) = self.pins.drop_pin(name, SNAPSHOT_OWNER, &pin.list).await
        {
            tracing::warn!(%error, name, "the pin of damaged objects was not dropped; it is dropped after a day");
        }
        made
    }

    /// Archives what is settled, reads everything again, and marks the pin.
    async fn prove(&self, name: &str, pin: &IndexPin, without_archive: bool) -> Result<ProvenPin, SnapshotError> {
        let manifest = self.pins.read_list(pin).await?;
        let parameters = self.root.state().await?.schedule();
        let settled = SettledRecords::open(&self.engine, &manifest, parameters.clone()).await?;
        let (extension, parameters) = if without_archive {
            (ArchiveExtension::default(), None)
        } else {
            (self.extend(&manifest, &settled, parameters.as_ref()).await?, parameters)
        };
        if mutants::is_read_again() {
            self.read_again(&manifest, &extension, &settled).await?;
        }
        let proof = SnapshotProof::of(&manifest, extension.version.as_ref().map(ArchiveVersion::extent));
        let (pin, now) = self.pins.verify(name, &pin.list, &proof).await?;
        let audit_overdue = parameters.and_then(|parameters| overdue_audit(&manifest, &parameters));
        Ok(ProvenPin { pin, now, archived: extension.archived, audit_overdue })
    }

    /// Adds to the archive what it lacks of the settled operations.
    async fn extend(
        &self,
        manifest: &Manifest,
        settled: &SettledRecords,
        parameters: Option<&ParameterSchedule>,
    ) -> Result<ArchiveExtension, SnapshotError> {
        let up_to = LogCursor(mutants::archived_up_to(manifest.audited, manifest.cursor.second()));
        let up_to = up_to.min(Box::pin(self.settled_end(manifest)).await?);
        let descriptors = DescriptorSource::new(&self.log, parameters);
        let mut archived = 0;
        for _ in 0..MAX_EXTENSIONS {
            let before = self.archive.latest().await?;
            let from = before.as_ref().map(|version| version.end).unwrap_or_default();
            if up_to <= from {
                return Ok(ArchiveExtension {
                    version: before,
                    written_from: from,
                    written: RowSums::default(),
                    archived,
                });
            }
            let written = Arc::new(Mutex::new(RowSums::default()));
            match Box::pin(self.extend_once((settled, &descriptors), from..up_to, manifest, &written)).await {
                Ok(version) => {
                    let written = written.lock().clone();
                    archived += written.operations;
                    // If not, another process has extended it first: what is there is compared with the index row by row.
                    if has_grown_by(&written, before.as_ref(), &version) && version.end == up_to {
                        return Ok(ArchiveExtension { version: Some(version), written_from: from, written, archived });
                    }
                }
                Err(SnapshotError::Overtaken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (chain, attempts) = (self.chain.index().url().to_string(), MAX_EXTENSIONS);
        Err(CatalogError::Conflicts { chain, attempts }.into())
    }

    /// Up to where the index has settled its operations, if the generation of `manifest` was replaced since that was pinned: one that was restored
    /// may look at some of them once more, and decide them otherwise.
    async fn settled_end(&self, manifest: &Manifest) -> Result<LogCursor, CatalogError> {
        let open = self.chain.clone().follow().await?.latest().await?.map(|latest| latest.state);
        let replacing = open.filter(|open| open.generation != manifest.generation);
        Ok(replacing.map_or(LogCursor(StoreSecond::KSUID_END), |open| LogCursor(open.audited)))
    }

    async fn extend_once(
        &self,
        (settled, descriptors): (&SettledRecords, &DescriptorSource),
        seconds: Range<LogCursor>,
        manifest: &Manifest,
        written: &Arc<Mutex<RowSums>>,
    ) -> Result<ArchiveVersion, SnapshotError> {
        let (up_to, seconds) = (seconds.end, seconds.start.second()..seconds.end.second());
        let (sums, progress, total) = (written.clone(), self.progress.clone(), settled.estimate(&seconds));
        self.report(SnapshotStep::Archiving, 0, total);
        let rows = settled.records(seconds, descriptors.clone()).map(move |row| {
            let (row, mut sums) = (row?, sums.lock());
            sums.insert(&row)?;
            progress.send_replace(SnapshotProgress { step: SnapshotStep::Archiving, done: sums.operations, total });
            Ok(row)
        });
        self.archive.extend(rows.boxed(), up_to, &manifest.generation).await
    }

    /// Reads what was pinned, and what was archived since the snapshot before.
    async fn read_again(
        &self,
        manifest: &Manifest,
        extension: &ArchiveExtension,
        settled: &SettledRecords,
    ) -> Result<(), SnapshotError> {
        let total = manifest.totals.bytes;
        self.report(SnapshotStep::ReadingObjects, 0, total);
        prove_objects(self.chain.index(), manifest, |bytes| self.advance(bytes)).await?;
        let Some(version) = &extension.version else { return Ok(()) };
        let register = self.pins.register().await?;
        let proven = register.snapshots().iter().map(|(_, _, proof)| proof.archive_end()).max().unwrap_or_default();
        let part = ArchivePart {
            version,
            from: proven.min(extension.written_from),
            written_from: extension.written_from,
            to: LogCursor(mutants::archived_up_to(manifest.audited, manifest.cursor.second())),
            written: extension.written.clone(),
        };
        let total = settled.estimate(&(part.from.second()..part.to.second()));
        self.report(SnapshotStep::ReadingArchive, 0, total);
        // In a box, as what archives is: every future that makes a snapshot holds it.
        Box::pin(prove_archive(&*self.archive, &part, settled, || self.advance(1))).await
    }

    /// Drops the snapshots that have served their time.
    async fn drop_expired(
        &self,
        keep_last: Option<NonZeroUsize>,
        now: StoreSecond,
    ) -> Result<Vec<String>, CatalogError> {
        let floor = self.root.state().await?.floor.map(|floor| floor.second).unwrap_or_default();
        let open = self.chain.latest().await?.map(|latest| latest.state);
        let replaced = match open {
            Some(open) => self.pins.replaced_lists(&open).await?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        self.pins.drop_expired(&SnapshotRetention { keep_last, floor, now, replaced, copy_of: None }).await
    }

    fn report(&self, step: SnapshotStep, done: u64, total: u64) {
        self.progress.send_replace(SnapshotProgress { step, done, total });
    }

    fn advance(&self, by: u64) {
        self.progress.send_modify(|progress| progress.done += by);
    }
}

/// Whether the archive has grown by exactly what was written.
fn has_grown_by(written: &RowSums, before: Option<&ArchiveVersion>, after: &ArchiveVersion) -> bool {
    let (operations, digest) = before.map(|before| (before.operations, before.digest)).unwrap_or_default();
    after.operations.checked_sub(operations) == Some(written.operations)
        && after.digest.without(&digest) == written.digest
}
