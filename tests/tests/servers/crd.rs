//! The definitions on a real API server: they are taken, each of their rules takes and refuses what it should, and
//! `tidemark lint` says the same without a server.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cases;
mod sinks;
mod tasks;

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource as _,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use serde_json::{Value, json};
use tidemark_crds::{KINDS, Wal, WalSpec, lint, names::WalComponent, wal_crd};
use tidemark_operator::{PlatformSettings, ValidatedWal, build, validate};
use tidemark_tests::cluster::ApiServer;

use cases::{fields, minimal, rules, updates, wal, with};

/// A namespace of its own on the shared server, with the definition in place. Pods in it are held to level `restricted`.
struct TestNamespace {
    server: &'static ApiServer,
    client: Client,
    namespace: String,
}

impl TestNamespace {
    async fn new(namespace: &str) -> Self {
        let server = ApiServer::shared().await.unwrap();
        let client = server.client();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for kind in KINDS {
            let (name, definition) = (kind.definition_name(), (kind.definition)());
            definitions.patch(&name, &strictly(), &Patch::Apply(definition)).await.unwrap();
            let established = await_condition(definitions.clone(), &name, is_crd_established());
            tokio::time::timeout(std::time::Duration::from_mins(1), established).await.unwrap().unwrap();
        }
        let space: Namespace = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))
        .unwrap();
        Api::<Namespace>::all(client.clone()).patch(namespace, &strictly(), &Patch::Apply(space)).await.unwrap();
        Self { server, client, namespace: namespace.to_owned() }
    }

    fn wals(&self) -> Api<Wal> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies any object, as `kubectl apply` would: unknown fields are refused.
    async fn apply(&self, object: &Value, how: &PatchParams) -> kube::Result<DynamicObject> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let kind = text("kind");
        let plural =
            if kind == "NetworkPolicy" { "networkpolicies".to_owned() } else { format!("{}s", kind.to_lowercase()) };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: text("apiVersion").to_owned(),
            kind: kind.to_owned(),
            plural,
        };
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        objects.patch(name, how, &Patch::Apply(object)).await
    }

    /// What the API server says against the object; nothing is stored.
    async fn refusal(&self, object: &Value) -> Option<String> {
        self.apply(object, &strictly().dry_run()).await.err().map(|error| error.to_string())
    }

    /// A WAL that is really there.
    async fn stored(&self, name: &str, spec: &Value) -> Wal {
        self.apply(&wal(name, spec), &strictly()).await.unwrap();
        self.wals().get(name).await.unwrap()
    }
}

fn strictly() -> PatchParams {
    PatchParams::apply("test").validation_strict().force()
}

/// What `lint` says against the object.
fn linted(object: &Value) -> Option<String> {
    let findings = lint(&object.to_string()).findings;
    let lines: Vec<_> = findings.iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[tokio::test]
async fn each_rule_takes_and_refuses_what_it_should_here_and_there() {
    let ground = TestNamespace::new("crd-rules").await;
    let mut wrong = Vec::new();
    for case in rules() {
        let object = wal("orders", &case.spec);
        for (who, said) in [("the API server", ground.refusal(&object).await), ("lint", linted(&object))] {
            let right = match case.refused {
                Some(words) => said.as_ref().is_some_and(|said| said.contains(words)),
                None => said.is_none(),
            };
            if !right {
                wrong.push(format!("{}: {who} said {said:?}, wanted {:?}", case.change, case.refused));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn each_field_takes_and_refuses_what_it_should_here_and_there() {
    let ground = TestNamespace::new("crd-fields").await;
    let mut wrong = Vec::new();
    for (field, good, bad) in fields() {
        for (value, accepted) in
            good.into_iter().map(|value| (value, true)).chain(bad.into_iter().map(|value| (value, false)))
        {
            let object = wal("orders", &with(&[(field, value.clone())]));
            let (server, offline) = (ground.refusal(&object).await, linted(&object));
            if server.is_none() != accepted || offline.is_none() != accepted {
                wrong
                    .push(format!("{field} {value}, accepted {accepted}: the API server {server:?}, lint {offline:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn names_leave_room_for_the_children() {
    let ground = TestNamespace::new("crd-names").await;
    for (names, accepted) in [(cases::GOOD_NAMES, true), (cases::BAD_NAMES, false)] {
        for name in names {
            let object = wal(name, &minimal());
            let (server, offline) = (ground.refusal(&object).await, linted(&object));
            assert_eq!((server.is_none(), offline.is_none()), (accepted, accepted), "{name}: {server:?} {offline:?}");
        }
    }
}

/// The table of cases above is whole: each rule of the schema has a refused case that shows its message.
#[test]
fn no_rule_is_left_out() {
    let crd = serde_json::to_value(wal_crd()).unwrap();
    let mut messages = BTreeSet::new();
    collect(&crd, &mut messages);
    let words: Vec<_> = rules().into_iter().chain(updates()).filter_map(|case| case.refused).collect();
    let unreported =
        |message: &&String| !words.iter().any(|words| message.contains(words)) && !message.contains("the name starts");
    assert_eq!(messages.iter().filter(unreported).collect::<Vec<_>>(), Vec::<&String>::new());
}

fn collect(value: &Value, messages: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let rules = map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
            messages.extend(rules.filter_map(|rule| rule["message"].as_str().map(str::to_owned)));
            map.values().for_each(|value| collect(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        _ => {}
    }
}

#[tokio::test]
async fn what_cannot_change_does_not() {
    let ground = TestNamespace::new("crd-updates").await;
    ground.stored("orders", &minimal()).await;
    for case in updates() {
        let said = ground.refusal(&wal("orders", &case.spec)).await;
        match case.refused {
            Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{}: {said:?}", case.change),
            None => assert_eq!(said, None, "{}", case.change),
        }
    }
    let begun = with(&[("bootstrap", json!({"fromURL": "s3://copies/orders", "time": "2026-11-20T10:00:00Z"}))]);
    ground.stored("begun", &begun).await;
    let with_bootstrap = |bootstrap: Value| with(&[("bootstrap", bootstrap)]);
    for (change, spec, refused) in [
        ("nothing", begun.clone(), false),
        ("taken away", minimal(), true),
        (
            "another place",
            with_bootstrap(json!({"fromURL": "s3://copies/other", "time": "2026-11-20T10:00:00Z"})),
            true,
        ),
        (
            "another time",
            with_bootstrap(json!({"fromURL": "s3://copies/orders", "time": "2026-11-21T10:00:00Z"})),
            true,
        ),
        ("no time", with_bootstrap(json!({"fromURL": "s3://copies/orders"})), true),
    ] {
        let said = ground.refusal(&wal("begun", &spec)).await;
        let words = said.as_ref().is_some_and(|said| said.contains("bootstrap cannot change"));
        assert_eq!((said.is_some(), words), (refused, refused), "{change}: {said:?}");
    }
}

#[tokio::test]
async fn defaults_are_what_the_types_say() {
    let ground = TestNamespace::new("crd-defaults").await;
    let stored = ground.stored("orders", &minimal()).await;
    assert_eq!(stored.spec, serde_json::from_value::<WalSpec>(minimal()).unwrap());
    let spec = serde_json::to_value(ground.wals().get("orders").await.unwrap()).unwrap()["spec"].clone();
    let raw = ground.apply(&wal("orders", &minimal()), &strictly()).await.unwrap().data["spec"].clone();
    assert_eq!(raw, spec);
    assert_eq!(
        raw,
        json!({
            "storage": {"allowHTTP": false, "credentials": {"type": "Secret", "secretRef": {"name": "keys"}}},
            "log": {
                "url": "s3://wal/orders", "expiry": "1h", "signerClockLead": "0s", "requestTimeout": "60s",
                "visibilityDelay": "10s", "maxEntrySize": "1Mi", "auditWindow": "24h",
                "maxDescriptorSize": "16Mi", "clockTolerance": "1s",
            },
            "metadata": {"urls": ["s3://meta", "s3://vmeta"]},
            "index": {"url": "s3://idx/orders"},
            "indexer": {"cache": {"size": "8Gi"}},
            "search": {
                "replicas": 1, "cache": {"size": "8Gi"}, "auth": {"type": "None"}, "service": {"type": "ClusterIP"},
            },
            "compaction": {"enabled": true},
            "jobs": {"cache": {"size": "8Gi"}},
            "archive": {"enabled": true},
            "cleanup": {"enabled": false, "schedule": "0 4 * * *", "timeZone": "Etc/UTC", "minAge": "720h", "keepSnapshots": 3},
            "adoptOwner": "",
            "suspend": false,
            "deletionPolicy": "Retain",
        })
    );
}

/// A null takes the default, and cannot stand in for a Secret.
#[tokio::test]
async fn a_null_takes_the_default_or_is_refused() {
    let ground = TestNamespace::new("crd-nulls").await;
    let null = |changes: &[(&str, Value)]| {
        let object = wal("orders", &with(changes)).to_string().replace("\"null\"", "null");
        serde_json::from_str::<Value>(&object).unwrap()
    };
    let object = null(&[("storage.credentials", json!({"type": "Secret", "secretRef": "null"}))]);
    for said in [ground.refusal(&object).await, linted(&object)] {
        assert!(said.as_ref().is_some_and(|said| said.contains("spec.storage.credentials.secretRef")), "{said:?}");
    }
    for field in ["log.requestTimeout", "search", "suspend", "deletionPolicy"] {
        let object = null(&[(field, json!("null"))]);
        assert_eq!((ground.refusal(&object).await, linted(&object)), (None, None), "{field}");
    }
}

#[tokio::test]
async fn search_scales_and_columns_move() {
    let ground = TestNamespace::new("crd-scale").await;
    ground.stored("orders", &minimal()).await;
    let wals = ground.wals();
    assert_eq!(wals.get_scale("orders").await.unwrap().spec.unwrap().replicas, Some(1));
    let three = Patch::Merge(json!({"spec": {"replicas": 3}}));
    wals.patch_scale("orders", &PatchParams::default(), &three).await.unwrap();
    assert_eq!(wals.get("orders").await.unwrap().spec.search.replicas, 3);
    let many = Patch::Merge(json!({"spec": {"replicas": 101}}));
    assert!(wals.patch_scale("orders", &PatchParams::default(), &many).await.is_err());

    let ready = json!({
        "type": "Ready", "status": "True", "reason": "CaughtUp", "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z",
    });
    let status = json!({"status": {
        "conditions": [ready], "cursor": {"time": "2026-11-21T10:00:00Z"}, "lagSeconds": 7, "entries": 1204, "version": "0.1.0",
        "lastSnapshot": {"name": "one", "time": "2026-11-21T10:00:00Z", "verified": true},
        "search": {"replicas": 2, "selector": WalComponent::Search.selector_text("orders")},
    }});
    wals.patch_status("orders", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let scale = wals.get_scale("orders").await.unwrap().status.unwrap();
    assert_eq!((scale.replicas, scale.selector), (2, Some(WalComponent::Search.selector_text("orders"))));

    let table = ground.server.kubectl(["get", "wals", "-n", "crd-scale", "-o", "wide"]).await.unwrap();
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["NAME", "READY", "WATERMARK", "LAG", "ENTRIES", "LAST-SNAPSHOT", "AGE", "SEARCH", "VERSION", "REASON"],
        "{table}"
    );
    let [name, ready, _, lag, entries, _, _, search, version, reason] = lines[1][..] else { panic!("{table}") };
    assert_eq!(
        [name, ready, lag, entries, search, version, reason],
        ["orders", "True", "7", "1204", "2", "0.1.0", "CaughtUp"]
    );
    let explained = ground.server.kubectl(["explain", "wal.spec.log.expiry"]).await.unwrap();
    assert!(explained.contains("`1s` to `168h`"), "{explained}");
}

/// Status that the operator could not have meant is refused, too.
#[tokio::test]
async fn a_status_is_held_to_its_schema() {
    let ground = TestNamespace::new("crd-status").await;
    ground.stored("orders", &minimal()).await;
    let patch = async |status: Value| {
        let patch = Patch::Merge(json!({"status": status}));
        ground.wals().patch_status("orders", &PatchParams::default(), &patch).await.err().map(|error| error.to_string())
    };
    let condition = |status: &str, reason: &str| {
        json!({"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z",
        }]})
    };
    assert_eq!(patch(condition("True", "Ready")).await, None);
    assert!(patch(condition("Yes", "Ready")).await.is_some());
    assert!(patch(condition("True", "")).await.is_some());
    assert!(patch(json!({"cursor": {"time": "yesterday"}})).await.is_some());
    assert!(patch(json!({"indexer": {"pod": "p", "role": "Boss"}})).await.is_some());
}

/// Specs that between them change everything in the children.
fn specs_of_children() -> Vec<Value> {
    let own =
        |name: &str| json!({"credentials": {"type": "Secret", "secretRef": {"name": name}}, "caRef": {"name": "ca"}});
    let token = json!({"type": "Token", "secretRef": {"name": "token"}});
    let template = json!({
        "metadata": {"labels": {"team": "data"}, "annotations": {"a": "b"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}},
            ]}},
            "terminationGracePeriodSeconds": 45, "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"name": "RUST_BACKTRACE", "value": "1"}], "resources": {"limits": {"memory": "1Gi"}}}],
        },
    });
    vec![
        minimal(),
        with(&[
            ("log.storage", own("a")),
            ("metadata.storage", own("b")),
            ("index.storage", own("c")),
            (
                "search",
                json!({
                    "replicas": 3, "auth": token, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
                    "allowFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "podTemplate": template,
                    "resources": {"requests": {"cpu": "1"}}, "cors": {"allowOrigins": ["https://portal.example.org"]},
                }),
            ),
            (
                "indexer",
                json!({
                    "podTemplate": template, "serviceAccountAnnotations": {"a": "b"},
                    "cache": {"size": "2Gi", "volumeClaimTemplate": {"spec": {"storageClassName": "fast"}}},
                }),
            ),
            ("compaction", json!({"enabled": false})),
            ("adoptOwner", json!("uid")),
            ("bootstrap", json!({"fromURL": "s3://copies/orders", "time": "2026-11-20T10:00:00Z"})),
        ]),
        with(&[("storage.credentials", json!({"type": "WorkloadIdentity"})), ("suspend", json!(true))]),
    ]
}

fn validated(wal: &Wal) -> ValidatedWal {
    validate(wal, "cluster").unwrap()
}

#[tokio::test]
async fn the_children_are_taken_and_their_pods_are_restricted() {
    let ground = TestNamespace::new("crd-children").await;
    let platform = PlatformSettings {
        image: "tidemark.dev/tidemark:dev".to_owned(),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        operator_namespace: "tidemark-system".to_owned(),
    };
    for (place, spec) in specs_of_children().iter().enumerate() {
        let stored = ground.stored(&format!("orders-{place}"), spec).await;
        assert!(stored.meta().uid.is_some());
        for object in build(&validated(&stored), &platform, "0123456789").objects().unwrap() {
            // Pods need their account to be there.
            if object["kind"] == "ServiceAccount" {
                ground.apply(&object, &strictly()).await.unwrap();
            }
            assert_eq!(ground.refusal(&object).await, None, "{object}");
            if object["kind"] == "Deployment" {
                let pod = pod_of(&object);
                assert_eq!(ground.refusal(&pod).await, None, "{pod}");
                // The level is really enforced: one more right and the pod is refused.
                let mut loose = pod.clone();
                loose["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
                let said = ground.refusal(&loose).await;
                assert!(
                    said.as_ref().is_some_and(|said| said.contains("violates PodSecurity \"restricted")),
                    "{said:?}"
                );
            }
        }
    }
}

/// The pod that a Deployment would make.
fn pod_of(deployment: &Value) -> Value {
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "pod".into();
    pod
}

/// What the operator refuses on top of the API server is what `lint` finds: a pod template that asks for too much.
#[tokio::test]
async fn a_greedy_pod_template_is_stored_and_refused_by_operator_and_lint() {
    let ground = TestNamespace::new("crd-template").await;
    let spec = with(&[("indexer", json!({"podTemplate": {"spec": {"hostNetwork": true}}}))]);
    let stored = ground.stored("orders", &spec).await;
    let refused = validate(&stored, "cluster").map(drop).unwrap_err();
    let said = linted(&wal("orders", &spec)).unwrap();
    assert!(refused[0].message.contains("spec.indexer.podTemplate.spec.hostNetwork"), "{refused:?}");
    assert!(said.starts_with("spec.indexer.podTemplate.spec.hostNetwork: may not be set"), "{said}");
}

/// The samples that users start from are right, and the broken ones are wrong only where they say so.
#[test]
fn the_examples_are_taken_by_lint() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut looked = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "yaml") {
            let linted = lint(&std::fs::read_to_string(entry.path()).unwrap());
            assert_eq!(linted.findings, [], "{}", entry.path().display());
            looked += linted.checked;
        }
    }
    assert!(looked > 0, "no WAL in {folder}");
}
