//! `tidemark reindex`, `restore` and `promote` beside an indexer that serves: answers change only as asked for, and indexing goes on. And
//! from what is left where an index is lost.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain};
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{S3Server, TidemarkProcess, stores};
use tidemark_wal::Token;
use tokio::time::{sleep, timeout};

const PLACES: [&str; 6] = ["--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://index"];
/// What is compared before and after a reindex.
const QUERIES: [&str; 4] = [
    "/v1/search?q=&size=100",
    "/v1/search?q=outcome:aborted&facets=repo",
    "/v1/search?q=message:m&sort=oldest&size=50",
    "/v1/entities/bundle%2Frepo%2Fb7",
];

struct GenerationWorld {
    server: S3Server,
    environment: BTreeMap<String, String>,
    entropy: Entropy,
}

impl GenerationWorld {
    fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let environment = server.environment();
        Self { server, environment, entropy: Entropy::seeded(1) }
    }

    /// Puts an entry `ago` seconds before the store's present, with the bundle that it names.
    fn bundle(&self, ago: u64, id: &str) -> Token {
        let path = format!("bundles/repo/{id}/bundle.yaml");
        self.server.insert_at("meta", &path, format!("id: {id}\nmessage: m\n"), self.ago(ago));
        self.entry(ago, path)
    }

    fn entry(&self, ago: u64, body: String) -> Token {
        let at = self.ago(ago);
        let token = Token::new(at, &self.entropy);
        self.server.insert_at("log", &token.to_string(), body, at);
        token
    }

    fn ago(&self, ago: u64) -> StoreSecond {
        self.server.clock().second().before(Duration::from_secs(ago))
    }

    async fn indexer(&self) -> TidemarkProcess {
        let serving =
            ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
        let words = [&["index"], &PLACES[..], &serving].concat();
        TidemarkProcess::serving(&words, &self.environment).await.expect("it starts")
    }

    async fn run(&self, command: &str, more: &[&str]) -> Output {
        let words = [&[command], &PLACES[..], more].concat();
        TidemarkProcess::ended(&words, &self.environment).await.expect("it ends")
    }

    /// A command that succeeds, and the line of JSON that it prints.
    async fn done(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, &[more, &["--json"]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }
}

/// What does not change with the manifest.
fn hits(answer: &Value) -> [&Value; 3] {
    ["hits", "total", "facets"].map(|part| &answer[part])
}

async fn answers(indexer: &TidemarkProcess) -> Vec<Value> {
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(indexer.get(query).await.expect("it answers"));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_rebuilt_restored_and_promoted_beside_its_indexer() {
    let world = GenerationWorld::new();
    let to = world.ago(600).to_string();
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    world.entry(700, "bundles/repo/never/bundle.yaml".to_owned());
    world.bundle(500, "last");
    let indexer = world.indexer().await;
    let of = |generation: &'static str, committed: u64| {
        move |status: &Value| status["generation"] == generation && status["entries"]["committed"] == committed
    };
    indexer.until_answer("/v1/status", of("g1", 41)).await;
    let before = answers(&indexer).await;

    let rebuilt = world.done("reindex", &[]).await;
    assert_eq!((&rebuilt["generation"], &rebuilt["records"]), (&"g2".into(), &42.into()), "{rebuilt}");
    indexer.until_answer("/v1/status", of("g2", 41)).await;
    for (before, after) in before.iter().zip(answers(&indexer).await) {
        assert_eq!(hits(before), hits(&after));
    }
    world.bundle(30, "after");
    indexer.until_answer("/v1/status", of("g2", 42)).await;

    let result = tempfile::NamedTempFile::new().expect("a file");
    let result_file = result.path().to_str().expect("a path of text");
    let told = || TaskResult::from_json(&std::fs::read_to_string(result.path()).expect("it is written")).expect("JSON");
    let future = world.run("restore", &["--to-time", "2100-01-01T00:00:00Z", "--result-file", result_file]).await;
    assert_eq!(future.status.code(), Some(1), "{future:?}");
    assert!(String::from_utf8_lossy(&future.stderr).contains("what is recorded reaches from"), "{future:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::OutsideRecoveryWindow)));
    assert!(!world.server.keys("index").iter().any(|key| key.starts_with("g3/")), "a refused restore writes nothing");

    let restored = world.done("restore", &["--to-time", &to, "--task", "r1", "--result-file", result_file]).await;
    assert_eq!((&restored["generation"], &restored["records"]), (&"g3".into(), &41.into()), "{restored}");
    assert_eq!((told().state, told().figures.generation.as_deref()), (TaskState::Succeeded, Some("g3")));
    indexer.until_answer("/v1/status", of("g3", 40)).await;
    // What follows the time of the restore is not served from the log either, and nothing is indexed.
    let last = indexer.get("/v1/search?q=bundle:last").await.expect("it answers");
    assert_eq!(last["total"]["value"].as_u64().or(last["total"].as_u64()), Some(0), "{last}");
    assert_eq!(world.done("restore", &["--to-time", &to, "--task", "r1"]).await["generation"], "g3");

    let promoted = world.done("promote", &["--task", "p1"]).await;
    assert_eq!((&promoted["generation"], &promoted["records"]), (&"g3".into(), &43.into()), "{promoted}");
    assert_eq!(world.done("promote", &["--task", "p1"]).await["generation"], "g3", "its answer may have been lost");
    world.bundle(30, "since");
    indexer.until_answer("/v1/status", of("g3", 43)).await;
    let again = world.run("promote", &["--result-file", result_file]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::NothingToPromote)));
    assert!(indexer.stop().await.expect("it ends").success());
}

/// Entries of some days ago are archived by the first snapshot. Then all of the index is lost but the archive, and the archived entries are
/// cleaned up from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_lost_is_made_again_from_its_archive() {
    let world = GenerationWorld::new();
    let archived: Vec<_> = (0..40).map(|number| world.bundle(300_000 - number, &format!("b{number}"))).collect();
    world.bundle(500, "last");
    let indexer = world.indexer().await;
    let committed = |count: u64| move |status: &Value| status["entries"]["committed"] == count;
    indexer.until_answer("/v1/status", committed(41)).await;
    let before = answers(&indexer).await;
    let index = stores::open("s3://index", &world.environment);
    let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5));
    let old = world.ago(200_000);
    let audited = async || {
        while !chain.latest().await.is_ok_and(|latest| latest.is_some_and(|latest| latest.state.audited >= old)) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_mins(2), audited()).await.expect("the audit looks at what is old");
    let made = world.done("snapshot", &[]).await;
    assert_eq!(made["archived"], 40, "{made}");
    assert!(indexer.stop().await.expect("it ends").success());
    for key in world.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
        world.server.remove("index", &key);
    }
    for token in archived {
        world.server.remove("log", &token.to_string());
    }

    let restored = world.done("restore", &["--latest"]).await;
    assert_eq!((&restored["generation"], &restored["records"]), (&"g2".into(), &40.into()), "{restored}");
    world.done("promote", &[]).await;
    let indexer = world.indexer().await;
    indexer.until_answer("/v1/status", committed(41)).await;
    for (before, after) in before.iter().zip(answers(&indexer).await) {
        assert_eq!(hits(before), hits(&after));
    }
    assert!(indexer.stop().await.expect("it ends").success());
}
