//! Counting the requests that a store gets.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// The requests to the stores that were opened with it, by operation and result. Clones share the counts.
///
/// Uses of signed URLs are not counted: the holder of the URL sends those requests.
#[derive(Clone, Debug, Default)]
pub struct RequestCounter(Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>);

impl RequestCounter {
    /// The counts so far, as (operation, result, requests). Operations are `get`, `head`, `list`, `put`, `delete`, `other`;
    /// results `ok`, `absent`, `exists`, `denied`, `refused`, `failed`.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock();
        counts.iter().map(|((operation, result), count)| (*operation, *result, *count)).collect()
    }

    /// Counts a request; no status means that no answer came.
    pub(crate) fn count(&self, operation: &'static str, status: Option<u16>) {
        let mut counts = self.0.lock();
        *counts.entry((operation, result(status))).or_default() += 1;
    }
}

/// What a request is, by its method and whether it asks for a page of a listing.
pub(crate) fn operation(method: &str, listing: bool) -> &'static str {
    match method {
        "GET" if listing => "list",
        "GET" => "get",
        "HEAD" => "head",
        "PUT" => "put",
        "DELETE" => "delete",
        _ => "other",
    }
}

fn result(status: Option<u16>) -> &'static str {
    match status {
        Some(200..=399) => "ok",
        Some(401 | 403) => "denied",
        Some(404) => "absent",
        Some(409 | 412) => "exists",
        Some(400..=499) => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_counts() {
        let requests = RequestCounter::default();
        requests.clone().count(operation("GET", true), Some(200));
        requests.count("list", Some(206));
        requests.count(operation("PUT", false), Some(412));
        requests.count("put", None);
        assert_eq!(requests.counts(), [("list", "ok", 2), ("put", "exists", 1), ("put", "failed", 1)]);
    }
}
