//! Why a condition is what it is, or why a pod does not do its work: one list for pods, operator, alerts and people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Why a condition is what it is. The texts are part of the API: programs wait for them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "&'static str")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The condition's `reason`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    // What a data pod reports.
    /// A key of the credentials' Secret, or the whole Secret, is missing.
    CredentialsMissing,
    /// The store does not let us in.
    AccessDenied,
    /// A bucket does not exist.
    BucketMissing,
    /// A bucket can be read but not written.
    ReadOnly,
    /// A store does not answer.
    Unreachable,
    /// A store does not keep what a log needs: create-only writes, complete listings.
    StoreUnsupported,
    /// A URL that no store can be opened by.
    InvalidURL,
    /// The log was recorded with other parameters than the WAL asks for; it is indexed by the recorded ones.
    ParametersDiffer,
    /// The log has no parameters yet, and no expiry was given, or parameters that cannot work.
    ExpiryMissing,
    /// The index belongs to another owner.
    OwnedByAnother,
    /// The log of the index's records was elsewhere: it was moved, or this is a copy.
    LogMoved,
    /// Objects of the index are missing or damaged.
    IndexDamaged,
    /// The index lacks entries that may be gone from the log.
    BelowFloor,
    /// The index was written by a newer release.
    FormatTooNew,
    /// Another writer has taken over.
    Fenced,
    /// The search token is missing.
    AuthTokenMissing,
    /// The search token is so short that it can be guessed.
    AuthTokenTooShort,
    /// The disk of this process is full, or its cache has no room for what is in use.
    DiskFull,
    /// A bug.
    Internal,
    // What a job reports.
    /// A restore asks for a moment that no snapshot, archive and log reach.
    OutsideRecoveryWindow,
    /// A snapshot of this name does not exist.
    SnapshotMissing,
    /// No snapshot is verified: nothing may be deleted from the log, and nothing restored.
    NoVerifiedSnapshot,
    /// A store keeps objects that were to be deleted: the credentials may not delete, or a lock or a retention holds them.
    DeletionRefused,
    /// Objects of the archive are missing or damaged.
    ArchiveDamaged,
    /// Outcomes that were decided again from log and archive differ from those in the index.
    OutcomesDiffer,
    /// What was restored to try it differs from the index.
    DrillFailed,
    /// The index is not a restored one that waits for its promotion.
    NothingToPromote,
    /// Another process builds a generation of the index or switches to one.
    GenerationBusy,
    /// Another process made or dropped a pin, such as that of a snapshot, while this one worked on it.
    PinChanged,
    /// A place that should be empty holds something else.
    PrefixInUse,
    // The life of a task.
    /// The task waits: it was not looked at yet, or its Job does not run yet.
    Pending,
    /// The task waits until another task of the WAL has ended.
    WaitingForTask,
    /// The task waits until the WAL's upgrade is through.
    WaitingForUpgrade,
    /// An attempt failed; the next one follows.
    AttemptFailed,
    /// The task's Job runs.
    Running,
    /// The task did what it was asked to do.
    Succeeded,
    /// The task's WAL does not exist, or is not the one any more that the task was started for.
    WALNotFound,
    /// The WAL is being deleted.
    WALDeleted,
    /// The task was not through before its deadline.
    DeadlineExceeded,
    /// A pod had to make place for a more important one.
    PodPreempted,
    /// A job's program ended without a result.
    JobCrashed,
    /// A job's pod or the Job itself is gone before its result was read.
    JobLost,
    // The life of a sink.
    /// The sink delivers what is published.
    Delivering,
    /// The destination of a sink fails again and again: for a while nothing is sent.
    DestinationUnavailable,
    /// The destination of a sink refuses a record, and nothing after it is delivered.
    DeliveryBlocked,
    // Snapshots and verifications that a schedule asks for.
    /// The newest verified snapshot is as new as the schedule asks for.
    SnapshotCurrent,
    /// The newest verified snapshot is older than the schedule asks for.
    SnapshotOverdue,
    /// The newest snapshot that was tried failed.
    SnapshotFailed,
    /// Index and archive were found to be right as lately as the schedule asks for.
    Verified,
    /// The last verification that was through is older than the schedule asks for, or there is none yet.
    VerificationOverdue,
    /// The newest verification failed.
    VerificationFailed,
    /// The WAL has no schedule for it.
    NotScheduled,
    /// A schedule or a time zone cannot be read.
    ScheduleInvalid,
    // What validation refuses.
    /// The spec asks for something impossible.
    SpecInvalid,
    /// A pod template sets what it may not.
    PodTemplateRefused,
    // What the cluster does with the pods.
    /// No node takes a pod.
    PodUnschedulable,
    /// The image cannot be pulled.
    ImageNotFound,
    /// No replica is wanted, or none is there.
    NoReplicas,
    /// A pod runs and does not answer the operator.
    PodNotAnswering,
    /// What answers at a pod's address does not say that it is this pod.
    PodUnidentified,
    /// A pod's program ends again and again.
    PodCrashing,
    /// A node has removed a pod, as when its disk is full, and the pod that takes its place does not run yet.
    PodEvicted,
    /// The cluster refuses to make a pod or its container.
    PodRefused,
    /// The cluster refuses a child of the WAL.
    ChildRefused,
    /// Something else bears the name of a child.
    NameTaken,
    /// The API server fails again and again to write a child of the WAL.
    ApplyFailed,
    /// The API server does not let the operator add or remove the finalizer of a WAL.
    FinalizerRefused,
    // Whether the pods are made of the spec.
    /// They are.
    Applied,
    /// Pods of the present spec take the place of others.
    RollingOut,
    /// Pods of the present spec do not become ready.
    RollOutStalled,
    /// A change of the spec waits with a new release for approval.
    Held,
    // The life of a WAL.
    /// Pods start.
    Starting,
    /// The buckets are tried out.
    Probing,
    /// The history of the log is being indexed.
    Backfilling,
    /// Everything that is sealed is published.
    CaughtUp,
    /// The indexer waits for the writer to go.
    Standby,
    /// The index holds nothing and is restored from what is recorded of its log.
    Restoring,
    /// The index was restored to an earlier time: nothing newer is indexed before its promotion.
    AwaitingPromotion,
    /// The indexer is stopped as the spec asks.
    Suspended,
    /// The index is being removed.
    Purging,
    /// The pods are of the operator's release.
    UpToDate,
    /// The operator brings a newer release.
    NewRelease,
    /// Search answers.
    Available,
    /// The buckets were probed and hold what a log needs.
    Probed,
    /// Indexed and searchable.
    Ready,
    /// An approved release is being rolled out.
    Upgrading,
    /// An approved release is being rolled out and its pods do not become ready; other WALs wait.
    UpgradeStalled,
}

impl Reason {
    /// The reason of this text, if it is known.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }

    /// Whether search refuses every request because its token cannot be used.
    pub const fn is_unusable_token(self) -> bool {
        matches!(self, Self::AuthTokenMissing | Self::AuthTokenTooShort)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        reason.as_str()
    }
}

/// A text that this release does not know, as a newer pod may report it, becomes [`Reason::Internal`].
impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::parse(&text).unwrap_or(Self::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_their_names() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("Nonsense"), None);
    }
}
