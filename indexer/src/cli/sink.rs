//! `tidemark sink`: delivers the changes of an index to a destination, under a consumer's name.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use tidemark_catalog::ConsumerName;
use tidemark_search::api::{FeedStart, QueryText};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{CacheArgs, StartupArgs, StoresArgs},
    consumer_args::{DeliveryArgs, HttpDestinationArgs, consumer_name, consumer_stores, feed_start, query_text},
    exit::CommandExit,
    failure_verdict::ended,
    output::print_line,
    shutdown::stop_on_signal,
    sink_verify::SinkVerifyCommand,
};
use crate::{
    delivery::{
        BulkDestination, DeliveryTarget, Destination, InvalidDestination, WebSocketDestination, WebhookDestination,
    },
    service::{ConsumerContext, ConsumerOptions, ConsumerService, cache_options},
};

/// Deliver the changes of an index to a search server, a webhook or a WebSocket, until stopped.
///
/// Every record is delivered at least once, in the order of publication. What the destination has taken is acknowledged under --name, in
/// the index, once a second at most: a sink of the same name that is started later goes on there. Two of one name do not run at once: the
/// second waits while the first one lives. A destination that is away or full is waited for, however long; nothing is lost meanwhile.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example: tidemark sink --index s3://idx/orders --name search --elasticsearch https://os:9200 \
    --elasticsearch-index orders --authorization-file /etc/sink/authorization\n\
    Example: tidemark sink --index s3://idx/orders --name hook --webhook https://example.org/hook --secret-file /etc/sink/secret \
    --query 'kind:label'\n\
    Example: tidemark sink --index s3://idx/orders --name live --websocket wss://example.org/changes\n\
    Example: tidemark sink verify --index s3://idx/orders --name search --elasticsearch https://os:9200 --elasticsearch-index orders"
)]
pub(super) struct SinkCommand {
    #[command(subcommand)]
    command: Option<SinkSubcommand>,
    #[command(flatten)]
    run: SinkRunArgs,
}

#[derive(Debug, Subcommand)]
enum SinkSubcommand {
    Verify(Box<SinkVerifyCommand>),
}

#[derive(Debug, Args)]
struct SinkRunArgs {
    /// Where the index is: the URL that `tidemark index --index` has.
    // Required, and optional where it is read, since a subcommand has its own.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL", required = true)]
    index: Option<Url>,
    /// The consumer: a letter, then letters, digits and hyphens, in lower case.
    #[arg(long, env = "TIDEMARK_NAME", value_name = "NAME", value_parser = consumer_name, required = true)]
    name: Option<ConsumerName>,
    /// The server of a bulk API: Elasticsearch, `OpenSearch` or Quickwit. A document an operation; a correction replaces it.
    #[arg(
        long,
        env = "TIDEMARK_ELASTICSEARCH",
        value_name = "URL",
        requires = "elasticsearch_index",
        required_unless_present_any = ["webhook", "websocket"],
        conflicts_with_all = ["webhook", "websocket"]
    )]
    elasticsearch: Option<Url>,
    /// The index there.
    #[arg(long, env = "TIDEMARK_ELASTICSEARCH_INDEX", value_name = "NAME")]
    elasticsearch_index: Option<String>,
    /// A webhook, which gets batches of `CloudEvents` 1.0 (`application/cloudevents-batch+json`).
    #[arg(long, env = "TIDEMARK_WEBHOOK", value_name = "URL", conflicts_with = "websocket")]
    webhook: Option<Url>,
    /// A receiver that speaks `tidemark.sink.v1` over a WebSocket, as `wss://…`: it says how many changes it takes, and acknowledges them.
    #[arg(long, env = "TIDEMARK_WEBSOCKET", value_name = "URL")]
    websocket: Option<Url>,
    /// File with the secret of the webhook: each request has `Tidemark-Signature: t=SECOND,v1=HEX`, the HMAC-SHA256 of the second, a dot
    /// and the body. It is read again for each request.
    #[arg(long, env = "TIDEMARK_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    http: HttpDestinationArgs,
    /// Where a new consumer starts; before the first record by default. A position: after it. A token or a time: before the first record
    /// of an entry that is not older. `snapshot:NAME`: after the records of that snapshot. `now`: after all that is published. A consumer
    /// that exists goes on where it is.
    #[arg(long, env = "TIDEMARK_FROM", value_name = "POSITION", value_parser = feed_start)]
    from: Option<FeedStart>,
    /// Only records that this query finds, in the language of the search. It may change between two starts.
    #[arg(long, env = "TIDEMARK_QUERY", value_name = "QUERY", value_parser = query_text)]
    query: Option<QueryText>,
    #[command(flatten)]
    delivery: DeliveryArgs,
    /// Name of this process. After a restart under the same name it continues at once, else after a minute. No two processes may
    /// share a name.
    #[arg(long, env = "TIDEMARK_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Listen here and serve health, metrics and `/v1/process`, which says how far the delivery is; port 0 takes a free one and prints it.
    #[arg(long, env = "TIDEMARK_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    wait: StartupArgs,
    #[command(flatten)]
    stores: StoresArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

impl SinkCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let SinkCommand { command, run } = self;
        match (command, &run.index, &run.name) {
            (Some(SinkSubcommand::Verify(verify)), ..) => verify.run().await,
            (None, Some(index), Some(name)) => run.run(index, name).await,
            (None, ..) => Err(CommandExit::Usage.with(InvalidDestination::None)),
        }
    }
}

impl SinkRunArgs {
    async fn run(&self, index: &Url, name: &ConsumerName) -> anyhow::Result<()> {
        let (cache, _temporary) = cache_options(self.cache.cache_dir.clone(), self.cache.cache_mib << 20)?;
        let (index, consumers) = consumer_stores(index, &self.stores.settings());
        let options = ConsumerOptions {
            index,
            consumers,
            cache,
            name: name.clone(),
            identity: self.identity.clone(),
            start: self.from.clone().unwrap_or(FeedStart::Earliest),
            query: self.query.clone().unwrap_or_default(),
            delivery: self.delivery.options(),
            listen: self.listen,
            startup: self.wait.startup_mode(),
        };
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let service = ConsumerService::start(options).await?;
        if let Some(address) = service.address() {
            print_line(&format!("http://{address}/"))?;
        }
        let destination = |context: &ConsumerContext| self.destination(context);
        ended(Box::pin(service.run(destination, &stop)).await).map(drop)
    }

    fn destination(&self, context: &ConsumerContext) -> Result<DeliveryTarget<'static>, InvalidDestination> {
        let destination: Box<dyn Destination> = match (&self.webhook, &self.websocket, &self.elasticsearch) {
            (Some(url), _, _) => {
                let (secret, clock) = (self.secret_file.clone(), context.clock.clone());
                Box::new(WebhookDestination::new(self.http.options(url), &context.log, secret, clock)?)
            }
            (None, Some(url), _) => Box::new(WebSocketDestination::new(self.http.options(url))?),
            (None, None, url) => {
                let url = url.as_ref().ok_or(InvalidDestination::None)?;
                let index = self.elasticsearch_index.clone().unwrap_or_default();
                Box::new(BulkDestination::new(self.http.options(url), index)?)
            }
        };
        Ok(DeliveryTarget::Destination(destination))
    }
}
