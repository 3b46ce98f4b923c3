//! How far a restored index is settled by what was recorded beside it.
//!
//! What it was restored from may be older than the last look that the audit had at some of its seconds, in a generation that it replaced or
//! before they were archived. Where that left the outcomes as they were restored they are final: a descriptor that comes later changes
//! nothing, as little as it would have without the restore. So they are compared, up to the first one that differs.

use std::{collections::BTreeMap, ops::Range};

use tidemark_catalog::{LogCursor, Manifest};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tracing::{info, warn};

use crate::{
    engine::{EngineError, IndexLookup},
    error::IngestError,
    generation_task::GenerationTask,
    promotion_plan::{PromotionPlan, SpanSource},
    record::OperationRecord,
    recorded_archives::RecordedArchives,
    span_operations::SpanOperations,
};

/// Up to where the outcomes of `manifest`, of which `restored` looks records up, are settled: by itself, or in the sources of `plan`, which
/// have the same ones.
pub(crate) async fn settled_reach(
    task: &GenerationTask,
    archives: RecordedArchives<'_>,
    plan: &PromotionPlan,
    (manifest, restored): (&Manifest, &dyn IndexLookup),
) -> Result<StoreSecond, IngestError> {
    let mut reach = LogCursor(manifest.audited);
    while reach < manifest.cursor
        && let Some(span) = plan.next_span(reach).filter(|span| !span.is_outdated)
    {
        let end = span.seconds.end.min(LogCursor(span.audited)).min(manifest.cursor);
        if end <= reach {
            break;
        }
        let seconds = reach..end;
        match Box::pin(first_difference(task, archives, plan, (span.source, seconds), restored)).await {
            Ok(None) => reach = end,
            Ok(Some(second)) => {
                info!(%second, "an outcome of this second was corrected after what the index was restored from; the audit looks there again");
                return Ok(second);
            }
            // Nothing is taken from it here: the promotion says what it lacks.
            Err(failure) if failure.is_damage() => {
                warn!(error = %failure, "what was settled since cannot be compared with the restored index; the audit looks there again");
                break;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(reach.second())
}

/// The first second in which `source` has an outcome of one of `seconds` that the index does not have.
async fn first_difference(
    task: &GenerationTask,
    archives: RecordedArchives<'_>,
    plan: &PromotionPlan,
    (source, seconds): (SpanSource, Range<LogCursor>),
    restored: &dyn IndexLookup,
) -> Result<Option<StoreSecond>, IngestError> {
    let mut operations = SpanOperations::open(task, archives, plan, (source, seconds)).await?;
    // A generation gives them by seq.
    let mut first = None::<StoreSecond>;
    while let Some(chunk) = operations.next_chunk().await? {
        let differs = difference(&chunk, restored).await?;
        first = first.into_iter().chain(differs).min();
    }
    Ok(first)
}

/// The first second of `operations` that `restored` has otherwise.
async fn difference(
    operations: &[OperationRecord],
    restored: &dyn IndexLookup,
) -> Result<Option<StoreSecond>, EngineError> {
    let mut tokens: Vec<Token> = operations.iter().map(|operation| operation.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let mut standing = BTreeMap::new();
    for (token, recorded) in tokens.iter().zip(restored.recorded_outcomes(&tokens).await?) {
        let stands = recorded.into_iter().filter(|one| !one.corrected);
        standing.extend(stands.map(|one| ((*token, one.op), one.outcome)));
    }
    let differs = |operation: &&OperationRecord| {
        let known = standing.get(&(operation.token, operation.op)).copied();
        // What could not be read is decided once it can be, whatever was audited.
        let is_unread = |outcome: Outcome| outcome == Outcome::Unreadable;
        let outcome = operation.decision.outcome;
        !is_unread(outcome) && known.is_none_or(|known| known != outcome && !is_unread(known))
    };
    Ok(operations.iter().filter(differs).map(|operation| operation.token.second()).min())
}
