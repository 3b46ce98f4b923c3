//! What the chart renders, looked at without a cluster.

use serde_json::Value;
use tidemark_crds::{KINDS, Reason, ResourceKind};

use super::helm::{HelmProgram, chart, objects, of_kind, root, values_files};

/// The metrics that the alerts may use, and the file whose code registers each: a scrape would show no more.
const METRICS: [(&str, &str, &str); 10] = [
    ("tidemark_operator_wals", "operator/src/metrics.rs", "\"wals\""),
    ("tidemark_operator_leader", "operator/src/metrics.rs", "\"leader\""),
    ("tidemark_operator_tasks_ended_total", "operator/src/metrics.rs", "\"tasks_ended\""),
    ("tidemark_operator_purges_abandoned_total", "operator/src/metrics.rs", "\"purges_abandoned\""),
    ("tidemark_operator_watch_synced", "operator/src/metrics.rs", "\"watch_synced\""),
    ("tidemark_operator_upgrades_stalled", "operator/src/metrics.rs", "\"upgrades_stalled\""),
    ("tidemark_operator_sinks", "operator/src/metrics.rs", "\"sinks\""),
    ("tidemark_operator_sink_lag_seconds", "operator/src/metrics.rs", "\"sink_lag\""),
    ("tidemark_lag_seconds", "indexer/src/metrics/index.rs", "\"lag\""),
    ("tidemark_writer_role", "indexer/src/metrics/index.rs", "\"writer_role\""),
];

#[test]
fn the_chart_passes_lint_with_each_values_file() {
    let helm = HelmProgram::new();
    let chart = chart();
    for file in values_files() {
        helm.run(&["lint", "--strict", chart.to_str().unwrap(), "--values", file.to_str().unwrap()]);
    }
}

#[test]
fn the_definition_is_the_one_that_the_types_generate() {
    let rendered = objects(&HelmProgram::new().template(&[]).unwrap());
    let rendered = of_kind(&rendered, "CustomResourceDefinition");
    assert_eq!(rendered.len(), KINDS.len(), "the chart installs another number of definitions");
    for kind in KINDS {
        let file = kind.file_name();
        let copy = std::fs::read_to_string(chart().join("files").join(&file)).unwrap();
        let generated = std::fs::read_to_string(root().join("crds/generated").join(&file)).unwrap();
        assert!(copy == generated, "charts/tidemark/files/{file} is old: run `make generate`");
        let name = kind.definition_name();
        let rendered = rendered.iter().find(|rendered| rendered["metadata"]["name"] == name.as_str()).unwrap();
        let wanted = &objects(&generated)[0];
        assert!(numbers_as_one(&rendered["spec"]) == numbers_as_one(&wanted["spec"]), "Helm changes the definition");
        let annotations = &rendered["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        assert_eq!(
            annotations["tidemark.dev/crd-version"],
            wanted["metadata"]["annotations"]["tidemark.dev/crd-version"]
        );
    }
}

/// The operator may check each definition, and work with the objects of each kind.
#[test]
fn the_operator_has_rights_on_every_kind() {
    let rendered = objects(&HelmProgram::new().template(&[]).unwrap());
    let role =
        of_kind(&rendered, "ClusterRole").into_iter().find(|role| role["metadata"]["name"] == "tidemark-operator");
    let rules = role.unwrap()["rules"].as_array().unwrap().clone();
    let allows = |field: &str, name: &str, verb: &str| {
        let names = |rule: &Value, field: &str, name: &str| {
            rule[field].as_array().is_some_and(|all| all.contains(&name.into()))
        };
        rules.iter().any(|rule| names(rule, field, name) && names(rule, "verbs", verb))
    };
    for kind in KINDS {
        assert!(allows("resourceNames", &kind.definition_name(), "get"), "{}", kind.kind);
        for verb in kind.operator_verbs {
            assert!(allows("resources", kind.plural, verb), "{verb} {}", kind.kind);
        }
        assert!(allows("resources", &format!("{}/status", kind.plural), "patch"), "{}", kind.kind);
    }
}

/// Tasks delete entries and take indexes back: who may edit a namespace may not make one, who administers it may.
#[test]
fn tasks_are_for_who_administers_a_namespace() {
    let rendered = objects(&HelmProgram::new().template(&[]).unwrap());
    let writers: Vec<&Value> = of_kind(&rendered, "ClusterRole")
        .into_iter()
        .filter(|role| role["metadata"]["name"] != "tidemark-operator")
        .filter(|role| {
            role["rules"].as_array().unwrap().iter().any(|rule| {
                let has =
                    |field: &str, name: &str| rule[field].as_array().is_some_and(|all| all.contains(&name.into()));
                has("resources", "waltasks") && has("verbs", "create")
            })
        })
        .collect();
    let [role] = writers[..] else { panic!("one role makes tasks: {writers:?}") };
    assert_eq!(role["metadata"]["name"], "tidemark-tasks");
    let labels = role["metadata"]["labels"].as_object().unwrap();
    let aggregated: Vec<&String> = labels.keys().filter(|label| label.contains("/aggregate-to-")).collect();
    assert_eq!(aggregated, ["rbac.authorization.k8s.io/aggregate-to-admin"]);
}

/// Helm writes `100.0` as `100`: the same number.
fn numbers_as_one(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().unwrap().into(),
        Value::Array(items) => items.iter().map(numbers_as_one).collect(),
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), numbers_as_one(field))).collect(),
        other => other.clone(),
    }
}

#[test]
fn wrong_values_are_refused() {
    let helm = HelmProgram::new();
    for (wrong, named) in [
        ("replicas=3", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("replicaCount=-1", "replicaCount"),
        ("replicaCount=two", "replicaCount"),
        ("concurrency=0", "concurrency"),
        ("pollInterval=10", "pollInterval"),
        ("pollInterval=0s", "pollInterval"),
        ("upgrade.approved=yes", "approved"),
        ("upgrade.maxConcurrent=0", "maxConcurrent"),
        ("otlpEndpoint=collector:4317", "otlpEndpoint"),
        ("watchNamespaces={Team_A}", "watchNamespaces"),
        ("serviceAccount.annotation.a=b", "annotation"),
        ("extraEnv[0].name=A,extraEnv[0].valueFrom.secretKeyRef.name=s", "valueFrom"),
        ("monitoring.rules.lagSeconds=0", "lagSeconds"),
        ("crds.keep=false", "keep"),
        ("serviceAccount.create=false", "serviceAccount.name is required"),
        ("watchNamespaces={team-a}", "clusterId is required"),
    ] {
        let error = helm.template(&["--set", wrong]).expect_err(wrong);
        assert!(error.contains(named), "{wrong}: {error}");
    }
}

#[test]
fn every_rule_has_a_reason() {
    let mut rules = 0;
    for file in ["_helpers.tpl", "_kinds.tpl", "clusterrole.yaml", "role.yaml"] {
        let text = std::fs::read_to_string(chart().join("templates").join(file)).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups:")) {
            rules += 1;
            assert!(lines[place - 1].starts_with("# "), "{file}:{}: \"{line}\" needs a comment above it", place + 1);
        }
    }
    assert!(rules >= 15, "{rules} rules were found");
}

#[test]
fn no_rule_reaches_secrets_or_everything() {
    for file in values_files() {
        let rendered = objects(&HelmProgram::new().template(&["--values", file.to_str().unwrap()]).unwrap());
        let roles = rendered.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
        for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
            let text = rule.to_string();
            for never in ["secrets", "\"*\"", "escalate", "\"bind\"", "impersonate", "pods/exec", "rbac.authorization"]
            {
                assert!(!text.contains(never), "{never} in {text}");
            }
        }
    }
}

#[test]
fn namespaced_mode_has_rights_in_its_namespaces_alone() {
    let file = chart().join("ci/namespaced.yaml");
    let rendered = objects(&HelmProgram::new().template(&["--values", file.to_str().unwrap()]).unwrap());
    let operators: Vec<_> = of_kind(&rendered, "ClusterRole")
        .into_iter()
        .filter(|role| role["metadata"]["name"] == "tidemark-operator")
        .collect();
    assert_eq!(operators.len(), 1);
    assert_eq!(operators[0]["rules"].as_array().unwrap().len(), 1);
    let definitions: Vec<_> = KINDS.iter().map(ResourceKind::definition_name).collect();
    assert_eq!(operators[0]["rules"][0]["resourceNames"], serde_json::json!(definitions));
    let mut namespaces: Vec<_> =
        of_kind(&rendered, "Role").iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    namespaces.sort_unstable();
    assert_eq!(namespaces, ["team-a", "team-b", "tidemark-system"]);
    let arguments = rendered_arguments(&rendered);
    for wanted in ["--namespace=team-a", "--namespace=team-b", "--cluster-id=production-1"] {
        assert!(arguments.iter().any(|argument| argument == wanted), "{arguments:?}");
    }
}

#[test]
fn every_pod_is_restricted() {
    for file in values_files() {
        let rendered = objects(&HelmProgram::new().template(&["--values", file.to_str().unwrap()]).unwrap());
        let deployment = &of_kind(&rendered, "Deployment")[0]["spec"]["template"]["spec"];
        let test = &of_kind(&rendered, "Pod")[0]["spec"];
        for pod in [deployment, test] {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["readOnlyRootFilesystem"], true);
                assert_eq!(security["capabilities"]["drop"][0], "ALL");
            }
        }
        assert_eq!(test["automountServiceAccountToken"], false);
        // NetworkPolicies of WALs admit the operator by this label.
        let labels = &of_kind(&rendered, "Deployment")[0]["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels[tidemark_crds::names::LABEL_NAME], tidemark_crds::names::OPERATOR_APP);
    }
}

#[test]
fn alerts_use_metrics_that_exist() {
    let file = chart().join("ci/everything.yaml");
    let rendered = objects(&HelmProgram::new().template(&["--values", file.to_str().unwrap()]).unwrap());
    let rules = of_kind(&rendered, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].as_array().unwrap();
    let mut used = std::collections::BTreeSet::new();
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string());
        // The label that a WAL's pods get from Prometheus begins like a metric.
        let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        used.extend(names.filter(|name| name.starts_with("tidemark_") && *name != "tidemark_dev_wal"));
        for reasons in expression.split("reason=~\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(reasons.split('|').all(|reason| Reason::parse(reason).is_some()), "{expression}");
        }
    }
    let of = |alert: &str| rules.iter().find(|rule| rule["alert"] == alert).unwrap()["expr"].as_str().unwrap();
    // An indexer without a pod has no metrics of its own, an operator without a leader none at all.
    let down = of("TidemarkIndexerDown");
    assert!(down.contains("== 0 or sum(tidemark_operator_wals{") && down.contains("reason=~"), "{down}");
    assert!(of("TidemarkOperatorWithoutLeader").contains("or vector(0)"));
    let known: std::collections::BTreeSet<_> = METRICS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(used, known);
    for (name, file, registered) in METRICS {
        let code = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(code.contains(registered), "\"{name}\": {file} does not register {registered}");
    }
}

/// The arguments of the operator.
pub(crate) fn rendered_arguments(rendered: &[Value]) -> Vec<String> {
    let container = &of_kind(rendered, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap().iter();
    arguments.map(|argument| argument.as_str().unwrap().to_owned()).collect()
}
