//! `tidemark sink verify` against a search server in this process, whose documents are lost, altered and added.

use std::process::Output;

use serde_json::{Value, json};
use tidemark_tests::{LocalIndex, SinkPeer, TidemarkProcess};

use super::sinks::{recorded, sink, state, until_acknowledged};

/// Verifies the consumer `name`.
async fn verify(world: &LocalIndex, peer: &SinkPeer, name: &str, more: &[&str]) -> Output {
    let url = format!("{}/search", peer.url());
    let common = ["sink", "verify", "--name", name, "--elasticsearch", &url, "--elasticsearch-index", "orders"];
    TidemarkProcess::ended(&[&common, more].concat(), &world.environment).await.expect("it ends")
}

/// The lines that it prints as JSON, and its exit code.
async fn verified(world: &LocalIndex, peer: &SinkPeer, more: &[&str]) -> (Vec<Value>, Option<i32>) {
    let ended = verify(world, peer, "orders", &[&["--json"], more].concat()).await;
    eprint!("{}", String::from_utf8_lossy(&ended.stderr));
    let lines = String::from_utf8(ended.stdout).expect("text");
    let lines = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (lines, ended.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_altered_and_surplus_documents_are_found_and_nothing_else_is() {
    let (world, indexer) = recorded(30).await;
    let peer = SinkPeer::start().expect("it starts");
    let url = format!("{}/search", peer.url());
    peer.judges(|document| (document["bundle"] == "b7").then_some((400, "mapper_parsing_exception")));
    let process = sink(&world, "a", &["--elasticsearch", &url, "--elasticsearch-index", "orders"]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 30).await;
    assert!(process.stop().await.expect("it stops").success());
    let (lines, code) = verified(&world, &peer, &[]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    let expected = json!({"acknowledged": "g1:30", "deadLetters": 1, "documents": 29, "records": 30, "lost": 0, "stale": 0, "altered": 0,
        "surplus": 0});
    assert_eq!(lines, [expected]);
    // What is recorded since is not to be there yet.
    world.bundle(2, "since");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 31).await;
    assert_eq!(verified(&world, &peer, &[]).await.1, Some(0));

    let whole = peer.documents();
    let ids: Vec<String> = whole.keys().cloned().collect();
    let of_one = |fault: &str, lines: &[Value], id: &str| {
        let [finding, end] = lines else { panic!("{lines:?}") };
        assert_eq!(
            (&finding["fault"], &finding["document"], &end[fault]),
            (&json!(fault), &json!(id), &json!(1)),
            "{lines:?}"
        );
        for part in ["what", "effect", "remedy"] {
            assert!(finding[part].as_str().is_some_and(|part| !part.is_empty()), "{finding}");
        }
    };
    peer.alter_documents(|documents| drop(documents.remove(&ids[4])));
    let (lines, code) = verified(&world, &peer, &[]).await;
    of_one("lost", &lines, &ids[4]);
    assert_eq!(code, Some(8));
    peer.alter_documents(|documents| {
        documents.clone_from(&whole);
        documents.entry(ids[9].clone()).and_modify(|(_, document)| document["message"] = json!("M"));
    });
    let (lines, code) = verified(&world, &peer, &[]).await;
    of_one("altered", &lines, &ids[9]);
    assert_eq!(code, Some(8));
    peer.alter_documents(|documents| {
        documents.clone_from(&whole);
        documents.insert("other".to_owned(), (1, json!({})));
    });
    let ended = verify(&world, &peer, "orders", &[]).await;
    let said = String::from_utf8(ended.stdout).expect("text");
    assert!(said.starts_with("surplus   other: its id is of no operation; who searches there"), "{said}");
    assert!(said.ends_with("findings  0 lost, 0 stale, 0 altered, 1 surplus\n"), "{said}");
    assert_eq!(ended.status.code(), Some(8));
    // What the query leaves out should not be there.
    peer.alter_documents(|documents| documents.clone_from(&whole));
    let (lines, code) = verified(&world, &peer, &["--query", "bundle:b3"]).await;
    assert_eq!((lines.last().map(|end| end["surplus"].clone()), code), (Some(json!(28)), Some(8)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_whole_is_not_judged() {
    let (world, _indexer) = recorded(3).await;
    let peer = SinkPeer::start().expect("it starts");
    let url = format!("{}/search", peer.url());
    let ended = verify(&world, &peer, "orders", &[]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("no consumer \"orders\" has begun"), "{said}");
    let process = sink(&world, "a", &["--elasticsearch", &url, "--elasticsearch-index", "orders"]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 3).await;
    // The documents of one shard are missing of the answer.
    peer.fail_shards(1);
    let ended = verify(&world, &peer, "orders", &[]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("1 shards do not answer"), "{said}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    peer.fail_shards(0);
    peer.answers(|_, _| tidemark_tests::PeerAnswer::Garbage);
    let ended = verify(&world, &peer, "orders", &[]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("the answer is none of a refresh"), "{said}");
    assert!(process.stop().await.expect("it stops").success());
}

/// A reindex keeps the seqs: a sink that runs goes on, so does one that begins after it, and no record comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_goes_on_over_a_reindex_and_its_documents_are_those_of_the_index() {
    let (world, indexer) = recorded(5).await;
    let peer = SinkPeer::start().expect("it starts");
    let url = format!("{}/search", peer.url());
    let arguments = ["--elasticsearch", &url, "--elasticsearch-index", "orders"];
    let process = sink(&world, "a", &arguments).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 5).await;
    assert_eq!(world.done("reindex", &[]).await.expect("it ends")["generation"], "g2");
    indexer.until_answer("/v1/status", |status| status["generation"] == "g2").await;
    world.bundle(2, "since");
    until_acknowledged(&process, &chain, 6).await;
    assert!(process.stop().await.expect("it stops").success());
    world.bundle(1, "later");
    let process = sink(&world, "a", &arguments).await;
    until_acknowledged(&process, &chain, 7).await;
    assert!(process.stop().await.expect("it stops").success());
    assert_eq!(state(&chain).await.expect("it was held").delivered, 7);
    let (lines, code) = verified(&world, &peer, &[]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert_eq!((&lines[0]["acknowledged"], &lines[0]["documents"]), (&json!("g2:7"), &json!(7)), "{lines:?}");
}
