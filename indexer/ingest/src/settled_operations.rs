//! The operations of a manifest as they stand, with the outcomes that the archive has settled where the manifest has not.
//!
//! Below its `audited` the outcomes of a manifest are settled. Those behind it may have been corrected since, in a generation that is lost or
//! damaged by now: up to where the archive ends it has them as they were settled, and they are taken from there. What the archive passed
//! over, since it could not be read, is taken from the manifest.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tidemark_catalog::{LogCursor, Manifest};
use tidemark_store::StoreSecond;
use tidemark_wal::{Log, Outcome, Token};

use crate::{
    archived_operations::ArchivedOperations,
    engine::{EngineError, IndexEngine},
    error::IngestError,
    record::OperationRecord,
    snapshot::{ArchiveVersion, LogArchive, SettledRecords, paired},
    standing_copy::StandingOperations,
};

/// How many operations are given at once where they are read from both.
const CHUNK_RECORDS: usize = 128;

/// A version of an archive, and the log whose entries it may have passed over.
#[derive(Clone, Copy)]
pub(crate) struct SettledSource<'a> {
    pub(crate) archive: &'a dyn LogArchive,
    pub(crate) version: &'a ArchiveVersion,
    pub(crate) log: &'a Log,
}

/// What two sources have of one operation.
type OperationPair = (Option<OperationRecord>, Option<OperationRecord>);

/// Reads the operations of one manifest in chunks of bounded size.
pub(crate) struct SettledOperations {
    /// Those of the manifest by seq.
    standing: StandingOperations,
    /// Of these seconds they come from both, in the order of their tokens, and after the others.
    seconds: Range<LogCursor>,
    merged: BoxStream<'static, Result<OperationPair, IngestError>>,
}

impl SettledOperations {
    /// Those of `manifest` with what is `settled` since. Segments without an entry of these `seconds` are left out; the others come whole.
    pub(crate) async fn open(
        engine: &Arc<dyn IndexEngine>,
        manifest: &Manifest,
        seconds: &RangeInclusive<StoreSecond>,
        settled: Option<SettledSource<'_>>,
    ) -> Result<Self, EngineError> {
        let standing = StandingOperations::open(engine, manifest, seconds).await?;
        let wanted = LogCursor(*seconds.start())..LogCursor(seconds.end().next());
        let since = settled.map(|settled| (settled, settled_since(manifest, settled.version, &wanted)));
        let Some((settled, seconds)) = since.filter(|(_, since)| !since.is_empty()) else { return Ok(standing.into()) };
        let merged = merge(engine, manifest, settled, seconds.clone()).await?;
        Ok(Self { standing, seconds, merged })
    }

    /// The next operations; `None` after the last ones. A chunk may be empty.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        if let Some(mut chunk) = self.standing.next_chunk().await? {
            chunk.retain(|operation| !self.seconds.contains(&LogCursor(operation.token.second())));
            return Ok(Some(chunk));
        }
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_RECORDS
            && let Some(pair) = self.merged.try_next().await?
        {
            chunk.extend(latest_of(pair));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

impl From<StandingOperations> for SettledOperations {
    fn from(standing: StandingOperations) -> Self {
        Self { standing, seconds: LogCursor::default()..LogCursor::default(), merged: stream::empty().boxed() }
    }
}

/// What lies below it had its last look, in what is read of `manifest` beside `version` of the archive.
pub(crate) fn audited_with(manifest: &Manifest, version: Option<&ArchiveVersion>) -> StoreSecond {
    let archived = version.map(|version| version.end.min(manifest.cursor).second());
    archived.map_or(manifest.audited, |archived| archived.max(manifest.audited))
}

/// The seconds of `wanted` that are settled in `version` of the archive, and in `manifest` are not.
fn settled_since(manifest: &Manifest, version: &ArchiveVersion, wanted: &Range<LogCursor>) -> Range<LogCursor> {
    LogCursor(manifest.audited).max(wanted.start)..version.end.min(manifest.cursor).min(wanted.end)
}

/// What archive and manifest have of these `seconds`, by operation.
async fn merge(
    engine: &Arc<dyn IndexEngine>,
    manifest: &Manifest,
    SettledSource { archive, version, log }: SettledSource<'_>,
    seconds: Range<LogCursor>,
) -> Result<BoxStream<'static, Result<OperationPair, IngestError>>, EngineError> {
    let (from, to) = (seconds.start.second(), seconds.end.second());
    // Other segments are not opened: they may be damaged.
    let segments =
        manifest.segments.iter().filter(|segment| segment.first.second() < to && from <= segment.last.second());
    let overlapping = Manifest { segments: segments.cloned().collect(), ..manifest.clone() };
    let held = SettledRecords::open(engine, &overlapping, None).await?.standing_records(from..to);
    let archived = ArchivedOperations::new(archive, version, log, seconds, None);
    let archived = stream::try_unfold(archived, |mut archived: ArchivedOperations| async move {
        let chunk = archived.next_chunk().await?;
        let operations = chunk.map(|chunk| stream::iter(chunk.into_iter().map(Ok::<_, IngestError>)));
        Ok::<_, IngestError>(operations.map(|operations| (operations, archived)))
    });
    Ok(paired(archived.try_flatten(), held.map_err(IngestError::from), place_of, place_of).boxed())
}

fn place_of(operation: &OperationRecord) -> (Token, u32) {
    (operation.token, operation.op)
}

/// What stands of the operation that both or one of them has. An archive has nothing that could not be read: of such an entry it says only
/// that the log has it.
fn latest_of((archived, held): OperationPair) -> Option<OperationRecord> {
    match (archived, held) {
        (Some(archived), Some(held)) if archived.decision.outcome == Outcome::Unreadable => Some(held),
        (Some(archived), _) => Some(archived),
        (None, held) => held,
    }
}
