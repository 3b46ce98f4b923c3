//! What the conditions of a WAL are made from.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, PodPhase, PodReport, Reason, RestoreStatus, condition, names::WalComponent};

use super::protection::ProtectionState;
use crate::{
    cache::RolloutStatus, condition_value::ConditionValue, observed_pod::ObservedPod, pod_report_poller::PodSilence,
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
    /// Why the finalizer is not as the deletion policy asks, if so.
    pub(crate) unfinalized: Option<ConditionValue>,
    /// Whether every search pod asks for the token of the spec, if that names one.
    pub(crate) token_everywhere: bool,
    /// `metadata.generation` of the spec.
    pub(crate) generation: Option<i64>,
    /// Whether the pods are not all of the operator's release yet.
    pub(crate) upgrade_pending: bool,
    /// Whether a change of the spec waits with a new release.
    pub(crate) held: bool,
    /// The roles whose Deployment is made of an earlier spec.
    pub(crate) outdated: Vec<WalComponent>,
    /// Why not all children could be written yet, if that may pass by itself.
    pub(crate) unwritten: Option<String>,
    /// Schedules and tasks.
    pub(crate) protection: ProtectionState<'a>,
    /// What a task restored the index to, if nobody promoted it since.
    pub(crate) restored: Option<&'a RestoreStatus>,
}

impl ConditionInputs<'_> {
    /// Everything that the spec asks for and the cluster, or the operator, refuses.
    pub(crate) fn refusals(&self) -> Option<ConditionValue> {
        match (&self.refused, &self.unfinalized) {
            (Some(refused), Some(unfinalized)) => {
                let message = format!("{}; {}", refused.message, unfinalized.message);
                Some(ConditionValue { message, ..refused.clone() })
            }
            (refused, unfinalized) => refused.as_ref().or(unfinalized.as_ref()).cloned(),
        }
    }

    /// The indexer pod whose counters count: the writer of the highest epoch, else the one with the most to report.
    pub(crate) fn active_indexer(&self) -> Option<(&ObservedPod, &PodReport)> {
        let answering = self.pods_of(WalComponent::Indexer).filter_map(|seen| Some((seen, seen.answer()?)));
        let counting = answering.filter(|(seen, process)| !seen.pod.terminating || holds_index(process));
        counting.max_by_key(|(seen, process)| (rank(process), process.epoch, seen.pod.name.clone()))
    }

    pub(super) fn rollout(&self, component: WalComponent) -> Option<&RolloutStatus> {
        match component {
            WalComponent::Indexer => self.indexer,
            WalComponent::Search => self.search,
        }
    }

    pub(super) fn pods_of(&self, component: WalComponent) -> impl Iterator<Item = &ObservedPod> {
        self.pods.iter().filter(move |seen| seen.pod.component == component)
    }

    /// What is said of a pod that has not answered for too long, though it runs.
    pub(super) fn not_answering(&self, component: WalComponent) -> Option<ConditionValue> {
        let is_silent = |seen: &&ObservedPod| seen.observation.silence() == PodSilence::Final;
        let mut silent = self.pods_of(component).filter(|seen| !seen.pod.terminating).filter(is_silent);
        silent.next().map(|seen| seen.not_answering(self.upgrade_pending))
    }

    /// What is said of a Deployment that asks for no pod, though the spec does.
    pub(super) fn no_replicas(&self, component: WalComponent) -> Option<ConditionValue> {
        self.rollout(component).filter(|rollout| rollout.wanted == 0)?;
        Some(ConditionValue::no(
            Reason::NoReplicas,
            format!(
                "the {} Deployment asks for no pods, though the spec does; none runs; see the condition Applied for what keeps the Deployment \
                 from being written",
                component.as_str()
            ),
        ))
    }

    /// Whether a pod runs that has not been polled yet, as after a restart of the operator: what was known before still counts.
    pub(crate) fn has_unpolled(&self, component: WalComponent) -> bool {
        self.pods_of(component)
            .any(|seen| !seen.pod.terminating && seen.pod.address.is_some() && seen.observation.is_unpolled())
    }

    /// What keeps pods from running.
    pub(super) fn pod_failure(&self, component: WalComponent) -> Option<ConditionValue> {
        let mut troubled = self.pods_of(component).filter(|seen| !seen.pod.terminating);
        let refused = troubled.find_map(ObservedPod::trouble).or_else(|| {
            let failure = self.rollout(component)?.failure.as_deref()?;
            Some(ConditionValue::no(
                Reason::PodRefused,
                format!(
                    "the cluster refuses the {} pod: {failure}; it does not run; change the policy that refuses it, or the WAL",
                    component.as_str()
                ),
            ))
        });
        refused.or_else(|| self.recent_eviction(component))
    }

    /// An eviction, until a pod that was made later runs. Evicted pods are kept for long; one does not say why later pods do not
    /// answer.
    fn recent_eviction(&self, component: WalComponent) -> Option<ConditionValue> {
        let others = self.pods_of(component).map(|seen| &seen.pod).filter(|pod| pod.eviction.is_none());
        let newest = others.filter_map(|pod| pod.created).max();
        let evicted = self.pods_of(component).filter(|seen| !seen.pod.terminating && seen.pod.eviction.is_some());
        let last = evicted.max_by_key(|seen| seen.pod.eviction.as_ref().and_then(|eviction| eviction.time))?;
        let eviction = last.pod.eviction.as_ref()?;
        let is_recent =
            newest.zip(eviction.time).is_none_or(|(newest, time)| newest.duration_since(time) <= REPLACEMENT_TIME);
        (is_recent && !eviction.replaced).then(|| last.evicted()).flatten()
    }

    /// What the condition says now. That the WAL could not be read is over.
    pub(super) fn before(&self, kind: ConditionType) -> Option<&Condition> {
        condition(self.before, kind).filter(|before| before.reason != Reason::SpecInvalid.as_str())
    }
}

/// A pod that was made within this time after another one was evicted takes its place. The two times are of different clocks.
const REPLACEMENT_TIME: SignedDuration = SignedDuration::from_mins(5);

/// Whether the process is the index's writer.
fn holds_index(process: &PodReport) -> bool {
    matches!(process.phase, PodPhase::Writing | PodPhase::Purging | PodPhase::Purged)
}

fn rank(process: &PodReport) -> u8 {
    match process.phase {
        _ if holds_index(process) => 3,
        _ if !process.problems.is_empty() => 2,
        PodPhase::Standby | PodPhase::Restoring => 1,
        _ => 0,
    }
}
