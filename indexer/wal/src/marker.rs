//! Completion markers: what completes an operation on a label, since the label's own key is overwritten.
//!
//! A marker is created once, at `.tidemark/done/{repo}/{label}/{token}-{op}` in the last metadata store, and holds the
//! new `label.yaml`.

use crate::token::Token;
use tidemark_store::StoreSecond;

/// A completion marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompletionMarker {
    /// The entry.
    pub(crate) token: Token,
    /// The operation within the entry.
    pub(crate) op: u32,
    /// The marker's store time.
    pub(crate) time: StoreSecond,
}

/// The key of the marker that completes operation `op` of `token` on a label.
pub fn marker_key(repo: &str, label: &str, token: Token, op: u32) -> String {
    format!("{}/{token}-{op}", marker_folder(repo, label))
}

/// The folder of the markers of a label.
pub(crate) fn marker_folder(repo: &str, label: &str) -> String {
    format!(".tidemark/done/{repo}/{label}")
}

impl CompletionMarker {
    /// The marker at `key` in the folder of a label, not in that of another label whose name goes on with a slash.
    pub(crate) fn read(folder: &str, key: &str, time: StoreSecond) -> Option<Self> {
        let (token, op) = key.strip_prefix(folder)?.strip_prefix('/')?.split_once('-')?;
        Some(Self { token: token.parse().ok()?, op: op.parse().ok()?, time })
    }

    /// Labels move in the order of their completion, then of their tokens.
    pub(crate) fn sort_key(&self) -> (StoreSecond, Token, u32) {
        (self.time, self.token, self.op)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip(bytes: [u8; 20], op: u32) {
            let token = Token::from_bytes(bytes);
            let time = StoreSecond::from_unix(1);
            prop_assert_eq!(CompletionMarker::read(&marker_folder("r", "l"), &marker_key("r", "l", token, op), time), Some(CompletionMarker { token, op, time }));
        }

        #[test]
        fn any_key_is_read_without_a_panic(key: String) {
            let _ = CompletionMarker::read("", &key, StoreSecond::default());
        }
    }
}
