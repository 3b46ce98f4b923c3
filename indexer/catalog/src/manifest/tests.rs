//! Random sequences of transactions against a naive model of what the index holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemark_store::{ChainState as _, Entropy, StoreSecond};
use tidemark_wal::{Evidence, Outcome, Token};

use super::*;
use crate::{
    digest::{SetDigest, SetElement},
    error::TransactionRejected,
    identity::{IndexId, WriterIdentity},
    log_cursor::LogCursor,
    names::{Generation, ObjectKind, ObjectName},
};

/// One step of any process. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum ManifestStep {
    TakeOver,
    Release,
    /// Records for the next seconds, in one segment each.
    Publish {
        seconds: u64,
        segments: Vec<Vec<u8>>,
    },
    /// A correction: a new record for an old one.
    Correct {
        of: usize,
        outcome: u8,
    },
    /// Marks records as outdated.
    Outdate,
    Compact {
        from: usize,
        many: usize,
    },
    CompactSidecars,
    RaiseEpoch,
    /// What a writer that was fenced long ago tries.
    Zombie,
}

fn step() -> impl Strategy<Value = ManifestStep> {
    let segments = prop::collection::vec(prop::collection::vec(0u8..7, 1..5), 0..3);
    prop_oneof![
        1 => Just(ManifestStep::TakeOver),
        1 => Just(ManifestStep::Release),
        4 => (0u64..9, segments).prop_map(|(seconds, segments)| ManifestStep::Publish { seconds, segments }),
        2 => (any::<usize>(), 0u8..8).prop_map(|(of, outcome)| ManifestStep::Correct { of, outcome }),
        1 => Just(ManifestStep::Outdate),
        2 => (any::<usize>(), 1usize..5).prop_map(|(from, many)| ManifestStep::Compact { from, many }),
        1 => Just(ManifestStep::CompactSidecars),
        1 => Just(ManifestStep::RaiseEpoch),
        1 => Just(ManifestStep::Zombie),
    ]
}

const OUTCOMES: [Outcome; 8] = [
    Outcome::Committed,
    Outcome::Late,
    Outcome::Aborted,
    Outcome::Malformed,
    Outcome::Duplicate,
    Outcome::Fenced,
    Outcome::Conflicted,
    Outcome::Expired,
];

#[derive(Clone, Copy)]
struct RecordFact {
    token: Token,
    outcome: Outcome,
    standing: bool,
}

/// The chain so far, and what the index should hold.
struct ManifestWorld {
    state: Manifest,
    /// Everything that was ever named.
    named: BTreeMap<String, bool>,
    facts: Vec<RecordFact>,
    entropy: Entropy,
    now: u64,
}

impl ManifestWorld {
    fn new() -> Self {
        let state = Manifest::new(Generation::first()).of_index(index_id());
        Self { state, named: BTreeMap::new(), facts: Vec::new(), entropy: Entropy::seeded(1), now: 1_500_000_000 }
    }

    fn key(&self, kind: ObjectKind) -> String {
        ObjectName::new(&self.state.generation, kind, self.state.epoch, &self.entropy).to_string()
    }

    fn segment(&self, first_seq: u64, facts: &[RecordFact]) -> SegmentMeta {
        let mut counts = RecordCounts::default();
        for fact in facts {
            counts.add(fact.outcome);
        }
        let documents = facts.len() as u64;
        SegmentMeta {
            key: self.key(ObjectKind::Segment),
            size: 100 * documents,
            checksum: "0".repeat(64),
            format: 1,
            digest: facts.iter().map(RecordFact::digest).sum(),
            first: facts.iter().map(|fact| fact.token).min().unwrap(),
            last: facts.iter().map(|fact| fact.token).max().unwrap(),
            entry_times: StoreSecond::from_unix(1)..StoreSecond::from_unix(2),
            seq: first_seq..first_seq + documents,
            counts,
            unsettled: counts.unsettled(),
            documents,
        }
    }

    fn sidecar(&self, corrected: &[RecordFact], outdated: u64) -> SidecarMeta {
        let mut counts = RecordCounts::default();
        for fact in corrected {
            counts.add(fact.outcome);
        }
        SidecarMeta {
            key: self.key(ObjectKind::Sidecar),
            size: 10,
            checksum: "0".repeat(64),
            causes: self.state.next_seq..self.state.next_seq + 1,
            corrected: corrected.len() as u64,
            outdated,
            counts,
            digest: corrected.iter().map(RecordFact::digest).sum(),
        }
    }

    fn publication(&self, to: u64, segments: Vec<SegmentMeta>, sidecars: Vec<SidecarMeta>) -> PublishRequest {
        PublishRequest {
            to: LogCursor(StoreSecond::from_unix(to)),
            horizon: StoreSecond::from_unix(to + 3),
            audited: StoreSecond::from_unix(to - to % 7),
            records: segments.iter().map(|segment| segment.documents).sum(),
            segments,
            sidecars,
            ..PublishRequest::after(&self.state)
        }
    }

    /// What the step makes of the state; the facts that it adds come with it.
    fn apply(&self, step: &ManifestStep) -> Result<(Manifest, Vec<RecordFact>, Option<usize>), TransactionRejected> {
        let state = &self.state;
        let epoch = state.epoch;
        let plain = |next: Manifest| Ok((next, Vec::new(), None));
        match step {
            ManifestStep::TakeOver => plain(state.take_over(epoch, holder(), true)?),
            ManifestStep::Release => plain(state.release(epoch)?),
            ManifestStep::Publish { seconds, segments } => {
                let from = state.cursor.second().unix().max(self.now);
                let fact = |outcome: &u8| RecordFact {
                    token: Token::new(StoreSecond::from_unix(from), &self.entropy),
                    outcome: OUTCOMES[usize::from(*outcome)],
                    standing: true,
                };
                let facts: Vec<Vec<RecordFact>> =
                    segments.iter().map(|outcomes| outcomes.iter().map(fact).collect()).collect();
                let mut seq = state.next_seq;
                let mut packed = Vec::new();
                for facts in &facts {
                    packed.push(self.segment(seq, facts));
                    seq += facts.len() as u64;
                }
                let publication = self.publication(from + seconds, packed, Vec::new());
                Ok((state.publish(epoch, &publication)?, facts.concat(), None))
            }
            ManifestStep::Correct { of, outcome } => {
                let Some(of) = of.checked_rem(self.facts.len()).filter(|of| self.facts[*of].standing) else {
                    return plain(state.clone());
                };
                let old = self.facts[of];
                let new = RecordFact { outcome: OUTCOMES[usize::from(*outcome)], ..old };
                let segments = vec![self.segment(state.next_seq, &[new])];
                let to = state.cursor.second().unix();
                let settled = (old.outcome == Outcome::Aborted).then_some(of as u64 + FIRST_SEQ);
                let publication = self.publication(to, segments, vec![self.sidecar(&[old], 0)]);
                let publication = PublishRequest { settled: settled.into_iter().collect(), ..publication };
                Ok((state.publish(epoch, &publication)?, vec![new], Some(of)))
            }
            ManifestStep::Outdate => {
                let to = state.cursor.second().unix();
                let cause = RecordFact {
                    token: Token::new(StoreSecond::from_unix(to), &self.entropy),
                    outcome: Outcome::Committed,
                    standing: true,
                };
                let segments = vec![self.segment(state.next_seq, &[cause])];
                let publication = self.publication(to, segments, vec![self.sidecar(&[], 2)]);
                Ok((state.publish(epoch, &publication)?, vec![cause], None))
            }
            ManifestStep::Compact { from, many } => {
                let from = from.checked_rem(state.segments.len()).unwrap_or(0);
                let compacted: Vec<_> = state.segments.iter().skip(from).take(*many).cloned().collect();
                let (Some(first), Some(last)) = (compacted.first(), compacted.last()) else {
                    return plain(state.clone());
                };
                let added = SegmentMeta {
                    key: self.key(ObjectKind::Segment),
                    size: 1,
                    checksum: "1".repeat(64),
                    format: 1,
                    digest: compacted.iter().map(|segment| segment.digest).sum(),
                    first: compacted.iter().map(|segment| segment.first).min().unwrap(),
                    last: compacted.iter().map(|segment| segment.last).max().unwrap(),
                    entry_times: first.entry_times.clone(),
                    seq: first.seq.start..last.seq.end,
                    counts: compacted.iter().map(|segment| segment.counts).sum(),
                    unsettled: 0,
                    documents: compacted.iter().map(|segment| segment.documents).sum(),
                };
                let removes = compacted.iter().map(|segment| segment.key.clone()).collect();
                let compaction = CompactionResult { removes, adds: vec![added], ..CompactionResult::default() };
                plain(state.adopt(epoch, &compaction)?)
            }
            ManifestStep::CompactSidecars => {
                let compacted = &state.sidecars;
                let (Some(first), Some(last)) = (compacted.first(), compacted.last()) else {
                    return plain(state.clone());
                };
                let added = SidecarMeta {
                    key: self.key(ObjectKind::Sidecar),
                    size: 1,
                    checksum: "1".repeat(64),
                    causes: first.causes.start..last.causes.end,
                    corrected: compacted.iter().map(|sidecar| sidecar.corrected).sum(),
                    outdated: compacted.iter().map(|sidecar| sidecar.outdated).sum(),
                    counts: compacted.iter().map(|sidecar| sidecar.counts).sum(),
                    digest: compacted.iter().map(|sidecar| sidecar.digest).sum(),
                };
                let removes_sidecars = compacted.iter().map(|sidecar| sidecar.key.clone()).collect();
                let adds_sidecars = vec![added];
                let compaction = CompactionResult { removes_sidecars, adds_sidecars, ..CompactionResult::default() };
                plain(state.adopt(epoch, &compaction)?)
            }
            ManifestStep::RaiseEpoch => plain(state.raise_epoch(epoch)?),
            ManifestStep::Zombie => {
                let publication = self.publication(self.now + 1, Vec::new(), Vec::new());
                plain(state.publish(epoch.wrapping_sub(1), &publication)?)
            }
        }
    }

    /// Applies the step as a chain would: invariants first, then dated by the record's store time.
    fn take(&mut self, step: &ManifestStep) -> Result<(), TestCaseError> {
        self.now += 1;
        let (mut next, facts, corrected) = match self.apply(step) {
            Ok(applied) => applied,
            Err(TransactionRejected::Invariant(broken)) => {
                return Err(TestCaseError::fail(format!("{step:?}: {broken}")));
            }
            Err(_) => return Ok(()),
        };
        prop_assert!(!matches!(step, ManifestStep::Zombie), "a fenced writer published");
        prop_assert_eq!(&next.id, &self.state.id, "{:?}", step);
        prop_assert_eq!(next.check_state().and_then(|()| next.check_transition(&self.state)), Ok(()), "{:?}", step);
        next.apply_store_time(StoreSecond::from_unix(self.now));
        if let Some(of) = corrected {
            self.facts[of].standing = false;
        }
        self.facts.extend(facts);
        self.state = next;
        self.matches_the_model()?;
        self.never_named_again()
    }

    fn matches_the_model(&self) -> Result<(), TestCaseError> {
        let standing: Vec<_> = self.facts.iter().filter(|fact| fact.standing).collect();
        let mut counts = RecordCounts::default();
        for fact in &standing {
            counts.add(fact.outcome);
        }
        prop_assert_eq!(self.state.totals.standing(), counts);
        let digest: SetDigest = standing.iter().map(|fact| fact.digest()).sum();
        prop_assert_eq!(self.state.totals.standing_digest(), digest);
        prop_assert_eq!(self.state.totals.records, self.facts.len() as u64);
        prop_assert_eq!(self.state.next_seq, FIRST_SEQ + self.facts.len() as u64);
        Ok(())
    }

    fn never_named_again(&mut self) -> Result<(), TestCaseError> {
        let held: Vec<_> = self.state.objects().map(str::to_owned).collect();
        for key in &held {
            prop_assert_ne!(self.named.get(key), Some(&false), "{} came back", key);
        }
        for (key, live) in &mut self.named {
            *live = held.contains(key);
        }
        self.named.extend(held.into_iter().map(|key| (key, true)));
        Ok(())
    }
}

impl RecordFact {
    fn digest(&self) -> SetDigest {
        let Self { token, outcome, .. } = *self;
        SetDigest::of(&SetElement { token, op: 0, outcome, evidence: Some(Evidence::Bound), body: None })
    }
}

fn index_id() -> IndexId {
    IndexId("0123456789abcdef".repeat(2))
}

fn holder() -> LeaseHolder {
    LeaseHolder { identity: WriterIdentity("a".to_owned()), heartbeat: "beat".to_owned(), since: None }
}

proptest! {
    #[test]
    fn whatever_is_accepted_keeps_the_invariants(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = ManifestWorld::new();
        world.take(&ManifestStep::TakeOver)?;
        for step in &steps {
            world.take(step)?;
        }
        let text = serde_json::to_string(&world.state).unwrap();
        prop_assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), world.state);
    }
}

/// A world with two published segments of two records each.
fn world() -> ManifestWorld {
    let mut world = ManifestWorld::new();
    let publish = ManifestStep::Publish { seconds: 5, segments: vec![vec![0, 1], vec![2, 2]] };
    for step in [ManifestStep::TakeOver, publish] {
        world.take(&step).unwrap();
    }
    world
}

fn broken(step: Result<Manifest, TransactionRejected>, before: &Manifest) -> &'static str {
    match step {
        Err(TransactionRejected::Invariant(broken)) => broken.invariant,
        Err(other) => panic!("{other}"),
        Ok(next) => match next.check_state().and_then(|()| next.check_transition(before)) {
            Err(broken) => broken.invariant,
            Ok(()) => "none",
        },
    }
}

#[test]
fn a_publication_continues_the_cursor_and_the_seqs() {
    let ManifestWorld { state, .. } = world();
    let at = |from: u64, to: u64, first_seq| PublishRequest {
        from: LogCursor(StoreSecond::from_unix(from)),
        to: LogCursor(StoreSecond::from_unix(to)),
        horizon: StoreSecond::from_unix(to),
        first_seq,
        ..PublishRequest::after(&state)
    };
    let cursor = state.cursor.second().unix();
    for gap in [at(cursor + 1, cursor + 2, 5), at(cursor - 1, cursor + 1, 5), at(cursor, cursor - 1, 5)] {
        assert!(matches!(state.publish(1, &gap), Err(TransactionRejected::NotContiguous { .. })));
    }
    assert!(matches!(
        state.publish(1, &at(cursor, cursor, 4)),
        Err(TransactionRejected::SeqNotContiguous { first: 4, next: 5 })
    ));
    let beyond = PublishRequest { horizon: StoreSecond::from_unix(cursor), ..at(cursor, cursor + 9, 5) };
    assert!(matches!(state.publish(1, &beyond), Err(TransactionRejected::BeyondHorizon { .. })));
    assert!(matches!(state.publish(2, &at(cursor, cursor, 5)), Err(TransactionRejected::Fenced { epoch: 2, by: 1 })));
    let restored = Manifest { until: Some(StoreSecond::from_unix(1)), ..state.clone() };
    assert!(matches!(restored.publish(1, &at(cursor, cursor, 5)), Err(TransactionRejected::NotPromoted { .. })));
    assert_eq!(broken(state.publish(1, &at(cursor, cursor, 5)), &state), "none");
}

#[test]
fn the_horizon_stays_where_it_is_when_a_publication_names_a_lower_one() {
    let ManifestWorld { state, .. } = world();
    let lower = PublishRequest { horizon: StoreSecond::from_unix(1), ..PublishRequest::after(&state) };
    assert_eq!(state.publish(1, &lower).unwrap().horizon, state.horizon);
}

#[test]
fn an_object_of_a_lower_epoch_is_refused() {
    let ManifestWorld { state, .. } = world();
    let state = state.take_over(1, holder(), false).unwrap();
    let mut world = ManifestWorld::new();
    world.state.epoch = 1;
    let stale =
        world.segment(5, &[RecordFact { token: Token::from_bytes([1; 20]), outcome: Outcome::Late, standing: true }]);
    let publication = PublishRequest { records: 1, segments: vec![stale], ..PublishRequest::after(&state) };
    assert_eq!(broken(state.publish(2, &publication), &state), "an added object's epoch is not lower than the index's");
}

#[test]
fn a_compaction_that_loses_a_record_or_a_mark_is_refused() {
    let mut world = world();
    world.take(&ManifestStep::Correct { of: 2, outcome: 1 }).unwrap();
    let state = &world.state;
    let removes = vec![state.segments[0].key.clone()];
    let adds = vec![state.segments[1].clone()];
    let lost = CompactionResult { removes, adds, ..CompactionResult::default() };
    assert_eq!(broken(state.adopt(1, &lost), state), "a compaction keeps every record");
    let removes_sidecars = vec![state.sidecars[0].key.clone()];
    let lost = CompactionResult { removes_sidecars, ..CompactionResult::default() };
    assert_eq!(broken(state.adopt(1, &lost), state), "a compaction keeps every mark");
    let unknown = CompactionResult { removes: vec!["x".to_owned()], ..CompactionResult::default() };
    assert!(matches!(state.adopt(1, &unknown), Err(TransactionRejected::NotReferenced { .. })));
}

#[test]
fn a_compaction_that_ran_while_a_correction_was_published_counts_it_as_settled() {
    let mut world = world();
    assert_eq!(world.state.segments.iter().map(|segment| segment.unsettled).collect::<Vec<_>>(), [0, 2]);
    let inputs = world.state.segments.clone();
    world.take(&ManifestStep::Correct { of: 2, outcome: 1 }).unwrap();
    assert_eq!(world.state.segments[1].unsettled, 1);
    let compacted = SegmentMeta {
        key: world.key(ObjectKind::Segment),
        first: inputs[0].first.min(inputs[1].first),
        last: inputs[0].last.max(inputs[1].last),
        digest: inputs.iter().map(|input| input.digest).sum(),
        seq: 1..5,
        counts: inputs.iter().map(|input| input.counts).sum(),
        unsettled: 2,
        documents: 4,
        ..inputs[0].clone()
    };
    let removes = inputs.iter().map(|input| input.key.clone()).collect();
    let compaction = CompactionResult { removes, adds: vec![compacted], ..CompactionResult::default() };
    let next = world.state.adopt(1, &compaction);
    assert_eq!(broken(next.clone(), &world.state), "none");
    assert_eq!(next.unwrap().segments[0].unsettled, 1);
}

#[test]
fn what_is_settled_was_unsettled() {
    let ManifestWorld { state, .. } = world();
    let publication = |seq| PublishRequest { settled: vec![seq], ..PublishRequest::after(&state) };
    for seq in [0, 1, 5] {
        assert_eq!(broken(state.publish(1, &publication(seq)), &state), "only unsettled records are settled");
    }
    // Counted, but nothing replaces it.
    assert_eq!(broken(state.publish(1, &publication(3)), &state), "the segments say how many records are unsettled");
}

#[test]
fn marks_name_the_records_that_caused_them() {
    let mut world = world();
    for step in [ManifestStep::Outdate, ManifestStep::Outdate, ManifestStep::Outdate] {
        world.take(&step).unwrap();
    }
    let causes = |world: &ManifestWorld| world.state.sidecars.iter().map(|one| one.causes.clone()).collect::<Vec<_>>();
    assert_eq!(causes(&world), [5..6, 6..7, 7..8]);
    let state = world.state.clone();
    let compaction_of = |range: std::ops::Range<usize>, causes| {
        let inputs = &state.sidecars[range];
        let outdated = inputs.iter().map(|input| input.outdated).sum();
        let added = SidecarMeta { causes, outdated, key: world.key(ObjectKind::Sidecar), ..inputs[0].clone() };
        let removes_sidecars = inputs.iter().map(|input| input.key.clone()).collect();
        CompactionResult { removes_sidecars, adds_sidecars: vec![added], ..CompactionResult::default() }
    };
    assert_eq!(broken(state.adopt(1, &compaction_of(0..2, 5..7)), &state), "none");
    assert_eq!(broken(state.adopt(1, &compaction_of(0..2, 5..6)), &state), "a compaction keeps what caused the marks");
    let mut lost = compaction_of(0..2, 5..7);
    lost.adds_sidecars[0].outdated -= 1;
    assert_eq!(broken(state.adopt(1, &lost), &state), "a compaction keeps every mark");
    let mut apart = compaction_of(0..3, 5..8);
    apart.removes_sidecars.remove(1);
    apart.adds_sidecars[0].outdated -= 2;
    assert_eq!(broken(state.adopt(1, &apart), &state), "the causes of the sidecars ascend without overlap");
    let foreign = PublishRequest { sidecars: vec![world.sidecar(&[], 1)], ..PublishRequest::after(&state) };
    assert_eq!(broken(state.publish(1, &foreign), &state), "a publication's marks are caused by its records");
}

#[test]
fn the_audit_never_goes_back_and_stays_below_the_cursor() {
    let ManifestWorld { state, .. } = world();
    let at = |audited: StoreSecond| PublishRequest { audited, ..PublishRequest::after(&state) };
    let cursor = state.cursor.second();
    let audited = state.publish(1, &at(cursor)).unwrap();
    assert_eq!(audited.audited, cursor);
    let back = PublishRequest { audited: StoreSecond::default(), ..PublishRequest::after(&audited) };
    assert_eq!(audited.publish(1, &back).unwrap().audited, cursor);
    assert_eq!(broken(state.publish(1, &at(cursor.next())), &state), "the audit stays at or below the cursor");
}

#[test]
fn a_generation_ends_only_in_favour_of_the_same_index() {
    let ManifestWorld { state, .. } = world();
    let successor = Manifest { generation: "g2".parse().unwrap(), ..state.clone() };
    let behind = Manifest { cursor: LogCursor::default(), ..successor.clone() };
    for other in [&state, &behind] {
        assert!(matches!(state.close(1, other), Err(TransactionRejected::NotASuccessor { .. })));
    }
    let closed = state.close(1, &successor).unwrap();
    assert_eq!(closed.check_transition(&state), Ok(()));
    for next in [closed.take_over(1, holder(), false), closed.raise_epoch(1), closed.release(1)] {
        assert!(matches!(next, Err(TransactionRejected::Closed { .. })));
    }
    assert_eq!(broken(Ok(closed.clone()), &closed), "nothing follows the closing record");
}

#[test]
fn the_end_of_a_generation_says_why() {
    let ManifestWorld { state, .. } = world();
    let building =
        Manifest { building: Some("reindex-1".to_owned()), generation: "g2".parse().unwrap(), ..state.clone() };
    let closed = state.close(1, &building).unwrap();
    let end = closed.closed.clone().unwrap();
    assert_eq!((end.generation, end.by), (Some(building.generation.clone()), EndReason::Reindex));
    let abandoned = building.abandon(1).unwrap();
    assert_eq!(broken(Ok(abandoned.clone()), &building), "none");
    assert!(matches!(abandoned.raise_epoch(1), Err(TransactionRejected::Abandoned { .. })));
    assert!(matches!(state.close(1, &abandoned), Err(TransactionRejected::NotASuccessor { .. })));
    assert!(matches!(state.purge(1).unwrap().release(1), Err(TransactionRejected::Purged { .. })));
    // Only what is being built is given up.
    let sound = "the end of a generation names what follows";
    assert_eq!(broken(state.abandon(1), &state), sound);
    for (generation, by) in [
        (None, EndReason::Reindex),
        (Some(Generation::first()), EndReason::Restore { to: StoreSecond::default() }),
        (Generation::first().next(), EndReason::Purge),
    ] {
        let ended = Manifest { closed: Some(GenerationEnd { generation, by }), ..state.clone() };
        assert_eq!(ended.check_state().unwrap_err().invariant, sound, "{ended:?}");
    }
    let finished = Manifest { building: None, ..building.clone() };
    assert_eq!(finished.check_transition(&building), Ok(()));
    let begun = building.check_transition(&finished).unwrap_err().invariant;
    assert_eq!(begun, "the first record says who builds the generation");
}

#[test]
fn the_id_of_an_index_is_drawn_once_and_never_changes() {
    let rule = "the id of an index never changes";
    let state = world().state;
    for id in [None, Some(IndexId("f".repeat(32)))] {
        let other = Manifest { id, ..state.clone() };
        assert_eq!(other.check_transition(&state).unwrap_err().invariant, rule);
    }
    for ended in [state.purge(1), Manifest { building: Some("t".to_owned()), ..state.clone() }.abandon(1)] {
        assert_eq!(ended.unwrap().id, state.id);
    }
}

#[test]
fn hasty_takeovers_are_counted_until_somebody_publishes() {
    let world = world();
    let state = world.state.take_over(1, holder(), true).unwrap().take_over(2, holder(), true).unwrap();
    assert_eq!((state.epoch, state.hasty_takeovers), (3, 2));
    assert_eq!(state.take_over(3, holder(), false).unwrap().hasty_takeovers, 0);
    assert_eq!(state.release(3).unwrap().hasty_takeovers, 0);
    let publication = world.publication(state.cursor.second().unix(), Vec::new(), Vec::new());
    assert_eq!(state.publish(3, &publication).unwrap().hasty_takeovers, 0);
    assert!(matches!(state.take_over(2, holder(), true), Err(TransactionRejected::Fenced { epoch: 2, by: 3 })));
}

/// What a writer uploaded before it raised its epoch can never be published afterwards: it may be collected.
#[test]
fn an_upload_from_before_the_epoch_was_raised_is_refused() {
    let ManifestWorld { state, .. } = world();
    let uploaded = world().segment(
        state.next_seq,
        &[RecordFact { token: Token::from_bytes([1; 20]), outcome: Outcome::Late, standing: true }],
    );
    let raised = state.raise_epoch(state.epoch).unwrap();
    assert_eq!((raised.epoch, raised.holder.clone().map(|holder| holder.identity)), (2, Some(holder().identity)));
    let mut late = raised.clone();
    late.segments.push(uploaded);
    late.next_seq += 1;
    assert_eq!(
        late.check_transition(&raised).unwrap_err().invariant,
        "an added object's epoch is not lower than the index's"
    );
    assert!(matches!(state.release(1).unwrap().raise_epoch(1), Err(TransactionRejected::Fenced { .. })));
}

#[test]
fn the_end_of_a_generation_keeps_what_a_later_version_added() {
    let manifest = serde_json::to_string(&Manifest::new(Generation::first())).unwrap();
    let extended = manifest.replacen('{', r#"{"ext":{"later":{"a": 1}},"#, 1);
    let manifest: Manifest = serde_json::from_str(&extended).unwrap();
    assert!(!manifest.ext.is_empty());
    for ended in [manifest.purge(0), manifest.abandon(0)] {
        assert_eq!(ended.unwrap().ext, manifest.ext);
    }
}

/// A generation of `state`'s records that a task makes, before anything was copied to it.
fn made() -> ManifestWorld {
    let building = Manifest::building("g2".parse().unwrap(), "reindex-1").of_index(index_id());
    ManifestWorld { state: building.take_over(0, holder(), false).unwrap(), ..ManifestWorld::new() }
}

/// A copy of everything in `source` to the generation of `to`.
fn copy_of(source: &Manifest, to: &ManifestWorld) -> CopyRequest {
    let segments = source.segments.iter();
    CopyRequest {
        records: source.next_seq - 1,
        segments: segments.map(|one| SegmentMeta { key: to.key(ObjectKind::Segment), ..one.clone() }).collect(),
        cursor: source.cursor,
        horizon: source.horizon,
        audited: source.audited,
        ..CopyRequest::after(&to.state)
    }
}

#[test]
fn a_generation_takes_copies_as_long_as_it_is_being_built() {
    let (ManifestWorld { state, .. }, made) = (world(), made());
    let copied = copy_of(&state, &made);
    let whole = made.state.copy(1, &copied).unwrap();
    assert_eq!(broken(Ok(whole.clone()), &made.state), "none");
    let finished = whole.finish(1).unwrap();
    assert_eq!(broken(Ok(finished.clone()), &whole), "none");
    let refused = finished.copy(1, &CopyRequest::after(&finished));
    assert!(matches!(refused, Err(TransactionRejected::NotBuilding { .. })));
    assert!(matches!(made.state.copy(2, &copied), Err(TransactionRejected::Fenced { .. })));
    assert!(matches!(whole.copy(1, &copied), Err(TransactionRejected::SeqNotContiguous { first: 1, .. })));
    let miscounted = CopyRequest { records: 1, ..copied };
    assert_eq!(broken(made.state.copy(1, &miscounted), &made.state), "the records of a copy are those of its segments");
}

#[test]
fn a_generation_ends_only_in_favour_of_one_with_all_of_its_records() {
    let (ManifestWorld { state, .. }, made) = (world(), made());
    let whole = made.state.copy(1, &copy_of(&state, &made)).unwrap();
    assert_eq!(broken(state.close(1, &whole), &state), "none");
    let differs = |other: Manifest, what: &str| match state.close(1, &other) {
        Err(TransactionRejected::NotASuccessor { what: found, .. }) => assert_eq!(found, what),
        other => panic!("{other:?}"),
    };
    let mut lacking = copy_of(&state, &made);
    let last = lacking.segments.pop().unwrap();
    lacking.records -= last.documents;
    differs(made.state.copy(1, &lacking).unwrap(), "next seq");
    let mut altered = copy_of(&state, &made);
    altered.segments[0].digest = SetDigest::default();
    differs(made.state.copy(1, &altered).unwrap(), "set digest");
    differs(Manifest { cursor: LogCursor::default(), audited: StoreSecond::default(), ..whole.clone() }, "cursor");
    for id in [None, Some(IndexId("f".repeat(32)))] {
        differs(Manifest { id, ..whole.clone() }, "index id");
    }
    let restored = Manifest { until: Some(StoreSecond::from_unix(5)), ..whole.clone() };
    differs(restored.clone(), "time that it was restored to");
    // A restored one takes its place as that, and only to the time that it says.
    let close = |to| state.close_for_restore(1, &restored, StoreSecond::from_unix(to));
    assert_eq!(broken(close(5), &state), "none");
    assert!(matches!(close(6), Err(TransactionRejected::NotASuccessor { .. })));
    assert!(matches!(
        restored.publish(1, &PublishRequest::after(&restored)),
        Err(TransactionRejected::NotPromoted { .. })
    ));
}

#[test]
fn a_restored_generation_is_promoted_once_with_what_was_recorded_since() {
    let (ManifestWorld { state, .. }, made) = (world(), made());
    let restored = Manifest { until: Some(StoreSecond::from_unix(5)), ..made.state.clone() };
    let promoted = restored.promote(1, &copy_of(&state, &made), Some("p1")).unwrap();
    assert_eq!(broken(Ok(promoted.clone()), &restored), "none");
    assert_eq!((promoted.until, promoted.cursor, promoted.totals.records), (None, state.cursor, state.totals.records));
    assert_eq!(promoted.promoted_by.as_deref(), Some("p1"));
    let again = promoted.promote(1, &CopyRequest::after(&promoted), Some("p1"));
    assert!(matches!(again, Err(TransactionRejected::NotRestored { .. })));
}
