//! Looks through one file, document by document, and collects what is wrong.

use std::sync::LazyLock;

use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};

use super::{cel_rules::CelRules, defaults, structure};
use crate::{
    cron_schedule::CronSchedule,
    kinds::{KINDS, ResourceKind},
    names,
    pod_template::PodTemplate,
};

/// Something in a file that the API server or the operator would refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LintFinding {
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Where it is in the document, such as `spec.log.expiry`; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// A document that was not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedDocument {
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Its `apiVersion` and `kind`.
    pub kind: String,
}

/// What [`lint`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LintReport {
    /// What is wrong, in the order of the documents.
    pub findings: Vec<LintFinding>,
    /// Documents of other kinds.
    pub skipped: Vec<SkippedDocument>,
    /// How many resources of ours were looked at.
    pub checked: usize,
}

/// Looks through every document of a YAML file. Documents of other kinds are skipped, and said so; a `List` is looked into.
pub fn lint(yaml: &str) -> LintReport {
    let mut linter = ResourceLinter::new();
    for (place, document) in serde_norway::Deserializer::from_str(yaml).enumerate() {
        linter.document = place + 1;
        match serde_norway::Value::deserialize(document).map(serde_json::to_value) {
            Ok(Ok(value)) => linter.document(value),
            Ok(Err(error)) => linter.find("", format!("is not valid JSON: {error}")),
            Err(error) => {
                linter.find("", format!("is not valid YAML: {error}"));
                // Where the next document starts is not known.
                break;
            }
        }
    }
    linter.report
}

/// A kind with its schema, and the CEL rules of that.
struct KindSchema {
    kind: &'static ResourceKind,
    schema: Value,
    rules: CelRules,
}

/// The schemas of all kinds.
static SCHEMAS: LazyLock<Vec<KindSchema>> = LazyLock::new(|| KINDS.iter().map(KindSchema::compile).collect());

impl KindSchema {
    fn compile(kind: &'static ResourceKind) -> Self {
        let crd = serde_json::to_value((kind.definition)()).unwrap_or_default();
        let mut versions = crd["spec"]["versions"].as_array().into_iter().flatten();
        let version = versions.find(|version| version["name"] == kind.version);
        let schema = version.map(|version| version["schema"]["openAPIV3Schema"].clone()).unwrap_or_default();
        let rules = CelRules::compile(&schema);
        Self { kind, schema, rules }
    }
}

struct ResourceLinter {
    document: usize,
    report: LintReport,
}

impl ResourceLinter {
    fn new() -> Self {
        Self { document: 1, report: LintReport::default() }
    }

    fn find(&mut self, path: &str, message: impl Into<String>) {
        let finding = LintFinding { document: self.document, path: path.to_owned(), message: message.into() };
        self.report.findings.push(finding);
    }

    fn document(&mut self, value: Value) {
        let mut object = match value {
            Value::Null => return,
            Value::Object(object) => object,
            _ => return self.find("", "is not a resource: apiVersion and kind are missing"),
        };
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind == "List" {
            if let Some(Value::Array(items)) = object.remove("items") {
                for item in items {
                    self.document(item);
                }
            }
            return;
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        if group != names::GROUP {
            let kind = if kind.is_empty() { "no kind".to_owned() } else { format!("{api_version} {kind}") };
            self.report.skipped.push(SkippedDocument { document: self.document, kind });
        } else if let Some(known) =
            SCHEMAS.iter().find(|known| known.kind.kind == kind && known.kind.version == version)
        {
            self.report.checked += 1;
            self.resource(known, object);
        } else {
            let known: Vec<_> =
                KINDS.iter().map(|kind| format!("{}/{} {}", names::GROUP, kind.version, kind.kind)).collect();
            let known = known.join(", ");
            self.find("kind", format!("\"{api_version} {kind}\" is not a kind of this release; it knows {known}"));
        }
    }

    fn resource(&mut self, known: &KindSchema, object: Map<String, Value>) {
        let before = self.report.findings.len();
        let mut object = Value::Object(object);
        self.metadata(&mut object);
        defaults::apply(&known.schema, &mut object);
        let mut found = Vec::new();
        structure::check(&known.schema, &object, "", &mut found);
        for (path, message) in found {
            self.find(&path, message);
        }
        // As in the API server: rules read fields, so the fields must be right first.
        if self.report.findings.len() == before {
            for (path, message) in known.rules.broken_by(&object) {
                self.find(&path, message);
            }
            self.schedules(known.kind, &object);
        }
        self.pod_templates(known.kind, &object);
    }

    fn metadata(&mut self, object: &mut Value) {
        for field in structure::unknown_metadata(&object["metadata"]) {
            self.find(&format!("metadata.{field}"), "is not a field of metadata");
        }
        let text = |name: &str| object["metadata"][name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        match (text("name"), text("generateName")) {
            (Some(_), _) => {}
            // The API server adds five characters.
            (None, Some(prefix)) => object["metadata"]["name"] = format!("{prefix}00000").into(),
            (None, None) => self.find("metadata.name", "is missing"),
        }
    }

    /// As the operator reads them.
    fn schedules(&mut self, kind: &ResourceKind, object: &Value) {
        for part in kind.schedules {
            let text = |field: &str| object["spec"][*part][field].as_str().unwrap_or_default();
            let (schedule, time_zone) = (text("schedule"), text("timeZone"));
            if schedule.is_empty() {
                continue;
            }
            if let Err(error) = CronSchedule::parse(schedule, time_zone) {
                self.find(&format!("spec.{part}.{}", error.field()), error.to_string());
            }
        }
    }

    fn pod_templates(&mut self, kind: &ResourceKind, object: &Value) {
        for role in kind.pod_roles {
            let path = format!("/{}/podTemplate", role.replace('.', "/"));
            let Some(Value::Object(template)) = object.pointer(&path) else { continue };
            let Err(refused) = PodTemplate(template.clone()).settings() else { continue };
            for refusal in refused {
                self.find(&format!("{role}.podTemplate.{}", refusal.path), refusal.why);
            }
        }
    }
}
