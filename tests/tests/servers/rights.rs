//! The policies of `examples/aws-rights/`: each part of a WAL works with its own on a real S3 server, and none can do what it should not.

use std::{collections::BTreeMap, process::Output};

use anyhow::Context as _;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, Manifest, RootChain};
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_store::{Create, Entropy, StoreClock, UserMetadata};
use tidemark_tests::{MinioServer, TidemarkProcess, root, stores};
use tidemark_wal::{Log, Token};

/// The buckets of the policies.
const BUCKETS: [&str; 4] = ["example-wal", "example-meta", "example-vmeta", "example-idx"];
/// How many entries the log gets.
const ENTRIES: u64 = 6;

type Environment = BTreeMap<String, String>;

struct GuardedWal {
    server: MinioServer,
    scratch: tempfile::TempDir,
}

impl GuardedWal {
    async fn new() -> Self {
        let server = MinioServer::start().await.expect("minio starts");
        for bucket in BUCKETS {
            server.create_bucket(bucket).await.expect("it is created");
        }
        Self { server, scratch: tempfile::tempdir().expect("a folder") }
    }

    /// The places of the policies, with these credentials.
    fn environment(&self, credentials: Environment) -> Environment {
        let own = [
            ("TIDEMARK_LOG", "s3://example-wal/orders"),
            ("TIDEMARK_METADATA", "s3://example-meta,s3://example-vmeta"),
            ("TIDEMARK_INDEX", "s3://example-idx/orders"),
            ("TIDEMARK_EXPIRY", "1s"),
            ("TIDEMARK_REQUEST_TIMEOUT", "1s"),
            ("TIDEMARK_VISIBILITY_DELAY", "0s"),
            // What is appended is settled at once.
            ("TIDEMARK_AUDIT_WINDOW", "1s"),
            ("TIDEMARK_LISTEN", "127.0.0.1:0"),
        ];
        let result = [("TIDEMARK_RESULT_FILE".to_owned(), self.result_file())];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        credentials.into_iter().chain(own).chain(result).collect()
    }

    fn result_file(&self) -> String {
        self.scratch.path().join("result.json").display().to_string()
    }

    /// Credentials that may do what the policy of this part allows, and nothing else: the server gives them out for an hour.
    async fn guarded(&self, part: &str) -> Environment {
        let policy =
            std::fs::read_to_string(root().join(format!("examples/aws-rights/{part}.json"))).expect("a policy");
        let policy: Value = serde_json::from_str(&policy).expect("JSON");
        let credentials =
            assume_role(&self.server, &policy.to_string()).await.expect("the server gives credentials out");
        self.environment(credentials)
    }

    async fn run(&self, environment: &Environment, words: &[&str]) -> Output {
        TidemarkProcess::ended(words, environment).await.expect("it ends")
    }

    /// A command that succeeds.
    async fn done(&self, environment: &Environment, words: &[&str]) -> String {
        let output = self.run(environment, words).await;
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {said}\n{error}");
        said.into_owned()
    }

    fn result(&self) -> TaskResult {
        TaskResult::from_json(&std::fs::read_to_string(self.result_file()).expect("it is written")).expect("a result")
    }
}

/// The answer of `AssumeRole` as variables, for a policy that the credentials are bound by.
async fn assume_role(server: &MinioServer, policy: &str) -> anyhow::Result<Environment> {
    let own = server.environment();
    let user = format!("{}:{}", own["AWS_ACCESS_KEY_ID"], own["AWS_SECRET_ACCESS_KEY"]);
    let mut curl = tokio::process::Command::new("curl");
    curl.args([
        "--silent",
        "--fail-with-body",
        "--noproxy",
        "*",
        "--aws-sigv4",
        "aws:amz:us-east-1:sts",
        "--user",
        &user,
    ]);
    for (name, value) in
        [("Action", "AssumeRole"), ("Version", "2011-06-15"), ("DurationSeconds", "3600"), ("Policy", policy)]
    {
        curl.args(["--data-urlencode", &format!("{name}={value}")]);
    }
    let answer = curl.arg(server.endpoint()).output().await?;
    let text = String::from_utf8(answer.stdout)?;
    anyhow::ensure!(answer.status.success(), "{text}");
    let part = |name: &str| {
        let rest = text.split_once(&format!("<{name}>")).with_context(|| format!("no {name}: {text}"))?.1;
        anyhow::Ok(rest.split('<').next().unwrap_or_default().to_owned())
    };
    let credentials = [
        ("AWS_ACCESS_KEY_ID", part("AccessKeyId")?),
        ("AWS_SECRET_ACCESS_KEY", part("SecretAccessKey")?),
        ("AWS_SESSION_TOKEN", part("SessionToken")?),
    ];
    Ok(own.into_iter().chain(credentials.map(|(name, value)| (name.to_owned(), value))).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_works_with_its_own_policy_and_cannot_do_more() {
    let wal = GuardedWal::new().await;
    let all = wal.environment(wal.server.environment());
    let [indexing, searching, working, cleaning] = [
        wal.guarded("indexer").await,
        wal.guarded("search").await,
        wal.guarded("jobs").await,
        wal.guarded("cleanup").await,
    ];
    let log = stores::open("s3://example-wal/orders", &all);
    let indexer = TidemarkProcess::serving(&["index"], &indexing).await.expect("it starts");
    let entropy = Entropy::seeded(3);
    let now = StoreClock::new([&log], "writer").probe().await.expect("the clock is read").now;
    let mut keys = Vec::new();
    for number in 0..ENTRIES {
        let key = Token::new(now, &entropy).to_string();
        let created = log.create(&key, format!("number {number}").into(), &UserMetadata::new()).await;
        assert!(matches!(created, Create::Committed), "{created:?}");
        keys.push(key);
    }
    let sealed = |answer: &Value| answer["total"].as_u64() == Some(ENTRIES);
    indexer.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
    let search = TidemarkProcess::serving(&["serve"], &searching).await.expect("it starts");
    search.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;

    // An audit may have come before it, and then it has archived them.
    let first: Value = serde_json::from_str(&wal.done(&working, &["snapshot", "--json"]).await).expect("JSON");
    for words in [
        &["gc"][..],
        &["verify", "--restore-drill"],
        &["reindex"],
        &["restore", "--latest"],
        &["promote"],
        &["snapshots"],
    ] {
        wal.done(&working, words).await;
    }

    assert!(indexer.stop().await.expect("it ends").success());
    audit(&all).await;
    let made: Value = serde_json::from_str(&wal.done(&working, &["snapshot", "--json"]).await).expect("JSON");
    let archived = [&first, &made].iter().filter_map(|made| made["archived"].as_u64()).sum::<u64>();
    assert_eq!(archived, ENTRIES, "{first} {made}");
    wal.done(&working, &["verify", "--all", "--restore-drill"]).await;

    // What the jobs may not: delete from the log. Nothing is lost, and the result says why.
    let refused = wal.run(&working, &["cleanup", "--min-age", "1s"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let result = wal.result();
    assert_eq!((result.state, result.reason), (TaskState::Failed, Some(Reason::DeletionRefused)), "{result:?}");
    assert!(result.message.contains("allow them to delete"), "{}", result.message);
    for key in &keys {
        assert!(log.head(key).await.expect("it answers").is_some(), "{key}");
    }
    let denied = |environment: &Environment, url: &str| stores::open(url, environment);
    let none = UserMetadata::new();
    for (part, environment, url) in [
        ("search", &searching, "s3://example-wal/orders/.tidemark"),
        ("search", &searching, "s3://example-idx/orders"),
        ("indexer", &indexing, "s3://example-wal/orders"),
        ("indexer", &indexing, "s3://example-idx/orders/archive"),
        ("jobs", &working, "s3://example-wal/orders"),
        ("jobs", &working, "s3://example-meta"),
        ("cleanup", &cleaning, "s3://example-wal/orders"),
        ("cleanup", &cleaning, "s3://example-idx/orders/archive"),
    ] {
        let written = denied(environment, url).create("a-stranger", "x".into(), &none).await;
        assert!(!matches!(written, Create::Committed), "{part} writes to {url}");
    }
    for (part, environment) in [("search", &searching), ("indexer", &indexing), ("jobs", &working)] {
        let deleted = denied(environment, "s3://example-wal/orders").delete(&keys).await;
        assert!(deleted.is_err(), "{part} deletes from the log");
    }
    let root_records: Vec<_> = keys_below(&log, ".tidemark/root/").await;
    assert!(denied(&cleaning, "s3://example-wal/orders").delete(&root_records).await.is_err(), "the log's root stays");
    assert!(!root_records.is_empty());
    assert_eq!(keys_below(&log, ".tidemark/root/").await, root_records);

    // Cleanup alone may.
    wal.done(&cleaning, &["cleanup", "--min-age", "1s"]).await;
    assert_eq!((wal.result().state, wal.result().figures.deleted_entries), (TaskState::Succeeded, Some(ENTRIES)));
    for key in &keys {
        assert!(log.head(key).await.expect("it answers").is_none(), "{key}");
    }
    search.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
    assert!(search.stop().await.expect("it ends").success());
}

/// What the indexer does within the hour: the audit leaves everything behind, and the root says so.
async fn audit(all: &Environment) {
    let index = stores::open("s3://example-idx/orders", all);
    let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5)).follow().await.expect("an index");
    let step =
        |manifest: Option<&Manifest>| Ok(manifest.map(|now| Manifest { audited: now.cursor.second(), ..now.clone() }));
    chain.chain().append(None, step).await.expect("it is published");
    let latest = chain.latest().await.expect("it is read").expect("a manifest").state;
    let metadata = ["s3://example-meta", "s3://example-vmeta"].map(|url| stores::open(url, all));
    let log = Log::over(stores::open("s3://example-wal/orders", all), metadata.to_vec());
    let root = RootChain::open(&log, Entropy::seeded(6));
    root.keep("s3://example-idx/orders", chain.generation(), latest.cursor).await.expect("it is recorded");
}

async fn keys_below(store: &tidemark_store::Store, prefix: &str) -> Vec<String> {
    use futures::TryStreamExt as _;
    store.list(prefix, None).map_ok(|object| object.key).try_collect().await.expect("it is listed")
}
