//! Which source gives the outcomes of which seconds, when a restored index is promoted.
//!
//! A replaced generation has them as they were recorded. Where objects of it are lost, its pinned manifests may name others with the same
//! records: seqs are the same in every manifest of a generation. Seconds of which records are lacking even so come from the archive, then
//! from what a pinned manifest had settled.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    ops::{Range, RangeInclusive},
};

use tidemark_catalog::{FIRST_SEQ, LogCursor, Manifest, SegmentMeta, SetDigest};
use tidemark_store::StoreSecond;

use crate::{recorded_archives::ArchivedVersions, settled_operations::audited_with};

/// What one generation has recorded, by all manifests that are known of it.
#[derive(Clone, Debug)]
pub(crate) struct GenerationRecords {
    /// The manifests, the latest one first.
    manifests: Vec<Manifest>,
    /// Whether only pins say what it had recorded: it may have recorded more.
    is_pinned_only: bool,
    /// Objects that are gone or damaged.
    lost: BTreeSet<String>,
}

/// Where the outcomes of a span are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanSource {
    /// In the generation of this place in the plan.
    Generation(usize),
    /// In the archive.
    Archive,
}

/// Seconds that one source gives whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedSpan {
    pub(crate) source: SpanSource,
    pub(crate) seconds: Range<LogCursor>,
    /// The horizon at which they were recorded.
    pub(crate) horizon: StoreSecond,
    /// What lies below it had its last look by the audit.
    pub(crate) audited: StoreSecond,
    /// Whether later outcomes of these seconds may be lost: what is not settled is decided again.
    pub(crate) is_outdated: bool,
}

/// The sources of a promotion, and what each of them can give.
#[derive(Clone, Debug, Default)]
pub(crate) struct PromotionPlan {
    /// The nearest generation first.
    pub(crate) generations: Vec<GenerationRecords>,
    /// The archives that are not found damaged.
    pub(crate) archived: ArchivedVersions,
    /// Up to where archives reach, also one that is found damaged.
    archived_end: LogCursor,
    /// Whether what may have been corrected since is taken where nothing else is left.
    pub(crate) takes_outdated: bool,
}

/// What a source can give: seconds in ascending order.
struct SourceOffer {
    source: SpanSource,
    seconds: Vec<Range<LogCursor>>,
    horizon: StoreSecond,
    audited: StoreSecond,
    is_outdated: bool,
}

impl PromotionPlan {
    /// Of the generations that were replaced, the nearest one first, with the `pinned` manifests: those of other generations follow, the
    /// latest one first.
    pub(crate) fn new(replaced: Vec<Manifest>, mut pinned: Vec<Manifest>, archived: ArchivedVersions) -> Self {
        pinned.sort_by_key(|manifest| Reverse((manifest.generation.clone(), manifest.next_seq, manifest.cursor)));
        let mut generations = Vec::new();
        for last in replaced {
            generations.push(GenerationRecords::gather(last, &mut pinned, false));
        }
        while !pinned.is_empty() {
            let last = pinned.remove(0);
            generations.push(GenerationRecords::gather(last, &mut pinned, true));
        }
        Self { generations, archived_end: archived.end(), archived, takes_outdated: false }
    }

    /// Every second below it is recorded, or was.
    pub(crate) fn end(&self) -> LogCursor {
        self.generations.iter().map(|one| one.last().cursor).fold(self.archived_end, LogCursor::max)
    }

    /// The next seconds from `from` on, from the best source that has them; `None` if there is none.
    pub(crate) fn next_span(&self, from: LogCursor) -> Option<PlannedSpan> {
        let mut better = None::<LogCursor>;
        for offer in self.offers() {
            let SourceOffer { source, seconds, horizon, audited, is_outdated } = offer;
            if let Some(found) = seconds.iter().find(|seconds| seconds.contains(&from)) {
                let end = better.map_or(found.end, |better| better.min(found.end));
                return Some(PlannedSpan { source, seconds: from..end, horizon, audited, is_outdated });
            }
            // Of what comes later the better source has more to say.
            let next = seconds.iter().map(|seconds| seconds.start).find(|start| *start > from);
            better = better.into_iter().chain(next).min();
        }
        None
    }

    /// What the sources can give, the best one first.
    fn offers(&self) -> Vec<SourceOffer> {
        let generations = || self.generations.iter().enumerate();
        let whole = |is_pinned_only: bool| {
            let chosen = generations().filter(move |(_, records)| records.is_pinned_only == is_pinned_only);
            chosen.map(|(place, records)| records.offer(place, &self.archived))
        };
        let archived = std::iter::once(SourceOffer::of_archives(&self.archived));
        let mut offers: Vec<_> = whole(false).chain(archived).chain(whole(true)).collect();
        let parts: Vec<_> = generations().filter_map(|(place, records)| Some((place, records.partial()?))).collect();
        let settled = |part: &Manifest| LogCursor(part.audited);
        offers.extend(parts.iter().map(|(place, part)| SourceOffer::of_part(*place, part, settled(part), false)));
        if self.takes_outdated {
            offers.extend(parts.iter().map(|(place, part)| SourceOffer::of_part(*place, part, part.cursor, true)));
        }
        offers
    }
}

impl SourceOffer {
    fn of_archives(archived: &ArchivedVersions) -> Self {
        // What is archived is settled.
        let settled = archived.end().second();
        let seconds = vec![LogCursor::default()..archived.end()];
        Self { source: SpanSource::Archive, seconds, horizon: settled, audited: settled, is_outdated: false }
    }

    /// What `part`, a manifest of the generation `place`, had recorded below `end`.
    fn of_part(place: usize, part: &Manifest, end: LogCursor, is_outdated: bool) -> Self {
        let seconds = vec![LogCursor::default()..end];
        let (horizon, audited) = (part.horizon, part.audited);
        Self { source: SpanSource::Generation(place), seconds, horizon, audited, is_outdated }
    }
}

impl GenerationRecords {
    /// Of the generation of `last`, its latest manifest, with the earlier ones of it in `pinned`, which are the latest ones first.
    fn gather(last: Manifest, pinned: &mut Vec<Manifest>, is_pinned_only: bool) -> Self {
        let (mut manifests, mut others) = (vec![last], Vec::new());
        for manifest in pinned.drain(..) {
            let known = if is_earlier(&manifest, &manifests[0]) { &mut manifests } else { &mut others };
            known.push(manifest);
        }
        *pinned = others;
        Self { manifests, is_pinned_only, lost: BTreeSet::new() }
    }

    /// The latest manifest.
    pub(crate) fn last(&self) -> &Manifest {
        &self.manifests[0]
    }

    /// Whether nothing is known to be lost.
    pub(crate) fn is_whole(&self) -> bool {
        self.lost.is_empty()
    }

    /// Leaves the object `key` out. Gives whether that is one of its own that was not left out before.
    pub(crate) fn leave_out(&mut self, key: &str) -> bool {
        let is_named = self.manifests.iter().any(|manifest| manifest.objects().any(|named| named == key));
        is_named && self.lost.insert(key.to_owned())
    }

    /// The segments to read, by their ends: each record that some manifest has in an object that is not lost. None of them lies within
    /// another one.
    pub(crate) fn segments(&self) -> Vec<SegmentMeta> {
        let mut segments = Vec::<SegmentMeta>::new();
        let all_seqs = FIRST_SEQ..self.last().next_seq;
        let mut lacking = vec![all_seqs];
        for segment in self.manifests.iter().flat_map(|manifest| &manifest.segments) {
            if !self.lost.contains(&segment.key) && take_away(&mut lacking, &segment.seq) {
                segments.retain(|known| known.seq.start < segment.seq.start || segment.seq.end < known.seq.end);
                segments.push(segment.clone());
            }
        }
        segments.sort_by_key(|segment| segment.seq.end);
        segments
    }

    /// The seqs that no object has any more, with the seconds of their entries.
    fn lacking(&self) -> Vec<(Range<u64>, RangeInclusive<StoreSecond>)> {
        let mut lacking = Vec::new();
        if self.is_whole() {
            return lacking;
        }
        let segments = self.segments();
        for segment in self.last().segments.iter().filter(|segment| self.lost.contains(&segment.key)) {
            let mut seqs = vec![segment.seq.clone()];
            for other in &segments {
                take_away(&mut seqs, &other.seq);
            }
            let seconds = segment.first.second()..=segment.last.second();
            lacking.extend(seqs.into_iter().map(|seqs| (seqs, seconds.clone())));
        }
        lacking
    }

    /// All seconds but those of which records are lacking. What of a whole generation `archived` has settled since is taken from there.
    fn offer(&self, place: usize, archived: &ArchivedVersions) -> SourceOffer {
        let last = self.last();
        let mut seconds = vec![LogCursor::default()..last.cursor];
        for (_, lacking) in self.lacking() {
            take_away(&mut seconds, &(LogCursor(*lacking.start())..LogCursor(lacking.end().next())));
        }
        let audited = if self.is_whole() { audited_with(last, archived) } else { last.audited };
        let horizon = last.horizon;
        SourceOffer { source: SpanSource::Generation(place), seconds, horizon, audited, is_outdated: false }
    }

    /// The latest manifest of which no record is lacking, where it is not the last one. What was recorded after it may have corrected its
    /// outcomes, but for those that were settled.
    fn partial(&self) -> Option<&Manifest> {
        let first_lacking = self.lacking().into_iter().map(|(seqs, _)| seqs.start).min()?;
        self.manifests.iter().find(|manifest| manifest.next_seq <= first_lacking)
    }
}

/// Whether `earlier` is an earlier manifest of the generation of `last`: one of the same name may have been lost and begun again.
fn is_earlier(earlier: &Manifest, last: &Manifest) -> bool {
    let is_before = (earlier.next_seq, earlier.cursor) <= (last.next_seq, last.cursor) && earlier.cursor <= last.cursor;
    let mut both = last.segments.iter().filter(|segment| segment.seq.end <= earlier.next_seq);
    let is_same = |segment: &SegmentMeta| {
        let within = |part: &&SegmentMeta| segment.seq.start <= part.seq.start && part.seq.end <= segment.seq.end;
        let parts = || earlier.segments.iter().filter(within);
        let records: u64 = parts().map(|part| part.documents).sum();
        let digest: SetDigest = parts().map(|part| part.digest).sum();
        (records, digest) == (segment.documents, segment.digest)
    };
    earlier.generation == last.generation && is_before && both.all(is_same)
}

/// Takes `range` away from `ranges`, which do not overlap. Gives whether that had a part in them.
fn take_away<T: Ord + Copy>(ranges: &mut Vec<Range<T>>, range: &Range<T>) -> bool {
    let overlaps = |other: &Range<T>| other.start < range.end && range.start < other.end;
    if !ranges.iter().any(overlaps) {
        return false;
    }
    let rest = |other: Range<T>| {
        let (before, after) = (other.start..other.end.min(range.start), other.start.max(range.end)..other.end);
        [before, after].into_iter().filter(|part| part.start < part.end)
    };
    *ranges = std::mem::take(ranges).into_iter().flat_map(rest).collect();
    true
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::{Generation, RecordCounts};
    use tidemark_wal::Token;

    use super::*;
    use crate::snapshot::ArchiveVersion;

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(1_800_000_000 + second)
    }

    fn cursor(at: u64) -> LogCursor {
        LogCursor(second(at))
    }

    /// An object with `seqs`, of entries of the `seconds`.
    fn segment(key: &str, seqs: Range<u64>, seconds: RangeInclusive<u64>) -> SegmentMeta {
        SegmentMeta {
            key: key.to_owned(),
            size: 1,
            checksum: String::new(),
            format: 1,
            digest: SetDigest::default(),
            first: Token::first_of(second(*seconds.start())),
            last: Token::first_of(second(*seconds.end())),
            entry_times: second(*seconds.start())..second(seconds.end() + 1),
            documents: seqs.end - seqs.start,
            seq: seqs,
            counts: RecordCounts::default(),
            unsettled: 0,
        }
    }

    fn manifest(generation: &str, segments: Vec<SegmentMeta>, audited: u64, end: u64) -> Manifest {
        let next_seq = segments.last().map_or(1, |segment| segment.seq.end);
        let generation: Generation = generation.parse().unwrap();
        let (horizon, audited) = (second(end), second(audited));
        Manifest { cursor: cursor(end), horizon, audited, next_seq, segments, ..Manifest::new(generation) }
    }

    fn archive(end: u64) -> ArchivedVersions {
        let generation = Generation::first();
        let (hash, digest) = (String::new(), SetDigest::default());
        let own = ArchiveVersion { number: 1, hash, generation, end: cursor(end), operations: 0, digest };
        ArchivedVersions { own: Some(own), other: None }
    }

    /// A generation with a snapshot of its first half, all of which was merged since with some of the second half.
    fn merged() -> PromotionPlan {
        let snapshot = manifest("g1", vec![segment("a", 1..50, 0..=40), segment("b", 50..100, 30..=99)], 60, 100);
        let segments = vec![segment("merged", 1..150, 0..=149), segment("late", 150..200, 150..=199)];
        PromotionPlan::new(vec![manifest("g1", segments, 160, 200)], vec![snapshot], archive(50))
    }

    /// What is taken from the second 10 on: the source, and up to which second.
    fn taken(plan: &PromotionPlan) -> Vec<(SpanSource, u64, bool)> {
        let (mut from, mut taken) = (cursor(10), Vec::new());
        while let Some(span) = plan.next_span(from) {
            assert!(span.seconds.start == from && span.seconds.end > from, "{span:?} does not go on from {from}");
            from = span.seconds.end;
            taken.push((span.source, from.second().since(second(0)).as_secs(), span.is_outdated));
        }
        taken
    }

    const NEAREST: SpanSource = SpanSource::Generation(0);

    #[test]
    fn the_nearest_generation_gives_all_that_it_has_and_the_next_ones_what_is_beyond() {
        let at = |generation, end| manifest(generation, vec![segment(generation, 1..9, 0..=end - 1)], end, end);
        let plan = PromotionPlan::new(vec![at("g3", 50), at("g2", 40), at("g1", 90)], vec![at("g7", 99)], archive(95));
        let expected = [
            (NEAREST, 50, false),
            (SpanSource::Generation(2), 90, false),
            (SpanSource::Archive, 95, false),
            (SpanSource::Generation(3), 99, false),
        ];
        assert_eq!((taken(&plan), plan.end()), (expected.to_vec(), cursor(99)));
    }

    #[test]
    fn records_of_a_lost_object_are_read_from_others_that_have_them() {
        let mut plan = merged();
        let mut whole = plan.generations[0].last().segments.clone();
        whole[0].seq = 1..100;
        whole[0].documents = 99;
        whole[1].seq = 100..200;
        whole[1].documents = 100;
        plan.generations[0].manifests[0].segments = whole;
        assert!(plan.generations[0].leave_out("merged") && !plan.generations[0].leave_out("merged"));
        assert!(!plan.generations[0].leave_out("another"));
        let read: Vec<_> = plan.generations[0].segments().into_iter().map(|segment| segment.key).collect();
        assert_eq!(read, ["a", "b", "late"]);
        assert_eq!(taken(&plan), [(NEAREST, 200, false)]);
    }

    #[test]
    fn seconds_of_which_records_are_lacking_come_from_the_archive_then_from_what_a_snapshot_had_settled() {
        let mut plan = merged();
        assert_eq!(taken(&plan), [(NEAREST, 200, false)]);
        plan.generations[0].leave_out("merged");
        assert_eq!(taken(&plan), [(SpanSource::Archive, 50, false), (NEAREST, 60, false)]);
        plan.takes_outdated = true;
        assert_eq!(taken(&plan)[2..], [(NEAREST, 100, true)]);
        plan.archived = ArchivedVersions::default();
        assert_eq!(taken(&plan), [(NEAREST, 60, false), (NEAREST, 100, true)]);
        // Of the snapshot an object is lost as well.
        plan.generations[0].leave_out("b");
        assert!(taken(&plan).is_empty());
        assert_eq!(plan.end(), cursor(200));
    }

    #[test]
    fn what_lies_beyond_a_gap_is_taken_from_the_better_source_again() {
        let segments = vec![segment("a", 1..50, 0..=40), segment("b", 50..90, 35..=60), segment("c", 90..99, 61..=99)];
        let mut plan = PromotionPlan::new(vec![manifest("g1", segments, 80, 100)], Vec::new(), archive(90));
        plan.generations[0].leave_out("b");
        assert_eq!(taken(&plan), [(NEAREST, 35, false), (SpanSource::Archive, 61, false), (NEAREST, 100, false)]);
    }

    #[test]
    fn a_generation_that_was_lost_and_begun_again_is_another_one() {
        let digest: SetDigest = serde_json::from_value("1".repeat(64).into()).unwrap();
        let other = SegmentMeta { digest, ..segment("other", 1..50, 0..=40) };
        let last = manifest("g1", vec![segment("a", 1..50, 0..=40), segment("b", 50..90, 41..=60)], 60, 61);
        let pinned = vec![manifest("g1", vec![other], 30, 41), manifest("g1", last.segments[..1].to_vec(), 30, 41)];
        let mut plan = PromotionPlan::new(vec![last], pinned, ArchivedVersions::default());
        let manifests = |place: usize| plan.generations[place].manifests.len();
        assert_eq!((manifests(0), manifests(1), plan.generations.len()), (2, 1, 2));
        plan.generations[0].leave_out("a");
        assert_eq!(taken(&plan), [(SpanSource::Generation(1), 41, false), (NEAREST, 61, false)]);
    }
}
