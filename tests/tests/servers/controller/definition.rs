//! The CRD that the operator finds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use tidemark_crds::{
    ConditionType, Wal, WalStatus, condition, names::FINALIZER_PURGE, wal_crd, wal_sink_crd, wal_task_crd,
};
use tidemark_tests::{
    ApiServer,
    controller::{OperatorOptions, OperatorProcess, eventually, wal_yaml},
};

/// Installs the definition of `WAL` with a change, and those of the other kinds.
async fn install(server: &ApiServer, change: impl FnOnce(&mut Value)) {
    let mut wal = serde_json::to_value(wal_crd()).expect("it is JSON");
    change(&mut wal);
    let api: Api<CustomResourceDefinition> = Api::all(server.client());
    let params = PatchParams::apply("test").force();
    let tasks = serde_json::to_value(wal_task_crd()).expect("it is JSON");
    let sinks = serde_json::to_value(wal_sink_crd()).expect("it is JSON");
    for (name, mut crd) in
        [("wals.tidemark.dev", wal), ("waltasks.tidemark.dev", tasks), ("walsinks.tidemark.dev", sinks)]
    {
        crd["apiVersion"] = json!("apiextensions.k8s.io/v1");
        crd["kind"] = json!("CustomResourceDefinition");
        api.patch(name, &params, &Patch::Apply(&crd)).await.expect("it is installed");
    }
}

fn spec_schema(crd: &mut Value) -> &mut Value {
    &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
}

/// A newer release knows one more deletion policy.
fn with_newer_policy(crd: &mut Value) {
    let policies = spec_schema(crd)["deletionPolicy"]["enum"].as_array_mut().expect("it is an enum");
    policies.push(json!("Newer"));
}

/// An operator of the cluster, whose pods do not run.
async fn operator(server: &ApiServer, flags: &[&str]) -> OperatorProcess {
    operator_of("i", server, flags).await
}

/// One of the release that this image makes.
async fn operator_of(image: &str, server: &ApiServer, flags: &[&str]) -> OperatorProcess {
    let options = OperatorOptions {
        kubeconfig: server.kubeconfig().to_owned(),
        image: image.to_owned(),
        identity: "one".to_owned(),
        lease_namespace: "default".to_owned(),
        pod_port: 7280,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    OperatorProcess::start(&options).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_definition_that_is_new_enough_it_says_what_to_do_and_then_works() {
    let server = ApiServer::start().await.expect("it starts");
    let operator = operator(&server, &[]).await;
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
async fn a_wal_that_cannot_be_read_is_reported_and_delays_no_other() {
    let server = ApiServer::start().await.expect("it starts");
    install(&server, with_newer_policy).await;
    let operator = operator(&server, &["--purge-timeout=3s"]).await;
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
    // What to remove of it is not known, and its deletion must not wait without end.
    let finalizer = format!("{{\"metadata\":{{\"finalizers\":[\"{FINALIZER_PURGE}\"]}}}}");
    server.kubectl(["patch", "wal", "newer", "--type=merge", "-p", &finalizer]).await.expect("it is patched");
    server.kubectl(["delete", "wal", "newer", "--wait=false"]).await.expect("it is deleted");
    eventually("it goes", async || Ok(server.kubectl(["get", "wal", "newer"]).await.is_err().then_some(())))
        .await
        .expect("nothing holds it");
    let abandoned = operator.metric("tidemark_operator_purges_abandoned_total", &[]).await.expect("it counts");
    assert!(abandoned >= 1.0);
}

/// Waits until `Ready` of a WAL, which may be unreadable, has this reason and speaks of the present spec, and gives its status.
async fn status_with(server: &ApiServer, name: &str, reason: &str) -> WalStatus {
    let wals: Api<DynamicObject> = Api::namespaced_with(server.client(), "default", &ApiResource::erase::<Wal>(&()));
    eventually(&format!("Ready of \"{name}\" is {reason}"), async || {
        let found = wals.get(name).await?;
        let status: WalStatus = serde_json::from_value(found.data["status"].clone())?;
        let ready = condition(&status.conditions, ConditionType::Ready).filter(|ready| ready.reason == reason);
        let is_of_this = status.observed_generation == found.metadata.generation;
        Ok(ready.is_some_and(|_| is_of_this).then_some(status))
    })
    .await
    .expect("it says so")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_wal_that_cannot_be_read_is_whole_and_goes_with_its_cause() {
    let server = ApiServer::start().await.expect("it starts");
    install(&server, with_newer_policy).await;
    let plain = wal_yaml("default", "orders", "");
    eventually("the CRD is served", async || Ok(server.apply(&plain).await.ok())).await.expect("it is created");
    let _operator = operator(&server, &[]).await;
    let is_there = |status: &WalStatus, kind| condition(&status.conditions, kind).map(|found| found.reason.clone());
    let status = status_with(&server, "orders", "Starting").await;
    assert_eq!(is_there(&status, ConditionType::Reconciling).as_deref(), Some("RollingOut"));
    let change = async |policy: &str| {
        let patch = format!("{{\"spec\":{{\"deletionPolicy\":\"{policy}\"}}}}");
        server.kubectl(["patch", "wal", "orders", "--type=merge", "-p", &patch]).await.expect("it is patched");
    };
    change("Newer").await;
    let status = status_with(&server, "orders", "SpecInvalid").await;
    assert_eq!(is_there(&status, ConditionType::Stalled).as_deref(), Some("SpecInvalid"));
    assert_eq!(is_there(&status, ConditionType::Reconciling), None);
    assert_eq!(
        is_there(&status, ConditionType::Applied).as_deref(),
        Some("SpecInvalid"),
        "the pods are of another spec"
    );
    assert_eq!(is_there(&status, ConditionType::UpgradePending).as_deref(), Some("UpToDate"), "what was known stays");
    assert!(status.search.is_some(), "what was known stays");
    change("Retain").await;
    let status = status_with(&server, "orders", "Starting").await;
    assert_eq!(is_there(&status, ConditionType::Stalled), None);
    assert_eq!(is_there(&status, ConditionType::Reconciling).as_deref(), Some("RollingOut"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_with_a_field_of_another_type_is_reported_though_nothing_can_be_applied_to_it() {
    let server = ApiServer::start().await.expect("it starts");
    install(&server, |crd| spec_schema(crd)["suspend"] = json!({"type": "string", "maxLength": 8})).await;
    let older = wal_yaml("default", "older", "suspend: 'yes'");
    eventually("the CRD is served", async || Ok(server.apply(&older).await.ok())).await.expect("it is created");
    install(&server, |_| ()).await;
    let other = wal_yaml("default", "other", "suspend: 'yes'");
    let dry_run = ["apply", "--server-side", "--dry-run=server", "--validate=false", "-f", "-"];
    eventually("the definition is in force", async || {
        Ok(server
            .kubectl_command()
            .run_with(dry_run, &other)
            .await
            .is_err_and(|e| e.to_string().contains("suspend"))
            .then_some(()))
    })
    .await
    .expect("it is");
    let operator = operator(&server, &[]).await;
    let status = status_with(&server, "older", "SpecInvalid").await;
    let ready = condition(&status.conditions, ConditionType::Ready).expect("it is there");
    let wanted = "the WAL cannot be read: spec.suspend: invalid type: string \"yes\", expected a boolean; ";
    assert!(ready.message.starts_with(wanted), "{}", ready.message);
    server.apply(&wal_yaml("default", "plain", "")).await.expect("it is created");
    status_with(&server, "plain", "Starting").await;
    let log = operator.log();
    assert!(!log.lines().any(|line| line.contains("reconciliation failed") && line.contains("older")), "{log}");
}

/// Waits until `UpgradePending` of a WAL, which may be unreadable, has this reason, and gives its message.
async fn upgrade_of(server: &ApiServer, name: &str, reason: &str) -> String {
    let wals: Api<DynamicObject> = Api::namespaced_with(server.client(), "default", &ApiResource::erase::<Wal>(&()));
    eventually(&format!("UpgradePending of \"{name}\" is {reason}"), async || {
        let status: WalStatus = serde_json::from_value(wals.get(name).await?.data["status"].clone())?;
        let pending = condition(&status.conditions, ConditionType::UpgradePending).cloned();
        Ok(pending.filter(|pending| pending.reason == reason).map(|pending| pending.message))
    })
    .await
    .expect("it is")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_is_unreadable_or_held_by_a_finalizer_gives_its_upgrade_slot_to_the_next() {
    let server = ApiServer::start().await.expect("it starts");
    install(&server, with_newer_policy).await;
    let first = wal_yaml("default", "first", "");
    eventually("the CRD is served", async || Ok(server.apply(&first).await.ok())).await.expect("it is created");
    for name in ["second", "third"] {
        server.apply(&wal_yaml("default", name, "")).await.expect("it is created");
    }
    let old = operator(&server, &[]).await;
    for name in ["first", "second", "third"] {
        upgrade_of(&server, name, "UpToDate").await;
    }
    old.kill();
    // Its pods never become ready: a WAL that is under way stays so.
    let _operator = operator_of("newer", &server, &[]).await;
    let message = upgrade_of(&server, "first", "NewRelease").await;
    let (_, revision) = message.rsplit_once("approve-upgrade=").expect("the message names the command");
    let revision = format!("tidemark.dev/approve-upgrade={}", revision.trim_end_matches('"'));
    let approve = async |name| {
        server.kubectl(["annotate", "wal", name, &revision]).await.expect("it is approved");
    };
    approve("first").await;
    upgrade_of(&server, "first", "Upgrading").await;
    for name in ["second", "third"] {
        approve(name).await;
        eventually("it waits in line", async || {
            let message = upgrade_of(&server, name, "NewRelease").await;
            Ok(message.contains("until other WALs are done").then_some(()))
        })
        .await
        .expect("it waits");
    }
    let newer = "{\"spec\":{\"deletionPolicy\":\"Newer\"}}";
    server.kubectl(["patch", "wal", "first", "--type=merge", "-p", newer]).await.expect("it is patched");
    let message = upgrade_of(&server, "first", "UpgradeStalled").await;
    assert!(message.contains("cannot read the WAL"), "{message}");
    upgrade_of(&server, "second", "Upgrading").await;
    upgrade_of(&server, "third", "NewRelease").await;
    let theirs = "{\"metadata\":{\"finalizers\":[\"example.com/theirs\"]}}";
    server.kubectl(["patch", "wal", "second", "--type=merge", "-p", theirs]).await.expect("it is patched");
    server.kubectl(["delete", "wal", "second", "--wait=false"]).await.expect("it is deleted");
    upgrade_of(&server, "third", "Upgrading").await;
}
