//! A new release of the operator.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tidemark_crds::{
    ConditionType,
    names::{self, WalComponent},
};
use tidemark_tests::controller::{ControllerWorld, OperatorOptions, OperatorProcess, eventually};

use super::admission::{dry_run, in_force, matches, refuse};

const OLD: &str = "tidemark.dev/tidemark:one";
const NEW: &str = "tidemark.dev/tidemark:two";

fn newer(world: &ControllerWorld, flags: &[&str]) -> OperatorOptions {
    let mut options = world.options();
    NEW.clone_into(&mut options.image);
    options.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    options
}

/// Waits until a WAL waits for approval, and gives the revision that it waits for.
async fn pending(world: &ControllerWorld, name: &str) -> String {
    let message = world.is(name, ConditionType::UpgradePending, "True/NewRelease").await.expect("it is reported");
    let revision = message.rsplit_once("approve-upgrade=").expect("the message names the command").1;
    revision.trim_end_matches('"').to_owned()
}

/// WALs of the old release that wait for approval, named by `wals`, no operator, and the options of one that is approved.
async fn awaiting_approval(wals: &[&str]) -> (ControllerWorld, OperatorOptions) {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    for name in wals {
        world.make(name, "").await.expect("it is created");
    }
    for name in wals {
        world.is_ready(name).await.expect("it becomes ready");
    }
    operator.kill();
    let unapproved = OperatorProcess::start(&newer(&world, &[])).await.expect("it starts");
    let revision = pending(&world, wals[0]).await;
    unapproved.kill();
    let approved = newer(&world, &[&format!("--upgrade-approved={revision}")]);
    (world, approved)
}

async fn images(world: &ControllerWorld, name: &str) -> [String; 2] {
    let search = world.image(name, WalComponent::Search).await.expect("it is there");
    [search, world.image(name, WalComponent::Indexer).await.expect("it is there")]
}

async fn images_are(world: &ControllerWorld, name: &str, wanted: [&str; 2]) {
    eventually(&format!("search and indexer of \"{name}\" are of {wanted:?}"), async || {
        Ok((images(world, name).await == wanted).then_some(()))
    })
    .await
    .expect("they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_release_changes_no_pod_unasked_and_rolls_search_first() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = world.deployment("orders", WalComponent::Search).await.expect("it is there");
    operator.kill();

    let _operator = OperatorProcess::start(&newer(&world, &[])).await.expect("it starts");
    let revision = pending(&world, "orders").await;
    assert_eq!(images(&world, "orders").await, [OLD, OLD]);
    world.is_ready("orders").await.expect("it stays ready");
    let after = world.deployment("orders", WalComponent::Search).await.expect("it is there");
    assert_eq!(before.metadata.generation, after.metadata.generation, "the Deployment is as it was");

    // Replicas are the user's, also while an upgrade waits; other changes of the pods wait with it.
    let search = json!({"replicas": 2, "resources": {"requests": {"cpu": "1"}}});
    world.change("orders", json!({"spec": {"search": search}})).await.expect("it is changed");
    eventually("search is scaled", async || {
        let deployment = world.deployment("orders", WalComponent::Search).await?;
        Ok(deployment.spec.filter(|spec| spec.replicas == Some(2)))
    })
    .await
    .expect("it is scaled");
    assert_eq!(images(&world, "orders").await, [OLD, OLD]);
    let message = world.is("orders", ConditionType::UpgradePending, "True/NewRelease").await.expect("it is reported");
    assert!(message.contains("latest change of the spec"), "{message}");

    // The new search pods are not ready: the indexer must wait.
    world.pods.newcomers_ready(WalComponent::Search, false);
    let approval = json!({names::ANNOTATION_APPROVE_UPGRADE: revision});
    world.change("orders", json!({"metadata": {"annotations": approval}})).await.expect("it is approved");
    images_are(&world, "orders", [NEW, OLD]).await;
    world.is("orders", ConditionType::UpgradePending, "True/Upgrading").await.expect("it is reported");
    let deployment = world.deployment("orders", WalComponent::Search).await.expect("it is there");
    let container = &deployment.spec.expect("it has a spec").template.spec.expect("it has a pod").containers[0];
    let requests = container.resources.clone().and_then(|resources| resources.requests).unwrap_or_default();
    assert_eq!(requests.get("cpu").map(|cpu| cpu.0.as_str()), Some("1"), "the held change comes with the upgrade");
    world.is("orders", ConditionType::SearchAvailable, "True/Available").await.expect("the old pods serve");
    assert_eq!(images(&world, "orders").await, [NEW, OLD]);

    world.pods.ready(WalComponent::Search, true).await.expect("they become ready");
    images_are(&world, "orders", [NEW, NEW]).await;
    world.is("orders", ConditionType::UpgradePending, "False/UpToDate").await.expect("it is done");
    for reason in ["UpgradePending", "UpgradeStarted", "Upgraded"] {
        world.has_event("orders", reason).await.expect("it is reported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_wals_are_upgraded_one_at_a_time_also_by_an_operator_that_is_killed_meanwhile() {
    const WALS: [&str; 3] = ["a", "b", "c"];
    let (world, approved) = awaiting_approval(&WALS).await;

    world.pods.newcomers_ready(WalComponent::Search, false);
    let first = OperatorProcess::start(&approved).await.expect("it starts");
    let under_way = async || {
        let mut names = Vec::new();
        for name in WALS {
            let [search, indexer] = images(&world, name).await;
            names.extend((search != indexer).then_some(name));
        }
        names
    };
    let started =
        eventually("one is under way", async || Ok(under_way().await.first().copied())).await.expect("one is");
    first.kill();
    let _second = OperatorProcess::start(&approved).await.expect("it starts");
    // The others are queued by the second operator; none of them may start while this one is not done.
    for name in WALS.into_iter().filter(|name| *name != started) {
        eventually("it waits for its turn", async || {
            let status = world.wals().get(name).await?.status.unwrap_or_default();
            let pending = tidemark_crds::condition(&status.conditions, ConditionType::UpgradePending).cloned();
            Ok(pending.filter(|pending| pending.message.contains("until other WALs are done")))
        })
        .await
        .expect("it waits");
    }
    assert_eq!(under_way().await, [started]);

    world.pods.newcomers_ready(WalComponent::Search, true);
    world.pods.ready(WalComponent::Search, true).await.expect("they become ready");
    let mut most = 0;
    eventually("all are done", async || {
        most = most.max(under_way().await.len());
        let mut done = true;
        for name in WALS {
            done &= images(&world, name).await == [NEW, NEW];
        }
        Ok(done.then_some(()))
    })
    .await
    .expect("they are done");
    assert!(most <= 1, "{most} at a time");
    for name in WALS {
        world.is(name, ConditionType::UpgradePending, "False/UpToDate").await.expect("it is done");
    }
    assert!(world.wals().get("a").await.expect("it is there").annotations().is_empty(), "the flag is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_become_ready_hold_the_others_and_a_wal_that_is_suspended_lets_them_go_on() {
    let (world, approved) = awaiting_approval(&["a", "b"]).await;
    world.pods.newcomers_ready(WalComponent::Search, false);
    let operator = OperatorProcess::start(&approved).await.expect("it starts");
    let stuck = eventually("one is under way", async || {
        let a = images(&world, "a").await;
        let b = images(&world, "b").await;
        Ok((a[0] == NEW).then_some("a").or((b[0] == NEW).then_some("b")))
    });
    let stuck = stuck.await.expect("one is");
    let other = if stuck == "a" { "b" } else { "a" };

    // What the controller of Deployments says after ten minutes.
    let since = "2026-11-21T10:00:00Z";
    let condition = json!({
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "m",
        "lastTransitionTime": since, "lastUpdateTime": since,
    });
    let deployments = world.api::<Deployment>();
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let message = eventually("it is reported", async || {
        // As long as pods come, that controller sees progress and says so.
        deployments.patch_status(&format!("{stuck}-search"), &PatchParams::default(), &patch).await?;
        let status = world.wals().get(stuck).await?.status.unwrap_or_default();
        let pending = tidemark_crds::condition(&status.conditions, ConditionType::UpgradePending).cloned();
        Ok(pending.filter(|pending| pending.reason == "UpgradeStalled").map(|pending| pending.message))
    })
    .await
    .expect("it is reported");
    assert!(message.contains(&format!("kubectl describe deployment {stuck}-search")), "{message}");
    world.has_event(stuck, "UpgradeStalled").await.expect("it is reported");
    let stalled = async || operator.metric("tidemark_operator_upgrades_stalled", &[]).await.expect("it counts");
    // The metric follows the condition.
    eventually("it is counted", async || Ok(((stalled().await - 1.0).abs() < 0.5).then_some(())))
        .await
        .expect("it is counted");
    world.is(other, ConditionType::UpgradePending, "True/NewRelease").await.expect("it waits");
    assert_eq!(images(&world, other).await, [OLD, OLD], "a release that does not start is not rolled on");

    world.change(stuck, json!({"spec": {"suspend": true}})).await.expect("it is changed");
    images_are(&world, other, [NEW, OLD]).await;
    let message = world.is(stuck, ConditionType::UpgradePending, "True/NewRelease").await.expect("it is reported");
    assert!(message.contains("while the WAL is suspended"), "{message}");
    assert_eq!(images(&world, stuck).await, [NEW, OLD]);
    assert!(stalled().await < 0.5);

    world.pods.newcomers_ready(WalComponent::Search, true);
    world.pods.ready(WalComponent::Search, true).await.expect("they become ready");
    images_are(&world, other, [NEW, NEW]).await;
    world.change(stuck, json!({"spec": {"suspend": false}})).await.expect("it is changed");
    images_are(&world, stuck, [NEW, NEW]).await;
    world.is(stuck, ConditionType::UpgradePending, "False/UpToDate").await.expect("it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_a_policy_refuses_says_so_and_holds_up_no_other() {
    let (world, approved) = awaiting_approval(&["a", "b"]).await;
    let name = format!("images-{}", world.namespace);
    let matches = matches(&world).replace("{RULES}", "resourceRules");
    let expression = format!(
        "!object.metadata.name.startsWith('a-') || object.spec.template.spec.containers.all(c, c.image != '{NEW}')"
    );
    refuse(&world, &name, &matches, "that image is not signed", &expression).await;
    in_force("not signed", async || {
        let containers = json!([{"name": "search", "image": NEW}]);
        dry_run(&world, "a-search", json!({"spec": {"template": {"spec": {"containers": containers}}}})).await
    })
    .await;
    let _operator = OperatorProcess::start(&approved).await.expect("it starts");
    world.is("a", ConditionType::UpgradePending, "True/UpgradeStalled").await.expect("it is reported");
    let message = world.is("a", ConditionType::Applied, "False/ChildRefused").await.expect("it is reported");
    assert!(message.contains("that image is not signed"), "{message}");
    images_are(&world, "b", [NEW, NEW]).await;
    assert_eq!(images(&world, "a").await, [OLD, OLD]);
    world.server.kubectl(["delete", "validatingadmissionpolicybinding", &name]).await.expect("it is deleted");
    // A change is no reason to wait for the next try. The API server forgets a policy some time after it is gone.
    let mut changes = 0;
    eventually("it is upgraded", async || {
        changes += 1;
        let again = json!({"metadata": {"annotations": {"example.com/again": changes.to_string()}}});
        world.change("a", again).await?;
        Ok((images(&world, "a").await == [NEW, NEW]).then_some(()))
    })
    .await
    .expect("it is");
    world.is("a", ConditionType::UpgradePending, "False/UpToDate").await.expect("it is done");
}

/// A label cleaner, or somebody with `kubectl edit`, hides a Deployment from the watches of the operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_lost_labels_or_owner_gets_them_back_and_is_not_upgraded_unasked() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    operator.kill();
    let _operator = OperatorProcess::start(&newer(&world, &[])).await.expect("it starts");
    pending(&world, "orders").await;
    let deployments = world.api::<Deployment>();
    let before = world.deployment("orders", WalComponent::Search).await.expect("it is there");
    for lost in [
        json!({"labels": {names::LABEL_MANAGED_BY: null}}),
        json!({"labels": {names::LABEL_WAL: null}}),
        json!({"ownerReferences": null}),
    ] {
        let patch = Patch::Merge(json!({"metadata": lost}));
        deployments.patch("orders-search", &PatchParams::default(), &patch).await.expect("it is patched");
        let after = eventually(&format!("{lost} is repaired"), async || {
            let after = world.deployment("orders", WalComponent::Search).await?;
            let is_repaired =
                after.labels() == before.labels() && after.owner_references() == before.owner_references();
            Ok(is_repaired.then_some(after))
        })
        .await
        .expect("it is");
        // The repair was the operator's decision: an upgrade would have come with it.
        assert_eq!(after.metadata.generation, before.metadata.generation, "{lost}: no pod is replaced");
    }
    assert_eq!(images(&world, "orders").await, [OLD, OLD]);
    pending(&world, "orders").await;
    world.is_ready("orders").await.expect("it stays ready");
}
