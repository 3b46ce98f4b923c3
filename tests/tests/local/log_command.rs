//! `tidemark log` leaves nothing behind that grows with each invocation.

use std::collections::BTreeMap;

use tidemark_tests::{S3Server, TidemarkProcess};

async fn log(environment: &BTreeMap<String, String>, words: &[&str], more: &[&str]) {
    let places = ["--log", "s3://log", "--metadata", "s3://meta"];
    let words = [words, &places, more].concat();
    TidemarkProcess::output(&words, environment).await.expect("it succeeds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_commands_leave_the_number_of_objects_as_it_is() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "meta"] {
        server.create_bucket(bucket);
    }
    let environment = server.environment();
    let run = async || {
        log(&environment, &["log", "set"], &["--expiry", "10s"]).await;
        log(&environment, &["log"], &[]).await;
        log(&environment, &["log"], &["--json"]).await;
    };
    run().await;
    let before = ["log", "meta"].map(|bucket| server.keys(bucket));
    run().await;
    assert_eq!(["log", "meta"].map(|bucket| server.keys(bucket)), before);
}

/// What Datamon's reader expects of an entry: a mapping of its token and a path, in at most 1024 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_writes_what_datamons_reader_reads() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "meta"] {
        server.create_bucket(bucket);
    }
    let environment = server.environment();
    log(&environment, &["log", "set"], &["--expiry", "10s"]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("entries.json");
    let path = "bundles/r/b/bundle.yaml";
    let drafts =
        [serde_json::json!({"ops": [{"path": path, "body": {"id": "b"}}]}), serde_json::json!({"user": "grace"})];
    std::fs::write(&file, drafts.map(|draft| draft.to_string()).concat()).expect("a file can be written");
    log(&environment, &["append", "--form", "datamon"], &[file.to_str().expect("a path of text")]).await;
    let tokens: Vec<String> = server.keys("log").into_iter().filter(|key| !key.starts_with('.')).collect();
    let bodies: Vec<serde_json::Value> = tokens
        .iter()
        .map(|token| serde_json::from_slice(&server.body("log", token).expect("it is there")).expect("it is JSON"))
        .collect();
    assert_eq!(bodies.len(), 2);
    for (body, token) in bodies.iter().zip(&tokens) {
        assert_eq!(body["token"], **token);
        assert!([path, r#"{"user":"grace"}"#].contains(&body["payload"].as_str().expect("a text")), "{body}");
    }
    assert!(server.body("meta", path).is_some());
}
