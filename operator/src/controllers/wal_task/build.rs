//! The Job of an attempt, and the command line in it, which programs of other releases understand as well.

use std::time::Duration;

use k8s_openapi::{
    api::batch::v1::{Job, JobSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use tidemark_crds::{RestoreTarget, TaskType, VerifyTask, WalTaskSpec, names};

use crate::{
    cache::{ANNOTATION_WAL_GENERATION, NamespacedName},
    child_metadata::child_metadata,
    controllers::wal::{
        build::{
            PlatformSettings,
            job_pod_plan::{self, JobSettings},
        },
        validate::ValidatedWal,
    },
};

/// What an attempt is made of.
#[derive(Clone, Debug)]
pub(crate) struct AttemptPlan<'a> {
    pub(crate) task: &'a NamespacedName,
    /// Refers to the task.
    pub(crate) owner: OwnerReference,
    pub(crate) spec: &'a WalTaskSpec,
    /// Its number, from 1.
    pub(crate) number: usize,
    pub(crate) image: &'a str,
    /// How long it may take.
    pub(crate) time_limit: Duration,
}

/// The Job of an attempt. It makes one pod, once.
pub(crate) fn build(attempt: &AttemptPlan<'_>, wal: &ValidatedWal, platform: &PlatformSettings) -> Job {
    let AttemptPlan { task, owner, spec, number, image, time_limit } = attempt;
    let kind = spec.r#type;
    let labels = job_pod_plan::labels(wal, [(names::LABEL_TASK, &*task.name), (names::LABEL_TASK_TYPE, kind.as_str())]);
    let settings = JobSettings {
        image,
        arguments: arguments(attempt, wal),
        service_account: kind.service_account(&wal.name),
        labels: labels.clone(),
        task: format!("{}-{}", task.name, owner.uid),
        copies: kind == TaskType::Snapshot,
    };
    let mut metadata = child_metadata(&task.namespace, owner, names::job(&task.name, *number), labels);
    let generation = wal.generation.map(|generation| (ANNOTATION_WAL_GENERATION.to_owned(), generation.to_string()));
    metadata.annotations = Some(generation.into_iter().collect());
    let spec = JobSpec {
        // The operator tries again: it knows whether that can help.
        backoff_limit: Some(0),
        completions: Some(1),
        parallelism: Some(1),
        active_deadline_seconds: Some(i64::try_from(time_limit.as_secs().max(1)).unwrap_or(i64::MAX)),
        template: job_pod_plan::plan(wal, platform, settings).template(),
        ..JobSpec::default()
    };
    Job { metadata, spec: Some(spec), ..Job::default() }
}

/// The command with its arguments. Places and credentials are in the environment.
fn arguments(attempt: &AttemptPlan<'_>, wal: &ValidatedWal) -> Vec<String> {
    let (spec, jobs) = (attempt.spec, &wal.jobs);
    let mut arguments = vec![spec.r#type.command().command.to_owned(), "--json".to_owned()];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.extend([name.to_owned(), value]);
        }
    };
    match spec.r#type {
        TaskType::Snapshot => {
            let name = spec.snapshot.as_ref().and_then(|snapshot| snapshot.name.clone());
            add("--name", Some(name.unwrap_or_else(|| snapshot_name(&attempt.task.name, &attempt.owner.uid))));
            add("--keep-last", jobs.keep_snapshots.map(|keep| keep.to_string()));
            add("--copy-to", wal.stores.copy.as_ref().map(|(url, _)| url.clone()));
            arguments.extend((!jobs.archive).then(|| "--no-archive".to_owned()));
        }
        TaskType::Cleanup => {
            let cleanup = &jobs.cleanup;
            // Never younger than asked for.
            add("--min-age", Some(format!("{}s", cleanup.min_age.as_millis().div_ceil(1000))));
            add("--max-entries", cleanup.max_entries.map(|entries| entries.to_string()));
            add("--max-size", cleanup.max_bytes.map(|bytes| bytes.to_string()));
            add("--keep-snapshots", Some(cleanup.keep_snapshots.to_string()));
            if spec.cleanup.as_ref().is_some_and(|cleanup| cleanup.dry_run) {
                arguments.push("--dry-run".to_owned());
            }
        }
        TaskType::Verify => {
            let VerifyTask { all, drill } = spec.verify.clone().unwrap_or_default();
            let wanted = [(all, "--all"), (drill, "--restore-drill")];
            arguments.extend(wanted.into_iter().filter(|(is, _)| *is).map(|(_, option)| option.to_owned()));
        }
        TaskType::Restore => {
            arguments.extend(spec.restore.as_ref().and_then(restore_arguments).into_iter().flatten());
        }
        TaskType::Promote => {
            // Where the index was begun with a time, what follows is recorded in the archive there.
            let bootstrap = wal.indexer.bootstrap.as_ref().filter(|bootstrap| bootstrap.time.is_some());
            add("--from-url", bootstrap.map(|bootstrap| bootstrap.from_url.clone()));
            if spec.promote.as_ref().is_some_and(|promote| promote.decide_again) {
                arguments.push("--decide-again".to_owned());
            }
        }
        TaskType::GC | TaskType::Reindex => {}
    }
    arguments
}

/// The name of the snapshot of a task without one in its spec: the same for each attempt, and another one for a later task of the name.
fn snapshot_name(task: &str, uid: &str) -> String {
    // Both together have at most 63 characters.
    let task = &task[..task.floor_char_boundary(54)];
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{}-{}", task.trim_end_matches('-'), uid.to_ascii_lowercase())
}

/// What to restore to; `None` unless it is exactly one.
pub(crate) fn restore_arguments(target: &RestoreTarget) -> Option<Vec<String>> {
    let RestoreTarget { time, token, snapshot, latest } = target;
    let pair = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    let wishes = [
        time.as_ref().map(|time| pair("--to-time", &time.0.to_string())),
        token.as_deref().map(|token| pair("--to-token", token)),
        snapshot.as_deref().map(|snapshot| pair("--snapshot", snapshot)),
        latest.unwrap_or_default().then(|| vec!["--latest".to_owned()]),
    ];
    let mut wishes = wishes.into_iter().flatten();
    let only = wishes.next()?;
    wishes.next().is_none().then_some(only)
}
