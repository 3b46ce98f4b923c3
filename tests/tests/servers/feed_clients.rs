//! The changes of an index as programs of others follow them: Python's `websockets`, and the recipe of `docs/changes.md` for a new node.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tidemark_tests::{LocalIndex, TidemarkProcess, optional_script, root};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
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
    let mut client = Command::new(python)
        .arg(root().join("tests/tools/feed-clients/follow.py"))
        .args([format!("ws://{address}/v1/changes"), "7".to_owned(), "60".to_owned()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(client.stdout.take().expect("it is piped")).lines();
    let mut line = async || {
        let line = timeout(MAX_WAIT, lines.next_line()).await.expect("a line comes").expect("it is read");
        line.expect("it goes on")
    };
    for seq in 1..=40 {
        assert_eq!(line().await, seq.to_string());
    }
    // What it has not acknowledged comes again, and it goes on by itself.
    server.kill().await.expect("it is killed");
    for number in 0..20 {
        world.bundle(25 - number, &format!("c{number}"));
    }
    let server = serve(&world, &address, 40).await;
    for seq in 41..=60 {
        assert_eq!(line().await, seq.to_string());
    }
    let end = line().await;
    assert!(
        end.starts_with("4409 ") && end.contains(":160:") && end.ends_with("was never sent on this connection"),
        "{end}"
    );
    // A restore ends the connection in the middle, and says where to begin.
    assert_eq!(line().await, "waits");
    world.done("restore", &["--to-time", &to]).await.expect("it ends");
    let end = line().await;
    assert!(end.starts_with("4410 410 ?") && end.contains("from="), "{end}");
    assert!(client.wait().await.expect("it ends").success());
    assert!(server.stop().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}

/// The shell blocks of the recipe, as they stand.
fn recipe() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/changes.md")).expect("the document is there");
    let (_, section) = text.split_once("## A new node").expect("the section is there");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("the block ends").0.to_owned()).collect()
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
    let [copy, follow, stands] = recipe().try_into().expect("three blocks");
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
