//! The definition that the API server gets.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{wal::Wal, wal_sink::WalSink, wal_task::WalTask};

/// Annotation of the definition: the release that it belongs to. An operator that finds an older one stays unready.
pub const CRD_VERSION_ANNOTATION: &str = "tidemark.dev/crd-version";
/// Value of [`CRD_VERSION_ANNOTATION`] in this release.
pub const CRD_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Bytes of compact JSON that a definition may have: `kubectl apply` keeps a copy of it in an annotation of that size.
pub const SIZE_LIMIT: usize = 262_144;

const HEADER: &str = "# Written by `make generate`. Change the types, not this file.\n";

/// The definition of kind `WAL`.
pub fn wal_crd() -> CustomResourceDefinition {
    definition::<Wal>()
}

/// The definition of kind `WALTask`.
pub fn wal_task_crd() -> CustomResourceDefinition {
    definition::<WalTask>()
}

/// The definition of kind `WALSink`.
pub fn wal_sink_crd() -> CustomResourceDefinition {
    definition::<WalSink>()
}

/// The definition of a kind.
fn definition<K: CustomResourceExt>() -> CustomResourceDefinition {
    let mut crd = K::crd();
    crd.metadata.annotations.get_or_insert_default().insert(CRD_VERSION_ANNOTATION.to_owned(), CRD_VERSION.to_owned());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|fields| fields.get_mut("status")) {
                // Tools that follow kstatus take an object without a status for one that is as it should be.
                status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
            }
        }
    }
    crd
}

/// The definition of kind `WAL` as the file `crds/generated/wals.yaml` holds it.
pub fn wal_crd_yaml() -> Result<String, serde_norway::Error> {
    crd_yaml(&wal_crd())
}

/// A definition as its generated file holds it.
pub(crate) fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_norway::Error> {
    // Through a value, so that the order of the fields is that of their names.
    let value = serde_norway::to_value(crd)?;
    Ok(format!("{HEADER}{}", serde_norway::to_string(&value)?))
}

/// Makes of a derived schema what the API server and its readers want.
fn tidy(schema: &mut JSONSchemaProps) {
    // A null is then a default or refused, so that has() means what it says.
    schema.nullable = None;
    schema.title = None;
    schema.description = schema.description.take().map(|text| unwrapped(&text));
    // Only these are known; others make the API server warn.
    if schema.format.as_deref().is_some_and(|format| !["date-time", "int32", "int64"].contains(&format)) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        tidy(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        tidy(values);
    }
}

/// Doc comments are wrapped for the width of the source; `kubectl explain` wraps by itself.
fn unwrapped(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    /// Each definition as JSON, with its kind.
    fn definitions() -> Vec<(&'static str, serde_json::Value)> {
        KINDS.iter().map(|kind| (kind.kind, serde_json::to_value((kind.definition)()).unwrap())).collect()
    }

    fn schema(definition: &serde_json::Value) -> &serde_json::Value {
        &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }

    #[test]
    fn each_definition_is_small_enough_to_be_applied() {
        for (kind, definition) in definitions() {
            let size = definition.to_string().len();
            println!("the definition of {kind} has {size} of {SIZE_LIMIT} bytes");
            assert!(size < SIZE_LIMIT, "{kind}: {size} bytes");
        }
    }

    #[test]
    fn the_names_are_those_that_everybody_uses() {
        let crd = wal_crd();
        assert_eq!(crd.metadata.name.as_deref(), Some("wals.tidemark.dev"));
        assert_eq!(crd.spec.group, crate::names::GROUP);
        assert_eq!(crd.spec.names.kind, crate::names::KIND);
        assert_eq!(crd.spec.names.categories, Some(vec![crate::names::CATEGORY.to_owned()]));
        assert_eq!(crd.spec.versions[0].name, crate::names::VERSION);
        let rule = crate::names::WAL_NAME_PATTERN;
        assert!(serde_json::to_string(&crd).unwrap().contains(rule), "the rule on the name is not names.rs's");
    }

    #[test]
    fn an_object_that_no_operator_has_seen_is_not_taken_for_current() {
        for (kind, definition) in definitions() {
            let status = &schema(&definition)["properties"]["status"];
            assert_eq!(status["default"], serde_json::json!({"observedGeneration": -1}), "{kind}");
        }
    }

    /// Without bounds CEL's cost cannot be estimated, and one object could fill the API server.
    #[test]
    fn every_text_list_and_map_of_the_spec_is_bounded() {
        let mut unbounded = Vec::new();
        for (kind, definition) in definitions() {
            look(&schema(&definition)["properties"]["spec"], kind, &mut unbounded);
        }
        assert_eq!(unbounded, Vec::<String>::new());
    }

    fn look(schema: &serde_json::Value, path: &str, unbounded: &mut Vec<String>) {
        let has = |name: &str| !schema[name].is_null();
        let bounded = match schema["type"].as_str() {
            Some("string") => has("maxLength") || has("enum") || has("format"),
            Some("array") => has("maxItems"),
            Some("object") if has("additionalProperties") => has("maxProperties"),
            _ => true,
        };
        if !bounded {
            unbounded.push(path.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            look(property, &format!("{path}.{name}"), unbounded);
        }
        for inner in ["items", "additionalProperties"] {
            if has(inner) {
                look(&schema[inner], &format!("{path}[]"), unbounded);
            }
        }
    }

    #[test]
    fn every_field_is_described() {
        let mut silent = Vec::new();
        for (kind, definition) in definitions() {
            describe(schema(&definition), kind, &mut silent);
        }
        silent.retain(|path| !path.contains("resources") && !path.contains("allowFrom"));
        assert_eq!(silent, ["wal"; 0]);
    }

    fn describe(schema: &serde_json::Value, path: &str, silent: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if !property["description"].is_string() {
                silent.push(path.clone());
            }
            describe(property, &path, silent);
            describe(&property["items"], &path, silent);
        }
    }
}
