//! `tidemark log unregister`: takes an index that nobody writes any more off a log's register.

use clap::Args;
use tidemark_catalog::{CatalogError, IndexChain, IndexRegistration, RootChain, WriterIdentity};
use tidemark_store::{Entropy, StoreClock, StoreError};
use tidemark_wal::Log;
use url::Url;

use super::{args::LogArgs, exit::CommandExit, failure_verdict::ended, output::print_line};
use crate::service::{AccessMode, PodStores, ServiceError, StoresSettings};

/// Remove an index that nobody writes any more from the log's register.
///
/// As long as an index is registered, the log is not cleaned up beyond what that index has read. An index that was deleted without
/// a purge would hold the clean-up back for good. Nothing of the index itself is deleted.
///
/// Refused while an indexer writes the index, which takes a minute to find out. An indexer that only sleeps is fenced: it
/// publishes nothing any more. One that is started again later registers its index again, or is refused if something that it needs was
/// deleted meanwhile (`BelowFloor`).
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark log unregister --yes --log s3://wal/orders --metadata s3://meta s3://idx/old-orders"
)]
pub(super) struct LogUnregisterCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Remove it. Without this flag the command says what it would do, and changes nothing.
    #[arg(long)]
    yes: bool,
    /// Remove it although its store cannot be read. Only if you know that no indexer writes to it.
    #[arg(long)]
    force: bool,
    /// URL of the index, as the log has it.
    #[arg(value_name = "INDEX")]
    index: String,
}

impl LogUnregisterCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log: arguments, yes, force, index } = self;
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
        if !yes {
            let IndexRegistration { owner, generation, keeps, .. } = registration;
            return Err(CommandExit::Usage.with(anyhow::anyhow!(
                "\"{index}\" of {owner}, generation {generation}, would be removed from the log's register: a clean-up would no longer keep \
                 entries from {keeps} on for it, and it could not be indexed further once they are deleted; nothing was changed; give --yes if \
                 nobody needs that index any more"
            )));
        }
        match fence_writer(&log, &root, &arguments.settings(), registration, entropy).await {
            Ok(true) => {}
            Ok(false) => anyhow::bail!(
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

/// Fences whoever may still write the registered index, so that a process that sleeps publishes nothing of a log with holes. `false` if a
/// process writes it: then nothing was changed.
async fn fence_writer(
    log: &Log,
    root: &RootChain,
    settings: &StoresSettings,
    registration: &IndexRegistration,
    entropy: Entropy,
) -> anyhow::Result<bool> {
    let url: Url = registration.url.parse()?;
    let index = PodStores::at(None, url, settings, AccessMode::ReadOnly).open()?.index;
    let opened =
        IndexChain::open(&index, registration.generation.clone(), entropy.clone()).for_log(root).follow().await;
    let chain = match opened {
        Ok(chain) => chain,
        // Nothing is left of it.
        Err(CatalogError::Store(StoreError::NoBucket { .. })) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    if chain.has_live_writer(&log.entries).await? {
        return Ok(false);
    }
    let Some(latest) = chain.latest().await? else { return Ok(true) };
    let name = format!("unregister-{}", entropy.nonce());
    // As the holder itself, which has not moved for a minute: nobody has to wait for that once more.
    let identity = latest.state.holder.map_or_else(|| WriterIdentity(name.clone()), |holder| holder.identity);
    let clock = StoreClock::new(log.stores(), &name);
    // A restored index that nobody promotes has no writer either.
    chain.acquire_as_owner(identity, &clock, &log.entries, |_| ()).await?.release().await?;
    Ok(true)
}
