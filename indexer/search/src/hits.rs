//! From records to what answers carry.

use super::{
    api::{
        ContributorAnswer, CorrectedOutcome, EntryAnswer, EntryOperation, IndexPosition, ObservationAnswer, SearchHit,
        instant,
    },
    execute::Candidate,
    parts::Part,
};
use tidemark_ingest::{OperationRecord, engine::EngineError, whole_payload};

/// The hit of a candidate.
pub(crate) fn hit(candidate: &Candidate<'_>) -> Result<SearchHit, EngineError> {
    let record = candidate.part.record(candidate.doc)?;
    Ok(SearchHit { score: candidate.score, ..of_record(record, candidate.part, candidate.doc) })
}

/// The hit of a record that is document `doc` of `part`.
pub(crate) fn of_record(record: OperationRecord, part: Part<'_>, doc: u32) -> SearchHit {
    let sealed = part.is_sealed();
    let person = |c: tidemark_wal::Contributor| ContributorAnswer { name: c.name, email: c.email };
    SearchHit {
        token: record.token,
        time: instant(record.token.second()),
        kind: record.kind.as_str().to_owned(),
        op: record.op,
        outcome: record.decision.outcome,
        evidence: record.decision.evidence,
        sealed,
        current: part.is_current(doc),
        seq: sealed.then_some(record.seq),
        entity: record.entity,
        repo: record.repo,
        bundle: record.bundle,
        label: record.label,
        context: record.context,
        diamond: record.diamond,
        split: record.split,
        path: record.path,
        message: record.message,
        contributors: record.contributors.into_iter().map(person).collect(),
        client_time: record.client_time,
        writer: record.writer,
        idempotency_key: record.idempotency_key,
        reason: record.reason,
        score: None,
    }
}

/// One record of an entry, with its place.
pub(crate) struct Found<'a> {
    pub(crate) record: OperationRecord,
    pub(crate) part: Part<'a>,
    pub(crate) doc: u32,
    pub(crate) corrected: bool,
}

/// The answer for an entry with these records, `None` if there are none.
pub(crate) fn entry(mut found: Vec<Found<'_>>, position: IndexPosition) -> Option<EntryAnswer> {
    found.sort_by_key(|found| (found.record.op, found.record.seq));
    let first = &found.first()?.record;
    let (token, size, entry_time) = (first.token, first.size, first.decision.entry_time);
    let text = first.text.clone();
    let payload = whole_payload(found.iter().map(|found| &found.record));
    let sealed = found.iter().all(|found| found.part.is_sealed());
    let mut ops: Vec<EntryOperation> = Vec::new();
    let mut corrected = Vec::new();
    for found in found {
        if found.corrected {
            corrected.push((found.record.op, found.record.seq, found.record.decision.outcome));
        } else {
            ops.push(operation(found));
        }
    }
    for (op, seq, outcome) in corrected {
        if let Some(operation) = ops.iter_mut().find(|operation| operation.hit.op == op) {
            operation.corrected.push(CorrectedOutcome { seq, outcome });
        }
    }
    let (time, entry_time) = (instant(token.second()), instant(entry_time));
    Some(EntryAnswer { token, time, entry_time, size, sealed, ops, payload, text, position })
}

fn operation(found: Found<'_>) -> EntryOperation {
    let Found { mut record, part, doc, corrected: _ } = found;
    let observations = std::mem::take(&mut record.decision.observations);
    let observations = observations.into_iter().map(|observation| ObservationAnswer {
        key: observation.key,
        time: instant(observation.time),
        digest: observation.digest,
        evidence: observation.evidence,
    });
    EntryOperation {
        completed: record.decision.completed.map(instant),
        observations: observations.collect(),
        descriptor: std::mem::take(&mut record.descriptor),
        corrected: Vec::new(),
        hit: of_record(record, part, doc),
    }
}
