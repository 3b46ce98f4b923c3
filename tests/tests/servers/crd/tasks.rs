//! The definition of `WALTask`: what it takes, what it refuses, what `kubectl` shows.

use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tidemark_crds::{TASK_COMMANDS, TaskType, WalTask, WalTaskSpec};

use super::{TestNamespace, linted, strictly};

fn task(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask", "metadata": {"name": name}, "spec": spec})
}

fn of(kind: &str, more: &Value) -> Value {
    let mut spec = json!({"walRef": {"name": "orders"}, "type": kind});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// Specs, and words of their refusal.
fn cases() -> Vec<(Value, Option<&'static str>)> {
    let restore = |target: Value| of("Restore", &json!({"restore": target}));
    let (time, token) = ("2026-11-20T10:00:00Z", "0ujtsYcgvSTl8PAuAdqWYSMnLOv");
    let gc = |more: Value| of("GC", &more);
    let mut cases: Vec<_> = TASK_COMMANDS
        .iter()
        .filter(|row| row.r#type != TaskType::Restore)
        .map(|row| (of(row.r#type.as_str(), &json!({})), None))
        .collect();
    cases.extend([
        (restore(json!({"time": time})), None),
        (restore(json!({"token": token})), None),
        (restore(json!({"snapshot": "before-2"})), None),
        (restore(json!({"latest": true})), None),
        (restore(json!({})), Some("exactly one of time, token")),
        (restore(json!({"time": time, "token": token})), Some("exactly one of time, token")),
        (restore(json!({"latest": false})), Some("latest is true, or left out")),
        (restore(json!({"token": "short"})), Some("token")),
        (restore(json!({"time": "yesterday"})), Some("time")),
        (restore(json!({"snapshot": "../a"})), Some("snapshot")),
        (of("Restore", &json!({})), Some("type Restore needs restore")),
        (gc(json!({"restore": {"time": time}})), Some("type Restore needs restore")),
        (of("Snapshot", &json!({"snapshot": {"name": "before"}})), None),
        (gc(json!({"snapshot": {}})), Some("only type Snapshot takes snapshot")),
        (of("Cleanup", &json!({"cleanup": {"dryRun": true}})), None),
        (gc(json!({"cleanup": {}})), Some("only type Cleanup takes cleanup")),
        (of("Verify", &json!({"verify": {"all": true, "drill": true}})), None),
        (gc(json!({"verify": {}})), Some("only type Verify takes verify")),
        (of("Promote", &json!({"promote": {"decideAgain": true}})), None),
        (gc(json!({"promote": {}})), Some("only type Promote takes promote")),
        (gc(json!({"deadline": "1s", "maxAttempts": 10, "ttlAfterFinished": "0s"})), None),
        (gc(json!({"deadline": "720h", "maxAttempts": 1, "ttlAfterFinished": "8784h"})), None),
        (gc(json!({"deadline": "999ms"})), Some("deadline is from 1s to 720h")),
        (gc(json!({"deadline": "721h"})), Some("deadline is from 1s to 720h")),
        (gc(json!({"ttlAfterFinished": "8785h"})), Some("ttlAfterFinished is at most 8784h")),
        (gc(json!({"maxAttempts": 0})), Some("maxAttempts")),
        (gc(json!({"maxAttempts": 11})), Some("maxAttempts")),
        (gc(json!({"walRef": {}})), Some("walRef.name")),
        (gc(json!({"walRef": {"name": "Orders"}})), Some("walRef.name")),
        (gc(json!({"suspend": true})), Some("suspend")),
        (of("Defragment", &json!({})), Some("type")),
    ]);
    cases
}

#[tokio::test]
async fn each_task_is_taken_or_refused_here_and_there() {
    let ground = TestNamespace::new("crd-tasks").await;
    let mut wrong = Vec::new();
    for (spec, refused) in cases() {
        let object = task("nightly", &spec);
        for (who, said) in [("the API server", ground.refusal(&object).await), ("lint", linted(&object))] {
            let right = match refused {
                Some(words) => said.as_ref().is_some_and(|said| said.contains(words)),
                None => said.is_none(),
            };
            if !right {
                wrong.push(format!("{spec}: {who} said {said:?}, wanted {refused:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn names_of_tasks_leave_room_for_their_jobs() {
    let ground = TestNamespace::new("crd-task-names").await;
    let longest = "a".repeat(59);
    for (name, accepted) in [
        ("1", true),
        ("orders-snapshot-1q2w3", true),
        (&*longest, true),
        ("a.b", false),
        (&*format!("{longest}a"), false),
    ] {
        let object = task(name, &of("GC", &json!({})));
        let (server, offline) = (ground.refusal(&object).await, linted(&object));
        assert_eq!((server.is_none(), offline.is_none()), (accepted, accepted), "{name}: {server:?} {offline:?}");
    }
    let mut generated = task("", &of("GC", &json!({})));
    generated["metadata"] = json!({"generateName": "orders-restore-"});
    assert_eq!(linted(&generated), None);
}

#[tokio::test]
async fn a_task_is_made_once_with_safe_defaults_and_never_changed() {
    let ground = TestNamespace::new("crd-task-defaults").await;
    let spec = of("Snapshot", &json!({}));
    let raw = ground.apply(&task("nightly", &spec), &strictly()).await.unwrap().data;
    let wanted = json!({
        "walRef": {"name": "orders"}, "type": "Snapshot", "deadline": "6h", "maxAttempts": 3, "ttlAfterFinished": "168h",
    });
    assert_eq!(raw["spec"], wanted);
    assert_eq!(raw["status"]["observedGeneration"], -1, "kstatus takes it for unfinished");
    assert_eq!(serde_json::from_value::<WalTaskSpec>(spec).unwrap(), serde_json::from_value(wanted).unwrap());
    for change in [
        json!({"maxAttempts": 4}),
        json!({"type": "GC"}),
        json!({"snapshot": {"name": "a"}}),
        json!({"walRef": {"name": "bills"}}),
    ] {
        let said = ground.refusal(&task("nightly", &of("Snapshot", &change))).await;
        assert!(
            said.as_ref().is_some_and(|said| said.contains("the spec of a task cannot change")),
            "{change}: {said:?}"
        );
    }
    assert_eq!(ground.refusal(&task("nightly", &of("Snapshot", &json!({})))).await, None);
}

#[tokio::test]
async fn the_tasks_of_a_wal_are_listed_with_what_became_of_them() {
    let ground = TestNamespace::new("crd-task-columns").await;
    ground.apply(&task("nightly", &of("GC", &json!({}))), &strictly()).await.unwrap();
    ground.apply(&task("other", &of("GC", &json!({"walRef": {"name": "bills"}}))), &strictly()).await.unwrap();
    let tasks: Api<WalTask> = Api::namespaced(ground.client.clone(), &ground.namespace);
    let status = json!({"status": {
        "state": "Succeeded", "attempts": 2, "message": "deleted 7 objects", "jobName": "nightly-2",
        "completionTime": "2026-11-21T10:00:00Z", "result": {"entries": 7, "recoveryWindow": {
            "first": "2026-11-20T10:00:00Z", "last": "2026-11-21T10:00:00Z",
        }},
    }});
    tasks.patch_status("nightly", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let of_wal = tasks.list(&ListParams::default().fields("spec.walRef.name=orders")).await.unwrap().items;
    assert_eq!(of_wal.iter().map(|task| task.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(), ["nightly"]);
    let table = ground.server.kubectl(["get", "wt", "-n", "crd-task-columns", "nightly"]).await.unwrap();
    let mut lines = table.lines();
    let heads: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heads, ["NAME", "TYPE", "WAL", "STATE", "ATTEMPTS", "AGE", "MESSAGE"]);
    let row = lines.next().unwrap();
    assert!(row.contains("Succeeded") && row.ends_with("deleted 7 objects"), "{row}");
    let explained = ground.server.kubectl(["explain", "waltask.spec.restore"]).await.unwrap();
    assert!(explained.contains("exactly one of these"), "{explained}");
}
