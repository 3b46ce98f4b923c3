//! What became of an entry: the outcome rule, a pure function of store times and evidence.

use serde::{Deserialize, Serialize};

use crate::{Parameters, Second, Token};

/// What became of an operation. Decided once, when its second is sealed, and recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not sealed yet.
    Pending,
    /// Complete, in time.
    Committed,
    /// Complete, but the entry or a descriptor came after the commit bound.
    Late,
    /// Some descriptor is absent.
    Aborted,
    /// The payload is none that Tidemark reads.
    Malformed,
    /// A committed operation of the same writer and idempotency key has a smaller (token, op).
    Duplicate,
    /// The lock that guards it was overtaken.
    Fenced,
    /// It arrived after the audit window.
    Expired,
}

/// How a descriptor is known to belong to its operation, from strong to weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The descriptor bears the token, its key does, or the intent names its digest.
    Bound,
    /// Only the store times agree.
    Timed,
    /// A mutable key that was overwritten since.
    Inferred,
}

/// One descriptor as a reader found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// Its key in the metadata bucket.
    pub key: String,
    /// Its store time.
    pub time: Second,
    /// SHA-256 of its body, 64 hexadecimal digits.
    pub digest: String,
    /// How it is known to belong to the operation; `None` when it belongs to another one.
    pub evidence: Option<Evidence>,
}

/// An outcome with all that it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What was decided.
    pub outcome: Outcome,
    /// The weakest evidence among the descriptors; `None` where there are none or some are absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<Evidence>,
    /// The entry's store time.
    pub entry_time: Second,
    /// When the operation was complete: the latest store time of entry and descriptors.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub completed: Option<Second>,
    /// The descriptors that were found.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sightings: Vec<Sighting>,
}
