//! `tidemark demo` on a real server: it makes its buckets, waits for the log's parameters, tells until it is stopped, and
//! goes on when it is started again.

use std::{collections::BTreeMap, time::Duration};

use tidemark_tests::{MinioServer, TidemarkProcess};
use tokio::time::{Instant, sleep};

const PLACES: [&str; 6] = ["--log", "s3://wal/demo", "--metadata", "s3://meta", "--metadata", "s3://vmeta"];
const PATIENCE: Duration = Duration::from_mins(3);

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, &PLACES, more].concat()
}

async fn logged(program: &TidemarkProcess, words: &str) {
    let said = async || if program.log().contains(words) { Ok(()) } else { Err("it is not in the log".to_owned()) };
    program.until(words, said).await;
}

/// Outcomes of the entries, by how many have them.
async fn outcomes(environment: &BTreeMap<String, String>) -> BTreeMap<String, usize> {
    let listed = TidemarkProcess::output(&with(&["log"], &["--json"]), environment).await.expect("the log is listed");
    let mut outcomes = BTreeMap::new();
    for line in listed.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        *outcomes.entry(entry["outcome"].as_str().expect("an outcome").to_owned()).or_default() += 1;
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_makes_buckets_waits_for_parameters_and_tells_until_it_is_stopped() {
    let minio = MinioServer::start().await.expect("minio starts");
    let environment = minio.environment();
    let more = ["--create-buckets", "--bucket", "idx", "--every", "100ms", "--seed", "1"];
    let telling = TidemarkProcess::begun(&with(&["demo"], &more), &environment).await.expect("the demo starts");
    logged(&telling, "has no parameters yet").await;
    for bucket in ["wal", "meta", "vmeta", "idx"] {
        assert!(minio.create_bucket(bucket).await.is_err(), "\"{bucket}\" is there already");
    }
    // The bounds add up to the shortest that a real server bears.
    let set = ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s"];
    TidemarkProcess::output(&with(&["log", "set"], &set), &environment).await.expect("the parameters are set");
    let has_five = async || {
        let outcomes = outcomes(&environment).await;
        if outcomes.values().sum::<usize>() >= 5 { Ok(()) } else { Err(format!("{outcomes:?}")) }
    };
    telling.until("five entries are listed", has_five).await;
    let ended = telling.stop().await.expect("it ends when it is asked to");
    assert!(ended.success(), "{ended}");

    // The same seed once more: the repos are there, and every name is new.
    let again = with(&["demo"], &["--every", "0s", "--count", "40", "--seed", "1"]);
    let printed = TidemarkProcess::output(&again, &environment).await.expect("it ends after 40 entries");
    assert_eq!(printed.lines().count(), 40, "{printed}");
    let abandoned = printed.lines().filter(|line| line.ends_with("abandoned")).count();
    let give_up = Instant::now() + PATIENCE;
    let outcomes = loop {
        let outcomes = outcomes(&environment).await;
        if !outcomes.contains_key("pending") {
            break outcomes;
        }
        assert!(Instant::now() < give_up, "{outcomes:?}");
        sleep(Duration::from_millis(500)).await;
    };
    assert!(outcomes["committed"] >= 40 - abandoned, "{outcomes:?}");
    assert!(outcomes.get("aborted").copied().unwrap_or_default() >= abandoned, "{outcomes:?}");
    // On a busy machine a write may land after its second, or be made again because its answer came too late.
    let known = ["committed", "aborted", "late", "duplicate"];
    assert!(outcomes.keys().all(|outcome| known.contains(&outcome.as_str())), "{outcomes:?}");
}
