//! The CRD that the operator finds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tidemark_crds::{names::FINALIZER_PURGE, wal_crd};
use tidemark_tests::{
    ApiServer,
    controller::{OperatorOptions, OperatorProcess, eventually, wal_yaml},
};

async fn install(server: &ApiServer, change: impl FnOnce(&mut Value)) {
    let mut crd = serde_json::to_value(wal_crd()).expect("it is JSON");
    crd["apiVersion"] = json!("apiextensions.k8s.io/v1");
    crd["kind"] = json!("CustomResourceDefinition");
    change(&mut crd);
    let api: Api<CustomResourceDefinition> = Api::all(server.client());
    let params = PatchParams::apply("test").force();
    api.patch("wals.tidemark.dev", &params, &Patch::Apply(&crd)).await.expect("it is installed");
}

fn spec_schema(crd: &mut Value) -> &mut Value {
    &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_definition_that_is_new_enough_it_says_what_to_do_and_then_works() {
    let server = ApiServer::start().await.expect("it starts");
    let options = OperatorOptions {
        kubeconfig: server.kubeconfig().to_owned(),
        image: "i".to_owned(),
        identity: "one".to_owned(),
        lease_namespace: "default".to_owned(),
        pod_port: 7280,
        flags: Vec::new(),
    };
    let operator = OperatorProcess::start(&options).await.expect("it starts");
    let unready = async |wanted: &str| {
        eventually(&format!("it is unready: {wanted}"), async || {
            let (status, text) = operator.get("/readyz").await?;
            Ok((status == 503 && text.contains(wanted)).then_some(text))
        })
        .await
        .expect("it says so")
    };
    let text = unready("is not installed").await;
    assert!(text.contains("helm upgrade") && operator.log().contains("kubectl apply"), "{text}");
    let (status, _) = operator.get("/healthz").await.expect("it answers");
    assert_eq!(status, 200, "it is alive and waits");
    install(&server, |crd| {
        spec_schema(crd).as_object_mut().expect("it has fields").remove("suspend");
    })
    .await;
    unready("lacks \".spec.suspend\"").await;
    install(&server, |_| ()).await;
    eventually("it is ready", async || Ok((operator.get("/readyz").await?.0 == 200).then_some(())))
        .await
        .expect("it is ready without a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_cannot_be_read_is_told_so_and_holds_up_nobody() {
    let server = ApiServer::start().await.expect("it starts");
    // A newer release knows one more deletion policy.
    install(&server, |crd| {
        let policies = spec_schema(crd)["deletionPolicy"]["enum"].as_array_mut().expect("it is an enum");
        policies.push(json!("Newer"));
    })
    .await;
    let options = OperatorOptions {
        kubeconfig: server.kubeconfig().to_owned(),
        image: "i".to_owned(),
        identity: "one".to_owned(),
        lease_namespace: "default".to_owned(),
        pod_port: 7280,
        flags: vec!["--purge-timeout=3s".to_owned()],
    };
    let operator = OperatorProcess::start(&options).await.expect("it starts");
    let newer = wal_yaml("default", "newer", "deletionPolicy: Newer");
    eventually("the CRD is served", async || Ok(server.apply(&newer).await.ok())).await.expect("it is created");
    server.apply(&wal_yaml("default", "plain", "")).await.expect("it is created");
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    let message = async |name: &'static str| {
        eventually(&format!("\"{name}\" has a condition"), async || {
            Ok(Some(server.kubectl(["get", "wal", name, "-o", path]).await?).filter(|message| !message.is_empty()))
        })
        .await
        .expect("it has one")
    };
    assert!(message("newer").await.contains("cannot be read"));
    assert_eq!(message("plain").await, "the indexer starts");
    let invalid = operator.metric("tidemark_operator_invalid_objects_total", &[]).await.expect("it counts");
    assert!(invalid >= 1.0);
    // Nobody knows what to remove of it, and nobody may be kept from deleting it for ever.
    let finalizer = format!("{{\"metadata\":{{\"finalizers\":[\"{FINALIZER_PURGE}\"]}}}}");
    server.kubectl(["patch", "wal", "newer", "--type=merge", "-p", &finalizer]).await.expect("it is patched");
    server.kubectl(["delete", "wal", "newer", "--wait=false"]).await.expect("it is deleted");
    eventually("it goes", async || Ok(server.kubectl(["get", "wal", "newer"]).await.is_err().then_some(())))
        .await
        .expect("nothing holds it");
    let abandoned = operator.metric("tidemark_operator_purges_abandoned_total", &[]).await.expect("it counts");
    assert!(abandoned >= 1.0);
}
