//! Runs the controller of one kind of resource: what is the same for each of them.
//!
//! It is made of the parts of `kube`'s `Controller` (`reflector`, `applier`) instead of that one, because the watch is
//! [`relisting_watcher`], events of own writes are left out, and an object that is gone is forgotten.

use std::{error::Error, fmt::Debug, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        controller::{Action, Config, Error as ApplierError, ReconcileRequest, applier, trigger_self},
        reflector::{ObjectRef, Store, reflector, store::Writer},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    backoff::FailureBackoff, cache::NamespacedName, context::LeaderContext, object_applier::ApplyError,
    relisting_watcher::relisting_watcher,
};

/// An object is reconciled when nothing of it has changed for so long: its children and pods change several at a time.
const DEBOUNCE_INTERVAL: Duration = Duration::from_millis(100);

/// What the applier yields for each object that it was asked to reconcile.
type ApplierResult<C, Q> =
    Result<(ObjectRef<DeserializeGuard<<C as KindController>::Object>>, Action), ApplierError<ReconcileError, Q>>;

/// Why a reconciliation has to be retried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("failed to write the status: {0}")]
    Status(#[source] kube::Error),
    #[error("failed to write the finalizer: {0}")]
    Finalizer(#[source] kube::Error),
    #[error("failed to make a task: {0}")]
    Task(#[source] kube::Error),
    #[error("failed to read the pods of a job: {0}")]
    Pods(#[source] kube::Error),
    #[error("failed to read a job: {0}")]
    Jobs(#[source] kube::Error),
    #[error("failed to delete a task that ended long ago: {0}")]
    Expiry(#[source] kube::Error),
}

/// What a controller does with the objects of its kind.
pub(crate) trait KindController: Sized + Send + Sync + 'static {
    /// The kind.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;

    /// Name of the controller in metrics.
    const NAME: &'static str;

    /// Brings one object, and its status, closer to what it should be.
    fn reconcile(
        &self,
        object: &DeserializeGuard<Self::Object>,
    ) -> impl Future<Output = Result<Action, ReconcileError>> + Send;

    /// Takes note of what a watch shows, own writes included, once other controllers see it in the store.
    fn shown(&self, _object: &Self::Object) {}

    /// Whether an event shows no more than what this process wrote.
    fn is_own_write(&self, key: &NamespacedName, shown: &Self::Object) -> bool;

    /// Takes note of every object of this part of the cluster, once, when they are listed.
    fn listed(&self, objects: &[Arc<DeserializeGuard<Self::Object>>]);

    /// Forgets an object that is gone.
    fn forget(&self, key: &NamespacedName);
}

/// The objects of a kind: who reads them, and who keeps them up to date.
pub(crate) type KindStore<K> = (Store<DeserializeGuard<K>>, Writer<DeserializeGuard<K>>);

/// Reconciles each object of a kind, in a namespace or everywhere, when it changes or its key comes through `changed`. Keeps the objects
/// in `objects`, which other controllers may read.
///
/// Nothing is reconciled before `listed` returns: until then an object that exists could look like one to create.
pub(crate) async fn run_kind<C: KindController>(
    controller: C,
    (reader, writer): KindStore<C::Object>,
    shared: Arc<LeaderContext>,
    namespace: Option<&str>,
    mut changed: mpsc::Receiver<NamespacedName>,
    listed: impl Future<Output = ()>,
) {
    let (controller, client) = (Arc::new(controller), shared.client.clone());
    let api: Api<DeserializeGuard<C::Object>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let kind = C::Object::kind(&());
    let objects = relisting_watcher(api, watcher::Config::default(), &shared.metrics, &kind, namespace)
        .modify(|object: &mut DeserializeGuard<C::Object>| object.meta_mut().managed_fields = None);
    let watching = controller.clone();
    let objects = reflector(writer, objects)
        .filter_map(move |event| std::future::ready(event.map(|event| changed_object(event, &*watching)).transpose()));
    drain_until(&mut changed, listed).await;
    let keys = stream::poll_fn(move |task| changed.poll_recv(task));
    let keys = keys.map(|key| Ok(ReconcileRequest::from(reference::<C>(&key))));
    let queue = stream::select(trigger_self(objects, ()), keys);
    let noted = note_listed(reader.clone(), controller.clone());
    let config = Config::default().concurrency(shared.settings.concurrency).debounce(DEBOUNCE_INTERVAL);
    let backoff = Arc::new(FailureBackoff::default());
    let (reconciled, failed) = (backoff.clone(), backoff.clone());
    let results = applier(
        move |object, controller| reconcile::<C>(object, controller, shared.clone(), reconciled.clone()).boxed(),
        move |object: Arc<DeserializeGuard<C::Object>>, error: &ReconcileError, _| {
            retry(&NamespacedName::of(object.meta()), error, &failed)
        },
        controller.clone(),
        reader,
        queue,
        config,
    );
    let results = results.for_each(|result| {
        forget_gone(&result, &*controller, &backoff);
        std::future::ready(())
    });
    tokio::join!(results, noted);
}

async fn reconcile<C: KindController>(
    object: Arc<DeserializeGuard<C::Object>>,
    controller: Arc<C>,
    shared: Arc<LeaderContext>,
    backoff: Arc<FailureBackoff<NamespacedName>>,
) -> Result<Action, ReconcileError> {
    // The semaphore is never closed.
    let _permit = shared.permits.acquire().await;
    let started = Instant::now();
    let key = NamespacedName::of(object.meta());
    let result = controller.reconcile(&object).await;
    let outcome = if result.is_ok() { "done" } else { "failed" };
    shared.metrics.reconciled(C::NAME, outcome, started.elapsed());
    if result.is_ok() {
        backoff.reset(&key);
    }
    result
}

fn retry(key: &NamespacedName, error: &ReconcileError, backoff: &FailureBackoff<NamespacedName>) -> Action {
    let wait = backoff.failed(key.clone());
    tracing::warn!(object = %key, %error, ?wait, "reconciliation failed; retrying");
    Action::requeue(wait)
}

/// The object that an event is about. An own write is skipped: a change by another client has an event of its own, unless the
/// watch failed, after which everything is listed.
fn changed_object<C: KindController>(
    event: Event<DeserializeGuard<C::Object>>,
    controller: &C,
) -> Option<DeserializeGuard<C::Object>> {
    let is_own_write = |object: &DeserializeGuard<C::Object>| {
        object.0.as_ref().is_ok_and(|shown| controller.is_own_write(&NamespacedName::of(object.meta()), shown))
    };
    if let Event::Apply(object) | Event::Delete(object) = &event
        && let Ok(object) = &object.0
    {
        controller.shown(object);
    }
    match event {
        Event::Apply(object) if is_own_write(&object) => None,
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => Some(object),
        Event::Init | Event::InitDone => None,
    }
}

/// Drops the keys that arrive before `listed` returns, so that no sender blocks: every object is reconciled after that anyway.
async fn drain_until(changed: &mut mpsc::Receiver<NamespacedName>, listed: impl Future<Output = ()>) {
    let mut listed = std::pin::pin!(listed);
    loop {
        tokio::select! {
            () = &mut listed => return,
            Some(_) = changed.recv() => {}
        }
    }
}

async fn note_listed<C: KindController>(objects: Store<DeserializeGuard<C::Object>>, controller: Arc<C>) {
    if objects.wait_until_ready().await.is_ok() {
        controller.listed(&objects.state());
    }
}

fn forget_gone<C: KindController, Q: Error>(
    result: &ApplierResult<C, Q>,
    controller: &C,
    backoff: &FailureBackoff<NamespacedName>,
) {
    match result {
        Ok(_) | Err(ApplierError::ReconcilerFailed(..)) => {}
        Err(ApplierError::ObjectNotFound(gone)) => {
            let key = NamespacedName::new(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
            backoff.reset(&key);
            controller.forget(&key);
        }
        Err(error @ (ApplierError::QueueError(_) | ApplierError::RunnerError(_))) => {
            tracing::debug!(%error, "controller queue error");
        }
    }
}

fn reference<C: KindController>(key: &NamespacedName) -> ObjectRef<DeserializeGuard<C::Object>> {
    ObjectRef::new(&key.name).within(&key.namespace)
}
