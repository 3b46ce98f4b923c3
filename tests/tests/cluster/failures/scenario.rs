//! The frame of a scenario: all is well, something fails, all is well again, and what happened is counted.

use std::{collections::BTreeMap, time::Duration};

use tidemark_catalog::Manifest;
use tidemark_store::ChainRecord;
use tidemark_tests::cluster::product::OPERATOR_NAMESPACE;
use tokio::time::Instant;

use super::{
    pods::{OPERATOR, PodSnapshot, SEARCH},
    searching::QueryLoop,
    truth,
    world::{AppendTally, FailureWorld, ScenarioStage, WAL, until},
};

/// The longest time without an answer. Kubernetes counts a node as lost after 12 s here and looks every 2 s; until its Service
/// drops that node's pod, each query may go there and wait for 3 s. Six in a row did, in one run of some dozens: 20.4 s.
const MOST_SILENCE: Duration = Duration::from_secs(30);

/// How much may happen in a scenario.
#[derive(Clone, Copy)]
pub(crate) struct FailureBounds {
    /// By how much the epoch grows at least: a new writer must have come.
    pub(crate) least_epochs: u64,
    /// By how much the epoch grows at most: more would be candidates that fence each other.
    pub(crate) most_epochs: u64,
    /// How often containers start again at most, all pods of WAL and operator together.
    pub(crate) restarts: i32,
}

/// A scenario under way.
pub(crate) struct FailureScenario {
    world: &'static FailureWorld,
    name: &'static str,
    /// The indexer when it began.
    pub(crate) indexer: PodSnapshot,
    /// The manifest when it began.
    pub(crate) first: ChainRecord<Manifest>,
    restarts: BTreeMap<String, i32>,
    appended: AppendTally,
    began: Instant,
    /// Somebody who searches all the time.
    pub(crate) searching: QueryLoop,
}

impl FailureScenario {
    /// Waits until all is well and begins to count. A scenario that failed fails no other one: what it left behind is put right. Where
    /// that does not help none of the others waits again.
    pub(crate) async fn begin(world: &'static FailureWorld, name: &'static str) -> Self {
        match world.reaches(ScenarioStage::Settling(name)) {
            ScenarioStage::Ended => {}
            ScenarioStage::Running(failed) => {
                println!("{name}: \"{failed}\" has failed before; what it may have left behind is put right");
                world.put_right().await;
            }
            ScenarioStage::Settling(failed) => {
                world.reaches(ScenarioStage::Settling(failed));
                panic!("{name}: not tried, since \"{failed}\" waited in vain until all was well");
            }
        }
        spread_search(world).await;
        let indexer = settled(world).await;
        world.reaches(ScenarioStage::Running(name));
        let restarts = all(world).await.into_iter().map(|pod| (pod.uid, pod.restarts)).collect();
        let (first, appended) = (world.latest().await, world.appended());
        let searching = QueryLoop::start(&world.search);
        Self { world, name, indexer, first, restarts, appended, began: Instant::now(), searching }
    }

    /// Since the failure began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Starts the clock again: the failure begins now.
    pub(crate) fn fails_now(&mut self) {
        self.began = Instant::now();
    }

    /// Waits until all is well again, checks what must hold, and prints what was counted. `resumed` is how long it took
    /// until an entry was indexed that was appended after the failure.
    pub(crate) async fn end(self, resumed: Duration, bounds: FailureBounds) {
        let Self { world, name, first, restarts, appended, began, searching, .. } = self;
        let indexer = settled(world).await;
        let answers = searching.answers();
        drop(searching);
        let last = world.latest().await;
        let writers = truth::writers(&world.chain(), &first, &last).await;
        let grown = last.state.epoch - first.state.epoch;
        let compared = world.compare(&last).await;
        let now = all(world).await;
        let restarted: i32 = now.iter().map(|pod| pod.restarts - restarts.get(&pod.uid).unwrap_or(&0)).sum();
        let after = world.appended();
        println!(
            "{name}: indexing went on after {:.1} s, settled after {:.1} s; queries failed: {} of {}, longest silence \
             {:.1} s; epochs {} to {}; restarts {restarted}; appends {} acknowledged, {} not; {} entries compared",
            resumed.as_secs_f64(),
            began.elapsed().as_secs_f64(),
            answers.failed,
            answers.total,
            answers.silence.as_secs_f64(),
            first.state.epoch,
            last.state.epoch,
            after.acknowledged - appended.acknowledged,
            after.failed - appended.failed,
            compared.entries,
        );
        if answers.failed > 0 {
            println!("{name}: queries that failed: {:#?}", answers.failures);
        }
        assert!((bounds.least_epochs..=bounds.most_epochs).contains(&grown), "{name}: writers by epoch: {writers:?}");
        assert_eq!(writers.last().map(|(_, identity)| identity), Some(&indexer.uid), "{name}: {writers:?}");
        assert!(restarted <= bounds.restarts, "{name}: {restarted} restarts: {now:?}");
        assert!(compared.entries > 0, "{name}: something was compared");
        // A node that is cut off takes its queries with it until its endpoint goes; nothing else fails a query.
        assert!(
            answers.failed <= (answers.total / 20).max(5),
            "{name}: at most one query in twenty, or five, failed: {answers:?}"
        );
        assert!(answers.silence < MOST_SILENCE, "{name}: search kept answering: {answers:?}");
        world.reaches(ScenarioStage::Ended);
    }
}

/// Waits until every pod is ready, the WAL says that all is well, and the one indexer writes; gives the indexer.
async fn settled(world: &FailureWorld) -> PodSnapshot {
    until("all pods are ready", async || {
        let operators = world.pods(OPERATOR_NAMESPACE, OPERATOR).await.ok()?;
        let pods = world.pods(WAL, "tidemark.dev/wal").await.ok()?;
        let well = |pod: &PodSnapshot| pod.ready && pod.stays;
        (operators.len() == 2 && pods.len() == 3 && operators.iter().chain(&pods).all(well)).then_some(())
    })
    .await;
    let indexer = world.indexer().await;
    until("the indexer says that it writes", async || {
        let said = world.process(&indexer).await.ok()?;
        let well = said["phase"] == "writing" && said["caughtUp"] == true && said["problems"] == serde_json::json!([]);
        well.then_some(())
    })
    .await;
    until("the WAL is ready", async || {
        let words = ["wait", "wal/orders", "-n", WAL, "--for=condition=Ready", "--timeout=5s"];
        world.cluster.kubectl(words).await.ok()
    })
    .await;
    indexer
}

/// Waits until search runs on both nodes. After a scenario that took a node away both pods run on the other one: nothing moves
/// a pod back, and the loss of that node would leave no pod that answers until another one is ready.
async fn spread_search(world: &FailureWorld) {
    until("search runs on both nodes", async || {
        let pods = <[PodSnapshot; 2]>::try_from(world.pods(WAL, SEARCH).await.ok()?).ok()?;
        let [one, other] = &pods;
        if !pods.iter().all(|pod| pod.ready && pod.stays) {
            return None;
        }
        if one.node != other.node {
            return Some(());
        }
        println!("both search pods are on node {}: one of them is replaced", one.node);
        world.cluster.kubectl(["delete", "pod", &one.name, "-n", WAL]).await.ok()?;
        None
    })
    .await;
}

async fn all(world: &FailureWorld) -> Vec<PodSnapshot> {
    until("all pods are listed", async || {
        let mut pods = world.pods(WAL, "tidemark.dev/wal").await.ok()?;
        pods.extend(world.pods(OPERATOR_NAMESPACE, OPERATOR).await.ok()?);
        Some(pods)
    })
    .await
}
