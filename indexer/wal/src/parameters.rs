//! The dated parameters of a log: `W`, `S`, `R`, `V`, the audit window, the largest entry and descriptor, the clock tolerance and how
//! long idempotency keys count, and the horizon that follows from them.
//!
//! The first set holds for all earlier time too. A later set takes effect [`PARAMETER_CHANGE_DELAY`] + its `V` after the
//! store time of the record that carries it, so that every process that relied on the old set has stopped doing so. A token
//! is decided by the set in force at its second.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use tidemark_store::StoreSecond;

use crate::mutants;

/// How long after its record's store time, plus `V`, a change of parameters takes effect.
pub const PARAMETER_CHANGE_DELAY: Duration = Duration::from_mins(5);
/// How long after a clock probe the parameters that are read next may be relied on.
pub const MAX_PARAMETER_AGE: Duration = Duration::from_mins(4);

/// One set of parameters. Spans are serialized as whole milliseconds, sizes as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogParameters {
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
    /// How long an aborted operation is checked again.
    #[serde(with = "millis")]
    pub audit_window: Duration,
    /// Largest body of an entry in bytes; a larger one is malformed and not read.
    pub max_entry_size: u64,
    /// Largest descriptor in bytes; a larger one counts as present, but is not read.
    pub max_descriptor_size: u64,
    /// How far the clocks of the log's stores, and of the machines of one store, may differ where the outcome rule compares
    /// their times. Fractions of a second do not count.
    #[serde(with = "millis")]
    pub clock_tolerance: Duration,
    /// How long a committed operation makes later ones of its writer with its key duplicates, by the seconds of their tokens;
    /// absent where that never ends.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_millis")]
    pub idempotency_retention: Option<Duration>,
}

impl LogParameters {
    /// Parameters with the documented defaults for everything but `W`.
    pub fn with_expiry(expiry: Duration) -> Self {
        Self {
            expiry,
            signer_clock_lead: Duration::ZERO,
            request_timeout: Duration::from_mins(1),
            visibility_delay: Duration::from_secs(10),
            audit_window: Duration::from_hours(24),
            max_entry_size: 1 << 20,
            max_descriptor_size: 16 << 20,
            clock_tolerance: Duration::from_secs(1),
            idempotency_retention: None,
        }
    }

    /// `C = W + S + R`: an update that is complete is complete within `C` of its token.
    pub fn commit_bound(&self) -> Duration {
        self.expiry + self.signer_clock_lead + self.request_timeout
    }

    /// The shortest idempotency retention, `C` + 1 s: until then an update may be complete without its writer's knowing, and its retry must
    /// not count too.
    pub fn min_idempotency_retention(&self) -> Duration {
        self.commit_bound() + Duration::from_secs(1)
    }

    /// How long after its token's second an entry, or after that and the entry a descriptor, may come to count at all: the audit window, and
    /// never less than what is in time. What comes later is expired.
    pub(crate) fn last_look(&self) -> Duration {
        self.audit_window.max(self.commit_bound() + Duration::from_secs(1))
    }

    /// Whether an entry of this second that came at this store time came after the audit's last look at the second.
    pub fn is_past_audit(&self, second: StoreSecond, time: StoreSecond) -> bool {
        time.since(second) > self.last_look()
    }

    /// The clock tolerance in whole seconds, as everything compares it: a fraction would open a bound beyond what the horizon covers.
    pub(crate) fn whole_clock_tolerance(&self) -> Duration {
        Duration::from_secs(self.clock_tolerance.as_secs())
    }

    /// `C + V + 1 s`: how far the horizon lies behind store time.
    pub fn horizon_delay(&self) -> Duration {
        self.commit_bound() + self.visibility_delay + Duration::from_secs(1)
    }
}

/// A set of parameters with the second from which it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatedParameters {
    /// First second for which the set holds; second 0 for the first set of a log.
    pub from: StoreSecond,
    /// The set.
    pub parameters: LogParameters,
}

/// All sets of a log in the order of their dates. Never empty: the first holds from second 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<DatedParameters>", into = "Vec<DatedParameters>")]
pub struct ParameterSchedule(Vec<DatedParameters>);

impl TryFrom<Vec<DatedParameters>> for ParameterSchedule {
    type Error = &'static str;

    fn try_from(sets: Vec<DatedParameters>) -> Result<Self, Self::Error> {
        match sets.first() {
            None => Err("the schedule has no parameters"),
            Some(first) if first.from != StoreSecond::default() => Err("the schedule does not start with second 0"),
            _ if !sets.is_sorted_by(|one, next| one.from < next.from) => Err("the schedule is out of order"),
            _ => Ok(Self(sets)),
        }
    }
}

impl From<ParameterSchedule> for Vec<DatedParameters> {
    fn from(schedule: ParameterSchedule) -> Self {
        schedule.0
    }
}

impl ParameterSchedule {
    /// The schedule of a log whose parameters never changed.
    pub fn constant(parameters: LogParameters) -> Self {
        Self(vec![DatedParameters { from: StoreSecond::default(), parameters }])
    }

    /// The schedule with one more set, recorded at store time `recorded`.
    ///
    /// The set holds from `recorded` + [`PARAMETER_CHANGE_DELAY`] + the larger `V` of old and new, and never before a set
    /// that was recorded earlier.
    #[must_use]
    pub fn changed(&self, parameters: LogParameters, recorded: StoreSecond) -> Self {
        let newest = self.newest();
        let visible = parameters.visibility_delay.max(newest.parameters.visibility_delay);
        let from = recorded.after(PARAMETER_CHANGE_DELAY).after(visible).max(newest.from.next());
        let mut sets = self.0.clone();
        sets.push(DatedParameters { from, parameters });
        Self(sets)
    }

    /// The set that was recorded last; it may not be in force yet.
    pub fn newest(&self) -> &DatedParameters {
        &self.0[self.0.len() - 1]
    }

    /// The set in force at second `at`.
    pub fn at(&self, at: StoreSecond) -> &LogParameters {
        let after = self.0.partition_point(|dated| dated.from <= at);
        &self.0[after.saturating_sub(1)].parameters
    }

    /// Whether the key of an operation that committed in second `earlier` still counts for one of second `later`: as the set in force at
    /// the later one says.
    pub fn retains_key(&self, earlier: StoreSecond, later: StoreSecond) -> bool {
        self.at(later).idempotency_retention.is_none_or(|retention| later.since(earlier) <= retention)
    }

    /// The second from which on the key of an operation that committed in second `committed` counts for no other any more; `None` if it
    /// always counts. A later change of the retention may move it.
    pub fn key_expires(&self, committed: StoreSecond) -> Option<StoreSecond> {
        let ends = self.0.iter().skip(1).map(|next| next.from).chain([StoreSecond::from_unix(u64::MAX)]);
        let mut expires = committed.next();
        for (dated, end) in self.0.iter().zip(ends) {
            let counted = match dated.parameters.idempotency_retention {
                // A fraction of a second never counts: tokens bear whole ones.
                Some(retention) => committed.after(Duration::from_secs(retention.as_secs())).next().min(end),
                None => end,
            };
            if counted > dated.from {
                expires = expires.max(counted);
            }
        }
        (expires < StoreSecond::from_unix(u64::MAX)).then_some(expires)
    }

    /// All sets, oldest first.
    pub fn sets(&self) -> &[DatedParameters] {
        &self.0
    }

    /// `H`: every second below it is frozen, given that the store's clock was seen at `now`.
    ///
    /// The smallest second that some set, in force at that second, still holds open. Raising a parameter stalls the
    /// horizon; lowering one moves it only after the old bound has passed for the seconds that the old set governs.
    pub fn horizon(&self, now: StoreSecond) -> StoreSecond {
        mutants::horizon(self.horizon_of_all_sets(now), now.before(self.newest().parameters.horizon_delay()))
    }

    fn horizon_of_all_sets(&self, now: StoreSecond) -> StoreSecond {
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

mod optional_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    #[allow(clippy::ref_option, reason = "serde hands over the field")]
    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(deserializer).map(|millis| millis.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: u64 = 1_700_000_000;

    fn parameters(expiry: u64) -> LogParameters {
        LogParameters::with_expiry(Duration::from_secs(expiry))
    }

    fn second(offset: u64) -> StoreSecond {
        StoreSecond::from_unix(AT + offset)
    }

    #[test]
    fn the_bounds_add_up() {
        let parameters = LogParameters { signer_clock_lead: Duration::from_secs(3), ..parameters(600) };
        assert_eq!(parameters.commit_bound(), Duration::from_secs(663));
        assert_eq!(parameters.horizon_delay(), Duration::from_secs(674));
        assert_eq!(ParameterSchedule::constant(parameters).horizon(second(674)), second(0));
    }

    #[test]
    fn a_raised_expiry_stalls_the_horizon() {
        let schedule = ParameterSchedule::constant(parameters(10)).changed(parameters(1000), second(0));
        // In force from 310 on: 5 minutes and the visibility delay.
        assert_eq!((schedule.at(second(309)).expiry.as_secs(), schedule.at(second(310)).expiry.as_secs()), (10, 1000));
        let horizons = [390, 391, 1000, 1381, 1382].map(|now| schedule.horizon(second(now)).unix() - AT);
        assert_eq!(horizons, [309, 310, 310, 310, 311]);
    }

    #[test]
    fn a_lowered_expiry_moves_the_horizon_only_after_the_old_bound() {
        let schedule = ParameterSchedule::constant(parameters(1000)).changed(parameters(10), second(0));
        let horizons = [1380, 1381, 1382].map(|now| schedule.horizon(second(now)).unix() - AT);
        assert_eq!(horizons, [309, 1300, 1301]);
    }

    fn retaining(retention: Option<u64>) -> LogParameters {
        LogParameters { idempotency_retention: retention.map(Duration::from_secs), ..parameters(10) }
    }

    #[test]
    fn a_key_counts_for_its_retention_and_no_second_longer() {
        let schedule = ParameterSchedule::constant(retaining(Some(100)));
        assert!(schedule.retains_key(second(5), second(105)) && !schedule.retains_key(second(5), second(106)));
        assert_eq!(schedule.key_expires(second(5)), Some(second(106)));
        let unlimited = ParameterSchedule::constant(retaining(None));
        assert!(unlimited.retains_key(second(0), StoreSecond::KSUID_END));
        assert_eq!(unlimited.key_expires(second(5)), None);
        // In force from 310 on.
        let limited = unlimited.changed(retaining(Some(100)), second(0));
        let expires = [0, 250, 400].map(|committed| limited.key_expires(second(committed)));
        assert_eq!(expires, [Some(second(310)), Some(second(351)), Some(second(501))]);
    }

    #[test]
    fn a_log_without_a_retention_records_none() {
        let text = serde_json::to_string(&retaining(None)).unwrap();
        assert!(!text.contains("idempotency"), "{text}");
        assert_eq!(serde_json::from_str::<LogParameters>(&text).unwrap(), retaining(None));
        let text = serde_json::to_string(&retaining(Some(71))).unwrap();
        assert!(text.contains("\"idempotencyRetention\":71000"), "{text}");
        assert_eq!(serde_json::from_str::<LogParameters>(&text).unwrap(), retaining(Some(71)));
    }

    #[test]
    fn damaged_schedules_are_refused() {
        let dated =
            |from| format!(r#"{{"from":{from},"parameters":{}}}"#, serde_json::to_string(&parameters(1)).unwrap());
        for sets in [vec![], vec![5], vec![0, 7, 7], vec![0, 9, 3]] {
            let text = format!("[{}]", sets.into_iter().map(dated).collect::<Vec<_>>().join(","));
            assert!(serde_json::from_str::<ParameterSchedule>(&text).is_err(), "{text}");
        }
    }

    fn schedules() -> impl Strategy<Value = ParameterSchedule> {
        let change = (1u64..2000, 0u64..60, 0u64..2000);
        proptest::collection::vec(change, 1..6).prop_map(|changes| {
            let mut recorded = second(0);
            let mut schedule = ParameterSchedule::constant(parameters(changes[0].0));
            for (expiry, visible, later) in &changes[1..] {
                recorded = recorded.after(Duration::from_secs(*later));
                let visibility_delay = Duration::from_secs(*visible);
                schedule = schedule.changed(LogParameters { visibility_delay, ..parameters(*expiry) }, recorded);
            }
            schedule
        })
    }

    proptest! {
        #[test]
        fn everything_below_the_horizon_is_frozen(schedule in schedules(), now in 0u64..20_000, back in 1u64..5000) {
            let now = second(now);
            let below = schedule.horizon(now).before(Duration::from_secs(back));
            prop_assert!(below.after(schedule.at(below).horizon_delay()) < now);
        }

        #[test]
        fn nothing_from_the_horizon_on_is_frozen(schedule in schedules(), now in 0u64..20_000) {
            let now = second(now);
            let at = schedule.horizon(now);
            prop_assert!(at.after(schedule.at(at).horizon_delay()) >= now);
        }

        #[test]
        fn the_horizon_never_goes_back(schedule in schedules(), now in 0u64..20_000, later in 0u64..500) {
            prop_assert!(schedule.horizon(second(now)) <= schedule.horizon(second(now + later)));
        }

        #[test]
        fn a_change_alters_nothing_before_it_is_in_force(schedule in schedules(), expiry in 1u64..2000, recorded in 0u64..20_000, ahead in 0u64..300) {
            let changed = schedule.changed(parameters(expiry), second(recorded));
            // A process that read the old parameters relies on them for seconds up to 4 minutes after its probe.
            let relied = second(recorded + ahead);
            prop_assert_eq!(changed.at(relied), schedule.at(relied));
            prop_assert_eq!(changed.horizon(relied), schedule.horizon(relied));
        }

        #[test]
        fn a_key_counts_for_no_operation_from_its_expiry_on(
            retentions in proptest::collection::vec(proptest::option::of(1u64..900), 1..5), committed in 0u64..3000, later in 0u64..3000,
        ) {
            let mut schedule = ParameterSchedule::constant(retaining(retentions[0]));
            for (n, retention) in (0u64..).zip(&retentions[1..]) {
                schedule = schedule.changed(retaining(*retention), second(n * 500));
            }
            let (committed, later) = (second(committed), second(committed + later));
            let expires = schedule.key_expires(committed);
            prop_assert!(!(expires.is_some_and(|expires| expires <= later) && schedule.retains_key(committed, later)));
            // It is the first such second.
            let last = expires.map(|expires| expires.before(Duration::from_secs(1)));
            prop_assert!(last.is_none_or(|last| schedule.retains_key(committed, last)));
        }

        #[test]
        fn schedules_round_trip(schedule in schedules()) {
            let text = serde_json::to_string(&schedule).unwrap();
            prop_assert_eq!(serde_json::from_str::<ParameterSchedule>(&text).unwrap(), schedule);
        }
    }
}
