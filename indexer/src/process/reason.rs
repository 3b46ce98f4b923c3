//! Why a process does not do its work: one reason a cause, for conditions, alerts and people.
//!
//! This is the only place where errors become reasons. The names are part of the API.

use serde::{Deserialize, Serialize};
use tidemark_catalog::{AcquireError, ChainError, PublishError, Refused};
use tidemark_wal::{ClockError, StoreError};
use utoipa::ToSchema;

use crate::{engine::EngineError, ingest::IngestError, service::ServiceError};

/// Why a process does not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Reason {
    /// A credential, or another file that the store's settings name, is missing or empty.
    CredentialsMissing,
    /// The store refuses the credentials.
    AccessDenied,
    /// The bucket or container does not exist.
    BucketMissing,
    /// The credentials allow to read and not to write.
    ReadOnly,
    /// The store does not answer, or fails.
    Unreachable,
    /// The store does not keep a promise that the log needs.
    StoreUnfit,
    /// The URL, the endpoint or the region cannot be used.
    InvalidURL,
    /// A parameter differs from the log's recorded one, or cannot work.
    ParametersDiffer,
    /// The log has no parameters yet and none were given.
    ExpiryMissing,
    /// The index, or an overlapping one, belongs to somebody else, or to another log.
    OwnedByAnother,
    /// An object of the index or of a chain is damaged or gone.
    IndexDamaged,
    /// A newer release wrote what is read.
    FormatTooNew,
    /// Another process took the writer's role over; this one ends.
    Fenced,
    /// The file with the token that requests must bear is missing or unusable.
    AuthTokenMissing,
    /// Anything else: a fault of this machine or of the program.
    Internal,
}

/// What an error means: the reason, and the URL at fault where one is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// The store at fault, or the part of it that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An error that has a reason.
pub trait Failure: std::error::Error + 'static {
    /// What it means.
    fn meaning(&self) -> Cause;
}

impl Cause {
    /// A reason that no store is at fault for.
    pub fn of(reason: Reason) -> Self {
        Self { reason, url: None }
    }

    fn at(reason: Reason, url: &str) -> Self {
        Self { reason, url: Some(url.to_owned()) }
    }
}

impl Failure for StoreError {
    fn meaning(&self) -> Cause {
        let reason = match self {
            Self::Missing { .. } | Self::Unsignable { .. } => Reason::CredentialsMissing,
            Self::Denied { .. } => Reason::AccessDenied,
            Self::ReadOnly { .. } => Reason::ReadOnly,
            Self::NoBucket { .. } => Reason::BucketMissing,
            Self::Absent { .. } => Reason::IndexDamaged,
            Self::Refused { .. } => Reason::StoreUnfit,
            Self::Failed { .. } => Reason::Unreachable,
            // A kind that was added since: its words tell what to do.
            Self::Unusable { .. } | Self::BadKey { .. } | _ => Reason::InvalidURL,
        };
        Cause::at(reason, self.url())
    }
}

impl Failure for ChainError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Store(error) => error.meaning(),
            Self::Refused(refused) => refused.meaning(),
            Self::Corrupt { key, .. } => Cause::at(Reason::IndexDamaged, key),
            Self::NewerFormat { key, .. } => Cause::at(Reason::FormatTooNew, key),
            Self::Conflicts { chain, .. } => Cause::at(Reason::Internal, chain),
            Self::Unknown { key, .. } | Self::TooLarge { key, .. } => Cause::at(Reason::Internal, key),
            _ => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for Refused {
    fn meaning(&self) -> Cause {
        match self {
            Self::Fenced { .. } => Cause::of(Reason::Fenced),
            Self::ParameterDiffers { .. } | Self::ParameterUnusable { .. } => Cause::of(Reason::ParametersDiffer),
            Self::NoParameters => Cause::of(Reason::ExpiryMissing),
            Self::OwnedByAnother { url, .. }
            | Self::OfAnotherLog { url, .. }
            | Self::Unclaimed { url }
            | Self::Overlaps { url, .. } => Cause::at(Reason::OwnedByAnother, url),
            _ => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for PublishError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Fenced { .. } => Cause::of(Reason::Fenced),
            Self::Refused(refused) => refused.meaning(),
            Self::Chain(error) => error.meaning(),
            Self::Unknown { key, .. } => Cause::at(Reason::Internal, key),
            _ => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for ClockError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Store(error) => error.meaning(),
            Self::Vanished { url, .. } => Cause::at(Reason::StoreUnfit, url),
            _ => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for EngineError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Store(error) => error.meaning(),
            Self::Damaged { key, .. } | Self::Gone { key } => Cause::at(Reason::IndexDamaged, key),
            Self::Disk { .. } | Self::Refused { .. } => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for IngestError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Acquire(AcquireError::Chain(error)) | Self::Root(error) => error.meaning(),
            Self::Acquire(AcquireError::Clock(error)) | Self::Clock(error) => error.meaning(),
            Self::Publish(error) => error.meaning(),
            Self::Store(error) => error.meaning(),
            Self::Engine(error) => error.meaning(),
            Self::Acquire(_) => Cause::of(Reason::Internal),
        }
    }
}

impl Failure for ServiceError {
    fn meaning(&self) -> Cause {
        match self {
            Self::Store(error) => error.meaning(),
            Self::Chain(error) => error.meaning(),
            Self::Engine(error) => error.meaning(),
            Self::Ingest(error) => error.meaning(),
            Self::Unfit { store, .. } => Cause::at(Reason::StoreUnfit, store),
            Self::NoExpiry { log } => Cause::at(Reason::ExpiryMissing, log),
            Self::Import(_) | Self::Listen { .. } | Self::Disk { .. } | Self::Busy { .. } | Self::Ended { .. } => {
                Cause::of(Reason::Internal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use tidemark_catalog::{Broken, Cursor, Generation};
    use tidemark_wal::Second;

    use super::*;
    use crate::http::token_file_message;

    /// Makes an error of a URL, a key and words.
    type Made = fn(String, String, String) -> StoreError;

    /// Every failure of a store.
    const STORES: [(Made, Reason); 10] = [
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
        (|url, key, why| StoreError::Refused { url, key, why }, Reason::StoreUnfit),
        (|url, key, why| StoreError::Failed { url, key, why }, Reason::Unreachable),
    ];

    fn store(error: Made) -> StoreError {
        error("s3://wal/orders".to_owned(), "k".to_owned(), "why".to_owned())
    }

    /// Every refusal of a chain.
    fn refusals() -> Vec<Refused> {
        let text = || "x".to_owned();
        let (generation, second) = (Generation::first, Second::default());
        let (from, cursor, to, floor) = (Cursor(second), Cursor(second), Cursor(second), Cursor(second));
        vec![
            Refused::Fenced { epoch: 1, by: 2 },
            Refused::Empty,
            Refused::Closed { successor: generation() },
            Refused::Purged { generation: generation() },
            Refused::PurgedForOwner { url: text(), owner: text() },
            Refused::NotPromoted { until: second },
            Refused::NotContiguous { from, cursor },
            Refused::SeqNotContiguous { first: 1, next: 2 },
            Refused::BeyondHorizon { to, horizon: second },
            Refused::NotReferenced { key: text() },
            Refused::Pin { name: text(), why: text(), remedy: "mend it" },
            Refused::NotASuccessor { successor: generation(), what: text() },
            Refused::ParameterDiffers { name: "expiry", recorded: text(), given: text() },
            Refused::NoParameters,
            Refused::ParameterUnusable { name: "expiry", given: text(), why: "x" },
            Refused::OwnedByAnother { url: text(), owner: text(), id: text() },
            Refused::OfAnotherLog { url: text(), log: text(), owner: text() },
            Refused::Unclaimed { url: text() },
            Refused::Overlaps { name: text(), url: text(), other: text(), other_url: text() },
            Refused::SecondCleaner { cleaner: text() },
            Refused::FloorBack { floor, to },
            Refused::NotRegistered { what: "index", name: text() },
            Refused::BoundaryBack { boundary: 2, to: 1 },
            Refused::BoundaryReachesLatest { to: 2, latest: 2 },
            Refused::Broken(Broken { invariant: "x", found: text() }),
        ]
    }

    #[test]
    fn every_reason_is_told_with_fact_effect_and_remedy() {
        let text = || "x".to_owned();
        let io = || std::io::Error::other("x");
        let chains = [
            ChainError::Conflicts { chain: text(), attempts: 3 },
            ChainError::Unknown { key: text(), why: text() },
            ChainError::TooLarge { key: text(), bytes: 2, limit: 1 },
            ChainError::Corrupt { key: text(), why: text() },
            ChainError::NewerFormat { key: text(), found: 2, known: 1 },
        ];
        let engines = [
            EngineError::Damaged { key: text(), why: text() },
            EngineError::Gone { key: text() },
            EngineError::Disk { path: text(), source: io() },
            EngineError::Refused { what: text(), why: text() },
        ];
        let publications =
            [PublishError::Fenced { epoch: 1, by: 2 }, PublishError::Unknown { key: text(), why: text() }];
        let services = [
            ServiceError::Unfit { store: text(), line: text(), detail: text() },
            ServiceError::NoExpiry { log: text() },
            ServiceError::Listen { address: ([127, 0, 0, 1], 1).into(), source: io() },
            ServiceError::Disk { path: text().into(), source: io() },
            ServiceError::Busy { folder: text().into() },
            ServiceError::Ended { task: "server", why: text() },
        ];
        let clocks = [ClockError::Store(store(STORES[0].0)), ClockError::Vanished { url: text(), key: text() }];
        let told = |failure: &dyn Failure| (failure.meaning().reason, failure.to_string());
        let mut all = vec![(Reason::AuthTokenMissing, token_file_message(Path::new("x"), "x"))];
        all.extend(STORES.iter().map(|(error, _)| told(&store(*error))));
        all.extend(refusals().iter().map(|error| told(error)));
        all.extend(chains.iter().map(|error| told(error)));
        all.extend(engines.iter().map(|error| told(error)));
        all.extend(publications.iter().map(|error| told(error)));
        all.extend(services.iter().map(|error| told(error)));
        all.extend(clocks.iter().map(|error| told(error)));
        for (reason, message) in &all {
            let parts: Vec<&str> = message.split("; ").collect();
            assert!(parts.len() >= 3 && parts.iter().all(|part| !part.trim().is_empty()), "{reason:?}: {message}");
            // The operator makes a condition of it.
            let known = tidemark_crds::Reason::parse(&format!("{reason:?}"));
            assert!(known.is_some(), "no condition has the reason {reason:?}");
        }
        let reasons: BTreeSet<Reason> = all.into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(reasons.len(), Reason::Internal as usize + 1, "only these are told: {reasons:?}");
    }

    #[test]
    fn every_failure_of_a_store_has_its_reason_and_its_place() {
        for (error, reason) in STORES {
            let cause = Cause::at(reason, "s3://wal/orders");
            assert_eq!(store(error).meaning(), cause);
            // Whatever it is wrapped in.
            assert_eq!(ServiceError::Store(store(error)).meaning(), cause);
            assert_eq!(ServiceError::Chain(store(error).into()).meaning(), cause);
            assert_eq!(ServiceError::Engine(store(error).into()).meaning(), cause);
            let wrapped = [
                IngestError::Store(store(error)),
                IngestError::Clock(store(error).into()),
                IngestError::Root(store(error).into()),
                IngestError::Engine(store(error).into()),
                IngestError::Publish(ChainError::from(store(error)).into()),
                IngestError::Acquire(AcquireError::Chain(store(error).into())),
                IngestError::Acquire(AcquireError::Clock(store(error).into())),
            ];
            for error in wrapped {
                assert_eq!(ServiceError::Ingest(error).meaning(), cause);
            }
        }
    }

    #[test]
    fn every_refusal_of_a_chain_has_its_reason() {
        let text = || "x".to_owned();
        let cases = [
            (Refused::Fenced { epoch: 1, by: 2 }, Reason::Fenced),
            (Refused::ParameterDiffers { name: "expiry", recorded: text(), given: text() }, Reason::ParametersDiffer),
            (Refused::ParameterUnusable { name: "expiry", given: text(), why: "x" }, Reason::ParametersDiffer),
            (Refused::NoParameters, Reason::ExpiryMissing),
            (Refused::OwnedByAnother { url: text(), owner: text(), id: text() }, Reason::OwnedByAnother),
            (Refused::OfAnotherLog { url: text(), log: text(), owner: text() }, Reason::OwnedByAnother),
            (Refused::Unclaimed { url: text() }, Reason::OwnedByAnother),
            (Refused::Overlaps { name: text(), url: text(), other: text(), other_url: text() }, Reason::OwnedByAnother),
            (Refused::Empty, Reason::Internal),
        ];
        for (refused, reason) in cases {
            assert_eq!(ServiceError::Chain(refused.into()).meaning().reason, reason);
        }
    }

    #[test]
    fn damage_newer_formats_and_our_own_faults_have_theirs() {
        let key = || "s3://idx/orders/g1/manifest/1".to_owned();
        let why = key;
        let chain = [
            (ChainError::Corrupt { key: key(), why: why() }, Reason::IndexDamaged),
            (ChainError::NewerFormat { key: key(), found: 2, known: 1 }, Reason::FormatTooNew),
            (ChainError::Unknown { key: key(), why: why() }, Reason::Internal),
            (ChainError::TooLarge { key: key(), bytes: 2, limit: 1 }, Reason::Internal),
            (ChainError::Conflicts { chain: key(), attempts: 3 }, Reason::Internal),
        ];
        for (error, reason) in chain {
            assert_eq!(error.meaning(), Cause { reason, url: Some(key()) });
        }
        assert_eq!(EngineError::Gone { key: key() }.meaning().reason, Reason::IndexDamaged);
        assert_eq!(EngineError::Damaged { key: key(), why: why() }.meaning().reason, Reason::IndexDamaged);
        assert_eq!(EngineError::Refused { what: key(), why: why() }.meaning().reason, Reason::Internal);
        let vanished = ClockError::Vanished { url: key(), key: key() };
        assert_eq!(vanished.meaning().reason, Reason::StoreUnfit);
        assert_eq!(PublishError::Fenced { epoch: 1, by: 2 }.meaning().reason, Reason::Fenced);
        let unfit = ServiceError::Unfit { store: key(), line: key(), detail: key() };
        assert_eq!(unfit.meaning(), Cause { reason: Reason::StoreUnfit, url: Some(key()) });
        assert_eq!(ServiceError::NoExpiry { log: key() }.meaning().reason, Reason::ExpiryMissing);
        assert_eq!(ServiceError::Ended { task: "server", why: why() }.meaning().reason, Reason::Internal);
    }
}
