//! Appends that expect the newest commit of an entity, by the real program: what becomes of them, and who hears of it.

use std::{collections::BTreeMap, fs, process::Output, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_tests::{S3Server, TidemarkProcess};
use tokio::time::{sleep, timeout};

/// How long a command may take.
const MAX_WAIT: Duration = Duration::from_mins(3);
/// Longer than the log's horizon lies behind.
const SEALED: Duration = Duration::from_mins(3);
const LABEL: &str = "labels/r/latest/label.yaml";

/// A log in an S3 server of this process, whose clock moves as the test says.
struct ExpectationWorld {
    server: S3Server,
    environment: BTreeMap<String, String>,
    folder: TempDir,
}

impl ExpectationWorld {
    async fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let mut environment = server.index_environment();
        for name in ["TIDEMARK_EXPIRY", "TIDEMARK_REQUEST_TIMEOUT"] {
            environment.insert(name.to_owned(), "30s".to_owned());
        }
        let world = Self { server, environment, folder: tempfile::tempdir().expect("a folder") };
        let set = world.run(&["log", "set"]).await;
        assert!(set.status.success(), "{set:?}");
        world
    }

    async fn run(&self, words: &[&str]) -> Output {
        timeout(MAX_WAIT, TidemarkProcess::ended(words, &self.environment)).await.expect("it ends").expect("it runs")
    }

    /// Moves the label to a bundle, expecting this.
    async fn label(&self, bundle: &str, expect: &str, more: &[&str]) -> Output {
        let file = self.folder.path().join(format!("{bundle}.json"));
        let draft = json!({"ops": [{"repo": "r", "label": "latest", "bundle": bundle}]});
        fs::write(&file, draft.to_string()).expect("a file can be written");
        let file = file.to_str().expect("a path of text");
        self.run(&[&["append", "--expect", expect], more, &[file]].concat()).await
    }

    /// The same with an index that tells what becomes of it, while the store's time passes.
    async fn decided(&self, bundle: &str, expect: &str, indexer: &TidemarkProcess) -> (Option<i32>, Value, String) {
        let more = ["--json", "--url", indexer.url()];
        let append = self.label(bundle, expect, &more);
        let mut append = std::pin::pin!(append);
        let output = loop {
            tokio::select! {
                output = &mut append => break output,
                () = sleep(Duration::from_millis(100)) => self.server.clock().advance(Duration::from_secs(1)),
            }
        };
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), printed, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn label_value(&self) -> Option<String> {
        self.server.body("meta", LABEL).map(|body| String::from_utf8(body.to_vec()).expect("text"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_appends_that_expect_the_same_the_first_is_committed_and_the_second_is_told() {
    let world = ExpectationWorld::new().await;
    // No writer can tell; so neither ends as one that is committed.
    let mut tokens = Vec::new();
    for bundle in ["b1", "b2"] {
        let output = world.label(bundle, "label/r/latest=none", &[]).await;
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("undecided until") && said.contains("/v1/entries/"), "{said}");
        tokens.push(text(&output.stdout));
    }
    assert_eq!(world.label_value(), None, "nobody knows yet whose it is");
    world.server.clock().advance(SEALED);
    let listed = world.run(&["log", "--json"]).await;
    let lines: Vec<Value> =
        text(&listed.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| (line["token"].clone(), line["outcome"].clone())).collect();
    let wanted = [(json!(tokens[0]), json!("committed")), (json!(tokens[1]), json!("conflicted"))];
    assert_eq!(outcomes, wanted, "by the log alone");

    let indexer = TidemarkProcess::serving(&["index"], &world.environment).await.expect("it starts");
    let is_found = |found: &Value| found["hits"].as_array().is_some_and(|hits| !hits.is_empty());
    let found = indexer.until_answer("/v1/search?q=outcome:conflicted", is_found).await;
    let hit = &found["hits"][0];
    let conflict = json!({"entity": "label/r/latest", "conflict": {"token": tokens[0], "op": 0}});
    assert_eq!((&hit["token"], &hit["expectation"]), (&json!(tokens[1]), &conflict), "{found}");
    let reason = hit["reason"].as_str().expect("a reason");
    assert!(reason.contains("expects no commit of \"label/r/latest\"") && reason.contains(&tokens[0]), "{reason}");
    let page = reqwest::get(format!("{}/entry?token={}", indexer.url(), tokens[1])).await.expect("it answers");
    let page = page.text().await.expect("text");
    assert!(page.contains("conflicted") && page.contains("read what was committed meanwhile"), "{page}");

    // With an index the command waits, and says what was first.
    let (code, printed, _) = world.decided("b3", &format!("label/r/latest={}", tokens[0]), &indexer).await;
    assert_eq!((code, &printed["outcome"]), (Some(0), &json!("committed")), "{printed}");
    let third = printed["token"].as_str().expect("a token").to_owned();
    assert!(world.label_value().is_some_and(|value| value.contains("id: b3")), "Datamon's clients see it");
    let (code, printed, said) = world.decided("b4", &format!("label/r/latest={}", tokens[0]), &indexer).await;
    assert_eq!((code, &printed["outcome"]), (Some(9), &json!("conflicted")), "{printed}");
    assert_eq!(printed["expectation"]["conflict"], json!({"token": third, "op": 0}), "{printed}");
    assert!(said.contains("is conflicted") && said.contains(&third), "{said}");
    assert!(world.label_value().is_some_and(|value| value.contains("id: b3")));
    let process = indexer.get("/v1/status").await.expect("it answers");
    assert_eq!(
        (&process["entries"]["committed"], &process["entries"]["conflicted"]),
        (&json!(2), &json!(2)),
        "{process}"
    );
    assert!(indexer.stop().await.expect("it ends").success());
    let verified = world.run(&["verify", "--all"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_appends_answers_from_when_on_an_index_knows() {
    let world = ExpectationWorld::new().await;
    let words = ["append", "--serve", "127.0.0.1:0", "--writer", "shop"];
    let service = TidemarkProcess::serving(&words, &world.environment).await.expect("it starts");
    let post = async |body: &Value| {
        let sent = reqwest::Client::new().post(format!("{}/v1/append", service.url())).json(body).send().await;
        let answer = sent.expect("it answers");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let draft = json!({
        "idempotencyKey": "k", "ops": [], "attributes": {"entity": "order-7"}, "expect": {"entity": "entry/order-7", "token": null},
    });
    let (status, undecided) = post(&draft).await;
    assert_eq!((status, &undecided["outcome"]), (202, &json!("undecided")), "{undecided}");
    assert!(undecided["decided"].as_str() > undecided["seen"].as_str(), "{undecided}");
    let (status, answers) = post(&json!([{"idempotencyKey": "l", "ops": []}, draft])).await;
    assert_eq!(
        (status, &answers[0]["outcome"], &answers[1]["outcome"]),
        (202, &json!("committed"), &json!("undecided"))
    );
    let wrong = json!({"ops": [], "expect": {"entity": "order-7"}});
    let (status, refused) = post(&wrong).await;
    assert_eq!(status, 400);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("which no operation has")), "{refused}");
    // Appended again under its key it is the same one, whatever it expects.
    world.server.clock().advance(SEALED);
    let listed = text(&world.run(&["log", "--json"]).await.stdout);
    let outcomes: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["outcome"].clone()).collect();
    assert_eq!(outcomes, [json!("committed"), json!("committed"), json!("duplicate")]);
}
