//! The changes of an index as clients of `tidemark serve` follow them: over restarts of both programs, a reindex and a restore.

use std::{collections::BTreeMap, pin::pin, process::Stdio, time::Duration};

use reqwest::{Response, StatusCode};
use serde_json::Value;
use tidemark_tests::{LocalIndex, TidemarkProcess};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long an event may take: search polls every 5 s.
const MAX_WAIT: Duration = Duration::from_secs(90);

/// A client of server-sent events that remembers the id of the last one.
struct EventSource {
    response: Response,
    text: String,
    last: String,
}

impl EventSource {
    async fn open(server: &TidemarkProcess, query: &str, last: &str) -> Self {
        let request = reqwest::Client::new().get(format!("{}/v1/changes{query}", server.url()));
        let request = request.header("accept", "text/event-stream").header("last-event-id", last);
        let response = request.send().await.expect("it answers");
        assert_eq!(response.status(), StatusCode::OK);
        Self { response, text: String::new(), last: last.to_owned() }
    }

    /// The name and the data of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let Some((event, rest)) = self.text.split_once("\n\n") else {
                let part = timeout(MAX_WAIT, self.response.chunk()).await.expect("something comes");
                // A server that is killed breaks off.
                self.text.push_str(std::str::from_utf8(&part.ok().flatten()?).expect("text"));
                continue;
            };
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let (id, name, data) = (field("id: "), field("event: "), field("data: "));
            let rest = rest.to_owned();
            self.text = rest;
            self.last = id.unwrap_or_else(|| self.last.clone());
            if let Some(data) = data {
                return Some((name.unwrap_or_default(), serde_json::from_str(&data).expect("JSON")));
            }
        }
    }

    /// The next changes, whose seqs are these.
    async fn changes(&mut self, seqs: std::ops::RangeInclusive<u64>) -> Vec<Value> {
        let mut changes = Vec::new();
        for seq in seqs {
            let (_, change) = self.next().await.expect("it goes on");
            assert_eq!(
                (&change["seq"], change["position"].as_str()),
                (&seq.into(), Some(self.last.as_str())),
                "{change}"
            );
            changes.push(change);
        }
        changes
    }
}

/// `tidemark changes --follow`, line by line.
struct FollowingCommand {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl FollowingCommand {
    async fn start(server: &TidemarkProcess, more: &[&str]) -> Self {
        let program = TidemarkProcess::path().await.expect("it is built");
        let arguments = [&["changes", "--follow", "--url", server.url()][..], more].concat();
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { lines, _child: child }
    }

    async fn next(&mut self) -> Value {
        let line = timeout(MAX_WAIT, self.lines.next_line()).await.expect("a line comes").expect("it is read");
        serde_json::from_str(&line.expect("it goes on")).expect("JSON")
    }
}

/// `curl -N` on the stream of events, as a person runs it: its lines of data come as they are sent.
struct CurlStream {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl CurlStream {
    async fn next(&mut self) -> Value {
        loop {
            let line = timeout(MAX_WAIT, self.lines.next_line()).await.expect("a line comes").expect("it is read");
            if let Some(data) = line.expect("it goes on").strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }
}

fn curl(server: &TidemarkProcess) -> CurlStream {
    let url = format!("{}/v1/changes?q=kind:bundle", server.url());
    let mut child = Command::new("curl")
        .args(["-N", "-sS", "--noproxy", "*", "-H", "Accept: text/event-stream", &url])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    CurlStream { lines, _child: child }
}

/// A search service at `address`, or at any.
async fn serve(world: &LocalIndex, address: &str) -> TidemarkProcess {
    let server =
        TidemarkProcess::serving(&["serve", "--listen", address], &world.environment).await.expect("it starts");
    server.until_answer("/v1/status", |status| status["manifest"].as_u64() > Some(0)).await;
    server
}

async fn refusal(server: &TidemarkProcess, query: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(format!("{}/v1/changes{query}", server.url())).await.expect("it answers");
    (answer.status(), serde_json::from_str(&answer.text().await.expect("text")).expect("JSON"))
}

fn bundles(changes: &[Value]) -> Vec<&str> {
    changes.iter().filter_map(|change| change["bundle"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_follow_the_changes_over_restarts_and_generations() {
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    let names: Vec<String> = (0..30).map(|number| format!("b{number}")).collect();
    for (name, number) in names.iter().zip(0..) {
        world.bundle(900 - number, name);
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 30).await;
    let server = serve(&world, "127.0.0.1:0").await;
    let address = server.url().trim_start_matches("http://").to_owned();

    let mut events = EventSource::open(&server, "?payload=true", "").await;
    let first = events.changes(1..=30).await;
    assert_eq!(bundles(&first), names);
    assert_eq!((&first[0]["outcome"], &first[0]["descriptor"]["message"]), (&"committed".into(), &"m".into()));
    let mut lines = FollowingCommand::start(&server, &["--query", "bundle:b7 OR bundle:since OR bundle:rebuilt"]).await;
    assert_eq!(lines.next().await["bundle"], "b7");
    let mut curl = curl(&server);
    for name in &names {
        assert_eq!(curl.next().await["bundle"], *name);
    }
    let printed = ["changes", "--url", server.url(), "--from", "g1:25"];
    let printed = TidemarkProcess::output(&printed, &BTreeMap::new()).await.expect("it ends");
    let printed: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(bundles(&printed), names[25..]);

    // Both programs are killed. What is written meanwhile follows what came before, also for the command, which finds the service again.
    server.kill().await.expect("it is killed");
    indexer.kill().await.expect("it is killed");
    assert_eq!(events.next().await, None);
    drop(curl);
    world.bundle(5, "since");
    let indexer = world.indexer(&[]).await.expect("it starts");
    let server = serve(&world, &address).await;
    let mut events = EventSource::open(&server, "", &events.last).await;
    assert_eq!(bundles(&events.changes(31..=31).await), ["since"]);
    assert_eq!(lines.next().await["bundle"], "since");

    // A reindex keeps the seqs: streams go on, and positions of the generation before are as good.
    assert_eq!(world.done("reindex", &[]).await.expect("it ends")["generation"], "g2");
    indexer.until_answer("/v1/status", |status| status["generation"] == "g2").await;
    world.bundle(0, "rebuilt");
    let rebuilt = events.changes(32..=32).await;
    assert_eq!(bundles(&rebuilt), ["rebuilt"]);
    assert!(events.last.starts_with("g2:32:"), "{}", events.last);
    assert_eq!(lines.next().await["bundle"], "rebuilt");
    let again = EventSource::open(&server, "", "g1:29").await.changes(30..=32).await;
    assert_eq!(bundles(&again), ["b29", "since", "rebuilt"]);
    world.done("snapshot", &["--name", "daily"]).await.expect("it ends");
    let pinned = server.get("/v1/changes?from=snapshot:daily").await.expect("it answers");
    assert!(pinned["next"].as_str().is_some_and(|next| next.starts_with("g2:32:")), "{pinned}");

    // A position is of the index that gave it: another one of the same log numbers its records for itself.
    let other = world.beside("other");
    let other_indexer = other.indexer(&[]).await.expect("it starts");
    let position =
        other_indexer.until_answer("/v1/changes", |answer| answer["changes"][0].is_object()).await["next"].clone();
    let (status, problem) = refusal(&server, &format!("?from={}", position.as_str().expect("text"))).await;
    assert_eq!((status, &problem["parameter"]), (StatusCode::BAD_REQUEST, &"from".into()), "{problem}");
    assert!(problem["detail"].as_str().expect("text").contains("of another index of this log"), "{problem}");
    assert!(other_indexer.stop().await.expect("it ends").success());

    // What is no place in these changes.
    for query in ["?from=g1:1:0000000000000000", "?from=g9:1", "?from=snapshot:never", "?from=2100-01-01"] {
        let (status, problem) = refusal(&server, query).await;
        assert_eq!((status, &problem["parameter"]), (StatusCode::BAD_REQUEST, &"from".into()), "{query}: {problem}");
    }
    let (status, problem) = refusal(&server, "?q=kind%20%3D%20bundle").await;
    assert_eq!((status, &problem["parameter"]), (StatusCode::BAD_REQUEST, &"q".into()), "{problem}");

    // A restore gives the records other seqs: the stream says so and ends, and the answer says where to start.
    world.done("restore", &["--to-time", &to]).await.expect("it ends");
    let (name, problem) = events.next().await.expect("an event");
    assert_eq!((name.as_str(), &problem["status"]), ("problem", &410.into()), "{problem}");
    assert_eq!(events.next().await, None);
    let (status, problem) = refusal(&server, &format!("?from={}&limit=1000", events.last)).await;
    assert_eq!(status, StatusCode::GONE, "{problem}");
    let restart = problem["restart"].as_str().expect("where to start");
    let restored = server.get(&format!("/v1/changes{restart}")).await.expect("it answers");
    assert_eq!(bundles(restored["changes"].as_array().expect("changes")), names);
    // Or from a copy of the whole: what comes after it is what was not in it.
    let export = reqwest::get(format!("{}/v1/search/export?sealed=true", server.url())).await.expect("it answers");
    let position = export.headers()["tidemark-position"].to_str().expect("text").to_owned();
    assert_eq!(export.text().await.expect("text").lines().count(), 30);
    assert_eq!(position, restored["next"]);
    assert!(server.stop().await.expect("it ends").success());
    assert!(indexer.stop().await.expect("it ends").success());
}

/// The commands with which the guide begins, on an index of this test's own: with its address, a day of its log and a position of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_commands_of_the_guide_run() {
    let guide = include_str!("../../../docs/changes.md");
    let block = guide.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let world = LocalIndex::new().expect("the server starts");
    world.bundle(600, "b1");
    world.bundle(500, "b2");
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 2).await;
    let first = indexer.get("/v1/changes?limit=1").await.expect("it answers")["next"].clone();
    let day = world.ago(86_400).to_string();
    let (day, _) = day.split_once('T').expect("a day");
    let script = block.replace("http://127.0.0.1:7281", indexer.url()).replace("2026-11-20", day);
    let script = script.replace("g1:1234:5f2a91c07be0d4a3", first.as_str().expect("text"));
    let lines: Vec<&str> = script.lines().collect();
    let [since, after, stream, follow] = lines[..] else { panic!("{block}") };
    for (command, wanted) in [(since, &["b1", "b2"][..]), (after, &["b2"])] {
        let mut shell = shell(command).await;
        let ended = timeout(MAX_WAIT, shell.output()).await.expect("it ends").expect("it runs");
        let answer: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{ended:?}: {error}"));
        assert_eq!(bundles(answer["changes"].as_array().expect("changes")), wanted, "{command}");
    }
    // The other two follow what comes, and never end. What moves before they have begun is none of theirs, so more moves until each has a line.
    let mut moves = 0;
    for (command, begin) in [(stream, "data: {"), (follow, "{")] {
        let mut following = shell(command).await.spawn().expect("it starts");
        let mut lines = BufReader::new(following.stdout.take().expect("it is piped")).lines();
        let first = async {
            loop {
                let line = lines.next_line().await.expect("it is read").expect("it goes on");
                if line.starts_with(begin) {
                    return line;
                }
            }
        };
        let mut first = pin!(first);
        let line = loop {
            moves += 1;
            assert!(moves < 90, "{command}: no line");
            move_label(&world, moves);
            if let Ok(line) = timeout(Duration::from_secs(2), first.as_mut()).await {
                break line;
            }
        };
        assert!(line.contains("labels/r/l"), "{command}: {line}");
        following.kill().await.expect("it is stopped");
    }
}

/// Moves a label of this number's own.
fn move_label(world: &LocalIndex, number: u32) {
    let path = format!("labels/r/l{number}/label.yaml");
    world.entry(2, path.clone());
    world.server.insert_at("meta", &path, "id: b1\n", world.ago(1));
}

/// A command of a guide, as a shell runs it. It ends when it is dropped.
async fn shell(command: &str) -> Command {
    let program = TidemarkProcess::path().await.expect("it is built").parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {command}")]).env("PATH", path).env("no_proxy", "*").env("NO_PROXY", "*");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    shell
}
