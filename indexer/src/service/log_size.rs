//! How large a log is.

use futures::TryStreamExt as _;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{Log, LogReader};

/// What a log holds, whatever became of it in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSize {
    /// Its entries.
    pub(crate) entries: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
}

impl LogSize {
    /// Lists the whole log, tokens from the future included: a request for each thousand entries. `None` where the store fails, which is
    /// no reason for a job to fail that has done its work.
    pub(crate) async fn count(log: &Log) -> Option<Self> {
        let counted = Self::list(log).await;
        let warn = |error: &StoreError| tracing::warn!(%error, "the log was not counted; its size is not reported");
        counted.inspect_err(warn).ok()
    }

    async fn list(log: &Log) -> Result<Self, StoreError> {
        let mut listed = LogReader::new(log).list(StoreSecond::default(), StoreSecond::KSUID_END.next());
        let mut size = Self::default();
        while let Some(entry) = listed.try_next().await? {
            size = Self { entries: size.entries + 1, bytes: size.bytes + entry.size };
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_store::{Create, Store, UserMetadata};
    use tidemark_wal::Token;

    use super::*;

    /// A log has other keys, too, and entries of writers whose clocks were wrong.
    #[tokio::test]
    async fn all_entries_count_and_nothing_else_does() {
        let log = Log::over(Store::memory(), Vec::new());
        assert_eq!(LogSize::count(&log).await, Some(LogSize::default()));
        let tokens = [StoreSecond::from_unix(1_800_000_000), StoreSecond::KSUID_END];
        let entries = tokens.map(|second| (Token::from_parts(second, [7; 16]).to_string(), "0123456789"));
        let others = ["notes.txt", ".tidemark/clock/a"].map(|key| (key.to_owned(), "somebody's own"));
        for (key, body) in entries.into_iter().chain(others) {
            let created = log.entries.create(&key, body.into(), &UserMetadata::new()).await;
            assert!(matches!(created, Create::Committed), "{key}");
        }
        assert_eq!(LogSize::count(&log).await, Some(LogSize { entries: 2, bytes: 20 }));
    }
}
