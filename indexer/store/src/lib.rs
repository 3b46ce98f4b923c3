#![doc = include_str!("../README.md")]

mod access;
mod azure;
mod bucket;
mod certificates;
mod chain;
mod clock;
mod configuration;
#[cfg(test)]
mod contract_tests;
mod credentials;
mod entropy;
mod environment;
mod errors;
mod folder;
mod gcs;
mod http;
mod keys;
mod last_present;
mod list;
mod location;
#[doc(hidden)]
pub mod mutants;
mod object;
mod object_versions;
mod open;
mod overlap;
mod probe;
mod provider_client;
mod read;
mod reloading_store;
mod renewed_credential;
mod request_counter;
mod retry;
mod s3;
mod scheme;
mod sign;
mod signed_url;
mod store;
mod time;
mod write;

pub use access::{StoreAccess, StoreSettings};
pub use chain::{
    AppendOnlyChain, BOUNDARY_CHECK_INTERVAL, ChainError, ChainInspection, ChainObjectName, ChainRecord, ChainState,
    InvariantViolation, RECORD_RETENTION, RecordVersions, StateExtensions,
};
pub use clock::{ClockError, ClockReading, MAX_ESTIMATE_AGE, StoreClock};
pub use configuration::{ConfiguredValue, StoreConfiguration};
pub use entropy::Entropy;
pub use environment::StoreEnvironment;
pub use errors::{StoreError, error_chain};
pub use last_present::last_present;
pub use object::{Create, ObjectInfo, StoredObject, UserMetadata};
pub use object_versions::{ListVersions, ObjectVersion, VersionPage};
pub use overlap::urls_overlap;
pub use probe::{ProbeCheck, ProbeReport, ProbeVerdict, probe_store};
pub use request_counter::RequestCounter;
pub use sign::SignedPut;
pub use signed_url::{SignedPutResponse, UrlSigner, put_signed};
pub use store::Store;
pub use time::StoreSecond;
