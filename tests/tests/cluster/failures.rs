//! Failures of a whole cluster: whatever goes, search goes on as far as it can, one writer publishes at a time, and in the
//! end the index says exactly what the log says.
//!
//! All scenarios share a cluster of two nodes, a `MinIO` beside it that no cut reaches, a WAL with two search pods, and a
//! writer that appends all the time. Each begins and ends with everything ready.

use std::time::Duration;

use kube::{Api, api::DeleteParams};
use pods::{INDEXER, OPERATOR};
use scenario::{FailureBounds, FailureScenario};
use serde_json::json;
use tidemark_crds::{TaskFailureClass, WalTask, WalTaskState};
use tidemark_tests::cluster::{NetworkCut, product::OPERATOR_NAMESPACE};
use tokio::time::Instant;
use world::{WAL, until, world};

use crate::frozen_job::FrozenJob;

mod pods;
mod scenario;
mod searching;
mod truth;
mod world;

/// How long the store and the operator are away.
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_indexers_pod_is_deleted() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "pod deleted").await;
    let name = scenario.indexer.name.clone();
    scenario.fails_now();
    world.cluster.kubectl(["delete", "pod", &name, "-n", WAL, "--wait=false"]).await.expect("it is deleted");
    let epoch = scenario.first.state.epoch;
    until("another writer", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 1, restarts: 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_indexer_is_killed() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "SIGKILL").await;
    let indexer = scenario.indexer.clone();
    let process = world.process_id(&indexer).expect("it runs");
    scenario.fails_now();
    world.signal(indexer.node, "KILL", process).expect("it is killed");
    // The same pod is the same writer, so that its next container need not wait.
    let epoch = scenario.first.state.epoch;
    until("it writes again", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 1, restarts: 1 }).await;
}

/// The case that the fence exists for: the writer's node is given up by the cluster, while the writer goes on and reaches
/// the store. It keeps the role for as long as its heart beats. Then node and writer fall asleep, as a virtual machine
/// does that is moved; the standby takes over, and the zombie wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_indexers_node_loses_the_api_server_and_falls_asleep() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "cut off from the API server").await;
    let (zombie, epoch) = (scenario.indexer.clone(), scenario.first.state.epoch);
    let url = world.cluster.pod_url(WAL, &zombie.name, 7280).await.expect("it has an address");
    let sleepers = [world.kubelet(zombie.node).ok(), world.process_id(&zombie)].map(|found| found.expect("it runs"));
    scenario.fails_now();
    world.cluster.cut(zombie.node, NetworkCut::ApiServer).expect("it is cut");
    let standby = until("a standby on the other node", async || {
        let pods = world.pods(WAL, INDEXER).await.ok()?;
        let other = pods.into_iter().find(|pod| pod.stays && pod.ready && pod.node != zombie.node)?;
        (world.process(&other).await.ok()?["phase"] == "standby").then_some(other)
    })
    .await;
    let slot = world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    assert_eq!(slot.state.epoch, epoch, "no standby disturbs a writer that lives");
    let said = until("the writer answers", async || world.process_at(&url).await.ok()).await;
    assert_eq!(said["phase"], "writing");

    for process in sleepers {
        world.signal(zombie.node, "STOP", process).expect("it falls asleep");
    }
    let asleep = Instant::now();
    until("the standby takes over", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    println!("fence: indexing went on {:.1} s after the writer fell asleep", asleep.elapsed().as_secs_f64());
    for process in sleepers {
        world.signal(zombie.node, "CONT", process).expect("it wakes up");
    }
    until("the zombie ends", async || (world.process_id(&zombie) != Some(sleepers[1])).then_some(())).await;
    let said = until("the zombie comes back as a standby", async || {
        let said = world.process_at(&url).await.ok()?;
        (said["phase"] == "standby").then_some(said)
    })
    .await;
    assert_eq!(said["writer"], json!(standby.uid), "it stands by for the new writer: {said}");
    let words = world.logged_by(&zombie);
    assert!(words.contains("was overtaken by epoch"), "the zombie says why it ended: {words}");
    world.cluster.heal(zombie.node).expect("it is healed");
    let exit = world.exit_code(&zombie).await;
    println!("fence: the zombie's exit code, as its node reported after the cut: {exit:?}");
    assert!(exit.is_none_or(|code| code == 4), "{exit:?}");
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 1, restarts: 0 }).await;
}

/// A job runs there too. Whether it still writes is not known: the next attempt waits until the node counts as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_indexers_node_is_cut_off_from_everything() {
    const TASK: &str = "cut-off";
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "cut off from everything").await;
    let (node, epoch) = (scenario.indexer.node, scenario.first.state.epoch);
    world.place_jobs(&json!({"kubernetes.io/hostname": format!("node{node}")})).await;
    world.spec_is_observed().await;
    let frozen = FrozenJob::watch(world.cluster, TASK);
    let task = json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask", "metadata": {"name": TASK, "namespace": WAL},
        "spec": {"walRef": {"name": WAL}, "type": "Snapshot"},
    });
    world.cluster.apply(&task.to_string()).await.expect("the task is made");
    let frozen = frozen.await.expect("it does not panic").expect("its job runs");

    scenario.fails_now();
    world.cluster.cut(node, NetworkCut::Everything).expect("it is cut");
    world.place_jobs(&json!(null)).await;
    until("the standby takes over", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    let tasks = Api::<WalTask>::namespaced(world.cluster.client(), WAL);
    let status = async || tasks.get(TASK).await.ok()?.status;
    let class = until("the attempt has failed", async || status().await?.failure_class).await;
    assert_eq!(class, TaskFailureClass::Evicted);
    let ended = until("the task ends", async || {
        status().await.filter(|status| status.state.is_some_and(WalTaskState::is_terminal))
    })
    .await;
    println!("a job's node cut off: the task ended after {:.1} s: {ended:?}", scenario.elapsed().as_secs_f64());
    assert_eq!((ended.state, ended.attempts), (Some(WalTaskState::Succeeded), Some(2)));

    world.cluster.heal(node).expect("it is healed");
    // It ends now, or with its pod.
    let _ = frozen.kill();
    // Its pods would count as the WAL's.
    tasks.delete(TASK, &DeleteParams::default()).await.expect("it is deleted");
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 1, restarts: 1 }).await;
}

/// For longer than any client tries one call again (about 16 s of pauses).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_store_is_down_for_a_minute() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "store down for 60 s").await;
    world.cluster.stop_minio();
    tokio::time::sleep(MINUTE).await;
    world.cluster.start_minio().await.expect("it starts again");
    scenario.fails_now();
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    // A publication whose outcome is unknown ends the process, and its next container is the same writer.
    scenario.end(resumed, FailureBounds { least_epochs: 0, most_epochs: 1, restarts: 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_leading_operator_is_killed() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "leading operator killed").await;
    let leader = until("one operator leads", async || world.leader().await).await;
    // Frozen first, since a pod is asked to stop before it is killed: this one gives no lease back.
    let process = world.process_with(&format!("POD_NAME={leader}")).expect("it runs");
    world.signal(1, "STOP", process).expect("it is frozen");
    scenario.fails_now();
    let kill = ["delete", "pod", &leader, "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force"];
    world.cluster.kubectl(kill).await.expect("it is killed");
    until("another leads", async || world.leader().await.filter(|name| *name != leader)).await;
    println!("operator: another led {:.1} s after the kill", scenario.elapsed().as_secs_f64());
    world.operator_works().await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    scenario.end(resumed, FailureBounds { least_epochs: 0, most_epochs: 0, restarts: 0 }).await;
}

/// For a minute, or longer: until an indexer's pod was replaced and entries were indexed without an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn no_operator_runs_while_the_indexers_pod_is_deleted() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "operator down").await;
    let scale = |replicas: &str| {
        let words = ["scale", "deployment/tidemark-operator", "-n", OPERATOR_NAMESPACE, replicas].map(str::to_owned);
        world.cluster.kubectl(words)
    };
    scale("--replicas=0").await.expect("it is scaled");
    until("no operator runs", async || world.pods(OPERATOR_NAMESPACE, OPERATOR).await.ok()?.is_empty().then_some(()))
        .await;
    let (name, epoch) = (scenario.indexer.name.clone(), scenario.first.state.epoch);
    scenario.fails_now();
    world.cluster.kubectl(["delete", "pod", &name, "-n", WAL, "--wait=false"]).await.expect("it is deleted");
    until("another writer", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    tokio::time::sleep(MINUTE.saturating_sub(resumed)).await;
    scale("--replicas=2").await.expect("it is scaled");
    world.operator_works().await;
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 1, restarts: 0 }).await;
}

/// SIGKILL, and back after entries were indexed meanwhile: data pods need no API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn etcd_is_restarted() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "etcd restarted").await;
    scenario.fails_now();
    world.cluster.stop_etcd();
    let slot = world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    assert_eq!(slot.state.epoch, scenario.first.state.epoch, "no other writer while etcd is away");
    world.cluster.start_etcd().await.expect("it starts again");
    world.operator_works().await;
    // A node whose kubelet is heard later than the other's may count as lost, and its pods are replaced.
    scenario.end(resumed, FailureBounds { least_epochs: 0, most_epochs: 1, restarts: 2 }).await;
}
