//! Bundles are found by the names of their files, and what was deleted since is said to be gone.

use std::time::Duration;

use serde_json::{Value, json};
use tidemark_store::Entropy;
use tidemark_tests::{S3Server, TidemarkProcess};
use tidemark_wal::Token;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_mins(2);
const BUNDLE: &str = "bundles/r/b/bundle.yaml";

/// The answer to `path`, once it is what is wanted.
async fn until(process: &TidemarkProcess, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match process.get(path).await {
            Ok(answer) if wanted(&answer) => return answer,
            answer => assert!(Instant::now() < give_up, "{path}: {answer:?}; its log: {}", process.log()),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_found_by_its_files_and_gone_when_it_is_deleted() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let at = server.clock().second().before(Duration::from_mins(10));
    let token = Token::new(at, &Entropy::from_os());
    server.insert_at("log", &token.to_string(), BUNDLE, at);
    server.insert_at("meta", BUNDLE, "id: b\ncount: 1\n", at);
    let list = "BundleEntries:\n- hash: ab\n  name: data/train/part-1.csv\n  mode: 420\n  size: 7\n";
    server.insert_at("meta", "bundles/r/b/bundle-files-0.yaml", list, at);

    let mut environment = server.index_environment();
    environment.insert("TIDEMARK_FILES".to_owned(), "true".to_owned());
    let process = TidemarkProcess::serving(&["index"], &environment).await.expect("it starts");
    let found = until(&process, "/v1/search?q=file:data/train/*", |found| found["total"] == 1).await;
    assert_eq!(found["hits"][0]["token"], token.to_string());
    assert_eq!(process.get("/v1/search?q=files:train").await.expect("an answer")["total"], 1);

    let (entry, entity) = (format!("/v1/entries/{token}"), "/v1/entities/bundle/r/b");
    // Nothing is said while the store takes its time.
    let there = until(&process, &entry, |entry| !entry["ops"][0]["present"].is_null()).await;
    assert_eq!(there["ops"][0]["files"], json!({ "names": ["data/train/part-1.csv"] }));
    assert_eq!(there["ops"][0]["present"], true);
    assert_eq!(until(&process, entity, |entity| !entity["present"].is_null()).await["present"], true);
    server.remove("meta", BUNDLE);
    let gone = until(&process, &entry, |entry| !entry["ops"][0]["present"].is_null()).await;
    assert_eq!((&gone["ops"][0]["present"], &gone["ops"][0]["outcome"]), (&json!(false), &json!("committed")));
    assert_eq!(until(&process, entity, |entity| !entity["present"].is_null()).await["present"], false);
    assert!(process.stop().await.expect("it ends").success());
}
