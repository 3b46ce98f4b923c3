//! When something of a WAL is due.

use jiff::SignedDuration;
use tidemark_crds::{CronSchedule, TaskType};

/// When something of a WAL is due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedSchedules {
    /// Snapshots, if the spec asks for any.
    pub snapshots: Option<ValidatedSnapshots>,
    /// Cleanups, if they are enabled and have a schedule.
    pub cleanup: Option<CronSchedule>,
    /// Verifications, if the spec asks for any.
    pub verification: Option<ValidatedVerification>,
    /// Collections of what nothing names, if the spec asks for any beside those of the indexer.
    pub gc: Option<CronSchedule>,
    /// How long after an entry the archive takes it at the latest.
    pub settling: SignedDuration,
}

/// When a snapshot is due: when one of these says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedSnapshots {
    /// At these times.
    pub cron: Option<CronSchedule>,
    /// When the index has so many entries more.
    pub after_entries: Option<u64>,
    /// When the index has so many bytes more.
    pub after_bytes: Option<u64>,
    /// When the last one is so old.
    pub after_age: Option<SignedDuration>,
}

/// When index and archive are verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedVerification {
    /// At these times.
    pub cron: Option<CronSchedule>,
    /// Whether a snapshot is restored to try it.
    pub drill: DrillSchedule,
}

/// Whether a verification restores a snapshot to try it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrillSchedule {
    /// The spec does not ask for it.
    #[default]
    None,
    /// The spec asks for it, and this release has no drill.
    Unavailable,
    /// It does.
    Drill,
}

impl DrillSchedule {
    /// That of a spec which asks for drills.
    pub(super) const fn of(available: bool) -> Self {
        if available { Self::Drill } else { Self::Unavailable }
    }
}

impl ValidatedSchedules {
    /// Without those of types that this release does not run: their tasks would be rejected, slot by slot.
    pub(super) fn only(self, available: impl Fn(TaskType) -> bool) -> Self {
        let Self { snapshots, cleanup, verification, gc, settling } = self;
        Self {
            snapshots: snapshots.filter(|_| available(TaskType::Snapshot)),
            cleanup: cleanup.filter(|_| available(TaskType::Cleanup)),
            verification: verification.filter(|_| available(TaskType::Verify)),
            gc: gc.filter(|_| available(TaskType::GC)),
            settling,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Removal = fn(&mut ValidatedSchedules);

    #[test]
    fn a_type_that_this_release_does_not_run_has_no_schedule() {
        let daily = CronSchedule::parse("0 4 * * *", "Etc/UTC").ok();
        let all = ValidatedSchedules {
            snapshots: Some(ValidatedSnapshots::default()),
            cleanup: daily.clone(),
            verification: Some(ValidatedVerification::default()),
            gc: daily,
            settling: SignedDuration::ZERO,
        };
        assert_eq!(all.clone().only(|_| true), all);
        let cases: [(TaskType, Removal); 4] = [
            (TaskType::Snapshot, |schedules| schedules.snapshots = None),
            (TaskType::Cleanup, |schedules| schedules.cleanup = None),
            (TaskType::Verify, |schedules| schedules.verification = None),
            (TaskType::GC, |schedules| schedules.gc = None),
        ];
        for (missing, remove) in cases {
            let mut wanted = all.clone();
            remove(&mut wanted);
            assert_eq!(all.clone().only(|r#type| r#type != missing), wanted, "{missing}");
        }
    }
}
