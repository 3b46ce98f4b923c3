//! The history of an entity as a timeline: what each operation did, and how long after the one before it.

use serde_json::Value;
use tidemark_wal::Outcome;

use super::{
    api::{HistoryStep, KeyAnswer},
    error::SearchError,
    hits,
    key_history::KeyHistory,
    searchable_segment::engine_error,
    top_k::HitCandidate,
};

/// The longest `action`, in bytes; what is longer is none.
const MAX_ACTION_BYTES: usize = 256;

/// The steps of these operations, the newest of which is the first.
pub(crate) fn steps_of(
    newest_first: &[HitCandidate<'_>],
    mut keys: KeyHistory<'_>,
) -> Result<Vec<HistoryStep>, SearchError> {
    let steps: Result<Vec<_>, _> = newest_first.iter().map(|candidate| step(candidate, &mut keys)).collect();
    let mut steps = steps?;
    let mut previous = None;
    for step in steps.iter_mut().rev().filter(|step| step.hit.outcome == Outcome::Committed) {
        let time = step.hit.time;
        let since = previous.replace(time).map(|previous| time.duration_since(previous).as_secs());
        step.seconds_since_previous = since.map(|seconds| seconds.try_into().unwrap_or_default());
    }
    Ok(steps)
}

fn step(candidate: &HitCandidate<'_>, keys: &mut KeyHistory<'_>) -> Result<HistoryStep, SearchError> {
    let HitCandidate { segment, doc, .. } = *candidate;
    let record = segment.record(doc).map_err(engine_error)?;
    let action = action(&record.payload);
    let key = if segment.is_sealed() { keys.answer(&record).map_err(engine_error)? } else { KeyAnswer::default() };
    Ok(HistoryStep { hit: hits::of_record(record, segment, doc), action, seconds_since_previous: None, key })
}

/// The attribute `action` of an operation whose record has this payload: its own, which stands before that of all operations.
fn action(payload: &Value) -> Option<String> {
    let attribute = |place: &str| payload.pointer(place).and_then(Value::as_str);
    let action = attribute("/ops/0/attributes/action").or_else(|| attribute("/attributes/action"))?;
    (!action.is_empty() && action.len() <= MAX_ACTION_BYTES).then(|| action.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_action_is_that_of_the_operation_before_that_of_the_entry() {
        let own = json!({"attributes": {"action": "received"}, "ops": [{"attributes": {"action": "started"}}]});
        assert_eq!(action(&own).as_deref(), Some("started"));
        let common = json!({"attributes": {"action": "received"}, "ops": [{"kind": "entry"}]});
        assert_eq!(action(&common).as_deref(), Some("received"));
        for none in [
            json!({"attributes": {"action": 7}}),
            json!({"attributes": {"action": ""}}),
            json!({"attributes": {"action": "x".repeat(MAX_ACTION_BYTES + 1)}}),
            json!({"action": "started"}),
            Value::Null,
        ] {
            assert_eq!(action(&none), None, "{none}");
        }
    }
}
