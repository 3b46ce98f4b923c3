//! What a WAL's conditions say.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tidemark_crds::{ConditionType, names::WalComponent};
use tidemark_tests::controller::{ControllerWorld, eventually, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_of_a_pod_is_one_condition_with_its_words_and_goes_with_its_cause() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    let words = "bucket \"wal\" does not exist; nothing is indexed; make it or correct \"spec.log.url\"";
    world.pods.say(WalComponent::Indexer, say::problem("BucketMissing", words));
    world.make("orders", "").await.expect("it is created");
    world.make("bills", "suspend: true").await.expect("it is created");
    for kind in [ConditionType::StorageReady, ConditionType::Indexing, ConditionType::Ready] {
        let message = world.is("orders", kind, "False/BucketMissing").await.expect("it is reported");
        assert_eq!(message, words);
    }
    world.is("bills", ConditionType::Ready, "True/Suspended").await.expect("others are unaffected");
    world.has_event("orders", "BucketMissing").await.expect("it is reported");

    world.pods.say(WalComponent::Indexer, say::writing(1, 1));
    world.is_ready("orders").await.expect("it recovers without a restart");
    let events = world.events("orders").await.expect("they are listed");
    assert_eq!(events.iter().filter(|reason| *reason == "BucketMissing").count(), 1, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexer_that_does_not_answer_flips_nothing_but_indexing() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.pods.silence(WalComponent::Indexer);
    let message = world.is("orders", ConditionType::Indexing, "Unknown/PodNotAnswering").await.expect("it is reported");
    assert!(message.contains("has not answered the operator since"), "{message}");
    world.is("orders", ConditionType::SearchAvailable, "True/Available").await.expect("search is not flipped");
    world.is("orders", ConditionType::StorageReady, "True/Probed").await.expect("what was known stays known");
    world.is("orders", ConditionType::Ready, "Unknown/PodNotAnswering").await.expect("it is not known");

    world.pods.silence(WalComponent::Search);
    world.pods.say(WalComponent::Indexer, say::writing(1, 10));
    world.is_ready("orders").await.expect("the kubelet's word counts for search");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_begun_from_elsewhere_says_so_until_it_is_written() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    let mut restoring = say::phase(say::writing(0, 0), "restoring");
    restoring["restore"] = json!({"copied": 3, "total": 7});
    world.pods.say(WalComponent::Indexer, restoring);
    let bootstrap = "bootstrap: {fromURL: s3://copies/orders, time: \"2026-11-20T10:00:00Z\"}";
    world.make("orders", bootstrap).await.expect("it is created");
    let message = world.is("orders", ConditionType::Indexing, "False/Restoring").await.expect("it is reported");
    assert!(message.contains("3 of 7 operations"), "{message}");
    world.has_event("orders", "Restoring").await.expect("it is reported");
    let deployment = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    let spec = serde_json::to_value(deployment.spec).expect("it is JSON");
    let variables = spec["template"]["spec"]["containers"][0]["env"].as_array().expect("a list").clone();
    let value = |name: &str| {
        let variable = variables.iter().find(|variable| variable["name"] == name).expect("it is there");
        variable["value"].as_str().expect("a text").to_owned()
    };
    assert_eq!(value("TIDEMARK_BOOTSTRAP_FROM"), "s3://copies/orders");
    assert_eq!(value("TIDEMARK_BOOTSTRAP_TIME"), "2026-11-20T10:00:00Z");

    let mut waiting = say::phase(say::writing(0, 0), "standby");
    (waiting["writer"], waiting["restoredTo"]) = (json!(null), json!("2026-11-20T10:00:00Z"));
    world.pods.say(WalComponent::Indexer, waiting);
    let message = world.is("orders", ConditionType::Ready, "False/AwaitingPromotion").await.expect("it is reported");
    assert!(message.contains("2026-11-20T10:00:00Z") && message.contains("promote"), "{message}");
    world.pods.say(WalComponent::Indexer, say::writing(1, 7));
    world.is_ready("orders").await.expect("it is written");

    let other = json!({"spec": {"bootstrap": {"fromURL": "s3://copies/other", "time": "2026-11-20T10:00:00Z"}}});
    let refused = world.change("orders", other).await.expect_err("it cannot change");
    assert!(format!("{refused:?}").contains("bootstrap cannot change"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_is_reported_with_the_kubelets_words_until_the_next_pod_runs() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.pods.keep_pending(WalComponent::Indexer);
    let words = "Usage of EmptyDir volume \"cache\" exceeds the limit \"8Gi\"";
    world.pods.evict(WalComponent::Indexer, &format!("{words}. ")).await.expect("it is evicted");
    let message = world.is("orders", ConditionType::Indexing, "False/PodEvicted").await.expect("it is reported");
    assert!(message.contains(words) && message.contains("spec.indexer.cache.size"), "{message}");
    world.has_event("orders", "PodEvicted").await.expect("it is reported");
    world.pods.silence(WalComponent::Indexer);
    world.pods.start_pending(WalComponent::Indexer).await.expect("it runs");
    world.is("orders", ConditionType::Indexing, "Unknown/PodNotAnswering").await.expect("that is the problem now");
    world.pods.say(WalComponent::Indexer, say::writing(2, 10));
    world.is_ready("orders").await.expect("the pod that took its place works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_is_refused_waits_for_a_change_and_the_pods_stay() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let before = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    let template = json!({"spec": {"hostNetwork": true}});
    world.change("orders", json!({"spec": {"indexer": {"podTemplate": template}}})).await.expect("it is changed");
    let message = world.is("orders", ConditionType::Ready, "False/PodTemplateRefused").await.expect("it is refused");
    assert!(message.contains("hostNetwork"), "{message}");
    world.is("orders", ConditionType::Indexing, "True/CaughtUp").await.expect("the pods go on");
    world.has_event("orders", "PodTemplateRefused").await.expect("it is reported");

    let (writes, polls) = (operator.writes().await.expect("it counts"), polls(&operator).await);
    eventually("pods are asked some more", async || Ok((self::polls(&operator).await > polls + 6.0).then_some(())))
        .await
        .expect("they are asked");
    assert!((operator.writes().await.expect("it counts") - writes).abs() < 0.5, "it waits without writing");
    let after = world.deployment("orders", WalComponent::Indexer).await.expect("it is there");
    assert_eq!(before.metadata.generation, after.metadata.generation);

    world.change("orders", json!({"spec": {"indexer": {"podTemplate": null}}})).await.expect("it is changed");
    world.is_ready("orders").await.expect("it recovers");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_stops_the_indexer_and_nothing_else() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.change("orders", json!({"spec": {"suspend": true}})).await.expect("it is changed");
    world.is("orders", ConditionType::Ready, "True/Suspended").await.expect("it is reported");
    let replicas = async |component| {
        world.deployment("orders", component).await.expect("it is there").spec.and_then(|spec| spec.replicas)
    };
    assert_eq!((replicas(WalComponent::Indexer).await, replicas(WalComponent::Search).await), (Some(0), Some(1)));
    world.change("orders", json!({"spec": {"suspend": false}})).await.expect("it is changed");
    world.is_ready("orders").await.expect("it goes on");
    assert_eq!(replicas(WalComponent::Indexer).await, Some(1));
    for reason in ["Suspended", "Resumed"] {
        world.has_event("orders", reason).await.expect("it is reported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scale_subresource_sets_and_shows_the_search_pods() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let namespace = world.namespace.clone();
    world.server.kubectl(["scale", "wal/orders", "--replicas=3", "-n", &namespace]).await.expect("it is scaled");
    eventually("three search pods are shown", async || {
        let scale = world.wals().get_scale("orders").await?;
        Ok(scale.status.filter(|status| status.replicas == 3).and_then(|status| status.selector))
    })
    .await
    .map(|selector| assert!(selector.contains("app.kubernetes.io/component=search"), "{selector}"))
    .expect("they are shown");

    world.change("orders", json!({"spec": {"search": {"replicas": 0}}})).await.expect("it is changed");
    world.is("orders", ConditionType::SearchAvailable, "False/NoReplicas").await.expect("search is off");
    let message = world.is("orders", ConditionType::Ready, "True/Ready").await.expect("indexing goes on");
    assert!(message.contains("search is turned off"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_refuses_is_reported_and_tried_again() {
    let world = ControllerWorld::create().await.expect("it starts");
    let quota = format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{namespace: {}, name: none}}, spec: {{hard: {{services: 0}}}}}}",
        world.namespace
    );
    world.server.apply(&quota).await.expect("it is created");
    let status = json!({"status": {"hard": {"services": "0"}, "used": {"services": "0"}}});
    let quotas = world.api::<k8s_openapi::api::core::v1::ResourceQuota>();
    quotas.patch_status("none", &PatchParams::default(), &Patch::Merge(&status)).await.expect("it is in force");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "").await.expect("it is created");
    let message = world.is("orders", ConditionType::Ready, "False/ChildRefused").await.expect("it is reported");
    assert!(message.contains("exceeded quota"), "{message}");
    world.deployment("orders", WalComponent::Indexer).await.expect("it needs no Service");
    quotas.delete("none", &DeleteParams::default()).await.expect("it is deleted");
    world.is_ready("orders").await.expect("it recovers");
}

async fn polls(operator: &tidemark_tests::controller::OperatorProcess) -> f64 {
    operator.metric("tidemark_operator_polls_total", &[]).await.expect("it counts")
}
