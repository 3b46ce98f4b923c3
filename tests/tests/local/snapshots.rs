//! `tidemark snapshot` and `tidemark snapshots`, on an S3 server in this process: what they print, report and refuse.

use std::{collections::BTreeMap, path::Path, process::Output, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tidemark_catalog::{Generation, IndexChain};
use tidemark_crds::{TaskResult, TaskState};
use tidemark_store::Entropy;
use tidemark_tests::{S3Server, TidemarkProcess, stores};
use tidemark_wal::Token;
use tokio::time::{sleep, timeout};

/// Entries that are older than the audit window.
const SETTLED: u64 = 40;
/// Entries that the audit still looks at.
const YOUNG: u64 = 7;

struct SnapshotPlace {
    server: S3Server,
    environment: BTreeMap<String, String>,
    scratch: TempDir,
}

impl SnapshotPlace {
    fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in ["log", "other", "meta", "index", "copy"] {
            server.create_bucket(bucket);
        }
        let (environment, scratch) = (server.environment(), TempDir::new().expect("a folder"));
        let place = Self { server, environment, scratch };
        let entropy = Entropy::seeded(3);
        for number in 0..SETTLED {
            place.entry(&entropy, 30 * 3600 - number, number);
        }
        for number in 0..YOUNG {
            place.entry(&entropy, 300 - number, SETTLED + number);
        }
        place
    }

    fn entry(&self, entropy: &Entropy, ago: u64, number: u64) {
        let at = self.server.clock().second().before(Duration::from_secs(ago));
        let body = format!(r#"{{"tidemark": 1, "ops": [{{"attributes": {{"entity": "e{number}"}}}}]}}"#);
        self.server.insert_at("log", &Token::new(at, entropy).to_string(), body, at);
    }

    /// Runs an indexer until it has published everything and the audit has had its last look at what is old.
    async fn index(&self, log: &str) {
        let serving =
            ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
        let words =
            [&["index", "--log", log, "--metadata", "s3://meta", "--index", "s3://index"], &serving[..]].concat();
        let indexer = TidemarkProcess::serving(&words, &self.environment).await.expect("it starts");
        let is_done = |status: &Value| status["entries"]["committed"].as_u64() == Some(SETTLED + YOUNG);
        indexer.until_answer("/v1/status", is_done).await;
        let index = stores::open("s3://index", &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5));
        // All old entries are earlier, and all young ones later.
        let old = self.server.clock().second().before(Duration::from_hours(29));
        let audited = async || {
            while !chain.latest().await.is_ok_and(|latest| latest.is_some_and(|latest| latest.state.audited >= old)) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_mins(2), audited()).await.expect("the audit looks at what is old");
        assert!(indexer.stop().await.expect("it ends").success());
    }

    fn result_file(&self) -> std::path::PathBuf {
        self.scratch.path().join("result")
    }

    fn result(&self) -> TaskResult {
        let text = std::fs::read_to_string(self.result_file()).expect("a result");
        TaskResult::from_json(&text).expect("it is a result")
    }

    async fn run(&self, command: &str, log: &str, more: &[&str]) -> Output {
        let places = [command, "--log", log, "--metadata", "s3://meta", "--index", "s3://index"];
        TidemarkProcess::ended(&[&places[..], more].concat(), &self.environment).await.expect("it ends")
    }

    /// A snapshot, as it prints itself.
    async fn snapshot(&self, more: &[&str]) -> Value {
        let file = self.result_file().display().to_string();
        let made = self.run("snapshot", "s3://log", &[&["--json", "--result-file", &file], more].concat()).await;
        assert!(made.status.success(), "{}", error(&made));
        serde_json::from_slice(&made.stdout).expect("it prints JSON")
    }

    async fn list(&self) -> Value {
        let listed = self.run("snapshots", "s3://log", &["--json"]).await;
        assert!(listed.status.success(), "{}", error(&listed));
        serde_json::from_slice(&listed.stdout).expect("it prints JSON")
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_archives_reports_and_is_listed() {
    let place = SnapshotPlace::new();
    let never = place.run("snapshot", "s3://log", &["--result-file", &place.result_file().display().to_string()]).await;
    assert_eq!(never.status.code(), Some(1));
    assert!(error(&never).contains("holds no index"), "{}", error(&never));
    assert_eq!(place.result().state, TaskState::Refused);
    assert!(place.server.keys("index").is_empty(), "a refused command writes nothing");

    place.index("s3://log").await;
    let made = place.snapshot(&["--name", "first"]).await;
    assert_eq!((&made["name"], &made["archived"]), (&"first".into(), &SETTLED.into()), "{made}");
    assert_eq!(made["operations"], SETTLED + YOUNG);
    let result = place.result();
    assert_eq!((result.state, result.figures.snapshot.as_deref()), (TaskState::Succeeded, Some("first")), "{result:?}");
    let window = result.figures.recovery_window.expect("something can be restored");
    assert_eq!(result.figures.cursor.map(|cursor| cursor.as_second() - 1), Some(window.last.as_second()));
    assert!(place.server.keys("index").iter().any(|key| key.starts_with("archive/") && key.ends_with(".parquet")));

    // Once more under its name: nothing is left to do. Without one: another snapshot.
    let again = place.snapshot(&["--name", "first"]).await;
    assert_eq!((&again["archived"], &again["manifest"]), (&0.into(), &made["manifest"]), "{again}");
    let second = place.snapshot(&["--keep-last", "1"]).await;
    assert_eq!(second["dropped"], serde_json::json!(["first"]), "{second}");
    let name = second["name"].as_str().expect("a name");
    assert!(name.starts_with("snapshot-20") && name.ends_with('z'), "{name}");

    let listed = place.list().await;
    assert_eq!(listed["recoveryWindow"]["last"], serde_json::json!(window.last.to_string()), "{listed}");
    let snapshots = listed["snapshots"].as_array().expect("a list");
    assert_eq!(snapshots.len(), 1, "{listed}");
    assert_eq!((&snapshots[0]["name"], &snapshots[0]["verified"]), (&second["name"], &true.into()), "{listed}");
    let text = String::from_utf8_lossy(&place.run("snapshots", "s3://log", &[]).await.stdout).into_owned();
    assert!(text.starts_with("recovery window  20") && text.contains(name) && text.contains("verified"), "{text}");

    let invalid = place.run("snapshot", "s3://log", &["--name", "Not a name"]).await;
    assert_eq!(invalid.status.code(), Some(2), "{}", error(&invalid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_copied_and_what_is_not_this_logs_is_refused() {
    let place = SnapshotPlace::new();
    place.index("s3://log").await;
    let file = place.result_file().display().to_string();
    for (copy_to, why) in [("s3://index/copies", "lie within one another"), ("s3://log", "lie within one another")] {
        let refused = place.run("snapshot", "s3://log", &["--copy-to", copy_to, "--result-file", &file]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(error(&refused).contains(why), "{}", error(&refused));
        assert_eq!(place.result().state, TaskState::Refused);
    }
    place.snapshot(&["--name", "first", "--copy-to", "s3://copy/orders"]).await;
    let copied = |folder: &str| {
        let keys = place.server.keys("copy");
        keys.iter().filter(|key| key.starts_with(&format!("orders/{folder}"))).count()
    };
    assert!(copied("g1/segment/") > 0 && copied("archive/") > 0 && copied("snapshots/") > 1);
    // What is there already stays.
    let before = place.server.keys("copy");
    place.snapshot(&["--name", "first", "--copy-to", "s3://copy/orders"]).await;
    assert_eq!(place.server.keys("copy"), before);

    // Another log has its own index elsewhere.
    let words = ["index", "--log", "s3://other", "--metadata", "s3://meta", "--index", "s3://copy/other"];
    let serving = ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
    let other =
        TidemarkProcess::serving(&[&words[..], &serving].concat(), &place.environment).await.expect("it starts");
    other.until_answer("/v1/status", |status| status["manifest"].as_u64() >= Some(2)).await;
    assert!(other.stop().await.expect("it ends").success());
    for command in ["snapshot", "snapshots"] {
        let refused = place.run(command, "s3://other", &[]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(error(&refused).contains("holds the records of the log"), "{}", error(&refused));
    }
    assert!(Path::new(&file).exists());
}
