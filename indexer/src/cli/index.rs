//! `tidemark index`: the writer of an index.

use std::net::SocketAddr;

use clap::Args;
use tidemark_wal::{Log, Store};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{CacheArgs, LogArgs, ParameterArgs},
    output::{print_line, watch_backfill},
    stopping::{ended, stop_on_signal, unless_stopped},
};
use crate::{
    ingest::IngestOptions,
    service::{IndexOptions, IndexService, cache_options},
};

/// Tail a log into an index, until stopped.
///
/// One process writes an index at a time; further ones wait as standbys and take over when the writer has been silent
/// for a minute. Kill it at any moment: the next one goes on where the last manifest ends.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark index --log s3://wal/orders --metadata s3://meta --index s3://idx/orders --expiry 10m \
    --listen 127.0.0.1:7280\n\
    The first indexer of a log records --expiry and the other parameters; a later one that differs is refused, and\n\
    `tidemark log set` changes them. Exit code 4: another process has taken over. Exit code 6: the outcome of a\n\
    write is unknown; start again."
)]
#[expect(clippy::struct_field_names, reason = "a field is called as its flag")]
pub(super) struct Index {
    #[command(flatten)]
    log: LogArgs,
    /// Where the index lives: a bucket, or a prefix of one, apart from the log.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    index: Url,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// Serve search here, too; port 0 takes a free one and prints it.
    #[arg(long, env = "TIDEMARK_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Who owns the index: that of another owner is refused.
    #[arg(long, env = "TIDEMARK_OWNER", value_name = "NAME", default_value = "tidemark")]
    owner: String,
    /// Take the index over from this owner.
    #[arg(long, env = "TIDEMARK_ADOPT_OWNER", value_name = "NAME")]
    adopt_owner: Option<String>,
    /// Name of this process: under the same one it takes over at once when it comes back. No two processes may share it.
    #[arg(long, env = "TIDEMARK_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Do not compact.
    #[arg(long, env = "TIDEMARK_NO_COMPACTION")]
    no_compaction: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

impl Index {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, index, parameters, listen, owner, adopt_owner, identity, no_compaction, cache } = self;
        let (cache, _temporary) = cache_options(cache.cache_dir, cache.cache_mib << 20)?;
        let options = IndexOptions {
            log: Log::open(&log.log, &log.metadata)?,
            index: Store::open(&index)?,
            parameters: Box::new(move |recorded| match recorded {
                Some(recorded) => Some(parameters.over(recorded)),
                None => parameters.complete(),
            }),
            owner,
            adopt: adopt_owner,
            identity,
            listen,
            cache,
            ingest: IngestOptions { compaction: !no_compaction, ..IngestOptions::default() },
        };
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let start = IndexService::start(options, stop.clone());
        let Some(service) = unless_stopped(&stop, Box::pin(start)).await? else { return Ok(()) };
        if let Some(address) = service.address() {
            print_line(&format!("http://{address}/"))?;
        }
        let _progress = watch_backfill(service.status());
        ended(service.run().await)
    }
}
