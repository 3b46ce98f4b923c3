//! Sinks in processes of their own: killed at any point, against destinations that are slow, lose answers, refuse and come back. What arrives
//! equals what the index has recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::TryStreamExt as _;
use serde_json::Value;
use tidemark_catalog::{ConsumerChain, ConsumerState};
use tidemark_tests::{
    LocalIndex, PeerAnswer, SinkPeer, TidemarkProcess, TlsFront,
    faults::{FaultRule, InjectedFault, StoreOperation},
    issue_certificate, webhook_signature,
};
use tokio::time::timeout;

/// How long one step may take.
const PATIENCE: Duration = Duration::from_mins(2);
const SECRET: &str = "hunter2";

/// An index with `count` bundles, all of them recorded.
pub(crate) async fn recorded(count: u64) -> (LocalIndex, TidemarkProcess) {
    let world = LocalIndex::new().expect("the server starts");
    for number in 0..count {
        world.bundle(1 + 2 * count - number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == count).await;
    (world, indexer)
}

/// A sink that is started again at once under its identity.
pub(crate) async fn sink(world: &LocalIndex, identity: &str, more: &[&str]) -> TidemarkProcess {
    let common = ["sink", "--name", "orders", "--identity", identity, "--batch-delay", "50ms"];
    TidemarkProcess::begun(&[&common, more].concat(), &world.environment).await.expect("it starts")
}

pub(crate) async fn state(chain: &ConsumerChain) -> Option<ConsumerState> {
    chain.latest().await.expect("it can be read").map(|latest| latest.state)
}

pub(crate) async fn acknowledged(chain: &ConsumerChain) -> u64 {
    state(chain).await.map_or(0, |state| state.acknowledged.seq)
}

/// Waits until the sink has acknowledged `seq`.
pub(crate) async fn until_acknowledged(sink: &TidemarkProcess, chain: &ConsumerChain, seq: u64) {
    let is_there = async || match acknowledged(chain).await {
        acknowledged if acknowledged == seq => Ok(()),
        acknowledged => Err(format!("{acknowledged} of {seq}")),
    };
    sink.until("acknowledged", is_there).await;
}

/// The seqs of events in the order in which each came first.
fn first_arrivals(events: &[Value]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let seqs = events.iter().filter_map(|event| event["data"]["seq"].as_u64());
    seqs.filter(|seq| seen.insert(*seq)).collect()
}

fn secret_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{SECRET}\n")).expect("it is written");
    file
}

/// The walk: a webhook gets what is recorded, and what is recorded while the sink was dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_signed_events_and_goes_on_after_a_kill() {
    let (world, _indexer) = recorded(30).await;
    let (peer, secret) = (SinkPeer::start().expect("it starts"), secret_file());
    let hook = format!("{}/hook", peer.url());
    let path = secret.path().to_str().expect("a path");
    let arguments = ["--webhook", &hook, "--secret-file", path];
    let first = sink(&world, "a", &arguments).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&first, &chain, 30).await;
    first.kill().await.expect("it is killed");
    world.bundle(1, "later");
    let second = sink(&world, "a", &arguments).await;
    until_acknowledged(&second, &chain, 31).await;

    let events = peer.events();
    assert_eq!(first_arrivals(&events), (1..=31).collect::<Vec<_>>());
    assert_eq!(events.len(), 31, "what was acknowledged comes once");
    let last = &events[30];
    assert_eq!((&last["specversion"], &last["type"]), (&"1.0".into(), &"dev.tidemark.change".into()), "{last}");
    assert_eq!((&last["data"]["bundle"], &last["subject"]), (&"later".into(), &"bundle/repo/later".into()), "{last}");
    assert!(last["data"]["payload"].is_object() || last["data"]["payload"].is_string(), "{last}");
    for request in peer.requests() {
        let given = request.headers["tidemark-signature"].to_str().expect("text").to_owned();
        assert_eq!(given, webhook_signature(SECRET, &request));
        assert_eq!(request.headers["content-type"], "application/cloudevents-batch+json");
    }
    assert!(second.stop().await.expect("it stops").success());
    let state = state(&chain).await.expect("it was held");
    assert_eq!((state.holder, state.delivered, state.epoch), (None, 31, 2));
}

/// What befalls a life of a sink besides its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SinkLife {
    /// Nothing.
    Calm,
    /// Requests between the sink and its index.
    StoreFault(InjectedFault, StoreOperation, &'static str),
    /// The destination is dead.
    PeerDead,
    /// The destination is killed with it.
    BothKilled,
}

/// By turns.
const LIVES: [SinkLife; 10] = [
    SinkLife::Calm,
    SinkLife::BothKilled,
    SinkLife::StoreFault(InjectedFault::Unavailable, StoreOperation::Put, "index/consumers/"),
    SinkLife::Calm,
    SinkLife::PeerDead,
    SinkLife::StoreFault(InjectedFault::Hold, StoreOperation::Put, "index/consumers/orders/"),
    SinkLife::BothKilled,
    SinkLife::StoreFault(InjectedFault::DropAfter, StoreOperation::Put, "index/consumers/orders/"),
    SinkLife::Calm,
    SinkLife::StoreFault(InjectedFault::Drop, StoreOperation::Get, "index/"),
];

/// Starts a sink, and kills it, with its destination perhaps, in the middle of what befalls it.
async fn live(world: &LocalIndex, peer: &mut SinkPeer, number: usize, arguments: &[&str]) {
    let (life, faults) = (LIVES[number % LIVES.len()], world.server.faults_seen());
    match life {
        SinkLife::StoreFault(fault, operation, key) => {
            // Other requests each time: those of the claim, or those of a position.
            let passing = u32::try_from((number / LIVES.len() + number) % 3).expect("few");
            world.server.inject(FaultRule::always(fault).on(operation).key(key).after(passing));
        }
        SinkLife::PeerDead => peer.kill().expect("it is killed"),
        SinkLife::Calm | SinkLife::BothKilled => {}
    }
    // At another request each time, in the middle of it or after it.
    let wanted = peer.requests().len() + 1 + number % 5;
    let process = sink(world, "a", arguments).await;
    match life {
        SinkLife::Calm | SinkLife::BothKilled => {
            let _ = timeout(Duration::from_secs(5), peer.until_requests(wanted)).await;
        }
        SinkLife::StoreFault(..) => {
            let is_hit = async || if world.server.faults_seen() > faults { Ok(()) } else { Err("none".to_owned()) };
            process.until("a fault", is_hit).await;
        }
        SinkLife::PeerDead => complaint(&process, "a batch was not delivered").await,
    }
    if life == SinkLife::BothKilled {
        peer.kill().expect("it is killed");
    }
    process.kill().await.expect("it is killed");
    world.server.calm();
    if matches!(life, SinkLife::PeerDead | SinkLife::BothKilled) {
        peer.revive().expect("it listens again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_arrives_in_order_however_often_sink_and_destination_are_killed() {
    // `make long` has so many that there are thousands of kills.
    let records = std::env::var("SINK_RECORDS").map_or(150, |count| count.parse().expect("a number"));
    let (world, _indexer) = recorded(records).await;
    let mut peer = SinkPeer::start().expect("it starts");
    let hook = format!("{}/hook", peer.url());
    let arguments =
        ["--webhook", &hook, "--batch-operations", "7", "--max-unacknowledged", "20", "--breaker-open-for", "1s"];
    peer.answers(|number, _| match number % 9 {
        2 => PeerAnswer::LoseAnswer,
        4 => PeerAnswer::Refuse(503, None),
        5 => PeerAnswer::Garbage,
        7 => PeerAnswer::Refuse(429, Some(("retry-after", "1".to_owned()))),
        _ => PeerAnswer::Take,
    });
    let chain = world.consumer("orders").await.expect("the log has an id");
    let (mut kills, mut last) = (0, 0);
    while acknowledged(&chain).await < records {
        live(&world, &mut peer, kills, &arguments).await;
        kills += 1;
        let now = acknowledged(&chain).await;
        assert!(now >= last, "the position went back from {last} to {now}");
        let arrived: BTreeSet<u64> = first_arrivals(&peer.events()).into_iter().collect();
        assert!((1..=now).all(|seq| arrived.contains(&seq)), "{now} is acknowledged, and something has not arrived");
        last = now;
        assert!(u64::try_from(kills).expect("few") < 2 * records, "{now} of {records} after {kills} kills");
    }
    assert_eq!(first_arrivals(&peer.events()), (1..=records).collect::<Vec<_>>());
    let most = peer.requests().iter().map(|request| request.body.matches("\"specversion\"").count()).max();
    println!(
        "{kills} kills, {} requests, {} of the store disturbed",
        peer.requests().len(),
        world.server.faults_seen()
    );
    // Each kind of life was lived.
    assert!(kills >= LIVES.len() && most <= Some(7), "{kills} kills, at most {most:?} events");
    assert_eq!(state(&chain).await.expect("it was held").delivered, records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sinks_of_one_name_the_earlier_one_ends() {
    let (world, _indexer) = recorded(10).await;
    let peer = SinkPeer::start().expect("it starts");
    let hook = format!("{}/hook", peer.url());
    let chain = world.consumer("orders").await.expect("the log has an id");
    let first = sink(&world, "a", &["--webhook", &hook]).await;
    until_acknowledged(&first, &chain, 10).await;
    let second = sink(&world, "a", &["--webhook", &hook]).await;
    let is_taken = async || match state(&chain).await {
        Some(state) if state.epoch == 2 => Ok(()),
        state => Err(format!("{state:?}")),
    };
    second.until("claimed", is_taken).await;
    world.bundle(1, "later");
    let ended = timeout(PATIENCE, first.wait()).await.expect("it ends").expect("it ends");
    assert_eq!(ended.code(), Some(4));
    until_acknowledged(&second, &chain, 11).await;
    assert_eq!(state(&chain).await.expect("it is held").epoch, 2, "the fenced one does not come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_api_gets_each_operation_once_and_its_poison_is_put_aside() {
    let (world, _indexer) = recorded(25).await;
    let peer = SinkPeer::start().expect("it starts");
    let url = format!("{}/search", peer.url());
    let is_full = Arc::new(AtomicBool::new(true));
    let full = Arc::clone(&is_full);
    peer.judges(move |document| match document["bundle"].as_str() {
        Some("b3") => Some((400, "mapper_parsing_exception")),
        Some("b5" | "b6") if full.load(Ordering::Relaxed) => Some((429, "es_rejected_execution_exception")),
        _ => None,
    });
    // More than so many bytes at once are refused.
    peer.answers(|_, bytes| if bytes > 6000 { PeerAnswer::Refuse(413, None) } else { PeerAnswer::Take });
    let process = sink(&world, "a", &["--elasticsearch", &url, "--elasticsearch-index", "orders"]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    let holds = async |count: usize| {
        let is_there = async || match peer.documents().len() {
            held if held == count => Ok(()),
            held => Err(format!("{held} of {count}")),
        };
        process.until("documents", is_there).await;
    };
    // Without the poison and the two that are put off, behind which the position waits.
    holds(22).await;
    let before = acknowledged(&chain).await;
    let deferred =
        peer.documents().values().filter_map(|(_, document)| document["seq"].as_u64()).collect::<BTreeSet<_>>();
    assert!(
        (1..=before).filter(|seq| !deferred.contains(seq)).count() <= 1,
        "{before} is acknowledged with {deferred:?}"
    );
    is_full.store(false, Ordering::Relaxed);
    holds(24).await;
    until_acknowledged(&process, &chain, 25).await;
    let documents = peer.documents();
    assert_eq!(documents.len(), 24);
    let state = state(&chain).await.expect("it is held");
    assert_eq!((state.delivered, state.dead_lettered), (24, 1));
    let folder = chain.folder();
    let letters: Vec<_> = folder.list("dead-letters", None).try_collect().await.expect("it lists");
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    let letter = folder.get(&letter.key, 1 << 20).await.expect("it reads").expect("it is there");
    let letter: Value = serde_json::from_slice(&letter.body.expect("it is small")).expect("JSON");
    assert_eq!(letter["change"]["bundle"], "b3");
    assert!(letter["why"].as_str().is_some_and(|why| why.contains("mapper_parsing_exception")), "{letter}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_says_how_far_it_is() {
    let (world, _indexer) = recorded(5).await;
    let peer = SinkPeer::start().expect("it starts");
    peer.answers(|_, _| PeerAnswer::Refuse(503, None));
    let hook = format!("{}/hook", peer.url());
    let arguments = ["sink", "--name", "orders", "--identity", "a", "--webhook", &hook, "--breaker-failures", "2"];
    let more = ["--breaker-open-for", "1s", "--batch-delay", "50ms"];
    let sink =
        TidemarkProcess::serving(&[&arguments[..], &more].concat(), &world.environment).await.expect("it starts");
    let away = sink
        .until_answer("/v1/process", |process| {
            process["sink"]["breaker"] == "open" && process["sink"]["holding"] == true
        })
        .await;
    let report = &away["sink"];
    assert_eq!((&away["phase"], &away["identity"], &report["holding"]), (&"serving".into(), &"a".into(), &true.into()));
    assert_eq!((&report["lagOperations"], &report["acknowledged"]["seq"]), (&5.into(), &0.into()), "{report}");
    assert!(report["lastError"].as_str().is_some_and(|error| error.contains("503")), "{report}");
    // What is published while nothing is read.
    world.bundle(1, "later");
    let behind = |process: &Value| process["sink"]["lagOperations"] == 6;
    sink.until_answer("/v1/process", behind).await;
    assert_eq!(sink.get("/healthz").await.expect("it lives")["status"], "ok");
    let figures =
        reqwest::get(format!("{}/metrics", sink.url())).await.expect("it answers").text().await.expect("text");
    assert!(figures.contains("tidemark_sink_lag_operations 6"), "{figures}");
    assert!(sink.get("/v1/search").await.is_err(), "it serves no search");
    peer.answers(|_, _| PeerAnswer::Take);
    let well = |process: &Value| process["sink"]["acknowledged"]["seq"] == 6 && process["sink"]["lagSeconds"] == 0;
    let report = sink.until_answer("/v1/process", well).await["sink"].clone();
    assert_eq!((&report["breaker"], &report["lastError"]), (&"closed".into(), &Value::Null), "{report}");
    assert!(sink.stop().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_name_prints_each_line_once_over_its_runs() {
    let (world, indexer) = recorded(12).await;
    let printed = async || {
        let arguments = ["changes", "--name", "audit", "--identity", "a"];
        let printed = TidemarkProcess::output(&arguments, &world.environment).await.expect("it ends");
        printed
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["seq"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(printed().await, (1..=12).map(Value::from).collect::<Vec<_>>());
    assert_eq!(printed().await, Vec::<Value>::new());
    world.bundle(1, "later");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 13).await;
    assert_eq!(printed().await, [Value::from(13)]);
    let chain = world.consumer("audit").await.expect("the log has an id");
    assert_eq!((acknowledged(&chain).await, state(&chain).await.expect("it was held").epoch), (13, 3));
}

/// A restore gives records other seqs: a consumer of before ends, and says how to begin again, which one of another name does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_a_name_ends_and_another_one_gets_everything_again() {
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    for number in 0..8 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 8).await;
    world.done("snapshot", &["--name", "daily"]).await.expect("it ends");
    let (before, after) = (SinkPeer::start().expect("it starts"), SinkPeer::start().expect("it starts"));
    let (hook, again) = (format!("{}/hook", before.url()), format!("{}/hook", after.url()));
    let living = sink(&world, "a", &["--webhook", &hook]).await;
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&living, &chain, 8).await;
    let audit = |name: &'static str| ["changes", "--name", name, "--identity", "a"];
    let lines = TidemarkProcess::output(&audit("audit"), &world.environment).await.expect("it ends");
    assert_eq!(lines.lines().count(), 8);

    world.done("restore", &["--to-time", &to]).await.expect("it ends");
    let ended = timeout(PATIENCE, living.wait()).await.expect("it ends by itself").expect("it ends");
    assert_eq!(ended.code(), Some(1));
    let started_again = ["sink", "--name", "orders", "--identity", "a", "--webhook", &hook];
    for arguments in [&started_again[..], &audit("audit")] {
        let ended = TidemarkProcess::ended(arguments, &world.environment).await.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        for words in
            ["which was restored", "make the destination again from nothing", "start a consumer of another name"]
        {
            assert!(said.contains(words), "{said}");
        }
    }
    assert_eq!((acknowledged(&chain).await, before.events().len()), (8, 8), "nothing came and nothing moved");

    let other = ["sink", "--name", "orders-again", "--identity", "a", "--webhook", &again, "--batch-delay", "50ms"];
    let other = TidemarkProcess::begun(&other, &world.environment).await.expect("it starts");
    timeout(PATIENCE, after.until_taken(8)).await.expect("everything comes again");
    let bundles: Vec<_> = after.events().iter().map(|event| event["data"]["bundle"].clone()).collect();
    assert_eq!(bundles, (0..8).map(|number| Value::from(format!("b{number}"))).collect::<Vec<_>>());
    assert!(other.stop().await.expect("it stops").success());
    let lines = TidemarkProcess::output(&audit("audit-again"), &world.environment).await.expect("it ends");
    assert_eq!(lines.lines().count(), 8);
}

/// What a sink logs when it cannot deliver.
async fn complaint(sink: &TidemarkProcess, words: &str) {
    let is_told = async || if sink.log().contains(words) { Ok(()) } else { Err(sink.log()) };
    sink.until(words, is_told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_not_what_it_should_be_gets_nothing() {
    let (world, _indexer) = recorded(3).await;
    let (peer, elsewhere) = (SinkPeer::start().expect("it starts"), SinkPeer::start().expect("it starts"));
    let (hook, target) = (format!("{}/hook", peer.url()), format!("{}/hook", elsewhere.url()));
    let chain = world.consumer("orders").await.expect("the log has an id");
    for status in [301, 307] {
        let redirect = target.clone();
        peer.answers(move |_, _| PeerAnswer::Refuse(status, Some(("location", redirect.clone()))));
        let process = sink(&world, "a", &["--webhook", &hook]).await;
        complaint(&process, &format!("answers {status}")).await;
        assert!(elsewhere.requests().is_empty(), "a redirect was followed");
        process.kill().await.expect("it is killed");
    }

    // It never answers: the time-out ends each attempt.
    peer.answers(|_, _| PeerAnswer::Hang);
    let process = sink(&world, "a", &["--webhook", &hook, "--timeout", "1s"]).await;
    complaint(&process, "timed out").await;
    process.kill().await.expect("it is killed");

    // A certificate that nobody vouches for, and the same one with its authority named.
    let folder = tempfile::tempdir().expect("a folder");
    issue_certificate(folder.path(), std::net::Ipv4Addr::LOCALHOST.into()).expect("a certificate");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = peer.url().trim_start_matches("http://").parse().expect("an address");
    let front = TlsFront::start(listener, server, folder.path()).expect("it starts");
    peer.answers(|_, _| PeerAnswer::Take);
    let secure = format!("{}/hook", front.url().expect("it has one"));
    let process = sink(&world, "a", &["--webhook", &secure]).await;
    complaint(&process, "certificate").await;
    assert!(peer.events().is_empty());
    process.kill().await.expect("it is killed");
    let authority = folder.path().join("ca.crt");
    let process = sink(&world, "a", &["--webhook", &secure, "--ca-file", authority.to_str().expect("a path")]).await;
    until_acknowledged(&process, &chain, 3).await;
    process.kill().await.expect("it is killed");

    for (url, words) in [
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("http://example.org/hook", "in the clear"),
        ("https://user:hunter2@example.org/", "credentials"),
    ] {
        let arguments = ["sink", "--name", "other", "--webhook", url];
        let ended = TidemarkProcess::ended(&arguments, &world.environment).await.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(words), "{url}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let none = TidemarkProcess::ended(&["sink", "--name", "other"], &BTreeMap::new()).await.expect("it ends");
    assert_eq!(none.status.code(), Some(2));
}

/// Nothing is opened for it: the index need not even exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_no_query_is_refused_at_the_start() {
    let (world, peer) = (LocalIndex::new().expect("the server starts"), SinkPeer::start().expect("it starts"));
    let hook = format!("{}/hook", peer.url());
    let filter = ["--name", "orders", "--query", "kind:(bundle"];
    let words = "\"kind:(bundle\" is no query: position 6";
    for command in [&["sink", "--webhook", &hook][..], &["changes"]] {
        let ended = TidemarkProcess::ended(&[command, &filter].concat(), &world.environment).await.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains(words), "{command:?}: {said}");
    }
    // In a pod it stays, so that the condition of the WALSink has the words.
    let waiting = [&["sink", "--webhook", &hook, "--wait"][..], &filter].concat();
    let sink = TidemarkProcess::serving(&waiting, &world.environment).await.expect("it starts");
    let process = sink.until_answer("/v1/process", |process| process["problems"][0]["reason"] == "SpecInvalid").await;
    let problem = &process["problems"][0];
    assert!(problem["message"].as_str().is_some_and(|said| said.contains(words)), "{problem}");
    assert!(sink.stop().await.expect("it stops").success());
    assert!(peer.requests().is_empty() && world.server.keys("index").is_empty(), "something was done for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_sent_with_each_request_and_read_again() {
    let (world, _indexer) = recorded(3).await;
    let (peer, file) = (SinkPeer::start().expect("it starts"), secret_file());
    std::fs::write(file.path(), "ApiKey old\n").expect("it is written");
    peer.demand_credentials("ApiKey new");
    let url = format!("{}/search", peer.url());
    let path = file.path().to_str().expect("a path");
    let arguments = ["--elasticsearch", &url, "--elasticsearch-index", "orders", "--authorization-file", path];
    let process = sink(&world, "a", &[&arguments[..], &["--breaker-open-for", "1s"]].concat()).await;
    complaint(&process, "answers 401").await;
    assert!(peer.documents().is_empty());
    assert!(peer.requests().iter().all(|request| request.headers["authorization"] == "ApiKey old"));
    std::fs::write(file.path(), "ApiKey new\n").expect("it is written");
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&process, &chain, 3).await;
    assert_eq!(peer.documents().len(), 3);
    assert!(!process.log().contains("ApiKey"), "credentials are in the log");
    assert!(process.stop().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_block_a_record_that_is_refused_is_not_put_aside() {
    let (world, _indexer) = recorded(3).await;
    let peer = SinkPeer::start().expect("it starts");
    peer.answers(|_, _| PeerAnswer::Refuse(400, None));
    let hook = format!("{}/hook", peer.url());
    let arguments = ["sink", "--name", "orders", "--identity", "a", "--webhook", &hook, "--on-rejected", "block"];
    let arguments = [&arguments[..], &["--breaker-open-for", "1s"]].concat();
    let sink = TidemarkProcess::serving(&arguments, &world.environment).await.expect("it starts");
    let blocked = sink.until_answer("/v1/process", |process| process["sink"]["blocked"].is_string()).await;
    let report = &blocked["sink"];
    assert_eq!((&report["acknowledged"]["seq"], &report["deadLettered"]), (&0.into(), &0.into()), "{report}");
    peer.answers(|_, _| PeerAnswer::Take);
    let chain = world.consumer("orders").await.expect("the log has an id");
    until_acknowledged(&sink, &chain, 3).await;
    assert_eq!(first_arrivals(&peer.events()), [1, 2, 3]);
    assert!(sink.stop().await.expect("it stops").success());
    assert_eq!(state(&chain).await.expect("it was held").dead_lettered, 0);
}
