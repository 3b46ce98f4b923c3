//! What an error means: a reason that operators and people act on, and the store at fault.
//!
//! The errors of the crates below this one are mapped here; every other error is mapped beside its definition.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};
use tidemark_catalog::{CatalogError, PublishError, TransactionRejected};
use tidemark_crds::Reason;
use tidemark_store::{ClockError, StoreError};

/// What an error means: the reason, and the URL at fault where one is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCause {
    /// The reason.
    pub reason: Reason,
    /// The store at fault, or the part of it that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An error that has a reason.
pub trait ToCause: std::error::Error + 'static {
    /// What it means.
    fn to_cause(&self) -> FailureCause;
}

impl FailureCause {
    /// A reason that no store is at fault for.
    pub fn of(reason: Reason) -> Self {
        Self { reason, url: None }
    }

    /// A failure of the disk of this machine: another attempt may find room, on another machine too.
    pub fn of_disk(source: &std::io::Error) -> Self {
        let is_full = matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        Self::of(if is_full { Reason::DiskFull } else { Reason::Internal })
    }

    /// A reason with the URL at fault.
    pub fn at(reason: Reason, url: &str) -> Self {
        Self { reason, url: Some(url.to_owned()) }
    }
}

impl ToCause for StoreError {
    fn to_cause(&self) -> FailureCause {
        let reason = match self {
            Self::Missing { .. } | Self::Unsignable { .. } => Reason::CredentialsMissing,
            Self::Denied { .. } => Reason::AccessDenied,
            Self::ReadOnly { .. } => Reason::ReadOnly,
            Self::NoBucket { .. } => Reason::BucketMissing,
            Self::Absent { .. } => Reason::IndexDamaged,
            Self::Refused { .. } => Reason::StoreUnsupported,
            Self::Failed { .. } => Reason::Unreachable,
            // A kind that was added later: its message names the remedy.
            Self::Unusable { .. } | Self::BadKey { .. } | _ => Reason::InvalidURL,
        };
        FailureCause::at(reason, self.url())
    }
}

impl ToCause for CatalogError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Store(error) => error.to_cause(),
            Self::Rejected(rejected) => rejected.to_cause(),
            Self::Corrupt { key, .. } => FailureCause::at(Reason::IndexDamaged, key),
            Self::NewerFormat { key, .. } | Self::NewerWriter { key, .. } => {
                FailureCause::at(Reason::FormatTooNew, key)
            }
            Self::Conflicts { chain, .. } => FailureCause::at(Reason::Internal, chain),
            Self::Unknown { key, .. } | Self::TooLarge { key, .. } => FailureCause::at(Reason::Internal, key),
            _ => FailureCause::of(Reason::Internal),
        }
    }
}

impl ToCause for TransactionRejected {
    fn to_cause(&self) -> FailureCause {
        match self {
            // Of the floor: another index registered, or was looked at, since it was planned; or it was raised or moved.
            Self::Fenced { .. }
            | Self::ConsumerFenced { .. }
            | Self::FloorAboveIndex { .. }
            | Self::FloorChanged { .. }
            | Self::IndexIsWritten { .. } => FailureCause::of(Reason::Fenced),
            Self::ParameterDiffers { .. } => FailureCause::of(Reason::ParametersDiffer),
            // Nothing is recorded yet by which to go on.
            Self::ParameterUnusable { .. } | Self::NoParameters => FailureCause::of(Reason::ExpiryMissing),
            Self::LogMoved { claimed, .. } => FailureCause::at(Reason::LogMoved, claimed),
            Self::BelowFloor { .. } => FailureCause::of(Reason::BelowFloor),
            Self::NotRestored { .. } => FailureCause::of(Reason::NothingToPromote),
            Self::Closed { .. }
            | Self::Building { .. }
            | Self::NotBuilding { .. }
            | Self::Abandoned { .. }
            | Self::Purged { .. } => FailureCause::of(Reason::GenerationBusy),
            Self::OwnedByAnother { url, .. }
            | Self::OfAnotherLog { url, .. }
            | Self::PurgedForOwner { url, .. }
            | Self::Unclaimed { url }
            | Self::CopiesOfAnother { url, .. }
            | Self::Overlaps { url, .. } => FailureCause::at(Reason::OwnedByAnother, url),
            Self::FolderOfAnotherLog { .. }
            | Self::AnotherConsumer { .. }
            | Self::ConsumerOfEarlierIndex { .. }
            | Self::SecondCleaner { .. }
            | Self::FloorOfAnotherArchive { .. } => FailureCause::of(Reason::OwnedByAnother),
            Self::Pin { .. } => FailureCause::of(Reason::SpecInvalid),
            Self::PinChanged { .. } => FailureCause::of(Reason::PinChanged),
            _ => FailureCause::of(Reason::Internal),
        }
    }
}

impl ToCause for PublishError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Fenced { .. } => FailureCause::of(Reason::Fenced),
            Self::Rejected(rejected) => rejected.to_cause(),
            Self::Chain(error) => error.to_cause(),
            Self::Unknown { key, .. } => FailureCause::at(Reason::Internal, key),
            _ => FailureCause::of(Reason::Internal),
        }
    }
}

impl ToCause for ClockError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Store(error) => error.to_cause(),
            Self::Vanished { url, .. } => FailureCause::at(Reason::StoreUnsupported, url),
            _ => FailureCause::of(Reason::Internal),
        }
    }
}
