//! The verification of an index: what is damaged is found and named, what is not is left in peace, and nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidemark_catalog::SegmentMeta;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Token;
use tokio::time::timeout;

use super::{
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, small_batches},
};
use tidemark_ingest::{
    FindingSeverity, IngestOptions, OperationRecord, OutcomeSelection, VerifyCheck, VerifyError, VerifyFinding,
    VerifyObserver, VerifySummary,
    engine::{EngineError, IndexEngine},
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
    reindex,
    snapshot::SnapshotRequest,
};

const MINUTE: Duration = Duration::from_mins(1);

/// What becomes of the bytes of an object; `None`: it is removed.
type ObjectChange = fn(Vec<u8>) -> Option<Vec<u8>>;

#[derive(Default)]
struct RecordingObserver(Mutex<Vec<VerifyFinding>>);

impl VerifyObserver for RecordingObserver {
    fn found(&self, finding: &VerifyFinding) {
        self.0.lock().push(finding.clone());
    }

    fn progress(&self, _: VerifyCheck, done: u64, total: u64) {
        assert!(total == 0 || done <= total, "{done} of {total}");
    }
}

/// A verification, and what it reported. It must have written nothing.
pub(crate) struct VerifyRun {
    pub(crate) summary: VerifySummary,
    pub(crate) findings: Vec<VerifyFinding>,
}

impl VerifyRun {
    pub(crate) async fn of(world: &IngestWorld, outcomes: OutcomeSelection) -> Self {
        let observer = RecordingObserver::default();
        let summary = world.verifier(outcomes).run(&observer).await.unwrap();
        Self { summary, findings: observer.0.into_inner() }
    }

    pub(crate) async fn all(world: &IngestWorld) -> Self {
        let before = world.bucket.written_bytes();
        let found = Self::of(world, OutcomeSelection::All).await;
        assert_eq!(world.bucket.written_bytes(), before, "it writes nothing");
        found
    }

    pub(crate) fn of_severity(&self, severity: FindingSeverity) -> Vec<&VerifyFinding> {
        self.findings.iter().filter(|finding| finding.severity == severity).collect()
    }

    /// Where something is damaged, without doubles.
    pub(crate) fn damaged(&self) -> Vec<String> {
        let mut places: Vec<_> = self
            .of_severity(FindingSeverity::Damage)
            .iter()
            .map(|finding| finding.location.trim_start_matches("test://bucket/").to_owned())
            .collect();
        places.sort();
        places.dedup();
        places
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.summary.damage == 0 && self.summary.unverified == 0
    }
}

/// An index of everything that a log may hold: groups, keys, duplicates, bundles with and without descriptor, labels, entries that are
/// malformed, and corrections.
pub(crate) async fn full_index() -> IngestWorld {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..60 {
        world.append(world.ago(9000 - number), &EntryDraft::entity(number % 5).key(&(number % 50).to_string()));
    }
    world.append(world.ago(8000), &EntryDraft::group(&[1, 2, 3]).key("g"));
    world.append(world.ago(7990), &EntryDraft::group(&[1, 2]).key("g"));
    let job = world.append(world.ago(7980), &EntryDraft::entity(90).expecting("e90", None));
    for at in [7979, 7970] {
        world.append(world.ago(at), &EntryDraft::group(&[90, 91]).expecting("e90", Some(job)));
    }
    for number in 0..6 {
        let at = world.ago(7900 - number);
        world.append(at, &EntryDraft::bundle(&format!("b{number}")));
        if number % 2 == 0 {
            world.describe(&format!("b{number}"), at.next());
        }
    }
    world.append(world.ago(7800), &EntryDraft::label("prod"));
    world.move_label("prod", world.ago(7799));
    world.plant_others();
    world.run_for(MINUTE).await;
    // Late: corrections.
    world.append(world.ago(300), &EntryDraft::bundle("late"));
    world.run_for(5 * MINUTE).await;
    world.describe("late", world.bucket.now());
    let hidden = world.ago(400);
    world.append_at(hidden, world.bucket.now(), &EntryDraft::entity(1));
    world.run_for(20 * MINUTE).await;
    let manifest = world.manifest().await;
    assert!(!manifest.sidecars.is_empty() && manifest.segments.len() > 1, "{manifest:?}");
    assert!(manifest.totals.corrected_counts.aborted > 0, "{:?}", manifest.totals);
    world
}

#[tokio::test(start_paused = true)]
async fn a_sound_index_has_no_damage_and_every_outcome_agrees() {
    let world = full_index().await;
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound(), "{:#?}", found.findings);
    let manifest = world.manifest().await;
    let figures = found.summary.outcomes.unwrap();
    assert_eq!(figures.operations, manifest.totals.standing().total());
    assert_eq!(figures.agree, figures.operations, "{figures:?} {:#?}", found.findings);
    assert_eq!(found.summary.objects, (manifest.segments.len() + manifest.sidecars.len()) as u64);
    assert!(figures.entries > 60 && found.summary.chain_records > 3);
}

/// A group is committed as a whole: what became of one of its descriptors is seen with each of its operations, wherever the records that
/// are read at once begin and end.
#[tokio::test(start_paused = true)]
async fn a_group_whose_bundle_was_deleted_since_is_no_damage_wherever_it_is_in_a_segment() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    for number in 0..80 {
        let id = format!("b{number}");
        world.append(world.ago(9000 - number), &EntryDraft::bundle_and_entity(&id));
        world.describe(&id, world.ago(8999 - number));
        if number % 3 == 0 {
            world.append(world.ago(9000 - number), &EntryDraft::entity(number));
        }
    }
    world.run_for(5 * MINUTE).await;
    let committed = world.manifest().await.totals.standing().committed;
    assert_eq!(committed, 80 * 2 + 27);
    for number in 0..80 {
        world.bucket.remove(&format!("metadata/bundles/r/b{number}/bundle.yaml"));
    }
    for found in
        [VerifyRun::all(&world).await, VerifyRun::of(&world, OutcomeSelection::Sample { count: 1000, seed: 3 }).await]
    {
        assert!(found.is_sound(), "{:#?}", found.of_severity(FindingSeverity::Damage));
        assert_eq!(found.summary.outcomes.unwrap().unprovable, 80 * 2, "{:?} {:#?}", found.summary, found.findings);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_is_the_same_for_one_seed_and_bounded() {
    let world = full_index().await;
    let sample = |seed, count| OutcomeSelection::Sample { count, seed };
    let one = VerifyRun::of(&world, sample(1, 10)).await;
    assert!(one.is_sound());
    assert!(one.summary.outcomes.unwrap().operations <= 10 && one.summary.outcomes.unwrap().entries <= 10);
    assert_eq!(one.summary, VerifyRun::of(&world, sample(1, 10)).await.summary);
    let all = VerifyRun::of(&world, sample(2, 1000)).await.summary.outcomes.unwrap();
    assert_eq!(all.operations, world.manifest().await.totals.standing().total(), "a large sample has each once");
    // What a sample meets, it finds.
    let tokens: Vec<_> = world.outcomes().await.into_keys().collect();
    let gone = tokens[tokens.len() / 2];
    let body = world.bucket.remove(&format!("log/{gone}"));
    let found = VerifyRun::of(&world, sample(2, 1000)).await;
    assert_eq!(found.damaged(), [format!("log/{gone}")]);
    drop(body);
}

/// An engine that counts the records that it decodes.
struct DecodingCounter {
    model: ModelEngine,
    decoded: Arc<AtomicU64>,
}

#[async_trait]
impl EngineDecorator for DecodingCounter {
    fn inner(&self) -> &dyn IndexEngine {
        &self.model
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let records = self.model.records(segment, seqs).await?;
        self.decoded.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(records)
    }
}

/// What a verification costs is what it looks at: records that are decoded, entries that are read, and pages of listings.
#[tokio::test(start_paused = true)]
async fn a_record_is_decoded_once_for_its_outcome_and_once_for_its_row_and_a_sample_costs_what_it_looks_at() {
    const ENTRIES: u64 = 3000;
    let decoded = Arc::new(AtomicU64::new(0));
    let counter = decoded.clone();
    let engine = move |store| -> Arc<dyn IndexEngine> {
        Arc::new(DecodingCounter { model: ModelEngine::new(store), decoded: counter.clone() })
    };
    let world = IngestWorld::with_engine(IngestOptions::default(), Box::new(engine)).await;
    for number in 0..ENTRIES {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9));
    }
    world.run_for(10 * MINUTE).await;
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    let entry_reads = || world.bucket.reads("log/") - world.bucket.reads("log/.tidemark/");
    let cost = async |outcomes| {
        let (listings, reads) = (world.bucket.listings(), entry_reads());
        decoded.store(0, Ordering::Relaxed);
        let found = VerifyRun::of(&world, outcomes).await;
        assert!(found.is_sound(), "{:#?}", found.findings);
        let (figures, archive) = (found.summary.outcomes.unwrap(), found.summary.archive.unwrap());
        let looked = [figures.operations, figures.entries, archive.compared];
        let [listings, reads] = [world.bucket.listings() - listings, entry_reads() - reads];
        (looked, decoded.load(Ordering::Relaxed), reads, listings)
    };
    let (looked, records, reads, _) = cost(OutcomeSelection::All).await;
    assert_eq!((looked, records, reads), ([ENTRIES; 3], 2 * ENTRIES, ENTRIES));
    let (looked, records, reads, least) = cost(OutcomeSelection::Sample { count: 0, seed: 1 }).await;
    assert_eq!((looked, records, reads), ([0; 3], 0, 0));
    for count in [1, 10, 1000] {
        let (looked, records, reads, listings) = cost(OutcomeSelection::Sample { count, seed: 1 }).await;
        assert_eq!((looked, records, reads), ([count; 3], 2 * count, count), "of {count}");
        assert!(listings - least < 60, "of {count}: {listings} listings, {least} without");
    }
}

/// Bursts and gaps of any length: as many as were asked for are looked at, if there are as many, and another seed chooses others.
#[tokio::test(start_paused = true)]
async fn a_sample_has_what_was_asked_for_however_the_log_was_written() {
    for seed in 0..12 {
        let entropy = Entropy::seeded(seed);
        let random = |end: u64| u64::from_be_bytes(entropy.bytes()) % end;
        let world = IngestWorld::new(small_batches()).await;
        let (mut at, mut keys) = (world.ago(60_000), Vec::new());
        for _ in 0..=random(5) {
            for number in 0..=random(40) {
                let second = at.after(Duration::from_secs(random(2)));
                let token = world.append(second, &EntryDraft::entity(number));
                keys.push(format!("log/{token}"));
            }
            at = at.after(Duration::from_secs([2, 60, 9_000][usize::try_from(random(3)).unwrap()]));
        }
        world.run_for(5 * MINUTE).await;
        if seed % 2 == 0 {
            world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
        }
        let total = keys.len() as u64;
        assert_eq!(world.manifest().await.totals.standing().total(), total);
        let sample = async |count, seed| {
            let reads = || keys.iter().map(|key| world.bucket.reads(key)).collect::<Vec<_>>();
            let before = reads();
            let found = VerifyRun::of(&world, OutcomeSelection::Sample { count, seed }).await;
            assert!(found.is_sound(), "{:#?}", found.findings);
            let (figures, wanted) = (found.summary.outcomes.unwrap(), count.min(total));
            let looked = (figures.operations, figures.entries);
            assert_eq!(looked, (wanted, wanted), "seed {seed}: {count} of {total}");
            if let Some(archive) = found.summary.archive {
                assert!(archive.compared >= wanted, "seed {seed}: {count} of {total}: {archive:?}");
            }
            let read = before.into_iter().zip(reads()).enumerate().filter(|(_, (before, after))| before < after);
            read.map(|(number, _)| number).collect::<BTreeSet<_>>()
        };
        for count in [1, 7, total / 2, total, total + 1, 1000] {
            let (one, other) = (sample(count, 2 * seed).await, sample(count, 2 * seed + 1).await);
            assert_eq!(one.len() as u64, count.min(total), "each entry has one operation");
            assert!(count != total / 2 || total < 20 || one != other, "two seeds choose the same of {total}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_looks_at_no_entry_says_so() {
    let world = full_index().await;
    let unlooked = |found: &VerifyRun| {
        let notices = found.of_severity(FindingSeverity::Notice);
        let said = notices.iter().filter(|finding| finding.what.starts_with("no entry was looked at"));
        said.map(|finding| finding.what.clone()).collect::<Vec<_>>()
    };
    let sample = |count| OutcomeSelection::Sample { count, seed: 1 };
    let found = VerifyRun::of(&world, sample(1)).await;
    assert!(!found.summary.looked_at_nothing() && unlooked(&found).is_empty(), "{:#?}", found.findings);
    let found = VerifyRun::of(&world, sample(0)).await;
    assert!(found.summary.looked_at_nothing() && unlooked(&found)[0].contains("the sample is empty"));
    let floor = world.manifest().await.cursor.second();
    let is_entry = |key: &String| key.strip_prefix("log/").is_some_and(|key| key.parse::<Token>().is_ok());
    for key in world.bucket.keys().into_iter().filter(is_entry) {
        world.bucket.remove(&key);
    }
    world.raise_floor(floor).await;
    for outcomes in [OutcomeSelection::All, sample(1000)] {
        let found = VerifyRun::of(&world, outcomes).await;
        assert!(found.is_sound() && found.summary.looked_at_nothing(), "{:#?}", found.findings);
        assert!(unlooked(&found)[0].contains("the log was cleaned up to"), "{:#?}", found.findings);
    }
}

/// The key of the chain's record after this one.
fn follower(key: &str) -> Option<String> {
    let (folder, number) = key.rsplit_once('/')?;
    Some(format!("{folder}/{:020}", number.parse::<u64>().ok()? + 1))
}

#[tokio::test(start_paused = true)]
async fn any_changed_byte_of_any_object_of_the_index_is_found() {
    let world = full_index().await;
    let manifest = world.manifest().await;
    let chain = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g1/manifest/0"));
    let newest = chain.clone().max().unwrap();
    let named = manifest.objects().map(|key| format!("index/{key}"));
    let keys: Vec<String> = named.chain(chain).collect();
    let entropy = Entropy::seeded(11);
    let random = |end: usize| usize::try_from(u64::from_be_bytes(entropy.bytes()) % end as u64).unwrap();
    for round in 0..400 {
        let key = if round % 5 == 0 { &newest } else { &keys[random(keys.len())] };
        let time = world.bucket.time(key);
        let body = world.bucket.remove(key);
        let mut changed = body.to_vec();
        let (at, flip) = (random(changed.len()), 1 + u8::try_from(random(255)).unwrap());
        changed[at] ^= flip;
        world.bucket.plant(key, changed, time);
        let found = VerifyRun::of(&world, OutcomeSelection::Sample { count: 0, seed: 1 }).await;
        world.bucket.plant(key, body.clone(), time);
        // The nonce of the newest record is named by nothing, and a format of a later release is read.
        let nonce = body.windows(9).position(|bytes| bytes == b"\"nonce\":\"").map(|at| at + 9);
        let is_nonce = *key == newest && nonce.is_some_and(|nonce| (nonce..nonce + 32).contains(&at));
        // What only a header says is found by the record that follows.
        let places = [key.clone(), follower(key).unwrap_or_else(|| key.clone()), "index/g1/manifest".to_owned()];
        let is_damage =
            |finding: &&VerifyFinding| places.iter().any(|place| finding.location.ends_with(place.as_str()));
        let is_found = found.findings.iter().any(|finding| is_damage(&finding));
        assert!(is_nonce || is_found, "byte {at} of {key} ^ {flip}: {:?}", found.findings);
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_damage_is_named_with_its_place_and_mends_nothing_else() {
    let world = full_index().await;
    let manifest = world.manifest().await;
    let segment = format!("index/{}", manifest.segments[0].key);
    let sidecar = format!("index/{}", manifest.sidecars[0].key);
    let chain: Vec<_> = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g1/manifest/0")).collect();
    let middle = chain[chain.len() / 2].clone();
    let cases: [(&str, &String, ObjectChange, &str); 7] = [
        ("truncated segment", &segment, |body| Some(body[..body.len() - 1].to_vec()), "bytes, the manifest says"),
        ("longer segment", &segment, |body| Some([&body[..], b"x"].concat()), "bytes, the manifest says"),
        ("segment gone", &segment, |_| None, "it does not exist"),
        ("foreign object", &segment, |body| Some(vec![b'x'; body.len()]), "checksum"),
        ("sidecar gone", &sidecar, |_| None, "it does not exist"),
        ("chain record gone", &middle, |_| None, "it is missing although later ones are there"),
        ("empty chain record", &middle, |_| Some(Vec::new()), "it is not two lines of JSON"),
    ];
    for (name, key, change, what) in cases {
        let time = world.bucket.time(key);
        let body = world.bucket.remove(key);
        if let Some(changed) = change(body.to_vec()) {
            world.bucket.plant(key, changed, time);
        }
        let keys = world.bucket.keys();
        let found = VerifyRun::all(&world).await;
        assert_eq!(world.bucket.keys(), keys, "{name}");
        assert_eq!(found.damaged(), [key.as_str()], "{name}: {:#?}", found.findings);
        let damage = found.of_severity(FindingSeverity::Damage);
        assert!(damage.iter().any(|finding| finding.what.contains(what)), "{name}: {damage:#?}");
        for finding in &found.findings {
            let parts = [&finding.location, &finding.what, &finding.effect, &finding.remedy];
            assert!(parts.iter().all(|part| !part.trim().is_empty()), "{name}: {finding:?}");
        }
        world.bucket.plant(key, body, time);
    }
    assert!(VerifyRun::all(&world).await.is_sound());
}

#[tokio::test(start_paused = true)]
async fn a_manifest_whose_figures_were_changed_contradicts_its_objects() {
    let world = full_index().await;
    let keys = world.bucket.keys();
    let newest = keys.iter().filter(|key| key.starts_with("index/g1/manifest/0")).max().unwrap();
    let time = world.bucket.time(newest);
    let body = String::from_utf8(world.bucket.remove(newest).to_vec()).unwrap();
    let (header, state) = body.split_once('\n').unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(state).unwrap();
    // By somebody who knows the format: the sums are right, and so is the checksum.
    let segment = &mut manifest["segments"][0];
    let shift = |value: &mut serde_json::Value, by: i64| *value = (value.as_i64().unwrap() + by).into();
    shift(&mut segment["counts"]["committed"], -1);
    shift(&mut segment["counts"]["late"], 1);
    shift(&mut manifest["totals"]["counts"]["committed"], -1);
    shift(&mut manifest["totals"]["counts"]["late"], 1);
    let state = manifest.to_string();
    let checksum = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(state.as_bytes()));
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    header["checksum"] = checksum.into();
    world.bucket.plant(newest, format!("{header}\n{state}\n"), time);
    let found = VerifyRun::all(&world).await;
    let segment = format!("index/{}", world.manifest().await.segments[0].key);
    assert_eq!(found.damaged(), [segment], "{:#?}", found.findings);
}

#[tokio::test(start_paused = true)]
async fn what_the_log_lost_or_changed_is_damage_and_what_metadata_lost_is_not() {
    let world = full_index().await;
    let outcomes = world.outcomes().await;
    let tokens: Vec<Token> = outcomes.keys().copied().collect();
    let [gone, changed, again] = [tokens[3], tokens[7], tokens[11]].map(|token| format!("log/{token}"));
    world.bucket.remove(&gone);
    let time = world.bucket.time(&changed);
    world.bucket.plant(&changed, "another body", time);
    let body = world.bucket.remove(&again);
    world.bucket.plant(&again, body, world.bucket.now());
    // Deleted, and written again.
    world.bucket.remove("metadata/bundles/r/b0/bundle.yaml");
    world.describe("b2", world.bucket.now());
    let found = VerifyRun::all(&world).await;
    let mut expected = vec![gone, changed, again];
    expected.sort();
    assert_eq!(found.damaged(), expected, "{:#?}", found.findings);
    let figures = found.summary.outcomes.unwrap();
    assert_eq!((figures.differ, figures.unprovable), (3, 2), "{figures:?}");
    let proofs = found.of_severity(FindingSeverity::Notice);
    assert_eq!(proofs.iter().filter(|finding| finding.check == VerifyCheck::Outcomes).count(), 2, "{proofs:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_index_lacks_is_damage_once_the_audit_is_past_it() {
    let world = full_index().await;
    let manifest = world.manifest().await;
    let late = world.append(manifest.cursor.second().before(MINUTE), &EntryDraft::entity(1));
    let after_window = world.append_at(world.ago(20_000), world.bucket.now(), &EntryDraft::entity(2));
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound(), "{:#?}", found.findings);
    let notices = found.of_severity(FindingSeverity::Notice);
    let at = |token: Token| notices.iter().find(|finding| finding.location.ends_with(&token.to_string())).unwrap();
    assert!(at(late).remedy.contains("audit"), "{notices:#?}");
    assert!(at(after_window).effect.contains("after the audit window"), "{notices:#?}");
    world.set_audited(manifest.cursor.second()).await;
    let found = VerifyRun::all(&world).await;
    assert_eq!(found.damaged(), [format!("log/{late}")]);
    assert_eq!(found.summary.outcomes.unwrap().missing_entries, 1);
}

#[tokio::test(start_paused = true)]
async fn what_lies_below_the_floor_is_not_missed() {
    let world = full_index().await;
    let floor = world.ago(8500);
    for key in world.bucket.keys() {
        let token = key.strip_prefix("log/").and_then(|key| key.parse::<Token>().ok());
        if token.is_some_and(|token| token.second() < floor) {
            world.bucket.remove(&key);
        }
    }
    let found = VerifyRun::all(&world).await;
    assert!(found.summary.damage > 0, "nothing says that they may be gone");
    world.raise_floor(floor).await;
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound(), "{:#?}", found.findings);
    assert!(found.summary.outcomes.unwrap().below_floor > 0 && found.summary.floor.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_no_damage_and_not_passed_over() {
    let world = full_index().await;
    let manifest = world.manifest().await;
    world.bucket.spoil(Some((&manifest.segments[0].key, BadRead::Refused)));
    let found = VerifyRun::all(&world).await;
    assert_eq!(found.summary.damage, 0, "{:#?}", found.findings);
    let unread = found.of_severity(FindingSeverity::Unverified);
    assert!(unread.iter().any(|finding| finding.location.ends_with(&manifest.segments[0].key)), "{unread:#?}");
    assert!(unread.iter().all(|finding| !finding.remedy.is_empty()), "{unread:#?}");
    assert_eq!(found.summary.outcomes, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_for_damage_while_the_indexer_writes_and_compacts() {
    let world = IngestWorld::new(IngestOptions { batch_records: 3, chunk: 2, ..IngestOptions::default() }).await;
    let writing = world.start();
    let mut compactions = 0;
    let mut segments = 0;
    for round in 0..40u64 {
        for number in 0..8 {
            world.append(world.bucket.now(), &EntryDraft::entity(number % 3).key(&format!("{round}-{number}")));
        }
        world.pass(Duration::from_secs(20)).await;
        world.bucket.slow(Duration::from_millis(3));
        let found = VerifyRun::of(&world, OutcomeSelection::All).await;
        world.bucket.slow(Duration::ZERO);
        assert!(found.is_sound(), "round {round}: {:#?}", found.findings);
        let now = world.manifest().await.segments.len();
        compactions += u32::from(now < segments);
        segments = now;
    }
    assert!(compactions > 0, "nothing was merged meanwhile");
    world.stop(writing).await;
}

/// An object that was replaced while the verification ran, and is gone by now: as after a day of a collector.
#[tokio::test(start_paused = true)]
async fn an_object_that_was_replaced_and_deleted_meanwhile_is_no_damage() {
    let world = IngestWorld::new(IngestOptions { batch_records: 3, compaction: false, ..small_batches() }).await;
    for number in 0..200 {
        world.append(world.ago(9000 - number), &EntryDraft::entity(number % 5));
    }
    world.run_for(MINUTE).await;
    let before = world.manifest().await;
    assert!(before.segments.len() > 20);
    world.bucket.slow(Duration::from_secs(2));
    let observer = RecordingObserver::default();
    let verifier = world.verifier(OutcomeSelection::Sample { count: 0, seed: 1 });
    let reads = || world.bucket.reads(&format!("index/{}", before.segments[0].key));
    let reads_before = reads();
    let replacing = async {
        // After the latest manifest was read.
        while reads() == reads_before {
            world.pass(Duration::from_secs(1)).await;
        }
        world.bucket.slow(Duration::ZERO);
        world.compact_all(&before).await;
        for segment in &before.segments {
            world.bucket.remove(&format!("index/{}", segment.key));
        }
    };
    let (summary, ()) = tokio::join!(verifier.run(&observer), replacing);
    let summary = summary.unwrap();
    assert_eq!((summary.damage, summary.unverified > 0), (0, true), "{:#?}", observer.0.lock());
    assert!(summary.replaced > 10, "{summary:?}");
}

/// A generation that a rebuild replaced while the verification ran, whose last pin is gone by now, and its objects with it.
#[tokio::test(start_paused = true)]
async fn a_generation_that_was_replaced_and_deleted_meanwhile_is_no_damage() {
    let world = IngestWorld::new(IngestOptions { batch_records: 3, compaction: false, ..small_batches() }).await;
    for number in 0..60 {
        world.append(world.ago(9000 - number), &EntryDraft::entity(number % 5));
    }
    world.run_for(MINUTE).await;
    let before = world.manifest().await;
    world.bucket.slow(Duration::from_secs(2));
    let observer = RecordingObserver::default();
    let verifier = world.verifier(OutcomeSelection::Sample { count: 0, seed: 1 });
    let reads = || world.bucket.reads(&format!("index/{}", before.segments[0].key));
    let reads_before = reads();
    let replacing = async {
        while reads() == reads_before {
            world.pass(Duration::from_secs(1)).await;
        }
        world.bucket.slow(Duration::ZERO);
        assert_eq!(reindex(&world.generation_task(None)).await.unwrap().generation.to_string(), "g2");
        assert_eq!(world.pins().await, ["before-g2"]);
        world.unpin("before-g2").await;
        for object in before.objects() {
            world.bucket.remove(&format!("index/{object}"));
        }
    };
    let (summary, ()) = tokio::join!(verifier.run(&observer), replacing);
    let summary = summary.unwrap();
    assert_eq!(summary.damage, 0, "{:#?}", observer.0.lock());
    assert!(summary.replaced > 10, "{summary:?}");
}

/// A pin is dropped, and its list with it, after the verification has read that there is one and before it reads the list.
#[tokio::test(start_paused = true)]
async fn a_pin_that_is_dropped_meanwhile_names_no_object_that_is_gone() {
    let world = IngestWorld::new(IngestOptions { batch_records: 3, compaction: false, ..small_batches() }).await;
    for number in 0..60 {
        world.append(world.ago(9000 - number), &EntryDraft::entity(number % 5));
    }
    world.run_for(MINUTE).await;
    let before = world.manifest().await;
    let (maker, _) = world.snapshot_maker().await;
    maker.pins.pin(&maker.chain, "restore", "a restore").await.unwrap();
    let list = world.bucket.keys().into_iter().find(|key| key.contains("/list/")).unwrap();
    world.bucket.slow(Duration::from_secs(2));
    world.bucket.hold(Some("/list/"));
    let observer = RecordingObserver::default();
    let verifier = world.verifier(OutcomeSelection::Sample { count: 0, seed: 1 });
    let reads = || world.bucket.reads(&format!("index/{}", before.segments[0].key));
    let reads_before = reads();
    let dropping = async {
        while reads() == reads_before {
            world.pass(Duration::from_secs(1)).await;
        }
        world.bucket.slow(Duration::ZERO);
        world.compact_all(&before).await;
        for segment in &before.segments {
            world.bucket.remove(&format!("index/{}", segment.key));
        }
        world.pass(MINUTE).await;
        let going_on = async {
            world.pass(MINUTE).await;
            world.bucket.forget(&list);
            world.bucket.hold(None);
        };
        tokio::join!(world.unpin("restore"), going_on);
    };
    let (summary, ()) = tokio::join!(verifier.run(&observer), dropping);
    assert_eq!(summary.unwrap().damage, 0, "{:#?}", observer.0.lock());
}

/// A process that pinned ended before it knew that the index still names all of it: its pin holds nothing back.
#[tokio::test(start_paused = true)]
async fn a_pin_that_is_not_confirmed_may_name_objects_that_are_gone() {
    let world = IngestWorld::new(IngestOptions { batch_records: 3, compaction: false, ..small_batches() }).await;
    for number in 0..60 {
        world.append(world.ago(9000 - number), &EntryDraft::entity(number % 5));
    }
    world.run_for(MINUTE).await;
    let world = world.copied_at(world.bucket.now());
    let before = world.manifest().await;
    let (maker, _) = world.snapshot_maker().await;
    // The list and the pin are written; its confirmation is not.
    world.bucket.die_at_write(Some(3));
    timeout(MINUTE, maker.pins.pin(&maker.chain, "restore", "a restore")).await.unwrap_err();
    world.bucket.die_at_write(None);
    assert!(!maker.pins.register().await.unwrap().pins["restore"].confirmed);
    world.compact_all(&before).await;
    for segment in &before.segments {
        world.bucket.remove(&format!("index/{}", segment.key));
    }
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound() && found.summary.snapshots == 1, "{:#?}", found.findings);
    // Its list is read all the same.
    let list = world.bucket.keys().into_iter().find(|key| key.contains("/list/")).unwrap();
    world.bucket.plant(&list, "no list", world.ago(0));
    assert_eq!(VerifyRun::all(&world).await.damaged(), [list]);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_names_is_counted_and_listed() {
    let world = full_index().await;
    let manifest = world.manifest().await;
    let stray = |epoch: u64| format!("index/g1/segment/{epoch:020}-{}", "a".repeat(32));
    world.bucket.plant(&stray(0), "left behind", world.ago(100));
    world.bucket.plant(&stray(manifest.epoch), "being uploaded", world.ago(1));
    world.bucket.plant("index/g1/segment/notes.txt", "somebody's own", world.ago(1));
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound());
    let garbage = found.summary.garbage.unwrap();
    let leaks: Vec<_> = found.findings.iter().filter(|finding| finding.check == VerifyCheck::Garbage).collect();
    assert!(leaks.iter().any(|leak| leak.location.ends_with(&stray(0))), "{leaks:#?}");
    assert!(leaks.iter().all(|leak| !leak.location.ends_with(&stray(manifest.epoch))), "{leaks:#?}");
    assert_eq!(garbage.others, 1);
    assert!(garbage.undecided >= 1 && garbage.garbage > 0, "{garbage:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_this_log_s_index_is_refused_by_name() {
    let world = full_index().await;
    let observer = RecordingObserver::default();
    let all = || world.verifier(OutcomeSelection::All);
    let never = tidemark_wal::Log::over(world.bucket.store("other"), vec![world.bucket.store("metadata")]);
    let mut verifier = all();
    verifier.root = tidemark_catalog::RootChain::open(&never, Entropy::seeded(1));
    verifier.log = never;
    let refused = verifier.run(&observer).await.unwrap_err();
    assert!(matches!(&refused, VerifyError::NeverIndexed { log } if log.ends_with("other")), "{refused}");
    let mut verifier = all();
    verifier.index = world.bucket.store("elsewhere");
    let refused = verifier.run(&observer).await.unwrap_err();
    assert!(matches!(refused, VerifyError::NoIndex { .. }), "{refused}");
    // A copy of the log.
    let copied: BTreeMap<String, StoreSecond> =
        world.bucket.keys().into_iter().map(|key| (key.clone(), world.bucket.time(&key))).collect();
    for (key, time) in copied.into_iter().filter(|(key, _)| key.starts_with("log/")) {
        let body = world.bucket.remove(&key);
        world.bucket.plant(&key, body.clone(), time);
        world.bucket.plant(&key.replacen("log/", "copy/", 1), body, time);
    }
    let copy = tidemark_wal::Log::over(world.bucket.store("copy"), vec![world.bucket.store("metadata")]);
    let mut verifier = all();
    verifier.root = tidemark_catalog::RootChain::open(&copy, Entropy::seeded(1));
    verifier.log = copy;
    let refused = verifier.run(&observer).await.unwrap_err().to_string();
    assert!(refused.contains("is a copy") && refused.contains("--moved-from"), "{refused}");
}
