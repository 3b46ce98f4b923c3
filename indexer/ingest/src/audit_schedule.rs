//! When each sealed second is audited, without I/O.
//!
//! Every second is audited at several ages. A level is one age; it remembers up to which second it has come. A process
//! that takes over starts each level early enough to cover the time for which no process ran.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use tidemark_catalog::LogCursor;
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

/// The ages at which a second is audited, from its sealing on. Ages beyond the audit window do not apply; the window's
/// end is the last age.
const AUDIT_AGES: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(10), Duration::from_hours(1), Duration::from_hours(6)];
/// How far an audit may lag behind its time without leaving a gap over a restart.
const MAX_AUDIT_LAG: Duration = Duration::from_hours(1);

/// How far each level has come.
#[derive(Debug)]
pub(crate) struct AuditSchedule {
    /// Cursor and horizon when this process took over.
    taken_over_at: (StoreSecond, StoreSecond),
    /// The horizon of this process's first audit: what the process seals itself, it lists at least that late.
    first_horizon: Option<StoreSecond>,
    levels: Vec<AuditLevel>,
    /// The audits that have listed their seconds and not yet resolved all aborted operations, by the level's age.
    unfinished: BTreeMap<Duration, UnsettledScan>,
    /// Counts the rounds, so that each level is first in its turn.
    turns: usize,
}

/// An audit that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueAudit {
    pub(crate) level: usize,
    /// The seconds to list again.
    pub(crate) seconds: Range<StoreSecond>,
    /// Aborted operations of these seconds are resolved again if their entry was written before this second.
    ///
    /// That is the end of the seconds, unless the schedule skips the ones after them: an entry is due in the second in
    /// which it was written, which may be later than its token's, and then be one that is skipped.
    pub(crate) written_before: StoreSecond,
}

/// How far an audit has come with the aborted operations of its seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsettledScan {
    /// The seconds that were listed.
    pub(crate) seconds: Range<StoreSecond>,
    /// See [`DueAudit::written_before`].
    pub(crate) written_before: StoreSecond,
    /// The last entry that was resolved again.
    pub(crate) after: Option<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AuditLevel {
    age: Duration,
    /// Every second below it was audited.
    done: StoreSecond,
    /// Seconds that were older than `age` when this process sealed them: it listed them late enough already.
    sealed_late: (StoreSecond, StoreSecond),
}

impl AuditSchedule {
    /// The schedule of a process that took over an index with this horizon and cursor.
    pub(crate) fn after_takeover(horizon: StoreSecond, cursor: LogCursor) -> Self {
        Self {
            taken_over_at: (cursor.second(), horizon),
            first_horizon: None,
            levels: Vec::new(),
            unfinished: BTreeMap::new(),
            turns: 0,
        }
    }

    /// The seconds that are due, each with its level.
    pub(crate) fn due(&mut self, horizon: StoreSecond, cursor: LogCursor, window: Duration) -> Vec<DueAudit> {
        self.set_window(horizon, window);
        let levels = self.levels.iter_mut().enumerate();
        let mut due: Vec<_> = levels.filter_map(|(number, level)| level.due(number, horizon, cursor)).collect();
        if !due.is_empty() {
            self.turns += 1;
            let first = self.turns % due.len();
            due.rotate_left(first);
        }
        due
    }

    /// The scan of a level that [`AuditSchedule::interrupt`] kept, if it begins at `start`.
    pub(crate) fn resume(&mut self, level: usize, start: StoreSecond) -> Option<UnsettledScan> {
        let scan = self.unfinished.remove(&self.levels.get(level)?.age)?;
        (scan.seconds.start == start).then_some(scan)
    }

    /// Keeps a scan that is not finished.
    pub(crate) fn interrupt(&mut self, level: usize, scan: UnsettledScan) {
        if let Some(level) = self.levels.get(level) {
            self.unfinished.insert(level.age, scan);
        }
    }

    /// The level has audited every second below `end`.
    pub(crate) fn finish(&mut self, level: usize, end: StoreSecond) {
        if let Some(level) = self.levels.get_mut(level) {
            level.done = level.done.max(end);
        }
    }

    /// Makes the levels those of `window`, which may change while the process runs.
    fn set_window(&mut self, horizon: StoreSecond, window: Duration) {
        let first = *self.first_horizon.get_or_insert(horizon);
        let ages = AUDIT_AGES.into_iter().filter(|age| *age < window).chain([window]);
        let known = std::mem::take(&mut self.levels);
        self.levels = ages
            .map(|age| {
                let level = known.iter().find(|level| level.age == age);
                level.copied().unwrap_or_else(|| AuditLevel::new(age, self.taken_over_at, first))
            })
            .collect();
    }
}

impl AuditLevel {
    /// A level that begins where a process before this one may have stopped; its first audit covers the time for which
    /// none ran.
    fn new(age: Duration, (cursor, horizon): (StoreSecond, StoreSecond), first: StoreSecond) -> Self {
        Self {
            age,
            done: horizon.min(cursor).before(age).before(MAX_AUDIT_LAG.min(age)),
            sealed_late: (cursor, first.before(age)),
        }
    }

    fn due(&mut self, level: usize, horizon: StoreSecond, cursor: LogCursor) -> Option<DueAudit> {
        let (from, to) = self.sealed_late;
        let mut end = horizon.before(self.age).min(cursor.second());
        if from < to {
            // Up to `from` first, then jump over `sealed_late`: a first backfill is not listed a second time.
            if self.done < from {
                end = end.min(from);
            } else {
                self.done = self.done.max(to);
            }
        }
        let due = end.since(self.done) >= self.interval() || (end == from && end > self.done);
        let written_before = if end == from && from < to { to } else { end };
        due.then_some(DueAudit { level, seconds: self.done..end, written_before })
    }

    /// How often the level is audited: a quarter of its age, at least once an hour and at most once a minute.
    fn interval(&self) -> Duration {
        (self.age / 4).clamp(Duration::from_mins(1), Duration::from_hours(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_hours(2);

    fn second(unix: u64) -> StoreSecond {
        StoreSecond::from_unix(unix)
    }

    #[test]
    fn a_first_backfill_is_not_listed_a_second_time() {
        let mut schedule = AuditSchedule::after_takeover(StoreSecond::default(), LogCursor::default());
        let now = 1_800_000_000;
        for at in [0, 1_500_000_000, now] {
            let due = schedule.due(second(now), LogCursor(second(at)), WINDOW);
            assert!(due.is_empty(), "{due:?}");
        }
        let due = schedule.due(second(now + 120), LogCursor(second(now + 120)), WINDOW);
        let seconds = second(now - 60)..second(now + 60);
        assert_eq!(due, [DueAudit { level: 0, seconds, written_before: second(now + 60) }]);
    }

    #[test]
    fn a_takeover_audits_what_no_process_audited() {
        let taken = second(1_700_000_000);
        let mut schedule = AuditSchedule::after_takeover(taken, LogCursor(taken));
        let now = second(1_800_000_000);
        let due = schedule.due(now, LogCursor(taken), WINDOW);
        assert_eq!(due.len(), 4);
        for DueAudit { level, seconds, .. } in due {
            assert!(seconds.end == taken && seconds.start < taken.before(schedule.levels[level].age), "{seconds:?}");
        }
    }

    #[test]
    fn a_takeover_audits_what_was_sealed_before_it_and_written_in_seconds_that_it_skips() {
        let taken = second(1_700_000_000);
        let mut schedule = AuditSchedule::after_takeover(taken, LogCursor(taken));
        let now = second(1_800_000_000);
        for DueAudit { level, written_before, .. } in schedule.due(now, LogCursor(taken), WINDOW) {
            // The level continues there.
            assert_eq!(written_before, now.before(schedule.levels[level].age));
            schedule.finish(level, taken);
        }
        let later = now.after(Duration::from_hours(10));
        for DueAudit { level, seconds, .. } in schedule.due(later, LogCursor(later), WINDOW) {
            assert_eq!(seconds.start, now.before(schedule.levels[level].age));
        }
    }

    proptest! {
        /// Whenever the process starts, every second that it seals or that the one before it may not have audited at is
        /// audited at again by every level whose age it had not reached when it was listed, at the latest a step after.
        #[test]
        fn every_level_covers_every_second(
            taken in 1_000_000u64..1_001_000, gap in 0u64..40_000, steps in prop::collection::vec(1u64..4000, 1..60),
        ) {
            let mut schedule = AuditSchedule::after_takeover(second(taken), LogCursor(second(taken)));
            let mut audited: Vec<Vec<Range<StoreSecond>>> = vec![Vec::new(); AUDIT_AGES.len() + 1];
            let first = taken + gap;
            let mut horizon = first;
            for step in steps {
                for DueAudit { level, seconds, .. } in schedule.due(second(horizon), LogCursor(second(horizon)), WINDOW) {
                    prop_assert!(seconds.start < seconds.end);
                    audited[level].push(seconds.clone());
                    schedule.finish(level, seconds.end);
                }
                horizon += step;
            }
            for (level, ranges) in schedule.levels.iter().zip(&audited) {
                let covered = |at: u64| ranges.iter().any(|range| range.contains(&second(at)));
                let age = level.age.as_secs();
                let last = horizon.saturating_sub(4000 + age + level.interval().as_secs());
                let start = taken - age - age.min(3600);
                for at in (start..last).step_by(61).filter(|at| *at < taken || at + age >= first) {
                    prop_assert!(covered(at), "second {} at age {}", at, age);
                }
            }
        }
    }
}
