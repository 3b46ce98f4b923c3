//! A WAL on a real S3 server whose parts work with credentials of their own.

use std::{collections::BTreeMap, process::Output};

use anyhow::Context as _;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, Manifest, RootChain};
use tidemark_crds::TaskResult;
use tidemark_store::{Create, Entropy, StoreClock, UserMetadata};
use tidemark_tests::{MinioServer, TidemarkProcess, root, stores};
use tidemark_wal::{Log, Token};

/// The buckets of the policies.
pub(crate) const BUCKETS: [&str; 4] = ["example-wal", "example-meta", "example-vmeta", "example-idx"];
/// How many entries the log gets.
pub(crate) const ENTRIES: u64 = 6;

pub(crate) type Environment = BTreeMap<String, String>;

/// A WAL whose parts have credentials of their own.
pub(crate) struct GuardedWal {
    pub(crate) server: MinioServer,
    scratch: tempfile::TempDir,
}

impl GuardedWal {
    pub(crate) async fn new() -> Self {
        Self::with_locked(&[]).await
    }

    /// What is written to these buckets is locked for a day.
    pub(crate) async fn with_locked(locked: &[&str]) -> Self {
        let server = MinioServer::start().await.expect("minio starts");
        for bucket in BUCKETS {
            if locked.contains(&bucket) {
                server.create_locked_bucket(bucket).await.expect("it is created");
            } else {
                server.create_bucket(bucket).await.expect("it is created");
            }
        }
        Self { server, scratch: tempfile::tempdir().expect("a folder") }
    }

    /// Appends entries to the log, indexes them and takes a snapshot, which archives them. Gives their keys.
    pub(crate) async fn archived(&self, all: &Environment) -> Vec<String> {
        let log = stores::open("s3://example-wal/orders", all);
        let indexer = TidemarkProcess::serving(&["index"], all).await.expect("it starts");
        let now = StoreClock::new([&log], "writer").probe().await.expect("the clock is read").now;
        let mut keys = Vec::new();
        for number in 0..ENTRIES {
            let key = Token::new(now, &Entropy::seeded(number)).to_string();
            let created = log.create(&key, format!("number {number}").into(), &UserMetadata::new()).await;
            assert!(matches!(created, Create::Committed), "{created:?}");
            keys.push(key);
        }
        keys.sort();
        let sealed = |answer: &Value| answer["total"].as_u64() == Some(ENTRIES);
        indexer.until_answer("/v1/search?q=&size=0&sealed=true", sealed).await;
        assert!(indexer.stop().await.expect("it ends").success());
        audit(all).await;
        self.done(all, &["snapshot"]).await;
        keys
    }

    /// The places of the policies, with these credentials.
    pub(crate) fn environment(&self, credentials: Environment) -> Environment {
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
    pub(crate) async fn guarded(&self, part: &str) -> Environment {
        self.bound_by(&policy(part)).await
    }

    /// Credentials that may do what this policy allows.
    pub(crate) async fn bound_by(&self, policy: &Value) -> Environment {
        let credentials = assume_role(&self.server, &policy.to_string()).await;
        self.environment(credentials.expect("the server gives credentials out"))
    }

    pub(crate) async fn run(&self, environment: &Environment, words: &[&str]) -> Output {
        TidemarkProcess::ended(words, environment).await.expect("it ends")
    }

    /// A command that succeeds.
    pub(crate) async fn done(&self, environment: &Environment, words: &[&str]) -> String {
        let output = self.run(environment, words).await;
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {said}\n{error}");
        said.into_owned()
    }

    pub(crate) fn result(&self) -> TaskResult {
        TaskResult::from_json(&std::fs::read_to_string(self.result_file()).expect("it is written")).expect("a result")
    }
}

/// The policy of this part.
pub(crate) fn policy(part: &str) -> Value {
    let policy = std::fs::read_to_string(root().join(format!("examples/aws-rights/{part}.json")));
    serde_json::from_str(&policy.expect("a policy")).expect("JSON")
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

/// What the indexer does within the hour: the audit leaves everything behind, and the root says so.
pub(crate) async fn audit(all: &Environment) {
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
