//! The CEL rules of a schema (`x-kubernetes-validations`), which the API server evaluates, by `kube-cel`.

use kube_cel::{CompiledSchema, compile_schema, validate_compiled};
use serde_json::Value;

/// The rules of one schema, compiled.
pub(super) struct CelRules(CompiledSchema);

impl CelRules {
    /// The rules of `schema` and of all its fields.
    pub(super) fn compile(schema: &Value) -> Self {
        Self(compile_schema(schema))
    }

    /// The rules that `object` breaks: where, and what each says. Rules that compare with the stored object are left out.
    pub(super) fn broken_by(&self, object: &Value) -> Vec<(String, String)> {
        let Err(errors) = validate_compiled(&self.0, object, None) else { return Vec::new() };
        errors.into_iter().map(|error| (error.field_path, error.message)).collect()
    }
}
