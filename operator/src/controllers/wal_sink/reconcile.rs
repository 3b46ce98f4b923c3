//! The reconciliation of one sink, as a table of contents.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource as _, ResourceExt as _,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tidemark_crds::{Reason, SinkConditionType, WalSink, names};

use super::{
    build::build,
    dereference::{ObservedSink, observe},
    evaluate::evaluate,
    update_status::{events_between, figures, next},
    validate::{SinkRefusal, ValidatedSink, validate},
    wal_sink_controller::WalSinkController,
};
use crate::{
    backoff,
    cache::NamespacedName,
    clock,
    condition_value::ConditionValue,
    controllers::{
        kind_controller::{KindController, ReconcileError},
        unreadable_object,
    },
    metrics::SinkFigures,
    object_applier::{ApplyError, ObjectApplier},
    status_writer::{StatusWriter, WriteTiming},
};

/// A sink is reconciled this often even if nothing says that it changed.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);
/// How long to wait for what no watch tells a sink: that its WAL was made, or that a name is free.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

impl KindController for WalSinkController {
    type Object = WalSink;

    const NAME: &'static str = "walsink";

    async fn reconcile(&self, sink: &DeserializeGuard<WalSink>) -> Result<Action, ReconcileError> {
        match &sink.0 {
            Ok(sink) => Box::pin(reconcile_sink(sink, self)).await,
            Err(invalid) => reconcile_unreadable(invalid, self).await,
        }
    }

    fn is_own_write(&self, key: &NamespacedName, shown: &WalSink) -> bool {
        self.statuses.is_own_write(key, shown)
    }

    fn listed(&self, _sinks: &[Arc<DeserializeGuard<WalSink>>]) {}

    fn forget(&self, key: &NamespacedName) {
        self.statuses.forget(key);
        self.tally.forget(key);
        self.failed_writes.note(key, false);
        self.context.shared.metrics.sink_behind(&key.namespace, &key.name, SinkFigures::default());
    }
}

async fn reconcile_unreadable(
    invalid: &InvalidObject,
    controller: &WalSinkController,
) -> Result<Action, ReconcileError> {
    let shared = &controller.context.shared;
    shared.metrics.invalid_object();
    let values = |message: &str, _before: &[Condition]| {
        let refused = ConditionValue::no(Reason::SpecInvalid, message);
        vec![
            (SinkConditionType::Ready, refused.clone()),
            (SinkConditionType::Applied, refused),
            (SinkConditionType::Delivering, ConditionValue::unknown(Reason::SpecInvalid, message)),
        ]
    };
    let manager = names::MANAGER_SINK_STATUS;
    let reported =
        unreadable_object::report::<WalSink, _>(invalid, &shared.client, values, manager, None, clock::now()).await;
    let conditions = reported.map_err(ReconcileError::Status)?;
    controller.tally.count(&NamespacedName::of(&invalid.metadata), &conditions);
    Ok(Action::await_change())
}

#[tracing::instrument(name = "reconcile", skip_all, fields(sink = %sink.name_any(), namespace = sink.namespace()))]
async fn reconcile_sink(sink: &WalSink, controller: &WalSinkController) -> Result<Action, ReconcileError> {
    // Its children go with it. What it has acknowledged stays in the index.
    if sink.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let observed = observe(sink, controller);
    let validated = validate(&observed, &controller.context.shared.settings.platform.image);
    let written = match &validated {
        Ok(validated) => write(validated, &observed, controller).await,
        Err(refusal) => refuse(refusal, &observed, controller).await,
    };
    let failed = matches!(&written, Err(ApplyError::Failed { .. } | ApplyError::Unwritable(_)));
    let is_lasting = controller.failed_writes.note(&observed.key, failed);
    let unapplied = match (&validated, &written) {
        (Err(refusal), _) => Some(refusal.value.clone()),
        (Ok(_), Err(error)) => unapplied(error, is_lasting),
        (Ok(_), Ok(())) => None,
    };
    // Re-read: our own writes are in the cache and produce no watch event.
    let observed = observe(sink, controller);
    let again = report(sink, &observed, unapplied.as_ref(), controller).await?;
    match written {
        Err(error) if failed => Err(error.into()),
        written => {
            let waits = (validated.is_err() || written.is_err()).then_some(RETRY_INTERVAL);
            let resync = backoff::jittered(RESYNC_INTERVAL, backoff::random());
            Ok(Action::requeue([again, waits].into_iter().flatten().fold(resync, Duration::min)))
        }
    }
}

/// Makes the children as they should be. The pod comes last: it is not changed before the others are as they should be.
async fn write(
    validated: &ValidatedSink,
    observed: &ObservedSink,
    controller: &WalSinkController,
) -> Result<(), ApplyError> {
    let children = build(validated, &controller.context.shared.settings.platform);
    let applier = applier(observed, controller);
    for child in children.desired() {
        applier.ensure(child).await?;
    }
    Ok(())
}

/// Stops the pod of a sink that has nothing to deliver from.
async fn refuse(
    refusal: &SinkRefusal,
    observed: &ObservedSink,
    controller: &WalSinkController,
) -> Result<(), ApplyError> {
    if refusal.stops && observed.rollout.is_some() {
        applier(observed, controller).scale(&names::sink_child(&observed.key.name), 0).await?;
    }
    Ok(())
}

/// What a failure to write the children says of the sink; nothing while it may pass.
fn unapplied(error: &ApplyError, is_lasting: bool) -> Option<ConditionValue> {
    let reason = match error {
        ApplyError::NameTaken { .. } => Reason::NameTaken,
        ApplyError::Refused { .. } => Reason::ChildRefused,
        ApplyError::Leftover { .. }
        | ApplyError::Terminating { .. }
        | ApplyError::LeftBehind { .. }
        | ApplyError::NamespaceTerminating => Reason::RollingOut,
        ApplyError::Failed { .. } | ApplyError::Unwritable(_) if is_lasting => Reason::ApplyFailed,
        ApplyError::Failed { .. } | ApplyError::Unwritable(_) => return None,
    };
    Some(ConditionValue::no(reason, error.to_string()))
}

fn applier<'a>(observed: &'a ObservedSink, controller: &'a WalSinkController) -> ObjectApplier<'a> {
    let context = &controller.context;
    ObjectApplier { client: &context.shared.client, cache: &context.cache, owner: observed.owner() }
}

/// Writes status and Events if there is news, and says when there will be.
async fn report(
    sink: &WalSink,
    observed: &ObservedSink,
    unapplied: Option<&ConditionValue>,
    controller: &WalSinkController,
) -> Result<Option<Duration>, ReconcileError> {
    let shared = &controller.context.shared;
    let before = &observed.status;
    let after = next(observed, &evaluate(observed, unapplied), clock::now());
    let (statuses, field_manager) = (&controller.statuses, names::MANAGER_SINK_STATUS);
    let writer = StatusWriter { client: &shared.client, statuses, field_manager };
    let timing = writer.update(observed.owner(), before, &after).await.map_err(ReconcileError::Status)?;
    if timing == WriteTiming::Now {
        shared.events.publish(&sink.object_ref(&()), &events_between(before, &after)).await;
    }
    controller.tally.count(&observed.key, &after.conditions);
    shared.metrics.sink_behind(&observed.key.namespace, &observed.key.name, figures(&after));
    Ok(if let WriteTiming::After(left) = timing { Some(left) } else { None })
}
