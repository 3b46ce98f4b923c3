//! How a WAL goes.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap, events::v1::Event};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PropagationPolicy},
};
use serde_json::json;
use tidemark_crds::names::{self, WalComponent};
use tidemark_tests::controller::{ControllerWorld, OperatorProcess, eventually, say};

async fn finalizers(world: &ControllerWorld) -> Vec<String> {
    world.wals().get("orders").await.expect("it is there").finalizers().to_vec()
}

async fn has_finalizer(world: &ControllerWorld, wanted: bool) {
    eventually("the finalizer follows the policy", async || {
        let found = finalizers(world).await.iter().any(|finalizer| finalizer == names::FINALIZER_PURGE);
        Ok((found == wanted).then_some(()))
    })
    .await
    .expect("it follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_needs_no_finalizer_and_the_children_go_with_their_owner() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    assert!(finalizers(&world).await.is_empty());
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    world.is_gone("orders").await.expect("nothing holds it");
    eventually("the children are collected", async || {
        Ok(world.api::<Deployment>().get_opt("orders-indexer").await?.is_none().then_some(()))
    })
    .await
    .expect("they are collected");
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_is_asked_of_the_writer_and_waited_for() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "deletionPolicy: Purge").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    has_finalizer(&world, true).await;
    world.change("orders", json!({"spec": {"deletionPolicy": "Retain"}})).await.expect("it is changed");
    has_finalizer(&world, false).await;
    world.change("orders", json!({"spec": {"deletionPolicy": "Purge"}})).await.expect("it is changed");
    has_finalizer(&world, true).await;

    let uid = world.wals().get("orders").await.expect("it is there").uid();
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    let asked = eventually("the writer is asked", async || {
        let map = world.api::<ConfigMap>().get("orders-control").await?;
        Ok(map.data.and_then(|data| data.get(names::CONTROL_PURGE_KEY).cloned()))
    });
    assert_eq!(asked.await.ok(), uid);
    world.pods.say(WalComponent::Indexer, say::phase(say::writing(1, 10), "purging"));
    world.is("orders", tidemark_crds::ConditionType::Indexing, "False/Purging").await.expect("it is reported");
    world.pods.say(WalComponent::Indexer, say::of_another(say::phase(say::writing(1, 10), "purged")));
    let kind = tidemark_crds::ConditionType::Indexing;
    world.is("orders", kind, "Unknown/PodUnidentified").await.expect("it is ignored");
    has_finalizer(&world, true).await;
    world.pods.say(WalComponent::Indexer, say::phase(say::writing(1, 10), "purged"));
    world.is_gone("orders").await.expect("nothing holds it any more");
    world.has_event("orders", "Purged").await.expect("it is reported");
    let mut events = world.api::<Event>().list(&ListParams::default()).await.expect("they are listed").into_iter();
    let note = events.find(|event| event.reason.as_deref() == Some("Purged")).and_then(|event| event.note);
    assert!(note.as_ref().is_some_and(|note| note.contains("/archive/")), "it says what stays: {note:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_takes_too_long_is_given_up() {
    let world = ControllerWorld::create().await.expect("it starts");
    let mut options = world.options();
    options.flags.push("--purge-timeout=3s".to_owned());
    let operator = OperatorProcess::start(&options).await.expect("it starts");
    world.make("orders", "deletionPolicy: Purge").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    has_finalizer(&world, true).await;
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    world.is_gone("orders").await.expect("it is given up");
    world.has_event("orders", "PurgeAbandoned").await.expect("it is reported");
    let abandoned = operator.metric("tidemark_operator_purges_abandoned_total", &[]).await.expect("it counts");
    assert!((abandoned - 1.0).abs() < 0.5, "{abandoned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_is_not_held_up() {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    world.make("orders", "deletionPolicy: Purge").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    has_finalizer(&world, true).await;
    world.delete_namespace().await.expect("it goes");
    world.is_gone("orders").await.expect("the finalizer goes at once");
    // No Event can be written there any more: the log and the metric show it.
    eventually("it is counted", async || {
        let abandoned = operator.metric("tidemark_operator_purges_abandoned_total", &[]).await?;
        Ok(((abandoned - 1.0).abs() < 0.5).then_some(()))
    })
    .await
    .expect("it is counted");
    let log = operator.log();
    assert!(log.contains("PurgeAbandoned") && log.contains("s3://index/"), "{log}");
    assert!(!log.contains("failed to write an Event"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_was_refused_from_the_start_has_nothing_to_purge() {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    let template = "indexer: {podTemplate: {spec: {hostNetwork: true}}}";
    world.make("orders", &format!("deletionPolicy: Purge, {template}")).await.expect("it is created");
    world.is("orders", tidemark_crds::ConditionType::Ready, "False/PodTemplateRefused").await.expect("it is refused");
    has_finalizer(&world, true).await;
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    // Long before the ten minutes that a purge may take.
    world.is_gone("orders").await.expect("it goes at once");
    world.has_event("orders", "NothingToPurge").await.expect("it is reported");
    let abandoned = operator.metric("tidemark_operator_purges_abandoned_total", &[]).await.expect("it counts");
    assert!(abandoned < 0.5, "{abandoned}");
}

/// The garbage collector takes the owner from the children while the operator waits for the purge.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_shall_leave_the_children_behind_does_not_adopt_them_again() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "deletionPolicy: Purge").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    has_finalizer(&world, true).await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    world.wals().delete("orders", &orphan).await.expect("it is deleted");
    let owners = async || {
        let mut owners = Vec::new();
        for component in WalComponent::ALL {
            owners.extend(world.deployment("orders", component).await?.owner_references().to_vec());
        }
        owners.extend(world.api::<ConfigMap>().get("orders-control").await?.owner_references().to_vec());
        anyhow::Ok(owners)
    };
    eventually("the children have no owner", async || {
        let is_orphaned = finalizers(&world).await == [names::FINALIZER_PURGE] && owners().await?.is_empty();
        Ok(is_orphaned.then_some(()))
    })
    .await
    .expect("they are orphaned, and stay so");
    eventually("the writer is asked", async || {
        let map = world.api::<ConfigMap>().get("orders-control").await?;
        Ok(map.data.filter(|data| data.contains_key(names::CONTROL_PURGE_KEY)))
    })
    .await
    .expect("it is asked");
    world.pods.say(WalComponent::Indexer, say::phase(say::writing(1, 10), "purged"));
    world.is_gone("orders").await.expect("nothing holds it any more");
    assert!(owners().await.expect("they stay").is_empty());
}
