//! Copies what one generation has recorded to another one, with its seqs: records, replaced ones included, corrections and marks.

use std::{ops::Range, sync::Arc};

use tidemark_catalog::{CopyRequest, FIRST_SEQ, Manifest, PublishError, SidecarMeta, WriterLease};

use crate::{
    corrected_totals::CorrectedTotals,
    engine::{EngineError, IndexEngine, RecordMarks},
    error::IngestError,
    recorded_operations::RecordedOperations,
    retry::RetryBackoff,
    segment_upload::{BatchSegmentWriter, SegmentUploader},
};

/// Attempts to publish what was copied while the store fails: about a minute in all.
const PUBLISH_ATTEMPTS: u32 = 8;

/// Copies to the generation that a lease holds. All that it remembers can be dropped at any time: the chain has it.
pub(crate) struct GenerationCopier {
    made: WriterLease,
    engine: Arc<dyn IndexEngine>,
    uploader: SegmentUploader,
    /// Records of one publication.
    batch_records: u64,
    segment_memory: usize,
    /// The marks that the generation has.
    marks: RecordMarks,
}

impl GenerationCopier {
    /// Goes on where the generation of `made` ends. `uploader` makes objects of that generation.
    pub(crate) async fn new(
        made: WriterLease,
        engine: &Arc<dyn IndexEngine>,
        uploader: SegmentUploader,
        (batch_records, segment_memory): (u64, usize),
    ) -> Result<Self, EngineError> {
        let mut marks = RecordMarks::default();
        for sidecar in &made.manifest().state.sidecars {
            marks.merge(&engine.read_marks(sidecar).await?);
        }
        Ok(Self { made, engine: engine.clone(), uploader, batch_records, segment_memory, marks })
    }

    /// What the generation has by now.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.made.manifest().state
    }

    /// The role of the generation.
    pub(crate) fn into_lease(self) -> WriterLease {
        self.made
    }

    /// Copies the records and marks of `source` that the generation does not have. `progress` gets how many it has after each
    /// publication.
    pub(crate) async fn copy(&mut self, source: &Manifest, progress: impl Fn(u64)) -> Result<(), IngestError> {
        let mut records = RecordedOperations::new(&self.engine, source, self.manifest().next_seq);
        while self.manifest().next_seq < source.next_seq {
            let copied = self.copy_batch(&mut records, source).await?;
            publish_copy(&mut self.made, copied).await?;
            progress(self.manifest().next_seq - FIRST_SEQ);
        }
        Ok(())
    }

    /// The last publication: all marks, and how far `source` has come. Always appends a record.
    pub(crate) async fn complete(&mut self, source: &Manifest) -> Result<(), IngestError> {
        let mut copied = CopyRequest {
            cursor: source.cursor,
            horizon: source.horizon,
            audited: source.audited,
            until: source.until,
            ..CopyRequest::after(self.manifest())
        };
        (copied.sidecars, copied.settled) = self.copy_sidecars(source, self.manifest().next_seq).await?;
        publish_copy(&mut self.made, copied).await
    }

    /// Copies the next records, and the marks that they and those before caused.
    async fn copy_batch(
        &mut self,
        records: &mut RecordedOperations,
        source: &Manifest,
    ) -> Result<CopyRequest, EngineError> {
        let first_seq = self.manifest().next_seq;
        let mut segments = BatchSegmentWriter::new(&self.uploader, self.segment_memory).rereading();
        let mut next_seq = first_seq;
        while next_seq - first_seq < self.batch_records {
            let chunk = records.next_chunk().await?;
            let Some(last) = chunk.last() else { break };
            next_seq = last.seq + 1;
            segments.add(chunk).await?;
        }
        let segments = segments.finish().await?;
        let (sidecars, settled) = self.copy_sidecars(source, next_seq).await?;
        let records = next_seq - first_seq;
        Ok(CopyRequest { records, segments, sidecars, settled, ..CopyRequest::after(self.manifest()) })
    }

    /// Copies the sidecars of `source` whose marks were all caused below `next_seq`, and gives the seqs that they settle.
    ///
    /// Sidecars may have been merged since others were copied: of what those held only the rest is taken.
    async fn copy_sidecars(
        &mut self,
        source: &Manifest,
        next_seq: u64,
    ) -> Result<(Vec<SidecarMeta>, Vec<u64>), EngineError> {
        let made = self.manifest();
        let mut copied_to = made.sidecars.last().map_or(FIRST_SEQ, |last| last.causes.end);
        let mut have = CorrectedTotals { counts: made.totals.corrected_counts, digest: made.totals.corrected_digest };
        let (mut sidecars, mut settled, mut sum) = (Vec::new(), Vec::new(), CorrectedTotals::default());
        for sidecar in source.sidecars.iter().take_while(|sidecar| sidecar.causes.end <= next_seq) {
            sum = CorrectedTotals {
                counts: sum.counts.plus(&sidecar.counts),
                digest: [sum.digest, sidecar.digest].into_iter().sum(),
            };
            if sidecar.causes.end <= copied_to {
                continue;
            }
            let mut marks = self.engine.read_marks(sidecar).await?;
            marks.corrected -= &self.marks.corrected;
            marks.outdated -= &self.marks.outdated;
            let causes = sidecar.causes.start.max(copied_to)..sidecar.causes.end;
            copied_to = causes.end;
            if marks.is_empty() {
                continue;
            }
            let rest =
                CorrectedTotals { counts: sum.counts.without(&have.counts), digest: sum.digest.without(&have.digest) };
            sidecars.push(self.upload_sidecar(&marks, causes, rest).await?);
            settled.extend(marks.corrected.iter());
            self.marks.merge(&marks);
            have = sum;
        }
        Ok((sidecars, settled))
    }

    async fn upload_sidecar(
        &self,
        marks: &RecordMarks,
        causes: Range<u64>,
        CorrectedTotals { counts, digest }: CorrectedTotals,
    ) -> Result<SidecarMeta, EngineError> {
        self.uploader.upload_sidecar(marks, causes, counts, digest).await
    }
}

/// Appends what was copied to the generation of `made`. Only failures after which nothing was written are retried.
pub(crate) async fn publish_copy(made: &mut WriterLease, copied: CopyRequest) -> Result<(), IngestError> {
    let mut backoff = RetryBackoff::new();
    for _ in 1..PUBLISH_ATTEMPTS {
        match made.copy(copied.clone()).await {
            Ok(_) => return Ok(()),
            Err(PublishError::Chain(error)) => {
                tracing::warn!(%error, "what was copied cannot be published; retrying");
                backoff.sleep().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    made.copy(copied).await?;
    Ok(())
}
