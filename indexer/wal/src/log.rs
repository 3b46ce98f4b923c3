//! Where a log lives: the bucket of its entries and the buckets of the descriptors that complete them.

use url::Url;

use tidemark_store::{Store, StoreError};

/// The stores of one log. Cheap to clone.
///
/// Entries and Tidemark's own objects (below `.tidemark/`) live in `entries`. Descriptors live in the first metadata
/// store, values that change (labels) and their completion markers in the last. A log with one metadata store has both
/// in it.
#[derive(Clone, Debug)]
pub struct Log {
    /// The log's own store: `<token>` and `.tidemark/...`.
    pub entries: Store,
    /// The metadata stores in the order of their roles. Never empty.
    pub metadata: Vec<Store>,
}

impl Log {
    /// Opens the stores of a log. At least one metadata URL is required.
    pub fn open(log: &Url, metadata: &[Url]) -> Result<Self, StoreError> {
        Self::with(log, metadata, Store::open, Store::open)
    }

    /// As [`Log::open`], with functions that open the log's own store and its metadata stores.
    pub fn with(
        log: &Url,
        metadata: &[Url],
        entries: impl Fn(&Url) -> Result<Store, StoreError>,
        descriptors: impl Fn(&Url) -> Result<Store, StoreError>,
    ) -> Result<Self, StoreError> {
        let metadata: Vec<Store> = metadata.iter().map(descriptors).collect::<Result<_, _>>()?;
        if metadata.is_empty() {
            return Err(StoreError::Unusable {
                url: log.to_string(),
                why: "a log without a metadata store completes nothing".to_owned(),
                remedy: "name at least one metadata store".to_owned(),
            });
        }
        Ok(Self { entries: entries(log)?, metadata })
    }

    /// A log over stores that are open already. With no metadata store the log's own serves as one.
    pub fn over(entries: Store, metadata: Vec<Store>) -> Self {
        let metadata = if metadata.is_empty() { vec![entries.clone()] } else { metadata };
        Self { entries, metadata }
    }

    /// Every store once, the log's own first.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        let mut once: Vec<&Store> = Vec::new();
        for store in std::iter::once(&self.entries).chain(&self.metadata) {
            if !once.iter().any(|known| known.is_same(store)) {
                once.push(store);
            }
        }
        once.into_iter()
    }

    /// Where descriptors are written: the first metadata store.
    pub fn descriptors(&self) -> &Store {
        self.metadata.first().unwrap_or(&self.entries)
    }

    /// Where labels and completion markers are written: the last metadata store.
    pub fn values(&self) -> &Store {
        self.metadata.last().unwrap_or(&self.entries)
    }
}
