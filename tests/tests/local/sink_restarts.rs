//! What becomes of a sink over restarts: of where it began, of records that are corrected, of what processes that are gone have left.

use serde_json::Value;
use tidemark_store::Entropy;
use tidemark_tests::{LocalIndex, PeerAnswer, SinkPeer, TidemarkProcess};

use super::sinks::{acknowledged, recorded, sink, state, until_acknowledged};

/// The snapshot that it began after is removed; it goes on from where it is, and does not ask for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_goes_on_after_the_snapshot_that_it_began_at_is_gone() {
    let (world, indexer) = recorded(6).await;
    world.done("snapshot", &["--name", "first"]).await.expect("it ends");
    world.bundle(3, "since");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 7).await;
    let peer = SinkPeer::start().expect("it starts");
    let hook = format!("{}/hook", peer.url());
    let arguments = ["--webhook", &hook, "--from", "snapshot:first"];
    let process = sink(&world, "a", &arguments).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 7).await;
    process.kill().await.expect("it is killed");

    // Only the last one stays.
    world.done("snapshot", &["--name", "second", "--keep-last", "1"]).await.expect("it ends");
    let listed = world.done("snapshots", &[]).await.expect("it ends");
    let names: Vec<_> = listed["snapshots"].as_array().expect("a list").iter().map(|listed| &listed["name"]).collect();
    assert_eq!(names, ["second"]);
    world.bundle(1, "later");
    let process = sink(&world, "a", &arguments).await;
    until_acknowledged(&process, &chain, 8).await;
    let seqs: Vec<_> = peer.events().iter().map(|event| event["data"]["seq"].clone()).collect();
    assert_eq!(seqs, [7, 8]);
    // One that has not begun yet cannot begin there.
    for (from, words) in [("snapshot:first", "first"), ("g1:1:0000000000000000", "of another log")] {
        let arguments = ["sink", "--name", "other", "--webhook", &hook, "--from", from];
        let ended = TidemarkProcess::ended(&arguments, &world.environment).await.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains(words), "{from}: {said}");
    }
    assert!(process.stop().await.expect("it stops").success());
}

/// A document of each operation: the correction replaces what was delivered, and what comes late leaves the correction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_replaces_the_document_and_what_comes_late_does_not_overwrite_it() {
    const PATH: &str = "bundles/repo/late/bundle.yaml";
    let world = LocalIndex::new().expect("the server starts");
    let (token, in_time) = (world.entry(600, PATH.to_owned()), world.ago(600));
    world.bundle(500, "b");
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["aborted"] == 1).await;
    let peer = SinkPeer::start().expect("it starts");
    let url = format!("{}/search", peer.url());
    let arguments = ["--elasticsearch", &url, "--elasticsearch-index", "orders", "--batch-operations", "1"];
    let process = sink(&world, "a", &arguments).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 2).await;
    let id = format!("{token}-0");
    let (version, document) = peer.documents()[&id].clone();
    assert_eq!((version, &document["outcome"]), (1, &Value::from("aborted")), "{document}");

    // Its descriptor is found late: the next writer looks again.
    world.server.insert_at("meta", PATH, "id: late\nmessage: m\n", in_time);
    indexer.kill().await.expect("it is killed");
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 2).await;
    until_acknowledged(&process, &chain, 3).await;
    let corrected = peer.documents()[&id].clone();
    assert_eq!((corrected.0, &corrected.1["outcome"]), (3, &Value::from("committed")), "{}", corrected.1);
    assert_eq!((&corrected.1["replaces"], peer.documents().len()), (&Value::from(1), 2), "{}", corrected.1);
    assert!(process.stop().await.expect("it stops").success());

    // Another sink delivers all of it again, each record in a request of its own: the old one comes after the correction.
    let again = ["sink", "--name", "again", "--identity", "a"];
    let again =
        TidemarkProcess::begun(&[&again[..], &arguments].concat(), &world.environment).await.expect("it starts");
    let chain = world.consumer("again").await.expect("the log has an id");
    until_acknowledged(&again, &chain, 1).await;
    assert_eq!(peer.documents()[&id], corrected, "an old record has overwritten its correction");
    until_acknowledged(&again, &chain, 3).await;
    assert_eq!((peer.documents()[&id].clone(), peer.documents().len()), (corrected, 2));
    let state = state(&chain).await.expect("it is held");
    assert_eq!((state.delivered, state.dead_lettered), (3, 0), "what is there in a newer version counts as delivered");
    assert!(again.stop().await.expect("it stops").success());
}

/// The heartbeats of processes that are gone, and the run of a moment that deletes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_deletes_heartbeats_that_stood_still_for_a_day_and_no_others() {
    let (world, _indexer) = recorded(2).await;
    let peer = SinkPeer::start().expect("it starts");
    let hook = format!("{}/hook", peer.url());
    let living = sink(&world, "living", &["--webhook", &hook]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&living, &chain, 2).await;
    let holder = state(&chain).await.and_then(|state| state.holder).expect("it is held");
    for (name, ago) in [("gone", 2 * 86_400), ("young", 3600)] {
        let key = format!("consumers/.tidemark/clock/{name}");
        world.server.insert_at("index", &key, "", world.ago(ago));
    }
    TidemarkProcess::output(&["changes", "--name", "audit"], &world.environment).await.expect("it ends");
    let beats = chain.clock("test");
    let left = beats.delete_abandoned().await.expect("it lists");
    assert_eq!(left, 0, "the run has left what is to be deleted");
    let store = tidemark_tests::stores::open("s3://index", &world.environment);
    let exists = async |key: &str| store.head(&format!("consumers/{key}")).await.expect("it answers").is_some();
    assert!(!exists(".tidemark/clock/gone").await && exists(".tidemark/clock/young").await);
    assert!(exists(&holder.heartbeat).await, "the heartbeat of a process that lives is gone");
    assert_eq!(acknowledged(&chain).await, 2);
    assert!(living.stop().await.expect("it stops").success());
}

/// More than the destination takes at once, a record that it never takes, and an operation of 10 MB, of which the index keeps a digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_refuses_large_requests_gets_smaller_ones_and_the_large_record_is_put_aside() {
    let world = LocalIndex::new().expect("the server starts");
    let (large, huge) = ("x".repeat(200 << 10), "x".repeat(10 << 20));
    for number in 0..6 {
        let (path, at) = (format!("bundles/repo/b{number}/bundle.yaml"), world.ago(600 - number));
        let message = match number {
            3 => &large,
            4 => &huge,
            _ => "m",
        };
        world.server.insert_at("meta", &path, format!("id: b{number}\nmessage: {message}\n"), at);
        world.server.insert_at("log", &tidemark_wal::Token::new(at, &Entropy::seeded(number)).to_string(), path, at);
    }
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 6).await;
    let peer = SinkPeer::start().expect("it starts");
    peer.answers(|_, bytes| if bytes > 100 << 10 { PeerAnswer::Refuse(413, None) } else { PeerAnswer::Take });
    let hook = format!("{}/hook", peer.url());
    let process = sink(&world, "a", &["--webhook", &hook]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 6).await;
    let seqs: Vec<_> = peer.events().iter().map(|event| event["data"]["seq"].clone()).collect();
    assert_eq!(seqs, [1, 2, 3, 5, 6]);
    let ended = state(&chain).await.expect("it is held");
    assert_eq!((ended.delivered, ended.dead_lettered), (5, 1));
    // One that takes it gets it whole.
    peer.answers(|_, _| PeerAnswer::Take);
    let whole = ["sink", "--name", "whole", "--webhook", &hook];
    let whole = TidemarkProcess::begun(&whole, &world.environment).await.expect("it starts");
    until_acknowledged(&whole, &world.consumer("whole").await.expect("the log has an id"), 6).await;
    let largest = peer.requests().iter().map(|request| request.body.len()).max();
    assert!(largest > Some(200 << 10) && largest < Some(1 << 20), "{largest:?}");
    assert!(process.stop().await.expect("it stops").success() && whole.stop().await.expect("it stops").success());
}
