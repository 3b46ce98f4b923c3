//! Completion markers: what completes an operation on a label, since the label's own key is overwritten.
//!
//! A marker is created once, at `.tidemark/done/{repo}/{label}/{token}-{op}` in the last metadata store, and holds the
//! new `label.yaml`.

use crate::token::Token;
use tidemark_store::StoreSecond;

/// A completion marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionMarker {
    /// The entry.
    pub token: Token,
    /// The operation within the entry.
    pub op: u32,
    /// The marker's store time.
    pub time: StoreSecond,
}

/// The key of the marker that completes operation `op` of `token` on a label.
pub fn marker_key(repo: &str, label: &str, token: Token, op: u32) -> String {
    format!("{}/{token}-{op}", marker_folder(repo, label))
}

/// The folder of the markers of a label.
pub(crate) fn marker_folder(repo: &str, label: &str) -> String {
    format!("{}/{label}", repo_marker_folder(repo))
}

/// The folder of the markers of all labels of a repo.
pub fn repo_marker_folder(repo: &str) -> String {
    format!(".tidemark/done/{repo}")
}

impl CompletionMarker {
    /// The marker at `key` in the folder of a label, not in that of another label whose name goes on with a slash.
    pub(crate) fn read(folder: &str, key: &str, time: StoreSecond) -> Option<Self> {
        let (token, op) = key.strip_prefix(folder)?.strip_prefix('/')?.split_once('-')?;
        Some(Self { token: token.parse().ok()?, op: op.parse().ok()?, time })
    }

    /// The label and the marker at `key`, of a label of `repo`; `None` if it is none. A label's name may have slashes.
    pub fn read_of_repo<'a>(repo: &str, key: &'a str, time: StoreSecond) -> Option<(&'a str, Self)> {
        let label = key.strip_prefix(&repo_marker_folder(repo))?.strip_prefix('/')?.rsplit_once('/')?.0;
        Some((label, Self::read(&marker_folder(repo, label), key, time)?))
    }

    /// Labels move in the order of their completion, then of their tokens.
    pub fn sort_key(&self) -> (StoreSecond, Token, u32) {
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
        fn the_label_of_a_key_is_read(label in "[a-z/]{0,5}[a-z]", bytes: [u8; 20], op: u32) {
            let (token, time) = (Token::from_bytes(bytes), StoreSecond::from_unix(1));
            let key = marker_key("r", &label, token, op);
            let expected = Some((label.as_str(), CompletionMarker { token, op, time }));
            prop_assert_eq!(CompletionMarker::read_of_repo("r", &key, time), expected);
            prop_assert_eq!(CompletionMarker::read_of_repo("rr", &key, time), None);
        }

        #[test]
        fn any_key_is_read_without_a_panic(key: String) {
            let _ = CompletionMarker::read_of_repo("", &key, StoreSecond::default());
            let _ = CompletionMarker::read("", &key, StoreSecond::default());
        }
    }
}
