//! Controllers in tests, on an API server in memory. Their time stands still while they have something to do.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::Shared};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, PostParams},
    core::{ApiResource, DeserializeGuard},
    runtime::{
        reflector::{Store, reflector, store},
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};
use tidemark_crds::{Wal, WalTask, names};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use super::{
    kind_controller::{KindController, run_kind},
    wal::{WalController, build::PlatformSettings},
};
use crate::{
    cache::{self, NamespacedName, ObjectCache},
    context::{LeaderContext, OperatorSettings, ReconcileContext},
    event_publisher::EventPublisher,
    fake_api_server::FakeApiServer,
    metrics::OperatorMetrics,
    pod_report_poller::PodObservations,
    reconcile_queues::{ReconcileQueues, ReconcileTarget},
    relisting_watcher::relisting_watcher,
    upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// Completes when everything that exists is listed.
pub(crate) type ListedFuture = Shared<futures::future::BoxFuture<'static, ()>>;

/// What the controller of a kind whose objects name WALs is made of.
pub(crate) struct ControllerParts<C: KindController> {
    pub(crate) context: ReconcileContext,
    pub(crate) wals: Store<DeserializeGuard<Wal>>,
    pub(crate) objects: Store<DeserializeGuard<C::Object>>,
    pub(crate) slots: Arc<UpgradeSlots>,
    pub(crate) turns: WritingTurns,
}

/// The namespace "data" of a cluster, and what works in it.
pub(crate) struct FakeWorld {
    pub(crate) server: FakeApiServer,
    pub(crate) client: Client,
    pub(crate) metrics: OperatorMetrics,
    tasks: JoinSet<()>,
}

impl FakeWorld {
    pub(crate) fn new() -> Self {
        let server = FakeApiServer::new();
        Self { client: server.client(), server, metrics: OperatorMetrics::new(), tasks: JoinSet::new() }
    }

    /// What controllers share.
    pub(crate) fn context(&self, queues: ReconcileQueues, settings: OperatorSettings) -> ReconcileContext {
        let shared = LeaderContext {
            client: self.client.clone(),
            settings,
            metrics: self.metrics.clone(),
            events: EventPublisher::new(self.client.clone(), "one"),
            queues: Arc::new(queues),
            permits: Semaphore::new(2),
        };
        ReconcileContext {
            shared: Arc::new(shared),
            cache: ObjectCache::default(),
            observations: PodObservations::default(),
        }
    }

    /// Runs the watches of a context, and `controllers`.
    pub(crate) fn run<F>(
        &mut self,
        context: ReconcileContext,
        controllers: impl FnOnce(Arc<LeaderContext>, ListedFuture) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let ReconcileContext { shared, cache, .. } = context;
        let mut watches = cache::watch(&shared.client, None, &cache, &shared.queues, &shared.metrics);
        let controllers = controllers(shared, watches.listed().boxed().shared());
        self.tasks.spawn(async move {
            tokio::select! {
                () = controllers => {}
                _ = watches.tasks.join_next() => {}
            }
        });
    }

    /// Runs the controller of WALs, of which one is upgraded at a time, and beside it that of another kind, once the WALs are listed.
    /// `make` gives the latter, and the tasks that the former knows. Gives what they know of children and pods.
    pub(crate) fn run_beside_wals<C: KindController>(
        &mut self,
        kind: &'static str,
        settings: OperatorSettings,
        make: impl FnOnce(&mut Self, &ControllerParts<C>) -> (C, Store<DeserializeGuard<WalTask>>),
    ) -> ObjectCache {
        let mut queues = ReconcileQueues::default();
        let [changed_wals, changed] = [names::KIND, kind].map(|kind| queues.open(kind, None));
        let context = self.context(queues, settings);
        let cache = context.cache.clone();
        let (wals, objects) = (store(), store());
        let parts = ControllerParts {
            context: context.clone(),
            wals: wals.0.clone(),
            objects: objects.0.clone(),
            slots: Arc::new(UpgradeSlots::new(1, 1)),
            turns: WritingTurns::default(),
        };
        let (controller, tasks) = make(self, &parts);
        let of_wals = WalController::new(context.clone(), parts.slots, parts.turns, tasks);
        self.run(context, async |shared, listed| {
            let listed_wals = wals.0.clone();
            let then = async move |()| drop(listed_wals.wait_until_ready().await);
            let listed_too = futures::FutureExt::then(listed.clone(), then);
            tokio::join!(
                run_kind(of_wals, wals, shared.clone(), None, changed_wals, listed),
                run_kind(controller, objects, shared, None, changed, listed_too),
            );
        });
        cache
    }

    /// The tasks that exist, and each change of one as a reason to reconcile its WAL. No controller runs them.
    pub(crate) fn follow_tasks(&mut self, context: &ReconcileContext) -> Store<DeserializeGuard<WalTask>> {
        let (reader, writer) = store();
        let api: Api<DeserializeGuard<WalTask>> = self.api();
        let shared = context.shared.clone();
        let events = relisting_watcher(api, watcher::Config::default(), &self.metrics, names::TASK_KIND, Some("data"));
        self.tasks.spawn(async move {
            let mut events = std::pin::pin!(reflector(writer, events));
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(task) | Event::Delete(task)) = event
                    && let Ok(task) = &task.0
                {
                    let wal = NamespacedName::new("data", &task.spec.wal_ref.name);
                    shared.queues.send(ReconcileTarget::new(names::KIND, wal)).await;
                }
            }
        });
        reader
    }

    /// Ends what [`FakeWorld::run`] has begun, at once.
    pub(crate) fn stop(&mut self) {
        self.tasks = JoinSet::new();
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "data")
    }

    /// [`FakeWorld::api`] for objects that cannot be read as their type.
    pub(crate) fn untyped<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), "data", &ApiResource::erase::<K>(&()))
    }

    /// Makes an object, be its spec valid or not.
    pub(crate) async fn make<K: Resource<DynamicType = ()>>(&self, name: &str, spec: Value) {
        let object = DynamicObject::new(name, &ApiResource::erase::<K>(&())).data(json!({"spec": spec}));
        self.untyped::<K>().create(&PostParams::default(), &object).await.unwrap();
    }

    /// How often a controller has reconciled something.
    pub(crate) fn reconciled(&self, controller: &str) -> u32 {
        let encoded = self.metrics.encode().unwrap();
        let lines = encoded.lines().filter(|line| {
            line.starts_with("tidemark_operator_reconciles_total{")
                && line.contains(&format!("controller=\"{controller}\""))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
    }
}

pub(crate) fn settings() -> OperatorSettings {
    let platform =
        PlatformSettings { image: "i".to_owned(), image_pull_policy: None, operator_namespace: "tidemark".to_owned() };
    OperatorSettings {
        platform,
        release: "0123456789".to_owned(),
        cluster_id: "c1".to_owned(),
        upgrade_approved: String::new(),
        poll_interval: Duration::from_secs(10),
        pod_port: 7280,
        purge_timeout: Duration::from_mins(10),
        concurrency: 2,
    }
}

/// Those of an operator whose release is approved for every WAL.
pub(crate) fn approving_settings() -> OperatorSettings {
    let settings = settings();
    // The server in memory deletes at a time of its own.
    let purge_timeout = Duration::from_hours(1_000_000);
    OperatorSettings { upgrade_approved: settings.release.clone(), purge_timeout, ..settings }
}

pub(crate) fn wal_spec() -> Value {
    json!({
        "storage": {"credentials": {"type": "WorkloadIdentity"}}, "log": {"url": "s3://log/a", "expiry": "1h"},
        "metadata": {"urls": ["s3://meta"]}, "index": {"url": "s3://index/a"},
    })
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look().await {
            return found;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within a minute");
}

/// Waits until what `look` sees changes no more.
pub(crate) async fn settled<T: PartialEq>(look: impl Fn() -> T) -> T {
    let mut before = look();
    loop {
        sleep(Duration::from_secs(2)).await;
        let now = look();
        if now == before {
            return now;
        }
        before = now;
    }
}
