//! The index that a log has in a store, for the commands that work on one that was made before.

use tidemark_catalog::{CatalogError, Generation, IndexChain, LogId, PinChain, RootChain};
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_store::{Entropy, Store};
use tidemark_wal::Log;

/// The open generation of the index that a log has in a store.
pub(crate) struct IndexOfLog {
    /// The log.
    pub(crate) log: Log,
    /// Its id.
    pub(crate) id: LogId,
    /// Its root.
    pub(crate) root: RootChain,
    /// The chain of the open generation, on behalf of the log.
    pub(crate) chain: IndexChain,
    /// For the names of objects.
    pub(crate) entropy: Entropy,
}

/// Why a log has no index in a store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexLookupError {
    /// The log was never indexed.
    #[error("\"{url}\" is no log that was ever indexed; nothing was changed; correct --log")]
    NeverIndexed {
        /// The log.
        url: String,
    },
    /// The store holds no index.
    #[error(
        "\"{url}\" holds no index of this log; nothing was changed; correct --index, or let `tidemark index` begin it"
    )]
    NoIndex {
        /// The index.
        url: String,
    },
    /// A chain fails or refuses: the index is another log's, or the log was moved.
    #[error(transparent)]
    Chain(#[from] CatalogError),
}

impl ToCause for IndexLookupError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::NeverIndexed { url } | Self::NoIndex { url } => FailureCause::at(Reason::InvalidURL, url),
            Self::Chain(error) => error.to_cause(),
        }
    }
}

impl IndexOfLog {
    /// Finds it. Refused if the log was never indexed, or the store holds the index of another log or none. Writes nothing.
    pub(crate) async fn find(
        log: &Log,
        index: &Store,
        moved_from: Option<&str>,
        entropy: Entropy,
    ) -> Result<Self, IndexLookupError> {
        let root = RootChain::open(log, entropy.clone()).moved_from(moved_from);
        let never_indexed = || IndexLookupError::NeverIndexed { url: log.entries.url().to_string() };
        let id = root.id().await?.ok_or_else(never_indexed)?;
        // From the first one on: the root's word for the present one is a hint, which may be behind.
        let open = async |generation| {
            let chain = IndexChain::open(index, generation, entropy.clone()).for_log(&root).follow().await?;
            Ok::<_, CatalogError>(chain.latest().await?.map(|_| chain))
        };
        let chain = if let Some(chain) = open(Generation::first()).await? {
            chain
        } else {
            // An index that was lost is made again as a later one than those that are gone.
            let known = root.state().await?.generation_of(index.url().as_str());
            open(known).await?.ok_or_else(|| IndexLookupError::NoIndex { url: index.url().to_string() })?
        };
        Ok(Self { log: log.clone(), id, root, chain, entropy })
    }

    /// The log's pins in it.
    pub(crate) fn pins(&self) -> PinChain {
        PinChain::open(self.chain.index(), &self.id, self.entropy.clone())
    }
}
