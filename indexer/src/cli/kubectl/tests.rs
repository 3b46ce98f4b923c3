//! The plugin with a `kubectl` of the test's own, and a service behind the ports that it forwards.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use axum::{Json, Router, extract::RawQuery, http::HeaderMap, routing::get};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    check::{CheckResult, examine},
    client::KubectlClient,
    objects::WalObject,
    report,
    restore::{WalPromoteCommand, WalRestoreCommand, WalRestoreTarget, window_line},
    search::{TokenArgs, WalSearchCommand},
    sinks::WalSinksCommand,
    snapshot::WalSnapshotCommand,
    status::{describe, overview},
    task_object::{TaskStartArgs, wait},
    tasks::WalTasksCommand,
};

/// What may never be seen in a report. Each is planted where it could slip through.
const PLANTED: [&str; 9] = [
    "planted-annotation",
    "planted-environment",
    "planted-proxy",
    "planted-log",
    "planted-bearer",
    "planted-signature",
    "planted-pem",
    "planted-configmap",
    "planted-last-applied",
];

fn wal() -> Value {
    json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
        "metadata": {"name": "orders", "namespace": "data", "generation": 2, "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "planted-last-applied", "note": "planted-annotation"}},
        "spec": {"log": {"url": "s3://wal/orders"}, "metadata": {"urls": ["s3://meta"]}, "index": {"url": "s3://idx/orders"},
            "storage": {"credentials": {"type": "Secret", "secretRef": {"name": "orders-s3"}}},
            "indexer": {"podTemplate": {"spec": {"containers": [{"env": [{"name": "EXTRA", "value": "planted-environment"}]}]}}},
            "search": {"replicas": 1, "auth": {"type": "Token", "secretRef": {"name": "orders-token"}}}},
        "status": {"observedGeneration": 2, "entries": 1204, "lagSeconds": 3, "cursor": {"time": "2026-11-20T10:00:00Z"},
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "BucketMissing", "message": "bucket \"wal\" is missing; make it",
                    "lastTransitionTime": "2026-11-20T10:00:00Z"},
                {"type": "UpgradePending", "status": "True", "reason": "NewRelease", "message": "approve it",
                    "lastTransitionTime": "2026-11-20T10:00:00Z"}]}
    })
}

fn pod(name: &str, role: &str, ready: bool) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "data", "labels": {"app.kubernetes.io/component": role}},
        "spec": {"containers": [{"name": "tidemark", "env": [
            {"name": "TIDEMARK_LOG", "value": "s3://wal/orders"}, {"name": "PROXY", "value": "http://u:planted-proxy@p"}]}]},
        "status": {"phase": "Running", "containerStatuses": [{"ready": ready, "restartCount": 2}]}
    })
}

/// A task that a user made, as far as it is.
fn task(state: &str, message: &str) -> Value {
    json!({
        "metadata": {"name": "orders-snapshot-x", "namespace": "data", "creationTimestamp": "2026-11-20T11:00:00Z"},
        "spec": {"walRef": {"name": "orders"}, "type": "Snapshot"},
        "status": {"state": state, "message": message, "attempts": 1, "startTime": "2026-11-20T11:00:05Z"}
    })
}

fn tasks() -> Vec<Value> {
    let mut scheduled = task("Succeeded", "1204 entries are archived");
    scheduled["metadata"] = json!({"name": "orders-snapshot-hx2k1", "namespace": "data", "creationTimestamp": "2026-11-20T03:00:00Z",
        "labels": {"tidemark.dev/schedule": "snapshot"}});
    scheduled["status"]["startTime"] = json!("2026-11-20T03:00:05Z");
    scheduled["status"]["completionTime"] = json!("2026-11-20T03:01:35Z");
    let mut other = task("Rejected", "no verified snapshot");
    other["metadata"] =
        json!({"name": "bills-cleanup-y", "namespace": "data", "creationTimestamp": "2026-11-20T04:00:00Z"});
    other["spec"] = json!({"walRef": {"name": "bills"}, "type": "Cleanup"});
    vec![task("Running", "Job \"orders-snapshot-x-1\" runs"), scheduled, other]
}

/// Two sinks of the WAL, of which one waits, and one of another WAL that has no status yet.
fn sinks() -> Vec<Value> {
    let ready = |status: &str, reason: &str, message: &str| json!([{"type": "Ready", "status": status, "reason": reason, "message": message}]);
    let waiting = "the destination takes nothing: HTTP 429; the sink waits";
    vec![
        json!({
            "metadata": {"name": "search", "namespace": "data"},
            "spec": {"walRef": {"name": "orders"}, "type": "Elasticsearch", "elasticsearch": {"url": "https://u:planted-proxy@os:9200"}},
            "status": {"acknowledged": {"generation": "g1", "seq": 81244}, "lagOperations": 7, "lagSeconds": 3, "breaker": "Closed",
                "conditions": ready("True", "Ready", "what is published is delivered")},
        }),
        json!({
            "metadata": {"name": "hook", "namespace": "data"}, "spec": {"walRef": {"name": "orders"}, "type": "Webhook"},
            "status": {"acknowledged": {"generation": "g1", "seq": 12}, "lagOperations": 9000, "breaker": "Open",
                "conditions": ready("False", "DestinationUnavailable", waiting)},
        }),
        json!({"metadata": {"name": "new", "namespace": "data"}, "spec": {"walRef": {"name": "bills"}, "type": "Webhook"}}),
    ]
}

/// A cluster of one WAL, as a `kubectl` shows it.
struct FakeKubectl {
    folder: TempDir,
    client: KubectlClient,
}

impl FakeKubectl {
    async fn new(process: Value, token: Option<&'static str>) -> Self {
        let port = serve(process, token).await;
        let folder = tempfile::tempdir().unwrap();
        let pods = [pod("orders-indexer-1", "indexer", true), pod("orders-search-1", "search", true)];
        let event = json!({"kind": "Event", "type": "Warning", "reason": "BucketMissing", "message": "bucket \"wal\" is missing",
            "lastTimestamp": "2026-11-20T10:00:00Z", "metadata": {"name": "e"}});
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": "planted-configmap", "purge": "uid-1"}});
        let log = "PUT https://s3/wal?X-Amz-Signature=planted-signature\npassword=planted-log\nAuthorization: Bearer planted-bearer\n\
            -----BEGIN PRIVATE KEY-----\nplanted-pem\n-----END PRIVATE KEY-----\npublished manifest 17\n";
        for (file, content) in [
            ("wal.json", wal().to_string()),
            ("wals.json", json!({"items": [wal()]}).to_string()),
            ("pods.json", json!({"items": pods}).to_string()),
            ("events.json", json!({"items": [event]}).to_string()),
            ("maps.json", json!({"items": [map]}).to_string()),
            ("none.json", json!({"items": []}).to_string()),
            ("tasks.json", json!({"items": tasks()}).to_string()),
            ("sinks.json", json!({"items": sinks()}).to_string()),
            ("sink-pods.json", json!({"items": [pod("search-sink-1", "sink", true)]}).to_string()),
            ("polls", "\n".to_owned()),
            ("task-1.json", task("", "").to_string()),
            ("task-2.json", task("Running", "Job \"orders-snapshot-x-1\" runs").to_string()),
            ("task-3.json", task("Running", "Job \"orders-snapshot-x-1\" runs").to_string()),
            ("task-4.json", task("Succeeded", "1204 entries are archived").to_string()),
            ("log.txt", log.to_owned()),
        ] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        let at = folder.path().display();
        let script = format!(
            "#!/bin/sh\ncd {at}\necho \"$*\" >> calls\ncase \"$*\" in\n\
             *port-forward*) echo 'Forwarding from 127.0.0.1:{port} -> 7280'; exec sleep 600 ;;\n\
             *'get wals.tidemark.dev orders'*) cat wal.json ;;\n\
             *'get wals.tidemark.dev missing'*) echo 'wals \"missing\" not found' >&2; exit 1 ;;\n\
             *'get wals.tidemark.dev'*) cat wals.json ;;\n\
             *'create --filename=-'*) cat > created.json; cat task-1.json ;;\n\
             *'get waltasks.tidemark.dev orders-snapshot-x'*) n=$(wc -l < polls); echo >> polls; cat task-$n.json ;;\n\
             *'get waltasks.tidemark.dev'*) cat tasks.json ;;\n\
             *'get walsinks.tidemark.dev'*) cat sinks.json ;;\n\
             *'get pods --all-namespaces'*) cat none.json ;;\n\
             *'get pods'*tidemark.dev/sink*) cat sink-pods.json ;;\n\
             *'get pods'*) cat pods.json ;;\n\
             *'get events'*) cat events.json ;;\n\
             *'get configmaps'*) cat maps.json ;;\n\
             *'get services'*) echo 'services is forbidden' >&2; exit 1 ;;\n\
             *get*--output=json) cat none.json ;;\n\
             *--previous*) exit 1 ;;\n\
             *logs*) cat log.txt ;;\n\
             *) echo v1.34.4 ;;\nesac\n"
        );
        let program = folder.path().join("kubectl");
        // Another process writes it: a child that a test beside this one starts would have it open for writing, too, and Linux
        // starts no program that somebody can write.
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        let client = KubectlClient::new(program, Some("data".to_owned()), Some("kind".to_owned()), None);
        Self { folder, client }
    }

    async fn wal(&self) -> WalObject {
        WalObject::get(&self.client, "orders").await.unwrap()
    }

    /// What was created.
    fn created(&self) -> Value {
        let created = std::fs::read_to_string(self.folder.path().join("created.json")).unwrap();
        serde_json::from_str(&created).unwrap()
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }
}

/// A data pod and the search Service in one.
async fn serve(process: Value, token: Option<&'static str>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let search = move |headers: HeaderMap, RawQuery(query): RawQuery| async move {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        if given.map(str::to_owned) != token.map(|token| format!("Bearer {token}")) {
            return (reqwest::StatusCode::UNAUTHORIZED, Json(json!({"detail": "a token is wanted"})));
        }
        if query.as_ref().is_some_and(|query| query.contains("broken")) {
            return (reqwest::StatusCode::BAD_REQUEST, Json(json!({"detail": "the query does not read"})));
        }
        if query.is_some_and(|query| query.contains("team")) {
            let answer = json!({"total": 0, "hits": [], "notes": ["position 1: there is no field"], "watermark": "2026-11-20T10:00:00Z"});
            return (reqwest::StatusCode::OK, Json(answer));
        }
        let hit = json!({"time": "2026-11-20T09:00:00Z", "kind": "bundle", "outcome": "committed", "sealed": true,
            "entity": "bundle/orders/b1", "message": "first import\nsecond line"});
        (reqwest::StatusCode::OK, Json(json!({"total": 7, "hits": [hit], "watermark": "2026-11-20T10:00:00Z"})))
    };
    let app =
        Router::new().route("/v1/process", get(move || async move { Json(process) })).route("/v1/search", get(search));
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

fn healthy() -> Value {
    json!({"kind": "indexer", "phase": "writing", "manifest": 17, "epoch": 3, "lagSeconds": 0, "problems": []})
}

fn troubled() -> Value {
    json!({"kind": "indexer", "phase": "starting", "problems": [
        {"reason": "BucketMissing", "role": "log", "message": "bucket \"wal\" is missing; nothing is indexed; make it"}]})
}

fn search(query: &str, json: bool, token: Option<&str>) -> WalSearchCommand {
    let token = TokenArgs { token_file: None, token: token.map(str::to_owned) };
    WalSearchCommand { wal: "orders".to_owned(), query: query.to_owned(), size: 20, json, token }
}

#[tokio::test]
async fn the_status_tells_the_story() {
    let fake = FakeKubectl::new(troubled(), None).await;
    let told = describe(&fake.wal().await).await.unwrap().join("\n");
    for wanted in [
        "WAL data/orders",
        "log s3://wal/orders, index s3://idx/orders",
        "Ready            False   BucketMissing",
        "lag         3s",
        "entries     1204",
        "orders-indexer-1   Running   ready   2 restarts   starting",
        "orders-search-1: BucketMissing (log): bucket \"wal\" is missing; nothing is indexed; make it",
        "2026-11-20T10:00:00Z   Warning   BucketMissing",
        "hook     orders   Webhook         DestinationUnavailable",
    ] {
        assert!(told.contains(wanted), "\"{wanted}\" is not in\n{told}");
    }
    let all = overview(&fake.client, true).await.unwrap();
    assert!(all[1].starts_with("data        orders   False   BucketMissing"), "{all:?}");
    let calls = fake.calls();
    let first = calls.lines().next().unwrap();
    assert_eq!(first, "--context=kind --namespace=data get wals.tidemark.dev orders --output=json");
    assert!(calls.contains("--context=kind get wals.tidemark.dev --all-namespaces"), "{calls}");
}

#[tokio::test]
async fn a_search_prints_its_hits() {
    let fake = FakeKubectl::new(healthy(), Some("t0k3n")).await;
    let lines = search("kind:bundle", false, Some("t0k3n")).lines(&fake.client).await.unwrap();
    assert!(lines[1].contains("committed   bundle/orders/b1   first import"), "{lines:?}");
    assert_eq!(lines[2], "1 of 7, complete up to 2026-11-20T10:00:00Z");
    let lines = search("team:core", false, Some("t0k3n")).lines(&fake.client).await.unwrap();
    assert_eq!(lines[1..], ["note: position 1: there is no field", "0 of 0, complete up to 2026-11-20T10:00:00Z"]);
    let json = search("", true, Some("t0k3n")).lines(&fake.client).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json[0]).unwrap()["total"], 7);
}

#[tokio::test]
async fn a_search_asks_a_pod_that_is_ready_and_stays() {
    let fake = FakeKubectl::new(json!({}), None).await;
    let mut leaving = pod("orders-search-0", "search", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
    let pods =
        json!({"items": [leaving, pod("orders-search-1", "search", false), pod("orders-search-2", "search", true)]});
    std::fs::write(fake.folder.path().join("pods.json"), pods.to_string()).unwrap();
    search("kind:bundle", false, None).lines(&fake.client).await.unwrap();
    let calls = fake.calls();
    let forwards: Vec<_> = calls.lines().filter(|call| call.contains("port-forward")).collect();
    assert!(matches!(forwards[..], [call] if call.contains("pod/orders-search-2 ")), "{calls}");
}

#[tokio::test]
async fn a_search_waits_for_a_pod_to_be_ready() {
    let fake = FakeKubectl::new(json!({}), None).await;
    let write = |ready| {
        let pods = json!({"items": [pod("orders-search-1", "search", ready)]});
        std::fs::write(fake.folder.path().join("pods.json"), pods.to_string()).unwrap();
    };
    write(false);
    let becomes_ready = async {
        while !fake.calls().contains("get pods") {
            tokio::task::yield_now().await;
        }
        write(true);
    };
    let query = search("kind:bundle", false, None);
    let (lines, ()) = tokio::join!(query.lines(&fake.client), becomes_ready);
    assert!(!lines.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_search_says_what_to_do() {
    let fake = FakeKubectl::new(healthy(), Some("t0k3n")).await;
    let refused = async |query, token| search(query, false, token).lines(&fake.client).await.unwrap_err().to_string();
    let wants = refused("", None).await;
    assert!(wants.contains("requires a token") && wants.contains("Secret \"orders-token\""), "{wants}");
    assert!(refused("", Some("other")).await.contains("refuses this token"));
    assert!(refused("broken", Some("t0k3n")).await.contains("400 Bad Request: the query does not read"));
}

#[tokio::test]
async fn the_token_is_read_from_a_file() {
    let fake = FakeKubectl::new(healthy(), Some("t0k3n")).await;
    let file = fake.folder.path().join("token");
    std::fs::write(&file, "t0k3n\n").unwrap();
    let args = TokenArgs { token_file: Some(file), token: Some("other".to_owned()) };
    assert_eq!(args.read().unwrap().as_deref(), Some("t0k3n"));
    let missing = TokenArgs { token_file: Some(PathBuf::from("/no/such/file")), token: None };
    assert!(missing.read().unwrap_err().to_string().contains("/no/such/file"));
}

#[tokio::test]
async fn a_check_fails_for_what_is_wrong_and_only_for_that() {
    let fake = FakeKubectl::new(troubled(), None).await;
    let lines = examine(&fake.wal().await, None).await.unwrap();
    let failed: Vec<&CheckResult> = lines.iter().filter(|line| !line.passed).collect();
    let named: Vec<_> = failed.iter().map(|line| line.what.as_str()).collect();
    assert_eq!(named, ["Ready", "pod orders-indexer-1", "pod orders-search-1"], "{lines:?}");
    assert!(failed.iter().all(|line| line.detail.contains("make it")), "{failed:?}");

    let fake = FakeKubectl::new(healthy(), None).await;
    let mut wal = fake.wal().await;
    wal.object["status"]["conditions"][0]["status"] = "True".into();
    let lines = examine(&wal, None).await.unwrap();
    assert!(lines.iter().all(|line| line.passed), "{lines:?}");
    wal.object["metadata"]["generation"] = 3.into();
    let lines = examine(&wal, None).await.unwrap();
    assert!(!lines[0].passed && lines[0].detail.contains("generation 2 of the spec, which is at 3"), "{lines:?}");
    // It is only there while something is wrong.
    wal.object["metadata"]["generation"] = 2.into();
    wal.object["status"]["conditions"][1]["type"] = "Stalled".into();
    let lines = examine(&wal, None).await.unwrap();
    let failed: Vec<_> = lines.iter().filter(|line| !line.passed).map(|line| line.what.as_str()).collect();
    assert_eq!(failed, ["Stalled"], "{lines:?}");
}

#[tokio::test]
async fn a_report_holds_what_helps_and_no_secret() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let file = fake.folder.path().join("report.tar");
    report::write(&fake.wal().await, &file).await.unwrap();
    let mut all = String::new();
    let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        writeln!(all, "\n== {}", entry.path().unwrap().display()).unwrap();
        entry.read_to_string(&mut all).unwrap();
    }
    for planted in PLANTED {
        assert!(!all.contains(planted), "\"{planted}\" is in the report\n{all}");
    }
    for wanted in [
        "== tidemark-report-orders/wal.yaml",
        "== tidemark-report-orders/pods/orders-indexer-1/log.txt",
        "== tidemark-report-orders/pods/search-sink-1/log.txt",
        "== tidemark-report-orders/sinks.yaml",
        "== tidemark-report-orders/children/configmaps.yaml",
        "published manifest 17",
        "\"phase\": \"writing\"",
        "purge: uid-1",
        "name: orders-s3",
        "children/services.yaml: \"kubectl get services",
        "services is forbidden",
    ] {
        assert!(all.contains(wanted), "\"{wanted}\" is not in\n{all}");
    }
    let calls = fake.calls();
    assert!(!calls.to_lowercase().contains("secret"), "a Secret was asked for:\n{calls}");
}

#[tokio::test]
async fn tasks_are_listed_oldest_first() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let of = |wal: Option<&str>, all_namespaces| WalTasksCommand { wal: wal.map(str::to_owned), all_namespaces };
    let lines = of(Some("orders"), false).lines(&fake.client).await.unwrap();
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(&lines[0]), ["NAME", "WAL", "TYPE", "BY", "STATE", "STARTED", "TOOK", "WHAT"]);
    assert_eq!(
        cells(&lines[1])[..7],
        ["orders-snapshot-hx2k1", "orders", "Snapshot", "schedule", "Succeeded", "2026-11-20T03:00:05Z", "90s"]
    );
    assert!(lines[1].ends_with("1204 entries are archived"), "{lines:?}");
    assert_eq!(
        cells(&lines[2])[..7],
        ["orders-snapshot-x", "orders", "Snapshot", "hand", "Running", "2026-11-20T11:00:05Z", "-"]
    );
    assert_eq!(lines.len(), 3, "{lines:?}");
    let all = of(None, true).lines(&fake.client).await.unwrap();
    assert_eq!(cells(&all[2])[..4], ["data", "bills-cleanup-y", "bills", "Cleanup"]);
    assert!(fake.calls().contains("--context=kind get waltasks.tidemark.dev --all-namespaces"), "{}", fake.calls());
    let none = of(Some("absent"), false).lines(&fake.client).await.unwrap();
    assert!(
        none[0].contains("no tasks of WAL \"absent\"") && none[0].contains("kubectl tidemark snapshot"),
        "{none:?}"
    );
}

#[tokio::test]
async fn sinks_are_listed_with_what_keeps_them_from_delivering() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let of = |wal: Option<&str>, all_namespaces| WalSinksCommand { wal: wal.map(str::to_owned), all_namespaces };
    let lines = of(Some("orders"), false).lines(&fake.client).await.unwrap();
    assert_eq!(
        lines,
        [
            "NAME     WAL      TYPE            PHASE                    ACKNOWLEDGED   LAG     BREAKER   WHY",
            "search   orders   Elasticsearch   Ready                    81244          7, 3s   Closed",
            "hook     orders   Webhook         DestinationUnavailable   12             9000    Open      \
             the destination takes nothing: HTTP 429; the sink waits",
        ]
    );
    let all = of(None, true).lines(&fake.client).await.unwrap();
    let cells: Vec<_> = all[3].split_whitespace().collect();
    assert_eq!(cells, ["data", "new", "bills", "Webhook", "-", "-", "-", "-"]);
    assert!(fake.calls().contains("--context=kind get walsinks.tidemark.dev --all-namespaces"), "{}", fake.calls());
    let none = of(Some("absent"), false).lines(&fake.client).await.unwrap();
    assert_eq!(none, ["no sinks of WAL \"absent\"; see how one is made: kubectl explain walsink.spec"]);
}

/// Whoever may not list them, and an older cluster that does not know the kind.
#[tokio::test]
async fn a_status_without_the_right_to_list_sinks_says_so_and_shows_the_rest() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let program = fake.folder.path().join("kubectl");
    let script = std::fs::read_to_string(&program).unwrap();
    let refused = script.replace("cat sinks.json", "{ echo 'walsinks is forbidden' >&2; exit 1; }");
    std::fs::write(fake.folder.path().join("refusing"), refused).unwrap();
    let install = ["-m", "755", "refusing", "kubectl"];
    assert!(Command::new("install").args(install).current_dir(fake.folder.path()).status().unwrap().success());
    let told = describe(&fake.wal().await).await.unwrap().join("\n");
    assert!(told.contains("walsinks is forbidden") && told.contains("orders-indexer-1   Running   ready"), "{told}");
}

#[tokio::test]
async fn a_snapshot_is_a_task_of_the_only_wal() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let name = Some("before-import".to_owned());
    WalSnapshotCommand { wal: None, name, start: TaskStartArgs { wait: false } }.run(&fake.client).await.unwrap();
    assert_eq!(
        fake.created(),
        json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask", "metadata": {"generateName": "orders-snapshot-"},
            "spec": {"walRef": {"name": "orders"}, "type": "Snapshot", "snapshot": {"name": "before-import"}},
        })
    );
    let calls = fake.calls();
    assert!(calls.ends_with("--context=kind --namespace=data create --filename=- --output=json\n"), "{calls}");
}

#[tokio::test]
async fn a_task_is_shown_until_it_ends() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let shown = std::cell::RefCell::new(Vec::new());
    let show = |line: &str| {
        shown.borrow_mut().push(line.to_owned());
        Ok(())
    };
    wait(&fake.client, "orders-snapshot-x", std::time::Duration::ZERO, show).await.unwrap();
    assert_eq!(
        shown.into_inner(),
        ["Running: Job \"orders-snapshot-x-1\" runs", "Succeeded: 1204 entries are archived"]
    );
    let rejected = task("Rejected", "no snapshot \"x\"; see tidemark snapshots").to_string();
    std::fs::write(fake.folder.path().join("task-5.json"), rejected).unwrap();
    let error = wait(&fake.client, "orders-snapshot-x", std::time::Duration::ZERO, |_| Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("did not succeed: no snapshot \"x\"; see tidemark snapshots"), "{error}");
}

#[tokio::test]
async fn a_restore_asks_for_one_target() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let target = |change: fn(&mut WalRestoreTarget)| {
        let mut target = WalRestoreTarget::default();
        change(&mut target);
        target
    };
    let asked = |change| target(change).request().unwrap();
    let to_time = |target: &mut WalRestoreTarget| target.to_time = Some("2026-11-20T11:00:00.5+01:00".to_owned());
    assert_eq!(asked(to_time), json!({"time": "2026-11-20T10:00:00Z"}));
    assert_eq!(asked(|target| target.to_token = Some("2Yx".to_owned())), json!({"token": "2Yx"}));
    assert_eq!(asked(|target| target.snapshot = Some("s".to_owned())), json!({"snapshot": "s"}));
    assert_eq!(asked(|target| target.latest = true), json!({"latest": true}));
    let error = target(|target| target.to_time = Some("yesterday".to_owned())).request().unwrap_err().to_string();
    assert!(error.contains("\"yesterday\" is no time") && error.contains("such as"), "{error}");

    let start = TaskStartArgs { wait: false };
    let wal = "orders".to_owned();
    WalRestoreCommand { wal: wal.clone(), target: target(to_time), start }.run(&fake.client).await.unwrap();
    assert_eq!(fake.created()["spec"]["restore"], json!({"time": "2026-11-20T10:00:00Z"}));
    let promote = |decide_again| WalPromoteCommand { wal: wal.clone(), decide_again, start };
    promote(false).run(&fake.client).await.unwrap();
    assert_eq!(fake.created()["spec"], json!({"walRef": {"name": "orders"}, "type": "Promote"}));
    promote(true).run(&fake.client).await.unwrap();
    assert_eq!(
        fake.created()["spec"],
        json!({"walRef": {"name": "orders"}, "type": "Promote", "promote": {"decideAgain": true}})
    );
}

/// Its index and its snapshots may be older than the WAL: nothing says that the restore will be refused.
#[test]
fn a_wal_that_was_made_again_is_said_to_know_no_recovery_window_yet() {
    let known =
        json!({"status": {"recoveryWindow": {"first": "2026-11-01T00:00:00Z", "last": "2026-11-20T10:00:00Z"}}});
    assert!(window_line(&known).ends_with(": 2026-11-01T00:00:00Z to 2026-11-20T10:00:00Z"), "{}", window_line(&known));
    let unknown = window_line(&wal());
    assert!(!unknown.contains("if there is none") && unknown.contains("target lies outside"), "{unknown}");
}

#[test]
fn a_restore_without_a_target_or_with_two_is_wrong_usage() {
    use clap::Args as _;
    let read = |words: &[&str]| {
        let command = WalRestoreCommand::augment_args(clap::Command::new("restore"));
        command.try_get_matches_from(["restore"].iter().chain(words)).map(drop)
    };
    read(&["orders", "--latest"]).unwrap();
    read(&["orders", "--to-time", "2026-11-20T10:00:00Z", "--wait"]).unwrap();
    assert!(read(&["orders"]).is_err());
    assert!(read(&["orders", "--latest", "--snapshot", "s"]).is_err());
}

#[tokio::test]
async fn a_schedule_that_is_not_there_fails_no_check() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let mut wal = fake.wal().await;
    wal.object["status"]["conditions"] = json!([
        {"type": "SnapshotCurrent", "status": "False", "reason": "NotScheduled", "message": "so"},
        {"type": "Verified", "status": "Unknown", "reason": "Pending", "message": "so"},
        {"type": "SnapshotCurrent", "status": "False", "reason": "SnapshotOverdue", "message": "so"},
    ]);
    let lines = examine(&wal, None).await.unwrap();
    let failed: Vec<_> = lines.iter().filter(|line| !line.passed).map(|line| line.detail.as_str()).collect();
    assert_eq!(failed, ["False SnapshotOverdue: so"]);
}

#[tokio::test]
async fn what_kubectl_says_is_told() {
    let fake = FakeKubectl::new(healthy(), None).await;
    let error = WalObject::get(&fake.client, "missing").await.err().unwrap().to_string();
    assert!(error.contains("wals \"missing\" not found"), "{error}");
    let nobody = KubectlClient::new("/no/such/kubectl".into(), None, None, None);
    let error = nobody.text(&["version"]).await.unwrap_err().to_string();
    assert!(error.contains("install kubectl"), "{error}");
}

#[test]
fn the_help_of_search_has_every_example_of_the_query_language() {
    use clap::Args as _;
    let help = WalSearchCommand::augment_args(clap::Command::new("search")).render_long_help().to_string();
    let missing: Vec<_> = tidemark_search::QUERY_FORMS
        .iter()
        .map(|form| form.example)
        .filter(|example| !help.contains(example))
        .collect();
    assert_eq!(missing, [""; 0], "{help}");
}
