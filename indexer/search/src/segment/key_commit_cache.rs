//! The committed operations with idempotency keys, for several questions about one manifest.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use tidemark_ingest::{KeyNeighbors, KeyedOperation, OperationPlace, WriterKey, engine::EngineError};

/// What committed with the keys that were asked about. A key may be on any number of operations, nearly all of them duplicates, and to find
/// those that are committed all are read: so this is done once for a key, however many of the operations have it.
#[derive(Default)]
pub(crate) struct KeyCommitCache(BTreeMap<WriterKey, BTreeSet<OperationPlace>>);

impl KeyCommitCache {
    /// The committed operations next to `operation`; `read` gives all that have its key.
    pub(crate) fn neighbors(
        &mut self,
        operation: &KeyedOperation,
        read: impl FnOnce(&WriterKey) -> Result<BTreeSet<OperationPlace>, EngineError>,
    ) -> Result<KeyNeighbors, EngineError> {
        let KeyedOperation { place, key } = operation;
        let commits = match self.0.entry(key.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(read(key)?),
        };
        Ok(KeyNeighbors::among(*place, commits))
    }
}

#[cfg(test)]
mod tests {
    use tidemark_store::StoreSecond;
    use tidemark_wal::Token;

    use super::*;

    fn place(second: u64) -> OperationPlace {
        (Token::first_of(StoreSecond::from_unix(1_800_000_000 + second)), 0)
    }

    #[test]
    fn what_committed_with_a_key_is_read_once_for_all_operations_with_it() {
        let committed = BTreeSet::from([100, 300].map(place));
        let (mut cache, mut reads) = (KeyCommitCache::default(), Vec::new());
        for second in 0..1000 {
            for name in ["nightly", "hourly"] {
                let key = WriterKey { writer: "w".to_owned(), key: name.to_owned() };
                let operation = KeyedOperation { place: place(second), key };
                let found = cache.neighbors(&operation, |key| {
                    reads.push(key.key.clone());
                    Ok(committed.clone())
                });
                assert_eq!(found.unwrap(), KeyNeighbors::around(place(second), committed.iter().copied()));
            }
        }
        assert_eq!(reads, ["nightly", "hourly"]);
    }

    #[test]
    fn what_could_not_be_read_is_read_again() {
        let key = WriterKey { writer: "w".to_owned(), key: "nightly".to_owned() };
        let operation = KeyedOperation { place: place(200), key };
        let mut cache = KeyCommitCache::default();
        assert!(cache.neighbors(&operation, |_| Err(crate::segment::refused("read", &"a fault"))).is_err());
        let found = cache.neighbors(&operation, |_| Ok([place(100)].into())).unwrap();
        assert_eq!(found.before, Some(place(100)));
    }
}
