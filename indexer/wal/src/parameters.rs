//! The dated parameters of a log: `W`, `S`, `R`, `V` and the audit window, and the horizon that follows from them.
//!
//! The first set holds for all earlier time too. A later set takes effect [`CHANGE_DELAY`] + its `V` after the store time
//! of the record that carries it, so that everybody who relied on the old set has stopped doing so. A token is judged by
//! the set in force at its second.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Second,
    planted::{Fault, planted},
};

/// How long after its record's store time, plus `V`, a change of parameters takes effect.
pub const CHANGE_DELAY: Duration = Duration::from_secs(5 * 60);
/// For how long after a clock probe the parameters read next may be relied on.
pub const TRUST: Duration = Duration::from_secs(4 * 60);

/// One set of parameters. Spans are serialized as whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Parameters {
    /// `W`: how long after its token an update may still be completed through its signed URL. 1 s to 168 h.
    #[serde(with = "millis")]
    pub expiry: Duration,
    /// `S`: how far the clock that dates signed URLs may lead store time.
    #[serde(with = "millis")]
    pub signer_clock_lead: Duration,
    /// `R`: the longest request, from the check of its signature to the object's store time.
    #[serde(with = "millis")]
    pub request_timeout: Duration,
    /// `V`: the longest delay from an object's store time to its being visible, plus the spread of the store's clocks.
    #[serde(with = "millis")]
    pub visibility_delay: Duration,
    /// How long an aborted operation is looked at again.
    #[serde(with = "millis")]
    pub audit_window: Duration,
}

impl Parameters {
    /// Parameters with the documented defaults for everything but `W`.
    pub fn with_expiry(expiry: Duration) -> Self {
        Self {
            expiry,
            signer_clock_lead: Duration::ZERO,
            request_timeout: Duration::from_secs(60),
            visibility_delay: Duration::from_secs(10),
            audit_window: Duration::from_secs(24 * 3600),
        }
    }

    /// `C = W + S + R`: an update that is complete is complete within `C` of its token.
    pub fn commit_bound(&self) -> Duration {
        self.expiry + self.signer_clock_lead + self.request_timeout
    }

    /// `C + V + 1 s`: how far the horizon lies behind store time.
    pub fn horizon_delay(&self) -> Duration {
        self.commit_bound() + self.visibility_delay + Duration::from_secs(1)
    }
}

/// A set of parameters with the second from which it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dated {
    /// First second for which the set holds; second 0 for the first set of a log.
    pub from: Second,
    /// The set.
    pub parameters: Parameters,
}

/// All sets of a log in the order of their dates. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schedule(Vec<Dated>);

impl Schedule {
    /// The schedule of a log whose parameters never changed.
    pub fn constant(parameters: Parameters) -> Self {
        Self(vec![Dated { from: Second::default(), parameters }])
    }

    /// The schedule with one more set, recorded at store time `recorded`.
    ///
    /// The set holds from `recorded` + [`CHANGE_DELAY`] + the larger `V` of old and new, and never before a set that was
    /// recorded earlier.
    #[must_use]
    pub fn changed(&self, parameters: Parameters, recorded: Second) -> Self {
        let newest = self.newest();
        let visible = parameters.visibility_delay.max(newest.parameters.visibility_delay);
        let from = recorded.after(CHANGE_DELAY).after(visible).max(newest.from.next());
        let mut sets = self.0.clone();
        sets.push(Dated { from, parameters });
        Self(sets)
    }

    /// The set that was recorded last; it may not be in force yet.
    pub fn newest(&self) -> &Dated {
        &self.0[self.0.len() - 1]
    }

    /// The set in force at second `at`.
    pub fn at(&self, at: Second) -> &Parameters {
        let after = self.0.partition_point(|dated| dated.from <= at);
        &self.0[after.saturating_sub(1)].parameters
    }

    /// All sets, oldest first.
    pub fn sets(&self) -> &[Dated] {
        &self.0
    }

    /// `H`: every second below it is frozen, given that the store's clock was seen at `now`.
    ///
    /// The smallest second that some set, in force at that second, still holds open. Raising a parameter stalls the
    /// horizon; lowering one moves it only after the old bound has passed for the seconds that the old set governs.
    pub fn horizon(&self, now: Second) -> Second {
        if planted(Fault::LoweredExpiryAtOnce) {
            return now.before(self.newest().parameters.horizon_delay());
        }
        let ends = self.0.iter().skip(1).map(|next| Some(next.from)).chain([None]);
        for (dated, end) in self.0.iter().zip(ends) {
            let frozen = now.before(dated.parameters.horizon_delay());
            match end {
                // Every second that this set governs is frozen: the next set decides.
                Some(end) if frozen >= end => {}
                _ => return frozen.max(dated.from),
            }
        }
        unreachable!("the last set has no end")
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
