//! Idempotency keys that count for a while only, with the program: what is committed again, and what is said of it.

use std::time::Duration;

use serde_json::{Value, json};
use tidemark_tests::LocalIndex;
use tidemark_wal::Token;

/// A log whose keys count for a hundred seconds, and three entries with one key, 50 and 200 seconds after the first one.
fn log_with_repeated_key() -> (LocalIndex, [Token; 3]) {
    let mut index = LocalIndex::new().expect("it starts");
    index.environment.insert("TIDEMARK_IDEMPOTENCY_RETENTION".to_owned(), "100s".to_owned());
    let entry = json!({
        "tidemark": 1, "writer": "w", "idempotencyKey": "nightly",
        "ops": [{"kind": "entry", "attributes": {"entity": "job"}}],
    });
    let tokens = [900, 850, 700].map(|ago| index.entry(ago, entry.to_string()));
    (index, tokens)
}

fn outcomes(lines: &[u8]) -> Vec<Value> {
    let lines = String::from_utf8_lossy(lines);
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["outcome"].clone();
    lines.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_expired_commits_again_and_the_history_shows_it() {
    let (index, [first, repeated, again]) = log_with_repeated_key();
    let indexer = index.indexer(&[]).await.expect("it starts");
    let operation = async |token: Token, is_there: fn(&Value) -> bool| {
        let answer = indexer.until_answer(&format!("/v1/entries/{token}"), |answer| is_there(&answer["ops"][0])).await;
        answer["ops"][0].clone()
    };
    let counts_until = |token: Token| json!(token.second().after(Duration::from_secs(101)).to_string());
    let found = operation(first, |op| op["idempotency_key_expires"].is_string()).await;
    assert_eq!((&found["outcome"], &found["same_key"]), (&json!("committed"), &Value::Null));
    assert_eq!(found["idempotency_key_expires"], counts_until(first));
    let found = operation(repeated, |op| op["outcome"] == "duplicate").await;
    assert_eq!(found["same_key"], json!({"token": first, "op": 0}));
    assert_eq!(found["idempotency_key_expires"], Value::Null);
    let found = operation(again, |op| op["outcome"] == "committed").await;
    assert_eq!(found["same_key"], json!({"token": first, "op": 0}));
    assert_eq!(found["idempotency_key_expires"], counts_until(again));
    let history = indexer.get("/v1/entities/entry/job").await.expect("it answers");
    let steps: Vec<_> = history["history"].as_array().expect("steps").iter().map(|step| &step["same_key"]).collect();
    let of_first = json!({"token": first, "op": 0});
    assert_eq!(steps, [&of_first, &of_first, &Value::Null], "{history}");
    assert_eq!(history["history"][0]["idempotency_key_expires"], counts_until(again));

    // What reads the log alone says the same, and so does another index of it.
    let expected = ["committed", "duplicate", "committed"].map(Value::from);
    let listed = index.run("log", &["--json"]).await.expect("it ends");
    assert_eq!(outcomes(&listed.stdout), expected, "{listed:?}");
    let verified = index.run("verify", &["--all", "--json"]).await.expect("it ends");
    assert!(verified.status.success(), "{verified:?}");
    let other = index.beside("other");
    let other = other.indexer(&[]).await.expect("it starts");
    for (token, outcome) in [first, repeated, again].into_iter().zip(&expected) {
        other.until_answer(&format!("/v1/entries/{token}"), |answer| answer["ops"][0]["outcome"] == *outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retention_is_recorded_in_the_log_and_what_is_too_short_is_refused() {
    let (mut index, _) = log_with_repeated_key();
    // The expiry and the request timeout are a second each.
    let refused = index.run("log", &["set", "--idempotency-retention", "2900ms"]).await.expect("it ends");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && message.contains("idempotencyRetention") && message.contains("cannot be 2.9s"),
        "{message}"
    );
    let set = index.run("log", &["set", "--idempotency-retention", "3s", "--json"]).await.expect("it ends");
    let set: Value = serde_json::from_slice(&set.stdout).expect("one set");
    assert_eq!(set["parameters"]["idempotencyRetention"], 3_000);
    // An indexer that was told another one says so.
    index.environment.insert("TIDEMARK_IDEMPOTENCY_RETENTION".to_owned(), "forever".to_owned());
    let differs = index.run("index", &[]).await.expect("it ends");
    let message = String::from_utf8_lossy(&differs.stderr);
    assert!(
        message.contains("idempotencyRetention") && message.contains("is forever here but 3s in the log"),
        "{message}"
    );
    let forever = index.run("log", &["set", "--idempotency-retention", "forever"]).await.expect("it ends");
    let lines = String::from_utf8_lossy(&forever.stdout);
    let sets: Vec<_> = lines.lines().map(|line| line.contains("--idempotency-retention 3s")).collect();
    assert_eq!(sets, [true, false], "{lines}");
}
