//! Running the checks.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    checks,
    outcome::{CheckFailure, CheckResult},
    report::{ProbeCheck, ProbeReport},
    signed,
};
use crate::{entropy::Entropy, store::Store};

/// Where the probe writes, below the store's root; every run in a folder of its own.
const PROBE_PREFIX: &str = ".tidemark/probe";

/// Tries out `store`, below `.tidemark/probe/`, and cleans up after itself.
///
/// It makes about 1 100 writes and takes a few seconds. It cannot fail: a store that does not answer fails the check that
/// asked, and the checks after it are not tried.
pub async fn probe_store(store: &Store, entropy: &Entropy) -> ProbeReport {
    let part = &store.below(&format!("{PROBE_PREFIX}/{}", entropy.nonce()));
    let checks: [(&str, BoxFuture<'_, CheckResult>); 9] = [
        ("a second create is refused", checks::second_create(part).boxed()),
        ("of 32 racing creates exactly one wins", checks::race(part).boxed()),
        ("a listing is complete, past 1000 keys", checks::listing(part).boxed()),
        ("a listing is in key order and starts strictly after a key", checks::order(part).boxed()),
        ("store time moves forward", checks::time(part).boxed()),
        ("user metadata comes back", checks::metadata(part).boxed()),
        ("an expired signed URL is refused", signed::expired(part).boxed()),
        ("a signed URL creates once and overwrites nothing", signed::once(part).boxed()),
        ("many objects are deleted", checks::deletion(part).boxed()),
    ];
    let mut reported = Vec::with_capacity(checks.len());
    let mut failure = None;
    for (name, check) in checks {
        let result =
            if failure.is_some() { Err(CheckFailure::BrokenPromise("not tried".to_owned())) } else { check.await };
        if let Err(CheckFailure::Store(error)) = &result {
            failure = Some(error.clone());
        }
        reported.push(ProbeCheck::of(name, result));
    }
    ProbeReport { url: store.url().to_string(), checks: reported, failure }
}
