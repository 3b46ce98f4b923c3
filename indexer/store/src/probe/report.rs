//! What a probe reports.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::outcome::{CheckFailure, CheckResult, CheckSuccess};
use crate::errors::StoreError;

/// The verdict of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeVerdict {
    /// The store keeps the promise.
    Passed,
    /// The store breaks it, or the check could not be made.
    Failed,
    /// The store makes no such promise, and the protocol does not need it.
    NotApplicable,
}

/// One check of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCheck {
    /// The promise.
    pub name: String,
    /// The verdict.
    pub verdict: ProbeVerdict,
    /// What the check observed.
    pub detail: String,
}

/// The report of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The URL of the store that was probed.
    pub url: String,
    /// The checks, in the order in which they ran.
    pub checks: Vec<ProbeCheck>,
    /// The failure of a store that did not answer a check, so that nothing is known about its promises.
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
        self.checks.iter().find(|check| check.verdict == ProbeVerdict::Failed)
    }
}

/// One line per check, its verdict first.
impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{:<7} {}: {}", check.verdict, check.name, check.detail)?;
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

impl ProbeCheck {
    pub(super) fn of(name: &str, result: CheckResult) -> Self {
        let (verdict, detail) = match result {
            Ok(CheckSuccess::Kept(detail)) => (ProbeVerdict::Passed, detail),
            Ok(CheckSuccess::NotPromised(why)) => (ProbeVerdict::NotApplicable, why),
            Err(CheckFailure::BrokenPromise(detail)) => (ProbeVerdict::Failed, detail),
            Err(CheckFailure::Store(error)) => (ProbeVerdict::Failed, error.to_string()),
        };
        let name = name.to_owned();
        Self { name, verdict, detail }
    }
}
