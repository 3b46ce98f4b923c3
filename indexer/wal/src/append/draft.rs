//! What a caller wants appended.

use bytes::Bytes;
use serde_json::{Map, Value};

/// One entry to be: its operations are committed together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Who writes; the writer's own name when absent.
    pub writer: Option<String>,
    /// Makes repeated appends of the same draft count once; a random one when absent.
    pub idempotency_key: Option<String>,
    /// Free attributes of the entry.
    pub attributes: Map<String, Value>,
    /// The operations; none means one that the entry itself completes.
    pub ops: Vec<DraftOp>,
}

/// One operation to be.
#[derive(Clone, Debug, PartialEq)]
pub enum DraftOp {
    /// An update that is complete when its descriptor exists.
    Descriptor {
        /// Key of the descriptor in the first metadata store.
        path: String,
        /// The descriptor.
        body: Bytes,
    },
    /// A label moved to a bundle.
    Label {
        /// The repo.
        repo: String,
        /// The label.
        label: String,
        /// The bundle that it names from now on.
        bundle: String,
        /// The new `label.yaml`.
        body: Bytes,
    },
    /// A record that the entry itself completes.
    Entry {
        /// Free attributes of the operation.
        attributes: Map<String, Value>,
    },
}
