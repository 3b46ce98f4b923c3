//! Numbers of records by outcome.

use serde::{Deserialize, Serialize};
use tidemark_wal::Outcome;

/// Records by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordCounts {
    /// Complete, in time.
    pub committed: u64,
    /// Complete, but too late.
    pub late: u64,
    /// Never completed.
    pub aborted: u64,
    /// A payload that Tidemark cannot read.
    pub malformed: u64,
    /// Idempotency key seen before.
    pub duplicate: u64,
    /// Lock overtaken.
    pub fenced: u64,
    /// Another commit than expected was first.
    pub conflicted: u64,
    /// Arrived after the audit window.
    pub expired: u64,
    /// Refused by the store, and looked at again without end.
    pub unreadable: u64,
    /// A label's move that cannot be distinguished from another one.
    pub unknown: u64,
}

impl RecordCounts {
    /// Counts one more record of `outcome`. A pending one is none: only what is decided is recorded.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Pending => {}
            Outcome::Committed => self.committed += 1,
            Outcome::Late => self.late += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::Malformed => self.malformed += 1,
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Fenced => self.fenced += 1,
            Outcome::Conflicted => self.conflicted += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Unreadable => self.unreadable += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    /// Records of `outcome`; none is pending.
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Pending => 0,
            Outcome::Committed => self.committed,
            Outcome::Late => self.late,
            Outcome::Aborted => self.aborted,
            Outcome::Malformed => self.malformed,
            Outcome::Duplicate => self.duplicate,
            Outcome::Fenced => self.fenced,
            Outcome::Conflicted => self.conflicted,
            Outcome::Expired => self.expired,
            Outcome::Unreadable => self.unreadable,
            Outcome::Unknown => self.unknown,
        }
    }

    /// Records of any outcome. Saturates, so that damaged counts cannot make it overflow.
    pub fn total(&self) -> u64 {
        self.values().into_iter().fold(0, u64::saturating_add)
    }

    /// Records that the audit may still decide otherwise: aborted and unreadable ones.
    pub fn unsettled(&self) -> u64 {
        self.aborted.saturating_add(self.unreadable)
    }

    /// These and `other` together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// These without `part`.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        self.with(part, u64::saturating_sub)
    }

    fn values(&self) -> [u64; 10] {
        let Self { committed, late, aborted, malformed, duplicate, fenced, conflicted, expired, unreadable, unknown } =
            *self;
        [committed, late, aborted, malformed, duplicate, fenced, conflicted, expired, unreadable, unknown]
    }

    fn with(&self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        let mut values = self.values();
        for (mine, theirs) in values.iter_mut().zip(other.values()) {
            *mine = combine(*mine, theirs);
        }
        let [committed, late, aborted, malformed, duplicate, fenced, conflicted, expired, unreadable, unknown] = values;
        Self { committed, late, aborted, malformed, duplicate, fenced, conflicted, expired, unreadable, unknown }
    }
}

impl std::iter::Sum for RecordCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, counts| sum.plus(&counts))
    }
}
