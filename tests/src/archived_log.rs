//! A log that was indexed and archived, by the program itself.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tidemark_catalog::{Generation, IndexChain};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Token;

use crate::{S3Server, TidemarkProcess, stores};

/// From one round to the next: more than the age of what is appended, so that it is new to the index.
const ROUND_INTERVAL: Duration = Duration::from_hours(60);
/// How old entries are when they are indexed: older than the audit window.
const ENTRY_AGE: Duration = Duration::from_hours(30);
/// Between two entries.
const ENTRY_INTERVAL: Duration = Duration::from_mins(1);
/// Entries of a round.
const ROUND_ENTRIES: u32 = 48;

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

    /// A log after so many rounds.
    pub async fn after_rounds(rounds: u64) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let environment = server.index_environment();
        let log = Self { server, environment, entropy: Entropy::seeded(11) };
        for _ in 0..rounds {
            log.server.clock().advance(ROUND_INTERVAL);
            log.append();
            log.index().await?;
            TidemarkProcess::output(&["snapshot"], &log.environment).await?;
        }
        Ok(log)
    }

    /// The second of the first entry of the last round.
    pub fn last_round(&self) -> StoreSecond {
        self.server.clock().second().before(ENTRY_AGE)
    }

    /// Bundles, every other one without its descriptor, groups with attributes, plain texts, and entries that nobody can read.
    fn append(&self) {
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
        let index = stores::open("s3://index", &self.environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(5));
        let end = self.last_round().after(ENTRY_INTERVAL * ROUND_ENTRIES);
        indexer
            .until("audited", async || match chain.latest().await {
                Ok(Some(latest)) if latest.state.audited >= end => Ok(()),
                Ok(latest) => Err(format!("{:?}", latest.map(|latest| latest.state.audited))),
                Err(error) => Err(error.to_string()),
            })
            .await;
        anyhow::ensure!(indexer.stop().await?.success(), "the indexer ends well");
        Ok(())
    }
}
