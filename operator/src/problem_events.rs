//! The Events of problems that conditions report, of any kind of resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::Reason;

use crate::event_publisher::EventRecord;

/// The Events of the problems that are new. One is reported once, though several conditions and later messages repeat it.
pub(crate) fn problem_events<'a>(
    before: impl Iterator<Item = &'a Condition>,
    after: impl Iterator<Item = &'a Condition>,
) -> Vec<EventRecord> {
    let known: Vec<_> = before.filter_map(problem).collect();
    let mut reported: Vec<Reason> = Vec::new();
    let mut events = Vec::new();
    for condition in after {
        let Some(reason) = problem(condition) else { continue };
        if !known.contains(&reason) && !reported.contains(&reason) {
            reported.push(reason);
            events.push(EventRecord::warning(reason.as_str(), condition.message.clone()));
        }
    }
    events
}

/// The problem that keeps a condition from being true.
fn problem(condition: &Condition) -> Option<Reason> {
    Reason::parse(&condition.reason).filter(|reason| condition.status != "True" && is_problem(*reason))
}

/// Whether a reason is a problem, rather than a normal state.
fn is_problem(reason: Reason) -> bool {
    match reason {
        Reason::NoReplicas
        | Reason::Starting
        | Reason::Probing
        | Reason::Backfilling
        | Reason::CaughtUp
        | Reason::Standby
        | Reason::Restoring
        | Reason::AwaitingPromotion
        | Reason::Suspended
        | Reason::Purging
        | Reason::UpToDate
        | Reason::NewRelease
        | Reason::Available
        | Reason::Probed
        | Reason::Ready
        | Reason::Upgrading
        | Reason::Applied
        | Reason::RollingOut
        | Reason::Held
        | Reason::Pending
        | Reason::WaitingForTask
        | Reason::WaitingForUpgrade
        | Reason::Running
        | Reason::Succeeded
        | Reason::Delivering
        | Reason::SnapshotCurrent
        | Reason::Verified
        | Reason::NotScheduled
        // Reported with the state of the upgrade.
        | Reason::UpgradeStalled => false,
        Reason::CredentialsMissing
        | Reason::ApplyFailed
        | Reason::FinalizerRefused
        | Reason::RollOutStalled
        | Reason::AccessDenied
        | Reason::BucketMissing
        | Reason::ReadOnly
        | Reason::Unreachable
        | Reason::StoreUnsupported
        | Reason::InvalidURL
        | Reason::ParametersDiffer
        | Reason::ExpiryMissing
        | Reason::OwnedByAnother
        | Reason::IndexDamaged
        | Reason::LogMoved
        | Reason::BelowFloor
        | Reason::FormatTooNew
        | Reason::Fenced
        | Reason::AuthTokenMissing
        | Reason::AuthTokenTooShort
        | Reason::DiskFull
        | Reason::Internal
        | Reason::SpecInvalid
        | Reason::PodTemplateRefused
        | Reason::PodUnschedulable
        | Reason::ImageNotFound
        | Reason::PodNotAnswering
        | Reason::PodUnidentified
        | Reason::PodCrashing
        | Reason::PodEvicted
        | Reason::PodRefused
        | Reason::ChildRefused
        | Reason::NameTaken
        | Reason::OutsideRecoveryWindow
        | Reason::SnapshotMissing
        | Reason::NoVerifiedSnapshot
        | Reason::DeletionRefused
        | Reason::ArchiveDamaged
        | Reason::OutcomesDiffer
        | Reason::DrillFailed
        | Reason::NothingToPromote
        | Reason::GenerationBusy
        | Reason::PinChanged
        | Reason::PrefixInUse
        | Reason::AttemptFailed
        | Reason::WALNotFound
        | Reason::WALDeleted
        | Reason::DeadlineExceeded
        | Reason::PodPreempted
        | Reason::JobCrashed
        | Reason::JobLost
        | Reason::DestinationUnavailable
        | Reason::DeliveryBlocked
        | Reason::SnapshotOverdue
        | Reason::SnapshotFailed
        | Reason::VerificationOverdue
        | Reason::VerificationFailed
        | Reason::ScheduleInvalid => true,
    }
}
