//! `tidemark index`: the writer of an index.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use tidemark_catalog::IndexOwner;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{BootstrapArgs, CacheArgs, LogArgs, MovedArgs, ParameterArgs, StartupArgs},
    failure_verdict::ended,
    output::{print_line, watch_backfill},
    shutdown::{stop_on_signal, unless_stopped},
};
use crate::service::{
    AccessMode, ColdStartOptions, IndexOptions, IndexService, PodStores, StoresSettings, cache_options,
};
use tidemark_ingest::IngestOptions;
#[cfg(feature = "archive")]
use {super::exit::CommandExit, tidemark_ingest::IngestError};

/// Index a log and its new entries, until stopped.
///
/// One process writes an index at a time; others wait as standbys and take over when the writer has been silent for a
/// minute. It may be killed at any moment: the next one continues where it stopped.
///
/// An index that holds nothing begins with what was recorded of the log: with the archive or the snapshots below its own URL, else with those
/// of --bootstrap-from. It takes those outcomes and decides only what is newer. Where the log was cleaned up and none of them reaches as
/// far, nothing is indexed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark index --log s3://wal/orders --metadata s3://meta --index s3://idx/orders --expiry 10m \
    --listen 127.0.0.1:7280\n\
    The first indexer of a log records --expiry and the other parameters; a later one that differs is refused (with --wait it\n\
    goes on with the recorded ones, and says so), and `tidemark log set` changes them. Exit code 4: another process has taken over. Exit code 6: the outcome of a\n\
    write is unknown; restart."
)]
pub(super) struct IndexCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Where the index is: a bucket, or a prefix of one, apart from the log.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    index: Url,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// Listen here and serve search (with --no-search only health, metrics and status); port 0 takes a free one and prints
    /// it.
    #[arg(long, env = "TIDEMARK_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Do not serve search.
    #[arg(long, env = "TIDEMARK_NO_SEARCH", requires = "listen")]
    no_search: bool,
    #[command(flatten)]
    wait: StartupArgs,
    /// Owner of the index; an index of another owner is refused. A name, or `k8s:<cluster>/<namespace>/<name>/<uid>` for a WAL
    /// resource.
    #[arg(long, env = "TIDEMARK_OWNER", value_name = "OWNER", default_value = "tidemark", value_parser = owner)]
    owner: IndexOwner,
    /// Take the index over from this owner: its name, or the UID of its resource.
    #[arg(long, env = "TIDEMARK_ADOPT_OWNER", value_name = "NAME")]
    adopt_owner: Option<String>,
    #[command(flatten)]
    moved: MovedArgs,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    /// Name of this process. After a restart under the same name it continues at once, else after a minute. No two processes may
    /// share a name.
    #[arg(long, env = "TIDEMARK_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Do not compact small segments into larger ones.
    #[arg(long, env = "TIDEMARK_NO_COMPACTION")]
    no_compaction: bool,
    /// Index the file names of bundles from now on, for `file:` and `files:` in queries. It costs one more GET for each list of a
    /// bundle's files (Datamon's have 1000 names), and space for the names: at most 256 KiB an entry.
    #[arg(long = "files", env = "TIDEMARK_FILES")]
    file_names: bool,
    /// Folder that the operator writes to: a file `purge` in it with the UID of --owner, a WAL resource, removes the index for good.
    #[arg(long, env = "TIDEMARK_CONTROL_DIR", value_name = "DIR")]
    control_dir: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
}

impl IndexCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self {
            log,
            index,
            parameters,
            listen,
            no_search,
            wait,
            owner,
            adopt_owner,
            moved,
            bootstrap,
            identity,
            no_compaction,
            file_names,
            control_dir,
            cache,
        } = self;
        let (cache, _temporary) = cache_options(cache.cache_dir, cache.cache_mib << 20)?;
        let settings = log.settings();
        let cold_start = cold_start(bootstrap, &settings, &log, &index)?;
        let options = IndexOptions {
            stores: PodStores::at(Some((log.log, log.metadata)), index, &settings, AccessMode::ReadWrite),
            parameters: Box::new(move |recorded| match recorded {
                Some(recorded) => Some(parameters.over(recorded)),
                None => parameters.complete(),
            }),
            owner,
            cold_start,
            control: control_dir,
            adopt: adopt_owner.filter(|owner| !owner.is_empty()),
            moved_from: moved.url(),
            identity,
            listen,
            search: !no_search,
            startup: wait.startup_mode(),
            cache,
            ingest: IngestOptions { compaction: !no_compaction, file_names, ..IngestOptions::default() },
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

/// What an index that holds nothing is begun with.
#[cfg(feature = "archive")]
fn cold_start(
    BootstrapArgs { bootstrap_from, bootstrap_time: time }: BootstrapArgs,
    settings: &StoresSettings,
    log: &LogArgs,
    index: &Url,
) -> anyhow::Result<Option<ColdStartOptions>> {
    let Some(from) = bootstrap_from else { return Ok(None) };
    if let Some(other) = settings.overlap_of_origin(&from, &log.log, &log.metadata, index) {
        let (url, other) = (from.to_string(), other.to_string());
        return Err(CommandExit::Usage.with(IngestError::OriginOverlaps { url, other }));
    }
    Ok(Some(ColdStartOptions { from, time, stores: settings.clone() }))
}

/// What an index that holds nothing is begun with.
#[cfg(not(feature = "archive"))]
fn cold_start(
    BootstrapArgs { bootstrap_from, bootstrap_time: _ }: BootstrapArgs,
    _: &StoresSettings,
    _: &LogArgs,
    _: &Url,
) -> anyhow::Result<Option<ColdStartOptions>> {
    anyhow::ensure!(
        bootstrap_from.is_none(),
        "this program was built without the archive; nothing is indexed; leave --bootstrap-from out, or use a program that was built with it"
    );
    Ok(None)
}

/// Prefix of an owner that is a WAL resource.
const RESOURCE: &str = "k8s:";

pub(super) fn owner(text: &str) -> Result<IndexOwner, String> {
    let Some(resource) = text.strip_prefix(RESOURCE) else {
        return Ok(IndexOwner::Named { name: text.to_owned() });
    };
    let parts: Vec<&str> = resource.split('/').collect();
    match parts.as_slice() {
        [cluster, namespace, name, uid] if parts.iter().all(|part| !part.is_empty()) => Ok(IndexOwner::Resource {
            cluster: (*cluster).to_owned(),
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            uid: (*uid).to_owned(),
        }),
        _ => Err(format!("invalid owner \"{text}\": expected a name, or \"k8s:<cluster>/<namespace>/<name>/<uid>\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_name_or_a_resource() {
        assert_eq!(owner("tidemark"), Ok(IndexOwner::Named { name: "tidemark".to_owned() }));
        assert_eq!(owner("k8s:c/ns/orders/u1").map(|owner| owner.id().to_owned()), Ok("u1".to_owned()));
        assert!(owner("k8s:c/ns/orders").is_err());
        assert!(owner("k8s:c//orders/u1").is_err());
    }
}
