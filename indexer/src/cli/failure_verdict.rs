//! What an error means to the one who started the command: the one place where it becomes a class, a reason and an exit code.

use tidemark_catalog::CatalogError;
#[cfg(feature = "archive")]
use tidemark_crds::TaskResult;
use tidemark_crds::{Reason, TaskState};
use tidemark_ingest::{
    DrillError, ToCause,
    cleanup::{CleanupError, FloorMoveError},
    snapshot::SnapshotError,
};
#[cfg(feature = "archive")]
use tidemark_store::error_chain;

use super::exit::CommandExit;
use crate::service::{ConsumerServiceError, ServiceError, SinkVerificationError};

/// An error that ends a command.
pub(super) trait CommandError: ToCause + Send + Sync {
    /// Whether the outcome of a write is unknown: the next process reads it.
    fn is_unknown(&self) -> bool {
        false
    }
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailureVerdict {
    /// Whether another attempt may succeed.
    pub(super) state: TaskState,
    /// Why, in one word.
    pub(super) reason: Reason,
    /// The exit code.
    pub(super) exit: CommandExit,
}

impl FailureVerdict {
    /// What `error` means. Class and exit code follow from the reason alone, but for a write whose outcome is unknown.
    pub(super) fn of(error: &dyn CommandError) -> Self {
        let reason = error.to_cause().reason;
        let state = if is_lasting(reason) { TaskState::Refused } else { TaskState::Failed };
        let exit = match reason {
            _ if error.is_unknown() => CommandExit::Unknown,
            Reason::Fenced | Reason::GenerationBusy => CommandExit::Fenced,
            Reason::StoreUnsupported => CommandExit::StoreUnsupported,
            _ => CommandExit::Failed,
        };
        Self { state, reason, exit }
    }
}

/// The result of a job that an error ended.
#[cfg(feature = "archive")]
pub(super) fn failed_result(error: &dyn CommandError) -> TaskResult {
    let FailureVerdict { state, reason, .. } = FailureVerdict::of(error);
    TaskResult { state, ..TaskResult::failed(reason, error_chain(error)) }
}

/// The result of a command, with the exit code of its error.
pub(super) fn ended<T>(result: Result<T, impl CommandError>) -> anyhow::Result<T> {
    result.map_err(|error| match FailureVerdict::of(&error).exit {
        CommandExit::Failed => error.into(),
        exit => exit.with(error),
    })
}

/// Whether another attempt finds the same: the request, the rights or the data have to change first. Damage is none of these reasons:
/// what a store answers once it may answer otherwise the next time, and objects come back from its versions.
fn is_lasting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::StoreUnsupported
            | Reason::InvalidURL
            | Reason::ParametersDiffer
            | Reason::ExpiryMissing
            | Reason::OwnedByAnother
            | Reason::LogMoved
            | Reason::BelowFloor
            | Reason::FormatTooNew
            | Reason::OutsideRecoveryWindow
            | Reason::SnapshotMissing
            | Reason::NoVerifiedSnapshot
            | Reason::OutcomesDiffer
            | Reason::NothingToPromote
            | Reason::PrefixInUse
            | Reason::SpecInvalid
    )
}

impl CommandError for ServiceError {
    fn is_unknown(&self) -> bool {
        ServiceError::is_unknown(self)
    }
}

impl CommandError for ConsumerServiceError {
    fn is_unknown(&self) -> bool {
        ConsumerServiceError::is_unknown(self)
    }
}

// It writes nothing.
impl CommandError for SinkVerificationError {}

impl CommandError for SnapshotError {
    fn is_unknown(&self) -> bool {
        SnapshotError::is_unknown(self)
    }
}

impl CommandError for CleanupError {
    fn is_unknown(&self) -> bool {
        CleanupError::is_unknown(self)
    }
}

impl CommandError for FloorMoveError {
    fn is_unknown(&self) -> bool {
        FloorMoveError::is_unknown(self)
    }
}

impl CommandError for DrillError {
    fn is_unknown(&self) -> bool {
        match self {
            Self::Chain(error) => matches!(error, CatalogError::Unknown { .. }),
            Self::Archive(error) => error.is_unknown(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tidemark_catalog::{AcquireError, Generation, IndexId, LogCursor, LogId, PublishError, TransactionRejected};
    use tidemark_ingest::{FailureCause, IngestError, VerifyError, engine::EngineError};
    use tidemark_store::{ClockError, InvariantViolation, StoreError, StoreSecond};
    use tidemark_wal::Token;

    use super::*;
    use crate::cli::exit::ExitError;

    const REFUSED: TaskState = TaskState::Refused;
    const FAILED: TaskState = TaskState::Failed;

    type ErrorCase<E> = (E, TaskState, Reason, CommandExit);

    fn wrapped<E: Into<W>, W>(cases: Vec<ErrorCase<E>>) -> impl Iterator<Item = ErrorCase<W>> {
        cases.into_iter().map(|(error, state, reason, exit)| (error.into(), state, reason, exit))
    }

    fn text() -> String {
        "x".to_owned()
    }

    fn full_disk() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    fn of_stores() -> Vec<ErrorCase<StoreError>> {
        use CommandExit::{Failed, StoreUnsupported};
        let (url, key, why, remedy) = (text, text, text, text);
        vec![
            (StoreError::Denied { url: url(), key: key(), why: why() }, FAILED, Reason::AccessDenied, Failed),
            (StoreError::ReadOnly { url: url(), key: key(), why: why() }, FAILED, Reason::ReadOnly, Failed),
            (
                StoreError::Missing { url: url(), file: text(), why: why(), remedy: remedy() },
                FAILED,
                Reason::CredentialsMissing,
                Failed,
            ),
            (
                StoreError::Unsignable { url: url(), key: key(), why: why(), remedy: remedy() },
                FAILED,
                Reason::CredentialsMissing,
                Failed,
            ),
            (StoreError::NoBucket { url: url(), why: why() }, FAILED, Reason::BucketMissing, Failed),
            (StoreError::Unusable { url: url(), why: why(), remedy: remedy() }, REFUSED, Reason::InvalidURL, Failed),
            (StoreError::BadKey { url: url(), key: key(), why: why() }, REFUSED, Reason::InvalidURL, Failed),
            (StoreError::Absent { url: url(), key: key() }, FAILED, Reason::IndexDamaged, Failed),
            (
                StoreError::Refused { url: url(), key: key(), why: why() },
                REFUSED,
                Reason::StoreUnsupported,
                StoreUnsupported,
            ),
            (StoreError::Failed { url: url(), key: key(), why: why() }, FAILED, Reason::Unreachable, Failed),
        ]
    }

    fn of_rejections() -> Vec<ErrorCase<TransactionRejected>> {
        use CommandExit::{Failed, Fenced};
        use TransactionRejected as Rejected;
        let (generation, second) = (Generation::first, StoreSecond::default());
        let (from, cursor, to, floor) = (LogCursor(second), LogCursor(second), LogCursor(second), LogCursor(second));
        let (url, owner) = (text, text);
        let lease = vec![
            (Rejected::Fenced { epoch: 1, by: 2 }, FAILED, Reason::Fenced, Fenced),
            (Rejected::ConsumerFenced { name: text(), epoch: 1, by: 2 }, FAILED, Reason::Fenced, Fenced),
            (Rejected::FloorAboveIndex { index: text(), keeps: cursor, to }, FAILED, Reason::Fenced, Fenced),
            (Rejected::IndexIsWritten { index: text() }, FAILED, Reason::Fenced, Fenced),
            (Rejected::FloorChanged { seen: text(), now: text() }, FAILED, Reason::Fenced, Fenced),
            (Rejected::Closed { successor: generation() }, FAILED, Reason::GenerationBusy, Fenced),
            (Rejected::Purged { generation: generation() }, FAILED, Reason::GenerationBusy, Fenced),
            (Rejected::Abandoned { generation: generation() }, FAILED, Reason::GenerationBusy, Fenced),
            (Rejected::Building { generation: generation(), task: text() }, FAILED, Reason::GenerationBusy, Fenced),
            (Rejected::NotBuilding { generation: generation() }, FAILED, Reason::GenerationBusy, Fenced),
        ];
        let refused = vec![
            (Rejected::PurgedForOwner { url: url(), owner: owner() }, Reason::OwnedByAnother),
            (Rejected::OwnedByAnother { url: url(), owner: owner(), id: text() }, Reason::OwnedByAnother),
            (Rejected::OfAnotherLog { url: url(), log: text(), owner: owner() }, Reason::OwnedByAnother),
            (
                Rejected::FolderOfAnotherLog { folder: "gc", log: LogId(text()), found: LogId(text()) },
                Reason::OwnedByAnother,
            ),
            (
                Rejected::AnotherConsumer { name: text(), log: LogId(text()), found: text(), found_log: LogId(text()) },
                Reason::OwnedByAnother,
            ),
            (
                Rejected::ConsumerOfEarlierIndex { name: text(), index: IndexId(text()), found: IndexId(text()) },
                Reason::OwnedByAnother,
            ),
            (Rejected::Unclaimed { url: url() }, Reason::OwnedByAnother),
            (Rejected::CopiesOfAnother { url: url(), index: text(), other: text() }, Reason::OwnedByAnother),
            (Rejected::Overlaps { name: text(), url: url(), other: text(), other_url: url() }, Reason::OwnedByAnother),
            (Rejected::SecondCleaner { cleaner: text() }, Reason::OwnedByAnother),
            (Rejected::FloorOfAnotherArchive { archive: text(), known: text() }, Reason::OwnedByAnother),
            (Rejected::LogMoved { url: url(), log: text(), claimed: text() }, Reason::LogMoved),
            (Rejected::NotRestored { generation: generation() }, Reason::NothingToPromote),
            (Rejected::BelowFloor { cursor, floor, archive: text() }, Reason::BelowFloor),
            (Rejected::ParameterDiffers { name: "expiry", recorded: text(), given: text() }, Reason::ParametersDiffer),
            (Rejected::NoParameters, Reason::ExpiryMissing),
            (Rejected::ParameterUnusable { name: "expiry", given: text(), why: "x" }, Reason::ExpiryMissing),
            (Rejected::Pin { name: text(), why: text(), remedy: "x" }, Reason::SpecInvalid),
        ];
        let changed = Rejected::PinChanged { name: text(), why: text(), remedy: "x" };
        let faults = vec![
            Rejected::Empty,
            Rejected::NotPromoted { until: second },
            Rejected::NotContiguous { from, cursor },
            Rejected::SeqNotContiguous { first: 1, next: 2 },
            Rejected::BeyondHorizon { to, horizon: second },
            Rejected::NotReferenced { key: text() },
            Rejected::NotASuccessor { successor: generation(), what: text() },
            Rejected::FloorBack { floor, to },
            Rejected::NotRegistered { what: "index", name: text() },
            Rejected::Invariant(InvariantViolation { invariant: "x", found: text() }),
        ];
        let refused = refused.into_iter().map(|(error, reason)| (error, REFUSED, reason, Failed));
        let faults = faults.into_iter().map(|error| (error, FAILED, Reason::Internal, Failed));
        let changed = [(changed, FAILED, Reason::PinChanged, Failed)];
        lease.into_iter().chain(refused).chain(changed).chain(faults).collect()
    }

    fn of_chains() -> Vec<ErrorCase<CatalogError>> {
        use CommandExit::{Failed, Unknown};
        let invariant = InvariantViolation { invariant: "x", found: text() };
        let own = [
            (CatalogError::Corrupt { key: text(), why: text() }, FAILED, Reason::IndexDamaged, Failed),
            (CatalogError::NewerFormat { key: text(), found: 2, known: 1 }, REFUSED, Reason::FormatTooNew, Failed),
            (CatalogError::NewerWriter { key: text(), needed: 2, known: 1 }, REFUSED, Reason::FormatTooNew, Failed),
            (CatalogError::Unknown { key: text(), why: text() }, FAILED, Reason::Internal, Unknown),
            (CatalogError::Conflicts { chain: text(), attempts: 3 }, FAILED, Reason::Internal, Failed),
            (CatalogError::TooLarge { key: text(), bytes: 2, limit: 1 }, FAILED, Reason::Internal, Failed),
            (CatalogError::Empty { chain: text() }, FAILED, Reason::Internal, Failed),
            (CatalogError::BoundaryBack { boundary: 2, to: 1 }, FAILED, Reason::Internal, Failed),
            (CatalogError::BoundaryReachesLatest { to: 2, latest: 2 }, FAILED, Reason::Internal, Failed),
            (CatalogError::Invariant(invariant), FAILED, Reason::Internal, Failed),
        ];
        let stores = wrapped(of_stores());
        let rejected = wrapped(of_rejections());
        own.into_iter().chain(stores).chain(rejected).collect()
    }

    fn of_engines() -> Vec<ErrorCase<EngineError>> {
        use CommandExit::Failed;
        let own = [
            (EngineError::Damaged { key: text(), why: text() }, FAILED, Reason::IndexDamaged, Failed),
            (EngineError::Gone { key: text() }, FAILED, Reason::IndexDamaged, Failed),
            (EngineError::OtherFormat { key: text(), found: 9, known: 1 }, REFUSED, Reason::FormatTooNew, Failed),
            (EngineError::Disk { path: text(), source: full_disk() }, FAILED, Reason::DiskFull, Failed),
            (
                EngineError::Disk { path: text(), source: io::ErrorKind::QuotaExceeded.into() },
                FAILED,
                Reason::DiskFull,
                Failed,
            ),
            (EngineError::Disk { path: text(), source: io::Error::other("x") }, FAILED, Reason::Internal, Failed),
            (EngineError::NoRoom { folder: text(), needed: 1, bound: 1 }, FAILED, Reason::DiskFull, Failed),
            (EngineError::Refused { what: text(), why: text() }, FAILED, Reason::Internal, Failed),
        ];
        let stores = wrapped(of_stores());
        own.into_iter().chain(stores).collect()
    }

    fn of_snapshots() -> Vec<ErrorCase<SnapshotError>> {
        use CommandExit::{Failed, Fenced, Unknown};
        let generation = Generation::first;
        let own = [
            (SnapshotError::NeverIndexed { url: text() }, REFUSED, Reason::InvalidURL, Failed),
            (SnapshotError::NoIndex { url: text() }, REFUSED, Reason::InvalidURL, Failed),
            (SnapshotError::Damaged { key: text(), why: text() }, FAILED, Reason::IndexDamaged, Failed),
            (SnapshotError::ArchiveDamaged { key: text(), why: text() }, FAILED, Reason::ArchiveDamaged, Failed),
            (SnapshotError::CopyRefused { url: text() }, REFUSED, Reason::PrefixInUse, Failed),
            (SnapshotError::CopyOverlaps { url: text(), other: text() }, REFUSED, Reason::PrefixInUse, Failed),
            (SnapshotError::Overtaken { what: text() }, FAILED, Reason::Fenced, Fenced),
            (SnapshotError::Unknown { key: text(), why: text() }, FAILED, Reason::Internal, Unknown),
            (
                SnapshotError::OutcomesDiffer { archived_by: generation(), generation: generation(), what: text() },
                REFUSED,
                Reason::OutcomesDiffer,
                Failed,
            ),
            (
                SnapshotError::Other(Box::new(ServiceError::Disk { path: text().into(), source: full_disk() })),
                FAILED,
                Reason::DiskFull,
                Failed,
            ),
        ];
        let chains = wrapped(of_chains());
        let engines = wrapped(of_engines());
        own.into_iter().chain(chains).chain(engines).collect()
    }

    fn of_cleanups() -> Vec<ErrorCase<CleanupError>> {
        use CommandExit::{Failed, StoreUnsupported};
        let own = [
            (CleanupError::NoIndex { url: text() }, REFUSED, Reason::InvalidURL, Failed),
            (CleanupError::NoVerifiedSnapshot { index: text() }, REFUSED, Reason::NoVerifiedSnapshot, Failed),
            (
                CleanupError::ArchiveReplaced { archive: text(), version: 1, by: text() },
                FAILED,
                Reason::ArchiveDamaged,
                Failed,
            ),
            (CleanupError::OtherArchive { archive: text(), known: text() }, REFUSED, Reason::OwnedByAnother, Failed),
            (
                ClockError::Vanished { url: text(), key: text() }.into(),
                REFUSED,
                Reason::StoreUnsupported,
                StoreUnsupported,
            ),
        ];
        let archives = wrapped(of_snapshots());
        own.into_iter().chain(archives).collect()
    }

    fn of_floor_moves() -> Vec<ErrorCase<FloorMoveError>> {
        use CommandExit::Failed;
        let (cursor, second) = (LogCursor::default(), StoreSecond::default());
        let own = [
            (FloorMoveError::NoIndex { url: text() }, REFUSED, Reason::InvalidURL, Failed),
            (FloorMoveError::Short { archive: text(), end: None, floor: cursor }, REFUSED, Reason::BelowFloor, Failed),
            (
                FloorMoveError::Damaged { archive: text(), count: 2, key: text(), why: text() },
                FAILED,
                Reason::ArchiveDamaged,
                Failed,
            ),
            (
                FloorMoveError::Lacks {
                    archive: text(),
                    known: text(),
                    token: Token::first_of(second),
                    op: 0,
                    what: "nothing",
                },
                REFUSED,
                Reason::OutcomesDiffer,
                Failed,
            ),
            (
                FloorMoveError::Unread {
                    known: text(),
                    archive: text(),
                    why: text(),
                    cause: FailureCause::of(Reason::BucketMissing),
                },
                FAILED,
                Reason::BucketMissing,
                Failed,
            ),
        ];
        let chains = wrapped(of_chains());
        let archives = wrapped(of_snapshots());
        own.into_iter().chain(chains).chain(archives).collect()
    }

    fn of_ingests() -> Vec<ErrorCase<IngestError>> {
        use CommandExit::{Failed, Fenced, Unknown};
        let second = StoreSecond::default();
        let outside = IngestError::OutsideRecoveryWindow { target: text(), first: second, last: second };
        let unaudited = IngestError::PromotionBelowFloor { audited: LogCursor::default(), floor: LogCursor::default() };
        let own = [
            (IngestError::NothingRecorded { url: text() }, REFUSED, Reason::InvalidURL, Failed),
            (outside, REFUSED, Reason::OutsideRecoveryWindow, Failed),
            (IngestError::SnapshotMissing { name: text() }, REFUSED, Reason::SnapshotMissing, Failed),
            (unaudited, REFUSED, Reason::BelowFloor, Failed),
            (IngestError::Switching { generation: Generation::first() }, FAILED, Reason::GenerationBusy, Fenced),
            (IngestError::EntryStreamBroken, FAILED, Reason::Internal, Failed),
            (PublishError::Fenced { epoch: 1, by: 2 }.into(), FAILED, Reason::Fenced, Fenced),
            (PublishError::Unknown { key: text(), why: text() }.into(), FAILED, Reason::Internal, Unknown),
        ];
        let acquired = of_chains().into_iter();
        let acquired = acquired.map(|(error, state, reason, exit)| {
            (IngestError::Acquire(AcquireError::Chain(error)), state, reason, exit)
        });
        let published = of_rejections().into_iter();
        let published = published.map(|(error, state, reason, exit)| {
            (IngestError::Publish(PublishError::Rejected(error)), state, reason, exit)
        });
        let engines = wrapped(of_engines());
        let archives = of_snapshots().into_iter();
        let archives = archives.map(|(error, state, reason, exit)| (IngestError::Archive(error), state, reason, exit));
        own.into_iter()
            .chain(wrapped(of_chains()))
            .chain(acquired)
            .chain(published)
            .chain(engines)
            .chain(archives)
            .collect()
    }

    fn of_services() -> Vec<ErrorCase<ServiceError>> {
        use CommandExit::{Failed, StoreUnsupported};
        let other = || io::Error::other("x");
        let own = [
            (
                ServiceError::StoreUnsupported { store: text(), line: text(), detail: text() },
                REFUSED,
                Reason::StoreUnsupported,
                StoreUnsupported,
            ),
            (ServiceError::NoExpiry { log: text() }, REFUSED, Reason::ExpiryMissing, Failed),
            (
                ServiceError::Listen { address: ([127, 0, 0, 1], 1).into(), source: other() },
                FAILED,
                Reason::Internal,
                Failed,
            ),
            (ServiceError::Disk { path: text().into(), source: full_disk() }, FAILED, Reason::DiskFull, Failed),
            (ServiceError::Disk { path: text().into(), source: other() }, FAILED, Reason::Internal, Failed),
            (ServiceError::Busy { folder: text().into() }, FAILED, Reason::Internal, Failed),
            (ServiceError::Ended { task: "server", why: text() }, FAILED, Reason::Internal, Failed),
            (VerifyError::NeverIndexed { log: text() }.into(), REFUSED, Reason::InvalidURL, Failed),
            (VerifyError::NoIndex { index: text() }.into(), REFUSED, Reason::InvalidURL, Failed),
        ];
        let stores = wrapped(of_stores());
        let chains = wrapped(of_chains());
        let verified = of_chains().into_iter();
        let verified =
            verified.map(|(error, state, reason, exit)| (VerifyError::Catalog(error).into(), state, reason, exit));
        let engines = wrapped(of_engines());
        let ingests = wrapped(of_ingests());
        own.into_iter().chain(stores).chain(chains).chain(verified).chain(engines).chain(ingests).collect()
    }

    fn of_drills() -> Vec<ErrorCase<DrillError>> {
        use CommandExit::Failed;
        let differs = DrillError::Differs { from: text(), what: "x", found: text(), wanted: text() };
        let own = [
            (DrillError::NoSnapshot { url: text() }, REFUSED, Reason::SnapshotMissing, Failed),
            (differs, FAILED, Reason::DrillFailed, Failed),
        ];
        let chains = wrapped(of_chains());
        let archives = wrapped(of_snapshots());
        own.into_iter().chain(chains).chain(archives).collect()
    }

    fn check<E: CommandError>(cases: Vec<ErrorCase<E>>) {
        for (error, state, reason, exit) in cases {
            let verdict = FailureVerdict { state, reason, exit };
            assert_eq!(FailureVerdict::of(&error), verdict, "{error:?}");
            let ended = ended::<()>(Err(error)).unwrap_err();
            let with_exit = ended.downcast_ref::<ExitError>().map_or(CommandExit::Failed, |with| with.exit);
            assert_eq!(with_exit, exit, "{ended}");
        }
    }

    /// Whatever wraps an error, and whichever command it ends, it means the same.
    #[test]
    fn every_error_has_one_class_reason_and_exit_code_in_all_commands() {
        check(of_snapshots());
        check(of_cleanups());
        check(of_services());
        check(of_drills());
        check(of_floor_moves());
    }
}
