//! A log of the cluster, written and read from outside, and its comparison with what search finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use futures::TryStreamExt as _;
use serde_json::Value;
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{DraftOperation, EntryDraft, ListedEntry, Log, LogReader, LogWriter, LogWriterOptions, Token};

use super::until;
use crate::stores;

/// How long a log may take to get its parameters from its first indexer.
const PATIENCE: Duration = Duration::from_mins(4);
/// Hits of one page.
const PAGE: &str = "500";

/// A log as a client on this machine reaches it. Cheap to clone.
#[derive(Clone)]
pub struct LogOutside {
    log: Log,
    root: Arc<RootChain>,
    entropy: Entropy,
}

/// All that search finds: by token and operation, whether it is sealed, as often as it is found.
pub struct FoundEntries {
    hits: BTreeMap<(Token, u64), Vec<bool>>,
    total: u64,
}

/// What search and log disagree about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogComparison {
    /// Entries of the log that search does not find.
    pub missing: Vec<Token>,
    /// Operations that search finds more than once.
    pub doubled: Vec<(Token, u64)>,
    /// What search finds and the log does not hold.
    pub invented: Vec<Token>,
    /// What `total` says beyond the hits.
    pub uncounted: i64,
}

impl LogOutside {
    /// Opens a log under the environment variables of its store.
    pub fn open(log: &str, metadata: &[String], environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let metadata = metadata.iter().map(|url| stores::open(url, environment)).collect();
        let (log, entropy) = (Log::over(stores::open(log, environment), metadata), Entropy::from_os());
        let root = Arc::new(RootChain::open(&log, entropy.clone()));
        Ok(Self { log, root, entropy })
    }

    /// A writer, as soon as the log has parameters.
    pub async fn writer(&self, name: &str) -> anyhow::Result<LogWriter> {
        until("the log has parameters", PATIENCE, async || self.root.parameters().await.ok().flatten()).await;
        Ok(LogWriter::open(self.log.clone(), self.root.clone(), LogWriterOptions::named(name), self.entropy.clone())
            .await?)
    }

    /// Appends one bundle of the repository `repo` with a message, and gives its entry's token.
    pub async fn append(&self, writer: &LogWriter, repo: &str, message: &str) -> anyhow::Result<Token> {
        let id = self.entropy.nonce();
        let body = Bytes::from(format!("id: {id}\nmessage: {message}\n"));
        let bundle = DraftOperation::Descriptor { path: format!("bundles/{repo}/{id}/bundle.yaml"), body };
        Ok(writer.append(EntryDraft { ops: vec![bundle], ..EntryDraft::default() }).await?.token)
    }

    /// Appends every `every` until the task is aborted: a failed append is not an entry that must be found, but may be.
    /// The task never ends by itself.
    pub fn append_forever(&self, writer: LogWriter, repo: &str, every: Duration) -> tokio::task::JoinHandle<()> {
        let (log, repo) = (self.clone(), repo.to_owned());
        tokio::spawn(async move {
            for number in 0u64.. {
                let _ = log.append(&writer, &repo, &format!("update {number}")).await;
                tokio::time::sleep(every).await;
            }
        })
    }

    /// The tokens of all entries.
    pub async fn entries(&self) -> anyhow::Result<BTreeSet<Token>> {
        let reader = LogReader::new(&self.log);
        let listed: Vec<ListedEntry> =
            reader.list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await?;
        Ok(listed.iter().map(|listed| listed.token).collect())
    }
}

/// All that a search service finds, oldest first, page by page: pages of one moment may lie before or after a publication.
pub async fn found_by(http: &reqwest::Client, url: &str) -> anyhow::Result<FoundEntries> {
    let mut found = FoundEntries { hits: BTreeMap::new(), total: 0 };
    let mut cursor = String::new();
    loop {
        let mut parameters = vec![("size", PAGE), ("sort", "oldest")];
        if !cursor.is_empty() {
            parameters.push(("cursor", &cursor));
        }
        let page = reqwest::Url::parse_with_params(&format!("{url}/v1/search"), parameters)?;
        let answer = http.get(page).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status}: {text}");
        let answer: Value = serde_json::from_str(&text)?;
        for hit in answer["hits"].as_array().into_iter().flatten() {
            let token = hit["token"].as_str().unwrap_or_default().parse()?;
            let sealed = hit["sealed"] == true;
            found.hits.entry((token, hit["op"].as_u64().unwrap_or_default())).or_default().push(sealed);
        }
        found.total = answer["total"].as_u64().unwrap_or_default();
        match answer["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return Ok(found),
        }
    }
}

impl FoundEntries {
    /// Whether all operations of all these entries are found sealed.
    pub fn has_sealed(&self, entries: &BTreeSet<Token>) -> bool {
        let pending: BTreeSet<Token> = self.by(|sealed| !sealed);
        let sealed: BTreeSet<Token> = self.by(|sealed| sealed);
        entries.iter().all(|token| sealed.contains(token) && !pending.contains(token))
    }

    fn by(&self, wanted: impl Fn(bool) -> bool) -> BTreeSet<Token> {
        let hits = self.hits.iter().filter(|(_, sealed)| sealed.iter().any(|sealed| wanted(*sealed)));
        hits.map(|((token, _), _)| *token).collect()
    }

    /// Compares with what the log holds `now`; what it held `before` the search must be found.
    pub fn compared_with(&self, now: &BTreeSet<Token>, before: &BTreeSet<Token>) -> LogComparison {
        let found: BTreeSet<Token> = self.hits.keys().map(|(token, _)| *token).collect();
        let doubled = self.hits.iter().filter(|(_, sealed)| sealed.len() > 1).map(|(key, _)| *key).collect();
        let hits: usize = self.hits.values().map(Vec::len).sum();
        LogComparison {
            missing: before.difference(&found).copied().collect(),
            doubled,
            invented: found.difference(now).copied().collect(),
            uncounted: i64::try_from(self.total).unwrap_or(i64::MAX) - i64::try_from(hits).unwrap_or(i64::MAX),
        }
    }
}

impl LogComparison {
    /// Panics with what is missing, doubled or invented. What is being appended meanwhile makes `total` differ: that is
    /// shown and not counted as a fault.
    pub fn assert_same(&self) {
        let same = self.missing.is_empty() && self.doubled.is_empty() && self.invented.is_empty();
        assert!(same, "search and log differ: {self:?}");
    }
}
