//! Failures of a whole cluster: whatever goes, search goes on as far as it can, one writer publishes at a time, and in the
//! end the index says exactly what the log says.
//!
//! All scenarios share a cluster of two nodes, a `MinIO` beside it that no cut reaches, a WAL with two search pods, and a
//! writer that appends all the time. Each begins and ends with everything ready.

use std::time::Duration;

use delivery::{SinkDelivery, acknowledged, since, story};
use holders::{ConvincedHolder, FENCED, LOCK, NodeProgram};
use kube::{Api, api::DeleteParams};
use pods::{INDEXER, OPERATOR};
use scenario::{FailureBounds, FailureScenario};
use serde_json::json;
use tidemark_crds::{SinkBreakerState, SinkConditionType, TaskFailureClass, WalTask, WalTaskState};
use tidemark_tests::cluster::{NetworkCut, product::OPERATOR_NAMESPACE};
use tidemark_wal::Outcome;
use tokio::time::Instant;
use world::{WAL, until, world};

use crate::frozen_job::FrozenJob;

mod delivery;
mod holders;
mod pods;
mod repair;
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

/// A sink as a real pod: first without a destination, then with one that is scaled to zero and back while operator and indexer are
/// replaced, and at last on a node that is cut off. What arrived equals the log, and the status says the truth at each stage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_sinks_destination_goes_and_comes_back_and_its_node_is_cut_off() {
    use SinkConditionType::{Delivering, Ready};
    const AWAY: &str = "False/DestinationUnavailable";
    const STORY: [&str; 4] = ["DestinationUnavailable", "Delivering", "DestinationUnavailable", "Delivering"];
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "sink").await;
    let sink = SinkDelivery::begin(world).await;
    let waiting = sink.is(Ready, AWAY).await;
    assert_eq!((acknowledged(&waiting), sink.arrived()), (0, 0));
    assert!(waiting.last_error.is_some() && waiting.breaker != Some(SinkBreakerState::Closed), "{waiting:?}");
    assert!(waiting.lag_operations.is_some_and(|lag| lag > 0), "all that is published waits: {waiting:?}");
    sink.has_told(&STORY[..1]).await;

    let pod = sink.pod().await;
    sink.deploy_destination(3 - pod.node).await;
    let delivering = sink.is(Ready, "True/Ready").await;
    assert_eq!((delivering.breaker, &delivering.last_error), (Some(SinkBreakerState::Closed), &None));
    assert_eq!(delivering.pod.as_deref(), Some(pod.name.as_str()));
    sink.has_told(&STORY[..2]).await;

    sink.scale_destination(0).await;
    let away = sink.is(Ready, AWAY).await;
    assert!(away.last_error.is_some(), "{away:?}");
    sink.has_told(&STORY[..3]).await;
    let arrived = sink.arrived();
    scenario.fails_now();
    world.operators_are_replaced().await;
    let (indexer, epoch) = (scenario.indexer.name.clone(), scenario.first.state.epoch);
    world.cluster.kubectl(["delete", "pod", &indexer, "-n", WAL, "--wait=false"]).await.expect("it is deleted");
    until("another writer", async || (world.latest().await.state.epoch > epoch).then_some(())).await;
    world.indexing_goes_on().await;
    let resumed = scenario.elapsed();
    world.operator_works().await;
    let longer = sink
        .status("its lag grows while the destination is away", |status| status.lag_operations > away.lag_operations)
        .await;
    assert_eq!(
        since(&longer, Delivering),
        since(&away, Delivering),
        "it was away all the time, also for the new operator"
    );
    assert_eq!(
        (acknowledged(&longer), sink.arrived()),
        (arrived, arrived),
        "nothing arrives and nothing is acknowledged"
    );

    let listed = sink.listed().await;
    println!("$ kubectl tidemark sinks {WAL}\n{listed}");
    assert!(listed.contains("DestinationUnavailable") && listed.contains("the destination takes nothing"), "{listed}");

    sink.scale_destination(1).await;
    sink.is(Ready, "True/Ready").await;
    let before = sink.pod().await;
    assert_eq!(before.uid, pod.uid, "the same pod has waited");
    sink.has_told(&STORY).await;
    let told = sink.events().await.len();
    world.cluster.cut(before.node, NetworkCut::Everything).expect("it is cut");
    sink.is(Ready, "False/Standby").await;
    let arrived = sink.arrived();
    let after = sink.is(Ready, "True/Ready").await;
    assert_ne!(after.pod.as_deref(), Some(before.name.as_str()), "another pod delivers");
    until("more arrives", async || (sink.arrived() > arrived).then_some(())).await;
    world.cluster.heal(before.node).expect("it is healed");
    until("the pod that was cut off is gone", async || {
        let pods = world.pods(WAL, "tidemark.dev/sink").await.ok()?;
        pods.iter().all(|pod| pod.uid != before.uid).then_some(())
    })
    .await;

    let slot = world.indexing_goes_on().await;
    let all = sink.all_below(slot.state.next_seq).await;
    let compared = world.compare_with(&slot, "the destination", all.outcomes).await;
    println!(
        "sink: {} records, {} came again; {} entries compared",
        slot.state.next_seq - 1,
        all.repeated,
        compared.entries
    );
    let caught_up =
        sink.status("it has acknowledged everything", |status| acknowledged(status) + 1 >= slot.state.next_seq).await;
    assert_eq!((caught_up.breaker, caught_up.last_error), (Some(SinkBreakerState::Closed), None));
    let events = sink.events().await;
    println!("sink: events {events:#?}");
    assert_eq!(story(&events[told..]), ["Delivering"], "on another node: {events:?}");
    sink.end().await;
    // The indexer's pod was deleted, and its node may have been the one that was cut off.
    scenario.end(resumed, FailureBounds { least_epochs: 1, most_epochs: 2, restarts: 2 }).await;
}

/// Both are convinced that they hold the lock, renew it and append under it: the one does not hear that the other was granted it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn two_nodes_that_are_cut_apart_hold_one_lock() {
    let world = world().await;
    let mut scenario = FailureScenario::begin(world, "two holders of a lock").await;
    let node = 3 - scenario.indexer.node;
    let (one, other) = (NodeProgram::on(world, node).await, NodeProgram::on(world, scenario.indexer.node).await);
    let first = ConvincedHolder::start(&one, one.acquire("one", &[]).await.expect("it is granted"));
    assert_eq!(other.acquire("other", &["--no-wait"]).await, Err(1), "it is held");
    until("the first holder commits", async || (first.ended_with(0) >= 3).then_some(())).await;

    scenario.fails_now();
    world.cluster.cut(node, NetworkCut::Everything).expect("it is cut");
    let second = ConvincedHolder::start(&other, other.acquire("other", &[]).await.expect("it is granted"));
    println!("lock: handed over {:.1} s after the cut", scenario.elapsed().as_secs_f64());
    until("the second holder commits", async || (second.ended_with(0) >= 2).then_some(())).await;
    world.cluster.heal(node).expect("it is healed");
    until("the first holder is fenced", async || (first.ended_with(FENCED) >= 3).then_some(())).await;
    let committed = second.ended_with(0);
    until("the second one commits", async || (second.ended_with(0) > committed + 1).then_some(())).await;
    let grants = [first.grant, second.grant];
    let codes = [first.stop().await, second.stop().await];
    let resumed = scenario.elapsed();

    let slot = world.indexing_goes_on().await;
    let entries = world.guarded(&slot, LOCK).await;
    let count =
        |grant, outcome| entries.iter().filter(|entry| (entry.grant, entry.outcome) == (grant, outcome)).count();
    println!("lock: exit codes {codes:?}; in the log {entries:?}");
    let ended = |holder: usize, wanted| codes[holder].iter().filter(|code| **code == wanted).count();
    assert!(codes[1].iter().all(|code| *code == 0), "every append of the second holder is committed: {codes:?}");
    assert_eq!(count(grants[1], Outcome::Committed), codes[1].len());
    assert_eq!(
        count(grants[0], Outcome::Committed),
        ended(0, 0),
        "what was acknowledged is committed, and nothing else is"
    );
    // What the cut ended half-way may be fenced as well.
    assert!(count(grants[0], Outcome::Fenced) >= ended(0, FENCED), "{entries:?}");
    let is_committed =
        |grant| move |entry: &truth::GuardedEntry| entry.grant == grant && entry.outcome == Outcome::Committed;
    let last_of_first = entries.iter().rposition(is_committed(grants[0]));
    assert!(
        last_of_first < entries.iter().position(is_committed(grants[1])),
        "not one of them after the other's first: {entries:?}"
    );
    // The index and every search say the same of each entry.
    scenario.end(resumed, FailureBounds { least_epochs: 0, most_epochs: 1, restarts: 2 }).await;
}
