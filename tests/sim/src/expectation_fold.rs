//! What intents expect of entities, judged by a naive fold of the records in the order in which they were decided.

use std::collections::BTreeMap;

use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};

/// The newest committed operation of each entity: completion, entry, operation.
pub(crate) type NewestCommits = BTreeMap<String, (StoreSecond, Token, u32)>;

/// Folds the records, which come by seq. An error where an operation is committed although what it expects did not hold, or conflicted although
/// it did.
pub(crate) fn newest_commits<'a>(records: impl Iterator<Item = &'a OperationRecord>) -> Result<NewestCommits, String> {
    let mut newest = NewestCommits::new();
    let records: Vec<&OperationRecord> = records.collect();
    for entry in records.chunk_by(|one, next| one.token == next.token) {
        for record in entry {
            check(record, &newest)?;
        }
        for record in entry.iter().filter(|record| record.is_committed()) {
            let Some(entity) = &record.entity else { continue };
            let commit = (completion(record), record.token, record.op);
            let known = newest.entry(entity.clone()).or_insert(commit);
            *known = commit.max(*known);
        }
    }
    Ok(newest)
}

fn completion(record: &OperationRecord) -> StoreSecond {
    record.decision.completed.unwrap_or(record.decision.entry_time)
}

fn check(record: &OperationRecord, newest: &NewestCommits) -> Result<(), String> {
    let outcome = record.decision.outcome;
    let Some(expected) = &record.expectation else {
        return if outcome == Outcome::Conflicted {
            Err(format!("{} is conflicted with nothing", record.token))
        } else {
            Ok(())
        };
    };
    let found = newest.get(&expected.entity).copied();
    let stays_newest = record.entity.as_ref() == Some(&expected.entity)
        && found.is_some_and(|(completed, token, _)| (completed, token) > (completion(record), record.token));
    let holds = expected.token == found.map(|(_, token, _)| token) && !stays_newest;
    let named = expected.conflict.map(|conflict| (conflict.token, conflict.op));
    let is_right = match outcome {
        Outcome::Committed => holds && named.is_none(),
        Outcome::Conflicted => !holds && named == found.map(|(_, token, op)| (token, op)),
        _ => named.is_none(),
    };
    if is_right {
        return Ok(());
    }
    Err(format!(
        "{} op {} (seq {}) is {outcome:?}, expects {:?} of \"{}\" and names {named:?}; the newest commit decided before was {found:?}",
        record.token, record.op, record.seq, expected.token, expected.entity
    ))
}
