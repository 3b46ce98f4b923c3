//! A log that was indexed and archived, by the program itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tidemark_catalog::{Generation, IndexChain, Manifest, RootChain, WriterIdentity};
use tidemark_ingest::{IngestOptions, IngestStatus, LogIngester};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::{Log, Token};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{S3Server, TidemarkProcess, stores};

/// From one round to the next: more than the age of what is appended, so that it is new to the index.
const ROUND_INTERVAL: Duration = Duration::from_hours(60);
/// How old entries are when they are indexed: older than the audit window.
const ENTRY_AGE: Duration = Duration::from_hours(30);
/// Between two entries.
const ENTRY_INTERVAL: Duration = Duration::from_mins(1);
/// Entries of a round.
const ROUND_ENTRIES: u32 = 48;
/// A round that is indexed in small batches has a publication after so many records.
const BATCH_RECORDS: u64 = 6;
/// The most records of such a batch: its last entry may be of two operations. A segment with more is not one of those.
const MAX_BATCH_RECORDS: u64 = BATCH_RECORDS + 1;
/// So many segments of such batches are compacted into one.
const COMPACTION_FAN_IN: usize = 8;
/// How long the index may take to become as it is wanted.
const INDEX_TIMEOUT: Duration = Duration::from_mins(3);
/// How often it is looked at.
const INDEX_INTERVAL: Duration = Duration::from_millis(100);

/// A log in the buckets `log` and `meta` of an S3 server in this process, with its index and its archive in `index`. Each round appends entries
/// that are older than the audit window, indexes them, and makes a snapshot; the server's clock goes ahead of the machine's.
pub struct ArchivedLog {
    /// The server.
    pub server: S3Server,
    /// The variables by which the program finds it.
    pub environment: BTreeMap<String, String>,
    entropy: Entropy,
}

impl ArchivedLog {
    /// How many operations a round appends: every fourth entry has two.
    pub const ROUND_OPERATIONS: u64 = 60;
    /// The rounds of [`Self::after_a_restore`] before the restore.
    pub const ROUNDS_BEFORE_RESTORE: u64 = 3;
    /// All rounds of [`Self::after_a_restore`].
    pub const RESTORED_ROUNDS: u64 = 5;

    /// A log after so many rounds.
    pub async fn after_rounds(rounds: u64) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let environment = server.index_environment();
        let log = Self { server, environment, entropy: Entropy::seeded(11) };
        for _ in 0..rounds {
            log.round().await?;
        }
        Ok(log)
    }

    /// A log after five rounds, whose index was compacted in the second and in the third one, then restored and promoted.
    pub async fn after_a_restore() -> anyhow::Result<Self> {
        let log = Self::after_rounds(1).await?;
        for _ in 1..Self::ROUNDS_BEFORE_RESTORE {
            log.append();
            log.index_in_batches().await?;
            log.snapshot().await?;
        }
        let segments = log.latest().await?.context("there is a manifest")?.segments;
        // The segment of the first round, and what each of two compactions made.
        let large: Vec<u64> = segments.iter().map(|one| one.documents).filter(|one| *one > MAX_BATCH_RECORDS).collect();
        ensure!(large.len() == 3, "the index was to have two compacted segments; segments have {large:?} records");
        for command in [&["restore", "--latest"][..], &["promote"]] {
            TidemarkProcess::output(command, &log.environment).await?;
        }
        for _ in Self::ROUNDS_BEFORE_RESTORE..Self::RESTORED_ROUNDS {
            log.round().await?;
        }
        Ok(log)
    }

    /// The second of the first entry of the last round.
    pub fn last_round(&self) -> StoreSecond {
        self.server.clock().second().before(ENTRY_AGE)
    }

    /// The second after the last entry of the last round.
    fn round_end(&self) -> StoreSecond {
        self.last_round().after(ENTRY_INTERVAL * ROUND_ENTRIES)
    }

    async fn round(&self) -> anyhow::Result<()> {
        self.append();
        self.index().await?;
        self.snapshot().await
    }

    /// Bundles, every other one without its descriptor, groups with attributes, plain texts, and entries that nobody can read.
    fn append(&self) {
        self.server.clock().advance(ROUND_INTERVAL);
        let begin = self.last_round();
        for number in 0..ROUND_ENTRIES {
            let at = begin.after(ENTRY_INTERVAL * number);
            let token = Token::new(at, &self.entropy);
            let path = format!("bundles/repo-{}/{token}/bundle.yaml", number % 3);
            let body = match number % 4 {
                0 => path.clone(),
                1 => {
                    let attributes = json!({ "team": format!("team-{}", number % 5) });
                    json!({ "tidemark": 1, "ops": [{ "attributes": attributes }, { "attributes": {} }] }).to_string()
                }
                2 => format!("a plain text, number {number}"),
                _ => "\u{1}not an intent".to_owned(),
            };
            if number % 8 == 0 {
                let bundle = format!("id: {token}\nmessage: number {number}\ncount: {number}\nleafSize: 2097152\n");
                self.server.insert_at("meta", &path, bundle, at.next());
            }
            self.server.insert_at("log", &token.to_string(), body, at);
        }
    }

    /// Runs an indexer until the audit has had its last look at what was appended.
    async fn index(&self) -> anyhow::Result<()> {
        let indexer = TidemarkProcess::serving(&["index"], &self.environment).await?;
        let end = self.round_end();
        indexer
            .until("audited", async || match self.latest().await {
                Ok(Some(latest)) if latest.audited >= end => Ok(()),
                Ok(latest) => Err(format!("{:?}", latest.map(|latest| latest.audited))),
                Err(error) => Err(error.to_string()),
            })
            .await;
        ensure!(indexer.stop().await?.success(), "the indexer ends well");
        Ok(())
    }

    /// Indexes in this process what was appended, with a publication after every few entries, until the audit has had its last look at all
    /// of it and what is to be compacted is. The program publishes so little at a time only if it comes so little at a time.
    async fn index_in_batches(&self) -> anyhow::Result<()> {
        let cache = tempfile::tempdir()?;
        let log = Log::over(self.open("log"), vec![self.open("meta")]);
        let root = RootChain::open(&log, self.entropy.clone());
        let chain = self.chain().await?.for_log(&root);
        let engine = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 30 };
        let ingester = LogIngester {
            clock: StoreClock::new(log.stores(), &self.entropy.nonce()),
            engine: Arc::new(TantivyEngine::open(chain.index().clone(), &engine)?),
            chain: chain.clone(),
            identity: WriterIdentity(self.entropy.nonce()),
            options: IngestOptions { chunk: 1, batch_records: BATCH_RECORDS, ..IngestOptions::default() },
            entropy: self.entropy.clone(),
            status: watch::channel(IngestStatus::default()).0,
            root,
            log,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(Box::pin(ingester.run(stop.clone())));
        let (end, give_up) = (self.round_end(), Instant::now() + INDEX_TIMEOUT);
        loop {
            let latest = chain.latest().await?.context("there is a manifest")?.state;
            let small = latest.segments.iter().filter(|segment| segment.documents <= MAX_BATCH_RECORDS).count();
            if latest.audited >= end && small < COMPACTION_FAN_IN {
                break;
            }
            if running.is_finished() {
                running.await??;
                bail!("the indexer ended by itself");
            }
            ensure!(Instant::now() < give_up, "audited up to {}, with {small} small segments", latest.audited);
            tokio::time::sleep(INDEX_INTERVAL).await;
        }
        stop.cancel();
        running.await??;
        Ok(())
    }

    async fn snapshot(&self) -> anyhow::Result<()> {
        TidemarkProcess::output(&["snapshot"], &self.environment).await?;
        Ok(())
    }

    /// The chain of the generation that is open.
    async fn chain(&self) -> anyhow::Result<IndexChain> {
        let chain = IndexChain::open(&self.open("index"), Generation::first(), self.entropy.clone());
        Ok(chain.follow().await?)
    }

    /// The latest manifest of the generation that is open.
    async fn latest(&self) -> anyhow::Result<Option<Manifest>> {
        Ok(self.chain().await?.latest().await?.map(|latest| latest.state))
    }

    fn open(&self, bucket: &str) -> Store {
        stores::open(&format!("s3://{bucket}"), &self.environment)
    }
}
