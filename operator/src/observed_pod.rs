//! A pod, what it reports about itself, and what that means for a condition.

use std::sync::Arc;

use tidemark_crds::{PodReport, Reason};

use crate::{
    cache::{DataPod, PodEviction, PodTrouble},
    condition_value::ConditionValue,
    pod_report_poller::{ForeignReport, PodObservation},
};

/// A pod, and what it reports about itself.
#[derive(Clone, Debug)]
pub(crate) struct ObservedPod {
    pub(crate) pod: Arc<DataPod>,
    pub(crate) observation: PodObservation,
}

impl ObservedPod {
    /// Its report, while it answers. What an evicted pod said last does not count.
    pub(crate) fn answer(&self) -> Option<&PodReport> {
        self.observation.answer().filter(|_| self.pod.eviction.is_none())
    }

    /// How its node removed it, if it did.
    pub(crate) fn evicted(&self) -> Option<ConditionValue> {
        Some(eviction_value(&self.pod.name, self.pod.eviction.as_ref()?, &self.field()))
    }

    /// Where the spec describes its role.
    fn field(&self) -> String {
        format!("spec.{}", self.pod.component.as_str())
    }

    /// What keeps it from running.
    pub(crate) fn trouble(&self) -> Option<ConditionValue> {
        Some(trouble_value(&self.pod.name, self.pod.trouble.as_ref()?, &self.field()))
    }

    /// Its state is not known. `upgrade_pending`: an upgrade will replace it.
    pub(crate) fn not_answering(&self, upgrade_pending: bool) -> ConditionValue {
        silence_value(&self.pod.name, &self.observation, upgrade_pending)
    }
}

/// How its node removed the pod `pod`, whose role the spec describes in `field`.
pub(crate) fn eviction_value(pod: &str, eviction: &PodEviction, field: &str) -> ConditionValue {
    let PodEviction { time, message, .. } = eviction;
    let time = time.map_or_else(String::new, |time| format!(" at {time}"));
    ConditionValue::no(
        Reason::PodEvicted,
        format!(
            "the node evicted pod \"{pod}\"{time}: {message}; the pod that takes its place begins with an empty cache; if the \
             node lacks disk or the cache exceeds its limit, raise \"{field}.cache.size\" or give it a volumeClaimTemplate, \
             and if it lacks memory, request more in \"{field}.resources\""
        ),
    )
}

/// What keeps the pod `pod` from running, whose role the spec describes in `field`.
pub(crate) fn trouble_value(pod: &str, trouble: &PodTrouble, field: &str) -> ConditionValue {
    match trouble {
        PodTrouble::Unschedulable(why) => ConditionValue::no(
            Reason::PodUnschedulable,
            format!(
                "no node takes pod \"{pod}\": {why}; it does not run; add capacity, or request less in \"{field}.resources\""
            ),
        ),
        PodTrouble::Image(image) => ConditionValue::no(
            Reason::ImageNotFound,
            format!(
                "the image \"{image}\" of pod \"{pod}\" cannot be pulled; it does not run; correct the chart's image values, \
                 or give imagePullSecrets in \"{field}.podTemplate\""
            ),
        ),
        PodTrouble::Config(why) => ConditionValue::no(
            Reason::PodRefused,
            format!("the container of pod \"{pod}\" cannot be created: {why}; it does not run; remove the cause"),
        ),
        PodTrouble::Crashing(how) => ConditionValue::no(
            Reason::PodCrashing,
            format!(
                "the program of pod \"{pod}\" crashes repeatedly ({how}); it does no work; read \"kubectl logs {pod} \
                 --previous\""
            ),
        ),
    }
}

/// The state of the pod `pod` is not known. `upgrade_pending`: an upgrade will replace it.
pub(crate) fn silence_value(pod: &str, observation: &PodObservation, upgrade_pending: bool) -> ConditionValue {
    if let Some(foreign) = observation.foreign {
        return unidentified(pod, foreign, upgrade_pending);
    }
    let since = match observation.seen {
        Some(seen) => format!("has not answered the operator since {seen}"),
        None => "has not answered the operator yet".to_owned(),
    };
    ConditionValue::unknown(
        Reason::PodNotAnswering,
        format!(
            "pod \"{pod}\" {since}; whether it works is not known; check its node, and whether a NetworkPolicy keeps the \
             operator from port http"
        ),
    )
}

/// What answers at its address does not say that it is this pod.
fn unidentified(pod: &str, foreign: ForeignReport, upgrade_pending: bool) -> ConditionValue {
    let message = match foreign {
        ForeignReport::Unnamed if upgrade_pending => format!(
            "pod \"{pod}\" does not say which pod it is, as those of older builds; its reports are ignored, so whether it works is not \
             known; an upgrade replaces it, see the condition UpgradePending for what that waits for"
        ),
        ForeignReport::Unnamed => format!(
            "what answers for pod \"{pod}\" does not say which pod it is; its reports are ignored, so whether it works is not known; see \
             \"kubectl get pod {pod} -o wide\" and which proxy answers at its address, and \"kubectl describe pod {pod}\" for its image"
        ),
        ForeignReport::Other => format!(
            "another process answers at the address of pod \"{pod}\"; its reports are ignored, so whether the pod works is not known; \
             see \"kubectl get pod {pod} -o wide\" and which pod or proxy has the same address"
        ),
    };
    ConditionValue::unknown(Reason::PodUnidentified, message)
}
