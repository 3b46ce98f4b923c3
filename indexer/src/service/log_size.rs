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
