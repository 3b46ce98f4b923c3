//! `tidemark lock` and guarded appends, by the real program on stores in folders.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tidemark_tests::{TidemarkProcess, folder_environment};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// How long a command may take.
const MAX_WAIT: Duration = Duration::from_mins(3);

/// A log in folders, whose longest request is a second.
struct LockWorld {
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

impl LockWorld {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let environment = folder_environment(folder.path());
        let world = Self { folder, environment };
        world.done(&["log", "set", "--expiry", "10s"]).await;
        world
    }

    async fn run(&self, words: &[&str]) -> Output {
        timeout(MAX_WAIT, TidemarkProcess::ended(words, &self.environment)).await.expect("it ends").expect("it runs")
    }

    async fn done(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    async fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.done(words).await).expect("JSON")
    }

    /// Appends an entry with this note; its token, or the exit code.
    async fn append(&self, note: &str, grant: &str) -> Result<String, Option<i32>> {
        let file = self.folder.path().join(format!("{note}.json"));
        std::fs::write(&file, format!("{{\"note\": \"{note}\"}}")).expect("a file can be written");
        let file = file.to_str().expect("a path of text");
        let output = self.run(&["append", "--lock", "models", "--grant", grant, file]).await;
        let text = String::from_utf8(output.stdout).expect("text").trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(output.status.code()) }
    }

    /// Acquires the lock, which others may contend for after 2 s.
    async fn acquire(&self, holder: &str) -> Value {
        let spans = ["--ttl", "2s", "--complete-within", "1s", "--json"];
        self.json(&[&["lock", "acquire", "models", "--holder", holder], &spans[..]].concat()).await
    }

    /// Runs a script of the guide, whose guarded commits are complete within a second.
    async fn shell(&self, script: &str, variables: &[(&str, &str)]) {
        let program = TidemarkProcess::path().await.expect("it is built").parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell.args(["-e", "-s"]).current_dir(self.path()).envs(&self.environment).env("PATH", &path);
        shell.env("TIDEMARK_COMPLETE_WITHIN", "1s").envs(variables.iter().copied());
        let mut shell = shell.stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let mut input = shell.stdin.take().expect("it is piped");
        input.write_all(script.as_bytes()).await.expect("it reads");
        drop(input);
        let status = timeout(MAX_WAIT, shell.wait()).await.expect("it ends").expect("it runs");
        assert!(status.success(), "{variables:?}: {status}");
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_overtaken_is_fenced_and_shown_with_its_payload() {
    let world = LockWorld::new().await;
    let first = world.acquire("a").await;
    assert_eq!((&first["grant"], &first["holder"], first.get("lastCommit")), (&1.into(), &"a".into(), None));
    let committed = world.append("one", "1").await.expect("it is committed");
    // The first one is held, and waits for nobody once it has expired.
    let second = world.acquire("b").await;
    assert_eq!((&second["grant"], &second["lastCommit"]), (&3.into(), &committed.as_str().into()));
    assert_eq!(world.append("two", "1").await, Err(Some(4)));
    let own = world.append("three", "3").await.expect("it is committed");

    let shown = world.json(&["lock", "show", "models", "--json"]).await;
    assert_eq!(
        (&shown["held"], &shown["holder"], &shown["lastCommit"]),
        (&true.into(), &"b".into(), &own.as_str().into())
    );
    let fenced = &shown["fenced"][0];
    assert_eq!((&fenced["grant"], &fenced["overtakenBy"]), (&1.into(), &3.into()));
    assert!(fenced["payload"].as_str().expect("a text").contains("\"two\""), "{fenced}");
    let text = world.done(&["lock", "show", "models"]).await;
    assert!(text.contains("held by b") && text.contains("\"two\""), "{text}");

    // Who renews or releases a grant that is not the newest is told so.
    for words in [["lock", "renew", "models", "--grant", "1"], ["lock", "release", "models", "--grant", "1"]] {
        assert_eq!(world.run(&words).await.status.code(), Some(4));
    }
    world.done(&["lock", "renew", "models", "--grant", "3"]).await;
    let listed = world.json(&["lock", "list", "--holder", "b", "--json"]).await;
    assert_eq!(listed["lock"], "models");
    assert_eq!(world.done(&["lock", "release", "--holder", "b"]).await, "models");
    assert_eq!(world.done(&["lock", "list", "--holder", "b"]).await, "");
    assert!(world.done(&["lock", "list"]).await.contains("released by b"));

    // Every index says the same.
    let indexer = TidemarkProcess::serving(&["index", "--expiry", "10s"], &world.environment).await.expect("it starts");
    let token = fenced["token"].as_str().expect("a token");
    let is_fenced = |entry: &Value| entry["ops"][0]["outcome"] == "fenced";
    indexer.until_answer(&format!("/v1/entries/{token}"), is_fenced).await;
    let entry = indexer.get(&format!("/v1/entries/{token}")).await.expect("it answers");
    let reason = entry["ops"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("grant 1 of its lock was overtaken by grant 3 before its slot 4"), "{reason}");
    // A search finds it by outcome and lock, and its page shows a person the reason, the payload and what can be done.
    let search = "/v1/search?q=outcome:fenced%20payload.lock.name:models";
    let found =
        indexer.until_answer(search, |found| found["hits"].as_array().is_some_and(|hits| !hits.is_empty())).await;
    let hits = found["hits"].as_array().expect("a list");
    assert_eq!((hits.len(), &hits[0]["token"], &hits[0]["reason"]), (1, &token.into(), &reason.into()), "{found}");
    let page = reqwest::get(format!("{}/entry?token={token}", indexer.url())).await.expect("it answers");
    let page = page.text().await.expect("text");
    for part in [reason, "two", "models", "append it again under a grant that holds"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for token in [committed, own] {
        indexer.until_answer(&format!("/v1/entries/{token}"), |entry| entry["ops"][0]["outcome"] == "committed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_under_the_lock_and_is_ended_when_it_is_lost() {
    let world = LockWorld::new().await;
    let run = |script: &'static str, holder: &'static str| {
        let words =
            ["lock", "run", "models", "--holder", holder, "--ttl", "3s", "--complete-within", "1s", "--", "sh", "-c"];
        let words = [&words[..], &[script]].concat();
        let environment = world.environment.clone();
        async move {
            timeout(MAX_WAIT, TidemarkProcess::ended(&words, &environment)).await.expect("it ends").expect("it runs")
        }
    };
    // Its environment names the lock and the grant.
    let output = run("echo $TIDEMARK_LOCK $TIDEMARK_GRANT; exit 7", "a").await;
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).trim()), (Some(7), "models 1"));
    // It was released.
    let output = run("exit 0", "b").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(world.done(&["lock", "list"]).await.contains("released by b"));
    // A command that ends by a signal.
    assert_eq!(run("kill -9 $$", "c").await.status.code(), Some(137));
    // The lock is lost under it: somebody released it.
    let (lost, ()) = tokio::join!(run("exec sleep 170", "d"), async {
        let held = async || world.json(&["lock", "show", "models", "--json"]).await["holder"] == "d";
        timeout(MAX_WAIT, async { while !held().await {} }).await.expect("it takes the lock");
        world.done(&["lock", "release", "--holder", "d"]).await;
    });
    assert_eq!(lost.status.code(), Some(4), "{lost:?}");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("the lock was lost"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_and_grants_are_refused_before_anything_is_written() {
    let world = LockWorld::new().await;
    let acquire = ["lock", "acquire", "--holder", "a", "../root"];
    let refused = world.run(&acquire).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(world.append("one", "1").await, Err(Some(1)));
    let long = "h".repeat(201);
    for absurd in [
        ["--holder", "a", "--ttl", "169h"],
        ["--holder", "a", "--complete-within", "61m"],
        ["--holder", &long, "--ttl", "1m"],
        ["--holder", "", "--ttl", "1m"],
    ] {
        let refused = world.run(&[&["lock", "acquire", "models"], &absurd[..]].concat()).await;
        assert_eq!(refused.status.code(), Some(2), "{absurd:?}: {refused:?}");
    }
    assert_eq!(world.done(&["lock", "list"]).await, "");
    world.done(&["lock", "acquire", "models", "--holder", "a", "--purpose", "nightly run"]).await;
    assert!(world.done(&["lock", "show", "models"]).await.contains("purpose: nightly run"));
    assert_eq!(world.json(&["lock", "show", "models", "--json"]).await["purpose"], "nightly run");
    let refused = world.run(&["lock", "acquire", "models", "--holder", "b", "--no-wait"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("held by \"a\" under grant 1"), "{refused:?}");
    let log = std::fs::read_dir(world.path().join("log")).expect("a folder");
    let names = log.map(|found| found.expect("an entry").file_name().into_string().expect("text"));
    assert_eq!(names.filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), Vec::<String>::new());
}

/// The first block of `docs/locks.md`, whose third grant this is, without what it says of each command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_with_which_the_guide_begins_runs() {
    let document = include_str!("../../../docs/locks.md");
    let block = document.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let script: Vec<&str> = block.lines().filter_map(|line| line.split("   ").next()).collect();
    assert!(script.len() > 6 && script.iter().all(|line| line.starts_with("tidemark ")), "{script:?}");
    let world = LockWorld::new().await;
    world.done(&["lock", "acquire", "models", "--holder", "before"]).await;
    world.done(&["lock", "release", "models", "--grant", "1"]).await;
    std::fs::write(world.path().join("entries.json"), "{\"note\": \"one\"}").expect("a file can be written");
    let publish = world.path().join("publish.sh");
    std::fs::write(&publish, "#!/bin/sh\necho \"$TIDEMARK_LOCK\" > published\n").expect("a file can be written");
    std::fs::set_permissions(&publish, std::fs::Permissions::from_mode(0o755)).expect("it is made a program");
    world.shell(&script.join("\n"), &[]).await;
    let published = std::fs::read_to_string(world.path().join("published")).expect("it ran");
    assert_eq!(published.trim(), "models");
    let shown = world.json(&["lock", "show", "models", "--json"]).await;
    assert!(shown["holder"] == "trainer-7" && shown["held"] == false && shown["lastCommit"].is_string(), "{shown}");
}

/// The recipe of `docs/locks.md`, by several programs at once, each of which asks another search service: nobody's number is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recipe_counts_with_several_holders() {
    let document = include_str!("../../../docs/locks.md");
    let recipe = document.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a recipe");
    let world = LockWorld::new().await;
    let indexer = TidemarkProcess::serving(&["index", "--expiry", "10s"], &world.environment).await.expect("it starts");
    // Read replicas, which see what is new every few seconds: none may answer from before the last commit.
    let replica = async || {
        let replica = TidemarkProcess::serving(&["serve"], &world.environment).await.expect("it starts");
        replica.until_answer("/v1/status", |status| status["manifest"].as_u64() > Some(0)).await;
        replica
    };
    let (first, second) = (replica().await, replica().await);
    let count = |holder, service| {
        let variables = [("HOLDER", holder), ("SEARCH", service)];
        let world = &world;
        async move { world.shell(recipe, &variables).await }
    };
    tokio::join!(count("a", first.url()), count("b", second.url()), count("c", first.url()), count("d", indexer.url()));
    let last = world.json(&["lock", "show", "counter", "--json"]).await["lastCommit"].clone();
    let last = last.as_str().expect("a token");
    for service in [&indexer, &first, &second] {
        let entry = service.get(&format!("/v1/entries/{last}?min_token={last}&wait=20")).await.expect("it answers");
        assert_eq!(entry["payload"]["attributes"]["count"], 4, "{entry}");
    }
}
