//! The writer and the reader on every store: memory, folder, the S3 server in process, and a real MinIO.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_store::{Entropy, StoreSecond, put_signed};
use tidemark_tests::TestStore;
use tidemark_wal::{
    AppendError, ConfirmError, DraftOperation, EntryDraft, Evidence, ListedEntry, Log, LogParameters, LogReader,
    LogWriter, LogWriterOptions, Outcome, ParameterSchedule, ResolvedEntry,
};

on_every_store![
    what_is_acknowledged_is_committed_and_bound,
    many_writers_at_once_lose_nothing,
    of_two_that_want_one_name_one_gets_it,
    an_update_begun_here_is_completed_elsewhere,
];

fn log(at: &TestStore) -> Log {
    let below = |prefix| at.store.below(prefix);
    Log::over(below("log"), vec![below("metadata"), below("vmetadata")])
}

fn schedule() -> ParameterSchedule {
    ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_mins(10)))
}

pub(crate) async fn writer(at: &TestStore, name: &str) -> LogWriter {
    let options = LogWriterOptions::named(name);
    LogWriter::open(log(at), Arc::new(schedule()), options, Entropy::from_os()).await.expect("the writer opens")
}

pub(crate) async fn entries(at: &TestStore) -> Vec<ResolvedEntry> {
    let reader = LogReader::new(&log(at));
    let listed: Vec<ListedEntry> =
        reader.list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await.expect("it lists");
    let schedule = schedule();
    let fetched = futures::stream::iter(&listed).map(|listed| reader.fetch(listed, &schedule)).buffered(8);
    fetched.try_collect().await.expect("every entry is read")
}

pub(crate) fn bundle(id: &str) -> DraftOperation {
    let body = Bytes::from(format!("id: {id}\nmessage: model {id}\n"));
    DraftOperation::Descriptor { path: format!("bundles/r/{id}/bundle.yaml"), body }
}

pub(crate) fn label(bundle: &str) -> DraftOperation {
    let body = Bytes::from(format!("name: best\nid: {bundle}\n"));
    DraftOperation::Label { repo: "r".to_owned(), label: "best".to_owned(), bundle: bundle.to_owned(), body }
}

pub(crate) fn draft(ops: impl IntoIterator<Item = DraftOperation>) -> EntryDraft {
    EntryDraft { ops: ops.into_iter().collect(), ..EntryDraft::default() }
}

async fn label_value(at: &TestStore) -> Bytes {
    let found = log(at).values().get("labels/r/best/label.yaml", 1000).await.expect("the store answers");
    found.and_then(|found| found.body).expect("label.yaml is there")
}

async fn what_is_acknowledged_is_committed_and_bound(at: &TestStore) {
    let writer = writer(at, "w").await;
    let receipt = writer.append(draft([bundle("b1"), label("b1")])).await.expect("it is acknowledged");
    let found = entries(at).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].token, receipt.token);
    for op in &found[0].ops {
        assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Committed, Some(Evidence::Bound)));
        assert!(op.descriptor.is_some());
    }
    assert_eq!(label_value(at).await, "name: best\nid: b1\n");
}

async fn many_writers_at_once_lose_nothing(at: &TestStore) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let writer = writer(at, &format!("w{number}")).await;
        tasks.spawn(async move {
            for round in 0..8 {
                let id = format!("{number}-{round}");
                writer.append(draft([bundle(&id), label(&id)])).await.expect("it is acknowledged");
            }
        });
    }
    tasks.join_all().await;
    let found = entries(at).await;
    assert_eq!(found.len(), 32);
    assert!(found.iter().flat_map(|entry| &entry.ops).all(|op| op.decision.outcome == Outcome::Committed));
    // The cache holds the newest marker's value: by store time, then token.
    let newest = found.iter().max_by_key(|entry| (entry.ops[1].decision.observations[0].time, entry.token));
    let value = newest.and_then(|entry| entry.ops[1].operation.value.clone()).expect("a label has a value");
    assert_eq!(label_value(at).await, format!("name: best\nid: {value}\n"));
}

async fn of_two_that_want_one_name_one_gets_it(at: &TestStore) {
    let (one, other) = (writer(at, "one").await, writer(at, "other").await);
    let (one, other) = tokio::join!(one.append(draft([bundle("b")])), other.append(draft([bundle("b")])));
    // Where the store keeps no metadata both have the same digest, so that both may be committed: then it is one update.
    let keeps = at.store.supports_user_metadata();
    let won = [&one, &other].into_iter().filter(|result| result.is_ok()).count();
    assert!(won == 1 || won == 2 && !keeps, "{one:?} {other:?}");
    let lost = [one, other].into_iter().find_map(Result::err);
    assert!(matches!(lost, None | Some(AppendError::Occupied { .. })), "{lost:?}");
    let committed =
        entries(at).await.iter().filter(|entry| entry.ops[0].decision.outcome == Outcome::Committed).count();
    assert_eq!(committed, won);
}

async fn an_update_begun_here_is_completed_elsewhere(at: &TestStore) {
    let writer = writer(at, "w").await;
    let begun = writer.begin(draft([bundle("b"), label("b")])).await.expect("the entry is written");
    assert!(matches!(writer.confirm(begun.token).await, Err(ConfirmError::Unproven { .. })));
    let client = reqwest::Client::new();
    for upload in &begun.uploads {
        assert_eq!(upload.signed.is_some(), at.signs());
        let Some(signed) = &upload.signed else {
            let _ = upload.store.create(&upload.key, upload.body.clone(), &upload.metadata).await;
            continue;
        };
        let answers = [(); 2].map(|()| put_signed(&client, signed, upload.body.clone()));
        let [first, second] = answers;
        assert!(first.await.expect("it answers").created());
        assert!(!second.await.expect("it answers").created());
    }
    // By another process, which also updates the label.
    let another = self::writer(at, "another").await;
    assert_eq!(another.confirm(begun.token).await.expect("it is proven").token, begun.token);
    assert_eq!(label_value(at).await, "name: best\nid: b\n");
}
