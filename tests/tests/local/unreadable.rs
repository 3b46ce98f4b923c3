//! `tidemark audit --unreadable`: reads again what an index has as unreadable, says what it is, and writes nothing.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::Value;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{
    S3Server, TidemarkProcess,
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tidemark_wal::Token;

const BUCKETS: [&str; 3] = ["log", "meta", "index"];
const PLACES: [&str; 6] = ["--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://index"];

struct UnreadableWorld {
    server: S3Server,
    environment: BTreeMap<String, String>,
    entropy: Entropy,
}

impl UnreadableWorld {
    fn new() -> Self {
        let server = S3Server::start().expect("it starts");
        for bucket in BUCKETS {
            server.create_bucket(bucket);
        }
        let environment = server.environment();
        Self { server, environment, entropy: Entropy::seeded(1) }
    }

    /// Puts an entry `ago` seconds before the store's present.
    fn entry(&self, ago: u64, body: impl Into<String>) -> Token {
        let at = self.ago(ago);
        let token = Token::new(at, &self.entropy);
        self.server.insert_at("log", &token.to_string(), body.into(), at);
        token
    }

    /// An entry with the bundle that it names.
    fn bundle(&self, ago: u64, id: &str) -> Token {
        let path = format!("bundles/repo/{id}/bundle.yaml");
        self.server.insert_at("meta", &path, format!("id: {id}\nmessage: m\n"), self.ago(ago));
        self.entry(ago, path)
    }

    fn ago(&self, ago: u64) -> StoreSecond {
        self.server.clock().second().before(Duration::from_secs(ago))
    }

    fn keys(&self) -> [Vec<String>; 3] {
        BUCKETS.map(|bucket| self.server.keys(bucket))
    }

    /// Runs an indexer until it has published what `wanted` says of the outcomes.
    async fn index(&self, wanted: impl Fn(&Value) -> bool) {
        let serving =
            ["--expiry", "1s", "--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"];
        let words = [&["index"], &PLACES[..], &serving].concat();
        let indexer = TidemarkProcess::serving(&words, &self.environment).await.expect("it starts");
        indexer.until_answer("/v1/status", |status| wanted(&status["entries"])).await;
        assert!(indexer.stop().await.expect("it ends").success());
    }

    async fn audit(&self, more: &[&str]) -> Output {
        let words = [&["audit"], &PLACES[..], more].concat();
        TidemarkProcess::ended(&words, &self.environment).await.expect("it ends")
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn keyed(entity: &str) -> String {
    format!(
        r#"{{"tidemark": 1, "writer": "w", "idempotencyKey": "k", "ops": [{{"attributes": {{"entity": "{entity}"}}}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_unreadable_is_read_again_and_reported() {
    let world = UnreadableWorld::new();
    world.entry(610, keyed("first"));
    let [first, second] = [600, 590].map(|ago| world.bundle(ago, &format!("b{ago}")));
    let repeated = world.entry(580, keyed("again"));
    for number in 0..30 {
        world.bundle(500 - number, &format!("c{number}"));
    }
    let hidden = |token: Token| {
        let get = FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Get);
        world.server.inject(get.key(&format!("log/{token}")))
    };
    let rules = [first, second, repeated].map(hidden);
    world.index(|entries| entries["unreadable"] == 3 && entries["committed"] == 31).await;
    let before = world.keys();

    let all = world.audit(&["--unreadable", "--json"]).await;
    assert_eq!(all.status.code(), Some(7), "{all:?}");
    assert_eq!(lines(&all).len(), 3);
    assert!(lines(&all).iter().all(|line| line["outcome"] == "unreadable" && line["reason"].is_string()), "{all:?}");
    assert!(String::from_utf8_lossy(&all.stderr).contains("3 of 3 unreadable entries cannot be read"), "{all:?}");

    world.server.lift(rules[0]);
    world.server.lift(rules[2]);
    let some = world.audit(&["--unreadable", "--json"]).await;
    assert_eq!(some.status.code(), Some(7));
    let said: Vec<_> = lines(&some).iter().map(|line| (line["token"].clone(), line["outcome"].clone())).collect();
    let expected = [(first, "committed"), (second, "unreadable"), (repeated, "duplicate")];
    assert_eq!(said, expected.map(|(token, outcome)| (token.to_string().into(), outcome.into())));
    assert_eq!(lines(&some)[0]["descriptor"], "bundles/repo/b600/bundle.yaml");

    world.server.lift(rules[1]);
    let none = world.audit(&["--unreadable"]).await;
    let text = String::from_utf8_lossy(&none.stdout);
    assert!(none.status.success() && text.contains("all 3 entries can be read; the indexer records"), "{none:?}");
    assert_eq!(world.keys(), before, "it writes nothing");

    // The indexer records the same.
    world.index(|entries| entries["unreadable"] == 0 && entries["duplicate"] == 1 && entries["committed"] == 33).await;
    let nothing = world.audit(&["--unreadable"]).await;
    assert!(nothing.status.success(), "{nothing:?}");
    assert_eq!(String::from_utf8_lossy(&nothing.stdout), "nothing is recorded as unreadable\n");
    assert_eq!(world.audit(&[]).await.status.code(), Some(2), "there is no audit without a flag");
}
