//! The writer on a store whose clock and failures the test controls.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde_json::Map;

use super::*;
use crate::{
    CommitExpectation, Evidence, ListedEntry, LogParameters, LogReader, Outcome, ParameterSchedule, ResolvedEntry,
    Token,
    testing::{OPENED, ReadFault, TestStore, WriteFault},
};
use tidemark_store::{Entropy, StoreSecond};

fn parameters() -> LogParameters {
    LogParameters {
        request_timeout: Duration::from_secs(5),
        visibility_delay: Duration::from_secs(2),
        ..LogParameters::with_expiry(Duration::from_secs(20))
    }
}

fn bundle(id: &str) -> DraftOperation {
    DraftOperation::Descriptor {
        path: format!("bundles/r/{id}/bundle.yaml"),
        body: Bytes::from(format!("id: {id}\nmessage: m\n")),
    }
}

fn label(bundle: &str) -> DraftOperation {
    DraftOperation::Label {
        repo: "r".to_owned(),
        label: "v1".to_owned(),
        bundle: bundle.to_owned(),
        body: Bytes::from(format!("name: v1\nid: {bundle}\n")),
    }
}

fn record() -> DraftOperation {
    DraftOperation::Entry { attributes: Map::new() }
}

fn draft(ops: impl IntoIterator<Item = DraftOperation>) -> EntryDraft {
    EntryDraft { idempotency_key: Some("key".to_owned()), ops: ops.into_iter().collect(), ..EntryDraft::default() }
}

/// The log as a reader finds it.
async fn entries(lab: &TestStore) -> Vec<ResolvedEntry> {
    let reader = LogReader::new(&lab.log());
    let listed: Vec<ListedEntry> =
        reader.list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await.unwrap();
    let schedule = ParameterSchedule::constant(parameters());
    let mut entries = Vec::new();
    for listed in listed {
        entries.push(reader.fetch(&listed, &schedule).await.unwrap());
    }
    entries
}

async fn outcomes(lab: &TestStore) -> Vec<Outcome> {
    entries(lab).await.iter().map(|entry| entry.ops[0].decision.outcome).collect()
}

async fn label_value(lab: &TestStore) -> Option<String> {
    let found = lab.log().values().get("labels/r/v1/label.yaml", 1000).await.unwrap()?;
    Some(String::from_utf8(found.body.unwrap().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_group_is_committed_and_bound() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    let receipt = writer.append(draft([bundle("b"), label("b"), record()])).await.unwrap();
    assert_eq!((receipt.token.second(), receipt.acknowledged(), receipt.attempts), (OPENED, Some(OPENED), 1));
    let entry = &entries(&lab).await[0];
    assert_eq!(entry.token, receipt.token);
    let evidence: Vec<_> = entry.ops.iter().map(|op| (op.decision.outcome, op.decision.evidence)).collect();
    let bound = (Outcome::Committed, Some(Evidence::Bound));
    assert_eq!(evidence, [bound, bound, (Outcome::Committed, None)]);
    assert_eq!(entry.ops[0].descriptor.as_ref().unwrap().message.as_deref(), Some("m"));
    assert_eq!(entry.ops[1].descriptor.as_ref().unwrap().id.as_deref(), Some("b"));
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: b\n"));
}

#[tokio::test(start_paused = true)]
async fn an_append_with_an_expectation_is_undecided_and_moves_no_cache() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    let first = writer.append(draft([label("a")])).await.unwrap();
    let expect: CommitExpectation = format!("label/r/v1={}", first.token).parse().unwrap();
    let conditional = |bundle| EntryDraft { expect: Some(expect.clone()), ..draft([label(bundle)]) };
    let receipt = writer.append(conditional("b")).await.unwrap();
    // C = 25 s, V = 2 s: a horizon beyond the token's second is that of 29 s later at the earliest.
    let second = receipt.token.second();
    let decided = second.after(Duration::from_secs(29));
    assert_eq!((receipt.proof, receipt.acknowledged()), (AppendProof::Undecided { seen: second, decided }, None));
    let schedule = ParameterSchedule::constant(parameters());
    assert!(schedule.horizon(decided) > second && schedule.horizon(second.after(Duration::from_secs(28))) <= second);
    assert_eq!(writer.confirm(receipt.token).await.unwrap().acknowledged(), None);
    assert_eq!(entries(&lab).await[1].intent.as_ref().unwrap().expect.as_ref(), Some(&expect));
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: a\n"));
    // Another move does not put it there either; who knows that it is committed does.
    let other = draft([label("c")]);
    writer.append(EntryDraft { idempotency_key: None, ..other }).await.unwrap();
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: c\n"));
    let last = writer.append(conditional("d")).await.unwrap();
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: c\n"));
    writer.refresh_committed(last.token).await.unwrap();
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: d\n"));
    // Who hears late of an earlier one does not put it back.
    writer.refresh_committed(receipt.token).await.unwrap();
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: d\n"));
}

#[tokio::test(start_paused = true)]
async fn a_draft_with_an_expectation_shares_no_entry() {
    let lab = TestStore::new();
    let batcher = AppendBatcher::new(lab.writer("w", parameters()).await, FlushPolicy::default());
    let named = |key: &str| EntryDraft { idempotency_key: Some(key.to_owned()), ..draft([record()]) };
    let conditional = EntryDraft { expect: Some("entry/job=none".parse().unwrap()), ..named("c") };
    let drafts = [named("a"), conditional, named("b")];
    let receipts = futures::future::join_all(drafts.map(|draft| batcher.append(draft))).await;
    let receipts: Vec<_> = receipts.into_iter().map(Result::unwrap).collect();
    assert_eq!(receipts[0].token, receipts[2].token);
    assert_ne!(receipts[0].token, receipts[1].token);
    assert!(receipts[1].acknowledged().is_none() && receipts[2].acknowledged().is_some());
}

fn note(bytes: usize) -> EntryDraft {
    let attributes = [("note".to_owned(), "x".repeat(bytes).into())].into_iter().collect();
    draft([DraftOperation::Entry { attributes }])
}

#[tokio::test(start_paused = true)]
async fn what_readers_would_not_read_is_refused_before_it_is_written() {
    let lab = TestStore::new();
    let sizes = LogParameters { max_entry_size: 64 << 10, max_descriptor_size: 1 << 10, ..parameters() };
    let writer = lab.writer("w", sizes).await;
    let large =
        DraftOperation::Descriptor { path: "bundles/r/b/bundle.yaml".to_owned(), body: vec![b' '; 1025].into() };
    for (draft, name) in [(note(200_000), "maxEntrySize of 65536"), (draft([large]), "maxDescriptorSize of 1024")] {
        for refused in [writer.append(draft.clone()).await.unwrap_err(), writer.begin(draft).await.unwrap_err()] {
            assert!(matches!(refused, AppendError::Invalid { .. }) && refused.to_string().contains(name), "{refused}");
        }
    }
    assert!(entries(&lab).await.is_empty());
    writer.append(note(60_000)).await.unwrap();
    // A batch stays within what the log takes.
    let batcher = AppendBatcher::new(writer, FlushPolicy::default());
    let record = |key: usize| EntryDraft { idempotency_key: Some(key.to_string()), ..note(10_000) };
    for receipt in futures::future::join_all((0..9).map(|key| batcher.append(record(key)))).await {
        receipt.unwrap();
    }
    assert_eq!(outcomes(&lab).await, [Outcome::Committed; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_resolved_by_reading() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    lab.trouble("bundle.yaml", WriteFault::LostAnswer);
    lab.trouble("meta", WriteFault::LostAnswer);
    let receipt = writer.append(draft([bundle("b")])).await.unwrap();
    assert_eq!(receipt.attempts, 1);
    assert_eq!(outcomes(&lab).await, [Outcome::Committed]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_write_is_written_again() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    for key in ["bundle.yaml", "log/", "done/r/v1"] {
        lab.trouble(key, WriteFault::LostWrite);
    }
    let receipt = writer.append(draft([bundle("b"), label("b")])).await.unwrap();
    assert_eq!(receipt.attempts, 1);
    assert_eq!(outcomes(&lab).await, [Outcome::Committed]);
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_that_comes_late_is_not_acknowledged() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    lab.trouble("bundle.yaml", WriteFault::Slow(Duration::from_mins(1)));
    let refused = writer.append(draft([bundle("b")])).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unproven { outcome: Some(Outcome::Late), .. }), "{refused}");
    assert_eq!(outcomes(&lab).await, [Outcome::Late]);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_comes_late_is_written_again_and_counts_once() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    lab.trouble("done/r/v1", WriteFault::Slow(Duration::from_mins(1)));
    let receipt = writer.append(draft([label("b")])).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    assert_eq!(outcomes(&lab).await, [Outcome::Late, Outcome::Committed]);
    let keys: Vec<_> = entries(&lab).await.iter().map(|entry| entry.intent.as_ref().unwrap().key_of(0)).collect();
    assert_eq!(keys, [Some("key".to_owned()), Some("key".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_lands_too_late_gets_another_token() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    lab.trouble("log/", WriteFault::Slow(Duration::from_mins(1)));
    let receipt = writer.append(draft([bundle("b")])).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    assert!(receipt.token.second() >= OPENED.after(Duration::from_mins(1)));
    assert_eq!(outcomes(&lab).await, [Outcome::Aborted, Outcome::Committed]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_not_tried_again_after_its_expiry() {
    let lab = TestStore::new();
    let expiry = Duration::from_secs(5);
    let writer = lab.writer("w", LogParameters { expiry, ..parameters() }).await;
    // The pauses between the tries grow: the next one would begin 6 s after the token.
    for _ in 0..6 {
        lab.trouble("log/", WriteFault::LostWrite);
    }
    let receipt = writer.append(draft([record()])).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    let [entry] = entries(&lab).await.try_into().unwrap();
    assert!(entry.entry_time <= entry.token.second().after(expiry), "{entry:?}");
}

/// Writers on a log that keeps keys for half a minute, whose first entry lands a minute late.
async fn writer_with_short_retention(lab: &TestStore) -> LogWriter {
    let idempotency_retention = Some(Duration::from_secs(30));
    let writer = lab.writer("w", LogParameters { idempotency_retention, ..parameters() }).await;
    lab.trouble("log/", WriteFault::Slow(Duration::from_mins(1)));
    writer
}

#[tokio::test(start_paused = true)]
async fn no_other_token_is_taken_once_the_log_has_forgotten_the_key() {
    let lab = TestStore::new();
    let writer = writer_with_short_retention(&lab).await;
    let refused = writer.append(draft([record()])).await.unwrap_err();
    assert!(
        matches!(&refused, AppendError::KeyExpired { idempotency_key, .. } if idempotency_key == "key"),
        "{refused}"
    );
    assert_eq!(entries(&lab).await.len(), 1);
    let lab = TestStore::new();
    let writer = writer_with_short_retention(&lab).await;
    let refused = writer.begin(draft([bundle("b")])).await.unwrap_err();
    assert!(matches!(refused, AppendError::KeyExpired { .. }), "{refused}");
    assert_eq!(entries(&lab).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_draft_of_a_batch_that_failed_is_not_appended_alone_once_the_log_has_forgotten_its_key() {
    let lab = TestStore::new();
    let batcher = AppendBatcher::new(writer_with_short_retention(&lab).await, FlushPolicy::default());
    let both = futures::future::join(batcher.append(draft([record()])), batcher.append(draft([record()]))).await;
    for refused in [both.0, both.1] {
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, AppendError::KeyExpired { why, .. } if why.starts_with("the entry that it shared")),
            "{refused}"
        );
    }
    assert_eq!(entries(&lab).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_put_after_the_expiry() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    // In the bound of the entry, yet after the expiry of the descriptor.
    lab.trouble("log/", WriteFault::Slow(Duration::from_secs(23)));
    let receipt = writer.append(draft([bundle("b")])).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    assert_eq!(outcomes(&lab).await, [Outcome::Aborted, Outcome::Committed]);
}

#[tokio::test(start_paused = true)]
async fn anothers_descriptor_is_no_proof() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    writer.append(draft([bundle("b")])).await.unwrap();
    let other = lab.writer("other", parameters()).await;
    let refused = other.append(draft([bundle("b")])).await.unwrap_err();
    assert!(matches!(refused, AppendError::Occupied { .. }), "{refused}");
    let mut outcomes = outcomes(&lab).await;
    outcomes.sort();
    assert_eq!(outcomes, [Outcome::Committed, Outcome::Aborted]);
}

/// As after a crash: the writer does not know that its first try succeeded.
#[tokio::test(start_paused = true)]
async fn a_forgotten_try_is_found_by_its_descriptor() {
    let lab = TestStore::new();
    let first = lab.writer("w", parameters()).await.append(draft([bundle("b")])).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let again = lab.writer("w", parameters()).await.append(draft([bundle("b")])).await.unwrap();
    assert_eq!(again.token, first.token);
    tokio::time::advance(Duration::from_mins(1)).await;
    let refused = lab.writer("w", parameters()).await.append(draft([bundle("b")])).await.unwrap_err();
    let AppendError::Unproven { token, outcome, .. } = refused else { panic!("{refused}") };
    assert_eq!((token, outcome), (first.token, Some(Outcome::Committed)));
}

/// Of a committed update nobody says that another has its name because a store was silent for a moment, or the entry is gone.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_anothers() {
    for requests in 0..8 {
        let lab = TestStore::new();
        lab.writer("w", parameters()).await.append(draft([bundle("b")])).await.unwrap();
        let again = lab.writer("w", parameters()).await;
        lab.silence_after("bundle.yaml", requests);
        let refused = again.append(draft([bundle("b")])).await.err();
        assert!(matches!(refused, None | Some(AppendError::Unproven { .. })), "{requests} requests: {refused:?}");
    }
    let lab = TestStore::new();
    let first = lab.writer("w", parameters()).await.append(draft([bundle("b")])).await.unwrap().token;
    let again = lab.writer("w", parameters()).await;
    for fault in [ReadFault::Unavailable, ReadFault::Body] {
        lab.refuse(&first.to_string(), fault);
        let refused = again.append(draft([bundle("b")])).await.unwrap_err();
        assert!(matches!(refused, AppendError::Unproven { outcome: None, .. }), "{fault:?}: {refused}");
        lab.grant_all();
    }
    lab.log().entries.delete(&[first.to_string()]).await.unwrap();
    let refused = again.append(draft([bundle("b")])).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unproven { token, outcome: None, .. } if token == first), "{refused}");
}

/// The first entry's fate is not known; that the last one came late decides nothing about it.
#[tokio::test(start_paused = true)]
async fn a_late_attempt_does_not_hide_an_unknown_one() {
    let lab = TestStore::new();
    let expiry = Duration::from_secs(5);
    let writer = lab.writer("w", LogParameters { expiry, ..parameters() }).await;
    for _ in 0..6 {
        lab.trouble("log/", WriteFault::LostWrite);
    }
    for _ in 0..3 {
        lab.trouble("done/r/v1", WriteFault::Slow(Duration::from_mins(1)));
    }
    let refused = writer.append(draft([label("b")])).await.unwrap_err();
    let AppendError::Unproven { outcome, ref why, .. } = refused else { panic!("{refused}") };
    assert_eq!(outcome, None, "{refused}");
    assert!(why.contains("whether the entry was written is unknown"), "{why}");
    assert_eq!(entries(&lab).await.last().unwrap().ops[0].decision.outcome, Outcome::Late);
}

#[tokio::test(start_paused = true)]
async fn labels_follow_the_newest_marker() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    for value in ["a", "b", "c"] {
        writer.append(draft([label(value)])).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: c\n"));
    // The next append repairs a value that another program wrote.
    lab.log().values().put("labels/r/v1/label.yaml", Bytes::from_static(b"id: x\n")).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    writer.append(draft([label("d")])).await.unwrap();
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: d\n"));
}

/// Without a key, so that each counts.
fn move_to(value: &str) -> EntryDraft {
    EntryDraft { ops: vec![label(value)], ..EntryDraft::default() }
}

#[tokio::test(start_paused = true)]
async fn moves_of_a_label_in_one_second_end_at_the_last() {
    for writers in [1, 2, 3] {
        let lab = TestStore::new();
        let mut all = Vec::new();
        for number in 0..writers {
            let source = std::sync::Arc::new(ParameterSchedule::constant(parameters()));
            let (options, entropy) = (LogWriterOptions::named(format!("w{number}")), Entropy::seeded(number));
            all.push(LogWriter::open(lab.log(), source, options, entropy).await.unwrap());
        }
        let mut tokens = Vec::new();
        for number in 0..12 {
            let writer = &all[number % all.len()];
            tokens.push(writer.append(move_to(&format!("b{number}"))).await.unwrap().token);
        }
        assert!(tokens.is_sorted(), "{tokens:?}");
        assert_eq!((tokens[0].second(), tokens[11].second()), (OPENED, OPENED));
        assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: b11\n"), "{writers} writers");
    }
}

#[tokio::test(start_paused = true)]
async fn datamons_form_is_the_mapping_that_its_reader_reads() {
    let lab = TestStore::new();
    let source = std::sync::Arc::new(ParameterSchedule::constant(parameters()));
    let options = LogWriterOptions { form: EntryForm::Datamon, ..LogWriterOptions::named("w") };
    let writer = LogWriter::open(lab.log(), source, options, Entropy::seeded(1)).await.unwrap();
    let plain = |op| EntryDraft { ops: vec![op], ..EntryDraft::default() };
    let first = writer.append(plain(bundle("b"))).await.unwrap().token;
    let attributes = Map::from_iter([("user".to_owned(), "grace".into())]);
    writer.append(EntryDraft { attributes: attributes.clone(), ..EntryDraft::default() }).await.unwrap();
    writer.append(plain(DraftOperation::Entry { attributes })).await.unwrap();
    let found = entries(&lab).await;
    let bodies: Vec<serde_json::Value> =
        found.iter().map(|entry| serde_json::from_slice(entry.body.as_ref().unwrap()).unwrap()).collect();
    assert_eq!(bodies[0], serde_json::json!({"token": first, "payload": "bundles/r/b/bundle.yaml"}));
    assert_eq!(bodies[1]["payload"], "{\"user\":\"grace\"}");
    assert_eq!(found[0].ops[0].decision.evidence, Some(Evidence::Bound));
    assert!(found[1..].iter().all(|entry| entry.ops[0].operation.attributes["user"] == "grace"));
    assert!(found.iter().all(|entry| entry.ops[0].decision.outcome == Outcome::Committed));
}

#[tokio::test(start_paused = true)]
async fn datamons_form_refuses_what_it_cannot_say() {
    let lab = TestStore::new();
    let source = std::sync::Arc::new(ParameterSchedule::constant(parameters()));
    let options = LogWriterOptions { form: EntryForm::Datamon, ..LogWriterOptions::named("w") };
    let writer = LogWriter::open(lab.log(), source, options, Entropy::seeded(1)).await.unwrap();
    let long = Map::from_iter([("text".to_owned(), "x".repeat(1000).into())]);
    let path = |path: &str| DraftOperation::Descriptor { path: path.to_owned(), body: Bytes::new() };
    for (refused, why) in [
        (draft([record()]), "idempotency key"),
        (EntryDraft { ops: vec![bundle("a"), bundle("b")], ..EntryDraft::default() }, "one operation"),
        (EntryDraft { ops: vec![label("a")], ..EntryDraft::default() }, "label"),
        (EntryDraft { ops: vec![path("not a path")], ..EntryDraft::default() }, "path"),
        (EntryDraft { ops: vec![path("bundles/../x.yaml")], ..EntryDraft::default() }, "climbs"),
        (EntryDraft { ops: vec![bundle("a")], attributes: long.clone(), ..EntryDraft::default() }, "attributes"),
        (EntryDraft { attributes: long, ..EntryDraft::default() }, "1024"),
    ] {
        let error = writer.append(refused).await.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("nothing was appended"), "{error}");
    }
    assert!(entries(&lab).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_estimated_for_half_a_minute() {
    let lab = TestStore::new();
    let clock = tidemark_store::StoreClock::new(lab.log().stores(), "c");
    assert_eq!(clock.estimate(), None);
    assert_eq!(clock.probe().await.unwrap().now, OPENED);
    tokio::time::advance(Duration::from_millis(29_900)).await;
    assert_eq!(clock.estimate(), Some(OPENED.after(Duration::from_secs(29))));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(clock.estimate(), None);
    assert_eq!(clock.probe().await.unwrap().now, OPENED.after(Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_apart_refuse_appends() {
    let lab = TestStore::new();
    let reading =
        tidemark_store::StoreClock::new(lab.log_with_lead(Duration::from_secs(6)).stores(), "c").probe().await.unwrap();
    assert_eq!((reading.now, reading.spread), (OPENED, Duration::from_secs(6)));
    for (lead, opens) in [(5, true), (6, false)] {
        let source = std::sync::Arc::new(ParameterSchedule::constant(parameters()));
        let log = lab.log_with_lead(Duration::from_secs(lead));
        let opened =
            LogWriter::open(log, source, LogWriterOptions::named("w"), tidemark_store::Entropy::seeded(1)).await;
        assert_eq!(opened.is_ok(), opens, "{lead} s");
    }
}

/// Reads the parameters slowly.
struct SlowSource(ParameterSchedule);

#[async_trait::async_trait]
impl ParameterSource for SlowSource {
    async fn schedule(&self) -> Result<ParameterSchedule, ParameterSourceError> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(self.0.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_read_on_either_side_of_a_second_are_read_again() {
    let lab = TestStore::new();
    let log = lab.log_with_lead(Duration::from_millis(200));
    // 0.9 s here, and 1.1 s in the other store.
    tokio::time::advance(Duration::from_millis(900)).await;
    let reading = tidemark_store::StoreClock::new(log.stores(), "c").probe().await.unwrap();
    assert_eq!(reading.spread, Duration::from_secs(1));
    let short = LogParameters::with_expiry(Duration::from_secs(1));
    let source = std::sync::Arc::new(SlowSource(ParameterSchedule::constant(short)));
    LogWriter::open(log, source, LogWriterOptions::named("w"), tidemark_store::Entropy::seeded(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_begun_can_be_completed_elsewhere() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    let pending = writer.begin(draft([bundle("b"), label("b")])).await.unwrap();
    assert_eq!(pending.ends, OPENED.after(Duration::from_secs(20)));
    assert!(matches!(
        writer.confirm(pending.token).await,
        Err(ConfirmError::Unproven { outcome: Some(Outcome::Aborted), .. })
    ));
    for upload in &pending.uploads {
        let created = upload.store.create(&upload.key, upload.body.clone(), &upload.metadata).await;
        assert!(matches!(created, tidemark_store::Create::Committed));
    }
    // The label's key does not follow before.
    assert_eq!(label_value(&lab).await, None);
    let receipt = writer.confirm(pending.token).await.unwrap();
    assert_eq!(receipt.token, pending.token);
    assert_eq!(label_value(&lab).await.as_deref(), Some("name: v1\nid: b\n"));
    let absent = Token::from_bytes([1; Token::BYTES]);
    assert!(matches!(writer.confirm(absent).await, Err(ConfirmError::Absent { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_no_reader_reads_is_not_written() {
    let lab = TestStore::new();
    let writer = lab.writer("w", parameters()).await;
    let climbing = DraftOperation::Descriptor { path: "../x.yaml".to_owned(), body: Bytes::new() };
    for ops in [vec![climbing], vec![bundle("b"), bundle("b")], vec![label(&"x".repeat(2000))], vec![record(); 1001]] {
        assert!(matches!(writer.append(draft(ops)).await, Err(AppendError::Invalid { .. })));
    }
    assert_eq!(entries(&lab).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn drafts_share_an_entry() {
    let lab = TestStore::new();
    let batcher = AppendBatcher::new(
        lab.writer("w", parameters()).await,
        FlushPolicy { operations: 4, ..FlushPolicy::default() },
    );
    let appends = (0..10).map(|n| {
        let one =
            EntryDraft { idempotency_key: Some(format!("key-{n}")), ops: vec![record()], ..EntryDraft::default() };
        batcher.append(one)
    });
    let receipts = futures::future::try_join_all(appends).await.unwrap();
    let entries = entries(&lab).await;
    assert_eq!(entries.len(), 3);
    for (n, receipt) in receipts.iter().enumerate() {
        let entry = entries.iter().find(|entry| entry.token == receipt.token).unwrap();
        let key = entry.intent.as_ref().unwrap().key_of(usize::try_from(receipt.op).unwrap());
        assert_eq!(key, Some(format!("key-{n}")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_full_waits_for_no_more() {
    let lab = TestStore::new();
    let (operations, wait) = (4, Duration::from_mins(5));
    let policy = FlushPolicy { operations, wait, ..FlushPolicy::default() };
    let batcher = AppendBatcher::new(lab.writer("w", parameters()).await, policy);
    let started = tokio::time::Instant::now();
    let one = || batcher.append(EntryDraft { ops: vec![record()], ..EntryDraft::default() });
    futures::future::try_join_all((0..operations).map(|_| one())).await.unwrap();
    assert_eq!(entries(&lab).await.len(), 1);
    let many = EntryDraft { ops: vec![record(); operations], ..EntryDraft::default() };
    batcher.append(many).await.unwrap();
    assert!(started.elapsed() < wait, "it took {:?}", started.elapsed());
}

/// The shared entry lands and its answer never comes: appended alone, the draft bears the key that it had.
#[tokio::test(start_paused = true)]
async fn a_draft_with_an_empty_key_counts_once_however_often_it_is_written() {
    let lab = TestStore::new();
    let batcher = AppendBatcher::new(lab.writer("w", parameters()).await, FlushPolicy::default());
    lab.trouble("log/", WriteFault::Slow(Duration::from_mins(1)));
    let one = EntryDraft { idempotency_key: Some(String::new()), ops: vec![record()], ..EntryDraft::default() };
    batcher.append(one).await.unwrap();
    let keys: Vec<_> = entries(&lab).await.iter().map(|entry| entry.intent.as_ref().unwrap().key_of(0)).collect();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.as_ref().is_some_and(|key| !key.is_empty())), "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_leaves_nobody_waiting() {
    let lab = TestStore::new();
    let batcher = AppendBatcher::new(lab.writer("w", parameters()).await, FlushPolicy::default());
    let one =
        |n: u32| EntryDraft { idempotency_key: Some(format!("key-{n}")), ops: vec![record()], ..EntryDraft::default() };
    let leader = batcher.append(one(0));
    let member = batcher.append(one(1));
    let both = async { tokio::join!(tokio::time::timeout(Duration::from_millis(5), leader), member) };
    let (cancelled, receipt) = Box::pin(both).await;
    assert!(cancelled.is_err());
    assert_eq!(entries(&lab).await[0].token, receipt.unwrap().token);
}
