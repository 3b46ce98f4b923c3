//! Whether an object already is as it should be, so that nothing is written when nothing differs. No library does this.
//!
//! The API server adds defaults and writes quantities its own way, other programs add fields of their own. So the question
//! is not whether two objects are equal, but whether everything that is wanted is there. What is no longer wanted shows in
//! a digest of the whole wanted object, which is kept in an annotation.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tidemark_crds::parse_quantity_millis;

/// Annotation of an owned object: digest of the object that was applied last.
pub(crate) const ANNOTATION_DIGEST: &str = "tidemark.dev/applied-digest";

/// Digest of a wanted object: 16 hex digits.
pub(crate) fn digest(wanted: &Value) -> String {
    let hash = Sha256::digest(canonical(wanted).to_string());
    hex::encode(&hash[..8])
}

/// Whether everything in `wanted` is in `live`.
pub(crate) fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| live.get(name).map_or(is_nothing(wanted), |live| holds(live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) => list_holds(live, wanted),
        (Value::String(live), Value::String(wanted)) => {
            live == wanted
                || parse_quantity_millis(live).is_some_and(|live| Some(live) == parse_quantity_millis(wanted))
        }
        (Value::Number(live), Value::Number(wanted)) => live.as_f64() == wanted.as_f64(),
        (live, wanted) => live == wanted,
    }
}

/// Whether a list holds what is wanted of it: lists with keys may have more elements, others must be equal in length.
fn list_holds(live: &[Value], wanted: &[Value]) -> bool {
    let Some(keys) = keys(wanted) else {
        return live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| holds(live, wanted));
    };
    wanted.iter().all(|wanted| {
        live.iter().any(|live| keys.iter().all(|key| live.get(*key) == wanted.get(*key)) && holds(live, wanted))
    })
}

/// The fields that identify the elements of a list, as server-side apply merges the lists of our children.
fn keys(list: &[Value]) -> Option<&'static [&'static str]> {
    const KEYS: [&[&str]; 6] = [
        &["mountPath"],
        &["containerPort"],
        &["port", "name"],
        &["topologyKey", "whenUnsatisfiable"],
        &["uid"],
        &["name"],
    ];
    let has = |element: &Value, keys: &[&str]| keys.iter().all(|key| element.get(key).is_some());
    KEYS.into_iter().find(|keys| !list.is_empty() && list.iter().all(|element| has(element, keys)))
}

/// What the API server leaves out: empty texts, lists and objects.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The value with the fields of every object in the order of their names.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), canonical(value))).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(sorted))
        }
        Value::Array(list) => Value::Array(list.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_the_fields_of_others_are_no_difference() {
        let wanted = json!({
            "replicas": 1,
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1024Mi", "cpu": "0.5"}}, "env": [
                {"name": "X", "value": ""}]}],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "tolerations": [],
        });
        let live = json!({
            "replicas": 1, "revisionHistoryLimit": 10,
            "containers": [
                {"name": "injected"},
                {"name": "a", "resources": {"requests": {"memory": "1Gi", "cpu": "500m"}}, "terminationMessagePath": "/dev",
                 "env": [{"name": "X"}, {"name": "INJECTED", "value": "1"}]},
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        });
        assert!(holds(&live, &wanted));
    }

    #[test]
    fn a_changed_value_a_missing_element_and_a_missing_flag_are_differences() {
        let wanted = json!({"env": [{"name": "A", "value": "1"}], "args": ["x"], "automount": false});
        for live in [
            json!({"env": [{"name": "A", "value": "2"}], "args": ["x"], "automount": false}),
            json!({"env": [], "args": ["x"], "automount": false}),
            json!({"env": [{"name": "A", "value": "1"}], "args": ["x", "y"], "automount": false}),
            json!({"env": [{"name": "A", "value": "1"}], "args": ["x"]}),
        ] {
            assert!(!holds(&live, &wanted), "{live}");
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_the_order_of_fields() {
        assert_eq!(digest(&json!({"a": 1, "b": 2})), digest(&json!({"b": 2, "a": 1})));
        assert_ne!(digest(&json!({"a": 1, "b": 2})), digest(&json!({"a": 1})));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z0-9.]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}|name|port", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_object_holds_itself(value in values()) {
            prop_assert!(holds(&value, &value));
        }

        #[test]
        fn an_added_field_is_never_a_difference(value in values()) {
            let live = json!({"spec": value, "status": 1});
            let wanted = json!({"spec": value});
            prop_assert!(holds(&live, &wanted));
        }
    }
}
