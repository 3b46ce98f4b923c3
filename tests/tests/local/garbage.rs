//! `tidemark gc`: says what it finds, deletes a day later, and refuses what is not this log's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tidemark_catalog::GenerationSwitch;
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_store::{Entropy, StoreClock};
use tidemark_tests::{
    LocalIndex, S3Server, TidemarkProcess,
    faults::{FaultRule, InjectedFault, StoreOperation},
    stores::open,
};
use tidemark_wal::Log;

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

/// A task begins the generation g2 and uploads to it; then it ends, and never comes back.
async fn left_by_a_task(world: &LocalIndex) -> String {
    let store = |bucket: &str| open(&format!("s3://{bucket}"), &world.environment);
    let (log, root) = (Log::over(store("log"), vec![store("meta")]), world.root());
    let id = root.id().await.expect("the root is read").expect("it has an id");
    let (clock, entropy) = (StoreClock::new(log.stores(), "left"), Entropy::seeded(12));
    let holders = (&log.entries, &clock);
    let switch = GenerationSwitch::new((&root, &id), &store("index"), holders, "reindex left", &entropy);
    let (chain, _) = switch.open_generation().await.expect("it is open");
    let made = Box::pin(switch.begin(&chain, |_| ())).await.expect("it begins");
    let upload = format!("g2/segment/{:020}-{}", made.epoch(), entropy.nonce());
    world.server.insert("index", &upload, "a part of the records");
    made.release().await.expect("it ends");
    upload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_left_a_day_ago_goes_while_search_answers() {
    let world = LocalIndex::new().expect("the server starts");
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 40).await;
    assert!(indexer.stop().await.expect("it ends").success());
    world.done("snapshot", &["--name", "daily", "--no-archive"]).await.expect("a snapshot");
    let service = TidemarkProcess::serving(&["serve"], &world.environment).await.expect("it starts");
    service.until_answer("/v1/search?q=", |answer| answer["total"] == 40).await;
    let before = LocalIndex::answers(&service).await.expect("it answers");
    let objects = || -> BTreeSet<String> {
        let keys = world.server.keys("index").into_iter();
        keys.filter(|key| key.contains("/segment/") || key.contains("/sidecar/")).collect()
    };
    let named = objects();

    let upload = Box::pin(left_by_a_task(&world)).await;
    world.server.insert("index", LEAK, "records");
    let is_left = |leaks: &[&str]| {
        let leaks = leaks.iter().map(|key| (*key).to_owned());
        let wanted: BTreeSet<String> = named.iter().cloned().chain(leaks).collect();
        assert_eq!(objects(), wanted);
    };
    // A verification says what there is, and changes nothing.
    let keys = world.server.keys("index");
    let verified = world.run("verify", &["--json"]).await.expect("it ends");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && said.contains(LEAK) && !said.contains(&upload), "{said}");
    assert_eq!(world.server.keys("index"), keys);
    let first = world.done("gc", &[]).await.expect("a pass");
    assert_eq!(
        (&first["deleted"], &first["candidates"], first.get("givenUp")),
        (&0.into(), &1.into(), None),
        "{first}"
    );
    is_left(&[LEAK, &upload]);

    // The task is given up, and what it has uploaded waits for its own day.
    world.server.clock().advance(Duration::from_hours(25));
    let second = world.done("gc", &[]).await.expect("a pass");
    assert_eq!((&second["deleted"], &second["givenUp"]), (&1.into(), &serde_json::json!(["g2"])), "{second}");
    is_left(&[&upload]);

    // Credentials that may not delete.
    world.server.clock().advance(Duration::from_hours(25));
    let may_not = FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Delete).on(StoreOperation::DeleteMany);
    let may_not = world.server.inject(may_not);
    let result = tempfile::NamedTempFile::new().expect("a file");
    let file = result.path().to_str().expect("a path of text");
    let refused = world.run("gc", &["--result-file", file]).await.expect("it ends");
    let told = TaskResult::from_json(&std::fs::read_to_string(file).expect("it is written")).expect("JSON");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!((told.state, told.reason), (TaskState::Failed, Some(Reason::AccessDenied)), "{told:?}");
    is_left(&[&upload]);
    world.server.lift(may_not);
    let third = world.done("gc", &[]).await.expect("a pass");
    assert_eq!((&third["deleted"], &third["candidates"]), (&1.into(), &0.into()), "{third}");
    is_left(&[]);
    let answers = LocalIndex::answers(&service).await.expect("it answers");
    assert_eq!(answers, before);
    assert!(service.stop().await.expect("it ends").success());
    let verified = world.run("verify", &["--all"]).await.expect("it ends");
    assert!(verified.status.success(), "{verified:?}");
}
