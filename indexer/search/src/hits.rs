//! Records as hits and entries of answers.

use std::collections::BTreeMap;

use tidemark_ingest::{ConflictingCommit, OperationRecord, RecordedExpectation, engine::EngineError, whole_payload};
use tidemark_wal::FileNames;

use super::{
    api::{
        ConflictAnswer, ContributorAnswer, CorrectedOutcome, EntryAnswer, EntryOperation, ExpectationAnswer,
        FilesAnswer, IndexVersion, KeyAnswer, ObservationAnswer, OperationFields, SearchHit, instant,
    },
    error::SearchError,
    highlight::HitHighlighter,
    key_history::KeyHistory,
    limits::QueryDeadline,
    searchable_segment::{SearchableSegment, engine_error},
    top_k::HitCandidate,
};

/// The hit of a candidate. Highlighting ends at `deadline`.
pub(crate) fn hit(
    candidate: &HitCandidate<'_>,
    highlighter: Option<&HitHighlighter<'_>>,
    deadline: QueryDeadline,
) -> Result<SearchHit, SearchError> {
    let record = candidate.segment.record(candidate.doc).map_err(engine_error)?;
    let highlights = highlighter.map(|highlighter| highlighter.highlights(&record, deadline)).transpose()?;
    let highlights = highlights.unwrap_or_default();
    Ok(SearchHit { score: candidate.score, highlights, ..of_record(record, candidate.segment, candidate.doc) })
}

/// The hit of a record that is document `doc` of `segment`.
pub(crate) fn of_record(record: OperationRecord, segment: SearchableSegment<'_>, doc: u32) -> SearchHit {
    let sealed = segment.is_sealed();
    SearchHit {
        sealed,
        current: segment.is_current(doc),
        seq: sealed.then_some(record.seq),
        operation: operation_fields(record),
        score: None,
        highlights: BTreeMap::new(),
    }
}

/// What every answer says of a record.
pub(crate) fn operation_fields(record: OperationRecord) -> OperationFields {
    let contributor = |c: tidemark_wal::Contributor| ContributorAnswer { name: c.name, email: c.email };
    OperationFields {
        token: record.token,
        time: instant(record.token.second()),
        kind: record.kind.as_str().to_owned(),
        op: record.op,
        outcome: record.decision.outcome,
        evidence: record.decision.evidence,
        entity: record.entity,
        repo: record.repo,
        bundle: record.bundle,
        label: record.label,
        context: record.context,
        diamond: record.diamond,
        split: record.split,
        path: record.path,
        message: record.message,
        contributors: record.contributors.into_iter().map(contributor).collect(),
        client_time: record.client_time,
        writer: record.writer,
        idempotency_key: record.idempotency_key,
        expectation: record.expectation.map(expectation),
        reason: record.reason,
    }
}

fn expectation(expected: RecordedExpectation) -> ExpectationAnswer {
    let RecordedExpectation { entity, token, conflict } = expected;
    let conflict = conflict.map(|ConflictingCommit { token, op }| ConflictAnswer { token, op });
    ExpectationAnswer { entity, token, conflict }
}

/// One record of an entry, with the document that holds it.
pub(crate) struct EntryRecord<'a> {
    pub(crate) record: OperationRecord,
    pub(crate) segment: SearchableSegment<'a>,
    pub(crate) doc: u32,
    pub(crate) corrected: bool,
}

/// The answer for an entry with these records, `None` if there are none.
pub(crate) fn entry(
    mut records: Vec<EntryRecord<'_>>,
    index_version: IndexVersion,
    mut keys: KeyHistory<'_>,
) -> Result<Option<EntryAnswer>, EngineError> {
    records.sort_by_key(|found| (found.record.op, found.record.seq));
    let Some(EntryRecord { record: first, .. }) = records.first() else { return Ok(None) };
    let (token, size, entry_time) = (first.token, first.size, first.decision.entry_time);
    let text = first.text.clone();
    let payload = whole_payload(records.iter().map(|found| &found.record));
    let sealed = records.iter().all(|found| found.segment.is_sealed());
    let mut ops: Vec<EntryOperation> = Vec::new();
    let mut corrected = Vec::new();
    for found in records {
        if found.corrected {
            corrected.push((found.record.op, found.record.seq, found.record.decision.outcome));
        } else {
            ops.push(operation(found, &mut keys)?);
        }
    }
    for (op, seq, outcome) in corrected {
        if let Some(operation) = ops.iter_mut().find(|operation| operation.hit.op == op) {
            operation.corrected.push(CorrectedOutcome { seq, outcome });
        }
    }
    let (time, entry_time) = (instant(token.second()), instant(entry_time));
    Ok(Some(EntryAnswer { token, time, entry_time, size, sealed, ops, payload, text, index_version }))
}

fn operation(found: EntryRecord<'_>, keys: &mut KeyHistory<'_>) -> Result<EntryOperation, EngineError> {
    let EntryRecord { mut record, segment, doc, corrected: _ } = found;
    let key = if segment.is_sealed() { keys.answer(&record)? } else { KeyAnswer::default() };
    let observations = std::mem::take(&mut record.decision.observations);
    let observations = observations.into_iter().map(|observation| ObservationAnswer {
        key: observation.key,
        time: instant(observation.time),
        digest: observation.digest,
        evidence: observation.evidence,
    });
    Ok(EntryOperation {
        completed: record.decision.completed.map(instant),
        observations: observations.collect(),
        descriptor: std::mem::take(&mut record.descriptor),
        files: record.files.take().map(|FileNames { names, incomplete }| FilesAnswer { names, incomplete }),
        present: None,
        corrected: Vec::new(),
        key,
        hit: of_record(record, segment, doc),
    })
}
