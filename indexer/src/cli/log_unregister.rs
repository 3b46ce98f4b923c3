//! `tidemark log unregister`: takes an index that nobody writes any more off a log's register.

use clap::Args;
use tidemark_catalog::{CatalogError, IndexChain, IndexRegistration, RootChain};
use tidemark_store::{Entropy, StoreError};
use tidemark_wal::Log;
use url::Url;

use super::{args::LogArgs, exit::CommandExit, output::print_line, shutdown::ended};
use crate::service::{AccessMode, PodStores, ServiceError, StoresSettings};

/// Remove an index that nobody writes any more from the log's register.
///
/// As long as an index is registered, the log is not cleaned up beyond what that index has read. An index that was deleted without
/// a purge would hold the clean-up back for good. Nothing of the index itself is deleted.
///
/// Refused while an indexer writes the index, which takes a minute to find out. An indexer that is started
/// again later registers its index again, or is refused if something that it needs was deleted meanwhile (`BelowFloor`).
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark log unregister --log s3://wal/orders --metadata s3://meta s3://idx/old-orders"
)]
pub(super) struct LogUnregisterCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Remove it although its store cannot be read. Only if you know that no indexer writes to it.
    #[arg(long)]
    force: bool,
    /// URL of the index, as the log has it.
    #[arg(value_name = "INDEX")]
    index: String,
}

impl LogUnregisterCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log: arguments, force, index } = self;
        let log = arguments.open()?;
        let entropy = Entropy::from_os();
        let root = RootChain::open(&log, entropy.clone());
        let indexes = root.state().await?.indexes;
        let Some(registration) = indexes.get(&index) else {
            let known: Vec<&str> = indexes.keys().map(String::as_str).collect();
            return Err(CommandExit::Usage.with(anyhow::anyhow!(
                "no index \"{index}\" is registered; nothing was changed; name one of: {}",
                known.join(", ")
            )));
        };
        match has_live_writer(&log, &arguments.settings(), registration, entropy).await {
            Ok(false) => {}
            Ok(true) => anyhow::bail!(
                "an indexer writes \"{index}\"; it stays registered, since entries that it has not read could be deleted; stop that \
                 indexer, or purge the index"
            ),
            Err(error) if force => {
                tracing::warn!(%error, "the index cannot be read; it is removed from the register because of --force");
            }
            Err(error) => anyhow::bail!(
                "whether an indexer writes \"{index}\" is not known ({error}); it stays registered; let this command read the \
                 index, or give --force if no indexer writes to it"
            ),
        }
        ended(root.unregister(&index, registration).await.map_err(ServiceError::from))?;
        print_line(&format!("{index} is no longer registered"))
    }
}

/// Whether a process writes the registered index.
async fn has_live_writer(
    log: &Log,
    settings: &StoresSettings,
    registration: &IndexRegistration,
    entropy: Entropy,
) -> anyhow::Result<bool> {
    let url: Url = registration.url.parse()?;
    let index = PodStores::at(None, url, settings, AccessMode::ReadOnly).open()?.index;
    let chain = IndexChain::open(&index, registration.generation.clone(), entropy).follow().await;
    match chain {
        Ok(chain) => Ok(chain.has_live_writer(&log.entries).await?),
        // Nothing is left of it.
        Err(CatalogError::Store(StoreError::NoBucket { .. })) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
