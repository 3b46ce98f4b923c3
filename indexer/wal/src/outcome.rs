//! The outcome of an entry: the outcome rule, a pure function of store times and evidence.
//!
//! All times are whole seconds of store time. With `s` the token's second, `C` the commit bound and `A` the audit window:
//!
//! | seen | outcome |
//! |---|---|
//! | the entry later than both `s + A` and `s + C + 1` | `expired` |
//! | the entry earlier than `s - (C + 1)` | `aborted` |
//! | its guard says that its grant was overtaken | `fenced`; `expired` where the guard is later than a descriptor may be |
//! | a descriptor or the guard absent | `aborted` |
//! | a label that was overwritten since, where no versions are kept ([`Evidence::Inferred`]) | `unknown` |
//! | a descriptor later than `A` after the later of `s` and the entry, and later than `s + C + 1` | `expired` |
//! | the entry, a descriptor or the guard later than `s + C + 1`, or a descriptor or the guard later than the guard's `until` | `late` |
//! | else | `committed` |
//!
//! An entry whose intent names a lock has a guard, which counts like a descriptor that is bound. Others have none.
//!
//! A descriptor that is older than `s`, or that belongs to another operation, is absent; one that is bound to this operation
//! may be older by the clock tolerance, since the clocks of two stores, and of two machines of one, differ.
//!
//! `duplicate` and `conflicted` depend on what was decided before, so that an index decides them, of what is committed here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{mutants, parameters::LogParameters, token::Token};
use tidemark_store::StoreSecond;

/// The outcome of an operation. Decided once, when its second is sealed, and recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not sealed yet.
    Pending,
    /// Complete, in time.
    Committed,
    /// Complete, but the entry or a descriptor came after the commit bound.
    Late,
    /// Some descriptor is absent.
    Aborted,
    /// Tidemark cannot read the payload.
    Malformed,
    /// A committed operation of the same writer and idempotency key has a smaller (token, op).
    Duplicate,
    /// The lock that guards it was overtaken.
    Fenced,
    /// It is complete, in time, and the newest commit of the entity that its intent names is another one than expected.
    Conflicted,
    /// It arrived after the audit window.
    Expired,
    /// The store refuses to give the entry. Not settled: it is decided when it can be read.
    Unreadable,
    /// A label that was overwritten where no versions are kept, or moved at the very end of the bound: whether this move of it completed
    /// cannot be told. Settled.
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Committed,
        Self::Late,
        Self::Aborted,
        Self::Malformed,
        Self::Duplicate,
        Self::Fenced,
        Self::Conflicted,
        Self::Expired,
        Self::Unreadable,
        Self::Unknown,
    ];

    /// The outcome in lower case: what is stored, searched and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
            Self::Late => "late",
            Self::Aborted => "aborted",
            Self::Malformed => "malformed",
            Self::Duplicate => "duplicate",
            Self::Fenced => "fenced",
            Self::Conflicted => "conflicted",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// How a descriptor is known to belong to its operation, from strong to weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The descriptor bears the token, its key does, or the intent names its digest.
    Bound,
    /// Only the store times agree.
    Timed,
    /// A label that another entry may have written, or has overwritten since.
    Inferred,
}

impl Evidence {
    /// The evidence in lower case: what is stored, searched and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Timed => "timed",
            Self::Inferred => "inferred",
        }
    }
}

/// One descriptor as a reader found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// Its key in the metadata bucket.
    pub key: String,
    /// Its store time.
    pub time: StoreSecond,
    /// SHA-256 of its body, 64 hexadecimal digits; empty if the body was not read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// How it is known to belong to the operation; `None` when it belongs to another one.
    pub evidence: Option<Evidence>,
}

/// The guard of an entry as a reader found it: the entry's own, under the lock and the grant that its intent names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardObservation {
    /// Its store time.
    pub time: StoreSecond,
    /// The grant under which the entry was appended.
    pub grant: u64,
    /// The slot of its guarded commit in the lock's chain.
    pub slot: u64,
    /// The last second in which the entry completes in time.
    pub until: StoreSecond,
    /// The newest grant at the slot, where that one, or a release, came before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overtaken_by: Option<u64>,
}

/// What guards an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EntryGuard<'a> {
    /// Its intent names no lock.
    Unguarded,
    /// Its intent names a lock; `None` if no guard of it was found.
    Guarded(Option<&'a GuardObservation>),
}

/// An outcome with everything that it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeDecision {
    /// What was decided.
    pub outcome: Outcome,
    /// The weakest evidence among the descriptors; `None` where there are none or some are absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<Evidence>,
    /// The entry's store time.
    pub entry_time: StoreSecond,
    /// When the operation was complete: the latest store time of entry and descriptors; `None` where that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub completed: Option<StoreSecond>,
    /// The descriptors that were found.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub observations: Vec<Observation>,
    /// The guard that was found, where the entry names a lock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub guard: Option<GuardObservation>,
}

/// Decides the outcome of the operations of one entry, which are committed together or not at all.
///
/// `expected` is the number of descriptors that the entry names; `seen` holds one item for each, `None` where nothing was
/// found. Fewer items than `expected` count as absent. A descriptor without evidence belongs to another operation. A guard that is
/// older than the token is absent.
pub(crate) fn decide_outcome(
    parameters: &LogParameters,
    token: Token,
    entry_time: StoreSecond,
    expected: usize,
    seen: &[Option<Observation>],
    guard: EntryGuard<'_>,
) -> OutcomeDecision {
    let rule = OutcomeRule::of(parameters, token);
    let own: Vec<&Observation> = seen.iter().flatten().filter(|observation| rule.counts(observation)).collect();
    let guard = rule.counted(guard);
    let complete = own.len() >= expected && !matches!(guard, EntryGuard::Guarded(None));
    let outcome = mutants::outcome(rule.outcome(entry_time, complete, &own, guard), Outcome::Committed);
    let guard = match guard {
        EntryGuard::Guarded(guard) => guard,
        EntryGuard::Unguarded => None,
    };
    let by_guard = guard.map(|_| Evidence::Bound);
    let is_known = outcome != Outcome::Unknown && outcome != Outcome::Fenced;
    OutcomeDecision {
        outcome,
        evidence: match outcome {
            Outcome::Fenced => by_guard,
            _ => complete
                .then(|| own.iter().filter_map(|observation| observation.evidence).max().max(by_guard))
                .flatten(),
        },
        entry_time,
        completed: (complete && is_known).then(|| {
            let times = own.iter().map(|observation| observation.time).chain(guard.map(|guard| guard.time));
            times.fold(entry_time, StoreSecond::max)
        }),
        observations: seen.iter().flatten().cloned().collect(),
        guard: guard.cloned(),
    }
}

/// Whether the descriptor is new enough to be that of an operation of `token`.
pub(crate) fn is_in_time_for(parameters: &LogParameters, token: Token, observation: &Observation) -> bool {
    OutcomeRule::of(parameters, token).is_new_enough(observation)
}

/// The last second in which an operation of `token` completes in time.
pub(crate) fn last_in_time(parameters: &LogParameters, token: Token) -> StoreSecond {
    OutcomeRule::of(parameters, token).last()
}

/// The bounds of one token.
struct OutcomeRule {
    token: StoreSecond,
    /// `C + 1 s`.
    bound: Duration,
    /// The audit window, never shorter than the bound.
    audit: Duration,
    /// A token's second comes from one clock, a descriptor's from another. What is bound to the operation by its metadata, its
    /// key or its digest cannot be older than the token, whatever its time says.
    tolerance: Duration,
}

impl OutcomeRule {
    fn of(parameters: &LogParameters, token: Token) -> Self {
        Self {
            token: token.second(),
            bound: parameters.commit_bound() + Duration::from_secs(1),
            audit: parameters.last_look(),
            tolerance: mutants::clock_tolerance(parameters.whole_clock_tolerance()),
        }
    }

    /// Whether the descriptor is there for this operation.
    fn counts(&self, observation: &Observation) -> bool {
        mutants::has_evidence(observation.evidence.is_some()) && self.is_new_enough(observation)
    }

    fn is_new_enough(&self, observation: &Observation) -> bool {
        let oldest = match observation.evidence {
            Some(Evidence::Bound) => self.token.before(self.tolerance),
            _ => self.token,
        };
        observation.time >= oldest
    }

    /// The guard, if it is new enough.
    fn counted<'a>(&self, guard: EntryGuard<'a>) -> EntryGuard<'a> {
        match guard {
            EntryGuard::Guarded(Some(guard)) if guard.time < self.token.before(self.tolerance) => {
                EntryGuard::Guarded(None)
            }
            guard => guard,
        }
    }

    fn outcome(&self, entry: StoreSecond, complete: bool, own: &[&Observation], guard: EntryGuard<'_>) -> Outcome {
        let guard = match guard {
            EntryGuard::Guarded(guard) => guard,
            EntryGuard::Unguarded => None,
        };
        let times = || own.iter().map(|observation| observation.time).chain(guard.map(|guard| guard.time));
        let last = guard.map_or(self.last(), |guard| guard.until.min(self.last()));
        if entry.since(self.token) > self.audit {
            Outcome::Expired
        } else if self.token.since(entry) > self.bound {
            Outcome::Aborted
        } else if let Some(guard) = guard
            && guard.overtaken_by.is_some()
        {
            if self.missed_audit(entry, guard.time) { Outcome::Expired } else { Outcome::Fenced }
        } else if !complete {
            Outcome::Aborted
        } else if own.iter().any(|observation| observation.evidence == Some(Evidence::Inferred)) {
            Outcome::Unknown
        } else if times().any(|time| self.missed_audit(entry, time)) {
            Outcome::Expired
        } else if self.late(entry) || times().any(|time| time > last) {
            Outcome::Late
        } else {
            Outcome::Committed
        }
    }

    /// The bound in whole seconds: a fraction of a second never lengthens it.
    fn last(&self) -> StoreSecond {
        self.token.after(Duration::from_secs(self.bound.as_secs()))
    }

    fn late(&self, time: StoreSecond) -> bool {
        time > self.last()
    }

    fn missed_audit(&self, entry: StoreSecond, time: StoreSecond) -> bool {
        self.late(time) && time.since(self.token.max(entry)) > self.audit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_is_the_one_that_is_stored() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for evidence in [Evidence::Bound, Evidence::Timed, Evidence::Inferred] {
            assert_eq!(serde_json::to_value(evidence).unwrap(), evidence.as_str());
        }
    }

    const AT: u64 = 1_700_000_000;

    /// The outcome of an entry that names no lock.
    fn decide_outcome(
        parameters: &LogParameters,
        token: Token,
        entry: StoreSecond,
        expected: usize,
        seen: &[Option<Observation>],
    ) -> OutcomeDecision {
        super::decide_outcome(parameters, token, entry, expected, seen, EntryGuard::Unguarded)
    }

    fn parameters() -> LogParameters {
        LogParameters { audit_window: Duration::from_hours(1), ..LogParameters::with_expiry(Duration::from_secs(40)) }
    }

    fn token() -> Token {
        Token::from_parts(StoreSecond::from_unix(AT), [7; 16])
    }

    fn second(offset: i64) -> StoreSecond {
        StoreSecond::from_unix(AT.saturating_add_signed(offset))
    }

    #[expect(clippy::unnecessary_wraps, reason = "an absent one is None")]
    fn seen(offset: i64, evidence: Option<Evidence>) -> Option<Observation> {
        Some(Observation {
            key: "bundles/r/b/bundle.yaml".to_owned(),
            time: second(offset),
            digest: String::new(),
            evidence,
        })
    }

    fn outcome(entry: i64, seen: &[Option<Observation>]) -> Outcome {
        decide_outcome(&parameters(), token(), second(entry), seen.len(), seen).outcome
    }

    const BOUND: Option<Evidence> = Some(Evidence::Bound);
    /// `C` of the parameters above.
    const C: i64 = 100;

    #[test]
    fn the_bound_is_c_and_one_second() {
        for (offset, expected) in [
            (0, Outcome::Committed),
            (C, Outcome::Committed),
            (C + 1, Outcome::Committed),
            (C + 2, Outcome::Late),
            (3600, Outcome::Late),
            (3601, Outcome::Expired),
        ] {
            assert_eq!(outcome(0, &[seen(offset, BOUND)]), expected, "descriptor at {offset}");
            assert_eq!(outcome(offset, &[]), expected, "entry at {offset}");
        }
    }

    #[test]
    fn a_fraction_of_a_second_never_lengthens_the_bound() {
        let parameters = LogParameters { signer_clock_lead: Duration::from_millis(500), ..parameters() };
        let at = |offset| decide_outcome(&parameters, token(), second(0), 1, &[seen(offset, BOUND)]).outcome;
        assert_eq!(at(C + 1), Outcome::Committed);
        assert_eq!(at(C + 2), Outcome::Late);
    }

    #[test]
    fn absent_older_and_foreign_descriptors_abort() {
        for absent in [None, seen(-2, BOUND), seen(-1, Some(Evidence::Timed)), seen(5, None)] {
            let decision = decide_outcome(&parameters(), token(), second(0), 2, &[seen(1, BOUND), absent]);
            assert_eq!(decision.outcome, Outcome::Aborted);
            assert_eq!((decision.evidence, decision.completed), (None, None));
        }
    }

    #[test]
    fn a_bound_descriptor_may_be_older_by_the_tolerance() {
        assert_eq!(outcome(0, &[seen(-1, BOUND)]), Outcome::Committed);
        assert_eq!(outcome(0, &[seen(-2, BOUND)]), Outcome::Aborted);
        assert_eq!(outcome(0, &[seen(-1, Some(Evidence::Inferred))]), Outcome::Aborted);
        let under = |millis| {
            let parameters = LogParameters { clock_tolerance: Duration::from_millis(millis), ..parameters() };
            [-1, -2, -3].map(|at| decide_outcome(&parameters, token(), second(0), 1, &[seen(at, BOUND)]).outcome)
        };
        assert_eq!(under(999), [Outcome::Aborted; 3]);
        assert_eq!(under(2999), [Outcome::Committed, Outcome::Committed, Outcome::Aborted]);
    }

    #[test]
    fn an_overwritten_label_claims_nothing() {
        let decision = decide_outcome(&parameters(), token(), second(0), 1, &[seen(90_000, Some(Evidence::Inferred))]);
        assert_eq!(decision.outcome, Outcome::Unknown);
        assert_eq!(decision.evidence, Some(Evidence::Inferred));
        assert_eq!(decision.completed, None);
    }

    #[test]
    fn the_audit_window_of_a_descriptor_starts_with_a_late_entry() {
        assert_eq!(outcome(3000, &[seen(6600, BOUND)]), Outcome::Late);
        assert_eq!(outcome(3000, &[seen(6601, BOUND)]), Outcome::Expired);
    }

    #[test]
    fn an_audit_window_shorter_than_the_bound_expires_nothing_in_time() {
        let parameters = LogParameters { audit_window: Duration::ZERO, ..parameters() };
        let at = |offset| decide_outcome(&parameters, token(), second(0), 1, &[seen(offset, BOUND)]).outcome;
        assert_eq!(at(C + 1), Outcome::Committed);
        assert_eq!(at(C + 2), Outcome::Expired);
    }

    #[test]
    fn an_entry_long_before_its_token_is_aborted() {
        assert_eq!(outcome(-C - 1, &[]), Outcome::Committed);
        assert_eq!(outcome(-C - 2, &[]), Outcome::Aborted);
        assert_eq!(outcome(-1_000_000, &[seen(1, BOUND)]), Outcome::Aborted);
    }

    #[test]
    fn the_weakest_evidence_counts() {
        let both = [seen(1, BOUND), seen(2, Some(Evidence::Timed))];
        let decision = decide_outcome(&parameters(), token(), second(0), 2, &both);
        assert_eq!(decision.evidence, Some(Evidence::Timed));
        assert_eq!(decision.completed, Some(second(2)));
    }

    fn guard(at: i64, until: i64, overtaken_by: Option<u64>) -> GuardObservation {
        GuardObservation { time: second(at), grant: 1, slot: 2, until: second(until), overtaken_by }
    }

    fn guarded(entry: i64, seen: &[Option<Observation>], guard: Option<&GuardObservation>) -> OutcomeDecision {
        let (entry, guard) = (second(entry), EntryGuard::Guarded(guard));
        super::decide_outcome(&parameters(), token(), entry, seen.len(), seen, guard)
    }

    #[test]
    fn a_guard_is_judged_like_a_descriptor_and_bounds_the_others() {
        let bundle = |at| [seen(at, BOUND)];
        for (found, seen, outcome) in [
            (None, &bundle(3)[..], Outcome::Aborted),
            (None, &[], Outcome::Aborted),
            (Some(guard(2, 20, None)), &[], Outcome::Committed),
            (Some(guard(2, 20, None)), &bundle(20), Outcome::Committed),
            (Some(guard(2, 20, None)), &bundle(21), Outcome::Late),
            (Some(guard(21, 20, None)), &[], Outcome::Late),
            (Some(guard(2, 9000, None)), &bundle(C + 1), Outcome::Committed),
            (Some(guard(2, 9000, None)), &bundle(C + 2), Outcome::Late),
            (Some(guard(2, 20, None)), &[None], Outcome::Aborted),
            (Some(guard(2, 20, None)), &bundle(3601), Outcome::Expired),
            (Some(guard(-1, 20, None)), &[], Outcome::Committed),
            (Some(guard(-2, 20, None)), &[], Outcome::Aborted),
            // Overtaken: whatever else is there, in time or late.
            (Some(guard(2, 20, Some(3))), &[None], Outcome::Fenced),
            (Some(guard(2, 20, Some(3))), &bundle(3), Outcome::Fenced),
            (Some(guard(3000, 3020, Some(3))), &[None], Outcome::Fenced),
            (Some(guard(3601, 3620, Some(3))), &[None], Outcome::Expired),
        ] {
            assert_eq!(guarded(0, seen, found.as_ref()).outcome, outcome, "{found:?} {seen:?}");
        }
        assert_eq!(guarded(3601, &[], Some(&guard(2, 20, Some(3)))).outcome, Outcome::Expired);
        assert_eq!(guarded(-C - 2, &[], Some(&guard(2, 20, Some(3)))).outcome, Outcome::Aborted);
        let decision = guarded(0, &[], Some(&guard(2, 20, None)));
        assert_eq!((decision.evidence, decision.completed), (BOUND, Some(second(2))));
    }

    fn observations() -> impl Strategy<Value = Vec<Option<Observation>>> {
        let evidence = prop_oneof![
            Just(None),
            Just(Some(Evidence::Bound)),
            Just(Some(Evidence::Timed)),
            Just(Some(Evidence::Inferred)),
        ];
        let one = proptest::option::weighted(0.9, (-200i64..8000, evidence));
        proptest::collection::vec(one, 0..5)
            .prop_map(|all| all.into_iter().map(|one| one.and_then(|(at, evidence)| seen(at, evidence))).collect())
    }

    /// How far from committed an outcome is; `aborted` stands apart.
    fn rank(outcome: Outcome) -> u8 {
        match outcome {
            Outcome::Committed => 0,
            Outcome::Late => 1,
            _ => 2,
        }
    }

    proptest! {
        #[test]
        fn later_is_never_better(entry in 0i64..8000, delay in 0i64..8000, seen in observations()) {
            let (now, then) = (outcome(entry, &seen), outcome(entry + delay, &seen));
            // A later entry moves the audit window of its descriptors, so that only `committed` and `late` compare.
            prop_assert!(now == Outcome::Aborted || rank(then) >= rank(now).min(1));
            let delayed: Vec<_> = seen.iter().cloned().map(|one| one.map(|mut one| {
                one.time = one.time.after(Duration::from_secs(delay.unsigned_abs()));
                one
            })).collect();
            let then = outcome(entry, &delayed);
            prop_assert!(now == Outcome::Aborted || rank(then) >= rank(now));
        }

        #[test]
        fn committed_means_each_one_in_time(entry in -300i64..8000, seen in observations()) {
            let all = seen.iter().all(|one| one.as_ref().is_some_and(|one| one.evidence.is_some()
                && one.time >= second(if one.evidence == BOUND { -1 } else { 0 })
                && one.evidence != Some(Evidence::Inferred) && one.time <= second(C + 1)));
            let committed = outcome(entry, &seen) == Outcome::Committed;
            prop_assert_eq!(committed, all && (-C - 1..=C + 1).contains(&entry));
        }

        #[test]
        fn a_group_is_no_better_than_its_worst(entry in 0i64..200, seen in observations()) {
            let group = outcome(entry, &seen);
            for one in &seen {
                prop_assert!(group != Outcome::Committed || outcome(entry, std::slice::from_ref(one)) == Outcome::Committed);
            }
        }

        /// Under a guard that counts and bounds nothing, an entry is what it would be with one descriptor more.
        #[test]
        fn a_guard_counts_as_a_bound_descriptor(entry in -300i64..8000, at in -200i64..8000, observations in observations()) {
            let found = guard(at, 1_000_000, None);
            let mut more = observations.clone();
            more.push(seen(at, BOUND));
            let decision = guarded(entry, &observations, Some(&found));
            prop_assert_eq!(decision.outcome, outcome(entry, &more));
        }

        #[test]
        fn completed_is_never_before_the_entry(entry in 0i64..8000, seen in observations()) {
            let decision = decide_outcome(&parameters(), token(), second(entry), seen.len(), &seen);
            prop_assert_eq!(decision.completed.is_some(), decision.outcome != Outcome::Unknown && seen.iter().all(|one| one.as_ref().is_some_and(|one| one.evidence.is_some() && is_in_time_for(&parameters(), token(), one))));
            prop_assert!(decision.completed.is_none_or(|at| at >= second(entry)));
        }
    }
}
