//! The objects of a chain, read without the code under test.

use serde::de::DeserializeOwned;

/// The state in a record's body: its second line.
pub(crate) fn record_state<S: DeserializeOwned>(body: &[u8]) -> serde_json::Result<S> {
    serde_json::from_slice(body.split(|&byte| byte == b'\n').nth(1).unwrap_or_default())
}

/// The number of a manifest, from its key.
pub(crate) fn manifest_number(key: &str) -> Option<u64> {
    key.rsplit_once("/manifest/")?.1.parse().ok()
}

/// The number of a trim boundary of the index's chain, from its key.
pub(crate) fn boundary_number(key: &str) -> Option<u64> {
    key.rsplit_once("/manifest/boundary/")?.1.parse().ok()
}
