//! Programs that are killed at any moment go on without a gap and without a double.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tidemark_catalog::RootChain;
use tidemark_store::Entropy;
use tidemark_tests::{
    TestStore, TidemarkProcess,
    stores::{self, StoreBackend},
};
use tidemark_wal::{DraftOperation, EntryDraft, Log, LogWriter, LogWriterOptions, Token};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often a program is killed in a test.
const KILLS: u32 = 5;
/// How long a program may take to ask its store.
const PATIENCE: Duration = Duration::from_mins(3);

type ProcessEnvironment = BTreeMap<String, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_and_serve_are_killed_while_writers_append_to_a_real_store() {
    let at = TestStore::minio().await;
    let StoreBackend::MinioServer { environment, bucket } = &at.on else { unreachable!("it is MinIO") };
    let urls = ["log", "metadata", "index"].map(|part| format!("s3://{bucket}/{part}"));
    let places = ["--log", &urls[0], "--metadata", &urls[1]];
    let index = [
        &["index", "--index", &urls[2], "--identity", "the-one", "--listen", "127.0.0.1:0"][..],
        &["--expiry", "6s", "--request-timeout", "1s", "--visibility-delay", "0s"],
        &places[..],
    ]
    .concat();
    let serve = [&["serve", "--index", &urls[2], "--listen", "127.0.0.1:0"], &places[..]].concat();
    let (mut indexer, mut server) = (start(&index, environment).await, start(&serve, environment).await);
    let log = Log::over(stores::open(&urls[0], environment), vec![stores::open(&urls[1], environment)]);
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(append(log.clone(), writer, stop.clone()))).collect();
    for _ in 0..KILLS {
        a_moment(4000).await;
        indexer.kill().await.expect("it is killed");
        indexer = start(&index, environment).await;
        a_moment(1500).await;
        server.kill().await.expect("it is killed");
        server = start(&serve, environment).await;
    }
    stop.cancel();
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("the writer does not panic"));
    }
    assert!(acknowledged.len() > 20, "only {} appends were acknowledged", acknowledged.len());
    let last = acknowledged.last().expect("there are some").to_string();
    until_sealed(&server, &last).await;
    for program in [&indexer, &server] {
        // Each follows the log at a pace of its own, and an append that nobody waited for may still be sealed.
        until_the_same(program, &places, environment).await;
        let indexed = everything(program).await;
        for token in &acknowledged {
            assert_eq!(indexed[&token.to_string()], ["committed"], "{token} was acknowledged");
        }
    }
    for program in [indexer, server] {
        assert!(program.stop().await.expect("it stops").success(), "it ends well when it is asked to");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_is_killed_while_it_takes_in_a_git_history() {
    let (folder, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let commits = commit(repository.path(), 60);
    let (dir, git) = (text(folder.path()), text(repository.path()));
    let dev = ["dev", "--git", git, "--dir", dir, "--expiry", "10s", "--listen", "127.0.0.1:0"];
    let none = ProcessEnvironment::new();
    for _ in 0..KILLS {
        let program = start(&dev, &none).await;
        a_moment(2500).await;
        program.kill().await.expect("it is killed");
    }
    let program = start(&dev, &none).await;
    // It listens before its index is open.
    program.until_answer("/v1/search?size=1", |_| true).await;
    let indexed = async || {
        let indexed = bundles(&program).await.len();
        if indexed >= commits.len() { Ok(()) } else { Err(format!("{indexed} are")) }
    };
    program.until("every commit is indexed", indexed).await;
    let status = program.get("/v1/status").await.expect("it answers");
    let indexed = bundles(&program).await;
    assert_eq!(indexed.keys().cloned().collect::<BTreeSet<_>>(), commits, "{status}");
    assert!(indexed.values().all(|times| *times == 1), "a commit was indexed twice: {indexed:?}");
    let (log, metadata) = (format!("file://{dir}/log"), format!("file://{dir}/metadata"));
    let places = ["--log", &log, "--metadata", &metadata];
    until_the_same(&program, &places, &none).await;
    assert!(program.stop().await.expect("it stops").success(), "it ends well when it is asked to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_whose_store_never_answers_end_when_they_are_asked_to() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let mut environment = TestStore::s3().environment().expect("S3 has one");
    let endpoint = format!("http://{}", silent.local_addr().expect("it listens"));
    environment.insert("AWS_ENDPOINT_URL".to_owned(), endpoint);
    let places = ["--log", "s3://bucket/log", "--metadata", "s3://bucket/metadata", "--index", "s3://bucket/index"];
    let listen = ["--listen", "127.0.0.1:0"];
    for command in [&["index", "--expiry", "2s"][..], &["serve"]] {
        let program =
            TidemarkProcess::begun(&[command, &places, &listen].concat(), &environment).await.expect("it starts");
        // It has asked: from here on it waits for an answer.
        let _unanswered = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("it asks its store");
        let ended = program.stop().await.expect("it stops");
        assert_eq!(ended.code(), Some(0), "{command:?}");
    }
}

async fn start(arguments: &[&str], environment: &ProcessEnvironment) -> TidemarkProcess {
    TidemarkProcess::serving(arguments, environment).await.expect("it starts")
}

/// Any time up to `longest` milliseconds: when the kill hits is left to chance.
async fn a_moment(longest: u64) {
    let chance = u64::from_le_bytes(Entropy::from_os().bytes());
    tokio::time::sleep(Duration::from_millis(chance % longest)).await;
}

/// Appends bundles and moves a label until `stop`; gives the tokens that were acknowledged.
async fn append(log: Log, writer: u32, stop: CancellationToken) -> Vec<Token> {
    let entropy = Entropy::from_os();
    let root = Arc::new(RootChain::open(&log, entropy.clone()));
    let options = LogWriterOptions::named(format!("writer-{writer}"));
    let writer = LogWriter::open(log, root, options, entropy.clone()).await.expect("the writer opens");
    let mut acknowledged = Vec::new();
    while !stop.is_cancelled() {
        let id = entropy.nonce();
        let body = format!("id: {id}\nmessage: written while programs die\n").into_bytes().into();
        let path = format!("bundles/repo/{id}/bundle.yaml");
        let mut ops = vec![DraftOperation::Descriptor { path, body }];
        if id.starts_with(['0', '1', '2', '3']) {
            let body = format!("name: latest\nid: {id}\n").into_bytes().into();
            ops.push(DraftOperation::Label { repo: "repo".into(), label: "latest".into(), bundle: id, body });
        }
        let receipt = writer.append(EntryDraft { ops, ..EntryDraft::default() }).await;
        // On a busy machine one may miss its bound: then it is not acknowledged.
        acknowledged.extend(receipt.ok().map(|receipt| receipt.token));
        a_moment(100).await;
    }
    acknowledged
}

async fn until_the_same(program: &TidemarkProcess, places: &[&str], environment: &ProcessEnvironment) {
    let compare = async || {
        let (index, log) = (everything(program).await, log_lines(places, environment).await);
        if index == log { Ok(()) } else { Err(format!("the index has {index:?}, the log {log:?}")) }
    };
    program.until("index and log are the same", compare).await;
}

async fn until_sealed(program: &TidemarkProcess, token: &str) {
    let sealed = format!("/v1/search?q=token:{token}&sealed=true");
    program.until_answer(&sealed, |answer| answer["total"].as_u64() > Some(0)).await;
}

/// The outcomes of all sealed operations by token, page by page.
async fn everything(program: &TidemarkProcess) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for hit in all_hits(program, "sealed=true").await {
        let of = |name: &str| hit[name].as_str().expect("it is text").to_owned();
        found.entry(of("token")).or_default().push(of("outcome"));
    }
    // The operations of an entry share its outcome, and the log prints one line an entry.
    found.values_mut().for_each(Vec::dedup);
    found
}

async fn all_hits(program: &TidemarkProcess, filter: &str) -> Vec<Value> {
    let (mut hits, mut seen, mut cursor) = (Vec::new(), BTreeSet::new(), String::new());
    loop {
        let page = program.get(&format!("/v1/search?{filter}&size=100{cursor}")).await.expect("it answers");
        for hit in page["hits"].as_array().expect("there are hits") {
            assert!(seen.insert(format!("{} {}", hit["token"], hit["op"])), "{hit} came twice");
            hits.push(hit.clone());
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return hits,
        }
    }
}

/// How often each bundle is committed.
async fn bundles(program: &TidemarkProcess) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for hit in all_hits(program, "kind=bundle&outcome=committed&sealed=true").await {
        *found.entry(hit["bundle"].as_str().expect("it names a bundle").to_owned()).or_default() += 1;
    }
    found
}

/// What the bucket says of itself: the outcome of each sealed entry.
async fn log_lines(places: &[&str], environment: &ProcessEnvironment) -> BTreeMap<String, Vec<String>> {
    let printed = TidemarkProcess::output(&[&["log", "--json"], places].concat(), environment).await.expect("it lists");
    let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    lines
        .map(|line| {
            (
                line["token"].as_str().unwrap_or_default().to_owned(),
                line["outcome"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .filter(|(_, outcome)| outcome != "pending")
        .map(|(token, outcome)| (token, vec![outcome]))
        .collect()
}

/// A repository with `count` commits; gives their ids.
fn commit(repository: &Path, count: u32) -> BTreeSet<String> {
    git(repository, &["init", "--quiet", "--initial-branch", "main"]);
    for number in 0..count {
        git(repository, &["commit", "--quiet", "--allow-empty", "--message", &format!("commit number {number}")]);
    }
    git(repository, &["log", "--format=%H"]).lines().map(str::to_owned).collect()
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    let person = [("NAME", "A Writer"), ("EMAIL", "writer@example.org")];
    let variables = ["AUTHOR", "COMMITTER"]
        .into_iter()
        .flat_map(|role| person.map(|(name, value)| (format!("GIT_{role}_{name}"), value)));
    let ran = Command::new("git")
        .args(arguments)
        .current_dir(repository)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs(variables)
        .output()
        .expect("git runs");
    assert!(ran.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("it is text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}
