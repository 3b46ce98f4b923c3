//! What is said of a spec, and of pods, that are not in force yet.

use kube::ResourceExt as _;
use serde_json::json;
use tidemark_crds::{ConditionType, condition, names::WalComponent};
use tidemark_tests::controller::{ControllerWorld, eventually, say};

#[tokio::test(flavor = "multi_thread")]
async fn ready_speaks_of_the_spec_that_runs_until_the_new_one_does() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.is("orders", ConditionType::Applied, "True/Applied").await.expect("it is in force");
    world.pods.newcomers_ready(WalComponent::Search, false);
    let resources = json!({"spec": {"search": {"resources": {"requests": {"memory": "300Mi"}}}}});
    let changed = world.change("orders", resources).await.expect("it is changed");
    world.is("orders", ConditionType::Applied, "False/RollingOut").await.expect("it is reported");
    let status = world.wals().get("orders").await.expect("it is there").status.expect("it has one");
    let ready = condition(&status.conditions, ConditionType::Ready).expect("it is there");
    assert_eq!(ready.status, "True", "the pods of the spec before answer");
    assert_eq!(ready.observed_generation, changed.metadata.generation.map(|generation| generation - 1));
    assert_eq!(status.applied_generation, ready.observed_generation);
    world.is("orders", ConditionType::Reconciling, "True/RollingOut").await.expect("readers of kstatus wait");
    world.pods.ready(WalComponent::Search, true).await.expect("it becomes ready");
    world.is("orders", ConditionType::Applied, "True/Applied").await.expect("it is in force");
    world.is_ready("orders").await.expect("it is said of the new spec");
    let status = world.wals().get("orders").await.expect("it is there").status.expect("it has one");
    assert!(condition(&status.conditions, ConditionType::Reconciling).is_none(), "it goes with its cause");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_are_not_known_any_more_are_cleared_and_reports_of_others_do_not_count() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    // Another process has the address of the pod.
    world.pods.say(WalComponent::Indexer, say::of_another(say::writing(7, 99)));
    world.is("orders", ConditionType::Indexing, "Unknown/PodUnidentified").await.expect("it is ignored");
    let status = world.wals().get("orders").await.expect("it is there").status.expect("it has one");
    assert_eq!((status.lag_seconds, status.pending_entries, status.indexer), (None, None, None));
    assert_eq!((status.epoch, status.entries), (Some(1), Some(10)), "what was known stays known");
    world.pods.say(WalComponent::Indexer, say::writing(1, 10));
    world.is_ready("orders").await.expect("the pod itself answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_of_the_cloud_reaches_the_pods() {
    let world = ControllerWorld::create().await.expect("it starts");
    world.make("orders", "indexer: {serviceAccountAnnotations: {role-arn: wrong}}").await.expect("it is created");
    let unseen = world.wals().get("orders").await.expect("it is there").status.expect("it has a default");
    assert_eq!(unseen.observed_generation, Some(-1), "readers of kstatus wait for an operator");
    let _operator = world.operator().await.expect("it starts");
    world.is_ready("orders").await.expect("it becomes ready");
    let pods = world.api::<k8s_openapi::api::core::v1::Pod>();
    let indexer = async || {
        let all = pods.list(&kube::api::ListParams::default()).await?;
        let mut all = all.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        anyhow::Ok(all.find(|pod| pod.name_any().starts_with("orders-indexer")).and_then(|pod| pod.uid()))
    };
    let before = indexer().await.expect("they are listed");
    let right = json!({"spec": {"indexer": {"serviceAccountAnnotations": {"role-arn": "right"}}}});
    world.change("orders", right).await.expect("it is changed");
    world.is("orders", ConditionType::Applied, "True/Applied").await.expect("it is in force");
    eventually("another pod runs", async || Ok(indexer().await?.filter(|uid| Some(uid) != before.as_ref())))
        .await
        .expect("it is replaced");
}
