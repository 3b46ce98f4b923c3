//! The policies of `examples/aws-rights/`: each part of a WAL works with its own on a real S3 server, and none can do what it should not.

use serde_json::Value;
use tidemark_crds::{Reason, TaskState};
use tidemark_store::{Create, Entropy, StoreClock, UserMetadata};
use tidemark_tests::{SinkPeer, TidemarkProcess, stores};
use tidemark_wal::Token;

use super::guarded_wal::{ENTRIES, Environment, GuardedWal, audit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_works_with_its_own_policy_and_cannot_do_more() {
    let wal = GuardedWal::new().await;
    let all = wal.environment(wal.server.environment());
    let [indexing, searching, working, cleaning, sinking, writing] = [
        wal.guarded("indexer").await,
        wal.guarded("search").await,
        wal.guarded("jobs").await,
        wal.guarded("cleanup").await,
        wal.guarded("sink").await,
        wal.guarded("writer").await,
    ];
    let log = stores::open("s3://example-wal/orders", &all);
    let indexer = TidemarkProcess::serving(&["index"], &indexing).await.expect("it starts");
    let entropy = Entropy::seeded(3);
    let now = StoreClock::new([&log], "writer").probe().await.expect("the clock is read").now;
    let mut keys = Vec::new();
    for number in 0..ENTRIES {
        let key = Token::new(now, &entropy).to_string();
        let created = log.create(&key, format!("number {number}").into(), &UserMetadata::new()).await;
        assert!(matches!(created, Create::Committed), "{created:?}");
        keys.push(key);
    }
    let sealed = |answer: &Value| answer["total"].as_u64() == Some(ENTRIES);
    indexer.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
    let search = TidemarkProcess::serving(&["serve"], &searching).await.expect("it starts");
    search.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
    deliver(&sinking).await;

    // An audit may have come before it, and then it has archived them.
    let first: Value = serde_json::from_str(&wal.done(&working, &["snapshot", "--json"]).await).expect("JSON");
    for words in [
        &["gc"][..],
        &["verify", "--restore-drill"],
        &["reindex"],
        &["restore", "--latest"],
        &["promote"],
        &["snapshots"],
    ] {
        wal.done(&working, words).await;
    }

    assert!(indexer.stop().await.expect("it ends").success());
    audit(&all).await;
    let made: Value = serde_json::from_str(&wal.done(&working, &["snapshot", "--json"]).await).expect("JSON");
    let archived = [&first, &made].iter().filter_map(|made| made["archived"].as_u64()).sum::<u64>();
    assert_eq!(archived, ENTRIES, "{first} {made}");
    wal.done(&working, &["verify", "--all", "--restore-drill"]).await;

    // What the jobs may not: delete from the log. Nothing is lost, and the result says why.
    let refused = wal.run(&working, &["cleanup", "--min-age", "1s"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let result = wal.result();
    assert_eq!((result.state, result.reason), (TaskState::Failed, Some(Reason::DeletionRefused)), "{result:?}");
    assert!(result.message.contains("allow them to delete"), "{}", result.message);
    for key in &keys {
        assert!(log.head(key).await.expect("it answers").is_some(), "{key}");
    }
    let denied = |environment: &Environment, url: &str| stores::open(url, environment);
    let none = UserMetadata::new();
    for (part, environment, url) in [
        ("search", &searching, "s3://example-wal/orders/.tidemark"),
        ("search", &searching, "s3://example-idx/orders"),
        ("indexer", &indexing, "s3://example-wal/orders"),
        ("indexer", &indexing, "s3://example-idx/orders/archive"),
        ("jobs", &working, "s3://example-wal/orders"),
        ("jobs", &working, "s3://example-meta"),
        ("a sink", &sinking, "s3://example-wal/orders"),
        ("a sink", &sinking, "s3://example-meta"),
        ("a sink", &sinking, "s3://example-idx/orders"),
        ("a writer", &writing, "s3://example-wal/orders/.tidemark/root"),
        ("a writer", &writing, "s3://example-idx/orders"),
        ("cleanup", &cleaning, "s3://example-wal/orders"),
        ("cleanup", &cleaning, "s3://example-idx/orders/archive"),
    ] {
        let written = denied(environment, url).create("a-stranger", "x".into(), &none).await;
        assert!(!matches!(written, Create::Committed), "{part} writes to {url}");
    }
    for (part, environment) in [
        ("search", &searching),
        ("indexer", &indexing),
        ("jobs", &working),
        ("a sink", &sinking),
        ("a writer", &writing),
    ] {
        let deleted = denied(environment, "s3://example-wal/orders").delete(&keys).await;
        assert!(deleted.is_err(), "{part} deletes from the log");
    }
    let root_records: Vec<_> = keys_below(&log, ".tidemark/root/").await;
    assert!(denied(&cleaning, "s3://example-wal/orders").delete(&root_records).await.is_err(), "the log's root stays");
    assert!(!root_records.is_empty());
    assert_eq!(keys_below(&log, ".tidemark/root/").await, root_records);

    // Cleanup alone may.
    wal.done(&cleaning, &["cleanup", "--min-age", "1s"]).await;
    assert_eq!((wal.result().state, wal.result().figures.deleted_entries), (TaskState::Succeeded, Some(ENTRIES)));
    for key in &keys {
        assert!(log.head(key).await.expect("it answers").is_none(), "{key}");
    }
    search.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
    write(&wal, &writing).await;
    assert!(search.stop().await.expect("it ends").success());
}

/// A sink delivers, keeps its position and goes on there.
async fn deliver(sinking: &Environment) {
    let peer = SinkPeer::start().expect("it starts");
    let hook = format!("{}/hook", peer.url());
    let arguments = ["sink", "--name", "hook", "--identity", "a", "--webhook", &hook, "--batch-delay", "50ms"];
    for _ in 0..2 {
        let sink = TidemarkProcess::serving(&arguments, sinking).await.expect("it starts");
        let all = |process: &Value| process["sink"]["acknowledged"]["seq"].as_u64() == Some(ENTRIES);
        sink.until_answer("/v1/process", all).await;
        assert!(sink.stop().await.expect("it ends").success());
    }
    assert_eq!(peer.events().len() as u64, ENTRIES, "the position was not kept");
}

/// A writer appends, also under a lock that it acquires and releases.
async fn write(wal: &GuardedWal, writing: &Environment) {
    let folder = tempfile::tempdir().expect("a folder");
    let entry = folder.path().join("entry.json").display().to_string();
    std::fs::write(&entry, "{\"note\": \"by a writer\"}").expect("it is written");
    let token = wal.done(writing, &["append", &entry]).await;
    assert!(token.trim().parse::<Token>().is_ok(), "{token}");
    wal.done(writing, &["lock", "acquire", "models", "--holder", "a", "--complete-within", "1s"]).await;
    wal.done(writing, &["append", "--lock", "models", "--grant", "1", &entry]).await;
    wal.done(writing, &["lock", "renew", "models", "--grant", "1"]).await;
    wal.done(writing, &["lock", "release", "models", "--grant", "1"]).await;
    assert!(wal.done(writing, &["lock", "list"]).await.contains("released by a"));
}

async fn keys_below(store: &tidemark_store::Store, prefix: &str) -> Vec<String> {
    use futures::TryStreamExt as _;
    store.list(prefix, None).map_ok(|object| object.key).try_collect().await.expect("it is listed")
}
