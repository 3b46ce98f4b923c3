//! The operations of whole seconds, read from the source that a promotion has chosen for them.

use std::ops::Range;

use tidemark_catalog::LogCursor;

use crate::{
    archived_operations::ArchivedOperations,
    error::IngestError,
    generation_task::GenerationTask,
    promotion_plan::{PromotionPlan, SpanSource},
    record::OperationRecord,
    recorded_archives::RecordedArchives,
    restore_source::last_second,
    settled_operations::{SettledOperations, SettledSource},
    standing_copy::StandingOperations,
};

/// Reads them in chunks of bounded size.
pub(crate) enum SpanOperations {
    /// Those of a generation, of these seconds.
    Recorded(Box<SettledOperations>, Range<LogCursor>),
    /// Those of archives.
    Archived(Box<ArchivedOperations>),
}

impl SpanOperations {
    /// Those of `seconds` in the `source` of `plan`.
    pub(crate) async fn open(
        task: &GenerationTask,
        archives: RecordedArchives<'_>,
        plan: &PromotionPlan,
        (source, seconds): (SpanSource, Range<LogCursor>),
    ) -> Result<Self, IngestError> {
        let versions = &plan.archived;
        let SpanSource::Generation(place) = source else {
            let archived = ArchivedOperations::new((archives, versions), &task.log, seconds, None);
            return Ok(Self::Archived(Box::new(archived)));
        };
        let records = &plan.generations[place];
        let (engine, last) = (&task.engine, records.last());
        let wanted = seconds.start.second()..=last_second(seconds.end);
        let operations = if records.is_whole() {
            let settled =
                SettledSource { archives, versions, from: LogCursor(last.audited), lost: &[], log: &task.log };
            SettledOperations::open(engine, last, &wanted, settled).await?
        } else {
            StandingOperations::of_segments(engine, last, &records.segments(), &wanted).await?.into()
        };
        Ok(Self::Recorded(Box::new(operations), seconds))
    }

    /// The next operations; `None` after the last ones. A chunk may be empty.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        match self {
            Self::Recorded(operations, seconds) => {
                let Some(mut chunk) = operations.next_chunk().await? else { return Ok(None) };
                chunk.retain(|operation| seconds.contains(&LogCursor(operation.token.second())));
                Ok(Some(chunk))
            }
            Self::Archived(operations) => operations.next_chunk().await,
        }
    }
}
