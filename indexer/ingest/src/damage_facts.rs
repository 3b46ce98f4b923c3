//! What is damaged, in words.

use crate::{engine::EngineError, error::IngestError, snapshot::SnapshotError};

/// How many damaged objects a message names.
const MAX_DAMAGE_FACTS: usize = 3;

/// What `damage` is of, and what is wrong with it.
pub(crate) fn damage_fact(damage: &IngestError) -> String {
    match damage {
        IngestError::Engine(EngineError::Gone { key }) => format!("\"{key}\" is gone"),
        IngestError::Engine(EngineError::Damaged { key, why })
        | IngestError::Archive(SnapshotError::ArchiveDamaged { key, why }) => format!("\"{key}\" is damaged: {why}"),
        other => other.to_string(),
    }
}

/// The objects that are damaged, each once, of many the first ones.
pub(crate) fn damage_facts<'a>(damages: impl IntoIterator<Item = &'a IngestError>) -> String {
    let mut facts = Vec::new();
    for fact in damages.into_iter().map(damage_fact) {
        if !facts.contains(&fact) {
            facts.push(fact);
        }
    }
    let more = facts.len().saturating_sub(MAX_DAMAGE_FACTS);
    facts.truncate(MAX_DAMAGE_FACTS);
    facts.extend((more > 0).then(|| format!("and {more} more")));
    facts.join(", ")
}
