//! `tidemark index` on an index that holds nothing, of a log that was cleaned up: from what is recorded below it, or in a second bucket.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::Value;
use tidemark_catalog::{Generation, LogCursor};
use tidemark_store::StoreSecond;
use tidemark_tests::{LocalIndex, TidemarkProcess};

const COPIES: [&str; 2] = ["--from-url", "s3://copy/orders"];
const BEGUN: [&str; 2] = ["--bootstrap-from", "s3://copy/orders"];
/// Entries that are archived, and cleaned up from the log.
const ARCHIVED: u64 = 40;

/// A log of which the older part is gone, with an index that was lost. A snapshot of it was copied to a second bucket. Descriptors are gone
/// too: what was decided stays so.
struct CleanedLog {
    /// All that is left of it is its archive.
    index: LocalIndex,
    /// When the log began.
    begun: StoreSecond,
    /// What the index answered.
    answers: BTreeMap<&'static str, Value>,
}

impl CleanedLog {
    async fn new() -> Self {
        let index = LocalIndex::new().expect("the server starts");
        index.server.create_bucket("copy");
        let begun = index.server.clock().second();
        for number in 0..ARCHIVED {
            let (ago, id) = (300_000 - number, format!("b{number}"));
            if number % 5 > 0 {
                index.bundle(ago, &id);
            } else {
                index.entry(ago, format!("bundles/repo/{id}/bundle.yaml"));
            }
        }
        index.bundle(500, "last");
        let indexer = index.indexer(&[]).await.expect("it starts");
        indexer.until_answer("/v1/status", committed(33)).await;
        let answers = LocalIndex::answers(&indexer).await.expect("it answers");
        index.until_audited(&indexer, index.ago(200_000)).await;
        let made = index.done("snapshot", &["--copy-to", "s3://copy/orders"]).await.expect("a snapshot");
        assert_eq!(made["archived"], ARCHIVED, "{made}");
        // What the indexer writes within the hour.
        let keeps = LogCursor(index.ago(200_000));
        index.root().keep("s3://index", &Generation::first(), keeps).await.expect("it is recorded");
        assert!(indexer.stop().await.expect("it ends").success());
        let cleaned = index.done("cleanup", &["--min-age", "1h"]).await.expect("a clean-up");
        assert_eq!(cleaned["deleted"], ARCHIVED, "{cleaned}");
        for key in index.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
            index.server.remove("index", &key);
        }
        for key in index.server.keys("meta").into_iter().filter(|key| key.starts_with("bundles/repo/b1")) {
            index.server.remove("meta", &key);
        }
        Self { index, begun, answers }
    }

    /// The index of `indexer` answers as the one that was lost.
    async fn is_whole(&self, indexer: &TidemarkProcess, what: &str) {
        indexer.until_answer("/v1/status", committed(33)).await;
        let answers = LocalIndex::answers(indexer).await.expect("it answers");
        for (query, before) in &self.answers {
            assert_eq!(*before, answers[query], "{what}: {query}");
        }
    }

    fn copies(&self) -> BTreeMap<String, Vec<u8>> {
        let server = &self.index.server;
        let keys = server.keys("copy").into_iter();
        keys.filter_map(|key| Some((key.clone(), server.body("copy", &key)?.to_vec()))).collect()
    }
}

fn committed(count: u64) -> impl Fn(&Value) -> bool {
    move |status| status["entries"]["committed"] == count
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Begins with its own archive.
async fn archive(place: &CleanedLog) -> TidemarkProcess {
    let indexer = place.index.indexer(&[]).await.expect("it starts");
    place.is_whole(&indexer, "its own archive").await;
    indexer
}

/// Begins with the copies, and is refused without them.
async fn copies(place: &CleanedLog) -> (LocalIndex, TidemarkProcess) {
    let index = place.index.beside("second");
    let refused = index.run("index", &[]).await.expect("it ends");
    assert!(!refused.status.success());
    assert!(error(&refused).contains("may have been cleaned up since"), "{}", error(&refused));

    let listed = index.done("snapshots", &COPIES).await.expect("they are listed");
    assert!(listed["recoveryWindow"]["last"].is_string() && listed["snapshots"][0]["verified"] == true, "{listed}");
    let indexer = index.indexer(&BEGUN).await.expect("it starts");
    place.is_whole(&indexer, "the copies").await;
    (index, indexer)
}

/// Begins with the copies up to a time, which it serves until it is promoted.
async fn time(place: &CleanedLog) -> TidemarkProcess {
    let (index, time) = (place.index.beside("third"), place.begun.before(Duration::from_secs(299_980)).to_string());
    let indexer = index.indexer(&[&BEGUN[..], &["--bootstrap-time", &time]].concat()).await.expect("it starts");
    let status = indexer.until_answer("/v1/process", |process| process["restoredTo"].is_string()).await;
    assert_eq!((&status["phase"], status["restoredTo"].as_str()), (&"standby".into(), Some(time.as_str())), "{status}");
    let sealed = "/v1/search?q=&size=100&sealed=true";
    let found = indexer.until_answer(sealed, |found| found["total"].as_u64().is_some_and(|count| count > 0)).await;
    let count = found["total"].as_u64().expect("a number");
    assert!(count > 10 && count < ARCHIVED, "{count} of {ARCHIVED}");
    index.done("promote", &COPIES).await.expect("it is promoted");
    place.is_whole(&indexer, "promoted").await;
    indexer
}

/// Is restored by hand from the copies; what is not there is refused.
async fn by_hand(place: &CleanedLog) -> TidemarkProcess {
    let index = place.index.beside("fourth");
    for (from, why) in [
        ("s3://fourth/x", "lie within one another"),
        ("s3://meta", "lie within one another"),
        ("s3://copy/empty", "nothing is recorded of this log in"),
        ("s3://gone/orders", "gone"),
    ] {
        let refused = index.run("restore", &["--latest", "--from-url", from]).await.expect("it ends");
        assert_eq!(refused.status.code(), Some(1), "{from}: {}", error(&refused));
        assert!(error(&refused).contains(why), "{from}: {}", error(&refused));
    }
    let late = [&["--to-time", "2100-01-01T00:00:00Z"], &COPIES[..]].concat();
    let late = index.run("restore", &late).await.expect("it ends");
    assert!(error(&late).contains("from \"s3://copy/orders\": what is recorded reaches from"), "{}", error(&late));
    assert!(index.server.keys("fourth").is_empty(), "a refused restore writes nothing");

    let restored = index.done("restore", &[&["--latest"], &COPIES[..]].concat()).await.expect("it is restored");
    assert_eq!(restored["records"], ARCHIVED + 1, "{restored}");
    index.done("promote", &COPIES).await.expect("it is promoted");
    let indexer = index.indexer(&[]).await.expect("it starts");
    place.is_whole(&indexer, "by hand").await;
    indexer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_a_cleaned_log_that_holds_nothing_begins_with_what_is_recorded_and_goes_on_with_the_log() {
    let place = CleanedLog::new().await;
    let kept = place.copies();
    let owned = place.index.run("restore", &[&["--latest", "--owner", "somebody"], &COPIES[..]].concat()).await;
    let owned = error(&owned.expect("it ends"));
    assert!(owned.contains("belongs to"), "{owned}");

    let (archive, (second, copies), time, by_hand) =
        tokio::join!(archive(&place), copies(&place), time(&place), by_hand(&place));
    place.index.bundle(0, "after");
    for indexer in [archive, copies, time, by_hand] {
        indexer.until_answer("/v1/status", committed(34)).await;
        assert!(indexer.stop().await.expect("it ends").success());
    }
    // Once more a place has no effect, wherever it is. It answered what is recorded before it was promoted, and the rest after that.
    let indexer = second.indexer(&["--bootstrap-from", "s3://gone/orders"]).await.expect("it starts");
    indexer.until_answer("/v1/status", committed(34)).await;
    assert!(indexer.stop().await.expect("it ends").success());
    assert!(place.copies() == kept, "the second bucket was written to");
}
