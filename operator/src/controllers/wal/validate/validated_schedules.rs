//! When something of a WAL is due.

use jiff::SignedDuration;
use tidemark_crds::CronSchedule;

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
    pub drill: bool,
}
