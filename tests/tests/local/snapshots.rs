//! `tidemark snapshot` and `tidemark snapshots`, on S3 servers in this process: what they print, report and refuse.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_store::Entropy;
use tidemark_tests::{
    S3Server, TidemarkProcess,
    controller::eventually,
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tidemark_wal::Token;

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

    /// Starts an indexer, and waits until it has published everything: as a person does who waits for the figures of the page.
    async fn index(&self) -> TidemarkProcess {
        let indexer = self.indexer("s3://log", "s3://index").await;
        let is_done = |status: &Value| status["entries"]["committed"].as_u64() == Some(SETTLED + YOUNG);
        indexer.until_answer("/v1/status", is_done).await;
        indexer
    }

    async fn indexer(&self, log: &str, index: &str) -> TidemarkProcess {
        let places = ["index", "--log", log, "--metadata", "s3://meta", "--index", index];
        let options =
            ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
        TidemarkProcess::serving(&[&places[..], &options].concat(), &self.environment).await.expect("it starts")
    }

    fn result_file(&self) -> String {
        self.scratch.path().join("result").display().to_string()
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
        let file = self.result_file();
        let made = self.run("snapshot", "s3://log", &[&["--json", "--result-file", &file], more].concat()).await;
        assert!(made.status.success(), "{}", error(&made));
        serde_json::from_slice(&made.stdout).expect("it prints JSON")
    }

    async fn list(&self) -> Value {
        let listed = self.run("snapshots", "s3://log", &["--json"]).await;
        assert!(listed.status.success(), "{}", error(&listed));
        serde_json::from_slice(&listed.stdout).expect("it prints JSON")
    }

    /// Bytes of the log's entries.
    fn log_bytes(&self) -> u64 {
        let entries = self.server.keys("log").into_iter().filter(|key| key.parse::<Token>().is_ok());
        entries.filter_map(|key| self.server.body("log", &key)).map(|body| body.len() as u64).sum()
    }

    fn has_archive(&self) -> bool {
        self.server.keys("index").iter().any(|key| key.starts_with("archive/"))
    }
}

/// The line that a command prints last.
fn last_line(output: &Output) -> Value {
    let printed = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(printed.lines().next_back().expect("a line")).expect("it is JSON")
}

/// Whether the part of this name contains the text.
fn says(line: &Value, part: &str, text: &str) -> bool {
    line[part].as_str().is_some_and(|said| said.contains(text))
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_archives_reports_and_is_listed() {
    let place = SnapshotPlace::new();
    let never = place.run("snapshot", "s3://log", &["--result-file", &place.result_file()]).await;
    assert_eq!(never.status.code(), Some(1));
    assert!(error(&never).contains("is no log that was ever indexed"), "{}", error(&never));
    let result = place.result();
    assert_eq!((result.state, result.reason), (TaskState::Refused, Some(Reason::InvalidURL)));
    assert!(place.server.keys("index").is_empty(), "a refused command writes nothing");

    let indexer = place.index().await;
    // Everything that is settled, as soon as it is indexed.
    let made = place.snapshot(&["--name", "first"]).await;
    assert_eq!((&made["name"], &made["archived"]), (&"first".into(), &SETTLED.into()), "{made}");
    assert_eq!((&made["operations"], made.get("auditOverdue")), (&(SETTLED + YOUNG).into(), None), "{made}");
    let result = place.result();
    assert_eq!((result.state, result.figures.snapshot.as_deref()), (TaskState::Succeeded, Some("first")), "{result:?}");
    assert_eq!(
        (result.figures.log_entries, result.figures.log_bytes),
        (Some(SETTLED + YOUNG), Some(place.log_bytes())),
        "{result:?}"
    );
    assert!(place.has_archive());

    // Once more under its name: nothing is left to do. Without one: another snapshot.
    let again = place.snapshot(&["--name", "first"]).await;
    assert_eq!((&again["archived"], &again["manifest"]), (&0.into(), &made["manifest"]), "{again}");
    let second = place.snapshot(&["--keep-last", "1"]).await;
    assert_eq!(second["dropped"], json!(["first"]), "{second}");
    let name = second["name"].as_str().expect("a name");
    assert!(name.starts_with("snapshot-20") && name.ends_with('z'), "{name}");
    let result = place.result();
    let window = result.figures.recovery_window.expect("something can be restored");
    assert_eq!(result.figures.cursor.map(|cursor| cursor.as_second() - 1), Some(window.last.as_second()));

    let listed = place.list().await;
    assert_eq!(listed["recoveryWindow"]["last"], json!(window.last.to_string()), "{listed}");
    let snapshots = listed["snapshots"].as_array().expect("a list");
    assert_eq!(snapshots.len(), 1, "{listed}");
    assert_eq!((&snapshots[0]["name"], &snapshots[0]["verified"]), (&second["name"], &true.into()), "{listed}");
    let text = String::from_utf8_lossy(&place.run("snapshots", "s3://log", &[]).await.stdout).into_owned();
    assert!(text.starts_with("recovery window  20") && text.contains(name) && text.contains("verified"), "{text}");

    let invalid = place.run("snapshot", "s3://log", &["--name", "Not a name"]).await;
    assert_eq!(invalid.status.code(), Some(2), "{}", error(&invalid));
    let elsewhere = ["snapshot", "--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://copy"];
    let elsewhere = TidemarkProcess::ended(&elsewhere, &place.environment).await.expect("it ends");
    assert!(error(&elsewhere).contains("holds no index of this log"), "{}", error(&elsewhere));
    assert!(indexer.stop().await.expect("it ends").success());
}

/// A log of many entries is listed for minutes: a pod that is lost meanwhile has told what it made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_reported_before_the_log_is_counted() {
    let place = SnapshotPlace::new();
    let indexer = place.index().await;
    place.snapshot(&["--name", "first"]).await;
    assert!(indexer.stop().await.expect("it ends").success());
    let listing = |fault| FaultRule::always(fault).on(StoreOperation::List).key("log");
    // As many listings of the log as one makes that reports to nobody, and counts nothing.
    let (counted, before) =
        (place.server.inject(listing(InjectedFault::Delay(Duration::ZERO))), place.server.faults_seen());
    assert!(place.run("snapshot", "s3://log", &["--name", "second"]).await.status.success());
    let listings = u32::try_from(place.server.faults_seen() - before).expect("some");
    place.server.lift(counted);

    std::fs::remove_file(place.result_file()).expect("there is a result");
    let (held, before) =
        (place.server.inject(listing(InjectedFault::Hold).after(listings)), place.server.faults_seen());
    let meanwhile = async {
        let is_held = async || Ok((place.server.faults_seen() > before).then_some(()));
        eventually("the log is being counted", is_held).await.expect("it is listed");
        let result = place.result();
        let figures = &result.figures;
        assert_eq!((result.state, figures.snapshot.as_deref()), (TaskState::Succeeded, Some("third")), "{result:?}");
        assert!(figures.recovery_window.is_some() && figures.log_entries.is_none(), "{result:?}");
        place.server.lift(held);
    };
    tokio::join!(place.snapshot(&["--name", "third"]), meanwhile);
    let result = place.result();
    assert_eq!((result.state, result.figures.log_entries), (TaskState::Succeeded, Some(SETTLED + YOUNG)), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_restores_the_latest_snapshot_and_leaves_nothing() {
    let place = SnapshotPlace::new();
    let indexer = place.index().await;
    let file = place.result_file();
    let drill = ["--restore-drill", "--sample", "10", "--json", "--result-file", &file];
    let nothing = place.run("verify", "s3://log", &drill).await;
    assert_eq!(nothing.status.code(), Some(1), "{}", error(&nothing));
    let result = place.result();
    assert_eq!((result.state, result.reason), (TaskState::Refused, Some(Reason::SnapshotMissing)), "{result:?}");
    let line = last_line(&nothing);
    assert_eq!((&line["drill"]["result"], &line["damage"]), (&"failed".into(), &0.into()), "{line}");
    assert!(says(&line["drill"], "what", "no snapshot of") && says(&line["drill"], "remedy", "make one"), "{line}");

    let made = place.snapshot(&[]).await;
    let drilled = place.run("verify", "s3://log", &drill).await;
    assert!(drilled.status.success(), "{}", error(&drilled));
    let figures = place.result().figures;
    assert_eq!(
        (figures.log_entries, figures.log_bytes),
        (Some(SETTLED + YOUNG), Some(place.log_bytes())),
        "{figures:?}"
    );
    let line = last_line(&drilled);
    assert_eq!(line["drill"]["result"], "passed", "{line}");
    let shown = (&line["drill"]["snapshot"], &line["drill"]["operations"], &line["drill"]["archived"]);
    assert_eq!(shown, (&made["name"], &(SETTLED + YOUNG).into(), &SETTLED.into()), "{line}");
    assert_eq!((&line["damage"], place.result().state), (&0.into(), TaskState::Succeeded), "{line}");
    assert!(!place.server.keys("index").iter().any(|key| key.starts_with("drill/")), "it is removed again");

    // The version that the snapshot was proven with: what is restored is not what was.
    let keys = place.server.keys("index");
    let version = keys.iter().filter(|key| key.starts_with("archive/") && key.ends_with(".metadata.json")).max();
    let version = version.expect("a version");
    let body = place.server.body("index", version).expect("it is there");
    place.server.remove("index", version);
    let differs = place.run("verify", "s3://log", &drill).await;
    assert_eq!(differs.status.code(), Some(8), "{}", error(&differs));
    let line = last_line(&differs);
    assert_eq!(line["drill"]["result"], "differs", "{line}");
    assert!(says(&line["drill"], "location", "of the archive") && says(&line["drill"], "what", "the record"), "{line}");
    assert!(
        says(&line["drill"], "effect", "would be wrong") && says(&line["drill"], "remedy", "another snapshot"),
        "{line}"
    );
    place.server.insert("index", version, body);

    // A file of the archive that nothing but the archive has.
    let rows = keys.iter().find(|key| key.starts_with("archive/") && key.ends_with(".parquet")).expect("a file");
    place.server.remove("index", rows);
    let damaged = place.run("verify", "s3://log", &drill).await;
    assert_eq!(damaged.status.code(), Some(8), "{}", error(&damaged));
    assert_eq!(place.result().state, TaskState::Failed);
    let line = last_line(&damaged);
    assert_eq!(line["drill"]["result"], "failed", "{line}");
    assert!(says(&line["drill"], "location", rows) && says(&line["drill"], "what", "gone"), "{line}");
    indexer.stop().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_copied_and_what_is_not_this_logs_is_refused() {
    let place = SnapshotPlace::new();
    let indexer = place.index().await;
    let bare = place.snapshot(&["--name", "bare", "--no-archive"]).await;
    assert_eq!((&bare["archived"], bare.get("archiveEnd"), place.has_archive()), (&0.into(), None, false), "{bare}");
    assert!(place.result().message.contains("without the archive"), "{:?}", place.result());

    let file = place.result_file();
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

    assert!(indexer.stop().await.expect("it ends").success());

    // Another log has its own index elsewhere.
    let other = place.indexer("s3://other", "s3://copy/other").await;
    other.until_answer("/v1/status", |status| status["manifest"].as_u64() >= Some(2)).await;
    assert!(other.stop().await.expect("it ends").success());
    for command in ["snapshot", "snapshots", "gc"] {
        let refused = place.run(command, "s3://other", &[]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(error(&refused).contains("holds the records of the log"), "{command}: {}", error(&refused));
    }
}

/// The second site has its own server and keys, and a bucket of the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_copied_with_the_credentials_of_its_own_store() {
    let mut place = SnapshotPlace::new();
    let indexer = place.index().await;
    let (second, keys) = (S3Server::with_bucket("index").expect("it starts"), TempDir::new().expect("a folder"));
    second.set_keys("second-site", "second-secret");
    let settings = json!({"copy": {"endpoint": second.endpoint(), "credentialsDir": keys.path()}});
    place.environment.insert("TIDEMARK_STORES".to_owned(), settings.to_string());
    place.environment.insert("TIDEMARK_COPY_TO".to_owned(), "s3://index".to_owned());
    let key = |name: &str, value: &str| std::fs::write(keys.path().join(name), value).expect("it is written");
    key("AWS_ACCESS_KEY_ID", "second-site");
    key("AWS_SECRET_ACCESS_KEY", "not the secret");
    let refused = place.run("snapshot", "s3://log", &["--name", "first", "--result-file", &place.result_file()]).await;
    assert!(!refused.status.success());
    assert_eq!(place.result().reason, Some(Reason::AccessDenied), "{}", error(&refused));
    assert!(second.keys("index").is_empty());
    key("AWS_SECRET_ACCESS_KEY", "second-secret");
    let made = place.snapshot(&["--name", "first"]).await;
    for folder in ["g1/segment/", "archive/", "snapshots/"] {
        assert!(second.keys("index").iter().any(|key| key.starts_with(folder)), "{folder}: {made}");
    }
    assert!(indexer.stop().await.expect("it ends").success());
}
