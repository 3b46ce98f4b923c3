//! The operations of a manifest as they stand, with the outcomes that archives have settled where the manifest has not.
//!
//! Below its `audited` the outcomes of a manifest are settled. Those behind it may have been corrected since, in a generation that is lost or
//! damaged by now: up to where the archive ends it has them as they were settled, and they are taken from there. What the archive passed
//! over, since it could not be read, is taken from the manifest. Of another index's manifest everything is taken from there that the index's
//! own archive has, and of one with lost segments what these held.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tidemark_catalog::{LogCursor, Manifest, SegmentMeta};
use tidemark_store::StoreSecond;
use tidemark_wal::{Log, Outcome, Token};

use crate::{
    archived_operations::ArchivedOperations,
    engine::{EngineError, IndexEngine},
    error::IngestError,
    record::OperationRecord,
    recorded_archives::{ArchivedVersions, RecordedArchives},
    snapshot::{SettledRecords, paired},
    standing_copy::StandingOperations,
};

/// How many operations are given at once where they are read from both.
const CHUNK_RECORDS: usize = 128;

/// Versions of archives, and the log whose entries they may have passed over.
#[derive(Clone, Copy)]
pub(crate) struct SettledSource<'a> {
    pub(crate) archives: RecordedArchives<'a>,
    pub(crate) versions: &'a ArchivedVersions,
    /// From here on they are asked first: the manifest's `audited`, or an earlier second.
    pub(crate) from: LogCursor,
    /// Segments that the manifest does not have any more: what they held is taken from the archives.
    pub(crate) lost: &'a [SegmentMeta],
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
    /// For these the archives stand.
    lost: Vec<SegmentMeta>,
}

impl SettledOperations {
    /// Those of `manifest` with what is `settled` in archives. Segments without an entry of these `seconds` are left out; the others come whole.
    pub(crate) async fn open(
        engine: &Arc<dyn IndexEngine>,
        manifest: &Manifest,
        seconds: &RangeInclusive<StoreSecond>,
        settled: SettledSource<'_>,
    ) -> Result<Self, EngineError> {
        let standing = StandingOperations::open(engine, manifest, seconds).await?;
        let wanted = LogCursor(*seconds.start())..LogCursor(seconds.end().next());
        let seconds = settled_since(manifest, &settled, &wanted);
        if seconds.is_empty() {
            return Ok(standing.into());
        }
        let lost = settled.lost.to_vec();
        let merged = merge(engine, manifest, settled, seconds.clone()).await?;
        Ok(Self { standing, seconds, merged, lost })
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
            self.require_outcome(&pair)?;
            chunk.extend(latest_of(pair));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Refused where a lost segment may have held the only outcome of an entry that the archive passed over: it would be decided again.
    fn require_outcome(&self, pair: &OperationPair) -> Result<(), EngineError> {
        let (Some(archived), None) = pair else { return Ok(()) };
        let has = |lost: &&SegmentMeta| (lost.first..=lost.last).contains(&archived.token);
        match self.lost.iter().find(has) {
            Some(lost) if archived.decision.outcome == Outcome::Unreadable => {
                let why = format!("the archive lacks the entry {}, whose outcome it may have held", archived.token);
                Err(EngineError::Damaged { key: lost.key.clone(), why })
            }
            _ => Ok(()),
        }
    }
}

impl From<StandingOperations> for SettledOperations {
    fn from(standing: StandingOperations) -> Self {
        let (seconds, merged) = (LogCursor::default()..LogCursor::default(), stream::empty().boxed());
        Self { standing, seconds, merged, lost: Vec::new() }
    }
}

/// What lies below it had its last look, in what is read of `manifest` beside `versions` of archives.
pub(crate) fn audited_with(manifest: &Manifest, versions: &ArchivedVersions) -> StoreSecond {
    manifest.audited.max(versions.end().min(manifest.cursor).second())
}

/// The seconds of `wanted` that come from archives first.
fn settled_since(manifest: &Manifest, settled: &SettledSource<'_>, wanted: &Range<LogCursor>) -> Range<LogCursor> {
    settled.from.max(wanted.start)..settled.versions.end().min(manifest.cursor).min(wanted.end)
}

/// What archive and manifest have of these `seconds`, by operation.
async fn merge(
    engine: &Arc<dyn IndexEngine>,
    manifest: &Manifest,
    SettledSource { archives, versions, log, .. }: SettledSource<'_>,
    seconds: Range<LogCursor>,
) -> Result<BoxStream<'static, Result<OperationPair, IngestError>>, EngineError> {
    let (from, to) = (seconds.start.second(), seconds.end.second());
    // Other segments are not opened: they may be damaged.
    let segments =
        manifest.segments.iter().filter(|segment| segment.first.second() < to && from <= segment.last.second());
    let overlapping = Manifest { segments: segments.cloned().collect(), ..manifest.clone() };
    let held = SettledRecords::open(engine, &overlapping, None).await?.standing_records(from..to);
    let archived = ArchivedOperations::new((archives, versions), log, seconds, None);
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
