//! `tidemark index` on an index that holds nothing, of a log that was cleaned up: from what is recorded below it, or in a second bucket.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, LogCursor, RootChain};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{S3Server, TidemarkProcess, stores};
use tidemark_wal::{Log, Token};
use tokio::time::{sleep, timeout};

const PLACES: [&str; 6] = ["--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://index"];
const COPIES: [&str; 2] = ["--from-url", "s3://copy/orders"];
const BEGUN: [&str; 2] = ["--bootstrap-from", "s3://copy/orders"];
/// Entries that are archived, and cleaned up from the log.
const ARCHIVED: u64 = 40;
/// What every index of the log has to answer alike.
const QUERIES: [&str; 5] = [
    "/v1/search?q=&size=100",
    "/v1/search?q=outcome:aborted&facets=repo",
    "/v1/search?q=outcome:committed&facets=repo,kind",
    "/v1/search?q=message:m&sort=oldest&size=50",
    "/v1/entities/bundle%2Frepo%2Fb7",
];

/// A log of which the older part is gone, with a snapshot of its index that was copied to a second bucket.
struct CleanedLog {
    server: S3Server,
    environment: BTreeMap<String, String>,
    entropy: Entropy,
    /// When the log began.
    begun: StoreSecond,
    /// What the index answered.
    answers: Vec<Value>,
}

impl CleanedLog {
    async fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in ["log", "meta", "index", "copy"] {
            server.create_bucket(bucket);
        }
        let environment = server.environment();
        let begun = server.clock().second();
        let mut place = Self { server, environment, entropy: Entropy::seeded(1), begun, answers: Vec::new() };
        for number in 0..ARCHIVED {
            place.bundle(300_000 - number, &format!("b{number}"), number % 5 > 0);
        }
        place.bundle(500, "last", true);
        let indexer = place.indexer(&[]).await;
        indexer.until_answer("/v1/status", committed(33)).await;
        place.answers = answers(&indexer).await;
        place.audited().await;
        let made = place.done("snapshot", &["--copy-to", "s3://copy/orders"]).await;
        assert_eq!(made["archived"], ARCHIVED, "{made}");
        // What the indexer writes within the hour.
        let keeps = LogCursor(place.ago(200_000));
        place.root().keep("s3://index", &Generation::first(), keeps).await.expect("it is recorded");
        assert!(indexer.stop().await.expect("it ends").success());
        let cleaned = place.done("cleanup", &["--min-age", "1h"]).await;
        assert_eq!(cleaned["deleted"], ARCHIVED, "{cleaned}");
        place
    }

    fn bundle(&self, ago: u64, id: &str, is_complete: bool) {
        let path = format!("bundles/repo/{id}/bundle.yaml");
        let at = self.ago(ago);
        if is_complete {
            self.server.insert_at("meta", &path, format!("id: {id}\nmessage: m\n"), at);
        }
        self.server.insert_at("log", &Token::new(at, &self.entropy).to_string(), path, at);
    }

    fn ago(&self, ago: u64) -> StoreSecond {
        self.server.clock().second().before(Duration::from_secs(ago))
    }

    fn root(&self) -> RootChain {
        let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &self.environment);
        RootChain::open(&Log::over(open("log"), vec![open("meta")]), Entropy::seeded(6))
    }

    /// The audit has had its last look at what is old.
    async fn audited(&self) {
        let index = stores::open("s3://index", &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5));
        let old = self.ago(200_000);
        let looked = async || {
            while !chain.latest().await.is_ok_and(|latest| latest.is_some_and(|latest| latest.state.audited >= old)) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_mins(2), looked()).await.expect("the audit looks at what is old");
    }

    /// Takes the objects of the index away, all or all but the archive, and the descriptors of the bundles too: what was decided stays so.
    fn lose_index(&self, has_archive: bool) {
        for key in self.server.keys("index").into_iter().filter(|key| !has_archive || !key.starts_with("archive/")) {
            self.server.remove("index", &key);
        }
        for key in self.server.keys("meta").into_iter().filter(|key| key.starts_with("bundles/repo/b1")) {
            self.server.remove("meta", &key);
        }
    }

    async fn indexer(&self, more: &[&str]) -> TidemarkProcess {
        let serving =
            ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
        let words = [&["index"], &PLACES[..], &serving, more].concat();
        TidemarkProcess::serving(&words, &self.environment).await.expect("it starts")
    }

    async fn run(&self, command: &str, more: &[&str]) -> Output {
        let words = [&[command], &PLACES[..], more].concat();
        TidemarkProcess::ended(&words, &self.environment).await.expect("it ends")
    }

    /// A command that succeeds, and the line of JSON that it prints.
    async fn done(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, &[more, &["--json"]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }

    /// The index answers as it did, and goes on with the log.
    async fn is_whole(&self, indexer: &TidemarkProcess, what: &str) {
        indexer.until_answer("/v1/status", committed(33)).await;
        for (query, (before, after)) in QUERIES.iter().zip(self.answers.iter().zip(answers(indexer).await)) {
            assert_eq!(hits(before), hits(&after), "{what}: {query}");
        }
        self.bundle(30, &format!("after {what}"), true);
        indexer.until_answer("/v1/status", committed(34)).await;
    }

    fn copies(&self) -> BTreeMap<String, Vec<u8>> {
        let keys = self.server.keys("copy").into_iter();
        keys.filter_map(|key| Some((key.clone(), self.server.body("copy", &key)?.to_vec()))).collect()
    }
}

fn committed(count: u64) -> impl Fn(&Value) -> bool {
    move |status| status["entries"]["committed"] == count
}

/// What does not change with the manifest.
fn hits(answer: &Value) -> [&Value; 3] {
    ["hits", "total", "facets"].map(|part| &answer[part])
}

async fn answers(indexer: &TidemarkProcess) -> Vec<Value> {
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(indexer.get(query).await.expect("it answers"));
    }
    answers
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_index_of_a_cleaned_log_begins_with_its_archive_and_goes_on_with_the_log() {
    let place = CleanedLog::new().await;
    place.lose_index(true);
    let indexer = place.indexer(&[]).await;
    place.is_whole(&indexer, "its own archive").await;
    assert!(indexer.stop().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_whose_bucket_is_gone_begins_with_the_copies_in_a_second_one() {
    let place = CleanedLog::new().await;
    place.lose_index(false);
    let refused = place.run("index", &["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s"]).await;
    assert!(!refused.status.success());
    assert!(error(&refused).contains("may have been cleaned up since"), "{}", error(&refused));

    let copies = place.copies();
    let listed = place.done("snapshots", &COPIES).await;
    assert!(listed["recoveryWindow"]["last"].is_string() && listed["snapshots"][0]["verified"] == true, "{listed}");
    let indexer = place.indexer(&BEGUN).await;
    place.is_whole(&indexer, "the copies").await;
    assert!(indexer.stop().await.expect("it ends").success());
    // Once more it has no effect, wherever it is.
    let indexer = place.indexer(&["--bootstrap-from", "s3://gone/orders"]).await;
    indexer.until_answer("/v1/status", committed(34)).await;
    assert!(indexer.stop().await.expect("it ends").success());
    assert!(place.copies() == copies, "the second bucket was written to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_begun_to_a_time_serves_that_until_it_is_promoted() {
    let place = CleanedLog::new().await;
    place.lose_index(false);
    let time = place.begun.before(Duration::from_secs(299_980)).to_string();
    let indexer = place.indexer(&[&BEGUN[..], &["--bootstrap-time", &time]].concat()).await;
    let status = indexer.until_answer("/v1/process", |process| process["restoredTo"].is_string()).await;
    assert_eq!((&status["phase"], status["restoredTo"].as_str()), (&"standby".into(), Some(time.as_str())), "{status}");
    let sealed = "/v1/search?q=&size=100&sealed=true";
    let found = indexer.until_answer(sealed, |found| found["total"].as_u64().is_some_and(|count| count > 0)).await;
    let count = found["total"].as_u64().expect("a number");
    assert!(count > 10 && count < ARCHIVED, "{count} of {ARCHIVED}");
    place.done("promote", &COPIES).await;
    place.is_whole(&indexer, "promoted").await;
    assert!(indexer.stop().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_restored_by_hand_from_the_copies_and_what_is_not_there_is_refused() {
    let place = CleanedLog::new().await;
    place.lose_index(false);
    for (from, why) in [
        ("s3://index/x", "lie within one another"),
        ("s3://meta", "lie within one another"),
        ("s3://copy/empty", "nothing is recorded of this log in"),
        ("s3://gone/orders", "gone"),
    ] {
        let refused = place.run("restore", &["--latest", "--from-url", from]).await;
        assert_eq!(refused.status.code(), Some(1), "{from}: {}", error(&refused));
        assert!(error(&refused).contains(why), "{from}: {}", error(&refused));
    }
    let late = place.run("restore", &[&["--to-time", "2100-01-01T00:00:00Z"], &COPIES[..]].concat()).await;
    assert!(error(&late).contains("from \"s3://copy/orders\": what is recorded reaches from"), "{}", error(&late));
    assert!(place.server.keys("index").is_empty(), "a refused restore writes nothing");
    let owned = [&["--latest", "--owner", "somebody"], &COPIES[..]].concat();
    let owned = place.run("restore", &owned).await;
    assert!(error(&owned).contains("belongs to"), "{}", error(&owned));

    let restored = place.done("restore", &[&["--latest"], &COPIES[..]].concat()).await;
    assert_eq!(restored["records"], ARCHIVED + 1, "{restored}");
    place.done("promote", &COPIES).await;
    let indexer = place.indexer(&[]).await;
    place.is_whole(&indexer, "by hand").await;
    assert!(indexer.stop().await.expect("it ends").success());
}
