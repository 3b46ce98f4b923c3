//! Drafts of entries as people and programs write them in JSON, and which of them may be appended at once.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use tidemark_wal::{CommitExpectation, DraftOperation, EntryDraft, LockRef};
use utoipa::ToSchema;

/// A draft. An object without `ops` is an entry of its own with all its members as attributes; one with `expect` is refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EntryInput {
    /// Who writes; the writer that the service was started with if left out. Idempotency keys count per writer.
    #[serde(default)]
    writer: Option<String>,
    /// Makes a repeated append count once. Without one it has a random key.
    #[serde(default)]
    idempotency_key: Option<String>,
    /// The write lock that guards it: `{"name": "models", "grant": 3}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    lock: Option<LockRef>,
    /// What the newest commit of an entity has to be: `{"entity": "label/models/best", "token": "3Gn8…"}`, or `null` for none yet. It is committed
    /// only if that holds when it is decided, and only an index can tell.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    expect: Option<CommitExpectation>,
    /// Free attributes of the entry.
    #[serde(default)]
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
    /// What the entry announces, committed together or not at all. None means one operation that the entry itself completes.
    ops: Vec<OperationInput>,
}

/// One operation of a draft.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum OperationInput {
    /// A descriptor; a body that is not a string is written as YAML.
    Descriptor {
        /// Its key in the first metadata store.
        path: String,
        /// What it holds.
        body: Value,
    },
    /// A label moved to a bundle.
    Label {
        /// The repo.
        repo: String,
        /// The label.
        label: String,
        /// The bundle.
        bundle: String,
    },
    /// Nothing but the entry.
    Entry {
        /// Free attributes of the operation.
        #[schema(value_type = Object)]
        attributes: Map<String, Value>,
    },
}

/// Why JSON is no draft.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidDraftInput(String);

/// The draft that a JSON object is.
pub(crate) fn entry_draft(value: Map<String, Value>) -> Result<EntryDraft, InvalidDraftInput> {
    if !value.contains_key("ops") {
        // As an attribute it would expect nothing, and an update that it was to prevent would be acknowledged.
        if value.contains_key("expect") {
            let why = "\"expect\" is without \"ops\", so that it would be an attribute and nothing would be expected; add \"ops\": []";
            return Err(InvalidDraftInput(why.to_owned()));
        }
        return Ok(EntryDraft { attributes: value, ..EntryDraft::default() });
    }
    let invalid = |error: serde_json::Error| InvalidDraftInput(error.to_string());
    let EntryInput { writer, idempotency_key, lock, expect, attributes, ops } =
        serde_json::from_value(Value::Object(value)).map_err(invalid)?;
    let ops = ops.into_iter().map(draft_operation).collect::<Result<_, _>>()?;
    Ok(EntryDraft { writer, idempotency_key, lock, expect, attributes, ops })
}

/// The first draft that has an idempotency key which counts for no writer. The key of a random writer would count for one process only, and
/// that of a common one would collide with the keys of others.
pub(crate) fn keyed_without_writer(drafts: &[EntryDraft]) -> Option<usize> {
    drafts.iter().position(|draft| draft.idempotency_key.is_some() && draft.writer.is_none())
}

/// The drafts in order, in runs that may be appended at once: within a run no two name the same thing, so that a label's
/// moves keep their order, a bundle comes before its label, and the first of a repeated key is the one that counts. What expects something
/// of what was before is a run of its own.
pub(crate) fn independent_runs(drafts: Vec<EntryDraft>) -> Vec<Vec<EntryDraft>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    let (mut named, mut is_alone) = (BTreeSet::new(), false);
    for draft in drafts {
        let names = names(&draft);
        is_alone |= draft.expect.is_some();
        if is_alone || names.iter().any(|name| named.contains(name)) {
            runs.push(std::mem::take(&mut run));
            named.clear();
        }
        is_alone = draft.expect.is_some();
        named.extend(names);
        run.push(draft);
    }
    runs.push(run);
    runs.retain(|run| !run.is_empty());
    runs
}

/// What a draft writes or relies on.
fn names(draft: &EntryDraft) -> Vec<String> {
    let of_ops = draft.ops.iter().flat_map(|op| match op {
        DraftOperation::Descriptor { path, .. } => vec![path.clone()],
        DraftOperation::Label { repo, label, bundle, .. } => {
            vec![format!("labels/{repo}/{label}/label.yaml"), format!("bundles/{repo}/{bundle}/bundle.yaml")]
        }
        DraftOperation::Entry { .. } => Vec::new(),
    });
    of_ops.chain(draft.idempotency_key.iter().map(|key| format!("key {key}"))).collect()
}

fn draft_operation(op: OperationInput) -> Result<DraftOperation, InvalidDraftInput> {
    Ok(match op {
        OperationInput::Descriptor { path, body: Value::String(text) } => {
            DraftOperation::Descriptor { path, body: Bytes::from(text) }
        }
        OperationInput::Descriptor { path, body } => DraftOperation::Descriptor { path, body: yaml(&body)? },
        OperationInput::Label { repo, label, bundle } => {
            let body = yaml(&serde_json::json!({"name": label, "id": bundle}))?;
            DraftOperation::Label { repo, label, bundle, body }
        }
        OperationInput::Entry { attributes } => DraftOperation::Entry { attributes },
    })
}

fn yaml(value: &Value) -> Result<Bytes, InvalidDraftInput> {
    let text = serde_norway::to_string(value).map_err(|error| InvalidDraftInput(error.to_string()))?;
    Ok(Bytes::from(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(value: Value) -> EntryDraft {
        let Value::Object(value) = value else { panic!("{value} is no object") };
        entry_draft(value).unwrap()
    }

    #[test]
    fn a_lock_comes_with_the_draft_and_an_unknown_field_is_refused() {
        let guarded = draft(json!({"ops": [], "lock": {"name": "models", "grant": 3}}));
        assert_eq!(guarded.lock.map(|lock| (lock.name.to_string(), lock.grant)), Some(("models".to_owned(), Some(3))));
        let Value::Object(typo) = json!({"ops": [], "idempotencykey": "k"}) else { unreachable!() };
        assert!(entry_draft(typo).unwrap_err().to_string().contains("idempotencykey"));
    }

    #[test]
    fn an_expectation_without_operations_is_refused() {
        let expect = json!({"entity": "entry/e"});
        let Value::Object(bare) = json!({"expect": expect, "attributes": {"entity": "e"}}) else { unreachable!() };
        let refused = entry_draft(bare).unwrap_err().to_string();
        assert!(refused.contains("\"expect\"") && refused.contains("add \"ops\": []"), "{refused}");
        let expecting = draft(json!({"expect": expect, "attributes": {"entity": "e"}, "ops": []}));
        assert!(expecting.expect.is_some() && !expecting.attributes.contains_key("expect"));
    }

    #[test]
    fn a_key_needs_a_writer() {
        let drafts = [json!({}), json!({"writer": "team-a", "idempotencyKey": "k", "ops": []})].map(draft);
        assert_eq!(keyed_without_writer(&drafts), None);
        let drafts = [json!({}), json!({"idempotencyKey": "k", "ops": []})].map(draft);
        assert_eq!(keyed_without_writer(&drafts), Some(1));
    }

    #[test]
    fn what_shares_a_name_is_appended_in_order() {
        let label = |bundle: &str| draft(json!({"ops": [{"repo": "r", "label": "l", "bundle": bundle}]}));
        let bundle = |id: &str| draft(json!({"ops": [{"path": format!("bundles/r/{id}/bundle.yaml"), "body": {}}]}));
        let key = || draft(json!({"idempotencyKey": "k", "ops": []}));
        let free = || draft(json!({}));
        let lengths = |drafts: Vec<EntryDraft>| independent_runs(drafts).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(vec![bundle("a"), bundle("b"), key(), free(), free()]), [5]);
        assert_eq!(lengths(vec![label("a"), label("b"), bundle("c"), label("c")]), [1, 2, 1]);
        assert_eq!(lengths(vec![key(), bundle("a"), key()]), [2, 1]);
        let expecting = || draft(json!({"ops": [], "expect": {"entity": "entry/e"}}));
        assert_eq!(lengths(vec![free(), free(), expecting(), expecting(), free(), free()]), [2, 1, 1, 2]);
        assert_eq!(lengths(vec![expecting()]), [1]);
    }
}
