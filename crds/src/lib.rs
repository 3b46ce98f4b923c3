//! The resources of Tidemark's Kubernetes API: types, defaults, rules, names, and what their generated YAML holds.
//!
//! No client and no runtime: the operator, the command line and the tests share what is here. The doc comments of the
//! fields are the reference that `kubectl explain wal.spec` prints.

#[cfg(feature = "kinds")]
mod byte_size;
#[cfg(feature = "kinds")]
mod conditions;
#[cfg(feature = "kinds")]
mod crd;
#[cfg(feature = "kinds")]
mod generated;
#[cfg(feature = "kinds")]
mod kinds;
#[cfg(feature = "kinds")]
mod lint;
pub mod names;
mod pod_report;
#[cfg(feature = "kinds")]
mod pod_template;
mod reason;
#[cfg(feature = "kinds")]
mod schema;
#[cfg(feature = "kinds")]
mod storage;
mod task_result;
#[cfg(feature = "kinds")]
mod time_span;
#[cfg(feature = "kinds")]
mod wal;
#[cfg(feature = "kinds")]
mod web_origin;

#[cfg(feature = "kinds")]
pub use self::{
    byte_size::{ByteSize, ByteSizeError, parse_byte_size, parse_quantity_millis},
    conditions::{ConditionKind, ConditionStatus, ConditionType, condition, is_true, remove_condition, set_condition},
    crd::{CRD_VERSION, CRD_VERSION_ANNOTATION, SIZE_LIMIT, wal_crd, wal_crd_yaml},
    generated::{GeneratedFile, generated_files},
    kinds::{KINDS, ResourceKind},
    lint::{LintFinding, LintReport, SkippedDocument, lint},
    pod_template::{PodTemplate, PodTemplateRefusal, PodTemplateSettings},
    storage::{CaReference, CredentialsType, SecretReference, StorageCredentials, StorageSpec},
    time_span::{TimeSpan, TimeSpanError, parse_span},
    wal::{
        AuthType, CacheAccessMode, CacheClaimSpec, CacheClaimTemplate, CacheSizeError, CacheSpec, CompactionSpec,
        CursorStatus, DeletionPolicy, IndexPlace, IndexerRole, IndexerSpec, IndexerStatus, LogPlace, MetadataPlace,
        RoleSpec, SearchAuth, SearchSpec, SearchStatus, ServiceSpec, ServiceType, Wal, WalSpec, WalStatus,
    },
    web_origin::is_web_origin,
};
pub use self::{
    pod_report::{PodPhase, PodProblem, PodReport, StoreRole},
    reason::Reason,
    task_result::{MAX_RESULT_BYTES, RecoveryWindow, TaskFigures, TaskResult, TaskState},
};
