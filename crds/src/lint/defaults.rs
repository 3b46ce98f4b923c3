//! Nulls and defaults, as the API server treats them before it looks at anything else.

use serde_json::{Map, Value};

/// Drops the nulls of known fields and sets the defaults of those that are missing, also inside of defaults.
pub(super) fn apply(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => fields(schema, object),
        Value::Array(items) => {
            for item in items {
                apply(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn fields(schema: &Value, object: &mut Map<String, Value>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if object.get(name).is_some_and(Value::is_null) {
            object.remove(name);
        }
        if let (false, Some(default)) = (object.contains_key(name), property.get("default")) {
            object.insert(name.clone(), default.clone());
        }
        if let Some(value) = object.get_mut(name) {
            apply(property, value);
        }
    }
    if schema["additionalProperties"].is_object() {
        for value in object.values_mut() {
            apply(&schema["additionalProperties"], value);
        }
    }
}
