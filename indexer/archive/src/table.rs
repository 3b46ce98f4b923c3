//! The archive of one log.

use std::ops::{Bound, RangeBounds};

use futures::{Stream, stream::BoxStream};
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_store::{Entropy, ObjectInfo, Store, StoreSecond};
use tidemark_wal::Token;

use crate::{
    data_file::WriteLimits,
    error::ArchiveError,
    extension::TableExtension,
    leaks::{DeletedLeaks, delete_leaks, leaked_objects},
    metadata::TableVersion,
    row::ArchiveRow,
    table_rows::rows_of,
    token_range::TokenRange,
    verify::{TableReport, verify_table},
    version_chain::VersionChain,
};

/// The folder of all archives, below the index's URL.
const ARCHIVE_FOLDER: &str = "archive";

/// The archive of one log: an Iceberg table below `<index>/archive/<log id>/`. Cheap to clone.
#[derive(Clone)]
pub struct ArchiveTable {
    store: Store,
    log: LogId,
    entropy: Entropy,
    chain: VersionChain,
    limits: WriteLimits,
}

impl ArchiveTable {
    /// The archive of `log`, given the store of the whole index. Touches nothing.
    pub fn open(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let store = index.below(&format!("{ARCHIVE_FOLDER}/{log}"));
        let chain = VersionChain::new(store.clone(), log.clone());
        Self { store, log: log.clone(), entropy, chain, limits: WriteLimits::default() }
    }

    /// The same table, written in other portions.
    #[cfg(test)]
    pub(crate) fn with_limits(self, limits: WriteLimits) -> Self {
        Self { limits, ..self }
    }

    /// The table's prefix: what all keys are relative to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The latest version; `None` before the first. Never one before a version that this handle returned earlier.
    pub async fn latest(&self) -> Result<Option<TableVersion>, ArchiveError> {
        self.chain.latest().await
    }

    /// Version `number`; `None` if it is not committed. Whoever recorded its hash compares it.
    pub async fn version(&self, number: u64) -> Result<Option<TableVersion>, ArchiveError> {
        self.chain.read(number).await
    }

    /// Adds `rows`, and every row of the seconds from the table's end up to `up_to` is in the table afterwards.
    ///
    /// The rows come by (token, op), each once, of these seconds alone, with settled outcomes. `up_to` lies at or below what the audit
    /// has passed: the caller's promise. Data files are read back and compared before the version that names them is committed. A large
    /// range becomes several versions, each of whole seconds: after a failure the latest version says where to go on. Where
    /// `up_to` is the table's end nothing is written. Memory is bounded by some data files of 32 MiB and the largest row.
    ///
    /// On [`ArchiveError::Unknown`] the process has to end. On every other error what is committed is whole, and what was written beside it
    /// is never adopted: see [`ArchiveTable::leaks`].
    pub async fn extend<S>(
        &self,
        rows: S,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<TableVersion, ArchiveError>
    where
        S: Stream<Item = Result<ArchiveRow, ArchiveError>> + Send,
    {
        let extension = TableExtension {
            store: &self.store,
            log: &self.log,
            entropy: &self.entropy,
            chain: &self.chain,
            limits: self.limits,
            generation,
        };
        extension.run(rows, up_to).await
    }

    /// The rows of `version` whose tokens lie in `tokens`, by token and operation. Each file is read whole and compared with its
    /// checksum; only row groups that may hold such rows are decoded. Memory is bounded by some files and two row groups. In the place of a damaged file
    /// stands an error that names it, and the rows of the others follow.
    pub fn rows(
        &self,
        version: &TableVersion,
        tokens: impl RangeBounds<Token>,
    ) -> BoxStream<'static, Result<ArchiveRow, ArchiveError>> {
        let tokens = TokenRange { start: tokens.start_bound().cloned(), end: tokens.end_bound().cloned() };
        rows_of(self.store.clone(), version, tokens)
    }

    /// Brings `copy`, the archive of the same log in another place, to the rows of `version`: a table of its own with its own versions, which
    /// engines read there. What it has already stays as it is. As with [`ArchiveTable::extend`], a failure in between loses nothing.
    pub async fn copy_to(&self, copy: &Self, version: &TableVersion) -> Result<TableVersion, ArchiveError> {
        let start = match copy.latest().await? {
            Some(there) if there.end >= version.end => return Ok(there),
            Some(there) => Bound::Included(Token::first_of(there.end.second())),
            None => Bound::Unbounded,
        };
        let rows = self.rows(version, (start, Bound::Unbounded));
        copy.extend(rows, version.end, &version.generation).await
    }

    /// Reads everything of `version` again and compares it: the versions before it, each of which has the hash of the one before, the manifests, and
    /// every data file. Damage is reported, and the rest is read on; an error means that the store failed.
    pub async fn verify(&self, version: &TableVersion) -> Result<TableReport, ArchiveError> {
        verify_table(&self.store, &self.chain, version).await
    }

    /// Objects that no committed version names and none ever will, given the latest version: those of attempts whose version another
    /// attempt has committed. They may be deleted at once. What an attempt at the next version has written is none, and what Tidemark has not written
    /// is none. Keys are below the table's prefix.
    pub fn leaks(&self, version: &TableVersion) -> BoxStream<'static, Result<ObjectInfo, ArchiveError>> {
        leaked_objects(self.store.clone(), self.chain.clone(), version.clone())
    }

    /// Deletes the [`leaks`](Self::leaks) that were written before `before`, a store time. Any number of processes may do so, beside those that
    /// extend the table; it may end at any step, and another one goes on.
    ///
    /// Whatever it deletes, no version names and none can name. The margin is for an attempt that lost and does not know: it reads back what it
    /// writes, and would take a leak that is gone for damage.
    pub async fn delete_leaks(&self, before: StoreSecond) -> Result<DeletedLeaks, ArchiveError> {
        match self.latest().await? {
            Some(latest) => delete_leaks(&self.store, self.chain.clone(), latest, before).await,
            None => Ok(DeletedLeaks::default()),
        }
    }
}
