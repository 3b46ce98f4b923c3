//! Outcomes of entries below the log's floor, decided again from what the archive holds of them: the body, and the store times of the entry
//! and of the descriptors that were seen.

use bytes::Bytes;
use tidemark_catalog::LogCursor;
use tidemark_store::StoreSecond;
use tidemark_wal::{GuardObservation, Outcome, ParameterSchedule, RecordedFacts, RecordedOperation, Token};

use crate::record::OperationRecord;

/// Takes rows in token order, and decides each entry below the floor when its rows are complete.
pub(super) struct ArchivedOutcomes<'a> {
    schedule: &'a ParameterSchedule,
    floor: LogCursor,
    entry: Option<EntryRows>,
}

/// The rows of an entry, as far as they came.
struct EntryRows {
    token: Token,
    time: StoreSecond,
    /// `None`: it was too large to be read.
    body: Option<Bytes>,
    /// By row: the operation, and what is archived of its outcome.
    outcomes: Vec<(u32, Outcome)>,
    /// By row: what is archived of it besides.
    operations: Vec<RecordedOperation>,
    /// The guard that was seen.
    guard: Option<GuardObservation>,
}

/// What came of an entry.
pub(super) struct ArchivedVerdict {
    pub(super) token: Token,
    /// How many operations were decided; 0 where the archive lacks what decides them.
    pub(super) decided: u64,
    /// Those that are archived as something else: the operation, and why.
    pub(super) differ: Vec<(u32, String)>,
    /// Why none was decided although the archive has the body: this release reads something else in it.
    pub(super) parsed_otherwise: Option<String>,
}

impl<'a> ArchivedOutcomes<'a> {
    pub(super) fn new(schedule: &'a ParameterSchedule, floor: LogCursor) -> Self {
        Self { schedule, floor, entry: None }
    }

    /// Takes the next row. Gives what came of the entry before, if this row is of another one.
    pub(super) fn push(&mut self, row: &OperationRecord) -> Option<ArchivedVerdict> {
        let before =
            if self.entry.as_ref().is_some_and(|entry| entry.token != row.token) { self.finish() } else { None };
        if self.floor.covers(row.token) {
            let entry = self.entry.get_or_insert_with(|| EntryRows {
                token: row.token,
                time: row.decision.entry_time,
                body: row.body.bytes().map(Bytes::copy_from_slice),
                outcomes: Vec::new(),
                operations: Vec::new(),
                guard: row.decision.guard.clone(),
            });
            entry.outcomes.push((row.op, row.decision.outcome));
            let seen = row.decision.observations.first().cloned();
            entry.operations.push(RecordedOperation { descriptor: row.path.clone(), seen });
        }
        before
    }

    /// What came of the last entry.
    pub(super) fn finish(&mut self) -> Option<ArchivedVerdict> {
        let EntryRows { token, time, body, outcomes, operations, guard } = self.entry.take()?;
        let mut verdict = ArchivedVerdict { token, decided: 0, differ: Vec::new(), parsed_otherwise: None };
        let Some(body) = body else { return Some(verdict) };
        let was_malformed = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Malformed);
        let facts = RecordedFacts { token, entry_time: time, body: &body, was_malformed, operations, guard };
        match facts.decide(self.schedule) {
            Ok(now) => {
                verdict.decided = outcomes.len() as u64;
                let differs = |(op, was): &(u32, Outcome)| {
                    let why = || format!("it is archived as {}, and is {}", was.as_str(), now.as_str());
                    (rule_outcome(*was) != now).then(|| (*op, why()))
                };
                verdict.differ = outcomes.iter().filter_map(differs).collect();
            }
            Err(error) => verdict.parsed_otherwise = Some(error.to_string()),
        }
        Some(verdict)
    }
}

/// What the outcome was before other entries were looked at.
fn rule_outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Duplicate | Outcome::Conflicted => Outcome::Committed,
        outcome => outcome,
    }
}
