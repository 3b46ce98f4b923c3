//! Why a service does not start, or ends.

use tidemark_catalog::CatalogError;
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_store::StoreError;

use tidemark_ingest::engine::EngineError;
use tidemark_ingest::{IngestError, VerifyError};

/// Why a service does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A store cannot be opened or reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chain cannot be read, or refuses.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The index cannot be opened.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ingest ended.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// There is nothing to verify.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A store does not hold the contract that the protocol needs.
    #[error(
        "\"{store}\" does not hold the store contract: {line}: {detail}; nothing is written to it, since a log in it could lose entries; use \
         another store (`tidemark check` lists every check)"
    )]
    StoreUnsupported {
        /// The store.
        store: String,
        /// The check that failed.
        line: String,
        /// What was seen.
        detail: String,
    },
    /// The expiry of signed URLs is neither recorded nor given.
    #[error(
        "the log \"{log}\" has no parameters yet; nothing is indexed without them; give --expiry, how long its signed URLs last at \
         most"
    )]
    NoExpiry {
        /// The log.
        log: String,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on \"{address}\": {source}; no client would reach this process; choose another address with --listen"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// A folder or file of this machine cannot be used.
    #[error("cannot use \"{path}\": {source}; nothing can be stored there; give a folder that this user may write", path = path.display())]
    Disk {
        /// The folder or file.
        path: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another process runs on the same folder.
    #[error("another `tidemark dev` runs on \"{folder}\"; this one does nothing; stop that one or choose another folder with --dir", folder = folder.display())]
    Busy {
        /// The folder.
        folder: std::path::PathBuf,
    },
    /// A task of this process ended on its own.
    #[error("the {task} ended: {why}; this process stops working; restart it")]
    Ended {
        /// Which one.
        task: &'static str,
        /// Why.
        why: String,
    },
}

impl ServiceError {
    /// Whether the outcome of a write is unknown: the next process reads it.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::Chain(error) | Self::Verify(VerifyError::Catalog(error)) => {
                matches!(error, CatalogError::Unknown { .. })
            }
            Self::Ingest(error) => error.is_unknown(),
            _ => false,
        }
    }
}

impl ToCause for ServiceError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Store(error) => error.to_cause(),
            Self::Chain(error) => error.to_cause(),
            Self::Engine(error) => error.to_cause(),
            Self::Ingest(error) => error.to_cause(),
            Self::Verify(error) => error.to_cause(),
            Self::StoreUnsupported { store, .. } => FailureCause::at(Reason::StoreUnsupported, store),
            Self::NoExpiry { log } => FailureCause::at(Reason::ExpiryMissing, log),
            Self::Disk { source, .. } => FailureCause::of_disk(source),
            Self::Listen { .. } | Self::Busy { .. } | Self::Ended { .. } => FailureCause::of(Reason::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidemark_catalog::{AcquireError, Generation, IndexId, LogCursor, LogId, PublishError, TransactionRejected};
    use tidemark_store::{ClockError, InvariantViolation, StoreSecond};

    use super::*;
    use crate::http::TokenFileError;

    /// Makes an error of a URL, a key and words.
    type MakeStoreError = fn(String, String, String) -> StoreError;

    /// Every failure of a store.
    const STORES: [(MakeStoreError, Reason); 10] = [
        (|url, key, why| StoreError::Denied { url, key, why }, Reason::AccessDenied),
        (|url, key, why| StoreError::ReadOnly { url, key, why }, Reason::ReadOnly),
        (
            |url, file, why| StoreError::Missing { url, file, why, remedy: "mend it".to_owned() },
            Reason::CredentialsMissing,
        ),
        (|url, _, why| StoreError::NoBucket { url, why }, Reason::BucketMissing),
        (|url, _, why| StoreError::Unusable { url, why, remedy: "mend it".to_owned() }, Reason::InvalidURL),
        (|url, key, why| StoreError::BadKey { url, key, why }, Reason::InvalidURL),
        (
            |url, key, why| StoreError::Unsignable { url, key, why, remedy: "mend it".to_owned() },
            Reason::CredentialsMissing,
        ),
        (|url, key, _| StoreError::Absent { url, key }, Reason::IndexDamaged),
        (|url, key, why| StoreError::Refused { url, key, why }, Reason::StoreUnsupported),
        (|url, key, why| StoreError::Failed { url, key, why }, Reason::Unreachable),
    ];

    fn store(error: MakeStoreError) -> StoreError {
        error("s3://wal/orders".to_owned(), "k".to_owned(), "why".to_owned())
    }

    /// Every refusal of a chain.
    fn refusals() -> Vec<TransactionRejected> {
        let text = || "x".to_owned();
        let (generation, second) = (Generation::first, StoreSecond::default());
        let (from, cursor, to, floor) = (LogCursor(second), LogCursor(second), LogCursor(second), LogCursor(second));
        vec![
            TransactionRejected::Fenced { epoch: 1, by: 2 },
            TransactionRejected::Empty,
            TransactionRejected::Closed { successor: generation() },
            TransactionRejected::Purged { generation: generation() },
            TransactionRejected::Abandoned { generation: generation() },
            TransactionRejected::Building { generation: generation(), task: text() },
            TransactionRejected::PurgedForOwner { url: text(), owner: text() },
            TransactionRejected::NotPromoted { until: second },
            TransactionRejected::NotBuilding { generation: generation() },
            TransactionRejected::NotRestored { generation: generation() },
            TransactionRejected::NotContiguous { from, cursor },
            TransactionRejected::SeqNotContiguous { first: 1, next: 2 },
            TransactionRejected::BeyondHorizon { to, horizon: second },
            TransactionRejected::NotReferenced { key: text() },
            TransactionRejected::Pin { name: text(), why: text(), remedy: "mend it" },
            TransactionRejected::PinChanged { name: text(), why: text(), remedy: "mend it" },
            TransactionRejected::NotASuccessor { successor: generation(), what: text() },
            TransactionRejected::ParameterDiffers { name: "expiry", recorded: text(), given: text() },
            TransactionRejected::NoParameters,
            TransactionRejected::ParameterUnusable { name: "expiry", given: text(), why: "x" },
            TransactionRejected::OwnedByAnother { url: text(), owner: text(), id: text() },
            TransactionRejected::OfAnotherLog { url: text(), log: text(), owner: text() },
            TransactionRejected::FolderOfAnotherLog { folder: "gc", log: LogId(text()), found: LogId(text()) },
            TransactionRejected::ConsumerFenced { name: text(), epoch: 1, by: 2 },
            TransactionRejected::AnotherConsumer {
                name: text(),
                log: LogId(text()),
                found: text(),
                found_log: LogId(text()),
            },
            TransactionRejected::ConsumerOfEarlierIndex {
                name: text(),
                index: IndexId(text()),
                found: IndexId(text()),
            },
            TransactionRejected::Unclaimed { url: text() },
            TransactionRejected::CopiesOfAnother { url: text(), index: text(), other: text() },
            TransactionRejected::Overlaps { name: text(), url: text(), other: text(), other_url: text() },
            TransactionRejected::SecondCleaner { cleaner: text() },
            TransactionRejected::FloorBack { floor, to },
            TransactionRejected::BelowFloor { cursor, floor, archive: text() },
            TransactionRejected::FloorAboveIndex { index: text(), keeps: cursor, to },
            TransactionRejected::IndexIsWritten { index: text() },
            TransactionRejected::FloorOfAnotherArchive { archive: text(), known: text() },
            TransactionRejected::FloorChanged { seen: text(), now: text() },
            TransactionRejected::LogMoved { url: text(), log: text(), claimed: text() },
            TransactionRejected::NotRegistered { what: "index", name: text() },
            TransactionRejected::Invariant(InvariantViolation { invariant: "x", found: text() }),
        ]
    }

    #[test]
    fn every_reason_is_told_with_fact_effect_and_remedy() {
        let text = || "x".to_owned();
        let io = || std::io::Error::other("x");
        let chains: [CatalogError; 10] = [
            CatalogError::Conflicts { chain: text(), attempts: 3 },
            CatalogError::Unknown { key: text(), why: text() },
            CatalogError::TooLarge { key: text(), bytes: 2, limit: 1 },
            CatalogError::Corrupt { key: text(), why: text() },
            CatalogError::NewerFormat { key: text(), found: 2, known: 1 },
            CatalogError::NewerWriter { key: text(), needed: 2, known: 1 },
            CatalogError::Empty { chain: text() },
            CatalogError::BoundaryBack { boundary: 2, to: 1 },
            CatalogError::BoundaryReachesLatest { to: 2, latest: 2 },
            CatalogError::Invariant(InvariantViolation { invariant: "x", found: text() }),
        ];
        let engines = [
            EngineError::Damaged { key: text(), why: text() },
            EngineError::Gone { key: text() },
            EngineError::Disk { path: text(), source: io() },
            EngineError::NoRoom { folder: text(), needed: 1, bound: 1 },
            EngineError::Refused { what: text(), why: text() },
        ];
        let publications =
            [PublishError::Fenced { epoch: 1, by: 2 }, PublishError::Unknown { key: text(), why: text() }];
        let services = [
            ServiceError::StoreUnsupported { store: text(), line: text(), detail: text() },
            ServiceError::NoExpiry { log: text() },
            ServiceError::Listen { address: ([127, 0, 0, 1], 1).into(), source: io() },
            ServiceError::Disk { path: text().into(), source: io() },
            ServiceError::Busy { folder: text().into() },
            ServiceError::Ended { task: "server", why: text() },
        ];
        let clocks = [ClockError::Store(store(STORES[0].0)), ClockError::Vanished { url: text(), key: text() }];
        let told = |failure: &dyn ToCause| (failure.to_cause().reason, failure.to_string());
        let tokens = [
            TokenFileError::Missing { file: text().into(), why: text() },
            TokenFileError::TooShort { file: text().into(), chars: 5 },
        ];
        let mut all: Vec<_> = tokens.iter().map(|error| told(error)).collect();
        all.extend(STORES.iter().map(|(error, _)| told(&store(*error))));
        all.extend(refusals().iter().map(|error| told(error)));
        all.extend(chains.iter().map(|error| told(error)));
        all.extend(engines.iter().map(|error| told(error)));
        all.extend(publications.iter().map(|error| told(error)));
        all.extend(services.iter().map(|error| told(error)));
        all.extend(clocks.iter().map(|error| told(error)));
        let (first, last) = (StoreSecond::default(), StoreSecond::default());
        let tasks = [
            IngestError::Switching { generation: Generation::first() },
            IngestError::OutsideRecoveryWindow { target: text(), first, last },
            IngestError::SnapshotMissing { name: text() },
            IngestError::NothingRecorded { url: text() },
        ];
        all.extend(tasks.iter().map(|error| told(error)));
        for (reason, message) in &all {
            let parts: Vec<&str> = message.split("; ").collect();
            assert!(parts.len() >= 3 && parts.iter().all(|part| !part.trim().is_empty()), "{reason:?}: {message}");
            // The operator makes a condition of it.
            let known = Reason::parse(&format!("{reason:?}"));
            assert!(known.is_some(), "no condition has the reason {reason:?}");
        }
        let reasons: BTreeSet<Reason> = all.into_iter().map(|(reason, _)| reason).collect();
        let (of_pods, of_tasks): (Vec<&Reason>, Vec<&Reason>) =
            reasons.iter().partition(|reason| **reason <= Reason::Internal);
        assert_eq!(of_pods.len(), Reason::Internal as usize + 1, "only these are told: {reasons:?}");
        let known = [
            Reason::OutsideRecoveryWindow,
            Reason::SnapshotMissing,
            Reason::NothingToPromote,
            Reason::GenerationBusy,
            Reason::PinChanged,
            Reason::SpecInvalid,
        ];
        assert_eq!(of_tasks, known.iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_failure_of_a_store_has_its_reason_and_its_place() {
        for (error, reason) in STORES {
            let cause = FailureCause::at(reason, "s3://wal/orders");
            assert_eq!(store(error).to_cause(), cause);
            // Whatever it is wrapped in.
            assert_eq!(ServiceError::Store(store(error)).to_cause(), cause);
            assert_eq!(ServiceError::Chain(store(error).into()).to_cause(), cause);
            assert_eq!(ServiceError::Engine(store(error).into()).to_cause(), cause);
            let wrapped = [
                IngestError::Store(store(error)),
                IngestError::Clock(store(error).into()),
                IngestError::Root(store(error).into()),
                IngestError::Engine(store(error).into()),
                IngestError::Publish(CatalogError::from(store(error)).into()),
                IngestError::Acquire(AcquireError::Chain(store(error).into())),
                IngestError::Acquire(AcquireError::Clock(store(error).into())),
            ];
            for error in wrapped {
                assert_eq!(ServiceError::Ingest(error).to_cause(), cause);
            }
        }
    }

    #[test]
    fn every_refusal_of_a_chain_has_its_reason() {
        let text = || "x".to_owned();
        let cases = [
            (TransactionRejected::Fenced { epoch: 1, by: 2 }, Reason::Fenced),
            (
                TransactionRejected::ParameterDiffers { name: "expiry", recorded: text(), given: text() },
                Reason::ParametersDiffer,
            ),
            (TransactionRejected::ParameterUnusable { name: "expiry", given: text(), why: "x" }, Reason::ExpiryMissing),
            (TransactionRejected::NoParameters, Reason::ExpiryMissing),
            (TransactionRejected::OwnedByAnother { url: text(), owner: text(), id: text() }, Reason::OwnedByAnother),
            (TransactionRejected::OfAnotherLog { url: text(), log: text(), owner: text() }, Reason::OwnedByAnother),
            (TransactionRejected::Unclaimed { url: text() }, Reason::OwnedByAnother),
            (TransactionRejected::LogMoved { url: text(), log: text(), claimed: text() }, Reason::LogMoved),
            (
                TransactionRejected::Overlaps { name: text(), url: text(), other: text(), other_url: text() },
                Reason::OwnedByAnother,
            ),
            (TransactionRejected::Empty, Reason::Internal),
        ];
        for (refused, reason) in cases {
            assert_eq!(ServiceError::Chain(refused.into()).to_cause().reason, reason);
        }
    }

    #[test]
    fn damage_newer_formats_and_our_own_faults_have_theirs() {
        let key = || "s3://idx/orders/g1/manifest/1".to_owned();
        let why = key;
        let chain = [
            (CatalogError::Corrupt { key: key(), why: why() }, Reason::IndexDamaged),
            (CatalogError::NewerFormat { key: key(), found: 2, known: 1 }, Reason::FormatTooNew),
            (CatalogError::NewerWriter { key: key(), needed: 2, known: 1 }, Reason::FormatTooNew),
            (CatalogError::Unknown { key: key(), why: why() }, Reason::Internal),
            (CatalogError::TooLarge { key: key(), bytes: 2, limit: 1 }, Reason::Internal),
            (CatalogError::Conflicts { chain: key(), attempts: 3 }, Reason::Internal),
        ];
        for (error, reason) in chain {
            assert_eq!(error.to_cause(), FailureCause { reason, url: Some(key()) });
        }
        assert_eq!(EngineError::Gone { key: key() }.to_cause().reason, Reason::IndexDamaged);
        assert_eq!(EngineError::Damaged { key: key(), why: why() }.to_cause().reason, Reason::IndexDamaged);
        assert_eq!(EngineError::Refused { what: key(), why: why() }.to_cause().reason, Reason::Internal);
        let vanished = ClockError::Vanished { url: key(), key: key() };
        assert_eq!(vanished.to_cause().reason, Reason::StoreUnsupported);
        assert_eq!(PublishError::Fenced { epoch: 1, by: 2 }.to_cause().reason, Reason::Fenced);
        let unfit = ServiceError::StoreUnsupported { store: key(), line: key(), detail: key() };
        assert_eq!(unfit.to_cause(), FailureCause { reason: Reason::StoreUnsupported, url: Some(key()) });
        assert_eq!(ServiceError::NoExpiry { log: key() }.to_cause().reason, Reason::ExpiryMissing);
        assert_eq!(ServiceError::Ended { task: "server", why: why() }.to_cause().reason, Reason::Internal);
    }
}
