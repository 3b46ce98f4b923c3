//! The objects that an index consists of: each is there, has the bytes that the manifest names, and holds the records that it counts.

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use futures::{StreamExt as _, stream};
use roaring::RoaringTreemap;
use tidemark_catalog::{CatalogError, IndexChain, IndexPin, Manifest, PinChain, SegmentMeta, SidecarMeta};
use tidemark_store::{ChainRecord, StoreError, error_chain};

use super::finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts};
use crate::engine::{EngineError, IndexEngine, RecordMarks, RecordStats};

/// Segments that are read at once: of one the bytes are fetched while of the other the records are decoded.
const MAX_CONCURRENT_SEGMENTS: usize = 2;

/// Checks the objects of the latest manifest, then those that pins name beside them.
pub(super) struct ObjectCheck<'a> {
    pub(super) chain: &'a IndexChain,
    pub(super) pins: &'a PinChain,
    pub(super) engine: &'a dyn IndexEngine,
    pub(super) latest: &'a ChainRecord<Manifest>,
    pub(super) findings: &'a FindingLog<'a>,
    /// Keys of the objects that were checked, whatever came of it.
    checked: BTreeSet<String>,
    pub(super) figures: ObjectFigures,
}

/// What was read of objects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ObjectFigures {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Objects that compaction replaced and a collector deleted meanwhile.
    pub(super) replaced: u64,
    pub(super) pins: u64,
}

/// What the sidecars of the latest manifest say.
struct CheckedMarks {
    /// The corrected records, by sidecar; empty where one cannot be read.
    groups: Arc<[RoaringTreemap]>,
    /// Whether all could be read.
    complete: bool,
}

impl<'a> ObjectCheck<'a> {
    pub(super) fn new(
        (chain, pins): (&'a IndexChain, &'a PinChain),
        engine: &'a dyn IndexEngine,
        latest: &'a ChainRecord<Manifest>,
        findings: &'a FindingLog<'a>,
    ) -> Self {
        let (checked, figures) = (BTreeSet::new(), ObjectFigures::default());
        Self { chain, pins, engine, latest, findings, checked, figures }
    }

    /// Checks the latest manifest. Gives the seqs of the records that are corrected; `None` where a sidecar cannot be read.
    pub(super) async fn check_latest(&mut self) -> Option<RoaringTreemap> {
        let latest = self.latest;
        let manifest = &latest.state;
        let marks = self.check_marks(manifest).await;
        let mut corrected = vec![RecordStats::default(); manifest.sidecars.len()];
        let mut complete = marks.complete;
        let (chain, engine, groups) = (self.chain, self.engine, &marks.groups);
        // Owned, here and where outcomes are compared: a closure that takes a reference keeps a verification from being a task.
        let read = |segment: SegmentMeta| async move {
            let read = read_segment(chain, engine, &segment, groups.clone()).await;
            (segment, read)
        };
        let mut read = pin!(stream::iter(manifest.segments.clone()).map(read).buffered(MAX_CONCURRENT_SEGMENTS));
        while let Some((segment, read)) = read.next().await {
            let checked = self.check_segment(VerifyCheck::Objects, &segment, read).await;
            let Some((_, groups)) = checked.as_deref().and_then(<[RecordStats]>::split_first) else {
                complete = false;
                continue;
            };
            if marks.complete {
                self.check_unsettled(&segment, groups);
            }
            for (sum, group) in corrected.iter_mut().zip(groups) {
                *sum = [*sum, *group].into_iter().sum();
            }
        }
        if complete {
            for (sidecar, found) in manifest.sidecars.iter().zip(corrected) {
                self.check_corrected(sidecar, &found);
            }
        }
        let union = |mut union: RoaringTreemap, group: &RoaringTreemap| {
            union |= group;
            union
        };
        marks.complete.then(|| marks.groups.iter().fold(RoaringTreemap::new(), union))
    }

    /// Checks what pins name: their lists, and the objects that the latest manifest does not name any more.
    pub(super) async fn check_pins(&mut self) {
        let register = match self.pins.register().await {
            Ok(register) => register,
            Err(error) => return self.report_chain_error(self.pins.chain().store().url().as_str(), &error),
        };
        for (name, pin) in &register.pins {
            self.figures.pins += 1;
            match self.pins.read_list(pin).await {
                Ok(manifest) => {
                    self.check_generation(name, pin, &manifest);
                    // Before it is confirmed a pin holds nothing back: what it names may be gone.
                    if pin.confirmed {
                        self.check_pinned(&manifest).await;
                    }
                }
                // It may have been dropped meanwhile, and its list with it.
                Err(_) if self.is_dropped(name, pin).await => {}
                Err(error) => {
                    let location = self.chain.index().url_of(&pin.list);
                    if let CatalogError::Corrupt { why, .. } = &error {
                        let what = format!("the list of snapshot \"{name}\" cannot be used: {why}");
                        let effect =
                            "nothing can be restored from this snapshot, and no garbage is collected".to_owned();
                        let remedy = "restore the object from the bucket's versions or a copy, or drop the snapshot";
                        let parts = [what, effect, remedy.to_owned()];
                        self.findings.report(FindingSeverity::Damage, VerifyCheck::Snapshots, location, parts);
                    } else {
                        self.report_chain_error(&location, &error);
                    }
                }
            }
        }
    }

    fn check_generation(&self, name: &str, pin: &IndexPin, manifest: &Manifest) {
        if manifest.generation != pin.generation {
            let what = format!("the list of snapshot \"{name}\" is of generation {}", manifest.generation);
            let effect = format!("nothing can be restored from it as {}", pin.generation);
            let parts = [what, effect, "drop the snapshot, and make another".to_owned()];
            let location = self.chain.index().url_of(&pin.list);
            self.findings.report(FindingSeverity::Damage, VerifyCheck::Snapshots, location, parts);
        }
    }

    async fn check_pinned(&mut self, manifest: &Manifest) {
        for sidecar in &manifest.sidecars {
            if self.checked.insert(sidecar.key.clone()) {
                self.check_sidecar(VerifyCheck::Snapshots, sidecar, manifest.next_seq).await;
            }
        }
        let groups: Arc<[RoaringTreemap]> = Arc::from([]);
        for segment in &manifest.segments {
            if self.checked.insert(segment.key.clone()) {
                let read = read_segment(self.chain, self.engine, segment, groups.clone()).await;
                self.check_segment(VerifyCheck::Snapshots, segment, read).await;
            }
        }
    }

    async fn check_marks(&mut self, manifest: &Manifest) -> CheckedMarks {
        let (mut groups, mut complete) = (Vec::with_capacity(manifest.sidecars.len()), true);
        let mut union = RoaringTreemap::new();
        for sidecar in &manifest.sidecars {
            self.checked.insert(sidecar.key.clone());
            let marks = self.check_sidecar(VerifyCheck::Objects, sidecar, manifest.next_seq).await;
            complete &= marks.is_some();
            let marks = marks.unwrap_or_default();
            if !union.is_disjoint(&marks.corrected) {
                let what = "it marks a record as corrected that another sidecar marks, too".to_owned();
                self.report_damage(VerifyCheck::Objects, &sidecar.key, what);
            }
            union |= &marks.corrected;
            groups.push(marks.corrected);
        }
        CheckedMarks { groups: groups.into(), complete }
    }

    /// The marks of a sidecar that is what the manifest says.
    async fn check_sidecar(&mut self, check: VerifyCheck, sidecar: &SidecarMeta, next_seq: u64) -> Option<RecordMarks> {
        let SidecarMeta { key, size, causes, corrected, outdated, .. } = sidecar;
        self.checked.insert(key.clone());
        let read = async {
            check_size(self.chain, key, *size).await?;
            self.engine.read_marks(sidecar).await
        };
        let read = read.await;
        let marks = self.outcome_of(check, key, *size, read).await?;
        let (found_corrected, found_outdated) = (marks.corrected.len(), marks.outdated.len());
        if (found_corrected, found_outdated) != (*corrected, *outdated) {
            let what = format!(
                "it marks {found_corrected} records as corrected and {found_outdated} as outdated, the manifest says {corrected} and \
                 {outdated}"
            );
            self.report_damage(check, key, what);
        }
        let last = marks.corrected.max().max(marks.outdated.max());
        if last.is_some_and(|last| last >= next_seq) || marks.corrected.max().is_some_and(|last| last >= causes.end) {
            self.report_damage(
                check,
                key,
                format!("it marks seq {last:?}, which no record has that its causes follow"),
            );
        }
        Some(marks)
    }

    /// The stats of a segment's records, and of each group of them, if they are those that the manifest says.
    async fn check_segment(
        &mut self,
        check: VerifyCheck,
        segment: &SegmentMeta,
        read: Result<Vec<RecordStats>, EngineError>,
    ) -> Option<Vec<RecordStats>> {
        let SegmentMeta { key, size, .. } = segment;
        self.checked.insert(key.clone());
        let stats = self.outcome_of(check, key, *size, read).await?;
        let (wanted, found) = (RecordStats::of(segment), stats.first().copied().unwrap_or_default());
        if wanted == found {
            return Some(stats);
        }
        let what = format!(
            "its records are not those that the manifest counts: {} with digest {} instead of {} with digest {}",
            found.records, found.digest, wanted.records, wanted.digest
        );
        self.report_damage(check, key, what);
        None
    }

    fn check_unsettled(&self, segment: &SegmentMeta, groups: &[RecordStats]) {
        let corrected: u64 = groups.iter().map(|group| group.counts.unsettled()).sum();
        let found = segment.counts.unsettled().saturating_sub(corrected);
        if found != segment.unsettled {
            let what = format!("{found} of its records are unsettled, the manifest says {}", segment.unsettled);
            self.report_damage(VerifyCheck::Objects, &segment.key, what);
        }
    }

    fn check_corrected(&self, sidecar: &SidecarMeta, found: &RecordStats) {
        if (found.counts, found.digest) != (sidecar.counts, sidecar.digest) {
            let what = format!(
                "the records that it marks as corrected have digest {}, the manifest says {}",
                found.digest, sidecar.digest
            );
            self.report_damage(VerifyCheck::Objects, &sidecar.key, what);
        }
    }

    /// What was read, if it could be and is right. An object that nothing names any more was replaced meanwhile.
    async fn outcome_of<T>(
        &mut self,
        check: VerifyCheck,
        key: &str,
        size: u64,
        read: Result<T, EngineError>,
    ) -> Option<T> {
        self.figures.objects += 1;
        self.findings.progress(check, self.figures.objects, 0);
        let error = match read {
            Ok(read) => {
                self.figures.bytes += size;
                return Some(read);
            }
            Err(error) => error,
        };
        let what = match &error {
            EngineError::Damaged { why, .. } => why.clone(),
            EngineError::Gone { .. } | EngineError::Store(StoreError::Absent { .. }) => "it does not exist".to_owned(),
            other => {
                let parts = message_parts(&error_chain(other));
                self.findings.report(FindingSeverity::Unverified, check, self.chain.index().url_of(key), parts);
                return None;
            }
        };
        if self.is_named(key).await {
            self.report_damage(check, key, what);
        } else {
            self.figures.replaced += 1;
        }
        None
    }

    /// Whether the latest manifest or a pin that counts names the object now. Where that cannot be read, it is: what is wrong with it is reported.
    ///
    /// A generation that the index has left needs none of its objects, whatever its closing record names: a pin may.
    async fn is_named(&self, key: &str) -> bool {
        let Ok(newer) = self.chain.chain().latest_after(self.latest).await else { return true };
        let latest = &newer.as_ref().unwrap_or(self.latest).state;
        if latest.closed.is_none() && latest.objects().any(|named| named == key) {
            return true;
        }
        let Ok(register) = self.pins.register().await else { return true };
        for (name, pin) in register.pins.iter().filter(|(_, pin)| pin.confirmed) {
            match self.pins.read_list(pin).await {
                Ok(manifest) if manifest.objects().all(|named| named != key) => {}
                // It may have been dropped since the register was read, and its list with it.
                _ if self.is_dropped(name, pin).await => {}
                _ => return true,
            }
        }
        false
    }

    /// Whether the pin is gone by now. One that was confirmed or verified meanwhile is the same.
    async fn is_dropped(&self, name: &str, pin: &IndexPin) -> bool {
        let register = self.pins.register().await;
        register.is_ok_and(|register| register.pins.get(name).is_none_or(|now| now.list != pin.list))
    }

    fn report_damage(&self, check: VerifyCheck, key: &str, what: String) {
        let (effect, remedy) = match check {
            VerifyCheck::Snapshots => (
                "what is in it cannot be restored from that snapshot",
                "restore the object from the bucket's versions or a copy of the bucket, or make another snapshot",
            ),
            _ => (
                "its entries can be neither indexed nor searched",
                "restore the object from the bucket's versions or a copy of the bucket, or rebuild the index",
            ),
        };
        let parts = [what, effect.to_owned(), remedy.to_owned()];
        self.findings.report(FindingSeverity::Damage, check, self.chain.index().url_of(key), parts);
    }

    fn report_chain_error(&self, location: &str, error: &CatalogError) {
        let parts = message_parts(&error_chain(error));
        self.findings.report(FindingSeverity::Unverified, VerifyCheck::Snapshots, location, parts);
    }
}

/// The stats of a segment's records, and of each group of them: all bytes are read and compared with the checksum.
async fn read_segment(
    chain: &IndexChain,
    engine: &dyn IndexEngine,
    segment: &SegmentMeta,
    groups: Arc<[RoaringTreemap]>,
) -> Result<Vec<RecordStats>, EngineError> {
    check_size(chain, &segment.key, segment.size).await?;
    engine.verified_stats(segment, groups).await
}

/// An object that is longer than the manifest says begins with the right bytes perhaps.
async fn check_size(chain: &IndexChain, key: &str, size: u64) -> Result<(), EngineError> {
    match chain.index().head(key).await? {
        Some(info) if info.size == size => Ok(()),
        Some(info) => {
            let why = format!("it has {} bytes, the manifest says {size}", info.size);
            Err(EngineError::Damaged { key: key.to_owned(), why })
        }
        None => Err(EngineError::Gone { key: key.to_owned() }),
    }
}
