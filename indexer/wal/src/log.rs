//! Where a log lives: the bucket of its entries and the buckets of the descriptors that complete them.

use url::Url;

use crate::datamon::DatamonPath;
use tidemark_store::{Store, StoreError, urls_overlap};

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
        if let Some(other) = metadata.iter().find(|other| urls_overlap(log.as_str(), other.as_str())) {
            return Err(StoreError::Unusable {
                url: log.to_string(),
                why: format!("the log and the metadata store \"{other}\" lie within one another"),
                remedy: "give each a prefix of its own: every listing of the log would show all descriptors".to_owned(),
            });
        }
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
        each_once(std::iter::once(&self.entries).chain(&self.metadata)).into_iter()
    }

    /// The metadata stores in which `path` is looked for, the likely one first. A store is asked once.
    pub(crate) fn likely(&self, path: &DatamonPath) -> Vec<&Store> {
        if path.is_mutable() { each_once(self.metadata.iter().rev()) } else { each_once(self.metadata.iter()) }
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

fn each_once<'a>(stores: impl Iterator<Item = &'a Store>) -> Vec<&'a Store> {
    let mut once: Vec<&Store> = Vec::new();
    for store in stores {
        if !once.iter().any(|known| known.is_same(store)) {
            once.push(store);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::datamon::parse_datamon_path;

    #[test]
    fn a_store_that_is_named_twice_is_asked_once() {
        let [a, b] = ["s3://a", "s3://b"].map(|url| Store::over(Arc::new(InMemory::new()), url.parse().unwrap()));
        let log = Log::over(Store::memory(), vec![a.clone(), b.clone(), a.clone()]);
        for path in ["bundles/r/b/bundle.yaml", "labels/r/v1/label.yaml"] {
            let path = parse_datamon_path(path).unwrap();
            let asked: Vec<_> = log.likely(&path).into_iter().map(Store::url).collect();
            assert_eq!(asked, [a.url(), b.url()]);
        }
    }

    #[test]
    fn a_log_and_its_metadata_do_not_lie_within_one_another() {
        let refused = |log: &str, metadata: &str| {
            let open = |_: &Url| Ok(Store::memory());
            Log::with(&log.parse().unwrap(), &[metadata.parse().unwrap()], open, open).is_err()
        };
        for (log, metadata) in [("s3://b", "s3://b"), ("s3://b/log", "s3://b/log/meta"), ("s3://b/x/log", "s3://b/x/")]
        {
            assert!(refused(log, metadata), "{log} {metadata}");
        }
        for (log, metadata) in
            [("s3://b/log", "s3://b/logs"), ("s3://a", "s3://b"), ("file:///t/log", "file:///t/meta")]
        {
            assert!(!refused(log, metadata), "{log} {metadata}");
        }
    }
}
