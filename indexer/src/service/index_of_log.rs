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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::TryStreamExt as _;
    use tidemark_catalog::{IndexOwner, IndexRegistration, LogCursor, WriterIdentity};
    use tidemark_store::StoreClock;
    use tidemark_wal::LogParameters;

    use super::*;

    /// Registers the index as `generation`, and begins that one.
    async fn begin(log: &Log, index: &Store, generation: &str) {
        let (root, url) = (RootChain::open(log, Entropy::seeded(1)), index.url().as_str());
        let parameters = LogParameters::with_expiry(Duration::from_mins(10));
        let generation: Generation = generation.parse().unwrap();
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let registration = IndexRegistration::new(url, owner, generation.clone());
        let head = root.head().await.unwrap();
        root.register(head, &parameters, url, &registration, LogCursor::default(), None).await.unwrap();
        let chain = IndexChain::open(index, generation, Entropy::seeded(2)).for_log(&root);
        let (clock, writer) = (StoreClock::new(log.stores(), "test"), WriterIdentity("test".to_owned()));
        chain.acquire(writer, &clock, &log.entries, |_| {}).await.unwrap().release().await.unwrap();
    }

    async fn find(log: &Log, index: &Store) -> Result<String, IndexLookupError> {
        let found = IndexOfLog::find(log, index, None, Entropy::seeded(3)).await?;
        Ok(found.chain.generation().to_string())
    }

    /// It was made again as the generation of the register: the ones before it, where a search begins, are gone.
    #[tokio::test]
    async fn an_index_that_was_lost_in_a_later_generation_is_found_by_the_register() {
        let (log, index) = (Log::over(Store::memory(), vec![Store::memory()]), Store::memory());
        let never = find(&log, &index).await.unwrap_err();
        assert!(matches!(never, IndexLookupError::NeverIndexed { .. }), "{never}");
        begin(&log, &index, "g3").await;
        assert_eq!(find(&log, &index).await.unwrap(), "g3");
        let objects: Vec<_> = index.list("", None).try_collect().await.unwrap();
        let keys: Vec<_> = objects.into_iter().map(|object| object.key).collect();
        index.delete(&keys).await.unwrap();
        let lost = find(&log, &index).await.unwrap_err();
        assert!(matches!(lost, IndexLookupError::NoIndex { .. }), "{lost}");
    }
}
