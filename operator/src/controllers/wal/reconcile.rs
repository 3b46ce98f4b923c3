//! The reconciliation of one WAL, as a table of contents.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource as _, ResourceExt as _,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tidemark_crds::{
    ConditionType, Reason, Wal,
    names::{self, WalComponent},
};

use super::{
    build,
    dereference::{ObservedWal, dereference},
    evaluate::{ConditionInputs, evaluate},
    purge::{self, DeletionStep},
    search_exposure::{self, LiveSearch, TokenCoverage},
    transitions, update_status,
    upgrade::{self, UpgradeInputs, UpgradePermission, UpgradeStep},
    validate::{SpecRefusal, ValidatedWal, validate},
    write_children,
};
use crate::{
    apply::ApplyError,
    backoff,
    cache::NamespacedName,
    clock,
    condition_value::ConditionValue,
    context::ReconcileContext,
    controllers::{
        kind::{KindController, ReconcileError},
        unreadable,
    },
    status_writer::{self, WriteTiming},
};

/// A WAL is reconciled this often even if nothing says that it changed; that costs no request.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);
/// How soon a WAL is reconciled again that waits for something which happens by itself.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// The controller of WALs.
pub(crate) struct WalController;

impl KindController for WalController {
    type Object = Wal;

    const NAME: &'static str = "wal";

    async fn reconcile(
        wal: Arc<DeserializeGuard<Wal>>,
        context: Arc<ReconcileContext>,
    ) -> Result<Action, ReconcileError> {
        match &wal.0 {
            Ok(wal) => Box::pin(reconcile_wal(wal, &context)).await,
            Err(invalid) => reconcile_unreadable(invalid, &wal.object_ref(&()), &context).await,
        }
    }

    fn is_own_write(context: &ReconcileContext, key: &NamespacedName, shown: &Wal) -> bool {
        context.shared.statuses.is_own_write(key, shown)
    }

    /// Counts the WALs that an earlier leader left in the middle of an upgrade.
    fn listed(context: &ReconcileContext, wals: &[Arc<DeserializeGuard<Wal>>]) {
        let under_way = wals.iter().filter_map(|wal| {
            let status = wal.0.as_ref().ok()?.status.as_ref()?;
            upgrade::is_under_way(&status.conditions).then(|| NamespacedName::of(wal.meta()))
        });
        context.shared.slots.count_under_way(under_way);
    }

    fn forget(context: &ReconcileContext, key: &NamespacedName) {
        context.shared.statuses.forget(key);
        context.shared.tally.forget(key);
        for next in context.shared.slots.release(key) {
            // With a full queue the resync finds them.
            drop(context.changed.try_send(next));
        }
    }
}

/// Reports it, and finishes the deletion of one that is being deleted.
async fn reconcile_unreadable(
    invalid: &InvalidObject,
    reference: &ObjectReference,
    context: &ReconcileContext,
) -> Result<Action, ReconcileError> {
    let deletion = purge::finalize_unreadable(&invalid.metadata, reference, context).await;
    let deletion = deletion.map_err(ReconcileError::Finalizer)?;
    if deletion == DeletionStep::Done {
        return Ok(Action::await_change());
    }
    let shared = &context.shared;
    shared.metrics.invalid_object();
    let (ready, manager) = (ConditionType::Ready, names::MANAGER_STATUS);
    let reported = unreadable::report::<Wal>(invalid, &shared.client, ready, manager, clock::now()).await;
    reported.map_err(ReconcileError::Status)?;
    Ok(match deletion {
        DeletionStep::Purging { again } => Action::requeue(again),
        DeletionStep::None | DeletionStep::Done => Action::await_change(),
    })
}

#[tracing::instrument(name = "reconcile", skip_all, fields(wal = %wal.name_any(), namespace = wal.namespace()))]
async fn reconcile_wal(wal: &Wal, context: &ReconcileContext) -> Result<Action, ReconcileError> {
    let observed = dereference(wal, context);
    let validated = validate(wal, &context.shared.settings.cluster_id);
    let deletion = purge::finalize(wal, &observed, validated.is_err(), context).await;
    let deletion = deletion.map_err(ReconcileError::Finalizer)?;
    if deletion == DeletionStep::Done {
        return Ok(Action::await_change());
    }
    let upgrade = UpgradePlan::new(&observed, validated.as_ref().ok(), context);
    let result = match validated {
        Ok(validated) => build_and_roll_out(validated, &observed, upgrade.step, context).await,
        Err(refusals) => RollOutResult::refused(refused(&refusals)),
    };
    // Re-read: our own writes are in the cache and produce no watch event.
    let observed = dereference(wal, context);
    let again = report(wal, &observed, &upgrade, &result, context).await?;
    if let Some(error) = result.error {
        return Err(error.into());
    }
    let waiting = result.waits.then_some(RETRY_INTERVAL);
    let at_once = (upgrade.has_slot || result.writes > 0 && upgrade.step.is_under_way()).then_some(Duration::ZERO);
    let purging = if let DeletionStep::Purging { again } = deletion { Some(again) } else { None };
    let resync = backoff::jittered(RESYNC_INTERVAL, backoff::random());
    let next = [again, waiting, at_once, purging].into_iter().flatten().fold(resync, Duration::min);
    Ok(Action::requeue(next))
}

/// What came of writing the children.
#[derive(Debug)]
struct RollOutResult {
    /// How many writes it took, where all of them succeeded.
    writes: usize,
    /// What a user must know.
    refused: Option<ConditionValue>,
    /// Why it is retried, later each time.
    error: Option<ApplyError>,
    /// Whether something else must go first, which happens by itself.
    waits: bool,
    /// Which search pods ask for the token.
    coverage: TokenCoverage,
}

impl Default for RollOutResult {
    fn default() -> Self {
        Self { writes: 0, refused: None, error: None, waits: false, coverage: TokenCoverage::Full }
    }
}

impl RollOutResult {
    fn refused(value: ConditionValue) -> Self {
        Self { refused: Some(value), ..Self::default() }
    }

    fn failed(observed: &ObservedWal, error: ApplyError) -> Self {
        let refused = |reason| Some(ConditionValue::no(reason, error.to_string()));
        match error {
            ApplyError::Leftover { .. } | ApplyError::NamespaceTerminating => {
                tracing::debug!(object = %observed.key, %error, "waiting");
                Self { waits: true, ..Self::default() }
            }
            ApplyError::NameTaken { .. } => {
                Self { refused: refused(Reason::NameTaken), error: Some(error), ..Self::default() }
            }
            ApplyError::Refused { .. } | ApplyError::Unwritable(_) => {
                Self { refused: refused(Reason::ChildRefused), error: Some(error), ..Self::default() }
            }
            ApplyError::Failed { .. } => Self { error: Some(error), ..Self::default() },
        }
    }
}

async fn build_and_roll_out(
    mut wal: ValidatedWal,
    observed: &ObservedWal,
    step: UpgradeStep,
    context: &ReconcileContext,
) -> RollOutResult {
    let settings = &context.shared.settings;
    let coverage = match wal.search.token_secret {
        Some(_) => search_exposure::limit(&mut wal.search, &LiveSearch::read(observed)),
        None => TokenCoverage::Full,
    };
    let children = build::build(&wal, &settings.platform, &settings.release);
    let written = match children.desired() {
        Ok(desired) => write_children::write_children(context, observed, &desired, step).await,
        Err(error) => Err(error.into()),
    };
    let result = match written {
        Ok(writes) => RollOutResult { writes, ..RollOutResult::default() },
        Err(error) => RollOutResult::failed(observed, error),
    };
    RollOutResult { coverage, ..result }
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
}

impl UpgradePlan {
    fn new(observed: &ObservedWal, validated: Option<&ValidatedWal>, context: &ReconcileContext) -> Self {
        let settings = &context.shared.settings;
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
        };
        let step = inputs.step();
        let has_slot = step == UpgradeStep::Queue && context.shared.slots.acquire(&observed.key);
        let held = matches!(step, UpgradeStep::Hold | UpgradeStep::Queue)
            && validated.is_some_and(|wal| write_children::holds_back_spec(observed, wal));
        // With a slot the status says that the WAL is under way; only then is anything of it changed.
        let shown = if has_slot { UpgradeStep::RollSearch } else { step };
        let value = inputs.condition_value(shown, &observed.key, held);
        Self { step, value, has_slot }
    }

    /// Releases the slot once the status says that the WAL needs it no longer.
    async fn status_written(&self, key: &NamespacedName, context: &ReconcileContext) {
        if self.has_slot || self.step.is_under_way() || self.step == UpgradeStep::Queue {
            return;
        }
        for next in context.shared.slots.release(key) {
            // There is no receiver only while the process ends.
            drop(context.changed.send(next).await);
        }
    }
}

/// Writes status and Events if there is news. Answers when there may be some that waits.
async fn report(
    wal: &Wal,
    observed: &ObservedWal,
    upgrade: &UpgradePlan,
    result: &RollOutResult,
    context: &ReconcileContext,
) -> Result<Option<Duration>, ReconcileError> {
    let inputs = ConditionInputs {
        suspended: observed.intent.suspended,
        search_wanted: observed.intent.search_wanted,
        indexer: observed.rollout(WalComponent::Indexer),
        search: observed.rollout(WalComponent::Search),
        pods: &observed.pods,
        before: &observed.status.conditions,
        refused: result.refused.clone(),
        token_everywhere: result.coverage == TokenCoverage::Full,
    };
    let now = clock::now();
    let (before, shared) = (&observed.status, &context.shared);
    let after = update_status::next(observed, &inputs, &evaluate(&inputs), &upgrade.value, now);
    let mut again = None;
    match status_writer::due(before, &after, status_writer::since(before, shared.statuses.written(&observed.key), now))
    {
        WriteTiming::Never => {}
        WriteTiming::After(wait) => again = Some(wait),
        WriteTiming::Now => {
            let (owner, manager) = (observed.owner(), names::MANAGER_STATUS);
            let written = status_writer::write(&shared.client, &shared.statuses, owner, manager, &after).await;
            written.map_err(ReconcileError::Status)?;
            let adopted_from = inputs.active_indexer().and_then(|(_, process)| process.adopted_from.as_deref());
            let events = transitions::between(before, &after, adopted_from);
            shared.events.publish(&wal.object_ref(&()), &events).await;
        }
    }
    shared.tally.count(&observed.key, &after.conditions);
    upgrade.status_written(&observed.key, context).await;
    Ok(again)
}
