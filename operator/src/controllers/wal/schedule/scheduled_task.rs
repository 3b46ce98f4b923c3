//! The task that a schedule makes for a slot.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tidemark_crds::{TaskType, TimeSpan, VerifyTask, WalTask, WalTaskSpec, names};

use super::{due_tasks::DueTask, task_history::IndexFigures};
use crate::controllers::wal::validate::ValidatedWal;

/// As long as the API allows: the schedule removes its tasks itself, by their number.
const TTL: &str = "8784h";

/// The task, which belongs to the WAL and goes with it. A drill restores a snapshot: without one the verification does all else.
pub(crate) fn scheduled_task(
    wal: &ValidatedWal,
    due: DueTask,
    index: Option<&IndexFigures>,
    has_snapshot: bool,
) -> WalTask {
    let schedule = due.r#type.as_str().to_lowercase();
    let minute = u64::try_from(due.slot.as_second().div_euclid(60)).unwrap_or_default();
    let verification = wal.schedules.verification.as_ref();
    let drill = verification.is_some_and(|verification| verification.drill && has_snapshot);
    let mut spec = WalTaskSpec::new(&wal.name, due.r#type);
    spec.verify = (due.r#type == TaskType::Verify).then_some(VerifyTask { all: false, drill });
    spec.ttl_after_finished = TimeSpan::new(TTL);
    let mut annotations = BTreeMap::from([(names::ANNOTATION_SLOT.to_owned(), due.slot.to_string())]);
    let figures = index.and_then(|index| serde_json::to_string(index).ok());
    annotations.extend(figures.map(|figures| (names::ANNOTATION_INDEX_FIGURES.to_owned(), figures)));
    let labels = [
        (names::LABEL_MANAGED_BY, names::MANAGED_BY.to_owned()),
        (names::LABEL_WAL, wal.name.clone()),
        (names::LABEL_WAL_UID, wal.uid.clone()),
        (names::LABEL_SCHEDULE, schedule.clone()),
    ];
    let metadata = ObjectMeta {
        name: Some(names::scheduled_task(&wal.name, &schedule, minute)),
        namespace: Some(wal.namespace.clone()),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        annotations: Some(annotations),
        owner_references: Some(vec![wal.owner_reference.clone()]),
        ..ObjectMeta::default()
    };
    WalTask { metadata, spec, status: None }
}
