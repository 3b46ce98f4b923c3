//! Runs the controllers of one leader.

pub(crate) mod wal;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, stream};
use kube::{
    Api, Client, Resource as _,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        controller::{Action, Config, Error as ApplierError, ReconcileRequest, applier, trigger_self},
        reflector::{ObjectRef, Store, reflector, store},
        watcher::{self, Event, watcher},
    },
};
use tidemark_crds::Wal;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use self::wal::{
    name_of,
    observe::{Observations, Observer},
    upgrade::{self, Turns},
};
use crate::{
    args::Run,
    backoff::Backoff,
    cache::{self, Cache, WalKey},
    context::{Ledger, Scope, Settings, Shared},
    events::Events,
    metrics::Metrics,
    process::Asker,
};

/// How many WALs may wait to be looked at before whoever asks for it waits, too.
const CHANGED: usize = 1024;
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// A WAL is looked at when nothing of it has changed for so long: its children and pods change several at a time.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A WAL, or why it cannot be read.
type Guarded = DeserializeGuard<Wal>;

/// A part of the operator ended that should run for ever.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the {0} ended, though it should run for ever")]
    Task(&'static str),
    #[error("a task of the controllers broke: {0}")]
    Broke(#[from] tokio::task::JoinError),
    #[error("no client for the data pods can be made: {0}")]
    Asker(#[from] reqwest::Error),
}

/// Reconciles until it is dropped.
pub(crate) async fn run(client: Client, args: &Run, settings: Settings, metrics: Metrics) -> Result<Infallible, Ended> {
    let namespaces: Vec<Option<String>> = match args.scope.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let concurrency = usize::from(settings.concurrency);
    let shared = Arc::new(Shared {
        events: Events::new(client.clone(), &args.lease.identity),
        backoff: Backoff::default(),
        turns: Turns::new(args.upgrade.max_concurrent_upgrades, namespaces.len()),
        ledger: Ledger::new(metrics.clone()),
        permits: Semaphore::new(concurrency),
        client,
        settings,
        metrics,
    });
    let mut parts = JoinSet::new();
    for namespace in namespaces {
        parts.spawn(run_part(shared.clone(), namespace));
    }
    match parts.join_next().await {
        Some(ended) => ended?,
        None => Err(Ended::Task("controller")),
    }
}

/// Reconciles the WALs of one namespace, or of all.
async fn run_part(shared: Arc<Shared>, namespace: Option<String>) -> Result<Infallible, Ended> {
    let (sender, changed) = mpsc::channel(CHANGED);
    let (cache, observations) = (Cache::default(), Observations::default());
    let mut watches = cache::watch(&shared.client, namespace.as_deref(), &cache, &sender, &shared.metrics);
    let observer = Observer {
        cache: cache.clone(),
        observations: observations.clone(),
        changed: sender.clone(),
        asker: Asker::new()?,
        port: shared.settings.pod_port,
        interval: shared.settings.poll_interval,
        metrics: shared.metrics.clone(),
    };
    let scope = Arc::new(Scope { shared, cache, observations, changed: sender });
    let listed = watches.listed();
    tokio::select! {
        () = reconcile_all(scope, namespace, changed, listed) => Err(Ended::Task("controller")),
        () = observer.run() => Err(Ended::Task("observer")),
        Some(ended) = watches.tasks.join_next() => {
            ended?;
            Err(Ended::Task("watch"))
        }
    }
}

/// Reconciles each WAL when it or something of it changes, once everything that exists is known.
async fn reconcile_all(
    scope: Arc<Scope>,
    namespace: Option<String>,
    mut changed: mpsc::Receiver<WalKey>,
    listed: impl Future<Output = ()>,
) {
    let api: Api<Guarded> = match &namespace {
        Some(namespace) => Api::namespaced(scope.shared.client.clone(), namespace),
        None => Api::all(scope.shared.client.clone()),
    };
    let (reader, writer) = store();
    let metrics = scope.shared.metrics.clone();
    let objects = watcher(api, watcher::Config::default().page_size(PAGE))
        .modify(|wal: &mut Guarded| wal.meta_mut().managed_fields = None)
        .default_backoff();
    let ledger = scope.clone();
    let objects = reflector(writer, objects).filter_map(move |event| {
        let object = event.map(|event| touched(event, &ledger.shared.ledger)).transpose();
        if let Some(Err(error)) = &object {
            metrics.watch_failed("WAL");
            tracing::warn!(kind = "WAL", %error, "a watch broke; it starts again");
        }
        std::future::ready(object)
    });
    // Nothing is reconciled before everything is listed: what is not known would look like something to make.
    pass_over_until(&mut changed, listed).await;
    let children = stream::poll_fn(move |context| changed.poll_recv(context));
    let children = children.map(|key| Ok(ReconcileRequest::from(reference(&key))));
    let queue = stream::select(trigger_self(objects, ()), children);
    let counted = count_under_way(reader.clone(), scope.clone());
    let config = Config::default().concurrency(scope.shared.settings.concurrency).debounce(DEBOUNCE);
    let context = scope.clone();
    let reconciled =
        applier(|wal, scope| wal::reconcile(wal, scope).boxed(), error_policy, context, reader, queue, config);
    let reconciled = reconciled.for_each(|result| {
        forget_what_is_gone(&result, &scope);
        std::future::ready(())
    });
    tokio::join!(reconciled, counted);
}

/// The WAL that an event is about. The echo of a status is passed over: whoever wrote it knows it, and a change by somebody
/// else has an event of its own, unless the watch broke, after which everything is listed.
fn touched(event: Event<Guarded>, ledger: &Ledger) -> Option<Guarded> {
    match event {
        Event::Apply(wal) if wal.0.as_ref().is_ok_and(|shown| ledger.is_echo(&name_of(wal.meta()), shown)) => None,
        Event::Apply(wal) | Event::InitApply(wal) | Event::Delete(wal) => Some(wal),
        Event::Init | Event::InitDone => None,
    }
}

/// Every WAL is reconciled after the first listing; until then nobody needs to say so, and nobody may have to wait.
async fn pass_over_until(changed: &mut mpsc::Receiver<WalKey>, listed: impl Future<Output = ()>) {
    let mut listed = std::pin::pin!(listed);
    loop {
        tokio::select! {
            () = &mut listed => return,
            Some(_) = changed.recv() => {}
        }
    }
}

/// Counts the WALs that an earlier leader left in the middle of an upgrade.
async fn count_under_way(wals: Store<Guarded>, scope: Arc<Scope>) {
    if wals.wait_until_ready().await.is_err() {
        return;
    }
    let under_way = wals.state().into_iter().filter_map(|wal| {
        let status = wal.0.as_ref().ok()?.status.as_ref()?;
        upgrade::is_under_way(&status.conditions).then(|| name_of(wal.meta()))
    });
    scope.shared.turns.count(under_way);
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that the applier takes")]
fn error_policy(wal: Arc<Guarded>, error: &wal::Error, scope: Arc<Scope>) -> Action {
    let key = name_of(wal.meta());
    let wait = scope.shared.backoff.failed(key.clone());
    tracing::warn!(wal = %key, %error, ?wait, "a reconciliation failed; it is tried again");
    Action::requeue(wait)
}

/// What is kept of a WAL goes with it.
fn forget_what_is_gone<Q: std::error::Error>(
    result: &Result<(ObjectRef<Guarded>, Action), ApplierError<wal::Error, Q>>,
    scope: &Scope,
) {
    match result {
        Ok(_) | Err(ApplierError::ReconcilerFailed(..)) => {}
        Err(ApplierError::ObjectNotFound(gone)) => {
            let key = WalKey::new(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
            scope.shared.backoff.reset(&key);
            scope.shared.ledger.forget(&key);
            for next in scope.shared.turns.give_back(&key) {
                // A full queue looks at them soon anyway.
                drop(scope.changed.try_send(next));
            }
        }
        Err(error @ (ApplierError::QueueError(_) | ApplierError::RunnerError(_))) => {
            tracing::debug!(%error, "the queue of the controller");
        }
    }
}

fn reference(key: &WalKey) -> ObjectRef<Guarded> {
    ObjectRef::new(&key.name).within(&key.namespace)
}
