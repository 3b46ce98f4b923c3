//! The settled operations of a manifest in token order.
//!
//! Records lie in segments by seq. Seqs mostly ascend as tokens do, but corrections and what was found late stand behind. So a run
//! goes through the seconds slice by slice: of each slice it collects where its records are, without their content, sorts these
//! places, and then reads the records in that order. Memory holds the places of one slice and a few records.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use roaring::RoaringTreemap;
use tidemark_catalog::{Generation, Manifest, SegmentMeta};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, ParameterSchedule, Token};

use super::{
    descriptor_source::DescriptorSource,
    error::SnapshotError,
    log_archive::{SettledRecord, SettledStream},
};
use crate::{
    engine::{EngineError, IndexEngine, IndexLookup, RecordPlace},
    mutants,
    record::OperationRecord,
};

/// How many places of records are held at most, if no second has more: 8 MiB.
const MAX_SLICE_PLACES: usize = 200_000;
/// How many places are asked for at once.
const PLACES_CHUNK: u64 = 50_000;
/// How many records are read at once at most, and at first.
const MAX_CHUNK_RECORDS: u64 = 512;
const FIRST_CHUNK_RECORDS: u64 = 16;
/// What the records that are read at once take in memory, if each is as large as the largest one so far.
const CHUNK_BYTES: u64 = 8 << 20;

/// Where an operation is that stands. It is settled unless its entry is unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SettledPlace {
    pub(super) place: RecordPlace,
    /// Whether the generation has a record of its entry that says that it could not be read.
    pub(super) was_unreadable: bool,
    /// Whether its entry could not be read so far. A later manifest may have it, and so an archive that was extended from that.
    pub(super) is_unread: bool,
}

impl SettledPlace {
    pub(super) fn key(&self) -> (Token, u32) {
        (self.place.token, self.place.op)
    }
}

/// An operation that stands, and its record.
pub(super) type PlacedRecord = (SettledPlace, OperationRecord);

/// Which operations of a manifest are settled: each of the seconds that stands, in an entry none of whose operations is unreadable.
///
/// The audit has had its last look below the manifest's `audited`: only what is unreadable may still be decided there. It is decided for
/// an entry as a whole, so the entry is left out as a whole.
#[derive(Clone)]
pub(crate) struct SettledRecords {
    generation: Generation,
    engine: Arc<dyn IndexEngine>,
    /// By seq.
    segments: Arc<Vec<SegmentMeta>>,
    corrected: Arc<RoaringTreemap>,
    /// The parameters of the log, if it has any.
    schedule: Option<Arc<ParameterSchedule>>,
    /// Keeps the segments open.
    _open: Arc<dyn IndexLookup>,
    max_slice_places: usize,
}

impl SettledRecords {
    /// Of `manifest`, whose objects are pinned.
    pub(crate) async fn open(
        engine: &Arc<dyn IndexEngine>,
        manifest: &Manifest,
        schedule: Option<ParameterSchedule>,
    ) -> Result<Self, EngineError> {
        let mut corrected = RoaringTreemap::new();
        for sidecar in &manifest.sidecars {
            corrected |= engine.read_marks(sidecar).await?.corrected;
        }
        Ok(Self {
            generation: manifest.generation.clone(),
            engine: engine.clone(),
            segments: Arc::new(manifest.segments.clone()),
            corrected: Arc::new(corrected),
            schedule: schedule.map(Arc::new),
            _open: engine.open(manifest).await?,
            max_slice_places: MAX_SLICE_PLACES,
        })
    }

    /// With slices of so many places at most.
    #[cfg(test)]
    pub(super) fn with_slices(self, max_slice_places: usize) -> Self {
        Self { max_slice_places, ..self }
    }

    /// The generation whose seqs the records have.
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// How many records the segments with records of `seconds` hold: at least as many as are settled there.
    pub(super) fn estimate(&self, seconds: &Range<StoreSecond>) -> u64 {
        self.overlapping(seconds).map(|segment| segment.documents).sum()
    }

    /// The places of the operations of `seconds` that stand, settled or not, by (token, op).
    pub(super) fn places(
        &self,
        seconds: Range<StoreSecond>,
    ) -> impl futures::Stream<Item = Result<SettledPlace, EngineError>> + Send + use<> {
        let slices = self.standing_slices(seconds);
        slices.map_ok(|slice| stream::iter(slice.into_iter().map(Ok::<_, EngineError>))).try_flatten()
    }

    /// The operations of `seconds` that stand, settled or not, with their records, by (token, op).
    pub(super) fn placed_records(
        &self,
        seconds: Range<StoreSecond>,
    ) -> impl futures::Stream<Item = Result<PlacedRecord, EngineError>> + Send + use<> {
        self.read_slices(self.standing_slices(seconds))
    }

    /// The operations of `seconds` that stand, settled or not, by (token, op).
    pub(crate) fn standing_records(
        &self,
        seconds: Range<StoreSecond>,
    ) -> impl futures::Stream<Item = Result<OperationRecord, EngineError>> + Send + use<> {
        self.placed_records(seconds).map_ok(|(_, record)| record)
    }

    fn read_slices<S>(
        &self,
        slices: S,
    ) -> impl futures::Stream<Item = Result<PlacedRecord, EngineError>> + Send + use<S>
    where
        S: futures::Stream<Item = Result<Vec<SettledPlace>, EngineError>> + Send,
    {
        let this = self.clone();
        let read = move |slice: Vec<SettledPlace>| {
            let batches =
                RecordBatches { records: this.clone(), places: VecDeque::from(slice), chunk: FIRST_CHUNK_RECORDS };
            stream::try_unfold(batches, RecordBatches::next)
                .map_ok(|batch| stream::iter(batch.into_iter().map(Ok::<_, EngineError>)))
        };
        slices.map_ok(read).try_flatten().try_flatten()
    }

    /// The settled operations of `seconds` with all bytes that there are of them, by (token, op).
    pub(super) fn records(&self, seconds: Range<StoreSecond>, descriptors: DescriptorSource) -> SettledStream {
        let records = self.read_slices(self.settled_slices(seconds)).map_ok(|(_, record)| record);
        let generation = self.generation.clone();
        let with_descriptor = move |record: OperationRecord| {
            let (descriptors, generation) = (descriptors.clone(), generation.clone());
            async move {
                let large_descriptor = descriptors.large_descriptor(&record).await?;
                Ok::<_, SnapshotError>(SettledRecord {
                    generation,
                    record: mutants::archived(record),
                    large_descriptor,
                })
            }
        };
        records.map_err(SnapshotError::from).and_then(with_descriptor).boxed()
    }

    /// Whether an archive that is past its second may lack an operation that stands, which is then in the log: its entry could not be read at
    /// first, or came after the audit's last look at that second. Of a restored index its audit looks there once more.
    pub(super) fn may_lack(&self, place: &SettledPlace, record: &OperationRecord) -> bool {
        let (second, time) = (record.token.second(), record.decision.entry_time);
        let came_late = || self.schedule.as_ref().is_some_and(|known| known.at(second).is_past_audit(second, time));
        place.was_unreadable || record.was_unreadable || came_late()
    }

    /// As [`Self::may_lack`], of an operation whose record was not read.
    pub(super) async fn may_be_passed_over(&self, standing: &SettledPlace) -> Result<bool, EngineError> {
        let place = &standing.place;
        let segment = self.segment_of(place.seq).ok_or_else(|| missing(place))?;
        let read = self.engine.records(segment, place.seq..place.seq + 1).await?;
        Ok(self.may_lack(standing, read.first().ok_or_else(|| missing(place))?))
    }

    fn settled_slices(
        &self,
        seconds: Range<StoreSecond>,
    ) -> impl futures::Stream<Item = Result<Vec<SettledPlace>, EngineError>> + Send + use<> {
        self.standing_slices(seconds).map_ok(|mut slice| {
            slice.retain(|standing| !standing.is_unread);
            slice
        })
    }

    fn standing_slices(
        &self,
        seconds: Range<StoreSecond>,
    ) -> impl futures::Stream<Item = Result<Vec<SettledPlace>, EngineError>> + Send + use<> {
        let this = self.clone();
        stream::try_unfold(seconds, move |left| {
            let this = this.clone();
            async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let (slice, end) = this.slice(left.clone()).await?;
                Ok(Some((slice, end..left.end)))
            }
        })
    }

    /// The places of the first of `seconds` that stand, by (token, op), and where the others begin.
    async fn slice(&self, seconds: Range<StoreSecond>) -> Result<(Vec<SettledPlace>, StoreSecond), EngineError> {
        let (mut places, mut end) = (Vec::new(), seconds.end);
        let mut segments: Vec<_> = self.overlapping(&seconds).collect();
        segments.sort_by_key(|segment| segment.first);
        for segment in segments {
            for start in segment.seq.clone().step_by(usize::try_from(PLACES_CHUNK).unwrap_or(usize::MAX)) {
                if segment.first.second() >= end {
                    break;
                }
                let seqs = start..segment.seq.end.min(start + PLACES_CHUNK);
                let found = self.engine.places(segment, seqs).await?.into_iter();
                places.extend(found.filter(|place| (seconds.start..end).contains(&place.token.second())));
                if places.len() > 2 * self.max_slice_places {
                    end = self.shorten(&mut places, end);
                }
            }
        }
        end = self.shorten(&mut places, end);
        Ok((self.standing(&places), end))
    }

    /// Sorts the places, and leaves out seconds at the end so that no more than a slice are left, but for a whole second. Gives the
    /// first second that is left out.
    fn shorten(&self, places: &mut Vec<RecordPlace>, end: StoreSecond) -> StoreSecond {
        places.sort_unstable_by_key(|place| (place.token, place.op));
        let second = |place: &RecordPlace| place.token.second();
        let (Some(first), Some(cut)) = (places.first().map(second), places.get(self.max_slice_places).map(second))
        else {
            return end;
        };
        let end = if cut > first { cut } else { first.next() };
        places.retain(|place| second(place) < end);
        end
    }

    /// What stands of `places`, which are sorted and whose entries are whole.
    fn standing(&self, places: &[RecordPlace]) -> Vec<SettledPlace> {
        let is_unreadable = |place: &RecordPlace| place.outcome == Outcome::Unreadable;
        let mut standing = Vec::with_capacity(places.len());
        for entry in places.chunk_by(|one, next| one.token == next.token) {
            let stands = |place: &&RecordPlace| !self.corrected.contains(place.seq);
            let is_unread = entry.iter().filter(stands).any(is_unreadable);
            let was_unreadable = entry.iter().any(is_unreadable);
            let at = |place: &RecordPlace| SettledPlace { place: *place, was_unreadable, is_unread };
            standing.extend(entry.iter().filter(stands).map(at));
        }
        standing
    }

    fn overlapping(&self, seconds: &Range<StoreSecond>) -> impl Iterator<Item = &SegmentMeta> {
        let (start, end) = (seconds.start, seconds.end);
        self.segments
            .iter()
            .filter(move |segment| segment.first.second() < end && start <= segment.last.second() && start < end)
    }

    /// The segment with the record `seq`.
    fn segment_of(&self, seq: u64) -> Option<&SegmentMeta> {
        let at = self.segments.partition_point(|segment| segment.seq.end <= seq);
        self.segments.get(at).filter(|segment| segment.seq.contains(&seq))
    }
}

/// The records of one slice, a few at a time.
struct RecordBatches {
    records: SettledRecords,
    /// Those that are not read yet.
    places: VecDeque<SettledPlace>,
    /// How many are read at once.
    chunk: u64,
}

impl RecordBatches {
    /// The next records, which follow one another in one segment.
    async fn next(mut self) -> Result<Option<(Vec<PlacedRecord>, Self)>, EngineError> {
        let Some(SettledPlace { place: first, .. }) = self.places.front().copied() else { return Ok(None) };
        let segment = self.records.segment_of(first.seq).ok_or_else(|| missing(&first))?.clone();
        let follows =
            |(number, settled): &(u64, &SettledPlace)| settled.place.seq == first.seq + number && *number < self.chunk;
        let run = (0..).zip(&self.places).take_while(follows).count() as u64;
        let seqs = first.seq..segment.seq.end.min(first.seq + run);
        let read = self.records.engine.records(&segment, seqs).await?;
        let mut placed = Vec::with_capacity(read.len());
        for record in read {
            let is_wanted = |settled: &SettledPlace| {
                let RecordPlace { token, op, seq, .. } = settled.place;
                (token, op, seq) == (record.token, record.op, record.seq)
            };
            let Some(wanted) = self.places.pop_front().filter(is_wanted) else {
                let why = format!("record {} of {} is not where its columns say", record.seq, record.token);
                return Err(EngineError::Damaged { key: segment.key, why });
            };
            placed.push((wanted, record));
        }
        let largest = placed.iter().map(|(_, record)| record.memory_bytes()).max();
        let Some(largest) = largest else { return Err(missing(&first)) };
        self.chunk = (CHUNK_BYTES / largest.max(1)).clamp(1, MAX_CHUNK_RECORDS.min(self.chunk * 2));
        Ok(Some((placed, self)))
    }
}

fn missing(place: &RecordPlace) -> EngineError {
    let why = format!("no segment has record {}, which is an operation of {}", place.seq, place.token);
    EngineError::Damaged { key: "the index".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;
    use sha2::{Digest as _, Sha256};
    use tidemark_catalog::{Generation, RecordCounts, SetDigest, SidecarMeta};
    use tidemark_store::Store;
    use tidemark_wal::Log;

    use super::*;
    use crate::{engine::RecordMarks, engine::SegmentFile, model_engine::ModelEngine};

    const BEGIN: u64 = 1_800_000_000;

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(BEGIN + second)
    }

    /// An operation as a test draws it: its second, its entry there, its place in that, and whether it cannot be read.
    type Draft = (u64, u8, u32, bool);

    fn record(seq: u64, (at, entry, op, is_unreadable): Draft) -> OperationRecord {
        let outcome = if is_unreadable { Outcome::Unreadable } else { Outcome::Committed };
        let token = Token::from_parts(second(at), [entry; 16]);
        let record = json!({
            "seq": seq, "token": token, "op": op, "kind": "entry", "size": 1,
            "decision": {"outcome": outcome, "entryTime": second(at)},
        });
        serde_json::from_value(record).unwrap()
    }

    /// A manifest of these segments, of which each operation that comes again corrects the one before.
    async fn manifest(store: &Store, segments: &[Vec<Draft>]) -> (Manifest, BTreeMap<(Token, u32), OperationRecord>) {
        let engine = ModelEngine::new(store.clone());
        let mut manifest = Manifest::new(Generation::first());
        let (mut marks, mut standing) = (RecordMarks::default(), BTreeMap::<(Token, u32), OperationRecord>::new());
        for drafts in segments.iter().filter(|drafts| !drafts.is_empty()) {
            let start = manifest.next_seq;
            let records: Vec<_> = (start..).zip(drafts).map(|(seq, draft)| record(seq, *draft)).collect();
            for record in &records {
                if let Some(before) = standing.insert((record.token, record.op), record.clone()) {
                    marks.corrected.insert(before.seq);
                }
            }
            let tokens = || records.iter().map(|record| record.token);
            let (first, last) = (tokens().min().unwrap(), tokens().max().unwrap());
            let mut builder = engine.builder().unwrap();
            builder.add(records).await.unwrap();
            let packed = builder.finish().await.unwrap();
            let SegmentFile::Memory(body) = packed.file else { panic!("a model packs in memory") };
            let key = format!("segment-{start}");
            store.put(&key, body).await.unwrap();
            manifest.next_seq += packed.documents;
            manifest.segments.push(SegmentMeta {
                key,
                size: packed.size,
                checksum: packed.checksum,
                format: packed.format,
                digest: SetDigest::default(),
                first,
                last,
                entry_times: first.second()..last.second().next(),
                seq: start..manifest.next_seq,
                counts: RecordCounts::default(),
                unsettled: 0,
                documents: packed.documents,
            });
        }
        let body = engine.pack_marks(&marks).unwrap();
        let checksum = hex::encode(Sha256::digest(&body));
        store.put("marks", body.clone()).await.unwrap();
        manifest.sidecars.push(SidecarMeta {
            key: "marks".to_owned(),
            size: body.len() as u64,
            checksum,
            causes: 1..manifest.next_seq,
            corrected: marks.corrected.len(),
            outdated: 0,
            counts: RecordCounts::default(),
            digest: SetDigest::default(),
        });
        (manifest, standing)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Whatever the order of the seqs, the size of the slices and the range: what stands comes by (token, op), each once, and an
        /// entry with an operation that cannot be read is left out.
        #[test]
        fn settled_operations_come_in_token_order_each_once(
            segments in prop::collection::vec(
                prop::collection::vec((0..12_u64, 0..3_u8, 0..2_u32, prop::bool::weighted(0.1)), 0..12),
                0..6,
            ),
            max_slice_places in 1..7_usize,
            start in 0..12_u64,
            length in 0..14_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = Store::memory();
                let (manifest, standing) = manifest(&store, &segments).await;
                let engine: Arc<dyn IndexEngine> = Arc::new(ModelEngine::new(store.clone()));
                let settled = SettledRecords::open(&engine, &manifest, None).await.unwrap().with_slices(max_slice_places);
                let seconds = second(start)..second(start + length);
                let unreadable = |token: Token| standing.values()
                    .any(|record| record.token == token && record.decision.outcome == Outcome::Unreadable);
                let wanted: Vec<_> = standing.values()
                    .filter(|record| seconds.contains(&record.token.second()) && !unreadable(record.token))
                    .cloned()
                    .collect();
                let descriptors = DescriptorSource::new(&Log::over(store, Vec::new()), None);
                let read: Vec<_> = settled.records(seconds.clone(), descriptors).try_collect().await.unwrap();
                let read: Vec<_> = read.into_iter().map(|settled| settled.record).collect();
                prop_assert_eq!(&read, &wanted);
                let places: Vec<_> = settled.places(seconds.clone()).try_collect().await.unwrap();
                let placed: Vec<_> = settled.placed_records(seconds.clone()).try_collect().await.unwrap();
                prop_assert!(placed.iter().all(|(place, record)| place.place.seq == record.seq));
                prop_assert_eq!(placed.iter().map(|(place, _)| *place).collect::<Vec<_>>(), places.clone());
                let all = standing.values().filter(|record| seconds.contains(&record.token.second()));
                prop_assert_eq!(
                    places.iter().map(|one| (one.place.seq, one.is_unread)).collect::<Vec<_>>(),
                    all.map(|record| (record.seq, unreadable(record.token))).collect::<Vec<_>>()
                );
                prop_assert!(settled.estimate(&seconds) >= wanted.len() as u64);
                Ok(())
            })?;
        }
    }
}
