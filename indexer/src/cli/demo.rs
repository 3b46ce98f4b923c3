//! `tidemark demo`: a writer of made-up updates, to see Tidemark at work.

use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{LogArgs, span},
    failure_verdict::ended,
    output::print_line,
    shutdown::stop_on_signal,
};
use crate::demo::{DemoOptions, run};

/// Append the updates of a made-up data catalogue, until stopped.
///
/// Repos, bundles, labels that move on, now and then a diamond, a context, and an update that its client never completes.
/// Waits for the stores to answer, and for the first indexer to set the log's parameters. Prints the token of each entry
/// and what it is. Any number of these may write to one log.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark demo --log s3://wal/demo --metadata s3://meta --metadata s3://vmeta --create-buckets"
)]
pub(super) struct DemoCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Make the buckets of the log and of the metadata if they are missing. For S3.
    #[arg(long, env = "TIDEMARK_CREATE_BUCKETS")]
    create_buckets: bool,
    /// Make this bucket, too, in the log's store. May be given several times.
    #[arg(long, env = "TIDEMARK_BUCKET", value_name = "NAME", value_delimiter = ',', requires = "create_buckets")]
    bucket: Vec<String>,
    /// Time between two entries.
    #[arg(long, env = "TIDEMARK_EVERY", value_name = "SPAN", default_value = "2s", value_parser = span)]
    every: Duration,
    /// End after this many entries.
    #[arg(long, env = "TIDEMARK_COUNT", value_name = "N")]
    count: Option<u64>,
    /// Seed of the workload: the same updates every time, under other names.
    #[arg(long, env = "TIDEMARK_SEED", value_name = "N")]
    seed: Option<u64>,
}

impl DemoCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log: places, create_buckets, bucket, every, count, seed } = self;
        let log = places.open()?;
        let mut buckets = Vec::new();
        if create_buckets {
            buckets.extend(log.stores().cloned());
            for name in &bucket {
                buckets.push(places.settings().beside_log(&beside(&places.log, name)?)?);
            }
        }
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let ended_with = run(DemoOptions { log, buckets, every, count, seed }, &stop, |update| {
            // A reader that closed standard output does not stop the demo.
            let _ = print_line(&format!("{} {}", update.token, update.what));
        });
        ended(ended_with.await)
    }
}

/// The bucket `name` in the store of `log`.
fn beside(log: &Url, name: &str) -> anyhow::Result<Url> {
    Ok(Url::parse(&format!("{}://{name}", log.scheme()))?)
}
