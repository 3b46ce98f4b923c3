//! What a real API server says to the chart: each rendering, the rights that it gives, a whole life of a release.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tidemark_crds::KINDS;
use tidemark_tests::cluster::ApiServer;
use tokio::time::{Instant, sleep};

use super::helm::{HelmProgram, NAMESPACE, chart, objects, root, values_files};

/// How long the API server and its controllers may take for one step.
const PATIENCE: Duration = Duration::from_mins(2);
/// Groups whose definitions other projects bring.
const FOREIGN: [&str; 2] = ["monitoring.coreos.com/", "gateway.networking.k8s.io/"];

/// The namespaces of the examples and the definition of each kind.
pub(crate) async fn prepare(server: &ApiServer) {
    for namespace in [NAMESPACE, "team-a", "team-b", "data", "tidemark-demo"] {
        server.kubectl(["create", "namespace", namespace]).await.unwrap();
        // No controller makes it here, and a pod is refused without.
        server.kubectl(["create", "serviceaccount", "default", "-n", namespace]).await.unwrap();
    }
    for kind in KINDS {
        let definition = root().join("crds/generated").join(kind.file_name());
        server.kubectl(["create", "-f", definition.to_str().unwrap()]).await.unwrap();
    }
    established(server).await;
}

async fn established(server: &ApiServer) {
    for kind in KINDS {
        let definition = format!("crd/{}", kind.definition_name());
        let words = ["wait", &definition, "--for=condition=Established", "--timeout=60s"];
        server.kubectl(words).await.unwrap();
        // Discovery comes after that.
        let give_up = Instant::now() + PATIENCE;
        while let Err(error) = server.kubectl(["get", &kind.definition_name(), "-A"]).await {
            assert!(Instant::now() < give_up, "the kind is not served: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether the API server would take everything of `yaml` that it knows, without taking it.
pub(crate) async fn accepts(server: &ApiServer, yaml: &str) -> anyhow::Result<()> {
    let known = |object: &Value| !FOREIGN.iter().any(|group| object["apiVersion"].as_str().unwrap().starts_with(group));
    let known: Vec<Value> = objects(yaml).into_iter().filter(known).collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": known}).to_string();
    let words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    server.kubectl_command().run_with(words, &list).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_each_rendering() {
    let server = ApiServer::start().await.unwrap();
    prepare(&server).await;
    for file in values_files() {
        let yaml = HelmProgram::new().template(&["--values", file.to_str().unwrap()]).unwrap();
        accepts(&server, &yaml).await.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    let broken = HelmProgram::new().template(&[]).unwrap().replace("replicas: 2", "replicas: two");
    assert!(accepts(&server, &broken).await.is_err(), "a dry run refuses nothing");
}

/// What `account` may do in `namespace`, without what everybody may.
async fn rights(server: &ApiServer, account: &str, namespace: &str) -> Vec<String> {
    let account = format!("--as=system:serviceaccount:{account}");
    let listed = server.kubectl(["auth", "can-i", "--list", "--no-headers", &account, "-n", namespace]).await.unwrap();
    let mut rights: Vec<String> = listed
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.starts_with("selfsubject"))
        .map(|line| {
            let (resource, rest) = line.split_once(' ').unwrap();
            let mut brackets = rest.split('[').skip(1).map(|part| part.split(']').next().unwrap());
            let (_, names, verbs) = (brackets.next(), brackets.next().unwrap(), brackets.next().unwrap());
            let mut verbs: Vec<_> = verbs.split(' ').collect();
            verbs.sort_unstable();
            let names = if names.is_empty() { String::new() } else { format!(" {names}") };
            format!("{resource}{names}: {}", verbs.join(" "))
        })
        .collect();
    rights.sort_unstable();
    rights
}

const EVERYWHERE: [&str; 21] = [
    "configmaps: create delete get list patch watch",
    "customresourcedefinitions.apiextensions.k8s.io wals.tidemark.dev: get",
    "customresourcedefinitions.apiextensions.k8s.io walsinks.tidemark.dev: get",
    "customresourcedefinitions.apiextensions.k8s.io waltasks.tidemark.dev: get",
    "deployments.apps: create delete get list patch watch",
    "events.events.k8s.io: create",
    "jobs.batch: create delete get list watch",
    "namespaces: get",
    "networkpolicies.networking.k8s.io: create delete get list patch watch",
    "poddisruptionbudgets.policy: create delete get list patch watch",
    "pods: get list watch",
    "serviceaccounts: create delete get list patch watch",
    "services: create delete get list patch watch",
    "wals.tidemark.dev/finalizers: update",
    "wals.tidemark.dev/status: patch",
    "walsinks.tidemark.dev/finalizers: update",
    "walsinks.tidemark.dev/status: patch",
    "walsinks.tidemark.dev: get list watch",
    "waltasks.tidemark.dev/finalizers: update",
    "waltasks.tidemark.dev/status: patch",
    "waltasks.tidemark.dev: create delete get list watch",
];

fn with(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = EVERYWHERE.iter().chain(more).map(|right| (*right).to_owned()).collect();
    all.push("wals.tidemark.dev: get list patch watch".to_owned());
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_account_may_do_what_is_listed_here_and_nothing_else() {
    let server = ApiServer::builder().controllers().start().await.unwrap();
    let helm = HelmProgram::on(server.kubeconfig());
    let chart = chart();
    let install = |more: &[&str]| {
        let words = ["install", "tidemark", chart.to_str().unwrap(), "-n", NAMESPACE, "--create-namespace"];
        helm.run(&[&words[..], more].concat());
    };
    install(&[]);
    let operator = format!("{NAMESPACE}:tidemark-operator");
    assert_eq!(rights(&server, &operator, "default").await, with(&[]));
    let leases = ["leases.coordination.k8s.io tidemark-operator: get update", "leases.coordination.k8s.io: create"];
    assert_eq!(rights(&server, &operator, NAMESPACE).await, with(&leases));
    for (verb, resource) in [("get", "secrets"), ("list", "secrets"), ("create", "pods"), ("create", "rolebindings")] {
        let account = format!("--as=system:serviceaccount:{operator}");
        let answer =
            server.kubectl_command().output(["auth", "can-i", verb, resource, &account, "-A"], "").await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "no", "{verb} {resource}");
    }
    // The data pods' accounts, as the operator makes them: bound to nothing.
    for account in ["data:orders-indexer", "data:orders-search", "data:orders-jobs", "data:orders-cleanup"] {
        assert_eq!(rights(&server, account, "data").await, [""; 0]);
    }
    users_get_rights_through_the_roles_of_the_cluster(&server).await;

    helm.run(&["uninstall", "tidemark", "-n", NAMESPACE]);
    for namespace in ["team-a", "team-b"] {
        server.kubectl(["create", "namespace", namespace]).await.unwrap();
    }
    let file = chart.join("ci/namespaced.yaml");
    install(&["--values", file.to_str().unwrap()]);
    assert_eq!(rights(&server, &operator, "team-a").await, with(&[]));
    assert_eq!(rights(&server, &operator, "default").await, EVERYWHERE[1..4]);
}

async fn users_get_rights_through_the_roles_of_the_cluster(server: &ApiServer) {
    server.kubectl(["create", "namespace", "data"]).await.unwrap();
    for (user, role) in [("viewer", "view"), ("editor", "edit"), ("administrator", "admin")] {
        let (role, user_flag) = (format!("--clusterrole={role}"), format!("--user={user}"));
        server.kubectl(["create", "rolebinding", user, &role, &user_flag, "-n", "data"]).await.unwrap();
    }
    // A task deletes entries of a log, or takes an index back.
    for (user, verb, kind, wanted) in [
        ("editor", "create", "wals", "yes"),
        ("editor", "deletecollection", "wals", "yes"),
        ("viewer", "watch", "wals", "yes"),
        ("viewer", "create", "wals", "no"),
        ("nobody", "get", "wals", "no"),
        ("editor", "create", "walsinks", "yes"),
        ("viewer", "watch", "walsinks", "yes"),
        ("viewer", "create", "walsinks", "no"),
        ("administrator", "create", "waltasks", "yes"),
        ("administrator", "create", "wals", "yes"),
        ("editor", "watch", "waltasks", "yes"),
        ("editor", "create", "waltasks", "no"),
        ("viewer", "delete", "waltasks", "no"),
    ] {
        let user = format!("--as={user}");
        let give_up = Instant::now() + PATIENCE;
        loop {
            let words = ["auth", "can-i", verb, &format!("{kind}.tidemark.dev"), &user, "-n", "data"];
            let answer = server.kubectl_command().output(words, "").await.unwrap();
            if String::from_utf8_lossy(&answer.stdout).trim() == wanted {
                break;
            }
            assert!(Instant::now() < give_up, "{words:?} is not answered \"{wanted}\"");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The chart as an earlier release had it: an older version, and a definition that lacks a field.
fn older(folder: &Path) -> String {
    let copy = folder.join("tidemark");
    let copied = std::process::Command::new("cp").arg("-r").args([chart(), copy.clone()]).status().unwrap();
    assert!(copied.success());
    let change = |file: &str, from: &str, to: &str| {
        let file = copy.join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} is not in {}", file.display());
        std::fs::write(file, text.replace(from, to)).unwrap();
    };
    change("Chart.yaml", "\nversion: 0.1.0", "\nversion: 0.0.9");
    change("Chart.yaml", "appVersion: 0.1.0", "appVersion: 0.0.9");
    change("files/wals.yaml", "crd-version: 0.1.0", "crd-version: 0.0.9");
    let file = copy.join("files/wals.yaml");
    let mut definition = objects(&std::fs::read_to_string(&file).unwrap()).remove(0);
    let spec = definition.pointer_mut(&format!("{SCHEMA}/spec/properties")).unwrap();
    assert!(spec.as_object_mut().unwrap().remove("adoptOwner").is_some());
    std::fs::write(&file, definition.to_string()).unwrap();
    let packed =
        HelmProgram::new().run(&["package", copy.to_str().unwrap(), "--destination", folder.to_str().unwrap()]);
    packed.trim().rsplit_once(": ").unwrap().1.to_owned()
}

const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties";

async fn definition(server: &ApiServer) -> Value {
    serde_json::from_str(&server.kubectl(["get", "crd", "wals.tidemark.dev", "-o", "json"]).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_upgraded_and_uninstalled_and_the_wals_stay() {
    let server = ApiServer::start().await.unwrap();
    let helm = HelmProgram::on(server.kubeconfig());
    let folder = tempfile::tempdir().unwrap();
    let chart = chart();
    let old = older(folder.path());
    helm.run(&["install", "tidemark", &old, "-n", NAMESPACE, "--create-namespace"]);
    established(&server).await;
    let has_field = |definition: &Value| definition.pointer(&format!("{SCHEMA}/spec/properties/adoptOwner")).is_some();
    assert!(!has_field(&definition(&server).await));

    server.kubectl(["create", "namespace", "data"]).await.unwrap();
    let example = root().join("examples/s3-secret.yaml");
    server.kubectl(["apply", "-f", example.to_str().unwrap()]).await.unwrap();
    let uid = async || server.kubectl(["get", "wal", "orders", "-n", "data", "-o", "jsonpath={.metadata.uid}"]).await;
    let before = uid().await.unwrap();

    helm.run(&["upgrade", "tidemark", chart.to_str().unwrap(), "-n", NAMESPACE]);
    let upgraded = definition(&server).await;
    assert!(has_field(&upgraded), "Helm did not upgrade the definition");
    assert_eq!(upgraded["metadata"]["annotations"]["tidemark.dev/crd-version"], "0.1.0");
    assert_eq!(uid().await.unwrap(), before);
    let image = ["get", "deployment", "tidemark-operator", "-n", NAMESPACE, "-o"];
    let image = server.kubectl(image.into_iter().chain(["jsonpath={.spec.template.spec.containers[0].image}"])).await;
    assert_eq!(image.unwrap(), "tidemark.dev/tidemark:0.1.0");

    helm.run(&["uninstall", "tidemark", "-n", NAMESPACE]);
    assert!(server.kubectl(["get", "deployment", "tidemark-operator", "-n", NAMESPACE]).await.is_err());
    assert!(server.kubectl(["get", "clusterrole", "tidemark-operator"]).await.is_err());
    assert_eq!(uid().await.unwrap(), before, "uninstalling took a WAL away");
    assert!(definition(&server).await["metadata"]["deletionTimestamp"].is_null());

    helm.run(&["install", "tidemark", chart.to_str().unwrap(), "-n", NAMESPACE]);
    assert_eq!(uid().await.unwrap(), before);
}
