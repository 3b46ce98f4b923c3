//! Types, bounds, patterns and unknown fields: the part of a schema that is not CEL.
//!
//! A validator of JSON Schema would not do: it takes an unknown field where the API server does not, and knows nothing of
//! Kubernetes' extensions (`x-kubernetes-int-or-string`, `x-kubernetes-preserve-unknown-fields`).

use regex::Regex;
use serde_json::{Map, Value};

/// The fields of a resource's metadata.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Fields of `metadata` that no resource has.
pub(super) fn unknown_metadata(metadata: &Value) -> Vec<String> {
    let fields = metadata.as_object().into_iter().flatten();
    fields.map(|(name, _)| name.clone()).filter(|name| !METADATA.contains(&name.as_str())).collect()
}

/// Adds to `found` everything in `value` that `schema` does not take, each with its path.
pub(super) fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let mut say = |message: String| found.push((path.to_owned(), message));
    if let Some(wanted) = wrong_type(schema, value) {
        return say(format!("is {}; wanted is {wanted}", named(value)));
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        say(format!("is {value}; it is one of {}", allowed.join(", ")));
    }
    match value {
        Value::String(text) => check_text(schema, text, &mut say),
        Value::Number(number) => check_number(schema, number.as_f64(), &mut say),
        Value::Array(items) => {
            check_count(schema, "Items", items.len(), "items", &mut say);
            let is_set = schema["x-kubernetes-list-type"] == "set";
            if let Some(twice) = (1..items.len()).find(|place| is_set && items[..*place].contains(&items[*place])) {
                say(format!("has {} twice", items[twice]));
            }
            for (place, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{place}]"), found);
            }
        }
        Value::Object(object) => {
            check_count(schema, "Properties", object.len(), "fields", &mut say);
            check_fields(schema, object, path, found);
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// The type that is wanted, if `value` is not of it.
fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    if schema["x-kubernetes-int-or-string"] == true {
        return (!value.is_i64() && !value.is_string()).then(|| "a whole number or a text".to_owned());
    }
    let (right, wanted) = match schema["type"].as_str()? {
        "object" => (value.is_object(), "an object"),
        "array" => (value.is_array(), "a list"),
        "string" => (value.is_string(), "a text; quote it if it looks like a number"),
        "boolean" => (value.is_boolean(), "true or false"),
        "integer" => (value.as_f64().is_some_and(|number| number.fract() == 0.0), "a whole number"),
        "number" => (value.is_number(), "a number"),
        _ => return None,
    };
    (!right).then(|| wanted.to_owned())
}

fn named(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

fn check_text(schema: &Value, text: &str, say: &mut impl FnMut(String)) {
    check_count(schema, "Length", text.chars().count(), "characters", say);
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        say(format!("is \"{text}\"; it is a time such as 2026-11-20T10:00:00Z"));
    }
    let Some(pattern) = schema["pattern"].as_str() else { return };
    if !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
        say(format!("is \"{text}\"; it matches {pattern}"));
    }
}

fn check_number(schema: &Value, number: Option<f64>, say: &mut impl FnMut(String)) {
    let Some(number) = number else { return };
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        say(format!("is {number}; the least is {least}"));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        say(format!("is {number}; the most is {most}"));
    }
}

fn check_count(schema: &Value, what: &str, count: usize, unit: &str, say: &mut impl FnMut(String)) {
    let bound = |name: &str| schema[format!("{name}{what}")].as_u64().and_then(|bound| usize::try_from(bound).ok());
    if let Some(least) = bound("min").filter(|least| count < *least) {
        say(format!("has {count} {unit}; the least is {least}"));
    }
    if let Some(most) = bound("max").filter(|most| count > *most) {
        say(format!("has {count} {unit}; the most is {most}"));
    }
}

fn check_fields(schema: &Value, object: &Map<String, Value>, path: &str, found: &mut Vec<(String, String)>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            found.push((below(name), "is missing".to_owned()));
        }
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let values = &schema["additionalProperties"];
    for (name, value) in object {
        let property = &schema["properties"][name];
        if property.is_object() {
            check(property, value, &below(name), found);
        } else if values.is_object() {
            check(values, value, &below(name), found);
        } else if !open && !is_type_meta(path, name) {
            found.push((below(name), "is not a known field".to_owned()));
        }
    }
}

/// Every resource has these; schemas of resources leave them out.
fn is_type_meta(path: &str, name: &str) -> bool {
    path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name)
}
