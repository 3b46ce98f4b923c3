//! How little the operator writes.

use serde_json::json;
use tidemark_crds::{ConditionType, names::WalComponent};
use tidemark_tests::controller::{ControllerWorld, OperatorProcess, eventually, say};

/// Waits until pods were asked this many times more.
async fn asked(operator: &OperatorProcess, times: f64) {
    let count = async || operator.metric("tidemark_operator_polls_total", &[]).await;
    let before = count().await.expect("it counts");
    eventually("pods are asked some more", async || Ok((count().await? >= before + times).then_some(())))
        .await
        .expect("they are asked");
}

/// Waits until nothing was written while the pods were asked a few times, and gives the count of writes.
async fn settled(operator: &OperatorProcess) -> f64 {
    for _ in 0..30 {
        let before = operator.writes().await.expect("it counts");
        asked(operator, 6.0).await;
        if operator.writes().await.expect("it counts") <= before {
            return before;
        }
    }
    panic!("the operator does not stop writing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_wal_costs_no_write_and_neither_does_a_restart() {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    world
        .make(
            "orders",
            "search: {replicas: 2, resources: {requests: {cpu: '0.5', memory: 1024Mi}}, cache: {size: 2048Mi}}, \
             indexer: {cache: {volumeClaimTemplate: {}}}",
        )
        .await
        .expect("ok");
    world.is_ready("orders").await.expect("it becomes ready");
    settled(&operator).await;
    let version = world.wals().get("orders").await.expect("it is there").metadata.resource_version;
    let (writes, reads) =
        (operator.writes().await.expect("it counts"), operator.requests("get").await.expect("it counts"));
    for minute in 1..=4 {
        world.pods.say(WalComponent::Indexer, say::later(say::writing(1, 10), minute));
        asked(&operator, 6.0).await;
    }
    let reads = operator.requests("get").await.expect("it counts") - reads;
    println!("while 24 answers came: 0 writes wanted, {reads} reads, those of the lease among them");
    assert!((operator.writes().await.expect("it counts") - writes).abs() < 0.5, "{}", operator.log());
    assert_eq!(world.wals().get("orders").await.expect("it is there").metadata.resource_version, version);

    operator.kill();
    let again = world.operator().await.expect("it starts");
    asked(&again, 6.0).await;
    // Its lease is made by the first operator; it takes that over.
    assert!(again.writes().await.expect("it counts") < 0.5, "{}", again.log());
    assert_eq!(world.wals().get("orders").await.expect("it is there").metadata.resource_version, version);
}

async fn reconciliations(operator: &OperatorProcess) -> f64 {
    operator.metric("tidemark_operator_reconciles_total", &[]).await.expect("it counts")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_writes_itself_is_no_reason_to_look_again() {
    const WALS: u32 = 8;
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    for number in 0..WALS {
        world.make(&format!("w{number}"), "").await.expect("it is created");
    }
    for number in 0..WALS {
        world.is_ready(&format!("w{number}")).await.expect("it becomes ready");
    }
    settled(&operator).await;
    let (made, before) = (operator.writes().await.expect("it counts"), reconciliations(&operator).await);
    println!("{WALS} WALs took {before} reconciliations and {made} writes until they were ready");
    // The Services alone change, which no controller of Kubernetes answers.
    for number in 0..WALS {
        let annotations = json!({"example.com/change": "1"});
        let patch = json!({"spec": {"search": {"service": {"annotations": annotations}}}});
        world.change(&format!("w{number}"), patch).await.expect("it is changed");
    }
    for number in 0..WALS {
        world.is_ready(&format!("w{number}")).await.expect("it is observed");
    }
    settled(&operator).await;
    let writes = operator.writes().await.expect("it counts") - made;
    let changed = reconciliations(&operator).await - before;
    println!("{WALS} changed Services took {changed} reconciliations and {writes} writes");
    assert!((writes - f64::from(2 * WALS)).abs() < 0.5, "the Service and the status of each, not {writes}");
    // One each, for the change of the WAL itself.
    assert!(changed <= f64::from(WALS) * 1.25, "{changed} reconciliations of {WALS} WALs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_spec_costs_few_writes() {
    const CHANGES: u32 = 5;
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = settled(&operator).await;
    for change in 1..=CHANGES {
        let annotations = json!({"example.com/change": change.to_string()});
        let patch = json!({"spec": {"search": {"service": {"annotations": annotations}}}});
        world.change("orders", patch).await.expect("it is changed");
        world.is_ready("orders").await.expect("it is observed");
    }
    let plain = settled(&operator).await - before;
    println!("{CHANGES} changes of an annotation of the Service cost {plain} writes");
    assert!(plain <= f64::from(2 * CHANGES), "the Service and the status once each, not {plain}");

    let before = settled(&operator).await;
    for change in 1..=CHANGES {
        let env = json!([{"name": "EXAMPLE", "value": change.to_string()}]);
        let template = json!({"spec": {"containers": [{"name": "tidemark", "env": env}]}});
        world.change("orders", json!({"spec": {"search": {"podTemplate": template}}})).await.expect("it is changed");
        world.is_ready("orders").await.expect("it is observed");
        settled(&operator).await;
    }
    let rolled = settled(&operator).await - before;
    println!("{CHANGES} changes of the search pods cost {rolled} writes");
    // The Deployment; the generation; the pods that come and go (2 and 1); perhaps availability and back.
    assert!(rolled <= f64::from(8 * CHANGES), "{rolled} writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_move_are_written_at_most_once_a_minute() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = settled(&operator).await;
    let began = tokio::time::Instant::now();
    for entries in 11..17 {
        world.pods.say(WalComponent::Indexer, say::writing(1, entries));
        asked(&operator, 4.0).await;
    }
    let writes = operator.writes().await.expect("it counts") - before;
    let minutes = began.elapsed().as_secs() / 60;
    println!("six new figures in a few seconds cost {writes} writes");
    assert!(writes <= 1.0 + minutes as f64, "{writes} in {minutes} minutes");
    world.pods.say(WalComponent::Indexer, say::problem("Unreachable", "the store does not answer; so; do"));
    world.is("orders", ConditionType::Ready, "False/Unreachable").await.expect("a condition does not wait");
}
