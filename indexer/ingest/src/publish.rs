//! A batch becomes part of the index: sidecar first, then one manifest that names everything.

use tidemark_catalog::{Cursor, PublishRequest, SidecarMeta};
use tidemark_store::{
    StoreSecond,
    planted::{Fault, planted},
};

use super::{
    batch::{Batch, Closed},
    error::IngestError,
    indexer::Indexer,
    tail::{FIRST_PAUSE, rest},
};
use crate::engine::RecordMarks;

impl Indexer {
    /// Publishes `batch` with the cursor at `to`, and opens the index that results.
    pub(super) async fn publish(
        &mut self,
        batch: Batch,
        to: StoreSecond,
        horizon: StoreSecond,
    ) -> Result<(), IngestError> {
        let closed = batch.close().await?;
        let sidecars = self.sidecars(&closed).await?;
        let publication = PublishRequest {
            from: self.cursor(),
            to: Cursor(to),
            horizon,
            first_seq: closed.seqs.start,
            records: closed.seqs.end - closed.seqs.start,
            segments: closed.segments,
            sidecars,
        };
        self.commit(publication).await?;
        self.reporter.nothing_pending();
        self.open_index().await
    }

    /// Appends the manifest. While the store fails and nothing was written, the same publication is tried again.
    async fn commit(&mut self, publication: PublishRequest) -> Result<(), IngestError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.writer_lease.publish(publication.clone()).await {
                Ok(slot) => {
                    self.reporter.manifest(slot);
                    return Ok(());
                }
                Err(failure) => IngestError::from(failure),
            };
            if !failure.is_retryable() {
                return Err(failure);
            }
            self.reporter.trouble("publishing", &failure);
            pause = rest(pause).await;
        }
    }

    async fn sidecars(&mut self, closed: &Closed) -> Result<Vec<SidecarMeta>, IngestError> {
        if planted(Fault::SidecarAfterCause) {
            return self.sidecars_of_the_batch_before(closed).await;
        }
        if closed.marks.is_empty() {
            return Ok(Vec::new());
        }
        let corrected = closed.corrected;
        let put = self.shelf.put_sidecar(&closed.marks, corrected.counts, corrected.digest);
        Ok(vec![put.await?])
    }

    /// The fault: what this batch marks is published with the next one.
    async fn sidecars_of_the_batch_before(&mut self, closed: &Closed) -> Result<Vec<SidecarMeta>, IngestError> {
        let (marks, corrected) = std::mem::replace(&mut self.held_back, (closed.marks.clone(), closed.corrected));
        if marks == RecordMarks::default() {
            return Ok(Vec::new());
        }
        let put = self.shelf.put_sidecar(&marks, corrected.counts, corrected.digest);
        Ok(vec![put.await?])
    }
}
