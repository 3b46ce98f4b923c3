//! Nulls and defaults, as the API server treats them before it looks at anything else.

use serde_json::{Map, Value};

/// Sets the defaults of fields that are missing or null, also inside of defaults. A null of a field without default stays, and is
/// refused for its type.
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
        let wanting = object.get(name).is_none_or(Value::is_null);
        if let (true, Some(default)) = (wanting, property.get("default")) {
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
