//! Duplicates, the latest commit of each entity, and whether it is the one that an intent expects: all depend on what came before, so they
//! are resolved in token order against the index and the batch so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use sha2::{Digest as _, Sha256};
use tidemark_wal::{Outcome, ParameterSchedule};

use crate::{
    conflict_rule::{ExpectationVerdict, judge_expectation},
    engine::{EngineError, IndexLookup, RecordMarks},
    expectation::ConflictingCommit,
    key_neighbors::KeyNeighbors,
    mutants,
    record::{KeyedOperation, LatestCommit, OperationPlace, OperationRecord},
};

/// The first 16 bytes of a SHA-256: what is remembered of a key, whatever its length.
type KeyDigest = [u8; 16];

/// Remembers what batches have added and the published index does not contain yet.
#[derive(Debug, Default)]
pub(crate) struct RecordResolver {
    latest: BTreeMap<KeyDigest, LatestCommit>,
    /// The operations whose keys count, by key.
    commits: BTreeSet<(KeyDigest, OperationPlace)>,
    /// Records since it was cleared.
    records: u64,
    /// What the index did not answer last.
    unanswered: Option<IndexQuestion>,
}

/// What the index is asked about some records.
#[derive(Debug)]
pub(crate) enum IndexQuestion {
    /// Which operations committed with the keys of these.
    KeyNeighbors(Vec<KeyedOperation>),
    /// The latest commits of these entities.
    LatestCommits(Vec<String>),
}

impl IndexQuestion {
    /// Whether the index answers it; the answer is dropped.
    pub(crate) async fn ask(&self, index: &dyn IndexLookup) -> Result<(), EngineError> {
        match self {
            Self::KeyNeighbors(operations) => index.key_neighbors(operations).await.map(drop),
            Self::LatestCommits(entities) => index.latest_commits(entities).await.map(drop),
        }
    }
}

impl RecordResolver {
    /// Decides which of `records` are duplicates, by the log's parameters in `schedule`, and which conflicted, and gives the marks that the
    /// committed ones cause. The records have seqs and come in the order of the log, all that are to be decided of an entry together.
    pub(crate) async fn resolve(
        &mut self,
        records: &mut [OperationRecord],
        index: &dyn IndexLookup,
        schedule: &ParameterSchedule,
    ) -> Result<RecordMarks, EngineError> {
        let neighbors = self.indexed_neighbors(records, index).await?;
        // Before it is known which are duplicates: an expectation is judged by what precedes its entry, one entry after the other.
        let entities: Vec<_> = records.iter().map(digest_of_entity).collect();
        self.load_entities(records, &entities, |record| record.entity.clone(), index).await?;
        let expected: Vec<_> = records.iter().map(digest_of_expected).collect();
        self.load_entities(records, &expected, expected_entity, index).await?;
        self.records += records.len() as u64;
        let mut marks = RecordMarks::default();
        let (first_seq, mut begin) = (records.first().map_or(0, |record| record.seq), 0);
        for entry in records.chunk_by_mut(|one, next| one.token == next.token) {
            let verdict = self.judge_entry(entry, first_seq);
            for (record, indexed) in entry.iter_mut().zip(&neighbors[begin..]) {
                match verdict {
                    ExpectationVerdict::Holds => self.mark_duplicate(record, *indexed, schedule),
                    ExpectationVerdict::Conflicts(found) => self.mark_conflicted(record, *indexed, found, schedule),
                }
            }
            for (record, entity) in entry.iter().zip(&entities[begin..]) {
                self.mark_outdated(record, *entity, &mut marks);
            }
            begin += entry.len();
        }
        Ok(marks)
    }

    /// Gives the marks that the committed ones of `records` cause, whose outcomes were recorded before: none is decided again.
    pub(crate) async fn resolve_entities(
        &mut self,
        records: &[OperationRecord],
        index: &dyn IndexLookup,
    ) -> Result<RecordMarks, EngineError> {
        let entities: Vec<_> = records.iter().map(digest_of_entity).collect();
        self.load_entities(records, &entities, |record| record.entity.clone(), index).await?;
        self.records += records.len() as u64;
        let mut marks = RecordMarks::default();
        for (record, entity) in records.iter().zip(entities) {
            self.mark_outdated(record, entity, &mut marks);
        }
        Ok(marks)
    }

    /// How many records it remembers: of each at most an entity and a key, 150 bytes or so.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Forgets all: the index contains it by now, or it was never published.
    pub(crate) fn clear(&mut self) {
        (self.records, self.unanswered) = (0, None);
        self.latest.clear();
        if mutants::forgets_claims() {
            self.commits.clear();
        }
    }

    /// What the index did not answer since it was cleared, if anything.
    pub(crate) fn take_unanswered(&mut self) -> Option<IndexQuestion> {
        self.unanswered.take()
    }

    /// What the index knows of the key of each of `records`; nothing of those that have none or are not committed.
    async fn indexed_neighbors(
        &mut self,
        records: &[OperationRecord],
        index: &dyn IndexLookup,
    ) -> Result<Vec<KeyNeighbors>, EngineError> {
        let keyed = |record: &OperationRecord| record.keyed().filter(|_| record.is_committed());
        let operations: Vec<_> = records.iter().filter_map(keyed).collect();
        if operations.is_empty() || !mutants::asks_index_for_keys() {
            return Ok(vec![KeyNeighbors::default(); records.len()]);
        }
        let answers = index.key_neighbors(&operations).await;
        let answers = answers.inspect_err(|_| self.unanswered = Some(IndexQuestion::KeyNeighbors(operations)))?;
        let mut answers = answers.into_iter();
        let answer_to = |record| keyed(record).and_then(|_| answers.next()).unwrap_or_default();
        Ok(records.iter().map(answer_to).collect())
    }

    /// An operation for which the key of another committed one still counts is a duplicate; `indexed` are those that the index has.
    /// It is measured from what committed, and not from another duplicate.
    fn mark_duplicate(&mut self, record: &mut OperationRecord, indexed: KeyNeighbors, schedule: &ParameterSchedule) {
        let outcome = record.decision.outcome;
        let claims = mutants::claims_key(outcome == Outcome::Committed, outcome);
        let Some(key) = digest_of_key(record).filter(|_| claims) else { return };
        let is_duplicate = outcome == Outcome::Committed && self.is_duplicate(record, indexed, schedule);
        if is_duplicate {
            record.decision.outcome = Outcome::Duplicate;
        }
        if mutants::is_measured_from(!is_duplicate) {
            self.commits.insert((key, (record.token, record.op)));
        }
    }

    /// Whether the key of another committed operation still counts for this one.
    fn is_duplicate(&self, record: &OperationRecord, indexed: KeyNeighbors, schedule: &ParameterSchedule) -> bool {
        let Some(key) = digest_of_key(record) else { return false };
        let this = (record.token, record.op);
        let mut neighbors = indexed;
        self.neighbors_of(key, this).for_each(|other| neighbors.insert(this, other));
        neighbors.counted_for(this, schedule).is_some()
    }

    /// Those next to `this` whose key counts, of what batches have added.
    fn neighbors_of(&self, key: KeyDigest, this: OperationPlace) -> impl Iterator<Item = OperationPlace> {
        let before = self.commits.range(..(key, this)).next_back();
        let after = self.commits.range((Bound::Excluded((key, this)), Bound::Unbounded)).next();
        before.into_iter().chain(after).filter(move |(other, _)| *other == key).map(|(_, place)| *place)
    }

    /// Whether what the records of an entry expect holds, as far as they would be committed. `first_seq`: where the batch begins.
    fn judge_entry(&self, entry: &[OperationRecord], first_seq: u64) -> ExpectationVerdict {
        let committed = || entry.iter().filter(|record| record.is_committed());
        let Some(expectation) = committed().find_map(|record| record.expectation.as_ref()) else {
            return ExpectationVerdict::Holds;
        };
        let newest = self.latest.get(&digest_of(&[&expectation.entity])).copied();
        let own = committed().filter_map(OperationRecord::entity_commit);
        let own = own.filter(|(entity, _)| *entity == expectation.entity).map(|(_, claim)| claim).max();
        judge_expectation(expectation, mutants::newest_before(newest, first_seq), own)
    }

    /// An operation whose expectation does not hold is conflicted, unless it is a duplicate, and claims no key.
    fn mark_conflicted(
        &mut self,
        record: &mut OperationRecord,
        indexed: KeyNeighbors,
        found: Option<ConflictingCommit>,
        schedule: &ParameterSchedule,
    ) {
        if !record.is_committed() || self.is_duplicate(record, indexed, schedule) {
            return self.mark_duplicate(record, indexed, schedule);
        }
        record.decision.outcome = Outcome::Conflicted;
        if let Some(expectation) = &mut record.expectation {
            expectation.conflict = found;
            record.reason = Some(expectation.conflict_reason());
        }
    }

    /// Learns from the index the latest commits of these `entities` of `records`, each of which `asked` names.
    async fn load_entities(
        &mut self,
        records: &[OperationRecord],
        entities: &[Option<KeyDigest>],
        asked: fn(&OperationRecord) -> Option<String>,
        index: &dyn IndexLookup,
    ) -> Result<(), EngineError> {
        let (digests, entities) = unknown(records.iter().zip(entities), &self.latest, asked);
        if entities.is_empty() {
            return Ok(());
        }
        let answers = index.latest_commits(&entities).await;
        let answers = answers.inspect_err(|_| self.unanswered = Some(IndexQuestion::LatestCommits(entities)))?;
        let found = digests.into_iter().zip(answers).filter_map(|(digest, newest)| Some((digest, newest?)));
        self.latest.extend(found);
        Ok(())
    }

    /// Of two committed operations of one entity, marks the older one.
    fn mark_outdated(&mut self, record: &OperationRecord, entity: Option<KeyDigest>, marks: &mut RecordMarks) {
        let Some(((_, claim), entity)) = record.entity_commit().zip(entity) else { return };
        let newest = self.latest.entry(entity).or_insert(claim);
        if *newest == claim {
            return;
        }
        marks.outdated.insert(claim.min(*newest).seq);
        *newest = claim.max(*newest);
    }
}

/// What the index is asked about `records`, which come with their digests: the digests that are not `known`, each once, with what
/// `asked` makes of a record.
fn unknown<'a, K, A>(
    records: impl Iterator<Item = (&'a OperationRecord, &'a Option<KeyDigest>)>,
    known: &BTreeMap<KeyDigest, K>,
    asked: impl Fn(&OperationRecord) -> Option<A>,
) -> (Vec<KeyDigest>, Vec<A>) {
    let unknown: BTreeMap<KeyDigest, A> = records
        .filter_map(|(record, digest)| Some((record, (*digest)?)))
        .filter(|(_, digest)| !known.contains_key(digest))
        .filter_map(|(record, digest)| Some((digest, asked(record)?)))
        .collect();
    unknown.into_iter().unzip()
}

/// The digest of the record's idempotency key and writer, if it has a key.
fn digest_of_key(record: &OperationRecord) -> Option<KeyDigest> {
    let key = record.idempotency_key.as_deref()?;
    Some(digest_of(&[record.writer.as_deref().unwrap_or_default(), key]))
}

/// The digest of the entity of a committed record.
fn digest_of_entity(record: &OperationRecord) -> Option<KeyDigest> {
    record.entity_commit().map(|(entity, _)| digest_of(&[entity]))
}

/// The digest of the entity that a committed record expects something of.
fn digest_of_expected(record: &OperationRecord) -> Option<KeyDigest> {
    let expectation = record.expectation.as_ref().filter(|_| record.is_committed())?;
    Some(digest_of(&[&expectation.entity]))
}

fn expected_entity(record: &OperationRecord) -> Option<String> {
    record.expectation.as_ref().map(|expectation| expectation.entity.clone())
}

fn digest_of(parts: &[&str]) -> KeyDigest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut digest = KeyDigest::default();
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use proptest::prelude::*;
    use serde_json::json;
    use tidemark_store::StoreSecond;
    use tidemark_wal::{LogParameters, Token};

    use super::*;
    use crate::{
        engine::{RecordedOutcome, UnsettledOperation, UnsettledQuery},
        record::WriterKey,
    };

    const AT: u64 = 1_700_000_000;

    /// What is published: the committed operations by their keys.
    #[derive(Default)]
    struct PublishedKeys(BTreeMap<WriterKey, BTreeSet<OperationPlace>>);

    #[async_trait]
    impl IndexLookup for PublishedKeys {
        async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
            Ok(vec![Vec::new(); tokens.len()])
        }

        async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
            Ok(vec![None; entities.len()])
        }

        async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
            let of = |KeyedOperation { place, key }: &KeyedOperation| {
                KeyNeighbors::around(*place, self.0.get(key).into_iter().flatten().copied())
            };
            Ok(operations.iter().map(of).collect())
        }

        async fn unsettled_operations(&self, _: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
            Ok(Vec::new())
        }
    }

    /// An operation of second `second`, the `number`th of all.
    fn record(number: u8, second: u64, key: u8, outcome: Outcome) -> OperationRecord {
        let token = Token::from_parts(StoreSecond::from_unix(AT + second), [number; 16]);
        serde_json::from_value(json!({
            "seq": number, "token": token, "op": 0, "kind": "entry", "size": 2, "body": "{}",
            "idempotencyKey": format!("k{key}"),
            "decision": {"outcome": outcome, "entryTime": token.second(), "observations": []},
        }))
        .unwrap()
    }

    fn retaining(seconds: Option<u64>) -> LogParameters {
        let idempotency_retention = seconds.map(Duration::from_secs);
        LogParameters { idempotency_retention, ..LogParameters::with_expiry(Duration::from_secs(1)) }
    }

    /// The outcomes of `records`, which are seen in this order, by the rule as the specification says it.
    fn by_the_rule(records: &[OperationRecord], schedule: &ParameterSchedule) -> Vec<Outcome> {
        let (mut committed, mut outcomes) = (Vec::<&OperationRecord>::new(), Vec::new());
        for record in records {
            let counts = |other: &&OperationRecord| {
                let (earlier, later) = (other.token.min(record.token), other.token.max(record.token));
                other.idempotency_key == record.idempotency_key
                    && schedule.retains_key(earlier.second(), later.second())
            };
            outcomes.push(match record.decision.outcome {
                Outcome::Committed if committed.iter().any(counts) => Outcome::Duplicate,
                Outcome::Committed => {
                    committed.push(record);
                    Outcome::Committed
                }
                outcome => outcome,
            });
        }
        outcomes
    }

    /// The outcomes of `records` in parts of these lengths; where a part has a length that is odd, all before is published.
    fn in_parts(records: &[OperationRecord], parts: &[usize], schedule: &ParameterSchedule) -> Vec<Outcome> {
        let (mut resolver, mut published, mut left) = (RecordResolver::default(), PublishedKeys::default(), records);
        let (mut unpublished, mut outcomes) = (Vec::new(), Vec::new());
        let mut parts = parts.iter().copied().cycle();
        while !left.is_empty() {
            let length = parts.next().unwrap_or(1);
            let (part, rest) = left.split_at(length.min(left.len()));
            let mut part = part.to_vec();
            futures::executor::block_on(resolver.resolve(&mut part, &published, schedule)).unwrap();
            outcomes.extend(part.iter().map(|record| record.decision.outcome));
            unpublished.extend(part);
            if length % 2 == 1 {
                for record in unpublished.drain(..).filter(OperationRecord::is_committed) {
                    let KeyedOperation { place, key } = record.keyed().unwrap();
                    published.0.entry(key).or_default().insert(place);
                }
                resolver.clear();
            }
            left = rest;
        }
        outcomes
    }

    proptest! {
        /// Wherever batches end and processes restart, and also of what is only seen after later entries were decided.
        #[test]
        fn no_boundary_changes_which_operations_are_duplicates(
            operations in proptest::collection::vec((0u64..60, 0u8..3, 0u8..8), 1..40),
            retentions in proptest::collection::vec(proptest::option::of(1u64..200), 1..4),
            parts in proptest::collection::vec(1usize..9, 1..6),
        ) {
            let first = ParameterSchedule::constant(retaining(retentions[0]));
            let schedule = (0u64..).zip(&retentions[1..]).fold(first, |schedule, (n, retention)| {
                schedule.changed(retaining(*retention), StoreSecond::from_unix(AT + n * 300))
            });
            let (mut second, mut seen, mut seen_late) = (0, Vec::new(), Vec::new());
            for (number, (gap, key, kind)) in (0u8..).zip(operations) {
                second += gap;
                let outcome = if kind == 0 { Outcome::Late } else { Outcome::Committed };
                let record = record(number, second, key, outcome);
                if kind == 1 { seen_late.push(record) } else { seen.push(record) }
            }
            seen.append(&mut seen_late);
            prop_assert_eq!(in_parts(&seen, &parts, &schedule), by_the_rule(&seen, &schedule));
        }
    }

    #[test]
    fn a_key_counts_from_its_commit_and_not_from_its_duplicates() {
        let schedule = ParameterSchedule::constant(retaining(Some(100)));
        let seconds: [(u8, u64); 5] = [(0, 0), (1, 80), (2, 100), (3, 101), (4, 201)];
        let records = seconds.map(|(number, second)| record(number, second, 1, Outcome::Committed));
        let expected =
            [Outcome::Committed, Outcome::Duplicate, Outcome::Duplicate, Outcome::Committed, Outcome::Duplicate];
        for parts in [&[1][..], &[2, 3], &[5], &[4]] {
            assert_eq!(in_parts(&records, parts, &schedule), expected, "{parts:?}");
        }
        let unlimited = ParameterSchedule::constant(retaining(None));
        assert_eq!(in_parts(&records, &[1], &unlimited)[1..], [Outcome::Duplicate; 4]);
    }

    #[test]
    fn a_correction_is_a_duplicate_of_a_later_commit_that_repeats_it() {
        let schedule = ParameterSchedule::constant(retaining(Some(100)));
        let corrected = |second| {
            let later = record(9, 500, 1, Outcome::Committed);
            in_parts(&[later, record(1, second, 1, Outcome::Committed)], &[1], &schedule)[1]
        };
        assert_eq!(corrected(400), Outcome::Duplicate);
        assert_eq!(corrected(399), Outcome::Committed);
    }
}
