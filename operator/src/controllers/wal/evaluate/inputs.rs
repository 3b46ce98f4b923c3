//! What the conditions of a WAL are made from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, PodPhase, PodReport, Reason, condition, names::WalComponent};

use crate::{
    cache::{DataPod, PodTrouble, RolloutStatus},
    condition_value::ConditionValue,
    controllers::wal::observed_pod::ObservedPod,
};

/// What was observed of a WAL.
#[derive(Debug)]
pub(crate) struct ConditionInputs<'a> {
    pub(crate) suspended: bool,
    pub(crate) search_wanted: bool,
    pub(crate) indexer: Option<&'a RolloutStatus>,
    pub(crate) search: Option<&'a RolloutStatus>,
    pub(crate) pods: &'a [ObservedPod],
    /// The conditions as they are now.
    pub(crate) before: &'a [Condition],
    /// Why the spec or one of the children is not in force, if so.
    pub(crate) refused: Option<ConditionValue>,
    /// Whether every search pod asks for the token of the spec, if that names one.
    pub(crate) token_everywhere: bool,
}

impl ConditionInputs<'_> {
    /// The indexer pod whose counters count: the writer of the highest epoch, else the one with the most to report.
    pub(crate) fn active_indexer(&self) -> Option<(&ObservedPod, &PodReport)> {
        let answering = self.pods_of(WalComponent::Indexer).filter_map(|seen| Some((seen, seen.answer()?)));
        let counting = answering.filter(|(seen, process)| !seen.pod.terminating || holds_index(process));
        counting.max_by_key(|(seen, process)| (rank(process), process.epoch, seen.pod.name.clone()))
    }

    pub(super) fn pods_of(&self, component: WalComponent) -> impl Iterator<Item = &ObservedPod> {
        self.pods.iter().filter(move |seen| seen.pod.component == component)
    }

    /// A pod that has not answered for too long, though it runs.
    pub(super) fn silent_pod(&self, component: WalComponent) -> Option<&ObservedPod> {
        self.pods_of(component).find(|seen| {
            // A pod that has never answered may still be on its way.
            let patience = if seen.observation.seen.is_some() { 0 } else { MAX_UNANSWERED_POLLS };
            !seen.pod.terminating && seen.observation.is_silent() && seen.observation.failures >= patience
        })
    }

    /// Whether a pod runs that has not been polled yet, as after a restart of the operator: what was known before still counts.
    pub(super) fn has_unpolled(&self, component: WalComponent) -> bool {
        self.pods_of(component)
            .any(|seen| !seen.pod.terminating && seen.pod.address.is_some() && seen.observation.is_unpolled())
    }

    /// What keeps pods from running.
    pub(super) fn pod_failure(&self, component: WalComponent) -> Option<ConditionValue> {
        let mut troubled = self.pods_of(component).filter(|seen| !seen.pod.terminating);
        troubled.find_map(|seen| Some(failure_value(seen.pod.trouble.as_ref()?, &seen.pod))).or_else(|| {
            let rollout = match component {
                WalComponent::Indexer => self.indexer,
                WalComponent::Search => self.search,
            };
            let failure = rollout?.failure.as_deref()?;
            Some(ConditionValue::no(
                Reason::PodRefused,
                format!(
                    "the cluster refuses the {} pod: {failure}; it does not run; change the policy that refuses it, or the WAL",
                    component.as_str()
                ),
            ))
        })
    }

    pub(super) fn before(&self, kind: ConditionType) -> Option<&Condition> {
        condition(self.before, kind)
    }
}

/// After this many failed polls a pod that has never answered counts as not answering.
pub(super) const MAX_UNANSWERED_POLLS: u32 = 5;

/// Whether the process is the index's writer.
fn holds_index(process: &PodReport) -> bool {
    matches!(process.phase, PodPhase::Writing | PodPhase::Purging | PodPhase::Purged)
}

fn rank(process: &PodReport) -> u8 {
    match process.phase {
        _ if holds_index(process) => 3,
        _ if !process.problems.is_empty() => 2,
        PodPhase::Standby => 1,
        _ => 0,
    }
}

fn failure_value(trouble: &PodTrouble, pod: &DataPod) -> ConditionValue {
    let (pod, role) = (&pod.name, pod.component.as_str());
    match trouble {
        PodTrouble::Unschedulable(why) => ConditionValue::no(
            Reason::PodUnschedulable,
            format!(
                "no node takes pod \"{pod}\": {why}; it does not run; add capacity, or request less in \"spec.{role}.resources\""
            ),
        ),
        PodTrouble::Image(image) => ConditionValue::no(
            Reason::ImageNotFound,
            format!(
                "the image \"{image}\" of pod \"{pod}\" cannot be pulled; it does not run; correct the chart's image values, \
                 or give imagePullSecrets in \"spec.{role}.podTemplate\""
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

/// A pod whose state is not known.
pub(super) fn not_answering(seen: &ObservedPod) -> ConditionValue {
    let pod = &seen.pod.name;
    let since = match seen.observation.seen {
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
