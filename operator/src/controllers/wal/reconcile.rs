//! The reconciliation of one WAL, as a table of contents.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource as _, ResourceExt as _,
    core::{DeserializeGuard, Status, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tidemark_crds::{
    ConditionStatus, ConditionType, DeletionPolicy, Reason, ScheduleStatus, Wal, condition,
    names::{self, WalComponent},
};

use super::{
    build,
    evaluate::{ConditionInputs, ProtectionInputs, ProtectionState, evaluate, evaluate_unreadable},
    next_status,
    observe::{ObservedWal, WalIntent, observe},
    purge_finalizer::{self, DeletionStep},
    schedule::{
        due_tasks::ScheduleInputs,
        make_tasks::{ScheduleOutcome, make_due_tasks},
        task_results::apply_results,
    },
    search_exposure::{self, LiveSearch},
    status_events,
    upgrade::{self, UpgradeInputs, UpgradePermission, UpgradeStep},
    validate::{SpecRefusal, ValidatedSchedules, ValidatedWal, validate},
    wal_controller::WalController,
    write_children::{ChildWrites, outdated, write_children},
};
use crate::{
    backoff,
    cache::{ChildKind, NamespacedName, active_attempts, writing_attempt},
    clock,
    condition_value::ConditionValue,
    context::ReconcileContext,
    controllers::{
        kind_controller::{KindController, ReconcileError},
        unreadable_object,
    },
    object_applier::{ApplyError, is_refusal},
    reconcile_queues::ReconcileTarget,
    status_writer::{StatusWriter, WriteTiming},
};

/// A WAL is reconciled this often even if nothing says that it changed; that costs no request.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);
/// How soon a WAL is reconciled again that waits for something which happens by itself.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

impl KindController for WalController {
    type Object = Wal;

    const NAME: &'static str = "wal";

    async fn reconcile(&self, wal: &DeserializeGuard<Wal>) -> Result<Action, ReconcileError> {
        match &wal.0 {
            Ok(wal) => Box::pin(reconcile_wal(wal, self)).await,
            Err(invalid) => reconcile_unreadable(invalid, &wal.object_ref(&()), self).await,
        }
    }

    fn shown(&self, wal: &Wal) {
        self.wake_sinks(&NamespacedName::of(wal.meta()));
    }

    fn is_own_write(&self, key: &NamespacedName, shown: &Wal) -> bool {
        self.statuses.is_own_write(key, shown)
    }

    /// Counts the WALs that an earlier leader left in the middle of an upgrade.
    fn listed(&self, wals: &[Arc<DeserializeGuard<Wal>>]) {
        let under_way = wals.iter().filter_map(|wal| {
            let status = wal.0.as_ref().ok()?.status.as_ref()?;
            upgrade::is_under_way(&status.conditions).then(|| NamespacedName::of(wal.meta()))
        });
        self.slots.count_under_way(under_way);
    }

    fn forget(&self, key: &NamespacedName) {
        self.stop_tasks(key);
        self.wake_sinks(key);
        self.statuses.forget(key);
        self.tally.forget(key);
        self.context.shared.metrics.wal_figures().forget(key);
        self.stalled.note(key, false);
        self.failed_writes.note(key, false);
        self.failed_finalizers.note(key, false);
        for next in self.slots.release(key) {
            // With a full queue the resync finds them.
            self.context.shared.queues.try_send(ReconcileTarget::new(names::KIND, next));
        }
    }
}

/// Reports it, and finishes the deletion of one that is being deleted.
async fn reconcile_unreadable(
    invalid: &InvalidObject,
    reference: &ObjectReference,
    controller: &WalController,
) -> Result<Action, ReconcileError> {
    let context = &controller.context;
    let key = NamespacedName::of(&invalid.metadata);
    // Its pods stay as they are.
    controller.release_slot(&key).await;
    let deletion = purge_finalizer::finalize_unreadable(&invalid.metadata, reference, context).await;
    let (deletion, unfinalized) = controller.answered(&key, deletion)?;
    if deletion == DeletionStep::Done {
        return Ok(Action::await_change());
    }
    let shared = &context.shared;
    shared.metrics.invalid_object();
    let further = unfinalized.as_deref().map(|answer| purge_finalizer::unwritten(answer, false, true).message);
    let (values, manager) = (evaluate_unreadable, names::MANAGER_STATUS);
    let reported =
        unreadable_object::report::<Wal, _>(invalid, &shared.client, values, manager, further.as_deref(), clock::now())
            .await;
    let conditions = reported.map_err(ReconcileError::Status)?;
    controller.tally.count(&key, &conditions);
    controller.stalled.note(&key, upgrade::is_stalled(&conditions));
    if let Some(answer) = unfinalized {
        return Err(ReconcileError::Finalizer(kube::Error::Api(answer)));
    }
    Ok(match deletion {
        DeletionStep::Purging { again } => Action::requeue(again),
        DeletionStep::None | DeletionStep::Done => Action::await_change(),
    })
}

#[tracing::instrument(name = "reconcile", skip_all, fields(wal = %wal.name_any(), namespace = wal.namespace()))]
async fn reconcile_wal(wal: &Wal, controller: &WalController) -> Result<Action, ReconcileError> {
    let context = &controller.context;
    let observed = observe(wal, controller);
    if observed.intent.deleted.is_some() {
        controller.stop_tasks(&observed.key);
    }
    let validated = validate(wal, &context.shared.settings.cluster_id);
    let deletion = purge_finalizer::finalize(wal, &observed, validated.is_err(), context).await;
    let (deletion, unfinalized) = controller.answered(&observed.key, deletion)?;
    if deletion == DeletionStep::Done {
        // A finalizer of another client may keep it for long.
        controller.release_slot(&observed.key).await;
        return Ok(Action::await_change());
    }
    let digests = validated.as_ref().ok().map(ValidatedWal::spec_digests);
    let mut upgrade = UpgradePlan::new(&observed, digests.as_deref(), controller);
    let mut result = match &validated {
        // All that it waits for is that its finalizer goes.
        Ok(_) if unfinalized.is_some() && observed.intent.deleted.is_some() => ReconcileOutcome::default(),
        Ok(validated) => {
            let mut validated = validated.clone();
            // What a job or a sink writes would be left behind. Whoever starts a job has the turn until it is in the cache.
            let is_idle = || {
                let owned = context.cache.owned(&observed.key);
                let has_sink = owned.sink_pods.values().any(|pod| !pod.ended);
                !has_sink && active_attempts(&owned, clock::now()).next().is_none()
            };
            validated.purging &= !controller.turns.is_taken(&observed.key) && is_idle();
            Box::pin(build_and_roll_out(validated, &observed, upgrade.step, context)).await
        }
        Err(refusals) => ReconcileOutcome::refused(refused(refusals)),
    };
    result.report_repeated_failure(&observed.key, controller);
    result.report_finalizer(unfinalized.as_deref(), &observed);
    result.repeat_refusal(&observed, &upgrade);
    // Re-read: our own writes are in the cache and produce no watch event.
    let observed = observe(wal, controller);
    upgrade.finish(&observed, &result, &context.shared.settings.release);
    let outdated = digests.map_or_else(Vec::new, |digests| outdated(&observed, &digests));
    let schedule = follow_schedules(validated.as_ref().ok(), &observed, &upgrade, context).await;
    let again = report(wal, &observed, &upgrade, &result, outdated, &schedule, controller).await?;
    if let Some(error) = result.error {
        return Err(error.into());
    }
    if let Some(failure) = schedule.outcome.failure {
        return Err(ReconcileError::Task(failure.source));
    }
    let waiting = result.waits.as_ref().map(|_| RETRY_INTERVAL);
    let got_on = result.writes > 0 && result.waits.is_none() && upgrade.step.is_under_way();
    let at_once = (upgrade.has_slot || got_on).then_some(Duration::ZERO);
    let purging = if let DeletionStep::Purging { again } = deletion { Some(again) } else { None };
    let resync = backoff::jittered(RESYNC_INTERVAL, backoff::random());
    // Who waits in line for a slot is notified; who waits for a task, or for slots to be counted, looks again.
    let unnotified = controller.slots.is_counting() || !controller.slots.is_waiting(&observed.key);
    let polling = (upgrade.waits && !upgrade.has_slot && unnotified).then_some(RETRY_INTERVAL);
    let slot = schedule.outcome.next.map(|slot| wait_until(slot, clock::now()));
    let listing = (!observed.tasks_listed).then_some(RETRY_INTERVAL);
    let next = [again, waiting, at_once, purging, polling].into_iter().flatten().reduce(Duration::min);
    match (next, unfinalized) {
        // Tried again later each time, where nothing else is due before that.
        (None, Some(answer)) => Err(ReconcileError::Finalizer(kube::Error::Api(answer))),
        (next, _) => Ok(Action::requeue(next.into_iter().chain(slot).chain(listing).fold(resync, Duration::min))),
    }
}

/// How long it is to a slot of a schedule.
fn wait_until(slot: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(slot.duration_since(now)).unwrap_or_default()
}

/// What the schedules of a WAL are, and what came of them.
struct ScheduleReport<'a> {
    /// None where the spec is refused.
    schedules: Option<&'a ValidatedSchedules>,
    /// Why no task is made now, if none is.
    blocked: Option<&'static str>,
    outcome: ScheduleOutcome,
}

/// Makes the tasks that are due. A WAL that waits for the approval of a release goes on: its tasks run with its own image.
async fn follow_schedules<'a>(
    wal: Option<&'a ValidatedWal>,
    observed: &ObservedWal,
    upgrade: &UpgradePlan,
    context: &ReconcileContext,
) -> ScheduleReport<'a> {
    let blocked = if observed.intent.deleted.is_some() {
        Some("the WAL is being deleted")
    } else if observed.intent.suspended {
        Some("the WAL is suspended; set \"spec.suspend\" to false")
    } else if upgrade.has_slot || upgrade.step.is_under_way() {
        Some("the WAL is being upgraded; see the condition UpgradePending")
    } else {
        None
    };
    let outcome = match wal {
        Some(wal) if blocked.is_none() && observed.tasks_listed => {
            let shared = &context.shared;
            make_due_tasks(wal, observed, &shared.client, &shared.metrics, clock::now()).await
        }
        _ => ScheduleOutcome::default(),
    };
    ScheduleReport { schedules: wal.map(|wal| &wal.schedules), blocked, outcome }
}

/// What a reconciliation has come to, before its status is written.
#[derive(Debug, Default)]
struct ReconcileOutcome {
    /// How many writes it took.
    writes: usize,
    /// What a user must know.
    refused: Option<ConditionValue>,
    /// What a user must know of the finalizer.
    unfinalized: Option<ConditionValue>,
    /// Why it is retried, later each time.
    error: Option<ApplyError>,
    /// What must go first, which happens by itself.
    waits: Option<String>,
}

impl ReconcileOutcome {
    fn refused(value: ConditionValue) -> Self {
        Self { refused: Some(value), ..Self::default() }
    }

    /// Of several errors the first one that a user must know of is reported, and decides that it is retried.
    fn of(observed: &ObservedWal, ChildWrites { writes, errors, found }: ChildWrites) -> Self {
        let waits = found.then(|| "a Deployment had lost its labels, and has them again".to_owned());
        let mut result = Self { writes, waits, ..Self::default() };
        for error in errors {
            let reason = match error {
                ApplyError::Leftover { .. }
                | ApplyError::Terminating { .. }
                | ApplyError::LeftBehind { .. }
                | ApplyError::NamespaceTerminating => {
                    tracing::debug!(object = %observed.key, %error, "waiting");
                    result.waits = Some(error.to_string());
                    continue;
                }
                ApplyError::NameTaken { .. } => Some(Reason::NameTaken),
                ApplyError::Refused { .. } | ApplyError::Unwritable(_) => Some(Reason::ChildRefused),
                ApplyError::Failed { .. } => None,
            };
            let is_news = reason.is_some() && result.refused.is_none();
            if is_news {
                result.refused = reason.map(|reason| ConditionValue::no(reason, error.to_string()));
            }
            if is_news || result.error.is_none() {
                result.error = Some(error);
            } else {
                tracing::warn!(object = %observed.key, %error, "another child could not be written either");
            }
        }
        result
    }

    /// Makes a verdict of what the API server fails to write again and again, in its words: it answers so to what it cannot type,
    /// and while a webhook does not answer.
    fn report_repeated_failure(&mut self, key: &NamespacedName, controller: &WalController) {
        let answer = match &self.error {
            Some(ApplyError::Failed { kind, name, source: kube::Error::Api(answer) }) => Some((kind, name, answer)),
            _ => None,
        };
        let repeated = controller.failed_writes.note(key, answer.is_some());
        if let Some((kind, name, answer)) = answer.filter(|_| repeated && self.refused.is_none()) {
            let (kind, words) = (kind.as_str(), &answer.message);
            self.refused = Some(ConditionValue::no(
                Reason::ApplyFailed,
                format!(
                    "the API server fails to write {kind} \"{name}\": {words}; it stays as it is and is tried again; remove the \
                     cause, such as a webhook that does not answer or a part of the spec that this API server does not take"
                ),
            ));
        }
    }

    /// Takes note of a finalizer that the API server did not take.
    fn report_finalizer(&mut self, answer: Option<&Status>, observed: &ObservedWal) {
        let WalIntent { deletion_policy, deleted, .. } = &observed.intent;
        let wanted = *deletion_policy == DeletionPolicy::Purge && deleted.is_none();
        self.unfinalized = answer.map(|answer| purge_finalizer::unwritten(answer, wanted, deleted.is_some()));
    }

    /// Repeats a refusal of the present spec as long as it is not known whether it still is one: while the WAL waits in line with the
    /// Deployment that was refused, and where the API server fails otherwise.
    fn repeat_refusal(&mut self, observed: &ObservedWal, upgrade: &UpgradePlan) {
        let in_line = upgrade.blocked && upgrade.step == UpgradeStep::Queue;
        let fails = matches!(self.error, Some(ApplyError::Failed { .. }));
        if self.refused.is_some() || !in_line && !fails {
            return;
        }
        let before = condition(&observed.status.conditions, ConditionType::Applied);
        // In line all other children are written. Only the message says which one was refused.
        let is_unknown = |message: &str| fails || names_deployment(message, &observed.key.name);
        let before =
            before.filter(|before| before.observed_generation == observed.generation && is_unknown(&before.message));
        self.refused = before
            .map(ConditionValue::repeated)
            .filter(|before| matches!(before.reason, Reason::NameTaken | Reason::ChildRefused | Reason::ApplyFailed));
    }

    /// Why something could not be written, if that may pass by itself.
    fn unwritten(&self) -> Option<String> {
        self.error.as_ref().map(ToString::to_string).or_else(|| self.waits.clone())
    }
}

impl WalController {
    /// The step, or what the API server answered to the write of a finalizer that it refuses, or fails to write again and again: then
    /// the WAL says so, and gets its children all the same. What may pass by itself is tried again first: a WAL with an index to purge
    /// could be deleted meanwhile.
    fn answered(
        &self,
        key: &NamespacedName,
        deletion: Result<DeletionStep, kube::Error>,
    ) -> Result<(DeletionStep, Option<Box<Status>>), ReconcileError> {
        // A conflict is no answer: the WAL has changed, and is reconciled as it is now.
        let failed = matches!(&deletion, Err(kube::Error::Api(answer)) if answer.code != 409);
        let repeated = self.failed_finalizers.note(key, failed);
        match deletion {
            Ok(step) => Ok((step, None)),
            Err(kube::Error::Api(answer)) if failed && (repeated || is_refusal(&answer)) => {
                Ok((DeletionStep::None, Some(answer)))
            }
            Err(error) => Err(ReconcileError::Finalizer(error)),
        }
    }
}

/// Whether an [`ApplyError`] with this message is about a Deployment of the WAL `name`.
fn names_deployment(message: &str, name: &str) -> bool {
    let kind = ChildKind::Deployment.as_str();
    WalComponent::ALL.iter().any(|component| message.contains(&format!("{kind} \"{}\"", component.child_name(name))))
}

async fn build_and_roll_out(
    mut wal: ValidatedWal,
    observed: &ObservedWal,
    step: UpgradeStep,
    context: &ReconcileContext,
) -> ReconcileOutcome {
    let settings = &context.shared.settings;
    if wal.search.token_secret.is_some() {
        search_exposure::limit(&mut wal.search, &LiveSearch::read(observed));
    }
    let children = build::build(&wal, &settings.platform, &settings.release);
    let written = write_children(context, observed, &children.desired(), step).await;
    ReconcileOutcome::of(observed, written)
}

fn refused(refusals: &[SpecRefusal]) -> ConditionValue {
    let reason = refusals.first().map_or(Reason::SpecInvalid, |refusal| refusal.reason);
    let messages: Vec<_> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    ConditionValue::no(reason, format!("{}; the pods stay as they are; correct the spec", messages.join("; ")))
}

/// Where the WAL is in an upgrade.
struct UpgradePlan {
    step: UpgradeStep,
    value: ConditionValue,
    /// Whether it got a slot.
    has_slot: bool,
    /// Whether it waits for one.
    waits: bool,
    /// Whether a change of the spec waits with the new release.
    held: bool,
    /// Whether a Deployment of the new release cannot be written: nothing of the WAL changes, so it needs no slot.
    blocked: bool,
}

impl UpgradePlan {
    fn new(observed: &ObservedWal, digests: Option<&[(WalComponent, String)]>, controller: &WalController) -> Self {
        let settings = &controller.context.shared.settings;
        let writing = writing_attempt(&observed.owned, clock::now());
        let release = settings.release.as_str();
        let approved =
            settings.upgrade_approved == release || observed.intent.approved_release.as_deref() == Some(release);
        let inputs = UpgradeInputs {
            release,
            search: observed.rollout(WalComponent::Search),
            indexer: observed.rollout(WalComponent::Indexer),
            permission: match approved {
                _ if observed.intent.deleted.is_some() => UpgradePermission::Deleted,
                false => UpgradePermission::Missing,
                true if observed.intent.suspended => UpgradePermission::Suspended,
                true => UpgradePermission::Granted,
            },
            under_way: upgrade::is_under_way(&observed.status.conditions),
            writing_task: writing.as_ref().map(|attempt| &*attempt.task),
        };
        let mut step = inputs.step();
        // One that could not be written gave its slot back, and waits for the next one like others.
        let was_blocked = step.rolls() && upgrade::is_stalled(&observed.status.conditions);
        if was_blocked && (digests.is_none() || !acquire_slot(observed, controller)) {
            step = UpgradeStep::Queue;
        } else if step.is_under_way() {
            // It may have been unreadable meanwhile, and lost its slot.
            controller.slots.resume(&observed.key);
        }
        // One whose spec is refused neither waits nor keeps a slot that it had when this operator began.
        let waits = step == UpgradeStep::Queue && digests.is_some();
        let has_slot = waits && !was_blocked && acquire_slot(observed, controller);
        let held = matches!(step, UpgradeStep::Hold | UpgradeStep::Queue)
            && digests.is_some_and(|digests| !outdated(observed, digests).is_empty());
        // With a slot the status says that the WAL is under way; only then is anything of it changed.
        let shown = if has_slot { UpgradeStep::RollSearch } else { step };
        let before = condition(&observed.status.conditions, ConditionType::UpgradePending);
        let value = match before.filter(|_| was_blocked && step == UpgradeStep::Queue) {
            Some(before) => ConditionValue::repeated(before),
            None => inputs.condition_value(shown, &observed.key, held),
        };
        Self { step, value, has_slot, waits, held, blocked: was_blocked }
    }

    /// Finds out whether the Deployment was written that was to be rolled.
    fn finish(&mut self, observed: &ObservedWal, result: &ReconcileOutcome, release: &str) {
        let component = match self.step {
            UpgradeStep::RollSearch => WalComponent::Search,
            UpgradeStep::RollIndexer => WalComponent::Indexer,
            _ => return,
        };
        let written = observed.rollout(component).is_none_or(|rollout| rollout.release.as_deref() == Some(release));
        self.blocked = !written && result.refused.is_some();
        if self.blocked {
            self.value = upgrade::blocked(release, component);
        }
    }

    /// Releases the slot once the status says that the WAL needs it no longer.
    async fn status_written(&self, key: &NamespacedName, controller: &WalController) {
        let needs_slot = self.has_slot || self.step.is_under_way() && !self.blocked;
        if needs_slot || self.waits {
            return;
        }
        controller.release_slot(key).await;
    }
}

/// Acquires a slot, unless a task writes: that one runs to its end first, and holds no slot meanwhile.
fn acquire_slot(observed: &ObservedWal, controller: &WalController) -> bool {
    let key = &observed.key;
    if writing_attempt(&observed.owned, clock::now()).is_some() || !controller.slots.acquire(key) {
        return false;
    }
    // Looked at again with the slot in hand, since a task looks at the slots with its turn in hand.
    let is_writing = || writing_attempt(&controller.context.cache.owned(key), clock::now()).is_some();
    if controller.turns.is_taken(key) || is_writing() {
        for next in controller.slots.release(key) {
            controller.context.shared.queues.try_send(ReconcileTarget::new(names::KIND, next));
        }
        return false;
    }
    true
}

/// Writes status and Events if there is news. Answers when there may be some that waits.
async fn report(
    wal: &Wal,
    observed: &ObservedWal,
    upgrade: &UpgradePlan,
    result: &ReconcileOutcome,
    outdated: Vec<WalComponent>,
    followed: &ScheduleReport<'_>,
    controller: &WalController,
) -> Result<Option<Duration>, ReconcileError> {
    let (mut maintained, now) = (observed.status.clone(), clock::now());
    apply_results(&mut maintained, &observed.tasks);
    if let Some(done) = &followed.outcome.done {
        maintained.schedules = Some(done.clone()).filter(|done| *done != ScheduleStatus::default());
    }
    let protection = match followed.schedules {
        _ if !observed.tasks_listed => ProtectionState::Unlisted,
        None => ProtectionState::Refused,
        Some(schedules) => ProtectionState::Known(ProtectionInputs {
            schedule: ScheduleInputs { status: &maintained, ..observed.schedule_inputs(schedules) },
            failure: followed.outcome.failure.as_ref().map(|failure| (failure.r#type, failure.to_string())),
            blocked: followed.blocked,
            now,
        }),
    };
    let inputs = ConditionInputs {
        suspended: observed.is_suspended(),
        search_wanted: observed.is_search_wanted(),
        indexer: observed.rollout(WalComponent::Indexer),
        search: observed.rollout(WalComponent::Search),
        pods: &observed.pods,
        before: &observed.status.conditions,
        refused: result.refused.clone(),
        unfinalized: result.unfinalized.clone(),
        token_everywhere: search_exposure::asks_for_token_everywhere(observed),
        generation: observed.generation,
        upgrade_pending: upgrade.value.status == ConditionStatus::True,
        held: upgrade.held,
        outdated,
        unwritten: result.unwritten(),
        protection,
        restored: maintained.restored.as_ref(),
    };
    let (before, shared) = (&observed.status, &controller.context.shared);
    let after = next_status::next(observed, maintained.clone(), &inputs, &evaluate(&inputs), &upgrade.value, now);
    let (statuses, field_manager) = (&controller.statuses, names::MANAGER_STATUS);
    let writer = StatusWriter { client: &shared.client, statuses, field_manager };
    let timing = writer.update(observed.owner(), before, &after).await.map_err(ReconcileError::Status)?;
    if timing == WriteTiming::Now {
        let adopted_from = inputs.active_indexer().and_then(|(_, process)| process.adopted_from.as_deref());
        let events = status_events::events_between(before, &after, adopted_from);
        shared.events.publish(&wal.object_ref(&()), &events).await;
    }
    controller.tally.count(&observed.key, &after.conditions);
    shared.metrics.wal_figures().show(&observed.key, &after);
    controller.stalled.note(&observed.key, upgrade::is_stalled(&after.conditions));
    upgrade.status_written(&observed.key, controller).await;
    Ok(if let WriteTiming::After(wait) = timing { Some(wait) } else { None })
}
