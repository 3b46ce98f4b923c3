//! Completion markers: what makes an operation on a label complete, since the label's own key is overwritten.

use crate::{Second, Token};

/// A completion marker: `.tidemark/done/{repo}/{label}/{token}-{op}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The entry.
    pub token: Token,
    /// The operation within the entry.
    pub op: u32,
    /// The marker's store time.
    pub time: Second,
}

/// The key of the marker that completes operation `op` of `token` on a label.
pub fn marker_key(repo: &str, label: &str, token: Token, op: u32) -> String {
    format!(".tidemark/done/{repo}/{label}/{token}-{op}")
}
