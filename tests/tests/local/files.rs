//! Bundles are found by the names of their files, and what was deleted since is said to be gone.

use std::time::Duration;

use serde_json::json;
use tidemark_store::Entropy;
use tidemark_tests::{S3Server, TidemarkProcess};
use tidemark_wal::Token;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_found_by_its_files_and_gone_when_it_is_deleted() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let at = server.clock().second().before(Duration::from_mins(10));
    let [token, lost] = ["b", "lost"].map(|id| {
        let (token, path) = (Token::new(at, &Entropy::from_os()), format!("bundles/r/{id}/bundle.yaml"));
        server.insert_at("log", &token.to_string(), path.clone(), at);
        server.insert_at("meta", &path, format!("id: {id}\ncount: 1\n"), at);
        token
    });
    let list = "BundleEntries:\n- hash: ab\n  name: data/train/part-1.csv\n  mode: 420\n  size: 7\n";
    server.insert_at("meta", "bundles/r/b/bundle-files-0.yaml", list, at);

    let mut environment = server.index_environment();
    environment.insert("TIDEMARK_FILES".to_owned(), "true".to_owned());
    let process = TidemarkProcess::serving(&["index"], &environment).await.expect("it starts");
    process.until_answer("/v1/search?sealed=true&outcome=committed", |found| found["total"] == 2).await;
    let found = process.get("/v1/search?q=file:data/train/*").await.expect("an answer");
    assert_eq!(found["total"], 1);
    assert_eq!(found["hits"][0]["token"], token.to_string());
    assert_eq!(process.get("/v1/search?q=files:train").await.expect("an answer")["total"], 1);

    server.remove("meta", "bundles/r/lost/bundle.yaml");
    // Nothing is said while the store takes its time.
    let entry = async |token: Token| {
        process.until_answer(&format!("/v1/entries/{token}"), |entry| !entry["ops"][0]["present"].is_null()).await
    };
    let entity = async |id: &str| {
        process.until_answer(&format!("/v1/entities/bundle/r/{id}"), |entity| !entity["present"].is_null()).await
    };
    let there = entry(token).await;
    assert_eq!(there["ops"][0]["files"], json!({ "names": ["data/train/part-1.csv"] }));
    assert_eq!((&there["ops"][0]["present"], &entity("b").await["present"]), (&json!(true), &json!(true)));
    let gone = entry(lost).await;
    assert_eq!((&gone["ops"][0]["present"], &gone["ops"][0]["outcome"]), (&json!(false), &json!("committed")));
    assert_eq!(entity("lost").await["present"], false);
    assert!(process.stop().await.expect("it ends").success());
}
