//! What must hold after every failure: one writer an epoch, and an index that says exactly what the log says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::StreamExt as _;
use tidemark_catalog::{IndexChain, Manifest, ObjectName, RootChain};
use tidemark_ingest::engine::{IndexEngine, RecordMarks};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_store::{ChainRecord, Entropy, StoreSecond};
use tidemark_tests::stores;
use tidemark_wal::{Log, LogReader, Outcome, ParameterSchedule, ParameterSource as _, ResolvedEntry};

use super::world::{FailureWorld, LOG, METADATA, until};

/// What was read of log and index.
#[derive(Debug)]
pub(crate) struct LogComparison {
    /// Entries below the cursor, in the log and in the index.
    pub(crate) entries: usize,
}

/// An entry that was appended under a lock.
#[derive(Debug)]
pub(crate) struct GuardedEntry {
    pub(crate) grant: u64,
    pub(crate) outcome: Outcome,
}

/// What the buckets say of one entry.
struct LoggedEntry {
    outcome: String,
    /// Its store time lies so far after its token that the horizon may have passed before it was there.
    came_behind_the_horizon: bool,
}

impl FailureWorld {
    /// Compares the log with the index up to the cursor of `slot`: the same tokens with the same outcomes, each operation
    /// exactly once. The log is read and judged from its buckets, without the index; the index from its segments.
    pub(crate) async fn compare(&self, slot: &ChainRecord<Manifest>) -> LogComparison {
        self.compare_with(slot, "the index", indexed(&self.chain(), &slot.state).await).await
    }

    /// Compares the log up to the cursor of `slot` with the outcomes that `copy` has. An entry that came after the horizon had
    /// passed its token, such as one whose PUT was under way when the store went down, is for the audit to find, a minute after
    /// the fact: the index may not have it yet.
    pub(crate) async fn compare_with(
        &self,
        slot: &ChainRecord<Manifest>,
        copy: &str,
        outcomes: BTreeMap<String, String>,
    ) -> LogComparison {
        let mut logged = self.logged(slot).await;
        logged.retain(|token, entry| !entry.came_behind_the_horizon || outcomes.contains_key(token));
        let logged: BTreeMap<_, _> = logged.into_iter().map(|(token, entry)| (token, entry.outcome)).collect();
        let (here, there): (BTreeSet<_>, BTreeSet<_>) = (logged.keys().collect(), outcomes.keys().collect());
        let missing: Vec<_> = here.difference(&there).collect();
        let unknown: Vec<_> = there.difference(&here).collect();
        assert!(missing.is_empty(), "{copy} misses {missing:?}, which the log has below {}", slot.state.cursor);
        assert!(unknown.is_empty(), "{copy} has {unknown:?}, which the log has not");
        assert_eq!(outcomes, logged, "outcomes in {copy} and in the log");
        LogComparison { entries: outcomes.len() }
    }

    /// Every entry below the cursor that names this lock, in the order of the tokens, from the buckets alone.
    pub(crate) async fn guarded(&self, slot: &ChainRecord<Manifest>, lock: &str) -> Vec<GuardedEntry> {
        let (entries, _) = self.entries(slot).await;
        let guarded = entries.iter().filter_map(|entry| {
            let named = entry.intent.as_ref().ok()?.lock.as_ref().filter(|named| named.name.as_str() == lock)?;
            Some(GuardedEntry { grant: named.grant?, outcome: outcome_of(entry) })
        });
        guarded.collect()
    }

    /// Every entry below the cursor, as it is judged.
    async fn logged(&self, slot: &ChainRecord<Manifest>) -> BTreeMap<String, LoggedEntry> {
        let (entries, schedule) = self.entries(slot).await;
        let judged = |entry: &ResolvedEntry| {
            let delay = schedule.at(entry.token.second()).horizon_delay();
            let came_behind_the_horizon = entry.entry_time.since(entry.token.second()) >= delay;
            (entry.token.to_string(), LoggedEntry { outcome: text_of(outcome_of(entry)), came_behind_the_horizon })
        };
        entries.iter().map(judged).collect()
    }

    /// Every entry below the cursor in the order of the tokens, from the buckets alone.
    async fn entries(&self, slot: &ChainRecord<Manifest>) -> (Vec<ResolvedEntry>, ParameterSchedule) {
        let environment = self.store.environment();
        let log = Log::over(stores::open(LOG, &environment), vec![stores::open(METADATA, &environment)]);
        let schedule = RootChain::open(&log, Entropy::from_os()).schedule().await.expect("the log has parameters");
        let reader = LogReader::new(&log);
        let listed = reader.list(StoreSecond::KSUID_EPOCH, slot.state.cursor.second());
        let entries = listed.map(|listed| {
            let (reader, schedule) = (reader.clone(), schedule.clone());
            async move { reader.fetch(&listed.expect("it is listed"), &schedule).await.expect("it is read") }
        });
        (entries.buffered(16).collect().await, schedule)
    }
}

fn outcome_of(entry: &ResolvedEntry) -> Outcome {
    entry.ops.first().map_or(Outcome::Malformed, |op| op.decision.outcome)
}

fn text_of(outcome: Outcome) -> String {
    serde_json::to_value(outcome).ok().and_then(|text| text.as_str().map(str::to_owned)).expect("it is text")
}

/// The outcome of every entry that a manifest's segments hold.
async fn indexed(chain: &IndexChain, manifest: &Manifest) -> BTreeMap<String, String> {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 30 };
    let engine = Arc::new(TantivyEngine::open(chain.index().clone(), &options).expect("the engine opens"));
    let mut marks = RecordMarks::default();
    for sidecar in &manifest.sidecars {
        marks.merge(&engine.read_marks(sidecar).await.expect("the sidecar reads"));
    }
    let (mut seen, mut outcomes, mut next) = (BTreeSet::new(), BTreeMap::new(), 1);
    for segment in &manifest.segments {
        for record in engine.records(segment, segment.seq.clone()).await.expect("the segment reads") {
            assert_eq!(record.seq, next, "every seq once and in order");
            next += 1;
            // A correction stands in for the record that it corrects.
            if marks.corrected.contains(record.seq) {
                continue;
            }
            let token = record.token.to_string();
            assert!(seen.insert((token.clone(), record.op)), "operation {} of {token} is there twice", record.op);
            outcomes.insert(token, text_of(record.decision.outcome));
        }
    }
    assert_eq!(next, manifest.next_seq, "every record of the manifest was read");
    outcomes
}

/// Goes through every manifest from `first` to `last`: within an epoch there is one holder, all that is added bears its
/// epoch, and no epoch comes back. Gives the holders by epoch, from the one of `first`.
pub(crate) async fn writers(
    chain: &IndexChain,
    first: &ChainRecord<Manifest>,
    last: &ChainRecord<Manifest>,
) -> Vec<(u64, String)> {
    let mut before = first.clone();
    let mut writers: Vec<(u64, String)> = holder(first).into_iter().collect();
    while before.number < last.number {
        let number = before.number + 1;
        let slot = until("a manifest is read", async || chain.chain().read(number).await.ok().flatten()).await;
        let (old, new) = (&before.state, &slot.state);
        assert!(new.epoch == old.epoch || new.epoch == old.epoch + 1, "manifest {number} is of epoch {}", new.epoch);
        let known: BTreeSet<&str> = old.objects().collect();
        for key in new.objects().filter(|key| !known.contains(key)) {
            let name: ObjectName = key.parse().expect("it is the name of an object");
            assert_eq!(name.epoch, new.epoch, "manifest {number} took \"{key}\" of another writer");
        }
        if let Some((epoch, identity)) = holder(&slot) {
            match writers.last() {
                Some((last, same)) if *last == epoch => assert_eq!(*same, identity, "two writers in epoch {epoch}"),
                _ => writers.push((epoch, identity)),
            }
        }
        before = slot;
    }
    writers
}

fn holder(slot: &ChainRecord<Manifest>) -> Option<(u64, String)> {
    slot.state.holder.as_ref().map(|holder| (slot.state.epoch, holder.identity.to_string()))
}
