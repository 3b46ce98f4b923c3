//! Schemas of Kubernetes' own types, as narrow as we use them, and of texts that write a span or a size.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    byte_size::ByteSize,
    time_span::{PATTERN as TIME_SPAN_PATTERN, TimeSpan},
};

/// What a [`ByteSize`] may look like.
const BYTE_SIZE_PATTERN: &str = "^[0-9]{1,10}(Ki|Mi|Gi)?$";

/// How the API server's own resources describe a quantity.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

impl JsonSchema for TimeSpan {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 40, "pattern": TIME_SPAN_PATTERN})
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 12, "pattern": BYTE_SIZE_PATTERN})
    }
}

/// `limits` and `requests` of a container.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = serde_json::json!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
            "maxLength": 64,
            "x-kubernetes-int-or-string": true,
        },
    });
    json_schema!({"type": "object", "properties": {"limits": quantities, "requests": quantities}})
}

/// Annotations.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// Peers of a NetworkPolicy.
pub(crate) fn peers(_: &mut SchemaGenerator) -> Schema {
    let selector = serde_json::json!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        // A prefix of 253 characters, a slash and a name of 63: what a label's key may have.
                        "key": {"type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                },
            },
        },
    });
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "podSelector": selector,
                "namespaceSelector": selector,
                "ipBlock": {
                    "type": "object",
                    "required": ["cidr"],
                    "properties": {
                        "cidr": {"type": "string", "minLength": 1, "maxLength": 64},
                        "except": {
                            "type": "array",
                            "maxItems": 32,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "minLength": 1, "maxLength": 64},
                        },
                    },
                },
            },
            "x-kubernetes-validations": [{
                "rule": "!has(self.ipBlock) || (!has(self.podSelector) && !has(self.namespaceSelector))",
                "message": "a peer is either an ipBlock or a selector",
            }],
        },
    })
}

/// Conditions, as every resource of Kubernetes has them.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            // The bounds of Kubernetes' own `Condition`.
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What the condition is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "`metadata.generation` of the spec that the condition is about.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time",
                    "description": "When `status` changed last, by the operator's clock.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "One word for programs.",
                },
                "message": {
                    "type": "string", "maxLength": 32768,
                    "description": "The fact, its effect, and the remedy.",
                },
            },
        },
    })
}

/// A moment.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// A moment, or nothing.
pub(crate) fn optional_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_size_that_matches_the_pattern_is_read(text in "[0-9]{0,11}(K|M|G)?i?") {
            let pattern = regex::Regex::new(BYTE_SIZE_PATTERN).unwrap();
            prop_assert_eq!(ByteSize::new(text.as_str()).bytes().is_ok(), pattern.is_match(&text), "{}", text);
        }
    }
}
