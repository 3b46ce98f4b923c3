//! What exists of a WAL, from the watches: no request.

use jiff::Timestamp;
use kube::{ResourceExt as _, core::ApiResource};
use tidemark_crds::{
    AuthType, DeletionPolicy, PodPhase, SearchAuth, Wal, WalStatus,
    names::{self, WalComponent},
};

use super::{
    schedule::{
        due_tasks::ScheduleInputs,
        task_history::{IndexFigures, TaskHistory},
    },
    validate::ValidatedSchedules,
    wal_controller::WalController,
};
use crate::{
    cache::{ChildKind, NamespacedName, OwnedObjects, RolloutStatus},
    object_owner::ObjectOwner,
    observed_pod::ObservedPod,
};

/// A WAL's objects, its pods with what they report, its status, and what its user asks for also where the rest of the spec
/// is refused.
#[derive(Debug)]
pub(crate) struct ObservedWal {
    pub(crate) key: NamespacedName,
    pub(crate) uid: String,
    pub(crate) generation: Option<i64>,
    pub(crate) intent: WalIntent,
    pub(crate) owned: OwnedObjects,
    pub(crate) pods: Vec<ObservedPod>,
    /// As it was written last, even if the watch does not show it yet.
    pub(crate) status: WalStatus,
    /// When the WAL was made.
    pub(crate) created: Timestamp,
    pub(crate) tasks: TaskHistory,
    /// Whether all of them are known.
    pub(crate) tasks_listed: bool,
    /// What the index holds, if that is known.
    pub(crate) index: Option<IndexFigures>,
}

/// The part of a WAL that counts whether or not its spec can be built.
#[derive(Clone, Debug)]
pub(crate) struct WalIntent {
    pub(crate) suspended: bool,
    pub(crate) search_wanted: bool,
    /// The Secret whose token search pods are to ask for, if any.
    pub(crate) token_secret: Option<String>,
    pub(crate) deletion_policy: DeletionPolicy,
    /// When the WAL was deleted, if it was.
    pub(crate) deleted: Option<Timestamp>,
    pub(crate) index_url: String,
    pub(crate) log_url: String,
    /// The release revision that its owner approves.
    pub(crate) approved_release: Option<String>,
}

/// Looks it up.
pub(crate) fn observe(wal: &Wal, controller: &WalController) -> ObservedWal {
    let context = &controller.context;
    let key = NamespacedName::of(&wal.metadata);
    let uid = wal.metadata.uid.clone().unwrap_or_default();
    let owned = context.cache.owned(&key);
    let own_pods = owned.pods.values().filter(|pod| *pod.wal_uid == *uid);
    let pods = own_pods.map(|pod| ObservedPod {
        pod: pod.clone(),
        observation: context.observations.get(&pod.uid).unwrap_or_default(),
    });
    let pods: Vec<_> = pods.collect();
    let status = controller.statuses.status(&key, wal);
    let created = wal.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |created| created.0);
    // Before they are asked for: what is listed after this is known as well.
    let tasks_listed = controller.tasks_listed();
    let tasks = TaskHistory::of(controller.tasks_of(&key), &key.name, &uid, created);
    let index = index_figures(&pods, &status);
    let intent = WalIntent {
        suspended: wal.spec.suspend,
        search_wanted: wal.spec.search.replicas > 0,
        token_secret: token_secret(&wal.spec.search.auth),
        deletion_policy: wal.spec.deletion_policy,
        deleted: wal.metadata.deletion_timestamp.as_ref().map(|deleted| deleted.0),
        index_url: wal.spec.index.url.clone(),
        log_url: wal.spec.log.url.clone(),
        approved_release: wal.annotations().get(names::ANNOTATION_APPROVE_UPGRADE).cloned(),
    };
    let generation = wal.metadata.generation;
    ObservedWal { key, uid, generation, intent, owned, pods, status, created, tasks, tasks_listed, index }
}

/// What the writer reports, or what one reported last. An indexer that was not polled yet may be about to say something else.
fn index_figures(pods: &[ObservedPod], status: &WalStatus) -> Option<IndexFigures> {
    let indexers = pods.iter().filter(|seen| seen.pod.component == WalComponent::Indexer && !seen.pod.terminating);
    if indexers.clone().any(|seen| seen.pod.address.is_some() && seen.observation.is_unpolled()) {
        return None;
    }
    let writing = indexers.filter_map(ObservedPod::answer).filter(|report| report.phase == PodPhase::Writing);
    let writer = writing.filter(|report| report.manifest > 0).max_by_key(|report| report.epoch);
    if let Some((writer, generation)) = writer.and_then(|writer| Some((writer, writer.generation.clone()?))) {
        return Some(IndexFigures { generation, entries: writer.entries, bytes: writer.index_bytes });
    }
    let entries = status.entries.and_then(|entries| u64::try_from(entries).ok())?;
    Some(IndexFigures { generation: status.generation.clone()?, entries, bytes: 0 })
}

fn token_secret(auth: &SearchAuth) -> Option<String> {
    auth.secret_ref.as_ref().filter(|_| auth.r#type == AuthType::Token).map(|secret| secret.name.clone())
}

impl ObservedWal {
    /// How far the Deployment of a role is, if it exists, is not going, and belongs to this WAL.
    pub(crate) fn rollout(&self, component: WalComponent) -> Option<&RolloutStatus> {
        let name = component.child_name(&self.key.name);
        let child = self.owned.child(ChildKind::Deployment, &name)?;
        child.rollout.as_ref().filter(|_| child.is_controlled_by(&self.uid) && !child.terminating)
    }

    /// Whether no indexer is asked for, neither by the spec nor by the Deployment: a spec that is refused scales nothing.
    pub(crate) fn is_suspended(&self) -> bool {
        self.intent.suspended && self.rollout(WalComponent::Indexer).is_none_or(|rollout| rollout.wanted == 0)
    }

    /// Whether search is asked for, by the spec or by the Deployment.
    pub(crate) fn is_search_wanted(&self) -> bool {
        self.intent.search_wanted || self.rollout(WalComponent::Search).is_some_and(|rollout| rollout.wanted > 0)
    }

    /// What decides what of these schedules is due.
    pub(crate) fn schedule_inputs<'a>(&'a self, schedules: &'a ValidatedSchedules) -> ScheduleInputs<'a> {
        let Self { tasks, status, created, index, .. } = self;
        ScheduleInputs { schedules, tasks, status, index: index.as_ref(), created: *created }
    }

    /// The WAL as the owner of its children.
    pub(crate) fn owner(&self) -> ObjectOwner<'_> {
        ObjectOwner {
            kind: names::KIND,
            resource: || ApiResource::erase::<Wal>(&()),
            key: &self.key,
            uid: &self.uid,
            deleting: self.intent.deleted.is_some(),
            field_manager: names::MANAGER_CHILDREN,
        }
    }
}
