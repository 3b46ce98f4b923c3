//! The API server that controller tests stand on.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use tidemark_tests::ApiServer;

use crate::cluster_owner::ClusterOwner;

fn map(name: &str, owner: Option<&ConfigMap>) -> ConfigMap {
    let owner = owner.map(|owner| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: owner.name_any(),
        uid: owner.uid().expect("it is stored"),
        ..OwnerReference::default()
    });
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    ConfigMap { metadata, data: Some(BTreeMap::from([("key".to_owned(), name.to_owned())])), ..ConfigMap::default() }
}

#[tokio::test]
async fn two_servers_at_once_know_nothing_of_each_other() {
    let (one, two) = tokio::join!(ApiServer::start(), ApiServer::start());
    let (one, two) = (one.expect("it starts"), two.expect("it starts"));
    let maps = Api::<ConfigMap>::namespaced(one.client(), "default");
    maps.create(&PostParams::default(), &map("mine", None)).await.expect("it is created");
    let printed =
        one.kubectl(["get", "configmap", "mine", "-o", "jsonpath={.data.key}"]).await.expect("kubectl answers");
    assert_eq!(printed, "mine");
    let missing = two.kubectl(["get", "configmap", "mine"]).await.expect_err("the other has none");
    assert!(missing.to_string().contains("NotFound"), "{missing}");
}

#[tokio::test]
async fn the_version_and_the_pod_security_levels_are_real() {
    let server = ApiServer::start().await.expect("it starts");
    let version = server.client().apiserver_version().await.expect("it answers");
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "34"));
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}}")
        .await
        .expect("the namespace is created");
    server
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: strict}}")
        .await
        .expect("ok");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: strict}, spec: {hostNetwork: true, containers: [{name: c, image: i}]}}";
    let refused = server.apply(pod).await.expect_err("it is privileged");
    assert!(refused.to_string().contains("violates PodSecurity"), "{refused}");
}

#[tokio::test]
async fn the_controllers_collect_what_lost_its_owner() {
    let server = ApiServer::shared().await.expect("it starts");
    let maps = Api::<ConfigMap>::namespaced(server.client(), "default");
    let owner = maps.create(&PostParams::default(), &map("owner", None)).await.expect("it is created");
    maps.create(&PostParams::default(), &map("owned", Some(&owner))).await.expect("it is created");
    maps.delete("owner", &DeleteParams::default()).await.expect("it is deleted");
    let gone = async {
        while maps.get_opt("owned").await.expect("it answers").is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), gone).await.expect("the orphan is collected");
}

#[tokio::test]
async fn a_stopped_server_comes_back_with_what_it_knew() {
    let mut server = ApiServer::start().await.expect("it starts");
    let maps = Api::<ConfigMap>::namespaced(server.client(), "default");
    maps.create(&PostParams::default(), &map("kept", None)).await.expect("it is created");
    server.stop_server();
    assert!(maps.get("kept").await.is_err(), "nobody answers");
    server.start_server().await.expect("it starts again");
    maps.get("kept").await.expect("it is still there");
}

#[tokio::test]
async fn nothing_stays_when_the_owner_is_killed() {
    let mut owner = ClusterOwner::start(&["--api-server"]).await;
    owner.kubectl(&["get", "--raw", "/readyz"], "").await;
    assert!(owner.traces().iter().any(|trace| trace.contains("kube-apiserver")), "{:?}", owner.traces());
    owner.kill().await;
    until_gone(&owner).await;
}

#[tokio::test]
async fn nothing_stays_after_ctrl_c() {
    let mut owner = ClusterOwner::start(&["--api-server"]).await;
    owner.interrupt().await;
    until_gone(&owner).await;
}

async fn until_gone(owner: &ClusterOwner) {
    let gone = async {
        while !owner.traces().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_mins(1), gone).await.is_ok(), "left: {:?}", owner.traces());
}
