//! How far search is reachable while its pods are being replaced.

use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, names::WalComponent};
use tidemark_tests::controller::{ControllerWorld, OperatorProcess, eventually};

const EVERYBODY: &str = "0.0.0.0/0";

/// A spec that opens search to the world, with a token.
fn open() -> Value {
    json!({"spec": {"search": {
        "auth": {"type": "Token", "secretRef": {"name": "token"}},
        "service": {"type": "LoadBalancer"},
        "allowFrom": [{"ipBlock": {"cidr": EVERYBODY}}],
    }}})
}

/// The type of the Service, and whether the NetworkPolicy lets everybody in.
async fn exposure(world: &ControllerWorld) -> (String, bool) {
    let service = world.api::<Service>().get("orders-search").await.expect("it is there");
    let policy = world.api::<NetworkPolicy>().get("orders-search").await.expect("it is there");
    let everybody = serde_json::to_string(&policy.spec).expect("it is JSON").contains(EVERYBODY);
    (service.spec.and_then(|spec| spec.type_).unwrap_or_default(), everybody)
}

async fn exposure_becomes(world: &ControllerWorld, service_type: &str, everybody: bool) {
    eventually(&format!("search is a {service_type}, open to everybody: {everybody}"), async || {
        Ok((exposure(world).await == (service_type.to_owned(), everybody)).then_some(()))
    })
    .await
    .expect("it becomes so");
}

/// Waits until the search Deployment mounts the token, and gives its image.
async fn guarded(world: &ControllerWorld) -> String {
    eventually("the search Deployment asks for the token", async || {
        let deployment = serde_json::to_value(world.deployment("orders", WalComponent::Search).await?)?;
        let pod = &deployment["spec"]["template"]["spec"];
        let volume = pod["volumes"].as_array().into_iter().flatten().any(|v| v["secret"]["secretName"] == "token");
        let container = &pod["containers"][0];
        let variable =
            container["env"].as_array().into_iter().flatten().any(|v| v["name"] == "TIDEMARK_AUTH_TOKEN_FILE");
        let image = container["image"].as_str().unwrap_or_default().to_owned();
        Ok((volume && variable).then_some(image))
    })
    .await
    .expect("it asks for it")
}

async fn all_search_pods_become_ready(world: &ControllerWorld) {
    world.pods.newcomers_ready(WalComponent::Search, true);
    world.pods.ready(WalComponent::Search, true).await.expect("they become ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn search_is_opened_after_the_last_pod_without_the_token_and_closed_at_once() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");

    world.pods.newcomers_ready(WalComponent::Search, false);
    world.change("orders", open()).await.expect("it is changed");
    guarded(&world).await;
    world.is("orders", ConditionType::SearchAvailable, "True/Available").await.expect("the old pods answer");
    assert_eq!(exposure(&world).await, ("ClusterIP".to_owned(), false), "pods without the token still answer");
    all_search_pods_become_ready(&world).await;
    exposure_becomes(&world, "LoadBalancer", true).await;

    // A roll-out that has nothing to do with the token leaves open what is open.
    world.pods.newcomers_ready(WalComponent::Search, false);
    let resources = json!({"spec": {"search": {"resources": {"requests": {"cpu": "1"}}}}});
    world.change("orders", resources).await.expect("it is changed");
    eventually("it rolls out", async || {
        let status = world.deployment("orders", WalComponent::Search).await?.status.unwrap_or_default();
        Ok((status.replicas != status.updated_replicas).then_some(()))
    })
    .await
    .expect("it rolls out");
    assert_eq!(exposure(&world).await, ("LoadBalancer".to_owned(), true));

    // The pods with the token are still there when no other client may come in any more.
    let closed = json!({"spec": {"search": {"auth": null, "service": null, "allowFrom": null}}});
    world.change("orders", closed).await.expect("it is changed");
    exposure_becomes(&world, "ClusterIP", false).await;
    let status =
        world.deployment("orders", WalComponent::Search).await.expect("it is there").status.unwrap_or_default();
    assert_ne!(status.replicas, status.updated_replicas, "the roll-out is not done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_in_force_before_search_is_opened_also_while_an_upgrade_is_held_back() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let old = world.image("orders", WalComponent::Search).await.expect("it is there");
    operator.kill();
    let mut options = world.options();
    options.image = "tidemark.dev/tidemark:two".to_owned();
    let _operator = OperatorProcess::start(&options).await.expect("it starts");
    world.is("orders", ConditionType::UpgradePending, "True/NewRelease").await.expect("it waits for approval");

    world.pods.newcomers_ready(WalComponent::Search, false);
    world.change("orders", open()).await.expect("it is changed");
    assert_eq!(guarded(&world).await, old, "the token comes without the new release");
    assert_eq!(exposure(&world).await, ("ClusterIP".to_owned(), false), "pods without the token still answer");
    let message = world.is("orders", ConditionType::UpgradePending, "True/NewRelease").await.expect("it waits");
    assert!(!message.contains("latest change of the spec"), "nothing of the spec waits: {message}");
    all_search_pods_become_ready(&world).await;
    exposure_becomes(&world, "LoadBalancer", true).await;
    assert_eq!(world.image("orders", WalComponent::Search).await.expect("it is there"), old);

    // It can be taken back as well.
    let closed = json!({"spec": {"search": {"auth": null, "service": null, "allowFrom": null}}});
    world.change("orders", closed).await.expect("it is changed");
    exposure_becomes(&world, "ClusterIP", false).await;
    eventually("the Deployment asks for no token", async || {
        let deployment = serde_json::to_string(&world.deployment("orders", WalComponent::Search).await?.spec)?;
        Ok((!deployment.contains("TIDEMARK_AUTH_TOKEN_FILE")).then_some(()))
    })
    .await
    .expect("it asks for none");
}
