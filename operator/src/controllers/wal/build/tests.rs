//! The children, literally, and what holds for every one of them.

use k8s_openapi::api::{apps::v1::Deployment, networking::v1::NetworkPolicy};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemark_crds::Wal;

use super::*;
use crate::controllers::wal::validate::{ValidatedWal, validate};

fn platform() -> PlatformSettings {
    PlatformSettings {
        image: "tidemark.dev/tidemark:0.1.0".to_owned(),
        image_pull_policy: None,
        operator_namespace: "tidemark-system".to_owned(),
    }
}

fn spec() -> Value {
    json!({
        "storage": {
            "endpoint": "https://s3.corp", "region": "r", "caRef": {"name": "corp-ca"},
            "credentials": {"type": "Secret", "secretRef": {"name": "orders-s3"}},
        },
        "log": {"url": "s3://wal/orders", "expiry": "60m"},
        "metadata": {"urls": ["s3://meta", "s3://vmeta"]},
        "index": {"url": "s3://idx/orders"},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = spec();
    change(&mut spec);
    spec
}

fn wal(spec: &Value) -> ValidatedWal {
    let mut wal: Wal = serde_json::from_value(json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
        "metadata": {"name": "orders", "namespace": "data", "uid": "u1", "generation": 1},
        "spec": spec,
    }))
    .unwrap();
    if wal.spec.deletion_policy == tidemark_crds::DeletionPolicy::Purge {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        wal.metadata.deletion_timestamp = Some(now);
    }
    validate(&wal, "c1").unwrap()
}

fn built(spec: &Value) -> WalChildren {
    build(&wal(spec), &platform(), "0123456789")
}

/// Every child as JSON, with its kind.
fn all(children: &WalChildren) -> Vec<(String, Value)> {
    let objects = children.objects().unwrap();
    objects.into_iter().map(|object| (object["kind"].as_str().unwrap().to_owned(), object)).collect()
}

fn pod(deployment: &Deployment) -> Value {
    serde_json::to_value(deployment).unwrap()["spec"]["template"].clone()
}

/// The variables of a Deployment's container as `NAME=value`.
fn environment(deployment: &Deployment) -> Vec<String> {
    let pod = pod(deployment);
    let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    let text = |variable: &Value| match variable["value"].as_str() {
        Some(value) => format!("{}={value}", variable["name"].as_str().unwrap()),
        None => format!("{}<{}", variable["name"].as_str().unwrap(), variable["valueFrom"]["fieldRef"]["fieldPath"]),
    };
    variables.iter().map(text).collect()
}

#[test]
fn the_indexer_is_configured_by_its_environment() {
    let mut spec = spec();
    spec["storage"]["account"] = "acct".into();
    let children = built(&spec);
    let store = r#"{"endpoint":"https://s3.corp","region":"r","account":"acct","caFile":"/etc/tidemark/ca/storage/ca.crt","credentialsDir":"/etc/tidemark/credentials/storage"}"#;
    assert_eq!(
        environment(&children.indexer_deployment),
        [
            "TIDEMARK_LOG=s3://wal/orders",
            "TIDEMARK_METADATA=s3://meta,s3://vmeta",
            "TIDEMARK_INDEX=s3://idx/orders",
            &format!(r#"TIDEMARK_STORES={{"log":{store},"metadata":{store},"index":{store}}}"#),
            "TIDEMARK_LISTEN=0.0.0.0:7280",
            "TIDEMARK_CACHE_DIR=/var/cache/tidemark/segments",
            "TIDEMARK_CACHE_MIB=7168",
            "TIDEMARK_WAIT=true",
            "TIDEMARK_IDENTITY<\"metadata.uid\"",
            "TIDEMARK_EXPIRY=3600s",
            "TIDEMARK_SIGNER_CLOCK_LEAD=0s",
            "TIDEMARK_REQUEST_TIMEOUT=60s",
            "TIDEMARK_VISIBILITY_DELAY=10s",
            "TIDEMARK_AUDIT_WINDOW=86400s",
            "TIDEMARK_MAX_ENTRY_SIZE=1048576",
            "TIDEMARK_MAX_DESCRIPTOR_SIZE=16777216",
            "TIDEMARK_CLOCK_TOLERANCE=1s",
            "TIDEMARK_IDEMPOTENCY_RETENTION=forever",
            "TIDEMARK_OWNER=k8s:c1/data/orders/u1",
            "TIDEMARK_CONTROL_DIR=/etc/tidemark/control",
            "TIDEMARK_NO_SEARCH=true",
        ]
    );
}

#[test]
fn the_indexer_learns_how_long_keys_count() {
    let variable = "TIDEMARK_IDEMPOTENCY_RETENTION=172800s".to_owned();
    let children = built(&with(|spec| spec["log"]["idempotencyRetention"] = json!("48h")));
    assert!(environment(&children.indexer_deployment).contains(&variable));
    assert!(!environment(&children.search_deployment).contains(&variable));
}

#[test]
fn both_roles_learn_where_a_moved_log_was() {
    let children = built(&with(|spec| spec["log"]["movedFrom"] = json!("s3://old?endpoint=https://s3.corp")));
    for deployment in [&children.indexer_deployment, &children.search_deployment] {
        let variables = environment(deployment);
        assert!(variables.contains(&"TIDEMARK_MOVED_FROM=s3://old?endpoint=https://s3.corp".to_owned()));
    }
    assert!(!environment(&built(&spec()).search_deployment).iter().any(|variable| variable.contains("MOVED")));
}

#[test]
fn search_gets_the_token_and_neither_owner_nor_parameters() {
    let spec = with(|spec| spec["search"] = json!({"auth": {"type": "Token", "secretRef": {"name": "token"}}}));
    let children = built(&spec);
    let variables = environment(&children.search_deployment);
    assert!(variables.contains(&"TIDEMARK_AUTH_TOKEN_FILE=/etc/tidemark/auth/token".to_owned()));
    let indexers = ["TIDEMARK_OWNER", "TIDEMARK_EXPIRY", "TIDEMARK_MAX_ENTRY_SIZE", "TIDEMARK_CONTROL_DIR"];
    assert!(!variables.iter().any(|variable| indexers.iter().any(|name| variable.starts_with(name))), "{variables:?}");
    assert!(!environment(&children.indexer_deployment).iter().any(|variable| variable.contains("AUTH")));
}

#[test]
fn search_learns_whose_pages_may_read_answers() {
    let origins = json!({"cors": {"allowOrigins": ["https://a.example.org", "http://127.0.0.1:8080"]}});
    let children = built(&with(|spec| spec["search"] = origins));
    let wanted = "TIDEMARK_CORS_ORIGIN=https://a.example.org,http://127.0.0.1:8080".to_owned();
    assert!(environment(&children.search_deployment).contains(&wanted));
    for deployment in [&children.indexer_deployment, &built(&spec()).search_deployment] {
        assert!(!environment(deployment).iter().any(|variable| variable.contains("CORS")));
    }
}

#[test]
fn only_the_indexer_learns_what_the_index_is_begun_with() {
    let begun = |bootstrap: Value| {
        let children = built(&with(|spec| spec["bootstrap"] = bootstrap));
        let of = |deployment| {
            let variables = environment(deployment).into_iter();
            variables.filter(|variable| variable.contains("BOOTSTRAP")).collect::<Vec<_>>()
        };
        assert!(of(&children.search_deployment).is_empty());
        of(&children.indexer_deployment)
    };
    let from = "TIDEMARK_BOOTSTRAP_FROM=s3://copies/orders";
    assert_eq!(begun(json!({"fromURL": "s3://copies/orders"})), [from]);
    assert_eq!(
        begun(json!({"fromURL": "s3://copies/orders", "time": "2026-11-20T11:00:00+01:00"})),
        [from, "TIDEMARK_BOOTSTRAP_TIME=2026-11-20T10:00:00Z"]
    );
}

#[test]
fn a_place_of_its_own_gets_keys_of_its_own() {
    let own = json!({"credentials": {"type": "Secret", "secretRef": {"name": "other"}}});
    let children = built(&with(|spec| spec["index"]["storage"] = own));
    let pod = pod(&children.indexer_deployment);
    let volume = |name: &str| {
        pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name).cloned().unwrap()
    };
    let secret = |name: &str| json!({"secretName": name, "optional": true, "defaultMode": 0o440});
    assert_eq!(volume("credentials-storage")["secret"], secret("orders-s3"));
    assert_eq!(volume("credentials-index")["secret"], secret("other"));
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let mounted = |mount: &&Value| mount["mountPath"] == "/etc/tidemark/credentials/index";
    assert_eq!(mounts.iter().filter(mounted).count(), 1);
    assert!(mounts.iter().all(|mount| mount.get("subPath").is_none()));
}

#[test]
fn replicas_follow_the_spec() {
    let replicas = |spec: Value| {
        let children = built(&spec);
        let of = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas.unwrap();
        let budget = children.search_pdb.is_some();
        (of(&children.indexer_deployment), of(&children.search_deployment), budget)
    };
    assert_eq!(replicas(spec()), (1, 1, false));
    assert_eq!(replicas(with(|spec| spec["search"] = json!({"replicas": 3}))), (1, 3, true));
    assert_eq!(replicas(with(|spec| spec["search"] = json!({"replicas": 0}))), (1, 0, false));
    assert_eq!(replicas(with(|spec| spec["suspend"] = json!(true))), (0, 1, false));
    let purged = with(|spec| {
        spec["deletionPolicy"] = json!("Purge");
        spec["suspend"] = json!(true);
        spec["search"] = json!({"replicas": 3});
    });
    assert_eq!(replicas(purged), (1, 0, false));
}

#[test]
fn a_purge_is_asked_for_by_uid() {
    assert_eq!(built(&spec()).control_config_map.data, None);
    let purged = built(&with(|spec| spec["deletionPolicy"] = json!("Purge")));
    assert_eq!(purged.control_config_map.data, Some([("purge".to_owned(), "u1".to_owned())].into()));
}

#[test]
fn the_network_policies_let_in_whom_they_should() {
    let spec = with(|spec| spec["search"] = json!({"allowFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}));
    let children = built(&spec);
    let ingress = |policy: &NetworkPolicy| serde_json::to_value(policy).unwrap()["spec"]["ingress"].clone();
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tidemark-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "tidemark-operator"}},
    });
    let ports = json!([{"port": 7280, "protocol": "TCP"}]);
    assert_eq!(ingress(&children.indexer_network_policy), json!([{"from": [operator], "ports": ports}]));
    let peers = json!([operator, {"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]);
    assert_eq!(ingress(&children.search_network_policy), json!([{"from": peers, "ports": ports}]));
    // Jobs listen to nothing.
    let jobs = serde_json::to_value(&children.jobs_network_policy).unwrap();
    let selector = json!({"matchLabels": {
        "app.kubernetes.io/component": "jobs", "app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "tidemark",
    }});
    assert_eq!(jobs["spec"], json!({"podSelector": selector, "policyTypes": ["Ingress"]}));
    assert_eq!(jobs["metadata"]["name"], "orders-jobs");
}

#[test]
fn a_search_pod_that_stops_answers_on_for_at_most_half_of_its_grace_period() {
    let sleeps = |template: Value| {
        let pod = pod(&built(&with(|spec| spec["search"] = json!({"podTemplate": template}))).search_deployment);
        pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].clone()
    };
    assert_eq!(sleeps(json!({})), 10);
    for (grace, sleep) in [(1, 1), (2, 1), (9, 4), (30, 10), (3600, 10)] {
        assert_eq!(sleeps(json!({"spec": {"terminationGracePeriodSeconds": grace}})), sleep, "of {grace} seconds");
    }
}

/// The scheduler ignores nodes that lack the label of any constraint, so that zones must not be one: a cluster may have none.
#[test]
fn search_pods_spread_over_nodes_and_where_there_are_zones_over_zones() {
    let spread = |template: Value| {
        let pod = pod(&built(&with(|spec| spec["search"] = json!({"podTemplate": template}))).search_deployment);
        let constraints = pod["spec"]["topologySpreadConstraints"].as_array().cloned().unwrap_or_default();
        let keys: Vec<_> = constraints.iter().map(|constraint| constraint["topologyKey"].clone()).collect();
        (keys, pod["spec"]["affinity"].clone())
    };
    let (keys, affinity) = spread(json!({}));
    assert_eq!(keys, ["kubernetes.io/hostname"]);
    let term = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    assert_eq!(term["topologyKey"], "topology.kubernetes.io/zone");
    assert_eq!(term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"], "search");
    let wish = json!({"nodeAffinity": {}});
    let (keys, affinity) = spread(json!({"spec": {"affinity": wish}}));
    assert_eq!((keys.len(), affinity), (1, wish));
}

#[test]
fn a_pod_template_is_merged_and_our_labels_win() {
    let template = json!({
        "metadata": {"labels": {"team": "data"}, "annotations": {"note": "x"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "terminationGracePeriodSeconds": 90,
            "topologySpreadConstraints": [],
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"name": "RUST_BACKTRACE", "value": "1"}], "resources": {"limits": {"memory": "1Gi"}}}],
        },
    });
    let spec = with(|spec| {
        spec["search"] = json!({"podTemplate": template, "resources": {"limits": {"memory": "2Gi", "cpu": 1}}});
    });
    let pod = pod(&built(&spec).search_deployment);
    assert_eq!(pod["metadata"]["labels"]["team"], "data");
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/instance"], "orders");
    assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 90);
    assert_eq!((pod["spec"].get("topologySpreadConstraints"), pod["spec"].get("affinity")), (None, None));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"ephemeral-storage": "8256Mi"}})
    );
    assert_eq!(container["env"].as_array().unwrap().last().unwrap()["name"], "RUST_BACKTRACE");
}

/// The volume, the variable for the program, and what the scheduler is asked for.
fn disk(deployment: &Deployment) -> (Value, String, Value) {
    let pod = pod(deployment);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let mut volume = volumes.iter().find(|volume| volume["name"] == "cache").unwrap().clone();
    volume.as_object_mut().unwrap().remove("name");
    let bound =
        environment(deployment).into_iter().find(|variable| variable.starts_with("TIDEMARK_CACHE_MIB")).unwrap();
    (volume, bound, pod["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"].clone())
}

#[test]
fn each_role_has_the_disk_that_its_spec_asks_for() {
    let children = built(&with(|spec| spec["indexer"] = json!({"cache": {"size": "100Gi"}})));
    let (volume, bound, request) = disk(&children.indexer_deployment);
    assert_eq!(volume, json!({"emptyDir": {"sizeLimit": "100Gi"}}));
    assert_eq!((bound.as_str(), request), ("TIDEMARK_CACHE_MIB=89600", json!("102464Mi")));
    let (volume, bound, request) = disk(&children.search_deployment);
    assert_eq!(volume, json!({"emptyDir": {"sizeLimit": "8Gi"}}));
    assert_eq!((bound.as_str(), request), ("TIDEMARK_CACHE_MIB=7168", json!("8256Mi")));
}

#[test]
fn a_cache_with_a_claim_takes_nothing_of_the_node() {
    let claim = json!({"spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]}});
    let search = json!({"cache": {"size": "1025Mi", "volumeClaimTemplate": claim}});
    let children = built(&with(|spec| {
        spec["search"] = search;
        spec["indexer"] = json!({"cache": {"volumeClaimTemplate": {}}});
    }));
    let (volume, bound, request) = disk(&children.search_deployment);
    let spec = json!({
        "storageClassName": "fast", "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1025Mi"}},
    });
    assert_eq!(volume, json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}));
    assert_eq!((bound.as_str(), request), ("TIDEMARK_CACHE_MIB=896", json!("64Mi")));
    let (volume, ..) = disk(&children.indexer_deployment);
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}});
    assert_eq!(volume, json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}), "the default class");
}

#[test]
fn pods_that_want_an_identity_of_azure_are_labelled() {
    let spec = |credentials: Value| {
        json!({
            "storage": {"credentials": credentials},
            "log": {"url": "az://log/a", "expiry": "1h"},
            "metadata": {"urls": ["az://meta"]},
            "index": {"url": "az://index/a"},
            "indexer": {"serviceAccountAnnotations": {"azure.workload.identity/client-id": "id"}},
        })
    };
    let label = |children: &WalChildren| {
        pod(&children.indexer_deployment)["metadata"]["labels"][data_pod_plan::AZURE_IDENTITY].clone()
    };
    let children = built(&spec(json!({"type": "WorkloadIdentity"})));
    assert_eq!(label(&children), "true");
    let annotations = children.indexer_service_account.metadata.annotations.unwrap();
    assert_eq!(annotations["azure.workload.identity/client-id"], "id");
    assert_eq!(label(&built(&spec(json!({"type": "Secret", "secretRef": {"name": "s"}})))), Value::Null);
}

/// Clouds inject an identity when a pod is made.
/// The cloud gives rights to accounts: that of cleanups may have the right to delete from the log, and no other one need.
#[test]
fn the_accounts_of_jobs_and_of_cleanups_have_annotations_of_their_own() {
    let annotations = |changes: Value| {
        let spec = with(|spec| spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone()));
        let children = built(&spec);
        let accounts = [&children.jobs_service_account, &children.cleanup_service_account];
        accounts.map(|account| json!([account.metadata.name, account.metadata.annotations]))
    };
    let (jobs, cleanup) = (
        json!({"serviceAccountAnnotations": {"role": "works"}}),
        json!({"serviceAccountAnnotations": {"role": "deletes"}}),
    );
    let works = |name| json!([name, {"role": "works"}]);
    let nothing = json!(null);
    assert_eq!(annotations(json!({})), [json!(["orders-jobs", nothing]), json!(["orders-cleanup", nothing])]);
    assert_eq!(annotations(json!({"jobs": jobs})), [works("orders-jobs"), works("orders-cleanup")]);
    assert_eq!(
        annotations(json!({"jobs": jobs, "cleanup": cleanup})),
        [works("orders-jobs"), json!(["orders-cleanup", {"role": "deletes"}])]
    );
    assert_eq!(
        annotations(json!({"cleanup": cleanup})),
        [json!(["orders-jobs", nothing]), json!(["orders-cleanup", {"role": "deletes"}])]
    );
}

#[test]
fn another_annotation_of_the_service_account_replaces_the_pods_of_its_role_only() {
    let built =
        |role: &str| built(&with(|spec| spec["indexer"] = json!({"serviceAccountAnnotations": {"role-arn": role}})));
    let (one, two) = (built("one"), built("two"));
    assert_ne!(
        pod(&one.indexer_deployment)["metadata"]["annotations"],
        pod(&two.indexer_deployment)["metadata"]["annotations"]
    );
    assert_eq!(pod(&one.search_deployment), pod(&two.search_deployment));
}

#[test]
fn the_revision_follows_the_image_and_nothing_that_users_write() {
    let revision = release_revision(&platform());
    assert!(revision.len() == 10 && revision.bytes().all(|digit| digit.is_ascii_hexdigit()), "{revision}");
    assert_eq!(release_revision(&platform()), revision);
    assert_eq!(release_revision(&PlatformSettings { operator_namespace: "other".to_owned(), ..platform() }), revision);
    assert_ne!(release_revision(&PlatformSettings { image: "other".to_owned(), ..platform() }), revision);
    assert_eq!(pod_revision::samples().iter().filter(|wal| validate(wal, "c").is_ok()).count(), 2);
}

#[test]
fn only_the_indexer_reads_the_names_of_files_and_only_if_asked() {
    let variables = |spec: &Value| {
        let children = built(spec);
        [&children.indexer_deployment, &children.search_deployment]
            .map(|deployment| pod(deployment).to_string().contains("TIDEMARK_FILES"))
    };
    assert_eq!(variables(&spec()), [false, false]);
    assert_eq!(variables(&with(|spec| spec["index"]["files"] = json!(true))), [true, false]);
}

#[test]
fn the_release_is_on_the_deployments_and_not_on_their_pods() {
    let children = built(&spec());
    for deployment in [&children.search_deployment, &children.indexer_deployment] {
        let annotations = deployment.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["tidemark.dev/release"], "0123456789");
        assert_eq!(pod(deployment)["metadata"].get("annotations"), None);
    }
}

prop_compose! {
    fn any_spec()(
        replicas in 0..5, token: bool, suspend: bool, purge: bool, identity: bool, own: bool, compaction: bool, adopt: bool,
    ) -> Value {
        with(|spec| {
            if identity {
                spec["storage"]["credentials"] = json!({"type": "WorkloadIdentity"});
            }
            if own {
                spec["log"]["storage"] = json!({"credentials": {"type": "Secret", "secretRef": {"name": "own"}}});
            }
            let auth = if token { json!({"type": "Token", "secretRef": {"name": "t"}}) } else { json!({}) };
            spec["search"] = json!({"replicas": replicas, "auth": auth});
            spec["suspend"] = json!(suspend);
            spec["deletionPolicy"] = json!(if purge { "Purge" } else { "Retain" });
            spec["compaction"] = json!({"enabled": compaction});
            spec["adoptOwner"] = json!(if adopt { "uid" } else { "" });
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_child_is_found_by_its_labels_and_goes_with_its_owner(spec in any_spec()) {
        let children = built(&spec);
        let mut names = std::collections::BTreeSet::new();
        for (kind, child) in all(&children) {
            let metadata = &child["metadata"];
            prop_assert!(names.insert((kind.clone(), metadata["name"].as_str().unwrap().to_owned())), "two of {} {}", kind, metadata["name"]);
            prop_assert_eq!(&metadata["namespace"], "data");
            prop_assert_eq!(&metadata["labels"]["tidemark.dev/wal"], "orders");
            prop_assert_eq!(&metadata["labels"]["tidemark.dev/wal-uid"], "u1");
            prop_assert_eq!(&metadata["labels"]["app.kubernetes.io/managed-by"], "tidemark-operator");
            let owner = &metadata["ownerReferences"][0];
            prop_assert_eq!((&owner["uid"], &owner["kind"], &owner["controller"]), (&json!("u1"), &json!("WAL"), &json!(true)));
        }
    }

    #[test]
    fn every_pod_is_restricted_and_selected_by_its_own_policy_only(spec in any_spec()) {
        let children = built(&spec);
        for deployment in [&children.indexer_deployment, &children.search_deployment] {
            let pod = pod(deployment);
            prop_assert_eq!(&pod["spec"]["automountServiceAccountToken"], false);
            prop_assert_eq!(&pod["spec"]["enableServiceLinks"], false);
            prop_assert_eq!(&pod["spec"]["securityContext"]["runAsNonRoot"], true);
            prop_assert_eq!(&pod["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            let security = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            });
            prop_assert_eq!(&pod["spec"]["containers"][0]["securityContext"], &security);
            let labels = pod["metadata"]["labels"].as_object().unwrap();
            let selector = serde_json::to_value(deployment).unwrap()["spec"]["selector"]["matchLabels"].clone();
            prop_assert!(selector.as_object().unwrap().iter().all(|(name, value)| labels.get(name) == Some(value)));
            let WalChildren { indexer_network_policy, search_network_policy, jobs_network_policy, .. } = &children;
            let policies = [indexer_network_policy, search_network_policy, jobs_network_policy];
            let chosen = policies.iter().filter(|policy| {
                let policy = serde_json::to_value(policy).unwrap();
                let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap().clone();
                wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
            }).count();
            prop_assert_eq!(chosen, 1);
        }
    }

    /// Each mount has its volume and each volume its mount, each variable that names a folder a mount.
    #[test]
    fn what_is_named_is_mounted(spec in any_spec()) {
        let children = built(&spec);
        for deployment in [&children.indexer_deployment, &children.search_deployment] {
            let pod = pod(deployment);
            let column = |list: &Value, field: &str| -> Vec<String> {
                list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
            };
            let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
            prop_assert_eq!(column(mounts, "name"), column(&pod["spec"]["volumes"], "name"));
            let paths = column(mounts, "mountPath");
            for variable in environment(deployment) {
                for named in variable.split(['"', '=']).filter(|part| part.starts_with('/')) {
                    prop_assert!(paths.iter().any(|path| named.starts_with(path.as_str())), "{} is not mounted", named);
                }
            }
        }
    }
}
