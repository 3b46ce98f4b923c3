//! What accounts and pods may do.

use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tidemark_tests::cluster::{Cluster, product::OPERATOR_NAMESPACE};

use super::setup::{HEALTHY, cluster, pods};

/// What the operator may do with objects of each namespace, without what every account may.
const OPERATOR: [&str; 22] = [
    "configmaps [create delete get list patch watch]",
    "customresourcedefinitions.apiextensions.k8s.io wals.tidemark.dev [get]",
    "customresourcedefinitions.apiextensions.k8s.io walsinks.tidemark.dev [get]",
    "customresourcedefinitions.apiextensions.k8s.io waltasks.tidemark.dev [get]",
    "deployments.apps [create delete get list patch watch]",
    "events.events.k8s.io [create]",
    "jobs.batch [create delete get list watch]",
    "namespaces [get]",
    "networkpolicies.networking.k8s.io [create delete get list patch watch]",
    "poddisruptionbudgets.policy [create delete get list patch watch]",
    "pods [get list watch]",
    "serviceaccounts [create delete get list patch watch]",
    "services [create delete get list patch watch]",
    "wals.tidemark.dev [get list patch watch]",
    "wals.tidemark.dev/finalizers [update]",
    "wals.tidemark.dev/status [patch]",
    "walsinks.tidemark.dev [get list watch]",
    "walsinks.tidemark.dev/finalizers [update]",
    "walsinks.tidemark.dev/status [patch]",
    "waltasks.tidemark.dev [create delete get list watch]",
    "waltasks.tidemark.dev/finalizers [update]",
    "waltasks.tidemark.dev/status [patch]",
];

/// What `kubectl auth can-i --list` says of an account, in one form: `resource names [verbs]`.
async fn rights(cluster: &Cluster, account: &str, namespace: &str) -> Vec<String> {
    let account = format!("--as=system:serviceaccount:{account}");
    let words = ["auth", "can-i", "--list", "--no-headers", &account, "-n", namespace];
    let listed = cluster.kubectl(words).await.expect("the API server answers");
    let lines = listed.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let mut rights: Vec<String> = lines.filter(|line| !line.starts_with("selfsubject")).map(right).collect();
    rights.sort_unstable();
    rights
}

/// `resource [paths] [names] [verbs]`.
fn right(line: &str) -> String {
    let (resource, rest) = line.split_once(' ').expect("a resource and brackets");
    let mut brackets = rest.split('[').skip(2).map(|part| part.split(']').next().unwrap_or_default().trim());
    let (names, verbs) = (brackets.next().unwrap_or_default(), brackets.next().unwrap_or_default());
    let mut verbs: Vec<&str> = verbs.split(' ').collect();
    verbs.sort_unstable();
    let names = if names.is_empty() { String::new() } else { format!(" {names}") };
    format!("{resource}{names} [{}]", verbs.join(" "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn accounts_may_do_what_is_listed_and_read_no_secrets() {
    let cluster = cluster().await;
    let operator = format!("{OPERATOR_NAMESPACE}:tidemark-operator");
    assert_eq!(rights(cluster, &operator, HEALTHY).await, OPERATOR);
    let mut at_home: Vec<&str> = OPERATOR.to_vec();
    at_home
        .extend(["leases.coordination.k8s.io [create]", "leases.coordination.k8s.io tidemark-operator [get update]"]);
    at_home.sort_unstable();
    assert_eq!(rights(cluster, &operator, OPERATOR_NAMESPACE).await, at_home);
    for account in ["healthy-cleanup", "healthy-indexer", "healthy-jobs", "healthy-search"] {
        cluster.kubectl(["get", "serviceaccount", account, "-n", HEALTHY]).await.expect("it is there");
        assert_eq!(rights(cluster, &format!("{HEALTHY}:{account}"), HEALTHY).await, [""; 0]);
    }
    // Not only by the list: asked as the operator, the API server refuses.
    let account = format!("--as=system:serviceaccount:{operator}");
    for words in [["get", "secret", "store"], ["get", "secrets", "--ignore-not-found"]] {
        let asked = [&words[..], &["-n", HEALTHY, &account]].concat();
        let refused = cluster.kubectl(asked).await.expect_err("it is forbidden").to_string();
        assert!(refused.contains("Forbidden"), "{refused}");
    }
    let refused = cluster.kubectl(["get", "secrets", "-A", &account]).await.expect_err("it is forbidden").to_string();
    assert!(refused.contains("Forbidden"), "{refused}");
}

/// No volume, no mount and no switch gives the pod a token of the API server.
fn has_no_token(pod: &Pod) {
    let spec = pod.spec.as_ref().expect("it has a spec");
    assert_eq!(spec.automount_service_account_token, Some(false), "{}", pod.name_any());
    let volumes = spec.volumes.iter().flatten();
    for source in volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten() {
        assert!(source.service_account_token.is_none(), "{}: {source:?}", pod.name_any());
    }
    for mount in spec.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten()) {
        assert!(!mount.mount_path.starts_with("/var/run/secrets"), "{}: {mount:?}", pod.name_any());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn data_pods_are_restricted_without_a_token_and_behind_policies() {
    let cluster = cluster().await;
    let found = pods(cluster, HEALTHY).await;
    assert!(found.len() >= 2, "the indexer and search run");
    found.iter().for_each(has_no_token);
    let privileged = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": HEALTHY},
        "spec": {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": true}}]},
    });
    let refused = cluster.apply(&privileged.to_string()).await.expect_err("the namespace enforces it").to_string();
    assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");

    // The network plugin of the tests enforces no policy: they are looked at, not tried.
    println!("network policies are there and say what they must; nothing enforces them here");
    let api = Api::<NetworkPolicy>::namespaced(cluster.client(), HEALTHY);
    for (name, peers) in [("healthy-indexer", 1), ("healthy-search", 2)] {
        let policy: Value = serde_json::to_value(api.get(name).await.expect("it is there").spec).expect("it is JSON");
        assert_eq!(policy["policyTypes"], json!(["Ingress"]));
        let ingress = &policy["ingress"][0];
        assert_eq!(ingress["ports"], json!([{"port": 7280, "protocol": "TCP"}]));
        assert_eq!(ingress["from"].as_array().map(Vec::len), Some(peers), "{ingress}");
        let operator = &ingress["from"][0];
        let namespace = &operator["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
        assert_eq!(namespace, OPERATOR_NAMESPACE);
        let pods = &operator["podSelector"]["matchLabels"]["app.kubernetes.io/name"];
        assert_eq!(pods, "tidemark-operator");
        if peers == 2 {
            assert_eq!(ingress["from"][1], json!({"podSelector": {}}), "its own namespace");
        }
    }
}
