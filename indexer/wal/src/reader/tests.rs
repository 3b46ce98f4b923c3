//! Entries as other programs write them, and how a reader resolves them.

mod metadata_stores;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;

use super::{
    label_versions::{LabelVersionReader, LabelVersions},
    object_reader::ObjectReader,
    shared_horizon::SharedHorizon,
    *,
};
use crate::{
    Evidence, Log, LogParameters, Outcome, ParameterSchedule, Token, marker_key,
    testing::{OPENED, ReadFault, TestStore, VersionFaults},
};
use tidemark_store::{Create, Store, StoreError, StoreSecond, UserMetadata};

const BUNDLE: &str = "bundles/r/b/bundle.yaml";
const LABEL: &str = "labels/r/v1/label.yaml";

fn token() -> Token {
    Token::from_parts(OPENED, [9; 16])
}

/// `C` is 25 s.
fn schedule() -> ParameterSchedule {
    let expiry = Duration::from_secs(20);
    let (request_timeout, audit_window) = (Duration::from_secs(5), Duration::from_mins(5));
    ParameterSchedule::constant(LogParameters { request_timeout, audit_window, ..LogParameters::with_expiry(expiry) })
}

async fn create(store: &Store, key: &str, body: impl Into<Bytes>, metadata: &[(&str, &str)]) {
    let metadata: UserMetadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert!(matches!(store.create(key, body.into(), &metadata).await, Create::Committed));
}

async fn enter(log: &Log, body: impl Into<Bytes>) {
    create(&log.entries, &token().to_string(), body, &[]).await;
}

async fn fetch(log: &Log) -> ResolvedEntry {
    let reader = LogReader::new(log);
    reader.lookup(token(), &schedule()).await.unwrap().unwrap()
}

async fn decided(log: &Log) -> (Outcome, Option<Evidence>) {
    let decision = fetch(log).await.ops.remove(0).decision;
    (decision.outcome, decision.evidence)
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

const DEEP: [u8; 10_000] = [b'['; 10_000];
const ABSENT: (Outcome, Option<Evidence>) = (Outcome::Aborted, None);

#[test]
fn every_store_takes_the_names_of_what_binds() {
    for name in [TOKEN_FIELD, OP_FIELD] {
        // Azure takes identifiers only, and a name must look the same in whatever case it comes back.
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_is_timed_unless_it_says_more() {
    let other = Token::from_parts(OPENED, [8; 16]).to_string();
    let own = token().to_string();
    for (metadata, expected) in [
        (vec![], (Outcome::Committed, Some(Evidence::Timed))),
        (vec![("tidemarktoken", own.as_str())], (Outcome::Committed, Some(Evidence::Bound))),
        (vec![("tidemarktoken", own.as_str()), ("tidemarkop", "0")], (Outcome::Committed, Some(Evidence::Bound))),
        (vec![("tidemarktoken", own.as_str()), ("tidemarkop", "1")], ABSENT),
        (vec![("tidemarktoken", other.as_str()), ("tidemarkop", "0")], ABSENT),
    ] {
        let log = TestStore::new().log();
        enter(&log, BUNDLE).await;
        assert_eq!(decided(&log).await, ABSENT);
        create(log.descriptors(), BUNDLE, "id: b\n", &metadata).await;
        assert_eq!(decided(&log).await, expected, "{metadata:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_digest_binds_or_refuses() {
    let body = Bytes::from_static(b"id: b\n");
    for (digest, expected) in [
        (digest_of(&body), (Outcome::Committed, Some(Evidence::Bound))),
        (digest_of(&Bytes::from_static(b"id: b")), ABSENT),
    ] {
        let log = TestStore::new().log();
        enter(&log, format!(r#"{{"tidemark":1,"ops":[{{"descriptor":"{BUNDLE}","digest":"{digest}"}}]}}"#)).await;
        create(log.descriptors(), BUNDLE, body.clone(), &[]).await;
        assert_eq!(decided(&log).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_carries_the_token_binds() {
    let log = TestStore::new().log();
    let path = format!("bundles/r/{}/bundle.yaml", token());
    enter(&log, path.clone()).await;
    create(log.descriptors(), &path, "message: m\n", &[]).await;
    assert_eq!(decided(&log).await, (Outcome::Committed, Some(Evidence::Bound)));
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_from_before_the_token_is_absent() {
    let log = TestStore::new().log();
    create(log.descriptors(), BUNDLE, "id: b\n", &[]).await;
    pass(1).await;
    let token = Token::from_parts(OPENED.next(), [9; 16]);
    create(&log.entries, &token.to_string(), BUNDLE, &[]).await;
    let reader = LogReader::new(&log);
    let found = reader.lookup(token, &schedule()).await.unwrap().unwrap();
    assert_eq!(found.ops[0].decision.outcome, Outcome::Aborted);
    assert!(found.ops[0].descriptor.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_comes_late_or_after_the_audit() {
    for (seconds, expected) in
        [(26, Outcome::Committed), (27, Outcome::Late), (300, Outcome::Late), (301, Outcome::Expired)]
    {
        let log = TestStore::new().log();
        enter(&log, BUNDLE).await;
        pass(seconds).await;
        create(log.descriptors(), BUNDLE, "id: b\n", &[]).await;
        let entry = fetch(&log).await;
        assert_eq!(entry.ops[0].decision.outcome, expected, "{seconds} s");
        assert_eq!(entry.ops[0].decision.completed, Some(OPENED.after(Duration::from_secs(seconds))));
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_stores_are_asked_too() {
    let log = TestStore::new().log();
    enter(&log, BUNDLE).await;
    create(log.values(), BUNDLE, "id: b\n", &[]).await;
    assert_eq!(decided(&log).await, (Outcome::Committed, Some(Evidence::Timed)));
}

#[tokio::test(start_paused = true)]
async fn what_counts_in_another_store_beats_what_does_not() {
    let log = TestStore::new().log();
    enter(&log, BUNDLE).await;
    create(log.descriptors(), BUNDLE, "id: b\n", &[("tidemarktoken", "000000000000000000000000000")]).await;
    assert_eq!(decided(&log).await, ABSENT);
    create(log.values(), BUNDLE, "id: b\n", &[("tidemarktoken", &token().to_string())]).await;
    assert_eq!(decided(&log).await, (Outcome::Committed, Some(Evidence::Bound)));
}

/// A label move as Datamon's clients make it: the entry, of a token of this moment; `None` where the client crashes before it
/// writes the label.
async fn move_label(log: &Log, seconds: u64, value: Option<&str>) -> Token {
    move_label_at(log, seconds, 9, value).await
}

/// As [`move_label`], where several tokens are of one second.
async fn move_label_at(log: &Log, seconds: u64, random: u8, value: Option<&str>) -> Token {
    let token = Token::from_parts(OPENED.after(Duration::from_secs(seconds)), [random; 16]);
    create(&log.entries, &token.to_string(), format!("token: {token}\npayload: {LABEL}\n"), &[]).await;
    if let Some(value) = value {
        log.values().put(LABEL, Bytes::from(format!("id: {value}\n"))).await.unwrap();
    }
    token
}

/// Outcome, evidence and value of the label moves, as a new reader sees them.
async fn label_moves(log: &Log, tokens: &[Token]) -> Vec<(Outcome, Option<Evidence>, Option<String>)> {
    moves_seen_by(&LogReader::new(log), tokens).await
}

/// The same as `reader` sees them.
async fn moves_seen_by(reader: &LogReader, tokens: &[Token]) -> Vec<(Outcome, Option<Evidence>, Option<String>)> {
    let mut moves = Vec::new();
    for token in tokens {
        let op = reader.lookup(*token, &schedule()).await.unwrap().unwrap().ops.remove(0);
        let value = op.descriptor.and_then(|label| label.id);
        assert_eq!(op.decision.completed.is_some(), value.is_some());
        moves.push((op.decision.outcome, op.decision.evidence, value));
    }
    moves
}

fn moved(value: &str) -> (Outcome, Option<Evidence>, Option<String>) {
    (Outcome::Committed, Some(Evidence::Timed), Some(value.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_bears_the_token_is_bound() {
    let log = TestStore::new().log();
    enter(&log, "bundles/r/").await;
    assert_eq!(decided(&log).await, ABSENT);
    create(log.descriptors(), &format!("bundles/r/{}/bundle.yaml", token()), "message: m\n", &[]).await;
    assert_eq!(decided(&log).await, (Outcome::Committed, Some(Evidence::Bound)));
}

const UNKNOWN: (Outcome, Option<Evidence>, Option<String>) = (Outcome::Unknown, Some(Evidence::Inferred), None);
const CRASHED: (Outcome, Option<Evidence>, Option<String>) = (Outcome::Aborted, None, None);

#[tokio::test(start_paused = true)]
async fn an_aborted_label_move_stays_aborted_when_the_label_is_moved_later() {
    let log = TestStore::new().versioned_log();
    let crashed = move_label(&log, 0, None).await;
    assert_eq!(label_moves(&log, &[crashed]).await, [CRASHED]);
    for (after, value) in [(3, "b1"), (40, "b2")] {
        pass(after).await;
        let seconds = if after == 3 { 3 } else { 43 };
        let other = move_label(&log, seconds, Some(value)).await;
        assert_eq!(label_moves(&log, &[crashed, other]).await, [CRASHED, moved(value)]);
    }
    // Somebody who writes no entry moves it after the bound.
    pass(100).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b3\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[crashed]).await, [CRASHED]);
}

/// A floor that the log has, whatever its root says.
#[derive(Debug)]
struct FixedFloor(StoreSecond);

#[async_trait::async_trait]
impl LogFloorSource for FixedFloor {
    async fn floor(&self) -> Result<StoreSecond, StoreError> {
        Ok(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn below_the_floor_no_version_is_an_entrys_without_a_marker() {
    for is_versioned in [true, false] {
        // The clock of a store begins with it.
        let store = TestStore::new();
        let log = if is_versioned { store.versioned_log() } else { store.log() };
        let crashed = move_label(&log, 0, None).await;
        pass(2).await;
        let other = move_label(&log, 2, Some("b1")).await;
        pass(100).await;
        let last = move_label(&log, 102, None).await;
        pass(100).await;
        // As if it was cleaned up.
        log.entries.delete(&[other.to_string()]).await.unwrap();
        assert_eq!(label_moves(&log, &[crashed]).await, [moved("b1")], "without a floor nothing was deleted");
        for (floor, expected) in [(0, moved("b1")), (1, UNKNOWN), (1000, UNKNOWN)] {
            let floor = Arc::new(FixedFloor(OPENED.after(Duration::from_secs(floor))));
            let reader = LogReader::new(&log).with_floor(floor);
            assert_eq!(moves_seen_by(&reader, &[crashed]).await, [expected]);
            // What was never written is nowhere else.
            assert_eq!(moves_seen_by(&reader, &[last]).await, [CRASHED]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_label_move_has_its_own_version() {
    let log = TestStore::new().versioned_log();
    let mut tokens = vec![move_label(&log, 0, Some("b1")).await];
    pass(2).await;
    tokens.push(move_label(&log, 2, None).await);
    pass(2).await;
    tokens.push(move_label(&log, 4, Some("b3")).await);
    pass(75).await;
    tokens.push(move_label(&log, 79, Some("b4")).await);
    pass(1000).await;
    assert_eq!(label_moves(&log, &tokens).await, [moved("b1"), CRASHED, moved("b3"), moved("b4")]);
    log.values().delete(&[LABEL.to_owned()]).await.unwrap();
    assert_eq!(label_moves(&log, &tokens).await, [moved("b1"), CRASHED, moved("b3"), moved("b4")], "deleted since");
}

#[tokio::test(start_paused = true)]
async fn two_moves_of_a_label_in_one_second_end_at_the_second_one() {
    // The tokens of one second have no order.
    for randoms in [[1, 2], [2, 1]] {
        for limit in [1000, 1] {
            let lab = TestStore::new();
            let log = lab.versioned_log();
            lab.limit_version_pages(limit);
            let before = move_label_at(&log, 0, 9, Some("b0")).await;
            pass(1).await;
            let mut tokens = Vec::new();
            for (random, value) in randoms.into_iter().zip(["first", "second"]) {
                tokens.push(move_label_at(&log, 1, random, Some(value)).await);
            }
            pass(1).await;
            let after = move_label_at(&log, 2, 1, Some("b3")).await;
            tokens.sort();
            let expected = ["b0", "first", "second", "b3"].map(moved);
            assert_eq!(label_moves(&log, &[before, tokens[0], tokens[1], after]).await, expected, "{randoms:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_versions_only_the_latest_move_has_a_value() {
    let log = TestStore::new().log();
    let mut tokens = vec![move_label(&log, 0, Some("b1")).await];
    assert_eq!(label_moves(&log, &tokens).await, [moved("b1")]);
    pass(2).await;
    tokens.push(move_label(&log, 2, None).await);
    pass(2).await;
    tokens.push(move_label(&log, 4, Some("b3")).await);
    assert_eq!(label_moves(&log, &tokens).await, [UNKNOWN, UNKNOWN, moved("b3")]);
    pass(100).await;
    assert_eq!(label_moves(&log, &tokens).await, [UNKNOWN, UNKNOWN, moved("b3")]);
    log.values().put(LABEL, Bytes::from_static(b"id: b4\n")).await.unwrap();
    assert_eq!(label_moves(&log, &tokens).await, [UNKNOWN; 3]);
    pass(1).await;
    tokens.push(move_label(&log, 105, None).await);
    assert_eq!(label_moves(&log, &tokens[3..]).await, [CRASHED], "not moved since");
}

#[tokio::test(start_paused = true)]
async fn what_a_writer_of_markers_puts_into_the_label_is_no_other_entrys_value() {
    for lab in [TestStore::new(), TestStore::new()] {
        for log in [lab.log(), lab.versioned_log()] {
            let crashed = move_label(&log, lab.now().unix() - OPENED.unix(), None).await;
            pass(1).await;
            let own = Token::from_parts(lab.now(), [9; 16]).to_string();
            let metadata = [("tidemarktoken".to_owned(), own), ("tidemarkop".to_owned(), "0".to_owned())].into();
            log.values().put_with(LABEL, Bytes::from_static(b"id: ours\n"), &metadata).await.unwrap();
            let found = label_moves(&log, &[crashed]).await;
            assert!([CRASHED, UNKNOWN].contains(&found[0]), "{found:?}");
            pass(100).await;
        }
    }
}

/// `count` moves of one label within 20 s, beside as many entries of another kind; the client of every fourth one crashes.
async fn move_often(log: &Log, count: u64) -> Vec<Token> {
    let (mut tokens, mut passed) = (Vec::new(), 0);
    for number in 0..count {
        let second = number * 20 / count;
        pass(second - passed).await;
        passed = second;
        let token = |kind: u8| {
            let mut random = [kind; 16];
            random[..8].copy_from_slice(&number.to_be_bytes());
            Token::from_parts(OPENED.after(Duration::from_secs(second)), random)
        };
        create(&log.entries, &token(1).to_string(), format!("a note, number {number}"), &[]).await;
        create(&log.entries, &token(2).to_string(), LABEL, &[]).await;
        if number % 4 > 0 {
            log.values().put(LABEL, Bytes::from(format!("id: b{number}\n"))).await.unwrap();
        }
        tokens.push(token(2));
    }
    tokens
}

/// The requests of reading the moves of one label, several at once.
async fn requests_of_moves(lab: &TestStore, log: &Log, count: u64) -> usize {
    let tokens = move_often(log, count).await;
    pass(100).await;
    let (reader, schedule) = (LogReader::new(log), schedule());
    reader.seal(OPENED.after(Duration::from_mins(1)));
    lab.take_requests();
    let lookup = |token| {
        let (reader, schedule) = (reader.clone(), schedule.clone());
        async move { reader.lookup(token, &schedule).await.unwrap().unwrap().ops.remove(0).decision.outcome }
    };
    let outcomes: Vec<Outcome> = futures::stream::iter(tokens).map(lookup).buffered(16).collect().await;
    assert_eq!(outcomes.len() as u64, count);
    let committed = outcomes.iter().filter(|outcome| **outcome == Outcome::Committed).count() as u64;
    assert!(committed > 0, "{outcomes:?}");
    lab.take_requests().all()
}

#[tokio::test(start_paused = true)]
async fn moves_of_a_label_in_one_window_cost_requests_that_grow_with_their_number() {
    for is_versioned in [true, false] {
        let mut requests = Vec::new();
        for count in [40, 120, 360] {
            let lab = TestStore::new();
            let log = if is_versioned { lab.versioned_log() } else { lab.log() };
            requests.push(requests_of_moves(&lab, &log, count).await as u64 * 100 / count);
        }
        // Of each move: the entry, perhaps twice, the note beside it, and the label's time and value, or two versions.
        assert!(requests.iter().all(|each| *each < 900), "requests for 100 moves of one label: {requests:?}");
        assert!(requests[2] <= requests[0] + 100, "requests for 100 moves of one label: {requests:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_reads_its_version_once_and_the_log_up_to_it() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let first = move_label(&log, 0, Some("b1")).await;
    for second in 1..20 {
        pass(1).await;
        move_label(&log, second, Some("later")).await;
    }
    lab.take_requests();
    assert_eq!(label_moves(&log, &[first]).await, [moved("b1")]);
    let requests = lab.take_requests();
    assert_eq!((requests.gets, requests.lists, requests.version_lists), (2, 1, 1), "the entry and its version");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_versions_that_passes_decides_nothing() {
    for faults in [VersionFaults { lists: 3, reads: 0 }, VersionFaults { lists: 0, reads: 3 }] {
        let lab = TestStore::new();
        let log = lab.versioned_log();
        let mut tokens = vec![move_label(&log, 0, Some("b1")).await];
        pass(2).await;
        tokens.push(move_label(&log, 2, Some("b2")).await);
        lab.refuse_versions(faults);
        assert_eq!(label_moves(&log, &tokens).await, [moved("b1"), moved("b2")], "{faults:?}");
    }
}

/// Moves of the label, one a second.
async fn move_each_second(log: &Log, count: u64) -> Vec<Token> {
    let mut tokens = Vec::new();
    for second in 0..count {
        tokens.push(move_label(log, second, Some("b1")).await);
        pass(1).await;
    }
    tokens
}

/// The operation's outcome is not known, since this right is missing.
fn assert_right_is_missing(op: ResolvedOperation, right: &str) {
    assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Unknown, Some(Evidence::Inferred)));
    let reason = op.unreadable.unwrap().reason;
    assert!(reason.contains(right), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_right_to_versions_that_is_missing_stops_nobody_and_is_the_reason() {
    for (faults, right) in [
        (VersionFaults { lists: u32::MAX, reads: 0 }, "s3:ListBucketVersions"),
        (VersionFaults { lists: 0, reads: u32::MAX }, "s3:GetObjectVersion"),
    ] {
        let lab = TestStore::new();
        let log = lab.versioned_log();
        // More than objects may be refused within an hour.
        let mut tokens = move_each_second(&log, 150).await;
        lab.refuse_versions(faults);
        let reader = LogReader::new(&log);
        let last = tokens.pop().unwrap();
        for token in tokens {
            assert_right_is_missing(reader.lookup(token, &schedule()).await.unwrap().unwrap().ops.remove(0), right);
        }
        let op = reader.lookup(last, &schedule()).await.unwrap().unwrap().ops.remove(0);
        assert_eq!(op.decision.outcome, Outcome::Committed, "nobody has moved it since");
        // Granted, it counts at once.
        lab.refuse_versions(VersionFaults::default());
        let first = reader.lookup(token(), &schedule()).await.unwrap().unwrap().ops.remove(0);
        assert_eq!(first.decision.outcome, Outcome::Committed);
    }
}

/// What a reader that tries again decides about the label's move.
async fn decide_label(reader: &LogReader, token: Token) -> ResolvedOperation {
    for _ in 0..100 {
        if let Ok(entry) = reader.lookup(token, &schedule()).await {
            return entry.unwrap().ops.remove(0);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("nothing is decided");
}

#[tokio::test(start_paused = true)]
async fn a_right_to_read_versions_that_is_withdrawn_is_the_reason_and_not_the_single_version() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    // More than objects may be refused within an hour.
    let mut tokens = move_each_second(&log, 150).await;
    let reader = LogReader::new(&log);
    let (first, last) = (tokens.remove(0), tokens.pop().unwrap());
    assert_eq!(decide_label(&reader, first).await.decision.outcome, Outcome::Committed);
    lab.refuse_versions(VersionFaults { lists: 0, reads: u32::MAX });
    let begun = tokio::time::Instant::now();
    for token in &tokens {
        assert_right_is_missing(decide_label(&reader, *token).await, "s3:GetObjectVersion");
    }
    assert!((15..30).contains(&begun.elapsed().as_secs()), "{} s", begun.elapsed().as_secs());
    assert_eq!(decide_label(&reader, last).await.decision.outcome, Outcome::Committed, "nobody has moved it since");
    lab.refuse_versions(VersionFaults::default());
    assert_eq!(decide_label(&reader, tokens[0]).await.decision.outcome, Outcome::Committed, "it is granted again");
}

#[tokio::test(start_paused = true)]
async fn one_version_that_is_refused_stops_nobody() {
    for refused in [1, 2] {
        let lab = TestStore::new();
        let log = lab.versioned_log();
        let mut tokens = Vec::new();
        for (second, value) in [(0, "b0"), (2, "b1"), (4, "b2")] {
            tokens.push(move_label(&log, second, Some(value)).await);
            pass(2).await;
        }
        lab.refuse_numbered_versions("label.yaml", refused..refused + 1);
        let (reader, begun) = (LogReader::new(&log), tokio::time::Instant::now());
        for (number, token) in tokens.into_iter().enumerate() {
            let op = decide_label(&reader, token).await;
            // The newest one can be read as the object.
            if number == 1 && refused == 1 {
                assert_eq!(op.decision.outcome, Outcome::Unknown);
                let reason = op.unreadable.unwrap().reason;
                assert!(reason.contains("it was not given"), "{reason}");
            } else {
                assert_eq!(op.decision.outcome, Outcome::Committed);
                assert_eq!(op.descriptor.unwrap().id, Some(format!("b{number}")));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_archived_is_no_missing_right_also_where_it_is_the_first_that_is_read() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let tokens = move_each_second(&log, 3).await;
    lab.refuse_numbered_versions("label.yaml", 0..2);
    let op = decide_label(&LogReader::new(&log), tokens[0]).await;
    assert_eq!(op.decision.outcome, Outcome::Unknown);
    let reason = op.unreadable.unwrap().reason;
    assert!(reason.contains("it was not given"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn versions_that_are_archived_stop_nobody_however_many_they_are() {
    for first in [1, 0] {
        let lab = TestStore::new();
        let log = lab.versioned_log();
        // More than objects may be refused within an hour.
        let tokens = move_each_second(&log, 250).await;
        lab.refuse_numbered_versions("label.yaml", first..249);
        let (reader, begun) = (LogReader::new(&log), tokio::time::Instant::now());
        for token in &tokens[..first] {
            assert_eq!(decide_label(&reader, *token).await.decision.outcome, Outcome::Committed);
        }
        let archived = futures::stream::iter(&tokens[first..249]).map(|token| decide_label(&reader, *token));
        let mut archived = archived.buffered(64);
        while let Some(op) = archived.next().await {
            assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Unknown, Some(Evidence::Inferred)));
            let reason = op.unreadable.unwrap().reason;
            assert!(reason.contains("it was not given"), "{reason}");
        }
        assert!(begun.elapsed() < Duration::from_mins(10), "{} s", begun.elapsed().as_secs());
        assert_eq!(decide_label(&reader, tokens[249]).await.decision.outcome, Outcome::Committed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_for_one_repo_is_waited_for_once() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let mut tokens = Vec::new();
    for second in 0..20 {
        let repo = if second % 2 == 0 { "given" } else { "refused" };
        let token = Token::from_parts(OPENED.after(Duration::from_secs(second)), [9; 16]);
        let label = format!("labels/{repo}/v1/label.yaml");
        create(&log.entries, &token.to_string(), label.clone(), &[]).await;
        log.values().put(&label, Bytes::from_static(b"id: b\n")).await.unwrap();
        tokens.push(token);
        pass(1).await;
    }
    for faults in [VersionFaults { lists: u32::MAX, reads: 0 }, VersionFaults { lists: 0, reads: u32::MAX }] {
        lab.refuse_versions_of("labels/refused/", faults);
        let (reader, begun) = (LogReader::new(&log), tokio::time::Instant::now());
        for (number, token) in tokens[..18].iter().enumerate() {
            let expected = if number % 2 == 0 { Outcome::Committed } else { Outcome::Unknown };
            assert_eq!(decide_label(&reader, *token).await.decision.outcome, expected);
        }
        let waited = begun.elapsed().as_secs();
        assert!((15..30).contains(&waited), "{faults:?}: {waited} s");
    }
}

/// A label that is written ten times a second for `seconds`, and moved by an entry every fifth second.
async fn write_often(log: &Log, seconds: u64) -> Vec<Token> {
    let mut tokens = Vec::new();
    for second in 0..seconds {
        if second % 5 == 0 {
            tokens.push(move_label(log, second, Some(&format!("b{second}"))).await);
        }
        for number in 0..10 {
            log.values().put(LABEL, Bytes::from(format!("id: {second}-{number}\n"))).await.unwrap();
        }
        pass(1).await;
    }
    tokens
}

#[tokio::test(start_paused = true)]
async fn the_pages_of_a_label_with_many_versions_are_listed_twice_however_often_it_was_moved() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    lab.limit_version_pages(50);
    let tokens = write_often(&log, 500).await;
    pass(100).await;
    let reader = LogReader::new(&log);
    reader.seal(lab.now());
    lab.take_requests();
    for token in &tokens {
        let op = reader.lookup(*token, &schedule()).await.unwrap().unwrap().ops.remove(0);
        // Of the versions of one second the newest.
        let expected = format!("{}-9", token.second().since(OPENED).as_secs());
        assert_eq!(op.descriptor.unwrap().id, Some(expected));
    }
    let (requests, pages) = (lab.take_requests(), 5100_usize.div_ceil(50));
    assert!((pages..=2 * pages).contains(&requests.version_lists), "{requests:?}");
    assert!(requests.gets <= 3 * tokens.len(), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn labels_of_many_versions_that_alternate_do_not_have_their_pages_listed_each_time() {
    let (lab, labels, seconds) = (TestStore::new(), 12, 120);
    let log = lab.versioned_log();
    let label = |number| format!("labels/r/{number}/label.yaml");
    let mut moves = Vec::new();
    for second in 0..seconds {
        for number in 0..labels {
            if second % 10 == 0 {
                let token = Token::from_parts(OPENED.after(Duration::from_secs(second)), [number; 16]);
                create(&log.entries, &token.to_string(), label(number), &[]).await;
                moves.push(token);
            }
            for _ in 0..25 {
                log.values().put(&label(number), Bytes::from_static(b"id: b\n")).await.unwrap();
            }
        }
        pass(1).await;
    }
    pass(100).await;
    let reader = LogReader::new(&log);
    reader.seal(lab.now());
    lab.take_requests();
    for token in &moves {
        assert_eq!(decide_label(&reader, *token).await.decision.outcome, Outcome::Committed);
    }
    let (requests, pages) = (lab.take_requests(), usize::from(labels) * 3);
    assert!((pages..=3 * pages).contains(&requests.version_lists), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn versions_that_are_deleted_or_added_after_they_were_listed_hide_no_others() {
    for limit in [1, 3, 7] {
        let lab = TestStore::new();
        let log = lab.versioned_log();
        lab.limit_version_pages(limit);
        let tokens = write_often(&log, 30).await;
        let reader = LogReader::new(&log);
        reader.seal(OPENED.after(Duration::from_hours(1)));
        reader.lookup(tokens[0], &schedule()).await.unwrap();
        for number in 0..300 {
            if number % 3 < 2 {
                lab.delete_version(LABEL, number);
            }
        }
        for _ in 0..20 {
            log.values().put(LABEL, Bytes::from_static(b"id: later\n")).await.unwrap();
        }
        let fresh = LogReader::new(&log);
        for token in &tokens {
            let [one, other] = [&reader, &fresh].map(|reader| decide_label(reader, *token));
            let (one, other) = (one.await, other.await);
            assert_eq!(one.decision, other.decision);
            assert_eq!(one.descriptor, other.descriptor);
        }
    }
}

/// The numbers of the label's versions that were written within `seconds`, as a reader gives them page by page.
async fn versions_within(reader: &LabelVersionReader, store: &Store, seconds: RangeInclusive<u64>) -> Vec<usize> {
    let memory = MemoryShare::unshared();
    let [from, until] = [*seconds.start(), *seconds.end()].map(|second| OPENED.after(Duration::from_secs(second)));
    let listed = reader.label_versions(store, LABEL, from, until, &memory).await.unwrap();
    let LabelVersions::Listed(mut range) = listed else { panic!("they are not listed") };
    let mut numbers = Vec::new();
    while let Ok(Some(versions)) = reader.next_versions(store, LABEL, &mut range, &memory).await {
        numbers.extend(versions.into_iter().rev().map(|version| version.id.unwrap().parse::<usize>().unwrap()));
    }
    assert_eq!(memory.bytes(), 0);
    numbers
}

#[tokio::test(start_paused = true)]
async fn versions_are_given_once_each_in_the_order_of_time_whatever_was_deleted_or_added_since() {
    for limit in [1, 2, 3, 7, 200] {
        for kept in [1, 2, 3, 5] {
            let lab = TestStore::new();
            let log = lab.versioned_log();
            lab.limit_version_pages(limit);
            for number in 0..100 {
                log.values().put(LABEL, Bytes::from_static(b"id: b\n")).await.unwrap();
                pass(u64::from(number % 4 == 3)).await;
            }
            let horizon = Arc::new(SharedHorizon::default());
            let reader = LabelVersionReader::new(&ObjectReader::default(), &horizon);
            horizon.raise(lab.now());
            assert_eq!(versions_within(&reader, log.values(), 3..=10).await, (12..44).collect::<Vec<_>>());
            assert_eq!(versions_within(&reader, log.values(), 0..=30).await, (0..100).collect::<Vec<_>>());
            let is_kept = |number: &usize| number.is_multiple_of(kept);
            (0..100).filter(|number| !is_kept(number)).for_each(|number| lab.delete_version(LABEL, number));
            for _ in 0..10 {
                log.values().put(LABEL, Bytes::from_static(b"id: b\n")).await.unwrap();
            }
            for (from, until) in [(0, 24), (3, 10), (20, 24), (7, 7)] {
                // What is held still shows what was deleted, which its reading tells.
                let mut given = versions_within(&reader, log.values(), from..=until).await;
                given.retain(is_kept);
                let expected = (0..100).filter(is_kept).filter(|number| (from..=until).contains(&(*number as u64 / 4)));
                assert_eq!(
                    given,
                    expected.collect::<Vec<_>>(),
                    "{limit} on a page, one of {kept} kept, {from}..={until}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_knows_of_one_horizon_hides_nothing_of_the_next() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let reader = LogReader::new(&log);
    let value = async |token| {
        let op = decide_label(&reader, token).await;
        (op.decision.outcome, op.decision.evidence, op.descriptor.and_then(|label| label.id))
    };
    let mut tokens = vec![move_label(&log, 0, Some("b0")).await];
    for second in [50, 100, 150] {
        pass(second - lab.now().since(OPENED).as_secs()).await;
        // What was moved 50 s ago is sealed, and what is moved now is not.
        reader.seal(lab.now().before(Duration::from_secs(40)));
        for token in &tokens {
            value(*token).await;
        }
        // One that crashes, and one that does not.
        tokens.push(move_label_at(&log, second, 7, None).await);
        tokens.push(move_label(&log, second, Some(&format!("b{second}"))).await);
        value(tokens[tokens.len() - 1]).await;
    }
    pass(100).await;
    reader.seal(lab.now());
    for token in &tokens {
        assert_eq!(value(*token).await, label_moves(&log, &[*token]).await.remove(0), "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_in_the_last_second_of_the_bound_is_unknown_unless_it_is_anothers() {
    let log = TestStore::new().versioned_log();
    let first = move_label(&log, 0, None).await;
    pass(26).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b1\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[first]).await, [UNKNOWN]);
    pass(1).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b2\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[first]).await, [UNKNOWN], "what comes later changes nothing");

    let log = TestStore::new().versioned_log();
    let first = move_label(&log, 0, None).await;
    pass(20).await;
    let other = move_label(&log, 20, None).await;
    pass(6).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b1\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[first, other]).await, [CRASHED, moved("b1")]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_read_keeps_no_other_label_waiting() {
    let lab = TestStore::new();
    let log = lab.log();
    let (mut tokens, note) =
        (Vec::new(), Token::from_parts(OPENED.after(Duration::from_secs(30)), [1; 16]).to_string());
    for second in 0..40 {
        if second == 30 {
            create(&log.entries, &note, "a note", &[]).await;
        }
        tokens.push(move_label(&log, second, Some("b1")).await);
        pass(1).await;
    }
    lab.refuse(&note, ReadFault::Unavailable);
    let reader = LogReader::new(&log);
    reader.seal(OPENED.after(Duration::from_hours(1)));
    let begun = tokio::time::Instant::now();
    let decided = tokens.iter().map(|token| decide_label(&reader, *token));
    let outcomes: Vec<Outcome> =
        futures::future::join_all(decided).await.iter().map(|op| op.decision.outcome).collect();
    assert_eq!(outcomes[..39], [Outcome::Unknown; 39]);
    // The store's own retries take 16 s, and the entry is refused twenty times before it is judged.
    assert!(begun.elapsed() < Duration::from_secs(5 * 16), "{} s", begun.elapsed().as_secs());
}

/// The label alone is refused, with and without versions: it is judged by the rule for refused objects, and holds up nobody.
#[tokio::test(start_paused = true)]
async fn a_label_that_alone_is_refused_is_decided() {
    for has_versions in [false, true] {
        let lab = TestStore::new();
        let log = if has_versions { lab.versioned_log() } else { lab.log() };
        let moved = move_label(&log, 0, Some("b1")).await;
        pass(2).await;
        create(log.values(), "labels/r/z/label.yaml", "id: b9\n", &[]).await;
        lab.refuse(LABEL, ReadFault::Body);
        lab.refuse_numbered_versions(LABEL, 0..usize::MAX);
        let reader = LogReader::new(&log);
        let mut decided = None;
        for _ in 0..10 {
            decided = reader.lookup(moved, &schedule()).await.ok();
            if decided.is_some() {
                break;
            }
            pass(11).await;
        }
        let op = decided.unwrap_or_else(|| panic!("not decided, with versions: {has_versions}")).unwrap().ops.remove(0);
        assert_ne!(op.decision.outcome, Outcome::Aborted, "{has_versions}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_label_itself_is_refused_nothing_is_decided_about_its_versions() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let moved_once = move_label(&log, 0, Some("b1")).await;
    pass(2).await;
    move_label(&log, 2, Some("b2")).await;
    lab.refuse("label.yaml", ReadFault::BodyAndHead);
    lab.refuse_versions(VersionFaults { lists: u32::MAX, reads: u32::MAX });
    let reader = LogReader::new(&log);
    for _ in 0..50 {
        reader.lookup(moved_once, &schedule()).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_appears_after_the_sealing_takes_no_version_of_a_sealed_one() {
    for (tolerance, version) in [(5000, 26), (5000, 21), (1500, 25), (1999, 25)] {
        assert_later_entry_takes_nothing(Duration::from_millis(tolerance), version).await;
    }
}

/// A version of second `version` belongs to the same entry before and after another one of the same second appears, whose store is
/// ahead.
async fn assert_later_entry_takes_nothing(clock_tolerance: Duration, version: u64) {
    let log = TestStore::new().versioned_log();
    let parameters = LogParameters { clock_tolerance, ..schedule().newest().parameters };
    let schedule = ParameterSchedule::constant(parameters);
    let decided = async |token: Token| {
        let op = LogReader::new(&log).lookup(token, &schedule).await.unwrap().unwrap().ops.remove(0);
        (op.decision.outcome, op.decision.evidence)
    };
    let crashed = move_label(&log, 0, None).await;
    pass(version).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b1\n")).await.unwrap();
    let sealed = decided(crashed).await;
    // Later than what is sure to be visible when the first one is sealed.
    pass(27 - version).await;
    move_label(&log, version, None).await;
    assert_eq!(decided(crashed).await, sealed, "{clock_tolerance:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_folder_holds_of_a_marker_is_no_other_entrys_value() {
    let lab = TestStore::new();
    let log = lab.log_on_folder();
    let ours = Token::from_parts(OPENED, [8; 16]);
    create(log.values(), &marker_key("r", "v1", ours, 0), "id: ours\n", &[]).await;
    pass(1).await;
    let crashed = move_label(&log, 1, None).await;
    assert_eq!(label_moves(&log, &[crashed]).await, [CRASHED]);
    pass(1).await;
    // The writer of the marker is late.
    log.values().put(LABEL, Bytes::from_static(b"id: ours\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[crashed]).await, [UNKNOWN]);
    log.values().put(LABEL, Bytes::from_static(b"id: theirs\n")).await.unwrap();
    assert_eq!(label_moves(&log, &[crashed]).await, [moved("theirs")]);
}

#[tokio::test(start_paused = true)]
async fn entries_that_are_read_for_the_labels_that_they_name_are_held_one_at_a_time_where_they_are_large() {
    let lab = TestStore::new();
    let log = lab.versioned_log();
    let crashed = move_label(&log, 0, None).await;
    for number in 1..10 {
        let large = Token::from_parts(OPENED.next(), [number; 16]);
        create(&log.entries, &large.to_string(), "x".repeat(1 << 20), &[]).await;
    }
    pass(2).await;
    let other = move_label(&log, 2, Some("b1")).await;
    let (reader, budget) = (LogReader::new(&log), MemoryBudget::new(2 << 20));
    for (token, expected) in [(crashed, CRASHED), (other, moved("b1"))] {
        let listed = ListedEntry { token, time: token.second(), size: 100 };
        let memory = reader.admit(&listed, &schedule(), &budget).await;
        let op = reader.fetch_within(&listed, &schedule(), &memory).await.unwrap().ops.remove(0);
        assert_eq!((op.decision.outcome, op.decision.evidence), (expected.0, expected.1));
        assert!(memory.bytes() < 100_000, "{} bytes are charged", memory.bytes());
    }
    let peak = lab.bodies().peak();
    assert!(((1 << 19)..(2 << 20)).contains(&peak), "{peak} bytes of bodies were held");
}

#[tokio::test(start_paused = true)]
async fn labels_of_our_intents_complete_by_their_marker_alone() {
    let log = TestStore::new().log();
    enter(&log, format!(r#"{{"tidemark":1,"ops":[{{"descriptor":"{LABEL}","value":"b"}}]}}"#)).await;
    log.values().put(LABEL, Bytes::from_static(b"id: b\n")).await.unwrap();
    assert_eq!(decided(&log).await, ABSENT);
    create(log.values(), &marker_key("r", "v1", token(), 1), "id: b\n", &[]).await;
    assert_eq!(decided(&log).await, ABSENT);
    create(log.values(), &marker_key("r", "v1", token(), 0), "id: b\n", &[]).await;
    assert_eq!(decided(&log).await, (Outcome::Committed, Some(Evidence::Bound)));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_all_or_nothing() {
    let log = TestStore::new().log();
    enter(&log, format!(r#"{{"tidemark":1,"ops":[{{"descriptor":"{BUNDLE}"}},{{"descriptor":"{LABEL}"}},{{}}]}}"#))
        .await;
    create(log.descriptors(), BUNDLE, "id: b\n", &[]).await;
    let outcomes = |entry: &ResolvedEntry| entry.ops.iter().map(|op| op.decision.outcome).collect::<Vec<_>>();
    let entry = fetch(&log).await;
    assert_eq!(outcomes(&entry), [Outcome::Aborted; 3]);
    assert_eq!(entry.ops[0].decision.observations.len(), 1);
    pass(27).await;
    create(log.values(), &marker_key("r", "v1", token(), 1), "id: b\n", &[]).await;
    assert_eq!(outcomes(&fetch(&log).await), [Outcome::Late; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_that_is_not_what_its_kind_says_completes_and_says_so() {
    for body in [&b"- a list"[..], b"id: another", b"\xff\xfe", b"", b"message: [1]"] {
        let log = TestStore::new().log();
        enter(&log, BUNDLE).await;
        create(log.descriptors(), BUNDLE, body, &[]).await;
        let op = fetch(&log).await.ops.remove(0);
        assert_eq!(op.decision.outcome, Outcome::Committed);
        assert!(op.descriptor.is_none() && op.unreadable.is_some());
        assert_eq!(op.descriptor_body.as_deref(), Some(body));
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_entries_are_malformed_and_stop_nothing() {
    for body in [&b""[..], b"\xff\x00", b"a\x00b", b"../../etc/passwd", b"{\"tidemark\":9}"] {
        let log = TestStore::new().log();
        enter(&log, body).await;
        let entry = fetch(&log).await;
        assert!(entry.intent.is_err());
        assert_eq!(entry.ops.len(), 1);
        assert_eq!(entry.ops[0].decision.outcome, Outcome::Malformed);
        assert_eq!(entry.body.as_deref(), Some(body));
    }
}

#[tokio::test(start_paused = true)]
async fn any_text_is_a_record_that_the_entry_completes() {
    for body in [&b"hello"[..], &DEEP] {
        let log = TestStore::new().log();
        enter(&log, body).await;
        let entry = fetch(&log).await;
        assert_eq!(entry.ops[0].decision.outcome, Outcome::Committed);
        assert_eq!(entry.intent.unwrap().raw, std::str::from_utf8(body).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_not_read() {
    let log = TestStore::new().log();
    enter(&log, vec![b'x'; (1 << 20) + 1]).await;
    let reader = LogReader::new(&log);
    let size = (1 << 20) + 1;
    let listed = ListedEntry { token: token(), time: OPENED, size };
    for entry in [fetch(&log).await, reader.fetch(&listed, &schedule()).await.unwrap()] {
        assert_eq!(entry.body, None);
        assert_eq!(entry.size, size);
        assert!(entry.intent.unwrap_err().reason.contains("1048577 bytes"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_listed_entry_that_is_gone_is_an_error_that_names_it() {
    let log = TestStore::new().log();
    let reader = LogReader::new(&log);
    let listed = ListedEntry { token: token(), time: OPENED, size: 1 };
    let gone = reader.fetch(&listed, &schedule()).await.unwrap_err();
    assert!(gone.to_string().contains(&token().to_string()), "{gone}");
    assert!(reader.lookup(token(), &schedule()).await.unwrap().is_none());
}

/// Reads the entry again and again; before each attempt a later object of every store is read.
async fn fetch_beside_others(log: &Log, later: &str) -> ResolvedEntry {
    let reader = LogReader::new(log);
    for _ in 0..10 {
        let other = reader.lookup(later.parse().unwrap(), &schedule()).await.unwrap().unwrap();
        assert_eq!(other.ops[0].decision.outcome, Outcome::Committed);
        if let Ok(found) = reader.lookup(token(), &schedule()).await {
            return found.unwrap();
        }
    }
    panic!("the entry is not judged");
}

/// An entry with its bundle, both a second later than the one that is refused.
async fn enter_later(log: &Log) -> String {
    pass(1).await;
    let later = Token::from_parts(OPENED.next(), [9; 16]).to_string();
    create(&log.entries, &later, "bundles/r/later/bundle.yaml", &[]).await;
    create(log.descriptors(), "bundles/r/later/bundle.yaml", "id: later\n", &[]).await;
    later
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_that_is_refused_counts_by_its_attributes() {
    for (fault, words) in [
        (ReadFault::Body, "KMS key is not allowed"),
        (ReadFault::BodyAndHead, "KMS key is not allowed"),
        (ReadFault::BadRequest, "InvalidRequest"),
    ] {
        let lab = TestStore::new();
        let log = lab.log();
        enter(&log, BUNDLE).await;
        create(log.descriptors(), BUNDLE, "id: b\n", &[]).await;
        let later = enter_later(&log).await;
        lab.refuse("r/b/bundle.yaml", fault);
        let op = fetch_beside_others(&log, &later).await.ops.remove(0);
        assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Committed, Some(Evidence::Timed)));
        assert!(op.descriptor.is_none(), "{op:?}");
        assert!(op.unreadable.unwrap().reason.contains(words));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_object_that_is_deleted_is_forgotten() {
    for fault in [ReadFault::Body, ReadFault::BodyAndHead] {
        let lab = TestStore::new();
        let log = lab.log();
        enter(&log, BUNDLE).await;
        create(log.descriptors(), BUNDLE, "id: b\n", &[]).await;
        lab.refuse("r/b/bundle.yaml", fault);
        let reader = LogReader::new(&log);
        reader.lookup(token(), &schedule()).await.unwrap_err();
        assert_eq!(reader.objects.refusals().remembered(), 1);
        log.descriptors().delete(&[BUNDLE.to_owned()]).await.unwrap();
        // A policy refuses names, whether there are objects or not.
        let op = reader.lookup(token(), &schedule()).await.unwrap().unwrap().ops.remove(0);
        assert_eq!(op.decision.outcome, Outcome::Aborted);
        assert_eq!(reader.objects.refusals().remembered(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_is_unreadable() {
    for (fault, words) in
        [(ReadFault::BodyAndHead, "KMS key is not allowed"), (ReadFault::BadRequest, "InvalidRequest")]
    {
        let lab = TestStore::new();
        let log = lab.log();
        enter(&log, BUNDLE).await;
        let later = enter_later(&log).await;
        lab.refuse(&token().to_string(), fault);
        let entry = fetch_beside_others(&log, &later).await;
        assert_eq!(entry.ops[0].decision.outcome, Outcome::Unreadable);
        assert_eq!((entry.entry_time, entry.size), (OPENED, BUNDLE.len() as u64));
        assert!(entry.intent.unwrap_err().reason.contains(words));
    }
}

#[tokio::test(start_paused = true)]
async fn where_everything_is_refused_nothing_is_decided() {
    let lab = TestStore::new();
    let log = lab.log();
    enter(&log, BUNDLE).await;
    let later = enter_later(&log).await.parse().unwrap();
    lab.refuse("", ReadFault::Body);
    let reader = LogReader::new(&log);
    for _ in 0..100 {
        reader.lookup(later, &schedule()).await.unwrap_err();
        let refused = reader.lookup(token(), &schedule()).await.unwrap_err();
        assert!(matches!(refused, tidemark_store::StoreError::Denied { .. }), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_descriptor_whose_digest_is_named_counts_without_being_read() {
    let log = TestStore::new().log();
    let body = vec![b' '; 100];
    let digest = digest_of(&body.clone().into());
    let intent = format!(r#"{{"tidemark":1,"ops":[{{"kind":"bundle","descriptor":"{BUNDLE}","digest":"{digest}"}}]}}"#);
    enter(&log, intent).await;
    create(log.descriptors(), BUNDLE, body, &[]).await;
    let parameters = LogParameters { max_descriptor_size: 99, ..schedule().newest().parameters };
    let schedule = ParameterSchedule::constant(parameters);
    let op = LogReader::new(&log).lookup(token(), &schedule).await.unwrap().unwrap().ops.remove(0);
    assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Committed, Some(Evidence::Timed)));
    assert!(op.unreadable.is_some());
}

/// A log whose largest entry was 1 MiB and is 64 KiB since second 1000.
fn lowered() -> ParameterSchedule {
    let before = schedule();
    let smaller = LogParameters { max_entry_size: 64 << 10, ..before.newest().parameters };
    before.changed(smaller, OPENED)
}

#[tokio::test(start_paused = true)]
async fn a_lowered_size_decides_later_tokens_and_no_earlier_ones() {
    let (log, schedule) = (TestStore::new().log(), lowered());
    let note = "x".repeat(200_000);
    let body = format!(r#"{{"tidemark":1,"attributes":{{"note":"{note}"}},"ops":[{{"descriptor":"{BUNDLE}"}}]}}"#);
    enter(&log, body.clone()).await;
    let later = Token::from_parts(schedule.newest().from, [9; 16]);
    pass(later.second().since(OPENED).as_secs()).await;
    create(&log.entries, &later.to_string(), body.clone(), &[]).await;
    // Two readers, with and without a listing, agree.
    for reader in [LogReader::new(&log), LogReader::new(&log).with_one_listing()] {
        let outcome_of = async |token: Token, time| {
            let listed = ListedEntry { token, time, size: body.len() as u64 };
            let fetched = reader.fetch(&listed, &schedule).await.unwrap().ops.remove(0).decision.outcome;
            let found = reader.lookup(token, &schedule).await.unwrap().unwrap().ops.remove(0).decision.outcome;
            assert_eq!(fetched, found);
            fetched
        };
        assert_eq!(outcome_of(token(), OPENED).await, Outcome::Aborted);
        assert_eq!(outcome_of(later, later.second()).await, Outcome::Malformed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_of_too_many_values_counts_as_there_and_is_not_parsed() {
    let log = TestStore::new().log();
    enter(&log, BUNDLE).await;
    create(log.descriptors(), BUNDLE, "- {}\n".repeat(50_001), &[]).await;
    let op = fetch(&log).await.ops.remove(0);
    assert_eq!((op.decision.outcome, op.decision.observations[0].digest.len()), (Outcome::Committed, 64));
    assert!(op.unreadable.unwrap().reason.contains("more than 100000 values"));
}

/// The panic of a parser comes after the store has given the entry, which is no sign that it can be read.
#[tokio::test(start_paused = true)]
async fn an_entry_whose_reading_panics_each_time_is_unreadable_though_the_store_gives_it() {
    let log = TestStore::new().log();
    enter(&log, BUNDLE).await;
    let later = enter_later(&log).await.parse().unwrap();
    let reader = LogReader::new(&log);
    let listed = ListedEntry { token: token(), time: OPENED, size: 1 };
    for attempt in 1..=3 {
        reader.lookup(later, &schedule()).await.unwrap();
        reader.lookup(token(), &schedule()).await.unwrap();
        let judged = reader.judge_panic(&listed, Box::new("index out of bounds")).await;
        assert_eq!(judged.is_ok(), attempt == 3, "{attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_over_256_kib_counts_by_its_digest_which_is_read_piece_by_piece() {
    let body = Bytes::from(format!("id: b\nmessage: {}\n", "x".repeat(3 << 20)));
    for (digest, expected) in [
        (digest_of(&body), (Outcome::Committed, Some(Evidence::Bound))),
        (digest_of(&Bytes::from_static(b"another")), ABSENT),
    ] {
        let lab = TestStore::new();
        let log = lab.log();
        enter(&log, format!(r#"{{"tidemark":1,"ops":[{{"descriptor":"{BUNDLE}","digest":"{digest}"}}]}}"#)).await;
        create(log.descriptors(), BUNDLE, body.clone(), &[]).await;
        let op = fetch(&log).await.ops.remove(0);
        assert_eq!((op.decision.outcome, op.decision.evidence), expected);
        assert!(op.descriptor.is_none() && op.descriptor_body.is_none());
        assert_eq!(op.decision.observations[0].digest, digest_of(&body));
        if expected != ABSENT {
            assert!(op.unreadable.unwrap().reason.contains("only its digest is kept"));
        }
        assert!(lab.bodies().peak() < 600 << 10, "{} bytes of the body were held", lab.bodies().peak());
    }
}

/// An entry that names `count` descriptors, all of which say the same.
async fn enter_group(log: &Log, token: Token, count: usize, descriptor: &Bytes) {
    let paths: Vec<String> = (0..count).map(|number| format!("group/{token}/{number}.json")).collect();
    for path in &paths {
        create(log.descriptors(), path, descriptor.clone(), &[]).await;
    }
    let ops: Vec<String> = paths.iter().map(|path| format!(r#"{{"descriptor":"{path}"}}"#)).collect();
    let body = format!(r#"{{"tidemark":1,"ops":[{}]}}"#, ops.join(","));
    create(&log.entries, &token.to_string(), body, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_entry_keeps_of_its_descriptors_is_bounded_and_charged() {
    let lab = TestStore::new();
    let log = lab.log();
    let descriptor = Bytes::from(format!("{{\"text\": \"{}\"}}", "x".repeat(200_000)));
    enter_group(&log, token(), 100, &descriptor).await;
    let reader = LogReader::new(&log);
    let listed = ListedEntry { token: token(), time: OPENED, size: 5000 };
    let memory = reader.admit(&listed, &schedule(), &MemoryBudget::new(1 << 20)).await;
    for _ in 0..2 {
        let entry = reader.fetch_within(&listed, &schedule(), &memory).await.unwrap();
        let kept = entry.ops.iter().take_while(|op| op.descriptor.is_some()).count();
        // A content takes its text twice, and its bytes.
        assert_eq!(kept, (8 << 20) / 602_000);
        assert!(entry.ops[..kept].iter().all(|op| op.descriptor_body.as_ref() == Some(&descriptor)));
        assert!(entry.ops[kept..].iter().all(|op| op.descriptor_body.is_none()));
        for op in &entry.ops {
            assert_eq!(op.decision.outcome, Outcome::Committed);
            assert_eq!(op.decision.observations[0].digest, digest_of(&descriptor));
        }
        assert!(entry.ops[kept..].iter().all(|op| op.unreadable.as_ref().unwrap().reason.contains("of memory")));
        assert!((8_000_000..9_000_000).contains(&memory.bytes()), "{} bytes are charged", memory.bytes());
    }
    // Beside those that are kept, the ones that are being read.
    let most = 8 * (1 << 20) / 3 + 9 * 200_000;
    assert!(lab.bodies().peak() < most, "{} bytes of bodies were held", lab.bodies().peak());
}

#[tokio::test(start_paused = true)]
async fn entries_that_are_read_at_once_hold_no_more_than_their_budget() {
    let lab = TestStore::new();
    let log = lab.log();
    let descriptor = Bytes::from(format!("{{\"text\": \"{}\"}}", "x".repeat(200_000)));
    let tokens: Vec<Token> = (0..64).map(|number| Token::from_parts(OPENED, [number; 16])).collect();
    for token in &tokens {
        enter_group(&log, *token, 1, &descriptor).await;
    }
    let (reader, budget, schedule) = (LogReader::new(&log), MemoryBudget::new(3 << 20), schedule());
    let (reader, budget, schedule) = (&reader, &budget, &schedule);
    let entries = futures::stream::iter(tokens.clone())
        .then(async |token| {
            let listed = ListedEntry { token, time: OPENED, size: 100 };
            (listed, reader.admit(&listed, schedule, budget).await)
        })
        .map(async |(listed, memory)| {
            let entry = reader.fetch_within(&listed, schedule, &memory).await.unwrap();
            // Whoever waits for all entries before it keeps its share.
            (entry.token, memory)
        })
        .buffered(64);
    let delivered: Vec<Token> = entries.map(|(token, _)| token).collect().await;
    assert_eq!(delivered, tokens);
    let peak = lab.bodies().peak();
    assert!((400_000..3 << 20).contains(&peak), "{peak} bytes of bodies were held");
}

fn list_of(names: &[&str]) -> String {
    let entries = names.iter().map(|name| format!("- hash: abc\n  name: {name}\n  mode: 420\n  size: 7\n"));
    format!("BundleEntries:\n{}", entries.collect::<String>())
}

/// A log with a bundle whose descriptor says that it has `count` lists of files.
async fn log_with_lists(lab: &TestStore, count: u64, lists: &[String]) -> Log {
    let log = lab.log();
    enter(&log, BUNDLE).await;
    create(log.descriptors(), BUNDLE, format!("id: b\ncount: {count}\n"), &[]).await;
    for (number, list) in lists.iter().enumerate() {
        create(log.descriptors(), &format!("bundles/r/b/bundle-files-{number}.yaml"), list.clone(), &[]).await;
    }
    log
}

async fn files_of(log: &Log) -> FileNames {
    let reader = LogReader::new(log).with_file_names(true);
    let mut entry = reader.lookup(token(), &schedule()).await.unwrap().unwrap();
    let op = entry.ops.remove(0);
    assert_eq!(op.decision.outcome, Outcome::Committed, "files decide nothing");
    op.files.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_names_of_files_are_read_where_they_are_wanted() {
    let lists = [list_of(&["a.csv", "data/b.csv"]), list_of(&["'a name.csv'"])];
    let log = log_with_lists(&TestStore::new(), 2, &lists).await;
    assert_eq!(fetch(&log).await.ops[0].files, None);
    let expected = ["a.csv", "data/b.csv", "a name.csv"].map(str::to_owned).into();
    assert_eq!(files_of(&log).await, FileNames { names: expected, incomplete: None });
}

#[tokio::test(start_paused = true)]
async fn only_bundles_that_exist_and_have_lists_have_files() {
    for (path, descriptor) in
        [(BUNDLE, "id: b\ncount: 0\n"), (BUNDLE, "id: b\n"), ("repos/r/repo.yaml", "name: r\ncount: 1\n")]
    {
        let log = TestStore::new().log();
        enter(&log, path).await;
        create(log.descriptors(), path, descriptor, &[]).await;
        let reader = LogReader::new(&log).with_file_names(true);
        assert_eq!(reader.lookup(token(), &schedule()).await.unwrap().unwrap().ops[0].files, None, "{descriptor}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_is_said_and_not_waited_for() {
    for (second, why) in [
        (None, "\"bundles/r/b/bundle-files-1.yaml\" is missing"),
        (Some("BundleEntries: 7".to_owned()), "it is not a list of files"),
        (Some("- {".to_owned()), "not readable as YAML"),
        (Some("x".repeat(3 << 20)), "3145728 bytes, more than 2097152; not read"),
    ] {
        let lists: Vec<String> = [list_of(&["a.csv"])].into_iter().chain(second).collect();
        let files = files_of(&log_with_lists(&TestStore::new(), u64::MAX, &lists).await).await;
        assert_eq!(files.names, ["a.csv"]);
        assert!(files.incomplete.as_deref().is_some_and(|said| said.contains(why)), "{files:?}");
    }
}

/// The files of the log's first bundle, and at which attempt its entry was decided.
async fn files_after_attempts(reader: &LogReader) -> (FileNames, usize) {
    for attempt in 1..100 {
        if let Ok(entry) = reader.lookup(token(), &schedule()).await {
            let op = entry.unwrap().ops.remove(0);
            assert_eq!(op.decision.outcome, Outcome::Committed, "files decide nothing");
            return (op.files.unwrap(), attempt);
        }
    }
    panic!("the entry is not decided");
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_list_that_passes_loses_no_names() {
    for fault in [ReadFault::Unavailable, ReadFault::Body, ReadFault::BodyAndHead] {
        let lab = TestStore::new();
        let log = log_with_lists(&lab, 2, &[list_of(&["a.csv"]), list_of(&["b.csv"])]).await;
        let reader = LogReader::new(&log).with_file_names(true);
        lab.refuse("bundle-files-1.yaml", fault);
        // The store's own retries, about 16 s, are within one attempt.
        for _ in 0..2 {
            reader.lookup(token(), &schedule()).await.unwrap_err();
        }
        lab.grant_all();
        let (files, attempt) = files_after_attempts(&reader).await;
        assert_eq!((files.names, files.incomplete, attempt), (vec!["a.csv".to_owned(), "b.csv".to_owned()], None, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_refused_for_good_is_said_and_no_longer_waited_for() {
    for (fault, attempts, why) in [
        (ReadFault::Body, 3, "KMS key is not allowed"),
        (ReadFault::BodyAndHead, 3, "KMS key is not allowed"),
        (ReadFault::Unavailable, 20, "no answer"),
    ] {
        let lab = TestStore::new();
        let log = log_with_lists(&lab, 1, &[list_of(&["a.csv"])]).await;
        lab.refuse("bundle-files-0.yaml", fault);
        // The descriptor, which is read before it each time, shows that the store gives other objects.
        let (files, attempt) = files_after_attempts(&LogReader::new(&log).with_file_names(true)).await;
        assert_eq!((files.names.len(), attempt), (0, attempts));
        assert!(files.incomplete.as_deref().is_some_and(|said| said.contains(why)), "{:?}", files.incomplete);
    }
}

#[tokio::test(start_paused = true)]
async fn the_names_of_files_are_bounded_and_charged() {
    let long: Vec<String> = (0..1000).map(|number| format!("n{number:0>399}")).collect();
    let short: Vec<String> = (0..1000).map(|number| format!("n{number}")).collect();
    for (names, lists, most, why) in [(long, 2, 655, "262144 bytes"), (short, 11, 10_000, "the first 10000 names")] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lists = vec![list_of(&names); lists];
        let lab = TestStore::new();
        let log = log_with_lists(&lab, lists.len() as u64, &lists).await;
        let (reader, budget) = (LogReader::new(&log).with_file_names(true), MemoryBudget::new(1 << 20));
        let listed = ListedEntry { token: token(), time: OPENED, size: BUNDLE.len() as u64 };
        let memory = reader.admit(&listed, &schedule(), &budget).await;
        let files = reader.fetch_within(&listed, &schedule(), &memory).await.unwrap().ops.remove(0).files.unwrap();
        assert_eq!(files.names.len(), most);
        assert!(files.incomplete.as_deref().is_some_and(|said| said.contains(why)), "{:?}", files.incomplete);
        assert!((files.memory_bytes()..2 << 20).contains(&memory.bytes()), "{} bytes are charged", memory.bytes());
        assert!(lab.bodies().peak() < 2 * lists[0].len() as u64, "one list at a time");
    }
}

#[tokio::test(start_paused = true)]
async fn names_of_files_that_are_read_are_charged_and_wait_for_nobody() {
    let names: Vec<String> = (0..500).map(|number| format!("n{number:0>399}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let log = log_with_lists(&TestStore::new(), 1, &[list_of(&names)]).await;
    let (reader, budget) = (LogReader::new(&log).with_file_names(true), MemoryBudget::new(16 << 20));
    // The first one never waits, and takes nothing.
    let (_first, full, older) = (budget.open(), budget.open(), budget.open());
    full.charge(15 << 20).await;
    let listed = ListedEntry { token: token(), time: OPENED, size: BUNDLE.len() as u64 };
    let (schedule, memory) = (schedule(), reader.admit(&listed, &schedule(), &budget).await);
    let mut fetch = Box::pin(reader.fetch_within(&listed, &schedule, &memory));
    tokio::select! {
        _ = &mut fetch => panic!("it does not wait for room to parse the list"),
        () = budget.contended() => {}
    }
    // There is room to parse the list now, and an older one waits for the whole budget.
    drop(full);
    let mut waiting = Box::pin(older.charge(16 << 20));
    assert!(futures::poll!(&mut waiting).is_pending());
    let entry = tokio::time::timeout(Duration::from_mins(1), fetch).await.expect("it waits for the older one");
    let files = entry.unwrap().ops.remove(0).files.unwrap();
    assert_eq!(files.names.len(), 500);
    assert!(memory.bytes() >= files.memory_bytes(), "{} bytes are charged", memory.bytes());
}
