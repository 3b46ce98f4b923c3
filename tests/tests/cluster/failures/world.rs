//! The cluster that all scenarios share, with the chart, a WAL and a writer that never stops.

use std::{sync::Arc, time::Duration};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidemark_catalog::{Generation, IndexChain, Manifest};
use tidemark_crds::Wal;
use tidemark_store::{ChainRecord, Entropy};
use tidemark_tests::{
    Cluster,
    cluster::{
        StoreInside,
        product::{LogOutside, WalPlan},
    },
    stores,
};
use tidemark_wal::Token;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};

/// How long a condition may take to become true.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);
/// The namespace and the name of the WAL.
pub(crate) const WAL: &str = "orders";
pub(crate) const LOG: &str = "s3://orders-orders-wal/log";
pub(crate) const METADATA: &str = "s3://orders-orders-meta";
const INDEX: &str = "s3://orders-orders-idx/index";

static WORLD: OnceCell<FailureWorld> = OnceCell::const_new();

/// What all scenarios stand on.
pub(crate) struct FailureWorld {
    pub(crate) cluster: &'static Cluster,
    pub(crate) store: StoreInside,
    /// The Service of search, by a way that leads past a node that is cut off.
    pub(crate) search: String,
    stage: Mutex<ScenarioStage>,
    appended: Arc<Mutex<AppendTally>>,
}

/// Which scenario is under way.
#[derive(Clone, Copy, Default)]
pub(crate) enum ScenarioStage {
    /// None: the last one ended well.
    #[default]
    Ended,
    /// This one waits until all is well.
    Settling(&'static str),
    /// In this one something fails.
    Running(&'static str),
}

/// What the writer did so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct AppendTally {
    /// Appends that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Appends that failed: what became of them is for the log to say.
    pub(crate) failed: u64,
    last: Option<Token>,
}

/// The one world of this process.
pub(crate) async fn world() -> &'static FailureWorld {
    WORLD.get_or_init(create).await
}

async fn create() -> FailureWorld {
    let builder = Cluster::builder().nodes(2).quick_failover().product().await.expect("the product's image is there");
    let cluster = builder.shared().await.expect("the cluster starts");
    // What the operator says of a WAL is waited for at both ends of every scenario.
    cluster.install_chart(&["--set=pollInterval=2s"]).await.expect("the chart is installed");
    let store = cluster.minio().await.expect("the store starts");
    // An entry is sealed 6 s after its second.
    let changes = json!({
        "log": {"expiry": "4s", "requestTimeout": "2s", "visibilityDelay": "0s"},
        "metadata": {"urls": [METADATA]},
        "search": {"replicas": 2},
    });
    let wal = WalPlan::new(WAL, WAL, &store).with(&changes).apply(cluster).await.expect("the WAL is made");
    let appended = Arc::default();
    keep_appending(&store, Arc::clone(&appended));
    wal.until_ready().await;
    let search = wal.search_url().await.expect("it has an address");
    FailureWorld { cluster, store, search, stage: Mutex::default(), appended }
}

impl FailureWorld {
    /// The manifests of the index.
    pub(crate) fn chain(&self) -> IndexChain {
        let index = stores::open(INDEX, &self.store.environment());
        IndexChain::open(&index, Generation::first(), Entropy::from_os())
    }

    /// The latest manifest, also while the store does not answer for a while.
    pub(crate) async fn latest(&self) -> ChainRecord<Manifest> {
        let chain = self.chain();
        until("the index has a manifest", async || chain.latest().await.ok().flatten()).await
    }

    /// A scenario is so far; gives how far the one before it, or itself, was.
    pub(crate) fn reaches(&self, stage: ScenarioStage) -> ScenarioStage {
        std::mem::replace(&mut *self.stage.lock(), stage)
    }

    pub(crate) fn appended(&self) -> AppendTally {
        *self.appended.lock()
    }

    /// Says on which nodes the jobs of the WAL run: a node selector, or null for any.
    pub(crate) async fn place_jobs(&self, selector: &Value) {
        let wals = Api::<Wal>::namespaced(self.cluster.client(), WAL);
        let selector = json!({"spec": {"jobs": {"podTemplate": {"spec": {"nodeSelector": selector}}}}});
        until("the WAL is changed", async || {
            wals.patch(WAL, &PatchParams::default(), &Patch::Merge(&selector)).await.ok()
        })
        .await;
    }

    /// Waits until the operator has seen the WAL's newest spec.
    pub(crate) async fn spec_is_observed(&self) {
        let wals = Api::<Wal>::namespaced(self.cluster.client(), WAL);
        until("the operator has seen the spec", async || {
            let wal = wals.get(WAL).await.ok()?;
            (wal.status?.observed_generation == wal.metadata.generation).then_some(())
        })
        .await;
    }

    /// Waits until an append that began after this call is acknowledged, and then until the index holds it.
    pub(crate) async fn indexing_goes_on(&self) -> ChainRecord<Manifest> {
        let before = self.appended().acknowledged;
        // One append may have been under way.
        let token = until("an append is acknowledged", async || {
            let AppendTally { acknowledged, last, .. } = self.appended();
            last.filter(|_| acknowledged > before + 1)
        })
        .await;
        let chain = self.chain();
        until("it is indexed", async || {
            chain.latest().await.ok().flatten().filter(|slot| slot.state.cursor.covers(token))
        })
        .await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    until_seen(what, async || ask().await.ok_or_else(String::new)).await
}

/// The same of a question that says what it saw in place of an answer.
pub(crate) async fn until_seen<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let give_up = Instant::now() + PATIENCE;
    let mut seen = String::new();
    while Instant::now() < give_up {
        // A question without an answer is asked again.
        match timeout(Duration::from_secs(20), ask()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(other)) => seen = other,
            Err(_) => "no answer within 20 s".clone_into(&mut seen),
        }
        sleep(Duration::from_millis(200)).await;
    }
    panic!("never: {what}; seen last: \"{seen}\"");
}

/// A writer for as long as the process lives: on a thread with a runtime of its own, which outlives each test's.
fn keep_appending(store: &StoreInside, appended: Arc<Mutex<AppendTally>>) {
    let environment = store.environment();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async {
            let log = LogOutside::open(LOG, &[METADATA.to_owned()], &environment).expect("the log opens");
            append_without_end(&log, &appended).await;
        });
    });
}

async fn append_without_end(log: &LogOutside, appended: &Mutex<AppendTally>) {
    let writer = loop {
        match log.writer("test").await {
            Ok(writer) => break writer,
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    };
    loop {
        let receipt = log.append(&writer, "orders", "written while things fail").await;
        {
            let mut appended = appended.lock();
            match receipt {
                Ok(token) => {
                    appended.acknowledged += 1;
                    appended.last = Some(token);
                }
                Err(_) => appended.failed += 1,
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
}
