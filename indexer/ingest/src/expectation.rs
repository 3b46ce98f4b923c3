//! What the intent of an operation expects of an entity, as its record keeps it.

use serde::{Deserialize, Serialize};
use tidemark_wal::{CommitExpectation, Token, text_bytes};

/// What the intent of an operation expects of an entity, and what its newest commit was where that did not hold.
///
/// Its JSON is stored: a member may be added, none may change its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedExpectation {
    /// The entity.
    pub entity: String,
    /// The entry that is expected to have its newest commit; `None`: there is to be no commit of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The newest commit when a conflicted operation was decided; `None`: there was none. Nothing else has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictingCommit>,
}

/// The committed operation that a conflicted one found in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictingCommit {
    /// Its entry.
    pub token: Token,
    /// Its place within the entry.
    pub op: u32,
}

impl RecordedExpectation {
    /// What an intent expects, before it is decided.
    pub fn of(expect: &CommitExpectation) -> Self {
        let CommitExpectation { entity, token } = expect;
        Self { entity: entity.clone(), token: *token, conflict: None }
    }

    /// Whether both were read in the same intent.
    pub(crate) fn expects_the_same(&self, other: &Self) -> bool {
        (&self.entity, self.token) == (&other.entity, other.token)
    }

    /// Bytes that it has allocated.
    pub(crate) fn memory_bytes(&self) -> u64 {
        text_bytes(&self.entity)
    }

    /// Why a conflicted operation is none that is committed.
    pub(crate) fn conflict_reason(&self) -> String {
        let Self { entity, token, conflict } = self;
        match (token, conflict) {
            (Some(token), Some(found)) if found.token == *token => format!(
                "it expects entry \"{token}\" to have the newest commit of \"{entity}\", and was itself complete before that"
            ),
            (Some(token), Some(found)) => format!(
                "it expects entry \"{token}\" to have the newest commit of \"{entity}\", and that is operation {} of \"{}\"",
                found.op, found.token
            ),
            (Some(token), None) => format!(
                "it expects entry \"{token}\" to have the newest commit of \"{entity}\", of which nothing was committed"
            ),
            (None, Some(found)) => format!(
                "it expects no commit of \"{entity}\", and operation {} of \"{}\" was committed before",
                found.op, found.token
            ),
            (None, None) => format!("it expects no commit of \"{entity}\""),
        }
    }
}
