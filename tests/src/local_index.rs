//! An index of a log in an S3 server in this process, and the program at work on it.

use std::{collections::BTreeMap, process::Output, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;
use tidemark_catalog::{ConsumerChain, Generation, IndexChain, RootChain};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{Log, Token};

use crate::{S3Server, TidemarkProcess, stores};

/// What is asked of an index, to compare its answers with those of another one, or with earlier ones.
const QUERIES: [&str; 5] = [
    "/v1/search?q=&size=100",
    "/v1/search?q=outcome:aborted&facets=repo",
    "/v1/search?q=outcome:committed&facets=repo,kind",
    "/v1/search?q=message:m&sort=oldest&size=50",
    "/v1/entities/bundle%2Frepo%2Fb7",
];
/// The parts of an answer that do not change with the manifest.
const PARTS: [&str; 3] = ["hits", "total", "facets"];

/// A log in the buckets `log` and `meta`, and one of its indexes.
pub struct LocalIndex {
    /// The server of all of them.
    pub server: Arc<S3Server>,
    /// The variables by which the program finds them.
    pub environment: BTreeMap<String, String>,
    entropy: Entropy,
    url: String,
}

impl LocalIndex {
    /// A log without entries; its index is to be in the bucket `index`.
    pub fn new() -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let (environment, url) = (server.index_environment(), "s3://index".to_owned());
        Ok(Self { server: Arc::new(server), environment, entropy: Entropy::seeded(1), url })
    }

    /// Another index of the same log, in a bucket of its own.
    pub fn beside(&self, bucket: &str) -> Self {
        self.server.create_bucket(bucket);
        let url = format!("s3://{bucket}");
        let mut environment = self.environment.clone();
        environment.insert("TIDEMARK_INDEX".to_owned(), url.clone());
        Self { server: self.server.clone(), environment, entropy: Entropy::seeded(2), url }
    }

    /// Appends an entry `ago` seconds before the store's present, with the bundle that it names.
    pub fn bundle(&self, ago: u64, id: &str) -> Token {
        let (at, path) = (self.ago(ago), format!("bundles/repo/{id}/bundle.yaml"));
        self.server.insert_at("meta", &path, format!("id: {id}\nmessage: m\n"), at);
        self.entry_at(at, path)
    }

    /// Appends an entry `ago` seconds before the store's present.
    pub fn entry(&self, ago: u64, body: String) -> Token {
        self.entry_at(self.ago(ago), body)
    }

    fn entry_at(&self, at: StoreSecond, body: String) -> Token {
        let token = Token::new(at, &self.entropy);
        self.server.insert_at("log", &token.to_string(), body, at);
        token
    }

    /// A second `ago` before the store's present.
    pub fn ago(&self, ago: u64) -> StoreSecond {
        self.server.clock().second().before(Duration::from_secs(ago))
    }

    /// A consumer of it, of the log that its root names.
    pub async fn consumer(&self, name: &str) -> anyhow::Result<ConsumerChain> {
        let root = self.root().state().await?;
        let log = root.id.context("the log has an id")?;
        let index = stores::open(&self.url, &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(7));
        let id = chain.latest().await?.and_then(|latest| latest.state.id).context("the index has an id")?;
        Ok(ConsumerChain::open(&index, &log, &id, &name.parse()?, Entropy::seeded(7)))
    }

    /// The log's root.
    pub fn root(&self) -> RootChain {
        let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &self.environment);
        RootChain::open(&Log::over(open("log"), vec![open("meta")]), Entropy::seeded(6))
    }

    /// An indexer of it.
    pub async fn indexer(&self, more: &[&str]) -> anyhow::Result<TidemarkProcess> {
        TidemarkProcess::serving(&[&["index"], more].concat(), &self.environment).await
    }

    /// Waits until the audit of the `indexer` of the first generation has had its last look at what lies below `second`.
    pub async fn until_audited(&self, indexer: &TidemarkProcess, second: StoreSecond) {
        let index = stores::open(&self.url, &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5));
        let audited = async || match chain.latest().await {
            Ok(Some(latest)) if latest.state.audited >= second => Ok(()),
            Ok(latest) => Err(format!("{:?}", latest.map(|latest| latest.state.audited))),
            Err(error) => Err(error.to_string()),
        };
        indexer.until("audited", audited).await;
    }

    /// Runs a command on it to its end.
    pub async fn run(&self, command: &str, more: &[&str]) -> anyhow::Result<Output> {
        TidemarkProcess::ended(&[&[command], more].concat(), &self.environment).await
    }

    /// The line of JSON that a command prints, which has to succeed.
    pub async fn done(&self, command: &str, more: &[&str]) -> anyhow::Result<Value> {
        let output = self.run(command, &[more, &["--json"]].concat()).await?;
        ensure!(output.status.success(), "{command} {more:?}: {output:?}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{command} prints JSON"))
    }

    /// What an indexer of it answers to some queries, by query, without what changes with the manifest.
    pub async fn answers(indexer: &TidemarkProcess) -> anyhow::Result<BTreeMap<&'static str, Value>> {
        let mut answers = BTreeMap::new();
        for query in QUERIES {
            let answer = indexer.get(query).await?;
            answers.insert(query, PARTS.iter().map(|part| (*part, answer[part].clone())).collect());
        }
        Ok(answers)
    }
}
