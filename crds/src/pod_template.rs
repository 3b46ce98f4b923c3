//! What a WAL may add to its pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A part of a pod template, as it was written. The schema takes any object; [`PodTemplate::settings`] takes what is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub Map<String, Value>);

impl JsonSchema for PodTemplate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// What a pod template may set, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTemplateSettings {
    /// Labels to add to the pods; none of Tidemark's or the recommended ones.
    pub labels: BTreeMap<String, String>,
    /// Annotations to add to the pods; none of Tidemark's.
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must bear.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    pub tolerations: Vec<Toleration>,
    /// Where pods may and should run.
    pub affinity: Option<Affinity>,
    /// How pods are spread, in place of Tidemark's own constraint.
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Priority of the pods.
    pub priority_class_name: Option<String>,
    /// How long a pod may take to stop, in seconds.
    pub termination_grace_period_seconds: Option<i64>,
    /// Secrets that the kubelet pulls the image with. The pods do not see them.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Variables to add to the container, each with a plain value; none of Tidemark's own.
    pub env: Vec<EnvVar>,
    /// Requests and limits of the container, over those of the role.
    pub resources: Option<ResourceRequirements>,
}

/// A setting of a pod template that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" {why}")]
pub struct PodTemplateRefusal {
    /// Where it is, such as `spec.hostNetwork`, counted from the template.
    pub path: String,
    /// Why it is refused, and what to do.
    pub why: String,
}

const ALLOWED: &str = "may not be set here: Tidemark decides it for every WAL. Remove it; allowed are metadata.labels, \
metadata.annotations, and of spec nodeSelector, tolerations, affinity, topologySpreadConstraints, priorityClassName, \
terminationGracePeriodSeconds, imagePullSecrets, and env and resources of one container";

/// Prefixes of label and annotation names that are Tidemark's.
const OURS: [&str; 2] = ["tidemark.dev/", "app.kubernetes.io/"];

impl PodTemplate {
    /// The settings, or everything in it that is refused.
    pub fn settings(&self) -> Result<PodTemplateSettings, Vec<PodTemplateRefusal>> {
        let mut reader = PodTemplateReader::default();
        let mut settings = PodTemplateSettings::default();
        reader.each(&self.0, "", |reader, path, name, value| match name {
            "metadata" => reader.object(path, value, |reader, map| reader.metadata(map, path, &mut settings)),
            "spec" => reader.object(path, value, |reader, map| reader.spec(map, path, &mut settings)),
            _ => reader.refuse(path, ALLOWED),
        });
        if reader.refused.is_empty() { Ok(settings) } else { Err(reader.refused) }
    }
}

#[derive(Default)]
struct PodTemplateReader {
    refused: Vec<PodTemplateRefusal>,
}

impl PodTemplateReader {
    fn refuse(&mut self, path: &str, why: impl Into<String>) {
        self.refused.push(PodTemplateRefusal { path: path.to_owned(), why: why.into() });
    }

    fn each(&mut self, map: &Map<String, Value>, path: &str, mut visit: impl FnMut(&mut Self, &str, &str, &Value)) {
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            visit(self, &path, name, value);
        }
    }

    fn object(&mut self, path: &str, value: &Value, visit: impl FnOnce(&mut Self, &Map<String, Value>)) {
        match value {
            Value::Object(map) => visit(self, map),
            _ => self.refuse(path, "is not an object; write fields below it"),
        }
    }

    fn read<T: Default + for<'a> Deserialize<'a>>(&mut self, path: &str, value: &Value) -> T {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| {
            self.refuse(path, format!("cannot be read: {error}; write it as in a pod"));
            T::default()
        })
    }

    fn names(&mut self, path: &str, value: &Value) -> BTreeMap<String, String> {
        let names: BTreeMap<String, String> = self.read(path, value);
        for name in names.keys().filter(|name| OURS.iter().any(|ours| name.starts_with(ours))) {
            self.refuse(&format!("{path}[{name}]"), "is one of Tidemark's own; use another name");
        }
        names
    }

    fn metadata(&mut self, map: &Map<String, Value>, path: &str, settings: &mut PodTemplateSettings) {
        self.each(map, path, |reader, path, name, value| match name {
            "labels" => settings.labels = reader.names(path, value),
            "annotations" => settings.annotations = reader.names(path, value),
            _ => reader.refuse(path, ALLOWED),
        });
    }

    fn spec(&mut self, map: &Map<String, Value>, path: &str, settings: &mut PodTemplateSettings) {
        self.each(map, path, |reader, path, name, value| match name {
            "nodeSelector" => settings.node_selector = reader.read(path, value),
            "tolerations" => settings.tolerations = reader.read(path, value),
            "affinity" => settings.affinity = reader.read(path, value),
            "topologySpreadConstraints" => settings.topology_spread_constraints = Some(reader.spread(path, value)),
            "priorityClassName" => settings.priority_class_name = reader.read(path, value),
            "terminationGracePeriodSeconds" => settings.termination_grace_period_seconds = reader.grace(path, value),
            "imagePullSecrets" => settings.image_pull_secrets = reader.pull_secrets(path, value),
            "containers" => reader.containers(path, value, settings),
            _ => reader.refuse(path, ALLOWED),
        });
    }

    /// Refuses elements of one key: the API server answers "internal error" to an apply of such a list.
    fn refuse_duplicates(&mut self, path: &str, keys: impl Iterator<Item = String>) {
        let mut known = BTreeSet::new();
        for (place, key) in keys.enumerate() {
            if !known.insert(key.clone()) {
                self.refuse(&format!("{path}[{place}]"), format!("is a second element for {key}; remove one of them"));
            }
        }
    }

    fn spread(&mut self, path: &str, value: &Value) -> Vec<TopologySpreadConstraint> {
        let constraints: Vec<TopologySpreadConstraint> = self.read(path, value);
        let key = |constraint: &TopologySpreadConstraint| {
            format!(
                "topologyKey \"{}\" and whenUnsatisfiable \"{}\"",
                constraint.topology_key, constraint.when_unsatisfiable
            )
        };
        self.refuse_duplicates(path, constraints.iter().map(key));
        constraints
    }

    fn pull_secrets(&mut self, path: &str, value: &Value) -> Vec<LocalObjectReference> {
        let secrets: Vec<LocalObjectReference> = self.read(path, value);
        self.refuse_duplicates(path, secrets.iter().map(|secret| format!("\"{}\"", secret.name)));
        secrets
    }

    fn grace(&mut self, path: &str, value: &Value) -> Option<i64> {
        let seconds: Option<i64> = self.read(path, value);
        if seconds.is_some_and(|seconds| !(1..=3600).contains(&seconds)) {
            self.refuse(path, "is not from 1 to 3600 seconds");
        }
        seconds
    }

    fn containers(&mut self, path: &str, value: &Value, settings: &mut PodTemplateSettings) {
        let containers: Vec<Map<String, Value>> = self.read(path, value);
        if containers.len() > 1 {
            self.refuse(path, "has more than one container: only Tidemark's runs. Merge them into one");
        }
        for (place, container) in containers.iter().enumerate() {
            let path = format!("{path}[{place}]");
            self.each(container, &path, |reader, path, name, value| match name {
                "env" => settings.env = reader.env(path, value),
                "resources" => settings.resources = Some(reader.read(path, value)),
                // Those who copy a pod write the name; there is only one container.
                "name" => {}
                _ => reader.refuse(path, ALLOWED),
            });
        }
    }

    fn env(&mut self, path: &str, value: &Value) -> Vec<EnvVar> {
        let variables: Vec<EnvVar> = self.read(path, value);
        self.refuse_duplicates(path, variables.iter().map(|variable| format!("\"{}\"", variable.name)));
        for (place, variable) in variables.iter().enumerate() {
            let path = format!("{path}[{place}]");
            if variable.value_from.is_some() {
                self.refuse(
                    &format!("{path}.valueFrom"),
                    "is not allowed: pods see no Secrets but the WAL's own. Write a plain value",
                );
            }
            if variable.name.starts_with("TIDEMARK_") {
                self.refuse(
                    &format!("{path}.name"),
                    format!("is \"{}\", which Tidemark sets from the spec; set the spec's field", variable.name),
                );
            }
        }
        variables
    }
}
