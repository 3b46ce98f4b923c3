//! `tidemark gc`: says what it finds, deletes a day later, and refuses what is not this log's.

use std::{collections::BTreeMap, time::Duration};

use tidemark_tests::{S3Server, TidemarkProcess};

/// An upload of an epoch before the first writer's: nothing can ever name it.
const LEAK: &str = "g1/segment/00000000000000000000-0123456789abcdef0123456789abcdef";

fn arguments<'a>(command: &'a str, log: &'a str, index: &'a str) -> Vec<&'a str> {
    vec![command, "--log", log, "--metadata", "s3://meta", "--index", index]
}

async fn collected(environment: &BTreeMap<String, String>) -> serde_json::Value {
    let arguments = [arguments("gc", "s3://log", "s3://index"), vec!["--json"]].concat();
    let printed = TidemarkProcess::output(&arguments, environment).await.expect("a pass ends");
    serde_json::from_str(&printed).expect("it prints JSON")
}

async fn refused(environment: &BTreeMap<String, String>, log: &str, index: &str) -> String {
    let refused = TidemarkProcess::output(&arguments("gc", log, index), environment).await;
    refused.expect_err("it is refused").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_named_first_and_deleted_a_day_later() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "other", "meta", "index", "empty"] {
        server.create_bucket(bucket);
    }
    let environment = server.environment();
    let never = refused(&environment, "s3://log", "s3://index").await;
    assert!(never.contains("no log that was ever indexed"), "{never}");
    let serving = ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
    for (log, index) in [("s3://log", "s3://index"), ("s3://other", "s3://empty")] {
        let indexer = [arguments("index", log, index), serving.to_vec()].concat();
        let indexer = TidemarkProcess::serving(&indexer, &environment).await.expect("it starts");
        indexer.until_answer("/v1/status", |status| status["manifest"].as_u64() >= Some(2)).await;
        assert!(indexer.stop().await.expect("it ends").success());
    }
    for object in server.keys("empty") {
        server.remove("empty", &object);
    }
    assert!(refused(&environment, "s3://log", "s3://empty").await.contains("holds no index"));
    let other = refused(&environment, "s3://other", "s3://index").await;
    assert!(other.contains("holds the records of the log"), "{other}");
    assert!(server.keys("index").iter().all(|key| !key.starts_with("gc/")), "a refused command writes nothing");

    server.insert("index", LEAK, "records");
    server.insert("index", "notes.txt", "somebody's own");
    let first = collected(&environment).await;
    assert_eq!((&first["deleted"], &first["candidates"]), (&0.into(), &1.into()), "{first}");
    server.clock().advance(Duration::from_hours(25));
    let second = collected(&environment).await;
    assert_eq!((&second["deleted"], &second["deletedBytes"]), (&1.into(), &7.into()), "{second}");
    assert!(server.body("index", LEAK).is_none() && server.body("index", "notes.txt").is_some());
    // Records of the chains of a day ago went, too.
    assert_eq!(server.keys("index").iter().filter(|key| key.starts_with("g1/manifest/0")).count(), 1);
    let text = TidemarkProcess::output(&arguments("gc", "s3://log", "s3://index"), &environment).await.expect("a pass");
    assert!(text.starts_with("deleted     0 objects, 0 bytes\n"), "{text}");
}
