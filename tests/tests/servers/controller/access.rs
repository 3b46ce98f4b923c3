//! An operator that lacks rights.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidemark_tests::controller::{ControllerWorld, OperatorProcess, eventually};

/// A kubeconfig in `folder` by which the administrator acts as `user`.
fn kubeconfig_of(world: &ControllerWorld, user: &str, folder: &Path) -> PathBuf {
    let admin = std::fs::read(world.server.kubeconfig()).expect("it is there");
    let mut config: Value = serde_json::from_slice(&admin).expect("it is JSON");
    config["users"][0]["user"]["as"] = json!(user);
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("it is written");
    path
}

/// Gives the user of this name what an operator of the world's namespace needs, with these verbs on budgets.
async fn grant(world: &ControllerWorld, name: &str, on_budgets: &[&str]) {
    let namespace = &world.namespace;
    let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]);
    let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let groups = ["", "apps", "batch", "networking.k8s.io", "tidemark.dev", "events.k8s.io", "coordination.k8s.io"];
    let api = "rbac.authorization.k8s.io/v1";
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": api, "kind": "Role", "metadata": {"name": name, "namespace": namespace}, "rules": [
            {"apiGroups": groups, "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": on_budgets},
        ]},
        {"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": name, "namespace": namespace},
            "roleRef": role("Role"), "subjects": subject},
        {"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": name}, "rules": [
            {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ]},
        {"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": role("ClusterRole"), "subjects": subject},
    ]});
    world.server.apply(&objects.to_string()).await.expect("they are applied");
}

/// Waits until the operator shows whether it knows every object of a kind.
async fn is_synced(world: &ControllerWorld, operator: &OperatorProcess, kind: &str, synced: u8) {
    let namespace = &world.namespace;
    let line =
        format!("tidemark_operator_watch_synced{{kind=\"{kind}\",watched_namespace=\"{namespace}\"}} {synced}\n");
    let shown = eventually(&line, async || Ok(operator.get("/metrics").await?.1.contains(&line).then_some(())));
    shown.await.unwrap_or_else(|error| panic!("{error}; {}", operator.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_may_not_list_or_watch_a_kind_shows_it_and_goes_on_when_it_may() {
    let world = ControllerWorld::create().await.expect("it starts");
    let user = format!("limited-{}", world.namespace);
    // An empty list of verbs is refused.
    grant(&world, &user, &["create"]).await;
    let folder = tempfile::tempdir().expect("a folder is made");
    let mut options = world.options();
    options.kubeconfig = kubeconfig_of(&world, &user, folder.path());
    let operator = OperatorProcess::start(&options).await.expect("it starts");
    world.make("orders", "").await.expect("it is created");
    is_synced(&world, &operator, "ConfigMap", 1).await;
    is_synced(&world, &operator, "PodDisruptionBudget", 0).await;
    let log = eventually("the log has the API server's words", async || {
        let log = operator.log();
        Ok((log.contains("watch failed") && log.contains("cannot list resource")).then_some(log))
    });
    assert!(log.await.expect("it says so").contains("poddisruptionbudgets"));
    assert!(world.wals().get("orders").await.expect("it is there").status.is_none_or(|s| s.conditions.is_empty()));

    grant(&world, &user, &["create", "list"]).await;
    world.is_ready("orders").await.expect("everything is known once");
    eventually("the refused watch is logged", async || Ok(operator.log().contains("cannot watch").then_some(())))
        .await
        .expect("it is");
    is_synced(&world, &operator, "PodDisruptionBudget", 0).await;

    grant(&world, &user, &["create", "list", "watch"]).await;
    is_synced(&world, &operator, "PodDisruptionBudget", 1).await;
}
