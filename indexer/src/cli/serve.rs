//! `tidemark serve`: search over an index.

use std::path::PathBuf;

use axum::http::HeaderValue;
use clap::Args;
use tidemark_crds::is_web_origin;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{CacheArgs, ListenArgs, MovedArgs, StartupArgs, StoresArgs},
    exit::CommandExit,
    failure_verdict::ended,
    output::print_line,
    shutdown::{stop_on_signal, unless_stopped},
};
use crate::service::{AccessMode, PodStores, ServeOptions, ServeService, cache_options};

/// Serve search over an index, until stopped.
///
/// It writes nothing: any number of replicas may run. With --log, answers include entries that are not final yet, with `sealed: false`.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark serve --log s3://wal/orders --metadata s3://meta --index s3://idx/orders \
    --listen 127.0.0.1:7281\n\
    Then open the address, or: curl 'http://127.0.0.1:7281/v1/search?q=message'")]
pub(super) struct ServeCommand {
    /// The log. Without it, answers have final outcomes only, as far as the index has them.
    #[arg(long, env = "TIDEMARK_LOG", value_name = "URL", requires = "metadata")]
    log: Option<Url>,
    /// Where descriptors are: a bucket, or a prefix of one. If it is given twice, labels are in the last one (Datamon's `vmetadata`).
    #[arg(long, env = "TIDEMARK_METADATA", value_name = "URL", value_delimiter = ',')]
    metadata: Vec<Url>,
    /// Where the index is: the URL that `tidemark index --index` has.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    index: Url,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    wait: StartupArgs,
    #[command(flatten)]
    stores: StoresArgs,
    /// Require the token in this file with every request except health, metrics and `/v1/process`: as `Authorization:
    /// Bearer`, or as the password of HTTP Basic for the page. The file is read again when it changes.
    #[arg(long, env = "TIDEMARK_AUTH_TOKEN_FILE", value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
    /// Origins whose pages may read answers in a browser, as `https://portal.example.org`. By default those of any origin if a
    /// token is required, which such a page has to send; else none.
    #[arg(long, env = "TIDEMARK_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    cors_origin: Vec<HeaderValue>,
    #[command(flatten)]
    moved: MovedArgs,
    /// Name of this process, as `/v1/process` reports it.
    #[arg(long, env = "TIDEMARK_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    cache: CacheArgs,
}

impl ServeCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, metadata, index, listen, wait, stores, auth_token_file, cors_origin, moved, identity, cache } =
            self;
        let (cache, _temporary) = cache_options(cache.cache_dir, cache.cache_mib << 20)?;
        if log.is_some() && metadata.is_empty() {
            return Err(CommandExit::Usage.with(anyhow::anyhow!(
                "--log requires --metadata; nothing is served; name where the descriptors are"
            )));
        }
        let options = ServeOptions {
            stores: PodStores::at(log.map(|log| (log, metadata)), index, &stores.settings(), AccessMode::ReadOnly),
            listen: listen.listen,
            startup: wait.startup_mode(),
            token_file: auth_token_file,
            cors_origins: cors_origin,
            moved_from: moved.url(),
            identity,
            cache,
        };
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let start = ServeService::start(options, stop.clone());
        let Some(service) = unless_stopped(&stop, Box::pin(start)).await? else { return Ok(()) };
        print_line(&format!("http://{}/", service.address()?))?;
        ended(service.run().await)
    }
}

/// An origin as browsers send it.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let expected = || "expected a scheme and a host, as \"https://portal.example.org\", without a path".to_owned();
    HeaderValue::from_str(text).ok().filter(|_| is_web_origin(text)).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_and_what_is_none_is_refused() {
        assert_eq!(origin("https://portal.example.org").unwrap(), "https://portal.example.org");
        assert!(origin("https://portal.example.org/").unwrap_err().contains("without a path"));
    }
}
