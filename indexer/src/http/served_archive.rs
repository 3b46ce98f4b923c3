//! The archive of the log whose index is served.

use std::sync::{Arc, OnceLock};

use tidemark_archive::{ArchiveError, ArchiveTable, TableVersion};
use tidemark_catalog::IndexChain;
use tidemark_store::Entropy;

use super::problem::HttpProblem;

/// Where the archive is, once the index is open: its manifest says which log it is of. Clones share it.
#[derive(Clone, Default)]
pub struct ServedArchive(Arc<ArchiveSource>);

#[derive(Default)]
struct ArchiveSource {
    index: OnceLock<(IndexChain, Entropy)>,
    table: OnceLock<ArchiveTable>,
}

impl ServedArchive {
    /// Finds it beside this index from now on; later ones are those of the same log, and are not needed.
    pub fn set_index(&self, chain: &IndexChain, entropy: &Entropy) {
        self.0.index.get_or_init(|| (chain.clone(), entropy.clone()));
    }

    /// Its latest version; `None` before the first one.
    pub(super) async fn latest(&self) -> Result<Option<TableVersion>, HttpProblem> {
        let table = match self.0.table.get() {
            Some(table) => table,
            None => self.find().await?,
        };
        table.latest().await.map_err(|error| match error {
            ArchiveError::Store(error) => HttpProblem::storage(error.to_string()),
            error => HttpProblem::archive_unreadable(error.to_string()),
        })
    }

    async fn find(&self) -> Result<&ArchiveTable, HttpProblem> {
        let no_index = || HttpProblem::not_ready("there is no index yet; try again when an indexer has begun it");
        let (chain, entropy) = self.0.index.get().ok_or_else(no_index)?;
        let latest = chain.latest().await.map_err(|error| HttpProblem::storage(error.to_string()))?;
        let claim = latest.and_then(|latest| latest.state.claim).ok_or_else(no_index)?;
        Ok(self.0.table.get_or_init(|| ArchiveTable::open(chain.index(), &claim.log, entropy.clone())))
    }
}
