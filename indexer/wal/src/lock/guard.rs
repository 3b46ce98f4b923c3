//! The guard of an entry: a create-only object that says which slot its guarded commit has, and whether that counts.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemark_store::StoreSecond;

use super::name::LockName;
use crate::{outcome::GuardObservation, token::Token};

/// The folder of all guards in the log's own store.
pub const GUARD_FOLDER: &str = ".tidemark/guard";

/// The key of the guard of `token` in the log's own store.
pub fn guard_key(token: Token) -> String {
    format!("{GUARD_FOLDER}/{token}")
}

/// The entry whose guard has this key; `None` if it is not the key of a guard.
pub fn guarded_token(key: &str) -> Option<Token> {
    key.strip_prefix(GUARD_FOLDER)?.strip_prefix('/')?.parse().ok()
}

/// What a guard says. Written once its slot is known to be part of the lock's chain, so that the slot need not be read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommitGuard {
    /// The entry.
    pub(crate) token: Token,
    /// The lock.
    pub(crate) lock: LockName,
    /// The grant under which the entry was appended.
    pub(crate) grant: u64,
    /// The slot of its guarded commit.
    pub(crate) slot: u64,
    /// What completes the entry later does not complete it in time.
    pub(crate) until: StoreSecond,
    /// The newest grant at the slot, where that one, or a release, came before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) overtaken_by: Option<u64>,
}

impl CommitGuard {
    /// The guard as it is stored.
    pub(crate) fn body(&self) -> Bytes {
        // A struct of texts and numbers is always JSON.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The guard in `body`; `None` where it is none of this release.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// What is seen of it for an outcome; `None` where it guards another entry, or under another lock or grant than the entry says.
    pub(crate) fn observed(
        self,
        token: Token,
        lock: &LockName,
        grant: Option<u64>,
        time: StoreSecond,
    ) -> Option<GuardObservation> {
        let own = self.token == token && self.lock == *lock && grant.is_none_or(|grant| grant == self.grant);
        let Self { grant, slot, until, overtaken_by, .. } = self;
        own.then_some(GuardObservation { time, grant, slot, until, overtaken_by })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_guard_is_read_as_it_was_written(bytes: [u8; 20], grant: u64, slot: u64, until: u64, overtaken_by: Option<u64>) {
            let token = Token::from_bytes(bytes);
            let until = StoreSecond::from_unix(until);
            let guard = CommitGuard { token, lock: "a".parse().unwrap(), grant, slot, until, overtaken_by };
            prop_assert_eq!(CommitGuard::parse(&guard.body()), Some(guard));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let _ = CommitGuard::parse(&body);
        }
    }

    #[test]
    fn the_key_of_a_guard_names_its_entry() {
        let token = Token::from_bytes([7; 20]);
        assert_eq!(guarded_token(&guard_key(token)), Some(token));
        for key in [token.to_string(), format!("{GUARD_FOLDER}x/{token}"), format!("{}x", guard_key(token))] {
            assert_eq!(guarded_token(&key), None);
        }
    }

    #[test]
    fn a_guard_of_another_entry_lock_or_grant_guards_nothing() {
        let (token, other) = (Token::from_bytes([1; 20]), Token::from_bytes([2; 20]));
        let lock: LockName = "a".parse().unwrap();
        let until = StoreSecond::from_unix(9);
        let guard = CommitGuard { token, lock: lock.clone(), grant: 3, slot: 4, until, overtaken_by: None };
        let seen =
            |token, lock: &str, grant| guard.clone().observed(token, &lock.parse().unwrap(), grant, until).is_some();
        assert!(seen(token, "a", Some(3)) && seen(token, "a", None));
        assert!(!seen(other, "a", Some(3)) && !seen(token, "b", Some(3)) && !seen(token, "a", Some(4)));
    }
}
