//! What the tasks of a WAL say: which runs, which ended, and which slots they were made for.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use tidemark_crds::{TaskType, WalTask, WalTaskState, names};

/// How many tasks of a schedule are kept that succeeded, and how many that did not.
const KEPT_TASKS: usize = 3;

/// What an index holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexFigures {
    pub(crate) generation: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// The tasks of one WAL.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskHistory {
    /// Those that have ended, the last one first; then those that have not.
    tasks: Vec<Arc<WalTask>>,
}

impl TaskHistory {
    /// Of `tasks` those of the WAL with this name, UID and time of creation.
    ///
    /// A task that was made for an earlier WAL of the same name says nothing about this one. One may have been made before its WAL was,
    /// and have waited for it.
    pub(crate) fn of(tasks: impl IntoIterator<Item = Arc<WalTask>>, name: &str, uid: &str, created: Timestamp) -> Self {
        let is_own = |task: &Arc<WalTask>| {
            let of_uid = task.status.as_ref().and_then(|status| status.wal_uid.as_deref());
            task.spec.wal_ref.name == name && of_uid.map_or(created_at(task) >= created, |of| of == uid)
        };
        let mut tasks: Vec<_> = tasks.into_iter().filter(is_own).collect();
        tasks.sort_by_key(|task| std::cmp::Reverse((ended_at(task), created_at(task), task.name_any())));
        Self { tasks }
    }

    fn of_type(&self, r#type: TaskType) -> impl Iterator<Item = &WalTask> {
        self.tasks.iter().map(AsRef::as_ref).filter(move |task: &&WalTask| task.spec.r#type == r#type)
    }

    /// The task of this type that has not ended.
    pub(crate) fn active(&self, r#type: TaskType) -> Option<&WalTask> {
        self.of_type(r#type).find(|task| !is_ended(task))
    }

    /// Those of this type that have ended, however they did, the last one first.
    pub(crate) fn ended(&self, r#type: TaskType) -> impl Iterator<Item = &WalTask> {
        self.of_type(r#type).filter(|task| is_ended(task))
    }

    /// Those of this type that succeeded, the last one first.
    pub(crate) fn succeeded(&self, r#type: TaskType) -> impl Iterator<Item = &WalTask> {
        self.of_type(r#type).filter(|task| state(task) == Some(WalTaskState::Succeeded))
    }

    /// Those that have looked at index and archive to the end: damage that was found fails the task that found it.
    pub(crate) fn verified(&self) -> impl Iterator<Item = &WalTask> {
        let has_looked = |task: &&WalTask| {
            state(task) == Some(WalTaskState::Succeeded) || damaged(task).is_some_and(|count| count > 0)
        };
        self.ended(TaskType::Verify).filter(has_looked)
    }

    /// The last slot for which a task of this type was made, or the end of the last one: what was due while it ran is done with.
    pub(crate) fn done_until(&self, r#type: TaskType) -> Option<Timestamp> {
        let slots = self.of_type(r#type).filter_map(slot);
        slots.chain(self.of_type(r#type).filter_map(ended_at)).max()
    }

    /// When a task last ended, however it did, that may have written something, other than those of this type.
    pub(crate) fn last_written(&self, other_than: TaskType) -> Option<Timestamp> {
        let others = self
            .tasks
            .iter()
            .map(AsRef::as_ref)
            .filter(|task: &&WalTask| task.spec.r#type != other_than && task.spec.r#type.command().writes);
        others.filter(|task| state(task) != Some(WalTaskState::Rejected)).filter_map(ended_at).max()
    }

    /// Those that schedules made and that are not kept any more.
    pub(crate) fn expired(&self) -> Vec<&WalTask> {
        let mut counts = std::collections::HashMap::new();
        let ended = self.tasks.iter().map(AsRef::as_ref).filter(|task: &&WalTask| is_ended(task));
        let scheduled = ended.filter(|task| task.labels().contains_key(names::LABEL_SCHEDULE));
        let is_expired = |task: &&WalTask| {
            let succeeded = state(task) == Some(WalTaskState::Succeeded);
            let count = counts.entry((task.spec.r#type, succeeded)).or_insert(0_usize);
            *count += 1;
            *count > KEPT_TASKS
        };
        scheduled.filter(is_expired).collect()
    }
}

pub(crate) fn state(task: &WalTask) -> Option<WalTaskState> {
    task.status.as_ref()?.state
}

fn is_ended(task: &WalTask) -> bool {
    state(task).is_some_and(WalTaskState::is_terminal)
}

/// When the API server made it.
pub(crate) fn created_at(task: &WalTask) -> Timestamp {
    // One that was never there is older than any WAL.
    task.creation_timestamp().map_or(Timestamp::MIN, |created| created.0)
}

/// When its first attempt began; when it was made, where that is not known.
pub(crate) fn started_at(task: &WalTask) -> Timestamp {
    let started = task.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.map_or_else(|| created_at(task), |started| started.0)
}

/// When it ended, if it has.
pub(crate) fn ended_at(task: &WalTask) -> Option<Timestamp> {
    let status = task.status.as_ref()?;
    let ended = status.completion_time.as_ref().map_or_else(|| created_at(task), |completed| completed.0);
    is_ended(task).then_some(ended)
}

/// The slot that a schedule made it for.
pub(crate) fn slot(task: &WalTask) -> Option<Timestamp> {
    task.annotations().get(names::ANNOTATION_SLOT)?.parse().ok()
}

/// How many objects or records it found missing or damaged, if it looked.
pub(crate) fn damaged(task: &WalTask) -> Option<u64> {
    task.status.as_ref()?.result.as_ref()?.damaged
}

/// What the index held when a schedule made it.
pub(crate) fn index_figures(task: &WalTask) -> Option<IndexFigures> {
    serde_json::from_str(task.annotations().get(names::ANNOTATION_INDEX_FIGURES)?).ok()
}
