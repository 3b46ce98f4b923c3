//! What a verification reports: each finding says what is wrong, where, what follows, and what to do.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

/// How many findings of one severity a check lists; the others are counted.
const MAX_LISTED_FINDINGS: u64 = 1_000;
/// The same of notices, which may come by the million where descriptors are deleted regularly.
const MAX_LISTED_NOTICES: u64 = 20;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FindingSeverity {
    /// Something is lost or changed, or the index says what the log does not.
    Damage,
    /// Something could not be read now, so that nothing is known of it.
    Unverified,
    /// Nothing is wrong with the index: a leak, an outcome that can no longer be proven.
    Notice,
}

/// The check that reports a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum VerifyCheck {
    /// The records of chains.
    Chains,
    /// The objects that the latest manifest names.
    Objects,
    /// The objects that pins name.
    Snapshots,
    /// The objects and the rows of the archive.
    Archive,
    /// The outcomes of the archive's rows, decided again from what stands beside them.
    ArchivedOutcomes,
    /// The outcomes, decided again.
    Outcomes,
    /// The entries of the log.
    Log,
    /// Objects that nothing names.
    Garbage,
}

impl FindingSeverity {
    /// The severity as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Unverified => "unverified",
            Self::Notice => "notice",
        }
    }
}

impl VerifyCheck {
    /// The check as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chains => "chains",
            Self::Objects => "objects",
            Self::Snapshots => "snapshots",
            Self::Archive => "archive",
            Self::ArchivedOutcomes => "archived outcomes",
            Self::Outcomes => "outcomes",
            Self::Log => "log",
            Self::Garbage => "garbage",
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyFinding {
    /// How much it matters.
    pub severity: FindingSeverity,
    /// Which check found it.
    pub check: VerifyCheck,
    /// The URL of the object, or the entry.
    pub location: String,
    /// The fact.
    pub what: String,
    /// What follows from it.
    pub effect: String,
    /// What to do.
    pub remedy: String,
}

/// Is told of findings and of progress while a verification runs.
pub trait VerifyObserver: Send + Sync {
    /// Something was found.
    fn found(&self, finding: &VerifyFinding);

    /// `done` of `total` are done: records, objects, operations or entries, as the check has it.
    fn progress(&self, check: VerifyCheck, done: u64, total: u64);
}

/// Counts findings, and hands on as many as one may read.
pub(crate) struct FindingLog<'a> {
    observer: &'a dyn VerifyObserver,
    counts: Mutex<BTreeMap<(FindingSeverity, VerifyCheck), u64>>,
}

impl<'a> FindingLog<'a> {
    pub(crate) fn new(observer: &'a dyn VerifyObserver) -> Self {
        Self { observer, counts: Mutex::default() }
    }

    /// Reports what is wrong: what, where, effect, remedy.
    pub(crate) fn report(
        &self,
        severity: FindingSeverity,
        check: VerifyCheck,
        location: impl Into<String>,
        [what, effect, remedy]: [String; 3],
    ) {
        let count = {
            let mut counts = self.counts.lock();
            let count = counts.entry((severity, check)).or_default();
            *count += 1;
            *count
        };
        let listed = if severity == FindingSeverity::Notice { MAX_LISTED_NOTICES } else { MAX_LISTED_FINDINGS };
        if count <= listed {
            self.observer.found(&VerifyFinding { severity, check, location: location.into(), what, effect, remedy });
        }
    }

    pub(crate) fn progress(&self, check: VerifyCheck, done: u64, total: u64) {
        self.observer.progress(check, done, total);
    }

    /// How many findings of this severity a check has, whether they were handed on or not.
    pub(crate) fn count_of(&self, severity: FindingSeverity, check: VerifyCheck) -> u64 {
        self.counts.lock().get(&(severity, check)).copied().unwrap_or_default()
    }

    /// How many findings of this severity there are, whether they were handed on or not.
    pub(crate) fn count(&self, severity: FindingSeverity) -> u64 {
        self.counts.lock().iter().filter(|((of, _), _)| *of == severity).map(|(_, count)| count).sum()
    }
}

/// The parts of a message: fact, effect and remedy, parted by semicolons. What has no third part has its effect as remedy.
pub fn message_parts(message: &str) -> [String; 3] {
    let mut parts = message.splitn(2, "; ");
    let what = parts.next().unwrap_or_default().to_owned();
    let rest = parts.next().unwrap_or_default();
    match rest.rsplit_once("; ") {
        Some((effect, remedy)) => [what, effect.to_owned(), remedy.to_owned()],
        None => [what, String::new(), rest.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct RecordingObserver(Mutex<Vec<VerifyFinding>>);

    impl VerifyObserver for RecordingObserver {
        fn found(&self, finding: &VerifyFinding) {
            self.0.lock().push(finding.clone());
        }

        fn progress(&self, _: VerifyCheck, _: u64, _: u64) {}
    }

    #[test]
    fn all_are_counted_and_a_bounded_number_is_listed() {
        let observer = RecordingObserver::default();
        let log = FindingLog::new(&observer);
        for number in 0..5_000 {
            let parts = || ["what", "effect", "remedy"].map(str::to_owned);
            log.report(FindingSeverity::Damage, VerifyCheck::Log, number.to_string(), parts());
            log.report(FindingSeverity::Notice, VerifyCheck::Log, number.to_string(), parts());
            log.report(FindingSeverity::Notice, VerifyCheck::Outcomes, number.to_string(), parts());
        }
        assert_eq!((log.count(FindingSeverity::Damage), log.count(FindingSeverity::Notice)), (5_000, 10_000));
        assert_eq!(log.count(FindingSeverity::Unverified), 0);
        assert_eq!(observer.0.lock().len() as u64, MAX_LISTED_FINDINGS + 2 * MAX_LISTED_NOTICES);
    }

    #[test]
    fn a_message_has_a_fact_an_effect_and_a_remedy() {
        assert_eq!(message_parts("a; b; c"), ["a", "b", "c"].map(str::to_owned));
        assert_eq!(message_parts("a; b; x; c"), ["a", "b; x", "c"].map(str::to_owned));
        assert_eq!(message_parts("a; c"), ["a", "", "c"].map(str::to_owned));
        assert_eq!(message_parts("a"), ["a", "", ""].map(str::to_owned));
    }
}
