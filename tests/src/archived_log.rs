//! A log that was indexed and archived, by the program itself.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use serde_json::json;
use tidemark_catalog::{Generation, IndexChain, Manifest};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Token;

use crate::{S3Server, TidemarkProcess, stores};

/// From one run of the indexer to the next: more than the age of what is appended, so that it is new to the index.
const RUN_INTERVAL: Duration = Duration::from_hours(60);
/// How old entries are when they are indexed: older than the audit window, so that the audit passes them at once.
const ENTRY_AGE: Duration = Duration::from_hours(30);
/// Between two entries.
const ENTRY_INTERVAL: Duration = Duration::from_mins(1);
/// Entries of a round.
const ROUND_ENTRIES: u32 = 48;
/// A segment of so many records was made by a compaction: a publication of a part has fewer.
const COMPACTED_RECORDS: u64 = 64;
/// So many segments of less are compacted.
const COMPACTION_FAN_IN: usize = 8;

/// A log in the buckets `log` and `meta` of an S3 server in this process, with its index and its archive in `index`. Each round appends entries
/// that are older than the audit window, indexes them, and makes a snapshot; the server's clock goes ahead of the machine's.
pub struct ArchivedLog {
    /// The server.
    pub server: S3Server,
    /// The variables by which the program finds it.
    pub environment: BTreeMap<String, String>,
    /// The second of the first entry that was appended last.
    pub last_round: StoreSecond,
    entropy: Entropy,
}

impl ArchivedLog {
    /// How many operations a round appends: every fourth entry has two.
    pub const ROUND_OPERATIONS: u64 = 60;
    /// The rounds of [`Self::after_a_restore`].
    pub const RESTORED_ROUNDS: u64 = 5;

    /// A log after so many rounds, each of one publication.
    pub async fn after_rounds(rounds: u64) -> anyhow::Result<Self> {
        let mut log = Self::empty()?;
        for _ in 0..rounds {
            log.round(1).await?;
        }
        Ok(log)
    }

    /// A log of which the index was compacted twice, then restored and promoted, and goes on: three rounds of six publications each, then two
    /// rounds of one.
    pub async fn after_a_restore() -> anyhow::Result<Self> {
        const PARTS: u32 = 6;
        let mut log = Self::empty()?;
        for _ in 0..3 {
            log.round(PARTS).await?;
        }
        let compacted = log.latest().await?.map_or(0, |manifest| manifest.segments.len() - small_segments(&manifest));
        ensure!(compacted == 2, "the index has {compacted} compacted segments");
        for command in [&["restore", "--latest"][..], &["promote"]] {
            TidemarkProcess::output(command, &log.environment).await?;
        }
        for _ in 3..Self::RESTORED_ROUNDS {
            log.round(1).await?;
        }
        Ok(log)
    }

    fn empty() -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let (environment, last_round) = (server.index_environment(), server.clock().second());
        Ok(Self { server, environment, last_round, entropy: Entropy::seeded(11) })
    }

    /// Appends entries in so many parts, of which a run of the indexer publishes each alone, and makes a snapshot of them.
    async fn round(&mut self, parts: u32) -> anyhow::Result<()> {
        for part in 0..parts {
            self.server.clock().advance(RUN_INTERVAL);
            self.last_round = self.server.clock().second().before(ENTRY_AGE);
            let numbers = part * (ROUND_ENTRIES / parts)..(part + 1) * (ROUND_ENTRIES / parts);
            let end = self.append(numbers, self.last_round);
            let indexer = TidemarkProcess::serving(&["index"], &self.environment).await?;
            self.until(&indexer, "audited and compacted", |manifest| {
                manifest.audited >= end && small_segments(manifest) < COMPACTION_FAN_IN
            })
            .await;
            ensure!(indexer.stop().await?.success(), "the indexer ends well");
        }
        TidemarkProcess::output(&["snapshot"], &self.environment).await?;
        Ok(())
    }

    /// Bundles, every other one without its descriptor, groups with attributes, plain texts, and entries that nobody can read. Gives the
    /// second after the last one.
    fn append(&self, numbers: std::ops::Range<u32>, begin: StoreSecond) -> StoreSecond {
        let mut at = begin;
        for number in numbers {
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
            at = at.after(ENTRY_INTERVAL);
        }
        at
    }

    /// Waits until the index is as it is wanted.
    async fn until(&self, indexer: &TidemarkProcess, what: &str, wanted: impl Fn(&Manifest) -> bool) {
        indexer
            .until(what, async || match self.latest().await {
                Ok(Some(manifest)) if wanted(&manifest) => Ok(()),
                Ok(manifest) => Err(format!(
                    "{:?}",
                    manifest.map(|manifest| (manifest.cursor, manifest.audited, manifest.segments.len()))
                )),
                Err(error) => Err(error.to_string()),
            })
            .await;
    }

    /// The latest manifest of the generation that is open.
    async fn latest(&self) -> anyhow::Result<Option<Manifest>> {
        let index = stores::open("s3://index", &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5)).follow().await?;
        Ok(chain.latest().await?.map(|latest| latest.state))
    }
}

fn small_segments(manifest: &Manifest) -> usize {
    manifest.segments.iter().filter(|segment| segment.documents < COMPACTED_RECORDS).count()
}
