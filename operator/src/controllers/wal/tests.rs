//! WALs on an API server in memory: what one with schemas and quotas does not show at will.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service, ServiceAccount},
        events::v1::Event,
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::reflector::store,
};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, Wal, WalStatus, condition, names};
use tokio::time::sleep;

use super::{
    WalController,
    kstatus::{KstatusVerdict, kstatus},
};
use crate::{
    context::OperatorSettings,
    controllers::{
        fake_world::{FakeWorld, eventually, settings, settled, wal_spec},
        kind_controller::run_kind,
    },
    fake_api_server::FakeApiServer,
    reconcile_queues::ReconcileQueues,
    upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// A verb that is missing in its role leaves an operator that leads and does nothing.
#[tokio::test(start_paused = true)]
async fn an_operator_that_may_not_list_a_kind_says_so() {
    let world = start_hidden("poddisruptionbudgets");
    let is_synced = |kind: &str, synced: u8| shows_synced(&world, kind, synced);
    world.make::<Wal>("orders", wal_spec()).await;
    eventually("ConfigMaps are listed", async || is_synced("ConfigMap", 1).then_some(())).await;
    assert!(is_synced("PodDisruptionBudget", 0), "{}", world.metrics.encode().unwrap());
    world.server.hide(None);
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    assert!(is_synced("PodDisruptionBudget", 1) && is_synced("WAL", 1));
    // A right that is revoked later shows when the API server ends the watch, as it does every few minutes.
    for (plural, kind) in [("poddisruptionbudgets", "PodDisruptionBudget"), ("wals", "WAL"), ("pods", "Pod")] {
        world.server.hide(Some(plural));
        eventually("the right is missed", async || is_synced(kind, 0).then_some(())).await;
        world.server.hide(None);
        eventually("everything is known again", async || is_synced(kind, 1).then_some(())).await;
    }
    world.make::<Wal>("bills", wal_spec()).await;
    is(&world, "bills", ConditionType::Applied, "RollingOut").await;
}

fn shows_synced(world: &FakeWorld, kind: &str, synced: u8) -> bool {
    let line = format!("tidemark_operator_watch_synced{{kind=\"{kind}\",watched_namespace=\"\"}} {synced}\n");
    world.metrics.encode().unwrap().contains(&line)
}

/// Each list reconciles every WAL.
#[tokio::test(start_paused = true)]
async fn a_kind_that_may_be_listed_and_not_watched_is_listed_ever_more_rarely_and_shows() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    let becomes = async |kind: &str, synced| {
        eventually(&format!("{kind} is synced: {synced}"), async || shows_synced(&world, kind, synced).then_some(()))
            .await;
    };
    for (plural, kind) in [("poddisruptionbudgets", "PodDisruptionBudget"), ("pods", "Pod"), ("wals", "WAL")] {
        world.server.refuse_watch(Some(plural));
        becomes(kind, 0).await;
        sleep(Duration::from_mins(5)).await;
        let before = world.server.lists(plural);
        sleep(Duration::from_mins(10)).await;
        let lists = world.server.lists(plural) - before;
        assert!((5..=21).contains(&lists), "{kind}: {lists} lists in ten minutes");
        assert!(shows_synced(&world, kind, 0), "{kind}");
        world.server.refuse_watch(None);
        becomes(kind, 1).await;
    }
    // An event shows that the watch works: the next refusal is not waited for as the one before.
    world.make::<Wal>("bills", wal_spec()).await;
    is(&world, "bills", ConditionType::Applied, "RollingOut").await;
    let before = world.server.lists("wals");
    world.server.refuse_watch(Some("wals"));
    sleep(Duration::from_secs(10)).await;
    let lists = world.server.lists("wals") - before;
    assert!(lists >= 2, "{lists} lists in ten seconds");
}

fn start_hidden(plural: &'static str) -> FakeWorld {
    start_world(|server| server.hide(Some(plural)), |_| ())
}

/// A world with WALs, of which one is upgraded at a time; every upgrade is approved.
fn start() -> FakeWorld {
    start_with(|settings| settings.upgrade_approved.clone_from(&settings.release))
}

fn start_with(change: impl FnOnce(&mut OperatorSettings)) -> FakeWorld {
    start_world(|_| (), change)
}

fn start_world(prepare: impl FnOnce(&FakeApiServer), change: impl FnOnce(&mut OperatorSettings)) -> FakeWorld {
    let (mut world, mut queues) = (FakeWorld::new(), ReconcileQueues::default());
    prepare(&world.server);
    let wals = queues.open(names::KIND, None);
    let mut settings = settings();
    change(&mut settings);
    let context = world.context(queues, settings);
    let (slots, tasks) = (Arc::new(UpgradeSlots::new(1, 1)), world.follow_tasks(&context));
    let controller = WalController::new(context.clone(), slots, WritingTurns::default(), tasks);
    world.run(context, |shared, listed| run_kind(controller, store(), shared, None, wals, listed));
    world
}

/// Waits until a condition has this reason, and gives its message.
async fn is(world: &FakeWorld, wal: &str, kind: ConditionType, reason: &str) -> String {
    eventually(&format!("{} of {wal} is {reason}", kind.as_str()), async || {
        let status = world.api::<Wal>().get(wal).await.unwrap().status?;
        let found = condition(&status.conditions, kind)?;
        (found.reason == reason).then(|| found.message.clone())
    })
    .await
}

async fn exists<K>(world: &FakeWorld, name: &str) -> bool
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    world.api::<K>().get_opt(name).await.unwrap().is_some()
}

async fn patch<K: Resource<DynamicType = ()>>(world: &FakeWorld, name: &str, patch: Value) {
    world.untyped::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_refused_stops_no_other() {
    let world = start();
    world.server.refuse(Some("services"));
    world.make::<Wal>("orders", wal_spec()).await;
    let message = is(&world, "orders", ConditionType::Ready, "ChildRefused").await;
    assert!(message.contains("refuses Service \"orders-search\""), "{message}");
    for deployment in ["orders-search", "orders-indexer"] {
        assert!(exists::<Deployment>(&world, deployment).await, "{deployment}");
    }
    assert!(exists::<ConfigMap>(&world, "orders-control").await);
    world.server.refuse(None);
    is(&world, "orders", ConditionType::Ready, "Starting").await;
    assert!(exists::<Service>(&world, "orders-search").await);
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_made_before_what_guards_it() {
    let world = start();
    world.server.refuse(Some("networkpolicies"));
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Ready, "ChildRefused").await;
    assert!(exists::<Service>(&world, "orders-search").await);
    settled(|| world.server.writes()).await;
    for deployment in ["orders-search", "orders-indexer"] {
        assert!(!exists::<Deployment>(&world, deployment).await, "{deployment}");
    }
    world.server.refuse(None);
    is(&world, "orders", ConditionType::Ready, "Starting").await;
    assert!(exists::<NetworkPolicy>(&world, "orders-indexer").await);
    assert!(exists::<Deployment>(&world, "orders-indexer").await);
}

/// The API server answers so to what it cannot type, and while a webhook does not answer.
#[tokio::test(start_paused = true)]
async fn what_the_api_server_fails_to_write_again_and_again_is_reported_in_its_words() {
    let world = start();
    world.server.fail("deployments");
    world.make::<Wal>("orders", wal_spec()).await;
    for kind in [ConditionType::Ready, ConditionType::Applied] {
        let message = is(&world, "orders", kind, "ApplyFailed").await;
        assert!(message.contains("no, says a policy") && message.contains("Deployment"), "{message}");
    }
    world.server.refuse(None);
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
}

/// A WAL with the finalizer of a purge, or without, that the operator cannot write.
#[tokio::test(start_paused = true)]
async fn a_finalizer_that_cannot_be_written_is_reported_and_stops_nothing_else() {
    let world = start();
    let mut purged = wal_spec();
    purged["deletionPolicy"] = json!("Purge");
    let has_finalizer = async || !world.api::<Wal>().get("orders").await.unwrap().finalizers().is_empty();
    world.server.refuse_finalizers(true);
    world.make::<Wal>("orders", purged).await;
    for kind in [ConditionType::Applied, ConditionType::Ready] {
        let message = is(&world, "orders", kind, "FinalizerRefused").await;
        assert!(message.contains("add the finalizer") && message.contains("no, says a policy"), "{message}");
        assert!(message.contains("its index stays"), "{message}");
    }
    assert!(exists::<Deployment>(&world, "orders-indexer").await, "the log is indexed all the same");
    assert!(!has_finalizer().await);
    world.server.refuse_finalizers(false);
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    assert!(has_finalizer().await);
    world.server.refuse_finalizers(true);
    patch::<Wal>(&world, "orders", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    let message = is(&world, "orders", ConditionType::Applied, "FinalizerRefused").await;
    assert!(message.contains("remove the finalizer"), "{message}");
    world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    sleep(Duration::from_mins(10)).await;
    assert!(exists::<Wal>(&world, "orders").await, "the finalizer holds it");
    world.server.refuse_finalizers(false);
    sleep(Duration::from_mins(10)).await;
    assert!(!exists::<Wal>(&world, "orders").await, "nothing holds it");
}

async fn set_release(world: &FakeWorld, wal: &str, release: &str) {
    for role in ["indexer", "search"] {
        let annotation = json!({"metadata": {"annotations": {names::ANNOTATION_RELEASE: release}}});
        patch::<Deployment>(world, &format!("{wal}-{role}"), annotation).await;
    }
}

async fn release(world: &FakeWorld, deployment: &str) -> String {
    world.api::<Deployment>().get(deployment).await.unwrap().annotations()[names::ANNOTATION_RELEASE].clone()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_cannot_be_written_stalls_its_upgrade_and_no_other() {
    let world = start();
    for wal in ["first", "second"] {
        world.make::<Wal>(wal, wal_spec()).await;
        is(&world, wal, ConditionType::Applied, "RollingOut").await;
    }
    settled(|| world.server.writes()).await;
    world.server.refuse(Some("deployments"));
    for wal in ["first", "second"] {
        set_release(&world, wal, "old").await;
        let message = is(&world, wal, ConditionType::UpgradePending, "UpgradeStalled").await;
        assert!(message.contains("other WALs are upgraded meanwhile"), "{message}");
        is(&world, wal, ConditionType::Applied, "ChildRefused").await;
    }
    // With the cause gone they are upgraded in turns all the same.
    world.server.refuse(None);
    sleep(Duration::from_mins(20)).await;
    let mut releases = Vec::new();
    for wal in ["first", "second"] {
        releases.push(release(&world, &format!("{wal}-search")).await);
    }
    releases.sort();
    assert_eq!(releases, [settings().release, "old".to_owned()]);
}

/// A label cleaner hides a Deployment from the watches.
#[tokio::test(start_paused = true)]
async fn a_deployment_that_lost_its_labels_gets_them_back_and_is_not_rolled_out_unasked() {
    let world = start_with(|_| ());
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    for label in [names::LABEL_MANAGED_BY, names::LABEL_WAL] {
        let lost = json!({"metadata": {
            "labels": {label: null}, "annotations": {names::ANNOTATION_RELEASE: "old"},
        }});
        patch::<Deployment>(&world, "orders-search", lost).await;
        eventually("the label is there again", async || {
            let search = world.api::<Deployment>().get("orders-search").await.unwrap();
            search.labels().contains_key(label).then_some(())
        })
        .await;
        is(&world, "orders", ConditionType::UpgradePending, "NewRelease").await;
        settled(|| world.server.writes()).await;
        assert_eq!(release(&world, "orders-search").await, "old", "without {label}");
    }
}

/// Two WALs whose pods are of another release: the first one is being upgraded, the second one waits for its slot.
async fn one_is_upgraded_and_one_waits() -> FakeWorld {
    let world = start();
    for (wal, reason) in [("first", "Upgrading"), ("second", "NewRelease")] {
        world.make::<Wal>(wal, wal_spec()).await;
        is(&world, wal, ConditionType::Ready, "Starting").await;
        for role in ["indexer", "search"] {
            let old = json!({"metadata": {"annotations": {names::ANNOTATION_RELEASE: "old"}}});
            patch::<Deployment>(&world, &format!("{wal}-{role}"), old).await;
        }
        is(&world, wal, ConditionType::UpgradePending, reason).await;
    }
    settled(|| world.server.writes()).await;
    is(&world, "second", ConditionType::UpgradePending, "NewRelease").await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_wal_that_cannot_be_read_any_more_releases_its_slot_and_is_counted_as_not_ready() {
    let world = one_is_upgraded_and_one_waits().await;
    patch::<Wal>(&world, "first", json!({"spec": {"deletionPolicy": "Newer"}})).await;
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    let first = async |kind| {
        let found = world.untyped::<Wal>().get("first").await.unwrap();
        let status: WalStatus = serde_json::from_value(found.data["status"].clone()).unwrap();
        let found = condition(&status.conditions, kind).unwrap();
        format!("{}/{}", found.status, found.reason)
    };
    for (kind, wanted) in [
        (ConditionType::Ready, "False/SpecInvalid"),
        (ConditionType::Applied, "False/SpecInvalid"),
        (ConditionType::StorageReady, "Unknown/Starting"),
        (ConditionType::Indexing, "Unknown/SpecInvalid"),
        (ConditionType::SearchAvailable, "Unknown/SpecInvalid"),
        (ConditionType::UpgradePending, "True/UpgradeStalled"),
    ] {
        eventually(&format!("{kind:?} is {wanted}"), async || (first(kind).await == wanted).then_some(())).await;
    }
    let counted = "tidemark_operator_wals{condition=\"Ready\",status=\"False\",reason=\"SpecInvalid\"} 1\n";
    assert!(world.metrics.encode().unwrap().contains(counted), "{}", world.metrics.encode().unwrap());
    patch::<Wal>(&world, "first", json!({"spec": {"deletionPolicy": null}})).await;
    for (kind, reason) in [
        (ConditionType::Applied, "RollingOut"),
        (ConditionType::Indexing, "Starting"),
        (ConditionType::SearchAvailable, "Starting"),
        (ConditionType::UpgradePending, "Upgrading"),
    ] {
        is(&world, "first", kind, reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wal_that_cannot_be_read_is_failed_for_tools_that_follow_kstatus() {
    let world = start();
    let becomes = async |wal: &str, wanted: KstatusVerdict, reason: &str| {
        eventually(&format!("{wal} is {wanted:?}"), async || {
            let found = world.untyped::<Wal>().get(wal).await.unwrap();
            let status: WalStatus = serde_json::from_value(found.data.get("status")?.clone()).unwrap();
            let ready = condition(&status.conditions, ConditionType::Ready)?;
            (kstatus(found.metadata.generation, &status) == wanted && ready.reason == reason).then_some(())
        })
        .await;
    };
    let mut newer = wal_spec();
    newer["deletionPolicy"] = json!("Newer");
    world.make::<Wal>("newer", newer.clone()).await;
    becomes("newer", KstatusVerdict::Failed, "SpecInvalid").await;
    world.make::<Wal>("orders", wal_spec()).await;
    becomes("orders", KstatusVerdict::InProgress, "Starting").await;
    patch::<Wal>(&world, "orders", json!({"spec": {"deletionPolicy": "Newer"}})).await;
    becomes("orders", KstatusVerdict::Failed, "SpecInvalid").await;
    patch::<Wal>(&world, "orders", json!({"spec": {"deletionPolicy": null}})).await;
    becomes("orders", KstatusVerdict::InProgress, "Starting").await;
    // As of one whose fields are of other types.
    world.server.fail("wals");
    world.make::<Wal>("older", newer).await;
    becomes("older", KstatusVerdict::InProgress, "SpecInvalid").await;
}

/// The controller of Deployments has rolled this one out, and `available` of its pods are available.
async fn roll_out(world: &FakeWorld, deployment: &str, available: i32) {
    show_progress(world, deployment, available, "NewReplicaSetAvailable").await;
}

/// The pods of this Deployment are all of its present template, and it makes progress for this reason.
async fn show_progress(world: &FakeWorld, deployment: &str, available: i32, reason: &str) {
    let deployments = world.api::<Deployment>();
    let live = deployments.get(deployment).await.unwrap();
    let replicas = live.spec.and_then(|spec| spec.replicas);
    let progressing = json!({"type": "Progressing", "status": "True", "reason": reason});
    let status = json!({"status": {
        "observedGeneration": live.metadata.generation, "replicas": replicas, "updatedReplicas": replicas,
        "availableReplicas": available, "conditions": [progressing],
    }});
    deployments.patch_status(deployment, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// Makes a WAL whose pods run, with a search pod more than the default, under an operator of another release.
async fn make_running_of_an_old_release(world: &FakeWorld, wal: &str) {
    world.make::<Wal>(wal, wal_spec()).await;
    patch::<Wal>(world, wal, json!({"spec": {"search": {"replicas": 2}}})).await;
    is(world, wal, ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    // Another field than the release must differ, else there is nothing to roll out.
    let older = json!({
        "metadata": {"annotations": {names::ANNOTATION_RELEASE: "old"}}, "spec": {"progressDeadlineSeconds": 1},
    });
    for (role, available) in [("search", 2), ("indexer", 1)] {
        let name = format!("{wal}-{role}");
        patch::<Deployment>(world, &name, older.clone()).await;
        roll_out(world, &name, available).await;
    }
    is(world, wal, ConditionType::UpgradePending, "NewRelease").await;
}

async fn approve(world: &FakeWorld, wal: &str) {
    let approved = json!({names::ANNOTATION_APPROVE_UPGRADE: settings().release});
    patch::<Wal>(world, wal, json!({"metadata": {"annotations": approved}})).await;
}

async fn is_rolled(world: &FakeWorld, deployment: &str) {
    let wanted = settings().release;
    eventually("it is of the new release", async || (release(world, deployment).await == wanted).then_some(())).await;
    settled(|| world.server.writes()).await;
}

/// What a reader that follows kstatus takes a WAL for, and the condition of this type.
async fn judged(world: &FakeWorld, wal: &str, kind: ConditionType) -> (KstatusVerdict, Condition) {
    let found = world.api::<Wal>().get(wal).await.unwrap();
    let status = found.status.unwrap();
    (kstatus(found.metadata.generation, &status), condition(&status.conditions, kind).unwrap().clone())
}

#[tokio::test(start_paused = true)]
async fn search_without_the_token_of_a_spec_that_is_refused_is_reported() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    roll_out(&world, "orders-search", 1).await;
    assert_eq!(is(&world, "orders", ConditionType::SearchAvailable, "Available").await, "search answers");
    let refused = json!({
        "indexer": {"podTemplate": {"spec": {"hostNetwork": true}}},
        "search": {"auth": {"type": "Token", "secretRef": {"name": "token"}}},
    });
    patch::<Wal>(&world, "orders", json!({"spec": refused})).await;
    is(&world, "orders", ConditionType::Ready, "PodTemplateRefused").await;
    let message = is(&world, "orders", ConditionType::SearchAvailable, "Available").await;
    assert!(message.contains("not every search pod asks for the token"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_wal_whose_spec_becomes_invalid_gives_its_slot_back_once_nothing_of_it_changes() {
    let world = start_with(|_| ());
    for wal in ["first", "second"] {
        make_running_of_an_old_release(&world, wal).await;
    }
    approve(&world, "first").await;
    is_rolled(&world, "first-search").await;
    approve(&world, "second").await;
    let refused = json!({"indexer": {"podTemplate": {"spec": {"hostNetwork": true}}}});
    patch::<Wal>(&world, "first", json!({"spec": refused})).await;
    is(&world, "first", ConditionType::Ready, "PodTemplateRefused").await;
    settled(|| world.server.writes()).await;
    let message = is(&world, "second", ConditionType::UpgradePending, "NewRelease").await;
    assert!(
        message.contains("until other WALs are done"),
        "the search pods of the first one are being replaced: {message}"
    );
    roll_out(&world, "first-search", 2).await;
    is(&world, "first", ConditionType::UpgradePending, "UpgradeStalled").await;
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    assert_eq!(release(&world, "first-indexer").await, "old");
    assert!(world.metrics.encode().unwrap().contains("tidemark_operator_upgrades_stalled 1\n"));
    assert_eq!(judged(&world, "first", ConditionType::Ready).await.0, KstatusVerdict::Failed);
}

#[tokio::test(start_paused = true)]
async fn ready_does_not_speak_of_a_spec_that_was_refused_before_its_pods_run() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    patch::<Wal>(&world, "orders", json!({"spec": {"suspend": true}})).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    roll_out(&world, "orders-search", 1).await;
    roll_out(&world, "orders-indexer", 0).await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    let (before, ready) = judged(&world, "orders", ConditionType::Ready).await;
    assert_eq!((before, ready.observed_generation), (KstatusVerdict::Current, Some(2)));

    world.server.refuse(Some("deployments"));
    let memory = json!({"search": {"resources": {"requests": {"memory": "300Mi"}}}});
    patch::<Wal>(&world, "orders", json!({"spec": memory})).await;
    is(&world, "orders", ConditionType::Ready, "ChildRefused").await;
    let (refused, ready) = judged(&world, "orders", ConditionType::Ready).await;
    assert_eq!(
        (refused, ready.observed_generation),
        (KstatusVerdict::Failed, Some(3)),
        "the refusal is of the new spec"
    );
    world.server.refuse(None);
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    let (rolling, ready) = judged(&world, "orders", ConditionType::Ready).await;
    assert_eq!((rolling, ready.status.as_str()), (KstatusVerdict::InProgress, "True"));
    assert_eq!(ready.observed_generation, Some(2), "the pods are of the spec before");
    roll_out(&world, "orders-search", 1).await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    let (after, ready) = judged(&world, "orders", ConditionType::Ready).await;
    assert_eq!((after, ready.observed_generation), (KstatusVerdict::Current, Some(3)));
}

/// Nothing of such a spec is in force, its numbers of pods neither.
#[tokio::test(start_paused = true)]
async fn a_spec_that_is_refused_suspends_nothing_and_turns_no_search_off() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    roll_out(&world, "orders-search", 1).await;
    is(&world, "orders", ConditionType::SearchAvailable, "Available").await;
    let refused = json!({"podTemplate": {"spec": {"hostNetwork": true}}});
    let change = json!({"spec": {"suspend": true, "indexer": refused, "search": {"replicas": 0}}});
    patch::<Wal>(&world, "orders", change).await;
    is(&world, "orders", ConditionType::Ready, "PodTemplateRefused").await;
    settled(|| world.server.writes()).await;
    let reason = async |kind| judged(&world, "orders", kind).await.1.reason;
    assert_eq!(reason(ConditionType::Indexing).await, "Starting", "its pod is still asked for");
    assert_eq!(reason(ConditionType::SearchAvailable).await, "Available", "its pods still answer");
    patch::<Wal>(&world, "orders", json!({"spec": {"indexer": null}})).await;
    is(&world, "orders", ConditionType::Indexing, "Suspended").await;
    is(&world, "orders", ConditionType::SearchAvailable, "NoReplicas").await;
    roll_out(&world, "orders-search", 0).await;
    // Nor does one resume.
    patch::<Wal>(&world, "orders", json!({"spec": {"suspend": false, "indexer": refused, "search": {"replicas": 1}}}))
        .await;
    is(&world, "orders", ConditionType::Ready, "PodTemplateRefused").await;
    for kind in [ConditionType::Indexing, ConditionType::SearchAvailable] {
        let message = is(&world, "orders", kind, "NoReplicas").await;
        assert!(message.contains("see the condition Applied"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_generation_is_the_applied_one_before_the_pods_of_one_run() {
    let world = start();
    let generations = async || {
        let status = world.api::<Wal>().get("orders").await.unwrap().status.unwrap();
        let ready = condition(&status.conditions, ConditionType::Ready).unwrap();
        (status.applied_generation, ready.observed_generation)
    };
    let mut refused = wal_spec();
    refused["indexer"] = json!({"podTemplate": {"spec": {"hostNetwork": true}}});
    world.make::<Wal>("orders", refused).await;
    is(&world, "orders", ConditionType::Ready, "PodTemplateRefused").await;
    assert_eq!(generations().await, (None, Some(1)));
    patch::<Wal>(&world, "orders", json!({"spec": {"indexer": null}})).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    assert_eq!(generations().await.0, None, "its pods start");
    settled(|| world.server.writes()).await;
    roll_out(&world, "orders-search", 1).await;
    roll_out(&world, "orders-indexer", 1).await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    assert_eq!(generations().await, (Some(2), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_spec_is_not_applied_while_the_indexer_waits_for_search_with_it() {
    let world = start_with(|_| ());
    make_running_of_an_old_release(&world, "orders").await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    let resources = json!({"resources": {"requests": {"memory": "900Mi"}}});
    patch::<Wal>(&world, "orders", json!({"spec": {"search": resources, "indexer": resources}})).await;
    is(&world, "orders", ConditionType::Applied, "Held").await;
    assert_eq!(judged(&world, "orders", ConditionType::Ready).await.0, KstatusVerdict::InProgress);
    approve(&world, "orders").await;
    is_rolled(&world, "orders-search").await;
    // All search pods are new, and one of them is not available yet.
    show_progress(&world, "orders-search", 1, "ReplicaSetUpdated").await;
    settled(|| world.server.writes()).await;
    assert_eq!(release(&world, "orders-indexer").await, "old");
    let (judgement, applied) = judged(&world, "orders", ConditionType::Applied).await;
    assert_eq!((judgement, applied.reason.as_str()), (KstatusVerdict::InProgress, "RollingOut"), "{}", applied.message);
    assert!(applied.message.contains("indexer"), "{}", applied.message);
    // Each was ready, and has lost a pod since.
    roll_out(&world, "orders-search", 1).await;
    is_rolled(&world, "orders-indexer").await;
    roll_out(&world, "orders-indexer", 0).await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    is(&world, "orders", ConditionType::UpgradePending, "UpToDate").await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stands_while_the_wal_waits_in_line_to_try_again() {
    let world = start();
    for wal in ["first", "second"] {
        world.make::<Wal>(wal, wal_spec()).await;
        is(&world, wal, ConditionType::Applied, "RollingOut").await;
    }
    settled(|| world.server.writes()).await;
    world.server.refuse_object("deployments", "first-search");
    set_release(&world, "first", "old").await;
    is(&world, "first", ConditionType::Applied, "ChildRefused").await;
    set_release(&world, "second", "old").await;
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    let mut seen = BTreeSet::new();
    for _ in 0..240 {
        sleep(Duration::from_secs(5)).await;
        for kind in [ConditionType::Applied, ConditionType::Ready, ConditionType::UpgradePending] {
            seen.insert((kind, judged(&world, "first", kind).await.1.reason));
        }
    }
    let wanted = [
        (ConditionType::Ready, "ChildRefused"),
        (ConditionType::Applied, "ChildRefused"),
        (ConditionType::UpgradePending, "UpgradeStalled"),
    ];
    assert_eq!(seen, BTreeSet::from(wanted.map(|(kind, reason)| (kind, reason.to_owned()))));
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    let refusals = events.items.iter().filter(|event| event.reason.as_deref() == Some("ChildRefused"));
    assert_eq!(refusals.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_finalizer_hides_no_refused_child_while_the_wal_waits_in_line() {
    let world = start();
    let mut purged = wal_spec();
    purged["deletionPolicy"] = json!("Purge");
    world.server.refuse_finalizers(true);
    world.make::<Wal>("first", purged).await;
    is(&world, "first", ConditionType::Applied, "FinalizerRefused").await;
    world.make::<Wal>("second", wal_spec()).await;
    is(&world, "second", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    world.server.refuse_object("deployments", "first-search");
    set_release(&world, "first", "old").await;
    is(&world, "first", ConditionType::Applied, "ChildRefused").await;
    set_release(&world, "second", "old").await;
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    let ready = async || judged(&world, "first", ConditionType::Ready).await.1;
    for _ in 0..120 {
        sleep(Duration::from_secs(5)).await;
        let condition = ready().await;
        let both = ["refuses Deployment \"first-search\"", "add the finalizer"]
            .map(|part| condition.message.matches(part).count());
        assert_eq!((condition.reason.as_str(), both), ("ChildRefused", [1, 1]), "{}", condition.message);
        let applied = judged(&world, "first", ConditionType::Applied).await.1;
        assert!(applied.reason == "ChildRefused" && !applied.message.contains("finalizer"), "{}", applied.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_over_is_not_repeated_while_the_wal_waits_in_line() {
    let world = start();
    for wal in ["first", "second"] {
        world.make::<Wal>(wal, wal_spec()).await;
        is(&world, wal, ConditionType::Applied, "RollingOut").await;
    }
    settled(|| world.server.writes()).await;
    world.server.refuse_object("networkpolicies", "first-search");
    let other = json!({"metadata": {"labels": {names::LABEL_COMPONENT: "theirs"}}});
    patch::<NetworkPolicy>(&world, "first-search", other).await;
    is(&world, "first", ConditionType::Applied, "ChildRefused").await;
    set_release(&world, "first", "old").await;
    is(&world, "first", ConditionType::UpgradePending, "UpgradeStalled").await;
    set_release(&world, "second", "old").await;
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    sleep(Duration::from_mins(10)).await;
    assert_eq!(judged(&world, "first", ConditionType::Applied).await.1.reason, "ChildRefused", "it stands");
    world.server.refuse(None);
    sleep(Duration::from_mins(20)).await;
    let policy = world.api::<NetworkPolicy>().get("first-search").await.unwrap();
    assert_eq!(policy.labels()[names::LABEL_COMPONENT], "search");
    assert_eq!(judged(&world, "first", ConditionType::Applied).await.1.reason, "RollingOut");
    assert_eq!(release(&world, "first-search").await, "old", "it still waits in line");
}

/// As a policy that wants more replicas, or an autoscaler.
#[tokio::test(start_paused = true)]
async fn a_number_of_replicas_that_a_policy_sets_is_not_written_again_and_again() {
    let world = start_with(|_| ());
    world.server.mutate("deployments", |deployment| deployment["spec"]["replicas"] = json!(5));
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    let older = json!({
        "metadata": {"annotations": {names::ANNOTATION_RELEASE: "old"}}, "spec": {"progressDeadlineSeconds": 1},
    });
    for role in ["search", "indexer"] {
        patch::<Deployment>(&world, &format!("orders-{role}"), older.clone()).await;
        roll_out(&world, &format!("orders-{role}"), 5).await;
    }
    approve(&world, "orders").await;
    is(&world, "orders", ConditionType::UpgradePending, "Upgrading").await;
    sleep(Duration::from_secs(5)).await;
    let before = world.server.writes();
    sleep(Duration::from_mins(1)).await;
    let more = world.server.writes() - before;
    assert!(more < 5, "{more} writes in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_earlier_wal_is_named_while_it_is_waited_for() {
    let world = start();
    let owner = json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL", "name": "orders", "uid": "gone", "controller": true});
    world.make::<ConfigMap>("orders-control", json!({})).await;
    let left = json!({"metadata": {"ownerReferences": [owner], "labels": {names::LABEL_WAL: "orders"}}});
    patch::<ConfigMap>(&world, "orders-control", left).await;
    world.make::<Wal>("orders", wal_spec()).await;
    let message = is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    assert!(message.contains("ConfigMap \"orders-control\" of a deleted WAL still exists"), "{message}");
}

/// As `kubectl delete deployment --cascade=foreground` while its pods end.
#[tokio::test(start_paused = true)]
async fn a_spec_is_not_applied_while_its_deployment_is_being_deleted() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    for deployment in ["orders-search", "orders-indexer"] {
        roll_out(&world, deployment, 1).await;
    }
    is(&world, "orders", ConditionType::Applied, "Applied").await;
    let deployments = world.api::<Deployment>();
    patch::<Deployment>(&world, "orders-search", json!({"metadata": {"finalizers": ["foregroundDeletion"]}})).await;
    deployments.delete("orders-search", &DeleteParams::default()).await.unwrap();
    let message = is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    assert!(message.contains("Deployment \"orders-search\" is being deleted; it is created again"), "{message}");
    let before = deployments.get("orders-search").await.unwrap().metadata.uid;
    patch::<Deployment>(&world, "orders-search", json!({"metadata": {"finalizers": null}})).await;
    eventually("it is created again", async || {
        let after = deployments.get_opt("orders-search").await.unwrap()?.metadata.uid;
        (after != before).then_some(())
    })
    .await;
    roll_out(&world, "orders-search", 1).await;
    is(&world, "orders", ConditionType::Applied, "Applied").await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_wal_that_somebody_elses_finalizer_holds_releases_its_slot() {
    let world = one_is_upgraded_and_one_waits().await;
    patch::<Wal>(&world, "first", json!({"metadata": {"finalizers": ["example.com/theirs"]}})).await;
    world.api::<Wal>().delete("first", &DeleteParams::default()).await.unwrap();
    is(&world, "second", ConditionType::UpgradePending, "Upgrading").await;
    assert_eq!(world.api::<Wal>().get("first").await.unwrap().finalizers(), ["example.com/theirs"]);
}

/// The classic is a policy that rewrites the registry of each image.
#[tokio::test(start_paused = true)]
async fn what_a_policy_of_the_cluster_changes_is_written_once_and_not_for_ever() {
    let world = start();
    world.server.mutate("deployments", |deployment| {
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("mirror/i");
    });
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Ready, "Starting").await;
    let old = json!({"metadata": {"annotations": {names::ANNOTATION_RELEASE: "old"}}});
    for deployment in ["orders-indexer", "orders-search"] {
        patch::<Deployment>(&world, deployment, old.clone()).await;
    }
    is(&world, "orders", ConditionType::UpgradePending, "Upgrading").await;
    sleep(Duration::from_secs(5)).await;
    let before = world.server.writes();
    // Something else of the Deployment moves, as during a roll-out.
    let search = world.api::<Deployment>();
    let status = Patch::Merge(json!({"status": {"replicas": 1, "updatedReplicas": 1, "observedGeneration": 1}}));
    search.patch_status("orders-search", &PatchParams::default(), &status).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.server.writes() - before, 2, "the test's, and the status that shows the replica");
    // What somebody changes is repaired all the same.
    patch::<Deployment>(&world, "orders-search", json!({"metadata": {"labels": {names::LABEL_COMPONENT: "theirs"}}}))
        .await;
    eventually("the label is repaired", async || {
        let search = world.api::<Deployment>().get("orders-search").await.unwrap();
        (search.labels()[names::LABEL_COMPONENT] == "search").then_some(())
    })
    .await;
}

fn orphaned() -> Value {
    json!({"metadata": {"ownerReferences": null}})
}

/// Takes the owner from the children that each role has.
async fn orphan_children(world: &FakeWorld) {
    for name in ["orders-indexer", "orders-search"] {
        patch::<Deployment>(world, name, orphaned()).await;
        patch::<ServiceAccount>(world, name, orphaned()).await;
        patch::<NetworkPolicy>(world, name, orphaned()).await;
    }
}

/// `kubectl delete wal --cascade=orphan` leaves the children without an owner.
#[tokio::test(start_paused = true)]
async fn orphaned_children_are_adopted_and_those_of_somebody_else_are_not() {
    let world = start();
    world.make::<Wal>("orders", wal_spec()).await;
    is(&world, "orders", ConditionType::Ready, "Starting").await;
    world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    settled(|| world.server.writes()).await;
    orphan_children(&world).await;
    patch::<ConfigMap>(&world, "orders-control", orphaned()).await;
    // It looks like a child, but no operator has ever applied it.
    let theirs = json!({"metadata": {"ownerReferences": null, "annotations": null}});
    patch::<Service>(&world, "orders-search", theirs).await;
    world.make::<Wal>("orders", wal_spec()).await;
    let message = is(&world, "orders", ConditionType::Ready, "NameTaken").await;
    assert!(message.contains("Service \"orders-search\" exists and belongs to something else"), "{message}");
    let uid = world.api::<Wal>().get("orders").await.unwrap().metadata.uid.unwrap();
    for name in ["orders-indexer", "orders-search"] {
        let adopted = world.api::<Deployment>().get(name).await.unwrap();
        assert_eq!(adopted.owner_references()[0].uid, uid, "{name}");
    }
    world.api::<Service>().delete("orders-search", &DeleteParams::default()).await.unwrap();
    is(&world, "orders", ConditionType::Ready, "Starting").await;
}

/// Makes a WAL, deletes it as `kubectl delete wal --cascade=orphan` does, and takes the owner from its children, before the watch of
/// WALs shows any of that.
async fn orphan_before_the_watch_shows_it(world: &FakeWorld, spec: Value, finalizers: &[&str]) {
    world.make::<Wal>("orders", spec).await;
    is(world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    world.server.delay(Some("wals"));
    patch::<Wal>(world, "orders", json!({"metadata": {"finalizers": finalizers}})).await;
    world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    orphan_children(world).await;
    patch::<ConfigMap>(world, "orders-control", orphaned()).await;
    patch::<Service>(world, "orders-search", orphaned()).await;
}

async fn owners_of_search(world: &FakeWorld) -> Vec<String> {
    sleep(Duration::from_mins(1)).await;
    let search = world.api::<Deployment>().get("orders-search").await.unwrap();
    search.owner_references().iter().map(|owner| owner.uid.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_deletion_is_leaving_behind_is_not_adopted_though_the_watch_shows_no_deletion() {
    let world = start();
    orphan_before_the_watch_shows_it(&world, wal_spec(), &["orphan"]).await;
    assert!(owners_of_search(&world).await.is_empty(), "its WAL is being deleted");
    patch::<Wal>(&world, "orders", json!({"metadata": {"finalizers": null}})).await;
    assert!(!exists::<Wal>(&world, "orders").await);
    // Any change of the child is a reason to look at it again.
    patch::<Deployment>(&world, "orders-search", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert!(owners_of_search(&world).await.is_empty(), "its WAL is gone");
    world.make::<Wal>("orders", wal_spec()).await;
    patch::<Deployment>(&world, "orders-search", json!({"metadata": {"labels": {"a": "c"}}})).await;
    assert!(owners_of_search(&world).await.is_empty(), "the WAL that the watch shows is another one");
    world.server.delay(None);
    let uid = world.api::<Wal>().get("orders").await.unwrap().metadata.uid.unwrap();
    assert_eq!(owners_of_search(&world).await, [uid], "the next WAL adopts it");
}

#[tokio::test(start_paused = true)]
async fn an_index_is_purged_also_by_a_deletion_that_leaves_the_children_behind() {
    let world = start_with(|settings| settings.purge_timeout = Duration::MAX);
    let mut purged = wal_spec();
    purged["deletionPolicy"] = json!("Purge");
    orphan_before_the_watch_shows_it(&world, purged, &[names::FINALIZER_PURGE, "orphan"]).await;
    world.server.delay(None);
    let control = eventually("the indexer is asked", async || {
        let control = world.api::<ConfigMap>().get("orders-control").await.unwrap();
        control.data.as_ref()?.get(names::CONTROL_PURGE_KEY)?;
        Some(control)
    })
    .await;
    assert!(control.owner_references().is_empty(), "{:?}", control.owner_references());
    assert!(owners_of_search(&world).await.is_empty(), "it stays when the WAL goes");
    let before = world.server.writes();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.server.writes(), before, "nothing is written again and again");
}

#[tokio::test(start_paused = true)]
async fn a_purge_is_not_written_over_a_child_that_is_being_orphaned_and_not_seen_so() {
    let world = start_with(|settings| settings.purge_timeout = Duration::MAX);
    let mut purged = wal_spec();
    purged["deletionPolicy"] = json!("Purge");
    world.make::<Wal>("orders", purged).await;
    is(&world, "orders", ConditionType::Applied, "RollingOut").await;
    settled(|| world.server.writes()).await;
    world.server.delay(Some("configmaps"));
    patch::<ConfigMap>(&world, "orders-control", json!({"metadata": {"ownerReferences": null}})).await;
    let finalizers = json!({"metadata": {"finalizers": [names::FINALIZER_PURGE, "orphan"]}});
    patch::<Wal>(&world, "orders", finalizers).await;
    world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    let control = async || world.api::<ConfigMap>().get("orders-control").await.unwrap();
    assert!(control().await.owner_references().is_empty());
    world.server.delay(None);
    let asked = eventually("the indexer is asked", async || {
        let control = control().await;
        control.data.as_ref()?.get(names::CONTROL_PURGE_KEY)?;
        Some(control)
    });
    assert!(asked.await.owner_references().is_empty());
}
