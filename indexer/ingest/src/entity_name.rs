//! The entity that an operation belongs to.

use serde_json::Value;
use tidemark_wal::{DatamonPath, EntryIntent, entity_key};

/// Longest name of an entity in bytes that an operation may choose.
pub(crate) const MAX_ENTITY_BYTES: usize = 1024;

/// The entity of operation `number` of an intent, whose descriptor is at `path`: that of the descriptor, else the one that its attributes name.
pub fn operation_entity(path: &DatamonPath, intent: &EntryIntent, number: usize) -> Option<String> {
    entity_key(path).or_else(|| chosen_entity(intent, number))
}

/// The entity that the attributes of operation `number` name, else those of its entry.
pub(crate) fn chosen_entity(intent: &EntryIntent, number: usize) -> Option<String> {
    let own = intent.ops.get(number).and_then(|op| op.attributes.get("entity"));
    own.or_else(|| intent.attributes.get("entity")).and_then(Value::as_str).and_then(free_entity)
}

/// The entity key of an operation that names its entity itself, in a name space of its own, so that no free name can
/// pass for a label or a bundle.
pub(crate) fn free_entity(name: &str) -> Option<String> {
    (!name.is_empty() && name.len() <= MAX_ENTITY_BYTES).then(|| format!("entry/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_name_never_passes_for_a_label() {
        assert_eq!(free_entity("label/r/prod").as_deref(), Some("entry/label/r/prod"));
        assert_eq!(free_entity(""), None);
        assert_eq!(free_entity(&"x".repeat(MAX_ENTITY_BYTES + 1)), None);
    }
}
