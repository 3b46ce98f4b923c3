//! The rules of the schedules.

use std::time::Duration;

use jiff::SignedDuration;
use tidemark_crds::{CronSchedule, Reason, SnapshotsSpec, WalSpec};

use super::{
    refusal::{RefusalList, SpecRefusal},
    validated::ValidatedLog,
    validated_schedules::{ValidatedSchedules, ValidatedSnapshots, ValidatedVerification},
};

/// The schedules of a WAL with this log.
pub(super) fn schedules(spec: &WalSpec, log: &ValidatedLog, refusals: &mut RefusalList) -> ValidatedSchedules {
    let snapshots = spec.snapshots.as_ref().map(|spec| snapshots(spec, refusals));
    let (of_cleanup, of_verify, of_gc) = (&spec.cleanup, spec.verify.as_ref(), spec.gc.as_ref());
    // Also of one that is not enabled: it would be refused when it is.
    let cleanup = cron("spec.cleanup", &of_cleanup.schedule, &of_cleanup.time_zone, refusals);
    let verification = of_verify.map(|spec| ValidatedVerification {
        cron: cron("spec.verify", &spec.schedule, &spec.time_zone, refusals),
        drill: spec.drill,
    });
    let gc = of_gc.and_then(|spec| cron("spec.gc", &spec.schedule, &spec.time_zone, refusals));
    ValidatedSchedules {
        snapshots,
        cleanup: cleanup.filter(|_| of_cleanup.enabled),
        verification,
        gc,
        settling: settling(log),
    }
}

fn snapshots(spec: &SnapshotsSpec, refusals: &mut RefusalList) -> ValidatedSnapshots {
    let after_age = refusals.read("spec.snapshots.afterAge", spec.after_age.duration());
    let after_bytes = refusals.read("spec.snapshots.afterSize", spec.after_size.bytes());
    ValidatedSnapshots {
        cron: cron("spec.snapshots", &spec.schedule, &spec.time_zone, refusals),
        after_entries: u64::try_from(spec.after_entries).ok().filter(|entries| *entries > 0),
        after_bytes: after_bytes.filter(|bytes| *bytes > 0),
        after_age: after_age.filter(|age| !age.is_zero()).and_then(|age| SignedDuration::try_from(age).ok()),
    }
}

/// The cron schedule of a part of the spec; an empty one is none.
fn cron(path: &str, schedule: &str, time_zone: &str, refusals: &mut RefusalList) -> Option<CronSchedule> {
    if schedule.is_empty() {
        return None;
    }
    match CronSchedule::parse(schedule, time_zone) {
        Ok(cron) => Some(cron),
        Err(error) => {
            let message = format!("\"{path}.{field}\": {error}", field = error.field());
            refusals.0.push(SpecRefusal { reason: Reason::ScheduleInvalid, message });
            None
        }
    }
}

/// How long after an entry nothing of it changes any more, so that the archive takes it: its audit window from the end of its commit
/// bound, with an hour for the audit itself.
fn settling(log: &ValidatedLog) -> SignedDuration {
    let bound = log.expiry + log.signer_clock_lead + log.request_timeout + log.visibility_delay;
    let settling = bound + log.audit_window + Duration::from_hours(1);
    SignedDuration::try_from(settling).unwrap_or(SignedDuration::MAX)
}
