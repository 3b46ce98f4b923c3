//! When each sealed second is audited, without I/O.
//!
//! Every second is audited at several ages, the last of which is the audit window of the parameters in force at that second.
//! A level is one age; it remembers up to which second it has come. The manifest says below which second every look was had;
//! a process that takes over starts all levels there, and one look at the seconds that follow serves every level that is due.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use tidemark_store::StoreSecond;
use tidemark_wal::{ParameterSchedule, Token};

use crate::mutants;

/// The ages at which a second is audited, from its sealing on. Ages beyond the audit window do not apply; the window's
/// end is the last age.
const AUDIT_AGES: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(10), Duration::from_hours(1), Duration::from_hours(6)];

/// By how much the audit comes on before that is published at once. What is less comes with the next publication, within a minute.
///
/// Snapshots archive up to what is published. A first backfill comes on by years at once, an audit window of a day by an hour each hour.
pub(crate) const AUDITED_STEP: Duration = Duration::from_mins(10);

/// How long it takes at most until what was audited is counted and published.
const PUBLICATION_DELAY: Duration = Duration::from_mins(3);

/// How far each level has come.
#[derive(Debug)]
pub(crate) struct AuditSchedule {
    /// Every second below it had its last look.
    audited: StoreSecond,
    /// The cursor when this process took over.
    taken_over_at: StoreSecond,
    /// The first horizon of this process: what the process seals itself, it lists at least that late.
    first_horizon: Option<StoreSecond>,
    /// By age.
    levels: BTreeMap<Duration, AuditLevel>,
    /// Counts the rounds, so that each level is first in its turn.
    turns: usize,
}

/// An audit that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueAudit {
    /// The seconds to audit.
    pub(crate) seconds: Range<StoreSecond>,
    /// Whether to list them again. If not, only operations with older tokens are due in them.
    pub(crate) lists: bool,
    /// Aborted operations that are due in `seconds` are resolved again if their token's second is before it.
    ///
    /// An operation is due in the second of its token, or in that in which its entry was written, which is later and may be one
    /// whose own entries the level leaves out.
    pub(crate) tokens_before: StoreSecond,
}

/// How far an audit has come with the aborted operations of its seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsettledScan {
    /// The seconds that are audited.
    pub(crate) seconds: Range<StoreSecond>,
    /// The horizon when they were listed; `None` if they were not.
    pub(crate) listed_at: Option<StoreSecond>,
    /// See [`DueAudit::tokens_before`].
    pub(crate) tokens_before: StoreSecond,
    /// The last entry that was resolved again.
    pub(crate) after: Option<Token>,
}

/// How far the last looks have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastLooks {
    /// Every second below it was listed for the last time.
    pub(crate) end: StoreSecond,
    /// Of operations with tokens before `end`, those that are due in seconds from here on may still wait for their last look:
    /// their entries were written later than their tokens say.
    pub(crate) due_from: StoreSecond,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AuditLevel {
    /// Every second below it was audited.
    done: StoreSecond,
    /// Seconds that were older than the level's age when this process sealed them: it listed them late enough already.
    sealed_late: Range<StoreSecond>,
    /// The audit that has listed its seconds and not yet resolved all aborted operations.
    unfinished: Option<UnsettledScan>,
}

impl AuditSchedule {
    /// The schedule of a process that took over an index with this cursor, of which every second below `audited` had its last
    /// look.
    pub(crate) fn after_takeover(audited: StoreSecond, cursor: StoreSecond) -> Self {
        Self { audited, taken_over_at: cursor, first_horizon: None, levels: BTreeMap::new(), turns: 0 }
    }

    /// The process seals what is below `horizon`. Called with each horizon, whether audits run or not: the first one counts.
    pub(crate) fn seal(&mut self, horizon: StoreSecond) {
        self.first_horizon.get_or_insert(horizon);
    }

    /// The ages of the levels, each first in its turn.
    pub(crate) fn ages(&mut self, parameters: &ParameterSchedule) -> Vec<Duration> {
        self.update_levels(parameters);
        let mut ages: Vec<_> = self.levels.keys().copied().collect();
        self.turns += 1;
        let first = self.turns % ages.len().max(1);
        ages.rotate_left(first);
        ages
    }

    /// What is due of the level of `age`.
    pub(crate) fn due(
        &mut self,
        age: Duration,
        horizon: StoreSecond,
        cursor: StoreSecond,
        parameters: &ParameterSchedule,
    ) -> Option<DueAudit> {
        let audited = self.audited;
        let level = self.levels.get_mut(&age)?;
        let end = horizon.before(age).min(cursor);
        while level.done < end {
            let piece = level.piece(end, parameters);
            let late = level.sealed_late.contains(&piece.start);
            let lists = !late && is_level(age, piece.start, parameters);
            let tokens_before = if late { level.sealed_late.start } else { piece.end };
            if !lists && !has_level(age, audited..tokens_before, parameters) {
                // Nobody's look is due in it.
                level.done = piece.end;
                continue;
            }
            let is_due = piece.end < end || end.since(piece.start) >= audit_interval(age);
            return is_due.then_some(DueAudit { seconds: piece, lists, tokens_before });
        }
        None
    }

    /// The scan of a level that [`AuditSchedule::interrupt`] kept, if it begins at `start`.
    pub(crate) fn resume(&mut self, age: Duration, start: StoreSecond) -> Option<UnsettledScan> {
        let scan = self.levels.get_mut(&age)?.unfinished.take()?;
        (scan.seconds.start == start).then_some(scan)
    }

    /// Keeps a scan that is not finished.
    pub(crate) fn interrupt(&mut self, age: Duration, scan: UnsettledScan) {
        if let Some(level) = self.levels.get_mut(&age) {
            level.unfinished = Some(scan);
        }
    }

    /// The level of `age` has finished `scan`.
    pub(crate) fn finish(&mut self, age: Duration, scan: &UnsettledScan, parameters: &ParameterSchedule) {
        let UnsettledScan { seconds, listed_at, .. } = scan;
        let operations = self.audited..seconds.end;
        for (other, level) in &mut self.levels {
            // A look is one of every level that it is late enough for, if they are levels of the same operations.
            let serves = have_same_operations(age, *other, operations.clone(), parameters);
            let end = match listed_at {
                _ if *other == age => seconds.end,
                Some(horizon) if serves => seconds.end.min(horizon.before(*other)),
                _ => continue,
            };
            if level.done >= seconds.start && level.done < end {
                (level.done, level.unfinished) = (end, None);
            }
        }
    }

    /// How far the last looks have come.
    pub(crate) fn last_looks(&self, parameters: &ParameterSchedule) -> LastLooks {
        let mut due_from = StoreSecond::KSUID_END.next();
        let mut end = self.audited;
        for (seconds, window) in windows(parameters).filter(|(seconds, _)| seconds.end > self.audited) {
            let done = self.levels.get(&window).map_or(self.audited, |level| level.done);
            (end, due_from) = (end.max(done.min(seconds.end)), due_from.min(done));
            if done < seconds.end {
                break;
            }
        }
        LastLooks { end, due_from }
    }

    /// Whether an operation with a token of second `token`, which is due in the second `due`, still waits for its last look.
    pub(crate) fn awaits_last_look(
        &self,
        token: StoreSecond,
        due: StoreSecond,
        parameters: &ParameterSchedule,
    ) -> bool {
        let window = overlapping(token..token.next(), parameters).next();
        window.and_then(|window| self.levels.get(&window)).is_none_or(|level| level.done <= due)
    }

    /// Every entry with a token below `second` had its last look.
    pub(crate) fn set_audited(&mut self, second: StoreSecond) {
        self.audited = self.audited.max(second);
    }

    /// Every second below it had its last look.
    pub(crate) fn audited(&self) -> StoreSecond {
        self.audited
    }

    /// Makes the levels those of the windows that are in force, which may change while the process runs.
    fn update_levels(&mut self, parameters: &ParameterSchedule) {
        let first = self.first_horizon.unwrap_or(self.taken_over_at);
        let waiting = windows(parameters).filter(|(seconds, _)| seconds.end > self.audited);
        let ages: Vec<Duration> = waiting.flat_map(|(_, window)| ages_of(window)).collect();
        self.levels.retain(|age, _| ages.contains(age));
        for age in ages {
            self.levels.entry(age).or_insert_with(|| AuditLevel {
                done: self.audited,
                sealed_late: self.taken_over_at..first.before(age),
                unfinished: None,
            });
        }
    }
}

impl AuditLevel {
    /// The seconds from `done` on, up to `end` at most, that are alike: sealed late or not, with one set of parameters.
    fn piece(&self, end: StoreSecond, parameters: &ParameterSchedule) -> Range<StoreSecond> {
        let late = [self.sealed_late.start, self.sealed_late.end];
        let boundaries = parameters.sets().iter().map(|set| set.from).chain(late);
        let next = boundaries.filter(|at| *at > self.done).min();
        self.done..next.map_or(end, |next| next.min(end))
    }
}

/// How often a level is audited: a quarter of its age, at least once an hour and at most once a minute.
fn audit_interval(age: Duration) -> Duration {
    (age / 4).clamp(Duration::from_mins(1), Duration::from_hours(1))
}

/// The seconds of each set of parameters, with their audit window.
fn windows(parameters: &ParameterSchedule) -> impl Iterator<Item = (Range<StoreSecond>, Duration)> {
    let newest = parameters.newest().parameters.audit_window;
    let sets = parameters.sets();
    let ends = sets.iter().skip(1).map(|next| next.from).chain([StoreSecond::KSUID_END.next()]);
    let windows = sets.iter().map(move |set| mutants::audit_window(set.parameters.audit_window, newest));
    sets.iter().zip(ends).zip(windows).map(|((set, end), window)| (set.from..end, window))
}

/// The ages at which seconds with this audit window are audited.
fn ages_of(window: Duration) -> impl Iterator<Item = Duration> {
    AUDIT_AGES.into_iter().filter(move |age| *age < window).chain([window])
}

/// Every second below it has had its last look by the horizon `horizon`, and that is published, if a process has audited without a pause
/// and nothing that is aborted waits any longer.
pub(crate) fn last_look_due(horizon: StoreSecond, parameters: &ParameterSchedule) -> StoreSecond {
    let mut due = StoreSecond::default();
    for (seconds, window) in windows(parameters) {
        let end = horizon.before(window + audit_interval(window) + PUBLICATION_DELAY);
        due = due.max(end.min(seconds.end));
        if end < seconds.end {
            break;
        }
    }
    due
}

/// Whether seconds with this audit window are audited at `age`.
fn is_age_of(age: Duration, window: Duration) -> bool {
    ages_of(window).any(|one| one == age)
}

/// Whether `second` is audited at `age`.
pub(crate) fn is_level(age: Duration, second: StoreSecond, parameters: &ParameterSchedule) -> bool {
    has_level(age, second..second.next(), parameters)
}

/// Whether some of `seconds` are audited at `age`.
fn has_level(age: Duration, seconds: Range<StoreSecond>, parameters: &ParameterSchedule) -> bool {
    overlapping(seconds, parameters).any(|window| is_age_of(age, window))
}

/// Whether all of `seconds` are audited at both ages.
fn have_same_operations(
    age: Duration,
    other: Duration,
    seconds: Range<StoreSecond>,
    parameters: &ParameterSchedule,
) -> bool {
    overlapping(seconds, parameters).all(|window| is_age_of(age, window) && is_age_of(other, window))
}

/// The windows of `seconds`.
fn overlapping(seconds: Range<StoreSecond>, parameters: &ParameterSchedule) -> impl Iterator<Item = Duration> {
    let overlap = move |of: &Range<StoreSecond>| of.start.max(seconds.start) < of.end.min(seconds.end);
    windows(parameters).filter(move |(of, _)| overlap(of)).map(|(_, window)| window)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_wal::{DatedParameters, LogParameters};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn second(unix: u64) -> StoreSecond {
        StoreSecond::from_unix(unix)
    }

    /// Sets of parameters by the second from which they hold, with these audit windows.
    fn parameters(windows: &[(u64, Duration)]) -> ParameterSchedule {
        let set = |(from, audit_window): &(u64, Duration)| DatedParameters {
            from: second(*from),
            parameters: LogParameters {
                audit_window: *audit_window,
                ..LogParameters::with_expiry(Duration::from_mins(10))
            },
        };
        windows.iter().map(set).collect::<Vec<_>>().try_into().unwrap()
    }

    /// An operation that stays aborted.
    #[derive(Clone, Debug)]
    struct AbortedOperation {
        token: StoreSecond,
        written: StoreSecond,
        /// The horizons at which it was resolved.
        looks: Vec<StoreSecond>,
    }

    /// A log and its index: what every process has looked at, and at which horizon.
    struct AuditWorld {
        parameters: ParameterSchedule,
        schedule: AuditSchedule,
        horizon: StoreSecond,
        cursor: StoreSecond,
        audited: StoreSecond,
        listings: Vec<(Range<StoreSecond>, StoreSecond)>,
        operations: Vec<AbortedOperation>,
    }

    impl AuditWorld {
        fn new(parameters: ParameterSchedule, operations: Vec<AbortedOperation>) -> Self {
            let zero = StoreSecond::default();
            let schedule = AuditSchedule::after_takeover(zero, zero);
            let (listings, horizon) = (Vec::new(), second(NOW));
            Self { parameters, schedule, horizon, cursor: zero, audited: zero, listings, operations }
        }

        fn restart(&mut self) {
            self.schedule = AuditSchedule::after_takeover(self.audited, self.cursor);
        }

        /// The horizon moves; the tail seals what is below it, and a few slices of audits run.
        fn pass(&mut self, seconds: u64) {
            self.seal(seconds);
            for _ in 0..12 {
                self.audit();
            }
        }

        /// The tail goes on while the audit fails.
        fn seal(&mut self, seconds: u64) {
            self.horizon = self.horizon.after(Duration::from_secs(seconds));
            self.schedule.seal(self.horizon);
            self.list(self.cursor..self.horizon);
            self.cursor = self.horizon;
        }

        fn list(&mut self, seconds: Range<StoreSecond>) {
            let horizon = self.horizon;
            for one in self.operations.iter_mut().filter(|one| seconds.contains(&one.token)) {
                if one.looks.is_empty() && one.written <= horizon {
                    one.looks.push(horizon);
                }
            }
            self.listings.push((seconds, horizon));
        }

        fn audit(&mut self) {
            let (horizon, cursor, parameters) = (self.horizon, self.cursor, self.parameters.clone());
            for age in self.schedule.ages(&parameters) {
                let Some(due) = self.schedule.due(age, horizon, cursor, &parameters) else { continue };
                assert!(due.seconds.start < due.seconds.end && due.seconds.end <= cursor);
                if due.lists {
                    self.list(due.seconds.clone());
                }
                for one in self.operations.iter_mut().filter(|one| !one.looks.is_empty()) {
                    let is_due = due.seconds.contains(&one.written.max(one.token)) && one.token < due.tokens_before;
                    if is_due && is_level(age, one.token, &parameters) {
                        one.looks.push(horizon);
                    }
                }
                let DueAudit { seconds, lists, tokens_before } = due;
                let scan = UnsettledScan { seconds, listed_at: lists.then_some(horizon), tokens_before, after: None };
                self.schedule.finish(age, &scan, &parameters);
            }
            let LastLooks { end, due_from } = self.schedule.last_looks(&parameters);
            let waits = |one: &&AbortedOperation| {
                let due = one.written.max(one.token);
                !one.looks.is_empty()
                    && one.token < end
                    && due >= due_from
                    && self.schedule.awaits_last_look(one.token, due, &parameters)
            };
            let waiting = self.operations.iter().filter(waits).map(|one| one.token).min();
            self.schedule.set_audited(waiting.map_or(end, |token| token.min(end)));
            assert!(self.audited <= self.schedule.audited() && self.schedule.audited() <= cursor);
            self.audited = self.schedule.audited();
        }

        fn window(&self, at: StoreSecond) -> Duration {
            self.parameters.at(at).audit_window
        }

        /// Everything below `audited` had every look that its own parameters demand.
        fn check(&self) {
            let looked = |at: StoreSecond, age: Duration| {
                self.listings.iter().any(|(seconds, horizon)| seconds.contains(&at) && *horizon >= at.after(age))
            };
            let ages = |at| AUDIT_AGES.into_iter().filter(move |age| *age < self.window(at)).chain([self.window(at)]);
            for at in (NOW - 5000..self.audited.unix()).step_by(61).map(second) {
                for age in ages(at) {
                    assert!(looked(at, age), "second {at} at the age of {age:?}, audited {}", self.audited);
                }
            }
            for one in self.operations.iter().filter(|one| one.token < self.audited) {
                let due = one.written.max(one.token);
                assert!(
                    !one.looks.is_empty() || due > one.token.after(self.window(one.token)),
                    "{one:?} was not found"
                );
                for age in ages(one.token).filter(|_| !one.looks.is_empty()) {
                    let found = one.looks.iter().any(|horizon| *horizon >= due.after(age));
                    assert!(found, "{one:?} at the age of {age:?}, audited {}", self.audited);
                }
            }
        }

        fn listed_seconds(&self) -> u64 {
            self.listings.iter().map(|(seconds, _)| seconds.end.since(seconds.start).as_secs()).sum()
        }
    }

    fn aborted(token: u64, written: u64) -> AbortedOperation {
        AbortedOperation { token: second(token), written: second(written), looks: Vec::new() }
    }

    const DAY: Duration = Duration::from_hours(24);
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_first_backfill_is_not_listed_a_second_time() {
        let old = (0..50).map(|n| aborted(NOW - 1000 * n - 90_000, NOW - 1000 * n - 90_000)).collect();
        let mut world = AuditWorld::new(parameters(&[(0, DAY)]), old);
        world.pass(0);
        assert_eq!(world.listings.len(), 1, "{:?}", world.listings);
        assert!(world.operations.iter().all(|one| one.looks.len() == 1));
        assert_eq!(world.audited, world.horizon.before(DAY));
        world.pass(120);
        let again = &world.listings[2..];
        assert!(again.iter().all(|(seconds, _)| seconds.start >= second(NOW - 60)), "{again:?}");
    }

    #[test]
    fn a_takeover_looks_once_at_what_is_not_audited() {
        let mut world = AuditWorld::new(parameters(&[(0, DAY)]), Vec::new());
        for _ in 0..300 {
            world.pass(600);
        }
        let unaudited = world.cursor.since(world.audited).as_secs();
        assert!((DAY.as_secs()..(DAY + 2 * HOUR).as_secs()).contains(&unaudited), "{unaudited}");
        let before = world.listed_seconds();
        world.restart();
        world.pass(1);
        let listed = world.listed_seconds() - before;
        assert!((unaudited - 60..unaudited + 60).contains(&listed), "{listed} seconds of {unaudited}");
        world.check();
    }

    /// The audit of a process that lags for hours and ends leaves no gap: its successor begins where the manifest says.
    #[test]
    fn a_takeover_after_a_lag_of_hours_loses_no_look() {
        let mut world = AuditWorld::new(parameters(&[(0, DAY)]), Vec::new());
        world.pass(0);
        world.seal(5 * HOUR.as_secs());
        let horizon = world.horizon;
        world.restart();
        for _ in 0..60 {
            world.pass(3600);
        }
        assert!(world.audited > horizon);
        world.check();
    }

    /// A day's window is lowered to an hour: what was appended before keeps its looks after six hours and a day.
    #[test]
    fn a_lowered_window_drops_no_look() {
        // The last one was written when the lower window was in force already.
        let operations =
            vec![aborted(NOW + 100, NOW + 101), aborted(NOW + 3000, NOW + 3700), aborted(NOW + 4000, NOW + 4000)];
        let mut world = AuditWorld::new(parameters(&[(0, DAY), (NOW + 3600, HOUR)]), operations);
        for _ in 0..200 {
            world.pass(600);
        }
        let looks = |n: usize| world.operations[n].looks.last().unwrap().since(second(NOW));
        assert!(looks(0) >= DAY && looks(1) >= DAY + HOUR, "{:?}", world.operations);
        assert!(looks(2) < 4 * HOUR, "an hour is enough for it");
        assert!(world.audited > second(NOW + 3600));
        world.check();
        let ages = world.schedule.ages(&world.parameters);
        assert!(ages.iter().all(|age| *age <= HOUR), "{ages:?}");
    }

    prop_compose! {
        fn windows_in_force()(
            first in 0usize..5, changes in prop::collection::vec((0u64..60_000, 0usize..5), 0..3),
        ) -> ParameterSchedule {
            let window = |n: usize| [30, 90, 1_200, 7_200, 86_400].map(Duration::from_secs)[n];
            let mut sets: BTreeMap<u64, Duration> = [(0, window(first))].into();
            sets.extend(changes.into_iter().map(|(from, n)| (NOW - 2000 + from, window(n))));
            parameters(&sets.into_iter().collect::<Vec<_>>())
        }
    }

    proptest! {
        /// Whatever the window is and however it changes: what is due is audited by a process that runs without a pause.
        #[test]
        fn what_is_due_was_audited(
            parameters in windows_in_force(),
            steps in prop::collection::vec(1u64..60, 1..200),
            jump in 0u64..200_000,
        ) {
            let mut world = AuditWorld::new(parameters, Vec::new());
            // A log that was written long before it is indexed, or just now.
            world.horizon = world.horizon.after(Duration::from_secs(jump));
            for seconds in steps {
                world.pass(seconds);
                let due = last_look_due(world.horizon, &world.parameters);
                prop_assert!(due <= world.audited, "{due} is due, {} was audited of {}", world.audited, world.horizon);
            }
        }

        /// Whenever processes start and however the window changes, what lies below `audited` had all its looks, and `audited`
        /// comes on.
        #[test]
        fn what_is_audited_had_every_look(
            parameters in windows_in_force(),
            operations in prop::collection::vec((0u64..70_000, 0u64..9_000), 0..30),
            steps in prop::collection::vec((1u64..4000, prop::bool::weighted(0.1), prop::bool::weighted(0.8)), 1..80),
        ) {
            let operations = operations.into_iter().map(|(token, late)| aborted(NOW - 4000 + token, NOW - 4000 + token + late));
            let mut world = AuditWorld::new(parameters, operations.collect());
            world.pass(0);
            for (seconds, restarts, audits) in steps {
                if restarts {
                    world.restart();
                }
                if audits {
                    world.pass(seconds);
                } else {
                    world.seal(seconds);
                }
            }
            world.check();
            let end = world.horizon;
            for _ in 0..40 {
                world.pass(3600);
            }
            world.check();
            prop_assert!(world.audited >= end, "{} of {}", world.audited, end);
        }
    }
}
