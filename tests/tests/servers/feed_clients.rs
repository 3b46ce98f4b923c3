//! The changes of an index as programs of others follow them: Python's `websockets`, and the recipe of `docs/changes.md` for a new node.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tidemark_tests::{LocalIndex, TidemarkProcess, optional_script, root};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long a line may take: search polls every 5 s.
const MAX_WAIT: Duration = Duration::from_secs(90);

/// The interpreter with the packages, or nothing where there is none; in CI there has to be one.
async fn python() -> Option<PathBuf> {
    let script = || optional_script("python.sh", &["feed-clients"]).expect("the packages are installed");
    let folder = tokio::task::spawn_blocking(script).await.expect("no panic");
    if folder.is_none() {
        eprintln!("SKIPPED: no Python or no packages for it, so no client of another language follows the changes");
    }
    folder.map(|folder| folder.join("bin/python"))
}

/// A search service at `address`, or at any, once it has so many records.
async fn serve(world: &LocalIndex, address: &str, documents: u64) -> TidemarkProcess {
    let server =
        TidemarkProcess::serving(&["serve", "--listen", address], &world.environment).await.expect("it starts");
    server.until_answer("/v1/status", |status| status["documents"].as_u64() >= Some(documents)).await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_acknowledges_every_change_over_a_restart_of_the_service() {
    let Some(python) = python().await else { return };
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 40).await;
    let server = serve(&world, "127.0.0.1:0", 40).await;
    let address = server.url().trim_start_matches("http://").to_owned();
    let script = root().join("tests/tools/feed-clients/follow.py");
    let url = format!("ws://{address}/v1/changes");
    let mut client = PythonProgram::start(&python, &[script.to_str().expect("a path"), &url, "7", "60"]);
    for seq in 1..=40 {
        assert_eq!(client.line().await.expect("it goes on"), seq.to_string());
    }
    // What it has not acknowledged comes again, and it goes on by itself.
    server.kill().await.expect("it is killed");
    for number in 0..20 {
        world.bundle(25 - number, &format!("c{number}"));
    }
    let server = serve(&world, &address, 40).await;
    for seq in 41..=60 {
        assert_eq!(client.line().await.expect("it goes on"), seq.to_string());
    }
    let end = client.line().await.expect("it goes on");
    assert!(
        end.starts_with("4409 ") && end.contains(":160:") && end.ends_with("was never sent on this connection"),
        "{end}"
    );
    // A restore ends the connection in the middle, and says where to begin.
    assert_eq!(client.line().await.expect("it goes on"), "waits");
    world.done("restore", &["--to-time", &to]).await.expect("it ends");
    let end = client.line().await.expect("it goes on");
    assert!(end.starts_with("4410 410 ?") && end.contains("from="), "{end}");
    assert!(client.child.wait().await.expect("it ends").success());
    assert!(server.stop().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}

/// The blocks of a section of the document, as they stand.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/changes.md")).expect("the document is there");
    let (_, section) = text.split_once(heading).expect("the section is there");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    blocks.map(|block| block.split_once("```").expect("the block ends").0.to_owned()).collect()
}

/// A program of Python whose lines are read.
struct PythonProgram {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl PythonProgram {
    fn start(python: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(python);
        let mut child = command.args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The next line; `None` at the end of the program.
    async fn line(&mut self) -> Option<String> {
        timeout(MAX_WAIT, self.lines.next_line()).await.expect("a line comes").expect("it is read")
    }

    async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }
}

/// A log with so many bundles, all of them recorded.
async fn recorded(count: u64) -> (LocalIndex, TidemarkProcess) {
    let world = LocalIndex::new().expect("the server starts");
    for number in 0..count {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == count).await;
    (world, indexer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_server_receives_every_change_of_a_sink_over_its_own_restart() {
    let Some(python) = python().await else { return };
    let (world, indexer) = recorded(40).await;
    let script = root().join("tests/tools/feed-clients/receive.py");
    let script = script.to_str().expect("a path");
    let mut receiver = PythonProgram::start(&python, &[script, "0", "7"]);
    let port = receiver.line().await.expect("its port");
    let url = format!("ws://127.0.0.1:{port}/changes");
    let arguments = ["sink", "--name", "live", "--websocket", &url, "--batch-delay", "50ms", "--timeout", "5s"];
    let sink = TidemarkProcess::begun(&arguments, &world.environment).await.expect("it starts");
    for seq in 1..=40 {
        assert_eq!(receiver.line().await, Some(seq.to_string()));
    }
    // Another one gets what this one has not acknowledged, and everything after it.
    receiver.kill().await;
    for number in 0..20 {
        world.bundle(0, &format!("c{number}"));
    }
    let mut receiver = PythonProgram::start(&python, &[script, &port, "3"]);
    assert_eq!(receiver.line().await, Some(port));
    let first: u64 = receiver.line().await.expect("a change").parse().expect("a seq");
    assert!((1..=41).contains(&first), "{first} came first");
    for seq in first + 1..=60 {
        assert_eq!(receiver.line().await, Some(seq.to_string()));
    }
    let chain = world.consumer("live").await.expect("the log has an id");
    let acknowledged = async || match chain.latest().await {
        Ok(Some(latest)) if latest.state.acknowledged.seq == 60 => Ok(latest.state.delivered),
        other => Err(format!("{:?}", other.map(|latest| latest.map(|latest| latest.state.acknowledged)))),
    };
    assert_eq!(sink.until("acknowledged", acknowledged).await, 60);
    assert!(sink.stop().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_of_the_document_does_what_a_killed_one_has_left() {
    let Some(python) = python().await else { return };
    let (world, indexer) = recorded(12).await;
    let [script] = blocks("## Workers, one entity at a time", "python").try_into().expect("one block");
    let folder = tempfile::tempdir().expect("a folder");
    let (path, socket) = (folder.path().join("worker.py"), folder.path().join("work.sock"));
    let hanging = folder.path().join("hanging.py");
    std::fs::write(&path, &script).expect("it is written");
    // As the one of the document, but that it never ends its work.
    let hangs = script.replace("# the work", "; import time; time.sleep(1000)");
    std::fs::write(&hanging, hangs).expect("it is written");
    let [path, hanging, socket] = [&path, &hanging, &socket].map(|path| path.to_str().expect("a path"));
    let arguments = ["changes", "--name", "work", "--by", "entity", "--workers", socket];
    let dispatcher = TidemarkProcess::begun(&arguments, &world.environment).await.expect("it starts");
    let listens = async || if Path::new(socket).exists() { Ok(()) } else { Err("no socket".to_owned()) };
    dispatcher.until("a socket", listens).await;
    let mut first = PythonProgram::start(&python, &[hanging, socket]);
    assert_eq!(first.line().await.as_deref(), Some("1 bundle/repo/b0"));
    let mut second = PythonProgram::start(&python, &[path, socket]);
    assert_eq!(second.line().await.as_deref(), Some("2 bundle/repo/b1"));
    first.kill().await;
    let mut seqs = Vec::new();
    while let Some(line) = second.line().await {
        seqs.push(line.split_once(' ').expect("a seq").0.parse::<u64>().expect("a seq"));
    }
    seqs.sort_unstable();
    assert_eq!(seqs, [vec![1], (3..=12).collect()].concat());
    assert!(dispatcher.wait().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}

/// A record without what an export and a change say of it each for itself.
fn comparable(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).expect("JSON");
    let fields = record.as_object_mut().expect("an object");
    for name in ["sealed", "current", "score", "highlights", "position", "replaces", "completed"] {
        fields.remove(name);
    }
    record
}

fn sorted(lines: &str) -> Vec<Value> {
    let mut records: Vec<_> = lines.lines().map(comparable).collect();
    records.sort_by_key(|record| record["seq"].as_u64());
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_has_a_copy_that_equals_the_index() {
    let world = LocalIndex::new().expect("the server starts");
    for number in 0..20 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    let lost = "bundles/repo/lost/bundle.yaml";
    let lost_at = world.entry(850, lost.to_owned()).second();
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["aborted"] == 1).await;
    world.done("snapshot", &["--name", "daily"]).await.expect("it ends");
    let server = serve(&world, "127.0.0.1:0", 21).await;
    let folder = tempfile::tempdir().expect("a folder");
    let program = TidemarkProcess::path().await.expect("it is built").parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a path"));
    let run = async |script: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(folder.path());
        bash.env("PATH", &path).env("TIDEMARK_URL", server.url()).stdin(Stdio::null());
        let ended = timeout(MAX_WAIT, bash.kill_on_drop(true).output()).await.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{script}{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("text")
    };
    let [copy, follow, stands] = blocks("## A new node", "sh").try_into().expect("three blocks");
    run(&copy).await;

    // Meanwhile: a new entry, and a descriptor of an old one that was stored in time and is visible late. The next writer looks at what is
    // aborted again.
    world.bundle(20, "since");
    world.server.insert_at("meta", lost, "id: lost\nmessage: m\n", lost_at);
    indexer.kill().await.expect("it is killed");
    let indexer = world.indexer(&["--identity", "writer"]).await.expect("it starts");
    server.until_answer("/v1/status", |status| status["entries"]["committed"] == 22).await;

    run(&follow).await;
    let found = sorted(&run(&stands).await);
    let export = reqwest::get(format!("{}/v1/search/export?sealed=true", server.url())).await.expect("it answers");
    let expected = sorted(&export.text().await.expect("text"));
    assert_eq!(found, expected);
    assert_eq!(found.len(), 22);
    assert!(found.iter().any(|record| record["bundle"] == "lost" && record["outcome"] == "committed"), "{found:?}");

    // The snapshot is a checkpoint between the records that it has and those that came later.
    let feed =
        server.until_answer("/v1/changes?limit=1000", |answer| answer["checkpoints"][0]["checkpoint"] == "daily").await;
    let seq = feed["checkpoints"][0]["position"].as_str().and_then(|position| position.split(':').nth(1));
    assert_eq!(seq, Some("21"), "{}", feed["checkpoints"]);
    let since = server.get("/v1/changes?from=snapshot:daily").await.expect("it answers");
    assert_eq!(since["changes"].as_array().map(Vec::len), Some(2), "{since}");
    assert!(server.stop().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}
