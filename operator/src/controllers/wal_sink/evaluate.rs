//! The conditions of a sink, as a function of what was observed.

use tidemark_crds::{BreakerPhase, ConditionStatus, PodReport, Reason, SinkConditionType, SinkReport, condition};

use super::dereference::{ObservedSink, ObservedSinkPod};
use crate::{
    cache::RolloutStatus,
    condition_value::ConditionValue,
    observed_pod::{eviction_value, silence_value, trouble_value},
    pod_report_poller::PodSilence,
};

/// Where the spec describes the pod.
const FIELD: &str = "spec";

/// The conditions of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SinkConditions {
    pub(crate) ready: ConditionValue,
    pub(crate) applied: ConditionValue,
    pub(crate) delivering: ConditionValue,
    /// `Reconciling` or `Stalled`, as long as `Applied` does not hold.
    pub(crate) progress: Option<(SinkConditionType, ConditionValue)>,
}

/// Evaluates them. `unapplied` is why the children are not as they should be, if that is known.
pub(crate) fn evaluate(observed: &ObservedSink, unapplied: Option<&ConditionValue>) -> SinkConditions {
    let applied = applied(observed, unapplied);
    let delivering = delivering(observed);
    SinkConditions { ready: ready(observed, unapplied, &delivering), progress: progress(&applied), applied, delivering }
}

fn ready(observed: &ObservedSink, unapplied: Option<&ConditionValue>, delivering: &ConditionValue) -> ConditionValue {
    if let Some(unapplied) = unapplied {
        return unapplied.clone();
    }
    match (delivering.status, delivering.reason) {
        // As the spec asks.
        (_, Reason::Suspended) if observed.spec.suspend => {
            ConditionValue::yes(Reason::Suspended, delivering.message.clone())
        }
        (ConditionStatus::True, _) => ConditionValue::yes(Reason::Ready, "what is published is delivered"),
        _ => delivering.clone(),
    }
}

fn applied(observed: &ObservedSink, unapplied: Option<&ConditionValue>) -> ConditionValue {
    if let Some(unapplied) = unapplied {
        return unapplied.clone();
    }
    match &observed.rollout {
        Some(rollout) if rollout.is_rolled_out() => {
            ConditionValue::yes(Reason::Applied, "the pod is made of the present spec")
        }
        Some(rollout) if rollout.stalled => ConditionValue::no(
            Reason::RollOutStalled,
            format!(
                "the pod of the present spec does not start, and the one before it goes on{}; see \"kubectl get pods\" and remove the cause, \
                 or change the spec back",
                cause(rollout)
            ),
        ),
        Some(rollout) => ConditionValue::no(
            Reason::RollingOut,
            format!("the pod of the present spec takes the place of the one before it{}", cause(rollout)),
        ),
        None => ConditionValue::no(Reason::RollingOut, "the Deployment of the sink is being made"),
    }
}

fn cause(rollout: &RolloutStatus) -> String {
    match &rollout.failure {
        _ if rollout.paused => "; the Deployment is paused: run \"kubectl rollout resume\"".to_owned(),
        Some(failure) => format!("; {failure}"),
        None => String::new(),
    }
}

fn progress(applied: &ConditionValue) -> Option<(SinkConditionType, ConditionValue)> {
    if applied.status == ConditionStatus::True {
        return None;
    }
    let kind = match applied.reason {
        Reason::RollingOut => SinkConditionType::Reconciling,
        _ => SinkConditionType::Stalled,
    };
    Some((kind, ConditionValue::yes(applied.reason, applied.message.clone())))
}

fn delivering(observed: &ObservedSink) -> ConditionValue {
    let wanted = observed.rollout.as_ref().map_or(0, |rollout| rollout.wanted);
    let Some(seen) = observed.active_pod() else {
        return match observed.rollout.as_ref().and_then(|rollout| rollout.failure.as_deref()) {
            Some(failure) => ConditionValue::no(
                Reason::PodRefused,
                format!("the cluster refuses to make the pod: {failure}; nothing is delivered; remove the cause"),
            ),
            None if observed.spec.suspend => ConditionValue::no(
                Reason::Suspended,
                "the delivery is suspended; it goes on where it was when \"spec.suspend\" is false",
            ),
            None if wanted == 0 => ConditionValue::no(
                Reason::NoReplicas,
                "no pod of the sink is wanted; nothing is delivered; see the condition Applied, and the replicas of its Deployment",
            ),
            None => evicted(observed)
                .unwrap_or_else(|| ConditionValue::no(Reason::Starting, "the pod of the sink is being made")),
        };
    };
    if let Some(trouble) = &seen.pod.trouble {
        return trouble_value(&seen.pod.name, trouble, FIELD);
    }
    match seen.answer() {
        Some((report, sink)) => reported(observed, seen, report, sink),
        None if seen.observation.silence() == PodSilence::Final || seen.observation.foreign.is_some() => {
            silence_value(&seen.pod.name, &seen.observation, false)
        }
        // It may be about to say the same.
        None => match before(observed).filter(|before| is_of_a_report(before.reason)) {
            Some(before) if seen.observation.is_unpolled() => before,
            _ => ConditionValue::unknown(Reason::Starting, format!("pod \"{}\" starts", seen.pod.name)),
        },
    }
}

/// What a pod that its node removed leaves, while no other one is there.
fn evicted(observed: &ObservedSink) -> Option<ConditionValue> {
    let evicted = observed.pods.iter().filter(|seen| seen.pod.eviction.is_some());
    let last = evicted.max_by_key(|seen| seen.pod.created)?;
    Some(eviction_value(&last.pod.name, last.pod.eviction.as_ref()?, FIELD))
}

fn reported(observed: &ObservedSink, seen: &ObservedSinkPod, report: &PodReport, sink: &SinkReport) -> ConditionValue {
    let pod = &seen.pod.name;
    if let Some(problem) = report.problems.first() {
        return ConditionValue::no(problem.reason, problem.message.clone());
    }
    if !sink.holding {
        return ConditionValue::no(
            Reason::Standby,
            format!(
                "pod \"{pod}\" waits until the process that held the consumer is gone; it takes over a minute after that one falls silent"
            ),
        );
    }
    if let Some(why) = &sink.blocked {
        return steady(observed, Reason::DeliveryBlocked, || {
            format!(
                "the destination refuses a record, and nothing after it is delivered: {why}; it is tried again; correct the destination, or \
                 set \"spec.onRejected\" to DeadLetter"
            )
        });
    }
    match sink.breaker {
        BreakerPhase::Closed if sink.is_doubtful() => doubtful(observed, sink),
        BreakerPhase::Closed => ConditionValue::yes(Reason::Delivering, "the destination takes what it is sent"),
        BreakerPhase::HalfOpen | BreakerPhase::Open => steady(observed, Reason::DestinationUnavailable, || {
            let why = sink.last_error.as_deref().unwrap_or("it fails");
            format!(
                "the destination takes nothing: {why}; the sink waits and tries again, nothing is lost, and the lag grows; see \
                 \"status.lastError\", and make the destination take requests"
            )
        }),
    }
}

/// Until the breaker opens, or something is delivered, it is as it was before.
fn doubtful(observed: &ObservedSink, sink: &SinkReport) -> ConditionValue {
    before(observed).filter(|before| is_of_a_report(before.reason)).unwrap_or_else(|| {
        let why = sink.last_error.as_deref().unwrap_or("nothing was answered yet");
        ConditionValue::unknown(Reason::Starting, format!("the destination has taken nothing yet: {why}"))
    })
}

/// A value with the words that it had when it began: each attempt may fail with others, and each change is a write.
fn steady(observed: &ObservedSink, reason: Reason, message: impl FnOnce() -> String) -> ConditionValue {
    let before = before(observed).filter(|before| before.reason == reason);
    before.unwrap_or_else(|| ConditionValue::no(reason, message()))
}

/// What the condition said before.
fn before(observed: &ObservedSink) -> Option<ConditionValue> {
    condition(&observed.status.conditions, SinkConditionType::Delivering).map(ConditionValue::repeated)
}

/// Whether only a pod's report gives this reason.
pub(super) fn is_of_a_report(reason: Reason) -> bool {
    matches!(reason, Reason::Delivering | Reason::DestinationUnavailable | Reason::DeliveryBlocked)
}
