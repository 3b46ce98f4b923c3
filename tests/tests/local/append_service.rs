//! `tidemark append --serve`, by the real program and by programs of other languages: the examples of `examples/append` and the commands of
//! `docs/append.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Container};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_tests::{
    S3Server, TidemarkProcess,
    faults::{FaultRule, InjectedFault, StoreOperation},
    root,
};
use tidemark_wal::Token;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::Command,
    time::timeout,
};

/// How long a program may take.
const MAX_WAIT: Duration = Duration::from_mins(3);
/// The address of the service in what is printed.
const PRINTED: &str = "127.0.0.1:7285";
/// Longer than the log's commit bound.
const SEALED: Duration = Duration::from_mins(10);

/// A log in an S3 server of this process.
struct ServiceWorld {
    server: S3Server,
    environment: BTreeMap<String, String>,
    folder: TempDir,
}

impl ServiceWorld {
    async fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in ["log", "meta"] {
            server.create_bucket(bucket);
        }
        let (environment, folder) = (server.index_environment(), tempfile::tempdir().expect("a folder"));
        let world = Self { server, environment, folder };
        // Longer than any test holds a request up.
        world.done(&["log", "set", "--expiry", "1m", "--request-timeout", "1m"]).await;
        world
    }

    async fn run(&self, words: &[&str]) -> Output {
        timeout(MAX_WAIT, TidemarkProcess::ended(words, &self.environment)).await.expect("it ends").expect("it runs")
    }

    async fn done(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A service on a free port of loopback.
    async fn service(&self, more: &[&str]) -> TidemarkProcess {
        let words = [&["append", "--serve", "127.0.0.1:0", "--writer", "shop"], more].concat();
        TidemarkProcess::serving(&words, &self.environment).await.expect("it starts")
    }

    /// A service on a Unix socket, which is there when this returns.
    async fn socket_service(&self) -> (TidemarkProcess, PathBuf) {
        let path = self.folder.path().join("append.sock");
        let endpoint = format!("unix:{}", path.display());
        let words = ["append", "--serve", &endpoint, "--writer", "shop"];
        let service = TidemarkProcess::begun(&words, &self.environment).await.expect("it starts");
        let connect = async || UnixStream::connect(&path).await.map(drop).map_err(|error| error.to_string());
        service.until("the socket", connect).await;
        (service, path)
    }

    /// What became of each entry, by its token, once that is decided.
    async fn outcomes(&self) -> BTreeMap<String, (String, Value)> {
        self.server.clock().advance(SEALED);
        let printed = self.done(&["log", "--json"]).await;
        let entries = printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        entries.map(|entry| (text(&entry["token"]), (text(&entry["outcome"]), entry))).collect()
    }

    /// The entries of these tokens are committed, and no others.
    async fn all_are_committed(&self, tokens: &[String]) {
        let outcomes = self.outcomes().await;
        let committed =
            outcomes.iter().filter(|(_, (outcome, _))| outcome == "committed").map(|(token, _)| token.clone());
        let (committed, wanted): (BTreeSet<_>, BTreeSet<_>) = (committed.collect(), tokens.iter().cloned().collect());
        assert_eq!(committed, wanted, "{outcomes:?}");
    }

    /// A program with this text as its input; what it printed, by lines.
    async fn fed(&self, mut command: Command, input: &str) -> Vec<String> {
        let program = TidemarkProcess::path().await.expect("it is built").parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        command.current_dir(self.folder.path()).envs(&self.environment).env("PATH", path);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let mut pipe = child.stdin.take().expect("it is piped");
        pipe.write_all(input.as_bytes()).await.expect("it reads");
        drop(pipe);
        let ended = timeout(MAX_WAIT, child.wait_with_output()).await.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).expect("text").lines().map(str::to_owned).collect()
    }
}

async fn post(service: &TidemarkProcess, path: &str, body: &Value) -> (StatusCode, Option<String>, Value) {
    let answer = reqwest::Client::new().post(format!("{}{path}", service.url())).json(body).send().await;
    let answer = answer.expect("it answers");
    let (status, retry) = (answer.status(), answer.headers().get("retry-after").cloned());
    let retry = retry.map(|seconds| seconds.to_str().expect("text").to_owned());
    (status, retry, answer.json().await.expect("JSON"))
}

fn bundle(id: &str) -> Value {
    let body = json!({"id": id, "message": "from another language"});
    json!({"idempotencyKey": id, "ops": [{"path": format!("bundles/r/{id}/bundle.yaml"), "body": body}]})
}

/// Drafts as lines.
fn lines(ids: &[&str]) -> String {
    ids.iter().fold(String::new(), |lines, id| lines + &bundle(id).to_string() + "\n")
}

/// Python, or nothing where there is none; in CI there has to be one.
fn python() -> Option<Command> {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok_and(|it| it.status.success());
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "there is no Python");
    if !found {
        eprintln!("SKIPPED: no Python, so its example is not run");
    }
    found.then(|| {
        let mut command = Command::new("python3");
        command.arg(root().join("examples/append/append_client.py"));
        command
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_shell_example_appends_over_a_socket_is_committed() {
    let world = ServiceWorld::new().await;
    let (service, socket) = world.socket_service().await;
    // A second service finds it in use.
    let endpoint = format!("unix:{}", socket.display());
    let second = world.run(&["append", "--serve", &endpoint]).await;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process listens"), "{second:?}");
    let shell = || {
        let mut shell = Command::new(root().join("examples/append/append.sh"));
        shell.arg(&endpoint);
        shell
    };
    let tokens = world.fed(shell(), &lines(&["a", "b"])).await;
    // What is sent again counts once.
    assert_eq!(world.fed(shell(), &lines(&["b"])).await, tokens[1..]);
    assert!(service.stop().await.expect("it stops").success());
    assert!(!socket.exists());
    world.all_are_committed(&tokens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_python_example_appends_and_uploads_is_committed() {
    let world = ServiceWorld::new().await;
    let service = world.service(&[]).await;
    let (socket_service, socket) = {
        let other = world.socket_service().await;
        (other.0, format!("unix:{}", other.1.display()))
    };
    let Some(mut appends) = python() else { return };
    appends.arg(&socket);
    // A draft of attributes alone gets a key of the client's.
    let mut tokens = world.fed(appends, &format!("{}{{\"paid\": true}}\n", lines(&["a"]))).await;
    let mut uploads = python().expect("there was one");
    uploads.args(["--upload", service.url()]);
    tokens.extend(world.fed(uploads, &lines(&["c"])).await);
    assert_eq!(
        world.server.body("meta", "bundles/r/c/bundle.yaml").expect("it was put"),
        "id: c\nmessage: from another language\n"
    );
    drop(socket_service);
    world.all_are_committed(&tokens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_begun_is_acknowledged_once_its_client_has_put_it() {
    let world = ServiceWorld::new().await;
    let service = world.service(&[]).await;
    let (status, _, begun) = post(&service, "/v1/append?complete=false", &bundle("b")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{begun}");
    let token = begun["token"].as_str().expect("a token");
    let confirm = format!("/v1/append/{token}/confirm");
    let (status, retry, problem) = post(&service, &confirm, &json!(null)).await;
    assert_eq!((status, retry.as_deref()), (StatusCode::GATEWAY_TIMEOUT, Some("1")), "{problem}");
    assert_eq!((&problem["outcome"], &problem["token"]), (&json!("unproven"), &json!(token)));
    let upload = &begun["uploads"][0];
    let put = async || {
        let request = reqwest::Client::new().put(upload["url"].as_str().expect("a URL"));
        let headers = upload["headers"].as_object().expect("headers").iter();
        let request =
            headers.fold(request, |request, (name, value)| request.header(name, value.as_str().expect("text")));
        let answer = request.body(upload["body"].as_str().expect("a body").to_owned()).send().await;
        answer.expect("it answers").status()
    };
    assert!(put().await.is_success());
    // The URL can only create.
    assert!(!put().await.is_success());
    // Another process than the one that began it confirms it: nothing is held in memory.
    let restarted = world.service(&[]).await;
    let (status, _, proof) = post(&restarted, &confirm, &json!(null)).await;
    assert_eq!((status, &proof["outcome"]), (StatusCode::OK, &json!("committed")), "{proof}");
    // One that is never completed is not.
    let (_, _, left) = post(&service, "/v1/append?complete=false", &bundle("left")).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[token].0, "committed");
    assert_eq!(outcomes[left["token"].as_str().expect("a token")].0, "aborted");
}

/// The store holds one append up: the next one finds no place. What was begun is finished, whether its client waits or the service is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_service_answers_429_and_finishes_what_it_began() {
    let world = ServiceWorld::new().await;
    let service = world.service(&["--max-in-flight", "1"]).await;
    let held =
        || world.server.inject(FaultRule::always(InjectedFault::Hold).on(StoreOperation::Put).key("bundle.yaml"));
    let in_flight = async |wanted: u32| {
        let figure = format!("tidemark_append_entries_in_flight {wanted}\n");
        let look = async || {
            let text = reqwest::get(format!("{}/metrics", service.url())).await.map_err(|error| error.to_string())?;
            let text = text.text().await.map_err(|error| error.to_string())?;
            if text.contains(&figure) { Ok(()) } else { Err(text) }
        };
        service.until("in flight", look).await;
    };
    // A client that goes away at once.
    let rule = held();
    let address = service.url().trim_start_matches("http://").to_owned();
    let mut client = TcpStream::connect(&address).await.expect("it connects");
    let body = bundle("gone").to_string();
    let head = format!(
        "POST /v1/append HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
    in_flight(1).await;
    drop(client);
    let (status, retry, problem) = post(&service, "/v1/append", &bundle("refused")).await;
    assert_eq!((status, retry.as_deref()), (StatusCode::TOO_MANY_REQUESTS, Some("1")), "{problem}");
    world.server.lift(rule);
    in_flight(0).await;
    assert!(world.server.body("meta", "bundles/r/gone/bundle.yaml").is_some());
    // A service that is stopped.
    let rule = held();
    let waiting = tokio::spawn({
        let address = address.clone();
        async move {
            let answer =
                reqwest::Client::new().post(format!("http://{address}/v1/append")).json(&bundle("last")).send().await;
            answer.expect("it answers").status()
        }
    });
    in_flight(1).await;
    let (stopped, ()) = tokio::join!(service.stop(), async {
        // It takes no more connections, and so has been told.
        let refused = async || match TcpStream::connect(&address).await {
            Ok(mut stream) => stream.read(&mut [0]).await.is_err(),
            Err(_) => true,
        };
        let told = async {
            while !refused().await {
                tokio::task::yield_now().await;
            }
        };
        timeout(MAX_WAIT, told).await.expect("it closes its listener");
        world.server.lift(rule);
    });
    assert!(stopped.expect("it stops").success());
    assert_eq!(waiting.await.expect("no panic"), StatusCode::OK);
    let outcomes = world.outcomes().await;
    assert!(outcomes.len() == 2 && outcomes.values().all(|(outcome, _)| outcome == "committed"), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_this_machine_may_append() {
    let world = ServiceWorld::new().await;
    for (endpoint, why) in
        [("0.0.0.0:0", "other machines"), ("[::]:7285", "other machines"), ("localhost", "no address")]
    {
        let refused = world.run(&["append", "--serve", endpoint]).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    }
    // Neither a file nor a service, or both.
    for words in [&["append"][..], &["append", "--serve", "127.0.0.1:0", "entries.json"]] {
        assert_eq!(world.run(words).await.status.code(), Some(2));
    }
}

/// A write lock guards what is sent; what came too late says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_was_overtaken_is_answered_as_fenced() {
    let world = ServiceWorld::new().await;
    let service = world.service(&[]).await;
    let guarded = |id: &str| {
        let mut draft = bundle(id);
        draft["lock"] = json!({"name": "models", "grant": 1});
        draft
    };
    let (status, _, problem) = post(&service, "/v1/append", &guarded("early")).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:tidemark:problem:no-such-grant")));
    world.done(&["lock", "acquire", "models", "--holder", "a", "--complete-within", "1m"]).await;
    let (status, _, proof) = post(&service, "/v1/append", &guarded("one")).await;
    assert_eq!(status, StatusCode::OK, "{proof}");
    world.done(&["lock", "release", "models", "--grant", "1"]).await;
    let (status, _, problem) = post(&service, "/v1/append", &guarded("two")).await;
    assert_eq!((status, &problem["outcome"]), (StatusCode::CONFLICT, &json!("fenced")), "{problem}");
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[problem["token"].as_str().expect("a token")].0, "fenced");
}

/// The blocks of the guide, in its order, with a port of this test's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_guide_runs() {
    let guide = include_str!("../../../docs/append.md");
    let blocks: Vec<&str> = guide.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let (serving, calls): (Vec<&str>, Vec<&str>) = blocks.into_iter().partition(|block| block.contains("--serve"));
    let world = ServiceWorld::new().await;
    let [serving] = serving[..] else { panic!("the guide starts {serving:?}") };
    let words: Vec<&str> = serving.split_whitespace().skip(1).collect();
    let words: Vec<&str> = words.iter().map(|word| if *word == PRINTED { "127.0.0.1:0" } else { *word }).collect();
    let service = TidemarkProcess::serving(&words, &world.environment).await.expect("it starts");
    assert!(calls.len() > 3, "{calls:?}");
    let address = service.url().trim_start_matches("http://").to_owned();
    let mut appended = 0;
    for call in calls {
        if call.contains("python3") && python().is_none() {
            continue;
        }
        let call = call.replace(PRINTED, &address).replace("examples/", &format!("{}/examples/", root().display()));
        let mut shell = Command::new("sh");
        shell.args(["-e", "-s"]);
        let printed = world.fed(shell, &call).await;
        // Proofs, or the tokens that the examples print.
        appended += printed.iter().filter(|line| line.contains("committed") || line.parse::<Token>().is_ok()).count();
        assert!(!printed.is_empty(), "{call}");
    }
    assert!(appended > 3, "only {appended} were appended");
    let outcomes = world.outcomes().await;
    assert!(outcomes.values().all(|(outcome, _)| outcome == "committed" || outcome == "duplicate"), "{outcomes:?}");
}

/// The containers of the example's pod run as they stand there, on another port and with the credentials of this test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_container_of_the_example_serves_its_pod() {
    let text = std::fs::read_to_string(root().join("examples/append/deployment.yaml")).expect("it is read");
    let deployment: Deployment = serde_norway::from_str(&text).expect("it is a Deployment");
    let pod = deployment.spec.expect("a spec").template.spec.expect("a pod");
    let [container] = &pod.init_containers.expect("containers")[..] else { panic!("one service") };
    assert_eq!(container.restart_policy.as_deref(), Some("Always"));
    assert_eq!(variable(&pod.containers[0], "APPEND").as_deref(), Some("http://127.0.0.1:7285"));
    let world = ServiceWorld::new().await;
    for (name, ours) in [("TIDEMARK_LOG", "s3://log"), ("TIDEMARK_METADATA", "s3://meta")] {
        assert!(variable(container, name).expect("it is named").starts_with("s3://"));
        assert_eq!(world.environment[name], ours);
    }
    let arguments: Vec<String> =
        container.args.iter().flatten().map(|word| word.replace(PRINTED, "127.0.0.1:0")).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let service = TidemarkProcess::serving(&words, &world.environment).await.expect("it starts");
    let probe =
        container.startup_probe.as_ref().and_then(|probe| probe.exec.as_ref()?.command.clone()).expect("a probe");
    let address = service.url().trim_start_matches("http://");
    let probe: Vec<String> = probe[1..].iter().map(|word| word.replace(PRINTED, address)).collect();
    world.done(&probe.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (status, _, proof) = post(&service, "/v1/append", &bundle("b")).await;
    assert_eq!(status, StatusCode::OK, "{proof}");
}

fn variable(container: &Container, name: &str) -> Option<String> {
    container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}
