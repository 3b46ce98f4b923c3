//! What is true of a WAL, from what was seen: pure, so that every case is a line of a table.
//!
//! A message says the fact, its effect and the remedy, and holds no figure that moves: a condition that says the same thing
//! in other words every few seconds would be written every few seconds.

mod indexing;
mod search;
mod storage;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionStatus, ConditionType, Reason, condition, names::Component};

use super::observe::Observation;
use crate::{
    cache::{Pod, Rollout, Trouble},
    process::{Phase, Process},
};

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: ConditionStatus,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::True, reason, message: message.into() }
    }

    pub(crate) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::False, reason, message: message.into() }
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::Unknown, reason, message: message.into() }
    }

    /// What a condition said before.
    fn repeated(before: &Condition) -> Self {
        let status = match before.status.as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        };
        let reason = Reason::parse(&before.reason).unwrap_or(Reason::Internal);
        Self { status, reason, message: before.message.clone() }
    }
}

/// A pod, and what it says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pod: Arc<Pod>,
    pub(crate) observation: Observation,
}

impl Seen {
    /// What it says, while it answers.
    pub(crate) fn answer(&self) -> Option<&Process> {
        self.observation.answer()
    }
}

/// What was seen of a WAL.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) suspended: bool,
    pub(crate) search_wanted: bool,
    pub(crate) indexer: Option<&'a Rollout>,
    pub(crate) search: Option<&'a Rollout>,
    pub(crate) pods: &'a [Seen],
    /// The conditions as they are now.
    pub(crate) before: &'a [Condition],
    /// Why the spec or one of the children is not in force, if so.
    pub(crate) refused: Option<Verdict>,
    /// Whether every search pod asks for the token of the spec, if that names one.
    pub(crate) token_everywhere: bool,
}

/// The conditions of a WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assessment {
    pub(crate) ready: Verdict,
    pub(crate) storage: Verdict,
    pub(crate) indexing: Verdict,
    pub(crate) search: Verdict,
}

impl Facts<'_> {
    /// The conditions that follow.
    pub(crate) fn assess(&self) -> Assessment {
        let (storage, indexing, search) = (storage::verdict(self), indexing::verdict(self), search::verdict(self));
        let ready = self.ready(&storage, &indexing, &search);
        Assessment { ready, storage, indexing, search }
    }

    fn ready(&self, storage: &Verdict, indexing: &Verdict, search: &Verdict) -> Verdict {
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        let needed: Vec<&Verdict> = if self.suspended { Vec::new() } else { vec![storage, indexing] };
        let needed = needed.into_iter().chain(self.search_wanted.then_some(search));
        let of = |status| needed.clone().find(|verdict| verdict.status == status);
        if let Some(failing) = of(ConditionStatus::False).or_else(|| of(ConditionStatus::Unknown)) {
            return failing.clone();
        }
        match (self.suspended, self.search_wanted) {
            (true, true) => Verdict::yes(
                Reason::Suspended,
                "indexing is suspended; search answers what is published; set \"spec.suspend\" to false to go on",
            ),
            (true, false) => Verdict::yes(
                Reason::Suspended,
                "indexing is suspended and search is turned off; set \"spec.suspend\" to false to go on",
            ),
            (false, true) => Verdict::yes(Reason::Ready, "the log is indexed and can be searched"),
            (false, false) => Verdict::yes(Reason::Ready, "the log is indexed; search is turned off"),
        }
    }

    /// The indexer pod whose figures count: the writer of the highest epoch, else the one with the most to tell.
    pub(crate) fn principal(&self) -> Option<(&Seen, &Process)> {
        let answering = self.of(Component::Indexer).filter_map(|seen| Some((seen, seen.answer()?)));
        let counting = answering.filter(|(seen, process)| !seen.pod.terminating || holds_index(process));
        counting.max_by_key(|(seen, process)| (rank(process), process.epoch, seen.pod.name.clone()))
    }

    fn of(&self, component: Component) -> impl Iterator<Item = &Seen> {
        self.pods.iter().filter(move |seen| seen.pod.component == component)
    }

    /// A pod that has not answered for too long, though it runs.
    fn silent(&self, component: Component) -> Option<&Seen> {
        self.of(component).find(|seen| {
            // A pod that has never answered may still be on its way.
            let patience = if seen.observation.seen.is_some() { 0 } else { NEVER_ANSWERED };
            !seen.pod.terminating && seen.observation.is_silent() && seen.observation.failures >= patience
        })
    }

    /// Whether a pod runs that has not been asked yet, as after a restart of the operator: what was known is still the best.
    fn unasked(&self, component: Component) -> bool {
        self.of(component)
            .any(|seen| !seen.pod.terminating && seen.pod.address.is_some() && seen.observation.is_unasked())
    }

    /// What keeps pods from running.
    fn trouble(&self, component: Component) -> Option<Verdict> {
        let mut troubled = self.of(component).filter(|seen| !seen.pod.terminating);
        troubled.find_map(|seen| Some(told(seen.pod.trouble.as_ref()?, &seen.pod))).or_else(|| {
            let rollout = match component {
                Component::Indexer => self.indexer,
                Component::Search => self.search,
            };
            let failure = rollout?.failure.as_deref()?;
            Some(Verdict::no(
                Reason::PodRefused,
                format!(
                    "the cluster refuses the {} pod: {failure}; it does not run; change what refuses it, or the WAL",
                    component.as_str()
                ),
            ))
        })
    }

    fn before(&self, kind: ConditionType) -> Option<&Condition> {
        condition(self.before, kind)
    }
}

/// So many questions in vain make a pod that has never answered one that does not answer.
const NEVER_ANSWERED: u32 = 5;

/// Whether the process is the index's writer.
fn holds_index(process: &Process) -> bool {
    matches!(process.phase, Phase::Writing | Phase::Purging | Phase::Purged)
}

fn rank(process: &Process) -> u8 {
    match process.phase {
        _ if holds_index(process) => 3,
        _ if !process.problems.is_empty() => 2,
        Phase::Standby => 1,
        _ => 0,
    }
}

fn told(trouble: &Trouble, pod: &Pod) -> Verdict {
    let (pod, role) = (&pod.name, pod.component.as_str());
    match trouble {
        Trouble::Unschedulable(why) => Verdict::no(
            Reason::PodUnschedulable,
            format!(
                "no node takes pod \"{pod}\": {why}; it does not run; add room, or ask for less in \"spec.{role}.resources\""
            ),
        ),
        Trouble::Image(image) => Verdict::no(
            Reason::ImageNotFound,
            format!(
                "the image \"{image}\" of pod \"{pod}\" cannot be pulled; it does not run; correct the chart's image values, \
                 or give imagePullSecrets in \"spec.{role}.podTemplate\""
            ),
        ),
        Trouble::Config(why) => Verdict::no(
            Reason::PodRefused,
            format!("the container of pod \"{pod}\" cannot be made: {why}; it does not run; remove the cause"),
        ),
        Trouble::Crashing(how) => Verdict::no(
            Reason::PodCrashing,
            format!(
                "the program of pod \"{pod}\" ends again and again ({how}); it does no work; read \"kubectl logs {pod} \
                 --previous\""
            ),
        ),
    }
}
