//! The status of a sink, its figures in the metrics, and the Events of what changed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tidemark_crds::{
    ConditionStatus, Reason, SinkConditionType, SinkPosition, SinkReport, WalSinkStatus, condition, is_true, names,
    remove_condition, set_condition,
};

use super::{
    dereference::ObservedSink,
    evaluate::{SinkConditions, is_of_a_report},
};
use crate::{
    condition_value::ConditionValue,
    event_publisher::{EventRecord, shortened},
    metrics::SinkFigures,
    problem_events::problem_events,
    status_writer::ReportedStatus,
};

/// The longest message of a condition that the API server takes. A pod may report a longer one.
const MAX_MESSAGE_BYTES: usize = 32768;
/// The longest `lastError`: a destination may answer with a page.
const MAX_ERROR_BYTES: usize = 1024;

/// The status that follows from what was observed.
pub(crate) fn next(observed: &ObservedSink, conditions: &SinkConditions, now: Timestamp) -> WalSinkStatus {
    let mut status = observed.status.clone();
    let generation = observed.generation;
    status.observed_generation = generation;
    status.consumer = Some(names::sink_consumer(&observed.key.name, &observed.uid));
    status.image.clone_from(&observed.image);
    let SinkConditions { ready, applied, delivering, progress } = conditions;
    let mut set = |kind, value: &ConditionValue| {
        let ConditionValue { status: holds, reason, message } = value;
        let message = shortened(message, MAX_MESSAGE_BYTES);
        set_condition(&mut status.conditions, kind, *holds, *reason, message, generation, now);
    };
    set(SinkConditionType::Ready, ready);
    set(SinkConditionType::Applied, applied);
    set(SinkConditionType::Delivering, delivering);
    for kind in [SinkConditionType::Reconciling, SinkConditionType::Stalled] {
        match progress.as_ref().filter(|(present, _)| *present == kind) {
            Some((_, value)) => {
                let message = shortened(&value.message, MAX_MESSAGE_BYTES);
                set_condition(&mut status.conditions, kind, value.status, value.reason, message, generation, now);
            }
            None => remove_condition(&mut status.conditions, kind),
        }
    }
    match observed.active_pod().and_then(|seen| Some((seen, seen.answer()?.1))) {
        Some((seen, sink)) if sink.holding => {
            set_figures(&mut status, sink);
            status.pod = Some(seen.pod.name.to_string());
            status.observed_time = Some(Time(now));
        }
        // What is done stays done; how far the end is moves on unseen.
        _ if !is_of_a_report(delivering.reason) => forget_moving(&mut status),
        _ => {}
    }
    status
}

fn set_figures(status: &mut WalSinkStatus, sink: &SinkReport) {
    let counter = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
    if let Some(place) = &sink.acknowledged {
        let seq = i64::try_from(place.seq).unwrap_or(i64::MAX);
        status.acknowledged = Some(SinkPosition { generation: place.generation.clone(), seq });
    }
    status.lag_operations = sink.lag_operations.and_then(counter);
    status.lag_seconds = sink.lag_seconds.and_then(counter);
    status.unacknowledged = counter(sink.unacknowledged);
    status.unacknowledged_bytes = counter(sink.unacknowledged_bytes);
    status.delivered = counter(sink.delivered);
    status.dead_lettered = counter(sink.dead_lettered);
    status.breaker = Some(sink.breaker.into());
    status.last_error = sink.last_error.as_deref().map(|error| shortened(error, MAX_ERROR_BYTES).to_owned());
}

/// Forgets what is not known any more without a pod that answers.
fn forget_moving(status: &mut WalSinkStatus) {
    (status.lag_operations, status.lag_seconds) = (None, None);
    (status.unacknowledged, status.unacknowledged_bytes) = (None, None);
    (status.breaker, status.pod) = (None, None);
}

/// What the metrics say of a sink with this status.
pub(crate) fn figures(status: &WalSinkStatus) -> SinkFigures {
    SinkFigures {
        lag_operations: status.lag_operations,
        lag_seconds: status.lag_seconds,
        dead_letters: status.dead_lettered,
    }
}

/// The Events of what changed.
pub(crate) fn events_between(before: &WalSinkStatus, after: &WalSinkStatus) -> Vec<EventRecord> {
    let mut events = problem_events(before.conditions.iter(), after.conditions.iter());
    let was = is_true(&before.conditions, SinkConditionType::Delivering);
    let delivering = condition(&after.conditions, SinkConditionType::Delivering);
    if let Some(now) = delivering.filter(|now| now.status == ConditionStatus::True.as_str() && !was) {
        events.push(EventRecord::normal("Delivering", now.message.clone()));
    }
    let reason = |status: &WalSinkStatus| {
        condition(&status.conditions, SinkConditionType::Delivering).map(|condition| condition.reason.clone())
    };
    let suspended = Reason::Suspended.as_str();
    if reason(after).as_deref() == Some(suspended) && reason(before).as_deref() != Some(suspended) {
        let message = delivering.map(|now| now.message.clone()).unwrap_or_default();
        events.push(EventRecord::normal("Suspended", message));
    }
    if after.dead_lettered > before.dead_lettered.or(Some(0)) {
        let count = after.dead_lettered.unwrap_or_default();
        events.push(EventRecord::warning(
            "DeadLettered",
            format!(
                "{count} records were put aside since the sink was made, as the destination will never take them; they are in the index \
                 below \"consumers/{}/dead-letters/\"",
                after.consumer.as_deref().unwrap_or_default()
            ),
        ));
    }
    events
}

impl ReportedStatus for WalSinkStatus {
    fn without_counters(&self) -> Self {
        Self {
            acknowledged: None,
            lag_operations: None,
            lag_seconds: None,
            unacknowledged: None,
            unacknowledged_bytes: None,
            delivered: None,
            dead_lettered: None,
            last_error: None,
            observed_time: None,
            ..self.clone()
        }
    }

    fn with_clock_of(&self, before: &Self) -> Self {
        Self { observed_time: before.observed_time.clone(), ..self.clone() }
    }

    fn observed_time(&self) -> Option<Timestamp> {
        self.observed_time.as_ref().map(|time| time.0)
    }
}
