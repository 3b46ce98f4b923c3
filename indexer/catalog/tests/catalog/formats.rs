//! Old formats stay readable: one file a format that was ever written. A file is never changed; a new format brings a new one.

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{
    ArchiveExtent, BodyDigest, CatalogError, CleanupPlan, CleanupState, CollectorState, ConsumerPosition,
    ConsumerState, EndReason, GarbageList, Generation, GenerationEnd, IndexId, IndexOwner, IndexPin, IndexRegistration,
    IndexTotals, LeaseHolder, LogClaim, LogCleaner, LogCursor, LogFloor, LogId, Manifest, ParameterSet, PinRegister,
    ProbeRecord, RecordCounts, RootState, SegmentMeta, SetDigest, SetElement, SidecarMeta, SnapshotProof,
    WriterIdentity,
};
use tidemark_store::{AppendOnlyChain, ChainRecord, ChainState as _, Entropy, StateExtensions, Store, StoreSecond};
use tidemark_wal::{Evidence, LogParameters, Outcome, Token};

fn second(unix: u64) -> StoreSecond {
    StoreSecond::from_unix(unix)
}

/// What a later version has added.
fn extensions() -> StateExtensions {
    serde_json::from_str(r#"{"later":{"a":[1,2.50]}}"#).unwrap()
}

fn digest(outcome: Outcome) -> SetDigest {
    let (token, evidence) = (Token::from_bytes([1; 20]), Some(Evidence::Bound));
    SetDigest::of(&SetElement { token, op: 0, outcome, evidence, body: Some(BodyDigest::of(b"body")) })
}

fn segment(epoch: u64, first: u64) -> SegmentMeta {
    SegmentMeta {
        key: format!("g1/segment/{epoch:020}-{first:032x}"),
        size: 4096,
        checksum: "ab".repeat(32),
        format: 1,
        digest: digest(Outcome::Aborted),
        first: Token::from_bytes([1; 20]),
        last: Token::from_bytes([2; 20]),
        entry_times: second(1_600_000_000)..second(1_600_000_300),
        seq: first..first + 8,
        counts: RecordCounts {
            committed: 1,
            late: 1,
            aborted: 1,
            malformed: 1,
            duplicate: 1,
            fenced: 1,
            conflicted: 0,
            expired: 1,
            unreadable: 1,
            unknown: 0,
        },
        unsettled: 2 - first / 9,
        documents: 8,
    }
}

fn sidecar() -> SidecarMeta {
    SidecarMeta {
        key: format!("g1/sidecar/{:020}-{:032x}", 2, 9),
        size: 64,
        checksum: "cd".repeat(32),
        causes: 9..17,
        corrected: 1,
        outdated: 3,
        counts: RecordCounts { aborted: 1, ..RecordCounts::default() },
        digest: digest(Outcome::Aborted),
    }
}

/// A manifest in which everything is in use.
fn manifest() -> Manifest {
    let (segments, sidecars) = (vec![segment(1, 1), segment(2, 9)], vec![sidecar()]);
    Manifest {
        id: Some(IndexId("89abcdef01234567".repeat(2))),
        epoch: 2,
        holder: Some(LeaseHolder {
            identity: WriterIdentity("pod-uid".to_owned()),
            heartbeat: ".tidemark/clock/pod-uid".to_owned(),
            since: Some(second(1_600_000_000)),
        }),
        hasty_takeovers: 1,
        horizon: second(1_600_000_500),
        cursor: LogCursor(second(1_600_000_400)),
        audited: second(1_600_000_300),
        next_seq: 17,
        totals: IndexTotals::of(&segments, &sidecars),
        segments,
        sidecars,
        building: Some("restore-1".to_owned()),
        replaces: Some(Generation::first()),
        until: Some(second(1_600_000_000)),
        promoted_by: Some("promote-1".to_owned()),
        closed: Some(GenerationEnd {
            generation: Some("g2".parse().unwrap()),
            by: EndReason::Restore { to: second(1_600_000_000) },
        }),
        ext: extensions(),
        ..Manifest::new(Generation::first())
    }
}

/// A root in which everything is in use.
fn root() -> RootState {
    let owner = IndexOwner::Resource {
        cluster: "cluster".to_owned(),
        namespace: "namespace".to_owned(),
        name: "name".to_owned(),
        uid: "uid".to_owned(),
    };
    let index = IndexRegistration {
        url: "s3://bucket/index".to_owned(),
        owner: owner.clone(),
        generation: Generation::first(),
        keeps: LogCursor(second(1_500_000_000)),
    };
    let floor = LogFloor {
        second: LogCursor(second(1_500_000_000)),
        archive: "s3://bucket/index/archive".to_owned(),
        extent: ArchiveExtent { version: 2, hash: "ab".repeat(32), end: LogCursor(second(1_500_000_070)) },
        log: LogId("0123456789abcdef".repeat(2)),
    };
    let parameters = LogParameters::with_expiry(std::time::Duration::from_millis(600_500));
    let probe = ProbeRecord { report: serde_json::json!({"passed": true}), recorded: Some(second(1_600_000_001)) };
    RootState {
        id: None,
        parameters: vec![ParameterSet { parameters, recorded: Some(second(1_600_000_000)) }],
        probes: [("s3://bucket/log".to_owned(), probe)].into(),
        indexes: [("main".to_owned(), index)].into(),
        purged: std::collections::BTreeMap::new(),
        cleaner: Some(LogCleaner { index: "main".to_owned(), owner }),
        floor: Some(floor),
        ext: extensions(),
    }
}

/// Writes the file instead of comparing it, if the environment says so: only ever for a new format.
fn write_files(name: &str, written: &str) -> bool {
    let wanted = std::env::var_os("TIDEMARK_WRITE_FORMATS").is_some();
    if wanted {
        let path = format!("{}/../indexer/catalog/tests/formats/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, written).unwrap();
    }
    wanted
}

/// The file reads as `value`, and `value` is still written as in the file.
fn golden<T>(name: &str, file: &str, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let written = serde_json::to_string_pretty(value).unwrap() + "\n";
    if write_files(name, &written) {
        return;
    }
    assert_eq!(&serde_json::from_str::<T>(file).unwrap(), value, "{name} reads differently");
    assert_eq!(written, file, "{name} is written differently: a new format needs a new version and a new file");
}

#[test]
fn manifest_1() {
    golden("manifest-1.json", include_str!("../formats/manifest-1.json"), &manifest());
}

#[test]
fn root_1() {
    golden("root-1.json", include_str!("../formats/root-1.json"), &root());
}

/// What tells a log from every other one, in its root and in an index that holds its records.
#[test]
fn a_claim_of_root_1_and_manifest_1() {
    let root = RootState { id: Some(LogId("0123456789abcdef".repeat(2))), ..root() };
    golden("root-1-id.json", include_str!("../formats/root-1-id.json"), &root);
    let (log, owner) = (root.id.unwrap(), root.indexes["main"].owner.clone());
    let claimed = Manifest { claim: Some(LogClaim { log, url: "s3://bucket/log".to_owned(), owner }), ..manifest() };
    golden("manifest-1-claim.json", include_str!("../formats/manifest-1-claim.json"), &claimed);
}

/// A manifest that was closed for good.
#[test]
fn manifest_1_purged() {
    let purged = Manifest { until: None, closed: None, ..manifest() }.purge(2).unwrap();
    golden("manifest-1-purged.json", include_str!("../formats/manifest-1-purged.json"), &purged);
}

/// What holds objects back from deletion, and what a collector remembers.
#[test]
fn pins_1_and_garbage_1() {
    let log = LogId("0123456789abcdef".repeat(2));
    let proof = SnapshotProof {
        time: Some(second(1_600_000_300)),
        horizon: second(1_600_000_090),
        cursor: LogCursor(second(1_600_000_080)),
        audited: second(1_600_000_070),
        first: Some(second(1_600_000_010)),
        counts: RecordCounts { committed: 3, ..RecordCounts::default() },
        digest: SetDigest::default(),
        bytes: 4096,
        archive: Some(ArchiveExtent { version: 2, hash: "ab".repeat(32), end: LogCursor(second(1_600_000_070)) }),
    };
    let pin = IndexPin {
        owner: "snapshot".to_owned(),
        made: Some(second(1_600_000_100)),
        renewed: Some(second(1_600_000_200)),
        confirmed: true,
        generation: "g2".parse().unwrap(),
        manifest: 7,
        hash: "ef".repeat(32),
        list: format!("snapshots/{log}/list/g2/{}", "a".repeat(32)),
        checksum: "12".repeat(32),
        copy_of: None,
        verified: Some(proof),
    };
    let copied = IndexPin { copy_of: Some("s3://bucket/index".to_owned()), ..pin.clone() };
    let register = PinRegister {
        log: log.clone(),
        purged: Some(Generation::first()),
        copy_of: None,
        pins: [("daily".to_owned(), pin)].into(),
        ext: extensions(),
    };
    golden("pins-1.json", include_str!("../formats/pins-1.json"), &register);
    let copies = PinRegister { copy_of: Some("s3://bucket/index".to_owned()), ..PinRegister::new(log.clone()) };
    golden("pins-1-copies.json", include_str!("../formats/pins-1-copies.json"), &copies);
    let copies = PinRegister { pins: [("daily".to_owned(), copied)].into(), ..copies };
    golden("pins-1-copied.json", include_str!("../formats/pins-1-copied.json"), &copies);
    let dated =
        GarbageList { keys: 20_000, size: 1_240_067, checksum: "cd".repeat(32), since: Some(second(1_600_000_200)) };
    let undated = GarbageList { keys: 1, size: 129, since: None, ..dated.clone() };
    let garbage = CollectorState {
        log,
        epoch: 3,
        collector: "pod-uid".to_owned(),
        ended: 2,
        beyond: ["g5".parse().unwrap()].into(),
        full_pass: Some(second(1_600_000_150)),
        lists: [(format!("g1/{}", "a".repeat(32)), dated), (format!("g2/{}", "b".repeat(32)), undated)].into(),
        ext: extensions(),
    };
    golden("garbage-1.json", include_str!("../formats/garbage-1.json"), &garbage);
}

/// What a clean-up is about to delete.
#[test]
fn cleanup_1() {
    let plan = CleanupPlan {
        made: Some(second(1_600_000_400)),
        to: LogCursor(second(1_600_000_060)),
        floor: LogCursor(second(1_600_000_065)),
        archive: "s3://bucket/index/archive".to_owned(),
        extent: ArchiveExtent { version: 2, hash: "ab".repeat(32), end: LogCursor(second(1_600_000_070)) },
        snapshot: "daily".to_owned(),
    };
    let log = LogId("0123456789abcdef".repeat(2));
    let state = CleanupState { log, epoch: 3, cleaner: "pod-uid".to_owned(), plan: Some(plan), ext: extensions() };
    golden("cleanup-1.json", include_str!("../formats/cleanup-1.json"), &state);
}

/// A consumer that is held.
#[test]
fn consumer_1() {
    let at = |seq| ConsumerPosition { generation: Generation::first(), seq };
    let state = ConsumerState {
        log: LogId("0123456789abcdef".repeat(2)),
        index: IndexId("89abcdef01234567".repeat(2)),
        name: "orders-search".parse().unwrap(),
        epoch: 3,
        holder: Some(LeaseHolder {
            identity: WriterIdentity("pod-uid".to_owned()),
            heartbeat: ".tidemark/clock/pod-uid".to_owned(),
            since: Some(second(1_600_000_000)),
        }),
        start: at(7),
        acknowledged: at(81_244),
        delivered: 81_230,
        dead_lettered: 2,
        ext: extensions(),
    };
    golden("consumer-1.json", include_str!("../formats/consumer-1.json"), &state);
}

/// A root that remembers a purged index.
#[test]
fn root_1_purged() {
    let index = root().indexes["main"].clone();
    let mut purged = root().purge_index("main", &index.owner, &index.generation).unwrap().unwrap();
    purged.purged.get_mut("main").unwrap().recorded = Some(second(1_600_000_002));
    golden("root-1-purged.json", include_str!("../formats/root-1-purged.json"), &purged);
}

/// The bytes of a whole record, as a chain writes and reads them.
#[tokio::test]
async fn record_1() {
    let store = Store::memory();
    let chain = AppendOnlyChain::<Manifest>::new(store.clone(), Entropy::seeded(1));
    let first = Manifest { epoch: 1, ..Manifest::new(Generation::first()) };
    let second = first.take_over(
        1,
        LeaseHolder { identity: WriterIdentity("a".to_owned()), heartbeat: "b".to_owned(), since: None },
        false,
    );
    let second = second.unwrap();
    for state in [&first, &second] {
        chain.append(None, |_| Ok(Some(state.clone()))).await.unwrap();
    }
    let written = store.get("00000000000000000002", 10_000).await.unwrap().unwrap().body.unwrap();
    if write_files("record-1.jsonl", std::str::from_utf8(&written).unwrap()) {
        return;
    }
    assert_eq!(
        written,
        include_str!("../formats/record-1.jsonl"),
        "records are written differently: a new layout is due"
    );
    let slot = chain.read(2).await.unwrap().unwrap();
    let mut read = slot.state;
    assert_eq!(read.holder.as_mut().and_then(|holder| holder.since.take()), Some(slot.time));
    assert_eq!(read, second);
}

#[test]
fn an_unknown_field_is_refused() {
    let file = include_str!("../formats/manifest-1.json").replacen("\"epoch\"", "\"epoche\"", 1);
    let error = serde_json::from_str::<Manifest>(&file).unwrap_err();
    assert!(error.to_string().contains("unknown field `epoche`"), "{error}");
}

#[test]
fn an_undated_item_is_left_out_of_the_bytes() {
    let mut before = Manifest::new(Generation::first());
    before.epoch = 1;
    before.holder =
        Some(LeaseHolder { identity: WriterIdentity("a".to_owned()), heartbeat: "b".to_owned(), since: None });
    let text = serde_json::to_string(&before).unwrap();
    assert!(!text.contains("since") && !text.contains("closed") && !text.contains("until"), "{text}");
}

/// Reads record 7 of a chain that consists of a header with the right checksum and these bytes of a state.
async fn read_record(state: &[u8]) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
    let header = serde_json::json!({
        "format": 1, "reads": 1, "writes": 1, "number": 7, "previous": "0".repeat(64), "nonce": "",
        "checksum": hex::encode(Sha256::digest(state)),
    });
    let bytes = [header.to_string().as_bytes(), b"\n", state, b"\n"].concat();
    let store = Store::memory();
    store.put("00000000000000000007", bytes.into()).await.unwrap();
    AppendOnlyChain::new(store, Entropy::seeded(1)).read(7).await
}

#[tokio::test]
async fn an_unsound_state_is_corrupt() {
    let mut state = Manifest::new(Generation::first());
    let sound = serde_json::to_vec(&state).unwrap();
    assert_eq!(read_record(&sound).await.unwrap().unwrap().state, state);
    state.cursor = LogCursor(second(5));
    let error = read_record(&serde_json::to_vec(&state).unwrap()).await.unwrap_err();
    assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("cursor"), "{error}");
}

/// A manifest in which everything is in use.
const FULL: &str = include_str!("../formats/manifest-1.json");

#[test]
fn the_sample_is_sound() {
    assert_eq!(serde_json::from_str::<Manifest>(FULL).unwrap().check_state(), Ok(()));
}

proptest! {
    /// Damage that bears a right checksum, as a hostile writer's would: read or refused, never a panic.
    #[test]
    fn a_damaged_manifest_is_read_or_refused(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut state: Vec<u8> = FULL.bytes().filter(|b| *b != b'\n').collect();
        for (at, byte) in edits {
            let at = at.index(state.len());
            // Digits become digits, so that numbers and dates are damaged more often than the syntax.
            state[at] = if state[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        if let Ok(Some(record)) = runtime.block_on(read_record(&state)) {
            let _ = record.state.raise_epoch(record.state.epoch).map(|next| next.check_transition(&record.state));
            let _ = record.state.totals.standing();
        }
    }
}
