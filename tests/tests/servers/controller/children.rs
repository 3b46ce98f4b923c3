//! What a WAL consists of.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::json;
use tidemark_crds::{ConditionType, names::WalComponent};
use tidemark_tests::controller::{ControllerWorld, eventually};

async fn owned<K>(api: Api<K>, owner: &str) -> Vec<String>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let all = api.list(&ListParams::default()).await.expect("they are listed");
    let owned = all.into_iter().filter(|child| child.owner_references().iter().any(|found| found.uid == owner));
    owned.map(|child| child.name_any()).collect()
}

/// The accounts of a WAL: cleanup has one that may delete from the log.
const ACCOUNTS: [&str; 4] = ["orders-cleanup", "orders-indexer", "orders-jobs", "orders-search"];
/// The policies of a WAL: nobody connects to the pods of jobs.
const POLICIES: [&str; 3] = ["orders-indexer", "orders-jobs", "orders-search"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_gets_its_children_and_becomes_ready() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "search: {replicas: 2}").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");

    let wal = world.wals().get("orders").await.expect("it is there");
    let uid = wal.uid().expect("it is stored");
    let both = ["orders-indexer", "orders-search"];
    assert_eq!(owned(world.api::<Deployment>(), &uid).await, both);
    assert_eq!(owned(world.api::<ServiceAccount>(), &uid).await, ACCOUNTS);
    assert_eq!(owned(world.api::<NetworkPolicy>(), &uid).await, POLICIES);
    assert_eq!(owned(world.api::<Service>(), &uid).await, ["orders-search"]);
    assert_eq!(owned(world.api::<PodDisruptionBudget>(), &uid).await, ["orders-search"]);
    assert_eq!(owned(world.api::<ConfigMap>(), &uid).await, ["orders-control"]);

    let status = wal.status.expect("it has a status");
    assert_eq!((status.entries, status.epoch, status.generation.as_deref()), (Some(10), Some(1), Some("g1")));
    assert_eq!(status.observed_generation, wal.metadata.generation);
    for reason in ["StorageProbed", "RoleTaken", "FirstManifest", "CaughtUp", "SearchAvailable"] {
        world.has_event("orders", reason).await.expect("it is reported");
    }
    let events = world.events("orders").await.expect("they are listed");
    let mut once = events.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), events.len(), "each Event is there once: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_or_remove_is_put_right_and_what_they_add_stays() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");

    let services = world.api::<Service>();
    let patch = json!({"metadata": {"labels": {"theirs": "kept"}}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 9}]}});
    services.patch("orders-search", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is changed");
    eventually("the target of the port is put right", async || {
        let service = services.get("orders-search").await?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        Ok((ports.iter().all(|port| port.target_port != Some(IntOrString::Int(9)))).then_some(()))
    })
    .await
    .expect("it is put right");
    let labels = services.get("orders-search").await.expect("it is there").labels().clone();
    assert_eq!(labels.get("theirs").map(String::as_str), Some("kept"));

    let deployments = world.api::<Deployment>();
    deployments.delete("orders-search", &DeleteParams::default()).await.expect("it is deleted");
    eventually("the Deployment is made again", async || {
        Ok(deployments.get_opt("orders-search").await?.filter(|found| found.metadata.deletion_timestamp.is_none()))
    })
    .await
    .expect("it is made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_no_longer_goes_and_what_is_not_the_wals_stays() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "search: {replicas: 2}").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    let wal = world.wals().get("orders").await.expect("it is there");
    let uid = wal.uid().expect("it is stored");
    let labels = format!(
        "{{app.kubernetes.io/managed-by: tidemark-operator, tidemark.dev/wal: orders, tidemark.dev/wal-uid: {uid}}}"
    );
    let owner =
        format!("[{{apiVersion: tidemark.dev/v1alpha1, kind: WAL, name: orders, uid: {uid}, controller: true}}]");
    let namespace = &world.namespace;
    let map = |name: &str, owner: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{namespace: {namespace}, name: {name}, labels: {labels}, \
             ownerReferences: {owner}}}}}"
        )
    };
    world.server.apply(&map("foreign", "[]")).await.expect("it is created");
    world.server.apply(&map("orphan", &owner)).await.expect("it is created");
    world.change("orders", json!({"spec": {"search": {"replicas": 1}}})).await.expect("it is changed");

    eventually("the orphan and the budget are gone", async || {
        let map = world.api::<ConfigMap>().get_opt("orphan").await?;
        let budget = world.api::<PodDisruptionBudget>().get_opt("orders-search").await?;
        Ok((map.is_none() && budget.is_none()).then_some(()))
    })
    .await
    .expect("they go");
    world.api::<ConfigMap>().get("foreign").await.expect("what is not owned by the WAL stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_not_taken_over() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    let theirs = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{namespace: {}, name: orders-search}}, spec: {{ports: [{{port: 99}}]}}}}",
        world.namespace
    );
    world.server.apply(&theirs).await.expect("it is created");
    world.make("orders", "").await.expect("it is created");
    let message = world.is("orders", ConditionType::Ready, "False/NameTaken").await.expect("it is reported");
    assert!(message.contains("Service \"orders-search\""), "{message}");
    let service = world.api::<Service>().get("orders-search").await.expect("it is there");
    assert_eq!(service.spec.and_then(|spec| spec.ports).map(|ports| ports[0].port), Some(99));

    world.api::<Service>().delete("orders-search", &DeleteParams::default()).await.expect("it is deleted");
    world.is_ready("orders").await.expect("it recovers by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_is_made_again_waits_for_the_children_of_the_one_before() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    world.is_gone("orders").await.expect("it has no finalizer");
    world.make("orders", "").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    let after = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    assert_ne!(before.uid(), after.uid(), "the children are the new WAL's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deletion_has_orphaned_is_adopted_by_the_next_wal_of_the_name() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    world.wals().delete("orders", &orphan).await.expect("it is deleted");
    world.is_gone("orders").await.expect("its children have no owner any more");
    let left = world.deployment("orders", WalComponent::Indexer).await.expect("it stays");
    assert!(left.owner_references().is_empty(), "{:?}", left.owner_references());
    world.make("orders", "").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    let uid = world.wals().get("orders").await.expect("it is there").uid().expect("it is stored");
    let after = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    assert_eq!(before.uid(), after.uid(), "it was not made again");
    let both = ["orders-indexer", "orders-search"];
    assert_eq!(owned(world.api::<Deployment>(), &uid).await, both);
    assert_eq!(owned(world.api::<ServiceAccount>(), &uid).await, ACCOUNTS);
    assert_eq!(owned(world.api::<NetworkPolicy>(), &uid).await, POLICIES);
    assert_eq!(owned(world.api::<Service>(), &uid).await, ["orders-search"]);
    assert_eq!(owned(world.api::<ConfigMap>(), &uid).await, ["orders-control"]);
}
