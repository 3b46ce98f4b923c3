//! Sinks to destinations that others have written: a real `OpenSearch`, read by its own client, and a webhook of Python's `cloudevents`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tidemark_catalog::ConsumerChain;
use tidemark_store::StoreSecond;
use tidemark_tests::{LocalIndex, OpenSearchServer, TidemarkProcess, optional_script, root};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

/// How long a step may take.
const MAX_WAIT: Duration = Duration::from_secs(90);
const SECRET: &str = "hunter2";
/// How many bundles there are at first.
const BUNDLES: u64 = 200;
/// Entries whose descriptors come late.
const LATE: u64 = 3;
/// Bundles that are recorded while the destination is full.
const MORE: u64 = 6;

/// The interpreter with the packages, or nothing where there is none; in CI there has to be one.
async fn python() -> Option<PathBuf> {
    let script = || optional_script("python.sh", &["sink-clients"]).expect("the packages are installed");
    let folder = tokio::task::spawn_blocking(script).await.expect("no panic");
    if folder.is_none() {
        eprintln!("SKIPPED: no Python or no packages for it, so no destination of another language is tried");
    }
    folder.map(|folder| folder.join("bin/python"))
}

/// The blocks of code of docs/sinks.md below a heading that are marked as `language`.
fn recipes(heading: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/sinks.md")).expect("the document is there");
    let (_, section) = text.split_once(&format!("## {heading}\n")).expect("the section is there");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    blocks.map(|block| block.split_once("```").expect("the block ends").0.to_owned()).collect()
}

/// An index with bundles, and the paths of the descriptors that are missing of some more, with times at which these would be in time: their
/// operations are aborted for now.
async fn recorded(bundles: u64, lost: u64) -> (LocalIndex, TidemarkProcess, Vec<(String, StoreSecond)>) {
    let world = LocalIndex::new().expect("the server starts");
    for number in 0..bundles {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let entry = |number| {
        let path = format!("bundles/repo/lost{number}/bundle.yaml");
        world.entry(850 - number, path.clone());
        (path, world.ago(850 - number))
    };
    let paths = (0..lost).map(entry).collect();
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    let is_recorded =
        |status: &Value| status["entries"]["committed"] == bundles && status["entries"]["aborted"] == lost;
    indexer.until_answer("/v1/status", is_recorded).await;
    (world, indexer, paths)
}

async fn acknowledged(chain: &ConsumerChain) -> u64 {
    let latest = chain.latest().await.expect("it can be read");
    latest.map_or(0, |latest| latest.state.acknowledged.seq)
}

/// Waits until a sink has acknowledged `seq`.
async fn until_acknowledged(sink: &TidemarkProcess, chain: &ConsumerChain, seq: u64) {
    let is_there = async || match acknowledged(chain).await {
        acknowledged if acknowledged >= seq => Ok(()),
        acknowledged => Err(format!("{acknowledged} of {seq}")),
    };
    sink.until("acknowledged", is_there).await;
}

/// A sink to the index `orders` of `OpenSearch`.
struct SearchSink<'a> {
    world: &'a LocalIndex,
    search: OpenSearchServer,
    chain: ConsumerChain,
}

impl SearchSink<'_> {
    fn arguments(&self) -> [&str; 4] {
        ["--elasticsearch", self.search.url(), "--elasticsearch-index", "orders"]
    }

    /// Starts it, in small batches.
    async fn start(&self, name: &str) -> TidemarkProcess {
        let common = ["sink", "--name", name, "--identity", "a", "--batch-delay", "50ms", "--batch-operations", "4"];
        let more = ["--max-unacknowledged", "8", "--breaker-open-for", "1s"];
        let arguments = [&common[..], &more, &self.arguments()].concat();
        TidemarkProcess::serving(&arguments, &self.world.environment).await.expect("it starts")
    }

    async fn until_acknowledged(&self, sink: &TidemarkProcess, seq: u64) {
        until_acknowledged(sink, &self.chain, seq).await;
    }

    /// Waits until the last error of the sink has these words.
    async fn until_told(sink: &TidemarkProcess, words: &str) {
        let is_told =
            |process: &Value| process["sink"]["lastError"].as_str().is_some_and(|error| error.contains(words));
        sink.until_answer("/v1/process", is_told).await;
    }

    async fn request(&self, method: Method, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.search.request(method, path, &body).await.expect("it answers")
    }

    async fn set(&self, setting: &str, value: Value) {
        self.request(Method::PUT, "/orders/_settings", &json!({setting: value})).await;
    }

    /// What `sink verify` prints, and its exit code.
    async fn verified(&self, name: &str) -> (Vec<Value>, Option<i32>) {
        let arguments = [&["sink", "verify", "--name", name, "--json"][..], &self.arguments()].concat();
        let ended = TidemarkProcess::ended(&arguments, &self.world.environment).await.expect("it ends");
        let lines = String::from_utf8(ended.stdout).expect("text");
        let lines = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_ne!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
        (lines, ended.status.code())
    }

    /// Every document, as `OpenSearch`'s own client reads it, each once.
    async fn documents(&self, python: &Path) -> BTreeMap<String, Value> {
        let script = root().join("tests/tools/sink-clients/read_documents.py");
        let mut command = Command::new(python);
        command.arg(script).args([self.search.url(), "orders"]).kill_on_drop(true);
        let ended = timeout(MAX_WAIT, command.output()).await.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let mut documents = BTreeMap::new();
        for line in String::from_utf8(ended.stdout).expect("text").lines() {
            let document: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(document["version"], document["source"]["seq"], "{document}");
            let id = document["id"].as_str().expect("text").to_owned();
            assert_eq!(documents.insert(id, document["source"].clone()), None, "it is there twice");
        }
        documents
    }
}

/// What stands of each operation, by the id of its document.
async fn standing_records(indexer: &TidemarkProcess) -> BTreeMap<String, Value> {
    let feed = indexer.get("/v1/changes?limit=1000&payload=true").await.expect("it answers");
    let changes = feed["changes"].as_array().expect("a list");
    let id = |change: &Value| format!("{}-{}", change["token"].as_str().expect("text"), change["op"]);
    // By ascending seq: the last one stays.
    changes.iter().map(|change| (id(change), change.clone())).collect()
}

/// One server for all of it, since its start takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensearch_holds_what_the_index_says_whatever_happens_to_both() {
    let Some(python) = python().await else { return };
    let Some(search) = OpenSearchServer::start().await.expect("it starts") else {
        eprintln!("SKIPPED: no Java or no packages for it, so nothing is delivered to a real OpenSearch");
        return;
    };
    let (world, indexer, late) = recorded(BUNDLES, LATE).await;
    let chain = world.consumer("search").await.expect("the log has an id");
    let mut place = SearchSink { world: &world, search, chain };
    place.search.until_ready().await.expect("it answers");
    let [mapping] = recipes("Elasticsearch, OpenSearch, Quickwit", "sh").try_into().expect("one block");
    let mut made = Command::new("bash");
    made.args(["-euc", &mapping]).env("OPENSEARCH_URL", place.search.url()).stdin(Stdio::null()).kill_on_drop(true);
    let made = made.output().await.expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // What was deleted is forgotten at once: the remedy for an altered document need not wait for it.
    place.set("index.gc_deletes", json!("0s")).await;

    // Killed and read-only.
    let sink = place.start("search").await;
    place.until_acknowledged(&sink, 8).await;
    sink.kill().await.expect("it is killed");
    place.set("index.blocks.read_only", json!(true)).await;
    // However quick it was, there is something to deliver.
    world.bundle(40, "left");
    let sink = place.start("search").await;
    SearchSink::until_told(&sink, "FORBIDDEN/5/index read-only").await;
    place.set("index.blocks.read_only", Value::Null).await;
    place.until_acknowledged(&sink, BUNDLES + LATE + 1).await;
    // Full, as at the flood stage of its disk. The sink is killed meanwhile.
    place.set("index.blocks.read_only_allow_delete", json!(true)).await;
    for number in 0..MORE {
        world.bundle(20 - number, &format!("c{number}"));
    }
    SearchSink::until_told(&sink, "flood-stage").await;
    sink.kill().await.expect("it is killed");
    place.set("index.blocks.read_only_allow_delete", Value::Null).await;
    let sink = place.start("search").await;
    place.until_acknowledged(&sink, BUNDLES + LATE + 1 + MORE).await;
    // Killed itself, while there is something to deliver: more, and corrections of what it holds.
    place.search.kill();
    for (path, in_time) in &late {
        world.server.insert_at("meta", path, "id: late\nmessage: \"2026-01-01\"\n", *in_time);
    }
    world.bundle(3, "last");
    indexer.kill().await.expect("it is killed");
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    let (operations, records) = (BUNDLES + LATE + MORE + 2, BUNDLES + 2 * LATE + MORE + 2);
    let status = indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == operations).await;
    assert_eq!(status["entries"]["aborted"], 0, "{status}");
    SearchSink::until_told(&sink, "Connection refused").await;
    place.search.start_again().expect("it starts");
    place.search.until_ready().await.expect("it answers");
    place.until_acknowledged(&sink, records).await;
    assert!(sink.stop().await.expect("it stops").success());

    let standing = standing_records(&indexer).await;
    let documents = place.documents(&python).await;
    assert_eq!(documents, standing);
    assert_eq!(documents.len() as u64, operations);
    let corrected = documents.values().filter(|document| document["replaces"].is_u64()).count();
    assert_eq!(corrected as u64, LATE, "the corrections have replaced what they correct");
    verify_and_mend(&place, &documents, records).await;
    assert_eq!(place.documents(&python).await, standing);
    assert!(indexer.stop().await.expect("it ends").success());
}

/// Loses, alters and adds documents, which are found, and does what the findings say.
async fn verify_and_mend(place: &SearchSink<'_>, documents: &BTreeMap<String, Value>, records: u64) {
    let (lines, code) = place.verified("search").await;
    assert_eq!((lines.len(), code), (1, Some(0)), "{lines:?}");
    assert_eq!((&lines[0]["documents"], &lines[0]["records"]), (&json!(documents.len()), &json!(records)), "{lines:?}");

    let ids: Vec<&String> = documents.keys().collect();
    let [lost, updated, rewritten] = [ids[3], ids[10], ids[20]];
    place.request(Method::DELETE, &format!("/orders/_doc/{lost}"), &Value::Null).await;
    place.request(Method::POST, &format!("/orders/_update/{updated}"), &json!({"doc": {"message": "other"}})).await;
    let mut other = documents[rewritten].clone();
    other["payload"] = json!("other");
    let version = format!("/orders/_doc/{rewritten}?version_type=external_gte&version={}", other["seq"]);
    place.request(Method::PUT, &version, &other).await;
    place.request(Method::PUT, "/orders/_doc/surplus", &json!({"seq": 5})).await;

    let (lines, code) = place.verified("search").await;
    let (end, findings) = lines.split_last().expect("there are lines");
    let found: BTreeSet<_> = findings.iter().map(|line| (line["fault"].as_str(), line["document"].as_str())).collect();
    let expected = [
        (Some("lost"), Some(lost.as_str())),
        (Some("altered"), Some(updated.as_str())),
        (Some("altered"), Some(rewritten.as_str())),
        (Some("surplus"), Some("surplus")),
    ];
    assert_eq!((found, findings.len(), code), (BTreeSet::from(expected), 4, Some(8)), "{lines:?}");
    assert!(findings.iter().all(|line| line["what"].is_string() && line["remedy"].is_string()), "{findings:?}");
    let counts = ["lost", "stale", "altered", "surplus"].map(|fault| end[fault].as_u64());
    assert_eq!(counts, [Some(1), Some(0), Some(2), Some(1)], "{end}");

    // The remedies: what was altered or is surplus is deleted, and a sink of another name delivers everything again.
    for id in [updated.as_str(), "surplus"] {
        place.request(Method::DELETE, &format!("/orders/_doc/{id}"), &Value::Null).await;
    }
    let sink = place.start("again").await;
    let chain = place.world.consumer("again").await.expect("the log has an id");
    until_acknowledged(&sink, &chain, records).await;
    assert!(sink.stop().await.expect("it stops").success());
    for name in ["search", "again"] {
        let (lines, code) = place.verified(name).await;
        assert_eq!((lines.len(), code), (1, Some(0)), "{name}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_cloudevents_reads_and_verifies_what_a_webhook_gets() {
    let Some(python) = python().await else { return };
    let (world, indexer, _) = recorded(7, 1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let [snippet] = recipes("Webhook", "python").try_into().expect("one block");
    let (snippet_file, secret_file) = (folder.path().join("verify.py"), folder.path().join("secret"));
    std::fs::write(&snippet_file, snippet).expect("it is written");
    std::fs::write(&secret_file, format!("{SECRET}\n")).expect("it is written");
    let mut receiver = Command::new(python)
        .arg(root().join("tests/tools/sink-clients/receive_events.py"))
        .arg(&snippet_file)
        .args([SECRET, "8"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(receiver.stdout.take().expect("it is piped")).lines();
    let mut line = async || {
        let line = timeout(MAX_WAIT, lines.next_line()).await.expect("a line comes").expect("it is read");
        line.expect("it goes on")
    };
    let hook = format!("http://127.0.0.1:{}/hook", line().await);
    let secret_file = secret_file.to_str().expect("text");
    let arguments =
        ["sink", "--name", "hook", "--webhook", &hook, "--secret-file", secret_file, "--batch-operations", "3"];
    let sink = TidemarkProcess::begun(&arguments, &world.environment).await.expect("it starts");
    let standing = standing_records(&indexer).await;
    let mut seqs = Vec::new();
    for _ in 0..8 {
        let event: Value = serde_json::from_str(&line().await).expect("JSON");
        let data = &event["data"];
        let seq = data["seq"].as_u64().expect("a number");
        let operation = format!("{}-{}", data["token"].as_str().expect("text"), data["op"]);
        assert_eq!(*data, standing[&operation], "{event}");
        assert_eq!(event["id"], format!("{operation}-{seq}"));
        assert_eq!((&event["type"], &event["subject"]), (&json!("dev.tidemark.change"), &data["entity"]), "{event}");
        assert_eq!(
            (&event["datacontenttype"], &event["sequence"]),
            (&json!("application/json"), &json!(format!("{seq:020}")))
        );
        assert!(event["source"].as_str().is_some_and(|source| source.starts_with("urn:tidemark:log:")), "{event}");
        seqs.push(seq);
    }
    assert_eq!(seqs, (1..=8).collect::<Vec<_>>());
    assert!(receiver.wait().await.expect("it ends").success());
    let chain = world.consumer("hook").await.expect("the log has an id");
    until_acknowledged(&sink, &chain, 8).await;
    assert!(sink.stop().await.expect("it stops").success());
    assert!(indexer.stop().await.expect("it ends").success());
}
