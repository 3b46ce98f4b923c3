//! What a store must do before a log may live in it, tried out.
//!
//! The log protocol rests on few promises: of two creates one fails, a listing is complete and in order, the store's
//! clock moves forward, a signed URL ends and overwrites nothing. Stores that claim to be compatible break them
//! silently, and a log in such a store would lose entries without anybody noticing. So they are tried once for each
//! prefix, and the report is kept.

mod checks;
mod signed;

use std::fmt;

use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};

use crate::{Entropy, Store, StoreError};

/// Where the probe writes, below the store's root; every run in a folder of its own.
const FOLDER: &str = ".tidemark/probe";

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeVerdict {
    /// The store keeps the promise.
    Passed,
    /// The store breaks it, or the check could not be made.
    Failed,
    /// The store makes no such promise, and the protocol does without.
    NotApplicable,
}

/// One check of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCheck {
    /// The promise, in words.
    pub name: String,
    /// What came of it.
    pub verdict: ProbeVerdict,
    /// What was seen.
    pub detail: String,
}

/// A store's probe: one line a check, all checks made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The URL of the store that was probed.
    pub url: String,
    /// The checks, in the order in which they were made.
    pub checks: Vec<ProbeCheck>,
    /// The failure of a store that did not answer a check, so that nothing is known of what it promises.
    #[serde(skip)]
    pub failure: Option<StoreError>,
}

impl ProbeReport {
    /// Whether a log may be written in the store.
    pub fn passed(&self) -> bool {
        self.failed_check().is_none()
    }

    /// The first check that failed.
    pub fn failed_check(&self) -> Option<&ProbeCheck> {
        self.checks.iter().find(|line| line.verdict == ProbeVerdict::Failed)
    }

    /// Refuses the store for writing, naming the first check that failed.
    pub fn accepted(&self) -> Result<(), StoreError> {
        self.failed_check().map_or(Ok(()), |line| {
            Err(StoreError::Unusable {
                url: self.url.clone(),
                why: format!(
                    "it broke the promise \"{}\": {}, so that a log in it could lose entries",
                    line.name, line.detail
                ),
                remedy: "use another store".to_owned(),
            })
        })
    }
}

/// One check a line, with its verdict first.
impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.checks {
            writeln!(f, "{:<7} {}: {}", line.verdict, line.name, line.detail)?;
        }
        Ok(())
    }
}

impl fmt::Display for ProbeVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotApplicable => "n/a",
        })
    }
}

/// What a check saw.
type Seen = Result<Kept, Broken>;

/// The promise is kept, or was never made.
enum Kept {
    Yes(String),
    NotPromised(&'static str),
}

/// The promise is broken, or the store did not answer.
enum Broken {
    Promise(String),
    Store(StoreError),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ProbeCheck {
    fn of(name: &str, seen: Seen) -> Self {
        let (verdict, detail) = match seen {
            Ok(Kept::Yes(detail)) => (ProbeVerdict::Passed, detail),
            Ok(Kept::NotPromised(why)) => (ProbeVerdict::NotApplicable, why.to_owned()),
            Err(Broken::Promise(detail)) => (ProbeVerdict::Failed, detail),
            Err(Broken::Store(error)) => (ProbeVerdict::Failed, error.to_string()),
        };
        let name = name.to_owned();
        Self { name, verdict, detail }
    }
}

/// Tries out `store`, below `.tidemark/probe/`, and cleans up after itself.
///
/// It makes about 1 100 writes and takes a few seconds. It cannot fail: a store that does not answer fails the line that
/// asked, and those after it are not tried.
pub async fn probe_store(store: &Store, entropy: &Entropy) -> ProbeReport {
    let place = &store.below(&format!("{FOLDER}/{}", entropy.nonce()));
    let checks: [(&str, BoxFuture<'_, Seen>); 9] = [
        ("a second create is refused", checks::second_create(place).boxed()),
        ("of 32 racing creates exactly one wins", checks::race(place).boxed()),
        ("a listing is complete, past 1000 keys", checks::listing(place).boxed()),
        ("a listing is in key order and starts where it is told", checks::order(place).boxed()),
        ("store time moves forward", checks::time(place).boxed()),
        ("user metadata comes back", checks::metadata(place).boxed()),
        ("an expired signed URL is refused", signed::expired(place).boxed()),
        ("a signed URL creates once and overwrites nothing", signed::once(place).boxed()),
        ("many objects are deleted", checks::deletion(place).boxed()),
    ];
    let mut lines = Vec::with_capacity(checks.len());
    let mut failure = None;
    for (name, check) in checks {
        let seen = if failure.is_some() { Err(Broken::Promise("not tried".to_owned())) } else { check.await };
        if let Err(Broken::Store(error)) = &seen {
            failure = Some(error.clone());
        }
        lines.push(ProbeCheck::of(name, seen));
    }
    ProbeReport { url: store.url().to_string(), checks: lines, failure }
}

#[cfg(test)]
mod tests;
